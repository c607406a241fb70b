"""Data sets for the benchmark of fits: embeddings of images by several models, with zero-shot heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmark.cache import EmbeddingCache
from benchmark.suites import load_tasks
from benchmark.world import flat, prompts_of, read_embeddings
from mll_hf.models.source import resolve_model
from mll_hf.selection.head import Head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

SCALE = 100.0  # of the logits of CLIP
ZOO_IMAGES = 420


@dataclass(frozen=True, eq=False)
class Data:
    """Images of a data set as M models see them.

    Attributes:
        name: Its name.
        images: [M] embeddings [N, D] at unit norm.
        heads: [P, M] zero-shot heads by prompt.
        labels: [N] true classes.
        usable: Positions of the images that may be used to fit.
        fixed: Positions of the images to score; None for those that were not used.
    """

    name: str
    images: Sequence[NDArray[np.float32]]
    heads: Sequence[Sequence[Head]]
    labels: Rows
    usable: Rows
    fixed: Rows | None = None

    def of_classes(self, name: str, classes: Rows) -> Data:
        """The same with some of the classes."""
        kept = np.flatnonzero(np.isin(self.labels, classes))
        heads = [[Head(h.weights[classes], h.bias[classes]) for h in of_prompt] for of_prompt in self.heads]
        images = [x[kept] for x in self.images]
        return Data(name, images, heads, np.searchsorted(classes, self.labels[kept]), np.arange(len(kept)))

    def exchanged(self) -> Data:
        """The same with class names exchanged: nothing that a zero-shot head says is related to the truth."""
        heads = [[Head(np.roll(h.weights, 1, 0), np.roll(h.bias, 1)) for h in of_prompt] for of_prompt in self.heads]
        return replace(self, name=f"{self.name}, names exchanged", heads=heads)


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Float32 at unit norm."""
    found = vectors.astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def read_whu(path: Path, prompts: Sequence[int]) -> Data:
    """WHU-RS19 as 11 models see it, with some of ten prompts."""
    with np.load(path) as file:
        models, labels = range(len(file["models"])), file["labels"].astype(np.int64)
        images = [unit(file[f"images_{m}"]) for m in models]
        texts = [file[f"texts_{m}"].astype(np.float32) for m in models]
    heads = [[Head.zero_shot(of_model[p], SCALE) for of_model in texts] for p in prompts]
    return Data("WHU-RS19", images, heads, labels, np.arange(len(labels)))


def read_food(path: Path) -> Data:
    """Ten classes of Food-101, those with a text, fitted to training images and scored on test images."""
    with np.load(path) as file:
        kept = np.flatnonzero(file["text_available"])
        images = unit(np.concatenate([file["train_embeddings"], file["test_embeddings"]]))
        labels, n_train = np.concatenate([file["train_labels"], file["test_labels"]]), len(file["train_labels"])
        head = Head.zero_shot(file["text_embeddings"].astype(np.float32), SCALE)
    rows = np.arange(len(labels))
    whole = Data("", [images], [[head]], labels, rows).of_classes("Food-10", kept)
    is_test = rows[np.isin(labels, kept)] >= n_train
    return replace(whole, usable=np.flatnonzero(~is_test), fixed=np.flatnonzero(is_test))


def zoo_tasks(testbed: Path, cached: Path) -> Iterator[Data]:
    """The zoo's tasks; embeddings are cached."""
    refs = [resolve_model(f"local-dir:{folder}") for folder in sorted((testbed / "zoo").iterdir()) if folder.is_dir()]
    tasks, cache = load_tasks(testbed / "targets", ZOO_IMAGES), EmbeddingCache(cached)
    cache.fill(refs, tasks, [flat(prompts_of(task)) for task in tasks])
    for task in tasks:
        embedded, readable = read_embeddings(cache, refs, task, prompts_of(task))
        images, heads = zip(*embedded, strict=True)
        labels = task.labels[readable]
        yield Data(f"zoo: {task.name}", images, [heads], labels, np.arange(len(labels)))
