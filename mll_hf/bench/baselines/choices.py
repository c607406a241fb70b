"""Choices of a single model: what nobody can know, what anybody can, and none at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.bench.metrics import Floats


def best_by(scores: Floats) -> int:
    """The first of the models with the greatest score [M].

    With ImageNet accuracies it is the ImageNet baseline (INB) of LOVM (arXiv 2306.08893), with mean node precisions
    the generally best model by label.
    """
    return int(np.argmax(scores))


def best_fixed(accuracies: Floats) -> int:
    """The model with the best mean over all tasks [M, T], known in hindsight only."""
    return int(np.argmax(accuracies.mean(axis=1)))


def oracle(accuracies: Floats) -> NDArray[np.int64]:
    """[T] the best model of each task, given all accuracies [M, T]: no choice of one model per task can beat it."""
    return np.argmax(accuracies, axis=0)


def random_accuracy(accuracies: Floats) -> NDArray[np.float64]:
    """[T] what a model drawn at random is expected to have, given all accuracies [M, T]."""
    return accuracies.mean(axis=0, dtype=np.float64)
