"""Labels in cards: what is added, and that every other byte of a README stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from mll_hf.errors import CardError
from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.hub.card import LABEL_PATH, LABEL_TAG, add_label, collection_card, graph_card, graph_tag, images_card
from worlds import make_graph, make_label

GRAPH = make_graph()
LABEL = make_label(GRAPH, hits=[10, 5, 5, 5, 10, 10, 10], graph_location="tiny", probes_location="tiny")
TAG = graph_tag(GRAPH.digest)
SHORT = GRAPH.digest[:12]
START, END = f"<!-- mll-label-{SHORT}:start -->", f"<!-- mll-label-{SHORT}:end -->"
OURS = f"- {LABEL_TAG}\n- {TAG}\n"
PAIR = f"{LABEL_TAG}, {TAG}"
LINE = f'mll: {{"{SHORT}": {{"file": "mll/label.safetensors", "concepts": 7, "recall": 0.7857}}}}\n'
BESIDE = LINE.replace("{", '{"0": {"x": 1}, ', 1)


def added(readme, label=LABEL):
    return add_label(readme, label)


def hub_view(readme):
    """Metadata and body of a README as the Hub's client finds them."""
    readme = readme.removeprefix("\ufeff")
    found = REGEX_YAML_BLOCK.search(readme)
    return (yaml.safe_load(found[2] + "\n") or {}, readme[found.end() :]) if found else ({}, readme)


# ---- what is added


def test_two_tags_an_entry_and_a_section():
    head, section = added("---\nlicense: mit\ntags:\n- clip\n---\n# My model\n").split(START)
    assert head == f"---\nlicense: mit\ntags:\n- {LABEL_TAG}\n- {TAG}\n- clip\n{LINE}---\n# My model\n\n"
    assert section.endswith(f"{END}\n")
    assert "7 visual concepts" in section
    assert "| mean recall | 78.6% ± " in section
    assert "\nmll-hf labels show org/model --labels hub\n" in section
    assert (LABEL_TAG, LABEL_PATH) == ("mll-label", "mll/label.safetensors")


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        ("", f"---\ntags:\n{OURS}{LINE}---\n\n"),
        ("# Title", f"---\ntags:\n{OURS}{LINE}---\n# Title\n\n"),
        ("# Title\n---\nText\n", f"---\ntags:\n{OURS}{LINE}---\n# Title\n---\nText\n\n"),
        ("\ufeff# Title\n", f"\ufeff---\ntags:\n{OURS}{LINE}---\n# Title\n\n"),
        ("---\n---\n", f"---\ntags:\n{OURS}{LINE}---\n\n"),
        ("---\na: b\n---", f"---\na: b\ntags:\n{OURS}{LINE}---\n\n"),
        ("---\n# only a comment\n---\nText", f"---\n# only a comment\ntags:\n{OURS}{LINE}---\nText\n\n"),
        ("---\na: |+\n  text\n\n---\n", f"---\na: |+\n  text\n\ntags:\n{OURS}{LINE}---\n\n"),
        ("---\nlanguage: [no] # Norwegian\n---\n", f"---\nlanguage: [no] # Norwegian\ntags:\n{OURS}{LINE}---\n\n"),
        ("---\ntags: [a, 'b']  # why\n---\n", f"---\ntags: [{PAIR}, a, 'b']  # why\n{LINE}---\n\n"),
        ("---\ntags: []\nx: 1.10\n---\n", f"---\ntags: [{PAIR}]\nx: 1.10\n{LINE}---\n\n"),
        ("---\ntags:  # none yet\n---\n", f"---\ntags: [{PAIR}]  # none yet\n{LINE}---\n\n"),
        (
            "---\ntags:\n# y\n  - a  # z\n---\n",
            f"---\ntags:\n# y\n  - {LABEL_TAG}\n  - {TAG}\n  - a  # z\n{LINE}---\n\n",
        ),
        (f"---\ntags: [{TAG}]\n---\n", f"---\ntags: [{LABEL_TAG}, {TAG}]\n{LINE}---\n\n"),
        ("---\nx: y # z\ntags: [a]\n---\n", f"---\nx: y # z\ntags: [{PAIR}, a]\n{LINE}---\n\n"),
        (f"---\n{LINE}x: y # z\ntags: [a]\n---\n", f"---\n{LINE}x: y # z\ntags: [{PAIR}, a]\n---\n\n"),
        ("---\nmll:  # ours\nx: y\n---\n", f"---\n{LINE[:-1]}  # ours\nx: y\ntags:\n{OURS}---\n\n"),
        ("---\nmll:\n  0:\n    x: 1\n# why\n\ny: z\n---\n", f"---\n{BESIDE}# why\n\ny: z\ntags:\n{OURS}---\n\n"),
        ("---\nmll: {0: {x: 1}}\n---\n", f"---\n{BESIDE}tags:\n{OURS}---\n\n"),
    ],
)
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_any_form_of_card(readme, expected, line_break):
    readme, expected = readme.replace("\n", line_break), expected.replace("\n", line_break)
    if "\n" not in readme:
        expected = expected.replace("\r\n", "\n")
    edited = added(readme)
    assert edited.split(START)[0] == expected
    assert added(edited) == edited
    assert "\n" not in edited.replace("\r\n", "") or line_break == "\n" or "\n" not in readme
    assert {LABEL_TAG, TAG} <= set(hub_view(edited)[0]["tags"])


