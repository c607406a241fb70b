"""The label of a model: what is published, how it is stored, and when it is to be believed.

A label is a few tensors in one safetensors file. Reading treats every file as hostile: a label is a claim.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mll_hf.errors import LabelError
from mll_hf.graph.probes import SamplingConfig
from mll_hf.labels.counts import NO_RIVAL, RANK_BINS, RIVALS, chances_to_win, expected_wins, precision_of
from mll_hf.utils.files import canonical_json
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph


SCHEMA = 1
METADATA_KEY = "mll"  # one key, because safetensors writes several in an order that differs from run to run
LOCAL_PREFIX = "local-dir:"
UNPINNED = "main"  # revision of a model that no label pins; it must be resolved before the model is loaded
_MOST_COST = 2**63
_Z = 1.959964  # 95 % of a normal distribution are within so many standard deviations
UNREADABLE = (SafetensorError, LookupError, TypeError, ValueError, OverflowError, RecursionError)  # not safetensors


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model, pinned.

    Attributes:
        repo_id: ``org/name`` on the Hub, or ``local-dir:/absolute/path``.
        revision: Full commit sha (40 hex digits); for a local folder a digest of its content, just as long.
        backend: Which adapter runs it: ``open_clip`` or ``transformers``.
    """

    repo_id: str
    revision: str
    backend: str

    @property
    def is_local(self) -> bool:
        """Whether the model is a folder on this machine."""
        return self.repo_id.startswith(LOCAL_PREFIX)

    @property
    def slug(self) -> str:
        """Name of the model's folder in a store of labels: ``owner--name``, or ``local--name``."""
        if self.is_local:
            return f"local--{Path(self.repo_id.removeprefix(LOCAL_PREFIX)).name}"
        return self.repo_id.replace("/", "--")

    @property
    def short_name(self) -> str:
        """The last part of the id, for tables."""
        return self.repo_id.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs to run.

    Attributes:
        parameters: Number of parameters of both towers.
        gflops: Floating-point operations to encode one image, in 10^9; a multiply-add counts as two.
    """

    parameters: int
    gflops: float


@dataclass(frozen=True, slots=True)
class PackPart:
    """A pack that a label covers.

    The pack's images were contested by its own concepts alone, see :mod:`mll_hf.labels.packs`. So it does not matter
    what else the label covers, and which pack came first.

    Attributes:
        name: Name of the pack, for people.
        digest: The pack's concepts and their edges, see :class:`~mll_hf.labels.packs.GraphPack`.
        probes_name: Dataset or folder of its images.
        probes_revision: Its revision.
        package_version: Version of this package that counted.
        domains: Those of the label's domains that the images are of, sorted.
        concepts: Ascending indices of the pack's concepts in the label.
    """

    name: str
    digest: str
    probes_name: str
    probes_revision: str
    package_version: str
    domains: tuple[str, ...]
    concepts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Extension:
    """What a label of a graph with packs consists of.

    Attributes:
        base_digest: The graph without the packs, whose concepts were contested by one another alone.
        packs: The packs in the order of their names and digests; at least one.
    """

    base_digest: str
    packs: tuple[PackPart, ...]


@dataclass(frozen=True)
class LabelSummary:
    """What choosing among models needs of a label on a graph of V concepts with probe images of S domains.

    The rest of a label says against whom a model loses; a collection's index leaves it out.

    A label may cover packs besides its graph. Then the graph is that of all concepts, and what is said of a model as a
    whole (its general level, ``domain_ranks``, ``temperature``) is about the graph without the packs, so that models
    compare whatever packs they know.

    Attributes:
        model: The model, pinned.
        cost: What it costs to run.
        graph_name: Name of the graph, for people.
        graph_digest: The graph that the columns belong to.
        probes_name: Dataset or folder of the probe images; those of packs are in ``extension``.
        probes_revision: Its revision.
        sampling: How the probe images were sampled.
        domain_names: The S domains.
        package_version: Version of this package that counted.
        ranks: [V, RANK_BINS] uint16 (uint8 in an index), images by how many concepts beat theirs, see
            :class:`~mll_hf.labels.counts.LabelCounts`.
        domain_ranks: [S, RANK_BINS] int32, all tests of a domain by how many concepts beat the right one.
        temperature: [1] float32; dividing the model's logits by it calibrates its probabilities.
        extension: The packs among the concepts; None if there are none.
    """

    model: ModelRef
    cost: Cost
    graph_name: str
    graph_digest: str
    probes_name: str
    probes_revision: str
    sampling: SamplingConfig
    domain_names: tuple[str, ...]
    package_version: str
    ranks: NDArray[np.unsignedinteger[Any]]
    domain_ranks: NDArray[np.int32]
    temperature: NDArray[np.float32]
    extension: Extension | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    @property
    def packs(self) -> tuple[PackPart, ...]:
        """The packs that the label covers."""
        return self.extension.packs if self.extension else ()

    @property
    def base_digest(self) -> str:
        """The graph without the packs."""
        return self.extension.base_digest if self.extension else self.graph_digest

    @cached_property
    def part_numbers(self) -> NDArray[np.int32]:
        """[V] 0 for concepts of the base graph, and ``i + 1`` for those of ``packs[i]``."""
        numbers = np.zeros(len(self.ranks), np.int32)
        for number, pack in enumerate(self.packs, 1):
            numbers[list(pack.concepts)] = number
        return _read_only(numbers)

    @cached_property
    def part_sizes(self) -> NDArray[np.int64]:
        """[1 + packs] concepts of the base graph and of each pack: so many contested the images of the part."""
        return _read_only(np.bincount(self.part_numbers, minlength=len(self.packs) + 1))

    @cached_property
    def hits(self) -> NDArray[np.int32]:
        """[V] images on which the concept beat all its rivals."""
        return _read_only(self.ranks[:, 0].astype(np.int32))

    @cached_property
    def support(self) -> NDArray[np.int32]:
        """[V] images that tested the concept."""
        return _read_only(self.ranks.sum(axis=1, dtype=np.int32))

    @cached_property
    def node_precision(self) -> NDArray[np.float32]:
        """[V] share of the concept's images that the model recognizes; 0 without images."""
        return _read_only(precision_of(self.hits, self.support))

    @cached_property
    def mean_rank_shares(self) -> NDArray[np.float64]:
        """[1 + packs, RANK_BINS] share of images in each bin of ranks, averaged over its concepts with images."""
        tested = [(self.support > 0) & (self.part_numbers == part) for part in range(len(self.part_sizes))]
        return _read_only(np.stack([(1 / self.support[of]) @ self.ranks[of] / max(int(of.sum()), 1) for of in tested]))

    @cached_property
    def mean_precision(self) -> float:
        """Mean node precision over the base's concepts that have images: the model's general level."""
        tested = (self.support > 0) & (self.part_numbers == 0)
        return float(self.node_precision[tested].mean(dtype=np.float64)) if tested.any() else 0.0

    @cached_property
    def mean_precision_margin(self) -> float:
        """Half the width of a 95 % interval of :attr:`mean_precision`: what other images of the concepts might change.

        ``1.96 sqrt(sum_v p_v (1 - p_v) / n_v) / V`` over the V concepts with images. Each ``p_v`` is drawn towards the
        mean by one image, or concepts with a single image would seem certain.
        """
        of = (self.support > 0) & (self.part_numbers == 0)
        images = self.support[of].astype(np.float64)
        if not len(images):
            return 1.0
        precision = (self.hits[of] + self.mean_precision) / (images + 1)
        return float(_Z * np.sqrt((precision * (1 - precision) / images).sum()) / len(images))

    def precision_among(
        self, n_candidates: int, concepts: NDArray[np.int64], n_rivals: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """[K] expected precision on K concepts, were there only so many candidates; 0 without images.

        Args:
            n_candidates: Candidates of the smaller contest, the right one included.
            concepts: [K] indices of concepts.
            n_rivals: [V] rivals of each concept, see :func:`rival_counts`.
        """
        wins = expected_wins(self.ranks[concepts], chances_to_win(n_rivals[concepts], n_candidates))
        return wins / np.maximum(self.support[concepts], 1)


@dataclass(frozen=True)
class ModelLabel(LabelSummary):
    """A model's label: its summary, and the model's mistakes.

    Attributes:
        predicted: [V] int32, times the concept was answered on the images of its part: the base graph's or its pack's.
        domain_hits: [S, V] uint16.
        domain_support: [S, V] uint16.
        rivals: [V, RIVALS] uint16, concepts that most often outscore ``v`` on its own images; NO_RIVAL if none.
        rival_wins: [V, RIVALS] uint16, on how many images.
    """

    predicted: NDArray[np.int32]
    domain_hits: NDArray[np.uint16]
    domain_support: NDArray[np.uint16]
    rivals: NDArray[np.uint16]
    rival_wins: NDArray[np.uint16]

    @property
    def summary(self) -> LabelSummary:
        """The label without the model's mistakes, a tenth of its size."""
        return LabelSummary(**{each.name: getattr(self, each.name) for each in fields(LabelSummary)})

    @property
    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """The tensors of the label's file by name; some follow from others, for readers that want just these."""
        return {name: getattr(self, name) for name in _TENSORS}


def rival_counts(graph: SemanticGraph, part_numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """[V] rivals of each concept: the concepts of its part but itself, its ancestors and its descendants.

    Args:
        graph: V concepts.
        part_numbers: [V] part of each, see :attr:`LabelSummary.part_numbers`.
    """
    related = [np.count_nonzero(part_numbers[graph.relatives(v)] == part_numbers[v]) for v in range(len(graph))]
    return (np.bincount(part_numbers)[part_numbers] - 1 - np.array(related)).astype(np.int32)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


# name -> dtype and shape, in terms of the numbers of concepts V, domains S, slots for rivals R and bins of ranks B
_TENSORS: Mapping[str, tuple[type[np.generic], str]] = {
    "node_precision": (np.float32, "V"),
    "hits": (np.int32, "V"),
    "predicted": (np.int32, "V"),
    "support": (np.int32, "V"),
    "domain_hits": (np.uint16, "SV"),
    "domain_support": (np.uint16, "SV"),
    "rivals": (np.uint16, "VR"),
    "rival_wins": (np.uint16, "VR"),
    "ranks": (np.uint16, "VB"),
    "domain_ranks": (np.int32, "SB"),
    "temperature": (np.float32, "1"),
}
_DERIVED = ("node_precision", "hits", "support")


# --- to and from bytes ------------------------------------------------------------------------------------------------


def label_to_bytes(label: ModelLabel) -> bytes:
    """Serialize a label. The same label always gives the same bytes."""
    metadata = label_metadata(label)
    metadata["sha256"] = _checksum(metadata, label.tensors)
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in label.tensors.items()}  # else scrambled
    return save(contiguous, metadata={METADATA_KEY: canonical_json(metadata)})


def label_from_bytes(blob: bytes, path: Path | None = None) -> ModelLabel:
    """Parse and validate a label.

    Args:
        blob: The content of a label file.
        path: Where it came from, for messages.

    Raises:
        LabelError: The bytes are no label, or one that contradicts itself.
    """
    try:
        metadata, tensors = read_metadata(blob), load(blob)
    except UNREADABLE as error:
        reason = f"is no readable label ({one_line(error)}); fetch it again or label the model anew"
        raise LabelError(reason, path) from None
    try:
        label = _assemble(metadata, tensors)
        _check_counts(label, tensors)
        if metadata.get("sha256") != _checksum({k: v for k, v in metadata.items() if k != "sha256"}, tensors):
            raise LabelError("the checksum does not match")
    except LabelError as error:
        raise LabelError(f"not a valid label: {error.reason}; fetch it again or label the model anew", path) from None
    return label


def label_metadata(label: LabelSummary) -> dict[str, Any]:
    """Everything about a label that is not a tensor, as plain JSON; :func:`fields_from_metadata` gives it back."""
    metadata = {
        "schema": SCHEMA,
        "model": asdict(label.model),
        "cost": asdict(label.cost),
        "graph": {"name": label.graph_name, "digest": label.graph_digest},
        "probes": {"name": label.probes_name, "revision": label.probes_revision},
        "config": asdict(label.sampling),
        "domains": list(label.domain_names),
        "package_version": label.package_version,
    }
    return {**metadata, "extension": asdict(label.extension)} if label.extension else metadata


def fields_from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a label that are no tensors; every one must be there and have the right type and form.

    Raises:
        LabelError: The metadata are not those of a label.
    """
    schema = metadata.get("schema")
    if not _has_type(schema, int) or schema != SCHEMA:
        raise LabelError(f"schema {json.dumps(schema)[:20]} is not {SCHEMA}, the one that this version reads")
    domains = metadata.get("domains")
    if not isinstance(domains, list) or not domains or not all(isinstance(d, str) for d in domains):
        raise LabelError("the metadata lack the names of the domains")
    if len(set(domains)) < len(domains):
        raise LabelError("two domains have the same name")
    model, cost = _section(metadata, "model", ModelRef), _section(metadata, "cost", Cost)
    graph, probes = metadata.get("graph"), metadata.get("probes")
    known = {
        "model": model,
        "cost": cost,
        "graph_name": _field(graph, "name"),
        "graph_digest": _field(graph, "digest"),
        "probes_name": _field(probes, "name"),
        "probes_revision": _field(probes, "revision"),
        "sampling": _section(metadata, "config", SamplingConfig),
        "domain_names": tuple(domains),
        "package_version": _field(metadata, "package_version"),
        "extension": _extension(metadata["extension"]) if "extension" in metadata else None,
    }
    _check_identity(model, cost, known["graph_digest"])
    return known


def _extension(section: Any) -> Extension:  # noqa: ANN401 - parsed JSON
    """Read what a label says of its packs; which concepts there are is checked later, by :func:`check_summary`."""
    names = [f.name for f in fields(PackPart) if f.name not in ("domains", "concepts")]
    packs = section.get("packs") if isinstance(section, dict) else None
    if not isinstance(packs, list) or not packs:
        raise LabelError("the metadata lack the label's packs")
    parts = []
    for pack in packs:
        texts = {name: _field(pack, name) for name in names}
        concepts = pack.get("concepts")
        if not isinstance(concepts, list) or not concepts or not all(_has_type(v, int) for v in concepts):
            raise LabelError("the metadata lack the concepts of a pack")
        domains = pack.get("domains")
        if not isinstance(domains, list) or not all(isinstance(domain, str) for domain in domains):
            raise LabelError("the metadata lack the domains of a pack")
        parts.append(PackPart(**texts, domains=tuple(domains), concepts=tuple(concepts)))
    extension = Extension(_field(section, "base_digest"), tuple(parts))
    if not all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in (extension.base_digest, *(p.digest for p in parts))):
        raise LabelError("the digest of the graph without its packs, or of a pack, is no sha256")
    order = [(part.name, part.digest) for part in parts]
    if order != sorted(order) or len({part.digest for part in parts}) < len(parts):
        raise LabelError("the packs are out of order, or one is there twice")
    return extension


def _assemble(metadata: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> ModelLabel:
    """Build a label from parsed parts; every field and tensor must have the right type and shape."""
    known = fields_from_metadata(metadata)
    _check_tensors(tensors, n_domains=len(known["domain_names"]))
    arrays: dict[str, Any] = {name: tensors[name] for name in _TENSORS if name not in _DERIVED}
    return ModelLabel(**known, **arrays)


def _check_identity(model: ModelRef, cost: Cost, graph_digest: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{40}", model.revision):
        raise LabelError("the model's revision is no full commit sha")
    if not model.is_local and not re.fullmatch(r"[\w.-]+/[\w.-]+", model.repo_id, re.ASCII):
        raise LabelError("the model's id is not of the form org/name")
    if not re.fullmatch(r"[0-9a-f]{64}", graph_digest):
        raise LabelError("the graph's digest is no sha256")
    if not (0 <= cost.parameters < _MOST_COST and 0 <= cost.gflops < _MOST_COST):
        raise LabelError("the model's cost is negative or beyond all measure")


def _check_tensors(tensors: Mapping[str, NDArray[Any]], n_domains: int) -> None:
    if set(tensors) != set(_TENSORS):
        raise LabelError(f"the tensors are {sorted(tensors)}, not {sorted(_TENSORS)}")
    shape = tensors["node_precision"].shape
    sizes = {"V": shape[0] if shape else 0, "S": n_domains, "R": RIVALS, "B": RANK_BINS, "1": 1}
    if not 0 < sizes["V"] < NO_RIVAL:
        raise LabelError(f"{sizes['V']} concepts are not between 1 and {NO_RIVAL - 1}")
    for name, (dtype, axes) in _TENSORS.items():
        expected = tuple(sizes[axis] for axis in axes)
        if tensors[name].dtype != dtype or tensors[name].shape != expected:
            raise LabelError(f"{name} is {tensors[name].dtype} {tensors[name].shape}, not {dtype.__name__} {expected}")


def check_summary(label: LabelSummary) -> None:
    """Check what follows from how ranks are counted.

    Raises:
        LabelError: The label contradicts itself, so it was not measured.
    """
    _check_parts(label)
    temperature = float(label.temperature[0])
    by_rank = label.ranks[label.part_numbers == 0].sum(axis=0, dtype=np.int64)
    _refuse_if_any_fails(
        {
            "support exceeds the images per concept": bool((label.support <= label.sampling.images_per_concept).all()),
            "ranks by domain do not add up": bool((label.domain_ranks >= 0).all())
            and np.array_equal(label.domain_ranks.sum(axis=0, dtype=np.int64), by_rank),
            "the temperature is not a positive number": math.isfinite(temperature) and temperature > 0,
        }
    )


def _check_parts(label: LabelSummary) -> None:
    """Every pack has concepts of its own, and the base graph the others, of which there are some; domains are known."""
    n_concepts, concepts = len(label.ranks), [v for pack in label.packs for v in pack.concepts]
    ascending = all(pack.concepts == tuple(sorted(pack.concepts)) for pack in label.packs)
    distinct = len(set(concepts)) == len(concepts) < n_concepts
    if not (ascending and distinct and all(0 <= v < n_concepts for v in concepts)):
        raise LabelError("the packs' concepts contradict one another")
    if not all(pack.domains and set(pack.domains) <= set(label.domain_names) for pack in label.packs):
        raise LabelError("the packs' domains are not the label's")


def _check_counts(label: ModelLabel, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check what follows from how labels are counted; a label that contradicts itself was not measured."""
    check_summary(label)
    domain_hits, domain_support = (a.sum(axis=0, dtype=np.int64) for a in (label.domain_hits, label.domain_support))
    of_base = label.part_numbers == 0
    _refuse_if_any_fails(
        {
            **{
                f"{name} does not follow from ranks": np.array_equal(tensors[name], getattr(label, name))
                for name in _DERIVED
            },
            "hits exceed the times a concept was answered": bool((label.hits <= label.predicted).all()),
            "answers and images do not add up": _answers_add_up(label),
            "the packs' domains are not those of their images": all(
                pack.domains == domains_with_images(label, list(pack.concepts)) for pack in label.packs
            ),
            "hits by domain do not add up": np.array_equal(domain_hits, label.hits),
            "support by domain does not add up": np.array_equal(domain_support, label.support),
            "hits by domain exceed their support": bool((label.domain_hits <= label.domain_support).all()),
            "ranks by domain differ from support by domain": np.array_equal(
                label.domain_ranks.sum(axis=1, dtype=np.int64),
                label.domain_support[:, of_base].sum(axis=1, dtype=np.int64),
            )
            and np.array_equal(label.domain_ranks[:, 0], label.domain_hits[:, of_base].sum(axis=1, dtype=np.int64)),
            "the rivals are inconsistent": _rivals_are_consistent(label),
        }
    )


def domains_with_images(label: ModelLabel, concepts: list[int]) -> tuple[str, ...]:
    """The domains of the images that tested some concepts, sorted."""
    images = label.domain_support[:, concepts].any(axis=1)
    return tuple(sorted(label.domain_names[s] for s in np.flatnonzero(images)))


def _answers_add_up(label: ModelLabel) -> bool:
    """Every image was answered by a concept of its own part."""
    n_parts = len(label.packs) + 1
    answers = np.bincount(label.part_numbers, label.predicted, n_parts)
    return np.array_equal(answers, np.bincount(label.part_numbers, label.support, n_parts))


def _refuse_if_any_fails(checks: Mapping[str, bool]) -> None:
    if faults := [fault for fault, passed in checks.items() if not passed]:
        raise LabelError(", ".join(faults))


def _rivals_are_consistent(label: ModelLabel) -> bool:
    n_concepts, rivals, wins = len(label.hits), label.rivals, label.rival_wins
    empty = rivals == NO_RIVAL
    ordered = np.sort(rivals, axis=1)  # the empty slots come last
    losses = label.support - label.hits
    if not (empty | (rivals < n_concepts)).all():
        return False
    own_part, part_of_rival = label.part_numbers[:, None], label.part_numbers[np.where(empty, 0, rivals)]
    return bool(
        (empty | (part_of_rival == own_part)).all()
        and ((wins == 0) == empty).all()
        and (wins[:, 1:] <= wins[:, :-1]).all()
        and ((ordered[:, 1:] > ordered[:, :-1]) | (ordered[:, 1:] == NO_RIVAL)).all()
        and (rivals != np.arange(n_concepts, dtype=np.uint16)[:, None]).all()
        and (wins[:, 0] <= losses).all()
        and ((wins[:, 0] > 0) == (losses > 0)).all()
    )


def read_metadata(blob: bytes) -> dict[str, Any]:
    """Read our metadata from a safetensors header without trusting its length field.

    Raises:
        Exception: One of UNREADABLE, if there are none.
    """
    length = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or length > len(blob) - 8:
        raise ValueError("the file is truncated")
    header = json.loads(blob[8 : 8 + length])
    metadata = json.loads(header["__metadata__"][METADATA_KEY])
    if not isinstance(metadata, dict):
        raise ValueError("the metadata are no object")
    canonical_json(metadata).encode()  # half a surrogate pair raises here, where it is expected
    return metadata


def _section(metadata: Mapping[str, Any], key: str, kind: type[Any]) -> Any:  # noqa: ANN401 - a dataclass of `kind`
    section = metadata.get(key)
    expected = {f.name: str(f.type) for f in fields(kind)}
    if not isinstance(section, dict) or set(section) != set(expected):
        raise LabelError(f"the metadata lack a proper '{key}'")
    types: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
    for name, value in section.items():
        if not _has_type(value, *types[expected[name]]):
            raise LabelError(f"the metadata's '{key}.{name}' is no {expected[name]}")
    return kind(**section)


def _has_type(value: object, *types: type) -> bool:
    """Whether a parsed JSON value has one of some types; true and false are no numbers, though Python counts them."""
    return isinstance(value, types) and not isinstance(value, bool)


def _field(section: Any, key: str) -> str:  # noqa: ANN401 - parsed JSON
    value = section.get(key) if isinstance(section, dict) else None
    if not isinstance(value, str):
        raise LabelError(f"the metadata lack '{key}'")
    return value


def _checksum(metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """Sha256 over metadata and tensors."""
    whole = hashlib.sha256(canonical_json(metadata).encode())
    for name in _TENSORS:
        whole.update(name.encode())
        whole.update(np.ascontiguousarray(tensors[name]).tobytes())
    return whole.hexdigest()
