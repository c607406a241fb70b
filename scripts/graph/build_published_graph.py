"""Write the graph of ImageNet's classes that the package ships, and the synset of each class of the published tables.

    python scripts/graph/build_published_graph.py [--check]

They are mll_hf/models/data/imagenet_graph.json, as build_graph.py --text-only --leaves imagenet-1k makes it, and
scripts/known_models/figures/imagenet_synsets.json. WordNet is Debian's wordnet-base. The order of ImageNet's classes
comes from timm. With --check nothing is written, and the exit status is 1 if anything would change.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark.recall_labels import SOURCES
from command_line import script_parser
from graph.wordnet import ClassList, class_wnids, leaf_names, make_graph, read_nouns
from known_models.figures import FOLDER as FIGURES
from known_models.figures import class_recalls
from mll_hf.graph.concepts import graph_to_bytes, normalize_lemma
from mll_hf.utils.files import write_atomically

if TYPE_CHECKING:
    from known_models.figures import ClassRecalls
    from mll_hf.graph.concepts import SemanticGraph

DATA = Path(__file__).resolve().parents[2] / "mll_hf" / "models" / "data"
NAMES_OF_IMAGENET_R = {  # that differ from those of the 1,000 classes
    "cobra": "indian cobra",
    "lobster": "american lobster",
    "cocker spaniels": "cocker spaniel",
    "panda": "giant panda",
    "clown fish": "clownfish",
    "puffer fish": "pufferfish",
}


def main() -> int:
    """Run the script; returns the exit status (0 done or unchanged, 1 would change)."""
    parser = script_parser(str(__doc__))
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if anything would change")
    check = parser.parse_args().check
    graph = make_graph("wordnet-imagenet-1k", leaf_names(ClassList.IMAGENET_1K), read_nouns()).graph
    synsets = synsets_of(class_recalls(), graph, class_wnids(ClassList.IMAGENET_1K))
    files = {
        DATA / "imagenet_graph.json": graph_to_bytes(graph),
        FIGURES / "imagenet_synsets.json": json.dumps(synsets, separators=(",", ":")).encode(),
    }
    changed = [path for path, content in files.items() if content != path.read_bytes()]
    for path in () if check else changed:
        write_atomically(path, files[path])
    print(f"changed: {', '.join(path.name for path in changed)}" if changed else "nothing changed")
    return int(check and bool(changed))


def synsets_of(recalls: ClassRecalls, graph: SemanticGraph, wnids: tuple[str, ...]) -> dict[str, list[str]]:
    """Synset of each class of the tables, by dataset; a KeyError names a class that has none."""
    by_name = {name: wnid for wnid in wnids for name in map(normalize_lemma, graph.concepts[graph.index[wnid]].lemmas)}
    names = map(normalize_lemma, recalls.of("imagenet-1k")[0])  # in timm's order
    by_name |= dict(zip(names, wnids, strict=True))
    by_name |= {ours: by_name[theirs] for ours, theirs in NAMES_OF_IMAGENET_R.items()}
    return {dataset: [by_name[normalize_lemma(name)] for name in recalls.of(dataset)[0]] for dataset in SOURCES}


if __name__ == "__main__":
    sys.exit(main())
