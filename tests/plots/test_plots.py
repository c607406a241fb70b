"""Figures of the benchmark."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench_results import ACCURACIES, GENERAL, ORACLE, make_results
from benchmark import figures as plots
from benchmark.figures import ablations, accuracy_by_cost, accuracy_by_images, dumbbells, gap_by_hub_size
from mll_hf.errors import MissingExtraError, StorageError
from mll_hf.plots.style import pareto_front
from worlds import examples


@pytest.fixture(scope="module")
def results():
    return make_results()


def lines(axes):
    """The lines of a figure with a name, by it."""
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


@examples
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20))
def test_the_front_is_what_nothing_beats(points):
    costs, values = np.array(points, float).T
    front = pareto_front(costs, values)
    for row in range(len(points)):
        beaten = (
            (costs <= costs[row]) & (values >= values[row]) & ((costs < costs[row]) | (values > values[row]))
        ).any()
        there = (costs[row], values[row]) in {(costs[f], values[f]) for f in front}
        assert there == (not beaten)
    assert (np.diff(costs[front]) > 0).all()
    assert (np.diff(values[front]) > 0).all()


def test_all_figures_are_written_and_always_the_same(results, tmp_path):
    paths = plots.save_figures(results, tmp_path / "a")
    again = plots.save_figures(results, tmp_path / "b")
    assert len(set(paths)) == 5
    for path, other in zip(paths, again, strict=True):
        assert path.read_bytes() == other.read_bytes()
        with Image.open(path) as picture:
            assert len(picture.convert("L").getcolors()) > 10


def test_gaps_by_hub_size_are_those_of_the_tables(results):
    axes = gap_by_hub_size(results).axes[0]
    line = lines(axes)["MI"]
    assert list(line.get_xdata()) == [3, 5, 6]
    np.testing.assert_allclose(line.get_ydata(), 0.2 / 0.3)
    assert lines(axes)["SOTA"].get_ydata()[0] == pytest.approx(0.4 / 0.3)


def test_accuracy_by_number_of_images(results):
    axes = accuracy_by_images(results).axes[0]
    np.testing.assert_allclose(lines(axes)["MI"].get_ydata(), [0.45, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["32", "64", "128", "256", "512", "all"]
    assert "SOTA + features" not in lines(axes)  # it cannot answer images that it has not seen
    assert {ORACLE, GENERAL} <= set(lines(axes))


def test_dumbbells_have_a_row_for_each_target(results):
    axes = dumbbells(results).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]  # the smaller gap below
    marked = {points.get_label(): points.get_offsets() for points in axes.collections}
    np.testing.assert_allclose(marked["mll, k=1"][:, 0], ACCURACIES["mll, k=1"])
    np.testing.assert_allclose(marked[ORACLE][:, 0], ACCURACIES[ORACLE])


def test_names_of_tasks_are_no_formulas(results, tmp_path):
    name = "cost $5_{x $6_{"
    facts = (replace(results.facts[0], name=name), *results.facts[1:])
    records = [replace(one, task=name if one.task == results.facts[0].name else one.task) for one in results.records]
    figure = dumbbells(replace(results, facts=facts, records=tuple(records)))
    figure.savefig(tmp_path / "figure.png")
    assert name in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_ablations_show_alpha_and_k(results):
    left, right = ablations(results).axes
    assert list(lines(left)["paper"].get_xdata()) == [0.5, 0.6, 0.7, 0.8, 0.9]
    np.testing.assert_allclose(lines(left)["paper"].get_ydata(), 0.3)
    assert set(lines(right)) == {"paper", "mll"}


def test_the_front_leaves_out_what_was_told_answers(results):
    axes = accuracy_by_cost(results).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert any("SOTA + features" in text for text in texts)  # the best, on the front
    assert not any("50 labels" in text for text in texts)


def test_without_matplotlib(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"\[plots\]"):
        ablations(results)


def test_a_folder_that_cannot_be_written(results, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        plots.save_figures(results, tmp_path / "file")
