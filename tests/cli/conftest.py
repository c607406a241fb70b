"""A graph, tiny real models labeled on it, and images, shared by all tests of the command line."""

import shutil

import pytest
from PIL import Image

from cli_worlds import COLORS, encoded, write_graph
from mll_hf import client
from mll_hf.cli import main
from mll_hf.graph.authoring import make_graph, read_images
from mll_hf.graph.concepts import Concept, load_graph
from mll_hf.matching.text_encoder import CachedEncoder
from selection_worlds import WordEncoder


@pytest.fixture(autouse=True)
def _word_encoder(monkeypatch, tmp_path_factory):
    cache = tmp_path_factory.mktemp("encoder") / "embeddings.sqlite"
    monkeypatch.setattr(client, "DefaultEncoder", WordEncoder)
    monkeypatch.setattr(client, "CachedEncoder", lambda encoder: CachedEncoder(encoder, cache))


@pytest.fixture(scope="session")
def world(tmp_path_factory, tiny_open_clip, tiny_siglip):
    """A graph, two tiny models labeled on it, and a folder of images."""
    root = tmp_path_factory.mktemp("world")
    graph = write_graph(root / "graph")
    models = [f"local-dir:{tiny_open_clip}", f"local-dir:{tiny_siglip}"]
    assert main(["label", *models, "--graph", str(graph), "--labels", str(root / "labels"), "--keep-embeddings"]) == 0
    (root / "images").mkdir()
    for name, color in (("a", (200, 0, 0)), ("b", (0, 130, 0)), ("c", (90, 60, 30))):
        (root / "images" / f"{name}.png").write_bytes(encoded(color, 99))
    return root


@pytest.fixture(scope="session")
def task_images(tmp_path_factory):
    """A folder of 24 pictures in two folders, one of them gray."""
    folder = tmp_path_factory.mktemp("task") / "images"
    for part in ("first", "second"):
        (folder / part).mkdir(parents=True)
        for n, color in enumerate(list(COLORS.values()) * 3):
            (folder / part / f"{n:02}.png").write_bytes(encoded(color, 100 * len(part) + n))
    Image.open(folder / "first" / "00.png").convert("L").save(folder / "first" / "00.png")
    return folder


@pytest.fixture(scope="session")
def examples_by_class(tmp_path_factory):
    """18 pictures in a folder for each class."""
    folder = tmp_path_factory.mktemp("examples")
    for name, color in zip(("cat", "dog", "car"), COLORS.values(), strict=False):
        (folder / name).mkdir()
        for n in range(6):
            (folder / name / f"{n}.png").write_bytes(encoded(color, 10 * len(name) + n))
    return folder


def write_images(folder, color, first=0):
    folder.mkdir(parents=True)
    for n in range(5):
        (folder / f"{n}.png").write_bytes(encoded(color, first + n))
    return folder


@pytest.fixture(scope="session")
def own(world):
    """Two graphs whose parents are in the world's graph: one with all texts, one from a folder per concept."""
    root = world / "own"
    concepts = []
    for id, parent, grey in (("ape", "n2", 60), ("chimp", "ape", 30), ("gibbon", "ape", 90)):
        images = read_images(write_images(root / "pictures" / id, (grey, grey, grey)), "sketch")
        concepts.append((Concept(id, (id, f"the {id}"), f"a clever {id}", (parent,)), images))
    make_graph(root / "apes", concepts, load_graph(world / "graph"))
    write_images(root / "roads" / "bus", (220, 30, 30), 50)
    write_images(root / "roads" / "tram", (30, 30, 220), 60)
    words = ["--to", root / "buses", "--base", world / "graph", "--parent", "n5"]
    assert main(["graph", "make", *map(str, (root / "roads", *words))]) == 0
    return root


@pytest.fixture(scope="session")
def on_three_graphs(world, own, tiny_open_clip, tiny_siglip, tmp_path_factory):
    """Labels of both models on the world's graph, one of them also on the two others."""
    labels = tmp_path_factory.mktemp("several") / "labels"
    shutil.copytree(world / "labels", labels)
    graphs = ["--graph", str(own / "apes"), "--graph", str(own / "buses")]
    assert main(["label", f"local-dir:{tiny_open_clip}", *graphs, "--labels", str(labels), "--keep-embeddings"]) == 0
    return labels
