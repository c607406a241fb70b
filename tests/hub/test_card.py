"""Labels in cards: what is added, that everything else is kept, and hostile cards and names."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.errors import CardError, InputError
from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.hub.card import (
    COLLECTION_TAG,
    EVAL_RESULTS_PATH,
    GRAPH_TAG_PREFIX,
    LABEL_PATH,
    LABEL_TAG,
    add_label,
    collection_card,
    eval_results,
    graph_tag,
)
from mll_hf.labels.label import Cost
from worlds import SHA, examples, make_graph, make_label, two_branches

GRAPH = make_graph()
LABEL = make_label(GRAPH, hits=[10, 5, 5, 5, 10, 10, 10], temperature=1.23456)
SHA256 = "ab" * 32
TAG = f"mll-graph-{GRAPH.digest[:12]}"
OLD_TAG = "mll-graph-0123456789ab"
SHORT = GRAPH.digest[:12]
BLOCK = f"""mll:
  schema: 3
  labels:
    "{SHORT}":
      graph:
        name: "tiny"
        digest: "{GRAPH.digest}"
        location: "tiny"
      probes:
        digest: "{SHA}"
        location: "tiny"
      file: "mll/label.safetensors"
      sha256: "{SHA256}"
      revision: "{SHA}"
      recall: 0.7857
      concepts: 7
      tests: 70
      temperature: 1.235
      package_version: "0.0"
"""
if SHORT[0].isalpha():
    BLOCK = BLOCK.replace(f'"{SHORT}":', f"{SHORT}:")
LIST_START, LIST_END = "<!-- mll-labels:start -->", "<!-- mll-labels:end -->"
START, END = f"<!-- mll-label-{SHORT}:start -->", f"<!-- mll-label-{SHORT}:end -->"


def added(readme, label=LABEL, graph=GRAPH, sha256=SHA256):
    return add_label(readme, label, graph, sha256)


def hub_view(readme):
    """Metadata and body of a README as the Hub's client finds them."""
    readme = readme.removeprefix("\ufeff")
    found = REGEX_YAML_BLOCK.search(readme)
    return (yaml.safe_load(found[2]) or {}, readme[found.end() :]) if found else ({}, readme)


def front_of(readme):
    """The lines between the dashes, as one text."""
    return REGEX_YAML_BLOCK.search(readme)[2] + "\n"


def entry_of(readme, graph=GRAPH):
    """What the metadata say of the label on a graph."""
    return hub_view(readme)[0]["mll"]["labels"][graph.digest[:12]]


def without_section(body):
    before, _, rest = body.partition(START)
    return before, rest.partition(END)[2]


# --- what is added ----------------------------------------------------------------------------------------------------


def test_add_two_tags_a_block_and_a_section():
    readme = "---\nlicense: mit\ntags:\n- clip\n---\n# My model\n"
    head, section = added(readme).split(START)
    assert head == f"---\nlicense: mit\ntags:\n- {LABEL_TAG}\n- {TAG}\n- clip\n{BLOCK}---\n# My model\n\n"
    assert section.endswith(f"{END}\n")
    assert "7 visual concepts" in section
    assert "70 tests" in section
    assert "| mean recall | 78.6% ± " in section
    assert "| license of the model | mit |" in section
    assert "| measured on | cpu, float32, torch 2.13.0 |" in section
    assert "\nmll-hf labels show org/model --labels hub\n" in section


def test_metadata_can_be_parsed():
    data, _ = hub_view(added(""))
    assert data["mll"] == yaml.safe_load(BLOCK)["mll"]
    assert data["tags"] == [LABEL_TAG, TAG]


def test_tags_and_paths_do_not_change():
    assert graph_tag("0123456789abcdef" * 4) == "mll-graph-0123456789ab"
    assert graph_tag(GRAPH.digest).startswith(GRAPH_TAG_PREFIX)
    assert (LABEL_TAG, COLLECTION_TAG) == ("mll-label", "mll-labels")
    assert (LABEL_PATH, EVAL_RESULTS_PATH) == ("mll/label.safetensors", ".eval_results/mll.yaml")


def test_digests_that_look_like_numbers_are_quoted():
    digits = replace(LABEL, model=replace(LABEL.model, revision="1" * 20 + "e" + "2" * 19), probes_digest="0" * 40)
    readme = added("", digits, sha256="1" * 64)
    assert f'revision: "{digits.model.revision}"' in readme
    block = entry_of(readme)
    assert (block["probes"]["digest"], block["sha256"]) == ("0" * 40, "1" * 64)


