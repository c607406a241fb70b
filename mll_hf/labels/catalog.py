"""Very many labels of one graph in a form of which choosing reads only what it needs.

A catalog is a folder: ``graph.json``, and shards of up to 2,048 labels each. A shard is a safetensors file that is
mapped into memory, never read whole. Its labels are there twice:

- by label, as summaries (:class:`~mll_hf.labels.label.LabelSummary`), for those that are chosen or looked at;
- by concept, as shares: what share of the concept's images each model is expected to win among 2, 5, 17 ... candidates,
  a byte each. They bound what a label can come to for any number of classes (:mod:`mll_hf.selection.bounds`), so
  that few labels have to be looked at closely.

A catalog is written by one who has the labels, who validates them; to anyone else it is a stranger's file like any
other. What is read of it is checked: opening it checks its layout, and a label is validated again when it is chosen.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import shutil
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import InputError, LabelError
from mll_hf.graph.concepts import GRAPH_FILE, SemanticGraph, load_graph, save_graph
from mll_hf.labels.counts import NO_RIVAL, RANK_BINS, chances_to_win
from mll_hf.labels.label import (
    METADATA_KEY,
    UNREADABLE,
    LabelSummary,
    ModelRef,
    check_summary,
    fields_from_metadata,
    label_metadata,
    rival_counts,
)
from mll_hf.labels.store import CATALOG_SHARDS, Origin
from mll_hf.utils.files import canonical_json, storage_errors
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.embeddings import ProbeEmbeddings
    from mll_hf.labels.label import ModelLabel

SCHEMA = 1
CANDIDATES = (2, 5, 17, 65, 257, 1025, 4097)  # for so many, shares of wins are kept
SHARE_UNIT = 255  # a share of 1 is kept as this
_PER_SHARD = 2048
_AT_ONCE, _CONCEPTS = 64, 256  # labels and concepts that are worked on together, so that caches are of use
_ALIGNMENT = 4096
_MOST_HEADER_BYTES = 2**24
_NARROW = 255  # support up to here lets ranks be stored in 8 bits

# name -> safetensors' names of the dtypes allowed, and the shape in terms of the numbers of labels M, concepts V, parts
# P, bins of ranks B, kinds of shares K and distinct samples of probe images N; D rows of domains and C bytes of claims
_TENSORS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "shares": (("U8",), "VKM"),
    "ranks": (("U8", "U16"), "MVB"),
    "support": (("U16",), "NV"),
    "sample": (("I32",), "M"),
    "mean_rank_shares": (("F64",), "MPB"),
    "mean_precision": (("F64",), "M"),
    "domain_ranks": (("I32",), "DB"),
    "temperature": (("F32",), "M"),
    "parameters": (("I64",), "M"),
    "gflops": (("F64",), "M"),
    "crc": (("U32",), "M"),
    "claim_ends": (("I64",), "M"),
    "claims": (("U8",), "C"),
}
_DTYPES: Mapping[str, type[np.generic]] = {
    "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "I32": np.int32, "I64": np.int64, "F32": np.float32,
    "F64": np.float64,
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_COLUMNS = ("sample", "mean_rank_shares", "mean_precision", "parameters", "gflops")  # what is read of all labels


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of a catalog.

    Attributes:
        path: The file.
        memory: The file, mapped.
        tensors: Views into it, by name.
        metadata: What is said of it.
        first: Position of its first label in the catalog.
    """

    path: Path
    memory: mmap.mmap
    tensors: Mapping[str, NDArray[Any]]
    metadata: Mapping[str, Any]
    first: int

    def __len__(self) -> int:
        return len(self.tensors["sample"])

    def expect(self, name: str, starts: NDArray[np.int64], n_bytes: int) -> None:
        """Let the system fetch parts of a tensor from disk, many at once, before they are read one by one.

        Args:
            name: The tensor.
            starts: Where in it the parts start, in bytes.
            n_bytes: Size of each.
        """
        if hasattr(mmap, "MADV_WILLNEED"):
            starts = starts + (self.tensors[name].ctypes.data - np.frombuffer(self.memory, np.uint8).ctypes.data)
            pages = starts - starts % mmap.PAGESIZE
            for page, end in zip(pages.tolist(), (starts + n_bytes).tolist(), strict=True):
                self.memory.madvise(mmap.MADV_WILLNEED, page, end - page)

    def forget(self) -> None:
        """Let go of the pages that were read; the system may still have them in its cache."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class Columns:
    """What is known of all M labels at once.

    Attributes:
        models: [M] ids and revisions.
        parameters: [M] int64.
        gflops: [M] float64, for one image.
        mean_precision: [M] float64, the models' general level.
        mean_rank_shares: [M, 1 + packs, RANK_BINS] float64, see :class:`~mll_hf.labels.label.LabelSummary`.
        sample: [M] which sample of probe images a label rests on: a row of ``support``.
        support: [N, V] uint16, images of each concept in each of the N samples.
        domain_names: Domains of each sample.
        part_numbers: [V] int32, 0 for concepts of the base graph, and so on.
    """

    models: tuple[tuple[str, str], ...]
    parameters: NDArray[np.int64]
    gflops: NDArray[np.float64]
    mean_precision: NDArray[np.float64]
    mean_rank_shares: NDArray[np.float64]
    sample: NDArray[np.int32]
    support: NDArray[np.uint16]
    domain_names: tuple[tuple[str, ...], ...]
    part_numbers: NDArray[np.int32]

    @cached_property
    def part_sizes(self) -> tuple[int, ...]:
        """Concepts of the base graph and of each pack."""
        return tuple(np.bincount(self.part_numbers, minlength=self.mean_rank_shares.shape[1]).tolist())


@dataclass(frozen=True)
class Catalog:
    """A catalog, as a source of labels.

    Attributes:
        folder: Where it is.
    """

    folder: Path

    def __len__(self) -> int:
        return len(self.columns.models)

    @property
    def name(self) -> str:
        """The folder, as text."""
        return str(self.folder)

    @cached_property
    def graph(self) -> SemanticGraph:
        """The graph that all labels belong to.

        Raises:
            GraphError: It cannot be read.
        """
        return load_graph(self.folder)

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The files, mapped into memory.

        Raises:
            LabelError: One of them is damaged, or is no shard of this catalog.
        """
        shards, first = [], 0
        for path in sorted(self.folder.glob(CATALOG_SHARDS)):
            shards.append(_open_shard(path, self.graph, first))
            first += len(shards[-1])
            if shards[-1].metadata["parts"] != shards[0].metadata["parts"]:
                raise _damaged(path, "its labels cover other packs than those before")
        return tuple(shards)

    @cached_property
    def columns(self) -> Columns:
        """What is known of all labels at once."""
        shards = self.shards
        joined = {name: np.concatenate([shard.tensors[name] for shard in shards]) for name in _COLUMNS}
        before = np.cumsum([0, *(len(shard.tensors["support"]) for shard in shards)])
        joined["sample"] += np.repeat(before[:-1], [len(shard) for shard in shards]).astype(np.int32)
        support = np.concatenate([shard.tensors["support"] for shard in shards])
        names = [tuple(names) for shard in shards for names in shard.metadata["domains"]]
        support, names, joined["sample"] = _distinct_samples(support, names, joined["sample"])
        return Columns(
            models=tuple((id, revision) for shard in shards for id, revision in shard.metadata["models"]),
            support=support,
            domain_names=tuple(names),
            part_numbers=_part_numbers(shards[0].metadata["parts"], len(self.graph)),
            **joined,
        )

    def domain_ranks(self, named: Sequence[int | None]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Two arrays [M, RANK_BINS]: tests by rank of one domain, and of all.

        Args:
            named: For each sample the position of the domain that is wanted, if there is one; else zeros are returned.
        """
        sample = self.columns.sample
        sizes = np.array([len(names) for names in self.columns.domain_names])[sample]
        rows = np.concatenate([shard.tensors["domain_ranks"] for shard in self.shards])
        starts = np.cumsum(sizes) - sizes
        overall = np.add.reduceat(rows, starts, axis=0, dtype=np.int64)
        at = np.array([-1 if s is None else s for s in named])[sample]
        of_domain = np.where((at >= 0)[:, None], rows[starts + np.maximum(at, 0)], 0)
        return of_domain, overall

    def ranks(self, position: int) -> NDArray[np.unsignedinteger[Any]]:
        """[V, RANK_BINS] ranks of one label; they are being fetched, and read when they are used."""
        shard = self._shard_of(position)
        ranks: NDArray[np.unsignedinteger[Any]] = shard.tensors["ranks"][position - shard.first]
        shard.expect("ranks", np.array([(position - shard.first) * ranks.nbytes]), ranks.nbytes)
        return ranks

    def label(self, position: int) -> LabelSummary:
        """One label, validated.

        Raises:
            LabelError: It is damaged, contradicts itself, or is not what the catalog says of it.
        """
        summary, _ = self._read(position)
        shard = self._shard_of(position)
        columns, sample = self.columns, int(self.columns.sample[position])
        try:
            at = position - shard.first
            if _crc(_claims_of(shard, at), summary) != int(shard.tensors["crc"][at]):
                raise LabelError("its checksum does not match")
            check_summary(summary)
            agrees = (
                summary.mean_precision == columns.mean_precision[position]
                and np.array_equal(summary.mean_rank_shares, columns.mean_rank_shares[position])
                and np.array_equal(summary.support, columns.support[sample])
            )
            if not agrees:
                raise LabelError("the catalog says otherwise elsewhere")
        except LabelError as error:
            raise _damaged(shard.path, f"{summary.model.repo_id}: {error.reason}") from None
        return summary

    def list(self) -> tuple[LabelSummary, ...]:
        """All labels; what is said of them is checked, and their counts when they are chosen.

        Takes seconds for 100,000 labels; :attr:`columns` has what is known of all of them at once.

        Raises:
            LabelError: A label is damaged.
        """
        labels = []
        for position, level in enumerate(self.columns.mean_precision.tolist()):
            summary, _ = self._read(position)
            vars(summary)["mean_precision"] = level  # else every page would be read to work it out
            labels.append(summary)
        return tuple(labels)

    def fetch(self, models: Sequence[ModelRef]) -> tuple[ModelLabel, ...]:
        """Refuses: a catalog holds summaries.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"{self.folder} is a catalog, which holds of {models[0].repo_id} only what strategies 'mll' and 'general' "
            "need; name the source that it was made from"
        )

    def embeddings_of(self, model: ModelRef) -> ProbeEmbeddings | None:
        """None: catalogs hold no embeddings."""
        return None

    def origin_of(self, model: ModelRef) -> Origin:
        """Where the label was read from when the catalog was written.

        Raises:
            InputError: The catalog has no label of the model.
        """
        position = self._positions.get((model.repo_id, model.revision))
        if position is None:
            raise InputError(f"there is no label of {model.repo_id} at {model.revision[:12]} in {self.folder}")
        return self._read(position)[1]

    @cached_property
    def _positions(self) -> Mapping[tuple[str, str], int]:
        return {model: position for position, model in enumerate(self.columns.models)}

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        return np.array([shard.first for shard in self.shards])

    def _shard_of(self, position: int) -> Shard:
        return self.shards[int(np.searchsorted(self._firsts, position, side="right")) - 1]

    def _read(self, position: int) -> tuple[LabelSummary, Origin]:
        """One label whose counts have not been looked at, and where it came from."""
        shard = self._shard_of(position)
        at, tensors = position - shard.first, shard.tensors
        n_domains = [len(names) for names in shard.metadata["domains"]]
        samples = tensors["sample"][: at + 1]
        end = int(np.bincount(samples, minlength=len(n_domains)) @ n_domains)
        try:
            claims = json.loads(_claims_of(shard, at))
            location, publisher = claims.pop("origin")
            known = fields_from_metadata(claims)
            cost = int(tensors["parameters"][at]), float(tensors["gflops"][at])
            domains = shard.metadata["domains"][samples[at]]
            model = (known["model"].repo_id, known["model"].revision)
            if (
                model != self.columns.models[position]
                or (known["cost"].parameters, float(known["cost"].gflops)) != cost
                or list(known["domain_names"]) != domains
                or known["graph_digest"] != self.graph.digest
                or _parts(known["extension"]) != shard.metadata["parts"]
                or not isinstance(location, str)
                or not isinstance(publisher, (str, type(None)))
            ):
                raise LabelError("the catalog says otherwise elsewhere")
        except (*UNREADABLE, LabelError, AttributeError) as error:
            raise _damaged(shard.path, f"label {position} ({one_line(error)})") from None
        summary = LabelSummary(
            **known,
            ranks=tensors["ranks"][at],
            domain_ranks=tensors["domain_ranks"][end - len(domains) : end],
            temperature=tensors["temperature"][at : at + 1],
        )
        return summary, Origin(location, publisher)


