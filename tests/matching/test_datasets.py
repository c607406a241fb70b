"""Known datasets are recognized from their class lists, and no others."""

import numpy as np
import pytest

from benchmark.datasets_benchmark import EVERYDAY, _both, _missing, _mixtures, _nouns, is_right
from mll_hf.matching.datasets import known_datasets, recognize
from mll_hf.matching.words import name_key

CIFAR10 = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.mark.parametrize("damage", [_missing, _both])
def test_nearly_all_datasets_are_recognized_with_a_fifth_missing_or_respelled(damage):
    rng = np.random.default_rng(1)
    assert np.mean([is_right(dataset, damage(dataset, rng)) for dataset in known_datasets()]) >= 0.95


def test_no_false_alarms():
    rng = np.random.default_rng(1)
    everyday = [names.split(", ") for names in EVERYDAY]
    assert not [names for names in (*_nouns(rng), *_mixtures(rng), *everyday) if recognize(names)]


def test_every_list_names_its_source_and_has_distinct_classes():
    assert len(known_datasets()) >= 60
    for dataset in known_datasets():
        keys = [name_key(spellings[0]) for spellings in dataset.classes]
        assert dataset.source
        assert len(keys) - len(set(keys)) <= 2  # ImageNet has crane and maillot twice
        assert min(map(len, keys)) > 0


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (CIFAR10, "These are the classes of CIFAR-10."),
        ([name.upper() + "S" for name in CIFAR10], "These are the classes of CIFAR-10."),
        (CIFAR10[:8], "These are 8 of the 10 classes of CIFAR-10."),
        ([*CIFAR10[:9], "lemon"], "These are 9 of the 10 classes of CIFAR-10, and others"),
        (
            [*CIFAR10, "automobile"],
            "These are 10 of the 10 classes of CIFAR-10, and others",
        ),  # no model tells cars apart
        ([f"digit {n}" for n in range(10)], "These are the classes of MNIST or SVHN."),
        ([f"a photo of a {name}" for name in CIFAR10], "These are the classes of CIFAR-10."),
        (
            ["melanoma", "nevus", "bcc", "actinic keratosis", "bkl", "dermatofibroma", "vasc"],
            "classes of HAM10000.",
        ),
    ],
)
def test_what_is_said(names, says):
    assert says in str(recognize(names))


@pytest.mark.parametrize(
    "names",
    [CIFAR10[:4], ["cat"], [], ["yes", "no"], [str(n) for n in range(4)], [f"toy {name}" for name in CIFAR10],
     [f"{look} dog" for look in ("happy", "sad", "angry", "surprised", "neutral", "disgusted", "fearful")]],
)  # fmt: skip
def test_few_common_names_are_nobodys(names):
    assert recognize(names) is None
