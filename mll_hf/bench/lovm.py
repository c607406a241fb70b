"""Figures recomputed from tables that others published, as a check of our metrics and baselines.

- LOVM's ``eval_table.csv`` and ModelGPT's ``eval_table_features.csv`` (github.com/orrzohar/LOVM): accuracies of 35
  models on 23 data sets, and seven features of each.
- open_clip's results, which :mod:`mll_hf.models.known` has: the paper's 49 models on 14 of its 17 targets.

The published rows of ModelGPT are, for each group of features and each metric, the best *subset* by that metric on the
test data. The table ``lovm_subsets`` repeats this search to show its effect; it is no fair baseline.
"""

from __future__ import annotations

import csv
import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mll_hf.bench.baselines.modelgpt import TEXT_FEATURES, predict, rank
from mll_hf.bench.metrics import top_kendall, top_l1, top_overlap
from mll_hf.bench.tables import Table
from mll_hf.errors import InputError
from mll_hf.models.known import accuracies, paper_models
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

EVALUATION_FILE, FEATURES_FILE = "lovm_eval_table.csv", "lovm_features.csv"
IMAGENET = "IN-score"
CAPTION_FEATURES, GRANULARITY_FEATURES = TEXT_FEATURES[:2], TEXT_FEATURES[2:]
FEATURES = (IMAGENET, *TEXT_FEATURES)
GROUPS = {
    "INB": (IMAGENET,),
    "C": CAPTION_FEATURES,
    "G": GRANULARITY_FEATURES,
    "G+C": TEXT_FEATURES,
    "INB+C": (IMAGENET, *CAPTION_FEATURES),
    "INB+G": (IMAGENET, *GRANULARITY_FEATURES),
    "INB+G+C": FEATURES,
}
SHARED_DATASETS = (
    "cifar-100", "country211", "clevr-distance", "dtd", "oxford-flowers-102", "mnist", "oxford-pets", "patch-camelyon",
    "food-101", "gtsrb", "resisc45", "rendered-sst2", "stanford-cars", "stl-10",
)  # fmt: skip
CAPS = (600, 200, 110, 50, 20)  # GFLOPs of one image and one text, as published
HUB_SIZES = (3, 5, 10, 20, 30)
DRAWS = 200


def published_tables(folder: Path, seed: int = 0) -> tuple[Table, Table, Table]:
    """Recompute the figures.

    Args:
        folder: Holds ``lovm_eval_table.csv`` and ``lovm_features.csv``.
        seed: Seed of the random hubs.

    Raises:
        InputError: A table is missing or not the published one.
        MissingExtraError: scipy is not installed.
    """
    return (*lovm_tables(folder / EVALUATION_FILE, folder / FEATURES_FILE), hub_table(seed))


# --- LOVM -------------------------------------------------------------------------------------------------------------


class _Quality(NamedTuple):
    """Of a set of features, means over the data sets: R5, tau5, L1, and accuracy of the model ranked first."""

    overlap: float
    kendall: float
    l1: float
    selected: float


def lovm_tables(evaluation: Path, features: Path) -> tuple[Table, Table]:
    """Rank LOVM's models by ModelGPT's features, leaving out each data set in turn.

    Errors are those of :func:`published_tables`.
    """
    truth, given = read_lovm(evaluation, ("acc1",)), read_lovm(features, FEATURES)
    models, datasets = (tuple(dict.fromkeys(key[side] for key in truth)) for side in (0, 1))
    try:
        measured = np.array([[truth[m, d][0] for d in datasets] for m in models])
        values = np.array([[given[m, d] for d in datasets] for m in models])
    except KeyError:
        raise InputError(
            f"{evaluation} or {features} lacks values of some models on some data sets; take the published tables"
        ) from None
    found = {
        names: _quality(names, values[..., [FEATURES.index(name) for name in names]], measured)
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
            f"has {measured.max(axis=0).mean():.3f}.",
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
        of_ranking = top_overlap(scores, truth), top_kendall(scores, truth)
        rows.append((*of_ranking, top_l1(predicted, truth), truth[scores.argmax()]))
    return _Quality(*np.mean(rows, axis=0).tolist())


def read_lovm(path: Path, columns: Sequence[str]) -> dict[tuple[str, str], list[float]]:
    """Values of some columns by model (as in ``ViT-B-32 openai``) and data set.

    Raises:
        InputError: The table is missing, or not the published one.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError("no rows")
        return {(row["model_fullname"], row["dataset"]): [float(row[column]) for column in columns] for row in rows}
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); take the published table") from None


# --- open_clip --------------------------------------------------------------------------------------------------------


def hub_table(seed: int = 0) -> Table:
    """Regret of the ImageNet baseline (INB): with all of the paper's models, below caps on compute, in random hubs."""
    models, published = paper_models(), accuracies("open_clip")
    of_model = dict(zip(published.models, published.values, strict=True))
    values = np.array([of_model[model] for model in models])
    imagenet = values[:, published.datasets.index("imagenet-1k")]
    truth = values[:, [published.datasets.index(dataset) for dataset in SHARED_DATASETS]]
    gflops = np.array([model.gflops for model in models], np.float64)
    hubs = {f"all {len(models)}": [np.arange(len(models))]}
    hubs |= {f"up to {cap} GFLOPs": [np.flatnonzero(gflops <= cap)] for cap in CAPS}
    rng = np.random.default_rng(seed)
    for size in HUB_SIZES:
        hubs[f"{size} at random"] = [rng.permutation(len(models))[:size] for _ in range(DRAWS)]
    rows = []
    for name, draws in hubs.items():
        figures = np.array([_hub(truth[hub], imagenet[hub]) for hub in draws])
        error = float(figures[:, 3].std(ddof=1) / np.sqrt(len(draws))) if len(draws) > 1 else None
        general, fixed, best, regret, hits = figures.mean(axis=0).tolist()
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
