"""Examples: images of a task with ground truth, from a folder, a CSV file or Python."""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.utils.arrays import ArrayFields
from mll_hf.utils.images import images_by_class, open_image, warn_of_unreadable
from mll_hf.utils.text import abridged, normalized_name, one_line, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.utils.images import ImageLike

    Example = tuple[ImageLike, str] | tuple[ImageLike, str, float]

MIN_EXAMPLES = 5
_COLUMNS = ("path", "class")
_WEIGHT, _MAX_WEIGHT = "weight", 1e6


@dataclass(frozen=True, eq=False)
class Examples(ArrayFields):
    """N images of a task with ground truth; all can be decoded.

    Attributes:
        classes: [N] positions of the true classes in the task.
        weights: [N] weights in estimates of shares and accuracy; 1 for images drawn with equal chances.
    """

    images: tuple[ImageLike, ...]
    classes: NDArray[np.int64]
    weights: NDArray[np.float64]


def read_examples(location: Path) -> list[tuple[Path, str, float]]:
    """Read images, the names of their classes, and their weights from a folder or a CSV file, or raise an InputError.

    A folder has a subfolder of images per class. A file has the columns ``path`` (absolute, or relative to the file)
    and ``class``, and if wanted ``weight``, which is 1 by default.
    """
    try:
        if location.is_dir():
            pairs = [(file, name, 1.0) for name, files in images_by_class(location).items() for file in files]
        else:
            pairs = _read_table(location)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise InputError(f"the examples in {location} cannot be read ({reason}); check the path") from None
    if not pairs:
        raise InputError(
            f"{location} holds no examples; give a folder with a subfolder of images per class, or a CSV file with the "
            "columns path and class"
        )
    return pairs


def _read_table(path: Path) -> list[tuple[Path, str, float]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        found = rows.fieldnames or ()
        if missing := [column for column in _COLUMNS if column not in found]:
            reason = f"has no column '{missing[0]}' (columns: {', '.join(found) or 'none'})"
            raise InputError(f"{path} {reason}; the columns must be named path and class")
        pairs = [(row["path"], row["class"], row.get(_WEIGHT) or "1") for row in rows]
    if incomplete := [n for n, pair in enumerate(pairs, 1) if not all(pair)]:
        raise InputError(f"{path}: row {incomplete[0]} lacks a path or a class; fill in both")
    try:
        return [(path.parent / name, normalized_name(label), float(weight)) for name, label, weight in pairs]
    except ValueError as error:
        raise InputError(f"{path}: a weight is no number ({error}); leave it empty, or out") from None


def check_examples(pairs: Sequence[Example], classes: Sequence[str], most: int = 256) -> Examples:
    """Validate the examples of a task, and take a seeded sample of at most ``most`` readable ones, in their order.

    ``classes`` are normalized; not all need examples. An InputError if these are not pairs of an image and a name, a
    class is not one of the task, fewer than ``MIN_EXAMPLES`` images can be read, or all are of one class: a model that
    always predicts it would be chosen.
    """
    if not all(isinstance(pair, (tuple, list)) and len(pair) in (2, 3) and isinstance(pair[1], str) for pair in pairs):
        raise InputError("examples are pairs of an image and the name of its class; give [('a.jpg', 'cat'), ...]")
    weights = [pair[2] if len(pair) == 3 else 1.0 for pair in pairs]
    if wrong := [weight for weight in weights if not (isinstance(weight, (int, float)) and 0 < weight < _MAX_WEIGHT)]:
        raise InputError(f"the weight of an example is {wrong[0]!r:.20}; give a positive number, or leave it out")
    positions = class_positions([pair[1] for pair in pairs], classes)
    _check_contradictions(pairs, positions)
    kept: list[int] = []
    skipped: list[ImageLike] = []
    for n in np.random.default_rng(0).permutation(len(pairs)).tolist():
        if len(kept) < most and open_image(pairs[n][0]) is not None:
            kept.append(n)
        elif len(kept) < most:
            skipped.append(pairs[n][0])
    warn_of_unreadable(skipped, "examples")
    if len(kept) < MIN_EXAMPLES:
        raise InputError(f"{len(kept)} readable examples are too few to compare models; give at least {MIN_EXAMPLES}")
    kept.sort()
    found = Examples(
        tuple(pairs[n][0] for n in kept), np.array(positions, np.int64)[kept], np.array(weights, np.float64)[kept]
    )
    if len(classes) > 1 and len(set(found.classes.tolist())) == 1:
        only = shortened(classes[found.classes[0]], 40)
        raise InputError(f"all examples are of class '{only}', which compares no models; give examples of others, too")
    return found


def _check_contradictions(pairs: Sequence[Example], positions: Sequence[int]) -> None:
    first: dict[str, int] = {}
    for (image, name, *_), position in zip(pairs, positions, strict=True):
        if isinstance(image, str | Path) and first.setdefault(str(image), position) != position:
            raise InputError(f"{image} is given as '{name}' and as another class; keep one")


def class_positions(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Positions of class names among a task's classes, which are normalized; an InputError if one is not there."""
    position = {name: y for y, name in enumerate(classes)}
    named = [normalized_name(name) for name in names]
    if unknown := list(dict.fromkeys(name for name in named if name not in position)):
        nearest = abridged([f"'{name}' (nearest: '{_nearest(name, classes)}')" for name in unknown], 3)
        raise InputError(f"examples of unknown classes: {nearest}; use the class names of the task")
    return [position[name] for name in named]


def _nearest(name: str, classes: Sequence[str]) -> str:
    """The class name with the most similar spelling."""
    return max(classes, key=lambda known: difflib.SequenceMatcher(None, name.casefold(), known.casefold()).ratio())
