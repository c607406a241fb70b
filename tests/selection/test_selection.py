"""Selection: the paper's Eq. 5 to 7 against naive loops and by hand, our own scores, the choice, and its JSON form."""

from __future__ import annotations

import copy
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.errors import InputError
from mll_hf.labels.counts import RANK_BINS, RIVALS, chance_to_win, mean_chance_to_win, rank_bin, recall_among
from mll_hf.labels.embeddings import ProbeEmbeddings
from mll_hf.labels.label import Cost
from mll_hf.models.known import usable_models
from mll_hf.selection import (
    Evidence,
    Selection,
    SelectionConfig,
    Strategy,
    choose,
    choose_at_most,
    score,
    select,
    select_by_imagenet,
)
from mll_hf.selection.accuracy import logit, sigmoid
from mll_hf.selection.base import DIGITS, configured
from mll_hf.selection.estimates import imagenet_shift
from mll_hf.selection.evidence import Shares
from mll_hf.selection.mll import (
    best_by_mean_recall,
    domain_odds_ratios,
    graph_query,
    mean_recall_among,
    measure,
    mll_scores,
    penalize_uncertain_leads,
    shrink_to_hypernyms,
    standard_errors,
)
from mll_hf.selection.paper import paper_scores, precision_from_label, restricted_precision
from mll_hf.selection.select import general_scores
from selection_worlds import (
    LABEL_STRATEGIES,
    candidates_on,
    forest,
    join_by_hand,
    make_match,
    random_candidates,
    random_labels,
    random_match,
)
from worlds import (
    ANIMAL,
    CAR,
    CAT,
    CORGI,
    DOG,
    PET,
    VEHICLE,
    examples,
    know_only,
    make_graph,
    make_known,
    make_label,
    probe_set,
    unit,
)

GRAPH = make_graph()


def shrunk_recall(labels, graph, selected, n_candidates):
    """[M, K] shrunk recall on some concepts of one graph."""
    rows = np.full(len(graph), -1, np.int32)
    rows[selected] = selected
    query = graph_query(graph, rows, n_candidates)
    return shrink_to_hypernyms(query, measure(labels, query))[:, np.searchsorted(np.sort(selected), selected)]


worlds = st.builds(
    random_candidates,
    n_concepts=st.integers(1, 15),
    n_models=st.integers(1, 7),
    n_classes=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    domain=st.sampled_from([None, "photo", "a pencil sketch"]),
)


# --- the paper: Eq. 5 -------------------------------------------------------------------------------------------------


def test_eq_5_by_hand():
    # Captions: dog (1, 0), corgi (.8, .6), cat (0, 1). Images: a (.96, .28), b (.8, .6), c (.28, .96), d undecodable.
    #   cosines of a: dog .96, corgi .936, cat .28 -> dog
    #              b: dog .8,  corgi 1,    cat .6  -> corgi
    #              c: dog .28, corgi .8,   cat .96 -> cat
    # X_dog = {a, b}: b goes to corgi, a relative of dog, which competes in the paper: p = 1/2.
    # X_corgi = {b}: p = 1. X_cat = {b, c, d}: b goes to corgi, d does not count: p = 1/2. X_pet = {}: p = 0.
    members = [[], [], [1, 2, 3], [1], [0, 1], [], []]
    texts = unit(np.ones((7, 2)))
    texts[[DOG, CORGI, CAT, PET]] = [[1, 0], [0.8, 0.6], [0, 1], [-1, 0]]
    images = np.array([[0.96, 0.28], [0.8, 0.6], [0.28, 0.96], [np.nan, np.nan]], np.float32)
    embeddings = ProbeEmbeddings.quantize(images, texts, probe_set(members, [DOG, CORGI, CAT, CAT]))

    assert embeddings.restricted_precision(np.array([CAT, CORGI, DOG, PET])).tolist() == [0.5, 1, 0.5, 0]
    # Without corgi in V_sel, b is a dog (.8 against .6): dog has 2/2, cat 1/2.
    assert embeddings.restricted_precision(np.array([CAT, DOG])).tolist() == [0.5, 1]
    # The order of V_sel does not matter.
    assert embeddings.restricted_precision(np.array([DOG, CAT])).tolist() == [1, 0.5]
    assert embeddings.restricted_precision(np.array([CAT])).tolist() == [1]


def naive_eq_5(images, texts, members, selected):
    """p_v = 1/|X_v| sum over x in X_v of 1[v = argmax over u in V_sel of sim(I(x), T(d_u))], word by word."""
    precision = []
    for v in selected:
        hits = 0
        for x in members[v]:
            best, best_similarity = None, -math.inf
            for u in selected:
                similarity = sum(i * t for i, t in zip(images[x], texts[u], strict=True))
                if similarity > best_similarity:
                    best, best_similarity = u, similarity
            hits += best == v
        precision.append(hits / len(members[v]) if members[v] else 0)
    return precision


def random_embeddings(graph, seed):
    """Images [N, D] and captions [V, D] as floats, which concepts the images test, and the stored form."""
    rng = np.random.default_rng(seed)
    texts = unit(rng.standard_normal((len(graph), 6)))
    nodes = np.sort(rng.integers(0, len(graph), 4 * len(graph)))
    images = unit(texts[nodes] + 0.7 * rng.standard_normal((len(nodes), 6)))
    members = [np.flatnonzero((nodes == v) | (rng.random(len(nodes)) < 0.1)).tolist() for v in range(len(graph))]
    return images, texts, members, ProbeEmbeddings.quantize(images, texts, probe_set(members, nodes))


@examples
@given(n_concepts=st.integers(2, 12), seed=st.integers(0, 10_000), size=st.integers(1, 12))
def test_eq_5_against_a_naive_loop(n_concepts, seed, size):
    images, texts, members, embeddings = random_embeddings(forest(n_concepts, seed), seed)
    selected = np.random.default_rng(seed).permutation(n_concepts)[:size]
    stored = embeddings.images * embeddings.scales[:, None].astype(float)
    np.testing.assert_allclose(
        embeddings.restricted_precision(selected),
        naive_eq_5(stored.tolist(), embeddings.concepts.astype(float).tolist(), members, selected.tolist()),
    )
    # the unquantized embeddings say almost the same: an image or two on the border may change sides
    exact = naive_eq_5(images.tolist(), texts.tolist(), members, selected.tolist())
    differing = np.abs(embeddings.restricted_precision(selected) - exact) * [len(members[v]) for v in selected]
    assert differing.sum() <= 2


# --- the paper: Eq. 6 and 7 -------------------------------------------------------------------------------------------


