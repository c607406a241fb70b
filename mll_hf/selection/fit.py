"""Fit heads to a user's images: N images, of which the first E are examples with their class. Pure NumPy.

A fitted head adds to a zero-shot head, whose logits are ``z``, what Gaussian discriminant analysis with a common
covariance says of the embedding x (Wang et al., "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", ICLR
2024, without its mixture weight), with a strength t, and corrections of the class::

    logits = z + t (x - m / 2)' S^-1 m + log share + offset

where m is the mean image of a class and S the covariance within classes, both relative to the mean of all images.
Unlabeled images take part by expectation maximization (EM): means and shares weigh them by the probabilities that the
heads give. It differs from the textbook in four points, each chosen on development data:

1. Zero-shot logits are scaled to a common spread, and t is small, since dimensions of an embedding are not independent.
2. The covariance is shrunk toward a multiple of the identity, means toward the mean of all images by pseudo-images,
   shares toward equal ones, with few images per class still more. One pseudo-image of each class is where its text
   says, at the distance from the mean at which the images are.
3. Several models are fitted together: all learn from their pooled probabilities, so the cheap ones from the dear ones,
   and the offsets make each one's mean probabilities those of the pool. The pool starts with the most informative
   models; then all weigh by their agreement with it beyond chance. A single model has nothing to correct it, so it is
   fitted with more caution, and has no offsets.
4. With examples, each model's strength is chosen by cross-validation; 0 is the zero-shot head, and 1 leaves it out,
   for names that say nothing. Unlabeled images then weigh less the less certain the models are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.head import Head
from mll_hf.selection.probabilities import DIGITS, image_scale, kappa, mutual_information, pooling_weights, softmax
from mll_hf.selection.suggest import FOLDS, effective_counts, folds_of
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Classes = NDArray[np.int64]

SHARPNESS = 2.0  # standard deviation of scaled logits
STRENGTHS = (0.0, 0.03, 0.1, 0.3, 1.0)
DEFAULT = 2  # position of the strength without examples
_IMAGES_PER_CLASS = 4  # with fewer images the strength without examples is lower
_MIN_FACTOR = 0.5  # of the strength of a single model; below it stays as it is
_RIDGE = 0.9  # shrinkage of the covariance
_MIN_EQUAL = 4.0  # pseudo-images per class in the estimate of shares, at least
_TRUST = 5.0  # the pool's shares weigh as much as this number of examples per class
_ALONE = 0.3  # strength of the images where the zero-shot head is left out, and weight of unlabeled images there
_FIRST = 3  # the pool starts with the most informative models, so that many weak ones do not outvote them
_ROUNDS, _STEPS = 2, 5
_MIN_PROBABILITY = 0.01  # of the true class of an example, when strengths are compared
_LOG_LOSS = 0.5  # weight of the log loss beside the errors, when strengths are compared
_ADVANTAGE = np.array([0.2, 0.2, 0.0, 1.0, 1.0])  # loss by which each strength must be better than the default
_ALONE_ADVANTAGE = 0.15  # the same per example, where the zero-shot head is left out
_NONE = np.empty(0, np.int64)
_MIN_SCALE = 1e-12


@dataclass(frozen=True, slots=True)
class _Caution:
    """How strongly estimates from the images are shrunk."""

    pseudo_images: float  # per class, at the mean of all images
    text_images: float  # per class, where its text says that its images are
    equal_shares: float  # weight of equal shares, relative to all images


_ONE_MODEL = _Caution(16.0, 0.0, 4.0)
_MANY_MODELS = _Caution(4.0, 1.0, 1.0)
_EXAMPLES = _Caution(1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Fit(ArrayFields):
    """T models fitted to the images of a task.

    Attributes:
        zero_shot: [T] calibrated zero-shot heads.
        heads: [T] fitted heads; the zero-shot head where the strength is 0.
        strengths: [T] strengths of the fit.
        weights: [T] weights of the models in a pool, summing to one.
        shares: [C] estimated class shares.
        agreement: [T, 2] share of the images on which the zero-shot head, and one fitted to other images, predict what
            the pool predicts.
        scores: [T] agreement of the fitted heads, or where predictions are uncertain their information; ranks models.
        held_out: [T, N, C] logits of the fitted heads, each fitted without the image.
        right: [T + 1, 2] effective number of examples that zero-shot and fitted head predict correctly in
            cross-validation, with the choice of the strength inside; last row: the pool. None without examples.
        n_effective: Effective number of examples, of which these are right.
    """

    zero_shot: tuple[Head, ...]
    heads: tuple[Head, ...]
    strengths: Floats
    weights: Floats
    shares: Floats
    agreement: Floats
    scores: Floats
    held_out: Floats
    right: Floats | None
    n_effective: float


def fit(
    embeddings: Sequence[NDArray[np.float32]],
    heads: Sequence[Head],
    classes: Classes | None = None,
    shares: Floats | None = None,
    weights: Floats | None = None,
) -> Fit:
    """Fit the heads of T models.

    Args:
        embeddings: [N, D] of each model, at unit norm; examples first.
        heads: Zero-shot head of each model.
        classes: [E] classes of the examples; None for no examples.
        shares: [C] class shares; None to estimate them.
        weights: [E] weights of the examples in estimates of shares and accuracy; None for equal ones.

    Raises:
        InputError: An embedding is not finite.
    """
    images = _Images.of(embeddings, heads, shares)
    if classes is None or not len(classes):
        strengths = np.full(len(heads), images.default_strength)
        return images.fitted([images.start] * len(heads), strengths, None)
    folds = folds_of(embeddings[0][: len(classes)], classes)
    images = replace(images, counts=effective_counts(np.ones(len(classes)) if weights is None else weights))
    losses, predicted = _cross_validate(images, classes, folds)
    chosen = _best_strengths(losses.sum(axis=2), len(classes))
    states = {s: images.em(STRENGTHS[s], np.arange(len(classes)), classes) for s in set(chosen.tolist())}
    right = _count_right(losses, predicted, folds, images, classes)
    right[:-1][chosen == 0, 1] = right[:-1][chosen == 0, 0]  # it is the zero-shot head
    return images.fitted([states[s] for s in chosen], np.array(STRENGTHS)[chosen], right)


# --- expectation maximization -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _State:
    """The state of an EM for T models, N images and C classes."""

    pool: Floats  # [N, C] pooled probabilities
    offsets: Floats  # [T, C] to use next
    logits: Floats  # [T, N, C]
    means: Floats  # [N + C, C] weights of the images and texts in the mean images of the classes
    bias: Floats  # [T, C] of the heads, relative to the zero-shot heads and the mean of all images
    shares: Floats  # [C]


@dataclass(frozen=True, eq=False)
class _Images:
    """The images as T models see them."""

    zero_shot: tuple[Head, ...]  # [T] calibrated
    logits: Floats  # [T, N, C] of these heads
    information: Floats  # [T] mutual information of images and predictions, relative to its maximum
    weights: Floats  # [T]
    given: Floats | None  # [C] shares
    centers: list[Floats]  # [D] mean image of each model
    solved: list[Floats]  # [N + C, D] centered images and texts, times the inverse covariance within classes
    kernels: list[Floats]  # [N + C, N + C] inner products of these by that inverse
    counts: Floats  # [E] effective number of each example
    start: _State  # after an EM without examples, from which all others start

    @classmethod
    def of(cls, embeddings: Sequence[NDArray[np.float32]], heads: Sequence[Head], shares: Floats | None) -> _Images:
        """Calibrate the heads, weight the models, and estimate their covariances by an EM without examples."""
        if not all(np.isfinite(each).all() for each in embeddings):
            raise InputError("an embedding is not finite; leave out the model or the image")
        pairs = list(zip(heads, embeddings, strict=True))
        zero_shot = tuple(head.calibrated(image_scale(head.logits(each)) / SHARPNESS) for head, each in pairs)
        found = [head.logits(each) for head, (_, each) in zip(zero_shot, pairs, strict=True)]
        logits: Floats = np.stack(found).astype(np.float64)
        first, n_classes = softmax(logits), logits.shape[2]
        information = np.clip(mutual_information(first) / np.log(max(n_classes, 2)), 0, 1)
        is_first = information >= np.sort(information)[-_FIRST:][0]
        weights = np.where(is_first, pooling_weights(information, n_classes), 0.0)
        weights /= weights.sum()
        offsets = np.zeros((len(logits), n_classes))
        for _ in range(_STEPS):
            probabilities = softmax(logits + offsets[:, None])
            pool = np.tensordot(weights, probabilities, axes=1)
            offsets = offsets + _correction(probabilities, pool, shares, np.zeros((0, n_classes)))
        pool = np.tensordot(weights, softmax(logits + offsets[:, None]), axes=1)
        weights = pooling_weights(kappa(first, pool), n_classes)
        pool = np.tensordot(weights, softmax(logits + offsets[:, None]), axes=1)
        centers = [each.mean(axis=0, dtype=np.float64) for each in embeddings]
        centered = [each - center for each, center in zip(embeddings, centers, strict=True)]
        scatters, none = [each.T @ each for each in centered], np.zeros(0)
        state = _State(pool, offsets, logits, pool, offsets, pool.mean(axis=0))
        images = cls(zero_shot, logits, information, weights, shares, centers, [], [], none, state)
        for _ in range(_ROUNDS):
            parts, pseudo_images = zip(centered, scatters, zero_shot, strict=True), images.caution(0).pseudo_images
            by_model = [_solve_within(*part, state.pool, pseudo_images) for part in parts]
            solved, kernels = map(list, zip(*by_model, strict=True))
            images = replace(images, solved=solved, kernels=kernels, start=state)
            state = images.em(images.default_strength)
        return replace(images, start=state)

    @property
    def certainty(self) -> float:
        """How far to rely on the probabilities of the models, 0 to 1."""
        low, high = (0.4, 0.6) if len(self.logits) == 1 else (0.35, 0.45)
        return float(np.clip((self.information.max() - low) / (high - low), 0, 1))

    @property
    def default_strength(self) -> float:
        """The strength of a fit without examples; lower where images per class are few or predictions uncertain."""
        factor = self.certainty * self.sufficiency
        return STRENGTHS[DEFAULT] * (0 if len(self.logits) == 1 and factor < _MIN_FACTOR else factor)

    @property
    def sufficiency(self) -> float:
        """How far there are enough images per class, 0 to 1."""
        return float(min(1.0, self.logits.shape[1] / (_IMAGES_PER_CLASS * self.logits.shape[2])) ** 2)

    def caution(self, n_examples: int) -> _Caution:
        """How strongly to shrink what so many examples and the other images tell."""
        if n_examples:
            return _EXAMPLES
        return _ONE_MODEL if len(self.logits) == 1 and self.given is None else _MANY_MODELS

    def em(
        self, strength: float, known: Classes = _NONE, classes: Classes = _NONE, held_out: Classes = _NONE
    ) -> _State:
        """Run EM from the start, with the classes of the images at some positions known, without those held out."""
        state, caution = self.start, self.caution(len(known))
        text, strength = _parts(strength)
        unlabeled_weight = self.certainty if len(known) else 1.0
        if text == 0:  # the examples alone tell the classes at first
            state, unlabeled_weight = replace(state, pool=np.zeros_like(state.pool)), _ALONE
        examples = np.eye(self.logits.shape[2])[classes]
        counted = examples * self.counts[known, None]
        for _ in range(_STEPS):
            pool = state.pool.copy()
            pool[known], pool[held_out] = examples, 0
            shares = self._shares(pool, counted, caution)
            weighted = pool * unlabeled_weight
            weighted[known] = examples
            weighted = np.concatenate([weighted, text * caution.text_images * np.eye(weighted.shape[1])])
            means = weighted / (weighted.sum(axis=0) + caution.pseudo_images)
            logits, bias = text * self.logits, text * state.offsets + np.log(shares * len(shares))
            for each, own_bias, kernel in zip(logits, bias, self.kernels, strict=True):
                products = kernel @ means
                own_bias -= strength / 2 * (means * products).sum(axis=0)
                each += strength * products[: len(each)] + own_bias
            probabilities = softmax(logits)
            pool = np.tensordot(self.weights, probabilities, axes=1)
            pool[known], pool[held_out] = examples, 0
            offsets = state.offsets + _correction(probabilities, pool, self.given, counted)
            state = _State(pool, offsets, logits, means, bias, shares)
        return state

    def _shares(self, pool: Floats, examples: Floats, caution: _Caution) -> Floats:
        """[C] shares for the prior of the classes, shrunk toward equal ones."""
        if self.given is not None:
            return self.given
        n_images, n_classes = pool.shape
        counts = n_images * _expected_shares(pool, examples)
        counts = (counts + max(caution.equal_shares * n_images / n_classes, _MIN_EQUAL)) ** self.sufficiency
        return counts / counts.sum()

    def fitted(self, states: Sequence[_State], strengths: Floats, right: Floats | None) -> Fit:
        """The fit with the state and strength of each model."""
        heads = []
        for m, (head, state) in enumerate(zip(self.zero_shot, states, strict=True)):
            if strengths[m] == 0:
                heads.append(head)
                continue
            text, strength = _parts(strengths[m])
            weights = strength * (state.means.T @ self.solved[m])
            bias = text * head.bias + state.bias[m] - weights @ self.centers[m]
            heads.append(
                Head((text * head.weights + weights).astype(np.float32), bias.astype(np.float32), is_fitted=True)
            )
        logits = np.stack([self.logits[m] if t == 0 else states[m].logits[m] for m, t in enumerate(strengths)])
        pool = _pooled(self.weights, softmax(logits)).argmax(axis=1)
        held_out = np.stack([self._held_out(m, states[m], strengths[m]) for m in range(len(heads))])
        agreement = np.stack([(each.argmax(axis=2) == pool).mean(axis=1) for each in (self.logits, held_out)], axis=1)
        scores = self.certainty * agreement[:, 1] + (1 - self.certainty) * self.information
        return Fit(
            self.zero_shot, tuple(heads), strengths, self.weights, states[0].shares, agreement, scores, held_out, right,
            float(self.counts.sum()),
        )  # fmt: skip

    def _held_out(self, m: int, state: _State, strength: float) -> Floats:
        """[N, C] logits of a model on each image, from mean images without those in its fold."""
        text, strength = _parts(strength)
        logits = np.empty_like(self.logits[m])
        folds = np.arange(len(state.means)) % FOLDS
        folds[len(logits) :] = FOLDS  # texts are in none
        from_all = (state.means * (self.kernels[m] @ state.means)).sum(axis=0)
        for fold in range(FOLDS):
            inside = folds == fold
            means = np.where(inside[:, None], 0, state.means)
            products = self.kernels[m] @ means
            bias = (means * products).sum(axis=0) - from_all
            logits[inside[: len(logits)]] = strength * (products[inside] - bias / 2)
        return text * self.logits[m] + logits + (state.bias[m] if strength else 0)


def _parts(strength: float) -> tuple[float, float]:
    """Weight of the zero-shot logits, and strength of what the images add."""
    return (0.0, _ALONE) if strength == STRENGTHS[-1] else (1.0, strength)


def _solve_within(
    centered: Floats, scatter: Floats, head: Head, pool: Floats, pseudo_images: float
) -> tuple[Floats, Floats]:
    """Images and texts by the shrunk covariance within classes, from probabilities [N, C].

    Returns:
        [N + C, D] centered images, and where texts say that the images of classes are, times the inverse covariance;
        [N + C, N + C] their inner products by it.
    """
    n_images, n_dimensions = centered.shape
    sums, counts = pool.T @ centered, pool.sum(axis=0)
    texts = (head.weights - head.weights.mean(axis=0)).astype(np.float64)
    length = max(0.0, float((sums * texts).sum() / max((counts @ texts**2).sum(), _MIN_SCALE)))
    both = np.concatenate([centered, length * texts])
    means = sums / (counts + pseudo_images)[:, None]
    covariance = (scatter - (means.T * counts) @ means) / n_images
    ridge = max(float(np.trace(covariance)) / n_dimensions, _MIN_SCALE)
    covariance *= 1 - _RIDGE
    covariance[np.diag_indices(n_dimensions)] += _RIDGE * ridge
    solved = np.linalg.solve(covariance, both.T).T
    return solved, both @ solved.T


def _expected_shares(pool: Floats, examples: Floats) -> Floats:
    """[C] class shares from probabilities [N, C] of all images, and the classes [E, C] of weighted examples."""
    trust = _TRUST * pool.shape[1]
    return (examples.sum(axis=0) + trust * pool.sum(axis=0) / max(pool.sum(), _MIN_SCALE)) / (examples.sum() + trust)


def _correction(probabilities: Floats, pool: Floats, given: Floats | None, examples: Floats) -> Floats:
    """[T, C] changes of the offsets that move the mean probabilities [T, N, C] of each model to the shares."""
    _, n_images, n_classes = probabilities.shape
    shares = _expected_shares(pool, examples) if given is None else given
    step = np.log((n_images * shares + _MIN_EQUAL) / (probabilities.sum(axis=1) + _MIN_EQUAL))
    step -= step.mean(axis=1, keepdims=True)
    return step * n_images / (n_images + n_classes)


def _pooled(weights: Floats, probabilities: Floats) -> Floats:
    """[N, C] pool of probabilities [T, N, C], rounded."""
    return np.round(np.tensordot(weights, probabilities, axes=1), DIGITS)


# --- cross-validation -------------------------------------------------------------------------------------------------


def _cross_validate(images: _Images, classes: Classes, folds: Classes) -> tuple[Floats, Floats]:
    """Predict each example from the others, with every strength.

    Returns:
        [S, T, F] losses, summed over the examples of each fold, and [S, T, E, C] probabilities.
    """
    n_models, _, n_classes = images.logits.shape
    predicted = np.empty((len(STRENGTHS), n_models, len(classes), n_classes))
    predicted[0] = softmax(images.logits[:, : len(classes)])
    for fold in np.unique(folds):
        known, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        for s, strength in enumerate(STRENGTHS[1:], 1):
            state = images.em(strength, known, classes[known], held_out)
            predicted[s][:, held_out] = softmax(state.logits[:, held_out])
    true = predicted[:, :, np.arange(len(classes)), classes]
    losses = (predicted.argmax(axis=3) != classes) - _LOG_LOSS * np.log(np.maximum(true, _MIN_PROBABILITY))
    return losses @ np.eye(FOLDS)[folds], predicted


def _best_strengths(losses: Floats, n_examples: int) -> NDArray[np.intp]:
    """[T] positions of the best strengths by losses [S, T] on some examples."""
    advantage = _ADVANTAGE + _ALONE_ADVANTAGE * n_examples * (np.array(STRENGTHS) == 1)
    return np.asarray(np.round(losses + advantage[:, None], DIGITS).argmin(axis=0))


def _count_right(losses: Floats, predicted: Floats, folds: Classes, images: _Images, classes: Classes) -> Floats:
    """[T + 1, 2] effective number of examples that the zero-shot and fitted heads, and their pools, predict correctly.

    The strengths for a fold are chosen by the other folds.
    """
    right = np.zeros((len(images.weights) + 1, 2))
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        chosen = _best_strengths(losses.sum(axis=2) - losses[:, :, fold], len(classes) - len(rows))
        for column, strengths in enumerate((np.zeros_like(chosen), chosen)):
            probabilities = predicted[strengths, np.arange(len(strengths))][:, rows]
            every = np.concatenate([probabilities, _pooled(images.weights, probabilities)[None]])
            right[:, column] += (every.argmax(axis=2) == classes[rows]) @ images.counts[rows]
    return right
