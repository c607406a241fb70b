"""Tables of the benchmark, against figures worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmark.methods import GENERAL, METHODS, ORACLE, PAPER
from benchmark.report import make_report
from benchmark.run import BenchConfig, Record, Results, TaskFacts
from benchmark.scenarios import scenarios
from benchmark_worlds import make_suite

TASKS = ("first", "second")
# accuracy on the two tasks, all images and models
ACCURACIES = {
    "random": (0.2, 0.2),
    "uniform, all": (0.5, 0.1),
    GENERAL: (0.4, 0.2),
    PAPER: (0.3, 0.2),
    "mll, k=1": (0.4, 0.4),
    "MI": (0.5, 0.5),
    "accuracy, 50 labels": (0.6, 0.6),
    ORACLE: (0.6, 0.6),
}
CHOSEN = tuple(method for method in METHODS if method.name in ACCURACIES)
SHIFT = {"random hubs 3": 0.1, "fewer images 32": -0.05}  # of all methods in a scenario


def record(task, scenario, method, draw, accuracy, **fields):
    known = {"recall": accuracy / 2, "gflops": 2.0, "models": (0, 1), "seconds": 0.25, **fields}
    return Record(task, scenario, method, draw, accuracy, **known)


def make_results(draws=2):
    records = []
    for scenario in scenarios(6, draws):
        for method in CHOSEN:
            if not scenario.takes(method):
                continue
            for t, task in enumerate(TASKS):
                for draw in range(scenario.draws_of(method)):
                    accuracy = ACCURACIES.get(method.name, (0.25, 0.35))[t] + SHIFT.get(scenario.name, 0)
                    if method.name == "accuracy, 50 labels":
                        accuracy += (-0.1, 0.1)[draw % 2]  # draws that average out
                    records.append(record(task, scenario.name, method.name, draw, accuracy))
    facts = tuple(
        TaskFacts(name, 48, np.linspace(*ends, 6)) for name, ends in zip(TASKS, ((0.6, 0.1), (0.1, 0.6)), strict=True)
    )
    general = TaskFacts("general", 48, np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.5]))
    return Results(make_suite(), BenchConfig(draws, methods=CHOSEN), facts, general, tuple(records), "words")


@pytest.fixture(scope="module")
def report():
    return make_report(make_results(), "python scripts/run_benchmark.py tasks --labels x")


def row(report, table, key):
    """A row of a table by its first cell."""
    rows = json.loads(report.to_json())["tables"][table]
    return next(row for row in rows if next(iter(row.values())) == key)


def test_comparison_by_hand(report):
    ours = row(report, "comparison", "uniform, all")
    assert ours["accuracy"] == pytest.approx(0.3)
    assert ours["per-class recall"] == pytest.approx(0.15)
    assert ours["minus general"]["estimate"] == pytest.approx(0.0)
    # resampling two tasks gives both differences, +0.1 and -0.1, or a mixture
    assert (ours["minus general"]["low"], ours["minus general"]["high"]) == (pytest.approx(-0.1), pytest.approx(0.1))
    assert ours["worst task"] == pytest.approx(-0.1)
    assert ours["W/L/T"] == "1/1/0"
    assert ours["minus paper"]["estimate"] == pytest.approx(0.05)
    # gap: general .3, oracle .6 on average
    assert row(report, "comparison", "MI")["gap closed"]["estimate"] == pytest.approx(0.2 / 0.3)
    assert row(report, "comparison", GENERAL)["gap closed"]["estimate"] == 0
    assert row(report, "comparison", GENERAL)["p"] == 1
