"""The figure of an answer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mll_hf.selection import Basis, Estimate, SelectionConfig, Strategy, select
from selection_worlds import random_candidates
from space_worlds import HARM

from figure import accuracy_by_cost, plain  # isort: skip


def make_selection(n_models=4, k=1):
    return select(random_candidates(30, n_models, 3), SelectionConfig(k=k))


def traces(selection):
    return {trace.name: trace for trace in accuracy_by_cost(selection).data}


def test_costs_and_their_front():
    selection = make_selection(n_models=5)
    drawn = traces(selection)
    front, chosen = drawn["best at this cost or less"], drawn["chosen"]
    assert sum(len(trace.x) for trace in drawn.values()) - len(front.x) == 5
    assert list(chosen.y) == pytest.approx([100 * selection.estimate.accuracy[0]])
    assert np.all(np.diff(front.x) >= 0)
    assert np.all(np.diff(front.y) >= 0)
    assert max(front.y) == pytest.approx(100 * selection.estimate.accuracy.max())
    assert chosen.text[0] == selection.models[0].ref.short_name
    assert json.loads(accuracy_by_cost(selection).to_json())["data"]


def test_the_best_at_any_cost_and_a_cheaper_model_are_marked():
    """Each of the two where it is not what was chosen."""
    selection = make_selection()
    cheap, dear = (np.eye(4, dtype=bool)[m][:, None].repeat(3, axis=1) for m in (1, 0))
    equal = Estimate.independent(np.array([2.0, 1.99, -1, -1]), np.full(4, 0.01))
    models = tuple(
        replace(model, cost=replace(model.cost, gflops=gflops))
        for model, gflops in zip(selection.models, (50.0, 5.0, 60.0, 70.0), strict=True)
    )
    for chosen, marked in ((cheap, "best at any cost"), (dear, "as good and cheaper")):
        drawn = traces(replace(selection, models=models, estimate=equal, chosen=chosen))
        assert list(drawn[marked].x) == ([50.0] if marked == "best at any cost" else [5.0])
        assert len(drawn["other models"].x) == 2


def test_an_accuracy_that_is_not_known_is_not_shown():
    selection = make_selection()
    sure = Estimate.independent(selection.estimate.mean, np.full(len(selection.models), 0.01))
    for estimate, is_known in ((sure, True), (replace(sure, basis=Basis.IMAGES), False)):
        figure = accuracy_by_cost(replace(selection, estimate=estimate))
        assert figure.layout.yaxis.showticklabels == is_known
        assert ("not known" in figure.data[-1].hovertext[0]) == (not is_known)


def test_a_model_of_unknown_accuracy_has_no_place_on_an_axis_with_numbers():
    selection = make_selection()
    for errors, count in (([0.01, 0.01, 9, 0.01], 3), ([9, 0.01, 0.01, 0.01], 4)):
        estimate = Estimate.independent(selection.estimate.mean, np.array(errors))
        figure = accuracy_by_cost(replace(selection, estimate=estimate))
        assert sum(len(trace.x) for trace in figure.data[1:]) == count
        assert figure.layout.yaxis.showticklabels == (count == 3)


def test_a_model_of_unknown_cost_is_not_drawn_as_one_that_costs_nothing():
    selection = make_selection()
    unknown = replace(selection.models[3], cost=replace(selection.models[3].cost, gflops=0.0))
    figure = accuracy_by_cost(replace(selection, models=(*selection.models[:3], unknown)))
    assert sum(len(trace.x) for trace in figure.data[1:]) == 3
    assert min(min(trace.x) for trace in figure.data if len(trace.x)) > 0


def test_scores_that_are_no_accuracies_are_not_drawn_as_such():
    assert accuracy_by_cost(select(random_candidates(30, 4, 3), SelectionConfig(Strategy.PAPER))) is None


def test_texts_of_strangers_are_no_markup():
    selection = make_selection()
    hostile = replace(selection.models[0], ref=replace(selection.models[0].ref, repo_id=f"org/{HARM}"))
    figure = accuracy_by_cost(replace(selection, models=(hostile, *selection.models[1:])))
    assert HARM not in figure.to_html()
    assert plain(f"  a\n{HARM}", 12) == "a &lt;img src=…"
