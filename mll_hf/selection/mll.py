"""Our selection by labels. It departs from the paper where the paper's estimate is noisy or does not compare.

1. Recall is that among as many candidates as the task has classes: one of 10 is easier than one of 9,000, and a model
   that nearly wins among 9,000 may win among 10.
2. Concepts with few probe images are shrunk towards their hypernyms, and those towards the model's mean on the graph.
3. A model with better or worse odds on images of the task's domain (photo, sketch, icon ...) than on others has them on
   every class.
4. Weights over concepts are normalized per class, so that classes compare.
5. Where no graph has a concept like a class, the model's general level stands in for it.
6. One set of models answers for all classes, since probabilities of different models do not compare class by class.
7. A model must lead the generally best one by more than five standard errors and three points, or it stays behind it.
   The order of all other models stays.
8. Graphs are joined: a concept in several graphs has the evidence of all. A graph that is not the reference counts for
   nothing if it has no probe images of the task's domain. A model without a label on a graph gets its general level
   there, lowered as far as the graph is hard for the other models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.labels.counts import RANK_BINS, chances_to_win, expected_wins, mean_chance_to_win, recall_among
from mll_hf.matching.prompts import named_domain
from mll_hf.selection.accuracy import logit, sigmoid
from mll_hf.selection.base import DIGITS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.join import JoinedLabels
    from mll_hf.labels.label import LabelSummary
    from mll_hf.matching.concept_index import ClassMatch
    from mll_hf.selection.base import Candidates

PRIOR_IMAGES = 10.0  # a concept's hypernyms weigh as much as this many images of its own
# A lead counts from this many standard errors of sampling probe images on: a task's images are of another kind, and on
# tasks derived from others a lead of fewer is lost too often.
SURE = 5.0
LEAST_LEAD = 0.03  # with very many probe images even five standard errors are little: real models lose on it
_UNKNOWN = math.sqrt(1 / 12)  # standard deviation of a uniform number between 0 and 1
_LEAST_LEVEL = 1e-3  # levels are kept this far from 0 and 1 where their logits are taken


# --- what a task asks of labels ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fall:
    """How the recall of a model falls from a contest with all ``R`` rivals of a small graph to one of ``n`` candidates.

    The graph says nothing of contests with more candidates than it has. The mean recall on the graph, as a function of
    log n, is continued with the slope that it has up to R + 1: the factor is level(R + 1) / level((R + 1)^2 / n).
    """

    full: NDArray[np.float64]  # [RANK_BINS] mean chance to win among R + 1 candidates
    mirrored: NDArray[np.float64]  # the same among (R + 1)^2 / n

    @classmethod
    def beyond(cls, n_rivals: NDArray[np.int32], most: int, n_candidates: int) -> Fall:
        """The fall from R rivals (``most``) to n candidates; none if these are no more.

        The graph's concepts have ``n_rivals`` [V].
        """
        full = mean_chance_to_win(n_rivals, most + 1)
        if n_candidates <= most + 1:
            return cls(full, full)
        mirror = max((most + 1) ** 2 / n_candidates, 1.0)
        low = math.floor(mirror)
        share = math.log(mirror / low) / math.log1p(1 / low)
        mirrored = (1 - share) * mean_chance_to_win(n_rivals, low) + share * mean_chance_to_win(n_rivals, low + 1)
        return cls(full, mirrored)

    def of(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """[M] factors from mean rank shares [M, RANK_BINS]; 1 where nothing is recognized."""
        before: NDArray[np.float64] = shares @ self.mirrored
        return np.divide(shares @ self.full, before, out=np.ones_like(before), where=before > 0)


@dataclass(frozen=True)
class GraphNeeds:
    """What a task of C classes asks of the labels on one graph of V concepts.

    It needs the A concepts that are selected or above these, hypernyms before hyponyms.
    """

    columns: NDArray[np.intp]  # [K_g] which of the K selected concepts the graph has
    rows: NDArray[np.intp]  # [K_g] where these are among the needed ones
    needed: NDArray[np.int64]  # [A] indices in the graph
    above: tuple[tuple[int, ...], ...]  # for each of the A concepts the positions of its direct hypernyms
    chances: NDArray[np.float64]  # [A, RANK_BINS] chance to win an image of each among as many candidates as classes
    mean_chances: NDArray[np.float64]  # [RANK_BINS] mean chance over the graph's concepts
    falls: tuple[Fall, ...]  # beyond each distinct number of rivals, and beyond the mean number
    fall_of: NDArray[np.intp]  # [A] which of ``falls`` is that of a concept

    @cached_property
    def depths(self) -> tuple[tuple[int, ...], ...]:
        """Positions of the concepts by depth, roots first: all hypernyms of a concept are in earlier groups."""
        depths: list[int] = []
        groups: list[list[int]] = []
        for position, parents in enumerate(self.above):
            depths.append(max((depths[parent] + 1 for parent in parents), default=0))
            if depths[position] == len(groups):
                groups.append([])
            groups[depths[position]].append(position)
        return tuple(map(tuple, groups))


@dataclass(frozen=True)
class Needs:
    """What a task of C classes asks of labels on G graphs."""

    weights: NDArray[np.float64]  # [K, C], see :func:`evidence_weights`
    graphs: tuple[GraphNeeds | None, ...]  # None for a graph that does not count; the first is the reference

    @property
    def reference(self) -> GraphNeeds:
        """What is asked of the reference graph, which always counts."""
        if self.graphs[0] is None:
            raise ValueError("the reference graph always counts")
        return self.graphs[0]


def task_needs(candidates: Candidates, class_weight: float) -> Needs:
    """What a task asks of labels; the same for all models."""
    selected, n_candidates = candidates.match.selected, candidates_of(candidates.match)
    union, counts = candidates.labels.union, graphs_that_count(candidates.labels, candidates.domain)
    graphs = tuple(
        graph_needs(graph, union.rows[g, selected], n_candidates, extrapolate=g > 0) if g in counts else None
        for g, graph in enumerate(union.graphs)
    )
    return Needs(evidence_weights(candidates, class_weight), graphs)


def graph_needs(
    graph: SemanticGraph, rows: NDArray[np.int32], n_candidates: int, *, extrapolate: bool = False
) -> GraphNeeds:
    """What is asked of one graph, where the selected concepts are in rows [K] (-1 if the graph lacks one).

    To extrapolate is to let recall fall further if there are more candidates than rivals. The reference graph needs
    none: it is large, and its few concepts with few rivals are at the top.
    """
    columns = np.flatnonzero(rows >= 0)
    wanted = set(rows[columns].tolist()).union(*(graph.ancestors[v].tolist() for v in rows[columns]))
    needed = [v for v in graph.topological_order if v in wanted]
    position = {v: at for at, v in enumerate(needed)}
    n_rivals = graph.rival_counts
    distinct, fall_of = np.unique(n_rivals[needed], return_inverse=True)
    with_rivals = n_rivals[n_rivals > 0]
    mean = round(float(with_rivals.mean())) if len(with_rivals) else 0
    falls = [
        Fall.beyond(n_rivals, most if extrapolate else n_candidates, n_candidates)
        for most in [*distinct.tolist(), mean]
    ]
    return GraphNeeds(
        columns=columns,
        rows=np.array([position[v] for v in rows[columns].tolist()], np.intp),
        needed=np.array(needed, np.int64),
        above=tuple(tuple(position[parent] for parent in graph.parents[v]) for v in needed),
        chances=chances_to_win(n_rivals[needed], n_candidates),
        mean_chances=mean_chance_to_win(n_rivals, n_candidates),
        falls=tuple(falls),
        fall_of=fall_of,
    )


def graphs_that_count(labels: JoinedLabels, domain: str | None) -> frozenset[int]:
    """The reference graph, and the graphs with probe images of the task's domain; all if it names none.

    How models rank on drawn traffic signs says little of photos of them. The reference is of many domains, and
    :func:`domain_odds` are known there.
    """
    names = sorted(labels.domain_names)
    named = named_domain(names, domain)
    graphs = range(len(labels.union.graphs))
    return frozenset(g for g in graphs if g == 0 or named is None or names[named] in labels.domains_of(g))


def evidence_weights(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """[K, C] weight of each selected concept for each class; the rest of 1 is the weight of the general level.

    The class weight is that of a class's own concepts against the mean over classes.
    """
    match, union = candidates.match, candidates.labels.union
    transition = match.transition.astype(np.float64)
    own = transition / transition.sum(axis=0)
    weights: NDArray[np.float64] = match.coverage * (
        class_weight * own + (1 - class_weight) * own.mean(axis=1, keepdims=True)
    )
    counts = sorted(graphs_that_count(candidates.labels, candidates.domain))
    rows: NDArray[np.int32] = union.rows[counts][:, match.selected].max(axis=0)
    return weights * (rows >= 0)[:, None]


def candidates_of(match: ClassMatch) -> int:
    """Number of candidates of a task: its classes, at least two, for against nothing every model wins."""
    return max(len(match.classes), 2)


# --- what labels say --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What the labels of M models on one graph say to a task's needs."""

    known: NDArray[np.bool_]  # [M] which models have a label on the graph; of the other rows only the level counts
    recall: NDArray[np.float64]  # [M, A] expected recall among as many candidates as classes
    support: NDArray[np.int32]  # [M, A] probe images; [1, A] if all models had the same
    level: NDArray[np.float64]  # [M] mean recall over the graph among as many candidates, see :func:`graph_levels`
    spread: float = 0.0  # standard error of the levels of models without a label


