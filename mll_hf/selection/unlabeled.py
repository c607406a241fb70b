"""Choose with images of the task: labels determine which models to try, their predictions determine the choice.

Some of the images may be examples with ground truth. They come first and are used twice: as unlabeled images and with
their class.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.base import DIGITS, SelectionConfig, Strategy
from mll_hf.selection.beliefs import independent_beliefs, observe, prior_from_estimates
from mll_hf.selection.evidence import gather_evidence, model_scores, n_to_combine
from mll_hf.selection.examples import gather_examples, learn_from_examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.selection.accuracy import AccuracyEstimate
    from mll_hf.selection.beliefs import Beliefs
    from mll_hf.selection.evidence import UnlabeledEvidence
    from mll_hf.selection.result import MatchedConcept, Selection

    Classes = NDArray[np.int64]

_NO_EXAMPLES = np.empty(0, np.int64)
_SHARED_VARIANCE = 0.5  # share of the variance of estimates from the same images that is a common error


def shortlist_config(config: SelectionConfig) -> SelectionConfig:
    """The configuration for choosing the models to try by their labels.

    Raises:
        InputError: The strategy is not ``mll``.
    """
    if config.strategy is not Strategy.MLL:
        raise InputError(
            f"images are used by strategy 'mll' only, not by '{config.strategy}'; leave out the images or the strategy"
        )
    return replace(config, k=config.shortlist, max_models=None)


def trial_evidence(
    shortlist: Selection,
    rows: Sequence[int],
    logits: NDArray[np.float32],
    config: SelectionConfig,
    templates: tuple[str, ...],
) -> UnlabeledEvidence:
    """Evidence from unlabeled images, including the examples, about the models in ``rows`` of a shortlist.

    Arguments and errors as for :func:`choose_with_images`.
    """
    shares = np.array(config.shares) if isinstance(config.shares, tuple) else config.shares
    return gather_evidence(logits, np.clip(shortlist.overall[list(rows)], 0, 1), templates, shares)


def trial_beliefs(
    prior: AccuracyEstimate,
    rows: Sequence[int],
    logits: NDArray[np.float32],
    evidence: UnlabeledEvidence,
    classes: Classes = _NO_EXAMPLES,
) -> Beliefs:
    """Beliefs about the accuracies of all models of a shortlist after some of them were tried.

    Args:
        prior: Estimates of the models before any image.
        rows: Positions of the M models that were tried.
        logits: [M, N, C] logits of these models.
        evidence: Evidence from these logits.
        classes: [E] classes of the first E images.
    """
    beliefs = prior_from_estimates(prior)
    if len(rows) > 1:  # a single model has no other to agree with
        found = evidence.beliefs
        variance = found.deviations**2
        own, common = np.sqrt((1 - _SHARED_VARIANCE) * variance), np.sqrt(_SHARED_VARIANCE * float(variance.mean()))
        beliefs = observe(beliefs, rows, found.mean, own, common)
    if len(classes):
        beliefs = learn_from_examples(beliefs, rows, gather_examples(logits, classes, evidence.calibration))
    return beliefs


def choose_with_images(
    shortlist: Selection,
    tried: Sequence[int],
    logits: NDArray[np.float32],
    config: SelectionConfig,
    templates: tuple[str, ...],
    classes: Classes = _NO_EXAMPLES,
) -> Selection:
    """Choose the best of the models that were tried on images, the same for all classes.

    They are ranked by the score of the evidence or, with examples, by estimated accuracy. The accuracy of a single
    model is estimated from its labels, since it has no other to agree with.

    Args:
        shortlist: The selection by labels.
        tried: Positions in its union of the M models that were tried.
        logits: [M, N, C] logits of these models on N images; finite.
        config: Gives ``k``, ``max_models`` and ``shares``.
        templates: Prompt templates of the logits.
        classes: [E] classes of the first E images.

    Raises:
        InputError: There are too few images, or ``shares`` are not C non-negative numbers.
    """
    rows = [shortlist.union[position] for position in tried]
    evidence = trial_evidence(shortlist, rows, logits, config, templates)
    found, estimates, overall = evidence.beliefs, evidence.beliefs.accuracy, evidence.scores
    scores = model_scores(evidence.calibration, shortlist.scores[rows])
    # A single model has no other to agree with, and with a single class every prediction is correct
    if shortlist.estimates is not None and 1 in (len(rows), len(shortlist.classes)):
        estimates = shortlist.estimates.subset(rows)
        found = independent_beliefs(estimates)
    if len(classes):
        examples = gather_examples(logits, classes, evidence.calibration)
        estimates = learn_from_examples(found, range(len(rows)), examples).accuracy
        overall = estimates.accuracy
        scores = np.repeat(overall[:, None], len(shortlist.classes), axis=1)
    order = np.argsort(-np.round(overall, DIGITS), kind="stable")
    estimates = estimates.subset(order)
    if not len(classes):  # models are ranked by agreement; no estimate may exceed that of the best
        ends = {name: getattr(estimates, name) for name in ("accuracy", "low", "high")}
        estimates = replace(estimates, **{name: np.minimum(values, values[0]) for name, values in ends.items()})
    n_chosen = config.k or n_to_combine(overall[order], len(shortlist.classes))
    n_chosen = min(n_chosen, config.max_models or n_chosen, len(order))
    chosen = np.zeros((len(order), len(shortlist.classes)), np.bool_)
    chosen[:n_chosen] = True
    columns = [tried[m] for m in order[:n_chosen]]
    return replace(
        shortlist,
        k=config.k or n_chosen,
        models=tuple(shortlist.models[rows[m]] for m in order),
        scores=scores[order],
        chosen=chosen,
        matches=tuple(
            tuple(_with_recall_of(concept, columns) for concept in concepts) for concepts in shortlist.matches
        ),
        evidence=evidence.subset(order),
        estimates=estimates,
    )


def _with_recall_of(concept: MatchedConcept, models: Sequence[int]) -> MatchedConcept:
    return replace(concept, recall=tuple(concept.recall[m] for m in models))
