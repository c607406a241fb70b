"""Target tasks with known classes, from local files; see :mod:`~mll_hf.bench.hub_tasks` for those on the Hub.

A suite is a folder of tasks, each a folder with ``task.json`` (name, classes, domain, task) and ``test.parquet``
(columns ``image``, encoded bytes, and ``label``, class index). An image folder holds a folder of images per class.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError, MissingExtraError
from mll_hf.graph.probes import scramble
from mll_hf.matching.prompts import check_class_names
from mll_hf.utils.images import images_by_class
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

TASK_FILE, IMAGES_FILE = "task.json", "test.parquet"


def sampled(n_images: int, most: int | None) -> NDArray[np.int64]:
    """Ascending positions of at most ``most`` of ``n_images`` images; None for all.

    They are drawn uniformly, so that class frequencies are kept, and a smaller sample is part of a larger one.

    Raises:
        InputError: No image is allowed.
    """
    if most is not None and most < 1:
        raise InputError(f"most_images is {most}; allow at least 1 image")
    order = np.argsort(scramble(np.arange(n_images, dtype=np.uint64), 0, 0), kind="stable")
    return np.sort(order[:most])


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
    source: str | None = None  # where the images are from, with the commit on the Hub, if known

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
    """Make a task with the digest of its contents as revision; ``about`` are domain, task and source."""
    whole = hashlib.sha256(json.dumps(classes).encode())
    for image in images:
        whole.update(hashlib.sha256(image or b"").digest())
    whole.update(labels.astype("<i8").tobytes())
    return TargetTask(name, classes, labels, whole.hexdigest()[:40], images, **about)


def read_task(folder: Path, most_images: int | None = None) -> TargetTask:
    """Read a task from a folder with ``task.json`` and ``test.parquet``.

    Raises:
        InputError: It cannot be read, or contradicts itself.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "bench") from error

    try:
        facts = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
        rows = pq.read_table(folder / IMAGES_FILE, columns=["image", "label"])
        classes = check_class_names(facts["classes"])
        labels = rows["label"].to_numpy().astype(np.int64)
        about = {key: facts.get(key) for key in ("name", "domain", "task")}
        if wrong := [key for key, value in about.items() if not isinstance(value, (str, type(None)))]:
            raise TypeError(f"'{wrong[0]}' is not text")
    except (OSError, ValueError, TypeError, LookupError, RecursionError, pa.ArrowException) as error:
        raise InputError(
            f"{folder} is not a task ({one_line(error)}); it needs {TASK_FILE} with name and classes, and "
            f"{IMAGES_FILE} with the columns image and label"
        ) from None
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(classes):
        raise InputError(f"{folder / IMAGES_FILE}: the labels are not indices of the {len(classes)} classes")
    some = sampled(len(labels), most_images)
    images = tuple(rows["image"].take(some).to_pylist())
    name = about.pop("name") or folder.name
    return make_task(name, classes, labels[some], images, **about)


def read_image_folder(folder: Path, most_images: int | None = None) -> TargetTask:
    """Read a folder with images as ``CLASS/IMAGE``; other files, hidden files and empty folders are ignored.

    Raises:
        InputError: There are no images, or a file or folder cannot be read.
    """
    try:
        groups = images_by_class(folder)
        classes = check_class_names(list(groups)) if groups else ()
        files = [path for group in groups.values() for path in group]
        labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups.values()])
        some = sampled(len(files), most_images)
        images = tuple(files[n].read_bytes() for n in some)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({one_line(error)}); check the path and its permissions") from None
    if not images:
        raise InputError(f"{folder} holds no images; give a folder with a folder of images for each class")
    return make_task(folder.absolute().name, classes, labels[some], images)