def test_eq_6_and_7_by_hand():
    # V_sel = {car, cat, dog}, no rival of which ever wins, so p is hits / support: car .5, cat .8, dog .2.
    # Z: "pet" has cat .9 and dog .7, "taxi" has car .6 and dog .1; not normalized.
    #   p_pet = .8 * .9 + .2 * .7 = .86    p_taxi = .5 * .6 + .2 * .1 = .32    mean .59
    #   r_pet = .7 * .86 + .3 * .59 = .779    r_taxi = .7 * .32 + .3 * .59 = .401
    label = make_label(GRAPH, hits=[0, 5, 8, 0, 2, 0, 0], rivals={CAR: {CAT: 5}, CAT: {CAR: 2}, DOG: {CAT: 8}})
    match = make_match([[CAT, DOG], [CAR, DOG]], [[0.9, 0.7], [0.6, 0.1]], ["pet", "taxi"])
    candidates = candidates_on(GRAPH, (label,), match)
    np.testing.assert_allclose(restricted_precision(candidates), [[0.5, 0.8, 0.2]])
    np.testing.assert_allclose(paper_scores(candidates, 0.7), [[0.779, 0.401]])
    np.testing.assert_allclose(paper_scores(candidates, 1), [[0.86, 0.32]], atol=1e-7)
    np.testing.assert_allclose(paper_scores(candidates, 0), [[0.59, 0.59]])


@examples
@given(n_concepts=st.integers(2, 10), n_models=st.integers(1, 5), n_classes=st.integers(1, 5), seed=st.integers(0, 999))
def test_the_paper_against_a_naive_loop(n_concepts, n_models, n_classes, seed):
    graph, rng = forest(n_concepts, seed), np.random.default_rng(seed)
    worlds_of = [random_embeddings(graph, seed + m) for m in range(n_models)]
    concepts = [rng.choice(n_concepts, min(5, n_concepts), replace=False) for _ in range(n_classes)]
    match = make_match(concepts, rng.uniform(-0.2, 1, (n_classes, min(5, n_concepts))))
    labels = random_labels(graph, n_models, seed)
    candidates = candidates_on(graph, labels, match, embeddings=tuple(world[3] for world in worlds_of))
    k = int(rng.integers(1, n_models + 1))

    union = sorted({int(v) for row in concepts for v in row})
    r = np.zeros((n_models, n_classes))
    for m, (_, _, members, embeddings) in enumerate(worlds_of):
        p_v = naive_eq_5(embeddings.images.tolist(), embeddings.concepts.astype(float).tolist(), members, union)
        p_y = []
        for y in range(n_classes):
            z = {int(v): float(weight) for v, weight in zip(match.concepts[y], match.weights[y], strict=True)}
            p_y.append(sum(p_v[i] * z.get(v, 0) for i, v in enumerate(union)))
        for y in range(n_classes):
            r[m, y] = 0.7 * p_y[y] + 0.3 / n_classes * sum(p_y)

    config = SelectionConfig(Strategy.PAPER, k=k)
    np.testing.assert_allclose(score(candidates, config), r, atol=1e-9)
    selection = select(candidates, config)
    row = {label.model.repo_id: m for m, label in enumerate(labels)}
    order = [row[model.ref.repo_id] for model in selection.models]
    np.testing.assert_allclose(selection.scores, r[order], atol=1e-9)
    for y in range(n_classes):  # F_y: k models, none left out of which is better
        chosen = [order[m] for m in np.flatnonzero(selection.chosen[:, y])]
        left = [m for m in range(n_models) if m not in chosen]
        assert len(chosen) == k
        assert all(r[m, y] >= r[n, y] - 1e-9 for m in chosen for n in left)


def test_each_class_has_its_own_best_models():
    scores = np.array([[0.9, 0.1, 0.5], [0.5, 0.8, 0.5], [0.1, 0.7, 0.6]])
    config = SelectionConfig(Strategy.PAPER)
    # k = 1: class 0 -> model 0; class 1 -> model 1; class 2 -> model 2
    assert choose(scores, config).tolist() == np.eye(3, dtype=bool).tolist()
    # k = 2: class 0 -> 0, 1; class 1 -> 1, 2; class 2 -> 2 and, of the tied 0 and 1, the first
    two = choose(scores, replace(config, k=2))
    assert two.T.tolist() == [[True, True, False], [False, True, True], [True, False, True]]
    assert choose(scores, replace(config, k=5)).all()


def test_equal_models_get_equal_scores_with_or_without_embeddings():
    # Relatives compete in Eq. 5 and are no rivals in labels, so one method must serve all candidates.
    graph = forest(8, 3)
    labels, embeddings = random_labels(graph, 2), random_embeddings(graph, 3)[3]
    candidates = candidates_on(graph, labels, random_match(graph, 3), embeddings=(embeddings, embeddings))
    exact = restricted_precision(candidates)
    np.testing.assert_array_equal(exact[0], exact[1])
    np.testing.assert_array_equal(exact[0], embeddings.restricted_precision(candidates.match.selected))
    selected = candidates.match.selected
    estimated = restricted_precision(replace(candidates, embeddings=()))
    n_rivals = rivals_in(candidates.graph)
    np.testing.assert_array_equal(estimated, [precision_from_label(label, selected, n_rivals) for label in labels])


# --- Eq. 5 from the label ---------------------------------------------------------------------------------------------


def test_precision_from_the_label_by_hand():
    # dog: 10 images, 2 recognized, on the other 8 one concept of the other 6 beats it; cat 6, car 5, vehicle 1.
    # dog has 4 rivals (its hypernym animal and its hyponym corgi are none). With n candidates in all, an image that is
    # lost to one of 4 is won if that one is not among the n - 1: C(3, n - 1) / C(4, n - 1).
    label = make_label(GRAPH, hits=[10, 10, 10, 10, 2, 10, 10], rivals={DOG: {CAT: 6, CAR: 5, VEHICLE: 1}})
    # n = 3: (2 + 8 * .5) / 10 = .6, but cat alone leaves only .4
    n_rivals = rivals_in(GRAPH)
    np.testing.assert_allclose(precision_from_label(label, np.array([CAR, CAT, DOG]), n_rivals), [1, 1, 0.4])
    # n = 2, rival vehicle: (2 + 8 * .75) / 10 = .8 is less than the .9 that vehicle leaves
    assert precision_from_label(label, np.array([DOG, VEHICLE]), n_rivals)[0] == pytest.approx(0.8)
    # n = 2 without any rival: .8 again; alone: everything
    assert precision_from_label(label, np.array([DOG, PET]), n_rivals)[0] == pytest.approx(0.8)
    assert precision_from_label(label, np.array([DOG]), n_rivals)[0] == 1


