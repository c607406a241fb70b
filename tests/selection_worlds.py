"""Text encoders, matches and random labels for the tests of matching, selection, client and report."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import cache

import numpy as np
from hypothesis import strategies as st

from mll_hf.graph.concepts import Concept, GraphUnion, SemanticGraph
from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.join import JoinedLabels
from mll_hf.labels.label import Cost
from mll_hf.matching.concept_index import ClassMatch
from mll_hf.selection import Candidates, Strategy
from worlds import make_label, make_rivals


class WordEncoder:
    """A text is the normalized sum of fixed random vectors of its words: texts with common words are alike.

    Attributes:
        texts: Every text encoded so far.
    """

    id = "words"

    def __init__(self, size=48):
        self.size, self.texts = size, []

    def encode(self, texts):
        self.texts.extend(texts)
        return np.stack([_of_text(text, self.size) for text in texts])


@cache
def _of_text(text, size):
    vector = sum(_of_word(word.strip(".,"), size) for word in text.lower().split() or [""])
    return (vector / np.linalg.norm(vector)).astype(np.float32)


@cache
def _of_word(word, size):
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(size)


LABEL_STRATEGIES = [strategy for strategy in Strategy if strategy is not Strategy.IMAGENET]  # which needs no label


def forest(n_concepts, seed=0):
    """A random graph: concepts of one to four lemmas with none, one or two hypernyms."""
    rng = np.random.default_rng(seed)
    concepts = []
    for v in range(n_concepts):
        hypernyms = rng.choice(v, min(v, int(rng.integers(0, 3))), replace=False) if v else []
        lemmas = tuple(f"name{v}x{i}" for i in range(int(rng.integers(1, 5))))
        concepts.append(Concept(f"c{v:04d}", lemmas, f"meaning {v} of {v % 3}", tuple(f"c{h:04d}" for h in hypernyms)))
    return SemanticGraph("forest", tuple(concepts))


def random_labels(graph, n_models, seed=0, domain_names=("photo", "sketch")):
    """Labels of models m00, m01 ... with up to 30 images of each domain per concept; some concepts have none."""
    rng = np.random.default_rng(seed)
    labels = []
    for m in range(n_models):
        support = rng.integers(0, 31, (len(domain_names), len(graph))) * (rng.random(len(graph)) < 0.9)
        hits = rng.binomial(support, rng.uniform(0.1, 0.9)) if len(graph) > 1 else support
        hits = np.where(graph.rival_counts > 0, hits, support)  # without rivals nothing is lost
        ranks = _random_ranks(hits, support - hits, graph.rival_counts, rng)
        labels.append(
            make_label(
                graph,
                repo_id=f"org/m{m:02d}",
                revision=f"{m:040x}",
                domain_names=domain_names,
                domain_hits=hits,
                domain_support=support,
                temperature=float(rng.uniform(0.5, 2)),
                cost=Cost(int(rng.integers(10**6, 10**9)), float(rng.uniform(0.1, 100))),
                ranks=ranks.sum(axis=0).astype(np.uint16),
                domain_ranks=ranks.sum(axis=1).astype(np.int32),
            )
        )
    return tuple(labels)


def _random_ranks(hits, losses, n_rivals, rng):
    """[S, V, RANK_BINS] images by rank; where the right concept is beaten, then by any number of others that exists."""
    n_domains, n_concepts = hits.shape
    ranks = np.zeros((n_domains, n_concepts, RANK_BINS), np.int64)
    ranks[..., 0] = hits
    for s, v in np.ndindex(n_domains, n_concepts):
        if losses[s, v]:
            beaten_by = rng.integers(1, n_rivals[v] + 1, losses[s, v])
            np.add.at(ranks[s, v], [int(rank).bit_length() for rank in beaten_by], 1)
    return ranks


def make_match(concepts, weights, classes=None, coverage=1.0):
    """A match written down by hand: [C, K] concepts and weights."""
    concepts, weights = np.array(concepts, np.int64), np.array(weights, np.float32)
    classes = tuple(classes or (f"class {y}" for y in range(len(concepts))))
    coverage = np.broadcast_to(np.asarray(coverage, np.float32), len(classes)).copy()
    return ClassMatch(classes, concepts, weights, weights, coverage, "by hand")


def random_match(graph, n_classes, top=4, seed=0):
    """Distinct random concepts per class, weights that sum to one, any coverage."""
    rng = np.random.default_rng(seed)
    top = min(top, len(graph))
    concepts = [rng.choice(len(graph), top, replace=False) for _ in range(n_classes)]
    return make_match(concepts, -np.sort(-rng.dirichlet(np.ones(top), n_classes)), coverage=rng.random(n_classes))


def random_candidates(n_concepts=12, n_models=5, n_classes=4, seed=0, domain=None):
    graph = forest(n_concepts, seed)
    return candidates_on(
        graph, random_labels(graph, n_models, seed), random_match(graph, n_classes, seed=seed), domain=domain
    )


worlds = st.builds(
    random_candidates,
    n_concepts=st.integers(1, 15),
    n_models=st.integers(1, 7),
    n_classes=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    domain=st.sampled_from([None, "photo", "a pencil sketch"]),
)


def join_by_hand(*columns):
    """Labels [M] on each graph, with rivals, from (graph, labels) pairs; the first graph is the reference."""
    graphs, labels = zip(*columns, strict=True)
    return JoinedLabels(GraphUnion.of(graphs), tuple(zip(*labels, strict=True))).read_rivals(make_rivals)


def with_twins(candidates):
    """Every model twice, equal in all but its id, and two of them also at another revision."""
    rows = candidates.labels.labels

    def as_model(row, model):
        return tuple(label and replace(label, model=model) for label in row)

    twins = [as_model(row, replace(row[0].model, repo_id=f"{row[0].model.repo_id}-twin")) for row in rows]
    revisions = [as_model(row, replace(row[0].model, revision="f" * 40)) for row in rows[:2]]
    labels = replace(candidates.labels, labels=(*rows, *twins, *revisions), rivals=()).read_rivals(make_rivals)
    return replace(candidates, labels=labels)


def candidates_on(graph, labels, match, domain=None, **fields):
    """Candidates with labels on one graph."""
    return Candidates(join_by_hand((graph, labels)), match, domain, **fields)
