"""The command ``predict`` on tiny real models: what it prints and writes, and how it resumes."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from cli_worlds import chosen, encoded, fails, run
from mll_hf.ensemble.run import Ensemble
from mll_hf.labels.counts import wilson_interval


def test_predict_prints_json_lines_or_a_table(world, capsys):
    base = ["predict", world / "images", "--selection", chosen(capsys, world, "cat, dog, tree")]
    status, out, _ = run(capsys, *base, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [Path(record["image"]).name for record in records] == ["a.png", "b.png", "c.png"]
    for record in records:
        assert list(record) == ["image", "label", "probability", "probabilities"]
        assert sum(record["probabilities"]) == pytest.approx(1)
        assert record["label"] == ["cat", "dog", "tree"][int(np.argmax(record["probabilities"]))]
        assert record["probability"] == max(record["probabilities"])
    status, out, _ = run(capsys, *base)
    assert status == 0
    assert len(out.splitlines()) == 4


def test_predict_resumes_where_it_was_stopped(world, tmp_path, monkeypatch, capsys):
    """Stopped twice in the middle of a write: each image is answered once, as without a stop."""
    (tmp_path / "images").mkdir()
    for n in range(40):
        (tmp_path / "images" / f"{n:02}.png").write_bytes(b"broken" if n == 17 else encoded((5 * n, 200, 90), n))
    output = tmp_path / "answers.csv"
    task = ["predict", tmp_path / "images", "--selection", chosen(capsys, world, "cat, dog, tree")]
    plain = [json.loads(line) for line in run(capsys, *task, "--json")[1].splitlines()]

    def stopping(ensemble, *images, **options):
        for n, prediction in enumerate(stream(ensemble, *images, **options)):
            if n == 2:
                output.write_bytes(output.read_bytes()[:-7])
                raise KeyboardInterrupt
            yield prediction

    stream = Ensemble.stream
    monkeypatch.setattr("mll_hf.models.torch_model._CPU_BATCH", 4)
    command = [*task, "-o", output]
    with monkeypatch.context() as patch:
        patch.setattr(Ensemble, "stream", stopping)
        for n in range(2):
            status, out, err = run(capsys, *command)
            assert (status, out) == (130, "")
            assert ("has predictions for" in err) == (n > 0)
    status, out, err = run(capsys, *command)
    assert (status, out) == (1, "")  # one cannot be read
    assert f"has predictions for {2 * 7} of 40 images" in err
    header, *rows = csv.reader(io.StringIO(output.read_text()))
    assert header == ["image", "label", "probability", "cat", "dog", "tree"]
    found = {row[0]: row[1] for row in rows}
    assert len(rows) == len(found) == 40
    assert found.pop(str(tmp_path / "images" / "17.png")) == ""
    assert found == {record["image"]: record["label"] for record in plain}
    content = output.read_bytes()
    assert "40 of 40" in run(capsys, *command)[2]
    assert output.read_bytes() == content


def test_predictions_are_scored_by_their_true_classes(world, examples_by_class, tmp_path, capsys):
    """From a folder per class or a CSV file, into a file that is resumed, with an image that cannot be read."""
    task = ["predict", "--selection", chosen(capsys, world)]
    images = sorted(examples_by_class.glob("*/*.png"))
    lines = [json.loads(line) for line in run(capsys, *task, examples_by_class, "--json")[1].splitlines()]
    label = {Path(line["image"]): line["label"] for line in lines}
    right = sum(label[image] == image.parent.name for image in images)
    status, out, _ = run(capsys, *task, "--truth", examples_by_class, "--json")
    score = json.loads(out)
    assert (status, score["images"], score["without"]) == (0, 18, 0)
    assert score["accuracy"] == right / 18
    assert score["interval"] == pytest.approx(wilson_interval(right, 18))
    assert [(entry["class"], entry["images"]) for entry in score["classes"]] == [("cat", 6), ("dog", 6), ("car", 6)]
    for y, (entry, row) in enumerate(zip(score["classes"], score["confusion"], strict=True)):
        labels = [label[image] for image in images if image.parent.name == entry["class"]]
        assert row == [labels.count(name) for name in ("cat", "dog", "car")]
        assert entry["recall"] == row[y] / 6
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    truth = tmp_path / "truth.csv"
    truth.write_text(
        "path,class\n" + "".join(f"{image},{image.parent.name}\n" for image in images) + "broken.png,cat\n"
    )
    output = ["-o", tmp_path / "answers.csv"]
    assert run(capsys, *task, examples_by_class / "cat", *output)[0] == 0
    for _ in range(2):
        status, out, err = run(capsys, *task, "--truth", truth, *output)
        assert status == 1 or "19 of 19" in err
        assert out.splitlines()[0].startswith(f"accuracy {100 * right / 18:.1f} % (95 % interval: ")
        assert out.splitlines()[0].endswith(f", {right} of 18 images; 1 rejected or unreadable")
        assert [line.split()[:2] for line in out.splitlines()[3:]] == [["cat", "6"], ["dog", "6"], ["car", "6"]]
    some = run(capsys, *task, examples_by_class / "dog", world / "images", "--truth", truth, "--json")[1]
    assert [entry["images"] for entry in json.loads(some)["classes"]] == [0, 6, 0]
    assert json.loads(some)["classes"][0]["recall"] is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a.png,bird", "examples of unknown classes: 'bird' (nearest: "),
        ("a.png,cat\na.png,dog", "a.png has two classes; keep one"),
        ("b.png,cat", "none of the images is in "),
    ],
)
def test_truths_that_cannot_be_used(world, tmp_path, rows, said, capsys):
    (tmp_path / "a.png").write_bytes(encoded((1, 2, 3), 0))
    (tmp_path / "truth.csv").write_text(f"path,class\n{rows}\n")
    task = ["--selection", chosen(capsys, world, "cat, dog"), "--truth", tmp_path / "truth.csv"]
    assert said in fails(capsys, "predict", tmp_path / "a.png", *task)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--selection", "CHOICE"], "give images"),
        (["nowhere.png", "--selection", "nowhere.json"], "nowhere.png"),
        (["a.png", "--selection", "nowhere.json"], "nowhere.json"),
        (["a.png", "--selection", '{"classes": ["cat"]}' * 50], "File name too long"),
        (["a" * 300, "--selection", "CHOICE"], "is neither an image nor a folder"),
        (["a.png", "--selection", "CHOICE", "--template", "no place for the class"], "{}"),
    ],
)
def test_predict_refuses(world, tmp_path, monkeypatch, arguments, words, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(encoded((1, 2, 3), 0))
    choice = chosen(capsys, world)
    assert words in fails(capsys, "predict", *(choice if word == "CHOICE" else word for word in arguments))
