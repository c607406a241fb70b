"""Label models when their repositories change: events of a webhook, a queue, and the work.

A webhook must be answered quickly, so an event is only read and queued; one thread does the work.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, NoReturn

from huggingface_hub import get_token

from mll_hf.errors import HubError, InputError, MLLError, ModelError
from mll_hf.graph.probes import SamplingConfig
from mll_hf.hub.connection import FULL_SHA, connect, fetch_head, hub_errors
from mll_hf.hub.locations import fetch_graph_with_images, is_on_hub, parse_dataset, pinned
from mll_hf.hub.publish import same_weights
from mll_hf.labeling.destinations import CollectionRepo, Destination, OwnRepos
from mll_hf.labeling.fleet import Fleet, ModelResult, for_each, label_one, working_folder
from mll_hf.labeling.jobs import Jobs, start_job
from mll_hf.labels.label import ModelRef
from mll_hf.labels.store import LabelStore
from mll_hf.models import resolve_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_REPO_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_MAIN = "refs/heads/main"
_MOST_EVENTS = 200
_log = logging.getLogger(__name__)


# --- settings ---------------------------------------------------------------------------------------------------------


class Mode(StrEnum):
    """Where models are labeled."""

    JOBS = "jobs"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Settings:
    """Variables and secrets of the Space; see its README.

    Attributes:
        secret: Shared with the webhook.
        graph: Folder or ``hf://datasets/org/graph`` of the graph and its probe images.
        mode: Where models are labeled.
        to: Collection in which labels are published; None for each model's own repository.
        script: URL or path of ``label_models.py``, for jobs.
        flavor: Hardware of a job.
        timeout: Time limit of a job.
        most_waiting: Most models that may wait; events for more are refused with status 503.
        settle_seconds: Time without events after which a model is labeled, since uploads come in several commits.
    """

    secret: str = field(repr=False)
    graph: str
    mode: Mode = Mode.JOBS
    to: str | None = None
    script: str | None = None
    flavor: str = "t4-small"
    timeout: str = "6h"
    most_waiting: int = 100
    settle_seconds: float = 60.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read and check the settings.

        Raises:
            InputError: One is missing or cannot be used.
        """

        def optional(name: str, default: str = "") -> str:
            return environment.get(name, "").strip() or default

        def required(name: str, what: str) -> str:
            return optional(name) or _refuse(f"{name} is not set; add {what} to the Space's settings")

        mode = optional("MLL_AUTOLABEL_MODE", Mode.JOBS)
        if mode not in set(Mode):
            _refuse(f"MLL_AUTOLABEL_MODE is '{mode}'; use {' or '.join(Mode)}")
        most_waiting = optional("MLL_AUTOLABEL_QUEUE", "100")
        if not (most_waiting.isdecimal() and int(most_waiting)):
            _refuse(f"MLL_AUTOLABEL_QUEUE is '{most_waiting}'; use a number such as 100")
        settings = cls(
            secret=required("WEBHOOK_SECRET", "the webhook's secret as a secret"),
            graph=required("MLL_AUTOLABEL_GRAPH", "hf://datasets/ORG/GRAPH as a variable"),
            mode=Mode(mode),
            to=optional("MLL_AUTOLABEL_TO") or None,
            script=optional("MLL_AUTOLABEL_SCRIPT") or None,
            flavor=optional("MLL_AUTOLABEL_FLAVOR", "t4-small"),
            timeout=optional("MLL_AUTOLABEL_TIMEOUT", "6h"),
            most_waiting=int(most_waiting),
        )
        if settings.to:
            parse_dataset(settings.to)
        if not get_token():
            _refuse("HF_TOKEN is not set; add a token that may publish labels as a secret to the Space's settings")
        if settings.mode is Mode.JOBS:
            required("MLL_AUTOLABEL_SCRIPT", "the URL of label_models.py as a variable")
            if not is_on_hub(settings.graph):
                _refuse("MLL_AUTOLABEL_GRAPH is a folder, which a job cannot see; use hf://datasets/ORG/GRAPH")
        return settings


def _refuse(message: str) -> NoReturn:
    raise InputError(message)


# --- events -----------------------------------------------------------------------------------------------------------


class State(StrEnum):
    """State of an event."""

    WAITING = "waiting"
    RUNNING = "running"
    STARTED = "started"  # a job
    LABELED = "labeled"
    SKIPPED = "skipped"
    IGNORED = "ignored"
    FAILED = "failed"


