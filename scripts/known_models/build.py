"""Rebuild mll_hf/models/data/known_models.csv after a change of scripts/known_models/pages.csv.

    python scripts/known_models/build.py    # prints whether the table changes

pages.csv has models that are in no published table, with what their pages say; ``architecture`` names one of open_clip
with the same towers, ``image_tower`` one with the same image tower. counted.csv has parameters and GFLOPs of
architectures that no model of the tables has, counted on models without weights. All other rows come from published
tables, with a source for each figure, and stay as they are.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "mll_hf" / "models" / "data"
LOOKED_UP = Path(__file__).resolve().parent
BYTES_PER_PARAMETER = 4  # float32

MODEL_COLUMNS = (
    *("name", "hub_id", "twin", "architecture", "tag", "backend", "loadable", "weights", "gated"),
    *("domains", "languages", "prompt"),
    *("parameters", "parameters_source", "gflops", "image_gflops", "text_gflops", "gflops_source"),
    *("download_bytes", "download_is_estimate", "download_source", "license", "license_source"),
    *("imagenet", "imagenet_source", "revision", "twin_revision", "paper_place", "source", "readme"),
)
PAGE_COLUMNS = (
    *("name", "hub_id", "twin", "architecture", "image_tower", "backend", "loadable", "weights", "gated"),
    *("parameters", "image_gflops", "text_gflops", "download_bytes", "license"),
    *("domains", "languages", "prompt", "imagenet", "page"),
)

Row = dict[str, str]


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    path = DATA / "known_models.csv"
    content = to_csv(MODEL_COLUMNS, with_pages(read(path)))
    print("nothing changed" if content == path.read_bytes() else f"{path.name}: changed")
    path.write_bytes(content)
    return 0


def with_pages(rows: Iterable[Row]) -> list[Row]:
    """The rows from published tables, then those that are only in pages.csv."""
    rows = [row for row in rows if row["source"] != "hub"]
    ids = {row["hub_id"] for row in rows}
    costs = costs_by_architecture(rows)
    return [*rows, *(row_of_page(entry, costs) for entry in looked_up("pages") if entry["hub_id"] not in ids - {""})]


def costs_by_architecture(rows: Iterable[Row]) -> dict[str, Row]:
    """Parameters and GFLOPs of each architecture: of a model that has it, else as counted."""
    columns = ("parameters", "image_gflops", "text_gflops")
    known = {row["architecture"]: row for row in [*looked_up("counted"), *rows] if row["image_gflops"]}
    return {name: {column: row[column] for column in columns} for name, row in known.items()}


def row_of_page(entry: Row, costs: dict[str, Row]) -> Row:
    """The row of a model from its page; what the page does not say follows from its architecture or image tower."""
    same = costs[entry["architecture"]] if entry["architecture"] else {}
    tower = costs[entry["image_tower"]] if entry["image_tower"] else {}
    found = {column: entry[column] or same.get(column, "") for column in ("parameters", "image_gflops", "text_gflops")}
    found["image_gflops"] = found["image_gflops"] or tower.get("image_gflops", "")
    if found["image_gflops"] and found["text_gflops"]:
        found["gflops"] = f"{float(found['image_gflops']) + float(found['text_gflops']):.2f}"
    size, origin, counted = entry["download_bytes"], "hub", "architecture"
    if found["parameters"] and not size:
        size, origin = str(int(found["parameters"]) * BYTES_PER_PARAMETER), f"parameters x {BYTES_PER_PARAMETER} bytes"
    elif size and entry["image_tower"] and not found["parameters"]:
        found["parameters"], counted = str(int(size) // BYTES_PER_PARAMETER), f"bytes / {BYTES_PER_PARAMETER}"
    copied = ("name", "hub_id", "twin", "architecture", "backend", "loadable", "weights", "gated", "license")
    return dict.fromkeys(MODEL_COLUMNS, "") | {
        **{column: entry[column] for column in (*copied, "domains", "languages", "prompt")},
        **found,
        **{f"{figure}_source": "hub" for figure in ("parameters", "license", "imagenet") if entry[figure]},
        **({"parameters_source": counted} if found["parameters"] and not entry["parameters"] else {}),
        **({"gflops_source": "hub" if entry["image_gflops"] else "architecture"} if found["image_gflops"] else {}),
        **{"imagenet": fraction(entry["imagenet"]) if entry["imagenet"] else "", "download_bytes": size},
        **({"download_is_estimate": "no" if origin == "hub" else "yes", "download_source": origin} if size else {}),
        **{"source": "hub", "readme": entry["page"]},
    }


def read(path: Path) -> list[Row]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def looked_up(name: str) -> list[Row]:
    """Rows of a file of scripts/known_models."""
    return read(LOOKED_UP / f"{name}.csv")


def to_csv(columns: Iterable[str], rows: Iterable[Row]) -> bytes:
    """A CSV file with Unix line endings."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def fraction(text: str) -> str:
    """A figure between 0 and 1 with at most five digits after the point."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text} is not between 0 and 1")
    return f"{value:.5f}".rstrip("0").rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
