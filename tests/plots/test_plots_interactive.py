"""Figures of selections and labels, and the pages that hold them."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from mll_hf.errors import InputError, MissingExtraError, StorageError
from mll_hf.labels.label import Cost
from mll_hf.plots.labels import branch_comparison, strengths
from mll_hf.plots.selection import accuracy_by_cost, accuracy_heatmap, shown_classes, shown_models, with_recall
from mll_hf.plots.style import RAMP, ink_on, plain, save_page
from mll_hf.selection import Evidence, SelectionConfig, Strategy, select
from selection_worlds import candidates_on, forest, random_candidates, random_match
from worlds import make_graph, make_label, two_branches

HARM = '<img src=x onerror="harm()">'


def make_selection(n_models=4, n_classes=3, k=1):
    return select(random_candidates(30, n_models, n_classes), SelectionConfig(k=k))


def test_the_heat_map_shows_the_scores():
    selection = make_selection(k=2)
    (cells,) = accuracy_heatmap(selection).data
    np.testing.assert_array_equal(np.array(cells.z), np.round(100 * selection.scores.T))
    assert cells.texttemplate == "%{z}"
    assert cells.hovertext[1][2].endswith(f"<br>{cells.z[1][2]} %")
    headings = accuracy_heatmap(selection).layout.xaxis.ticktext
    assert [heading.startswith("<b>") for heading in headings] == [True, True, False, False]


def test_only_what_has_a_recall_is_shown_as_one():
    selection = make_selection()
    first, *others = selection.models
    mixed = replace(
        selection,
        models=(replace(first, evidence=Evidence.OVERALL), *others),
        coverage=np.array([0.0, 0.37, 1.0]),  # nothing is like the first class
    )
    shown = with_recall(mixed)
    assert (shown.models, shown.classes) == (tuple(others), selection.classes[1:])
    np.testing.assert_array_equal(shown.scores, selection.scores[1:, 1:])
    assert shown.explain(shown.classes[0]) == selection.matches[1]
    assert with_recall(replace(mixed, coverage=np.zeros(3))) is None
    assert with_recall(replace(mixed, models=mixed.models[:1] * 4)) is None
    assert with_recall(replace(selection, strategy=Strategy.PAPER)) is None


def test_a_heat_map_of_many_shows_the_chosen_and_what_tells_apart():
    selection = make_selection(n_models=12, n_classes=60, k=10)
    assert shown_models(selection) == list(range(10))
    assert len(shown_models(make_selection(n_models=12))) == 8
    classes = shown_classes(selection)
    spread = np.ptp(selection.scores[:10], axis=0)
    assert len(classes) == 40
    assert classes == sorted(classes)
    assert spread[classes].min() >= np.delete(spread, classes).max()
    figure = accuracy_heatmap(selection)
    assert np.array(figure.data[0].z).shape == (40, 10)
    assert figure.layout.height > 40 * 20


def test_costs_and_their_front():
    selection = make_selection(n_models=5)
    front, others, chosen = accuracy_by_cost(selection).data
    assert len(others.x) == 4
    assert list(chosen.y) == pytest.approx([100 * selection.estimates.accuracy[0]])
    assert np.all(np.diff(front.x) > 0)
    assert max(front.y) == pytest.approx(100 * selection.estimates.accuracy.max())
    assert chosen.text[0] == selection.models[0].ref.short_name


def test_costs_that_are_all_the_same_or_nothing():
    graph = forest(30)
    for gflops in (0.0, 3.0):
        labels = tuple(make_label(graph, [n] * 30, repo_id=f"org/m{n}", cost=Cost(1, gflops)) for n in range(3))
        figure = accuracy_by_cost(select(candidates_on(graph, labels, random_match(graph, 3)), SelectionConfig()))
        low, high = figure.layout.xaxis.range
        assert low < high
        assert len(figure.layout.xaxis.tickvals) == 1


def test_an_accuracy_that_is_not_known_is_not_shown():
    selection = make_selection()
    sure = replace(selection.estimates, low=selection.estimates.accuracy, high=selection.estimates.accuracy)
    for estimates, is_known in ((sure, True), (replace(sure, informed=False), False)):
        figure = accuracy_by_cost(replace(selection, estimates=estimates))
        assert figure.layout.yaxis.showticklabels == is_known
        assert ("not known" in figure.data[2].hovertext[0]) == (not is_known)
        assert (f"{100 * sure.accuracy[0]:.0f} % (" in figure.data[2].hovertext[0]) == is_known


def test_scores_that_are_no_accuracies_are_not_drawn_as_such():
    assert accuracy_by_cost(select(random_candidates(30, 4, 3), SelectionConfig(Strategy.PAPER))) is None


def test_costs_have_no_exponent():
    graph = forest(30)
    labels = tuple(
        make_label(graph, [n] * 30, repo_id=f"org/m{n}", cost=Cost(1, gflops)) for n, gflops in enumerate((8, 90, 4000))
    )
    figure = accuracy_by_cost(select(candidates_on(graph, labels, random_match(graph, 3)), SelectionConfig()))
    assert list(figure.layout.xaxis.ticktext) == ["10", "100", "1,000"]


def test_strengths_are_those_of_the_tree():
    graph = two_branches()
    hits = [{"dog": 3, "car": 8}.get(concept.id[:3], 10) for concept in graph.concepts]
    (tiles,) = strengths(make_label(graph, hits), graph).data
    by_id = dict(zip(tiles.ids, zip(tiles.parents, tiles.marker.colors, tiles.text, strict=True), strict=True))
    assert by_id["thing"][0] == ""
    assert by_id["car00"] == ("vehicle", pytest.approx(0.8), "80%")
    assert by_id["vehicle"][0] == "artifact"
    assert tiles.level == "thing"
    assert sum(tiles.values) == len(graph)


def test_all_roots_of_a_graph_are_shown():
    graph = make_graph({"letter a": (), "letter b": (), "sign": ("elsewhere",), "stop": ("sign",)})
    (trace,) = strengths(make_label(graph), graph).data
    assert trace.level is None
    assert [name for name, parent in zip(trace.labels, trace.parents, strict=True) if not parent] == [
        "letter a", "letter b", "sign"
    ]  # fmt: skip
    assert trace.maxdepth == 3


def test_a_label_without_images_has_no_tiles():
    graph = make_graph()
    assert list(strengths(make_label(graph, support=0), graph).data[0].ids) == []


def test_branches_where_one_is_ahead():
    graph = two_branches()
    cars = make_label(graph, [{"dog": 3, "car": 8}.get(concept.id[:3], 10) for concept in graph.concepts])
    (bars,) = branch_comparison(cars, make_label(graph, [5] * len(graph)), graph).data
    assert list(bars.x) == pytest.approx([30, -20])
    assert bars.marker.color[0] != bars.marker.color[1]
    small = make_graph()
    assert len(branch_comparison(make_label(small), make_label(small), small).data[0].x) == 0


def test_texts_of_strangers_are_no_markup(tmp_path):
    graph = make_graph({"cat": (), HARM: ("cat",)}, HARM)
    label = make_label(graph, repo_id=f"local-dir:/{HARM}")
    figures = {HARM: strengths(label, graph), "b": branch_comparison(label, label, graph)}
    save_page(tmp_path / "page.html", HARM, figures)
    page = (tmp_path / "page.html").read_text()
    assert HARM not in page
    assert not any("<" in name for name in figures[HARM].data[0].labels)
    assert not any("<img" in text for text in figures[HARM].data[0].hovertext)
    assert "&lt;img src=x" in page
    assert plain(f"  a\n{HARM}", 12) == "a &lt;img src=…"


def test_a_page_needs_nothing_else(tmp_path):
    figure = accuracy_by_cost(make_selection())
    save_page(tmp_path / "page.html", "Models", {"Costs": figure, "Again": figure})
    page = (tmp_path / "page.html").read_text()
    assert page.count("<h1>") == 1
    assert page.count("<h2>") == 2
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="http[^"]*"', page) == []
    assert page.count("plotly.js v") <= 1


@pytest.mark.parametrize("name", ["page.png", "page", "page.html.txt"])
def test_only_pages_are_written(tmp_path, name):
    with pytest.raises(InputError, match=r"ends in \.html"):
        save_page(tmp_path / name, "x", {})


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        save_page(tmp_path / "file" / "page.html", "x", {})


def test_without_plotly(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(MissingExtraError, match=r"\[plots\]"):
        accuracy_heatmap(make_selection())


def test_ink_can_be_read_all_along_the_ramp():
    places = np.linspace(0, 1, 41)
    for place, ink in zip(places, ink_on(places), strict=True):
        assert contrast(along_ramp(place), color(ink)) > 3.9


def color(text):
    return np.array([int(text[at : at + 2], 16) for at in (1, 3, 5)]) / 255


def along_ramp(place):
    stops = [stop for stop, _ in RAMP]
    return np.array([np.interp(place, stops, [color(text)[channel] for _, text in RAMP]) for channel in range(3)])


def contrast(one, other):
    """Of WCAG 2."""
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (one, other)]
    bright = sorted((float(c @ [0.2126, 0.7152, 0.0722]) for c in linear), reverse=True)
    return (bright[0] + 0.05) / (bright[1] + 0.05)


def test_figures_are_json():
    selection = make_selection()
    for figure in (accuracy_heatmap(selection), accuracy_by_cost(selection)):
        assert json.loads(figure.to_json())["data"]
