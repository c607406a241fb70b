"""Create or extend a graph of concepts, each with a folder of images.

Images are first written to new files; then ``graph.json``, which lists the files of the graph, is replaced atomically.
So a graph is never partially updated, and repeating the command completes an interrupted run.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import GraphError, InputError, MissingExtraError
from mll_hf.graph.concepts import GRAPH_FILE, Concept, SemanticGraph, graph_to_json, load_graph
from mll_hf.graph.files import IMAGE_FILES, IMAGE_LIST, image_files, image_schema, iter_filed_images
from mll_hf.graph.union import GraphUnion
from mll_hf.utils.files import canonical_json, write_atomically
from mll_hf.utils.images import decode_image
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

MIN_CONCEPT_IMAGES = 5  # with fewer, a single image changes the recall by 25 % or more
_ROWS_PER_GROUP = 100


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to add.

    Attributes:
        content: The encoded image.
        name: Name for errors.
        domain: Its style: photo, drawing, icon ...
        source: Its origin and license. Samples are balanced over sources.
    """

    content: bytes
    name: str
    domain: str
    source: str


@dataclass(frozen=True, slots=True)
class NewConcept:
    """A concept to add, with its images."""

    concept: Concept
    images: tuple[NewImage, ...]


@dataclass(frozen=True, slots=True)
class Addition:
    """Result of adding to a graph.

    Attributes:
        graph: The new graph.
        concepts: Number of new and changed concepts.
        images: Number of new images.
    """

    graph: SemanticGraph
    concepts: int
    images: int


# --- input ------------------------------------------------------------------------------------------------------------


def read_images(folder: Path, domain: str, source: str | None = None) -> tuple[NewImage, ...]:
    """Read all files in a folder and its subfolders, except hidden ones. The default source is the folder's name.

    Raises:
        InputError: The folder cannot be read.
    """
    try:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; give a folder with the images of a concept")
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return tuple(NewImage(path.read_bytes(), str(path), domain, source or folder.absolute().name) for path in files)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); check the path") from None


def read_folders(
    root: Path, parents: Sequence[str], domain: str = "photo", source: str | None = None
) -> tuple[NewConcept, ...]:
    """One concept for each subfolder of a folder: its name is id and, with spaces for ``_``, name of the concept.

    Raises:
        InputError: There are no subfolders, or the folder cannot be read.
    """
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{root} cannot be read ({error.strerror}); check the path") from None
    if not folders:
        raise InputError(f"{root} has no subfolders; give a folder with a folder of images for each concept")
    return tuple(
        new_concept(path.name, path.name.replace("_", " "), (), "", parents, read_images(path, domain, source))
        for path in folders
    )


def new_concept(
    id: str, name: str, lemmas: Iterable[str], description: str, parents: Iterable[str], images: Iterable[NewImage] = ()
) -> NewConcept:
    """A concept to add; its name is added to the lemmas."""
    concept = Concept(id, name, tuple(dict.fromkeys([name, *lemmas])), description, tuple(parents))
    return NewConcept(concept, tuple(images))


# --- adding -----------------------------------------------------------------------------------------------------------


def add_to_graph(folder: Path, new: Iterable[NewConcept], base: SemanticGraph | None = None) -> Addition:
    """Add concepts and images to a graph, or create it. Images that the graph already has are skipped.

    Existing concepts get the new texts and hypernyms and keep their images.

    Hypernyms may be in ``base``. Without it, they must be in the graph, or already be hypernyms of its concepts.

    Raises:
        GraphError: A hypernym is missing, hypernyms form a cycle, an image cannot be decoded, or a new concept has too
            few images.
        StorageError: The folder cannot be written.
    """
    new = tuple(new)
    old = load_graph(folder) if (folder / GRAPH_FILE).exists() else None
    before = {concept.id: concept for concept in old.concepts} if old else {}
    concepts = before | {each.concept.id: each.concept for each in new}
    try:
        graph = SemanticGraph(old.name if old else folder.absolute().name, tuple(concepts.values()))
        check_hypernyms(graph, base, old.external if old else frozenset())
    except GraphError as error:
        raise GraphError(str(error), folder) from None
    present = {(node, _hash(content or b"")) for node, content in iter_filed_images(folder)} if old else set()
    images = _new_images(new, present)
    counts = pooled_counts(graph, Counter(id for id, _ in present) + Counter(id for id, _ in images))
    _check_counts({each.concept.id: counts[each.concept.id] for each in new}, folder)
    files = [path.name for path in image_files(folder)] if old else []
    if images:
        files.append(_write_images(images, folder))
    document = {**graph_to_json(graph), IMAGE_LIST: sorted(files)}
    write_atomically(folder / GRAPH_FILE, canonical_json(document).encode())
    changed = sum(before.get(id) != concept for id, concept in concepts.items())
    return Addition(graph, changed, len(images))


