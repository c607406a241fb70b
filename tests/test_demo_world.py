"""The demo world: pictures found in installed packages, disjoint splits, a valid graph, models that load."""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from demo_world import MODELS, build_graph, images, tasks, write_imagefolder, write_task

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def pictures():
    return {split: images.pictures(split) for split in images.SPLITS}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph")
    build_graph(folder)
    nodes = json.loads((folder / "graph.json").read_text("utf-8"))["nodes"]
    return nodes, pq.read_table(folder / "images.parquet")


def test_every_kind_of_picture_is_found_in_every_split(pictures):
    for split, found in pictures.items():
        assert {picture.style for picture in found} == {"handwriting", "font", "icon", "photo"}, split
        assert all(picture.image.size == (32, 32) and picture.image.mode == "RGB" for picture in found)
        assert len(found) > 1500


def test_no_picture_is_in_two_splits(pictures):
    content = {split: {picture.image.tobytes() for picture in found} for split, found in pictures.items()}
    assert not content["train"] & content["probe"]
    assert not content["train"] & content["target"]
    assert not content["probe"] & content["target"]


def test_splits_share_no_source_but_mnist_and_photographs(pictures):
    def sources(split):
        return {picture.source for picture in pictures[split] if picture.style != "photo"}

    assert sources("train") & sources("probe") == {"mnist"}
    assert not (sources("train") | sources("probe")) & sources("target")


def test_regions_of_a_photograph_do_not_overlap():
    regions = [(photo.package, photo.file, split, box) for photo in images.PHOTOS for split, box in photo.boxes.items()]
    for i, (package, file, split, (left, top, right, bottom)) in enumerate(regions):
        for other_package, other_file, other_split, (x0, y0, x1, y1) in regions[:i]:
            if (package, file) == (other_package, other_file) and split != other_split:
                assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top, (file, split, other_split)


def test_plain_name_drops_prefix_size_and_style():
    assert images.plain_name("ic-fluent-animal-dog-24-filled") == "dog"
    assert images.plain_name("icon-tree-pine") == "tree-pine"
    assert images.plain_name("heart-outline") == "heart"
    assert images.plain_name("dice-5") == "dice-5"


def test_graph_is_valid(graph):
    nodes, _ = graph
    hypernyms = {node["id"]: node["hypernyms"] for node in nodes}
    assert len(hypernyms) == len(nodes)
    assert all(node["names"] and node["gloss"] for node in nodes)
    assert all(hypernym in hypernyms for above in hypernyms.values() for hypernym in above)
    settled: set[str] = set()
    while len(settled) < len(hypernyms):
        ready = {node for node, above in hypernyms.items() if settled.issuperset(above)} - settled
        assert ready, "the hypernyms form a cycle"
        settled |= ready


def test_every_concept_has_probe_images(graph):
    nodes, table = graph
    assert set(table.column_names) == {"image", "node", "vendor", "style"}
    used = set(table["node"].to_pylist())
    hypernyms = {node["id"]: node["hypernyms"] for node in nodes}
    assert used <= hypernyms.keys()
    pooled, waiting = set(used), list(used)
    while waiting:
        for above in hypernyms[waiting.pop()]:
            if above not in pooled:
                pooled.add(above)
                waiting.append(above)
    assert pooled == hypernyms.keys()


def test_graph_is_the_same_on_every_run(graph, tmp_path):
    build_graph(tmp_path)
    assert json.loads((tmp_path / "graph.json").read_text("utf-8"))["nodes"] == graph[0]
    assert pq.read_table(tmp_path / "images.parquet").equals(graph[1])


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
    write_imagefolder(found[0], tmp_path / "folders")
    assert len(list((tmp_path / "folders").glob("*/*.png"))) == len(found[0].images)


def test_there_are_enough_models_of_different_specialties():
    assert len(list(MODELS.iterdir())) >= 5


@pytest.mark.parametrize("folder", sorted(MODELS.iterdir()), ids=lambda folder: folder.name)
def test_model_is_small_and_embeds(folder, pictures):
    import open_clip
    import torch

    assert sum(file.stat().st_size for file in folder.iterdir()) <= MEGABYTE
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    with torch.inference_mode():
        pixels = torch.stack([preprocess(picture.image) for picture in pictures["target"][:3]])
        image = model.encode_image(pixels, normalize=True)
        text = model.encode_text(tokenizer(["a photo of a 7.", "dog which is a domestic animal"]), normalize=True)
    assert image.shape == (3, 64)
    assert text.shape == (2, 64)
    assert torch.isfinite(image).all()
    assert torch.isfinite(text).all()
    assert (text[0] @ text[1]) < 0.999
    assert (getattr(model, "logit_bias", None) is not None) == (folder.name == "demo-letters")