def measure(labels: Sequence[LabelSummary | None], needs: GraphNeeds) -> Measured:
    """What M labels on one graph say."""
    none = np.zeros(len(needs.needed))
    recall, support, shares = [], [], []
    for label in labels:
        images = label.support[needs.needed] if label else none.astype(np.int32)
        wins = expected_wins(label.ranks[needs.needed], needs.chances) if label else none
        recall.append(wins / np.maximum(images, 1))
        support.append(images)
        shares.append(label.mean_rank_shares if label else np.zeros(RANK_BINS))
    known = np.array([label is not None for label in labels], np.bool_)
    level = levels_of(needs, np.stack(shares))
    return Measured(known, np.stack(recall) * falls_of(needs, np.stack(shares)), np.stack(support), level)


def falls_of(needs: GraphNeeds, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, A] how recall falls where a task has more candidates than the graph has rivals, see :class:`Fall`."""
    return np.stack([curve.of(shares) for curve in needs.falls], axis=1)[:, needs.fall_of]


def levels_of(needs: GraphNeeds, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M] mean recall over the graph among as many candidates as classes, from mean rank shares [M, RANK_BINS]."""
    return shares @ needs.mean_chances * needs.falls[-1].of(shares)


def measure_all(labels: JoinedLabels, needs: Needs) -> tuple[Measured | None, ...]:
    """What the labels of M models say on every graph; None for a graph that does not count."""
    measured: list[Measured | None] = [None] * len(needs.graphs)
    for g, of_graph in enumerate(needs.graphs):
        if of_graph is not None:
            level, spread = graph_levels(labels, needs.reference, of_graph, g)
            measured[g] = replace(measure(labels.on_graph(g), of_graph), level=level, spread=spread)
    return tuple(measured)


