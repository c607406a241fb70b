"""Choosing among models that were tried on images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.errors import InputError
from mll_hf.labels.label import Cost, ModelRef
from mll_hf.matching.prompts import templates_for
from mll_hf.selection import (
    Basis,
    Estimate,
    Figures,
    Head,
    MatchedConcept,
    SelectedModel,
    Selection,
    SelectionConfig,
    Strategy,
    choose_with_images,
    shortlist_config,
)
from mll_hf.selection.budget import Shortlist, plan_trial
from mll_hf.selection.fit import fit
from mll_hf.selection.probabilities import logit
from mll_hf.selection.with_images import estimate_in_trial, trial_prior
from worlds import examples

CLASSES = ("cat", "dog", "car")
ALL = (0, 1, 2, 3)


def estimate_of(*accuracies, error=0.8):
    return Estimate.independent(logit(np.array(accuracies), 0.001), np.full(len(accuracies), error))


def make_shortlist(n_models=4, tried=(0, 1, 2, 3)):
    """Models org/m0 ... of falling precision .8, .7 ..., of which some were tried."""
    chosen = np.zeros((n_models, 3), bool)
    chosen[list(tried)] = True
    return Selection(
        classes=CLASSES,
        strategy=Strategy.MLL,
        k=len(tried),
        models=tuple(
            SelectedModel(
                ModelRef(f"org/m{m}", f"{m}" * 40, "open_clip"),
                Cost(10**m, 2.0**m),
                1.5,
                Figures.PUBLISHED if m == 3 else Figures.LABEL,
            )
            for m in range(n_models)
        ),
        scores=np.array([[0.8, 0.9, 0.7]]) - 0.1 * np.arange(n_models)[:, None],
        chosen=chosen,
        matches=tuple(tuple(MatchedConcept(f"n{c}", f"{name} {c}", 0.5) for c in range(2)) for name in CLASSES),
        coverage=np.array([1.0, 0.5, 0.0]),
        domain="sketch",
        task="naming",
        estimate=estimate_of(*(0.8 - 0.05 * np.arange(n_models))),
    )


def make_embedded(skills, n_images=60, seed=0):
    """Images and heads of models that are the better, and the surer, the higher their skill; models of unlike scale."""
    rng = np.random.default_rng(seed)
    shown = np.eye(3)[np.arange(n_images) % 3]
    scales = np.geomspace(0.3, 30, len(skills))
    logits = [s * (skill * shown + rng.normal(size=shown.shape)) for s, skill in zip(scales, skills, strict=True)]
    return embedded_as(logits)


def embedded_as(logits):
    """Models whose zero-shot heads give these logits [M, N, 3]."""
    return [(each.astype(np.float32), Head.zero_shot(np.eye(3), 1.0)) for each in logits]


def ids(selection):
    return [model.ref.repo_id for model in selection.models]


def trial(embedded, config=None, shortlist=None, tried=ALL, **options):
    shortlist, config = shortlist or make_shortlist(), config or SelectionConfig()
    return choose_with_images(shortlist, tried, embedded, config, **options)


def test_the_models_that_say_most_are_chosen_for_all_classes():
    embedded = make_embedded([2, 3, 0, 9])
    selection = trial(embedded, SelectionConfig(k=2))
    assert ids(selection) == ["org/m3", "org/m1", "org/m0", "org/m2"]
    assert selection.chosen_models == (0, 1)
    assert selection.chosen.tolist() == [[True] * 3] * 2 + [[False] * 3] * 2
    assert (selection.k, selection.strategy) == (2, Strategy.MLL)
    assert (selection.classes, selection.domain, selection.task) == (CLASSES, "sketch", "naming")
    assert selection.cost == Cost(1000 + 10, 8.0 + 2.0)
    found, order = fit(*zip(*embedded, strict=True)), [3, 1, 0, 2]
    assert selection.heads == tuple(found.heads[m] for m in order[:2])
    assert (selection.trial.n_images, selection.trial.n_examples) == (60, 0)
    assert selection.templates == templates_for("sketch", "naming")
    np.testing.assert_array_equal(selection.trial.fitted, found.agreement[order, 1])
    np.testing.assert_array_equal(selection.weights, found.weights[order])
    np.testing.assert_array_equal(selection.scores, np.repeat(found.scores[order, None], 3, axis=1))


def test_unlabeled_images_change_the_order_and_not_what_is_known():
    shortlist = replace(make_shortlist(), estimate=estimate_of(0.95, 0.9, 0.85, 0.9))
    selection = trial(make_embedded([2, 3, 0, 9]), shortlist=shortlist)
    assert ids(selection) == ["org/m3", "org/m1", "org/m0", "org/m2"]
    assert selection.estimate.basis is Basis.NAMES
    np.testing.assert_allclose(selection.estimate.accuracy, [0.9, 0.9, 0.9, 0.85])  # none above the best
    np.testing.assert_allclose(selection.estimate.errors, [0.8] * 4)


def test_a_model_that_fails_on_the_images_is_not_as_good_and_cheaper():
    """The best model on the images is the last by its names; the others then had the same estimate, cut at its own."""
    shortlist = replace(make_shortlist(), estimate=estimate_of(0.95, 0.9, 0.85, 0.6, error=0.3))
    selection = trial(make_embedded([0, 0, 0, 9]), shortlist=shortlist)
    assert ids(selection)[0] == "org/m3"
    assert selection.trial.fitted[0] > selection.trial.fitted[1:].max() + 0.1
    assert selection.answer.cheapest == 0
    assert selection.answer.n_close == 1
    alike = trial(make_embedded([9, 9, 9, 9]), shortlist=replace(shortlist, estimate=estimate_of(0.9, 0.9, 0.9, 0.9)))
    assert alike.trial.fitted.min() > 0.995
    assert alike.answer.n_close == 4


@pytest.mark.parametrize("seed", range(5))
def test_agreement_on_exchanged_class_names_is_not_shown_as_accuracy(seed):
    """All models agree, and are wrong: with names exchanged, .65 was shown as known, for a truth of .1."""
    rng, true = np.random.default_rng(seed), np.arange(120) % 3
    embedded = embedded_as(6 * np.eye(3)[(true + 1) % 3] + rng.normal(size=(4, 120, 3)))
    names = estimate_of(0.6, 0.6, 0.6, 0.6, error=2.0)
    selection = trial(embedded, shortlist=replace(make_shortlist(), estimate=names))
    assert selection.trial.fitted.min() > 0.9
    assert not selection.estimate.known.any()
    assert selection.answer_lines[0].endswith("Accuracy not known; 25 examples with their class would tell.")
    with_examples = trial(embedded, shortlist=replace(make_shortlist(), estimate=names), classes=true[:50])
    assert with_examples.estimate.basis is Basis.EXAMPLES
    (images, _), head = embedded[0], with_examples.heads[0]
    right = (head.logits(images[50:]).argmax(axis=1) == true[50:]).mean()
    (low, *_), (high, *_) = with_examples.estimate.interval
    assert low <= right <= high  # whether the examples taught it the right names or not


@pytest.mark.parametrize("n_examples", [25, 50])
def test_examples_update_the_estimate_of_the_names(n_examples):
    true, errors = np.arange(250) % 3, []
    for seed in range(4):
        answers = np.where(np.arange(250) % 5 < 2, (true + 1) % 3, true)  # two of five are wrong
        logits = 9 * np.eye(3)[answers] + np.random.default_rng(seed).normal(size=(4, 250, 3)) / 9
        shortlist = replace(make_shortlist(), estimate=estimate_of(0.9, 0.8, 0.7, 0.6, error=1.5))
        found = trial(embedded_as(logits), SelectionConfig(k=1), shortlist, classes=true[:n_examples])
        errors.append(found.estimate.accuracy[0] - 0.6)
    assert abs(np.mean(errors)) < 0.12


def test_models_that_were_not_tried_or_failed_are_left_out():
    # of five models the positions 1, 2 and 4 were tried, and the first of these failed: m2 and m4 answer
    shortlist = make_shortlist(5, tried=(1, 2, 4))
    selection = trial(make_embedded([1, 6]), SelectionConfig(k=2), shortlist, (1, 2))
    assert ids(selection) == ["org/m4", "org/m2"]
    alone = trial(make_embedded([1]), SelectionConfig(k=2), shortlist, (2,))
    assert ids(alone) == ["org/m4"]
    assert alone.estimate == shortlist.estimate.subset([4])


@pytest.mark.parametrize(
    ("options", "n_chosen"),
    [
        ({}, 2),
        ({"k": 1}, 1),
        ({"k": 3}, 3),
        ({"k": 9}, 4),
    ],
)
def test_how_many_are_chosen(options, n_chosen):
    config = SelectionConfig(**options)
    selection = trial(make_embedded([2, 3, 0, 9]), config)
    assert len(selection.chosen_models) == n_chosen
    assert len(selection.models) == 4
    assert selection.k == (config.k or n_chosen)


@examples
@given(seed=st.integers(0, 999), factor=st.floats(0.01, 100), k=st.integers(1, 5), data=st.data())
def test_scales_do_not_matter_and_order_neither(seed, factor, k, data):
    rng = np.random.default_rng(seed)
    embedded, config = make_embedded(rng.uniform(0, 5, 4), seed=seed), SelectionConfig(k=k)
    plain = trial(embedded, config)
    hotter = [(images, head.calibrated(factor if rng.random() < 0.5 else 1)) for images, head in embedded]
    assert ids(trial(hotter, config)) == ids(plain)
    order = data.draw(st.permutations(ALL))
    permuted = trial([embedded[m] for m in order], config, tried=order)
    assert ids(permuted) == ids(plain)
    assert permuted.matches == plain.matches
    for one, other in zip(permuted.heads, plain.heads, strict=True):
        np.testing.assert_allclose(one.weights, other.weights, rtol=1e-4, atol=1e-4)


# --- what to try ------------------------------------------------------------------------------------------------------


def test_a_trial_starts_with_a_common_error_a_slope_and_an_own_error():
    estimate = Estimate.independent(np.array([0.0, 1.0]), np.array([2.0, 2.0]))
    prior = trial_prior(estimate)  # common^2 = 4, own^2 = 9, slope 1 around the mean .5
    np.testing.assert_allclose(prior.covariance, [[13.25, 3.75], [3.75, 13.25]])
    assert prior.mean.tolist() == [0, 1]


def test_models_of_which_nothing_is_known_are_tried_first():
    estimate = Estimate.independent(np.array([1.0, 0.9, 0.8, 0.0]), np.array([1.0, 1.0, 1.0, 5**0.5]))
    prior = trial_prior(estimate)
    assert prior.mean.tolist() == [1, 0.9, 0.8, 2]
    assert np.diag(prior.covariance)[3] > np.diag(prior.covariance)[0] + 3
    assert plan_trial(Shortlist(prior, [10**9] * 4, 10**10), "abcd").order[0] == 3


def test_the_estimate_within_a_trial_follows_agreement_and_examples():
    shortlist, true = make_shortlist(), np.arange(60) % 3
    before = trial_prior(shortlist.estimate)
    in_trial = partial(estimate_in_trial, before, (1, 2), make_embedded([0, 6]))
    after = in_trial()
    assert after.basis is Basis.IMAGES
    assert not after.known.any()
    assert after.mean[2] > before.mean[2]
    assert after.mean[1] < before.mean[1]
    assert in_trial(true[:30]).basis is Basis.EXAMPLES
    alone = estimate_in_trial(before, (1,), make_embedded([6]))
    assert alone.mean.tolist() == before.mean.tolist()  # a single model has no other to agree with


@pytest.mark.parametrize("strategy", [strategy for strategy in Strategy if strategy is not Strategy.MLL])
def test_images_help_our_own_strategy_only(strategy):
    with pytest.raises(InputError, match=f"images are used by strategy 'mll' only, not by '{strategy}'; leave out"):
        shortlist_config(SelectionConfig(strategy))
