from __future__ import annotations

import errno
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from mll_hf.errors import GraphError, InputError, LabelError, MLLError, StorageError
from mll_hf.graph.concepts import load_graph
from mll_hf.labels.embeddings import ProbeEmbeddings, write_embeddings
from mll_hf.labels.label import ModelRef, label_to_bytes
from mll_hf.labels.store import MAX_LABEL_BYTES, LabelStore, read_label
from mll_hf.utils.files import write_atomically
from worlds import SHA, make_graph, make_label, probe_set

GRAPH = make_graph()
OTHER = make_graph({"a": (), "b": ("a",)}, "other")


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- writing a file


def test_write_and_replace(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    for content in (b"old", b"new", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert files_in(tmp_path) == ["a/b/c.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, step):
    path = tmp_path / "c.txt"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, step, no_space)
    with pytest.raises(StorageError) as caught:
        write_atomically(path, b"new")
    assert str(caught.value) == (
        f"cannot write {path}: No space left on device; free some space or choose another folder"
    )
    assert caught.value.path == path
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["c.txt"]


def test_a_file_larger_than_may_be_written(tmp_path):
    resource = pytest.importorskip("resource")  # a true short write: the kernel takes 1,000 bytes and no more
    path = tmp_path / "c.txt"
    write_atomically(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            write_atomically(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["c.txt"]


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    path = tmp_path / "c.txt"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["c.txt"]


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "c.txt", tmp_path / "file" / "a" / "c.txt", tmp_path / "folder"):
        with pytest.raises(StorageError, match=f"cannot write {re.escape(str(path))}: .+; choose another folder"):
            write_atomically(path, b"new")
    assert files_in(tmp_path) == ["file"]


# ---- a store


@pytest.fixture
def store(tmp_path):
    store = LabelStore(tmp_path / "labels of mine")
    store.adopt(GRAPH)
    return store


def test_labels_come_back(store):
    labels = [make_label(GRAPH, [9, 8, 7, 6, 5, 4, 3], repo_id=f"org/{name}") for name in ("b", "a")]
    paths = [store.write(label) for label in labels]
    assert paths[0] == store.folder / "labels" / "org--b" / SHA / "label.safetensors"
    assert store.paths() == tuple(sorted(paths))
    assert [label.model.repo_id for label in store.labels] == ["org/a", "org/b"]
    assert store.graph == GRAPH
    assert read_label(paths[0], GRAPH).hits.tolist() == [9, 8, 7, 6, 5, 4, 3]
    assert label_to_bytes(read_label(str(paths[0]))) == label_to_bytes(labels[0])


def test_revisions_lie_side_by_side_and_one_revision_is_replaced(store):
    store.write(make_label(GRAPH, temperature=2.0))
    store.write(make_label(GRAPH, revision="1" * 40))
    store.write(make_label(GRAPH, temperature=3.0))
    labels = LabelStore(store.folder).labels
    assert [(label.model.revision, label.temperature[0]) for label in labels] == [(SHA, 3), ("1" * 40, 1)]


def test_local_models(store):
    path = store.write(make_label(GRAPH, repo_id="local-dir:/home/me/models/tiny"))
    assert path.parent.parent.name == "local--tiny"


def test_an_empty_store(store):
    assert store.labels == ()


def test_what_is_no_store(tmp_path):
    with pytest.raises(InputError, match=r"holds no labels; make some: mll-hf label MODEL --graph DIR --labels"):
        LabelStore(tmp_path / "nowhere").graph  # noqa: B018


def test_adopting_the_same_graph_again_changes_nothing(store):
    before = (store.folder / "graph.json").stat().st_mtime_ns
    store.adopt(GRAPH)
    LabelStore(store.folder).adopt(replace(GRAPH, name="renamed"))
    assert (store.folder / "graph.json").stat().st_mtime_ns == before
    assert load_graph(store.folder) == GRAPH


def test_adopting_another_graph(store):
    with pytest.raises(
        InputError, match=rf"of another graph \(tiny, {GRAPH.digest[:12]}\); use another folder"
    ) as caught:
        LabelStore(store.folder).adopt(OTHER)
    assert "\n" not in str(caught.value)
    assert load_graph(store.folder) == GRAPH


def test_adopting_a_folder_with_a_damaged_graph(store):
    (store.folder / "graph.json").write_text("{")
    with pytest.raises(InputError, match="use another folder for the labels"):
        LabelStore(store.folder).adopt(GRAPH)
    with pytest.raises(GraphError):
        LabelStore(store.folder).graph  # noqa: B018


def test_stores_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(StorageError, match="cannot write"):
            LabelStore(folder).adopt(GRAPH)
        with pytest.raises(StorageError, match="cannot write"):
            LabelStore(folder).write(make_label(GRAPH))


def test_a_full_disk_leaves_the_old_label(store, monkeypatch):
    path = store.write(make_label(GRAPH, temperature=2.0))
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError):
        store.write(make_label(GRAPH, temperature=3.0))
    assert read_label(path).temperature == [2.0]
    assert files_in(store.folder) == ["graph.json", f"labels/org--model/{SHA}/label.safetensors"]


# ---- labels not to be believed


def complaint_of(path, graph=None):
    with pytest.raises(LabelError) as caught:
        read_label(path, graph)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_label_of_another_graph(store):
    path = store.write(make_label(OTHER))
    assert re.search(rf"of graph other \({OTHER.digest[:12]}\), not of tiny", complaint_of(path, GRAPH))
    assert read_label(path).graph_name == "other"
    with pytest.raises(LabelError, match="other"):
        store.labels  # noqa: B018


def test_a_label_that_has_the_digest_of_the_graph_but_not_its_size(store):
    path = store.write(make_label(OTHER, graph_digest=GRAPH.digest))
    complaint_of(path, GRAPH)


def test_a_label_that_is_damaged_missing_or_no_file(store):
    path = store.write(make_label(GRAPH))
    path.write_bytes(path.read_bytes()[:-1])
    assert "no readable label" in complaint_of(path)
    with pytest.raises(LabelError, match=str(path)):
        store.labels  # noqa: B018
    assert "cannot be read" in complaint_of(path.parent / "nothing")
    assert "cannot be read" in complaint_of(path.parent)
    assert "cannot be read" in complaint_of(path / "nothing")


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
    ref = ModelRef("org/model", SHA, "open_clip")
    assert store.embeddings_of(ref) is None
    folder = store.path_of(ref).parent
    write_embeddings(some_embeddings(GRAPH), folder)
    assert store.embeddings_of(ref).concepts.shape == (7, 7)
    write_embeddings(some_embeddings(OTHER), folder)
    with pytest.raises(LabelError, match="has 2 concepts, the graph 7"):
        store.embeddings_of(ref)


def test_errors_are_of_the_family():
    assert issubclass(StorageError, MLLError)
    assert issubclass(StorageError, OSError)
    assert str(StorageError(GRAPH, OSError("odd"))).endswith("odd; choose another folder")


def test_a_catalog_is_no_folder_for_labels(tmp_path):
    (tmp_path / "shard-00000.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="is a catalog, which is written as a whole"):
        LabelStore(tmp_path).adopt(make_graph())
