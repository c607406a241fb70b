from __future__ import annotations

import errno
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from mll_hf.errors import GraphError, InputError, LabelError, StorageError
from mll_hf.graph.concepts import graph_to_bytes, load_graph
from mll_hf.graph.probes import SamplingConfig
from mll_hf.labels.embeddings import ProbeEmbeddings, write_embeddings
from mll_hf.labels.file_format import label_to_bytes
from mll_hf.labels.store import (
    GRAPH_PATH,
    LABEL_PATH,
    MAX_LABEL_BYTES,
    LabelStore,
    embeddings_path,
    graph_path,
    label_path,
    read_label,
)
from worlds import SHA, make_graph, make_label, probe_set

GRAPH = make_graph()
OTHER = make_graph({"a": (), "b": ("a",)}, "other")
STEM = f"{GRAPH.digest[:12]}-{SHA[:12]}"


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
    assert store.paths() == tuple(sorted(paths))
    assert files_in(store.folder) == sorted(
        [graph_path(GRAPH.digest), *(label_path(label.model, label.group) for label in labels)]
    )
    assert store.list() == tuple(label.summary for label in reversed(labels))
    assert store.graphs == (GRAPH,)
    assert store.fetch(store.list()) == tuple(reversed(labels))
    assert store.fetch(store.list()[1:]) == (labels[0],)
    assert label_to_bytes(read_label(str(paths[0]), GRAPH)) == label_to_bytes(labels[0])
    origin = store.origin_of(labels[0])
    assert (origin.location, origin.publisher, store.name) == (str(paths[0]), None, str(store.folder))


def test_what_makes_a_label_of_its_own(store):
    first = make_label(GRAPH)
    others = [
        replace(first, model=replace(first.model, revision="1" * 40)),
        replace(first, probes_digest="f" * 40),
        replace(first, sampling=SamplingConfig(seed=7)),
    ]
    paths = {store.write(label) for label in (first, *others)}
    assert len(paths) == 4
    assert all(LABEL_PATH.fullmatch(path.relative_to(store.folder).as_posix()) for path in paths)
    # a nested sample of the same images replaces the label
    assert store.write(replace(first, sampling=SamplingConfig(90))) in paths
    assert sorted(label.sampling.images_per_concept for label in store.list()) == [75, 75, 75, 90]


@pytest.mark.parametrize("name", ["tiny", "tiny model", "mod\u00e8le (2)"])
def test_local_models_have_any_name(store, name):
    path = store.write(make_label(GRAPH, repo_id=f"local-dir:/home/me/{name}"))
    assert path.parent.parent.name == f"local--{name}"
    assert [label.model.short_name for label in store.list()] == [name]


def test_other_files_are_no_labels(store):
    path = store.write(make_label(GRAPH))
    for other in (embeddings_path(path), path.with_name("label.safetensors"), path.with_name(f".{path.name}.x1")):
        other.write_bytes(b"")
    (store.folder / "graphs" / "notes.json").write_bytes(b"")
    assert store.paths() == (path,)
    assert store.graphs == (GRAPH,)
    assert not LABEL_PATH.fullmatch(f"labels/a--b/{SHA}/{STEM}.embeddings.safetensors")
    assert GRAPH_PATH.fullmatch(graph_path(GRAPH.digest))


def test_an_empty_store_and_no_store(store, tmp_path):
    assert store.list() == ()
    with pytest.raises(InputError, match=r"has no labels; make some: mll-hf label MODEL --graph DIR --labels"):
        LabelStore(tmp_path / "nowhere").list()


# ---- graphs


def test_a_graph_is_written_once(store):
    path = store.folder / graph_path(GRAPH.digest)
    before = path.stat().st_mtime_ns
    store.add_graph(GRAPH)
    assert path.stat().st_mtime_ns == before
    path.write_text("{")  # half a graph is written anew
    store.add_graph(GRAPH)
    assert load_graph(path) == GRAPH


