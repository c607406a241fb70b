"""Choices that do not look at the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.selection.base import Candidates


def general_scores(candidates: Candidates) -> NDArray[np.float64]:
    """[M, C] mean node precision over the whole graph, the same for every class."""
    levels = np.array([label.mean_precision for label in candidates.labels])
    return np.repeat(levels[:, None], len(candidates.match.classes), axis=1)


def uniform_scores(candidates: Candidates) -> NDArray[np.float64]:
    """[M, C] the same for every model and class: no model is preferred."""
    return np.full((len(candidates.labels), len(candidates.match.classes)), 1 / len(candidates.labels))
