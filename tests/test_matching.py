"""Classes to concepts: the paper's Z against a naive loop, our weights and the coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.describe import Description, from_templates
from mll_hf.graph import Concept, SemanticGraph
from mll_hf.matching import ConceptIndex, _best
from selection_worlds import WordEncoder, forest
from worlds import examples

# indices in the order of the ids: animal 0, dog 1, corgi 2, cat 3, car 4, truck 5
GRAPH = SemanticGraph(
    "matching",
    (
        Concept("a", "animal", ("animal", "beast"), "a living thing that moves", ()),
        Concept("b", "dog", ("dog", "domestic dog", "Canis familiaris"), "an animal that barks", ("a",)),
        Concept("c", "corgi", ("corgi",), "a dog with short legs", ("b",)),
        Concept("d", "cat", ("cat", "true cat"), "an animal that meows", ("a",)),
        Concept("e", "car", ("car", "motor-car"), "a machine with four wheels", ()),
        Concept("f", "truck", ("truck", "lorry"), "a machine that carries loads", ()),
    ),
)


def describe(*names):
    return tuple(Description(name, (f"The photo of {name}",), "template") for name in names)


def cosine(a, b):
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


class Table:
    """An encoder that looks texts up in a table of vectors."""

    id = "table"

    def __init__(self, **vectors):
        self.vectors = vectors

    def encode(self, texts):
        rows = np.array([self.vectors[text] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@examples
@given(n_concepts=st.integers(1, 20), n_classes=st.integers(1, 6), seed=st.integers(0, 1000))
def test_captions_are_matched_as_in_the_paper(n_concepts, n_classes, seed):
    graph, encoder = forest(n_concepts, seed), WordEncoder()
    descriptions = [
        Description(f"class{y}", (f"meaning {y + seed} of things", f"word{y}"), "template") for y in range(n_classes)
    ]
    match = ConceptIndex.build(graph, encoder).match_captions(descriptions)

    captions = [encoder.encode([f"{c.name} which is {c.definition}"])[0] for c in graph.concepts]
    for y, description in enumerate(descriptions):
        total = sum(encoder.encode([text])[0].astype(float) for text in description.texts)
        mean = total / math.sqrt(cosine(total, total))
        naive = {v: cosine(mean, captions[v]) for v in range(n_concepts)}
        five = sorted(naive, key=lambda v: -naive[v])[:5]
        assert match.concepts[y].tolist() == five
        np.testing.assert_allclose(match.weights[y], [naive[v] for v in five], atol=1e-5)

        # z_vy is the raw cosine for the class's five concepts and 0 for all others of V_sel
        for row, v in enumerate(match.selected.tolist()):
            assert match.transition[row, y] == pytest.approx(naive[v] if v in five else 0, abs=1e-5)
    assert match.selected.tolist() == sorted({v for row in match.concepts.tolist() for v in row})
    assert match.transition.shape == (len(match.selected), n_classes)


def test_transition_by_hand():
    # d_y lies between the captions of u and v: cos(45 degrees) = .70711; w is opposite to u: cos = -.70711
    graph = SemanticGraph("hand", tuple(Concept(name, name, (name,), "x", ()) for name in ("u", "v", "w")))
    table = {"u which is x": (1, 0), "v which is x": (0, 1), "w which is x": (-1, 0), "u": (1, 0), "v": (0, 1)}
    table |= {"w": (-1, 0), "text 1": (1, 0), "text 2": (0, 1), "y": (0, -1)}
    match = ConceptIndex.build(graph, Table(**table)).match_captions(
        [Description("y", ("text 1", "text 2"), "file")], top=2
    )
    assert match.concepts.tolist() == [[0, 1]]
    np.testing.assert_allclose(match.transition, [[0.70711], [0.70711]], atol=1e-5)
    whole = ConceptIndex.build(graph, Table(**table)).match_captions([Description("y", ("text 1", "text 2"), "file")])
    np.testing.assert_allclose(whole.transition, [[0.70711], [0.70711], [-0.70711]], atol=1e-5)


def test_our_similarity_and_weights_by_hand():
    # Concept u: caption cosine .6, names .8 and 0 -> best name .8, mean .7.
    # Concept v: caption cosine 1, name .2 -> mean .6.
    # Weights: softmax of (.7, .6) / .05, so 1 : e^-2, which is .880797 : .119203.
    graph = SemanticGraph("hand", (Concept("u", "u", ("u", "u2"), "x", ()), Concept("v", "v", ("v",), "x", ())))
    table = {"u which is x": (0.6, 0.8), "v which is x": (1, 0), "text": (1, 0), "y": (1, 0)}
    table |= {"u": (0, 1), "u2": (0.8, 0.6), "v": (0.2, math.sqrt(0.96))}
    match = ConceptIndex.build(graph, Table(**table)).match([Description("y", ("text",), "file")])
    assert match.concepts.tolist() == [[0, 1]]
    np.testing.assert_allclose(match.similarities, [[0.7, 0.6]], atol=1e-6)
    np.testing.assert_allclose(match.weights, [[0.880797, 0.119203]], atol=1e-5)


@examples
@given(n_concepts=st.integers(1, 25), seed=st.integers(0, 1000))
def test_our_match_against_a_naive_loop(n_concepts, seed):
    graph, encoder = forest(n_concepts, seed), WordEncoder()
    names = [f"name{seed % n_concepts}x0", "meaning 1", "something else"]
    match = ConceptIndex.build(graph, encoder).match(describe(*names))
    for y, name in enumerate(names):
        text, title = encoder.encode([f"The photo of {name}", name])
        similarity, named = [], []
        for concept in graph.concepts:
            lemmas = [cosine(title, encoder.encode([lemma])[0]) for lemma in concept.lemmas]
            caption = cosine(text, encoder.encode([f"{concept.name} which is {concept.definition}"])[0])
            similarity.append((caption + max(lemmas)) / 2)
            named.append(name in concept.lemmas)
        ranked = sorted(range(n_concepts), key=lambda v: -(similarity[v] + named[v]))[:8]
        assert match.concepts[y].tolist() == ranked
        exponentials = [math.exp((similarity[v] + named[v]) / 0.05) for v in ranked]
        np.testing.assert_allclose(match.weights[y], np.array(exponentials) / sum(exponentials), atol=1e-4)
        np.testing.assert_allclose(match.similarities[y], [similarity[v] for v in ranked], atol=1e-5)
    np.testing.assert_allclose(match.weights.sum(axis=1), 1, atol=1e-6)
    assert (np.diff(match.weights, axis=1) <= 0).all()


def test_a_concept_with_the_name_of_the_class_comes_first():
    descriptions = [Description("lorry", ("an animal that barks",), "file")]  # described as another concept
    match = ConceptIndex.build(GRAPH, WordEncoder()).match(descriptions)
    assert GRAPH.concepts[match.concepts[0, 0]].name == "truck"
    assert match.weights[0, 0] > 0.99
    assert match.coverage[0] == 1
    captions_only = ConceptIndex.build(GRAPH, WordEncoder()).match_captions(descriptions)
    assert GRAPH.concepts[captions_only.concepts[0, 0]].name == "dog"


@pytest.mark.parametrize("name", ["Domestic_Dog", "canis familiaris", "001.domestic-dog", "motor car", "MOTOR-CAR"])
def test_names_are_compared_in_any_spelling(name):
    assert ConceptIndex.build(GRAPH, WordEncoder()).match(describe(name)).coverage.tolist() == [1.0]


def test_coverage_is_low_for_what_the_graph_does_not_have():
    index = ConceptIndex.build(GRAPH, WordEncoder())
    for match in (index.match, index.match_captions):
        named, near, *nonsense = match(describe("lorry", "Canis familiaris dog", "zxqv", "qqq www")).coverage.tolist()
        assert named == 1
        assert max(nonsense) < near <= 1
        assert min(nonsense) >= 0


def test_coverage_by_hand():
    # Captions and names at 0, 30 and 90 degrees, all roots. Nearest other concept: of u and v each other, cos 30 =
    # .866; of w v, cos 60 = .5. So strangers are at .5, .866, .866. Classes at 90 + 50, 15 and 90 degrees are at cos 50
    # = .643 (one of three strangers is below: 2/3 - 1 < 0, so 0), cos 15 = .966 (all three: 1) and cos 0 (1).
    def at(degrees):
        return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    graph = SemanticGraph("hand", tuple(Concept(name, name, (name,), "x", ()) for name in ("u", "v", "w")))
    table = {"far": at(140), "near": at(15), "same": at(90)}
    for name, degrees in (("u", 0), ("v", 30), ("w", 90)):
        table |= {name: at(degrees), f"{name} which is x": at(degrees)}
    index = ConceptIndex.build(graph, Table(**table))
    match = index.match([Description(name, (name,), "file") for name in ("far", "near", "same")])
    np.testing.assert_allclose(match.coverage, [0, 1, 1], atol=1e-6)


@pytest.mark.parametrize("n_concepts", [1, 2, 5])
def test_a_graph_without_strangers_covers_only_what_it_names(n_concepts):
    # in a chain every concept is a relative of every other
    chain = SemanticGraph(
        "chain",
        tuple(Concept(f"c{v}", f"n{v}", (f"n{v}",), "x", (f"c{v - 1}",) if v else ()) for v in range(n_concepts)),
    )
    match = ConceptIndex.build(chain, WordEncoder()).match(describe("n0", "nonsense"))
    assert match.coverage.tolist() == [1, 0]


def test_relatives_are_no_strangers():
    # Were cat and "true cat" strangers, nonsense half as near would look uncovered; they are relatives.
    graph = SemanticGraph(
        "family",
        (
            Concept("a", "cat", ("cat",), "meows", ()),
            Concept("b", "cat", ("cat",), "meows", ("a",)),
            Concept("c", "car", ("car",), "drives", ()),
        ),
    )
    index = ConceptIndex.build(graph, WordEncoder())
    assert index._strangers.max() < 0.9


@examples
@given(seed=st.integers(0, 1000), order=st.permutations(range(4)))
def test_permuted_classes_give_permuted_matches(seed, order):
    graph = forest(15, seed)
    names = ["name3x0", "meaning 2", "of things", "zxqv"]
    index = ConceptIndex.build(graph, WordEncoder())
    for matcher in (index.match, index.match_captions):
        match, permuted = matcher(describe(*names)), matcher(describe(*(names[y] for y in order)))
        assert permuted.classes == tuple(names[y] for y in order)
        np.testing.assert_array_equal(permuted.concepts, match.concepts[order])
        np.testing.assert_allclose(permuted.weights, match.weights[order], atol=1e-4)
        np.testing.assert_allclose(permuted.coverage, match.coverage[order], atol=1e-6)
        np.testing.assert_array_equal(permuted.selected, match.selected)


@examples
@given(
    rows=st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=4), top=st.integers(1, 9)
)
def test_the_best_come_first_and_ties_by_index(rows, top):
    best = _best(np.array(rows, np.float32), top)
    assert best.tolist() == [sorted(range(7), key=lambda v: (-row[v], v))[: min(top, 7)] for row in rows]


def test_gloss_descriptions_find_their_concept():
    index = ConceptIndex.build(GRAPH, WordEncoder())
    descriptions = from_templates(["cat", "true cat", "corgis", "car"], GRAPH)
    for match in (index.match(descriptions), index.match_captions(descriptions)):
        assert [GRAPH.concepts[v].name for v in match.concepts[:, 0]] == ["cat", "cat", "corgi", "car"]
        assert match.encoder == "words"