def is_catalog(folder: Path) -> bool:
    """Whether a folder is a catalog."""
    return next(folder.glob(CATALOG_SHARDS), None) is not None


def in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Apply a function to items in two threads, in order; NumPy does not hold the interpreter up."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, items))


# --- writing ----------------------------------------------------------------------------------------------------------


def write_catalog(
    folder: Path,
    graph: SemanticGraph,
    labels: Iterable[LabelSummary],
    origin_of: Callable[[ModelRef], Origin],
    per_shard: int = _PER_SHARD,
) -> int:
    """Write a catalog, in place of an old one if there is one; holds a shard's labels at a time.

    Args:
        folder: Where; a catalog, empty, or not there yet.
        graph: The graph of the labels.
        labels: Valid labels of this graph that cover the same packs, each model at each revision once.
        origin_of: Where the label of a model comes from.
        per_shard: Labels per file.

    Returns:
        How many labels there were.

    Raises:
        InputError: There are no labels, they do not go together, or the folder is in use for something else.
        StorageError: The folder cannot be written.
    """
    if folder.exists() and not _may_be_replaced(folder):
        raise InputError(f"{folder} is there already and holds more than a catalog; give another folder")
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            save_graph(graph, temporary)
            n_labels = _write_shards(temporary, graph, labels, origin_of, per_shard)
            temporary.chmod(0o755)  # mkdtemp makes folders that only their owner can read
            if folder.exists():
                old = temporary.with_name(f"{temporary.name}.old")
                folder.rename(old)
                temporary.rename(folder)
                shutil.rmtree(old)
            else:
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return n_labels


