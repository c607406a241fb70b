from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.labeling.contest import Contest
from mll_hf.labels.counts import RANK_BINS, TEMPERATURES
from worlds import (
    ANIMAL,
    CAR,
    CAT,
    CORGI,
    DOG,
    PET,
    VEHICLE,
    dags,
    examples,
    make_graph,
    naive_ancestors,
    pools_of,
    probe_set,
    unit,
)

EYE = np.eye(7, dtype=np.float32)


def count(graph, probes, concepts, images, scale=1.0, cuts=()):
    """Count the contests, with the images cut into blocks."""
    bounds = [0, *cuts, len(images)]
    blocks = [(start, images[start:end]) for start, end in pairwise(bounds)]
    return Contest(graph, probes, np.asarray(concepts, np.float32), scale).count(blocks)


def naive(hypernyms, probes, concepts, images):
    """The definition, one contest at a time: hits, support, hits and support by domain, outscored, ranks."""
    ids = sorted(hypernyms)
    above = {v: {ids.index(a) for a in naive_ancestors(hypernyms, ids[v])} for v in range(len(ids))}
    hits, support = (np.zeros(len(ids), int) for _ in range(2))
    domain_hits, domain_support = (np.zeros((len(probes.domain_names), len(ids)), int) for _ in range(2))
    outscored = np.zeros((len(ids), len(ids)), int)
    ranks = np.zeros((len(ids), RANK_BINS), int)
    domain_ranks = np.zeros((len(probes.domain_names), RANK_BINS), int)
    for v in range(len(ids)):
        for x in probes.images_of(v):
            if np.isnan(images[x]).any():
                continue
            score = [sum(a * b for a, b in zip(images[x], concept, strict=True)) for concept in concepts]
            best, winner, rank = -np.inf, None, 0
            for u in range(len(ids)):
                is_relative = u == v or u in above[v] or v in above[u]
                is_shown = u == probes.nodes[x] or u in above[probes.nodes[x]]
                if is_relative or is_shown or score[u] < score[v]:
                    continue
                outscored[v, u] += 1
                rank += 1
                if score[u] > best:
                    best, winner = score[u], u
            ranks[v, rank.bit_length()] += 1
            domain_ranks[probes.domains[x], rank.bit_length()] += 1
            support[v] += 1
            domain_support[probes.domains[x], v] += 1
            if winner is None:
                hits[v] += 1
                domain_hits[probes.domains[x], v] += 1
    return hits, support, domain_hits, domain_support, outscored, ranks, domain_ranks


@st.composite
def worlds(draw):
    """A random graph, probe images that test some of what they show, and embeddings of few exact values."""
    hypernyms = draw(dags(max_size=7))
    graph = make_graph(hypernyms)
    nodes = draw(st.lists(st.integers(0, len(graph) - 1), min_size=1, max_size=12))
    pools = pools_of(graph, nodes)
    members = [draw(st.lists(st.sampled_from(pool), unique=True)) if pool else [] for pool in pools]
    domains = draw(st.lists(st.integers(0, 1), min_size=len(nodes), max_size=len(nodes)))
    values = st.integers(-2, 2)
    vectors = st.lists(values, min_size=3, max_size=3)
    concepts = np.array(draw(st.lists(vectors, min_size=len(graph), max_size=len(graph))), np.float32)
    images = np.array(draw(st.lists(vectors, min_size=len(nodes), max_size=len(nodes))), np.float32) / 4
    images[draw(st.lists(st.integers(0, len(nodes) - 1), max_size=2))] = np.nan
    cuts = sorted(draw(st.lists(st.integers(0, len(nodes)), max_size=3)))
    return hypernyms, graph, probe_set(members, nodes, domains, ("icon", "photo")), concepts, images, cuts


# ---- against the definition


@examples
@given(worlds())
def test_counts_are_those_of_the_definition(world):
    hypernyms, graph, probes, concepts, images, cuts = world
    counts = count(graph, probes, concepts, images, cuts=cuts)
    expected = naive(hypernyms, probes, concepts, images)
    names = ("hits", "support", "domain_hits", "domain_support", "outscored", "ranks", "domain_ranks")
    for name, array in zip(names, expected, strict=True):
        np.testing.assert_array_equal(getattr(counts, name), array, err_msg=name)
    assert counts.undecodable == int(np.isnan(images).any(axis=1).sum())


