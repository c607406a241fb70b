"""Images to label, with weights that make up for how they were drawn, and images that resemble no class."""

from __future__ import annotations

import numpy as np
import pytest

from mll_hf.errors import InputError
from mll_hf.selection import Head
from mll_hf.selection.fit import fit
from mll_hf.selection.result import resemblance
from mll_hf.selection.suggest import effective_counts, suggest

PREDICTED = np.random.default_rng(0).dirichlet(np.full(4, 0.3), 200)


def test_weighted_suggestions_estimate_shares_better_than_random_images():
    is_certain = PREDICTED.max(axis=1) > 0.8
    truth = np.mean(is_certain)
    estimates, shares = [], []
    for seed in range(500):
        drawn, weights = suggest(PREDICTED, 20, seed)
        assert len(set(drawn.tolist())) == 20
        assert weights.mean() == pytest.approx(1)
        estimates.append((weights * is_certain[drawn]).mean())
        shares.append(is_certain[drawn].mean())
    error = np.sqrt(truth * (1 - truth) / 20)  # of random images
    assert abs(np.mean(estimates) - truth) < 0.15 * error
    assert np.std(estimates) < 0.8 * error
    assert np.mean(shares) < truth - 0.5 * error  # those that are uncertain are drawn more often


def test_all_images_and_numbers_that_are_impossible():
    np.testing.assert_array_equal(suggest(PREDICTED, 200)[0], np.arange(200))
    np.testing.assert_array_equal(suggest(PREDICTED, 200)[1], 1)
    for count in (0, 201):
        with pytest.raises(InputError, match=f"{count} images to label .* of 200; choose 1 to 200"):
            suggest(PREDICTED, count)


def _world(seed):
    """A head, images of 3 of 4 classes with the examples first, their classes, and images of the fourth."""
    rng = np.random.default_rng(seed)
    texts = np.linalg.qr(rng.normal(size=(32, 4)))[0].T
    images = np.repeat(texts, 60, axis=0) + 0.12 * rng.normal(size=(240, 32))
    images = (images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32)
    order = rng.permutation(180)
    return Head.zero_shot(texts[:3], 10.0), images[order], np.repeat(np.arange(3), 60)[order], images[180:]


def test_the_number_right_is_weighted():
    head, images, classes, _ = _world(0)
    found = fit([images], [head], classes[:20], weights=np.ones(20))
    doubled = fit([images], [head], classes[:20], weights=np.full(20, 2.0))
    np.testing.assert_allclose(found.right, fit([images], [head], classes[:20]).right)
    np.testing.assert_allclose(found.right, doubled.right)
    weights = np.r_[np.full(10, 3.0), np.ones(10)]
    assert effective_counts(weights).sum() == pytest.approx(40**2 / 100)
    wrong = np.r_[(classes[:10] + 1) % 3, classes[10:20]]  # the first ten are not what they look like
    right = fit([images], [head], wrong, weights=weights).right / effective_counts(weights).sum()
    assert right[0, 0] == pytest.approx(10 / 40, abs=0.02)


def test_images_of_no_class_resemble_none():
    head, images, _, others = _world(1)
    found = fit([images[:120]], [head])
    own, threshold = images[120:], np.quantile(resemblance(found.held_out, found.weights), 0.1)
    kept, rejected = (
        resemblance(found.heads[0].logits(each)[None], found.weights) >= threshold for each in (own, others)
    )
    assert kept.mean() > 0.75
    assert rejected.mean() < 0.1
