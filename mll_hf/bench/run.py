"""Run methods over tasks and scenarios, and keep what came out.

Results lie in a folder whose name is a digest of all inputs: labels, tasks, prompts, seed and version of this package.
There is a file for each task and scenario, written at once; what is there is not computed again.
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
from mll_hf.bench.methods import ABLATIONS, METHODS, Choice, Group, Method
from mll_hf.bench.metrics import (
    accuracy,
    kendall,
    mean_per_class_recall,
    spearman,
    top_kendall,
    top_l1,
    top_overlap,
)
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
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.bench.cache import EmbeddingCache, ImageData
    from mll_hf.bench.suites import TargetTask
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.label import ModelRef
    from mll_hf.matching.concept_index import ConceptIndex


@dataclass(frozen=True)
class BenchConfig:
    """How the benchmark is run.

    Attributes:
        draws: How often each random scenario is drawn, and labeled images for methods that are given some.
        seed: Seed of all draws.
        templates: Prompt templates; None for those that fit each task's domain and purpose.
        methods: What is compared.
        ablations: Variants that are compared on all images only.
    """

    draws: int = 5
    seed: int = 0
    templates: tuple[str, ...] | None = (DEFAULT_TEMPLATE,)
    methods: tuple[Method, ...] = METHODS
    ablations: tuple[Method, ...] = ABLATIONS

    def __post_init__(self) -> None:
        if self.draws < 1 or self.seed < 0:
            raise InputError("draws must be at least 1 and the seed at least 0; choose others")


@dataclass(frozen=True)
class Suite:
    """What methods are tried on.

    Attributes:
        hub: The models.
        tasks: The target tasks.
        general: A general benchmark by which a user might choose a model; None if there is none.
    """

    hub: Hub
    tasks: tuple[TargetTask, ...]
    general: TargetTask | None = None

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise InputError("two tasks have the same name; rename one")


@dataclass(frozen=True)
class Ranking:
    """How well scores rank the models of a hub by their accuracy; see :mod:`mll_hf.bench.metrics`.

    Attributes:
        overlap: R5.
        top_kendall: tau5.
        kendall: Kendall's tau over all models.
        spearman: Spearman's rank correlation.
        regret: What the best model has more than the first of the ranking.
        hit: 1 if the first of the ranking is a best model.
        l1: LOVM's L1 of predicted accuracies; None if none are predicted.
    """

    overlap: float
    top_kendall: float
    kendall: float
    spearman: float
    regret: float
    hit: float
    l1: float | None


@dataclass(frozen=True)
class Record:
    """A method on a task, in one draw of a scenario.

    Attributes:
        task: Its name.
        scenario: Its name.
        method: Its name.
        draw: Number of the draw.
        accuracy: On all images of the task.
        recall: Mean per-class recall on them.
        gflops: Per image, of the models that run.
        models: Positions of these models in the hub.
        seconds: Time to choose, from embeddings.
        ranking: How well it ranks the models; None if it does not, or in a scenario for which this is not asked.
    """

    task: str
    scenario: str
    method: str
    draw: int
    accuracy: float
    recall: float
    gflops: float
    models: tuple[int, ...]
    seconds: float
    ranking: Ranking | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What tells records of a file apart."""
        return self.method, self.draw

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Record:
        """Read a record back from ``asdict``'s form."""
        ranking = document["ranking"] and Ranking(**document["ranking"])
        return cls(**{**document, "models": tuple(document["models"]), "ranking": ranking})


