"""Figures recomputed from tables that others published, as a check of our metrics and baselines.

- LOVM's ``eval_table.csv`` and ModelGPT's ``eval_table_features.csv`` (github.com/orrzohar/LOVM): accuracies of 35
  models on 23 data sets, and seven features of each.
- open_clip's ``docs/openclip_results.csv`` (github.com/mlfoundations/open_clip): accuracies of 121 models on 38 data
  sets, of which the paper's 49 models and 14 of its 17 targets are used.

The published rows of ModelGPT are, for each group of features and each metric, the best *subset* by that metric on the
test data. The table ``lovm_subsets`` repeats this search to show its effect; it is no fair baseline.
"""

from __future__ import annotations

import csv
import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mll_hf.bench.baselines.modelgpt import predict, rank
from mll_hf.bench.metrics import top_kendall, top_l1, top_overlap
from mll_hf.bench.tables import Table
from mll_hf.errors import InputError
from mll_hf.models.known import paper_models
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
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


def published_tables(folder: Path, seed: int = 0) -> tuple[Table, Table, Table]:
    """Recompute the figures from a folder with the three tables.

    Args:
        folder: Holds ``lovm_eval_table.csv``, ``lovm_features.csv`` and ``openclip_results.csv``.
        seed: Seed of the random hubs.

    Raises:
        InputError: A table is missing or not the published one.
        MissingExtraError: scipy is not installed.
    """
    return (*lovm_tables(folder / EVALUATION_FILE, folder / FEATURES_FILE), hub_table(folder / OPEN_CLIP_FILE, seed))


# --- LOVM -------------------------------------------------------------------------------------------------------------


class _Quality(NamedTuple):
    """Of a set of features, means over the data sets: R5, tau5, L1, and accuracy of the model ranked first."""

    overlap: float
    kendall: float
    l1: float
    selected: float


def lovm_tables(evaluation: Path, features: Path) -> tuple[Table, Table]:
    """Rank LOVM's models by ModelGPT's features, leaving out each data set in turn.

    Args:
        evaluation: Table of accuracies.
        features: Table of features.

    Raises:
        InputError: A table is missing, lacks a column, or has no value for some model and data set.
        MissingExtraError: scipy is not installed.
    """
    truth, given = read_lovm(evaluation, ("acc1",)), read_lovm(features, FEATURES)
    models, datasets = (tuple(dict.fromkeys(key[side] for key in truth)) for side in (0, 1))
    try:
        accuracies = np.array([[truth[m, d][0] for d in datasets] for m in models])
        values = np.array([[given[m, d] for d in datasets] for m in models])
    except KeyError:
        raise InputError(
            f"{evaluation} or {features} lacks values of some models on some data sets; take the published tables"
        ) from None
    found = {
        names: _quality(names, values[..., [FEATURES.index(name) for name in names]], accuracies)
        for size in range(1, len(FEATURES) + 1)
        for names in itertools.combinations(FEATURES, size)
    }
    subsets = []
    for group, names in GROUPS.items():
        inside = [subset for subset in found if set(subset) <= set(names)]
        ranking = max(inside, key=lambda subset: (round(found[subset].overlap, 9), found[subset].kendall))
        prediction = min(inside, key=lambda subset: found[subset].l1)
        best = found[ranking]
        cells = (best.overlap, best.kendall, " + ".join(ranking), found[prediction].l1, " + ".join(prediction))
        subsets.append((group, *cells))
    return (
        Table(
            "lovm",
            f"LOVM: {len(models)} models, {len(datasets)} data sets",
            "Each group with all of its features, leaving out each data set in turn. The best model of each data set "
            f"has {accuracies.max(axis=0).mean():.3f}.",
            ("features", "R5", "tau5", "L1", "accuracy"),
            tuple((group, *found[names]) for group, names in GROUPS.items()),
        ),
        Table(
            "lovm_subsets",
            "LOVM: best subsets",
            "The best subset of each group by the test metric, as the published rows were made (no fair baseline).",
            ("features", "R5", "tau5", "subset by R5", "L1", "subset by L1"),
            tuple(subsets),
        ),
    )


