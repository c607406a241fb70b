"""The fields of a label with their ranges: one table for metadata, one for tensors, and one validator.

Labels are untrusted input. Whatever does not fit the tables is a :class:`~mll_hf.errors.LabelError`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import LabelError
from mll_hf.graph.probe_counts import MAX_DOMAINS
from mll_hf.labels.counts import NO_RIVAL, RANK_BINS, RIVALS, recall_of
from mll_hf.labels.label import LOCAL_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[Any]]

SCHEMA = 4
MAX_CONCEPTS = NO_RIVAL - 1
_MAX_TEXT = 500


@dataclass(frozen=True, slots=True)
class Field:
    """A metadata field: its place in the JSON document, its types, and its range as a test and in words."""

    path: str
    types: tuple[type, ...]
    fits: Callable[[Any], bool]
    range: str


def _text(value: str) -> bool:
    return 0 < len(value) <= _MAX_TEXT and value.isprintable()


def _line(value: str) -> bool:
    return len(value) <= _MAX_TEXT and value.isprintable()


def _hex(digits: int) -> Callable[[Any], bool]:
    pattern = re.compile(rf"[0-9a-f]{{{digits}}}")
    return lambda value: value is None or bool(pattern.fullmatch(value))


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: low <= value <= high  # False for NaN


def _model_id(value: str) -> bool:
    is_local = value.startswith(LOCAL_PREFIX)
    return _text(value) and (is_local or bool(re.fullmatch(r"[\w.-]+/[\w.-]+", value, re.ASCII)))


def _domains(value: list[Any]) -> bool:
    texts = [name for name in value if isinstance(name, str) and _text(name)]
    return 0 < len(texts) == len(value) == len(set(texts)) <= MAX_DOMAINS


_NUMBER = (int, float)
FIELDS = (
    Field("schema", (int,), lambda value: value == SCHEMA, f"{SCHEMA}, the one that this version reads"),
    Field("model.repo_id", (str,), _model_id, f"org/name or {LOCAL_PREFIX}PATH"),
    Field("model.revision", (str,), _hex(40), "a full commit sha"),
    Field("model.backend", (str,), _text, "a text"),
    Field("model.digest", (str, type(None)), _hex(64), "a sha256, or null"),
    Field("cost.parameters", (int,), _between(0, 10**15), "0 to 10^15"),
    Field("cost.gflops", _NUMBER, _between(0, 10**9), "0 to 10^9"),
    Field("graph.name", (str,), _text, "a text"),
    Field("graph.digest", (str,), _hex(64), "a sha256"),
    Field("graph.location", (str,), _line, "a line of text"),
    Field("probes.digest", (str,), _hex(40), "40 hex digits"),
    Field("probes.location", (str,), _line, "a line of text"),
    Field("config.images_per_concept", (int,), _between(1, 65535), "1 to 65,535"),
    Field("domains", (list,), _domains, f"1 to {MAX_DOMAINS} different texts"),
    Field("package_version", (str,), _text, "a text"),
    *(
        Field(f"environment.{name}", (str,), _text, "a text")
        for name in ("device", "dtype", "torch", "open_clip", "transformers")
    ),
    Field("license", (str, type(None)), lambda value: value is None or (_text(value) and len(value) <= 100), "an id"),
    Field("sha256", (str,), _hex(64), "a sha256"),
)

# name -> dtype and axes: concepts V, domains S, rank bins B
TENSORS: Mapping[str, tuple[type[np.generic], str]] = {
    "node_precision": (np.float32, "V"),  # the paper's vector; follows from the ranks
    "ranks": (np.uint16, "VB"),
    "domain_ranks": (np.int32, "SB"),
    "domain_hits": (np.uint16, "SV"),
    "domain_support": (np.uint16, "SV"),
    "temperature": (np.float32, "1"),
}
_RIVALS: Mapping[str, tuple[type[np.generic], str]] = {"rivals": (np.uint16, "VR"), "wins": (np.uint16, "VR")}
_EMBEDDINGS: Mapping[str, tuple[type[np.generic], str]] = {
    "images": (np.int8, "ND"),
    "scales": (np.float32, "N"),
    "concepts": (np.float16, "VD"),
    "offsets": (np.int64, "O"),
    "members": (np.int64, "M"),
}


def check_metadata(document: Mapping[str, Any]) -> None:
    """Check that a document has exactly the fields of the table, each of its type and in its range."""
    found: dict[str, Any] = {}
    for key, value in document.items():  # sections are objects of one level
        found |= {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
    expected = {field.path for field in FIELDS}
    if missing := sorted(expected - found.keys()):
        raise LabelError(f"metadata '{missing[0]}' is missing")
    if unknown := sorted(found.keys() - expected):
        raise LabelError(f"unknown metadata {unknown[0][:50]!r}")
    for field in FIELDS:
        value = found[field.path]
        if not isinstance(value, field.types) or isinstance(value, bool):
            raise LabelError(f"metadata '{field.path}' is of a wrong type; expected {field.range}")
        if not field.fits(value):
            raise LabelError(f"metadata '{field.path}' is not {field.range}")


def _check_shapes(
    tensors: Tensors, expected: Mapping[str, tuple[type[np.generic], str]], sizes: Mapping[str, int]
) -> None:
    """Check names, dtypes and shapes; each axis is a letter, whose length is in ``sizes``."""
    if set(tensors) != set(expected):
        raise LabelError(f"the tensors are {sorted(tensors)}, not {sorted(expected)}")
    for name, (dtype, axes) in expected.items():
        shape = tuple(sizes[axis] for axis in axes)
        if tensors[name].dtype != dtype or tensors[name].shape != shape:
            raise LabelError(f"{name} is {tensors[name].dtype} {tensors[name].shape}, not {dtype.__name__} {shape}")


def check_label_tensors(tensors: Tensors, n_domains: int, images_per_concept: int) -> None:
    """Check the tensors of a label: shapes, ranges, and that counts add up."""
    n_concepts = tensors["ranks"].shape[0] if "ranks" in tensors and tensors["ranks"].ndim else 0
    if not 0 < n_concepts <= MAX_CONCEPTS:
        raise LabelError(f"the number of concepts, {n_concepts}, is not between 1 and {MAX_CONCEPTS}")
    _check_shapes(tensors, TENSORS, {"V": n_concepts, "S": n_domains, "B": RANK_BINS, "1": 1})
    ranks, domain_ranks, hits, support = (
        tensors[name].astype(np.int64) for name in ("ranks", "domain_ranks", "domain_hits", "domain_support")
    )
    temperature, equal, images = float(tensors["temperature"][0]), np.array_equal, ranks.sum(axis=1)
    _raise_first(
        {
            "node_precision does not match the ranks": equal(tensors["node_precision"], recall_of(ranks[:, 0], images)),
            "support exceeds the images per concept": (images <= images_per_concept).all(),
            "ranks by domain do not add up": (domain_ranks >= 0).all() and equal(domain_ranks.sum(0), ranks.sum(0)),
            "the temperature is not between 1e-6 and 1e6": 1e-6 <= temperature <= 1e6,
            "hits by domain do not add up": equal(hits.sum(axis=0), ranks[:, 0]),
            "support by domain does not add up": equal(support.sum(axis=0), images),
            "hits by domain exceed their support": (hits <= support).all(),
            "ranks by domain differ from support by domain": equal(domain_ranks.sum(axis=1), support.sum(axis=1))
            and equal(domain_ranks[:, 0], hits.sum(axis=1)),
        }
    )


def check_rivals(tensors: Tensors, ranks: NDArray[np.uint16]) -> None:
    """Check the tensors of the rivals of a label with these ranks [V, RANK_BINS]."""
    _check_shapes(tensors, _RIVALS, {"V": len(ranks), "R": RIVALS})
    rivals, wins = tensors["rivals"], tensors["wins"]
    empty, ordered = rivals == NO_RIVAL, np.sort(rivals, axis=1)  # empty slots come last
    losses = ranks[:, 1:].sum(axis=1, dtype=np.int64)
    _raise_first(
        {
            "a rival is not a concept": (empty | (rivals < len(ranks))).all(),
            "wins without a rival": ((wins == 0) == empty).all(),
            "rivals are not sorted": (wins[:, 1:] <= wins[:, :-1]).all(),
            "a rival is listed twice": ((ordered[:, 1:] > ordered[:, :-1]) | (ordered[:, 1:] == NO_RIVAL)).all(),
            "a concept is its own rival": (rivals != np.arange(len(ranks), dtype=np.uint16)[:, None]).all(),
            "wins differ from the label": (wins[:, 0] <= losses).all() and ((wins[:, 0] > 0) == (losses > 0)).all(),
        }
    )


def check_embeddings(tensors: Tensors, n_concepts: int) -> None:
    """Check the tensors of the embeddings of a label of V concepts."""
    (n, d), m = tensors["images"].shape, len(tensors["members"])
    _check_shapes(tensors, _EMBEDDINGS, {"N": n, "D": d, "V": n_concepts, "O": n_concepts + 1, "M": m})
    offsets, members = tensors["offsets"], tensors["members"]
    _raise_first(
        {
            "a number is not finite": np.isfinite(tensors["scales"]).all() and np.isfinite(tensors["concepts"]).all(),
            "offsets are not sorted": (np.diff(offsets) >= 0).all() and offsets[0] == 0 and offsets[-1] == m,
            "a member is not an image": ((members >= 0) & (members < n)).all(),
        }
    )


def _raise_first(checks: Mapping[str, bool | np.bool_]) -> None:
    for failure, passed in checks.items():
        if not passed:
            raise LabelError(failure)