def _may_be_replaced(folder: Path) -> bool:
    """Whether a folder holds nothing, or a catalog and nothing else."""
    if not folder.is_dir():
        return False
    content = {path.name for path in folder.iterdir()}
    shards = {path.name for path in folder.glob(CATALOG_SHARDS)}
    return not content or (bool(shards) and content == {GRAPH_FILE, *shards})


def _write_shards(
    folder: Path,
    graph: SemanticGraph,
    labels: Iterable[LabelSummary],
    origin_of: Callable[[ModelRef], Origin],
    per_shard: int,
) -> int:
    seen: set[tuple[str, str]] = set()
    parts: list[Any] | None = None
    coming = map(_narrow, labels)
    for number, shard in enumerate(iter(lambda: tuple(islice(coming, per_shard)), ())):
        parts = parts or _parts(shard[0].extension)
        for label in shard:
            if label.graph_digest != graph.digest or len(label.ranks) != len(graph):
                raise InputError(f"the label of {label.model.repo_id} is of another graph; leave it out")
            if _parts(label.extension) != parts:
                raise InputError(
                    "the labels cover different packs; extend them to the same: mll-hf label --pack PACK --extend"
                )
            seen.add((label.model.repo_id, label.model.revision))
        _write_shard(folder / CATALOG_SHARDS.replace("*", f"{number:05d}"), shard, graph, origin_of)
        if len(seen) < number * per_shard + len(shard):
            raise InputError("there are two labels of the same model at the same revision; leave one out")
    if not seen:
        raise InputError("there are no labels to make a catalog of; name a source that has some")
    return len(seen)


