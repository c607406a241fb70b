"""The script that builds the graph, run as a user does, with datasets on the in-process Hub."""

import json
from pathlib import Path

import pytest
from open_clip import IMAGENET_CLASSNAMES

from graph import build_graph
from graph.sources import PAPER_SOURCES
from graph.wordnet import ClassList, class_wnids, leaf_names
from harvest_worlds import no_waits, pictures, put_parquet, put_tars, streamed
from mll_hf.cli import main as mll_hf
from mll_hf.hub.locations import graph_with_images
from mll_hf.labels.store import LabelStore
from wordnet_worlds import imagenet_nouns, write_nouns

__all__ = ["no_waits"]  # a fixture

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "graph" / "build_graph.py"
REPO, IMAGES = "hf://datasets/alice/graph", "hf://datasets/alice/images"
PUSH = ["--push-to", REPO, "--images-to", IMAGES]
WHOLE, FEW_A, FEW_R = (class_wnids(c) for c in (ClassList.IMAGENET_1K, ClassList.IMAGENET_A, ClassList.IMAGENET_R))


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    """A made-up WordNet with ImageNet's classes under three made-up hypernyms."""
    return write_nouns(tmp_path_factory.mktemp("wordnet"), imagenet_nouns(leaf_names(ClassList.IMAGENET_1K)))


@pytest.fixture
def five():
    """The five datasets of the paper in their format on the Hub, with a few images each."""
    lemmas = [", ".join(names) for names in leaf_names(ClassList.IMAGENET_1K).values()]
    lemmas[517] = "crane2"  # the other crane; names of classes must differ
    by_class = [0, 0, 0, 6, 6, 263, 263, 263, 999, 999]
    put_parquet("ILSVRC/imagenet-1k", pictures(by_class), split="validation", names=lemmas)
    put_tars("clip-benchmark/wds_imagenetv2", pictures(by_class, start=100), names=IMAGENET_CLASSNAMES)
    put_tars("clip-benchmark/wds_imagenet_sketch", pictures(by_class, start=200), shards=1, names=IMAGENET_CLASSNAMES)
    names = [IMAGENET_CLASSNAMES[WHOLE.index(wnid)] for wnid in FEW_A]
    put_tars("clip-benchmark/wds_imagenet-a", pictures([FEW_A.index(WHOLE[6])] * 4, start=300), names=names)
    card = b"---\nconfigs:\n- config_name: test\n  data_files:\n  - split: test\n    path: data/test-*\n---\n"
    rows = pictures([WHOLE[263], WHOLE[263], FEW_R[0]], start=400)
    put_parquet("axiong/imagenet-r", rows, label="wnid", files={"README.md": card})


def script(capsys, *arguments):
    """Run the script in this process; returns exit status, stdout and stderr."""
    capsys.readouterr()
    status = build_graph.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# --- with images ------------------------------------------------------------------------------------------------------


def test_build_publish_and_label(tmp_path, capsys, wordnet, five, hub, tiny_open_clip):
    out = tmp_path / "graph"
    arguments = ["--leaves", "imagenet-1k", "--wordnet", wordnet, "--out", out, "--images-per-concept", 6]
    status, said, _ = script(capsys, *arguments, "--dry-run")
    assert status == 0
    sha = hub.repos["dataset", "ILSVRC/imagenet-1k"].refs["main"]
    assert f"would stream imagenet: ILSVRC/imagenet-1k@{sha[:12]}, 3 shards, photo" in said
    assert not out.exists()

    status, said, err = script(capsys, *arguments, *PUSH, "--json")
    assert status == 0, err
    report = json.loads(said)
    found = {source["name"]: source for source in report["images"]["sources"]}
    assert list(found) == [source.name for source in PAPER_SOURCES]
    assert found["imagenet"]["revision"] == sha
    assert {name: source["seen"] for name, source in found.items()} == {
        "imagenet": 10, "imagenet-v2": 10, "imagenet-sketch": 10, "imagenet-a": 4, "imagenet-r": 3
    }  # fmt: skip
    # of class 0, 6, 263 and 999 the sources have 9, 10, 11 and 6 pictures, and one of another; six of each are taken
    assert report["images"]["images"] == sum(source["images"] for source in found.values()) == 4 * 6 + 1
    assert report["images"]["concepts_with_images"] == 5
    assert found["imagenet-a"]["images"] in (1, 2)  # four sources share the six pictures of class 6
    assert hub.repos["dataset", "alice/images"].private
    assert set(files_of(out)) - {"graph.json"} == set(hub.files("dataset", "alice/images"))
    assert set(hub.files("dataset", "alice/graph")) == {"README.md", "graph.json"}

    location = graph_with_images(REPO)
    probes = location.probes()
    graph = location.graph
    assert probes.domain_names == ("photo", "rendition", "sketch")
    assert {graph.concepts[v].id for v in probes.nodes} == {WHOLE[n] for n in (0, 6, 263, 999)} | {FEW_R[0]}
    root = next(v for v, concept in enumerate(graph.concepts) if not concept.hypernyms)
    assert len(probes.images_of(root)) == len(probes) == report["images"]["images"]

    labels, model = tmp_path / "labels", f"local-dir:{tiny_open_clip}"
    assert mll_hf(["label", model, "--graph", REPO, "--labels", str(labels)]) == 0
    (label,) = LabelStore(labels).labels()
    assert (label.graph_digest, label.probes_name) == (graph.digest, "alice/images")
    assert label.support[graph.index[WHOLE[263]]] == 6
    assert label.support[root] == 25

    hub.requests.clear()
    status, said, _ = script(capsys, *arguments, *PUSH)
    done = [line.split(":")[0] for line in said.splitlines()[-2:]]
    assert (status, done) == (0, ["images published already", "graph published already"])
    assert not streamed(".tar")  # no source is opened
