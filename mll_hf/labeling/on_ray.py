"""Label many models on Ray: one task per model, each on one GPU (or core).

Ray repeats the task of a lost worker, which resumes from the log of embeddings if it runs on the same machine or the
folder of labels is shared; so a lost worker or an interrupted run loses only what is in flight.
"""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from mll_hf.errors import GraphError, InputError, MissingExtraError, ModelError
from mll_hf.hub.locations import fetch_images, is_on_hub
from mll_hf.labeling.many import ModelResult, attempt, check, finish, measure
from mll_hf.utils.files import write_atomically
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labeling.many import Plan
    from mll_hf.labeling.run import LabelingResult
    from mll_hf.labels.label import ModelRef

_RETRIES = 3
_MAX_CORES = 8  # per GPU, to decode images


def label_on_ray(models: Sequence[str], plan: Plan, address: str | None = None) -> Iterator[ModelResult]:
    """Label models on a Ray cluster; like `label_many`, but in the order of completion.

    Every machine needs ``mll-hf[models,ray]`` and the graph: from the Hub, or in a shared folder.

    Args:
        models: ``org/name[@revision]`` or ``local-dir:PATH``.
        plan: How to label them; its device is ignored.
        address: Address of the cluster; None for ``$RAY_ADDRESS``, or Ray on this machine.

    Raises:
        InputError: The cluster cannot be reached.
        MissingExtraError: Ray is not installed.
        StorageError: A file cannot be written here.
    """
    with _connection(address) as ray:
        gpus, cpus = _share(ray.cluster_resources())
        there = replace(plan, device=None if gpus else "cpu", decoders=cpus)
        shared = ray.put(there)
        task = ray.remote(num_gpus=gpus, num_cpus=cpus, max_retries=_RETRIES)(measure_there)
        running: dict[Any, tuple[str, ModelRef]] = {}
        for name in models:
            model = attempt(name, partial(check, name, plan))
            if isinstance(model, ModelResult):
                yield model
            else:
                running[task.remote(model, shared)] = name, model
        while running:
            (done,), _ = ray.wait([*running], num_returns=1)
            name, model = running.pop(done)
            yield attempt(name, partial(_finish, ray, done, name, model, plan))


def measure_there(model: ModelRef, plan: Plan) -> tuple[LabelingResult, dict[str, bytes]]:
    """In a worker: label a model; returns the result, and the label's files by path in the folder of labels."""
    result = measure(model, replace(plan, probes=_with_files(plan.probes)))
    files = sorted(result.path.parent.glob(f"{result.path.stem}.*"))
    return result, {path.relative_to(plan.store.folder).as_posix(): path.read_bytes() for path in files}


def _finish(ray: Any, done: object, name: str, model: ModelRef, plan: Plan) -> ModelResult:  # noqa: ANN401 - a module
    """Get the result of a task, write files of the label that a worker has in a folder of its own, and publish it."""
    from ray.exceptions import RayError, RayTaskError

    try:
        result, files = ray.get(done)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        reason = f"its workers were lost {_RETRIES + 1} times ({one_line(error)}); see Ray's logs"
        raise ModelError(model.repo_id, reason) from error
    plan.store.add_graph(plan.graph.with_probes(plan.probes.counts))
    for place, content in files.items():
        path = plan.store.folder / place
        if not (path.exists() and path.read_bytes() == content):
            write_atomically(path, content)
    return finish(name, result, plan)


def _share(resources: dict[str, float]) -> tuple[int, int]:
    """GPUs and cores of a task."""
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    return (1, max(1, min(_MAX_CORES, cpus // gpus))) if gpus else (0, 1)


@lru_cache(maxsize=4)
def _downloaded(location: str) -> Path:
    return fetch_images(location)[0]


def _with_files(probes: ProbeSet) -> ProbeSet:
    """The probe images with local files; downloads those of a dataset on the Hub."""
    if all(path.exists() for path in probes.files):
        return probes
    if not is_on_hub(probes.location):
        raise GraphError(
            f"{probes.files[0]} is not on machine {platform.node()}; use a graph on the Hub or in a shared folder"
        )
    folder = _downloaded(probes.location)
    return replace(probes, files=tuple(folder / path.name for path in probes.files))


@contextmanager
def _connection(address: str | None) -> Iterator[Any]:
    """Ray, connected; disconnects at the end, unless it was connected before."""
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    # Ray on this machine: no dashboard, not reachable from elsewhere
    where = {"address": address} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(**where, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # Ray raises anything from ConnectionError to RuntimeError
        raise InputError(f"cannot use Ray at {address or 'this machine'} ({one_line(error)})") from error
    try:
        yield ray
    finally:
        ray.shutdown()
