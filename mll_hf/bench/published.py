"""Tables that others have published, as a check of our metrics and baselines.

Reads, where they are at hand:

- LOVM's ``eval_table.csv`` and ModelGPT's ``eval_table_features.csv`` (github.com/orrzohar/LOVM): accuracies of 35
  models on 23 data sets, and seven features of each;
- open_clip's ``docs/openclip_results.csv`` (github.com/mlfoundations/open_clip): accuracies of 121 models on 38 data
  sets, from which the paper's 49 models and the 14 of its 17 targets that are there are taken.

The published rows of ModelGPT are, for each group of features and each metric, the best *subset* by that metric on the
test data. :attr:`LovmReport.best_subsets` repeats the search to show what it is worth; it is no baseline.
"""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.bench.baselines.choices import best_by, best_fixed
from mll_hf.bench.baselines.modelgpt import predict_left_out, rank_left_out
from mll_hf.bench.metrics import top_kendall, top_l1, top_overlap
from mll_hf.errors import InputError
from mll_hf.models.published import published_models
from mll_hf.utils.text import abridged, markdown_table, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

EVALUATION_FILE, FEATURES_FILE, OPEN_CLIP_FILE = "lovm_eval_table.csv", "lovm_features.csv", "openclip_results.csv"
IMAGENET = "IN-score"
CAPTION_FEATURES = ("text-f1", "text-acc1")
GRANULARITY_FEATURES = ("intraclass_sim", "inter_close", "intra_close", "superclass_metric")
FEATURES = (IMAGENET, *CAPTION_FEATURES, *GRANULARITY_FEATURES)
GROUPS = {
    "INB": (IMAGENET,),
    "C": CAPTION_FEATURES,
    "G": GRANULARITY_FEATURES,
    "G+C": (*CAPTION_FEATURES, *GRANULARITY_FEATURES),
    "INB+C": (IMAGENET, *CAPTION_FEATURES),
    "INB+G": (IMAGENET, *GRANULARITY_FEATURES),
    "INB+G+C": FEATURES,
}
SHARED_DATASETS = (
    "CIFAR-100",
    "Country211",
    "CLEVR Distance",
    "Describable Textures",
    "Oxford Flowers-102",
    "MNIST",
    "Oxford-IIIT Pet",
    "PatchCamelyon",
    "Food-101",
    "GTSRB",
    "RESISC45",
    "Rendered SST2",
    "Stanford Cars",
    "STL-10",
)
CAPS = (600, 200, 110, 50, 20)  # GFLOPs of one image and one text, as published
HUB_SIZES = (3, 5, 10, 20, 30)
DRAWS = 200


@dataclass(frozen=True, slots=True)
class RankingResult:
    """A method on LOVM's benchmark: means over its data sets.

    Attributes:
        method: Its name.
        features: The features it uses.
        overlap: R5.
        kendall: tau5.
        l1: L1 of predicted accuracies.
        selected: Accuracy of the model ranked first.
    """

    method: str
    features: tuple[str, ...]
    overlap: float
    kendall: float
    l1: float
    selected: float


@dataclass(frozen=True, slots=True)
class BestSubset:
    """The best subsets of a group of features, chosen on the test data.

    Attributes:
        group: Name of the group.
        ranking: The subset with the greatest R5, of several that with the greatest tau5.
        prediction: The subset with the least L1.
    """

    group: str
    ranking: RankingResult
    prediction: RankingResult


@dataclass(frozen=True, slots=True)
class LovmReport:
    """LOVM's benchmark, recomputed.

    Attributes:
        n_models: Number of models.
        n_datasets: Number of data sets.
        oracle: Mean accuracy of the best model of each data set.
        results: Each group with all of its features.
        best_subsets: Each group as the authors' script prints it.
    """

    n_models: int
    n_datasets: int
    oracle: float
    results: tuple[RankingResult, ...]
    best_subsets: tuple[BestSubset, ...]


@dataclass(frozen=True, slots=True)
class HubResult:
    """What choosing can win in a hub, or on average in random ones.

    Attributes:
        hub: Which models may be chosen.
        n_models: How many they are.
        general: Mean accuracy over the data sets of the model that is best on ImageNet (INB).
        best_fixed: That of the best single model in hindsight.
        oracle: That of the best model per data set.
        hits: Share of data sets on which INB is as good as the oracle.
        error: Standard error of the regret over random draws; 0 for a single hub.
    """

    hub: str
    n_models: int
    general: float
    best_fixed: float
    oracle: float
    hits: float
    error: float

    @property
    def regret(self) -> float:
        """What INB loses against the oracle."""
        return self.oracle - self.general


