"""HF Jobs that label models, one job per model."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from huggingface_hub import get_token

from mll_hf.errors import GraphError, InputError
from mll_hf.hub.connection import connect, hub_errors, names_of_user
from mll_hf.hub.locations import HUB, DatasetLocation, fetch_graph
from mll_hf.labeling.destinations import Destination, Wanted
from mll_hf.labeling.fleet import ModelResult, Outcome
from mll_hf.labels.label import LabelKey
from mll_hf.models import resolve_model
from mll_hf.utils.package import DISTRIBUTION, PACKAGE_VARIABLE, package_source, requirement, wheel_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import Volume

    from mll_hf.graph.probes import SamplingConfig

_JOB_LABEL = "mll-hf"
_KEY_LENGTH = 32
_ACTIVE = ("SCHEDULING", "RUNNING")
_WHEEL_FOLDER = "/mll-hf"  # of a job


@dataclass(frozen=True)
class Jobs:
    """How HF Jobs label models.

    Attributes:
        graph: The graph with its probe images, pinned.
        sampling: Sampling of the probe images.
        destination: Where labels are published.
        options: Additional arguments of the script.
        script: Path or URL of ``scripts/label_models.py``.
        flavor: Hardware.
        timeout: Longest run time, such as ``6h``.
        namespace: User or organization that pays; None for the user.
        overwrite: Measure labeled models again.
        package: What jobs install, see `package_source`.

    Raises:
        InputError: The package is unknown, or is a wheel that does not exist.
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
    package: str | None = field(default_factory=package_source)

    def __post_init__(self) -> None:
        if not self.package:
            raise InputError(
                f"{DISTRIBUTION} is not on a package registry, so a job cannot install it by name; set "
                f"{PACKAGE_VARIABLE} to a URL, a wheel or a name that you trust, or build a wheel here: "
                "python -m build --wheel"
            )
        if (wheel := wheel_of(self.package)) and not wheel.is_file():
            raise InputError(f"there is no wheel {wheel}; correct {PACKAGE_VARIABLE}")

    @cached_property
    def installation(self) -> tuple[str, list[Volume]]:
        """What a job installs, and the volumes that it needs for that; a local wheel is uploaded."""
        package = str(self.package)
        if (wheel := wheel_of(package)) is None:
            return requirement(package, "models"), []
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]  # a queued job must find its own wheel
        with TemporaryDirectory() as folder, hub_errors(HUB):
            shutil.copy(wheel, folder)
            volume = connect().sync_job_volume(
                folder, _WHEEL_FOLDER, remote_name=f"{DISTRIBUTION}-{digest}", namespace=self.payer
            )
        return requirement(f"{_WHEEL_FOLDER}/{wheel.name}", "models"), [volume]

    @cached_property
    def wanted(self) -> Wanted:
        """The label to be made of each model; a GraphError if the graph does not name its probe images."""
        graph = fetch_graph(str(self.graph))
        if graph.probes is None:
            raise GraphError(f"{self.graph} does not say which probe images it has; publish it: mll-hf graph push")
        group = LabelKey(graph.digest, graph.probes.digest)
        return Wanted(group, self.sampling.images_per_concept)

    @cached_property
    def payer(self) -> str:
        """Who pays. Without it the client would ask who the user is for each job, which the Hub limits strictly."""
        with hub_errors(HUB):
            return self.namespace or names_of_user(connect())[0]

    @cached_property
    def active(self) -> Mapping[str, str]:
        """URL of the unfinished job of each model, by a hash of its arguments."""
        with hub_errors(HUB):
            jobs = [job for job in connect().list_jobs(namespace=self.payer) if job.status.stage in _ACTIVE]
        return {key: job.url for job in jobs if (key := (job.labels or {}).get(_JOB_LABEL))}


def start_job(name: str, jobs: Jobs, *, dry_run: bool = False) -> ModelResult:
    """Start a job with the user's token, unless the model has a label or an unfinished job. Does not wait for the job.

    A dry run only reports what would be done.

    Raises:
        MLLError: The model cannot be labeled, or the Hub refuses.
    """
    model = resolve_model(name)
    if model.is_local:
        raise InputError(f"{name} is a local folder, which a job cannot read; use --engine local")
    found = jobs.destination.find(model, jobs.wanted)
    if found and not jobs.overwrite:
        return ModelResult(name, Outcome.SKIPPED, f"labeled already: {found}", model)
    arguments = [f"{model.repo_id}@{model.revision}", "--graph", str(jobs.graph), *jobs.options]
    key = hashlib.sha256(" ".join(arguments).encode()).hexdigest()[:_KEY_LENGTH]
    if active := jobs.active.get(key):
        return ModelResult(name, Outcome.SKIPPED, f"a job is running: {active}", model)
    if dry_run:
        return ModelResult(name, Outcome.PLANNED, f"start a job on {jobs.flavor}: {shlex.join(arguments)}", model)
    dependency, volumes = jobs.installation
    with hub_errors(model.repo_id):
        job = connect().run_uv_job(
            jobs.script,
            script_args=arguments,
            dependencies=[dependency],
            volumes=volumes,
            flavor=jobs.flavor,
            timeout=jobs.timeout,
            secrets={"HF_TOKEN": get_token()},
            labels={_JOB_LABEL: key},
            namespace=jobs.payer,
        )
    return ModelResult(name, Outcome.STARTED, model=model, job=job.url)
