"""The rules against naive loops and by hand; running models that stay loaded on any number of images."""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

import naive_evidence
from mll_hf.ensemble import Rule, combine, residents, run
from mll_hf.ensemble.residents import free_memory
from mll_hf.ensemble.rules import (
    PoolParameters,
    confidence,
    entropy,
    inverse_entropy,
    linear_pool,
    log_pool,
    recalibrated,
    softmax,
    transport,
    uniform,
    votes,
)
from mll_hf.ensemble.run import Ensemble, Prediction
from mll_hf.errors import InputError, ModelError
from mll_hf.matching.prompts import fill, templates_for
from mll_hf.models import Link
from mll_hf.selection import SelectionConfig, Strategy, select
from mll_hf.selection.task import MIN_IMAGES, trial_sample
from mll_hf.utils.images import open_image
from selection_worlds import random_candidates
from worlds import examples

# --- the rules by hand ------------------------------------------------------------------------------------------------

# One image, two classes: model A says .8, .2 and model B .5, .5.
#   H_A = -.8 ln .8 - .2 ln .2 = .500402 nats = .721928 bits     H_B = .693147 nats = 1 bit
A, B = (0.8, 0.2), (0.5, 0.5)
BOTH, DIAGONAL = np.ones((2, 2), bool), np.eye(2, dtype=bool)


def logits_of(*probabilities):
    """[M, 1, C] logits whose softmax the probabilities are; each model's are shifted by some constant."""
    return np.array([[np.log(p) + 7 * m] for m, p in enumerate(probabilities)])


def pool_parameters(temperatures, weights, prior=None, offsets=None):
    """Trust in models; by default their labels make expect a precision of one half, and they lean nowhere."""
    temperatures, weights = np.asarray(temperatures, float), np.asarray(weights, float)
    prior = np.full(len(weights), 0.5) if prior is None else np.asarray(prior, float)
    return PoolParameters(temperatures, weights, prior, None if offsets is None else np.asarray(offsets, float))


def test_entropy_by_hand():
    # w_A = .500402 / 1.193549 = .419256, w_B = .580744: p_0 = .419256 * .8 + .580744 * .5 = .625777
    np.testing.assert_allclose(entropy(logits_of(A, B), BOTH), [[0.625777, 0.374223]], atol=1e-6)


def test_entropy_with_one_model_per_class_by_hand():
    # k = 1: the only weight of a column is 1, so column 0 is A's .8 and column 1 is B's .5, which make 1.3
    np.testing.assert_allclose(entropy(logits_of(A, B), DIAGONAL), [[0.615385, 0.384615]], atol=1e-6)


def test_entropy_with_three_models_by_hand():
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


def test_uniform_by_hand():
    np.testing.assert_allclose(uniform(logits_of(A, B), BOTH), [[0.65, 0.35]], atol=1e-6)
    # class 0 by both: .65; class 1 by B alone: .5; of 1.15
    chosen = np.array([[True, False], [True, True]])
    np.testing.assert_allclose(uniform(logits_of(A, B), chosen), [[0.565217, 0.434783]], atol=1e-6)


def test_confidence_by_hand():
    # w_A : w_B = e^.8 : e^.5 = .574443 : .425557: p_0 = .574443 * .8 + .425557 * .5 = .672333
    np.testing.assert_allclose(confidence(logits_of(A, B), BOTH), [[0.672333, 0.327667]], atol=1e-6)


def test_linear_pool_by_hand():
    # T = (1, 2), shares .75 and .25. C = (.1, .9) at T = 2: sqrt .1 : sqrt .9 = 1 : 3 = (.25, .75).
    # .75 * .8 + .25 * .25 = .6625
    pooled = linear_pool(logits_of(A, (0.1, 0.9)), BOTH, pool_parameters([1, 2], [0.9, 0.3]))
    np.testing.assert_allclose(pooled, [[0.6625, 0.3375]], atol=1e-12)
    # every model of the union answers for every class, and only those of the union
    np.testing.assert_allclose(linear_pool(logits_of(A, B), DIAGONAL, pool_parameters([1, 1], [1, 1])), [[0.65, 0.35]])
    lone = linear_pool(logits_of(A, B), np.array([[True, False], [False, False]]), pool_parameters([1, 1], [1, 1]))
    np.testing.assert_allclose(lone, [A])
    # no trust in anyone is the same trust in all
    np.testing.assert_allclose(linear_pool(logits_of(A, B), BOTH, pool_parameters([1, 1], [0, 0])), [[0.65, 0.35]])


def test_offsets_are_added_to_the_calibrated_logits():
    # .8 : .2 with ln 2 for the second class is .8 : .4; C at T = 2 is 1 : 3 and with ln 3 for the first class 3 : 3
    parameters = pool_parameters([1, 2], [0.9, 0.3], offsets=[[0, np.log(2)], [np.log(3), 0]])
    # .75 * 2/3 + .25 * 1/2 = .625
    pooled = linear_pool(logits_of(A, (0.1, 0.9)), BOTH, parameters)
    np.testing.assert_allclose(pooled, [[0.625, 0.375]], atol=1e-12)
    # (2/3)^.75 (1/2)^.25 against (1/3)^.75 (1/2)^.25: 2^.75 : 1 = .627115 of 1
    pooled = log_pool(logits_of(A, (0.1, 0.9)), BOTH, parameters)
    np.testing.assert_allclose(pooled, [[0.627115, 0.372885]], atol=1e-6)