@examples
@given(candidates=worlds, size=st.integers(1, 15))
def test_precision_from_the_label_is_within_its_bounds(candidates, size):
    selected = np.sort(np.random.default_rng(size).permutation(len(candidates.graph))[:size])
    for label in candidates.labels.reference:
        precision = precision_from_label(label, selected, rivals_in(candidates.graph))
        tested = label.support[selected] > 0
        assert (precision >= label.node_precision[selected] - 1e-6).all()
        assert (precision <= 1).all()
        assert (precision[~tested] == 0).all()
        for v, p in zip(selected[tested], precision[tested], strict=True):
            wins = {u: w for u, w in zip(label.rivals[v].tolist(), label.rival_wins[v].tolist(), strict=True) if w}
            competing = [w for u, w in wins.items() if u in selected]
            assert p <= 1 - max(competing, default=0) / label.support[v] + 1e-6
            if len(selected) == 1 and len(candidates.graph) > 1:
                assert p == 1


def label_and_beaten(rng, n_concepts=40, n_images=20):
    """A label counted from images near their captions, and [V, images, V] which concepts beat the right one."""
    texts = rng.standard_normal((n_concepts, 12))
    images = texts[:, None] + 1.5 * rng.standard_normal((n_concepts, n_images, 12))
    scores = images @ texts.T
    concepts = np.arange(n_concepts)
    beaten = scores >= scores[concepts, :, concepts][:, :, None]
    beaten[concepts, :, concepts] = False
    outscored = beaten.sum(axis=1)
    rivals = {}
    for v, wins in enumerate(outscored):
        rivals[v] = {int(u): int(wins[u]) for u in np.argsort(-wins)[:RIVALS] if wins[u]}
    ranks = np.zeros((n_concepts, RANK_BINS), np.uint16)
    for v, of_v in enumerate(rank_bin(beaten.sum(axis=2))):
        np.add.at(ranks[v], of_v, 1)
    graph = make_graph({f"c{v:02d}": () for v in range(n_concepts)})
    return make_label(graph, hits=ranks[:, 0], support=n_images, rivals=rivals, ranks=ranks), beaten


def test_precision_from_the_label_is_near_the_exact_one():
    # over many draws the estimate is right on average, and closer to the truth than the precision among all concepts
    gaps, gaps_of_all = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        label, beaten = label_and_beaten(rng)
        selected = np.sort(rng.permutation(40)[:6])
        exact = 1 - beaten[selected][:, :, selected].any(axis=2).mean(axis=1)
        gaps.append(precision_from_label(label, selected, np.full(40, 39)) - exact)
        gaps_of_all.append(label.node_precision[selected] - exact)
    assert np.abs(gaps).mean() < 0.08
    assert np.abs(gaps).mean() < np.abs(gaps_of_all).mean() / 3
    assert abs(np.mean(gaps)) < 0.03


# --- ours -------------------------------------------------------------------------------------------------------------


def test_precision_among_fewer_candidates_by_hand():
    # 4 images, beaten by 0, 1, 2 to 3 and 4 to 7 of 100 rivals; a bin stands for the mean over its ranks.
    ranks = np.array([1, 1, 1, 1] + [0] * (RANK_BINS - 4))
    assert recall_among(ranks, chance_to_win(100, 1)) == 1
    expected = (1 + 0.99 + (0.98 + 0.97) / 2 + (0.96 + 0.95 + 0.94 + 0.93) / 4) / 4
    assert recall_among(ranks, chance_to_win(100, 2)) == pytest.approx(expected)
    assert recall_among(ranks, chance_to_win(100, 10**6)) == pytest.approx(0.25)  # only what nothing beats is left
    assert recall_among(0 * ranks, chance_to_win(100, 2)) == 0


def test_among_all_concepts_a_model_is_as_good_as_it_was_measured():
    # Ten unrelated digits and ten classes: all rivals take part, so what one of them beats is lost.
    graph = make_graph({str(digit): () for digit in range(10)})
    labels = [make_label(graph, np.full(10, hits), 1000, repo_id=f"org/{name}") for name, hits in
              [("near", 600), ("better", 653)]]  # fmt: skip
    ranks = np.zeros((10, RANK_BINS), np.uint16)
    ranks[:, 0], ranks[:, 1] = 600, 400  # what near loses, it loses to a single rival
    near = replace(labels[0], ranks=ranks, domain_ranks=ranks.sum(axis=0, dtype=np.int32)[None])
    spread = np.zeros((10, RANK_BINS), np.uint16)
    spread[:, 0], spread[:, 3] = 653, 347
    better = replace(labels[1], ranks=spread, domain_ranks=spread.sum(axis=0, dtype=np.int32)[None])
    match = make_match([[digit] for digit in range(10)], [[1]] * 10)
    selection = select(candidates_on(graph, (near, better), match), SelectionConfig())
    assert [model.ref.repo_id for model in selection.models] == ["org/better", "org/near"]
    np.testing.assert_allclose(selection.scores[:, 0], [0.653, 0.6], atol=1e-9)


@pytest.mark.parametrize(
    ("rank", "expected"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (4096, 13), (60_000, 13)]
)
def test_rank_bins(rank, expected):
    assert rank_bin(np.array([rank])).tolist() == [expected]


def test_shrinkage_by_hand():
    # 3 candidates, so 2 rivals take part. An image that one of R rivals beats is won with C(R - 1, 2) / C(R, 2): of
    # animal (R = 2) never, of corgi and pet (3) with 1/3, of cat and dog (4) with 1/2, of car and vehicle (5) with .6.
    #   animal .6, dog (5 + 5 / 2) / 10 = .75, corgi 1
    #   mean share of images that nothing beats .7, that one beats .3, won with (0 + 2/3 + 1 + 1.2) / 7 = .409524
    #   on average over concepts; level .7 + .3 * .409524 = .822857
    # The prior weighs as much as 10 images.
    #   animal (root): (6 + 8.22857) / 20 = .711429      pet, cat: no images, so their hypernym's
    #   dog: (7.5 + 7.11429) / 20 = .730714      corgi: prior (.730714 + .711429) / 2; (2 + 7.210714) / 12 = .767560
    #   vehicle (root without images): .822857       car: its hypernym's
    label = make_label(GRAPH, hits=[6, 0, 0, 2, 5, 0, 0], support=[10, 0, 0, 2, 10, 0, 0])
    shrunk = shrunk_recall([label], GRAPH, np.arange(7), 3)
    expected = [0.711429, 0.822857, 0.711429, 0.767560, 0.730714, 0.711429, 0.822857]
    np.testing.assert_allclose(shrunk, [expected], atol=1e-6)
    # fewer concepts wanted, the same values
    some = shrunk_recall([label], GRAPH, np.array([CORGI, CAR]), 3)
    np.testing.assert_allclose(some, [[0.767560, 0.822857]], atol=1e-6)


def test_much_evidence_is_not_shrunk():
    hits = np.array([30_000, 10_000, 60_000, 0, 45_000, 20_000, 50_000])
    label = make_label(GRAPH, hits=hits, support=60_000)
    expected = label.recall_among(4, np.arange(7), rivals_in(GRAPH))
    np.testing.assert_allclose(shrunk_recall([label], GRAPH, np.arange(7), 4)[0], expected, atol=2e-4)