def _quality(names: tuple[str, ...], features: NDArray[np.float64], accuracies: NDArray[np.float64]) -> _Quality:
    """Leave out each data set in turn; features are [M, T, F]. ImageNet accuracies alone are used as they are."""
    rows = []
    for t in range(accuracies.shape[1]):
        if names == (IMAGENET,):
            scores = predicted = features[:, t, 0]
        else:
            known = np.delete(features, t, axis=1), np.delete(accuracies, t, axis=1)
            scores, predicted = rank(*known, features[:, t]), predict(*known, features[:, t])
        truth = accuracies[:, t]
        rows.append(
            (
                top_overlap(scores, truth),
                top_kendall(scores, truth),
                top_l1(predicted, truth),
                truth[scores.argmax()],
            )
        )
    return _Quality(*np.mean(rows, axis=0).tolist())


def read_lovm(path: Path, columns: Sequence[str]) -> dict[tuple[str, str], list[float]]:
    """Values of some columns by model (as in ``ViT-B-32 openai``) and data set."""
    return {
        (row["model_fullname"], row["dataset"]): [_number(path, row[column]) for column in columns]
        for row in _read_rows(path, ("model_fullname", "dataset", *columns))
    }


# --- open_clip --------------------------------------------------------------------------------------------------------


def hub_table(path: Path, seed: int = 0) -> Table:
    """Regret of the ImageNet baseline (INB): with all of the paper's models, below caps on compute, in random hubs.

    Args:
        path: open_clip's table of results.
        seed: Seed of the random hubs.

    Raises:
        InputError: The table is missing, or lacks a model or a data set.
    """
    accuracies, imagenet = _read_open_clip(path)
    gflops = np.array([model.gflops for model in paper_models()], np.float64)
    hubs = {f"all {len(imagenet)}": [np.arange(len(imagenet))]}
    hubs |= {f"up to {cap} GFLOPs": [np.flatnonzero(gflops <= cap)] for cap in CAPS}
    rng = np.random.default_rng(seed)
    for size in HUB_SIZES:
        hubs[f"{size} at random"] = [rng.permutation(len(imagenet))[:size] for _ in range(DRAWS)]
    rows = []
    for name, draws in hubs.items():
        values = np.array([_hub(accuracies[hub], imagenet[hub]) for hub in draws])
        error = float(values[:, 3].std(ddof=1) / np.sqrt(len(draws))) if len(draws) > 1 else None
        general, fixed, best, regret, hits = values.mean(axis=0).tolist()
        rows.append((name, len(draws[0]), general, fixed, best, regret, error, hits))
    return Table(
        "hubs",
        f"The paper's models on {len(SHARED_DATASETS)} data sets, by open_clip's table",
        "Mean accuracies over the data sets of the model that is best on ImageNet (INB), of the best single model and "
        "of the best model per data set (oracle); regret of INB with its standard error over draws, and the share of "
        "data sets on which INB is the oracle.",
        ("hub", "models", "INB", "best fixed", "oracle", "regret", "standard error", "INB is best"),
        tuple(rows),
        digits=4,
    )


def _hub(accuracies: NDArray[np.float64], imagenet: NDArray[np.float64]) -> tuple[float, ...]:
    """Accuracies of INB, the best fixed model and the oracle, regret of INB, and how often INB is the oracle."""
    general, best = accuracies[imagenet.argmax()], accuracies.max(axis=0)
    fixed = accuracies[accuracies.mean(axis=1).argmax()]
    return general.mean(), fixed.mean(), best.mean(), best.mean() - general.mean(), (general == best).mean()


def _read_open_clip(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[49, 14] accuracies of the paper's models on the shared data sets, and [49] on ImageNet."""
    columns = (*SHARED_DATASETS, "ImageNet 1k")
    rows = {(row["name"], row["pretrained"]): row for row in _read_rows(path, ("name", "pretrained", *columns))}
    names = [(model.architecture, model.tag) for model in paper_models()]
    if missing := [" ".join(name) for name in names if name not in rows]:
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
        raise InputError(f"{path} has no rows, or no column {abridged(missing, 3)}; take the published table")
    return rows


def _number(path: Path, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise InputError(f"{path}: '{text}' is not a number; take the published table") from None
