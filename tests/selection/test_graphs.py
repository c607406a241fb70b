"""Selection by labels on several graphs: against naive loops, by hand, and that order changes nothing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.labels.counts import RANK_BINS, mean_chance_to_win, recall_among
from mll_hf.selection import Candidates, SelectionConfig, Strategy, select
from mll_hf.selection.mll import concept_weights, estimated_recall, mll_scores
from mll_hf.selection.paper import precision_from_label, restricted_precision
from selection_worlds import join_by_hand, make_match, random_joined
from worlds import examples, make_graph, make_label, make_rivals

DOMAINS = {None: (), "photo": ("photo",), "a pencil sketch": ("sketch",), "icons": ("icon",),
           "photo or icon": ("photo", "icon")}  # fmt: skip


worlds = st.builds(
    random_joined,
    n_graphs=st.integers(1, 3),
    n_models=st.integers(1, 6),
    n_classes=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    domain=st.sampled_from(list(DOMAINS)),
)


# --- our scores against naive loops -----------------------------------------------------------------------------------


class NaiveGraph:
    """What labels of M models on one graph say among n candidates, concept by concept."""

    def __init__(self, graph, labels, n_candidates):
        self.graph, self.labels, self.n = graph, labels, n_candidates
        self.rivals = [len(graph) - 1 - len(graph.relatives(v)) for v in range(len(graph))]

    def level(self, m):
        """Mean over tested concepts; an image of any is won with the mean chance over concepts with rivals."""
        label = self.labels[m]
        tested = [v for v in range(len(self.graph)) if label.ranks[v].sum()]
        chances = mean_chance_to_win(np.array(self.rivals), self.n)
        won = [sum(label.ranks[v] * chances) / label.ranks[v].sum() for v in tested]
        return sum(won) / len(tested) if tested else 0.0

    def recall(self, m, v):
        """Expected recall among n candidates, shrunk by 10 images towards the hypernyms, above these the level."""
        label, n_rivals = self.labels[m], self.rivals[v]
        won = 0.0
        for b, count in enumerate(label.ranks[v].tolist()):
            drawn = min(self.n - 1, n_rivals)
            in_bin = [r for r in range(2 ** (b - 1) if b else 0, 2**b if b else 1) if r <= n_rivals]
            chances = [math.comb(n_rivals - r, drawn) / math.comb(n_rivals, drawn) for r in in_bin]
            won += count * (sum(chances) / len(chances) if chances else 0)
        parents = [self.graph.index[h] for h in self.graph.concepts[v].hypernyms if h in self.graph.index]
        prior = sum(self.recall(m, u) for u in parents) / len(parents) if parents else self.level(m)
        return (won + 10 * prior) / (label.support[v] + 10)

    def without_label(self, general):
        """Expected recall of each model without a label, and how far such a guess is from the truth on average."""
        known = [m for m, label in enumerate(self.labels) if label is not None]
        if not known or len(known) == len(self.labels):
            return general, 0.0

        def logit(p):
            p = min(max(p, 1e-3), 1 - 1e-3)
            return math.log(p / (1 - p))

        shift = min(0.0, sum(logit(self.level(m)) - logit(general[m]) for m in known) / len(known))
        guesses = [1 / (1 + math.exp(-logit(p) - shift)) if shift else p for p in general]  # no clipping without shift
        if len(known) == 1:
            return guesses, math.sqrt(1 / 12)
        return guesses, math.sqrt(sum((guesses[m] - self.level(m)) ** 2 for m in known) / (len(known) - 1))


def naive_scores(candidates, class_weight):
    """[M, C] scores and [M, 2] standard errors from the docstrings of `mll_hf.selection.mll`."""
    labels, match, union = candidates.labels, candidates.match, candidates.labels.union
    n_models, n_classes = len(labels), len(match.classes)
    n = max(n_classes, 2)
    everything = [label for row in labels.labels for label in row if label]
    named = {name for label in everything for name in label.domain_names} & set(DOMAINS[candidates.domain])
    domain = named.pop() if len(named) == 1 else None

    def counts(g):
        return g == 0 or domain is None or any(
            label.domain_ranks[label.domain_names.index(domain)].any()
            for label in labels.on_graph(g) if label and domain in label.domain_names
        )  # fmt: skip

    graphs = [NaiveGraph(graph, labels.on_graph(g), n) for g, graph in enumerate(union.graphs) if counts(g)]
    reference = graphs[0]
    general = [reference.level(m) for m in range(n_models)]

    # recall, images and standard error of every model on every concept
    recall, images, spread = ({} for _ in range(3))
    for v in {int(v) for row in match.concepts for v in row}:
        having = [(of, of.graph.index[union.graph.concepts[v].id]) for of in graphs
                  if union.graph.concepts[v].id in of.graph.index]  # fmt: skip
        for m in range(n_models):
            bodies = [(of.recall(m, u), of.labels[m].support[u] + 10)
                      for of, u in having if of.labels[m] is not None]  # fmt: skip
            guesses = [of.without_label(general) for of, _ in having]
            images[m, v] = sum(weight for _, weight in bodies)
            spread[v] = max((error for _, error in guesses), default=0.0)
            if bodies:
                recall[m, v] = sum(p * weight for p, weight in bodies) / images[m, v]
            elif having:
                recall[m, v] = sum(guess[m] for guess, _ in guesses) / len(guesses)
        spread.setdefault(v, 0.0)

    shares = [
        {int(v): float(w) / sum(map(float, weights)) for v, w in zip(concepts, weights, strict=True)}
        for concepts, weights in zip(match.concepts, match.weights, strict=True)
    ]
    plain, errors = np.zeros((n_models, n_classes)), np.zeros((n_models, 2))
    for m, label in enumerate(labels.reference):
        ratio = 1.0
        if domain in label.domain_names:
            chances = mean_chance_to_win(np.array(reference.rivals), n)
            of_domain = label.domain_ranks[label.domain_names.index(domain)]
            overall = float(recall_among(label.domain_ranks.sum(axis=0), chances))
            if 0 < overall < 1:
                shifted = (of_domain @ chances + 10 * overall) / (of_domain.sum() + 10)
                ratio = shifted / (1 - shifted) / (overall / (1 - overall))
        per_concept = dict.fromkeys(spread, 0.0)
        for y, coverage in enumerate(match.coverage.tolist()):
            p, covered = 0.0, 0.0
            for v in spread:
                own = shares[y].get(v, 0.0)
                mean = sum(of_class.get(v, 0.0) for of_class in shares) / n_classes
                weight = coverage * (class_weight * own + (1 - class_weight) * mean)
                if (m, v) in recall:
                    p, covered = p + weight * recall[m, v], covered + weight
                    per_concept[v] += weight / n_classes
            p = min(max(p + (1 - covered) * general[m], 0), 1)
            plain[m, y] = ratio * p / (1 - p + ratio * p)
        variance = sum(w**2 * recall[m, v] * (1 - recall[m, v]) / images[m, v]
                       for v, w in per_concept.items() if images[m, v])  # fmt: skip
        guessed = sum(w * spread[v] for v, w in per_concept.items() if not images[m, v])
        errors[m] = math.sqrt(variance), guessed

    best = min(range(n_models), key=lambda m: (-labels.reference[m].mean_recall, labels.reference[m].cost.gflops))
    lowered, means, unsure = plain.copy(), plain.mean(axis=1), []
    for m in range(n_models):
        measured = math.hypot(errors[m][0], errors[best, 0])
        if means[m] - max(math.hypot(5 * measured, errors[m][1]), 0.03) > means[best] + 2e-9:
            lowered[m] *= (means[m] - math.hypot(measured, errors[m][1])) / means[m]
        elif m != best:
            unsure.append(m)
    if unsure and max(means[unsure]) > means[best] + 1e-9:
        lowered[unsure] *= max(means[best] - 2e-9, 0) / max(means[unsure])
    return lowered, errors


@examples
@given(candidates=worlds, class_weight=st.floats(0, 1))
def test_our_scores_against_naive_loops(candidates, class_weight):
    scores, errors = naive_scores(candidates, class_weight)
    np.testing.assert_allclose(mll_scores(candidates, class_weight), scores, atol=1e-9)
    _, estimated = estimated_recall(candidates, class_weight)
    np.testing.assert_allclose(estimated, errors, atol=1e-9)


# --- the paper's Eq. 5 over several graphs ----------------------------------------------------------------------------


def test_the_paper_from_labels_on_two_graphs_by_hand():
    # "b" is in both graphs, of 10 images .8 are recognized on one and of 30 images .4 on the other; nothing is lost to
    # another selected concept, and all rivals of its graphs take part, so these are the estimates: .5 together. "c" is
    # on the second graph only; a model without a label there gets its mean on "a" and "b".
    first, second = make_graph({"a": (), "b": ()}, "first"), make_graph({"b": (), "c": ()}, "second")
    on_first = [make_label(first, [8, 8], 10, repo_id=f"org/{name}") for name in "xy"]
    on_second = [make_label(second, [12, 6], 30, repo_id="org/x"), None]
    joined = join_by_hand((first, on_first), (second, on_second)).with_rivals(lambda label: make_rivals(label, {}))
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
from selection_worlds import LABEL_STRATEGIES, random_candidates, random_joined, with_twins
from mll_hf.selection import SelectionConfig, select

worlds = [random_joined(n_graphs, 13, 7, n_graphs, "photo") for n_graphs in (1, 2, 3)]
worlds.append(random_candidates(n_concepts=300, n_models=21, n_classes=37))
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
