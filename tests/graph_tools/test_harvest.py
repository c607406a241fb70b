"""Gathering images from datasets on the Hub: labels, sampling, output files, and recovery from errors."""

import json
from collections import Counter
from itertools import count

import pyarrow.parquet as pq
import pytest

from graph.dataset import BUILD_FILE, build_from_bytes
from graph.gathering import HarvestConfig, open_all, prepared
from graph.harvest import harvest
from graph.sources import ImageSource, parse_source, pin_all
from harvest_worlds import no_waits, pictures, put_parquet, put_tars, streamed
from mll_hf.errors import HubError, MLLError
from mll_hf.graph.concepts import Concept, SemanticGraph

__all__ = ["no_waits"]  # a fixture

pytestmark = pytest.mark.usefixtures("no_waits")

DOG, CORGI, CAT, CAR = "n00000001", "n00000002", "n00000003", "n00000004"
GRAPH = SemanticGraph(
    "small",
    (
        Concept(DOG, ("dog", "hound"), "it barks", ()),
        Concept(CORGI, ("corgi", "Welsh corgi"), "a low dog", (DOG,)),
        Concept(CAT, ("cat",), "it purrs", ()),
        Concept(CAR, ("car",), "it hums", ()),
    ),
)
BY_WNID = ImageSource("birds", "org/birds", "wnid", "photo")


def opened(sources, graph=GRAPH):
    return open_all(pin_all(sources), graph)


def gathered(tmp_path, sources, config=None, graph=GRAPH, name="out"):
    """Build a graph with images; returns the folder."""
    harvest(graph, opened(sources, graph), config or HarvestConfig(), tmp_path / name)
    return tmp_path / name


def rows_of(folder):
    return [row for file in sorted(folder.glob("images*.parquet")) for row in pq.read_table(file).to_pylist()]


