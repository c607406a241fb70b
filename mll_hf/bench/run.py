"""Run methods on tasks and scenarios, and keep the results.

Results are kept in a folder named after a digest of all inputs: labels, tasks, prompts, seed and package version. There
is a file per task and scenario, written as soon as it is done; a later run computes only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from mll_hf import __version__
from mll_hf.bench.baselines.modelgpt import text_features
from mll_hf.bench.cache import ProbeImages
from mll_hf.bench.methods import ABLATIONS, METHODS, Group, Method
from mll_hf.bench.metrics import Ranking, accuracy, mean_per_class_recall
from mll_hf.bench.scenarios import Kind, Scenario, Situation, generator, labeled_sample, scenarios, situation
from mll_hf.bench.world import (
    Hindsight,
    Hub,
    KnownTasks,
    TaskText,
    TaskView,
    class_embeddings,
    flat,
    read_embeddings,
    read_text,
)
from mll_hf.errors import InputError, MissingExtraError
from mll_hf.matching.prompts import DEFAULT_TEMPLATE
from mll_hf.utils.files import canonical_json, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.bench.cache import EmbeddingCache, ImageData
    from mll_hf.bench.methods import Scores
    from mll_hf.bench.suites import TargetTask
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.label import ModelRef
    from mll_hf.matching.concept_index import ConceptIndex


@dataclass(frozen=True)
class BenchConfig:
    """Settings of the benchmark."""

    draws: int = 5  # number of draws of each random scenario, and of labeled images for methods that are given some
    seed: int = 0
    # prompt templates; None for those of each task's domain and purpose
    templates: tuple[str, ...] | None = (DEFAULT_TEMPLATE,)
    methods: tuple[Method, ...] = METHODS
    ablations: tuple[Method, ...] = ABLATIONS  # variants, run on all images only

    def __post_init__(self) -> None:
        if self.draws < 1 or self.seed < 0:
            raise InputError("draws must be at least 1 and the seed at least 0; choose others")


@dataclass(frozen=True)
class Suite:
    """Models and tasks."""

    hub: Hub
    tasks: tuple[TargetTask, ...]
    general: TargetTask | None = None  # a general benchmark by which a user might choose a model, if there is one

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
    # how well the method ranks the models, if it ranks them; only with all images and models
    ranking: Ranking | None = None

    @property
    def n_models(self) -> int:
        """Number of models that run."""
        return len(self.models)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Record:
        """Inverse of ``asdict`` and JSON."""
        ranking = document["ranking"] and Ranking(**document["ranking"])
        return cls(**{**document, "models": tuple(document["models"]), "ranking": ranking})


@dataclass(frozen=True)
class TaskFacts:
    """Results of the models alone on a task."""

    name: str
    n_images: int  # number of images that can be decoded
    accuracies: Sequence[float]  # [M]
    features: Sequence[Sequence[float]]  # [M, F] ModelGPT's text features; empty for the general benchmark


@dataclass(frozen=True)
class Results:
    """Everything that tables and figures are made from."""

    suite: Suite
    config: BenchConfig
    facts: tuple[TaskFacts, ...]  # of each task, in order
    general: TaskFacts | None  # of the general benchmark
    records: tuple[Record, ...]
    encoder: str  # id of the text encoder that matched classes to concepts
    digest: str

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
        there = {record.method for record in self.records if record.scenario == Kind.ALL}
        return tuple(method for method in self.config.methods if method.name in there)


# --- running ----------------------------------------------------------------------------------------------------------


def embed(
    refs: Sequence[ModelRef],
    tasks: Sequence[TargetTask],
    index: ConceptIndex,
    cache: EmbeddingCache,
    templates: Sequence[str] | None,
    *,
    probes: ProbeSet | None = None,
    device: str | None = None,
) -> None:
    """Compute missing embeddings of tasks, and of probe images with the captions of their concepts.

    ``templates`` None stands for those of each task's domain and purpose. Device and errors as for
    :meth:`~mll_hf.bench.cache.EmbeddingCache.fill`.
    """
    words = [read_text(task, index, templates) for task in tasks]
    texts = [flat(part) for text in words for part in (text.prompts, text.captions, text.synonyms)]
    images: list[ImageData] = list(tasks)
    if probes is not None:
        texts.append([concept.caption for concept in index.graph.concepts])
        images.append(ProbeImages(probes))
    cache.fill(refs, images, texts, device)


def run(suite: Suite, index: ConceptIndex, cache: EmbeddingCache, folder: Path, config: BenchConfig) -> Results:
    """Run what has not been run yet, and keep results in ``folder``; the cache must have been filled by :func:`embed`.

    Raises:
        InputError: No image of a task can be decoded.
        MissingExtraError: A package that some methods need is not installed.
        StorageError: The folder cannot be written.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtraError("threadpoolctl", "bench") from error

    digest = run_digest(suite, index, config)
    runner = _Runner(suite, index, cache, folder / digest[:16], config)
    facts, general = runner.facts, runner.general  # first, since methods learn from the other tasks
    planned = scenarios(len(suite.hub), config.draws)
    records: list[Record] = []
    total = len(suite.tasks) * len(planned)
    progress = tqdm(total=total, unit="scenario", desc="methods", name="mll_hf.bench")  # type: ignore[no-untyped-call]
    with progress, threadpool_limits(1):  # the matrices are small; more threads are slower
        for t in range(len(suite.tasks)):
            bench = _TaskRun(runner, t)
            for scenario in planned:
                records += bench.records_of(scenario)
                progress.update(1)
    return Results(suite, config, facts, general, tuple(records), index.encoder.id, digest)


