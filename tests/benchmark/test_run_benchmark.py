"""scripts/run_benchmark.py from end to end on tiny real models."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import run_benchmark
from benchmark import cache as cache_module
from cli_worlds import write_graph
from mll_hf.cli import main
from mll_hf.matching import text_encoder
from selection_worlds import WordEncoder
from worlds import encoded

SOME = ("labels", "INB", "MI")
CLASSES = {"cat": (200, 150, 100), "car": (200, 0, 0), "tree": (0, 130, 0)}


def write_task(folder, name, seed, count=12):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = []
    for y in labels:
        pixels = rng.normal(list(CLASSES.values())[y], 40, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        images.append(encoded(Image.fromarray(pixels)))
    (folder / name).mkdir(parents=True)
    facts = {"name": name, "classes": list(CLASSES), "domain": "photo", "task": "object recognition"}
    (folder / name / "task.json").write_text(json.dumps(facts))
    pq.write_table(pa.table({"image": images, "label": labels}), folder / name / "test.parquet")


def run(capsys, *arguments):
    """Run a part; returns status, standard output and standard error."""
    capsys.readouterr()
    status = run_benchmark.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_open_clip, tiny_siglip):
    """A graph, two tiny models labeled on it, two tasks and a general benchmark."""
    root = tmp_path_factory.mktemp("bench")
    graph = write_graph(root / "graph")
    models = [f"local-dir:{tiny_open_clip}", f"local-dir:{tiny_siglip}"]
    assert main(["label", *models, "--graph", str(graph), "--labels", str(root / "labels"), "--keep-embeddings"]) == 0
    for seed, name in enumerate(("one", "two")):
        write_task(root / "tasks", name, seed)
    write_task(root, "general", 7)
    return root


@pytest.fixture(autouse=True)
def _words(monkeypatch):
    monkeypatch.setattr(text_encoder, "DefaultEncoder", WordEncoder)
    monkeypatch.setattr(text_encoder, "CachedEncoder", lambda encoder, exact: encoder)


def bench(world, tmp_path, *more):
    where = ["--labels", world / "labels", "--tasks", world / "tasks", "--cache", world / "cache"]
    return ["tasks", *where, "--out", tmp_path / "out", "--draws", 1, *more]


def test_tables_and_a_summary(world, tmp_path, capsys, monkeypatch):
    status, out, err = run(capsys, *bench(world, tmp_path, "--general", world / "general", "--methods", *SOME))
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == ["method", "accuracy", "gap", "closed"]
    assert {"INB", "paper,", "MI"} <= {line.split()[0] for line in lines[1:]}
    assert "note: wrote" in err
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert report["command"].startswith("scripts/run_benchmark.py tasks --labels ")
    assert report["the paper's Eq. 5"].startswith("exact")
    assert [task["task"] for task in report["tables"]["tasks"]] == ["one", "two", "general"]
    assert "## Comparison" in (tmp_path / "out" / "benchmark.md").read_text()
    # The second time no model is loaded, and all is as before
    monkeypatch.setattr(cache_module, "load_model", None)
    status, again, _ = run(
        capsys, *bench(world, tmp_path, "--general", world / "general", "--methods", *SOME, "--json")
    )
    assert status == 0
    tables = json.loads(again)["tables"]
    assert {name: tables[name] for name in tables if name != "cost"} == {
        name: table
        for name, table in report["tables"].items()
        if name != "cost"  # seconds differ
    }
