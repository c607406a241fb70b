"""Run models on Ray: one actor per GPU (or core) holds a model and processes pieces of the work.

A piece is a range of captions or images to embed, or of concepts to count. The piece of a lost actor goes to another
one. Finished pieces are stored on the driver's disk, so a killed driver loses only the pieces in flight.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import GraphError, InputError, MissingExtraError, ModelError
from mll_hf.hub.locations import fetch_images, is_on_hub
from mll_hf.labeling.contest import Contest, merged
from mll_hf.labeling.engines import Captions, LocalRun
from mll_hf.models import environment_of, load_model, pick_device
from mll_hf.models.base import TEXT_BATCH
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labeling.engines import Blocks
    from mll_hf.labels.counts import LabelCounts
    from mll_hf.labels.label import Environment, ModelRef

    Call = tuple[Any, str, tuple[object, ...]]  # key, method of _Worker, arguments

_BATCHES_PER_PIECE = 32
_RETRIES = 5
_ADDRESS = re.compile(r"(?:ray://)?([\w.-]+):(\d{1,5})", re.ASCII)
_CONNECT_SECONDS = 10.0
_WAIT_SECONDS = 60.0
_MAX_CORES = 8.0  # per GPU, to decode images
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Share:
    """Resources of one actor.

    Attributes:
        cpus: Cores.
        gpus: GPUs; with a fraction, several actors share one.
    """

    cpus: float
    gpus: float


class RayEngine:
    """Runs models on Ray, as :class:`~mll_hf.labeling.engines.LocalEngine` does in this process.

    Every machine needs ``mll-hf[models,ray]`` and the graph: from the Hub, or in a shared folder.

    Args:
        address: Address of the cluster; None for ``$RAY_ADDRESS``, or Ray on this machine.
        gpus: GPUs per actor; default: one if the cluster has any.
        cpus: Cores per actor; default: one, or with GPUs the cores per GPU, at most eight.

    Raises:
        InputError: The cluster cannot be reached, or is too small for one actor.
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, address: str | None = None, gpus: float | None = None, cpus: float | None = None) -> None:
        if cpus == 0 and gpus == 0:
            raise InputError("a worker with 0 CPUs and 0 GPUs cannot run; give it more of one of them")
        self._address, self._gpus, self._cpus = address, gpus, cpus
        self._workers: _Workers | None = None
        self._is_ours = False

    def __enter__(self) -> RayEngine:
        ray, self._is_ours = _connect(self._address)
        resources = ray.cluster_resources()
        share = share_of(resources, self._gpus, self._cpus)
        n_workers = sum(workers_in(node["Resources"], share) for node in ray.nodes() if node["Alive"])
        if not n_workers:
            self.__exit__()
            raise InputError(
                f"no machine of the cluster has room for a worker with {share.cpus:g} CPUs and {share.gpus:g} GPUs "
                f"(total: {resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}); ask for less per worker"
            )
        self._workers = _Workers(n_workers, share)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if self._workers is not None:
            self._workers.stop()
        if self._is_ours:
            ray.shutdown()

    @contextmanager
    def run(self, model: ModelRef) -> Iterator[RayRun]:
        """Run a model on all workers."""
        assert self._workers, "use the engine as a context manager"  # noqa: S101
        yield RayRun(model, self._workers)


