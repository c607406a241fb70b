"""What unlabeled images tell: against naive loops and by hand, and what changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import naive_evidence
from mll_hf.errors import InputError
from mll_hf.selection import Basis, Shares
from mll_hf.selection.probabilities import mutual_information, softmax
from mll_hf.selection.task import MIN_IMAGES, check_image_count
from mll_hf.selection.unlabeled import (
    calibrate,
    compare_models,
    estimate_from_agreement,
    image_scale,
    n_to_combine,
    pooling_weights,
)
from worlds import examples

few_examples = settings(examples, max_examples=25)


@st.composite
def trials(draw, most_images=MIN_IMAGES + 5, most_classes=5):
    """Logits [M, N, C] of models of unlike scale, lean and skill on images of random classes, and their prior [M]."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n_models, n_classes = draw(st.integers(1, 4)), draw(st.integers(1, most_classes))
    n_images = draw(st.integers(MIN_IMAGES, most_images))
    return random_logits(rng, n_models, n_images, n_classes), rng.random(n_models)


def random_logits(rng, n_models=3, n_images=40, n_classes=4):
    shown = np.eye(n_classes)[rng.integers(n_classes, size=n_images)]
    skill, lean, scale = rng.uniform(0, 4, n_models), rng.uniform(0, 2, n_models), rng.uniform(0.2, 5, n_models)
    logits = skill[:, None, None] * shown + rng.normal(size=(n_models, n_images, n_classes))
    logits += lean[:, None, None] * rng.normal(size=(n_models, 1, n_classes))
    return scale[:, None, None] * logits


def logits_that_answer(answers, n_classes, margin=10.0):
    """[N, C] logits of a model that gives these answers, and is sure of each."""
    return margin * np.eye(n_classes)[answers]


def test_mutual_information_by_hand():
    # sure of each of two classes: ln 2; sure of one class always: 0; never sure: 0
    sure, stuck, unsure = [[1, 0], [0, 1]], [[1, 0], [1, 0]], [[0.5, 0.5], [0.5, 0.5]]
    # (.8, .2) and (.4, .6): the mean (.6, .4) has .673012 nats, they have .500402 and .673012, .586707 on average
    some = [[0.8, 0.2], [0.4, 0.6]]
    told = mutual_information(np.array([sure, stuck, unsure, some]))
    np.testing.assert_allclose(told, [math.log(2), 0, 0, 0.673012 - 0.586707], atol=2e-6)


def test_image_scale_by_hand():
    # the identity less a half everywhere: all four deviations are one half
    assert image_scale(np.eye(2)[None]).tolist() == [0.5]
    # what holds for an image or a class alone does not count: 5 for the first image, 7 for the second class
    assert image_scale(np.eye(2)[None] + [[5, 12], [0, 7]]).tolist() == [0.5]
    np.testing.assert_allclose(image_scale(np.stack([np.eye(2), 30 * np.eye(2)])), [0.5, 15])


