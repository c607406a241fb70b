"""Making graphs: whole or not at all, every image can be decoded, and what is wrong is said in one line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mll_hf.errors import GraphError, InputError
from mll_hf.graph import authoring
from mll_hf.graph.authoring import NewImage, check_graph, make_graph, read_folders, read_images
from mll_hf.graph.concepts import Concept, load_graph
from worlds import make_graph as graph_of
from worlds import picture, write_graph_folder, write_pictures

BASE = graph_of()


def new(id, parents, count=5, first=0, domain="icon"):
    images = tuple(NewImage(picture(7, first + n), f"{id}-{n}.png", domain, "a set, MIT") for n in range(count))
    return Concept(id, (id, f"the {id}"), "a kind", tuple(parents)), images


BIRDS = [new("bird", ["animal"], 0), new("duck", ["bird"]), new("eagle", ["bird"], 6, first=50)]


def state(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_graph_with_images_as_they_are(tmp_path):
    folder = tmp_path / "birds"
    duck, images = BIRDS[1]
    graph = make_graph(folder, [BIRDS[0], (duck, images * 2), BIRDS[2]], BASE)
    assert (graph.name, len(graph), graph.probes.total, graph.external) == ("birds", 3, 11, {"animal"})
    assert load_graph(folder) == graph
    check_graph(graph, folder, BASE)
    table = pq.read_table(folder / "images.parquet")
    assert [row["bytes"] for row in table["image"].to_pylist()[:5]] == [picture(7, n) for n in range(5)]
    assert table["node"].to_pylist() == ["duck"] * 5 + ["eagle"] * 6
    assert set(table["style"].to_pylist()) == {"icon"}
    assert set(table["source"].to_pylist()) == {"a set, MIT"}
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == set(table.column_names)
    assert features["image"] == {"_type": "Image"}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ([new("duck", ["nowhere"])], r"unknown parents: nowhere \(neither in the graph nor in tiny\)"),
        ([*BIRDS, new("animal", ["cat"], first=90)], "tiny and .* cannot be used together: the hypernyms form a cycle"),
        ([new("a", ["b", "animal"]), new("b", ["a"])], "form a cycle"),
        ([*BIRDS, new("emu", ["bird"], 4, first=90)], r"1 concepts have fewer than 5 images, such as emu \(4\)"),
        ([(Concept("x", ("x",), "", ()), (NewImage(b"x", "x.png", "", ""),))], "1 images cannot be decoded: x.png"),
        ([new("duck", ["animal"])], "the graph has no concepts that can be confused"),
        ([], "has no concepts"),
    ],
    ids=["unknown parent", "cycle through the base", "cycle", "too few images", "no image", "no rivals", "nothing"],
)  # fmt: skip
def test_invalid_graphs_are_not_written(tmp_path, wrong, complaint):
    with pytest.raises(GraphError, match=complaint) as caught:
        make_graph(tmp_path / "graph", wrong, BASE)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "graph").exists()


@pytest.mark.parametrize("writes", [0, 1])
def test_a_graph_is_whole_or_not_there_and_another_is_not_overwritten(tmp_path, monkeypatch, writes):
    folder, plain, calls = tmp_path / "graph", authoring.write_atomically, []

    def killed(path, content):
        if len(calls) == writes:
            raise KeyboardInterrupt
        calls.append(path)
        plain(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(authoring, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            make_graph(folder, [*BIRDS[:2], new("emu", ["bird"], first=90)], BASE)
    assert not (folder / "graph.json").exists()
    make_graph(folder, BIRDS, BASE)
    before = state(folder)
    make_graph(folder, BIRDS, BASE)
    with pytest.raises(GraphError, match="holds another graph; choose a new folder"):
        make_graph(folder, [*BIRDS, new("emu", ["bird"], first=90)], BASE)
    assert state(folder) == before


def test_check_finds_damage(tmp_path):
    folder = write_graph_folder(tmp_path / "p", [])
    nodes = [{"id": id, "names": [id], "gloss": "", "hypernyms": ["animal"]} for id in ("duck", "emu")]
    rows = [{"image": picture(7, n), "node": id} for id in ("duck", "emu") for n in range(5)]

    def checked():
        (folder / "graph.json").write_text(json.dumps({"nodes": nodes}))
        pq.write_table(pa.Table.from_pylist(rows), folder / "images.parquet")
        check_graph(load_graph(folder), folder, BASE)

    checked()
    rows[3]["image"] = b"no image"
    with pytest.raises(GraphError, match="1 images cannot be decoded: one of duck"):
        checked()
    rows[3]["image"] = picture(7, 9)
    nodes[1]["hypernyms"] = ["nowhere"]
    with pytest.raises(GraphError, match="unknown parents: nowhere"):
        checked()
    rows.append({"image": picture(7, 10), "node": "dodo"})
    with pytest.raises(GraphError, match="images of unknown nodes: dodo"):
        checked()


# --- folders


def test_a_folder_per_concept(tmp_path):
    write_pictures(tmp_path / "root" / "sea_duck")
    write_pictures(tmp_path / "root" / "eagle" / "deep", 6, first=40)
    (tmp_path / "root" / ".cache").mkdir()
    eagle, duck = read_folders(tmp_path / "root", ["animal"], "sketch")
    assert (duck[0].id, duck[0].name, duck[0].hypernyms) == ("sea_duck", "sea duck", ("animal",))
    assert [(i.domain, i.source) for i in eagle[1]] == [("sketch", "unknown")] * 6
    assert make_graph(tmp_path / "p", [eagle, duck], BASE).probes.total == 11
    assert read_images(tmp_path / "root" / "sea_duck", "photo", "mine, CC0")[0].source == "mine, CC0"
    with pytest.raises(InputError, match="is not a folder"):
        read_images(tmp_path / "nothing", "photo")
    with pytest.raises(InputError, match="has no subfolders"):
        read_folders(tmp_path / "root" / "sea_duck", [])
    with pytest.raises(InputError, match="cannot be read"):
        read_folders(tmp_path / "nowhere", [])
