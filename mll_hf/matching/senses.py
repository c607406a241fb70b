"""What WordNet says about names: which words are English or a genus, and how often a name means a concept.

"Bat" is mostly an animal, "stop" hardly ever the diaphragm of a camera: by WordNet's counts of senses in texts, for
synsets of ImageNet-12k and their hypernyms. ``scripts/graph/rare_senses.py`` writes both tables.
"""

from __future__ import annotations

import csv
import gzip
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

RARE_SENSES = Path(__file__).parent / "data" / "rare_senses.csv"
WORDS = RARE_SENSES.with_name("words.txt.gz")
USUAL = 0.5
"""Share of a sense from which it is not in the table, and of all names and concepts that are not in WordNet."""


def sense_share(concept: str, key: str) -> float:
    """Share of the uses of a name, given by its key, that mean a concept, given by its id; at most :data:`USUAL`."""
    return _rare_senses().get((concept, key), USUAL)


@cache
def _rare_senses() -> Mapping[tuple[str, str], float]:
    with RARE_SENSES.open(encoding="utf-8", newline="") as file:
        return {(row[0], row[1]): max(float(row[2]), 1) / 100 for row in list(csv.reader(file))[1:]}


@cache
def english_words() -> frozenset[str]:
    """Stems of the words in WordNet's names, of two letters or more; without epithets of species."""
    return _words() - genera()


@cache
def genera() -> frozenset[str]:
    """Genera of living things, in capitals."""
    return frozenset(word for word in _words() if word < "a")


@cache
def _words() -> frozenset[str]:
    return frozenset(gzip.decompress(WORDS.read_bytes()).decode().split())
