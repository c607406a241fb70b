"""Choose with images of the task: class names determine which models to try, the fit to the images the choice.

Some of the images may be examples, which come with their class. They come first. With n examples and r correct
predictions, the likelihood of an accuracy a is ``a^r (1 - a)^(n - r)``; the posterior is approximated by a Gaussian at
its mode, found by iteratively reweighted least squares (Rasmussen and Williams, 2006, section 3.4).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.estimate import Basis, Estimate
from mll_hf.selection.fit import STRENGTHS, fit
from mll_hf.selection.probabilities import DIGITS, logit, sigmoid
from mll_hf.selection.result import QUANTILES, Trial, resemblance
from mll_hf.selection.strategies import Strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.selection.estimate import Floats
    from mll_hf.selection.fit import Fit
    from mll_hf.selection.head import Head
    from mll_hf.selection.result import Selection
    from mll_hf.selection.strategies import SelectionConfig

    Classes = NDArray[np.int64]
    Embedded = tuple[NDArray[np.float32], Head]  # images [N, D], and the zero-shot head

_NO_EXAMPLES = np.empty(0, np.int64)
# Standard error of an accuracy, in logits, as estimated by the agreement of a model with the pool of all that were
# tried; half of the variance is a common error of these models.
_AGREEMENT_ERROR = 0.6
_SHARED_VARIANCE = 0.5
_MIN_AGREEMENT = 0.01
# Standard deviations of a model's own effect and of the slope, see :func:`trial_prior`. They are 1.0 and 1.6 for 23
# models, most of them specialized, on 13 tasks, and .4 and .6 for 120 published models of one kind on 25 datasets. But
# the best model is not a typical one: with 1.0 it is estimated below its results, and a trial continues in vain.
_OWN = 3.0
_TREND = 1.0
# Standard error in logits, common to all models, of what names tell after a fit with examples. With 1.7 intervals hold
# for .74 to .83 of the zoo's fits if names promise .9, with 3 for .80 to .89; on real data for .89 to .98 with both.
_FIT_ERROR = 3.0
_SHARED_CHANCE = 0.5  # of the variance of several models' results on the same examples
# Value of an example where the names are left out: which classes have examples then decides, and is the same chance for
# all models. Measured on WHU-RS19 with exchanged names, where results of 25 examples were off by up to .3.
_WORTH_WITHOUT_NAMES = 1 / 3
_PRIOR_EXAMPLES = 25  # examples that agreement with the pool is worth, when models are ranked
_MAX_COMBINED = 5
_CLOSE = 0.05  # a model is combined with the best one if its score is at most this much lower
_MAX_STEPS = 100
_MAX_STEP = 1.0  # in logits
_CONVERGED = 1e-9


def shortlist_config(config: SelectionConfig) -> SelectionConfig:
    """The configuration for choosing the models to try; an InputError if the strategy takes no images."""
    if config.strategy is not Strategy.MLL:
        raise InputError(
            f"images are used by strategy 'mll' only, not by '{config.strategy}'; leave out the images or the strategy"
        )
    return replace(config, k=config.shortlist)


def trial_prior(estimate: Estimate) -> Estimate:
    """The estimate for a trial, before any image, in which trying one model is informative about the others.

    Tasks differ far more than models do, so the difficulty of a task is an error that all models share. How much a
    model's general advantage carries over to the task is uncertain, too. A model that less is known about than about
    most, such as one made for the domain without figures, has a wider prior, and is taken to be as good as one standard
    error better, so that it is tried early. With the mean c of the means x::

        logit(accuracy_m) = c + t + s (x_m - c) + e_m,    t ~ N(0, common^2),    s ~ N(1, trend^2),    e_m ~ N(0, own^2)
    """
    common = float(np.median(estimate.errors**2))
    more = np.maximum(estimate.errors**2 - common, 0)
    centered = estimate.mean - estimate.mean.mean()
    covariance = np.diag(_OWN**2 + more) + common + _TREND**2 * np.outer(centered, centered)
    return Estimate(estimate.mean + np.sqrt(more), covariance, estimate.basis)


def estimate_in_trial(
    prior: Estimate,
    tried: Sequence[int],
    embedded: Sequence[Embedded],
    classes: Classes = _NO_EXAMPLES,
    shares: Floats | None = None,
) -> Estimate:
    """The estimate of a trial, from its :func:`trial_prior`, after T models were tried. It decides which to try next.

    Other arguments are those of :func:`choose_with_images`.
    """
    embeddings, heads = zip(*embedded, strict=True)
    found = fit(embeddings, heads, shares=shares)
    estimate = prior
    if len(tried) > 1:  # a single model has no other to agree with
        own, common = (_AGREEMENT_ERROR * np.sqrt(part) for part in (1 - _SHARED_VARIANCE, _SHARED_VARIANCE))
        mean = logit(found.agreement[:, 1], _MIN_AGREEMENT)
        estimate = estimate.update(tried, mean, np.full(len(tried), own), Basis.IMAGES, float(common))
    if len(classes):
        pairs = zip(found.heads, embeddings, strict=True)
        right = [(head.logits(each[: len(classes)]).argmax(axis=1) == classes).sum() for head, each in pairs]
        estimate = update_with_examples(estimate, tried, np.array(right, np.float64), len(classes))
    return estimate


def choose_with_images(
    shortlist: Selection,
    tried: Sequence[int],
    embedded: Sequence[Embedded],
    config: SelectionConfig,
    classes: Classes = _NO_EXAMPLES,
    shares: Floats | None = None,
    weights: Floats | None = None,
) -> Selection:
    """Fit the models that were tried on images, and choose the best of them, the same for all classes.

    Unlabeled images rank the models by agreement, examples by accuracy. Only examples change the estimate that is
    shown: without them it is that of the class names, for the models in their new order.

    Of the models chosen in the shortlist, M were tried, at positions ``tried``; ``embedded`` has the images and the
    zero-shot head of each. The first E images are examples of ``classes`` [E] with ``weights`` [E], by default equal
    ones. Class shares [C] are estimated if not given. An InputError if an embedding is not finite.
    """
    rows = [shortlist.chosen_models[position] for position in tried]
    n_models, n_classes = len(rows), len(shortlist.classes)
    embeddings, heads = zip(*embedded, strict=True)
    found = fit(embeddings, heads, classes, shares, weights)
    if shortlist.estimate is None:
        raise ValueError("the shortlist has no estimate")
    shown, overall, results = shortlist.estimate.subset(rows), found.scores, found.agreement
    if found.right is not None:
        results = found.right[:-1] / found.n_effective
        overall = (found.right[:-1, 1] + _PRIOR_EXAMPLES * overall) / (found.n_effective + _PRIOR_EXAMPLES)
        if n_classes > 1:
            shown = after_fit(Estimate(shown.mean, shown.covariance + _FIT_ERROR**2, shown.basis), found)
    order = np.lexsort(np.stack([rows, -np.round(overall, DIGITS)]))  # ties go by the shortlist
    close = int((np.round(overall[order[0]] - overall, DIGITS) <= _CLOSE).sum())
    n_chosen = min(config.k or min(close, _MAX_COMBINED), n_models)
    best = order[:n_chosen]
    chosen = np.zeros((n_models, n_classes), np.bool_)
    chosen[:n_chosen] = True
    return replace(
        shortlist,
        k=config.k or n_chosen,
        models=tuple(shortlist.models[rows[m]] for m in order),
        scores=np.repeat(overall[order, None], n_classes, axis=1),
        chosen=chosen,
        trial=Trial(
            n_images=len(embeddings[0]),
            n_examples=len(classes),
            zero_shot=results[order, 0],
            fitted=results[order, 1],
            strengths=found.strengths[order],
            weights=found.weights[order],
            shares=found.shares,
            resemblance=np.quantile(resemblance(found.held_out[best], found.weights[best]), QUANTILES),
        ),
        estimate=shown.subset(order).at_most_first(),
        templates=shortlist.prompt_templates,  # those of the heads
        heads=tuple(found.heads[m] for m in best),
    )


def after_fit(estimate: Estimate, found: Fit) -> Estimate:
    """The estimate of the fitted models after their results in cross-validation."""
    if found.right is None:
        return estimate
    worth = np.where(found.strengths == STRENGTHS[-1], _WORTH_WITHOUT_NAMES, 1.0)
    right = found.right[:-1, 1] * worth
    return update_with_examples(estimate, range(len(right)), right, found.n_effective * worth)


def update_with_examples(estimate: Estimate, models: Sequence[int], right: Floats, n: float | Floats) -> Estimate:
    """The estimate after N examples, of which the models at these positions predicted ``right`` [T] correctly.

    The number may differ between models, [T].
    """
    rows = list(models)
    logits = estimate.mean[rows]
    for _ in range(_MAX_STEPS):
        accuracy = sigmoid(logits)
        information = n * accuracy * (1 - accuracy)
        response = logits + (right - n * accuracy) / information
        own, common = (np.sqrt(part / information) for part in (1 - _SHARED_CHANCE, _SHARED_CHANCE))
        posterior = estimate.update(rows, response, own, Basis.EXAMPLES, common)
        step = np.clip(posterior.mean[rows] - logits, -_MAX_STEP, _MAX_STEP)
        logits = logits + step
        if np.abs(step).max() < _CONVERGED:
            break
    return posterior
