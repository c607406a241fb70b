"""Metrics against hand-computed values and naive loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.metrics import (
    accuracy,
    mean_gap_closed,
    mean_per_class_recall,
    wilcoxon,
)


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
