"""Predictions: their CSV file, which an interrupted run continues without duplicates, and their score."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.counts import wilson_interval
from mll_hf.utils.arrays import ArrayFields
from mll_hf.utils.files import storage_errors, write_atomically
from mll_hf.utils.tables import csv_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Prediction(ArrayFields):
    """Class probabilities of N images."""

    class_names: tuple[str, ...]  # the C classes
    probabilities: NDArray[np.float64]  # [N, C] rows sum to one, rows of unreadable images are NaN
    rejected: NDArray[np.bool_]  # [N] whether an image resembles no class

    @property
    def unreadable(self) -> tuple[int, ...]:
        """Positions of the images that could not be decoded."""
        return tuple(np.flatnonzero(np.isnan(self.probabilities).any(axis=1)).tolist())

    @property
    def classes(self) -> tuple[str | None, ...]:
        """[N] the most probable class of each image; None for rejected and unreadable images."""
        without = {*self.unreadable, *np.flatnonzero(self.rejected).tolist()}
        best = np.nan_to_num(self.probabilities, nan=-1.0).argmax(axis=1)
        return tuple(None if n in without else self.class_names[y] for n, y in enumerate(best))

    def rows(self, images: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Image, class, its probability and those of all classes; None where the image is rejected or unreadable."""
        for image, predicted, row in zip(images, self.classes, self.probabilities, strict=True):
            is_readable = not np.isnan(row).any()
            yield {
                "image": image,
                "label": predicted,
                "probability": float(row.max()) if is_readable else None,
                "probabilities": row.tolist() if is_readable else None,
            }


def image_name(path: Path) -> str:
    """The name of an image file in the output; bytes that are not valid UTF-8 and line breaks are escaped."""
    name = str(path).encode("utf-8", "backslashreplace").decode()
    return name.replace("\n", "\\n").replace("\r", "\\r")


class PredictionFile:
    """A CSV file of predictions for any number of images.

    Predictions are appended batch by batch, so none are lost if the run is killed; a partial last line is removed when
    the file is opened again. The fingerprint is in a file ``.<name>.run`` beside it, written before any prediction.

    The fingerprint is that of :meth:`~mll_hf.ensemble.run.Ensemble.fingerprint`. An InputError if this is no CSV file,
    or has other content, or predictions with another fingerprint.

    Attributes:
        done: Predicted class of the images that are done, by name; None for rejected and unreadable images.
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
                file.write(csv_bytes([["image", "label", "probability", *classes]]))

    def write(self, images: Sequence[str], prediction: Prediction) -> None:
        """Append predictions and flush them to the file; a StorageError if the disk is full."""
        rows = [list(row.values()) for row in prediction.rows(images)]
        lines = [[*start, *(probabilities or [""] * self._n_classes)] for *start, probabilities in rows]
        with storage_errors(self._path), self._path.open("ab") as file:
            file.write(csv_bytes(lines))
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


@dataclass(frozen=True, eq=False)
class Score(ArrayFields):
    """How good predictions are."""

    class_names: tuple[str, ...]  # the C classes
    confusion: NDArray[np.int64]  # [C, C] number of images by true class (rows) and predicted class (columns)
    without: int  # number of rejected and unreadable images, which are not in the confusion

    @classmethod
    def of(cls, class_names: tuple[str, ...], pairs: Iterable[tuple[str, str | None]]) -> Score:
        """The score from pairs of the true and the predicted class of an image; None without a prediction."""
        position = {name: y for y, name in enumerate(class_names)}
        confusion, without = np.zeros((len(class_names),) * 2, np.int64), 0
        for true, predicted in pairs:
            if predicted is None:
                without += 1
            else:
                confusion[position[true], position[predicted]] += 1
        return cls(class_names, confusion, without)

    @property
    def images(self) -> NDArray[np.int64]:
        """[C] number of images of each class."""
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def correct(self) -> int:
        """Number of correct predictions."""
        return int(np.trace(self.confusion))

    @property
    def accuracy(self) -> float:
        """Share of correct predictions; NaN without images."""
        return self.correct / n if (n := int(self.images.sum())) else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy (Wilson, 1927)."""
        return wilson_interval(self.correct, int(self.images.sum()))

    @property
    def recall(self) -> NDArray[np.float64]:
        """[C] share of the images of each class that are recognized; NaN without images."""
        return np.where(self.images > 0, np.diag(self.confusion) / np.maximum(self.images, 1), np.nan)

    def to_json(self) -> dict[str, Any]:
        """The score as JSON, with None for NaN."""
        classes = zip(self.class_names, self.images.tolist(), self.recall.tolist(), strict=True)
        return {
            "images": int(self.images.sum()),
            "without": self.without,
            "accuracy": self.accuracy if self.images.any() else None,
            "interval": list(self.interval),
            "classes": [{"class": name, "images": n, "recall": share if n else None} for name, n, share in classes],
            "confusion": self.confusion.tolist(),
        }
