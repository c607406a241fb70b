"""Probe images that may be passed on: crops by box, licenses and authors, and the layouts of the datasets."""

import io
import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from graph import build_graph
from graph.boxes import Box, Part, labeled_parts
from graph.credits import credit_in
from graph.gathering import SKIP_REASONS, HarvestConfig, open_all
from graph.harvest import harvest
from graph.sources import parse_source, pin_all
from graph.wordnet import ClassList, leaf_names
from harvest_worlds import no_waits, put_features, scene, streamed
from mll_hf.graph.concepts import Concept, SemanticGraph, load_graph
from mll_hf.graph.probes import load_probes
from wordnet_worlds import imagenet_nouns, write_nouns

__all__ = ["no_waits"]  # a fixture

pytestmark = pytest.mark.usefixtures("no_waits")

DOG, CORGI, CAT, CLOCK = "n00000001", "n00000002", "n00000003", "n00000004"
GRAPH = SemanticGraph(
    "small",
    (
        Concept(DOG, "dog", ("dog",), "it barks", ()),
        Concept(CORGI, "corgi", ("corgi",), "a low dog", (DOG,)),
        Concept(CAT, "cat", ("cat",), "it purrs", ()),
        Concept(CLOCK, "clock", ("clock",), "it ticks", ()),
    ),
)
RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)
BY, BY_NC, BY_ND = (f"http://creativecommons.org/licenses/{kind}/2.0/" for kind in ("by", "by-nc", "by-nd"))
FLICKR = "http://farm9.staticflickr.com/8186/{}_4e622c8349_z.jpg"
OPEN_IMAGES_COLUMNS = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,"
    "Thumbnail300KURL,Rotation"
)


def gathered(folder, texts, graph=GRAPH, **config):
    """Build a graph with images that may be passed on; returns the build and the rows."""
    config = HarvestConfig(**{"redistributable": True, "max_side": None} | config)
    sources = open_all(pin_all([parse_source(text) for text in texts]), graph)
    build = harvest(graph, sources, config, folder)
    return build, [row for file in sorted(folder.glob("images*")) for row in pq.read_table(file).to_pylist()]


def tally_of(build):
    """What was seen of the only source, and what was left out; the rest was considered."""
    (source,) = build.sources
    left_out = {reason: source[reason] for reason in SKIP_REASONS if source[reason]}
    return source["seen"], left_out


def pixels(row):
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")).astype(int)


def is_of(row, color):
    """Whether the middle of an image has a color, up to the losses of JPEG."""
    image = pixels(row)
    return np.abs(image[image.shape[0] // 2, image.shape[1] // 2] - color).max() < 20


# --- boxes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "field"),
    [
        ({"bbox": [[10, 20, 30, 40], [0, 0, 80, 50]], "classes": ["dog", "cat"], "area": [1, 1]}, "classes"),
        ([{"bbox": [10, 20, 30, 40], "category": "dog"}, {"bbox": [0, 0, 80, 50], "category": "cat"}], "category"),
        ([{"xmin": 0.1, "ymin": 0.1, "xmax": 0.4, "ymax": 0.3, "label": "dog", "is_group_of": False},
          {"xmin": 0.0, "ymin": 0.0, "xmax": 0.8, "ymax": 0.25, "label": "cat", "confidence": 1.0}], "label"),
    ],
)  # fmt: skip
def test_boxes_of_all_layouts(objects, field):
    larger, smaller = labeled_parts(objects, field, (100, 200))
    assert larger == (("cat",), pytest.approx((0, 0, 80, 50)))
    assert smaller == (("dog",), pytest.approx((10, 20, 40, 60)))


@pytest.mark.parametrize(
    "wrong",
    [{"xmin": None}, {"xmax": float("nan")}, {"ymin": float("nan")}, {"xmin": 1}, {"ymax": 0}, {"xmin": "0.1"},
     {"label": None}, {"is_depiction": True}, {"is_inside": 1}, {"is_group_of": True}, {"confidence": 0}],
)  # fmt: skip
def test_misleading_and_malformed_objects_are_left_out(wrong):
    right = {"xmin": 0.1, "ymin": 0.2, "xmax": 0.4, "ymax": 0.6, "label": "dog"}
    assert labeled_parts([right], "label", (100, 100)) == [Part(("dog",), Box(10, 20, 40, 60))]
    assert labeled_parts([right | wrong], "label", (100, 100)) == []


# --- licenses and authors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "open_"),
    [
        ({"license": "cc-by-sa-4.0", "author": "Ann"}, True),
        ({"license": "http://flickr.com/commons/usage/", "url": "page"}, True),
        ({"license": BY_NC, "author": "Ann"}, False),
        ({"license": BY_ND, "author": "Ann"}, False),
        ({"license": "all rights reserved", "author": "Ann"}, False),
        ({"license": 4, "author": "Ann"}, False),  # others number them otherwise than COCO
        ({"license": None, "author": "Ann"}, False),
        ({"license": "", "License": "  ", "author": "Ann"}, False),
        ({"author": "Ann"}, False),
        ({"license": BY}, False),
        ({"license": BY, "author": " ", "url": None}, False),
    ],
)
def test_which_images_may_be_passed_on(row, open_):
    assert credit_in(row).is_redistributable == open_


