"""What a model is good at and what not, by branches of the graph."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.labels.branches import branch_recalls
from worlds import dags, examples, make_graph, make_label


@examples
@given(data=st.data())
def test_branches_are_large_and_apart(data):
    graph = make_graph(data.draw(dags(max_size=40)))
    support = np.array(data.draw(st.lists(st.sampled_from([0, 4, 4, 4]), min_size=len(graph), max_size=len(graph))))
    hits = np.array([data.draw(st.integers(0, int(n))) for n in support])
    label = make_label(graph, hits, support)
    branches = branch_recalls(label, graph)
    assert [b.recall for b in branches] == sorted((b.recall for b in branches), reverse=True)
    tested_below = {
        v: [u for u in range(len(graph)) if v in graph.ancestors[u] and support[u]] for v in range(len(graph))
    }
    large = {v for v, below in tested_below.items() if len(below) >= 10}
    expected = {v for v in large if not large & set(graph.descendants[v].tolist())}
    assert {b.name for b in branches} == {graph.concepts[v].name for v in expected}
    for branch in branches:
        below = tested_below[graph.index[branch.name]]
        assert branch.concepts == len(below)
        assert branch.recall == pytest.approx(np.mean([hits[u] / support[u] for u in below]))