def test_log_pool_by_hand():
    # T = (1, 2), shares .75 and .25. A at T = 2 would be (sqrt .8, sqrt .2) / sum = (2/3, 1/3); here A has T = 1.
    # C = (.1, .9) at T = 2: sqrt .1 : sqrt .9 = 1 : 3 = (.25, .75).
    # .8^.75 * .25^.25 = .598139; .2^.75 * .75^.25 = .278316; of .876455: .682453
    pooled = log_pool(logits_of(A, (0.1, 0.9)), BOTH, pool_parameters([1, 2], [0.9, 0.3]))
    np.testing.assert_allclose(pooled, [[0.682453, 0.317547]], atol=1e-5)
    # every model of the union answers for every class, and only those of the union
    lone = log_pool(
        logits_of(A, (0.1, 0.9)), np.array([[True, False], [False, False]]), pool_parameters([1, 1], [1, 1])
    )
    np.testing.assert_allclose(lone, [A], atol=1e-12)
    # no trust in anyone is the same trust in all
    pooled = log_pool(logits_of(A, B), BOTH, pool_parameters([1, 1], [0, 0]))
    np.testing.assert_allclose(pooled, [[2 / 3, 1 / 3]], atol=1e-12)


@pytest.mark.parametrize("rule", Rule)
def test_models_that_are_certain_and_disagree(rule):
    # H = 0 for both models, one certain of each class: nothing tells them apart
    logits = np.array([[[1e4, 0.0]], [[0.0, 1e4]]])
    np.testing.assert_allclose(combine(rule, logits, BOTH, pool_parameters([1, 1], [1, 1])), [[0.5, 0.5]])


# --- the rules against naive loops ------------------------------------------------------------------------------------


def naive(rule, logits, chosen, parameters):
    """Each rule image by image and class by class, from its equation."""
    n_models, n_images, n_classes = logits.shape
    temperatures, weights = parameters.temperatures, parameters.weights
    offsets = np.zeros((n_models, n_classes)) if parameters.offsets is None else parameters.offsets
    if rule is Rule.TRANSPORT and n_images >= MIN_IMAGES:
        union = [m for m in range(n_models) if any(chosen[m])]
        return naive_evidence.transport(logits[union].tolist(), parameters.prior[union].tolist())
    answer = np.zeros((n_images, n_classes))
    for x in range(n_images):
        p, h = [], []
        for m in range(n_models):
            exponentials = [math.exp(logit - max(logits[m, x])) for logit in logits[m, x]]
            p.append([e / sum(exponentials) for e in exponentials])
            h.append(-sum(q * math.log2(q) for q in p[m] if q > 0))
        for y in range(n_classes):
            members = [m for m in range(n_models) if chosen[m, y]]
            match rule:
                case Rule.ENTROPY:
                    answer[x, y] = sum(h[m] / sum(h[n] for n in members) * p[m][y] for m in members)
                case Rule.INVERSE_ENTROPY:
                    answer[x, y] = sum(1 / h[m] * p[m][y] for m in members)
                case Rule.UNIFORM:
                    answer[x, y] = sum(p[m][y] for m in members) / len(members)
                case Rule.CONFIDENCE:
                    total = sum(math.exp(max(p[n])) for n in members)
                    answer[x, y] = sum(math.exp(max(p[m])) / total * p[m][y] for m in members)
                case Rule.LINEAR_POOL | Rule.TRANSPORT:  # few images say nothing of their own
                    union = [m for m in range(n_models) if any(chosen[m])]
                    total = sum(weights[m] for m in union)
                    for m in union:
                        sharpened = [(z - max(logits[m, x])) / temperatures[m] for z in logits[m, x]]
                        sharpened = [math.exp(z + b) for z, b in zip(sharpened, offsets[m], strict=True)]
                        answer[x, y] += weights[m] / total * sharpened[y] / sum(sharpened)
                case Rule.LOG_POOL:
                    union = [m for m in range(n_models) if any(chosen[m])]
                    total = sum(weights[m] for m in union)
                    answer[x, y] = 1
                    for m in union:
                        sharpened = [(z - max(logits[m, x])) / temperatures[m] for z in logits[m, x]]
                        sharpened = [math.exp(z + b) for z, b in zip(sharpened, offsets[m], strict=True)]
                        answer[x, y] *= (sharpened[y] / sum(sharpened)) ** (weights[m] / total)
        answer[x] /= sum(answer[x])
    return answer


