"""Score models and choose the best ones, from class names alone."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.label import UNPINNED, Cost, ModelRef
from mll_hf.models.known import usable_models
from mll_hf.selection.candidates import Candidates, Figures, effective_images
from mll_hf.selection.comparison import estimate_from_names, imagenet_shift, on_common_scale
from mll_hf.selection.mll import concept_weights
from mll_hf.selection.probabilities import DIGITS, quantize
from mll_hf.selection.result import MatchedConcept, SelectedModel, Selection
from mll_hf.selection.strategies import STRATEGIES, Strategy
from mll_hf.utils.text import abridged, gigaflops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.label import Label
    from mll_hf.models.known import KnownModel
    from mll_hf.selection.config import SelectionConfig


_log = logging.getLogger(__name__)


class NoModelFitsError(InputError):
    """No model meets the constraints of the configuration."""


def select(candidates: Candidates, config: SelectionConfig, task: str | None = None) -> Selection:
    """Choose models for each class; ``task`` is kept for the prompts.

    Raises:
        NoModelFitsError: No model is within the limits and has an allowed license.
    """
    strategy = STRATEGIES[config.strategy]
    within = within_limits(candidates, config)
    groups, classes = [group for group in within.groups if len(group.labels)], candidates.match.classes
    scored = [strategy.score(group, config.class_weight) for group in groups]
    shifts = [
        imagenet_shift(group.labels, scores) if strategy.is_accuracy else 0.0
        for group, scores in zip(groups, scored, strict=True)
    ]
    scores = np.round(on_common_scale(scored, shifts, within.published, len(classes)), DIGITS)
    labeled = [(g, m) for g, group in enumerate(groups) for m in range(len(group.labels))]
    models = [_model_from_label(groups[g].labels.reference[m], groups[g].figures) for g, m in labeled]
    models += map(_model_from_published, within.published)
    overall = quantize(scores).sum(axis=1)
    order = sorted(range(len(scores)), key=lambda m: (-overall[m], *models[m].tie_break))
    chosen = choose(scores[order], config)
    explained, row_of = within, dict[int, int]()  # of the best labeled model's group, with its rows by model
    images = np.zeros(len(classes))
    if best := next((labeled[m] for m in order if m < len(labeled)), None):
        explained = groups[best[0]]
        row_of = {m: row for m, (g, row) in enumerate(labeled) if g == best[0]}
        images = effective_images(explained, best[1])
    chosen_models = [order[m] for m in np.flatnonzero(chosen.any(axis=1))]
    estimate = None
    if strategy.is_accuracy:
        estimate = estimate_from_names(candidates, scores.mean(axis=1), shifts[0] if shifts else 0.0).subset(order)
    return Selection(
        classes=classes,
        strategy=config.strategy,
        k=config.per_class,
        models=tuple(models[m] for m in order),
        scores=scores[order],
        chosen=chosen,
        matches=_explain(explained, [row_of.get(m) for m in chosen_models], config.strategy),
        coverage=_coverage(explained, config),
        images=images,
        domain=candidates.domain,
        task=task,
        estimate=estimate,
    )


def choose(scores: NDArray[np.float64], config: SelectionConfig) -> NDArray[np.bool_]:
    """[M, C] which models are chosen for which class: the k best of each class, or the k best overall for all."""
    chosen = np.zeros(scores.shape, np.bool_)
    max_models = min(config.max_models or len(scores), len(scores))
    k = min(config.per_class, max_models)
    if STRATEGIES[config.strategy].per_class:
        allowed = choose_at_most(scores, config.per_class, max_models)
        ranked = np.argsort(-np.where(allowed[:, None], scores, -np.inf), axis=0, kind="stable")
        np.put_along_axis(chosen, ranked[:k], True, axis=0)
    else:
        chosen[np.argsort(-quantize(scores).sum(axis=1), kind="stable")[:k]] = True
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
    """Keep what the strategy compares, within the limits of size and license.

    Raises:
        NoModelFitsError: No model is left.
    """
    strategy = STRATEGIES[config.strategy]
    if not strategy.needs_labels:
        candidates = replace(candidates.subset([]), other_groups=(), published=usable_models())
    elif not strategy.is_accuracy:
        candidates = replace(candidates, other_groups=(), published=())
    claims = [
        (label.model.repo_id, label.cost, label.license)
        for group in candidates.groups
        for label in group.labels.reference
    ]
    claims += [(model.hub_id, model.cost, model.license) for model in candidates.published]
    kept = {id for id, cost, license in claims if _fits(id, cost, config) and _is_allowed(license, config)}
    if config.licenses and (unlicensed := sorted(id for id, _, license in claims if license is None)):
        _log.warning("left out because no license is known: %s", abridged(unlicensed, 5))
    if not kept:
        raise _none_fits(claims, config)
    groups = [
        group.subset([m for m, model in enumerate(group.labels.models) if model.repo_id in kept])
        for group in candidates.groups
    ]
    published = tuple(model for model in candidates.published if model.hub_id in kept)
    return replace(groups[0], published=published, other_groups=tuple(groups[1:]))


def _fits(repo_id: str, cost: Cost, config: SelectionConfig) -> bool:
    return (
        repo_id not in config.without
        and (config.max_parameters is None or cost.parameters <= config.max_parameters)
        and (config.max_gflops is None or cost.gflops <= config.max_gflops)
    )


def _is_allowed(license: str | None, config: SelectionConfig) -> bool:
    return not config.licenses or (license or "").lower() in config.licenses


def _none_fits(claims: Sequence[tuple[str, Cost, str | None]], config: SelectionConfig) -> NoModelFitsError:
    """The reason why none of the models, given by id, cost and license, can be chosen."""
    allowed = [cost for _, cost, license in claims if _is_allowed(license, config)]
    licenses = abridged(list(config.licenses), 5)
    if not claims:
        return NoModelFitsError("there are no models to select from; label models, or use published figures")
    if not allowed:
        found = Counter(license or "unknown" for _, _, license in claims).most_common()
        actual = abridged([f"{license} ({count})" for license, count in found], 5)
        return NoModelFitsError(
            f"no model has an allowed license ({licenses}): the models have {actual}; allow one of these, or leave out "
            "the licenses"
        )
    everything = replace(config, without=frozenset())
    if any(_fits(id, cost, everything) and _is_allowed(license, config) for id, cost, license in claims):
        return NoModelFitsError("all models within the limits are left out; leave out fewer")
    with_license = f" with an allowed license ({licenses})" if config.licenses else ""
    return NoModelFitsError(
        f"none of the {len(allowed)} models{with_license} is within the limits (smallest: "
        f"{min(cost.parameters for cost in allowed):,} parameters; cheapest: "
        f"{gigaflops(min(cost.gflops for cost in allowed))} GFLOPs per image); raise the limits"
    )


def _model_from_label(label: Label, figures: Figures) -> SelectedModel:
    temperature = float(label.temperature[0])
    return SelectedModel(label.model, label.cost, temperature, label.mean_recall, figures, label.license)


def _model_from_published(model: KnownModel) -> SelectedModel:
    ref = ModelRef(model.hub_id, revision=UNPINNED, backend="open_clip")
    return SelectedModel(ref, model.cost, 1.0, model.accuracy, Figures.OVERALL, model.license)


def _explain(
    group: Candidates, rows: Sequence[int | None], strategy: Strategy
) -> tuple[tuple[MatchedConcept, ...], ...]:
    """The concepts of each class, with the recall of the chosen models as used by the strategy.

    ``rows`` are the positions of these models in ``group``; None for models of other groups.
    """
    matched, graph = group.match, group.graph
    recall = np.full((len(rows), len(matched.selected)), np.nan)
    if measured := [position for position, m in enumerate(rows) if m is not None]:
        recall[measured] = STRATEGIES[strategy].concept_recall(group.subset([m for m in rows if m is not None]))
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


def _coverage(candidates: Candidates, config: SelectionConfig) -> NDArray[np.float64]:
    """[C] total weight of the concepts in the estimate of each class."""
    if config.strategy is not Strategy.MLL:
        return candidates.match.coverage.astype(np.float64)
    return np.clip(concept_weights(candidates, config.class_weight).sum(axis=0), 0, 1)
