"""What unlabeled images tell about models, from their logits alone. Pure NumPy.

1. Scale: the standard deviation of a model's logits after removing the means of images and of classes. Logits divided
   by it are comparable between models, whatever their own scale or calibration.
2. Information: the mutual information of images and predictions. It is high for a model that is confident on single
   images and predicts all classes, and low for one that is unsure or predicts the same few classes for all images.
3. Bias correction: logit offsets per class that remove a model's bias toward certain class names, so that its mean
   probabilities match the class shares. They solve entropy-regularized optimal transport for each model and, unlike a
   transport plan, also apply to later images.
4. Agreement: the share of images on which a model predicts the same class as the pool of all models after bias
   correction. It ranks models like accuracy does, but only if the pool weights models by information: a majority of
   weak models would agree with itself.

The true class shares are unknown (label shift). There are three hypotheses: all classes are nearly equally frequent;
one class is as frequent as predicted and the others are nearly equal; all classes are as frequent as predicted. The
most probable one is chosen by how well the models agree image by image: biases of different models agree only by
chance, so the models agree most if the biases, and only these, are removed.

Images rank models and calibrate them. They make no accuracy known: models that make the same mistakes agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mll_hf.selection.estimate import Basis, Estimate
from mll_hf.selection.probabilities import DIGITS, logit, mutual_information, sigmoid, softmax
from mll_hf.selection.task import Shares, check_image_count
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32] | NDArray[np.float64]
    SharesLike: TypeAlias = Shares | NDArray[np.float64]  # how to estimate the class shares, or the shares [C]

_SHARPNESS = 2.0  # standard deviation of scaled logits
_TEMPERING = 0.35  # exponent of the predicted shares of nearly equally frequent classes; 0 makes them equal
_RECALL_WEIGHT = 0.1  # weight of the recall estimated from labels; agreement or information has weight 1
_STEEPNESS = 12.0  # increasing a score by 0.1 nats multiplies the weight of a model by exp(1.2)
_MAX_COMBINED = 3
_MIN_WEIGHT = 0.25  # of a combined model, relative to the best model
_ACCURACY = np.array([-0.38, 0.79, 0.28])  # coefficients of the regression of accuracies
_ACCURACY_ERROR = 0.6  # its standard error on other tasks, in logits
_MIN_ACCURACY = 0.01
_STEPS = 20  # of Sinkhorn's algorithm
_MIN_SCALE = 1e-12
_MIN_POOL_WEIGHT = 1e-9
_MIN_SCALE_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Calibration(ArrayFields):
    """What makes the logits of M models on C classes comparable, estimated from N unlabeled images of a task.

    Attributes:
        n_images: Number of images N.
        templates: Prompt templates of the logits.
        temperatures: [M] logits are divided by them.
        offsets: [M, C] added to the divided logits.
        information: [M] mutual information of images and predictions, divided by its maximum, 0 to 1.
        agreement: [M] share of images on which the model without bias correction predicts the same class as the pool
            of all models with it.
        shares: [C] class shares, summing to one.
    """

    n_images: int
    templates: tuple[str, ...]
    temperatures: NDArray[np.float64]
    offsets: NDArray[np.float64]
    information: NDArray[np.float64]
    agreement: NDArray[np.float64]
    shares: NDArray[np.float64]

    def applied(self, logits: Floats) -> NDArray[np.float64]:
        """[M, N, C] calibrated logits from the models' logits [M, N, C]."""
        return logits / self.temperatures[:, None, None] + self.offsets[:, None, :]

    def subset(self, models: NDArray[np.intp]) -> Calibration:
        """Calibration of the given models, in the given order."""
        per_model = ("temperatures", "offsets", "information", "agreement")
        return replace(self, **{name: getattr(self, name)[models] for name in per_model})


def calibrate(
    logits: Floats, recall: NDArray[np.float64], shares: SharesLike = Shares.AUTO, templates: tuple[str, ...] = ()
) -> tuple[Calibration, NDArray[np.float64]]:
    """Calibrate M models.

    Args:
        logits: [M, N, C], finite.
        recall: [M] mean recall estimated from the labels, 0 to 1.
        shares: The class shares, or how to estimate them.
        templates: Prompt templates of the logits.

    Returns:
        The calibration, and the confirmation [M] of each model by the others, see :func:`compare_models`.

    Raises:
        InputError: There are too few images.
    """
    _, n_images, n_classes = logits.shape
    check_image_count(n_images)
    temperatures = image_scale(logits) / _SHARPNESS
    scaled = logits / temperatures[:, None, None]
    uncorrected = softmax(scaled)
    information = _normalized_information(mutual_information(uncorrected), n_classes)
    weights = pooling_weights(model_scores(information, recall), n_classes)
    hypotheses = _share_hypotheses(shares, _pool_predictions(uncorrected, weights), n_classes)
    corrections = [_correct(scaled, expected, weights) for expected in hypotheses]
    best = max(corrections, key=lambda each: round(each.log_probability, DIGITS))
    agreement = (uncorrected.argmax(axis=2) == best.predictions).mean(axis=1)
    calibration = Calibration(n_images, templates, temperatures, best.offsets, information, agreement, best.shares)
    return calibration, best.confirmation.mean(axis=1)


