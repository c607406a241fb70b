"""The language of class names: by their script, else with py3langid."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from mll_hf.matching.datasets import known_datasets
from mll_hf.matching.lint import scripts_of
from mll_hf.matching.prompts import clean_class_name
from mll_hf.matching.senses import english_words
from mll_hf.matching.words import stems
from mll_hf.models.domains import is_binomial
from mll_hf.models.known import records

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGLISH = "en"
_LATIN_NAMES = "la"  # of species and diseases, in English lists
_LATIN = "LATIN"
_AMBIGUOUS = ("LATIN", "CYRILLIC", "ARABIC")  # scripts in which the detector tells languages apart
# Of the words of lists in other languages at most half are in WordNet too, of those in French up to .8
_ENGLISH_SHARE, _FRENCH = 0.5, "fr"
_ENGLISH_MARGIN = (5.0, 20.0)  # log-likelihood by which another language must be likelier: at least, times that share
_PRIOR = 8.0  # log-likelihood for each e-fold of named classes, measured on lists of names in 18 languages
_FEW_NAMES, _FEW_MARGIN = 2, 2.0  # for so few names, of two languages as close the one with more named classes
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
    share = _english_share(names) if script == _LATIN else 0.0
    if share == 1:
        return ENGLISH
    written = [language for language in languages() if script in language.scripts]
    if script in _AMBIGUOUS:
        return _detect(names, written, share)
    return written[0].code if written else ""


def _english_share(names: Sequence[str]) -> float:
    """Share of the words that are in a name of WordNet or of a known dataset."""
    words = {word for name in names for word in stems(name) if len(word) > 1 and word.isalpha()}
    return len(words & _vocabulary()) / len(words) if words else 1.0


@cache
def _vocabulary() -> frozenset[str]:
    names = (name for dataset in known_datasets() for spellings in dataset.classes for name in spellings)
    return english_words().union(*(stems(clean_class_name(name)) for name in names))


def _detect(names: Sequence[str], written: Sequence[Language], english_share: float) -> str:
    """The likeliest of some languages."""
    texts = (" ".join(dict.fromkeys(name.split()))[:_MOST_LETTERS] for name in names)  # no word counts twice
    found = dict(_identifier().rank(". ".join(texts) + "."))
    scores = {each.code: found[each.code] + _PRIOR * math.log(each.classes) for each in written if each.code in found}
    best, second = sorted(scores, key=scores.__getitem__, reverse=True)[:2]
    least, per_share = _ENGLISH_MARGIN
    if best != _FRENCH:
        least = math.inf if english_share > _ENGLISH_SHARE else max(least, per_share * english_share)
    if best == _LATIN_NAMES or scores[best] - scores.get(ENGLISH, -math.inf) < least:
        return ENGLISH
    is_sure = len(names) > _FEW_NAMES or scores[best] - scores[second] > _FEW_MARGIN
    return best if is_sure else next(each.code for each in written if each.code in (best, second))


@cache
def _identifier() -> Any:  # noqa: ANN401 - py3langid has no types
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # takes half a second

    return LanguageIdentifier.from_model_file(MODEL_FILE)