def rivals_in(graph):
    """[V] concepts that are neither the concept itself nor above or below it."""
    return np.array([len(graph) - 1 - len(graph.relatives(v)) for v in range(len(graph))])


@pytest.mark.parametrize(
    ("domain", "counts"),
    [
        ("photo", "photo"),
        ("Photo", "photo"),
        ("photos of birds", "photo"),
        ("black-and-white sketch", "sketch"),
        ("SKETCHES", "sketch"),
        ("clip art", "clip art"),
        ("a photo or a sketch", None),
        ("sketch or clip art", None),
        ("satellite image", None),
        ("", None),
        (None, None),
    ],
)
def test_the_domain_counts_if_exactly_one_is_named(domain, counts):
    names = ("clip art", "photo", "sketch")
    hits = np.array([[2] * 7, [10] * 7, [18] * 7])
    label = make_label(GRAPH, domain_names=names, domain_hits=hits, domain_support=np.full((3, 7), 20))
    # 140 images a domain. With 2 candidates a lost image is won with 5/6, say: clip art (14 + 126 * 5/6) / 140 = .85,
    # photo .916667, sketch .983333, all .916667, odds 11. The prior weighs as much as 10 images:
    # clip art (140 * .85 + 10 * .916667) / 150 = .854444, odds 5.870229; sketch .978889, odds 46.368421
    expected = {None: 1, "clip art": 5.870229 / 11, "photo": 1, "sketch": 46.368421 / 11}[counts]
    assert domain_odds_ratios([label], domain, chance_to_win(6, 2), label.domain_names)[0] == pytest.approx(
        expected, abs=1e-5
    )


def test_the_domain_moves_the_odds_of_every_class():
    names, support = ("photo", "sketch"), np.full((2, 7), 20)
    label = make_label(GRAPH, domain_names=names, domain_hits=np.array([[16] * 7, [4] * 7]), domain_support=support)
    candidates = candidates_on(GRAPH, (label,), make_match([[CAT, DOG], [CAR, DOG]], [[0.9, 0.1], [0.5, 0.5]]))
    plain = mll_scores(candidates, 0.7)
    for domain in names:
        moved = mll_scores(replace(candidates, domain=domain), 0.7)
        ratio = domain_odds_ratios([label], domain, mean_chance_to_win(rivals_in(GRAPH), 2), label.domain_names)[0]
        assert (ratio > 1) == (domain == "photo")
        np.testing.assert_allclose(moved / (1 - moved), ratio * plain / (1 - plain))


def test_our_scores_by_hand():
    # Two classes, so 2 candidates of 3 concepts: an image that one of the 2 others beats is won with 1/2.
    #   car (5 + 5/2) / 10 = .75, cat 1, dog .5; mean .75; shrunk: car .75, cat (10 + 7.5) / 20 = .875, dog .625
    # Weights 3 : 1 become .75 and .25, whatever their scale.
    #   a = .75 * .875 + .25 * .625 = .8125     b = .75 * .75 + .25 * .625 = .71875      mean .765625
    #   mixed: a .7 * .8125 + .3 * .765625 = .7984375     b .7 * .71875 + .3 * .765625 = .7328125
    # Coverage 1 keeps a; coverage .2 pulls b towards the general level .75: .2 * .7328125 + .8 * .75 = .7465625
    label = make_label(make_graph({"car": (), "cat": (), "dog": ()}), hits=[5, 10, 0])
    match = make_match([[1, 2], [0, 2]], [[3, 1], [6, 2]], coverage=[1, 0.2])
    candidates = candidates_on(make_graph({"car": (), "cat": (), "dog": ()}), (label,), match)
    np.testing.assert_allclose(mll_scores(candidates, 0.7), [[0.7984375, 0.7465625]], atol=1e-7)


def test_the_standard_error_by_hand():
    # 10 and 90 images and 10 of the prior: .6^2 * .5 * .5 / 20 + .4^2 * .2 * .8 / 100 = .0045 + .000256 = .004756
    # The second model was not measured; such guesses are wrong by .1 and .2 on the concepts: .6 * .1 + .4 * .2 = .14
    images, recall, weights = np.array([[20, 100], [0, 0]]), np.array([[0.5, 0.2]] * 2), np.array([0.6, 0.4])
    errors = standard_errors(images, recall, weights, np.array([0.1, 0.2]))
    np.testing.assert_allclose(errors, [[math.sqrt(0.004756), 0], [0, 0.14]])


def test_caution_by_hand():
    # Means .5, .6, .53, .4, .7; the errors of the leads over the first are .005 (3-4-5), .013 (5-12-13), .2 and .03.
    # So the last and the second lead by more than five of them. The third does not: it and the fourth are lowered by
    # .5 / .53.
    recall = np.array([[0.4, 0.6], [0.5, 0.7], [0.53, 0.53], [0.3, 0.5], [0.7, 0.7]])
    measured = [0.003, 0.004, math.sqrt(0.013**2 - 0.003**2), 0.2, math.sqrt(0.03**2 - 0.003**2)]
    guessed = [0.9, 0, 0, 0, 0]  # the first's guess is not held against others
    lowered = penalize_uncertain_leads(recall, np.transpose([measured, guessed]), 0)
    np.testing.assert_allclose(lowered.mean(axis=1), [0.5, 0.595, 0.5, 0.4 * 0.5 / 0.53, 0.67])
    assert lowered[0].tolist() == recall[0].tolist()
    assert lowered[2].mean() < 0.5 - 10**-DIGITS  # behind the reference, also after rounding
    np.testing.assert_allclose(lowered[1], recall[1] * 0.595 / 0.6)


@examples
@given(seed=st.integers(0, 10_000), n_models=st.integers(1, 12))
def test_caution_puts_no_model_that_leads_behind_one_that_does_not(seed, n_models):
    rng = np.random.default_rng(seed)
    recall = np.round(rng.uniform(0.1, 1, (n_models, 4)), 2)
    errors = rng.exponential(0.02, (n_models, 2))
    before = recall.mean(axis=1)
    after = penalize_uncertain_leads(recall, errors, 0).mean(axis=1)
    for m in range(n_models):
        for other in range(1, n_models):
            if m and after[m] < after[0] and before[m] > before[other] + 1e-9:
                assert after[m] > after[other] or after[other] > after[0]
        if before[m] <= before[0]:
            assert after[m] <= before[m]
    lead, behind = np.flatnonzero(before > before[0] + 1e-9), np.flatnonzero(before < before[0] - 1e-9)
    assert not len(lead) or not len(behind) or after[lead].min() > after[behind].max()