@pytest.mark.parametrize("temperature", [1e-30, 1e30, 0.05, 3])
def test_extreme_temperatures(temperature):
    block = entry_of(added("", make_label(GRAPH, temperature=temperature)))
    assert math.isclose(block["temperature"], temperature, rel_tol=1e-3)


OURS = f"- {LABEL_TAG}\n- {TAG}\n"
INDENTED = f"  - {LABEL_TAG}\n  - {TAG}\n"
PAIR = f"{LABEL_TAG}, {TAG}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("tags:\n- a\n- b\n", "tags:\n" + OURS + "- a\n- b\n"),
        ("tags:\n  - a\n", "tags:\n" + INDENTED + "  - a\n"),
        ("tags:\n- a  # why\n# about x\n\n", "tags:\n" + OURS + "- a  # why\n# about x\n\n"),
        ("tags: # why\n\n# about x\n  # y\n  - a\n", "tags: # why\n" + INDENTED + "\n# about x\n  # y\n  - a\n"),
        ("tags:\n- 'a'\n- \"b\"\n", "tags:\n" + OURS + "- 'a'\n- \"b\"\n"),
        ("tags:\n- \n", "tags:\n" + OURS + "- \n"),
        ("tags:\n-\n  a\n", "tags:\n" + OURS + "-\n  a\n"),
        ("tags:\n- a\n  b\n- [c, d] # e\n", "tags:\n" + OURS + "- a\n  b\n- [c, d] # e\n"),
        ("tags:\n- k: v\n", "tags:\n" + OURS + "- k: v\n"),
        ("tags:\n- |+\n  a\n\n", "tags:\n" + OURS + "- |+\n  a\n\n"),
        ("tags:\n- 2024\n- 2024-01-01\n- null\n- .nan\n", "tags:\n" + OURS + "- 2024\n- 2024-01-01\n- null\n- .nan\n"),
        ('"tags":\n- a\n', '"tags":\n' + OURS + "- a\n"),
        ("'tags' : [a]\n", f"'tags' : [{PAIR}, a]\n"),
        ("tags: [a, b]  # why\n", f"tags: [{PAIR}, a, b]  # why\n"),
        ("tags: [a, b, ]\n", f"tags: [{PAIR}, a, b, ]\n"),
        ("tags: [a,\n  'b' # why\n  ]\n", f"tags: [{PAIR}, a,\n  'b' # why\n  ]\n"),
        ("tags: [\n  a,\n  b,\n]\n", f"tags: [{PAIR}, \n  a,\n  b,\n]\n"),
        ("tags: []\n", f"tags: [{PAIR}]\n"),
        ("tags: [ ] # none\n", f"tags: [{PAIR} ] # none\n"),
        ("tags: [\n]\n", f"tags: [{PAIR}\n]\n"),
        ("tags:\n", "tags:\n" + OURS),
        ("tags:  # none yet\n", "tags:  # none yet\n" + OURS),
        (f"tags:\n- {TAG}\n- a\n", f"tags:\n- {LABEL_TAG}\n- {TAG}\n- a\n"),
        (f"tags: [{LABEL_TAG}]\n", f"tags: [{TAG}, {LABEL_TAG}]\n"),
        (f"tags:\n- {TAG} # x\n- '{LABEL_TAG}'\n", f"tags:\n- {TAG} # x\n- '{LABEL_TAG}'\n"),
        (f"tags: ['{OLD_TAG}', {LABEL_TAG}]\n", f"tags: [{TAG}, '{OLD_TAG}', {LABEL_TAG}]\n"),
        ("tags:\n- mll-graph-of-mine\n", "tags:\n" + OURS + "- mll-graph-of-mine\n"),
    ],
)
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_add_tags_to_any_form_of_list(before, after, place, line_break):
    if place == "first":
        readme, expected = f"---\n{before}license: mit\n---\n", f"---\n{after}license: mit\n{BLOCK}---\n"
    else:
        readme, expected = f"---\nlicense: mit\n{before}---\n", f"---\nlicense: mit\n{after}{BLOCK}---\n"
    if "|" in before and place == "last":  # what follows a text block could change its end
        expected = f"---\n{BLOCK}license: mit\n{after}---\n"
    readme, expected = readme.replace("\n", line_break), expected.replace("\n", line_break)
    edited = added(readme)
    assert edited.split(START)[0] == expected + line_break
    assert added(edited) == edited


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        ("", f"---\ntags:\n{OURS}{BLOCK}---\n\n"),
        ("\n\n", f"---\ntags:\n{OURS}{BLOCK}---\n\n\n\n"),
        ("# Title", f"---\ntags:\n{OURS}{BLOCK}---\n# Title\n\n"),
        ("# Title\n---\nText\n---\n", f"---\ntags:\n{OURS}{BLOCK}---\n# Title\n---\nText\n---\n\n"),
        ("\ufeff# Title\n", f"\ufeff---\ntags:\n{OURS}{BLOCK}---\n# Title\n\n"),
        ("----\n", f"---\ntags:\n{OURS}{BLOCK}---\n----\n\n"),
        ("---\n---\n", f"---\ntags:\n{OURS}{BLOCK}---\n\n"),
        ("---\n---", f"---\ntags:\n{OURS}{BLOCK}---\n\n"),
        ("---\n\n---\nText", f"---\n\ntags:\n{OURS}{BLOCK}---\nText\n\n"),
        ("---\n# nothing yet\n---\n", f"---\n# nothing yet\ntags:\n{OURS}{BLOCK}---\n\n"),
        ("\ufeff\n \n---\na: b\n---  \n", f"\ufeff\n \n---\na: b\ntags:\n{OURS}{BLOCK}---  \n\n"),
        ("---\na: b\n---", f"---\na: b\ntags:\n{OURS}{BLOCK}---\n\n"),
        ("---\na: b\n---\nx\n---\ny  \n\n", f"---\na: b\ntags:\n{OURS}{BLOCK}---\nx\n---\ny  \n\n\n"),
        ("---\na: b\n\n---\n", f"---\na: b\n\ntags:\n{OURS}{BLOCK}---\n\n"),
        ("---\na: b\n# the end\n---\n", f"---\na: b\n# the end\ntags:\n{OURS}{BLOCK}---\n\n"),
        ("---\na: |\n  text\n---\n", f"---\ntags:\n{OURS}{BLOCK}a: |\n  text\n---\n\n"),
        ("---\na:\n- b: >+\n    text\n\n---\n", f"---\ntags:\n{OURS}{BLOCK}a:\n- b: >+\n    text\n\n---\n\n"),
        ("---\na:\n---\n", f"---\na:\ntags:\n{OURS}{BLOCK}---\n\n"),
        (
            "---\nname: Modell für Bäume 🌳\n---\nGrüße",
            f"---\nname: Modell für Bäume 🌳\ntags:\n{OURS}{BLOCK}---\nGrüße\n\n",
        ),
        ("---\n5: x\n'a b': {c: [d]}\n---\n", f"---\n5: x\n'a b': {{c: [d]}}\ntags:\n{OURS}{BLOCK}---\n\n"),
    ],
)
def test_any_form_of_card(readme, expected):
    edited = added(readme)
    assert edited.split(START)[0] == expected
    assert added(edited) == edited
    assert hub_view(edited)[0]["mll"] == yaml.safe_load(BLOCK)["mll"]


