"""Packs: what a label says of them, however it came about, and what no pack may be."""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from safetensors.numpy import load, save

from mll_hf.errors import GraphError, InputError, LabelError
from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.graph.probes import SamplingConfig, load_probes
from mll_hf.hub.index import IndexEntry, index_from_bytes, index_to_bytes
from mll_hf.labeling import verification
from mll_hf.labeling.engines import local
from mll_hf.labeling.fleet import Fleet, Outcome, Question, run, working_folder
from mll_hf.labeling.run import label_model, label_to_extend
from mll_hf.labeling.verification import Verdict, verify_label
from mll_hf.labels.counts import NO_RIVAL
from mll_hf.labels.embeddings import EMBEDDINGS_FILE, read_embeddings
from mll_hf.labels.label import ModelRef, label_from_bytes, label_to_bytes
from mll_hf.labels.packs import (
    GraphPack,
    attach_pack,
    covers_exactly,
    graph_with_packs,
    in_order,
    label_with_pack,
    load_pack,
    pack_to_bytes,
)
from mll_hf.labels.store import LabelStore, read_label
from worlds import SHA, FakeModel, Probe, make_graph, make_label, probes_of_all, unit, write_graph_folder

BASE = make_graph()
REF = ModelRef("org/model", SHA, "open_clip")
SAMPLING = SamplingConfig()


def concepts(hypernyms):
    return tuple(Concept(c, c, (c,), f"the kind {c}", tuple(h)) for c, h in hypernyms.items())


# 'bat' sorts between 'animal' and 'car', so indices of the base move; 'duck' is below both the base and the pack
BIRDS = GraphPack(
    "birds", concepts({"bat": ("animal",), "bird": ("animal",), "duck": ("bird", "pet"), "eagle": ("bird",)})
)
TRUCKS = GraphPack("trucks", concepts({"truck": ("vehicle",), "van": ("truck", "car"), "zeppelin": ("vehicle",)}))
SIGNS = GraphPack("a last one", concepts({"sign": ("vehicle",), "signal": ("vehicle",)}))
WHOLE = graph_with_packs(BASE, [BIRDS, TRUCKS, SIGNS])


class NoisyModel(FakeModel):
    """Embeds a picture as what it looks like plus noise that is its own."""

    def encode_pixels(self, pixels):
        plain = super().encode_pixels(pixels)
        return unit([row + noise(self.encoded[-len(plain) + i]) for i, row in enumerate(plain)])


def noise(serial):
    return np.random.default_rng(serial).normal(0, 0.25, len(WHOLE))


def probes_of(ids, count, style="photo"):
    """Images filed under each id, every third of which looks like another concept."""
    looks = [WHOLE.index[id] for id in ids for _ in range(count)]
    looks = [(v + 4) % len(WHOLE) if n % 3 == 2 else v for n, v in enumerate(looks)]
    return [Probe(id, v, style) for id, v in zip([id for id in ids for _ in range(count)], looks, strict=True)]


def write_pack(folder, pack, count=9, style="photo"):
    """A pack's folder; its images look like its concepts to a NoisyModel."""
    write_graph_folder(folder, probes_of([c.id for c in pack.concepts], count, style))
    (folder / "graph.json").write_bytes(pack_to_bytes(pack))
    return folder


class World:
    def __init__(self, root, monkeypatch):
        self.root, self.models, self.batches_left = root, [], None
        self.folder = write_graph_folder(root / "graph", probes_of(["car", "cat", "corgi", "dog"], 9))
        self.probes = load_probes(BASE, self.folder)
        self.packs = {
            pack.name: attach_pack(BASE, pack, write_pack(root / pack.name, pack, style=style))
            for pack, style in ((BIRDS, "drawing"), (TRUCKS, "photo"), (SIGNS, "icon"))
        }
        monkeypatch.setattr(local, "load_model", self.load)
        monkeypatch.setattr(verification, "load_model", self.load)

    def load(self, ref, device=None, token=None):
        self.models.append(NoisyModel(WHOLE, ref, self.batches_left))
        return self.models[-1]

    def label(self, store, *names, **options):
        packs = [self.packs[name] for name in names]
        store = LabelStore(self.root / store)
        return label_model(REF, BASE, self.probes, store, packs=packs, **{"batch_size": 4, **options})

    @property
    def n_encoded(self):
        return sum(len(model.encoded) for model in self.models)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


