"""Our selection strategy. It differs from the paper where the paper's estimates are noisy or not comparable.

Recall is measured among as many candidates as the task has classes, shrunk toward that on hypernyms, corrected for the
domain of the images, and pooled over graphs. Weights over concepts are normalized per class, so that classes are
comparable; for a class without a similar concept in any graph, the model's mean recall is used. The same models are
chosen for all classes, since probabilities of different models are not comparable per class.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.labels.counts import chances_to_win, expected_wins, mean_chance_to_win
from mll_hf.matching.prompts import named_domain
from mll_hf.selection.probabilities import DIGITS, logit, sigmoid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.join import JoinedLabels
    from mll_hf.labels.label import Label
    from mll_hf.selection.candidates import Candidates

    Floats = NDArray[np.float64]

PRIOR_IMAGES = 10.0  # weight of the hypernyms' recall, in images
# Minimum lead in standard errors of the probe images. A task has images of another kind, on which smaller leads are
# lost too often (measured on tasks derived from others).
MIN_LEAD_ERRORS = 5.0
MIN_LEAD = 0.03  # with very many probe images, five standard errors alone are too small a lead for real models
_UNKNOWN = math.sqrt(1 / 12)  # standard deviation of the uniform distribution on [0, 1]
_MIN_RECALL = 1e-3  # mean recall is clipped to this distance from 0 and 1 before taking logits


def mll_scores(candidates: Candidates, class_weight: float) -> Floats:
    """[M, C] estimated recall of each model on each class, 0 to 1, see :func:`penalize_uncertain_leads`.

    ``class_weight`` is the weight of a class's own estimate relative to the mean over classes.
    """
    recall, errors = estimated_recall(candidates, class_weight)
    return penalize_uncertain_leads(recall, errors, best_by_mean_recall(candidates.labels.reference))


def estimated_recall(candidates: Candidates, class_weight: float) -> tuple[Floats, Floats]:
    """Estimated recall [M, C], and standard errors [M, 2] of its mean over the classes.

    The errors are those on measured concepts, ``se^2 = sum_v w_v^2 p_v (1 - p_v) / (n_v + n0)``, see
    :func:`recall_on_graph`, where mean recall and domain odds are based on thousands of images and treated as exact;
    and those on concepts that a model was not measured on, which are fully correlated.
    """
    labels, selected, n_candidates = candidates.labels, candidates.match.selected, candidates.n_candidates
    general = mean_recall_among(labels, 0, n_candidates)
    sums, images, guesses, n_guesses = np.zeros((4, len(labels), len(selected)))
    spreads = np.zeros(len(selected))
    for g in graphs_in_use(labels, candidates.domain):
        rows, known = labels.union.rows[g, selected], np.array([label is not None for label in labels.on_graph(g)])
        columns, mean = np.flatnonzero(rows >= 0), mean_recall_among(labels, g, n_candidates)
        found, n_images = recall_on_graph(labels, g, rows[columns], n_candidates, mean)
        weights = np.where(known[:, None], n_images + PRIOR_IMAGES, 0)
        sums[:, columns] += weights * found
        images[:, columns] += weights
        if not known.all():
            shift, spread = graph_difficulty(general, mean, known)
            guesses[:, columns] += np.where(known, 0, shift_recall(general, shift))[:, None]
            n_guesses[:, columns] += ~known[:, None]
            spreads[columns] = np.maximum(spreads[columns], spread)
    measured, counts = images > 0, np.maximum(images, 1)
    recall = np.where(measured, sums / counts, guesses / np.maximum(n_guesses, 1))
    weights = concept_weights(candidates, class_weight)
    by_class = np.clip(recall @ weights + np.outer(general, 1 - weights.sum(axis=0)), 0, 1)
    of_mean = weights.mean(axis=1)
    variances = np.where(measured, recall * (1 - recall) / counts, 0) @ of_mean**2
    errors = np.stack([np.sqrt(variances), np.where(measured, 0, spreads) @ of_mean], axis=1)
    odds = domain_odds_ratios(labels, candidates.domain, n_candidates)[:, None]
    return odds * by_class / (1 - by_class + odds * by_class), errors


def recall_on_graph(
    labels: JoinedLabels, g: int, rows: NDArray[np.int32], n_candidates: int, mean: Floats
) -> tuple[Floats, NDArray[np.float64]]:
    """[M, K] recall on concepts of a graph among this many candidates, shrunk toward the hypernyms; numbers of images.

    ``p_v = (n_v q_v + n0 prior_v) / (n_v + n0)`` with ``n_v`` images, ``q_v`` the expected recall among that many
    candidates, ``n0`` = 10 images, and ``prior_v`` the mean of ``p`` over the direct hypernyms of ``v``. For roots the
    prior is the model's ``mean`` [M] over this graph, since recall is not comparable between graphs.
    """
    graph = labels.union.graphs[g]
    wanted = set(rows.tolist()).union(*(graph.ancestors[v].tolist() for v in rows))
    concepts = [v for v in graph.topological_order if v in wanted]
    position = {v: index for index, v in enumerate(concepts)}
    chances = chances_to_win(graph.rival_counts[concepts], n_candidates)
    won, images = np.zeros((2, len(labels), len(concepts)))
    for m, label in enumerate(labels.on_graph(g)):
        if label is not None:
            won[m], images[m] = expected_wins(label.ranks[concepts], chances), label.support[concepts]
    shrunk = np.empty_like(won)
    for v, column in position.items():
        above = [position[parent] for parent in graph.parents[v]]
        toward = shrunk[:, above].mean(axis=1) if above else mean
        shrunk[:, column] = (won[:, column] + PRIOR_IMAGES * toward) / (images[:, column] + PRIOR_IMAGES)
    selected = [position[v] for v in rows.tolist()]
    return shrunk[:, selected], images[:, selected]


def graph_difficulty(on_reference: Floats, on_graph: Floats, known: NDArray[np.bool_]) -> tuple[float, float]:
    """Difficulty of a graph relative to the reference graph, as a shift of the logits of mean recall.

    Estimated from the models with a label on both, ``known`` [M]. A graph is never treated as easier: these models may
    have been labeled because they are good at it. The mean recall [M] is given on both graphs.

    Also returns the standard error of the mean recall that the shift predicts for other models: the residual standard
    deviation with one degree of freedom for the shift. With one model it is set to that of a uniform distribution.
    """
    if not known.any():
        return 0.0, 0.0
    shift = min(0.0, float(np.mean(logit(on_graph[known], _MIN_RECALL) - logit(on_reference[known], _MIN_RECALL))))
    errors = shift_recall(on_reference[known], shift) - on_graph[known]
    return shift, float(np.sqrt((errors**2).sum() / (len(errors) - 1))) if len(errors) > 1 else _UNKNOWN


def shift_recall(recall: Floats, shift: float) -> Floats:
    """Recall after adding a shift to its logits."""
    return sigmoid(logit(recall, _MIN_RECALL) + shift) if shift else recall


def domain_odds_ratios(labels: JoinedLabels, domain: str | None, n_candidates: int) -> Floats:
    """[M] odds of recognizing a probe image of the task's domain on the reference graph, by the odds for any image.

    1 if the task names no domain or several, if the label lacks the domain, or if the overall recall is 0 or 1. The
    recall on the domain is shrunk toward the overall recall with a weight of 10 images.
    """
    name, odds = _named_domain(labels, domain), np.ones(len(labels))
    chances = mean_chance_to_win(labels.union.graphs[0].rival_counts, n_candidates)
    for m, label in enumerate(labels.reference):
        if name in label.domain_names:
            of_all = label.domain_ranks.sum(axis=0)
            overall = float(of_all @ chances / max(int(of_all.sum()), 1))
            of_domain = label.domain_ranks[label.domain_names.index(name)]
            if 0 < overall < 1:
                recall = (of_domain @ chances + PRIOR_IMAGES * overall) / (of_domain.sum() + PRIOR_IMAGES)
                odds[m] = recall / (1 - recall) / (overall / (1 - overall))
    return odds


def mean_recall_among(labels: JoinedLabels, g: int, n_candidates: int) -> Floats:
    """[M] mean recall over a graph among this many candidates; 0 for models without a label on it."""
    return np.asarray(labels.rank_shares[g] @ mean_chance_to_win(labels.union.graphs[g].rival_counts, n_candidates))


def graphs_in_use(labels: JoinedLabels, domain: str | None) -> list[int]:
    """The reference graph and all graphs with probe images of the task's domain; all graphs if it names no domain.

    The ranking of models on drawings of traffic signs, for example, hardly carries over to photos. The reference graph
    has many domains, for which :func:`domain_odds_ratios` corrects.
    """
    name, graphs = _named_domain(labels, domain), range(len(labels.union.graphs))
    return [g for g in graphs if g == 0 or name is None or name in labels.domains_of(g)]


def _named_domain(labels: JoinedLabels, domain: str | None) -> str | None:
    """The one domain of probe images that the task names."""
    names = sorted(labels.domain_names)
    named = named_domain(names, domain)
    return None if named is None else names[named]


def concept_weights(candidates: Candidates, class_weight: float) -> Floats:
    """[K, C] weight of each selected concept for each class; the remaining weight up to 1 is that of the mean recall.

    ``class_weight`` is the weight of a class's own concepts relative to the mean over classes.
    """
    match, union = candidates.match, candidates.labels.union
    transition = match.transition.astype(np.float64)
    own = transition / transition.sum(axis=0)
    weights: Floats = match.coverage * (class_weight * own + (1 - class_weight) * own.mean(axis=1, keepdims=True))
    rows = union.rows[graphs_in_use(candidates.labels, candidates.domain)][:, match.selected].max(axis=0)
    return weights * (rows >= 0)[:, None]


def penalize_uncertain_leads(recall: Floats, errors: Floats, reference: int) -> Floats:
    """Lower the estimates of models whose lead over a reference model is uncertain, so that they rank below it.

    One of many models seems better by chance, or only on probe images. So a model ranks above the reference only if its
    mean over the classes leads by more than ``MIN_LEAD`` and by more than ``MIN_LEAD_ERRORS`` standard errors of the
    measured concepts and one of those not measured. Such a model is lowered by one standard error (one-standard-error
    rule: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3). All others are multiplied by the
    largest factor with which none reaches the reference; this keeps their order. Missing measurements of the reference
    do not increase the required lead.

    Estimates [M, C] and errors [M, 2] are those of :func:`estimated_recall`; the row of the reference is not changed.
    """
    mean, margin = recall.mean(axis=1), 2 * 10.0**-DIGITS  # more than the rounding error of a mean
    measured = np.hypot(errors[:, 0], errors[reference, 0])
    required = np.maximum(np.hypot(MIN_LEAD_ERRORS * measured, errors[:, 1]), MIN_LEAD)
    is_better = mean - required > mean[reference] + margin
    others = ~is_better & (np.arange(len(mean)) != reference)
    highest = mean[others].max(initial=0.0)
    factor = 1.0 if highest <= mean[reference] + 10.0**-DIGITS else max(mean[reference] - margin, 0) / highest
    factors = np.where(others, factor, 1.0)
    factors[is_better] = 1 - np.hypot(measured, errors[:, 1])[is_better] / mean[is_better]
    return recall * factors[:, None]


def best_by_mean_recall(labels: Sequence[Label]) -> int:
    """Position of the label with the highest mean recall; ties are broken by cost, then id."""
    return min(range(len(labels)), key=lambda m: (-round(labels[m].mean_recall, DIGITS), *labels[m].tie_break))
