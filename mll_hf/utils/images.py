"""Find images in folders, and decode images to RGB."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.utils.text import normalized_name

if TYPE_CHECKING:
    from PIL import Image

    ImageLike = str | Path | bytes | Image.Image

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# raised by Pillow on damaged images, in addition to DecompressionBombError
DECODING_ERRORS = (
    OSError, ValueError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError, AssertionError, EOFError,
    struct.error, MemoryError,
)  # fmt: skip
_MAX_ASPECT_RATIO = 256  # models enlarge the short side, so that more elongated images exhaust the memory


def usable_cores() -> int:
    """Number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def images_by_class(folder: Path) -> dict[str, list[Path]]:
    """Images in a folder with one subfolder per class, sorted; other files, hidden files and empty folders are ignored.

    Names of classes are those of the subfolders, normalized: two spellings of a name are one class.

    Raises:
        OSError: A folder cannot be read.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and (files := _images_in(path)):
            found.setdefault(normalized_name(path.name), []).extend(files)
    return found


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def is_image(value: object) -> bool:
    """Whether this can be an image: a path, encoded bytes or a PIL image; arrays have no known color order."""
    return isinstance(value, (str, Path, bytes)) or hasattr(value, "convert")


def is_one_image(images: object) -> bool:
    """Whether this is a single image; a dataset may have only ``__getitem__``, a PIL image has neither."""
    is_iterable = hasattr(images, "__iter__") or hasattr(images, "__getitem__")
    return isinstance(images, (str, bytes, Mapping)) or not is_iterable


def open_image(source: ImageLike) -> Image.Image | None:
    """Read and decode an image (a path, encoded bytes, or a PIL image); None if it cannot be read or decoded."""
    if isinstance(source, (str, Path)):
        try:
            source = Path(source).read_bytes()
        except (OSError, ValueError):  # ValueError: invalid characters in the path
            return None
    return decode_image(source)


def decode_image(content: bytes | Image.Image | None) -> Image.Image | None:
    """Decode an image (bytes, or a PIL image) to RGB and rotate it by EXIF; None if not decodable or too elongated."""
    from PIL import Image, ImageOps

    try:
        image = content if isinstance(content, Image.Image) else Image.open(io.BytesIO(content or b""))
        if max(image.size) > _MAX_ASPECT_RATIO * min(image.size):
            return None
        return to_rgb(ImageOps.exif_transpose(image))
    except (*DECODING_ERRORS, Image.DecompressionBombError):
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB. Transparent images get a white background, which suits icons and clip art."""
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
    """Scale 16-bit, 32-bit and float grayscale to 8 bits, where ``convert`` would clip at 255."""
    from PIL import Image

    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode != "F" and values.max(initial=0) > 255 else max(255.0, float(values.max(initial=0)))
    return Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8)).convert("RGB")