# --- counts


def naive_counts(pack):
    """What the rule says of a pack's images, image by image; by id."""
    model, graph = NoisyModel(WHOLE, REF), WHOLE
    texts = {c.id: model.encode_texts([c.caption])[0] for c in pack.concepts}
    above = {id: {graph.concepts[a].id for a in graph.ancestors[graph.index[id]]} & set(texts) for id in texts}
    counts = {c.id: {"hits": 0, "support": 0, "predicted": 0, "lost_to": {}} for c in pack.concepts}
    probes = probes_of([c.id for c in pack.concepts], 9)
    for serial, probe in enumerate(probes):
        image = unit([model._embeddings[probe.looks] + noise(serial)])[0]
        score = {id: float(np.float32(image @ text)) for id, text in texts.items()}
        for v in {probe.node, *above[probe.node]} & set(counts):
            no_rivals = {v, probe.node, *above[v], *above[probe.node]} | {u for u in above if v in above[u]}
            rivals = set(score) - no_rivals
            winners = {u for u in rivals if score[u] >= score[v]}
            counts[v]["support"] += 1
            counts[v]["hits"] += not winners
            answer = max(winners, key=score.get) if winners else v
            counts[answer]["predicted"] += 1
            for u in winners:
                counts[v]["lost_to"][u] = counts[v]["lost_to"].get(u, 0) + 1
    return counts


def test_a_pack_is_contested_by_itself_alone(world):
    label = world.label("all", "birds", "trucks", "a last one").label
    assert label.graph_digest == WHOLE.digest
    seen = set()
    for pack in (BIRDS, TRUCKS, SIGNS):
        naive = naive_counts(pack)
        for id, expected in naive.items():
            v = WHOLE.index[id]
            assert label.hits[v] == expected["hits"], id
            assert label.support[v] == expected["support"], id
            assert label.predicted[v] == expected["predicted"], id
            rivals = {WHOLE.concepts[u].id: w for u, w in zip(label.rivals[v], label.rival_wins[v], strict=True) if w}
            assert rivals == expected["lost_to"], id
            seen |= set(rivals)
    assert seen > {"bat", "duck", "sign"}
    assert 0 < label.hits.sum() < label.support.sum()


def test_what_was_measured_before_stays_as_it_was(world):
    base, label = world.label("base").label, world.label("all", "birds", "trucks").label
    graph = graph_with_packs(BASE, [BIRDS, TRUCKS])
    at = [graph.index[c.id] for c in BASE.concepts]
    for name in ("hits", "support", "predicted", "ranks", "node_precision", "rival_wins"):
        np.testing.assert_array_equal(getattr(label, name)[at], getattr(base, name), err_msg=name)
    named = [[graph.concepts[u].id for u in row if u != NO_RIVAL] for row in label.rivals[at]]
    assert named == [[BASE.concepts[u].id for u in row if u != NO_RIVAL] for row in base.rivals]
    assert label.domain_names == ("drawing", "photo")
    np.testing.assert_array_equal(label.domain_hits[1, at], base.domain_hits[0])
    np.testing.assert_array_equal(label.domain_ranks[1], base.domain_ranks[0])
    assert not label.domain_ranks[0].any()  # drawings are all of a pack
    assert label.domain_support[0, graph.index["duck"]] == 9
    assert label.temperature == base.temperature


def test_the_general_level_is_that_of_the_base(world):
    base, label = world.label("base").label, world.label("all", "birds").label
    assert label.mean_precision == base.mean_precision
    np.testing.assert_array_equal(label.mean_rank_shares[0], base.mean_rank_shares[0])
    assert label.node_precision.mean() != pytest.approx(base.node_precision.mean())


def test_images_of_a_pack_are_pooled_within_it(world):
    label, graph = world.label("all", "birds").label, graph_with_packs(BASE, [BIRDS])
    assert label.support[graph.index["bird"]] == 27
    assert label.support[graph.index["duck"]] == 9
    assert label.part_sizes.tolist() == [7, 4]
    assert label.support[graph.index["pet"]] == world.label("base").label.support[BASE.index["pet"]] == 18


