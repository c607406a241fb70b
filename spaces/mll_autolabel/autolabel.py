"""Label a model when its repository changes: what a webhook says, what waits, and how it is worked off.

The Hub wants a quick answer, so a request is only read and put into a queue; one thread does the rest.
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
from mll_hf.hub.connection import FULL_SHA, connect, fetch_head, hub_errors
from mll_hf.hub.jobs import start_script
from mll_hf.hub.locations import fetch_graph_with_images, is_on_hub, parse_dataset
from mll_hf.hub.publish import same_weights
from mll_hf.labels.label import ModelRef
from mll_hf.models import resolve_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_REPO_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_MAIN = "refs/heads/main"
_MOST_EVENTS = 200
_HIDDEN = "(private)"
_log = logging.getLogger(__name__)


# --- the settings -----------------------------------------------------------------------------------------------------


class Mode(StrEnum):
    """Where models are labeled."""

    JOBS = "jobs"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the Space's variables and secrets say; see its README.

    Attributes:
        secret: What the Hub sends along to show that it is the Hub.
        graph: Folder or ``hf://datasets/org/graph`` to measure models on.
        mode: Where models are labeled.
        to: Collection that labels are published in; None for each model's own repository.
        script: URL or path of ``label_models.py``, for jobs.
        flavor: Hardware of a job.
        timeout: Longest time of a job.
        most_waiting: How many models may wait; the Hub is asked to try again later with more.
        settle_seconds: How long a model has to be left alone before it is labeled: uploads come in several commits.
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
        """Read the settings, and refuse those that cannot work.

        Raises:
            InputError: Something is missing or makes no sense.
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


# --- what the Hub says ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """New commits on a model's main branch.

    Attributes:
        repo_id: The model.
        old: The commit before; None if there was none.
        new: The newest commit.
        private: Whether strangers may not know of the model.
    """

    repo_id: str
    old: str | None
    new: str
    private: bool = False

    def after(self, earlier: Change) -> Change:
        """Both changes in one, whichever of them arrived first."""
        if self.new == earlier.old:
            return replace(earlier, old=self.old)
        return replace(self, old=earlier.old)


@dataclass(frozen=True, slots=True)
class Unimportant:
    """Something else that happened to a repository.

    Attributes:
        repo_id: The repository.
        reason: Why it does not matter.
        private: Whether strangers may not know of it.
    """

    repo_id: str
    reason: str
    private: bool


def read_payload(payload: object) -> Change | Unimportant:
    """What a webhook's payload tells of.

    Raises:
        InputError: This is no payload of a webhook of the Hub.
    """
    repo = _field(payload, "repo", dict)
    repo_id, private = _field(repo, "name", str), repo.get("private") is not False
    if not _REPO_ID.fullmatch(repo_id):
        raise InputError("the repository's name is none; check what sends these events")
    if (kind := _field(repo, "type", str)) != "model":
        return Unimportant(repo_id, f"a {kind}, no model", private)
    if _field(_field(payload, "event", dict), "action", str) == "delete":
        return Unimportant(repo_id, "deleted", private)
    for ref in _field(payload, "updatedRefs", list, default=[]):
        if _field(ref, "ref", str) == _MAIN:
            old, new = _commit(ref, "oldSha"), _commit(ref, "newSha")
            return Change(repo_id, old, new, private) if new else Unimportant(repo_id, "main was deleted", private)
    return Unimportant(repo_id, "main has not changed", private)


def _field(section: object, name: str, kind: type, default: Any = None) -> Any:  # noqa: ANN401 - parsed JSON
    value = section.get(name) if isinstance(section, dict) else None
    value = default if value is None else value
    if not isinstance(value, kind):
        raise InputError(f"'{name}' is missing or of the wrong type; check what sends these events")
    return value


def _commit(ref: dict[str, Any], name: str) -> str | None:
    """A commit, or None where git writes only zeros or the Hub nothing."""
    commit = _field(ref, name, str, default="0" * 40)
    if not FULL_SHA.fullmatch(commit):
        raise InputError(f"'{name}' is no full commit sha; check what sends these events")
    return commit if commit.strip("0") else None


# --- what waits, and what was -----------------------------------------------------------------------------------------


class State(StrEnum):
    """What became of an event."""

    WAITING = "waiting"
    RUNNING = "running"
    STARTED = "job started"
    LABELED = "labeled"
    SKIPPED = "skipped"
    IGNORED = "ignored"
    FAILED = "failed"


_DONE = (State.RUNNING, State.STARTED, State.LABELED, State.SKIPPED)


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the status page.

    Attributes:
        repo_id: What it is about.
        commit: Its newest commit, if there is one.
        private: Whether strangers may not know of it.
        state: What became of it.
        detail: Why, or where to look.
        time: When it came to be so, in UTC; empty while it waits.
    """

    repo_id: str
    commit: str
    private: bool
    state: State
    detail: str = ""
    time: str = ""