def test_a_small_lead_does_not_displace_the_generally_best_model():
    graph = make_graph({"a": (), "b": (), "c": ()})
    match = make_match([[0], [1]], [[1], [1]])
    for images, chosen in ((20, 0), (2000, 1)):
        share = np.array([[80, 80, 80], [95, 90, 50]]) * images // 100
        labels = tuple(make_label(graph, hits, images, repo_id=f"org/{n}") for n, hits in enumerate(share))
        assert best_by_mean_recall(labels) == 0
        selection = select(candidates_on(graph, labels, match), SelectionConfig())
        assert selection.models[0].ref == labels[chosen].model


def test_ids_decide_between_equally_good_models():
    labels = [make_label(GRAPH, repo_id=f"org/{name}") for name in "bac"]
    assert best_by_mean_recall(labels) == 1


@examples
@given(candidates=worlds, class_weight=st.floats(0, 1))
def test_our_scores_are_precisions(candidates, class_weight):
    scores = mll_scores(candidates, class_weight)
    assert ((scores >= 0) & (scores <= 1)).all()
    uncovered = replace(candidates, match=replace(candidates.match, coverage=np.zeros(len(scores[0]), np.float32)))
    levels = mll_scores(uncovered, class_weight)
    assert (np.ptp(levels, axis=1) == 0).all()  # where the graph has nothing, all classes look alike


# --- the dispatchers --------------------------------------------------------------------------------------------------


@examples
@given(candidates=worlds, class_weight=st.floats(0, 1))
def test_score_dispatches_to_the_strategy(candidates, class_weight):
    direct = {
        Strategy.PAPER: paper_scores(candidates, class_weight),
        Strategy.MLL: mll_scores(candidates, class_weight),
        Strategy.GENERAL: general_scores(candidates),
    }
    assert set(direct) == set(LABEL_STRATEGIES)
    for strategy, expected in direct.items():
        actual = score(candidates, SelectionConfig(strategy, class_weight=class_weight))
        np.testing.assert_array_equal(actual, expected)
        assert actual.shape == (len(candidates.labels), len(candidates.match.classes))


def test_baselines_by_hand():
    labels = (make_label(GRAPH, hits=[10, 0, 0, 0, 0, 0, 4]), make_label(GRAPH, repo_id="org/other", support=0))
    candidates = candidates_on(GRAPH, labels, random_match(GRAPH, 2))
    np.testing.assert_allclose(general_scores(candidates), [[0.2, 0.2], [0, 0]])


# --- the choice -------------------------------------------------------------------------------------------------------


@examples
@given(
    candidates=worlds,
    k=st.integers(1, 8),
    strategy=st.sampled_from(LABEL_STRATEGIES),
    most=st.none() | st.integers(1, 8),
)
def test_what_every_selection_keeps(candidates, k, strategy, most):
    n_models = len(candidates.labels)
    selection = select(candidates, SelectionConfig(strategy, k=k, max_models=most), task="counting")
    limit = min(most or n_models, n_models)
    assert (np.diff(selection.overall) <= 1e-12).all()
    assert len(selection.union) <= limit
    per_class = selection.chosen.sum(axis=0)
    assert (per_class == min(k, limit)).all()
    if strategy in (Strategy.MLL, Strategy.GENERAL):
        assert selection.union == tuple(range(min(k, limit)))  # the best overall, for all classes
    assert np.isfinite(selection.images).all()
    assert (selection.images >= 0).all()
    for y, name in enumerate(selection.classes):
        explained = selection.explain(name)
        concepts = [candidates.graph.concepts[v] for v in candidates.match.concepts[y]]
        assert [(c.id, c.name) for c in explained] == [(c.id, c.name) for c in concepts]
        np.testing.assert_allclose([c.weight for c in explained], candidates.match.weights[y])
        assert all(len(c.recall) == len(selection.union) for c in explained)
    assert (selection.domain, selection.task) == (candidates.domain, "counting")


def test_explanations_hold_the_chosen_models_precision():
    strong = make_label(GRAPH, hits=[9] * 7, repo_id="org/strong", rivals={v: {(v + 1) % 7: 1} for v in range(7)})
    weak = make_label(GRAPH, hits=[5] * 7, repo_id="org/weak")
    candidates = candidates_on(GRAPH, (weak, strong), make_match([[CAT, DOG]], [[0.6, 0.4]]))
    one = select(candidates, SelectionConfig(Strategy.GENERAL))
    assert [c.recall for c in one.explain("class 0")] == [(pytest.approx(0.9),), (pytest.approx(0.9),)]
    both = select(candidates, SelectionConfig(Strategy.GENERAL, k=2))
    assert both.explain("class 0")[1].recall == (pytest.approx(0.9), pytest.approx(0.5))
    # the paper sees only the contest of cat and dog: one of 10 images is lost to one of 4 rivals, dog with 1 in 4
    expected = (9 + 3 / 4) / 10
    paper = select(candidates, SelectionConfig(Strategy.PAPER))
    assert paper.explain("class 0")[0].recall == (pytest.approx(expected),)
    ours = select(candidates, SelectionConfig(Strategy.MLL))
    assert ours.explain("class 0")[0].recall == (pytest.approx(expected),)
    with pytest.raises(InputError, match="no class 'horse'"):
        one.explain("horse")


@pytest.mark.parametrize("strategy", [Strategy.MLL, Strategy.GENERAL])
def test_no_recall_is_shown_where_no_image_tested_it(strategy):
    label = make_label(GRAPH, support=[10, 10, 0, 10, 10, 10, 10], hits=[10, 10, 0, 10, 0, 10, 10])
    selection = select(
        candidates_on(GRAPH, (label,), make_match([[CAT, CAR]], [[0.6, 0.4]])), SelectionConfig(strategy)
    )
    assert [concept.recall for concept in selection.explain("class 0")] == [(None,), (1.0,)]
    assert Selection.from_json(json.loads(json.dumps(selection.to_json()))) == selection


@pytest.mark.parametrize("strategy", [Strategy.PAPER, Strategy.MLL])
def test_ties_are_broken_by_id_and_not_by_rounding(strategy):
    # a number of rows with a remainder, so that a matrix product adds up the last twins in another order
    candidates = random_candidates(n_concepts=300, n_models=1, n_classes=37)
    label = candidates.labels.reference[0]
    twins = tuple(replace(label, model=replace(label.model, repo_id=f"org/m{m:02d}")) for m in range(41))
    for order in np.random.default_rng(0).permuted(np.tile(np.arange(41), (5, 1)), axis=1):
        shuffled = candidates_on(candidates.graph, [twins[m] for m in order], candidates.match)
        selection = select(shuffled, SelectionConfig(strategy, k=2))
        assert [model.ref.repo_id for model in selection.models] == [twin.model.repo_id for twin in twins]
        assert selection.union == (0, 1)


def served(scores, members, k):
    """Sum over classes of the k best of some models' scores, shifted so that none is negative."""
    shifted = scores - scores.min()
    return sum(sum(sorted((shifted[m, y] for m in members), reverse=True)[:k]) for y in range(scores.shape[1]))


