"""Score models on classes and choose.

Each strategy is one pure function from evidence to scores; this module dispatches, applies the caps, chooses and keeps
what explains the choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.label import UNPINNED, Cost, ModelRef
from mll_hf.models.known import usable_models
from mll_hf.selection.accuracy import estimate_accuracy, task_traits
from mll_hf.selection.base import DIGITS, Candidates, Evidence, NoneFitsError, SelectionConfig, Strategy, in_units
from mll_hf.selection.estimates import comparable_names, estimate_by_labels, imagenet_shift, on_one_scale
from mll_hf.selection.mll import candidates_of, evidence_weights, mll_scores
from mll_hf.selection.paper import paper_scores, restricted_precision
from mll_hf.selection.result import MatchedConcept, SelectedModel, Selection
from mll_hf.utils.text import gigaflops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.join import JoinedLabels
    from mll_hf.labels.label import LabelSummary
    from mll_hf.models.known import KnownModel

ESTIMATING = (Strategy.MLL, Strategy.GENERAL)  # their scores are accuracies, so those of other models compare with them


def select(candidates: Candidates, config: SelectionConfig, task: str | None = None) -> Selection:
    """Choose models for every class; the selection carries the user's name of the task for the prompts.

    If no labeled model is within the caps, models with overall figures are chosen among by these alone.

    Raises:
        NoneFitsError: No model is within the caps.
    """
    try:
        candidates = within_caps(candidates, config)
    except NoneFitsError:
        if config.strategy not in ESTIMATING or not _published_within_caps(candidates.published, config):
            raise
        names = comparable_names(candidates.match)
        return select_by_imagenet(candidates.match.classes, config, candidates.domain, task, names)
    parts = (candidates, *candidates.further)
    scored = [score(part, config) for part in parts]
    estimated = config.strategy in ESTIMATING
    shifts = [imagenet_shift(part.labels, of) for part, of in zip(parts, scored, strict=True)] if estimated else [0.0]
    scores = np.round(on_one_scale(parts, scored, shifts), DIGITS)
    labeled = [(g, m) for g, part in enumerate(parts) for m in range(len(part.labels))]
    models = [_of_label(parts[g].labels.reference[m], parts[g].evidence) for g, m in labeled]
    models += map(_of_published, candidates.published)
    overall = in_units(scores).sum(axis=1)
    order = sorted(range(len(scores)), key=lambda m: (-overall[m], *models[m].tie_break))
    levels = np.array([models[m].general for m in order])
    chosen = choose(scores[order], config, levels)
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
        estimates=estimates and estimates.take(order),
    )


def select_by_imagenet(
    classes: tuple[str, ...],
    config: SelectionConfig,
    domain: str | None = None,
    task: str | None = None,
    names: NDArray[np.float64] | None = None,
) -> Selection:
    """Choose among the published models by their ImageNet accuracy alone, for any classes: no label is needed.

    This is the paper's baseline ImageNet-best (INB). The estimated accuracy also looks at the embedded names [C, E] of
    the classes; None if there is no text encoder.

    Raises:
        NoneFitsError: No model is within the caps.
    """
    published = _published_within_caps(usable_models(), config)
    if not published:
        raise NoneFitsError("none of the models with a published accuracy is within the caps; raise the caps")
    published = tuple(sorted(published, key=lambda model: (-model.accuracy, model.cost.gflops, model.hub_id)))
    scores = np.repeat(np.array([model.accuracy for model in published])[:, None], len(classes), axis=1)
    models = tuple(_of_published(model) for model in published)
    return Selection(
        classes=classes,
        strategy=Strategy.IMAGENET,
        k=config.per_class,
        models=models,
        scores=scores,
        chosen=choose(scores, replace(config, strategy=Strategy.IMAGENET), scores[:, 0]),
        matches=((),) * len(classes),
        coverage=np.zeros(len(classes)),
        images=np.zeros(len(classes)),
        domain=domain,
        task=task,
        estimates=estimate_accuracy(scores[:, 0], task_traits(len(classes), names, domain)),
    )


def score(candidates: Candidates, config: SelectionConfig) -> NDArray[np.float64]:
    """[M, C] scores of M labeled models on the classes under the configured strategy."""
    match config.strategy:
        case Strategy.PAPER:
            return paper_scores(candidates, config.class_weight)
        case Strategy.GENERAL:
            return general_scores(candidates)
        case Strategy.UNIFORM:
            return uniform_scores(candidates)
        case Strategy.MLL:
            return mll_scores(candidates, config.class_weight)
        case Strategy.IMAGENET:
            raise InputError("strategy 'imagenet' looks at no label; use select_by_imagenet")


def general_scores(candidates: Candidates) -> NDArray[np.float64]:
    """[M, C] mean recall over the whole graph, the same for every class."""
    levels = np.array([label.mean_recall for label in candidates.labels.reference])
    return np.repeat(levels[:, None], len(candidates.match.classes), axis=1)


def uniform_scores(candidates: Candidates) -> NDArray[np.float64]:
    """[M, C] the same for every model and class: no model is preferred."""
    return np.full((len(candidates.labels), len(candidates.match.classes)), 1 / len(candidates.labels))


def choose(scores: NDArray[np.float64], config: SelectionConfig, levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[M, C] which models answer for which class.

    ``paper`` takes the k best models of each class; ``general``, ``mll`` and ``imagenet`` the k best overall, for all;
    ``uniform`` all models, or the ``max_models`` with the highest of the general levels [M].
    """
    chosen = np.zeros(scores.shape, np.bool_)
    most = min(config.max_models or len(scores), len(scores))
    match config.strategy:
        case Strategy.PAPER:
            allowed = choose_within(scores, config.per_class, most)
            ranked = np.argsort(-np.where(allowed[:, None], scores, -np.inf), axis=0, kind="stable")
            np.put_along_axis(chosen, ranked[: min(config.per_class, most)], True, axis=0)
        case Strategy.GENERAL | Strategy.MLL | Strategy.IMAGENET:
            best = np.argsort(-in_units(scores).sum(axis=1), kind="stable")
            chosen[best[: min(config.per_class, most)]] = True
        case Strategy.UNIFORM:
            chosen[np.argsort(-in_units(levels), kind="stable")[:most]] = True
    return chosen