def check_graph(graph: SemanticGraph, folder: Path, base: SemanticGraph | None = None) -> None:
    """Check that a graph and its images in a folder can be used for labels.

    Hypernyms that are not in the graph must be in ``base``, if given.

    Raises:
        GraphError: An image cannot be decoded, a concept has too few images, no concept has rivals, or hypernyms are
            missing or form a cycle.
    """
    own: Counter[str] = Counter()
    undecodable = 0
    for node, content in iter_filed_images(folder):
        own[node] += 1
        undecodable += decode_image(content) is None
    if undecodable:
        raise GraphError(f"{undecodable} images cannot be decoded; build the graph again without them", folder)
    if unknown := own.keys() - graph.index.keys():
        raise GraphError(f"images of unknown nodes: {abridged(sorted(unknown), 3)}; add these concepts", folder)
    counts = pooled_counts(graph, own)
    _check_counts(counts, folder)
    if not graph.rival_counts.any():
        raise GraphError("has no concepts that can be confused; add more concepts", folder)
    if base:
        check_hypernyms(graph, base)


def check_hypernyms(graph: SemanticGraph, base: SemanticGraph | None, known: frozenset[str] = frozenset()) -> None:
    """Raise a GraphError if hypernyms are neither in the graph nor in ``base``, or form a cycle.

    Without ``base``, the ids in ``known`` are accepted.
    """
    if missing := graph.external - (base.index.keys() if base else known):
        where = f"neither in the graph nor in {base.name}" if base else "not in the graph"
        named = abridged(sorted(missing), 3)
        raise GraphError(f"unknown parents: {named} ({where}); give the graph with these concepts as base")
    if base:
        GraphUnion.of([base, graph])


def pooled_counts(graph: SemanticGraph, own: Mapping[str, int]) -> dict[str, int]:
    """Number of images of each concept, by id, including those of its descendants."""
    counts = graph.pooled(np.array([own.get(id, 0) for id in graph.index], np.int64))
    return dict(zip(graph.index, counts.tolist(), strict=True))


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _new_images(new: Iterable[NewConcept], present: set[tuple[str, bytes]]) -> list[tuple[str, NewImage]]:
    """Images that are not in the graph yet, with the ids of their concepts."""
    seen, images = set(present), []
    for each in new:
        for image in each.images:
            key = each.concept.id, _hash(image.content)
            if key in seen:
                continue
            if decode_image(image.content) is None:
                raise GraphError(f"image {image.name} of {each.concept.id} cannot be decoded; leave it out")
            seen.add(key)
            images.append((each.concept.id, image))
    return images


def _check_counts(counts: Mapping[str, int], folder: Path) -> None:
    if few := [id for id, count in sorted(counts.items()) if count < MIN_CONCEPT_IMAGES]:
        raise GraphError(
            f"{len(few)} concepts have fewer than {MIN_CONCEPT_IMAGES} images, such as {few[0]} ({counts[few[0]]}); "
            "add images, or leave them out",
            folder,
        )


def _write_images(images: Sequence[tuple[str, NewImage]], folder: Path) -> str:
    """Write images to a file named by its hash; returns its name."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "models") from None

    rows = [
        {"image": {"bytes": image.content, "path": None}, "node": id, "style": image.domain, "source": image.source}
        for id, image in images
    ]
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, image_schema(("node", "style", "source")))
    pq.write_table(table, buffer, row_group_size=_ROWS_PER_GROUP)
    content = buffer.getvalue()
    name = IMAGE_FILES.replace("*", f"-{hashlib.sha256(content).hexdigest()[:16]}")
    write_atomically(folder / name, content)
    return name
