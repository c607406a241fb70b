"""Counts of probe images, which are known without access to the images.

They are part of ``graph.json``, which is public even if the images are not. Probe images are identified by a digest of
their files and counts, so the counts of a digest cannot be changed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mll_hf.errors import GraphError
from mll_hf.utils.files import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DOMAINS = 100
_MAX_IMAGES = 2**31
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ProbeCounts:
    """Number of probe images by concept, domain and source, and their location."""

    location: str  # hf://datasets/org/name@commit or the name of a folder; empty if unknown; not part of the digest
    files: tuple[str, ...]  # sha256 of each image file, sorted by file name
    kinds: tuple[tuple[str, str], ...]  # the K pairs of domain and source, sorted
    images: Mapping[str, tuple[tuple[int, int], ...]]  # by id of a concept with own images: pairs of kind and count

    @cached_property
    def digest(self) -> str:
        """Digest of the files and counts (40 hex digits)."""
        document = self.to_json()
        del document["location"]
        return hashlib.sha256(canonical_json(document).encode()).hexdigest()[:40]

    @cached_property
    def by_domain(self) -> Mapping[str, int]:
        """Number of images of each of the S domains, sorted by name."""
        totals = dict.fromkeys((domain for domain, _ in self.kinds), 0)
        for counts in self.images.values():
            for kind, count in counts:
                totals[self.kinds[kind][0]] += count
        return totals

    @property
    def total(self) -> int:
        """Number of images."""
        return sum(self.by_domain.values())

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON; :func:`probe_counts_from_json` is the inverse."""
        return {
            "location": self.location,
            "files": list(self.files),
            "kinds": [list(kind) for kind in self.kinds],
            "images": {concept: [list(pair) for pair in counts] for concept, counts in self.images.items()},
        }


def probe_counts_from_json(document: Any) -> ProbeCounts:  # noqa: ANN401 - parsed JSON
    """Parse counts from untrusted JSON; a GraphError if it is invalid."""
    match document:
        case {"location": str(location), "files": list(files), "kinds": list(kinds), "images": dict(images)} if (
            all(isinstance(file, str) and _SHA256.fullmatch(file) for file in files)
            and all(isinstance(kind, list) and list(map(type, kind)) == [str, str] for kind in kinds)
            and len({domain for domain, _ in kinds}) <= MAX_DOMAINS
            and sorted(map(tuple, kinds)) == list(dict.fromkeys(map(tuple, kinds)))
            and all(_are_counts(counts, len(kinds)) for counts in images.values())
        ):
            pairs = {concept: tuple((kind, count) for kind, count in counts) for concept, counts in images.items()}
            return ProbeCounts(location, tuple(files), tuple((domain, source) for domain, source in kinds), pairs)
    raise GraphError("invalid 'probes': needs location, files, kinds and images; fetch or publish the graph again")


def _are_counts(counts: object, n_kinds: int) -> bool:
    """Whether parsed JSON is a list of pairs of a kind and a count, sorted by kind."""
    if not isinstance(counts, list):
        return False
    if not all(isinstance(pair, list) and list(map(type, pair)) == [int, int] for pair in counts):
        return False
    kinds = [kind for kind, _ in counts]
    in_range = all(0 <= kind < n_kinds and 0 < count < _MAX_IMAGES for kind, count in counts)
    return in_range and kinds == sorted(set(kinds))
