"""Probe images: which images test which concept, and how they stream off the disk.

An image belongs to the most specific concept it was filed under and to everything above it: a picture of a corgi
is a picture of a dog. Every concept gets a seeded sample of its pooled images, balanced over their sources. One
image can serve many concepts and is still read once.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import GraphError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph

IMAGE_FILES = "images*.parquet"
DOMAIN_COLUMN = "style"
SOURCE_COLUMNS = ("source", "vendor", "dataset")
UNKNOWN = "unknown"
_DIGEST_LENGTH = 40  # as long as a commit sha
_MOST_IMAGES_PER_CONCEPT = 65535  # labels count images in 16 bits
_MOST_DOMAINS = 255


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How many images test a concept, and which.

    Attributes:
        images_per_concept: Most images per concept (the paper uses 75). A smaller sample is a prefix of a larger one.
        seed: Seed of the sample.
    """

    images_per_concept: int = 75
    seed: int = 0


@dataclass(frozen=True)
class ProbeSet:
    """A sample of N images for V concepts.

    Attributes:
        name: Name of the folder or dataset repo.
        revision: Digest of the image files (40 hex digits), or a commit sha.
        sampling: How many images test a concept, and which.
        files: The parquet files, in name order.
        rows: [N] row of each image, counted through all files; ascending.
        nodes: [N] index of the concept each image was filed under.
        domains: [N] index into ``domain_names``.
        domain_names: Names of the domains (photo, drawing, icon, ...), sorted.
        offsets: [V + 1]; ``members[offsets[v]:offsets[v + 1]]`` are the images (0 to N - 1) that test concept ``v``.
        members: Images of all concepts, one after another.
    """

    name: str
    revision: str
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

    def images_of(self, v: int) -> NDArray[np.int64]:
        """Ascending numbers (0 to N - 1) of the images that test concept ``v``."""
        return self.members[self.offsets[v] : self.offsets[v + 1]]

    def restricted_to(self, concepts: NDArray[np.int64]) -> ProbeSet:
        """The images that test some concepts, and these tests alone; all others are left without images."""
        wanted = np.isin(np.arange(len(self.offsets) - 1), concepts)
        kept = [self.images_of(v) if wanted[v] else self.members[:0] for v in range(len(wanted))]
        images = np.unique(np.concatenate(kept))
        return replace(
            self,
            rows=self.rows[images],
            nodes=self.nodes[images],
            domains=self.domains[images],
            offsets=np.concatenate([[0], np.cumsum([len(members) for members in kept])]).astype(np.int64),
            members=np.searchsorted(images, np.concatenate(kept)).astype(np.int64),
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
        """Stream encoded images in order, ``batch_size`` at a time.

        Memory stays at a few batches however many images there are. Row groups without any of the images are skipped.

        Args:
            batch_size: Images per batch; only the last batch is smaller.
            images: Ascending numbers of the images; by default all.

        Yields:
            The images of a batch, None where the file holds nothing.

        Raises:
            GraphError: A file is damaged.
        """
        contents = self._iter_bytes(self.rows if images is None else self.rows[images])
        while batch := list(islice(contents, batch_size)):
            yield batch

    def _iter_bytes(self, wanted: NDArray[np.int64]) -> Iterator[bytes | None]:
        first_row = 0
        for path in self.files:
            file = _open_parquet(path)
            end_row = first_row + file.metadata.num_rows
            here = wanted[(wanted >= first_row) & (wanted < end_row)]
            if len(here):
                with _parquet_errors(path):
                    yield from _iter_rows(file, here - first_row)
            first_row = end_row


def load_probes(
    graph: SemanticGraph,
    folder: str | Path,
    config: SamplingConfig | None = None,
    origin: tuple[str, str] | None = None,
    files: Sequence[str] | None = None,
) -> ProbeSet:
    """Sample probe images from the ``images*.parquet`` files of a graph's folder.

    The files hold ``image`` (encoded bytes, or the struct that ``datasets`` writes) and ``node`` (id of the concept);
    a column ``style`` gives the domain of an image, a column ``source``, ``vendor`` or ``dataset`` where it is from.

    Args:
        graph: The graph that the images are filed under.
        folder: Where the files are.
        config: How the sample is drawn.
        origin: Dataset repo and commit that the files are from; by default the folder's name and a digest of the files.
        files: Names of the files; by default all that are there.

    Raises:
        GraphError: There are no images, their files are damaged or lack columns, or they name nodes that the graph
            does not have.
        MissingExtraError: pyarrow is not installed.
    """
    config = config or SamplingConfig()
    if not 1 <= config.images_per_concept <= _MOST_IMAGES_PER_CONCEPT:
        raise GraphError(f"images_per_concept is not between 1 and {_MOST_IMAGES_PER_CONCEPT}; choose another number")
    paths = image_files(Path(folder)) if files is None else tuple(Path(folder) / name for name in sorted(files))
    if not paths:
        raise GraphError(f"no {IMAGE_FILES} here; a graph's folder holds its probe images", Path(folder))
    columns = _read_columns(paths)
    if not len(columns["node"]):
        raise GraphError(f"the {IMAGE_FILES} hold no rows; a graph needs probe images", Path(folder))
    nodes = _node_indices(graph, columns["node"], Path(folder))
    domain_names, domains = _categories(columns[DOMAIN_COLUMN])
    if len(domain_names) > _MOST_DOMAINS:
        raise GraphError(f"column '{DOMAIN_COLUMN}' has more than {_MOST_DOMAINS} values; merge some", Path(folder))
    _, sources = _categories(columns["source"])
    samples = [
        _sample(pool, sources[pool], config, _stable_hash(concept.id))
        for concept, pool in zip(graph.concepts, _pools(graph, nodes), strict=True)
    ]
    rows = np.unique(np.concatenate(samples))
    name, revision = origin or (Path(folder).absolute().name, _digest(paths))
    return ProbeSet(
        name=name,
        revision=revision,
        sampling=config,
        files=paths,
        rows=rows,
        nodes=nodes[rows],
        domains=domains[rows].astype(np.int16),
        domain_names=domain_names,
        offsets=np.concatenate([[0], np.cumsum([len(sample) for sample in samples])]).astype(np.int64),
        members=np.searchsorted(rows, np.concatenate(samples)).astype(np.int64),
    )


def image_schema(text_columns: Sequence[str]) -> pa.Schema:
    """The schema of a parquet file of images that :func:`load_probes`, ``datasets`` and the Hub read.

    Args:
        text_columns: The columns beside ``image``.

    Raises:
        ImportError: pyarrow is not installed.
    """
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
    """The ``images*.parquet`` files of a folder, in name order."""
    return tuple(sorted(folder.glob(IMAGE_FILES)))


def _pools(graph: SemanticGraph, nodes: NDArray[np.int32]) -> Iterator[NDArray[np.int64]]:
    """For each concept the rows of its own images and of everything below it."""
    order = np.argsort(nodes, kind="stable").astype(np.int64)
    bounds = np.searchsorted(nodes[order], np.arange(len(graph) + 1))
    own = [order[bounds[v] : bounds[v + 1]] for v in range(len(graph))]
    for v in range(len(graph)):
        yield np.concatenate([own[v], *(own[d] for d in graph.descendants[v])])


def _sample(
    pool: NDArray[np.int64], sources: NDArray[np.int32], config: SamplingConfig, salt: int
) -> NDArray[np.int64]:
    """Take a concept's images: sources in turn, each source in a seeded random order. Ascending rows."""
    draw = scramble(pool.astype(np.uint64), config.seed, salt)
    turn_of_source = scramble(sources.astype(np.uint64), config.seed, salt + 1)
    by_source = np.lexsort((draw, sources))
    starts = np.flatnonzero(np.diff(sources[by_source], prepend=-1))
    rank = np.arange(len(pool)) - np.repeat(starts, np.diff(np.append(starts, len(pool))))
    in_turn = np.lexsort((turn_of_source[by_source], rank))
    return np.sort(pool[by_source[in_turn[: config.images_per_concept]]])


def scramble(values: NDArray[np.uint64], seed: int, salt: int) -> NDArray[np.uint64]:
    """Turn integers into seeded random ones (splitmix64): the same on every machine and with every NumPy."""
    with np.errstate(over="ignore"):
        x = values * np.uint64(0x9E3779B97F4A7C15)
        x = x + np.uint64((seed * 0xD1342543DE82EF95 + salt) & 0xFFFFFFFFFFFFFFFF)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _stable_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _digest(files: tuple[Path, ...]) -> str:
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:_DIGEST_LENGTH]


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
        raise GraphError(f"is no readable parquet file ({reason}); fetch or build it again", path) from None


