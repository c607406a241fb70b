"""Processes that decode images for a GPU, and the log of embeddings."""

import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from mll_hf.errors import ModelError
from mll_hf.labeling.encoding import EmbeddingLog, embedded
from mll_hf.labels.label import ModelRef
from mll_hf.models import batches
from worlds import SHA, encoded


def embeddings_of(rows):
    """Unit vectors that say which image they are of."""
    angles = np.asarray(rows, np.float32)
    return np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda content: content, 6),
        (lambda content: content[:24] + bytes(24) + content[48:], 2),
        (lambda content: content[:28] + bytes(6) + content[34:], 2),
        (lambda content: content[:40], 3),
        (lambda _: b"", 0),
    ],
    ids=["nothing", "zeros", "half an embedding", "the end", "all"],
)
def test_a_log_goes_on_before_what_a_power_cut_damaged(tmp_path, damage, kept):
    log, embeddings = EmbeddingLog(tmp_path / "a.log", 3), embeddings_of(range(6))
    embeddings[1] = np.nan  # undecodable
    for part in np.split(embeddings, [2]):
        with log.writing() as write:
            write(part)
    log.file.write_bytes(damage(log.file.read_bytes()))  # an embedding is 12 bytes
    np.testing.assert_array_equal(log.embeddings(), embeddings[:kept])
    with log.writing() as write:
        write(embeddings[kept:])
    np.testing.assert_array_equal(log.embeddings(), embeddings)


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


@pytest.fixture
def on_gpu(monkeypatch):
    joined = batches._joined
    monkeypatch.setattr(batches, "_joined", lambda chunks, pinned: joined(chunks, pinned=False))  # needs a driver
    return lambda images, batch_size: embedded(OnGpu(), images.batches(batch_size), 1)


class Images:
    def __init__(self, *colors):
        self.contents = [
            b"no picture" if color is None else encoded(Image.new("RGB", (2, 2), color)) for color in colors
        ]

    def batches(self, batch_size):
        return (self.contents[n : n + batch_size] for n in range(0, len(self.contents), batch_size))


def test_images_for_a_gpu_are_decoded_in_processes_and_stay_bytes(on_gpu):
    colors = [(n, 2, 3) for n in range(5)]
    embeddings, undecodable = on_gpu(Images(*colors, None), 3)
    np.testing.assert_array_equal(embeddings, colors[:3])
    assert np.isnan(undecodable[2]).all()


def test_a_killed_process_is_a_failure_of_one_model(on_gpu):
    with pytest.raises(ModelError, match=r"^model 'org/model': a process that decodes images was killed"):
        list(on_gpu(Images((1, 2, 3), KILLING), 1))
