"""Models, labels and collections on the tiny Hub, and a client that does not wait."""

from __future__ import annotations

import time

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

import tiny_hub
from mll_hf.errors import HubError
from mll_hf.graph.concepts import GRAPH_FILE, graph_to_bytes
from mll_hf.hub import connection
from mll_hf.hub.card import LABEL_PATH, add_label
from mll_hf.labels.file_format import label_to_bytes
from mll_hf.labels.store import graph_path, label_path
from worlds import make_graph, make_label

GRAPH = make_graph()
OTHER_GRAPH = make_graph({"a": (), "b": ("a",), "c": ("a",)}, "other")
REPO = "alice/labels"
COLLECTION = f"hf://datasets/{REPO}"
READER, THIRD, READ_ONLY = "hf_reader_token", "hf_third_token", "hf_read_only_token"
MODEL_FILES = {"config.json": b"{}", "open_clip_model.safetensors": b"weights", "README.md": b"# A model\n"}


class Clock:
    """Replaces the module `time`; records waits instead of sleeping."""

    def __init__(self):
        self.waits = []

    def sleep(self, seconds):
        self.waits.append(seconds)
        wake = tiny_hub.HUB.elapsed + seconds
        time.sleep(0.001)  # lets other threads run
        tiny_hub.HUB.elapsed = max(tiny_hub.HUB.elapsed, wake)

    def __getattr__(self, name):
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch, tmp_path):
    """Waits take no time, ours and the client's; kept answers of the Hub are this test's only."""
    clock = Clock()
    for module in (connection, _http, file_download):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return clock


@pytest.fixture
def no_download_is_counted(hub):
    """Whatever is read or published, nobody's download counter moves."""
    yield
    assert hub.counted == []


def complaint_of(call, error=HubError):
    """The message of an error that a call raises, on one line."""
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put_model(repo_id="alice/model", graph=GRAPH, files=MODEL_FILES, **settings):
    """Put a model on the Hub; returns its label, not published."""
    revision = tiny_hub.HUB.put("model", repo_id, files)
    return make_label(graph, repo_id=repo_id, revision=revision, **settings)


def put_labeled_model(repo_id="alice/model", graph=GRAPH, **settings):
    """A model whose label is in its own repo; returns the label."""
    label = put_model(repo_id, graph, **settings)
    readme = add_label("# A model\n", label).encode()
    tiny_hub.HUB.put("model", repo_id, {LABEL_PATH: label_to_bytes(label), "README.md": readme})
    return label


def path_of(label):
    """Path of a label in a collection."""
    return label_path(label.model, label.key)


def label_files(labels):
    """Label files of a collection by path."""
    return {path_of(label): label_to_bytes(label) for label in labels}


def graph_files(*graphs):
    """Graph files of a collection by path."""
    return {graph_path(graph.digest): graph_to_bytes(graph) for graph in graphs or (GRAPH,)}


def graph_file(graph=GRAPH):
    """The file of a graph in a dataset repo of its own."""
    return {GRAPH_FILE: graph_to_bytes(graph)}


def put_collection(labels, *, repo_id=REPO, graph=GRAPH):
    """A collection on the Hub; returns its commit."""
    return tiny_hub.HUB.put("dataset", repo_id, {**graph_files(graph), **label_files(labels)})


def some_labels(count, graph=GRAPH):
    """Labels of models of different quality."""
    return [
        make_label(graph, [i % 11, 5, 0, 3, 2, 10, 10][: len(graph)], repo_id=f"org/model-{i:02}") for i in range(count)
    ]
