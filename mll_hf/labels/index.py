"""An index over the labels of one group, with four bytes per label and concept.

An index is a folder of shards. A shard is a safetensors file with one row per concept and one column per label, so only
the rows of a task's concepts are read. Labels are appended: only the last, small shard is rewritten, and small shards
are merged when there are many.

Files are read in parts through :class:`ByteSource` and are untrusted input. An index is only used to find the best
labels; the choice among these is made from full, validated labels.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from safetensors.numpy import save

from mll_hf.errors import LabelError
from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.file_format import (
    METADATA_KEY,
    UNREADABLE,
    check_tensors,
    fields_from_metadata,
    label_metadata,
    raise_on_failures,
    read_metadata,
)
from mll_hf.labels.label import LabelFacts, LabelGroup
from mll_hf.labels.rank_code import BITS, RankCode, code_fields
from mll_hf.utils.files import canonical_json
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import LabelSummary

    Key = tuple[str, str]  # slug and revision of a model
    Reader = Callable[[Sequence[Key]], Iterable[tuple[LabelSummary, str]]]  # labels with the sha256 of their files

SCHEMA = 3
SMALL_BYTES = 38 * 10**6  # maximum size of codes in a small shard: 1,000 labels of 9,000 concepts
SMALL_SHARDS = 16  # number of small shards that are merged into a large one
_MAX_HEADER_BYTES = 2**16

# name -> dtype and shape: concepts V, labels M, distinct samples N, domains S, rank bins B, components K, bytes of JSON
# C
_TENSORS: Mapping[str, tuple[type[np.generic], str]] = {
    "basis": (np.float64, "KB"),
    "codes": (np.uint32, "VM"),
    "domain_ranks": (np.int32, "MSB"),
    "entries": (np.uint8, "C"),
    "mean_recall": (np.float64, "M"),
    "rank_shares": (np.float64, "MB"),
    "sample": (np.int32, "M"),
    "support": (np.int32, "NV"),
}
_DTYPES = {"F64": np.float64, "I32": np.int32, "U32": np.uint32, "U8": np.uint8}


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class IndexEntry(LabelFacts):
    """The entry of a label in an index, without its codes.

    Attributes:
        support: [V] int32, probe images; the same array for all labels of a shard with the same sample.
        mean_rank_shares: [RANK_BINS] float64.
        domain_ranks: [S, RANK_BINS] int32.
        mean_recall: Mean recall over the graph.
        sha256: Digest of the label's file.
    """

    support: NDArray[np.int32]
    mean_rank_shares: NDArray[np.float64]
    domain_ranks: NDArray[np.int32]
    mean_recall: float
    sha256: str

    @property
    def key(self) -> Key:
        """Slug and revision of the model."""
        return self.model.slug, self.model.revision

    @property
    def domains_tested(self) -> frozenset[str]:
        """Names of the domains that have probe images."""
        return frozenset(self.domain_names[s] for s in np.flatnonzero(self.domain_ranks.any(axis=1)))


def entry_of(label: LabelSummary, sha256: str, code: RankCode) -> tuple[IndexEntry, NDArray[np.uint32]]:
    """The index entry of a label and the codes [V] of its ranks; ``sha256`` is that of its file."""
    values = {each.name: getattr(label, each.name) for each in fields(IndexEntry) if each.name != "sha256"}
    return IndexEntry(**values, sha256=sha256), code.encode(label.ranks)


def shard_to_bytes(entries: Sequence[tuple[IndexEntry, NDArray[np.uint32]]], code: RankCode) -> bytes:
    """Serialize a shard of at least one entry, with codes [V]. The same entries always give the same bytes."""
    labels = [label for label, _ in entries]
    samples: dict[bytes, int] = {}
    sample = [samples.setdefault(label.support.astype(np.int32).tobytes(), len(samples)) for label in labels]
    n_domains = max(len(label.domain_ranks) for label in labels)
    padded = [np.pad(label.domain_ranks, ((0, n_domains - len(label.domain_ranks)), (0, 0))) for label in labels]
    metadata = ",".join(canonical_json({**label_metadata(label), "sha256": label.sha256}) for label in labels)
    tensors: dict[str, NDArray[Any]] = {
        "basis": code.basis,
        "codes": np.stack([codes for _, codes in entries], axis=1),
        "domain_ranks": np.stack(padded).astype(np.int32),
        "entries": np.frombuffer(f"[{metadata}]".encode(), np.uint8),
        "mean_recall": np.array([label.mean_recall for label in labels]),
        "rank_shares": np.stack([label.mean_rank_shares for label in labels]),
        "sample": np.array(sample, np.int32),
        "support": np.stack([np.frombuffer(content, np.int32) for content in samples]),
    }
    header = canonical_json({"schema": SCHEMA, "n_bins": code.n_bins})
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return save(contiguous, metadata={METADATA_KEY: header})


# --- reading ----------------------------------------------------------------------------------------------------------


class ByteSource(Protocol):
    """A file that is read in parts."""

    @property
    def name(self) -> str:
        """Path or URL, for messages."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    def read(self, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes | memoryview]:
        """The bytes of some ranges [start, end); remote files are read in few requests."""