@st.composite
def pools(draw, scale=3.0, n_images=(1, 3)):
    """Logits [M, N, C], who is chosen [M, C] (somebody for every class), and trust in the models."""
    n_models, n_images, n_classes = draw(st.integers(1, 4)), draw(st.integers(*n_images)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    chosen = rng.random((n_models, n_classes)) < draw(st.sampled_from([0.2, 0.5, 1.0]))
    chosen[rng.integers(n_models, size=n_classes), np.arange(n_classes)] = True
    logits = scale * rng.standard_normal((n_models, n_images, n_classes))
    temperatures, weights, prior = (rng.uniform(*of, n_models) for of in ((0.3, 3), (0.1, 1), (0, 1)))
    offsets = rng.normal(size=(n_models, n_classes)) if draw(st.booleans()) else None
    return logits, chosen, pool_parameters(temperatures, weights, prior, offsets)


def of_models(parameters, models, **fields):
    """Trust in some of the models, in the order given."""
    offsets = None if parameters.offsets is None else parameters.offsets[models]
    taken = PoolParameters(
        parameters.temperatures[models], parameters.weights[models], parameters.prior[models], offsets
    )
    return replace(taken, **fields)


@examples
@given(pool=pools())
def test_every_rule_against_a_naive_loop(pool):
    if pool[0].shape[2] == 1:
        return  # one class has entropy 0, by which the naive loop would divide
    for rule in Rule:
        np.testing.assert_allclose(combine(rule, *pool), naive(rule, *pool), atol=1e-9, err_msg=rule)


@settings(examples, max_examples=25)
@given(pool=pools(n_images=(MIN_IMAGES, MIN_IMAGES + 4)))
def test_transport_of_many_images_against_a_naive_loop(pool):
    np.testing.assert_allclose(transport(*pool), naive(Rule.TRANSPORT, *pool), atol=1e-9)


@examples
@given(pool=pools(n_images=(1, MIN_IMAGES - 1)))
def test_transport_of_few_images_is_the_linear_pool(pool):
    np.testing.assert_array_equal(transport(*pool), linear_pool(*pool))


@examples
@given(pool=pools())
def test_combine_dispatches_to_the_rule(pool):
    logits, chosen, parameters = pool
    direct = {
        Rule.ENTROPY: entropy(logits, chosen),
        Rule.INVERSE_ENTROPY: inverse_entropy(logits, chosen),
        Rule.UNIFORM: uniform(logits, chosen),
        Rule.CONFIDENCE: confidence(logits, chosen),
        Rule.LINEAR_POOL: linear_pool(logits, chosen, parameters),
        Rule.LOG_POOL: log_pool(logits, chosen, parameters),
        Rule.TRANSPORT: transport(logits, chosen, parameters),
    }
    assert set(direct) == set(Rule)
    for rule, expected in direct.items():
        np.testing.assert_array_equal(combine(rule, *pool), expected)


# --- properties of the rules ------------------------------------------------------------------------------------------


@examples
@given(
    logits=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=4),
        elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([-1e4, 0.0, 1e4]),
    ),
    chosen_bits=st.integers(0, 2**16 - 1),
    temperature=st.floats(0.05, 20),
)
def test_probabilities_whatever_the_logits(logits, chosen_bits, temperature):
    n_models, _, n_classes = logits.shape
    chosen = np.array([chosen_bits >> bit & 1 for bit in range(n_models * n_classes)], bool)
    chosen = chosen.reshape(n_models, n_classes)
    chosen[0] |= ~chosen.any(axis=0)
    for rule in Rule:
        p = combine(rule, logits, chosen, pool_parameters(np.full(n_models, temperature), np.ones(n_models)))
        assert p.shape == logits.shape[1:]
        assert p.dtype == np.float64
        assert np.isfinite(p).all()
        assert (p >= 0).all()
        np.testing.assert_allclose(p.sum(axis=1), 1)


@examples
@given(
    logits=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(st.integers(1, 3), st.integers(MIN_IMAGES, MIN_IMAGES + 2), st.integers(1, 4)),
        elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([-1e4, 0.0, 1e4]),
        fill=st.sampled_from([-1e4, 0.0, 1e4]),
    )
)
def test_transport_gives_probabilities_whatever_the_logits(logits):
    n_models, _, n_classes = logits.shape
    p = transport(logits, np.ones((n_models, n_classes), bool), pool_parameters(np.ones(n_models), np.ones(n_models)))
    assert p.shape == logits.shape[1:]
    assert p.dtype == np.float64
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_transport_asks_only_the_models_of_the_union():
    logits = np.random.default_rng(0).normal(size=(3, MIN_IMAGES, 4))
    chosen = np.array([[True] * 4, [False] * 4, [True, False, False, False]])
    parameters = pool_parameters([1, 1, 1], [1, 1, 1], [0.1, 0.9, 0.4])
    alone = transport(logits[[0, 2]], chosen[[0, 2]], of_models(parameters, [0, 2]))
    np.testing.assert_array_equal(transport(logits, chosen, parameters), alone)


@examples
@given(pool=pools() | pools(n_images=(MIN_IMAGES, MIN_IMAGES)), data=st.data(), rule=st.sampled_from(Rule))
def test_permutations_of_classes_images_and_models(pool, data, rule):
    logits, chosen, parameters = pool
    models, images, classes = (list(data.draw(st.permutations(range(size)))) for size in logits.shape)
    expected = combine(rule, *pool)[images][:, classes]
    permuted = logits[models][:, images][:, :, classes]
    offsets = None if parameters.offsets is None else parameters.offsets[models][:, classes]
    actual = combine(rule, permuted, chosen[models][:, classes], of_models(parameters, models, offsets=offsets))
    np.testing.assert_allclose(actual, expected, atol=1e-9)


@examples
@given(
    pool=pools() | pools(n_images=(MIN_IMAGES, MIN_IMAGES)),
    rule=st.sampled_from(Rule),
    shift=st.floats(-100, 100),
)
def test_a_constant_in_the_logits_changes_nothing(pool, rule, shift):
    # so the logit bias of sigmoid models does no harm
    logits, *others = pool
    np.testing.assert_allclose(combine(rule, logits + shift, *others), combine(rule, *pool), atol=1e-9)


@examples
@given(pool=pools(), rule=st.sampled_from(Rule))
def test_one_model_for_all_classes_is_left_as_it_is(pool, rule):
    logits = pool[0][:1]
    alone = combine(rule, logits, np.ones((1, logits.shape[2]), bool), pool_parameters([1], [1]))
    np.testing.assert_allclose(alone, softmax(logits[0]), atol=1e-9)


