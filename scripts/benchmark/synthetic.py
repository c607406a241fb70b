"""Synthetic graphs, labels and text encoders of any size, for timing. Valid, seeded, and quick to make."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.label import Cost, Environment, Label, ModelRef
from mll_hf.matching.describe import Description

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IMAGES_PER_CONCEPT = 75
_BRANCHING = 8
_LEVELS, _DRAWS = 64, 256  # of the pool of ranks


class RandomEncoder:
    """A text encoder that maps every text to its own random direction of 384 dimensions."""

    id = "random"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, 384] float32, unit norm; equal texts give equal rows."""
        vectors = np.stack([_direction(text) for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@lru_cache(4096)  # so that timings exclude the encoding of a task's texts
def _direction(text: str) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(384, np.float32)


def make_graph(n_concepts: int) -> SemanticGraph:
    """A tree of concepts with two lemmas each; every inner concept has eight children."""
    ids = [f"s{v:08d}" for v in range(n_concepts)]
    concepts = [
        Concept(
            id=id,
            lemmas=(f"thing {v}", f"object {v}"),
            definition=f"the thing numbered {v}",
            hypernyms=(ids[(v - 1) // _BRANCHING],) if v else (),
        )
        for v, id in enumerate(ids)
    ]
    return SemanticGraph("synthetic", tuple(concepts))


def make_labels(graph: SemanticGraph, n_models: int, seed: int = 0) -> tuple[Label, ...]:
    """Labels of models that are good at some concepts and bad at others, in one domain."""
    rng = np.random.default_rng(seed)
    odds = np.exp(-np.linspace(-0.3, 0.7, _LEVELS)[:, None] * np.arange(RANK_BINS))
    shares = odds / odds.sum(axis=1, keepdims=True)
    pool = np.concatenate([rng.multinomial(IMAGES_PER_CONCEPT, row, _DRAWS) for row in shares]).astype(np.uint16)
    ease = rng.normal(_LEVELS / 2, 8, len(graph))
    labels = []
    for m in range(n_models):
        level = np.clip(ease + rng.normal(0, 8) + rng.normal(0, 5, len(graph)), 0, _LEVELS - 1).astype(np.int64)
        ranks = pool[level * _DRAWS + rng.integers(_DRAWS, size=len(graph))]
        labels.append(
            Label(
                model=ModelRef(f"synthetic/model-{m:06d}", f"{m:040x}", "open_clip"),
                cost=Cost(int(10 ** rng.uniform(7, 9)), float(10 ** rng.uniform(0, 2.5))),
                graph_name=graph.name,
                graph_digest=graph.digest,
                graph_location="synthetic",
                probes_digest="0" * 40,
                probes_location="synthetic",
                images_per_concept=IMAGES_PER_CONCEPT,
                domain_names=("photo",),
                package_version="0",
                environment=Environment("cpu", "float32", "0", "0", "0"),
                license=None,
                ranks=ranks,
                domain_ranks=ranks.sum(axis=0, dtype=np.int32)[None],
                domain_hits=ranks[:, 0][None],
                domain_support=ranks.sum(axis=1, dtype=np.uint16)[None],
                temperature=np.array([rng.uniform(0.5, 2)], np.float32),
            )
        )
    return tuple(labels)


def make_descriptions(n_classes: int) -> tuple[Description, ...]:
    """Descriptions of classes, every other one named like a concept."""
    names = [f"thing {7 * y + 1}" if y % 2 else f"class {y}" for y in range(n_classes)]
    return tuple(Description(name, (f"The photo of {name}, which is special",), "template") for name in names)