class RayRun:
    """One model on a :class:`RayEngine`; see :class:`~mll_hf.labeling.engines.LocalRun`.

    Attributes:
        dtype: Precision of the image tower on all actors: float32 once one of them overflows, or if they differ.
    """

    def __init__(self, model: ModelRef, workers: _Workers) -> None:
        self._model, self._workers = model, workers
        self._environment: Environment | None = None
        self.dtype: str | None = None  # whatever the actors choose

    def embed_captions(self, captions: Sequence[str]) -> Captions:
        """Embed captions in pieces."""
        size = TEXT_BATCH * max(len(captions) // (TEXT_BATCH * len(self._workers)), 1)
        calls = (
            (first, "embed_captions", (self._model, self.dtype, captions[first : first + size]))
            for first in range(0, len(captions), size)
        )
        parts = [part for _, part in sorted(self._workers.completed(self._model, calls), key=lambda done: done[0])]
        if not all(self._fits(part.environment) for part in parts):
            return self.embed_captions(captions)
        self.dtype = parts[0].environment.dtype
        return replace(parts[0], embeddings=np.concatenate([part.embeddings for part in parts]))

    def embed_images(
        self, probes: ProbeSet, images: NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Embed probe images in pieces, in the order of completion; ends when the precision changes."""
        import ray

        shared, size = ray.put(probes), _BATCHES_PER_PIECE * batch_size
        pieces = (images[first : first + size] for first in range(0, len(images), size))
        calls = ((piece, "embed_images", (self._model, self.dtype, shared, piece, batch_size)) for piece in pieces)
        with closing(self._workers.completed(self._model, calls)) as completed:
            for piece, (embeddings, environment) in completed:
                if not self._fits(environment):
                    return
                yield piece, embeddings

    def count(self, graph: SemanticGraph, probes: ProbeSet, captions: Captions, blocks: Blocks) -> LabelCounts:
        """Count the contests, each actor those of a range of concepts, over all blocks."""
        import ray

        shared = [ray.put(value) for value in (graph, probes, captions)]
        references = [(start, ray.put(block)) for start, block in blocks]
        bounds = np.linspace(0, len(graph), min(len(self._workers), len(graph)) + 1).astype(int).tolist()
        ranges = [range(*bound) for bound in pairwise(bounds)]
        calls = ((tested.start, "count", (*shared, references, tested)) for tested in ranges)
        return merged([counts for _, counts in sorted(self._workers.completed(self._model, calls), key=itemgetter(0))])

    def _fits(self, environment: Environment) -> bool:
        """Whether a piece has the environment of the others; if only its precision differs, all change to float32."""
        self._environment = self._environment or environment
        if replace(environment, dtype=self._environment.dtype) != self._environment:
            raise InputError(
                f"machines of the cluster differ ({self._environment} and {environment}); install the same versions"
            )
        if environment.dtype == self._environment.dtype:
            return True
        self.dtype, self._environment = "float32", replace(environment, dtype="float32")
        return False


class _Workers:
    """A pool of actors."""

    def __init__(self, n_workers: int, share: Share) -> None:
        import ray

        self._actor = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus)(_Worker)
        self._options = (None if share.gpus else "cpu", max(int(share.cpus), 1))
        self._workers = [self._actor.remote(*self._options) for _ in range(n_workers)]

    def __len__(self) -> int:
        return len(self._workers)

    def stop(self) -> None:
        """Kill all actors."""
        import ray

        for worker in self._workers:
            ray.kill(worker)

    def completed(self, model: ModelRef, calls: Iterable[Call]) -> Generator[tuple[Any, Any]]:
        """Run calls, one at a time on each actor; yields (key, result) in the order of completion.

        Calls are drawn when an actor is free. A call whose actor is lost runs again on another one.

        Raises:
            ModelError: Actors were lost several times in a row.
            Exception: What a call raised.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        queue, idle, n_losses = iter(calls), list[Any](), 0
        upcoming = next(queue, None)
        # An actor may have to start first, or to finish a call whose result is no longer needed.
        running: dict[Any, tuple[Any, Call | None]] = {w.ready.remote(): (w, None) for w in self._workers}
        while upcoming or any(call for _, call in running.values()):
            while upcoming and idle:
                worker, (_, method, arguments) = idle.pop(), upcoming
                running[getattr(worker, method).remote(*arguments)] = worker, upcoming
                upcoming = next(queue, None)
            done, _ = ray.wait([*running], timeout=_WAIT_SECONDS)
            if not done:
                if not any(call for _, call in running.values()):
                    _log.warning("waiting for the cluster to start a worker")
                continue
            worker, call = running.pop(done[0])
            try:
                result = ray.get(done[0])
            except RayTaskError as error:
                raise error.cause from None
            except RayError as error:  # the actor is lost
                ray.kill(worker)
                self._workers.remove(worker)
                worker = self._actor.remote(*self._options)
                self._workers.append(worker)
                running[worker.ready.remote()] = worker, None
                n_losses += 1
                if n_losses > _RETRIES:
                    reason = f"its workers were lost {n_losses} times ({one_line(error)}); see Ray's logs"
                    raise ModelError(model.repo_id, reason) from error
                if call:
                    queue = chain([call], queue)
                    upcoming = upcoming or next(queue)
                continue
            idle.append(worker)
            if call:
                n_losses = 0
                yield call[0], result


class _Worker:
    """An actor; keeps the model that it used last."""

    def __init__(self, device: str | None, decoders: int) -> None:
        self._device, self._decoders = device, decoders
        self._last: LocalRun | None = None

    def ready(self) -> None:
        """Return when the actor has started."""

    def embed_captions(self, model: ModelRef, dtype: str | None, captions: Sequence[str]) -> Captions:
        return self._run_of(model, dtype).embed_captions(captions)

    def embed_images(
        self, model: ModelRef, dtype: str | None, probes: ProbeSet, images: NDArray[np.int64], batch_size: int
    ) -> tuple[NDArray[np.float32], Environment]:
        run = self._run_of(model, dtype)
        parts = [embeddings for _, embeddings in run.embed_images(_with_files(probes), images, batch_size)]
        return np.concatenate(parts), environment_of(run.model)

    def count(
        self,
        graph: SemanticGraph,
        probes: ProbeSet,
        captions: Captions,
        blocks: list[tuple[int, Any]],
        tested: range,
    ) -> LabelCounts:
        """Count the contests of some concepts over all blocks, given as references."""
        import ray

        contest = Contest(graph, probes, captions.embeddings, captions.logit_scale, pick_device(self._device), tested)
        return contest.count((start, ray.get(block)) for start, block in blocks)

    def _run_of(self, model: ModelRef, dtype: str | None) -> LocalRun:
        if self._last is None or self._last.model.ref != model:
            if self._last is not None:
                self._last.close()
                self._last = None
            self._last = LocalRun(load_model(model, self._device), self._decoders)
        if dtype == "float32":
            self._last.model.use_float32()
        return self._last


def share_of(resources: dict[str, float], gpus: float | None, cpus: float | None) -> Share:
    """Resources of one actor; see `RayEngine` for the defaults."""
    n_gpus = resources.get("GPU", 0.0)
    gpus = min(1.0, n_gpus) if gpus is None else gpus
    per_gpu = resources.get("CPU", 1.0) * gpus / n_gpus if gpus and n_gpus else 1.0
    return Share(max(1.0, min(_MAX_CORES, float(int(per_gpu)))) if cpus is None else cpus, gpus)


def workers_in(resources: dict[str, float], share: Share) -> int:
    """Number of actors that fit on a machine."""
    fits = [resources.get(kind, 0.0) / part for kind, part in (("CPU", share.cpus), ("GPU", share.gpus)) if part]
    return int(min(fits, default=0))


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


def _connect(address: str | None) -> tuple[Any, bool]:
    """Connect to Ray; returns the module, and whether this call connected it."""
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    if ray.is_initialized():
        return ray, False
    address = address or os.environ.get("RAY_ADDRESS")
    if address and (place := _ADDRESS.fullmatch(address)):  # Ray itself retries for minutes
        try:
            socket.create_connection((place[1], int(place[2])), _CONNECT_SECONDS).close()
        except OSError as error:
            raise InputError(f"nothing answers at {address} ({one_line(error)}); check Ray's address") from None
    # Ray on this machine: no dashboard, not reachable from elsewhere
    where = {"address": address} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(**where, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # Ray raises anything from ConnectionError to RuntimeError
        raise InputError(f"cannot use Ray at {address or 'this machine'} ({one_line(error)})") from error
    return ray, True
