"""What a model's card says of its label, as metadata: tags, and a block that is read back with suspicion."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from mll_hf.utils.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mll_hf.labels.label import ModelLabel

LABEL_TAG = "mll-label"
COLLECTION_TAG = "mll-labels"
GRAPH_TAG_PREFIX = "mll-graph-"
LABEL_PATH = "mll/label.safetensors"  # in a model's own repo
BLOCK = "mll"  # key of our block in a card's metadata
LONGEST_NAME = 200

_SCHEMA = 1  # of the block
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


def graph_tag(digest: str) -> str:
    """The tag of everything that belongs to a graph: searchable on the Hub, where nested metadata are not."""
    return GRAPH_TAG_PREFIX + digest[:12]


@dataclass(frozen=True, slots=True)
class CardClaim:
    """What a card says about the label in its repo. The label itself decides; this is a hint for those who search.

    Attributes:
        graph_name: Name of the graph, for people.
        graph_digest: The graph, 64 hex digits.
        probes_name: Dataset or folder of the probe images.
        probes_revision: Its revision, 40 hex digits.
        file: Path of the label in the repo.
        sha256: Of that file, 64 hex digits.
        revision: The commit of the model that was measured, 40 hex digits.
        precision: Mean node precision over the tested concepts.
        concepts: Number of concepts tested.
        tests: Number of tests. An image tests its concept and those above it.
        temperature: The model's calibration temperature.
        package_version: Version of this package that counted.
    """

    graph_name: str
    graph_digest: str
    probes_name: str
    probes_revision: str
    file: str
    sha256: str
    revision: str
    precision: float
    concepts: int
    tests: int
    temperature: float
    package_version: str


def read_claim(card_data: object) -> CardClaim | None:
    """Find what a card claims in its metadata, which may be anything that JSON or YAML can express.

    Args:
        card_data: The parsed metadata of a model's card.

    Returns:
        The claim, or None if there is no block ``mll`` or a field of it is missing or malformed.
    """
    block = _mapping(_mapping(card_data).get(BLOCK))
    graph, probes = _mapping(block.get("graph")), _mapping(block.get("probes"))
    fields: dict[str, Any] = {
        "graph_name": _name(graph.get("name")),
        "graph_digest": _matching(graph.get("digest"), _SHA256),
        "probes_name": _name(probes.get("name")),
        "probes_revision": _matching(probes.get("revision"), _SHA1),
        "file": LABEL_PATH if block.get("file") == LABEL_PATH else None,
        "sha256": _matching(block.get("sha256"), _SHA256),
        "revision": _matching(block.get("revision"), _SHA1),
        "precision": _number(block.get("precision"), 0, 1),
        "concepts": _count(block.get("concepts")),
        "tests": _count(block.get("tests")),
        "temperature": _number(block.get("temperature"), 1e-45, 3.5e38),  # what float32 can hold
        "package_version": _name(block.get("package_version")),
    }
    if _count(block.get("schema")) != _SCHEMA or None in fields.values():
        return None
    return CardClaim(**fields)


def _mapping(value: object) -> Mapping[Any, object]:
    return value if isinstance(value, dict) else {}


def _name(value: object) -> str | None:
    is_name = isinstance(value, str) and len(value) <= LONGEST_NAME and value.isprintable()
    return str(value) if is_name else None


def _matching(value: object, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _number(value: object, least: float, most: float) -> float | None:
    """A number in a range, which NaN is not; JSON of other languages writes 1.0 as 1."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and least <= value <= most else None  # type: ignore[arg-type, operator]


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def claim_of(label: ModelLabel, sha256: str) -> CardClaim:
    """What a card should say of a label whose file has this sha256."""
    return CardClaim(
        graph_name=printable(label.graph_name)[:LONGEST_NAME],
        graph_digest=label.graph_digest,
        probes_name=printable(label.probes_name)[:LONGEST_NAME],
        probes_revision=label.probes_revision,
        file=LABEL_PATH,
        sha256=sha256,
        revision=label.model.revision,
        precision=round(label.mean_precision, 4),
        concepts=int((label.support > 0).sum()),
        tests=int(label.support.sum(dtype=np.int64)),
        temperature=float(f"{float(label.temperature[0]):.4g}"),
        package_version=printable(label.package_version)[:LONGEST_NAME],
    )


def block_of(claim: CardClaim) -> dict[str, Any]:
    """The entry of a card's metadata that :func:`read_claim` reads."""
    return {
        BLOCK: {
            "schema": _SCHEMA,
            "graph": {"name": claim.graph_name, "digest": claim.graph_digest},
            "probes": {"name": claim.probes_name, "revision": claim.probes_revision},
            "file": claim.file,
            "sha256": claim.sha256,
            "revision": claim.revision,
            "precision": claim.precision,
            "concepts": claim.concepts,
            "tests": claim.tests,
            "temperature": claim.temperature,
            "package_version": claim.package_version,
        }
    }


def yaml_lines(mapping: Mapping[str, Any], indent: str = "") -> list[str]:
    """A nested mapping of scalars as lines of YAML."""
    lines: list[str] = []
    for key, value in mapping.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *yaml_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {yaml_scalar(value)}")
    return lines


def yaml_scalar(value: str | float) -> str:
    """A YAML scalar on one line. Text is quoted: to some parsers a digest such as 12e4... is a number."""
    style = '"' if isinstance(value, str) else None
    text: str = yaml.safe_dump(value, default_style=style, allow_unicode=True, width=math.inf)
    return text.removesuffix("...\n").rstrip("\n")
