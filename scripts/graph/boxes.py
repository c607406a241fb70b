"""Labels of the parts of an image: what the objects in a row are, and where.

Two layouts are supported, from the cards of datasets on the Hub; they were not tested against the Hub:

* COCO (detection-datasets/coco): ``objects`` with ``bboxes`` or ``bbox``, each left, top, width
  and height in pixels, and one class each.
* Open Images: ``objects`` (vikhyatk/openimages-bbox) with ``label``, ``xmin``, ``xmax``, ``ymin``, ``ymax`` as shares
  of the width and height, and flags; ``labels`` of whole images (vikhyatk/openimages-human-labels) with ``label`` and
  ``confidence``, which is 0 if annotators found that the image does not show it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

MARGIN = 0.1  # of the longer side of a box, added on each side
MIN_SIDE = 64  # pixels of the shorter side of a box

_COORDINATES = frozenset({"bbox", "bboxes", "xmin"})
_MISLEADING = ("is_group_of", "is_depiction", "is_inside", "iscrowd")  # many at once, drawn, or seen from inside


class Box(NamedTuple):
    """A part of an image, in pixels from the upper left."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def sides(self) -> tuple[float, float]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top

    @property
    def area(self) -> float:
        """In square pixels."""
        return math.prod(self.sides)


class Part(NamedTuple):
    """Labels of a part of an image; its box is None for the whole image."""

    labels: tuple[object, ...]
    box: Box | None


def labeled_parts(objects: Any, label: str, size: tuple[int, int]) -> list[Part]:  # noqa: ANN401 - any row
    """Labeled parts of an image, the largest first; all labels of the whole image are one part, the last.

    Misleading objects are skipped: groups, drawings, views from inside, objects that annotators did not find in the
    image, and boxes without numbers.

    Args:
        objects: A list of objects, or a dict of lists, in one of the layouts of this file.
        label: The field with an object's label or labels.
        size: Width and height of the image in pixels.
    """
    if isinstance(objects, dict):  # a feature Sequence of several columns
        objects = [dict(zip(objects, values, strict=False)) for values in zip(*objects.values(), strict=False)]
    parts, of_image = list[Part](), list[object]()
    for each in filter(None, objects or ()):
        value = each.get(label)
        labels = tuple(value) if isinstance(value, list) else (value,)
        if value is None or each.get("confidence") == 0 or any(each.get(flag) for flag in _MISLEADING):
            continue
        if not _COORDINATES & each.keys():
            of_image += labels
        elif box := _box(each, size):
            parts.append(Part(labels, box))
    parts.sort(key=lambda part: -part.box.area if part.box else 0)
    return [*parts, Part(tuple(of_image), None)] if of_image else parts


def _box(each: dict[str, Any], size: tuple[int, int]) -> Box | None:
    """Box of an object within the image; None if it has no area or its coordinates are not numbers."""
    width, height = size
    try:
        match each:
            case {"bbox": [x, y, w, h]} | {"bboxes": [x, y, w, h]}:
                left, top, right, bottom = x, y, x + w, y + h
            case {"xmin": x, "ymin": y, "xmax": x2, "ymax": y2}:
                left, top, right, bottom = x * width, y * height, x2 * width, y2 * height
            case _:
                return None
        box = Box(max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    except TypeError:
        return None
    return box if all(side > 0 for side in box.sides) else None


def with_margin(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box with its margin, clipped to the image, in whole pixels."""
    margin = MARGIN * max(box.sides)
    return (
        max(round(box.left - margin), 0), max(round(box.top - margin), 0),
        min(round(box.right + margin), size[0]), min(round(box.bottom + margin), size[1]),
    )  # fmt: skip
