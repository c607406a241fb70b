"""Published accuracies of known models on datasets, which the estimate is fitted to, and their recall per class.

Accuracies are never merged: `AccuracyTable` has a row for each model and source. CLIP_benchmark is, on average, within
.01 of open_clip on each dataset except SVHN (.07) and CLEVR distance (.06). MTEB has top-1 accuracy where open_clip's
results have mean recall per class (Caltech-101, FGVC Aircraft, Oxford-IIIT Pet), and other prompts and class names
throughout: .02 apart on average, .10 on Caltech-101.

``stated_figures.csv`` has all figures of a model that sources state, also where they differ.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.models.known import known_models

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.models.known import KnownModel

FOLDER = Path(__file__).resolve().parent
_RECALL_SCALE = 65535  # recall is stored as uint16
ACCURACY_METRICS = ("acc1", "mean_per_class_recall")


@dataclass(frozen=True, slots=True)
class KnownDataset:
    """One dataset that figures are published for.

    Attributes:
        id: Canonical id, such as ``imagenet-1k``.
        kin: Group of datasets that share images, classes or both. To judge an estimate, leave out the whole group.
        domain: ``photo``, ``sketch``, ``rendition``, ``satellite``, ``microscopy``, ``medical``, ``render``,
            ``handwriting`` or ``text``.
        n_classes: Number of classes; None if no source states it.
        open_clip_metric: Metric of the column in open_clip's results; empty if there is none.
    """

    id: str
    kin: str
    domain: str
    n_classes: int | None
    open_clip_metric: str


@dataclass(frozen=True, slots=True)
class AccuracyTable:
    """Accuracies that one source states: ``values`` [R, D] float64 of R models on D datasets, NaN where it has none."""

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClassRecalls:
    """Published recall per class of M models under P prompt sets, for all C classes of all datasets.

    Attributes:
        models: The M models.
        prompts: ``simple`` (one template), ``class`` (the dataset's own) and ``ensemble`` (80 templates).
        datasets: [C] id of each class's dataset.
        classes: [C] names as published.
        values: [M, P, C] float64 recall between 0 and 1, exact to 1e-5.
        source: Id of the source.
    """

    models: tuple[KnownModel, ...]
    prompts: tuple[str, ...]
    datasets: tuple[str, ...]
    classes: tuple[str, ...]
    values: NDArray[np.float64]
    source: str

    def of(self, dataset: str, prompts: str = "ensemble") -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Class names and [M, C'] recall on one dataset; a KeyError if there is none."""
        columns = [column for column, name in enumerate(self.datasets) if name == dataset]
        if not columns or prompts not in self.prompts:
            raise KeyError(f"no recall per class for dataset '{dataset}' with prompts '{prompts}'")
        return tuple(self.classes[c] for c in columns), self.values[:, self.prompts.index(prompts), columns]


@cache
def known_datasets() -> tuple[KnownDataset, ...]:
    """All datasets of all tables; some have no figures here and are for evaluation only."""
    return tuple(
        KnownDataset(
            row["id"],
            row["kin"],
            row["domain"],
            int(row["n_classes"]) if row["n_classes"] else None,
            row["open_clip_metric"],
        )
        for row in rows("datasets.csv")
    )


@cache
def accuracies(source: str) -> AccuracyTable:
    """Accuracies on classification datasets, by ``open_clip``, ``mteb``, ``mobileclip`` or ``clip_benchmark``.

    Top-1 accuracy or mean recall per class: the metric that open_clip's results have for the dataset, else the source's
    own. Other metrics (worst region, F1, retrieval) are in ``accuracies.csv`` only.
    """
    found: dict[str, dict[str, float]] = defaultdict(dict)
    preferred = {dataset.id: dataset.open_clip_metric for dataset in known_datasets()}
    for entry in rows("accuracies.csv"):
        if entry["metric"] in ACCURACY_METRICS and entry["source"] == source:
            row, dataset = found[entry["model"]], entry["dataset"]
            if dataset not in row or entry["metric"] == (preferred[dataset] or "acc1"):
                row[dataset] = float(entry["value"])
    datasets = tuple(dataset for dataset in preferred if any(dataset in row for row in found.values()))
    values = np.array([[row.get(dataset, np.nan) for dataset in datasets] for row in found.values()])
    return AccuracyTable(tuple(found), datasets, values)


@cache
def class_recalls() -> ClassRecalls:
    """Recall per class where it was published: 21 models on 16 datasets under three prompt sets."""
    about = json.loads((FOLDER / "class_recalls.json").read_text(encoding="utf-8"))
    values = np.load(FOLDER / "class_recalls.npy", allow_pickle=False) / _RECALL_SCALE
    values.flags.writeable = False
    names = [(dataset, name) for dataset, classes in about["classes"].items() for name in classes]
    models = {model.name: model for model in known_models()}
    return ClassRecalls(
        models=tuple(models[name] for name in about["models"]),
        prompts=tuple(about["prompts"]),
        datasets=tuple(dataset for dataset, _ in names),
        classes=tuple(name for _, name in names),
        values=values,
        source=about["source"],
    )


@cache
def imagenet_synsets() -> dict[str, tuple[str, ...]]:
    """Synset of each class of ImageNet, ImageNet-Sketch and ImageNet-R, in the order of `ClassRecalls.of`."""
    document = json.loads((FOLDER / "imagenet_synsets.json").read_text(encoding="utf-8"))
    return {dataset: tuple(synsets) for dataset, synsets in document.items()}


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a table in this folder."""
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
