"""Compare names word by word: find the concepts that contain the words of a class name.

Two spellings are the same name if they have the same stems in the same order. This ignores case, hyphens, spaces,
plurals, possessives, and the most common differences between American and British spelling.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.matching.prompts import clean_class_name
from mll_hf.matching.senses import english_words, sense_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph

_FUNCTION_WORDS = frozenset({"a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"})
_IRREGULAR = {
    "buses": "bus", "calves": "calf", "children": "child", "elves": "elf", "feet": "foot", "geese": "goose",
    "grey": "gray", "halves": "half", "hooves": "hoof", "knives": "knife", "leaves": "leaf", "lice": "louse",
    "loaves": "loaf", "mice": "mouse", "oxen": "ox", "people": "person", "scarves": "scarf", "shelves": "shelf",
    "teeth": "tooth", "thieves": "thief", "wives": "wife", "wolves": "wolf",
}  # fmt: skip
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\w\w)ies$", "y"),
        (r"(?<=[cs]h|ss)es$|(?<=[xz])es$", ""),
        (r"(?<=\w{3})(?<![su])s$", ""),
        (r"men$", "man"),
        (r"(?<=[a-z]{2})our$", "or"),  # colour, harbour
        (r"(?<=[bt])re$", "er"),  # fibre, theatre
    )
)
_POSSESSIVE = re.compile(r"(?<=\w)['’]s?\b")
_WORD = re.compile(r"[^\W_]+")


def stems(text: str) -> tuple[str, ...]:
    """The words of a text in their base forms: ``"Geoffroy's Spider-Monkeys"`` -> geoffroy, spider, monkey."""
    return tuple(map(_stem, _WORD.findall(_POSSESSIVE.sub("", text.lower()))))


def name_key(name: str) -> str:
    """What all spellings of a class name have in common: its joined stems."""
    return "".join(stems(clean_class_name(name)))


def have_english_words(names: Sequence[str]) -> list[bool]:
    """[C] whether at least half of the words of a name are English; numbers and single letters are not.

    Words that all names share (class 0, class 1) do not count, as they tell nothing apart.
    """
    words = [stems(clean_class_name(name)) for name in names]
    shared = set(words[0]).intersection(*words[1:]) if len(words) > 1 else set()
    return [_are_english([word for word in own if word not in shared] or own) for own in words]


def _are_english(words: Sequence[str]) -> bool:
    return 2 * sum(word in english_words() for word in words) >= max(len(words), 1)


def is_part(name: str, lemmas: Iterable[str]) -> bool:
    """Whether a name is a part of another one, but not equal to it: "rose" and "rose hip", "deer" and "deerhound"."""
    own, key = set(stems(clean_class_name(name))), name_key(name)
    others = [(set(stems(lemma)), name_key(lemma)) for lemma in lemmas]
    return any(own < words or (other != key and other.startswith(key)) for words, other in others)


def number_variants(word: str) -> Iterator[str]:
    """Possible singulars of a noun, then its regular plural; some are not words."""
    lower = word.lower()
    yield _stem(lower)
    if lower.endswith("s") and not lower.endswith("ss"):
        yield lower[:-1]
    if re.search(r"\w(?:[cs]h|[sxzo])es$", lower):
        yield lower[:-2]
    yield f"{lower}s"  # binocular: WordNet only has binoculars


@lru_cache(1 << 16)  # the texts of a graph repeat the same words
def _stem(word: str) -> str:
    word = _IRREGULAR.get(word, word)
    for pattern, replacement in _REWRITES:
        word = pattern.sub(replacement, word)
    return word


@dataclass(frozen=True)
class WordIndex:
    """Index of the words of a graph.

    Attributes:
        named: Joined stems of a lemma -> indices of the concepts with this lemma, ascending.
        holding: Stem -> indices of the concepts with this stem in a lemma, the gloss, or a lemma of an ancestor.
        weights: Stem -> its inverse document frequency, ``log(1 + L / l)`` if ``l`` of ``L`` lemmas have it.
        unknown: Weight of stems that are not in any lemma.
    """

    graph: SemanticGraph
    named: Mapping[str, list[int]]
    holding: Mapping[str, list[int]]
    weights: Mapping[str, float]
    unknown: float

    @classmethod
    def build(cls, graph: SemanticGraph) -> WordIndex:
        """Index a graph in one pass over its texts."""
        lemmas = [[stems(lemma) for lemma in concept.lemmas] for concept in graph.concepts]
        words = [frozenset(stem for lemma in names for stem in lemma) for names in lemmas]
        named: defaultdict[str, list[int]] = defaultdict(list)
        holding: defaultdict[str, list[int]] = defaultdict(list)
        counts: Counter[str] = Counter()
        for v, concept in enumerate(graph.concepts):
            for lemma in lemmas[v]:
                counts.update(set(lemma))
            for name in {"".join(lemma) for lemma in lemmas[v]}:
                named[name].append(v)
            for stem in words[v].union(stems(concept.definition), *(words[a] for a in graph.ancestors[v].tolist())):
                holding[stem].append(v)
        n_lemmas = sum(map(len, lemmas))
        weights = {stem: float(np.log1p(n_lemmas / count)) for stem, count in counts.items()}
        return cls(graph, dict(named), dict(holding), weights, float(np.log1p(n_lemmas)))

    def sense_share(self, name: str, concept: int) -> float:
        """How often a name means a concept, see :func:`~mll_hf.matching.senses.sense_share`; 0 if it is not its name.

        Single letters name nothing.
        """
        key = name_key(name)
        is_name = len(key) > 1 and concept in self.named.get(key, ())
        return sense_share(self.graph.concepts[concept].id, key) if is_name else 0.0

    def word_shares(self, name: str) -> NDArray[np.float32]:
        """[V] weighted share of a name's words found in a concept's lemmas, gloss, or ancestors' lemmas."""
        shares = np.zeros(len(self.graph), np.float32)
        words = self._weighted(stems(clean_class_name(name)))
        for stem, weight in words.items():
            shares[self.holding.get(stem, [])] += weight
        return shares / (sum(words.values()) or 1.0)

    def head_shares(self, name: str) -> NDArray[np.float32]:
        """[V] weighted share of a name's words in its longest head that is a lemma of the concept; 0 if there is none.

        A head is a suffix of the name without parentheses: "red bell pepper" has the heads "pepper", "bell pepper" and
        "red bell pepper". The share is 1 if the whole name is a lemma of the concept.
        """
        name = clean_class_name(name)
        words = stems(re.sub(r"\([^)]*\)", " ", name))
        total = sum(self._weighted(stems(name)).values()) or 1.0
        shares = np.zeros(len(self.graph), np.float32)
        for start in reversed(range(len(words))):  # longer heads come later and overwrite shorter ones
            concepts = self.named.get("".join(words[start:]), [])
            shares[concepts] = sum(self._weighted(words[start:]).values()) / total
        shares[self.named.get(name_key(name), [])] = 1.0
        return shares

    def _weighted(self, words: Iterable[str]) -> dict[str, float]:
        """Weight of each distinct word; 0 for function words."""
        return {w: 0.0 if w in _FUNCTION_WORDS else self.weights.get(w, self.unknown) for w in words}
