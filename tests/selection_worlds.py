"""Small graphs, labels and text encoders for the tests of matching, selection, client and report."""

from __future__ import annotations

import zlib

import numpy as np

from mll_hf.graph import Concept, SemanticGraph
from mll_hf.labels import NO_RIVAL, RIVALS, Cost, ModelLabel, ModelRef, precision_of
from mll_hf.matching import ClassMatch
from mll_hf.probes import SamplingConfig


class WordEncoder:
    """A text is the normalized sum of fixed random vectors of its words: texts with common words are alike."""

    id = "words"

    def __init__(self, size=48):
        self.size, self.calls = size, []

    def encode(self, texts):
        self.calls.append(list(texts))
        vectors = np.stack([sum(self._word(w) for w in (text.lower().split() or [""])) for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def _word(self, word):
        word = word.strip(".,")
        return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.size)


def animals():
    """animal > dog > corgi, animal > cat; vehicle > car, vehicle > truck: indices 0 to 6 in this order."""
    return SemanticGraph(
        "animals",
        (
            Concept("a0", "animal", ("animal", "beast"), "a living thing that moves", ()),
            Concept("a1", "dog", ("dog", "domestic dog", "Canis familiaris"), "an animal that barks", ("a0",)),
            Concept("a2", "corgi", ("corgi",), "a dog with short legs", ("a1",)),
            Concept("a3", "cat", ("cat", "true cat"), "an animal that meows", ("a0",)),
            Concept("v0", "vehicle", ("vehicle",), "a machine that carries people", ()),
            Concept("v1", "car", ("car", "auto", "motorcar"), "a vehicle with four wheels", ("v0",)),
            Concept("v2", "truck", ("truck", "lorry"), "a vehicle that carries loads", ("v0",)),
        ),
    )


def forest(n_concepts, seed=0):
    """A random forest of concepts, some with two hypernyms."""
    rng = np.random.default_rng(seed)
    concepts = []
    for v in range(n_concepts):
        parents = rng.choice(v, min(v, int(rng.integers(0, 3))), replace=False) if v else []
        lemmas = tuple(f"name{v}x{i}" for i in range(int(rng.integers(1, 5))))
        hypernyms = tuple(sorted(f"c{p:04d}" for p in parents))
        concepts.append(Concept(f"c{v:04d}", lemmas[0], lemmas, f"meaning {v} of {v % 3}", hypernyms))
    return SemanticGraph("forest", tuple(concepts))


def make_label(
    graph,
    name,
    precision=0.5,
    support=20,
    rivals=None,
    domains=None,
    parameters=10**7,
    gflops=1.0,
    temperature=1.0,
    revision=None,
):
    """A valid label.

    Args:
        graph: Of V concepts.
        name: Of the model, without its owner.
        precision: One number or V of them; hits are the nearest whole numbers.
        support: One number or V of them.
        rivals: Concept -> {rival: wins}; unless given, the next concept wins wherever one is not recognized.
        domains: Name -> (hits [V], support [V]); unless given, all images are photos.
    """
    n = len(graph)
    support = np.broadcast_to(np.asarray(support, np.int32), n).copy()
    hits = np.rint(np.broadcast_to(precision, n) * support).astype(np.int32)
    domains = domains or {"photo": (hits, support)}
    rival_of, wins_of = np.full((n, RIVALS), NO_RIVAL, np.uint16), np.zeros((n, RIVALS), np.uint16)
    for v in range(n):
        lost = int(support[v] - hits[v])
        wins = (rivals or {}).get(v, {(v + 1) % n: lost} if lost and n > 1 else {})
        for slot, (rival, count) in enumerate(sorted(wins.items(), key=lambda item: (-item[1], item[0]))):
            rival_of[v, slot], wins_of[v, slot] = rival, count
    return ModelLabel(
        model=ModelRef(f"org/{name}", revision or f"{zlib.crc32(name.encode()):040x}", "open_clip"),
        cost=Cost(parameters, gflops),
        graph_name=graph.name,
        graph_digest=graph.digest,
        probes_name="probes",
        probes_revision="0" * 40,
        sampling=SamplingConfig(75, 0),
        domain_names=tuple(domains),
        package_version="0",
        node_precision=precision_of(hits, support),
        hits=hits,
        predicted=hits + np.roll(support - hits, 1),
        support=support,
        domain_hits=np.array([h for h, _ in domains.values()]).astype(np.uint16),
        domain_support=np.array([s for _, s in domains.values()]).astype(np.uint16),
        rivals=rival_of,
        rival_wins=wins_of,
        temperature=np.array([temperature], np.float32),
    )


def random_labels(graph, n_models, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        make_label(
            graph,
            f"m{m:03d}",
            precision=rng.random(len(graph)),
            support=rng.integers(0, 60, len(graph)),
            parameters=int(rng.integers(10**6, 10**9)),
            gflops=float(rng.uniform(0.1, 100)),
            temperature=float(rng.uniform(0.5, 2)),
        )
        for m in range(n_models)
    )


def make_match(classes, concepts, weights, coverage=1.0):
    """A match written down by hand: [C, K] concepts and weights."""
    weights = np.asarray(weights, np.float32)
    coverage = np.broadcast_to(np.asarray(coverage, np.float32), len(classes)).copy()
    return ClassMatch(tuple(classes), np.asarray(concepts, np.int64), weights, weights, coverage, "by hand")


def random_match(graph, n_classes, top=4, seed=0):
    """Distinct random concepts and weights that sum to one."""
    rng = np.random.default_rng(seed)
    top = min(top, len(graph))
    concepts = [rng.choice(len(graph), top, replace=False) for _ in range(n_classes)]
    weights = -np.sort(-rng.dirichlet(np.ones(top), n_classes), axis=1)
    return make_match([f"class {y}" for y in range(n_classes)], concepts, weights, rng.random(n_classes))


def permuted_classes(match, order):
    return ClassMatch(
        tuple(match.classes[y] for y in order),
        match.concepts[order],
        match.similarities[order],
        match.weights[order],
        match.coverage[order],
        match.encoder,
    )
