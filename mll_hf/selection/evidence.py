"""Evidence from unlabeled images of a task, computed from the models' logits. Pure NumPy.

1. Scale: the standard deviation of a model's logits that is neither common to all images nor to all classes. Divided by
   it, logits of different models compare, whatever their own scale or calibration.
2. Information: the mutual information between images and answers. It is high for a model that is sure of single images
   and uses all classes, and low for one that is unsure or gives the same few classes to everything.
3. Bias correction: offsets of the logits that remove a model's preference for certain class names, so that the shares
   of its answers come out as expected. They are the solution of optimal transport with an entropy term, model by model;
   unlike a transport plan, they apply to later images, too.

The true shares of the classes are unknown. The expected shares lie between equal ones and the shares of the answers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.probabilities import entropy, mutual_information, softmax
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32] | NDArray[np.float64]

LEAST_IMAGES = 16
_SHARPNESS = 2.0  # standard deviation of scaled logits
_TRUST_IN_ANSWERS = 0.25  # 0: equal shares are expected; 1: the shares of the answers
_IMAGES_PER_CLASS = 0.5  # prior weight of "no bias", in images per class
_LABEL_SHARE = 0.1  # weight of the recall estimated from labels; information has weight 1
_STEEPNESS = 12.0  # 0.1 nats more multiply the weight of a model by exp(1.2)
_STEPS = 20  # of Sinkhorn's algorithm
_RESAMPLES = 200
_LEAST_SCALE = 1e-12
_LEAST_SHARE = 0.01
_DIGITS = 9  # scores are compared after rounding, so the order of summation does not matter


@dataclass(frozen=True, eq=False)
class Calibration(ArrayFields):
    """Parameters that make the logits of M models on C classes comparable.

    Attributes:
        temperatures: [M] logits are divided by them.
        offsets: [M, C] added to the divided logits: the bias correction.
        information: [M] mutual information of the answers divided by its maximum: 0 to 1.
    """

    temperatures: NDArray[np.float64]
    offsets: NDArray[np.float64]
    information: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UnlabeledEvidence(ArrayFields):
    """Evidence of N unlabeled images about M models on C classes.

    Attributes:
        n_images: N.
        calibration: Of the M models.
        prior: [M] mean recall estimated from the labels, 0 to 1.
        win_shares: [M] share of resamples of the images in which the model has the highest score.
        templates: Prompt templates that the models answered to.
    """

    n_images: int
    calibration: Calibration
    prior: NDArray[np.float64]
    win_shares: NDArray[np.float64]
    templates: tuple[str, ...]

    @property
    def scores(self) -> NDArray[np.float64]:
        """[M] score of each model."""
        return scores_of(self.calibration.information, self.prior)

    def take(self, models: NDArray[np.intp]) -> UnlabeledEvidence:
        """The evidence of some of the models, in the order given."""
        calibration = Calibration(*(getattr(self.calibration, f.name)[models] for f in fields(Calibration)))
        return replace(self, calibration=calibration, prior=self.prior[models], win_shares=self.win_shares[models])


def check_image_count(n_images: int) -> None:
    """Check that there are enough images.

    Raises:
        InputError: There are fewer than ``LEAST_IMAGES``.
    """
    if n_images < LEAST_IMAGES:
        raise InputError(f"{n_images} readable images say too little about models; give at least {LEAST_IMAGES}")


def trial_sample(n_images: int, most: int) -> NDArray[np.int64]:
    """Ascending positions of the images of a trial: a seeded sample of at most ``most``."""
    return np.sort(np.random.default_rng(0).permutation(n_images)[:most])


def gather_evidence(logits: Floats, prior: NDArray[np.float64], templates: tuple[str, ...]) -> UnlabeledEvidence:
    """Compute the evidence of unlabeled images.

    Args:
        logits: [M, N, C], finite.
        prior: [M] mean recall estimated from the labels, 0 to 1.
        templates: Prompt templates that the models answered to.

    Raises:
        InputError: There are fewer than ``LEAST_IMAGES``.
    """
    n_images = logits.shape[1]
    check_image_count(n_images)
    calibration, probabilities = _calibrate(logits, prior)
    return UnlabeledEvidence(n_images, calibration, prior, _win_shares(probabilities, prior), templates)


def calibrate(logits: Floats, prior: NDArray[np.float64]) -> Calibration:
    """Calibrate logits [M, N, C] of models with a prior [M] from the logits alone."""
    return _calibrate(logits, prior)[0]


def _calibrate(logits: Floats, prior: NDArray[np.float64]) -> tuple[Calibration, NDArray[np.float64]]:
    """The calibration, and the probabilities [M, N, C] at its temperatures without offsets."""
    n_classes = logits.shape[2]
    temperatures = image_scale(logits) / _SHARPNESS
    scaled = logits / temperatures[:, None, None]
    probabilities = softmax(scaled)
    told = mutual_information(probabilities) / _most_information(n_classes)
    information = np.clip(told, 0, 1) + 0.0  # rounding may leave the range, and -0.0 prints badly
    weights = pooling_weights(scores_of(information, prior), n_classes)
    shares = expected_shares(np.einsum("m,mnc->nc", weights, probabilities))
    return Calibration(temperatures, class_offsets(scaled, shares), information), probabilities


def image_scale(logits: Floats) -> NDArray[np.float64]:
    """[M] standard deviation of logits [M, N, C] without the means of images and of classes.

    At least a hundredth of that between classes, for images that are all alike.
    """
    left = logits.astype(np.float64)
    left -= left.mean(axis=2, keepdims=True)
    least = _LEAST_SHARE * left.std(axis=(1, 2)) + _LEAST_SCALE
    left -= left.mean(axis=1, keepdims=True)
    scale = np.maximum(left.std(axis=(1, 2)), least)
    return scale


def scores_of(information: NDArray[np.float64], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, ...] score of models: information plus a tenth of the recall estimated from labels.

    Args:
        information: [M].
        prior: [M, ...].
    """
    return (information.T + _LABEL_SHARE * prior.T).T


