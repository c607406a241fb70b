"""The file of a label: a few tensors in safetensors, with metadata; at most .5 MB for 9,000 concepts and 5 domains.

Labels are untrusted input; any fault in a file raises a LabelError.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mll_hf.errors import LabelError
from mll_hf.labels.fields import SCHEMA, TENSORS, check_embeddings, check_label_tensors, check_metadata, check_rivals
from mll_hf.labels.label import Cost, Environment, Label, ModelRef, ProbeEmbeddings, Rivals
from mll_hf.utils.files import canonical_json
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

METADATA_KEY = "mll"  # a single key, because safetensors does not write several in a fixed order
MAX_LABEL_BYTES = 4 * 2**20
MAX_RIVALS_BYTES = 8 * 2**20
MAX_EMBEDDINGS_BYTES = 8 * 2**30
_MAX_HEADER = 2**18  # 100 domains take up to 50,000 characters
UNREADABLE = (SafetensorError, LookupError, TypeError, ValueError, OverflowError, RecursionError)  # for invalid files


def label_to_bytes(label: Label) -> bytes:
    """Serialize a label. The same label always gives the same bytes."""
    tensors = {name: np.ascontiguousarray(getattr(label, name)) for name in TENSORS}
    metadata = label_metadata(label)
    metadata["sha256"] = _checksum(metadata, tensors)
    return save(tensors, metadata={METADATA_KEY: canonical_json(metadata)})


def label_metadata(label: Label) -> dict[str, Any]:
    """The metadata of a label as JSON."""
    return {
        "schema": SCHEMA,
        "model": asdict(label.model),
        "cost": asdict(label.cost),
        "graph": {"name": label.graph_name, "digest": label.graph_digest, "location": label.graph_location},
        "probes": {"digest": label.probes_digest, "location": label.probes_location},
        "config": {"images_per_concept": label.images_per_concept},
        "domains": list(label.domain_names),
        "package_version": label.package_version,
        "environment": asdict(label.environment),
        "license": label.license,
    }


def label_from_bytes(blob: bytes, name: Path | str = "") -> Label:
    """Parse and validate the content of a label file; the name is used in messages."""
    with _faults("a valid label", name):
        metadata, tensors = read_metadata(blob), load(blob)
        check_metadata(metadata)
        check_label_tensors(tensors, len(metadata["domains"]), metadata["config"]["images_per_concept"])
        if metadata["sha256"] != _checksum({k: v for k, v in metadata.items() if k != "sha256"}, tensors):
            raise LabelError("the checksum does not match")
    graph, probes = metadata["graph"], metadata["probes"]
    return Label(
        model=ModelRef(**metadata["model"]),
        cost=Cost(**metadata["cost"]),
        graph_name=graph["name"],
        graph_digest=graph["digest"],
        graph_location=graph["location"],
        probes_digest=probes["digest"],
        probes_location=probes["location"],
        images_per_concept=metadata["config"]["images_per_concept"],
        domain_names=tuple(metadata["domains"]),
        package_version=metadata["package_version"],
        environment=Environment(**metadata["environment"]),
        license=metadata["license"],
        **{name: tensor for name, tensor in tensors.items() if name != "node_precision"},
    )


def tensors_to_bytes(beside: Rivals | ProbeEmbeddings) -> bytes:
    """Serialize what is in a file beside a label."""
    return save({name: np.ascontiguousarray(tensor) for name, tensor in vars(beside).items()})


def rivals_from_bytes(blob: bytes, label: Label, name: Path | str = "") -> Rivals:
    """Parse and validate the rivals of a label; the name is used in messages."""
    with _faults("the rivals of its label", name):
        check_rivals(tensors := _load(blob), label.ranks)
    return Rivals(**tensors)


def embeddings_from_bytes(blob: bytes, label: Label, name: Path | str = "") -> ProbeEmbeddings:
    """Parse and validate the embeddings of a label; the name is used in messages."""
    with _faults("the embeddings of its label", name):
        check_embeddings(tensors := _load(blob), len(label.ranks))
    return ProbeEmbeddings(**tensors)


@contextmanager
def _faults(expected: str, name: Path | str) -> Iterator[None]:
    """Raise any fault of a file as a LabelError that says what it is not."""
    try:
        yield
    except (LabelError, *UNREADABLE) as error:
        reason = error.reason if isinstance(error, LabelError) else one_line(error)
        raise LabelError(f"not {expected} ({reason}); fetch it again, or label the model again", name) from None


def _load(blob: bytes) -> dict[str, NDArray[Any]]:
    _header(blob)  # not too long
    return load(blob)


def read_metadata(blob: bytes, max_header: int = _MAX_HEADER) -> dict[str, Any]:
    """Read our metadata from an untrusted safetensors header; raises one of UNREADABLE."""
    metadata = json.loads(json.loads(_header(blob, max_header))["__metadata__"][METADATA_KEY])
    if not isinstance(metadata, dict):
        raise ValueError("the metadata is not an object")
    canonical_json(metadata).encode()  # raises for lone surrogates
    return metadata


def _header(blob: bytes, max_header: int = _MAX_HEADER) -> bytes:
    """The JSON header of a safetensors file; a ValueError if it would fill the memory when it is parsed."""
    length = int.from_bytes(blob[:8], "little")
    if length > min(max_header, len(blob) - 8):
        raise ValueError(f"the file is cut off, or its header has over {max_header:,} bytes")
    return blob[8 : 8 + length]


def _checksum(metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    """Sha256 over metadata and tensors."""
    checksum = hashlib.sha256(canonical_json(metadata).encode())
    for name in TENSORS:
        checksum.update(name.encode())
        checksum.update(np.ascontiguousarray(tensors[name]).tobytes())
    return checksum.hexdigest()