@dataclass(frozen=True)
class InMemory:
    """The content of a file in memory or memory-mapped; the name is used in messages."""

    name: str
    content: memoryview

    @classmethod
    def mapped(cls, path: Path, name: str = "") -> InMemory:
        """Memory-map a file; the name is by default its path. A LabelError if it cannot be read."""
        try:
            with path.open("rb") as file:
                return cls(name or str(path), memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except (OSError, ValueError) as error:  # ValueError if the file is empty
            raise LabelError(f"cannot be read ({one_line(error)}); rebuild the index", path) from None

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.content)

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Memory views of some ranges."""
        return [self.content[start:end] for start, end in ranges]


@dataclass(frozen=True, eq=False)
class IndexShard:
    """One file of an index, M labels on V concepts.

    Attributes:
        source: The file.
        code: Decodes the codes.
        labels: [M] entries without their codes.
        start: Position of the codes in the file.
    """

    source: ByteSource
    code: RankCode
    labels: tuple[IndexEntry, ...]
    start: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kind(self) -> tuple[LabelGroup, int, int, bytes]:
        """Properties that all shards of an index must share: group, number of concepts, and code."""
        label = self.labels[0]
        return label.group, len(label.support), self.code.n_bins, self.code.basis.tobytes()

    @classmethod
    def open(cls, source: ByteSource) -> IndexShard:
        """Read and validate everything but the codes; a LabelError if the file is not a valid shard."""
        try:
            return cls._open(source)
        except LabelError as error:
            raise LabelError(f"{source.name} is not a valid index: {error.reason}; rebuild it") from None
        except UNREADABLE as error:
            raise LabelError(f"{source.name} is not a readable index ({one_line(error)}); rebuild it") from None

    @classmethod
    def _open(cls, source: ByteSource) -> IndexShard:
        head = bytes(source.read([(0, min(source.size, _MAX_HEADER_BYTES))])[0])
        header, first = read_metadata(head), 8 + int.from_bytes(head[:8], "little")
        layout = json.loads(head[8:first])
        layout.pop("__metadata__")
        ranges = {name: tuple(tensor["data_offsets"]) for name, tensor in layout.items()}
        ordered = sorted(ranges.values())
        ends = [0, *(end for _, end in ordered)]
        if [start for start, _ in ordered] != ends[:-1] or first + ends[-1] != source.size:
            raise LabelError("the tensors do not fill the file")
        small = [name for name in layout if name != "codes"]
        contents = source.read([(first + ranges[name][0], first + ranges[name][1]) for name in small])
        tensors = {
            name: np.frombuffer(content, _DTYPES[layout[name]["dtype"]]).reshape(layout[name]["shape"])
            for name, content in zip(small, contents, strict=True)
        }
        codes = layout["codes"]
        if codes["dtype"] != "U32" or 4 * math.prod(codes["shape"]) != ranges["codes"][1] - ranges["codes"][0]:
            raise LabelError("size and shape of the codes do not match")
        _check_shard(header, {**tensors, "codes": np.broadcast_to(np.uint32(0), codes["shape"])})
        code = RankCode(tensors["basis"], header["n_bins"])
        return cls(source, code, _read_entries(tensors), first + ranges["codes"][0])

    def rows(self, concepts: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.uint32]]:
        """The codes [M] of all labels for each of the concepts."""
        size = 4 * len(self)
        starts = [self.start + size * int(v) for v in concepts]
        return [np.frombuffer(row, np.uint32) for row in self.source.read([(start, start + size) for start in starts])]

    def entries(self, positions: Iterable[int]) -> list[tuple[IndexEntry, NDArray[np.uint32]]]:
        """The labels at some positions with their codes; reads the whole file."""
        codes = np.stack(self.rows(range(len(self.labels[0].support))))
        return [(self.labels[m], codes[:, m]) for m in positions]


def _check_shard(header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check the header, and the shapes and values of all tensors."""
    if header.get("schema") != SCHEMA:
        raise LabelError(
            f"schema {json.dumps(header.get('schema'))[:20]} is not {SCHEMA}, the one that this version reads"
        )
    if type(header.get("n_bins")) is not int or not 1 <= header["n_bins"] <= RANK_BINS:
        raise LabelError("the number of bins is out of range")
    sizes = {
        axis: tensors[name].shape[n]
        for name, n, axis in (("codes", 0, "V"), ("sample", 0, "M"), ("support", 0, "N"), ("domain_ranks", 1, "S"))
    }
    sizes |= {"B": RANK_BINS, "K": len(BITS), "C": tensors["entries"].size}
    check_tensors(tensors, _TENSORS, sizes)
    if not all(sizes.values()):
        raise LabelError("there are no labels, or no concepts")
    shares, recall = tensors["rank_shares"], tensors["mean_recall"]
    checks = {
        "a sample does not exist": tensors["sample"].min() >= 0 and tensors["sample"].max() < sizes["N"],
        "support is negative": tensors["support"].min() >= 0,
        "ranks by domain are negative": tensors["domain_ranks"].min() >= 0,
        "shares are not between 0 and 1": shares.min() >= 0 and shares.max() <= 1 + 1e-9,
        "recall is not between 0 and 1": recall.min() >= 0 and recall.max() <= 1,
        "the basis is not finite": np.isfinite(tensors["basis"]).all() and np.abs(tensors["basis"]).max() < 100,
    }
    raise_on_failures(checks)


