"""An index over the labels of one group: what selection needs of each label, four bytes per concept.

An index is a folder of shards. A shard is a safetensors file with one row per concept and one column per label, so a
task reads only the rows of its own concepts. Labels are appended: only the last, small shard is rewritten, and small
shards are merged when there are many.

Files are read in parts through :class:`ByteSource`, and as hostile input. What an index says is only used to find the
most promising labels; the choice among these is made from whole, validated labels.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
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
    read_metadata,
)
from mll_hf.labels.label import Cost, LabelFacts, LabelGroup, ModelRef
from mll_hf.labels.rank_code import BITS, RankCode, code_fields
from mll_hf.utils.files import canonical_json
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.labels.label import LabelSummary

SCHEMA = 1
SMALL_BYTES = 2**24  # codes of a small shard; up to 40 MB of labels are in at most three shards
SMALL_SHARDS = 16  # so many small shards are merged into a large one
_MOST_HEADER_BYTES = 2**16

# name -> dtype and shape, in terms of the numbers of concepts V, labels M, distinct samples N, domains S, bins of ranks
# B, components K and characters of JSON C
_TENSORS: Mapping[str, tuple[type[np.generic], str]] = {
    "basis": (np.float64, "KB"),
    "codes": (np.uint32, "VM"),
    "domain_ranks": (np.int32, "MSB"),
    "entries": (np.uint8, "C"),
    "mean_precision": (np.float64, "M"),
    "rank_shares": (np.float64, "MB"),
    "sample": (np.int32, "M"),
    "support": (np.int32, "NV"),
    "temperature": (np.float32, "M"),
}
_DTYPES = {"F64": np.float64, "F32": np.float32, "I32": np.int32, "U32": np.uint32, "U8": np.uint8}
_OWN = {"repo_id": str, "revision": str, "backend": str, "parameters": int, "gflops": float, "digest": str}
_OF_MODEL, _OF_COST = ("repo_id", "revision", "backend"), ("parameters", "gflops")


# --- what is kept of a label ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Entry:
    """What an index keeps of one label.

    Attributes:
        metadata: All that is not a tensor, see :func:`~mll_hf.labels.file_format.label_metadata`.
        digest: Sha256 of the label's file.
        codes: [V] see :class:`RankCode`.
        support: [V] probe images.
        rank_shares: [RANK_BINS] mean rank shares.
        domain_ranks: [S, RANK_BINS].
        mean_precision: Mean recall.
        temperature: Calibration temperature.
    """

    metadata: dict[str, Any]
    digest: str
    codes: NDArray[np.uint32]
    support: NDArray[np.int32]
    rank_shares: NDArray[np.float64]
    domain_ranks: NDArray[np.int32]
    mean_precision: float
    temperature: float

    @classmethod
    def of(
        cls, label: LabelSummary, digest: str, code: RankCode, concepts: NDArray[np.int64] | slice = slice(None)
    ) -> Entry:
        """What is kept of a label; codes of some concepts only, if they are named."""
        return cls(
            label_metadata(label),
            digest,
            code.encode(label.ranks[concepts]),
            label.support,
            label.mean_rank_shares,
            label.domain_ranks,
            label.mean_precision,
            float(label.temperature[0]),
        )


def shard_to_bytes(entries: Sequence[Entry], code: RankCode) -> bytes:
    """Serialize a shard. The same entries always give the same bytes.

    Args:
        entries: At least one; all of one group.
        code: The code of their graph.
    """
    first = entries[0].metadata
    samples: dict[bytes, int] = {}
    sample = [samples.setdefault(entry.support.astype(np.int32).tobytes(), len(samples)) for entry in entries]
    common: dict[str, int] = {}
    shared = [common.setdefault(canonical_json(_without_own(e.metadata)), len(common)) for e in entries]
    own = [{**e.metadata["model"], **e.metadata["cost"], "digest": e.digest} for e in entries]
    columns = {
        "common": [json.loads(text) for text in common],
        "shared": shared,
        "license": [entry.metadata["license"] for entry in entries],
        **{name: [values[name] for values in own] for name in _OWN},
    }
    n_domains = max(len(entry.domain_ranks) for entry in entries)
    padded = [np.pad(entry.domain_ranks, ((0, n_domains - len(entry.domain_ranks)), (0, 0))) for entry in entries]
    tensors: dict[str, NDArray[Any]] = {
        "basis": code.basis,
        "codes": np.stack([entry.codes for entry in entries], axis=1),
        "domain_ranks": np.stack(padded).astype(np.int32),
        "entries": np.frombuffer(canonical_json(columns).encode(), np.uint8),
        "mean_precision": np.array([entry.mean_precision for entry in entries]),
        "rank_shares": np.stack([entry.rank_shares for entry in entries]),
        "sample": np.array(sample, np.int32),
        "support": np.stack([np.frombuffer(content, np.int32) for content in samples]),
        "temperature": np.array([entry.temperature for entry in entries], np.float32),
    }
    header = {
        "schema": SCHEMA,
        "graph": first["graph"]["digest"],
        "probes": first["probes"]["revision"],
        "seed": first["config"]["seed"],
        "n_bins": code.n_bins,
    }
    return save(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        metadata={METADATA_KEY: canonical_json(header)},
    )


def _without_own(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key not in ("model", "cost", "license")}


# --- reading ----------------------------------------------------------------------------------------------------------


class ByteSource(Protocol):
    """A file that is read in parts."""

    @property
    def name(self) -> str:
        """Path or address, for messages."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    def read(self, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes | memoryview]:
        """The bytes of some ranges [start, end); a remote file is asked for many ranges at a time."""


