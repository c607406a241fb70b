"""Recognize the classes of a known dataset in a list of class names.

``data/class_lists.json`` has the lists with their sources. Names are compared by their stems, so case, separators and
plurals do not matter.

A list is that of a dataset if most of its names are classes of it, and most of its classes are in the list; or if
nearly all names are classes of it, and these are half of its classes or more. At least :data:`MIN_SHARED` names must
agree, so datasets of fewer classes (yes and no, cats and dogs) are never recognized: too many lists have these names.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.matching.prompts import DOMAIN_WORDS, clean_class_name
from mll_hf.matching.words import name_key

if TYPE_CHECKING:
    from collections.abc import Sequence

CLASS_LISTS = Path(__file__).parent / "data" / "class_lists.json"
MIN_SHARED = 5
MOST = 0.75
HALF, NEARLY_ALL, MIN_OF_SUBSET = 0.5, 0.95, 10
_SUBJECTS = ("photo", "texture", "satellite", "digit", "letter", "sign", "medical", "face")
_NEUTRAL = {word for subject in _SUBJECTS for words in DOMAIN_WORDS[subject] for word in words.split()}
_NEUTRAL |= {"a", "an", "the", "of", "image", "picture"}


@dataclass(frozen=True, slots=True)
class KnownDataset:
    """The classes of a dataset, in all their spellings, with their source, and its domain if models are made for it."""

    id: str  # as in the tables of published figures
    title: str
    source: str
    classes: tuple[tuple[str, ...], ...]
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Recognized:
    """A list of classes is that of a known dataset, or a large part of it."""

    datasets: tuple[KnownDataset, ...]  # several if the names do not tell them apart
    shared: int  # number of their classes in the list
    present: float  # share of their classes that are in the list
    inside: float  # share of the list that is in the datasets

    def __str__(self) -> str:
        """One line for people."""
        titles, size = " or ".join(dataset.title for dataset in self.datasets), len(self.datasets[0].classes)
        if self.present == self.inside == 1:
            return f"These are the classes of {titles}."
        others = "" if self.inside == 1 else ", and others"
        return f"These are {self.shared} of the {size} classes of {titles}{others}."


def recognize(classes: Sequence[str]) -> Recognized | None:
    """The known dataset whose classes these are, up to spelling and words that all names share; None if none is."""
    return _recognize(classes) or _recognize(_without_common_words(classes))


def _recognize(names: Sequence[str]) -> Recognized | None:
    keys = {name_key(name) for name in names}
    best: defaultdict[float, list[Recognized]] = defaultdict(list)
    for dataset, classes in zip(known_datasets(), _keys(), strict=True):
        shared = [spellings & keys for spellings in classes if spellings & keys]
        distinct = min(len(set[str]().union(*shared)), len(shared))  # of two names of one class one is an other
        found = Recognized((dataset,), len(shared), len(shared) / len(classes), distinct / max(len(names), 1))
        if _is_enough(found, len(names)):
            best[round(2 / (1 / found.present + 1 / found.inside), 9)].append(found)
    equal = best[max(best)] if best else []
    return replace(equal[0], datasets=tuple(found.datasets[0] for found in equal)) if equal else None


def _is_enough(found: Recognized, n_names: int) -> bool:
    if found.shared < MIN_SHARED:
        return False
    most_classes = found.present >= MOST or len(found.datasets[0].classes) - found.shared <= 1
    most_names = found.inside >= MOST or n_names - found.shared <= 1
    is_part = found.present >= HALF and found.inside >= NEARLY_ALL and found.shared >= MIN_OF_SUBSET
    return (most_classes and most_names) or is_part


def _without_common_words(classes: Sequence[str]) -> list[str]:
    """The names without words that all of them begin or end with, and that change nothing: "digit", "traffic sign"."""
    words = [clean_class_name(name).split() for name in classes]
    for at in (0, -1):
        while len(words) > 1 and all(len(w) > 1 and w[at].lower() == words[0][at].lower() in _NEUTRAL for w in words):
            words = [w[1:] if at == 0 else w[:-1] for w in words]
    return [" ".join(w) for w in words]


@cache
def known_datasets() -> tuple[KnownDataset, ...]:
    """The datasets whose classes are known."""
    lists = json.loads(CLASS_LISTS.read_text(encoding="utf-8"))
    return tuple(
        KnownDataset(**entry | {"classes": tuple(tuple(y.split("|")) for y in entry["classes"])}) for entry in lists
    )


@cache
def _keys() -> list[list[set[str]]]:
    """Keys of the spellings of each class of each dataset."""
    return [[set(map(name_key, spellings)) for spellings in dataset.classes] for dataset in known_datasets()]
