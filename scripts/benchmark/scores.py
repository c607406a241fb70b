"""Baselines that score models on images of a task: without classes, and with the classes of a few images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.metrics import Floats, Integers

_TINY = 1e-12


def mean_confidence(probabilities: Floats) -> NDArray[np.float64]:
    """[M] mean over images of the highest probability (Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136)."""
    return probabilities.max(axis=-1).mean(axis=-1, dtype=np.float64)


def leep(probabilities: Floats, labels: Integers) -> float:
    """Log expected empirical prediction (Nguyen et al., ICML 2020, arXiv 2002.12462), at most 0.

    ``mean_n log sum_z P(y_n | z) p_z(x_n)``, where ``p`` are the model's probabilities [N, Z] of its own classes, and
    P(y | z) is the share of class y in the probability that the model gives to its class z over the N images.
    """
    weights = probabilities.astype(np.float64)
    joint = _sums_by_class(weights, labels)
    total = joint.sum(axis=0)
    given = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)
    of_images = given[np.unique(labels, return_inverse=True)[1]]
    expected = np.einsum("nz,nz->n", weights, of_images) / weights.sum(axis=1)
    return float(np.log(np.maximum(expected, _TINY)).mean())


def _sums_by_class(rows: NDArray[np.float64], labels: Integers) -> NDArray[np.float64]:
    """[Y, K] sums of rows [N, K] over the images of each of the Y classes that occur."""
    _, y = np.unique(labels, return_inverse=True)
    sums = np.zeros((y.max() + 1, rows.shape[1]))
    np.add.at(sums, y, rows)
    return sums
