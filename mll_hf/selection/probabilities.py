"""Logits and probabilities: logistic function, softmax, scale, entropy, information and weights, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32] | NDArray[np.float64]

DIGITS = 9  # scores are rounded before they are compared, so that ties do not depend on the order of summation
_MIN = 1e-300
_MIN_SCALE, _MIN_SCALE_SHARE = 1e-12, 0.01
_STEEPNESS = 3.0  # a score higher by a tenth multiplies the weight of a model by C^.3


def logit(probability: NDArray[np.float64], minimum: float) -> NDArray[np.float64]:
    """Log odds of probabilities, clipped to between ``minimum`` and ``1 - minimum``."""
    clipped = np.clip(probability, minimum, 1 - minimum)
    return np.asarray(np.log(clipped / (1 - clipped)))


def sigmoid(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of :func:`logit`."""
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def quantize(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores as integer multiples of 1e-9. Their sums are exact and do not depend on the order of summation."""
    return np.rint(scores * 10**DIGITS)


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Softmax over the last axis."""
    return np.exp(log_softmax(logits))


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Logarithm of the softmax over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def entropy(probabilities: Floats) -> NDArray[np.float64]:
    """Entropy over the last axis, in nats."""
    values = probabilities.astype(np.float64, copy=False)
    return -(values * np.log(np.maximum(values, _MIN))).sum(axis=-1)


def mutual_information(probabilities: Floats) -> NDArray[np.float64]:
    """[M] mutual information of images and predictions [M, N, C], in nats; between 0 and log C.

    ``MI_m = H(mean over n of p_m(x_n)) - mean over n of H(p_m(x_n))`` (Bridle et al., "Unsupervised classifiers,
    mutual information and phantom targets", NIPS 1991). High if the model is confident on single images and predicts
    all classes.
    """
    return entropy(probabilities.mean(axis=1, dtype=np.float64)) - entropy(probabilities).mean(axis=1)


def kappa(probabilities: NDArray[np.float64], pool: NDArray[np.float64]) -> NDArray[np.float64]:
    """[T] agreement of models [T, N, C] with their pool [N, C] beyond chance: at least 0, and 1 if they always agree.

    Models that predict few classes agree by chance (Cohen, Educ. Psychol. Meas. 20(1), 1960).
    """
    n_images, n_classes = pool.shape
    predicted, pooled = np.eye(n_classes)[probabilities.argmax(axis=2)], np.eye(n_classes)[pool.argmax(axis=1)]
    agreement = (predicted * pooled).sum(axis=(1, 2)) / n_images
    by_chance = predicted.mean(axis=1) @ pooled.mean(axis=0)
    return np.asarray(np.maximum(agreement - by_chance, 0) / np.maximum(1 - by_chance, _MIN_SCALE))


def image_scale(logits: NDArray[np.floating]) -> float:
    """Standard deviation of logits [N, C] after removing the means of images and of classes.

    At least a hundredth of the standard deviation between classes, in case all images are alike.
    """
    centered = logits.astype(np.float64)
    centered -= centered.mean(axis=1, keepdims=True)
    minimum = _MIN_SCALE_SHARE * float(centered.std()) + _MIN_SCALE
    return max(float((centered - centered.mean(axis=0)).std()), minimum)


def pooling_weights(scores: NDArray[np.float64], n_classes: int) -> NDArray[np.float64]:
    """[T] weights of models in a pool, exponential in their scores [T] in nats and summing to one."""
    weights: NDArray[np.float64] = np.exp(_STEEPNESS * np.log(n_classes) * (scores - scores.max()))
    return weights / weights.sum()