def contents_of(folder):
    """Content of every file of a folder, whatever is hidden left out."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


# --- what labels mean -------------------------------------------------------------------------------------------------


def nodes_of(folder):
    return Counter(row["node"] for row in rows_of(folder))


def test_classes_by_name_and_by_number_in_a_file(tmp_path):
    (tmp_path / "labels.csv").write_text(f"tabby,{CAT}\n1,{CORGI}\n")
    put_parquet("org/birds", pictures([0, 1, 1, 2]), names=["tabby", "dwarf", "teapot"])
    source = ImageSource("birds", "org/birds", str(tmp_path / "labels.csv"), "photo")
    folder = gathered(tmp_path, [source])
    assert nodes_of(folder) == {CAT: 1, CORGI: 2}
    assert build_from_bytes((folder / BUILD_FILE).read_bytes()).sources[0]["outside"] == 1  # the teapot


# --- datasets that cannot be read ------------------------------------------------------------------------------------


def refusal(sources, graph=GRAPH):
    with pytest.raises(MLLError) as refused:
        opened(sources, graph)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_data_sets_that_cannot_be_read(hub):
    assert refusal([BY_WNID]) == (
        "org/birds: is not on the Hub, or private; check the name, or log in with: hf auth login"
    )
    put_parquet("org/birds", pictures([DOG, CAT]))
    assert "has no such revision" in refusal([parse_source("hf://datasets/org/birds@v9?labels=wnid&domain=p")])
    other = "hf://datasets/org/birds?labels=wnid&domain=p"
    assert "cannot be streamed (Bad split: train." in refusal([parse_source(f"{other}&split=train")])
    assert "cannot be streamed (BuilderConfig 'big' not found." in refusal([parse_source(f"{other}&config=big")])
    assert "has no column 'cls', only image, label; add label=COLUMN" in refusal([parse_source(f"{other}&label=cls")])
    assert "has no image column 'img', only image" in refusal([parse_source(f"{other}&image=img")])
    assert "has no image column 'label', only image" in refusal([parse_source(f"{other}&image=label")])
    hub.repos["dataset", "org/birds"].gated = "auto"
    assert "org/birds: is gated; accept its terms at http://127.0.0.1" in refusal([BY_WNID])
    hub.put("dataset", "org/empty", {"README.md": b"# nothing"})
    assert "org/empty: cannot be streamed" in refusal([ImageSource("e", "org/empty", "wnid", "photo")])
    hub.put("dataset", "org/text", {"test.csv": b"a,label\n1,2\n"})
    assert "has no single image column, only none" in refusal([ImageSource("t", "org/text", "wnid", "photo")])


# --- sampling ---------------------------------------------------------------------------------------------------------


def ids(folder):
    return {(row["node"], row["image_id"]) for row in rows_of(folder)}


@pytest.fixture
def many():
    """Pictures of three concepts, in an order of their own."""
    labels = [CORGI, CAT, CAT, CAR, CORGI, CAT, CAR] * 9
    return pictures(labels)


def test_the_sample_depends_on_the_images_only(tmp_path, many):
    config, found = HarvestConfig(images_per_concept=5, seed=3), []
    for number, (rows, shards) in enumerate([(many, 1), (many, 4), (many[::-1], 5), (many + many[:20], 7)]):
        put_parquet(f"org/birds{number}", rows, shards=shards)
        source = ImageSource("birds", f"org/birds{number}", "wnid", "photo")
        found.append(gathered(tmp_path, [source], config, name=f"out{number}"))
    assert Counter(node for node, _ in ids(found[0])) == {CORGI: 5, CAT: 5, CAR: 5}
    assert all(ids(folder) == ids(found[0]) for folder in found)
    put_tars("org/wds", [(content, [CORGI, CAT, CAR].index(label)) for content, label in many], shards=3)
    (tmp_path / "l.json").write_text(json.dumps({"0": CORGI, "1": CAT, "2": CAR}))
    source = ImageSource("birds", "org/wds", str(tmp_path / "l.json"), "photo", label="cls")
    assert ids(gathered(tmp_path, [source], config, name="wds")) == ids(found[0])


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def undisturbed(tmp_path, many):
    """What comes out if nothing goes wrong."""
    put_parquet("org/birds", many, shards=4)
    return contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6), name="undisturbed"))


@pytest.mark.parametrize("how", [{"status": 503}, {"drop": "before"}, {"cut": 100}])
def test_a_stream_recovers_from_a_few_errors(tmp_path, hub, undisturbed, how):
    hub.fail("test-00002-of", times=2, method="GET", **how)
    assert contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6))) == undisturbed


def test_a_broken_stream_loses_no_finished_shard(tmp_path, hub, undisturbed):
    sources = opened([BY_WNID])
    hub.fail("test-00002-of", 500, times=10_000)
    with pytest.raises(
        HubError, match=r"org/birds: the stream broke off in shard 3 of 4 \(.*run the same command again"
    ):
        harvest(GRAPH, sources, HarvestConfig(6), tmp_path / "out")
    assert contents_of(tmp_path / "out") == {}  # nothing that could be taken for a result
    hub.disturbances.clear()
    sources = opened([BY_WNID])
    hub.requests.clear()
    harvest(GRAPH, sources, HarvestConfig(6), tmp_path / "out")
    assert contents_of(tmp_path / "out") == undisturbed
    assert not streamed("test-00000-of")
    assert not streamed("test-00001-of")
    assert streamed("test-00002-of")
    assert not (tmp_path / "out" / ".harvest").exists()


@pytest.mark.parametrize("stop", [0, 3])
def test_an_interrupted_run_resumes(tmp_path, hub, undisturbed, stop, monkeypatch):
    decoded = count()

    def interrupted(*args):
        if next(decoded) == 5 + 10 * stop:
            raise KeyboardInterrupt
        return prepared(*args)

    with monkeypatch.context() as patch:
        patch.setattr("graph.gathering.prepared", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gathered(tmp_path, [BY_WNID], HarvestConfig(6))
    assert contents_of(gathered(tmp_path, [BY_WNID], HarvestConfig(6))) == undisturbed
