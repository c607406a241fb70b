"""The domains of specialists that a task touches: by its class names and the user's words.

The words are in ``data/domain_words.csv``, written by ``scripts/known_models/domain_words.py``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from mll_hf.matching.lint import NEGATION
from mll_hf.matching.words import stems
from mll_hf.models.known import records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mll_hf.matching.datasets import Recognized

_TOUCHED = 0.5  # mean weight of the words of a domain over the classes
_MANY, _TOUCHED_BY_MANY = 12, 0.3  # in data sets of other domains no more than .16
_BESIDE = 0.75  # of the strongest domain: weaker ones are not touched
_TOGETHER = 0.75  # share of the classes
_MOST_WORDS = 12  # of a class name
_GRADES = frozenset({"mild", "moderate", "severe"})
NEUTRAL = _GRADES | {"background", "healthy", "none", "normal", "other", "others", "unknown"}
"""Names that tell nothing."""
_SPECIES, _FASHION, _MEDICINE = "species", "fashion", "medicine"
_GENUS = re.compile(r"[A-Z][a-z]{2,}(us|a|um|is|es|on|as|os|ys|yx|ix|ax|ox|o|er|ops)")
_EPITHET = re.compile(r"[a-z-]{2,}(us|a|um|is|ii?|ae|ens|ans|ax|ix|os|on|es|e|eo|o|ur|or|yx)")


@dataclass(frozen=True, slots=True)
class DomainWords:
    """Words by which a domain is recognized, as joined stems.

    Attributes:
        kind: ``option`` (in the user's domain or task), ``inside`` (anywhere in a class name), ``heads`` (its last
            word, after others), ``instances`` (the whole name, in capitals) or ``together`` (the whole name, joined,
            if most names are of the same row).
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
    keys = ["".join(stems(name)) for name in named]
    are_teams = all(name.istitle() and name.endswith("s") for name in named)  # Cardinals, Blue Jays
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
    if len(found) > 1:
        found.pop(_MEDICINE, None)  # the others say more
    if is_binomial(name) or (len(words) > 1 and any(words[-1] in heads for _, _, heads in domain_words("heads"))):
        found[_SPECIES] = 1.0
    return found


def is_binomial(name: str) -> bool:
    """Whether a name looks like a scientific one of a species: ``Danaus plexippus``."""
    words = name.split()
    return len(words) in (2, 3) and bool(_GENUS.fullmatch(words[0])) and all(map(_EPITHET.fullmatch, words[1:]))


def _found(words: Sequence[str], kind: str) -> Mapping[str, float]:
    runs = {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
    found: dict[str, float] = {}
    for claim, weight, names in domain_words(kind):
        if not runs.isdisjoint(names):
            found[claim] = max(weight, found.get(claim, 0.0))
    return found