def _read_entries(tensors: Mapping[str, NDArray[Any]]) -> tuple[IndexEntry, ...]:
    """All entries; their metadata is validated like that of labels."""
    entries = json.loads(tensors["entries"].tobytes())
    if not isinstance(entries, list) or len(entries) != len(tensors["sample"]):
        raise LabelError("the numbers of entries and labels differ")
    supports, samples, means = list(tensors["support"]), tensors["sample"].tolist(), tensors["mean_recall"].tolist()
    labels, shared = [], dict[Any, Any]()
    for m, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(sha256 := entry.get("sha256"), str):
            raise LabelError("an entry lacks the sha256 of its label")
        values = fields_from_metadata(entry)
        for name in ("sampling", "environment", "domain_names"):  # share equal objects to save memory
            values[name] = shared.setdefault(values[name], values[name])
        if (n_domains := len(values["domain_names"])) > tensors["domain_ranks"].shape[1]:
            raise LabelError("a label has more domains than the index")
        shares, domain_ranks = tensors["rank_shares"][m], tensors["domain_ranks"][m, :n_domains]
        labels.append(IndexEntry(**values, support=supports[samples[m]], mean_rank_shares=shares,
                                 domain_ranks=domain_ranks, mean_recall=means[m], sha256=sha256))  # fmt: skip
    if len({label.group for label in labels}) != 1:
        raise LabelError("its labels are of several groups")
    return tuple(labels)


# --- the index --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class IndexedLabel(IndexEntry):
    """An entry together with its index. It can be joined like a summary, but its ranks are only in the index.

    Attributes:
        index: The index.
        position: Its position in the index.
    """

    index: LabelIndex
    position: int


@dataclass(frozen=True, eq=False)
class LabelIndex:
    """The shards of one group. Positions count the labels of all shards, one shard after another.

    Attributes:
        shards: At least one; a LabelError if they are not of one group.
        current: Sha256 of all existing label files, by slug and revision of the model; outdated entries of the shards
            are left out of :attr:`labels`. None to keep all entries.
    """

    shards: tuple[IndexShard, ...]
    current: Mapping[Key, str] | None = None

    def __post_init__(self) -> None:
        if len({shard.kind for shard in self.shards}) != 1:
            stem = self.shards[0].labels[0].group.stem
            raise LabelError(f"the shards of index {stem} are of several groups; rebuild it")

    @property
    def code(self) -> RankCode:
        """The code of all shards."""
        return self.shards[0].code

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """Position of the first label of each shard."""
        return tuple(np.cumsum([0, *map(len, self.shards)])[:-1].tolist())

    @cached_property
    def labels(self) -> tuple[IndexedLabel, ...]:
        """The current labels, one per model."""
        found: dict[Key, IndexedLabel] = {}
        samples: dict[bytes, NDArray[np.int32]] = {}
        for first, shard in zip(self.firsts, self.shards, strict=True):
            supports = {id(label.support): label.support for label in shard.labels}
            shared = {key: samples.setdefault(support.tobytes(), support) for key, support in supports.items()}
            for position, label in enumerate(shard.labels, first):
                key = label.key
                if key not in found and (self.current is None or self.current.get(key) == label.sha256):
                    known = {**vars(label), "support": shared[id(label.support)]}
                    found[key] = IndexedLabel(**known, index=self, position=position)
        return tuple(found.values())

    def codes(self, concepts: NDArray[np.int64]) -> NDArray[np.uint32]:
        """[A, M] codes of all labels for some concepts."""
        codes = np.empty((len(concepts), sum(map(len, self.shards))), np.uint32)
        for first, shard in zip(self.firsts, self.shards, strict=True):
            for all_codes, shard_codes in zip(codes, shard.rows(concepts), strict=True):
                all_codes[first : first + len(shard)] = shard_codes
        return codes

    def check(self, position: int, label: LabelSummary, concepts: NDArray[np.int64], codes: NDArray[np.uint32]) -> None:
        """Raise a LabelError if a label does not match the entry at a position, whose codes on A concepts are given."""
        n = int(np.searchsorted(self.firsts, position, side="right")) - 1
        entry = self.shards[n].labels[position - self.firsts[n]]
        pairs = zip(code_fields(codes), code_fields(self.code.encode(label.ranks[concepts])), strict=True)
        agrees = (
            canonical_json(label_metadata(entry)) == canonical_json(label_metadata(label))
            and np.array_equal(entry.support, label.support)
            and np.array_equal(entry.domain_ranks, label.domain_ranks)
            and np.allclose(entry.mean_rank_shares, label.mean_rank_shares, rtol=0, atol=1e-6)
            and math.isclose(entry.mean_recall, label.mean_recall, abs_tol=1e-6)
            and all(np.abs(a.astype(np.int64) - b).max(initial=0) <= 1 for a, b in pairs)  # rounded on other machines
        )
        if not agrees:
            raise LabelError(f"the index does not match the label of {label.model.repo_id}; rebuild the index")


