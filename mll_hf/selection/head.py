"""A linear classifier on a model's image embeddings, zero-shot or fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Head(ArrayFields):
    """A linear classifier on unit-norm embeddings of D dimensions.

    Attributes:
        weights: [C, D] float32.
        bias: [C] float32.
        is_fitted: Whether it was fitted to images, which it reveals something about.
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    is_fitted: bool = False

    @classmethod
    def zero_shot(cls, texts: NDArray[np.floating], scale: float, bias: float = 0.0) -> Head:
        """The head whose logits are scale times cosine plus bias, from unit-norm text embeddings [C, D]."""
        return cls((scale * texts).astype(np.float32), np.full(len(texts), bias, np.float32))

    def calibrated(self, temperature: float, offsets: NDArray[np.floating] | float = 0.0) -> Head:
        """The head whose logits are divided by a temperature, then shifted by offsets [C]."""
        bias = self.bias / temperature + np.asarray(offsets)
        weights = self.weights / temperature
        return replace(self, weights=weights.astype(np.float32), bias=bias.astype(np.float32))

    def logits(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """[N, C] logits of unit-norm embeddings [N, D]."""
        return np.asarray(embeddings @ self.weights.T + self.bias, np.float32)
