"""What a model is good at and what not, by branches of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mll_hf.graph import SemanticGraph
    from mll_hf.labels import LabelSummary

_FEWEST_CONCEPTS = 10


@dataclass(frozen=True, slots=True)
class Branch:
    """How well a model recognises one part of a graph.

    Attributes:
        name: Name of the concept at its top.
        definition: Definition of that concept.
        precision: Mean node precision of the tested concepts below it.
        concepts: Number of these.
    """

    name: str
    definition: str
    precision: float
    concepts: int


def branch_precisions(label: LabelSummary, graph: SemanticGraph) -> list[Branch]:
    """What a model is good at and what not, in parts of the graph that are small enough to mean something.

    A branch is a concept with at least 10 tested descendants, none of which has as many itself. So no branch lies
    within another.

    Returns:
        The branches, best first; of equally good ones the smaller first.
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
    return sorted(branches, key=lambda branch: (-branch.precision, branch.concepts))
