"""Estimate a model's accuracy on a task from its ImageNet accuracy and the names of the task's classes.

No label and no image is needed. The estimate is a regression over the data sets of all published tables, each of which
counts once, whatever its number of models::

    accuracy = 1/C + (1 - 1/C) sigmoid(b0 + b1 logit(ImageNet accuracy) + b2 similarity + b3 nearest
                                       + b4 specialized + b5 things)

`scripts/fit_accuracy.py` fits the coefficients, measures the error on data sets whose whole kin group was left out, and
writes ``data/accuracy.json``. What differs between data sets is far more than what differs between models, so the
interval is wide. It is narrower for tasks of named things than for tasks of numbers, qualities or acts only since the
estimates of these are near 1, which no accuracy exceeds: widths that depend on the names did not hold for data sets
that were left out. The mean over few classes varies more than that over many, so the lower end is further away there.
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

LEVEL = 0.9  # share of data sets that the intervals are meant to hold for
MOST_WIDTH = 0.5  # with a wider interval the accuracy counts as not known
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
_LEAST_ACCURACY = 0.02  # accuracies are kept this far from 0 and 1 where their logits are taken
_LEAST_ESTIMATE = 0.005
_BLOCK = 1024  # class names that are compared with all others at a time


@dataclass(frozen=True, slots=True)
class TaskTraits:
    """What is known of a task before any image.

    Attributes:
        n_classes: Number of classes C.
        similarity: Mean cosine of two class names; None if the names are not known.
        nearest: Mean cosine of a class name with the most similar other one; None if the names are not known.
        specialized: Whether the images are of a kind that is rare on the web.
        things: Mean inner product of a class name with :func:`things_direction`; None if the names are not known.
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
        informed: Whether they rest on more than the names of the classes: a concept that matches one, or images.
    """

    accuracy: Floats
    low: Floats
    high: Floats
    informed: bool = True

    @property
    def known(self) -> NDArray[np.bool_]:
        """[M] whether the accuracy counts as known: there is evidence, and the interval is narrow enough."""
        known: NDArray[np.bool_] = (self.high - self.low <= MOST_WIDTH) & self.informed
        return known

    def take(self, models: Sequence[int] | NDArray[np.intp]) -> AccuracyEstimate:
        """The estimates of some of the models, in the order given."""
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
        usual_similarity: Stands in where the names of the classes are not known.
        usual_nearest: The same.
        usual_things: The same.
        least_nearest: Least value among the data sets. Few classes can have less, which counts as this.
        below: Distance of the lower end of the interval to the estimate, in accuracy, with very many classes.
        above: Distance of the upper end, in logits.
        one_class: Distance of the lower end of an interval for the recall of a single class to the mean over classes.
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
        names: [C, 384] embeddings of the class names by the default text encoder, of unit norm; None if there are none.
        domain: How the images look, as the user put it.
    """
    if names is None or n_classes == 1:
        return TaskTraits(n_classes, None, None, is_specialized(domain), None)
    names = names.astype(np.float64)
    total = names.sum(axis=0)
    mean = (total @ total - n_classes) / (n_classes * (n_classes - 1))  # each name has a cosine of 1 with itself
    nearest = np.empty(n_classes)
    for first in range(0, n_classes, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, n_classes))
        cosines = names[rows] @ names.T
        cosines[np.arange(len(rows)), rows] = -1
        nearest[rows] = cosines.max(axis=1)
    things = float(total @ things_direction()) / n_classes
    return TaskTraits(n_classes, float(mean), float(nearest.mean()), is_specialized(domain), things)


def is_specialized(domain: str | None) -> bool:
    """Whether a domain names images of a kind that is rare on the web."""
    return mentions(domain or "", SPECIALIZED)


def estimate_accuracy(imagenet: Floats, traits: TaskTraits, model: AccuracyModel | None = None) -> AccuracyEstimate:
    """Estimate the accuracies of M models on a task. With a single class every answer is right.

    Args:
        imagenet: [M] accuracies on ImageNet, 0 to 1.
        traits: The task.
        model: The regression; by default the one that comes with the package.

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
    of_classes = model.one_class / np.sqrt(traits.n_classes)
    return AccuracyEstimate(estimate, *interval(estimate, model.below, model.above, of_classes))


def interval(
    estimate: Floats, below: Floats | float, above: Floats | float, of_classes: Floats | float = 0.0
) -> tuple[Floats, Floats]:
    """Ends [M] of the intervals around estimates [M]: ``below`` in accuracy, at least 0, and ``above`` in logits.

    ``of_classes`` is what the mean over few classes adds to ``below``; the two are independent.
    """
    low = np.maximum(estimate - np.hypot(below, of_classes), 0.0)
    return low, sigmoid(logit(estimate, _LEAST_ESTIMATE) + above)


@cache
def published_model() -> AccuracyModel:
    """The regression over all published data sets."""
    return AccuracyModel(**_data("accuracy.json")["model"])


@cache
def things_direction() -> Floats:
    """[384]: names of things (animals, artifacts, body parts, food, plants ...) are further in this direction.

    A linear regression over embedded words of WordNet, on whether the most frequent sense of a word is such a noun. No
    accuracy is used. Names of numbers, feelings, places, qualities and acts are at the other end.
    """
    return np.array(_data("things.json")["direction"])


def _data(name: str) -> dict[str, Any]:
    file = resources.files("mll_hf.selection").joinpath("data", name)
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def logit(accuracy: Floats, least: float = _LEAST_ACCURACY) -> Floats:
    """Log odds of accuracies, which are kept ``least`` away from 0 and 1."""
    clipped = np.clip(accuracy, least, 1 - least)
    odds: Floats = np.log(clipped / (1 - clipped))
    return odds


def sigmoid(value: Floats) -> Floats:
    """The inverse of :func:`logit`."""
    share: Floats = 1 / (1 + np.exp(-value))
    return share
