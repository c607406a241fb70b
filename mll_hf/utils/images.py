"""Decode images from anywhere to RGB."""

from __future__ import annotations

import io
import os
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# what Pillow's decoders are known to raise on damaged bytes, besides DecompressionBombError
_DECODING_ERRORS = (
    OSError, ValueError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError, AssertionError, EOFError,
    struct.error,
)  # fmt: skip


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
