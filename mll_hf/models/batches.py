"""Prepare batches of images ahead of the model."""

from __future__ import annotations

import contextlib
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
_CHUNK = 32  # images per task of a thread or process
_CHUNKS_AHEAD = 16


def prepared_batches(
    batches: Iterable[Sequence[Item]],
    prepare: Callable[[Item], torch.Tensor | None],
    *,
    processes: int = 0,
    pinned: bool = False,
    ahead: int = _CHUNKS_AHEAD * _CHUNK,
) -> Generator[tuple[torch.Tensor | None, NDArray[np.bool_]]]:
    """Decode and preprocess images ahead of the model.

    Threads are enough on a CPU, because decoding and resizing release the GIL. A GPU needs processes to stay busy.

    Args:
        batches: Items of each batch, at least one.
        prepare: Returns the model's input for an item, [3, H, W], or None if its image cannot be decoded.
        processes: Number of worker processes; 0 for threads. Where processes cannot be forked, items and `prepare`
            must be picklable.
        pinned: Use page-locked memory, from which a GPU copies while it computes.
        ahead: Number of images that threads prepare ahead of the model.

    Yields:
        The inputs of a batch [n, 3, H, W] (None if n is 0), and which of its items they belong to, [B] boolean.
    """
    sizes: deque[int] = deque()

    def chunks() -> Iterator[Sequence[Item]]:
        for batch in batches:
            share = -(-len(batch) // usable_cores())  # of a thread in a small batch
            size = _CHUNK if processes else min(_CHUNK, share)
            parts = [batch[first : first + size] for first in range(0, len(batch), size)]
            sizes.append(len(parts))
            yield from parts

    work = _Preparation(prepare)
    prepare_all = partial(_in_processes, processes=processes) if processes else partial(_in_threads, ahead=ahead)
    with contextlib.closing(prepare_all(chunks(), work)) as prepared:
        for chunk in prepared:
            yield _joined([chunk, *islice(prepared, sizes.popleft() - 1)], pinned)


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


class _Preparation(Generic[Item]):
    """Prepares chunks of items. Also a torch `Dataset` whose keys are the chunks themselves."""

    def __init__(self, prepare: Callable[[Item], torch.Tensor | None]) -> None:
        self._prepare = prepare

    def __getitem__(self, chunk: Sequence[Item]) -> Chunk:
        import torch

        inputs = [self._prepare(item) for item in chunk]
        present = [item for item in inputs if item is not None]
        return (torch.stack(present) if present else None), [item is not None for item in inputs]


def _in_threads(chunks: Iterator[Sequence[Item]], work: _Preparation[Item], *, ahead: int) -> Generator[Chunk]:
    pool = ThreadPoolExecutor(max_workers=usable_cores(), initializer=_use_one_torch_thread)
    try:
        prepared: deque[Future[Chunk]] = deque()
        waiting: deque[int] = deque()  # images of each
        for chunk in chunks:
            prepared.append(pool.submit(work.__getitem__, chunk))
            waiting.append(len(chunk))
            if sum(waiting) > ahead or len(waiting) > _CHUNKS_AHEAD:
                waiting.popleft()
                yield prepared.popleft().result()
        while prepared:
            yield prepared.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _in_processes(chunks: Iterator[Sequence[Item]], work: _Preparation[Item], *, processes: int) -> Generator[Chunk]:
    """Prepare chunks in processes, with torch's loader: the sampler yields the chunks themselves."""
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
    """Run this thread's tensor operations on this thread only.

    Otherwise each decoding thread starts a thread pool, whose busy waiting slows the model down (a small model on two
    cores by a factor of four).
    """
    import torch

    torch.set_num_threads(1)
