"""Score models and choose the best ones, from class names alone."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.hub.trust import claims_text, ranked_and_claimed
from mll_hf.labels.join import join_labels
from mll_hf.matching.datasets import recognize
from mll_hf.models.known import typical_imagenet, usable_models
from mll_hf.models.language import ENGLISH, language_of, mixed_names
from mll_hf.models.specialists import made_for, nominate, nomination_notes, with_limits
from mll_hf.selection.accuracy import with_known_figures
from mll_hf.selection.answer import best_value, fit_in_memory
from mll_hf.selection.candidates import NOMINATED, Candidates, Figures, SelectedModel
from mll_hf.selection.comparison import (
    accuracies_in,
    add_nominees,
    estimate_from_names,
    imagenet_shift,
    on_scores,
    published_gains,
    shortlist_first,
    with_nominees,
)
from mll_hf.selection.mll import concept_weights
from mll_hf.selection.probabilities import DIGITS, quantize
from mll_hf.selection.result import MatchedConcept, Selection
from mll_hf.selection.strategies import STRATEGIES, Strategy
from mll_hf.utils.text import abridged, gigaflops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.store import LabelStore
    from mll_hf.selection.strategies import SelectionConfig


_RESTS_ON = "Accuracies rest on those published for it."
_RESTS_ON_ALL = "Accuracies rest on those published for all of them: fewer are easier."
_log = logging.getLogger(__name__)


def select(
    candidates: Candidates, config: SelectionConfig, task: str | None = None, *, for_trial: bool = False
) -> Selection:
    """Choose models for each class; ``task`` is its purpose, as given by the user, and kept for the prompts.

    With strategy ``mll`` and no ``k``, the choice is the best value: of the models that fit in this machine's memory,
    the cheapest one within a point of the best. For a trial, it starts with models made for the domain or language. An
    InputError if no model is within the limits and has an allowed license.
    """
    strategy, is_ours, k = STRATEGIES[config.strategy], config.strategy is Strategy.MLL, config.k or 1
    classes, domain = candidates.match.classes, candidates.domain
    language, dataset = language_of(classes), recognize(classes)
    nominees = nominate(classes, domain, task, language, dataset)
    if is_ours:
        candidates = add_nominees(candidates, nominees, for_trial)
    within = within_limits(candidates, config)
    ids = [model.ref.repo_id for model in within.models]
    excluded = {model.ref.repo_id for model in candidates.models}.difference(ids)
    reasons = {id: "it is left out" if id in config.without else "it is beyond your limits" for id in excluded}
    nominees = with_limits(nominees, reasons)
    gains = published_gains(nominees, language)
    unknown = {nominee.model.hub_id for nominee in nominees if nominee.model in within.published} - gains.keys()

    scores, shift = _scores(within, config, language)
    claims = dict.fromkeys(nominee.claim for nominee in nominees)
    estimate = (
        None
        if strategy.as_in_paper
        else estimate_from_names(candidates, scores.mean(axis=1), shift or 0.0, claims, language)
    )
    notes = (str(dataset),) if dataset else ()
    if estimate and is_ours:
        estimate = with_nominees(estimate, ids, gains, ())
        observed = with_known_figures(estimate, ids, dataset, domain) if dataset else estimate
        if dataset and observed is not estimate:
            notes = (f"{dataset} {_RESTS_ON_ALL if dataset.present < 1 else _RESTS_ON}",)
        estimate = with_nominees(observed, ids, {}, unknown)
        if dataset or not unknown.union(gains).isdisjoint(ids):
            scores = _for_all_classes(np.round(estimate.accuracy, DIGITS), classes)
            scores[[id in unknown for id in ids]] = 0

    kinds = dict.fromkeys(gains, Figures.NOMINATED) | dict.fromkeys(unknown, Figures.NONE)
    models = [
        model if model.figures is Figures.LABEL else replace(model, figures=kinds.get(id, model.figures))
        for id, model in zip(ids, within.models, strict=True)
    ]
    overall = quantize(scores).sum(axis=1)
    order = sorted(range(len(models)), key=lambda m: (-overall[m], *models[m].tie_break))
    models, ids, scores = [models[m] for m in order], [ids[m] for m in order], scores[order]
    estimate = estimate and estimate.subset(order)
    chosen = np.zeros(scores.shape, np.bool_)
    if for_trial:
        small = fit_in_memory(models)
        wanted = [m for m, model in enumerate(models) if m == 0 or model.figures in NOMINATED]
        if too_large := [models[m].name for m in wanted if m not in small]:
            _log.warning("not tried, since they need over half of the memory: %s", abridged(too_large, 3))
        chosen[[small[m] for m in shortlist_first([ids[m] for m in small], nominees, k, language)]] = True
    elif strategy.as_in_paper:
        np.put_along_axis(chosen, np.argsort(-scores, axis=0, kind="stable")[:k], True, axis=0)
    elif estimate and is_ours and config.k is None:
        chosen[best_value(models, estimate)] = True
    else:
        chosen[:k] = True
    measured = {nominee.claim for nominee in nominees if nominee.model.hub_id in gains.keys() & set(ids)}
    unmeasured = [claim for claim in claims if claim not in measured]
    coverage = candidates.match.coverage.astype(np.float64)
    if is_ours:
        coverage = np.clip(concept_weights(within, config.class_weight).sum(axis=0), 0, 1)
    return Selection(
        classes=classes,
        strategy=config.strategy,
        k=k,
        models=tuple(models),
        scores=scores,
        chosen=chosen,
        matches=_matched_concepts(within),
        coverage=coverage,
        domain=domain,
        task=task,
        estimate=estimate,
        notes=(*notes, *mixed_names(classes, language), *nomination_notes(nominees)),
        unmeasured=tuple(map(made_for, unmeasured)),
    )


def _scores(within: Candidates, config: SelectionConfig, language: str) -> tuple[NDArray[np.float64], float | None]:
    """[M, C] scores by what is known of all models, and the shift of :func:`imagenet_shift`, if there are labels.

    For names in another language than English, our strategy compares published accuracies with names in it.
    """
    strategy, classes, labels = STRATEGIES[config.strategy], within.match.classes, within.labels
    scores, shift = np.empty((0, len(classes))), None
    if len(labels):
        scores = strategy.score(within, config.class_weight)
        shift = None if strategy.as_in_paper else imagenet_shift(labels, scores)
    if config.strategy is Strategy.MLL and language != ENGLISH:
        accuracies = accuracies_in(language, [model.ref.repo_id for model in within.models])
        return _for_all_classes(on_scores(accuracies, shift), classes), shift
    published = np.array([model.imagenet or typical_imagenet() for model in within.published])
    return np.round(np.concatenate([scores, _for_all_classes(on_scores(published, shift), classes)]), DIGITS), shift


def _for_all_classes(scores: NDArray[np.float64], classes: Sequence[str]) -> NDArray[np.float64]:
    return np.repeat(scores[:, None], len(classes), axis=1)


def within_limits(candidates: Candidates, config: SelectionConfig) -> Candidates:
    """What the strategy compares, within the limits of size and license; unknown costs are beyond any limit."""
    strategy = STRATEGIES[config.strategy]
    if not strategy.needs_labels:
        candidates = replace(candidates.subset([]), published=usable_models())
    elif strategy.as_in_paper:
        candidates = replace(candidates, published=())
    models, allowed = candidates.models, config.licenses
    kept = [
        m
        for m, model in enumerate(models)
        if model.ref.repo_id not in config.without
        and (model.cost.gflops or np.inf) <= (np.inf if config.max_gflops is None else config.max_gflops)
        and (model.cost.parameters or np.inf) <= (config.max_parameters or np.inf)
        and (not allowed or (model.license or "").lower() in allowed)
    ]
    if allowed and (unlicensed := sorted(model.ref.repo_id for model in models if model.license is None)):
        _log.warning("left out because no license is known: %s", abridged(unlicensed, 5))
    if not kept:
        raise InputError(_why_none_fits(models, config))
    return candidates.subset(kept)


def _why_none_fits(models: Sequence[SelectedModel], config: SelectionConfig) -> str:
    if not models and STRATEGIES[config.strategy].as_in_paper:
        return f"strategy '{config.strategy}' needs labels, and there are none; use strategy 'mll'"
    if not models:
        return "there are no models to select from; label models, or use published figures"
    licenses = Counter(model.license or "unknown" for model in models).most_common()
    allowed = f", the allowed licenses ({abridged(config.licenses, 5)})" if config.licenses else ""
    parameters = min(model.cost.parameters or np.inf for model in models)
    gflops = min(model.cost.gflops or np.inf for model in models)
    return (
        f"none of the {len(models)} models is within the limits{allowed} and not left out; the smallest has "
        f"{parameters:,} parameters, the cheapest takes {gigaflops(gflops)} GFLOPs per image, and the licenses are "
        f"{abridged([f'{license} ({count})' for license, count in licenses], 5)}: raise the limits, allow other "
        "licenses, or leave out fewer"
    )


def _matched_concepts(candidates: Candidates) -> tuple[tuple[MatchedConcept, ...], ...]:
    match, concepts = candidates.match, candidates.labels.union.graph.concepts
    return tuple(
        tuple(
            MatchedConcept(concepts[v].id, concepts[v].name, weight) for v, weight in zip(matched, weights, strict=True)
        )
        for matched, weights in zip(match.concepts.tolist(), match.weights.tolist(), strict=True)
    )


def mention_claims(source: LabelStore, candidates: Candidates, config: SelectionConfig) -> None:
    """Log what is claimed, by whom, and which of these models would be chosen if the claims were ranked.

    Only claims on the graphs and probe images of ranked labels compare with these.
    """
    if not (claimed := ranked_and_claimed(source)[1]):
        return
    graphs, text = candidates.labels.union.graphs, claims_text(source, claimed)
    ranked = [label for row in candidates.labels.labels for label in row if label]
    keys = {label.key for label in ranked}
    comparable = [label for label in claimed if label.key in keys]
    if comparable and not STRATEGIES[config.strategy].as_in_paper:
        joined = join_labels([*ranked, *comparable], graphs, reference=graphs[0].digest)
        selection = select(replace(candidates, labels=joined, embeddings=()), config)
        ids = {label.model.repo_id for label in comparable}
        first = [id for m in selection.chosen_models if (id := selection.models[m].ref.repo_id) in ids]
        text += f"; with them, {abridged(first, 3) if first else 'none of these'} would be chosen"
    _log.warning("%s", text)
