from __future__ import annotations

import itertools
import json
import struct
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from test_hub_connection import lose_the_hub

import tiny_hub
from hub_worlds import (
    COLLECTION,
    GRAPH,
    OTHER_GRAPH,
    OTHER_STEM,
    READER,
    REPO,
    STEM,
    assert_same_summary,
    clock,
    complaint_of,
    graph_file,
    graph_files,
    index_file,
    label_files,
    no_download_is_counted,
    path_of,
    put_collection,
    put_labeled_model,
    sha256_of,
    some_labels,
)
from mll_hf.errors import HubError, InputError, LabelError, MLLError
from mll_hf.graph.concepts import graph_to_json, save_graph
from mll_hf.hub import index as hub_index
from mll_hf.hub import sources
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.connection import connect, fetch_head, map_parallel
from mll_hf.hub.sources import Collection, TaggedModels, open_source
from mll_hf.labels import store as storing
from mll_hf.labels.file_format import label_to_bytes
from mll_hf.labels.join import join_labels
from mll_hf.labels.label import Label, ModelRef
from mll_hf.labels.store import LabelStore, graph_path
from worlds import SHA, make_label

__all__ = ["clock", "lose_the_hub", "no_download_is_counted"]  # fixtures

pytestmark = pytest.mark.usefixtures("clock", "no_download_is_counted")
LABELS = some_labels(4)
SHARD = f"index/{STEM}/00000.safetensors"


@pytest.fixture
def dataset(hub):
    """The dataset of the graph that labels in model repos name as the origin of the images; its commit."""
    return hub.put("dataset", "alice/graph", graph_file())


@pytest.fixture
def tagged(dataset):
    """Four models with labels in their own repos."""
    return [labeled(f"alice/model-{i}", dataset, hits=[i, 5, 0, 3, 2, 10, 10]) for i in range(4)]


def labeled(repo_id, dataset, **settings):
    return put_labeled_model(repo_id, graph_location=f"hf://datasets/alice/graph@{dataset}", **settings)


def assert_lists(source, labels):
    found = source.list()
    assert [summary.model for summary in found] == [label.model for label in labels]
    for summary, label in zip(found, labels, strict=True):
        assert_same_summary(summary, label)


def assert_same_label(ours, theirs):
    for field in fields(Label):
        left, right = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right, err_msg=field.name)
        else:
            assert left == right, field.name


def asked_for(hub):
    """Label files that were asked for; if they come, then from elsewhere."""
    return [
        request for request in hub.requests
        if "/resolve/" in request and request.endswith(".safetensors") and "/index/" not in request
    ]  # fmt: skip


def digests_of(source):
    return {graph.digest for graph in source.graphs}


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
        store.add_graph(GRAPH)
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
    assert {type(label) for label in source.list()} == {Label}  # a thousand whole labels would take 1.3 GB
    assert digests_of(source) == {GRAPH.digest}
    assert source.indexed == ()
    for listed in (source.list()[2], source.list()[0]):
        (label,) = source.fetch([listed])
        assert_same_label(label, next(label for label in labels if label.model == listed.model))
        assert source.embeddings_of(listed) is None
        assert source.origin_of(listed).location.endswith(".safetensors")
    backwards = labels[::-1]
    assert [label.model for label in source.fetch(backwards)] == [label.model for label in backwards]
    assert source.fetch([]) == ()


@pytest.mark.parametrize(
    "model", [ModelRef("alice/unknown", SHA, "open_clip"), ModelRef("alice/model-0", SHA, "open_clip")]
)
def test_a_label_that_is_not_there_is_an_error_of_ours(any_source, model):
    source, labels = any_source
    complaint_of(lambda: source.fetch([replace(labels[0], model=model)]), MLLError)


# ---- a collection


def test_a_warm_pinned_query_costs_no_request(hub):
    sha = put_collection(LABELS)
    for location in (f"{COLLECTION}@{sha}", COLLECTION):
        open_source(location).fetch(LABELS)
        open_source(location).list()
    hub.requests.clear()
    source = open_source(f"{COLLECTION}@{sha}")
    assert_lists(source, LABELS)
    source.fetch(LABELS)
    assert hub.requests == []