def test_line_breaks_of_the_card_are_used():
    edited = added("---\r\nlicense: mit\r\n---\r\n# Title\r\n")
    assert edited.count("\n") == edited.count("\r\n")
    assert added("# Title\r\n").count("\n") == added("# Title\r\n").count("\r\n")


@pytest.mark.parametrize("tail", ["", "\nlicense: mit", "\n# about x", "\n  # mine\nx: y", "\n\n# about x\nx: y  "])
@pytest.mark.parametrize(
    "old",
    [
        BLOCK.rstrip("\n").replace("1", "2"),
        "mll:",
        "mll: null",
        "mll: text\n  and more",
        "mll: 'it''s'",
        "'mll' : {schema: 1, graph: {name: x}}",
        "mll: {\n  a: b, # why\n  c: d\n  }",
        '"mll": [1, 2]',
        "mll:\n  - 1\n  - 2: 3",
        "mll:\n  # a comment\n  graph:\n    - name:\n        |",
    ],
)
def test_replace_any_form_of_block(old, tail):
    readme = f"---\na: b # c\n{old}{tail}\n---\n"
    edited = added(readme)
    block = BLOCK.rstrip("\n")
    assert front_of(edited) == f"a: b # c\n{block}{tail}\ntags:\n{OURS}"
    assert added(edited) == edited


