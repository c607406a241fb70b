"""Rules that combine the class probabilities of several models: one pure function each.

Logits are [M, N, C], of M models on N images and C classes. All rules return probabilities [N, C] whose rows sum to
one; scores of the paper's rules are divided by their sum, which does not change predictions.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.probabilities import entropy as entropy_of
from mll_hf.selection.probabilities import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32] | NDArray[np.float64]

_TINY = 1e-12
_MIN = 1e-300  # avoids division by zero if all scores of a row underflow


class Rule(StrEnum):
    """How the chosen models' probabilities are combined."""

    LINEAR_POOL = "linear_pool"
    ENTROPY = "entropy"
    INVERSE_ENTROPY = "inverse_entropy"

    @property
    def is_calibrated(self) -> bool:
        """Whether the rule takes logits of calibrated heads; the paper's rules take those of zero-shot heads."""
        return self is Rule.LINEAR_POOL


def combine(rule: Rule, logits: Floats, chosen: NDArray[np.bool_], weights: Floats) -> NDArray[np.float64]:
    """[N, C] probabilities from logits [M, N, C] of calibrated heads, or zero-shot ones, see ``rule.is_calibrated``.

    The paper's rules use ``chosen`` [M, C]: which models are chosen for which class (F_y, Eq. 7), at least one per
    class and per model; ``linear_pool`` uses ``weights`` [M] of the models.
    """
    match rule:
        case Rule.LINEAR_POOL:
            return linear_pool(logits, weights)
        case Rule.ENTROPY:
            return entropy(logits, chosen)
        case Rule.INVERSE_ENTROPY:
            return inverse_entropy(logits, chosen)


def linear_pool(logits: Floats, weights: Floats) -> NDArray[np.float64]:
    """Our rule: ``p(y|x) = sum over m of a_m softmax_m(y|x)``, with weights a_m that are normalized to sum to one.

    Every model has a probability for every class, so that classes are comparable. A confident specialist decides where
    the others are uncertain, but cannot veto classes that it does not know. Weights that are all zero are equal.
    """
    total = weights.sum()
    shares = weights / total if total > 0 else np.full(len(weights), 1 / len(weights))
    return np.einsum("m,mnc->nc", shares, softmax(logits))


def entropy(logits: Floats, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The paper's rule (arXiv 2501.18271, Eq. 8 to 10).

    Eq. 8: ``p_y(x) = sum over m in F_y of w_{m,y}(x) softmax_m(y|x)``
    Eq. 9: ``w_{m,y}(x) = H_m(x) / sum over m' in F_y of H_{m'}(x)``, H the entropy of the model's class distribution
    Eq. 10: ``y(x) = argmax over y of p_y(x)``

    Uncertain models have more weight. Eq. 8 has no temperature, without which the softmax of cosines is nearly uniform.
    These are the model's own logits, with the temperature of Eq. 1; the authors' code multiplies all cosines by 100.
    """
    probabilities = softmax(logits)
    weights = np.maximum(entropy_of(probabilities), _TINY)[..., None] * chosen[:, None, :]
    return _normalize((weights * probabilities).sum(axis=0) / weights.sum(axis=0))


def inverse_entropy(logits: Floats, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights of the authors' code instead of Eq. 9: ``1 / H_m(x)`` with H in bits, not normalized over F_y.

    Confident models have more weight, without bound; H is at least 1e-12 bits, and 0 log 0 is 0, in the code NaN.
    """
    probabilities = softmax(logits)
    weights = 1 / np.maximum(entropy_of(probabilities) / np.log(2), _TINY)
    return _normalize((weights[..., None] * probabilities * chosen[:, None, :]).sum(axis=0))


def _normalize(scores: Floats) -> NDArray[np.float64]:
    scores = np.maximum(scores, _MIN)
    return scores / scores.sum(axis=-1, keepdims=True)
