"""Our selection strategy. It differs from the paper where the paper's estimates are noisy or not comparable.

1. Recall is measured among as many candidates as the task has classes: 1 of 10 is easier than 1 of 9,000, and a model
   that nearly wins among 9,000 may win among 10.
2. The recall on concepts with few probe images is shrunk toward that on their hypernyms, and the recall on roots
   toward the model's mean over the graph.
3. The odds of recognizing images of the task's domain (photo, sketch, icon ...), relative to all images, are assumed to
   be the same for all classes.
4. Weights over concepts are normalized per class, so that classes are comparable.
5. For a class without a similar concept in any graph, the model's mean recall is used.
6. The same models are chosen for all classes, since probabilities of different models are not comparable per class.
7. A model is preferred to the one with the highest mean recall only if it leads by more than five standard errors and
   three points. The order of all other models is unchanged.
8. Graphs are joined: for a concept in several graphs, the evidence is pooled. Graphs other than the reference are
   ignored if they have no probe images of the task's domain. For a model without a label on a graph, its mean recall on
   the reference is used, lowered by the difficulty of the graph for the other models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.labels.counts import recall_among
from mll_hf.matching.prompts import named_domain
from mll_hf.selection.probabilities import DIGITS, logit, sigmoid
from mll_hf.selection.recall import GraphQuery, Measured, graph_query, mean_recall_among, measure

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.join import JoinedLabels
    from mll_hf.labels.label import Label
    from mll_hf.selection.candidates import Candidates

PRIOR_IMAGES = 10.0  # weight of the hypernyms' recall, in images
# Minimum lead in standard errors of the probe images. A task has images of another kind, on which smaller leads are
# lost too often (measured on tasks derived from others).
MIN_LEAD_ERRORS = 5.0
MIN_LEAD = 0.03  # with very many probe images, five standard errors alone are too small a lead for real models
_UNKNOWN = math.sqrt(1 / 12)  # standard deviation of the uniform distribution on [0, 1]
_MIN_RECALL = 1e-3  # mean recall is clipped to this distance from 0 and 1 before taking logits


# --- queries ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskQuery:
    """A task of C classes as a query of labels on G graphs."""

    weights: NDArray[np.float64]  # [K, C], see :func:`concept_weights`
    graphs: tuple[GraphQuery | None, ...]  # None for ignored graphs; the first is the reference

    @property
    def reference(self) -> GraphQuery:
        """The query of the reference graph, which is never ignored."""
        if self.graphs[0] is None:
            raise ValueError("the reference graph is never ignored")
        return self.graphs[0]


def task_query(candidates: Candidates, class_weight: float) -> TaskQuery:
    """The query of a task; the same for all models."""
    selected, n_candidates = candidates.match.selected, candidates.n_candidates
    union, in_use = candidates.labels.union, graphs_in_use(candidates.labels, candidates.domain)
    graphs = tuple(
        graph_query(graph, union.rows[g, selected], n_candidates, extrapolate=g > 0) if g in in_use else None
        for g, graph in enumerate(union.graphs)
    )
    return TaskQuery(concept_weights(candidates, class_weight), graphs)


def graphs_in_use(labels: JoinedLabels, domain: str | None) -> frozenset[int]:
    """The reference graph and all graphs with probe images of the task's domain; all graphs if it names no domain.

    The ranking of models on drawings of traffic signs, for example, hardly carries over to photos. The reference graph
    has many domains, for which :func:`domain_odds_ratios` corrects.
    """
    names = sorted(labels.domain_names)
    named = named_domain(names, domain)
    graphs = range(len(labels.union.graphs))
    return frozenset(g for g in graphs if g == 0 or named is None or names[named] in labels.domains_of(g))


def concept_weights(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """[K, C] weight of each selected concept for each class; the remaining weight up to 1 is that of the mean recall.

    ``class_weight`` is the weight of a class's own concepts relative to the mean over classes.
    """
    match, union = candidates.match, candidates.labels.union
    transition = match.transition.astype(np.float64)
    own = transition / transition.sum(axis=0)
    weights: NDArray[np.float64] = match.coverage * (
        class_weight * own + (1 - class_weight) * own.mean(axis=1, keepdims=True)
    )
    in_use = sorted(graphs_in_use(candidates.labels, candidates.domain))
    rows: NDArray[np.int32] = union.rows[in_use][:, match.selected].max(axis=0)
    return weights * (rows >= 0)[:, None]


# --- measured recall --------------------------------------------------------------------------------------------------


def measure_all(labels: JoinedLabels, query: TaskQuery) -> tuple[Measured | None, ...]:
    """Query the labels of M models on all graphs; None for ignored graphs."""
    measured: list[Measured | None] = [None] * len(query.graphs)
    for g, graph in enumerate(query.graphs):
        if graph is not None:
            mean_recall, spread = graph_mean_recall(labels, query.reference, graph, g)
            measured[g] = replace(measure(labels.on_graph(g), graph), mean_recall=mean_recall, spread=spread)
    return tuple(measured)


def graph_mean_recall(
    labels: JoinedLabels, reference: GraphQuery, query: GraphQuery, g: int
) -> tuple[NDArray[np.float64], float]:
    """Mean recall [M] over graph ``g``, and its standard error for models without a label on it.

    For these it is their mean recall on the reference graph, lowered by the difficulty of the graph for other models.
    """
    measured = mean_recall_among(query, labels.rank_shares[g])
    if labels.known[g].all():
        return measured, 0.0
    on_reference = mean_recall_among(reference, labels.rank_shares[0])
    shift, spread = graph_difficulty(on_reference, measured, labels.known[g])
    return np.where(labels.known[g], measured, shift_recall(on_reference, shift)), spread


# --- estimated recall -------------------------------------------------------------------------------------------------


def mll_scores(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """[M, C] estimated recall of each model on each class, 0 to 1, see :func:`penalize_uncertain_leads`.

    ``class_weight`` is the weight of a class's own estimate relative to the mean over classes.
    """
    query, labels = task_query(candidates, class_weight), candidates.labels
    odds = task_odds_ratios(labels, query, candidates.domain)
    recall, errors = estimated_recall(query, measure_all(labels, query), odds)
    return penalize_uncertain_leads(recall, errors, best_by_mean_recall(labels.reference))


def estimated_recall(
    query: TaskQuery, measured: Sequence[Measured | None], odds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimated recall [M, C] of M models on C classes, and standard errors [M, 2] of its mean over the classes.

    ``measured`` has the results on each graph, and ``odds`` [M] are those of :func:`domain_odds_ratios`.
    """
    on_reference = measured[0].mean_recall if measured[0] is not None else np.zeros(0)  # never None
    n_models, n_concepts = len(on_reference), len(query.weights)
    sums, images = np.zeros((n_models, n_concepts)), np.zeros((n_models, n_concepts))
    fallbacks, spreads, n_missing = np.zeros_like(sums), np.zeros(n_concepts), np.zeros((n_models, n_concepts))
    for graph, found in zip(query.graphs, measured, strict=True):
        if graph is None or found is None:
            continue
        weights = np.where(found.known[:, None], found.support[:, graph.rows] + PRIOR_IMAGES, 0)
        sums[:, graph.columns] += weights * shrink_to_hypernyms(graph, found)
        images[:, graph.columns] += weights
        fallbacks[:, graph.columns] += np.where(found.known, 0, found.mean_recall)[:, None]
        n_missing[:, graph.columns] += ~found.known[:, None]
        spreads[graph.columns] = np.maximum(spreads[graph.columns], found.spread)
    fallback = fallbacks / np.maximum(n_missing, 1)
    recall = np.where(images > 0, sums / np.maximum(images, 1), fallback)
    by_class = np.clip(recall @ query.weights + (1 - query.weights.sum(axis=0)) * on_reference[:, None], 0, 1)
    weights = query.weights.mean(axis=1)
    errors = standard_errors(images, recall, weights, spreads)
    return apply_odds_ratios(by_class, odds), errors


