"""Heads: zero-shot, and calibrated."""

from __future__ import annotations

import numpy as np

from mll_hf.selection import Head
from worlds import unit


def test_a_head_gives_the_calibrated_logits_of_its_model():
    rng = np.random.default_rng(0)
    texts, images = unit(rng.normal(size=(5, 16))), unit(rng.normal(size=(7, 16)))
    plain = 90 * images @ texts.T - 10
    head = Head.zero_shot(texts, 90.0, -10.0)
    assert (head.weights.dtype, head.bias.dtype, head.logits(images).dtype) == (np.float32,) * 3
    np.testing.assert_allclose(head.logits(images), plain, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(head.calibrated(3.0).logits(images), plain / 3, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(head.calibrated(1.0).logits(images), head.logits(images))
