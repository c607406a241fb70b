"""The file format of a label: a few tensors in a safetensors file.

Labels are untrusted input; any fault in a file raises a LabelError.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mll_hf.errors import LabelError
from mll_hf.graph.probes import SamplingConfig
from mll_hf.labels.counts import NO_RIVAL, RANK_BINS, RIVALS
from mll_hf.labels.label import Cost, Environment, LabelFacts, ModelLabel, ModelRef
from mll_hf.utils.files import canonical_json
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

SCHEMA = 3
METADATA_KEY = "mll"  # a single key, because safetensors does not write several in a fixed order
UNREADABLE = (SafetensorError, LookupError, TypeError, ValueError, OverflowError, RecursionError)  # for invalid files
_MAX_COST = 2**63
_MAX_LICENSE_LENGTH = 100

# name -> dtype and shape: concepts V, domains S, rival slots R, rank bins B
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


def tensors_of(label: ModelLabel) -> dict[str, NDArray[Any]]:
    """The tensors of a label file by name; some are redundant, for the convenience of other readers."""
    return {name: getattr(label, name) for name in _TENSORS}


# --- to and from bytes ------------------------------------------------------------------------------------------------


def label_to_bytes(label: ModelLabel) -> bytes:
    """Serialize a label. The same label always gives the same bytes."""
    metadata = label_metadata(label)
    metadata["sha256"] = _checksum(metadata, tensors_of(label))
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors_of(label).items()}
    return save(contiguous, metadata={METADATA_KEY: canonical_json(metadata)})


def label_from_bytes(blob: bytes, path: Path | None = None) -> ModelLabel:
    """Parse and validate the content of a label file; the path is used in messages."""
    try:
        metadata, tensors = read_metadata(blob), load(blob)
    except UNREADABLE as error:
        reason = f"not a readable label ({one_line(error)}); fetch it again or label the model again"
        raise LabelError(reason, path) from None
    try:
        label = _assemble(metadata, tensors)
        _check_counts(label, tensors)
        if metadata.get("sha256") != _checksum({k: v for k, v in metadata.items() if k != "sha256"}, tensors):
            raise LabelError("the checksum does not match")
    except LabelError as error:
        raise LabelError(f"not a valid label: {error.reason}; fetch it again or label the model again", path) from None
    return label


def label_metadata(label: LabelFacts) -> dict[str, Any]:
    """The metadata of a label as JSON; :func:`fields_from_metadata` is the inverse."""
    return {
        "schema": SCHEMA,
        "model": asdict(label.model),
        "cost": asdict(label.cost),
        "graph": {"name": label.graph_name, "digest": label.graph_digest, "location": label.graph_location},
        "probes": {"digest": label.probes_digest, "location": label.probes_location},
        "config": asdict(label.sampling),
        "domains": list(label.domain_names),
        "package_version": label.package_version,
        "environment": asdict(label.environment),
        "license": label.license,
    }


def fields_from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Parse and validate the metadata of a label."""
    schema = metadata.get("schema")
    if not _has_type(schema, int) or schema != SCHEMA:
        raise LabelError(f"schema {json.dumps(schema)[:20]} is not {SCHEMA}, the one that this version reads")
    domains = metadata.get("domains")
    if not isinstance(domains, list) or not domains or not all(isinstance(d, str) for d in domains):
        raise LabelError("domain names are missing from the metadata")
    if len(set(domains)) < len(domains):
        raise LabelError("two domains have the same name")
    model, cost = _section(metadata, "model", ModelRef), _section(metadata, "cost", Cost)
    graph, probes = metadata.get("graph"), metadata.get("probes")
    known = {
        "model": model,
        "cost": cost,
        "graph_name": _field(graph, "name"),
        "graph_digest": _field(graph, "digest"),
        "graph_location": _field(graph, "location"),
        "probes_digest": _field(probes, "digest"),
        "probes_location": _field(probes, "location"),
        "sampling": _section(metadata, "config", SamplingConfig),
        "domain_names": tuple(domains),
        "package_version": _field(metadata, "package_version"),
        "environment": _section(metadata, "environment", Environment),
        "license": _license(metadata),
    }
    _check_identity(model, cost, known["graph_digest"], known["probes_digest"], known["sampling"].seed)
    return known


def _assemble(metadata: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> ModelLabel:
    """Build a label from its metadata and tensors, after validating types and shapes."""
    known = fields_from_metadata(metadata)
    shape = tensors["node_precision"].shape if "node_precision" in tensors else ()
    sizes = {"V": shape[0] if shape else 0, "S": len(known["domain_names"]), "R": RIVALS, "B": RANK_BINS, "1": 1}
    check_tensors(tensors, _TENSORS, sizes)
    if not 0 < sizes["V"] < NO_RIVAL:
        raise LabelError(f"the number of concepts, {sizes['V']}, is not between 1 and {NO_RIVAL - 1}")
    arrays: dict[str, Any] = {name: tensors[name] for name in _TENSORS if name not in _DERIVED}
    return ModelLabel(**known, **arrays)


def _check_identity(model: ModelRef, cost: Cost, graph_digest: str, probes_digest: str, seed: int) -> None:
    """Check the fields that file names are made of, and the cost."""
    if not re.fullmatch(r"[0-9a-f]{40}", model.revision):
        raise LabelError("the model's revision is not a full commit sha")
    if not model.is_local and not re.fullmatch(r"[\w.-]+/[\w.-]+", model.repo_id, re.ASCII):
        raise LabelError("the model's id is not of the form org/name")
    if not re.fullmatch(r"[0-9a-f]{64}", graph_digest):
        raise LabelError("the graph's digest is not a sha256")
    if not re.fullmatch(r"[0-9a-f]{40}", probes_digest):
        raise LabelError("the digest of the probe images is not 40 hex digits")
    if seed < 0:
        raise LabelError("the seed of the sample is negative")
    if not (0 <= cost.parameters < _MAX_COST and 0 <= cost.gflops < _MAX_COST):
        raise LabelError("the model's cost is negative or too large")


def check_tensors(
    tensors: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[type[np.generic], str]], sizes: Mapping[str, int]
) -> None:
    """Check names, dtypes and shapes; each axis is a letter, whose length is in ``sizes``."""
    if set(tensors) != set(expected):
        raise LabelError(f"the tensors are {sorted(tensors)}, not {sorted(expected)}")
    for name, (dtype, axes) in expected.items():
        shape = tuple(sizes[axis] for axis in axes)
        if tensors[name].dtype != dtype or tensors[name].shape != shape:
            raise LabelError(f"{name} is {tensors[name].dtype} {tensors[name].shape}, not {dtype.__name__} {shape}")


