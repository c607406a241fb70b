"""What in a list of class names is likely to be a mistake, or to be misread by models of text and images.

Notes only: nothing is refused or changed.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING

from mll_hf.matching.datasets import known_datasets
from mll_hf.matching.prompts import clean_class_name
from mll_hf.matching.senses import english_words, sense_share
from mll_hf.matching.words import name_key, stems
from mll_hf.utils.text import abridged, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mll_hf.graph.concepts import SemanticGraph

_LONG = 60  # letters
_MIN_TYPO = 6  # letters of a name that is compared with names one letter away; shorter ones are other words too often
_SHOWN = 3
_RARE = 0.1  # share of the uses of a name
NEGATION = re.compile(r"\b(?:no|not|non|without|never)\b", re.IGNORECASE)
_FAULTLESS = re.compile(
    r"(?:good|ok|okay|normal|intact|acceptable|undamaged|flawless|perfect|correct|healthy)\b|.* (?:ok|healthy)$",
    re.IGNORECASE,
)
_OPPOSITE = ("un", "in", "im", "ir", "dis", "non")
_PROMPT = re.compile(r"^(?:an?|the)?\s*(?:\w+ )?(?:photo|photograph|picture|image|drawing|sketch)s? of ", re.IGNORECASE)
_SEPARATOR = re.compile(r"\s*[;|]\s*")
_KANA = ("HIRAGANA", "KATAKANA")
_WRITTEN = {"CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean"}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def lint(classes: Sequence[str], graph: SemanticGraph) -> tuple[str, ...]:
    """Notes on class names, one line each; ``graph`` gives further known names and synonyms."""
    return tuple(_notes(classes, graph))


def _notes(classes: Sequence[str], graph: SemanticGraph) -> Iterator[str]:
    if len(classes) == 1:
        yield "With one class every prediction is correct; also name what else the images show."
    if negated := [name for name in classes if NEGATION.search(name)]:
        yield f"{quoted(negated)}: models hardly read 'no' and 'without'; name what is seen instead (bare head)."
    if joined := [name for name in classes if _SEPARATOR.search(name)]:
        yield f"{quoted(joined)}: looks like several classes in one name; separate classes with commas."
    if prompts := [name for name in classes if _PROMPT.match(name)]:
        yield f"{quoted(prompts)}: prompts are made from names; give the name alone, and the kind of image as domain."
    if emoji := [name for name in classes if any(unicodedata.category(c) == "So" for c in name)]:
        yield f"{quoted(emoji)}: symbols are not read by most models; write the name in words."
    if long := [name for name in classes if len(name) > _LONG]:
        yield f"{quoted(long)}: long names are cut off by many models; give a short name and a description."
    if all(re.fullmatch(r"\d+|[^\W\d_\u3400-\u9fff]", clean_class_name(name)) for name in classes) and len(classes) > 1:
        yield "The names are numbers or letters: say what they are, in the names (digit 7) or as task."
    yield from _scripts(classes)
    known = _spellings(graph)
    keys = {name: name_key(name) for name in classes}
    yield from _synonyms({name: known[key][1] for name, key in keys.items() if key in known})
    shares = {name: [sense_share(id, key) for id in known[key][1]] for name, key in keys.items() if key in known}
    if rare := [name for name, each in shares.items() if each and max(each) < _RARE]:
        yield f"{quoted(rare)}: ambiguous, rarely the concept of this name in the graph; describe it, or add a word."
    for name, key in keys.items():
        is_word = english_words().issuperset(stems(name))
        if len(key) >= _MIN_TYPO and key not in known and key.isalpha() and not is_word:
            near = {known[edit][0] for edit in _edits(key) if edit in known}
            if len(near) == 1:
                yield f"'{name}' is not a known name; did you mean '{near.pop()}'?"


def finds_faults(classes: Sequence[str]) -> bool:
    """Whether classes are faults and their absence: ``good weld, undercut``; ``rust, no rust``; ``safe, unsafe``."""
    words = [frozenset(stems(clean_class_name(name))) for name in classes]
    present = [own for own, name in zip(words, classes, strict=True) if not NEGATION.search(name)]
    absent = [frozenset(stems(NEGATION.sub("", name))) for name in classes if NEGATION.search(name)]
    names = {name.lower() for name in classes}
    has_opposites = any(prefix + name in names for name in names for prefix in _OPPOSITE)
    is_absent = any(own <= other for own in absent for other in present)
    return any(map(_FAULTLESS.match, classes)) or has_opposites or is_absent


def _scripts(classes: Sequence[str]) -> Iterator[str]:
    """Names in other scripts than Latin, which English models do not read."""
    by_script = defaultdict(list)
    for name, script in zip(classes, scripts_of(classes), strict=True):
        if script:
            by_script[_WRITTEN.get(script, script.capitalize())].append(name)
    for script, names in by_script.items():
        if script != "Latin":
            yield f"{quoted(names)}: in {script} script, which most models do not read."
    if len(by_script) > 1:
        yield f"The names are in several scripts ({', '.join(by_script)}): use one language for all classes."


def scripts_of(classes: Sequence[str]) -> list[str]:
    """The script of most letters of each name, as in the names of Unicode's characters; empty without letters.

    In a list with kana Chinese characters are Japanese, and so are names in Latin capitals (LED).
    """
    scripts = [_script(unicodedata.normalize("NFKC", name)) for name in classes]
    if any(script in _KANA for script in scripts):
        return [
            "KATAKANA" if script == "CJK" or (script == "LATIN" and name.isupper()) else script
            for name, script in zip(classes, scripts, strict=True)
        ]
    return scripts


def _script(name: str) -> str:
    counts = Counter(unicodedata.name(c, " ").split()[0].partition("-")[0] for c in name if c.isalpha())
    return counts.most_common(1)[0][0] if counts else ""


def _synonyms(concepts: Mapping[str, Sequence[str]]) -> Iterator[str]:
    by_concept: defaultdict[str, list[str]] = defaultdict(list)
    for name, ids in concepts.items():
        for id in ids:
            by_concept[id].append(name)
    pairs = dict.fromkeys(tuple(names) for names in by_concept.values() if len(names) > 1)
    for names in list(pairs)[:_SHOWN]:
        yield f"{quoted(names)}: names of one thing in WordNet; if so, no model can tell them apart."


def _edits(word: str) -> set[str]:
    """Strings one letter away within the word: its ends differ between words and their inflections, too."""
    splits = [(word[:at], word[at:]) for at in range(1, len(word))]
    deleted = {a + b[1:] for a, b in splits if b[1:]}
    exchanged = {a + b[1] + b[0] + b[2:] for a, b in splits if len(b) > 1}
    replaced = {a + c + b[1:] for a, b in splits if b[1:] for c in _LETTERS}
    return deleted | exchanged | replaced | {a + c + b for a, b in splits for c in _LETTERS}


@lru_cache(4)
def _spellings(graph: SemanticGraph) -> Mapping[str, tuple[str, list[str]]]:
    """Key of each known name -> how it is written, and the ids of the concepts that it names."""
    classes = [names for dataset in known_datasets() for names in dataset.classes]
    known = {name_key(name): (name, list[str]()) for names in classes for name in names}
    for concept in graph.concepts:
        for key, lemma in {name_key(lemma): lemma for lemma in reversed(concept.lemmas)}.items():
            known.setdefault(key, (lemma, []))[1].append(concept.id)
    return known


def quoted(names: Sequence[str]) -> str:
    """The first names, in quotes."""
    return abridged([f"'{shortened(name, 30)}'" for name in names], _SHOWN)
