"""Stems, and where the words of a graph occur."""

import math

import numpy as np
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


def test_word_shares_by_hand():
    # 6 lemmas: "crane" in 2, "bird" in 1, "blue" in none.
    crane, bird, blue = math.log(1 + 6 / 2), math.log(1 + 6 / 1), math.log(1 + 6)
    shares = INDEX.word_shares("the blue crane of a bird")
    total = crane + bird + blue
    expected = [bird / total, (crane + bird) / total, crane / total, 0, 0]
    np.testing.assert_allclose(shares, expected, rtol=1e-6)  # function words weigh nothing
    assert INDEX.word_shares("of the").tolist() == [0] * 5


def test_head_shares_by_hand():
    # 3 of 6 lemmas hold "pepper"?  bell_pepper, sweet pepper, pepper: yes; "bell" 1, "red" none.
    pepper, bell, red = math.log(1 + 6 / 3), math.log(1 + 6), math.log(1 + 6)
    total = pepper + bell + red
    shares = INDEX.head_shares("red bell pepper")
    np.testing.assert_allclose(shares, [0, 0, 0, (bell + pepper) / total, pepper / total], rtol=1e-6)
    assert INDEX.head_shares("bell pepper")[3] == 1
    bird = math.log(1 + 6)
    crane = math.log(1 + 6 / 2)
    np.testing.assert_allclose(INDEX.head_shares("crane (bird)")[1:3], crane / (crane + bird), rtol=1e-6)
    assert INDEX.head_shares("crane pole").tolist() == [0] * 5  # a modifier is no head


def test_a_name_without_words():
    for shares in (INDEX.word_shares("???"), INDEX.head_shares("???")):
        assert shares.tolist() == [0] * 5
