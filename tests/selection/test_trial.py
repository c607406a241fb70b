"""A budgeted trial: what is believed, what is tried next, when it stops, and what may go wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.errors import InputError
from mll_hf.selection.accuracy import AccuracyEstimate, logit, sigmoid
from mll_hf.selection.beliefs import (
    OWN,
    TREND,
    Beliefs,
    independent_beliefs,
    observe,
    prior_beliefs,
    prior_from_estimates,
)
from mll_hf.selection.trial import TYPICAL_ERROR, expected_gains, next_model, plan_trial, run_trial
from worlds import examples

GB = 10**9
NAMES = tuple(f"org/{letter}" for letter in "abcdefgh")


def beliefs_of(*accuracies, own=0.5, common=1.0):
    return prior_beliefs(logit(np.array(accuracies)), own, common, trend=0.0)


def shown(prior, accuracies):
    """What is believed after models have shown their accuracies in a trial."""
    accuracies = np.array(accuracies)

    def believe(tried):
        return observe(prior, tried, logit(accuracies[list(tried)]), np.full(len(tried), TYPICAL_ERROR))

    return believe


@st.composite
def worlds(draw):
    """Beliefs about models, their sizes in bytes, what they show, and a budget that at least one fits in."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n_models = draw(st.integers(1, 8))
    factors = rng.normal(size=(n_models, 3))
    prior = Beliefs(rng.normal(size=n_models), factors @ factors.T + 0.3 * np.eye(n_models))
    sizes = [int(size) for size in rng.integers(0, 5, n_models) * rng.choice([1, 1000], n_models)]
    return prior, sizes, rng.uniform(0.05, 0.95, n_models), draw(st.integers(min(sizes), 6000))


# --- beliefs ----------------------------------------------------------------------------------------------------------


def test_a_prior_by_hand():
    prior = prior_beliefs(np.array([0.0, 1.0]), np.array([0.5, 2.0]), 3.0, trend=2.0)
    np.testing.assert_allclose(prior.covariance, [[10.25, 8], [8, 14]])
    np.testing.assert_allclose(prior_beliefs(np.zeros(2), 1.0, 2.0, 3.0).covariance, [[5, 4], [4, 5]])
    accuracy = Beliefs(np.array([0.0, 2.0]), np.diag([1.0, 0.0])).accuracy
    np.testing.assert_allclose(accuracy.accuracy, sigmoid(np.array([0.0, 2.0])))
    np.testing.assert_allclose(accuracy.low, sigmoid(np.array([-1.6448536, 2.0])), rtol=1e-6)
    np.testing.assert_allclose(accuracy.high, sigmoid(np.array([1.6448536, 2.0])), rtol=1e-6)


def test_beliefs_agree_with_estimates_and_their_intervals():
    middle, reach = np.array([-0.5, 0.2, 0.3]), 1.6448536 * 1.2
    estimate = AccuracyEstimate(sigmoid(middle), sigmoid(middle - reach), sigmoid(middle + reach))
    beliefs = prior_from_estimates(estimate)
    np.testing.assert_allclose(beliefs.mean, middle)
    rest = middle - middle.mean()
    np.testing.assert_allclose(np.diag(beliefs.covariance), OWN**2 + 1.2**2 + (TREND * rest) ** 2, rtol=1e-6)
    np.testing.assert_allclose(beliefs.covariance[0, 1], 1.2**2 + TREND**2 * rest[0] * rest[1], rtol=1e-6)
    apart = independent_beliefs(estimate)
    np.testing.assert_allclose(apart.mean, middle)
    np.testing.assert_allclose(apart.covariance, 1.2**2 * np.eye(3), rtol=1e-6)
    np.testing.assert_allclose(apart.accuracy.high, estimate.high)


