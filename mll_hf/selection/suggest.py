"""Examples: which images to label, what each counts, and their folds for cross-validation.

Images to label are a random sample of those whose class tells most, with weights that make up for the choice.

Images are drawn by systematic sampling with unequal probabilities (Madow, 1949), in the order of their predicted class
and certainty, so that every class and level of certainty has about its share. An image's probability increases with the
uncertainty of its prediction, and never is 0; by weights inverse to it (Horvitz and Thompson, 1952), the sample
estimates class shares and accuracies without bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# The probability of an image is proportional to this number plus the probability of its less probable classes. On
# development data lower ones make the weights too unequal, higher ones gain nothing over equal probabilities.
_CERTAIN = 0.3
FOLDS = 5
_DUPLICATE = 0.97  # cosine of images, relative to the mean image, that are kept in one fold
_MIN_NORM = 1e-12


def suggest(probabilities: Floats, count: int, seed: int = 0) -> tuple[NDArray[np.int64], Floats]:
    """Draw this number of images to label by their predicted probabilities [N, C], not NaN.

    Returns ascending positions [count], and weights [count] with mean 1. An InputError if there are fewer images.
    """
    n_images = len(probabilities)
    if not 1 <= count <= n_images:
        raise InputError(f"{count} images to label are to be suggested of {n_images}; choose 1 to {n_images}")
    certainty = probabilities.max(axis=1).round(6)
    chances = _chances(_CERTAIN + 1 - certainty, count)
    order = np.lexsort((certainty, probabilities.argmax(axis=1)))
    ends = np.cumsum(chances[order])
    points = np.random.default_rng(seed).random() + np.arange(count)
    drawn = np.sort(order[np.searchsorted(ends * (count / ends[-1]), points, side="right")])
    weights = 1 / chances[drawn]
    return drawn, weights / weights.mean()


def _chances(sizes: Floats, count: int) -> Floats:
    """[N] probabilities of being drawn, proportional to sizes but at most 1, which sum to ``count``."""
    chances = np.ones(len(sizes))
    free = np.ones(len(sizes), np.bool_)
    while free.any():
        chances[free] = sizes[free] * ((count - (~free).sum()) / sizes[free].sum())
        if not (chances > 1).any():
            break
        free &= chances < 1
        chances[~free] = 1
    return chances


def effective_counts(weights: Floats) -> Floats:
    """Weights [E] of examples, scaled to sum to the number of equally weighted ones that tell as much."""
    return weights * (weights.sum() / (weights**2).sum())


def folds_of(embeddings: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """[E] fold of each example; classes are spread over folds, and near-duplicates share one."""
    folds = np.empty(len(classes), np.int64)
    folds[np.argsort(classes, kind="stable")] = np.arange(len(classes)) % min(FOLDS, len(classes))
    centered = embeddings - embeddings.mean(axis=0)
    centered /= np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), _MIN_NORM)
    twins = (centered @ centered.T > _DUPLICATE) | np.eye(len(classes), dtype=np.bool_)
    first = np.arange(len(classes))
    while (spread := np.where(twins, first, len(classes)).min(axis=1)).sum() < first.sum():
        first = spread
    return folds[first]