@dataclass(frozen=True)
class InMemory:
    """A file in memory, or mapped into it.

    Attributes:
        name: Path, for messages.
        content: Its bytes.
    """

    name: str
    content: memoryview

    @classmethod
    def mapped(cls, path: Path) -> InMemory:
        """Map a file into memory.

        Raises:
            LabelError: It cannot be read.
        """
        try:
            with path.open("rb") as file:
                return cls(str(path), memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except (OSError, ValueError) as error:  # a ValueError if it is empty
            raise LabelError(f"cannot be read ({one_line(error)}); build the index anew", path) from None

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.content)

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Views of some ranges."""
        return [self.content[start:end] for start, end in ranges]


@dataclass(frozen=True, eq=False)
class IndexShard:
    """One file of an index, M labels on V concepts.

    Attributes:
        source: The file.
        group: The group of its labels.
        code: How its codes are read.
        tensors: All tensors but the codes.
        columns: What is said of each label, by name.
        common: Fields of labels that several have in common.
        n_concepts: V.
        start: Where in the file the codes start.
    """

    source: ByteSource
    group: LabelGroup
    code: RankCode
    tensors: Mapping[str, NDArray[Any]]
    columns: Mapping[str, list[Any]]
    common: tuple[Mapping[str, Any], ...]
    n_concepts: int
    start: int

    def __len__(self) -> int:
        return len(self.tensors["sample"])

    @cached_property
    def models(self) -> tuple[ModelRef, ...]:
        """[M] the models."""
        return tuple(map(ModelRef, *(self.columns[name] for name in _OF_MODEL)))

    @cached_property
    def keys(self) -> tuple[tuple[tuple[str, str], str], ...]:
        """[M] slug and revision of each model, and the sha256 of its label's file."""
        pairs = zip(self.models, self.columns["digest"], strict=True)
        return tuple(((model.slug, model.revision), digest) for model, digest in pairs)

    @classmethod
    def open(cls, source: ByteSource) -> IndexShard:
        """Read and validate everything but the codes.

        Raises:
            LabelError: The file is no shard of an index.
        """
        try:
            return cls._open(source)
        except LabelError as error:
            raise LabelError(f"{source.name} is no valid index: {error.reason}; build it anew") from None
        except UNREADABLE as error:
            raise LabelError(f"{source.name} is no readable index ({one_line(error)}); build it anew") from None

    @classmethod
    def _open(cls, source: ByteSource) -> IndexShard:
        head = bytes(source.read([(0, min(source.size, _MOST_HEADER_BYTES))])[0])
        header, first = read_metadata(head), 8 + int.from_bytes(head[:8], "little")
        layout = json.loads(head[8:first])
        layout.pop("__metadata__")
        ranges = {name: tuple(of["data_offsets"]) for name, of in layout.items()}
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
            raise LabelError("the codes have another size than their shape says")
        shapes = {**tensors, "codes": np.broadcast_to(np.uint32(0), codes["shape"])}
        _check_shard(header, shapes)
        columns = _read_columns(tensors["entries"].tobytes(), len(tensors["sample"]))
        group = LabelGroup(header["graph"], header["probes"], header["seed"])
        common = tuple(_read_common(of, group, tensors["domain_ranks"].shape[1]) for of in columns["common"])
        code = RankCode(tensors["basis"], header["n_bins"])
        return cls(source, group, code, tensors, columns, common, codes["shape"][0], first + ranges["codes"][0])

    def rows(self, concepts: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.uint32]]:
        """The codes [M] of all labels, for each of some concepts."""
        size = 4 * len(self)
        starts = [self.start + size * int(v) for v in concepts]
        return [np.frombuffer(row, np.uint32) for row in self.source.read([(at, at + size) for at in starts])]

    def metadata(self, m: int) -> dict[str, Any]:
        """All that one label says besides tensors."""
        columns = self.columns
        return {
            **columns["common"][columns["shared"][m]],
            "model": {name: columns[name][m] for name in _OF_MODEL},
            "cost": {name: columns[name][m] for name in _OF_COST},
            "license": columns["license"][m],
        }

    def entry(self, m: int, codes: NDArray[np.uint32]) -> Entry:
        """What is kept of one label.

        Args:
            m: Its position.
            codes: Its codes.
        """
        metadata, tensors = self.metadata(m), self.tensors
        return Entry(
            metadata,
            self.columns["digest"][m],
            codes,
            tensors["support"][tensors["sample"][m]],
            tensors["rank_shares"][m],
            tensors["domain_ranks"][m, : len(metadata["domains"])],
            float(tensors["mean_precision"][m]),
            float(tensors["temperature"][m]),
        )

    def entries(self, positions: Iterable[int]) -> list[Entry]:
        """What is kept of some labels; reads the whole file."""
        codes = np.stack(self.rows(range(self.n_concepts)))
        return [self.entry(m, codes[:, m]) for m in positions]


