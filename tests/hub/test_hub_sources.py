"""Labels are read from the Hub within limits, and what fails leaves itself out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from test_hub_connection import lose_the_hub

from hub_worlds import (
    COLLECTION,
    GRAPH,
    OTHER_GRAPH,
    READER,
    REPO,
    clock,
    complaint_of,
    graph_file,
    graph_files,
    label_files,
    no_download_is_counted,
    path_of,
    put_collection,
    put_labeled_model,
    some_labels,
)
from mll_hf.errors import HubError, InputError
from mll_hf.graph.concepts import graph_to_bytes
from mll_hf.hub import sources
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.sources import join_source, open_labels
from mll_hf.labels.file_format import MAX_LABEL_BYTES, label_to_bytes, tensors_to_bytes
from mll_hf.labels.store import LabelStore, rivals_path
from worlds import make_label, make_rivals

__all__ = ["clock", "lose_the_hub", "no_download_is_counted"]  # fixtures

pytestmark = pytest.mark.usefixtures("clock", "no_download_is_counted")
LABELS = some_labels(4)


@pytest.fixture
def dataset(hub, monkeypatch):
    """The dataset of the graph that labels in model repos name; its commit. The user has named alice."""
    monkeypatch.setenv("MLL_TRUST", "alice")
    return hub.put("dataset", "alice/graph", graph_file())


@pytest.fixture
def tagged(dataset):
    """Four models with labels in their own repos."""
    return [labeled(f"alice/model-{i}", dataset, hits=[i, 5, 0, 3, 2, 10, 10]) for i in range(4)]


def labeled(repo_id, dataset, **settings):
    return put_labeled_model(repo_id, graph_location=f"hf://datasets/alice/graph@{dataset}", **settings)


def assert_lists(source, labels):
    assert list(source.labels()) == list(labels)


def resolved(hub):
    """Paths of files that were asked for, once each."""
    return {request.split(" ")[1] for request in hub.requests if "/resolve/" in request}


def digests_of(source):
    return {graph.digest for graph in source.graphs}


# ---- a collection


def test_sources_are_named_as_users_write_them(hub, tmp_path):
    put_collection(LABELS)
    assert open_labels(COLLECTION).name == COLLECTION
    assert open_labels("hub").name == "hub"
    assert isinstance(open_labels(tmp_path), LabelStore)
    for malformed in (
        "hf://",
        "hf://alice/labels",
        "hf://datasets/labels",
        "hf://datasets/a/b/c",
        "hf://datasets/a/b@",
    ):
        assert "is not of the form" in complaint_of(lambda m=malformed: open_labels(m), InputError)


def test_several_sources_are_one(hub, tmp_path, caplog):
    put_collection(LABELS[:2])
    put_labeled_model("bob/model")
    put_labeled_model("mallory/model")
    store = LabelStore(tmp_path)
    store.add_graph(GRAPH)
    mine = make_label(GRAPH, repo_id="local-dir:/mine")
    store.write(mine, make_rivals(mine))
    source = open_labels(f"hub, {COLLECTION},{tmp_path},hf://datasets/alice/gone", trust=["bob"])
    origins = {label.model.repo_id: source.origin_of(label) for label in source.labels()}
    assert {name: origin.publisher for name, origin in origins.items()} == {
        **{label.model.repo_id: "alice" for label in LABELS[:2]},
        "bob/model": "bob",
        "mallory/model": "mallory",
        "local-dir:/mine": None,
    }
    assert [name for name, origin in origins.items() if not origin.is_named] == ["mallory/model"]
    assert "left out: alice/gone: is not on the Hub" in caplog.text
    assert source.name == f"hub,{COLLECTION},{tmp_path}"
    assert [source.rivals_of(label) is not None for label in source.labels() if label.model.is_local] == [True]
    assert len(join_source(source)) == 4
    with pytest.raises(HubError, match="alice/gone"):
        open_labels("hf://datasets/alice/gone,hf://datasets/alice/gone")


def test_a_collection_is_read_at_one_commit(hub):
    old = put_collection(LABELS[:2])
    put_collection(LABELS)
    assert_lists(open_labels(f"{COLLECTION}@{old}"), LABELS[:2])
    source = open_labels(COLLECTION)
    newest = hub.repos["dataset", REPO].refs["main"]
    put_collection([*LABELS, make_label(GRAPH, repo_id="org/new")])
    assert_lists(source, LABELS)
    origin = source.origin_of(source.labels()[0])
    assert (origin.location, origin.publisher) == (f"{COLLECTION}@{newest}/{path_of(LABELS[0])}", "alice")


def test_requests_of_a_collection(hub):
    sha = put_collection(LABELS)
    open_labels(COLLECTION)
    assert len(resolved(hub)) == 1 + len(LABELS)  # the graph and the labels
    hub.requests.clear()
    open_labels(COLLECTION)
    assert hub.requests == [f"GET /api/datasets/{REPO}/revision/main"]
    hub.requests.clear()
    open_labels(f"{COLLECTION}@{sha}")
    assert hub.requests == []


def test_private_and_gated_collections(hub):
    put_collection(LABELS)
    hub.repos["dataset", REPO].gated = "auto"
    page = f"{constants.ENDPOINT}/datasets/{REPO}"
    assert f"is gated; accept its terms at {page} and" in complaint_of(lambda: open_labels(COLLECTION, token=READER))
    hub.repos["dataset", REPO].private = True
    assert_lists(open_labels(COLLECTION), LABELS)
    assert "is not on the Hub, or private" in complaint_of(lambda: open_labels(COLLECTION, token=READER))


def test_what_is_no_collection_is_an_error(hub):
    hub.put("dataset", "alice/empty", {"README.md": b"# Empty\n"})
    said = complaint_of(lambda: open_labels("hf://datasets/alice/empty"), InputError)
    assert said.startswith("hf://datasets/alice/empty has no labels yet; publish some")
    assert "is not on the Hub" in complaint_of(lambda: open_labels("hf://datasets/alice/nothing"))


def test_labels_on_several_graphs_and_a_graph_from_elsewhere(hub, tmp_path, caplog):
    other = make_label(OTHER_GRAPH, repo_id="org/other")
    hub.put("dataset", REPO, {**graph_files(), **label_files([LABELS[0], other])})
    source = open_labels(COLLECTION)
    assert digests_of(source) == {GRAPH.digest}
    (left_out,) = join_source(source).left_out
    assert left_out.startswith("org/other on graph other: ")
    (tmp_path / "graph.json").write_bytes(graph_to_bytes(OTHER_GRAPH))
    assert digests_of(open_labels(COLLECTION, graph=tmp_path)) == {GRAPH.digest, OTHER_GRAPH.digest}


@pytest.mark.parametrize(
    ("what", "content"),
    [
        ("too large", bytes(MAX_LABEL_BYTES + 1)),
        ("no label", b"no label"),
        ("of another model", label_to_bytes(LABELS[3])),
        ("of a local folder", label_to_bytes(make_label(GRAPH, repo_id="local-dir:/home/x/model"))),
    ],
)
def test_a_bad_label_leaves_only_itself_out(hub, caplog, what, content):
    put_collection(LABELS[:3])
    hub.put("dataset", REPO, {path_of(LABELS[0]): content, "labels/x/y/z.safetensors": b"x", "labels/../a": b"x"})
    hub.requests.clear()
    assert_lists(open_labels(COLLECTION), LABELS[1:3])
    assert "left out: " in caplog.text
    assert (what == "too large") != any(path_of(LABELS[0]) in path for path in resolved(hub))


def test_a_collection_beyond_the_limits(hub, caplog, monkeypatch):
    put_collection(LABELS)
    monkeypatch.setattr(sources, "_MAX_LABELS", 3)
    assert_lists(open_labels(COLLECTION), LABELS[:3])
    assert f"left out: {path_of(LABELS[3])} in {REPO} (over 4 MB or more than 3)" in caplog.text
    hub.put("dataset", "alice/large", {path_of(LABELS[0]): bytes(MAX_LABEL_BYTES + 1)})
    said = complaint_of(lambda: open_labels("hf://datasets/alice/large"), InputError)
    assert "has no labels within the limits" in said


def test_rivals_are_fetched_only_when_asked_for(hub):
    rivals, beside = make_rivals(LABELS[0]), rivals_path(Path(path_of(LABELS[0]))).as_posix()
    put_collection(LABELS)
    hub.put("dataset", REPO, {beside: tensors_to_bytes(rivals)})
    source = open_labels(COLLECTION)
    assert not any("rivals" in path for path in resolved(hub))
    assert source.rivals_of(source.labels()[0]) == rivals
    assert source.rivals_of(source.labels()[1]) is None
    hub.put("dataset", REPO, {beside: bytes(9 * 2**20)})
    source = open_labels(COLLECTION)
    assert "is larger than 8 MB" in complaint_of(lambda: source.rivals_of(source.labels()[0]))


# ---- labels in models' own repos


def test_tagged_models_are_found_and_read(hub, tagged, dataset):
    hub.put("model", "alice/tag-only", {"README.md": b"---\ntags: [mll-label]\n---\n"})
    hub.put("model", "alice/file-only", {LABEL_PATH: b"x"})
    hub.requests.clear()
    source = open_labels("hub")
    assert sorted(source.labels(), key=lambda label: label.model.repo_id) == tagged
    assert digests_of(source) == {GRAPH.digest}
    label = next(label for label in source.labels() if label.model.repo_id == "alice/model-0")
    sha = hub.repos["model", "alice/model-0"].refs["main"]
    assert source.origin_of(label).location == f"hf://alice/model-0@{sha}/{LABEL_PATH}"
    assert source.origin_of(label).publisher == "alice"
    assert len([path for path in resolved(hub) if "label" in path]) == 4
    listings = [request for request in hub.requests if request == "GET /api/models"]
    assert len(listings) == 2  # pages of three models
    hub.requests.clear()
    open_labels("hub")
    assert resolved(hub) == set()


def test_rivals_in_a_models_own_repo(hub, tagged, caplog):
    rivals = make_rivals(tagged[0])
    hub.put("model", "alice/model-0", {"mll/label.rivals.safetensors": tensors_to_bytes(rivals)})
    hub.put("model", "alice/model-1", {"mll/label.rivals.safetensors": b"damaged"})
    source = open_labels("hub")
    joined = join_source(source).read_rivals(source.rivals_of)  # others leave only themselves out
    assert [(model.repo_id, found) for model, (found,) in zip(joined.models, joined.rivals, strict=True)] == [
        ("alice/model-0", rivals)
    ]
    assert "model-2: its rivals are not published, model-3: its rivals are not published" in caplog.text
    with pytest.raises(InputError, match="strategy 'paper' needs the rivals of the labels"):
        join_source(source).read_rivals(lambda _: None)


def test_private_and_gated_models(hub, tagged, caplog):
    hub.repos["model", "alice/model-0"].private = True
    hub.repos["model", "alice/model-1"].gated = "auto"
    found = {label.model.repo_id for label in open_labels("hub", token=READER).labels()}
    assert found == {"alice/model-2", "alice/model-3"}
    assert "left out: alice/model-1: is gated; accept its terms" in caplog.text
    assert len(open_labels("hub").labels()) == 4


def test_bad_labels_of_models_leave_only_themselves_out(hub, tagged, caplog):
    hub.put("model", "alice/model-0", {LABEL_PATH: b"bad"})
    hub.put("model", "alice/model-1", {LABEL_PATH: label_to_bytes(tagged[2])})
    junk = {f"mll/{i:012x}/label.safetensors": b"x" for i in range(100)}
    hub.put("model", "alice/model-3", junk)
    hub.requests.clear()
    assert {label.model.repo_id for label in open_labels("hub").labels()} == {"alice/model-2", "alice/model-3"}
    assert "is a label of another model (alice/model-2)" in caplog.text
    assert len(resolved(hub)) < 30


def test_a_label_outlives_the_name_of_its_repo(hub, dataset):
    label = labeled("alice/before", dataset)
    head = hub.repos["model", "alice/before"]
    from mll_hf.hub.connection import connect, read_head

    digest = read_head(connect(), "alice/before", "model").digest("open_clip")
    label = replace(label, model=replace(label.model, digest=digest))
    hub.put("model", "alice/before", {LABEL_PATH: label_to_bytes(label)})
    hub.rename("model", "alice/before", "alice/after")
    assert head.id == "alice/after"
    assert_lists(open_labels("hub"), [label])
    hub.put("model", "alice/after", {"open_clip_model.safetensors": b"others"})
    assert_lists(open_labels("hub"), [])


def test_the_graph_of_labels_must_be_theirs(hub, tagged, tmp_path, caplog):
    put_labeled_model("alice/z-other", OTHER_GRAPH)
    source = open_labels("hub")
    assert digests_of(source) == {GRAPH.digest}
    assert f"graph 'other' ({OTHER_GRAPH.digest[:12]}) is only on the machine of its publisher" in caplog.text
    hub.repos.pop(("dataset", "alice/graph"))
    hub.put("dataset", "alice/graph", graph_file(OTHER_GRAPH))
    assert digests_of(open_labels("hub")) == {GRAPH.digest}  # the named commit is cached
    (tmp_path / "graph.json").write_bytes(graph_to_bytes(OTHER_GRAPH))
    assert digests_of(open_labels("hub", graph=tmp_path)) >= {OTHER_GRAPH.digest}


def test_a_listing_that_makes_no_sense_is_an_error_of_ours(hub, tagged):
    for body in (b"", b"<html>", b'{"error": 1}', b"[3]", b"[" * 10**5):
        hub.fail("/api/models", times=99, alter=lambda _, body=body: body)
        complaint_of(lambda: open_labels("hub"))
        hub.disturbances.clear()


# ---- without the Hub


@pytest.mark.parametrize("location", [COLLECTION, "hub"])
def test_after_one_query_everything_works_without_the_hub(tagged, lose_the_hub, location):
    put_collection(tagged)
    before = open_labels(location)
    lose_the_hub()
    after = open_labels(location)
    assert (after.labels(), digests_of(after)) == (before.labels(), digests_of(before))


def test_nobody_is_shown_the_listing_of_another_user(hub, tagged):
    hub.repos["model", "alice/model-0"].private = True
    open_labels("hub")
    hub.down = True
    assert len(open_labels("hub").labels()) == 4
    with pytest.raises(HubError):
        open_labels("hub", token=READER)
