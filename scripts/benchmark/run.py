"""Run methods on tasks and scenarios."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from benchmark.methods import METHODS, Group, Method, best_of
from benchmark.metrics import accuracy, mean_per_class_recall
from benchmark.scenarios import Kind, Scenario, ScenarioDraw, draw_scenario, generator, labeled_sample, scenarios
from benchmark.world import Hindsight, Hub, TaskView, open_task
from mll_hf.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from benchmark.cache import EmbeddingCache
    from benchmark.methods import Scores
    from benchmark.suites import TargetTask
    from mll_hf.matching.concept_index import ConceptIndex


@dataclass(frozen=True)
class BenchConfig:
    """Settings of the benchmark."""

    draws: int = 5  # number of draws of each random scenario, and of labeled images for methods that get some
    seed: int = 0
    methods: tuple[Method, ...] = METHODS


@dataclass(frozen=True)
class Suite:
    """Models and tasks."""

    hub: Hub
    tasks: tuple[TargetTask, ...]
    general: TargetTask | None = None  # a general benchmark that a user might choose a model by, if there is one

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise InputError("two tasks have the same name; rename one")


@dataclass(frozen=True)
class Record:
    """The result of a method on a task, in one draw of a scenario."""

    task: str
    scenario: str
    method: str
    draw: int
    accuracy: float
    recall: float  # mean per-class recall
    gflops: float  # GFLOPs per image of the models that run
    models: tuple[int, ...]  # positions of these models in the hub
    seconds: float  # time to choose, given the embeddings

    @property
    def n_models(self) -> int:
        """Number of models that run."""
        return len(self.models)


@dataclass(frozen=True)
class TaskFacts:
    """Results of the M models alone on a task."""

    name: str
    n_images: int  # number of images that can be decoded
    accuracies: NDArray[np.float64]  # [M]


@dataclass(frozen=True)
class Results:
    """The results that tables and figures are made from."""

    suite: Suite
    config: BenchConfig
    facts: tuple[TaskFacts, ...]  # of each task, in order
    general: TaskFacts | None  # of the general benchmark
    records: tuple[Record, ...]
    encoder: str  # id of the text encoder that matched classes to concepts

    @cached_property
    def accuracies(self) -> NDArray[np.float64]:
        """[M, T] accuracy of each model on each task."""
        return np.array([facts.accuracies for facts in self.facts]).T

    def per_task(self, scenario: str, field: str = "accuracy") -> dict[str, NDArray[np.float64]]:
        """For each method of a scenario [T], the mean over draws of a field of its records."""
        draws: dict[str, dict[str, list[float]]] = {}
        for record in self.records:
            if record.scenario == scenario:
                draws.setdefault(record.method, {}).setdefault(record.task, []).append(getattr(record, field))
        return {
            method: np.array([np.mean(by_task[facts.name]) for facts in self.facts])
            for method, by_task in draws.items()
        }

    def planned(self, *kinds: Kind) -> list[Scenario]:
        """The scenarios of some kinds, in the order of the kinds."""
        planned = scenarios(len(self.suite.hub), self.config.draws)
        return [scenario for kind in kinds for scenario in planned if scenario.kind is kind]

    @cached_property
    def methods(self) -> tuple[Method, ...]:
        """The methods that were run on all images."""
        names = {record.method for record in self.records if record.scenario == Kind.ALL}
        return tuple(method for method in self.config.methods if method.name in names)


# --- running ----------------------------------------------------------------------------------------------------------


def run(suite: Suite, index: ConceptIndex, cache: EmbeddingCache, config: BenchConfig) -> Results:
    """Run all methods on all tasks and scenarios; the cache has all embeddings.

    Raises:
        InputError: No image of a task can be decoded.
        MissingExtraError: A package that some methods need is not installed.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtraError("threadpoolctl", "bench") from error

    facts = tuple(task_facts(suite.hub, task, index, cache) for task in suite.tasks)
    general = task_facts(suite.hub, suite.general, index, cache) if suite.general else None
    planned = scenarios(len(suite.hub), config.draws)
    records: list[Record] = []
    total = len(suite.tasks) * len(planned)
    progress = tqdm(total=total, unit="scenario", desc="methods", name="benchmark")  # type: ignore[no-untyped-call]
    with progress, threadpool_limits(1):  # the matrices are small; more threads are slower
        for t, task in enumerate(suite.tasks):
            view, labels = open_task(suite.hub, task, index, cache)
            view = replace(view, general=None if general is None else general.accuracies)
            average = np.mean([of_task.accuracies for of_task in facts], axis=0)
            runner = TaskRun(task.name, view, labels, Hindsight(facts[t].accuracies, average), config)
            for scenario in planned:
                records += runner.records_of(scenario)
                progress.update(1)
    return Results(suite, config, facts, general, tuple(records), index.encoder.id)