@dataclass(frozen=True)
class TaskFacts:
    """What is known of the models on a task, and nothing of methods.

    Attributes:
        name: Of the task.
        n_images: Images that can be decoded.
        accuracies: [M] of each model alone.
        features: [M, F] ModelGPT's text features; none for the general benchmark.
    """

    name: str
    n_images: int
    accuracies: tuple[float, ...]
    features: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Results:
    """All that came out.

    Attributes:
        suite: What was run on.
        config: How.
        facts: Of each task, in order.
        general: Of the general benchmark.
        records: Of all methods.
        encoder: Id of the text encoder that matched classes to concepts.
        digest: Of all inputs.
    """

    suite: Suite
    config: BenchConfig
    facts: tuple[TaskFacts, ...]
    general: TaskFacts | None
    records: tuple[Record, ...]
    encoder: str
    digest: str

    @cached_property
    def accuracies(self) -> NDArray[np.float64]:
        """[M, T] of each model alone."""
        return np.array([facts.accuracies for facts in self.facts]).T

    @cached_property
    def _by_method(self) -> dict[tuple[str, str], list[Record]]:
        groups: dict[tuple[str, str], list[Record]] = {}
        for record in self.records:
            groups.setdefault((record.scenario, record.method), []).append(record)
        return groups

    @cached_property
    def scenarios(self) -> tuple[str, ...]:
        """Names of the scenarios, in order."""
        return tuple(dict.fromkeys(scenario for scenario, _ in self._by_method))

    def per_task(self, scenario: str, value: Callable[[Record], float]) -> dict[str, NDArray[np.float64]]:
        """For each method of a scenario [T], the mean over draws of something about its records."""
        rows = {}
        for (of_scenario, method), records in self._by_method.items():
            if of_scenario == scenario:
                draws = {facts.name: [value(r) for r in records if r.task == facts.name] for facts in self.facts}
                rows[method] = np.array([np.mean(of_task) for of_task in draws.values()])
        return rows


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
    """Compute the embeddings that are missing; see :meth:`~mll_hf.bench.cache.EmbeddingCache.fill`.

    Args:
        refs: The models.
        tasks: The tasks, the general benchmark among them.
        index: Concepts of the graph.
        cache: Where embeddings are kept.
        templates: Prompt templates; None for those that fit each task's domain and purpose.
        probes: Images of the graph, to be embedded too, with the captions of its concepts.
        device: ``cuda``, ``mps``, ``cpu``, or None for the best that is there.

    Raises:
        ModelError: A model cannot be loaded or run.
        StorageError: The cache cannot be written.
    """
    words = [read_text(task, index, templates) for task in tasks]
    texts = [flat(part) for text in words for part in (text.prompts, text.captions, text.synonyms)]
    images: list[ImageData] = list(tasks)
    if probes is not None:
        texts.append([concept.caption for concept in index.graph.concepts])
        images.append(ProbeImages(probes))
    cache.fill(refs, images, texts, device)


