"""Score models and choose the best ones, from class names alone."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.hub.trust import claims_text, ranked_and_claimed
from mll_hf.labels.join import join_labels
from mll_hf.labels.label import UNPINNED, Cost, ModelRef
from mll_hf.matching.concept_index import COVERED
from mll_hf.matching.datasets import recognize
from mll_hf.models.known import typical_imagenet, usable_models
from mll_hf.models.language import ENGLISH, language_of
from mll_hf.models.specialists import made_for, nominate, nomination_notes, with_limits
from mll_hf.selection.accuracy import with_known_figures
from mll_hf.selection.answer import best_value
from mll_hf.selection.candidates import Candidates, Figures, SelectedModel
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

    from mll_hf.labels.label import Label
    from mll_hf.labels.store import LabelStore
    from mll_hf.models.known import KnownModel
    from mll_hf.selection.strategies import SelectionConfig


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
    strategy, is_ours = STRATEGIES[config.strategy], config.strategy is Strategy.MLL
    classes, domain = candidates.match.classes, candidates.domain
    language, dataset = language_of(classes), recognize(classes)
    nominees = nominate(classes, domain, task, _branches(candidates), language, dataset)
    if is_ours:
        candidates = add_nominees(candidates, nominees)
    within = within_limits(candidates, config)
    ids = _ids(within)
    nominees = with_limits(nominees, set(_ids(candidates)) - set(ids))
    gains = published_gains(nominees, language)
    unknown = {nominee.model.hub_id for nominee in nominees if nominee.model in within.published} - gains.keys()

    scores, shift = _scores(within, config, language)
    estimate = None if strategy.as_in_paper else estimate_from_names(candidates, scores.mean(axis=1), shift or 0.0)
    notes = (str(dataset),) if dataset else ()
    if estimate and is_ours:
        observed = with_known_figures(estimate, ids, dataset, domain) if dataset else estimate
        if observed is estimate:
            estimate = with_nominees(estimate, ids, gains, unknown)
        else:
            estimate, notes = observed, (f"{dataset} Accuracies are those published for it.",)
        if dataset or not unknown.union(gains).isdisjoint(ids):
            scores = _for_all_classes(np.round(estimate.accuracy, DIGITS), classes)
            scores[[id in unknown for id in ids]] = 0

    kinds = {id: Figures.NONE if id in unknown else Figures.NOMINATED for id in (*gains, *unknown)}
    models = [
        *map(_model_from_label, within.labels.reference),
        *(_model_from_published(model, kinds.get(model.hub_id, Figures.PUBLISHED)) for model in within.published),
    ]
    overall = quantize(scores).sum(axis=1)
    order = sorted(range(len(models)), key=lambda m: (-overall[m], *models[m].tie_break))
    models, ids, scores = [models[m] for m in order], [ids[m] for m in order], scores[order]
    estimate = estimate and estimate.subset(order)
    chosen = choose(scores, config)
    if for_trial:
        chosen = _only(shortlist_first(ids, nominees, config.per_class, language), scores)
    elif estimate and is_ours and config.k is None:
        chosen = _only([best_value(models, estimate)], scores)
    measured = {nominee.claim for nominee in nominees if nominee.model.hub_id in gains.keys() & set(ids)}
    return Selection(
        classes=classes,
        strategy=config.strategy,
        k=config.per_class,
        models=tuple(models),
        scores=scores,
        chosen=chosen,
        matches=_matched_concepts(within),
        coverage=_coverage(within, config),
        domain=domain,
        task=task,
        estimate=estimate,
        notes=(*notes, *nomination_notes(nominees)),
        unmeasured=tuple(
            made_for(claim) for claim in dict.fromkeys(n.claim for n in nominees) if claim not in measured
        ),
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
        return _for_all_classes(on_scores(accuracies_in(language, _ids(within)), shift), classes), shift
    published = np.array([model.imagenet or typical_imagenet() for model in within.published])
    return np.round(np.concatenate([scores, _for_all_classes(on_scores(published, shift), classes)]), DIGITS), shift


def _for_all_classes(scores: NDArray[np.float64], classes: Sequence[str]) -> NDArray[np.float64]:
    return np.repeat(scores[:, None], len(classes), axis=1)


def _only(models: Sequence[int], scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[M, C] the models at these positions, for all classes."""
    chosen = np.zeros(scores.shape, np.bool_)
    chosen[models] = True
    return chosen


def choose(scores: NDArray[np.float64], config: SelectionConfig) -> NDArray[np.bool_]:
    """[M, C] which models are chosen for which class: the k best of each class, or the k best overall for all."""
    if not STRATEGIES[config.strategy].as_in_paper:
        return _only(np.argsort(-quantize(scores).sum(axis=1), kind="stable")[: config.per_class].tolist(), scores)
    chosen = np.zeros(scores.shape, np.bool_)
    best = np.argsort(-scores, axis=0, kind="stable")[: config.per_class]
    np.put_along_axis(chosen, best, True, axis=0)
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
    elif strategy.as_in_paper:
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
    if not claims and STRATEGIES[config.strategy].as_in_paper:
        return NoModelFitsError(f"strategy '{config.strategy}' needs labels, and there are none; use strategy 'mll'")
    if not claims:
        return NoModelFitsError("there are no models to select from; label models, or use published figures")
    licenses = Counter(license or "unknown" for _, _, license in claims).most_common()
    costs = [cost for _, cost, _ in claims]
    allowed = f", the allowed licenses ({abridged(config.licenses, 5)})" if config.licenses else ""
    return NoModelFitsError(
        f"none of the {len(claims)} models is within the limits{allowed} and not left out; the smallest has "
        f"{min(cost.parameters for cost in costs):,} parameters, the cheapest takes "
        f"{gigaflops(min(cost.gflops for cost in costs))} GFLOPs per image, and the licenses are "
        f"{abridged([f'{license} ({count})' for license, count in licenses], 5)}: raise the limits, allow other "
        "licenses, or leave out fewer"
    )


def _model_from_label(label: Label) -> SelectedModel:
    return SelectedModel(label.model, label.cost, float(label.temperature[0]), Figures.LABEL, label.license)


def _model_from_published(model: KnownModel, figures: Figures) -> SelectedModel:
    ref = ModelRef(model.hub_id, revision=UNPINNED, backend=model.backend)
    return SelectedModel(ref, model.cost, 1.0, figures, model.license)


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


def _matched_concepts(candidates: Candidates) -> tuple[tuple[MatchedConcept, ...], ...]:
    match, concepts = candidates.match, candidates.labels.union.graph.concepts
    return tuple(
        tuple(
            MatchedConcept(concepts[v].id, concepts[v].name, weight) for v, weight in zip(matched, weights, strict=True)
        )
        for matched, weights in zip(match.concepts.tolist(), match.weights.tolist(), strict=True)
    )


def _coverage(candidates: Candidates, config: SelectionConfig) -> NDArray[np.float64]:
    """[C] total weight of the concepts in the estimate of each class."""
    if config.strategy is not Strategy.MLL:
        return candidates.match.coverage.astype(np.float64)
    return np.clip(concept_weights(candidates, config.class_weight).sum(axis=0), 0, 1)


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
