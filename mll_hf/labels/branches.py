"""Recall of a model by branches of the graph: its strengths and weaknesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label

_MIN_CONCEPTS = 10
_MAX_PARTS = 12
_MIN_PART = 0.02  # of the graph's concepts


@dataclass(frozen=True, slots=True)
class Branch:
    """Recall of a model on one branch of a graph.

    Attributes:
        name: Name of its root concept.
        definition: Definition of its root concept.
        recall: Mean recall of the tested descendants.
        concepts: Number of tested descendants.
    """

    name: str
    definition: str
    recall: float
    concepts: int


def branch_recalls(label: Label, graph: SemanticGraph) -> list[Branch]:
    """Recall of a model on the smallest meaningful branches of the graph, best first; ties by size, ascending.

    A branch is a concept with at least 10 tested descendants, none of which has as many itself. So branches do not
    contain each other.
    """
    tested = label.support > 0
    below = [descendants[tested[descendants]] for descendants in graph.descendants]
    is_large = np.array([len(concepts) >= _MIN_CONCEPTS for concepts in below])
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


def top_branches(graph: SemanticGraph) -> tuple[int, ...]:
    """Roots of the largest branches of a graph, at most 12; the same for all labels on the graph.

    Starting from the roots, the largest branch is replaced by its child branches until there would be more than 12.
    Branches with less than 2 % of the concepts are left out.
    """
    sizes = [len(descendants) + 1 for descendants in graph.descendants]
    below: list[set[int]] = [set() for _ in sizes]
    parts = set[int]()
    for v, parents in enumerate(graph.parents):
        if sizes[v] >= max(2, _MIN_PART * len(graph)):
            for children in [below[parent] for parent in parents] or [parts]:
                children.add(v)
    while divisible := [v for v in parts if below[v]]:
        largest = max(divisible, key=lambda v: (sizes[v], -v))
        if len(divided := parts - {largest} | below[largest]) > _MAX_PARTS:
            break
        parts = divided
    return tuple(sorted(parts))
