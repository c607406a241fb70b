"""Our selection. It departs from the paper where the paper's estimate is noisy or does not compare.

1. Precision is that among as many candidates as the task has classes: one of 10 is easier than one of 9,000, and a
   model that nearly wins among 9,000 may win among 10.
2. Concepts with few probe images are shrunk towards their hypernyms, and those towards the model's general level.
3. A model with better or worse odds on pictures of the task's domain (photo, sketch, icon ...) than on others has
   them on every class.
4. Weights over concepts are normalized per class, so that classes compare.
5. Where the graph has nothing like a class, the model's general level stands in for it.
6. One set of models answers for all classes, since probabilities of different models do not compare class by class.
7. A model must lead the generally best one by more than the estimates' standard error, or it stays behind it. The
   estimates of models that seem better are lowered by as much, so that they are cautious.
8. Concepts of a pack were contested within it. So their candidates are at most the pack's concepts, and they are shrunk
   towards the model's mean over the pack. Packs without images of the task's domain count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.labels.counts import chances_to_win, expected_wins, mean_chance_to_win, precision_among
from mll_hf.labels.label import rival_counts
from mll_hf.matching.prompts import mentions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import LabelSummary
    from mll_hf.matching.concept_index import ClassMatch
    from mll_hf.selection.base import Candidates

_PRIOR_IMAGES = 10.0  # a concept's hypernyms weigh as much as this many images of its own


@dataclass(frozen=True)
class Needs:
    """What a task of C classes asks of a label, whatever the label says.

    Attributes:
        selected: [K] the concepts that speak for the classes.
        weights: [K, C] what the precision on each counts for each class; the rest of 1 is the general level's.
        n_candidates: Candidates of a contest.
        needed: [A] the selected concepts and all above them, every hypernym before its hyponyms.
        parts: [A] the part of each: 0 for the base graph, and so on.
        above: For each of the A concepts the rows of its direct hypernyms that are of its part.
        chances: [A, RANK_BINS] chance to win an image of each of them among so many candidates.
        mean_chances: [1 + packs, RANK_BINS] the same on average over the concepts of a part.
    """

    selected: NDArray[np.int64]
    weights: NDArray[np.float64]
    n_candidates: int
    needed: NDArray[np.int64]
    parts: NDArray[np.int32]
    above: tuple[tuple[int, ...], ...]
    chances: NDArray[np.float64]
    mean_chances: NDArray[np.float64]

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Rows of the concepts by depth, roots first: all hypernyms of a level are in earlier ones."""
        depths: list[int] = []
        levels: list[list[int]] = []
        for row, parents in enumerate(self.above):
            depths.append(max((depths[parent] + 1 for parent in parents), default=0))
            if depths[row] == len(levels):
                levels.append([])
            levels[depths[row]].append(row)
        return tuple(map(tuple, levels))


@dataclass(frozen=True)
class Measured:
    """What the labels of M models say to it.

    Attributes:
        wins: [M, A] images that are expected to be won among so many candidates.
        support: [M, A] images; [1, A] if all models had the same.
        levels: [M, 1 + packs] mean precision over the base graph and over each pack, among so many candidates.
        odds: [M] see :func:`domain_odds`.
    """

    wins: NDArray[np.float64]
    support: NDArray[np.int32]
    levels: NDArray[np.float64]
    odds: NDArray[np.float64]


