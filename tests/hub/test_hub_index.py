from __future__ import annotations

import json
import random
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from hub_worlds import (
    COLLECTION,
    GRAPH,
    OTHER_GRAPH,
    REPO,
    assert_same_summary,
    clock,
    entries_of,
    put_collection,
    some_labels,
)  # fmt: skip
from mll_hf.errors import LabelError
from mll_hf.graph.concepts import graph_to_json
from mll_hf.hub.index import INDEX_FILE, IndexEntry, index_from_bytes, index_to_bytes
from mll_hf.hub.publish import build_index
from mll_hf.labels.label import Cost, read_metadata
from worlds import SHA, examples, make_label

__all__ = ["clock"]  # a fixture

LABELS = some_labels(5)
ENTRIES = entries_of(LABELS)
BLOB = index_to_bytes(GRAPH, ENTRIES)


def complaint_of(blob):
    with pytest.raises(LabelError) as caught:
        index_from_bytes(blob)
    message = str(caught.value)
    assert message.startswith("is no valid index (")
    assert message.endswith(")")
    assert "\n" not in message
    return message


def rebuilt(change_metadata=None, **tensors):
    """The index with other metadata or tensors; None drops a tensor."""
    metadata = read_metadata(BLOB)
    if change_metadata:
        metadata = change_metadata(metadata) or metadata
    arrays = {name: array for name, array in {**load(BLOB), **tensors}.items() if array is not None}
    return save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata={"mll": json.dumps(metadata)}
    )


# ---- there and back


def test_an_index_gives_back_what_selection_needs_of_each_label():
    graph, entries = index_from_bytes(BLOB)
    assert graph.digest == GRAPH.digest
    assert graph.name == GRAPH.name
    assert [entry.summary.model.repo_id for entry in entries] == [label.model.repo_id for label in LABELS]
    for entry, ours, label in zip(entries, ENTRIES, LABELS, strict=True):
        assert entry.oid == ours.oid
        assert_same_summary(entry.summary, label)
        np.testing.assert_array_equal(entry.summary.node_precision, label.node_precision)
        assert entry.summary.mean_precision == label.mean_precision


@examples
@given(
    counts=st.lists(st.integers(0, 65535), min_size=7, max_size=7),
    domains=st.lists(st.sampled_from(["photo", "icon", "sketch"]), min_size=1, max_size=3, unique=True),
    temperature=st.floats(2**-10, 2**10, width=32),
)
def test_counts_and_domains_of_any_size_survive(counts, domains, temperature):
    label = make_label(GRAPH, support=counts, domain_names=tuple(domains), temperature=temperature)
    small = make_label(GRAPH, repo_id="org/small")
    _, entries = index_from_bytes(index_to_bytes(GRAPH, entries_of([small, label])))
    by_model = {entry.summary.model.repo_id: entry.summary for entry in entries}
    assert_same_summary(by_model["org/model"], label)
    assert_same_summary(by_model["org/small"], small)


def test_ranks_take_one_byte_each_while_they_fit():
    wide = make_label(GRAPH, support=256)
    narrow = make_label(GRAPH, support=255)
    assert load(index_to_bytes(GRAPH, entries_of([narrow])))["ranks"].dtype == np.uint8
    assert load(index_to_bytes(GRAPH, entries_of([wide])))["ranks"].dtype == np.uint16


def test_the_same_labels_give_the_same_bytes_in_whatever_order_they_come():
    for seed in range(20):
        shuffled = random.Random(seed).sample(ENTRIES, len(ENTRIES))
        assert index_to_bytes(GRAPH, shuffled) == BLOB


def test_an_index_of_an_index_is_the_same_index():
    graph, entries = index_from_bytes(BLOB)
    assert index_to_bytes(graph, entries) == BLOB


def test_labels_of_two_revisions_of_a_model_are_two_labels():
    labels = [make_label(GRAPH, revision=letter * 40) for letter in "ab"]
    _, entries = index_from_bytes(index_to_bytes(GRAPH, entries_of(labels)))
    assert [entry.summary.model.revision[0] for entry in entries] == ["a", "b"]


# ---- what is refused


def first(metadata):
    return metadata["labels"][0]


