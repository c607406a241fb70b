"""Probe images that may be passed on: crops by box, licenses and authors, and the layouts of the datasets."""

import io
import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from graph.boxes import Box, Part, labeled_parts, with_margin
from graph.credits import Credit, credit_in, license_id, read_credits
from graph.gathering import SKIP_REASONS, HarvestConfig, open_all, prepared
from graph.harvest import harvest
from graph.sources import open_images_wnids, parse_source, pin_all, read_label_file
from graph.wordnet import DEBIAN, ClassList, leaf_names, noun_senses
from harvest_worlds import no_waits, put_features, put_parquet, scene, streamed
from mll_hf.errors import HubError, InputError
from mll_hf.graph.concepts import Concept, SemanticGraph, load_graph
from mll_hf.graph.probes import load_probes
from wordnet_worlds import imagenet_nouns, write_nouns, write_senses

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from graph import build_graph, map_open_images

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
VG_CARD = b"""---
configs:
- config_name: objects_v1.2.0
  data_files:
  - split: train
    path: data/train-*
---
"""
VG_OBJECT = {key: datasets.Value("int32") for key in ("object_id", "x", "y", "w", "h")} | {
    key: datasets.List(datasets.Value("string")) for key in ("names", "synsets")
}
OPEN_IMAGES_COLUMNS = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,"
    "Thumbnail300KURL,Rotation"
)


@pytest.fixture
def wordnet(tmp_path):
    senses = {"dog": [DOG], "corgi": [CORGI], "cat": ["n00000099", CAT], "clock": [CLOCK]}
    return write_senses(tmp_path / "wordnet", senses)


def gathered(folder, texts, wordnet=None, graph=GRAPH, **config):
    """Build a graph with images that may be passed on; returns the build and the rows."""
    config = HarvestConfig(**{"redistributable": True, "max_side": None} | config)
    sources = open_all(pin_all([parse_source(text) for text in texts], wordnet), graph)
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
        ({"bboxes": [[10, 20, 30, 40], [0, 0, 80, 50]], "classes": ["dog", "cat"], "area": [1, 1]}, "classes"),
        ([{"bbox": [10, 20, 30, 40], "category": "dog"}, {"bbox": [0, 0, 80, 50], "category": "cat"}], "category"),
        ([{"x": 10, "y": 20, "w": 30, "h": 40, "synsets": ["dog"]},
          {"x": 0, "y": 0, "w": 80, "h": 50, "synsets": ["cat"]}], "synsets"),
        ([{"xmin": 0.1, "ymin": 0.1, "xmax": 0.4, "ymax": 0.3, "label": "dog", "is_group_of": False},
          {"xmin": 0.0, "ymin": 0.0, "xmax": 0.8, "ymax": 0.25, "label": "cat", "confidence": 1.0}], "label"),
    ],
)  # fmt: skip
def test_boxes_of_all_layouts(objects, field):
    larger, smaller = labeled_parts(objects, field, (100, 200))
    assert larger == (("cat",), pytest.approx((0, 0, 80, 50)))
    assert smaller == (("dog",), pytest.approx((10, 20, 40, 60)))


def test_labels_of_the_whole_image_are_one_part():
    objects = [{"label": "dog", "confidence": 1.0}, {"label": "tree", "confidence": 0.0}, {"label": "cat"}, None]
    assert labeled_parts(objects, "label", (9, 9)) == [Part(("dog", "cat"), None)]
    assert labeled_parts(None, "label", (9, 9)) == labeled_parts([], "label", (9, 9)) == []


@pytest.mark.parametrize(
    "wrong",
    [{"x": None}, {"w": float("nan")}, {"y": float("nan")}, {"x": 100}, {"w": 0}, {"h": -5}, {"x": "10"},
     {"label": None}, {"is_depiction": True}, {"is_inside": 1}, {"is_group_of": True}, {"confidence": 0}],
)  # fmt: skip
def test_misleading_and_malformed_objects_are_left_out(wrong):
    right = {"x": 10, "y": 20, "w": 30, "h": 40, "label": "dog"}
    assert labeled_parts([right], "label", (100, 100)) == [Part(("dog",), Box(10, 20, 40, 60))]
    assert labeled_parts([right | wrong], "label", (100, 100)) == []


