"""Models run in worker processes: pieces of the work are handed out, and what comes back is put together.

A piece is a range of images to embed, or a few blocks of embedded images to contest. Both begin where a run in one
process would begin a batch or a block, so the results are the same.
"""

from __future__ import annotations

import contextlib
import platform
import threading
from concurrent.futures import Future, InvalidStateError, as_completed
from dataclasses import replace
from functools import lru_cache, partial, reduce
from itertools import islice
from operator import add
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mll_hf.errors import GraphError
from mll_hf.hub.locations import REPO_ID, DatasetLocation, fetch_graph_with_images
from mll_hf.labeling.contest import Contest
from mll_hf.labeling.encoding import encoded_images
from mll_hf.labeling.engines.base import Captions
from mll_hf.models import load_model, pick_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labeling.engines.base import Blocks
    from mll_hf.labels.counts import LabelCounts
    from mll_hf.labels.label import ModelRef
    from mll_hf.models import VisionLanguageModel

    Task = tuple[Any, Callable[..., Any], tuple[object, ...]]

Value = TypeVar("Value")
_BATCHES_PER_PIECE = 32  # what a worker embeds at a time, and what its loss costs
_BLOCKS_PER_PIECE = 64


class SpreadRun:
    """A model whose pieces are handed to workers.

    A worker keeps the model that it used last. So models take turns: the pieces of one are all handed out before those
    of the next, and each worker changes the model once.
    """

    def __init__(self, ref: ModelRef, workers: Workers) -> None:
        self.model, self._workers = ref, workers
        self._has_turn = False

    def embed_captions(self, captions: Sequence[str]) -> Captions:
        """See :class:`~mll_hf.labeling.engines.ModelRun`."""
        self._take_turn()
        (result,) = self._workers.completed([(None, _embed_captions, (self.model, captions))])
        return result[1]

    def embed_images(
        self, probes: ProbeSet, images: NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """See :class:`~mll_hf.labeling.engines.ModelRun`."""
        self._take_turn()
        shared, size = self._workers.share(probes), _BATCHES_PER_PIECE * batch_size
        how = (batch_size, self._workers.decoders)

        def tasks() -> Iterator[Task]:
            for first in range(0, len(images), size):
                piece = images[first : first + size]
                yield piece, _embed_piece, (self.model, shared, piece, *how)
            self.close()

        yield from self._workers.completed(tasks())

    def count(self, graph: SemanticGraph, probes: ProbeSet, captions: Captions, blocks: Blocks) -> LabelCounts:
        """See :class:`~mll_hf.labeling.engines.ModelRun`."""
        shared = [self._workers.share(value) for value in (graph, probes, captions)]
        tasks = ((None, _count_piece, (*shared, several)) for several in _batched(blocks, _BLOCKS_PER_PIECE))
        # no more at a time than there are workers: each returns a table of all concepts by all concepts
        return reduce(add, (counts for _, counts in self._workers.completed(tasks, self._workers.n_workers)))

    def close(self) -> None:
        """Let the next model have its turn."""
        if self._has_turn:
            self._has_turn = False
            self._workers.turn.release()

    def _take_turn(self) -> None:
        if not self._has_turn:
            self._workers.turn.acquire()
            self._has_turn = True


class Workers:
    """Hands tasks to workers, a few more than there are, and gives back what they return.

    Args:
        n_workers: How many there are.
        decoders: Processes that may decode images for each of them.
    """

    def __init__(self, n_workers: int, decoders: int) -> None:
        self.n_workers, self.decoders = n_workers, decoders
        self.turn = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def share(self, value: Value) -> Value:
        """Make a value cheap to hand to many tasks."""
        return value

    def start(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> Future[Any]:
        """Hand one task to the workers."""
        raise NotImplementedError

    def cancel(self, started: Future[Any]) -> None:
        """Take a task back, if possible."""
        started.cancel()

    def completed(self, tasks: Iterable[Task], most: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Run tasks (key, function, arguments); yields (key, result) in the order in which they are done.

        Args:
            tasks: The tasks.
            most: How many are handed out at a time; by default so many that no worker waits for the next one.

        Raises:
            KeyboardInterrupt: The workers were stopped.
        """
        queue, running = iter(tasks), dict[Future[Any], tuple[Any, Future[Any]]]()
        most = most or 2 * self.n_workers + 2
        try:
            while True:
                for key, function, arguments in islice(queue, most - len(running)):
                    result, started = self._hand_out(function, arguments)
                    running[result] = key, started
                if not running:
                    return
                done = next(as_completed(running))
                key, _ = running.pop(done)
                with self._lock:
                    self._waiting.discard(done)
                yield key, done.result()
        finally:
            for result, (_, started) in running.items():
                self.cancel(started)
                with self._lock:
                    self._waiting.discard(result)

    def _hand_out(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> tuple[Future[Any], Future[Any]]:
        """Start a task unless all is stopped: its result, which :meth:`stop` ends, and the task itself."""
        result = Future[Any]()
        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            started = self.start(function, arguments)
            self._waiting.add(result)
        started.add_done_callback(partial(_pass_on, result))
        return result, started

    def stop(self) -> None:
        """Tell all who wait for results, now or later, that the run was interrupted."""
        with self._lock:
            self._stopped = True
            for result in self._waiting:
                with contextlib.suppress(InvalidStateError):
                    result.set_exception(KeyboardInterrupt())


def _pass_on(result: Future[Any], done: Future[Any]) -> None:
    """Give a task's result to who waits for it, unless that was told otherwise."""
    with contextlib.suppress(InvalidStateError):
        if done.cancelled():
            result.set_exception(KeyboardInterrupt())
        elif (error := done.exception()) is not None:
            result.set_exception(error)
        else:
            result.set_result(done.result())


def _batched(items: Iterable[Value], size: int) -> Iterator[list[Value]]:
    iterator = iter(items)
    while several := list(islice(iterator, size)):
        yield several


class _Worker:
    """What a worker process keeps: its device, and the model that it used last."""

    def __init__(self) -> None:
        self.device: str | None = None
        self._model: VisionLanguageModel | None = None

    def model(self, ref: ModelRef) -> VisionLanguageModel:
        """The model, loaded unless it is the last one."""
        if self._model is None or self._model.ref != ref:
            if self._model is not None:
                self._model.close()
                self._model = None
            self._model = load_model(ref, self.device)
        return self._model


WORKER = _Worker()


def _embed_captions(ref: ModelRef, captions: Sequence[str]) -> Captions:
    return Captions.of(WORKER.model(ref), captions)


def _embed_piece(
    ref: ModelRef, probes: ProbeSet, images: NDArray[np.int64], batch_size: int, decoders: int
) -> NDArray[np.float32]:
    batches = encoded_images(WORKER.model(ref), _with_files(probes), images, batch_size, decoders)
    return np.concatenate([embeddings for _, embeddings in batches])


def _count_piece(
    graph: SemanticGraph, probes: ProbeSet, captions: Captions, blocks: Sequence[tuple[int, NDArray[np.float32]]]
) -> LabelCounts:
    contest = Contest(graph, probes, captions.embeddings, captions.logit_scale, pick_device(WORKER.device))
    return contest.count(blocks)


@lru_cache(maxsize=4)
def _folder_here(location: str) -> Path:
    return fetch_graph_with_images(location).folder


def _with_files(probes: ProbeSet) -> ProbeSet:
    """Probes whose files are on this machine; those of a dataset on the Hub are fetched."""
    if all(path.exists() for path in probes.files):
        return probes
    if not REPO_ID.fullmatch(probes.name):
        raise GraphError(
            f"the images {probes.files[0]} are not on machine {platform.node()}; put the graph into a folder that all "
            "machines share, or on the Hub"
        )
    folder = _folder_here(str(DatasetLocation(probes.name, probes.revision)))
    return replace(probes, files=tuple(folder / path.name for path in probes.files))
