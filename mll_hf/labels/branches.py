"""Recall of a model by branches of the graph: its strengths and weaknesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label

_MIN_CONCEPTS = 10


@dataclass(frozen=True, slots=True)
class Branch:
    """Mean recall of a model on the tested descendants of a root concept."""

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
        Branch(concept.name, concept.definition, float(label.node_precision[below[v]].mean(dtype=float)), len(below[v]))
        for v, concept in enumerate(graph.concepts)
        if is_large[v] and not is_large[graph.descendants[v]].any()
    ]
    return sorted(branches, key=lambda branch: (-branch.recall, branch.concepts))
