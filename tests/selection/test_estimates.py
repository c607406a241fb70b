"""Estimated accuracies of a selection by labels, and the answer in three lines."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mll_hf.labels.label import Cost
from mll_hf.matching.text_encoder import DEFAULT_MODEL
from mll_hf.models.known import known_models
from mll_hf.selection import Selection, SelectionConfig, Strategy, select, select_by_imagenet
from mll_hf.selection.accuracy import AccuracyEstimate, estimate_accuracy, task_traits
from mll_hf.selection.answer import answer_to
from mll_hf.selection.base import MARGIN
from mll_hf.selection.estimates import estimate_by_labels, imagenet_accuracy, imagenet_shift
from mll_hf.selection.mll import best_by_mean_recall
from mll_hf.utils.text import parameter_count
from selection_worlds import random_candidates, random_match


def named(candidates, seed=0):
    """Candidates whose classes have random embedded names."""
    names = np.random.default_rng(seed).normal(size=(len(candidates.match.classes), 384))
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    return replace(candidates, match=replace(candidates.match, names=names, encoder=DEFAULT_MODEL))


@pytest.mark.parametrize("seed", range(5))
def test_estimates_are_in_the_order_of_the_scores_and_inside_their_intervals(seed):
    selection = select(named(random_candidates(seed=seed)), SelectionConfig())
    estimates = selection.estimates
    assert (np.diff(estimates.accuracy) <= 1e-9).all()
    assert (estimates.low < estimates.accuracy).all()
    assert (estimates.accuracy < estimates.high).all()


def test_the_generally_best_model_has_the_estimate_of_its_imagenet_accuracy():
    candidates = named(random_candidates())
    best = best_by_mean_recall(candidates.labels.reference)
    known = next(model for model in known_models() if model.hub_id and model.imagenet)
    labels = [
        (replace(label, model=replace(label.model, repo_id=known.hub_id)),) if m == best else (label,)
        for m, label in enumerate(candidates.labels.reference)
    ]
    candidates = replace(candidates, labels=replace(candidates.labels, labels=tuple(labels)))
    assert imagenet_accuracy(candidates.labels, best) == known.imagenet
    overall = np.linspace(0.2, 0.8, len(candidates.labels))
    shift = imagenet_shift(candidates.labels, overall[:, None])
    traits = task_traits(len(candidates.match.classes), candidates.match.names, None)
    expected = estimate_accuracy(np.array([known.imagenet]), traits)
    assert estimate_by_labels(candidates, overall, shift).accuracy[best] == pytest.approx(expected.accuracy[0])


def test_names_that_resemble_one_another_lower_the_estimate():
    candidates = named(random_candidates())
    alike = candidates.match.names * 0.1 + np.eye(384)[0]
    alike /= np.linalg.norm(alike, axis=1, keepdims=True)
    harder = replace(candidates, match=replace(candidates.match, names=alike))
    apart, close = (select(c, SelectionConfig()).estimates.accuracy[0] for c in (candidates, harder))
    assert close < apart


def test_scores_that_are_no_accuracies_give_no_estimate():
    selection = select(random_candidates(), SelectionConfig(Strategy.PAPER))
    assert selection.estimates is None
    assert selection.answer is None
    assert selection.answer_lines == ()
    assert selection.to_json()["answer"] is None


def test_with_a_single_class_every_answer_is_right():
    candidates = random_candidates()
    one = replace(candidates, match=random_match(candidates.graph, 1))
    for selection in (select(one, SelectionConfig()), select_by_imagenet(("cat",), SelectionConfig())):
        assert (selection.estimates.accuracy == 1).all()
        assert (selection.estimates.low == 1).all()


def test_json_keeps_estimates_and_tells_the_answer():
    selection = select(named(random_candidates()), SelectionConfig())
    document = selection.to_json()
    assert Selection.from_json(document).estimates == selection.estimates
    assert document["answer"]["best"] == selection.models[0].ref.repo_id
    assert document["answer"]["lines"] == list(selection.answer_lines)
    assert len(document["answer"]["lines"]) == 3
    best = selection.models[0]
    assert selection.answer_lines[0].startswith(f"Use {best.name} ({parameter_count(best.cost.parameters)} parameters)")


def test_where_no_class_has_a_match_no_accuracy_is_known():
    candidates = named(random_candidates(n_classes=3))
    narrow = np.linspace(0.9, 0.8, len(candidates.labels))

    def known(*coverages):
        parts = [
            replace(candidates, match=replace(candidates.match, coverage=np.array(coverage, np.float32)))
            for coverage in coverages
        ]
        found = estimate_by_labels(replace(parts[0], other_groups=tuple(parts[1:])), narrow, 3.0)
        assert (found.high - found.low < 0.5).all()
        return found.known.tolist(), found.subset([0]).known.tolist()

    everything, nothing = ([True] * len(narrow), [True]), ([False] * len(narrow), [False])
    assert known([0.0, 0.0, 0.49]) == nothing
    assert known([0.0, 0.0, 0.5]) == everything
    assert known([0.0, 0.0, 0.1], [0.0, 0.9, 0.0]) == everything  # of another graph


def test_what_is_not_known_stays_so_in_a_file():
    selection = select(named(random_candidates()), SelectionConfig())
    for informed in (True, False):
        estimates = replace(selection.estimates, low=selection.estimates.accuracy - 0.01, informed=informed)
        kept = replace(selection, estimates=replace(estimates, high=estimates.accuracy + 0.01))
        read = Selection.from_json(json.loads(json.dumps(kept.to_json())))
        assert read.estimates.known.tolist() == [informed] * len(kept.models)
        assert (read.answer.accuracy is not None) is informed


# --- the answer -------------------------------------------------------------------------------------------------------


def answer(accuracy, gflops, width=0.1, tried=False):
    accuracy = np.array(accuracy)
    estimates = AccuracyEstimate(accuracy, accuracy - width / 2, accuracy + width / 2)
    return answer_to(estimates, [Cost(int(1e6 * g), g) for g in gflops], tried)


def test_the_cheapest_as_good_is_within_the_margin():
    found = answer([0.9, 0.9 - MARGIN, 0.9 - MARGIN - 0.001], [10, 4, 1])
    assert (found.best, found.cheapest, found.n_close, found.n_models) == (0, 1, 2, 3)
    assert found.saving == 2.5
    assert found.loss == pytest.approx(MARGIN)
    first, second, third = found.lines(["a", "b", "c"])
    assert first == "Use a: estimated accuracy 90 % (90 % interval: 85 to 95 %)."
    assert second == "As good and cheaper: b, 2.5 times less compute, 1.0 points lower."
    assert third.startswith("2 of 3 models are within 1 point")
    assert "b, 860 times less compute," in answer([0.9, 0.9], [4119, 4.79]).lines(["a", "b"])[1]


@pytest.mark.parametrize(("gflops", "times"), [(96, "1.04"), (40, "2.5"), (8, "12"), (0.5, "200"), (0.05, "2,000")])
def test_how_many_times_less_compute(gflops, times):
    assert f"cheaper: b, {times} times less compute" in answer([0.9, 0.9], [100, gflops]).lines(["a", "b"])[1]


def test_a_lonely_best_model_matters():
    found = answer([0.9, 0.7], [10, 1])
    assert (found.cheapest, found.n_close, found.saving) == (0, 1, 1)
    assert found.lines(["a", "b"])[1:] == (
        "No cheaper model is within 1 point of it.",
        "The choice matters: no other of the 2 models is within 1 point.",
    )


def test_models_that_are_used_together_are_all_named():
    alone = "a alone: estimated accuracy 90 % (90 % interval: 85 to 95 %)."
    lines = answer([0.9, 0.9, 0.8], [10, 10, 1]).lines
    assert lines(["a", "b", "c"], 2)[0] == f"Use together: a, b. {alone}"
    assert lines(["a", "b", "c", "d"], 4)[0] == f"Use together: a, b, c and 1 more. {alone}"


def test_a_single_model_leaves_no_choice():
    assert answer([0.9], [10]).lines(["a"])[2] == "It is the only model: there is no choice to make."


def test_a_wide_interval_gives_no_number():
    found = answer([0.6, 0.3], [10, 1], width=0.6)
    assert found.accuracy is None
    assert found.lines(["a", "b"])[2] == "As far as is known, no other of the 2 models is within 1 point."
    found = answer([0.6, 0.6], [10, 1], width=0.6)
    assert found.lines(["a", "b"])[2] == "As far as is known, 2 of 2 models are within 1 point."
    said = "Use a: accuracy not known (90 % interval: 30 to 90 %); "
    end = "a few examples with their class would tell."
    assert found.lines(["a", "b"])[0] == f"{said}unlabeled images or {end}"
    assert answer([0.6, 0.3], [10, 1], width=0.6, tried=True).lines(["a", "b"])[0] == said + end


def test_a_model_of_unknown_cost_is_not_the_cheapest():
    estimates = AccuracyEstimate(*np.tile([0.5, 0.5], (3, 1)))
    assert answer_to(estimates, [Cost(1000, 2.0), Cost(0, 0.0)], tried=False).cheapest == 0
