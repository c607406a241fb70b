"""Write what matching uses of WordNet beside graphs: rare_senses.csv and words.txt.gz in mll_hf/matching/data.

    python scripts/graph/rare_senses.py

words.txt.gz has the stems of all words in names of WordNet 3.0 but scientific ones of species, and in capitals the
genera of living things. rare_senses.csv has how often a word means a concept of ImageNet-12k or above it:

The share of a synset among the noun and adjective senses of its name, from WordNet 3.0's counts of senses in tagged
texts (``cntlist.rev``), each plus one half; verbs are no class names. Only shares below one half are listed.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from graph.wordnet import DEBIAN, ClassList, leaf_names, read_nouns
from mll_hf.matching.senses import RARE_SENSES, WORDS
from mll_hf.matching.words import name_key, stems

PARTS = {"1": "noun", "3": "adj", "5": "adj"}  # the first digit of a sense key: man page senseidx(5)
ADDED = 0.5


def main() -> None:
    """Write the files."""
    names = {name for part in ("noun", "adj", "verb", "adv") for name in _synsets(part)}
    genera = {name.removeprefix("genus_") for name in names if name.startswith("genus_")}
    texts = [name.replace("_", " ") for name in names if name.partition("_")[0] not in genera or "_" not in name]
    words = {word for text in texts for word in stems(text) if word.isalpha() and len(word) > 1}
    lines = sorted(words | {genus.capitalize() for genus in genera})
    WORDS.write_bytes(gzip.compress("\n".join(lines).encode(), 9, mtime=0))
    nouns, shares = read_nouns(DEBIAN), sense_shares()
    wanted = list({*leaf_names(ClassList.IMAGENET_12K), *leaf_names(ClassList.IMAGENET_1K)} & nouns.keys())
    found = set(wanted)
    while wanted:
        above = set(nouns[wanted.pop()].hypernyms) - found
        found |= above
        wanted.extend(above)
    rows = dict[tuple[str, str], float]()
    for id in sorted(found):
        for lemma in nouns[id].lemmas:
            place = id, name_key(lemma)
            rows[place] = max(rows.get(place, 0.0), shares.get((lemma.lower(), id), 1.0))
    with RARE_SENSES.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["synset", "name", "percent"])
        writer.writerows([*place, round(100 * share)] for place, share in rows.items() if share < 0.5)


def sense_shares() -> dict[tuple[str, str], float]:
    """Share of each noun synset among the senses of a lemma."""
    counts: defaultdict[tuple[str, str], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    for line in (DEBIAN / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, number, count = line.split()
        lemma, _, sense = key.partition("%")
        counts[lemma, PARTS.get(sense[0], "")][int(number)] += int(count)
    synsets = {part: _synsets(part) for part in set(PARTS.values())}
    totals: defaultdict[str, float] = defaultdict(float)
    for part, of in synsets.items():
        for lemma, ids in of.items():
            totals[lemma] += sum(counts[lemma, part][at] + ADDED for at in range(1, len(ids) + 1))
    return {
        (lemma.replace("_", " "), id): (counts[lemma, "noun"][at] + ADDED) / totals[lemma]
        for lemma, ids in synsets["noun"].items()
        for at, id in enumerate(ids, 1)
    }


def _synsets(part: str) -> dict[str, list[str]]:
    """Lemma -> its synsets, most frequent first, from ``index.noun`` or another part (man page wndb(5))."""
    lines = (DEBIAN / f"index.{part}").read_text(encoding="utf-8").splitlines()
    fields = [line.split() for line in lines if not line.startswith("  ")]
    return {words[0]: [f"n{offset}" for offset in words[-int(words[2]) :]] for words in fields}


if __name__ == "__main__":
    main()