def coco_file(file, images):
    """An annotation file of COCO with the license and Flickr's number of each image."""
    licenses = [{"id": 4, "url": BY, "name": "Attribution License"}, {"id": 2, "url": BY_NC, "name": "NC"}]
    listed = [{"id": id, "license": of, "flickr_url": FLICKR.format(photo)} for id, of, photo in images]
    file.write_text(json.dumps({"licenses": licenses, "images": listed, "annotations": []}))
    return file


def open_images_file(file, images):
    """Image metadata of Open Images with the license and author of each image."""
    rows = [f'{id},test,u,https://flickr.test/{id},{of},p,"{author}","T, and",1,m,t,0' for id, of, author in images]
    file.write_text("\n".join([OPEN_IMAGES_COLUMNS, *rows, ""]))
    return file


# --- COCO -------------------------------------------------------------------------------------------------------------


def put_coco(repo_id, scenes):
    """A dataset as the card of detection-datasets/coco describes it: (number of the file, image, objects)."""
    objects = {"bbox": datasets.Sequence(datasets.Value("float32")), "category": datasets.Value("int64")}
    features = {"image": datasets.Image(), "objects": datasets.Sequence(objects)}
    rows = [
        {
            "image": {"bytes": content, "path": f"{number:012}.jpg"},
            "objects": {"bbox": [box for box, _ in boxes], "category": [of for _, of in boxes]},
        }
        for number, content, boxes in scenes
    ]
    return put_features(repo_id, rows, features, split="validation")


@pytest.fixture
def coco(tmp_path, hub):
    """A small COCO; returns its source."""
    two = scene(1, [((50, 50, 200, 150), RED), ((250, 100, 350, 250), GREEN)])
    put_coco(
        "org/coco",
        [
            (
                437561,
                two,
                [([50, 50, 150, 100], 2), ([250, 100, 100, 150], 3), ([0, 0, 10, 10], 4), ([0, 0, 99, 99], 8)],
            ),
            (2, scene(2, [((0, 0, 70, 70), GREEN)]), [([0, 0, 70, 70], 3), ([0, 0, 65, 65], 3), ([0, 0, 99, 99], 1)]),
            (3, scene(3), [([0, 0, 300, 200], 2), ([0, 0, 300, 200], 3)]),  # not for commercial use
            (4, scene(4), [([0, 0, 300, 200], 2)]),  # without a license
            (5, b"damaged", [([0, 0, 300, 200], 2)]),
        ],
    )
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"1": DOG, "2": CORGI, "3": CAT, "4": CLOCK}))
    credits = coco_file(tmp_path / "coco.json", [(437561, 4, 11), (2, 4, 12), (3, 2, 13), (5, 4, 15)])
    columns = "split=validation&image=image&objects=objects&label=category&key=image"
    return f"hf://datasets/org/coco?name=coco&domain=photo&{columns}&labels={labels}&credits={credits}"