def test_a_new_label_replaces_the_old_one_in_place():
    first = added("---\nlicense: mit # x\ntags: [a]\n---\n# Title\n")
    first = first.replace("---\n# Title", "z: last\n---\n# Title") + "\nMore by the author, later."
    label = make_label(GRAPH, hits=[1, 2, 3, 1, 2, 3, 1], revision="f" * 40, probes_location="other images")
    second = added(first, label, sha256="cd" * 32)
    data, body = hub_view(second)
    assert (entry_of(second)["sha256"], entry_of(second)["revision"]) == ("cd" * 32, "f" * 40)
    assert data["tags"] == [LABEL_TAG, TAG, "a"]
    assert list(data) == ["license", "tags", "mll", "z"]
    assert without_section(body) == ("# Title\n\n", "\n\nMore by the author, later.")
    assert "| other images (`" in body
    assert "| tiny (`0" not in body
    assert added(second) == first  # and back


def test_labels_on_several_graphs():
    first = added("---\nlicense: mit # x\ntags: [a]\n---\n# Title\n")
    graph = make_graph({"animal": (), "cat": ("animal",), "dog": ("animal",)}, name="other")
    label, path = make_label(graph, hits=[1, 2, 3]), f"mll/{graph.digest[:12]}/label.safetensors"
    second = add_label(first, label, graph, "cd" * 32, path)
    data, body = hub_view(second)
    assert data["tags"] == [graph_tag(graph.digest), LABEL_TAG, TAG, "a"]
    assert entry_of(second) == entry_of(first)
    assert (entry_of(second, graph)["file"], entry_of(second, graph)["sha256"]) == (path, "cd" * 32)
    assert body.startswith(hub_view(first)[1])
    assert f"| label | `{path}` |" in body
    assert add_label(second, label, graph, "cd" * 32, path) == second
    assert added(second) == second
    assert hub_view(added(second, sha256="ef" * 32))[0]["mll"]["labels"].keys() == {SHORT, graph.digest[:12]}


@pytest.mark.parametrize(
    "entry",
    [3, {}, [1], None, {"graph": "x"}, "no sha256", "a list", "a line break", "a long text", "a huge number", "a key"],
)
def test_entries_that_are_not_ours_are_dropped(entry):
    ours = yaml.safe_load(BLOCK)["mll"]["labels"][SHORT]
    changes = {
        "no sha256": {key: value for key, value in ours.items() if key != "sha256"},
        "a list": {**ours, "sha256": ["a"]},
        "a line break": {**ours, "sha256": "a\nb"},
        "a long text": {**ours, "sha256": "a" * 1000},
        "a huge number": {**ours, "recall": 10**400},
        "a key": {**ours, "x": 1},
    }
    old = changes[entry] if isinstance(entry, str) else entry
    block = json.dumps({"schema": 2, "labels": {"0" * 12: old, "x": ours, "1" * 12: ours}})
    edited = added(f"---\nmll: {block}\n---\n")
    assert hub_view(edited)[0]["mll"]["labels"] == {"1" * 12: ours, SHORT: ours}
    assert added(edited) == edited


@pytest.mark.parametrize("body", ["text", "text\n", "text\n\n", "  ", "\ntext \t", "a\r\nb", "```\n---\n```\n"])
def test_the_body_is_kept(body):
    for front in ("---\na: b\n---\n", ""):
        edited = added(front + body)
        before, after = without_section(hub_view(edited)[1])
        assert before.startswith(body)
        assert before[len(body) :].strip("\r\n") == ""
        assert before.endswith(("\n\n", "\r\n\r\n"))
        assert after in ("\n", "\r\n")


def test_text_around_the_section_is_kept():
    readme = f"---\na: b\n---\nbefore{START} old \n{END}after\t"
    body = hub_view(added(readme))[1]
    assert without_section(body) == ("before", "after\t")
    assert " old " not in body


# --- what is refused --------------------------------------------------------------------------------------------------

