"""Label many models on Ray: one task per model, each on one GPU (or core).

Ray repeats the task of a lost worker. The task resumes from the log of embeddings in the folder of labels, so a lost
worker or an interrupted run loses only what is in flight.
"""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from huggingface_hub import get_token

from mll_hf.errors import GraphError, InputError, MissingExtraError, ModelError
from mll_hf.labeling.run import ModelResult, attempt, check, finish, measure, published_before
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mll_hf.labeling.run import Plan
    from mll_hf.labels.label import ModelRef

_RETRIES = 3
_MAX_CORES = 8  # per GPU, to decode images
_SHARED = "keep images and labels in folders that all machines share (HF_HOME, --labels)"


def label_on_ray(models: Sequence[str], plan: Plan, address: str | None = None) -> Iterator[ModelResult]:
    """Label models on a Ray cluster; like `label_many`, but in the order of completion.

    Every machine needs ``mll-hf[models,ray]``, and the folders of the images and of the labels at the same paths. The
    device of the plan is ignored. Without an address, that in ``$RAY_ADDRESS`` is used, or Ray on this machine.

    Raises:
        InputError: The cluster cannot be reached.
        MissingExtraError: Ray is not installed.
        StorageError: A file cannot be written here.
    """
    published = published_before(plan)
    with _connection(address) as ray:
        gpus, cpus = _share(ray.cluster_resources())
        there = replace(plan, device=None if gpus else "cpu")
        shared = ray.put(there)
        task = ray.remote(num_gpus=gpus, num_cpus=cpus, max_retries=_RETRIES)(measure_there)
        running: dict[Any, tuple[str, ModelRef]] = {}
        for name in models:
            model = attempt(name, partial(check, name, plan, published))
            if isinstance(model, ModelResult):
                yield model
            else:
                running[task.remote(model, shared, get_token())] = name, model
        while running:
            (done,), _ = ray.wait([*running], num_returns=1)
            name, model = running.pop(done)
            yield attempt(name, partial(_finish, ray, done, name, model, plan))


def measure_there(model: ModelRef, plan: Plan, token: str | None = None) -> ModelResult:
    """In a worker: label a model, with the token of the user who started the run."""
    if token:
        os.environ["HF_TOKEN"] = token
    if missing := [path for path in plan.probes.files if not path.exists()]:
        raise GraphError(f"{missing[0]} is not on machine {platform.node()}; {_SHARED}")
    return measure(model, plan)


def _finish(ray: Any, done: object, name: str, model: ModelRef, plan: Plan) -> ModelResult:  # noqa: ANN401 - a module
    """Get the result of a task, and publish its label."""
    from ray.exceptions import RayError, RayTaskError

    try:
        result = ray.get(done)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        reason = f"its workers were lost {_RETRIES + 1} times ({one_line(error)}); see Ray's logs"
        raise ModelError(model.repo_id, reason) from error
    if not (result.path and result.path.exists()):
        raise InputError(f"{result.path} is on another machine; {_SHARED}")
    return finish(name, result, plan)


def _share(resources: dict[str, float]) -> tuple[int, int]:
    """GPUs and cores of a task."""
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    return (1, max(1, min(_MAX_CORES, cpus // gpus))) if gpus else (0, 1)


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