def test_the_label_says_what_it_covers(world):
    label = world.label("all", "trucks", "birds").label
    assert label.base_digest == BASE.digest
    assert label.probes_revision == world.probes.revision
    assert [part.name for part in label.packs] == ["birds", "trucks"]
    for part, pack in zip(label.packs, (BIRDS, TRUCKS), strict=True):
        assert part.digest == pack.digest
        assert part.probes_revision == world.packs[pack.name].probes.revision
        graph = graph_with_packs(BASE, [BIRDS, TRUCKS])
        assert [graph.concepts[v].id for v in part.concepts] == [c.id for c in pack.concepts]
    assert [part.domains for part in label.packs] == [("drawing",), ("photo",)]
    assert covers_exactly(label, [world.packs["birds"], world.packs["trucks"]])
    assert not covers_exactly(label, [world.packs["birds"]])
    plain = world.label("base").label
    assert plain.packs == ()
    assert plain.base_digest == BASE.digest
    assert b"extension" not in label_to_bytes(plain)


# --- however it came about


def test_all_ways_to_a_label_give_the_same_bytes(world):
    names = ("birds", "trucks", "a last one")
    whole = world.label("at once", *names).path.read_bytes()
    for order in permutations(names):
        label = world.label(f"base of {order}").label
        for count in (1, 2, 3):
            result = world.label(f"{count} of {order}", *order[:count], earlier=label)
            label = result.label
            assert result.measured
        assert result.path.read_bytes() == whole, order
    base = world.label("base").label
    assert (
        world.label("two at once", *names, earlier=world.label("one", "trucks", earlier=base).label).path.read_bytes()
        == whole
    )


def test_only_what_is_new_is_encoded(world):
    base = world.label("base").label
    assert world.n_encoded == 36
    one = world.label("one", "birds", earlier=base).label
    assert world.n_encoded == 36 + 36
    world.label("two", "birds", "trucks", earlier=one)
    assert world.n_encoded == 36 + 36 + 27
    loaded = len(world.models)
    result = world.label("again", "birds", earlier=one)
    assert not result.measured
    assert len(world.models) == loaded
    assert result.path.read_bytes() == label_to_bytes(one)


def test_a_killed_run_goes_on(world):
    whole = world.label("whole", "birds", "trucks").path.read_bytes()
    world.models.clear()
    world.batches_left = 9 + 9 + 3  # of the graph's, the first pack's and the second one's batches
    with pytest.raises(KeyboardInterrupt):
        world.label("killed", "birds", "trucks")
    assert world.n_encoded == 36 + 36 + 12
    assert not list((world.root / "killed").rglob("label.safetensors"))
    world.batches_left = None
    assert world.label("killed", "birds", "trucks").path.read_bytes() == whole
    assert world.n_encoded == 36 + 36 + 27
    assert not (world.root / "killed" / ".partial").exists()


def test_a_second_run_does_nothing(world):
    world.label("all", "birds", "trucks")
    loaded = len(world.models)
    assert not world.label("all", "trucks", "birds").measured
    assert len(world.models) == loaded


def test_other_packs_need_another_folder(world):
    world.label("all", "birds")
    for names in ((), ("trucks",), ("birds", "trucks")):
        with pytest.raises(InputError, match="labels of another graph"):
            world.label("all", *names)
    (world.root / "birds" / "images.parquet").unlink()
    world.packs["birds"] = attach_pack(BASE, BIRDS, write_pack(world.root / "birds", BIRDS, count=8))
    with pytest.raises(InputError, match="other images"):
        world.label("all", "birds")
    assert world.label("all", "birds", overwrite=True).label.support[graph_with_packs(BASE, [BIRDS]).index["duck"]] == 8


