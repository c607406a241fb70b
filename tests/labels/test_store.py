"""A folder of labels: what is written comes back, and a label that fails leaves out itself alone."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from mll_hf.errors import LabelError
from mll_hf.graph.concepts import graph_to_bytes, load_graph
from mll_hf.labels.file_format import label_to_bytes
from mll_hf.labels.label import ProbeEmbeddings
from mll_hf.labels.store import (
    LABEL_PATH,
    LabelStore,
    Origin,
    embeddings_path,
    graph_path,
    label_path,
    read_label,
    rivals_path,
)
from worlds import SHA, make_graph, make_label, make_rivals, probe_set

GRAPH = make_graph()
OTHER = make_graph({"a": (), "b": ("a",)}, "other")
STEM = f"{GRAPH.digest[:12]}-{SHA[:12]}"


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def embeddings_on(graph):
    axes = np.eye(len(graph), dtype=np.float32)
    return ProbeEmbeddings.quantize(axes, axes, probe_set([[]] * len(graph), [0] * len(graph)))


@pytest.fixture
def store(tmp_path):
    store = LabelStore(tmp_path / "labels of mine")
    store.add_graph(GRAPH)
    return store


def reread(store):
    return LabelStore(store.folder)


def test_labels_come_back(store):
    labels = [make_label(GRAPH, [9, 8, 7, 6, 5, 4, 3], repo_id=f"org/{name}") for name in ("b", "a")]
    paths = [store.write(label) for label in labels]
    assert paths[0] == store.folder / "labels" / "org--b" / SHA / f"{STEM}.safetensors"
    assert files_in(store.folder) == sorted(
        [graph_path(GRAPH.digest), *(label_path(label.model, label.key) for label in labels)]
    )
    assert reread(store).labels() == tuple(reversed(labels))
    assert store.graphs == (GRAPH,)
    assert label_to_bytes(read_label(paths[0])) == label_to_bytes(labels[0])
    assert store.origin_of(labels[0]) == Origin(str(paths[0]), None)
    assert store.name == str(store.folder)


def test_a_model_is_filed_under_its_identity(store):
    first = make_label(GRAPH)
    first = replace(first, model=replace(first.model, digest="a" * 64))
    path = store.write(first)
    assert path.parent.name == "a" * 40
    assert store.write(replace(first, model=replace(first.model, revision="1" * 40))) == path  # after a push
    assert store.write(replace(first, model=replace(first.model, digest="b" * 64))) != path
    assert store.write(replace(first, probes_digest="f" * 40)) != path
    assert all(LABEL_PATH.fullmatch(p.relative_to(store.folder).as_posix()) for p in store.paths())
    assert len(reread(store).labels()) == 3


@pytest.mark.parametrize("name", ["tiny", "tiny model", "modèle (2)"])
def test_local_models_have_any_name(store, name):
    path = store.write(make_label(GRAPH, repo_id=f"local-dir:/home/me/{name}"))
    assert path.parent.parent.name == f"local--{name}"
    assert [label.model.short_name for label in reread(store).labels()] == [name]


def test_other_files_are_no_labels(store):
    path = store.write(make_label(GRAPH), make_rivals(make_label(GRAPH)), embeddings_on(GRAPH))
    for other in (path.with_name("label.safetensors"), path.with_name(f".{path.name}.x1")):
        other.write_bytes(b"")
    (store.folder / "graphs" / "notes.json").write_bytes(b"")
    assert reread(store).paths() == (path,)
    assert reread(store).graphs == (GRAPH,)
    assert not LABEL_PATH.fullmatch(f"labels/a--b/{SHA}/{STEM}.rivals.safetensors")


def test_a_snapshot_names_its_publisher_and_location(store, caplog):
    path = store.write(make_label(GRAPH))
    location = "hf://datasets/org/labels@" + SHA
    snapshot = LabelStore(store.folder, publisher="org", location=location)
    (label,) = snapshot.labels()
    assert snapshot.name == "hf://datasets/org/labels"
    found = f"{location}/{path.relative_to(store.folder).as_posix()}"
    assert snapshot.origin_of(label) == Origin(found, "org")
    for file in (path, store.folder / graph_path(GRAPH.digest)):
        file.write_bytes(b"")
    assert not replace(snapshot).labels()
    assert f"{location}/{graph_path(GRAPH.digest)}: cannot be read" in caplog.messages[0]
    assert caplog.messages[1].startswith(f"left out: {found}: not a valid label")


# ---- labels that fail


def break_label(store, path):
    path.write_bytes(path.read_bytes()[:-1])
    return "not a valid label"


def misplace_label(store, path):
    moved = path.parents[2] / "org--better" / SHA / path.name
    moved.parent.mkdir(parents=True)
    path.rename(moved)
    return f"is a label of org/model; move it to .*{re.escape(path.name)}"


def exchange_graph(store, path):
    path.write_bytes(label_to_bytes(replace(make_label(OTHER), graph_digest=GRAPH.digest)))
    return "is a label on graph other"


@pytest.mark.parametrize("spoil", [break_label, misplace_label, exchange_graph])
def test_a_label_that_fails_leaves_out_itself_alone(store, caplog, spoil):
    path = store.write(make_label(GRAPH))
    store.write(make_label(GRAPH, repo_id="org/whole"))
    reason = spoil(store, path)
    assert [label.model.repo_id for label in reread(store).labels()] == ["org/whole"]
    (message,) = caplog.messages
    assert re.search(reason, message)


@pytest.mark.parametrize("content", [b"{", graph_to_bytes(OTHER)])
def test_a_graph_that_fails_leaves_out_itself_alone(store, caplog, content):
    store.add_graph(OTHER)
    (store.folder / graph_path(GRAPH.digest)).write_bytes(content)
    assert reread(store).graphs == (OTHER,)
    assert "left out" in caplog.text
    store.add_graph(GRAPH)  # written anew
    assert load_graph(store.folder / graph_path(GRAPH.digest)) == GRAPH


# ---- files beside a label


def test_rivals_and_embeddings_lie_beside_a_label(store):
    label = make_label(GRAPH, [9, 8, 7, 6, 5, 4, 3])
    path = store.write(label)
    assert (store.rivals_of(label), store.embeddings_of(label)) == (None, None)
    store.write(label, make_rivals(label), embeddings_on(GRAPH))
    assert store.rivals_of(label) == make_rivals(label)
    assert store.embeddings_of(label).concepts.shape == (7, 7)
    assert (rivals_path(path).exists(), embeddings_path(path).exists()) == (True, True)
    store.write(label)  # a new label has no old files beside it
    assert (store.rivals_of(label), store.embeddings_of(label)) == (None, None)


def test_rivals_and_embeddings_of_another_label_are_refused(store):
    label, other = make_label(GRAPH, [9, 8, 7, 6, 5, 4, 3]), make_label(GRAPH)
    store.write(label, make_rivals(other), embeddings_on(OTHER))
    with pytest.raises(LabelError, match="not the rivals of its label"):
        store.rivals_of(label)
    with pytest.raises(LabelError, match=r"concepts is float16 \(2, 2\), not float16 \(7, 2\)"):
        store.embeddings_of(label)
