"""Baselines against naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.scores import leep
from worlds import examples


def predictions(seed, shape):
    exponentials = np.exp(3 * np.random.default_rng(seed).normal(size=shape))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@examples
@given(st.integers(0, 99))
def test_leep_against_loops(seed):
    probabilities, labels = predictions(seed, (12, 3)), np.random.default_rng(seed).integers(4, size=12)
    logs = []
    for n, y in enumerate(labels):
        given = [probabilities[labels == y, z].sum() / probabilities[:, z].sum() for z in range(3)]
        logs.append(np.log(sum(probabilities[n, z] * given[z] for z in range(3))))
    assert leep(probabilities, labels) == pytest.approx(np.mean(logs))