def _narrow(label: LabelSummary) -> LabelSummary:
    """What is kept of a label until its shard is written."""
    dtype = np.uint8 if int(label.support.max()) <= _NARROW else np.uint16
    fields = {name: getattr(label, name) for name in LabelSummary.__dataclass_fields__}
    return LabelSummary(**{**fields, "ranks": label.ranks.astype(dtype)})


def _write_shard(
    path: Path, labels: Sequence[LabelSummary], graph: SemanticGraph, origin_of: Callable[[ModelRef], Origin]
) -> None:
    ranks_dtype = np.result_type(*(label.ranks.dtype for label in labels))
    support = np.stack([label.support for label in labels]).astype(np.uint16)
    support, domains, sample = _distinct_samples(
        support, [label.domain_names for label in labels], np.arange(len(labels), dtype=np.int32)
    )
    claims = [_claims(label, origin_of(label.model)) for label in labels]
    tensors: dict[str, NDArray[Any]] = {
        "shares": _shares(labels, graph),
        "support": support,
        "sample": sample,
        "mean_rank_shares": np.stack([label.mean_rank_shares for label in labels]),
        "mean_precision": np.array([label.mean_precision for label in labels]),
        "domain_ranks": np.concatenate([label.domain_ranks for label in labels]),
        "temperature": np.concatenate([label.temperature for label in labels]),
        "parameters": np.array([label.cost.parameters for label in labels], np.int64),
        "gflops": np.array([label.cost.gflops for label in labels], np.float64),
        "crc": np.array([_crc(*each) for each in zip(claims, labels, strict=True)], np.uint32),
        "claim_ends": np.cumsum([len(claim) for claim in claims]).astype(np.int64),
        "claims": np.frombuffer(b"".join(claims), np.uint8),
    }
    metadata = {
        "schema": SCHEMA,
        "graph_digest": labels[0].graph_digest,
        "parts": _parts(labels[0].extension),
        "domains": [list(names) for names in domains],
        "models": [[label.model.repo_id, label.model.revision] for label in labels],
    }
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    shapes["ranks"] = (ranks_dtype, (len(labels), *labels[0].ranks.shape))
    with path.open("wb") as file:
        file.write(_header(metadata, {name: shapes[name] for name in _TENSORS}))
        for name in _TENSORS:
            if name == "ranks":
                for label in labels:
                    file.write(np.ascontiguousarray(label.ranks, ranks_dtype).data)
            else:
                file.write(np.ascontiguousarray(tensors[name]).data)
        file.flush()
        os.fsync(file.fileno())