def run_digest(suite: Suite, index: ConceptIndex, config: BenchConfig) -> str:
    """Digest of all inputs except methods and draws, which the files of results name."""
    inputs = {
        "version": __version__,
        "hub": suite.hub.digest,
        "tasks": [[task.name, task.revision, task.domain, task.task] for task in suite.tasks],
        "general": suite.general and suite.general.revision,
        "encoder": index.encoder.id,
        "templates": config.templates and list(config.templates),
        "seed": config.seed,
    }
    return hashlib.sha256(canonical_json(inputs).encode()).hexdigest()


@dataclass(frozen=True)
class _Runner:
    suite: Suite
    index: ConceptIndex
    cache: EmbeddingCache
    folder: Path
    config: BenchConfig

    @cached_property
    def facts(self) -> tuple[TaskFacts, ...]:
        """Of the target tasks."""
        return tuple(self._facts_of(task) for task in self.suite.tasks)

    @cached_property
    def general(self) -> TaskFacts | None:
        """Of the general benchmark."""
        return self._facts_of(self.suite.general) if self.suite.general else None

    @cached_property
    def accuracies(self) -> NDArray[np.float64]:
        """[M, T] accuracy of each model on each target task."""
        return np.array([facts.accuracies for facts in self.facts]).T

    def known(self, t: int) -> KnownTasks | None:
        """The other tasks than task t, if there are any and all tasks have features."""
        others = [s for s in range(len(self.facts)) if s != t]
        if not others or not all(facts.features for facts in self.facts):
            return None
        features = np.array([facts.features for facts in self.facts]).transpose(1, 0, 2)
        return KnownTasks(features[:, others], self.accuracies[:, others], features[:, t])

    def open(self, task: TargetTask) -> tuple[TaskView, NDArray[np.int64]]:
        """A view of a task without the other tasks, and the true classes."""
        text = read_text(task, self.index, self.config.templates)
        embeddings = read_embeddings(self.cache, self.suite.hub.refs, task, text.prompts)
        if not embeddings.readable.any():
            raise InputError(f"no image of the task '{task.name}' can be decoded; leave it out")
        view = TaskView(self.suite.hub, text, embeddings.logits, embeddings.features)
        return view, task.labels[embeddings.readable]

    def _facts_of(self, task: TargetTask) -> TaskFacts:
        """Accuracies and text features of all models, kept in a file."""
        path = self.folder / f"{_file_name(task.name, task.revision[:8])}--facts.json"
        if not path.exists():
            view, labels = self.open(task)
            accuracies = [accuracy(answers, labels) for answers in view.answers]
            features = [] if task is self.suite.general else self._features(view.text)
            write_atomically(path, json.dumps(asdict(TaskFacts(task.name, len(labels), accuracies, features))).encode())
        return TaskFacts(**json.loads(path.read_bytes()))

    def _features(self, text: TaskText) -> list[list[float]]:
        if len(text.classes) < 2:
            return []

        def by_class(ref: ModelRef, texts: Sequence[Sequence[str]]) -> list[NDArray[np.float32]]:
            return np.split(self.cache.texts(ref, flat(texts)), np.cumsum([len(of_class) for of_class in texts])[:-1])

        rows = []
        for ref in self.suite.hub.refs:
            weights = class_embeddings(self.cache.texts(ref, flat(text.prompts)), len(text.classes))
            captions, synonyms = by_class(ref, text.captions), by_class(ref, text.synonyms)
            rows.append(text_features(weights, captions, synonyms, self.config.seed).tolist())
        return rows


