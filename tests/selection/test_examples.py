"""Examples update an estimate."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mll_hf.selection import Basis, Estimate
from mll_hf.selection.probabilities import logit, sigmoid
from mll_hf.selection.with_images import after_fit, update_with_examples


def learned(prior, right, n, models=None):
    right = np.atleast_1d(np.array(right, np.float64))
    return update_with_examples(prior, range(len(right)) if models is None else models, right, n)


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


def test_results_tell_less_where_the_names_are_left_out():
    found = SimpleNamespace(right=np.full((3, 2), 20.0), strengths=np.array([0.1, 1.0]), n_effective=25.0)
    after = after_fit(Estimate.independent(np.zeros(2), np.full(2, 2.0)), found)
    assert after.errors[1] > 1.4 * after.errors[0]
    unlabeled = SimpleNamespace(right=None)
    assert after_fit(after, unlabeled) is after
