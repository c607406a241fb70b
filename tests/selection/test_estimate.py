"""Estimates: the Gaussian, what updates it, and when an accuracy is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.selection import Basis, Estimate
from mll_hf.selection.probabilities import sigmoid
from worlds import examples

Z = 1.6448536


def test_accuracies_and_intervals_by_hand():
    estimate = Estimate.independent(np.array([0.0, 2.0]), np.array([1.0, 0.0]))
    np.testing.assert_allclose(estimate.accuracy, sigmoid(np.array([0.0, 2.0])))
    low, high = estimate.interval
    assert [low.tolist(), high.tolist()] == [
        [0.16, 0.88],
        [0.84, 0.89],
    ]  # rounded outward
    assert sigmoid(np.array([-Z, Z])).round(3).tolist() == [0.162, 0.838]
    assert estimate.known.tolist() == [False, True]  # .16 to .84 is wider than .6
    assert [estimate.text(m) for m in (0, 1)] == ["not known", "88 % (88 to 89 %)"]


def test_unlabeled_images_make_no_accuracy_known():
    for basis, is_known in ((Basis.NAMES, True), (Basis.IMAGES, False), (Basis.EXAMPLES, True)):
        assert Estimate.independent(np.ones(2), np.full(2, 0.1), basis).known.tolist() == [is_known] * 2


@examples
@given(seed=st.integers(0, 10_000), n_models=st.integers(1, 5), n_observed=st.integers(1, 5))
def test_updates_are_those_of_precision_matrices(seed, n_models, n_observed):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n_models, n_models))
    estimate = Estimate(rng.normal(size=n_models), factors @ factors.T + 0.3 * np.eye(n_models))
    models = rng.permutation(n_models)[:n_observed].tolist()
    mean, errors, common = (
        rng.normal(size=len(models)),
        rng.uniform(0.2, 2, len(models)),
        rng.uniform(0, 1, len(models)),
    )
    found = estimate.update(models, mean, errors, Basis.IMAGES, common)
    design = np.eye(n_models)[models]
    noise = np.linalg.inv(np.diag(errors**2) + np.outer(common, common))
    precision = np.linalg.inv(estimate.covariance) + design.T @ noise @ design
    expected = np.linalg.solve(precision, np.linalg.solve(estimate.covariance, estimate.mean) + design.T @ noise @ mean)
    np.testing.assert_allclose(found.mean, expected, atol=1e-6)
    np.testing.assert_allclose(found.covariance, np.linalg.inv(precision), atol=1e-6)
    assert (found.errors <= estimate.errors + 1e-9).all()
    assert found.basis is Basis.IMAGES


def test_models_in_another_order():
    estimate = Estimate(np.array([0.0, 1.0, 2.0]), np.arange(9.0).reshape(3, 3) + 9 * np.eye(3), Basis.EXAMPLES)
    taken = estimate.subset([2, 0])
    assert taken.mean.tolist() == [2, 0]
    assert taken.covariance.tolist() == [[17, 6], [2, 9]]
    assert taken.basis is Basis.EXAMPLES
    assert estimate.subset([1, 0, 2]).at_most_first().mean.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="read-only"):
        estimate.mean[0] = 3