def choose_within(scores: NDArray[np.float64], k: int, most: int) -> NDArray[np.bool_]:
    """[M] at most ``most`` models that together serve the classes well.

    If the k best models of all classes are no more than that, these; otherwise greedily the model that adds most to
    the sum over classes of the k best scores. That sum is submodular, so the greedy choice reaches at least
    1 - 1/e of the best one (Nemhauser et al., 1978).
    """
    scores = in_units(scores)
    best = np.unique(np.argsort(-scores, axis=0, kind="stable")[:k])
    allowed = np.zeros(len(scores), np.bool_)
    if len(best) <= most:
        allowed[best] = True
        return allowed
    shifted = scores - scores.min()  # so that a class without a model yet counts for nothing
    served = np.zeros((min(k, most), scores.shape[1]))  # of each class the k best scores so far, lowest first
    for _ in range(most):
        gains = np.maximum(shifted - served[0], 0).sum(axis=1)
        m = int(np.argmax(np.where(allowed, -1, gains)))
        allowed[m] = True
        served[0] = np.maximum(served[0], shifted[m])
        served.sort(axis=0)
    return allowed


def within_caps(candidates: Candidates, config: SelectionConfig) -> Candidates:
    """Only the models that are within the caps and not to be left out; groups of labels without one are dropped.

    Raises:
        NoneFitsError: There is no labeled one.
    """
    _refuse_licenses(config)
    parts = (candidates, *candidates.further) if config.strategy in ESTIMATING else (candidates,)
    within = [part.take(rows) for part in parts if (rows := fitting(part.labels, config))]
    if not within:
        labels = [label for part in parts for label in part.labels.reference]
        if any(_fits(label.cost, config) for label in labels):
            raise NoneFitsError("all labeled models within the caps are to be left out; leave out fewer")
        costs = [label.cost for label in labels]
        if config.strategy in ESTIMATING:
            costs += [model.cost for model in candidates.published]
        kind = "labeled models" if len(costs) == len(labels) else "models"
        raise NoneFitsError(
            f"none of the {len(costs)} {kind} is within the caps (smallest: "
            f"{min(cost.parameters for cost in costs):,} parameters; cheapest: "
            f"{gigaflops(min(cost.gflops for cost in costs))} GFLOPs per image); raise the caps"
        )
    published = _published_within_caps(candidates.published, config) if config.strategy in ESTIMATING else ()
    return replace(within[0], published=published, further=tuple(within[1:]))


