"""Label many models: which ones, what is labelled already, and what became of each.

What is labelled already is found out before any weights are downloaded, and no file that the Hub counts as a download
is touched for it. A model that fails does not stop the others; a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import logging
import shlex
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeVar

from huggingface_hub import constants, get_token, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from mll_hf.backends import resolve_model
from mll_hf.card import LABEL_PATH
from mll_hf.engines import LocalEngine
from mll_hf.errors import HubError, InputError, LabelError, MLLError, StorageError
from mll_hf.graph import GRAPH_FILE
from mll_hf.hub.connection import Head, connect, download, fetch_head, hub_errors, list_model_repos, read_head
from mll_hf.hub.locations import HUB, REPO_ID, DatasetLocation, fetch_graph, parse_dataset
from mll_hf.hub.publish import Published, publish_label, publish_to_collection, same_weights
from mll_hf.hub.sources import read_collection
from mll_hf.labeling import label_model, label_to_extend
from mll_hf.packs import covers_exactly, graph_with_packs, in_order
from mll_hf.published import published_models
from mll_hf.store import LABEL_FILE, MAX_LABEL_BYTES, label_path, read_label
from mll_hf.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mll_hf.engines import Engine
    from mll_hf.graph import SemanticGraph
    from mll_hf.hub.sources import LabelSource
    from mll_hf.labels import LabelSummary, ModelLabel, ModelRef
    from mll_hf.packs import AttachedPack
    from mll_hf.probes import ProbeSet, SamplingConfig
    from mll_hf.store import LabelStore

L = TypeVar("L", bound="LabelSummary")

_ID_FIELDS = ("repo_id", "model", "id")
_JOB_LABEL = "mll-hf"
_JOB_KEY_LENGTH = 32
_AT_WORK = ("SCHEDULING", "RUNNING")
_NOT_THERE = (401, 404)  # the Hub says 401 to strangers, so as not to tell what exists
_log = logging.getLogger(__name__)


# --- which models -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """Which of the Hub's models to take; everything that is given must fit.

    Attributes:
        tags: Tags of the models, such as ``open_clip`` or ``zero-shot-image-classification``.
        author: Their owner.
        search: Part of their ids.
        limit: Only so many, the most downloaded first.
    """

    tags: tuple[str, ...] = ()
    author: str | None = None
    search: str | None = None
    limit: int | None = None


def list_models(wanted: ModelFilter) -> tuple[str, ...]:
    """Ids of the Hub's models that a filter lists.

    Raises:
        InputError: There are none.
        HubError: The Hub cannot be asked.
    """
    question = {
        "filter": list(wanted.tags),
        "author": wanted.author or "",
        "search": wanted.search or "",
        "sort": "downloads",
        "expand": "sha",  # the ids are all that is needed
        "limit": str(wanted.limit or ""),
    }
    with hub_errors(HUB):
        found = list_model_repos(connect(), {name: value for name, value in question.items() if value})
    ids = tuple(str(model.get("id")) for model in found if REPO_ID.fullmatch(str(model.get("id"))))[: wanted.limit]
    if not ids:
        raise InputError("no model on the Hub fits this filter; check the tags, the author and the words to search for")
    return ids


def paper_models() -> tuple[str, ...]:
    """Ids of the repositories of the paper's models, without repetitions, in the paper's order."""
    return tuple(dict.fromkeys(model.repo_id for model in published_models()))


def read_models(file: Path) -> tuple[str, ...]:
    """The models that a hub file names.

    Text has one model per line, ``#`` starts a comment. CSV has a column, JSON a list of texts or of objects with a
    field ``repo_id``, ``model`` or ``id``, and optionally ``revision``; so a run's report and the output of
    ``mll-hf labels ls --json`` are hub files too.

    Raises:
        InputError: The file cannot be read, or names no models.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        models = [*_parse_models(text, file.suffix.lower())]
    except OSError as error:
        raise InputError(f"cannot read {file} ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no list of models ({one_line(error)}); give text, CSV or JSON") from None
    if not models:
        raise InputError(f"{file} names no models; give one org/name per line")
    return tuple(dict.fromkeys(models))


def _parse_models(text: str, suffix: str) -> Iterator[str]:
    if suffix == ".json":
        document = json.loads(text)
        if not isinstance(document, list):
            raise ValueError("it is no JSON list")
        yield from map(_model_of, document)
    elif suffix == ".csv":
        yield from map(_model_of, csv.DictReader(text.splitlines()))
    else:
        for line in text.splitlines():
            if model := line.partition("#")[0].strip():
                yield model


