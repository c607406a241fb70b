"""The recommendation: the best model, the cheapest one that is as good, and whether the choice matters."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.models.known import family_of
from mll_hf.selection.candidates import Figures
from mll_hf.selection.probabilities import DIGITS, logit, sigmoid
from mll_hf.utils.text import abridged, gigaflops, parameter_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.labels.label import Cost
    from mll_hf.selection.candidates import SelectedModel
    from mll_hf.selection.estimate import Estimate, Floats

LAPTOP_MEMORY = 8 * 10**9
MEMORY_SHARE = 0.5  # of the memory, for weights
BYTES_PER_PARAMETER = 4
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_LOW_ACCURACY, _USUAL_ACCURACY = 0.5, 0.8
MARGIN = 0.01  # a model is as good as the best if its estimated accuracy is at most this much lower


@dataclass(frozen=True, slots=True)
class Answer:
    """The recommendation of a selection, as positions of its models.

    The intervals are nearly the same for all models, since most of the uncertainty is about the task. So models are
    compared by their estimates, not by whether their intervals overlap.
    """

    best: int
    cheapest: int  # the cheapest model that is as good; may be the best model itself
    n_close: int  # number of models that are as good as the best one, including itself
    n_families: int  # number of families that they are of
    lines: tuple[str, ...]


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


def fit_in_memory(models: Sequence[SelectedModel]) -> list[int]:
    """Positions of the models whose weights take at most half of the memory; of all if there is none."""
    most = most_parameters()
    return [m for m, model in enumerate(models) if model.cost.parameters <= most] or list(range(len(models)))


def best_value(models: Sequence[SelectedModel], estimate: Estimate) -> int:
    """The cheapest of M models within a point of the best one, of those that figures compare and that fit in memory.

    If none fits, of all that are compared.
    """
    known = [m for m, model in enumerate(models) if model.figures is not Figures.NONE] or list(range(len(models)))
    fitting = sorted({*known}.intersection(fit_in_memory(models))) or known
    losses = _losses(estimate.subset(fitting))
    return _cheapest([m for m, loss in zip(fitting, losses.tolist(), strict=True) if loss <= MARGIN], models)


def _losses(estimate: Estimate) -> Floats:
    """[M] by how much each model's accuracy is below the best; if that is not known or low, as if it were a usual one.

    Near 0 all models would seem equally good, and near 1 if it is not known.
    """
    best = int(estimate.mean.argmax())
    if estimate.known[best] and estimate.accuracy[best] >= _LOW_ACCURACY:
        return np.round(estimate.accuracy[best] - estimate.accuracy, DIGITS)
    usual = float(logit(np.array(_USUAL_ACCURACY), 0))
    return np.round(_USUAL_ACCURACY - sigmoid(usual + estimate.mean - estimate.mean[best]), DIGITS)


def _cheapest(candidates: Sequence[int], models: Sequence[SelectedModel]) -> int:
    costs = [model.cost for model in models]
    return min(candidates, key=lambda m: (costs[m].gflops or np.inf, costs[m].parameters or np.inf, m))


def answer_to(
    models: Sequence[SelectedModel],
    estimate: Estimate,
    chosen: Sequence[int],
    unmeasured: Sequence[str] = (),
    by_images: Floats | None = None,
) -> Answer:
    """The recommendation for M models with this estimate, the best one first, of which some are chosen.

    ``unmeasured`` is what models are made for that the classes need, where figures compare none of them.

    After a trial, ``by_images`` [M] is the agreement of the models, or with examples their accuracy. A model is then as
    good only if it is so by both: the estimate of the names does not know which models fail on the images.
    """
    losses, compared = _losses(estimate), [model.figures is not Figures.NONE for model in models]
    if by_images is not None:
        losses, compared = np.maximum(losses, np.round(by_images[0] - by_images, DIGITS)), [True] * len(models)
    close = [m for m in range(len(models)) if m == 0 or (losses[m] <= MARGIN and compared[m])]
    cheapest = chosen[0] or _cheapest(close, models)
    n_families = len({family_of(models[m].ref.repo_id) for m in close})
    third = _whether_it_matters(len(close), n_families, len(models), bool(estimate.known[chosen[0]]))
    if len(models) == 1 and by_images is not None:
        third = "No other model was tried, so another may be better."
    if unmeasured and by_images is None:
        third = f"Models made for {abridged(unmeasured, 3)} were not compared: the choice may matter much."
    lines = (_use(models, estimate, chosen), _others(models, estimate, chosen[0], cheapest, len(close)), third)
    return Answer(0, cheapest, len(close), n_families, tuple(filter(None, lines)))


def _use(models: Sequence[SelectedModel], estimate: Estimate, chosen: Sequence[int]) -> str:
    lead, accuracy = chosen[0], "accuracy not known; 25 examples with their class would tell."
    if estimate.known[lead]:
        low, high = (100 * ends[lead] for ends in estimate.interval)
        number = f"{100 * estimate.accuracy[lead]:.0f} %"
        accuracy = f"estimated accuracy {number} (90 % interval: {low:.0f} to {high:.0f} %)."
    if len(chosen) == 1:
        return f"Use {_name(models[lead])}: {accuracy}"
    of_all = f"The first alone: {accuracy[:-1]}; that of all together is not estimated."
    whose = of_all if estimate.known[lead] else accuracy.capitalize()
    return f"Use together: {abridged([_name(models[m]) for m in chosen], 3)}. {whose}"


def _others(models: Sequence[SelectedModel], estimate: Estimate, lead: int, cheapest: int, n_close: int) -> str:
    """The best model at any cost, if another one leads, or else the cheapest one that is as good."""
    best, known, lost = models[0].cost, estimate.known, 100 * (estimate.accuracy[0] - estimate.accuracy)
    if lead:
        text, less = f"{_name(models[0])}, {gigaflops(best.gflops)} GFLOPs per image", models[lead].cost.gflops
        if less and best.gflops > less:
            text += f", {best.gflops / less:,.1f} times as many"
        return f"Best at any cost: {text}" + (f"; {lost[lead]:.1f} points higher." if known[0] and known[lead] else ".")
    if cheapest == 0:  # if no other is as good, the next line says so
        return "" if n_close == 1 else "The others that are as good cost more."
    text = f"As good and cheaper: {_name(models[cheapest])}, {_saving(best, models[cheapest].cost)}"
    return text + (f", {max(lost[cheapest], 0):.1f} points lower." if known[0] and known[cheapest] else ".")


def _name(model: SelectedModel) -> str:
    return f"{model.name} ({parameter_count(model.cost.parameters)} parameters)"


def _saving(best: Cost, cheaper: Cost) -> str:
    saving = best.gflops / cheaper.gflops if min(best.gflops, cheaper.gflops) > 0 else 1.0
    digits = ",.0f" if saving >= 10 else ".2g" if saving >= 1.05 else ".2f"
    return f"{saving:{digits}} times less compute" if saving > 1 else "fewer parameters"


def _whether_it_matters(n_close: int, n_families: int, n_models: int, known: bool) -> str:
    if n_models == 1:
        return "It is the only model: there is no choice to make."
    close = f"no other of the {n_models} models is" if n_close == 1 else f"{n_close} of {n_models} models are"
    if not known:
        return f"As far as is known, {close} within 1 point."
    if n_close == 1:
        return f"The choice matters: {close} within 1 point."
    if n_families == 1:
        return f"{close} within 1 point, all of one family."
    return f"{close} within 1 point, of {n_families} families: the choice among them hardly matters."
