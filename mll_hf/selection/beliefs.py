"""Beliefs about the accuracies of M models on one task: a Gaussian over their logits. Pure NumPy.

Tasks differ far more than models do, so the difficulty of a task is an error that all models share, and trying one
model is informative about the others. How much a model's general advantage carries over to the task is uncertain, too.
With the mean c of the estimates x::

    logit(accuracy_m) = c + t + s (x_m - c) + e_m,    t ~ N(0, common^2),    s ~ N(1, trend^2),    e_m ~ N(0, own_m^2)

Estimates from images update the beliefs as in Gaussian process regression (Rasmussen and Williams, 2006, eq. 2.23 and
2.24).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.accuracy import CONFIDENCE, AccuracyEstimate, logit, sigmoid
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Standard deviations of a model's own effect and of the slope. They are 1.0 and 1.6 for 23 models, most of them
# specialized, on 13 tasks, and .4 and .6 for 120 published models of one kind on 25 datasets. But the best model is
# not a typical one: with 1.0 it is estimated below its results, and a trial continues in vain.
OWN = 3.0
TREND = 1.0
Z_SCORE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)  # half the width of the interval, in standard deviations


@dataclass(frozen=True, eq=False)
class Beliefs(ArrayFields):
    """A Gaussian over the logits of the accuracies of M models: its mean [M] and its covariance [M, M]."""

    mean: Floats
    covariance: Floats

    @property
    def deviations(self) -> Floats:
        """[M] standard deviations."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def accuracy(self) -> AccuracyEstimate:
        """Median accuracies with 90 % intervals."""
        half_width = Z_SCORE * self.deviations
        return AccuracyEstimate(sigmoid(self.mean), sigmoid(self.mean - half_width), sigmoid(self.mean + half_width))


def prior_beliefs(estimates: Floats, own: Floats | float, common: float, trend: float) -> Beliefs:
    """Beliefs before any image, from estimated accuracies [M] in logits; see the equation of the module."""
    own = np.broadcast_to(np.asarray(own, np.float64), estimates.shape)
    centered = estimates - estimates.mean()
    return Beliefs(estimates, np.diag(own**2) + common**2 + trend**2 * np.outer(centered, centered))


def prior_from_estimates(estimate: AccuracyEstimate) -> Beliefs:
    """Beliefs before any image; the intervals of the estimates give the error that all models share."""
    common = np.sqrt(float((independent_beliefs(estimate).deviations ** 2).mean()))
    return prior_beliefs(logit(estimate.accuracy), OWN, common, TREND)


def independent_beliefs(estimate: AccuracyEstimate) -> Beliefs:
    """Beliefs with the same estimates and intervals in which the M models are independent.

    The accuracy of the chosen model is estimated from these: it is the best of many and far from what the others
    suggest. Correlated beliefs estimate it up to 8 points too low.
    """
    deviations = (logit(estimate.high) - logit(estimate.low)) / (2 * Z_SCORE)
    return Beliefs(logit(estimate.accuracy), np.diag(deviations**2))


def observe(beliefs: Beliefs, models: Sequence[int], estimates: Floats, errors: Floats, common: float = 0.0) -> Beliefs:
    """Update the beliefs with new, independent estimates of the accuracies of T of the models.

    Estimates [T] and their standard errors [T] (positive) are in logits; ``common`` is their shared standard error.
    """
    rows = list(models)
    shared = beliefs.covariance[:, rows]
    gain = np.linalg.solve(shared[rows] + np.diag(errors**2) + common**2, shared.T).T
    mean = beliefs.mean + gain @ (estimates - beliefs.mean[rows])
    covariance = beliefs.covariance - gain @ shared.T
    return Beliefs(mean, (covariance + covariance.T) / 2)