class _TaskRun:
    """Runs the methods on one task; embeddings are read only if results are missing."""

    def __init__(self, runner: _Runner, t: int) -> None:
        self._runner, self._task, self._config = runner, runner.suite.tasks[t], runner.config
        self._general = None if runner.general is None else np.array(runner.general.accuracies)
        self._known = runner.known(t)
        self._hindsight = Hindsight(runner.accuracies[:, t], runner.accuracies.mean(axis=1))
        self._scores: dict[tuple[str, int], NDArray[np.float64]] = {}

    def records_of(self, scenario: Scenario) -> list[Record]:
        """All records of a scenario; those of an earlier run are read from its file."""
        path = self._runner.folder / f"{_file_name(self._task.name, scenario.name)}.json"
        present = [Record.from_json(row) for row in json.loads(path.read_bytes())] if path.exists() else []
        known = {(record.method, record.draw): record for record in present}
        planned = [
            (method, draw)
            for draw in range(scenario.draws)
            for method in (*self._config.methods, *self._config.ablations)
            if scenario.takes(method) and draw < scenario.draws_of(method) and self._has_inputs_of(method)
        ]
        missing = [(method, draw) for method, draw in planned if (method.name, draw) not in known]
        if missing:
            known |= {(record.method, record.draw): record for record in self._compute(scenario, missing)}
            write_atomically(path, json.dumps([asdict(record) for record in known.values()]).encode())
        return [known[method.name, draw] for method, draw in planned]

    def _has_inputs_of(self, method: Method) -> bool:
        missing = {"general": self._general is None, "known": self._known is None}
        return not any(missing.get(name) for name in method.needs)

    @cached_property
    def _opened(self) -> tuple[TaskView, NDArray[np.int64]]:
        view, labels = self._runner.open(self._task)
        return replace(view, known=self._known, general=self._general), labels

    def _compute(self, scenario: Scenario, missing: list[tuple[Method, int]]) -> Iterator[Record]:
        view, labels = self._opened
        for draw in sorted({draw for _, draw in missing}):
            # All tasks share hubs and scales; images are drawn for each task
            where = () if scenario.kind in (Kind.HUB, Kind.SCALED, Kind.MISCALIBRATED) else (self._task.name,)
            drawn = situation(scenario, view, labels, generator(self._config.seed, scenario.name, draw, *where))
            for method in (method for method, of in missing if of == draw):
                yield self._record(scenario, method, draw, drawn)

    def _record(self, scenario: Scenario, method: Method, draw: int, drawn: Situation) -> Record:
        labels = self._opened[1] if drawn.images is None else self._opened[1][drawn.images]
        models = np.arange(len(self._runner.suite.hub)) if drawn.models is None else drawn.models
        started = time.perf_counter()
        if method.score is not None and scenario.kind in (Kind.ALL, Kind.HUB, Kind.CAPPED):
            choice = method.choose_by(self._scores_of(method, method.score, draw)[models])
        else:
            choice = method.choose(self._told(drawn.seen, labels, method, draw))
        seconds = time.perf_counter() - started
        answers = np.atleast_2d(choice.answer(drawn.asked))
        ranking = None
        if scenario.kind is Kind.ALL and choice.scores is not None:
            ranking = Ranking.of(choice.scores, self._hindsight.accuracies, choice.predicted)
        return Record(
            task=self._task.name,
            scenario=scenario.name,
            method=method.name,
            draw=draw,
            accuracy=float(np.mean([accuracy(row, labels) for row in answers])),
            recall=float(np.mean([mean_per_class_recall(row, labels) for row in answers])),
            gflops=float(choice.runs @ drawn.asked.hub.gflops),
            models=tuple(models[choice.runs > 0].tolist()),
            seconds=seconds,
            ranking=ranking,
        )

    def _scores_of(self, method: Method, score: Scores, draw: int) -> NDArray[np.float64]:
        """Scores of all models, computed once for all hubs."""
        draw = draw % self._config.draws if method.sample else 0  # there are more hubs than labeled samples
        if (method.name, draw) not in self._scores:
            self._scores[method.name, draw] = score(self._told(*self._opened, method, draw))
        return self._scores[method.name, draw]

    def _told(self, view: TaskView, labels: NDArray[np.int64], method: Method, draw: int) -> TaskView:
        """The view with labeled images or hindsight, for methods that are given them.

        ``labels`` are the classes of the images that are scored: those of the view where these are not all images.
        """
        if method.sample is not None:
            rng = generator(self._config.seed, "labeled", draw, self._task.name)
            return view.told(labeled=labeled_sample(method, self._opened[1], rng))
        if method.group is Group.HINDSIGHT:
            return view.told(hindsight=self._hindsight_of(view, labels))
        return view

    def _hindsight_of(self, view: TaskView, labels: NDArray[np.int64]) -> Hindsight:
        """Hindsight of the images that are scored."""
        if len(labels) == len(self._opened[1]):
            return self._hindsight
        return self._hindsight._replace(accuracies=np.array([accuracy(of, labels) for of in view.answers]))


def _file_name(*parts: str) -> str:
    return "--".join("".join(c if c.isalnum() or c in "-._" else "-" for c in part) for part in parts)