def _check_counts(label: ModelLabel, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check that the counts of a label are consistent."""
    equal, temperature = np.array_equal, float(label.temperature[0])
    domain_hits, domain_support = label.domain_hits.astype(np.int64), label.domain_support.astype(np.int64)
    domain_ranks = label.domain_ranks.astype(np.int64)
    checks: dict[str, bool | np.bool_] = {
        **{f"{name} does not match the ranks": equal(tensors[name], getattr(label, name)) for name in _DERIVED},
        "support exceeds the images per concept": (label.support <= label.sampling.images_per_concept).all(),
        "ranks by domain do not add up": (domain_ranks >= 0).all()
        and equal(domain_ranks.sum(axis=0), label.ranks.sum(axis=0, dtype=np.int64)),
        "the temperature is not a positive number": math.isfinite(temperature) and temperature > 0,
        "hits exceed the predictions of a concept": (label.hits <= label.predicted).all(),
        "predictions and images do not add up": label.predicted.sum(dtype=np.int64)
        == label.support.sum(dtype=np.int64),
        "hits by domain do not add up": equal(domain_hits.sum(axis=0), label.hits),
        "support by domain does not add up": equal(domain_support.sum(axis=0), label.support),
        "hits by domain exceed their support": (domain_hits <= domain_support).all(),
        "ranks by domain differ from support by domain": equal(domain_ranks.sum(axis=1), domain_support.sum(axis=1))
        and equal(domain_ranks[:, 0], domain_hits.sum(axis=1)),
        "the rivals are inconsistent": _rivals_are_consistent(label),
    }
    raise_on_failures(checks)


def raise_on_failures(checks: Mapping[str, bool | np.bool_]) -> None:
    """Raise a LabelError that lists all failed checks."""
    if failures := [failure for failure, passed in checks.items() if not passed]:
        raise LabelError(", ".join(failures))


def _rivals_are_consistent(label: ModelLabel) -> bool:
    n_concepts, rivals, wins = len(label.hits), label.rivals, label.rival_wins
    empty = rivals == NO_RIVAL
    ordered = np.sort(rivals, axis=1)  # empty slots come last
    losses = label.support - label.hits
    if not (empty | (rivals < n_concepts)).all():
        return False
    return bool(
        ((wins == 0) == empty).all()
        and (wins[:, 1:] <= wins[:, :-1]).all()
        and ((ordered[:, 1:] > ordered[:, :-1]) | (ordered[:, 1:] == NO_RIVAL)).all()
        and (rivals != np.arange(n_concepts, dtype=np.uint16)[:, None]).all()
        and (wins[:, 0] <= losses).all()
        and ((wins[:, 0] > 0) == (losses > 0)).all()
    )


def read_metadata(blob: bytes) -> dict[str, Any]:
    """Read our metadata from an untrusted safetensors header; raises one of UNREADABLE."""
    length = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or length > len(blob) - 8:
        raise ValueError("the file is truncated")
    header = json.loads(blob[8 : 8 + length])
    metadata = json.loads(header["__metadata__"][METADATA_KEY])
    if not isinstance(metadata, dict):
        raise ValueError("the metadata is not an object")
    canonical_json(metadata).encode()  # raises for lone surrogates
    return metadata


def _section(metadata: Mapping[str, Any], key: str, kind: type[Any]) -> Any:  # noqa: ANN401 - a dataclass of `kind`
    section = metadata.get(key)
    expected = {f.name: str(f.type) for f in fields(kind)}
    if not isinstance(section, dict) or set(section) != set(expected):
        raise LabelError(f"invalid or missing metadata '{key}'")
    types: Mapping[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
    for name, value in section.items():
        if not _has_type(value, *types[expected[name]]):
            raise LabelError(f"metadata '{key}.{name}' is not of type {expected[name]}")
    return kind(**section)


def _has_type(value: object, *types: type) -> bool:
    """Whether a parsed JSON value has one of the types; true and false are not numbers, unlike in Python."""
    return isinstance(value, types) and not isinstance(value, bool)


def _license(metadata: Mapping[str, Any]) -> str | None:
    license_id = metadata.get("license")
    if license_id is not None and not (isinstance(license_id, str) and 0 < len(license_id) <= _MAX_LICENSE_LENGTH):
        raise LabelError("metadata 'license' is not a license id")
    return license_id


def _field(section: Any, key: str) -> str:  # noqa: ANN401 - parsed JSON
    value = section.get(key) if isinstance(section, dict) else None
    if not isinstance(value, str):
        raise LabelError(f"metadata '{key}' is missing")
    return value


def _checksum(metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """Sha256 over metadata and tensors."""
    checksum = hashlib.sha256(canonical_json(metadata).encode())
    for name in _TENSORS:
        checksum.update(name.encode())
        checksum.update(np.ascontiguousarray(tensors[name]).tobytes())
    return checksum.hexdigest()
