"""Label models when their repos change: events of a webhook, a queue, and the work.

A webhook needs a quick response, so an event is only read and queued; one thread does the work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from huggingface_hub import WebhookPayload, get_token
from pydantic import ValidationError

from mll_hf.errors import InputError
from mll_hf.hub.locations import REPO_ID, graph_with_images, parse_dataset
from mll_hf.labeling.run import OWN_REPOS, Plan, label_many
from mll_hf.labels.label import LabelKey
from mll_hf.labels.store import LabelStore
from mll_hf.utils.files import asset_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAX_EVENTS = 200
_MAX_WAITING = 100  # models; further events are refused
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """Variables and secrets of the Space; see its README."""

    secret: str = field(repr=False)  # shared with the webhook
    graph: str  # folder or ``hf://datasets/org/graph`` of the graph and its probe images
    to: str = OWN_REPOS  # collection that labels are published in, or each model's own repo, which must be the user's
    # a model is labeled after this time without events, since uploads come in several commits
    settle_seconds: float = 60.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read and check the settings; an InputError if one is missing or invalid."""
        given = {name: text for name, value in environment.items() if (text := value.strip())}
        for name in ("WEBHOOK_SECRET", "MLL_AUTOLABEL_GRAPH"):
            if name not in given:
                raise InputError(f"{name} is not set; add it in the Space's settings")
        to = given.get("MLL_AUTOLABEL_TO", OWN_REPOS)
        if to != OWN_REPOS:
            parse_dataset(to)
        if not get_token():
            raise InputError("HF_TOKEN is not set; add a token that may publish labels as a secret of the Space")
        return cls(given["WEBHOOK_SECRET"], given["MLL_AUTOLABEL_GRAPH"], to)


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the status page: a change of a repo, and what became of it."""

    repo_id: str
    commit: str = ""  # new commit on the main branch of a model; empty for other events
    private: bool = True
    state: str = "waiting"  # waiting, running, labeled, skipped, ignored or failed
    detail: str = ""  # reason or URL
    time: str = ""  # time of the last change of state, in UTC; empty while waiting


def read_event(body: bytes) -> Event:
    """Read the body of a webhook of the Hub; an InputError if it is malformed."""
    try:
        payload = WebhookPayload.model_validate_json(body)
    except ValidationError as error:
        raise InputError(f"{error.errors()[0]['msg']}; check the sender of these events") from None
    repo, commit = payload.repo, ""
    if not REPO_ID.fullmatch(repo.name):
        raise InputError("'name' is not a repo; check the sender of these events")
    for ref in payload.updatedRefs or []:
        if ref.ref == "refs/heads/main" and (ref.newSha or "").strip("0"):
            commit = ref.newSha or ""
    reason = ""
    if repo.type != "model":
        reason = f"a {repo.type}, not a model"
    elif payload.event.action == "delete":
        reason = "deleted"
    elif not commit:
        reason = "main has not changed"
    event = Event(repo.name, commit, repo.private)
    return replace(event, state="ignored", detail=reason, time=_now()) if reason else event


class Queue:
    """A queue of changes, at most one per model, and a thread that processes it.

    Args:
        work: Handles a change; returns its final state, and a reason or URL.
        settle_seconds: Time without events before a model is processed.
    """

    def __init__(self, work: Callable[[Event], tuple[str, str]], settle_seconds: float) -> None:
        self._work, self._settle_seconds = work, settle_seconds
        self._waiting: dict[str, tuple[Event, float]] = {}  # by due time
        self._running: Event | None = None
        self._past: deque[Event] = deque(maxlen=_MAX_EVENTS)  # newest last
        self._condition = threading.Condition()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="autolabel", daemon=True).start()

    def offer(self, event: Event) -> str:
        """Add a change; it replaces a waiting one of the same model. Returns its state; "full" if it is refused."""
        with self._condition:
            if event.state != "waiting":
                self._past.append(event)
                return event.state
            if not self._waiting.pop(event.repo_id, None) and len(self._waiting) >= _MAX_WAITING:
                return "full"
            self._waiting[event.repo_id] = (event, time.monotonic() + self._settle_seconds)
            self._condition.notify()
            return event.state

    def events(self) -> list[Event]:
        """Running, waiting and past events, newest first."""
        with self._condition:
            running = [self._running] if self._running else []
            return [*running, *(event for event, _ in self._waiting.values()), *reversed(self._past)]

    def _run(self) -> None:
        while True:
            event = self._next()
            try:
                state, detail = self._work(event)
            except Exception as error:  # one model must not stop the Space
                _log.exception("%s@%s", event.repo_id, event.commit)
                state, detail = "failed", f"{type(error).__name__}; see the Space's log"
            with self._condition:
                self._running = None
                self._past.append(replace(event, state=state, detail=detail, time=_now()))

    def _next(self) -> Event:
        """Wait for a change that is due."""
        with self._condition:
            while True:
                event, due = next(iter(self._waiting.values()), (None, float("inf")))
                left = due - time.monotonic()
                if event and left <= 0:
                    del self._waiting[event.repo_id]
                    self._running = replace(event, state="running", time=_now())
                    return event
                self._condition.wait(left if event else None)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())


def worker(settings: Settings) -> Callable[[Event], tuple[str, str]]:
    """The handler of changes: labels a model at its newest commit, which may be later than the event's.

    A repo without a model, and weights that have a label, cost one request. Raises an MLLError if the graph cannot be
    read.
    """
    location = graph_with_images(settings.graph)
    graph, probes = location.graph, location.probes()
    store = LabelStore(asset_path("labels", LabelKey(graph.digest, probes.digest).stem))
    plan = Plan(graph, probes, store, settings.to, free_cache=True)

    def work(event: Event) -> tuple[str, str]:
        if event.private and settings.to != OWN_REPOS:
            return "ignored", "private, and labels are published in a collection"
        (result,) = label_many([event.repo_id], plan)
        return str(result.outcome), result.published.url if result.published else result.reason

    return work


def rows(events: list[Event]) -> list[list[str]]:
    """The events as a table, in which names of private repos are hidden."""
    return [
        [event.time, "(private)", "", event.state, ""]
        if event.private
        else [event.time, event.repo_id, event.commit[:12], event.state, event.detail]
        for event in events
    ]