BOMB = "a: &a [x, x]\n" + "".join(f"{y}: &{y} [*{x}, *{x}, *{x}, *{x}]\n" for x, y in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("front", "reason"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("a: b: c", r"not valid YAML \(line 2: mapping values are not allowed here\)"),
        ("a: \x07bell", "not valid YAML"),
        ("a: b\n\x00", "not valid YAML"),
        ("a:\n\t- b", "not valid YAML"),
        ("a: 2024-02-31", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: " + "1:" * 400 + "1.0", "not valid YAML"),
        ("a: 0x_", "not valid YAML"),
        ("a: =", "not valid YAML"),
        ("? [a, b]\n: c", "not valid YAML"),
        ("<<: [a]", "not valid YAML"),
        ("a: b\n--- c", "not valid YAML"),
        ("a: \ud800", "not valid YAML"),
        ("just text", "not a mapping"),
        ("null", "by hand"),
        ("- a\n- b", "not a mapping"),
        ("[tags, license]", "not a mapping"),
        ("[]", "not a mapping"),
        ("42", "not a mapping"),
        ("{license: mit}", "by hand"),
        ("{}", "by hand"),
        ("  license: mit\n  tags: [a]", "not a list that can be edited"),
        (BOMB, "anchors"),
        ("a: &x b", "anchors"),
        ("a: &x [b]", "anchors"),
        ("a: *x", "anchors"),
        ("a: !!python/object/apply:os.system ['true']", "explicit types"),
        ("a: !!binary aGk=", "explicit types"),
        ("tags: !!seq\n- a", "explicit types"),
        ("!!map\na: b", "explicit types"),
        ("a: !mine b", "explicit types"),
        ("a: b\na: c", "the key 'a' twice"),
        ("tags: [a]\n'tags': [b]", "the key 'tags' twice"),
        ("mll: 1\nx: 2\nmll: 3", "the key 'mll' twice"),
        ("x: [{a: 1, a: 2}]", "the key 'a' twice"),
        ("a: " + "[" * 900 + "]" * 900, "recursion"),
        ("a: " + "[" * 900_000, "recursion"),
        ("- " * 400_000, "recursion"),
        ("a: " + "x" * 1_000_000, "1000000 characters"),
        ("tags: {a: b}", "tags are not a list"),
        ("tags: 5", "tags are not a list"),
        ("tags: true", "tags are not a list"),
        ("tags: 2024-01-01", "tags are not a list"),
        ("? mll\n: x", "by hand"),
        ("mll:\n- 1", "by hand"),
        ("tags: clip", "tags are not a list"),
        ("tags:\n  clip", "tags are not a list"),
        ("tags: |\n  a", "tags are not a list"),
        ("tags: ~", "not a list that can be edited"),
    ],
)
def test_unsafe_front_matter_is_refused(front, reason):
    with pytest.raises(CardError, match=reason) as caught:
        added(f"---\n{front}\n---\ntext")
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 250


@pytest.mark.parametrize(
    "readme",
    ["---", "---\n", "---\r", "---\nlicense: mit\n", "--- \na: b\n---\n", "---\na: b\n --- \n", "---\na: b\n---x"],
)
def test_front_matter_invisible_to_the_hub_is_refused(readme):
    assert REGEX_YAML_BLOCK.search(readme) is None
    with pytest.raises(CardError, match="no front matter that the Hub would see"):
        added(readme)


@pytest.mark.parametrize("body", [START, END, f"{END}{START}", f"{START}{END}{START}", f"{START}{START}{END}"])
def test_unpaired_markers_are_refused(body):
    with pytest.raises(CardError, match="do not match; remove them"):
        added(f"---\na: b\n---\n{body}")


def test_long_lines():
    line = "x" * 200_000
    edited = added(f"---\na: {line}\n---\n{line}\n")
    assert hub_view(edited)[0]["a"] == line


# --- any card ---------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["a", "clip", "zero-shot", "'q: #'", '"d\\n"', "Bäume", "🌳", "5", "1.5", ".nan", "true", "~", ""]
)
PLAIN = st.sampled_from(["a", "clip", "'q,'", '"d"', "Bäume", "mll-graph-x", LABEL_TAG, "7"])
COMMENTS = st.sampled_from(["", "", "  # why", " #tags: [no]", "\n# alone", "\n", "\n\n  # deep: x"])
VALUES = st.one_of(
    WORDS.map(" {}".format),
    st.lists(PLAIN, max_size=3).map(lambda items: f" [{', '.join(items)}]"),
    st.lists(WORDS, min_size=1, max_size=3).map(lambda items: "".join(f"\n- {item}" for item in items)),
    st.lists(WORDS, min_size=1, max_size=2).map(lambda items: "".join(f"\n  k{i}: {x}" for i, x in enumerate(items))),
    st.sampled_from(
        [" |\n  tags:\n  - x", " >-\n  folded\n  text", " two\n  lines", "\n- name: x\n  results:\n  - y: 1"]
    ),
)


