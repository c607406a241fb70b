"""The union of several graphs. Concepts with the same id are one concept, and hypernyms may be in another graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import GraphError
from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.utils.arrays import read_only

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class GraphUnion:
    """G graphs and their union of U concepts; create it with :meth:`of`.

    Attributes:
        graphs: The graphs, the reference first.
        graph: All their concepts as one graph. A concept in several graphs has the name and gloss of the first one, and
            the lemmas and hypernyms of all.
    """

    graphs: tuple[SemanticGraph, ...]
    graph: SemanticGraph

    @classmethod
    def of(cls, graphs: Sequence[SemanticGraph]) -> GraphUnion:
        """Build the union of graphs, the reference first; a GraphError if their hypernyms form a cycle."""
        if len(graphs) == 1:
            return cls(tuple(graphs), graphs[0])
        merged: dict[str, Concept] = {}
        for concept in (concept for graph in graphs for concept in graph.concepts):
            if first := merged.get(concept.id):
                lemmas = tuple(dict.fromkeys([*first.lemmas, *concept.lemmas]))
                concept = replace(first, lemmas=lemmas, hypernyms=(*first.hypernyms, *concept.hypernyms))
            merged[concept.id] = concept
        try:
            union = SemanticGraph(" + ".join(graph.name for graph in graphs), tuple(merged.values()))
            _ = union.ancestors
        except GraphError as error:
            names = " and ".join(graph.name for graph in graphs)
            raise GraphError(f"{names} cannot be used together: {error}") from None
        return cls(tuple(graphs), union)

    @cached_property
    def rows(self) -> NDArray[np.int32]:
        """[G, U] index of each concept of the union in each graph; -1 for missing concepts."""
        rows = [[graph.index.get(concept.id, -1) for concept in self.graph.concepts] for graph in self.graphs]
        return read_only(np.array(rows, np.int32))
