"""Evidence from unlabeled images of a task, computed from the models' logits. Pure NumPy.

1. Scale: the standard deviation of a model's logits that is neither common to all images nor to all classes. Divided by
   it, logits of different models compare, whatever their own scale or calibration.
2. Information: the mutual information between images and answers. It is high for a model that is sure of single images
   and uses all classes, and low for one that is unsure or gives the same few classes to everything.
3. Bias correction: offsets of the logits that remove a model's preference for certain class names, so that the shares
   of its answers come out as expected. They are the solution of optimal transport with an entropy term, model by model;
   unlike a transport plan, they apply to later images, too.
4. Agreement: the share of images to which a model answers what all models together answer after bias correction. It
   ranks models as their accuracy does, but only with a pool in which the models weigh by information: a majority of
   weak models would agree with itself.

The true shares of the classes are unknown. All may be nearly equal; or all but one, which is as frequent as among the
answers; or all may be as among the answers. Which of these is most probable depends on how models agree image by image.
A preference for a class agrees by chance only. Where classes are equally frequent, equal shares take preferences out,
and the models agree better. Where one class is frequent, equal shares would make each model give some of its images to
classes of its own, and the models agree less.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.accuracy import logit, sigmoid
from mll_hf.selection.beliefs import Beliefs
from mll_hf.selection.probabilities import entropy, mutual_information, softmax
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32] | NDArray[np.float64]
    SharesLike: TypeAlias = "Shares | NDArray[np.float64]"  # or the shares themselves: [C], none negative, any unit

LEAST_IMAGES = 16
_SHARPNESS = 2.0  # standard deviation of scaled logits
_TRUST = 0.35  # exponent of the shares of answers where classes are nearly equally frequent; 0 would make them equal
_LABEL_SHARE = 0.1  # weight of the recall estimated from labels; what images tell has weight 1
_STEEPNESS = 12.0  # a score that is higher by 0.1 nats multiplies the weight of a model by exp(1.2)
_MOST_COMBINED = 3
_LEAST_WEIGHT = 0.25  # of a model to combine, relative to that of the best
_ACCURACY = np.array([-0.38, 0.79, 0.28])  # coefficients of the regression of accuracies
_ACCURACY_ERROR = 0.6  # its standard error on other tasks, in logits
_LEAST_ACCURACY = 0.01
_STEPS = 20  # of Sinkhorn's algorithm
_RESAMPLES = 200
_LEAST_SCALE = 1e-12
_LEAST_GIVEN_SHARE = 1e-6
_LEAST_WEIGHT_IN_POOL = 1e-9
_LEAST_SHARE = 0.01
_DIGITS = 9  # scores are compared after rounding, so the order of summation does not matter


class Shares(StrEnum):
    """What is expected of the shares of the classes among a task's images."""

    AUTO = "auto"  # those that are most probable given how the models agree
    EQUAL = "equal"
    ANSWERS = "answers"  # those of the models' answers


@dataclass(frozen=True, eq=False)
class Calibration(ArrayFields):
    """Parameters that make the logits of M models on C classes comparable.

    Agreement is the share of the images to which a model, without bias correction, answers what all models together
    answer with it.
    """

    temperatures: NDArray[np.float64]  # [M] logits are divided by them
    offsets: NDArray[np.float64]  # [M, C] added to the divided logits: the bias correction
    information: NDArray[np.float64]  # [M] mutual information of the answers divided by its maximum: 0 to 1
    agreement: NDArray[np.float64]  # [M] 0 to 1
    shares: NDArray[np.float64]  # [C] expected shares of the classes; they sum to one

    def applied(self, logits: Floats) -> NDArray[np.float64]:
        """[M, N, C] calibrated logits of the M models, from their own [M, N, C]."""
        return logits / self.temperatures[:, None, None] + self.offsets[:, None, :]

    def take(self, models: NDArray[np.intp]) -> Calibration:
        """The calibration of some of the models, in the order given."""
        per_model = ("temperatures", "offsets", "information", "agreement")
        return replace(self, **{name: getattr(self, name)[models] for name in per_model})


