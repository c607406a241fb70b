"""Verify a label: measure a random sample of its concepts again and compare."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labeling.contest import Contest, in_blocks
from mll_hf.labeling.encoding import embedded_probes
from mll_hf.labels.counts import wilson_interval
from mll_hf.models import load_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.label import Label, ModelRef

CONCEPTS = 50
_TOLERANCE = 0.05  # of a concept's images, at least one: other hardware rounds differently
_RANK_TOLERANCE = 0.1  # ranks change more easily than hits
_REQUIRED_SHARE = 0.9
_COUNTS = ("concepts", "support", "claimed", "measured", "moved")


class Verdict(StrEnum):
    """Result of a verification."""

    AGREES = "agrees"
    DISAGREES = "disagrees"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verification:
    """A label compared with a new measurement on K of its concepts.

    Attributes:
        model: The model.
        concepts: [K] indices of the sampled concepts.
        support: [K] probe images of each concept.
        claimed: [K] recognized images according to the label.
        measured: [K] images recognized now.
        moved: [K] minimum number of images whose rank is now in another bin.
        seed: Seed of the sample.
    """

    model: ModelRef
    concepts: NDArray[np.int64]
    support: NDArray[np.int32]
    claimed: NDArray[np.int32]
    measured: NDArray[np.int32]
    moved: NDArray[np.int32]
    seed: int

    @property
    def agreeing(self) -> int:
        """Concepts where at most 5 % of the images (or one) changed recognition, and 10 % (or one) their rank bin."""
        hits = np.abs(self.claimed - self.measured) <= np.maximum(1, np.floor(_TOLERANCE * self.support))
        ranks = self.moved <= np.maximum(1, np.floor(_RANK_TOLERANCE * self.support))
        return int((hits & ranks).sum())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the share of concepts that agree."""
        return wilson_interval(self.agreeing, len(self.concepts))

    @property
    def claimed_recall(self) -> float:
        """Mean recall on the sample according to the label."""
        return float((self.claimed / self.support).mean())

    @property
    def measured_recall(self) -> float:
        """Mean recall on the sample, measured now."""
        return float((self.measured / self.support).mean())

    @property
    def verdict(self) -> Verdict:
        """Agrees if the interval is above 90 % of concepts, disagrees if it is below, else undecided."""
        lower, upper = self.interval
        if lower >= _REQUIRED_SHARE:
            return Verdict.AGREES
        return Verdict.DISAGREES if upper < _REQUIRED_SHARE else Verdict.UNDECIDED

    def to_json(self) -> dict[str, Any]:
        """The verification as plain JSON."""
        return {
            **asdict(self.model),
            "verdict": str(self.verdict),
            **{name: getattr(self, name).tolist() for name in _COUNTS},
            "seed": self.seed,
            "agreeing": self.agreeing,
            "interval": list(self.interval),
            "claimed_recall": self.claimed_recall,
            "measured_recall": self.measured_recall,
        }


def verify_label(
    label: Label,
    graph: SemanticGraph,
    probes: ProbeSet,
    *,
    n_concepts: int = CONCEPTS,
    seed: int = 0,
    device: str | None = None,
    batch_size: int | None = None,
) -> Verification:
    """Measure a model again on a seeded sample of concepts, with all concepts as candidates.

    Args:
        label: The label.
        graph: The label's graph.
        probes: The label's probe images.
        n_concepts: Size of the sample; fewer than 35 concepts cannot show agreement.
        seed: Seed of the sample. The publisher of the label must not know it in advance.
        device: ``cuda``, ``mps`` or ``cpu``; default: the best available device.
        batch_size: Images per batch; default: chosen for the device.

    Raises:
        InputError: The label is of another graph or other images, or has no concept with images.
        ModelError: The model cannot be loaded or run.
    """
    _check_graph_and_images(label, graph, probes)
    tested = np.flatnonzero(label.support > 0)
    if not len(tested):
        raise InputError(f"the label of {label.model.repo_id} has no concept with images; there is nothing to verify")
    concepts = np.sort(np.random.default_rng(seed).permutation(tested)[:n_concepts])
    sample = probes.restricted_to(concepts)
    with closing(load_model(label.model, device)) as model:
        texts = model.encode_texts([concept.caption for concept in graph.concepts])
        images = np.concatenate(list(embedded_probes(model, sample, 0, batch_size or model.batch_size)))
        counts = Contest(graph, sample, texts, model.logit_scale, model.device).count(in_blocks(images))
    # per bin; images that left one bin are now in others
    moved = label.ranks[concepts].astype(np.int32) - counts.ranks[concepts]
    return Verification(
        model=label.model,
        concepts=concepts,
        support=label.support[concepts],
        claimed=label.hits[concepts],
        measured=counts.hits[concepts],
        moved=np.maximum(moved, 0).sum(axis=1, dtype=np.int32),
        seed=seed,
    )


def _check_graph_and_images(label: Label, graph: SemanticGraph, probes: ProbeSet) -> None:
    if label.graph_digest != graph.digest:
        raise InputError(
            f"the label was measured on graph {label.graph_name} ({label.graph_digest[:12]}), not on {graph.name} "
            f"({graph.digest[:12]}); give its graph with --graph"
        )
    if (label.probes_digest, label.sampling) != (probes.digest, probes.sampling):
        measured, given = (
            f"{sampling.images_per_concept} images per concept of {location} ({digest[:12]})"
            for sampling, location, digest in (
                (label.sampling, label.probes_location, label.probes_digest),
                (probes.sampling, probes.location, probes.digest),
            )
        )
        raise InputError(f"the label was measured on {measured}, not on {given}; give its images with --images")
