"""Baselines against naive loops, dense formulas and values worked out by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LinearRegression
from sklearn.metrics import f1_score

from benchmark.baselines.ensembles import confidence_ensemble, sota_transport
from benchmark.baselines.modelgpt import TEXT_FEATURES, predict, rank, text_features
from benchmark.baselines.scores import certainty, leep, logme, mean_confidence, nce, nuclear_norm, shrunk_h_score
from benchmark.baselines.swab import rank_transport, source_weights, transport_plan
from mll_hf.errors import MissingExtraError
from mll_hf.selection.probabilities import mutual_information
from worlds import examples


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def entropy(p):
    return -sum(x * np.log(x) for x in p if x > 0)


def predictions(seed, shape):
    return softmax(3 * np.random.default_rng(seed).normal(size=shape))


# --- without labels ---------------------------------------------------------------------------------------------------


@examples
@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 6), st.integers(2, 5))
def test_unlabeled_scores_against_loops(seed, m, n, c):
    probabilities = predictions(seed, (m, n, c))
    mi, norm, confidence, sure = (
        score(probabilities) for score in (mutual_information, nuclear_norm, mean_confidence, certainty)
    )
    for i, p in enumerate(probabilities):
        mean_entropy = np.mean([entropy(row) for row in p])
        assert mi[i] == pytest.approx(entropy(p.mean(axis=0)) - mean_entropy)
        assert sure[i] == pytest.approx(-mean_entropy)
        assert confidence[i] == pytest.approx(np.mean([max(row) for row in p]))
        root = np.sqrt(np.maximum(np.linalg.eigvalsh(p.T @ p), 0)).sum()
        assert norm[i] == pytest.approx(root / np.sqrt(n * min(n, c)), abs=1e-6)


def test_unlabeled_scores_at_their_ends():
    sure_and_even = np.eye(4)[np.arange(8) % 4]
    one_answer = np.eye(4)[np.zeros(8, int)]
    unsure = np.full((8, 4), 0.25)
    models = np.stack([sure_and_even, one_answer, unsure]).astype(np.float32)
    np.testing.assert_allclose(mutual_information(models), [np.log(4), 0, 0], atol=1e-12)
    np.testing.assert_allclose(nuclear_norm(models), [1, 1 / 2, 1 / 4], atol=1e-12)
    np.testing.assert_allclose(mean_confidence(models), [1, 1, 0.25])
    np.testing.assert_allclose(certainty(models), [0, 0, -np.log(4)], atol=1e-12)


# --- transferability --------------------------------------------------------------------------------------------------


def test_nce_by_hand():
    labels = np.array([0, 0, 1, 1, 7, 7])
    assert nce(np.array([3, 3, 2, 2, 9, 9]), labels) == pytest.approx(0)  # another name for each class
    assert nce(np.zeros(6, int), labels) == pytest.approx(-np.log(3))
    # answer 0 comes with classes 0, 0, 1; answer 1 with 1, 7, 7
    expected = -entropy([2 / 3, 1 / 3])
    assert nce(np.array([0, 0, 0, 1, 1, 1]), labels) == pytest.approx(expected)


@examples
@given(st.integers(0, 99))
def test_leep_against_loops(seed):
    probabilities, labels = predictions(seed, (12, 3)), np.random.default_rng(seed).integers(4, size=12)
    logs = []
    for n, y in enumerate(labels):
        given = [probabilities[labels == y, z].sum() / probabilities[:, z].sum() for z in range(3)]
        logs.append(np.log(sum(probabilities[n, z] * given[z] for z in range(3))))
    assert leep(probabilities, labels) == pytest.approx(np.mean(logs))


def test_leep_of_sure_predictions_is_nce():
    generator = np.random.default_rng(0)
    labels, answers = generator.integers(3, size=(2, 50))
    # log of the expected prediction, averaged, is then minus the conditional entropy
    assert leep(np.eye(4)[answers], labels) == pytest.approx(nce(answers, labels))


def log_evidence(features, target, alpha, beta):
    """log p(target | features, alpha, beta) with the weights integrated out, densely."""
    covariance = features @ features.T / alpha + np.eye(len(features)) / beta
    return multivariate_normal(np.zeros(len(features)), covariance).logpdf(target)


@pytest.mark.parametrize("shape", [(30, 4), (12, 25)], ids=["more images", "more dimensions"])
def test_logme_is_the_greatest_dense_evidence(shape):
    generator = np.random.default_rng(1)
    labels = np.arange(shape[0]) % 3
    features = generator.normal(size=shape) + 0.7 * np.eye(3, shape[1])[labels]
    best = []
    for c in range(3):
        target = (labels == c).astype(float)

        def loss(logs, target=target):
            return -log_evidence(features, target, *np.exp(logs))

        best.append(-min(minimize(loss, start, method="Nelder-Mead").fun for start in ([0, 0], [3, 1])))
    assert logme(features, labels) == pytest.approx(np.mean(best) / shape[0], abs=1e-4)


def test_logme_takes_any_class_numbers_and_prefers_telling_features():
    generator = np.random.default_rng(2)
    labels = np.arange(60) % 4
    noise = generator.normal(size=(60, 8)).astype(np.float32)
    telling = noise + 2 * np.eye(4, 8, dtype=np.float32)[labels]
    assert logme(telling, labels) == logme(telling, 10 + 5 * labels)
    assert logme(telling, labels) > logme(noise, labels)
    assert shrunk_h_score(telling, labels) > shrunk_h_score(noise, labels)
    assert shrunk_h_score(telling, labels) == shrunk_h_score(telling, 10 + 5 * labels)


def test_logme_is_finite_where_features_fit_perfectly_or_say_nothing():
    labels = np.arange(6) % 2
    assert np.isfinite(logme(np.eye(6, 20), labels))
    assert np.isfinite(logme(np.zeros((6, 3)), labels))


def test_h_score_against_the_definition():
    generator = np.random.default_rng(3)
    labels = generator.integers(4, size=50)
    features = generator.normal(size=(50, 6)) + np.eye(4, 6)[labels]
    means = np.stack([features[labels == y].mean(axis=0) for y in labels])
    between = np.cov(means.T, bias=True)
    covariance, shrinkage = ledoit_wolf(features)
    expected = (1 - shrinkage) * np.trace(np.linalg.inv(covariance) @ between)
    assert 0 < shrinkage < 1
    assert shrunk_h_score(features, labels) == pytest.approx(expected)


def test_the_shrunk_h_score_tells_features_apart_with_fewer_images_than_dimensions():
    generator = np.random.default_rng(4)
    labels = np.arange(20) % 4
    noise = generator.normal(size=(20, 60))
    telling = noise + 3 * np.eye(4, 60)[labels]
    assert shrunk_h_score(telling, labels) > 1.5 * shrunk_h_score(noise, labels)


def test_equal_features_score_nothing():
    assert shrunk_h_score(np.ones((6, 3)), np.arange(6) % 2) == pytest.approx(0, abs=1e-9)


# --- ModelGPT ---------------------------------------------------------------------------------------------------------


def test_text_features_against_loops():
    generator = np.random.default_rng(5)
    weights = unit(generator.normal(size=(4, 8)))
    captions = [unit(weights[c] + 0.6 * generator.normal(size=(3 + c, 8))) for c in range(4)]
    synonyms = [unit(weights[c] + 0.6 * generator.normal(size=(1 + c, 8))) for c in range(4)]
    found = dict(zip(TEXT_FEATURES, text_features(weights, captions, synonyms, seed=7), strict=True))
    others = [[o for o in range(4) if o != c] for c in range(4)]
    assert found["intraclass_sim"] == pytest.approx(
        np.mean([max(weights[c] @ weights[o] for o in others[c]) for c in range(4)])
    )
    assert found["inter_close"] == pytest.approx(
        np.mean([np.mean([d @ weights[c] for d in captions[c]]) for c in range(4)])
    )
    assert found["intra_close"] == pytest.approx(
        np.mean([max(np.mean([d @ weights[o] for d in captions[c]]) for o in others[c]) for c in range(4)])
    )
    assert found["superclass_metric"] == pytest.approx(
        np.mean([np.mean([s @ weights[c] for s in synonyms[c]]) for c in range(4)])
    )
    noise = np.random.default_rng(7).normal(0, 0.1, (18, 8))
    labels = [c for c in range(4) for _ in captions[c]]
    answers = [int(np.argmax(weights @ row)) for row in np.concatenate(captions) + noise]
    assert found["text-acc1"] == pytest.approx(np.mean(np.array(answers) == labels))
    assert found["text-f1"] == pytest.approx(f1_score(labels, answers, average="macro"))
    assert found["text-acc1"] != found["text-f1"]


def test_predictions_are_those_of_ordinary_least_squares():
    rng = np.random.default_rng(6)
    known, accuracies, new = rng.normal(size=(5, 3, 3)), rng.random((5, 3)), rng.normal(size=(5, 3))
    relative = accuracies - accuracies.mean(axis=0)
    for found, target in ((predict(known, accuracies, new), accuracies), (rank(known, accuracies, new), relative)):
        expected = LinearRegression().fit(known.reshape(-1, 3), target.reshape(-1)).predict(new)
        np.testing.assert_allclose(found, expected)


def test_linear_accuracies_are_predicted_exactly():
    known = np.random.default_rng(8).normal(size=(3, 6, 2))
    new = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(predict(known, known @ [0.2, -0.1] + 0.5, new), [0.5, 0.7, 0.4])


# --- SWAB -------------------------------------------------------------------------------------------------------------


def cheapest_plan(cost, mass):
    """Optimal partial transport between uniform sides as a linear program."""
    s, c = cost.shape
    of_source = np.kron(np.eye(s), np.ones(c))
    of_target = np.kron(np.ones(s), np.eye(c))
    limits = np.concatenate([np.full(s, 1 / s), np.full(c, 1 / c)])
    whole = {"A_eq": np.ones((1, s * c)), "b_eq": [mass]}
    return linprog(cost.ravel(), A_ub=np.concatenate([of_source, of_target]), b_ub=limits, **whole)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_the_plan_is_the_cheapest(seed):
    generator = np.random.default_rng(seed)
    source, target = unit(generator.normal(size=(5, 3))), unit(generator.normal(size=(4, 3)))
    plan = transport_plan(source, target)
    cost = np.exp(1 - source @ target.T)
    assert plan.min() >= 0
    assert plan.sum() == pytest.approx(0.9)
    assert plan.sum(axis=1).max() <= 1 / 5 + 1e-9
    assert plan.sum(axis=0).max() <= 1 / 4 + 1e-9
    assert (plan * cost).sum() == pytest.approx(cheapest_plan(cost, 0.9).fun, abs=1e-8)


def test_ranks_come_from_the_classes_like_the_targets():
    source = unit(np.array([[1, 0, 0.1], [0, 1, 0.1], [0, 0, 1.0]]))
    accuracies = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.2, 1.0]])  # each model is best on one class
    for best, target in enumerate(np.eye(3)):
        assert rank_transport(accuracies, source_weights(source, target[None])).argmax() == best
    weights = source_weights(source, np.eye(3)[:2])
    np.testing.assert_allclose(weights, [0.45, 0.45, 0], atol=0.05)  # the third class is like no target
    np.testing.assert_allclose(rank_transport(accuracies, np.array([0.5, 0.5, 0])), [1, 1.5, 0.5])


def test_without_a_similar_class_nothing_is_known():
    weights = source_weights(np.array([[1.0, 0]]), np.array([[0, 1.0]]))
    assert rank_transport(np.array([[0.1], [0.9]]), weights).tolist() == [0, 0]


def test_ties_share_their_rank():
    np.testing.assert_allclose(rank_transport(np.array([[0.5], [0.5], [0.1]]), np.ones(1)), [1.5, 1.5, 0])


@pytest.mark.parametrize(("package", "call"), [("ot", transport_plan), ("scipy.stats", rank_transport)])
def test_the_extra_is_named_where_a_package_is_missing(monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"\[bench\]"):
        call(np.eye(2), np.eye(2))


# --- ensembles --------------------------------------------------------------------------------------------------------


def test_confidence_ensemble_against_loops():
    probabilities = predictions(10, (4, 6, 3))
    found = confidence_ensemble(probabilities, strong=2)
    for n in range(6):
        weights = softmax(np.array([max(probabilities[m, n]) for m in (0, 1, 3)]))
        weak = sum(w * probabilities[m, n] for w, m in zip(weights, (0, 1, 3), strict=True))
        np.testing.assert_allclose(found[n], (probabilities[2, n] + weak) / 2)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def naive_transport(probabilities, features):
    """The published pseudocode with an [N, C, D] array of distances."""
    (m, n, c), d = probabilities.shape, [x.shape[1] for x in features]
    z = probabilities.mean(axis=0)
    means = []
    for x in features:
        rows = []
        for y in range(c):
            surest = sorted(range(n), key=lambda i: -z[i, y])[:8]
            rows.append(sum(z[i, y] * x[i] for i in surest))
        means.append(unit(np.array(rows)))
    variances = [np.full(size, 1 / size) for size in d]
    alpha, beta = [1 / max(len(features), 1)] * len(features), [1 / m] * m
    for _ in range(10):
        visual = [
            softmax(-0.5 * ((x[:, None] - mu[None]) ** 2 / var).sum(axis=2) / 50)
            for x, mu, var in zip(features, means, variances, strict=True)
        ]
        total = sum(b * p for b, p in zip(beta, probabilities, strict=True))
        total = total + sum(a * p for a, p in zip(alpha, visual, strict=True))
        z = np.exp((total - total.max(axis=1, keepdims=True)) / 0.01)
        z /= z.sum()
        for _ in range(15):
            before = z.copy()
            z = z / z.sum(axis=0) / c
            z = z / z.sum(axis=1, keepdims=True) / n
            if abs(z - before).max() < 1e-5:
                break
        z = z * n
        agree = [sum(p.argmax(axis=1) == z.argmax(axis=1)) for p in probabilities]
        beta = [a / sum(agree) for a in agree]
        agree = [sum(p.argmax(axis=1) == z.argmax(axis=1)) for p in visual]
        alpha = [a / sum(agree) for a in agree]
        means = [unit(z.T @ x) for x in features]
        variances = [
            (z[..., None] * (x[:, None] - mu[None]) ** 2).sum(axis=(0, 1)) / z.sum()
            for x, mu in zip(features, means, strict=True)
        ]
    return z, beta, alpha


def clusters(seed, n=60, c=3, d=16):
    """Images in c tight clusters, and models that are often wrong about them."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % c
    x = unit(unit(generator.normal(size=(c, d)))[labels] + 0.15 * generator.normal(size=(n, d)))
    noise = generator.normal(size=(3, n, c)) * np.array([1.0, 2.0, 4.0])[:, None, None]
    return softmax(1.5 * np.eye(c)[labels] + noise), x, labels


