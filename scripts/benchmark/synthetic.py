"""Synthetic graphs, labels and text encoders of any size, for timing. Valid, seeded, and quick to make."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from math import erf
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.graph.probes import SamplingConfig
from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.label import Cost, Environment, Label, ModelRef
from mll_hf.matching.describe import Description

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IMAGES_PER_CONCEPT = 75
ENVIRONMENT = Environment("cpu", "float32", "0", "0", "0")
_BRANCHING = 8
_FEWER_IMAGES = (8, 20, 45)  # each for a tenth of the concepts
_STRENGTHS = np.arange(-4, 10.01, 0.25)  # means of log2 of the number of concepts that beat the right one
_DRAWS = 1024


class RandomEncoder:
    """A text encoder that maps every text to its own random direction.

    Attributes:
        id: Includes the size.
    """

    def __init__(self, size: int = 384) -> None:
        self.id = f"random-{size}"
        self._size = size

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, size] float32, unit norm; equal texts give equal rows."""
        vectors = np.stack([_direction(text, self._size) for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@lru_cache(4096)  # so that timings exclude the encoding of a task's texts
def _direction(text: str, size: int) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(size, np.float32)


def make_graph(n_concepts: int) -> SemanticGraph:
    """A tree of concepts with two lemmas each; every inner concept has eight children."""
    return SemanticGraph(
        "synthetic",
        tuple(
            Concept(
                id=_id(v),
                name=f"thing {v}",
                lemmas=(f"thing {v}", f"object {v}"),
                definition=f"the thing numbered {v}",
                hypernyms=(_id((v - 1) // _BRANCHING),) if v else (),
            )
            for v in range(n_concepts)
        ),
    )


def make_labels(graph: SemanticGraph, n_models: int) -> tuple[Label, ...]:
    """Labels of the first ``n_models`` :class:`SyntheticModels`."""
    models = SyntheticModels(graph)
    return tuple(models.label(m) for m in range(n_models))


class SyntheticModels:
    """Labels of any number of models that are good at some branches of the graph and bad at others.

    A tenth of the concepts has 8, a tenth 20 and a tenth 45 images, the others 75. The accuracy of a model differs
    between domains.
    """

    def __init__(self, graph: SemanticGraph, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._graph, self._seed = graph, seed
        self._support = rng.choice([IMAGES_PER_CONCEPT, *_FEWER_IMAGES], len(graph), p=[0.7, 0.1, 0.1, 0.1])
        self._pools = {n: _rank_pool(n, rng) for n in np.unique(self._support).tolist()}
        self._hardness = rng.normal(0, 1.5, len(graph))
        self._branch = np.arange(len(graph)) * 64 // len(graph)  # neighbors in the graph's order are in the same branch

    def label(self, m: int) -> Label:
        """The label of model ``m``."""
        identity = np.random.default_rng((self._seed, 1, m))
        ranks, rng = self._ranks(m)
        totals = ranks.sum(axis=0, dtype=np.int64)
        tilt = np.exp(rng.normal(0, 0.5, 3)[:, None] * np.linspace(1, -1, RANK_BINS))  # towards low or high ranks
        domain_ranks = (totals * tilt / tilt.sum(axis=0)).astype(np.int32)
        domain_ranks[0] += (totals - domain_ranks.sum(axis=0)).astype(np.int32)
        hits = ranks[:, 0].astype(np.int32)
        domain_hits = _dealt(hits, domain_ranks[:, 0])
        losses = ranks[:, 1:].sum(axis=1, dtype=np.int32)
        return Label(
            model=ModelRef(f"synthetic/model-{m:06d}", f"{m:040x}", "open_clip"),
            cost=Cost(int(10 ** identity.uniform(7, 9)), float(10 ** identity.uniform(0, 2.5))),
            graph_name=self._graph.name,
            graph_digest=self._graph.digest,
            graph_location="synthetic",
            probes_digest="0" * 40,
            probes_location="synthetic",
            sampling=SamplingConfig(IMAGES_PER_CONCEPT),
            domain_names=("drawing", "photo", "render"),
            package_version="0",
            environment=ENVIRONMENT,
            license=None,
            ranks=ranks.astype(np.uint16),
            domain_ranks=domain_ranks,
            domain_hits=domain_hits,
            domain_support=domain_hits + _dealt(losses, domain_ranks[:, 1:].sum(axis=1)),
            temperature=np.array([rng.uniform(0.5, 2)], np.float32),
        )

    def _ranks(self, m: int) -> tuple[NDArray[np.uint8], np.random.Generator]:
        """Ranks [V, RANK_BINS], and the generator for the rest."""
        rng = np.random.default_rng((self._seed, 0, m))
        strength = rng.normal(4, 1.5) + rng.normal(0, 1, 64)[self._branch] + self._hardness
        strength += rng.normal(0, 0.7, len(strength))
        row = np.clip(np.rint((strength - _STRENGTHS[0]) / 0.25), 0, len(_STRENGTHS) - 1).astype(np.int64)
        row, ranks = row * _DRAWS + rng.integers(0, _DRAWS, len(row)), np.zeros((len(row), RANK_BINS), np.uint8)
        for n, pool in self._pools.items():
            concepts = np.flatnonzero(self._support == n)
            ranks[concepts] = pool[row[concepts]]
        return ranks, rng


def _dealt(images: NDArray[np.int32], totals: NDArray[np.int32]) -> NDArray[np.uint16]:
    """[S, V] images of concepts, distributed over domains with these totals."""
    concepts = np.split(np.repeat(np.arange(len(images)), images), np.cumsum(totals)[:-1])
    return np.stack([np.bincount(of_domain, minlength=len(images)) for of_domain in concepts]).astype(np.uint16)


def _rank_pool(n_images: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """[strengths x draws, RANK_BINS] ranks of ``n_images`` images; logarithms of ranks are normal."""
    ends = np.array([*range(RANK_BINS - 1)])
    below = np.array([[(1 + erf((end - mean) / 2.5 / 2**0.5)) / 2 for end in ends] for mean in _STRENGTHS])
    shares = np.diff(below, axis=1, prepend=0, append=1)
    return np.concatenate([rng.multinomial(n_images, row, _DRAWS) for row in shares]).astype(np.uint8)


def make_descriptions(n_classes: int) -> tuple[Description, ...]:
    """Descriptions of classes, every other one named like a concept."""
    names = [f"thing {7 * y + 1}" if y % 2 else f"class {y}" for y in range(n_classes)]
    return tuple(Description(name, (f"The photo of {name}, which is special",), "template") for name in names)


def _id(v: int) -> str:
    return f"s{v:08d}"
