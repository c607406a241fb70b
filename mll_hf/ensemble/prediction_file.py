"""Write predictions to a CSV file. An interrupted run can be resumed without duplicates."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from mll_hf.errors import InputError
from mll_hf.utils.files import storage_errors, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mll_hf.ensemble.run import Prediction

    Row = tuple[str, str | None, float | None, list[float] | None]

_COLUMNS = ("image", "label", "probability", "probabilities")


def image_name(path: Path) -> str:
    """The name of an image file in the output; bytes that are not valid UTF-8 and line breaks are escaped."""
    name = str(path).encode("utf-8", "backslashreplace").decode()
    return name.replace("\n", "\\n").replace("\r", "\\r")


def rows_of(images: Sequence[str], prediction: Prediction) -> Iterator[Row]:
    """Image, class, the highest probability, and the probabilities of all classes.

    The class is None if the image is rejected, and all but the image if it is unreadable.
    """
    unreadable = set(prediction.unreadable)
    for n, (image, predicted) in enumerate(zip(images, prediction.classes, strict=True)):
        row = prediction.probabilities[n]
        yield (image, None, None, None) if n in unreadable else (image, predicted, float(row.max()), row.tolist())


def json_line(row: Row) -> str:
    """A row as a line of JSON."""
    return json.dumps(dict(zip(_COLUMNS, row, strict=True))) + "\n"


def _csv_lines(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


class PredictionFile:
    """A CSV file of predictions for any number of images.

    Predictions are appended batch by batch, so none are lost if the run is killed; a partial last line is removed when
    the file is opened again. The fingerprint is in a file ``.<name>.run`` beside it, written before any prediction.

    Attributes:
        done: Predicted class of the images that are done, by name; None for rejected and unreadable images.

    Args:
        path: The file.
        classes: The class names.
        fingerprint: Of what decides the predictions, see :meth:`~mll_hf.ensemble.run.Ensemble.fingerprint`.

    Raises:
        InputError: This is no CSV file, or it has other content, or predictions with another fingerprint.
        StorageError: The file cannot be written.
    """

    def __init__(self, path: Path, classes: Sequence[str], fingerprint: str) -> None:
        if path.suffix.lower() != ".csv":
            raise InputError(f"{path}: predictions cannot be written as '{path.suffix}'; choose .csv")
        self._path, self._n_classes = path, len(classes)
        self._check_run(fingerprint)
        self.done: dict[str, str | None] = {}
        with storage_errors(path), path.open("a+b") as file:
            file.seek(0)
            end = 0
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break  # partial
                end += len(line)
                if number:
                    self.done.update([self._parsed(line)])
            file.truncate(end)
            if not end:
                file.write(_csv_lines([[*_COLUMNS[:3], *classes]]))

    def write(self, images: Sequence[str], prediction: Prediction) -> None:
        """Append predictions and flush them to the file.

        Raises:
            StorageError: The disk is full.
        """
        empty = [""] * self._n_classes
        rows = [[*start, *(probabilities or empty)] for *start, probabilities in rows_of(images, prediction)]
        with storage_errors(self._path), self._path.open("ab") as file:
            file.write(_csv_lines(rows))
        self.done.update(zip(images, prediction.classes, strict=True))

    def _check_run(self, fingerprint: str) -> None:
        """Raise InputError if the file has predictions of a run with another fingerprint; record the fingerprint."""
        path, record = self._path, self._path.with_name(f".{self._path.name}.run")
        if not (path.is_file() and path.stat().st_size):
            write_atomically(record, fingerprint.encode())
        elif not record.exists():
            raise self._mismatch("content that is not from 'mll-hf predict'")
        elif record.read_bytes() != fingerprint.encode():
            raise self._mismatch("predictions with other models, classes, templates, rule or options")

    def _parsed(self, line: bytes) -> tuple[str, str | None]:
        """The image of a prediction, and the predicted class."""
        try:
            ((name, label, _, *probabilities),) = csv.reader([line.decode()])
        except ValueError:
            probabilities = []
        if len(probabilities) != self._n_classes:
            raise self._mismatch("other content")
        return name, label or None

    def _mismatch(self, found: str) -> InputError:
        return InputError(f"{self._path} has {found}; choose another file, or delete it")
