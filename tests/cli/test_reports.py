"""Labels and selections as text."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from mll_hf.cli.report import label_report, selection_report, verification_report
from mll_hf.labeling.verification import Verification
from mll_hf.labels.label import Cost
from mll_hf.labels.store import Origin
from mll_hf.selection import STRATEGIES, Head, SelectionConfig, Strategy, choose_with_images, select
from selection_worlds import (
    LABEL_STRATEGIES,
    candidates_on,
    forest,
    make_match,
    random_candidates,
)
from worlds import CAR, CAT, DOG, make_graph, make_label, unit

GRAPH = make_graph()
HERE = Origin("labels/org--model/label.safetensors")


def simple_selection(strategy=Strategy.MLL, k=1, classes=("cat", "car")):
    labels = tuple(
        make_label(GRAPH, hits=hits, repo_id=repo_id, cost=Cost(parameters, gflops))
        for repo_id, hits, parameters, gflops in [
            ("org/cats", [5, 1, 10, 5, 2, 5, 1], 151_300_000, 8.73),
            ("org/all", [7] * 7, 986_000_000, 334.5),
            ("local-dir:/home/me/models/mine", [1] * 7, 40_000, 0.00123),
        ]
    )
    match = make_match([[CAT, DOG], [CAR, DOG]], [[0.9, 0.1], [0.96, 0.04]], classes, coverage=[1, 0.5])
    return select(candidates_on(GRAPH, labels, match), SelectionConfig(strategy, k=k))


def cells(line):
    return re.split(r"\s{2,}", line.strip())


def test_the_report_of_a_selection():
    selection = simple_selection(k=2)
    answer, headline, models = selection_report(selection, is_verbose=True).split("\n\n")
    best_line, bar, *others = answer.splitlines()
    assert (best_line, *others) == selection.answer_lines
    assert bar.startswith("0 % [")
    assert selection_report(selection) == answer
    assert headline == "2 classes, 3 models, strategy mll, k = 2: 2 models chosen (marked *)"
    header, best, second, third, together = models.splitlines()
    assert together == "Together: 1137.3 M parameters, 343 GFLOPs per image."
    assert cells(header) == ["model", "estimated accuracy", "recall on concepts", "parameters", "GFLOPs", "license"]
    estimate, recall = selection.estimate.text(0), f"{selection.overall[0]:.3f}"
    assert cells(best) == ["*", "org/all", estimate, recall, "986.0 M", "334", "mit"]
    assert cells(second)[:2] == ["*", "org/cats"]
    assert cells(third)[-3:] == ["0.0 M", "0.00123", "mit"]


def tried_selection(k=2):
    """The three models of `simple_selection` tried on 20 images: the last by label is right, the others guess."""
    shortlist = simple_selection(k=3)
    shown, rng = np.eye(2)[np.arange(20) % 2], np.random.default_rng(0)
    head = Head(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
    embedded = [(unit(images), head) for images in (rng.normal(size=(20, 2)), rng.normal(size=(20, 2)), shown)]
    return choose_with_images(shortlist, (0, 1, 2), embedded, SelectionConfig(k=k))


def test_the_report_of_a_trial():
    selection = tried_selection()
    answer, headline, models = selection_report(selection, is_verbose=True).split("\n\n")
    assert "% fitted; this is not its accuracy" in answer
    assert headline == "2 classes, 3 models tried on 20 images, strategy mll, k = 2: 2 models chosen (marked *)"
    header, *rows, together = models.splitlines()
    assert cells(header)[2:4] == ["agreement, zero-shot", "agreement, fitted"]
    assert len(rows) == 3
    assert cells(rows[0])[:3] == ["*", "mine", selection.estimate.text(0)]
    assert cells(rows[0])[-3:] == ["0.0 M", "0.00123", "mit"]
    assert together.startswith("Together: ")


@pytest.mark.parametrize("strategy", LABEL_STRATEGIES)
@pytest.mark.parametrize(("n_models", "n_classes"), [(1, 1), (30, 200)])
def test_reports_of_any_size(strategy, n_models, n_classes):
    candidates = random_candidates(n_concepts=20, n_models=n_models, n_classes=n_classes)
    selection = select(candidates, SelectionConfig(strategy, k=3))
    models = selection_report(selection, is_verbose=True).split("\n\n")[-1]
    assert STRATEGIES[strategy].column in models
    marked = sum(line.startswith("*") for line in models.splitlines())
    assert marked == len(selection.chosen_models)  # chosen models are never among those that are left out


def test_the_accuracy_is_a_bar():
    selection = simple_selection()
    estimate = replace(selection.estimate, mean=np.zeros(3), covariance=np.eye(3) * 0.1)
    lines = selection_report(replace(selection, estimate=estimate)).splitlines()
    low, high = (end[0] for end in estimate.interval)
    bar = lines[1].removeprefix("0 % [").removesuffix("] 100 %")
    assert (len(bar), bar.index("#")) == (50, 25)
    assert bar.index("=") == pytest.approx(50 * low, abs=1)
    assert bar.rindex("=") == pytest.approx(50 * high, abs=1.5)


def test_the_report_of_a_label():
    graph = forest(30)
    label = make_label(
        graph,
        domain_names=("photo", "sketch"),
        domain_hits=[list(range(30)), [0] * 30],
        domain_support=[[30] * 30, [10] * 30],
        temperature=1.25,
        cost=Cost(151_300_000, 8.73),
    )
    report = label_report(label, graph, HERE)
    facts = dict(cells(line) for line in report.split("\n\n")[0].splitlines())
    assert facts["model"].startswith("org/model@")
    assert facts["published by"] == "nobody (local file)"
    assert facts["size"] == "151.3 M parameters, 8.73 GFLOPs per image"
    assert facts["images"].endswith("1200 tests")
    # hits 0 to 29 of 40: 14.5 / 40 = .3625 on average
    assert facts["recall"] == f"{label.mean_recall:.3f} ± {label.mean_recall_margin:.3f} on average over 30 concepts"
    assert (facts["recall, photo"], facts["recall, sketch"]) == ("0.483 in 900 tests", "0.000 in 300 tests")
    assert facts["temperature"] == "1.25"
    concepts = report.split("Recognizes best and worst\n")[1].splitlines()[1:]
    assert [line.split()[0] for line in concepts] == [
        graph.concepts[v].name for v in (*range(29, 23, -1), *range(5, -1, -1))
    ]


@pytest.mark.parametrize(("support", "n_concepts"), [(0, 7), (10, 1)])
def test_labels_of_little_evidence(support, n_concepts):
    graph = forest(n_concepts)
    report = label_report(make_label(graph, support=support), graph, HERE)
    assert "nan" not in report
    assert graph.concepts[0].name not in report  # not tested, or without a rival to be mistaken for


def verification(measured, support=20, claimed=10):
    counts = np.array([[claimed, now, abs(claimed - now), support] for now in measured])
    return Verification(make_label(GRAPH).model, np.arange(len(measured)) % 7, counts, 3)


def test_report_of_a_verification():
    good = verification_report(verification([10] * 50), GRAPH)
    assert "agrees with the new measurement" in good
    assert "50 of 50 sampled concepts agree (seed 3), so between 92.9% and 100.0% of all do" in good
    assert "Largest differences" not in good
    bad = verification_report(verification([10] * 25 + [3] * 25), GRAPH)
    assert "DISAGREES" in bad
    gaps = bad.split("Largest differences\n")[1].splitlines()
    assert gaps[1].split()[1:] == ["10", "3", "7", "20"]
    assert "too small to tell" in verification_report(verification([10] * 5), GRAPH)