@st.composite
def tags_entries(draw):
    """An entry `tags`; the second value says which pieces of it may go."""
    items = draw(st.lists(PLAIN, max_size=3, unique=True))
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), draw(st.sampled_from([OLD_TAG, f"'{OLD_TAG}'", TAG])))
    key = draw(st.sampled_from(["tags:", "'tags':", '"tags" :']))
    form = draw(st.sampled_from(["block", "indented", "flow", "lines", "null"]))
    if form == "null" or not items:
        return key + draw(st.sampled_from(["", " ", " []", " [ ]"]))
    if form in ("block", "indented"):
        indent = "\n  - " if form == "indented" else "\n- "
        return key + "".join(indent + item + draw(st.sampled_from(["", " # c", "\n# c", "\n"])) for item in items)
    if form == "flow":
        return f"{key} [{', '.join(items)}{draw(st.sampled_from(['', ' ', ',']))}]"
    return f"{key} [\n  " + ", # c\n  ".join(items) + draw(st.sampled_from(["\n  ]", ",\n  ]", " # c\n  ]"]))


@st.composite
def cards(draw):
    """A card and the pieces of it that must stay, in order."""
    keys = draw(st.lists(st.sampled_from(["license", "'q k'", "language", "model-index", "x", "9"]), unique=True))
    entries = [key + ":" + draw(VALUES) + draw(COMMENTS) for key in keys]
    if draw(st.booleans()):
        entries.insert(draw(st.integers(0, len(entries))), draw(tags_entries()) + draw(COMMENTS))
    mark = "\0"
    if draw(st.booleans()):
        old = draw(
            st.sampled_from([BLOCK[:-1], "mll: 5", "mll: {a: [b]}", "mll:\n  - a", "'mll':\n  b: c\n  d:\n    e: f"])
        )
        entries.insert(
            draw(st.integers(0, len(entries))), mark + old + mark + draw(COMMENTS.filter(lambda text: text[:1] in "\n"))
        )
    body = draw(
        st.sampled_from(["", "# Title", "# Title\n\ntext  \n", "\n---\n\ntags:\n- no\n---\n", "Grüße 🌳\n\n\n"])
    )
    section = draw(st.sampled_from(["", "", f"{START}{mark}old{mark}{END}", f"x\n{START}{mark}{mark}{END}\nlater"]))
    fence = "---\n" + "\n".join([*entries, "---\n"]) if entries else ""
    text = draw(st.sampled_from(["", "\ufeff"])) + fence + body + section
    text = text.replace("\n", draw(st.sampled_from(["\n", "\n", "\r\n"])))
    return text.replace(mark, ""), text.split(mark)[::2]


@examples
@given(card=cards())
def test_everything_else_in_a_card_is_kept(card):
    readme, pieces = card
    edited = added(readme)
    assert added(edited) == edited

    (old, old_body), (new, new_body) = hub_view(readme), hub_view(edited)
    others = [{k: repr(v) for k, v in data.items() if k not in ("tags", "mll")} for data in (old, new)]
    assert others[0] == others[1]
    assert new["mll"] == yaml.safe_load(BLOCK)["mll"]
    old_tags = old.get("tags") or []
    assert new["tags"] == [tag for tag in (LABEL_TAG, TAG) if tag not in old_tags] + old_tags
    if START in readme:
        assert without_section(new_body) == without_section(old_body)
    else:
        assert new_body.startswith(old_body)

    assert is_spread_over(pieces, edited)


def is_spread_over(pieces, text):
    """Whether every character of the pieces is in the text, in order."""
    characters = iter(text)
    return all(character in characters for piece in pieces for character in piece)


def test_is_spread_over():
    assert is_spread_over(["ab", "d"], "xaxbcd")
    assert not is_spread_over(["ab", "d"], "xaxcd")


@examples
@given(card=cards(), data=st.data())
def test_damaged_cards_are_edited_safely_or_refused(card, data):
    readme, _ = card
    at = data.draw(st.integers(0, len(readme)))
    gone = data.draw(st.integers(0, 3))
    readme = (
        readme[:at]
        + data.draw(st.sampled_from(["", "-", ":", " ", "\n", "[", "]", "'", "#", "&a", "\t", "?"]))
        + readme[at + gone :]
    )
    try:
        edited = added(readme)
    except CardError:
        return
    assert added(edited) == edited
    assert hub_view(edited)[0]["mll"] == yaml.safe_load(BLOCK)["mll"]
    if "mll:" not in readme and "mll'" not in readme and START not in readme:
        assert is_spread_over([readme], edited)


