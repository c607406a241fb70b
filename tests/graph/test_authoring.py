"""Writing graphs: nothing is added twice, nothing is half written, every image can be decoded."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mll_hf.errors import GraphError, InputError
from mll_hf.graph.authoring import (
    NewConcept,
    NewImage,
    add_to_graph,
    check_graph,
    new_concept,
    pooled_counts,
    read_folders,
    read_images,
)
from mll_hf.graph.concepts import load_graph
from mll_hf.graph.files import image_files, iter_filed_images
from worlds import make_graph, picture, write_graph_folder

BASE = make_graph()


def new(id, parents, count=5, first=0, description="a kind", domain="icon"):
    images = tuple(NewImage(picture(7, first + n), f"{id}-{n}.png", domain, "a set, MIT") for n in range(count))
    return new_concept(id, id, [f"the {id}"], description, parents, images)


def state(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def images_of(folder):
    return pooled_counts(load_graph(folder), Counter(node for node, _ in iter_filed_images(folder)))


def add(folder, new):
    return add_to_graph(folder, new, BASE)


def test_a_graph_grows(tmp_path):
    folder = tmp_path / "birds"
    added = add(folder, [new("duck", ["bird"]), new("bird", ["animal"], 0)])
    assert (added.concepts, added.images) == (2, 5)
    assert images_of(folder) == {"bird": 5, "duck": 5}
    first = load_graph(folder)
    added = add(folder, [new("eagle", ["bird"], 6, first=100)])
    assert (added.concepts, added.images) == (1, 6)
    assert images_of(folder) == {"bird": 11, "duck": 5, "eagle": 6}
    assert added.graph == load_graph(folder)
    assert added.graph.name == "birds"
    assert added.graph.external == {"animal"}
    assert added.graph.digest != first.digest
    assert len(image_files(folder)) == 2
    check_graph(added.graph, folder, BASE)


def test_images_are_stored_as_they_are(tmp_path):
    add(tmp_path / "p", [new("duck", ["animal"], domain="sketch")])
    table = pq.read_table(next((tmp_path / "p").glob("images-*.parquet")))
    assert [row["bytes"] for row in table["image"].to_pylist()] == [picture(7, n) for n in range(5)]
    assert set(table["node"].to_pylist()) == {"duck"}
    assert set(table["style"].to_pylist()) == {"sketch"}
    assert set(table["source"].to_pylist()) == {"a set, MIT"}
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == set(table.column_names)
    assert features["image"] == {"_type": "Image"}


def test_adding_again_changes_nothing(tmp_path):
    folder = tmp_path / "p"
    add(folder, [new("duck", ["animal"])])
    before = state(folder)
    again = new("duck", ["animal"])
    added = add(folder, [NewConcept(again.concept, again.images * 2), again])
    assert (added.concepts, added.images) == (0, 0)
    assert state(folder) == before
    assert add(folder, [new("duck", ["animal"], 7)]).images == 2
    assert images_of(folder) == {"duck": 7}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ([new("duck", ["nowhere"])], r"unknown parents: nowhere \(neither in the graph nor in tiny\)"),
        ([new("animal", ["cat"])], "tiny and .* cannot be used together: the hypernyms form a cycle"),
        ([new("a", ["b", "animal"]), new("b", ["a"])], "form a cycle"),
        ([new("duck", ["animal"], 4)], r"1 concepts have fewer than 5 images, such as duck \(4\)"),
        ([NewConcept(new("duck", ["animal"]).concept, (NewImage(b"x", "x.png", "", ""),))], r"x\.png of duck cannot"),
        ([], "has no concepts"),
    ],
    ids=["unknown parent", "cycle through the base", "cycle", "too few images", "no image", "nothing"],
)  # fmt: skip
def test_invalid_additions_change_nothing(tmp_path, wrong, complaint):
    fresh, present = tmp_path / "fresh", tmp_path / "present"
    with pytest.raises(GraphError, match=complaint) as caught:
        add(fresh, wrong)
    assert "\n" not in str(caught.value)
    assert not fresh.exists()
    add(present, [new("old", ["animal"], first=50)])
    before = state(present)
    if wrong:
        with pytest.raises(GraphError, match=complaint):
            add(present, wrong)
    assert state(present) == before


def test_parents_must_exist_even_without_a_base(tmp_path):
    folder = tmp_path / "p"
    with pytest.raises(
        GraphError, match=r"unknown parents: animal \(not in the graph\); give the graph with these concepts"
    ):
        add_to_graph(folder, [new("duck", ["animal"])])
    assert not folder.exists()
    add(folder, [new("duck", ["animal"])])
    added = add_to_graph(folder, [new("emu", ["animal", "duck"], first=20)])  # the graph names animal already
    assert added.graph.external == {"animal"}
    with pytest.raises(GraphError, match="unknown parents: pet"):
        add_to_graph(folder, [new("eagle", ["pet"])])


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
authoring.add_to_graph(Path(sys.argv[1]), [new("eagle", ["animal"], first=100)], BASE)
"""


