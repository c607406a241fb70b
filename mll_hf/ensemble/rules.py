"""Rules that combine the class probabilities of several models: one pure function each.

All take ``logits`` [M, N, C] of M models on N images and C classes (scale times cosine, plus bias) and ``chosen``
[M, C], which models are chosen for which class (F_y; at least one per class). All return probabilities [N, C] whose
rows sum to one; scores of other rules are divided by their sum, which does not change predictions. The pools and
``transport`` also take the models' :class:`PoolParameters`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.selection.probabilities import entropy as entropy_of
from mll_hf.selection.probabilities import log_softmax, softmax
from mll_hf.selection.task import MIN_IMAGES
from mll_hf.selection.unlabeled import calibrate, model_scores, pooling_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32] | NDArray[np.float64]

_TINY = 1e-12
_MIN = 1e-300  # avoids division by zero if all scores of a row underflow


class Rule(StrEnum):
    """How the chosen models' probabilities are combined."""

    LINEAR_POOL = "linear_pool"
    LOG_POOL = "log_pool"
    TRANSPORT = "transport"
    ENTROPY = "entropy"
    INVERSE_ENTROPY = "inverse_entropy"
    UNIFORM = "uniform"
    CONFIDENCE = "confidence"


def combine(rule: Rule, logits: Floats, chosen: NDArray[np.bool_], parameters: PoolParameters) -> NDArray[np.float64]:
    """[N, C] probabilities from logits [M, N, C]; ``parameters`` are used by the pools and ``transport``."""
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
            return linear_pool(logits, chosen, parameters)
        case Rule.LOG_POOL:
            return log_pool(logits, chosen, parameters)
        case Rule.TRANSPORT:
            return transport(logits, chosen, parameters)


def entropy(logits: Floats, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The paper's rule (arXiv 2501.18271, Eq. 8 to 10).

    Eq. 8: ``p_y(x) = sum over m in F_y of w_{m,y}(x) softmax_m(y|x)``
    Eq. 9: ``w_{m,y}(x) = H_m(x) / sum over m' in F_y of H_{m'}(x)``, H the entropy of the model's class distribution
    Eq. 10: ``y(x) = argmax over y of p_y(x)``

    Uncertain models have more weight. Eq. 8 has no temperature; like the authors' code, this uses the model's own logit
    scale, without which the softmax of cosines would be nearly uniform.
    """
    probabilities = softmax(logits)
    return _normalize(_pool_per_class(probabilities, entropy_of(probabilities), chosen))


def inverse_entropy(logits: Floats, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights of the authors' code instead of Eq. 9: ``1 / H_m(x)`` with H in bits, not normalized over F_y.

    Confident models have more weight, without bound; H is at least 1e-12 bits, where the code would divide by zero.
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
class PoolParameters:
    """Parameters of M models for pooling their probabilities, from the selection."""

    temperatures: Floats  # [M] calibration temperatures
    weights: Floats  # [M] non-negative pool weights
    prior: NDArray[np.float64]  # [M] mean recall estimated from the labels, 0 to 1
    offsets: Floats | None = None  # [M, C] added to the calibrated logits; None for none


def linear_pool(logits: Floats, chosen: NDArray[np.bool_], parameters: PoolParameters) -> NDArray[np.float64]:
    """Our rule: weighted mean of the calibrated probabilities of all chosen models.

    ``p(y|x) = sum over m of a_m softmax(logits_m / T_m + b_m)_y``

    Every model of the union has a probability for every class, so that classes are comparable. A confident specialist
    decides where the others are uncertain, but cannot veto classes that it does not know. The weights of the union are
    normalized to sum to one.
    """
    return np.einsum("m,mnc->nc", *votes(logits, chosen, parameters))


def votes(
    logits: Floats, chosen: NDArray[np.bool_], parameters: PoolParameters
) -> tuple[NDArray[np.float64], NDArray[np.floating[Any]]]:
    """The weights [M] of :func:`linear_pool`, summing to one, and the calibrated probabilities [M, N, C]."""
    return _normalized_weights(chosen, parameters.weights), softmax(_calibrated(logits, parameters))


def log_pool(logits: Floats, chosen: NDArray[np.bool_], parameters: PoolParameters) -> NDArray[np.float64]:
    """Logarithmic pool of the calibrated probabilities of all chosen models.

    ``log p(y|x) = sum over m of a_m log softmax(logits_m / T_m)_y - log Z(x)``

    A class that one model rules out is ruled out: good for models of similar accuracy, bad for specialists.
    """
    calibrated = log_softmax(_calibrated(logits, parameters))
    return softmax(np.einsum("m,mnc->nc", _normalized_weights(chosen, parameters.weights), calibrated))


def transport(logits: Floats, chosen: NDArray[np.bool_], parameters: PoolParameters) -> NDArray[np.float64]:
    """Our rule for many images at once: the linear pool with parameters estimated from these images."""
    return linear_pool(logits, chosen, recalibrated(logits, chosen, parameters))


def recalibrated(logits: Floats, chosen: NDArray[np.bool_], parameters: PoolParameters) -> PoolParameters:
    """Parameters with temperatures, weights and offsets estimated from the logits; models not chosen get weight 0.

    See :func:`~mll_hf.selection.unlabeled.calibrate`. With too few images the given parameters are returned.
    """
    if logits.shape[1] < MIN_IMAGES:
        return parameters
    union, (n_models, _, n_classes) = chosen.any(axis=1), logits.shape
    found, _ = calibrate(logits[union], parameters.prior[union])
    temperatures, weights, offsets = np.ones(n_models), np.zeros(n_models), np.zeros(chosen.shape)
    temperatures[union], offsets[union] = found.temperatures, found.offsets
    weights[union] = pooling_weights(model_scores(found.agreement, parameters.prior[union]), n_classes)
    return PoolParameters(temperatures, weights, parameters.prior, offsets)


def _calibrated(logits: Floats, parameters: PoolParameters) -> Floats:
    divided = logits / parameters.temperatures[:, None, None]
    return divided if parameters.offsets is None else divided + parameters.offsets[:, None, :]


def _normalized_weights(chosen: NDArray[np.bool_], weights: Floats) -> NDArray[np.float64]:
    """[M] weights of the models of the union, normalized to sum to one; equal if all are zero."""
    union = chosen.any(axis=1)
    weights = np.where(union, weights, 0)
    return weights / weights.sum() if weights.sum() > 0 else union / union.sum()


def _pool_per_class(probabilities: Floats, weights: Floats, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[N, C] mean of the models' probabilities, with weights [M, N] normalized over the models F_y of each class."""
    member_weights = np.maximum(weights, _TINY)[..., None] * chosen[:, None, :]
    return (member_weights * probabilities).sum(axis=0) / member_weights.sum(axis=0)


def _normalize(scores: Floats) -> NDArray[np.float64]:
    scores = np.maximum(scores, _MIN)
    return scores / scores.sum(axis=-1, keepdims=True)
