"""The table of a collection."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pyarrow as pa
import pyarrow.csv
import pytest

from mll_hf.labels.summary import summary_to_bytes
from worlds import make_graph, make_label

GRAPH = make_graph()


def rows_of(content):
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_one_row_per_label_best_first():
    labels = [make_label(GRAPH, hits, repo_id=f"org/{n}") for n, hits in enumerate([[5] * 7, [8, 2, 6, 4, 0, 10, 1]])]
    content = summary_to_bytes([*labels, make_label(make_graph({"a": ()}, "unknown"))], [GRAPH])
    rows = rows_of(content)
    assert [row["model"] for row in rows] == ["org/0", "org/1"]
    for row, label in zip(rows, labels, strict=True):
        assert float(row["recall"]) == pytest.approx(label.mean_recall, abs=1e-4)
        assert float(row["domain: photo"]) == pytest.approx(label.mean_recall, abs=1e-4)
        assert (row["license"], row["revision"], row["concepts"]) == ("mit", label.model.revision, "7")
    read = pa.csv.read_csv(io.BytesIO(content))  # as the Hub's viewer does
    assert all(pa.types.is_floating(read.schema.field(name).type) for name in read.column_names if ": " in name)


def test_texts_of_strangers_stay_texts():
    hostile = '=HYPERLINK("x")\n<script>,"'
    graph = make_graph({"a": (), "b": ("a",)}, name=hostile)
    (row,) = rows_of(summary_to_bytes([replace(make_label(graph, repo_id="org/a"), license=hostile)], [graph]))
    assert row["license"].startswith("HYPERLINK")
    assert "\n" not in row["license"]
