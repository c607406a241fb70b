from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import reduce
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.labeling.contest import Contest
from mll_hf.labels.counts import (
    RANK_BINS,
    TEMPERATURES,
    LabelCounts,
    chance_to_win,
    log_loss_units,
    rank_bin,
    wilson_interval,
)
from worlds import examples, make_graph, pools_of, probe_set

# ---- adding up


def assert_same_counts(left, right):
    for f in fields(LabelCounts):
        ours, theirs = getattr(left, f.name), getattr(right, f.name)
        np.testing.assert_array_equal(ours, theirs, err_msg=f.name)
        assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)


@examples
@given(st.data())
def test_counts_of_disjoint_images_add_up_to_those_of_the_whole(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    graph, n_images = make_graph(), 16
    nodes = rng.integers(0, 7, n_images)
    probes = probe_set(pools_of(graph, nodes), nodes, rng.integers(0, 2, n_images), ("a", "b"))
    concepts, images = (rng.integers(-2, 3, (n, 4)).astype(np.float32) for n in (7, n_images))
    images[rng.integers(n_images)] = np.nan
    shards = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n_images, max_size=n_images)))
    contest = Contest(graph, probes, concepts, 5.0)
    parts = [contest.count((x, images[x : x + 1]) for x in np.flatnonzero(shards == shard)) for shard in range(4)]
    assert_same_counts(reduce(LabelCounts.__add__, parts), contest.count([(0, images)]))


def counts_with(n_concepts=5, **arrays):
    return replace(LabelCounts.zeros(n_concepts, 1), **arrays)


# ---- temperature


def losses_with_minimum_at(temperature):
    return log_loss_units((np.log(TEMPERATURES) - np.log(temperature)) ** 2)


def test_temperature_counts_what_the_model_knows():
    nll = np.stack([losses_with_minimum_at(0.5), losses_with_minimum_at(4.0)])
    support = np.array([10, 10], np.int32)
    known = counts_with(2, nll=nll, support=support, hits=np.array([10, 0], np.int32))
    assert known.temperature == pytest.approx(0.5, rel=1e-4)
    nothing = counts_with(2, nll=nll, support=support)  # then all concepts count alike
    assert nothing.temperature == pytest.approx(np.sqrt(0.5 * 4.0), rel=1e-4)


# ---- precision


def naive_chance_to_win(n_rivals, n_candidates, bin):
    """Enumerate all draws of rivals without replacement, for every rank that the bin can hold."""
    ranks = [r for r in range(n_rivals + 1) if rank_bin(np.array([r]))[0] == bin]
    draws = list(combinations(range(n_rivals), min(n_candidates - 1, n_rivals)))  # rivals 0 to r - 1 beat the image
    chances = [sum(min(draw, default=r) >= r for draw in draws) / len(draws) for r in ranks]
    return sum(chances) / len(chances) if chances else float(n_candidates == 1 or n_rivals == 0)


@pytest.mark.parametrize("n_rivals", [0, 1, 2, 5, 9, 12])
@pytest.mark.parametrize("n_candidates", [1, 2, 4, 10, 13, 20])
def test_chance_to_win_against_all_draws(n_rivals, n_candidates):
    expected = [naive_chance_to_win(n_rivals, n_candidates, bin) for bin in range(RANK_BINS)]
    np.testing.assert_allclose(chance_to_win(n_rivals, n_candidates), expected, rtol=1e-9, atol=1e-12)


def test_wilson_interval_against_its_equation():
    assert wilson_interval(0, 0) == (0, 1)
    for successes, trials in ((0, 10), (3, 10), (10, 10), (49, 50), (500, 1000)):
        share = successes / trials
        for bound in wilson_interval(successes, trials):
            if 1e-9 < bound < 1 - 1e-9:  # the interval's ends are where the share is 1.96 standard errors away
                assert abs(share - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / trials))
        lower, upper = wilson_interval(successes, trials)
        assert lower - 1e-12 <= share <= upper + 1e-12