def _check_shard(header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check the header, the shape of every tensor and the range of its values."""
    if header.get("schema") != SCHEMA:
        raise LabelError(f"schema {json.dumps(header.get('schema'))[:20]} is not {SCHEMA}, which this version reads")
    names = isinstance(header.get("graph"), str) and isinstance(header.get("probes"), str)
    if not names or type(header.get("seed")) is not int or type(header.get("n_bins")) is not int:
        raise LabelError("the header lacks the group or the number of bins")
    if not 1 <= header["n_bins"] <= RANK_BINS:
        raise LabelError("the number of bins is out of range")
    sizes = {
        axis: tensors[name].shape[n]
        for name, n, axis in (("codes", 0, "V"), ("sample", 0, "M"), ("support", 0, "N"), ("domain_ranks", 1, "S"))
    }
    sizes |= {"B": RANK_BINS, "K": len(BITS), "C": tensors["entries"].size}
    check_tensors(tensors, _TENSORS, sizes)
    if not all(sizes.values()):
        raise LabelError("there are no labels, or no concepts")
    shares, level, temperature = (tensors[name] for name in ("rank_shares", "mean_precision", "temperature"))
    fine = {
        "a sample does not exist": tensors["sample"].min() >= 0 and tensors["sample"].max() < sizes["N"],
        "support is negative": tensors["support"].min() >= 0,
        "ranks of a domain are negative": tensors["domain_ranks"].min() >= 0,
        "shares are not between 0 and 1": shares.min() >= 0 and shares.max() <= 1 + 1e-9,
        "recall is not between 0 and 1": level.min() >= 0 and level.max() <= 1,
        "a temperature is not positive": bool((temperature > 0).all() and np.isfinite(temperature).all()),
        "the basis is not finite": np.isfinite(tensors["basis"]).all() and np.abs(tensors["basis"]).max() < 100,
    }
    if faults := [fault for fault, passed in fine.items() if not passed]:
        raise LabelError(", ".join(faults))


def _read_columns(content: bytes, n_labels: int) -> dict[str, list[Any]]:
    """Parse what is said of each label; every column must have the right length and type."""
    columns = json.loads(content)
    if not isinstance(columns, dict) or set(columns) != {*_OWN, "common", "shared", "license"}:
        raise LabelError("the entries lack a column")
    if any(not isinstance(column, list) or (name != "common" and len(column) != n_labels)
           for name, column in columns.items()):  # fmt: skip
        raise LabelError("a column of the entries has another length than there are labels")
    for name, kind in _OWN.items():
        allowed = {int, float} if kind is float else {kind}
        if not set(map(type, columns[name])) <= allowed:
            raise LabelError(f"'{name}' of an entry is no {kind.__name__}")
    costs = [*columns["parameters"], *columns["gflops"]]
    if not all(0 <= cost < 2**63 for cost in costs):
        raise LabelError("a cost is out of range")
    if not set(map(type, columns["license"])) <= {str, type(None)}:
        raise LabelError("'license' of an entry is no str")
    if not set(map(type, columns["shared"])) <= {int} or not all(
        0 <= n < len(columns["common"]) for n in columns["shared"]
    ):
        raise LabelError("an entry refers to what does not exist")
    return columns


def _read_common(common: object, group: LabelGroup, n_domains: int) -> Mapping[str, Any]:
    """Parse what several labels have in common, by the rules for labels."""
    if not isinstance(common, dict):
        raise LabelError("what labels have in common is no object")
    model, cost = {"repo_id": "any/name", "revision": "0" * 40, "backend": ""}, {"parameters": 0, "gflops": 0}
    known = fields_from_metadata({**common, "model": model, "cost": cost, "license": None})
    if LabelGroup(known["graph_digest"], known["probes_revision"], known["sampling"].seed) != group:
        raise LabelError("a label is of another group")
    if len(known["domain_names"]) > n_domains:
        raise LabelError("a label has more domains than counts")
    return _without_own(known)


# --- an index as a whole ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class IndexedLabel(LabelFacts):
    """A label as an index knows it; labels are joined over graphs by what it says.

    Attributes:
        domains_tested: Names of the domains that have probe images.
        index: The index.
        position: Its position there.
    """

    domains_tested: frozenset[str]
    index: LabelIndex
    position: int

    @property
    def mean_precision(self) -> float:
        """Mean recall over the graph."""
        return float(self.index.mean_precision[self.position])


@dataclass(frozen=True, eq=False)
class LabelIndex:
    """The shards of one group. Positions count the labels of all shards, one shard after another.

    Attributes:
        shards: At least one.
        current: Sha256 of the file of every label that there is, by slug and revision of its model; labels of which
            the shards have another digest are left out of :attr:`labels`. None takes all.
    """

    shards: tuple[IndexShard, ...]
    current: Mapping[tuple[str, str], str] | None = None

    def __post_init__(self) -> None:
        if len({(shard.group, shard.n_concepts) for shard in self.shards}) != 1:
            raise LabelError(f"the shards of index {self.shards[0].group.stem} are of several groups; build it anew")

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """Position of the first label of each shard."""
        return tuple(np.cumsum([0, *map(len, self.shards)])[:-1].tolist())

    @cached_property
    def labels(self) -> tuple[IndexedLabel, ...]:
        """The labels that are current, each model once."""
        found: dict[tuple[str, str], IndexedLabel] = {}
        for first, shard in zip(self.firsts, self.shards, strict=True):
            tested: list[list[bool]] = shard.tensors["domain_ranks"].any(axis=2).tolist()  # type: ignore[assignment]
            names: dict[tuple[Any, ...], frozenset[str]] = {}
            columns = (shard.columns[name] for name in ("shared", "license", *_OF_COST))
            for m, (model, (key, digest), shared, license_id, *cost) in enumerate(
                zip(shard.models, shard.keys, *columns, strict=True)
            ):
                if key in found or (self.current is not None and self.current.get(key) != digest):
                    continue
                facts, kind = shard.common[shared], (shared, *tested[m])
                if kind not in names:
                    pairs = zip(facts["domain_names"], tested[m], strict=False)
                    names[kind] = frozenset(name for name, any_image in pairs if any_image)
                own = {"model": model, "cost": Cost(*cost), "license": license_id}
                found[key] = IndexedLabel(**facts, **own, domains_tested=names[kind], index=self, position=first + m)
        return tuple(found.values())

    @cached_property
    def rank_shares(self) -> NDArray[np.float64]:
        """[M, RANK_BINS] mean rank shares."""
        return self._joined("rank_shares")

    @cached_property
    def mean_precision(self) -> NDArray[np.float64]:
        """[M] mean recall."""
        return self._joined("mean_precision")

    @cached_property
    def samples(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """[M] which sample of probe images a label rests on, and the support [N, V] of the distinct samples."""
        distinct: dict[bytes, int] = {}
        numbers = []
        for shard in self.shards:
            of_shard = [distinct.setdefault(row.tobytes(), len(distinct)) for row in shard.tensors["support"]]
            numbers.append(np.array(of_shard)[shard.tensors["sample"]])
        return np.concatenate(numbers), np.stack([np.frombuffer(row, np.int32) for row in distinct])

    def _joined(self, name: str) -> NDArray[Any]:
        return np.concatenate([shard.tensors[name] for shard in self.shards])

    @cached_property
    def domain_ranks(self) -> NDArray[np.int32]:
        """[M, S, RANK_BINS] images by domain and rank; S is that of the label with the most domains."""
        parts = [shard.tensors["domain_ranks"] for shard in self.shards]
        most = max(part.shape[1] for part in parts)
        return np.concatenate([np.pad(part, ((0, 0), (0, most - part.shape[1]), (0, 0))) for part in parts])

    def shard_of(self, positions: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Number of the shard that each position is in."""
        return np.searchsorted(self.firsts, positions, side="right") - 1

    def check(self, position: int, label: LabelSummary, concepts: NDArray[np.int64], codes: NDArray[np.uint32]) -> None:
        """Check that the index says of a label what the label says itself.

        Args:
            position: Its position.
            label: The label.
            concepts: [A] some concepts.
            codes: [A] their codes in the index.

        Raises:
            LabelError: It does not.
        """
        n = int(self.shard_of(position))
        shard, m = self.shards[n], position - self.firsts[n]
        kept, true = shard.entry(m, codes), Entry.of(label, "", shard.code, concepts)
        pairs = zip(code_fields(kept.codes), code_fields(true.codes), strict=True)
        agrees = (
            canonical_json(kept.metadata) == canonical_json(true.metadata)
            and np.array_equal(kept.support, true.support)
            and np.array_equal(kept.domain_ranks, true.domain_ranks)
            and np.allclose(kept.rank_shares, true.rank_shares, rtol=0, atol=1e-6)
            and math.isclose(kept.mean_precision, true.mean_precision, abs_tol=1e-6)
            and math.isclose(kept.temperature, true.temperature, rel_tol=1e-6)
            and all(np.abs(a.astype(np.int64) - b).max(initial=0) <= 1 for a, b in pairs)  # rounded elsewhere
        )
        if not agrees:
            raise LabelError(f"the index disagrees with the label of {label.model.repo_id}; build the index anew")


# --- building and updating --------------------------------------------------------------------------------------------


def shard_path(group: LabelGroup, number: int) -> str:
    """Path of a shard in a folder of labels or a collection."""
    return f"index/{group.stem}/{number:05d}.safetensors"


def update_shards(
    shards: Mapping[int, IndexShard],
    current: Mapping[tuple[str, str], str],
    code: RankCode,
    n_concepts: int,
    read: Callable[[Sequence[tuple[str, str]]], Iterable[tuple[LabelSummary, str]]],
) -> Iterator[tuple[int, bytes | None]]:
    """Bring the index of a group up to date.

    Args:
        shards: The shards that there are, by number.
        current: Sha256 of the file of every label that there is, by slug and revision of its model.
        code: The code of the graph.
        n_concepts: Number of concepts of the graph.
        read: Reads the labels that no shard has, given their keys; returns each with the sha256 of its file.

    Yields:
        Numbers of shards and their new content, None for those to delete; to be carried out in this order.
    """
    small = max(1, SMALL_BYTES // (4 * n_concepts))
    missing, lengths = dict(current), dict[int, int]()
    changed: dict[int, list[Entry]] = {}
    for number, shard in sorted(shards.items()):
        kept = [m for m, (key, digest) in enumerate(shard.keys) if missing.get(key) == digest and missing.pop(key)]
        lengths[number] = len(kept)
        if len(kept) < len(shard):
            changed[number] = shard.entries(kept)
    last = max(lengths, default=-1)
    for label, digest in read(sorted(missing)):
        if lengths.get(last, small) >= small:
            last += 1
            lengths[last], changed[last] = 0, []
        if last not in changed:
            changed[last] = shards[last].entries(range(len(shards[last])))
        changed[last].append(Entry.of(label, digest, code))
        lengths[last] += 1
        to_merge = [number for number, length in lengths.items() if length <= small]
        if lengths[last] == small and len(to_merge) >= SMALL_SHARDS:
            parts = [changed.pop(n) if n in changed else shards[n].entries(range(len(shards[n]))) for n in to_merge]
            yield to_merge[0], shard_to_bytes([entry for part in parts for entry in part], code)
            yield from ((number, None) for number in to_merge[1:])
            lengths = {number: n for number, n in lengths.items() if number not in to_merge[1:]}
            lengths[to_merge[0]] = sum(map(len, parts))
            last = max(lengths)
    for number, entries in sorted(changed.items()):
        yield number, shard_to_bytes(entries, code) if entries else None