@dataclass(frozen=True, slots=True)
class PublishedReport:
    """All checks.

    Attributes:
        lovm: ModelGPT and the ImageNet baseline on LOVM's tables.
        hubs: The ImageNet baseline on open_clip's table.
    """

    lovm: LovmReport
    hubs: tuple[HubResult, ...]


def published_report(folder: Path, seed: int = 0) -> PublishedReport:
    """Compute everything from a folder with the three tables.

    Args:
        folder: Holds ``lovm_eval_table.csv``, ``lovm_features.csv`` and ``openclip_results.csv``.
        seed: Seed of the random hubs.

    Raises:
        InputError: A table is missing or not the published one.
        MissingExtraError: scipy is not installed.
    """
    lovm = lovm_report(folder / EVALUATION_FILE, folder / FEATURES_FILE)
    return PublishedReport(lovm, hub_results(folder / OPEN_CLIP_FILE, seed))


# --- LOVM -------------------------------------------------------------------------------------------------------------


def lovm_report(evaluation: Path, features: Path) -> LovmReport:
    """Rank the models of LOVM by ModelGPT's features, leaving out each data set in turn.

    Args:
        evaluation: Table of the accuracies.
        features: Table of the features.

    Raises:
        InputError: A table is missing, lacks a column, or has no value for some model and data set.
        MissingExtraError: scipy is not installed.
    """
    truth = _read_table(evaluation, ("acc1",))
    given = _read_table(features, FEATURES, like=truth)
    accuracies = truth.values[..., 0]
    subsets = {
        names: _evaluate(names, given.values[..., [FEATURES.index(name) for name in names]], accuracies)
        for size in range(1, len(FEATURES) + 1)
        for names in itertools.combinations(FEATURES, size)
    }
    return LovmReport(
        n_models=len(truth.models),
        n_datasets=len(truth.datasets),
        oracle=float(accuracies.max(axis=0).mean()),
        results=tuple(replace(subsets[names], method=group) for group, names in GROUPS.items()),
        best_subsets=tuple(_best_subset(group, names, subsets.values()) for group, names in GROUPS.items()),
    )


def _evaluate(names: tuple[str, ...], features: NDArray[np.float64], accuracies: NDArray[np.float64]) -> RankingResult:
    """A regression on some features [M, T, F]; ImageNet accuracies alone are taken as they are."""
    if names == (IMAGENET,):
        scores = predicted = features[..., 0]
    else:
        scores, predicted = rank_left_out(features, accuracies), predict_left_out(features, accuracies)
    tasks = range(accuracies.shape[1])
    return RankingResult(
        method=" + ".join(names),
        features=names,
        overlap=float(np.mean([top_overlap(scores[:, t], accuracies[:, t]) for t in tasks])),
        kendall=float(np.mean([top_kendall(scores[:, t], accuracies[:, t]) for t in tasks])),
        l1=float(np.mean([top_l1(predicted[:, t], accuracies[:, t]) for t in tasks])),
        selected=float(np.mean([accuracies[best_by(scores[:, t]), t] for t in tasks])),
    )


def _best_subset(group: str, names: tuple[str, ...], results: Iterable[RankingResult]) -> BestSubset:
    inside = [result for result in results if set(result.features) <= set(names)]
    return BestSubset(
        group=group,
        ranking=max(inside, key=lambda result: (round(result.overlap, 9), result.kendall)),
        prediction=min(inside, key=lambda result: result.l1),
    )


# --- open_clip --------------------------------------------------------------------------------------------------------


def hub_results(table: Path, seed: int = 0) -> tuple[HubResult, ...]:
    """What INB loses against the oracle: on all of the paper's models, under caps on compute, and in random hubs.

    Args:
        table: open_clip's table of results.
        seed: Seed of the random hubs.

    Raises:
        InputError: The table is missing, or lacks a model or a data set.
    """
    accuracies, imagenet = _read_open_clip(table)
    gflops = np.array([model.gflops for model in published_models()])
    everyone = np.arange(len(imagenet))
    hubs = [(f"all {len(everyone)}", [everyone])]
    hubs += [(f"up to {cap} GFLOPs", [np.flatnonzero(gflops <= cap)]) for cap in CAPS]
    generator = np.random.default_rng(seed)
    for size in HUB_SIZES:
        draws = [generator.permutation(len(everyone))[:size] for _ in range(DRAWS)]
        hubs.append((f"{size} at random", draws))
    return tuple(_mean_hub(name, [_hub(accuracies[hub], imagenet[hub]) for hub in draws]) for name, draws in hubs)


def _hub(accuracies: NDArray[np.float64], imagenet: NDArray[np.float64]) -> tuple[float, float, float, float, float]:
    """Number of models, accuracies of INB, the best fixed model and the oracle, and how often INB is the oracle."""
    general, best = accuracies[best_by(imagenet)], accuracies.max(axis=0)
    fixed = accuracies[best_fixed(accuracies)].mean()
    return len(imagenet), general.mean(), fixed, best.mean(), (general == best).mean()


