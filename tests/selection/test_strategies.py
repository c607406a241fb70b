"""The strategies: the paper's Eq. 5 to 7 by hand, our own scores, and what all have."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.labels.label import ProbeEmbeddings
from mll_hf.selection import STRATEGIES, SelectionConfig, Strategy, select
from mll_hf.selection.mll import (
    best_by_mean_recall,
    domain_odds_ratios,
    mll_scores,
    penalize_uncertain_leads,
)
from mll_hf.selection.paper import paper_scores, precision_from_label, restricted_precision
from mll_hf.selection.probabilities import DIGITS
from mll_hf.selection.strategies import general_scores
from selection_worlds import candidates_on, make_match, random_match, worlds
from worlds import CAR, CAT, CORGI, DOG, PET, VEHICLE, examples, make_graph, make_label, make_rivals, probe_set, unit

GRAPH = make_graph()


# --- the paper --------------------------------------------------------------------------------------------------------


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


def test_eq_6_and_7_by_hand():
    # V_sel = {car, cat, dog}, no rival of which ever wins, so p is hits / support: car .5, cat .8, dog .2.
    # Z: "pet" has cat .9 and dog .7, "taxi" has car .6 and dog .1; not normalized.
    #   p_pet = .8 * .9 + .2 * .7 = .86    p_taxi = .5 * .6 + .2 * .1 = .32    mean .59
    #   r_pet = .7 * .86 + .3 * .59 = .779    r_taxi = .7 * .32 + .3 * .59 = .401
    label = make_label(GRAPH, hits=[0, 5, 8, 0, 2, 0, 0])
    rivals = make_rivals(label, {CAR: {CAT: 5}, CAT: {CAR: 2}, DOG: {CAT: 8}})
    match = make_match([[CAT, DOG], [CAR, DOG]], [[0.9, 0.7], [0.6, 0.1]], ["pet", "taxi"])
    candidates = candidates_on(GRAPH, (label,), match)
    candidates = replace(candidates, labels=candidates.labels.read_rivals(lambda _: rivals))
    np.testing.assert_allclose(restricted_precision(candidates), [[0.5, 0.8, 0.2]])
    np.testing.assert_allclose(paper_scores(candidates, 0.7), [[0.779, 0.401]])
    np.testing.assert_allclose(paper_scores(candidates, 1), [[0.86, 0.32]], atol=1e-7)
    np.testing.assert_allclose(paper_scores(candidates, 0), [[0.59, 0.59]])


def test_precision_from_the_label_by_hand():
    # dog: 10 images, 2 recognized, on the other 8 one concept of the other 6 beats it; cat 6, car 5, vehicle 1.
    # dog has 4 rivals (its hypernym animal and its hyponym corgi are none). With n candidates in all, an image that is
    # lost to one of 4 is won if that one is not among the n - 1: C(3, n - 1) / C(4, n - 1).
    label = make_label(GRAPH, hits=[10, 10, 10, 10, 2, 10, 10])
    rivals = make_rivals(label, {DOG: {CAT: 6, CAR: 5, VEHICLE: 1}})
    # n = 3: (2 + 8 * .5) / 10 = .6, but cat alone leaves only .4
    n_rivals = GRAPH.rival_counts
    np.testing.assert_allclose(precision_from_label(label, rivals, np.array([CAR, CAT, DOG]), n_rivals), [1, 1, 0.4])
    # n = 2, rival vehicle: (2 + 8 * .75) / 10 = .8 is less than the .9 that vehicle leaves
    assert precision_from_label(label, rivals, np.array([DOG, VEHICLE]), n_rivals)[0] == pytest.approx(0.8)
    # n = 2 without any rival: .8 again; alone: everything
    assert precision_from_label(label, rivals, np.array([DOG, PET]), n_rivals)[0] == pytest.approx(0.8)
    assert precision_from_label(label, rivals, np.array([DOG]), n_rivals)[0] == 1


# --- ours -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "counts"),
    [
        ("photo", "photo"),
        ("black-and-white sketch", "sketch"),
        ("a photo or a sketch", None),
        (None, None),
    ],
)
def test_the_domain_counts_if_exactly_one_is_named(domain, counts):
    names = ("clip art", "photo", "sketch")
    hits = np.array([[2] * 7, [10] * 7, [18] * 7])
    graph = make_graph(dict.fromkeys("abcdefg", ()))  # six rivals each
    label = make_label(graph, domain_names=names, domain_hits=hits, domain_support=np.full((3, 7), 20))
    # 140 images a domain. With 2 candidates a lost image is won with 5/6, say: clip art (14 + 126 * 5/6) / 140 = .85,
    # photo .916667, sketch .983333, all .916667, odds 11. The prior weighs as much as 10 images:
    # clip art (140 * .85 + 10 * .916667) / 150 = .854444, odds 5.870229; sketch .978889, odds 46.368421
    expected = {None: 1, "clip art": 5.870229 / 11, "photo": 1, "sketch": 46.368421 / 11}[counts]
    labels = candidates_on(graph, (label,), random_match(graph, 2)).labels
    assert domain_odds_ratios(labels, domain, 2)[0] == pytest.approx(expected, abs=1e-5)


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


def test_recall_is_shrunk_towards_the_hypernyms_by_hand():
    # "a" wins all images and "b" none; "p" above them has no rival. Mean 2/3; p (20 + 10 * 2/3) / 30 = 8/9, which is
    # the prior of both, worth 10 images: a (10 + 80/9) / 20 = 17/18, b (80/9) / 20 = 4/9.
    graph = make_graph({"p": (), "a": ("p",), "b": ("p",)})
    label = make_label(graph, hits=[10, 0, 20], support=[10, 10, 20])
    candidates = candidates_on(graph, (label,), make_match([[0], [1]], [[1], [1]]))
    np.testing.assert_allclose(mll_scores(candidates, 1.0), [[17 / 18, 4 / 9]])


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


def test_a_small_lead_does_not_displace_the_generally_best_model():
    graph = make_graph({"a": (), "b": (), "c": ()})
    match = make_match([[0], [1]], [[1], [1]])
    for images, chosen in ((20, 0), (2000, 1)):
        share = np.array([[80, 80, 80], [95, 90, 50]]) * images // 100
        labels = tuple(make_label(graph, hits, images, repo_id=f"org/{n}") for n, hits in enumerate(share))
        assert best_by_mean_recall(labels) == 0
        selection = select(candidates_on(graph, labels, match), SelectionConfig())
        assert selection.models[0].ref == labels[chosen].model


# --- all of them ------------------------------------------------------------------------------------------------------


@examples
@given(candidates=worlds, strategy=st.sampled_from(list(Strategy)))
def test_scores_of_every_strategy_are_finite_and_accuracies_are_between_0_and_1(candidates, strategy):
    record = STRATEGIES[strategy]
    scores = record.score(candidates, 0.7)
    assert scores.shape == (len(candidates.labels), len(candidates.match.classes))
    assert np.isfinite(scores).all()
    assert record.as_in_paper or ((scores >= 0) & (scores <= 1)).all()
    assert record.column


def test_general_scores_by_hand():
    labels = [make_label(GRAPH, hits=[5, 5, 0, 0, 0, 0, 0], support=[10, 10, 10, 10, 10, 0, 0]), make_label(GRAPH)]
    scores = general_scores(candidates_on(GRAPH, labels[:1], random_match(GRAPH, 2)))
    np.testing.assert_allclose(scores, [[0.2, 0.2]])
