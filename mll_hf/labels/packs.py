"""Packs: new concepts with images of their own, attached under the concepts of a graph.

WordNet's objects leave out letters, traffic signs, or a company's parts. A pack adds such concepts without a new
measurement of everything: its images are contested by its own concepts alone, and the graph's images are not touched.
So a label of a graph with several packs is the same in whatever order they were added.

The concepts of the graph do not contest a pack's images, because a pack is about what they leave out. A specialist
that tells all digits apart may well score some caption that it never learned, *lesser panda*, above *seven*; no task
with digits for classes has such candidates, and models would be ranked by how they rate captions at random.

A pack's folder is like a graph's: ``graph.json`` with the new concepts alone, whose hypernyms may be concepts of the
graph, and ``images*.parquet``. The list ``images`` in ``graph.json`` names the image files that belong to the pack;
without it all of them do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from mll_hf.errors import GraphError
from mll_hf.graph.concepts import (
    Concept,
    SemanticGraph,
    concepts_digest,
    concepts_from_json,
    concepts_to_json,
    read_graph_file,
)
from mll_hf.graph.probes import load_probes
from mll_hf.labels.counts import NO_RIVAL, RANK_BINS, RIVALS
from mll_hf.labels.label import Extension, PackPart, domains_with_images
from mll_hf.utils.files import canonical_json
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.probes import ProbeSet, SamplingConfig
    from mll_hf.labels.label import LabelSummary, ModelLabel


class _HasNameAndDigest(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...


Named = TypeVar("Named", bound=_HasNameAndDigest)
_IMAGE_FILE = re.compile(r"images[\w.-]*\.parquet", re.ASCII)


@dataclass(frozen=True)
class GraphPack:
    """Concepts to be attached to a graph.

    Attributes:
        name: A name for people; it does not enter the digest, but packs are kept in the order of their names.
        concepts: The new concepts, sorted by id; every one has a hypernym, here or in the graph.
        image_files: Names of the files that hold its images; None for all that are in its folder.
    """

    name: str
    concepts: tuple[Concept, ...]
    image_files: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "concepts", tuple(sorted(self.concepts, key=lambda concept: concept.id)))
        if self.image_files is not None:
            object.__setattr__(self, "image_files", tuple(sorted(set(self.image_files))))
        if rootless := [concept.id for concept in self.concepts if not concept.hypernyms]:
            raise GraphError(
                f"concepts of a pack without parents: {_some(rootless)}; attach them to concepts of the graph"
            )
        _ = self.graph  # refuses what no graph may hold

    @cached_property
    def graph(self) -> SemanticGraph:
        """The pack's concepts and the edges between them; those to the graph that it is attached to are left out."""
        own = (replace(c, hypernyms=tuple(h for h in c.hypernyms if h in self.ids)) for c in self.concepts)
        return SemanticGraph(self.name, tuple(own))

    @cached_property
    def ids(self) -> frozenset[str]:
        """Ids of its concepts."""
        return frozenset(concept.id for concept in self.concepts)

    @cached_property
    def attached_to(self) -> frozenset[str]:
        """Ids of the graph's concepts that are hypernyms of its own."""
        return frozenset(h for concept in self.concepts for h in concept.hypernyms) - self.ids

    @cached_property
    def digest(self) -> str:
        """Sha256 (64 hex digits) of the canonical form: names, glosses and edges, in id order."""
        return concepts_digest(self.concepts)


def load_pack(path: str | Path, name: str | None = None) -> GraphPack:
    """Read a pack from its folder or its ``graph.json``.

    Args:
        path: The folder or file.
        name: What to call the pack if its file does not name it, and in messages; by default as the folder.

    Raises:
        GraphError: The file is missing, is no JSON, or does not describe a pack.
    """
    return read_graph_file(path, name, _pack_from_json)


