"""Selection by labels on several graphs: by hand, and that order changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mll_hf.labels.counts import RANK_BINS
from mll_hf.selection import Candidates, SelectionConfig, Strategy, select
from mll_hf.selection.mll import concept_weights, mll_scores
from mll_hf.selection.paper import precision_from_label, restricted_precision
from selection_worlds import join_by_hand, make_match
from worlds import make_graph, make_label, make_rivals

# --- the paper's Eq. 5 over several graphs ----------------------------------------------------------------------------


def test_the_paper_from_labels_on_two_graphs_by_hand():
    # "b" is in both graphs, of 10 images .8 are recognized on one and of 30 images .4 on the other; nothing is lost to
    # another selected concept, and all rivals of its graphs take part, so these are the estimates: .5 together. "c" is
    # on the second graph only; a model without a label there gets its mean on "a" and "b".
    first, second = make_graph({"a": (), "b": ()}, "first"), make_graph({"b": (), "c": ()}, "second")
    on_first = [make_label(first, [8, 8], 10, repo_id=f"org/{name}") for name in "xy"]
    on_second = [make_label(second, [12, 6], 30, repo_id="org/x"), None]
    joined = join_by_hand((first, on_first), (second, on_second)).read_rivals(lambda label: make_rivals(label, {}))
    candidates = Candidates(joined, make_match([[0, 1, 2]], [[1, 1, 1]]))
    np.testing.assert_allclose(restricted_precision(candidates), [[0.8, 0.5, 0.2], [0.8, 0.8, 0.8]])


# --- two graphs by hand -----------------------------------------------------------------------------------------------

ANIMALS = make_graph({"a": (), "c": ()}, "animals")
PARTS = make_graph({"b": ("a",), "d": ("a",)}, "parts")  # below "a" of the other graph
A, B, C, D = range(4)


def label_of(graph, ranks, domain, **fields):
    """A label with images by rank [V, <= RANK_BINS], all of one domain."""
    ranks = np.array([[*row, *[0] * (RANK_BINS - len(row))] for row in ranks], np.uint16)
    return make_label(graph, ranks[:, 0], ranks.sum(axis=1), ranks=ranks, domain_names=(domain,), **fields)


ON_ANIMALS = label_of(ANIMALS, [[10], [4, 6]], "photo")
ON_PARTS = label_of(PARTS, [[6, 4], [0, 10]], "icon")


def test_a_graph_is_judged_by_itself():
    # Both graphs have 2 concepts, so of 2 candidates all take part, and what another beat is lost.
    # b: 6 of 10, d: 0 of 10; mean .3, towards which they are shrunk: (6 + 10 * .3) / 20 = .45, (0 + 3) / 20 = .15
    # a: 10 of 10, c: 4 of 10; mean .7; .85 and .55. The hypernym a of b and d is of another graph: it is no prior.
    joined = join_by_hand((ANIMALS, [ON_ANIMALS]), (PARTS, [ON_PARTS]))
    for concepts, expected in (([A, B], [0.85, 0.45]), ([C, D], [0.55, 0.15])):
        candidates = Candidates(joined, make_match([[v] for v in concepts], [[1]] * 2))
        np.testing.assert_allclose(mll_scores(candidates, 1.0), [expected])
    assert precision_from_label(
        ON_PARTS, make_rivals(ON_PARTS), np.array([0, 1]), np.ones(2, np.int32), 5
    ).tolist() == pytest.approx([0.6, 0])


@pytest.mark.parametrize(
    ("domain", "covered"), [("icon", 0.8), ("photo", 0.2), (None, 0.8), ("satellite", 0.8), ("icon, photo", 0.8)]
)
def test_a_graph_without_images_of_the_domain_counts_for_nothing(domain, covered):
    joined = join_by_hand((ANIMALS, [ON_ANIMALS]), (PARTS, [ON_PARTS]))
    candidates = Candidates(joined, make_match([[B, A]], [[3, 1]], coverage=0.8), domain)
    np.testing.assert_allclose(concept_weights(candidates, 0.7)[:, 0], [0.2, 0.6] if covered == 0.8 else [0.2, 0])
    selection = select(candidates, SelectionConfig())
    np.testing.assert_allclose(selection.coverage, [covered])
    assert select(candidates, SelectionConfig(Strategy.GENERAL)).coverage == pytest.approx([0.8])
    # .2 * .85 + .6 * .45 + .2 * .7, or .2 * .85 + .8 * .7; the reference knows photos only, so there are no odds
    np.testing.assert_allclose(selection.scores, [[0.58 if covered == 0.8 else 0.73]])


# --- models without a label on a graph --------------------------------------------------------------------------------

LETTERS = make_graph({"a": ("letter",), "b": ("letter",)}, "letters")
THINGS = make_graph({"cup": (), "dog": ()}, "things")


def on_letters(**models):
    """Models with a general recall and one on letters, which may be None: no label.

    Both graphs have two concepts and the task two classes, so all rivals take part; 1,000 images of each concept.
    """

    def label(graph, name, recall):
        hits = None if recall is None else [round(1000 * recall)] * 2
        return hits and make_label(graph, hits, 1000, repo_id=f"org/{name}")

    columns = [
        (graph, [label(graph, name, recall[g]) for name, recall in models.items()])
        for g, graph in enumerate((THINGS, LETTERS))
    ]
    joined = join_by_hand(*columns)
    return Candidates(joined, make_match([[joined.union.graph.index[id]] for id in "ab"], [[1], [1]]))


def scores_by_name(selection):
    return {model.ref.short_name: mean for model, mean in zip(selection.models, selection.overall, strict=True)}


OTHERS = {f"other{i}": (0.75, 0.25) for i in range(6)}


def test_a_specialist_is_chosen_where_a_graph_is_hard_for_everybody():
    # Logits fall by (6 * (1.0986 + 1.0986) - 1.3291) / 7 = 1.6935: best from .8 (1.3863) to .4238 on letters.
    # The specialist leads by more than its own error, sqrt(2 * .5^2 * .85 * .15 / 1010) = .0079. That best was not
    # measured on letters is no reason to stay with it.
    candidates = on_letters(best=(0.8, None), special=(0.6, 0.85), **OTHERS)
    selection = select(candidates, SelectionConfig(k=2))
    assert [model.ref.short_name for model in selection.models[:2]] == ["special", "best"]
    assert scores_by_name(selection)["best"] == pytest.approx(0.423807, abs=1e-6)
    assert scores_by_name(selection)["special"] == pytest.approx(0.85 - 0.007944, abs=1e-6)


# --- order changes nothing --------------------------------------------------------------------------------------------


SELECT_ALL = """
import json
from selection_worlds import LABEL_STRATEGIES, random_candidates, with_twins
from mll_hf.selection import SelectionConfig, select

worlds = [random_candidates(13, 12, 7, domain="photo"), random_candidates(300, 21, 37)]
print(json.dumps([select(with_twins(world), SelectionConfig(strategy, k=2)).to_json()
                  for world in worlds for strategy in LABEL_STRATEGIES]))
"""


def test_the_kernel_of_the_matrix_product_changes_nothing():
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SELECT_ALL], env=environment | {"OPENBLAS_CORETYPE": kernel}, stdout=subprocess.PIPE
        )
        for kernel in ("Haswell", "Sandybridge")  # these add in different orders
    ]
    for first, second in zip(*(json.loads(run.communicate()[0]) for run in runs), strict=True):
        assert second["chosen"] == first["chosen"]
        for key in ("id", "scores"):
            assert [model[key] for model in second["models"]] == [model[key] for model in first["models"]]
