"""Concepts from tables."""

import csv
import json

import pytest

from graph import from_table
from mll_hf.errors import InputError
from mll_hf.graph.concepts import load_graph
from worlds import write_graph_folder, write_pictures

ROWS = [
    {"id": "bird", "name": "bird", "lemmas": "fowl; bird", "description": "it flies", "parents": "animal;pet",
     "images": "here", "domain": "icon", "source": "mine"},
    {"id": "duck", "name": "duck", "lemmas": "", "description": "it quacks", "parents": "bird", "images": "",
     "domain": "", "source": ""},
]  # fmt: skip


def test_a_table(tmp_path):
    write_pictures(tmp_path / "here", 3)
    write_pictures(tmp_path / "root" / "duck", 5, first=9)
    file = tmp_path / "concepts.csv"
    with file.open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.DictWriter(out, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    (bird, birds), (duck, ducks) = from_table.read_table(file, tmp_path / "root", "sketch")
    assert bird.lemmas == ("bird", "fowl")
    assert bird.hypernyms == ("animal", "pet")
    assert bird.caption == "bird which is it flies"
    assert [(i.domain, i.source) for i in birds] == [("icon", "mine")] * 3
    assert duck.lemmas == ("duck",)
    assert [(i.domain, i.source) for i in ducks] == [("sketch", "unknown")] * 5


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": ""}, "row 1: lacks a text 'name'"),
        ({"id": 7}, "row 1: lacks a text 'id'"),
        ({"description": 7}, "lacks a text 'description'"),
        ({"parents": [7]}, "'parents' is not a list of texts"),
        ({"gloss": "x"}, r"unknown fields \(gloss\)"),
        ({"images": "gone"}, "is not a folder"),
        ({"images": ""}, "has no folder of images"),
    ],
)
def test_invalid_rows(tmp_path, change, complaint):
    file = tmp_path / "concepts.json"
    file.write_text(json.dumps([{**ROWS[0], **change}]))
    with pytest.raises(InputError, match=complaint) as caught:
        from_table.read_table(file)
    assert "\n" not in str(caught.value)


def test_a_table_becomes_a_graph(tmp_path, capsys):
    base = write_graph_folder(tmp_path / "base")
    rows = [{"id": id, "name": id, "parents": ["animal"]} for id in ("duck", "emu")]
    for n, row in enumerate(rows):
        write_pictures(tmp_path / "root" / row["id"], 5, first=9 * n)
    (tmp_path / "c.json").write_text(json.dumps(rows))
    words = [tmp_path / "c.json", "--to", tmp_path / "p", "--images-root", tmp_path / "root"]
    assert from_table.main([*map(str, words), "--base", str(base)]) == 0
    assert "(2 concepts, 10 images)" in capsys.readouterr().out
    assert load_graph(tmp_path / "p").external == {"animal"}
    assert from_table.main([str(tmp_path / "none.csv"), "--to", str(tmp_path / "p")]) == 1
    assert "cannot be read as a table" in capsys.readouterr().err
