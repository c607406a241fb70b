"""Quality of choices, rankings and predictions, with confidence intervals.

Arrays range over M models and T tasks. Higher scores are better; among equal scores the earlier model comes first.
"""

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

TOP = 5  # as in LOVM
RESAMPLES, LEVEL = 10_000, 0.95
_MIN_COMMON = 3


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


# --- rankings ---------------------------------------------------------------------------------------------------------


def ranking_quality(scores: Floats, accuracies: Floats, predicted: Floats | None) -> dict[str, float]:
    """Agreement of scores [M] and predicted accuracies [M], if any, with the true accuracies [M], by metric.

    LOVM's metrics and correlations over all models; regret, the accuracy of the best model minus that of the model
    ranked first; and whether the model ranked first is a best one.
    """
    best, first = accuracies.max(), accuracies[int(np.argmax(scores))]
    quality = {
        "R5": top_overlap(scores, accuracies),
        "tau5": top_kendall(scores, accuracies),
        "Kendall": kendall(scores, accuracies),
        "Spearman": spearman(scores, accuracies),
        "regret": float(best - first),
        "Hit@1": float(first == best),
    }
    return quality if predicted is None else quality | {"L1": top_l1(predicted, accuracies)}


def top_models(scores: Floats, top: int = TOP) -> NDArray[np.int64]:
    """Positions of the ``top`` models with the highest scores [M], best first."""
    return np.argsort(-scores, kind="stable")[:top]


def top_overlap(scores: Floats, accuracies: Floats, top: int = TOP) -> float:
    """LOVM's R5 (arXiv 2306.08893): share of the truly best models [M] that are among those ranked best."""
    best = top_models(accuracies, top)
    return len(np.intersect1d(top_models(scores, top), best)) / len(best)


def top_kendall(scores: Floats, accuracies: Floats, top: int = TOP) -> float:
    """LOVM's tau5: Kendall's tau of the models in both top lists; 0 if there are fewer than three."""
    common = np.intersect1d(top_models(scores, top), top_models(accuracies, top))
    return kendall(scores[common], accuracies[common]) if len(common) >= _MIN_COMMON else 0.0


def top_l1(predicted: Floats, accuracies: Floats, top: int = TOP) -> float:
    """LOVM's L1: absolute mean error of the predicted accuracy over the models predicted best.

    As in LOVM's code, errors of both signs cancel before the absolute value is taken.
    """
    best = top_models(predicted, top)
    return float(abs(np.mean(predicted[best] - accuracies[best])))


def kendall(scores: Floats, accuracies: Floats) -> float:
    """Kendall's tau-b over all models; 0 if all scores or all accuracies are equal."""
    return _correlation("kendalltau", scores, accuracies)


def spearman(scores: Floats, accuracies: Floats) -> float:
    """Spearman's rank correlation over all models; 0 if all scores or all accuracies are equal."""
    return _correlation("spearmanr", scores, accuracies)


def _correlation(name: str, scores: Floats, accuracies: Floats) -> float:
    if np.ptp(scores) == 0 or np.ptp(accuracies) == 0:
        return 0.0
    return float(getattr(scipy_part("stats"), name)(scores, accuracies).statistic)


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
