"""Map the classes of Open Images to synsets of WordNet 3.0, in scripts/graph/data/open_images.csv.

    python scripts/graph/map_open_images.py [--check]

A class gets the first noun sense of its name in WordNet if this is the only one among ImageNet's classes and their
hypernyms, so "Mouse", "Crane" and "Orange" get none. The results were reviewed by a person: the column `rejected` has
the reason if a class still gets none. Columns: the name of the class; the wnid, empty if there is none; why it was
rejected; and the source of the name. The names are those of the 601 classes with boxes.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from graph.wordnet import ClassList, find_wordnet, leaf_names, make_graph, noun_senses
from mll_hf.cli.options import script_parser
from mll_hf.errors import MLLError
from mll_hf.utils.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

MAPPING = Path(__file__).resolve().parent / "data" / "open_images.csv"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status (0 success, 1 failure or, with --check, a different mapping)."""
    parser = script_parser(str(__doc__))
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file would change")
    parser.add_argument("--wordnet", metavar="DIR", help="folder of WordNet 3.0 (default: Debian's)")
    args = parser.parse_args(arguments)
    try:
        visual = make_graph("all", leaf_names(ClassList.IMAGENET_21K), find_wordnet(args.wordnet)).graph
        content = mapped(MAPPING.read_text(encoding="utf-8"), noun_senses(args.wordnet), visual.index)
    except MLLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.check:
        return int(content.encode() != MAPPING.read_bytes())
    write_atomically(MAPPING, content.encode())
    return 0


def mapped(text: str, senses: Mapping[str, str], visual: Container[str]) -> str:
    """The file with updated wnids."""
    rows = list(csv.DictReader(text.splitlines()))
    for row in rows:
        row["wnid"] = "" if row["rejected"] else unambiguous(row["name"], senses, visual)
    result = io.StringIO()
    writer = csv.DictWriter(result, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return result.getvalue()


def unambiguous(name: str, senses: Mapping[str, str], visual: Container[str]) -> str:
    """Wnid of a name whose first sense is its only visual one, else empty."""
    lemma, wnids = name.lower().replace(" ", "_"), list[str]()
    while wnid := senses.get(f"{lemma}.n.{len(wnids) + 1:02}"):
        wnids.append(wnid)
    return wnids[0] if wnids and [wnid for wnid in wnids if wnid in visual] == wnids[:1] else ""


if __name__ == "__main__":
    sys.exit(main())
