"""Match a task's classes to the graph's concepts.

Two ways, side by side. :meth:`ConceptIndex.match_captions` is the paper's: cosine between the class's description and
the concept's caption, the five best concepts, the raw cosine as weight (its transition matrix Z). :meth:`ConceptIndex.
match` is ours: a logit model of what a class name tells about a concept, fitted on names of other concepts than those
that it is measured on (``scripts/run_benchmark.py matching``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.matching.prompts import clean_class_name
from mll_hf.matching.words import WordIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.matching.describe import Description
    from mll_hf.matching.text_encoder import TextEncoder

PAPER_CONCEPTS = 5  # K_n; not stated in the paper, 5 in the authors' code
CONCEPTS = 8
COVERED = 0.5  # coverage from which a class counts as covered

# Coverage is logistic in the best logit; fitted on the queries of :class:`LogitWeights`, with their concepts in the
# graph and without.
_COVERAGE_SLOPE, _COVERAGE_MIDDLE = 0.56, 9.5
_RIDGE = 100.0  # how many lemmas of a kind it takes for a graph to say what gloss a name lets expect
_OWN_WORDS = frozenset({"file", "llm"})  # sources of descriptions that say more than name and graph do


@dataclass(frozen=True, slots=True)
class LogitWeights:
    """What each sign that a concept is a class counts in :meth:`ConceptIndex.match`.

    The defaults are the maximum likelihood (``bench.matching.fit_weights``) over queries for concepts of ImageNet-12k
    outside ImageNet-1k with all-MiniLM-L6-v2: synonyms taken out of the graph, lemmas, lemmas with a word of a
    hypernym, and lemmas with a word of the gloss.

    Attributes:
        name: Of the cosine of the class's name with the nearest lemma.
        caption: Of the cosine of name or description with the caption.
        gloss: Of how well the gloss fits what the name lets expect.
        words: Of the share of the name's words that the concept's names, gloss and ancestors hold.
        head: Of the share of the name that its head is, where that is a lemma of the concept.
        synonyms: Of the logarithm of the number of lemmas: a concept with many names bears each more rarely.
    """

    name: float = 4.8
    caption: float = 3.2
    gloss: float = 2.8
    words: float = 5.4
    head: float = 1.1
    synonyms: float = -0.6


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
    """Embedded captions, lemmas and glosses of a graph, and its words.

    Attributes:
        graph: The graph of V concepts.
        encoder: What embedded them.
        captions: [V, E] float32, unit norm.
        lemmas: [L, E] float32, unit norm; the lemmas of concept 0, of concept 1, and so on.
        starts: [V] row of each concept's first lemma.
        glosses: [V, E] float32, unit norm; the definitions alone.
        words: Where the words of names, glosses and ancestors' names occur.
        weights: Of the logit.
    """

    graph: SemanticGraph
    encoder: TextEncoder
    captions: NDArray[np.float32]
    lemmas: NDArray[np.float32]
    starts: NDArray[np.int64]
    glosses: NDArray[np.float32]
    words: WordIndex
    weights: LogitWeights = LogitWeights()

    @classmethod
    def build(cls, graph: SemanticGraph, encoder: TextEncoder) -> ConceptIndex:
        """Embed a graph; slow the first time with an encoder, then a look-up in its cache."""
        concepts = graph.concepts
        texts = [concept.caption for concept in concepts] + [concept.definition for concept in concepts]
        embeddings = encoder.encode([*texts, *(lemma for concept in concepts for lemma in concept.lemmas)])
        captions, glosses, lemmas = np.split(embeddings, [len(graph), 2 * len(graph)])
        starts = np.cumsum([0, *(len(concept.lemmas) for concept in concepts[:-1])]).astype(np.int64)
        return cls(graph, encoder, captions, lemmas, starts, glosses, WordIndex.build(graph))

    def match_captions(self, descriptions: Sequence[Description], top: int = PAPER_CONCEPTS) -> ClassMatch:
        """Match as the paper does: ``z_vy = cos(e(d_v), e(d_y))`` for the ``top`` best concepts, else 0."""
        cosines = self._encode_descriptions(descriptions) @ self.captions.T
        concepts = _best(cosines, top)
        similarities = np.take_along_axis(cosines, concepts, axis=1)
        coverage = self._coverage(descriptions, self.logits(descriptions))
        return ClassMatch(_names(descriptions), concepts, similarities, similarities, coverage, self.encoder.id)

    def match(self, descriptions: Sequence[Description], top: int = CONCEPTS) -> ClassMatch:
        """Match by name and meaning.

        The logit of a concept for a class is a weighted sum of six signs, see :class:`LogitWeights`. A description
        counts if a user or a language model wrote it; a template says no more than name and graph do. Weights are a
        softmax over the ``top`` best concepts.
        """
        logits = self.logits(descriptions)
        concepts = _best(logits, top)
        best = np.take_along_axis(logits, concepts, axis=1)
        weights = np.exp(best - best[:, :1])
        return ClassMatch(
            classes=_names(descriptions),
            concepts=concepts,
            similarities=best,
            weights=weights / weights.sum(axis=1, keepdims=True),
            coverage=self._coverage(descriptions, logits),
            encoder=self.encoder.id,
        )

    def _encode_descriptions(self, descriptions: Sequence[Description]) -> NDArray[np.float32]:
        """[C, E] unit-norm mean embedding of each class's texts."""
        embeddings = self.encoder.encode([text for description in descriptions for text in description.texts])
        counts = [len(description.texts) for description in descriptions]
        sums = np.add.reduceat(embeddings, np.cumsum([0, *counts[:-1]]), axis=0)
        return _unit(sums)

    def logits(self, descriptions: Sequence[Description]) -> NDArray[np.float32]:
        """The logit of each concept for each class; returns [C, V] float32."""
        classes = [description.class_name for description in descriptions]
        names = self.encoder.encode([clean_class_name(name) for name in classes])
        meanings = names.copy()
        described = [y for y, description in enumerate(descriptions) if description.source in _OWN_WORDS]
        if described:
            meanings[described] = self._encode_descriptions([descriptions[y] for y in described])
        weights = self.weights
        logits = (weights.caption * meanings) @ self.captions.T
        mean, gloss_map = self._gloss_map
        logits += weights.gloss * (names - mean) @ gloss_map
        logits += weights.name * self._lemma_cosines(names)
        logits += weights.synonyms * np.log(self._counts, dtype=np.float32)
        for row, name in zip(logits, classes, strict=True):
            row += weights.words * self.words.word_shares(name) + weights.head * self.words.head_shares(name)
        return logits.astype(np.float32)

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
        ranks = range(1, self._counts.max())
        return [(c, self.starts[c] + rank) for rank in ranks for c in [np.flatnonzero(self._counts > rank)]]

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return np.diff(self.starts, append=len(self.lemmas))

    @cached_property
    def _gloss_map(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A ridge regression from the graph's lemmas to the glosses of their concepts, as a table for names.

        A name and its gloss lie in different parts of the embedding space; the graph's own pairs tell how to get from
        one to the other. In a small graph, which tells little, all products are near 0.

        Returns:
            The mean lemma [E], and the matrix [E, V] whose product with a name less the mean says how well each gloss
            fits what the name lets expect.
        """
        mean = self.lemmas.mean(axis=0)
        centered, glosses = self.lemmas - mean, self.glosses - self.glosses.mean(axis=0)
        ridge = _RIDGE * np.eye(len(mean), dtype=np.float32)
        expected = np.linalg.solve(centered.T @ centered + ridge, centered.T @ np.repeat(glosses, self._counts, axis=0))
        return mean, (expected @ _unit(glosses).T).astype(np.float32)

    def _coverage(self, descriptions: Sequence[Description], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """[C] 1 where a concept carries the class's name, else how likely the best concept is the class itself.

        A concept that stands for n classes tells none of them from the others: each gets an n-th of its coverage.
        Classes without a name of their own in the graph do not count against one that has it.
        """
        named = np.array([len(self.words.concepts_named(d.class_name)) > 0 for d in descriptions])
        best = logits.argmax(axis=1).tolist()
        sharing = Counter(best), Counter(v for v, own in zip(best, named, strict=True) if own)
        counts = np.array([sharing[own][v] for v, own in zip(best, named.tolist(), strict=True)])
        likely = 1 / (1 + np.exp(-_COVERAGE_SLOPE * (logits.max(axis=1) - _COVERAGE_MIDDLE)))
        return (np.where(named, 1.0, likely) / counts).astype(np.float32)


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
