from __future__ import annotations

import itertools
import json
import random
import struct
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from mll_hf.hub.index import INDEX_FILE, IndexEntry, index_to_bytes
from safetensors.numpy import load, save
from test_hub_connection import lose_the_hub

import tiny_hub
from hub_worlds import (
    COLLECTION,
    GRAPH,
    OTHER_GRAPH,
    READER,
    REPO,
    assert_same_summary,
    clock,
    entries_of,
    graph_file,
    index_file,
    label_files,
    put_collection,
    put_labeled_model,
    sha256_of,
    some_labels,
)  # fmt: skip
from mll_hf.errors import HubError, InputError, LabelError, MLLError
from mll_hf.graph.concepts import GRAPH_FILE, save_graph
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.publish import build_index
from mll_hf.hub.sources import Collection, TaggedModels, open_source, together
from mll_hf.labels.label import LabelSummary, ModelLabel, ModelRef, label_from_bytes, label_to_bytes, read_metadata
from mll_hf.labels.store import LabelStore, label_path
from worlds import SHA, make_label

__all__ = ["clock", "lose_the_hub"]  # fixtures

pytestmark = pytest.mark.usefixtures("clock")
LABELS = some_labels(4)
MODELS = [label.model for label in LABELS]


@pytest.fixture(autouse=True)
def _no_download_is_counted(hub):
    """Whatever is read, nobody's download counter moves."""
    yield
    assert hub.counted == []


@pytest.fixture
def dataset(hub):
    """The dataset of the graph that labels in model repos name as the origin of the images; its commit."""
    return hub.put("dataset", "alice/graph", graph_file())


@pytest.fixture
def tagged(dataset):
    """Four models with labels in their own repos."""
    return [labeled(f"alice/model-{i}", dataset, hits=[i, 5, 0, 3, 2, 10, 10]) for i in range(4)]


def labeled(repo_id, dataset, **settings):
    return put_labeled_model(repo_id, probes_name="alice/graph", probes_revision=dataset, **settings)


def complaint_of(call, error=HubError):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_lists(source, labels):
    found = source.list()
    assert [summary.model for summary in found] == [label.model for label in labels]
    for summary, label in zip(found, labels, strict=True):
        assert_same_summary(summary, label)


def assert_same_label(ours, theirs):
    for field in fields(ModelLabel):
        left, right = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right, err_msg=field.name)
        else:
            assert left == right, field.name


def asked_for(hub):
    """Label files that were asked for, by HEAD; if they come, then from elsewhere."""
    return [request for request in hub.requests if "label.safetensors" in request]


def contents(hub):
    """Large files whose content was fetched."""
    return [request for request in hub.requests if "/_cdn/" in request]


# ---- which source


def test_sources_are_named_as_users_write_them(tmp_path):
    assert isinstance(open_source("hub"), TaggedModels)
    assert open_source("hub").name == "hub"
    assert isinstance(open_source(COLLECTION), Collection)
    assert open_source(f"{COLLECTION}@v1").name == f"{COLLECTION}@v1"
    assert isinstance(open_source(tmp_path), LabelStore)
    assert isinstance(open_source("some/folder"), LabelStore)
    for malformed in (
        "hf://",
        "hf://alice/labels",
        "hf://datasets/labels",
        "hf://datasets/a/b/c",
        "hf://datasets/a/b@",
    ):
        assert "is not of the form" in complaint_of(lambda m=malformed: open_source(m), InputError)


def test_opening_a_source_asks_nothing(hub):
    open_source("hub")
    open_source(COLLECTION)
    assert hub.requests == []


@pytest.fixture(params=["folder", "collection", "hub"])
def any_source(request, hub, tmp_path, dataset):
    """A source of each kind with the same labels, and these labels."""
    labels = [labeled(f"alice/model-{i}", dataset, hits=[i, 5, 0, 3, 2, 10, 10]) for i in range(3)]
    if request.param == "folder":
        store = LabelStore(tmp_path / "labels")
        store.adopt(GRAPH)
        for label in labels:
            store.write(label)
        return open_source(store.folder), labels
    if request.param == "collection":
        put_collection(labels)
        return open_source(COLLECTION), labels
    return open_source("hub"), labels


def test_every_source_gives_the_same(any_source):
    source, labels = any_source
    assert_lists(source, labels)
    assert source.graph.digest == GRAPH.digest
    for model in (labels[2].model, labels[0].model):
        (label,) = source.fetch([model])
        assert_same_label(label, next(label for label in labels if label.model == model))
        assert source.embeddings_of(model) is None
        assert source.origin_of(model).location.endswith("label.safetensors")
    assert [label.model for label in source.fetch([label.model for label in reversed(labels)])] == [
        label.model for label in reversed(labels)
    ]
    assert source.fetch([]) == ()


