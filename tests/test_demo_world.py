"""The demo world: pictures found in installed packages, disjoint splits, a valid graph, models that load."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from demo_world import MODELS, build_graph, images, tasks, write_task
from mll_hf.graph.concepts import load_graph
from mll_hf.graph.probes import load_probes

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def pictures():
    return {split: images.pictures(split) for split in images.SPLITS}


def test_every_kind_of_picture_is_found_and_no_two_splits_share_one(pictures):
    for split, found in pictures.items():
        assert {picture.style for picture in found} == {"handwriting", "font", "icon", "photo"}, split
        assert all(picture.image.size == (32, 32) and picture.image.mode == "RGB" for picture in found)
        assert len(found) > 1500
    content = {split: {picture.image.tobytes() for picture in found} for split, found in pictures.items()}
    sources = {split: {p.source for p in found if p.style != "photo"} for split, found in pictures.items()}
    for one, other in itertools.combinations(images.SPLITS, 2):
        assert not content[one] & content[other]
        assert sources[one] & sources[other] == ({"mnist"} if "target" not in (one, other) else set())


def test_regions_of_a_photograph_do_not_overlap():
    regions = [(photo.package, photo.file, split, box) for photo in images.PHOTOS for split, box in photo.boxes.items()]
    for one, other in itertools.combinations(regions, 2):
        (left, top, right, bottom), (x0, y0, x1, y1) = one[3], other[3]
        if one[:2] == other[:2] and one[2] != other[2]:
            assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top, (one, other)


def test_the_graph_is_valid_and_the_same_on_every_run(tmp_path):
    for name in "ab":
        build_graph(tmp_path / name)
    graph = load_graph(tmp_path / "a")
    assert not graph.external
    assert all(concept.definition for concept in graph.concepts)
    assert np.diff(load_probes(graph, tmp_path / "a").offsets).min() > 0
    assert (tmp_path / "a" / "graph.json").read_bytes() == (tmp_path / "b" / "graph.json").read_bytes()
    first, second = (pq.read_table(tmp_path / name / "images.parquet") for name in "ab")
    assert first.equals(second)


def test_tasks_are_well_formed_and_written_in_the_layout_of_targets(tmp_path):
    found = tasks()
    assert 3 <= len(found) <= 5
    for task in found:
        assert len(set(task.classes)) == len(task.classes)
        assert set(task.labels) == set(range(len(task.classes)))
        assert len(task.images) == len(task.labels) >= 200
    write_task(found[0], tmp_path / "parquet")
    table = pq.read_table(tmp_path / "parquet" / "test.parquet")
    assert table["image"].to_pylist() == list(found[0].images)
    assert table["label"].to_pylist() == list(found[0].labels)
    assert json.loads((tmp_path / "parquet" / "task.json").read_text("utf-8"))["classes"] == list(found[0].classes)


@pytest.mark.parametrize("folder", sorted(MODELS.iterdir()), ids=lambda folder: folder.name)
def test_model_is_small_and_embeds(folder):
    from mll_hf.models import load_model, resolve_model

    assert sum(file.stat().st_size for file in folder.iterdir()) <= MEGABYTE
    model = load_model(resolve_model(f"local-dir:{folder}"), "cpu")
    text = model.encode_texts(["a photo of a 7.", "dog which is a domestic animal"])
    assert text.shape == (2, 64)
    assert (text[0] @ text[1]) < 0.999
    assert (model.logit_bias != 0) == (folder.name == "demo-letters")
