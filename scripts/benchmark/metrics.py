"""Quality of choices and predictions, with confidence intervals. Arrays range over M models and T tasks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mll_hf.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32] | NDArray[np.float64]
    Integers = NDArray[np.signedinteger[Any]]
    Statistic = Callable[..., NDArray[np.float64]]  # one array [..., T] per method to [...]

RESAMPLES, LEVEL = 10_000, 0.95


# --- predictions and choices ------------------------------------------------------------------------------------------


def accuracy(predicted: Integers, labels: Integers) -> float:
    """Share of [N] images whose predicted class is correct."""
    return float(np.mean(predicted == labels))


def mean_per_class_recall(predicted: Integers, labels: Integers) -> float:
    """Mean recall of the classes that occur among [N] images."""
    _, codes = np.unique(labels, return_inverse=True)
    return float(np.mean(np.bincount(codes, weights=predicted == labels) / np.bincount(codes)))


def mean_difference(ours: Floats, theirs: Floats) -> NDArray[np.float64]:
    """[...] mean of ``ours - theirs`` over the last axis, the tasks."""
    return (ours - theirs).mean(axis=-1, dtype=np.float64)


def mean_gap_closed(ours: Floats, general: Floats, oracle: Floats) -> NDArray[np.float64]:
    """[...] position of a method between the generally best model (0) and the best model per task (1).

    ``(ours - general) / (oracle - general)`` of the mean accuracies over the last axis, the tasks; NaN where the oracle
    is not better. A mean of the ratios per task would be dominated by tasks with a small gap.
    """
    ours, general, oracle = (values.mean(axis=-1) for values in (ours, general, oracle))
    gap = np.subtract(oracle, general, dtype=np.float64)
    return np.divide(ours - general, gap, out=np.full(gap.shape, np.nan), where=gap > 0)


def scipy_part(name: str) -> Any:  # noqa: ANN401 - scipy has no types
    """A subpackage of scipy.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        return import_module(f"scipy.{name}")
    except ImportError as error:
        raise MissingExtraError("scipy", "bench") from error


# --- uncertainty ------------------------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """An estimate with the lower and upper end of its confidence interval."""

    estimate: float
    low: float
    high: float


def bootstrap_tasks(
    statistic: Statistic, values: Sequence[Floats], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval over tasks, with the same resamples for all methods.

    It covers the choice of tasks; the images of each task are not resampled. Resamples for which the statistic is NaN
    are ignored (``scipy.stats.bootstrap`` would return NaN).

    Args:
        statistic: Such as :func:`mean_gap_closed`; maps arrays [..., T] to [...].
        values: One array [T] for each argument of the statistic.
        resamples: How many times the tasks are drawn with replacement.
        level: Confidence level.
        seed: Seed of the draws.
    """
    table = np.stack([np.asarray(of_method, np.float64) for of_method in values])
    tasks = np.random.default_rng(seed).integers(table.shape[1], size=(resamples, table.shape[1]))
    replicates = statistic(*table[:, tasks])
    replicates = replicates[~np.isnan(replicates)]
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail]) if len(replicates) else (np.nan, np.nan)
    return Interval(float(statistic(*table)), float(low), float(high))


class SignedRankTest(NamedTuple):
    """Number of tasks won, lost and tied, and the two-sided p-value of Wilcoxon's signed-rank test."""

    wins: int
    losses: int
    ties: int
    p_value: float


def wilcoxon(ours: Floats, theirs: Floats) -> SignedRankTest:
    """Wilcoxon's signed-rank test over [T] tasks; ties are ignored, and p is 1 if there are only ties."""
    # Rounded, so that floating-point noise neither breaks ties nor separates equal differences
    differences = np.round(np.subtract(ours, theirs, dtype=np.float64), 12)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    p_value = float(scipy_part("stats").wilcoxon(differences, zero_method="wilcox").pvalue) if wins + losses else 1.0
    return SignedRankTest(wins, losses, len(differences) - wins - losses, p_value)