@pytest.mark.parametrize(
    "model", [ModelRef("alice/unknown", SHA, "open_clip"), ModelRef("alice/model-0", SHA, "open_clip")]
)
def test_a_label_that_is_not_there_is_an_error_of_ours(any_source, model):
    source, _ = any_source
    complaint_of(lambda: source.fetch([model]), MLLError)


# ---- a collection


def test_hub_sources_keep_summaries_only(hub, tagged):
    """Whole labels of a thousand models would take 1.3 GB."""
    put_collection(LABELS, index=LABELS[:2])
    for location in (COLLECTION, "hub"):
        assert {type(label) for label in open_source(location).list()} == {LabelSummary}


def test_a_collection_is_read_from_its_index(hub):
    put_collection(LABELS)
    source = open_source(COLLECTION)
    assert_lists(source, LABELS)
    assert source.graph.digest == GRAPH.digest
    assert asked_for(hub) == []


def test_a_cold_query_of_fifty_labels_costs_at_most_four_requests(hub):
    labels = some_labels(50)
    put_collection(labels)
    source = open_source(COLLECTION)
    assert_lists(source, labels)
    assert len(source.graph) == 7
    assert len(hub.requests) <= 4


def test_a_warm_pinned_query_costs_no_request(hub):
    sha = put_collection(LABELS)
    for location in (f"{COLLECTION}@{sha}", COLLECTION):
        open_source(location).fetch(MODELS)
        open_source(location).list()
    hub.requests.clear()
    source = open_source(f"{COLLECTION}@{sha}")
    assert_lists(source, LABELS)
    source.fetch(MODELS)
    assert hub.requests == []


def test_a_warm_query_of_a_branch_asks_only_for_its_head(hub):
    put_collection(LABELS)
    open_source(COLLECTION).list()
    hub.requests.clear()
    assert_lists(open_source(COLLECTION), LABELS)
    assert hub.requests == [f"GET /api/datasets/{REPO}/revision/main"]


def test_whole_labels_cost_two_requests_each_and_once(hub):
    put_collection(LABELS)
    source = open_source(COLLECTION)
    source.list()
    hub.requests.clear()
    for label, ours in zip(source.fetch(MODELS), LABELS, strict=True):
        assert_same_label(label, ours)
    assert len(hub.requests) == 8
    open_source(COLLECTION).fetch(MODELS)
    assert len(hub.requests) == 8 + 1  # which commit main is now


def test_a_new_commit_that_leaves_a_label_alone_fetches_nothing_anew(hub):
    put_collection(LABELS)
    open_source(COLLECTION).fetch(MODELS)
    hub.put("dataset", REPO, {"notes.md": b"new"})
    hub.requests.clear()
    open_source(COLLECTION).fetch(MODELS)
    assert len(asked_for(hub)) == 4
    assert contents(hub) == []


def test_a_revision_is_read_as_it_was(hub):
    old = put_collection(LABELS[:2])
    put_collection(LABELS)
    assert_lists(open_source(f"{COLLECTION}@{old}"), LABELS[:2])
    assert_lists(open_source(COLLECTION), LABELS)
    hub.repos["dataset", REPO].tags["v1"] = old
    assert_lists(open_source(f"{COLLECTION}@v1"), LABELS[:2])


def test_a_source_shows_one_commit_all_its_life(hub):
    put_collection(LABELS[:2])
    source = open_source(COLLECTION)
    assert len(source.list()) == 2
    newest = put_collection([replace(LABELS[0], temperature=np.array([2], np.float32)), *LABELS[1:]])
    assert len(source.list()) == 2
    assert float(source.fetch(MODELS[:1])[0].temperature[0]) == 1
    assert newest not in source.origin_of(MODELS[0]).location


def test_the_origin_of_a_label_names_file_and_commit(hub):
    sha = put_collection(LABELS)
    origin = open_source(COLLECTION).origin_of(MODELS[0])
    assert origin.location == f"hf://datasets/{REPO}@{sha}/labels/org--model-00/{SHA}/label.safetensors"
    assert origin.publisher == "alice"


def test_a_collection_without_index_is_read_label_by_label(hub, caplog):
    hub.put("dataset", REPO, {**graph_file(), **label_files(LABELS)})
    assert_lists(open_source(COLLECTION), LABELS)
    assert caplog.text == ""


def test_a_private_collection_is_its_owner_s(hub):
    put_collection(LABELS)
    hub.repos["dataset", REPO].private = True
    assert_lists(open_source(COLLECTION), LABELS)
    assert "or private" in complaint_of(open_source(COLLECTION, token=READER).list)


def test_a_gated_collection_says_where_to_accept_its_terms(hub):
    put_collection(LABELS)
    hub.repos["dataset", REPO].gated = "auto"
    assert "accept its terms at" in complaint_of(open_source(COLLECTION, token=READER).list)
    assert_lists(open_source(COLLECTION), LABELS)


