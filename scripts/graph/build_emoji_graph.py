"""Build the graph that comes with the package: emoji of things that WordNet names, each drawn by several projects.

    python scripts/graph/build_emoji_graph.py        # writes mll_hf/graph/data/emoji

The drawings come from npm packages whose licenses allow to pass them on; the README in the folder credits each.
``data/emoji.csv`` has the emoji and the synset that each shows, of which a person chose the sense. Needs the package
resvg-py, the client ``npm``, and Debian's ``wordnet-base``. The same packages give the same files.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import script_parser
from graph.wordnet import DEBIAN, NOUN_FILE, make_graph, read_nouns
from mll_hf.errors import MLLError
from mll_hf.graph import authoring
from mll_hf.graph.authoring import NewImage
from mll_hf.graph.concepts import GRAPH_FILE, SemanticGraph, graph_to_bytes
from mll_hf.hub.locations import PACKAGE_GRAPH
from mll_hf.utils.files import write_atomically
from mll_hf.utils.tables import markdown_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = Path(__file__).resolve().parents[2] / "mll_hf" / "graph" / "data" / "emoji"
DOMAIN = "emoji"
SIZE, IMAGES = 96, 6  # pixels; images per concept


class EmojiSet(NamedTuple):
    """A set of drawings in an npm package of the form of Iconify."""

    name: str
    spec: str
    license: str
    author: str
    repository: str


SETS = (
    EmojiSet("Noto Emoji", "@iconify-json/noto@1.2.9", "Apache-2.0", "Google", "googlefonts/noto-emoji"),
    EmojiSet("Twemoji", "@iconify-json/twemoji@1.2.5", "CC-BY-4.0", "Twitter and others", "jdecked/twemoji"),
    EmojiSet("Fluent Emoji", "@iconify-json/fluent-emoji@1.2.7", "MIT", "Microsoft", "microsoft/fluentui-emoji"),
    EmojiSet("Emojitwo", "@iconify-json/emojione@1.2.3", "CC-BY-4.0", "Emoji One", "EmojiTwo/emojitwo"),
    EmojiSet("FxEmojis", "@iconify-json/fxemoji@1.2.2", "Apache-2.0", "Mozilla", "mozilla/fxemoji"),
    EmojiSet("OpenMoji", "@iconify-json/openmoji@1.2.29", "CC-BY-SA-4.0", "OpenMoji", "hfg-gmuend/openmoji"),
    EmojiSet("Fluent Emoji Flat", "@iconify-json/fluent-emoji-flat@1.2.6", "MIT", "Microsoft",
             "microsoft/fluentui-emoji"),
)  # fmt: skip


def main() -> int:
    """Run the script; returns the exit status."""
    parser = script_parser(__doc__)
    parser.add_argument("--to", type=Path, default=FOLDER, help="folder of the graph (default: that of the package)")
    parser.add_argument("--packages", type=Path, default=Path(tempfile.gettempdir()) / "emoji-packages", help="kept")
    args = parser.parse_args()
    try:
        graph = build(args.to, args.packages.absolute())
    except MLLError as error:
        print(f"build_emoji_graph: error: {error}", file=sys.stderr)
        return 1
    kilobytes = sum(path.stat().st_size for path in args.to.iterdir()) / 1000
    print(f"{len(graph)} concepts, {graph.probes.total} images, {graph.digest[:12]}, {kilobytes:,.0f} kB in {args.to}")
    return 0


def build(folder: Path, packages: Path) -> SemanticGraph:
    """Write the graph, its images and credits; what is in the folder is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    nouns, icons = read_nouns(), {each: read_icons(packages, each) for each in SETS}
    emoji = read_emoji()
    concepts = make_graph("emoji", {wnid: nouns[wnid].lemmas for wnid in emoji.values()}, nouns).graph.concepts
    named = {wnid: name for name, wnid in emoji.items()}
    new = ((each, tuple(images_of(named[each.id], icons)) if each.id in named else ()) for each in concepts)
    graph = authoring.make_graph(folder, new)
    graph = graph.with_probes(replace(graph.probes, location=PACKAGE_GRAPH))
    write_atomically(folder / GRAPH_FILE, graph_to_bytes(graph))
    (folder / "README.md").write_text(credits(icons), encoding="utf-8")
    return graph


def read_emoji() -> dict[str, str]:
    """The synset that each emoji shows."""
    text = files("graph").joinpath("data", "emoji.csv").read_text(encoding="utf-8")
    return {row["emoji"]: row["wnid"] for row in csv.DictReader(text.splitlines())}


