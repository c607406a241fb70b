"""Probe images: sample the images of each concept, and read them from disk.

An image shows the concept that it is filed under and all its ancestors: a corgi is a dog. Each concept is tested on a
fixed random sample of the images that show it, balanced over their sources. An image may test many concepts and is read
once.

Functions that read files raise a GraphError if a file is missing, damaged or lacks a column, and a MissingExtraError
without pyarrow.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import GraphError, MissingExtraError
from mll_hf.graph.concepts import GRAPH_FILE
from mll_hf.graph.probe_counts import MAX_DOMAINS, ProbeCounts
from mll_hf.utils.files import file_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph

IMAGE_FILES = "images*.parquet"
IMAGE_LIST = "images"
DOMAIN_COLUMN = "style"
SOURCE_COLUMNS = ("source", "vendor", "dataset")
UNKNOWN = "unknown"
_IMAGE_FILE = re.compile(r"images[\w.-]*\.parquet", re.ASCII)
_MAX_IMAGES_PER_CONCEPT = 65535  # labels count images in 16 bits
_BATCH = 64


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How to sample probe images.

    Attributes:
        images_per_concept: Maximum per concept; 75 in the paper.
    """

    images_per_concept: int = 75


@dataclass(frozen=True)
class ProbeSet:
    """A sample of N images for V concepts.

    Attributes:
        graph_location: Location of the graph: ``hf://datasets/org/name@commit``, or the name of a folder.
        counts: Digest, counts and location of all images that the sample is from.
        sampling: How the images were sampled.
        files: The parquet files, in name order.
        rows: [N] row of each image, over all files; ascending.
        nodes: [N] index of the concept that each image is filed under.
        domains: [N] index into ``domain_names``.
        domain_names: Names of the domains (photo, drawing, icon, ...), sorted.
        offsets: [V + 1]; ``members[offsets[v]:offsets[v + 1]]`` are the images (0 to N - 1) that test concept ``v``.
        members: Images of all concepts, one concept after another.
    """

    graph_location: str
    counts: ProbeCounts
    sampling: SamplingConfig
    files: tuple[Path, ...]
    rows: NDArray[np.int64]
    nodes: NDArray[np.int32]
    domains: NDArray[np.int16]
    domain_names: tuple[str, ...]
    offsets: NDArray[np.int64]
    members: NDArray[np.int64] = field(repr=False)

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

    def moved_to(self, location: str) -> ProbeSet:
        """The same images at another location."""
        return replace(self, counts=replace(self.counts, location=location))

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
        """Read encoded images in order, with a few batches in memory; row groups without wanted images are skipped.

        Args:
            batch_size: Images per batch; only the last batch may be smaller.
            images: Ascending numbers of the images; by default all.

        Yields:
            The images of a batch, None for missing images.
        """
        contents = self._iter_bytes(self.rows if images is None else self.rows[images])
        while batch := list(islice(contents, batch_size)):
            yield batch

    def _iter_bytes(self, wanted: NDArray[np.int64]) -> Iterator[bytes | None]:
        first_row = 0
        for path in self.files:
            file = _open_parquet(path)
            end_row = first_row + file.metadata.num_rows
            in_file = wanted[(wanted >= first_row) & (wanted < end_row)]
            if len(in_file):
                with _parquet_errors(path):
                    yield from _iter_rows(file, in_file - first_row)
            first_row = end_row


