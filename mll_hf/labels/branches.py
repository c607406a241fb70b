"""What a model is good at and what not, by branches of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import LabelSummary

_FEWEST_CONCEPTS = 10
_MOST_PARTS = 12
_SMALLEST_PART = 0.02  # of the graph's concepts


@dataclass(frozen=True, slots=True)
class Branch:
    """How well a model recognizes one part of a graph.

    Attributes:
        name: Name of the concept at its top.
        definition: Definition of that concept.
        recall: Mean recall of the tested concepts below it.
        concepts: Number of these.
    """

    name: str
    definition: str
    recall: float
    concepts: int


def branch_recalls(label: LabelSummary, graph: SemanticGraph) -> list[Branch]:
    """What a model is good at and what not, in parts of the graph that are small enough to mean something.

    A branch is a concept with at least 10 tested descendants, none of which has as many itself. So no branch lies
    within another. The best are first; of equally good ones the smaller.
    """
    tested = label.support > 0
    below = [descendants[tested[descendants]] for descendants in graph.descendants]
    is_large = np.array([len(concepts) >= _FEWEST_CONCEPTS for concepts in below])
    branches = [
        Branch(
            concept.name,
            concept.definition,
            float(label.node_precision[below[v]].mean(dtype=np.float64)),
            len(below[v]),
        )
        for v, concept in enumerate(graph.concepts)
        if is_large[v] and not is_large[graph.descendants[v]].any()
    ]
    return sorted(branches, key=lambda branch: (-branch.recall, branch.concepts))


def branch_pairs(first: LabelSummary, second: LabelSummary, graph: SemanticGraph) -> list[tuple[Branch, Branch]]:
    """The branches of two labels on the same images, side by side, those first where the first model is most ahead."""
    by_place = [
        sorted(branch_recalls(label, graph), key=lambda branch: (branch.name, branch.definition))
        for label in (first, second)
    ]
    pairs = zip(*by_place, strict=True)
    return sorted(pairs, key=lambda pair: pair[1].recall - pair[0].recall)


def top_branches(graph: SemanticGraph) -> tuple[int, ...]:
    """Concepts whose branches are the large parts of a graph, at most twelve; the same for all labels on the graph.

    From the roots down, the largest branch is replaced by those below it, until there would be more than twelve.
    Branches of less than a fiftieth of the concepts are left out.
    """
    sizes = [len(descendants) + 1 for descendants in graph.descendants]
    below: list[set[int]] = [set() for _ in sizes]
    parts = set[int]()
    for v, parents in enumerate(graph.parents):
        if sizes[v] >= max(2, _SMALLEST_PART * len(graph)):
            for under in [below[parent] for parent in parents] or [parts]:
                under.add(v)
    while divisible := [v for v in parts if below[v]]:
        largest = max(divisible, key=lambda v: (sizes[v], -v))
        if len(divided := parts - {largest} | below[largest]) > _MOST_PARTS:
            break
        parts = divided
    return tuple(sorted(parts))


@dataclass(frozen=True)
class BranchTree:
    """What a label says of each branch of a graph, small and large, as a tree: each concept has one place.

    Attributes:
        concepts: [K] indices of the concepts that were tested or have tested ones below them, none before its parent.
        parents: [K] position of each concept's parent in this tree; -1 at the top.
        own: [K] bool, whether the concept itself was tested.
        counts: [K] tested concepts in the branch, the one at its top included.
        recall: [K] float64, their mean recall.
    """

    concepts: NDArray[np.intp]
    parents: NDArray[np.intp]
    own: NDArray[np.bool_]
    counts: NDArray[np.int64]
    recall: NDArray[np.float64]

    @property
    def first_fork(self) -> int:
        """Position of the topmost concept with more than one below it; -1 if the tree has several roots, or none."""
        position = -1
        while len(below := np.flatnonzero(self.parents == position)) == 1:
            position = int(below[0])
        return position


def branch_tree(label: LabelSummary, graph: SemanticGraph) -> BranchTree:
    """What a model is good at, on every level of a graph.

    A concept with several hypernyms is put below the one with the fewest concepts, the most special one.
    """
    sizes = [len(descendants) for descendants in graph.descendants]
    parents = [min(above, key=lambda v: (sizes[v], v), default=-1) for above in graph.parents]
    own = label.support > 0
    counts, sums = own.astype(np.int64), np.where(own, label.node_precision, 0).astype(np.float64)
    for v in reversed(graph.topological_order):
        if parents[v] >= 0:
            counts[parents[v]] += counts[v]
            sums[parents[v]] += sums[v]
    concepts = np.array([v for v in graph.topological_order if counts[v]], np.intp)
    positions = np.full(len(graph) + 1, -1, np.intp)  # the last one is that of the parent of a root
    positions[concepts] = np.arange(len(concepts))
    return BranchTree(
        concepts=concepts,
        parents=positions[np.array(parents, np.intp)[concepts]],
        own=own[concepts],
        counts=counts[concepts],
        recall=sums[concepts] / counts[concepts],
    )