def test_a_warm_query_of_a_branch_asks_only_for_its_head(hub):
    put_collection(LABELS)
    open_source(COLLECTION).list()
    hub.requests.clear()
    assert_lists(open_source(COLLECTION), LABELS)
    assert hub.requests == [f"GET /api/datasets/{REPO}/revision/main"]


def asked_of_hub(hub):
    """Requests to the Hub itself, without those to where it keeps large files."""
    return [request for request in hub.requests if "/_cdn/" not in request]


def test_without_an_index_a_request_for_each_file_and_one_for_the_commit(hub, caplog):
    hub.put("dataset", REPO, {**graph_files(), **label_files(LABELS)})
    assert_lists(open_source(COLLECTION), LABELS)
    assert len(asked_of_hub(hub)) == 1 + 1 + len(LABELS)  # commit, graph, labels
    assert len(asked_for(hub)) == len(LABELS)
    assert caplog.text == ""


def test_whole_labels_cost_one_request_each_and_once(hub):
    put_collection(LABELS)
    source = open_source(COLLECTION)
    assert source.graphs
    hub.requests.clear()
    for label, ours in zip(source.fetch(LABELS), LABELS, strict=True):
        assert_same_label(label, ours)
    assert len(asked_of_hub(hub)) == 4
    open_source(COLLECTION).fetch(LABELS)
    assert len(asked_of_hub(hub)) == 4 + 1  # which commit main is now


def test_a_new_commit_that_leaves_a_label_alone_fetches_nothing_anew(hub):
    put_collection(LABELS)
    open_source(COLLECTION).fetch(LABELS)
    hub.put("dataset", REPO, {"notes.md": b"new"})
    hub.requests.clear()
    open_source(COLLECTION).fetch(LABELS)
    assert hub.requests == [f"GET /api/datasets/{REPO}/revision/main"]


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
    assert float(source.fetch(LABELS[:1])[0].temperature[0]) == 1
    assert newest not in source.origin_of(LABELS[0]).location


def test_the_origin_of_a_label_names_file_and_commit(hub):
    sha = put_collection(LABELS)
    origin = open_source(COLLECTION).origin_of(LABELS[0])
    assert origin.location == f"hf://datasets/{REPO}@{sha}/labels/org--model-00/{SHA}/{STEM}.safetensors"
    assert origin.publisher == "alice"


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
    assert "has no labels yet" in complaint_of(open_source(COLLECTION).list, InputError)
    assert "no such revision" in complaint_of(open_source(f"{COLLECTION}@v9").list)


def test_a_collection_of_no_labels_is_empty(hub):
    hub.put("dataset", REPO, graph_files())
    assert open_source(COLLECTION).list() == ()


BAD_GRAPHS = [b"", b"{}", b"[" * 10**5, b'{"nodes": []}', json.dumps(graph_to_json(OTHER_GRAPH)).encode()]


@pytest.mark.parametrize("content", BAD_GRAPHS)
def test_a_bad_graph_is_skipped_with_a_warning_and_its_labels_with_a_reason(hub, caplog, content):
    others = [make_label(OTHER_GRAPH, repo_id=f"org/model-{i:02}") for i in range(2)]
    hub.put("dataset", REPO, {**graph_files(OTHER_GRAPH), **label_files([*LABELS, *others])})
    hub.put("dataset", REPO, {graph_path(GRAPH.digest): content})
    source = open_source(COLLECTION)
    assert digests_of(source) == {OTHER_GRAPH.digest}
    assert "left out: alice/labels" in caplog.text
    joined = join_labels(source.list(), source.graphs)
    assert len(joined) == 2
    assert "the graph cannot be read" in joined.left_out[0].reason


def test_one_graph_that_cannot_be_downloaded_does_not_stop_the_listing(hub, caplog):
    others = [make_label(OTHER_GRAPH, repo_id=f"org/model-{i:02}") for i in range(2)]
    hub.put("dataset", REPO, {**graph_files(GRAPH, OTHER_GRAPH), **label_files([*LABELS, *others])})
    hub.fail(graph_path(GRAPH.digest), 403, times=9)
    source = open_source(COLLECTION)
    assert digests_of(source) == {OTHER_GRAPH.digest}
    assert "left out: alice/labels: your token may not do this" in caplog.text
    assert len(source.list()) == len(LABELS) + 2
    hub.fail("/graphs/", 403, times=9)
    Path(constants.HF_ASSETS_CACHE, "mll_hf", "files").rename(Path(constants.HF_ASSETS_CACHE, "gone"))
    with pytest.raises(HubError, match="your token may not do this"):
        list(open_source(COLLECTION).graphs)


