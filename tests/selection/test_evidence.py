"""What unlabeled images say about models: against plain loops, by hand, and what must not change it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import naive_evidence
from mll_hf.errors import InputError
from mll_hf.selection.evidence import (
    MIN_TRIAL_IMAGES,
    Calibration,
    Shares,
    beliefs_from_predictions,
    calibrate,
    check_image_count,
    class_offsets,
    compare_models,
    expected_shares,
    gather_evidence,
    image_scale,
    model_scores,
    n_to_combine,
    pooling_weights,
)
from mll_hf.selection.probabilities import entropy, log_softmax, mutual_information, softmax
from worlds import examples

few_examples = settings(examples, max_examples=25)


@st.composite
def trials(draw, most_images=MIN_TRIAL_IMAGES + 5, most_classes=5):
    """Logits [M, N, C] of models of unlike scale, lean and skill on images of random classes, and their prior [M]."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n_models, n_classes = draw(st.integers(1, 4)), draw(st.integers(1, most_classes))
    n_images = draw(st.integers(MIN_TRIAL_IMAGES, most_images))
    return random_logits(rng, n_models, n_images, n_classes), rng.random(n_models)


def random_logits(rng, n_models=3, n_images=40, n_classes=4):
    shown = np.eye(n_classes)[rng.integers(n_classes, size=n_images)]
    skill, lean, scale = rng.uniform(0, 4, n_models), rng.uniform(0, 2, n_models), rng.uniform(0.2, 5, n_models)
    logits = skill[:, None, None] * shown + rng.normal(size=(n_models, n_images, n_classes))
    logits += lean[:, None, None] * rng.normal(size=(n_models, 1, n_classes))
    return scale[:, None, None] * logits


def logits_that_answer(answers, n_classes, margin=10.0):
    """[N, C] logits of a model that gives these answers, and is sure of each."""
    return margin * np.eye(n_classes)[answers]


# --- probabilities ----------------------------------------------------------------------------------------------------


