"""Match a task's classes to the graph's concepts.

Two ways, side by side. :meth:`ConceptIndex.match_captions` is the paper's: cosine between the class's description and
the concept's caption, the five best concepts, the raw cosine as weight (its transition matrix Z). :meth:`ConceptIndex.
match` is ours: names are compared too, a class that carries a concept's name goes there, and weights sum to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.prompts import clean_class_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.describe import Description
    from mll_hf.graph import SemanticGraph
    from mll_hf.text_encoder import TextEncoder

PAPER_CONCEPTS = 5  # K_n; not stated in the paper, 5 in the authors' code
CONCEPTS = 8
_WEIGHT_TEMPERATURE = 0.05
_SAME_NAME = 1.0
_STRANGERS = 512


@dataclass(frozen=True)
class ClassMatch:
    """The K concepts that stand for each of C classes, best first.

    Attributes:
        classes: The C class names.
        concepts: [C, K] int, indices of concepts.
        similarities: [C, K] float32, how similar each concept is to the class.
        weights: [C, K] float32, the entries of Z.
        coverage: [C] float32 from 0 (the graph has nothing like this class) to 1 (it has the class itself).
        encoder: Id of the text encoder.
    """

    classes: tuple[str, ...]
    concepts: NDArray[np.int64]
    similarities: NDArray[np.float32]
    weights: NDArray[np.float32]
    coverage: NDArray[np.float32]
    encoder: str

    @cached_property
    def selected(self) -> NDArray[np.int64]:
        """V_sel: the distinct concepts of all classes, ascending."""
        return np.unique(self.concepts)

    @cached_property
    def transition(self) -> NDArray[np.float32]:
        """Z, [len(selected), C]: weight of a selected concept for a class, 0 outside the class's K concepts."""
        Z = np.zeros((len(self.selected), len(self.classes)), np.float32)
        rows = np.searchsorted(self.selected, self.concepts)
        Z[rows, np.arange(len(self.classes))[:, None]] = self.weights
        return Z