def test_boxes_end_with_the_image():
    (part,) = labeled_parts([{"x": -5, "y": 90, "w": 300, "h": 50, "label": "dog"}], "label", (100, 120))
    assert part.box == Box(0, 90, 100, 120)
    assert with_margin(part.box, (100, 120)) == (0, 80, 100, 120)
    assert with_margin(Box(50.5, 50, 70.5, 60), (100, 100)) == (48, 48, 72, 62)


def test_a_crop_and_its_largest_side():
    content = scene(0, [((100, 100, 200, 180), RED)])
    crop = Image.open(io.BytesIO(prepared(content, None, Box(100, 100, 200, 180))))
    assert crop.size == (120, 100)
    assert Image.open(io.BytesIO(prepared(content, 60, Box(100, 100, 200, 180)))).size == (60, 50)
    assert prepared(content, None) == content


# --- licenses and authors ---------------------------------------------------------------------------------------------


def test_credit_of_open_images():
    row = {
        "License": "https://creativecommons.org/licenses/by/2.0/", "Author": "Michael Beat",
        "OriginalLandingURL": "https://www.flickr.com/photos/michael-beat/5898076654",
    }  # fmt: skip
    credit = credit_in(row)
    assert credit == Credit("cc-by-2.0", "Michael Beat", "https://www.flickr.com/photos/michael-beat/5898076654")
    assert credit.is_redistributable


@pytest.mark.parametrize("row", [{"flickr_url": FLICKR.format(8119368305)}, {"flickr_id": 8119368305, "url": "mirror"}])
def test_the_page_on_flickr_names_the_author(row):
    credit = credit_in({"license": BY, **row})
    assert credit == Credit("cc-by-2.0", "", "https://www.flickr.com/photo.gne?id=8119368305")


@pytest.mark.parametrize(
    "text", ["cc-by-2.0", "CC BY 2.0", " CC-BY-2.0 ", BY, "https://www.creativecommons.org/licenses/by/2.0/deed.en"]
)
def test_ways_to_name_a_license(text):
    assert license_id(text) == "cc-by-2.0"


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


def coco_file(file, images, **more):
    """An annotation file of COCO or LVIS with the license and Flickr's number of each image."""
    licenses = [{"id": 4, "url": BY, "name": "Attribution License"}, {"id": 2, "url": BY_NC, "name": "NC"}]
    listed = [{"id": id, "license": of, "flickr_url": FLICKR.format(photo)} for id, of, photo in images]
    file.write_text(json.dumps({"licenses": licenses, "images": listed, "annotations": [], **more}))
    return file


def open_images_file(file, images):
    """Image metadata of Open Images with the license and author of each image."""
    rows = [f'{id},test,u,https://flickr.test/{id},{of},p,"{author}","T, and",1,m,t,0' for id, of, author in images]
    file.write_text("\n".join([OPEN_IMAGES_COLUMNS, *rows, ""]))
    return file


def test_credits_of_coco(tmp_path):
    credits = read_credits(coco_file(tmp_path / "c.json", [(437561, 4, 11), (9, 2, 12), (30, 5, 13)]))
    assert credits.of(437561) == Credit("cc-by-2.0", "", "https://www.flickr.com/photo.gne?id=11")
    assert credits.of({"bytes": b"", "path": "val2017/000000437561.jpg"}) == credits.of("437561")
    assert credits.of(9).license == "cc-by-nc-2.0"
    assert not credits.of(30).is_redistributable  # the file does not explain the number
    assert credits.of(7) is credits.of(None) is credits.of("") is credits.of({"path": None}) is None


