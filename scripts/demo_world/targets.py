"""The held-out tasks of the demo. Their pictures are neither in the training data nor in the graph."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demo_world import images

if TYPE_CHECKING:
    from pathlib import Path

    from demo_world.images import Picture

_FEWEST, _MOST = 4, 40  # pictures per class
# Where users would not say the first WordNet name.
_USUAL_NAMES = {
    "automaton": "robot",
    "bank": "bank building",
    "die": "dice",
    "Earth": "globe",
    "earphone": "headphone",
    "film": "photographic film",
    "hand glass": "magnifying glass",
    "Moon": "moon",
    "rule": "ruler",
    "shop": "store",
    "television receiver": "television",
}


@dataclass(frozen=True, slots=True)
class Task:
    """A classification task.

    Attributes:
        name: Short name, also of its folder.
        domain: Kind of pictures, in words.
        task: What the classes are, in words.
        classes: Class names as a user would write them.
        images: PNG bytes.
        labels: Index into `classes` of each image.
    """

    name: str
    domain: str
    task: str
    classes: tuple[str, ...]
    images: tuple[bytes, ...]
    labels: tuple[int, ...]


def tasks() -> list[Task]:
    """The held-out tasks: the `target` split, one task per kind of picture."""
    known = {node["id"]: node for node in images.read_concepts()}
    field = {node: facts.get("field") for node, facts in known.items()}
    symbols = {node: facts["symbol"] for node, facts in known.items() if "symbol" in facts}
    names = {node: _USUAL_NAMES.get(facts["names"][0], facts["names"][0]) for node, facts in known.items()}
    icons = images.icons("target")
    return [
        _task("handwritten-digits", "handwriting", "digit", images.digits("target"), symbols),
        _task(
            "capital-letters",
            "printed and drawn fonts",
            "letter of the alphabet",
            images.letters("target"),
            {node: f"letter {symbol}" for node, symbol in symbols.items()},
        ),
        _task("nature-icons", "icons", "thing in nature", [p for p in icons if field[p.concept] == "nature"], names),
        _task("thing-icons", "icons", "man-made thing", [p for p in icons if field[p.concept] == "things"], names),
        _task("surface-photos", "close-up photographs", "surface or material", images.surfaces("target"), names),
    ]


def write_task(task: Task, folder: Path) -> None:
    """Write `task.json` and `test.parquet` (columns `image` and `label`) into a folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    facts = {"name": task.name, "domain": task.domain, "task": task.task, "classes": task.classes}
    (folder / "task.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", "utf-8")
    columns = {"image": pa.array(task.images, pa.binary()), "label": pa.array(task.labels, pa.int32())}
    pq.write_table(pa.table(columns), folder / "test.parquet")


def _task(name: str, domain: str, task: str, pictures: list[Picture], names: dict[str, str]) -> Task:
    """A task of the concepts with enough pictures, in id order, with at most `_MOST` pictures of each."""
    of: dict[str, list[Picture]] = {}
    for picture in pictures:
        of.setdefault(picture.concept, []).append(picture)
    kept = {node: _spread(of[node]) for node in sorted(of) if len(of[node]) >= _FEWEST}
    labeled = [(picture.png(), y) for y, found in enumerate(kept.values()) for picture in found]
    files, labels = zip(*labeled, strict=True)
    return Task(name, domain, task, tuple(names[node] for node in kept), files, labels)


def _spread(pictures: list[Picture]) -> list[Picture]:
    """At most `_MOST` pictures, evenly spaced in the list."""
    step = max(1.0, len(pictures) / _MOST)
    return [pictures[int(i * step)] for i in range(min(len(pictures), _MOST))]
