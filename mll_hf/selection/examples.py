"""Evidence of examples: a few images of a task with their class. Pure NumPy.

Right answers are counted smoothly: an answer that wins or loses by a small margin counts as partly right. That varies
less between samples than whole counts do. Then the count is carried over to all images: a model is right more often
where it is sure, and how sure it is of images without a class is known. One shift of the log odds of its answers makes
them come to the count on the examples; their mean over all images, with this shift, is the share of right answers. It
varies less than the share among the examples, which may be easy or hard by chance (a logistic generalized regression
estimator: Lehtonen and Veijanen, Survey Methodology 24, 1998).

With n examples and r right answers, the likelihood of an accuracy a is ``a^r (1 - a)^(n - r)``, binomial with
fractional counts (Papke and Wooldridge, J. Applied Econometrics 11, 1996). It multiplies what is believed before; the
product is approximated by a Gaussian at its mode, which iteratively reweighted least squares finds (Rasmussen and
Williams, 2006, section 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.accuracy import logit, sigmoid
from mll_hf.selection.beliefs import observe
from mll_hf.selection.probabilities import softmax
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.selection.beliefs import Beliefs, Floats
    from mll_hf.selection.evidence import Calibration

_MARGIN = 1 / 3  # a win by this much, in calibrated logits, counts as right by sigmoid(1)
_FAR = 100.0  # beyond it an answer is simply right or wrong, and exp could overflow
_MOST_SHIFT = 10.0  # of the log odds: where all answers are right, or none is, no shift would be enough
_MOST_STEPS = 100
_LONGEST_STEP = 1.0  # in logits
_CONVERGED = 1e-9


@dataclass(frozen=True, eq=False)
class ExampleEvidence(ArrayFields):
    """Evidence of N examples about M models."""

    n_examples: int
    right: Floats  # [M] how many of N answers are right, counted smoothly and carried over to all images; 0 to N


def gather_examples(
    logits: NDArray[np.floating], classes: NDArray[np.integer], calibration: Calibration
) -> ExampleEvidence:
    """Count the right answers of M models.

    Args:
        logits: [M, N + U, C] of N examples, then U more images of the task; finite.
        classes: [N] positions of the true classes.
        calibration: Of the M models, from these images or others of the task.
    """
    scaled = calibration.applied(logits)
    odds, n = logit(softmax(scaled).max(axis=2)), len(classes)
    right = _right(scaled[:, :n], classes).sum(axis=1)
    shift = np.zeros(len(odds))
    for _ in range(_MOST_STEPS):
        expected = sigmoid(odds[:, :n] + shift[:, None])
        step = (right - expected.sum(axis=1)) / (expected * (1 - expected)).sum(axis=1)
        before = shift
        shift = np.clip(shift + np.clip(step, -_LONGEST_STEP, _LONGEST_STEP), -_MOST_SHIFT, _MOST_SHIFT)
        if np.abs(shift - before).max() < _CONVERGED:
            break
    return ExampleEvidence(n, n * sigmoid(odds + shift[:, None]).mean(axis=1))


def _right(scaled: Floats, classes: NDArray[np.integer]) -> Floats:
    """[M, N] how far the answers of M models, calibrated logits [M, N, C], are right: 0 to 1 by their margin."""
    images = np.arange(len(classes))
    true = scaled[:, images, classes]
    others = scaled.copy()
    others[:, images, classes] = -np.inf
    return sigmoid(np.clip((true - others.max(axis=2)) / _MARGIN, -_FAR, _FAR))


def learn_from_examples(beliefs: Beliefs, models: Sequence[int], evidence: ExampleEvidence) -> Beliefs:
    """Beliefs after examples were seen; the evidence is about the models at these positions, in their order."""
    at, n = list(models), evidence.n_examples
    logits = beliefs.mean[at]
    for _ in range(_MOST_STEPS):
        accuracy = sigmoid(logits)
        information = n * accuracy * (1 - accuracy)
        response = logits + (evidence.right - n * accuracy) / information
        after = observe(beliefs, at, response, 1 / np.sqrt(information))
        step = np.clip(after.mean[at] - logits, -_LONGEST_STEP, _LONGEST_STEP)
        logits = logits + step
        if np.abs(step).max() < _CONVERGED:
            break
    return after
