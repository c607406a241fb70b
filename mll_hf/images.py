"""Decoding pictures that come from anywhere, and feeding them to a model without letting it wait."""

from __future__ import annotations

import io
import os
import struct
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    import torch
    from numpy.typing import NDArray
    from PIL import Image

    Prepared = list[torch.Tensor | None]

Item = TypeVar("Item")
_BATCHES_AHEAD = 3
_CHUNK = 32
# what Pillow's decoders are known to raise on damaged bytes, besides DecompressionBombError
_DECODING_ERRORS = (
    OSError, ValueError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError, AssertionError, EOFError,
    struct.error,
)  # fmt: skip


def prepared_batches(
    batches: Iterable[Sequence[Item]], prepare: Callable[[Item], torch.Tensor | None]
) -> Iterator[tuple[torch.Tensor | None, NDArray[np.bool_]]]:
    """Prepare a few batches ahead of the model, in threads: decoding and resizing release the interpreter lock.

    Args:
        batches: Items of each batch.
        prepare: Gives the model's input for an item, [3, H, W], or None if its image cannot be decoded.

    Yields:
        The inputs of a batch stacked [n, 3, H, W] (None if there are none), and which items they are for [B].
    """
    pool = ThreadPoolExecutor(max_workers=usable_cores(), initializer=_use_one_torch_thread)

    def submit(batch: Sequence[Item]) -> list[Future[Prepared]]:
        chunks = [batch[i : i + _CHUNK] for i in range(0, len(batch), _CHUNK)]
        return [pool.submit(lambda part: [prepare(item) for item in part], chunk) for chunk in chunks]

    try:
        ahead: deque[list[Future[Prepared]]] = deque()
        for batch in batches:
            ahead.append(submit(batch))
            if len(ahead) > _BATCHES_AHEAD:
                yield _stack(ahead.popleft())
        while ahead:
            yield _stack(ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _stack(parts: list[Future[Prepared]]) -> tuple[torch.Tensor | None, NDArray[np.bool_]]:
    import torch

    inputs = [item for part in parts for item in part.result()]
    present = [item for item in inputs if item is not None]
    return (torch.stack(present) if present else None), np.array([item is not None for item in inputs])


def _use_one_torch_thread() -> None:
    """Keep this thread's small tensor operations on this thread.

    Otherwise each decoding thread gets a team of its own, which spins while it waits and takes the cores from the model
    (on two cores a small model ran at a quarter of its speed).
    """
    import torch

    torch.set_num_threads(1)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_image(content: bytes | Image.Image | None) -> Image.Image | None:
    """Decode a picture (encoded, or opened by Pillow) to RGB, upright; None if it cannot be decoded."""
    from PIL import Image, ImageOps

    try:
        image = content if isinstance(content, Image.Image) else Image.open(io.BytesIO(content or b""))
        return to_rgb(ImageOps.exif_transpose(image))
    except (*_DECODING_ERRORS, Image.DecompressionBombError):
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB. Transparency is laid on white: icons and clip art are drawn for white pages."""
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _to_eight_bits(image)
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float gray to 8 bits; a plain conversion would clip at 255."""
    from PIL import Image

    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode != "F" and values.max(initial=0) > 255 else max(255.0, float(values.max(initial=0)))
    return Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8)).convert("RGB")