def test_a_graph_that_is_damaged_or_not_what_its_name_says(store):
    path = store.folder / graph_path(GRAPH.digest)
    path.write_bytes(graph_to_bytes(OTHER))
    with pytest.raises(GraphError, match=f"its name does not match the graph .{OTHER.digest[:12]}"):
        reread(store).list()
    path.write_text("{")
    with pytest.raises(GraphError, match="cannot be read as JSON"):
        reread(store).list()


def test_a_label_whose_graph_is_missing(store):
    path = store.write(make_label(OTHER))
    with pytest.raises(LabelError) as caught:
        store.list()
    assert str(caught.value).startswith(f"{path}: is a label on graph other ({OTHER.digest[:12]}), which is missing")
    assert graph_path(OTHER.digest) in str(caught.value)


# ---- writing


def test_stores_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(StorageError, match="cannot write"):
            LabelStore(folder).add_graph(GRAPH)
        with pytest.raises(StorageError, match="cannot write"):
            LabelStore(folder).write(make_label(GRAPH))


def test_a_full_disk_leaves_the_old_label(store, monkeypatch):
    path = store.write(make_label(GRAPH, temperature=2.0))
    before = files_in(store.folder)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError):
        store.write(make_label(GRAPH, temperature=3.0))
    assert read_label(path).temperature == [2.0]
    assert files_in(store.folder) == before


# ---- labels not to be believed


def complaint_of(path, graph=None):
    with pytest.raises(LabelError) as caught:
        read_label(path, graph)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_label_of_another_graph(store):
    path = store.write(make_label(OTHER))
    assert re.search(rf"on graph other \({OTHER.digest[:12]}\), not on tiny", complaint_of(path, GRAPH))
    assert read_label(path).graph_name == "other"
    path = store.write(make_label(OTHER, graph_digest=GRAPH.digest))  # the digest fits, the size does not
    complaint_of(path, GRAPH)


def test_a_label_that_is_filed_under_another_model(store):
    path = store.write(make_label(GRAPH))
    moved = path.parents[2] / "org--better" / SHA / path.name
    moved.parent.mkdir(parents=True)
    path.rename(moved)
    for read in (store.list, lambda: store.fetch([make_label(GRAPH, repo_id="org/better")])):
        with pytest.raises(LabelError, match=f"is a label of org/model; move it to {re.escape(str(path))}"):
            read()


def test_a_label_that_is_damaged_missing_or_no_file(store):
    path = store.write(make_label(GRAPH))
    summary = store.list()[0]
    path.write_bytes(path.read_bytes()[:-1])
    assert "not a readable label" in complaint_of(path)
    with pytest.raises(LabelError, match=re.escape(str(path))):
        reread(store).list()
    assert "cannot be read" in complaint_of(path.parent / "nothing")
    assert "cannot be read" in complaint_of(path.parent)
    assert "cannot be read" in complaint_of(path / "nothing")
    path.unlink()
    with pytest.raises(LabelError, match="cannot be read"):
        store.fetch([summary])


def test_a_file_too_large_for_a_label_is_not_read(tmp_path):
    path = tmp_path / "label.safetensors"
    with path.open("wb") as file:
        file.truncate(MAX_LABEL_BYTES + 1)
    assert "larger than 16 MB" in complaint_of(path)


# ---- embeddings beside a label


def some_embeddings(graph):
    v = len(graph)
    return ProbeEmbeddings.quantize(
        np.eye(v, dtype=np.float32), np.eye(v, dtype=np.float32), probe_set([[]] * v, [0] * v)
    )


def test_embeddings_beside_a_label(store):
    label = make_label(GRAPH)
    path = embeddings_path(store.write(label))
    assert path.name == f"{STEM}.embeddings.safetensors"
    assert store.embeddings_of(label) is None
    write_embeddings(some_embeddings(GRAPH), path)
    assert store.embeddings_of(label.summary).concepts.shape == (7, 7)
    write_embeddings(some_embeddings(OTHER), path)
    with pytest.raises(LabelError, match="has 2 concepts, but the label has 7"):
        store.embeddings_of(label)
