"""Processes that decode images for a GPU, and the log of embeddings."""

import io
import os
import signal
from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mll_hf.errors import InputError, ModelError
from mll_hf.labeling.encoding import EmbeddingLog, decoders_for, encoded_images, locked
from mll_hf.labels.label import ModelRef
from mll_hf.models import batches
from worlds import SHA, examples

KEY = {"model": "a"}


def embeddings_of(rows):
    """Unit vectors that say which row they are of."""
    angles = np.asarray(rows, np.float32)
    return np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)


def open_log(folder, key=KEY):
    return EmbeddingLog.open(folder, key, 3)


def stored(log, rows):
    return (log.positions(np.asarray(rows)) >= 0).tolist()


@examples
@given(st.data())
def test_written_embeddings_are_found_in_any_order(tmp_path_factory, data):
    log = open_log(tmp_path_factory.mktemp("log"))
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, 60), min_size=1))))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(rows)), max_size=4)))
    parts = data.draw(st.permutations(np.split(rows, cuts)))
    written = []
    for part in parts:
        if not len(part):
            continue
        with log.writing() as write:
            write(part, embeddings_of(part))
        written += part.tolist()
        assert stored(log, np.arange(70)) == np.isin(np.arange(70), written).tolist()
    blocks = list(log.blocks(rows, 8))
    assert [start for start, _ in blocks] == list(range(0, len(rows), 8))
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), embeddings_of(rows))


def test_a_log_with_the_same_key_is_resumed_and_another_is_left_alone(tmp_path):
    log = open_log(tmp_path / "log")
    with log.writing() as write:
        write(np.array([0, 1]), embeddings_of([0, 1]))
    assert stored(open_log(tmp_path / "log", {"model": "b"}), [0, 1]) == [False, False]
    assert stored(open_log(tmp_path / "log"), [0, 1, 2]) == [True, True, False]


def test_embeddings_of_another_run_are_never_taken_for_those_of_this_one(tmp_path):
    log = open_log(tmp_path / "log")
    with log.writing() as write:
        write(np.array([0, 1]), embeddings_of([0, 1]))
        other = open_log(tmp_path / "log", {"model": "b"})
        with other.writing() as write_other:
            write_other(np.array([0]), embeddings_of([5]))
    np.testing.assert_array_equal(next(log.blocks(np.array([0, 1]), 2))[1], embeddings_of([0, 1]))
    with pytest.raises(InputError, match="another run labels the same model"):  # incomplete
        next(other.blocks(np.array([0, 1]), 2))


def test_a_folder_is_used_by_one_run_at_a_time(tmp_path):
    with locked(tmp_path / "parts" / "log"):
        with pytest.raises(InputError, match="another run labels the same model"), locked(tmp_path / "parts" / "log"):
            pytest.fail("two runs")
        (tmp_path / "parts" / "log" / "kept").touch()
    assert (tmp_path / "parts" / "log" / "kept").exists()
    with locked(tmp_path / "parts" / "log"):
        (tmp_path / "parts" / "log" / "kept").unlink()
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda content: content[:40] + bytes(40) + content[80:], [True, True, False, False, True, True]),
        (lambda content: content[:48] + bytes(6) + content[54:], [True, True, False, True, True, True]),
        (lambda content: content[:70], [True, True, True, False, False, False]),
        (lambda _: b"", [False] * 6),
    ],
    ids=["zeros", "half a record", "the end", "all"],
)
def test_records_that_a_power_cut_damaged_are_written_again(tmp_path, damage, kept):
    log, rows = open_log(tmp_path / "log"), np.arange(6)
    with log.writing() as write:
        write(rows, embeddings_of(rows))
    log.file.write_bytes(damage(log.file.read_bytes()))  # a record is 20 bytes
    assert stored(log, rows) == kept
    with log.writing() as write:
        missing = rows[~np.array(kept)]
        write(missing, embeddings_of(missing))
    np.testing.assert_array_equal(next(log.blocks(rows, 6))[1], embeddings_of(rows))


# ---- a GPU's processes


class OnGpu:
    """A model that seems to be on a GPU; an image that says so kills the process that decodes it."""

    ref, device, embedding_size, batch_size, dtype = ModelRef("org/model", SHA, "open_clip"), "cuda", 3, 4, "float16"

    def compact(self, image):
        if image.getpixel((0, 0)) == KILLING:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())

    def encode_pixels(self, pixels):
        assert pixels.dtype == torch.uint8
        return np.asarray(pixels[:, :, 0, 0], np.float32)


KILLING = (6, 6, 6)


def picture(color):
    content = io.BytesIO()
    Image.new("RGB", (2, 2), color).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def on_gpu(monkeypatch):
    joined = batches._joined
    monkeypatch.setattr(batches, "_joined", lambda chunks, pinned: joined(chunks, pinned=False))  # needs a driver
    model = OnGpu()
    with closing(decoders_for(model, 1)) as decoders:
        yield lambda images, batch_size: encoded_images(
            model, images, np.arange(len(images.contents)), batch_size, decoders
        )


class Images:
    def __init__(self, *colors):
        self.contents = [b"no picture" if color is None else picture(color) for color in colors]

    def iter_image_bytes(self, batch_size, images):
        yield from (self.contents[n : n + batch_size] for n in range(0, len(images), batch_size))


def test_images_for_a_gpu_are_decoded_in_processes_and_stay_bytes(on_gpu):
    colors = [(n, 2, 3) for n in range(5)]
    (first, embeddings), (second, undecodable) = on_gpu(Images(*colors, None), 3)
    assert (first.tolist(), second.tolist()) == ([0, 1, 2], [3, 4, 5])
    np.testing.assert_array_equal(embeddings, colors[:3])
    assert np.isnan(undecodable[2]).all()


def test_a_killed_process_is_a_failure_of_one_model(on_gpu):
    with pytest.raises(ModelError, match=r"^model 'org/model': a process that decodes images was killed"):
        list(on_gpu(Images((1, 2, 3), KILLING), 1))
