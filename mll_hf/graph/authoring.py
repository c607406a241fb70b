"""Make a graph of concepts, each with a folder of images, and check graphs.

Images are written first, then ``graph.json``. A folder without ``graph.json`` is not a graph, so none is ever half
written, and repeating the command completes an interrupted run.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mll_hf.errors import GraphError, InputError
from mll_hf.graph.concepts import GRAPH_FILE, Concept, GraphUnion, SemanticGraph, graph_to_bytes
from mll_hf.graph.files import IMAGE_FILES, UNKNOWN, image_schema, iter_images, read_columns
from mll_hf.graph.probes import count_probes
from mll_hf.utils.files import write_atomically
from mll_hf.utils.images import open_image
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

MIN_CONCEPT_IMAGES = 5  # with fewer, a single image changes the recall by 25 % or more
_ROWS_PER_GROUP = 100


@dataclass(frozen=True, slots=True)
class NewImage:
    """An encoded image of a concept."""

    content: bytes
    name: str  # for errors
    domain: str  # its style: photo, drawing, icon ...
    source: str  # its origin and license; samples are balanced over sources


NewConcept: TypeAlias = tuple[Concept, tuple[NewImage, ...]]


def read_images(folder: Path, domain: str, source: str | None = None) -> tuple[NewImage, ...]:
    """Read all files in a folder and its subfolders, except hidden ones; an InputError if it cannot be read."""
    try:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; give a folder with the images of a concept")
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return tuple(NewImage(path.read_bytes(), str(path), domain, source or UNKNOWN) for path in files)
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); check the path") from None


def read_folders(
    root: Path, parents: Sequence[str], domain: str = "photo", source: str | None = None
) -> tuple[NewConcept, ...]:
    """A concept for each subfolder of a folder: its name is id and, with spaces for ``_``, name of the concept."""
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{root} cannot be read ({error.strerror}); check the path") from None
    if not folders:
        raise InputError(f"{root} has no subfolders; give a folder with a folder of images for each concept")
    return tuple(
        (Concept(path.name, (path.name.replace("_", " "),), "", tuple(parents)), read_images(path, domain, source))
        for path in folders
    )


def make_graph(folder: Path, concepts: Iterable[NewConcept], base: SemanticGraph | None = None) -> SemanticGraph:
    """Write a graph with its images to a folder; images that a concept has twice are written once.

    The hypernyms of the concepts are among them or in ``base``. A GraphError as for :func:`check_graph`, or if the
    folder holds another graph.
    """
    concepts = tuple(concepts)
    images = {(concept.id, image.content): image for concept, of_concept in concepts for image in of_concept}
    graph = SemanticGraph(folder.absolute().name, tuple(concept for concept, _ in concepts))
    _check_hypernyms(graph, base)
    _check_images(graph, ((id, image.name, content) for (id, content), image in images.items()))
    files = {
        IMAGE_FILES.replace("*", ""): _parquet([(id, image) for (id, _), image in images.items()]),
        GRAPH_FILE: graph_to_bytes(graph),
    }
    if (folder / GRAPH_FILE).exists():
        if any(not (folder / name).exists() or (folder / name).read_bytes() != files[name] for name in files):
            raise GraphError("holds another graph; choose a new folder", folder)
    else:
        for name, content in files.items():
            write_atomically(folder / name, content)
    return graph.with_probes(count_probes(graph, folder))


def _parquet(images: Sequence[tuple[str, NewImage]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"image": {"bytes": image.content, "path": None}, "node": id, "style": image.domain, "source": image.source}
        for id, image in images
    ]
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, image_schema(("node", "style", "source")))
    pq.write_table(table, buffer, row_group_size=_ROWS_PER_GROUP)
    return buffer.getvalue()


def check_graph(graph: SemanticGraph, folder: Path, base: SemanticGraph | None = None) -> None:
    """Check that a graph and its images in a folder can be used for labels.

    A GraphError if an image cannot be decoded, a concept has too few images, no concept has rivals, or, with ``base``,
    hypernyms are in neither graph or form a cycle.
    """
    files, columns = read_columns(folder)
    nodes = columns["node"].to_pylist()
    contents = iter_images(files, np.arange(len(nodes)))
    _check_images(graph, ((node, f"one of {node}", content) for node, content in zip(nodes, contents, strict=True)))
    if base:
        _check_hypernyms(graph, base)


def _check_hypernyms(graph: SemanticGraph, base: SemanticGraph | None) -> None:
    if missing := graph.external - (base.index.keys() if base else set()):
        where = f"neither in the graph nor in {base.name}" if base else "not in the graph"
        named = abridged(sorted(missing), 3)
        raise GraphError(f"unknown parents: {named} ({where}); give the graph with these concepts as base")
    if base:
        GraphUnion.of([base, graph])


def pooled_counts(graph: SemanticGraph, own: Mapping[str, int]) -> dict[str, int]:
    """Number of images of each concept, by id, including those of its descendants."""
    counts = graph.pooled(np.array([own.get(id, 0) for id in graph.index], np.int64))
    return dict(zip(graph.index, counts.tolist(), strict=True))


def _check_images(graph: SemanticGraph, images: Iterable[tuple[str, str, bytes | None]]) -> None:
    """Check images, each with the id of its concept and its name."""
    own, undecodable = Counter[str](), list[str]()
    for id, name, content in images:
        own[id] += 1
        if open_image(content) is None:
            undecodable.append(name)
    if undecodable:
        raise GraphError(f"{len(undecodable)} images cannot be decoded: {abridged(undecodable, 3)}; leave them out")
    if unknown := own.keys() - graph.index.keys():
        raise GraphError(f"images of unknown nodes: {abridged(sorted(unknown), 3)}; add these concepts")
    counts = pooled_counts(graph, own)
    if few := [id for id, count in sorted(counts.items()) if count < MIN_CONCEPT_IMAGES]:
        raise GraphError(
            f"{len(few)} concepts have fewer than {MIN_CONCEPT_IMAGES} images, such as {few[0]} ({counts[few[0]]}); "
            "add images, or leave them out"
        )
    if not graph.rival_counts.any():
        raise GraphError("the graph has no concepts that can be confused; add more concepts")
