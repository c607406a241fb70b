"""Score models and choose the best ones.

Each strategy is a pure function from evidence to scores. This module calls it, applies the limits, chooses the models
and records the explanation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.label import UNPINNED, Cost, ModelRef
from mll_hf.models.known import usable_models
from mll_hf.selection.accuracy import estimate_accuracy, task_traits
from mll_hf.selection.base import DIGITS, Candidates, Evidence, NoModelFitsError, SelectionConfig, Strategy, quantize
from mll_hf.selection.estimates import comparable_names, estimate_by_labels, imagenet_shift, on_common_scale
from mll_hf.selection.mll import candidate_count, concept_weights, mll_scores
from mll_hf.selection.paper import paper_scores, restricted_precision
from mll_hf.selection.result import MatchedConcept, SelectedModel, Selection
from mll_hf.utils.text import gigaflops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.join import JoinedLabels
    from mll_hf.labels.label import Label
    from mll_hf.models.known import KnownModel

ESTIMATING_STRATEGIES = (Strategy.MLL, Strategy.GENERAL)  # their scores are accuracies, comparable across groups


def select(candidates: Candidates, config: SelectionConfig, task: str | None = None) -> Selection:
    """Choose models for each class; ``task`` is kept for the prompts.

    If no labeled model is within the limits, the choice is made among models with published overall figures.

    Raises:
        NoModelFitsError: No model is within the limits.
    """
    try:
        candidates = within_limits(candidates, config)
    except NoModelFitsError:
        if config.strategy not in ESTIMATING_STRATEGIES or not _published_within_limits(candidates.published, config):
            raise
        names = comparable_names(candidates.match)
        return select_by_imagenet(candidates.match.classes, config, candidates.domain, task, names)
    parts = (candidates, *candidates.other_groups)
    scored = [score(part, config) for part in parts]
    estimated = config.strategy in ESTIMATING_STRATEGIES
    shifts = (
        [imagenet_shift(part.labels, each) for part, each in zip(parts, scored, strict=True)] if estimated else [0.0]
    )
    scores = np.round(on_common_scale(parts, scored, shifts), DIGITS)
    labeled = [(g, m) for g, part in enumerate(parts) for m in range(len(part.labels))]
    models = [_model_from_label(parts[g].labels.reference[m], parts[g].evidence) for g, m in labeled]
    models += map(_model_from_published, candidates.published)
    overall = quantize(scores).sum(axis=1)
    order = sorted(range(len(scores)), key=lambda m: (-overall[m], *models[m].tie_break))
    chosen = choose(scores[order], config)
    union = [order[m] for m in np.flatnonzero(chosen.any(axis=1))]
    g, best = next(labeled[m] for m in order if m < len(labeled))
    rows = [labeled[m][1] if m < len(labeled) and labeled[m][0] == g else None for m in union]
    estimates = estimate_by_labels(candidates, scores.mean(axis=1), shifts[0]) if estimated else None
    return Selection(
        classes=candidates.match.classes,
        strategy=config.strategy,
        k=config.per_class,
        models=tuple(models[m] for m in order),
        scores=scores[order],
        chosen=chosen,
        matches=_explain(parts[g], rows, config.strategy),
        coverage=_coverage(parts[g], config),
        images=_effective_images(parts[g], best),
        domain=candidates.domain,
        task=task,
        estimates=estimates and estimates.subset(order),
    )


def select_by_imagenet(
    classes: tuple[str, ...],
    config: SelectionConfig,
    domain: str | None = None,
    task: str | None = None,
    names: NDArray[np.float64] | None = None,
) -> Selection:
    """Choose among the published models by ImageNet accuracy; no labels are needed.

    This is the paper's baseline ImageNet-best (INB). The estimated accuracy also depends on the embedded class names
    ``names`` [C, E]; None without a text encoder.

    Raises:
        NoModelFitsError: No model is within the limits.
    """
    published = _published_within_limits(usable_models(), config)
    if not published:
        raise NoModelFitsError("none of the models with a published accuracy is within the limits; raise the limits")
    published = tuple(sorted(published, key=lambda model: (-model.accuracy, model.cost.gflops, model.hub_id)))
    scores = np.repeat(np.array([model.accuracy for model in published])[:, None], len(classes), axis=1)
    models = tuple(_model_from_published(model) for model in published)
    return Selection(
        classes=classes,
        strategy=Strategy.IMAGENET,
        k=config.per_class,
        models=models,
        scores=scores,
        chosen=choose(scores, replace(config, strategy=Strategy.IMAGENET)),
        matches=((),) * len(classes),
        coverage=np.zeros(len(classes)),
        images=np.zeros(len(classes)),
        domain=domain,
        task=task,
        estimates=estimate_accuracy(scores[:, 0], task_traits(len(classes), names, domain)),
    )


def score(candidates: Candidates, config: SelectionConfig) -> NDArray[np.float64]:
    """[M, C] scores of M labeled models on the classes, by the configured strategy."""
    match config.strategy:
        case Strategy.PAPER:
            return paper_scores(candidates, config.class_weight)
        case Strategy.GENERAL:
            return general_scores(candidates)
        case Strategy.MLL:
            return mll_scores(candidates, config.class_weight)
        case Strategy.IMAGENET:
            raise InputError("strategy 'imagenet' does not use labels; use select_by_imagenet")


def general_scores(candidates: Candidates) -> NDArray[np.float64]:
    """[M, C] mean recall over the reference graph, the same for every class."""
    recall = np.array([label.mean_recall for label in candidates.labels.reference])
    return np.repeat(recall[:, None], len(candidates.match.classes), axis=1)


def choose(scores: NDArray[np.float64], config: SelectionConfig) -> NDArray[np.bool_]:
    """[M, C] which models are chosen for which class.

    ``paper`` chooses the k best models of each class, the other strategies the k best overall for all classes.
    """
    chosen = np.zeros(scores.shape, np.bool_)
    max_models = min(config.max_models or len(scores), len(scores))
    match config.strategy:
        case Strategy.PAPER:
            allowed = choose_at_most(scores, config.per_class, max_models)
            ranked = np.argsort(-np.where(allowed[:, None], scores, -np.inf), axis=0, kind="stable")
            np.put_along_axis(chosen, ranked[: min(config.per_class, max_models)], True, axis=0)
        case Strategy.GENERAL | Strategy.MLL | Strategy.IMAGENET:
            best = np.argsort(-quantize(scores).sum(axis=1), kind="stable")
            chosen[best[: min(config.per_class, max_models)]] = True
    return chosen


def choose_at_most(scores: NDArray[np.float64], k: int, max_models: int) -> NDArray[np.bool_]:
    """[M] a choice of at most ``max_models`` models that together score high on all classes.

    If there are at most ``max_models`` among the k best models of each class, these are chosen. Otherwise models are
    added greedily to maximize the sum over classes of the k best scores. This sum is submodular, so the greedy choice
    reaches at least 1 - 1/e of the optimum (Nemhauser et al., 1978).
    """
    scores = quantize(scores)
    best = np.unique(np.argsort(-scores, axis=0, kind="stable")[:k])
    allowed = np.zeros(len(scores), np.bool_)
    if len(best) <= max_models:
        allowed[best] = True
        return allowed
    shifted = scores - scores.min()  # so that a class without a model adds 0
    served = np.zeros((min(k, max_models), scores.shape[1]))  # the k best scores of each class so far, lowest first
    for _ in range(max_models):
        gains = np.maximum(shifted - served[0], 0).sum(axis=1)
        m = int(np.argmax(np.where(allowed, -1, gains)))
        allowed[m] = True
        served[0] = np.maximum(served[0], shifted[m])
        served.sort(axis=0)
    return allowed


def within_limits(candidates: Candidates, config: SelectionConfig) -> Candidates:
    """Remove models that exceed the limits or are to be left out, and groups without any labeled model left.

    Raises:
        NoModelFitsError: No labeled model is left.
    """
    _refuse_licenses(config)
    estimating = config.strategy in ESTIMATING_STRATEGIES
    parts = (candidates, *candidates.other_groups) if estimating else (candidates,)
    published = candidates.published if estimating else ()
    within = [part.subset(rows) for part in parts if (rows := eligible_rows(part.labels, config))]
    if not within:
        labels = [label for part in parts for label in part.labels.reference]
        if any(_fits(label.cost, config) for label in labels):
            raise NoModelFitsError("all labeled models within the limits are left out; leave out fewer")
        costs = [*(label.cost for label in labels), *(model.cost for model in published)]
        raise NoModelFitsError(
            f"none of the {len(costs)} {'models' if published else 'labeled models'} is within the limits (smallest: "
            f"{min(cost.parameters for cost in costs):,} parameters; cheapest: "
            f"{gigaflops(min(cost.gflops for cost in costs))} GFLOPs per image); raise the limits"
        )
    published = _published_within_limits(published, config)
    return replace(within[0], published=published, other_groups=tuple(within[1:]))


def eligible_rows(labels: JoinedLabels, config: SelectionConfig) -> list[int]:
    """Positions of the labeled models that are within the limits and are not to be left out."""
    return [
        m
        for m, label in enumerate(labels.reference)
        if _fits(label.cost, config) and label.model.repo_id not in config.without
    ]


def _published_within_limits(published: tuple[KnownModel, ...], config: SelectionConfig) -> tuple[KnownModel, ...]:
    _refuse_licenses(config)
    return tuple(model for model in published if _fits(model.cost, config) and model.hub_id not in config.without)


def _refuse_licenses(config: SelectionConfig) -> None:
    if config.licenses:
        raise InputError("licenses are supported only by Client.select; use it, or leave out the licenses")


def _fits(cost: Cost, config: SelectionConfig) -> bool:
    return (config.max_parameters is None or cost.parameters <= config.max_parameters) and (
        config.max_gflops is None or cost.gflops <= config.max_gflops
    )


def _model_from_label(label: Label, evidence: Evidence) -> SelectedModel:
    return SelectedModel(
        label.model, label.cost, float(label.temperature[0]), label.mean_recall, evidence, license=label.license
    )


def _model_from_published(model: KnownModel) -> SelectedModel:
    ref = ModelRef(model.hub_id, revision=UNPINNED, backend="open_clip")
    return SelectedModel(ref, model.cost, 1.0, model.accuracy, Evidence.OVERALL, license=model.license)


def _explain(
    part: Candidates, rows: Sequence[int | None], strategy: Strategy
) -> tuple[tuple[MatchedConcept, ...], ...]:
    """The concepts of each class, with the recall of the models of the union as used by the strategy.

    ``rows`` are the positions of these models in ``part``; None for models of other groups.
    """
    matched, graph = part.match, part.graph
    recall = np.full((len(rows), len(matched.selected)), np.nan)
    if measured := [position for position, m in enumerate(rows) if m is not None]:
        recall[measured] = _concept_recall(part.subset([m for m in rows if m is not None]), strategy)
    columns = np.searchsorted(matched.selected, matched.concepts)
    names = {v: (graph.concepts[v].id, graph.concepts[v].name) for v in matched.selected}
    return tuple(
        tuple(
            MatchedConcept(*names[v], float(weight), _optional_recalls(recall[:, column]))
            for v, weight, column in zip(matched.concepts[y], matched.weights[y], columns[y], strict=True)
        )
        for y in range(len(matched.classes))
    )


def _optional_recalls(recall: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else value for value in recall.tolist())


def _concept_recall(candidates: Candidates, strategy: Strategy) -> NDArray[np.float64]:
    """[M, K] recall of the labeled models on the selected concepts, as used by the strategy; NaN without images.

    For a concept in several graphs, the mean over all images.
    """
    if strategy is Strategy.PAPER:
        return restricted_precision(candidates)
    labels, selected = candidates.labels, candidates.match.selected
    n_candidates = candidate_count(candidates.match)
    won, images = np.zeros((len(labels), len(selected))), np.zeros((len(labels), len(selected)))
    for g, graph in enumerate(labels.union.graphs):
        rows = labels.union.rows[g, selected]
        columns, concepts = np.flatnonzero(rows >= 0), rows[rows >= 0].astype(np.int64)
        for m, label in enumerate(labels.on_graph(g)):
            if label is None:
                continue
            if strategy is Strategy.MLL:
                recall = label.recall_among(n_candidates, concepts, graph.rival_counts)
            else:
                recall = label.node_precision[concepts].astype(np.float64)
            won[m, columns] += label.support[concepts] * recall
            images[m, columns] += label.support[concepts]
    return np.divide(won, images, out=np.full_like(won, np.nan), where=images > 0)


def _coverage(candidates: Candidates, config: SelectionConfig) -> NDArray[np.float64]:
    """[C] total weight of the concepts in the estimate of each class."""
    if config.strategy is not Strategy.MLL:
        return candidates.match.coverage.astype(np.float64)
    return np.clip(concept_weights(candidates, config.class_weight).sum(axis=0), 0, 1)


def _effective_images(candidates: Candidates, m: int) -> NDArray[np.float64]:
    """[C] effective number of images, from the variance of the weighted mean over each class's concepts."""
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
