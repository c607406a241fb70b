"""A cheap model in front of the chosen ones: they answer only images of which it is unsure.

On unlabeled images nobody knows which answers are right, but how often the answer would be another one: this is what
the threshold is learned from, as the confidence at and above which the cheap model may answer alone. The share of later
images that get another answer is then expected to be at most what was allowed (conformal risk control: Angelopoulos et
al., ICLR 2024, arXiv 2208.02814), but for the choice of the cheap model by the same images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.base import DIGITS
from mll_hf.selection.probabilities import softmax
from mll_hf.selection.result import Cascade

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.ensemble.rules import Floats
    from mll_hf.selection import Selection
    from mll_hf.selection.beliefs import Beliefs

_LEAST_SAVED = 0.1  # of the GFLOPs of the chosen models; less is not worth another model in memory
_CHEAP = 0.5  # GFLOPs of a model that is tried as the first one, at most, in those of the best tried one


def learn_cascade(
    selection: Selection, logits: Floats, together: NDArray[np.intp], most_changed: float
) -> Cascade | None:
    """The cascade with the fewest GFLOPs per image, of those that change no more than a share of the answers.

    Args:
        selection: Made with evidence of N images.
        logits: [M, N, C] of its models on these images, in its order.
        together: [N] answers of the chosen models together.
        most_changed: Share of later images that may be expected to get another answer than this; less than 1 / (N + 1)
            cannot be shown.

    Returns:
        The cascade; None if none saves a tenth of the GFLOPs.
    """
    found: Cascade | None = None
    n_images, least = len(together), (1 - _LEAST_SAVED) * selection.cost.gflops
    for m in range(len(selection.models)):
        if selection.union == (m,) or selection.models[m].cost.gflops == 0:  # 0 for a cost that is not known
            continue
        probabilities = answers_of_first(selection, m, logits[m])
        sure = confidence(probabilities)
        thresholds = np.unique(sure)
        alone = sure >= thresholds[:, None]
        changed = ((alone & (probabilities.argmax(axis=1) != together)).sum(axis=1) + 1) / (n_images + 1)
        if changed[-1] > most_changed:
            continue
        at = int((changed <= most_changed).argmax())
        cascade = Cascade(m, float(thresholds[at]), float(1 - alone[at].mean()), float(changed[at]))
        gflops = round(selection.gflops_with(cascade), DIGITS)
        if gflops < least:
            found, least = cascade, gflops
    return found


def answers_of_first(selection: Selection, m: int, logits: Floats) -> NDArray[np.float64]:
    """[N, C] calibrated probabilities of one model of a selection with evidence, from its logits [N, C]."""
    if selection.evidence is None:
        raise ValueError("without images there is no cascade")
    calibration = selection.evidence.calibration.take(np.array([m]))
    return softmax(calibration.applied(logits[None])[0])


def confidence(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] highest probability of each image."""
    return np.round(probabilities.max(axis=1), DIGITS)


def cheap_to_try(
    beliefs: Beliefs, gflops: NDArray[np.float64], tried: Sequence[int], affordable: NDArray[np.bool_]
) -> int | None:
    """The model that a trial tries for the cascade alone: the most promising one of at most half the cost of the best.

    The beliefs are about M models, after what the tried ones have shown; those that may be fetched are affordable.

    Returns:
        Its position; None if one that is as cheap was tried, or there is none.
    """
    best = max(tried, key=lambda m: beliefs.mean[m])
    cheap = (gflops > 0) & (gflops <= _CHEAP * gflops[best])
    if cheap[list(tried)].any() or not (cheap & affordable).any():
        return None
    return int(np.where(cheap & affordable, np.round(beliefs.mean, DIGITS), -np.inf).argmax())
