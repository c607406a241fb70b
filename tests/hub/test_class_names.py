"""Class names on the card of a dataset."""

import pytest

from mll_hf.errors import InputError
from mll_hf.hub.class_names import fetch_class_names

CLASSES = ["cat", "dog", "red_fox"]
REPO = "alice/animals"
LOCATION = f"hf://datasets/{REPO}"
NUMBERED = """- config_name: animals
  features:
  - {name: image, dtype: image}
  - name: label
    dtype: {class_label: {names: {'0': cat, '10': newt, '2': red_fox, '1': dog}}}
- config_name: other
  features: [{name: label, dtype: {class_label: {names: {'0': a}}}}]"""
LISTED = "{features: [{name: label, dtype: {class_label: {names: [cat, dog, red_fox]}}}]}"


@pytest.mark.parametrize(
    ("info", "classes"),
    [(f"\n{NUMBERED}", (*CLASSES, "newt")), (LISTED, tuple(CLASSES))],
    ids=["by number", "as a list"],
)
def test_class_names_on_a_card_take_no_images(info, classes, hub):
    card = f"---\ndataset_info: {info}\n---\n# Animals\n".encode()
    hub.put("dataset", REPO, {"README.md": card, "data/test.parquet": b"not read"})
    assert fetch_class_names(LOCATION) == classes
    assert fetch_class_names(LOCATION, token=False) == classes
    assert len(hub.requests) == 2


@pytest.mark.parametrize(
    "card",
    [
        "license: mit",
        "dataset_info: {}",
        "dataset_info: " + LISTED.replace("[cat, dog, red_fox]", "{one: cat}"),
        "dataset_info: {features: [{name: a, dtype: {class_label: {names: [x, y]}}}, "
        "{name: b, dtype: {class_label: {names: [x, y]}}}]}",
    ],
)
def test_cards_without_one_column_of_class_names_are_refused(card, hub):
    hub.put("dataset", REPO, {"README.md": f"---\n{card}\n---\n".encode()})
    with pytest.raises(InputError, match="columns of named classes"):
        fetch_class_names(LOCATION)
