"""Several graphs as one, against a plain version on dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.errors import GraphError
from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.graph.union import GraphUnion
from worlds import examples, make_graph, naive_ancestors


@st.composite
def families(draw):
    """Parts of one hierarchy as graphs of their own: texts differ, hypernyms may be in another part or in none."""
    count = draw(st.integers(1, 7))
    ids = draw(st.permutations([f"c{i}" for i in range(count)]))
    graphs = []
    for number in range(draw(st.integers(1, 4))):
        own = draw(st.lists(st.sampled_from(ids), unique=True, min_size=1))
        concepts = []
        for id in own:
            above = st.sampled_from(["elsewhere", *ids[: ids.index(id)]])
            lemmas = draw(st.lists(st.sampled_from("uvw"), unique=True, min_size=1))
            concepts.append(Concept(id, lemmas[0], tuple(lemmas), f"gloss {number}", tuple(draw(st.lists(above)))))
        graphs.append(SemanticGraph(f"g{number}", tuple(concepts)))
    return graphs


@examples
@given(families())
def test_union_agrees_with_dictionaries(graphs):
    union = GraphUnion.of(graphs)
    of = {}
    for graph in graphs:
        for concept in graph.concepts:
            of.setdefault(concept.id, []).append(concept)
    assert [c.id for c in union.graph.concepts] == sorted(of)
    hypernyms = {}
    for concept in union.graph.concepts:
        same = of[concept.id]
        lemmas = [lemma for each in same for lemma in each.lemmas]
        assert (concept.name, concept.definition) == (same[0].name, same[0].definition)
        assert concept.lemmas == tuple(sorted(set(lemmas), key=lemmas.index))
        assert set(concept.hypernyms) == {h for each in same for h in each.hypernyms}
        hypernyms[concept.id] = [h for h in concept.hypernyms if h in of]
    assert union.graph.external == {h for c in union.graph.concepts for h in c.hypernyms} - of.keys()
    for v, concept in enumerate(union.graph.concepts):
        above = naive_ancestors(hypernyms, concept.id)
        assert {union.graph.concepts[a].id for a in union.graph.ancestors[v]} == above
    for graph, rows in zip(graphs, union.rows, strict=True):
        for u, concept in enumerate(union.graph.concepts):
            assert rows[u] == graph.index.get(concept.id, -1)
    assert union.rows.dtype == np.int32
    assert union.graph.name == " + ".join(graph.name for graph in graphs)


def test_a_cycle_across_graphs_names_them():
    one, other = make_graph({"a": ("b",)}, "one"), make_graph({"b": ("a",)}, "other")
    with pytest.raises(GraphError, match="one and other cannot be used together: the hypernyms form a cycle"):
        GraphUnion.of([one, other])