def test_what_is_no_collection_is_an_error(hub):
    assert "is not on the Hub" in complaint_of(open_source(COLLECTION).list)
    hub.put("dataset", REPO, {"README.md": b"# Cats\n"})
    assert "holds no labels yet" in complaint_of(open_source(COLLECTION).list, InputError)
    assert "no such revision" in complaint_of(open_source(f"{COLLECTION}@v9").list)


def test_a_collection_of_no_labels_is_empty(hub):
    hub.put("dataset", REPO, graph_file())
    assert open_source(COLLECTION).list() == ()


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 10**5, b'{"nodes": []}'])
def test_a_bad_graph_is_an_error_of_ours(hub, content):
    hub.put("dataset", REPO, {GRAPH_FILE: content, **label_files(LABELS)})
    complaint_of(open_source(COLLECTION).list, MLLError)


# ---- an index that disagrees


def renamed(label, repo_id):
    return replace(label, model=replace(label.model, repo_id=repo_id))


OTHER_LABELS = [make_label(OTHER_GRAPH, repo_id=f"org/model-{i:02}") for i in range(4)]
NEWER = [replace(label, temperature=np.array([2], np.float32)) for label in LABELS]
DISAGREEING = {
    "lacks a label": index_file(LABELS[:3])[INDEX_FILE],
    "lacks all labels but one": index_file(LABELS[3:])[INDEX_FILE],
    "has a label that is gone": index_file([*LABELS, renamed(LABELS[0], "org/gone")])[INDEX_FILE],
    "has only labels that are gone": index_file([renamed(LABELS[0], "org/gone")])[INDEX_FILE],
    "has older labels": index_file(NEWER)[INDEX_FILE],
    "has an older label": index_file([NEWER[0], *LABELS[1:]])[INDEX_FILE],
    "has wrong hashes": index_to_bytes(GRAPH, [IndexEntry(label, "0" * 64) for label in LABELS]),
    "has swapped hashes": index_to_bytes(
        GRAPH, [IndexEntry(LABELS[i], entries_of(LABELS)[3 - i].oid) for i in range(4)]
    ),
    "has other revisions": index_file(
        [replace(label, model=replace(label.model, revision="f" * 40)) for label in LABELS]
    )[INDEX_FILE],
    "is of another graph": index_file(OTHER_LABELS, OTHER_GRAPH)[INDEX_FILE],
    "is of another graph with our hashes": index_to_bytes(
        OTHER_GRAPH,
        [IndexEntry(other, ours.oid) for other, ours in zip(OTHER_LABELS, entries_of(LABELS), strict=True)],
    ),
    "is empty": b"",
    "is no index": b"bad",
    "is cut short": index_file(LABELS)[INDEX_FILE][:-1],
    "is a label": label_to_bytes(LABELS[0]),
    "has a huge header": struct.pack("<Q", 10**15) + b"{}",
    "is nested too deeply": struct.pack("<Q", 10**5) + b"[" * 10**5,
    "is of labels that are numbers": save(
        load(index_file(LABELS)[INDEX_FILE]), metadata={"mll": json.dumps({"schema": 1, "labels": [1, 2, 3, 4]})}
    ),
}


@pytest.mark.parametrize("what", DISAGREEING)
def test_labels_count_and_not_an_index_that_disagrees(hub, what):
    put_collection(LABELS)
    hub.put("dataset", REPO, {INDEX_FILE: DISAGREEING[what]})
    source = open_source(COLLECTION)
    assert_lists(source, LABELS)
    assert source.graph.digest == GRAPH.digest


def test_only_what_the_index_gets_wrong_is_asked_for(hub):
    put_collection(LABELS, index=LABELS[:3])
    assert_lists(open_source(COLLECTION), LABELS)
    assert len(asked_for(hub)) == 1


def test_a_damaged_index_is_said_to_be(hub, caplog):
    put_collection(LABELS)
    hub.put("dataset", REPO, {INDEX_FILE: b"bad"})
    open_source(COLLECTION).list()
    assert f"{REPO}/{INDEX_FILE}: is no valid index (" in caplog.text
    assert "rebuild it: mll-hf labels index" in caplog.text


def test_a_collection_whose_graph_file_is_gone_has_that_of_its_index(hub):
    hub.put("dataset", REPO, {**label_files(LABELS), **index_file(LABELS)})
    source = open_source(COLLECTION)
    assert_lists(source, LABELS)
    assert source.graph.digest == GRAPH.digest


def test_labels_without_any_graph_are_of_no_use(hub):
    hub.put("dataset", REPO, label_files(LABELS))
    assert "restore the file" in complaint_of(open_source(COLLECTION).list, InputError)


