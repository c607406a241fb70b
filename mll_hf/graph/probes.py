"""Probe images: sample the images of each concept, and read them.

An image shows the concept that it is filed under and all its ancestors: a corgi is a dog. Each concept is tested on a
fixed random sample of the images that show it, balanced over their sources. An image may test many concepts and is read
once.

Functions that read files raise the errors of :mod:`mll_hf.graph.files`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mll_hf.errors import GraphError
from mll_hf.graph.files import DOMAIN_COLUMN, iter_images, read_columns
from mll_hf.graph.probe_counts import MAX_DOMAINS, ProbeCounts
from mll_hf.utils.files import file_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph

    _Categories: TypeAlias = tuple[tuple[str, ...], NDArray[np.int32]]

IMAGES_PER_CONCEPT = 75  # at most; as in the paper
_MAX_IMAGES_PER_CONCEPT = 65535  # labels count images in 16 bits


@dataclass(frozen=True)
class ProbeSet:
    """A sample of N images for V concepts."""

    graph_location: str  # hf://datasets/org/name@commit, or the name of a folder
    counts: ProbeCounts  # digest, counts and location of all images that the sample is from
    images_per_concept: int  # at most
    files: tuple[Path, ...]  # in name order
    rows: NDArray[np.int64]  # [N] row of each image, over all files; ascending
    nodes: NDArray[np.int32]  # [N] index of the concept that each image is filed under
    domains: NDArray[np.int16]  # [N] index into domain_names
    domain_names: tuple[str, ...]  # photo, drawing, icon ..., sorted
    offsets: NDArray[np.int64]  # [V + 1] members[offsets[v]:offsets[v + 1]] are the images that test concept v
    members: NDArray[np.int64] = field(repr=False)  # images (0 to N - 1) of one concept after another

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """Digest of all images that the sample is from (40 hex digits)."""
        return self.counts.digest

    @property
    def location(self) -> str:
        """Location of the images: ``hf://datasets/org/name@commit``, or the name of a folder."""
        return self.counts.location

    def images_of(self, v: int) -> NDArray[np.int64]:
        """Ascending numbers (0 to N - 1) of the images that test concept ``v``."""
        return self.members[self.offsets[v] : self.offsets[v + 1]]

    def restricted_to(self, concepts: NDArray[np.int64]) -> ProbeSet:
        """Only the tests of some concepts and their images; other concepts have no images."""
        wanted = np.isin(np.arange(len(self.offsets) - 1), concepts)
        kept = [self.images_of(v) if wanted[v] else self.members[:0] for v in range(len(wanted))]
        images, offsets, members = _renumbered(kept)
        return replace(
            self,
            rows=self.rows[images],
            nodes=self.nodes[images],
            domains=self.domains[images],
            offsets=offsets,
            members=members,
        )

    @cached_property
    def pairs_by_image(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """All (image, concept) pairs sorted by image, as two arrays of the same length."""
        concepts = np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))
        order = np.argsort(self.members, kind="stable")
        return self.members[order], concepts[order]

    def iter_image_bytes(
        self, batch_size: int, images: NDArray[np.int64] | None = None
    ) -> Iterator[list[bytes | None]]:
        """Yield encoded images in batches, None for missing ones.

        ``images`` are ascending numbers of the images; by default all.
        """
        contents = iter_images(self.files, self.rows if images is None else self.rows[images])
        while batch := list(islice(contents, batch_size)):
            yield batch


def load_probes(
    graph: SemanticGraph,
    folder: str | Path,
    images_per_concept: int = IMAGES_PER_CONCEPT,
    *,
    location: str | None = None,
    graph_location: str | None = None,
) -> ProbeSet:
    """Sample the probe images in a graph's folder, see :func:`~mll_hf.graph.files.image_files`.

    Columns of the files: ``image`` (encoded bytes, or the struct that ``datasets`` writes), ``node`` (id of the
    concept), optionally ``style`` (the domain) and one of ``source``, ``vendor`` and ``dataset`` (the source). Labels
    name the locations of images and graph; by default the folder's name.
    """
    if not 1 <= images_per_concept <= _MAX_IMAGES_PER_CONCEPT:
        raise GraphError(f"images_per_concept is not between 1 and {_MAX_IMAGES_PER_CONCEPT}; choose another number")
    location = location or Path(folder).absolute().name
    counts, files, nodes, (domain_names, domains), (_, sources) = _read(graph, Path(folder), location)
    samples = [
        _sample(pool, sources[pool], images_per_concept, concept.id) if tested else pool[:0]
        for concept, pool, tested in zip(graph.concepts, _pools(graph, nodes), graph.has_tests, strict=True)
    ]
    rows, offsets, members = _renumbered(samples)
    return ProbeSet(
        graph_location=graph_location or location,
        counts=counts,
        images_per_concept=images_per_concept,
        files=files,
        rows=rows,
        nodes=nodes[rows],
        domains=domains[rows].astype(np.int16),
        domain_names=domain_names,
        offsets=offsets,
        members=members,
    )


