"""HF Jobs that label models, one job per model."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from huggingface_hub import get_token

from mll_hf.errors import GraphError, InputError
from mll_hf.hub.connection import connect, hub_errors
from mll_hf.hub.locations import HUB, DatasetLocation, fetch_graph
from mll_hf.labeling.destinations import Destination, Wanted
from mll_hf.labeling.fleet import ModelResult, Outcome
from mll_hf.labels.label import LabelGroup
from mll_hf.models import resolve_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mll_hf.graph.probes import SamplingConfig

_JOB_LABEL = "mll-hf"
_KEY_LENGTH = 32
_ACTIVE = ("SCHEDULING", "RUNNING")


@dataclass(frozen=True)
class Jobs:
    """How HF Jobs label models.

    Attributes:
        graph: The graph with its probe images, pinned.
        sampling: Sampling of the probe images.
        destination: Where labels are published.
        options: Further arguments of the script.
        script: Path or URL of ``scripts/label_models.py``.
        flavor: Hardware.
        timeout: Longest run time, such as ``6h``.
        namespace: User or organization that pays; None for the user.
        overwrite: Measure again what is labeled already.
    """

    graph: DatasetLocation
    sampling: SamplingConfig
    destination: Destination
    options: tuple[str, ...] = ()
    script: str = ""
    flavor: str = "t4-small"
    timeout: str = "6h"
    namespace: str | None = None
    overwrite: bool = False

    @cached_property
    def wanted(self) -> Wanted:
        """The label to be made of each model.

        Raises:
            HubError: The graph cannot be read.
            GraphError: It does not name its probe images.
        """
        graph = fetch_graph(str(self.graph))
        if graph.probes is None:
            raise GraphError(f"{self.graph} does not say which probe images it has; publish it: mll-hf graph push")
        group = LabelGroup(graph.digest, graph.probes.digest, self.sampling.seed)
        return Wanted(group, self.sampling.images_per_concept)

    @cached_property
    def active(self) -> Mapping[str, str]:
        """Address of the unfinished job of each model, by a hash of its arguments."""
        with hub_errors(HUB):
            jobs = [job for job in connect().list_jobs(namespace=self.namespace) if job.status.stage in _ACTIVE]
        return {key: job.url for job in jobs if (key := (job.labels or {}).get(_JOB_LABEL))}


def start_job(name: str, jobs: Jobs, *, dry_run: bool = False) -> ModelResult:
    """Start a job with the user's token, unless the model has a label or an unfinished job. Does not wait for the job.

    A dry run only reports what would be done.

    Raises:
        MLLError: The model cannot be labeled, or the Hub refuses.
    """
    model = resolve_model(name)
    if model.is_local:
        raise InputError(f"{name} is a folder of this machine, which a job cannot read; use --engine local")
    found = jobs.destination.find(model, jobs.wanted)
    if found and not jobs.overwrite:
        return ModelResult(name, Outcome.SKIPPED, f"labeled already: {found}", model)
    arguments = [f"{model.repo_id}@{model.revision}", "--graph", str(jobs.graph), *jobs.options]
    key = hashlib.sha256(" ".join(arguments).encode()).hexdigest()[:_KEY_LENGTH]
    if active := jobs.active.get(key):
        return ModelResult(name, Outcome.SKIPPED, f"a job is running: {active}", model)
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
