from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.errors import GraphError
from mll_hf.graph.concepts import Concept, GraphUnion, SemanticGraph, graph_from_json, graph_to_bytes, load_graph
from mll_hf.utils.text import printable
from worlds import CORGI, dags, examples, make_graph, naive_ancestors

# ---- the graph as a value


@examples
@given(dags())
def test_relatives_agree_with_a_naive_search(hypernyms):
    graph = make_graph(hypernyms)
    ids = [c.id for c in graph.concepts]
    above = {c: naive_ancestors(hypernyms, c) for c in ids}
    for v, concept in enumerate(ids):
        below = {other for other in ids if concept in above[other]}
        assert [ids[u] for u in graph.ancestors[v]] == sorted(above[concept])
        assert [ids[u] for u in graph.descendants[v]] == sorted(below)
        assert graph.rival_counts[v] == len(ids) - 1 - len(above[concept] | below)
        assert [ids[u] for u in graph.parents[v]] == sorted(set(hypernyms[concept]))


def test_hypernyms_may_be_in_another_graph():
    own = {"letter": ("symbol",), "a": ("letter",), "b": ("letter", "thing")}
    graph, same_edges = make_graph(own), make_graph({"letter": (), "a": ("letter",), "b": ("letter",)})
    assert graph.external == {"symbol", "thing"}
    assert same_edges.external == make_graph().external == frozenset()
    assert graph.parents == same_edges.parents
    assert graph.topological_order == same_edges.topological_order
    assert [a.tolist() for a in graph.ancestors] == [a.tolist() for a in same_edges.ancestors]
    assert graph.rival_counts.tolist() == [1, 1, 0]
    assert graph.digest != same_edges.digest
    assert graph_from_json(json.loads(graph_to_bytes(graph))) == graph


# ---- digest


@examples
@given(dags(), st.randoms(use_true_random=False))
def test_digest_does_not_depend_on_any_order(hypernyms, random):
    document = json.loads(graph_to_bytes(make_graph(hypernyms)))
    random.shuffle(document["nodes"])
    for node in document["nodes"]:
        node["hypernyms"] = random.sample(node["hypernyms"], len(node["hypernyms"])) + node["hypernyms"][:1]
    assert graph_from_json(document).digest == make_graph(hypernyms).digest


def test_digest_depends_on_everything_but_the_name():
    digests = {make_graph().digest, make_graph(name="other").digest}
    assert len(digests) == 1
    for change in (
        {"id": "corgy"},
        {"names": ["welsh corgi"]},
        {"names": ["corgi", "welsh corgi"]},
        {"gloss": "a dog"},
        {"hypernyms": ["dog"]},
        {"hypernyms": ["dog", "pet", "vehicle"]},
    ):
        document = json.loads(graph_to_bytes(make_graph()))
        document["nodes"][CORGI] |= change
        digests.add(graph_from_json(document).digest)
    assert len(digests) == 7
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_digest_stays_the_same_across_versions():
    # labels name their graph by this digest: if it changes, published labels match no graph
    assert make_graph().digest == "cb805695b660d00f7073bb209603499767476354b58ca0dd2358e848a45b8b77"


# ---- files


@examples
@given(dags(), st.text("aé愛 \n\u202e😀", min_size=1))
def test_round_trip_through_json(hypernyms, text):
    graph = SemanticGraph(text, (*make_graph(hypernyms).concepts, Concept("x", (text, "x"), text, ())))
    again = graph_from_json(json.loads(graph_to_bytes(graph)))
    assert again.concepts == graph.concepts
    assert again.name == printable(text)[:100]
    assert again.digest == graph.digest


# ---- bad input: one clear line each

NODE = {"id": "a", "names": ["a"], "gloss": "g", "hypernyms": []}


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"nodes": []}, "no concepts"),
        ({}, "no list 'nodes'"),
        ({"nodes": {"a": NODE}}, "no list 'nodes'"),
        ({"nodes": [NODE, NODE]}, "duplicate ids: a"),
        ({"nodes": [NODE | {"hypernyms": ["b"]}, NODE | {"id": "b", "hypernyms": ["a"]}]}, "cycle"),
        ({"nodes": ["a"]}, "node 0 has no id"),
        ({"nodes": [NODE, {"names": ["b"]}]}, "node 1 has no id"),
        ({"nodes": [NODE | {"id": 7}]}, "node 0 has no id"),
        ({"nodes": [{"id": "a"}]}, "node a has no names"),
        ({"nodes": [NODE | {"names": [""]}]}, "node a has no names"),
        ({"nodes": [NODE | {"names": ["a", None]}]}, "node a has no names"),
        ({"nodes": [NODE | {"hypernyms": "b"}]}, "node a: 'gloss' must be a text, and 'hypernyms' a list"),
        ({"nodes": [NODE | {"hypernyms": [1]}]}, "node a: 'gloss' must be a text, and 'hypernyms' a list"),
        ({"nodes": [NODE | {"gloss": None}]}, "node a: 'gloss' must be a text"),
        ({"nodes": [NODE | {"gloss": "\ud800"}]}, "invalid Unicode"),
    ],
)
def test_invalid_graphs(tmp_path, document, complaint):
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(document))
    with pytest.raises(GraphError, match=re.escape(complaint)) as caught:
        load_graph(tmp_path)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.place == file


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"nodes": [' + b"9" * 5000 + b"]}"], ids=range(5)
)
def test_invalid_json(tmp_path, content):
    (tmp_path / "graph.json").write_bytes(content)
    with pytest.raises(GraphError, match="cannot be read as JSON") as caught:
        load_graph(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_graph_that_would_fill_the_memory_is_refused():
    n = 5000
    nodes = [{"id": f"{v:05}", "names": ["thing"], "hypernyms": [f"{v - 1:05}"] if v else []} for v in range(n)]
    with pytest.raises(GraphError, match="its 5000 concepts have too many hypernyms"):
        graph_from_json({"nodes": nodes})
    top = graph_from_json({"nodes": nodes[: n // 3]})
    bottom = graph_from_json({"nodes": nodes[n // 3 : 2 * n // 3]})
    with pytest.raises(GraphError, match="cannot be used together: its 3333 concepts have too many hypernyms"):
        GraphUnion.of([top, bottom])