def mll_scores(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """Estimated precision of every model on every class.

    Args:
        candidates: M models and C classes.
        class_weight: Weight of a class's own estimate against the mean over classes.

    Returns:
        [M, C] float64 from 0 to 1.
    """
    labels, needs = candidates.labels, task_needs(candidates, class_weight)
    precision, errors = estimates(needs, _measured(labels, needs, candidates.domain))
    return cautious(precision, errors, generally_best(labels))


def task_needs(candidates: Candidates, class_weight: float) -> Needs:
    """What a task asks of labels: that it takes of the candidates' own labels is the same for all of them."""
    weights, n_candidates = evidence_weights(candidates, class_weight), candidates_of(candidates.match)
    return _needs(candidates.labels[0], candidates.graph, candidates.match.selected, weights, n_candidates)


def _needs(
    label: LabelSummary,
    graph: SemanticGraph,
    selected: NDArray[np.int64],
    weights: NDArray[np.float64],
    n_candidates: int,
) -> Needs:
    parts = label.part_numbers
    n_rivals = rival_counts(graph, parts)
    needed, above = _with_ancestors(graph, selected, parts)
    means = [mean_chance_to_win(n_rivals[parts == part], n_candidates) for part in range(len(label.part_sizes))]
    chances = chances_to_win(n_rivals[needed], n_candidates)
    return Needs(selected, weights, n_candidates, needed, parts[needed], above, chances, np.stack(means))


def estimates(needs: Needs, measured: Measured) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimated precision [M, C] of M models on C classes, and standard errors [M] of its mean over the classes."""
    node_precision = shrunk(needs, measured)
    precision = with_odds(class_precision(needs, node_precision, measured.levels), measured.odds)
    support = measured.support[:, _rows_of(needs)]
    return precision, standard_errors(support, node_precision, needs.weights.mean(axis=1))


def class_precision(
    needs: Needs, node_precision: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[M, C] precision on classes from that on concepts [M, K]; what these leave open, the general level decides."""
    weights = needs.weights
    precision = node_precision @ weights + (1 - weights.sum(axis=0)) * levels[:, :1]
    return np.clip(precision, 0, 1)  # sums may round


def with_odds(precision: NDArray[np.float64], odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, C] precision after its odds were multiplied by [M] factors."""
    ratios = odds[:, None]
    return ratios * precision / (1 - precision + ratios * precision)


def _measured(labels: Sequence[LabelSummary], needs: Needs, domain: str | None) -> Measured:
    return Measured(
        wins=np.stack([expected_wins(label.ranks[needs.needed], needs.chances) for label in labels]),
        support=np.stack([label.support[needs.needed] for label in labels]),
        levels=np.stack([part_levels(label.mean_rank_shares, needs.mean_chances) for label in labels]),
        odds=np.array([domain_odds(label, domain, needs.mean_chances[0]) for label in labels]),
    )


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
    domain = named_domain(label.domain_names, candidates.domain)
    of_domain = [True, *(domain is None or label.domain_names[domain] in pack.domains for pack in label.packs)]
    return weights * np.array(of_domain)[label.part_numbers[match.selected], None]


def generally_best(labels: Sequence[LabelSummary]) -> int:
    """Position of the label with the highest mean precision; ids decide between equals."""
    return min(
        range(len(labels)),
        key=lambda m: (-labels[m].mean_precision, labels[m].model.repo_id, labels[m].model.revision),
    )


def standard_errors(
    support: NDArray[np.int32], precision: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[M] standard error of a weighted sum of node precisions: ``se^2 = sum_v w_v^2 p_v (1 - p_v) / n_v``.

    The images of the prior count among the ``n_v``. General levels and domain odds rest on thousands of images and are
    taken as known.

    Args:
        support: [M, K] images of K concepts.
        precision: [M, K] shrunk precision p on each of them.
        weights: [K] what each concept counts.
    """
    variances: NDArray[np.float64] = (precision * (1 - precision) / (support + _PRIOR_IMAGES)) @ weights**2
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


def part_levels(shares: NDArray[np.float64], chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 1 + packs] mean precision over the base graph and over each pack, among as many candidates as classes.

    Args:
        shares: [..., 1 + packs, RANK_BINS] see :attr:`~mll_hf.labels.label.LabelSummary.mean_rank_shares`.
        chances: [1 + packs, RANK_BINS] see :func:`~mll_hf.labels.counts.mean_chance_to_win`.
    """
    levels: NDArray[np.float64] = (shares * chances).sum(axis=-1)
    return levels


def domain_odds(label: LabelSummary, domain: str | None, chances: NDArray[np.float64]) -> float:
    """Odds of recognizing a probe image of the task's domain, over the odds for any probe image.

    1 if the task names none of the label's domains, or several. The domain's precision is taken as if 10 more of its
    images were like all others.

    Args:
        label: The label.
        domain: The task's domain.
        chances: [RANK_BINS] mean chance to win an image of the base graph among as many candidates as classes.
    """
    named = named_domain(label.domain_names, domain)
    if named is None:
        return 1.0
    ranks, overall = label.domain_ranks[None, named], label.domain_ranks.sum(axis=0)[None]
    return float(odds_ratios(ranks, overall, chances)[0])


def odds_ratios(
    of_domain: NDArray[np.int32], overall: NDArray[np.int64], chances: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[M] odds of recognizing an image of a domain over those for any image; 1 where these are 0 or without limit.

    Args:
        of_domain: [M, RANK_BINS] tests of the domain by rank.
        overall: [M, RANK_BINS] those of all domains.
        chances: [RANK_BINS] mean chance to win an image of the base graph.
    """
    precision = precision_among(overall, chances)
    known = (precision > 0) & (precision < 1)
    precision = np.where(known, precision, 0.5)
    images = of_domain.sum(axis=1, dtype=np.int64)
    won = images * precision_among(of_domain, chances)
    of_domain_shrunk = (won + _PRIOR_IMAGES * precision) / (images + _PRIOR_IMAGES)
    ratios = of_domain_shrunk / (1 - of_domain_shrunk) / (precision / (1 - precision))
    return np.where(known, ratios, 1.0)


def named_domain(names: Sequence[str], domain: str | None) -> int | None:
    """Position of the one domain among a label's that a task names."""
    named = [s for s, name in enumerate(names) if mentions(domain or "", [name.lower()])]
    return named[0] if len(named) == 1 else None


def shrunk_precision(
    labels: Sequence[LabelSummary], graph: SemanticGraph, selected: NDArray[np.int64], n_candidates: int
) -> NDArray[np.float64]:
    """[M, K] node precision among a number of candidates, with a prior from the hypernyms; see :func:`shrunk`.

    Args:
        labels: M labels that cover the same packs.
        graph: Their graph.
        selected: [K] concepts wanted.
        n_candidates: Candidates of a contest.
    """
    needs = _needs(labels[0], graph, selected, np.zeros((len(selected), 0)), n_candidates)
    return shrunk(needs, _measured(labels, needs, None))


def shrunk(needs: Needs, measured: Measured) -> NDArray[np.float64]:
    """[M, K] node precision on the selected concepts, with a prior from the hypernyms.

    ``p_v = (n_v * q_v + n0 * prior_v) / (n_v + n0)`` with ``n_v`` images, ``q_v`` the expected precision among so many
    candidates, ``n0`` = 10 images, and ``prior_v`` the mean of ``p`` over the direct hypernyms of ``v`` in its part:
    the base graph or a pack. Above the part's roots stands the model's mean over the part, for precision in a pack does
    not compare with precision elsewhere.
    """
    hits, support, levels = measured.wins.T, measured.support.T, measured.levels.T
    precision = np.empty((len(needs.needed), hits.shape[1]))
    for rows in map(list, needs.levels):
        above = [needs.above[row] for row in rows]
        prior = _means(precision, above) if above[0] else levels[needs.parts[rows]]
        precision[rows] = (hits[rows] + _PRIOR_IMAGES * prior) / (support[rows] + _PRIOR_IMAGES)
    return precision[_rows_of(needs)].T


def mean_factors(
    needs: Needs, support: NDArray[np.int32], n_parts: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What an image won, and a level, add to the mean over the classes of :func:`class_precision`.

    For models with the same images that mean is linear in what their labels say: this is :func:`shrunk` and
    :func:`class_precision` read backwards.

    Args:
        needs: What the task asks.
        support: [A] images of each concept.
        n_parts: 1 + packs.

    Returns:
        [A] factors of wins and [1 + packs] factors of levels; none is negative.
    """
    weights = needs.weights.mean(axis=1)
    counts, of_wins, of_levels = np.zeros(len(support)), np.empty(len(support)), np.zeros(n_parts)
    counts[_rows_of(needs)] = weights
    of_levels[0] = 1 - weights.sum()
    for rows in map(list, reversed(needs.levels)):
        of_wins[rows] = counts[rows] / (support[rows] + _PRIOR_IMAGES)
        of_prior = _PRIOR_IMAGES * of_wins[rows]
        above = [needs.above[row] for row in rows]
        if above[0]:
            sizes = np.array([len(parents) for parents in above])
            np.add.at(counts, [parent for parents in above for parent in parents], np.repeat(of_prior / sizes, sizes))
        else:
            np.add.at(of_levels, needs.parts[rows], of_prior)
    return of_wins, of_levels


def _rows_of(needs: Needs) -> NDArray[np.intp]:
    """[K] where the selected concepts are among those needed."""
    order = np.argsort(needs.needed)
    return order[np.searchsorted(needs.needed, needs.selected, sorter=order)]


def _with_ancestors(
    graph: SemanticGraph, selected: NDArray[np.int64], parts: NDArray[np.int32]
) -> tuple[NDArray[np.int64], tuple[tuple[int, ...], ...]]:
    """The concepts and all above them, every hypernym before its hyponyms, and the rows of each one's hypernyms."""
    wanted = set(selected.tolist()).union(*(graph.ancestors[v].tolist() for v in selected))
    needed = [v for v in graph.topological_order if v in wanted]
    row = {v: position for position, v in enumerate(needed)}
    above = tuple(tuple(row[parent] for parent in graph.parents[v] if parts[parent] == parts[v]) for v in needed)
    return np.array(needed), above


def _means(values: NDArray[np.float64], groups: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """[len(groups), M] mean over each group's rows of ``values`` [..., M]; no group is empty."""
    sizes = np.array([len(group) for group in groups])
    sums = np.add.reduceat(values[[row for group in groups for row in group]], np.cumsum(sizes) - sizes, axis=0)
    return sums / sizes[:, None]