@examples
@given(pool=pools(), share=st.floats(0, 1), pooling=st.sampled_from([linear_pool, log_pool, transport]))
def test_pools_do_not_mind_twins(pool, share, pooling):
    logits, chosen, parameters = pool
    expected = pooling(*pool)

    def double(array):
        return np.concatenate([array, array])

    # all models twice, with the same weights
    twice = pooling(double(logits), double(chosen), of_models(parameters, double(np.arange(len(logits)))))
    np.testing.assert_allclose(twice, expected, atol=1e-9)
    # one model twice, sharing its weight
    first = [0, *range(len(logits))]
    split = parameters.weights[first]
    split[:2] = parameters.weights[0] * share, parameters.weights[0] * (1 - share)
    shared = pooling(logits[first], chosen[first], of_models(parameters, first, weights=split))
    np.testing.assert_allclose(shared, expected, atol=1e-9)


@examples
@given(
    pool=pools(),
    factor=st.floats(0.01, 100),
    m=st.integers(0, 3),
    pooling=st.sampled_from([linear_pool, log_pool, transport]),
)
def test_pools_see_logits_only_through_the_temperature(pool, factor, m, pooling):
    logits, chosen, parameters = pool
    scale = np.ones(len(logits))
    scale[m % len(logits)] = factor
    scaled = pooling(
        logits * scale[:, None, None], chosen, replace(parameters, temperatures=parameters.temperatures * scale)
    )
    np.testing.assert_allclose(scaled, pooling(*pool), atol=1e-9)


@examples
@given(pool=pools(n_images=(MIN_IMAGES, MIN_IMAGES)), factor=st.floats(0.01, 100), m=st.integers(0, 3))
def test_transport_of_many_images_sees_neither_scales_nor_leans_nor_weights(pool, factor, m):
    logits, chosen, parameters = pool
    scale = np.ones(len(logits))
    scale[m % len(logits)] = factor
    other = pool_parameters(np.ones(len(scale)), np.zeros(len(scale)), parameters.prior)
    scaled = transport(logits * scale[:, None, None], chosen, other)
    np.testing.assert_allclose(scaled, transport(*pool), atol=1e-9)


@examples
@given(pool=pools(), factor=st.floats(0.01, 100), pooling=st.sampled_from([linear_pool, log_pool, transport]))
def test_pools_see_weights_only_as_shares(pool, factor, pooling):
    logits, chosen, parameters = pool
    scaled = pooling(logits, chosen, replace(parameters, weights=factor * parameters.weights))
    np.testing.assert_allclose(scaled, pooling(*pool), atol=1e-9)


@examples
@given(pool=pools())
def test_a_sure_model_is_trusted_less_by_the_paper_and_more_by_its_code(pool):
    logits = np.concatenate([pool[0][:1], 0 * pool[0][:1]])  # the second model knows nothing
    chosen, n_classes = np.ones((2, logits.shape[2]), bool), logits.shape[2]
    sure, pulled, pushed = softmax(logits[0]), entropy(logits, chosen), inverse_entropy(logits, chosen)
    half = (sure + 1 / n_classes) / 2
    distance = np.abs(half - 1 / n_classes).sum(axis=1)
    assert (np.abs(pulled - 1 / n_classes).sum(axis=1) <= distance + 1e-9).all()
    assert (np.abs(pushed - 1 / n_classes).sum(axis=1) >= distance - 1e-9).all()


