"""A budgeted trial: which model to try next on a task's images, and when to stop. Pure NumPy.

1. Models that need no download are all tried, before any others.
2. The two models with the highest expected gain are fetched first, or, if models are made for the domain or language of
   the task, the best one of these and the best general one; if one fails, the next best of its kind. The first one
   leaves room for a second if that costs at most a point of expected accuracy: a single model has no other to agree
   with.
3. After that, the next model is the one with the highest expected gain per byte.
4. The trial stops when the total expected gain of the remaining models within the budget is small relative to the
   accuracy of the best model so far. So it continues longer if all models perform poorly or many remain.

The gain is the *knowledge gradient* (Frazier, Powell and Dayanik, SIAM J. Control Optim. 47(5), 2008): the expected
increase in accuracy of the chosen model by trying another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.answer import MARGIN
from mll_hf.selection.estimate import Basis, Estimate
from mll_hf.selection.probabilities import DIGITS, sigmoid
from mll_hf.utils.text import gigabytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mll_hf.selection.estimate import Floats

TYPICAL_ERROR = 0.5  # standard error of an accuracy estimated in a trial, in logits
_MIN_MODELS = 2  # models to try, if there are as many
# Stop below this mean expected gain over all models (0 for models already tried), relative to the best accuracy so far.
# The gain by the next model alone is less informative: any of many models may be specialized in just this task.
_MIN_MEAN_GAIN = 0.025


def _student4(probabilities: Floats) -> Floats:
    """Quantiles of Student's t, 4 degrees of freedom, scaled to variance 1 (Shaw, J. Comput. Finance 9(4), 2006)."""
    alpha = 4 * probabilities * (1 - probabilities)
    ratio = np.cos(np.arccos(np.sqrt(alpha)) / 3) / np.sqrt(alpha)
    return np.sign(probabilities - 0.5) * np.sqrt(2 * (ratio - 1))


# Equally probable deviations of a model. The distribution is heavy-tailed, as specialized models are outliers: the
# excess kurtosis of published accuracies (logits of 120 models on 25 datasets, minus their trend with ImageNet
# accuracy) is 4.
_NODES = _student4((np.arange(512) + 0.5) / 512)


@dataclass(frozen=True)
class Shortlist:
    """The M models that a trial may try."""

    prior: Estimate  # of their accuracies; ties go to the first model
    sizes: Sequence[int]  # [M] download sizes in bytes; 0 for local models
    budget: int  # maximum number of bytes to fetch; a model that fails counts as fetched
    nominated: Sequence[bool] = ()  # [M] whether a model is made for the domain or language of the task; empty if none

    def first(self, affordable: Sequence[int], tried: Sequence[int], failed: Sequence[int]) -> int | None:
        """If some models are made for the task, the best one of these, then the best other one, by their means.

        Each takes at most half of the budget, and after one that fails the other kind is next. Without a general model
        a poor specialist would agree with others like it. None if models of both kinds were tried, or cannot be.
        """
        if not any(self.nominated):
            return None
        n_failed = [sum(self.nominated[m] == kind for m in failed) for kind in (False, True)]
        for kind in sorted((True, False), key=n_failed.__getitem__):
            small = [m for m in affordable if self.nominated[m] == kind and 2 * self.sizes[m] <= self.budget]
            if small and not any(self.nominated[m] == kind for m in tried):
                return max(small, key=lambda m: self.prior.mean[m])
        return None


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """Plan of a trial, made before anything is fetched."""

    order: tuple[int, ...]  # of the models if each performs as expected; results may change it
    expected_bytes: int  # download size of these models
    most_bytes: int  # maximum download size, whatever the results
    names: tuple[str, ...]  # of the models in this order


