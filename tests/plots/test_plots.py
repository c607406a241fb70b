"""What all figures share."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.plots.style import pareto_front
from worlds import examples


@examples
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20))
def test_the_front_is_what_nothing_beats(points):
    costs, values = np.array(points, float).T
    front = pareto_front(costs, values)
    for row in range(len(points)):
        beaten = (
            (costs <= costs[row]) & (values >= values[row]) & ((costs < costs[row]) | (values > values[row]))
        ).any()
        there = (costs[row], values[row]) in {(costs[f], values[f]) for f in front}
        assert there == (not beaten)
    assert (np.diff(costs[front]) > 0).all()
    assert (np.diff(values[front]) > 0).all()