# --- building and updating --------------------------------------------------------------------------------------------


def complete_index(
    shards: Mapping[int, IndexShard], current: Mapping[Key, str], graph: SemanticGraph, read: Reader
) -> LabelIndex | None:
    """The index of a group, with missing labels added in memory; None without labels.

    Arguments as for :func:`update_shards`.
    """
    found, code = list(shards.values()), _code_of(shards, graph)
    indexed = {label.key for shard in found for label in shard.labels if current.get(label.key) == label.sha256}
    if entries := [entry_of(label, digest, code) for label, digest in read(sorted(current.keys() - indexed))]:
        found.append(IndexShard.open(InMemory(graph.name, memoryview(shard_to_bytes(entries, code)))))
    return LabelIndex(tuple(found), current) if found else None


def update_shards(
    shards: Mapping[int, IndexShard], current: Mapping[Key, str], graph: SemanticGraph, read: Reader
) -> Iterator[tuple[int, bytes | None]]:
    """Update the index of a group.

    Args:
        shards: Existing shards by number.
        current: Sha256 of all existing label files.
        graph: The graph.
        read: Reads labels that are missing from the shards.

    Yields:
        Numbers of shards and their new content, None to delete a shard; to be applied in this order.
    """
    small, code = max(1, SMALL_BYTES // (4 * len(graph))), _code_of(shards, graph)
    missing, lengths = dict(current), dict[int, int]()
    changed: dict[int, list[tuple[IndexEntry, NDArray[np.uint32]]]] = {}

    def entries(number: int) -> list[tuple[IndexEntry, NDArray[np.uint32]]]:
        if number not in changed:
            changed[number] = shards[number].entries(range(len(shards[number])))
        return changed[number]

    for number, shard in sorted(shards.items()):
        kept = [
            m
            for m, label in enumerate(shard.labels)
            if missing.get(label.key) == label.sha256 and missing.pop(label.key)
        ]
        lengths[number] = len(kept)
        if len(kept) < len(shard):
            changed[number] = shard.entries(kept)
    for label, digest in read(sorted(missing)):
        last = max(lengths, default=-1)
        if lengths.get(last, small) >= small:
            last += 1
            lengths[last], changed[last] = 0, []
        entries(last).append(entry_of(label, digest, code))
        lengths[last] += 1
        to_merge = [number for number, length in lengths.items() if length <= small]
        if lengths[last] == small and len(to_merge) >= SMALL_SHARDS:
            merged = [entry for number in to_merge for entry in entries(number)]
            yield to_merge[0], shard_to_bytes(merged, code)
            yield from ((number, None) for number in to_merge[1:])
            for number in to_merge:
                del lengths[number], changed[number]
            lengths[to_merge[0]] = len(merged)
    for number, content in sorted(changed.items()):
        yield number, shard_to_bytes(content, code) if content else None


def _code_of(shards: Mapping[int, IndexShard], graph: SemanticGraph) -> RankCode:
    """The code of the shards, since it may be rounded differently on another machine; of the graph without shards."""
    return next((shard.code for shard in shards.values()), None) or RankCode.of_graph(graph)
