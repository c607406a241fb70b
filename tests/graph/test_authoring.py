"""Making packs: nothing twice, nothing half, nothing that is no picture."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mll_hf.errors import GraphError, InputError, StorageError
from mll_hf.graph import authoring
from mll_hf.graph.authoring import (
    ALL_IMAGES,
    NewConcept,
    PackImage,
    add_to_pack,
    check_pack,
    new_concept,
    read_concepts,
    read_images,
)
from mll_hf.labels.packs import attach_pack, load_pack
from worlds import make_graph, picture, write_graph_folder

BASE = make_graph()


def new(id, parents, count=5, first=0, description="a kind", domain="icon"):
    images = tuple(PackImage(picture(7, first + n), f"{id}-{n}.png", domain, "a set, MIT") for n in range(count))
    return NewConcept(new_concept(id, id, [f"the {id}"], description, parents), images)


def state(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def images_of(folder):
    pack = load_pack(folder)
    attached = attach_pack(BASE, pack, folder, ALL_IMAGES)
    return {c.id: len(attached.probes.images_of(attached.graph.index[c.id])) for c in pack.concepts}


def test_a_pack_grows(tmp_path):
    folder = tmp_path / "birds"
    added = add_to_pack(folder, BASE, [new("duck", ["bird"]), new("bird", ["animal"], 0)])
    assert (added.concepts, added.images) == (2, 5)
    assert images_of(folder) == {"bird": 5, "duck": 5}
    first = load_pack(folder)
    added = add_to_pack(folder, BASE, [new("eagle", ["bird"], 6, first=100)])
    assert (added.concepts, added.images) == (1, 6)
    assert images_of(folder) == {"bird": 11, "duck": 5, "eagle": 6}
    assert added.pack == load_pack(folder)
    assert added.pack.name == "birds"
    assert added.pack.digest != first.digest
    assert len(added.pack.image_files) == 2
    check_pack(attach_pack(BASE, added.pack, folder, ALL_IMAGES), folder)


def test_the_pictures_come_back(tmp_path):
    add_to_pack(tmp_path / "p", BASE, [new("duck", ["animal"], domain="sketch")])
    table = pq.read_table(next((tmp_path / "p").glob("images-*.parquet")))
    assert [row["bytes"] for row in table["image"].to_pylist()] == [picture(7, n) for n in range(5)]
    assert set(table["node"].to_pylist()) == {"duck"}
    assert set(table["style"].to_pylist()) == {"sketch"}
    assert set(table["source"].to_pylist()) == {"a set, MIT"}
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == set(table.column_names)
    assert features["image"] == {"_type": "Image"}


def test_nothing_is_added_twice(tmp_path):
    folder = tmp_path / "p"
    add_to_pack(folder, BASE, [new("duck", ["animal"])])
    before = state(folder)
    again = new("duck", ["animal"])
    added = add_to_pack(folder, BASE, [NewConcept(again.concept, again.images * 2), again])
    assert (added.concepts, added.images) == (0, 0)
    assert state(folder) == before
    assert add_to_pack(folder, BASE, [new("duck", ["animal"], 7)]).images == 2
    assert images_of(folder) == {"duck": 7}


def test_the_same_picture_may_show_two_concepts(tmp_path):
    added = add_to_pack(tmp_path / "p", BASE, [new("duck", ["animal"]), new("raft", ["vehicle"])])
    assert added.images == 10


def test_a_concept_takes_new_texts(tmp_path):
    folder = tmp_path / "p"
    add_to_pack(folder, BASE, [new("duck", ["animal"])])
    added = add_to_pack(folder, BASE, [new("duck", ["pet"], 0, description="another")])
    assert (added.concepts, added.images) == (1, 0)
    (concept,) = load_pack(folder).concepts
    assert (concept.definition, concept.hypernyms) == ("another", ("pet",))
    assert images_of(folder) == {"duck": 5}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ([new("duck", ["nowhere"])], "does not have: nowhere"),
        ([new("duck", [])], "without parents: duck"),
        ([new("cat", ["animal"])], "duplicate ids: cat"),
        ([new("a", ["b", "animal"]), new("b", ["a"])], "form a cycle"),
        ([new("duck", ["animal"], 4)], r"1 concepts have fewer than 5 images, such as duck \(4\)"),
        ([NewConcept(new("duck", ["animal"]).concept, (PackImage(b"x", "x.png", "", ""),))], r"x\.png of duck cannot"),
        ([], "has no concepts"),
    ],
    ids=["unknown parent", "no parent", "id of the graph", "cycle", "too few", "no picture", "nothing"],
)  # fmt: skip
def test_what_cannot_be_added(tmp_path, wrong, complaint):
    fresh, present = tmp_path / "fresh", tmp_path / "present"
    with pytest.raises(GraphError, match=complaint) as caught:
        add_to_pack(fresh, BASE, wrong)
    assert "\n" not in str(caught.value)
    assert not fresh.exists()
    add_to_pack(present, BASE, [new("old", ["animal"], first=50)])
    before = state(present)
    if wrong:
        with pytest.raises(GraphError, match=complaint):
            add_to_pack(present, BASE, wrong)
    assert state(present) == before


def test_the_folder_of_a_graph_is_no_pack(tmp_path):
    folder = write_graph_folder(tmp_path / "graph")
    before = state(folder)
    with pytest.raises(GraphError, match="without parents"):
        add_to_pack(folder, BASE, [new("duck", ["animal"])])
    assert state(folder) == before


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[2], os.path.dirname(sys.argv[2])]
from pathlib import Path
from mll_hf.graph import authoring
from test_authoring import BASE, new

plain, calls = authoring.write_atomically, []

def write(path, content):
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(path)
    plain(path, content)

authoring.write_atomically = write
authoring.add_to_pack(Path(sys.argv[1]), BASE, [new("eagle", ["animal"], first=100)])
"""