def _mean_hub(name: str, hubs: Sequence[tuple[float, float, float, float, float]]) -> HubResult:
    values = np.array(hubs)
    n_models, general, fixed, best, hits = values.mean(axis=0).tolist()
    regrets = values[:, 3] - values[:, 1]
    error = regrets.std(ddof=1) / np.sqrt(len(hubs)) if len(hubs) > 1 else 0.0
    return HubResult(name, round(n_models), general, fixed, best, hits, float(error))


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Table:
    """Columns of a LOVM table.

    Attributes:
        models: The M models, in order of appearance.
        datasets: The T data sets.
        values: [M, T, K] one value per column.
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    values: NDArray[np.float64]


def _read_table(path: Path, columns: Sequence[str], like: _Table | None = None) -> _Table:
    """Read some columns; with the models and data sets in the order of another table, if one is given."""
    rows = _read_rows(path, ("model_fullname", "dataset", *columns))
    models = like.models if like else tuple(dict.fromkeys(row["model_fullname"] for row in rows))
    datasets = like.datasets if like else tuple(dict.fromkeys(row["dataset"] for row in rows))
    values = np.full((len(models), len(datasets), len(columns)), np.nan)
    for row in rows:
        if row["model_fullname"] in models and row["dataset"] in datasets:
            place = models.index(row["model_fullname"]), datasets.index(row["dataset"])
            values[place] = [_number(path, row[column]) for column in columns]
    if np.isnan(values).any():
        raise InputError(f"{path} lacks values of some models on some data sets; take the table as it was published")
    return _Table(models, datasets, values)


def _read_open_clip(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[49, 14] accuracies of the paper's models on the shared data sets, and [49] on ImageNet."""
    columns = (*SHARED_DATASETS, "ImageNet 1k")
    rows = {(row["name"], row["pretrained"]): row for row in _read_rows(path, ("name", "pretrained", *columns))}
    names = [(model.architecture, model.tag) for model in published_models()]
    missing = [" ".join(name) for name in names if name not in rows]
    if missing:
        raise InputError(f"{path} lacks {abridged(missing, 3)}; take the table of open_clip at commit 89fb801")
    values = np.array([[_number(path, rows[name][column]) for column in columns] for name in names])
    return values[:, :-1], values[:, -1]


def _read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); give the folder with the tables") from None
    missing = [column for column in columns if not rows or rows[0].get(column) is None]
    if missing:
        raise InputError(f"{path} has no rows, or no column {abridged(missing, 3)}; take the table as it was published")
    return rows


def _number(path: Path, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise InputError(f"{path}: '{text}' is no number; take the table as it was published") from None


# --- text -------------------------------------------------------------------------------------------------------------


def report_to_markdown(report: PublishedReport) -> str:
    """The report as three tables in Markdown."""
    lovm = report.lovm
    ranked = [
        [row.method, f"{row.overlap:.3f}", f"{row.kendall:.3f}", f"{row.l1:.3f}", f"{row.selected:.3f}"]
        for row in lovm.results
    ]
    searched = [
        [
            best.group,
            f"{best.ranking.overlap:.3f}",
            f"{best.ranking.kendall:.3f}",
            best.ranking.method,
            f"{best.prediction.l1:.3f}",
            best.prediction.method,
        ]
        for best in lovm.best_subsets
    ]
    hubs = [
        [
            hub.hub,
            str(hub.n_models),
            f"{hub.general:.4f}",
            f"{hub.best_fixed:.4f}",
            f"{hub.oracle:.4f}",
            f"{100 * hub.regret:.1f}" + (f" ± {100 * hub.error:.1f}" if hub.error else ""),
            f"{hub.hits:.0%}",
        ]
        for hub in report.hubs
    ]
    return "\n".join(
        [
            f"## LOVM: {lovm.n_models} models, {lovm.n_datasets} data sets",
            "",
            "Each group of features with all of its features, leaving out each data set in turn. "
            f"The best model of each data set has {lovm.oracle:.3f}.",
            "",
            *_table(["features", "R5", "tau5", "L1", "accuracy of the first"], ranked),
            "",
            "The best subset of each group by the test metric, as the published rows were made (no fair baseline).",
            "",
            *_table(["features", "R5", "tau5", "subset", "L1", "subset"], searched),
            "",
            f"## The paper's models on {len(SHARED_DATASETS)} data sets, by open_clip's table",
            "",
            *_table(["hub", "models", "INB", "best fixed", "oracle", "regret (points)", "INB is best"], hubs),
            "",
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return markdown_table(header, ["---", *["---:"] * (len(header) - 1)], rows)