def _model_of(record: object) -> str:
    """A model as users write it, out of one record of a hub file."""
    if isinstance(record, str):
        return record.strip()
    if isinstance(record, dict):
        revision = record.get("revision")
        for field in _ID_FIELDS:
            if isinstance(model := record.get(field), str) and model.strip():
                pinned = f"@{revision}" if isinstance(revision, str) and revision and "@" not in model else ""
                return f"{model.strip()}{pinned}"
    raise ValueError(f"a record has none of the fields {', '.join(_ID_FIELDS)}")


# --- where labels go --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """What a label has to answer to be the one that a run would make.

    Attributes:
        graph: Its concepts, those of packs included.
        probes_revision: The probe images of the graph without packs.
        sampling: How they were sampled.
        packs: Packs that it covers, with their images.
    """

    graph: SemanticGraph
    probes_revision: str
    sampling: SamplingConfig
    packs: tuple[AttachedPack, ...] = ()

    def is_answered_by(self, label: LabelSummary, model: ModelRef) -> bool:
        """Whether a label measures the same or more, on some revision of the model that the same backend runs."""
        same_model = (label.model.repo_id, label.model.backend) == (model.repo_id, model.backend)
        question = (label.graph_digest, label.probes_revision, label.sampling.seed)
        same_question = question == (self.graph.digest, self.probes_revision, self.sampling.seed)
        enough = label.sampling.images_per_concept >= self.sampling.images_per_concept
        return same_model and same_question and enough and covers_exactly(label, self.packs)


class Destination(Protocol):
    """Where the labels of a run are published."""

    def find(self, model: ModelRef, question: Question) -> str | None:
        """Where a model's label is already; None if it is not.

        Raises:
            MLLError: This cannot be found out, or the label could not be published here.
        """

    def publish(self, label: ModelLabel, graph: SemanticGraph) -> Published:
        """Publish a label.

        Raises:
            MLLError: The Hub refuses.
        """


@dataclass(frozen=True, slots=True)
class OwnRepos:
    """Labels go into the repository of each model.

    Attributes:
        create_pr: Open pull requests even where one may write.
    """

    create_pr: bool = False

    def __str__(self) -> str:
        return "its own repository"

    def find(self, model: ModelRef, question: Question) -> str | None:
        """The label in the model's repository, if it was measured on the same weights; see :class:`Destination`."""
        api = connect()
        with hub_errors(model.repo_id):
            head = fetch_head(api, model.repo_id, "model")
            if not same_weights(api, head, model):
                raise HubError(
                    model.repo_id,
                    f"has other weights now than at {model.revision[:12]}, so its label has no place there; label the "
                    "newest revision, or publish to a collection with --to",
                )
            label = _label_in(head)
            if label is None or not question.is_answered_by(label, model) or not _is_of(label.model, head):
                return None
        return f"{constants.ENDPOINT}/{model.repo_id}/blob/{head.sha}/{LABEL_PATH}"

    def publish(self, label: ModelLabel, graph: SemanticGraph) -> Published:
        """See :class:`Destination`."""
        return publish_label(label, graph, create_pr=self.create_pr)


@dataclass(frozen=True)
class CollectionRepo:
    """Labels go into a collection.

    Attributes:
        location: ``hf://datasets/org/name``.
        create_pr: Open a pull request even if one may write.
        private: Make a new collection private.

    Raises:
        InputError: The location is malformed, or names a revision.
    """

    location: str
    create_pr: bool = False
    private: bool = False

    def __post_init__(self) -> None:
        if parse_dataset(self.location).revision:
            raise InputError(
                f"'{self.location}' names a revision, but labels are published on main; leave out the @..."
            )

    def __str__(self) -> str:
        return self.location

    @cached_property
    def _content(self) -> tuple[SemanticGraph | None, dict[str, LabelSummary]]:
        """The collection's graph and labels by path, as they are when it is first looked at."""
        api, dataset = connect(), parse_dataset(self.location)
        try:
            head = read_head(api, dataset.repo_id, "dataset")
        except HubError as error:
            if error.status in _NOT_THERE:
                return None, {}
            raise
        if GRAPH_FILE not in head.files:
            return None, {}
        content = read_collection(api, head)
        return content.graph, {label_path(entry.summary.model): entry.summary for entry in content.entries}

    def find(self, model: ModelRef, question: Question) -> str | None:
        """The label of this revision, or one of the same weights, in the collection; see :class:`Destination`."""
        graph, labels = self._content
        if graph is not None and graph.digest != question.graph.digest:
            raise InputError(
                f"{self.location} holds labels of another graph ({graph.name}, {graph.digest[:12]}); use another "
                f"collection for labels of {question.graph.name} ({question.graph.digest[:12]})"
            )
        same = _of_same_weights(labels.values(), model, question)
        return f"{self.location}/{label_path(same.model)}" if same else None

    def publish(self, label: ModelLabel, graph: SemanticGraph) -> Published:
        """See :class:`Destination`."""
        return publish_to_collection([label], graph, self.location, create_pr=self.create_pr, private=self.private)


