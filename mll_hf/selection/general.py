"""Scores that do not look at the classes: general level, published ImageNet accuracy, nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.label import LabelSummary
    from mll_hf.models.known import KnownModel
    from mll_hf.selection.base import Candidates

_FEWEST_KNOWN = 3  # models with a label and a published accuracy, for a line through them to mean anything


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


def prior_scores(
    published: Sequence[KnownModel],
    unlabeled: Sequence[KnownModel],
    labels: Sequence[LabelSummary],
    scores: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Scores of models without a label, on the scale of the scores of those that have one.

    A least-squares line from ImageNet accuracy to mean score over the classes, through the labeled models whose
    accuracy is published, not falling and not leaving the range of their scores.

    Args:
        published: All models with a published accuracy.
        unlabeled: The P of them to be scored.
        labels: Labels of M models.
        scores: [M, C] scores of these.

    Returns:
        [P, C] float64, the same for every class.

    Raises:
        InputError: Fewer than three labeled models have a published accuracy, so there is nothing to go by.
    """
    accuracy_of = {model.hub_id: model.accuracy for model in published}
    known = [m for m, label in enumerate(labels) if label.model.repo_id in accuracy_of]
    if len(known) < _FEWEST_KNOWN:
        raise InputError(
            f"models without a label cannot be compared with the others: of those, {len(known)} have a published "
            f"ImageNet accuracy, and {_FEWEST_KNOWN} are needed; leave out --unlabeled, or use --strategy imagenet"
        )
    accuracy = np.array([accuracy_of[labels[m].model.repo_id] for m in known])
    level = scores[known].mean(axis=1)
    spread = accuracy - accuracy.mean()
    slope = max(float(spread @ level) / float(spread @ spread), 0.0) if spread.any() else 0.0
    expected = level.mean() + slope * (np.array([model.accuracy for model in unlabeled]) - accuracy.mean())
    return np.repeat(np.clip(expected, level.min(), level.max())[:, None], scores.shape[1], axis=1)
