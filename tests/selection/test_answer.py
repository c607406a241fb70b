"""The recommendation in three lines, and what a selection's estimate rests on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mll_hf.labels.label import Cost, ModelRef
from mll_hf.matching.text_encoder import DEFAULT_MODEL
from mll_hf.models.known import known_models
from mll_hf.selection import Candidates, Estimate, SelectedModel, SelectionConfig, Strategy, select
from mll_hf.selection.accuracy import MEANINGLESS_ERROR, estimate_accuracy, task_traits
from mll_hf.selection.answer import MARGIN, answer_to
from mll_hf.selection.comparison import are_meant, estimate_from_names, imagenet_accuracy, imagenet_shift
from mll_hf.selection.mll import best_by_mean_recall
from mll_hf.selection.probabilities import logit
from selection_worlds import join_by_hand, make_match, random_candidates
from worlds import make_graph, make_label


def named(candidates, seed=0):
    """Candidates whose classes have random embedded names."""
    names = np.random.default_rng(seed).normal(size=(len(candidates.match.classes), 384))
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    return replace(candidates, match=replace(candidates.match, names=names, encoder=DEFAULT_MODEL))


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
    match = candidates.match
    meant = are_meant(match.classes, match.coverage)
    expected = estimate_accuracy(
        np.array([known.imagenet]), task_traits(len(meant), match.names, None, meant), meant.mean()
    )
    assert estimate_from_names(candidates, overall, shift).accuracy[best] == pytest.approx(expected.accuracy[0])


def test_each_name_means_something_or_not():
    """By itself, or by a description that a concept matches."""
    candidates = named(random_candidates(n_classes=4))
    overall = np.linspace(0.9, 0.8, len(candidates.labels))

    def errors(coverage, classes):
        match = replace(candidates.match, classes=tuple(classes.split(",")), coverage=np.array(coverage, np.float32))
        return estimate_from_names(replace(candidates, match=match), overall, 3.0).errors[0]

    codes, words = "A17,wug,7,Danaus plexippus", "corroded pipe,gyoza,7,Danaus plexippus"
    sure, half, nothing = errors([1, 1, 0.5, 0.5], codes), errors([0, 0, 0.4, 0], words), errors([0, 0, 0.4, 0], codes)
    assert sure < half < nothing
    assert half == errors([1, 1, 0.4, 0], codes)
    limits = (select(candidates, SelectionConfig(max_gflops=limit)).estimate for limit in (10**4, 50))
    assert len({estimate.errors[0] for estimate in limits}) == 1


def test_images_of_a_specialists_domain_are_harder_than_photos():
    candidates = named(random_candidates(n_classes=2))
    candidates = replace(candidates, match=replace(candidates.match, classes=("beach", "forest")))
    overall = np.full(len(candidates.labels), 0.9)
    photos, from_above = (estimate_from_names(candidates, overall, 0.0, claims) for claims in ((), {"remote sensing"}))
    assert (from_above.accuracy < photos.accuracy).all()


@pytest.mark.parametrize(("domain", "is_sure"), [("photo", True), ("emoji", False), ("icons", False)])
def test_recall_on_drawings_alone_makes_no_accuracy_known(domain, is_sure):
    graph = make_graph()
    labels = [make_label(graph, [9] * 7, domain_names=[domain], repo_id=f"org/{n}") for n in range(2)]
    match = make_match([[3], [4]], [[1.0], [1.0]])
    candidates = named(Candidates(join_by_hand((graph, labels)), match))
    error = estimate_from_names(candidates, np.full(2, 0.9), 0.0).errors[0]
    assert (error < MEANINGLESS_ERROR) == is_sure


def test_scores_that_are_no_accuracies_give_no_estimate():
    selection = select(random_candidates(), SelectionConfig(Strategy.PAPER))
    assert selection.estimate is None
    assert selection.answer is None
    assert selection.answer_lines == ()
    assert selection.to_json()["answer"] is None


# --- the answer -------------------------------------------------------------------------------------------------------


def a_model(name, parameters, gflops):
    return SelectedModel(ModelRef(name, "1" * 40, "open_clip"), Cost(parameters, gflops), 1.0)


def lines(accuracy, gflops, n_chosen=1, error=0.1, by_images=None):
    estimate = Estimate.independent(logit(np.array(accuracy), 0.001), np.full(len(accuracy), error))
    models = [a_model(name, int(1e6 * g), g) for name, g in zip("abcd", gflops, strict=False)]
    return answer_to(models, estimate, range(n_chosen), by_images=by_images).lines


def test_the_cheapest_as_good_is_within_the_margin():
    first, second, third = lines([0.9, 0.9 - MARGIN, 0.9 - MARGIN - 0.001], [10, 4, 1])
    assert first == "Use a (10 M parameters): estimated accuracy 90 % (90 % interval: 88 to 92 %)."
    assert second == "As good and cheaper: b (4 M parameters), 2.5 times less compute, 1.0 points lower."
    assert third == "2 of 3 models are within 1 point, of 2 families: the choice among them hardly matters."


@pytest.mark.parametrize(("gflops", "times"), [(96, "1.04"), (40, "2.5"), (8, "12"), (0.5, "200"), (0.05, "2,000")])
def test_how_many_times_less_compute(gflops, times):
    assert f"parameters), {times} times less compute" in lines([0.9, 0.9], [100, gflops])[1]


def test_a_lonely_best_model_matters():
    assert lines([0.9, 0.7], [10, 1])[1:] == ("The choice matters: no other of the 2 models is within 1 point.",)
    assert lines([0.9], [10])[1] == "It is the only model: there is no choice to make."
    assert lines([0.9], [10], by_images=np.ones(1))[1] == "No other model was tried, so another may be better."


def test_models_that_are_used_together_are_all_named():
    assert lines([0.9, 0.9, 0.8], [10, 10, 1], n_chosen=2)[0] == (
        "Use together: a (10 M parameters), b (10 M parameters). The first alone: estimated accuracy 90 % (90 % "
        "interval: 88 to 92 %); that of all together is not estimated."
    )


def test_models_that_are_as_good_and_not_cheaper_are_no_contradiction():
    assert lines([0.9, 0.9, 0.8], [1, 10, 1])[1:] == (
        "The others that are as good cost more.",
        "2 of 3 models are within 1 point, of 2 families: the choice among them hardly matters.",
    )


def test_no_number_is_shown_for_what_is_not_known():
    first, third = lines([0.6, 0.3], [10, 1], error=3.0)
    second = lines([0.6, 0.595], [10, 1], error=3.0)[1]
    assert second == "As good and cheaper: b (1 M parameters), 10 times less compute."
    assert first == "Use a (10 M parameters): accuracy not known; 25 examples with their class would tell."
    assert third == "As far as is known, no other of the 2 models is within 1 point."
    assert lines([0.6, 0.6], [10, 1], error=3.0)[2] == "As far as is known, 2 of 2 models are within 1 point."


def test_a_model_of_unknown_cost_is_not_the_cheapest():
    estimate = Estimate.independent(np.zeros(2), np.ones(2))
    assert answer_to([a_model("a", 1000, 2.0), a_model("b", 0, 0.0)], estimate, [0]).cheapest == 0