def test_credits_of_open_images(tmp_path):
    images = [("fe600639ac5f36c1", BY, "Lab, CD"), ("000060e3121c7305", BY_ND, "Zoë\nB"), ("0012", BY, "")]
    credits = read_credits(open_images_file(tmp_path / "c.csv", images))
    assert credits.of("fe600639ac5f36c1") == Credit("cc-by-2.0", "Lab, CD", "https://flickr.test/fe600639ac5f36c1")
    assert credits.of("000060e3121c7305") == Credit("cc-by-nd-2.0", "Zoë\nB", "https://flickr.test/000060e3121c7305")
    assert credits.of("0012").author == ""
    assert credits.of("zzz") is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "{", "cannot be read as credits"),
        ("a.json", '{"images": [{"id": 1}]}', "cannot be read as credits"),
        ("a.json", "[]", "cannot be read as credits"),
        ("a.csv", "", "cannot be read as credits"),
        ("a.csv", "a,b\n1,2\n", "has no columns ImageID and License"),
        ("a.csv", "ImageID,Author\n1,2\n", "has no columns ImageID and License"),
        ("b.csv", None, "cannot be read as credits"),
    ],
)
def test_invalid_files_of_credits(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said) as refused:
        read_credits(tmp_path / name)
    assert "\n" not in str(refused.value)


# --- what labels mean -------------------------------------------------------------------------------------------------


def test_names_of_senses(wordnet, tmp_path):
    senses = noun_senses(wordnet)
    assert (senses["dog.n.01"], senses["cat.n.01"], senses["cat.n.02"]) == (DOG, "n00000099", CAT)
    assert len(senses) == 5
    with pytest.raises(InputError, match=r"cannot read .*index\.noun \(no such file\)"):
        noun_senses(tmp_path)
    with pytest.raises(InputError, match=r"synsets by name require index\.noun"):
        noun_senses("wn")
    for damaged in ("dog n 1 1 @ 1 0 123\n", "dog n x\n", "dog\n"):
        (tmp_path / "index.noun").write_text(damaged)
        with pytest.raises(InputError, match=r"is not in WordNet's format"):
            noun_senses(tmp_path)


def test_synsets_in_a_file_of_lvis(tmp_path, wordnet):
    categories = [{"id": 1, "synset": "dog.n.01"}, {"id": 7, "synset": "cat.n.02"}, {"id": 9, "synset": "unknown.n.01"}]
    file = coco_file(tmp_path / "lvis.json", [], categories=categories)
    assert read_label_file(file, wordnet) == {"1": DOG, "7": CAT}
    with pytest.raises(InputError, match=r"cannot read .*index\.noun"):
        read_label_file(file, tmp_path)


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's wordnet-base is not installed")
def test_classes_of_open_images():
    wnids, senses = open_images_wnids(), noun_senses()
    assert len(wnids) == 290
    assert all(wnid == senses[f"{name.lower().replace(' ', '_')}.n.01"] for name, wnid in wnids.items())
    assert not {"Mouse", "Orange", "Tart"} & wnids.keys()


def test_only_unambiguous_classes_are_mapped():
    senses = {"fox.n.01": DOG, "fox.n.02": "n00000098", "crane.n.01": CAT, "crane.n.02": CLOCK, "tart.n.01": CORGI}
    senses |= {"ice_cream.n.01": CLOCK, "band.n.01": "n00000097", "band.n.02": DOG}
    names = ("Fox", "Crane", "Tart", "Ice cream", "Band", "Jacuzzi")
    rows = [f"{name},n00000055,{'a person' if name == 'Tart' else ''},somewhere" for name in names]
    text = map_open_images.mapped("\n".join(["name,wnid,rejected,source", *rows]), senses, GRAPH.index)
    mapped = dict(line.split(",")[:2] for line in text.splitlines()[1:])
    assert mapped == {"Fox": DOG, "Crane": "", "Tart": "", "Ice cream": CLOCK, "Band": "", "Jacuzzi": ""}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lvis", "'lvis': add labels=..."),
        ("lvis?labels=", "add labels=..."),
        ("visual-genome?repo=", "is not of the form hf://datasets/ORG/NAME"),
        ("hf://datasets/org/a?labels=wnid&domain=photo&repo=org/b", "unknown option repo"),
        ("open-images?color=red", "unknown option color"),
    ],
)
def test_invalid_sources(text, said):
    with pytest.raises(InputError, match=said):
        parse_source(text)


def test_a_copy_of_a_built_in_source():
    copy = parse_source("visual-genome?repo=me/vg@v1&credits=c.json&name=mine")
    assert (copy.repo_id, copy.revision, copy.credits, copy.name) == ("me/vg", "v1", "c.json", "mine")
    assert (copy.objects, copy.label, copy.labels, copy.key) == ("objects", "synsets", "synset", "coco_id")