class Queue:
    """Changes that wait, at most one per model, and a thread that works them off one at a time.

    Args:
        work: What to do about a change; returns what became of it, and why or where.
        settle_seconds: How long a model has to be left alone before it is its turn.
        most_waiting: How many models may wait.
    """

    def __init__(self, work: Callable[[Change], tuple[State, str]], settle_seconds: float, most_waiting: int) -> None:
        self._work, self._settle_seconds, self._most_waiting = work, settle_seconds, most_waiting
        self._waiting: dict[str, tuple[Change, float]] = {}  # the longest left alone first; with when it is due
        self._running: Event | None = None
        self._past: deque[Event] = deque(maxlen=_MOST_EVENTS)
        self._condition = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work_off, name="autolabel", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Begin nothing more, and wait for what is running."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join(timeout)

    def offer(self, change: Change) -> State | None:
        """Take a change; it replaces an earlier one of the same model.

        Returns:
            WAITING, IGNORED if this very commit was taken before, or None if too many models are waiting.
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

    def note(self, unimportant: Unimportant) -> None:
        """Show what was ignored."""
        with self._condition:
            event = Event(unimportant.repo_id, "", unimportant.private, State.IGNORED, unimportant.reason, _now())
            self._past.append(event)

    def events(self) -> list[Event]:
        """What runs, what waits and what was, the newest first."""
        with self._condition:
            running = [self._running] if self._running else []
            waiting = [_event(change, State.WAITING) for change, _ in self._waiting.values()]
            return [*running, *waiting, *reversed(self._past)]

    def _work_off(self) -> None:
        while change := self._next():
            state, detail = self._attempt(change)
            with self._condition:
                self._running = None
                self._past.append(_event(change, state, detail, _now()))

    def _next(self) -> Change | None:
        """Wait for a change that is due; None when all is over."""
        with self._condition:
            while not self._stopped:
                change, due = next(iter(self._waiting.values()), (None, float("inf")))
                left = due - time.monotonic()
                if change and left <= 0:
                    del self._waiting[change.repo_id]
                    self._running = _event(change, State.RUNNING, when=_now())
                    return change
                self._condition.wait(left if change else None)
        return None

    def _attempt(self, change: Change) -> tuple[State, str]:
        try:
            return self._work(change)
        except MLLError as error:
            return State.FAILED, str(error)
        except Exception as error:  # one model must not end the service
            _log.exception("%s@%s", change.repo_id, change.new)
            return State.FAILED, f"{type(error).__name__}; see the Space's log"


def _event(change: Change, state: State, detail: str = "", when: str = "") -> Event:
    return Event(change.repo_id, change.new, change.private, state, detail, when)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


# --- the work ---------------------------------------------------------------------------------------------------------


def worker(settings: Settings) -> Callable[[Change], tuple[State, str]]:
    """What is done about a change.

    Raises:
        MLLError: Models are labeled here, and the graph cannot be had.
    """
    label = _labeler(settings) if settings.mode is Mode.LOCAL else lambda change: _start_job(change, settings)

    def work(change: Change) -> tuple[State, str]:
        if reason := _why_not(change, settings):
            return State.IGNORED, reason
        return label(change)

    return work


def _why_not(change: Change, settings: Settings) -> str | None:
    """Why a change needs no new label; None if it does."""
    if change.private and settings.to:
        return "private, and the labels go to a collection"
    api = connect()
    with hub_errors(change.repo_id):
        head = fetch_head(api, change.repo_id, "model", change.new)
    if change.old:
        try:
            with hub_errors(change.repo_id):
                if same_weights(api, head, ModelRef(change.repo_id, change.old, "")):
                    return "the weights are as before"
        except HubError as error:
            if error.status != 404:  # after a forced push, the old commit is gone
                raise
    try:
        resolve_model(f"{change.repo_id}@{change.new}")
    except ModelError as error:
        return str(error)
    return None


def _start_job(change: Change, settings: Settings) -> tuple[State, str]:
    arguments = [f"{change.repo_id}@{change.new}", "--graph", settings.graph]
    if settings.to:
        arguments += ["--to", settings.to]
    url = start_script(
        str(settings.script), arguments, change.repo_id, flavor=settings.flavor, timeout=settings.timeout
    )
    return State.STARTED, url


def _labeler(settings: Settings) -> Callable[[Change], tuple[State, str]]:
    """Labels models in this process."""
    from mll_hf.graph.probes import SamplingConfig
    from mll_hf.labeling.destinations import CollectionRepo, OwnRepos
    from mll_hf.labeling.fleet import Fleet, for_each, label_one, working_folder
    from mll_hf.labels.store import LabelStore

    location = fetch_graph_with_images(settings.graph)
    graph, probes = location.graph, location.probes(SamplingConfig())
    store = LabelStore(working_folder(graph, probes))

    def label(change: Change) -> tuple[State, str]:
        # made anew each time, for a destination remembers what was there
        destination = CollectionRepo(settings.to) if settings.to else OwnRepos()
        fleet = Fleet(graph, probes, store, destination, free_cache=True)
        (result,) = for_each([f"{change.repo_id}@{change.new}"], partial(label_one, fleet=fleet))
        detail = result.published.url if result.published else result.reason
        return State(str(result.outcome)), detail

    return label


# --- the status page --------------------------------------------------------------------------------------------------


def status_html(events: list[Event]) -> str:
    """A table of events; all text is a stranger's and escaped, and what is private stays so."""
    if not events:
        return "<p>Nothing has happened yet.</p>"
    head = "".join(f"<th>{name}</th>" for name in ("time (UTC)", "model", "commit", "state", "detail"))
    return f"<table><tr>{head}</tr>{''.join(map(_row, events))}</table>"


def _row(event: Event) -> str:
    cells = [event.time, event.repo_id, event.commit[:12], event.state, event.detail]
    if event.private:
        cells = [event.time, _HIDDEN, "", event.state, ""]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
