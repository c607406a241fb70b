"""Estimate a model's accuracy on a task from its ImageNet accuracy and the names of the task's classes.

No labels or images are needed. The estimate is a regression over the datasets of all published tables. Every dataset
has the same weight, however many models it has::

    accuracy = 1/C + (1 - 1/C) sigmoid(b0 + b1 logit(ImageNet accuracy) + b2 similarity + b3 nearest
                                       + b4 medical + b5 specialized + b6 things)

Where other datasets have classes of the same names, their published recall counts for that share of the task, see
:func:`with_near_classes`.

`scripts/known_models/fit_accuracy.py` fits the coefficients, measures the error by cross-validation over groups
of related datasets, and writes ``data/accuracy.json``. Accuracy varies far more between datasets than between models,
so the standard error is large. It does not depend on the class names: such errors did not hold on left-out datasets. A
mean over few classes varies more than one over many. Classes whose names mean nothing (codes, numbers, made-up words)
can have any accuracy, see :func:`have_meaning`.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import InputError
from mll_hf.matching.prompts import mentions
from mll_hf.matching.words import have_english_words, name_key
from mll_hf.models.domains import is_binomial
from mll_hf.models.known import known_models
from mll_hf.models.published import ACCURACIES, figures_of_dataset
from mll_hf.selection.estimate import CERTAIN, Estimate
from mll_hf.selection.probabilities import logit, sigmoid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.matching.datasets import KnownDataset, Recognized

    Floats = NDArray[np.float64]

MEDICAL = (
    "microscopy",
    "microscope",
    "histology",
    "medical",
    "medicine",
    "dermatology",
    "ophthalmology",
    "pathology",
    "radiology",
    "x-ray",
    "mri",
)
SPECIALIZED = (
    *MEDICAL,
    "satellite",
    "aerial",
    "remote sensing",
    "render",
    "rendered",
    "rendering",
    "synthetic",
    "handwriting",
    "handwritten",
    "text",
)
MIN_ACCURACY = 0.02  # accuracies are clipped to this distance from 0 and 1 before taking logits
MIN_ESTIMATE = 0.005  # the same for estimates
MEANINGLESS_ERROR = 4.0  # standard error if no name means anything, in logits: any accuracy is possible
FIGURE_ERROR = 0.15  # of one figure, in logits: by how much sources with other prompts differ, but for Caltech-101
MODEL_ERROR = 0.45  # of one model on a dataset, in logits, given its ImageNet accuracy and the other models
SLOPE_ERROR = 0.5  # of the estimates' differences between models, as a share: on some datasets models differ more
SUBSET_GAIN, SUBSET_ERROR = 1.1, 1.2  # logits per share of missing classes, of 11 models on random classes of WHU-RS19
MIN_INSIDE = 0.9
FEWER_CLASSES = 1.0  # logits per e-fold of fewer classes: 1.1 on WHU-RS19 (11 models, 2 to 19 classes), 1.0 on Food-10
MODEL_SLOPE = 0.95  # logits of accuracy per logit of ImageNet accuracy, as in the regression
OTHER_STYLES = ("sketch", "drawing", "painting", "icon", "emoji", "render", "cartoon", "clipart", "art")
_BLOCK = 1024  # class names compared with all others at a time


@dataclass(frozen=True, slots=True)
class TaskTraits:
    """What is known about a task without images.

    Attributes:
        n_classes: Number of classes C.
        similarity: Mean cosine of two class names; None if the names are unknown.
        nearest: Mean cosine of each class name with its nearest neighbor; None if the names are unknown.
        specialized: Whether images of this kind are rare on the web.
        medical: Whether they are medical.
        things: Mean inner product of a class name with :func:`things_direction`; None if the names are unknown.
        near: What is published about classes of the same names; None if nothing is.
    """

    n_classes: int
    similarity: float | None
    nearest: float | None
    specialized: bool
    medical: bool
    things: float | None
    near: NearClasses | None = None


@dataclass(frozen=True, slots=True)
class NearClasses:
    """Published recall of the classes of a task that other datasets have, too.

    Attributes:
        share: Share of the task's classes.
        recall: Their mean recall among the classes of those datasets, of the model that :func:`near_classes` names.
        log_classes: Mean logarithm of the number of classes there.
    """

    share: float
    recall: float
    log_classes: float


@dataclass(frozen=True, slots=True)
class AccuracyModel:
    """Coefficients of the regression.

    Attributes:
        intercept: b0.
        imagenet: b1.
        similarity: b2.
        nearest: b3.
        medical: b4.
        specialized: b5, for images that are not medical.
        things: b6.
        usual_similarity: Default similarity if the class names are unknown.
        usual_nearest: Default of ``nearest``.
        usual_things: Default of ``things``.
        least_nearest: Minimum over the datasets; smaller values, which few classes can have, are raised to it.
        task_error: Standard error of the estimate for very many classes, in logits.
        class_error: Standard deviation of the recall of single classes within a dataset, in logits.
    """

    intercept: float
    imagenet: float
    similarity: float
    nearest: float
    medical: float
    specialized: float
    things: float
    usual_similarity: float
    usual_nearest: float
    usual_things: float
    least_nearest: float
    task_error: float
    class_error: float


def task_traits(
    n_classes: int, names: NDArray[np.floating] | None, domain: str | None, meant: NDArray[np.bool_] | None = None
) -> TaskTraits:
    """Traits of a task.

    Args:
        n_classes: Number C of classes.
        names: [C, 384] embeddings of the class names by the default text encoder, of unit norm; None if unknown.
        domain: How the images look, as given by the user.
        meant: [C] whether a name means something. If two do, the others do not count, as they would seem easy to tell
            apart.
    """
    specialized, medical = is_specialized(domain), mentions(domain or "", MEDICAL)
    if names is None or n_classes == 1:
        return TaskTraits(n_classes, None, None, specialized, medical, None)
    names = names.astype(np.float64)[meant if meant is not None and meant.sum() > 1 else slice(None)]
    n, total = len(names), names.sum(axis=0)
    mean = (total @ total - n) / (n * (n - 1))  # without the cosine of each name with itself, 1
    nearest = np.empty(n)
    for first in range(0, n, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, n))
        cosines = names[rows] @ names.T
        cosines[np.arange(len(rows)), rows] = -1
        nearest[rows] = cosines.max(axis=1)
    things = float(total @ things_direction()) / n
    return TaskTraits(n_classes, float(mean), float(nearest.mean()), specialized, medical, things)


def near_classes(classes: Sequence[str], domain: str | None, but: str = "") -> NearClasses | None:
    """What is published about the recall of classes with these names in photos; None for images of another domain.

    ``but`` is a kin group of datasets to ignore.
    """
    if is_specialized(domain) or mentions(domain or "", OTHER_STYLES):
        return None
    found = [np.mean(rows, axis=0) for name in classes if (rows := _published_recalls(name, but))]
    if not found:
        return None
    recall, log_classes = np.mean(found, axis=0).tolist()
    return NearClasses(len(found) / len(classes), recall, log_classes)


def with_near_classes(mean: Floats, imagenet: Floats, traits: TaskTraits) -> Floats:
    """Estimates [M], in logits, after the published recall of classes with the same names.

    Fewer classes are easier: ``logit(recall) + log(classes there / C)``, moved to the ImageNet accuracy of each model.
    The weight is the square root of the share of the classes that are known, since these tell about the others, too.
    """
    near = traits.near
    if near is None:
        return mean
    reference = logit(np.array([near.recall, _data("class_recalls.json")["imagenet"]]), MIN_ACCURACY)
    fewer = FEWER_CLASSES * (near.log_classes - math.log(traits.n_classes))
    level = logit(sigmoid(reference[:1] + fewer), MIN_ACCURACY)  # at most 0.98: few classes are no proof of more
    observed = level + MODEL_SLOPE * (logit(imagenet, MIN_ACCURACY) - reference[1])
    weight = math.sqrt(near.share)
    return (1 - weight) * mean + weight * observed


def have_meaning(classes: Sequence[str], but: str = "") -> NDArray[np.bool_]:
    """[C] whether a name says what a class is: recall of a class with this name is published, or it is English.

    Codes, numbers and made-up words say nothing, and scientific names of species little. ``but`` is a kin group of
    datasets to ignore.
    """
    is_published = [bool(_published_recalls(name, but)) for name in classes]
    are_binomials = [is_binomial(name) for name in classes]
    return np.logical_or(is_published, np.greater(have_english_words(classes), are_binomials))


def _published_recalls(name: str, but: str) -> list[tuple[float, float]]:
    """Recall and logarithm of the number of classes, of each class with this name outside of a kin group."""
    rows = _data("class_recalls.json")["recalls"].get(name_key(name), ())
    return [(recall, log_classes) for kin, recall, log_classes in rows if kin != but]


def is_specialized(domain: str | None) -> bool:
    """Whether images of this domain are rare on the web."""
    return mentions(domain or "", SPECIALIZED)


def estimate_accuracy(
    imagenet: Floats, traits: TaskTraits, with_meaning: float = 1.0, model: AccuracyModel | None = None
) -> Estimate:
    """Estimate the accuracies of M models on a task. With a single class the accuracy is 1.

    Args:
        imagenet: [M] accuracies on ImageNet, 0 to 1.
        traits: The task.
        with_meaning: Share of the classes whose names mean something. The accuracy on the others may have any value.
        model: The regression; by default the one shipped with the package.

    Raises:
        InputError: An ImageNet accuracy is missing or outside 0 to 1.
    """
    if not bool(((imagenet >= 0) & (imagenet <= 1)).all()):
        raise InputError("an ImageNet accuracy is missing or outside 0 to 1; leave out models without one")
    if traits.n_classes == 1:
        return Estimate.independent(np.full(len(imagenet), CERTAIN), np.zeros(len(imagenet)))
    model = model or published_model()
    similarity = model.usual_similarity if traits.similarity is None else traits.similarity
    nearest = model.usual_nearest if traits.nearest is None else max(traits.nearest, model.least_nearest)
    things = model.usual_things if traits.things is None else traits.things
    task = model.similarity * similarity + model.nearest * nearest + model.things * things
    task += model.medical if traits.medical else model.specialized * traits.specialized
    chance = 1 / traits.n_classes
    share = sigmoid(model.intercept + model.imagenet * logit(imagenet, MIN_ACCURACY) + task)
    error = math.hypot(model.task_error, model.class_error * math.sqrt(chance), MEANINGLESS_ERROR * (1 - with_meaning))
    mean = with_near_classes(logit(chance + (1 - chance) * share, MIN_ESTIMATE), imagenet, traits)
    return Estimate.independent(mean, np.full(len(imagenet), error))


def with_known_figures(estimate: Estimate, models: Sequence[str], known: Recognized, domain: str | None) -> Estimate:
    """The estimate after the published figures on a recognized dataset; as it was if they say nothing about the task.

    Models without a figure there learn from the others how difficult the dataset is, and how much models differ on it.
    If the names do not tell several datasets apart (digits), the estimate is their mean, with the deviation between
    them as error. Figures do not count if more than a tenth of the classes are others, or if the images are no photos
    like those of the dataset (``domain``).

    Args:
        estimate: For M models, by their class names.
        models: [M] ids on the Hub.
        known: The dataset.
        domain: How the images look, as given by the user.
    """
    tables = [_published_on(dataset) for dataset in known.datasets]
    rows = [m for m, id in enumerate(models) if all(id in table for table in tables)]
    is_other = is_specialized(domain) and not any(is_specialized(dataset.domain) for dataset in known.datasets)
    if not rows or known.inside < MIN_INSIDE or is_other or mentions(domain or "", OTHER_STYLES):
        return estimate
    by_dataset = logit(np.array([[table[models[m]] for m in rows] for table in tables]), MIN_ESTIMATE)
    between = float(by_dataset.mean(axis=1).std(ddof=1)) if len(tables) > 1 else 0.0
    missing = 1 - known.present
    common = math.hypot(SUBSET_ERROR * missing, SUBSET_ERROR * (1 - known.inside), between)
    shared = np.sqrt(np.maximum(estimate.errors**2 - MODEL_ERROR**2, 0))
    slopes = SLOPE_ERROR * (estimate.mean - estimate.mean.mean())
    errors = np.outer(shared, shared) + np.outer(slopes, slopes) + MODEL_ERROR**2 * np.eye(len(models))
    prior = Estimate(estimate.mean, errors, estimate.basis)
    observed = by_dataset.mean(axis=0) + SUBSET_GAIN * missing
    return prior.update(rows, observed, np.full(len(rows), FIGURE_ERROR), estimate.basis, common)


def _published_on(dataset: KnownDataset) -> dict[str, float]:
    """Mean published accuracy of each model on a dataset, by the model's ids."""
    values = defaultdict[str, list[float]](list)
    for figure in figures_of_dataset(dataset.id):
        if figure.metric in ACCURACIES:
            values[figure.model].append(figure.value)
    measured = [model for model in known_models() if model.name in values]
    return {id: float(np.mean(values[model.name])) for model in measured for id in (model.hub_id, model.twin) if id}


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


@cache
def _data(name: str) -> dict[str, Any]:
    file = resources.files("mll_hf.selection").joinpath("data", name)
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
