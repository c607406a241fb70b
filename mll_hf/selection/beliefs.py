"""What is believed of the accuracies of M models on one task: a Gaussian over their logits. Pure NumPy.

Tasks differ far more than models do, so a task's level is uncertain for all models at once, and trying one model says
something about the others. By how much the generally better models are better on a task is uncertain, too. With the
mean c of the estimates x::

    logit(accuracy_m) = c + t + s (x_m - c) + e_m,    t ~ N(0, common^2),    s ~ N(1, trend^2),    e_m ~ N(0, own_m^2)

Estimates from images update the beliefs as in Gaussian process regression (Rasmussen and Williams, 2006, eq. 2.23 and
2.24).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.accuracy import LEVEL, AccuracyEstimate, logit, sigmoid
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# What is particular to a model, and how far the slope may be from 1. Of 23 models, most of them made for one subject or
# style, on 13 tasks they are 1.0 and 1.6, of 120 published models of one kind on 25 data sets .4 and .6. But the model
# to be found is not a typical one: with 1.0 it is believed to be worse than it shows, and a trial goes on in vain.
OWN = 3.0
TREND = 1.0
REACH = NormalDist().inv_cdf((1 + LEVEL) / 2)  # standard deviations from the middle of an interval to its ends


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
        """Estimated accuracies, the medians, with 90 % intervals."""
        reach = REACH * self.deviations
        return AccuracyEstimate(sigmoid(self.mean), sigmoid(self.mean - reach), sigmoid(self.mean + reach))


def prior_beliefs(estimates: Floats, own: Floats | float, common: float, trend: float) -> Beliefs:
    """Beliefs before any image, from estimated accuracies [M] in logits; the rest is named in the module's equation."""
    own = np.broadcast_to(np.asarray(own, np.float64), estimates.shape)
    rest = estimates - estimates.mean()
    return Beliefs(estimates, np.diag(own**2) + common**2 + trend**2 * np.outer(rest, rest))


def beliefs_from(estimate: AccuracyEstimate) -> Beliefs:
    """Beliefs before any image: the intervals of the estimates are about the level of the task."""
    common = np.sqrt(float((beliefs_apart(estimate).deviations ** 2).mean()))
    return prior_beliefs(logit(estimate.accuracy), OWN, common, TREND)


def beliefs_apart(estimate: AccuracyEstimate) -> Beliefs:
    """Beliefs that agree with estimates of M models, and in which none of them says anything of another.

    What a model that is to be chosen is worth follows from these: it is the best of many, far from what the others
    suggest. Beliefs in common estimate it up to 8 points too low.
    """
    deviations = (logit(estimate.high) - logit(estimate.low)) / (2 * REACH)
    return Beliefs(logit(estimate.accuracy), np.diag(deviations**2))


def observe(beliefs: Beliefs, models: Sequence[int], estimates: Floats, errors: Floats, common: float = 0.0) -> Beliefs:
    """Beliefs after the accuracies of T of the models were estimated, by what the beliefs do not rest on yet.

    Estimates [T] and their standard errors [T] (positive) are in logits; ``common`` is an error that all of them share.
    """
    at = list(models)
    shared = beliefs.covariance[:, at]
    gain = np.linalg.solve(shared[at] + np.diag(errors**2) + common**2, shared.T).T
    mean = beliefs.mean + gain @ (estimates - beliefs.mean[at])
    covariance = beliefs.covariance - gain @ shared.T
    return Beliefs(mean, (covariance + covariance.T) / 2)
