"""Rules that combine the class probabilities of several models: one pure function each.

All take ``logits`` [M, N, C] (M models, N images, C classes) as the models give them (scale times cosine, plus bias)
and ``chosen`` [M, C], which models answer for which class (F_y; at least one per class). All return probabilities
[N, C] whose rows sum to one; where a rule's own scores do not, they are divided by their sum, which changes no answer.
The pools and ``transport`` also take what the selection knows of the models (:class:`Trust`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.selection.evidence import LEAST_IMAGES, calibrate, pooling_weights, scores_of
from mll_hf.selection.probabilities import entropy as entropy_of
from mll_hf.selection.probabilities import log_softmax, softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32] | NDArray[np.float64]

_TINY = 1e-12
_LEAST = 1e-300  # keeps a row whose scores all underflow from a division by zero


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
    """[N, C] probabilities from logits [M, N, C] of M models; the trust is for the pools and ``transport``."""
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


def entropy(logits: Floats, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The paper's rule (arXiv 2501.18271, Eq. 8 to 10).

    Eq. 8: ``p_y(x) = sum over m in F_y of w_{m,y}(x) softmax_m(y|x)``
    Eq. 9: ``w_{m,y}(x) = H_m(x) / sum over m' in F_y of H_{m'}(x)``, H the entropy of the model's class distribution
    Eq. 10: ``y(x) = argmax over y of p_y(x)``

    Unsure models weigh more. Eq. 8 is printed without a temperature; like the authors' code, this uses the model's
    own logit scale, without which the softmax of cosines would be all but uniform.
    """
    probabilities = softmax(logits)
    return _normalize(_pool_per_class(probabilities, entropy_of(probabilities), chosen))


def inverse_entropy(logits: Floats, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What the authors' code does instead of Eq. 9: weight ``1 / H_m(x)`` with H in bits, not normalized over F_y.

    Sure models weigh more, without bound; H is held above 1e-12 bits, where the code would divide by zero.
    """
    probabilities = softmax(logits)
    weights = 1 / np.maximum(entropy_of(probabilities) / np.log(2), _TINY)
    return _normalize((weights[..., None] * probabilities * chosen[:, None, :]).sum(axis=0))


def uniform(logits: Floats, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean over F_y of the models' probabilities."""
    probabilities = softmax(logits)
    return _normalize(_pool_per_class(probabilities, np.ones(probabilities.shape[:2]), chosen))


def confidence(logits: Floats, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights from each model's confidence on the image: softmax over models of the highest class probability.

    After the zero-shot ensemble of Lu et al. (ICML 2024, arXiv 2311.17091), without a separate strong model.
    """
    probabilities = softmax(logits)
    return _normalize(_pool_per_class(probabilities, np.exp(probabilities.max(axis=-1)), chosen))


@dataclass(frozen=True)
class Trust:
    """What a selection knows of M models."""

    temperatures: Floats  # [M] calibration temperatures
    weights: Floats  # [M] non-negative; how much each model counts
    prior: NDArray[np.float64]  # [M] mean recall estimated from the labels, 0 to 1
    offsets: Floats | None = None  # [M, C] added to the calibrated logits; None for none


def linear_pool(logits: Floats, chosen: NDArray[np.bool_], trust: Trust) -> NDArray[np.float64]:
    """Our rule: weighted mean of the calibrated probabilities of all chosen models.

    ``p(y|x) = sum over m of a_m softmax(logits_m / T_m + b_m)_y``

    Every model of the union answers for every class, so that columns compare. A specialist that is sure decides where
    the others are unsure, and cannot veto what it does not know. The weights are scaled so that those of the union sum
    to one.
    """
    return np.einsum("m,mnc->nc", *votes(logits, chosen, trust))


def votes(
    logits: Floats, chosen: NDArray[np.bool_], trust: Trust
) -> tuple[NDArray[np.float64], NDArray[np.floating[Any]]]:
    """The weights [M] in :func:`linear_pool`, which sum to one, and the calibrated probabilities [M, N, C]."""
    return _shares(chosen, trust.weights), softmax(_calibrated(logits, trust))


def log_pool(logits: Floats, chosen: NDArray[np.bool_], trust: Trust) -> NDArray[np.float64]:
    """Logarithmic pool of the calibrated probabilities of all chosen models.

    ``log p(y|x) = sum over m of a_m log softmax(logits_m / T_m)_y - log Z(x)``

    A class that one model rules out is ruled out: good for models of equal skill, bad for specialists.
    """
    calibrated = log_softmax(_calibrated(logits, trust))
    return softmax(np.einsum("m,mnc->nc", _shares(chosen, trust.weights), calibrated))


def transport(logits: Floats, chosen: NDArray[np.bool_], trust: Trust) -> NDArray[np.float64]:
    """Our rule for many images at once: the linear pool with everything but the prior taken from these images."""
    return linear_pool(logits, chosen, adapted(logits, chosen, trust))


def adapted(logits: Floats, chosen: NDArray[np.bool_], trust: Trust) -> Trust:
    """Trust with temperatures, weights and offsets that follow from the logits themselves.

    See :func:`~mll_hf.selection.evidence.calibrate`. Too few images say nothing of that kind, and the trust stays as it
    is. Models outside the union get no weight.
    """
    if logits.shape[1] < LEAST_IMAGES:
        return trust
    union, (n_models, _, n_classes) = chosen.any(axis=1), logits.shape
    found = calibrate(logits[union], trust.prior[union])
    temperatures, weights, offsets = np.ones(n_models), np.zeros(n_models), np.zeros(chosen.shape)
    temperatures[union], offsets[union] = found.temperatures, found.offsets
    weights[union] = pooling_weights(scores_of(found, trust.prior[union]), n_classes)
    return Trust(temperatures, weights, trust.prior, offsets)


def _calibrated(logits: Floats, trust: Trust) -> Floats:
    divided = logits / trust.temperatures[:, None, None]
    return divided if trust.offsets is None else divided + trust.offsets[:, None, :]


def _shares(chosen: NDArray[np.bool_], weights: Floats) -> NDArray[np.float64]:
    """[M] weights of the models of the union, summing to one; equal if all are zero."""
    union = chosen.any(axis=1)
    shares = np.where(union, weights, 0)
    return shares / shares.sum() if shares.sum() > 0 else union / union.sum()


def _pool_per_class(probabilities: Floats, weights: Floats, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[N, C] mean of the models' probabilities with weights [M, N] normalized over each class's own models F_y."""
    member_weights = np.maximum(weights, _TINY)[..., None] * chosen[:, None, :]
    return (member_weights * probabilities).sum(axis=0) / member_weights.sum(axis=0)


def _normalize(scores: Floats) -> NDArray[np.float64]:
    scores = np.maximum(scores, _LEAST)
    return scores / scores.sum(axis=-1, keepdims=True)