@pytest.mark.parametrize("there", [False, True])
def test_a_kill_leaves_a_whole_pack(tmp_path, there):
    def add(folder):
        return add_to_pack(folder, BASE, [new("eagle", ["animal"], first=100)])

    folder, whole = tmp_path / "killed" / "p", tmp_path / "whole" / "p"
    for each in (folder, whole) if there else ():
        add_to_pack(each, BASE, [new("duck", ["animal"])])
    add(whole)
    for writes in (0, 1):  # before the images, and between them and the list of concepts
        words = [sys.executable, "-c", KILLED, folder, Path(__file__).parent, writes]
        run = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
        assert run.returncode == -signal.SIGKILL, run.stderr
        assert (folder / "graph.json").exists() is there
        if there:
            assert images_of(folder) == {"duck": 5}
    assert len(list(folder.glob("images-*"))) == 1 + there
    add(folder)
    assert state(folder) == state(whole)


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def full(path, content):
        raise StorageError(path, OSError(28, "No space left on device"))

    monkeypatch.setattr(authoring, "write_atomically", full)
    with pytest.raises(StorageError):
        add_to_pack(tmp_path / "p", BASE, [new("duck", ["animal"])])


def test_check_finds_damage(tmp_path):
    folder = write_graph_folder(tmp_path / "p", [])
    nodes = [{"id": id, "names": [id], "gloss": "", "hypernyms": ["animal"]} for id in ("duck", "emu")]
    rows = [{"image": picture(7, n), "node": id} for id in ("duck", "emu") for n in range(5)]

    def checked():
        import pyarrow as pa

        (folder / "graph.json").write_text(json.dumps({"nodes": nodes}))
        pq.write_table(pa.Table.from_pylist(rows), folder / "images.parquet")
        check_pack(attach_pack(BASE, load_pack(folder), folder, ALL_IMAGES), folder)

    checked()
    rows[3]["image"] = b"no image"
    with pytest.raises(GraphError, match="1 images cannot be decoded"):
        checked()
    del rows[3]
    with pytest.raises(GraphError, match="fewer than 5 images"):
        checked()
    rows.insert(0, {"image": picture(7, 9), "node": "duck"})
    checked()
    nodes[1]["hypernyms"] = ["duck"]
    with pytest.raises(GraphError, match="no two concepts to tell apart"):
        checked()


# --- folders and tables


def write_images(folder, count=5, first=0):
    folder.mkdir(parents=True)
    for n in range(count):
        (folder / f"{n}.png").write_bytes(picture(3, first + n))
    return folder


