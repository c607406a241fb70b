"""What a trial on a user's images found out about the models that were tried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trial(ArrayFields):
    """Results of M models on N images, of which E are examples.

    Attributes:
        n_images: N.
        n_examples: E.
        templates: Prompt templates of the zero-shot heads.
        zero_shot: [M] share of the examples that the zero-shot head classifies correctly; without examples the share of
            the images that it classifies as the pool of all models.
        fitted: [M] the same for the fitted head, on images that it was not fitted to.
        strengths: [M] strengths of the fit; 0 for models that are used without.
        weights: [M] weights of the models in a pool.
        shares: [C] estimated class shares.
    """

    n_images: int
    n_examples: int
    templates: tuple[str, ...]
    zero_shot: Floats
    fitted: Floats
    strengths: Floats
    weights: Floats
    shares: Floats

    def subset(self, models: NDArray[np.intp]) -> Trial:
        """The results of the given models, in the given order."""
        per_model = ("zero_shot", "fitted", "strengths", "weights")
        return replace(self, **{name: getattr(self, name)[models] for name in per_model})