def shrink_to_hypernyms(query: GraphQuery, measured: Measured) -> NDArray[np.float64]:
    """[M, K_g] recall on the selected concepts of a graph, shrunk toward the hypernyms.

    ``p_v = (n_v q_v + n0 prior_v) / (n_v + n0)`` with ``n_v`` images, ``q_v`` the expected recall among that many
    candidates, ``n0`` = 10 images, and ``prior_v`` the mean of ``p`` over the direct hypernyms of ``v``. For roots the
    prior is the model's mean over this graph, since recall is not comparable between graphs.
    """
    recall, support = measured.recall.T, measured.support.T
    estimate = np.empty(recall.shape)
    for positions in map(list, query.depths):
        parents = [query.parents[position] for position in positions]
        prior = _means(estimate, parents) if parents[0] else measured.mean_recall
        hits = recall[positions] * support[positions]
        estimate[positions] = (hits + PRIOR_IMAGES * prior) / (support[positions] + PRIOR_IMAGES)
    return estimate[query.rows].T


def graph_difficulty(
    on_reference: NDArray[np.float64], on_graph: NDArray[np.float64], known: NDArray[np.bool_]
) -> tuple[float, float]:
    """Difficulty of a graph relative to the reference graph, as a shift of the logits of mean recall.

    Estimated from the models with a label on both, ``known`` [M]. A graph is never treated as easier: these models may
    have been labeled because they are good at it. The mean recall [M] is given on both graphs.

    Returns:
        The shift, at most 0, and the standard error of the mean recall that it predicts for other models: the residual
        standard deviation with one degree of freedom for the shift. With a single model it is unknown and set to that
        of a uniform distribution.
    """
    if not known.any():
        return 0.0, 0.0
    shift = min(0.0, float(np.mean(logit(on_graph[known], _MIN_RECALL) - logit(on_reference[known], _MIN_RECALL))))
    errors = shift_recall(on_reference[known], shift) - on_graph[known]
    return shift, float(np.sqrt((errors**2).sum() / (len(errors) - 1))) if len(errors) > 1 else _UNKNOWN


