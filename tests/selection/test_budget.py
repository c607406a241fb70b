"""A budgeted trial: what is tried next, when it stops, and what may go wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.errors import InputError
from mll_hf.selection import Basis, Estimate
from mll_hf.selection.budget import TYPICAL_ERROR, Shortlist, expected_gains, next_model, plan_trial, run_trial
from mll_hf.selection.probabilities import logit as clipped_logit
from mll_hf.selection.probabilities import sigmoid
from worlds import examples

GB = 10**9
NAMES = tuple(f"org/{letter}" for letter in "abcdefgh")


def logit(accuracy):
    return clipped_logit(accuracy, 0.02)


def prior_of(*accuracies, own=0.5, common=1.0):
    mean = logit(np.array(accuracies))
    return Estimate(mean, np.diag(np.full(len(mean), own**2)) + common**2)


def next_of(prior, sizes, remaining, tried, failed=()):
    """The model to try next with this number of bytes left."""
    budget = remaining + sum(sizes[m] for m in (*tried, *failed))
    return next_model(Shortlist(prior, sizes, budget), prior, tried, failed)


def shown(prior, accuracies):
    """What is estimated after models have shown their accuracies in a trial."""
    accuracies = np.array(accuracies)

    def estimated(tried):
        mean = logit(accuracies[list(tried)])
        return prior.update(tried, mean, np.full(len(tried), TYPICAL_ERROR), Basis.IMAGES)

    return estimated


@st.composite
def worlds(draw):
    """An estimate for models, their sizes in bytes, what they show, and a budget that at least one fits in."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n_models = draw(st.integers(1, 8))
    factors = rng.normal(size=(n_models, 3))
    prior = Estimate(rng.normal(size=n_models), factors @ factors.T + 0.3 * np.eye(n_models))
    sizes = [int(size) for size in rng.integers(0, 5, n_models) * rng.choice([1, 1000], n_models)]
    return prior, sizes, rng.uniform(0.05, 0.95, n_models), draw(st.integers(min(sizes), 6000))


@pytest.mark.parametrize("tried", [[0], [2, 0]])
def test_gains_against_simulation(tried):
    prior = Estimate(np.array([0.3, 0.1, -0.5]), np.array([[1.0, 0.6, 0.1], [0.6, 0.9, 0.2], [0.1, 0.2, 0.8]]))
    best, rng = tried[-1], np.random.default_rng(0)
    shows = rng.multivariate_normal(prior.mean, prior.covariance, size=4000) + TYPICAL_ERROR * rng.normal(
        size=(4000, 3)
    )
    gains = expected_gains(prior, tried)
    for m in set(range(3)) - set(tried):
        after = [prior.update([m], show[[m]], np.array([TYPICAL_ERROR]), Basis.IMAGES).mean for show in shows]
        spread = np.std([mean[m] - mean[best] for mean in after])
        shown = prior.mean[m] + spread * rng.standard_t(4, size=10**6) / np.sqrt(2)
        risen = np.maximum(sigmoid(shown) - sigmoid(prior.mean[best]), 0).mean()
        assert gains[m] == pytest.approx(risen, rel=0.05)
    assert (gains[tried] == 0).all()


