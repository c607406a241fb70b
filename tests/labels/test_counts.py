from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from mll_hf.labels.counts import (
    RANK_BINS,
    TEMPERATURES,
    LabelCounts,
    chance_to_win,
    log_loss_units,
    rank_bin,
    wilson_interval,
)

# ---- temperature


def losses_with_minimum_at(temperature):
    return log_loss_units((np.log(TEMPERATURES) - np.log(temperature)) ** 2)


def test_temperature_counts_what_the_model_knows():
    nll = np.stack([losses_with_minimum_at(0.5), losses_with_minimum_at(4.0)])
    counts = replace(LabelCounts.zeros(2, 1), nll=nll)
    counts.ranks[:] = 10 * np.eye(2, RANK_BINS)  # knows the first concept alone
    assert counts.temperature == pytest.approx(0.5, rel=1e-4)
    nothing = replace(LabelCounts.zeros(2, 1), nll=nll)  # then all concepts count alike
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