def pack_to_bytes(pack: GraphPack) -> bytes:
    """The file ``graph.json`` of a pack; the same pack always gives the same bytes."""
    document: dict[str, Any] = {"name": pack.name, "nodes": concepts_to_json(pack.concepts)}
    if pack.image_files is not None:
        document["images"] = list(pack.image_files)
    return canonical_json(document).encode()


def _pack_from_json(document: Any, default_name: str) -> GraphPack:  # noqa: ANN401 - parsed JSON
    concepts, files = concepts_from_json(document), document.get("images")
    if files is not None and not (
        isinstance(files, list) and all(isinstance(file, str) and _IMAGE_FILE.fullmatch(file) for file in files)
    ):
        raise GraphError("'images' must be a list of files such as images-1.parquet beside it")
    return GraphPack(str(document.get("name") or default_name), concepts, None if files is None else tuple(files))


def graph_with_packs(base: SemanticGraph, packs: Sequence[GraphPack]) -> SemanticGraph:
    """The concepts of a graph and of packs in one graph, whatever the order of the packs.

    Raises:
        GraphError: A pack does not fit the graph, or two packs have a concept in common.
    """
    for pack in packs:
        if unknown := pack.attached_to - set(base.index):
            raise GraphError(
                f"pack {pack.name} is attached to concepts that {base.name} does not have: {_some(unknown)}; use the "
                "graph that it was made for"
            )
    if not packs:
        return base
    names = [base.name, *(pack.name for pack in in_order(packs))]
    concepts = [*base.concepts, *(concept for pack in packs for concept in pack.concepts)]
    return SemanticGraph(" + ".join(names), tuple(concepts))


def positions_in(whole: SemanticGraph, part: SemanticGraph) -> NDArray[np.int64]:
    """[V] index in a graph of each concept of a part of it; ascending, as both are in id order."""
    return np.array([whole.index[concept.id] for concept in part.concepts], np.int64)


@dataclass(frozen=True)
class AttachedPack:
    """A pack that fits a graph, with a sample of its images.

    Attributes:
        pack: The pack.
        probes: The images, filed under concepts of ``pack.graph``.
    """

    pack: GraphPack
    probes: ProbeSet

    @property
    def name(self) -> str:
        """Name of the pack."""
        return self.pack.name

    @property
    def digest(self) -> str:
        """Digest of the pack."""
        return self.pack.digest

    @property
    def graph(self) -> SemanticGraph:
        """The concepts that contest the images."""
        return self.pack.graph

    @cached_property
    def tests(self) -> ProbeSet:
        """The images without the tests that no model can fail: those of a concept that all others are related to.

        *Letter* above 26 letters has no rivals. Empty if the pack has no two concepts to tell apart.
        """
        related = np.array([len(self.graph.relatives(v)) for v in range(len(self.graph))])
        return self.probes.restricted_to(np.flatnonzero(related < len(self.graph) - 1))

    def is_covered_by(self, label: LabelSummary) -> bool:
        """Whether a label covers these concepts with these images."""
        return (self.digest, self.probes.revision) in _covered(label)


