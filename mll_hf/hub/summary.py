"""The labels of a collection as a table for the Hub's viewer, and its best models as a figure.

The table is CSV and the figure SVG: neither needs another package, so every publication writes them. The Hub's viewer
converts the table to Parquet itself.
"""

from __future__ import annotations

import csv
import io
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.labels.branches import top_branches
from mll_hf.utils.text import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.index import IndexedLabel
    from mll_hf.labels.label import LabelSummary

SUMMARY_PATH = "summary.csv"
MAX_SUMMARY_BYTES = 64 * 10**6
PICTURE_PATH = "leaderboard.svg"
_COLUMNS = ("model", "revision", "license", "graph", "probes", "recall", "margin", "concepts", "images", "parameters",
            "gflops", "sha256")  # fmt: skip
_LONGEST_TEXT = 200
_MODELS_SHOWN = 20

Row = dict[str, str]


def summary_row(label: LabelSummary, graph: SemanticGraph, sha256: str) -> Row:
    """A row of the table; ``sha256`` is the hash of the label's file: the row is reused until the file changes."""
    images = label.domain_ranks.sum(axis=1)
    tested = label.support > 0
    row = {
        "model": _text(label.model.short_name if label.model.is_local else label.model.repo_id),
        "revision": label.model.revision,
        "license": _text(label.license or ""),
        "graph": _text(label.graph_name),
        "probes": _text(label.probes_name),
        "recall": recall_text(label),
        "margin": f"{label.mean_recall_margin:.4f}",
        "concepts": str(label.n_tested),
        "images": str(int(images.sum())),
        "parameters": str(label.cost.parameters),
        "gflops": f"{label.cost.gflops:.4g}",
        "sha256": sha256,
    }
    for name, hits, count in zip(label.domain_names, label.domain_ranks[:, 0], images, strict=True):
        if count:
            row[f"domain: {_text(name)}"] = f"{hits / count:.4f}"
    for v in top_branches(graph):
        below = np.append(graph.descendants[v], v)
        if tested[below].any():
            recall = label.node_precision[below[tested[below]]].mean(dtype=np.float64)
            row[f"branch: {_text(graph.concepts[v].name)}"] = f"{recall:.4f}"
    return row


def recall_text(label: LabelSummary | IndexedLabel) -> str:
    """Mean recall as the table shows it."""
    return f"{label.mean_recall:.4f}"


def rows_from_bytes(content: bytes) -> dict[str, Row]:
    """The rows of an earlier table by the sha256 of their labels; none if it is not such a table."""
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        return {}
    return {
        row["sha256"]: {name: value for name, value in row.items() if value or name in _COLUMNS}
        for row in rows
        if None not in row and set(_COLUMNS) <= row.keys() and None not in row.values()
    }


def rows_to_bytes(rows: Iterable[Row]) -> bytes:
    """The table: best models first within each graph; columns of domains and branches by name."""
    ordered = sorted(rows, key=lambda row: (row["graph"], -float(row["recall"]), row["model"], row["revision"]))
    others = {name for row in ordered for name in row} - set(_COLUMNS)
    columns = [*_COLUMNS, *sorted(others, key=lambda name: (name.startswith("branch"), name))]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    return out.getvalue().encode()


def leaderboard_svg(labels: Sequence[LabelSummary | IndexedLabel], graph: SemanticGraph) -> bytes:
    """Mean recall of the best 20 models on a graph as bars; readable on light and dark pages."""
    here = [label for label in labels if label.graph_digest == graph.digest]
    best = sorted(here, key=lambda label: (-round(label.mean_recall, 6), label.tie_break))[:_MODELS_SHOWN]
    longest, bars = max((label.mean_recall for label in best), default=1) or 1, []
    for n, label in enumerate(best):
        y, width = 34 + 22 * n, 330 * label.mean_recall / longest
        name = label.model.short_name if label.model.is_local else label.model.repo_id
        bars.append(
            f'<text x="352" y="{y + 12}" text-anchor="end">{escape(shortened(_text(name), 48))}</text>'
            f'<rect x="360" y="{y}" width="{width:.1f}" height="16" fill="#3b82c4"/>'
            f'<text x="{366 + width:.1f}" y="{y + 12}">{label.mean_recall:.3f}</text>'
        )
    title = f"Mean recall on {escape(shortened(_text(graph.name), 60))}, best {len(best)} of {len(here):,}"
    body = "\n".join(bars)
    size = f'viewBox="0 0 760 {42 + 22 * len(best)}" width="760"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="12" y="20" font-size="14" font-weight="bold">{title}</text>\n{body}\n</svg>\n'
    ).encode()


def _text(text: str) -> str:
    """Untrusted text for a cell: one line, and nothing that a spreadsheet would run as a formula."""
    return printable(text)[:_LONGEST_TEXT].lstrip("=+-@ ")