@dataclass(frozen=True, eq=False)
class UnlabeledEvidence(ArrayFields):
    """Evidence of N unlabeled images about M models on C classes."""

    n_images: int
    calibration: Calibration
    prior: NDArray[np.float64]  # [M] mean recall estimated from the labels, 0 to 1
    win_shares: NDArray[np.float64]  # [M] share of resamples of the images in which the model has the highest score
    confirmation: NDArray[np.float64]  # [M] mean probability of the corrected answers given what other models say
    templates: tuple[str, ...]  # prompt templates that the models answered to

    @property
    def scores(self) -> NDArray[np.float64]:
        """[M] score of each model."""
        return scores_of(self.calibration, self.prior)

    @property
    def combine(self) -> int:
        """How many of the models with the highest scores to combine."""
        return how_many(self.scores, len(self.calibration.shares))

    @cached_property
    def beliefs(self) -> Beliefs:
        """What the images say of the accuracy of each model alone, with bias correction."""
        return beliefs_of_answers(self.confirmation, self.calibration.agreement, self.n_images)

    def take(self, models: NDArray[np.intp]) -> UnlabeledEvidence:
        """The evidence of some of the models, in the order given."""
        per_model = {name: getattr(self, name)[models] for name in ("prior", "win_shares", "confirmation")}
        return replace(self, calibration=self.calibration.take(models), **per_model)


def check_image_count(n_images: int) -> None:
    """Raise InputError if there are fewer than ``LEAST_IMAGES`` images."""
    if n_images < LEAST_IMAGES:
        raise InputError(f"{n_images} readable images say too little about models; give at least {LEAST_IMAGES}")


def trial_sample(n_images: int, most: int) -> NDArray[np.int64]:
    """Ascending positions of the images of a trial: a seeded sample of at most ``most``."""
    return np.sort(np.random.default_rng(0).permutation(n_images)[:most])


def gather_evidence(
    logits: Floats, prior: NDArray[np.float64], templates: tuple[str, ...], shares: SharesLike = Shares.AUTO
) -> UnlabeledEvidence:
    """Compute the evidence of unlabeled images.

    Args:
        logits: [M, N, C], finite.
        prior: [M] mean recall estimated from the labels, 0 to 1.
        templates: Prompt templates that the models answered to.
        shares: What is expected of the shares of the classes, or these shares.

    Raises:
        InputError: There are fewer than ``LEAST_IMAGES``, or the shares are not C non-negative numbers.
    """
    n_images = logits.shape[1]
    check_image_count(n_images)
    calibration, correction, scaled, plain = _calibrate(logits, prior, shares)
    return UnlabeledEvidence(
        n_images,
        calibration,
        prior,
        _win_shares(plain, softmax(scaled + calibration.offsets[:, None, :]), prior),
        correction.confirmation.mean(axis=1),
        templates,
    )


def calibrate(logits: Floats, prior: NDArray[np.float64], shares: SharesLike = Shares.AUTO) -> Calibration:
    """The calibration alone; arguments and errors as for :func:`gather_evidence`, but for too few images."""
    return _calibrate(logits, prior, shares)[0]


def _calibrate(
    logits: Floats, prior: NDArray[np.float64], shares: SharesLike
) -> tuple[Calibration, _Correction, NDArray[np.float64], NDArray[np.float64]]:
    """The calibration, what the models say with its bias correction, scaled logits, and probabilities without it."""
    n_classes = logits.shape[2]
    temperatures = image_scale(logits) / _SHARPNESS
    scaled = logits / temperatures[:, None, None]
    plain = softmax(scaled)
    information = _of_most(mutual_information(plain), n_classes)
    weights = pooling_weights(_with_label(information, prior), n_classes)
    candidates = _candidates(shares, _answers(plain, weights), n_classes)
    corrections = [_correct(scaled, expected, weights) for expected in candidates]
    correction = max(corrections, key=lambda one: round(one.evidence, _DIGITS))
    agreement = (plain.argmax(axis=2) == correction.answers).mean(axis=1)
    calibration = Calibration(temperatures, correction.offsets, information, agreement, correction.shares)
    return calibration, correction, scaled, plain


def _answers(probabilities: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.intp]:
    """[N] most probable class of the pool of models with weights [M]."""
    return np.round(np.tensordot(weights, probabilities, axes=1), _DIGITS).argmax(axis=1)


# --- shares of the classes --------------------------------------------------------------------------------------------


def _candidates(shares: SharesLike, answers: NDArray[np.intp], n_classes: int) -> list[NDArray[np.float64]]:
    """Shares [C] of which those that are most probable are expected."""
    if not isinstance(shares, Shares):
        return [check_shares(shares, n_classes)]
    if shares is Shares.EQUAL:
        return [np.full(n_classes, 1 / n_classes)]
    as_answered = expected_shares(answers, n_classes, n_classes)
    if shares is Shares.ANSWERS:
        return [as_answered]
    return [expected_shares(answers, n_classes, 0), expected_shares(answers, n_classes, 1), as_answered]


def check_shares(shares: NDArray[np.float64], n_classes: int) -> NDArray[np.float64]:
    """Given shares [C], summing to one; none is zero, since no evidence could speak against that.

    Raises:
        InputError: They are not C non-negative numbers, or all are zero.
    """
    if np.shape(shares) != (n_classes,) or not np.isfinite(shares).all() or min(shares) < 0 or max(shares) <= 0:
        raise InputError(f"shares of classes must be {n_classes} numbers, none below 0 and not all 0")
    least = np.maximum(np.asarray(shares, np.float64) / np.sum(shares), _LEAST_GIVEN_SHARE)
    return least / least.sum()


