"""The whole method on real models and real pictures: label, select, classify.

The demo's models and pictures come with the repository and its packages; the zoo is used where it is present.
"""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from demo_world import MODELS, build_graph, images, tasks
from demo_world import run as demo
from mll_hf import Client, SelectionConfig, Strategy
from mll_hf.cli import main
from mll_hf.labels.store import LabelStore
from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder

ROOT = Path(__file__).resolve().parents[1]
TESTBED = Path(os.environ.get("MLL_TESTBED", ROOT.parent / "shared" / "testbed"))
needs_testbed = pytest.mark.skipif(
    not (TESTBED / "zoo").is_dir(), reason=f"no zoo at {TESTBED}; set MLL_TESTBED to run this on more models"
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return CachedEncoder(DefaultEncoder(), tmp_path_factory.mktemp("encoder") / "embeddings.sqlite")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "graph"
    build_graph(folder)
    return folder


@pytest.fixture(scope="module")
def labels(graph, tmp_path_factory):
    """Two of the demo's specialists, labeled through the command line."""
    folder = tmp_path_factory.mktemp("labels")
    models = [f"local-dir:{MODELS / name}" for name in ("demo-digits", "demo-letters")]
    assert main(["label", *models, "--graph", str(graph), "--labels", str(folder), "--sample", "8"]) == 0
    return folder


@pytest.fixture(scope="module")
def demo_tasks():
    return tasks()


def test_no_two_splits_of_the_demo_share_a_picture():
    """Or its models would be trained on what they are tested on."""
    content, sources = {}, {}
    for split in images.SPLITS:
        found = images.pictures(split)
        assert {picture.style for picture in found} == {"handwriting", "font", "icon", "photo"}, split
        content[split] = {picture.image.tobytes() for picture in found}
        sources[split] = {picture.source for picture in found if picture.style != "photo"}
    for one, other in itertools.combinations(images.SPLITS, 2):
        assert not content[one] & content[other]
        assert sources[one] & sources[other] == ({"mnist"} if "target" not in (one, other) else set())


@pytest.mark.parametrize("strategy", [Strategy.MLL, Strategy.PAPER])
@pytest.mark.parametrize(("task_number", "expected"), [(0, "demo-digits"), (1, "demo-letters")])
def test_the_specialist_is_chosen_and_is_right(labels, encoder, demo_tasks, strategy, task_number, expected):
    task = demo_tasks[task_number]
    client = Client(labels, encoder=encoder)
    selection = client.select(task.classes, SelectionConfig(strategy), domain=task.domain, task=task.task)
    most = max(range(len(selection.models)), key=lambda m: selection.chosen[m].sum())
    assert selection.models[most].ref.short_name == expected
    some = np.random.default_rng(0).permutation(len(task.images))[:150]
    prediction = client.load(selection).predict([task.images[n] for n in some])
    truth = [task.classes[task.labels[n]] for n in some]
    accuracy = np.mean([answer == right for answer, right in zip(prediction.classes, truth, strict=True)])
    assert accuracy > 6 / len(task.classes)  # far above chance: 10 and 26 classes
    assert not prediction.unreadable


def test_the_demo_shows_estimates_beside_the_truth(labels, encoder, demo_tasks, tmp_path):
    outcome = demo.evaluate(Client(labels, encoder=encoder), demo_tasks[1], tmp_path)
    assert len(set(outcome.rest.tolist())) == len(outcome.rest) == 150
    low, high = outcome.tried.estimate.interval
    assert low[0] <= outcome.singles["demo-letters"] <= high[0]
    row = demo.fits_beside_truth([outcome]).splitlines()[1]
    assert "demo-letters" in row
    assert f"{100 * outcome.right.mean():.0f} %" in row
    share = f"{outcome.right[:8].sum()} of these 8 are correct, {100 * outcome.right.mean():.0f} % of all"
    assert share in demo.some_predictions(outcome)
    assert demo.draw([outcome], outcome, tmp_path / "demo.png").stat().st_size > 10_000


def write_part(whole, part):
    """Write a part of a graph: every 100th image, their concepts and those above."""
    table = pq.read_table(whole / "images.parquet")
    table = table.take(list(range(0, len(table), 100)))
    graph = json.loads((whole / "graph.json").read_text())
    nodes = {node["id"]: node for node in graph["nodes"]}
    kept, waiting = set(), table["node"].to_pylist()
    while waiting:
        node = waiting.pop()
        waiting += nodes[node]["hypernyms"] if node not in kept else []
        kept.add(node)
    part.mkdir()
    (part / "graph.json").write_text(json.dumps(graph | {"nodes": [nodes[node] for node in sorted(kept)]}))
    pq.write_table(table, part / "images.parquet")


@needs_testbed
def test_both_layouts_of_a_zoo_model_get_the_same_label(tmp_path, capsys):
    models = [f"local-dir:{TESTBED / zoo / 'food-vit'}" for zoo in ("zoo", "zoo_clip")]
    write_part(TESTBED / "graph", tmp_path / "graph")
    for name, model in zip(("open_clip", "transformers"), models, strict=True):
        command = ["label", model, "--graph", str(tmp_path / "graph"), "--labels", str(tmp_path / name)]
        assert main([*command, "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["backend"] for record in records] == ["open_clip", "transformers"]
    assert records[0]["parameters"] == records[1]["parameters"]
    assert records[0]["gflops"] == pytest.approx(records[1]["gflops"], rel=0.02)
    first, second = (LabelStore(tmp_path / name).labels()[0] for name in ("open_clip", "transformers"))
    right, other = (label.ranks[:, 0].astype(int) for label in (first, second))
    assert right.sum() > 0
    assert np.abs(right - other).sum() <= 0.02 * first.ranks.sum()  # rounding of the resize step
    assert first.temperature[0] == pytest.approx(second.temperature[0], rel=0.02)
