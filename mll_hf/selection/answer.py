"""The recommendation: the best model, the cheapest one that is as good, and whether the choice matters."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.probabilities import DIGITS, logit, sigmoid
from mll_hf.utils.text import abridged, gigaflops, parameter_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.labels.label import Cost
    from mll_hf.selection.estimate import Estimate, Floats

LAPTOP_MEMORY = 8 * 10**9
MEMORY_SHARE = 0.5  # of the memory, for weights
BYTES_PER_PARAMETER = 4
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_USUAL_ACCURACY = 0.8
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
        n_families: Number of families that they are of.
    """

    best: int
    cheapest: int
    n_close: int
    n_families: int


def machine_memory() -> int:
    """Main memory that this process may use, in bytes; that of a laptop if it is unknown."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = LAPTOP_MEMORY
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        memory = min(memory, int(CONTAINER_LIMIT.read_text()))
    return memory


def most_parameters() -> float:
    """Parameters of models whose weights take half of the memory."""
    return MEMORY_SHARE * machine_memory() / BYTES_PER_PARAMETER


def best_value(estimate: Estimate, costs: Sequence[Cost], compared: Sequence[bool]) -> int:
    """The cheapest of M models within a point of the best one, of those that are compared and fit in half the memory.

    If none fits, of all that are compared.
    """
    known = [m for m, is_compared in enumerate(compared) if is_compared] or list(range(len(costs)))
    most = most_parameters()
    fitting = [m for m in known if costs[m].parameters <= most] or known
    losses = _losses(estimate.subset(fitting))
    return _cheapest([m for m, loss in zip(fitting, losses.tolist(), strict=True) if loss <= MARGIN], costs)


def _losses(estimate: Estimate) -> Floats:
    """[M] by how much each model's accuracy is below the best; if that is not known, as if it were a usual one.

    Near 0 and 1 all models would seem equally good.
    """
    best = int(estimate.mean.argmax())
    if estimate.known[best]:
        return np.round(estimate.accuracy[best] - estimate.accuracy, DIGITS)
    usual = float(logit(np.array(_USUAL_ACCURACY), 0))
    return np.round(_USUAL_ACCURACY - sigmoid(usual + estimate.mean - estimate.mean[best]), DIGITS)


def _cheapest(models: Sequence[int], costs: Sequence[Cost]) -> int:
    return min(models, key=lambda m: (costs[m].gflops or np.inf, costs[m].parameters or np.inf, m))


def answer_to(
    estimate: Estimate,
    costs: Sequence[Cost],
    by_images: Floats | None = None,
    compared: Sequence[bool] = (),
    families: Sequence[str] = (),
) -> Answer:
    """The recommendation for M models with this estimate and these costs, the best model first.

    ``compared`` says which models anything is known about (default: all), ``families`` what each was trained on.

    After a trial, ``by_images`` [M] is the agreement of the models, or with examples their accuracy. A model is then as
    good only if it is so by both: the estimate of the names does not know which models fail on the images.
    """
    losses = _losses(estimate)
    if by_images is not None:
        losses = np.maximum(losses, np.round(by_images[0] - by_images, DIGITS))
    close = [m for m in range(len(costs)) if m == 0 or (losses[m] <= MARGIN and (not compared or compared[m]))]
    return Answer(0, _cheapest(close, costs), len(close), len({families[m] if families else m for m in close}))


def answer_lines(
    answer: Answer,
    names: Sequence[str],
    costs: Sequence[Cost],
    estimate: Estimate,
    chosen: Sequence[int],
    unmeasured: Sequence[str] = (),
) -> tuple[str, str, str]:
    """The recommendation as three lines, from names and costs of M models, and the positions of the chosen ones.

    ``unmeasured`` is what models are made for that the classes need, where none of them was compared.
    """
    names = [f"{name} ({parameter_count(cost.parameters)} parameters)" for name, cost in zip(names, costs, strict=True)]
    best, cheapest, lead = answer.best, answer.cheapest, chosen[0]
    known = bool(estimate.known[lead])
    accuracy = "accuracy not known; a few examples with their class would tell."
    if known:
        low, high = (100 * ends[lead] for ends in estimate.interval)
        number = f"{100 * estimate.accuracy[lead]:.0f} %"
        accuracy = f"estimated accuracy {number} (90 % interval: {low:.0f} to {high:.0f} %)."
    first = f"Use {names[lead]}: {accuracy}"
    if len(chosen) > 1:
        whose = f"The first alone: {accuracy[:-1]}; that of all together is not estimated."
        first = f"Use together: {abridged([names[m] for m in chosen], 3)}. {whose if known else accuracy.capitalize()}"
    if lead != best:
        second = f"Best at any cost: {names[best]}, {gigaflops(costs[best].gflops)} GFLOPs per image"
        if costs[lead].gflops and costs[best].gflops > costs[lead].gflops:
            second += f", {costs[best].gflops / costs[lead].gflops:,.1f} times as many"
        if known and estimate.known[best]:
            second += f"; {100 * float(estimate.accuracy[best] - estimate.accuracy[lead]):.1f} points higher"
        second += "."
    elif cheapest == best:
        is_lonely = answer.n_close == 1
        second = "No cheaper model is within 1 point of it." if is_lonely else "The others that are as good cost more."
    else:
        second = f"As good and cheaper: {names[cheapest]}, {_saving(costs[best], costs[cheapest])}"
        if known and estimate.known[cheapest]:
            loss = max(100 * float(estimate.accuracy[best] - estimate.accuracy[cheapest]), 0)
            second += f", {loss:.1f} points lower"
        second += "."
    if unmeasured:
        third = f"Models made for {abridged(unmeasured, 3)} were not compared: the choice may matter much."
    else:
        third = _whether_it_matters(answer, len(names), known)
    return first, second, third


def _saving(best: Cost, cheaper: Cost) -> str:
    saving = best.gflops / cheaper.gflops if min(best.gflops, cheaper.gflops) > 0 else 1.0
    digits = ",.0f" if saving >= 10 else ".2g" if saving >= 1.05 else ".2f"
    return f"{saving:{digits}} times less compute" if saving > 1 else "fewer parameters"


def _whether_it_matters(answer: Answer, n_models: int, known: bool) -> str:
    if n_models == 1:
        return "It is the only model: there is no choice to make."
    is_lonely = answer.n_close == 1
    close = f"no other of the {n_models} models is" if is_lonely else f"{answer.n_close} of {n_models} models are"
    if not known:
        return f"As far as is known, {close} within 1 point."
    if is_lonely:
        return f"The choice matters: {close} within 1 point."
    if answer.n_families == 1:
        return f"{close} within 1 point, all of one family."
    return f"{close} within 1 point, of {answer.n_families} families: the choice among them hardly matters."