def expected_shares(answers: NDArray[np.intp], n_classes: int, leaders: int) -> NDArray[np.float64]:
    """[C] expected shares of the classes, from answers [N].

    The most frequent ``leaders`` classes (more if others are as frequent) have their share among the answers, and what
    is left is nearly equal. All shares follow from one plus the number of images that get the class as their answer.
    """
    counts = np.bincount(answers, minlength=n_classes) + 1.0
    leads = counts >= np.sort(counts)[-leaders] if leaders else np.zeros(n_classes, np.bool_)
    others = np.where(leads, 0, counts**_TRUST)
    others *= counts[~leads].sum() / max(others.sum(), 1)
    return np.where(leads, counts, others) / counts.sum()


@dataclass(frozen=True, eq=False)
class _Correction:
    """A bias correction, and what M models say to N images of C classes with it."""

    shares: NDArray[np.float64]  # [C], expected
    offsets: NDArray[np.float64]  # [M, C]
    answers: NDArray[np.intp]  # [N], of all models together
    confirmation: NDArray[np.float64]  # [M, N], see :func:`compare`
    evidence: float  # log-probability of the shares, but for a constant


def _correct(scaled: NDArray[np.float64], shares: NDArray[np.float64], weights: NDArray[np.float64]) -> _Correction:
    """Correct scaled logits [M, N, C] of models with weights [M] so that the classes come to the shares [C].

    The evidence is the log-likelihood of the models' consent, plus the prior of the shares (a Dirichlet distribution
    with parameter 2), plus that of the bias that all models would have in common (normal): offsets that all models need
    are more likely a frequent class than a bias.
    """
    _, n_images, n_classes = scaled.shape
    offsets = class_offsets(scaled, shares)
    probabilities = softmax(scaled + offsets[:, None, :])
    consent, confirmation = compare(probabilities, shares, weights)
    bias = weights @ offsets / _kept_offset(n_images, n_classes)
    evidence = (weights @ consent).sum() + np.log(n_classes * shares).sum() - (bias**2).sum() / 2
    return _Correction(shares, offsets, _answers(probabilities, weights), confirmation, float(evidence))