def test_a_missing_graph_can_be_given(hub, tmp_path):
    hub.put("dataset", REPO, label_files(LABELS))
    assert open_source(COLLECTION).graphs == ()
    save_graph(GRAPH, tmp_path)
    source = open_source(COLLECTION, graph=tmp_path)
    assert digests_of(source) == {GRAPH.digest}
    assert_lists(source, LABELS)


def test_a_collection_has_labels_on_several_graphs(hub):
    others = [make_label(OTHER_GRAPH, repo_id=f"org/model-{i:02}") for i in range(2)]
    hub.put("dataset", REPO, {**graph_files(GRAPH, OTHER_GRAPH), **label_files([*LABELS, *others])})
    source = open_source(COLLECTION)
    assert digests_of(source) == {GRAPH.digest, OTHER_GRAPH.digest}
    assert {(label.model, label.graph_digest) for label in source.list()} == {
        (label.model, label.graph_digest) for label in [*LABELS, *others]
    }
    assert_same_label(source.fetch([others[1]])[0], others[1])
    assert source.origin_of(others[0]).location.endswith(f"/labels/org--model-00/{SHA}/{OTHER_STEM}.safetensors")
    joined = join_labels(source.list(), source.graphs, reference=GRAPH.digest)
    assert [row[1] is not None for row in joined.labels] == [True, True, False, False]


# ---- an index


def renamed(label, repo_id):
    return replace(label, model=replace(label.model, repo_id=repo_id))


NEWER = [replace(label, temperature=np.array([2], np.float32)) for label in LABELS]


@pytest.fixture
def few_are_many(monkeypatch):
    """An index is used even for few labels."""
    monkeypatch.setattr(storing, "MANY_LABELS", 1)


def assert_indexed(source, labels):
    """The index of a source says of these labels, and of no others, what they say themselves."""
    found = {label.model: label for label in source.indexed}
    assert found.keys() == {label.model for label in labels}
    for label in labels:
        known = found[label.model]
        assert known.mean_recall == pytest.approx(label.mean_recall)
        assert (known.license, known.cost, known.key) == (label.license, label.cost, label.key)
        codes = np.concatenate([shard.rows([2]) for shard in known.index.shards], axis=1)[:, known.position]
        known.index.check(known.position, label, np.array([2]), codes)


def test_few_labels_are_read_without_the_index(hub):
    put_collection(LABELS)
    assert open_source(COLLECTION).indexed == ()
    assert not [request for request in hub.requests if "/index/" in request]


@pytest.mark.usefixtures("few_are_many")
def test_a_collection_is_read_from_its_index(hub):
    labels = some_labels(50)
    put_collection(labels)
    source = open_source(COLLECTION)
    assert_indexed(source, labels)
    assert asked_for(hub) == []
    assert len(asked_of_hub(hub)) == 3  # commit, graph, shard
    assert len(contents(hub)) == 1
    hub.requests.clear()
    assert_indexed(open_source(COLLECTION), labels)
    assert hub.requests == [f"GET /api/datasets/{REPO}/revision/main"]
    assert_same_label(source.fetch(source.indexed[7:8])[0], labels[7])
    assert source.origin_of(source.indexed[7]).location.endswith(path_of(labels[7]))


