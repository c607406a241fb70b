"""Is a label true? Measure a random sample of its concepts again and compare."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub.utils.tqdm import tqdm

from mll_hf.errors import InputError
from mll_hf.labeling.contest import Contest
from mll_hf.labeling.encoding import encoded_images
from mll_hf.labels.counts import RANK_BINS, LabelCounts
from mll_hf.labels.packs import covers_exactly, graph_with_packs, positions_in
from mll_hf.models import load_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.label import ModelLabel, ModelRef
    from mll_hf.labels.packs import AttachedPack
    from mll_hf.models import VisionLanguageModel

CONCEPTS = 50
_TOLERANCE = 0.05  # of a concept's images, at least one: other hardware rounds otherwise
_RANK_TOLERANCE = 0.1  # a rank moves more easily than a hit
_REQUIRED_SHARE = 0.9
_Z = 1.959964  # 95 % of a normal distribution are within so many standard deviations


class Verdict(StrEnum):
    """What a sample says of a label."""

    AGREES = "agrees"
    DISAGREES = "disagrees"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verification:
    """A label against a new measurement on K of its concepts.

    Attributes:
        model: The model that was measured again.
        concepts: [K] indices of the sampled concepts.
        support: [K] images of each.
        claimed: [K] images that the label says are recognized.
        measured: [K] images that were recognized now.
        moved: [K] images, at least, that were beaten by more or fewer concepts (another bin of ranks) than claimed.
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
        """Concepts on which at most 5 % of the images (or one) are recognized otherwise, and 10 % ranked otherwise."""
        hits = np.abs(self.claimed - self.measured) <= np.maximum(1, np.floor(_TOLERANCE * self.support))
        ranks = self.moved <= np.maximum(1, np.floor(_RANK_TOLERANCE * self.support))
        return int((hits & ranks).sum())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the share of all tested concepts on which the label agrees."""
        return wilson_interval(self.agreeing, len(self.concepts))

    @property
    def claimed_precision(self) -> float:
        """Mean node precision of the sample as the label has it."""
        return float((self.claimed / self.support).mean())

    @property
    def measured_precision(self) -> float:
        """Mean node precision of the sample as it was measured."""
        return float((self.measured / self.support).mean())

    @property
    def verdict(self) -> Verdict:
        """Agrees if at least 90 % of all concepts surely do, disagrees if surely fewer do."""
        lower, upper = self.interval
        if lower >= _REQUIRED_SHARE:
            return Verdict.AGREES
        return Verdict.DISAGREES if upper < _REQUIRED_SHARE else Verdict.UNDECIDED

    def to_json(self) -> dict[str, Any]:
        """The verification as plain JSON."""
        return {
            **asdict(self.model),
            "verdict": str(self.verdict),
            "concepts": self.concepts.tolist(),
            "support": self.support.tolist(),
            "claimed": self.claimed.tolist(),
            "measured": self.measured.tolist(),
            "moved": self.moved.tolist(),
            "seed": self.seed,
            "agreeing": self.agreeing,
            "interval": list(self.interval),
            "claimed_precision": self.claimed_precision,
            "measured_precision": self.measured_precision,
        }


def verify_label(
    label: ModelLabel,
    graph: SemanticGraph,
    probes: ProbeSet,
    *,
    packs: Sequence[AttachedPack] = (),
    n_concepts: int = CONCEPTS,
    seed: int = 0,
    device: str | None = None,
    batch_size: int | None = None,
    token: str | None = None,
) -> Verification:
    """Measure a model again on a seeded sample of concepts, against all concepts of their part.

    Args:
        label: The claim.
        graph: Its graph, without packs.
        probes: The images that it was measured on.
        packs: The packs that the label covers; their concepts are sampled like any others.
        n_concepts: Size of the sample; 35 are the fewest that can show agreement.
        seed: Seed of the sample. Whoever publishes a label must not know it.
        device: ``cuda``, ``mps``, ``cpu``, or None for the best that is there.
        batch_size: Images at a time; by default as many as suit the device.
        token: Hub token; None takes the one that the user has logged in with.

    Raises:
        InputError: Graph, packs or images are not those of the label, or it has no tested concept.
        ModelError: The model cannot be had or run.
    """
    _check_same_question(label, graph, probes, packs)
    tested = np.flatnonzero(label.support > 0)
    if not len(tested):
        raise InputError(f"the label of {label.model.repo_id} has no concept with images; there is nothing to verify")
    concepts = np.sort(np.random.default_rng(seed).permutation(tested)[:n_concepts])
    whole = graph_with_packs(graph, [pack.pack for pack in packs])
    hits, ranks = np.zeros(len(concepts), np.int32), np.zeros((len(concepts), RANK_BINS), np.int32)
    model = load_model(label.model, device, token)
    try:
        for part, images in (graph, probes), *((pack.graph, pack.tests) for pack in packs):
            positions = positions_in(whole, part)
            sampled = np.flatnonzero(np.isin(positions, concepts) & (np.diff(images.offsets) > 0))
            counts = _count_again(model, part, images.restricted_to(sampled), batch_size)
            rows = np.searchsorted(concepts, positions[sampled])
            hits[rows], ranks[rows] = counts.hits[sampled], counts.ranks[sampled]
    finally:
        model.close()
    return Verification(
        model=label.model,
        concepts=concepts,
        support=label.support[concepts],
        claimed=label.hits[concepts],
        measured=hits,
        moved=_moved(label.ranks[concepts].astype(np.int32), ranks),
        seed=seed,
    )


def _count_again(
    model: VisionLanguageModel, graph: SemanticGraph, sample: ProbeSet, batch_size: int | None
) -> LabelCounts:
    if not len(sample):
        return LabelCounts.zeros(len(graph), len(sample.domain_names))
    texts = model.encode_texts([concept.caption for concept in graph.concepts])
    batches = encoded_images(model, sample, np.arange(len(sample)), batch_size or model.batch_size)
    progress = tqdm(  # type: ignore[no-untyped-call]
        total=len(sample), unit="image", desc=model.ref.short_name, name="mll_hf.verify", leave=False
    )
    images = []
    with progress:
        for _, embeddings in batches:
            images.append(embeddings)
            progress.update(len(embeddings))
    return Contest(graph, sample, texts, model.logit_scale, model.device).count([(0, np.concatenate(images))])


def _moved(claimed: NDArray[np.int32], measured: NDArray[np.int32]) -> NDArray[np.int32]:
    """[K] fewest images that must change bins to turn one histogram [K, RANK_BINS] into the other."""
    return np.maximum(claimed - measured, 0).sum(axis=1, dtype=np.int32)


def _check_same_question(
    label: ModelLabel, graph: SemanticGraph, probes: ProbeSet, packs: Sequence[AttachedPack]
) -> None:
    if label.base_digest != graph.digest:
        wanted = f"{label.graph_name} ({label.graph_digest[:12]})"
        raise InputError(f"the label is of graph {wanted}, not of {graph.name}; give that with --graph")
    if (label.probes_revision, label.sampling) != (probes.revision, probes.sampling):
        raise InputError(
            f"the label was measured on the images of {label.probes_name} at {label.probes_revision[:12]}, not on "
            f"those of {probes.name} at {probes.revision[:12]}; give the same with --graph"
        )
    if not covers_exactly(label, packs):
        names = ", ".join(f"{part.name} ({part.probes_revision[:12]})" for part in label.packs) or "none"
        raise InputError(f"the label covers other packs than these, or other images of them: {names}; give the same")


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson, 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z**2
    center = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    margin = _Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(center - margin, 0.0), min(center + margin, 1.0)
