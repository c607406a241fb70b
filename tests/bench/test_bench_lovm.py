"""Published tables: their figures must come out where the tables are present; small made-up tables always."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from mll_hf.bench import lovm
from mll_hf.bench.lovm import (
    CAPS,
    DRAWS,
    EVALUATION_FILE,
    FEATURES,
    FEATURES_FILE,
    GROUPS,
    HUB_SIZES,
    SHARED_DATASETS,
    hub_table,
    lovm_tables,
    published_tables,
)
from mll_hf.errors import InputError
from mll_hf.models.known import AccuracyTable, known_models, paper_models

ROOT = Path(__file__).resolve().parents[2]
TABLES = Path(os.environ.get("MLL_TESTBED", ROOT.parent / "shared" / "testbed")) / "published"
needs_tables = pytest.mark.skipif(
    not (TABLES / FEATURES_FILE).is_file(), reason=f"no published tables at {TABLES}; set MLL_TESTBED to check them"
)


def rows_of(table):
    """Rows of a table as dictionaries, by their first cell."""
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


# --- as published -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    return published_tables(TABLES)


@needs_tables
def test_all_of_lovm_is_used(published):
    assert published[0].title == "LOVM: 35 models, 23 data sets"
    assert "has 0.668." in published[0].note


@needs_tables
@pytest.mark.parametrize(
    ("group", "overlap", "kendall", "selected"), [("INB", 0.452, 0.177, 0.604), ("INB+G+C", 0.426, 0.046, 0.602)]
)
def test_rankings_by_all_features_of_a_group(published, group, overlap, kendall, selected):
    row = rows_of(published[0])[group]
    assert (row["R5"], row["tau5"], row["accuracy"]) == pytest.approx((overlap, kendall, selected), abs=0.0006)


@needs_tables
@pytest.mark.parametrize(
    ("group", "overlap", "kendall", "l1", "subset"),
    [
        # LOVM prints .220, .176, .143, .176 and .141 for L1
        ("INB", 0.452, 0.177, 0.220, "IN-score"),
        ("C", 0.226, 0.058, 0.176, "text-f1"),
        ("G", 0.252, -0.014, 0.144, "intra_close"),
        ("INB+C", 0.452, 0.223, 0.176, "IN-score + text-f1"),
        ("INB+G", 0.461, 0.096, 0.140, "IN-score + inter_close"),
    ],
)
def test_published_rows_are_the_best_subsets(published, group, overlap, kendall, l1, subset):
    row = rows_of(published[1])[group]
    assert (row["R5"], row["tau5"], row["L1"]) == pytest.approx((overlap, kendall, l1), abs=0.0006)
    assert row["subset by R5"] == subset


@pytest.mark.parametrize(
    ("hub", "n_models", "general", "fixed", "oracle"),
    [
        ("all 49", 49, 0.7502, 0.7502, 0.7723),
        ("up to 600 GFLOPs", 46, 0.7245, 0.7254, 0.7575),
        ("up to 200 GFLOPs", 35, 0.7245, 0.7245, 0.7469),
        ("up to 110 GFLOPs", 28, 0.6627, 0.6841, 0.7132),
        ("up to 50 GFLOPs", 22, 0.6627, 0.6709, 0.7026),
        ("up to 20 GFLOPs", 9, 0.6709, 0.6709, 0.6813),
    ],
)
def test_hubs_under_caps(hub, n_models, general, fixed, oracle):
    row = rows_of(hub_table())[hub]
    assert row["models"] == n_models
    assert (row["INB"], row["best fixed"], row["oracle"]) == pytest.approx((general, fixed, oracle), abs=0.00006)


@pytest.mark.parametrize(
    ("size", "general", "oracle"),
    [(3, 0.689, 0.702), (5, 0.707, 0.723), (10, 0.724, 0.746), (20, 0.734, 0.758), (30, 0.739, 0.764)],
)
def test_random_hubs(size, general, oracle):
    """The known figures are of other draws; the regret varies less between draws than the accuracies."""
    row = rows_of(hub_table())[f"{size} at random"]
    assert (row["INB"], row["oracle"]) == pytest.approx((general, oracle), abs=0.01)
    assert row["regret"] == pytest.approx(oracle - general, abs=0.003)
    assert 0 < row["standard error"] < 0.0015


# --- made up ----------------------------------------------------------------------------------------------------------


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def lovm_rows():
    """Six models on four data sets; accuracy is text-f1 plus the level of the data set, ImageNet says the opposite."""
    generator = np.random.default_rng(0)
    rows = []
    for t in range(4):
        for m in range(6):
            features = dict(zip(FEATURES, generator.random(7).tolist(), strict=True))
            features |= {"text-f1": 0.1 * ((m + t) % 6), "IN-score": 0.9 - 0.1 * ((m + t) % 6)}
            truth = {"acc1": 0.2 + 0.1 * t + features["text-f1"]}
            rows.append({"model_fullname": f"model {m}", "dataset": f"data {t}", **truth, **features})
    return rows


@pytest.fixture
def made_up(monkeypatch):
    """INB is right everywhere but on MNIST, where the model that is worst on ImageNet is best."""
    order = sorted(paper_models(), key=lambda model: model.imagenet)
    datasets = ("imagenet-1k", *SHARED_DATASETS)
    values = np.tile(np.arange(len(order))[:, None] / 100, len(datasets))
    values[:, datasets.index("mnist")] = 0.9 - values[:, 0]
    another = next(model for model in known_models() if model.paper_place is None)
    values = np.vstack([values, np.full(len(datasets), 0.99)])
    table = AccuracyTable((*order, another), datasets, values, ("open_clip",) * len(values))
    monkeypatch.setattr(lovm, "accuracies", {"open_clip": table}.get)


@pytest.fixture
def folder(tmp_path):
    rows = lovm_rows()
    write_csv(tmp_path / FEATURES_FILE, rows[::-1])  # in another order than the evaluation table
    kept = ("model_fullname", "dataset", "acc1")
    write_csv(tmp_path / EVALUATION_FILE, [{name: row[name] for name in kept} for row in rows])
    return tmp_path


def test_features_that_tell_all_rank_perfectly(folder):
    whole, _ = lovm_tables(folder / EVALUATION_FILE, folder / FEATURES_FILE)
    results, oracle = rows_of(whole), 0.2 + 0.15 + 0.5
    assert whole.title == "LOVM: 6 models, 4 data sets"
    assert f"has {oracle:.3f}." in whole.note
    for group in ("C", "G+C", "INB+C", "INB+G+C"):  # all hold text-f1
        assert (results[group]["R5"], results[group]["tau5"]) == pytest.approx((1, 1))
        assert results[group]["accuracy"] == pytest.approx(oracle)
    assert results["INB"]["R5"] == pytest.approx(4 / 5)  # reversed: all but the first and the last
    assert results["INB"]["tau5"] == -1
    assert results["INB"]["accuracy"] == pytest.approx(0.35)
    # ImageNet accuracies are .9 to .5 on the five models ranked first, the truth .35 to .75 on average
    assert results["INB"]["L1"] == pytest.approx(np.mean([abs(0.7 - (0.4 + 0.1 * t)) for t in range(4)]))


def test_the_best_subset_is_never_worse_than_the_whole_group(folder):
    whole, best = map(rows_of, lovm_tables(folder / EVALUATION_FILE, folder / FEATURES_FILE))
    assert whole.keys() == best.keys() == GROUPS.keys()
    for group, features in GROUPS.items():
        assert set(best[group]["subset by R5"].split(" + ")) <= set(features)
        assert best[group]["R5"] >= whole[group]["R5"]
        assert best[group]["L1"] <= whole[group]["L1"]


@pytest.mark.usefixtures("made_up")
def test_hubs_of_a_table_that_can_be_worked_out():
    hubs = rows_of(hub_table())
    assert len(hubs) == 1 + len(CAPS) + len(HUB_SIZES)
    whole = hubs["all 49"]
    assert whole["INB"] == pytest.approx((13 * 0.48 + 0.42) / 14)
    assert whole["oracle"] == pytest.approx((13 * 0.48 + 0.90) / 14)
    assert whole["regret"] == pytest.approx(0.48 / 14)
    assert whole["best fixed"] == whole["INB"]
    assert whole["INB is best"] == pytest.approx(13 / 14)
    assert whole["standard error"] is None
    for cap in CAPS:
        assert hubs[f"up to {cap} GFLOPs"]["models"] == sum(model.gflops <= cap for model in paper_models())
    # the best of three numbers drawn from 0 to 48 is 36.5 on average, the worst 11.5
    three = hubs["3 at random"]
    assert three["INB"] == pytest.approx((13 * 0.365 + 0.9 - 0.365) / 14, abs=4 * 0.1 / np.sqrt(DRAWS))
    assert three["regret"] == pytest.approx(0.25 / 14, abs=4 * three["standard error"])
    assert three["standard error"] > 0


def test_draws_depend_on_the_seed_alone():
    assert hub_table(1) == hub_table(1) != hub_table(2)


@pytest.mark.usefixtures("made_up")
def test_the_tables_have_all_figures_in_markdown(folder):
    lines = "\n".join(table.to_markdown() for table in published_tables(folder)).splitlines()
    assert "| INB | 0.800 | -1.000 | 0.150 | 0.350 |" in lines
    assert "| all 49 | 49 | 0.4757 | 0.4757 | 0.5100 | 0.0343 | – | 0.9286 |" in lines
    assert sum(line.startswith("| --- ") for line in lines) == 3


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (EVALUATION_FILE, lambda path: path.unlink(), "No such file"),
        (EVALUATION_FILE, lambda path: path.write_bytes(b"\xff\xfe\x00"), "can't decode"),
        (FEATURES_FILE, lambda path: path.write_text("dataset\n"), "no rows"),
        (FEATURES_FILE, lambda path: path.write_text(path.read_text().replace("text-f1", "text")), "'text-f1'"),
        (FEATURES_FILE, lambda path: path.write_text(path.read_text().replace("data 3", "data 9")), "lacks values"),
        (EVALUATION_FILE, lambda path: path.write_text(path.read_text().replace("0.2", "much ")), "'much"),
    ],
)
def test_other_tables_are_refused_in_one_line(folder, file, change, message):
    change(folder / file)
    with pytest.raises(InputError, match=message) as caught:
        published_tables(folder)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)
