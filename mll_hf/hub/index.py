"""The index of a collection: the summaries of all its labels and their graph in one file.

So a query costs the same few requests however many models there are. The same labels always give the same bytes.
An entry names the label file that it was taken from by its content, so a reader sees whether it still agrees.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load, save

from mll_hf.errors import GraphError, LabelError
from mll_hf.graph.concepts import SemanticGraph, graph_from_json, graph_to_bytes
from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.label import (
    METADATA_KEY,
    UNREADABLE,
    LabelSummary,
    check_summary,
    fields_from_metadata,
    label_metadata,
    read_metadata,
)
from mll_hf.utils.files import canonical_json
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

INDEX_FILE = "index.safetensors"
SCHEMA = 1
_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NARROW = 255  # support up to here lets ranks be stored in 8 bits


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A label as the index holds it.

    Attributes:
        summary: What selection needs of it.
        oid: Name of the label's file by its content, as the Hub has it: sha256, or git's blob id.
    """

    summary: LabelSummary
    oid: str


def index_to_bytes(graph: SemanticGraph, entries: Sequence[IndexEntry]) -> bytes:
    """Serialize the index of at least one label: ranks [M, V, RANK_BINS], domain ranks, temperatures and the graph."""
    entries = sorted(entries, key=lambda entry: _place(entry.summary))
    summaries = [entry.summary for entry in entries]
    narrow = all(int(summary.support.max()) <= _NARROW for summary in summaries)
    tensors = {
        "ranks": np.stack([summary.ranks for summary in summaries]).astype(np.uint8 if narrow else np.uint16),
        "domain_ranks": np.concatenate([summary.domain_ranks for summary in summaries]),
        "temperature": np.concatenate([summary.temperature for summary in summaries]),
        "graph": np.frombuffer(graph_to_bytes(graph), np.uint8),
    }
    metadata = {
        "schema": SCHEMA,
        "labels": [{**label_metadata(entry.summary), "oid": entry.oid} for entry in entries],
    }
    return save(tensors, metadata={METADATA_KEY: canonical_json(metadata)})


def index_from_bytes(blob: bytes, path: Path | None = None) -> tuple[SemanticGraph, tuple[IndexEntry, ...]]:
    """Parse and validate an index.

    Args:
        blob: The content of an index file.
        path: Where it came from, for messages.

    Raises:
        LabelError: The bytes are no index, or one that contradicts itself.
    """
    try:
        metadata, tensors = read_metadata(blob), load(blob)
        _check_layout(metadata, tensors)
        graph = graph_from_json(json.loads(tensors["graph"].tobytes()))
        fields = [fields_from_metadata(claims) for claims in metadata["labels"]]
        entries = tuple(_entries(graph, metadata["labels"], fields, tensors))
    except (*UNREADABLE, GraphError, LabelError) as error:
        reason = f"is no valid index ({one_line(error)})"
        raise LabelError(reason, path) from None
    return graph, entries


def _check_layout(metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    if type(metadata.get("schema")) is not int or metadata["schema"] != SCHEMA:
        raise LabelError(f"its schema is not {SCHEMA}, the one that this version reads")
    labels = metadata.get("labels")
    if not isinstance(labels, list) or not all(isinstance(claims, dict) for claims in labels):
        raise LabelError("the metadata lack a list of labels")
    kinds = {
        "ranks": ((np.uint8, np.uint16), 3),
        "domain_ranks": ((np.int32,), 2),
        "temperature": ((np.float32,), 1),
        "graph": ((np.uint8,), 1),
    }
    if set(tensors) != set(kinds):
        raise LabelError(f"the tensors are {sorted(tensors)}, not {sorted(kinds)}")
    for name, (dtypes, axes) in kinds.items():
        if tensors[name].dtype not in dtypes or tensors[name].ndim != axes:
            raise LabelError(f"{name} is {tensors[name].dtype} {tensors[name].shape}")


def _entries(
    graph: SemanticGraph,
    claims: list[Mapping[str, Any]],
    fields: list[dict[str, Any]],
    tensors: Mapping[str, NDArray[Any]],
) -> Iterator[IndexEntry]:
    n_domains = [len(of_label["domain_names"]) for of_label in fields]
    ends = np.cumsum(n_domains).tolist()
    shapes = {
        "ranks": (len(fields), len(graph), RANK_BINS),
        "domain_ranks": (sum(n_domains), RANK_BINS),
        "temperature": (len(fields),),
    }
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise LabelError(f"{name} is {tensors[name].shape}, not {shape}")
    seen = set()
    for m, of_label in enumerate(fields):
        summary = LabelSummary(
            **of_label,
            ranks=tensors["ranks"][m],
            domain_ranks=tensors["domain_ranks"][ends[m] - n_domains[m] : ends[m]],
            temperature=tensors["temperature"][m : m + 1],
        )
        if summary.graph_digest != graph.digest:
            raise LabelError(f"{summary.model.repo_id} is of another graph")
        check_summary(summary)
        oid = claims[m].get("oid")
        if not isinstance(oid, str) or not _OID.fullmatch(oid):
            raise LabelError(f"{summary.model.repo_id} lacks the hash of its file")
        seen.add(_place(summary))
        yield IndexEntry(summary, oid)
    if len(seen) < len(fields):
        raise LabelError("a label is there twice")


def _place(summary: LabelSummary) -> tuple[str, str]:
    return summary.model.slug, summary.model.revision
