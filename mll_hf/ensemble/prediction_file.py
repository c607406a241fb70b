"""Write predictions to a CSV, JSON lines or Parquet file. An interrupted run can be resumed without duplicates."""

from __future__ import annotations

import csv
import io
import json
import os
from itertools import islice
from typing import TYPE_CHECKING, Any

from mll_hf.errors import InputError, MissingExtraError
from mll_hf.utils.files import storage_errors, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow

    from mll_hf.ensemble.run import Prediction

    Row = tuple[str, str | None, float | None, list[float] | None]

PREDICTION_SUFFIXES = (".csv", ".jsonl", ".parquet")
_COLUMNS = ("image", "label", "probability", "probabilities")
_ROWS_PER_GROUP = 4096  # of Parquet


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


def csv_header(classes: Sequence[str]) -> str:
    """The first line of CSV: image, label, probability, and a column per class."""
    return _csv_line([*_COLUMNS[:3], *classes])


def csv_line(row: Row, n_classes: int) -> str:
    """A row as a line of CSV."""
    *start, probabilities = row
    return _csv_line([*start, *([""] * n_classes if probabilities is None else probabilities)])


def _csv_line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


class PredictionFile:
    """A file of predictions for any number of images; the suffix determines its format.

    Predictions are appended batch by batch, so none are lost if the run is killed; a partial last line is removed when
    the file is opened again. Parquet files cannot be appended to: predictions are written to JSON lines next to the
    file until :meth:`finish`. The fingerprint is in a file ``.<name>.run.json`` next to it, written before the first
    prediction.

    Attributes:
        done: Predicted class of the images that are done, by name; None for rejected and unreadable images.

    Args:
        path: The file.
        fingerprint: What decides the predictions, see :meth:`~mll_hf.ensemble.run.Ensemble.fingerprint`; its
            ``classes`` are the class names.

    Raises:
        InputError: The suffix is unknown, or the file has other content, or predictions with another fingerprint.
        MissingExtraError: pyarrow is not installed, for Parquet.
        StorageError: The file cannot be written.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        kind = path.suffix.lower()
        if kind not in PREDICTION_SUFFIXES:
            raise InputError(
                f"{path}: predictions cannot be written as '{kind}'; choose {', '.join(PREDICTION_SUFFIXES)}"
            )
        self._path, self._classes = path, tuple(fingerprint["classes"])
        self._is_csv, self._is_parquet = kind == ".csv", kind == ".parquet"
        self._lines = path.with_name(f"{path.name}.unfinished.jsonl") if self._is_parquet else path
        with storage_errors(self._lines):
            self._lines.parent.mkdir(parents=True, exist_ok=True)
        self._check_run(fingerprint)
        self.done = dict(self._rows_in_table()) if self._is_parquet else {}
        with storage_errors(self._lines), self._lines.open("a+b") as file:
            file.seek(0)
            end = 0
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break  # partial
                end += len(line)
                if number or not self._is_csv:
                    self.done.update([self._parsed(line)])
            file.truncate(end)
            if self._is_csv and not end:
                file.write(csv_header(self._classes).encode())

    def write(self, images: Sequence[str], prediction: Prediction) -> None:
        """Append predictions and flush them to the file. Raises like :meth:`finish`."""
        line = (lambda row: csv_line(row, len(self._classes))) if self._is_csv else json_line
        with storage_errors(self._lines), self._lines.open("ab") as file:
            file.write("".join(map(line, rows_of(images, prediction))).encode())
        self.done.update(zip(images, prediction.classes, strict=True))

    def finish(self) -> None:
        """Add the JSON lines to the Parquet file; does nothing for other formats.

        Raises:
            StorageError: The disk is full; the JSON lines are kept.
        """
        if not self._is_parquet:
            return
        import pyarrow.parquet

        new = self._path.with_name(f".{self._path.name}.new")
        written = dict(self._rows_in_table())  # a run may have been killed before it deleted the JSON lines
        with storage_errors(self._path), self._lines.open("rb") as file:
            rows = (tuple(json.loads(line).values()) for line in file)
            with pyarrow.parquet.ParquetWriter(new, _schema(len(self._classes))) as writer:
                if self._path.exists():
                    for batch in pyarrow.parquet.ParquetFile(self._path).iter_batches(_ROWS_PER_GROUP):
                        writer.write_batch(batch)
                for group in _row_groups(row for row in rows if row[0] not in written):
                    columns = [list(column) for column in zip(*group, strict=True)]
                    writer.write_table(pyarrow.table(columns, schema=writer.schema))
            os.replace(new, self._path)
            self._lines.unlink()

    def _check_run(self, fingerprint: Mapping[str, Any]) -> None:
        """Raise InputError if the file has predictions of a run with another fingerprint; record the fingerprint."""
        record = self._path.with_name(f".{self._path.name}.run.json")
        if any(path.is_file() and path.stat().st_size for path in (self._path, self._lines)):
            try:
                earlier = json.loads(record.read_bytes())
                changed = sorted(name for name in fingerprint if earlier[name] != fingerprint[name])
            except (OSError, ValueError, TypeError, LookupError):
                raise InputError(_mismatch(self._path, "content that is not from 'mll-hf predict'")) from None
            if changed:
                raise InputError(_mismatch(self._path, f"predictions with other {', '.join(changed)}"))
        else:
            write_atomically(record, json.dumps(fingerprint, indent=1).encode())

    def _parsed(self, line: bytes) -> tuple[str, str | None]:
        """The image of a prediction, and the predicted class."""
        try:
            if not self._is_csv:
                row = json.loads(line)
                return str(row[_COLUMNS[0]]), row[_COLUMNS[1]]
            ((name, label, *cells),) = csv.reader([line.decode()])
            if len(cells) == len(_COLUMNS) - 3 + len(self._classes):
                return name, label or None
        except (ValueError, TypeError, LookupError):
            pass
        raise InputError(_mismatch(self._path))

    def _rows_in_table(self) -> Iterator[tuple[str, str | None]]:
        """Image and predicted class of each row of the Parquet file."""
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError as error:
            raise MissingExtraError("pyarrow", "models") from error
        if not self._path.exists():
            return
        try:
            table = pyarrow.parquet.ParquetFile(self._path)
        except (pyarrow.ArrowException, OSError):
            raise InputError(_mismatch(self._path)) from None
        for batch in table.iter_batches(columns=list(_COLUMNS[:2])):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _mismatch(path: Path, found: str = "other content") -> str:
    return f"{path} has {found}; choose another file, or delete it"


def _schema(n_classes: int) -> pyarrow.Schema:
    import pyarrow as pa

    types = (pa.string(), pa.string(), pa.float32(), pa.list_(pa.float32(), n_classes))
    return pa.schema(list(zip(_COLUMNS, types, strict=True)))


def _row_groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    return iter(lambda: list(islice(rows, _ROWS_PER_GROUP)), [])
