from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from mll_hf.errors import LabelError
from mll_hf.labels.file_format import embeddings_from_bytes, tensors_to_bytes
from mll_hf.labels.label import ProbeEmbeddings
from worlds import examples, probe_set, unit


def some(n_images=6, n_concepts=4, seed=0):
    rng = np.random.default_rng(seed)
    probes = probe_set([[0, 1, 2], [3], [], [1, 4, 5]], [0] * n_images)
    return ProbeEmbeddings.quantize(
        unit(rng.normal(size=(n_images, 5))), unit(rng.normal(size=(n_concepts, 5))), probes
    )


def assert_same(left, right):
    for f in fields(ProbeEmbeddings):
        np.testing.assert_array_equal(getattr(left, f.name), getattr(right, f.name), err_msg=f.name)
        assert getattr(left, f.name).dtype == getattr(right, f.name).dtype


# ---- quantization


@examples
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_embeddings_are_kept_to_half_a_step(seed, size):
    rng = np.random.default_rng(seed)
    images = unit(rng.normal(size=(6, size)) * rng.lognormal(sigma=3, size=(6, size)))
    images[2] = np.nan
    stored = ProbeEmbeddings.quantize(images, images[:1], probe_set([range(6)], [0] * 6))
    restored = stored.images * stored.scales[:, None]
    seen = [0, 1, 3, 4, 5]
    assert (np.abs(restored - images)[seen] <= 0.501 * stored.scales[seen, None]).all()
    assert (np.abs(stored.images[seen].astype(int)).max(axis=1) == 127).all()
    assert stored.scales[2] == 0
    assert not stored.images[2].any()


# ---- files


LABEL = SimpleNamespace(ranks=np.zeros((4, 14)))


def test_round_trip():
    for embeddings in (some(), replace(some(), images=np.asfortranarray(some().images))):
        assert_same(embeddings_from_bytes(tensors_to_bytes(embeddings), LABEL), some())


@pytest.mark.parametrize(
    "changes",
    [
        {"images": np.zeros((6, 5), np.float32)},
        {"images": np.zeros((6, 4), np.int8)},
        {"images": np.zeros(6, np.int8)},
        {"scales": np.full(6, np.nan, np.float32)},
        {"concepts": np.full((4, 5), np.inf, np.float16)},
        {"concepts": np.zeros((3, 5), np.float16)},
        {"offsets": np.array([0, 4, 3, 4, 7])},
        {"offsets": np.array([0, 3, 4, 4, 8])},
        {"members": np.array([0, 1, 2, 3, 1, 4, 6])},
        {"members": np.array([0, 1, 2, 3, 1, 4, -1])},
        {"members": None},
        {"more": np.zeros(3)},
    ],
    ids=str,
)
def test_contradictions(changes):
    tensors = load(tensors_to_bytes(some())) | changes
    content = save({name: array for name, array in tensors.items() if array is not None})
    with pytest.raises(LabelError, match="not the embeddings of its label") as caught:
        embeddings_from_bytes(content, LABEL, "here")
    assert "\n" not in str(caught.value)
    assert caught.value.place == "here"
