"""Published figures as a source: the accuracies of known models on ImageNet, and the graph of its classes."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from mll_hf.errors import InputError
from mll_hf.graph.concepts import graph_from_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.store import LabelStore

PUBLISHED = "published"
DEFAULT_LABELS = f"hub,{PUBLISHED}"  # importing HUB from hub.locations takes a quarter of a second


def split_location(location: str | Path) -> tuple[str | Path, bool]:
    """Remove ``published`` from several sources as users write them; also returns whether it was there."""
    parts = [part.strip() for part in str(location).split(",")]
    others = [part for part in parts if part != PUBLISHED]
    return (",".join(others), True) if others and len(others) < len(parts) else (location, False)


def open_labels(
    location: str | Path, graph: str | Path | None = None, token: str | None = None, trust: Sequence[str] = ()
) -> LabelStore:
    """The source of labels that a user names, see :func:`mll_hf.hub.sources.open_labels`.

    Raises:
        InputError: The location is malformed, or ``published``.
    """
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
    file = resources.files("mll_hf.models").joinpath("data", "imagenet_graph.json")
    return graph_from_json(json.loads(file.read_text(encoding="utf-8")))