@examples
@given(
    n_models=st.integers(1, 7),
    n_classes=st.integers(1, 6),
    k=st.integers(1, 3),
    most=st.integers(1, 7),
    seed=st.integers(0, 10_000),
    grid=st.sampled_from([2, 5, 1000]),
)
def test_choosing_within_a_budget_against_brute_force(n_models, n_classes, k, most, seed, grid):
    scores = np.random.default_rng(seed).integers(-grid, grid, (n_models, n_classes)) / grid
    most = min(most, n_models)
    allowed = choose_at_most(scores, k, most)
    members = np.flatnonzero(allowed).tolist()
    assert 1 <= len(members) <= most
    best = max(served(scores, subset, k) for subset in itertools.combinations(range(n_models), most))
    assert served(scores, members, k) >= (1 - 1 / math.e) * best - 1e-9
    if most == n_models:  # no cap: nobody's best model is missing
        assert served(scores, members, k) == pytest.approx(best)


@examples
@given(n_models=st.integers(2, 7), n_classes=st.integers(1, 6), k=st.integers(1, 3), seed=st.integers(0, 10_000))
def test_a_budget_is_spent_greedily(n_models, n_classes, k, seed):
    scores = np.random.default_rng(seed).standard_normal((n_models, n_classes))
    best = {m for y in range(n_classes) for m in sorted(range(n_models), key=lambda m: -scores[m, y])[:k]}
    for most in range(1, len(best)):
        members = []
        for _ in range(most):
            others = [m for m in range(n_models) if m not in members]
            members.append(max(others, key=lambda m: served(scores, [*members, m], k)))
        assert np.flatnonzero(choose_at_most(scores, k, most)).tolist() == sorted(members)


def test_choosing_within_a_budget_by_hand():
    # Model 0 is middling everywhere, 1 and 2 are best on one class each. One model: 0 (sum .9 against .8 and .8); from
    # two on the best model of each class.
    scores = np.array([[0.45, 0.45], [0.8, 0.0], [0.0, 0.8]])
    assert choose_at_most(scores, 1, 1).tolist() == [True, False, False]
    assert choose_at_most(scores, 1, 3).tolist() == [False, True, True]
    assert choose_at_most(scores, 1, 2).tolist() == [False, True, True]
    scores = np.vstack([scores, [0.0, 0.85]])
    chosen = choose(scores, SelectionConfig(Strategy.PAPER, max_models=1))
    assert chosen.tolist() == [[True, True], [False, False], [False, False], [False, False]]


@pytest.mark.parametrize("strategy", LABEL_STRATEGIES)
def test_caps_leave_models_out(strategy):
    labels = tuple(
        make_label(GRAPH, hits=[hits] * 7, repo_id=f"org/{name}", cost=Cost(parameters, gflops))
        for name, hits, parameters, gflops in [
            ("huge", 10, 10**9, 100.0),
            ("slow", 9, 10**6, 50.0),
            ("fine", 5, 10**8, 20.0),
            ("tiny", 1, 10**5, 0.1),
        ]
    )
    candidates = candidates_on(GRAPH, labels, random_match(GRAPH, 2))

    def names(**caps):
        return {model.ref.short_name for model in select(candidates, SelectionConfig(strategy, **caps)).models}

    assert names() == {"huge", "slow", "fine", "tiny"}
    assert names(max_parameters=10**8) == {"slow", "fine", "tiny"}
    assert names(max_parameters=10**8 - 1) == {"slow", "tiny"}
    assert names(max_gflops=20) == {"fine", "tiny"}
    assert names(max_gflops=30, max_parameters=10**7) == {"tiny"}
    with pytest.raises(InputError, match=r"none of the 4 .*smallest: 100,000 parameters; cheapest: 0.1 GFLOPs"):
        names(max_gflops=0.01)


def test_capping_uses_the_embeddings_of_the_models_that_stay():
    graph = forest(8, 1)
    embeddings = [random_embeddings(graph, seed)[3] for seed in (1, 2)]
    labels = tuple(
        make_label(graph, repo_id=f"org/{name}", cost=Cost(parameters, 1.0))
        for name, parameters in (("large", 10), ("small", 5))
    )
    candidates = candidates_on(graph, labels, random_match(graph, 3), embeddings=tuple(embeddings))
    alone = candidates_on(graph, labels[1:], candidates.match, embeddings=(embeddings[1],))
    capped = select(candidates, SelectionConfig(Strategy.PAPER, max_parameters=5))
    assert capped.to_json() == select(alone, SelectionConfig(Strategy.PAPER)).to_json()


@pytest.mark.parametrize(
    "options", [{"k": 0}, {"k": -1}, {"max_models": 0}, {"class_weight": -0.1}, {"class_weight": math.nan}]
)
def test_impossible_configurations(options):
    with pytest.raises(InputError):
        SelectionConfig(**options)


def test_effective_images_by_hand():
    # One concept of 20 images is worth 20; two equal ones of 20 are worth 40; .8 and .2 of 20: 1 / (.68 / 20) = 29.41.
    # A concept without images counts as if it had one: .5 and .5 of 20 and 0: 1 / (.25 / 20 + .25) = 3.81.
    label = make_label(GRAPH, support=[20, 20, 20, 20, 20, 0, 0])
    match = make_match(
        [[DOG, CAT], [DOG, CAT], [DOG, CAT], [DOG, PET], [PET, VEHICLE], [CAR, ANIMAL]],
        [[1, 0], [2, 2], [0.8, 0.2], [0.5, 0.5], [0.5, 0.5], [0.3, -0.3]],
    )
    images = select(candidates_on(GRAPH, (label,), match), SelectionConfig(Strategy.PAPER)).images
    np.testing.assert_allclose(images, [20, 40, 29.411765, 3.809524, 0, 40], rtol=1e-5)


# --- JSON -------------------------------------------------------------------------------------------------------------


def make_selection(strategy=Strategy.MLL, k=2, seed=0):
    candidates = random_candidates(n_models=4, n_classes=3, seed=seed, domain="photo")
    return select(candidates, SelectionConfig(strategy, k=k), task="naming")


def test_the_shape_of_select_json():
    selection = make_selection()
    document = json.loads(json.dumps(selection.to_json(), allow_nan=False))
    classes = list(selection.classes)
    assert document["classes"] == classes
    assert (document["strategy"], document["k"]) == ("mll", 2)
    assert list(document["chosen"]) == list(document["matches"]) == list(document["coverage"]) == classes
    ids = [model["id"] for model in document["models"]]
    for model in document["models"]:
        assert {"id", "revision", "parameters", "gflops", "scores", "overall"} <= set(model)
        assert len(model["scores"]) == 3
        assert model["overall"] == pytest.approx(sum(model["scores"]) / 3)
    for chosen in document["chosen"].values():
        assert chosen == ids[:2]
    for matched in document["matches"].values():
        assert all({"id", "name", "weight"} <= set(concept) for concept in matched)
    assert all(0 <= coverage <= 1 for coverage in document["coverage"].values())


