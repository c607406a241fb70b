"""Transfers through Xet: they work, their faults are one line and leave nothing half-published or half-read."""

from __future__ import annotations

import pytest
from huggingface_hub.lfs import UploadInfo

from hub_worlds import (
    COLLECTION,
    GRAPH,
    READ_ONLY,
    REPO,
    clock,
    complaint_of,
    graph_file,
    put_collection,
    put_labeled_model,
    put_model,
    some_labels,
)
from mll_hf.errors import MLLError, ModelError
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.connection import hub_errors
from mll_hf.hub.locations import graph_with_images
from mll_hf.hub.publish import publish_graph, publish_label, publish_to_collection
from mll_hf.hub.sources import open_labels
from mll_hf.models import load_model
from mll_hf.models.source import resolve_model
from worlds import write_graph_folder

__all__ = ["clock"]  # a fixture

pytestmark = pytest.mark.usefixtures("clock", "xet")
LABELS = some_labels(3)
IMAGES = "images-00000.parquet"
FAULTS = [
    RuntimeError("Data processing error: CAS service error : Reqwest Error:\nrequest failed after 5 retries"),
    ConnectionError("Network error: connection reset"),
    TimeoutError("Timer expired"),
]


def transfers(hub, direction):
    return [request for request in hub.requests if request == f"XET {direction}"]


@pytest.fixture(autouse=True)
def _models(hub):
    """The models of the labels are public."""
    for label in LABELS:
        hub.put("model", label.model.repo_id, {})


@pytest.fixture
def folder(tmp_path):
    """A graph with its images."""
    folder = write_graph_folder(tmp_path / "graph")
    (folder / "images.parquet").rename(folder / IMAGES)
    return folder


def test_labels_and_graphs_are_published_through_xet(hub, folder):
    publish_label(put_model(), GRAPH)
    publish_to_collection(LABELS, [GRAPH], COLLECTION)
    publish_graph(folder, "hf://datasets/alice/graph", "hf://datasets/alice/images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UploadInfo, "from_path", lambda path: pytest.fail(f"{path} is hashed again"))
        again = publish_graph(folder, "hf://datasets/alice/graph", "hf://datasets/alice/images")
    assert (again.graph.changed, again.images.changed) == (False, False)
    assert len(transfers(hub, "up")) == 1 + len(LABELS) + 1  # labels, images
    assert not [request for request in hub.requests if "/_lfs/" in request]
    assert len(open_labels(COLLECTION).labels()) == len(LABELS)
    found = graph_with_images("hf://datasets/alice/graph").folder
    assert (found / IMAGES).read_bytes() == (folder / IMAGES).read_bytes()
    assert len(transfers(hub, "down")) == len(LABELS) + 1


@pytest.mark.parametrize("location", [COLLECTION, "hub"])
def test_a_fault_of_one_label_leaves_only_it_out(hub, location, caplog, monkeypatch):
    monkeypatch.setenv("MLL_TRUST", "alice")
    put_collection(LABELS)
    for n in range(3):
        put_labeled_model(f"alice/model-{n}")
    hub.fail_xet("down", FAULTS[0], half=True)
    assert len(open_labels(location).labels()) == 2
    assert "the transfer failed (" in caplog.text
    assert len(open_labels(location).labels()) == 3


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_of_an_upload_is_one_line_and_publishes_nothing(hub, folder, fault):
    label, before = put_model(), hub.files("model", "alice/model")
    for publish in (
        lambda: publish_label(label, GRAPH),
        lambda: publish_to_collection(LABELS, [GRAPH], COLLECTION),
        lambda: publish_graph(folder, "hf://datasets/alice/graph", "hf://datasets/alice/images"),
    ):
        hub.fail_xet("up", fault, half=True)
        assert "the transfer failed (" in (said := complaint_of(publish))
        assert said.endswith("; try again, or without Xet: HF_HUB_DISABLE_XET=1")
    assert hub.files("model", "alice/model") == before
    assert (
        hub.files("dataset", REPO) == hub.files("dataset", "alice/graph") == hub.files("dataset", "alice/images") == {}
    )
    publish_label(label, GRAPH)
    assert LABEL_PATH in hub.files("model", "alice/model")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_of_a_download_is_one_line_and_the_next_attempt_works(hub, tiny_open_clip, fault, half):
    hub.put("dataset", "alice/graph", {**graph_file(), IMAGES: b"images" * 100})
    files = {path.name: path.read_bytes() for path in tiny_open_clip.iterdir() if path.is_file()}
    hub.put("model", "alice/tiny", files)

    def fetch():
        return graph_with_images("hf://datasets/alice/graph").folder

    hub.fail_xet("down", fault, half=half)
    assert "alice/graph: the transfer failed (" in complaint_of(fetch)
    assert (fetch() / IMAGES).read_bytes() == b"images" * 100
    hub.fail_xet("down", fault, half=half)
    ref = resolve_model("alice/tiny")
    assert "the transfer failed (" in complaint_of(lambda: load_model(ref, "cpu"), ModelError)
    assert load_model(ref, "cpu")


def test_a_token_without_rights_is_refused_before_anything_is_sent(hub):
    label = put_model()
    assert "a token that can write" in complaint_of(lambda: publish_label(label, GRAPH, token=READ_ONLY))
    hub.fail("xet-write-token", 403)
    assert "log in with one that can write" in complaint_of(lambda: publish_label(label, GRAPH))
    assert transfers(hub, "up") == []
    assert LABEL_PATH not in hub.files("model", "alice/model")


def test_our_own_faults_are_no_errors_of_the_hub():
    with pytest.raises(RuntimeError) as caught, hub_errors("alice/model"):
        raise RuntimeError("a bug")
    assert not isinstance(caught.value, MLLError)
