"""The index: the same choice as from the labels themselves, from files that are appended to and never trusted."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from mll_hf.client import Client
from mll_hf.errors import InputError, LabelError
from mll_hf.graph.concepts import SemanticGraph
from mll_hf.labels import index as indexing
from mll_hf.labels import store as storing
from mll_hf.labels.counts import RANK_BINS, chance_to_win
from mll_hf.labels.file_format import METADATA_KEY, read_metadata
from mll_hf.labels.index import (
    IndexShard,
    InMemory,
    LabelIndex,
    entry_of,
    shard_to_bytes,
    update_shards,
)
from mll_hf.labels.join import join_labels
from mll_hf.labels.label import Cost
from mll_hf.labels.rank_code import RankCode, code_fields
from mll_hf.labels.store import LabelStore
from mll_hf.selection import Candidates, NoModelFitsError, SelectionConfig, Strategy, indexed, select
from mll_hf.selection.indexed import select_indexed
from mll_hf.selection.mll import estimates, measure_all, task_odds_ratios, task_query
from mll_hf.utils.files import file_digest
from selection_worlds import WordEncoder, forest, make_match, random_labels, random_match
from worlds import know_only, make_graph, make_known, make_label

few_examples = settings(max_examples=40, deadline=None, database=None, derandomize=True)
DIGEST = "d" * 64


def shard_of(graph, labels):
    """A shard in memory."""
    code = RankCode.of_graph(graph)
    content = shard_to_bytes([entry_of(label, DIGEST, code) for label in labels], code)
    return IndexShard.open(InMemory("shard", memoryview(content)))


def index_of(graph, labels, per_shard=7):
    """An index in memory, in shards of a few labels."""
    parts = [labels[at : at + per_shard] for at in range(0, len(labels), per_shard)]
    return LabelIndex(tuple(shard_of(graph, part) for part in parts))


def fetch_from(labels):
    """Reads whole labels out of a list."""
    known = {(label.model, label.group): label for label in labels}
    return lambda wanted: [known[label.model, label.group] for label in wanted]


def joined_worlds(n_graphs, n_models, seed, most_concepts=25):
    """Graphs, the first with a label of each model, the others with some of them."""
    rng = np.random.default_rng(seed)
    graphs, labels = [], []
    for g in range(n_graphs):
        graph = forest(int(rng.integers(3, most_concepts)), seed + g)
        renamed = [
            replace(c, id=f"g{g}{c.id}", hypernyms=tuple(f"g{g}{h}" for h in c.hypernyms)) for c in graph.concepts
        ]
        graph = SemanticGraph(f"graph {g}", tuple(renamed if g else graph.concepts))
        domains = [("photo", "sketch"), ("sketch",), ("drawing", "photo")][g]
        of_graph = random_labels(graph, n_models, seed + g, domains)
        labels.append([label for label in of_graph if not g or rng.random() < 0.7] or of_graph[:1])
        graphs.append(graph)
    return graphs, labels


def assert_same_choice(graphs, labels, match_of, config, domain=None, published=(), order=None):
    """Choose from an index and from whole labels; the chosen models and what explains them are the same."""
    every = [label for column in labels for label in column]
    whole = join_labels(every, graphs, reference=graphs[0].digest)
    known = [label for graph, column in zip(graphs, labels, strict=True)
             for label in index_of(graph, column if order is None else [column[n] for n in order]).labels]  # fmt: skip
    light = join_labels(known, graphs, reference=graphs[0].digest)
    match = match_of(whole.union.graph)
    theirs = select(Candidates(whole, match, domain, published=published), config, "t")
    ours = select_indexed(Candidates(light, match, domain, published=published), config, fetch_from(every), "t")
    assert ours.among == len(theirs.models)
    k = min(config.per_class, len(theirs.models))
    assert ours.models[:k] == theirs.models[:k]
    assert ours.scores[:k].tolist() == theirs.scores[:k].tolist()
    assert ours.chosen[:k].tolist() == theirs.chosen[:k].tolist()
    assert (ours.matches, ours.coverage.tolist(), ours.images.tolist()) == (
        theirs.matches,
        theirs.coverage.tolist(),
        theirs.images.tolist(),
    )
    return ours


@pytest.fixture(autouse=True)
def _few_are_looked_at(monkeypatch):
    monkeypatch.setattr(indexed, "_N_READ", 8)
    monkeypatch.setattr(indexed, "_N_RESCORED", 12)
    monkeypatch.setattr(indexed, "_BLOCK_MODELS", 3)
    monkeypatch.setattr(indexed, "_BLOCK_CONCEPTS", 2)
    monkeypatch.setattr(storing, "MANY_LABELS", 1)


# --- the same choice --------------------------------------------------------------------------------------------------


@few_examples
@given(
    seed=st.integers(0, 10_000),
    n_graphs=st.integers(1, 3),
    n_models=st.integers(1, 30),
    n_classes=st.sampled_from([1, 2, 5, 30]),
    domain=st.sampled_from([None, "photo", "a pencil sketch", "drawing of a photo"]),
    strategy=st.sampled_from([Strategy.MLL, Strategy.MLL, Strategy.GENERAL]),
    k=st.integers(1, 3),
)
def test_an_index_gives_the_choice_among_all_its_labels(seed, n_graphs, n_models, n_classes, domain, strategy, k):
    graphs, labels = joined_worlds(n_graphs, n_models, seed)

    def match_of(union):
        return random_match(union, n_classes, seed=seed)

    config = SelectionConfig(strategy, k)
    assert_same_choice(graphs, labels, match_of, config, domain)
    costs = [label.cost for label in labels[0]]
    caps = {"max_parameters": int(np.median([c.parameters for c in costs])), "max_gflops": max(c.gflops for c in costs)}
    assert_same_choice(graphs, labels, match_of, replace(config, **caps), domain)


@few_examples
@given(seed=st.integers(0, 10_000), n_graphs=st.integers(1, 3), n_classes=st.sampled_from([1, 4, 30]))
def test_mean_estimates_are_those_of_whole_labels(seed, n_graphs, n_classes):
    graphs, labels = joined_worlds(n_graphs, 12, seed)
    every = [label for column in labels for label in column]
    whole = join_labels(every, graphs, reference=graphs[0].digest)
    known = [label for graph, column in zip(graphs, labels, strict=True) for label in index_of(graph, column).labels]
    match = random_match(whole.union.graph, n_classes, seed=seed)
    candidates, config = Candidates(whole, match, "photo"), SelectionConfig()
    asked = task_query(candidates, config.class_weight)
    exact, _ = estimates(asked, measure_all(whole, asked), task_odds_ratios(whole, asked, "photo"))
    light = join_labels(known, graphs, reference=graphs[0].digest)
    query = indexed.IndexQuery(Candidates(light, match, "photo"), config)
    np.testing.assert_allclose(query.mean_estimates(), exact.mean(axis=1), atol=0.04)
    means = query.estimates(np.arange(12))[0].mean(axis=1)
    np.testing.assert_allclose(means, exact.mean(axis=1), atol=0.02)


@pytest.mark.parametrize("n_classes", [2, 30])
def test_the_order_of_labels_does_not_matter(n_classes):
    graphs, labels = joined_worlds(1, 30, seed=5)
    choices = [
        assert_same_choice(
            graphs, labels, lambda union: random_match(union, n_classes), SelectionConfig(k=3), "photo", order=order
        )
        for order in (range(30), range(29, -1, -1), np.random.default_rng(0).permutation(30))
    ]
    assert choices[0] == choices[1] == choices[2]


def test_cost_and_id_decide_between_equals():
    graph = forest(10)
    one = random_labels(graph, 1)[0]
    order = np.random.default_rng(0).permutation(40).tolist()
    labels = [replace(one, model=replace(one.model, repo_id=f"org/m{n:02d}")) for n in order]
    labels[7] = replace(labels[7], cost=Cost(1, one.cost.gflops / 2))
    cheapest = labels[7].model.repo_id
    selection = assert_same_choice([graph], [labels], lambda union: random_match(union, 3), SelectionConfig(k=3))
    first = [name for name in ("org/m00", "org/m01", "org/m02") if name != cheapest]
    assert [model.ref.repo_id for model in selection.models[:3]] == [cheapest, *first[:2]]


def test_few_of_many_labels_are_read():
    graph = forest(30)
    labels, read = random_labels(graph, 60), []
    match = random_match(graph, 5)
    fetch = fetch_from(labels)
    light = join_labels(index_of(graph, labels).labels, [graph])
    select_indexed(
        Candidates(light, match), SelectionConfig(k=2), lambda wanted: (read.extend(wanted), fetch(wanted))[1]
    )
    assert len(read) in (8, 9)  # the best eight, and the generally best one


def test_models_without_a_label_are_placed_by_those_with_published_accuracy(monkeypatch):
    graph = forest(20)
    labels = random_labels(graph, 40)
    named = [label.model.repo_id for label in labels][::9]
    table = tuple(
        make_known(name, value)
        for name, value in [*zip(named, [0.3, 0.4, 0.5, 0.55, 0.6], strict=True), ("org/x", 0.9), ("org/y", 0.42)]
    )
    know_only(monkeypatch, table)
    for strategy in (Strategy.MLL, Strategy.GENERAL):
        config = SelectionConfig(strategy, k=3)
        assert_same_choice([graph], [labels], lambda union: random_match(union, 3), config, published=table[-2:])


def test_no_model_within_the_caps():
    graph = forest(10)
    light = join_labels(index_of(graph, random_labels(graph, 3)).labels, [graph])
    with pytest.raises(NoModelFitsError, match="within the limits"):
        select_indexed(Candidates(light, random_match(graph, 2)), SelectionConfig(max_parameters=1), lambda _: ())


# --- four bytes per concept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rivals", [1, 6, 40, 299, 1840, 8999, 59_999])
@pytest.mark.parametrize("n_candidates", [2, 3, 5, 10, 30, 100, 1000])
def test_recall_from_codes(n_rivals, n_candidates):
    code = _code_for(n_rivals)
    rng = np.random.default_rng(0)
    level, spread = rng.uniform(-2, np.log2(n_rivals + 1) + 1, 400), rng.uniform(1.5, 3, 400)
    draws = level[:, None] + spread[:, None] * rng.standard_normal((400, 60))
    beaten = np.minimum(np.floor(2.0**draws), n_rivals)
    bins = np.where(beaten < 1, 0, np.minimum(np.floor(np.log2(np.maximum(beaten, 1))) + 1, RANK_BINS - 1)).astype(int)
    ranks = np.stack([np.bincount(row, minlength=RANK_BINS) for row in bins]).astype(np.uint16)
    chance = chance_to_win(n_rivals, n_candidates)
    constants, weights = code.decoder(chance[None])
    found = constants + sum(weights[0, k] * field for k, field in enumerate(code_fields(code.encode(ranks))))
    error = np.abs(np.clip(found, 0, 1) - ranks @ chance / 60)
    assert np.percentile(error, 99) < (0.02 if n_rivals < 10_000 else 0.03)


def _code_for(n_rivals):
    class Graph:
        rival_counts = np.array([n_rivals])

    return RankCode.of_graph(Graph())


def test_concepts_without_images_and_without_rivals():
    graph = make_graph({"thing": ()})
    label = make_label(graph, support=0)
    shard = shard_of(graph, [label])
    assert shard.rows([0])[0].tolist() == [0]
    assert_same_choice([graph], [[label]], lambda _: make_match([[0]], [[1.0]]), SelectionConfig())


def test_size_per_label():
    n_concepts, n_labels, rng = 9000, 60, np.random.default_rng(0)
    graph = make_graph()
    of_one, _ = entry_of(make_label(graph, domain_names=tuple("abcdefghij")).summary, DIGEST, RankCode.of_graph(graph))
    codes = rng.integers(0, 2**32, (n_labels, n_concepts), dtype=np.uint32)
    support = np.full(n_concepts, 75, np.int32)
    entries = [(replace(of_one, support=support), row) for row in codes]
    assert len(shard_to_bytes(entries, RankCode.of_graph(graph))) / n_labels < 40_000
    small = indexing.SMALL_BYTES // (4 * n_concepts)
    assert small >= 1000  # a thousand labels are in one shard


class Remote(InMemory):
    """A file that notes which ranges are asked for, request by request."""

    requests = ()

    def read(self, ranges):
        Remote.requests += (tuple(ranges),)
        return super().read(ranges)


def test_a_remote_index_is_read_by_ranges():
    graph = forest(200)
    labels = random_labels(graph, 20)
    code = RankCode.of_graph(graph)
    content = shard_to_bytes([entry_of(label, DIGEST, code) for label in labels], code)
    index = LabelIndex((IndexShard.open(Remote("remote", memoryview(content))),))
    light = join_labels(index.labels, [graph])
    assert len(Remote.requests) == 2  # the header, and everything but the codes
    match = make_match([[100], [150]], [[1.0], [1.0]])
    select_indexed(Candidates(light, match), SelectionConfig(), fetch_from(labels))
    assert len(Remote.requests) == 3
    concepts = {100, 150, *graph.ancestors[100].tolist(), *graph.ancestors[150].tolist()}
    assert [end - start for start, end in Remote.requests[2]] == [4 * 20] * len(concepts)


# --- appending --------------------------------------------------------------------------------------------------------


def updated(shards, graph, labels):
    """Carry out an update; returns the new content of all shards, and which were written."""
    files = {(label.model.slug, label.model.revision): label for label in labels}
    digests = {key: _digest(label) for key, label in files.items()}
    read = []

    def reader(keys):
        for key in keys:
            read.append(key)
            yield files[key], digests[key]

    opened = {number: IndexShard.open(InMemory(str(number), memoryview(content))) for number, content in shards.items()}
    now, written = dict(shards), []
    for number, content in update_shards(opened, digests, graph, reader):
        written.append(number)
        if content is None:
            now.pop(number, None)
        else:
            now[number] = content
    return now, written, read


def _digest(label):
    return f"{int(label.mean_recall * 10**12):064x}"


def entries_of(shards):
    """Model and mean recall of every label of some shards."""
    opened = [IndexShard.open(InMemory("x", memoryview(content))) for content in shards.values()]
    return sorted(
        (label.model.repo_id, label.mean_recall) for shard in opened for label, _ in shard.entries(range(len(shard)))
    )


def expected(labels):
    return sorted((label.model.repo_id, label.mean_recall) for label in labels)


@pytest.fixture
def _small_shards(monkeypatch):
    monkeypatch.setattr(indexing, "SMALL_BYTES", 4 * 12 * 5)  # five labels on 12 concepts
    monkeypatch.setattr(indexing, "SMALL_SHARDS", 4)


@pytest.mark.usefixtures("_small_shards")
def test_labels_are_appended_to_the_last_shard():
    graph = forest(12)
    labels = random_labels(graph, 99)
    shards, _, _ = updated({}, graph, labels[:12])
    assert sorted(shards) == [0, 1, 2]
    assert entries_of(shards) == expected(labels[:12])
    assert updated(shards, graph, labels[:12]) == (shards, [], [])
    more, written, read = updated(shards, graph, labels[:14])
    assert (written, len(read)) == ([2], 2)
    assert entries_of(more) == expected(labels[:14])
    assert updated({}, graph, labels[:14])[0] == more  # the same labels, the same bytes

    all_of_them, _, read = updated(more, graph, labels)
    assert len(read) == 85
    assert entries_of(all_of_them) == expected(labels)
    assert all_of_them == updated({}, graph, labels)[0]
    sizes = [len(IndexShard.open(InMemory("x", memoryview(all_of_them[n])))) for n in sorted(all_of_them)]
    assert sizes == [20, 20, 20, 20, 5, 5, 5, 4]  # four small shards are merged into a large one
    one_by_one = {}
    for count in range(1, 30):
        one_by_one, written, read = updated(one_by_one, graph, labels[:count])
        assert len(read) == 1
    assert one_by_one == updated({}, graph, labels[:29])[0]


@pytest.mark.usefixtures("_small_shards")
def test_labels_that_changed_or_went():
    graph = forest(12)
    labels = list(random_labels(graph, 14))
    shards, _, _ = updated({}, graph, labels)
    changed = [replace(labels[0], ranks=np.roll(labels[0].ranks, 1, axis=1)), *labels[1:5], *labels[6:]]
    now, written, read = updated(shards, graph, changed)
    assert (set(written), len(read)) == ({0, 1, 2}, 1)
    assert entries_of(now) == expected(changed)
    assert updated(shards, graph, labels[:5])[0].keys() == {0}


def test_shards_keep_their_code():
    graph = forest(12)
    labels = random_labels(graph, 6)
    code = RankCode.of_graph(graph)
    code = replace(code, basis=code.basis + 0.001)  # as if rounded differently on another machine
    content = shard_to_bytes([entry_of(label, _digest(label), code) for label in labels[:3]], code)
    now, written, read = updated({0: content}, graph, labels)
    assert (written, len(read)) == ([0], 3)
    assert now == {0: shard_to_bytes([entry_of(label, _digest(label), code) for label in labels], code)}


# --- a folder ---------------------------------------------------------------------------------------------------------


def folder_of(folder, graph, labels):
    """A folder of labels."""
    store = LabelStore(folder)
    store.add_graph(graph)
    for label in labels:
        store.write(label)
    return store


def known(folder):
    return {label.model.repo_id: label for label in LabelStore(folder).indexed}


def _count_reads(monkeypatch):
    read, read_label = [], storing.read_label
    monkeypatch.setattr(storing, "read_label", lambda path, **more: (read.append(path), read_label(path, **more))[1])
    return read


def test_what_the_index_lacks_is_read_from_files(tmp_path, monkeypatch):
    graph = forest(12)
    labels = random_labels(graph, 9)
    store = folder_of(tmp_path, graph, labels[:6])
    assert store.indexed == ()
    assert store.update_index() == 6
    folder_of(tmp_path, graph, labels[6:8])
    changed = replace(labels[0], temperature=np.array([9], np.float32))
    store.write(changed)
    store.path_of(labels[1]).unlink()
    os.utime(store.path_of(labels[2]))  # as new as a copy
    read = _count_reads(monkeypatch)
    found = known(tmp_path)
    assert sorted(found) == [f"org/m0{n}" for n in (0, 2, 3, 4, 5, 6, 7)]
    assert {path.parts[-3] for path in read} == {"org--m00", "org--m06", "org--m07"}
    label = found["org/m00"]
    label.index.check(label.position, changed, np.empty(0, np.int64), np.empty(0, np.uint32))
    assert store.update_index() == 3
    assert sorted(read[3:]) == sorted(read[:3])
    assert known(tmp_path).keys() == found.keys()
    assert len(read) == 6
    assert LabelStore(tmp_path).update_index() == 0


def test_a_label_that_keeps_its_old_time_is_new_to_the_index(tmp_path):
    """As after ``rsync -a`` from another machine, or on one whose clock is behind."""
    graph = forest(12)
    labels = random_labels(graph, 3)
    store = folder_of(tmp_path, graph, labels)
    store.update_index()
    changed = replace(labels[0], temperature=np.array([9], np.float32))
    os.utime(store.write(changed), (1e9, 1e9))
    label = known(tmp_path)["org/m00"]
    label.index.check(label.position, changed, np.empty(0, np.int64), np.empty(0, np.uint32))
    assert label.sha256 == file_digest(store.path_of(changed)).hex()
    assert LabelStore(tmp_path).update_index() == 1


def test_groups_have_an_index_each(tmp_path):
    graphs, labels = joined_worlds(2, 5, seed=1)
    other = tuple(replace(label, probes_digest="e" * 40) for label in labels[0][:2])
    for graph, column in ((graphs[0], labels[0]), (graphs[1], labels[1]), (graphs[0], other)):
        folder_of(tmp_path, graph, column)
    count = len(labels[0]) + len(labels[1]) + 2
    assert LabelStore(tmp_path).update_index() == count
    assert len(list(tmp_path.glob("index/*/*.safetensors"))) == 3
    assert len(LabelStore(tmp_path).indexed) == count
    for label in other:
        LabelStore(tmp_path).path_of(label).unlink()
    LabelStore(tmp_path).update_index()
    assert len(list(tmp_path.glob("index/*/*.safetensors"))) == 2


def test_a_client_chooses_through_the_index(tmp_path, monkeypatch):
    graphs, labels = joined_worlds(2, 20, seed=3)
    for graph, column in zip(graphs, labels, strict=True):
        folder_of(tmp_path, graph, column)
    names = ["name1x0", "name3x0 thing", "name5x0"]
    choices = {}
    for has_index in (False, True):
        for strategy in (
            Strategy.MLL,
            Strategy.GENERAL,
            Strategy.PAPER,
        ):
            client = Client(tmp_path, encoder=WordEncoder())
            client.__dict__["source"] = LabelStore(tmp_path)
            choices[has_index, strategy] = client.select(names, SelectionConfig(strategy, k=2), domain="photo")
        LabelStore(tmp_path).update_index()
    read = _count_reads(monkeypatch)
    client = Client(tmp_path, encoder=WordEncoder())
    client.__dict__["source"] = LabelStore(tmp_path)
    client.select(names, SelectionConfig(k=2))
    assert len(read) < 20
    for strategy in (Strategy.PAPER,):
        assert choices[True, strategy] == choices[False, strategy]
    for strategy in (Strategy.MLL, Strategy.GENERAL):
        ours, theirs = choices[True, strategy], choices[False, strategy]
        assert (ours.models[:2], ours.matches) == (theirs.models[:2], theirs.matches)
        assert ours.scores[:2].tolist() == theirs.scores[:2].tolist()


# --- an index that cannot be trusted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["license", "cost", "ranks", "domain_ranks"])
def test_an_index_that_disagrees_with_its_labels_is_refused(field):
    graph = forest(12)
    labels = random_labels(graph, 5)
    other = {
        "license": "other",
        "cost": Cost(1, 1.0),
        "ranks": np.roll(labels[2].ranks, 1, axis=0),
        "domain_ranks": np.roll(labels[2].domain_ranks, 1, axis=0),
    }[field]
    others = [*labels[:2], replace(labels[2], **{field: other}), *labels[3:]]
    light = join_labels(index_of(graph, labels).labels, [graph])
    match = make_match([list(range(12))], [[1 / 12] * 12])
    with pytest.raises(LabelError, match="the index does not match the label of org/m02; rebuild the index"):
        select_indexed(Candidates(light, match), SelectionConfig(), fetch_from(others))


def content_of(n_labels=3):
    graph = forest(12)
    code = RankCode.of_graph(graph)
    return shard_to_bytes([entry_of(label, DIGEST, code) for label in random_labels(graph, n_labels)], code)


def opened(content):
    return IndexShard.open(InMemory("shard", memoryview(content)))


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(at=st.floats(0, 1), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_bytes_are_refused_or_harmless(at, value, cut):
    content = bytearray(content_of())
    at = min(int(at**3 * len(content)), len(content) - 1)  # mostly in the header
    content[at] = value
    try:
        shard = opened(bytes(content[:at] if cut else content))
        LabelIndex((shard,)).labels  # noqa: B018 - must not raise anything else
        shard.entries(range(len(shard)))
    except LabelError:
        pass


def changed_tensor(name, change):
    content = content_of()
    tensors, header = dict(load(content)), read_metadata(content)
    tensors[name] = change(tensors[name].copy())
    if tensors[name] is None:
        del tensors[name]
    return save(tensors, metadata={METADATA_KEY: json.dumps(header)})


def first_is(value):
    def change(tensor):
        tensor.flat[0] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("sample", first_is(99), "a sample does not exist"),
        ("sample", first_is(-1), "a sample does not exist"),
        ("support", first_is(-1), "support is negative"),
        ("domain_ranks", first_is(-1), "ranks by domain are negative"),
        ("rank_shares", first_is(np.nan), "shares are not between 0 and 1"),
        ("mean_recall", first_is(1.5), "recall is not between 0 and 1"),
        ("mean_recall", first_is(np.nan), "recall is not between 0 and 1"),
        ("basis", first_is(np.inf), "the basis is not finite"),
        ("basis", lambda basis: basis[:, :3].copy(), "basis is float64"),
        ("codes", lambda codes: codes[1:].copy(), "support is int32"),
        ("codes", lambda codes: codes.astype(np.int32), "size and shape of the codes do not match"),
        ("support", lambda support: support[0], "is no"),
        ("sample", lambda _: None, "is no"),
    ],
)
def test_hostile_tensors_are_refused(name, change, reason):
    with pytest.raises(LabelError, match=reason):
        opened(changed_tensor(name, change))


def changed_entries(**changes):
    def change(tensor):
        entries = json.loads(tensor.tobytes())
        entries[0] |= changes
        return np.frombuffer(json.dumps(entries).encode(), np.uint8)

    return changed_tensor("entries", change)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sha256": 1}, "lacks the sha256"),
        ({"model": {"repo_id": "a/b", "revision": 1, "backend": "x"}}, "'model.revision' is not of type str"),
        ({"model": {"repo_id": "../a/b", "revision": "1" * 40, "backend": "x"}}, "not of the form org/name"),
        ({"cost": {"parameters": True, "gflops": 1.0}}, "'cost.parameters' is not of type int"),
        ({"cost": {"parameters": 1, "gflops": -1.0}}, "cost is negative"),
        ({"cost": {"parameters": 1, "gflops": float("nan")}}, "cost is negative"),
        ({"license": 1}, "not a license id"),
        ({"domains": ["a"] * 2}, "two domains have the same name"),
        ({"domains": list("abcdef")}, "more domains than the index"),
        ({"graph": {"name": "x", "digest": "a" * 64, "location": "x"}}, "of several groups"),
    ],
)
def test_hostile_entries_are_refused(changes, reason):
    with pytest.raises(LabelError, match=reason):
        opened(changed_entries(**changes))


@pytest.mark.parametrize("header", [{}, {"schema": 1}, {"n_bins": 99}, {"n_bins": True}])
def test_hostile_headers_are_refused(header):
    content = content_of()
    known = read_metadata(content)
    with pytest.raises(LabelError, match="is not a valid index"):
        opened(save(load(content), metadata={METADATA_KEY: json.dumps({**known, **header} if header else {})}))


@pytest.mark.parametrize("entries", [[], {}, [1, 2, 3], 7])
def test_entries_of_another_form_are_refused(entries):
    with pytest.raises(LabelError, match=r"entries|entry"):
        opened(changed_tensor("entries", lambda _: np.frombuffer(json.dumps(entries).encode(), np.uint8)))


def test_shards_of_several_groups_are_refused():
    with pytest.raises(LabelError, match="of several groups"):
        LabelIndex((shard_of(forest(5), random_labels(forest(5), 1)), shard_of(forest(6), random_labels(forest(6), 1))))


def test_a_damaged_index_of_a_folder(tmp_path):
    graph = forest(12)
    store = folder_of(tmp_path, graph, random_labels(graph, 3))
    store.update_index()
    path = next(tmp_path.glob("index/*/*"))
    path.write_bytes(b"")
    with pytest.raises(LabelError, match=r"00000\.safetensors: cannot be read"):
        LabelStore(tmp_path).indexed  # noqa: B018 - a property that reads
    path.with_name("00007.safetensors").write_bytes(b"bad")
    assert LabelStore(tmp_path).update_index() == 3
    assert list(tmp_path.glob("index/*/*")) == [path]
    assert len(LabelStore(tmp_path).indexed) == 3
    with pytest.raises(InputError, match="has no labels"):
        LabelStore(tmp_path / "nowhere").list()