def biased_logits(answers, n_classes, n_models=5, bias=2.0, seed=0):
    """[M, N, C] logits of models that are often right, with a preference of each for classes of its own."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n_models, len(answers), n_classes))
    return logits_that_answer(answers, n_classes, 3) + noise + bias * rng.normal(size=(n_models, 1, n_classes))


@pytest.mark.parametrize("seed", range(3))
def test_shares_follow_what_models_agree_on(seed):
    frequent, equal = np.repeat(np.arange(8), [170, *[10] * 7]), np.repeat(np.arange(8), 30)
    for right, most_wrong in ((frequent, 0.5), (equal, 0.25)):
        logits = biased_logits(right, 8, seed=seed)
        true = np.bincount(right, minlength=8) / len(right)
        calibration, _ = calibrate(logits, np.full(5, 0.5))
        assert np.abs(calibration.shares - true).sum() < most_wrong
        assert (calibration.shares[0] > 0.4) == (true[0] > 0.4)
        alone = (logits.argmax(axis=2) == right).mean()
        scaled = logits / calibration.temperatures[:, None, None] + calibration.offsets[:, None, :]
        assert (scaled.argmax(axis=2) == right).mean() > alone + 0.1
    # with equal shares most images of the frequent class would go to others
    forced, _ = calibrate(biased_logits(frequent, 8, seed=seed), np.full(5, 0.5), Shares.EQUAL)
    scaled = biased_logits(frequent, 8, seed=seed) / forced.temperatures[:, None, None] + forced.offsets[:, None, :]
    assert (scaled.argmax(axis=2) == frequent).mean() < 0.5


@examples
@given(trials(most_images=MIN_IMAGES))
def test_log_ratio_and_confirmation_against_a_naive_loop(trial):
    logits, weights = trial
    shares = np.full(logits.shape[2], 1 / logits.shape[2])
    found = compare_models(softmax(logits), shares, weights)
    expected = naive_evidence.compare_models(softmax(logits).tolist(), shares.tolist(), weights.tolist())
    np.testing.assert_allclose(found[0], expected[0], atol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-9)


@pytest.mark.parametrize(
    ("gaps", "combined"), [([0], 1), ([0, 0], 2), ([0, 0.1], 1), ([0, 0.01, 0.02, 0.02], 3), ([0, 0.04, 0.06], 2)]
)
def test_models_about_as_good_are_combined(gaps, combined):
    # ln 4 / (12 ln 10) = .050: what quarters a weight
    for n_first in range(len(gaps)):
        assert n_to_combine(0.7 - np.roll(gaps, n_first), 10) == combined


@examples
@given(
    scores=hnp.arrays(np.float64, st.integers(1, 6), elements=st.floats(-1, 1.1)), n_classes=st.sampled_from([1, 2, 9])
)
def test_pooling_weights_against_a_naive_loop(scores, n_classes):
    weights = pooling_weights(scores, n_classes)
    np.testing.assert_allclose(weights, naive_evidence.pooling_weights(scores.tolist(), n_classes), atol=1e-12)
    assert weights.sum() == pytest.approx(1)


@few_examples
@given(trials())
def test_calibration_against_a_naive_loop(trial):
    logits, prior = trial
    temperatures, offsets, told, agrees, shares, _ = naive_evidence.calibrate(logits.tolist(), prior.tolist())
    found, _ = calibrate(logits, prior)
    np.testing.assert_allclose(found.temperatures, temperatures, rtol=1e-9, atol=1e-11)
    if logits.shape[2] > 1:  # one class has no scale, and so no logits that compare
        np.testing.assert_allclose(found.offsets, offsets, atol=1e-7)
    np.testing.assert_allclose(found.information, told, atol=1e-9)
    np.testing.assert_allclose(found.agreement, agrees, atol=1e-7)
    np.testing.assert_allclose(found.shares, shares, atol=1e-9)


@pytest.mark.parametrize("n_images", [1, MIN_IMAGES - 1])
def test_too_few_images(n_images):
    with pytest.raises(InputError, match=f"^{n_images} readable images are too few .* give at least 16$"):
        calibrate(np.zeros((2, n_images, 3)), np.zeros(2))
    with pytest.raises(InputError):
        check_image_count(n_images)
    check_image_count(MIN_IMAGES)


@examples
@given(trial=trials(), data=st.data())
def test_permuted_images_classes_and_models_give_permuted_evidence(trial, data):
    logits, prior = trial
    models, images, classes = (list(data.draw(st.permutations(range(size)))) for size in logits.shape)
    before, _ = calibrate(logits, prior)
    after, _ = calibrate(logits[models][:, images][:, :, classes], prior[models])
    np.testing.assert_allclose(after.temperatures, before.temperatures[models], atol=1e-9)
    np.testing.assert_allclose(after.information, before.information[models], atol=1e-9)
    if logits.shape[2] > 1:
        np.testing.assert_allclose(after.offsets, before.offsets[models][:, classes], atol=1e-6)


def test_estimated_accuracy_rises_with_confirmation_and_is_surer_with_more_images():
    calibration, confirmation = calibrate(random_logits(np.random.default_rng(0)), np.zeros(3))
    found = estimate_from_agreement(calibration, confirmation)
    assert found.basis is Basis.IMAGES
    assert not found.known.any()
    expected = -0.38 + 0.79 * np.log(confirmation / (1 - confirmation))
    expected += 0.28 * np.log(calibration.agreement / (1 - calibration.agreement))
    np.testing.assert_allclose(found.mean, expected)
    p = found.accuracy
    np.testing.assert_allclose(found.errors, np.sqrt(0.36 + 1 / (40 * p * (1 - p))))


@pytest.mark.parametrize("kind", ["alike", "unsure", "sure", "one class"])
def test_extreme_logits_give_finite_answers(kind):
    n_classes = 1 if kind == "one class" else 3
    logits = np.random.default_rng(0).normal(size=(4, 1, n_classes)).repeat(33, axis=1)
    if kind == "unsure":
        logits = np.zeros((4, 19, 3))
    if kind == "sure":
        logits = np.tile(1e4 * np.eye(3)[np.arange(33) % 3], (4, 1, 1))
    calibration, confirmation = calibrate(logits, np.full(4, 0.5))
    for values in (calibration.information, calibration.agreement, calibration.shares, confirmation):
        assert np.isfinite(values).all()
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()
    assert np.isfinite(calibration.applied(logits)).all()
    assert np.isfinite(estimate_from_agreement(calibration, confirmation).covariance).all()
    assert not np.signbit(calibration.information).any()  # or "-0.000" is printed
