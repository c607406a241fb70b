"""A label: its statistics, its file, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from mll_hf.errors import LabelError
from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.labels.counts import NO_RIVAL, RANK_BINS
from mll_hf.labels.fields import FIELDS
from mll_hf.labels.file_format import (
    METADATA_KEY,
    _checksum,
    label_from_bytes,
    label_to_bytes,
    read_metadata,
    rivals_from_bytes,
    tensors_to_bytes,
)
from mll_hf.labels.label import Cost
from mll_hf.utils.files import canonical_json
from worlds import SHA, examples, make_graph, make_label, make_rivals

GRAPH = make_graph()
LABEL = make_label(GRAPH, hits=[0, 5, 8, 0, 2, 0, 10])


def changed(label, metadata=None, tensors=None):
    """The file of a label after changes, with the checksum that an attacker would compute anew."""
    blob = label_to_bytes(label)
    document = {**read_metadata(blob), **(metadata or {})}
    document.pop("sha256")
    arrays = {**load(blob), **(tensors or {})}
    document["sha256"] = _checksum(document, arrays)
    return save(arrays, metadata={METADATA_KEY: canonical_json(document)})


def test_a_label_of_9000_concepts_and_5_domains_has_at_most_half_a_megabyte():
    rng = np.random.default_rng(0)
    graph = SemanticGraph("large", tuple(Concept(f"c{v:05d}", (f"concept {v}",), "", ()) for v in range(9000)))
    support = rng.integers(1, 15, (5, 9000))
    hits = rng.binomial(support, 0.7)
    label = make_label(graph, domain_hits=hits, domain_support=support, domain_names=list("abcde"))
    assert len(label_to_bytes(label)) <= 500_000


@pytest.mark.parametrize("blob", [b"", b"\xff" * 100, save({"a": np.zeros(2)}), label_to_bytes(LABEL)[:-5]])
def test_what_is_no_label_is_one_line(blob):
    with pytest.raises(LabelError, match="not a"):
        label_from_bytes(blob)


@pytest.mark.parametrize("per_concept", [1, 16])
def test_the_margin_covers_the_truth_as_often_as_it_says(per_concept):
    rng = np.random.default_rng(per_concept)
    graph = make_graph({f"c{v}": () for v in range(300)})
    covered = 0
    for _ in range(200):
        truth = rng.beta(0.5, 1.5, len(graph))
        label = make_label(graph, hits=rng.binomial(per_concept, truth), support=per_concept)
        covered += abs(label.mean_recall - truth.mean()) <= label.mean_recall_margin
    assert covered >= 0.92 * 200


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"temperature": np.array([np.nan], np.float32)}, "temperature"),
        ({"temperature": np.zeros(1, np.float32)}, "temperature"),
        ({"node_precision": np.ones(7, np.float32)}, "node_precision does not match"),
        ({"ranks": np.zeros((7, RANK_BINS), np.uint16)}, "not match"),
        ({"ranks": np.zeros((6, RANK_BINS), np.uint16)}, "node_precision"),
        ({"domain_hits": np.full((1, 7), 11, np.uint16)}, "hits by domain"),
        ({"domain_ranks": np.full((1, RANK_BINS), -1, np.int32)}, "ranks by domain"),
        ({"extra": np.zeros(1)}, "tensors"),
    ],
)
def test_tensors_that_contradict_one_another(tensors, reason):
    assert reason in complaint_of(changed(LABEL, tensors=tensors))


def test_other_contradictions():
    few = changed(LABEL, {"config": {"images_per_concept": 2}})
    assert "support exceeds the images per concept" in complaint_of(few)
    assert "unknown metadata 'more'" in complaint_of(changed(LABEL, {"more": 1}))


@examples
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 3), st.text("aé愛 -", min_size=1))
def test_round_trip(seed, n_concepts, n_domains, text):
    rng = np.random.default_rng(seed)
    domain_support = rng.integers(0, 9, (n_domains, n_concepts))
    domain_hits = rng.integers(0, domain_support + 1)
    graph = make_graph({f"c{v:02}": () for v in range(n_concepts)}, text)
    names = [f"{text}{s}" for s in range(n_domains)]
    label = make_label(graph, domain_hits=domain_hits, domain_support=domain_support, domain_names=names)
    label = replace(label, probes_location=text, package_version=text, cost=Cost(10**12, 0.1))
    label = replace(label, model=replace(label.model, digest=rng.choice([None, "a" * 64])))
    blob = label_to_bytes(label)
    assert label_from_bytes(blob) == label


def complaint_of(blob):
    with pytest.raises(LabelError) as caught:
        label_from_bytes(blob)
    assert "\n" not in str(caught.value)
    return str(caught.value)


OUT_OF_RANGE = {
    "schema": [1, 99],
    "model.repo_id": ["../../etc/x", "/abs", "org/namé", "a\n/b"],
    "model.revision": ["main", SHA + "\n"],
    "model.backend": ["", "x" * 501],
    "model.digest": ["a" * 63, SHA],
    "cost.parameters": [-1, 10**400],
    "cost.gflops": [-1.0, float("nan"), float("inf"), 10**400],
    "graph.name": ["", "a\u202eb", "\ud800"],
    "graph.digest": ["abc"],
    "graph.location": ["a\nb"],
    "probes.digest": ["../../../x"],
    "probes.location": ["x" * 501],
    "config.images_per_concept": [0, -(10**400), 65536],
    "domains": [[], ["icon", 1], ["icon", "icon"], ["icon", ""], [f"d{n}" for n in range(101)]],
    "package_version": [""],
    "environment.device": [""],
    "environment.dtype": [""],
    "environment.torch": [""],
    "environment.open_clip": [""],
    "environment.transformers": [""],
    "license": ["", "x" * 101],
}


def test_every_field_has_a_type_and_a_range():
    assert OUT_OF_RANGE.keys() | {"sha256"} == {field.path for field in FIELDS}


@pytest.mark.parametrize("path", OUT_OF_RANGE)
def test_fields_out_of_range(path):
    claims, (section, _, name) = read_metadata(label_to_bytes(LABEL)), path.partition(".")
    for value in (*OUT_OF_RANGE[path], True, [None], {}, "\n"):
        try:
            said = complaint_of(changed(LABEL, {section: claims[section] | {name: value} if name else value}))
        except UnicodeEncodeError:  # half a surrogate pair cannot be written either
            continue
        assert path in said or "metadata" in said
    if name:
        missing = {key: value for key, value in claims[section].items() if key != name}
        assert f"'{path}' is missing" in complaint_of(changed(LABEL, {section: missing}))


# --- rivals


OF_LABEL = make_rivals(LABEL, {0: {6: 7, 1: 5}, 1: {4: 5}, 2: {0: 2}, 3: {0: 10, 2: 4}, 4: {0: 8}, 5: {2: 10}})


def put(array, place, value):
    changed = np.array(array)
    changed[place] = value
    return changed


def test_rivals_come_back():
    assert rivals_from_bytes(tensors_to_bytes(OF_LABEL), LABEL) == OF_LABEL


@pytest.mark.parametrize(
    "change",
    [
        {"rivals": put(OF_LABEL.rivals, (0, 0), 0)},  # itself
        {"rivals": put(OF_LABEL.rivals, (0, 0), 7)},  # no concept
        {"rivals": put(OF_LABEL.rivals, (0, 0), 1)},  # twice
        {"rivals": put(OF_LABEL.rivals, (0, 1), NO_RIVAL)},  # wins of nobody
        {"rivals": put(OF_LABEL.rivals, (0, 2), 4)},  # a rival without wins
        {"wins": put(OF_LABEL.wins, (0, 0), 11)},  # more than were lost
        {"wins": put(OF_LABEL.wins, (0, 1), 8)},  # not in order
        {"rivals": OF_LABEL.rivals[:, :5].copy()},
        {"rivals": OF_LABEL.rivals.astype(np.int32)},
    ],
)
def test_rivals_that_are_not_those_of_the_label(change):
    with pytest.raises(LabelError, match="not the rivals of its label"):
        rivals_from_bytes(tensors_to_bytes(replace(OF_LABEL, **change)), LABEL)
    with pytest.raises(LabelError, match="not the rivals of its label"):
        rivals_from_bytes(b"x", LABEL)