def graph_levels(
    labels: JoinedLabels, reference: GraphNeeds, needs: GraphNeeds, g: int
) -> tuple[NDArray[np.float64], float]:
    """Mean recall [M] over graph number g, and the standard error for models without a label on it.

    Of these their general level is expected, lowered by as much as the graph is hard for the other models.
    """
    levels, everyone = levels_of(needs, labels.rank_shares[g]), labels.among or labels
    if everyone.known[g].all():
        return levels, 0.0
    general = levels_of(reference, labels.rank_shares[0])
    all_general, all_levels = levels_of(reference, everyone.rank_shares[0]), levels_of(needs, everyone.rank_shares[g])
    shift, spread = hardness(all_general, all_levels, everyone.known[g])
    return np.where(labels.known[g], levels, lowered(general, shift)), spread


# --- from labels to estimates -----------------------------------------------------------------------------------------


def mll_scores(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """[M, C] estimated recall of every model on every class, 0 to 1, lowered where caution demands it.

    The class weight is that of a class's own estimate against the mean over classes.
    """
    needs, labels = task_needs(candidates, class_weight), candidates.labels
    odds = task_odds(labels, needs, candidates.domain)
    recall, errors = estimates(needs, measure_all(labels, needs), odds)
    return cautious(recall, errors, generally_best(labels.reference))


def estimates(
    needs: Needs, measured: Sequence[Measured | None], odds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimated recall [M, C] of M models on C classes, and standard errors [M, 2] of its mean over the classes.

    What the labels say is given for each graph, and the odds [M] are those of :func:`domain_odds`.
    """
    general = measured[0].level if measured[0] is not None else np.zeros(0)  # the reference always counts
    n_models, n_concepts = len(general), len(needs.weights)
    sums, images = np.zeros((n_models, n_concepts)), np.zeros((n_models, n_concepts))
    fallbacks, spreads, lacking = np.zeros_like(sums), np.zeros(n_concepts), np.zeros((n_models, n_concepts))
    for of_graph, found in zip(needs.graphs, measured, strict=True):
        if of_graph is None or found is None:
            continue
        weights = np.where(found.known[:, None], found.support[:, of_graph.rows] + PRIOR_IMAGES, 0)
        sums[:, of_graph.columns] += weights * shrunk(of_graph, found)
        images[:, of_graph.columns] += weights
        fallbacks[:, of_graph.columns] += np.where(found.known, 0, found.level)[:, None]
        lacking[:, of_graph.columns] += ~found.known[:, None]
        spreads[of_graph.columns] = np.maximum(spreads[of_graph.columns], found.spread)
    guess = fallbacks / np.maximum(lacking, 1)
    recall = np.where(images > 0, sums / np.maximum(images, 1), guess)
    by_class = np.clip(recall @ needs.weights + (1 - needs.weights.sum(axis=0)) * general[:, None], 0, 1)
    weights = needs.weights.mean(axis=1)
    errors = standard_errors(images, recall, weights, spreads)
    return with_odds(by_class, odds), errors


def shrunk(needs: GraphNeeds, measured: Measured) -> NDArray[np.float64]:
    """[M, K_g] recall on the selected concepts of a graph, with a prior from the hypernyms.

    ``p_v = (n_v q_v + n0 prior_v) / (n_v + n0)`` with ``n_v`` images, ``q_v`` the expected recall among so many
    candidates, ``n0`` = 10 images, and ``prior_v`` the mean of ``p`` over the direct hypernyms of ``v``. Above the
    graph's roots stands the model's mean over the graph, for recall on one graph does not compare with that on another.
    """
    recall, support = measured.recall.T, measured.support.T
    estimate = np.empty(recall.shape)
    for positions in map(list, needs.depths):
        above = [needs.above[at] for at in positions]
        prior = _means(estimate, above) if above[0] else measured.level
        hits = recall[positions] * support[positions]
        estimate[positions] = (hits + PRIOR_IMAGES * prior) / (support[positions] + PRIOR_IMAGES)
    return estimate[needs.rows].T


def hardness(
    general: NDArray[np.float64], levels: NDArray[np.float64], known: NDArray[np.bool_]
) -> tuple[float, float]:
    """By how much (in logits) a graph is harder than the reference for models that have a label on both.

    It is never taken to be easier: those models may have been labeled because they are good at it. ``general`` are the
    levels [M] on the reference, ``known`` [M] the models with a label on the graph.

    Returns:
        The shift, at most 0, and the standard error of the levels that it predicts: how far they are from the truth for
        the models that have a label, with one degree of freedom less for the shift. A single such model says nothing of
        it: then that of a number of which nothing is known.
    """
    if not known.any():
        return 0.0, 0.0
    shift = min(0.0, float(np.mean(logit(levels[known], _LEAST_LEVEL) - logit(general[known], _LEAST_LEVEL))))
    errors = lowered(general[known], shift) - levels[known]
    return shift, float(np.sqrt((errors**2).sum() / (len(errors) - 1))) if len(errors) > 1 else _UNKNOWN


def lowered(general: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Levels, shifted on the scale of logits."""
    if shift == 0:
        return general
    return sigmoid(logit(general, _LEAST_LEVEL) + shift)


def standard_errors(
    images: NDArray[np.float64],
    recall: NDArray[np.float64],
    weights: NDArray[np.float64],
    spreads: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[M, 2] standard errors of a weighted sum of recalls: of what was measured, and of what was not.

    Of what was measured ``se^2 = sum_v w_v^2 p_v (1 - p_v) / n_v``; general levels and domain odds rest on thousands of
    images and are taken as known. Concepts of a graph on which a model has no label err together, by the spread of that
    graph.

    Args:
        images: [M, K] images of K concepts, those of the prior included; 0 where the model was not measured.
        recall: [M, K] shrunk recall on each of them.
        weights: [K] of the concepts.
        spreads: [K] standard error of the recall of models that were not measured.
    """
    measured = images > 0
    variances = np.where(measured, recall * (1 - recall) / np.maximum(images, 1), 0) @ weights**2
    return np.stack([np.sqrt(variances), np.where(measured, 0, spreads) @ weights], axis=1)


def cautious(recall: NDArray[np.float64], errors: NDArray[np.float64], reference: int) -> NDArray[np.float64]:
    """Lower the estimates of models that are not surely better than a reference, so that these stay behind it.

    Of many models one seems better by chance, or on probe images only. So the reference is left only for a model whose
    mean over the classes leads by more than ``SURE`` standard errors of what was measured, and one of what was guessed,
    and by ``LEAST_LEAD``. Such a model is lowered by one standard error, as in the one-standard-error rule (Breiman et
    al., Classification and Regression Trees, 1984, section 3.4.3). All others are lowered by one factor, the least with
    which none of them reaches the reference, so that their order stays. That the reference itself was not measured on a
    graph is no reason to stay with it.

    Args:
        recall: [M, C] estimates.
        errors: [M, 2] see :func:`standard_errors`.
        reference: Row of the reference, which stays as it is.
    """
    level, least = recall.mean(axis=1), 2 * 10.0**-DIGITS  # more than rounding moves a mean
    needed = np.maximum(lead_errors(errors * [SURE, 1], reference), LEAST_LEAD)
    sure = level - needed > level[reference] + least
    error = lead_errors(errors, reference)
    others = ~sure & (np.arange(len(level)) != reference)
    highest = level[others].max(initial=0.0)
    held = 1.0 if highest <= level[reference] + 10.0**-DIGITS else max(level[reference] - least, 0) / highest
    factors = np.where(others, held, 1.0)
    factors[sure] = 1 - error[sure] / level[sure]
    return recall * factors[:, None]


def lead_errors(errors: NDArray[np.float64], reference: int) -> NDArray[np.float64]:
    """[M] standard errors of each model's lead over a reference; arguments as for :func:`cautious`."""
    return np.sqrt((errors**2).sum(axis=1) + errors[reference, 0] ** 2)


def generally_best(labels: Sequence[LabelSummary]) -> int:
    """Position of the label with the highest mean recall; cost, then id decide between equals."""
    return min(range(len(labels)), key=lambda m: (-round(labels[m].mean_recall, DIGITS), *labels[m].tie_break))


# --- the task's domain ------------------------------------------------------------------------------------------------


def task_odds(labels: JoinedLabels, needs: Needs, domain: str | None) -> NDArray[np.float64]:
    """[M] odds of the task's domain, see :func:`domain_odds`; from the labels on the reference graph."""
    return domain_odds(labels.reference, domain, needs.reference.mean_chances, labels.domain_names)


def domain_odds(
    labels: Sequence[LabelSummary], domain: str | None, chances: NDArray[np.float64], names: Collection[str]
) -> NDArray[np.float64]:
    """[M] odds of recognizing a probe image of the task's domain, over the odds for any probe image.

    1 if the task names no domain or several, the label lacks it, or the odds for any image are 0 or without limit. The
    recall on the domain is taken as if 10 more of its images were like all others.

    Args:
        labels: M labels.
        domain: The task's domain.
        chances: [RANK_BINS] mean chance to win an image among as many candidates as classes.
        names: Of all domains, those of labels on other graphs included.
    """
    names, odds = sorted(names), np.ones(len(labels))
    named = named_domain(names, domain)
    rows = [m for m, label in enumerate(labels) if named is not None and names[named] in label.domain_names]
    if named is None or not rows:
        return odds
    ranks = [labels[m].domain_ranks for m in rows]
    of_domain = np.array([of[labels[m].domain_names.index(names[named])] for m, of in zip(rows, ranks, strict=True)])
    starts = np.cumsum([0, *map(len, ranks)])[:-1]
    recall = recall_among(np.add.reduceat(np.concatenate(ranks), starts, axis=0, dtype=np.int64), chances)
    known = (recall > 0) & (recall < 1)
    recall = np.where(known, recall, 0.5)
    images = of_domain.sum(axis=1, dtype=np.int64)
    won = images * recall_among(of_domain, chances)
    of_domain_shrunk = (won + PRIOR_IMAGES * recall) / (images + PRIOR_IMAGES)
    ratios = of_domain_shrunk / (1 - of_domain_shrunk) / (recall / (1 - recall))
    odds[rows] = np.where(known, ratios, 1.0)
    return odds


def with_odds(recall: NDArray[np.float64], odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, C] recall after its odds were multiplied by [M] factors."""
    ratios = odds[:, None]
    return ratios * recall / (1 - recall + ratios * recall)


def _means(values: NDArray[np.float64], groups: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """[len(groups), M] mean over each group's rows of ``values`` [..., M]; no group is empty."""
    sizes = np.array([len(group) for group in groups])
    sums = np.add.reduceat(values[[row for group in groups for row in group]], np.cumsum(sizes) - sizes, axis=0)
    return sums / sizes[:, None]
