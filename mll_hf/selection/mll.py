"""Our selection. It departs from the paper where the paper's estimate is noisy or does not compare.

1. Precision is that among as many candidates as the task has classes: one of 10 is easier than one of 9,000, and a
   model that nearly wins among 9,000 may win among 10.
2. Concepts with few probe images are shrunk towards their hypernyms, and those towards the model's general level.
3. A model with better or worse odds on pictures of the task's domain (photo, sketch, icon ...) than on others has
   them on every class.
4. Weights over concepts are normalised per class, so that classes compare.
5. Where the graph has nothing like a class, the model's general level stands in for it.
6. One set of models answers for all classes, since probabilities of different models do not compare class by class.
7. A model must lead the generally best one by more than the estimates' standard error, or it stays behind it. The
   estimates of models that seem better are lowered by as much, so that they are cautious.
8. Concepts of a pack were contested within it. So their candidates are at most the pack's concepts, and they are shrunk
   towards the model's mean over the pack. Packs without images of the task's domain count for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.counts import precision_among
from mll_hf.prompts import mentions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    labels, n_candidates = candidates.labels, candidates_of(candidates.match)
    selected, weights = candidates.match.selected, evidence_weights(candidates, class_weight)
    node_precision = shrunk_precision(labels, candidates.graph, selected, n_candidates)
    general = general_precision(labels, n_candidates)[:, None]
    precision = np.clip(node_precision @ weights + (1 - weights.sum(axis=0)) * general, 0, 1)  # sums may round
    ratios = np.array([domain_odds(label, candidates.domain, n_candidates) for label in labels])[:, None]
    precision = ratios * precision / (1 - precision + ratios * precision)
    errors = standard_errors(labels, selected, node_precision, weights.mean(axis=1))
    return cautious(precision, errors, generally_best(labels))


def evidence_weights(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """[K, C] what the precision on each selected concept counts for each class; the rest of 1 is the general level's.

    A pack whose images are all of other domains than the task's counts for nothing: how models rank on drawn traffic
    signs says little of photos of them. The base graph is of many domains, and :func:`domain_odds` are known there.

    Args:
        candidates: K concepts and C classes.
        class_weight: Weight of a class's own concepts against the mean over classes.
    """
    match, label = candidates.match, candidates.labels[0]
    transition = match.transition.astype(np.float64)
    own = transition / transition.sum(axis=0)
    weights: NDArray[np.float64] = match.coverage * (
        class_weight * own + (1 - class_weight) * own.mean(axis=1, keepdims=True)
    )
    domain = _named_domain(label, candidates.domain)
    of_domain = [True, *(domain is None or label.domain_names[domain] in pack.domains for pack in label.packs)]
    return weights * np.array(of_domain)[label.part_numbers[match.selected], None]


def generally_best(labels: Sequence[LabelSummary]) -> int:
    """Position of the label with the highest mean precision; ids decide between equals."""
    return min(
        range(len(labels)),
        key=lambda m: (-labels[m].mean_precision, labels[m].model.repo_id, labels[m].model.revision),
    )


def standard_errors(
    labels: Sequence[LabelSummary],
    selected: NDArray[np.int64],
    precision: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[M] standard error of a weighted sum of node precisions: ``se^2 = sum_v w_v^2 p_v (1 - p_v) / n_v``.

    The images of the prior count among the ``n_v``. General levels and domain odds rest on thousands of images and are
    taken as known.

    Args:
        labels: M labels.
        selected: [K] concepts.
        precision: [M, K] shrunk precision p on each of them.
        weights: [K] what each concept counts.
    """
    images = np.stack([label.support[selected] for label in labels]) + _PRIOR_IMAGES
    variances: NDArray[np.float64] = (precision * (1 - precision) / images) @ weights**2
    return np.sqrt(variances)


def cautious(precision: NDArray[np.float64], errors: NDArray[np.float64], reference: int) -> NDArray[np.float64]:
    """Lower the estimates of models that seem better than a reference by the standard error of the difference.

    Of many models one seems better by chance. So the reference is left only for one whose mean over the classes leads
    by more than one standard error: the one-standard-error rule (Breiman et al., Classification and Regression Trees,
    1984, section 3.4.3).

    Args:
        precision: [M, C] estimates.
        errors: [M] standard error of each model's mean over the classes.
        reference: Row of the reference.

    Returns:
        [M, C]; each row of a seemingly better model is scaled down, the others are as they were.
    """
    level = precision.mean(axis=1)
    better = level > level[reference]
    error = np.hypot(errors, errors[reference])
    share = np.divide(error, level, out=np.zeros_like(level), where=better)
    return precision * np.maximum(1 - share, 0)[:, None]


def candidates_of(match: ClassMatch) -> int:
    """Candidates of a task's contests: its classes, at least two, for against nothing every model wins."""
    return max(len(match.classes), 2)


