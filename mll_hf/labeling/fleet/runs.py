"""Label models one after another, or a few at a time, and say what became of each."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from huggingface_hub import constants

from mll_hf.errors import InputError, LabelError, MLLError, StorageError
from mll_hf.labeling.engines import LocalEngine
from mll_hf.labeling.fleet.destinations import Destination, Question, label_of_same_weights
from mll_hf.labeling.fleet.weights import weights_freed
from mll_hf.labeling.run import label_model, label_to_extend
from mll_hf.labels.packs import graph_with_packs, in_order
from mll_hf.labels.store import LABEL_FILE, read_label
from mll_hf.models import resolve_model
from mll_hf.utils.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.hub.publish import Published
    from mll_hf.hub.sources import LabelSource
    from mll_hf.labeling.engines import Engine
    from mll_hf.labels.label import ModelLabel, ModelRef
    from mll_hf.labels.packs import AttachedPack
    from mll_hf.labels.store import LabelStore

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fleet:
    """How a run labels each of its models.

    Attributes:
        base: The graph that they are measured on.
        probes: The graph's probe images.
        store: Working folder for labels and what is measured so far.
        destination: Where labels are published; None for nowhere.
        engine: Where models run, opened.
        batch_size: Images encoded at a time; None for as many as suit the device.
        overwrite: Measure again what is labeled already.
        free_cache: Delete a model's files from the cache when it is done, if the run downloaded its weights.
        packs: Packs on the graph that the labels are to cover.
        extended: Labels of the graph without packs, or with fewer; only what they lack is measured.
        publishing: Held while a label is published.
    """

    base: SemanticGraph
    probes: ProbeSet
    store: LabelStore
    destination: Destination | None
    engine: Engine = field(default_factory=LocalEngine)
    batch_size: int | None = None
    overwrite: bool = False
    free_cache: bool = False
    packs: tuple[AttachedPack, ...] = ()
    extended: LabelSource | None = None
    publishing: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)
    _at_work: defaultdict[Path, Lock] = field(
        default_factory=lambda: defaultdict(Lock), init=False, repr=False, compare=False
    )

    def alone_with(self, model: ModelRef) -> Lock:
        """Held while a model is labeled: it may be named twice, in different words."""
        with self._lock:
            return self._at_work[self.store.path_of(model)]

    @cached_property
    def graph(self) -> SemanticGraph:
        """The graph with the packs."""
        return graph_with_packs(self.base, [pack.pack for pack in self.packs])

    @property
    def question(self) -> Question:
        """What its labels answer."""
        return Question(self.graph, self.probes.revision, self.probes.sampling, self.packs)


def working_folder(graph: SemanticGraph, probes: ProbeSet, packs: Sequence[AttachedPack] = ()) -> Path:
    """Where a run keeps labels if the user names no folder: in the assets cache, by graph, images, packs and seed."""
    of_packs = [f"{pack.digest[:12]}-{pack.probes.revision[:12]}" for pack in in_order(packs)]
    name = "-".join([graph.digest[:12], probes.revision[:12], str(probes.sampling.seed), *of_packs])
    return Path(constants.HF_ASSETS_CACHE) / "mll_hf" / "labels" / name


class Step(StrEnum):
    """What is to be done about a model."""

    MEASURE = "measure"
    PUBLISH = "publish"  # the working folder holds its label
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about one model.

    Attributes:
        model: The model, pinned; to the revision that was measured, if one of the same weights was.
        step: What to do.
        found: Where its label is, if nothing has to be measured.
    """

    model: ModelRef
    step: Step
    found: str = ""


def plan(ref: ModelRef, fleet: Fleet) -> Plan:
    """Find out what is to be done about a model; no weights are downloaded.

    Args:
        ref: The model.
        fleet: How it would be labeled.

    Raises:
        MLLError: The model cannot be labeled, or not published.
    """
    destination = fleet.destination
    if destination and ref.is_local:
        raise InputError(f"{ref.repo_id} is a folder on this machine, its label of no use to others; add --no-push")
    published = destination.find(ref, fleet.question) if destination else None
    if fleet.overwrite:
        return Plan(ref, Step.MEASURE)
    if published:
        return Plan(ref, Step.NOTHING, published)
    if stored := stored_label(ref, fleet):
        step = Step.PUBLISH if destination else Step.NOTHING
        return Plan(stored.model, step, str(fleet.store.path_of(stored.model)))
    return Plan(ref, Step.MEASURE)