def test_worked_by_hand():
    graph = make_graph()
    nodes = [CORGI, CORGI, CAT, CAR]
    members = [[0, 1, 2], [3], [2], [0, 1], [0, 1], [0, 1, 2], [3]]
    probes = probe_set(members, nodes, domains=[0, 1, 0, 1], domain_names=("icon", "photo"))
    #                   animal car cat corgi dog pet vehicle
    images = np.array(
        [
            [0.1, 0.0, 0.4, 0.9, 0.5, 0.2, 0.0],  # corgi: seen as corgi and dog; its pet and animal yield to no rival
            [0.1, 0.3, 0.4, 0.3, 0.5, 0.2, 0.0],  # corgi: cat wins it over corgi, car wins it over pet and animal
            [0.1, 0.0, 0.4, 0.4, 0.2, 0.2, 0.0],  # cat: corgi ties with it, and ties are lost
            [0.0, 0.5, 0.4, 0.0, 0.0, 0.0, 0.4],  # car: recognized; as a vehicle it ties with cat, and is lost
        ],
        np.float32,
    )
    counts = count(graph, probes, EYE, images)
    # for animal, rivals of any image are car and vehicle only (all others are below animal)
    # for dog they are car, cat and vehicle; for pet, car and vehicle on a corgi (dog is shown), on a cat also dog
    assert counts.support.tolist() == [3, 1, 1, 2, 2, 3, 1]
    #                 animal 0, 2   car 3   cat   corgi 0   dog 0, 1   pet 0   vehicle
    assert counts.hits.tolist() == [2, 1, 0, 1, 2, 1, 0]
    losses = {(ANIMAL, CAR): 1, (CAT, CORGI): 1, (CORGI, CAT): 1, (CORGI, CAR): 1, (VEHICLE, CAT): 1}
    losses |= {(PET, CAR): 1, (PET, DOG): 1}
    assert {(v, u): n for (v, u), n in np.ndenumerate(counts.outscored) if n} == losses
    # lost contests were won by car (animal 1, pet 1), corgi (cat 2), cat (corgi 1, vehicle 3) and dog (pet 2)
    assert counts.domain_support.tolist() == [[2, 0, 1, 1, 1, 2, 0], [1, 1, 0, 1, 1, 1, 1]]
    assert counts.domain_hits.tolist() == [[2, 0, 0, 1, 1, 1, 0], [0, 1, 0, 0, 1, 0, 0]]
    assert counts.ranks[:, :3].tolist() == [[2, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 1], [2, 0, 0], [1, 2, 0], [0, 1, 0]]
    assert counts.domain_ranks[:, :3].tolist() == [[5, 2, 0], [2, 3, 1]]
    assert counts.undecodable == 0


# ---- temperature


def clouds(n_concepts=20, n_images=3000, scale=8.0, seed=0):
    """A model without a fault: each image is of concept v with the probability that its logits, times `scale`, say."""
    rng = np.random.default_rng(seed)
    concepts = unit(rng.normal(size=(n_concepts, 12)))
    images = unit(rng.normal(size=(n_images, 12)))
    gumbel = rng.gumbel(size=(n_images, n_concepts))
    nodes = (scale * (images @ concepts.T) + gumbel).argmax(axis=1)
    graph = make_graph({f"c{v:02}": () for v in range(n_concepts)})
    probes = probe_set([np.flatnonzero(nodes == v).tolist() for v in range(n_concepts)], nodes)
    return graph, probes, concepts, images


def test_a_calibrated_model_has_temperature_one():
    assert count(*clouds(), scale=8.0).temperature == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("factor", [0.2, TEMPERATURES[25] / TEMPERATURES[20], 1.9, 10.0])
def test_temperature_goes_with_the_scale_of_the_logits(factor):
    world = clouds(n_images=1000)
    once, scaled = count(*world, scale=8.0).temperature, count(*world, scale=8.0 * factor).temperature
    assert scaled / once == pytest.approx(factor, rel=0.01)


def test_log_loss_of_two_concepts():
    graph = make_graph({"a": (), "b": ()})
    nodes = [0] * 40 + [1] * 10
    images = np.array([[0.5, 0.25]] * 50, np.float32)
    counts = count(graph, probe_set([range(40), range(40, 50)], nodes), np.eye(2), images, scale=4.0)
    # the own concept of a scores 1 more than b; some images drew no rival and lose nothing
    for v, margin, n in ((0, -1.0, 40), (1, 1.0, 10)):
        losses = np.logaddexp(0, margin / TEMPERATURES)
        contests = round(counts.nll[v, -1] * 2.0**-20 / losses[-1])
        assert 0.5 * n < contests <= n
        np.testing.assert_array_equal(counts.nll[v], contests * np.rint(losses * 2**20))


def test_a_share_of_many_images_is_enough():
    graph, probes, concepts, images = clouds(n_images=12_000)
    counts = count(graph, probes, concepts, images, scale=8.0, cuts=(5000,))
    assert counts.temperature == pytest.approx(1.0, abs=0.08)
    assert counts.support.sum() == 12_000
