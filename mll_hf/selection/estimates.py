"""Estimated accuracies by labels, and models compared whose labels rest on different probe images, or on none.

How accurate the generally best model is on the task follows from its ImageNet accuracy and the names of the classes,
see :mod:`~mll_hf.selection.accuracy`. The other models are above or below it as far as their scores are, in logits.
Recall on probe images itself is no estimate: on published data sets it is 17 points too high.

ImageNet accuracy is also the bridge between models that were not measured on the same probe images: a shift of logits
turns the scores of each group of labels into accuracies on ImageNet, and back into those of another group.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.matching.concept_index import COVERED
from mll_hf.matching.text_encoder import DEFAULT_MODEL
from mll_hf.models.known import imagenet_accuracies
from mll_hf.selection.accuracy import estimate_accuracy, logit, sigmoid, task_traits
from mll_hf.selection.mll import generally_best, graph_needs, levels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.join import JoinedLabels
    from mll_hf.matching.concept_index import ClassMatch
    from mll_hf.selection.accuracy import AccuracyEstimate
    from mll_hf.selection.base import Candidates

    Floats = NDArray[np.float64]

IMAGENET_CLASSES = 1000
_LEAST = 1e-6  # scores are kept this far from 0 and 1 where their logits are taken


def estimate_by_labels(candidates: Candidates, overall: Floats, shift: float) -> AccuracyEstimate:
    """Estimated accuracies of M models.

    They count as not known where no concept of any graph matches a class. Of the published data sets of this kind, the
    interval would be narrow enough for one, fer2013, whose estimate is 20 points too high.

    Args:
        candidates: The classes.
        overall: [M] mean scores over the classes, between 0 and 1, all on one scale.
        shift: From this scale to that of ImageNet, see :func:`imagenet_shift`.
    """
    traits = task_traits(len(candidates.match.classes), comparable_names(candidates.match), candidates.domain)
    estimates = estimate_accuracy(sigmoid(logit(overall, _LEAST) + shift), traits)
    coverage = max(float(part.match.coverage.max()) for part in (candidates, *candidates.further))
    return replace(estimates, informed=coverage >= COVERED or traits.n_classes == 1)


def comparable_names(match: ClassMatch) -> Floats | None:
    """[C, E] embedded class names; None from another text encoder, whose similarities do not compare."""
    return match.names if match.encoder.startswith(DEFAULT_MODEL) else None


def imagenet_shift(labels: JoinedLabels, scores: Floats) -> float:
    """Difference of logits between a mean score and an accuracy on ImageNet: the generally best model gets its own.

    Args:
        labels: Labels of M models.
        scores: [M, C] of these.
    """
    best = generally_best(labels.reference)
    return float(logit(np.array(imagenet_level(labels, best))) - logit(scores[best].mean(), _LEAST))


def on_one_scale(parts: Sequence[Candidates], scores: Sequence[Floats], shifts: Sequence[float]) -> Floats:
    """Scores of all models on the scale of the first group of labels.

    Args:
        parts: The groups; the first one's published models come last.
        scores: [M_g, C] of each group.
        shifts: Of each group, see :func:`imagenet_shift`.

    Returns:
        [sum of M_g + P, C].
    """
    first, *others = scores
    moved = [
        sigmoid(logit(of_group, _LEAST) + shift - shifts[0]) for of_group, shift in zip(others, shifts[1:], strict=True)
    ]
    imagenet = np.array([model.accuracy for model in parts[0].published])
    overall = np.repeat(sigmoid(logit(imagenet) - shifts[0])[:, None], first.shape[1], axis=1)
    return np.concatenate([first, *moved, overall])


def imagenet_level(labels: JoinedLabels, m: int) -> float:
    """ImageNet accuracy of a model, 0 to 1: the published one, else its recall among 1,000 candidates on the graph.

    This recall is corrected by as much as it differs, in logits and on average, from the published accuracies of other
    models of the group.
    """
    published = imagenet_accuracies()
    found = [published.get(model.repo_id) for model in labels.models]
    own = found[m]
    if own is not None:
        return own
    needs = graph_needs(labels.union.graphs[0], np.empty(0, np.int32), IMAGENET_CLASSES, extrapolate=True)
    recall = levels_of(needs, labels.rank_shares[0])
    known = [row for row, accuracy in enumerate(found) if accuracy is not None]
    if not known:
        return float(recall[m])
    accuracies = np.array([accuracy for accuracy in found if accuracy is not None])
    return float(sigmoid(logit(recall[m]) + np.mean(logit(accuracies) - logit(recall[known]))))


def compares_with_others(labels: JoinedLabels) -> bool:
    """Whether models measured on other images can be compared with these: one of them has a published accuracy."""
    published = imagenet_accuracies()
    return any(model.repo_id in published for model in labels.models)
