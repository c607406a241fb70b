"""Label models when their repos change: events of a webhook, a queue, and the work.

A webhook needs a quick response, so an event is only read and queued; one thread does the work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from html import escape
from typing import TYPE_CHECKING, NoReturn

from huggingface_hub import get_token

from mll_hf.errors import InputError, MLLError, ModelError
from mll_hf.graph.probes import SamplingConfig
from mll_hf.hub.locations import fetch_graph_with_images, parse_dataset
from mll_hf.labeling.destinations import CollectionRepo, OwnRepos
from mll_hf.labeling.fleet import Fleet, for_each, label_one, working_folder
from mll_hf.labels.store import LabelStore
from mll_hf.models import resolve_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mll_hf.labeling.webhook import Change

_MAX_EVENTS = 200
_log = logging.getLogger(__name__)


# --- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settings:
    """Variables and secrets of the Space; see its README."""

    secret: str = field(repr=False)  # shared with the webhook
    graph: str  # folder or ``hf://datasets/org/graph`` of the graph and its probe images
    # collection that labels are published in; None for each model's own repo, which must be the user's
    to: str | None = None
    max_waiting: int = 100  # maximum number of waiting models; further events are refused with status 503
    # a model is labeled after this time without events, since uploads come in several commits
    settle_seconds: float = 60.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read and check the settings.

        Raises:
            InputError: A setting is missing or invalid.
        """

        def optional(name: str, default: str = "") -> str:
            return environment.get(name, "").strip() or default

        def required(name: str, what: str) -> str:
            return optional(name) or _refuse(f"{name} is not set; add {what} to the Space's settings")

        max_waiting = optional("MLL_AUTOLABEL_QUEUE", "100")
        if not (max_waiting.isdecimal() and int(max_waiting)):
            _refuse(f"MLL_AUTOLABEL_QUEUE is '{max_waiting}'; use a number such as 100")
        settings = cls(
            secret=required("WEBHOOK_SECRET", "the webhook's secret as a secret"),
            graph=required("MLL_AUTOLABEL_GRAPH", "hf://datasets/ORG/GRAPH as a variable"),
            to=optional("MLL_AUTOLABEL_TO") or None,
            max_waiting=int(max_waiting),
        )
        if settings.to:
            parse_dataset(settings.to)
        if not get_token():
            _refuse("HF_TOKEN is not set; add a token that may publish labels as a secret to the Space's settings")
        return settings


def _refuse(message: str) -> NoReturn:
    raise InputError(message)


# --- events -----------------------------------------------------------------------------------------------------------


class State(StrEnum):
    """State of an event."""

    WAITING = "waiting"
    RUNNING = "running"
    LABELED = "labeled"
    SKIPPED = "skipped"
    IGNORED = "ignored"
    FAILED = "failed"


_DONE = (State.RUNNING, State.LABELED, State.SKIPPED)


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the status page."""

    change: Change  # what the Hub reported
    state: State
    detail: str = ""  # reason or URL
    time: str = ""  # time of the last change of state, in UTC; empty while waiting


# --- the queue --------------------------------------------------------------------------------------------------------


class Queue:
    """A queue of changes, at most one per model, and a thread that processes it.

    Args:
        work: Handles a change; returns its final state, and a reason or URL.
        settle_seconds: Time without events before a model is processed.
        max_waiting: Maximum number of waiting models.
    """

    def __init__(self, work: Callable[[Change], tuple[State, str]], settle_seconds: float, max_waiting: int) -> None:
        self._work, self._settle_seconds, self._max_waiting = work, settle_seconds, max_waiting
        self._waiting: dict[str, tuple[Change, float]] = {}  # by due time
        self._running: Event | None = None
        self._past: deque[Event] = deque(maxlen=_MAX_EVENTS)  # newest last
        self._condition = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="autolabel", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float | None = None) -> None:
        """Start no further work, and wait for the running one."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join(timeout)

    def offer(self, change: Change) -> State | None:
        """Add a change; it replaces a waiting one of the same model.

        Returns:
            WAITING, IGNORED if this commit was already handled, or None if the queue is full.
        """
        with self._condition:
            if any(
                event.change == change and event.state in _DONE
                for event in (*self._past, *([self._running] if self._running else []))
            ):
                return State.IGNORED
            if not self._waiting.pop(change.repo_id, None) and len(self._waiting) >= self._max_waiting:
                return None
            self._waiting[change.repo_id] = (change, time.monotonic() + self._settle_seconds)
            self._condition.notify()
            return State.WAITING

    def note(self, ignored: Change) -> None:
        """Record an ignored event."""
        with self._condition:
            self._past.append(Event(ignored, State.IGNORED, ignored.ignored, _now()))

    def events(self) -> list[Event]:
        """Running, waiting and past events, newest first."""
        with self._condition:
            running = [self._running] if self._running else []
            waiting = [Event(change, State.WAITING) for change, _ in self._waiting.values()]
            return [*running, *waiting, *reversed(self._past)]

    def _run(self) -> None:
        while change := self._next():
            state, detail = self._attempt(change)
            with self._condition:
                self._running = None
                self._past.append(Event(change, state, detail, _now()))

    def _next(self) -> Change | None:
        """Wait for a change that is due; None after :meth:`stop`."""
        with self._condition:
            while not self._stopped:
                change, due = next(iter(self._waiting.values()), (None, float("inf")))
                left = due - time.monotonic()
                if change and left <= 0:
                    del self._waiting[change.repo_id]
                    self._running = Event(change, State.RUNNING, time=_now())
                    return change
                self._condition.wait(left if change else None)
        return None

    def _attempt(self, change: Change) -> tuple[State, str]:
        try:
            return self._work(change)
        except MLLError as error:
            return State.FAILED, str(error)
        except Exception as error:  # one model must not stop the Space
            _log.exception("%s@%s", change.repo_id, change.commit)
            return State.FAILED, f"{type(error).__name__}; see the Space's log"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


# --- the work ---------------------------------------------------------------------------------------------------------


def worker(settings: Settings) -> Callable[[Change], tuple[State, str]]:
    """The handler of changes: labels a model at its newest commit, which may be later than the event's.

    Raises:
        MLLError: The graph cannot be read.
    """
    location = fetch_graph_with_images(settings.graph)
    graph, probes = location.graph, location.probes(SamplingConfig())
    fleet = Fleet(graph, probes, LabelStore(working_folder(graph, probes)), free_cache=True)

    def work(change: Change) -> tuple[State, str]:
        if change.private and settings.to:
            return State.IGNORED, "private, and labels are published in a collection"
        try:
            resolve_model(change.repo_id)
        except ModelError as error:
            return State.IGNORED, str(error)
        # new, since it caches the published labels
        destination = CollectionRepo(settings.to) if settings.to else OwnRepos()
        (result,) = for_each([change.repo_id], lambda name: label_one(name, replace(fleet, destination=destination)))
        return State(str(result.outcome)), result.published.url if result.published else result.reason

    return work


# --- the status page --------------------------------------------------------------------------------------------------


def status_html(events: list[Event]) -> str:
    """A table of events; texts are escaped, and names of private repos are hidden."""
    if not events:
        return "<p>Nothing has happened yet.</p>"
    head = "".join(f"<th>{name}</th>" for name in ("time (UTC)", "model", "commit", "state", "detail"))
    return f"<table><tr>{head}</tr>{''.join(map(_row, events))}</table>"


def _row(event: Event) -> str:
    change = event.change
    cells = [event.time, change.repo_id, change.commit[:12], event.state, event.detail]
    if change.private:
        cells = [event.time, "(private)", "", event.state, ""]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
