"""Scores of models on images of a task: without labels from class probabilities, and transferability with labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.probabilities import entropy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.metrics import Floats, Integers

_MAX_STEPS = 100
_CONVERGED = 1e-6
_TINY = 1e-12
_RANK = 1e-10  # smaller singular values, relative to the greatest, are rounding errors


# --- without labels ---------------------------------------------------------------------------------------------------
# From class probabilities [M, N, C] of M models on N images. These scores depend on how confident a model is, so they
# compare models fairly only if the models are calibrated alike.


def nuclear_norm(probabilities: Floats) -> NDArray[np.float64]:
    """[M] nuclear norm over its maximum, ``sqrt(N min(N, C))`` (Deng et al., ICML 2023, arXiv 2302.01094)."""
    _, n_images, n_classes = probabilities.shape
    singular = np.linalg.svd(probabilities.astype(np.float64), compute_uv=False)
    return singular.sum(axis=-1) / np.sqrt(n_images * min(n_images, n_classes))


def mean_confidence(probabilities: Floats) -> NDArray[np.float64]:
    """[M] mean over images of the highest probability (Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136)."""
    return probabilities.max(axis=-1).mean(axis=-1, dtype=np.float64)


def certainty(probabilities: Floats) -> NDArray[np.float64]:
    """[M] minus the mean entropy in nats, after "Ranked from Within" (arXiv 2412.06461)."""
    return -entropy(probabilities).mean(axis=-1)


# --- with the true classes [N] of a few images, for one model ---------------------------------------------------------


def nce(predicted: Integers, labels: Integers) -> float:
    """Negative conditional entropy (Tran et al., ICCV 2019, arXiv 1908.08142): ``-H(Y | Z)`` in nats, at most 0.

    Y are the true classes; Z are the predictions [N], indices of any classes.
    """
    classes, z = np.unique(predicted, return_inverse=True)
    joint = _sums_by_class(np.eye(len(classes))[z], labels)
    given = joint / joint.sum(axis=0)
    return float((joint * np.log(given, out=np.zeros_like(given), where=given > 0)).sum() / len(labels))


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


def logme(features: Floats, labels: Integers) -> float:
    """Logarithm of the maximum evidence of features [N, D] (You et al., ICML 2021, arXiv 2102.11005), per image.

    For each class that occurs, the evidence ``p(y | F, alpha, beta)`` of a linear model ``y = F w + noise`` of its
    one-hot labels, with prior ``w ~ N(0, I / alpha)`` and noise of variance ``1 / beta``, is maximized over alpha and
    beta by MacKay's fixed point, and its logarithm averaged over classes and divided by N.
    """
    n_images = len(labels)
    left, singular, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    targets = (labels[:, None] == np.unique(labels)).astype(np.float64)
    variances = singular[:, None] ** 2
    along = (left.T @ targets) ** 2  # [min(N, D), C]: how much of each target lies along each singular vector
    out = np.maximum((targets**2).sum(axis=0) - along.sum(axis=0), 0)

    def fit(ratio: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """[C] effective number of parameters, squared norm of the mean weights and squared error, by alpha / beta."""
        ridge = variances + ratio
        shrunk = ratio / ridge
        norm = (variances * along / ridge**2).sum(axis=0)
        return len(variances) - shrunk.sum(axis=0), norm, (along * shrunk**2).sum(axis=0) + out

    alpha, beta = np.ones(len(out)), np.ones(len(out))
    for _ in range(_MAX_STEPS):
        ratio = alpha / beta
        effective, norm, error = fit(ratio)
        # A target fitted without error has unbounded evidence; the floors keep it finite
        alpha = np.maximum(effective, _TINY) / np.maximum(norm, _TINY)
        beta = np.maximum(n_images - effective, _TINY) / np.maximum(error, _TINY)
        if (np.abs(alpha / beta - ratio) <= _CONVERGED * ratio).all():
            break
    _, norm, error = fit(alpha / beta)
    evidence = (
        len(variances) * np.log(alpha)  # the other D - K terms cancel with those of the determinant
        + n_images * np.log(beta / (2 * np.pi))
        - np.log(alpha + beta * variances).sum(axis=0)
        - beta * error
        - alpha * norm
    ) / 2
    return float(evidence.mean() / n_images)


def shrunk_h_score(features: Floats, labels: Integers) -> float:
    """H-score of features [N, D] with a Ledoit-Wolf covariance (Ibrahim et al., ECML PKDD 2022, arXiv 2110.06893).

    ``(1 - a) tr(cov_a(f)^-1 cov(E[f | y]))``, where a is the shrinkage of ``cov_a = (1 - a) cov + a tr(cov) / D I``.
    Without shrinkage (Bao et al., ICIP 2019) the score of fewer images than dimensions is the same for all features.
    """
    centered = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    n_images, n_features = centered.shape
    _, y, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = (_sums_by_class(centered, labels) / counts[:, None])[
        y
    ]  # [N, D] in place of each image the mean of its class
    covariance = centered.T @ centered / n_images
    level = np.trace(covariance) / n_features
    spread = ((covariance - level * np.eye(n_features)) ** 2).sum()
    noise = (((centered**2).sum(axis=1) ** 2).mean() - (covariance**2).sum()) / n_images
    shrinkage = min(noise / spread, 1.0) if spread > 0 else 1.0
    shrunk = (1 - shrinkage) * covariance + shrinkage * level * np.eye(n_features)
    inverse = np.linalg.pinv(shrunk, rcond=_RANK, hermitian=True)
    return float((1 - shrinkage) * np.trace(inverse @ (means.T @ means / n_images)))


def _sums_by_class(rows: NDArray[np.float64], labels: Integers) -> NDArray[np.float64]:
    """[Y, K] sums of rows [N, K] over the images of each of the Y classes that occur."""
    _, y = np.unique(labels, return_inverse=True)
    sums = np.zeros((y.max() + 1, rows.shape[1]))
    np.add.at(sums, y, rows)
    return sums
