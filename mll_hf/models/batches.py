"""Feed images to a model without letting it wait."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from mll_hf.utils.images import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    import torch
    from numpy.typing import NDArray

    Chunk = tuple[torch.Tensor | None, list[bool]]

Item = TypeVar("Item")
_CHUNK = 32  # images that a thread or process prepares at a time
_CHUNKS_AHEAD = 16


def prepared_batches(
    batches: Iterable[Sequence[Item]],
    prepare: Callable[[Item], torch.Tensor | None],
    *,
    processes: int = 0,
    pinned: bool = False,
) -> Iterator[tuple[torch.Tensor | None, NDArray[np.bool_]]]:
    """Prepare images ahead of the model, which finds its next batch ready.

    Threads do where the model runs on the CPU, since decoding and resizing release the interpreter's lock. They do not
    keep a GPU busy: what does not release it adds up. Processes do.

    Args:
        batches: Items of each batch; at least one item each.
        prepare: Gives the model's input for an item, [3, H, W], or None if its image cannot be decoded.
        processes: How many worker processes prepare; 0 for threads. Processes are forked where that is possible;
            elsewhere items and `prepare` must be picklable.
        pinned: Put batches into page-locked memory, from which a GPU copies while it computes.

    Yields:
        The inputs of a batch stacked [n, 3, H, W] (None if there are none), and which items they are for [B].
    """
    sizes: deque[int] = deque()

    def chunks() -> Iterator[Sequence[Item]]:
        for batch in batches:
            parts = [batch[first : first + _CHUNK] for first in range(0, len(batch), _CHUNK)]
            sizes.append(len(parts))
            yield from parts

    work = _Preparation(prepare)
    prepare_all = partial(_in_processes, processes=processes) if processes else _in_threads
    with contextlib.closing(prepare_all(chunks(), work)) as prepared:
        for chunk in prepared:
            yield _joined([chunk, *islice(prepared, sizes.popleft() - 1)], pinned)


def in_background(items: Iterator[Item], ahead: int = 1) -> Generator[Item]:
    """Draw items in a thread of their own, a few ahead of whoever uses them; errors reach the user.

    The items are closed, in their thread, when the user stops early.
    """
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: Item | None, error: BaseException | None = None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((item, error), timeout=0.1)
                return

    def draw() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    break
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


class _Preparation(Generic[Item]):
    """Prepares chunks of items: a `Dataset` of torch, whose keys are the items themselves."""

    def __init__(self, prepare: Callable[[Item], torch.Tensor | None]) -> None:
        self._prepare = prepare

    def __getitem__(self, chunk: Sequence[Item]) -> Chunk:
        import torch

        inputs = [self._prepare(item) for item in chunk]
        present = [item for item in inputs if item is not None]
        return (torch.stack(present) if present else None), [item is not None for item in inputs]


def _in_threads(chunks: Iterator[Sequence[Item]], work: _Preparation[Item]) -> Generator[Chunk]:
    pool = ThreadPoolExecutor(max_workers=usable_cores(), initializer=_use_one_torch_thread)
    try:
        ahead: deque[Future[Chunk]] = deque()
        for chunk in chunks:
            ahead.append(pool.submit(work.__getitem__, chunk))
            if len(ahead) > _CHUNKS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _in_processes(chunks: Iterator[Sequence[Item]], work: _Preparation[Item], *, processes: int) -> Generator[Chunk]:
    """As threads, by torch's loader: its sampler may hand out anything, so it hands out the items themselves."""
    import torch.multiprocessing
    from torch.utils.data import DataLoader

    fork = "fork" in torch.multiprocessing.get_all_start_methods()
    yield from DataLoader(
        work,  # type: ignore[arg-type]
        sampler=chunks,
        batch_size=None,
        num_workers=processes,
        multiprocessing_context="fork" if fork else None,
    )


def _joined(chunks: Sequence[Chunk], pinned: bool) -> tuple[torch.Tensor | None, NDArray[np.bool_]]:
    import torch

    present = np.array([is_present for _, mask in chunks for is_present in mask])
    inputs = [tensor for tensor, _ in chunks if tensor is not None]
    if not inputs:
        return None, present
    shape = (int(present.sum()), *inputs[0].shape[1:])
    return torch.cat(inputs, out=torch.empty(shape, dtype=inputs[0].dtype, pin_memory=pinned)), present


def _use_one_torch_thread() -> None:
    """Keep this thread's small tensor operations on this thread.

    Otherwise each decoding thread gets a team of its own, which spins while it waits and takes the cores from the model
    (on two cores a small model ran at a quarter of its speed).
    """
    import torch

    torch.set_num_threads(1)
