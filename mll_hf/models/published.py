"""Labels of real models from published figures: recall on every class of ImageNet, ImageNet-Sketch and ImageNet-R.

ImageNet's classes are WordNet synsets, so these three columns make a label on the graph of ImageNet's classes and their
hypernyms, in three domains (photo, sketch, rendition). Graph and figures come with the package: no model is run, and
nothing is downloaded. The published table has no:

- Number of images per class: 50, 51 and 150, the means of the three datasets, are used.
- Number of rivals that beat an unrecognized image: these images are spread evenly over the first four bins of ranks
  (1, 2 to 3, 4 to 7, 8 to 15).
- Identity of these rivals: strategy `paper` estimates its Eq. 5 from ranks alone.
- Recall among 1,000 classes on ImageNet-R: its recall is among 200 classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.graph.concepts import graph_from_json
from mll_hf.graph.probes import SamplingConfig
from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.label import UNPINNED, Cost, Environment, Label, ModelRef
from mll_hf.labels.store import Origin
from mll_hf.models.known import class_recalls, usable_models

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.store import LabelSource
    from mll_hf.models.known import ClassRecalls

PUBLISHED = "published"
DEFAULT_LABELS = f"hub,{PUBLISHED}"  # importing HUB from hub.locations takes a quarter of a second
PROMPTS = "ensemble"  # 80 templates, as in most published accuracies on ImageNet
SOURCES = {"imagenet-1k": 50, "imagenet-sketch": 51, "imagenet-r": 150}  # images per class
DOMAINS = ("photo", "sketch", "rendition")  # of these
_LOST_BINS = 4
_MAX_IMAGES = 60_000


@dataclass(frozen=True, slots=True)
class PublishedFigures:
    """A source of labels: of the models that can be loaded and whose recall per class is published."""

    @property
    def name(self) -> str:
        """The source as users write it."""
        return PUBLISHED

    @property
    def graphs(self) -> tuple[SemanticGraph, ...]:
        """ImageNet's classes and their hypernyms."""
        return (published_graph(),)

    def labels(self) -> tuple[Label, ...]:
        """The labels."""
        return published_labels()

    def rivals_of(self, label: Label) -> None:
        """None: recall per class says nothing about rivals."""

    def embeddings_of(self, label: Label) -> None:
        """None: there are none."""

    def origin_of(self, label: Label) -> Origin:
        """The source of the figures."""
        return Origin(f"published figures ({label.probes_name})", label.probes_name)


def split_location(location: str | Path) -> tuple[str | Path, bool]:
    """Remove ``,published`` from a source as users write it; also returns whether it was there."""
    first, comma, last = str(location).rpartition(",")
    return (first.strip(), True) if comma and last.strip() == PUBLISHED else (location, False)


def open_labels(location: str | Path, graph: str | Path | None = None, token: str | None = None) -> LabelSource:
    """The source of labels that a user names: ``published``, or one of :func:`mll_hf.hub.sources.open_labels`.

    Raises:
        InputError: The location is malformed.
    """
    if location == PUBLISHED:
        return PublishedFigures()
    from mll_hf.hub import sources  # takes a quarter of a second

    return sources.open_labels(location, graph, token)


@cache
def published_graph() -> SemanticGraph:
    """ImageNet's 1,000 classes and their hypernyms: 1,860 concepts of WordNet 3.0."""
    return graph_from_json(_data("imagenet_graph.json"))


@cache
def imagenet_synsets() -> Mapping[str, tuple[str, ...]]:
    """Synset of each class of the datasets that labels are made from, in the order of `ClassRecalls.of`."""
    return {dataset: tuple(synsets) for dataset, synsets in _data("imagenet_synsets.json").items()}


def published_labels() -> tuple[Label, ...]:
    """Labels of the usable models whose recall per class is published."""
    return _labels_of(frozenset(model.hub_id for model in usable_models()))


@cache
def _labels_of(repo_ids: frozenset[str]) -> tuple[Label, ...]:
    recalls = class_recalls()
    rows = [m for m, model in enumerate(recalls.models) if model.hub_id in repo_ids]
    wanted = replace(recalls, models=tuple(recalls.models[m] for m in rows), values=recalls.values[rows])
    return labels_from_recalls(wanted, PROMPTS)


def labels_from_recalls(recalls: ClassRecalls, prompts: str) -> tuple[Label, ...]:
    """Labels of a table's models under one prompt set, on the published graph; hypernyms pool images of hyponyms."""
    graph, synsets = published_graph(), imagenet_synsets()
    ranks = np.zeros((len(recalls.models), len(SOURCES), len(graph), RANK_BINS), np.float32)  # exact below 2^24
    for s, (dataset, n_images) in enumerate(SOURCES.items()):
        _, recall = recalls.of(dataset, prompts)
        hits = np.rint(recall * n_images).astype(np.int64)
        ranks[:, s, [graph.index[id] for id in synsets[dataset]]] = spread_ranks(hits, n_images)
    shown = np.flatnonzero(ranks.any(axis=(0, 1, 3)))  # the classes
    below = np.eye(len(graph), dtype=np.float32)
    for v, descendants in enumerate(graph.descendants):
        below[v, descendants] = 1
    pooled = np.tensordot(below[:, shown], ranks[:, :, shown, : 1 + _LOST_BINS], axes=(1, 2))
    pooled = np.moveaxis(pooled, 0, 2).astype(np.float64)
    pooled = np.pad(np.rint(pooled), [(0, 0)] * 3 + [(0, RANK_BINS - 1 - _LOST_BINS)])  # [M, S, V, RANK_BINS]
    domain_ranks = pooled.sum(axis=2)
    share = np.minimum(1, _MAX_IMAGES / np.maximum(pooled.sum(axis=(1, 3)), 1))  # the format counts up to 65,535
    pooled = np.floor(pooled * share[:, None, :, None])
    return tuple(
        Label(
            model=ModelRef(model.hub_id or model.name, UNPINNED, model.backend),
            cost=Cost(int(model.parameters or 0), float(model.image_gflops or 0)),
            graph_name=graph.name,
            graph_digest=graph.digest,
            graph_location=PUBLISHED,
            probes_digest=prompts,
            probes_location=recalls.source,
            sampling=SamplingConfig(sum(SOURCES.values())),
            domain_names=DOMAINS,
            package_version="",
            environment=Environment("", "", "", "", ""),
            license=model.license,
            ranks=pooled[m].sum(axis=0).astype(np.uint16),
            domain_ranks=domain_ranks[m].astype(np.int32),
            temperature=np.ones(1, np.float32),
            domain_hits=pooled[m, :, :, 0].astype(np.uint16),
            domain_support=pooled[m].sum(axis=2).astype(np.uint16),
        )
        for m, model in enumerate(recalls.models)
    )


def spread_ranks(hits: NDArray[np.int64], n_images: int) -> NDArray[np.int64]:
    """[..., RANK_BINS] ranks of images: ``hits`` [...] were recognized, the others are spread over four bins."""
    ranks = np.zeros((*hits.shape, RANK_BINS), np.int64)
    ranks[..., 0] = hits
    for position in range(_LOST_BINS):
        ranks[..., 1 + position] = (n_images - hits + position) // _LOST_BINS
    return ranks


def _data(name: str) -> dict[str, list[str]]:
    document: dict[str, list[str]] = json.loads(
        resources.files("mll_hf.models").joinpath("data", name).read_text(encoding="utf-8")
    )
    return document
