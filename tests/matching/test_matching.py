"""Classes to concepts: the paper's Z against a naive loop, which concept comes first, and the coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.matching import concept_index as matching
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.matching.describe import Description, from_templates
from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder
from mll_hf.models.published import published_graph
from selection_worlds import WordEncoder, forest
from worlds import examples

# indices in the order of the ids: animal 0, dog 1, corgi 2, cat 3, car 4, truck 5
GRAPH = SemanticGraph(
    "matching",
    (
        Concept("a", ("animal", "beast"), "a living thing that moves", ()),
        Concept("b", ("dog", "domestic dog", "Canis familiaris"), "an animal that barks", ("a",)),
        Concept("c", ("corgi",), "a dog with short legs", ("b",)),
        Concept("d", ("cat", "true cat"), "an animal that meows", ("a",)),
        Concept("e", ("car", "motor-car"), "a machine with four wheels", ()),
        Concept("f", ("truck", "lorry"), "a machine that carries loads", ()),
    ),
)
NAMED = np.float32(0.85)  # minimum for a class named like a concept, in its usual sense


def describe(*names):
    return tuple(Description(name, (f"The photo of {name}",), "template") for name in names)


def cosine(a, b):
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


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


def test_a_user_description_decides_between_senses():
    graph = SemanticGraph(
        "cranes",
        (
            Concept("a", ("crane",), "a machine that lifts heavy loads", ()),
            Concept("b", ("crane",), "a large long-necked wading bird", ()),
        ),
    )
    index = ConceptIndex.build(graph, WordEncoder())
    for source, best in (("file", 1), ("llm", 1), ("gloss", 0)):
        said = "a machine that lifts heavy loads" if source == "gloss" else "a wading bird with a large wingspan"
        match = index.match([Description("crane", (said,), source)])
        assert (match.concepts[0, 0] == best) or source == "gloss"
    # Words in parentheses decide too.
    names = describe("crane (bird)", "crane (machine)", "lifting crane machine", "wading crane")
    assert index.match(names).concepts[:, 0].tolist() == [1, 0, 0, 1]


def test_a_concept_with_the_name_of_the_class_comes_first():
    descriptions = [Description("lorry", ("an animal that barks",), "file")]  # described as another concept
    match = ConceptIndex.build(GRAPH, WordEncoder()).match(descriptions)
    assert GRAPH.concepts[match.concepts[0, 0]].name == "truck"
    assert match.weights[0, 0] > 0.9
    assert match.coverage[0] >= NAMED
    captions_only = ConceptIndex.build(GRAPH, WordEncoder()).match_captions(descriptions)
    assert GRAPH.concepts[captions_only.concepts[0, 0]].name == "dog"


def test_classes_that_share_a_concept_share_its_coverage():
    # The graph has trucks, but not these kinds of trucks.
    index = ConceptIndex.build(GRAPH, WordEncoder())
    kinds = ["fire truck", "tow truck", "dump truck", "moving truck"]
    alone = [float(index.match(describe(name)).coverage[0]) for name in kinds]
    together = index.match(describe(*kinds))
    assert [GRAPH.concepts[v].name for v in together.concepts[:, 0]] == ["truck"] * 4
    np.testing.assert_allclose(together.coverage, np.array(alone) / 4, rtol=1e-5)
    # A class with the name of the concept shares only with others that have a name of it.
    named = [index.match(describe(name)).coverage[0] for name in ("truck", "lorry")]
    np.testing.assert_allclose(index.match(describe("truck", *kinds)).coverage[0], named[0])
    both = index.match(describe("truck", "lorry", *kinds)).coverage[:2]
    np.testing.assert_allclose(both, np.array(named) / 2)


@pytest.fixture(scope="module")
def published():
    return ConceptIndex.build(published_graph(), CachedEncoder(DefaultEncoder()))


@pytest.mark.parametrize(
    "names",
    [
        ["alpaca", "deer", "roses", "oysters", "trench"],  # alp, deerhound, rose hip, oystercatcher, trench coat
        [str(digit) for digit in range(10)],  # 1 pointer, 2 bobsled
        ["zero", "one", "two", "three"],
        list("abcdefghij"),
        [f"letter {letter}" for letter in "ABCXYZ"],
        ["Hund", "Katze", "Pferd"],
        ["asdfqw", "qwerty"],
        ["melanoma", "nevus", "basal cell carcinoma"],
    ],
)
def test_names_that_are_parts_of_others_or_of_no_concept_are_not_covered(published, names):
    match = published.match(from_templates(names, published.graph))
    assert match.coverage.max() < matching.COVERED / 2


def test_the_rare_sense_of_a_name_is_not_covered(published):
    names = ["mouse", "stop", "complex", "heart", "dog", "laptop", "zebra"]
    coverage = dict(zip(names, published.match(from_templates(names, published.graph)).coverage, strict=True))
    assert max(coverage["mouse"], coverage["complex"], coverage["stop"], coverage["heart"]) < matching.COVERED
    assert min(coverage["dog"], coverage["laptop"], coverage["zebra"]) >= NAMED


def test_latin_names_are_covered_if_they_are_those_of_a_concept(published):
    names = ["Danaus plexippus", "Vanessa atalanta", "Papilio machaon"]
    coverage = published.match(from_templates(names, published.graph)).coverage
    assert (coverage >= matching.COVERED).tolist() == [True, False, False]
