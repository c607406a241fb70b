from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from mll_hf.utils import images
from mll_hf.utils.images import image_files, open_image, to_rgb, why_unreadable
from worlds import encoded


def gray(values, dtype):
    return Image.fromarray(np.array(values, dtype))


# ---- decoding


def test_pictures_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    upright = open_image(encoded(image, "PNG", exif=exif))
    assert upright.size == (10, 20)
    assert (upright.getpixel((5, 2)), upright.getpixel((5, 17))) == ((255, 0, 0), (0, 0, 255))


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "I", "F", "I;16", "I;16B"]
)
def test_any_mode_becomes_rgb(mode):
    image = to_rgb(Image.new(mode, (3, 2)))
    assert (image.mode, image.size) == ("RGB", (3, 2))


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("RGBA", (1, 1), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (1, 1), (0, 0, 0, 255)), (0, 0, 0)),
        (Image.new("RGBA", (1, 1), (255, 0, 0, 128)), (255, 127, 127)),
        (Image.new("LA", (1, 1), (0, 0)), (255, 255, 255)),
        (Image.new("LA", (1, 1), (9, 255)), (9, 9, 9)),
        (Image.new("PA", (1, 1), (0, 0)), (255, 255, 255)),
    ],
)
def test_transparency_is_laid_on_white(image, pixel):
    assert to_rgb(image).getpixel((0, 0)) == pixel


@pytest.mark.parametrize(("mode", "clear"), [("RGB", (1, 2, 3)), ("L", 7), ("P", 0)])
def test_a_transparent_color_is_laid_on_white(mode, clear):
    image = open_image(encoded(Image.new(mode, (2, 2), clear), transparency=clear))
    assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("image", "levels"),
    [
        (gray([[0, 32768, 65535]], np.uint16), [0, 127, 255]),
        (gray([[0, 100, 255]], np.int32), [0, 100, 255]),
        (gray([[0, 32768, 65535]], np.int32), [0, 127, 255]),
        (gray([[-5, 0, 70000]], np.int32), [0, 0, 255]),
        (gray([[0, 100, 255]], np.float32), [0, 100, 255]),
        (gray([[0, 500, 1000]], np.float32), [0, 127, 255]),
        (gray([[0, 0.5, 1]], np.float32), [0, 127, 255]),
        (gray([[-100, 100, 300]], np.float32), [0, 127, 255]),
        (gray([[np.nan, 100, 255]], np.float32), [0, 100, 255]),
    ],
)
def test_deep_gray_keeps_its_levels(image, levels):
    assert [to_rgb(image).getpixel((x, 0))[0] for x in range(3)] == levels


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "TGA", "ICO", "JPEG2000", "DDS"])
def test_damage_never_raises(kind):
    content, rng, failed = encoded(PHOTO, kind), np.random.default_rng(1), 0
    for _ in range(120):
        damaged = bytearray(content)
        for at in rng.integers(0, min(len(content), int(rng.choice([30, 200, 10**6]))), 3):
            damaged[at] = rng.integers(256)
        image = open_image(bytes(damaged[: rng.integers(1, len(damaged) + 1)]))
        assert image is None or image.mode == "RGB"
        failed += image is None
    assert failed


# ---- folders


KINDS = {"bmp": "BMP", "gif": "GIF", "heic": "HEIF", "avif": "AVIF", "jpg": "JPEG", "jp2": "JPEG2000", "PNG": "PNG",
         "ppm": "PPM", "tga": "TGA", "tiff": "TIFF", "webp": "WEBP", "heif": "HEIF"}  # fmt: skip


def test_of_a_folder_of_twelve_formats_nothing_is_skipped_in_silence(tmp_path, caplog, monkeypatch):
    register_heif_opener()
    (tmp_path / "more").mkdir()
    for suffix, kind in KINDS.items():
        (tmp_path / "more" / f"photo.{suffix}").write_bytes(encoded(PHOTO, kind))
    found = image_files([tmp_path])
    assert len(found) == len(KINDS)
    for path in found:
        image = open_image(path)
        assert (image.mode, image.size) == ("RGB", PHOTO.size)
        assert np.abs(np.array(image).mean(axis=(0, 1)) - np.array(PHOTO).mean(axis=(0, 1))).max() <= 8
    assert not caplog.messages
    hidden = tmp_path / ".thumbnails"
    hidden.mkdir()
    for name in (".DS_Store", ".thumbnails/a.jpg", "notes.txt", "drawing.svg"):
        (tmp_path / name).write_bytes(b"x")
    assert image_files([tmp_path]) == found
    assert caplog.messages == [
        f"left out of {tmp_path}: 2 hidden (.DS_Store, .thumbnails/a.jpg), 2 not named like images "
        "(drawing.svg, notes.txt)"
    ]


def test_the_reason_is_said(tmp_path, monkeypatch):
    broken = tmp_path / "broken.jpg"
    broken.symlink_to(tmp_path / "nowhere")
    assert image_files([tmp_path]) == [broken]
    assert why_unreadable(encoded(Image.new("1", (1, 300)))) == "too elongated, 1 x 300 pixels"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for image, reason in (
        (broken, "a broken link"),
        (tmp_path / "none.png", "No such file or directory"),
        (b"", "an empty file"),
        (b"GIF", "not an image, or of an unknown format"),
        (encoded(PHOTO), "more than 0 million pixels"),
        (encoded(PHOTO.resize((9, 9)))[:-60], "damaged: "),
    ):
        assert open_image(image) is None
        assert why_unreadable(image).startswith(reason)


def test_a_missing_package_is_named(monkeypatch):
    register_heif_opener()
    heic = encoded(PHOTO, "HEIF")
    monkeypatch.setattr(images, "_register_heif", lambda: False)
    monkeypatch.setattr(images, "open_header", lambda content: Image.open(io.BytesIO(content), formats=["PNG"]))
    assert why_unreadable(heic) == "HEIC needs a package: pip install pillow-heif"