# --- scale and bias correction ----------------------------------------------------------------------------------------


def image_scale(logits: Floats) -> NDArray[np.float64]:
    """[M] standard deviation of logits [M, N, C] after removing the means of images and of classes.

    At least a hundredth of the standard deviation between classes, in case all images are alike.
    """
    centered = logits.astype(np.float64)
    centered -= centered.mean(axis=2, keepdims=True)
    minimum = _MIN_SCALE_SHARE * centered.std(axis=(1, 2)) + _MIN_SCALE
    centered -= centered.mean(axis=1, keepdims=True)
    return np.maximum(centered.std(axis=(1, 2)), minimum)


def class_offsets(scaled: Floats, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, C] offsets that make the mean probabilities of each model equal the class shares [C].

    Sinkhorn's algorithm (Cuturi, NeurIPS 2013) on each model's scaled logits [M, N, C], rows summing to one. With few
    images per class the offsets are shrunk toward 0.
    """
    _, n_images, n_classes = scaled.shape
    kernel = softmax(scaled)
    factors = np.ones((len(scaled), n_classes))
    for _ in range(_STEPS):
        rows = np.einsum("mnc,mc->mn", kernel, factors)
        factors = shares / np.maximum(np.einsum("mnc,mn->mc", kernel, 1 / rows) / n_images, _MIN_SCALE)
    offsets = np.log(factors)
    offsets -= offsets.mean(axis=1, keepdims=True)
    return offsets * _offset_shrinkage(n_images, n_classes)


def _offset_shrinkage(n_images: int, n_classes: int) -> float:
    """Shrinkage factor of an offset; "no bias" has the weight of one image per class."""
    return n_images / (n_images + n_classes)


# --- class shares -----------------------------------------------------------------------------------------------------


def _share_hypotheses(shares: SharesLike, predictions: NDArray[np.intp], n_classes: int) -> list[NDArray[np.float64]]:
    """Hypotheses about the class shares [C]; the most probable one is chosen."""
    if not isinstance(shares, Shares):
        return [shares]
    if shares is Shares.EQUAL:
        return [np.full(n_classes, 1 / n_classes)]
    as_predicted = expected_shares(predictions, n_classes, n_classes)
    if shares is Shares.ANSWERS:
        return [as_predicted]
    return [expected_shares(predictions, n_classes, 0), expected_shares(predictions, n_classes, 1), as_predicted]


def expected_shares(predictions: NDArray[np.intp], n_classes: int, n_frequent: int) -> NDArray[np.float64]:
    """[C] expected class shares, from predictions [N].

    The ``n_frequent`` most frequent classes (more in case of ties) keep their predicted share, all others are
    nearly equal. Frequencies are computed from the number of predictions of each class plus one.
    """
    counts = np.bincount(predictions, minlength=n_classes) + 1.0
    is_frequent = counts >= np.sort(counts)[-n_frequent] if n_frequent else np.zeros(n_classes, np.bool_)
    others = np.where(is_frequent, 0, counts**_TEMPERING)
    others *= counts[~is_frequent].sum() / max(others.sum(), 1)
    return np.where(is_frequent, counts, others) / counts.sum()


@dataclass(frozen=True, eq=False)
class _Correction:
    """A bias correction, and the predictions of M models on N images of C classes with it."""

    shares: NDArray[np.float64]  # [C] class shares
    offsets: NDArray[np.float64]  # [M, C]
    predictions: NDArray[np.intp]  # [N] of the pool of all models
    confirmation: NDArray[np.float64]  # [M, N], see :func:`compare_models`
    log_probability: float  # of the class shares, up to a constant


def _correct(scaled: NDArray[np.float64], shares: NDArray[np.float64], weights: NDArray[np.float64]) -> _Correction:
    """Correct scaled logits [M, N, C] of models with weights [M] to class shares [C].

    The log-probability is the weighted sum of the log ratios of :func:`compare_models`, plus the log prior of the
    shares (Dirichlet with parameter 2), plus the log prior of a bias shared by all models (normal): offsets that all
    models need are more likely due to a frequent class than to bias.
    """
    _, n_images, n_classes = scaled.shape
    offsets = class_offsets(scaled, shares)
    probabilities = softmax(scaled + offsets[:, None, :])
    log_ratio, confirmation = compare_models(probabilities, shares, weights)
    bias = weights @ offsets / _offset_shrinkage(n_images, n_classes)
    log_probability = (weights @ log_ratio).sum() + np.log(n_classes * shares).sum() - (bias**2).sum() / 2
    return _Correction(shares, offsets, _pool_predictions(probabilities, weights), confirmation, float(log_probability))


def compare_models(
    probabilities: NDArray[np.float64], shares: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare each model's probabilities [M, N, C] with those of the others, image by image.

    ``q_m`` is the pool of the models other than m, or ``share`` if there is none. If models err independently given the
    class, ``p_m(y|x) q_m(y|x) / share_y`` is proportional to the probability of the class given all predictions, and
    its sum over the classes is the ratio of the joint density of the two predictions to the product of their densities.
    The mean of the logarithm of this ratio over the images is largest for the true class shares.

    ``shares`` [C], all positive, are the means of the probabilities over the images; the models have weights [M].

    Returns:
        [M, N] log ratios, and [M, N] probabilities of m's most probable class given all predictions.
    """
    n_models, n_images, _ = probabilities.shape
    log_ratio, confirmation = np.empty((n_models, n_images)), np.empty((n_models, n_images))
    for m, own in enumerate(probabilities):
        others = np.where(np.arange(n_models) == m, 0, np.maximum(weights, _MIN_POOL_WEIGHT))
        pool = np.tensordot(others / others.sum(), probabilities, axes=1) if n_models > 1 else shares
        joint = own * pool / shares
        total = np.maximum(joint.sum(axis=1), _MIN_SCALE)
        log_ratio[m] = np.log(total)
        confirmation[m] = np.take_along_axis(joint, own.argmax(axis=1)[:, None], axis=1)[:, 0] / total
    return log_ratio, confirmation


