"""The language of class names: by their script, else by their words and py3langid.

Whether a list in Latin letters is English is told by the share of its words that are in a name of WordNet or of a known
dataset. Words that another language has, too, do not count as English for it, unless they are among the names and
keywords of emoji in English, or in names of a known dataset.
"""

from __future__ import annotations

import gzip
import math
import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.matching.datasets import known_datasets
from mll_hf.matching.lint import quoted, scripts_of
from mll_hf.matching.prompts import clean_class_name
from mll_hf.matching.senses import english_words
from mll_hf.matching.words import stems
from mll_hf.models.domains import NEUTRAL, is_binomial
from mll_hf.models.known import records

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGLISH = "en"
_LATIN_NAMES = "la"  # of species and diseases, in English lists
SHARED_SCRIPTS = frozenset({"LATIN", "CYRILLIC", "ARABIC"})  # whose languages are told apart by their words
WORDS = Path(__file__).parent / "data" / "language_words.txt.gz"
_WORD = re.compile(r"[^\W\d_]{2,}")
# Of the words of lists in other languages fewer are English; French and English share more than others
_ENGLISH_SHARE, _ENGLISH_SHARES = 0.5, {"fr": 0.6}
_ENGLISH_MARGIN, _WITHOUT_WORDS = 5.0, 10.0  # log-likelihood by which another language must be likelier than English
_PRIOR = 8.0  # log-likelihood for each e-fold of named classes: lists in Spanish are more usual than in Galician
_PER_WORD = 6.0  # log-likelihood for each word that is known in a language, but is not everyday English
_MOST_LANGUAGES = 4  # that have a word which is English only
_SCIENTIFIC_SHARE = 0.2
_MOST_NAMES = 200
_MOST_LETTERS = 60


@dataclass(frozen=True, slots=True)
class Language:
    """A language with published figures.

    Attributes:
        code: Of ISO 639.
        name: In English.
        scripts: As in the names of Unicode's characters.
        classes: How many of ImageNet's classes have a name in it in Babel-ImageNet.
    """

    code: str
    name: str
    scripts: tuple[str, ...]
    classes: int


@cache
def languages() -> tuple[Language, ...]:
    """Languages with published figures, those with the most named classes first."""
    return records(Language, "languages.csv")


def language_of(classes: Sequence[str]) -> str:
    """Code of the language of class names; empty if it is none that figures are known for, or cannot be told."""
    names = [name for name in classes if any(map(str.isalpha, name)) and not re.search(r"\d", name)][:_MOST_NAMES]
    if 2 * sum(map(is_binomial, names)) >= len(names):
        return ENGLISH
    scripts = scripts_of(names)
    (script, _), *_ = Counter(filter(None, scripts)).most_common()
    names = [name for name, each in zip(names, scripts, strict=True) if each == script]
    codes = [language.code for language in languages() if script in language.scripts]
    return _detect(names, codes) if script in SHARED_SCRIPTS else next(iter(codes), "")


def mixed_names(classes: Sequence[str], language: str) -> tuple[str, ...]:
    """A note if scientific names are among common ones, or English names in a list of another language."""
    spoken = {name: [_spoken(word) for word in _WORD.findall(name)] for name in {*classes} - NEUTRAL}
    english = [name for name in classes if any(ENGLISH in codes for codes in spoken.get(name, ()))]
    if language == ENGLISH:
        scientific = [name for name in classes if is_binomial(name) and name not in english]
        is_mixed = english and len(scientific) >= _SCIENTIFIC_SHARE * len(classes)
        return (f"{quoted(scientific)}: scientific among common names; use one kind for all.",) if is_mixed else ()
    others = [name for name in english if not any(language in x or len(x) > _MOST_LANGUAGES for x in spoken[name])]
    is_mixed = others and len({*filter(None, scripts_of(classes))}) == 1  # several scripts are noted by `lint`
    return (f"{quoted(others)}: English, unlike most names; use one language for all.",) if is_mixed else ()


def _detect(names: Sequence[str], codes: Sequence[str]) -> str:
    """The likeliest of some languages."""
    words = {word.lower() for name in names for word in _WORD.findall(unicodedata.normalize("NFKC", name))}
    forms = {word: {word, *stems(word)} for word in words}
    everyday = {word for word in words if any(x in _dataset_words() or ENGLISH in _spoken(x) for x in forms[word])}
    unknown = {word for word in words - everyday if english_words().isdisjoint(forms[word])}
    known = {word: _spoken(word) for word in words - everyday}

    def english_share(code: str) -> float:
        return sum(word not in unknown and code not in known.get(word, ()) for word in words) / len(words)

    possible = {code for code in codes if words and english_share(code) <= _ENGLISH_SHARES.get(code, _ENGLISH_SHARE)}
    if not possible:
        return ENGLISH
    texts = (" ".join(dict.fromkeys(name.split()))[:_MOST_LETTERS] for name in names)  # no word counts twice
    found = dict(_identifier().rank(". ".join(texts) + "."))
    counts = Counter(code for spoken in known.values() for code in spoken)
    counts[ENGLISH] = len(everyday)
    prior = {each.code: _PRIOR * math.log(each.classes) for each in languages()}
    scores = {code: found[code] + prior[code] + _PER_WORD * counts[code] for code in codes if code in found}
    best = max(scores, key=scores.__getitem__)
    margin = _ENGLISH_MARGIN if counts[best] else _WITHOUT_WORDS
    is_other = best in possible - {_LATIN_NAMES} and scores[best] - scores.get(ENGLISH, -math.inf) >= margin
    return best if is_other else ENGLISH


def _spoken(word: str) -> list[str]:
    """Codes of the languages that have a word."""
    lines, start = _words_of_languages(), f"{unaccented(word)} "
    line = lines[bisect_left(lines, start, hi=len(lines) - 1)]
    return line.removeprefix(start).split(",") if line.startswith(start) else []


@cache
def _dataset_words() -> frozenset[str]:
    names = (name for dataset in known_datasets() for spellings in dataset.classes for name in spellings)
    return frozenset[str]().union(*(stems(clean_class_name(name)) for name in names))


@cache
def _words_of_languages() -> Sequence[str]:
    """Lines of a word without accents and the codes of the languages that have it, sorted."""
    return gzip.decompress(WORDS.read_bytes()).decode().splitlines()


def unaccented(text: str) -> str:
    """A text in lower case, without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))


@cache
def _identifier() -> Any:  # noqa: ANN401 - py3langid has no types
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # takes half a second

    return LanguageIdentifier.from_model_file(MODEL_FILE)
