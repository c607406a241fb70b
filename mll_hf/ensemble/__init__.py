"""Combine the chosen models' answers into one prediction per image."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from mll_hf.ensemble.rules import confidence, entropy, inverse_entropy, linear_pool, log_pool, transport, uniform

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mll_hf.ensemble.rules import Floats, Trust

__all__ = ["Rule", "combine"]


class Rule(StrEnum):
    """How the chosen models' probabilities are combined."""

    LINEAR_POOL = "linear_pool"
    LOG_POOL = "log_pool"
    TRANSPORT = "transport"
    ENTROPY = "entropy"
    INVERSE_ENTROPY = "inverse_entropy"
    UNIFORM = "uniform"
    CONFIDENCE = "confidence"


def combine(rule: Rule, logits: Floats, chosen: NDArray[np.bool_], trust: Trust) -> NDArray[np.float64]:
    """[N, C] probabilities from logits [M, N, C] of M models; arguments as for all rules, see :mod:`.rules`."""
    match rule:
        case Rule.ENTROPY:
            return entropy(logits, chosen)
        case Rule.INVERSE_ENTROPY:
            return inverse_entropy(logits, chosen)
        case Rule.UNIFORM:
            return uniform(logits, chosen)
        case Rule.CONFIDENCE:
            return confidence(logits, chosen)
        case Rule.LINEAR_POOL:
            return linear_pool(logits, chosen, trust)
        case Rule.LOG_POOL:
            return log_pool(logits, chosen, trust)
        case Rule.TRANSPORT:
            return transport(logits, chosen, trust)
