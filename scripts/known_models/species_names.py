"""Write mll_hf/models/data/species_names.txt.gz: common names of species, and words that end such names.

    python scripts/known_models/species_names.py SPECLIST [--wordnet FOLDER]

SPECLIST is UniProt's controlled vocabulary of species, speclist.txt (release 2021_02, CC BY 4.0). Its common names of
organisms with a cell nucleus are taken, and the names below organism and of plant genera in WordNet 3.0. "Meadow brown
butterfly" gives "meadow brown", too, and "eastern tiger swallowtail" "tiger swallowtail". Names are joined stems, with
a mark for what they tell:

- none: a name of several words that means nothing but a wild species, or a group of them;
- "-": a word that ends three or more of these;
- "!": a name of one word that means nothing else, and is in no text of WordNet's corpus and with no emoji;
- "?": any other name of one word that may mean one.

Food, domestic and young animals, and dinosaurs are no wild species.
"""

from __future__ import annotations

import argparse
import gzip
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from graph.wordnet import DEBIAN, read_nouns
from known_models import build
from known_models.domain_words import EVERYDAY, descendants
from mll_hf.matching.words import stems
from mll_hf.models.domains import is_binomial
from mll_hf.models.language import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Name = tuple[str, ...]

ORGANISM, PERSON = "n00004475", "n00007846"
FOOD = ("n00021265", "n07555863", "n07705711", "n13134947")  # food; solid food; produce; fruit
KEPT = (
    "n01317541", "n02084071", "n02121808", "n01791625", "n02374451", "n02402425", "n02395406", "n02411705",
    "n02416519", "n01321579", "n01699831",
)  # fmt: skip
"""Domestic animal, dog, domestic cat, domestic fowl, horse, cattle, hog, sheep, goat; young animal, dinosaur."""
GENERA, GENUS_LETTERS = ("n11556857", "n11567411"), 5  # of monocots and dicots
GROUPS = frozenset({"butterfly", "moth", "bat"})
REGIONS = frozenset({
    "african", "american", "asian", "atlantic", "australian", "canadian", "common", "eastern", "eurasian", "european",
    "indian", "northern", "pacific", "southern", "western",
})  # fmt: skip
ENDINGS = 3
MAX_WORDS, MIN_LETTERS = 4, 4
COMMON = frozenset({
    "animal", "cactus", "chive", "cow", "crocus", "daffodil", "geranium", "gerbil", "hamster", "mammal", "oclock",
    "plant", "shrub", "tulip", "vine", "vitae", "wood",
})  # fmt: skip
"""Stems that end names of everyday things."""


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speclist", type=Path, metavar="SPECLIST", help="UniProt's speclist.txt")
    parser.add_argument("--wordnet", type=Path, default=DEBIAN, metavar="FOLDER", help="WordNet 3.0")
    args = parser.parse_args(arguments)
    synsets, below, senses = read_nouns(args.wordnet), defaultdict(list), defaultdict(set)
    for wnid, synset in synsets.items():
        for hypernym in synset.hypernyms:
            below[hypernym].append(wnid)
        for lemma in synset.lemmas:
            senses[stems(lemma)].add(wnid)
    people, food, kept = (descendants(roots, below) for roots in ([PERSON], FOOD, KEPT))
    wild = descendants([ORGANISM], below) - people - food - kept
    genera = descendants(GENERA, below)
    lemmas = [lemma for wnid in wild for lemma in synsets[wnid].lemmas if not is_binomial(lemma)]
    others = {name for name, of in senses.items() if not of <= wild | genera}
    ends = {name[-1] for name in others if len(name) == 1 and senses[name] & (food | kept)}
    listed = set(map(stems, uniprot_names(args.speclist)))
    species = [name[:-1] for name in listed if name[1:] and name[-1] in GROUPS]
    heads = _heads({*listed, *(stems(lemma) for lemma in lemmas if lemma.islower())}, others)
    species += [name[1:] for name in [*listed, *species] if len(name) > 2 and name[0] in REGIONS]
    species += [
        name for name, of in senses.items() if of <= genera and name[0] != "genus" and len(name[0]) >= GENUS_LETTERS
    ]
    species += [
        name[1:] for name, of in senses.items() if of <= genera and name[0] == "genus" and name[1:] not in senses
    ]
    names = [*species, *(name for name in listed if name[-1] not in ends), *map(stems, lemmas)]
    names = [name for name in names if len(name) <= MAX_WORDS and all(map(str.isalpha, name))]
    everyday = EVERYDAY | _in_texts(args.wordnet) | _of_emoji()
    lines = {f"-{word}" for word in heads}
    for name in names:
        if name[1:] and name not in others and name[-1] not in heads:
            lines.add(" ".join(name))
        elif len(name) == 1 and len(name[0]) >= MIN_LETTERS:
            lines.add(f"{'?' if name in others or name[0] in everyday else '!'}{name[0]}")
    (build.DATA / "species_names.txt.gz").write_bytes(gzip.compress("\n".join(sorted(lines)).encode(), 9, mtime=0))
    return 0


def uniprot_names(path: Path) -> Iterator[str]:
    """The common names of eukaryotes in UniProt's list."""
    kingdom = ""
    for line in path.read_text(encoding="latin-1").splitlines():
        if organism := re.match(r"\w{3,5} +([A-Z]) +\d+: N=", line):
            kingdom = organism[1]
        if kingdom == "E" and (name := re.match(r" +C=(.+)", line)):
            yield name[1]


def _heads(names: Iterable[Name], others: set[Name]) -> set[str]:
    counts = Counter(name[-1] for name in names if name[1:])
    enough = {word for word, n in counts.items() if n >= ENDINGS and len(word) >= MIN_LETTERS and word.isalpha()}
    return {word for word in enough - EVERYDAY - COMMON if (word,) not in others}


def _in_texts(folder: Path) -> set[str]:
    """Nouns of one word that are tagged in WordNet's corpus: ``index.noun`` is described in the man page wndb(5)."""
    lines = (folder / "index.noun").read_text(encoding="utf-8").splitlines()
    fields = [line.split() for line in lines if line[0] != " "]
    return {stems(words[0])[0] for words in fields if "_" not in words[0] and int(words[5 + int(words[3])])}


def _of_emoji() -> set[str]:
    """English words of emoji."""
    words = (line.split() for line in gzip.decompress(WORDS.read_bytes()).decode().splitlines())
    return {stem for word, codes in words if "en" in codes.split(",") for stem in stems(word)}


if __name__ == "__main__":
    sys.exit(main())