def _shares(labels: Sequence[LabelSummary], graph: SemanticGraph) -> NDArray[np.uint8]:
    """[V, len(CANDIDATES), M] shares of images that are expected to be won."""
    label, factors = labels[0], [SHARE_UNIT / np.maximum(label.support, 1) for label in labels]
    shares = np.empty((len(label.ranks), len(CANDIDATES), len(labels)), np.uint8)
    chances = chances_among(rival_counts(graph, label.part_numbers), CANDIDATES).astype(np.float32)
    for first in range(0, len(labels), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        ranks, per_image = np.stack([each.ranks for each in labels[some]]), np.stack(factors[some], dtype=np.float32)
        for start in range(0, len(shares), _CONCEPTS):
            concepts = slice(start, start + _CONCEPTS)
            counts = ranks[:, concepts].transpose(1, 2, 0).astype(np.float32)
            shares[concepts, :, some] = np.rint(chances[concepts] @ counts * per_image[:, concepts].T[:, None])
    return shares


def chances_among(n_rivals: NDArray[np.int32], candidates: Sequence[int]) -> NDArray[np.float64]:
    """[V, len(candidates), RANK_BINS] chances to win among so many candidates."""
    return np.stack([chances_to_win(n_rivals, n) for n in candidates], axis=1)


def _claims(label: LabelSummary, origin: Origin) -> bytes:
    return canonical_json({**label_metadata(label), "origin": [origin.location, origin.publisher]}).encode()


def _header(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> bytes:
    """A safetensors header for tensors one after another; blanks at its end put the first one at a page's start."""
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: canonical_json(metadata)}}
    end = 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _crc(claims: bytes, label: LabelSummary) -> int:
    """Checksum of a label's claims and counts, whatever integers these are kept in."""
    crc = zlib.crc32(np.ascontiguousarray(label.ranks, np.uint16).data, zlib.crc32(claims))
    crc = zlib.crc32(np.ascontiguousarray(label.domain_ranks).data, crc)
    return zlib.crc32(np.ascontiguousarray(label.temperature).data, crc)


