"""Metrics against hand-computed values and naive loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmark.metrics import (
    accuracy,
    kendall,
    mean_gap_closed,
    mean_per_class_recall,
    spearman,
    top_kendall,
    top_models,
    top_overlap,
    wilcoxon,
)
from worlds import examples

SCORES = hnp.arrays(np.float64, st.integers(2, 9), elements=st.integers(0, 6).map(float))


def test_accuracy_counts_images_and_recall_counts_classes():
    labels = np.array([0, 0, 0, 0, 5, 5])
    predicted = np.array([0, 0, 0, 1, 5, 0])
    assert accuracy(predicted, labels) == pytest.approx(4 / 6)
    assert mean_per_class_recall(predicted, labels) == pytest.approx((3 / 4 + 1 / 2) / 2)  # classes 1 to 4 do not occur


def test_gap_closed():
    general, oracle = np.array([0.4, 0.4, 0.5, 0.6]), np.array([0.8, 0.8, 0.5, 0.6])
    ours = np.array([0.6, 0.3, 0.5, 0.4])
    # (0.45 - 0.475) / (0.675 - 0.475): losses on tasks without a gap count too
    assert mean_gap_closed(ours, general, oracle) == pytest.approx(-0.125)
    assert np.isnan(mean_gap_closed(ours[2:], general[2:], oracle[2:]))
    assert np.isnan(mean_gap_closed(np.array([0.7]), np.array([0.6]), np.array([0.5])))  # the "oracle" is worse


# --- rankings ---------------------------------------------------------------------------------------------------------


def naive_tau_b(left, right):
    pairs = list(itertools.combinations(range(len(left)), 2))
    signs = [(np.sign(left[i] - left[j]), np.sign(right[i] - right[j])) for i, j in pairs]
    untied = [sum(sign[side] != 0 for sign in signs) for side in (0, 1)]
    return sum(a * b for a, b in signs) / np.sqrt(untied[0] * untied[1]) if min(untied) else 0.0


@examples
@given(st.data())
def test_rank_correlations_against_loops(data):
    left = data.draw(SCORES)
    right = data.draw(hnp.arrays(np.float64, len(left), elements=st.integers(0, 6).map(float)))
    assert kendall(left, right) == pytest.approx(naive_tau_b(left, right))
    ranks = [[np.mean([(y < x) + (y == x) / 2 for y in values]) for x in values] for values in (left, right)]
    expected = 0.0 if np.ptp(left) == 0 or np.ptp(right) == 0 else np.corrcoef(*ranks)[0, 1]
    assert spearman(left, right) == pytest.approx(expected)
    common = set(top_models(left, 3)) & set(top_models(right, 3))
    assert top_overlap(left, right, 3) == len(common) / min(3, len(left))
    inside = sorted(common)
    assert top_kendall(left, right, 3) == pytest.approx(
        naive_tau_b(left[inside], right[inside]) if len(inside) > 2 else 0.0
    )


# --- how sure ---------------------------------------------------------------------------------------------------------


def exact_p_value(differences):
    """Share of all assignments of signs whose rank sum is as far from its mean."""
    size = np.abs(differences)
    ranks = np.array([(size < x).sum() + ((size == x).sum() + 1) / 2 for x in size])
    observed = abs(ranks[differences > 0].sum() - ranks.sum() / 2)
    sums = [ranks[np.array(signs)].sum() for signs in itertools.product([False, True], repeat=len(ranks))]
    return np.mean([abs(total - ranks.sum() / 2) >= observed for total in sums])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=8, unique_by=abs).filter(lambda drawn: 0 not in drawn))
def test_wilcoxon_against_all_assignments_of_signs(differences):
    theirs = np.linspace(0.1, 0.5, len(differences))
    ours = theirs + np.array(differences) / 100
    test = wilcoxon(ours, theirs)
    assert test.p_value == pytest.approx(exact_p_value(np.array(differences)))
    assert (test.wins, test.losses) == (sum(d > 0 for d in differences), sum(d < 0 for d in differences))
