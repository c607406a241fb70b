"""Choose with images of the task: class names determine which models to try, their predictions determine the choice.

Some of the images may be examples, which come with their class. They come first and are used twice: as unlabeled images
and as examples.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.estimate import Basis, Estimate
from mll_hf.selection.examples import count_right, update_with_examples
from mll_hf.selection.probabilities import DIGITS
from mll_hf.selection.strategies import STRATEGIES
from mll_hf.selection.task import Shares
from mll_hf.selection.unlabeled import calibrate, estimate_from_agreement, model_scores, n_to_combine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.selection.config import SelectionConfig
    from mll_hf.selection.result import MatchedConcept, Selection
    from mll_hf.selection.unlabeled import SharesLike

    Classes = NDArray[np.int64]

_NO_EXAMPLES = np.empty(0, np.int64)
_SHARED_VARIANCE = 0.5  # share of the variance of estimates from the same images that is a common error
# Standard deviations of a model's own effect and of the slope, see :func:`trial_prior`. They are 1.0 and 1.6 for 23
# models, most of them specialized, on 13 tasks, and .4 and .6 for 120 published models of one kind on 25 datasets. But
# the best model is not a typical one: with 1.0 it is estimated below its results, and a trial continues in vain.
_OWN = 3.0
_TREND = 1.0


def shortlist_config(config: SelectionConfig) -> SelectionConfig:
    """The configuration for choosing the models to try from the class names.

    Raises:
        InputError: The strategy takes no images.
    """
    if not STRATEGIES[config.strategy].takes_images:
        raise InputError(
            f"images are used by strategy 'mll' only, not by '{config.strategy}'; leave out the images or the strategy"
        )
    return replace(config, k=config.shortlist)


def trial_prior(estimate: Estimate) -> Estimate:
    """The estimate for a trial, before any image, in which trying one model is informative about the others.

    Tasks differ far more than models do, so the difficulty of a task is an error that all models share. How much a
    model's general advantage carries over to the task is uncertain, too. With the mean c of the means x::

        logit(accuracy_m) = c + t + s (x_m - c) + e_m,    t ~ N(0, common^2),    s ~ N(1, trend^2),    e_m ~ N(0, own^2)
    """
    common = float((estimate.errors**2).mean())
    centered = estimate.mean - estimate.mean.mean()
    covariance = _OWN**2 * np.eye(len(centered)) + common + _TREND**2 * np.outer(centered, centered)
    return Estimate(estimate.mean, covariance, estimate.basis)


def estimate_in_trial(
    shortlist: Selection,
    tried: Sequence[int],
    logits: NDArray[np.float32],
    classes: Classes = _NO_EXAMPLES,
    shares: SharesLike = Shares.AUTO,
) -> Estimate:
    """The estimate for the chosen models of a shortlist after some were tried. It decides which to try next.

    Arguments and errors as for :func:`choose_with_images`.
    """
    shortlisted = list(shortlist.chosen_models)
    estimate = trial_prior(_estimate_of(shortlist).subset(shortlisted))
    recall = np.clip(shortlist.overall[[shortlisted[m] for m in tried]], 0, 1)
    calibration, confirmation = calibrate(logits, recall, shares)
    if len(tried) > 1:  # a single model has no other to agree with
        found = estimate_from_agreement(calibration, confirmation)
        variance = found.errors**2
        own, common = np.sqrt((1 - _SHARED_VARIANCE) * variance), np.sqrt(_SHARED_VARIANCE * float(variance.mean()))
        estimate = estimate.update(tried, found.mean, own, Basis.IMAGES, common)
    if len(classes) and len(shortlist.classes) > 1:
        estimate = update_with_examples(estimate, tried, count_right(logits, classes, calibration), len(classes))
    return estimate


def choose_with_images(
    shortlist: Selection,
    tried: Sequence[int],
    logits: NDArray[np.float32],
    config: SelectionConfig,
    templates: tuple[str, ...],
    classes: Classes = _NO_EXAMPLES,
    shares: SharesLike = Shares.AUTO,
) -> Selection:
    """Choose the best of the models that were tried on images, the same for all classes.

    Unlabeled images rank the models by agreement, examples by accuracy. Only examples change the estimate that is
    shown: without them it is that of the class names, for the models in their new order.

    Args:
        shortlist: The selection by class names.
        tried: Positions in its chosen models of the M models that were tried.
        logits: [M, N, C] logits of these models on N images; finite.
        config: Gives ``k``.
        templates: Prompt templates of the logits.
        classes: [E] classes of the first E images.
        shares: The class shares, or how to estimate them.

    Raises:
        InputError: There are too few images.
    """
    rows = [shortlist.chosen_models[position] for position in tried]
    n_models, n_classes = len(rows), len(shortlist.classes)
    recall = np.clip(shortlist.overall[rows], 0, 1)
    calibration, confirmation = calibrate(logits, recall, shares, templates)
    shown = _estimate_of(shortlist).subset(rows)
    overall = model_scores(calibration.agreement, recall)
    scores = model_scores(calibration.agreement, shortlist.scores[rows])
    if len(classes) and n_classes > 1:
        right, everyone = count_right(logits, classes, calibration), range(n_models)
        ranking = estimate_from_agreement(calibration, confirmation) if n_models > 1 else shown
        overall = update_with_examples(ranking, everyone, right, len(classes)).accuracy
        shown = update_with_examples(shown, everyone, right, len(classes))
        scores = np.repeat(overall[:, None], n_classes, axis=1)
    order = np.argsort(-np.round(overall, DIGITS), kind="stable")
    n_chosen = min(config.k or n_to_combine(overall[order], n_classes), n_models)
    chosen = np.zeros((n_models, n_classes), np.bool_)
    chosen[:n_chosen] = True
    columns = [tried[m] for m in order[:n_chosen]]
    return replace(
        shortlist,
        k=config.k or n_chosen,
        models=tuple(shortlist.models[rows[m]] for m in order),
        scores=scores[order],
        chosen=chosen,
        matches=tuple(tuple(_with_recall_of(concept, columns) for concept in found) for found in shortlist.matches),
        calibration=calibration.subset(order),
        estimate=shown.subset(order).at_most_first(),
    )


def _estimate_of(shortlist: Selection) -> Estimate:
    if shortlist.estimate is None:
        raise ValueError("the shortlist has no estimate")
    return shortlist.estimate


def _with_recall_of(concept: MatchedConcept, models: Sequence[int]) -> MatchedConcept:
    return replace(concept, recall=tuple(concept.recall[m] for m in models))
