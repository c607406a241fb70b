"""Prepare batches of images ahead of the model."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from mll_hf.utils.images import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    import torch
    from numpy.typing import NDArray

    Chunk = tuple[NDArray[Any] | None, list[bool]]

Item = TypeVar("Item")
MAX_PROCESSES = 16
_CHUNK = 32  # images per task of a thread or process
_CHUNKS_AHEAD = 16
_PARENT_CHECK_SECONDS = 1.0


class Decoders(Generic[Item]):
    """Threads or processes that decode and preprocess images for one model, over any number of runs of batches.

    Threads are enough on a CPU, because decoding and resizing release the GIL. A GPU needs processes to stay busy. They
    are forked once and send their results through pipes, because Docker limits shared memory to 64 MB. Where processes
    cannot be forked, threads are used.

    Args:
        prepare: Returns the model's input for an item, or None if its image cannot be decoded.
        processes: Number of processes, capped at 16; 0 for threads.
    """

    def __init__(self, prepare: Callable[[Item], torch.Tensor | None], processes: int = 0) -> None:
        self._pool: Executor
        self._chunks_ahead = _CHUNKS_AHEAD
        if processes and "fork" in multiprocessing.get_all_start_methods():
            processes = min(processes, MAX_PROCESSES)
            fork = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(processes, fork, initializer=_start_process, initargs=(prepare,))
            self._pool.submit(use_one_torch_thread).result()  # forks all processes now, before more threads start
            self._work: Callable[[Sequence[Item]], Chunk] = _prepared_in_process
            self._chunks_ahead = 2 * processes
        else:
            self._pool = ThreadPoolExecutor(usable_cores(), initializer=use_one_torch_thread)
            self._work = lambda chunk: _prepared(prepare, chunk)

    def batches(
        self, batches: Iterable[Sequence[Item]], *, pinned: bool = False
    ) -> Generator[tuple[torch.Tensor | None, NDArray[np.bool_]]]:
        """Prepare batches ahead of the model.

        Args:
            batches: Items of each batch, at least one.
            pinned: Use page-locked memory, from which a GPU copies while it computes.

        Yields:
            The inputs of a batch [n, 3, H, W] (None if n is 0), and which of its items they belong to, [B] boolean.

        Raises:
            BrokenExecutor: A process died.
        """
        sizes: deque[int] = deque()

        def chunks() -> Iterator[Sequence[Item]]:
            for batch in batches:
                size = min(_CHUNK, -(-len(batch) // usable_cores()))  # a small batch keeps all cores busy
                parts = [batch[first : first + size] for first in range(0, len(batch), size)]
                sizes.append(len(parts))
                yield from parts

        with contextlib.closing(self._prepared(chunks())) as prepared:
            for chunk in prepared:
                yield _joined([chunk, *islice(prepared, sizes.popleft() - 1)], pinned)

    def close(self) -> None:
        """Stop the threads or processes."""
        self._pool.shutdown(cancel_futures=True)

    def _prepared(self, chunks: Iterator[Sequence[Item]]) -> Generator[Chunk]:
        prepared: deque[Future[Chunk]] = deque()
        try:
            for chunk in chunks:
                prepared.append(self._pool.submit(self._work, chunk))
                if len(prepared) > self._chunks_ahead:
                    yield prepared.popleft().result()
            while prepared:
                yield prepared.popleft().result()
        finally:
            for future in prepared:
                future.cancel()


def in_background(items: Iterator[Item]) -> Generator[Item]:
    """Iterate in a background thread, two items ahead; errors are raised in the calling thread."""
    end = object()
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        ready = deque(pool.submit(next, items, end) for _ in range(2))
        while (item := ready.popleft().result()) is not end:
            ready.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(cancel_futures=True)
        if isinstance(items, Generator):
            items.close()


def _prepared(prepare: Callable[[Item], torch.Tensor | None], chunk: Sequence[Item]) -> Chunk:
    inputs = [prepare(item) for item in chunk]
    present = [item.numpy() for item in inputs if item is not None]
    return (np.stack(present) if present else None), [item is not None for item in inputs]


_prepare_in_process: Callable[
    [Any], torch.Tensor | None
]  # set in a forked process, since closures cannot be sent to it


def _start_process(prepare: Callable[[Any], torch.Tensor | None]) -> None:
    global _prepare_in_process
    _prepare_in_process = prepare
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    use_one_torch_thread()


def _exit_with_parent(parent: int) -> None:
    """Exit when the parent process is gone; if the parent is killed, this process would otherwise wait forever."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)


def _prepared_in_process(chunk: Sequence[Any]) -> Chunk:
    return _prepared(_prepare_in_process, chunk)


def _joined(chunks: Sequence[Chunk], pinned: bool) -> tuple[torch.Tensor | None, NDArray[np.bool_]]:
    import torch

    present = np.array([is_present for _, mask in chunks for is_present in mask])
    inputs = [torch.from_numpy(array) for array, _ in chunks if array is not None]
    if not inputs:
        return None, present
    shape = (int(present.sum()), *inputs[0].shape[1:])
    return torch.cat(inputs, out=torch.empty(shape, dtype=inputs[0].dtype, pin_memory=pinned)), present


def use_one_torch_thread() -> None:
    """Run this thread's tensor operations on this thread only.

    Otherwise each decoding thread starts a thread pool, whose busy waiting slows the model down (a small model on two
    cores by a factor of four).
    """
    import torch

    torch.set_num_threads(1)