def test_chosen_models_are_listed_best_first_for_their_class():
    scores = np.array([[0.9, 0.6], [0.5, 0.8]])
    selection = select(random_candidates(n_models=2, n_classes=2), SelectionConfig())
    selection = replace(selection, scores=scores, chosen=np.ones((2, 2), np.bool_))
    first, second = (model.ref.repo_id for model in selection.models)
    assert selection.to_json()["chosen"] == {"class 0": [first, second], "class 1": [second, first]}


@examples
@given(candidates=worlds, strategy=st.sampled_from(LABEL_STRATEGIES), k=st.integers(1, 4))
def test_json_round_trip(candidates, strategy, k):
    # the paper's weights are cosines and may be negative; a model may be there in two revisions
    match = replace(candidates.match, weights=candidates.match.weights - np.float32(0.3))
    labels = candidates.labels.reference
    twin = replace(labels[0], model=replace(labels[0].model, revision="e" * 40))
    candidates = replace(candidates, labels=join_by_hand((candidates.graph, (*labels, twin))))
    candidates = replace(candidates, match=match) if strategy is Strategy.PAPER else candidates
    selection = select(candidates, SelectionConfig(strategy, k=k), task="naming")
    back = Selection.from_json(json.loads(json.dumps(selection.to_json(), allow_nan=False)))
    assert back == selection
    assert (back.union, back.cost) == (selection.union, selection.cost)


def test_two_revisions_of_a_model_stay_apart():
    old, new = (make_label(GRAPH, hits=[hits] * 7, revision=r * 40) for r, hits in (("a", 5), ("b", 8)))
    selection = select(candidates_on(GRAPH, (old, new), random_match(GRAPH, 1)), SelectionConfig())
    assert selection.to_json()["chosen"] == {"class 0": ["org/model@" + "b" * 40]}
    back = Selection.from_json(selection.to_json())
    assert [back.models[m].ref.revision for m in back.union] == ["b" * 40]


MODEL = ("models", 0)
MATCH = ("matches", "class 0", 0)
DROPPED = object()
OPTIONAL = ("evidence", "among", "answer", "templates")
HOSTILE = [
    *(((key,), DROPPED) for key in make_selection().to_json() if key not in OPTIONAL),
    *(((*MODEL, key), DROPPED) for key in make_selection().to_json()["models"][0] if key != "overall"),
    *(((*MATCH, key), DROPPED) for key in ("id", "name", "weight", "recall")),
    *(
        ((key,), value)
        for key in ("classes", "models", "chosen", "matches")
        for value in (None, 7, "abc", [], {}, [[]])
    ),
    (("classes",), "abc"),
    (("classes",), ["class 0", "class 1", "class 1"]),
    (("classes",), ["class 0", "class 1", 2]),
    (("classes",), ["class 0", "class 1", ["class 2"]]),
    (("strategy",), "best"),
    (("k",), 0),
    (("k",), "many"),
    (("k",), math.inf),
    (("domain",), 3),
    (("task",), ["naming"]),
    (("among",), 1),
    (("among",), "all"),
    (("chosen", "class 0"), []),
    (("chosen", "class 0"), "org/m00"),
    (("chosen", "class 0"), ["org/unknown"]),
    (("chosen", "class 0"), [["org/m00"]]),
    ((*MODEL, "id"), 5),
    ((*MODEL, "id"), "org/m99"),
    ((*MODEL, "backend"), None),
    ((*MODEL, "scores"), [0.5]),
    ((*MODEL, "scores"), [0.5, 0.5, math.nan]),
    ((*MODEL, "scores"), [0.5, 0.5, 10**400]),
    ((*MODEL, "scores"), [0.5, 0.5, [0.5]]),
    ((*MODEL, "scores"), "abc"),
    ((*MODEL, "temperature"), 0),
    ((*MODEL, "temperature"), -1),
    ((*MODEL, "temperature"), math.nan),
    ((*MODEL, "temperature"), math.inf),
    ((*MODEL, "parameters"), -1),
    ((*MODEL, "parameters"), math.inf),
    ((*MODEL, "gflops"), math.nan),
    ((*MODEL, "general"), 2),
    ((*MATCH, "recall"), [0.5]),
    ((*MATCH, "recall"), [0.5, "x"]),
    ((*MATCH, "weight"), None),
    (("coverage", "class 0"), 1.5),
    (("coverage", "class 0"), DROPPED),
    (("images", "class 0"), -3),
    (("matches", "class 0"), []),
    (("images",), [1, 2, 3]),
]


@pytest.mark.parametrize(("path", "value"), HOSTILE)
def test_hostile_selections_are_refused(path, value):
    document = copy.deepcopy(make_selection().to_json())
    Selection.from_json(document)
    *parents, key = path
    place = document
    for parent in parents:
        place = place[parent]
    if value is DROPPED:
        del place[key]
    else:
        place[key] = value
    with pytest.raises(InputError, match=r"this is not a selection .*mll-hf select --json") as failure:
        Selection.from_json(document)
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 500


@pytest.mark.parametrize("document", [None, 3, "text", [], [{}], {}])
def test_what_is_no_object_is_no_selection(document):
    with pytest.raises(InputError, match="this is not a selection"):
        Selection.from_json(document)


# --- models without a label -------------------------------------------------------------------------------------------


def published(name, imagenet, parameters=10**8, gflops=10.0):
    return make_known(f"org/{name}", imagenet, parameters, gflops)


def test_choosing_by_imagenet():
    selection = select_by_imagenet(("cat", "car"), SelectionConfig(k=3), "photo", "counting")
    accuracies = sorted((model.imagenet for model in usable_models()), reverse=True)
    assert [model.general for model in selection.models] == accuracies
    assert selection.union == (0, 1, 2)
    assert {model.evidence for model in selection.models} == {Evidence.OVERALL}
    assert (selection.domain, selection.task) == ("photo", "counting")
    assert (selection.scores == np.array(accuracies)[:, None]).all()
    assert Selection.from_json(json.loads(json.dumps(selection.to_json()))).to_json() == selection.to_json()
    small = select_by_imagenet(("cat",), SelectionConfig(max_parameters=160_000_000, max_gflops=10))
    assert all(m.cost.parameters <= 160_000_000 and m.cost.gflops <= 10 for m in small.models)
    with pytest.raises(InputError, match="raise the limits"):
        select_by_imagenet(("cat",), SelectionConfig(max_parameters=1))


