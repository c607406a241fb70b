"""Scores that do not look at the classes: general level, published ImageNet accuracy, nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.models.known import KnownModel
    from mll_hf.selection.base import Candidates


def general_scores(candidates: Candidates) -> NDArray[np.float64]:
    """[M, C] mean recall over the whole graph, the same for every class."""
    levels = np.array([label.mean_recall for label in candidates.labels.reference])
    return np.repeat(levels[:, None], len(candidates.match.classes), axis=1)


def uniform_scores(candidates: Candidates) -> NDArray[np.float64]:
    """[M, C] the same for every model and class: no model is preferred."""
    return np.full((len(candidates.labels), len(candidates.match.classes)), 1 / len(candidates.labels))


def imagenet_scores(published: Sequence[KnownModel], n_classes: int) -> NDArray[np.float64]:
    """[P, C] ImageNet accuracy, the same for every class: the paper's baseline ImageNet-best (INB)."""
    return np.repeat(np.array([model.accuracy for model in published])[:, None], n_classes, axis=1)
