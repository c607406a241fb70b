"""What a trial on a user's images found out about the models that were tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

QUANTILES = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class Trial(ArrayFields):
    """Results of M models on N images, of which E are examples.

    Without examples, images count as classified correctly if they are classified as by the pool of all models.
    """

    n_images: int
    n_examples: int
    zero_shot: Floats  # [M] share of the examples that the zero-shot head classifies correctly
    fitted: Floats  # [M] the same for the fitted head, on images that it was not fitted to
    strengths: Floats  # [M] of the fit; 0 for models that are used without
    weights: Floats  # [M] of the models in a pool
    shares: Floats  # [C] estimated class shares
    resemblance: Floats  # [101] quantiles of the images' :func:`resemblance`, by heads fitted without them

    def threshold(self, reject: float) -> float:
        """The resemblance that a share of the task's images is below; an InputError if it is not between 0 and 1."""
        if not (isinstance(reject, (int, float)) and 0 < reject < 1):
            raise InputError(f"the share to reject is {reject!r:.20}; give a number between 0 and 1, such as 0.05")
        return float(np.interp(reject, QUANTILES, self.resemblance))


def resemblance(logits: NDArray[np.floating], weights: Floats) -> Floats:
    """[N] how much images resemble any class: the weighted mean of the largest logit of each head, of [U, N, C].

    Logits of fitted heads tell how much closer an image is to a class than to the mean of all images (relative
    Mahalanobis distance, Ren et al., 2021); probabilities do not.
    """
    return np.asarray(np.average(logits.max(axis=2), axis=0, weights=weights))
