"""Find images in folders, and decode images to RGB."""

from __future__ import annotations

import io
import logging
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.utils.text import abridged, normalized_name, one_line, shortened

if TYPE_CHECKING:
    from PIL import Image

    ImageLike = str | Path | bytes | Image.Image

IMAGE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tga", ".tif",
    ".tiff", ".webp",
})  # fmt: skip
_log = logging.getLogger(__name__)

# raised by Pillow on damaged images, in addition to DecompressionBombError
DECODING_ERRORS = (
    OSError, ValueError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError, AssertionError, EOFError,
    struct.error, MemoryError,
)  # fmt: skip
_MAX_ASPECT_RATIO = 256  # models enlarge the short side, so that more elongated images exhaust the memory


def usable_cores() -> int:
    """Number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The given images and the images in the given folders and their subfolders, without duplicates.

    An InputError if a path does not exist, or a folder has no image.
    """
    files: list[Path] = []
    for path in paths:
        found = images_in(path) if os.path.isdir(path) else [path]  # unlike Path.is_dir, raises nothing
        if not found or not os.path.lexists(found[0]):
            raise InputError(f"{shortened(str(path), 200)} is neither an image nor a folder of images; check the path")
        files.extend(found)
    return list(dict.fromkeys(files))


def images_by_class(folder: Path) -> dict[str, list[Path]]:
    """Images in a folder with one subfolder per class, sorted; an OSError if a folder cannot be read.

    Names of classes are those of the subfolders, normalized: two spellings of a name are one class.
    """
    found: dict[str, list[Path]] = {}
    if beside := [path for path in sorted(folder.iterdir()) if not path.is_dir() or path.name.startswith(".")]:
        _log.warning("left out of %s, beside its folders: %s", folder, abridged([path.name for path in beside], 3))
    for path in sorted(folder.iterdir()):
        if path not in beside and (files := images_in(path)):
            found.setdefault(normalized_name(path.name), []).extend(files)
    return found


def images_in(folder: Path) -> list[Path]:
    """Images in a folder and its subfolders, sorted; a warning names the other files, with the reason."""
    images: list[Path] = []
    others: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir():
            continue
        if any(part.startswith(".") for part in name.parts):
            others.setdefault("hidden", []).append(str(name))
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        else:
            others.setdefault("not named like images", []).append(str(name))
    if others:
        reasons = [f"{len(names)} {reason} ({abridged(names, 3)})" for reason, names in others.items()]
        _log.warning("left out of %s: %s", folder, ", ".join(reasons))
    return images


def is_image(value: object) -> bool:
    """Whether this can be an image: a path, encoded bytes or a PIL image; arrays have no known color order."""
    return isinstance(value, (str, Path, bytes)) or hasattr(value, "convert")


def is_one_image(images: object) -> bool:
    """Whether this is a single image; a dataset may have only ``__getitem__``, a PIL image has neither."""
    is_iterable = hasattr(images, "__iter__") or hasattr(images, "__getitem__")
    return isinstance(images, (str, bytes, Mapping)) or not is_iterable


def open_image(source: ImageLike | None) -> Image.Image | None:
    """Read an image (a path, encoded bytes, or a PIL image), decode it to RGB and rotate it by EXIF.

    None if there is none, or it cannot be read or decoded, or is too elongated.
    """
    found = _read(source or b"")
    return None if isinstance(found, str) else found


def why_unreadable(source: ImageLike) -> str:
    """Why :func:`open_image` returns None."""
    found = _read(source)
    return found if isinstance(found, str) else "it cannot be read with this much memory"


def warn_of_unreadable(images: Sequence[ImageLike], what: str = "images") -> None:
    """Warn of images that cannot be read, with the reasons of the first."""
    if images:
        names = [str(image) if isinstance(image, (str, Path)) else "an image without a path" for image in images]
        reasons = [f"{name} ({why_unreadable(image)})" for name, image in zip(names[:3], images, strict=False)]
        more = f" and {len(images) - 3} more" if len(images) > 3 else ""
        _log.warning("left out %d unreadable of the %s: %s%s", len(images), what, ", ".join(reasons), more)


def _read(source: ImageLike) -> Image.Image | str:
    """The decoded image, or why it cannot be read."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        content = Path(source).read_bytes() if isinstance(source, (str, Path)) else source
    except OSError as error:
        return "a broken link" if os.path.islink(str(source)) else str(error.strerror)
    except ValueError:
        return "its path has an invalid character"
    try:
        image = content if isinstance(content, Image.Image) else open_header(content)
        if max(image.size) > _MAX_ASPECT_RATIO * min(image.size):
            return f"too elongated, {image.size[0]} x {image.size[1]} pixels"
        return to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
    except UnidentifiedImageError:
        return _unidentified(content)
    except DECODING_ERRORS as error:
        return f"damaged: {one_line(error, 80)}"


def open_header(content: bytes, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Read the header of an encoded image; HEIC, too, with ``pillow-heif``. Raises what Pillow raises."""
    from PIL import Image

    _register_heif()
    return Image.open(io.BytesIO(content), formats=formats and installed(formats))


def installed(formats: tuple[str, ...]) -> list[str]:
    """Those of these formats that can be read here: Pillow fails on the name of any other."""
    from PIL import Image

    _register_heif()
    Image.init()
    return [each for each in formats if each in Image.OPEN]


@cache
def _register_heif() -> bool:
    """Whether HEIC can be read."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _unidentified(content: bytes | Image.Image) -> str:
    kind = content[4:12] if isinstance(content, bytes) else b""
    if kind.startswith(b"ftypavif"):
        return "AVIF needs a later Pillow: pip install -U pillow"
    if kind.startswith(b"ftyp") and not _register_heif():
        return "HEIC needs a package: pip install pillow-heif"
    return "not an image, or of an unknown format" if content else "an empty file"


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB. Transparent images get a white background, which suits icons and clip art."""
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _to_eight_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float grayscale to 8 bits, where ``convert`` would clip at 255.

    Floats in 0 to 1 and 0 to 255 are taken as such; others, such as heights, are scaled from the lowest to the highest.
    """
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    low, high = 0.0, float(values.max(initial=0))
    if image.mode != "F":
        high = 65535.0 if high > 255 else 255.0
    elif values.min(initial=0) >= 0 and high <= 255:
        high = 1.0 if high <= 1 else 255.0
    else:
        low = float(values.min(initial=0))
    return Image.fromarray(np.clip((values - low) / (high - low) * 255, 0, 255).astype(np.uint8)).convert("RGB")