def _open_parquet(path: Path) -> Any:  # noqa: ANN401 - pyarrow has no types
    with _parquet_errors(path):
        import pyarrow.parquet as pq

        # A small buffer instead of whole column chunks keeps memory flat on files with one huge row group.
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)


def _iter_rows(file: Any, rows: NDArray[np.int64]) -> Iterator[bytes | None]:  # noqa: ANN401 - pyarrow has no types
    """Yield the images of some rows (ascending, at least one) of one parquet file."""
    sizes = np.array([file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)])
    ends = np.cumsum(sizes)
    groups = np.unique(np.searchsorted(ends, rows, side="right"))
    # where each row is among those of the row groups that are read
    skipped = np.cumsum(np.where(np.isin(np.arange(len(sizes)), groups), 0, sizes))
    rows = rows - skipped[np.searchsorted(ends, rows, side="right")]
    first = 0
    for table in file.iter_batches(batch_size=64, columns=["image"], use_threads=False, row_groups=groups.tolist()):
        here = rows[(rows >= first) & (rows < first + table.num_rows)] - first
        if len(here):
            yield from (_content(value) for value in table.column("image").take(here).to_pylist())
        first += table.num_rows
        if first > rows[-1]:
            return


def _content(value: Any) -> bytes | None:  # noqa: ANN401 - bytes, or the struct that ``datasets`` writes
    return value.get("bytes") if isinstance(value, dict) else value


