from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from mll_hf.errors import LabelError
from mll_hf.graph.probes import SamplingConfig
from mll_hf.labels.counts import NO_RIVAL, RANK_BINS, RIVALS
from mll_hf.labels.file_format import label_from_bytes, label_to_bytes
from mll_hf.labels.label import Cost, LabelGroup, LabelSummary, ModelRef
from worlds import SHA, examples, make_graph, make_label

TENSORS = (
    "node_precision",
    "hits",
    "predicted",
    "support",
    "domain_hits",
    "domain_support",
    "rivals",
    "rival_wins",
    "ranks",
    "domain_ranks",
    "temperature",
)


def complaint_of(blob):
    with pytest.raises(LabelError) as caught:
        label_from_bytes(blob)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("fetch it again or label the model again")
    return str(caught.value)


def a_label(**changes):
    """Seven concepts, two domains; hits 7 5 0 3 0 10 2 of 10 10 0 10 5 10 10."""
    settings = {
        "domain_names": ("icon", "photo"),
        "domain_hits": [[1, 2, 0, 0, 0, 5, 1], [6, 3, 0, 3, 0, 5, 1]],
        "domain_support": [[2, 5, 0, 1, 2, 5, 4], [8, 5, 0, 9, 3, 5, 6]],
        "rivals": {0: {6: 2, 1: 1}, 1: {4: 5, 5: 1}, 3: {0: 4, 2: 4, 4: 1}, 4: {0: 5}, 6: {5: 3, 2: 3, 1: 2}},
        "temperature": 1.5,
    }
    return make_label(make_graph(), **settings | changes)


def test_general_level():
    assert a_label().mean_recall == pytest.approx((0.7 + 0.5 + 0.3 + 0 + 1 + 0.2) / 6)
    shares = a_label().mean_rank_shares
    assert shares[:2] == pytest.approx([a_label().mean_recall, 1 - a_label().mean_recall])
    assert shares.shape == (RANK_BINS,)
    nothing = make_label(make_graph(), support=0)
    assert nothing.mean_recall == 0
    assert not nothing.mean_rank_shares.any()


# ---- to bytes and back


def test_round_trip():
    label = a_label(cost=Cost(10**12, 0.1))
    blob = label_to_bytes(label)
    assert label_from_bytes(blob) == label
    assert label_to_bytes(label_from_bytes(blob)) == blob


@examples
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 3), st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip_of_any_counts(seed, n_concepts, n_domains, text):
    rng = np.random.default_rng(seed)
    domain_support = rng.integers(0, 9, (n_domains, n_concepts))
    domain_hits = rng.integers(0, domain_support + 1)
    if n_concepts == 1:
        domain_hits = domain_support  # nobody to lose to
    graph = make_graph({f"c{v:02}": () for v in range(n_concepts)}, text)
    domain_names = [f"{text}{s}" for s in range(n_domains)]
    label = make_label(graph, domain_hits=domain_hits, domain_support=domain_support, domain_names=domain_names)
    label = replace(label, probes_location=text, package_version=text)
    assert label_from_bytes(label_to_bytes(label)) == label


def test_bytes_do_not_depend_on_the_layout_in_memory():
    label = a_label()
    counted = [name for name in TENSORS if name not in ("node_precision", "hits", "support")]
    other = replace(label, **{name: np.asfortranarray(getattr(label, name)) for name in counted})
    strided = replace(label, predicted=np.repeat(label.predicted, 2)[::2])
    assert label_to_bytes(other) == label_to_bytes(strided) == label_to_bytes(label)


def test_bytes_are_the_same_in_every_process(tmp_path):
    blob = label_to_bytes(a_label())
    (tmp_path / "label").write_bytes(blob)
    code = "import pathlib, sys; from mll_hf.labels.file_format import *; path = pathlib.Path(sys.argv[1])\n"
    code += "sys.stdout.buffer.write(label_to_bytes(label_from_bytes(path.read_bytes())))"
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(tmp_path / "label")]
        read = subprocess.run(command, check=True, capture_output=True, env={"PYTHONHASHSEED": seed})
        assert read.stdout == blob


