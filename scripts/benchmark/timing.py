"""Times of calls."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def spread(times: list[float], unit: str = "s") -> str:
    """Median, minimum and maximum of times, as text."""
    return f"{statistics.median(times):.3g} {unit} ({min(times):.3g} to {max(times):.3g})"
