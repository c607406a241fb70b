"""Fitting heads to images: synthetic models whose text heads are tilted, a naive implementation, and real models."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mll_hf.errors import InputError
from mll_hf.selection import Head
from mll_hf.selection.fit import DEFAULT, SHARPNESS, STRENGTHS, _best_strengths, _Images, fit
from mll_hf.selection.probabilities import image_scale, mutual_information, pooling_weights, softmax
from mll_hf.selection.suggest import folds_of
from worlds import unit

C, D, UNSEEN = 6, 24, 400
TESTBED = Path(os.environ.get("MLL_TESTBED", Path(__file__).parents[3] / "shared" / "testbed"))
WHU = TESTBED / "real_predictions" / "whu_rs19.npz"


def make_world(n_images, n_models=3, seed=0, shares=None, tilt=0.9):
    """Images [N + UNSEEN, D] and a head of each model, and the true classes.

    A model embeds an image as the sum of a direction that all share, one of its class, and noise; the text head of a
    class is tilted from its direction.
    """
    rng = np.random.default_rng(seed)
    true = rng.choice(C, n_images + UNSEEN, p=shares)
    images, heads = [], []
    for _ in range(n_models):
        directions, common = unit(rng.normal(size=(C, D))), 1.5 * unit(rng.normal(size=(1, D)))
        images.append(unit(common + directions[true] + 0.15 * rng.normal(size=(len(true), D))))
        heads.append(Head.zero_shot(unit(directions + tilt * unit(rng.normal(size=(C, D)))), 100.0))
    return images, heads, true


def seen(images, n_images):
    return [each[:n_images] for each in images]


def accuracies(heads, images, true):
    """[M] on the images that were not fitted."""
    pairs = zip(heads, images, strict=True)
    return np.array([(h.logits(x[-UNSEEN:]).argmax(axis=1) == true[-UNSEEN:]).mean() for h, x in pairs])


# --- what it gains ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [None, [0.6, *[0.08] * 5]])
@pytest.mark.parametrize("n_models", [1, 3])
def test_fitted_heads_predict_other_images_better_and_examples_improve_them(n_models, shares):
    gains = []
    for seed in range(5):
        images, heads, true = make_world(150, n_models, seed, shares)
        plain = fit(seen(images, 150), heads)
        taught = fit(seen(images, 150), heads, true[:50])
        before, after, best = (accuracies(h, images, true) for h in (plain.zero_shot, plain.heads, taught.heads))
        np.testing.assert_array_equal(before, accuracies(heads, images, true))
        gains.append([(after - before).mean(), (best - after).mean()])
    unlabeled, examples = np.mean(gains, axis=0)
    assert unlabeled > (0.1 if n_models > 1 else -0.02)  # a single model has nothing to correct it
    assert examples > 0.01


def test_weak_models_that_agree_do_not_outvote_a_good_one():
    """All but the first model read poorly, and prefer the same two classes."""
    for seed in range(3):
        images, heads, true = make_world(150, 16, seed, tilt=0.7)
        rng, preferred = np.random.default_rng(seed), 30 * np.eye(C)[:2].sum(axis=0)
        for m, head in enumerate(heads[1:], 1):
            noise = 400 * unit(rng.normal(size=(C, D)))
            heads[m] = Head(100 * unit(head.weights + noise), preferred.astype(np.float32))
        found = fit(seen(images, 150), heads)
        before, after = (accuracies(h, images, true) for h in (heads, found.heads))
        assert before[0] > before[1:].max() + 0.25
        assert after[0] > before[0] - 0.02


@pytest.mark.parametrize("n_models", [1, 3])
def test_names_that_say_nothing_are_left_out_when_examples_say_so(n_models):
    for seed in range(3):
        images, heads, true = make_world(150, n_models, seed)
        exchanged = [Head(np.roll(head.weights, 1, axis=0), head.bias) for head in heads]
        found = fit(seen(images, 150), exchanged, true[:50])
        assert found.strengths.tolist() == [STRENGTHS[-1]] * n_models
        assert accuracies(found.zero_shot, images, true).max() < 0.2
        assert accuracies(found.heads, images, true).min() > 0.8


def test_names_are_not_left_out_for_a_few_examples_in_a_hundred():
    losses = np.array([[9.0, 9.0], [8.0, 8.0], [7.0, 7.0], [7.0, 7.0], [4.5, 1.0]])
    assert _best_strengths(losses, 25).tolist() == [DEFAULT, 4]


def test_a_model_that_stays_as_it_is_has_the_accuracy_that_it_had():
    found = []
    for seed in range(6):
        _, heads, _ = make_world(100, 1, seed)
        images = unit(np.random.default_rng(seed).normal(size=(100, D)))  # of which nothing can be learned
        predicted = heads[0].logits(images)[:60].argmax(axis=1)
        of_seed = fit([images], heads, np.where(np.arange(60) < 45, predicted, np.roll(predicted, 1)))
        found += of_seed.right[:-1][of_seed.strengths == 0].tolist()
    assert found
    assert all(before == after for before, after in found)


@pytest.mark.parametrize("shares", [[1 / C] * C, [0.6, *[0.08] * 5]])
def test_given_shares_help_a_single_model(shares):
    gains = []
    for seed in range(5):
        images, heads, true = make_world(100, 1, seed, shares, tilt=0.7)
        estimated, given = fit(seen(images, 100), heads), fit(seen(images, 100), heads, shares=np.array(shares))
        np.testing.assert_array_equal(given.shares, shares)
        gains.append(accuracies(given.heads, images, true)[0] - accuracies(estimated.heads, images, true)[0])
    assert np.mean(gains) > 0.01


@pytest.mark.parametrize("seed", range(3))
def test_cross_validated_accuracy_is_that_on_other_images(seed):
    """Also where the names of the classes are exchanged, so that zero-shot heads predict hardly anything correctly."""
    images, heads, true = make_world(150, seed=seed)
    exchanged = [Head(np.roll(head.weights, 1, axis=0), head.bias) for head in heads]
    for of_names in (heads, exchanged):
        found = fit(seen(images, 150), of_names, true[:50])
        for column, of_images in enumerate((found.zero_shot, found.heads)):
            np.testing.assert_allclose(found.right[:-1, column] / 50, accuracies(of_images, images, true), atol=0.15)


def test_random_classes_and_random_images_are_predicted_by_chance():
    found = []
    for seed in range(3):
        images, heads, _ = make_world(100, seed=seed)
        rng = np.random.default_rng(seed + 100)
        for embeddings in (seen(images, 100), [unit(rng.normal(size=(100, D))) for _ in range(3)]):
            found.append(fit(embeddings, heads, rng.integers(C, size=80)).right / 80)
    assert np.mean(found) == pytest.approx(1 / C, abs=0.03)
    assert np.max(found) < 0.32


def test_near_duplicates_are_in_one_fold():
    rng = np.random.default_rng(0)
    start, end = unit(rng.normal(size=(2, 400)))
    chain = unit([start + step * end for step in (0.0, 0.36, 0.18, 0.54)])  # each is like its neighbors only
    embeddings = np.concatenate([unit(rng.normal(size=(40, 400))), chain])
    classes = rng.integers(4, size=44)
    folds = folds_of(embeddings, classes)
    assert len(set(folds[40:])) == 1
    for y in range(4):
        assert set(folds[:40][classes[:40] == y]) == set(range(5))
    assert len(set(folds_of(np.repeat(embeddings[:1], 20, axis=0), classes[:20]))) == 1


# --- how it is computed -----------------------------------------------------------------------------------------------


def naive_fit(embeddings, heads, strength):
    """[T, N, C] logits of calibrated heads fitted without examples, image by image and class by class."""
    z = np.stack([head.logits(each) for head, each in zip(heads, embeddings, strict=True)]).astype(np.float64)
    n_models, n_images, n_classes = z.shape
    offsets = np.zeros((n_models, n_classes))

    def pooled(logits, weights):
        return sum(weight * softmax(each) for weight, each in zip(weights, logits, strict=True))

    def correct(logits, weights):
        wanted = pooled(logits, weights).sum(axis=0)
        for m, each in enumerate(softmax(logits)):
            step = [np.log((wanted[y] + 4) / (sum(p[y] for p in each) + 4)) for y in range(n_classes)]
            offsets[m] += (step - np.mean(step)) * n_images / (n_images + n_classes)

    information = mutual_information(softmax(z)) / np.log(n_classes)
    weights = pooling_weights(information, n_classes)  # of three models all are among the first
    for _ in range(5):
        correct(z + offsets[:, None], weights)
    answers = pooled(z + offsets[:, None], weights).argmax(axis=1)
    kappa = []
    for each in z:
        predicted = each.argmax(axis=1)
        chance = sum((predicted == y).mean() * (answers == y).mean() for y in range(n_classes))
        kappa.append(max((predicted == answers).mean() - chance, 0) / (1 - chance))
    weights = pooling_weights(np.array(kappa), n_classes)
    pool = pooled(z + offsets[:, None], weights)
    for _ in range(2):
        centered = [each - each.mean(axis=0, dtype=np.float64) for each in embeddings]
        inverses = []
        for images in centered:
            means, counts = mean_images(images, pool), pool.sum(axis=0)
            covariance = sum(np.outer(x, x) for x in images)
            covariance = (covariance - sum(n * np.outer(m, m) for n, m in zip(counts, means, strict=True))) / n_images
            ridge = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
            inverses.append(np.linalg.inv(0.1 * covariance + 0.9 * ridge))
        texts = [text_images(head, images, pool) for head, images in zip(heads, centered, strict=True)]
        for _ in range(5):
            counts = pool.sum(axis=0) + max(n_images / n_classes, 4)
            counts **= min(1, n_images / (4 * n_classes)) ** 2
            logits = z + (np.log(n_classes * counts / counts.sum()) + offsets)[:, None]
            for m, (images, inverse) in enumerate(zip(centered, inverses, strict=True)):
                for y, mean in enumerate(mean_images(images, pool, texts[m])):
                    logits[m, :, y] += [strength * (x - mean / 2) @ inverse @ mean for x in images]
            pool = pooled(logits, weights)
            correct(logits, weights)
    return logits


def mean_images(images, pool, texts=None):
    """[C, D] mean image of each class, with four images at zero, and one where its text says."""
    sums = [sum(p * x for p, x in zip(of_class, images, strict=True)) for of_class in pool.T]
    if texts is None:
        return [each / (n + 4) for each, n in zip(sums, pool.sum(axis=0), strict=True)]
    return [(each + text) / (n + 5) for each, text, n in zip(sums, texts, pool.sum(axis=0), strict=True)]


def text_images(head, images, pool):
    """[C, D] directions of the texts, with the length that is nearest to the images by least squares."""
    texts = np.array(head.weights, np.float64) - head.weights.mean(axis=0)
    stacked = [
        (p, x, text)
        for of_class, text in zip(pool.T, texts, strict=True)
        for p, x in zip(of_class, images, strict=True)
    ]
    return texts * sum(p * x @ text for p, x, text in stacked) / sum(p * text @ text for p, _, text in stacked)


@pytest.mark.parametrize("n_images", [40, 15])
def test_heads_against_a_naive_loop(n_images):
    images, heads, _ = make_world(n_images)
    found = fit(seen(images, n_images), heads)
    strength = found.strengths[0]
    assert 0 < strength <= STRENGTHS[2]
    naive = naive_fit(seen(images, n_images), found.zero_shot, strength)
    for head, each, expected in zip(found.heads, images, naive, strict=True):
        np.testing.assert_allclose(head.logits(each[:n_images]), expected, atol=2e-3)


def test_heads_with_examples_give_the_logits_of_the_last_step():
    images, heads, true = make_world(60)
    on_images = replace(_Images.of(seen(images, 60), heads, None), counts=np.ones(30))
    state = on_images.em(0.3, np.arange(30), true[:30])
    found = on_images.fitted([state] * 3, np.array([0.3, 0.3, 0.0]), None)
    for m, expected in enumerate([*state.logits[:2], on_images.logits[2]]):
        np.testing.assert_allclose(found.heads[m].logits(images[m][:60]), expected, atol=2e-3)
    assert found.heads[2] == found.zero_shot[2]
    for head, each in zip(found.zero_shot, images, strict=True):
        assert image_scale(head.logits(each[:60])) == pytest.approx(SHARPNESS, rel=1e-3)


def test_a_single_model_has_no_offsets_and_an_uncertain_one_is_not_fitted():
    on_images = _Images.of(*make_world(100, 1, shares=[0.6, *[0.08] * 5])[:2], None)
    np.testing.assert_allclose(on_images.start.offsets, 0, atol=1e-9)
    noise, texts = unit(np.random.default_rng(0).normal(size=(160, D))).reshape(2, 80, D)
    found = fit([noise], [Head.zero_shot(texts, 100.0)])
    assert (found.heads, found.strengths.tolist()) == (found.zero_shot, [0])


def test_the_order_of_images_changes_nothing():
    images, heads, true = make_world(80)
    order = np.concatenate([np.arange(30), 30 + np.random.default_rng(0).permutation(50)])
    for classes in (None, true[:30]):
        one, other = (fit([each[rows] for each in images], heads, classes) for rows in (np.arange(80), order))
        for head, twin in zip(one.heads, other.heads, strict=True):
            np.testing.assert_allclose(head.weights, twin.weights, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(one.strengths, other.strengths)
        np.testing.assert_array_equal(one.right, other.right)


# --- extremes ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_models", [1, 3])
@pytest.mark.parametrize("n_examples", [0, 5, 12])
@pytest.mark.parametrize("kind", ["alike", "few", "one class", "one class of examples", "unsure", "no noise"])
def test_extreme_images_give_finite_heads(kind, n_examples, n_models):
    images, heads, true = make_world(12, n_models)
    images, true = seen(images, 3 if kind == "few" and not n_examples else 12), true[:n_examples]
    if kind == "alike":
        images = [np.repeat(each[:1], 12, axis=0) for each in images]
    if kind == "one class":
        heads, true = [Head(head.weights[:1], head.bias[:1]) for head in heads], np.zeros_like(true)
    if kind == "one class of examples":
        true = np.zeros_like(true)
    if kind == "unsure":
        heads = [Head(np.zeros_like(head.weights), head.bias) for head in heads]
    if kind == "no noise":
        images = [np.tile(each[:2], (6, 1)) for each in images]
    found = fit(images, heads, true)
    assert all(np.isfinite(head.logits(each)).all() for head, each in zip(found.heads, images, strict=True))
    assert [found.weights.sum(), found.shares.sum()] == pytest.approx([1, 1])
    for values in (found.weights, found.shares, found.agreement, found.scores):
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()


def test_embeddings_that_are_not_finite_are_refused():
    images, heads, _ = make_world(20)
    images[1][3, 5] = np.nan
    with pytest.raises(InputError, match="an embedding is not finite; leave out the model or the image"):
        fit(images, heads)


@pytest.mark.skipif(not WHU.exists(), reason=f"no {WHU}; set MLL_TESTBED to run this on real embeddings")
def test_real_models_on_aerial_images():
    data, order = np.load(WHU), np.random.default_rng(0).permutation(1005)
    models, true = (1, 3, 7, 9), data["labels"][order].astype(int)
    images = [unit(data[f"images_{m}"][order]) for m in models]
    heads = [Head.zero_shot(data[f"texts_{m}"][0].astype(np.float32), 100.0) for m in models]
    before = accuracies(heads, images, true)  # .8775 on average
    for n_examples in (0, 50):
        after = accuracies(fit(seen(images, 256), heads, true[:n_examples]).heads, images, true)
        assert (after > before + 0.025).all()
        assert after.mean() > 0.965
