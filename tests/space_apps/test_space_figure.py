"""The figure of a selection."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mll_hf.selection import Basis, Estimate, SelectionConfig, Strategy, select
from selection_worlds import random_candidates
from space_worlds import load_app

load_app()
from figure import accuracy_by_cost, plain  # noqa: E402

HARM = '<img src=x onerror="harm()">'


def make_selection(n_models=4, n_classes=3, k=1):
    return select(random_candidates(30, n_models, n_classes), SelectionConfig(k=k))


def test_costs_and_their_front():
    selection = make_selection(n_models=5)
    front, others, chosen = accuracy_by_cost(selection).data
    assert len(others.x) == 4
    assert list(chosen.y) == pytest.approx([100 * selection.estimate.accuracy[0]])
    assert np.all(np.diff(front.x) > 0)
    assert max(front.y) == pytest.approx(100 * selection.estimate.accuracy.max())
    assert chosen.text[0] == selection.models[0].ref.short_name
    assert json.loads(accuracy_by_cost(selection).to_json())["data"]


def test_an_accuracy_that_is_not_known_is_not_shown():
    selection = make_selection()
    sure = Estimate.independent(selection.estimate.mean, np.full(len(selection.models), 0.01))
    for estimate, is_known in ((sure, True), (replace(sure, basis=Basis.IMAGES), False)):
        figure = accuracy_by_cost(replace(selection, estimate=estimate))
        assert figure.layout.yaxis.showticklabels == is_known
        assert ("not known" in figure.data[2].hovertext[0]) == (not is_known)


def test_a_model_of_unknown_accuracy_has_no_place_on_an_axis_with_numbers():
    selection = make_selection()
    errors = np.array([0.01, 0.01, 9, 0.01])
    _, others, chosen = accuracy_by_cost(
        replace(selection, estimate=Estimate.independent(selection.estimate.mean, errors))
    ).data
    assert (len(chosen.x), len(others.x)) == (1, 2)
    errors = errors[[2, 0, 1, 3]]
    figure = accuracy_by_cost(replace(selection, estimate=Estimate.independent(selection.estimate.mean, errors)))
    assert not figure.layout.yaxis.showticklabels
    assert len(figure.data[1].x) == 3


def test_scores_that_are_no_accuracies_are_not_drawn_as_such():
    assert accuracy_by_cost(select(random_candidates(30, 4, 3), SelectionConfig(Strategy.PAPER))) is None


def test_texts_of_strangers_are_no_markup():
    selection = make_selection()
    hostile = replace(selection.models[0], ref=replace(selection.models[0].ref, repo_id=f"org/{HARM}"))
    figure = accuracy_by_cost(replace(selection, models=(hostile, *selection.models[1:])))
    assert HARM not in figure.to_html()
    assert plain(f"  a\n{HARM}", 12) == "a &lt;img src=…"
