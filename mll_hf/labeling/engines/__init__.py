"""Where models run while they are measured: in this process, in one process per device, or on a Ray cluster.

The work is the same everywhere: embed the captions, embed images range by range, let the concepts contest block by
block. Ranges and blocks begin at the same images wherever they are computed, so labels are the same, byte for byte, on
the same kind of device.
"""

from __future__ import annotations

from mll_hf.labeling.engines.base import Captions, Engine, ModelRun
from mll_hf.labeling.engines.local import LocalEngine
from mll_hf.models import all_devices, pick_device

__all__ = ["Captions", "Engine", "LocalEngine", "ModelRun", "open_local"]


def open_local(device: str | None = None) -> Engine:
    """The engine for this machine.

    Args:
        device: ``cuda``, ``cuda:1``, ``mps``, ``cpu``; several with commas between, for a process each; by default all
            GPUs, or the best that is there.

    Raises:
        InputError: There is no such device.
    """
    devices = device.split(",") if device else all_devices()
    if len(devices) == 1:
        return LocalEngine(pick_device(devices[0]) if device else None)
    from mll_hf.labeling.engines.processes import ProcessEngine

    return ProcessEngine(devices)
