"""Recall of labels among as many candidates as a task has classes, concept by concept on one graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.labels.counts import RANK_BINS, chances_to_win, expected_wins, mean_chance_to_win

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label


@dataclass(frozen=True)
class Extrapolation:
    """Extrapolates recall from all ``R`` rivals on a small graph to ``n`` candidates.

    The mean recall on the graph, as a function of log n, is continued beyond R + 1 candidates with the same slope: the
    factor is recall(R + 1) / recall((R + 1)^2 / n).
    """

    full: NDArray[np.float64]  # [RANK_BINS] mean probability to win among R + 1 candidates
    mirrored: NDArray[np.float64]  # [RANK_BINS] the same among (R + 1)^2 / n candidates

    @classmethod
    def beyond(cls, n_rivals: NDArray[np.int32], max_rivals: int, n_candidates: int) -> Extrapolation:
        """The extrapolation from ``max_rivals`` to n candidates; factors are 1 if n is not larger.

        The concepts of the graph have ``n_rivals`` [V].
        """
        full = mean_chance_to_win(n_rivals, max_rivals + 1)
        if n_candidates <= max_rivals + 1:
            return cls(full, full)
        mirror = max((max_rivals + 1) ** 2 / n_candidates, 1.0)
        low = math.floor(mirror)
        share = math.log(mirror / low) / math.log1p(1 / low)
        mirrored = (1 - share) * mean_chance_to_win(n_rivals, low) + share * mean_chance_to_win(n_rivals, low + 1)
        return cls(full, mirrored)

    def factors(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """[M] factors from mean rank shares [M, RANK_BINS]; 1 if nothing is recognized."""
        mirrored: NDArray[np.float64] = shares @ self.mirrored
        return np.divide(shares @ self.full, mirrored, out=np.ones_like(mirrored), where=mirrored > 0)


@dataclass(frozen=True)
class GraphQuery:
    """A task of C classes as a query of the labels on one graph of V concepts.

    It reads A concepts: the selected ones and their ancestors, hypernyms first.
    """

    columns: NDArray[np.intp]  # [K_g] positions of the graph's concepts among the K selected ones
    rows: NDArray[np.intp]  # [K_g] their positions in ``concepts``
    concepts: NDArray[np.int64]  # [A] indices of the concepts in the graph
    parents: tuple[tuple[int, ...], ...]  # [A] positions of the direct hypernyms of each concept
    chances: NDArray[np.float64]  # [A, RANK_BINS] probability to win an image among as many candidates as classes
    mean_chances: NDArray[np.float64]  # [RANK_BINS] mean probability over the graph's concepts
    extrapolations: tuple[Extrapolation, ...]  # from each distinct number of rivals, and from the mean number
    extrapolation_index: NDArray[np.intp]  # [A] position in ``extrapolations``

    @cached_property
    def depths(self) -> tuple[tuple[int, ...], ...]:
        """Positions of the concepts by depth, roots first; all hypernyms of a concept are in earlier groups."""
        depths: list[int] = []
        groups: list[list[int]] = []
        for position, parents in enumerate(self.parents):
            depths.append(max((depths[parent] + 1 for parent in parents), default=0))
            if depths[position] == len(groups):
                groups.append([])
            groups[depths[position]].append(position)
        return tuple(map(tuple, groups))


def graph_query(
    graph: SemanticGraph, rows: NDArray[np.int32], n_candidates: int, *, extrapolate: bool = False
) -> GraphQuery:
    """The query of one graph; ``rows`` [K] are the indices of the selected concepts in it, -1 for missing ones.

    ``extrapolate`` lowers the recall if there are more candidates than rivals. This is not needed on the reference
    graph, which is large and has only few concepts with few rivals, near the roots.
    """
    columns = np.flatnonzero(rows >= 0)
    wanted = set(rows[columns].tolist()).union(*(graph.ancestors[v].tolist() for v in rows[columns]))
    concepts = [v for v in graph.topological_order if v in wanted]
    position = {v: index for index, v in enumerate(concepts)}
    n_rivals = graph.rival_counts
    distinct, extrapolation_index = np.unique(n_rivals[concepts], return_inverse=True)
    with_rivals = n_rivals[n_rivals > 0]
    mean = round(float(with_rivals.mean())) if len(with_rivals) else 0
    extrapolations = [
        Extrapolation.beyond(n_rivals, max_rivals if extrapolate else n_candidates, n_candidates)
        for max_rivals in [*distinct.tolist(), mean]
    ]
    return GraphQuery(
        columns=columns,
        rows=np.array([position[v] for v in rows[columns].tolist()], np.intp),
        concepts=np.array(concepts, np.int64),
        parents=tuple(tuple(position[parent] for parent in graph.parents[v]) for v in concepts),
        chances=chances_to_win(n_rivals[concepts], n_candidates),
        mean_chances=mean_chance_to_win(n_rivals, n_candidates),
        extrapolations=tuple(extrapolations),
        extrapolation_index=extrapolation_index,
    )


@dataclass(frozen=True)
class Measured:
    """Results of a query for M models on one graph."""

    known: NDArray[np.bool_]  # [M] which models have a label on the graph; for others, only ``mean_recall`` is used
    recall: NDArray[np.float64]  # [M, A] expected recall among as many candidates as classes
    support: NDArray[np.int32]  # [M, A] probe images; [1, A] if the same for all models
    mean_recall: NDArray[np.float64]  # [M] over the graph, among as many candidates, see :func:`graph_mean_recall`
    spread: float = 0.0  # standard error of the mean recall of models without a label


def measure(labels: Sequence[Label | None], query: GraphQuery) -> Measured:
    """Query M labels on one graph."""
    zeros = np.zeros(len(query.concepts))
    recall, support, shares = [], [], []
    for label in labels:
        images = label.support[query.concepts] if label else zeros.astype(np.int32)
        wins = expected_wins(label.ranks[query.concepts], query.chances) if label else zeros
        recall.append(wins / np.maximum(images, 1))
        support.append(images)
        shares.append(label.mean_rank_shares if label else np.zeros(RANK_BINS))
    known = np.array([label is not None for label in labels], np.bool_)
    all_shares = np.stack(shares)
    factors = np.stack([each.factors(all_shares) for each in query.extrapolations], axis=1)[
        :, query.extrapolation_index
    ]
    return Measured(known, np.stack(recall) * factors, np.stack(support), mean_recall_among(query, all_shares))


def mean_recall_among(query: GraphQuery, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M] mean recall over the graph among as many candidates as classes, from mean rank shares [M, RANK_BINS]."""
    return shares @ query.mean_chances * query.extrapolations[-1].factors(shares)
