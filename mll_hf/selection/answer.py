"""The recommendation: the best model, the cheapest one that is as good, and whether the choice matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.probabilities import DIGITS
from mll_hf.utils.text import abridged, parameter_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.labels.label import Cost
    from mll_hf.selection.estimate import Estimate, Floats

MARGIN = 0.01  # a model is as good as the best if its estimated accuracy is at most this much lower


@dataclass(frozen=True, slots=True)
class Answer:
    """The recommendation of a selection, as positions of its models.

    The intervals are nearly the same for all models, since most of the uncertainty is about the task. So models are
    compared by their estimates, not by whether their intervals overlap.

    Attributes:
        best: The best model.
        cheapest: The cheapest model that is as good; may be the best model itself.
        n_close: Number of models that are as good as the best one, including itself.
    """

    best: int
    cheapest: int
    n_close: int


def answer_to(estimate: Estimate, costs: Sequence[Cost], by_images: Floats | None = None) -> Answer:
    """The recommendation for M models with this estimate and these costs, the best model first.

    After a trial, ``by_images`` [M] is the agreement of the models, or with examples their accuracy. A model is then as
    good only if it is so by both: the estimate of the names does not know which models fail on the images.
    """
    losses = np.round(estimate.accuracy[0] - estimate.accuracy, DIGITS)
    if by_images is not None:
        losses = np.maximum(losses, np.round(by_images[0] - by_images, DIGITS))
    close = [m for m in range(len(costs)) if m == 0 or losses[m] <= MARGIN]
    cheapest = min(close, key=lambda m: (costs[m].gflops or np.inf, costs[m].parameters or np.inf, m))
    return Answer(0, cheapest, len(close))


def answer_lines(
    answer: Answer, names: Sequence[str], costs: Sequence[Cost], estimate: Estimate, n_chosen: int
) -> tuple[str, str, str]:
    """The recommendation as three lines, from names and costs of M models; the first ``n_chosen`` are chosen."""
    names = [f"{name} ({parameter_count(cost.parameters)} parameters)" for name, cost in zip(names, costs, strict=True)]
    best, cheapest, known = answer.best, answer.cheapest, bool(estimate.known[answer.best])
    accuracy = "accuracy not known; a few examples with their class would tell."
    if known:
        low, high = (100 * ends[best] for ends in estimate.interval)
        number = f"{100 * estimate.accuracy[best]:.0f} %"
        accuracy = f"estimated accuracy {number} (90 % interval: {low:.0f} to {high:.0f} %)."
    first = f"Use {names[best]}: {accuracy}"
    if n_chosen > 1:
        first = f"Use together: {abridged(names[:n_chosen], 3)}. {names[best]} alone: {accuracy}"
    if cheapest == best:
        second = "No cheaper model is within 1 point of it."
    else:
        second = f"As good and cheaper: {names[cheapest]}, {_saving(costs[best], costs[cheapest])}"
        if known and estimate.known[cheapest]:
            loss = max(100 * float(estimate.accuracy[best] - estimate.accuracy[cheapest]), 0)
            second += f", {loss:.1f} points lower"
        second += "."
    return first, second, _whether_it_matters(answer.n_close, len(names), known)


def _saving(best: Cost, cheaper: Cost) -> str:
    saving = best.gflops / cheaper.gflops if min(best.gflops, cheaper.gflops) > 0 else 1.0
    digits = ",.0f" if saving >= 10 else ".2g" if saving >= 1.05 else ".2f"
    return f"{saving:{digits}} times less compute" if saving > 1 else "fewer parameters"


def _whether_it_matters(n_close: int, n_models: int, known: bool) -> str:
    if n_models == 1:
        return "It is the only model: there is no choice to make."
    if not known:
        others = f"no other of the {n_models} models is" if n_close == 1 else f"{n_close} of {n_models} models are"
        return f"As far as is known, {others} within 1 point."
    if n_close == 1:
        return f"The choice matters: no other of the {n_models} models is within 1 point."
    return f"{n_close} of {n_models} models are within 1 point: the choice among them hardly matters."