# --- LVIS -------------------------------------------------------------------------------------------------------------


def put_lvis(repo_id, scenes):
    """A dataset as the card of winvoker/lvis describes it, converted to Parquet: (number of the file, objects)."""
    objects = {"bboxes": datasets.Sequence(datasets.Value("float32")), "classes": datasets.Value("int64")}
    features = {
        "id": datasets.Value("int64"), "image": datasets.Image(), "height": datasets.Value("int64"),
        "width": datasets.Value("int64"), "objects": datasets.Sequence(objects),
    }  # fmt: skip
    rows = [
        {
            "id": i, "height": 300, "width": 400,
            "image": {"bytes": content, "path": f"{number:012}.jpg"},
            "objects": {"bboxes": [box for box, _ in boxes], "classes": [of for _, of in boxes]},
        }
        for i, (number, content, boxes) in enumerate(scenes)
    ]  # fmt: skip
    return put_features(repo_id, rows, features, split="validation")


@pytest.fixture
def lvis(tmp_path, hub):
    """A small LVIS; returns its source."""
    two = scene(1, [((50, 50, 200, 150), RED), ((250, 100, 350, 250), GREEN)])
    put_lvis(
        "org/lvis",
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
    categories = enumerate(("dog.n.01", "corgi.n.01", "cat.n.02", "clock.n.01"), 1)
    file = coco_file(
        tmp_path / "lvis.json", [(437561, 4, 11), (2, 4, 12), (3, 2, 13), (5, 4, 15)],
        categories=[{"id": id, "synset": synset} for id, synset in categories],
    )  # fmt: skip
    return f"lvis?repo=org/lvis&labels={file}&credits={file}"


def test_crops_of_lvis(tmp_path, lvis, wordnet):
    build, rows = gathered(tmp_path / "out", [lvis], wordnet)
    assert tally_of(build) == (10, {"outside": 1, "undecodable": 1, "unlicensed": 2, "small": 1, "repeated": 1})
    by_node = {(row["node"], row["url"][-2:]): row for row in rows}
    assert sorted(by_node) == [(DOG, "12"), (CORGI, "11"), (CAT, "11"), (CAT, "12")]
    assert pixels(by_node[CORGI, "11"]).shape == (130, 180, 3)  # 150 x 100 and a tenth of 150 on each side
    assert pixels(by_node[CAT, "12"]).shape == (77, 77, 3)  # the image ends on two sides
    assert is_of(by_node[CORGI, "11"], RED)
    assert is_of(by_node[CAT, "11"], GREEN)
    assert {(row["license"], row["author"], row["source"]) for row in rows} == {("cc-by-2.0", None, "lvis")}
    assert len({row["image_id"] for row in rows}) == 2  # of the images, not of the crops
    assert build.licenses == {"cc-by-2.0": 4}

    graph = load_graph(tmp_path / "out")
    assert len(load_probes(graph, tmp_path / "out")) == 4
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Each image has its own license, author and page, in the columns `license`, `author` and `url`" in card
    assert "| `cc-by-2.0` | 4 |" in card
    assert "All images may be redistributed" in card
    assert "Images of lvis whose objects have boxes were cropped" in card
    assert str(tmp_path) not in card


def test_without_redistribution_licenses_are_only_named(tmp_path, lvis, wordnet):
    build, rows = gathered(tmp_path / "out", [lvis], wordnet, redistributable=False)
    assert tally_of(build)[1] == {"outside": 1, "undecodable": 1, "small": 1, "repeated": 1}
    assert build.licenses == {"cc-by-2.0": 4, "cc-by-nc-2.0": 2}
    assert [row["node"] for row in rows if row["license"] is None] == [CORGI]
    assert "All images may be redistributed" not in (tmp_path / "out" / "README.md").read_text()


def test_an_interrupted_run_resumes(tmp_path, lvis, wordnet, hub, monkeypatch):
    whole = gathered(tmp_path / "whole", [lvis], wordnet)
    hub.fail("validation-00001-of", 500, times=10_000, method="GET")
    with pytest.raises(HubError, match="org/lvis: "):
        gathered(tmp_path / "out", [lvis], wordnet)
    hub.disturbances.clear()
    calls = iter((False, True))

    def interrupted(*args):
        if next(calls, True):
            raise KeyboardInterrupt
        return prepared(*args)

    with monkeypatch.context() as patch:
        patch.setattr("graph.gathering.prepared", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gathered(tmp_path / "other", [lvis], wordnet)
    for name in ("out", "other"):
        assert gathered(tmp_path / name, [lvis], wordnet) == whole
        assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == {
            path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
        }


def test_other_credits_make_another_build(tmp_path, lvis, wordnet):
    gathered(tmp_path / "out", [lvis], wordnet)
    coco_file(tmp_path / "other.json", [(437561, 4, 11)])
    other = f"{lvis.rpartition('=')[0]}={tmp_path}/other.json"
    with pytest.raises(InputError, match="holds another build"):
        gathered(tmp_path / "out", [other], wordnet)


def test_images_that_are_stored_turned_are_not_cropped(tmp_path, wordnet):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 300), RED).save(file, format="JPEG", exif=exif)
    put_lvis("org/lvis", [(1, file.getvalue(), [([0, 0, 200, 200], 3)]), (2, scene(0), [([0, 0, 99, 99], 3)])])
    categories = [{"id": 3, "synset": "cat.n.02"}]
    labels = coco_file(tmp_path / "lvis.json", [(1, 4, 1), (2, 4, 2)], categories=categories)
    build, _ = gathered(tmp_path / "out", [f"lvis?repo=org/lvis&labels={labels}&credits={labels}"], wordnet)
    assert tally_of(build) == (2, {"undecodable": 1})


