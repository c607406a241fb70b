"""Conditions under which methods are compared: unlabeled images, available models.

A draw depends on the seed, the scenario and the number of the draw, and on the task if images are drawn. All methods
therefore get the same draws, and all tasks the same hubs.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmark.methods import Group, Method
from benchmark.world import LabeledSample, TaskView

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_COUNTS = (32, 64, 128, 256, 512)
HUB_SIZES = (3, 5, 10, 15)
HUBS_PER_DRAW = 4  # all tasks share a hub, so chance does not average out over tasks
COST_QUANTILES = (0.25, 0.5, 0.75)
STRESSED_IMAGES = 256
FREQUENT_SHARES = (0.6, 0.3)
IMBALANCE = 100.0  # most frequent class over rarest class


class Kind(StrEnum):
    """What is varied."""

    ALL = "all images"
    IMAGES = "fewer images"
    LONG_TAIL = "long tail"
    ABSENT = "a third of the classes absent"
    FREQUENT = "one class frequent"
    HUB = "random hubs"
    CAPPED = "capped hubs"


@dataclass(frozen=True)
class Scenario:
    """One condition."""

    kind: Kind
    value: float = 0  # number of images or models, share of a class, or quantile of GFLOPs; 0 where none applies
    draws: int = 1
    own: bool = False  # whether only the images that are seen are scored, instead of all images

    @property
    def name(self) -> str:
        """Kind, value and what is scored, for files and tables."""
        name = f"{self.kind} {self.value:g}" if self.value else str(self.kind)
        return f"{name}, scored on them" if self.own else name

    def takes(self, method: Method) -> bool:
        """Whether a method is run in this scenario; methods that it cannot affect are not."""
        if self.own:
            return method.group is not Group.FEW_LABELS
        match self.kind:
            case Kind.IMAGES | Kind.LONG_TAIL | Kind.ABSENT:
                return method.group is Group.UNLABELED
            case _:
                return True

    def draws_of(self, method: Method) -> int:
        """Number of draws for a method: one if nothing is random."""
        is_random = self.kind not in (Kind.ALL, Kind.CAPPED) or method.sample is not None
        return self.draws if is_random else 1


def scenarios(n_models: int, draws: int) -> tuple[Scenario, ...]:
    """All scenarios for a hub of ``n_models`` models."""
    return (
        Scenario(Kind.ALL, draws=draws),
        *(Scenario(Kind.IMAGES, n, draws) for n in IMAGE_COUNTS),
        Scenario(Kind.LONG_TAIL, STRESSED_IMAGES, draws),
        Scenario(Kind.ABSENT, STRESSED_IMAGES, draws),
        Scenario(Kind.LONG_TAIL, STRESSED_IMAGES, draws, own=True),
        Scenario(Kind.ABSENT, STRESSED_IMAGES, draws, own=True),
        *(Scenario(Kind.FREQUENT, share, draws, own=True) for share in FREQUENT_SHARES),
        *(Scenario(Kind.HUB, size, HUBS_PER_DRAW * draws) for size in HUB_SIZES if size < n_models),
        *(Scenario(Kind.CAPPED, quantile) for quantile in COST_QUANTILES),
    )


def generator(seed: int, *names: object) -> np.random.Generator:
    """A random generator that depends on a seed and on names."""
    spelled = (str(name).replace("labeled", "labelled").replace("labeling", "labelling") for name in names)
    return np.random.default_rng(
        [seed, *(zlib.crc32(name.encode()) for name in spelled)]
    )  # as in the committed results


class ScenarioDraw(NamedTuple):
    """A draw of a scenario."""

    seen: TaskView  # the view that a method chooses by
    scored: TaskView  # the view of the images to classify, with the same models
    models: NDArray[np.int64]  # [m] positions of these models in the hub
    images: NDArray[np.int64]  # [n] positions of the images to classify


def draw_scenario(
    scenario: Scenario, view: TaskView, labels: NDArray[np.int64], rng: np.random.Generator
) -> ScenarioDraw:
    """Draw a scenario.

    Args:
        scenario: The scenario.
        view: The task with all images and models.
        labels: [N] true classes; they determine only which classes are rare, absent or frequent.
        rng: Random generator of the draw.
    """
    seen, models, images = view, np.arange(len(view.hub)), np.arange(view.n_images)
    match scenario.kind:
        case Kind.HUB:
            models = _some(models, int(scenario.value), rng)
            seen = view.of_models(models)
        case Kind.CAPPED:
            models = np.flatnonzero(view.hub.gflops <= np.quantile(view.hub.gflops, scenario.value))
            seen = view.of_models(models)
        case Kind.IMAGES | Kind.LONG_TAIL | Kind.ABSENT | Kind.FREQUENT:
            drawn = _images(scenario, labels, rng)
            seen = view.of_images(drawn)
            if not scenario.own:
                return ScenarioDraw(seen, view, models, images)
            images = drawn
    return ScenarioDraw(seen, seen, models, images)


def _images(scenario: Scenario, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of the images that are seen."""
    images = np.arange(len(labels))
    match scenario.kind:
        case Kind.FREQUENT:
            return one_frequent(labels, scenario.value, rng)
        case Kind.LONG_TAIL:
            images = long_tail(labels, rng)
        case Kind.ABSENT:
            images = without_classes(labels, rng)
    return _some(images, int(scenario.value), rng)


def long_tail(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of images with long-tailed class frequencies; the order of the classes is random.

    Of the n images of the i-th of C classes, ``n * 100^(-i / (C - 1))`` are kept on average.
    """
    present = rng.permutation(np.unique(labels))
    shares = IMBALANCE ** -np.linspace(0, 1, len(present))
    kept = []
    for y, share in zip(present.tolist(), shares.tolist(), strict=True):
        images = rng.permutation(np.flatnonzero(labels == y))
        kept.append(images[: int(len(images) * share + rng.random())])
    return np.sort(np.concatenate(kept))


def without_classes(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of the images of two thirds of the classes."""
    present = np.unique(labels)
    absent = rng.choice(present, len(present) // 3, replace=False)
    return np.flatnonzero(~np.isin(labels, absent))


def one_frequent(labels: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of images among which a random class has a given share.

    Images of all other classes are dropped at random; if there are too few, images of the frequent class are dropped.
    """
    is_frequent = labels == rng.choice(np.unique(labels))
    frequent, others = (rng.permutation(np.flatnonzero(of)) for of in (is_frequent, ~is_frequent))
    n_others = min(round(len(frequent) * (1 - share) / share), len(others))
    n_frequent = max(min(round(n_others * share / (1 - share)), len(frequent)), 1)
    return np.sort(np.concatenate([frequent[:n_frequent], others[:n_others]]))


def labeled_sample(size: int, labels: NDArray[np.int64], rng: np.random.Generator) -> LabeledSample:
    """At most ``size`` labeled images for a method, drawn at random."""
    images = np.sort(rng.permutation(len(labels))[:size])
    return LabeledSample(images, labels[images])


def _some(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most ``count`` random rows, in order."""
    return np.sort(rng.permutation(rows)[:count])
