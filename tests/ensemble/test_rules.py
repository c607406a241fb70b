"""The rules by hand, and their properties."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mll_hf.ensemble import Rule, combine
from mll_hf.ensemble.rules import entropy, inverse_entropy, linear_pool
from worlds import examples

# One image, two classes: model A says .8, .2 and model B .5, .5.
#   H_A = -.8 ln .8 - .2 ln .2 = .500402 nats = .721928 bits     H_B = .693147 nats = 1 bit
A, B = (0.8, 0.2), (0.5, 0.5)
BOTH, DIAGONAL = np.ones((2, 2), bool), np.eye(2, dtype=bool)


def logits_of(*probabilities):
    """[M, 1, C] logits whose softmax the probabilities are; each model's are shifted by some constant."""
    return np.array([[np.log(p) + 7 * m] for m, p in enumerate(probabilities)])


def test_entropy_by_hand():
    # w_A = .500402 / 1.193549 = .419256, w_B = .580744: p_0 = .419256 * .8 + .580744 * .5 = .625777
    np.testing.assert_allclose(entropy(logits_of(A, B), BOTH), [[0.625777, 0.374223]], atol=1e-6)
    # k = 1: the only weight of a column is 1, so column 0 is A's .8 and column 1 is B's .5, which make 1.3
    np.testing.assert_allclose(entropy(logits_of(A, B), DIAGONAL), [[0.615385, 0.384615]], atol=1e-6)
    # C = (.1, .9): H_C = .325083. Class 0 has A, B, C; class 1 has B, C.
    #   p_0 = (.500402 * .8 + .693147 * .5 + .325083 * .1) / 1.518632 = .513228
    #   p_1 = (.693147 * .5 + .325083 * .9) / 1.018230 = .627706
    # as shares of 1.140934: .449832 and .550168
    chosen = np.array([[True, False], [True, True], [True, True]])
    np.testing.assert_allclose(entropy(logits_of(A, B, (0.1, 0.9)), chosen), [[0.449832, 0.550168]], atol=1e-6)


def test_inverse_entropy_by_hand():
    # Weights in bits: 1 / .721928 = 1.385180 and 1, not normalized over F_y.
    # Both for both: 1.38518 * .8 + .5 = 1.608144 and 1.38518 * .2 + .5 = .777036; of 2.38518: .674223, .325777
    np.testing.assert_allclose(inverse_entropy(logits_of(A, B), BOTH), [[0.674223, 0.325777]], atol=1e-6)
    # k = 1: 1.38518 * .8 = 1.108144 against .5; of 1.608144: .689083, .310917. The weights do not cancel as Eq. 9's do.
    np.testing.assert_allclose(inverse_entropy(logits_of(A, B), DIAGONAL), [[0.689083, 0.310917]], atol=1e-6)


def test_linear_pool_by_hand():
    # weights .75 and .25: .75 * .8 + .25 * .25 = .6625
    pooled = linear_pool(logits_of(A, (0.25, 0.75)), np.array([0.9, 0.3]))
    np.testing.assert_allclose(pooled, [[0.6625, 0.3375]], atol=1e-12)
    # weights that are all zero are equal
    np.testing.assert_allclose(linear_pool(logits_of(A, B), np.zeros(2)), [[0.65, 0.35]])


@examples
@given(
    logits=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=4),
        elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([-1e4, 0.0, 1e4]),
    ),
    rule=st.sampled_from(Rule),
)
def test_probabilities_whatever_the_logits(logits, rule):
    n_models, _, n_classes = logits.shape
    p = combine(rule, logits, np.ones((n_models, n_classes), bool), np.ones(n_models))
    assert p.shape == logits.shape[1:]
    assert p.dtype == np.float64
    assert np.isfinite(p).all()
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)
