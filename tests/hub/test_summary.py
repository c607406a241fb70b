"""The table and the picture of a collection."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from hub_worlds import COLLECTION, GRAPH, REPO, clock, path_of, some_labels
from mll_hf.hub import (
    PICTURE_PATH,
    SUMMARY_PATH,
    leaderboard_svg,
    rows_from_bytes,
    rows_to_bytes,
    summary_row,
)
from mll_hf.hub.publish import publish_to_collection, update_index
from worlds import make_graph, make_label

__all__ = ["clock"]  # a fixture

pytestmark = pytest.mark.usefixtures("clock")
LABELS = some_labels(4)


def table_of(hub):
    content = hub.files("dataset", REPO)[SUMMARY_PATH]
    return content, {line["model"]: line for line in rows_from_bytes(content).values()}


def test_every_publication_writes_table_picture_and_card_in_its_commit(hub):
    publish_to_collection(LABELS[:2], [GRAPH], COLLECTION)
    publish_to_collection(LABELS[2:], [GRAPH], COLLECTION)
    content, lines = table_of(hub)
    repo = hub.repos["dataset", REPO]
    titles = [repo.commits[oid]["title"] for oid in repo.history(repo.refs["main"])]
    assert titles[:2] == ["Add MLL labels"] * 2
    assert lines.keys() == {label.model.repo_id for label in LABELS}
    for label in LABELS:
        line = lines[label.model.repo_id]
        assert float(line["recall"]) == pytest.approx(label.mean_recall, abs=1e-4)
        assert line["license"] == (label.license or "")
        for s, name in enumerate(label.domain_names):
            hits, images = label.domain_ranks[s, 0], label.domain_ranks[s].sum()
            assert float(line[f"domain: {name}"]) == pytest.approx(hits / images, abs=1e-4)
    read = pa.csv.read_csv(io.BytesIO(content))  # as the viewer does
    assert read.num_rows == len(LABELS)
    assert all(pa.types.is_floating(read.schema.field(name).type) for name in read.column_names if ": " in name)
    drawn = "".join(ET.fromstring(hub.files("dataset", REPO)[PICTURE_PATH]).itertext())
    assert all(label.model.repo_id in drawn for label in LABELS)


def test_datasets_and_so_the_viewer_opens_a_collection(hub, tmp_path, monkeypatch):
    import datasets

    publish_to_collection(LABELS, [GRAPH], COLLECTION)
    for path, content in hub.files("dataset", REPO).items():
        (tmp_path / "labels" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / path).write_bytes(content)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    read = datasets.load_dataset(str(tmp_path / "labels"), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(read["model"]) == {label.model.repo_id for label in LABELS}
    assert read.features["recall"].dtype == "float64"


def test_lines_of_known_labels_are_kept_without_reading_the_labels(hub):
    publish_to_collection(LABELS[:3], [GRAPH], COLLECTION)
    hub.requests.clear()
    publish_to_collection(LABELS[3:], [GRAPH], COLLECTION)
    assert not [request for request in hub.requests if any(path_of(label) in request for label in LABELS[:3])]
    assert len(table_of(hub)[1]) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"\xff\xfe",
        lambda content: b"model,recall\na,1\n",
        lambda content: content.replace(b"org/", b"org/,"),
        lambda content: content.replace(b"0.", b""),
        lambda content: None,
    ],
)
def test_a_table_that_is_missing_or_damaged_is_written_anew(hub, damage):
    publish_to_collection(LABELS, [GRAPH], COLLECTION)
    whole = table_of(hub)[0]
    hub.put("dataset", REPO, {SUMMARY_PATH: damage(whole)})
    assert update_index(COLLECTION).changed
    assert table_of(hub)[0] == whole


def test_a_line_with_another_recall_than_its_label_is_written_anew(hub):
    publish_to_collection(LABELS, [GRAPH], COLLECTION)
    whole, lines = table_of(hub)
    forged = [{**line, "recall": "0.9999", "graph": ""} for line in lines.values()]
    hub.put("dataset", REPO, {SUMMARY_PATH: rows_to_bytes(forged)})
    update_index(COLLECTION)
    assert table_of(hub)[0] == whole


def test_recall_of_a_branch_is_the_mean_over_its_tested_concepts():
    label = make_label(GRAPH, hits=[8, 2, 6, 4, 0, 10, 1])
    row = summary_row(label, GRAPH, "0" * 64)
    tested = np.append(GRAPH.descendants[GRAPH.index["vehicle"]], GRAPH.index["vehicle"])
    assert float(row["branch: vehicle"]) == pytest.approx(label.node_precision[tested].mean(), abs=1e-4)


def test_texts_of_strangers_stay_texts():
    hostile = '=HYPERLINK("x")\n<script>,"'
    graph = make_graph({"a": (), "b": ("a",)}, name=hostile)
    label = replace(make_label(graph, repo_id="org/a"), license=hostile)
    content = rows_to_bytes([summary_row(label, graph, "0" * 64)])
    (line,) = csv.DictReader(io.StringIO(content.decode()))
    assert line["license"].startswith("HYPERLINK")
    assert "\n" not in line["license"]
    assert rows_from_bytes(content)["0" * 64]["graph"] == line["graph"]
    picture = leaderboard_svg([label], graph)
    assert b"<script" not in picture
    assert "<script>" in "".join(ET.fromstring(picture).itertext())