def test_the_two_most_promising_models_are_fetched_first_and_then_gains_count_per_byte():
    prior = prior_of(0.8, 0.795, 0.79, 0.6, own=2.0)
    sizes = [4 * GB, 2 * GB, GB, GB // 2]
    assert next_of(prior, sizes, 10 * GB, []) == 0
    assert next_of(prior, [4 * GB, 2 * GB, GB, 0], 10 * GB, [3]) == 0
    assert next_of(prior, sizes, 10 * GB, [0]) == 1
    assert next_of(prior, [4 * GB, 8 * GB, 9 * GB, 0], 20 * GB, [3, 0]) == 1  # what is here was not fetched
    equal = prior_of(0.6, 0.6, 0.6, 0.5, own=2.0)
    assert next_of(equal, [GB, GB, 4 * GB, GB], 10 * GB, [0, 1]) == 3
    assert next_of(equal, [GB, GB, GB, GB], 10 * GB, [0, 1]) == 2
    assert next_of(prior, sizes, 3 * GB, []) == 1  # of those that fit
    assert next_of(prior, sizes, 3 * GB, [1]) == 2
    assert next_of(prior, sizes, 10 * GB, [], failed=[0]) == 1


def test_the_first_model_leaves_room_for_a_second():
    prior = prior_of(0.8, 0.79, 0.7, own=1.0)
    assert next_of(prior, [9 * GB, 4 * GB, 2 * GB], 10 * GB, []) == 1
    assert plan_trial(Shortlist(prior, [9 * GB, 4 * GB, 2 * GB], 10 * GB), NAMES).order == (1, 2)
    assert next_of(prior, [9 * GB, 4 * GB, GB], 10 * GB, []) == 0
    assert next_of(prior, [9 * GB, 8 * GB, 7 * GB], 10 * GB, []) == 0  # no two fit
    assert next_of(prior, [9 * GB, 8 * GB, 0], 10 * GB, [2]) == 0  # what is here is the second
    assert next_of(prior_of(0.8, 0.75, 0.7, own=1.0), [9 * GB, 4 * GB, 2 * GB], 10 * GB, []) == 0  # costs too much


def test_the_trial_stops_when_no_model_is_likely_to_be_better_or_none_fits():
    clear = prior_of(0.9, 0.3, 0.2)
    assert next_of(clear, [GB, GB, GB], 10 * GB, [0]) == 1  # a single model has none to agree with
    assert next_of(clear, [GB, GB, GB], 10 * GB, [0, 1]) is None
    assert next_of(clear, [GB, GB, 0], 10 * GB, [0, 1]) == 2  # what is here costs nothing
    assert next_of(clear, [GB, 0, 0], 0, []) == 1
    assert next_of(clear, [GB, GB, GB], GB - 1, []) is None
    assert next_of(clear, [0, 0, 0], 0, [0, 1], failed=[2]) is None


def test_a_model_that_fails_is_skipped_and_counts_as_fetched():
    prior, sizes = prior_of(0.8, 0.75, 0.7), [4 * GB, 4 * GB, 4 * GB]
    attempts = []

    def attempt(m):
        attempts.append(m)
        return m != 0

    believe = shown(prior, [0.8, 0.1, 0.7])
    assert run_trial(Shortlist(prior, sizes, 12 * GB), attempt, believe) == (1, 2)
    assert attempts == [0, 1, 2]
    assert run_trial(Shortlist(prior, sizes, 11 * GB), attempt, believe) == (1,)
    assert run_trial(Shortlist(prior, sizes, 12 * GB), lambda m: False, believe) == ()


@examples
@given(worlds())
def test_a_trial_stays_within_its_budget_and_within_its_plan(world):
    prior, sizes, accuracies, budget = world
    plan = plan_trial(Shortlist(prior, sizes, budget), NAMES)
    tried = run_trial(Shortlist(prior, sizes, budget), lambda m: True, shown(prior, accuracies))
    fetched = sum(sizes[m] for m in tried)
    assert fetched <= plan.most_bytes <= budget
    assert len(set(tried)) == len(tried) >= 1
    assert tried[0] == plan.order[0]
    as_expected = run_trial(Shortlist(prior, sizes, budget), lambda m: True, shown(prior, sigmoid(prior.mean)))
    if np.abs(prior.mean).max() < logit(np.array(0.98)):
        assert plan.order == as_expected
    assert plan.expected_bytes == sum(sizes[m] for m in plan.order)


def test_a_budget_smaller_than_any_model():
    with pytest.raises(InputError) as caught:
        plan_trial(Shortlist(prior_of(0.8, 0.7), [4 * GB, 605_000_000], GB // 10), NAMES)
    assert str(caught.value) == (
        "at most 0.1 GB may be downloaded, but the smallest model, org/b, takes 0.605 GB; raise max_download"
    )
    assert plan_trial(Shortlist(prior_of(0.8, 0.7), [4 * GB, 0], 0), NAMES).most_bytes == 0


def test_a_plan_says_what_may_be_fetched_at_most():
    prior = prior_of(0.8, 0.5, 0.5, 0.4, own=0.2)
    plan = plan_trial(Shortlist(prior, [GB, 2 * GB, 30 * GB, 3 * GB], 10 * GB), [*NAMES, "org/d"])
    assert (plan.order, plan.expected_bytes, plan.most_bytes) == ((0, 1), 3 * GB, 6 * GB)
    assert plan.names == ("org/a", "org/b")
    prior = prior_of(0.8, 0.5, 0.5, own=0.2)
    assert plan_trial(Shortlist(prior, [9 * GB, 8 * GB, GB], 10 * GB), NAMES).most_bytes == 10 * GB