def test_bytes_stay_the_same_across_versions():
    assert (
        hashlib.sha256(label_to_bytes(a_label())).hexdigest()
        == "42161ba6133de47c7bac0617d452a926375085fc83695c87d50f35c45dc4811e"
    )


def test_tensors_of_a_label_cannot_be_changed():
    for label in (a_label(), label_from_bytes(label_to_bytes(a_label()))):
        with pytest.raises(ValueError, match="read-only"):
            label.hits[0] = 1


def test_a_label_of_nine_thousand_concepts_is_small():
    rng, n = np.random.default_rng(0), 9000
    graph = make_graph({f"n{v:08}": () for v in range(n)})
    domain_support = rng.integers(1, 16, (5, n))
    domain_hits = rng.integers(0, domain_support)
    lost = (domain_support - domain_hits).sum(0)
    wins = np.sort(rng.integers(1, lost[:, None] + 1, (n, RIVALS)), axis=1)[:, ::-1]
    rivals = {v: dict(zip(((v + 1 + np.arange(RIVALS)) % n).tolist(), wins[v], strict=True)) for v in range(n)}
    names = ("drawing", "emoji", "icon", "photo", "render")
    label = make_label(graph, domain_hits=domain_hits, domain_support=domain_support, domain_names=names, rivals=rivals)
    blob = label_to_bytes(label)
    assert len(blob) <= 1_500_000
    assert label_from_bytes(blob) == label


def test_slugs():
    assert ModelRef("org/name", SHA, "open_clip").slug == "org--name"
    local = ModelRef("local-dir:/models/tiny model", SHA, "open_clip")
    assert (local.slug, local.short_name) == ("local--tiny model", "tiny model")
    assert "/" not in ModelRef("local-dir:/..", SHA, "open_clip").slug


def test_groups_are_of_graph_images_and_seed():
    label = a_label()
    assert label.group == LabelGroup(label.graph_digest, SHA, 0)
    assert label.group.stem == f"{label.graph_digest[:12]}-{SHA[:12]}"
    smaller = replace(label, sampling=SamplingConfig(20), probes_location="renamed")
    assert smaller.group == label.group
    other_seed = replace(label, sampling=SamplingConfig(75, seed=3))
    assert other_seed.group.stem == f"{label.group.stem}-seed3"
    assert len({label.group, other_seed.group, replace(label, probes_digest="f" * 40).group}) == 3


def test_the_summary_is_the_label_without_its_confusions():
    label = a_label()
    summary = label.summary
    assert type(summary) is LabelSummary
    assert all(getattr(summary, f.name) is getattr(label, f.name) for f in fields(LabelSummary))
    assert summary.tie_break == label.tie_break == (0.5, 7, "org/model", SHA)
    assert summary != label
    assert summary == a_label().summary != a_label(temperature=2.0).summary
    assert label.domains_tested == {"icon", "photo"}
    assert a_label(domain_hits=[[0] * 7] * 2, domain_support=[[0] * 7, [1] * 7]).domains_tested == {"photo"}


# ---- damage


def test_truncation_at_any_length():
    blob = label_to_bytes(a_label())
    for length in range(len(blob)):
        assert "not a readable label" in complaint_of(blob[:length])
    assert "the file is truncated" in complaint_of(blob[:500])
    complaint_of(blob + b"\0")


def test_a_flipped_bit_anywhere_is_seen_or_means_the_same():
    label = a_label()
    blob = label_to_bytes(label)
    rng, refused = np.random.default_rng(0), 0
    start_of_tensors = 8 + int.from_bytes(blob[:8], "little")
    places = np.concatenate([np.arange(300), rng.integers(0, start_of_tensors, 300), rng.integers(0, len(blob), 300)])
    for at in places:
        damaged = bytearray(blob)
        damaged[at] ^= 1 << int(rng.integers(8))
        try:
            assert label_from_bytes(bytes(damaged)) == label
            assert at < start_of_tensors
        except LabelError:
            refused += 1
    assert refused > 0.97 * len(places)


@examples
@given(st.data())
def test_random_bytes_are_no_label(data):
    blob = label_to_bytes(a_label())
    start, end = sorted(data.draw(st.integers(0, len(blob))) for _ in range(2))
    damaged = blob[:start] + data.draw(st.binary(max_size=40)) + blob[end:]
    try:
        assert label_from_bytes(damaged) == a_label()
    except LabelError as error:
        caught = str(error)
        assert "\n" not in caught


