"""Transferability scores of one model, from a few labeled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.bench.metrics import Floats, Integers

_MAX_STEPS = 100
_CONVERGED = 1e-6
_TINY = 1e-12
_RANK = 1e-10  # smaller singular values, relative to the greatest, are rounding errors


def nce(predicted: Integers, labels: Integers) -> float:
    """Negative conditional entropy (Tran et al., ICCV 2019, arXiv 1908.08142): ``-H(Y | Z)`` in nats, at most 0.

    Args:
        predicted: [N] the model's predictions Z, indices of any classes.
        labels: [N] the true classes Y.
    """
    _, z = np.unique(predicted, return_inverse=True)
    _, y = np.unique(labels, return_inverse=True)
    joint = np.zeros((y.max() + 1, z.max() + 1))
    np.add.at(joint, (y, z), 1 / len(y))
    given = joint / joint.sum(axis=0)
    return float((joint * np.log(given, out=np.zeros_like(given), where=given > 0)).sum())


def leep(probabilities: Floats, labels: Integers) -> float:
    """Log expected empirical prediction (Nguyen et al., ICML 2020, arXiv 2002.12462), at most 0.

    ``mean_n log sum_z P(y_n | z) p_z(x_n)``, where P(y | z) is the share of class y in the probability that the model
    gives to its class z over the N images.

    Args:
        probabilities: [N, Z] the model's probabilities of its own Z classes.
        labels: [N] the true classes.
    """
    weights = probabilities.astype(np.float64)
    _, y = np.unique(labels, return_inverse=True)
    joint = np.zeros((y.max() + 1, weights.shape[1]))
    np.add.at(joint, y, weights)
    total = joint.sum(axis=0)
    given = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)
    expected = np.einsum("nz,nz->n", weights, given[y]) / weights.sum(axis=1)
    return float(np.log(np.maximum(expected, _TINY)).mean())


def logme(features: Floats, labels: Integers) -> float:
    """Logarithm of the maximum evidence (You et al., ICML 2021, arXiv 2102.11005), per image.

    For each class that occurs, the evidence ``p(y | F, alpha, beta)`` of a linear model ``y = F w + noise`` of its
    one-hot labels, with prior ``w ~ N(0, I / alpha)`` and noise of variance ``1 / beta``, is maximized over alpha and
    beta by MacKay's fixed point, and its logarithm averaged over classes and divided by N.

    Args:
        features: [N, D] embeddings of the images.
        labels: [N] the true classes.
    """
    whole = features.astype(np.float64)
    left, singular, _ = np.linalg.svd(whole, full_matrices=False)
    targets = (labels[:, None] == np.unique(labels)).astype(np.float64)
    squares = (left.T @ targets) ** 2  # [min(N, D), C]: how much of each target lies along each singular vector
    rest = np.maximum((targets**2).sum(axis=0) - squares.sum(axis=0), 0)
    return float(_evidences(singular**2, squares, rest, len(whole)).mean())


def _evidences(
    variances: NDArray[np.float64], along: NDArray[np.float64], out: NDArray[np.float64], n_images: int
) -> NDArray[np.float64]:
    """[C] maximum log evidence of each class's target, per image.

    Args:
        variances: [K] squared singular values of the features.
        along: [K, C] squared part of each target along each singular vector.
        out: [C] squared part of each target outside of all of them.
        n_images: N.
    """
    alpha, beta = np.ones(len(out)), np.ones(len(out))
    for _ in range(_MAX_STEPS):
        ratio = alpha / beta
        effective, weights, residual = _fit(variances, along, out, ratio)
        # A target fitted without error has unbounded evidence; the floors keep it finite
        alpha = np.maximum(effective, _TINY) / np.maximum(weights, _TINY)
        beta = np.maximum(n_images - effective, _TINY) / np.maximum(residual, _TINY)
        if (np.abs(alpha / beta - ratio) <= _CONVERGED * ratio).all():
            break
    _, weights, residual = _fit(variances, along, out, alpha / beta)
    evidences = (
        len(variances) * np.log(alpha)  # the other D - K terms cancel with those of the determinant
        + n_images * np.log(beta / (2 * np.pi))
        - np.log(alpha + beta * variances[:, None]).sum(axis=0)
        - beta * residual
        - alpha * weights
    ) / 2
    return evidences / n_images


def _fit(
    variances: NDArray[np.float64], along: NDArray[np.float64], out: NDArray[np.float64], ratio: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """[C] each: effective number of parameters, squared norm of the mean weights, squared error; ratio is [C]."""
    ridge = variances[:, None] + ratio
    shrunk = ratio / ridge
    effective = len(variances) - shrunk.sum(axis=0)
    weights = (variances[:, None] * along / ridge**2).sum(axis=0)
    return effective, weights, (along * shrunk**2).sum(axis=0) + out


def shrunk_h_score(features: Floats, labels: Integers) -> float:
    """H-score with a Ledoit-Wolf covariance, for few images (Ibrahim et al., ECML PKDD 2022, arXiv 2110.06893).

    ``(1 - a) tr(cov_a(f)^-1 cov(E[f | y]))``, where a is the shrinkage of ``cov_a = (1 - a) cov + a tr(cov) / D I``.
    Without shrinkage (Bao et al., ICIP 2019) the score of fewer images than dimensions is the same for all features.

    Args:
        features: [N, D] embeddings of the images.
        labels: [N] the true classes.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, y = np.unique(labels, return_inverse=True)
    means = np.zeros((y.max() + 1, centred.shape[1]))
    np.add.at(means, y, centred)
    between = (means / np.bincount(y)[:, None])[y]  # [N, D] in place of each image the mean of its class
    n_images, n_features = centred.shape
    covariance = centred.T @ centred / n_images
    level = np.trace(covariance) / n_features
    spread = ((covariance - level * np.eye(n_features)) ** 2).sum()
    noise = (((centred**2).sum(axis=1) ** 2).mean() - (covariance**2).sum()) / n_images
    shrinkage = min(noise / spread, 1.0) if spread > 0 else 1.0
    shrunk = (1 - shrinkage) * covariance + shrinkage * level * np.eye(n_features)
    inverse = np.linalg.pinv(shrunk, rcond=_RANK, hermitian=True)
    return float((1 - shrinkage) * np.trace(inverse @ (between.T @ between / n_images)))