# --- ranking ----------------------------------------------------------------------------------------------------------


def model_scores(score: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, ...] agreement or information [M], plus a tenth of the recall [M, ...] estimated from labels."""
    return (score.T + _RECALL_WEIGHT * recall.T).T


def pooling_weights(scores: NDArray[np.float64], n_classes: int) -> NDArray[np.float64]:
    """[M, ...] weights of models in a pool, exponential in the score in nats and summing to one over the models."""
    weights: NDArray[np.float64] = np.exp(_STEEPNESS * np.log(n_classes) * (scores - scores.max(axis=0)))
    return weights / weights.sum(axis=0)


def n_to_combine(scores: NDArray[np.float64], n_classes: int) -> int:
    """Number of models to combine, given scores [M].

    All models with at least a quarter of the weight of the best one, up to 3. Combining models with similar scores
    improves accuracy; combining a clearly better model with others lowers it.
    """
    weights = np.round(pooling_weights(scores, n_classes), DIGITS)
    return int(min((weights >= _MIN_WEIGHT * weights.max()).sum(), _MAX_COMBINED))


def estimate_from_agreement(calibration: Calibration, confirmation: NDArray[np.float64]) -> Estimate:
    """Estimate the accuracies of M models from how they agree, with confirmation [M]; errors are independent.

    The regression is fitted on the small models described in README.md of `scripts/benchmark/results`::

        logit(accuracy) = b0 + b1 logit(confirmation) + b2 logit(agreement)

    ``scripts/benchmark/predictions_benchmark.py --fit`` fits it; the error is that on tasks left out of the fit.
    """
    mean = accuracy_features(confirmation, calibration.agreement) @ _ACCURACY
    accuracy = sigmoid(mean)
    variance = _ACCURACY_ERROR**2 + 1 / (calibration.n_images * accuracy * (1 - accuracy))
    return Estimate.independent(mean, np.sqrt(variance), Basis.IMAGES)


def accuracy_features(confirmation: NDArray[np.float64], agreement: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, 3] features of the regression in :func:`estimate_from_agreement`; arguments as there."""
    return np.insert(logit(np.stack([confirmation, agreement], axis=1), _MIN_ACCURACY), 0, 1, axis=1)


def _pool_predictions(probabilities: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.intp]:
    """[N] most probable classes of a pool of models with weights [M]."""
    return np.round(np.tensordot(weights, probabilities, axes=1), DIGITS).argmax(axis=1)


def _normalized_information(nats: NDArray[np.float64], n_classes: int) -> NDArray[np.float64]:
    """Information divided by its maximum for C classes; clipped, as rounding may leave 0 to 1, and never -0.0."""
    return np.clip(nats / np.log(max(n_classes, 2)), 0, 1) + 0.0
