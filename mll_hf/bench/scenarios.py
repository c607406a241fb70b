"""Circumstances under which methods are compared: which images they see, how models are scaled, which models there are.

Every draw follows from the seed, the scenario, the number of the draw and, where images are drawn, the task; so it is
the same for all methods, and hubs are the same for all tasks.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.bench.methods import SEES_SAMPLES, Group, Method
from mll_hf.bench.world import LabeledSample, TaskView

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_COUNTS = (32, 64, 128, 256, 512)
HUB_SIZES = (3, 5, 10, 15)
HUBS_PER_DRAW = 4  # a hub is the same for all tasks, so its luck does not average out over them
COST_QUANTILES = (0.25, 0.5, 0.75)
STRESSED_IMAGES = 256
IMBALANCE = 100.0  # of the long tail: the most frequent class over the rarest
MOST_SCALE = 4.0  # factors of logits reach from its inverse to it


class Kind(StrEnum):
    """What is varied."""

    ALL = "all images"
    IMAGES = "fewer images"
    LONG_TAIL = "long tail"
    ABSENT = "a third of the classes absent"
    SCALED = "scaled before labeling"
    MISCALIBRATED = "scaled after labeling"
    HUB = "random hubs"
    CAPPED = "capped hubs"
    ABLATION = "ablations"


@dataclass(frozen=True)
class Scenario:
    """One circumstance.

    Attributes:
        kind: What is varied.
        value: Images, models, or the quantile of GFLOPs; 0 where there is nothing to say.
        draws: How often it is drawn.
    """

    kind: Kind
    value: float = 0
    draws: int = 1

    @property
    def name(self) -> str:
        """Kind and value, for files and tables."""
        return f"{self.kind} {self.value:g}" if self.value else str(self.kind)

    def takes(self, method: Method) -> bool:
        """Whether a method is to be tried here: those that the circumstance cannot touch are not."""
        if (method.group is Group.ABLATION) != (self.kind is Kind.ABLATION):
            return False
        match self.kind:
            case Kind.ALL | Kind.ABLATION:
                return True
            case Kind.CAPPED | Kind.HUB:
                return not method.transductive
            case Kind.SCALED | Kind.MISCALIBRATED:
                return method.group not in (Group.FEW_LABELS, Group.HINDSIGHT) and not method.transductive
            case Kind.IMAGES | Kind.LONG_TAIL | Kind.ABSENT:
                return method.group in SEES_SAMPLES and not method.transductive

    def draws_of(self, method: Method) -> int:
        """How many draws of this scenario a method needs: one where nothing is drawn."""
        drawn = self.kind not in (Kind.ALL, Kind.CAPPED, Kind.ABLATION) or method.sample is not None
        return self.draws if drawn else 1


def scenarios(n_models: int, draws: int) -> tuple[Scenario, ...]:
    """All scenarios for a hub of so many models."""
    return (
        Scenario(Kind.ALL, draws=draws),
        *(Scenario(Kind.IMAGES, n, draws) for n in IMAGE_COUNTS),
        Scenario(Kind.LONG_TAIL, STRESSED_IMAGES, draws),
        Scenario(Kind.ABSENT, STRESSED_IMAGES, draws),
        Scenario(Kind.SCALED, draws=draws),
        Scenario(Kind.MISCALIBRATED, draws=draws),
        *(Scenario(Kind.HUB, size, HUBS_PER_DRAW * draws) for size in HUB_SIZES if size < n_models),
        *(Scenario(Kind.CAPPED, quantile) for quantile in COST_QUANTILES),
        Scenario(Kind.ABLATION),
    )


def generator(seed: int, *names: object) -> np.random.Generator:
    """Random numbers that depend on a seed and on names."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


@dataclass(frozen=True, eq=False)
class Situation:
    """A draw of a scenario: what a method sees, and what it must answer.

    Attributes:
        seen: What it chooses by.
        asked: All images, of the same models.
        models: [m] which models of the hub these are; None for all.
    """

    seen: TaskView
    asked: TaskView
    models: NDArray[np.int64] | None = None


def situation(scenario: Scenario, view: TaskView, labels: NDArray[np.int64], rng: np.random.Generator) -> Situation:
    """Draw a scenario.

    Args:
        scenario: Which.
        view: The task with all images and models.
        labels: [N] true classes; only the mix of classes follows from them.
        rng: For the draw.
    """
    n_images, n_models = view.n_images, len(view.hub)
    match scenario.kind:
        case Kind.ALL | Kind.ABLATION:
            return Situation(view, view)
        case Kind.IMAGES:
            return Situation(view.of_images(_some(np.arange(n_images), int(scenario.value), rng)), view)
        case Kind.LONG_TAIL:
            return Situation(view.of_images(_some(long_tail(labels, rng), int(scenario.value), rng)), view)
        case Kind.ABSENT:
            return Situation(view.of_images(_some(without_classes(labels, rng), int(scenario.value), rng)), view)
        case Kind.SCALED | Kind.MISCALIBRATED:
            factors = np.exp(rng.uniform(-np.log(MOST_SCALE), np.log(MOST_SCALE), n_models))
            scaled = view.scaled(factors, relabeled=scenario.kind is Kind.SCALED)
            return Situation(scaled, scaled)
        case Kind.HUB:
            return _of_models(view, _some(np.arange(n_models), int(scenario.value), rng))
        case Kind.CAPPED:
            cap = np.quantile(view.hub.gflops, scenario.value)
            return _of_models(view, np.flatnonzero(view.hub.gflops <= cap))


def long_tail(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Images such that the classes, in random order, are ever rarer: the last is left a hundredth of its images.

    Of a class with n images and rank i among C, ``n * 100^(-i / (C - 1))`` are kept on average.
    """
    present = rng.permutation(np.unique(labels))
    shares = dict(zip(present.tolist(), IMBALANCE ** -np.linspace(0, 1, len(present)), strict=True))
    kept = []
    for y, share in shares.items():
        images = rng.permutation(np.flatnonzero(labels == y))
        kept.append(images[: int(len(images) * share + rng.random())])
    return np.sort(np.concatenate(kept))


def without_classes(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Images of two thirds of the classes."""
    present = np.unique(labels)
    absent = rng.choice(present, len(present) // 3, replace=False)
    return np.flatnonzero(~np.isin(labels, absent))


def labeled_sample(method: Method, labels: NDArray[np.int64], rng: np.random.Generator) -> LabeledSample | None:
    """The images that are labeled for a method, if it is given any."""
    if method.sample is None:
        return None
    order = rng.permutation(len(labels))
    if method.sample.per_class is not None:
        order = order[_occurrence(labels[order]) < method.sample.per_class]
    images = np.sort(order[: method.sample.total])
    return LabeledSample(images, labels[images])


def _occurrence(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many equal entries come before each."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    count = np.empty(len(labels), np.int64)
    count[order] = np.arange(len(labels)) - starts
    return count


def _some(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``count`` of the rows, in order."""
    return np.sort(rng.permutation(rows)[:count])


def _of_models(view: TaskView, models: NDArray[np.int64]) -> Situation:
    part = view.of_models(models)
    return Situation(part, part, models)