def stored_label(model: ModelRef, fleet: Fleet) -> ModelLabel | None:
    """The label in the working folder that a run would not measure again: of the model, or of the same weights.

    Raises:
        HubError: The weights of another revision cannot be compared.
    """
    labels = []
    for path in fleet.store.folder.glob(f"labels/{model.slug}/*/{LABEL_FILE}"):
        with contextlib.suppress(LabelError):  # a broken file is measured again
            labels.append(read_label(path, fleet.graph))
    return label_of_same_weights(labels, model, fleet.question)


class Outcome(StrEnum):
    """What became of a model."""

    LABELED = "labeled"
    STARTED = "started"  # a job will label it
    PLANNED = "planned"  # a dry run would have labeled it
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelResult:
    """What became of one model.

    Attributes:
        name: The model as the user named it.
        outcome: What became of it.
        reason: Why it was skipped or failed, or what is planned, in one line.
        model: The model, pinned, if there is such a model.
        label: Its label, if it was labeled.
        path: Where its label lies in the working folder.
        published: What became of the publication, if there was one.
        undecodable: Probe images that could not be decoded; they do not count.
        job: Address of the job that labels it.
    """

    name: str
    outcome: Outcome
    reason: str = ""
    model: ModelRef | None = None
    label: ModelLabel | None = None
    path: Path | None = None
    published: Published | None = None
    undecodable: int = 0
    job: str | None = None


def run(
    models: Sequence[str], fleet: Fleet, on_start: Callable[[int, str], None], *, dry_run: bool = False
) -> Iterator[ModelResult]:
    """Label models one after another, or a few at a time where the engine has many workers; publish each label at once.

    Args:
        models: ``org/name[@revision]`` or ``local-dir:PATH``.
        fleet: How.
        on_start: Called before each model with its number, from 1, and its name.
        dry_run: Only find out what would be done.

    Yields:
        What became of each model, in the order in which they are done.

    Raises:
        StorageError: The working folder cannot be written; the next model would meet the same full disk.
    """

    def act(number: int, name: str) -> ModelResult:
        on_start(number, name)
        return attempt(name, partial(_plan_and_label, fleet=fleet, dry_run=dry_run))

    at_once = 1 if dry_run else fleet.engine.models_at_once
    if at_once == 1:
        yield from map(act, count(1), models)
        return
    pool = ThreadPoolExecutor(at_once)
    try:
        for done in as_completed([pool.submit(act, number, name) for number, name in enumerate(models, 1)]):
            yield done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # leaving the engine's context wakes those at work


def attempt(name: str, act: Callable[[str], ModelResult]) -> ModelResult:
    """Do something about a model; what fails is a result, too."""
    try:
        return act(name)
    except StorageError:
        raise
    except MLLError as error:
        return ModelResult(name, Outcome.FAILED, str(error))
    except Exception as error:  # the model is a stranger's, and running it may raise anything
        _log.warning("%s", name, exc_info=True)
        cause = f"{type(error).__name__}: {one_line(error)}"
        reason = f"model '{name}': cannot be run ({cause}); use another batch size or device, or leave it out"
        return ModelResult(name, Outcome.FAILED, printable(reason))


def _plan_and_label(name: str, fleet: Fleet, dry_run: bool) -> ModelResult:
    ref = resolve_model(name)
    with fleet.alone_with(ref):
        to_do = plan(ref, fleet)
        if to_do.step is Step.NOTHING:
            return ModelResult(name, Outcome.SKIPPED, f"labeled already: {to_do.found}", to_do.model)
        if dry_run:
            return ModelResult(name, Outcome.PLANNED, _intention(to_do, fleet), to_do.model)
        return _label(name, to_do.model, fleet)


def _intention(to_do: Plan, fleet: Fleet) -> str:
    measure = "" if to_do.step is Step.PUBLISH else f"measure {to_do.model.revision[:12]} with {to_do.model.backend}"
    publish = f"publish to {fleet.destination}" if fleet.destination else ""
    return " and ".join(filter(None, [measure, publish]))


def _label(name: str, ref: ModelRef, fleet: Fleet) -> ModelResult:
    with weights_freed(ref) if fleet.free_cache else contextlib.nullcontext():
        result = label_model(
            ref,
            fleet.base,
            fleet.probes,
            fleet.store,
            packs=fleet.packs,
            earlier=label_to_extend(fleet.extended, ref) if fleet.extended else None,
            engine=fleet.engine,
            batch_size=fleet.batch_size,
            overwrite=fleet.overwrite,
        )
    with fleet.publishing:  # one at a time: each publication changes what the next one builds on
        published = fleet.destination.publish(result.label, fleet.graph) if fleet.destination else None
    return ModelResult(
        name,
        Outcome.LABELED,
        model=ref,
        label=result.label,
        path=result.path,
        published=published,
        undecodable=result.undecodable,
    )
