"""The methods that the benchmark compares.

A method gets a :class:`~benchmark.world.TaskView` and makes a :class:`Choice`. To add one, write a function that
scores the models or makes a choice, and add a row to :data:`METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache, partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from benchmark.metrics import accuracy
from benchmark.scores import leep, mean_confidence
from benchmark.world import TaskView
from mll_hf.ensemble import Rule
from mll_hf.ensemble.rules import combine
from mll_hf.errors import InputError
from mll_hf.selection import Selection, SelectionConfig, Strategy, choose_with_images, select, shortlist_config
from mll_hf.selection.probabilities import mutual_information
from mll_hf.selection.task import MIN_IMAGES, trial_sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

T = TypeVar("T")
Scores = Callable[[TaskView], "NDArray[np.float64]"]
OURS, PAPER, GENERAL, ORACLE = "mll, k=1", "paper, k=1", "general, k=1", "oracle"


class Group(StrEnum):
    """The information that a method uses."""

    REFERENCE = "reference"
    LABELS = "labels"
    UNLABELED = "unlabeled images"
    FEW_LABELS = "few labeled images"
    HINDSIGHT = "hindsight"


@dataclass(frozen=True, eq=False)
class Choice:
    """A method's choice among M models on a task."""

    runs: NDArray[np.float64]  # [M] number of runs of each model per image
    # predicts the classes [N] of the images of a view, or [R, N] for R equally likely predictions
    answer: Callable[[TaskView], NDArray[np.int64]]
    scores: NDArray[np.float64] | None = None  # [M] higher for better models; None if the method does not rank them


@dataclass(frozen=True)
class Method:
    """A way to choose or to combine models."""

    name: str
    group: Group  # the information that it uses
    combine: Callable[[TaskView], Choice] | None = None  # None to take the model with the highest score
    # [M] scores, if the method takes the model with the highest score, and a model's score does not depend on the
    # other models, so that it is also valid for parts of the hub
    score: Scores | None = None
    needs_general: bool = False  # whether it needs the results of a general benchmark
    sample: int | None = None  # number of labeled images that it gets

    def choose(self, view: TaskView) -> Choice:
        """The choice on a task."""
        return best_of(required(self.score)(view)) if self.combine is None else self.combine(view)


def required(value: T | None) -> T:
    """An optional field of a view, for methods that run only if it is present."""
    assert value is not None  # noqa: S101
    return value


# --- choices ----------------------------------------------------------------------------------------------------------


def best_of(scores: NDArray[np.float64]) -> Choice:
    """The first model with the highest score."""
    best = int(np.argmax(scores))
    return Choice(_once([best], len(scores)), lambda view: view.answers[best], scores)


def selected(selection: Selection, view: TaskView, rule: Rule) -> Choice:
    """The choice of a selection, with its models combined by one of the library's rules."""
    row = {ref: m for m, ref in enumerate(view.hub.refs)}
    rows = [row[model.ref] for model in selection.models]
    union = [rows[m] for m in selection.chosen_models]
    scores = np.full(len(view.hub), -np.inf)  # models that were not tried come last
    scores[rows] = selection.overall

    def answer(seen: TaskView) -> NDArray[np.int64]:
        chosen, heads = list(selection.chosen_models), selection.heads or [seen.embedded[m][1] for m in union]
        logits = np.stack([head.logits(seen.embedded[m][0]) for m, head in zip(union, heads, strict=True)])
        if rule.is_calibrated and not selection.heads:
            logits = logits / selection.temperatures[chosen, None, None]
        return combine(rule, logits, selection.chosen[chosen], selection.weights[chosen]).argmax(axis=1)

    return Choice(_once(union, len(view.hub)), answer, scores)


def pooled(weights: NDArray[np.float64]) -> Choice:
    """The mean of the models' probabilities, weighted [M]; models of weight zero do not run."""
    used = np.flatnonzero(weights)

    def answer(view: TaskView) -> NDArray[np.int64]:
        return np.einsum("m,mnc->nc", weights[used], view.probabilities[used]).argmax(axis=1)

    return Choice(_once(used, len(weights)), answer)


def _once(models: Iterable[int], n_models: int) -> NDArray[np.float64]:
    runs = np.zeros(n_models)
    runs[list(models)] = 1
    return runs


# --- by labels --------------------------------------------------------------------------------------------------------


def by_strategy(view: TaskView, config: SelectionConfig, rule: Rule) -> Choice:
    """Select and combine models as the library does."""
    return selected(select(view.candidates(config.strategy), config, view.text.task), view, rule)