# --- Visual Genome ----------------------------------------------------------------------------------------------------


def test_crops_of_visual_genome(tmp_path, hub, wordnet):
    """A dataset as the card of ranjaykrishna/visual_genome describes it, converted to Parquet."""

    def row(number, coco_id, *objects):
        boxes = [((x, y, x + w, y + h), BLUE) for x, y, w, h, _ in objects]
        fields = [dict(zip("xywh", each[:4], strict=True)) | {"synsets": each[4]} for each in objects]
        return {
            "image": {"bytes": scene(number, boxes), "path": f"{number}.jpg"}, "image_id": number, "coco_id": coco_id,
            "url": f"https://cs.stanford.edu/people/rak248/VG_100K_2/{number}.jpg", "width": 400, "height": 300,
            "flickr_id": 70 + number,
            "objects": [{"object_id": i, "names": ["x"], **each} for i, each in enumerate(fields)],
        }  # fmt: skip

    features = {key: datasets.Value("int64") for key in ("image_id", "width", "height", "coco_id", "flickr_id")}
    features |= {"image": datasets.Image(), "url": datasets.Value("string"), "objects": datasets.List(VG_OBJECT)}
    rows = [
        row(1, 501, (100, 50, 100, 200, ["clock.n.01"]), (0, 0, 80, 80, ["street.n.01"]), (5, 5, 90, 90, [])),
        row(2, 502, (100, 50, 100, 100, ["dog.n.01", "corgi.n.01"]), (100, 50, 150, 150, ["dog.n.01", "cat.n.02"])),
        row(3, None, (100, 50, 100, 200, ["clock.n.01"])),
    ]
    put_features("org/vg", rows, features, files={"README.md": VG_CARD})
    credits = coco_file(tmp_path / "captions.json", [(501, 4, 21), (502, 4, 22), (3, 4, 23)])
    build, found = gathered(tmp_path / "out", [f"visual-genome?repo=org/vg&credits={credits}"], wordnet)
    # an object without synsets shows nothing that is known
    assert tally_of(build) == (6, {"outside": 2, "unlicensed": 1, "ambiguous": 1})
    assert sorted((row["node"], row["url"]) for row in found) == [
        (CORGI, "https://www.flickr.com/photo.gne?id=22"), (CLOCK, "https://www.flickr.com/photo.gne?id=21")
    ]  # fmt: skip
    assert all(is_of(row, BLUE) for row in found)


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