def test_a_folder_of_images(tmp_path):
    write_images(tmp_path / "duck" / "deep", 2)
    (tmp_path / "duck" / ".DS_Store").write_bytes(b"x")
    images = read_images(tmp_path / "duck", "photo")
    assert [Path(image.name).name for image in images] == ["0.png", "1.png"]
    assert {(image.domain, image.source) for image in images} == {("photo", "duck")}
    assert read_images(tmp_path / "duck", "photo", "mine, CC0")[0].source == "mine, CC0"
    with pytest.raises(InputError, match="is no folder"):
        read_images(tmp_path / "nothing", "photo")


ROWS = [
    {"id": "bird", "name": "bird", "lemmas": "fowl; bird", "description": "it flies", "parents": "animal;pet",
     "images": "here", "domain": "icon", "source": "mine"},
    {"id": "duck", "name": "duck", "lemmas": "", "description": "it quacks", "parents": "bird", "images": "",
     "domain": "", "source": ""},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_table(tmp_path, kind):
    write_images(tmp_path / "here", 3)
    write_images(tmp_path / "root" / "duck", 5, first=9)
    file = tmp_path / f"concepts.{kind}"
    if kind == "csv":
        with file.open("w", encoding="utf-8-sig", newline="") as out:
            writer = csv.DictWriter(out, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        lists = [
            {**row, "lemmas": [t for t in row["lemmas"].split("; ") if t], "parents": row["parents"].split(";")}
            for row in ROWS
        ]
        file.write_text(json.dumps(lists))
    bird, duck = read_concepts(file, tmp_path / "root", "sketch")
    assert bird.concept.lemmas == ("bird", "fowl")
    assert bird.concept.hypernyms == ("animal", "pet")
    assert bird.concept.caption == "bird which is it flies"
    assert [(i.domain, i.source) for i in bird.images] == [("icon", "mine")] * 3
    assert duck.concept.lemmas == ("duck",)
    assert [(i.domain, i.source) for i in duck.images] == [("sketch", "duck")] * 5
    assert add_to_pack(tmp_path / "p", BASE, [bird, duck]).images == 8


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": ""}, "row 1: lacks a text 'name'"),
        ({"id": 7}, "row 1: lacks a text 'id'"),
        ({"description": 7}, "lacks a text 'description'"),
        ({"parents": [7]}, "'parents' is no list of texts"),
        ({"gloss": "x"}, r"unknown fields \(gloss\)"),
        ({"images": "gone"}, "is no folder"),
        ({"images": ""}, "names no folder of images"),
    ],
)
def test_a_table_that_is_wrong(tmp_path, change, complaint):
    file = tmp_path / "concepts.json"
    file.write_text(json.dumps([{**ROWS[0], **change}]))
    with pytest.raises(InputError, match=complaint) as caught:
        read_concepts(file)
    assert "\n" not in str(caught.value)


def test_ids_do_not_lead_out_of_the_root(tmp_path):
    file = tmp_path / "concepts.json"
    write_images(tmp_path / "duck")
    write_images(tmp_path / "root" / "a" / "b")
    for id in ("../duck", str(tmp_path / "duck"), "a/b", "..", "."):
        file.write_text(json.dumps([{**ROWS[1], "id": id}]))
        with pytest.raises(InputError, match="no folder can be named"):
            read_concepts(file, tmp_path / "root")


@pytest.mark.parametrize("content", ["", "7", "[]", "{}", "[7]", "[" * 100_000, "\ufffe"])
def test_what_is_no_table(tmp_path, content):
    file = tmp_path / "concepts.json"
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        read_concepts(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_concepts(file)
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_concepts(tmp_path / "gone.csv")


# --- the formulas of scripts/build_packs.py


def test_textures_are_drawn_by_formulas():
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    from pack_sources import textures

    assert len(textures.WORDS) == 47
    seen = set()
    for word in textures.WORDS:
        draw = getattr(textures, f"_{word.replace('-', '_')}")
        first, second = (draw(textures.Field(np.random.default_rng([n, *word.encode()]))) for n in (0, 1))
        assert first.shape[:2] == (textures.N, textures.N)
        assert np.isfinite(first).all(), word
        assert np.broadcast_to(first, (textures.N, textures.N, 3)).std() > 0.01, word
        assert np.abs(first - second).mean() > 0.01, word
        seen.add(hashlib.sha256(np.ascontiguousarray(first).tobytes()).hexdigest())
    assert len(seen) == 47