@pytest.mark.parametrize("n_encoders", [0, 1, 2])
def test_consensus_is_that_of_the_pseudocode(n_encoders):
    probabilities, x, _ = clusters(11)
    features = [x, unit(x[:, :9] + 0.1)][:n_encoders]
    z, beta, alpha = naive_transport(probabilities, features)
    found = sota_transport(probabilities, features)
    np.testing.assert_allclose(found.assignment, z, atol=1e-6)
    np.testing.assert_allclose(found.model_weights, beta)
    np.testing.assert_allclose(found.feature_weights, alpha)


def test_consensus_trusts_the_better_model_and_the_clusters():
    probabilities, x, labels = clusters(12, n=150, d=400)
    found = sota_transport(probabilities, [x])
    right = [(p.argmax(axis=1) == labels).mean() for p in (*probabilities, found.assignment)]
    assert right[3] > 0.95 > max(right[:3])
    assert found.model_weights[0] > found.model_weights[1] > found.model_weights[2]
    np.testing.assert_allclose(found.assignment.sum(axis=1), 1)
    np.testing.assert_allclose(found.assignment.sum(axis=0), 50, rtol=0.05)


def test_consensus_of_single_precision_and_few_images():
    probabilities, x, _ = clusters(13, n=4)
    found = sota_transport(probabilities.astype(np.float32), [x.astype(np.float32)])
    assert np.isfinite(found.assignment).all()
    np.testing.assert_allclose(found.assignment.sum(axis=1), 1)
