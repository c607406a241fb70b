"""How well class names find their concepts: the names of ImageNet's classes among the concepts of ImageNet-12k.

Names come from open_clip (curated by its authors), wnids, lemmas and glosses from timm; both ship in the packages. The
hypernym edges are in neither: without WordNet's own files the graph has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.describe import from_templates
from mll_hf.errors import InputError, MissingExtraError
from mll_hf.graph import Concept, SemanticGraph
from mll_hf.matching import ConceptIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.describe import Description
    from mll_hf.matching import ClassMatch
    from mll_hf.text_encoder import TextEncoder

_TASK_SIZE = 100


@dataclass(frozen=True)
class Gold:
    """Class names whose concepts are known.

    Attributes:
        graph: The V concepts.
        names: C class names; some classes share a name.
        concepts: [C] index of each class's concept.
    """

    graph: SemanticGraph
    names: tuple[str, ...]
    concepts: NDArray[np.int64]

    def describe(self) -> tuple[Description, ...]:
        """The names in the templates that a user without descriptions gets."""
        return from_templates(self.names, self.graph)


@dataclass(frozen=True, slots=True)
class Detection:
    """How well a score tells positives from negatives.

    Attributes:
        precision: Share of positives among what reaches the threshold; 0 if nothing does.
        recall: Share of the positives that reach it.
        auc: How often a positive scores above a negative; ties count half.
    """

    precision: float
    recall: float
    auc: float


def imagenet_gold(wordnet: Path | None = None) -> Gold:
    """ImageNet's 1,000 classes among the 11,828 concepts of ImageNet-12k and ImageNet-1k.

    Args:
        wordnet: Folder with WordNet 3.0's ``data.noun`` for the hypernym edges; without it the graph has none.

    Raises:
        InputError: There is no ``data.noun``.
        MissingExtraError: open_clip or timm is not installed.
    """
    try:
        from open_clip import IMAGENET_CLASSNAMES
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise MissingExtraError("open-clip-torch", "models") from error

    classes, larger = ImageNetInfo("imagenet-1k"), ImageNetInfo("imagenet-12k")
    ids = classes.label_names()
    lemmas, glosses = dict[str, tuple[str, ...]](), dict[str, str]()
    for info in (classes, larger):
        for id in info.label_names():
            lemmas[id] = tuple(lemma.strip() for lemma in info.label_name_to_description(id, False).split(","))
            glosses[id] = info.label_name_to_description(id, True).split(": ", 1)[-1]
    edges = _nearest_kept(read_hypernyms(wordnet), lemmas.keys()) if wordnet else {}
    graph = SemanticGraph(
        "imagenet-12k", tuple(Concept(id, lemmas[id][0], lemmas[id], glosses[id], edges.get(id, ())) for id in lemmas)
    )
    return Gold(graph, tuple(IMAGENET_CLASSNAMES), np.array([graph.index[id] for id in ids]))


def read_hypernyms(wordnet: Path) -> dict[str, tuple[str, ...]]:
    """Direct hypernyms of every noun synset, by wnid, from ``data.noun`` (its format: man page wndb(5)).

    Raises:
        InputError: The file cannot be read.
    """
    try:
        lines = (wordnet / "data.noun").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {wordnet / 'data.noun'} ({error.strerror}); give WordNet's own folder") from None
    hypernyms = {}
    for line in lines:
        if not line.startswith("  "):  # the licence
            fields = line.split(" | ")[0].split()
            first = 5 + 2 * int(fields[3], 16)  # after the words and the number of pointers: symbol, offset, ...
            pointers = zip(fields[first::4], fields[first + 1 :: 4], strict=False)
            hypernyms[f"n{fields[0]}"] = tuple(f"n{offset}" for symbol, offset in pointers if symbol in ("@", "@i"))
    return hypernyms


def top_accuracy(match: ClassMatch, concepts: NDArray[np.int64], k: int) -> float:
    """Share of classes whose concept is among the ``k`` best of a match."""
    return float((match.concepts[:, :k] == concepts[:, None]).any(axis=1).mean())


def leave_concepts_out(gold: Gold, encoder: TextEncoder) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coverage of classes that the graph has, and of the same classes after it lost them.

    Classes come as tasks of 100. Each is matched with the whole graph, and with the graph less the concepts of its
    classes and all their ancestors and descendants. What remains, siblings included, is not the class: it counts as
    uncovered.

    Returns:
        [C] coverage with, and [C] without the own concepts.
    """
    whole = ConceptIndex.build(gold.graph, encoder)
    order = np.random.default_rng(0).permutation(len(gold.names))
    covered: list[NDArray[np.float32]] = []
    uncovered: list[NDArray[np.float32]] = []
    for at in range(0, len(order), _TASK_SIZE):
        classes = order[at : at + _TASK_SIZE]
        lost = {r for v in gold.concepts[classes].tolist() for r in (v, *gold.graph.relatives(v).tolist())}
        rest = ConceptIndex.build(without(gold.graph, lost), encoder)
        for index, coverage in ((whole, covered), (rest, uncovered)):
            names = [gold.names[y] for y in classes]
            coverage.append(index.match(from_templates(names, index.graph)).coverage)
    return np.concatenate(covered), np.concatenate(uncovered)


def without(graph: SemanticGraph, lost: Iterable[int]) -> SemanticGraph:
    """A graph without some concepts; the hypernyms of a lost concept become those of its hyponyms."""
    gone = set(lost)
    kept = [concept for v, concept in enumerate(graph.concepts) if v not in gone]
    hypernyms = _nearest_kept({c.id: c.hypernyms for c in graph.concepts}, [c.id for c in kept])
    return SemanticGraph(graph.name, tuple(replace(c, hypernyms=hypernyms[c.id]) for c in kept))


def detection(positives: NDArray[np.float32], negatives: NDArray[np.float32], threshold: float) -> Detection:
    """Precision and recall at a threshold, and the area under the ROC curve."""
    hits, false = int((positives >= threshold).sum()), int((negatives >= threshold).sum())
    above = np.searchsorted(np.sort(negatives), positives, side="left")
    not_below = np.searchsorted(np.sort(negatives), positives, side="right")
    auc = (above + not_below).sum() / (2 * len(positives) * len(negatives))
    return Detection(hits / max(hits + false, 1), hits / len(positives), float(auc))


def _nearest_kept(hypernyms: Mapping[str, tuple[str, ...]], kept: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The hypernyms of each kept concept, those that are not kept replaced by theirs."""
    kept = set(kept)

    def nearest(id: str) -> set[str]:
        return {k for h in hypernyms.get(id, ()) for k in ({h} if h in kept else nearest(h))}

    return {id: tuple(sorted(nearest(id))) for id in kept}
