"""The demo's graph folder: WordNet concepts (`graph.json`) and their probe images (`images.parquet`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from demo_world import images

if TYPE_CHECKING:
    from pathlib import Path

_FACTS = ("id", "names", "gloss", "hypernyms")
_ROWS_PER_GROUP = 256


def nodes() -> list[dict[str, Any]]:
    """The graph's concepts: WordNet id, names, gloss and kept hypernyms, in order of id."""
    return [{fact: node[fact] for fact in _FACTS} for node in images.read_concepts()]


def build_graph(folder: Path) -> None:
    """Write `graph.json` and `images.parquet` (the `probe` split) into a folder.

    Args:
        folder: Created if it does not exist. The same packages give the same files.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"source": "WordNet 3.0", "nodes": nodes()}, ensure_ascii=False, indent=1)
    (folder / "graph.json").write_text(text + "\n", "utf-8")
    pictures = images.pictures("probe")
    table = pa.table(
        {
            "image": pa.array([picture.png() for picture in pictures], pa.binary()),
            "node": [picture.concept for picture in pictures],
            "vendor": [picture.source for picture in pictures],
            "style": [picture.style for picture in pictures],
        }
    )
    pq.write_table(table, folder / "images.parquet", row_group_size=_ROWS_PER_GROUP)