def general_precision(labels: Sequence[LabelSummary], n_candidates: int) -> NDArray[np.float64]:
    """[M] mean precision over the base graph, were there only as many candidates as a task has classes."""
    return _part_levels(labels, n_candidates)[:, 0]


def _part_levels(labels: Sequence[LabelSummary], n_candidates: int) -> NDArray[np.float64]:
    """[M, 1 + packs] mean precision over the base graph and over each pack, likewise."""
    return np.stack([(label.mean_rank_shares * label.chance_to_win(n_candidates)).sum(axis=1) for label in labels])


def domain_odds(label: LabelSummary, domain: str | None, n_candidates: int) -> float:
    """Odds of recognising a probe image of the task's domain, over the odds for any probe image.

    1 if the task names none of the label's domains, or several. The domain's precision is taken as if 10 more of its
    images were like all others.
    """
    named = _named_domain(label, domain)
    if named is None:
        return 1.0
    n_concepts = int(label.part_sizes[0])
    overall = float(precision_among(label.domain_ranks.sum(axis=0), n_concepts, n_candidates))
    if not 0 < overall < 1:
        return 1.0
    ranks = label.domain_ranks[named]
    images, precision = ranks.sum(), float(precision_among(ranks, n_concepts, n_candidates))
    shrunk = (images * precision + _PRIOR_IMAGES * overall) / (images + _PRIOR_IMAGES)
    return float(shrunk / (1 - shrunk) / (overall / (1 - overall)))


def _named_domain(label: LabelSummary, domain: str | None) -> int | None:
    """Position of the one domain of a label that a task names."""
    named = [s for s, name in enumerate(label.domain_names) if mentions(domain or "", [name.lower()])]
    return named[0] if len(named) == 1 else None


def shrunk_precision(
    labels: Sequence[LabelSummary], graph: SemanticGraph, selected: NDArray[np.int64], n_candidates: int
) -> NDArray[np.float64]:
    """Node precision among a number of candidates, with a prior from the hypernyms.

    ``p_v = (n_v * q_v + n0 * prior_v) / (n_v + n0)`` with ``n_v`` images, ``q_v`` the expected precision among so many
    candidates, ``n0`` = 10 images, and ``prior_v`` the mean of ``p`` over the direct hypernyms of ``v`` in its part:
    the base graph or a pack. Above the part's roots stands the model's mean over the part, for precision in a pack does
    not compare with precision elsewhere.

    Args:
        labels: M labels that cover the same packs.
        graph: Their graph.
        selected: [K] concepts wanted.
        n_candidates: Candidates of a contest.

    Returns:
        [M, K] float64.
    """
    needed, parts = _with_ancestors(graph, selected), labels[0].part_numbers
    parents = {v: [parent for parent in graph.parents[v] if parts[parent] == parts[v]] for v in needed.tolist()}
    row = {v: position for position, v in enumerate(needed)}
    hits = np.stack([label.wins_among(n_candidates, needed) for label in labels], axis=1)
    support = np.stack([label.support[needed] for label in labels], axis=1)
    levels = _part_levels(labels, n_candidates).T
    precision = np.empty_like(hits)
    for level in _levels(parents, needed):
        rows = [row[v] for v in level]
        above = [[row[parent] for parent in parents[v]] for v in level]
        prior = _means(precision, above) if above[0] else levels[parts[level]]
        precision[rows] = (hits[rows] + _PRIOR_IMAGES * prior) / (support[rows] + _PRIOR_IMAGES)
    return precision[[row[v] for v in selected.tolist()]].T


def _with_ancestors(graph: SemanticGraph, selected: NDArray[np.int64]) -> NDArray[np.int64]:
    """The concepts and all above them, every hypernym before its hyponyms."""
    wanted = set(selected.tolist()).union(*(graph.ancestors[v].tolist() for v in selected))
    return np.array([v for v in graph.topological_order if v in wanted])


def _levels(parents: Mapping[int, Sequence[int]], needed: NDArray[np.int64]) -> list[list[int]]:
    """The concepts by depth, roots first: all hypernyms of a level are in earlier ones."""
    depth: dict[int, int] = {}
    levels: list[list[int]] = []
    for v in needed.tolist():
        depth[v] = max((depth[parent] + 1 for parent in parents[v]), default=0)
        if depth[v] == len(levels):
            levels.append([])
        levels[depth[v]].append(v)
    return levels


def _means(values: NDArray[np.float64], groups: list[list[int]]) -> NDArray[np.float64]:
    """[len(groups), M] mean over each group's rows of ``values`` [..., M]; no group is empty."""
    sizes = np.array([len(group) for group in groups])
    sums = np.add.reduceat(values[np.concatenate(groups)], np.cumsum(sizes) - sizes, axis=0)
    return sums / sizes[:, None]