def compare(
    probabilities: NDArray[np.float64], shares: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare each model's probabilities [M, N, C] with those of the others, image by image.

    ``q_m`` is the pool of the models other than m, or the shares if there is none. If models err independently of one
    another given the class, ``p_m(y|x) q_m(y|x) / share_y`` is proportional to the probability of the class given what
    all of them say, and its sum over the classes is the ratio of the density of these two answers to the product of
    their densities: the consent. The mean of its logarithm over images is largest with the true shares.

    The shares [C], none of them zero, are the means of the probabilities over the images; the models have weights [M].

    Returns:
        [M, N] the logarithm of that sum, and [M, N] the probability of m's most probable class given all answers.
    """
    n_models, n_images, _ = probabilities.shape
    consent, confirmation = np.empty((n_models, n_images)), np.empty((n_models, n_images))
    for m, own in enumerate(probabilities):
        others = np.where(np.arange(n_models) == m, 0, np.maximum(weights, _LEAST_WEIGHT_IN_POOL))
        pool = np.tensordot(others / others.sum(), probabilities, axes=1) if n_models > 1 else shares
        joint = own * pool / shares
        total = np.maximum(joint.sum(axis=1), _LEAST_SCALE)
        consent[m] = np.log(total)
        confirmation[m] = np.take_along_axis(joint, own.argmax(axis=1)[:, None], axis=1)[:, 0] / total
    return consent, confirmation


# --- models -----------------------------------------------------------------------------------------------------------


def image_scale(logits: Floats) -> NDArray[np.float64]:
    """[M] standard deviation of logits [M, N, C] without the means of images and of classes.

    At least a hundredth of that between classes, for images that are all alike.
    """
    left = logits.astype(np.float64)
    left -= left.mean(axis=2, keepdims=True)
    least = _LEAST_SHARE * left.std(axis=(1, 2)) + _LEAST_SCALE
    left -= left.mean(axis=1, keepdims=True)
    return np.maximum(left.std(axis=(1, 2)), least)


def scores_of(calibration: Calibration, prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, ...] score of models: agreement, and a tenth of the recall [M, ...] estimated from labels."""
    return _with_label(calibration.agreement, prior)


def _with_label(told: NDArray[np.float64], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, ...] what images tell of models, from 0 to 1, and the label's share; either may be [M] only."""
    return (told.T + _LABEL_SHARE * prior.T).T


def how_many(scores: NDArray[np.float64], n_classes: int) -> int:
    """How many of the models with scores [M] to combine.

    Those that weigh at least a quarter as much as the best, up to 3. Models of about equal score gain by being
    combined; a model that is clearly better loses.
    """
    weights = np.round(pooling_weights(scores, n_classes), _DIGITS)
    return int(min((weights >= _LEAST_WEIGHT * weights.max()).sum(), _MOST_COMBINED))


def beliefs_of_answers(confirmation: NDArray[np.float64], agreement: NDArray[np.float64], n_images: int) -> Beliefs:
    """What is believed of the accuracies of M models from what they say to N images, of each model apart.

    A regression on the zoo of small models in README.md of `scripts/benchmarks`::

        logit(accuracy) = b0 + b1 logit(confirmation) + b2 logit(agreement)

    ``scripts/predictions_benchmark.py --fit`` fits it. Models that make the same mistakes confirm each other, which no
    image without a class can show; the deviation is the error on tasks that were left out of the fit.
    :class:`UnlabeledEvidence` and :class:`Calibration` explain confirmation and agreement, [M] each.
    """
    logits = accuracy_features(confirmation, agreement) @ _ACCURACY
    accuracy = sigmoid(logits)
    return Beliefs(logits, np.diag(_ACCURACY_ERROR**2 + 1 / (n_images * accuracy * (1 - accuracy))))


def accuracy_features(confirmation: NDArray[np.float64], agreement: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, 3] what accuracies are estimated from; arguments as for :func:`beliefs_of_answers`."""
    return np.insert(logit(np.stack([confirmation, agreement], axis=1), _LEAST_ACCURACY), 0, 1, axis=1)


def pooling_weights(scores: NDArray[np.float64], n_classes: int) -> NDArray[np.float64]:
    """[M, ...] weights of models in a pool, exponential in the score in nats; they sum to one over the models."""
    weights: NDArray[np.float64] = np.exp(_STEEPNESS * np.log(n_classes) * (scores - scores.max(axis=0)))
    return weights / weights.sum(axis=0)


def class_offsets(scaled: Floats, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """[M, C] offsets with which the mean probabilities of each model equal the expected shares [C].

    Sinkhorn's algorithm (Cuturi, NeurIPS 2013) on each model's scaled logits [M, N, C], rows summing to one. With few
    images per class the offsets are shrunk towards none.
    """
    _, n_images, n_classes = scaled.shape
    kernel = softmax(scaled)
    factors = np.ones((len(scaled), n_classes))
    for _ in range(_STEPS):
        rows = np.einsum("mnc,mc->mn", kernel, factors)
        factors = shares / np.maximum(np.einsum("mnc,mn->mc", kernel, 1 / rows) / n_images, _LEAST_SCALE)
    offsets = np.log(factors)
    offsets -= offsets.mean(axis=1, keepdims=True)
    return offsets * _kept_offset(n_images, n_classes)


def _kept_offset(n_images: int, n_classes: int) -> float:
    """What is kept of an offset: "no bias" counts like one image per class."""
    return n_images / (n_images + n_classes)


def _of_most(nats: NDArray[np.float64], n_classes: int) -> NDArray[np.float64]:
    """Information in units of the most that C classes allow; rounding may leave 0 to 1, and -0.0 prints badly."""
    return np.clip(nats / np.log(max(n_classes, 2)), 0, 1) + 0.0


def _win_shares(
    plain: NDArray[np.float64], corrected: NDArray[np.float64], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[M] how often each model has the highest score when the images are drawn again (seeded bootstrap).

    From probabilities [M, N, C] without and with the bias correction.
    The weights of the models in the pool that they agree with are those of each resample; the bias correction is not
    gathered again.
    """
    n_models, n_images, n_classes = plain.shape
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=_RESAMPLES) / n_images
    information = np.stack([_of_most(_resampled_information(model, counts), n_classes) for model in plain])
    weights = pooling_weights(_with_label(information, prior), n_classes)
    agreement = np.zeros((n_models, _RESAMPLES))
    for answers, image, count in zip(plain.argmax(axis=2).T, corrected.transpose(1, 0, 2), counts.T, strict=True):
        together = np.round(weights.T @ image, _DIGITS).argmax(axis=1)
        agreement += (answers[:, None] == together) * count
    scores = _with_label(agreement, prior)
    return np.bincount(np.round(scores, _DIGITS).argmax(axis=0), minlength=n_models) / _RESAMPLES


def _resampled_information(probabilities: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B] mutual information of one model's probabilities [N, C] with weights [B, N] of the images."""
    return entropy(counts @ probabilities) - counts @ entropy(probabilities)
