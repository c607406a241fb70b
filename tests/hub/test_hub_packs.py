"""Packs as datasets on the Hub, and labels that cover them in models' own repositories and in collections."""

from dataclasses import replace

import pytest

from hub_worlds import COLLECTION, GRAPH, clock, graph_file, put_collection, put_model, sha256_of
from mll_hf.errors import GraphError, HubError, InputError
from mll_hf.graph.concepts import Concept
from mll_hf.graph.probes import SamplingConfig
from mll_hf.hub.card import LABEL_PATH, add_label
from mll_hf.hub.locations import fetch_graph_with_images, fetch_pack
from mll_hf.hub.sources import open_source
from mll_hf.labels.label import label_to_bytes
from mll_hf.labels.packs import (
    AttachedPack,
    GraphPack,
    covers_exactly,
    graph_with_packs,
    label_with_pack,
    pack_to_bytes,
)
from worlds import Probe, make_label, write_graph_folder

__all__ = ["clock"]  # a fixture

pytestmark = pytest.mark.usefixtures("clock")
BIRDS = GraphPack(
    "birds",
    tuple(Concept(id, id, (id,), "it flies", ("animal",)) for id in ("bat", "bird")),
    ("images.parquet",),
)
WHOLE = graph_with_packs(GRAPH, [BIRDS])


@pytest.fixture
def dataset(hub, tmp_path):
    """The pack as a dataset, with a file that a killed run left over; its commit."""
    folder = write_graph_folder(tmp_path / "birds", [Probe(id, 0, "icon") for id in ("bat", "bird")] * 5)
    images = (folder / "images.parquet").read_bytes()
    files = {"graph.json": pack_to_bytes(BIRDS), "images.parquet": images, "images-left.parquet": b"half"}
    return hub.put("dataset", "alice/birds", files)


@pytest.fixture
def attached(dataset):
    return fetch_graph_with_images("hf://datasets/alice/birds").attached_to(GRAPH, SamplingConfig())


def extended(label, pack: AttachedPack):
    measured = make_label(
        pack.graph,
        support=5,
        probes_name=pack.probes.name,
        probes_revision=pack.probes.revision,
        domain_names=("icon",),
    )
    return label_with_pack(label, GRAPH, [], pack, measured)


def test_a_pack_is_a_dataset(attached, dataset):
    assert attached.digest == BIRDS.digest
    assert (attached.probes.name, attached.probes.revision) == ("alice/birds", dataset)
    assert len(attached.probes) == 10
    assert attached.probes.domain_names == ("icon",)
    assert fetch_graph_with_images(f"hf://datasets/alice/birds@{dataset}").dataset.revision == dataset


def test_a_pack_names_the_repo_that_is_wrong(hub):
    hub.put("dataset", "alice/graph", graph_file())
    with pytest.raises(GraphError, match=r"alice/graph/graph\.json: concepts of a pack without parents"):
        fetch_graph_with_images("hf://datasets/alice/graph").attached_to(GRAPH, SamplingConfig())


def put_extended(hub, attached):
    """A model whose own repository holds a label that covers the pack."""
    base = hub.put("dataset", "alice/graph", graph_file())
    plain = put_model("alice/clip", probes_name="alice/graph", probes_revision=base)
    label = extended(plain, attached)
    blob = label_to_bytes(label)
    readme = add_label("# A model\n", label, WHOLE, sha256_of(blob)).encode()
    hub.put("model", "alice/clip", {LABEL_PATH: blob, "README.md": readme})
    return label


def test_the_graph_of_tagged_labels_is_put_together(hub, attached):
    label = put_extended(hub, attached)
    source = open_source("hub")
    assert [found.model for found in source.list()] == [label.model]
    assert covers_exactly(source.list()[0], [attached])
    assert source.graph.digest == WHOLE.digest
    assert source.graph.index["bird"] == 2


def test_labels_whose_pack_is_gone_say_so(hub, attached, caplog):
    put_extended(hub, replace(attached, probes=replace(attached.probes, name="alice/gone")))
    with pytest.raises(InputError, match="is not in the dataset that they name; give it with --graph"):
        _ = open_source("hub").graph
    assert "alice/gone" in caplog.text


def test_a_collection_holds_the_whole_graph(hub, attached):
    label = extended(make_label(GRAPH), attached)
    put_collection([label], graph=WHOLE)
    source = open_source(COLLECTION)
    assert source.graph.digest == WHOLE.digest
    assert source.list()[0].packs == label.packs
    assert source.fetch([label.model])[0].packs == label.packs


@pytest.mark.parametrize(("name", "revision"), [("birds", "a" * 40), ("alice/birds", "main")])
def test_a_pack_that_is_no_dataset_at_a_commit(name, revision):
    with pytest.raises(InputError, match="is no dataset on the Hub"):
        fetch_pack(name, revision)


def test_a_pack_that_is_not_there(hub):
    with pytest.raises(HubError):
        fetch_pack("alice/birds", "a" * 40)
