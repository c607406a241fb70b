"""A budgeted trial: which model to try next on a task's images, and when to stop. Pure NumPy.

The two most promising models are fetched first; the first of them would be chosen without a trial. After them, the next
model is the one with the highest expected gain per byte. The gain is the *knowledge gradient* (Frazier, Powell and
Dayanik, SIAM J. Control Optim. 47(5), 2008): how much the accuracy of the model that would be chosen is expected to
rise by trying another one. Models that need no download come before all others, and all of them are tried. The trial
stops when the models left that fit in the rest of the budget together promise too little, compared with what the best
one reaches: where all models do badly so far, or many are left, it goes on longer. It never stops after the first
model, which has none to agree with, and the first leaves room for a second if that costs at most a point of expected
accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.accuracy import sigmoid
from mll_hf.selection.base import DIGITS, MARGIN
from mll_hf.selection.beliefs import observe
from mll_hf.utils.text import gigabytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mll_hf.selection.beliefs import Beliefs, Floats

USUAL_ERROR = 0.5  # standard error of a trial's estimate, in logits
_FEWEST = 2  # models to try where there are as many
# Expected gain that is worth another trial, as a share of the accuracy of the best model so far: the mean over all
# models, in which those that are done count as 0. The gain by the next one alone says less: one of many may be made for
# just this task.
_LEAST_PROMISE = 0.025


def _student4(probabilities: Floats) -> Floats:
    """Quantiles of Student's t, 4 degrees of freedom, scaled to variance 1 (Shaw, J. Comput. Finance 9(4), 2006)."""
    alpha = 4 * probabilities * (1 - probabilities)
    ratio = np.cos(np.arccos(np.sqrt(alpha)) / 3) / np.sqrt(alpha)
    return np.sign(probabilities - 0.5) * np.sqrt(2 * (ratio - 1))


# Equally probable deviations of a model. Models that are made for a task stand out by far: the excess kurtosis of
# published accuracies (logits of 120 models on 25 data sets, less their trend with ImageNet accuracy) is 4, of a
# Gaussian 0.
_NODES = _student4((np.arange(512) + 0.5) / 512)


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What a trial is going to do, as far as it is known before anything is fetched.

    Attributes:
        order: Positions of the models that are tried if each does as expected, in order. What the first ones show may
            change the rest.
        expected_bytes: What these take.
        most_bytes: The trial fetches no more than this, whatever the models show.
        names: Of the models in ``order``.
    """

    order: tuple[int, ...]
    expected_bytes: int
    most_bytes: int
    names: tuple[str, ...]


def plan_trial(prior: Beliefs, sizes: Sequence[int], budget: int, names: Sequence[str]) -> TrialPlan:
    """Plan a trial of M models with these names; other arguments as for :func:`run_trial`.

    Raises:
        InputError: No model fits in the budget.
    """
    smallest = min(range(len(sizes)), key=lambda m: sizes[m])
    if sizes[smallest] > budget:
        raise InputError(
            f"at most {gigabytes(budget)} may be downloaded, but the smallest model, {names[smallest]}, takes "
            f"{gigabytes(sizes[smallest])}; raise max_download"
        )

    def as_expected(tried: Sequence[int]) -> Beliefs:
        return observe(prior, tried, prior.mean[list(tried)], np.full(len(tried), USUAL_ERROR))

    order = run_trial(prior, sizes, budget, lambda m: True, as_expected)
    fitting = sum(size for size in sizes if size <= budget)
    named = tuple(names[m] for m in order)
    return TrialPlan(order, sum(sizes[m] for m in order), min(fitting, budget), named)


def run_trial(
    prior: Beliefs,
    sizes: Sequence[int],
    budget: int,
    attempt: Callable[[int], bool],
    believe: Callable[[tuple[int, ...]], Beliefs],
) -> tuple[int, ...]:
    """Try models one by one.

    Args:
        prior: Beliefs about M models before any was tried.
        sizes: [M] bytes that each needs to be fetched; 0 for models that are here.
        budget: Most bytes to fetch; a model that fails counts as fetched.
        attempt: Tries the model at a position; False if it fails, and the trial goes on.
        believe: Beliefs about all M models after those at these positions were tried.

    Returns:
        Positions of the models that were tried, in order, without those that failed.
    """
    beliefs, left = prior, budget
    tried: tuple[int, ...] = ()
    failed: list[int] = []
    while (m := next_model(beliefs, sizes, left, tried, failed)) is not None:
        left -= sizes[m]
        if attempt(m):
            tried = (*tried, m)
            beliefs = believe(tried)
        else:
            failed.append(m)
    return tried


def next_model(
    beliefs: Beliefs, sizes: Sequence[int], left: int, tried: Sequence[int], failed: Sequence[int] = ()
) -> int | None:
    """The position of the model to try next; None if the trial is over.

    Args:
        beliefs: About M models, after what the tried ones have shown; better models first where they are equal.
        sizes: As for :func:`run_trial`.
        left: Bytes that may still be fetched.
        tried: Positions of the models that were tried.
        failed: Positions of the models that could not be tried.
    """
    gains = np.round(expected_gains(beliefs, tried), DIGITS)
    best = sigmoid(beliefs.mean[list(tried)]).max(initial=0)
    done = {*tried, *failed}
    fitting = [m for m in range(len(sizes)) if m not in done and sizes[m] <= left]
    here = [m for m in fitting if sizes[m] == 0]
    promise = np.round(gains[fitting].sum() / len(sizes), DIGITS)
    if not here and len(tried) >= _FEWEST and promise < _LEAST_PROMISE * best:
        return None
    if not tried:
        as_good = [m for m in fitting if gains[m] >= gains[fitting].max() - MARGIN]
        with_room = [m for m in as_good if any(sizes[m] + sizes[other] <= left for other in fitting if other != m)]
        fitting = with_room or fitting
    if here or sum(sizes[m] > 0 for m in tried) < _FEWEST:  # per byte, a chain of ever larger models would come first
        return max(here or fitting, key=lambda m: (gains[m], -sizes[m]), default=None)
    return max(fitting, key=lambda m: (gains[m] / sizes[m], -sizes[m]), default=None)


def expected_gains(beliefs: Beliefs, tried: Sequence[int]) -> Floats:
    """[M] expected gain in accuracy of the chosen model by trying each model; 0 for those that were tried.

    The best of those that were tried would be chosen now. With none, the gain is the expected accuracy itself.
    """
    mean, variance = beliefs.mean, np.diag(beliefs.covariance)
    if not tried:
        return sigmoid(mean[:, None] + np.sqrt(variance)[:, None] * _NODES).mean(axis=1)
    best = max(tried, key=lambda m: mean[m])
    # What a trial of m is expected to change in the difference between m and the best one
    shift = np.abs(variance - beliefs.covariance[best]) / np.sqrt(variance + USUAL_ERROR**2)
    after = sigmoid(mean[:, None] + shift[:, None] * _NODES)
    gains: Floats = np.maximum(after - sigmoid(mean[best]), 0).mean(axis=1)
    gains[list(tried)] = 0
    return gains
