"""Choose with the help of a task's own images: labels say which models to try, the models' answers decide.

Some of the images may be examples, whose class is known. They come first, and count twice: as images, and by their
class.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.base import DIGITS, SelectionConfig, Strategy
from mll_hf.selection.beliefs import beliefs_apart, beliefs_from, observe
from mll_hf.selection.evidence import gather_evidence, how_many, scores_of
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
_SHARED = 0.5  # of the variance of estimates from the same images: the share that is an error of all of them together


def shortlisting(config: SelectionConfig) -> SelectionConfig:
    """The configuration with which labels alone choose the models to try.

    Raises:
        InputError: The strategy is not ours.
    """
    if config.strategy is not Strategy.MLL:
        raise InputError(
            f"images help strategy 'mll' only, not '{config.strategy}'; leave out the images or the strategy"
        )
    return replace(config, k=config.shortlist, max_models=None)


def trial_evidence(
    shortlist: Selection,
    rows: Sequence[int],
    logits: NDArray[np.float32],
    config: SelectionConfig,
    templates: tuple[str, ...],
) -> UnlabeledEvidence:
    """What those models of a shortlist that are in these rows say to images, examples taken as images without a class.

    The arguments and errors are those of :func:`choose_with_images`.
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
    """Beliefs about the accuracies of all models of a shortlist after some of them answered.

    Args:
        prior: Estimates of the models before any image.
        rows: Positions of those M that answered.
        logits: [M, N, C] of these.
        evidence: From these answers.
        classes: [E] classes of the first E images.
    """
    beliefs = beliefs_from(prior)
    if len(rows) > 1:  # a single model has none to agree with
        found = evidence.beliefs
        variance = found.deviations**2
        own, common = np.sqrt((1 - _SHARED) * variance), np.sqrt(_SHARED * float(variance.mean()))
        beliefs = observe(beliefs, rows, found.mean, own, common)
    if len(classes):
        beliefs = learn_from_examples(beliefs, rows, gather_examples(logits, classes, evidence.calibration))
    return beliefs


def choose_with_images(
    shortlist: Selection,
    answering: Sequence[int],
    logits: NDArray[np.float32],
    config: SelectionConfig,
    templates: tuple[str, ...],
    classes: Classes = _NO_EXAMPLES,
) -> Selection:
    """Choose among models that were tried on images: those with the highest score, for all classes.

    Without examples the score is that of the evidence, with examples the estimated accuracy. A single model is as
    accurate as its labels say, since its agreement with itself says nothing.

    Args:
        shortlist: The selection by labels alone whose union was to be tried.
        answering: Positions of M models of the union, those whose answers are at hand.
        logits: [M, N, C] of these models on N images; finite.
        config: Gives k, the cap on the number of models and the shares of the classes.
        templates: Prompt templates that the logits were made with.
        classes: [E] classes of the first E images.

    Raises:
        InputError: There are too few images, or the shares are not C non-negative numbers.
    """
    rows = [shortlist.union[position] for position in answering]
    evidence = trial_evidence(shortlist, rows, logits, config, templates)
    found, estimates, overall = evidence.beliefs, evidence.beliefs.accuracy, evidence.scores
    scores = scores_of(evidence.calibration, shortlist.scores[rows])
    # A single model has none to agree with, and with a single class every answer is right
    if shortlist.estimates is not None and 1 in (len(rows), len(shortlist.classes)):
        estimates = shortlist.estimates.take(rows)
        found = beliefs_apart(estimates)
    if len(classes):
        examples = gather_examples(logits, classes, evidence.calibration)
        estimates = learn_from_examples(found, range(len(rows)), examples).accuracy
        overall = estimates.accuracy
        scores = np.repeat(overall[:, None], len(shortlist.classes), axis=1)
    order = np.argsort(-np.round(overall, DIGITS), kind="stable")
    estimates = estimates.take(order)
    if not len(classes):  # agreement ranks them; none is shown above the best
        of_models = {name: getattr(estimates, name) for name in ("accuracy", "low", "high")}
        estimates = replace(estimates, **{name: np.minimum(values, values[0]) for name, values in of_models.items()})
    n_chosen = config.k or how_many(overall[order], len(shortlist.classes))
    n_chosen = min(n_chosen, config.max_models or n_chosen, len(order))
    chosen = np.zeros((len(order), len(shortlist.classes)), np.bool_)
    chosen[:n_chosen] = True
    columns = [answering[at] for at in order[:n_chosen]]
    return replace(
        shortlist,
        k=config.k or n_chosen,
        models=tuple(shortlist.models[rows[at]] for at in order),
        scores=scores[order],
        chosen=chosen,
        matches=tuple(tuple(_take(concept, columns) for concept in concepts) for concepts in shortlist.matches),
        evidence=evidence.take(order),
        estimates=estimates,
    )


def _take(concept: MatchedConcept, models: Sequence[int]) -> MatchedConcept:
    return replace(concept, recall=tuple(concept.recall[at] for at in models))