def test_entropy_and_softmax_by_hand():
    np.testing.assert_allclose(softmax(np.log([[1, 3], [2, 2]])), [[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_allclose(log_softmax(np.log([1.0, 3.0])), np.log([0.25, 0.75]))
    np.testing.assert_allclose(entropy(np.array([[0.5, 0.5], [1, 0]])), [math.log(2), 0])
    assert softmax(np.zeros((2, 3), np.float32)).dtype == np.float64


def test_mutual_information_by_hand():
    # sure of each of two classes: ln 2; sure of one class always: 0; never sure: 0
    sure, stuck, unsure = [[1, 0], [0, 1]], [[1, 0], [1, 0]], [[0.5, 0.5], [0.5, 0.5]]
    # (.8, .2) and (.4, .6): the mean (.6, .4) has .673012 nats, they have .500402 and .673012, .586707 on average
    some = [[0.8, 0.2], [0.4, 0.6]]
    told = mutual_information(np.array([sure, stuck, unsure, some]))
    np.testing.assert_allclose(told, [math.log(2), 0, 0, 0.673012 - 0.586707], atol=2e-6)


@examples
@given(trials())
def test_mutual_information_against_a_naive_loop(trial):
    probabilities = softmax(trial[0])
    most = math.log(max(probabilities.shape[2], 2))
    expected = [naive_evidence.information(model) for model in probabilities.tolist()]
    np.testing.assert_allclose(mutual_information(probabilities) / most, expected, atol=1e-12)


# --- scale ------------------------------------------------------------------------------------------------------------


def test_image_scale_by_hand():
    # the identity less a half everywhere: all four deviations are one half
    assert image_scale(np.eye(2)[None]).tolist() == [0.5]
    # what holds for an image or a class alone does not count: 5 for the first image, 7 for the second class
    assert image_scale(np.eye(2)[None] + [[5, 12], [0, 7]]).tolist() == [0.5]
    np.testing.assert_allclose(image_scale(np.stack([np.eye(2), 30 * np.eye(2)])), [0.5, 15])


@examples
@given(trials())
def test_image_scale_against_a_naive_loop(trial):
    expected = [naive_evidence.image_scale(model) for model in trial[0].tolist()]
    np.testing.assert_allclose(image_scale(trial[0]), expected, rtol=1e-9, atol=1e-11)


# --- shares and offsets -----------------------------------------------------------------------------------------------


@examples
@given(trials(), st.integers(0, 5))
def test_expected_shares_against_a_naive_loop(trial, n_frequent):
    answers, n_classes = trial[0][0].argmax(axis=1), trial[0].shape[2]
    n_frequent = min(n_frequent, n_classes)
    expected = naive_evidence.expected_shares(answers.tolist(), n_classes, n_frequent)
    np.testing.assert_allclose(expected_shares(answers, n_classes, n_frequent), expected)


def test_the_most_frequent_class_keeps_its_share_and_what_is_left_is_nearly_equal():
    answers = np.repeat([0, 1, 2, 3], [70, 20, 0, 6])
    nearly_equal, one_leads, as_answered = (expected_shares(answers, 4, n_frequent) for n_frequent in (0, 1, 4))
    np.testing.assert_allclose(as_answered, np.array([71, 21, 1, 7]) / 100)
    assert one_leads[0] == pytest.approx(0.71)
    others = np.array([21, 1, 7]) ** 0.35
    np.testing.assert_allclose(one_leads[1:], 0.29 * others / others.sum())
    powers = np.array([71, 21, 1, 7]) ** 0.35
    np.testing.assert_allclose(nearly_equal, powers / powers.sum())
    # no order of the classes decides: those that are as frequent lead, too
    np.testing.assert_allclose(expected_shares(np.repeat([0, 1, 2], [9, 9, 1]), 3, 1), np.array([10, 10, 2]) / 22)


def biased_logits(answers, n_classes, n_models=5, bias=2.0, seed=0):
    """[M, N, C] logits of models that are often right, with a preference of each for classes of its own."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n_models, len(answers), n_classes))
    return logits_that_answer(answers, n_classes, 3) + noise + bias * rng.normal(size=(n_models, 1, n_classes))


@pytest.mark.parametrize("seed", range(3))
def test_shares_follow_what_models_agree_on(seed):
    frequent, equal = np.repeat(np.arange(8), [170, *[10] * 7]), np.repeat(np.arange(8), 30)
    for right, most_wrong in ((frequent, 0.5), (equal, 0.25)):
        logits = biased_logits(right, 8, seed=seed)
        evidence = gather_evidence(logits, np.full(5, 0.5), ())
        true = np.bincount(right, minlength=8) / len(right)
        calibration = evidence.calibration
        assert np.abs(calibration.shares - true).sum() < most_wrong
        assert (calibration.shares[0] > 0.4) == (true[0] > 0.4)
        alone = (logits.argmax(axis=2) == right).mean()
        scaled = logits / calibration.temperatures[:, None, None] + calibration.offsets[:, None, :]
        assert (scaled.argmax(axis=2) == right).mean() > alone + 0.1
    # with equal shares most images of the frequent class would go to others
    forced = calibrate(biased_logits(frequent, 8, seed=seed), np.full(5, 0.5), Shares.EQUAL)
    scaled = biased_logits(frequent, 8, seed=seed) / forced.temperatures[:, None, None] + forced.offsets[:, None, :]
    assert (scaled.argmax(axis=2) == frequent).mean() < 0.5


def test_shares_as_asked_for():
    logits, prior = random_logits(np.random.default_rng(2)), np.full(3, 0.5)
    np.testing.assert_allclose(calibrate(logits, prior, Shares.EQUAL).shares, np.full(4, 0.25))
    given_ = np.array([5, 3, 2, 0])
    shares = calibrate(logits, prior, given_).shares
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2, 0], atol=1e-5)
    assert shares.min() > 0
    assert np.isfinite(calibrate(logits, prior, given_).offsets).all()
    answers = calibrate(logits, prior, Shares.ANSWERS)
    assert np.unique(np.round(answers.shares * (40 + 4), 9) % 1).tolist() == [0]
    automatic = calibrate(logits, prior)
    assert automatic.shares.max() <= answers.shares.max() + 1e-12


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0, 0, 0, 0], [1, 1, 1, -1], [1, 1, 1, math.nan], [[1, 1, 1, 1]], 1])
def test_shares_that_are_none(shares):
    logits = random_logits(np.random.default_rng(2))
    with pytest.raises(InputError, match="shares of classes must be 4 numbers, none below 0 and not all 0"):
        gather_evidence(logits, np.full(3, 0.5), (), np.array(shares, float))


@pytest.mark.parametrize("shares", list(Shares))
def test_one_model_alone_can_be_corrected(shares):
    logits = random_logits(np.random.default_rng(2), n_models=1)
    found = calibrate(logits, np.full(1, 0.5), shares)
    corrected = logits / found.temperatures[:, None, None] + found.offsets[:, None, :]
    assert found.agreement[0] == (corrected.argmax(axis=2) == logits.argmax(axis=2)).mean()


# --- consent ---------------------------------------------------------------------------------------------------------


@examples
@given(trials(most_images=MIN_TRIAL_IMAGES))
def test_log_ratio_and_confirmation_against_a_naive_loop(trial):
    logits, weights = trial
    shares = np.full(logits.shape[2], 1 / logits.shape[2])
    found = compare_models(softmax(logits), shares, weights)
    expected = naive_evidence.compare_models(softmax(logits).tolist(), shares.tolist(), weights.tolist())
    np.testing.assert_allclose(found[0], expected[0], atol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-9)


def test_consent_by_hand():
    # two classes, equally frequent; both models give .8 to the same class: .64 and .04, over .5
    alike = np.array([[[0.8, 0.2]], [[0.8, 0.2]]])
    log_ratio, confirmation = compare_models(alike, np.full(2, 0.5), np.ones(2))
    np.testing.assert_allclose(log_ratio, np.full((2, 1), math.log(1.36)))
    np.testing.assert_allclose(confirmation, np.full((2, 1), 64 / 68))
    # to different classes: .16 twice
    log_ratio, confirmation = compare_models(np.array([[[0.8, 0.2]], [[0.2, 0.8]]]), np.full(2, 0.5), np.ones(2))
    np.testing.assert_allclose(log_ratio, np.full((2, 1), math.log(0.64)))
    np.testing.assert_allclose(confirmation, np.full((2, 1), 0.5))
    # a frequent class is agreed on by chance
    log_ratio, confirmation = compare_models(alike, np.array([0.8, 0.2]), np.ones(2))
    np.testing.assert_allclose(log_ratio, np.zeros((2, 1)), atol=1e-12)
    np.testing.assert_allclose(confirmation, np.full((2, 1), 0.8))


def test_one_model_is_confirmed_by_nothing_but_itself():
    probabilities = softmax(random_logits(np.random.default_rng(0), n_models=1))
    log_ratio, confirmation = compare_models(probabilities, np.full(4, 0.25), np.zeros(1))
    np.testing.assert_allclose(log_ratio, 0, atol=1e-12)
    np.testing.assert_allclose(confirmation, probabilities.max(axis=2))


def test_estimated_accuracy_rises_with_confirmation_and_is_surer_with_more_images():
    rising, same = np.linspace(0, 1, 5), np.full(5, 0.5)
    for estimate in (
        beliefs_from_predictions(rising, same, 50).accuracy,
        beliefs_from_predictions(same, rising, 50).accuracy,
    ):
        assert (np.diff(estimate.accuracy) > 0).all()
        assert (estimate.low > 0).all()
        assert ((estimate.low < estimate.accuracy) & (estimate.accuracy < estimate.high)).all()
        assert (estimate.high < 1).all()
    few, many = (beliefs_from_predictions(same, same, n).accuracy for n in (50, 5000))
    np.testing.assert_allclose(few.accuracy, many.accuracy)
    assert (few.low < many.low).all()
    assert (many.high < few.high).all()


def test_an_estimate_is_near_the_truth_where_models_err_independently():
    right = np.repeat(np.arange(8), 40)
    logits = biased_logits(right, 8, bias=0.5)
    evidence = gather_evidence(logits, np.full(5, 0.5), ())
    calibration = evidence.calibration
    answers = (logits / calibration.temperatures[:, None, None] + calibration.offsets[:, None, :]).argmax(axis=2)
    true = (answers == right).mean(axis=1)
    estimate = evidence.beliefs.accuracy
    np.testing.assert_allclose(estimate.accuracy, true, atol=0.1)
    assert ((estimate.low < true) & (true < estimate.high)).all()


@pytest.mark.parametrize(
    ("gaps", "combined"), [([0], 1), ([0, 0], 2), ([0, 0.1], 1), ([0, 0.01, 0.02, 0.02], 3), ([0, 0.04, 0.06], 2)]
)
def test_models_about_as_good_are_combined(gaps, combined):
    # ln 4 / (12 ln 10) = .050: what quarters a weight
    for n_first in range(len(gaps)):
        assert n_to_combine(0.7 - np.roll(gaps, n_first), 10) == combined


@few_examples
@given(trials())
def test_offsets_against_a_naive_loop(trial):
    shares = np.random.default_rng(7).dirichlet(np.ones(trial[0].shape[2]))
    shares = (shares + 0.1) / (shares + 0.1).sum()
    expected = [naive_evidence.plan_offsets(model, shares.tolist()) for model in trial[0].tolist()]
    np.testing.assert_allclose(class_offsets(trial[0], shares), expected, atol=1e-8)


def test_with_offsets_the_classes_come_to_the_expected_shares():
    rng = np.random.default_rng(0)
    logits = random_logits(rng, n_models=4, n_images=5000, n_classes=5)
    scaled = 2 * logits / image_scale(logits)[:, None, None]
    shares = np.array([0.4, 0.25, 0.15, 0.1, 0.1])
    before = softmax(scaled).mean(axis=1)
    after = softmax(scaled + class_offsets(scaled, shares)[:, None, :]).mean(axis=1)
    assert np.abs(before - shares).max() > 0.1
    np.testing.assert_allclose(after, np.tile(shares, (4, 1)), atol=1e-3)


def test_offsets_shrink_with_few_images():
    rng, shares = np.random.default_rng(1), np.full(10, 0.1)
    scaled = np.tile(random_logits(rng, n_models=2, n_images=20, n_classes=10), (1, 50, 1))  # 1000 images: 20, 50 times
    sizes = [np.abs(class_offsets(scaled[:, :n], shares)).mean() for n in (20, 100, 1000)]
    assert sizes[0] < sizes[1] < sizes[2]
    # the images are the same, so nothing but their number makes the difference: 20 / 30 and 1000 / 1010
    assert sizes[0] / sizes[2] == pytest.approx((20 / 30) / (1000 / 1010))


def test_offsets_take_back_a_lean():
    # on 300 images, as many of each class, a model likes the first class by 3 whatever it sees
    answers = np.repeat([0, 1, 2], 100)
    scaled = 2 * np.eye(3)[answers] + [3, 0, 0]
    offsets = class_offsets(scaled[None], np.full(3, 1 / 3))[0]
    np.testing.assert_allclose(offsets, [-2, 1, 1], atol=0.02)
    assert offsets.sum() == pytest.approx(0)
    assert (scaled.argmax(axis=1) == answers).mean() == pytest.approx(1 / 3)
    assert ((scaled + offsets).argmax(axis=1) == answers).all()


# --- scores and weights -----------------------------------------------------------------------------------------------


def test_scores_are_agreement_and_a_little_of_the_label():
    told = Calibration(np.ones(2), np.zeros((2, 3)), np.array([0.1, 0.6]), np.array([0.6, 0.1]), np.full(3, 1 / 3))
    assert model_scores(told, np.array([0.4, 1])).tolist() == pytest.approx([0.64, 0.2])
    per_class = model_scores(told, np.array([[0.4, 0.6, 0], [1, 1, 1]]))
    np.testing.assert_allclose(per_class, [[0.64, 0.66, 0.6], [0.2, 0.2, 0.2]])


@examples
@given(
    scores=hnp.arrays(np.float64, st.integers(1, 6), elements=st.floats(-1, 1.1)), n_classes=st.sampled_from([1, 2, 9])
)
def test_pooling_weights_against_a_naive_loop(scores, n_classes):
    weights = pooling_weights(scores, n_classes)
    np.testing.assert_allclose(weights, naive_evidence.pooling_weights(scores.tolist(), n_classes), atol=1e-12)
    assert weights.sum() == pytest.approx(1)


def test_a_tenth_of_a_nat_is_worth_what_it_says():
    tenth = 0.1 / math.log(50)
    first, second = pooling_weights(np.array([0.3 + tenth, 0.3]), 50)
    assert first / second == pytest.approx(math.exp(1.2))


# --- all of it --------------------------------------------------------------------------------------------------------


@few_examples
@given(trials())
def test_calibration_against_a_naive_loop(trial):
    logits, prior = trial
    temperatures, offsets, told, agrees, shares, _ = naive_evidence.calibrate(logits.tolist(), prior.tolist())
    found = calibrate(logits, prior)
    np.testing.assert_allclose(found.temperatures, temperatures, rtol=1e-9, atol=1e-11)
    if logits.shape[2] > 1:  # one class has no scale, and so no logits that compare
        np.testing.assert_allclose(found.offsets, offsets, atol=1e-7)
    np.testing.assert_allclose(found.information, told, atol=1e-9)
    np.testing.assert_allclose(found.agreement, agrees, atol=1e-7)
    np.testing.assert_allclose(found.shares, shares, atol=1e-9)


def test_evidence_is_the_calibration_of_all_images():
    logits, prior = random_logits(np.random.default_rng(5)), np.array([0.2, 0.5, 0.4])
    evidence, found = gather_evidence(logits, prior, ("a {}",)), calibrate(logits, prior)
    assert evidence.calibration == found
    assert (evidence.n_images, evidence.templates) == (40, ("a {}",))
    np.testing.assert_array_equal(evidence.prior, prior)
    np.testing.assert_allclose(evidence.scores, found.agreement + 0.1 * prior)
    assert evidence.combine == n_to_combine(evidence.scores, 4)


def test_taking_some_of_the_models():
    logits, prior = random_logits(np.random.default_rng(5)), np.array([0.2, 0.5, 0.4])
    evidence = gather_evidence(logits, prior, ("a {}",))
    taken = evidence.subset(np.array([2, 0]))
    assert (taken.n_images, taken.templates) == (evidence.n_images, evidence.templates)
    for name in ("prior", "confirmation", "scores"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(evidence, name)[[2, 0]])
    for name in ("temperatures", "offsets", "information", "agreement"):
        whole = getattr(evidence.calibration, name)
        np.testing.assert_array_equal(getattr(taken.calibration, name), whole[[2, 0]])
    np.testing.assert_array_equal(taken.calibration.shares, evidence.calibration.shares)


def test_a_model_that_is_right_says_more_than_one_that_guesses_or_always_says_the_same():
    rng = np.random.default_rng(0)
    right = rng.integers(5, size=200)
    noise = rng.normal(size=(200, 5))
    good = logits_that_answer(right, 5, margin=6) + noise
    doubtful = logits_that_answer(right, 5, margin=1.5) + noise
    random = noise[::-1]
    stuck = logits_that_answer(np.zeros(200, int), 5, margin=20) + noise
    told = calibrate(np.stack([random, good, stuck, doubtful]), np.zeros(4)).information
    assert told[1] > 0.8
    assert told[1] > told[3] + 0.2
    assert told[3] > max(told[0], told[2])
    assert told[2] < 0.05


@pytest.mark.parametrize("n_classes", [2, 3, 5, 7])
def test_rounding_does_not_make_information_negative(n_classes):
    for n_images in range(MIN_TRIAL_IMAGES, 60):
        assert 0 <= calibrate(np.zeros((1, n_images, n_classes)), np.zeros(1)).information[0] < 1e-12


@pytest.mark.parametrize("n_images", [1, MIN_TRIAL_IMAGES - 1])
def test_too_few_images(n_images):
    with pytest.raises(InputError, match=f"^{n_images} readable images are too few .* give at least 16$"):
        gather_evidence(np.zeros((2, n_images, 3)), np.zeros(2), ())
    with pytest.raises(InputError):
        check_image_count(n_images)
    check_image_count(MIN_TRIAL_IMAGES)


# --- what changes nothing ---------------------------------------------------------------------------------------------


@examples
@given(trial=trials(), data=st.data())
def test_scales_of_models_and_constants_of_images_change_nothing(trial, data):
    logits, prior = trial
    n_models, n_images, n_classes = logits.shape
    factors = np.array([data.draw(st.floats(1e-3, 1e3)) for _ in range(n_models)])[:, None, None]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    constants = rng.normal(scale=10, size=(n_models, n_images, 1))
    before, after = (gather_evidence(z, prior, ()) for z in (logits, factors * (logits + constants)))
    np.testing.assert_allclose(after.calibration.information, before.calibration.information, atol=1e-9)
    assert after.scores.argmax() == before.scores.argmax()
    if n_classes > 1:
        np.testing.assert_allclose(after.calibration.temperatures, before.calibration.temperatures * factors[:, 0, 0])
        np.testing.assert_allclose(after.calibration.offsets, before.calibration.offsets, atol=1e-6)


@examples
@given(trial=trials(), data=st.data())
def test_permuted_images_classes_and_models_give_permuted_evidence(trial, data):
    logits, prior = trial
    models, images, classes = (list(data.draw(st.permutations(range(size)))) for size in logits.shape)
    before = calibrate(logits, prior)
    after = calibrate(logits[models][:, images][:, :, classes], prior[models])
    np.testing.assert_allclose(after.temperatures, before.temperatures[models], atol=1e-9)
    np.testing.assert_allclose(after.information, before.information[models], atol=1e-9)
    if logits.shape[2] > 1:
        np.testing.assert_allclose(after.offsets, before.offsets[models][:, classes], atol=1e-6)


# --- whatever the logits ----------------------------------------------------------------------------------------------


@examples
@given(
    logits=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        st.tuples(st.integers(1, 3), st.integers(MIN_TRIAL_IMAGES, MIN_TRIAL_IMAGES + 4), st.integers(1, 4)),
        elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([-1e4, 0.0, 1e4]),
        fill=st.sampled_from([-1e4, 0.0, 0.1, 1e4]),
    ),
)
def test_evidence_is_finite_whatever_the_logits(logits):
    evidence = gather_evidence(logits, np.full(len(logits), 0.5), ())
    calibration = evidence.calibration
    assert (calibration.temperatures > 0).all()
    assert (calibration.information >= 0).all()
    assert (calibration.information <= 1).all()
    assert 1 <= evidence.combine <= len(logits)
    estimate = evidence.beliefs.accuracy
    assert ((estimate.low > 0) & (estimate.low < estimate.accuracy)).all()
    assert ((estimate.accuracy < estimate.high) & (estimate.high < 1)).all()
    of_calibration = (calibration.temperatures, calibration.offsets, calibration.information, calibration.agreement)
    for values in (*of_calibration, calibration.shares, evidence.confirmation):
        assert np.isfinite(values).all()
        assert values.dtype == np.float64
    weights = pooling_weights(evidence.scores, logits.shape[2])
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "logits",
    [
        np.zeros((2, 20, 3)),
        np.full((2, 20, 3), -1e4),
        np.tile(np.random.default_rng(0).normal(size=(2, 1, 3)), (1, 20, 1)),  # one image, 20 times
        np.random.default_rng(0).normal(size=(2, 20, 1)),  # one class
        np.tile(np.random.default_rng(0).normal(size=(2, 20, 1)), (1, 1, 3)),  # all classes alike
    ],
)
def test_nothing_is_learned_where_nothing_differs(logits):
    evidence = gather_evidence(logits, np.array([0.1, 0.6]), ())
    np.testing.assert_allclose(evidence.calibration.information, [0, 0], atol=1e-12)
    assert not np.signbit(evidence.calibration.information).any()  # or "-0.000" is printed
    assert evidence.scores.argmax() == 1


def test_images_that_are_all_alike_do_not_make_noise_certain():
    rng = np.random.default_rng(0)
    logits = np.repeat(rng.normal(size=(2, 1, 5)), 20, axis=1) + rng.normal(size=(2, 20, 5)) * 1e-9
    probabilities = softmax(logits / calibrate(logits, np.zeros(2)).temperatures[:, None, None])
    one_image = calibrate(logits, np.zeros(2))
    np.testing.assert_allclose(one_image.information, 0, atol=1e-6)
    assert np.ptp(probabilities, axis=1).max() < 1e-5