def test_an_index_counts_if_its_graph_is_written_otherwise(hub):
    put_collection(LABELS)
    content = graph_file()[GRAPH_FILE]
    hub.put("dataset", REPO, {GRAPH_FILE: json.dumps(json.loads(content), indent=1).encode()})
    assert_lists(open_source(COLLECTION), LABELS)
    assert asked_for(hub) == []


def test_a_graph_is_chosen_only_where_there_are_several(tmp_path, dataset):
    for location in (COLLECTION, str(tmp_path)):
        said = complaint_of(lambda where=location: open_source(where, "hf://datasets/alice/graph"), InputError)
        assert "leave out --graph" in said


def test_an_index_whose_content_was_exchanged_is_not_believed(hub, caplog):
    put_collection(LABELS)
    hub.fail("/_cdn/", alter=lambda _: index_file(NEWER)[INDEX_FILE], method="GET")
    assert_lists(open_source(COLLECTION), LABELS)
    assert "is not what the Hub lists" in caplog.text


def test_an_index_that_is_too_large_is_not_read(hub):
    put_collection(LABELS)
    hub.fail("/api/datasets/", alter=with_size(INDEX_FILE, 2**40))
    assert_lists(open_source(COLLECTION), LABELS)
    assert not [request for request in hub.requests if INDEX_FILE in request]


def test_figures_that_an_index_made_up_are_found_out_when_the_label_is_asked_for(hub):
    forged = replace(LABELS[0], temperature=np.array([3], np.float32))
    put_collection(LABELS)
    hub.put("dataset", REPO, {INDEX_FILE: index_to_bytes(GRAPH, [IndexEntry(forged, entries_of(LABELS)[0].oid)])})
    assert_same_label(open_source(COLLECTION).fetch(MODELS[:1])[0], LABELS[0])


def test_labels_that_git_keeps_are_read_and_indexed_like_others(hub, monkeypatch):
    monkeypatch.setattr(tiny_hub, "LFS_SUFFIXES", ())
    hub.put("dataset", REPO, {**graph_file(), **label_files(LABELS)})
    assert_lists(open_source(COLLECTION), LABELS)
    build_index(COLLECTION)
    hub.requests.clear()
    assert_lists(open_source(COLLECTION), LABELS)
    assert asked_for(hub) == []
    assert not build_index(COLLECTION).changed


# ---- hostile labels in a collection


def with_size(path, size):
    """Alters what the Hub says of a file's size."""

    def alter(body):
        info = json.loads(body)
        for sibling in info["siblings"]:
            if sibling["rfilename"] == path:
                sibling["size"] = size
                sibling.get("lfs", {})["size"] = size
        return json.dumps(info).encode()

    return alter


def with_siblings(*names, **more):
    """Adds files to what the Hub says there is."""

    def alter(body):
        info = json.loads(body)
        info["siblings"] += [{"rfilename": name, "size": 10, "blobId": "b" * 40, **more} for name in names]
        return json.dumps(info).encode()

    return alter