# --- branches ---------------------------------------------------------------------------------------------------------


def test_the_section_links_to_the_models_page_in_a_space(monkeypatch):
    assert "](https://me-select.hf.space" not in add_label("", LABEL, GRAPH, SHA256)
    monkeypatch.setenv("MLL_HF_SPACE", "https://me-select.hf.space")
    card = add_label("", LABEL, GRAPH, SHA256)
    assert f"](https://me-select.hf.space?model={LABEL.model.repo_id.replace('/', '%2F')})" in card


def test_a_small_graph_has_no_branches():
    assert "branches" not in added("")


def test_the_five_best_and_worst_branches_are_shown():
    hypernyms = {f"top{b:02}": () for b in range(13)}
    hypernyms |= {f"{b:02}-{i}": (f"top{b:02}",) for b in range(13) for i in range(10)}
    graph = make_graph(hypernyms)
    hits = [10 if c.id.startswith("top") else int(c.id[:2]) % 11 for c in graph.concepts]
    section = added("", make_label(graph, hits), graph)
    strongest, weakest = section.split("| strongest branches |")[1].split("| weakest branches |")
    assert re.findall(r"^\| (top\d\d)", strongest, re.MULTILINE) == ["top10", "top09", "top08", "top07", "top06"]
    assert re.findall(r"^\| (top\d\d)", weakest, re.MULTILINE) == ["top11", "top00", "top12", "top01", "top02"]


def test_no_branch_is_shown_twice():
    graph = two_branches()
    hits = [{"dog": 3, "car": 8}.get(concept.id[:3], 10) for concept in graph.concepts]
    strongest, weakest = added("", make_label(graph, hits), graph).split("| weakest branches |")
    assert re.findall(r"^\| (vehicle|animal) \| 80.0%", strongest, re.MULTILINE) == ["vehicle"]
    assert re.findall(r"^\| (vehicle|animal) \| 30.0%", weakest, re.MULTILINE) == ["animal"]
    assert "| animal |" not in strongest

    graph = two_branches(n_cars=3)
    section = added("", make_label(graph), graph)
    assert section.count("| animal |") == 1
    assert "weakest" not in section


# --- names of strangers -----------------------------------------------------------------------------------------------

HOSTILE = (
    f"{END}\n<script>a|b</script> [x](http://x) `c` *d* _e_ &lt; @f #g ![h](i) \\ $j$ ~~k~~ \x1b[2J\u202e\n---\n- l"
)


def hostile_graph():
    concepts = [Concept("top", HOSTILE, (HOSTILE,), HOSTILE, ())]
    concepts += [Concept(f"c{i}", HOSTILE, (HOSTILE,), HOSTILE, ("top",)) for i in range(10)]
    return SemanticGraph(HOSTILE, tuple(concepts))


def test_names_in_a_model_card_are_escaped():
    graph = hostile_graph()
    label = make_label(graph, probes_location=HOSTILE, package_version=HOSTILE)
    edited = added("# Title\n", label, graph)
    assert added(edited, label, graph) == edited
    _, body = hub_view(edited)
    start, end = START.replace(SHORT, graph.digest[:12]), END.replace(SHORT, graph.digest[:12])
    assert entry_of(edited, graph)["graph"]["name"] == "".join(c if c.isprintable() else "?" for c in HOSTILE)
    assert body.count(start) == body.count(end) == 1
    section = body.split(start)[1].split(end)[0]
    assert not re.search(r"[<>\[\]*_~$@\\\x1b\u202e!]", section.replace("--:", "").split("```")[0])
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {3, 5}
    assert "&#60;script&#62;a&#124;b&#60;" in section


def test_names_in_a_collection_card_are_escaped():
    graph = hostile_graph()
    card = collection_card(
        "org/labels", [graph], [make_label(graph, repo_id="local-dir:/x/" + HOSTILE.replace("/", ""))]
    )
    data, body = hub_view(card)
    assert data["pretty_name"].startswith("Model labels on <!--")
    assert body.count(LIST_START) == body.count(LIST_END) == 1
    assert "<" not in body.replace(LIST_START, "").replace(LIST_END, "")
    assert "\x1b" not in card
    assert body.count("\n---\n") == 0


# --- collections and results ------------------------------------------------------------------------------------------


