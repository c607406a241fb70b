"""Estimated accuracies of the models of a selection by labels.

How accurate the generally best model is on the task follows from its ImageNet accuracy and the names of the classes,
see :mod:`~mll_hf.selection.accuracy`. The other models are above or below it as far as their scores are, in logits.
Recall on probe images itself is no estimate: on published data sets it is 17 points too high.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.matching.text_encoder import DEFAULT_MODEL
from mll_hf.models.known import known_models
from mll_hf.selection.accuracy import estimate_accuracy, logit, sigmoid, task_traits
from mll_hf.selection.mll import generally_best, graph_needs, levels_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.labels.join import JoinedLabels
    from mll_hf.selection.accuracy import AccuracyEstimate
    from mll_hf.selection.base import Candidates

IMAGENET_CLASSES = 1000


def estimate_by_labels(candidates: Candidates, overall: NDArray[np.float64]) -> AccuracyEstimate:
    """Estimated accuracies of M labeled and P published models.

    Args:
        candidates: The M labels, and the classes.
        overall: [M + P] mean scores over the classes, between 0 and 1. Estimates have the same order.
    """
    best = generally_best(candidates.labels.reference)
    level = imagenet_level(candidates.labels, best)
    as_imagenet = sigmoid(logit(overall) + logit(np.array(level)) - logit(overall[best]))
    match = candidates.match
    names = match.names if match.encoder.startswith(DEFAULT_MODEL) else None  # similarities of others do not compare
    return estimate_accuracy(as_imagenet, task_traits(len(match.classes), names, candidates.domain))


def imagenet_level(labels: JoinedLabels, m: int) -> float:
    """ImageNet accuracy of a model, 0 to 1: the published one, else its recall among 1,000 candidates on the graph."""
    repo_id = labels.models[m].repo_id
    for model in known_models():
        if repo_id in (model.hub_id, model.twin) and model.imagenet is not None:
            return model.imagenet
    no_concepts = np.empty(0, np.int32)
    needs = graph_needs(labels.union.graphs[0], no_concepts, IMAGENET_CLASSES, extrapolate=True)
    return float(levels_of(needs, labels.rank_shares[0][[m]])[0])
