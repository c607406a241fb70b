"""Notes on class names."""

import pytest

from mll_hf.matching.datasets import known_datasets
from mll_hf.matching.lint import lint
from mll_hf.models.published import published_graph


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["cat"], "With one class every prediction is correct"),
        (["helmet", "no helmet"], "'no helmet': models hardly read 'no'"),
        (["cat; dog", "bird"], "'cat; dog': looks like several classes"),
        (["a photo of a cat", "dog"], "'a photo of a cat': prompts are made from names"),
        (["🐶", "cat"], "'🐶': symbols"),
        (["cat", "long " * 30], "long names are cut off"),
        (["3", "7"], "say what they are"),
        (["a", "b"], "say what they are"),
        (["собака", "кошка"], "'собака', 'кошка': in Cyrillic script"),
        (["犬", "cat"], "in several scripts (Chinese, Latin)"),
        (["automobile", "truck", "car"], "'automobile', 'car': names of one thing"),
        (["mouse", "cat"], "'mouse': ambiguous"),
        (["strawbery", "lemon"], "did you mean 'strawberry'?"),
    ],
)
def test_a_likely_mistake_is_named_in_one_line(names, says):
    (line, *_) = [line for line in lint(names, published_graph()) if says in line]
    assert "\n" not in line
    assert len(line) < 250


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "dog"],
        ["corroded pipe", "intact pipe", "weld"],
        ["melanoma", "nevus", "basal cell carcinoma"],
        ["Vanessa atalanta", "Danaus plexippus"],
        ["sunny", "cloudy", "rainy"],
        ["benign", "malignant"],  # no typo of Benin
    ],
)
def test_nothing_is_said_of_good_names(names):
    assert lint(names, published_graph()) == ()


def test_few_known_datasets_get_a_wrong_hint():
    hints = [line for d in known_datasets()[::5] for line in lint([y[0] for y in d.classes], published_graph())]
    assert not [line for line in hints if "did you mean" in line]


def test_a_japanese_list_with_kanji_kana_and_latin_letters_is_in_one_script():
    (line,) = lint(["腕時計", "スニーカー", "Tシャツ", "ﾊﾞｯｸﾞ", "LED"], published_graph())
    assert line.endswith("in Japanese script, which most models do not read.")
