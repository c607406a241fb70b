"""The estimated accuracies of M models on one task. No other type carries an estimate of accuracy.

An estimate is a Gaussian over the logits of the accuracies. Whatever is learned about a task is an observation that
updates it (Gaussian conditioning: Rasmussen and Williams, 2006, eq. 2.23 and 2.24). Only this file decides whether an
accuracy is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.probabilities import sigmoid
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE = 0.9  # share of tasks on which the interval should contain the accuracy
MAX_WIDTH = 0.6  # an accuracy with a wider interval is not known
Z_SCORE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)  # half the width of the interval, in standard errors
CERTAIN = 40.0  # logit of an accuracy of 1


class Basis(StrEnum):
    """What an estimate rests on."""

    NAMES = "names"  # class names, with labels or published figures of the models
    IMAGES = "images"  # also predictions on unlabeled images: ranks models, but their common mistakes go unnoticed
    EXAMPLES = "examples"  # also images with their class


@dataclass(frozen=True, eq=False)
class Estimate(ArrayFields):
    """A Gaussian over the logits of the accuracies of M models on one task."""

    mean: Floats  # [M]
    covariance: Floats  # [M, M]
    basis: Basis = Basis.NAMES  # what the estimate rests on

    @classmethod
    def independent(cls, mean: Floats, errors: Floats, basis: Basis = Basis.NAMES) -> Estimate:
        """An estimate with standard errors [M] that are independent of each other."""
        return cls(mean, np.diag(errors**2), basis)

    @property
    def errors(self) -> Floats:
        """[M] standard errors, in logits."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def accuracy(self) -> Floats:
        """[M] median accuracies."""
        return sigmoid(self.mean)

    @property
    def interval(self) -> tuple[Floats, Floats]:
        """Lower and upper ends [M] of the 90 % intervals, rounded outward to whole percents, as they are shown."""
        low, high = self._ends
        return np.floor(100 * low) / 100, np.ceil(100 * high) / 100

    @property
    def _ends(self) -> tuple[Floats, Floats]:
        half_width = Z_SCORE * self.errors
        return sigmoid(self.mean - half_width), sigmoid(self.mean + half_width)

    @property
    def known(self) -> NDArray[np.bool_]:
        """[M] whether the accuracy is known: the interval is narrow, and does not rest on agreement between models."""
        low, high = self._ends
        return np.asarray((high - low <= MAX_WIDTH) & (self.basis is not Basis.IMAGES))

    def text(self, m: int) -> str:
        """The accuracy of a model with its interval, or "not known"."""
        if not self.known[m]:
            return "not known"
        low, high = self.interval
        return f"{100 * self.accuracy[m]:.0f} % ({100 * low[m]:.0f} to {100 * high[m]:.0f} %)"

    def update(
        self, models: Sequence[int], mean: Floats, errors: Floats, basis: Basis, common: float | Floats = 0.0
    ) -> Estimate:
        """The estimate after an independent observation of the accuracies of T of the models, at these positions.

        ``mean`` [T] are the observed accuracies, in logits, ``errors`` [T] their standard errors, positive, and
        ``common`` the standard error that the observations share, or of each one the part that they share, [T].
        """
        rows = list(models)
        shared = self.covariance[:, rows]
        shared_errors = np.broadcast_to(common, len(rows))
        gain = np.linalg.solve(shared[rows] + np.diag(errors**2) + np.outer(shared_errors, shared_errors), shared.T).T
        covariance = self.covariance - gain @ shared.T
        return Estimate(self.mean + gain @ (mean - self.mean[rows]), (covariance + covariance.T) / 2, basis)

    def subset(self, models: Sequence[int] | NDArray[np.intp]) -> Estimate:
        """The estimate of the given models, in the given order."""
        rows = np.asarray(models, np.intp)
        return Estimate(self.mean[rows], self.covariance[np.ix_(rows, rows)], self.basis)

    def at_most_first(self) -> Estimate:
        """The estimate with no mean above that of the first model, for models in another order than their means."""
        return Estimate(np.minimum(self.mean, self.mean[0]), self.covariance, self.basis)