@pytest.mark.parametrize(
    "change",
    [
        {"model": replace(REF, revision="f" * 40)},
        {"model": replace(REF, backend="transformers")},
        {"graph_digest": "f" * 64},
        {"probes_revision": "f" * 40},
        {"sampling": SamplingConfig(74)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_label_of_something_else_is_not_extended(world, change):
    earlier = replace(world.label("base").label, **change)
    with pytest.raises(InputError, match="leave it out and measure the model anew"):
        world.label("all", "birds", earlier=earlier)


def test_a_label_that_covers_more_is_not_extended(world):
    earlier = world.label("one", "trucks").label
    with pytest.raises(InputError, match=r"covers packs \(trucks\)"):
        world.label("all", "birds", earlier=earlier)


def test_packs_of_another_graph_or_sample_are_not_mixed_in(world):
    sampled = attach_pack(BASE, BIRDS, world.root / "birds", SamplingConfig(5))
    with pytest.raises(InputError, match="sampled otherwise"):
        label_model(REF, BASE, world.probes, LabelStore(world.root / "all"), packs=[sampled])
    other = make_graph({"machine": ()})
    with pytest.raises(GraphError, match="does not have: animal, pet"):
        label_model(REF, other, world.probes, LabelStore(world.root / "all"), packs=[world.packs["birds"]])


def test_a_concept_above_all_others_is_not_tested(world):
    """Nothing could beat it, so all models would be perfect on it."""
    pack = GraphPack("fish", concepts({"fish": ("animal",), "eel": ("fish",), "cod": ("fish",)}))
    write_graph_folder(world.root / "fish", [Probe(id, 0) for id in ("cod", "eel", "fish") for _ in range(5)])
    attached = attach_pack(BASE, pack, world.root / "fish")
    assert np.diff(attached.probes.offsets).tolist() == [5, 5, 15]
    assert np.diff(attached.tests.offsets).tolist() == [5, 5, 0]
    assert len(attached.tests) == 10
    assert [pack.concepts[v].id for v in attached.tests.nodes] == ["cod"] * 5 + ["eel"] * 5


def test_a_pack_with_nothing_to_tell_apart_is_not_measured(world):
    pack = GraphPack("fish", concepts({"fish": ("animal",), "eel": ("fish",)}))
    write_graph_folder(world.root / "fish", [Probe(id, 0) for id in ("eel", "fish") for _ in range(5)])
    world.packs["fish"] = attach_pack(BASE, pack, world.root / "fish")
    with pytest.raises(InputError, match="has no two concepts to tell apart"):
        world.label("all", "fish")


def test_the_label_to_extend_is_found_by_revision(world):
    label = world.label("base").label
    store = LabelStore(world.root / "base")
    assert label_to_extend(store, replace(REF, repo_id="org/copy")) == store.labels[0]
    assert label_to_extend(store, replace(REF, revision="f" * 40)) is None
    extended = label_model(replace(REF, repo_id="org/copy"), BASE, world.probes, LabelStore(world.root / "copy"),
                           packs=[world.packs["birds"]], earlier=label, batch_size=4).label  # fmt: skip
    assert extended.model.repo_id == "org/copy"


def test_embeddings_of_all_parts(world):
    base = world.label("base").label
    path = world.label("all", "birds", "trucks", earlier=base, keep_embeddings=True).path
    assert world.n_encoded == 2 * 36 + 36 + 27  # an earlier label has none
    embeddings, label = read_embeddings(path.parent), read_label(path)
    graph = graph_with_packs(BASE, [BIRDS, TRUCKS])
    assert embeddings.images.shape == (36 + 36 + 27, len(WHOLE))
    assert np.diff(embeddings.offsets).tolist() == label.support.tolist()
    model = NoisyModel(WHOLE, REF)
    texts = model.encode_texts([c.caption for c in graph.concepts])
    np.testing.assert_allclose(embeddings.concepts, texts, atol=1e-3)
    selected = np.array([graph.index[id] for id in ("car", "duck", "van")])
    expected = []
    for id, pack in (("car", None), ("duck", BIRDS), ("van", TRUCKS)):
        ids = ["car", "cat", "corgi", "dog"] if pack is None else [c.id for c in pack.concepts]
        images = [(s, p) for s, p in enumerate(probes_of(ids, 9)) if p.node == id]
        answers = [np.argmax(texts[selected] @ (model._embeddings[p.looks] + noise(s))) for s, p in images]
        expected.append(np.mean(np.array(answers) == len(expected)))
    np.testing.assert_allclose(embeddings.restricted_precision(selected), expected)
    assert 0 < min(expected) < 1
    assert not (world.root / "base" / EMBEDDINGS_FILE).exists()


# --- what is published


def test_a_store_of_extended_labels(world):
    label = world.label("all", "birds", "trucks").label
    store = LabelStore(world.root / "all")
    assert store.graph.digest == graph_with_packs(BASE, [TRUCKS, BIRDS]).digest
    assert store.graph.name == "tiny + birds + trucks"
    assert store.labels[0].packs == label.packs
    assert label_from_bytes(label_to_bytes(label)).extension == label.extension
    entry = IndexEntry(label.summary, "0" * 64)
    graph, (read,) = index_from_bytes(index_to_bytes(store.graph, [entry]))
    assert graph.digest == store.graph.digest
    assert read.summary.packs == label.packs
    assert read.summary.mean_precision == label.mean_precision


def with_metadata(label, change):
    """The bytes of a label whose metadata say something else, under a checksum that fits."""
    blob = label_to_bytes(label)
    length = int.from_bytes(blob[:8], "little")
    metadata = json.loads(json.loads(blob[8 : 8 + length])["__metadata__"]["mll"])
    metadata.pop("sha256")
    change(metadata)
    from mll_hf.labels.label import _checksum
    from mll_hf.utils.files import canonical_json

    tensors = load(blob)
    metadata["sha256"] = _checksum(metadata, tensors)
    return save(tensors, {"mll": canonical_json(metadata)})


HOSTILE = {
    "no packs": lambda e: e.update(packs=[]),
    "packs that are no list": lambda e: e.update(packs={}),
    "a pack that is no object": lambda e: e["packs"].append(7),
    "no base": lambda e: e.pop("base_digest"),
    "a base that is no digest": lambda e: e.update(base_digest="f" * 63),
    "a pack without a name": lambda e: e["packs"][0].pop("name"),
    "a pack whose digest is none": lambda e: e["packs"][0].update(digest="x"),
    "no concepts": lambda e: e["packs"][0].update(concepts=[]),
    "concepts that are no numbers": lambda e: e["packs"][0].update(concepts=[True]),
    "concepts out of order": lambda e: e["packs"][0]["concepts"].reverse(),
    "concepts beyond the graph": lambda e: e["packs"][1].update(concepts=[10**30]),
    "negative concepts": lambda e: e["packs"][0].update(concepts=[-1]),
    "no domains": lambda e: e["packs"][0].pop("domains"),
    "an empty list of domains": lambda e: e["packs"][0].update(domains=[]),
    "a domain that is no text": lambda e: e["packs"][0].update(domains=[7]),
    "a domain that the label does not have": lambda e: e["packs"][0].update(domains=["icon"]),
    "a domain of other images": lambda e: e["packs"][0].update(domains=["drawing", "photo"]),
    "concepts of two packs": lambda e: e["packs"][1].update(concepts=e["packs"][0]["concepts"]),
    "all concepts": lambda e: e.update(packs=[{**e["packs"][0], "concepts": list(range(14))}]),
    "packs out of order": lambda e: e["packs"].reverse(),
    "the same pack twice": lambda e: e["packs"][1].update(digest=e["packs"][0]["digest"]),
    "a pack's concept taken for the base's": lambda e: e["packs"][0]["concepts"].pop(),
    "a base's concept taken for a pack's": lambda e: e["packs"][0]["concepts"].insert(0, 0),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_label_that_lies_about_its_packs_is_refused(world, what):
    label = world.label("all", "birds", "trucks").label
    assert label_from_bytes(with_metadata(label, lambda metadata: None))
    with pytest.raises(LabelError, match="not a valid label") as caught:
        label_from_bytes(with_metadata(label, lambda metadata: HOSTILE[what](metadata["extension"])))
    assert "checksum" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_extension_that_is_no_object_is_refused(world):
    label = world.label("all", "birds").label
    for value in (None, 3, "x", []):
        with pytest.raises(LabelError, match="lack the label's packs"):
            label_from_bytes(with_metadata(label, lambda metadata, value=value: metadata.update(extension=value)))


def test_rivals_come_from_the_own_part(world):
    label = world.label("all", "birds", "trucks").label
    graph = graph_with_packs(BASE, [BIRDS, TRUCKS])
    for loser, stranger in (("duck", "van"), ("duck", "car"), ("car", "duck")):
        v = graph.index[loser]
        rivals = label.rivals.copy()
        assert label.rival_wins[v, 0] > 0
        rivals[v, 0] = graph.index[stranger]
        with pytest.raises(LabelError, match="rivals are inconsistent"):
            label_from_bytes(label_to_bytes(replace(label, rivals=rivals)))


# --- verification


def test_a_label_with_packs_is_verified(world):
    label = world.label("all", "birds", "trucks", batch_size=128).label
    packs = [world.packs["trucks"], world.packs["birds"]]
    result = verify_label(label, BASE, world.probes, packs=packs, n_concepts=40, seed=1)
    assert len(result.concepts) == (label.support > 0).sum() == 14
    np.testing.assert_array_equal(result.claimed, result.measured)
    assert not result.moved.any()
    assert set(label.part_numbers[result.concepts]) == {0, 1, 2}
    liar = replace(label, ranks=label.ranks[:, ::-1].copy())
    assert verify_label(liar, BASE, world.probes, packs=packs, n_concepts=40).verdict is Verdict.DISAGREES
    for wrong in ([], packs[:1], [*packs, world.packs["a last one"]]):
        with pytest.raises(InputError, match="covers other packs"):
            verify_label(label, BASE, world.probes, packs=wrong)


# --- many models


def test_a_fleet_knows_which_packs_it_asks_for(world):
    packs = tuple(world.packs.values())
    label = world.label("all", *world.packs).label
    crew = Fleet(BASE, world.probes, LabelStore(world.root / "all"), None, packs=packs)
    assert crew.graph.digest == WHOLE.digest
    assert crew.question.is_answered_by(label, REF)
    other = replace(packs[0], probes=replace(packs[0].probes, revision="f" * 40))
    assert not Question(WHOLE, world.probes.revision, SAMPLING, (other, *packs[1:])).is_answered_by(label, REF)
    assert not Question(WHOLE, world.probes.revision, SAMPLING).is_answered_by(label, REF)
    folders = [working_folder(BASE, world.probes, part) for part in ((), packs[:1], packs, (other, *packs[1:]))]
    assert len(set(folders)) == 4
    assert working_folder(BASE, world.probes, packs) == working_folder(BASE, world.probes, packs[::-1])


def test_a_fleet_extends_labels(world, monkeypatch):
    world.label("base")
    ref = replace(REF, repo_id="local-dir:/models/one")
    monkeypatch.setattr("mll_hf.labeling.fleet.runs.resolve_model", lambda name: ref)
    packs = world.packs["birds"], world.packs["trucks"]
    stores = {name: LabelStore(world.root / name) for name in ("base", "fleet")}
    crew = Fleet(BASE, world.probes, stores["fleet"], None, batch_size=4, packs=packs, extended=stores["base"])
    (result,) = run(["one"], crew, lambda number, name: None)
    assert result.outcome is Outcome.LABELED
    assert world.n_encoded == 36 + 36 + 27
    expected = replace(world.label("whole", "birds", "trucks").label, model=ref)
    assert result.path.read_bytes() == label_to_bytes(expected)
    (again,) = run(["one"], crew, lambda number, name: None)
    assert again.outcome is Outcome.SKIPPED


# --- what a pack may be


def pack_of(hypernyms, **fields):
    return GraphPack("p", concepts(hypernyms), **fields)


def test_the_digest_is_that_of_the_concepts(tmp_path):
    pack = pack_of({"b": ("a",), "a": ("animal",)})
    assert pack.digest == replace(pack, name="q", concepts=pack.concepts[::-1], image_files=("images.parquet",)).digest
    assert pack.digest != pack_of({"b": ("a",), "a": ("vehicle",)}).digest
    (tmp_path / "graph.json").write_bytes(pack_to_bytes(pack))
    assert load_pack(tmp_path) == pack
    assert pack.attached_to == {"animal"}


@pytest.mark.parametrize(
    ("hypernyms", "complaint"),
    [
        ({"a": ()}, "without parents: a"),
        ({"a": ("b", "animal"), "b": ("a",)}, "form a cycle"),
        ({}, "no concepts"),
    ],
)
def test_what_no_pack_may_be(hypernyms, complaint):
    with pytest.raises(GraphError, match=complaint):
        pack_of(hypernyms)
    with pytest.raises(GraphError, match="duplicate ids"):
        GraphPack("p", concepts({"a": ("b",)}) * 2)


def test_packs_that_do_not_fit():
    with pytest.raises(GraphError, match="does not have: nowhere; use the graph"):
        graph_with_packs(BASE, [pack_of({"a": ("nowhere",)})])
    with pytest.raises(GraphError, match="duplicate ids: cat"):
        graph_with_packs(BASE, [pack_of({"cat": ("animal",)})])
    with pytest.raises(GraphError, match="duplicate ids: bird"):
        graph_with_packs(BASE, [BIRDS, pack_of({"bird": ("animal",)})])
    with pytest.raises(GraphError, match="does not have: bird"):  # packs know nothing of one another
        graph_with_packs(BASE, [BIRDS, pack_of({"owl": ("bird",)})])


@pytest.mark.parametrize(
    "images", [7, "images.parquet", ["../images.parquet"], ["/images.parquet"], ["graph.json"], [3]]
)
def test_a_list_of_images_that_leads_astray(tmp_path, images):
    document = {"nodes": json.loads(pack_to_bytes(BIRDS))["nodes"], "images": images}
    (tmp_path / "graph.json").write_text(json.dumps(document))
    with pytest.raises(GraphError, match="'images' must be a list of files") as caught:
        load_pack(tmp_path)
    assert "\n" not in str(caught.value)


def test_only_the_files_of_the_pack_count(tmp_path):
    write_pack(tmp_path / "p", BIRDS)
    (tmp_path / "p" / "images-left-over.parquet").write_bytes(b"half written")
    with pytest.raises(GraphError, match="not a readable parquet"):
        attach_pack(BASE, BIRDS, tmp_path / "p")
    listed = replace(BIRDS, image_files=("images.parquet",))
    assert len(attach_pack(BASE, listed, tmp_path / "p").probes) == 36
    with pytest.raises(GraphError, match="not a readable parquet"):
        attach_pack(BASE, replace(BIRDS, image_files=("images-gone.parquet",)), tmp_path / "p")


def test_images_under_concepts_of_the_base_are_refused(tmp_path):
    write_graph_folder(tmp_path / "p", probes_of_all(1))
    with pytest.raises(GraphError, match=r"3 nodes of the images are not in the graph, such as car, cat, corgi"):
        attach_pack(BASE, BIRDS, tmp_path / "p")


def test_a_label_of_a_graph_can_be_put_together_by_hand(world):
    """Row by row: two base concepts, the pack's one between them and one after them."""
    base = SemanticGraph("b", concepts({"a": (), "c": ()}))
    pack = GraphPack("p", concepts({"b": ("a",), "d": ("c",)}))
    attached = replace(world.packs["birds"], pack=pack)
    old = make_label(base, [3, 10], rivals={0: {1: 7}})
    new = make_label(attached.graph, [4, 5], [6, 5], rivals={0: {1: 2}}, domain_names=("icon", "render"))
    label = label_with_pack(old, base, [], attached, new)
    assert label.hits.tolist() == [3, 4, 10, 5]
    assert label.support.tolist() == [10, 6, 10, 5]
    assert label.rivals[:2, 0].tolist() == [2, 3]
    assert label.rival_wins[:, 0].tolist() == [7, 2, 0, 0]
    assert label.domain_names == ("icon", "photo", "render")
    assert label.domain_support.tolist() == [[0, 6, 0, 5], [10, 0, 10, 0], [0, 0, 0, 0]]
    assert label.domain_ranks.sum(axis=1).tolist() == [0, 20, 0]
    assert label.packs[0].concepts == (1, 3)
    assert label.packs[0].domains == ("icon",)
    assert label_from_bytes(label_to_bytes(label)).hits.tolist() == [3, 4, 10, 5]


def test_order():
    assert [pack.name for pack in in_order([TRUCKS, SIGNS, BIRDS])] == ["a last one", "birds", "trucks"]