def _label_in(head: Head) -> ModelLabel | None:
    """The label in a model's repository; None if there is none that can be read."""
    if LABEL_PATH not in head.files:
        return None
    oid = head.files[LABEL_PATH].oid
    sha256 = oid if len(oid) == 64 else None
    try:
        return read_label(download(connect(), head.repo_id, "model", LABEL_PATH, head.sha, MAX_LABEL_BYTES, sha256))
    except LabelError as error:
        _log.warning("%s will be replaced: %s", head.repo_id, error)
        return None


def _of_same_weights(labels: Iterable[L], model: ModelRef, question: Question) -> L | None:
    """A label of a model's revision, or else of one with the same weights: a new README is no new model.

    Costs two requests where there is none of the revision but one of another.
    """
    fitting = [label for label in labels if question.is_answered_by(label, model)]
    for label in fitting:
        if label.model == model:
            return label
    if model.is_local or not fitting:
        return None
    with hub_errors(model.repo_id):
        head = fetch_head(connect(), model.repo_id, "model", model.revision)
    return next((label for label in fitting if _is_of(label.model, head)), None)


def _is_of(measured: ModelRef, head: Head) -> bool:
    """Whether a label's model has the weights of a head; not if its commit is gone."""
    try:
        with hub_errors(head.repo_id):
            return same_weights(connect(), head, measured)
    except HubError as error:
        if error.status in _NOT_THERE:
            return False
        raise


def check_login() -> None:
    """Find out before hours of work that nothing could be published.

    Raises:
        HubError: The Hub does not know the user.
    """
    try:
        with hub_errors(HUB):
            connect().whoami()
    except HubError as error:
        if error.status not in (401, 403):
            raise
        raise HubError(HUB, "to publish labels you must be logged in; use: hf auth login", error.status) from error


# --- model by model ---------------------------------------------------------------------------------------------------


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
        overwrite: Measure again what is labelled already.
        free_cache: Delete a model's files from the cache when it is done, if the run downloaded its weights.
        packs: Packs on the graph that the labels are to cover.
        extended: Labels of the graph without packs, or with fewer; only what they lack is measured.
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

    @cached_property
    def publishing(self) -> Lock:
        """Held while a label is published."""
        return Lock()

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


def plan(model: str, fleet: Fleet) -> Plan:
    """Find out what is to be done about a model; no weights are downloaded.

    Args:
        model: ``org/name[@revision]`` or ``local-dir:PATH``.
        fleet: How it would be labelled.

    Raises:
        MLLError: The model cannot be labelled, or not published.
    """
    ref, destination = resolve_model(model), fleet.destination
    if destination and ref.is_local:
        raise InputError(f"{model} is a folder on this machine, and its label of no use to others; add --no-push")
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
    return _of_same_weights(labels, model, fleet.question)


class Outcome(StrEnum):
    """What became of a model."""

    LABELLED = "labelled"
    STARTED = "started"  # a job will label it
    PLANNED = "planned"  # a dry run would have labelled it
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
        label: Its label, if it was labelled.
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

    def attempt(number: int, name: str) -> ModelResult:
        on_start(number, name)
        return _attempt(name, partial(_plan_and_label, fleet=fleet, dry_run=dry_run))

    at_once = 1 if dry_run else fleet.engine.models_at_once
    if at_once == 1:
        yield from map(attempt, count(1), models)
        return
    pool = ThreadPoolExecutor(at_once)
    try:
        for done in as_completed([pool.submit(attempt, number, name) for number, name in enumerate(models, 1)]):
            yield done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # leaving the engine's context wakes those at work


def _attempt(name: str, act: Callable[[str], ModelResult]) -> ModelResult:
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
    to_do = plan(name, fleet)
    if to_do.step is Step.NOTHING:
        return ModelResult(name, Outcome.SKIPPED, f"labelled already: {to_do.found}", to_do.model)
    if dry_run:
        return ModelResult(name, Outcome.PLANNED, _intention(to_do, fleet), to_do.model)
    return _label(name, to_do.model, fleet)


def _intention(to_do: Plan, fleet: Fleet) -> str:
    measure = "" if to_do.step is Step.PUBLISH else f"measure {to_do.model.revision[:12]} with {to_do.model.backend}"
    publish = f"publish to {fleet.destination}" if fleet.destination else ""
    return " and ".join(filter(None, [measure, publish]))


