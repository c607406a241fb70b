"""Made-up results of the benchmark, for the tests of its tables and figures."""

from __future__ import annotations

import numpy as np

from bench_worlds import make_suite
from benchmark.methods import ABLATIONS, GENERAL, METHODS, ORACLE, PAPER
from benchmark.run import BenchConfig, Record, Results, TaskFacts
from benchmark.scenarios import scenarios

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
    "SOTA": (0.7, 0.7),
    "SOTA + features": (0.8, 0.8),
    ORACLE: (0.6, 0.6),
}
CHOSEN = tuple(method for method in METHODS if method.name in ACCURACIES)
SHIFT = {"random hubs 3": 0.1, "fewer images 32": -0.05}  # of all methods in a scenario
RANKING = {"R5": 0.4, "tau5": 0.2, "Kendall": 0.3, "Spearman": 0.5, "regret": 0.1, "Hit@1": 1.0}


def record(task, scenario, method, draw, accuracy, **fields):
    known = {"recall": accuracy / 2, "gflops": 2.0, "models": (0, 1), "seconds": 0.25, **fields}
    return Record(task, scenario, method, draw, accuracy, **known)


def make_results(draws=2):
    records = []
    for scenario in scenarios(6, draws):
        for method in (*CHOSEN, *ABLATIONS):
            if not scenario.takes(method):
                continue
            for t, task in enumerate(TASKS):
                for draw in range(scenario.draws_of(method)):
                    accuracy = ACCURACIES.get(method.name, (0.25, 0.35))[t] + SHIFT.get(scenario.name, 0)
                    ranking = RANKING if method.name in ("MI", GENERAL) and scenario.name == "all images" else None
                    if method.name == "accuracy, 50 labels":
                        accuracy += (-0.1, 0.1)[draw % 2]  # draws that average out
                    records.append(record(task, scenario.name, method.name, draw, accuracy, ranking=ranking))
    facts = tuple(
        TaskFacts(name, 48, np.linspace(*ends, 6), None)
        for name, ends in zip(TASKS, ((0.6, 0.1), (0.1, 0.6)), strict=True)
    )
    general = TaskFacts("general", 48, np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.5]), None)
    return Results(make_suite(), BenchConfig(draws, methods=CHOSEN), facts, general, tuple(records), "words")
