"""Reading WordNet, and the graph of classes and their hypernyms."""

import pytest

from graph.wordnet import (
    DEBIAN,
    LEAVES,
    NOUN_FILE,
    ClassList,
    leaf_names,
    make_graph,
    read_nouns,
)
from mll_hf.errors import InputError
from wordnet_worlds import LICENSE

# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "hello\n",
        "00000001 05 n zz word 0 000 | gloss\n",
        "00000001 05 n 02 word 0 000 | too few words\n",
        "00000001 05 n 01 word 0 003 @ 00000002 n 0000 | too few pointers\n",
        "1 05 n 01 word 0 000 | a short offset\n",
        "00000001 05 n 00 000 | no words\n",
        "\n",
    ],
)
def test_a_file_in_another_format_is_refused(tmp_path, line):
    (tmp_path / NOUN_FILE).write_text(LICENSE + line)
    with pytest.raises(InputError, match="is not in WordNet's format"):
        read_nouns(tmp_path)


# --- the graph --------------------------------------------------------------------------------------------------------


needs_debian = pytest.mark.skipif(not (DEBIAN / NOUN_FILE).exists(), reason="Debian's wordnet-base is not installed")


@pytest.fixture(scope="module")
def real_nouns():
    return read_nouns()


@needs_debian
@pytest.mark.parametrize(
    ("classes", "leaves", "concepts", "edges"),
    [("imagenet-1k", 1000, 1860, 1937), ("imagenet-12k", 11828, 13643, 14005), ("imagenet-21k", 21844, 23548, 24050)],
)
def test_the_real_wordnet(classes, leaves, concepts, edges, real_nouns):
    assert classes in LEAVES
    names = leaf_names(ClassList(classes))
    visual = make_graph("real", names, real_nouns)
    graph = visual.graph
    assert (len(visual.leaves), len(graph), sum(map(len, graph.parents))) == (leaves, concepts, edges)
    assert visual.missing == ()
    assert [c.name for c in graph.concepts if not c.hypernyms] == ["entity"]
    assert all(graph.concepts[graph.index[wnid]].lemmas == lemmas for wnid, lemmas in names.items())
    corgi = graph.index["n02113023"]
    above = {graph.concepts[v].name for v in graph.ancestors[corgi]}
    assert above >= {"corgi", "dog", "canine", "carnivore", "mammal", "animal", "organism", "physical entity", "entity"}
    assert graph.concepts[corgi].definition.startswith("the smaller and straight-legged variety of corgi")