def with_images(view: TaskView, k: int | None, candidates: int = 32, rule: Rule = Rule.LINEAR_POOL) -> Choice:
    """Select by labels and fit to a sample of the images, or select by labels alone if there are too few images.

    If ``k`` is None, the images determine the number of models.
    """
    if view.logits.shape[1] < MIN_IMAGES:
        return by_strategy(view, SelectionConfig(k=k or 1), rule)
    found = _tried(view, candidates)
    k = min(k or found.k, found.k)
    chosen = np.zeros_like(found.chosen)
    chosen[:k] = True
    return selected(replace(found, k=k, chosen=chosen, heads=found.heads[:k]), view, rule)


@lru_cache(maxsize=2)
def _tried(view: TaskView, candidates: int) -> Selection:
    """The models of a trial, best first, fitted to as many images as the library uses."""
    config = SelectionConfig(shortlist=candidates)
    tried = select(view.candidates(config.strategy), shortlist_config(config), view.text.task)
    row = {ref: m for m, ref in enumerate(view.hub.refs)}
    sample = trial_sample(view.logits.shape[1], config.most_images)
    seen = view.of_images(sample)
    embedded = [seen.embedded[row[tried.models[m].ref]] for m in tried.chosen_models]
    return choose_with_images(tried, range(len(embedded)), embedded, config)


_RULES = {Strategy.GENERAL: Rule.LINEAR_POOL, Strategy.PAPER: Rule.ENTROPY, Strategy.MLL: Rule.LINEAR_POOL}


def _strategy(name: str, strategy: Strategy, k: int) -> Method:
    choose = partial(by_strategy, config=SelectionConfig(strategy, k), rule=_RULES[strategy])
    independent = k == 1 and strategy is Strategy.GENERAL  # the choice of mll depends on the other models
    score: Scores | None = (lambda view: np.asarray(choose(view).scores)) if independent else None
    return Method(name, Group.LABELS, choose, score)


# --- by a few labeled images, and in hindsight ------------------------------------------------------------------------


def _leep(view: TaskView) -> NDArray[np.float64]:
    images, labels = required(view.labeled)
    return np.array([leep(of_model[images], labels) for of_model in view.probabilities])


def _sample_accuracy(view: TaskView) -> NDArray[np.float64]:
    images, labels = required(view.labeled)
    return np.array([accuracy(of_model[images], labels) for of_model in view.answers])


def _random(view: TaskView) -> Choice:
    """One model, drawn at random."""
    n_models = len(view.hub)
    return Choice(np.full(n_models, 1 / n_models), lambda seen: seen.answers)


# --- the table --------------------------------------------------------------------------------------------------------

METHODS: tuple[Method, ...] = (
    Method("random", Group.REFERENCE, _random),
    Method("INB", Group.REFERENCE, score=lambda view: required(view.general), needs_general=True),
    Method("uniform, all", Group.REFERENCE, lambda view: pooled(np.full(len(view.hub), 1 / len(view.hub)))),
    _strategy(GENERAL, Strategy.GENERAL, 1),
    _strategy("general, k=3", Strategy.GENERAL, 3),
    _strategy(PAPER, Strategy.PAPER, 1),
    _strategy("paper, k=3", Strategy.PAPER, 3),
    _strategy(OURS, Strategy.MLL, 1),
    _strategy("mll, k=3", Strategy.MLL, 3),
    Method("MI", Group.UNLABELED, score=lambda view: mutual_information(view.probabilities)),
    Method("MI, calibrated", Group.UNLABELED, score=lambda view: mutual_information(view.calibrated)),
    Method("confidence", Group.UNLABELED, score=lambda view: mean_confidence(view.probabilities)),
    Method("mll + images, k=1", Group.UNLABELED, partial(with_images, k=1)),
    Method("mll + images, combined", Group.UNLABELED, partial(with_images, k=None)),
    Method("mll + images, k=1 of 8", Group.UNLABELED, partial(with_images, k=1, candidates=8)),
    Method("LEEP, 50 labels", Group.FEW_LABELS, score=_leep, sample=50),
    Method("accuracy, 50 labels", Group.FEW_LABELS, score=_sample_accuracy, sample=50),
    Method("best fixed", Group.HINDSIGHT, score=lambda view: required(view.hindsight).mean_accuracies),
    Method(ORACLE, Group.HINDSIGHT, score=lambda view: required(view.hindsight).accuracies),
)
"""All methods, in the order of the tables."""


def methods_named(names: Sequence[str]) -> tuple[Method, ...]:
    """Methods by name or group, plus those that all others are compared with; all methods if no name is given.

    Raises:
        InputError: There is no method or group of that name.
    """
    known = {method.name for method in METHODS} | {str(group) for group in Group}
    if wrong := [name for name in names if name not in known]:
        raise InputError(f"there is no method '{wrong[0]}'; choose among: {'; '.join(sorted(known))}")
    wanted = {*names, GENERAL, PAPER, ORACLE}
    return tuple(method for method in METHODS if not names or not wanted.isdisjoint((method.name, str(method.group))))