# --- running models ---------------------------------------------------------------------------------------------------

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColorModel:
    """Sees the mean color of an image and reads color words; keeps a diary of what is done with it."""

    link = Link.SOFTMAX
    batch_size = 64

    def __init__(self, ref, diary, bias=0.0, scale=10.0, fails=False, takes_bytes=False):
        self.ref, self.diary, self.logit_bias, self.logit_scale, self.fails = ref, diary, bias, scale, fails
        self.batches, self.takes_bytes = [], takes_bytes
        diary.append(("load", ref.short_name))

    def preprocess(self, image):
        import torch

        assert image.mode == "RGB"
        return torch.from_numpy(np.asarray(image, np.float32).mean(axis=(0, 1)) + 1)

    def compact(self, image):
        return (self.preprocess(image) - 1).byte() if self.takes_bytes else self.preprocess(image)

    def encode_pixels(self, pixels):
        if self.takes_bytes:
            assert str(pixels.dtype) == "torch.uint8"
            pixels = pixels.float() + 1
        if self.fails:
            raise ModelError(self.ref.repo_id, "is broken")
        self.batches.append(len(pixels))
        return (pixels / pixels.norm(dim=1, keepdim=True)).numpy()

    def encode_texts(self, texts):
        self.diary.append(("texts", self.ref.short_name, tuple(texts)))
        rows = [next((c for word, c in COLORS.items() if word in text), (1, 1, 1)) for text in texts]
        rows = np.array(rows, np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def close(self):
        self.diary.append(("close", self.ref.short_name))


class Diary(list):
    """What models and the decoder do, in order.

    Attributes:
        models: The models that were loaded, by name.
        options: Further arguments for models to come, by name.
        memory: Bytes that are free.
    """

    def __init__(self):
        super().__init__()
        self.models, self.options, self.memory = {}, {}, math.inf


@pytest.fixture
def diary(monkeypatch):
    """Models are ColorModels, and they and the decoder write into a diary."""
    diary = Diary()

    def load(ref, device, token=None, dtype=None):
        assert device == "somewhere"
        model = ColorModel(ref, diary, **diary.options.get(ref.short_name, {}))
        diary.models[ref.short_name] = model
        return model

    def counting(source):
        diary.append(("decode",))
        return open_image(source)

    monkeypatch.setattr(residents, "load_model", load)
    monkeypatch.setattr(residents, "free_memory", lambda device: diary.memory)
    monkeypatch.setattr(run, "open_image", counting)
    return diary


def make_selection(k=3, strategy=Strategy.MLL, domain=None, task=None):
    candidates = random_candidates(n_models=3, n_classes=3, domain=domain)
    candidates = replace(candidates, match=replace(candidates.match, classes=tuple(COLORS)))
    return select(candidates, SelectionConfig(strategy, k=k), task)


def png(color, size=(4, 4), mode="RGB"):
    content = io.BytesIO()
    Image.new(mode, size, color).save(content, format="PNG")
    return content.getvalue()


def names_of(selection):
    return [model.ref.short_name for model in selection.models]


def loads(diary):
    return [entry for entry in diary if entry[0] in ("load", "close")]


def test_models_stay_loaded_and_each_image_is_decoded_once(diary):
    selection = make_selection()
    images = [png(COLORS[color]) for color in ("green", "red", "blue", "green")]
    ensemble = Ensemble(selection, device="somewhere")
    prediction = ensemble.predict(images)
    assert prediction.labels == ("green", "red", "blue", "green")
    assert prediction.classes == ("red", "green", "blue")
    assert prediction.models == tuple(model.ref.repo_id for model in selection.models)
    np.testing.assert_allclose(prediction.probabilities.sum(axis=1), 1)
    assert ensemble.predict(images[::-1]).labels == ("green", "blue", "red", "green")
    names = names_of(selection)
    steps = [entry[:2] for entry in diary if entry[0] != "decode"]
    assert steps == [(step, name) for name in names for step in ("load", "texts")]
    assert diary.count(("decode",)) == 8
    ensemble.close()
    assert loads(diary)[3:] == [("close", name) for name in names]
    assert ensemble.predict(images[:1]).labels == ("green",)
    assert loads(diary)[6:] == [("load", name) for name in names]
    assert len([entry for entry in diary if entry[0] == "texts"]) == 3  # kept


@pytest.mark.parametrize(("keep", "n_loads"), [(1, 3 + 2 * 3), (2, 3 + 1 * 3), (3, 3), (None, 3)])
def test_the_least_recently_used_model_is_evicted(diary, monkeypatch, keep, n_loads):
    monkeypatch.setattr(run, "_EVICTION_BATCH", 2)
    selection = make_selection()
    images = [png(COLORS[color]) for color in ("green", "red", "blue", "green", "blue", "red")]
    ensemble = Ensemble(selection, device="somewhere", keep_loaded=keep)
    assert ensemble.predict(images).labels == ("green", "red", "blue", "green", "blue", "red")
    assert diary.count(("decode",)) == 6
    loaded, most = [], 0
    for step, name in loads(diary):
        if step == "load":
            loaded.append(name)
        else:
            loaded.remove(name)
        most = max(most, len(loaded))
    assert most == (keep or 3)
    # one pass before the first image; then each of three batches of two loads only those that are not there
    assert sum(step == "load" for step, _ in loads(diary)) == n_loads
    assert len([entry for entry in diary if entry[0] == "texts"]) == 3
    if keep == 2:
        a, b, c = names_of(selection)
        assert loads(diary)[:5] == [("load", a), ("load", b), ("close", a), ("load", c), ("close", b)]


def test_models_are_evicted_where_memory_is_short(diary):
    selection = make_selection()
    needed = [8 * model.cost.parameters for model in selection.models]
    diary.memory = max(needed) - 1
    largest = int(np.argmax(needed))
    ensemble = Ensemble(selection, device="somewhere")
    assert ensemble.predict([png("blue"), png("red")]).labels == ("blue", "red")
    freed = loads(diary)
    before = freed.index(("load", names_of(selection)[largest]))
    assert largest == 0 or freed[before - 1][0] == "close"


@pytest.mark.parametrize("option", ["batch_size", "keep_loaded"])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(InputError, match=f"{option} is 0"):
        Ensemble(make_selection(), **{option: 0})


@pytest.mark.parametrize("device", [None, "cpu"])
def test_free_memory(device):
    assert 0 < free_memory(device) < 2**50 or free_memory(device) == math.inf


def test_a_container_bounds_the_free_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(residents, "_CGROUP", tmp_path)
    whole = free_memory("cpu")
    for name, content in {"memory.max": "5000\n", "memory.current": "4000\n"}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 300\n")
    assert free_memory("cpu") == 1300
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory("cpu") > min(whole / 2, 10**6)


def test_only_the_models_of_the_union_run(diary):
    selection = make_selection(k=1)
    prediction = Ensemble(selection, device="somewhere").predict([png("red")])
    assert list(diary.models) == [selection.models[0].ref.short_name]
    assert prediction.models == (selection.models[0].ref.repo_id,)


@pytest.mark.parametrize("rule", Rule)
def test_predictions_are_the_rule_of_the_models_logits(diary, rule):
    # the first and the third model answer; their logit scales are 10 and 5
    scores = np.array([[0.9] * 3, [0.5] * 3, [0.3] * 3])
    chosen = np.array([[True, False, True], [False, False, False], [True, True, False]])
    selection = replace(make_selection(), scores=scores, chosen=chosen)
    first, _, third = selection.models
    diary.options[third.ref.short_name] = {"scale": 5.0}
    images = [png((200, 90, 10)), png((10, 20, 30)), png((90, 90, 80))]
    prediction = Ensemble(selection, device="somewhere").predict(images, rule)
    assert prediction.models == (first.ref.repo_id, third.ref.repo_id)
    # cosines of the mean colors (plus one) with those of the color words
    colors = np.array([(201, 91, 11), (11, 21, 31), (91, 91, 81)], float)
    cosines = colors / np.linalg.norm(colors, axis=1, keepdims=True)
    parameters = pool_parameters([first.temperature, third.temperature], [0.9, 0.3])
    logits = np.stack([10 * cosines, 5 * cosines])
    expected = naive(rule, logits, chosen[[0, 2]], parameters)
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)


