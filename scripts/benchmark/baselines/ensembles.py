"""Ensembles from other papers, of class probabilities [M, N, C] (M models, N images, C classes)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.probabilities import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmark.metrics import Floats

# Settings of the released solver of SOTA.
_ROUNDS = 10
_SHARPNESS = 0.01  # entropic regularization
_SINKHORN_STEPS = 15
_SINKHORN_TOLERANCE = 1e-5
_SEEDS_PER_CLASS = 8
_GAUSSIAN_TEMPERATURE = 50
_TINY = 1e-12


def confidence_ensemble(probabilities: Floats, strong: int) -> NDArray[np.float64]:
    """[N, C] zero-shot ensemble of CoE (Lu et al., ICML 2024, arXiv 2311.17091).

    ``p(x) = (p_strong(x) + sum_i w_i(x) p_i(x)) / 2`` with ``w(x) = softmax over the weak models i of max_c p_i(c|x)``.
    The authors' code divides by the number of models, which changes no prediction.

    Args:
        probabilities: [M, N, C] of at least two models.
        strong: Position of the strong model; all others are weak.
    """
    weak = np.delete(probabilities, strong, axis=0).astype(np.float64)
    weights = np.exp(weak.max(axis=-1))
    return (probabilities[strong] + np.einsum("mn,mnc->nc", weights / weights.sum(axis=0), weak)) / 2


@dataclass(frozen=True)
class Consensus:
    """Result of :func:`sota_transport`."""

    assignment: NDArray[np.float64]  # [N, C] transport plan between images and classes; rows sum to one
    model_weights: NDArray[np.float64]  # [M] agreement of each model with the plan; they sum to one
    feature_weights: NDArray[np.float64]  # the same for each set of features; empty without features


def sota_transport(probabilities: Floats, features: Sequence[Floats] = ()) -> Consensus:
    """Self-adaptive optimal transport, SOTA (arXiv 2506.13723), transductive, with the settings of its released code.

    Each of ten rounds computes visual probabilities from one Gaussian per class, adds them to those of the models by
    weights, turns the sum into an assignment with equally many images per class (Sinkhorn), and updates the weights by
    how often each source agrees with the assignment, and the Gaussians from the assigned images. This costs accuracy if
    classes are not equally frequent.

    Args:
        probabilities: [M, N, C] of each model, from its own logit scale.
        features: [N, D_i] unit-norm image embeddings of any encoders; may be empty.
    """
    models = probabilities.astype(np.float64)
    visual = [_Gaussians.start(models.mean(axis=0), of_encoder.astype(np.float64)) for of_encoder in features]
    model_weights = np.full(len(models), 1 / len(models))
    feature_weights = np.full(len(visual), 1 / max(len(visual), 1))
    for _ in range(_ROUNDS):
        likelihoods = [gaussians.probabilities(x) for gaussians, x in zip(visual, features, strict=True)]
        fused = np.einsum("m,mnc->nc", model_weights, models)
        fused += sum(weight * likelihood for weight, likelihood in zip(feature_weights, likelihoods, strict=True))
        assignment = _sinkhorn(fused)
        answers = assignment.argmax(axis=1)
        model_weights = _agreement([model.argmax(axis=1) for model in models], answers)
        feature_weights = _agreement([likelihood.argmax(axis=1) for likelihood in likelihoods], answers)
        visual = [_Gaussians.fit(assignment, x.astype(np.float64)) for x in features]
    return Consensus(assignment, model_weights, feature_weights)


@dataclass(frozen=True)
class _Gaussians:
    """One Gaussian per class on the unit sphere, with a shared diagonal covariance."""

    means: NDArray[np.float64]  # [C, D]
    variances: NDArray[np.float64]  # [D]

    @classmethod
    def start(cls, guess: NDArray[np.float64], x: NDArray[np.float64]) -> _Gaussians:
        """Start from the most confident images of each class: ``guess`` [N, C] are probabilities, x [N, D] features."""
        surest = np.argsort(-guess, axis=0, kind="stable")[:_SEEDS_PER_CLASS]  # [8, C]
        weights = np.take_along_axis(guess, surest, axis=0)
        means = np.einsum("kc,kcd->cd", weights, x[surest])
        return cls(_unit_norm(means), np.full(x.shape[1], 1 / x.shape[1]))

    @classmethod
    def fit(cls, assignment: NDArray[np.float64], x: NDArray[np.float64]) -> _Gaussians:
        """Fit to assigned images."""
        mass, sums = assignment.sum(axis=0), assignment.T @ x
        means = _unit_norm(sums)
        squares = assignment.sum(axis=1) @ x**2 - 2 * (sums * means).sum(axis=0) + mass @ means**2
        return cls(means, np.maximum(squares / mass.sum(), _TINY))

    def probabilities(self, x: Floats) -> NDArray[np.float64]:
        """[N, C]; the squares of x drop out of the softmax over classes."""
        scaled = self.means / self.variances
        return softmax((x @ scaled.T - (scaled * self.means).sum(axis=1) / 2) / _GAUSSIAN_TEMPERATURE)


def _sinkhorn(fused: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, C] plan whose rows sum to one and whose columns are nearly equal."""
    n_images, n_classes = fused.shape
    plan = np.exp((fused - fused.max(axis=1, keepdims=True)) / _SHARPNESS)
    plan /= plan.sum()
    for _ in range(_SINKHORN_STEPS):
        before = plan
        plan = plan / (plan.sum(axis=0) * n_classes)
        plan = plan / (plan.sum(axis=1, keepdims=True) * n_images)
        if np.abs(plan - before).max() < _SINKHORN_TOLERANCE:
            break
    return plan * n_images


def _agreement(answers_of_sources: Sequence[NDArray[np.int64]], answers: NDArray[np.int64]) -> NDArray[np.float64]:
    """How often each source agrees with the assignment, as weights that sum to one."""
    shares = np.array([max(float(np.mean(of_source == answers)), _TINY) for of_source in answers_of_sources])
    return shares / shares.sum()


def _unit_norm(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)
