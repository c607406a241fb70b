"""Models run in one process per device of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mll_hf.errors import ModelError
from mll_hf.labeling.engines.spread import WORKER, SpreadRun, Workers
from mll_hf.models import pick_device
from mll_hf.utils.images import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Event

    from mll_hf.labeling.engines.base import ModelRun
    from mll_hf.labels.label import ModelRef


class ProcessEngine:
    """Models run in one process per device, on several devices of this machine.

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
        """See :class:`~mll_hf.labeling.engines.Engine`."""
        with self._lock:
            self._pool = pool = self._pool or _Pool(self.devices)
        run = SpreadRun(model, pool)
        try:
            yield run
        except BrokenProcessPool as error:
            with self._lock:  # a pool that has lost a process takes no more work
                if self._pool is pool:
                    self._pool = None
            reason = (
                "a process that ran it was killed, mostly for want of memory; run it again, or with smaller batches"
            )
            raise ModelError(model.repo_id, reason) from error
        finally:
            run.close()


class _Pool(Workers):
    def __init__(self, devices: Sequence[str]) -> None:
        super().__init__(len(devices), max(usable_cores() // len(devices), 1))
        context = multiprocessing.get_context("spawn")
        queue: SimpleQueue[str] = context.SimpleQueue()
        for device in devices:
            queue.put(device)
        self._end = context.Event()
        self._pool = ProcessPoolExecutor(len(devices), context, _take_device, (queue, self._end))

    def start(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> Future[Any]:
        return self._pool.submit(function, *arguments)

    def close(self) -> None:
        self.stop()
        self._end.set()  # what is at work is not waited for
        self._pool.shutdown(cancel_futures=True)


def _take_device(devices: SimpleQueue[str], end: Event) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the driver decides
    WORKER.device = devices.get()
    for wait in (end.wait, _wait_for_parent):
        threading.Thread(target=_end_after, args=(wait,), daemon=True).start()


def _wait_for_parent() -> None:
    """Workers of a process that was killed would wait for tasks, and hold their device's memory, for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()


def _end_after(wait: Callable[[], object]) -> None:
    wait()
    os._exit(1)
