"""Prepare batches of images in threads, ahead of the model, and embed them."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mll_hf.utils.images import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from mll_hf.models.torch_model import VisionLanguageModel

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
_BATCHES_AHEAD = 2


def in_threads(prepare: Callable[[Item], Prepared], batches: Iterable[Sequence[Item]]) -> Generator[list[Prepared]]:
    """Prepare the items of each batch in threads, two batches ahead of the caller. Decoding releases the GIL."""
    pool = ThreadPoolExecutor(usable_cores(), initializer=_use_one_torch_thread)
    ahead: deque[Iterator[Prepared]] = deque()
    try:
        for batch in batches:
            ahead.append(pool.map(prepare, batch))  # starts at once
            if len(ahead) > _BATCHES_AHEAD:
                yield list(ahead.popleft())
        while ahead:
            yield list(ahead.popleft())
    finally:
        # Without waiting: the garbage collector may drop this generator in a thread that holds locks of threading.
        pool.shutdown(wait=False, cancel_futures=True)


def encode(model: VisionLanguageModel, inputs: Sequence[torch.Tensor | None], batch_size: int) -> NDArray[np.float32]:
    """Embeddings [N, D] of prepared images, in batches; NaN where there is none."""
    import torch

    present = [n for n, each in enumerate(inputs) if each is not None]
    pixels = [each for each in inputs if each is not None]
    embeddings = np.full((len(inputs), model.embedding_size), np.nan, np.float32)
    for first in range(0, len(pixels), batch_size):
        part = slice(first, first + batch_size)
        embeddings[present[part]] = model.encode_pixels(torch.stack(pixels[part]))
    return embeddings


def _use_one_torch_thread() -> None:
    """Run this thread's tensor operations on this thread only.

    Otherwise each decoding thread starts a thread pool, whose busy waiting slows the model down (a small model on two
    cores by a factor of four).
    """
    import torch

    torch.set_num_threads(1)