def run(suite: Suite, index: ConceptIndex, cache: EmbeddingCache, folder: Path, config: BenchConfig) -> Results:
    """Run what has not been run yet. The embeddings must be there: see :func:`embed`.

    Args:
        suite: Models and tasks.
        index: Concepts of the hub's graph.
        cache: Embeddings.
        folder: Where results are kept.
        config: How.

    Raises:
        InputError: No image of a task can be decoded.
        MissingExtraError: What some methods need is not installed.
        StorageError: The folder cannot be written.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtraError("threadpoolctl", "bench") from error

    digest = run_digest(suite, index, config)
    runner = _Runner(suite, index, cache, folder / digest[:16], config)
    facts = tuple(runner.facts_of(task) for task in suite.tasks)
    general = runner.facts_of(suite.general) if suite.general else None
    planned = scenarios(len(suite.hub), config.draws)
    records: list[Record] = []
    progress = tqdm(  # type: ignore[no-untyped-call]
        total=len(suite.tasks) * len(planned), unit="scenario", desc="methods", name="mll_hf.bench"
    )
    with progress, threadpool_limits(1):  # on many small matrices, threads mostly wait for one another
        for t in range(len(suite.tasks)):
            bench = _TaskRun(runner, t, facts, general)
            for scenario in planned:
                records += bench.records_of(scenario)
                progress.update(1)
    return Results(suite, config, facts, general, tuple(records), index.encoder.id, digest)


def run_digest(suite: Suite, index: ConceptIndex, config: BenchConfig) -> str:
    """Names everything that results follow from, except methods and draws: those are named in the files."""
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

    def open(self, task: TargetTask) -> tuple[TaskView, NDArray[np.int64]]:
        """A task as methods see it, without the other tasks, and the true classes apart."""
        text = read_text(task, self.index, self.config.templates)
        embeddings = read_embeddings(self.cache, self.suite.hub.refs, task, text.prompts)
        if not embeddings.readable.any():
            raise InputError(f"no image of the task '{task.name}' can be decoded; leave it out")
        view = TaskView(self.suite.hub, text, embeddings.logits, embeddings.features)
        return view, task.labels[embeddings.readable]

    def facts_of(self, task: TargetTask) -> TaskFacts:
        """Accuracies and text features of all models, kept in a file."""
        path = self.folder / f"{_file_name(task.name, task.revision[:8])}--facts.json"
        if path.exists():
            document = json.loads(path.read_bytes())
            features = tuple(tuple(row) for row in document["features"])
            return TaskFacts(document["name"], document["n_images"], tuple(document["accuracies"]), features)
        view, labels = self.open(task)
        accuracies = tuple(accuracy(answers, labels) for answers in view.answers)
        features = () if task is self.suite.general else self._features(view.text)
        facts = TaskFacts(task.name, len(labels), accuracies, features)
        write_atomically(path, json.dumps(asdict(facts)).encode())
        return facts

    def _features(self, text: TaskText) -> tuple[tuple[float, ...], ...]:
        if len(text.classes) < 2:
            return ()
        ends = [np.cumsum([len(of_class) for of_class in texts])[:-1] for texts in (text.captions, text.synonyms)]
        rows = []
        for ref in self.suite.hub.refs:
            weights = class_embeddings(self.cache.texts(ref, flat(text.prompts)), len(text.classes))
            captions = np.split(self.cache.texts(ref, flat(text.captions)), ends[0])
            synonyms = np.split(self.cache.texts(ref, flat(text.synonyms)), ends[1])
            rows.append(tuple(text_features(weights, captions, synonyms, self.config.seed).tolist()))
        return tuple(rows)


class _TaskRun:
    """The methods on one task; nothing is read before something is missing."""

    def __init__(self, runner: _Runner, t: int, facts: tuple[TaskFacts, ...], general: TaskFacts | None) -> None:
        self._runner, self._t, self._facts, self._general = runner, t, facts, general
        self._task, self._config = runner.suite.tasks[t], runner.config
        self._scores: dict[tuple[str, int], NDArray[np.float64]] = {}

    def records_of(self, scenario: Scenario) -> list[Record]:
        """All records of a scenario, those of an earlier run taken from its file."""
        path = self._runner.folder / f"{_file_name(self._task.name, scenario.name)}.json"
        present = [Record.from_json(row) for row in json.loads(path.read_bytes())] if path.exists() else []
        known = {record.key: record for record in present}
        planned = [(method, draw) for draw in range(scenario.draws) for method in self._methods(scenario, draw)]
        missing = [(method, draw) for method, draw in planned if (method.name, draw) not in known]
        if missing:
            known |= {record.key: record for record in self._compute(scenario, missing)}
            write_atomically(path, json.dumps([asdict(record) for record in known.values()]).encode())
        return [known[method.name, draw] for method, draw in planned]

    def _methods(self, scenario: Scenario, draw: int) -> list[Method]:
        return [
            method
            for method in (*self._config.methods, *self._config.ablations)
            if scenario.takes(method) and draw < scenario.draws_of(method) and self._is_served(method)
        ]

    def _is_served(self, method: Method) -> bool:
        there = {"general": self._general is not None, "known": self._has_known, "labeled": True, "hindsight": True}
        return all(there[name] for name in method.needs)

    @property
    def _has_known(self) -> bool:
        return len(self._facts) > 1 and all(facts.features for facts in self._facts)

    @cached_property
    def _opened(self) -> tuple[TaskView, NDArray[np.int64]]:
        view, labels = self._runner.open(self._task)
        others = [s for s in range(len(self._facts)) if s != self._t]
        known = None
        if self._has_known:
            features = np.array([facts.features for facts in self._facts]).transpose(1, 0, 2)
            known = KnownTasks(features[:, others], self._accuracies[:, others], features[:, self._t])
        general = None if self._general is None else np.array(self._general.accuracies)
        return replace(view, known=known, general=general), labels

    @cached_property
    def _accuracies(self) -> NDArray[np.float64]:
        return np.array([facts.accuracies for facts in self._facts]).T

    def _compute(self, scenario: Scenario, missing: list[tuple[Method, int]]) -> Iterator[Record]:
        view, labels = self._opened
        for draw in sorted({draw for _, draw in missing}):
            # Hubs and scales are those of all tasks, images those of this one
            where = () if scenario.kind in (Kind.HUB, Kind.SCALED, Kind.MISCALIBRATED) else (self._task.name,)
            rng = generator(self._config.seed, scenario.name, draw, *where)
            drawn = situation(scenario, view, labels, rng)
            for method in (method for method, of in missing if of == draw):
                yield self._record(scenario, method, draw, drawn)

    def _record(self, scenario: Scenario, method: Method, draw: int, drawn: Situation) -> Record:
        labels, models = self._opened[1], drawn.models
        started = time.perf_counter()
        if method.score is not None and scenario.kind in (Kind.ALL, Kind.HUB, Kind.CAPPED):
            scores = self._scores_of(method, draw)
            choice = method.choose_by(scores if models is None else scores[models])
        else:
            choice = method.choose(self._prepared(drawn.seen, method, draw))
        seconds = time.perf_counter() - started
        answers = np.atleast_2d(choice.answer(drawn.asked))
        positions = np.arange(len(self._runner.suite.hub)) if models is None else models
        return Record(
            task=self._task.name,
            scenario=scenario.name,
            method=method.name,
            draw=draw,
            accuracy=float(np.mean([accuracy(row, labels) for row in answers])),
            recall=float(np.mean([mean_per_class_recall(row, labels) for row in answers])),
            gflops=float(choice.runs @ drawn.asked.hub.gflops),
            models=tuple(positions[choice.runs > 0].tolist()),
            seconds=seconds,
            ranking=self._ranking(choice) if scenario.kind is Kind.ALL else None,
        )

    def _scores_of(self, method: Method, draw: int) -> NDArray[np.float64]:
        """Scores within the whole hub, computed once."""
        draw = draw % self._config.draws if method.sample else 0  # there are more hubs than labeled samples
        if (method.name, draw) not in self._scores:
            assert method.score is not None  # noqa: S101 - asked by the caller
            self._scores[method.name, draw] = method.score(self._prepared(self._opened[0], method, draw))
        return self._scores[method.name, draw]

    def _prepared(self, view: TaskView, method: Method, draw: int) -> TaskView:
        """The view with what only some methods may see."""
        if method.sample is not None:
            rng = generator(self._config.seed, "labeled", draw, self._task.name)
            return _with(view, labeled=labeled_sample(method, self._opened[1], rng))
        if method.group is Group.HINDSIGHT:
            whole = Hindsight(self._accuracies[:, self._t], self._accuracies.mean(axis=1))
            return _with(view, hindsight=whole)
        return view

    def _ranking(self, choice: Choice) -> Ranking | None:
        if choice.scores is None:
            return None
        truth, scores = self._accuracies[:, self._t], choice.scores
        first = truth[int(np.argmax(scores))]
        return Ranking(
            overlap=top_overlap(scores, truth),
            top_kendall=top_kendall(scores, truth),
            kendall=kendall(scores, truth),
            spearman=spearman(scores, truth),
            regret=float(truth.max() - first),
            hit=float(first == truth.max()),
            l1=None if choice.predicted is None else top_l1(choice.predicted, truth),
        )


def _with(view: TaskView, **fields: Any) -> TaskView:  # noqa: ANN401 - fields of a view
    """The view with some fields more; what was derived from the others is kept."""
    more = replace(view, **fields)
    derived = {name: value for name, value in vars(view).items() if name not in TaskView.__dataclass_fields__}
    vars(more).update(derived)
    return more


def _file_name(*parts: str) -> str:
    return "--".join("".join(c if c.isalnum() or c in "-._" else "-" for c in part) for part in parts)