def shift_recall(recall: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Recall after adding a shift to its logits."""
    if shift == 0:
        return recall
    return sigmoid(logit(recall, _MIN_RECALL) + shift)


def standard_errors(
    images: NDArray[np.float64],
    recall: NDArray[np.float64],
    weights: NDArray[np.float64],
    spreads: NDArray[np.float64],
) -> NDArray[np.float64]:
    """[M, 2] standard errors of a weighted sum of recalls: of measured concepts, and of concepts not measured.

    For measured concepts ``se^2 = sum_v w_v^2 p_v (1 - p_v) / n_v``; mean recall and domain odds are based on thousands
    of images and treated as exact. Errors of concepts not measured are fully correlated.

    Args:
        images: [M, K] images of K concepts, including those of the prior; 0 where the model was not measured.
        recall: [M, K] shrunk recall on the concepts.
        weights: [K] weights of the concepts.
        spreads: [K] standard errors of the recall of models that were not measured.
    """
    measured = images > 0
    variances = np.where(measured, recall * (1 - recall) / np.maximum(images, 1), 0) @ weights**2
    return np.stack([np.sqrt(variances), np.where(measured, 0, spreads) @ weights], axis=1)


def penalize_uncertain_leads(
    recall: NDArray[np.float64], errors: NDArray[np.float64], reference: int
) -> NDArray[np.float64]:
    """Lower the estimates of models whose lead over a reference model is uncertain, so that they rank below it.

    One of many models seems better by chance, or only on probe images. So a model ranks above the reference only if its
    mean over the classes leads by more than ``MIN_LEAD`` and by more than ``MIN_LEAD_ERRORS`` standard errors of the
    measured concepts and one of those not measured. Such a model is lowered by one standard error (one-standard-error
    rule: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3). All others are multiplied by the
    largest factor with which none reaches the reference; this keeps their order. Missing measurements of the reference
    do not increase the required lead.

    Args:
        recall: [M, C] estimates.
        errors: [M, 2] see :func:`standard_errors`.
        reference: Row of the reference, which is not changed.
    """
    mean, margin = recall.mean(axis=1), 2 * 10.0**-DIGITS  # more than the rounding error of a mean
    required = np.maximum(lead_errors(errors * [MIN_LEAD_ERRORS, 1], reference), MIN_LEAD)
    is_better = mean - required > mean[reference] + margin
    error = lead_errors(errors, reference)
    others = ~is_better & (np.arange(len(mean)) != reference)
    highest = mean[others].max(initial=0.0)
    factor = 1.0 if highest <= mean[reference] + 10.0**-DIGITS else max(mean[reference] - margin, 0) / highest
    factors = np.where(others, factor, 1.0)
    factors[is_better] = 1 - error[is_better] / mean[is_better]
    return recall * factors[:, None]


def lead_errors(errors: NDArray[np.float64], reference: int) -> NDArray[np.float64]:
    """[M] standard errors of the lead over the reference; arguments as for :func:`penalize_uncertain_leads`."""
    return np.sqrt((errors**2).sum(axis=1) + errors[reference, 0] ** 2)


def best_by_mean_recall(labels: Sequence[Label]) -> int:
    """Position of the label with the highest mean recall; ties are broken by cost, then id."""
    return min(range(len(labels)), key=lambda m: (-round(labels[m].mean_recall, DIGITS), *labels[m].tie_break))


# --- the task's domain ------------------------------------------------------------------------------------------------


def task_odds_ratios(labels: JoinedLabels, query: TaskQuery, domain: str | None) -> NDArray[np.float64]:
    """[M] odds ratios of the task's domain on the reference graph, see :func:`domain_odds_ratios`."""
    return domain_odds_ratios(labels.reference, domain, query.reference.mean_chances, labels.domain_names)


def domain_odds_ratios(
    labels: Sequence[Label], domain: str | None, chances: NDArray[np.float64], names: Collection[str]
) -> NDArray[np.float64]:
    """[M] odds of recognizing a probe image of the task's domain, divided by the odds for any probe image.

    1 if the task names no domain or several, if the label lacks the domain, or if the overall recall is 0 or 1. The
    recall on the domain is shrunk toward the overall recall with a weight of 10 images.

    Args:
        labels: M labels.
        domain: The task's domain.
        chances: [RANK_BINS] mean probability to win an image among as many candidates as classes.
        names: Names of all domains, including those of labels on other graphs.
    """
    names, odds = sorted(names), np.ones(len(labels))
    named = named_domain(names, domain)
    rows = [m for m, label in enumerate(labels) if named is not None and names[named] in label.domain_names]
    if named is None or not rows:
        return odds
    ranks = [labels[m].domain_ranks for m in rows]
    domain_counts = np.array(
        [counts[labels[m].domain_names.index(names[named])] for m, counts in zip(rows, ranks, strict=True)]
    )
    starts = np.cumsum([0, *map(len, ranks)])[:-1]
    recall = recall_among(np.add.reduceat(np.concatenate(ranks), starts, axis=0, dtype=np.int64), chances)
    known = (recall > 0) & (recall < 1)
    recall = np.where(known, recall, 0.5)
    images = domain_counts.sum(axis=1, dtype=np.int64)
    won = images * recall_among(domain_counts, chances)
    domain_recall = (won + PRIOR_IMAGES * recall) / (images + PRIOR_IMAGES)
    ratios = domain_recall / (1 - domain_recall) / (recall / (1 - recall))
    odds[rows] = np.where(known, ratios, 1.0)
    return odds


def apply_odds_ratios(recall: NDArray[np.float64], odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, C] recall after multiplying its odds by odds ratios [M]."""
    ratios = odds[:, None]
    return ratios * recall / (1 - recall + ratios * recall)


def _means(values: NDArray[np.float64], groups: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """[len(groups), M] mean of ``values`` [..., M] over the rows of each group; groups are not empty."""
    sizes = np.array([len(group) for group in groups])
    sums = np.add.reduceat(values[[row for group in groups for row in group]], np.cumsum(sizes) - sizes, axis=0)
    return sums / sizes[:, None]