# ---- lies: every part is well-formed and the checksum fits, but a label that contradicts itself was not measured


def forged(metadata=(), **tensors):
    """A label with other metadata and tensors (None: without it) and a checksum that fits. Not through our code."""
    blob = label_to_bytes(a_label())
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    claims = json.loads(header["__metadata__"]["mll"]) | dict(metadata)
    claims = {key: value for key, value in claims.items() if value is not None and key != "sha256"}
    arrays = {name: array for name, array in (load(blob) | tensors).items() if array is not None}
    whole = hashlib.sha256(canonical(claims).encode("utf-8", "surrogatepass"))
    for name in TENSORS:
        whole.update(name.encode() + (arrays[name].tobytes() if name in arrays else b""))
    return save(arrays, metadata={"mll": canonical(claims | {"sha256": whole.hexdigest()})})


def canonical(claims):
    return json.dumps(claims, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def put(array, place, value):
    changed = np.array(array)
    changed[place] = value
    return changed


def moved(array, left, right):
    """One count moved from a column to another in the first row, and back in the second."""
    change = np.zeros_like(array)
    change[:2, [left, right]] = [[1, -1], [-1, 1]]
    return array + change


def test_the_checksum_of_this_file_is_that_of_the_library():
    assert forged() == label_to_bytes(a_label())
    renamed = label_from_bytes(forged({"package_version": "9"}))
    assert renamed.package_version == "9"


def test_fields_of_later_versions_are_ignored():
    assert label_from_bytes(forged({"created": "2030-01-01"})) == a_label()


LABEL = a_label()


def of_size(n_concepts):
    """Tensors of zeros for that many concepts."""
    return {
        name: np.zeros([n_concepts if size == 7 else size for size in tensor.shape], tensor.dtype)
        for name in TENSORS for tensor in [getattr(LABEL, name)]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"node_precision": put(LABEL.node_precision, 0, np.nan)}, "node_precision does not match the ranks"),
        ({"node_precision": put(LABEL.node_precision, 0, np.inf)}, "node_precision does not match the ranks"),
        ({"node_precision": put(LABEL.node_precision, 0, 0.71)}, "node_precision does not match the ranks"),
        ({"temperature": np.array([np.nan], np.float32)}, "temperature"),
        ({"temperature": np.array([np.inf], np.float32)}, "temperature"),
        ({"temperature": np.array([0], np.float32)}, "temperature"),
        ({"temperature": np.array([-1], np.float32)}, "temperature"),
        ({"temperature": np.array([1, 1], np.float32)}, "temperature is float32 (2,)"),
        ({"temperature": np.array(1, np.float32)}, "temperature is float32 ()"),
        ({"temperature": np.array([1], np.float64)}, "temperature is float64"),
        ({"hits": put(LABEL.hits, 0, -1)}, "hits does not match the ranks"),
        ({"hits": put(LABEL.hits, 0, 11)}, "hits does not match the ranks"),
        ({"hits": put(LABEL.hits, 1, 6)}, "hits does not match the ranks"),
        ({"predicted": put(LABEL.predicted, 0, 11)}, "predictions and images do not add up"),
        ({"predicted": put(put(LABEL.predicted, 5, 9), 0, 11)}, "hits exceed the predictions"),
        ({"support": put(LABEL.support, 0, 2**31 - 1)}, "support does not match the ranks"),
        ({"support": LABEL.support * 0}, "support does not match the ranks"),
        ({"domain_hits": LABEL.domain_hits[::-1].copy()}, "hits by domain exceed their support"),
        ({"domain_hits": LABEL.domain_hits[:1].copy()}, "domain_hits is uint16 (1, 7), not uint16 (2, 7)"),
        ({"domain_hits": LABEL.domain_hits.T.copy()}, "domain_hits is uint16 (7, 2)"),
        ({"domain_support": LABEL.domain_support + np.uint16(1)}, "support by domain does not add up"),
        ({"rivals": put(LABEL.rivals, (0, 0), 0)}, "rivals"),  # itself
        ({"rivals": put(LABEL.rivals, (0, 0), 7)}, "rivals"),  # no concept
        ({"rivals": put(LABEL.rivals, (0, 0), 1)}, "rivals"),  # twice
        ({"rivals": put(LABEL.rivals, (0, 1), NO_RIVAL)}, "rivals"),  # wins of nobody
        ({"rivals": put(LABEL.rivals, (0, 2), 4)}, "rivals"),  # a rival without wins
        ({"rivals": np.full_like(LABEL.rivals, NO_RIVAL), "rival_wins": LABEL.rival_wins * 0}, "rivals"),
        ({"rival_wins": put(LABEL.rival_wins, (0, 0), 4)}, "rivals"),  # more than were lost
        ({"rival_wins": put(LABEL.rival_wins, (0, 1), 3)}, "rivals"),  # not in order
        ({"rivals": LABEL.rivals[:, :5].copy()}, "rivals is uint16 (7, 5)"),
        ({"rivals": LABEL.rival_wins, "rival_wins": LABEL.rivals}, "rivals"),
        ({"ranks": put(LABEL.ranks, (0, 5), 1)}, "ranks by domain do not add up"),
        ({"ranks": put(put(LABEL.ranks, (0, 0), 8), (0, 1), 2)}, "ranks by domain do not add up"),  # more than the hits
        ({"ranks": LABEL.ranks.astype(np.int32)}, "ranks is int32"),
        ({"ranks": LABEL.ranks[:, :13].copy()}, "ranks is uint16 (7, 13)"),
        ({"domain_ranks": put(LABEL.domain_ranks, (0, 5), 1)}, "ranks by domain do not add up"),
        ({"domain_ranks": moved(LABEL.domain_ranks, 0, 1)}, "ranks by domain"),  # not the domain's hits
        ({"domain_ranks": put(put(LABEL.domain_ranks, (0, 1), 0), (1, 1), 28)}, "ranks by domain"),  # nor its support
        ({"domain_ranks": moved(LABEL.domain_ranks, 1, 2)}, "ranks by domain"),  # negative
        ({"domain_ranks": LABEL.domain_ranks + put(LABEL.domain_ranks * 0, (slice(2), 3), (-1, 1))}, "ranks by domain"),
        ({"hits": LABEL.support, "support": LABEL.hits}, "hits does not match the ranks"),
        ({"hits": LABEL.domain_hits}, "hits is uint16 (2, 7)"),
        ({"hits": LABEL.hits.astype(np.int64)}, "hits is int64"),
        ({"hits": LABEL.hits.astype(np.uint32)}, "hits is uint32"),
        ({"hits": LABEL.hits.astype(np.float32)}, "hits is float32"),
        ({"support": LABEL.support > 0}, "support is bool"),
        ({"hits": None}, "the tensors are"),
        ({"extra": LABEL.hits}, "the tensors are"),
        (of_size(0), "number of concepts, 0,"),
        ({name: getattr(LABEL, name)[:3].copy() for name in TENSORS[:4]}, "domain_hits is"),
        (of_size(65535), "number of concepts, 65535,"),
        ({"node_precision": np.zeros((), np.float32)}, "not a valid label"),
    ],
)  # fmt: skip
def test_contradictions_in_tensors(tensors, complaint):
    said = complaint_of(forged(**tensors))
    assert "not a valid label" in said
    assert complaint in said