def test_a_thousand_labels_of_a_collection_take_three_requests(hub, xet):
    labels = [make_label(GRAPH, [n % 11, 5, 0, 3, 2, 10, 10], repo_id=f"org/model-{n:04}") for n in range(1000)]
    put_collection(labels)
    hub.limit(api=1, resolvers=2)
    assert len(open_source(COLLECTION).indexed) == 1000
    assert [request.partition("@")[0].split("/")[1] for request in asked_of_hub(hub)] == ["api", "datasets", "datasets"]
    assert len(contents(hub)) == 1  # of the shard, from where the Hub keeps large files


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("gap", [0, 2**17])
def test_of_a_large_index_only_the_rows_of_some_concepts_are_read(hub, monkeypatch, gap):
    labels = some_labels(11)
    put_collection(labels)
    monkeypatch.setattr(sources, "MAX_WHOLE_BYTES", 0)
    monkeypatch.setattr(hub_index, "_GAP", gap)
    source = open_source(COLLECTION)
    assert_indexed(source, labels)
    (shard,) = source.indexed[0].index.shards
    hub.requests.clear()
    codes = shard.rows([5, 0, 1])
    ranges = [request.headers["Range"] for request in hub.requests if "/resolve/" in request]
    assert len(ranges) == (1 if gap else 2)  # rows 0 and 1 are neighbors
    assert (sum(int(last) - int(first) + 1 for first, last in (r[6:].split("-") for r in ranges)) == 3 * 4 * 11) == (
        not gap
    )
    cdn = [request for request in hub.requests if "/_cdn/" in request]
    assert cdn
    assert not any(request.headers.get("Authorization") for request in cdn)
    hub.reset()
    put_collection(labels)
    monkeypatch.setattr(sources, "MAX_WHOLE_BYTES", 10**9)
    (whole,) = open_source(COLLECTION).indexed[0].index.shards
    np.testing.assert_array_equal(codes, whole.rows([5, 0, 1]))


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize(
    "how", [{"alter": lambda body: body + b"x"}, {"alter": lambda body: body[:-1]}, {"status": 200}]
)
def test_an_answer_of_another_length_than_the_range_is_refused(hub, monkeypatch, how):
    put_collection(LABELS)
    monkeypatch.setattr(sources, "MAX_WHOLE_BYTES", 0)
    source = open_source(COLLECTION)
    (shard,) = source.indexed[0].index.shards
    hub.fail("/_cdn/", times=9, **how)
    assert "cannot be read in parts" in complaint_of(lambda: shard.rows([0]))


def stale_shard(labels):
    return index_file(labels)[SHARD]


OTHER_LABELS = [make_label(OTHER_GRAPH, repo_id=f"org/model-{i:02}") for i in range(4)]
HASHES = [sha256_of(label_to_bytes(label)) for label in LABELS]
STALE = {
    "lacks a label": stale_shard(LABELS[:3]),
    "lacks all labels but one": stale_shard(LABELS[3:]),
    "has a label that is gone": stale_shard([*LABELS, renamed(LABELS[0], "org/gone")]),
    "has only labels that are gone": stale_shard([renamed(LABELS[0], "org/gone")]),
    "has older labels": stale_shard(NEWER),
    "has an older label": stale_shard([NEWER[0], *LABELS[1:]]),
    "has wrong hashes": index_file(LABELS, digests=["0" * 64] * 4)[SHARD],
    "has swapped hashes": index_file(LABELS, digests=HASHES[::-1])[SHARD],
    "has other revisions": stale_shard([replace(x, model=replace(x.model, revision="f" * 40)) for x in LABELS]),
}
DAMAGED = {
    "is of another graph": next(iter(index_file(OTHER_LABELS, OTHER_GRAPH).values())),
    "is empty": b"",
    "is no index": b"bad",
    "is cut short": stale_shard(LABELS)[:-1],
    "is a label": label_to_bytes(LABELS[0]),
    "has a huge header": struct.pack("<Q", 10**15) + b"{}",
    "is nested too deeply": struct.pack("<Q", 10**5) + b"[" * 10**5,
}


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("what", STALE)
def test_labels_count_and_not_an_index_that_is_not_up_to_date(hub, what):
    put_collection(LABELS)
    hub.put("dataset", REPO, {SHARD: STALE[what]})
    source = open_source(COLLECTION)
    assert_indexed(source, LABELS)
    assert_lists(source, LABELS)


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_index_is_not_used_with_a_warning(hub, caplog, what):
    put_collection(LABELS)
    hub.put("dataset", REPO, {SHARD: DAMAGED[what]})
    source = open_source(COLLECTION)
    assert source.indexed == ()
    assert "update it: mll-hf labels index --labels hf://datasets/alice/labels" in caplog.text
    assert_lists(source, LABELS)


@pytest.mark.usefixtures("few_are_many")
def test_only_labels_that_the_index_lacks_are_fetched(hub):
    put_collection(LABELS, index=LABELS[:3])
    assert_indexed(open_source(COLLECTION), LABELS)
    assert len(asked_for(hub)) == 1


