"""The semantic graph: visual concepts of WordNet and their hypernym edges.

A graph is an immutable value. Its concepts are kept in the order of their ids, whatever order they came in, so
that two files with the same content give the same graph, the same digest and the same columns in every label.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mll_hf.errors import GraphError
from mll_hf.utils.files import canonical_json, write_atomically
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

GRAPH_FILE = "graph.json"
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Concept:
    """A visual concept.

    Attributes:
        id: WordNet 3.0 id (``n02084071``), or any other unique id for a concept of one's own.
        name: The lemma that people use first.
        lemmas: All names of the concept, ``name`` first.
        definition: The gloss.
        hypernyms: Ids of the direct parents; kept sorted and distinct, whatever order they come in.
    """

    id: str
    name: str
    lemmas: tuple[str, ...]
    definition: str
    hypernyms: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "hypernyms", tuple(sorted(set(self.hypernyms))))

    @property
    def caption(self) -> str:
        """The text that stands for the concept (paper, section 5.2): ``"{name} which is {definition}"``.

        Without a definition it is the name alone.
        """
        return f"{self.name} which is {self.definition}" if self.definition else self.name


@dataclass(frozen=True)
class SemanticGraph:
    """Concepts in id order, with everything that follows from their hypernym edges.

    Attributes:
        name: A name for people; it does not enter the digest.
        concepts: The V concepts, sorted by id. An index ``v`` everywhere means ``concepts[v]``.
    """

    name: str
    concepts: tuple[Concept, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "concepts", tuple(sorted(self.concepts, key=lambda concept: concept.id)))
        if not self.concepts:
            raise GraphError("the graph has no concepts; add at least one node")
        if len(self.index) < len(self.concepts):
            raise GraphError(f"the graph has duplicate ids: {_some(_duplicates(c.id for c in self.concepts))}")
        if misnamed := [c.id for c in self.concepts if c.lemmas[:1] != (c.name,)]:
            raise GraphError(f"concepts whose name is not their first lemma: {_some(misnamed)}; put the name first")
        unknown = {h for c in self.concepts for h in c.hypernyms if h not in self.index}
        if unknown:
            raise GraphError(f"hypernyms that are not nodes of the graph: {_some(unknown)}; add them or drop the edges")
        if len(self.topological_order) < len(self.concepts):
            raise GraphError("the hypernym edges form a cycle; a concept cannot be its own ancestor")
        try:
            _ = self.digest
        except UnicodeEncodeError as error:
            raise GraphError(f"holds text that is no Unicode ({error.reason}); repair its names and glosses") from None

    def __len__(self) -> int:
        return len(self.concepts)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Id of a concept -> its index."""
        return {concept.id: v for v, concept in enumerate(self.concepts)}

    @cached_property
    def digest(self) -> str:
        """Sha256 (64 hex digits) of the canonical form: names, glosses and edges, in id order."""
        return concepts_digest(self.concepts)

    @cached_property
    def parents(self) -> tuple[tuple[int, ...], ...]:
        """For each concept the indices of its direct hypernyms."""
        return tuple(tuple(sorted(self.index[h] for h in c.hypernyms)) for c in self.concepts)

    @cached_property
    def topological_order(self) -> tuple[int, ...]:
        """Indices with every hypernym before its hyponyms; shorter than V if the edges form a cycle."""
        children: list[list[int]] = [[] for _ in self.concepts]
        waiting = [len(parents) for parents in self.parents]
        for v, parents in enumerate(self.parents):
            for parent in parents:
                children[parent].append(v)
        order = [v for v, count in enumerate(waiting) if count == 0]
        for v in order:
            for child in children[v]:
                waiting[child] -= 1
                if waiting[child] == 0:
                    order.append(child)
        return tuple(order)

    @cached_property
    def ancestors(self) -> tuple[NDArray[np.int32], ...]:
        """For each concept the sorted indices of all concepts above it, itself left out."""
        above: list[frozenset[int]] = [frozenset()] * len(self)
        for v in self.topological_order:
            above[v] = frozenset(self.parents[v]).union(*(above[parent] for parent in self.parents[v]))
        return tuple(_sorted_indices(indices) for indices in above)

    @cached_property
    def descendants(self) -> tuple[NDArray[np.int32], ...]:
        """For each concept the sorted indices of all concepts below it, itself left out."""
        below: list[list[int]] = [[] for _ in self.concepts]
        for v, above in enumerate(self.ancestors):
            for ancestor in above:
                below[ancestor].append(v)
        return tuple(_sorted_indices(indices) for indices in below)

    def relatives(self, v: int) -> NDArray[np.int32]:
        """Ancestors and descendants of concept ``v``: on an image of ``v`` they are no wrong answers."""
        return np.union1d(self.ancestors[v], self.descendants[v]).astype(np.int32)

    @cached_property
    def _by_lemma(self) -> Mapping[str, tuple[int, ...]]:
        table: dict[str, list[int]] = {}
        for v, concept in enumerate(self.concepts):
            for lemma in {normalize_lemma(lemma) for lemma in concept.lemmas}:
                table.setdefault(lemma, []).append(v)
        return {lemma: tuple(indices) for lemma, indices in table.items()}

    def concepts_named(self, lemma: str) -> tuple[int, ...]:
        """Indices of the concepts that carry a lemma, whatever its case, underscores and hyphens."""
        return self._by_lemma.get(normalize_lemma(lemma), ())


