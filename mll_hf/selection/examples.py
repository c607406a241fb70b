"""Evidence of examples: a few images of a task with their class. Pure NumPy.

Right answers are counted smoothly: an answer that wins or loses by a small margin counts as partly right. That varies
less between samples than whole counts do. With n examples, of which a model has r right, the likelihood of its accuracy
a is ``a^r (1 - a)^(n - r)``, binomial with fractional counts (Papke and Wooldridge, J. Applied Econometrics 11, 1996).
It multiplies what is believed before; the product is approximated by a Gaussian at its mode, which iteratively
reweighted least squares finds (Rasmussen and Williams, 2006, section 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.accuracy import sigmoid
from mll_hf.selection.beliefs import observe
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.selection.beliefs import Beliefs, Floats
    from mll_hf.selection.evidence import Calibration

_MARGIN = 1 / 3  # a win by this much, in calibrated logits, counts as right by sigmoid(1)
_FAR = 100.0  # beyond it an answer is simply right or wrong, and exp could overflow
_MOST_STEPS = 100
_LONGEST_STEP = 1.0  # in logits
_CONVERGED = 1e-9


@dataclass(frozen=True, eq=False)
class ExampleEvidence(ArrayFields):
    """Evidence of N examples about M models.

    Attributes:
        n_examples: N.
        right: [M] how many of the answers are right, counted smoothly; between 0 and N.
    """

    n_examples: int
    right: Floats


def gather_examples(
    logits: NDArray[np.floating], classes: NDArray[np.integer], calibration: Calibration
) -> ExampleEvidence:
    """Count the right answers of M models.

    Args:
        logits: [M, N, C], finite.
        classes: [N] positions of the true classes.
        calibration: Of the M models, from these images or others of the task.
    """
    scaled = logits / calibration.temperatures[:, None, None] + calibration.offsets[:, None, :]
    images = np.arange(len(classes))
    true = scaled[:, images, classes]
    scaled[:, images, classes] = -np.inf
    margins = true - scaled.max(axis=2)
    return ExampleEvidence(len(classes), sigmoid(np.clip(margins / _MARGIN, -_FAR, _FAR)).sum(axis=1))


def learn_from_examples(beliefs: Beliefs, models: Sequence[int], evidence: ExampleEvidence) -> Beliefs:
    """Beliefs after examples were seen.

    Args:
        beliefs: About M models, by everything else.
        models: Positions of those T of them that answered.
        evidence: About these, in their order.
    """
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
