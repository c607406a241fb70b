"""Compare models that were measured on different probe images, or on none, and estimate their accuracy.

The accuracy of the model with the highest mean recall is estimated from its ImageNet accuracy and the class names, see
:mod:`~mll_hf.selection.accuracy`. The other models differ from it by the difference of their scores, in logits. Recall
on probe images itself is a biased estimate: on published datasets it is 17 points too high.

ImageNet accuracy also links models that were not measured on the same probe images: a shift of the logits converts the
scores of each group of labels to ImageNet accuracy, and from there to the scale of another group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.matching.concept_index import COVERED
from mll_hf.matching.text_encoder import DEFAULT_MODEL
from mll_hf.models.known import imagenet_accuracies
from mll_hf.selection.accuracy import MIN_ACCURACY, estimate_accuracy, task_traits
from mll_hf.selection.mll import best_by_mean_recall
from mll_hf.selection.probabilities import logit, sigmoid
from mll_hf.selection.recall import graph_query, mean_recall_among

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.join import JoinedLabels
    from mll_hf.matching.concept_index import ClassMatch
    from mll_hf.models.known import KnownModel
    from mll_hf.selection.candidates import Candidates
    from mll_hf.selection.estimate import Estimate

    Floats = NDArray[np.float64]

IMAGENET_CLASSES = 1000
_MIN = 1e-6  # scores are clipped to this distance from 0 and 1 before taking logits


def estimate_from_names(candidates: Candidates, overall: Floats, shift: float) -> Estimate:
    """The estimate for M models from class names, with the models' labels or published figures.

    Args:
        candidates: Gives the classes and the domain.
        overall: [M] mean scores over the classes, between 0 and 1, on a common scale.
        shift: Shift from this scale to ImageNet accuracy, see :func:`imagenet_shift`.
    """
    traits = task_traits(len(candidates.match.classes), comparable_names(candidates.match), candidates.domain)
    coverage = np.max([part.match.coverage for part in candidates.groups], axis=0)
    covered = float((coverage >= COVERED).mean())
    return estimate_accuracy(sigmoid(logit(overall, _MIN) + shift), traits, covered)


def comparable_names(match: ClassMatch) -> Floats | None:
    """[C, E] embedded class names; None if not by the default text encoder, on which the regression was fitted."""
    return match.names if match.encoder.startswith(DEFAULT_MODEL) else None


def imagenet_shift(labels: JoinedLabels, scores: Floats) -> float:
    """Shift of the logits from mean scores to ImageNet accuracy; exact for the model with the highest mean recall.

    Args:
        labels: Labels of M models.
        scores: [M, C] scores of the models.
    """
    best = best_by_mean_recall(labels.reference)
    return float(logit(np.array(imagenet_accuracy(labels, best)), MIN_ACCURACY) - logit(scores[best].mean(), _MIN))


def on_common_scale(
    scores: Sequence[Floats], shifts: Sequence[float], published: Sequence[KnownModel], n_classes: int
) -> Floats:
    """Scores of all models on the scale of the first group of labels, or as ImageNet accuracy if there is no group.

    Args:
        scores: [M_g, C] scores of each group of labels.
        shifts: Shift of each group, see :func:`imagenet_shift`.
        published: P models of which only overall figures are published.
        n_classes: Number C of classes.

    Returns:
        [sum of M_g + P, C] scores of the groups, then of the published models.
    """
    first = shifts[0] if shifts else 0.0
    shifted = [sigmoid(logit(group, _MIN) + shift - first) for group, shift in zip(scores[1:], shifts[1:], strict=True)]
    imagenet = np.array([model.accuracy for model in published])
    if shifts:
        imagenet = sigmoid(logit(imagenet, MIN_ACCURACY) - first)
    return np.concatenate([*scores[:1], *shifted, np.repeat(imagenet[:, None], n_classes, axis=1)])


def imagenet_accuracy(labels: JoinedLabels, m: int) -> float:
    """ImageNet accuracy of a model, 0 to 1: as published, or else estimated from its recall among 1,000 candidates.

    This recall is corrected by its mean difference, in logits, to the published accuracies of models of the group.
    """
    all_published = imagenet_accuracies()
    found = [all_published.get(model.repo_id) for model in labels.models]
    published = found[m]
    if published is not None:
        return published
    query = graph_query(labels.union.graphs[0], np.empty(0, np.int32), IMAGENET_CLASSES, extrapolate=True)
    recall = mean_recall_among(query, labels.rank_shares[0])
    known = [row for row, accuracy in enumerate(found) if accuracy is not None]
    if not known:
        return float(recall[m])
    accuracies = np.array([accuracy for accuracy in found if accuracy is not None])
    correction = np.mean(logit(accuracies, MIN_ACCURACY) - logit(recall[known], MIN_ACCURACY))
    return float(sigmoid(logit(recall[m], MIN_ACCURACY) + correction))


def comparable_to_published(labels: JoinedLabels) -> bool:
    """Whether the models can be compared with those of other groups: any of them has a published ImageNet accuracy."""
    published = imagenet_accuracies()
    return any(model.repo_id in published for model in labels.models)