def _parts(extension: Any) -> list[Any]:  # noqa: ANN401 - an Extension or None, and its form in JSON
    """What labels of a catalog have in common: the graph without packs, and the packs with their concepts."""
    if extension is None:
        return []
    return [extension.base_digest, *([pack.digest, list(pack.concepts)] for pack in extension.packs)]


def _part_numbers(parts: Sequence[Any], n_concepts: int) -> NDArray[np.int32]:
    numbers = np.zeros(n_concepts, np.int32)
    for number, (_, concepts) in enumerate(parts[1:], 1):
        numbers[concepts] = number
    return numbers


def _distinct_samples(
    support: NDArray[np.uint16], domains: Sequence[tuple[str, ...]], sample: NDArray[np.int32]
) -> tuple[NDArray[np.uint16], list[tuple[str, ...]], NDArray[np.int32]]:
    """Equal samples of images once: support [N, V], N tuples of domains, and which is that of each label."""
    first_of: dict[tuple[bytes, tuple[str, ...]], int] = {}
    firsts = [
        first_of.setdefault((images.tobytes(), names), row)
        for row, (images, names) in enumerate(zip(support, domains, strict=True))
    ]
    distinct, numbers = np.unique(firsts, return_inverse=True)
    return support[distinct], [domains[row] for row in distinct], numbers.astype(np.int32)[sample]


# --- reading ----------------------------------------------------------------------------------------------------------


def _open_shard(path: Path, graph: SemanticGraph, first: int) -> Shard:
    try:
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        metadata, tensors = _views(memory)
        _check_shard(metadata, tensors, graph)
    except OSError as error:
        raise LabelError(f"cannot be read ({error.strerror}); check the path", path) from None
    except (*UNREADABLE, AttributeError, LabelError) as error:
        raise _damaged(path, one_line(error)) from None
    return Shard(path, memory, tensors, metadata, first)