def test_negative_scores_of_the_paper_do_not_spoil_the_weights(diary):
    # only the first model counts, whose logits are 10 times (0, 0, 1), nearly; the others would say (1/3, 1/3, 1/3)
    selection = make_selection()
    selection = replace(selection, scores=np.array([[0.9] * 3, [-0.3] * 3, [-0.5] * 3]))
    diary.options.update({model.ref.short_name: {"scale": 0.0} for model in selection.models[1:]})
    prediction = Ensemble(selection, device="somewhere").predict([png("blue")])
    favorite = math.exp(10 / selection.models[0].temperature)
    assert prediction.probabilities[0, 2] == pytest.approx(favorite / (favorite + 2), rel=1e-3)


def test_a_model_that_fails_gets_the_memory_of_all_before_it_fails_for_good(diary):
    selection = make_selection()
    first, second, third = names_of(selection)
    diary.options[second] = {"fails": True}
    with pytest.raises(ModelError, match="is broken"):
        Ensemble(selection, device="somewhere").predict([png("red")])
    assert loads(diary) == [
        *(("load", name) for name in (first, second, third)),
        *(("close", name) for name in (third, first, second)),  # the first has answered since the third was loaded
        ("load", second),
        ("close", second),
    ]


@pytest.mark.parametrize("where", ["encode_pixels", "encode_texts"])
def test_memory_that_runs_out_in_the_middle(diary, monkeypatch, where):
    """A model that fails beside others is run again alone, and not beside them again; no answer is lost."""
    selection = make_selection()
    alone, calls, failures = getattr(ColorModel, where), [], []

    def encode(self, inputs):
        calls.append(self.ref.short_name)
        open_models = sum(1 if step == "load" else -1 for step, _ in loads(diary))
        if open_models > 1 and len(calls) > (4 if where == "encode_pixels" else 1):
            failures.append(self.ref.short_name)
            raise ModelError(self.ref.repo_id, "out of memory")
        return alone(self, inputs)

    monkeypatch.setattr(ColorModel, where, encode)
    images = [png(COLORS[color]) for color in ("green", "red", "blue", "green", "blue", "red")]
    ensemble = Ensemble(selection, device="somewhere", batch_size=2)
    batches = [prediction.labels for prediction in ensemble.stream(images)]
    assert batches == [("green", "red"), ("blue", "green"), ("blue", "red")]
    assert 1 <= len(failures) <= 2


def test_streams_take_any_iterable_and_do_not_read_far_ahead(diary):
    taken = []

    def pictures():
        for n in range(1000):
            taken.append(n)
            yield Image.new("RGB", (4, 4), list(COLORS)[n % 3])

    stream = Ensemble(make_selection(), device="somewhere", batch_size=10).stream(pictures())
    assert taken == []
    first, second = next(stream), next(stream)
    assert first.labels == ("red", "green", "blue") * 3 + ("red",)
    assert second.labels[:3] == ("green", "blue", "red")
    assert len(taken) <= 20 + 32 + 10  # what was given, at most a task of the threads, one batch
    stream.close()
    assert list(Ensemble(make_selection(), device="somewhere").stream(iter(()))) == []


def test_a_stream_says_the_same_as_one_prediction(diary):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)) for _ in range(23)]
    images[7] = b"broken"
    whole = Ensemble(make_selection(), device="somewhere").predict(images)
    for rule in Rule:
        parts = list(Ensemble(make_selection(), device="somewhere", batch_size=5).stream(images, rule))
        joined = np.concatenate([part.probabilities for part in parts])
        assert np.flatnonzero(np.isnan(joined).any(axis=1)).tolist() == [7]
        if rule is Rule.LINEAR_POOL:
            np.testing.assert_allclose(joined, whole.probabilities, atol=1e-6)


def test_transport_calibrates_on_a_sample_and_streams(diary, monkeypatch):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)) for _ in range(60)]
    images[3] = b"broken"
    ensemble = Ensemble(make_selection(), device="somewhere", batch_size=8)
    whole = ensemble.predict(images, Rule.TRANSPORT).probabilities
    logits = ensemble.logits(images)
    readable = np.isfinite(logits).all(axis=(0, 2))
    parameters = pool_parameters([1] * 3, [1] * 3, np.clip(ensemble.selection.overall, 0, 1))
    expected = transport(logits[:, readable], ensemble.selection.chosen, parameters)
    np.testing.assert_allclose(whole[readable], expected, atol=1e-6)
    # a smaller sample: the same pool with other temperatures, weights and offsets, those of the sample
    monkeypatch.setattr(run, "_SAMPLE", 40)
    sample = trial_sample(60, 40)
    of_sample = recalibrated(logits[:, [n for n in sample if n != 3]], ensemble.selection.chosen, parameters)
    expected = linear_pool(logits[:, readable], ensemble.selection.chosen, of_sample)
    parts = list(ensemble.stream(images, Rule.TRANSPORT))
    assert [len(part.probabilities) for part in parts] == [8] * 7 + [4]
    streamed = np.concatenate([part.probabilities for part in parts])
    np.testing.assert_allclose(streamed[readable], expected, atol=1e-6)
    assert np.abs(streamed[readable] - whole[readable]).max() > 1e-6
    # whoever goes on later with the rest gives the same sample, and gets the same answers
    rest = np.concatenate([p.probabilities for p in ensemble.stream(iter(images[50:]), Rule.TRANSPORT, sample=images)])
    np.testing.assert_allclose(rest, streamed[50:], atol=1e-6)
    with pytest.raises(InputError, match="a list of images, or a sample"):
        next(ensemble.stream(iter(images), Rule.TRANSPORT))