def _label(name: str, ref: ModelRef, fleet: Fleet) -> ModelResult:
    with _weights_freed(ref) if fleet.free_cache else contextlib.nullcontext():
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
        Outcome.LABELLED,
        model=ref,
        label=result.label,
        path=result.path,
        published=published,
        undecodable=result.undecodable,
    )


# --- on other machines ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Jobs:
    """How HF Jobs label models, one job each.

    Attributes:
        graph: The graph with its probe images, pinned.
        sampling: How these are sampled.
        destination: Where labels are published.
        packs: Packs on the graph that the labels are to cover, pinned.
        options: More arguments for the script.
        script: Path or URL of ``scripts/label_models.py``.
        flavor: Hardware.
        timeout: The longest time, such as ``6h``.
        namespace: Who pays; None for the user.
        overwrite: Measure again what is labelled already.
    """

    graph: DatasetLocation
    sampling: SamplingConfig
    destination: Destination
    packs: tuple[DatasetLocation, ...] = ()
    options: tuple[str, ...] = ()
    script: str = ""
    flavor: str = "t4-small"
    timeout: str = "6h"
    namespace: str | None = None
    overwrite: bool = False

    @cached_property
    def question(self) -> Question | None:
        """What the labels answer; None with packs, for what a pack is says its dataset alone, which stays unread."""
        if self.packs:
            return None
        return Question(fetch_graph(str(self.graph)), self.graph.revision or "", self.sampling)

    @cached_property
    def at_work(self) -> Mapping[str, str]:
        """Address of the unfinished job of each model, by a hash of its arguments."""
        with hub_errors(HUB):
            jobs = [job for job in connect().list_jobs(namespace=self.namespace) if job.status.stage in _AT_WORK]
        return {key: job.url for job in jobs if (key := (job.labels or {}).get(_JOB_LABEL))}


def start_jobs(
    models: Sequence[str], jobs: Jobs, on_start: Callable[[int, str], None], *, dry_run: bool = False
) -> Iterator[ModelResult]:
    """Start a job for each model that has no label and no unfinished job; jobs go on when this has returned.

    Args:
        models: ``org/name[@revision]``.
        jobs: How.
        on_start: Called before each model with its number, from 1, and its name.
        dry_run: Only find out what would be done.

    Yields:
        What became of each model.
    """
    for number, name in enumerate(models, 1):
        on_start(number, name)
        yield _attempt(name, partial(_start_job, jobs=jobs, dry_run=dry_run))


def _start_job(name: str, jobs: Jobs, dry_run: bool) -> ModelResult:
    model = resolve_model(name)
    if model.is_local:
        raise InputError(f"{name} is a folder on this machine, which a job cannot see; use --engine local")
    found = jobs.destination.find(model, jobs.question) if jobs.question else None
    if found and not jobs.overwrite:
        return ModelResult(name, Outcome.SKIPPED, f"labelled already: {found}", model)
    arguments = [f"{model.repo_id}@{model.revision}", "--graph", str(jobs.graph)]
    for pack in jobs.packs:
        arguments += ["--pack", str(pack)]
    arguments += jobs.options
    key = hashlib.sha256(" ".join(arguments).encode()).hexdigest()[:_JOB_KEY_LENGTH]
    if at_work := jobs.at_work.get(key):
        return ModelResult(name, Outcome.SKIPPED, f"a job is at work on it: {at_work}", model)
    if dry_run:
        return ModelResult(name, Outcome.PLANNED, f"start a job on {jobs.flavor}: {shlex.join(arguments)}", model)
    with hub_errors(model.repo_id):
        job = connect().run_uv_job(
            jobs.script,
            script_args=arguments,
            flavor=jobs.flavor,
            timeout=jobs.timeout,
            secrets={"HF_TOKEN": get_token()},
            labels={_JOB_LABEL: key},
            namespace=jobs.namespace,
        )
    return ModelResult(name, Outcome.STARTED, model=model, job=job.url)


# --- the cache --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _weights_freed(model: ModelRef) -> Iterator[None]:
    """Delete a model's revision from the cache afterwards, if its weights were not there before."""
    keep = _has_cached_weights(model)
    try:
        yield
    except KeyboardInterrupt:
        keep = True  # the run that goes on needs them
        raise
    finally:
        if not keep and _has_cached_weights(model):
            # files that other revisions share stay
            scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(model.revision).execute()


def _has_cached_weights(model: ModelRef) -> bool:
    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return False
    return any(
        file.file_name.endswith(".safetensors") and file.file_path.parent == copy.snapshot_path
        for repo in cache.repos
        if (repo.repo_type, repo.repo_id) == ("model", model.repo_id)
        for copy in repo.revisions
        if copy.commit_hash == model.revision
        for file in copy.files
    )
