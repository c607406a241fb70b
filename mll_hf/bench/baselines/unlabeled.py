"""Scores of models from their class probabilities [M, N, C] on unlabeled images (M models, N images, C classes).

The scores depend on how confident a model is, so they compare models only as far as these are calibrated alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.selection.probabilities import entropy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.bench.metrics import Floats


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
