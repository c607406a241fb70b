"""How good a choice, a ranking or a prediction is, and how sure one can be of it.

Arrays over M models and T tasks. A score says how well a model is expected to do: greater is better, and of equal
scores the earlier model comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32] | NDArray[np.float64]
    Integers = NDArray[np.signedinteger[Any]]
    Statistic = Callable[..., NDArray[np.float64]]  # arrays [..., T], one per method, to [...]

TOP = 5  # LOVM's choice
_LEAST_COMMON = 3


# --- predictions ------------------------------------------------------------------------------------------------------


def accuracy(predicted: Integers, labels: Integers) -> float:
    """Share of N images whose predicted class is the true one.

    Args:
        predicted: [N] indices of classes.
        labels: [N] the true ones.
    """
    return float(np.mean(predicted == labels))


def mean_per_class_recall(predicted: Integers, labels: Integers) -> float:
    """Mean over the classes that occur of the share of their images that are recognized.

    Args:
        predicted: [N] indices of classes.
        labels: [N] the true ones.
    """
    _, codes = np.unique(labels, return_inverse=True)
    return float(np.mean(np.bincount(codes, weights=predicted == labels) / np.bincount(codes)))


# --- choices ----------------------------------------------------------------------------------------------------------


def regret(achieved: Floats, accuracies: Floats) -> NDArray[np.float64]:
    """[T] what the best model of each task has more; negative where an ensemble beats every single model.

    Args:
        achieved: [T] accuracy of a method.
        accuracies: [M, T] accuracy of each model alone.
    """
    return accuracies.max(axis=0).astype(np.float64) - achieved


def gap_closed(ours: Floats, general: Floats, oracle: Floats) -> NDArray[np.float64]:
    """[...] how far a method comes from the generally best choice (0) towards the best possible one (1).

    ``(ours - general) / (oracle - general)``; NaN where the oracle does not exceed the general choice, so that there
    is no gap to close. Single tasks with a small gap dominate a mean of these: see :func:`mean_gap_closed`.
    """
    gap = np.subtract(oracle, general, dtype=np.float64)
    return np.divide(ours - general, gap, out=np.full(gap.shape, np.nan), where=gap > 0)


def mean_gap_closed(ours: Floats, general: Floats, oracle: Floats) -> NDArray[np.float64]:
    """[...] the same of the mean accuracies over the last axis, the tasks; NaN if the means leave no gap.

    A task counts by the size of its gap, and one without a gap only by what is lost there.
    """
    return gap_closed(ours.mean(axis=-1), general.mean(axis=-1), oracle.mean(axis=-1))


# --- rankings ---------------------------------------------------------------------------------------------------------


def top_models(scores: Floats, top: int = TOP) -> NDArray[np.int64]:
    """Positions of the best models by score, best first; all of them if there are fewer.

    Args:
        scores: [M].
        top: How many.
    """
    return np.argsort(-scores, kind="stable")[:top]


def top_overlap(scores: Floats, accuracies: Floats, top: int = TOP) -> float:
    """LOVM's R5 (arXiv 2306.08893): the share of the truly best models that are among those ranked best.

    Args:
        scores: [M].
        accuracies: [M] the truth.
        top: Length of both lists.
    """
    best = top_models(accuracies, top)
    return len(np.intersect1d(top_models(scores, top), best)) / len(best)


def top_kendall(scores: Floats, accuracies: Floats, top: int = TOP) -> float:
    """LOVM's tau5: Kendall's tau of the models that are in both lists of best ones; 0 if there are fewer than three.

    Args:
        scores: [M].
        accuracies: [M] the truth.
        top: Length of both lists.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    common = np.intersect1d(top_models(scores, top), top_models(accuracies, top))
    return kendall(scores[common], accuracies[common]) if len(common) >= _LEAST_COMMON else 0.0


def top_l1(predicted: Floats, accuracies: Floats, top: int = TOP) -> float:
    """LOVM's L1: how far the mean predicted accuracy of the models predicted best is from their true mean.

    As in LOVM's code the absolute value is taken of the mean, so that errors of both signs cancel.

    Args:
        predicted: [M] predicted accuracy.
        accuracies: [M] the truth.
        top: How many models.
    """
    best = top_models(predicted, top)
    return float(abs(np.mean(predicted[best] - accuracies[best])))


def kendall(scores: Floats, accuracies: Floats) -> float:
    """Kendall's tau-b over all models; 0 where it is undefined, because all scores or all accuracies are equal.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    if np.ptp(scores) == 0 or np.ptp(accuracies) == 0:
        return 0.0
    return float(_scipy_stats().kendalltau(scores, accuracies, variant="b").statistic)


def spearman(scores: Floats, accuracies: Floats) -> float:
    """Spearman's rank correlation over all models; 0 where it is undefined.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    if np.ptp(scores) == 0 or np.ptp(accuracies) == 0:
        return 0.0
    return float(_scipy_stats().spearmanr(scores, accuracies).statistic)


