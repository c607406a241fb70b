"""What methods see, scenarios, and the runner: on models whose embeddings are made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmark.methods import (
    GENERAL,
    ORACLE,
    OURS,
    PAPER,
)
from benchmark.report import make_report
from benchmark.run import BenchConfig, run
from benchmark.scenarios import (
    Kind,
)
from benchmark.world import open_task
from benchmark_worlds import LABEL_FREE, filled_cache, make_index, make_suite, tasks
from mll_hf.client import Client
from mll_hf.ensemble import Rule
from mll_hf.ensemble.rules import combine, softmax
from mll_hf.labels.store import LabelStore
from mll_hf.selection import SelectionConfig, Strategy
from selection_worlds import WordEncoder
from worlds import make_rivals

CONFIG = BenchConfig(draws=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield filled_cache(tmp_path_factory.mktemp("cache"), patch)


@pytest.fixture(scope="module")
def results(cache):
    return run(make_suite(), make_index(), cache, CONFIG)


@pytest.fixture
def opened(cache, results):
    """The view of the first task, and its true classes."""
    suite = make_suite()
    view, labels = open_task(suite.hub, suite.tasks[0], make_index(), cache)
    return replace(view, general=results.general.accuracies), labels


def record_of(results, method, task="first", scenario="all images", draw=0):
    return next(r for r in results.records if (r.method, r.task, r.scenario, r.draw) == (method, task, scenario, draw))


# --- what methods see -------------------------------------------------------------------------------------------------


def test_permuted_classes_change_no_choice_of_methods_without_labels(cache, results):
    suite = make_suite()
    first = suite.tasks[0]
    shuffled = replace(first, labels=(first.labels + 1) % len(first.classes))  # every answer wrong, the same images
    other = run(replace(suite, tasks=(shuffled,)), make_index(), cache, CONFIG)

    def choices(of, methods):
        drawn_by_class = (str(Kind.LONG_TAIL), str(Kind.ABSENT), str(Kind.FREQUENT))
        return {
            (r.scenario, r.method, r.draw): r.models
            for r in of.records
            if r.task == "first" and r.method in methods and not r.scenario.startswith(drawn_by_class)
        }

    unlabeled = {method.name for method in LABEL_FREE}
    assert choices(results, unlabeled) == choices(other, unlabeled)
    assert len({method for _, method, _ in choices(results, unlabeled)}) == len(unlabeled)
    told = {"accuracy, 50 labels", "LEEP, 50 labels", ORACLE}
    assert choices(results, told) != choices(other, told)
    assert record_of(results, GENERAL).accuracy != record_of(other, GENERAL).accuracy


# --- methods ----------------------------------------------------------------------------------------------------------


def test_single_models_ensembles_and_bounds_by_hand(results, opened):
    view, labels = opened
    alone = results.accuracies[:, 0]
    np.testing.assert_allclose(alone, (view.logits.argmax(axis=2) == labels).mean(axis=1))
    levels = [label.mean_recall for label in view.hub.labels]
    strong = int(np.argmax(levels))
    general = results.general.accuracies

    def accuracy(probabilities):
        return (probabilities.argmax(axis=1) == labels).mean()

    expected = {
        "random": alone.mean(),
        "INB": alone[general.argmax()],
        GENERAL: alone[strong],
        ORACLE: alone.max(),
        "best fixed": alone[results.accuracies.mean(axis=1).argmax()],
        "uniform, all": accuracy(softmax(view.logits).mean(axis=0)),
    }
    assert {name: record_of(results, name).accuracy for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "strategy", "k", "rule"),
    [
        (PAPER, Strategy.PAPER, 1, Rule.ENTROPY),
        ("paper, k=3", Strategy.PAPER, 3, Rule.ENTROPY),
        (OURS, Strategy.MLL, 1, Rule.LINEAR_POOL),
        ("mll, k=3", Strategy.MLL, 3, Rule.LINEAR_POOL),
    ],
)
def test_strategies_are_those_of_the_library(name, strategy, k, rule, results, opened, tmp_path):
    view, labels = opened
    store = LabelStore(tmp_path / "labels")
    store.add_graph(view.hub.graph)
    for label in view.hub.labels:
        store.write(label, make_rivals(label))
    client = Client(store.folder, encoder=WordEncoder())
    task = tasks()[0]
    selection = client.select(task.classes, SelectionConfig(strategy, k), domain=task.domain, task=task.task)
    row = {ref: m for m, ref in enumerate(view.hub.refs)}
    union = [row[selection.models[m].ref] for m in selection.chosen_models]
    chosen = list(selection.chosen_models)
    logits = view.logits[union] / (selection.temperatures[chosen, None, None] if rule.is_calibrated else 1)
    answers = combine(rule, logits, selection.chosen[chosen], selection.weights[chosen]).argmax(axis=1)
    record = record_of(results, name)
    assert record.models == tuple(sorted(union))
    assert record.accuracy == pytest.approx((answers == labels).mean())
    assert record.gflops == pytest.approx(selection.cost.gflops)


# --- the report -------------------------------------------------------------------------------------------------------


def test_methods_are_compared_over_the_tasks(results):
    report = make_report(results, "python scripts/run_benchmark.py tasks --labels x")
    (table,) = (table for table in report.tables if table.name == "comparison")
    rows = {row["method"]: row for row in table.rows}
    of = results.per_task(Kind.ALL)
    ours, general, best = of["uniform, all"], of[GENERAL], of[ORACLE]
    found, leads = rows["uniform, all"], ours - general
    assert found["accuracy"] == pytest.approx(ours.mean())
    assert found["minus general"].estimate == pytest.approx(leads.mean())
    # resampling two tasks gives either lead twice, or both
    assert found["minus general"][1:] == (pytest.approx(leads.min()), pytest.approx(leads.max()))
    assert found["worst task"] == pytest.approx(leads.min())
    assert found["W/L/T"] == f"{(leads > 0).sum()}/{(leads < 0).sum()}/{(leads == 0).sum()}"
    assert found["minus paper"].estimate == pytest.approx((ours - of[PAPER]).mean())
    assert found["gap closed"].estimate == pytest.approx(leads.mean() / (best - general).mean())
    assert (rows[GENERAL]["gap closed"].estimate, rows[GENERAL]["p"]) == (0, 1)