MODEL = {"repo_id": "org/model", "revision": SHA, "backend": "open_clip"}
ENVIRONMENT = asdict(LABEL.environment)


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"schema": 1}, "schema 1 is not 3"),
        ({"schema": None}, "schema null"),
        ({"schema": True}, "schema true"),
        ({"schema": "3"}, 'schema "3"'),
        ({"schema": ["\n" * 99]}, "schema ["),
        ({"domains": []}, "domain names are missing"),
        ({"domains": None}, "domain names are missing"),
        ({"domains": "icon, photo"}, "domain names are missing"),
        ({"domains": ["icon", 1]}, "domain names are missing"),
        ({"domains": ["icon", "icon"]}, "two domains have the same name"),
        ({"domains": ["icon", "photo", "sketch"]}, "domain_hits is uint16 (2, 7), not uint16 (3, 7)"),
        ({"model": None}, "invalid or missing metadata 'model'"),
        ({"model": "org/model"}, "invalid or missing metadata 'model'"),
        ({"model": {"repo_id": "org/model"}}, "invalid or missing metadata 'model'"),
        ({"model": MODEL | {"more": 1}}, "invalid or missing metadata 'model'"),
        ({"model": MODEL | {"revision": "main"}}, "full commit sha"),
        ({"model": MODEL | {"revision": SHA + "\n"}}, "full commit sha"),
        ({"model": MODEL | {"revision": 7}}, "'model.revision' is not of type str"),
        ({"model": MODEL | {"repo_id": "../../etc/x"}}, "not of the form org/name"),
        ({"model": MODEL | {"repo_id": "/abs"}}, "not of the form org/name"),
        ({"model": MODEL | {"repo_id": "org/nam\u00e9"}}, "not of the form org/name"),
        ({"cost": {"parameters": -1, "gflops": 1.0}}, "cost is negative"),
        ({"cost": {"parameters": 1, "gflops": -1.0}}, "cost is negative"),
        ({"cost": {"parameters": 1, "gflops": float("nan")}}, "cost is negative"),
        ({"cost": {"parameters": 1, "gflops": float("inf")}}, "cost is negative"),
        ({"cost": {"parameters": 1, "gflops": 10**400}}, "cost is negative"),
        ({"cost": {"parameters": 10**400, "gflops": 1}}, "cost is negative"),
        ({"cost": {"parameters": 1.5, "gflops": 1}}, "'cost.parameters' is not of type int"),
        ({"cost": {"parameters": True, "gflops": 1}}, "'cost.parameters' is not of type int"),
        ({"cost": {"parameters": 1, "gflops": False}}, "'cost.gflops' is not of type float"),
        ({"config": {"images_per_concept": True, "seed": 0}}, "'config.images_per_concept' is not of type int"),
        ({"config": {"images_per_concept": 9, "seed": 0}}, "support exceeds the images per concept"),
        ({"config": {"images_per_concept": -(10**400), "seed": 0}}, "support exceeds the images per concept"),
        ({"config": {"images_per_concept": 75, "seed": "0"}}, "'config.seed' is not of type int"),
        ({"graph": {"name": "tiny", "digest": "abc", "location": "x"}}, "the graph's digest is not a sha256"),
        ({"graph": {"name": "tiny"}}, "metadata 'digest' is missing"),
        ({"graph": []}, "metadata 'name' is missing"),
        ({"config": {"images_per_concept": 75, "seed": -1}}, "seed of the sample is negative"),
        ({"graph": {"name": "tiny", "digest": "a" * 64}}, "metadata 'location' is missing"),
        ({"probes": {"digest": SHA, "location": 1}}, "metadata 'location' is missing"),
        ({"probes": {"digest": "../../../x", "location": "tiny"}}, "digest of the probe images"),
        ({"package_version": 1}, "metadata 'package_version' is missing"),
        ({"environment": None}, "invalid or missing metadata 'environment'"),
        ({"environment": {"device": "cpu"}}, "invalid or missing metadata 'environment'"),
        ({"environment": ENVIRONMENT | {"more": "1"}}, "invalid or missing metadata 'environment'"),
        ({"environment": ENVIRONMENT | {"torch": 2}}, "'environment.torch' is not of type str"),
        ({"license": ""}, "'license' is not a license id"),
        ({"license": "x" * 101}, "'license' is not a license id"),
        ({"license": ["mit"]}, "'license' is not a license id"),
    ],
)
def test_contradictions_in_metadata(metadata, complaint):
    said = complaint_of(forged(metadata))
    assert "not a valid label" in said
    assert complaint in said