@pytest.mark.usefixtures("few_are_many")
def test_an_index_whose_content_was_exchanged_is_not_believed(hub, caplog):
    put_collection(LABELS)
    hub.fail(f"/_cdn/{sha256_of(stale_shard(LABELS))}", alter=lambda _: stale_shard(NEWER), method="GET")
    assert open_source(COLLECTION).indexed == ()
    assert "does not have the hash that the Hub lists" in caplog.text


@pytest.mark.usefixtures("few_are_many")
def test_labels_that_git_keeps_are_indexed_like_others(hub, monkeypatch):
    monkeypatch.setattr(tiny_hub, "LFS_SUFFIXES", ())
    put_collection(LABELS)
    oids = [
        file.oid for path, file in fetch_head(connect(), REPO, "dataset").files.items() if path.startswith("labels")
    ]
    hub.put("dataset", REPO, index_file(LABELS, digests=oids))
    assert_indexed(open_source(COLLECTION), LABELS)
    assert asked_for(hub) == []


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
    "a label of another revision": label_to_bytes(
        replace(LABELS[0], model=replace(LABELS[0].model, revision="a" * 40))
    ),
    "a label of a folder": label_to_bytes(renamed(LABELS[0], "local-dir:/models/model-00")),
    "a label of another graph": label_to_bytes(make_label(OTHER_GRAPH, repo_id="org/model-00")),
    "an index": stale_shard(LABELS),
    "too much": bytes(17 * 2**20),
}


@pytest.mark.parametrize("what", BAD_LABELS)
def test_a_bad_label_is_left_out_and_said(hub, caplog, what):
    hub.put("dataset", REPO, {**graph_files(), **label_files(LABELS), path_of(LABELS[0]): BAD_LABELS[what]})
    source = open_source(COLLECTION)
    assert_lists(source, LABELS[1:])
    (record,) = caplog.records
    assert record.getMessage().startswith("left out: alice/labels")
    assert "\n" not in record.getMessage()
    complaint_of(lambda: source.fetch(LABELS[:1]), MLLError)


def test_a_label_of_a_folder_is_left_out_even_under_its_own_name(hub):
    local = renamed(LABELS[0], "local-dir:/models/model-00")
    hub.put("dataset", REPO, {**graph_files(), **label_files([local, *LABELS[1:]])})
    assert_lists(open_source(COLLECTION), LABELS[1:])


def test_a_label_that_claims_to_be_too_large_is_not_fetched(hub, caplog):
    hub.put("dataset", REPO, {**graph_files(), **label_files(LABELS)})
    hub.fail("/api/datasets/", alter=with_size(path_of(LABELS[0]), 2**40))
    assert_lists(open_source(COLLECTION), LABELS[1:])
    assert not [request for request in asked_for(hub) if "model-00" in request]
    assert "is larger than 16 MB and was not downloaded" in caplog.text


@pytest.mark.parametrize("size", [0, 1, 10**9])
def test_the_size_that_the_hub_claims_does_not_matter_if_the_content_is_right(hub, size):
    hub.put("dataset", REPO, {**graph_files(), **label_files(LABELS)})
    hub.fail("/api/datasets/", alter=with_size(path_of(LABELS[0]), size))
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
    hub.put("dataset", REPO, {**graph_files(), **label_files(LABELS)})
    oid = sha256_of(label_to_bytes(LABELS[0]))
    hub.fail(f"/_cdn/{oid}", method="GET", times=99, **how)
    assert_lists(open_source(COLLECTION), LABELS[1:])
    hub.disturbances.clear()
    assert_lists(open_source(COLLECTION), LABELS)


