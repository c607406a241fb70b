from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from mll_hf.models.batches import in_background, prepared_batches
from mll_hf.utils.images import decode_image, to_rgb, usable_cores
from worlds import examples


def encoded(image, kind="PNG", **options):
    content = io.BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()


def gray(values, dtype):
    return Image.fromarray(np.array(values, dtype))


# ---- decoding


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO"])
def test_formats(kind):
    image = decode_image(encoded(Image.new("RGB", (20, 16), (200, 30, 90)), kind))
    assert image.mode == "RGB"
    assert np.abs(np.array(image).astype(int) - [200, 30, 90]).max() <= 8
    assert kind == "ICO" or image.size == (20, 16)


def test_pictures_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    upright = decode_image(encoded(image, "PNG", exif=exif))
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
    image = decode_image(encoded(Image.new(mode, (2, 2), clear), transparency=clear))
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
    ],
)
def test_deep_gray_keeps_its_levels(image, levels):
    assert [to_rgb(image).getpixel((x, 0))[0] for x in range(3)] == levels


def test_rgb_is_left_alone():
    image = Image.new("RGB", (2, 2))
    assert to_rgb(image) is image


@pytest.mark.parametrize(
    "content", [None, b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", b"BM"]
)
def test_what_is_no_picture(content):
    assert decode_image(content) is None


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "TGA", "ICO", "JPEG2000", "DDS"])
def test_damage_never_raises(kind):
    content, rng, failed = encoded(PHOTO, kind), np.random.default_rng(1), 0
    for _ in range(120):
        damaged = bytearray(content)
        for at in rng.integers(0, min(len(content), int(rng.choice([30, 200, 10**6]))), 3):
            damaged[at] = rng.integers(256)
        image = decode_image(bytes(damaged[: rng.integers(1, len(damaged) + 1)]))
        assert image is None or image.mode == "RGB"
        failed += image is None
    assert failed


def test_a_truncated_picture_is_no_picture():
    for kind in ("PNG", "JPEG", "WEBP"):
        content = encoded(PHOTO, kind)
        assert decode_image(content[: len(content) // 2]) is None


@pytest.mark.parametrize(
    "error",
    [
        *(OSError, ValueError, SyntaxError, RuntimeError, IndexError, KeyError, TypeError, ZeroDivisionError, EOFError),
        *(UnidentifiedImageError, OverflowError, Image.DecompressionBombError, NotImplementedError, AssertionError),
    ],
)
def test_decoders_may_raise_all_sorts(monkeypatch, error):
    def fail(*_):
        raise error("damaged")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    assert decode_image(encoded(PHOTO)) is None


def test_picture_bombs():
    header = b"\x89PNG\r\n\x1a\n" + PngImagePlugin.__name__.encode()
    assert decode_image(header) is None
    ppm = b"P6 100000 100000 255\n"
    assert decode_image(ppm) is None


# ---- batches


def tensor_of(item):
    return None if item is None else torch.full((3, 2, 2), float(item))


@examples
@given(st.lists(st.lists(st.none() | st.integers(0, 99), min_size=1, max_size=70), max_size=7))
def test_batches_keep_their_items_in_order(batches):
    prepared = list(prepared_batches(iter(batches), tensor_of))
    assert len(prepared) == len(batches)
    for batch, (inputs, present) in zip(batches, prepared, strict=True):
        assert present.tolist() == [item is not None for item in batch]
        known = [item for item in batch if item is not None]
        assert (inputs is None) == (not known)
        if known:
            assert inputs.shape == (len(known), 3, 2, 2)
            assert inputs[:, 0, 0, 0].tolist() == known


@pytest.mark.parametrize("batches", [[[3], [None, 7, None], [None], list(range(70)), [1, 2]]])
def test_processes_prepare_the_same_as_threads(batches):
    threads = list(prepared_batches(iter(batches), tensor_of))
    processes = list(prepared_batches(iter(batches), tensor_of, processes=2))
    for (expected, present), (inputs, present_too) in zip(threads, processes, strict=True):
        np.testing.assert_array_equal(present, present_too)
        assert (inputs is None) == (expected is None)
        if inputs is not None:
            assert torch.equal(inputs, expected)


def test_an_error_in_a_process_reaches_the_caller():
    def fail(item):
        raise ArithmeticError(f"item {item}")

    with pytest.raises(ArithmeticError, match="item 5"):
        list(prepared_batches([[5]], fail, processes=1))


def test_a_background_thread_gives_the_same_items_and_errors():
    def failing():
        yield from range(3)
        raise ArithmeticError("three")

    assert list(in_background(iter(range(50)))) == list(range(50))
    items = in_background(failing())
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ArithmeticError, match="three"):
        next(items)


def test_a_background_thread_ends_with_its_user():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = in_background(endless())
    assert next(items) == 1
    items.close()
    assert closed.wait(5)


def test_only_a_few_batches_are_prepared_ahead():
    drawn = []

    def batches():
        for number in range(100):
            drawn.append(number)
            yield [number]

    for number, _ in enumerate(prepared_batches(batches(), tensor_of)):
        assert len(drawn) <= number + 18


def test_a_small_batch_is_prepared_by_all_threads(monkeypatch):
    monkeypatch.setattr("mll_hf.models.batches.usable_cores", lambda: 3)
    together = threading.Barrier(3, timeout=20)

    def prepare(item):
        together.wait()
        return tensor_of(item)

    ((inputs, _),) = prepared_batches([[1, 2, 3]], prepare, ahead=3)
    assert inputs[:, 0, 0, 0].tolist() == [1, 2, 3]


def test_an_error_reaches_the_caller_and_threads_end():
    def fail(item):
        if item == 5:
            raise ArithmeticError("five")
        return tensor_of(item)

    before = threading.active_count()
    with pytest.raises(ArithmeticError, match="five"):
        list(prepared_batches(([number] for number in range(100)), fail))
    batches = prepared_batches(([number] for number in range(100)), tensor_of)
    next(batches)
    batches.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_usable_cores():
    assert usable_cores() >= 1