def load_probes(
    graph: SemanticGraph,
    folder: str | Path,
    config: SamplingConfig | None = None,
    *,
    location: str | None = None,
    graph_location: str | None = None,
) -> ProbeSet:
    """Sample the probe images in a graph's folder, see :func:`image_files`.

    Columns of the files: ``image`` (encoded bytes, or the struct that ``datasets`` writes), ``node`` (id of the
    concept), optionally ``style`` (the domain) and one of ``source``, ``vendor`` and ``dataset`` (the source).

    Args:
        graph: The graph that the images are filed under.
        folder: The folder of the files.
        config: How to sample.
        location: Location of the files for labels; by default the folder's name.
        graph_location: Location of the graph for labels; by default the same.

    Raises:
        GraphError: A node is not in the graph, or the files cannot be read.
    """
    config = config or SamplingConfig()
    if not 1 <= config.images_per_concept <= _MAX_IMAGES_PER_CONCEPT:
        raise GraphError(f"images_per_concept is not between 1 and {_MAX_IMAGES_PER_CONCEPT}; choose another number")
    files, columns = read_columns(Path(folder))
    nodes = _node_indices(graph, columns["node"], Path(folder))
    location = location or Path(folder).absolute().name
    counts = _count(graph, nodes, columns, files, location)
    domain_names, domains = _categories(columns[DOMAIN_COLUMN])
    if len(domain_names) > MAX_DOMAINS:
        raise GraphError(f"column '{DOMAIN_COLUMN}' has more than {MAX_DOMAINS} values; merge some", Path(folder))
    _, sources = _categories(columns["source"])
    samples = [
        _sample(pool, sources[pool], config, concept.id) if tested else pool[:0]
        for concept, pool, tested in zip(graph.concepts, _pools(graph, nodes), graph.has_tests, strict=True)
    ]
    rows, offsets, members = _renumbered(samples)
    return ProbeSet(
        graph_location=graph_location or location,
        counts=counts,
        sampling=config,
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
    files, columns = read_columns(folder)
    return _count(graph, _node_indices(graph, columns["node"], folder), columns, files, location)


def _count(
    graph: SemanticGraph,
    nodes: NDArray[np.int32],
    columns: Mapping[str, pa.ChunkedArray],
    files: tuple[Path, ...],
    location: str,
) -> ProbeCounts:
    (domain_names, domains), (source_names, sources) = (_categories(columns[c]) for c in (DOMAIN_COLUMN, "source"))
    pairs, kinds = np.unique(domains.astype(np.int64) * len(source_names) + sources, return_inverse=True)
    cells, totals = np.unique(nodes.astype(np.int64) * len(pairs) + kinds, return_counts=True)
    images: dict[str, list[tuple[int, int]]] = {}
    for cell, total in zip(cells.tolist(), totals.tolist(), strict=True):
        node, kind = divmod(cell, len(pairs))
        images.setdefault(graph.concepts[node].id, []).append((kind, total))
    return ProbeCounts(
        location=location,
        files=tuple(file_digest(file).hex() for file in files),
        kinds=tuple((domain_names[p // len(source_names)], source_names[p % len(source_names)]) for p in pairs),
        images={concept: tuple(counts) for concept, counts in images.items()},
    )


def image_schema(text_columns: Sequence[str]) -> pa.Schema:
    """Schema of a Parquet file of images and texts for :func:`load_probes`, ``datasets`` and the Hub."""
    import pyarrow as pa

    features = {"image": {"_type": "Image"}, **{name: {"dtype": "string", "_type": "Value"} for name in text_columns}}
    return pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            *((name, pa.string()) for name in text_columns),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def image_files(folder: Path) -> tuple[Path, ...]:
    """Image files of a graph's folder, sorted: the list ``images`` in ``graph.json``, or else all in the folder.

    Raises:
        GraphError: The list contains anything but files such as ``images-1.parquet``.
    """
    try:
        document = json.loads((folder / GRAPH_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # load_graph reports it
        document = None
    names = document.get(IMAGE_LIST) if isinstance(document, dict) else None
    if names is None:
        return tuple(sorted(folder.glob(IMAGE_FILES)))
    if not isinstance(names, list) or not all(isinstance(name, str) and _IMAGE_FILE.fullmatch(name) for name in names):
        raise GraphError(f"'{IMAGE_LIST}' must be a list of files such as images-1.parquet", folder / GRAPH_FILE)
    return tuple(folder / name for name in sorted(set(names)))


def read_columns(folder: Path) -> tuple[tuple[Path, ...], dict[str, pa.ChunkedArray]]:
    """Image files of a graph's folder, and columns with node, domain and source of all images."""
    files = image_files(folder)
    if not files:
        raise GraphError(f"no {IMAGE_FILES} here; a graph's folder contains its probe images", folder)
    tables = [_read_texts(path) for path in files]
    import pyarrow as pa

    table = pa.concat_tables(tables)
    if not len(table):
        raise GraphError(f"the {IMAGE_FILES} have no rows; a graph needs probe images", folder)
    return files, {column: table[column] for column in table.column_names}


def iter_filed_images(folder: Path) -> Iterator[tuple[str, bytes | None]]:
    """Yield node and content of every image in a graph's folder."""
    for path in image_files(folder):
        nodes, file = _read_texts(path)["node"].fill_null(UNKNOWN).to_pylist(), _open_parquet(path)
        with _parquet_errors(path):
            yield from zip(nodes, _iter_rows(file, np.arange(len(nodes))), strict=True)


def _pools(graph: SemanticGraph, nodes: NDArray[np.int32]) -> Iterator[NDArray[np.int64]]:
    """For each concept, the rows of the images filed under it or its descendants."""
    order = np.argsort(nodes, kind="stable").astype(np.int64)
    bounds = np.searchsorted(nodes[order], np.arange(len(graph) + 1))
    own = [order[bounds[v] : bounds[v + 1]] for v in range(len(graph))]
    for v in range(len(graph)):
        yield np.concatenate([own[v], *(own[d] for d in graph.descendants[v])])


def _sample(pool: NDArray[np.int64], sources: NDArray[np.int32], config: SamplingConfig, id: str) -> NDArray[np.int64]:
    """Draw a concept's images from its sources in turn, in a fixed random order. Returns ascending rows."""
    salt = int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little")
    draw = scramble(pool.astype(np.uint64), salt)
    turn_of_source = scramble(sources.astype(np.uint64), salt + 1)
    by_source = np.lexsort((draw, sources))
    starts = np.flatnonzero(np.diff(sources[by_source], prepend=-1))
    rank = np.arange(len(pool)) - np.repeat(starts, np.diff(np.append(starts, len(pool))))
    in_turn = np.lexsort((turn_of_source[by_source], rank))
    return np.sort(pool[by_source[in_turn[: config.images_per_concept]]])


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


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError("pyarrow", "models") from None
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise GraphError(f"is not a readable parquet file ({reason}); fetch or build it again", path) from None


def _open_parquet(path: Path) -> Any:  # noqa: ANN401 - pyarrow has no types
    with _parquet_errors(path):
        import pyarrow.parquet as pq

        # A small buffer instead of whole column chunks limits memory for files with one large row group.
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)


def _iter_rows(file: Any, rows: NDArray[np.int64]) -> Iterator[bytes | None]:  # noqa: ANN401 - pyarrow has no types
    """Yield the images of some rows (ascending) of a Parquet file."""
    end = 0
    for group in range(file.metadata.num_row_groups):
        first, end = end, end + file.metadata.row_group(group).num_rows
        wanted = rows[(rows >= first) & (rows < end)]
        if not len(wanted):
            continue
        for table in file.iter_batches(batch_size=_BATCH, columns=["image"], use_threads=False, row_groups=[group]):
            in_batch = wanted[(wanted >= first) & (wanted < first + table.num_rows)] - first
            yield from map(_content, table.column("image").take(in_batch).to_pylist())
            first += table.num_rows
            if first > wanted[-1]:
                break


def _content(value: Any) -> bytes | None:  # noqa: ANN401 - bytes, or the struct that ``datasets`` writes
    return value.get("bytes") if isinstance(value, dict) else value


def _read_texts(path: Path) -> pa.Table:
    """Read node, domain and source of each image of one file; null for missing domains and sources."""
    file = _open_parquet(path)
    import pyarrow as pa

    schema = file.schema_arrow
    if not {"image", "node"} <= set(schema.names):
        raise GraphError("lacks a column 'image' or 'node'; a graph's image files need both", path)
    if not _holds_images(schema.field("image").type):
        raise GraphError("has no encoded images in column 'image'; store the bytes of the image files", path)
    source = next((column for column in SOURCE_COLUMNS if column in schema.names), None)
    wanted = {"node": "node", DOMAIN_COLUMN: DOMAIN_COLUMN, "source": source}
    with _parquet_errors(path):
        table = file.read(columns=[column for column in wanted.values() if column in schema.names])
        texts = {
            name: table[column].cast(pa.string()) if column in schema.names else pa.nulls(len(table), pa.string())
            for name, column in wanted.items()
        }
        columns = pa.table(texts)
        columns.validate(full=True)  # invalid UTF-8 would fail later
    return columns


def _holds_images(kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    """Whether a column type is bytes, or the struct written by ``datasets``."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _holds_images(kind.field(position).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _node_indices(graph: SemanticGraph, column: pa.ChunkedArray, folder: Path) -> NDArray[np.int32]:
    names, codes = _categories(column)
    if unknown := sorted(set(names) - set(graph.index)):
        reason = f"{len(unknown)} nodes of the images are not in the graph, such as {', '.join(unknown[:3])}"
        raise GraphError(f"{reason}; use the images of this graph", folder)
    return np.array([graph.index[name] for name in names], dtype=np.int32)[codes]


def _categories(column: pa.ChunkedArray) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Sorted distinct values of a text column, and for each row the position of its value."""
    encoded = column.fill_null(UNKNOWN).combine_chunks().dictionary_encode()
    names, position = np.unique(encoded.dictionary.to_numpy(zero_copy_only=False), return_inverse=True)
    return tuple(names.tolist()), position.astype(np.int32)[encoded.indices.to_numpy(zero_copy_only=False)]
