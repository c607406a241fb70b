"""Edit the README of a repo as text; every byte that is not ours is kept.

Loading and dumping front matter, as ``huggingface_hub.ModelCard`` does, drops comments and turns ``language: [no]``
into false. An edit that would change anything else of the metadata is refused.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from mll_hf.errors import CardError
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FRONT = re.compile(r"(\ufeff?\s*---[ \t]*\r?\n)((?:.*?\n)??)(---[ \t]*(?:\r?\n|\Z))", re.DOTALL)
_OPENING = re.compile(r"\ufeff?\s*---[ \t]*(?:[\r\n]|\Z)")
_INVALID = (yaml.YAMLError, ValueError, OverflowError, RecursionError)  # the last three: numbers, dates, nesting


def add_tags(readme: str, tags: Sequence[str]) -> str:
    """Put those tags first that a README does not have; it may be empty. A CardError if it cannot be edited safely."""
    front, end = _split(readme)[1], _line_break(readme)
    old = _parse(front)
    present = old.get("tags") or []
    if not isinstance(present, list):
        raise CardError("the card's tags are not a list; write them as a list")
    missing = [tag for tag in tags if tag not in present]
    if not missing:
        return readme
    _, node = _field(front, "tags")
    at, flow = node.start_mark.index if node else len(front), ", ".join(missing)
    if node is None:
        new = end.join(["tags:", *(f"- {tag}" for tag in missing), ""])
    elif not isinstance(node, yaml.SequenceNode):
        new = f" [{flow}]"
    elif node.flow_style:
        at, new = at + 1, f"{flow}, " if present else flow
    else:
        new = "".join(f"- {tag}{end}{' ' * node.start_mark.column}" for tag in missing)
    return _with_front(readme, front[:at] + new + front[at:], {**old, "tags": [*missing, *present]})


def put_entry(readme: str, key: str, name: str, entry: Mapping[str, object]) -> str:
    """Set an entry of the mapping ``key`` of the metadata, which is written as JSON on one line. Errors as above."""
    front, end = _split(readme)[1], _line_break(readme)
    old = _parse(front)
    earlier = old.get(key) or {}
    first, node = _field(front, key)
    if not isinstance(earlier, dict) or (isinstance(node, yaml.MappingNode) and not node.flow_style):
        raise CardError(f"the card's '{key}' was written by others; give it another name")
    entries = dict(sorted({**{str(known): value for known, value in earlier.items()}, name: dict(entry)}.items()))
    with contextlib.suppress(TypeError):  # dates
        line = f"{key}: {json.dumps(entries, ensure_ascii=False)}"
        edited = (
            front + line + end
            if node is None
            else front[: first.start_mark.index] + line + front[node.end_mark.index :]
        )
        return _with_front(readme, edited, {**old, key: entries})
    raise CardError(f"the card's '{key}' was written by others; give it another name")


def _field(front: str, key: str) -> tuple[Any, Any]:
    """Key and value of a field as nodes of the YAML, which know where they are; None for both if there is none."""
    fields = yaml.compose(front, Loader=yaml.SafeLoader).value if _parse(front) else []
    return next((field for field in fields if field[0].value == key), (None, None))


def _with_front(readme: str, edited: str, expected: Mapping[Any, Any]) -> str:
    """The README with an edited front matter, if that has the expected content."""
    head, _, fence, body = _split(readme)
    with contextlib.suppress(CardError, TypeError, *_INVALID):
        if yaml.safe_dump(_parse(edited)) == yaml.safe_dump(expected):  # as text, since 1 == True and nan != nan
            return head + edited + fence + body
    raise CardError("the card cannot be edited safely; add the tags and the entry of the label by hand")


def put_section(readme: str, name: str, lines: Sequence[str]) -> str:
    """Write a section into a README, between two comments: in place of an earlier one of this name, else at the end."""
    end, start_mark, end_mark = _line_break(readme), f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    section = end.join([start_mark, *lines, end_mark])
    start, stop = readme.find(start_mark), readme.find(end_mark)
    if start == stop == -1:
        return readme + (end if readme.endswith("\n") or not readme else 2 * end) + section + end
    if (readme.count(start_mark), readme.count(end_mark)) != (1, 1) or stop < start:
        raise CardError(f"the card's comments {start_mark} and {end_mark} do not match; remove them")
    return readme[:start] + section + readme[stop + len(end_mark) :]


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