def test_a_checksum_that_does_not_fit():
    blob = label_to_bytes(a_label())
    assert "checksum" in complaint_of(blob.replace(b"org/model", b"org/modal"))
    temperature = np.array([1.25], np.float32)
    other = blob.replace(a_label().temperature.tobytes(), temperature.tobytes())
    assert "checksum" in complaint_of(other)
    assert "checksum" in complaint_of(save(load(blob), metadata={"mll": canonical(claims_of(blob) | {"sha256": None})}))


def claims_of(blob):
    return json.loads(json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]["mll"])


# ---- files that are no safetensors, or not ours


def with_header(header, tail=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + tail


def of_tensor(dtype, shape, size):
    """A file with one tensor that says it has `size` bytes; it has at most 4."""
    tensor = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    return with_header({"__metadata__": {"mll": "{}"}, "x": tensor}, b"abcd"[: min(size, 4)])


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"label",
        b"\xff" * 8,
        b"\xff" * 100,
        (2**62).to_bytes(8, "little") + b"{}",
        with_header(b""),
        with_header(b"{"),
        with_header(b"\xff\xfe"),
        with_header(b"[" * 50_000),
        with_header([]),
        with_header([1, 2]),
        with_header(7),
        with_header("__metadata__"),
        with_header({}),
        with_header({"__metadata__": None}),
        with_header({"__metadata__": "mll"}),
        with_header({"__metadata__": ["mll"]}),
        with_header({"__metadata__": {}}),
        with_header({"__metadata__": {"mll": 7}}),
        with_header({"__metadata__": {"mll": None}}),
        with_header({"__metadata__": {"mll": {}}}),
        with_header({"__metadata__": {"mll": ""}}),
        with_header({"__metadata__": {"mll": "[]"}}),
        with_header({"__metadata__": {"mll": "7"}}),
        with_header({"__metadata__": {"mll": '{"a": "\\ud800"}'}}),
        with_header({"__metadata__": {"mll": "[" * 50_000}}),
        with_header({"__metadata__": {"mll": "9" * 5000}}),
        of_tensor("BF16", [1], 2),
        of_tensor("F8_E4M3", [1], 1),
        of_tensor("F32", [2**40], 2**42),
        of_tensor("F32", [0, 2**64 - 1], 0),
        of_tensor("F32", [-1], 4),
        of_tensor("F32", [1], 4),
        save({"hits": np.zeros(3, np.int32)}),
    ],
    ids=range(34),
)  # fmt: skip
def test_what_is_no_label(blob):
    complaint_of(blob)