@pytest.mark.parametrize(
    "name",
    [
        f"labels/../{SHA}/{STEM}.safetensors",
        f"labels/..\\..\\x/{SHA}/{STEM}.safetensors",
        f"labels/a\0b/{SHA}/{STEM}.safetensors",
        f"labels/a\nb/{SHA}/{STEM}.safetensors",
        f"labels/{'x' * 5000}/{SHA}/{STEM}.safetensors",
        f"labels/ /{SHA}/{STEM}.safetensors",
        f"labels/\ud800/{SHA}/{STEM}.safetensors",
        f"labels/C:/{SHA}/{STEM}.safetensors",
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
    names = [f"labels/x/{SHA}", f"labels/x/{SHA}/{STEM}.safetensors.bak", f"labels/x/main/{STEM}.safetensors", "a.json"]
    names += [f"labels/x/y/{SHA}/{STEM}.safetensors", f"x/labels/y/{SHA}/{STEM}.safetensors", f"labels/x/{SHA}/a.bin"]
    hub.put("dataset", REPO, dict.fromkeys(names, b"bad"))
    assert_lists(open_source(COLLECTION), LABELS)
    assert len(asked_for(hub)) == 4


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_label_that_the_hub_refuses_is_left_out(hub, caplog, status):
    hub.put("dataset", REPO, {**graph_files(), **label_files(LABELS)})
    hub.fail("org--model-00", status, times=99)
    assert_lists(open_source(COLLECTION), LABELS[1:])
    assert "left out" in caplog.text


@pytest.mark.parametrize("how", [{"status": 500}, {"status": 503}, {"drop": "before"}, {"drop": "after"}])
def test_a_label_that_the_hub_stumbles_over_is_asked_for_again(hub, how):
    hub.put("dataset", REPO, {**graph_files(), **label_files(LABELS)})
    hub.fail("org--model-00", times=2, **how)
    assert_lists(open_source(COLLECTION), LABELS)


def test_the_first_error_of_many_is_raised():
    def refuse(item):
        if item > 3:
            raise LabelError(f"number {item}")
        return item

    assert map_parallel(refuse, [3, 1, 2], "x") == [3, 1, 2]
    with pytest.raises(LabelError, match="number 5"):
        map_parallel(refuse, [1, 5, 2, 7], "x")


# ---- all tagged models


def pages(count):
    return -(-count // tiny_hub.PAGE_SIZE) or 1


def test_tagged_models_are_found_and_read(hub, tagged):
    source = open_source("hub")
    assert_lists(source, tagged)
    for label, ours in zip(source.fetch(tagged), tagged, strict=True):
        assert_same_label(label, ours)
    sha = hub.repos["model", "alice/model-0"].refs["main"]
    origin = source.origin_of(tagged[0])
    assert origin.location == f"hf://alice/model-0@{sha}/{LABEL_PATH}"
    assert origin.publisher == "alice"


def test_fifty_models_cost_the_listing_and_one_request_each(hub, dataset):
    labels = [labeled(f"alice/model-{i:02}", dataset) for i in range(50)]
    source = open_source("hub")
    assert_lists(source, labels)
    source.fetch(labels)
    assert len(asked_of_hub(hub)) == pages(50) + 50
    before = len(hub.requests)
    assert digests_of(source) == {GRAPH.digest}
    assert len(hub.requests) - before == 1


def test_labels_of_the_whole_hub_are_read_within_its_rate_limit(hub, dataset, xet, clock, caplog):
    """Quotas in proportion as for anonymous users, who have 500 requests to the API and 3,000 to resolvers."""
    labels = [labeled(f"alice/model-{i:02}", dataset) for i in range(50)]
    hub.limit(api=pages(50), resolvers=30)
    source = open_source("hub")
    assert_lists(source, labels)
    assert digests_of(source) == {GRAPH.digest}
    resolved = {request for request in hub.requests if "/resolve/" in request}
    assert len([request for request in hub.requests if "/api/" in request]) == pages(50)
    assert len(resolved) == 50 + 1
    assert clock.waits
    assert all(200 < wait <= 300 for wait in clock.waits)  # the rest of the window, however slow this machine is
    assert "the Hub's rate limit is reached" in caplog.text
    hub.limit(api=0, resolvers=0)
    clock.waits.clear()
    assert_lists(open_source("hub"), labels)
    assert clock.waits == []


def test_a_warm_query_costs_only_the_listing(hub, tagged):
    assert open_source("hub").graphs
    hub.requests.clear()
    source = open_source("hub")
    assert_lists(source, tagged)
    assert digests_of(source) == {GRAPH.digest}
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
    }
    for repo_id, content in wrong.items():
        hub.put("model", repo_id, {LABEL_PATH: content})
    hub.put("model", "alice/model-4", {**hub.files("model", "alice/model-3")})
    assert_lists(open_source("hub"), tagged[2:])
    assert "alice/model-0/mll/label.safetensors: " in caplog.text
    assert "is a label of another model (alice/model-2)" in caplog.text
    assert "is a label of another model (alice/model-3)" in caplog.text


def test_a_model_has_labels_on_several_graphs(hub, tagged):
    other_dataset = hub.put("dataset", "alice/other-graph", graph_file(OTHER_GRAPH))
    revision = tagged[1].model.revision
    place = f"hf://datasets/alice/other-graph@{other_dataset}"
    other = make_label(OTHER_GRAPH, repo_id="alice/model-1", revision=revision, graph_location=place)
    path = f"mll/{OTHER_GRAPH.digest[:12]}/label.safetensors"
    sha = hub.put("model", "alice/model-1", {path: label_to_bytes(other), "mll/notes/label.safetensors": b"x"})
    source = open_source("hub")
    assert {(label.model, label.graph_digest) for label in source.list()} == {
        (label.model, label.graph_digest) for label in [*tagged, other]
    }
    assert digests_of(source) == {GRAPH.digest, OTHER_GRAPH.digest}
    assert_same_label(source.fetch([other])[0], other)
    assert source.origin_of(other).location == f"hf://alice/model-1@{sha}/{path}"
    joined = join_labels(source.list(), source.graphs, reference=GRAPH.digest)
    assert [row[1] is not None for row in joined.labels] == [False, True, False, False]


def test_a_graph_can_be_taken_from_the_hub_or_a_folder(hub, tagged, dataset, tmp_path, caplog):
    other = put_labeled_model("alice/z-other", OTHER_GRAPH)
    source = open_source("hub")
    assert digests_of(source) == {GRAPH.digest}
    assert f"graph 'other' ({OTHER_GRAPH.digest[:12]}) is only on the machine of its publisher" in caplog.text
    assert_lists(source, [*tagged, other])
    joined = join_labels(source.list(), source.graphs)
    assert joined.left_out[0].models == ("alice/z-other",)
    save_graph(OTHER_GRAPH, tmp_path)
    assert digests_of(open_source("hub", graph=tmp_path)) == {GRAPH.digest, OTHER_GRAPH.digest}
    hub.put("dataset", "alice/graph", graph_file(OTHER_GRAPH))
    assert digests_of(open_source("hub", graph="hf://datasets/alice/graph")) == {GRAPH.digest, OTHER_GRAPH.digest}


def test_a_graph_that_is_not_where_the_labels_say_is_a_warning(hub, tagged, caplog):
    hub.repos.pop(("dataset", "alice/graph"))
    source = open_source("hub")
    assert_lists(source, tagged)
    assert source.graphs == ()
    assert "give it with --graph" in caplog.text
    hub.put("dataset", "alice/graph", graph_file(OTHER_GRAPH))
    assert open_source("hub").graphs == ()


def test_a_hub_without_labels(hub):
    source = open_source("hub")
    assert (source.list(), source.graphs) == ((), ())
    hub.put("model", "alice/model", {"README.md": b"---\ntags: [mll-label]\n---\n", LABEL_PATH: b"bad"})
    assert open_source("hub").list() == ()


HOSTILE_ITEMS = {
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
    return digests_of(source), source.list(), source.fetch(source.list())


@pytest.mark.parametrize("location", ["hub", COLLECTION])
def test_after_one_query_everything_works_without_the_hub(tagged, lose_the_hub, location):
    put_collection(tagged)
    digests, summaries, labels = read_all(location)
    lose_the_hub()
    again = read_all(location)
    assert again[0] == digests
    assert again[1] == summaries
    for ours, theirs in zip(again[2], labels, strict=True):
        assert_same_label(ours, theirs)


@pytest.mark.usefixtures("few_are_many")
def test_an_index_works_without_the_hub(tagged, lose_the_hub):
    put_collection(tagged, index=tagged)
    assert len(open_source(COLLECTION).indexed) == 4
    lose_the_hub()
    assert len(open_source(COLLECTION).indexed) == 4


@pytest.mark.parametrize("location", ["hub", COLLECTION])
def test_without_the_hub_and_a_query_before_the_error_says_so(tagged, lose_the_hub, location):
    put_collection(tagged)
    lose_the_hub()
    complaint_of(open_source(location).list)


def test_without_the_hub_a_label_that_was_never_fetched_is_an_error(tagged, lose_the_hub):
    put_collection(tagged)
    assert open_source(COLLECTION).graphs
    lose_the_hub()
    complaint_of(lambda: open_source(COLLECTION).fetch(tagged[:1]))


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
