"""Choose with the help of unlabeled images: labels say which models to try, the models' answers decide."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.base import DIGITS, SelectionConfig, Strategy
from mll_hf.selection.evidence import Shares, gather_evidence, scores_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.selection.evidence import SharesLike
    from mll_hf.selection.result import MatchedConcept, Selection


def shortlisting(config: SelectionConfig) -> SelectionConfig:
    """The configuration with which labels alone choose the models to try.

    Raises:
        InputError: The strategy is not ours.
    """
    if config.strategy is not Strategy.MLL:
        raise InputError(
            f"images help strategy 'mll' only, not '{config.strategy}'; leave out the images or the strategy"
        )
    return replace(config, k=config.candidates, max_models=None)


def choose_with_images(
    tried: Selection,
    answering: Sequence[int],
    logits: NDArray[np.float32],
    config: SelectionConfig,
    templates: tuple[str, ...],
    shares: SharesLike = Shares.AUTO,
) -> Selection:
    """Choose among models that were tried on images: the k with the highest score, for all classes.

    Args:
        tried: The selection by labels alone whose union was tried.
        answering: Positions of M models of the union, those whose answers are at hand.
        logits: [M, N, C] of these models on N images; finite.
        config: Gives k and the cap on the number of models.
        templates: Prompt templates that the logits were made with.
        shares: What is expected of the shares of the classes, or these shares.

    Raises:
        InputError: There are too few images, or the shares are not C non-negative numbers.
    """
    rows = [tried.union[position] for position in answering]
    evidence = gather_evidence(logits, np.clip(tried.overall[rows], 0, 1), templates, shares)
    order = np.argsort(-np.round(evidence.scores, DIGITS), kind="stable")
    evidence = evidence.take(order)
    n_chosen = min(config.k, config.max_models or config.k, len(order))
    chosen = np.zeros((len(order), len(tried.classes)), np.bool_)
    chosen[:n_chosen] = True
    columns = [answering[at] for at in order[:n_chosen]]
    return replace(
        tried,
        k=config.k,
        models=tuple(tried.models[rows[at]] for at in order),
        scores=scores_of(evidence.calibration, tried.scores[[rows[at] for at in order]]),
        chosen=chosen,
        matches=tuple(tuple(_take(concept, columns) for concept in concepts) for concepts in tried.matches),
        evidence=evidence,
    )


def _take(concept: MatchedConcept, models: Sequence[int]) -> MatchedConcept:
    return replace(concept, recall=tuple(concept.recall[at] for at in models))
