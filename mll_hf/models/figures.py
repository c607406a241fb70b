"""Published figures of known models by data set, domain and language.

The table is ``data/figures.csv``. Figures of different sources or metrics are never compared with one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from mll_hf.models.known import records

PROBE = "probe"


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
