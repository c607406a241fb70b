"""Scores of models from their class probabilities on images without labels.

All take probabilities [M, N, C] (M models, N images, C classes) and return [M]; a greater score says better. They see
how sure a model is, so they compare models only as far as these are calibrated alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.probabilities import entropy, mutual_information

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.bench.metrics import Floats

__all__ = ["certainty", "mean_confidence", "mutual_information", "nuclear_norm"]


def nuclear_norm(probabilities: Floats) -> NDArray[np.float64]:
    """Confidence and dispersity together (Deng et al., ICML 2023, arXiv 2302.01094), at most 1.

    ``||P_m||_* / sqrt(N min(N, C))``, the sum of the singular values of P_m [N, C] over the greatest it can be.
    """
    _, n_images, n_classes = probabilities.shape
    singular = np.linalg.svd(probabilities.astype(np.float64), compute_uv=False)
    return singular.sum(axis=-1) / np.sqrt(n_images * min(n_images, n_classes))


def mean_confidence(probabilities: Floats) -> NDArray[np.float64]:
    """Mean over images of the highest probability (Hendrycks and Gimpel, ICLR 2017, arXiv 1610.02136)."""
    return probabilities.max(axis=-1).mean(axis=-1, dtype=np.float64)


def certainty(probabilities: Floats) -> NDArray[np.float64]:
    """Minus the mean entropy over images in nats, after "Ranked from Within" (arXiv 2412.06461), at most 0.

    That paper ranks large multimodal models by the uncertainty of their softmax; of its scores this is the one that a
    classifier has.
    """
    return -entropy(probabilities).mean(axis=-1)