def task_facts(hub: Hub, task: TargetTask, index: ConceptIndex, cache: EmbeddingCache) -> TaskFacts:
    """Accuracies of all models."""
    view, labels = open_task(hub, task, index, cache)
    accuracies = np.array([accuracy(answers, labels) for answers in view.answers])
    return TaskFacts(task.name, len(labels), accuracies)


class TaskRun:
    """Runs the methods on one task.

    Args:
        name: Name of the task.
        view: The task as methods see it.
        labels: [N] true classes.
        hindsight: Accuracies of the models on all images.
        config: Methods, draws and seed.
    """

    def __init__(
        self, name: str, view: TaskView, labels: NDArray[np.int64], hindsight: Hindsight, config: BenchConfig
    ) -> None:
        self._name, self._view, self._labels, self._hindsight, self._config = name, view, labels, hindsight, config
        self._methods = [m for m in config.methods if view.general is not None or not m.needs_general]
        self._scores: dict[tuple[str, int], NDArray[np.float64]] = {}

    def records_of(self, scenario: Scenario) -> Iterator[Record]:
        """All records of a scenario."""
        methods = [method for method in self._methods if scenario.takes(method)]
        # All tasks share hubs; images are drawn for each task
        where = () if scenario.kind is Kind.HUB else (self._name,)
        for draw in range(scenario.draws):
            rng = generator(self._config.seed, scenario.name, draw, *where)
            drawn = draw_scenario(scenario, self._view, self._labels, rng)
            for method in methods:
                if draw < scenario.draws_of(method):
                    yield self._record(scenario, method, draw, drawn)

    def _record(self, scenario: Scenario, method: Method, draw: int, drawn: ScenarioDraw) -> Record:
        labels, models = self._labels[drawn.images], drawn.models
        started = time.perf_counter()
        if method.score is not None and scenario.kind in (Kind.ALL, Kind.HUB, Kind.CAPPED):
            choice = best_of(self._scores_of(method, method.score, draw)[models])
        else:
            choice = method.choose(self._revealed(drawn.seen, labels, method, draw))
        seconds = time.perf_counter() - started
        answers = np.atleast_2d(choice.answer(drawn.scored))
        return Record(
            task=self._name,
            scenario=scenario.name,
            method=method.name,
            draw=draw,
            accuracy=float(np.mean([accuracy(row, labels) for row in answers])),
            recall=float(np.mean([mean_per_class_recall(row, labels) for row in answers])),
            gflops=float(choice.runs @ drawn.scored.hub.gflops),
            models=tuple(models[choice.runs > 0].tolist()),
            seconds=seconds,
        )

    def _scores_of(self, method: Method, score: Scores, draw: int) -> NDArray[np.float64]:
        """Scores of all models, computed once for all hubs."""
        draw = draw % self._config.draws if method.sample else 0  # there are more hubs than labeled samples
        if (method.name, draw) not in self._scores:
            self._scores[method.name, draw] = score(self._revealed(self._view, self._labels, method, draw))
        return self._scores[method.name, draw]

    def _revealed(self, view: TaskView, labels: NDArray[np.int64], method: Method, draw: int) -> TaskView:
        """The view with labeled images or hindsight, for methods that get them.

        ``labels`` are the classes of the scored images: all images, or those of the view.
        """
        if method.sample is not None:
            rng = generator(self._config.seed, "labeled", draw, self._name)
            return view.revealing(labeled=labeled_sample(method.sample, self._labels, rng))
        if method.group is Group.HINDSIGHT:
            hindsight = self._hindsight
            if len(labels) < len(self._labels):
                here = np.array([accuracy(answers, labels) for answers in view.answers])
                hindsight = hindsight._replace(accuracies=here)
            return view.revealing(hindsight=hindsight)
        return view
