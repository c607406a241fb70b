"""Edit the README of a repo as text; every byte that is not ours is kept.

Loading and dumping front matter, as ``huggingface_hub.ModelCard`` does, drops comments and turns ``language: [no]``
into false. An edit that would change anything else of the metadata is refused.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from mll_hf.errors import CardError
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_FRONT = re.compile(r"(\ufeff?\s*---[ \t]*\r?\n)((?:.*?\n)??)(---[ \t]*(?:\r?\n|\Z))", re.DOTALL)
_OPENING = re.compile(r"\ufeff?\s*---[ \t]*(?:[\r\n]|\Z)")
_BLOCK = r"^(?:{0}|'{0}'|\"{0}\")[ \t]*:[^\n]*\n(?:[ \t]+[^\s#][^\n]*\n)*"
_FLOW_TAGS = re.compile(r"^tags[ \t]*:[ \t]*\[", re.MULTILINE)
_LISTED_TAGS = re.compile(
    r"^tags[ \t]*:[ \t]*(?:#[^\n]*|\r)?\n(?=(?:[ \t]*(?:#[^\n]*)?\r?\n)*(?P<indent>[ \t]*)-\s|[^ \t]|\Z)", re.MULTILINE
)
_INVALID = (yaml.YAMLError, ValueError, OverflowError, RecursionError)  # the last three: numbers, dates, nesting


def edit_card(
    readme: str,
    tags: Sequence[str],
    key: str,
    block: Callable[[object], Mapping[str, Any]],
    name: str,
    lines: Sequence[str],
) -> str:
    """Write tags, the value of ``key`` in the front matter, and a section into a README, which may be empty.

    ``block`` maps the earlier value of ``key`` (None if there is none) to the new one, which is written as JSON. A
    CardError if the README cannot be edited safely.
    """
    head, front, fence, body = _split(readme)
    end = _line_break(readme)
    old = _parse(front)
    value, present = block(old.get(key)), old.get("tags") or []
    if not isinstance(present, list):
        raise CardError("the card's tags are not a list; write them as a list")
    missing = [tag for tag in tags if tag not in present]
    edited = _with_tags(front, missing, is_new="tags" not in old, is_empty=not present, end=end)
    text = f"{key}: {json.dumps(value, indent=2, ensure_ascii=False)}".replace("\n", f"{end}  ") + end
    pattern = re.compile(_BLOCK.format(key), re.MULTILINE)
    edited = pattern.sub(lambda _: text, edited) if key in old else edited + text
    expected = {**old, "tags": [*missing, *present], key: value}
    if not _is_same(edited, expected):
        raise CardError(f"the card cannot be edited safely; add the tags and the block '{key}' by hand")
    return head + edited + fence + _with_section(body, name, lines, end)


def put_section(readme: str, name: str, lines: Sequence[str]) -> str:
    """Write a section into a README, between two comments: in place of an earlier one of this name, else at the end."""
    return _with_section(readme, name, lines, _line_break(readme))


def split_card(readme: str) -> tuple[str, str]:
    """The front matter of a README with its dashes, empty if there is none, and its text."""
    head, front, fence, body = _split(readme)
    return (f"{head}{front}{fence}" if front else ""), body


def _split(readme: str) -> tuple[str, str, str, str]:
    """A README as opening dashes, front matter, closing dashes and body; without front matter, an empty one."""
    if found := _FRONT.match(readme):
        return found[1], found[2], found[3], readme[found.end() :]
    if _OPENING.match(readme):
        raise CardError("the card begins with '---' but its front matter is not closed; add a line of just '---'")
    end = _line_break(readme)
    mark = readme[: readme.startswith("\ufeff")]
    return f"{mark}---{end}", "", f"---{end}", readme[len(mark) :]


def _line_break(readme: str) -> str:
    return "\r\n" if re.match(r"[^\n]*\r\n", readme) else "\n"


def _parse(front: str) -> dict[Any, Any]:
    try:
        data = yaml.safe_load(front)
    except _INVALID as error:
        raise CardError(f"the card's front matter is not valid YAML ({one_line(error)}); correct it first") from None
    if data is not None and not isinstance(data, dict):
        raise CardError("the card's front matter is not a mapping; write lines such as 'license: mit'")
    return data or {}


def _with_tags(front: str, tags: Sequence[str], *, is_new: bool, is_empty: bool, end: str) -> str:
    """Insert tags at the start of the list of tags."""
    if is_new:
        return front + end.join(["tags:", *(f"- {tag}" for tag in tags), ""])
    if not tags:
        return front
    if found := _FLOW_TAGS.search(front):
        text = ", ".join(tags) + ("" if is_empty else ", ")
    elif found := _LISTED_TAGS.search(front):
        text = "".join(f"{found['indent'] or ''}- {tag}{end}" for tag in tags)
    else:
        raise CardError("the card's tags are not a list that can be edited; write each on a line of its own")
    return front[: found.end()] + text + front[found.end() :]


def _is_same(front: str, content: Mapping[Any, Any]) -> bool:
    """Whether front matter has this content; compared as text, since 1 == True and nan != nan."""
    try:
        found = yaml.safe_load(front)
        return yaml.safe_dump(found, sort_keys=True) == yaml.safe_dump(dict(content), sort_keys=True)
    except (*_INVALID, TypeError):
        return False


def _with_section(body: str, name: str, lines: Sequence[str], end: str) -> str:
    start_mark, end_mark = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    section = end.join([start_mark, *lines, end_mark])
    start, stop = body.find(start_mark), body.find(end_mark)
    if start == stop == -1:
        return body + (end if body.endswith("\n") or not body else 2 * end) + section + end
    if (body.count(start_mark), body.count(end_mark)) != (1, 1) or stop < start:
        raise CardError(f"the card's comments {start_mark} and {end_mark} do not match; remove them")
    return body[:start] + section + body[stop + len(end_mark) :]