def _read_columns(files: tuple[Path, ...]) -> dict[str, pa.ChunkedArray]:
    """Read everything but the pictures: ``node``, the domain and the source of each image."""
    tables = [_read_texts(path) for path in files]
    import pyarrow as pa

    whole = pa.concat_tables(tables)
    return {column: whole[column] for column in whole.column_names}


def _read_texts(path: Path) -> pa.Table:
    """Read columns ``node``, domain and source of one file; nulls where it lacks the last two."""
    file = _open_parquet(path)
    import pyarrow as pa

    schema = file.schema_arrow
    if not {"image", "node"} <= set(schema.names):
        raise GraphError("lacks a column 'image' or 'node'; a graph's image files need both", path)
    if not _holds_images(schema.field("image").type):
        raise GraphError("has no encoded pictures in its column 'image'; store the bytes of their files", path)
    source = next((column for column in SOURCE_COLUMNS if column in schema.names), None)
    wanted = {"node": "node", DOMAIN_COLUMN: DOMAIN_COLUMN, "source": source}
    with _parquet_errors(path):
        table = file.read(columns=[column for column in wanted.values() if column in schema.names])
        texts = {
            name: table[column].cast(pa.string()) if column in schema.names else pa.nulls(len(table), pa.string())
            for name, column in wanted.items()
        }
        whole = pa.table(texts)
        whole.validate(full=True)  # bytes that are no UTF-8 would fail later
    return whole


def _holds_images(kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    """Whether a column of this type is bytes, or the struct that ``datasets`` writes."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _holds_images(kind.field(position).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _node_indices(graph: SemanticGraph, column: pa.ChunkedArray, folder: Path) -> NDArray[np.int32]:
    names, codes = _categories(column)
    unknown = sorted(set(names) - set(graph.index))
    if unknown:
        raise GraphError(
            f"{len(unknown)} nodes of the images are not in the graph, such as {', '.join(unknown[:3])}; "
            "use the images that belong to this graph",
            folder,
        )
    return np.array([graph.index[name] for name in names], dtype=np.int32)[codes]


def _categories(column: pa.ChunkedArray) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Sorted distinct values of a text column and, for each row, the position of its value."""
    encoded = column.fill_null(UNKNOWN).combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    position = np.empty(len(names), dtype=np.int32)
    position[order] = np.arange(len(names), dtype=np.int32)
    return tuple(names[i] for i in order), position[encoded.indices.to_numpy(zero_copy_only=False)]
