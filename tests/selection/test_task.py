"""Tasks and options as users write them, validated once."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from PIL import Image

from mll_hf.errors import InputError
from mll_hf.matching.describe import Description
from mll_hf.selection import SelectionConfig, Strategy, Task
from mll_hf.selection.strategies import configured
from worlds import encoded


def png(n=0):
    return encoded(Image.new("RGB", (4, 4), (n % 256, n // 256, 7)))


IMAGES = [png(n) for n in range(40)]


def one_line(error):
    return "\n" not in str(error.value)


def test_names_that_look_the_same_are_the_same():
    cafe, decomposed = "café", unicodedata.normalize("NFD", "café")
    assert Task.of([decomposed, " bar "]).classes == (cafe, "bar")
    for twins in ([cafe, decomposed], ["cat", "cat\u200b"], ["cat", "c\u00adat"]):
        with pytest.raises(InputError, match="repeats") as error:
            Task.of(twins)
        assert one_line(error)
    known = Task.of([cafe, "bar"], examples=[(image, [decomposed, "bar"][n % 2]) for n, image in enumerate(IMAGES)])
    assert known.examples.classes.tolist() == [0, 1] * 20


def test_examples_of_one_class_are_refused():
    """They would choose the model that always says that class."""
    with pytest.raises(InputError, match="all examples are of class 'cat', which compares no models"):
        Task.of(["cat", "dog"], examples=[(image, "cat") for image in IMAGES])
    assert Task.of(["cat"], examples=[(image, "cat") for image in IMAGES]).has_images


def test_an_image_of_two_classes_is_refused():
    with pytest.raises(InputError, match=r"a\.png is given as 'dog' and as another class; keep one") as error:
        Task.of(["cat", "dog"], examples=[("a.png", "cat"), ("b.png", "dog"), ("a.png", "dog")])
    assert one_line(error)


def test_samples_are_of_readable_images():
    for broken in range(11):
        images = [b"broken" if n == broken else image for n, image in enumerate(IMAGES[:11])]
        task = Task.of(["cat", "dog"], images=images, most_images=10)
        assert len(task.images) == 10
        assert b"broken" not in task.images
        pairs = [(image, ["cat", "dog"][n % 2]) for n, image in enumerate(images)]
        assert len(Task.of(["cat", "dog"], examples=pairs, most_images=10).examples.images) == 10
    with pytest.raises(InputError, match="9 readable images are too few"):
        Task.of(["cat", "dog"], images=[*IMAGES[:9], b"broken"])
    sample = Task.of(["cat", "dog"], images=IMAGES, most_images=20).images
    assert sample == Task.of(["cat", "dog"], images=IMAGES, most_images=20).images
    assert [IMAGES.index(image) for image in sample] == sorted(IMAGES.index(image) for image in sample)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((8, 8, 3), np.uint8)] * 20, "of type ndarray; give a path, encoded bytes or a PIL image"),
        (np.zeros((20, 8, 8, 3), np.uint8), "of type ndarray"),
        ("photo.jpg", "not a list of images"),
        ([3] * 20, "of type int"),
    ],
)
def test_what_is_no_list_of_images(images, message):
    with pytest.raises(InputError, match=message) as error:
        Task.of(["cat", "dog"], images=images)
    assert one_line(error)


@pytest.mark.parametrize(
    "examples",
    [[(image, 1) for image in IMAGES], IMAGES, {"cat": IMAGES}, "folder", [(image, None) for image in IMAGES]],
)
def test_what_is_no_list_of_examples(examples):
    with pytest.raises(InputError, match="examples are pairs of an image and the name of its class") as error:
        Task.of(["cat", "dog"], examples=examples)
    assert one_line(error)


def test_any_iterable_has_classes_and_examples():
    task = Task.of(iter(["cat", "dog"]), examples=zip(IMAGES, ["cat", "dog"] * 20, strict=True))
    assert task.classes == ("cat", "dog")
    assert len(task.examples.images) == 40


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": None}, "'None' is not a list of class names"),
        ({"classes": 5}, "'5' is not a list of class names"),
        ({"domain": 5}, "domain is 5; give a short text"),
        ({"task": ["x"]}, "task is"),
        ({"images": [b"no image"] * 20, "examples": None}, "0 readable images are too few"),
    ],
)
def test_names_and_texts_of_a_wrong_type(given, message):
    with pytest.raises(InputError, match=message) as error:
        Task.of(**{"classes": ["cat", "dog"], **given})
    assert one_line(error)


def test_shares_go_by_name():
    assert Task.of(["0", "1"], shares={"1": 0.1, "0": 0.9}).shares.tolist() == [0.9, 0.1]
    assert Task.of(["0", "1"], shares={0: 9, 1: 1}).shares.tolist() == [0.9, 0.1]
    assert Task.of(["a", "b"], shares=[3, 1]).shares.tolist() == [0.75, 0.25]
    assert Task.of(["a", "b"], shares="equal").shares.tolist() == [0.5, 0.5]
    assert Task.of(["a", "b"]).shares is None
    assert 0 < Task.of(["a", "b"], shares=[1, 0]).shares[1] < 1e-5  # no image could refute 0


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"a": 1}, "'b' has no share"),
        ({"a": 1, "b": 2, "c": 3}, "'c' is not a class of the task"),
        ({"a": 1, "a\u200b": 2, "b": 3}, "two names are the same class"),
        ("many", "shares is 'many'; give 'equal', or a share per class"),
        ([1], "must be 2 numbers"),
        ([0, 0], "not all 0"),
        ([1, -1], "none below 0"),
        ([1, float("nan")], "must be 2 numbers"),
        (["x", "y"], "must be 2 numbers"),
    ],
)
def test_shares_that_cannot_be_used(shares, message):
    with pytest.raises(InputError, match=message) as error:
        Task.of(["a", "b"], shares=shares)
    assert one_line(error)


def test_descriptions_are_those_of_the_classes():
    a, b, empty = Description("a", ("x",), "file"), Description("b", ("y",), "file"), Description("b", (), "file")
    assert Task.of(["a", "b"], descriptions=[a, b]).descriptions == (a, b)
    with pytest.raises(InputError, match="do not match the classes"):
        Task.of(["a", "b"], descriptions=[b, a])
    with pytest.raises(InputError, match="do not match the classes"):
        Task.of(["a", "b"], descriptions=["the first", "the second"])
    with pytest.raises(InputError, match="'b' has no text"):
        Task.of(["a", "b"], descriptions=[a, empty])


# --- options ----------------------------------------------------------------------------------------------------------


def test_options_are_given_as_users_write_them():
    found = configured(
        SelectionConfig(k=2, max_gflops=5),
        {"strategy": "general", "k": "3", "max_gflops": "20", "max_parameters": "1.5B", "max_download": "5G",
         "licenses": "MIT", "without": "org/x", "class_weight": "0.5"},
    )  # fmt: skip
    assert found == SelectionConfig(
        strategy=Strategy.GENERAL, k=3, max_gflops=20.0, max_parameters=1_500_000_000, max_download=5_000_000_000,
        licenses=("mit",), without=frozenset({"org/x"}), class_weight=0.5,
    )  # fmt: skip
    assert SelectionConfig(licenses=["mit", "apache-2.0"], without=["a/b"]).without == frozenset({"a/b"})
    assert configured(found, {"k": None}).k is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_size": 3}, "unknown option 'max_size'; choose from strategy, k, "),
        ({"max_parameters": "many"}, "max_parameters is 'many'; 'many' is not a number such as 200M"),
        ({"strategy": "best"}, "strategy is 'best'; choose from mll, paper, general, imagenet"),
        ({"licenses": 3}, "licenses is '3'; "),
        ({"licenses": ("mit", " ")}, "give ids as text"),
        ({"without": [3]}, "give ids as text"),
        ({"k": 0}, "k is '0'; give a whole number, at least 1"),
        ({"k": 2.5}, "give a whole number"),
        ({"k": True}, "give a whole number"),
        ({"k": [2]}, "k is "),
        ({"max_gflops": float("nan")}, "give a number from 0"),
        ({"max_gflops": "x"}, "give a number from 0"),
        ({"class_weight": -0.1}, "give a number from 0 to 1"),
        ({"shortlist": 0}, "at least 1"),
        ({"max_download": -1}, "at least 0"),
        ({"most_images": 9}, "at least 10"),
    ],
)
def test_options_that_cannot_be_used(options, message):
    with pytest.raises(InputError, match=message) as error:
        configured(SelectionConfig(), options)
    assert one_line(error)
