"""The strategies: one record each.

To add one: a pure function from candidates and class weight to finite [M, C] scores, also for models without any
measured concept; a member of :class:`Strategy`; and its record. Tests of all strategies then cover it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mll_hf.selection.mll import mll_scores
from mll_hf.selection.paper import paper_scores

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mll_hf.selection.candidates import Candidates

    Floats: TypeAlias = NDArray[np.float64]


class Strategy(StrEnum):
    """How models are scored and chosen."""

    MLL = "mll"
    PAPER = "paper"
    GENERAL = "general"
    IMAGENET = "imagenet"


@dataclass(frozen=True, slots=True)
class StrategyRecord:
    """What a strategy is.

    Attributes:
        score: [M, C] scores of M labeled models, from the candidates and the weight of a class's own score.
        column: Column title of the scores.
        is_accuracy: Whether they are accuracies, so that models measured on other images, or on none, can be compared.
        needs_labels: Whether it uses labels; if not, all models are scored by their ImageNet accuracy.
        needs_rivals: Whether it needs the sidecar of the labels: rivals or embeddings.
        by_caption: Whether classes are matched to concepts as in the paper.
        per_class: Whether each class has its own models; if not, the best overall are chosen for all classes.
        takes_images: Whether models may be tried on images afterwards.
    """

    score: Callable[[Candidates, float], Floats]
    column: str
    is_accuracy: bool = True
    needs_labels: bool = True
    needs_rivals: bool = False
    by_caption: bool = False
    per_class: bool = False
    takes_images: bool = False


def general_scores(candidates: Candidates, _class_weight: float = 1.0) -> Floats:
    """[M, C] mean recall over the reference graph, the same for every class."""
    recall = np.array([label.mean_recall for label in candidates.labels.reference])
    return np.repeat(recall[:, None], len(candidates.match.classes), axis=1)


STRATEGIES = {
    Strategy.MLL: StrategyRecord(
        mll_scores,
        "recall on concepts",
        takes_images=True,
    ),
    Strategy.PAPER: StrategyRecord(
        paper_scores,
        "score r",
        is_accuracy=False,
        needs_rivals=True,
        by_caption=True,
        per_class=True,
    ),
    Strategy.GENERAL: StrategyRecord(
        general_scores,
        "recall",
    ),
    Strategy.IMAGENET: StrategyRecord(
        general_scores,
        "accuracy",
        needs_labels=False,
    ),
}
