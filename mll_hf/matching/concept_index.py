"""Match the classes of a task to the concepts of a graph.

There are two methods. :meth:`ConceptIndex.match_captions` is the paper's: the five concepts with the highest cosine
between class description and concept caption, weighted by this cosine (transition matrix Z). :meth:`ConceptIndex.match`
is ours: a logit model of names and meanings, fitted and evaluated on disjoint concepts (``scripts/run_benchmark.py
matching``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.matching.prompts import clean_class_name
from mll_hf.matching.senses import USUAL
from mll_hf.matching.words import WordIndex, is_part
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.matching.describe import Description
    from mll_hf.matching.text_encoder import TextEncoder

PAPER_CONCEPTS = 5  # K_n; not stated in the paper, 5 in the authors' code
CONCEPTS = 8
COVERED = 0.5  # minimum coverage of a covered class
_DIGITS = 9  # cosines and logits are compared after rounding

# Coverage is the probability that the best concept is the class itself. If the concept has the name of the class, it is
# a logistic function of how often the name means the concept, fitted on 280 judged matches to names of 40 datasets
# (scripts/benchmark/judged_matches.csv) and on gold names, with and without their concepts in the graph. Else it is one
# of the best logit and of its lead over the second best, fitted on the queries of :class:`LogitWeights`, also with and
# without their concepts; and :data:`_COVERAGE_OF_PART` of that if the name is only a part of that of the concept, as in
# "deer" and "deerhound": of 13 such gold names with a coverage from .5, 1 was right.
_COVERAGE_OF_NAMED, _COVERAGE_OF_SENSE = 2.0, 1.6
_COVERAGE_OFFSET, _COVERAGE_OF_BEST, _COVERAGE_OF_LEAD = -7.05, 0.48, 0.49
_COVERAGE_OF_PART = 0.1
_RIDGE = 100.0  # of the regression from lemmas to glosses
_DESCRIBED_SOURCES = frozenset({"file", "llm"})  # descriptions with more information than name and graph


@dataclass(frozen=True, slots=True)
class LogitWeights:
    """Weights of the features in :meth:`ConceptIndex.match`.

    The defaults are maximum-likelihood estimates (``scripts/run_benchmark.py matching``) with all-MiniLM-L6-v2 over
    queries for concepts of ImageNet-12k outside ImageNet-1k: synonyms removed from the graph, lemmas, lemmas with a
    word of a hypernym, and lemmas with a word of the gloss.

    Attributes:
        name: Weight of the cosine of the class name with the nearest lemma.
        caption: Weight of the cosine of name or description with the caption.
        gloss: Weight of the cosine of the gloss with the gloss predicted from the name.
        words: Weight of the share of the name's words found in the concept's names, gloss and ancestors.
        head: Weight of the share of the name's words in its head, if the head is a lemma of the concept.
        synonyms: Weight of the logarithm of the number of lemmas: each of many names is used more rarely.
    """

    name: float = 4.8
    caption: float = 3.2
    gloss: float = 2.8
    words: float = 5.4
    head: float = 1.1
    synonyms: float = -0.6


@dataclass(frozen=True, eq=False)
class ClassMatch(ArrayFields):
    """The K best concepts of each of C classes, best first.

    Attributes:
        concepts: [C, K] int, indices of concepts.
        similarities: [C, K] float32, similarity of each concept to the class.
        weights: [C, K] float32, the entries of Z.
        coverage: [C] float32 from 0 (no similar concept in the graph) to 1 (the class itself is in the graph).
        names: [C, E] float64, unit-norm embeddings of the class names; None if not available.
    """

    classes: tuple[str, ...]
    concepts: NDArray[np.int64]
    similarities: NDArray[np.float32]
    weights: NDArray[np.float32]
    coverage: NDArray[np.float32]
    encoder: str
    names: NDArray[np.float64] | None = None

    @cached_property
    def selected(self) -> NDArray[np.int64]:
        """V_sel: the distinct concepts of all classes, ascending."""
        return np.unique(self.concepts)

    @cached_property
    def transition(self) -> NDArray[np.float32]:
        """Z, [len(selected), C]: weight of each selected concept for each class, 0 outside its K concepts."""
        Z = np.zeros((len(self.selected), len(self.classes)), np.float32)
        rows = np.searchsorted(self.selected, self.concepts)
        Z[rows, np.arange(len(self.classes))[:, None]] = self.weights
        return Z


@dataclass(frozen=True)
class ConceptIndex:
    """Embedded captions, lemmas and glosses of a graph of V concepts, and its words.

    Attributes:
        captions: [V, E] float64, unit norm. In double precision, the summation order of a matrix product does not
            change rounded results, so matches are the same on every processor.
        lemmas: [L, E] float64, unit norm; the lemmas of concept 0, then of concept 1, and so on.
        starts: [V] row of each concept's first lemma.
        glosses: [V, E] float64, unit norm; the definitions only.
        words: Index of the words in names, glosses and ancestors' names.
    """

    graph: SemanticGraph
    encoder: TextEncoder
    captions: NDArray[np.float64]
    lemmas: NDArray[np.float64]
    starts: NDArray[np.int64]
    glosses: NDArray[np.float64]
    words: WordIndex
    weights: LogitWeights = LogitWeights()

    @classmethod
    def build(cls, graph: SemanticGraph, encoder: TextEncoder) -> ConceptIndex:
        """Embed a graph; slow the first time, cached after that."""
        captions, glosses, lemmas = np.split(_encode(encoder, concept_texts(graph)), [len(graph), 2 * len(graph)])
        starts = np.cumsum([0, *(len(concept.lemmas) for concept in graph.concepts[:-1])]).astype(np.int64)
        return cls(graph, encoder, captions, lemmas, starts, glosses, WordIndex.build(graph))

    def match_captions(self, descriptions: Sequence[Description]) -> ClassMatch:
        """Match as in the paper: ``z_vy = cos(e(d_v), e(d_y))`` for the best :data:`PAPER_CONCEPTS`, else 0."""
        cosines = np.round(self._encode_descriptions(descriptions) @ self.captions.T, _DIGITS)
        return self._matched(descriptions, PAPER_CONCEPTS, cosines)

    def match(self, descriptions: Sequence[Description]) -> ClassMatch:
        """Match by name and meaning.

        The logit of a concept for a class is a weighted sum of six features, see :class:`LogitWeights`. Descriptions by
        users and language models are used; those from templates have no further information. Weights are a softmax over
        the best :data:`CONCEPTS`.
        """
        return self._matched(descriptions, CONCEPTS)

    def _matched(
        self, descriptions: Sequence[Description], top: int, cosines: NDArray[np.float64] | None = None
    ) -> ClassMatch:
        classes = tuple(description.class_name for description in descriptions)
        names = embed_names(self.encoder, classes)
        logits = self._logits(descriptions, names)
        scores = logits if cosines is None else cosines
        concepts = _top_indices(scores, top)
        best = weights = np.take_along_axis(scores, concepts, axis=1)
        if cosines is None:
            weights = np.exp(best - best[:, :1])
            weights /= weights.sum(axis=1, keepdims=True)
        similarities, coverage = best.astype(np.float32), self._coverage(descriptions, logits)
        return ClassMatch(classes, concepts, similarities, weights.astype(np.float32), coverage, self.encoder.id, names)

    def _encode_descriptions(self, descriptions: Sequence[Description]) -> NDArray[np.float64]:
        """[C, E] unit-norm mean embedding of each class's texts."""
        embeddings = _encode(self.encoder, [text for description in descriptions for text in description.texts])
        counts = [len(description.texts) for description in descriptions]
        sums = np.add.reduceat(embeddings, np.cumsum([0, *counts[:-1]]), axis=0)
        return _unit(sums)

    def _logits(self, descriptions: Sequence[Description], names: NDArray[np.float64]) -> NDArray[np.float64]:
        """[C, V] rounded logit of each concept for each class."""
        meanings = names.copy()
        described = [y for y, description in enumerate(descriptions) if description.source in _DESCRIBED_SOURCES]
        if described:
            meanings[described] = self._encode_descriptions([descriptions[y] for y in described])
        weights = self.weights
        logits = (weights.caption * meanings) @ self.captions.T
        mean, gloss_map, glosses = self._gloss_map
        logits += weights.gloss * (names - mean) @ gloss_map @ glosses.T
        lemma_cosines = np.maximum.reduceat(self.lemmas @ names.T, self.starts, axis=0)  # of the nearest lemma
        logits += weights.name * lemma_cosines.T
        logits += weights.synonyms * np.log(np.diff(self.starts, append=len(self.lemmas)))
        for row, description in zip(logits, descriptions, strict=True):
            name = description.class_name
            row += weights.words * self.words.word_shares(name) + weights.head * self.words.head_shares(name)
        return np.round(logits, _DIGITS)

    @cached_property
    def _gloss_map(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Ridge regression from the graph's lemmas to the glosses of their concepts.

        Names and glosses are in different regions of the embedding space; the regression predicts the gloss of a name.
        In a small graph all predictions are near 0. Returns the mean lemma [E]; a matrix [E, E] that maps a name minus
        this mean to the predicted gloss; and the centered, unit-norm glosses [V, E] to compare it with.
        """
        mean = self.lemmas.mean(axis=0)
        centered, glosses = self.lemmas - mean, self.glosses - self.glosses.mean(axis=0)
        ridge = _RIDGE * np.eye(len(mean))
        sums = np.add.reduceat(centered, self.starts, axis=0)  # all lemmas of a concept predict its gloss
        gloss_map = np.linalg.solve(centered.T @ centered + ridge, sums.T @ glosses)
        return mean, gloss_map, _unit(glosses)

    def _coverage(self, descriptions: Sequence[Description], logits: NDArray[np.float64]) -> NDArray[np.float32]:
        """[C] probability that the best concept is the class itself.

        If n classes have the same best concept, which cannot distinguish them, each gets 1/n of the coverage. Classes
        whose name usually means a concept of the graph share it only with each other.
        """
        best = logits.argmax(axis=1).tolist()
        senses = np.array([self.words.sense_share(d.class_name, v) for d, v in zip(descriptions, best, strict=True)])
        parts = [is_part(d.class_name, self.graph.concepts[v].lemmas) for d, v in zip(descriptions, best, strict=True)]
        best_logit = logits.max(axis=1)
        lead = best_logit - np.partition(logits, -2, axis=1)[:, -2] if logits.shape[1] > 1 else 0.0
        evidence = _COVERAGE_OFFSET + _COVERAGE_OF_BEST * best_logit + _COVERAGE_OF_LEAD * lead
        unnamed = _sigmoid(evidence) * np.where(parts, _COVERAGE_OF_PART, 1.0)
        named = _sigmoid(_COVERAGE_OF_NAMED + _COVERAGE_OF_SENSE * np.log(np.where(senses > 0, senses, USUAL) / USUAL))
        own = senses > 0
        meant = Counter(
            v for v, is_own, coverage in zip(best, own, named, strict=True) if is_own and coverage >= COVERED
        )
        sharing = [max(meant[v], 1) if is_own else best.count(v) for v, is_own in zip(best, own, strict=True)]
        return (np.where(own, named, unnamed) / sharing).astype(np.float32)


def concept_texts(graph: SemanticGraph) -> list[str]:
    """The texts of a graph to embed: V captions, V glosses, then the lemmas of concept 0, of concept 1, and so on."""
    concepts = graph.concepts
    texts = [concept.caption for concept in concepts] + [concept.definition for concept in concepts]
    return texts + [lemma for concept in concepts for lemma in concept.lemmas]


def embed_names(encoder: TextEncoder, classes: Sequence[str]) -> NDArray[np.float64]:
    """[C, E] unit-norm embeddings of class names."""
    return _encode(encoder, [clean_class_name(name) for name in classes])


def _top_indices(similarity: NDArray[np.float64], top: int) -> NDArray[np.int64]:
    """[C, top] indices of the largest entries of each row, largest first; ties by index."""
    top = min(top, similarity.shape[1])
    threshold = np.partition(similarity, -top, axis=1)[:, -top, None]
    rows = [np.flatnonzero(row) for row in similarity >= threshold]
    return np.stack([r[np.argsort(-similarity[c, r], kind="stable")][:top] for c, r in enumerate(rows)])


def _encode(encoder: TextEncoder, texts: Sequence[str]) -> NDArray[np.float64]:
    """[N, E] unit-norm embeddings in double precision."""
    return _unit(encoder.encode(texts).astype(np.float64))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