def test_half_a_surrogate_pair():
    blob = label_to_bytes(a_label())
    end = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:end])
    header["__metadata__"]["mll"] = json.dumps(claims_of(blob) | {"package_version": "\ud800"})
    assert "surrogates not allowed" in complaint_of(with_header(header, blob[end:]))


def test_half_precision_tensors_are_refused():
    blob = label_to_bytes(a_label())
    complaint_of(blob.replace(b'{"dtype":"U16"', b'{"dtype":"F16"', 1))
    complaint_of(blob.replace(b'{"dtype":"U16"', b'{"dtype":"BF16"', 1))
    complaint_of(blob.replace(b'"node_precision":{"dtype":"F32"', b'"node_precision":{"dtype":"I32"', 1))


def test_the_path_is_named(tmp_path):
    with pytest.raises(LabelError) as caught:
        label_from_bytes(b"", tmp_path / "x")
    assert str(caught.value).startswith(f"{tmp_path / 'x'}: ")
    assert caught.value.path == tmp_path / "x"


# ---- how sure a label is


def test_the_margin_of_the_mean_precision_by_hand():
    label = make_label(make_graph({"a": (), "b": ()}), hits=[3, 0], support=[4, 1])
    # p is drawn towards the mean, 3/8, by one image each
    first, second = (3 + 0.375) / 5, (0 + 0.375) / 2
    variance = first * (1 - first) / 4 + second * (1 - second) / 1
    assert label.mean_recall_margin == pytest.approx(1.959964 * variance**0.5 / 2)


@pytest.mark.parametrize("per_concept", [1, 4, 16])
def test_the_margin_covers_the_truth_as_often_as_it_says(per_concept):
    rng = np.random.default_rng(per_concept)
    graph = make_graph({f"c{v}": () for v in range(300)})
    covered = 0
    for _ in range(200):
        truth = rng.beta(0.5, 1.5, len(graph))
        label = make_label(graph, hits=rng.binomial(per_concept, truth), support=per_concept)
        covered += abs(label.mean_recall - truth.mean()) <= label.mean_recall_margin
    assert covered >= 0.92 * 200  # 95 % are promised


def test_a_label_without_images_is_sure_of_nothing():
    assert make_label(make_graph({"a": (), "b": ()}), support=0).mean_recall_margin == 1.0
