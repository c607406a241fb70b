"""Score models and choose the best ones, from class names alone."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.label import UNPINNED, Cost, ModelRef
from mll_hf.matching.concept_index import COVERED
from mll_hf.matching.datasets import recognize
from mll_hf.models.known import usable_models
from mll_hf.models.language import ENGLISH, language_of
from mll_hf.models.specialists import made_for, nominate, nomination_notes, with_limits
from mll_hf.selection.accuracy import with_known_figures
from mll_hf.selection.answer import best_value
from mll_hf.selection.candidates import Candidates, Figures, effective_images
from mll_hf.selection.comparison import estimate_from_names, imagenet_shift, on_scores, published_scores
from mll_hf.selection.mll import concept_weights
from mll_hf.selection.nominated import (
    accuracies_in,
    add_nominees,
    published_gains,
    shortlist_first,
    with_nominees,
)
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


def select(
    candidates: Candidates, config: SelectionConfig, task: str | None = None, *, for_trial: bool = False
) -> Selection:
    """Choose models for each class.

    With strategy ``mll`` and no ``k``, the choice is the best value: of the models that fit in this machine's memory,
    the cheapest one within a point of the best.

    Args:
        candidates: The models to choose from.
        config: Strategy, k, limits and licenses.
        task: Purpose, as given by the user; kept for the prompts.
        for_trial: The choice is a shortlist for a trial: models made for the domain or language of the classes first.

    Raises:
        NoModelFitsError: No model is within the limits and has an allowed license.
    """
    strategy, classes = STRATEGIES[config.strategy], candidates.match.classes
    language = language_of(classes)
    nominees = nominate(classes, candidates.domain, task, _branches(candidates), language)
    if config.strategy is Strategy.MLL:
        candidates = add_nominees(candidates, nominees)
    within = within_limits(candidates, config)
    ids = _ids(within)
    nominees = with_limits(nominees, set(_ids(candidates)) - set(ids))
    labels, shift, scores = within.labels.reference, None, np.empty((0, len(classes)))
    if labels:
        scores = strategy.score(within, config.class_weight)
        shift = imagenet_shift(within.labels, scores) if strategy.is_accuracy else None
    published = np.repeat(published_scores(within.published, shift)[:, None], len(classes), axis=1)
    scores = np.round(np.concatenate([scores, published]), DIGITS)
    if config.strategy is Strategy.MLL and language != ENGLISH:
        scores = np.repeat(on_scores(accuracies_in(language, ids), shift)[:, None], len(classes), axis=1)
    estimate = estimate_from_names(candidates, scores.mean(axis=1), shift or 0.0) if strategy.is_accuracy else None
    known, gains = recognize(classes), published_gains(nominees, language)
    notes = (str(known),) if known else ()
    unknown = {n.model.hub_id for n in nominees if n.model in within.published} - gains.keys()
    if estimate and config.strategy is Strategy.MLL:
        prior, estimate = estimate, with_known_figures(estimate, ids, known, candidates.domain) if known else estimate
        if known and estimate is not prior:
            notes = (f"{known} Accuracies are those published for it.",)
        else:
            estimate = with_nominees(estimate, ids, gains, unknown)
        if estimate is not prior and (known or not unknown.union(gains).isdisjoint(ids)):
            scores = np.repeat(np.round(estimate.accuracy, DIGITS)[:, None], len(classes), axis=1)
            scores[[id in unknown for id in ids]] = 0
    kinds = {id: Figures.NONE if id in unknown else Figures.NOMINATED for id in (*gains, *unknown)}
    models = [
        *map(_model_from_label, labels),
        *(_model_from_published(model, kinds.get(model.hub_id, Figures.PUBLISHED)) for model in within.published),
    ]
    overall = quantize(scores).sum(axis=1)
    order = sorted(range(len(scores)), key=lambda m: (-overall[m], *models[m].tie_break))
    chosen = choose(scores[order], config)
    ordered, costs = estimate and estimate.subset(order), [models[m].cost for m in order]
    if for_trial:
        chosen[:] = False
        chosen[shortlist_first([ids[m] for m in order], nominees, config.per_class, language)] = True
    elif ordered and config.k is None and config.strategy is Strategy.MLL:
        chosen[:] = False
        chosen[best_value(ordered, costs, [ids[m] not in unknown for m in order])] = True
    chosen_models = [order[m] for m in np.flatnonzero(chosen.any(axis=1))]
    best = next((m for m in order if m < len(labels)), None)
    measured = {nominee.claim for nominee in nominees if nominee.model.hub_id in gains.keys() & set(ids)}
    return Selection(
        classes=classes,
        strategy=config.strategy,
        k=config.per_class,
        models=tuple(models[m] for m in order),
        scores=scores[order],
        chosen=chosen,
        matches=_explain(within, chosen_models, config.strategy),
        coverage=_coverage(within, config),
        images=np.zeros(len(classes)) if best is None else effective_images(within, best),
        domain=candidates.domain,
        task=task,
        estimate=ordered,
        notes=(*notes, *nomination_notes(nominees)),
        unmeasured=tuple(
            made_for(claim) for claim in dict.fromkeys(n.claim for n in nominees) if claim not in measured
        ),
    )


def choose(scores: NDArray[np.float64], config: SelectionConfig) -> NDArray[np.bool_]:
    """[M, C] which models are chosen for which class: the k best of each class, or the k best overall for all."""
    chosen = np.zeros(scores.shape, np.bool_)
    if STRATEGIES[config.strategy].per_class:
        best = np.argsort(-scores, axis=0, kind="stable")[: config.per_class]
        np.put_along_axis(chosen, best, True, axis=0)
    else:
        chosen[np.argsort(-quantize(scores).sum(axis=1), kind="stable")[: config.per_class]] = True
    return chosen


def within_limits(candidates: Candidates, config: SelectionConfig) -> Candidates:
    """Keep what the strategy compares, within the limits of size and license.

    Raises:
        NoModelFitsError: No model is left.
    """
    strategy = STRATEGIES[config.strategy]
    labels, published = candidates.labels, candidates.published
    if not strategy.needs_labels:
        labels, published = labels.subset([]), usable_models()
    elif not strategy.is_accuracy:
        published = ()
    claims = [(label.model.repo_id, label.cost, label.license) for label in labels.reference]
    claims += [(model.hub_id, _cost_at_most(model), model.license) for model in published]
    kept = {id for id, cost, license in claims if _fits(id, cost, config) and _is_allowed(license, config)}
    if config.licenses and (unlicensed := sorted(id for id, _, license in claims if license is None)):
        _log.warning("left out because no license is known: %s", abridged(unlicensed, 5))
    if not kept:
        raise _none_fits(claims, config)
    rows = [m for m, model in enumerate(labels.models) if model.repo_id in kept]
    published = tuple(model for model in published if model.hub_id in kept)
    return replace(candidates.subset(rows), published=published)


def _cost_at_most(model: KnownModel) -> Cost:
    """The cost, unlimited where it is unknown."""
    return Cost(model.parameters or sys.maxsize, model.image_gflops or np.inf)


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
    if not claims and not STRATEGIES[config.strategy].is_accuracy:
        return NoModelFitsError(f"strategy '{config.strategy}' needs labels, and there are none; use strategy 'mll'")
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


def _model_from_label(label: Label) -> SelectedModel:
    temperature = float(label.temperature[0])
    return SelectedModel(label.model, label.cost, temperature, label.mean_recall, Figures.LABEL, label.license)


def _model_from_published(model: KnownModel, figures: Figures) -> SelectedModel:
    ref = ModelRef(model.hub_id, revision=UNPINNED, backend=model.backend)
    return SelectedModel(ref, model.cost, 1.0, model.imagenet or 0.0, figures, model.license)


def _ids(candidates: Candidates) -> list[str]:
    """Ids of the labeled models, then of the others."""
    return [model.repo_id for model in candidates.labels.models] + [model.hub_id for model in candidates.published]


def _branches(candidates: Candidates) -> list[set[str]]:
    """Names of the hypernyms of each class's best concept; none for classes that no concept covers."""
    match, graph = candidates.match, candidates.labels.union.graph
    if not match.concepts.size:
        return []
    best = zip(match.concepts[:, 0].tolist(), (match.coverage >= COVERED).tolist(), strict=True)
    return [{graph.concepts[a].name for a in graph.ancestors[v].tolist()} if covered else set() for v, covered in best]


def _explain(
    candidates: Candidates, models: Sequence[int], strategy: Strategy
) -> tuple[tuple[MatchedConcept, ...], ...]:
    """The concepts of each class, with the recall of the chosen models as used by the strategy.

    ``models`` are their positions: of the M labeled models from 0, of the others from M.
    """
    matched, graph = candidates.match, candidates.labels.union.graph
    recall = np.full((len(models), len(matched.selected)), np.nan)
    labeled = [position for position, m in enumerate(models) if m < len(candidates.labels)]
    if labeled:
        measured = candidates.subset([models[position] for position in labeled])
        recall[labeled] = STRATEGIES[strategy].concept_recall(measured)
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
