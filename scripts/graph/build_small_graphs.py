"""Build five small graphs besides WordNet's objects: letters, digits, flags, traffic signs, land from above.

All images come from packages of PyPI, npm and Debian; the column ``source`` names package, version and
license. The concepts are complete lists (the alphabet, the digits, the countries of ISO 3166, all signs of a
collection), chosen without looking at any task's images.

    python scripts/graph/build_small_graphs.py --base GRAPH GRAPHS        # writes GRAPHS/letters, GRAPHS/digits ...
    python scripts/graph/build_small_graphs.py --base GRAPH GRAPHS --only flags

Needs the packages babel, resvg-py and scikit-learn, and the clients ``pip``, ``npm`` and, for land from above,
``apt-get``. A second run downloads and changes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import script_parser
from graph.small.flags import flags
from graph.small.glyphs import digits, letters
from graph.small.packages import Packages
from graph.small.scenes import scenes
from graph.small.signs import signs
from mll_hf.errors import MLLError
from mll_hf.graph.authoring import NewConcept, make_graph
from mll_hf.hub.locations import fetch_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUILDERS: dict[str, Callable[[Packages], Iterator[NewConcept]]] = {
    "letters": letters,
    "digits": digits,
    "flags": flags,
    "traffic-signs": signs,
    "land-from-above": scenes,
}


def main() -> int:
    """Run the script; returns the exit status."""
    parser = script_parser(__doc__)
    parser.add_argument("graphs", type=Path, help="folder to write the graphs to")
    parser.add_argument(
        "--base", required=True, help="the graph of their parents: a folder, or hf://datasets/$ORG/NAME"
    )
    parser.add_argument("--only", action="append", choices=BUILDERS, help="build this graph; may be repeated")
    parser.add_argument("--packages", type=Path, help="folder of unpacked packages (default: GRAPHS/.packages)")
    args = parser.parse_args()
    packages = Packages((args.packages or args.graphs / ".packages").absolute())
    try:
        base = fetch_graph(args.base)
        for name in args.only or BUILDERS:
            graph = make_graph(args.graphs / name, BUILDERS[name](packages), base)
            print(f"{name}: {len(graph)} concepts, {graph.probes.total} images, {graph.digest[:12]}")
    except MLLError as error:
        print(f"build_small_graphs: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