def known_and_unknown(monkeypatch, imagenet, hits, unknown):
    """Labeled models with published accuracies, and others that have nothing but an accuracy."""
    table = tuple(published(f"known{m}", accuracy) for m, accuracy in enumerate(imagenet))
    others = tuple(published(f"other{m}", accuracy) for m, accuracy in enumerate(unknown))
    know_only(monkeypatch, table + others)
    labels = tuple(make_label(GRAPH, hits=[h] * 7, repo_id=f"org/known{m}") for m, h in enumerate(hits))
    return candidates_on(GRAPH, labels, random_match(GRAPH, 3), published=others)


def test_a_selection_is_shown_in_one_line(monkeypatch):
    selection = select(known_and_unknown(monkeypatch, [0.4, 0.6], [2, 6], [0.9]), SelectionConfig(k=2))
    shown = repr(selection)
    assert shown == f"<Selection of {', '.join(m.name for m in selection.models[:2])} for 3 classes, among 3 models>"


def test_models_with_overall_figures_only_are_placed_by_their_imagenet_accuracy(monkeypatch):
    candidates = known_and_unknown(monkeypatch, [0.4, 0.5, 0.6], [2, 4, 6], [0.45, 0.65, 0.9, 0.1])
    selection = select(candidates, SelectionConfig(Strategy.GENERAL, k=2))
    ids = [model.name for model in selection.models]
    assert ids == ["org/other2", "org/other1", "org/known2", "org/other0", "org/known1", "org/known0", "org/other3"]
    best = ids.index("org/known2")  # of the labels the generally best: it has its own ImageNet accuracy
    odds = selection.overall / (1 - selection.overall)
    assert odds[0] / odds[best] == pytest.approx((0.9 / 0.1) / (0.6 / 0.4), rel=1e-6)
    assert (selection.scores[0] == selection.scores[0, 0]).all()
    assert [selection.models[m].evidence for m in selection.union] == [Evidence.OVERALL] * 2
    assert all(concept.recall == (None, None) for name in selection.classes for concept in selection.explain(name))
    assert Selection.from_json(json.loads(json.dumps(selection.to_json()))).to_json() == selection.to_json()
    assert (np.diff(selection.estimates.accuracy) <= 1e-12).all()


def test_a_group_whose_best_model_is_unknown_is_placed_by_its_others(monkeypatch):
    candidates = known_and_unknown(monkeypatch, [0.4, None, 0.6], [4, 6, 5], [0.5])
    shift = imagenet_shift(candidates.labels, general_scores(candidates))
    levels = sigmoid(logit(general_scores(candidates).mean(axis=1)) + shift)
    query = graph_query(GRAPH, np.empty(0, np.int32), 1000, extrapolate=True)
    recall = mean_recall_among(query, candidates.labels.rank_shares[0])
    offsets = [logit(np.array(known)) - logit(recall[m]) for m, known in ((0, 0.4), (2, 0.6))]
    assert levels[1] == pytest.approx(sigmoid(logit(recall[1]) + np.mean(offsets)))


def test_labels_on_other_probe_images_compare_by_imagenet_accuracy(monkeypatch):
    """The same model measured on easier images is not better for it."""
    easy = known_and_unknown(monkeypatch, [0.5, 0.7], [8, 9], [])
    hard = tuple(make_label(GRAPH, hits=[h] * 7, repo_id=f"org/known{m}") for m, h in ((2, 3), (3, 1)))
    table = tuple(published(f"known{m}", accuracy) for m, accuracy in enumerate([0.5, 0.7, 0.8, 0.6]))
    know_only(monkeypatch, table)
    other_groups = candidates_on(GRAPH, hard, easy.match)
    both = replace(easy, other_groups=(replace(other_groups, evidence=Evidence.PER_CLASS),))
    for strategy in (Strategy.MLL, Strategy.GENERAL):
        selection = select(both, SelectionConfig(strategy))
        ids = [model.name for model in selection.models]
        assert ids[0] == "org/known2"
        assert ids.index("org/known1") < ids.index("org/known0")
        assert selection.models[0].evidence is Evidence.PER_CLASS
        assert all(concept.recall[0] is not None for name in selection.classes for concept in selection.explain(name))
        swapped = select(replace(other_groups, other_groups=(easy,)), SelectionConfig(strategy))
        assert [model.name for model in swapped.models] == ids
        np.testing.assert_allclose(swapped.estimates.accuracy, selection.estimates.accuracy, atol=0.02)
    for strategy in (Strategy.PAPER,):
        assert len(select(both, SelectionConfig(strategy)).models) == 2


def test_caps_hold_for_every_group(monkeypatch):
    candidates = known_and_unknown(monkeypatch, [0.4, 0.5, 0.6], [2, 4, 6], [0.45, 0.9])
    selection = select(candidates, SelectionConfig(max_parameters=10**7))
    assert {model.evidence for model in selection.models} == {Evidence.LABEL}
    label = make_label(GRAPH, hits=[3] * 7, repo_id="org/known0", cost=Cost(5, 0.1))
    other_groups = replace(candidates_on(GRAPH, (label,), candidates.match), evidence=Evidence.PER_CLASS)
    selection = select(replace(candidates, other_groups=(other_groups,)), SelectionConfig(max_parameters=6))
    assert [model.evidence for model in selection.models] == [Evidence.PER_CLASS]
    with pytest.raises(InputError, match=r"none of the 6 models is within the limits \(smallest: 5 param"):
        select(replace(candidates, other_groups=(other_groups,)), SelectionConfig(max_parameters=4))
    with pytest.raises(InputError, match="none of the 3 labeled models is within the limits"):
        select(candidates, SelectionConfig(Strategy.PAPER, max_parameters=4))


# --- options as keywords ----------------------------------------------------------------------------------------------


def test_options_are_given_as_users_write_them():
    config = SelectionConfig(k=2, max_gflops=5)
    found = configured(
        config,
        {"strategy": "general", "max_parameters": "1.5B", "max_download": "5G", "licenses": ["mit"], "without": ["a/b"],
         "shares": "equal"},
    )  # fmt: skip
    assert found == SelectionConfig(
        strategy=Strategy.GENERAL, k=2, max_gflops=5, max_parameters=1_500_000_000, max_download=5_000_000_000,
        licenses=("mit",), without=frozenset({"a/b"}), shares=Shares.EQUAL,
    )  # fmt: skip
    assert configured(config, {"shares": [1, 3], "max_parameters": 7}).shares == (1, 3)
    assert configured(config, {}) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_size": 3}, "unknown option 'max_size'; choose from strategy, k, "),
        ({"max_parameters": "many"}, "'many' is not a number such as 200M"),
        ({"strategy": "best"}, "'best' is not a valid Strategy"),
        ({"licenses": 3}, "invalid option value"),
        ({"licenses": "mit"}, "give a tuple of ids"),
        ({"k": 0}, "k is 0; allow at least 1"),
    ],
)
def test_options_that_cannot_be_used(options, message):
    with pytest.raises(InputError, match=message) as caught:
        configured(SelectionConfig(), options)
    assert "\n" not in str(caught.value)