def concepts_digest(concepts: Sequence[Concept]) -> str:
    """Sha256 (64 hex digits) of the canonical form of concepts in id order: names, glosses and edges.

    Raises:
        UnicodeEncodeError: A text is no Unicode.
    """
    fields = [[c.id, c.name, list(c.lemmas), c.definition, list(c.hypernyms)] for c in concepts]
    return hashlib.sha256(json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def normalize_lemma(lemma: str) -> str:
    """Bring a lemma into the form that look-ups compare: lower case, single blanks."""
    return " ".join(lemma.replace("_", " ").replace("-", " ").lower().split())


def load_graph(path: str | Path, name: str | None = None) -> SemanticGraph:
    """Read a graph from ``graph.json`` or from the folder that holds it.

    Args:
        path: The file or folder.
        name: What to call the graph, here and in messages, if the file does not name it; by default as the folder.

    Raises:
        GraphError: The file is missing, is no JSON, or does not describe a graph.
    """
    return read_graph_file(path, name, graph_from_json)


def read_graph_file(path: str | Path, name: str | None, parse: Callable[[Any, str], Parsed]) -> Parsed:
    """Read ``graph.json``, given itself or by its folder, and build what it describes.

    Args:
        path: The file or folder.
        name: What to call it in messages; by default its path.
        parse: Gives what the parsed JSON describes; its second argument is a name for things without one.

    Raises:
        GraphError: The file is missing, is no JSON, or ``parse`` refuses it.
    """
    file = Path(path)
    if file.is_dir():
        file = file / GRAPH_FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GraphError(f"there is no {GRAPH_FILE}; give the folder of a graph", Path(name or path)) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = f"cannot be read as JSON ({error}); fetch or build the graph again"
        raise GraphError(reason, Path(name) / GRAPH_FILE if name else file) from None
    try:
        return parse(document, name or file.absolute().parent.name)
    except GraphError as error:
        raise GraphError(str(error), Path(name) / GRAPH_FILE if name else file) from None


def graph_from_json(document: Any, default_name: str = "graph") -> SemanticGraph:  # noqa: ANN401 - parsed JSON
    """Build a graph from the parsed content of ``graph.json``: ``nodes[]`` with id, names, gloss and hypernyms.

    Raises:
        GraphError: A field is missing or has a wrong type.
    """
    concepts = concepts_from_json(document)
    return SemanticGraph(str(document.get("name") or default_name), concepts)


def concepts_from_json(document: Any) -> tuple[Concept, ...]:  # noqa: ANN401 - parsed JSON
    """The concepts in the parsed content of ``graph.json``, in its order.

    Raises:
        GraphError: A field is missing or has a wrong type.
    """
    nodes = document.get("nodes") if isinstance(document, dict) else None
    if not isinstance(nodes, list):
        raise GraphError("has no list 'nodes'; a graph is {\"nodes\": [{id, names, gloss, hypernyms}]}")
    return tuple(_concept_from_json(node, at) for at, node in enumerate(nodes))


def graph_to_json(graph: SemanticGraph) -> dict[str, Any]:
    """The content of ``graph.json``; :func:`graph_from_json` gives the same graph back."""
    return {"name": graph.name, "nodes": concepts_to_json(graph.concepts)}


def concepts_to_json(concepts: Iterable[Concept]) -> list[dict[str, Any]]:
    """The list ``nodes`` of ``graph.json``."""
    return [
        {"id": c.id, "names": list(c.lemmas), "gloss": c.definition, "hypernyms": list(c.hypernyms)} for c in concepts
    ]


def graph_to_bytes(graph: SemanticGraph) -> bytes:
    """The file ``graph.json``; the same graph always gives the same bytes."""
    return canonical_json(graph_to_json(graph)).encode()


def save_graph(graph: SemanticGraph, folder: Path) -> None:
    """Write ``graph.json`` into a folder, atomically.

    Raises:
        StorageError: The folder cannot be written.
    """
    write_atomically(folder / GRAPH_FILE, graph_to_bytes(graph))


def _concept_from_json(node: Any, position: int) -> Concept:  # noqa: ANN401 - parsed JSON
    if not isinstance(node, dict):
        raise GraphError(f"node {position} is no object with id, names, gloss and hypernyms")
    names, hypernyms = node.get("names"), node.get("hypernyms", [])
    if not isinstance(node.get("id"), str) or not node["id"]:
        raise GraphError(f"node {position} has no id; every node needs a unique string")
    if not _is_strings(names) or not names or not all(names):
        raise GraphError(f"node {node['id']} has no names; give a list with at least one")
    if not _is_strings(hypernyms):
        raise GraphError(f"node {node['id']}: 'hypernyms' must be a list of ids")
    if not isinstance(node.get("gloss", ""), str):
        raise GraphError(f"node {node['id']}: 'gloss' must be a text")
    return Concept(node["id"], names[0], tuple(names), node.get("gloss", ""), tuple(hypernyms))


def _is_strings(value: Any) -> bool:  # noqa: ANN401 - parsed JSON
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _sorted_indices(indices: Iterable[int]) -> NDArray[np.int32]:
    array = np.array(sorted(indices), dtype=np.int32)
    array.setflags(write=False)
    return array


def _duplicates(items: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    return {item for item in items if item in seen or seen.add(item)}  # type: ignore[func-returns-value]


def _some(items: Iterable[str]) -> str:
    return abridged(sorted(items), 3)
