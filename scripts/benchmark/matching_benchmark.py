"""Accuracy of matching: the class names of ImageNet against the concepts of ImageNet-12k.

``scripts/run_benchmark.py`` runs it as its part ``matching``.

Names are those of open_clip, which its authors curated. Wnids, lemmas and glosses come from timm. Neither has
hypernyms: the graph has them only if WordNet's files are given.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.metrics import scipy_part
from graph.wordnet import ClassList, class_wnids, leaf_names, read_nouns
from mll_hf.errors import MissingExtraError
from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.matching.concept_index import COVERED, ConceptIndex, LogitWeights
from mll_hf.matching.datasets import known_datasets
from mll_hf.matching.describe import Description, from_templates
from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder
from mll_hf.models.published import published_graph
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from mll_hf.matching.concept_index import ClassMatch
    from mll_hf.matching.text_encoder import TextEncoder

JUDGED = Path(__file__).with_name("judged_matches.csv")
"""Covered matches to class names of 40 datasets, drawn evenly over these (first sample) and at random (second), with
their coverage then: the concept is the class itself, near it (a part or a broader concept), or of another sense."""

_TASK_SIZE = 100
_BINS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the part ``matching``."""
    parser.add_argument(
        "--wordnet", type=Path, metavar="DIR", help="WordNet 3.0's folder with data.noun, for hypernyms"
    )
    parser.add_argument("--cache", type=Path, help="SQLite file of embeddings (default: the shared one)")
    parser.set_defaults(run=run_matching)


def run_matching(args: argparse.Namespace) -> None:
    """Print how often the right concept comes first, and how well coverage detects classes that the graph lacks."""
    gold = imagenet_gold(args.wordnet)
    encoder = CachedEncoder(DefaultEncoder(), args.cache, exact=True)
    index = ConceptIndex.build(gold.graph, encoder)
    bare = tuple(Description(name, (name,), "file") for name in gold.names)
    ways = {
        "paper: captions against the bare names": index.match_captions(bare),
        "paper: captions against templates with glosses": index.match_captions(gold.describe()),
        "ours": index.match(gold.describe()),
    }
    for field in fields(LogitWeights):
        ablated = replace(index, weights=replace(index.weights, **{field.name: 0.0}))
        ways[f"ours without {field.name}"] = ablated.match(gold.describe())
    rows = [[name, *(f"{top_accuracy(match, gold.concepts, k):.1%}" for k in (1, 5))] for name, match in ways.items()]
    print(f"{len(gold.names)} class names, {len(gold.graph):,} concepts, text encoder {encoder.id}")
    print(table(["match", "right concept first", "in the first five"], rows))
    covered, uncovered, right = leave_concepts_out(gold, encoder)
    facts = detection(covered, uncovered, COVERED)
    print(
        f"coverage of {COVERED} and more, concepts in the graph against concepts and relatives left out, 100 classes "
        f"at a time: precision {facts.precision:.3f}, recall {facts.recall:.3f}, AUC {facts.auc:.3f}"
    )
    predicted, actual = np.concatenate([covered, uncovered]), np.concatenate([right, np.zeros(len(right), np.bool_)])
    print("calibration of coverage: how often the best concept is the class itself, half of the classes left out")
    print(calibration_table(predicted, actual))
    indices = {"imagenet-12k": index, "imagenet-1k": _published_index(encoder)}
    for sample in ("first", "second"):
        counts = judged_and_covered(indices, sample)
        print(
            f"{sample} sample of covered matches, judged by hand:",
            *(f"{c.name} {c.covered} of {c.all}" for c in counts),
        )


@dataclass(frozen=True, slots=True)
class JudgedMatches:
    """Matches of one verdict: how many were covered when they were judged, and how many still are."""

    name: str
    all: int
    covered: int


def judged_and_covered(indices: Mapping[str, ConceptIndex], sample: str) -> list[JudgedMatches]:
    """Judged matches that are the same concept as then and covered, by verdict: same, near, wrong."""
    with JUDGED.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["sample"] == sample]
    covered = set[tuple[str, str, str, str]]()
    lists = {dataset.id: [spellings[0] for spellings in dataset.classes] for dataset in known_datasets()}
    for name, dataset in {(row["graph"], row["dataset"]) for row in rows}:
        graph, names = indices[name].graph, lists[dataset]
        match = indices[name].match(from_templates(names, graph))
        ids = [graph.concepts[v].id for v in match.concepts[:, 0]]
        found = zip(names, ids, match.coverage.tolist(), strict=True)
        covered |= {(name, dataset, of, id) for of, id, coverage in found if coverage >= COVERED}
    places = [(row["judged"], (row["graph"], row["dataset"], row["class"], row["concept"])) for row in rows]
    return [
        JudgedMatches(verdict, len(own), len(covered.intersection(own)))
        for verdict in ("same", "near", "wrong")
        if (own := [place for judged, place in places if judged == verdict])
    ]


def _published_index(encoder: TextEncoder) -> ConceptIndex:
    return ConceptIndex.build(published_graph(), encoder)


@dataclass(frozen=True)
class Gold:
    """Names whose concepts are known."""

    graph: SemanticGraph
    names: tuple[str, ...]  # C names; some concepts share a name
    concepts: NDArray[np.int64]  # [C] index of the concept of each name

    def describe(self) -> tuple[Description, ...]:
        """The default descriptions of the names."""
        return from_templates(self.names, self.graph)


@dataclass(frozen=True, slots=True)
class Detection:
    """How well a score separates positives from negatives."""

    precision: float  # share of positives among the scores from the threshold; 0 if there are none
    recall: float  # share of positives with a score from the threshold
    auc: float  # probability that a positive scores above a negative; ties count half


