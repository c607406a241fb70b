"""A label as text for the Hub: in its model's card, in the card of a collection, as an evaluation result; and back.

A model's card belongs to its author. It is edited as text, at the positions that the YAML parser reports, and never
loaded and dumped again, which would lose comments, quotes and order. Afterwards it is parsed and compared with what
was there: either everything else is as before, or the edit is refused. Cards and names in graphs come from strangers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from mll_hf.errors import CardError, InputError
from mll_hf.text import abridged, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mll_hf.graph import SemanticGraph
    from mll_hf.labels import LabelSummary, ModelLabel

LABEL_TAG = "mll-label"
COLLECTION_TAG = "mll-labels"
GRAPH_TAG_PREFIX = "mll-graph-"
LABEL_PATH = "mll/label.safetensors"  # in a model's own repo
EVAL_RESULTS_PATH = ".eval_results/mll.yaml"

_BLOCK = "mll"  # key of our block in a card's metadata
_SCHEMA = 1  # of the block
_SECTION_START, _SECTION_END = "<!-- mll-label:start -->", "<!-- mll-label:end -->"

_MOST_CHARACTERS = 10**6  # of front matter
_MOST_NESTED = 50  # levels of front matter; composing and comparing it recurse
_LONGEST_NAME = 200
_FEWEST_CONCEPTS = 10
_BRANCHES_SHOWN = 5
_MODELS_SHOWN = 200

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_GRAPH_TAG = re.compile(GRAPH_TAG_PREFIX + "[0-9a-f]{12}")
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
# Where front matter begins and ends, as the Hub sees it
_OPENING = re.compile(r"\ufeff?\s*---(?=[ \t]*(?:[\r\n]|\Z))")
_CLOSING = re.compile(r"(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z)")
_UNREADABLE = (yaml.YAMLError, ValueError, OverflowError)  # the latter two from numbers and dates
_LINE_END = re.compile(r"\r\n|\r|\n|\Z")

_CONFLICT = "the card could not be edited safely; add the tags and the block 'mll' by hand"


def graph_tag(digest: str) -> str:
    """The tag of everything that belongs to a graph: searchable on the Hub, where nested metadata are not."""
    return GRAPH_TAG_PREFIX + digest[:12]


# --- branches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Branch:
    """How well a model recognises one part of a graph.

    Attributes:
        name: Name of the concept at its top.
        definition: Definition of that concept.
        precision: Mean node precision of the tested concepts below it.
        concepts: Number of these.
    """

    name: str
    definition: str
    precision: float
    concepts: int


def branch_precisions(label: LabelSummary, graph: SemanticGraph) -> list[Branch]:
    """What a model is good at and what not, in parts of the graph that are small enough to mean something.

    A branch is a concept with at least 10 tested descendants, none of which has as many itself. So no branch lies
    within another.

    Returns:
        The branches, best first; of equally good ones the smaller first.
    """
    tested = label.support > 0
    below = [descendants[tested[descendants]] for descendants in graph.descendants]
    is_large = np.array([len(concepts) >= _FEWEST_CONCEPTS for concepts in below])
    branches = [
        Branch(
            concept.name,
            concept.definition,
            float(label.node_precision[below[v]].mean(dtype=np.float64)),
            len(below[v]),
        )
        for v, concept in enumerate(graph.concepts)
        if is_large[v] and not is_large[graph.descendants[v]].any()
    ]
    return sorted(branches, key=lambda branch: (-branch.precision, branch.concepts))


# --- the block in a model's card --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CardClaim:
    """What a card says about the label in its repo. The label itself decides; this is a hint for those who search.

    Attributes:
        graph_name: Name of the graph, for people.
        graph_digest: The graph, 64 hex digits.
        probes_name: Dataset or folder of the probe images.
        probes_revision: Its revision, 40 hex digits.
        file: Path of the label in the repo.
        sha256: Of that file, 64 hex digits.
        revision: The commit of the model that was measured, 40 hex digits.
        precision: Mean node precision over the tested concepts.
        concepts: Number of concepts tested.
        tests: Number of tests. An image tests its concept and those above it.
        temperature: The model's calibration temperature.
        package_version: Version of this package that counted.
    """

    graph_name: str
    graph_digest: str
    probes_name: str
    probes_revision: str
    file: str
    sha256: str
    revision: str
    precision: float
    concepts: int
    tests: int
    temperature: float
    package_version: str


def read_claim(card_data: object) -> CardClaim | None:
    """Find what a card claims in its metadata, which may be anything that JSON or YAML can express.

    Args:
        card_data: The parsed metadata of a model's card.

    Returns:
        The claim, or None if there is no block ``mll`` or a field of it is missing or malformed.
    """
    block = _mapping(_mapping(card_data).get(_BLOCK))
    graph, probes = _mapping(block.get("graph")), _mapping(block.get("probes"))
    fields: dict[str, Any] = {
        "graph_name": _name(graph.get("name")),
        "graph_digest": _matching(graph.get("digest"), _SHA256),
        "probes_name": _name(probes.get("name")),
        "probes_revision": _matching(probes.get("revision"), _SHA1),
        "file": LABEL_PATH if block.get("file") == LABEL_PATH else None,
        "sha256": _matching(block.get("sha256"), _SHA256),
        "revision": _matching(block.get("revision"), _SHA1),
        "precision": _number(block.get("precision"), 0, 1),
        "concepts": _count(block.get("concepts")),
        "tests": _count(block.get("tests")),
        "temperature": _number(block.get("temperature"), 1e-45, 3.5e38),  # what float32 can hold
        "package_version": _name(block.get("package_version")),
    }
    if _count(block.get("schema")) != _SCHEMA or None in fields.values():
        return None
    return CardClaim(**fields)


def _mapping(value: object) -> Mapping[Any, object]:
    return value if isinstance(value, dict) else {}


def _name(value: object) -> str | None:
    is_name = isinstance(value, str) and len(value) <= _LONGEST_NAME and value.isprintable()
    return str(value) if is_name else None


def _matching(value: object, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _number(value: object, least: float, most: float) -> float | None:
    """A number in a range, which NaN is not; JSON of other languages writes 1.0 as 1."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and least <= value <= most else None  # type: ignore[arg-type, operator]


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def _claim_of(label: ModelLabel, sha256: str) -> CardClaim:
    return CardClaim(
        graph_name=printable(label.graph_name)[:_LONGEST_NAME],
        graph_digest=label.graph_digest,
        probes_name=printable(label.probes_name)[:_LONGEST_NAME],
        probes_revision=label.probes_revision,
        file=LABEL_PATH,
        sha256=sha256,
        revision=label.model.revision,
        precision=round(label.mean_precision, 4),
        concepts=int((label.support > 0).sum()),
        tests=int(label.support.sum(dtype=np.int64)),
        temperature=float(f"{float(label.temperature[0]):.4g}"),
        package_version=printable(label.package_version)[:_LONGEST_NAME],
    )


