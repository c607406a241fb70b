"""The labels of a collection as one table, ``summary.csv``, for the Hub's viewer, which converts it to Parquet.

It is written by ``mll-hf labels summary``, never by a push, so that many publishers do not rewrite it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mll_hf.utils.tables import csv_bytes
from mll_hf.utils.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label

SUMMARY_PATH = "summary.csv"
_COLUMNS = ("model", "revision", "license", "graph", "probes", "recall", "margin", "concepts", "images", "parameters",
            "gflops")  # fmt: skip
_LONGEST_TEXT = 200


def summary_to_bytes(labels: Sequence[Label], graphs: Sequence[SemanticGraph]) -> bytes:
    """The table of the labels on these graphs as CSV, best models first within what compares: a graph and its images.

    Names of graphs and images are claims, so their digests are shown, too. The groups with most labels come first.
    Columns: what identifies and describes a model, mean recall with half the width of its 95 % interval, and recall by
    domain.
    """
    digests, sizes = {graph.digest for graph in graphs}, Counter(each.key for each in labels)
    known = [label for label in labels if label.graph_digest in digests]
    known.sort(key=lambda label: (-label.mean_recall, label.model.repo_id, label.model.revision))
    known.sort(key=lambda label: (-sizes[label.key], label.key))
    rows = [_row(label) for label in known]
    header = [*_COLUMNS, *sorted({name for row in rows for name in row} - set(_COLUMNS))]
    return csv_bytes([header, *([row.get(name, "") for name in header] for row in rows)])


def _row(label: Label) -> dict[str, str]:
    images = label.domain_ranks.sum(axis=1)
    row = {
        "model": _text(label.model.short_name if label.model.is_local else label.model.repo_id),
        "revision": label.model.revision,
        "license": _text(label.license or ""),
        "graph": f"{_text(label.graph_name)} ({label.graph_digest[:12]})",
        "probes": f"{_text(label.probes_name)} ({label.probes_digest[:12]})",
        "recall": f"{label.mean_recall:.4f}",
        "margin": f"{label.mean_recall_margin:.4f}",
        "concepts": str(label.n_tested),
        "images": str(int(images.sum())),
        "parameters": str(label.cost.parameters),
        "gflops": f"{label.cost.gflops:.4g}",
    }
    for name, hits, count in zip(label.domain_names, label.domain_ranks[:, 0], images, strict=True):
        if count:
            row[f"domain: {_text(name)}"] = f"{hits / count:.4f}"
    return row


def _text(text: str) -> str:
    """Untrusted text for a cell: one line, and nothing that a spreadsheet would run as a formula."""
    return printable(text)[:_LONGEST_TEXT].lstrip("=+-@ ")
