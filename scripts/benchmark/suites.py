"""Target tasks with known classes, from local files.

A suite is a folder of tasks, each a folder with ``task.json`` (name, classes, domain, task) and ``test.parquet``
(columns ``image``, encoded bytes, and ``label``, class index).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError, MissingExtraError
from mll_hf.graph.probes import scramble
from mll_hf.matching.prompts import check_class_names
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

TASK_FILE, IMAGES_FILE = "task.json", "test.parquet"


def sampled(n_images: int, limit: int | None) -> NDArray[np.int64]:
    """Ascending positions of at most ``limit`` of ``n_images`` images; None for all.

    They are drawn uniformly, so class frequencies are preserved, and a smaller sample is part of a larger one.
    """
    order = np.argsort(scramble(np.arange(n_images, dtype=np.uint64), 0), kind="stable")
    return np.sort(order[:limit])


@dataclass(frozen=True)
class TargetTask:
    """A classification task with N test images."""

    name: str
    classes: tuple[str, ...]  # the C class names
    labels: NDArray[np.int64]  # [N] class indices
    revision: str  # digest of images, labels and classes (40 hex digits)
    images: tuple[bytes | None, ...] = field(repr=False)  # the N encoded images
    domain: str | None = None  # how the images look, if known
    task: str | None = None  # what is recognized, if known

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[bytes | None, ...]]:
        """The images in order, ``size`` at a time."""
        for first in range(0, len(self.images), size):
            yield self.images[first : first + size]


def make_task(
    name: str,
    classes: tuple[str, ...],
    labels: NDArray[np.int64],
    images: tuple[bytes | None, ...],
    **about: str | None,
) -> TargetTask:
    """Make a task with the digest of its contents as revision; ``about`` are domain and task."""
    whole = hashlib.sha256(json.dumps(classes).encode())
    for image in images:
        whole.update(hashlib.sha256(image or b"").digest())
    whole.update(labels.astype("<i8").tobytes())
    return TargetTask(name, classes, labels, whole.hexdigest()[:40], images, **about)


def load_tasks(location: str | Path, most_images: int | None = None) -> tuple[TargetTask, ...]:
    """Load the tasks at any location.

    Args:
        location: A suite, or a task of a suite.
        most_images: Maximum number of images of each task, drawn at random; None for all.

    Raises:
        InputError: There is no task, or it cannot be read.
        MissingExtraError: pyarrow is not installed.
    """
    folder = Path(location)
    if (folder / TASK_FILE).is_file():
        return (read_task(folder, most_images),)
    suite = sorted(path.parent for path in folder.glob(f"*/{TASK_FILE}"))
    if not suite:
        raise InputError(f"{folder} is not a task, and has none; give a folder with {TASK_FILE} and {IMAGES_FILE}")
    return tuple(read_task(path, most_images) for path in suite)


def read_task(folder: Path, most_images: int | None = None) -> TargetTask:
    """Read a task from a folder with ``task.json`` and ``test.parquet``.

    Raises:
        InputError: It cannot be read, or is inconsistent.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "bench") from error

    try:
        facts = json.loads((folder / TASK_FILE).read_text(encoding="utf-8-sig"))
        rows = pq.read_table(folder / IMAGES_FILE, columns=["image", "label"])
        classes = check_class_names(facts["classes"])
        encoded, labels = rows["image"].cast(pa.binary()), rows["label"].cast(pa.int64()).to_numpy()
        about = {key: facts.get(key) for key in ("name", "domain", "task")}
        if wrong := [key for key, value in about.items() if not isinstance(value, (str, type(None)))]:
            raise TypeError(f"'{wrong[0]}' is not text")
    except (OSError, ValueError, TypeError, LookupError, RecursionError, pa.ArrowException) as error:
        raise InputError(
            f"{folder} is not a task ({one_line(error)}); it needs {TASK_FILE} with name and classes, and "
            f"{IMAGES_FILE} with the columns image (encoded bytes) and label (class index)"
        ) from None
    if not _are_indices(labels, classes):
        raise InputError(f"{folder / IMAGES_FILE}: the labels are not indices of the {len(classes)} classes")
    some = sampled(len(labels), most_images)
    images = tuple(encoded.take(some).to_pylist())
    name = about.pop("name") or folder.name
    return make_task(name, classes, labels[some], images, **about)


def _are_indices(labels: NDArray[np.int64], classes: tuple[str, ...]) -> bool:
    return len(labels) > 0 and bool(labels.min() >= 0) and bool(labels.max() < len(classes))
