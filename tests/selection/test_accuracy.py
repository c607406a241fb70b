"""The estimate from names and ImageNet accuracy, and its fit."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from mll_hf.errors import InputError
from mll_hf.matching.datasets import recognize
from mll_hf.models.published import figures_of_dataset
from mll_hf.selection.accuracy import (
    MIN_ACCURACY,
    AccuracyModel,
    TaskTraits,
    estimate_accuracy,
    have_meaning,
    is_specialized,
    near_classes,
    task_traits,
    things_direction,
    with_known_figures,
)
from mll_hf.selection.estimate import Estimate
from mll_hf.selection.probabilities import logit, sigmoid

PLAIN = task_traits(100, None, None)
SCRIPT = Path(__file__).parents[2] / "scripts" / "known_models" / "fit_accuracy.py"


def test_an_estimate_follows_its_formula():
    model = AccuracyModel(-1.0, 0.5, -2.0, -3.0, -0.9, -0.4, 1.5, 0.3, 0.6, 0.1, 0.2, task_error=0.6, class_error=2.0)
    traits = replace(PLAIN, n_classes=16, similarity=0.4, nearest=0.5, specialized=True, things=0.2)
    found = estimate_accuracy(np.array([0.7]), traits, 0.9, model=model)
    inner = -1 + 0.5 * logit(np.array(0.7), MIN_ACCURACY) - 2 * 0.4 - 3 * 0.5 - 0.4 + 1.5 * 0.2
    assert found.accuracy[0] == pytest.approx(1 / 16 + 15 / 16 * sigmoid(inner))
    assert found.errors[0] == pytest.approx((0.6**2 + 2**2 / 16 + (4 * 0.1) ** 2) ** 0.5)
    of_patients = estimate_accuracy(np.array([0.7]), replace(traits, medical=True), model=model)
    assert of_patients.accuracy[0] == pytest.approx(1 / 16 + 15 / 16 * sigmoid(inner + 0.4 - 0.9))


def test_better_models_and_easier_tasks_have_higher_estimates():
    accuracies = estimate_accuracy(np.linspace(0.3, 0.9, 7), PLAIN).accuracy
    assert (np.diff(accuracies) > 0).all()
    harder = (
        replace(PLAIN, medical=True),
        replace(PLAIN, specialized=True),
        replace(PLAIN, nearest=0.9),
        replace(PLAIN, similarity=0.9),
    )
    assert all(estimate_accuracy(np.array([0.9]), task).accuracy[0] < accuracies[-1] for task in harder)


@pytest.mark.parametrize(("n_meant", "n_classes"), [(0, 2), (1, 4), (1, 2), (0, 40)])
def test_names_without_meaning_make_an_accuracy_unknown(n_meant, n_classes):
    """Even of the best model, on the easiest names; one in ten does not."""
    easiest = replace(PLAIN, n_classes=n_classes, nearest=0.0, things=0.2)
    best = np.array([0.9])
    assert estimate_accuracy(best, easiest, 1.0).known[0]
    assert not estimate_accuracy(best, easiest, n_meant / n_classes).known[0]
    assert estimate_accuracy(best, replace(easiest, n_classes=10), 0.9).known[0]


def test_words_that_all_names_share_say_nothing():
    assert have_meaning(["good weld", "bad weld", "weld"]).all()
    assert not have_meaning(["class 0", "class 1", "class 2"]).any()


def test_a_single_class_is_always_right():
    found = estimate_accuracy(np.array([0.3, 0.9]), replace(PLAIN, n_classes=1), with_meaning=0.0)
    assert found.accuracy.tolist() == [1, 1]
    assert found.interval[0].tolist() == [1, 1]


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, np.nan])
def test_a_wrong_imagenet_accuracy_is_refused(accuracy):
    with pytest.raises(InputError, match="an ImageNet accuracy is missing or outside 0 to 1"):
        estimate_accuracy(np.array([0.5, accuracy]), PLAIN)


def test_traits_of_names():
    names = np.zeros((3, 384))
    names[:, :2] = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
    traits = task_traits(len(names), names, "satellite photo")
    things = names.mean(axis=0) @ things_direction()
    expected = TaskTraits(3, (0 + 0.6 + 0.8) / 3, (0.6 + 0.8 + 0.8) / 3, True, False, things)
    assert astuple(traits) == pytest.approx(astuple(expected))
    assert task_traits(1, names[:1], None).similarity is None
    made_up = np.vstack([names, np.eye(1, 384, 5)])
    with_made_up = task_traits(4, made_up, None, np.array([True, True, True, False]))
    assert (with_made_up.similarity, with_made_up.nearest) == (traits.similarity, traits.nearest)


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (None, False),
        ("photo", False),
        ("sketch", False),
        ("Satellite images", True),
        ("X-ray", True),
        ("context", False),
    ],
)
def test_specialized_domains(domain, expected):
    assert is_specialized(domain) == expected


# --- the fit ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fit_accuracy", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fit_accuracy"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def figures(script):
    """30 datasets of 10 kin groups in two tables, whose accuracies follow the formula exactly."""
    rng = np.random.default_rng(0)
    features = np.column_stack(
        [rng.uniform(0.2, 0.8, 30), rng.uniform(0.4, 0.9, 30), rng.random(30) < 0.3, rng.random(30), np.ones(30)]
    )
    chance = 1 / rng.integers(2, 200, 30)
    dataset, table, models = (grid.ravel() for grid in np.meshgrid(np.arange(30), np.arange(2), np.arange(4)))
    imagenet = 0.3 + 0.15 * models + 0.02 * table
    share = sigmoid(3 + 0.9 * logit(imagenet, MIN_ACCURACY) + (features[:, :4] @ [-3.0, -2.0, -0.5, 1.5])[dataset])
    accuracy = chance[dataset] + (1 - chance[dataset]) * share
    names = tuple(f"d{d:02d}" for d in range(30))
    kin = np.array([f"k{d // 3}" for d in range(30)])
    return script.Figures(names, kin, features, chance, dataset, table, imagenet, accuracy, models == 3, np.ones(30))


def test_an_estimate_and_its_interval_do_not_see_the_kin_group(script, figures):
    judged, _ = script.leave_kin_out(figures, script.FEATURES)
    own = np.isin(figures.dataset, [0, 1, 2])
    changed = replace(figures, accuracy=np.where(own, 0.01, figures.accuracy))
    again, _ = script.leave_kin_out(changed, script.FEATURES)
    for before, after in ((judged.estimate, again.estimate), (judged.low, again.low), (judged.high, again.high)):
        assert after[own] == pytest.approx(before[own], abs=1e-12)
        assert not np.allclose(after[~own], before[~own])


CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MODELS = ["laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "openai/clip-vit-base-patch32", "org/of-nobody"]


def known_estimate(names, domain=None):
    prior = Estimate.independent(np.array([1.2, 0.5, 1.0]), np.full(3, 1.5))
    return prior, with_known_figures(prior, MODELS, recognize(names), domain)


def test_the_figures_of_a_recognized_dataset_are_used_with_a_narrow_interval():
    published = {f.value for f in figures_of_dataset("cifar-10") if f.model == "ViT-H-14/laion2b_s32b_b79k"}
    prior, estimate = known_estimate(CIFAR10)
    low, high = estimate.interval
    assert min(published) - 0.01 < estimate.accuracy[0] < max(published) + 0.01
    assert low[0] < min(published) <= max(published) < high[0]
    assert high[0] - low[0] < 0.05
    # a model without a figure learns how easy the dataset is, and stays less certain
    assert estimate.accuracy[2] > prior.accuracy[2]
    assert estimate.errors[0] < estimate.errors[2] < prior.errors[2]
    # and that models differ more than elsewhere, so that a better one is still better
    better = Estimate.independent(np.array([1.2, 0.5, 1.9]), np.full(3, 1.5))
    found = with_known_figures(better, MODELS, recognize(CIFAR10), None).mean
    assert found[2] - found[0] > 0.3  # 0.16 if only the level were learned


def test_a_subset_is_easier_and_less_certain():
    whole, part = known_estimate(CIFAR10)[1], known_estimate(CIFAR10[:8])[1]
    assert part.mean[0] > whole.mean[0]
    assert part.errors[0] > whole.errors[0]


@pytest.mark.parametrize(
    ("names", "domain"),
    [(CIFAR10, "sketch"), (CIFAR10, "satellite"), ([*CIFAR10[:9], "lemon", "hat"], None)],
)
def test_figures_of_other_images_or_classes_are_not_used(names, domain):
    prior, estimate = known_estimate(names, domain)
    assert estimate is prior


def test_digits_are_between_the_figures_of_all_datasets_of_digits_with_an_interval_that_holds_them():
    named = [d.id for d in recognize(list("0123456789")).datasets]
    assert named == ["mnist", "svhn"]
    found = {
        f.dataset: f.value for id in named for f in figures_of_dataset(id) if f.model == "ViT-H-14/laion2b_s32b_b79k"
    }
    _, estimate = known_estimate(list("0123456789"))
    low, high = estimate.interval
    assert low[0] < min(found.values()) < estimate.accuracy[0] < max(found.values()) < high[0]
    assert estimate.known[0]


def test_classes_of_other_datasets_raise_a_low_estimate_and_fewer_of_them_are_easier():
    easy, hard = (
        replace(PLAIN, n_classes=2, near=near_classes(names, None)) for names in (["cat", "dog"], ["qwv", "xkj"])
    )
    best = np.array([0.8])
    assert easy.near.share == 1
    assert hard.near is None
    assert estimate_accuracy(best, easy).accuracy[0] > max(0.97, estimate_accuracy(best, hard).accuracy[0])
    many = estimate_accuracy(best, replace(easy, n_classes=100)).accuracy[0]
    assert many < estimate_accuracy(best, easy).accuracy[0]
    assert near_classes(["cat", "dog"], "sketch") is None


def test_a_kin_group_that_is_left_out_says_nothing():
    assert near_classes(["apple pie"], None, but="food") is None
    assert near_classes(["apple pie"], None).share == 1
