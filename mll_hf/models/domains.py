"""The domains of specialists that a task touches: by its class names and the user's words.

The words are in ``data``, written by ``scripts/known_models/domain_words.py`` and ``species_names.py``.
"""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.matching.lint import NEGATION
from mll_hf.matching.senses import genera
from mll_hf.matching.words import have_english_words, stems
from mll_hf.models.known import records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mll_hf.matching.datasets import Recognized

_TOUCHED = 0.5  # mean weight of the words of a domain over the classes
_MANY, _TOUCHED_BY_MANY = 12, 0.3  # in data sets of other domains no more than .16
_BESIDE = 0.75  # of the strongest domain: weaker ones are not touched
_TOGETHER, _SURELY, _MAY_BE = 0.75, 0.4, 0.6  # shares of the classes: of one row, species, perhaps species
_MOST_WORDS = 12  # of a class name
_GRADES = frozenset({"mild", "moderate", "severe"})
NEUTRAL = _GRADES | {"background", "healthy", "none", "normal", "other", "others", "unknown"}
"""Names that tell nothing."""
_SPECIES, _FASHION, _MEDICINE = "species", "fashion", "medicine"
_DISEASE = re.compile(r"\w{3,}(itis|osis|(n|k|sch|yc|ic)emia|(?<!nost)algia|rrh[eo]a|plasia|plegia|penia)\b|\w{5}oma\b")
_GENUS = re.compile(r"[A-Z][a-z]{2,}(us|a|um|is|es|on|as|os|ys|yx|ix|ax|ox|o|er|ops)")
_EPITHET = re.compile(r"[a-z-]{2,}(us|a|um|is|ii?|ae|ens|ans|ax|ix|os|on|es|e|eo|o|ur|or|yx)")


@dataclass(frozen=True, slots=True)
class DomainWords:
    """Words by which a domain is recognized, as joined stems.

    Attributes:
        kind: ``option`` (in the user's domain or task), ``inside`` (anywhere in a class name), ``heads`` (its last
            word, after others), ``images`` (before that word, but not of it), ``instances`` (the whole name, in
            capitals) or ``together`` (the whole name, joined, if most names are of the same row).
        weight: 1, or less for words that everyday tasks have, too.
    """

    domain: str
    kind: str
    weight: float
    words: tuple[str, ...]


@cache
def domain_words(kind: str) -> tuple[tuple[str, float, frozenset[str]], ...]:
    """Domain, weight and words of each row of one kind."""
    return tuple((row.domain, row.weight, frozenset(row.words)) for row in _rows() if row.kind == kind)


@cache
def _species_names(mark: str) -> frozenset[str]:
    """Names of species of several words (no mark), words that end them (-), names of one word, rare (!) or not (?)."""
    packed = (Path(__file__).parent / "data" / "species_names.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    return frozenset(line[len(mark) :] for line in lines if (line[0] if line[0] in "-!?" else "") == mark)


@cache
def _rows() -> tuple[DomainWords, ...]:
    return records(DomainWords, "domain_words.csv")


def domains_of(
    classes: Sequence[str],
    domain: str | None = None,
    task: str | None = None,
    dataset: Recognized | None = None,
) -> tuple[str, ...]:
    """The domains of specialists that a task touches, the strongest first; none for everyday classes."""
    scores: dict[str, float] = defaultdict(float)
    named = [name for name in classes if name.lower() not in NEUTRAL] or list(classes)
    for name in named:
        for claim, weight in _weights_of(name).items():
            scores[claim] += weight / len(named)
    if any(map(NEGATION.search, named)):
        scores.pop(_FASHION, None)  # whether clothes are worn
    if len(named) == 2:  # one of two is too little, but for findings
        scores |= {c: 0.0 for c in (_FASHION, "products", "places", "remote sensing") if scores[c] <= _TOUCHED}
    keys = ["".join(stems(name)) for name in named]
    are_teams = all(name.istitle() and name.endswith("s") for name in named)  # Cardinals, Blue Jays
    scores[_SPECIES] = float(_are_species(named) and not are_teams)
    for claim, weight, names in domain_words("together"):
        if len(keys) > 2 and sum(key in names for key in keys) >= _TOGETHER * len(keys) and not are_teams:
            scores[claim] = weight
    for text in filter(None, (domain, task)):
        scores |= dict.fromkeys(_found(stems(text), "option"), 1.0)
    if dataset:
        scores |= {known.domain: 1.0 for known in dataset.datasets if known.domain}
    enough = max(_TOUCHED_BY_MANY if len(named) >= _MANY else _TOUCHED, _BESIDE * max(scores.values(), default=0.0))
    return tuple(sorted((claim for claim, score in scores.items() if score >= enough), key=lambda c: (-scores[c], c)))


def _weights_of(name: str) -> Mapping[str, float]:
    words = stems(name)[:_MOST_WORDS]
    found = dict(_found(words, "inside"))
    if name[:1].isupper():
        found |= {claim: weight for claim, weight, names in domain_words("instances") if " ".join(words) in names}
    if len(found) > 1 and max(found, key=lambda claim: found[claim]) != _MEDICINE:
        found.pop(_MEDICINE, None)  # the others say more
    return found or ({_MEDICINE: 1.0} if _DISEASE.search(name.lower()) else {})


def _is_species(name: str) -> bool:
    """Whether a name is surely that of a species: a scientific one, or a common one of several words."""
    *before, last = stems(name) or [""]
    is_head = last in _species_names("-") or any(last in heads for _, _, heads in domain_words("heads"))
    is_common = " ".join((*before, last)) in _species_names("") or (is_head and not _found(before, "images"))
    return is_binomial(name) or (bool(before) and is_common)


def _are_species(names: Sequence[str]) -> bool:
    """Whether many names surely are of species, and most may be, or most are of one rare word."""
    sure = sum(map(_is_species, names))
    rare, others = (sum(" ".join(stems(name)) in _species_names(mark) for name in names) for mark in "!?")
    if sure < _SURELY * len(names):
        return len(names) > 2 and not all(map(str.istitle, names)) and sure + rare >= _TOGETHER * len(names)
    return sure + rare + others >= _MAY_BE * len(names)


def is_binomial(name: str) -> bool:
    """Whether a name looks like a scientific one of a species: ``Danaus plexippus``, but not ``Lego plate``."""
    genus, *epithets = name.split() or [""]
    if len(epithets) not in (1, 2) or not all(map(_EPITHET.fullmatch, epithets)):
        return False
    if genus in genera():
        return True
    is_english, *are_english = have_english_words([genus, *epithets])
    return bool(_GENUS.fullmatch(genus)) and not (is_english or all(are_english))


def _found(words: Sequence[str], kind: str) -> Mapping[str, float]:
    runs = {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
    found: dict[str, float] = {}
    for claim, weight, names in domain_words(kind):
        if not runs.isdisjoint(names):
            found[claim] = max(weight, found.get(claim, 0.0))
    return found