@dataclass(frozen=True)
class ConceptIndex:
    """Embedded captions and lemmas of a graph.

    Attributes:
        graph: The graph of V concepts.
        encoder: What embedded them.
        captions: [V, E] float32, unit norm.
        lemmas: [L, E] float32, unit norm; the lemmas of concept 0, of concept 1, and so on.
        starts: [V] row of each concept's first lemma.
    """

    graph: SemanticGraph
    encoder: TextEncoder
    captions: NDArray[np.float32]
    lemmas: NDArray[np.float32]
    starts: NDArray[np.int64]

    @classmethod
    def build(cls, graph: SemanticGraph, encoder: TextEncoder) -> ConceptIndex:
        """Embed a graph; slow the first time with an encoder, then a look-up in its cache."""
        lemmas = [concept.lemmas for concept in graph.concepts]
        texts = [concept.caption for concept in graph.concepts] + [lemma for names in lemmas for lemma in names]
        embeddings = encoder.encode(texts)
        starts = np.concatenate([[0], np.cumsum([len(names) for names in lemmas])])[:-1]
        return cls(graph, encoder, embeddings[: len(graph)], embeddings[len(graph) :], starts.astype(np.int64))

    def match_captions(self, descriptions: Sequence[Description], top: int = PAPER_CONCEPTS) -> ClassMatch:
        """Match as the paper does: ``z_vy = cos(e(d_v), e(d_y))`` for the ``top`` best concepts, else 0."""
        cosines = self._encode_descriptions(descriptions) @ self.captions.T
        concepts = _best(cosines, top)
        similarities = np.take_along_axis(cosines, concepts, axis=1)
        coverage = self._coverage(self._similarity(descriptions, cosines), self._same_name(descriptions))
        return ClassMatch(_names(descriptions), concepts, similarities, similarities, coverage, self.encoder.id)

    def match(self, descriptions: Sequence[Description], top: int = CONCEPTS) -> ClassMatch:
        """Match by name and meaning.

        The similarity is the mean of two cosines, description with caption and class name with the nearest lemma; a
        concept that carries the class's name comes first. Weights are a softmax over the ``top`` best concepts.
        """
        similarity = self._similarity(descriptions, self._encode_descriptions(descriptions) @ self.captions.T)
        same_name = self._same_name(descriptions)
        ranked = similarity + _SAME_NAME * same_name
        concepts = _best(ranked, top)
        best = np.take_along_axis(ranked, concepts, axis=1)
        weights = np.exp((best - best[:, :1]) / _WEIGHT_TEMPERATURE)
        return ClassMatch(
            classes=_names(descriptions),
            concepts=concepts,
            similarities=np.take_along_axis(similarity, concepts, axis=1),
            weights=weights / weights.sum(axis=1, keepdims=True),
            coverage=self._coverage(similarity, same_name),
            encoder=self.encoder.id,
        )

    def _encode_descriptions(self, descriptions: Sequence[Description]) -> NDArray[np.float32]:
        """[C, E] unit-norm mean embedding of each class's texts."""
        embeddings = self.encoder.encode([text for description in descriptions for text in description.texts])
        counts = [len(description.texts) for description in descriptions]
        sums = np.add.reduceat(embeddings, np.cumsum([0, *counts[:-1]]), axis=0)
        return _unit(sums)

    def _similarity(
        self, descriptions: Sequence[Description], caption_cosines: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[C, V] mean of the cosines of meanings and of names."""
        names = self.encoder.encode([clean_class_name(d.class_name) for d in descriptions])
        return ((caption_cosines + self._lemma_cosines(names)) / 2).astype(np.float32)

    def _lemma_cosines(self, names: NDArray[np.float32]) -> NDArray[np.float32]:
        """[C, V] cosine of each name with the nearest lemma of each concept."""
        cosines = self.lemmas @ names.T
        best = cosines[self.starts]
        for concepts, rows in self._further_lemmas:
            best[concepts] = np.maximum(best[concepts], cosines[rows])
        return best.T

    @cached_property
    def _further_lemmas(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Concepts with a second lemma and the rows of these, then the same for third lemmas, and so on.

        Rank by rank, the maximum over lemmas is a few operations on large arrays instead of one on each concept.
        """
        counts = np.diff(self.starts, append=len(self.lemmas))
        ranks = [(np.flatnonzero(counts > rank), rank) for rank in range(1, counts.max())]
        return [(concepts, self.starts[concepts] + rank) for concepts, rank in ranks]

    def _same_name(self, descriptions: Sequence[Description]) -> NDArray[np.float32]:
        """[C, V] 1 where a concept carries the class's name."""
        same = np.zeros((len(descriptions), len(self.graph)), np.float32)
        for row, description in enumerate(descriptions):
            same[row, list(self.graph.concepts_named(clean_class_name(description.class_name)))] = 1
        return same

    def _coverage(self, similarity: NDArray[np.float32], same_name: NDArray[np.float32]) -> NDArray[np.float32]:
        """[C] how much closer a class is to its nearest concept than strangers are to theirs.

        A stranger is a concept of the graph without itself and its relatives. Let F be the share of strangers that
        are less similar to their nearest concept: coverage is 2F - 1, at least 0; 1 for a class that carries a
        concept's name.
        """
        share = np.searchsorted(self._strangers, similarity.max(axis=1)) / max(len(self._strangers), 1)
        return np.where(same_name.any(axis=1), 1.0, np.clip(2 * share - 1, 0, 1)).astype(np.float32)

    @cached_property
    def _strangers(self) -> NDArray[np.float32]:
        """Ascending similarities of some concepts to the nearest concept that is neither itself nor a relative."""
        chosen = np.unique(np.linspace(0, len(self.graph) - 1, _STRANGERS).astype(np.int64))
        similarity = (
            self.captions[chosen] @ self.captions.T + self._lemma_cosines(self.lemmas[self.starts[chosen]])
        ) / 2
        for row, v in enumerate(chosen):
            similarity[row, [v, *self.graph.relatives(v)]] = -np.inf
        nearest = similarity.max(axis=1)
        return np.sort(nearest[np.isfinite(nearest)])  # a concept related to all others says nothing


def _best(similarity: NDArray[np.float32], top: int) -> NDArray[np.int64]:
    """[C, top] indices of the largest entries of each row, largest first; ties by index."""
    top = min(top, similarity.shape[1])
    threshold = np.partition(similarity, -top, axis=1)[:, -top, None]
    rows = [np.flatnonzero(row) for row in similarity >= threshold]
    return np.stack([r[np.argsort(-similarity[c, r], kind="stable")][:top] for c, r in enumerate(rows)])


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _names(descriptions: Sequence[Description]) -> tuple[str, ...]:
    return tuple(description.class_name for description in descriptions)