def test_models_that_prepare_images_alike_share_the_work(diary, monkeypatch):
    prepared = []

    def preprocess(self, image, original=ColorModel.preprocess):
        if image.size == (4, 4):
            prepared.append(self.ref.short_name)
        return original(self, image) + (1e-4 if self.ref.short_name == different else 0)

    monkeypatch.setattr(ColorModel, "preprocess", preprocess)
    selection = make_selection()
    first, _, different = names_of(selection)
    images = [png(COLORS[color]) for color in ("green", "red", "blue")]
    assert Ensemble(selection, device="somewhere").predict(images).labels == ("green", "red", "blue")
    assert sorted(prepared) == sorted([first, different] * 3)


def test_models_that_normalize_themselves_beside_others(diary):
    images = [png(color) for color in COLORS.values()]
    expected = Ensemble(make_selection(), device="somewhere").logits(images)
    for names in (["m00"], ["m01", "m02"], ["m00", "m01", "m02"]):
        diary.options = {name: {"takes_bytes": True} for name in names}
        np.testing.assert_array_equal(Ensemble(make_selection(), device="somewhere").logits(images), expected)


def test_unreadable_images_get_no_answer(diary, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "good.png").write_bytes(png("blue"))
    truncated = Image.open(io.BytesIO(png((1, 2, 3), size=(64, 64))[:90]))  # opens, but cannot be loaded
    images = [
        png("red"),
        b"no picture",
        tmp_path / "missing.png",
        str(tmp_path / "empty.png"),
        tmp_path,
        "a\0b",
        truncated,
        str(tmp_path / "good.png"),
        Image.new("RGBA", (3, 3), (0, 255, 0, 255)),
    ]
    prediction = Ensemble(make_selection(), device="somewhere").predict(images)
    assert prediction.unreadable == (1, 2, 3, 4, 5, 6)
    assert prediction.labels == ("red", None, None, None, None, None, None, "blue", "green")
    assert np.isnan(prediction.probabilities[1:7]).all()
    assert np.isfinite(prediction.probabilities[[0, 7, 8]]).all()


def test_nothing_readable_at_all(diary):
    prediction = Ensemble(make_selection(), device="somewhere").predict([b"", b"x"])
    assert prediction.labels == (None, None)
    assert prediction.unreadable == (0, 1)
    assert prediction.probabilities.shape == (2, 3)


