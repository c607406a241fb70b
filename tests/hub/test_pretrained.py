"""One label by the habits of the ecosystem: Label.from_pretrained and push_to_hub."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hub_worlds import (
    COLLECTION,
    GRAPH,
    MODEL_FILES,
    OTHER_GRAPH,
    READER,
    clock,  # noqa: F401
    graph_file,
    put_model,
)
from mll_hf import Label
from mll_hf.errors import HubError, InputError, LabelError
from mll_hf.graph.concepts import save_graph
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.sources import open_labels
from mll_hf.labels.file_format import label_to_bytes
from mll_hf.labels.label import LOCAL_PREFIX
from worlds import make_label

pytestmark = pytest.mark.usefixtures("clock")
MODEL = "alice/model"


def on_the_graph_of(hub, label, repo_id="alice/graph", graph=GRAPH):
    """The label as if its probe images were in a dataset on the Hub with its graph."""
    return replace(label, graph_location=f"hf://datasets/{repo_id}@{hub.put('dataset', repo_id, graph_file(graph))}")


def test_there_and_back(hub):
    label = on_the_graph_of(hub, put_model(MODEL))
    published = label.push_to_hub()
    assert published.changed
    hub.requests.clear()
    assert Label.from_pretrained(MODEL) == label
    assert not any(
        "config.json" in request or "safetensors" in request.replace(LABEL_PATH, "") for request in hub.requests
    )
    assert not label.push_to_hub(MODEL).changed  # its name may be said
    assert Label.from_pretrained(f"{MODEL}@{published.revision}") == label
    assert Label.from_pretrained(MODEL, revision=published.revision) == label


def test_without_write_access_a_pull_request_must_be_asked_for(hub):
    label = on_the_graph_of(hub, put_model(MODEL))
    with pytest.raises(HubError, match="may not write to it"):
        label.push_to_hub(token=READER)
    published = label.push_to_hub(create_pr=True, token=READER)
    assert published.pull_request == 1
    with pytest.raises(InputError, match="alice/model holds no label"):
        Label.from_pretrained(MODEL)
    assert Label.from_pretrained(MODEL, revision="refs/pr/1").model.repo_id == MODEL


def test_to_a_collection(hub):
    label = on_the_graph_of(hub, put_model("org/theirs"))
    label.push_to_hub(COLLECTION)
    (found,) = open_labels(COLLECTION).labels()
    assert found == label
    assert set(hub.repos["model", "org/theirs"].files) == set(MODEL_FILES)


def test_labels_on_several_graphs(hub, tmp_path):
    first = put_model(MODEL)
    second = make_label(OTHER_GRAPH, repo_id=MODEL, revision=first.model.revision)
    save_graph(OTHER_GRAPH, tmp_path / "other")
    first.push_to_hub(graph=GRAPH)
    second.push_to_hub(graph=tmp_path / "other")
    hub.put("dataset", "alice/graph", graph_file())
    assert Label.from_pretrained(MODEL) == first
    for graph in (GRAPH, "hf://datasets/alice/graph"):
        assert Label.from_pretrained(MODEL, graph=graph) == first
    for graph in (OTHER_GRAPH, tmp_path / "other"):
        assert Label.from_pretrained(MODEL, graph=graph) == second
    hub.put("model", MODEL, {f"mll/{OTHER_GRAPH.digest[:12]}/label.safetensors": None})
    with pytest.raises(InputError, match="alice/model holds no label on the graph other, only on others"):
        Label.from_pretrained(MODEL, graph=OTHER_GRAPH)


def test_what_is_no_label(hub):
    put_model(MODEL)
    with pytest.raises(InputError, match="alice/model holds no label; make one with: mll-hf label alice/model"):
        Label.from_pretrained(MODEL)
    hub.put("model", MODEL, {LABEL_PATH: b"no label"})
    with pytest.raises(LabelError, match=r"alice/model/mll/label\.safetensors"):
        Label.from_pretrained(MODEL)
    hub.put("model", MODEL, {LABEL_PATH: label_to_bytes(make_label(GRAPH, repo_id="org/other"))})
    with pytest.raises(LabelError, match=r"is a label of another model \(org/other\)"):
        Label.from_pretrained(MODEL)
    with pytest.raises(HubError, match="not on the Hub"):
        Label.from_pretrained("alice/nothing")


def test_what_cannot_be_pushed(hub):
    label = put_model(MODEL)  # its probe images are in a folder, "tiny"
    for to, options, said in (
        ("alice/other", {"graph": GRAPH}, "a label belongs in the repo of its model, alice/model, or in a collection"),
        (None, {}, r"the label's graph is a local folder \(tiny\); pass it"),
        (None, {"graph": OTHER_GRAPH}, "is not of the graph other"),
    ):
        with pytest.raises(InputError, match=said):
            label.push_to_hub(to, **options)
    local = replace(label, model=replace(label.model, repo_id=f"{LOCAL_PREFIX}/home/me/model"))
    with pytest.raises(InputError, match="is a local folder, so others cannot use its label"):
        local.push_to_hub(graph=GRAPH)
    hub.put("model", MODEL, {"open_clip_model.safetensors": b"other weights"})
    with pytest.raises(HubError, match="its files have changed"):
        label.push_to_hub(graph=GRAPH)
