"""The recommendation: the best model, the cheapest one that is as good, and whether the choice matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.base import DIGITS, MARGIN
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.labels.label import Cost
    from mll_hf.selection.accuracy import AccuracyEstimate


@dataclass(frozen=True, slots=True)
class Answer:
    """The recommendation of a selection. Models are given by their positions in the selection.

    The intervals are nearly the same for all models, since most of the uncertainty is about the task. So models are
    compared by their estimates, not by whether their intervals overlap.

    Attributes:
        best: The best model.
        accuracy: Its estimated accuracy; None if not known.
        low: Lower end of its 90 % interval.
        high: Upper end.
        cheapest: The cheapest model that is as good; may be the best model itself.
        loss: Its difference in estimated accuracy to the best model, at most ``MARGIN``.
        saving: GFLOPs of the best model divided by its own; 1 if unknown.
        n_close: Number of models that are as good as the best one, including itself.
        n_models: Number of models that were compared.
        tried: Whether they were tried on images.
    """

    best: int
    accuracy: float | None
    low: float
    high: float
    cheapest: int
    loss: float
    saving: float
    n_close: int
    n_models: int
    tried: bool

    @property
    def accuracy_text(self) -> str:
        """The estimated accuracy of the best model, or that it is not known, with its interval."""
        interval = f"90 % interval: {100 * self.low:.0f} to {100 * self.high:.0f} %"
        if self.accuracy is None:
            evidence = "a few examples with their class"
            evidence = evidence if self.tried else f"unlabeled images or {evidence}"
            return f"accuracy not known ({interval}); {evidence} would tell."
        return f"estimated accuracy {100 * self.accuracy:.0f} % ({interval})."

    def lines(self, names: Sequence[str], n_chosen: int = 1) -> tuple[str, str, str]:
        """The recommendation as three lines, given the names of all models; the first ``n_chosen`` are chosen."""
        first = f"Use {names[self.best]}: {self.accuracy_text}"
        if n_chosen > 1:
            first = f"Use together: {abridged(names[:n_chosen], 3)}. {names[self.best]} alone: {self.accuracy_text}"
        if self.cheapest == self.best:
            second = "No cheaper model is within 1 point of it."
        else:
            digits = ",.0f" if self.saving >= 10 else ".2g" if self.saving >= 1.05 else ".2f"
            cost = f"{self.saving:{digits}} times less compute" if self.saving > 1 else "fewer parameters"
            second = f"As good and cheaper: {names[self.cheapest]}, {cost}, {100 * self.loss:.1f} points lower."
        if self.n_models == 1:
            third = "It is the only model: there is no choice to make."
        elif self.accuracy is None:
            others = f"no other of the {self.n_models}" if self.n_close == 1 else f"{self.n_close} of {self.n_models}"
            third = f"As far as is known, {others} models {'is' if self.n_close == 1 else 'are'} within 1 point."
        elif self.n_close == 1:
            third = f"The choice matters: no other of the {self.n_models} models is within 1 point."
        else:
            third = (
                f"{self.n_close} of {self.n_models} models are within 1 point: the choice among them hardly matters."
            )
        return first, second, third


def accuracy_text(estimates: AccuracyEstimate, m: int) -> str:
    """The estimate of model ``m``, or "not known", with its interval."""
    number = f"{100 * estimates.accuracy[m]:.0f} %" if estimates.known[m] else "not known"
    return f"{number} ({100 * estimates.low[m]:.0f} to {100 * estimates.high[m]:.0f} %)"


def answer_to(estimates: AccuracyEstimate, costs: Sequence[Cost], tried: bool) -> Answer:
    """The recommendation for M models with these estimates and costs, the best model first."""
    losses = np.round(estimates.accuracy[0] - estimates.accuracy, DIGITS)
    close = [m for m in range(len(costs)) if m == 0 or losses[m] <= MARGIN]
    cheapest = min(close, key=lambda m: (costs[m].gflops or np.inf, costs[m].parameters or np.inf, m))
    gflops = costs[0].gflops, costs[cheapest].gflops
    return Answer(
        best=0,
        accuracy=float(estimates.accuracy[0]) if estimates.known[0] else None,
        low=float(estimates.low[0]),
        high=float(estimates.high[0]),
        cheapest=cheapest,
        loss=max(float(losses[cheapest]), 0.0),
        saving=gflops[0] / gflops[1] if min(gflops) > 0 else 1.0,
        n_close=len(close),
        n_models=len(costs),
        tried=tried,
    )