def test_pictures_and_files_are_both_turned_upright(diary, tmp_path):
    # stored with its red half to the right, turned upright by its orientation tag the red half is on the left
    stored = Image.new("RGB", (8, 8), "blue")
    stored.paste("red", (4, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 2  # mirrored
    stored.save(tmp_path / "turned.png", exif=exif)
    ensemble, seen = Ensemble(make_selection(k=1), device="somewhere"), []

    def preprocess(self, image, original=ColorModel.preprocess):
        seen.append(image.getpixel((1, 1)))
        return original(self, image)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorModel, "preprocess", preprocess)
        ensemble.predict([tmp_path / "turned.png", Image.open(tmp_path / "turned.png")])
    assert seen == [(255, 0, 0), (255, 0, 0)]


@pytest.mark.parametrize("n_images", [1, 3, 4, 5, 11])
def test_batches_that_do_not_divide(diary, n_images):
    colors = [list(COLORS)[n % 3] for n in range(n_images)]
    images = [png(COLORS[color]) for color in colors]
    images[n_images // 2] = b"broken"
    prediction = Ensemble(make_selection(), device="somewhere", batch_size=4).predict(images)
    expected = [None if n == n_images // 2 else color for n, color in enumerate(colors)]
    assert list(prediction.labels) == expected
    for model in diary.models.values():
        assert sum(model.batches) == n_images - 1
        assert max(model.batches, default=0) <= 4


def test_a_trial_runs_one_model_at_a_time_on_pictures_that_it_keeps(diary, monkeypatch):
    selection = make_selection()
    images = [png(COLORS[color]) for color in COLORS]
    for kept, n_decoded in ((10**6, 3), (20, 1 + 2 * 3)):  # one picture of 16 pixels fits into 20
        monkeypatch.setattr(run, "_PIXELS_KEPT", kept)
        diary.clear()
        answer = Ensemble(selection, device="somewhere").model_runner(images)
        for m in (2, 0, 1):
            assert answer(m).argmax(axis=1).tolist() == [0, 1, 2]
        assert diary.count(("decode",)) == n_decoded
        names = [names_of(selection)[m] for m in (2, 0, 1)]
        assert loads(diary) == [(step, name) for name in names for step in ("load", "close")]


def test_images_in_every_sorry_state(diary, tmp_path):
    """One bad image is one missing answer; odd ones are read."""
    photo = Image.new("RGB", (64, 48), COLORS["blue"])

    def saved(image, kind, **options):
        content = io.BytesIO()
        image.save(content, format=kind, **options)
        return content.getvalue()

    bomb = bytearray(saved(Image.new("1", (8, 8)), "PNG"))
    bomb[16:24] = (30_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    frames = [Image.new("RGB", (16, 16), COLORS[color]) for color in ("blue", "red")]
    images = {
        "truncated": saved(photo, "JPEG")[:400],
        "16-bit": saved(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"),
        "CMYK": saved(photo.convert("CMYK"), "JPEG"),
        "animated gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated webp": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "30,000 px square": bytes(bomb),
        "30,000 px strip": saved(Image.new("RGB", (30_000, 8), COLORS["blue"]), "PNG"),
        "30,000 px": saved(Image.new("RGB", (30_000, 300), COLORS["blue"]), "PNG"),
        "fine": saved(photo, "PNG"),
    }
    labels = Ensemble(make_selection(), device="somewhere").predict(list(images.values())).labels
    found = dict(zip(images, labels, strict=True))
    unread = ["truncated", "30,000 px square", "30,000 px strip"]
    assert [name for name, label in found.items() if label is None] == unread
    assert {found[name] for name in ("CMYK", "animated gif", "animated webp", "30,000 px", "fine")} == {"blue"}


@pytest.mark.parametrize("where", ["open", "preprocess"])
def test_a_picture_for_which_memory_is_short_is_one_failed_item(diary, monkeypatch, where):
    def fail(image, *rest):
        if image.size == (9, 9):
            raise MemoryError
        return original(image, *rest)

    if where == "open":
        original = ImageOps.exif_transpose
        monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    else:
        whole, original = ColorModel.preprocess, lambda image, model: whole(model, image)
        monkeypatch.setattr(ColorModel, "preprocess", lambda self, image: fail(image, self))
    images = [png("red"), png("green", size=(9, 9)), png("blue")]
    assert Ensemble(make_selection(), device="somewhere").predict(images).labels == ("red", None, "blue")


@pytest.mark.parametrize(
    ("domain", "task"), [(None, None), ("pencil sketch", None), ("photo", "traffic sign recognition"), ("icon", None)]
)
def test_prompts_follow_the_domain(diary, domain, task):
    Ensemble(make_selection(k=2, domain=domain, task=task), device="somewhere").predict([png("red")])
    asked = [entry[2] for entry in diary if entry[0] == "texts"]
    templates = templates_for(domain, task)
    assert asked == [tuple(text for name in COLORS for text in fill(templates, name))] * 2


def test_prompts_of_a_class_are_averaged(diary):
    # "a {}" embeds "red" as (1, 0, 0), "a dark one" as (1, 1, 1) / sqrt 3: the mean of the unit vectors is what counts
    ensemble = Ensemble(make_selection(k=1), device="somewhere", templates=("a {}", "{}"))
    monkey = ColorModel.encode_texts

    def encode_texts(self, texts):
        plain = monkey(self, texts)
        plain[1::2] = np.ones(3) / np.sqrt(3)
        return plain

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorModel, "encode_texts", encode_texts)
        logits = ensemble.logits([png((254, 254, 254))])
    # the image is gray, (1, 1, 1) / sqrt 3; a class is (1 + a, a, a) with a = 1 / sqrt 3, of length sqrt(2 + 2a)
    a = 1 / math.sqrt(3)
    np.testing.assert_allclose(logits, [[[10 * (1 + 3 * a) * a / math.sqrt(2 + 2 * a)] * 3]], rtol=1e-5)


def test_a_wrong_template_costs_no_model(diary):
    with pytest.raises(InputError, match="exactly one"):
        Ensemble(make_selection(), device="somewhere", templates=("no place",)).predict([png("red")])
    assert diary == []


@pytest.mark.parametrize("images", [[], (), "image.png", b"bytes", Path("image.png"), Image.new("RGB", (4, 4))])
def test_a_list_of_images_is_wanted(diary, images):
    with pytest.raises(InputError, match="give a list with at least one"):
        Ensemble(make_selection(), device="somewhere").predict(images)
    assert diary == []


def test_the_bias_of_sigmoid_models_is_part_of_the_logits(diary):
    selection = make_selection(k=2)
    first, second = (selection.models[m].ref.short_name for m in (0, 1))
    diary.options[second] = {"bias": -12.5}
    ensemble = Ensemble(selection, device="somewhere")
    logits = ensemble.logits([png("red"), b"broken"])
    assert logits.shape == (2, 2, 3)
    np.testing.assert_allclose(logits[1, 0], logits[0, 0] - 12.5, rtol=1e-5)
    assert np.isnan(logits[:, 1]).all()
    with_bias = ensemble.predict([png((9, 8, 7))]).probabilities
    diary.options.clear()
    np.testing.assert_allclose(ensemble.predict([png((9, 8, 7))]).probabilities, with_bias, atol=1e-6)
    assert first != second


def test_predictions_know_their_labels():
    prediction = Prediction(("a", "b"), np.array([[0.2, 0.8], [np.nan, np.nan], [0.5, 0.5]]), ("org/m",))
    assert prediction.labels == ("b", None, "a")
    assert prediction.unreadable == (1,)


def test_predictions_compare_by_value_and_cannot_be_changed():
    first, second = (Prediction(("a", "b"), np.array([[0.2, 0.8], [np.nan, np.nan]]), ("org/m",)) for _ in range(2))
    assert first == second
    assert first != replace(second, models=("org/other",))
    assert first != replace(second, probabilities=np.array([[0.3, 0.7], [np.nan, np.nan]]))
    with pytest.raises(ValueError, match="read-only"):
        first.probabilities[0] = 0


def test_votes_are_what_the_linear_pool_pools():
    logits, parameters = logits_of(A, (0.1, 0.9)), pool_parameters([1, 2], [0.9, 0.3])
    weights, probabilities = votes(logits, BOTH, parameters)
    np.testing.assert_allclose(weights, [0.75, 0.25])
    np.testing.assert_allclose(probabilities.sum(axis=2), 1)
    np.testing.assert_allclose(np.einsum("m,mnc->nc", weights, probabilities), linear_pool(logits, BOTH, parameters))