def fitting(labels: JoinedLabels, config: SelectionConfig) -> list[int]:
    """Positions of the labeled models that are within the caps and not to be left out."""
    return [
        m
        for m, label in enumerate(labels.reference)
        if _fits(label.cost, config) and label.model.repo_id not in config.without
    ]


def _published_within_caps(published: tuple[KnownModel, ...], config: SelectionConfig) -> tuple[KnownModel, ...]:
    _refuse_licenses(config)
    return tuple(model for model in published if _fits(model.cost, config) and model.hub_id not in config.without)


def _refuse_licenses(config: SelectionConfig) -> None:
    if config.licenses:
        raise InputError("licenses are checked by Client.select alone; use it, or leave out the licenses")


def _fits(cost: Cost, config: SelectionConfig) -> bool:
    return (config.max_parameters is None or cost.parameters <= config.max_parameters) and (
        config.max_gflops is None or cost.gflops <= config.max_gflops
    )


def _of_label(label: LabelSummary, evidence: Evidence) -> SelectedModel:
    return SelectedModel(
        label.model, label.cost, float(label.temperature[0]), label.mean_recall, evidence, license=label.license
    )


def _of_published(model: KnownModel) -> SelectedModel:
    ref = ModelRef(model.hub_id, revision=UNPINNED, backend="open_clip")
    return SelectedModel(ref, model.cost, 1.0, model.accuracy, Evidence.OVERALL, license=model.license)


def _explain(
    part: Candidates, rows: Sequence[int | None], strategy: Strategy
) -> tuple[tuple[MatchedConcept, ...], ...]:
    """For each class its concepts, with the recall of the models of the union as the strategy saw it.

    Each of these models has a row in the group of labels that explains, None if it was not measured on its images.
    """
    matched, graph = part.match, part.graph
    recall = np.full((len(rows), len(matched.selected)), np.nan)
    if there := [at for at, m in enumerate(rows) if m is not None]:
        recall[there] = _concept_recall(part.take([m for m in rows if m is not None]), strategy)
    columns = np.searchsorted(matched.selected, matched.concepts)
    names = {v: (graph.concepts[v].id, graph.concepts[v].name) for v in matched.selected}
    return tuple(
        tuple(
            MatchedConcept(*names[v], float(weight), _known(recall[:, at]))
            for v, weight, at in zip(matched.concepts[y], matched.weights[y], columns[y], strict=True)
        )
        for y in range(len(matched.classes))
    )


def _known(recall: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else value for value in recall.tolist())


def _concept_recall(candidates: Candidates, strategy: Strategy) -> NDArray[np.float64]:
    """[M, K] recall of every labeled model on the selected concepts, as the strategy sees it; NaN without images.

    A concept in several graphs has the mean over the images of all.
    """
    if strategy is Strategy.PAPER:
        return restricted_precision(candidates)
    labels, selected = candidates.labels, candidates.match.selected
    n_candidates = candidates_of(candidates.match)
    won, images = np.zeros((len(labels), len(selected))), np.zeros((len(labels), len(selected)))
    for g, graph in enumerate(labels.union.graphs):
        rows = labels.union.rows[g, selected]
        there, concepts = np.flatnonzero(rows >= 0), rows[rows >= 0].astype(np.int64)
        for m, label in enumerate(labels.on_graph(g)):
            if label is None:
                continue
            if strategy is Strategy.MLL:
                recall = label.recall_among(n_candidates, concepts, graph.rival_counts)
            else:
                recall = label.node_precision[concepts].astype(np.float64)
            won[m, there] += label.support[concepts] * recall
            images[m, there] += label.support[concepts]
    return np.divide(won, images, out=np.full_like(won, np.nan), where=images > 0)


def _coverage(candidates: Candidates, config: SelectionConfig) -> NDArray[np.float64]:
    """[C] how much of each class's estimate comes from concepts, as far as the strategy counts them."""
    if config.strategy is not Strategy.MLL:
        return candidates.match.coverage.astype(np.float64)
    return np.clip(evidence_weights(candidates, config.class_weight).sum(axis=0), 0, 1)


def _effective_images(candidates: Candidates, m: int) -> NDArray[np.float64]:
    """[C] images that would give a single proportion the variance of the weighted mean over a class's concepts."""
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