def test_sources_without_licenses_are_refused(tmp_path, capsys, hub, open_images, command):
    put_parquet("org/birds", [(scene(1), "n02391049")])
    other = ["--source", "hf://datasets/org/birds?labels=wnid&domain=photo&name=birds"]
    capsys.readouterr()  # progress of datasets
    for more, name in (([], "open-images"), (other, "birds")):
        assert build_graph.main([*command, *more]) == 1
        assert capsys.readouterr().err == (
            f"error: {name} has no license for each image; add credits=FILE to the source, or remove it\n"
        )
        assert not (tmp_path / "out").exists()
    assert build_graph.main([*command, "--text-only"]) == 1
    assert "--redistributable is about images; remove it, or remove --text-only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("objects=tags", "has no column 'tags'"),
        ("label=kind", "its labels have no 'kind', only label, confidence; add label=FIELD"),
        ("objects=title", "its title have no 'label', only none; add label=FIELD"),
        ("key=number", "has no column 'number'"),
    ],
)
def test_wrong_columns(open_images, options, said):
    source = parse_source(f"open-images?credits={open_images}&{options}")
    with pytest.raises(HubError, match=said):
        open_all(pin_all([source]), GRAPH)


def test_boxes_as_shares_with_classes_by_number(tmp_path, hub):
    """The first layout of vikhyatk/openimages-bbox, with columns for license and author."""
    sides = {side: datasets.Value("float32") for side in ("xmin", "xmax", "ymin", "ymax")}
    objects = datasets.List({"label": datasets.ClassLabel(names=["Zebra", "Goldfish", "Mouse"]), **sides})
    zebra = {"label": 0, "xmin": 0.25, "xmax": 0.5, "ymin": 0.2, "ymax": 0.6}
    mouse = {"label": 2, "xmin": 0.0, "xmax": 1.0, "ymin": 0.0, "ymax": 1.0}
    content = scene(7, [((100, 60, 200, 180), BLUE)])
    row = {"image": {"bytes": content, "path": None}, "objects": [zebra, mouse], "License": BY, "Author": "Ann"}
    texts = {"License": datasets.Value("string"), "Author": datasets.Value("string")}
    put_features("org/boxes", [row], {"image": datasets.Image(), "objects": objects, **texts}, shards=1)
    graph = SemanticGraph("z", (Concept("n02391049", "zebra", ("zebra",), "it is striped", ()),))
    source = "open-images?repo=org/boxes&split=train&objects=objects"
    build, (found,) = gathered(tmp_path / "out", [source], graph=graph)
    assert tally_of(build) == (2, {"outside": 1})
    assert pixels(found).shape == (144, 124, 3)  # 120 x 100 and a tenth of 120 on each side
    assert is_of(found, BLUE)


def test_unknown_licenses_are_counted_as_one(tmp_path, hub):
    text = datasets.Value("string")
    rows = [
        {"image": {"bytes": scene(i), "path": None}, "label": CAT, "license": license}
        for i, license in enumerate(["ask | me", "ask\nhim", "cc-by-4.0", None])
    ]
    put_features("org/cats", rows, {"image": datasets.Image(), "label": text, "license": text}, split="test")
    texts = ["hf://datasets/org/cats?labels=wnid&domain=photo"]
    build, found = gathered(tmp_path / "out", texts, redistributable=False)
    assert build.licenses == {"cc-by-4.0": 1, "other": 2}
    assert {row["license"] for row in found} == {"ask | me", "ask\nhim", "cc-by-4.0", None}


def test_license_columns_of_the_data_set(tmp_path, hub):
    features = {key: datasets.Value("string") for key in ("label", "license", "author", "url")}
    rows = [
        {"image": {"bytes": scene(i), "path": None}, "label": CAT, "license": license, "author": author, "url": None}
        for i, (license, author) in enumerate([("cc0-1.0", "Ann"), ("cc-by-4.0", None), (None, "Bob"), (BY_ND, "Cem")])
    ]
    put_features("org/cats", rows, features | {"image": datasets.Image()}, split="test")
    build, found = gathered(tmp_path / "out", ["hf://datasets/org/cats?labels=wnid&domain=photo"])
    assert tally_of(build) == (4, {"unlicensed": 3})
    assert [(row["license"], row["author"], row["url"]) for row in found] == [("cc0-1.0", "Ann", None)]