def count_probes(graph: SemanticGraph, folder: Path, location: str = "") -> ProbeCounts:
    """Digest and counts of the probe images in a folder; ``location`` is their original location."""
    return _read(graph, folder, location)[0]


def _read(
    graph: SemanticGraph, folder: Path, location: str
) -> tuple[ProbeCounts, tuple[Path, ...], NDArray[np.int32], _Categories, _Categories]:
    """The images in a folder: counts, files, and for each image the index of its concept, its domain and source."""
    files, columns = read_columns(folder)
    (ids, codes), of_domain, of_source = (_categories(columns[c]) for c in ("node", DOMAIN_COLUMN, "source"))
    if unknown := sorted(set(ids) - set(graph.index)):
        reason = f"{len(unknown)} nodes of the images are not in the graph, such as {', '.join(unknown[:3])}"
        raise GraphError(f"{reason}; use the images of this graph", folder)
    nodes = np.array([graph.index[id] for id in ids], dtype=np.int32)[codes]
    (domain_names, domains), (source_names, sources) = of_domain, of_source
    if len(domain_names) > MAX_DOMAINS:
        raise GraphError(f"column '{DOMAIN_COLUMN}' has more than {MAX_DOMAINS} values; merge some", folder)
    pairs, kinds = np.unique(domains.astype(np.int64) * len(source_names) + sources, return_inverse=True)
    cells, totals = np.unique(nodes.astype(np.int64) * len(pairs) + kinds, return_counts=True)
    images: dict[str, list[tuple[int, int]]] = {}
    for cell, total in zip(cells.tolist(), totals.tolist(), strict=True):
        node, kind = divmod(cell, len(pairs))
        images.setdefault(graph.concepts[node].id, []).append((kind, total))
    counts = ProbeCounts(
        location=location,
        files=tuple(file_digest(file).hex() for file in files),
        kinds=tuple((domain_names[p // len(source_names)], source_names[p % len(source_names)]) for p in pairs),
        images={concept: tuple(of_concept) for concept, of_concept in images.items()},
    )
    return counts, files, nodes, of_domain, of_source


def _pools(graph: SemanticGraph, nodes: NDArray[np.int32]) -> Iterator[NDArray[np.int64]]:
    """For each concept, the rows of the images filed under it or its descendants."""
    order = np.argsort(nodes, kind="stable").astype(np.int64)
    bounds = np.searchsorted(nodes[order], np.arange(len(graph) + 1))
    own = [order[bounds[v] : bounds[v + 1]] for v in range(len(graph))]
    for v in range(len(graph)):
        yield np.concatenate([own[v], *(own[d] for d in graph.descendants[v])])


def _sample(pool: NDArray[np.int64], sources: NDArray[np.int32], size: int, id: str) -> NDArray[np.int64]:
    """Draw a concept's images from its sources in turn, in a fixed random order. Returns ascending rows."""
    salt = int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little")
    draw = scramble(pool.astype(np.uint64), salt)
    turn_of_source = scramble(sources.astype(np.uint64), salt + 1)
    by_source = np.lexsort((draw, sources))
    starts = np.flatnonzero(np.diff(sources[by_source], prepend=-1))
    rank = np.arange(len(pool)) - np.repeat(starts, np.diff(np.append(starts, len(pool))))
    in_turn = np.lexsort((turn_of_source[by_source], rank))
    return np.sort(pool[by_source[in_turn[:size]]])


def _renumbered(
    samples: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct images of all samples, with offsets and members as in :class:`ProbeSet`."""
    joined = np.concatenate(samples)
    images = np.unique(joined)
    offsets = np.cumsum([0, *map(len, samples)], dtype=np.int64)
    return images, offsets, np.searchsorted(images, joined).astype(np.int64)


def scramble(values: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """Map integers to random integers (splitmix64), the same for all machines and NumPy versions."""
    with np.errstate(over="ignore"):
        x = values * np.uint64(0x9E3779B97F4A7C15)
        x = x + np.uint64(salt & 0xFFFFFFFFFFFFFFFF)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _categories(column: pa.ChunkedArray) -> _Categories:
    """Sorted distinct values of a text column, and for each row the position of its value."""
    encoded = column.combine_chunks().dictionary_encode()
    names, position = np.unique(encoded.dictionary.to_numpy(zero_copy_only=False), return_inverse=True)
    return tuple(names.tolist()), position.astype(np.int32)[encoded.indices.to_numpy(zero_copy_only=False)]
