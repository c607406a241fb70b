"""Editing the README of somebody else: everything stays but what is ours.

It is edited as text, at the positions that the YAML parser reports, and never loaded and dumped again, which would lose
comments, quotes and order. Afterwards it is parsed and compared with what was there: either everything else is as
before, or the edit is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from mll_hf.errors import CardError
from mll_hf.hub.claim import BLOCK, GRAPH_TAG_PREFIX, LABEL_TAG, block_of, graph_tag, yaml_lines
from mll_hf.utils.text import abridged, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mll_hf.hub.claim import CardClaim

_SECTION_START, _SECTION_END = "<!-- mll-label:start -->", "<!-- mll-label:end -->"
_MOST_CHARACTERS = 10**6  # of front matter
_MOST_NESTED = 50  # levels of front matter; composing and comparing it recurse

_GRAPH_TAG = re.compile(GRAPH_TAG_PREFIX + "[0-9a-f]{12}")
# Where front matter begins and ends, as the Hub sees it
_OPENING = re.compile(r"\ufeff?\s*---(?=[ \t]*(?:[\r\n]|\Z))")
_CLOSING = re.compile(r"(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z)")
_LINE_END = re.compile(r"\r\n|\r|\n|\Z")
_UNREADABLE = (yaml.YAMLError, ValueError, OverflowError)  # the latter two from numbers and dates

_CONFLICT = "the card could not be edited safely; add the tags and the block 'mll' by hand"


def edit_readme(readme: str, claim: CardClaim, section: Sequence[str]) -> str:
    """Bring tags, block and section into a README, in the place of older ones of ours or at the end.

    Args:
        readme: The README, line breaks as they are in the file; may be empty.
        claim: Gives tags and block.
        section: Lines of the section in the text.

    Raises:
        CardError: The README cannot be edited safely.
    """
    card = _split(readme)
    root, data = _parse_front(card.front)
    body = _edit_body(card.body, section, card.line_break)
    edited = card.head + _edit_front(card, root, claim) + _ended(card) + body
    _check_edit(card, data, edited, claim)
    return edited


def put_section(readme: str, section: Sequence[str]) -> str:
    """Bring a section into a README, in the place of an older one of ours or at the end; the rest stays.

    Args:
        readme: The README, line breaks as they are in the file; may be empty.
        section: Lines of the section.

    Raises:
        CardError: The comments that mark an older section are no pair, or front matter is not closed.
    """
    card = _split(readme)
    before = readme[: len(readme) - len(card.body)]
    return before + _edit_body(card.body, section, card.line_break)


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
        elif _is_textblock_of(_last_leaf(root)):  # anything behind it could change its last line break
            at = end = 0
        if root.flow_style and root.value:
            raise CardError("the card's front matter is written in braces; write one key per line")

    edits: list[_Edit] = []
    missing: list[str] = []
    if "tags" in entries:
        edits += _tag_edits(card, *entries["tags"], claim, new_line)
    else:
        missing += ["tags:", *(f"- {tag}" for tag in _tags(claim))]
    if BLOCK in entries:
        key, value = entries[BLOCK]
        edits.append((key.start_mark.index, _end(card.front, value), new_line.join(yaml_lines(block_of(claim)))))
    else:
        missing += yaml_lines(block_of(claim))
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


def _is_textblock_of(leaf: Any) -> bool:  # noqa: ANN401 - a node of yaml
    return isinstance(leaf, yaml.ScalarNode) and leaf.style in ("|", ">")


def _end(front: str, node: Any) -> int:  # noqa: ANN401 - a node of yaml
    """Index behind the last character of a node."""
    leaf = _last_leaf(node)
    end: int = leaf.end_mark.index
    return len(front[:end].rstrip(" \t\r\n")) if _is_textblock_of(leaf) else end


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


def _edit_body(body: str, lines: Sequence[str], line_break: str) -> str:
    """The body with our section, in the place of an older one or at the end."""
    before, after = _around_section(body)
    section = line_break.join([_SECTION_START, *lines, _SECTION_END])
    if _SECTION_START in body:
        return before + section + after
    gap = line_break if before.endswith("\n") or not before else 2 * line_break
    return before + gap + section + line_break


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
    ours = {"tags": _expected_tags(old.get("tags"), claim), **block_of(claim)}
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
