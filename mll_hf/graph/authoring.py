"""Create or extend a graph of concepts, each with a folder of images.

Images are first written to new files; then ``graph.json``, which lists the files of the graph, is replaced atomically.
So a graph is never partially updated, and repeating the command completes an interrupted run.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import GraphError, InputError, MissingExtraError
from mll_hf.graph.concepts import GRAPH_FILE, Concept, SemanticGraph, graph_to_json, load_graph
from mll_hf.graph.probes import IMAGE_FILES, IMAGE_LIST, image_files, image_schema, iter_filed_images
from mll_hf.graph.union import GraphUnion
from mll_hf.utils.files import canonical_json, write_atomically
from mll_hf.utils.images import decode_image
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MIN_CONCEPT_IMAGES = 5  # with fewer, a single image changes the recall by 25 % or more
_ROWS_PER_GROUP = 100
_FIELDS = {"id", "name", "lemmas", "description", "parents", "images", "domain", "source"}


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


def read_concepts(file: Path, images_root: Path | None = None, domain: str = "photo") -> tuple[NewConcept, ...]:
    """Read concepts from a table: JSON (a list of objects) or CSV (with a header; lists separated by semicolons).

    Fields: ``id``, ``name``, ``lemmas``, ``description``, ``parents``, ``images`` (a folder, relative to the table; by
    default the subfolder of ``images_root`` named like the id), ``domain`` and ``source``. Leave out descriptions that
    only repeat the name: they make the caption longer, not clearer.

    Args:
        file: The table.
        images_root: A folder with a subfolder for each concept.
        domain: Default domain.

    Raises:
        InputError: The table cannot be read, or a row lacks a field.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text))) if file.suffix.lower() == ".csv" else json.loads(text)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as a table ({one_line(error)}); give JSON or CSV") from None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{file} is not a list of concepts; give one object or row per concept")
    return tuple(
        _concept_of_row(row, f"{file}, row {number}", file.parent, images_root, domain)
        for number, row in enumerate(rows, 1)
    )


def _concept_of_row(row: Any, where: str, folder: Path, images_root: Path | None, domain: str) -> NewConcept:  # noqa: ANN401 - parsed
    if not isinstance(row, dict):
        raise InputError(f"{where}: is not an object; give an object with id, name and parents")
    if unknown := set(map(str, row)) - _FIELDS:
        raise InputError(
            f"{where}: has unknown fields ({abridged(sorted(unknown), 3)}); use {', '.join(sorted(_FIELDS))}"
        )
    id, name = (_text(row, field, where) for field in ("id", "name"))
    description = _text(row, "description", where) if row.get("description") else ""
    if row.get("images"):
        images = folder / _text(row, "images", where)
    elif images_root:
        if Path(id).name != id or id == "..":
            raise InputError(f"{where}: '{id}' is not a valid folder name; give the field images")
        images = images_root / id
    else:
        raise InputError(f"{where}: has no folder of images; give the field images, or --images-root")
    style = _text(row, "domain", where) if row.get("domain") else domain
    source = _text(row, "source", where) if row.get("source") else None
    lemmas, parents = (_texts(row, field, where) for field in ("lemmas", "parents"))
    return new_concept(id, name, lemmas, description, parents, read_images(images, style, source))


def new_concept(
    id: str, name: str, lemmas: Iterable[str], description: str, parents: Iterable[str], images: Iterable[NewImage] = ()
) -> NewConcept:
    """A concept to add; its name is added to the lemmas."""
    concept = Concept(id, name, tuple(dict.fromkeys([name, *lemmas])), description, tuple(parents))
    return NewConcept(concept, tuple(images))


def _text(row: dict[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: lacks a text '{field}'")
    return value.strip()


def _texts(row: dict[str, Any], field: str, where: str) -> list[str]:
    value = row.get(field) or []
    texts = value.split(";") if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: '{field}' is not a list of texts")
    return [text.strip() for text in texts if text.strip()]


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
