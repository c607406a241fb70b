"""Models run on a Ray cluster, or on a Ray of this machine's own.

Ray runs a piece again whose worker or machine was lost. What is finished is on the driver's disk, so a driver that is
killed loses the pieces in flight.
"""

from __future__ import annotations

import os
import re
import socket
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mll_hf.errors import InputError, MissingExtraError, ModelError
from mll_hf.labeling.engines.spread import SpreadRun, Workers
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mll_hf.labeling.engines.base import ModelRun
    from mll_hf.labels.label import ModelRef

Value = TypeVar("Value")
_RETRIES = 5
_PLACE = re.compile(r"(?:ray://)?([\w.-]+):(\d{1,5})", re.ASCII)
_PATIENCE = 10.0  # seconds
_MOST_CORES = 8.0  # beside a GPU, to decode for it


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker gets of the cluster.

    Attributes:
        cpus: Cores.
        gpus: GPUs; a fraction lets several workers share one.
    """

    cpus: float
    gpus: float


class RayEngine:
    """Models run on a Ray cluster; see :class:`~mll_hf.labeling.engines.Engine`.

    Every machine needs this package with its extra ``models``, and the graph: from the Hub, or in a folder that all
    share.

    Args:
        address: Address of the cluster; None takes the one that ``RAY_ADDRESS`` names, or starts Ray on this machine.
        gpus: GPUs per worker; by default one where the cluster has any.
        cpus: Cores per worker; by default one, or what there are per GPU, at most eight.

    Raises:
        InputError: The cluster cannot be reached, or has not enough for one worker.
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, address: str | None = None, gpus: float | None = None, cpus: float | None = None) -> None:
        if cpus == 0 and gpus == 0:
            raise InputError("a worker needs a part of a CPU or of a GPU; give it more than 0 of one of them")
        self._address, self._gpus, self._cpus = address, gpus, cpus
        self.models_at_once = 2
        self._workers: _RayWorkers | None = None
        self._is_ours = False

    def __enter__(self) -> RayEngine:
        ray, self._is_ours = _connect(self._address)
        resources = ray.cluster_resources()
        share = share_of(resources, self._gpus, self._cpus)
        n_workers = sum(workers_in(node["Resources"], share) for node in ray.nodes() if node["Alive"])
        if not n_workers:
            self.__exit__()
            raise InputError(
                f"no worker with {share.cpus:g} CPUs and {share.gpus:g} GPUs fits a machine of the cluster, which has "
                f"{resources.get('CPU', 0):g} and {resources.get('GPU', 0):g} in all; ask for less per worker"
            )
        self._workers = _RayWorkers(n_workers, share)
        self.models_at_once = max(2, n_workers // 4)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if self._workers:
            self._workers.stop()
        if self._is_ours:
            ray.shutdown()

    @contextmanager
    def run(self, model: ModelRef) -> Iterator[ModelRun]:
        """See :class:`~mll_hf.labeling.engines.Engine`."""
        from ray.exceptions import RayError

        assert self._workers, "the engine runs as a context"  # noqa: S101 - a mistake of ours
        run = SpreadRun(model, self._workers)
        try:
            yield run
        except RayError as error:
            reason = f"its workers were lost {_RETRIES + 1} times ({one_line(error)}); look at their memory and logs"
            raise ModelError(model.repo_id, reason) from error
        finally:
            run.close()


def share_of(resources: dict[str, float], gpus: float | None, cpus: float | None) -> Share:
    """What one worker gets where nobody says otherwise."""
    n_gpus = resources.get("GPU", 0.0)
    gpus = min(1.0, n_gpus) if gpus is None else gpus
    per_gpu = resources.get("CPU", 1.0) * gpus / n_gpus if gpus and n_gpus else 1.0
    return Share(max(1.0, min(_MOST_CORES, float(int(per_gpu)))) if cpus is None else cpus, gpus)


def workers_in(resources: dict[str, float], share: Share) -> int:
    """How many workers a machine has room for."""
    rooms = [resources.get(kind, 0.0) / part for kind, part in (("CPU", share.cpus), ("GPU", share.gpus)) if part]
    return int(min(rooms, default=0))


class _RayWorkers(Workers):
    def __init__(self, n_workers: int, share: Share) -> None:
        import ray

        super().__init__(n_workers, max(int(share.cpus), 1))
        # max_calls: with GPUs, Ray would start a new process, and load the model, for each task
        self._remote = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=_RETRIES, max_calls=0)
        self._functions: dict[Callable[..., Any], Any] = {}
        self._references: dict[Future[Any], Any] = {}

    def share(self, value: Value) -> Value:
        """See :class:`Workers`."""
        import ray

        return ray.put(value)  # tasks get the value itself

    def start(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> Future[Any]:
        """See :class:`Workers`."""
        if function not in self._functions:
            self._functions[function] = self._remote(function)
        reference = self._functions[function].remote(*arguments)
        started: Future[Any] = Future()
        self._references[started] = reference
        reference.future().add_done_callback(partial(self._done, started))
        return started

    def cancel(self, started: Future[Any]) -> None:
        """See :class:`Workers`."""
        import ray

        if reference := self._references.pop(started, None):
            ray.cancel(reference, force=True)

    def _done(self, started: Future[Any], done: Future[Any]) -> None:
        self._references.pop(started, None)
        error = done.exception()
        if error is None:
            started.set_result(done.result())
        else:
            started.set_exception(getattr(error, "cause", None) or error)  # ours, out of Ray's wrapping


def _connect(address: str | None) -> tuple[Any, bool]:
    """Ray, connected; and whether it was connected here."""
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    if ray.is_initialized():
        return ray, False
    address = address or os.environ.get("RAY_ADDRESS")
    if address and (place := _PLACE.fullmatch(address)):  # Ray itself tries for minutes
        try:
            socket.create_connection((place[1], int(place[2])), _PATIENCE).close()
        except OSError as error:
            raise InputError(f"nothing answers at {address} ({one_line(error)}); check Ray's address") from None
    # on this machine alone: no dashboard, and nobody else can reach it
    where = {"address": address} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(**where, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # anything from a ConnectionError to a plain RuntimeError
        raise InputError(f"Ray cannot be used at {address or 'this machine'} ({one_line(error)})") from error
    return ray, True
