"""Choosing among models that were tried on images: on selections made by hand, and what their JSON form keeps."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.ensemble import Rule, combine
from mll_hf.ensemble.rules import PoolParameters
from mll_hf.ensemble.run import Ensemble
from mll_hf.errors import InputError
from mll_hf.labels.label import Cost, ModelRef
from mll_hf.selection import (
    Evidence,
    MatchedConcept,
    SelectedModel,
    Selection,
    SelectionConfig,
    Strategy,
    choose_with_images,
    select,
    shortlist_config,
)
from mll_hf.selection.accuracy import AccuracyEstimate
from mll_hf.selection.evidence import MIN_TRIAL_IMAGES, calibrate, gather_evidence, pooling_weights
from selection_worlds import random_candidates
from worlds import examples

CLASSES = ("cat", "dog", "car")
TEMPLATES = ("a photo of {}.", "{}")


def make_shortlist(n_models=4, tried=(0, 1, 2, 3)):
    """Models org/m0 ... of falling precision .8, .7 ..., of which some were tried; concept c of a class is known to
    the p-th model tried with precision c / 10 + p / 100."""
    chosen = np.zeros((n_models, 3), bool)
    chosen[list(tried)] = True
    precision = [tuple(c / 10 + p / 100 for p in range(len(tried))) for c in range(2)]
    return Selection(
        classes=CLASSES,
        strategy=Strategy.MLL,
        k=len(tried),
        models=tuple(
            SelectedModel(
                ModelRef(f"org/m{m}", f"{m}" * 40, "open_clip"),
                Cost(10**m, 2.0**m),
                1.5,
                0.5,
                Evidence.OVERALL if m == 3 else Evidence.LABEL,
            )
            for m in range(n_models)
        ),
        scores=np.array([[0.8, 0.9, 0.7]]) - 0.1 * np.arange(n_models)[:, None],
        chosen=chosen,
        matches=tuple(
            tuple(MatchedConcept(f"n{c}", f"{name} {c}", 0.5, precision[c]) for c in range(2)) for name in CLASSES
        ),
        coverage=np.array([1.0, 0.5, 0.0]),
        images=np.array([10.0, 20.0, 0.0]),
        domain="sketch",
        task="naming",
    )


def make_logits(skills, n_images=60, seed=0):
    """[M, N, C] logits of models that are the better, and the surer, the higher their skill; models of unlike scale."""
    rng = np.random.default_rng(seed)
    shown = np.eye(3)[np.arange(n_images) % 3]
    scales = np.geomspace(0.3, 30, len(skills))
    logits = [s * (skill * shown + rng.normal(size=shown.shape)) for s, skill in zip(scales, skills, strict=True)]
    return np.stack(logits).astype(np.float32)


def ids(selection):
    return [model.ref.repo_id for model in selection.models]


# --- the choice -------------------------------------------------------------------------------------------------------


def test_the_models_that_say_most_are_chosen_for_all_classes():
    logits = make_logits([2, 3, 0, 9])
    selection = choose_with_images(make_shortlist(), (0, 1, 2, 3), logits, SelectionConfig(k=2), TEMPLATES)
    assert ids(selection) == ["org/m3", "org/m1", "org/m0", "org/m2"]
    assert selection.union == (0, 1)
    assert selection.chosen.tolist() == [[True] * 3] * 2 + [[False] * 3] * 2
    assert (selection.k, selection.strategy) == (2, Strategy.MLL)
    assert (selection.classes, selection.domain, selection.task) == (CLASSES, "sketch", "naming")
    assert selection.coverage.tolist() == [1, 0.5, 0]
    assert selection.images.tolist() == [10, 20, 0]
    assert selection.cost == Cost(1000 + 10, 8.0 + 2.0)
    evidence = selection.evidence
    assert (evidence.n_images, evidence.templates) == (60, TEMPLATES)
    # the evidence is that of the four models, in the new order
    prior = np.array([0.8, 0.7, 0.6, 0.5])
    whole, order = gather_evidence(logits, prior, TEMPLATES), [3, 1, 0, 2]
    np.testing.assert_allclose(evidence.prior, prior[order])
    np.testing.assert_allclose(evidence.scores, whole.scores[order])
    np.testing.assert_allclose(evidence.calibration.offsets, whole.calibration.offsets[order])
    assert (np.diff(evidence.scores) <= 0).all()


def test_scores_weights_and_temperatures_are_those_of_the_trial():
    logits = make_logits([2, 3, 0, 9])
    selection = choose_with_images(make_shortlist(), (0, 1, 2, 3), logits, SelectionConfig(k=2), TEMPLATES)
    found, order = calibrate(logits, np.array([0.8, 0.7, 0.6, 0.5])), [3, 1, 0, 2]
    np.testing.assert_allclose(selection.temperatures, found.temperatures[order])
    assert (selection.temperatures != 1.5).all()  # the labels'
    by_label = np.array([0.8, 0.9, 0.7]) - 0.1 * np.array(order)[:, None]
    np.testing.assert_allclose(selection.scores, found.agreement[order][:, None] + 0.1 * by_label)
    np.testing.assert_allclose(selection.overall, selection.evidence.scores)
    np.testing.assert_allclose(selection.weights, pooling_weights(selection.evidence.scores, 3))
    without = replace(selection, evidence=None)
    assert without.temperatures.tolist() == [1.5] * 4
    np.testing.assert_array_equal(without.weights, selection.overall)


def test_explanations_follow_the_chosen_models():
    selection = choose_with_images(
        make_shortlist(), (0, 1, 2, 3), make_logits([2, 3, 0, 9]), SelectionConfig(k=3), TEMPLATES
    )
    assert [ids(selection)[m] for m in selection.union] == ["org/m3", "org/m1", "org/m0"]
    for name in CLASSES:
        first, second = selection.explain(name)
        assert (first.name, second.name) == (f"{name} 0", f"{name} 1")
        assert first.recall == pytest.approx((0.03, 0.01, 0.00))
        assert second.recall == pytest.approx((0.13, 0.11, 0.10))


def test_the_estimate_of_the_best_model_does_not_lean_on_those_of_many_weak_ones():
    n_models, n_examples = 20, 25
    everyone = tuple(range(n_models))
    low = AccuracyEstimate(*(np.full(n_models, end) for end in (0.1, 0.03, 0.3)))
    shortlist = replace(make_shortlist(n_models, everyone), scores=np.full((n_models, 3), 0.4), estimates=low)
    true, errors = np.arange(200) % 3, []
    for seed in range(4):
        logits = make_logits([1.5] + [0.0] * (n_models - 1), 200, seed)
        selection = choose_with_images(shortlist, everyone, logits, SelectionConfig(k=1), TEMPLATES, true[:n_examples])
        assert ids(selection)[0] == "org/m0"
        errors.append(selection.estimates.accuracy[0] - (logits[0].argmax(axis=1) == true).mean())
    assert abs(np.mean(errors)) < 0.03


@pytest.mark.parametrize("n_examples", [25, 50])
def test_examples_correct_what_models_believe_that_make_the_same_mistakes(n_examples):
    true, rng = np.arange(250) % 3, np.random.default_rng(0)
    answers = np.where(np.arange(250) % 5 < 2, (true + 1) % 3, true)  # two of five are wrong
    logits = 9 * np.eye(3)[answers] + rng.normal(size=(4, 250, 3)) / 9
    known = AccuracyEstimate(*(np.full(4, end) for end in (0.6, 0.3, 0.9)))
    shortlist = replace(make_shortlist(), estimates=known)
    trial = partial(choose_with_images, shortlist, (0, 1, 2, 3), logits, SelectionConfig(k=1), TEMPLATES)
    assert trial().estimates.low[0] > 0.9  # no image without a class shows them
    assert trial(true[:n_examples]).estimates.accuracy[0] == pytest.approx(0.6, abs=0.2)


def test_no_model_is_shown_as_more_accurate_than_the_best():
    """Agreement ranks models; the estimate may see it otherwise."""
    seen = set()
    for seed in range(20):
        logits = make_logits([1.4, 1.5, 1.6, 1.7], seed=seed)
        selection = choose_with_images(make_shortlist(), (0, 1, 2, 3), logits, SelectionConfig(), TEMPLATES)
        estimates, plain = selection.estimates, selection.evidence.beliefs.accuracy
        seen.add(plain.accuracy.argmax() == 0)
        for shown, own in (
            (estimates.accuracy, plain.accuracy),
            (estimates.low, plain.low),
            (estimates.high, plain.high),
        ):
            np.testing.assert_array_equal(shown, np.minimum(own, own[0]))
        assert selection.answer.loss >= 0
    assert seen == {True, False}


def test_models_that_were_not_tried_or_failed_are_left_out():
    # of five models the positions 1, 2 and 4 were tried, and the first of these failed: m2 and m4 answer
    shortlist = make_shortlist(5, tried=(1, 2, 4))
    selection = choose_with_images(shortlist, (1, 2), make_logits([1, 6]), SelectionConfig(k=2), TEMPLATES)
    assert ids(selection) == ["org/m4", "org/m2"]
    np.testing.assert_allclose(selection.evidence.prior, [0.4, 0.6])
    assert selection.explain("dog")[1].recall == pytest.approx((0.12, 0.11))
    alone = choose_with_images(shortlist, (2,), make_logits([1]), SelectionConfig(k=2), TEMPLATES)
    assert ids(alone) == ["org/m4"]
    assert alone.explain("dog")[1].recall == pytest.approx((0.12,))


def test_a_single_model_that_agrees_with_itself_is_as_accurate_as_its_labels_say():
    shortlist, true = make_shortlist(), np.arange(60) % 3
    known = AccuracyEstimate(*np.linspace([0.3, 0.1, 0.5], [0.6, 0.4, 0.8], 4).T)
    trial = partial(choose_with_images, replace(shortlist, estimates=known), (2,), make_logits([0]), SelectionConfig())
    assert trial(TEMPLATES).estimates == known.subset([2])  # sure of itself, and wrong
    assert trial(TEMPLATES, true[:30]).estimates.accuracy[0] < 0.45


@pytest.mark.parametrize(
    ("options", "n_chosen"),
    [
        ({}, 3),
        ({"k": 1}, 1),
        ({"k": 3}, 3),
        ({"k": 9}, 4),
        ({"k": 3, "max_models": 2}, 2),
        ({"k": 2, "max_models": 3}, 2),
    ],
)
def test_how_many_are_chosen(options, n_chosen):
    config = SelectionConfig(**options)
    selection = choose_with_images(make_shortlist(), (0, 1, 2, 3), make_logits([2, 3, 0, 9]), config, TEMPLATES)
    assert len(selection.union) == n_chosen
    assert len(selection.models) == 4
    assert selection.k == (config.k or selection.evidence.combine)


def test_where_images_say_nothing_labels_decide():
    same = np.tile(make_logits([2]), (4, 1, 1))
    shortlist = make_shortlist()
    selection = choose_with_images(shortlist, (0, 1, 2, 3), same, SelectionConfig(), TEMPLATES)
    assert ids(selection) == ids(shortlist)
    turned = replace(shortlist, scores=shortlist.scores[::-1])
    selection = choose_with_images(turned, (0, 1, 2, 3), same, SelectionConfig(), TEMPLATES)
    assert ids(selection) == ids(shortlist)[::-1]


def test_too_few_images_for_a_choice():
    logits = make_logits([1, 2, 3, 4], n_images=MIN_TRIAL_IMAGES - 1)
    with pytest.raises(InputError, match="15 readable images are too few"):
        choose_with_images(make_shortlist(), (0, 1, 2, 3), logits, SelectionConfig(), TEMPLATES)


@examples
@given(seed=st.integers(0, 999), factor=st.floats(0.01, 100), k=st.integers(1, 5), data=st.data())
def test_scales_do_not_matter_and_order_neither(seed, factor, k, data):
    rng = np.random.default_rng(seed)
    logits = make_logits(rng.uniform(0, 5, 4), seed=seed)
    config, answering = SelectionConfig(k=k), (0, 1, 2, 3)
    plain = choose_with_images(make_shortlist(), answering, logits, config, TEMPLATES)
    scale = np.where(rng.random(4) < 0.5, factor, 1)[:, None, None]
    scaled = choose_with_images(make_shortlist(), answering, logits * scale, config, TEMPLATES)
    assert ids(scaled) == ids(plain)
    order = data.draw(st.permutations(answering))
    permuted = choose_with_images(make_shortlist(), order, logits[order], config, TEMPLATES)
    assert ids(permuted) == ids(plain)
    assert permuted.matches == plain.matches
    # pooled answers are the same too: of later images, with the temperatures and offsets of the trial
    later = make_logits(rng.uniform(0, 5, 4), n_images=7, seed=seed + 1)
    union = [ids(make_shortlist()).index(ids(plain)[m]) for m in plain.union]
    answers = [
        Ensemble(selection).combine(z[union]).probabilities
        for selection, z in ((plain, later), (scaled, later * scale))
    ]
    np.testing.assert_allclose(*answers, atol=1e-5)


def test_predictions_use_temperatures_offsets_and_weights_of_the_trial():
    selection = choose_with_images(
        make_shortlist(), (0, 1, 2, 3), make_logits([2, 3, 0, 9]), SelectionConfig(k=2), TEMPLATES
    )
    later = make_logits([2, 1], n_images=5, seed=1)
    calibration, weights = selection.evidence.calibration, pooling_weights(selection.evidence.scores, 3)[:2]
    expected = 0
    for m in range(2):
        calibrated = np.exp(later[m] / calibration.temperatures[m] + calibration.offsets[m])
        expected += weights[m] / weights.sum() * calibrated / calibrated.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Ensemble(selection).combine(later).probabilities, expected, rtol=1e-5)
    # many images at once: nothing but the labels' precision is kept of the trial
    many = make_logits([2, 1], n_images=30, seed=1)
    trust = PoolParameters(np.ones(2), np.ones(2), np.array([0.5, 0.7]))
    expected = combine(Rule.TRANSPORT, many, np.ones((2, 3), bool), trust)
    np.testing.assert_allclose(Ensemble(selection).combine(many, Rule.TRANSPORT).probabilities, expected)


def test_templates_of_the_trial_are_those_of_predictions():
    shortlist = make_shortlist()
    selection = choose_with_images(
        shortlist, (0, 1, 2, 3), make_logits([2, 3, 0, 9]), SelectionConfig(), ("an odd {}",)
    )
    assert Ensemble(selection).prompt_templates == ("an odd {}",)
    assert Ensemble(selection, templates=("my {}",)).prompt_templates == ("my {}",)
    assert "an odd {}" not in Ensemble(shortlist).prompt_templates


# --- the shortlist ----------------------------------------------------------------------------------------------------


def test_the_shortlist_is_the_best_by_label():
    config = SelectionConfig(k=2, max_models=1, shortlist=3, max_gflops=500)
    assert shortlist_config(config) == replace(config, k=3, max_models=None)
    candidates = random_candidates(n_models=5)
    assert len(select(candidates, shortlist_config(SelectionConfig(shortlist=3))).union) == 3
    assert len(select(candidates, shortlist_config(SelectionConfig())).union) == 5


@pytest.mark.parametrize("strategy", [strategy for strategy in Strategy if strategy is not Strategy.MLL])
def test_images_help_our_own_strategy_only(strategy):
    with pytest.raises(InputError, match=f"images are used by strategy 'mll' only, not by '{strategy}'; leave out"):
        shortlist_config(SelectionConfig(strategy))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortlist": 0}, "shortlist is 0; allow at least 1"),
        ({"max_download": -1}, "max_download is -1; allow at least 0"),
        ({"most_images": MIN_TRIAL_IMAGES - 1}, "most_images is 15; allow at least 16"),
    ],
)
def test_impossible_trials(options, message):
    with pytest.raises(InputError, match=message):
        SelectionConfig(**options)
    SelectionConfig(shortlist=1, most_images=MIN_TRIAL_IMAGES)


# --- JSON -------------------------------------------------------------------------------------------------------------


def make_selection(n_images=60):
    return choose_with_images(
        make_shortlist(), (0, 1, 3), make_logits([1, 4, 8], n_images), SelectionConfig(k=2), TEMPLATES
    )


def test_json_gives_the_trial_back():
    selection = make_selection()
    back = Selection.from_json(json.loads(json.dumps(selection.to_json(), allow_nan=False)))
    assert back == selection
    assert back.evidence == selection.evidence
    assert back.evidence != replace(selection.evidence, n_images=61)
    assert (back.union, back.cost) == (selection.union, selection.cost)
    later = make_logits([2, 1], n_images=5, seed=1)
    np.testing.assert_array_equal(
        Ensemble(back).combine(later).probabilities, Ensemble(selection).combine(later).probabilities
    )


@pytest.mark.parametrize("kind", ["alike", "unsure", "sure", "one class"])
def test_json_of_extreme_trials_is_accepted(kind):
    # information is 0 or 1 there, but for rounding
    n_classes = 1 if kind == "one class" else 3
    logits = np.random.default_rng(0).normal(size=(4, 1, n_classes)).repeat(33, axis=1)
    if kind == "unsure":
        logits = np.zeros((4, 19, 3))
    if kind == "sure":
        logits = np.tile(1e4 * np.eye(3)[np.arange(33) % 3], (4, 1, 1))
    shortlist = make_shortlist()
    fewer = {name: getattr(shortlist, name)[:n_classes] for name in ("classes", "matches", "coverage", "images")}
    fewer |= {name: getattr(shortlist, name)[:, :n_classes] for name in ("scores", "chosen")}
    selection = choose_with_images(replace(shortlist, **fewer), (0, 1, 2, 3), logits, SelectionConfig(), TEMPLATES)
    document = json.loads(json.dumps(selection.to_json(), allow_nan=False))
    assert Selection.from_json(document).to_json() == selection.to_json()


def test_selections_written_before_there_were_trials_can_be_read():
    document = make_shortlist().to_json()
    assert document["evidence"] is None
    assert Selection.from_json(document).evidence is None
    del document["evidence"]
    back = Selection.from_json(document)
    assert back == make_shortlist()


OF_MODELS = ("information", "agreement", "prior", "confirmation")
HOSTILE = [
    *((key, "dropped") for key in make_selection().to_json()["evidence"]),
    *((key, value) for key in make_selection().to_json()["evidence"] for value in (None, {}, "abc", [[[]]], math.nan)),
    *((key, [0.5, 0.5]) for key in ("temperatures", *OF_MODELS)),
    *((key, [0.5, 0.5, math.nan]) for key in ("temperatures", *OF_MODELS)),
    *((key, [0.5, 0.5, -0.1]) for key in ("temperatures", *OF_MODELS)),
    *((key, [0.5, 0.5, 1.1]) for key in OF_MODELS),
    ("temperatures", [0.5, 0.5, 0]),
    ("temperatures", [0.5, 0.5, math.inf]),
    ("temperatures", [0.5, 0.5, 10**400]),
    ("temperatures", [[0.5], [0.5], [0.5]]),
    ("offsets", [[0, 0, 0]] * 2),
    ("offsets", [[0, 0]] * 3),
    ("offsets", [[0, 0, 0], [0, 0, 0], [0]]),
    ("offsets", [0, 0, 0]),
    ("offsets", [[0, 0, 0], [0, 0, 0], [0, 0, math.nan]]),
    ("shares", [0.5, 0.5]),
    ("shares", [0.5, 0.5, -0.1]),
    ("shares", [[0.5], [0.3], [0.2]]),
    ("images", 15),
    ("images", -1),
    ("images", math.inf),
    ("images", "many"),
    ("templates", "a {}"),
    ("templates", ["no place"]),
    ("templates", ["{} and {}" * 1000]),
    ("templates", [7]),
    ("templates", {"a {}": 1}),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE)
def test_hostile_evidence_is_refused(key, value):
    document = copy.deepcopy(make_selection().to_json())
    Selection.from_json(document)
    if value == "dropped":
        del document["evidence"][key]
    else:
        document["evidence"][key] = value
    with pytest.raises(InputError, match=r"this is not a selection .*mll-hf select --json") as failure:
        Selection.from_json(document)
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 500


@pytest.mark.parametrize("evidence", [7, "abc", [], [1], {}, True, False, 0, ""])
def test_what_is_no_evidence_is_refused(evidence):
    document = make_selection().to_json() | {"evidence": evidence}
    with pytest.raises(InputError, match="this is not a selection"):
        Selection.from_json(document)
