"""Score models on classes and choose.

Each strategy is one pure function from evidence to scores; this module only dispatches, applies the caps, chooses
and keeps what explains the choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.counts import precision_among
from mll_hf.errors import InputError
from mll_hf.selection.base import (
    Candidates,
    MatchedConcept,
    SelectedModel,
    Selection,
    SelectionConfig,
    Strategy,
)
from mll_hf.selection.baselines import general_scores, uniform_scores
from mll_hf.selection.mll import candidates_of, mll_scores
from mll_hf.selection.paper import paper_scores, restricted_precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.labels import ModelLabel

_DIGITS = 12  # equal evidence gives equal scores, whatever the order in which a matrix product adds

__all__ = [
    "Candidates",
    "MatchedConcept",
    "SelectedModel",
    "Selection",
    "SelectionConfig",
    "Strategy",
    "choose",
    "choose_within",
    "score",
    "select",
]


def select(candidates: Candidates, config: SelectionConfig, task: str | None = None) -> Selection:
    """Choose models for every class.

    Args:
        candidates: Labels and matched classes.
        config: Strategy, k and caps.
        task: The user's name of the task; the selection carries it for the prompts.

    Raises:
        InputError: There are no labels, or none within the caps.
    """
    candidates = _within_caps(candidates, config)
    scores = np.round(score(candidates, config), _DIGITS)
    ids = [(label.model.repo_id, label.model.revision) for label in candidates.labels]
    order = sorted(range(len(scores)), key=lambda m: (-scores[m].mean(), ids[m]))
    candidates, scores = _take(candidates, order), scores[order]
    levels = np.array([label.mean_precision for label in candidates.labels])
    chosen = choose(scores, config, levels)
    return Selection(
        classes=candidates.match.classes,
        strategy=config.strategy,
        k=config.k,
        models=tuple(_selected_model(label) for label in candidates.labels),
        scores=scores,
        chosen=chosen,
        matches=_explain(candidates, chosen, config.strategy),
        coverage=candidates.match.coverage.astype(np.float64),
        images=_effective_images(candidates),
        domain=candidates.domain,
        task=task,
    )


def score(candidates: Candidates, config: SelectionConfig) -> NDArray[np.float64]:
    """[M, C] scores of the models on the classes under the configured strategy."""
    match config.strategy:
        case Strategy.PAPER:
            return paper_scores(candidates, config.class_weight)
        case Strategy.GENERAL:
            return general_scores(candidates)
        case Strategy.UNIFORM:
            return uniform_scores(candidates)
        case Strategy.MLL:
            return mll_scores(candidates, config.class_weight)


def choose(scores: NDArray[np.float64], config: SelectionConfig, levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[M, C] which models answer for which class.

    ``paper`` takes the k best models of each class; ``general`` and ``mll`` the k best overall, for all classes;
    ``uniform`` all models, or the ``max_models`` with the highest general level.

    Args:
        scores: [M, C].
        config: Strategy, k and the cap on the number of models.
        levels: [M] general levels of the models.
    """
    chosen = np.zeros(scores.shape, np.bool_)
    most = min(config.max_models or len(scores), len(scores))
    match config.strategy:
        case Strategy.PAPER:
            allowed = choose_within(scores, config.k, most)
            ranked = np.argsort(-np.where(allowed[:, None], scores, -np.inf), axis=0, kind="stable")
            np.put_along_axis(chosen, ranked[: min(config.k, most)], True, axis=0)
        case Strategy.GENERAL | Strategy.MLL:
            best = np.argsort(-scores.mean(axis=1), kind="stable")
            chosen[best[: min(config.k, most)]] = True
        case Strategy.UNIFORM:
            chosen[np.argsort(-levels, kind="stable")[:most]] = True
    return chosen


def choose_within(scores: NDArray[np.float64], k: int, most: int) -> NDArray[np.bool_]:
    """[M] at most ``most`` models that together serve the classes well.

    If the k best models of all classes are no more than that, these; otherwise greedily the model that adds most to
    the sum over classes of the k best scores. That sum is submodular, so the greedy choice reaches at least
    1 - 1/e of the best one (Nemhauser et al., 1978).
    """
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


def _within_caps(candidates: Candidates, config: SelectionConfig) -> Candidates:
    if not candidates.labels:
        raise InputError(
            "there are no labels to select from; label models first: mll-hf label MODEL --graph DIR --labels DIR"
        )
    fits = [
        m
        for m, label in enumerate(candidates.labels)
        if (config.max_parameters is None or label.cost.parameters <= config.max_parameters)
        and (config.max_gflops is None or label.cost.gflops <= config.max_gflops)
    ]
    if not fits:
        costs = [label.cost for label in candidates.labels]
        raise InputError(
            f"none of the {len(costs)} labelled models is within the caps (smallest: "
            f"{min(c.parameters for c in costs):,} parameters; cheapest: {min(c.gflops for c in costs):.3g} GFLOPs per "
            "image); raise the caps"
        )
    return _take(candidates, fits)


def _take(candidates: Candidates, order: list[int]) -> Candidates:
    return replace(
        candidates,
        labels=tuple(candidates.labels[m] for m in order),
        embeddings=tuple(candidates.embeddings[m] for m in order) if candidates.embeddings else (),
    )


def _selected_model(label: ModelLabel) -> SelectedModel:
    return SelectedModel(label.model, label.cost, float(label.temperature[0]), label.mean_precision)


def _explain(
    candidates: Candidates, chosen: NDArray[np.bool_], strategy: Strategy
) -> tuple[tuple[MatchedConcept, ...], ...]:
    """For each class its concepts, with the node precision of the models of the union as the strategy saw it."""
    matched, graph = candidates.match, candidates.graph
    union = np.flatnonzero(chosen.any(axis=1))
    labels = [candidates.labels[m] for m in union]
    match strategy:
        case Strategy.PAPER:
            precision = restricted_precision(_take(candidates, union.tolist()))
        case Strategy.MLL:
            ranks = np.stack([label.ranks[matched.selected] for label in labels])
            precision = precision_among(ranks, len(graph), candidates_of(matched))
        case Strategy.GENERAL | Strategy.UNIFORM:
            precision = np.stack([label.node_precision[matched.selected] for label in labels])
    columns = np.searchsorted(matched.selected, matched.concepts)
    names = {v: (graph.concepts[v].id, graph.concepts[v].name) for v in matched.selected}
    return tuple(
        tuple(
            MatchedConcept(*names[v], float(weight), tuple(precision[:, at].tolist()))
            for v, weight, at in zip(matched.concepts[y], matched.weights[y], columns[y], strict=True)
        )
        for y in range(len(matched.classes))
    )


def _effective_images(candidates: Candidates) -> NDArray[np.float64]:
    """[C] images that would give a single proportion the variance of the weighted mean over a class's concepts."""
    match = candidates.match
    support = candidates.labels[0].support[match.concepts].astype(np.float64)
    weights = np.abs(match.weights).astype(np.float64)  # the paper's weights are cosines, which can be negative
    spread = (weights**2 / np.maximum(support, 1)).sum(axis=1)
    measured = (support > 0).any(axis=1) & (spread > 0)
    return np.divide(weights.sum(axis=1) ** 2, spread, out=np.zeros(len(spread)), where=measured)