def pooling_weights(scores: NDArray[np.float64], n_classes: int) -> NDArray[np.float64]:
    """[M] weights of models in a pool, exponential in the score in nats; they sum to one."""
    weights: NDArray[np.float64] = np.exp(_STEEPNESS * np.log(n_classes) * (scores - scores.max()))
    return weights / weights.sum()


def expected_shares(pooled: NDArray[np.float64]) -> NDArray[np.float64]:
    """[C] expected shares of the classes, from pooled probabilities [N, C].

    Proportional to a power of one plus the number of images that get the class as their answer.
    """
    answers = np.bincount(pooled.argmax(axis=1), minlength=pooled.shape[1]) + 1
    shares = np.power(answers, _TRUST_IN_ANSWERS, dtype=np.float64)
    return shares / shares.sum()


def class_offsets(scaled: Floats, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, C] offsets with which the mean probabilities of each model equal the expected shares.

    Sinkhorn's algorithm (Cuturi, NeurIPS 2013) on each model's logits, rows summing to one. With few images per class
    the offsets are shrunk towards none.

    Args:
        scaled: [M, N, C] logits over temperatures.
        shares: [C] expected shares.
    """
    _, n_images, n_classes = scaled.shape
    kernel = softmax(scaled)
    factors = np.ones((len(scaled), n_classes))
    for _ in range(_STEPS):
        rows = np.einsum("mnc,mc->mn", kernel, factors)
        factors = shares / np.maximum(np.einsum("mnc,mn->mc", kernel, 1 / rows) / n_images, _LEAST_SCALE)
    offsets = np.log(factors)
    offsets -= offsets.mean(axis=1, keepdims=True)
    return offsets * n_images / (n_images + _IMAGES_PER_CLASS * n_classes)


def _most_information(n_classes: int) -> float:
    return float(np.log(max(n_classes, 2)))


def _win_shares(probabilities: NDArray[np.float64], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M] how often each model has the highest score when the images are drawn again (seeded bootstrap)."""
    n_models, n_images, n_classes = probabilities.shape
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=_RESAMPLES) / n_images
    scores = np.stack(
        [
            scores_of(_resampled_information(model, counts) / _most_information(n_classes), expected)
            for model, expected in zip(probabilities, np.broadcast_to(prior, n_models), strict=True)
        ]
    )
    return np.bincount(np.round(scores, _DIGITS).argmax(axis=0), minlength=n_models) / _RESAMPLES


def _resampled_information(probabilities: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B] mutual information of one model's probabilities [N, C] with weights [B, N] of the images."""
    return entropy(counts @ probabilities) - counts @ entropy(probabilities)