def test_crops_of_coco(tmp_path, coco):
    build, rows = gathered(tmp_path / "out", [coco])
    assert tally_of(build) == (10, {"outside": 1, "undecodable": 1, "unlicensed": 2, "small": 1, "repeated": 1})
    by_node = {(row["node"], row["url"][-2:]): row for row in rows}
    assert sorted(by_node) == [(DOG, "12"), (CORGI, "11"), (CAT, "11"), (CAT, "12")]
    assert pixels(by_node[CORGI, "11"]).shape == (130, 180, 3)  # 150 x 100 and a tenth of 150 on each side
    assert pixels(by_node[CAT, "12"]).shape == (77, 77, 3)  # the image ends on two sides
    assert is_of(by_node[CORGI, "11"], RED)
    assert is_of(by_node[CAT, "11"], GREEN)
    assert {(row["license"], row["author"], row["source"]) for row in rows} == {("cc-by-2.0", None, "coco")}
    assert len({row["image_id"] for row in rows}) == 2  # of the images, not of the crops
    assert build.licenses == {"cc-by-2.0": 4}

    graph = load_graph(tmp_path / "out")
    assert len(load_probes(graph, tmp_path / "out")) == 4
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Each image has its own license, author and page, in the columns `license`, `author` and `url`" in card
    assert "| `cc-by-2.0` | 4 |" in card
    assert "All images may be redistributed" in card
    assert "Images of coco whose objects have boxes were cropped" in card
    assert str(tmp_path) not in card


# --- Open Images, with the script -------------------------------------------------------------------------------------

REPOS = ["--push-to", "hf://datasets/alice/graph", "--images-to", "hf://datasets/alice/open"]
PUSH = [*REPOS, "--images-access", "public"]


@pytest.fixture
def open_images(tmp_path, hub):
    """A dataset as the card of vikhyatk/openimages-human-labels describes it; returns the file of credits."""
    label = {"label": datasets.Value("string"), "confidence": datasets.Value("float32")}
    features = {key: datasets.Value("string") for key in ("image_id", "original_url", "title")}
    features |= {"image": datasets.Image(), "labels": datasets.List(label)}
    labels = [
        [("Zebra", 1), ("Ladder", 0)], [("Zebra", 1), ("Goldfish", 1)], [("Zebra", 1)], [("Goldfish", 1)],
        [("Mouse", 1)], [("Goldfish", 1), ("Jacuzzi", 1)],
    ]  # fmt: skip
    rows = [
        {
            "image_id": f"00{i}", "original_url": "u", "title": "t", "image": {"bytes": scene(i), "path": f"00{i}.jpg"},
            "labels": [{"label": name, "confidence": sure} for name, sure in of],
        }
        for i, of in enumerate(labels)
    ]  # fmt: skip
    put_features("vikhyatk/openimages-human-labels", rows, features, split="test")
    images = [("000", BY, "Ann"), ("001", BY, "Ann"), ("002", BY_NC, "Bob"), ("003", BY, ""), ("004", BY, "Cem")]
    return open_images_file(tmp_path / "test-images-with-rotation.csv", images)


@pytest.fixture
def command(tmp_path):
    """Arguments of the script, for a graph of ImageNet's classes."""
    folder = write_nouns(tmp_path / "nouns", imagenet_nouns(leaf_names(ClassList.IMAGENET_1K)))
    return ["--leaves", "imagenet-1k", "--wordnet", str(folder), "--out", str(tmp_path / "out"), "--redistributable"]


def test_build_and_publish_images_that_may_be_passed_on(tmp_path, capsys, hub, open_images, command):
    arguments = [*command, "--source", f"open-images?credits={open_images}", *PUSH]
    assert build_graph.main(arguments) == 0
    said = capsys.readouterr().out
    counts = "2 images of 2 concepts, of 6 seen (1 without a concept here, 0 undecodable, 2 unlicensed, 1 ambiguous)"
    assert f"open-images: {counts}" in said
    assert not hub.repos["dataset", "alice/open"].private
    rows = datasets.load_dataset("alice/open", split="test")
    assert sorted(zip(rows["node"], rows["license"], rows["author"], rows["url"], strict=True)) == [
        ("n01443537", "cc-by-2.0", None, "https://flickr.test/003"),
        ("n02391049", "cc-by-2.0", "Ann", "https://flickr.test/000"),
    ]
    assert b"## Attribution" in hub.files("dataset", "alice/open")["README.md"]
    hub.requests.clear()
    assert build_graph.main(arguments) == 0
    assert not streamed("human-labels/resolve")
