"""Target tasks with known answers.

A suite is a folder of tasks, each a folder with ``task.json`` (name, classes, domain, task) and ``test.parquet``
(columns ``image``, encoded bytes, and ``label``, index of the class).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import InputError, MissingExtraError
from mll_hf.prompts import check_class_names
from mll_hf.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

TASK_FILE, IMAGES_FILE = "task.json", "test.parquet"


@dataclass(frozen=True)
class TargetTask:
    """A classification task with N test images.

    Attributes:
        name: Of the task, for tables and files.
        classes: The C class names.
        domain: How the images look; None if it is not said.
        task: What is recognised; None if it is not said.
        labels: [N] int64, index of each image's class.
        revision: Digest of images, labels and classes (40 hex digits).
        images: The N encoded images.
    """

    name: str
    classes: tuple[str, ...]
    domain: str | None
    task: str | None
    labels: NDArray[np.int64]
    revision: str
    images: tuple[bytes | None, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[bytes | None, ...]]:
        """The images in order, ``size`` at a time."""
        for first in range(0, len(self.images), size):
            yield self.images[first : first + size]


def read_suite(folder: Path) -> tuple[TargetTask, ...]:
    """Read all tasks of a folder, in the order of their folders' names.

    Raises:
        InputError: There are none, or one cannot be read.
        MissingExtraError: pyarrow is not installed.
    """
    folders = sorted(path.parent for path in folder.glob(f"*/{TASK_FILE}"))
    if not folders:
        raise InputError(f"{folder} holds no tasks; give a folder of folders with {TASK_FILE} and {IMAGES_FILE}")
    return tuple(read_task(path) for path in folders)


def read_task(folder: Path) -> TargetTask:
    """Read one task.

    Raises:
        InputError: It cannot be read, or contradicts itself.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "models") from error

    try:
        facts = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
        rows = pq.read_table(folder / IMAGES_FILE, columns=["image", "label"])
        classes = check_class_names(facts["classes"])
        labels = rows["label"].to_numpy().astype(np.int64)
        name, domain, task = (_text(facts, key) for key in ("name", "domain", "task"))
    except (OSError, ValueError, TypeError, LookupError, RecursionError, pa.ArrowException) as error:
        raise InputError(
            f"{folder} is no task ({one_line(error)}); it needs {TASK_FILE} with name and classes, and {IMAGES_FILE} "
            "with the columns image and label"
        ) from None
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(classes):
        raise InputError(f"{folder / IMAGES_FILE}: the labels are not indices of the {len(classes)} classes")
    images = tuple(rows["image"].to_pylist())
    return make_task(name or folder.name, classes, labels, images, domain=domain, task=task)


def make_task(
    name: str,
    classes: tuple[str, ...],
    labels: NDArray[np.int64],
    images: tuple[bytes | None, ...],
    *,
    domain: str | None = None,
    task: str | None = None,
) -> TargetTask:
    """Put a task together; its revision follows from what it holds.

    Args:
        name: Of the task.
        classes: The C class names.
        labels: [N] indices of classes.
        images: The N encoded images.
        domain: How the images look.
        task: What is recognised.
    """
    whole = hashlib.sha256(json.dumps(classes).encode())
    for image in images:
        whole.update(hashlib.sha256(image or b"").digest())
    whole.update(labels.astype("<i8").tobytes())
    return TargetTask(name, classes, domain, task, labels, whole.hexdigest()[:40], images)


def _text(facts: dict[str, Any], key: str) -> str | None:
    value = facts.get(key)
    if not isinstance(value, (str, type(None))):
        raise TypeError(f"'{key}' is no text")
    return value
