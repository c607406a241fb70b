"""A label: its statistics, its file, what is refused, and folders of labels."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from mll_hf.errors import GraphError, InputError, LabelError
from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.file_format import METADATA_KEY, _checksum, _read_metadata, label_from_bytes, label_to_bytes
from mll_hf.labels.identity import deciding_files, model_digest
from mll_hf.labels.label import LabelKey, ModelRef, Rivals
from mll_hf.labels.store import LabelStore, check_label_fits, label_path, read_label
from mll_hf.utils.files import canonical_json
from worlds import SHA, make_graph, make_label, make_rivals

GRAPH = make_graph()
LABEL = make_label(GRAPH, hits=[0, 5, 8, 0, 2, 0, 10])


def changed(label, metadata=None, tensors=None):
    """The file of a label after changes, with the checksum that an attacker would compute anew."""
    blob = label_to_bytes(label)
    document = {**_read_metadata(blob), **(metadata or {})}
    document.pop("sha256")
    arrays = {**load(blob), **(tensors or {})}
    document["sha256"] = _checksum(document, arrays)
    return save(arrays, metadata={METADATA_KEY: canonical_json(document)})


def test_statistics_by_hand():
    label = make_label(GRAPH, hits=[5, 0, 10, 0, 0, 0, 0], support=[10, 10, 10, 0, 0, 0, 0])
    assert label.support.tolist() == [10, 10, 10, 0, 0, 0, 0]
    assert label.node_precision.tolist() == pytest.approx([0.5, 0, 1, 0, 0, 0, 0])
    assert label.mean_recall == pytest.approx(0.5)
    assert label.n_tested == 3
    assert label.key == LabelKey(GRAPH.digest, SHA, 0)


def test_a_file_is_read_as_written_and_always_the_same():
    blob = label_to_bytes(LABEL)
    assert label_from_bytes(blob) == LABEL
    assert label_to_bytes(label_from_bytes(blob)) == blob
    np.testing.assert_array_equal(load(blob)["node_precision"], LABEL.node_precision)


def test_a_label_of_9000_concepts_and_5_domains_has_at_most_half_a_megabyte():
    rng = np.random.default_rng(0)
    graph = SemanticGraph(
        "large", tuple(Concept(f"c{v:05d}", f"concept {v}", (f"concept {v}",), "", ()) for v in range(9000))
    )
    support = rng.integers(1, 15, (5, 9000))
    hits = rng.binomial(support, 0.7)
    label = make_label(graph, domain_hits=hits, domain_support=support, domain_names=list("abcde"))
    assert len(label_to_bytes(label)) <= 500_000


@pytest.mark.parametrize(
    ("metadata", "tensors", "reason"),
    [
        ({"schema": 3}, {}, "schema"),
        ({"model": {"repo_id": "org/../x y", "revision": SHA, "backend": "open_clip", "digest": None}}, {}, "repo_id"),
        ({"model": {"repo_id": "org/x", "revision": "main", "backend": "open_clip", "digest": None}}, {}, "revision"),
        ({"model": {"repo_id": "org/x", "revision": SHA, "backend": "open_clip", "digest": "ab"}}, {}, "digest"),
        ({"model": {"repo_id": "org/x"}}, {}, "missing"),
        ({"cost": {"parameters": -1, "gflops": 1.0}}, {}, "cost.parameters"),
        ({"cost": {"parameters": True, "gflops": 1.0}}, {}, "cost.parameters"),
        ({"cost": {"parameters": 1, "gflops": 1e300}}, {}, "cost.gflops"),
        ({"config": {"images_per_concept": 10**30, "seed": 0}}, {}, "images_per_concept"),
        ({"config": {"images_per_concept": 2, "seed": 0}}, {}, "images per concept"),
        ({"domains": []}, {}, "domains"),
        ({"domains": ["photo", "photo"]}, {}, "domains"),
        ({"graph": {"name": "\x1b[31mred", "digest": GRAPH.digest, "location": ""}}, {}, "graph.name"),
        ({"license": "x" * 101}, {}, "license"),
        ({"more": 1}, {}, "unknown"),
        ({}, {"temperature": np.array([np.nan], np.float32)}, "temperature"),
        ({}, {"temperature": np.zeros(1, np.float32)}, "temperature"),
        ({}, {"node_precision": np.ones(7, np.float32)}, "node_precision"),
        ({}, {"ranks": np.zeros((7, RANK_BINS), np.uint16)}, "not match"),
        ({}, {"ranks": np.zeros((6, RANK_BINS), np.uint16)}, "node_precision"),
        ({}, {"domain_hits": np.full((1, 7), 11, np.uint16)}, "hits by domain"),
        ({}, {"domain_ranks": np.full((1, RANK_BINS), -1, np.int32)}, "ranks by domain"),
        ({}, {"extra": np.zeros(1)}, "tensors"),
    ],
)  # fmt: skip
def test_what_is_out_of_its_range_is_one_line(metadata, tensors, reason, tmp_path):
    with pytest.raises(LabelError, match="not a valid label") as caught:
        label_from_bytes(changed(LABEL, metadata, tensors), tmp_path / "label.safetensors")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("blob", [b"", b"\xff" * 100, save({"a": np.zeros(2)}), label_to_bytes(LABEL)[:-5]])
def test_what_is_no_label_is_one_line(blob):
    with pytest.raises(LabelError, match="not a"):
        label_from_bytes(blob)


def test_a_changed_byte_is_noticed():
    blob = bytearray(label_to_bytes(LABEL))
    blob[-1] ^= 1
    with pytest.raises(LabelError):
        label_from_bytes(bytes(blob))


# --- identity -------------------------------------------------------------------------------------------------------


FILES = {"open_clip_config.json": "1" * 40, "open_clip_model.safetensors": "2" * 64, "tokenizer.json": "3" * 40}


def test_identity_is_what_decides_outputs():
    paths = [*FILES, "README.md", "model.safetensors", "mll/label.safetensors", "pytorch_model.bin"]
    assert deciding_files([path for path in paths if "/" not in path], "open_clip") == tuple(sorted(FILES))
    digest = model_digest(FILES, "open_clip", "ViT-B-32")
    assert digest == model_digest(dict(reversed(FILES.items())), "open_clip", "ViT-B-32")
    assert digest != model_digest(FILES, "open_clip", "ViT-B-32-quickgelu")
    assert digest != model_digest(FILES, "transformers", "ViT-B-32")
    assert digest != model_digest({**FILES, "open_clip_model.safetensors": "4" * 64}, "open_clip", "ViT-B-32")


def test_a_model_keeps_its_identity_when_its_repo_moves_or_is_renamed():
    digest = model_digest(FILES, "open_clip")
    before = ModelRef("org/model", "1" * 40, "open_clip", digest)
    after = ModelRef("new-org/model", "2" * 40, "open_clip", digest)
    assert before.key == after.key
    assert ModelRef("org/model", "1" * 40, "open_clip").key == "id:org/model"
    assert label_path(before, LABEL.key).split("/")[2] == label_path(after, LABEL.key).split("/")[2]


# --- a folder of labels ----------------------------------------------------------------------------------------------


def stored(folder, *labels):
    store = LabelStore(folder)
    store.add_graph(GRAPH)
    for label in labels:
        store.write(label, make_rivals(label))
    return store


def test_a_folder_is_read_as_written(tmp_path):
    others = [replace(LABEL, model=ModelRef(f"org/m{n}", SHA, "open_clip")) for n in range(3)]
    stored(tmp_path, *others)
    store = LabelStore(tmp_path)
    assert store.labels() == tuple(others)
    assert [graph.digest for graph in store.graphs] == [GRAPH.digest]
    assert store.rivals_of(store.labels()[0]) == make_rivals(others[0])
    assert store.embeddings_of(store.labels()[0]) is None
    assert store.origin_of(store.labels()[0]).publisher is None
    assert len(store.paths()) == 3


def test_a_label_replaces_that_of_the_same_weights(tmp_path):
    first, second = (replace(LABEL, model=ModelRef("org/m", of * 40, "open_clip", "a" * 64)) for of in "12")
    stored(tmp_path, first, second)
    assert LabelStore(tmp_path).labels() == (second,)


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="mll-hf label"):
        LabelStore(tmp_path).labels()


def test_damage_in_a_local_folder_is_an_error_and_elsewhere_a_warning(tmp_path, caplog):
    others = [replace(LABEL, model=ModelRef(f"org/m{n}", SHA, "open_clip")) for n in range(2)]
    store = stored(tmp_path, *others)
    store.path_of(others[0]).write_bytes(b"damaged")
    with pytest.raises(LabelError, match="label the model again"):
        LabelStore(tmp_path).labels()
    collection = LabelStore(tmp_path, "alice", f"hf://datasets/alice/labels@{SHA}")
    assert collection.labels() == (others[1],)
    assert "left out: " in caplog.text
    origin = collection.origin_of(others[1])
    assert (origin.publisher, origin.location.partition("@")[0]) == ("alice", "hf://datasets/alice/labels")


def test_a_misplaced_label_and_a_missing_graph_are_refused(tmp_path):
    store = stored(tmp_path, LABEL)
    path = store.path_of(LABEL)
    moved = path.parents[1] / ("b" * 40) / path.name
    moved.parent.mkdir()
    path.rename(moved)
    with pytest.raises(LabelError, match="move it to"):
        LabelStore(tmp_path).labels()
    moved.rename(path)
    graph = next((tmp_path / "graphs").iterdir())
    graph.rename(graph.with_name("0" * 12 + ".json"))
    with pytest.raises(GraphError, match="does not match"):
        LabelStore(tmp_path).labels()


def test_damaged_rivals_are_refused(tmp_path):
    store = stored(tmp_path, LABEL)
    for bad in (make_rivals(LABEL, {0: {0: 10}}), make_rivals(LABEL, {0: {1: 3}})):
        store.write(LABEL, Rivals(bad.rivals, bad.wins))
        with pytest.raises(LabelError, match="not the rivals"):
            store.rivals_of(LABEL)
    store.write(LABEL)
    assert store.rivals_of(LABEL) is None


def test_files_that_are_too_large_or_missing_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "large").write_bytes(b"0" * (5 * 2**20))
    with pytest.raises(LabelError, match="larger than"):
        read_label(tmp_path / "large")
    with pytest.raises(LabelError, match="cannot be read"):
        read_label(tmp_path / "missing")


def test_a_label_of_another_graph_is_refused():
    other = SemanticGraph("other", GRAPH.concepts[:3])
    with pytest.raises(LabelError, match="not on other"):
        check_label_fits(LABEL, other)


def test_the_metadata_can_be_read_by_others():
    header = label_to_bytes(LABEL)
    length = int.from_bytes(header[:8], "little")
    document = json.loads(json.loads(header[8 : 8 + length])["__metadata__"][METADATA_KEY])
    assert document["model"]["repo_id"] == "org/model"
    assert document["graph"]["digest"] == GRAPH.digest
