"""The choice: what every selection keeps, limits, models without a label, and the JSON form."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.errors import InputError
from mll_hf.labels.label import Cost
from mll_hf.models.known import usable_models
from mll_hf.selection import (
    Figures,
    Head,
    Selection,
    SelectionConfig,
    Strategy,
    choose_with_images,
    select,
)
from selection_worlds import (
    LABEL_STRATEGIES,
    candidates_on,
    join_by_hand,
    random_candidates,
    random_match,
    worlds,
)
from worlds import examples, know_only, make_graph, make_known, make_label

GRAPH = make_graph()


@examples
@given(
    candidates=worlds,
    k=st.integers(1, 8),
    strategy=st.sampled_from(LABEL_STRATEGIES),
)
def test_what_every_selection_keeps(candidates, k, strategy):
    limit = len(candidates.labels)
    selection = select(candidates, SelectionConfig(strategy, k=k), task="counting")
    assert (np.diff(selection.overall) <= 1e-12).all()
    per_class = selection.chosen.sum(axis=0)
    assert (per_class == min(k, limit)).all()
    if strategy in (Strategy.MLL, Strategy.GENERAL):
        assert selection.chosen_models == tuple(range(min(k, limit)))  # the best overall, for all classes
    for y, name in enumerate(selection.classes):
        explained = selection.explain(name)
        concepts = [candidates.labels.union.graph.concepts[v] for v in candidates.match.concepts[y]]
        assert [(c.id, c.name) for c in explained] == [(c.id, c.name) for c in concepts]
        np.testing.assert_allclose([c.weight for c in explained], candidates.match.weights[y])
    assert (selection.domain, selection.task) == (candidates.domain, "counting")
    with pytest.raises(InputError, match="no class 'horse'"):
        selection.explain("horse")


@pytest.mark.parametrize("strategy", [Strategy.PAPER, Strategy.MLL])
def test_ties_are_broken_by_id_and_not_by_rounding(strategy):
    # a number of rows with a remainder, so that a matrix product adds up the last twins in another order
    candidates = random_candidates(n_concepts=300, n_models=1, n_classes=37)
    label = candidates.labels.reference[0]
    twins = tuple(replace(label, model=replace(label.model, repo_id=f"org/m{m:02d}")) for m in range(41))
    for order in np.random.default_rng(0).permuted(np.tile(np.arange(41), (5, 1)), axis=1):
        shuffled = candidates_on(candidates.labels.union.graph, [twins[m] for m in order], candidates.match)
        selection = select(shuffled, SelectionConfig(strategy, k=2))
        assert [model.ref.repo_id for model in selection.models] == [twin.model.repo_id for twin in twins]
        assert selection.chosen_models == (0, 1)


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", LABEL_STRATEGIES)
def test_caps_leave_models_out(strategy):
    labels = tuple(
        make_label(GRAPH, hits=[hits] * 7, repo_id=f"org/{name}", cost=Cost(parameters, gflops))
        for name, hits, parameters, gflops in [
            ("huge", 10, 10**9, 100.0),
            ("slow", 9, 10**6, 50.0),
            ("fine", 5, 10**8, 20.0),
            ("tiny", 1, 10**5, 0.1),
        ]
    )
    candidates = candidates_on(GRAPH, labels, random_match(GRAPH, 2))

    def names(**caps):
        return {model.ref.short_name for model in select(candidates, SelectionConfig(strategy, **caps)).models}

    assert names() == {"huge", "slow", "fine", "tiny"}
    assert names(max_parameters=10**8) == {"slow", "fine", "tiny"}
    assert names(max_parameters=10**8 - 1) == {"slow", "tiny"}
    assert names(max_gflops=20) == {"fine", "tiny"}
    assert names(max_gflops=30, max_parameters=10**7) == {"tiny"}
    with pytest.raises(InputError, match=r"none of the 4 .*smallest has 100,000 .* cheapest takes 0.1 GFLOPs"):
        names(max_gflops=0.01)


def test_the_paper_needs_labels(monkeypatch):
    published = known_and_unknown(monkeypatch, [0.4, 0.6], [2, 6], [0.5, 0.7]).subset([])
    with pytest.raises(InputError, match="strategy 'paper' needs labels, and there are none; use strategy 'mll'"):
        select(published, SelectionConfig(Strategy.PAPER))


@pytest.mark.parametrize("strategy", [Strategy.MLL, Strategy.GENERAL])
def test_without_a_labeled_model_left_published_ones_are_chosen(monkeypatch, strategy):
    """With labels whose licenses are not allowed, this ended in StopIteration."""
    candidates = known_and_unknown(monkeypatch, [0.4, 0.6], [2, 6], [0.5, 0.7])
    for options in ({"licenses": "apache-2.0"}, {"max_parameters": 3}, {"without": "org/known0, org/known1"}):
        labels = tuple((replace(label, cost=Cost(5, 1.0), license="mit"),) for label in candidates.labels.reference)
        published = tuple(replace(m, license="apache-2.0", parameters=2) for m in candidates.published)
        given_ = replace(candidates, labels=replace(candidates.labels, labels=labels), published=published)
        selection = select(given_, SelectionConfig(strategy, k=2, **options))
        assert [model.name for model in selection.models] == ["org/other1", "org/other0"]
        assert selection.strategy is strategy
        assert selection.scores[:, 0].tolist() == [0.7, 0.5]
        assert Selection.from_json(json.loads(json.dumps(selection.to_json()))) == selection


def test_licenses_are_those_that_labels_and_figures_claim(monkeypatch):
    labels = tuple(
        make_label(GRAPH, [5] * 7, repo_id=f"org/{name}", license=license)
        for name, license in (("a", "MIT"), ("b", "cc-by-nc-4.0"), ("c", None))
    )
    candidates = candidates_on(GRAPH, labels, random_match(GRAPH, 2))
    assert [m.name for m in select(candidates, SelectionConfig(licenses="mit")).models] == ["org/a"]
    both = select(candidates, SelectionConfig(licenses=["mit", "CC-BY-NC-4.0"]))
    assert {m.name for m in both.models} == {"org/a", "org/b"}
    with pytest.raises(InputError, match=r"the allowed licenses \(gpl\) .* the licenses are .*unknown \(1\)"):
        select(candidates, SelectionConfig(licenses="gpl"))
    with pytest.raises(InputError, match=r"within the limits, the allowed licenses \(mit\)"):
        select(candidates, SelectionConfig(licenses="mit", max_parameters=1))
    with pytest.raises(InputError, match="leave out fewer"):
        select(candidates, SelectionConfig(licenses="mit", without="org/a"))


# --- models without a label -------------------------------------------------------------------------------------------


def test_choosing_by_imagenet():
    selection = select(random_candidates(), SelectionConfig(Strategy.IMAGENET, k=3), "counting")
    accuracies = sorted((model.imagenet for model in usable_models()), reverse=True)
    assert selection.chosen_models == (0, 1, 2)
    assert {model.figures for model in selection.models} == {Figures.PUBLISHED}
    assert (selection.scores == np.array(accuracies)[:, None]).all()
    assert Selection.from_json(json.loads(json.dumps(selection.to_json()))).to_json() == selection.to_json()
    with pytest.raises(InputError, match="raise the limits"):
        select(random_candidates(), SelectionConfig(Strategy.IMAGENET, max_parameters=1))


def published(name, imagenet, parameters=10**8, gflops=10.0):
    return make_known(f"org/{name}", imagenet, parameters, gflops)


def known_and_unknown(monkeypatch, imagenet, hits, unknown):
    """Labeled models with published accuracies, and others that have nothing but an accuracy."""
    table = tuple(published(f"known{m}", accuracy) for m, accuracy in enumerate(imagenet))
    others = tuple(published(f"other{m}", accuracy) for m, accuracy in enumerate(unknown))
    know_only(monkeypatch, table + others)
    labels = tuple(make_label(GRAPH, hits=[h] * 7, repo_id=f"org/known{m}") for m, h in enumerate(hits))
    return candidates_on(GRAPH, labels, random_match(GRAPH, 3), published=others)


def test_models_with_overall_figures_only_are_placed_by_their_imagenet_accuracy(monkeypatch):
    candidates = known_and_unknown(monkeypatch, [0.4, 0.5, 0.6], [2, 4, 6], [0.45, 0.65, 0.9, 0.1])
    selection = select(candidates, SelectionConfig(Strategy.GENERAL, k=2))
    ids = [model.name for model in selection.models]
    assert ids == ["org/other2", "org/other1", "org/known2", "org/other0", "org/known1", "org/known0", "org/other3"]
    best = ids.index("org/known2")  # of the labels the generally best: it has its own ImageNet accuracy
    odds = selection.overall / (1 - selection.overall)
    assert odds[0] / odds[best] == pytest.approx((0.9 / 0.1) / (0.6 / 0.4), rel=1e-6)
    assert (selection.scores[0] == selection.scores[0, 0]).all()
    assert [selection.models[m].figures for m in selection.chosen_models] == [Figures.PUBLISHED] * 2
    paper = select(candidates, SelectionConfig(Strategy.PAPER))
    assert {model.figures for model in paper.models} == {Figures.LABEL}  # its scores are no accuracies
    assert (np.diff(selection.estimate.accuracy) <= 1e-12).all()


# --- JSON -------------------------------------------------------------------------------------------------------------


def make_selection(strategy=Strategy.MLL, tried=False):
    """A selection of two of four models for three classes, also after a trial."""
    candidates = random_candidates(n_models=4, n_classes=3, seed=0, domain="photo")
    selection = select(candidates, SelectionConfig(strategy, k=4 if tried else 2), task="naming")
    embedded = [(images, Head.zero_shot(np.eye(3), 1.0)) for images in np.random.default_rng(0).normal(size=(4, 40, 3))]
    config = SelectionConfig(k=2)
    return choose_with_images(selection, range(4), embedded, config) if tried else selection


@examples
@given(candidates=worlds, strategy=st.sampled_from(LABEL_STRATEGIES), k=st.integers(1, 4))
def test_json_round_trip(candidates, strategy, k):
    # the paper's weights are cosines and may be negative; a model may be there in two revisions
    match = replace(candidates.match, weights=candidates.match.weights - np.float32(0.3))
    labels = candidates.labels.reference
    twin = replace(labels[0], model=replace(labels[0].model, revision="e" * 40))
    candidates = replace(candidates, labels=join_by_hand((candidates.labels.union.graph, (*labels, twin))))
    candidates = replace(candidates, match=match) if strategy is Strategy.PAPER else candidates
    selection = select(candidates, SelectionConfig(strategy, k=k), task="naming")
    back = Selection.from_json(json.loads(json.dumps(selection.to_json(), allow_nan=False)))
    assert back == selection


def test_a_trial_there_and_back():
    selection = make_selection(tried=True)
    back = Selection.from_json(json.loads(json.dumps(selection.to_json(), allow_nan=False)))
    assert back == replace(selection, heads=())  # they are in a file of their own
    assert back.trial != replace(selection.trial, n_images=41)


def test_what_the_document_tells_readers():
    document = make_selection().to_json()
    assert document["answer"]["best"] == document["models"][0]["id"]
    assert len(document["answer"]["lines"]) == 2  # no other model is as good
    assert document["estimate"]["basis"] == "names"
    for model in document["models"]:
        assert model["overall"] == pytest.approx(sum(model["scores"]) / 3)
        assert model["accuracy"] is None  # no number is given that is not known
    sure = replace(make_selection(), estimate=replace(make_selection().estimate, covariance=0.01 * np.eye(4)))
    assert all(0 < m["accuracy"]["low"] < m["accuracy"]["estimate"] < 1 for m in sure.to_json()["models"])


MODEL = ("models", 0)
MATCH = ("matches", "class 0", 0)
TRIAL = make_selection(tried=True).to_json()["trial"]
DROPPED = object()
OPTIONAL = ("answer",)
HOSTILE = [
    *(((key,), DROPPED) for key in make_selection().to_json() if key not in OPTIONAL),
    *(
        ((*MODEL, key), DROPPED)
        for key in make_selection().to_json()["models"][0]
        if key not in ("overall", "accuracy")
    ),
    *(((*MATCH, key), DROPPED) for key in ("id", "name", "weight")),
    *(((key,), value) for key in ("classes", "models", "chosen", "matches") for value in (None, "abc", [], {})),
    *(((key,), value) for key in ("trial", "estimate") for value in (7, "abc", [], {}, True)),
    *((("trial", key), value) for key in TRIAL for value in (DROPPED, "abc", [[[]]], math.nan)),
    *((("trial", key), [0.5, 0.5, 0.5, -0.1]) for key in ("zero_shot", "fitted", "weights")),
    (("trial", "strengths"), [0.1] * 3),
    (("trial", "shares"), [0.5, 0.5]),
    (("trial", "n_images"), 0),
    (("templates",), ["no place"]),
    (("templates",), "abc"),
    (("notes",), [1]),
    (("estimate", "basis"), "hope"),
    (("estimate", "mean"), [0.5]),
    (("estimate", "mean"), [0.5, 0.5, 0.5, math.nan]),
    (("estimate", "variance"), [0.5, 0.5, 0.5, -1]),
    (("classes",), ["class 0", "class 1", "class 1"]),
    (("classes",), ["class 0", "class 1", 2]),
    (("strategy",), "best"),
    (("k",), 0),
    (("k",), math.inf),
    (("domain",), 3),
    (("chosen", "class 0"), []),
    (("chosen", "class 0"), "org/m00"),
    (("chosen", "class 0"), ["org/unknown"]),
    ((*MODEL, "id"), 5),
    ((*MODEL, "id"), "org/m99"),
    ((*MODEL, "scores"), [0.5]),
    ((*MODEL, "scores"), [0.5, 0.5, 10**400]),
    ((*MODEL, "scores"), [0.5, 0.5, [0.5]]),
    ((*MODEL, "temperature"), 0),
    ((*MODEL, "temperature"), math.inf),
    ((*MODEL, "parameters"), -1),
    ((*MODEL, "gflops"), math.nan),
    ((*MODEL, "figures"), "hearsay"),
    ((*MATCH, "weight"), "x"),
    (("coverage", "class 0"), 1.5),
    (("matches", "class 0"), []),
]


@pytest.mark.parametrize(("path", "value"), HOSTILE)
def test_hostile_selections_are_refused(path, value):
    document = copy.deepcopy(make_selection(tried=path[0] in ("trial", "estimate")).to_json())
    Selection.from_json(document)
    *parents, key = path
    place = document
    for parent in parents:
        place = place[parent]
    if value is DROPPED:
        del place[key]
    else:
        place[key] = value
    with pytest.raises(InputError, match=r"this is not a selection .*mll-hf select --json") as failure:
        Selection.from_json(document)
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 500
