"""Write mll_hf/models/data/domain_words.csv: words in class names by which a specialist's domain is recognized.

    python scripts/known_models/domain_words.py [--wordnet FOLDER]

The roots are in domain_roots.csv, with their sources: words, or synsets of WordNet 3.0. Kinds of words:

- option: in --domain or --task;
- inside: anywhere in a class name; ``below`` are names of synsets below a root;
- heads: the last word of a longer class name ("blue jay", "Eurasian wren"): names of synsets below a root that end the
  name of one of their hyponyms, or that are one word and mostly mean it, but name nothing below a root with a minus;
- images: before a head, of what only looks like it ("plush owl"), or is food;
- together: the whole class name, if most other names are of the same row; joined names of synsets below roots, but of
  none below a root with a minus;
- instances: the whole class name, in capitals: names of the instances below a root (countries, cities).

Of names with several senses ``below`` only has those that mostly mean a synset below a root, as WordNet counts, and
that are not given for another domain. Words are stems, as `mll_hf.matching.words.stems` makes them.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from graph.wordnet import DEBIAN, read_nouns
from known_models import build
from mll_hf.matching.words import stems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from graph.wordnet import Synset

COLUMNS = ("domain", "kind", "weight", "words", "source")
MIN_LETTERS = 3
EVERYDAY = frozenset({
    "aid", "almond", "anchovy", "apricot", "ard", "ash", "bass", "bead", "bend", "bighead", "bug", "campion", "canary",
    "cap", "char", "chat", "cherry", "chicken", "clam", "cock", "coffee", "cold", "collapse", "contagion", "copper",
    "cord", "crab", "crane", "crash helmet", "creep", "cricket", "diamond", "dinosaur", "dory", "drawer", "drone",
    "drum", "emperor", "everlasting", "fish", "flat", "flicker", "flower", "founder", "fowl", "gall", "grunt",
    "hazelnut", "heave", "hen", "hickey", "hind", "jack", "kite", "lemon", "life belt", "lime", "lobster", "lue",
    "mac", "mahogany", "martin", "mildew", "mini", "mold", "monitor", "mono", "nec", "nsu", "orange", "oyster", "palm",
    "pearl", "pest", "pid", "pin", "pink", "pip", "plum", "pock", "pout", "prawn", "precious stone", "python", "queen",
    "racer", "ray", "redness", "roller", "ruby", "rust", "safety belt", "safety harness", "salmon", "sar", "sardine",
    "sawyer", "screamer", "seat belt", "seatbelt", "short", "shrimp", "silk", "skate", "slack", "smelt", "smut",
    "sole", "solitaire", "sparkler", "squid", "stagger", "stay", "std", "stilt", "stock", "stole", "strangle",
    "sucker", "swallow", "swift", "tick", "tit", "trapping", "tree", "tremble", "trumpeter", "tuna", "turkey",
    "turtle", "vest", "warble", "washable", "weed", "whiff", "whiting", "wrap", "yaw", "yeast",
})  # fmt: skip
"""Stems that mostly mean something else."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wordnet", type=Path, default=DEBIAN, metavar="FOLDER", help="WordNet 3.0")
    folder = parser.parse_args(arguments).wordnet
    synsets, first = read_nouns(folder), _first_senses(folder)
    below: dict[str, list[str]] = defaultdict(list)
    for wnid, synset in synsets.items():
        for hypernym in synset.hypernyms:
            below[hypernym].append(wnid)
    rows, roots = [], list(build.looked_up("domain_roots"))
    by_hand = {" ".join(stems(word)) for row in roots if row["kind"] == "inside" for word in row["words"].split("|")}
    for row in roots:
        kind, given = row["kind"], row["words"].split("|")
        names = given if kind in ("option", "inside", "images") else _names(kind, given, synsets, below, first)
        joint = "" if kind == "together" else " "
        words = {joint.join(stems(name)) for name in names if len(name) >= MIN_LETTERS or kind == "option"}
        if kind != "together":
            words -= EVERYDAY | (by_hand if kind == "below" else set())
        rows.append(row | {"kind": "inside" if kind == "below" else kind, "words": "|".join(sorted(words))})
    (build.DATA / "domain_words.csv").write_bytes(build.to_csv(COLUMNS, rows))
    return 0


def _first_senses(folder: Path) -> Mapping[str, str]:
    """Name -> wnid of what it means most often; ``index.noun`` is described in the man page wndb(5)."""
    lines = (folder / "index.noun").read_text(encoding="utf-8").splitlines()
    fields = [line.split() for line in lines if not line.startswith("  ")]
    return {words[0].replace("_", " "): f"n{words[6 + int(words[3])]}" for words in fields}


def _names(
    kind: str,
    roots: list[str],
    synsets: Mapping[str, Synset],
    below: Mapping[str, list[str]],
    first: Mapping[str, str],
) -> Iterator[str]:
    found = descendants([root for root in roots if root[0] != "-"], below)
    others = _lemmas(descendants([root[1:] for root in roots if root[0] == "-"], below), synsets)
    if kind == "together":
        yield from _lemmas(found, synsets) - others
        return
    for wnid in found:
        lemmas = synsets[wnid].lemmas
        if kind == "heads":
            parts = {
                stems(lemma)[-1:] for child in below.get(wnid, ()) for lemma in synsets[child].lemmas if " " in lemma
            }
            words = [lemma for lemma in lemmas if lemma.isalpha() and lemma.islower() and lemma not in others]
            yield from (lemma for lemma in lemmas if stems(lemma) in parts)
            yield from (word for word in words if first[word] in found)
        elif kind == "instances":
            yield from lemmas if wnid not in roots and lemmas[0][:1].isupper() else ()
        else:
            yield from (lemma for lemma in lemmas if first[lemma.lower()] in found and lemma.lower() not in others)


def _lemmas(wnids: set[str], synsets: Mapping[str, Synset]) -> set[str]:
    return {lemma.lower() for wnid in wnids for lemma in synsets[wnid].lemmas}


def descendants(roots: Iterable[str], below: Mapping[str, list[str]]) -> set[str]:
    """Wnids of some synsets and all below them."""
    found, waiting = set(), list(roots)
    while waiting:
        if (wnid := waiting.pop()) not in found:
            found.add(wnid)
            waiting += below.get(wnid, ())
    return found


if __name__ == "__main__":
    sys.exit(main())