GOOD = label_to_bytes(LABELS[0])
BAD_LABELS = {
    "nothing": b"",
    "text": b"bad",
    "half a label": GOOD[: len(GOOD) // 2],
    "a huge header": struct.pack("<Q", 2**63) + GOOD[8:],
    "a header of a gigabyte": struct.pack("<Q", 2**30) + b"{}",
    "deep nesting": struct.pack("<Q", 10**5) + b"[" * 10**5,
    "a label of another model": label_to_bytes(renamed(LABELS[0], "org/other")),
    "a label of another revision": label_to_bytes(replace(LABELS[0], model=replace(MODELS[0], revision="a" * 40))),
    "a label of a folder": label_to_bytes(renamed(LABELS[0], "local-dir:/models/model-00")),
    "a label of another graph": label_to_bytes(make_label(OTHER_GRAPH, repo_id="org/model-00")),
    "an index": index_file(LABELS)[INDEX_FILE],
    "too much": bytes(17 * 2**20),
}


@pytest.mark.parametrize("what", BAD_LABELS)
def test_a_bad_label_is_left_out_and_said(hub, caplog, what):
    hub.put("dataset", REPO, {**graph_file(), **label_files(LABELS), label_path(MODELS[0]): BAD_LABELS[what]})
    source = open_source(COLLECTION)
    assert_lists(source, LABELS[1:])
    (record,) = caplog.records
    assert record.getMessage().startswith("left out: alice/labels")
    assert "\n" not in record.getMessage()
    complaint_of(lambda: source.fetch(MODELS[:1]), MLLError)


def test_a_label_of_a_folder_is_left_out_even_under_its_own_name(hub):
    local = renamed(LABELS[0], "local-dir:/models/model-00")
    hub.put("dataset", REPO, {**graph_file(), **label_files([local, *LABELS[1:]])})
    assert_lists(open_source(COLLECTION), LABELS[1:])


def test_a_label_that_claims_to_be_too_large_is_not_fetched(hub, caplog):
    hub.put("dataset", REPO, {**graph_file(), **label_files(LABELS)})
    hub.fail("/api/datasets/", alter=with_size(label_path(MODELS[0]), 2**40))
    assert_lists(open_source(COLLECTION), LABELS[1:])
    assert not [request for request in asked_for(hub) if "model-00" in request]
    assert "is larger than 16 MB and was not fetched" in caplog.text


@pytest.mark.parametrize("size", [0, 1, 10**9])
def test_the_size_that_the_hub_claims_does_not_matter_if_the_content_is_right(hub, size):
    hub.put("dataset", REPO, {**graph_file(), **label_files(LABELS)})
    hub.fail("/api/datasets/", alter=with_size(label_path(MODELS[0]), size))
    assert_lists(open_source(COLLECTION), LABELS[1:] if size > 16 * 2**20 else LABELS)


def endless(_):
    return itertools.repeat(bytes(2**20))


@pytest.mark.parametrize(
    "how",
    [
        {"alter": endless},
        {"alter": lambda body: body[:-1] + b"x"},
        {"alter": lambda body: body + b"x"},
        {"alter": lambda _: b""},
        {"alter": lambda _: label_to_bytes(NEWER[0])},
        {"cut": 100},
    ],
)
def test_content_that_was_tampered_with_is_left_out(hub, how):
    hub.put("dataset", REPO, {**graph_file(), **label_files(LABELS)})
    oid = sha256_of(label_to_bytes(LABELS[0]))
    hub.fail(f"/_cdn/{oid}", method="GET", times=99, **how)
    assert_lists(open_source(COLLECTION), LABELS[1:])
    hub.disturbances.clear()
    assert_lists(open_source(COLLECTION), LABELS)


@pytest.mark.parametrize(
    "name",
    [
        f"labels/../{SHA}/label.safetensors",
        f"labels/..\\..\\x/{SHA}/label.safetensors",
        f"labels/a\0b/{SHA}/label.safetensors",
        f"labels/a\nb/{SHA}/label.safetensors",
        f"labels/{'x' * 5000}/{SHA}/label.safetensors",
        f"labels/ /{SHA}/label.safetensors",
        f"labels/\ud800/{SHA}/label.safetensors",
        f"labels/C:/{SHA}/label.safetensors",
    ],
)
def test_a_listing_with_a_hostile_name_does_no_harm(hub, name, tmp_path, monkeypatch, caplog):
    cache = tmp_path / "a" / "b" / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    put_collection(LABELS)
    hub.fail("/api/datasets/", alter=with_siblings(name), times=9)
    assert_lists(open_source(COLLECTION), LABELS)
    assert all("\n" not in record.getMessage() and "\0" not in record.getMessage() for record in caplog.records)
    outside = [file for file in tmp_path.rglob("*") if file.is_file() and cache not in file.parents]
    assert all("assets" in file.parts for file in outside)


def test_names_that_are_no_labels_are_ignored(hub):
    put_collection(LABELS)
    names = [f"labels/x/{SHA}", f"labels/x/{SHA}/label.safetensors.bak", "labels/x/main/label.safetensors", "a.json"]
    names += [f"labels/x/y/{SHA}/label.safetensors", f"x/labels/y/{SHA}/label.safetensors", f"labels/x/{SHA}/a.bin"]
    hub.put("dataset", REPO, dict.fromkeys(names, b"bad"))
    assert_lists(open_source(COLLECTION), LABELS)
    assert asked_for(hub) == []


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_label_that_the_hub_refuses_is_left_out(hub, caplog, status):
    hub.put("dataset", REPO, {**graph_file(), **label_files(LABELS)})
    hub.fail("org--model-00", status, times=99)
    assert_lists(open_source(COLLECTION), LABELS[1:])
    assert "left out" in caplog.text


@pytest.mark.parametrize("how", [{"status": 500}, {"status": 503}, {"drop": "before"}, {"drop": "after"}])
def test_a_label_that_the_hub_stumbles_over_is_asked_for_again(hub, how):
    hub.put("dataset", REPO, {**graph_file(), **label_files(LABELS)})
    hub.fail("org--model-00", times=2, **how)
    assert_lists(open_source(COLLECTION), LABELS)


def test_the_first_error_of_many_is_raised():
    def refuse(item):
        if item > 3:
            raise LabelError(f"number {item}")
        return item

    assert together(refuse, [3, 1, 2], "x") == [3, 1, 2]
    with pytest.raises(LabelError, match="number 5"):
        together(refuse, [1, 5, 2, 7], "x")


# ---- mutated labels


def repacked(blob, change):
    """A safetensors file whose header, as text, was changed; the length field agrees."""
    length = struct.unpack("<Q", blob[:8])[0]
    header = change(blob[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + blob[8 + length :]


def change_value(value, rng):
    """Another value somewhere in a JSON document."""
    if isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: change_value(value[key], rng)}
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        return [*value[:at], change_value(value[at], rng), *value[at + 1 :]]
    odd = [None, True, -1, 0, 1, 7, 2**63, 1e308, float("nan"), "", "x", "F64", "I32", [], {}, [1, 2], "a" * 64]
    if isinstance(value, int) and not isinstance(value, bool):
        odd += [value + 1, value - 1, float(value), str(value)]
    return rng.choice(odd)


def mutate(blob, rng):
    """One of the ways in which a label can be damaged or forged by somebody who does not compute the checksum anew."""
    match rng.randrange(6):
        case 0:  # bits
            data = bytearray(blob)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(data)
        case 1:  # bytes dropped, added, moved
            first, last = sorted(rng.randrange(len(blob)) for _ in range(2))
            part = rng.choice([b"", rng.randbytes(rng.randint(1, 9)), bytes(last - first), blob[first:last][::-1]])
            return blob[:first] + part + blob[last:]
        case 2:  # the length field
            return struct.pack("<Q", rng.choice([0, 1, 2**31, 2**64 - 1, rng.randrange(len(blob) * 2)])) + blob[8:]
        case 3:  # the header
            return repacked(blob, lambda header: json.dumps(change_value(json.loads(header), rng)).encode())
        case 4:  # the metadata
            metadata = change_value(read_metadata(blob), rng)
            return save(load(blob), metadata={"mll": json.dumps(metadata)})
        case _:  # a tensor
            tensors = dict(load(blob))
            name = rng.choice(sorted(tensors))
            array = tensors[name].copy()
            with np.errstate(over="ignore"):
                array.flat[rng.randrange(array.size)] += rng.choice([1, 2, 100])
            tensors[name] = rng.choice([array, array, array[:-1], array.astype(np.float64), array.reshape(-1)])
            return save({key: np.ascontiguousarray(value) for key, value in tensors.items()}, metadata=text_of(blob))


def text_of(blob):
    return {"mll": json.dumps(read_metadata(blob))}


def test_ten_thousand_mutated_labels_are_refused_or_mean_the_same():
    label = make_label(
        GRAPH,
        domain_names=("icon", "photo"),
        domain_hits=[[1, 2, 0, 0, 0, 5, 1], [6, 3, 0, 3, 0, 5, 1]],
        domain_support=[[2, 5, 0, 1, 2, 5, 4], [8, 5, 0, 9, 3, 5, 6]],
    )
    blob, rng = label_to_bytes(label), random.Random(0)
    refused = 0
    for _ in range(10_000):
        try:
            mutated = label_from_bytes(mutate(blob, rng))
        except LabelError:
            refused += 1
            continue
        assert_same_label(mutated, label)
    assert refused > 9_000


# ---- all tagged models


def pages(count):
    return -(-count // tiny_hub.PAGE_SIZE) or 1


def test_tagged_models_are_found_and_read(hub, tagged):
    source = open_source("hub")
    assert_lists(source, tagged)
    for label, ours in zip(source.fetch([label.model for label in tagged]), tagged, strict=True):
        assert_same_label(label, ours)
    sha = hub.repos["model", "alice/model-0"].refs["main"]
    origin = source.origin_of(tagged[0].model)
    assert origin.location == f"hf://alice/model-0@{sha}/{LABEL_PATH}"
    assert origin.publisher == "alice"


def test_fifty_models_cost_the_listing_and_two_requests_each(hub, dataset):
    labels = [labeled(f"alice/model-{i:02}", dataset) for i in range(50)]
    source = open_source("hub")
    assert_lists(source, labels)
    source.fetch([label.model for label in labels])
    assert len(hub.requests) <= pages(50) + 2 * 50
    before = len(hub.requests)
    assert source.graph.digest == GRAPH.digest
    assert len(hub.requests) - before <= 2


def test_a_warm_query_costs_only_the_listing(hub, tagged):
    assert open_source("hub").graph
    hub.requests.clear()
    source = open_source("hub")
    assert_lists(source, tagged)
    assert source.graph.digest == GRAPH.digest
    assert len(hub.requests) == pages(len(tagged))


def test_a_new_commit_that_leaves_the_label_alone_is_not_downloaded_again(hub, tagged):
    open_source("hub").list()
    hub.put("model", "alice/model-0", {"notes.md": b"new"})
    hub.requests.clear()
    assert_lists(open_source("hub"), tagged)
    assert len(asked_for(hub)) == 1
    assert contents(hub) == []


def test_models_without_tag_or_without_file_are_not_asked_for(hub, tagged):
    hub.put("model", "alice/a-tag-only", {"README.md": hub.files("model", "alice/model-0")["README.md"]})
    hub.put("model", "alice/file-only", {LABEL_PATH: b"x"})
    hub.put("dataset", "alice/tagged", hub.files("model", "alice/model-0"))
    assert_lists(open_source("hub"), tagged)
    assert len(asked_for(hub)) == 4


def test_private_models_are_found_by_their_owner_alone(hub, tagged):
    hub.repos["model", "alice/model-0"].private = True
    assert_lists(open_source("hub"), tagged)
    assert_lists(open_source("hub", token=READER), tagged[1:])


def test_a_gated_model_is_left_out_and_said(hub, tagged, caplog):
    hub.repos["model", "alice/model-0"].gated = "auto"
    assert_lists(open_source("hub", token=READER), tagged[1:])
    assert "left out: alice/model-0: is gated; accept its terms" in caplog.text


def test_a_bad_label_of_a_model_is_left_out_and_said(hub, tagged, caplog):
    wrong = {
        "alice/model-0": b"bad",
        "alice/model-1": label_to_bytes(renamed(tagged[1], "alice/model-2")),
        "alice/model-2": label_to_bytes(make_label(OTHER_GRAPH, repo_id="alice/model-2")),
    }
    for repo_id, content in wrong.items():
        hub.put("model", repo_id, {LABEL_PATH: content})
    hub.put("model", "alice/model-4", {**hub.files("model", "alice/model-3")})
    labels = [tagged[3], labeled("alice/model-5", tagged[0].probes_revision)]
    assert_lists(open_source("hub"), labels)
    assert "alice/model-0/mll/label.safetensors: " in caplog.text
    assert "is a label of another model (alice/model-2)" in caplog.text
    assert "is a label of another model (alice/model-3)" in caplog.text


def test_a_label_of_the_wrong_graph_under_the_right_tag_is_left_out(hub, tagged, tmp_path):
    hub.put("model", "alice/model-0", {LABEL_PATH: label_to_bytes(make_label(OTHER_GRAPH, repo_id="alice/model-0"))})
    save_graph(GRAPH, tmp_path)
    assert_lists(open_source("hub", graph=tmp_path), tagged[1:])
    assert_lists(open_source("hub"), tagged[1:])


def test_the_graph_of_most_models_is_taken_and_said(hub, tagged, caplog, tmp_path):
    other = put_labeled_model("alice/z-other", OTHER_GRAPH)
    assert_lists(open_source("hub"), tagged)
    assert not [request for request in asked_for(hub) if "z-other" in request]
    assert "the Hub has labels of 2 graphs; using mll-graph-" in caplog.text
    save_graph(OTHER_GRAPH, tmp_path)
    hub.requests.clear()
    source = open_source("hub", graph=tmp_path)
    assert_lists(source, [other])
    assert len(asked_for(hub)) == 1
    assert source.graph.digest == OTHER_GRAPH.digest


def test_a_graph_can_be_taken_from_the_hub(tagged, dataset):
    source = open_source("hub", graph=f"hf://datasets/alice/graph@{dataset}")
    assert source.graph.digest == GRAPH.digest
    assert_lists(source, tagged)


def test_a_graph_that_is_not_where_the_labels_say_must_be_given(hub, tagged, tmp_path):
    hub.repos.pop(("dataset", "alice/graph"))
    source = open_source("hub")
    assert_lists(source, tagged)
    said = complaint_of(lambda: source.graph, InputError)
    assert said.startswith("the labels' graph 'tiny' (")
    assert said.endswith("give it with --graph")
    hub.put("dataset", "alice/graph", graph_file(OTHER_GRAPH))
    complaint_of(lambda: open_source("hub").graph, InputError)


def test_a_hub_without_labels_says_what_to_do(hub):
    assert open_source("hub").list() == ()
    said = complaint_of(lambda: open_source("hub").graph, InputError)
    assert said.startswith("no model on the Hub has a valid label; publish one: ")
    hub.put("model", "alice/model", {"README.md": b"---\ntags: [mll-label]\n---\n", LABEL_PATH: b"bad"})
    complaint_of(lambda: open_source("hub").graph, InputError)


HOSTILE_ITEMS = {
    "tags that are numbers": {"tags": ["mll-label", 3, None, ["a"]]},
    "tags that are text": {"tags": "mll-label"},
    "tags that are a number": {"tags": 3},
    "no tags": {"tags": None},
    "siblings that are text": {"siblings": "abc"},
    "siblings that are numbers": {"siblings": [1, 2]},
    "siblings without a name": {"siblings": [{"size": 3}]},
    "siblings that are a number": {"siblings": 3},
    "names that are numbers": {"siblings": [{"rfilename": 3}]},
    "no siblings": {"siblings": None},
    "no commit": {"sha": None},
    "a commit that is a number": {"sha": 3},
    "a commit that is a path": {"sha": "../../../../etc"},
    "a commit that is a branch": {"sha": "main"},
    "an id that is a number": {"id": 3},
    "an id that is a list": {"id": ["a"]},
    "an id that is a path": {"id": "../../etc/passwd"},
    "an id with a line break": {"id": "alice/a\nb"},
    "no id": {"id": None},
    "an id that is missing": {"id": ...},
    "a date that is none": {"createdAt": "yesterday", "lastModified": []},
    "a card that nobody asked for": {"cardData": {"ignore_metadata_errors": 1}},
    "weights that nobody asked for": {"safetensors": [1]},
    "fields that nobody knows": {"self": 1, "_": [], "spaces": 3, "config": "x"},
    "a number": 3,
    "nothing": None,
    "a list": [1],
}


def with_items(change):
    """Alters a page of the listing, given as parsed JSON."""
    return lambda body: json.dumps(change(json.loads(body))).encode()


@pytest.mark.parametrize("what", HOSTILE_ITEMS)
def test_a_hostile_entry_of_the_listing_costs_only_itself(hub, tagged, what):
    def change(items):
        hostile = HOSTILE_ITEMS[what]
        if isinstance(hostile, dict):
            hostile = {key: value for key, value in {**items[0], **hostile}.items() if value is not ...}
        return [hostile, *items[1:]]

    hub.fail("/api/models", alter=with_items(change))
    found = {summary.model.repo_id for summary in open_source("hub").list()}
    assert found - {"alice/model-0"} == {"alice/model-1", "alice/model-2", "alice/model-3"}


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"3", b"<html>", b"[" * 10**5])
def test_a_listing_that_makes_no_sense_is_an_error_of_ours(hub, tagged, body):
    hub.fail("/api/models", times=99, alter=lambda _: body)
    complaint_of(open_source("hub").list, MLLError)


@pytest.mark.parametrize("link", ["<nonsense>", "http://169.254.169.254/", "", "<>; rel=next"])
def test_a_next_page_that_makes_no_sense_is_an_error_of_ours_or_none(hub, tagged, link):
    hub.fail("/api/models", headers={"Link": link}, times=99)
    try:
        found = open_source("hub").list()
    except MLLError:
        return
    assert len(found) <= len(tagged)


def test_a_model_that_is_listed_twice_is_there_once(hub, tagged):
    hub.fail("/api/models", alter=with_items(lambda items: [*items, *items]))
    assert_lists(open_source("hub"), tagged)


# ---- without the Hub


def read_all(location):
    source = open_source(location)
    return source.graph, source.list(), source.fetch([summary.model for summary in source.list()])


@pytest.mark.parametrize("location", ["hub", COLLECTION])
def test_after_one_query_everything_works_without_the_hub(tagged, lose_the_hub, location):
    put_collection(tagged)
    graph, summaries, labels = read_all(location)
    lose_the_hub()
    again = read_all(location)
    assert again[0].digest == graph.digest
    for ours, theirs in zip(again[1], summaries, strict=True):
        assert_same_summary(ours, theirs)
    for ours, theirs in zip(again[2], labels, strict=True):
        assert_same_label(ours, theirs)


@pytest.mark.parametrize("location", ["hub", COLLECTION])
def test_without_the_hub_and_a_query_before_the_error_says_so(tagged, lose_the_hub, location):
    put_collection(tagged)
    lose_the_hub()
    complaint_of(open_source(location).list)


def test_without_the_hub_a_label_that_was_never_fetched_is_an_error(tagged, lose_the_hub):
    put_collection(tagged)
    open_source(COLLECTION).list()
    lose_the_hub()
    source = open_source(COLLECTION)
    assert_lists(source, tagged)
    complaint_of(lambda: source.fetch([tagged[0].model]))


def test_a_hub_that_is_down_is_not_waited_for_long_when_the_answer_is_known(hub, tagged, clock):
    open_source("hub").list()
    hub.down = True
    assert_lists(open_source("hub"), tagged)
    assert sum(clock.waits) < 10


@pytest.mark.parametrize("content", [b"", b"{}", b"3", b"[1]", b'[["a", "b"]]', b'[["a", "b", 3]]', b"[" * 10**5])
def test_a_damaged_memory_of_the_listing_is_an_error_of_ours(hub, tagged, content):
    open_source("hub").list()
    for file in Path(constants.HF_ASSETS_CACHE).rglob("*.json"):
        file.write_bytes(content)
    hub.down = True
    complaint_of(open_source("hub").list, MLLError)


def test_a_refused_listing_is_not_answered_from_memory(hub, tagged):
    open_source("hub").list()
    hub.fail("/api/models", 403, times=99)
    complaint_of(open_source("hub").list)