# --- how sure ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the interval around it.

    Attributes:
        estimate: The statistic of the data as they are.
        low: Lower end.
        high: Upper end.
    """

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BootstrapConfig:
    """How intervals are drawn.

    Attributes:
        resamples: How many times the tasks are drawn with replacement.
        level: Share of the resamples that an interval holds.
        seed: Seed of the draws; the same for methods that are to be compared.
    """

    resamples: int = 10_000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0 < self.level < 1:
            raise InputError("resamples must be at least 1 and level between 0 and 1; choose others")


def mean_difference(ours: Floats, theirs: Floats) -> NDArray[np.float64]:
    """[...] mean over the last axis, the tasks, of how much better we are."""
    return (ours - theirs).mean(axis=-1, dtype=np.float64)


def bootstrap_tasks(statistic: Statistic, values: Sequence[Floats], config: BootstrapConfig | None = None) -> Interval:
    """Percentile interval over resampled tasks, the same draws for all methods.

    Says what to expect on other tasks of this kind; the images of each task are taken as they are.

    Args:
        statistic: What is estimated, such as :func:`mean_gap_closed`; maps arrays [..., T] to [...].
        values: For each of its arguments [T].
        config: How it is drawn.

    Raises:
        InputError: There are no tasks, or not equally many for all methods.
    """
    config = config or BootstrapConfig()
    table = _same_tasks(values)
    tasks = np.random.default_rng(config.seed).integers(table.shape[1], size=(config.resamples, table.shape[1]))
    return _interval(statistic, table, table[:, tasks], config)


def bootstrap_images(
    statistic: Statistic, outcomes: Sequence[Sequence[NDArray[Any]]], config: BootstrapConfig | None = None
) -> Interval:
    """The same with the images of each drawn task resampled too, the same images for all methods.

    So the interval also covers that a task has few images.

    Args:
        statistic: What is estimated; it takes accuracies.
        outcomes: For each of its arguments T arrays [N_t], which images are answered rightly.
        config: How it is drawn.

    Raises:
        InputError: There are no tasks, or the methods differ in tasks or images.
    """
    config = config or BootstrapConfig()
    if len({tuple(len(of_task) for of_task in of_method) for of_method in outcomes}) != 1:
        raise InputError("the methods differ in tasks or images; compare them on the same ones")
    table = _same_tasks([np.array([np.mean(of_task) for of_task in of_method]) for of_method in outcomes])
    generator = np.random.default_rng(config.seed)
    tasks = generator.integers(table.shape[1], size=(config.resamples, table.shape[1]))
    drawn = np.empty((len(outcomes), *tasks.shape))
    for t in range(table.shape[1]):
        here = tasks == t
        right = np.stack([np.asarray(of_method[t], np.float64) for of_method in outcomes])
        drawn[:, here] = _resampled_means(right, int(here.sum()), generator)
    return _interval(statistic, table, drawn, config)


@dataclass(frozen=True, slots=True)
class SignedRankTest:
    """A paired comparison of two methods over tasks.

    Attributes:
        wins: Tasks on which the first one is better.
        losses: Tasks on which it is worse.
        ties: Tasks on which both are equal.
        p_value: Of Wilcoxon's signed-rank test, two-sided; 1 if there are only ties.
    """

    wins: int
    losses: int
    ties: int
    p_value: float


def wilcoxon(ours: Floats, theirs: Floats) -> SignedRankTest:
    """Wilcoxon's signed-rank test over tasks; ties are left out, as Wilcoxon did.

    Args:
        ours: [T].
        theirs: [T].

    Raises:
        InputError: There are no tasks, or not equally many.
        MissingExtraError: scipy is not installed.
    """
    left, right = _same_tasks([ours, theirs])
    # Rounding must neither break ties nor make differences unequal that are not.
    differences = np.round(left - right, 12)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    p_value = float(_scipy_stats().wilcoxon(differences, zero_method="wilcox").pvalue) if wins + losses else 1.0
    return SignedRankTest(wins, losses, len(differences) - wins - losses, p_value)


def _same_tasks(values: Sequence[Floats]) -> NDArray[np.float64]:
    """[K, T] the values of K methods."""
    if len({np.shape(of_method) for of_method in values}) != 1 or np.ndim(values[0]) != 1 or len(values[0]) == 0:
        raise InputError("the methods do not have one value for each of the same tasks; compare them on the same ones")
    return np.stack([np.asarray(of_method, np.float64) for of_method in values])


def _resampled_means(right: NDArray[np.float64], count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """[K, count] means of ``right`` [K, N] over resampled images."""
    n_images = right.shape[1]
    means = np.empty((len(right), count))
    at_once = max(1, 2**20 // n_images)
    for first in range(0, count, at_once):
        part = means[:, first : first + at_once]
        part[:] = right[:, generator.integers(n_images, size=(part.shape[1], n_images))].mean(axis=2)
    return means


def _interval(
    statistic: Statistic, values: NDArray[np.float64], drawn: NDArray[np.float64], config: BootstrapConfig
) -> Interval:
    """The statistic of ``values`` [K, T], and its percentiles over ``drawn`` [K, B, T] where it is defined."""
    replicates = statistic(*drawn)
    replicates = replicates[~np.isnan(replicates)]
    tail = (1 - config.level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail]) if len(replicates) else (np.nan, np.nan)
    return Interval(float(statistic(*values)), float(low), float(high))


def _scipy_stats() -> Any:  # noqa: ANN401 - scipy has no types
    try:
        import scipy.stats
    except ImportError as error:
        raise MissingExtraError("scipy", "bench") from error
    return scipy.stats