def test_a_new_label_replaces_the_old_one_in_place():
    first = added("---\nlicense: mit # x\ntags: [a]\n---\n# Title\n") + "\nMore by the author, later."
    label = make_label(GRAPH, hits=[1, 2, 3, 1, 2, 3, 1], revision="f" * 40)
    second = added(first, label)
    _, body = hub_view(second)
    assert f"{label.mean_recall:.1%}" in body
    assert body.startswith(f"# Title\n\n{START}")
    assert body.endswith(f"{END}\n\nMore by the author, later.")
    assert added(second) == first  # and back


# ---- what is refused


@pytest.mark.parametrize(
    ("front", "reason"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("a: 2024-02-31", "not valid YAML"),
        ("a: " + "[" * 900 + "]" * 900, "not valid YAML"),
        ("- a\n- b", "not a mapping"),
        ("{license: mit}", "by hand"),
        ("  license: mit", "by hand"),
        ("tags: clip", "tags are not a list"),
        ("tags: ~", "by hand"),
        ("mll:\n- 1", "by others"),
        ("mll: {a: 2024-02-03}", "by hand"),
    ],
)
def test_unsafe_front_matter_is_refused(front, reason):
    with pytest.raises(CardError, match=reason) as caught:
        added(f"---\n{front}\n---\ntext")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("readme", ["---", "---\nlicense: mit\n", "---\na: b\n --- \n", "---\na: b\n---x"])
def test_front_matter_that_is_not_closed_is_refused(readme):
    with pytest.raises(CardError, match="not closed"):
        added(readme)


@pytest.mark.parametrize("body", [START, END, f"{END}{START}", f"{START}{END}{START}"])
def test_unpaired_markers_are_refused(body):
    with pytest.raises(CardError, match="do not match; remove them"):
        added(f"---\na: b\n---\n{body}")


# ---- texts of strangers, other cards


def test_names_are_escaped():
    name = "<b>x</b> | [y](z) `q` \n# h"
    graph = SemanticGraph(name, tuple(Concept(f"c{i}", (name,), name, ()) for i in range(3)))
    edited = add_label("", replace(make_label(graph), graph_name=name, graph_location=name))
    _, body = hub_view(edited)
    assert "<b>" not in body
    assert "\n# h" not in body
    assert "<b>" not in hub_view(graph_card("alice/graph", graph))[1]


@pytest.mark.parametrize("make", [collection_card, lambda repo_id, readme="": graph_card(repo_id, GRAPH, readme),
                                  lambda repo_id, readme="": images_card(GRAPH, repo_id, readme)])  # fmt: skip
def test_cards_of_datasets_keep_the_owners_text(make):
    new = make("alice/data")
    assert hub_view(new)[0]["tags"]
    mine = "---\nlicense: mit # mine\ngated: true\n---\r\n# Mine\n"
    edited = make("alice/data", mine)
    assert edited.startswith(mine)
    assert make("alice/data", edited + "More.") == edited + "More."
    assert make("alice/data", new) == new
