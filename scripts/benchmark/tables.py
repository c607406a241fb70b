"""Tables of results and reports, as Markdown for people and JSON for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.metrics import Interval
from mll_hf.utils.files import write_atomically
from mll_hf.utils.tables import MISSING, markdown_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Cell = str | int | float | Interval | None


@dataclass(frozen=True)
class Table:
    """A table of results."""

    name: str  # key in JSON
    title: str
    note: str
    rows: Sequence[Mapping[str, Cell]]  # by column, the same for all; None for what was not measured or does not apply
    digits: int = 3

    def to_json(self) -> list[dict[str, Any]]:
        """One object per row, by column."""
        return [{column: _plain(cell) for column, cell in row.items()} for row in self.rows]

    def to_markdown(self) -> str:
        """Heading, note and table."""
        header = [column.replace("_", " ") for column in self.rows[0]]
        rows = [[shown(cell, self.digits) for cell in row.values()] for row in self.rows]
        return "\n".join([f"## {self.title}", "", self.note, "", *markdown_table(header, rows), ""])


@dataclass(frozen=True)
class Report:
    """Tables, and facts about how they were made."""

    title: str
    facts: Mapping[str, str]  # such as the command
    tables: tuple[Table, ...]
    text: str = ""  # Markdown, before the tables

    def to_json(self) -> str:
        """Text of a JSON file."""
        document = {**self.facts, "tables": {table.name: table.to_json() for table in self.tables}}
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """A page of Markdown."""
        lines = [f"# {self.title}", "", *(f"- {name}: {value}" for name, value in self.facts.items()), ""]
        lines += [self.text, ""] if self.text else []
        return "\n".join([*lines, *(table.to_markdown() for table in self.tables)])

    def save(self, folder: Path, name: str) -> None:
        """Write ``NAME.md`` and ``NAME.json``.

        Raises:
            StorageError: The folder cannot be written.
        """
        write_atomically(folder / f"{name}.md", self.to_markdown().encode())
        write_atomically(folder / f"{name}.json", self.to_json().encode())


def shown(cell: Cell, digits: int = 3) -> str:
    """Format a cell."""
    match cell:
        case Interval():
            return f"{shown(cell.estimate, digits)} [{shown(cell.low, digits)}, {shown(cell.high, digits)}]"
        case float():
            return f"{cell:.{digits}f}" if np.isfinite(cell) else MISSING
        case None:
            return MISSING
        case _:
            return str(cell)


def _plain(cell: Cell) -> Any:  # noqa: ANN401 - JSON
    if isinstance(cell, Interval):
        return {name: _plain(getattr(cell, name)) for name in ("estimate", "low", "high")}
    if isinstance(cell, float) and not np.isfinite(cell):
        return None  # strict JSON has no NaN
    return cell
