"""What examples say about models: counts of right answers, and their product with what was believed before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.selection import Basis, Estimate
from mll_hf.selection.examples import count_right, update_with_examples
from mll_hf.selection.probabilities import logit, sigmoid
from mll_hf.selection.unlabeled import Calibration
from worlds import examples


def calibration_of(temperatures, offsets):
    """A calibration; examples need no more of it than this."""
    temperatures, offsets = np.array(temperatures, np.float64), np.array(offsets, np.float64)
    none, shares = np.zeros(len(temperatures)), np.full(offsets.shape[1], 1 / offsets.shape[1])
    return Calibration(20, (), temperatures, offsets, none, none, shares)


def learned(prior, right, n, models=None):
    right = np.atleast_1d(np.array(right, np.float64))
    return update_with_examples(prior, range(len(right)) if models is None else models, right, n)


def test_right_answers_by_hand():
    logits = np.array([[[8.0, 4.0, 0.0], [0.0, 2.0, 3.0]], [[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]]])
    calibration = calibration_of([4.0, 1.0], [[0, 0, 0], [0, 0, 0.5]])
    right = count_right(logits, np.array([0, 2]), calibration)
    # the first model wins by 1 and by 1/4; the second one loses by 1/2 and by 49.5
    expected = [1 / (1 + np.exp(-3)) + 1 / (1 + np.exp(-0.75)), 1 / (1 + np.exp(1.5))]
    np.testing.assert_allclose(right, expected, atol=1e-12)


@examples
@given(st.integers(0, 1000))
def test_counts_are_those_of_sure_answers_and_the_logits_stay_as_they_were(seed):
    rng = np.random.default_rng(seed)
    answers, classes = rng.integers(0, 4, (3, 20)), rng.integers(0, 4, 20)
    logits = (30 * np.eye(4)[answers] + rng.normal(size=(3, 20, 4))).astype(np.float32)
    before = logits.copy()
    calibration = calibration_of(np.ones(3), np.zeros((3, 4)))
    right = count_right(logits, classes, calibration)
    np.testing.assert_allclose(right, (answers == classes).sum(axis=1), atol=0.05)
    np.testing.assert_array_equal(logits, before)


def of_two_classes(odds, right):
    """Logits [1, N, 2] of a model that answers with these log odds, and the true classes."""
    answers = np.arange(len(odds)) % 2
    logits = np.where(np.arange(2) == answers[:, None], odds[:, None], 0.0)[None]
    return logits, np.where(right, answers, 1 - answers)


@examples
@given(st.integers(0, 1000))
def test_the_count_is_carried_over_to_images_without_a_class_by_one_shift(seed):
    rng = np.random.default_rng(seed)
    odds = rng.uniform(0.1, 3, 60)
    logits, classes = of_two_classes(odds, rng.random(60) < 0.7)
    calibration, n = calibration_of([1.0], [[0.0, 0.0]]), 20
    carried = count_right(logits, classes[:n], calibration)[0] / n
    counted = count_right(logits[:, :n], classes[:n], calibration)[0] / n
    shifts = np.linspace(-10, 10, 20_001)[:, None]
    shift = np.interp(counted, sigmoid(odds[:n] + shifts).mean(axis=1), shifts[:, 0])
    assert carried == pytest.approx(sigmoid(odds + shift).mean(), abs=1e-5)


@pytest.mark.parametrize("right", [0.0, 0.3, 12.5, 40, 50])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-2.0, 0.5), (1.5, 2.0)])
def test_one_model_against_the_density_on_a_grid(right, mean, deviation):
    after = learned(Estimate(np.array([mean]), np.array([[deviation**2]])), right, 50)
    grid = np.linspace(-15, 15, 300_001)
    accuracy = sigmoid(grid)
    log_density = right * np.log(accuracy) + (50 - right) * np.log1p(-accuracy)
    log_density -= (grid - mean) ** 2 / (2 * deviation**2)
    top = log_density.argmax()
    assert after.mean[0] == pytest.approx(grid[top], abs=1e-4)
    curvature = -np.diff(log_density[top - 1 : top + 2], 2)[0] / (grid[1] - grid[0]) ** 2
    assert after.errors[0] == pytest.approx(curvature**-0.5, rel=1e-2)
    density = np.exp(log_density - log_density[top])
    expected = (density * accuracy).sum() / density.sum()
    assert after.accuracy[0] == pytest.approx(expected, abs=0.02)


def test_examples_join_what_was_known_and_more_of_them_count_more():
    prior = Estimate.independent(logit(np.array([0.5, 0.5]), 0.01), np.full(2, 0.5))
    few, more, many = (learned(prior, [0.8 * n, 0.5 * n], n) for n in (10, 50, 100_000))
    assert few.basis is Basis.EXAMPLES
    assert 0.5 < few.accuracy[0] < more.accuracy[0] < many.accuracy[0] == pytest.approx(0.8, abs=1e-3)
    assert (np.diff([estimate.errors[0] for estimate in (prior, few, more, many)]) < 0).all()
