"""Edit the README of a repo and keep every byte that is not ours.

Front matter is edited as text: loading and dumping it, as ``huggingface_hub.ModelCard`` does, loses comments, quotes
and order. Text is only inserted; only our own earlier text is removed. The result is parsed and compared with the
original; if anything else has changed, the edit is refused.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from mll_hf.errors import CardError
from mll_hf.utils.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_MAX_CHARACTERS = 10**6  # of front matter

# Where the Hub sees front matter begin and end
_OPENING = re.compile(r"\ufeff?\s*---(?=[ \t]*(?:[\r\n]|\Z))")
_CLOSING = re.compile(r"(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|\Z)")
_INVALID = (yaml.YAMLError, ValueError, OverflowError, RecursionError)  # the last three: numbers, dates, nesting

# A key with the part of its value that is found without parsing: the start of a list, or a block of indented lines
_KEY = r"^(?:{0}|'{0}'|\"{0}\")[ \t]*:"
_FLOW_LIST = _KEY + r"[ \t]*\["
_BLOCK_LIST = (
    _KEY + r"[ \t]*(?:#[^\r\n]*)?(?=\r?\n(?:[ \t]*(?:#[^\r\n]*)?\r?\n)*(?P<indent> *)-\s|\r?$)"  # or nothing yet
)
_BLOCK = _KEY + r"[^\r\n]*(?:(?:\r?\n[ \t]+#[^\r\n]*)*\r?\n[ \t]+[^\s#][^\r\n]*)*"  # without a comment at its end


def edit_card(
    readme: str,
    tags: Sequence[str],
    key: str,
    make_block: Callable[[object], Mapping[str, Any]],
    section: str,
    lines: Sequence[str],
) -> str:
    """Write tags, a block and a section into a README, replacing an earlier block and section.

    The README keeps its line breaks and may be empty. The block is the value of ``key`` in the front matter:
    ``make_block`` maps the current value (None if there is none) to the new one, nested mappings of strings and
    numbers. The section is in the body, between two comments with its name.

    Raises:
        CardError: The README cannot be edited safely.
    """
    card = _split(readme)
    old = _parse(card.front)
    block, present = make_block(old.get(key)), old.get("tags") or []
    if not isinstance(present, list):
        raise CardError("the card's tags are not a list; write them as a list")
    missing = [tag for tag in tags if tag not in present]
    front, new_lines = card.front, []
    if "tags" not in old:
        new_lines += ["tags:", *(f"- {tag}" for tag in missing)]
    elif missing:
        front = _with_tags(front, missing, ", " if present else "", card.line_break)
    if key not in old:
        new_lines += _yaml_lines({key: block})
    else:
        text = card.line_break.join(_yaml_lines({key: block}))
        front = re.sub(_BLOCK.format(key), lambda _: text, front, flags=re.MULTILINE)
    added = "".join(card.line_break + line for line in new_lines)
    fence = card.fence if card.fence.endswith("\n") else card.fence + card.line_break
    body = _edit_body(card.body, section, lines, card.line_break)
    for whole in (front + added, added + front):  # a text block at the end would absorb the lines that follow
        edited = card.head + whole + fence + body
        if _has_content(edited, whole, {**old, "tags": [*missing, *present], key: block}):
            return edited
    raise CardError(f"the card cannot be edited safely; add the tags and the block '{key}' by hand")


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
    """The parts of a README; joined, they are the README, with empty front matter if it has none.

    Attributes:
        head: Up to the dashes that open the front matter.
        front: The front matter from the line break after these dashes; empty if there is none.
        fence: The closing dashes with the line breaks around them.
        body: The rest.
        line_break: The README's first line break.
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


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Refuses YAML that may expand beyond its text, or that parsers read differently."""

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401
        event = self.peek_event()
        if getattr(event, "anchor", None):
            raise CardError("the card's front matter uses anchors (&) or aliases (*); write the values out")
        if getattr(event, "tag", None):
            raise CardError("the card's front matter uses explicit types (!); write plain values")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:  # noqa: ANN401
        node = super().compose_mapping_node(anchor)
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if repeated := [name for (_, name), times in keys.items() if times > 1]:
            raise CardError(f"the card's front matter has the key '{printable(repeated[0])[:50]}' twice; keep one")
        return node


def _parse(front: str) -> dict[Any, Any]:
    """The content of front matter that is safe to edit."""
    if len(front) > _MAX_CHARACTERS:
        raise CardError(f"the card's front matter has over {_MAX_CHARACTERS} characters; shorten it")
    try:
        data = yaml.load(front, _StrictLoader)  # noqa: S506 - a safe loader
    except _INVALID as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        where = f"line {mark.line + 1}: " if mark else ""
        reason = where + printable(problem.splitlines()[0])[:100]
        raise CardError(f"the card's front matter is not valid YAML ({reason}); correct it first") from None
    if data is not None and not isinstance(data, dict):
        raise CardError(
            "the card's front matter is not a mapping of keys to values; write lines such as 'license: mit'"
        )
    return data or {}


def _with_tags(front: str, tags: Sequence[str], separator: str, line_break: str) -> str:
    """Insert tags at the start of the list of tags, which works for every form of list."""
    if found := re.search(_FLOW_LIST.format("tags"), front, re.MULTILINE):
        text = ", ".join(tags) + separator
    elif found := re.search(_BLOCK_LIST.format("tags"), front, re.MULTILINE):
        text = "".join(f"{line_break}{found['indent'] or ''}- {tag}" for tag in tags)
    else:
        raise CardError("the card's tags are not a list that can be edited; write each on a line of its own")
    return front[: found.end()] + text + front[found.end() :]


def _has_content(readme: str, front: str, content: Mapping[Any, Any]) -> bool:
    """Whether a README has this front matter, and the front matter has this content."""
    try:
        found = _parse(front) if _split(readme).front == front else {}
        # as text, since 1 == True and nan != nan
        dumped, expected = ({key: yaml.safe_dump(value) for key, value in of.items()} for of in (found, content))
        return dumped == expected
    except (CardError, *_INVALID):
        return False


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
    start_mark, end_mark = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    section = line_break.join([start_mark, *lines, end_mark])
    start, end = body.find(start_mark), body.find(end_mark)
    if start == end == -1:
        gap = line_break if body.endswith("\n") or not body else 2 * line_break
        return body + gap + section + line_break
    if (body.count(start_mark), body.count(end_mark)) != (1, 1) or end < start:
        raise CardError(f"the card's comments {start_mark} and {end_mark} do not match; remove them")
    return body[:start] + section + body[end + len(end_mark) :]
