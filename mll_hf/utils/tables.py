"""Tables as text: aligned columns for the terminal, Markdown, or CSV."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from mll_hf.utils.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MISSING = "–"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format columns for a terminal; columns of numbers are right-aligned.

    Control characters are replaced by question marks, since names may be untrusted.
    """
    header, *rows = ([printable(cell) for cell in row] for row in (header, *rows))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    right = _right_aligned(header, rows)
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        for row in [header, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; columns of numbers are right-aligned. Cells are not escaped."""
    rule = ["---:" if right else "---" for right in _right_aligned(header, rows)]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def csv_bytes(rows: Iterable[Iterable[Any]]) -> bytes:
    """Lines of a CSV file in UTF-8; bytes of file names that are not valid UTF-8 are escaped."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _right_aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """For each column, whether all non-empty cells start with a number."""
    columns = [[row[column] for row in rows if row[column] not in ("", MISSING)] for column in range(len(header))]
    return [bool(cells) and all(cell.lstrip("+-")[:1].isdigit() for cell in cells) for cells in columns]
