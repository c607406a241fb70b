from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.labeling.contest import Contest
from mll_hf.labels.counts import RANK_BINS, TEMPERATURES
from worlds import (
    dags,
    examples,
    make_graph,
    naive_ancestors,
    pools_of,
    probe_set,
    unit,
)


def count(graph, probes, concepts, images, scale=1.0, block=1024):
    """Count the contests, with the images cut into blocks."""
    with patch("mll_hf.labeling.contest._BLOCK", block):
        return Contest(graph, probes, np.asarray(concepts, np.float32), scale).count(images)


def naive(hypernyms, probes, concepts, images):
    """The definition, one contest at a time: hits and support by domain, outscored, ranks."""
    ids = sorted(hypernyms)
    above = {v: {ids.index(a) for a in naive_ancestors(hypernyms, ids[v])} for v in range(len(ids))}
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
            domain_support[probes.domains[x], v] += 1
            if winner is None:
                domain_hits[probes.domains[x], v] += 1
    return domain_hits, domain_support, outscored, ranks, domain_ranks


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
    block = draw(st.integers(1, len(nodes)))
    return hypernyms, graph, probe_set(members, nodes, domains, ("icon", "photo")), concepts, images, block


# ---- against the definition


@examples
@given(worlds())
def test_counts_are_those_of_the_definition(world):
    hypernyms, graph, probes, concepts, images, block = world
    counts = count(graph, probes, concepts, images, block=block)
    expected = naive(hypernyms, probes, concepts, images)
    names = ("domain_hits", "domain_support", "outscored", "ranks", "domain_ranks")
    for name, array in zip(names, expected, strict=True):
        np.testing.assert_array_equal(getattr(counts, name), array, err_msg=name)
    assert counts.undecodable == int(np.isnan(images).any(axis=1).sum())


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