def attach_pack(
    base: SemanticGraph,
    pack: GraphPack,
    folder: str | Path,
    sampling: SamplingConfig | None = None,
    origin: tuple[str, str] | None = None,
) -> AttachedPack:
    """Attach a pack to a graph and sample its images; arguments as of :func:`~mll_hf.graph.probes.load_probes`.

    An image tests the concept that it is filed under and what is above that in the pack. Concepts of the graph keep
    the images that they have.

    Raises:
        GraphError: The pack does not fit the graph, or its images cannot be used.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        graph_with_packs(base, [pack])
    except GraphError as error:
        raise GraphError(str(error), Path(folder)) from None
    return AttachedPack(pack, load_probes(pack.graph, folder, sampling, origin))


def in_order(packs: Iterable[Named]) -> list[Named]:
    """Packs in the order in which labels name them."""
    return sorted(packs, key=lambda pack: (pack.name, pack.digest))


# --- labels -----------------------------------------------------------------------------------------------------------


def covers_exactly(label: LabelSummary, packs: Sequence[AttachedPack]) -> bool:
    """Whether a label covers some packs, with the same images, and no others."""
    return _covered(label) == {(pack.digest, pack.probes.revision) for pack in packs}


def _covered(label: LabelSummary) -> set[tuple[str, str]]:
    return {(part.digest, part.probes_revision) for part in label.packs}


def label_with_pack(
    label: ModelLabel, base: SemanticGraph, covered: Sequence[AttachedPack], new: AttachedPack, measured: ModelLabel
) -> ModelLabel:
    """Add a pack to a label. What the label says already is not changed.

    Args:
        label: A label of ``base`` with the packs ``covered``.
        base: A graph.
        covered: Packs on it that the label covers.
        new: Another pack on it.
        measured: What was measured on the images of the new pack, as a label of ``new.graph``.

    Returns:
        The label of ``base`` with ``covered`` and ``new``: whatever the order of additions, the same.
    """
    old_graph = graph_with_packs(base, [pack.pack for pack in covered])
    graph = graph_with_packs(base, [*(pack.pack for pack in covered), new.pack])
    old, added = positions_in(graph, old_graph), positions_in(graph, new.graph)
    domains = tuple(sorted({*label.domain_names, *measured.domain_names}))
    domain_ranks = np.zeros((len(domains), RANK_BINS), np.int32)
    domain_ranks[[domains.index(name) for name in label.domain_names]] = label.domain_ranks
    part = PackPart(
        new.name,
        new.digest,
        measured.probes_name,
        measured.probes_revision,
        measured.package_version,
        domains_with_images(measured, list(range(len(added)))),
        tuple(added.tolist()),
    )
    parts = [replace(pack, concepts=tuple(old[list(pack.concepts)].tolist())) for pack in label.packs]
    return replace(
        label,
        graph_name=graph.name,
        graph_digest=graph.digest,
        domain_names=domains,
        domain_ranks=domain_ranks,
        extension=Extension(label.base_digest, tuple(in_order([*parts, part]))),
        **_rows_of((label, old), (measured, added), len(graph), domains),
    )


def _rows_of(
    first: tuple[ModelLabel, NDArray[np.int64]],
    second: tuple[ModelLabel, NDArray[np.int64]],
    n_concepts: int,
    domains: tuple[str, ...],
) -> dict[str, Any]:
    """The tensors that two labels fill row by row.

    Args:
        first: A label of a part, and the index in the whole of each of the part's concepts.
        second: Another one.
        n_concepts: Concepts of the whole.
        domains: Domains of the whole.
    """
    rows: dict[str, Any] = {
        "ranks": np.zeros((n_concepts, RANK_BINS), np.uint16),
        "predicted": np.zeros(n_concepts, np.int32),
        "rivals": np.full((n_concepts, RIVALS), NO_RIVAL, np.uint16),
        "rival_wins": np.zeros((n_concepts, RIVALS), np.uint16),
        "domain_hits": np.zeros((len(domains), n_concepts), np.uint16),
        "domain_support": np.zeros((len(domains), n_concepts), np.uint16),
    }
    for label, places in (first, second):
        rows["ranks"][places] = label.ranks
        rows["predicted"][places] = label.predicted
        rows["rivals"][places] = _renumbered(label.rivals, places)
        rows["rival_wins"][places] = label.rival_wins
        for s, name in enumerate(label.domain_names):
            rows["domain_hits"][domains.index(name), places] = label.domain_hits[s]
            rows["domain_support"][domains.index(name), places] = label.domain_support[s]
    return rows


def _renumbered(rivals: NDArray[np.uint16], positions: NDArray[np.int64]) -> NDArray[np.uint16]:
    empty = rivals == NO_RIVAL
    return np.where(empty, NO_RIVAL, positions[np.where(empty, 0, rivals)]).astype(np.uint16)


def _some(ids: Iterable[str]) -> str:
    return abridged(sorted(ids), 3)
