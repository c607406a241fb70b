"""Tables of results, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.bench.metrics import Interval
from mll_hf.utils.tables import MISSING, markdown_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Cell = str | int | float | Interval | None


@dataclass(frozen=True)
class Table:
    """A table of results."""

    name: str  # key in JSON
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]  # cells; None for what was not measured or does not apply
    digits: int = 3

    @classmethod
    def of(cls, name: str, title: str, note: str, rows: Sequence[Mapping[str, Cell]]) -> Table:
        """A table of rows by column; all rows have the columns of the first."""
        return cls(name, title, note, tuple(rows[0]), tuple(tuple(row.values()) for row in rows))

    def column(self, name: str) -> list[Any]:
        """The cells of a column."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]

    def to_json(self) -> list[dict[str, Any]]:
        """One object per row, by column."""
        return [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]

    def to_markdown(self) -> str:
        """Heading, note and table."""
        header = [column.replace("_", " ") for column in self.columns]
        rows = [[shown(cell, self.digits) for cell in row] for row in self.rows]
        return "\n".join([f"## {self.title}", "", self.note, "", *markdown_table(header, rows), ""])


def shown(cell: Cell, digits: int = 3) -> str:
    """A cell as text."""
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