def plan_trial(shortlist: Shortlist, names: Sequence[str]) -> TrialPlan:
    """Plan a trial of models with these names [M]; an InputError if none fits in the budget."""
    prior, sizes, budget = shortlist.prior, shortlist.sizes, shortlist.budget
    smallest = min(range(len(sizes)), key=lambda m: sizes[m])
    if sizes[smallest] > budget:
        raise InputError(
            f"at most {gigabytes(budget)} may be downloaded, but the smallest model, {names[smallest]}, takes "
            f"{gigabytes(sizes[smallest])}; raise max_download"
        )

    def estimated(tried: Sequence[int]) -> Estimate:
        errors = np.full(len(tried), TYPICAL_ERROR)
        return prior.update(tried, prior.mean[list(tried)], errors, Basis.IMAGES)

    order = run_trial(shortlist, lambda m: True, estimated)
    affordable = sum(size for size in sizes if size <= budget)
    return TrialPlan(order, sum(sizes[m] for m in order), min(affordable, budget), tuple(names[m] for m in order))


def run_trial(
    shortlist: Shortlist, attempt: Callable[[int], bool], estimated: Callable[[tuple[int, ...]], Estimate]
) -> tuple[int, ...]:
    """Try models one by one; returns the positions of those that were tried successfully, in order.

    ``attempt`` tries the model at a position; it returns False if it fails, and the trial continues. ``estimated``
    returns the estimate for all M models after those at the given positions were tried.
    """
    estimate = shortlist.prior
    tried, failed = tuple[int, ...](), tuple[int, ...]()
    while (m := next_model(shortlist, estimate, tried, failed)) is not None:
        if attempt(m):
            tried = (*tried, m)
            estimate = estimated(tried)
        else:
            failed = (*failed, m)
    return tried


def next_model(
    shortlist: Shortlist, estimate: Estimate, tried: Sequence[int], failed: Sequence[int] = ()
) -> int | None:
    """The position of the model to try next, by the current estimate; None if the trial is over."""
    sizes, gains = shortlist.sizes, np.round(expected_gains(estimate, tried), DIGITS)
    remaining = shortlist.budget - sum(sizes[m] for m in (*tried, *failed))
    affordable = [m for m in range(len(sizes)) if m not in (*tried, *failed) and sizes[m] <= remaining]
    if (first := shortlist.first(affordable, tried, failed)) is not None:
        return first
    local = [m for m in affordable if sizes[m] == 0]
    best = sigmoid(estimate.mean[list(tried)]).max(initial=0)
    mean_gain = np.round(gains[affordable].sum() / len(sizes), DIGITS)
    if not affordable or (not local and len(tried) >= _MIN_MODELS and mean_gain < _MIN_MEAN_GAIN * best):
        return None
    if not local and sum(sizes[m] > 0 for m in tried) >= _MIN_MODELS:
        return max(affordable, key=lambda m: (gains[m] / sizes[m], -sizes[m]))
    if not tried:
        as_good = [m for m in affordable if gains[m] >= gains[affordable].max() - MARGIN]
        pairs = [(m, sizes[m] + sizes[other]) for m in as_good for other in affordable if other != m]
        affordable = [m for m, size in pairs if size <= remaining] or affordable
    return max(local or affordable, key=lambda m: (gains[m], -sizes[m]))  # per byte, ever larger ones would be tried


def expected_gains(estimate: Estimate, tried: Sequence[int]) -> Floats:
    """[M] expected gain in accuracy of the chosen model by trying each model; 0 for models already tried.

    The chosen model is the best one tried. If none was tried, the gain is the expected accuracy itself.
    """
    mean, variance = estimate.mean, np.diag(estimate.covariance)
    if not tried:
        return sigmoid(mean[:, None] + np.sqrt(variance)[:, None] * _NODES).mean(axis=1)
    best = max(tried, key=lambda m: mean[m])
    # Standard deviation of the change in the difference between m and the best model by trying m
    shift = np.abs(variance - estimate.covariance[best]) / np.sqrt(variance + TYPICAL_ERROR**2)
    posterior = sigmoid(mean[:, None] + shift[:, None] * _NODES)
    gains: Floats = np.maximum(posterior - sigmoid(mean[best]), 0).mean(axis=1)
    gains[list(tried)] = 0
    return gains