@pytest.mark.parametrize("there", [False, True])
def test_a_kill_leaves_a_whole_graph(tmp_path, there):
    def add_eagle(folder):
        return add(folder, [new("eagle", ["animal"], first=100)])

    folder, whole = tmp_path / "killed" / "p", tmp_path / "whole" / "p"
    for each in (folder, whole) if there else ():
        add(each, [new("duck", ["animal"])])
    add_eagle(whole)
    for writes in (0, 1):  # killed before the images are written, and before graph.json is
        words = [sys.executable, "-c", KILLED, folder, Path(__file__).parent, writes]
        run = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
        assert run.returncode == -signal.SIGKILL, run.stderr
        assert (folder / "graph.json").exists() is there
        if there:
            assert images_of(folder) == {"duck": 5}
    assert len(list(folder.glob("images-*"))) == 1 + there
    add_eagle(folder)
    assert state(folder) == state(whole)


def test_check_finds_damage(tmp_path):
    folder = write_graph_folder(tmp_path / "p", [])
    nodes = [{"id": id, "names": [id], "gloss": "", "hypernyms": ["animal"]} for id in ("duck", "emu")]
    rows = [{"image": picture(7, n), "node": id} for id in ("duck", "emu") for n in range(5)]

    def checked():
        import pyarrow as pa

        (folder / "graph.json").write_text(json.dumps({"nodes": nodes}))
        pq.write_table(pa.Table.from_pylist(rows), folder / "images.parquet")
        check_graph(load_graph(folder), folder, BASE)

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
    with pytest.raises(GraphError, match="no concepts that can be confused"):
        checked()
    nodes[1]["hypernyms"] = ["nowhere"]
    with pytest.raises(GraphError, match="unknown parents: nowhere"):
        checked()
    rows.append({"image": picture(7, 10), "node": "dodo"})
    with pytest.raises(GraphError, match="images of unknown nodes: dodo"):
        checked()


# --- folders


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
    with pytest.raises(InputError, match="is not a folder"):
        read_images(tmp_path / "nothing", "photo")


def test_a_folder_per_concept(tmp_path):
    write_images(tmp_path / "root" / "sea_duck")
    write_images(tmp_path / "root" / "eagle", 6, first=40)
    (tmp_path / "root" / ".cache").mkdir()
    eagle, duck = read_folders(tmp_path / "root", ["animal"], "sketch")
    assert (duck.concept.id, duck.concept.name, duck.concept.hypernyms) == ("sea_duck", "sea duck", ("animal",))
    assert [(i.domain, i.source) for i in eagle.images] == [("sketch", "eagle")] * 6
    assert add(tmp_path / "p", [eagle, duck]).images == 11
    with pytest.raises(InputError, match="has no subfolders"):
        read_folders(tmp_path / "root" / "eagle", [])
    with pytest.raises(InputError, match="cannot be read"):
        read_folders(tmp_path / "nowhere", [])
