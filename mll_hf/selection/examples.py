"""Learn from examples: a few images of a task with their ground truth. Pure NumPy.

Correct predictions are counted smoothly: a prediction with a small margin counts as partly correct. This has less
variance than a plain count. The count is then extrapolated to all images, using the model's confidence on images
without ground truth: a shift of the log odds of its predictions is fitted so that their sum over the examples equals
the count, and the mean over all images with this shift is the estimated accuracy. It has less variance than the
accuracy on the examples, which may be easy or hard by chance (a logistic generalized regression estimator: Lehtonen and
Veijanen, Survey Methodology 24, 1998).

With n examples and r correct predictions, the likelihood of an accuracy a is ``a^r (1 - a)^(n - r)``, binomial with
fractional counts (Papke and Wooldridge, J. Applied Econometrics 11, 1996). The posterior is approximated by a Gaussian
at its mode, found by iteratively reweighted least squares (Rasmussen and Williams, 2006, section 3.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.estimate import Basis, Estimate
from mll_hf.selection.probabilities import logit, sigmoid, softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.selection.estimate import Floats
    from mll_hf.selection.unlabeled import Calibration

_MIN_CONFIDENCE = 0.02  # confidences are clipped to this distance from 0 and 1 before taking logits
_MARGIN = 1 / 3  # a prediction with this margin, in calibrated logits, counts as sigmoid(1) correct
_MAX_MARGIN = 100.0  # in margins; larger ones are clipped, so that exp does not overflow
_MAX_SHIFT = 10.0  # of the log odds; unbounded if all predictions are correct, or none
_MAX_STEPS = 100
_MAX_STEP = 1.0  # in logits
_CONVERGED = 1e-9


def count_right(logits: NDArray[np.floating], classes: NDArray[np.integer], calibration: Calibration) -> Floats:
    """[M] correct predictions on N examples, counted smoothly and extrapolated to all images; 0 to N.

    Args:
        logits: [M, N + U, C] on N examples, followed by U more images of the task; finite.
        classes: [N] positions of the true classes.
        calibration: Calibration of the M models, from these or other images of the task.
    """
    scaled = calibration.applied(logits)
    odds, n = logit(softmax(scaled).max(axis=2), _MIN_CONFIDENCE), len(classes)
    right = _right(scaled[:, :n], classes).sum(axis=1)
    shift = np.zeros(len(odds))
    for _ in range(_MAX_STEPS):
        expected = sigmoid(odds[:, :n] + shift[:, None])
        step = (right - expected.sum(axis=1)) / (expected * (1 - expected)).sum(axis=1)
        previous = shift
        shift = np.clip(shift + np.clip(step, -_MAX_STEP, _MAX_STEP), -_MAX_SHIFT, _MAX_SHIFT)
        if np.abs(shift - previous).max() < _CONVERGED:
            break
    return n * sigmoid(odds + shift[:, None]).mean(axis=1)


def _right(scaled: Floats, classes: NDArray[np.integer]) -> Floats:
    """[M, N] smooth correctness of predictions, 0 to 1 by their margin, from calibrated logits [M, N, C]."""
    images = np.arange(len(classes))
    true = scaled[:, images, classes]
    others = scaled.copy()
    others[:, images, classes] = -np.inf
    return sigmoid(np.clip((true - others.max(axis=2)) / _MARGIN, -_MAX_MARGIN, _MAX_MARGIN))


def update_with_examples(estimate: Estimate, models: Sequence[int], right: Floats, n: int) -> Estimate:
    """The estimate after N examples, of which the models at these positions predicted ``right`` [T] correctly."""
    rows = list(models)
    logits = estimate.mean[rows]
    for _ in range(_MAX_STEPS):
        accuracy = sigmoid(logits)
        information = n * accuracy * (1 - accuracy)
        response = logits + (right - n * accuracy) / information
        posterior = estimate.update(rows, response, 1 / np.sqrt(information), Basis.EXAMPLES)
        step = np.clip(posterior.mean[rows] - logits, -_MAX_STEP, _MAX_STEP)
        logits = logits + step
        if np.abs(step).max() < _CONVERGED:
            break
    return posterior
