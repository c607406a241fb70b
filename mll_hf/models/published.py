"""Published figures of known models by data set, domain and language; and as a source beside labels.

The table is ``data/figures.csv``. Figures of different sources or metrics are never compared with one another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from mll_hf.errors import InputError
from mll_hf.graph.concepts import graph_from_json
from mll_hf.models.known import data_file, records

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.store import LabelStore

PROBE = "probe"
ACCURACIES = ("accuracy", "mean recall", "balanced accuracy")
PUBLISHED = "published"
DEFAULT_LABELS = f"hub,{PUBLISHED}"  # importing HUB from hub.locations takes a quarter of a second


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one model.

    Attributes:
        model: A `KnownModel.name`, or the name in the source of a general model that has no repo there.
        dataset: Id of the data set.
        domain: What its images show, such as ``dermatology``; empty for general data sets.
        language: Code of the language of the class names; empty for English.
        metric: ``accuracy``, ``mean recall`` (per class), ``balanced accuracy``, ``f1``, ``auroc``, ``within 750 km``,
            or ``probe``: trained on frozen embeddings, not zero-shot.
        value: Between 0 and 1.
        sets: Number of data sets that it is the mean of.
        source: Id of its source in ``sources.csv``.
    """

    model: str
    dataset: str
    domain: str
    language: str
    metric: str
    value: float
    sets: int
    source: str


@cache
def figures() -> tuple[Figure, ...]:
    """All of them."""
    return records(Figure, "figures.csv")


def figures_of_dataset(dataset: str) -> tuple[Figure, ...]:
    """Zero-shot figures with English class names on one data set; see ``scripts/known_models/figures/datasets.csv``."""
    return tuple(f for f in figures() if f.dataset == dataset and not f.language and f.metric != PROBE)


@cache
def figures_by_language() -> dict[str, dict[str, float]]:
    """Zero-shot accuracy on ImageNet by language and model, for class names in that language."""
    found: dict[str, dict[str, float]] = {}
    for figure in figures():
        if figure.language:
            found.setdefault(figure.language, {})[figure.model] = figure.value
    return found


def split_location(location: str | Path) -> tuple[str | Path, bool]:
    """Remove ``published`` from several sources as users write them; also returns whether it was there."""
    parts = [part.strip() for part in str(location).split(",")]
    others = [part for part in parts if part != PUBLISHED]
    return (",".join(others), True) if others and len(others) < len(parts) else (location, False)


def open_labels(
    location: str | Path, graph: str | Path | None = None, token: str | None = None, trust: Sequence[str] = ()
) -> LabelStore:
    """The source of labels that a user names, see :func:`mll_hf.hub.sources.open_labels`; not ``published``."""
    if location == PUBLISHED:
        raise InputError(
            "published figures are ImageNet accuracies, not labels; name labels with --labels: hub, "
            "hf://datasets/$ORG/NAME or a folder"
        )
    from mll_hf.hub import sources  # takes a quarter of a second

    return sources.open_labels(location, graph, token, trust)


@cache
def published_graph() -> SemanticGraph:
    """ImageNet's 1,000 classes and their hypernyms, for matching: 1,860 concepts of WordNet 3.0."""
    return graph_from_json(json.loads(data_file("imagenet_graph.json")))
