"""The models to choose from, with what is known about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.matching.concept_index import ClassMatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.embeddings import ProbeEmbeddings
    from mll_hf.labels.join import JoinedLabels
    from mll_hf.labels.label import Label
    from mll_hf.models.known import KnownModel


class Figures(StrEnum):
    """Where the figures about a model come from."""

    LABEL = "label"
    PUBLISHED = "published"  # accuracy on ImageNet
    NOMINATED = "nominated"  # accuracy of a model made for the domain or language, beside others
    NONE = "none"  # such a model, without such figures


NOMINATED = (Figures.NOMINATED, Figures.NONE)


@dataclass(frozen=True)
class Candidates:
    """The models to choose from for the classes of a task.

    Attributes:
        labels: Labels of M models, joined over graphs; M may be 0.
        match: The classes, matched to concepts of the union of the graphs.
        domain: Domain of the task as given by the user.
        embeddings: Probe embeddings of each model on the single graph; empty unless available for all models.
        published: Known models without a label. Strategies whose scores are accuracies compare them with the labeled
            ones through ImageNet accuracy; others leave them out.
    """

    labels: JoinedLabels
    match: ClassMatch
    domain: str | None = None
    embeddings: tuple[ProbeEmbeddings, ...] = ()
    published: tuple[KnownModel, ...] = ()

    @property
    def n_candidates(self) -> int:
        """The number of classes, but at least two, since recall among one candidate is always 1."""
        return max(len(self.match.classes), 2)

    def subset(self, rows: Sequence[int]) -> Candidates:
        """The labeled models in the given rows."""
        embeddings = tuple(self.embeddings[m] for m in rows) if self.embeddings else ()
        return replace(self, labels=self.labels.subset(rows), embeddings=embeddings)


def unmatched(classes: tuple[str, ...]) -> ClassMatch:
    """A match of classes to no concept at all, where they cannot be matched."""
    none = np.empty((len(classes), 0))
    zeros = np.zeros(len(classes), np.float32)
    return ClassMatch(classes, none.astype(np.int64), none.astype(np.float32), none.astype(np.float32), zeros, "none")


def recall_among_classes(candidates: Candidates) -> NDArray[np.float64]:
    """[M, K] recall on the selected concepts among as many candidates as classes; NaN without probe images."""
    n_candidates = candidates.n_candidates
    return _over_graphs(
        candidates, lambda label, concepts, graph: label.recall_among(n_candidates, concepts, graph.rival_counts)
    )


def recall_among_all(candidates: Candidates) -> NDArray[np.float64]:
    """[M, K] recall on the selected concepts among all concepts of their graph; NaN without probe images."""
    return _over_graphs(candidates, lambda label, concepts, _: label.node_precision[concepts].astype(np.float64))


def _over_graphs(
    candidates: Candidates,
    recall_of: Callable[[Label, NDArray[np.int64], SemanticGraph], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """[M, K] recall on the selected concepts; for a concept in several graphs, the mean over all images."""
    labels, selected = candidates.labels, candidates.match.selected
    won, images = np.zeros((len(labels), len(selected))), np.zeros((len(labels), len(selected)))
    for g, graph in enumerate(labels.union.graphs):
        rows = labels.union.rows[g, selected]
        columns, concepts = np.flatnonzero(rows >= 0), rows[rows >= 0].astype(np.int64)
        for m, label in enumerate(labels.on_graph(g)):
            if label is not None:
                won[m, columns] += label.support[concepts] * recall_of(label, concepts, graph)
                images[m, columns] += label.support[concepts]
    return np.divide(won, images, out=np.full_like(won, np.nan), where=images > 0)


def effective_images(candidates: Candidates, m: int) -> NDArray[np.float64]:
    """[C] effective number of probe images, from the variance of the weighted mean over each class's concepts."""
    match, union = candidates.match, candidates.labels.union
    images = np.zeros(match.concepts.shape)
    for g, label in enumerate(candidates.labels.labels[m]):
        if label is not None:
            rows = union.rows[g][match.concepts]
            images += np.where(rows >= 0, label.support[rows], 0)
    weights = np.abs(match.weights).astype(np.float64)  # the paper's weights are cosines, which can be negative
    spread = (weights**2 / np.maximum(images, 1)).sum(axis=1)
    measured = (images > 0).any(axis=1) & (spread > 0)
    return np.divide(weights.sum(axis=1) ** 2, spread, out=np.zeros(len(spread)), where=measured)
