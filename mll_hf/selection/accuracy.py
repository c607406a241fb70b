"""Estimate a model's accuracy on a task from its ImageNet accuracy and the names of the task's classes.

No labels or images are needed. The estimate is a regression over the datasets of all published tables. Every dataset
has the same weight, however many models it has::

    accuracy = 1/C + (1 - 1/C) sigmoid(b0 + b1 logit(ImageNet accuracy) + b2 similarity + b3 nearest
                                       + b4 specialized + b5 things)

`scripts/known_models/fit_accuracy.py` fits the coefficients, measures the error by cross-validation over groups
of related datasets, and writes ``data/accuracy.json``. Accuracy varies far more between datasets than between models,
so the interval is wide. Its width does not depend on the class names: such widths did not hold on left-out datasets.
It is narrower where the estimate is near 1 only because accuracy cannot exceed 1. A mean over few classes varies more
than one over many, so its lower end is lower.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import InputError
from mll_hf.matching.prompts import mentions
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE = 0.9  # share of datasets on which the interval should contain the accuracy
MAX_WIDTH = 0.5  # an accuracy with a wider interval is shown as not known
SPECIALIZED = (
    "satellite",
    "aerial",
    "remote sensing",
    "microscopy",
    "microscope",
    "histology",
    "medical",
    "x-ray",
    "mri",
    "render",
    "rendered",
    "rendering",
    "synthetic",
    "handwriting",
    "handwritten",
    "text",
)
_MIN_ACCURACY = 0.02  # accuracies are clipped to this distance from 0 and 1 before taking logits
_MIN_ESTIMATE = 0.005
_BLOCK = 1024  # class names compared with all others at a time


@dataclass(frozen=True, slots=True)
class TaskTraits:
    """What is known about a task without images.

    Attributes:
        n_classes: Number of classes C.
        similarity: Mean cosine of two class names; None if the names are unknown.
        nearest: Mean cosine of each class name with its nearest neighbor; None if the names are unknown.
        specialized: Whether images of this kind are rare on the web.
        things: Mean inner product of a class name with :func:`things_direction`; None if the names are unknown.
    """

    n_classes: int
    similarity: float | None
    nearest: float | None
    specialized: bool
    things: float | None


@dataclass(frozen=True, eq=False)
class AccuracyEstimate(ArrayFields):
    """Estimated accuracies of M models with 90 % intervals, all between 0 and 1.

    Attributes:
        accuracy: [M] estimates.
        low: [M] lower ends.
        high: [M] upper ends.
        informed: Whether they are based on more than class names: on a matching concept, or on images.
    """

    accuracy: Floats
    low: Floats
    high: Floats
    informed: bool = True

    @property
    def known(self) -> NDArray[np.bool_]:
        """[M] whether the accuracy is shown as known: there is evidence, and the interval is narrow enough."""
        known: NDArray[np.bool_] = (self.high - self.low <= MAX_WIDTH) & self.informed
        return known

    def subset(self, models: Sequence[int] | NDArray[np.intp]) -> AccuracyEstimate:
        """Estimates of the given models, in the given order."""
        rows = np.asarray(models, np.intp)
        return AccuracyEstimate(self.accuracy[rows], self.low[rows], self.high[rows], self.informed)


@dataclass(frozen=True, slots=True)
class AccuracyModel:
    """Coefficients of the regression.

    Attributes:
        intercept: b0.
        imagenet: b1.
        similarity: b2.
        nearest: b3.
        specialized: b4.
        things: b5.
        usual_similarity: Default similarity if the class names are unknown.
        usual_nearest: Default of ``nearest``.
        usual_things: Default of ``things``.
        least_nearest: Minimum over the datasets; smaller values, which few classes can have, are raised to it.
        below: Distance of the lower end of the interval from the estimate for very many classes, in accuracy.
        above: Distance of the upper end, in logits.
        one_class: Distance of the lower end of the interval of a single class's recall from the mean over classes.
    """

    intercept: float
    imagenet: float
    similarity: float
    nearest: float
    specialized: float
    things: float
    usual_similarity: float
    usual_nearest: float
    usual_things: float
    least_nearest: float
    below: float
    above: float
    one_class: float


def task_traits(n_classes: int, names: NDArray[np.floating] | None, domain: str | None) -> TaskTraits:
    """Traits of a task.

    Args:
        n_classes: Number C of classes.
        names: [C, 384] embeddings of the class names by the default text encoder, of unit norm; None if unknown.
        domain: How the images look, as given by the user.
    """
    if names is None or n_classes == 1:
        return TaskTraits(n_classes, None, None, is_specialized(domain), None)
    names = names.astype(np.float64)
    total = names.sum(axis=0)
    mean = (total @ total - n_classes) / (n_classes * (n_classes - 1))  # without the cosine of each name with itself, 1
    nearest = np.empty(n_classes)
    for first in range(0, n_classes, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, n_classes))
        cosines = names[rows] @ names.T
        cosines[np.arange(len(rows)), rows] = -1
        nearest[rows] = cosines.max(axis=1)
    things = float(total @ things_direction()) / n_classes
    return TaskTraits(n_classes, float(mean), float(nearest.mean()), is_specialized(domain), things)


def is_specialized(domain: str | None) -> bool:
    """Whether images of this domain are rare on the web."""
    return mentions(domain or "", SPECIALIZED)


def estimate_accuracy(imagenet: Floats, traits: TaskTraits, model: AccuracyModel | None = None) -> AccuracyEstimate:
    """Estimate the accuracies of M models on a task. With a single class the accuracy is 1.

    Args:
        imagenet: [M] accuracies on ImageNet, 0 to 1.
        traits: The task.
        model: The regression; by default the one shipped with the package.

    Raises:
        InputError: An ImageNet accuracy is missing or outside 0 to 1.
    """
    if not bool(((imagenet >= 0) & (imagenet <= 1)).all()):
        raise InputError("an ImageNet accuracy is missing or outside 0 to 1; leave out models without one")
    if traits.n_classes == 1:
        certain = np.ones(len(imagenet))
        return AccuracyEstimate(certain, certain, certain)
    model = model or published_model()
    similarity = model.usual_similarity if traits.similarity is None else traits.similarity
    nearest = model.usual_nearest if traits.nearest is None else max(traits.nearest, model.least_nearest)
    things = model.usual_things if traits.things is None else traits.things
    task = model.similarity * similarity + model.nearest * nearest + model.specialized * traits.specialized
    task += model.things * things
    chance = 1 / traits.n_classes
    estimate = chance + (1 - chance) * sigmoid(model.intercept + model.imagenet * logit(imagenet) + task)
    sampling = model.one_class / np.sqrt(traits.n_classes)
    return AccuracyEstimate(estimate, *interval(estimate, model.below, model.above, sampling))


def interval(
    estimate: Floats, below: Floats | float, above: Floats | float, sampling: Floats | float = 0.0
) -> tuple[Floats, Floats]:
    """Ends [M] of the intervals around estimates [M]: ``below`` in accuracy, at least 0, and ``above`` in logits.

    ``sampling`` is the independent error of a mean over few classes; it is added to ``below`` in quadrature.
    """
    low = np.maximum(estimate - np.hypot(below, sampling), 0.0)
    return low, sigmoid(logit(estimate, _MIN_ESTIMATE) + above)


@cache
def published_model() -> AccuracyModel:
    """The regression over all published datasets."""
    return AccuracyModel(**_data("accuracy.json")["model"])


@cache
def things_direction() -> Floats:
    """[384] direction of names of things (animals, artifacts, body parts, food, plants ...) in the embedding space.

    Coefficients of a linear regression over embedded WordNet words that predicts whether the most frequent sense of a
    word is such a noun. No accuracies are used. Names of numbers, feelings, places, qualities and acts score lowest.
    """
    return np.array(_data("things.json")["direction"])


def _data(name: str) -> dict[str, Any]:
    file = resources.files("mll_hf.selection").joinpath("data", name)
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def logit(accuracy: Floats, minimum: float = _MIN_ACCURACY) -> Floats:
    """Log odds of accuracies, clipped to between ``minimum`` and ``1 - minimum``."""
    clipped = np.clip(accuracy, minimum, 1 - minimum)
    odds: Floats = np.log(clipped / (1 - clipped))
    return odds


def sigmoid(value: Floats) -> Floats:
    """The inverse of :func:`logit`."""
    probability: Floats = 1 / (1 + np.exp(-value))
    return probability
