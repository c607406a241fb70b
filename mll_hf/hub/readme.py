"""Edit the README of a repository and keep every byte that is not ours.

Front matter is edited as text, at the positions that the YAML parser reports: loading and dumping it, as
``huggingface_hub.ModelCard`` does, loses comments, quotes and order. The result is parsed and compared with the
original; if anything else has changed, the edit is refused.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from mll_hf.errors import CardError
from mll_hf.utils.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_MOST_CHARACTERS = 10**6  # of front matter
_MOST_NESTED = 50  # levels of front matter; parsing and comparing are recursive

# Where front matter begins and ends for the Hub
_OPENING = re.compile(r"\ufeff?\s*---(?=[ \t]*(?:[\r\n]|\Z))")
_CLOSING = re.compile(r"(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z)")
_LINE_END = re.compile(r"\r\n|\r|\n|\Z")
_INVALID = (yaml.YAMLError, ValueError, OverflowError)  # the latter two from numbers and dates

_Node = Any  # a node of yaml, which has no types
_Edit = tuple[int, int, str]  # replace text[start:end]


@dataclass(frozen=True, slots=True)
class CardEdit:
    """What to write into a card.

    Attributes:
        tags: Tags that the front matter must have.
        key: Key of our block in the front matter.
        block: Given the block so far (None without one), its new value: nested mappings of texts and numbers.
        section: Name of our section in the body; it is between two comments with this name.
        lines: Lines of the section.
    """

    tags: Sequence[str]
    key: str
    block: Callable[[object], Mapping[str, Any]]
    section: str
    lines: Sequence[str]


def edit_card(readme: str, edit: CardEdit) -> str:
    """Write tags, a block and a section into a README, replacing earlier ones, else at the end.

    Args:
        readme: The README with its own line breaks; may be empty.
        edit: What to write.

    Raises:
        CardError: The README cannot be edited safely.
    """
    card = _split(readme)
    root, data = _parse(card.front)
    block = edit.block(data.get(edit.key))
    body = _edit_body(card.body, edit.section, edit.lines, card.line_break)
    fence = card.fence if card.fence.endswith("\n") else card.fence + card.line_break
    edited = card.head + _edit_front(card, root, edit, block) + fence + body
    if not _is_intact(card, data, edited, edit, block):
        raise CardError(f"the card cannot be edited safely; add the tags and the block '{edit.key}' by hand")
    return edited


def put_section(readme: str, name: str, lines: Sequence[str]) -> str:
    """Write a section into the body of a README, replacing an earlier one of this name, else at the end.

    Raises:
        CardError: The comments around an earlier section do not match, or front matter is not closed.
    """
    card = _split(readme)
    before = readme[: len(readme) - len(card.body)]
    return before + _edit_body(card.body, name, lines, card.line_break)


@dataclass(frozen=True, slots=True)
class _Readme:
    """The parts of a README; joined they are the README, or the README with empty front matter added.

    Attributes:
        head: Up to the dashes that open the front matter.
        front: The front matter from the line break after these dashes; empty if there is none.
        fence: The closing dashes with the line breaks around them.
        body: The rest.
        line_break: The first one.
    """

    head: str
    front: str
    fence: str
    body: str
    line_break: str


def _split(readme: str) -> _Readme:
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


# --- front matter -----------------------------------------------------------------------------------------------------


def _parse(front: str) -> tuple[_Node | None, dict[Any, Any]]:
    """The root node (None if there are only comments) and the content of front matter that is safe to edit."""
    if len(front) > _MOST_CHARACTERS:
        raise CardError(f"the card's front matter has over {_MOST_CHARACTERS} characters; shorten it")
    try:
        _refuse_unsafe(front)
        loader = yaml.SafeLoader(front)
        root = loader.get_single_node()
        _refuse_repeated_keys(root)
        data = {} if root is None else loader.construct_document(root)
    except _INVALID as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        where = f"line {mark.line + 1}: " if mark else ""
        reason = where + printable(problem.splitlines()[0])[:100]
        raise CardError(f"the card's front matter is no valid YAML ({reason}); correct it first") from None
    if not isinstance(data, dict):
        raise CardError("the card's front matter is no mapping of keys to values; write lines such as 'license: mit'")
    return root, data


def _refuse_unsafe(front: str) -> None:
    """Check the event stream, before anything is built that could be larger or deeper than the text."""
    depth = 0
    for event in yaml.parse(front, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise CardError("the card's front matter uses anchors (&) or aliases (*); write the values out")
        if getattr(event, "tag", None):
            raise CardError("the card's front matter uses explicit types (!); write plain values")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_NESTED:
            raise CardError(f"the card's front matter is nested over {_MOST_NESTED} levels deep; flatten it")


def _refuse_repeated_keys(node: _Node | None) -> None:
    """Parsers do not agree on which of two equal keys counts."""
    if isinstance(node, yaml.MappingNode):
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if repeated := [name for (_, name), times in keys.items() if times > 1]:
            raise CardError(f"the card's front matter has the key '{printable(repeated[0])[:50]}' twice; keep one")
        for _, value in node.value:
            _refuse_repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item)


def _edit_front(card: _Readme, root: _Node | None, edit: CardEdit, block: Mapping[str, Any]) -> str:
    entries: dict[str, tuple[_Node, _Node]] = {}
    new_line, at, end = card.line_break, len(card.front), len(card.front)
    if root is not None:
        entries = {key.value: (key, value) for key, value in root.value if key.tag.endswith(":str")}
        new_line += " " * root.start_mark.column
        if root.flow_style:  # an empty {} is replaced by entries
            at, end = root.start_mark.index, root.end_mark.index
        elif _is_text_block(_last_leaf(root)):  # text after it could change its last line break
            at = end = 0
        if root.flow_style and root.value:
            raise CardError("the card's front matter is written in braces; write one key per line")

    edits: list[_Edit] = []
    missing: list[str] = []
    if "tags" in entries:
        edits += _tag_edits(card, *entries["tags"], edit.tags, new_line)
    else:
        missing += ["tags:", *(f"- {tag}" for tag in edit.tags)]
    ours = _yaml_lines({edit.key: block})
    if edit.key in entries:
        key, value = entries[edit.key]
        edits.append((key.start_mark.index, _end(card.front, value), new_line.join(ours)))
    else:
        missing += ours
    if missing:
        text = new_line.join(missing)
        edits.append((at, end, text if at < end else new_line + text))
    return _apply(card.front, edits)


def _tag_edits(card: _Readme, key: _Node, node: _Node, tags: Sequence[str], new_line: str) -> list[_Edit]:
    """Edits that add tags to the entry ``tags``."""
    is_list, is_null = isinstance(node, yaml.SequenceNode), node.tag.endswith(":null")
    if not (is_list or is_null or node.tag.endswith(":str")):
        raise CardError("the card's tags are neither a list nor a text; write them as a list")
    items = node.value if is_list else [] if is_null else [node]
    present = {item.value for item in items if isinstance(item, yaml.ScalarNode)}
    missing = [tag for tag in tags if tag not in present]
    if not missing:
        return []
    end = _end(card.front, items[-1] if items else node)
    if is_list and node.flow_style:
        text = ", ".join(missing)
        return [(end, end, f", {text}")] if items else [(node.start_mark.index + 1, node.start_mark.index + 1, text)]
    edits: list[_Edit] = []
    if is_list:
        new_line = card.line_break + " " * node.start_mark.column
    elif is_null:
        edits.append((node.start_mark.index, node.end_mark.index, ""))
    else:  # a text becomes the first item of a list
        at = card.front.index(":", key.end_mark.index) + 1
        edits.append((at, at, f"{new_line}-"))
    line_end = _LINE_END.search(card.front, end)
    at = line_end.start() if line_end else len(card.front)
    return [*edits, (at, at, "".join(f"{new_line}- {tag}" for tag in missing))]


def _last_leaf(node: _Node) -> _Node:
    """The last scalar or bracketed collection of a node; of a block the parser puts the end after later comments."""
    while not isinstance(node, yaml.ScalarNode) and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(node, yaml.MappingNode) else last
    return node


def _is_text_block(leaf: _Node) -> bool:
    return isinstance(leaf, yaml.ScalarNode) and leaf.style in ("|", ">")


def _end(front: str, node: _Node) -> int:
    """Index after the last character of a node."""
    leaf = _last_leaf(node)
    end: int = leaf.end_mark.index
    return len(front[:end].rstrip(" \t\r\n")) if _is_text_block(leaf) else end


def _apply(text: str, edits: Sequence[_Edit]) -> str:
    """Make edits that do not overlap; insertions at one place keep their order."""
    parts, done = [], 0
    for start, end, new in sorted(edits, key=itemgetter(0)):
        parts += [text[done:start], new]
        done = end
    return "".join(parts) + text[done:]


def _yaml_lines(mapping: Mapping[str, Any], indent: str = "") -> list[str]:
    """Nested mappings as YAML. Texts are quoted: some parsers read a digest such as 12e4... as a number."""
    lines: list[str] = []
    for name, value in mapping.items():
        key = name if name[:1].isalpha() else f'"{name}"'
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_yaml_lines(value, indent + "  ")]
        else:
            style = '"' if isinstance(value, str) else None
            scalar: str = yaml.safe_dump(value, default_style=style, allow_unicode=True, width=math.inf)
            lines.append(f"{indent}{key}: " + scalar.removesuffix("...\n").rstrip("\n"))
    return lines


# --- body -------------------------------------------------------------------------------------------------------------


def _edit_body(body: str, name: str, lines: Sequence[str], line_break: str) -> str:
    parts = _around_section(body, name)
    section = line_break.join([f"<!-- {name}:start -->", *lines, f"<!-- {name}:end -->"])
    if parts:
        return parts[0] + section + parts[1]
    gap = line_break if body.endswith("\n") or not body else 2 * line_break
    return body + gap + section + line_break


def _around_section(body: str, name: str) -> tuple[str, str] | None:
    """The text before and after a section; None if there is no such section."""
    start_mark, end_mark = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    starts, ends = body.count(start_mark), body.count(end_mark)
    if starts == ends == 0:
        return None
    start, end = body.find(start_mark), body.find(end_mark)
    if (starts, ends) != (1, 1) or end < start:
        raise CardError(f"the card's comments {start_mark} and {end_mark} are no pair; remove them")
    return body[:start], body[end + len(end_mark) :]


# --- check ------------------------------------------------------------------------------------------------------------


def _is_intact(card: _Readme, old: Mapping[Any, Any], edited: str, edit: CardEdit, block: Mapping[str, Any]) -> bool:
    """Whether an edited card, parsed as any reader does, has our metadata and otherwise what it had."""
    try:
        result = _split(edited)
        new = yaml.safe_load(result.front)
        new_before, new_after = _around_section(result.body, edit.section) or ("", "")
    except (CardError, *_INVALID):
        return False
    tags = old.get("tags")
    kept = tags if isinstance(tags, list) else [] if tags is None else [tags]
    ours = {"tags": kept + [tag for tag in edit.tags if tag not in kept], edit.key: block}
    before, after = _around_section(card.body, edit.section) or (card.body, "")
    return (
        isinstance(new, dict)
        and result.head == card.head
        and (result.fence + new_before).startswith(card.fence + before)
        and new_after.endswith(after)
        and _same({key: new.get(key) for key in ours}, ours)
        and _same(*({key: value for key, value in data.items() if key not in ours} for data in (old, new)))
    )


def _same(a: object, b: object) -> bool:
    """Whether two parsed values are equal in content, type and order; NaN equals NaN."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_same(x, y) for x, y in zip(a.values(), b.values(), strict=True))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or (a != a and b != b))