REFUSED = {
    "another schema": rebuilt(lambda m: m.update(schema=2)),
    "no schema": rebuilt(lambda m: m.pop("schema") and None),
    "a schema that is true": rebuilt(lambda m: m.update(schema=True)),
    "no labels": rebuilt(lambda m: m.pop("labels") and None),
    "labels that are no list": rebuilt(lambda m: m.update(labels={"a": 1})),
    "labels that are numbers": rebuilt(lambda m: m.update(labels=[1, 2, 3, 4, 5])),
    "labels that are lists": rebuilt(lambda m: m.update(labels=[[], [], [], [], []])),
    "a label too many": rebuilt(lambda m: m["labels"].append(first(m))),
    "a label too few": rebuilt(lambda m: m["labels"].pop() and None),
    "a label twice": rebuilt(lambda m: m["labels"].__setitem__(1, first(m))),
    "no sha256": rebuilt(lambda m: first(m).pop("oid") and None),
    "a short sha256": rebuilt(lambda m: first(m).update(oid="ab")),
    "a sha256 in capitals": rebuilt(lambda m: first(m).update(oid="A" * 64)),
    "a sha256 with a line break": rebuilt(lambda m: first(m).update(oid="a" * 64 + "\n")),
    "a sha256 that is a number": rebuilt(lambda m: first(m).update(oid=10**63)),
    "a short revision": rebuilt(lambda m: first(m)["model"].update(revision="abc")),
    "an id with a way up": rebuilt(lambda m: first(m)["model"].update(repo_id="../../etc/passwd")),
    "an id that is a number": rebuilt(lambda m: first(m)["model"].update(repo_id=3)),
    "a cost below zero": rebuilt(lambda m: first(m)["cost"].update(parameters=-1)),
    "a cost that is not a number": rebuilt(lambda m: first(m)["cost"].update(gflops=float("nan"))),
    "a label of another graph": rebuilt(lambda m: first(m)["graph"].update(digest=OTHER_GRAPH.digest)),
    "a domain too many": rebuilt(lambda m: first(m)["domains"].append("icon")),
    "no domain": rebuilt(lambda m: first(m)["domains"].clear()),
    "no images per concept": rebuilt(lambda m: first(m)["config"].update(images_per_concept=0)),
    "another graph": rebuilt(graph=np.frombuffer(json.dumps(graph_to_json(OTHER_GRAPH)).encode(), np.uint8)),
    "no graph": rebuilt(graph=np.frombuffer(b"{}", np.uint8)),
    "a graph that is no JSON": rebuilt(graph=np.frombuffer(b"\xff{", np.uint8)),
    "a graph that nests too deeply": rebuilt(graph=np.frombuffer(b"[" * 100_000, np.uint8)),
    "a tensor too many": rebuilt(more=np.zeros(1)),
    "a tensor too few": rebuilt(temperature=None),
    "temperatures of another type": rebuilt(temperature=load(BLOB)["temperature"].astype(np.float64)),
    "a temperature of zero": rebuilt(temperature=np.zeros(5, np.float32)),
    "a temperature that is not a number": rebuilt(temperature=np.full(5, np.nan, np.float32)),
    "an endless temperature": rebuilt(temperature=np.full(5, np.inf, np.float32)),
    "no temperature": rebuilt(temperature=np.zeros(0, np.float32)),
    "temperatures in rows": rebuilt(temperature=np.ones((5, 1), np.float32)),
    "ranks that do not add up": rebuilt(ranks=load(BLOB)["ranks"] + 1),
    "ranks below zero": rebuilt(ranks=load(BLOB)["ranks"].astype(np.int16)),
    "ranks of fewer concepts": rebuilt(ranks=load(BLOB)["ranks"][:, 1:]),
    "ranks of fewer labels": rebuilt(ranks=load(BLOB)["ranks"][1:]),
    "ranks without bins": rebuilt(ranks=load(BLOB)["ranks"][:, :, 0]),
    "domain ranks that do not add up": rebuilt(domain_ranks=load(BLOB)["domain_ranks"] * 2),
    "domain ranks below zero": rebuilt(domain_ranks=-load(BLOB)["domain_ranks"]),
    "nothing": b"",
    "half of it": BLOB[: len(BLOB) // 2],
    "a huge header": struct.pack("<Q", 10**12) + b"{}",
    "a header that is a list": struct.pack("<Q", 2) + b"[]",
    "a byte too many": BLOB + b"x",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
}


@pytest.mark.parametrize("fault", REFUSED)
def test_an_index_that_contradicts_itself_is_refused(fault):
    complaint_of(REFUSED[fault])


def test_ranks_that_exceed_the_images_are_refused():
    assert "support exceeds" in complaint_of(
        rebuilt(lambda m: [label["config"].update(images_per_concept=1) for label in m["labels"]] and None)
    )


def test_an_index_of_other_models_is_not_mistaken_for_ours():
    changed = rebuilt(lambda m: first(m)["cost"].update(parameters=8))
    _, entries = index_from_bytes(changed)
    assert entries[0].summary.cost == Cost(8, LABELS[0].cost.gflops)


def mutate(blob, rng):
    """Some bytes changed, moved, dropped or added, or a number in the metadata."""
    data = bytearray(blob)
    match rng.randrange(6):
        case 0:
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            data[rng.randrange(min(len(data), 3000))] = rng.randrange(256)
        case 2:
            del data[rng.randrange(len(data)) :]
        case 3:
            at = rng.randrange(len(data))
            data[at:at] = rng.randbytes(rng.randint(1, 16))
        case 4:
            at, size = rng.randrange(len(data)), rng.randint(1, 64)
            data[at : at + size] = bytes(len(data[at : at + size]))
        case 5:
            data[:8] = struct.pack("<Q", rng.choice([0, 1, len(data), 2**31, 2**63, 2**64 - 1, rng.randrange(5000)]))
    return bytes(data)


def test_two_thousand_mutated_indexes_are_refused_or_consistent():
    rng = random.Random(0)
    accepted = 0
    for _ in range(2000):
        blob = mutate(BLOB, rng)
        try:
            graph, entries = index_from_bytes(blob)
        except LabelError:
            continue
        accepted += 1  # an index has no checksum: what it says of a label counts only where the sha256 agrees
        assert len({entry.summary.model for entry in entries}) == len(entries)
        for entry in entries:
            assert entry.summary.graph_digest == graph.digest
            assert (entry.summary.support <= entry.summary.sampling.images_per_concept).all()
            assert entry.summary.ranks.sum() == entry.summary.domain_ranks.sum()
    assert accepted < 400


# ---- kept up to date


@pytest.fixture
def fetched(hub, clock):
    """Label files that were fetched."""
    return lambda: [request for request in hub.requests if "/resolve/" in request and "label.safetensors" in request]


def test_only_labels_that_the_index_lacks_are_fetched(hub, fetched):
    put_collection(LABELS, index=LABELS[:4])
    build_index(COLLECTION)
    assert {request.split("/labels/")[2].split("/")[0] for request in fetched()} == {"org--model-04"}
    assert hub.files("dataset", REPO)[INDEX_FILE] == BLOB
    hub.requests.clear()
    build_index(COLLECTION)
    assert fetched() == []


@pytest.mark.usefixtures("clock")
def test_the_index_is_the_same_whatever_the_order_of_publication(hub):
    for seed in range(3):
        hub.reset()
        for label in random.Random(seed).sample(LABELS, 3) + LABELS:
            put_collection([label], index=[])
            build_index(COLLECTION)
        assert hub.files("dataset", REPO)[INDEX_FILE] == BLOB


@pytest.mark.usefixtures("clock")
def test_a_label_that_is_gone_leaves_the_index(hub):
    put_collection(LABELS)
    hub.put("dataset", REPO, {f"labels/org--model-04/{SHA}/label.safetensors": None})
    assert build_index(COLLECTION).changed
    assert hub.files("dataset", REPO)[INDEX_FILE] == index_to_bytes(GRAPH, ENTRIES[:4])


@pytest.mark.usefixtures("clock")
def test_a_label_that_was_measured_anew_is_updated(hub):
    put_collection(LABELS)
    newer = replace(LABELS[2], temperature=np.array([2], np.float32))
    put_collection([newer], index=LABELS)
    assert build_index(COLLECTION).changed
    _, entries = index_from_bytes(hub.files("dataset", REPO)[INDEX_FILE])
    assert float(entries[2].summary.temperature[0]) == 2
    assert entries[2] != IndexEntry(LABELS[2], ENTRIES[2].oid)
    assert entries[2].oid == entries_of([newer])[0].oid
