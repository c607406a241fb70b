"""Published ways to adapt a zero-shot head to images, for comparison; NumPy on unit-norm embeddings.

All get the zero-shot head of one model (``Head``, with the model's own scale), unlabeled images or examples, and return
the logits [K, C] of other images, or of the same. Constants are the authors', none is tuned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import MissingExtraError
from mll_hf.selection.probabilities import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.selection.head import Head

    Floats = NDArray[np.floating]
    Classes = NDArray[np.int64]

_GDA_STRENGTH, _GDA_RIDGE, _GDA_PSEUDO_IMAGES, _GDA_ROUNDS = 0.05, 0.9, 4.0, 3
_PROBE_PENALTY = 0.1
_TIP_ALPHA, _TIP_BETA = 1.0, 5.5  # residual ratio and sharpness
_CLAP_EPOCHS, _CLAP_RATE, _CLAP_WARMUP_RATE, _CLAP_MOMENTUM = 300, 0.1, 1e-5, 0.9
_TRANSCLIP_ITERATIONS, _TRANSCLIP_INNER, _NEIGHBORS, _CONFIDENT, _TRANSCLIP_TEMPERATURE = 10, 5, 3, 8, 50.0


def gda(images: Floats, classes: Classes, head: Head, scored: Floats) -> Floats:
    """Gaussian discriminant analysis by EM, added to the zero-shot head with a fixed strength; examples come first."""
    center = images.mean(axis=0)
    centered, n_classes = images - center, len(head.bias)
    probabilities = softmax(head.logits(images))
    for _ in range(_GDA_ROUNDS):
        probabilities[: len(classes)] = np.eye(n_classes)[classes]
        counts = probabilities.sum(axis=0)
        means = probabilities.T @ centered / (counts + _GDA_PSEUDO_IMAGES)[:, None]
        within = (centered.T @ centered - (means.T * counts) @ means) / len(images)
        ridge = _GDA_RIDGE * np.trace(within) / len(within) * np.eye(len(within))
        weights = np.linalg.solve((1 - _GDA_RIDGE) * within + ridge, means.T)
        bias = (means * weights.T).sum(axis=1) / 2
        probabilities = softmax(head.logits(images) + _GDA_STRENGTH * (centered @ weights - bias))
    return head.logits(scored) + _GDA_STRENGTH * ((scored - center) @ weights - bias)


def linear_probe(examples: Floats, classes: Classes, n_classes: int, scored: Floats) -> Floats:
    """Multinomial logistic regression on the examples alone, with an L2 penalty; weights are in their span.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise MissingExtraError("scipy", "bench") from error

    center = examples.mean(axis=0)
    x, truth = examples - center, np.eye(n_classes)[classes]
    gram = x @ x.T

    def loss(flat: Floats) -> tuple[float, Floats]:
        duals, bias = np.split(flat, [gram.size // len(gram) * n_classes])
        duals = duals.reshape(len(gram), n_classes)
        probabilities = softmax(gram @ duals + bias)
        value = -np.log(np.maximum(probabilities[truth > 0], 1e-300)).sum() + _PROBE_PENALTY / 2 * np.sum(
            duals * (gram @ duals)
        )
        residual = probabilities - truth
        return float(value), np.concatenate([(gram @ (residual + _PROBE_PENALTY * duals)).ravel(), residual.sum(0)])

    found = minimize(loss, np.zeros((len(x) + 1) * n_classes), jac=True, method="L-BFGS-B", options={"maxiter": 100}).x
    return (scored - center) @ x.T @ found[:-n_classes].reshape(len(x), n_classes) + found[-n_classes:]


def tip_adapter(examples: Floats, classes: Classes, head: Head, scored: Floats) -> Floats:
    """Tip-Adapter without training (Zhang et al., ECCV 2022): the examples are a cache of keys and values."""
    affinity = np.exp(-_TIP_BETA * (1 - scored @ examples.T))
    return head.logits(scored) + _TIP_ALPHA * affinity @ np.eye(len(head.bias))[classes]


def clap(examples: Floats, classes: Classes, head: Head, scored: Floats) -> Floats:
    """CLAP (Silva-Rodriguez et al., CVPR 2024): a probe from the zero-shot head, held near it for classes it knows.

    As in the authors' code: gradient descent with momentum and a cosine schedule. Not so: no augmented images, and
    classes without examples, which the authors never have, are held as the mean of the others.
    """
    scale = np.linalg.norm(head.weights, axis=1).mean()
    texts = head.weights / np.linalg.norm(head.weights, axis=1, keepdims=True)
    truth = np.eye(len(texts))[classes]
    known, counts = (softmax(head.logits(examples)) * truth).sum(axis=0), truth.sum(axis=0)
    held = np.where(counts > 0, known / np.maximum(counts, 1), known.sum() / counts.sum())
    weights, velocity = texts.astype(np.float64), np.zeros(texts.shape)
    for epoch in range(_CLAP_EPOCHS):
        norms = np.linalg.norm(weights, axis=1, keepdims=True)
        unit = weights / norms
        errors = softmax(scale * examples @ unit.T) - truth
        slope = scale * errors.T @ examples / len(examples)
        slope = (slope - (slope * unit).sum(axis=1, keepdims=True) * unit) / norms
        velocity = _CLAP_MOMENTUM * velocity + slope + 2 * held[:, None] * (weights - texts) / len(texts)
        rate = _CLAP_RATE * (1 + np.cos(np.pi * epoch / _CLAP_EPOCHS)) / 2 if epoch else _CLAP_WARMUP_RATE
        weights = weights - rate * velocity
    return scale * scored @ (weights / np.linalg.norm(weights, axis=1, keepdims=True)).T


def transclip(images: Floats, head: Head) -> Floats:
    """[N, C] assignments of TransCLIP without examples (Zanella et al., NeurIPS 2024), for its own images.

    As in the authors' code: diagonal covariance, three neighbors, a temperature of 50, ten iterations.
    """
    from scipy.sparse import csr_matrix

    n_images, n_dimensions = images.shape
    prior = softmax(head.logits(images))
    confident = np.argsort(-prior, axis=0)[:_CONFIDENT]
    means = np.stack([prior[rows, c] @ images[rows] for c, rows in enumerate(confident.T)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    affinity = images @ images.T
    nearest = np.argsort(-affinity, axis=1)[:, 1 : _NEIGHBORS + 1]
    rows = np.repeat(np.arange(n_images), _NEIGHBORS)
    graph = csr_matrix((affinity[rows, nearest.ravel()], (rows, nearest.ravel())), (n_images, n_images))
    graph = graph + graph.T
    variances, assigned, squares = np.full(n_dimensions, 1 / n_dimensions), prior, images**2
    for iteration in range(_TRANSCLIP_ITERATIONS + 1):
        scaled = means / variances
        distances = (squares / variances).sum(axis=1)[:, None] - 2 * images @ scaled.T + (means * scaled).sum(axis=1)
        for _ in range(_TRANSCLIP_INNER):
            spread = _TRANSCLIP_TEMPERATURE / (2 * _NEIGHBORS) * (graph @ assigned)
            exponent = (spread - distances / 2) / _TRANSCLIP_TEMPERATURE
            assigned = prior * np.exp(exponent - exponent.max(axis=1, keepdims=True))
            assigned /= assigned.sum(axis=1, keepdims=True)
        if iteration < _TRANSCLIP_ITERATIONS:
            counts = assigned.sum(axis=0)
            means = assigned.T @ images
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            spread_of = squares.sum(axis=0) - 2 * (means * (assigned.T @ images)).sum(axis=0) + counts @ means**2
            variances = spread_of / n_images
    return assigned
