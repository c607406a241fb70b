"""Our selection. It departs from the paper where the paper's estimate is noisy or does not compare.

1. Precision is that among as many candidates as the task has classes: one of 10 is easier than one of 9,000, and a
   model that nearly wins among 9,000 may win among 10.
2. Concepts with few probe images are shrunk towards their hypernyms, and those towards the model's general level.
3. A model with better or worse odds on pictures of the task's domain (photo, sketch, icon ...) than on others has
   them on every class.
4. Weights over concepts are normalised per class, so that classes compare.
5. Where the graph has nothing like a class, the model's general level stands in for it.
6. One set of models answers for all classes, since probabilities of different models do not compare class by class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.counts import chance_to_win, precision_among
from mll_hf.prompts import mentions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.graph import SemanticGraph
    from mll_hf.labels import LabelSummary
    from mll_hf.matching import ClassMatch
    from mll_hf.selection.base import Candidates

_PRIOR_IMAGES = 10.0  # a concept's hypernyms weigh as much as this many images of its own


def mll_scores(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """Estimated precision of every model on every class.

    Args:
        candidates: M models and C classes.
        class_weight: Weight of a class's own estimate against the mean over classes.

    Returns:
        [M, C] float64 from 0 to 1.
    """
    match, n_candidates = candidates.match, candidates_of(candidates.match)
    node_precision = shrunk_precision(candidates.labels, candidates.graph, match.selected, n_candidates)
    transition = match.transition.astype(np.float64)
    class_precision = node_precision @ (transition / transition.sum(axis=0))
    mixed = class_weight * class_precision + (1 - class_weight) * class_precision.mean(axis=1, keepdims=True)
    general = general_precision(candidates.labels, n_candidates)[:, None]
    coverage = match.coverage.astype(np.float64)
    precision = np.minimum(coverage * mixed + (1 - coverage) * general, 1.0)  # sums may round up
    ratios = np.array([domain_odds(label, candidates.domain, n_candidates) for label in candidates.labels])[:, None]
    return ratios * precision / (1 - precision + ratios * precision)


def candidates_of(match: ClassMatch) -> int:
    """Candidates of a task's contests: its classes, at least two, for against nothing every model wins."""
    return max(len(match.classes), 2)


def general_precision(labels: Sequence[LabelSummary], n_candidates: int) -> NDArray[np.float64]:
    """[M] mean precision over the graph, were there only as many candidates as a task has classes."""
    shares = np.stack([label.mean_rank_shares for label in labels])
    return shares @ chance_to_win(len(labels[0].hits), n_candidates)


def domain_odds(label: LabelSummary, domain: str | None, n_candidates: int) -> float:
    """Odds of recognising a probe image of the task's domain, over the odds for any probe image.

    1 if the task names none of the label's domains, or several. The domain's precision is taken as if 10 more of its
    images were like all others.
    """
    named = [s for s, name in enumerate(label.domain_names) if mentions(domain or "", [name.lower()])]
    if len(named) != 1:
        return 1.0
    overall = float(precision_among(label.domain_ranks.sum(axis=0), len(label.hits), n_candidates))
    if not 0 < overall < 1:
        return 1.0
    ranks = label.domain_ranks[named[0]]
    images, precision = ranks.sum(), float(precision_among(ranks, len(label.hits), n_candidates))
    shrunk = (images * precision + _PRIOR_IMAGES * overall) / (images + _PRIOR_IMAGES)
    return float(shrunk / (1 - shrunk) / (overall / (1 - overall)))


def shrunk_precision(
    labels: Sequence[LabelSummary], graph: SemanticGraph, selected: NDArray[np.int64], n_candidates: int
) -> NDArray[np.float64]:
    """Node precision among a number of candidates, with a prior from the hypernyms.

    ``p_v = (n_v * q_v + n0 * prior_v) / (n_v + n0)`` with ``n_v`` images, ``q_v`` the expected precision among so many
    candidates, ``n0`` = 10 images, and ``prior_v`` the mean of ``p`` over the direct hypernyms of ``v``. Above the
    roots stands the model's mean over the graph.

    Args:
        labels: M labels.
        graph: Their graph.
        selected: [K] concepts wanted.
        n_candidates: Candidates of a contest.

    Returns:
        [M, K] float64.
    """
    needed = _with_ancestors(graph, selected)
    row = {v: position for position, v in enumerate(needed)}
    chance = chance_to_win(len(graph), n_candidates)
    hits = np.stack([label.ranks[needed] @ chance for label in labels], axis=1)  # n_v * q_v
    support = np.stack([label.support[needed] for label in labels], axis=1)
    precision = np.empty_like(hits)
    for level in _levels(graph, needed):
        rows = [row[v] for v in level]
        parents = [[row[parent] for parent in graph.parents[v]] for v in level]
        prior = _means(precision, parents) if parents[0] else general_precision(labels, n_candidates)
        precision[rows] = (hits[rows] + _PRIOR_IMAGES * prior) / (support[rows] + _PRIOR_IMAGES)
    return precision[[row[v] for v in selected.tolist()]].T


def _with_ancestors(graph: SemanticGraph, selected: NDArray[np.int64]) -> NDArray[np.int64]:
    """The concepts and all above them, every hypernym before its hyponyms."""
    wanted = set(selected.tolist()).union(*(graph.ancestors[v].tolist() for v in selected))
    return np.array([v for v in graph.topological_order if v in wanted])


def _levels(graph: SemanticGraph, needed: NDArray[np.int64]) -> list[list[int]]:
    """The concepts by depth, roots first: all hypernyms of a level are in earlier ones."""
    depth: dict[int, int] = {}
    levels: list[list[int]] = []
    for v in needed.tolist():
        depth[v] = max((depth[parent] + 1 for parent in graph.parents[v]), default=0)
        if depth[v] == len(levels):
            levels.append([])
        levels[depth[v]].append(v)
    return levels


def _means(values: NDArray[np.float64], groups: list[list[int]]) -> NDArray[np.float64]:
    """[len(groups), M] mean over each group's rows of ``values`` [..., M]; no group is empty."""
    sizes = np.array([len(group) for group in groups])
    sums = np.add.reduceat(values[np.concatenate(groups)], np.cumsum(sizes) - sizes, axis=0)
    return sums / sizes[:, None]