_DONE = (State.RUNNING, State.STARTED, State.LABELED, State.SKIPPED)


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the status page.

    Attributes:
        repo_id: The repository.
        commit: Its newest commit; may be empty.
        private: Whether the repository is private.
        state: The state.
        detail: Reason or address.
        time: Time of the last change of state, in UTC; empty while it waits.
    """

    repo_id: str
    commit: str
    private: bool
    state: State
    detail: str = ""
    time: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """New commits on the main branch of a model.

    Attributes:
        repo_id: The model.
        old: The commit before; None if there was none.
        new: The newest commit.
        private: Whether the model is private.
    """

    repo_id: str
    old: str | None
    new: str
    private: bool = False

    def after(self, earlier: Change) -> Change:
        """Both changes as one; events may arrive in the wrong order."""
        if self.new == earlier.old:
            return replace(earlier, old=self.old)
        return replace(self, old=earlier.old)

    def event(self, state: State, detail: str = "", when: str = "") -> Event:
        """The change as a row of the status page."""
        return Event(self.repo_id, self.new, self.private, state, detail, when)


def read_payload(payload: object) -> Change | Event:
    """Read the payload of a webhook.

    Returns:
        The change of a model, or an ignored event.

    Raises:
        InputError: It is not a payload of a webhook of the Hub.
    """
    repo = _field(payload, "repo", dict)
    repo_id, private = _field(repo, "name", str), repo.get("private") is not False

    def ignored(reason: str) -> Event:
        return Event(repo_id, "", private, State.IGNORED, reason)

    if not _REPO_ID.fullmatch(repo_id):
        raise InputError("'name' is not a repository; check the sender of these events")
    if (kind := _field(repo, "type", str)) != "model":
        return ignored(f"a {kind}, not a model")
    if _field(_field(payload, "event", dict), "action", str) == "delete":
        return ignored("deleted")
    for ref in _field(payload, "updatedRefs", list, default=[]):
        if _field(ref, "ref", str) == _MAIN:
            old, new = _commit(ref, "oldSha"), _commit(ref, "newSha")
            return Change(repo_id, old, new, private) if new else ignored("main was deleted")
    return ignored("main has not changed")


def _field(section: object, name: str, kind: type, default: Any = None) -> Any:  # noqa: ANN401 - parsed JSON
    value = section.get(name) if isinstance(section, dict) else None
    value = default if value is None else value
    if not isinstance(value, kind):
        raise InputError(f"'{name}' is missing or of the wrong type; check the sender of these events")
    return value


def _commit(ref: dict[str, Any], name: str) -> str | None:
    """A commit; None if it is missing or all zeros."""
    commit = _field(ref, name, str, default="0" * 40)
    if not FULL_SHA.fullmatch(commit):
        raise InputError(f"'{name}' is not a full commit sha; check the sender of these events")
    return commit if commit.strip("0") else None


# --- the queue --------------------------------------------------------------------------------------------------------


class Queue:
    """A queue of changes, at most one per model, and a thread that works through it.

    Args:
        work: Handles a change; returns its final state, and a reason or address.
        settle_seconds: Time without events before it is a model's turn.
        most_waiting: Most models that may wait.
    """

    def __init__(self, work: Callable[[Change], tuple[State, str]], settle_seconds: float, most_waiting: int) -> None:
        self._work, self._settle_seconds, self._most_waiting = work, settle_seconds, most_waiting
        self._waiting: dict[str, tuple[Change, float]] = {}  # in order of their due times
        self._running: Event | None = None
        self._past: deque[Event] = deque(maxlen=_MOST_EVENTS)  # the newest last
        self._condition = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="autolabel", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Start nothing more, and wait for the running work."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join(timeout)

    def offer(self, change: Change) -> State | None:
        """Add a change; it replaces a waiting one of the same model.

        Returns:
            WAITING, IGNORED if this commit was handled before, or None if the queue is full.
        """
        with self._condition:
            if any(
                (event.repo_id, event.commit) == (change.repo_id, change.new) and event.state in _DONE
                for event in (*self._past, *([self._running] if self._running else []))
            ):
                return State.IGNORED
            if earlier := self._waiting.pop(change.repo_id, None):
                change = change.after(earlier[0])
            elif len(self._waiting) >= self._most_waiting:
                return None
            self._waiting[change.repo_id] = (change, time.monotonic() + self._settle_seconds)
            self._condition.notify()
            return State.WAITING

    def note(self, ignored: Event) -> None:
        """Show an ignored event."""
        with self._condition:
            self._past.append(replace(ignored, time=_now()))

    def events(self) -> list[Event]:
        """Running, waiting and past events, the newest first."""
        with self._condition:
            running = [self._running] if self._running else []
            waiting = [change.event(State.WAITING) for change, _ in self._waiting.values()]
            return [*running, *waiting, *reversed(self._past)]

    def _run(self) -> None:
        while change := self._next():
            state, detail = self._attempt(change)
            with self._condition:
                self._running = None
                self._past.append(change.event(state, detail, _now()))

    def _next(self) -> Change | None:
        """Wait for a change that is due; None after :meth:`stop`."""
        with self._condition:
            while not self._stopped:
                change, due = next(iter(self._waiting.values()), (None, float("inf")))
                left = due - time.monotonic()
                if change and left <= 0:
                    del self._waiting[change.repo_id]
                    self._running = change.event(State.RUNNING, when=_now())
                    return change
                self._condition.wait(left if change else None)
        return None

    def _attempt(self, change: Change) -> tuple[State, str]:
        try:
            return self._work(change)
        except MLLError as error:
            return State.FAILED, str(error)
        except Exception as error:  # one model must not stop the Space
            _log.exception("%s@%s", change.repo_id, change.new)
            return State.FAILED, f"{type(error).__name__}; see the Space's log"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


# --- the work ---------------------------------------------------------------------------------------------------------


def worker(settings: Settings) -> Callable[[Change], tuple[State, str]]:
    """The handler of changes.

    Raises:
        MLLError: Models are labeled here, and the graph cannot be read.
    """
    act = _labels_here(settings) if settings.mode is Mode.LOCAL else partial(_starts_job, settings=settings)

    def work(change: Change) -> tuple[State, str]:
        if reason := _reason_to_ignore(change, settings):
            return State.IGNORED, reason
        (result,) = for_each([f"{change.repo_id}@{change.new}"], act)
        url = result.published.url if result.published else result.job
        return State(str(result.outcome)), url or result.reason

    return work


def _reason_to_ignore(change: Change, settings: Settings) -> str | None:
    """Why a change needs no new label; None if it does."""
    if change.private and settings.to:
        return "private, and labels are published in a collection"
    api = connect()
    with hub_errors(change.repo_id):
        head = fetch_head(api, change.repo_id, "model", change.new)
    if change.old:
        try:
            with hub_errors(change.repo_id):
                if same_weights(api, head, ModelRef(change.repo_id, change.old, "")):
                    return "the weights have not changed"
        except HubError as error:
            if error.status != 404:  # after a forced push, the old commit is gone
                raise
    try:
        resolve_model(f"{change.repo_id}@{change.new}")
    except ModelError as error:
        return str(error)
    return None


def _destination(settings: Settings) -> Destination:
    """A new one for each model, since a destination caches what is published."""
    return CollectionRepo(settings.to) if settings.to else OwnRepos()


def _starts_job(name: str, settings: Settings) -> ModelResult:
    jobs = Jobs(
        graph=pinned(settings.graph),
        sampling=SamplingConfig(),
        destination=_destination(settings),
        options=("--to", settings.to) if settings.to else (),
        script=str(settings.script),
        flavor=settings.flavor,
        timeout=settings.timeout,
    )
    return start_job(name, jobs)


def _labels_here(settings: Settings) -> Callable[[str], ModelResult]:
    location = fetch_graph_with_images(settings.graph)
    graph, probes = location.graph, location.probes(SamplingConfig())
    fleet = Fleet(graph, probes, LabelStore(working_folder(graph, probes)), free_cache=True)
    return lambda name: label_one(name, replace(fleet, destination=_destination(settings)))


# --- the status page --------------------------------------------------------------------------------------------------


def status_html(events: list[Event]) -> str:
    """A table of events; texts are escaped, and private repositories are not named."""
    if not events:
        return "<p>Nothing has happened yet.</p>"
    head = "".join(f"<th>{name}</th>" for name in ("time (UTC)", "model", "commit", "state", "detail"))
    return f"<table><tr>{head}</tr>{''.join(map(_row, events))}</table>"


def _row(event: Event) -> str:
    cells = [event.time, event.repo_id, event.commit[:12], event.state, event.detail]
    if event.private:
        cells = [event.time, "(private)", "", event.state, ""]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