def npm_package(spec: str, packages: Path) -> Path:
    """Folder of an npm package, given as ``name@version``; a package that is there is not downloaded again."""
    target = packages / spec.replace("/", "__")
    if not target.exists():
        packages.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=packages))
        subprocess.run(["npm", "pack", "--silent", spec], cwd=work, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(work.glob("*.tgz"))) as tar:
            tar.extractall(work, filter="data")
        os.replace(work, target)
    return target / "package"


def read_icons(packages: Path, emoji_set: EmojiSet) -> dict[str, str]:
    """Drawings of a set by name, as SVG; checks the license that the package states."""
    folder = npm_package(emoji_set.spec, packages)
    stated = json.loads((folder / "info.json").read_text(encoding="utf-8"))["license"]["spdx"]
    if stated != emoji_set.license:
        raise MLLError(f"{emoji_set.spec} has the license {stated}, not {emoji_set.license}")
    document = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    size = document.get("width", 16), document.get("height", 16)
    bodies = {name: svg(icon, *size) for name, icon in document["icons"].items()}
    aliases = {name: each["parent"] for name, each in document.get("aliases", {}).items()}
    return bodies | {name: bodies[parent] for name, parent in aliases.items() if parent in bodies}


def svg(icon: Mapping[str, object], width: int, height: int) -> str:
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {icon.get('width', width)} {icon.get('height', height)}"
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {names} viewBox="{box}">{icon["body"]}</svg>'


def images_of(name: str, icons: Mapping[EmojiSet, Mapping[str, str]]) -> Iterator[NewImage]:
    """Drawings of an emoji, from the sets that have it."""
    plain = name.removesuffix("-face")
    found = (
        (emoji_set, drawing)
        for emoji_set, drawings in icons.items()
        for spelled in (plain, plain.replace("-", ""), f"{plain}-face")
        if (drawing := drawings.get(spelled))
    )
    for emoji_set, drawing in islice(dict(found).items(), IMAGES):
        source = f"{emoji_set.name}, npm {emoji_set.spec}, {emoji_set.license}"
        yield NewImage(webp(drawing), name, DOMAIN, source)


def webp(svg: str) -> bytes:
    """A drawing in the center of a white square."""
    import resvg_py

    image = Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, width=2 * SIZE))).convert("RGBA")
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    canvas, buffer = Image.new("RGB", (SIZE, SIZE), "white"), io.BytesIO()
    canvas.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2), image)
    canvas.save(buffer, "WEBP", quality=90, method=4)
    return buffer.getvalue()


def credits(icons: Mapping[EmojiSet, Mapping[str, str]]) -> str:
    """The README of the folder."""
    rows = [
        [each.name, each.author, f"https://github.com/{each.repository}", f"`{each.spec}`", each.license]
        for each in icons
    ]
    table = "\n".join(markdown_table(["drawings", "author", "page", "npm package", "license"], rows))
    return HEAD.replace("TABLE", table) + wordnet_license()


def wordnet_license() -> str:
    """The license at the head of WordNet's files, which must be passed on with its texts."""
    lines = (DEBIAN / NOUN_FILE).read_text(encoding="utf-8").splitlines()
    numbered = (line for line in lines if line.startswith("  "))
    return "".join(f"{line.strip().partition(' ')[2].rstrip()}\n" for line in numbered)


HEAD = """# emoji

The graph that comes with mll_hf: concepts of WordNet 3.0, and drawings of them by several emoji projects. The drawings
were rendered at 96 x 96 pixels on white, and converted to WebP; nothing else was changed.

**How far a label on it reaches.** It tells how well a model recognizes drawings of everyday things, animals and food.
It says little about photos, and nothing about fine-grained or specialized classes. The popular emoji are on many web
pages that models were trained on. Among 23 models of 1 to 3 M parameters, the one with the highest mean recall on it
was the best on average over 14 tasks, but the best on one of them only, and the rank correlation of mean recall and
accuracy was between .03 and .59. For decisions about photos, measure on a graph of photos (`mll-hf label --graph`), or
let `mll-hf fit` try models on your images.

TABLE

The drawings of each project keep its license. CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/, CC-BY-SA-4.0:
https://creativecommons.org/licenses/by-sa/4.0/, Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0.

MIT License (Fluent Emoji), Copyright (c) Microsoft Corporation. Permission is hereby granted, free of charge, to any
person obtaining a copy of this software and associated documentation files (the "Software"), to deal in the Software
without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so,
subject to the following conditions: The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS
OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY,
WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE
OR OTHER DEALINGS IN THE SOFTWARE.

Names, definitions and hypernyms of the concepts are from WordNet 3.0:

"""


if __name__ == "__main__":
    sys.exit(main())