@examples
@given(worlds())
def test_observations_add_their_precision(world):
    prior, _, accuracies, _ = world
    estimates, errors = logit(accuracies), np.linspace(0.3, 1, len(accuracies))
    precision = np.linalg.inv(prior.covariance)
    covariance = np.linalg.inv(precision + np.diag(errors**-2))
    mean = covariance @ (precision @ prior.mean + estimates / errors**2)
    everything = range(len(accuracies))
    after = observe(prior, everything, estimates, errors)
    np.testing.assert_allclose(after.mean, mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(after.covariance, covariance, rtol=1e-6, atol=1e-8)
    one_by_one = prior
    for m in everything:
        one_by_one = observe(one_by_one, [m], estimates[[m]], errors[[m]])
    np.testing.assert_allclose(one_by_one.mean, mean, rtol=1e-6, atol=1e-8)


def test_an_error_that_all_estimates_share_leaves_their_differences():
    prior = prior_beliefs(np.zeros(2), own=1.0, common=0.5, trend=0.0)
    alone = observe(prior, [0, 1], np.array([1.0, 2.0]), np.full(2, 0.1))
    shared = observe(prior, [0, 1], np.array([1.0, 2.0]), np.full(2, 0.1), common=2.0)
    assert np.diff(shared.mean) == pytest.approx(np.diff(alone.mean))
    assert 0 < shared.mean.mean() < 0.5 < 1.4 < alone.mean.mean()
    assert shared.deviations[0] > 3 * alone.deviations[0]


def test_a_tried_model_tells_of_the_level_of_the_task():
    prior = beliefs_of(0.8, 0.7, 0.6)
    after = observe(prior, [0], logit(np.array([0.3])), np.array([0.1]))
    assert after.accuracy.accuracy[0] == pytest.approx(0.31, abs=0.02)
    assert (np.diff(after.mean) < 0).all()  # the others fall as well, in the same order
    assert (after.accuracy.accuracy[1:] < [0.4, 0.3]).all()
    assert after.deviations[0] < 0.11 < after.deviations[1] < prior.deviations[1]


def test_two_tried_models_tell_whether_the_task_follows_the_estimates():
    prior = prior_beliefs(logit(np.array([0.8, 0.7, 0.5])), own=0.2, common=1.0, trend=1.0)
    follows = observe(prior, [0, 1], logit(np.array([0.9, 0.7])), np.full(2, 0.1))
    reverse = observe(prior, [0, 1], logit(np.array([0.5, 0.7])), np.full(2, 0.1))
    assert follows.accuracy.accuracy[2] < 0.4
    assert reverse.accuracy.accuracy[2] > 0.7


# --- gains ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tried", [[0], [2, 0]])
def test_gains_against_simulation(tried):
    prior = Beliefs(np.array([0.3, 0.1, -0.5]), np.array([[1.0, 0.6, 0.1], [0.6, 0.9, 0.2], [0.1, 0.2, 0.8]]))
    best, rng = tried[-1], np.random.default_rng(0)
    shows = rng.multivariate_normal(prior.mean, prior.covariance, size=4000) + TYPICAL_ERROR * rng.normal(
        size=(4000, 3)
    )
    gains = expected_gains(prior, tried)
    for m in set(range(3)) - set(tried):
        after = [observe(prior, [m], show[[m]], np.array([TYPICAL_ERROR])).mean for show in shows]
        spread = np.std([mean[m] - mean[best] for mean in after])
        shown = prior.mean[m] + spread * rng.standard_t(4, size=10**6) / np.sqrt(2)
        risen = np.maximum(sigmoid(shown) - sigmoid(prior.mean[best]), 0).mean()
        assert gains[m] == pytest.approx(risen, rel=0.05)
    assert (gains[tried] == 0).all()


def test_nothing_is_gained_where_nothing_can_change():
    certain = Beliefs(logit(np.array([0.6, 0.5, 0.7])), np.ones((3, 3)))  # all differ by a known amount
    np.testing.assert_allclose(expected_gains(certain, [0]), [0, 0, 0.1], atol=1e-12)
    assert expected_gains(certain, []).argmax() == 2


# --- what is next -----------------------------------------------------------------------------------------------------


def test_models_that_are_here_come_first():
    prior = beliefs_of(0.9, 0.6, 0.7, own=1.0)
    sizes = [3 * GB, 0, 0]
    assert next_model(prior, sizes, 10 * GB, []) == 2
    assert next_model(prior, sizes, 10 * GB, [2]) == 1
    assert next_model(prior, sizes, 10 * GB, [2, 1]) == 0


def test_the_two_most_promising_models_are_fetched_first_and_then_gains_count_per_byte():
    prior = beliefs_of(0.8, 0.795, 0.79, 0.6, own=2.0)
    sizes = [4 * GB, 2 * GB, GB, GB // 2]
    assert next_model(prior, sizes, 10 * GB, []) == 0
    assert next_model(prior, [4 * GB, 2 * GB, GB, 0], 10 * GB, [3]) == 0
    assert next_model(prior, sizes, 10 * GB, [0]) == 1
    assert next_model(prior, [4 * GB, 8 * GB, 9 * GB, 0], 20 * GB, [3, 0]) == 1  # what is here was not fetched
    equal = beliefs_of(0.6, 0.6, 0.6, 0.5, own=2.0)
    assert next_model(equal, [GB, GB, 4 * GB, GB], 10 * GB, [0, 1]) == 3
    assert next_model(equal, [GB, GB, GB, GB], 10 * GB, [0, 1]) == 2
    assert next_model(prior, sizes, 3 * GB, []) == 1  # of those that fit
    assert next_model(prior, sizes, 3 * GB, [1]) == 2
    assert next_model(prior, sizes, 10 * GB, [], failed=[0]) == 1


def test_the_first_model_leaves_room_for_a_second():
    prior = beliefs_of(0.8, 0.79, 0.7, own=1.0)
    assert next_model(prior, [9 * GB, 4 * GB, 2 * GB], 10 * GB, []) == 1
    assert plan_trial(prior, [9 * GB, 4 * GB, 2 * GB], 10 * GB, NAMES).order == (1, 2)
    assert next_model(prior, [9 * GB, 4 * GB, GB], 10 * GB, []) == 0
    assert next_model(prior, [9 * GB, 8 * GB, 7 * GB], 10 * GB, []) == 0  # no two fit
    assert next_model(prior, [9 * GB, 8 * GB, 0], 10 * GB, [2]) == 0  # what is here is the second
    assert next_model(beliefs_of(0.8, 0.75, 0.7, own=1.0), [9 * GB, 4 * GB, 2 * GB], 10 * GB, []) == 0  # costs too much


def test_equal_models_are_tried_in_their_order_and_smaller_ones_first():
    prior = beliefs_of(0.7, 0.7, 0.7)
    assert next_model(prior, [GB, GB, GB], 10 * GB, []) == 0
    assert next_model(prior, [GB, GB, GB], 10 * GB, [0]) == 1
    assert next_model(prior, [2 * GB, GB, GB], 10 * GB, []) == 1


def test_the_trial_stops_when_no_model_is_likely_to_be_better_or_none_fits():
    clear = beliefs_of(0.9, 0.3, 0.2)
    assert next_model(clear, [GB, GB, GB], 10 * GB, [0]) == 1  # a single model has none to agree with
    assert next_model(clear, [GB, GB, GB], 10 * GB, [0, 1]) is None
    assert next_model(clear, [GB, GB, 0], 10 * GB, [0, 1]) == 2  # what is here costs nothing
    assert next_model(clear, [GB, 0, 0], 0, []) == 1
    assert next_model(clear, [GB, GB, GB], GB - 1, []) is None
    assert next_model(clear, [0, 0, 0], 0, [0, 1], failed=[2]) is None


@pytest.mark.parametrize(("best", "next_one"), [(0.85, None), (0.1, 2)])
def test_the_trial_goes_on_for_longer_where_models_do_badly(best, next_one):
    other = sigmoid(logit(np.array([best])) - 1.5)[0]
    prior = beliefs_of(best, other, other, own=1.5, common=0.0)
    assert next_model(prior, [GB, GB, GB], 10 * GB, [0, 1]) == next_one


def test_many_models_that_may_be_better_keep_the_trial_going_where_a_few_do_not():
    def left(n, of):
        prior = beliefs_of(0.5, *[0.15] * (of - 1), own=2.0, common=0.0)
        return next_model(prior, [GB] * of, 100 * GB, range(of - n))

    assert (left(15, of=20), left(3, of=20)) == (5, None)
    assert left(3, of=5) == 2  # more than half of them


# --- a whole trial ----------------------------------------------------------------------------------------------------


def test_a_disappointing_favorite_makes_the_trial_go_on():
    prior, sizes = beliefs_of(0.8, 0.5, 0.5, own=0.8, common=0.1), [GB, GB, GB]
    assert run_trial(prior, sizes, 10 * GB, lambda m: True, shown(prior, [0.9, 0.5, 0.5])) == (0, 1)
    assert run_trial(prior, sizes, 10 * GB, lambda m: True, shown(prior, [0.3, 0.5, 0.5])) == (0, 1, 2)


def test_a_model_that_fails_is_skipped_and_counts_as_fetched():
    prior, sizes = beliefs_of(0.8, 0.75, 0.7), [4 * GB, 4 * GB, 4 * GB]
    attempts = []

    def attempt(m):
        attempts.append(m)
        return m != 0

    believe = shown(prior, [0.8, 0.1, 0.7])
    assert run_trial(prior, sizes, 12 * GB, attempt, believe) == (1, 2)
    assert attempts == [0, 1, 2]
    assert run_trial(prior, sizes, 11 * GB, attempt, believe) == (1,)
    assert run_trial(prior, sizes, 12 * GB, lambda m: False, believe) == ()


@examples
@given(worlds())
def test_a_trial_stays_within_its_budget_and_within_its_plan(world):
    prior, sizes, accuracies, budget = world
    plan = plan_trial(prior, sizes, budget, NAMES)
    tried = run_trial(prior, sizes, budget, lambda m: True, shown(prior, accuracies))
    fetched = sum(sizes[m] for m in tried)
    assert fetched <= plan.most_bytes <= budget
    assert len(set(tried)) == len(tried) >= 1
    assert tried[0] == plan.order[0]
    as_expected = run_trial(prior, sizes, budget, lambda m: True, shown(prior, sigmoid(prior.mean)))
    if np.abs(prior.mean).max() < logit(np.array(0.98)):
        assert plan.order == as_expected
    assert plan.expected_bytes == sum(sizes[m] for m in plan.order)


def test_a_budget_smaller_than_any_model():
    with pytest.raises(InputError) as caught:
        plan_trial(beliefs_of(0.8, 0.7), [4 * GB, 605_000_000], GB // 10, NAMES)
    assert str(caught.value) == (
        "at most 0.1 GB may be downloaded, but the smallest model, org/b, takes 0.605 GB; raise max_download"
    )
    assert plan_trial(beliefs_of(0.8, 0.7), [4 * GB, 0], 0, NAMES).most_bytes == 0


def test_a_plan_says_what_may_be_fetched_at_most():
    prior = beliefs_of(0.8, 0.5, 0.5, 0.4, own=0.2)
    plan = plan_trial(prior, [GB, 2 * GB, 30 * GB, 3 * GB], 10 * GB, [*NAMES, "org/d"])
    assert (plan.order, plan.expected_bytes, plan.most_bytes) == ((0, 1), 3 * GB, 6 * GB)
    assert plan.names == ("org/a", "org/b")
    prior = beliefs_of(0.8, 0.5, 0.5, own=0.2)
    assert plan_trial(prior, [9 * GB, 8 * GB, GB], 10 * GB, NAMES).most_bytes == 10 * GB
