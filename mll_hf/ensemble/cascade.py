"""A cascade: a cheap model runs first, and the chosen models run only on images for which it is unsure.

Without ground truth, the error of the cheap model is unknown, but not how often its prediction differs from that of the
chosen models. The confidence threshold is chosen to bound the expected share of later images with a different
prediction (conformal risk control: Angelopoulos et al., ICLR 2024, arXiv 2208.02814). The bound does not account for
choosing the cheap model on the same images.
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

_MIN_SAVED = 0.1  # share of the GFLOPs; smaller savings are not worth another model in memory
_CHEAP = 0.5  # maximum GFLOPs of the first model, relative to the best model


def learn_cascade(selection: Selection, logits: Floats, pooled: NDArray[np.intp], max_changed: float) -> Cascade | None:
    """The cascade with the fewest GFLOPs per image that changes at most a given share of the predictions.

    Args:
        selection: A selection with evidence from N images.
        logits: [M, N, C] logits of its models on these images, in its order.
        pooled: [N] predictions of the chosen models.
        max_changed: Maximum expected share of later images with a different prediction; below 1 / (N + 1) there is no
            cascade.

    Returns:
        The cascade; None if none saves 10 % of the GFLOPs.
    """
    found: Cascade | None = None
    n_images, lowest = len(pooled), (1 - _MIN_SAVED) * selection.cost.gflops
    for m in range(len(selection.models)):
        if selection.union == (m,) or selection.models[m].cost.gflops == 0:  # 0 if unknown
            continue
        probabilities = first_model_probabilities(selection, m, logits[m])
        confidences = confidence(probabilities)
        thresholds = np.unique(confidences)
        is_sure = confidences >= thresholds[:, None]
        changed = ((is_sure & (probabilities.argmax(axis=1) != pooled)).sum(axis=1) + 1) / (n_images + 1)
        if changed[-1] > max_changed:
            continue
        row = int((changed <= max_changed).argmax())
        cascade = Cascade(m, float(thresholds[row]), float(1 - is_sure[row].mean()), float(changed[row]))
        gflops = round(selection.gflops_with(cascade), DIGITS)
        if gflops < lowest:
            found, lowest = cascade, gflops
    return found


def first_model_probabilities(selection: Selection, m: int, logits: Floats) -> NDArray[np.float64]:
    """[N, C] calibrated probabilities of model ``m`` of a selection with evidence, from its logits [N, C]."""
    if selection.evidence is None:
        raise ValueError("a cascade needs evidence from images")
    calibration = selection.evidence.calibration.subset(np.array([m]))
    return softmax(calibration.applied(logits[None])[0])


def confidence(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] highest class probabilities, rounded."""
    return np.round(probabilities.max(axis=1), DIGITS)


def cheap_candidate(
    beliefs: Beliefs, gflops: NDArray[np.float64], tried: Sequence[int], affordable: NDArray[np.bool_]
) -> int | None:
    """Position of the best model with at most half the cost of the best one tried, to try it for the cascade.

    The beliefs are about M models after the trial; ``affordable`` [M] are those that fit in the rest of the budget.

    Returns:
        The position; None if such a cheap model was already tried, or there is none.
    """
    best = max(tried, key=lambda m: beliefs.mean[m])
    cheap = (gflops > 0) & (gflops <= _CHEAP * gflops[best])
    if cheap[list(tried)].any() or not (cheap & affordable).any():
        return None
    return int(np.where(cheap & affordable, np.round(beliefs.mean, DIGITS), -np.inf).argmax())
