"""Verify a label: measure a random sample of its concepts again and compare."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labeling.contest import Contest
from mll_hf.labeling.encoding import embedded_probes
from mll_hf.labels.counts import wilson_interval
from mll_hf.labels.store import check_label_fits
from mll_hf.models import load_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.label import Label, ModelRef

_TOLERANCE = 0.05  # of a concept's images, at least one: other hardware rounds differently
_RANK_TOLERANCE = 0.1  # ranks change more easily than hits
_REQUIRED_SHARE = 0.9


@dataclass(frozen=True)
class Verification:
    """A label compared with a new measurement on K of its concepts.

    The columns of ``counts`` are images of each concept: recognized according to the label, recognized now, minimum
    number whose rank is now in another bin, and all.
    """

    model: ModelRef
    concepts: NDArray[np.int64]  # [K] indices of the sampled concepts
    counts: NDArray[np.int64]  # [K, 4]
    seed: int  # of the sample

    @property
    def agreeing(self) -> int:
        """Concepts where at most 5 % of the images (or one) changed recognition, and 10 % (or one) their rank bin."""
        claimed, measured, moved, support = self.counts.T
        hits = np.abs(claimed - measured) <= np.maximum(1, np.floor(_TOLERANCE * support))
        return int((hits & (moved <= np.maximum(1, np.floor(_RANK_TOLERANCE * support)))).sum())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the share of concepts that agree."""
        return wilson_interval(self.agreeing, len(self.concepts))

    @property
    def recalls(self) -> tuple[float, float]:
        """Mean recall on the sample according to the label, and measured now."""
        claimed, measured = (self.counts[:, :2] / self.counts[:, 3:]).mean(axis=0).tolist()
        return claimed, measured

    @property
    def verdict(self) -> Literal["agrees", "disagrees", "undecided"]:
        """Agrees if the interval is above 90 % of concepts, disagrees if it is below, else undecided."""
        lower, upper = self.interval
        if lower >= _REQUIRED_SHARE:
            return "agrees"
        return "disagrees" if upper < _REQUIRED_SHARE else "undecided"

    def to_json(self) -> dict[str, Any]:
        """The verification as plain JSON, without the counts of each concept."""
        return {
            **asdict(self.model),
            "verdict": self.verdict,
            "seed": self.seed,
            "concepts": len(self.concepts),
            "agreeing": self.agreeing,
            "interval": list(self.interval),
            "claimed_recall": self.recalls[0],
            "measured_recall": self.recalls[1],
        }


def verify_label(
    label: Label, graph: SemanticGraph, probes: ProbeSet, n_concepts: int, seed: int, device: str | None = None
) -> Verification:
    """Measure a model again on a seeded sample of concepts of its label's graph, with all concepts as candidates.

    Fewer than 35 concepts cannot show agreement. The publisher of the label must not know the seed in advance.

    Raises:
        LabelError: The label is of another graph, or impossible on these images.
        InputError: The label is of other images, or of none.
        ModelError: The model cannot be loaded or run.
    """
    if (label.probes_digest, label.images_per_concept) != (probes.digest, probes.images_per_concept):
        raise InputError(
            f"the label was measured on {label.images_per_concept} images per concept of "
            f"{label.probes_location} ({label.probes_digest[:12]}), not on {probes.images_per_concept} of "
            f"{probes.location} ({probes.digest[:12]}); give its images with --images"
        )
    check_label_fits(label, graph.with_probes(probes.counts), label.model.repo_id)
    if not len(tested := np.flatnonzero(label.support)):
        raise InputError(f"the label of {label.model.repo_id} has no concept with images; there is nothing to verify")
    concepts = np.sort(np.random.default_rng(seed).permutation(tested)[:n_concepts])
    sample = probes.restricted_to(concepts)
    with closing(load_model(label.model, device)) as model:
        texts = model.encode_texts([concept.caption for concept in graph.concepts])
        images = np.concatenate(list(embedded_probes(model, sample, 0, model.batch_size)))
        measured = Contest(graph, sample, texts, model.logit_scale, model.device).count(images)
    claimed, ranks = label.ranks[concepts].astype(np.int64), measured.ranks[concepts].astype(np.int64)
    moved = np.maximum(claimed - ranks, 0).sum(axis=1)  # images that left one bin are now in others
    counts = np.stack([claimed[:, 0], ranks[:, 0], moved, claimed.sum(axis=1)], axis=1)
    return Verification(label.model, concepts, counts, seed)