def collection_labels():
    return [
        make_label(GRAPH, hits=[h] * 7, repo_id=repo_id, cost=Cost(parameters, gflops))
        for h, repo_id, parameters, gflops in [
            (5, "org/middle", 151_300_000, 8.73),
            (9, "org/best_one", 986_000_000, 334.5),
            (1, "local-dir:/home/me/secret/mine", 40_000, 0.00123),
            (5, "a/first-among-equals", 1, 1),
        ]
    ]


def test_collection_card():
    labels = collection_labels()
    card = collection_card("org/labels", [GRAPH], labels)
    data, body = hub_view(card)
    assert data == {
        "license": "apache-2.0",
        "pretty_name": "Model labels on tiny",
        "tags": [COLLECTION_TAG, TAG],
        "configs": [{"config_name": "default", "data_files": "summary.csv"}],
    }
    assert "mll-hf select --classes 'dog, cat, car' --labels hf://datasets/org/labels\n" in body
    best, first, middle, mine = re.findall(r"^\| .*mit \|$", body, re.MULTILINE)
    link = "https://huggingface.co/org/best_one"
    assert best == (f"| [org/best&#95;one]({link}) | [`{SHA[:7]}`]({link}/tree/{SHA}) | 0.900 | 986.0 M | 334 | mit |")
    assert first.startswith("| [a/first-among-equals]")
    assert middle.endswith("| 0.500 | 151.3 M | 8.73 | mit |")
    assert mine == f"| mine | `{SHA[:7]}` | 0.100 | 0.0 M | 0.00123 | mit |"
    assert "secret" not in card
    assert card == collection_card("org/labels", [GRAPH], labels[::-1])
    assert "more" not in body


def test_collection_card_shows_at_most_200_models():
    labels = [replace(LABEL, model=replace(LABEL.model, repo_id=f"org/m{i}")) for i in range(1203)]
    card = collection_card("org/labels", [GRAPH], labels)
    assert len(re.findall(r"^\| \[org", card, re.MULTILINE)) == 200
    assert "And 1,003 more" in card


def test_collection_card_of_several_graphs():
    other = make_graph({"a": (), "b": ("a",)}, name="other")
    labels = [*collection_labels()[:2], make_label(other, repo_id="org/third", license=None)]
    data, body = hub_view(collection_card("org/labels", [GRAPH, other], labels))
    assert data["tags"] == [COLLECTION_TAG, graph_tag(other.digest), TAG]
    assert data["pretty_name"] == "Model labels on other and tiny"
    of_other, of_tiny = body.split("## Models on ")[1:]
    assert "org/third" in of_other
    assert "| unknown |" in of_other
    assert "org/third" not in of_tiny
    assert "org/middle" in of_tiny


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_collection_card_keeps_the_owners_text(line_break):
    labels = collection_labels()
    before = line_break.join(["---", "license: mit # ours", "---", "# Ours", ""])
    card = collection_card("org/labels", [GRAPH], labels[:1], before)
    assert card.startswith(before)
    assert card.replace(line_break, "").count("\n") == 0
    changed = card + f"Our last words.{line_break}"
    again = collection_card("org/labels", [GRAPH], labels, changed)
    assert again.startswith(before)
    assert again.endswith(f"{LIST_END}{line_break}Our last words.{line_break}")
    assert again.count(LIST_START) == again.count(LIST_END) == 1
    assert "org/best_one" in again
    assert collection_card("org/labels", [GRAPH], labels, again) == again


def test_collection_card_with_unpaired_markers_is_refused():
    card = collection_card("org/labels", [GRAPH], collection_labels())
    for damaged in (card.replace(LIST_END, ""), card + LIST_END, "---\nlicense: mit\n"):
        with pytest.raises(CardError):
            collection_card("org/labels", [GRAPH], collection_labels(), damaged)


def test_eval_results():
    label = replace(LABEL, graph_location=f"hf://datasets/org/graph@{SHA}")
    (entry,) = parse_eval_result_entries(yaml.safe_load(eval_results(label, LABEL_PATH)))
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("org/graph", label.graph_name, SHA)
    assert entry.value == 78.57
    assert entry.source_url.endswith(f"/{label.model.repo_id}/blob/main/{LABEL_PATH}")
    assert "percent" in entry.notes
    assert "7 concepts" in entry.notes
    with pytest.raises(InputError, match="a local folder"):
        eval_results(replace(LABEL, graph_location="my-folder"), LABEL_PATH)