def _block(claim: CardClaim) -> dict[str, Any]:
    """The entry of a card's metadata that :func:`read_claim` reads."""
    return {
        _BLOCK: {
            "schema": _SCHEMA,
            "graph": {"name": claim.graph_name, "digest": claim.graph_digest},
            "probes": {"name": claim.probes_name, "revision": claim.probes_revision},
            "file": claim.file,
            "sha256": claim.sha256,
            "revision": claim.revision,
            "precision": claim.precision,
            "concepts": claim.concepts,
            "tests": claim.tests,
            "temperature": claim.temperature,
            "package_version": claim.package_version,
        }
    }


def _yaml_lines(mapping: Mapping[str, Any], indent: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in mapping.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_yaml_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {_scalar(value)}")
    return lines


def _scalar(value: str | float) -> str:
    """A YAML scalar on one line. Text is quoted: to some parsers a digest such as 12e4... is a number."""
    style = '"' if isinstance(value, str) else None
    text: str = yaml.safe_dump(value, default_style=style, allow_unicode=True, width=math.inf)
    return text.removesuffix("...\n").rstrip("\n")


# --- the model's card -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Readme:
    """The parts of a README. Put together they are the README, or the README with front matter added.

    Attributes:
        head: Everything up to the dashes that open the front matter.
        front: The front matter, from the line break behind these dashes; empty if there is none.
        fence: The line that closes it, with the line break before it and, if there is one, that behind it.
        body: The rest.
        line_break: The first one.
    """

    head: str
    front: str
    fence: str
    body: str
    line_break: str


def add_label(readme: str, label: ModelLabel, graph: SemanticGraph, sha256: str) -> str:
    """Say in a model's card that the model has a label: two tags and a block in the metadata, a section in the text.

    What an earlier label left is replaced in place. Every other character stays. Adding a label again changes nothing.

    Args:
        readme: The README of the model's repo, line breaks as they are in the file; may be empty.
        label: The label.
        graph: Its graph.
        sha256: Of the label's file, 64 hex digits.

    Raises:
        CardError: The card cannot be edited safely.
        InputError: The label is of another graph, or of a model that is not on the Hub.
    """
    claim = _claim_of(label, sha256)
    if label.graph_digest != graph.digest:
        raise InputError(f"the label is not of the graph {graph.name}; give the graph that it was measured on")
    if not _REPO_ID.fullmatch(label.model.repo_id):
        raise InputError("the label is of a model in a folder; publish the model and label it as org/name")
    if read_claim(_block(claim)) != claim:
        raise InputError("the label's revisions or the sha256 of its file are no full hashes; label the model anew")
    card = _split(readme)
    root, data = _parse_front(card.front)
    body = _edit_body(card, _section_lines(label, graph, claim))
    edited = card.head + _edit_front(card, root, claim) + _ended(card) + body
    _check_edit(card, data, edited, claim)
    return edited


def _split(readme: str) -> _Readme:
    """Find the front matter.

    Raises:
        CardError: It is opened and not closed, or opened in a way that the Hub does not see.
    """
    line_break = "\r\n" if re.match(r"[^\n]*\r\n", readme) else "\n"
    opening = _OPENING.match(readme)
    if opening is None:
        head, body = ("\ufeff", readme[1:]) if readme.startswith("\ufeff") else ("", readme)
        return _Readme(f"{head}---", "", f"{line_break}---{line_break}", body, line_break)
    closing = _CLOSING.search(readme, opening.end())
    if closing is None or readme[opening.end()] not in "\r\n":
        raise CardError(
            "the card begins with '---' but has no front matter that the Hub would see; "
            "put it between two lines of just '---', or drop the first line"
        )
    start, end = opening.end(), closing.start()
    return _Readme(readme[:start], readme[start:end], closing[0], readme[closing.end() :], line_break)


def _ended(card: _Readme) -> str:
    """The closing fence with a line break behind it, because our section follows."""
    return card.fence if card.fence.endswith("\n") else card.fence + card.line_break


# --- its front matter -------------------------------------------------------------------------------------------------


def _parse_front(front: str) -> tuple[Any, dict[Any, Any]]:
    """Parse front matter that is safe to edit.

    Returns:
        The root node (None if there is nothing but comments), and what `yaml.safe_load` gives.

    Raises:
        CardError: It is not.
    """
    if len(front) > _MOST_CHARACTERS:
        raise CardError(f"the card's front matter has over {_MOST_CHARACTERS} characters; shorten it")
    try:
        reason = _reason_to_refuse(front)
        loader = yaml.SafeLoader("" if reason else front)
        root = loader.get_single_node()
        reason = reason or _repeated_key(root)
        data = {} if root is None or reason else loader.construct_document(root)
    except _UNREADABLE as error:
        raise CardError(f"the card's front matter is no valid YAML ({_problem(error)}); correct it first") from None
    if not isinstance(data, dict):
        reason = "is no mapping of keys to values; write lines such as 'license: mit'"
    if reason:
        raise CardError(f"the card's front matter {reason}")
    return root, data


def _reason_to_refuse(front: str) -> str | None:
    """Look at the stream of events, before anything is built that could be larger or deeper than the text."""
    depth = 0
    for event in yaml.parse(front, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            return "uses anchors (&) or aliases (*); write the values out"
        if getattr(event, "tag", None):
            return "uses explicit types (!); write plain values"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_NESTED:
            return f"is nested over {_MOST_NESTED} levels deep; flatten it"
    return None


def _repeated_key(node: Any) -> str | None:  # noqa: ANN401 - a node of yaml, which has no types
    """Why not to edit a mapping with a key twice, here or below: parsers do not agree on which of the two counts."""
    if isinstance(node, yaml.MappingNode):
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if repeated := [name for (_, name), times in keys.items() if times > 1]:
            return f"has the key '{printable(repeated[0])[:50]}' twice; keep one"
        children = [value for _, value in node.value]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    return next((reason for child in children if (reason := _repeated_key(child))), None)


def _problem(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f"line {mark.line + 1}: " if mark else ""
    return where + printable((problem or str(error)).splitlines()[0])[:100]


_Edit = tuple[int, int, str]  # replace text[start:end] by another


def _edit_front(card: _Readme, root: Any, claim: CardClaim) -> str:  # noqa: ANN401 - a node of yaml
    """The front matter with tags and block."""
    entries: dict[str, tuple[Any, Any]] = {}
    new_line, at, end = card.line_break, len(card.front), len(card.front)
    if root is not None:
        entries = {key.value: (key, value) for key, value in root.value if key.tag.endswith(":str")}
        new_line += " " * root.start_mark.column
        if root.flow_style:  # {} gives way to entries
            at, end = root.start_mark.index, root.end_mark.index
        elif _is_text_block(_last_leaf(root)):  # anything behind it could change its last line break
            at = end = 0
        if root.flow_style and root.value:
            raise CardError("the card's front matter is written in braces; write one key per line")

    edits: list[_Edit] = []
    missing: list[str] = []
    if "tags" in entries:
        edits += _tag_edits(card, *entries["tags"], claim, new_line)
    else:
        missing += ["tags:", *(f"- {tag}" for tag in _tags(claim))]
    if _BLOCK in entries:
        key, value = entries[_BLOCK]
        edits.append((key.start_mark.index, _end(card.front, value), new_line.join(_yaml_lines(_block(claim)))))
    else:
        missing += _yaml_lines(_block(claim))
    if missing:
        text = new_line.join(missing)
        edits.append((at, end, text if at < end else new_line + text))
    return _apply(card.front, edits)


def _tags(claim: CardClaim) -> list[str]:
    return [LABEL_TAG, graph_tag(claim.graph_digest)]


def _tag_edits(card: _Readme, key: Any, node: Any, claim: CardClaim, new_line: str) -> list[_Edit]:  # noqa: ANN401
    """How to bring our tags into the entry `tags`, given as two nodes of yaml."""
    is_list, is_null = isinstance(node, yaml.SequenceNode), node.tag.endswith(":null")
    if not (is_list or is_null or node.tag.endswith(":str")):
        raise CardError("the card's tags are neither a list nor a text; write them as a list")
    items = node.value if is_list else [] if is_null else [node]
    present = {item.value: item for item in items if isinstance(item, yaml.ScalarNode)}
    tags = _tags(claim)
    graph_tags = [text for text in present if _GRAPH_TAG.fullmatch(text)]
    if len(graph_tags) > 1:
        raise CardError(f"the card's tags name several graphs ({abridged(graph_tags, 3)}); keep one")

    edits: list[_Edit] = []
    for old in graph_tags:
        start, end = present[old].start_mark.index, present[old].end_mark.index
        edits.append((start, end, card.front[start:end].replace(old, tags[1])))
    missing = [tag for tag in tags if tag not in present and not (graph_tags and tag == tags[1])]
    if not missing:
        return edits
    end = _end(card.front, items[-1] if items else node)
    if is_list and node.flow_style:
        text = ", ".join(missing)
        at = end if items else node.start_mark.index + 1
        return [*edits, (at, at, f", {text}" if items else text)]
    if is_list:
        new_line = card.line_break + " " * node.start_mark.column
    elif is_null:
        edits.append((node.start_mark.index, node.end_mark.index, ""))
    else:  # a text becomes the first item of a list
        at = card.front.index(":", key.end_mark.index) + 1
        edits.append((at, at, f"{new_line}-"))
    at = _line_end(card.front, end)
    return [*edits, (at, at, "".join(f"{new_line}- {tag}" for tag in missing))]


def _last_leaf(node: Any) -> Any:  # noqa: ANN401 - nodes of yaml
    """The last scalar of a node, or the last collection in brackets: there the parser marks the end exactly.

    Of a block it marks where the next begins, behind comments that do not belong to it.
    """
    while not isinstance(node, yaml.ScalarNode) and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(node, yaml.MappingNode) else last
    return node


def _is_text_block(leaf: Any) -> bool:  # noqa: ANN401 - a node of yaml
    return isinstance(leaf, yaml.ScalarNode) and leaf.style in ("|", ">")


def _end(front: str, node: Any) -> int:  # noqa: ANN401 - a node of yaml
    """Index behind the last character of a node."""
    leaf = _last_leaf(node)
    end: int = leaf.end_mark.index
    return len(front[:end].rstrip(" \t\r\n")) if _is_text_block(leaf) else end


def _line_end(text: str, at: int) -> int:
    found = _LINE_END.search(text, at)
    return found.start() if found else len(text)


def _apply(text: str, edits: Sequence[_Edit]) -> str:
    """Make edits that do not overlap; of two insertions at one place the first comes first."""
    parts, done = [], 0
    for start, end, new in sorted(edits, key=itemgetter(0)):
        parts += [text[done:start], new]
        done = end
    return "".join(parts) + text[done:]


# --- its body ---------------------------------------------------------------------------------------------------------


def _edit_body(card: _Readme, lines: Sequence[str]) -> str:
    """The body with our section, in the place of an older one or at the end."""
    before, after = _around_section(card.body)
    section = card.line_break.join([_SECTION_START, *lines, _SECTION_END])
    if _SECTION_START in card.body:
        return before + section + after
    gap = card.line_break if before.endswith("\n") or not before else 2 * card.line_break
    return before + gap + section + card.line_break


def _around_section(body: str) -> tuple[str, str]:
    """What is before our section and what behind it.

    Raises:
        CardError: The comments that mark it do not.
    """
    starts, ends = body.count(_SECTION_START), body.count(_SECTION_END)
    if starts == ends == 0:
        return body, ""
    start, end = body.find(_SECTION_START), body.find(_SECTION_END)
    if (starts, ends) != (1, 1) or end < start:
        raise CardError(f"the card's comments {_SECTION_START} and {_SECTION_END} are no pair; remove them")
    return body[:start], body[end + len(_SECTION_END) :]


def _section_lines(label: ModelLabel, graph: SemanticGraph, claim: CardClaim) -> list[str]:
    # No link to the paper: the Hub would tag the model with it.
    return [
        "## Model label",
        "",
        f"This model has a label: how well it recognises each of {claim.concepts:,} visual concepts of the graph "
        f'"{_escaped(claim.graph_name)}" (`{claim.graph_digest[:12]}`). It was measured at revision '
        f"`{claim.revision[:12]}` in {claim.tests:,} tests with the images of "
        f'"{_escaped(claim.probes_name)}" (`{claim.probes_revision[:12]}`). A concept\'s image counts as recognised if '
        "it is nearer to the concept than to all concepts that it does not show. On average that is so for "
        f"{claim.precision:.1%} of a concept's images.",
        "",
        *_branch_tables(branch_precisions(label, graph)),
        f"The label is the file `{LABEL_PATH}`. From labels alone `mll-hf` tells which models suit a list of classes:",
        "",
        "```bash",
        "pip install 'mll-hf[match]'",
        "mll-hf select --classes 'dog, cat, car' --labels hub",
        f"mll-hf labels show {label.model.repo_id} --labels hub",
        "```",
    ]


def _branch_tables(branches: Sequence[Branch]) -> list[str]:
    """The best of the better half of the branches, and the worst of the other half."""
    half = (len(branches) + 1) // 2
    lines: list[str] = []
    for title, shown in (("strongest", branches[:half]), ("weakest", branches[half:][::-1])):
        rows = [
            [
                _escaped(shortened(b.name, 60)),
                f"{b.precision:.1%}",
                str(b.concepts),
                _escaped(shortened(b.definition, 80)),
            ]
            for b in shown[:_BRANCHES_SHOWN]
        ]
        header = [f"{title} branches", "recognised", "concepts", "meaning"]
        lines += [*_table(header, ["---", "---:", "---:", "---"], rows), ""] if rows else []
    return lines


# --- the check --------------------------------------------------------------------------------------------------------


def _check_edit(card: _Readme, old: Mapping[Any, object], edited: str, claim: CardClaim) -> None:
    """Compare a card, whose metadata were `old`, with what became of it, as any reader will parse it.

    Raises:
        CardError: More or less has changed than was asked for.
    """
    try:
        result = _split(edited)
        new = yaml.safe_load(result.front)
        new_before, new_after = _around_section(result.body)
    except (CardError, *_UNREADABLE):
        raise CardError(_CONFLICT) from None
    ours = {"tags": _expected_tags(old.get("tags"), claim), **_block(claim)}
    before, after = _around_section(card.body)
    is_intact = (
        isinstance(new, dict)
        and result.head == card.head
        and (result.fence + new_before).startswith(card.fence + before)
        and new_after.endswith(after)
        and _same({key: new.get(key) for key in ours}, ours)
        and _same(*({key: value for key, value in data.items() if key not in ours} for data in (old, new)))
    )
    if not is_intact:
        raise CardError(_CONFLICT)


def _expected_tags(tags: object, claim: CardClaim) -> list[object]:
    ours = _tags(claim)
    present = tags if isinstance(tags, list) else [] if tags is None else [tags]
    kept = [ours[1] if isinstance(tag, str) and _GRAPH_TAG.fullmatch(tag) else tag for tag in present]
    return kept + [tag for tag in ours if tag not in kept]


def _same(a: object, b: object) -> bool:
    """Whether two parsed values are equal in content, type and order; NaN equals itself here."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_same(x, y) for x, y in zip(a.values(), b.values(), strict=True))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or (a != a and b != b))


# --- a collection, a result -------------------------------------------------------------------------------------------


def collection_card(repo_id: str, graph: SemanticGraph, labels: Sequence[LabelSummary]) -> str:
    """The README of a dataset repo that collects labels of one graph.

    Args:
        repo_id: ``owner/name`` of the dataset repo.
        graph: The graph.
        labels: The labels; the table has the best 200.
    """
    source = f"hf://datasets/{repo_id}"
    ranked = sorted(labels, key=lambda label: (-label.mean_precision, label.model.repo_id, label.model.revision))
    more = len(ranked) - _MODELS_SHOWN
    lines = [
        "---",
        "license: apache-2.0",
        f"pretty_name: {_scalar(f'Model labels on the graph {printable(graph.name)[:_LONGEST_NAME]}')}",
        "tags:",
        f"- {COLLECTION_TAG}",
        f"- {graph_tag(graph.digest)}",
        "viewer: false",
        "---",
        "",
        f"# Model labels on the graph {_escaped(graph.name[:_LONGEST_NAME])}",
        "",
        f"A label says how well a vision-language model recognises each of {len(graph):,} visual concepts "
        f"(graph `{graph.digest[:12]}`). Every model was measured once. From these labels `mll-hf` tells which models "
        "suit a list of classes and how to combine them; no model is run or downloaded for the answer.",
        "",
        "```bash",
        "pip install 'mll-hf[match]'",
        f"mll-hf select --classes 'dog, cat, car' --labels {source}",
        f"mll-hf labels ls --labels {source}",
        "```",
        "",
        "The method is Model Label Learning ([arXiv 2501.18271](https://arxiv.org/abs/2501.18271)).",
        "",
        "## Models",
        "",
        *_table(
            ["model", "revision", "precision", "parameters", "GFLOPs"],
            ["---", "---", "---:", "---:", "---:"],
            [_model_row(label) for label in ranked[:_MODELS_SHOWN]],
        ),
        "",
        *([f"And {more:,} more: `mll-hf labels ls --labels {source}`", ""] if more > 0 else []),
        "Precision: the share of a concept's images that the model recognises against all concepts that they do not "
        "show, averaged over the concepts. GFLOPs: to encode one image.",
    ]
    return "\n".join(lines) + "\n"


def _model_row(label: LabelSummary) -> list[str]:
    model, cost = label.model, label.cost
    name, revision = _escaped(model.short_name if model.is_local else model.repo_id), f"`{model.revision[:7]}`"
    if _REPO_ID.fullmatch(model.repo_id):
        url = f"https://huggingface.co/{model.repo_id}"
        name, revision = f"[{name}]({url})", f"[{revision}]({url}/tree/{model.revision})"
    return [name, revision, f"{label.mean_precision:.3f}", f"{cost.parameters / 1e6:.1f} M", f"{cost.gflops:.3g}"]


def eval_results(label: ModelLabel, dataset_id: str, task_id: str, source_url: str | None) -> str:
    """A label's mean node precision as an evaluation result: the content of EVAL_RESULTS_PATH.

    The value is in percent. The Hub shows it only where the dataset is registered as a benchmark.

    Args:
        label: The label.
        dataset_id: The dataset repo of the probe images.
        task_id: The task, as the dataset's ``eval.yaml`` names it.
        source_url: Where more can be read, if anywhere.
    """
    notes = (
        "Share of a concept's images that the model recognises, in percent, averaged over "
        f"{int((label.support > 0).sum())} concepts of graph {label.graph_digest[:12]}"
    )
    lines = [
        "- dataset:",
        f"    id: {_scalar(dataset_id)}",
        f"    task_id: {_scalar(task_id)}",
        f"    revision: {_scalar(label.probes_revision)}",
        f"  value: {_scalar(round(100 * label.mean_precision, 2))}",
        *([] if source_url is None else ["  source:", f"    url: {_scalar(source_url)}"]),
        f"  notes: {_scalar(notes)}",
    ]
    return "\n".join(lines) + "\n"


# --- text -------------------------------------------------------------------------------------------------------------


def _table(header: Sequence[str], rule: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table of cells that are Markdown already."""
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def _escaped(text: str) -> str:
    """Text that is only text: what means something to Markdown or HTML becomes a character reference."""
    return re.sub(r"[!\"#$&*:<>@\[\\\]^_`{|}~]", lambda found: f"&#{ord(found[0])};", printable(text))
