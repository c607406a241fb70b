"""The semantic graph: visual concepts and their hypernyms.

Graphs are immutable. Concepts are sorted by id, so files with the same content have the same graph, digest and columns
in labels.

Hypernyms may be ids in another graph: a graph of letters or of a company's parts, for example, has roots with hypernyms
in WordNet. :class:`GraphUnion` resolves them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import GraphError
from mll_hf.graph.probe_counts import ProbeCounts, probe_counts_from_json
from mll_hf.utils.arrays import read_only
from mll_hf.utils.files import canonical_json, parse_json
from mll_hf.utils.text import abridged, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

GRAPH_FILE = "graph.json"
_MAX_ANCESTORS = 15 * 10**5  # in total; a graph of 30,000 WordNet concepts has a fifth of this
_MAX_NAME = 100  # characters of a graph's name


@dataclass(frozen=True, slots=True)
class Concept:
    """A visual concept."""

    id: str  # of WordNet 3.0 (n02084071), or any other unique id
    lemmas: tuple[str, ...]  # all names of the concept, the most common one first
    definition: str  # the gloss
    hypernyms: tuple[str, ...]  # ids of the direct hypernyms, sorted and distinct

    def __post_init__(self) -> None:
        object.__setattr__(self, "hypernyms", tuple(sorted(set(self.hypernyms))))

    @property
    def name(self) -> str:
        """The most common name."""
        return self.lemmas[0]

    @property
    def caption(self) -> str:
        """The text that models embed (paper, section 5.2): ``"{name} which is {definition}"``, or the name alone."""
        return f"{self.name} which is {self.definition}" if self.definition else self.name


@dataclass(frozen=True)
class SemanticGraph:
    """Concepts and the relations between them."""

    name: str  # for display; not part of the digest
    concepts: tuple[Concept, ...]  # the V concepts, sorted by id; an index v always means concepts[v]
    probes: ProbeCounts | None = field(default=None, compare=False, repr=False)  # if known; not part of the digest

    def __post_init__(self) -> None:
        object.__setattr__(self, "concepts", tuple(sorted(self.concepts, key=lambda concept: concept.id)))
        if not self.concepts:
            raise GraphError("the graph has no concepts; add at least one node")
        if len(self.index) < len(self.concepts):
            repeated = [id for id, count in Counter(c.id for c in self.concepts).items() if count > 1]
            raise GraphError(f"the graph has duplicate ids: {_listed(repeated)}")
        try:
            _ = self.topological_order, self.digest
        except CycleError:
            raise GraphError("the hypernyms form a cycle; a concept cannot be its own ancestor") from None
        except UnicodeEncodeError as error:
            raise GraphError(f"contains invalid Unicode ({error.reason}); repair its names and glosses") from None
        if unknown := (self.probes.images.keys() if self.probes else set()) - self.index.keys():
            raise GraphError(f"'probes' has unknown concepts: {_listed(unknown)}; publish the graph again")

    def __len__(self) -> int:
        return len(self.concepts)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Index of each concept by id."""
        return {concept.id: v for v, concept in enumerate(self.concepts)}

    @cached_property
    def digest(self) -> str:
        """Sha256 (64 hex digits) of the ids, names, glosses and hypernyms of all concepts."""
        fields = [[c.id, c.name, list(c.lemmas), c.definition, list(c.hypernyms)] for c in self.concepts]
        return hashlib.sha256(json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()

    def with_probes(self, probes: ProbeCounts) -> SemanticGraph:
        """The same graph with counts of these probe images."""
        return self if self.probes == probes else replace(self, probes=probes)

    @cached_property
    def external(self) -> frozenset[str]:
        """Ids of hypernyms that are not in this graph."""
        return frozenset(h for c in self.concepts for h in c.hypernyms if h not in self.index)

    @cached_property
    def parents(self) -> tuple[tuple[int, ...], ...]:
        """For each concept, the indices of its direct hypernyms in this graph."""
        return tuple(tuple(sorted(self.index[h] for h in c.hypernyms if h in self.index)) for c in self.concepts)

    @cached_property
    def topological_order(self) -> tuple[int, ...]:
        """Indices with hypernyms before their hyponyms, level by level."""
        sorter = TopologicalSorter(dict.fromkeys(range(len(self)), ()))  # all concepts first, so that indices ascend
        for v, parents in enumerate(self.parents):
            sorter.add(v, *parents)
        return tuple(sorter.static_order())

    @cached_property
    def ancestors(self) -> tuple[NDArray[np.int32], ...]:
        """For each concept, the sorted indices of all its ancestors; a GraphError if they would not fit in memory."""
        above: list[frozenset[int]] = [frozenset()] * len(self)
        total = 0
        for v in self.topological_order:
            above[v] = frozenset(self.parents[v]).union(*(above[parent] for parent in self.parents[v]))
            total += len(above[v])
            if total > _MAX_ANCESTORS:
                raise GraphError(f"its {len(self)} concepts have too many hypernyms; use fewer levels")
        return tuple(_sorted_indices(indices) for indices in above)

    @cached_property
    def descendants(self) -> tuple[NDArray[np.int32], ...]:
        """For each concept, the sorted indices of all its descendants."""
        below: list[list[int]] = [[] for _ in self.concepts]
        for v, above in enumerate(self.ancestors):
            for ancestor in above:
                below[ancestor].append(v)
        return tuple(_sorted_indices(indices) for indices in below)

    @cached_property
    def rival_counts(self) -> NDArray[np.int32]:
        """[V] number of rivals of each concept: all concepts except itself and its relatives."""
        above = np.array([len(ancestors) for ancestors in self.ancestors], np.int32)
        below = np.bincount(np.concatenate(self.ancestors), minlength=len(self)).astype(np.int32)
        return read_only(len(self) - 1 - above - below)

    @cached_property
    def has_tests(self) -> NDArray[np.bool_]:
        """[V] whether a concept is tested on its images.

        In a graph with external hypernyms, concepts without rivals are not tested: no model can fail on *letter*, the
        hypernym of 26 letters. In other graphs they are, for compatibility with existing labels.
        """
        return (self.rival_counts > 0) | (not self.external)

    def pooled(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """[V, ...] sums of values [V, ...] over each concept and its descendants."""
        pools = own.copy()
        np.add.at(pools, np.concatenate(self.ancestors), np.repeat(own, list(map(len, self.ancestors)), axis=0))
        return pools

    @cached_property
    def probe_pools(self) -> NDArray[np.int64]:
        """[S, V] probe images of each domain and concept, including those of its descendants.

        Zero without :attr:`probes`, and where :attr:`has_tests` is false.
        """
        domains = list(self.probes.by_domain) if self.probes else []
        own = np.zeros((len(self), len(domains)), np.int64)
        if self.probes:
            column = [domains.index(domain) for domain, _ in self.probes.kinds]
            for concept, counts in self.probes.images.items():
                for kind, count in counts:
                    own[self.index[concept], column[kind]] += count
        return (self.pooled(own) * self.has_tests[:, None]).T

    @cached_property
    def _by_lemma(self) -> Mapping[str, tuple[int, ...]]:
        table: dict[str, list[int]] = {}
        for v, concept in enumerate(self.concepts):
            for lemma in {normalize_lemma(lemma) for lemma in concept.lemmas}:
                table.setdefault(lemma, []).append(v)
        return {lemma: tuple(indices) for lemma, indices in table.items()}

    def concepts_named(self, lemma: str) -> tuple[int, ...]:
        """Indices of the concepts with a lemma, ignoring case, underscores and hyphens."""
        return self._by_lemma.get(normalize_lemma(lemma), ())


@dataclass(frozen=True)
class GraphUnion:
    """G graphs and their union of U concepts; create it with :meth:`of`.

    Concepts with the same id are one concept, with the name and gloss of the first graph, and the lemmas and hypernyms
    of all.
    """

    graphs: tuple[SemanticGraph, ...]  # the reference first
    graph: SemanticGraph  # all their concepts

    @classmethod
    def of(cls, graphs: Sequence[SemanticGraph]) -> GraphUnion:
        """Build the union of graphs, the reference first; a GraphError if their hypernyms form a cycle."""
        if len(graphs) == 1:
            return cls(tuple(graphs), graphs[0])
        merged: dict[str, Concept] = {}
        for concept in (concept for graph in graphs for concept in graph.concepts):
            if first := merged.get(concept.id):
                lemmas = tuple(dict.fromkeys([*first.lemmas, *concept.lemmas]))
                concept = replace(first, lemmas=lemmas, hypernyms=(*first.hypernyms, *concept.hypernyms))
            merged[concept.id] = concept
        try:
            union = SemanticGraph(" + ".join(graph.name for graph in graphs), tuple(merged.values()))
            _ = union.ancestors
        except GraphError as error:
            names = " and ".join(graph.name for graph in graphs)
            raise GraphError(f"{names} cannot be used together: {error}") from None
        return cls(tuple(graphs), union)

    @cached_property
    def rows(self) -> NDArray[np.int32]:
        """[G, U] index of each concept of the union in each graph; -1 for missing concepts."""
        rows = [[graph.index.get(concept.id, -1) for concept in self.graph.concepts] for graph in self.graphs]
        return read_only(np.array(rows, np.int32))


def normalize_lemma(lemma: str) -> str:
    """Convert a lemma to lower case, and underscores, hyphens and repeated spaces to single spaces."""
    return " ".join(lemma.replace("_", " ").replace("-", " ").lower().split())


def load_graph(path: str | Path, name: str | None = None) -> SemanticGraph:
    """Read a graph from ``graph.json`` or the folder with it; a GraphError if it is missing or not a graph.

    ``name`` is the graph's if the file has none, and is used in errors; by default that of the folder.
    """
    file = Path(path)
    if file.is_dir():
        file = file / GRAPH_FILE
    where = name or file
    try:
        return graph_from_json(parse_json(file.read_bytes()), name or file.absolute().parent.name)
    except FileNotFoundError:
        raise GraphError(f"no {GRAPH_FILE} here; give the folder of a graph", name or path) from None
    except GraphError as error:
        raise GraphError(str(error), where) from None
    except (OSError, ValueError, RecursionError) as error:
        raise GraphError(f"cannot be read as JSON ({error}); fetch or build the graph again", where) from None


def graph_from_json(document: Any, default_name: str = "graph") -> SemanticGraph:  # noqa: ANN401 - parsed JSON
    """Parse a graph from JSON: ``{"nodes": [{id, names, gloss, hypernyms}]}``, optionally with ``probes``."""
    nodes = document.get("nodes") if isinstance(document, dict) else None
    if not isinstance(nodes, list):
        raise GraphError("has no list 'nodes'; a graph is {\"nodes\": [{id, names, gloss, hypernyms}]}")
    concepts = tuple(_concept_from_json(node, position) for position, node in enumerate(nodes))
    probes = probe_counts_from_json(document["probes"]) if document.get("probes") is not None else None
    graph = SemanticGraph(printable(str(document.get("name") or default_name))[:_MAX_NAME], concepts, probes)
    _ = graph.ancestors  # raises GraphError here rather than on first use
    return graph


def graph_to_bytes(graph: SemanticGraph) -> bytes:
    """The content of ``graph.json``, which :func:`graph_from_json` parses; equal graphs and counts give equal bytes."""
    nodes = [
        {"id": c.id, "names": list(c.lemmas), "gloss": c.definition, "hypernyms": list(c.hypernyms)}
        for c in graph.concepts
    ]
    document = {"name": graph.name, "nodes": nodes, **({"probes": graph.probes.to_json()} if graph.probes else {})}
    return canonical_json(document).encode()


def _concept_from_json(node: Any, position: int) -> Concept:  # noqa: ANN401 - parsed JSON
    if not isinstance(node, dict) or not isinstance(id := node.get("id"), str) or not id:
        raise GraphError(f"node {position} has no id; every node is an object with a unique text as id")
    names, gloss, hypernyms = node.get("names"), node.get("gloss", ""), node.get("hypernyms", [])
    if not _is_string_list(names) or not names or not all(names):
        raise GraphError(f"node {id} has no names; give a list with at least one")
    if not _is_string_list(hypernyms) or not isinstance(gloss, str):
        raise GraphError(f"node {id}: 'gloss' must be a text, and 'hypernyms' a list of ids")
    return Concept(id, tuple(names), gloss, tuple(hypernyms))


def _is_string_list(value: Any) -> bool:  # noqa: ANN401 - parsed JSON
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _sorted_indices(indices: Iterable[int]) -> NDArray[np.int32]:
    return read_only(np.array(sorted(indices), dtype=np.int32))


def _listed(items: Iterable[str]) -> str:
    return abridged(sorted(items), 3)
