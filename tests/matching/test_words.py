"""Stems, and where the words of a graph occur."""

import pytest

from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.matching.words import WordIndex, stems

# indices: bird 0, crane (bird) 1, crane (machine) 2, bell pepper 3, pepper 4
GRAPH = SemanticGraph(
    "words",
    (
        Concept("a", "bird", ("bird",), "it has feathers", ()),
        Concept("b", "crane", ("crane",), "it wades", ("a",)),
        Concept("c", "crane", ("crane",), "it lifts", ()),
        Concept("d", "bell_pepper", ("bell_pepper", "sweet pepper"), "a mild pepper", ("e",)),
        Concept("e", "pepper", ("pepper",), "it is hot", ()),
    ),
)
INDEX = WordIndex.build(GRAPH)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bell peppers", "Bell_Pepper"),
        ("church-bells", "church bell"),
        ("foxes, buses", "fox bus"),
        ("grey mice", "gray mouse"),
        ("Geoffroy's monkeys", "geoffroy monkey"),
        ("colour theatre", "color theater"),
        ("ponies", "pony"),
        ("corgis", "corgi"),
        ("firemen", "fireman"),
    ],
)
def test_spellings_of_one_name_have_the_same_stems(one, other):
    assert stems(one) == stems(other)


@pytest.mark.parametrize(("one", "other"), [("glass", "glas"), ("bus", "bu"), ("men", "man")])
def test_a_final_s_that_is_not_a_plural(one, other):
    assert (stems(one) == stems(other)) == (one == "men")


def test_names_in_any_spelling():
    assert INDEX.concepts_named("Crane").tolist() == [1, 2]
    assert INDEX.concepts_named("001.BellPeppers").tolist() == INDEX.concepts_named("bell-pepper").tolist() == [3]
    assert INDEX.concepts_named("belle").tolist() == []
