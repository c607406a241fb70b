"""Tasks derived from others: near duplicates, parts of classes, and how choices on them are judged."""

import io

import numpy as np
import pytest
from PIL import Image

from benchmark import derived_benchmark
from benchmark.suites import make_task
from mll_hf.matching.concept_index import ConceptIndex
from selection_worlds import WordEncoder, join_by_hand, random_labels
from worlds import make_graph, make_rivals

ANIMALS, VEHICLES = dict.fromkeys(("cat", "dog", "horse"), ("animal",)), dict.fromkeys(("bus", "car"), ("vehicle",))
GRAPH = make_graph({"animal": (), "vehicle": (), **ANIMALS, **VEHICLES})
CLASSES = ("bus", "car", "cat", "dog", "horse", "quark")


def encoded(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def test_near_duplicates_are_found_at_another_size_and_brightness():
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 200, (8, 8, 3)), np.ones((8, 8, 1)))
    other = np.kron(rng.integers(0, 200, (8, 8, 3)), np.ones((8, 8, 1)))
    small = np.asarray(Image.fromarray(pixels.astype(np.uint8)).resize((40, 40)))
    images = [encoded(small, "WEBP"), encoded(pixels * 0.8 + 30), encoded(other), encoded(other * 0 + 7), b"broken"]
    found = derived_benchmark.near_duplicates(
        derived_benchmark.thumbnails(images), derived_benchmark.thumbnails([encoded(pixels)])
    )
    assert found.tolist() == [True, True, False, False, False]
    none = np.zeros((0, 768), np.float32)
    assert not derived_benchmark.near_duplicates(derived_benchmark.thumbnails(images), none).any()


def test_class_subsets_are_branches_and_random_ones():
    at = GRAPH.index
    concepts = np.array([at["bus"], at["car"], at["cat"], at["dog"], at["horse"], at["bus"]])
    found = derived_benchmark.class_subsets(np.arange(5), concepts, GRAPH, draws=3)
    assert {name: classes.tolist() for name, classes in found} == {
        "under animal": [2, 3, 4],
        "all covered classes": [0, 1, 2, 3, 4],
    }
    many = derived_benchmark.class_subsets(np.arange(30), np.full(30, at["cat"]), GRAPH, draws=3)
    sizes = sorted(len(classes) for name, classes in many if name.startswith("random"))
    assert sizes == [5, 5, 5, 10, 10, 10, 20, 20, 20]
    again = derived_benchmark.class_subsets(np.arange(30), np.full(30, at["cat"]), GRAPH, draws=3)
    assert all((a[1] == b[1]).all() for a, b in zip(many, again, strict=True))


def test_accuracy_counts_the_classes_of_the_task_alone():
    # the first model answers 0, 2, 1 among all classes, and 0 (right), 1 (wrong), - without class 2
    logits = np.array([[[3, 1, 2], [1, 2, 3], [0, 2, 1]], [[0, 1, 2], [1, 2, 3], [0, 2, 1]]], np.float32)
    labels = np.array([0, 0, 2])
    np.testing.assert_allclose(derived_benchmark.accuracy_within(logits, labels, np.array([0, 1])), [0.5, 0])
    np.testing.assert_allclose(derived_benchmark.accuracy_within(logits, labels, np.array([0, 1, 2])), [1 / 3, 0])


@pytest.fixture(scope="module")
def tasks():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 60)
    source = make_task("things", CLASSES, labels, (None,) * 60, domain="photo", task=None)
    logits = rng.standard_normal((8, 60, 6)).astype(np.float32) + 2 * np.eye(6, dtype=np.float32)[labels]
    return derived_benchmark.derive(source, logits, ConceptIndex.build(GRAPH, WordEncoder()), draws=2)


def test_derived_tasks_are_covered(tasks):
    assert tasks
    for task in tasks:
        assert "quark" not in task.match.classes
        assert len(task.match.classes) >= derived_benchmark.MIN_CLASSES
        assert task.accuracy.shape == (8,)
        assert (task.accuracy > 0.4).all()


def test_choices_are_within_the_hub(tasks):
    labels = join_by_hand((GRAPH, random_labels(GRAPH, 8))).with_rivals(make_rivals)
    for size, draws in ((3, 4), (8, 1)):
        found = derived_benchmark.choose_on(tasks, labels, size, draws=4)
        assert len(found.sources) == draws * len(tasks)
        for method in ("general", *derived_benchmark.METHODS):
            assert (found.accuracy[method] <= found.accuracy["best model"]).all()
    tables = derived_benchmark.derived_tables([found], [{"source": "things"}])
    assert [len(table.rows) for table in tables] == [1, len(derived_benchmark.METHODS), 1]
    assert all(interval.estimate <= 1 for interval in tables[1].column("gap closed"))


def test_the_worst_choices_weigh_every_source_the_same():
    # 4 % of all choices are bad, but half of those of the small source
    lead = np.array([0.0] * 92 + [-0.5] * 4 + [0.0] * 4)
    sources = np.array(["large"] * 92 + ["small"] * 8)
    low, error = derived_benchmark.worst_choices(lead, sources)
    assert low == -0.5
    assert error > 0.1
    assert derived_benchmark.worst_choices(lead, np.array(["one"] * 100))[0] == 0