def _views(memory: mmap.mmap) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a safetensors file says of itself, and its tensors where they lie."""
    length = int.from_bytes(memory[:8], "little")
    if length > min(len(memory) - 8, _MOST_HEADER_BYTES):
        raise ValueError("the file is truncated")
    header = json.loads(memory[8 : 8 + length])
    metadata = json.loads(header.pop("__metadata__")[METADATA_KEY])
    if set(header) != set(_TENSORS):
        raise ValueError(f"the tensors are {sorted(header)}, not {sorted(_TENSORS)}")
    views, position = {}, 0
    for name, (dtypes, axes) in _TENSORS.items():
        dtype, shape, (start, end) = (header[name][key] for key in ("dtype", "shape", "data_offsets"))
        if dtype not in dtypes or len(shape) != len(axes) or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"{name} is {dtype} {shape}")
        size = np.dtype(_DTYPES[dtype]).itemsize * math.prod(shape)
        if start != position or end != start + size or 8 + length + end > len(memory):
            raise ValueError(f"{name} is not where it is said to be")
        array = np.frombuffer(memory, _DTYPES[dtype], math.prod(shape), 8 + length + start)
        views[name], position = array.reshape(shape), end
    if 8 + length + position != len(memory):
        raise ValueError("the file is longer than its tensors")
    return metadata, views


def _check_shard(metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], graph: SemanticGraph) -> None:
    """Check all that is relied on before a label is looked at."""
    if type(metadata["schema"]) is not int or metadata["schema"] != SCHEMA:
        raise LabelError(f"its schema is not {SCHEMA}, the one that this version reads")
    if metadata["graph_digest"] != graph.digest:
        raise LabelError("its labels are of another graph")
    parts, domains, models = metadata["parts"], metadata["domains"], metadata["models"]
    _check_parts(parts, len(graph))
    sizes = {"V": len(graph), "M": len(models), "P": max(len(parts), 1), "B": RANK_BINS, "K": len(CANDIDATES)}
    sizes |= {"N": len(domains), "D": len(tensors["domain_ranks"]), "C": len(tensors["claims"])}
    for name, (_, axes) in _TENSORS.items():
        if tensors[name].shape != tuple(sizes[axis] for axis in axes):
            raise LabelError(f"{name} is {tensors[name].shape}")
    if not all(isinstance(names, list) and names and all(isinstance(n, str) for n in names) for names in domains):
        raise LabelError("its domains have no names")
    if not all(isinstance(m, list) and len(m) == 2 and all(isinstance(text, str) for text in m) for m in models):
        raise LabelError("its models have no names")
    sample, ends = tensors["sample"], tensors["claim_ends"]
    shares, precision = tensors["mean_rank_shares"], tensors["mean_precision"]
    checks = {
        "a label is of no sample": sample.min() >= 0 and sample.max() < len(domains),
        "claims overlap": ends[0] > 0 and (np.diff(ends) > 0).all() and ends[-1] == sizes["C"],
        "domains do not add up": sum(len(domains[s]) for s in sample.tolist()) == sizes["D"],
        "shares are out of range": ((shares >= 0) & (shares <= 1)).all() and (shares.sum(axis=2) <= 1 + 1e-9).all(),
        "precisions are out of range": ((precision >= 0) & (precision <= 1)).all(),
        "costs are out of range": (tensors["parameters"] >= 0).all() and (tensors["gflops"] >= 0).all(),
        "tests are negative": (tensors["domain_ranks"] >= 0).all(),
    }
    if faults := [fault for fault, passed in checks.items() if not passed]:
        raise LabelError(", ".join(faults))


def _check_parts(parts: Any, n_concepts: int) -> None:  # noqa: ANN401 - parsed JSON
    """Packs have concepts of their own, and the base graph some."""
    concepts = [v for _, of_pack in parts[1:] for v in of_pack]
    if not all(type(v) is int and 0 <= v < n_concepts for v in concepts) or len(parts) == 1 or not all(
        len(of_pack) for _, of_pack in parts[1:]
    ) or not len(set(concepts)) == len(concepts) < n_concepts < NO_RIVAL:  # fmt: skip
        raise LabelError("the packs' concepts contradict one another")


def _claims_of(shard: Shard, at: int) -> bytes:
    """What a label of a shard says of itself."""
    start = int(shard.tensors["claim_ends"][at - 1]) if at else 0
    return shard.tensors["claims"][start : int(shard.tensors["claim_ends"][at])].tobytes()


def _damaged(path: Path, reason: str) -> LabelError:
    return LabelError(f"is no valid part of a catalog ({reason}); write it again: mll-hf labels index --out", path)
