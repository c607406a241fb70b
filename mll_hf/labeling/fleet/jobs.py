"""HF Jobs that label models, one job each."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from mll_hf.errors import InputError
from mll_hf.hub.connection import connect, hub_errors
from mll_hf.hub.jobs import start_script
from mll_hf.hub.locations import HUB, DatasetLocation, fetch_graph
from mll_hf.labeling.fleet.destinations import Destination, Question
from mll_hf.labeling.fleet.runs import ModelResult, Outcome, attempt
from mll_hf.models import resolve_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mll_hf.graph.probes import SamplingConfig

_JOB_LABEL = "mll-hf"
_JOB_KEY_LENGTH = 32
_AT_WORK = ("SCHEDULING", "RUNNING")


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
        overwrite: Measure again what is labeled already.
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
        yield attempt(name, partial(_start_job, jobs=jobs, dry_run=dry_run))


def _start_job(name: str, jobs: Jobs, dry_run: bool) -> ModelResult:
    model = resolve_model(name)
    if model.is_local:
        raise InputError(f"{name} is a folder on this machine, which a job cannot see; use --engine local")
    found = jobs.destination.find(model, jobs.question) if jobs.question else None
    if found and not jobs.overwrite:
        return ModelResult(name, Outcome.SKIPPED, f"labeled already: {found}", model)
    arguments = [f"{model.repo_id}@{model.revision}", "--graph", str(jobs.graph)]
    for pack in jobs.packs:
        arguments += ["--pack", str(pack)]
    arguments += jobs.options
    key = hashlib.sha256(" ".join(arguments).encode()).hexdigest()[:_JOB_KEY_LENGTH]
    if at_work := jobs.at_work.get(key):
        return ModelResult(name, Outcome.SKIPPED, f"a job is at work on it: {at_work}", model)
    if dry_run:
        return ModelResult(name, Outcome.PLANNED, f"start a job on {jobs.flavor}: {shlex.join(arguments)}", model)
    url = start_script(
        jobs.script,
        arguments,
        model.repo_id,
        flavor=jobs.flavor,
        timeout=jobs.timeout,
        labels={_JOB_LABEL: key},
        namespace=jobs.namespace,
    )
    return ModelResult(name, Outcome.STARTED, model=model, job=url)
