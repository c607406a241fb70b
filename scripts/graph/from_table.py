"""Make a graph of the concepts of a table; `mll-hf graph make` does it for folders of images alone.

    python scripts/graph/from_table.py parts.csv --to parts [--base my-graph] [--images-root photos]

The table is JSON (a list of objects) or CSV (with a header; lists separated by semicolons). Fields: ``id``, ``name``,
``lemmas``, ``description``, ``parents``, ``images`` (a folder, relative to the table; by default the subfolder of
``--images-root`` named like the id), ``domain`` and ``source``. Leave out descriptions that only repeat the name: they
make the caption longer, not clearer.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import script_parser
from mll_hf.errors import InputError, MLLError
from mll_hf.graph.authoring import make_graph, read_images
from mll_hf.graph.concepts import Concept
from mll_hf.hub.locations import fetch_graph
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.graph.authoring import NewConcept

FIELDS = {"id", "name", "lemmas", "description", "parents", "images", "domain", "source"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    parser = script_parser(str(__doc__))
    parser.add_argument("table", type=Path, metavar="FILE", help="JSON or CSV")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder of the graph; created if missing")
    parser.add_argument("--base", metavar="GRAPH", help="another graph that has the parents")
    parser.add_argument("--images-root", type=Path, metavar="DIR", help="folder with one subfolder of images per id")
    parser.add_argument("--domain", default="photo", metavar="NAME", help="default domain (default: photo)")
    args = parser.parse_args(arguments)
    try:
        concepts = read_table(args.table, args.images_root, args.domain)
        graph = make_graph(args.to, concepts, fetch_graph(args.base) if args.base else None)
    except MLLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"made: {args.to} ({len(graph)} concepts, {graph.probes.total} images)")
    return 0


def read_table(file: Path, images_root: Path | None = None, domain: str = "photo") -> tuple[NewConcept, ...]:
    """Read the concepts of a table, with their images.

    Raises:
        InputError: The table cannot be read, or a row lacks a field.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text))) if file.suffix.lower() == ".csv" else json.loads(text)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as a table ({one_line(error)}); give JSON or CSV") from None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{file} is not a list of concepts; give one object or row per concept")
    return tuple(
        _concept_of_row(row, f"{file}, row {number}", file.parent, images_root, domain)
        for number, row in enumerate(rows, 1)
    )


def _concept_of_row(row: Any, where: str, folder: Path, images_root: Path | None, domain: str) -> NewConcept:  # noqa: ANN401 - parsed
    if not isinstance(row, dict):
        raise InputError(f"{where}: is not an object; give an object with id, name and parents")
    if unknown := set(map(str, row)) - FIELDS:
        raise InputError(
            f"{where}: has unknown fields ({abridged(sorted(unknown), 3)}); use {', '.join(sorted(FIELDS))}"
        )
    id, name = (_text(row, field, where) for field in ("id", "name"))
    description, style, source = (
        _text(row, field, where) if row.get(field) else None for field in ("description", "domain", "source")
    )
    if row.get("images"):
        images = folder / _text(row, "images", where)
    elif images_root and Path(id).name == id and id != "..":
        images = images_root / id
    else:
        raise InputError(f"{where}: has no folder of images; give the field images, or --images-root and a plain id")
    lemmas, parents = (_texts(row, field, where) for field in ("lemmas", "parents"))
    concept = Concept(id, tuple(dict.fromkeys([name, *lemmas])), description or "", tuple(parents))
    return concept, read_images(images, style or domain, source)


def _text(row: dict[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: lacks a text '{field}'")
    return value.strip()


def _texts(row: dict[str, Any], field: str, where: str) -> list[str]:
    value = row.get(field) or []
    texts = value.split(";") if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: '{field}' is not a list of texts")
    return [text.strip() for text in texts if text.strip()]


if __name__ == "__main__":
    sys.exit(main())