def imagenet_gold(wordnet: Path | None = None) -> Gold:
    """ImageNet's 1,000 classes among the 11,828 concepts of ImageNet-12k and ImageNet-1k.

    Args:
        wordnet: Folder of WordNet 3.0, for hypernyms; without it the graph has none.

    Raises:
        InputError: There is no ``data.noun``.
        MissingExtraError: open_clip or timm is not installed.
    """
    try:
        from open_clip import IMAGENET_CLASSNAMES
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise MissingExtraError("open-clip-torch", "models") from error

    lemmas, glosses = leaf_names(ClassList.IMAGENET_12K), dict[str, str]()
    for info in map(ImageNetInfo, ("imagenet-1k", "imagenet-12k")):
        glosses |= {id: info.label_name_to_description(id, True).split(": ", 1)[-1] for id in info.label_names()}
    synsets = read_nouns(wordnet) if wordnet else {}
    edges = _nearest_kept({id: synset.hypernyms for id, synset in synsets.items()}, lemmas)
    concepts = tuple(Concept(id, names, glosses[id], edges[id]) for id, names in lemmas.items())
    graph = SemanticGraph("imagenet-12k", concepts)
    classes = np.array([graph.index[id] for id in class_wnids(ClassList.IMAGENET_1K)])
    return Gold(graph, tuple(IMAGENET_CLASSNAMES), classes)


def top_accuracy(match: ClassMatch, concepts: NDArray[np.int64], k: int) -> float:
    """Share of classes whose concept is among the ``k`` best of a match."""
    return float((match.concepts[:, :k] == concepts[:, None]).any(axis=1).mean())


def leave_concepts_out(
    gold: Gold, encoder: TextEncoder
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Coverage of classes that are in the graph, and of the same classes after their removal.

    Classes form tasks of 100. Each task is matched with the whole graph, and with the graph without the concepts of its
    classes, their ancestors and their descendants. Siblings remain, but are not the class itself.

    Returns:
        [C] coverage with and [C] coverage without the concepts of the classes, and [C] bool, whether the best concept
        of the whole graph is that of the class.
    """
    whole = ConceptIndex.build(gold.graph, encoder)
    order = np.random.default_rng(0).permutation(len(gold.names))
    coverage, right = np.empty((2, len(order)), np.float32), np.empty(len(order), np.bool_)
    for at in range(0, len(order), _TASK_SIZE):
        classes = order[at : at + _TASK_SIZE]
        lost = {
            relative
            for v in gold.concepts[classes].tolist()
            for relative in (v, *gold.graph.ancestors[v].tolist(), *gold.graph.descendants[v].tolist())
        }
        rest = ConceptIndex.build(without(gold.graph, lost), encoder)
        names, rows = [gold.names[y] for y in classes], slice(at, at + _TASK_SIZE)
        match = whole.match(from_templates(names, whole.graph))
        coverage[0, rows], right[rows] = match.coverage, match.concepts[:, 0] == gold.concepts[classes]
        coverage[1, rows] = rest.match(from_templates(names, rest.graph)).coverage
    return coverage[0], coverage[1], right


def calibration_table(predicted: NDArray[np.float32], actual: NDArray[np.bool_]) -> str:
    """Bins of predicted probabilities [N], with the mean prediction and the actual share in each.

    The expected calibration error is the mean difference of the two, weighted by the number of cases.
    """
    bins = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
    cells = [(b, bins == b) for b in range(_BINS) if (bins == b).any()]
    means = [(float(predicted[cell].mean()), float(actual[cell].mean()), int(cell.sum())) for _, cell in cells]
    rows = [
        [f"{b / _BINS:.1f} to {(b + 1) / _BINS:.1f}", str(n), f"{expected:.2f}", f"{share:.2f}"]
        for (b, _), (expected, share, n) in zip(cells, means, strict=True)
    ]
    error = sum(n * abs(expected - share) for expected, share, n in means) / len(predicted)
    return table(["coverage", "classes", "predicted", "actual"], rows) + f"\nexpected calibration error {error:.3f}"


def without(graph: SemanticGraph, lost: Iterable[int]) -> SemanticGraph:
    """A graph without some concepts; their hyponyms are attached to their hypernyms."""
    gone = set(lost)
    kept = [concept for v, concept in enumerate(graph.concepts) if v not in gone]
    hypernyms = _nearest_kept({c.id: c.hypernyms for c in graph.concepts}, [c.id for c in kept])
    return SemanticGraph(graph.name, tuple(replace(c, hypernyms=hypernyms[c.id]) for c in kept))


def detection(positives: NDArray[np.float32], negatives: NDArray[np.float32], threshold: float) -> Detection:
    """Precision and recall at a threshold, and the area under the ROC curve."""
    hits, false = int((positives >= threshold).sum()), int((negatives >= threshold).sum())
    auc = scipy_part("stats").mannwhitneyu(positives, negatives).statistic / (len(positives) * len(negatives))
    return Detection(hits / max(hits + false, 1), hits / len(positives), float(auc))


def _nearest_kept(hypernyms: Mapping[str, tuple[str, ...]], kept: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Hypernyms of each kept concept; hypernyms that are not kept are replaced by theirs."""
    kept = set(kept)

    def nearest(id: str) -> set[str]:
        return {k for h in hypernyms.get(id, ()) for k in ({h} if h in kept else nearest(h))}

    return {id: tuple(sorted(nearest(id))) for id in kept}
