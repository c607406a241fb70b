"""Images to label that ``fit`` suggests, and images without a class in ``predict``."""

from __future__ import annotations

import csv
import json

import pytest

from cli_worlds import fails, run

TASK = ["--classes", "cat, dog, car"]


@pytest.fixture
def fitted(world, task_images, tmp_path, capsys):
    task = ["fit", task_images, *TASK, "--labels", world / "labels", "-o", tmp_path / "choice"]
    assert run(capsys, *task, "--suggest", "8")[0] == 0
    return task


def test_suggested_images_come_back_as_examples(fitted, task_images, tmp_path, capsys):
    table = tmp_path / "choice" / "to_label.csv"
    rows = list(csv.DictReader(table.open()))
    assert len({row["path"] for row in rows}) == len(rows) == 8
    assert {row["class"] for row in rows} <= {"cat", "dog", "car"}
    assert sum(float(row["weight"]) for row in rows) == pytest.approx(8)
    assert "to_label.csv exists, perhaps with your corrections; rename it" in fails(capsys, *fitted, "--suggest", "8")
    corrected = table.rename(tmp_path / "labeled.csv")
    for n, row in enumerate(rows):
        row["class"] = ("cat", "dog")[n % 2]
    with corrected.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "class", "weight"])
        writer.writeheader()
        writer.writerows(rows)
    trial = json.loads(run(capsys, *fitted, "--examples", corrected, "--json")[1])["trial"]
    assert (trial["n_images"], trial["n_examples"]) == (24, 8)
    corrected.write_text("path,class,weight\na.png,cat,many\n")
    assert "labeled.csv: a weight is no number" in fails(capsys, *fitted, "--examples", corrected)
    corrected.write_text("path,class,weight\n" + "".join(f"{row['path']},cat,-1\n" for row in rows))
    assert "the weight of an example is -1.0" in fails(capsys, *fitted, "--examples", corrected)


def test_impossible_suggestions(world, task_images, tmp_path, capsys):
    task = ["fit", task_images, *TASK, "--labels", world / "labels"]
    assert "--suggest writes to_label.csv into the folder of -o" in fails(capsys, *task, "--suggest", "5")
    task += ["-o", tmp_path / "choice"]
    assert "there are only 24 images without a class" in fails(capsys, *task, "--suggest", "25")
    assert not (tmp_path / "choice").exists()


def test_rejected_images_have_no_class(fitted, task_images, tmp_path, capsys):
    predict = ["predict", task_images, "--selection", tmp_path / "choice", "--json"]
    rows = {}
    for share in (None, 0.05, 0.5, 0.95):
        lines = run(capsys, *predict, *([] if share is None else ["--reject", share]))[1].splitlines()
        rows[share] = [json.loads(line) for line in lines]
    assert all(row["label"] for row in rows[None])
    rejected = [sum(row["label"] is None for row in rows[share]) for share in (0.05, 0.5, 0.95)]
    assert rejected == sorted(rejected)
    assert rejected[0] <= 6 <= rejected[1] <= 18 <= rejected[2]
    for before, after in zip(rows[None], rows[0.5], strict=True):
        assert after["label"] in (None, before["label"])
        assert after["probabilities"] == before["probabilities"]
    assert "a number between 0 and 1" in fails(capsys, *predict, "--reject", 1)
    for more in (["--rule", "entropy"], ["--template", "{}"]):
        assert "a selection by 'mll-hf fit' is needed, with its own" in fails(capsys, *predict, "--reject", 0.1, *more)
