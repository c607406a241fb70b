"""SWAB's rank transport (Yi et al., NeurIPS 2024, arXiv 2403.13797): ranks on known classes, transported to new ones.

The models' ranks on a class are transported from source classes, where all models are measured, to target classes by
optimal transport between the embeddings of their names. SWAB averages this ranking (its r2) with a second one (r1),
ModelGPT's on captions that are moved across the gap between a model's texts and images. The second ranking needs images
of the source classes and is not implemented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmark.metrics import scipy_part
from mll_hf.errors import MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmark.metrics import Floats

MASS = 0.9  # share of the mass that is moved
MIN_SIMILARITY = 0.5  # source classes without a target class more similar than this are ignored


def transport_plan(source: Floats, target: Floats) -> NDArray[np.float64]:
    """[S, C] the plan that moves the share MASS at the lowest cost ``exp(1 - cos)``, both sides weighted uniformly.

    Source [S, D] and target [C, D] are unit-norm text embeddings of the classes.

    Raises:
        MissingExtraError: POT is not installed.
    """
    try:
        import ot
    except ImportError as error:
        raise MissingExtraError("pot", "bench") from error

    cost = np.exp(1 - source.astype(np.float64) @ target.astype(np.float64).T)
    sides = np.full(len(source), 1 / len(source)), np.full(len(target), 1 / len(target))
    return ot.partial.partial_wasserstein(*sides, cost, m=MASS)


def source_weights(source: Floats, target: Floats) -> NDArray[np.float64]:
    """[S] mass that the plan moves from each source class; 0 for classes that are not similar to any target class."""
    similar = (source @ target.T).max(axis=1) > MIN_SIMILARITY
    weights = np.zeros(len(source))
    if similar.any():
        weights[similar] = transport_plan(source[similar], target).sum(axis=1)
    return weights


def rank_transport(accuracies: Floats, weights: Floats) -> NDArray[np.float64]:
    """[M] SWAB's r2: mean rank of each model on the source classes (accuracies [M, S]), weighted by the plan [S].

    Models with equal accuracy on a class share a mean rank; in the authors' code the order of the models breaks ties.
    """
    return (scipy_part("stats").rankdata(accuracies, axis=0) - 1) @ weights
