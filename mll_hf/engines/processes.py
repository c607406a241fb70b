"""Models run in one process per device of this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mll_hf.backends import pick_device
from mll_hf.engines.spread import WORKER, SpreadRun, Workers
from mll_hf.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from multiprocessing.queues import SimpleQueue

    from mll_hf.engines.base import ModelRun
    from mll_hf.labels import ModelRef


class ProcessEngine:
    """Models run in one process per device, on several devices of this machine; see :class:`~mll_hf.engines.Engine`.

    Args:
        devices: Such as ``cuda:0`` and ``cuda:1``.

    Raises:
        InputError: There is no such device.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = tuple(pick_device(device) for device in devices)
        self.models_at_once = 2
        self._lock = threading.Lock()
        self._pool: _Pool | None = None

    def __enter__(self) -> ProcessEngine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.close()

    @contextmanager
    def run(self, model: ModelRef) -> Iterator[ModelRun]:
        """See :class:`~mll_hf.engines.Engine`."""
        with self._lock:
            self._pool = pool = self._pool or _Pool(self.devices)
        try:
            yield SpreadRun(model, pool)
        except BrokenProcessPool as error:
            with self._lock:  # a pool that has lost a process takes no more work
                if self._pool is pool:
                    self._pool = None
            reason = (
                "a process that ran it was killed, mostly for want of memory; run it again, or with smaller batches"
            )
            raise ModelError(model.repo_id, reason) from error


class _Pool(Workers):
    def __init__(self, devices: Sequence[str]) -> None:
        super().__init__(len(devices))
        context = multiprocessing.get_context("spawn")
        queue: SimpleQueue[str] = context.SimpleQueue()
        for device in devices:
            queue.put(device)
        self._pool = ProcessPoolExecutor(len(devices), context, _take_device, (queue,))

    def start(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> Future[Any]:
        return self._pool.submit(function, *arguments)

    def close(self) -> None:
        self.stop()
        self._pool.shutdown(cancel_futures=True)


def _take_device(devices: SimpleQueue[str]) -> None:
    WORKER.device = devices.get()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Workers of a process that was killed would wait for tasks, and hold their device's memory, for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
