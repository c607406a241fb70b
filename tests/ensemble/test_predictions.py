"""Files of answers: what they hold, how an interrupted run goes on, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from mll_hf.ensemble.predictions import Prediction, PredictionFile, image_name
from mll_hf.errors import InputError

CLASSES = ("cat", "dog, large", 'the "tree"')
RUN = "of these models"
NAMES = ["a.png", "with, comma.png", 'with "quotes".png', "two\nlines.png", "böse.png", "unreadable.png", "z\r.png"]
IMAGES = [image_name(Path(name)) for name in NAMES]
_rng = np.random.default_rng(0)
PROBABILITIES = _rng.dirichlet(np.ones(3), size=len(IMAGES))
PROBABILITIES[IMAGES.index("unreadable.png")] = np.nan


def answers_to(images):
    rows = PROBABILITIES[[IMAGES.index(image) for image in images]]
    return Prediction(CLASSES, rows, np.zeros(len(rows), np.bool_))


def write_all(path, step=3):
    """What ``predict --output`` does: open, leave out what is done, write batch by batch."""
    file = PredictionFile(path, CLASSES, RUN)
    todo = [image for image in IMAGES if image not in file.done]
    for first in range(0, len(todo), step):
        batch = todo[first : first + step]
        file.write(batch, answers_to(batch))
    assert set(file.done) == set(IMAGES)
    return todo


def read(path):
    """{image: (label, probability, probabilities)}; each image must be there once."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "label", "probability", *CLASSES]
    table = [
        (row[0], row[1] or None, float(row[2]) if row[2] else None, [float(p) for p in row[3:]] if row[3] else None)
        for row in rows
    ]
    assert len({row[0] for row in table}) == len(table)
    return {row[0]: row[1:] for row in table}


def test_files_hold_every_answer(tmp_path):
    path = tmp_path / "new folder" / "answers.csv"
    assert write_all(path) == IMAGES
    found = read(path)
    assert list(found) == IMAGES
    for image, row in zip(IMAGES, PROBABILITIES, strict=True):
        label, probability, probabilities = found[image]
        if image == "unreadable.png":
            assert (label, probability, probabilities) == (None, None, None)
        else:
            assert label == CLASSES[row.argmax()]
            assert probability == pytest.approx(row.max())
            assert probabilities == row.tolist()
    assert sorted(file.name for file in path.parent.iterdir()) == [f".{path.name}.run", path.name]
    assert write_all(path) == []
    assert read(path) == found


def test_a_run_that_was_cut_off_at_any_byte_goes_on(tmp_path):
    path = tmp_path / "answers.csv"
    write_all(path)
    whole = path.read_bytes()
    seen = set()
    for length in range(0, len(whole), 5):  # no answer is shorter
        path.write_bytes(whole[:length])
        seen.add(len(write_all(path)))
        assert path.read_bytes() == whole
    assert seen == set(range(1, len(IMAGES) + 1))  # every answer is kept that was whole


def test_predictions_of_another_run_are_refused_and_left_alone(tmp_path):
    path = tmp_path / "answers.csv"
    file = PredictionFile(path, CLASSES, RUN)
    file.write(IMAGES[:2], answers_to(IMAGES[:2]))
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"with other models, .*; choose another file, or delete it"):
        PredictionFile(path, CLASSES, "of others")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert set(PredictionFile(path, CLASSES, RUN).done) == set(IMAGES[:2])
    path.unlink()
    assert PredictionFile(path, CLASSES, "of others").done == {}


@pytest.mark.parametrize(
    "content", [b"some notes", b"some notes\n", b"[1, 2]\n", b'{"image": 1}\n', b"a,b\n1,2\n", b"\xff\n"]
)
def test_other_files_are_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "answers.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"has (other content|content that is not from)"):
        PredictionFile(path, CLASSES, RUN)
    assert path.read_bytes() == content


def test_names_that_are_no_text_are_escaped_and_found_again(tmp_path):
    name = image_name(Path("caf\udce9.png"))
    assert name == "caf\\udce9.png"
    file = PredictionFile(tmp_path / "answers.csv", CLASSES, RUN)
    file.write([name], Prediction(CLASSES, PROBABILITIES[:1], np.zeros(1, np.bool_)))
    assert PredictionFile(tmp_path / "answers.csv", CLASSES, RUN).done == {name: CLASSES[PROBABILITIES[0].argmax()]}
