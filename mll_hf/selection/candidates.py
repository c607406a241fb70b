"""The models to choose from, with what is known about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.labels.label import UNPINNED, Cost, ModelRef
from mll_hf.matching.concept_index import ClassMatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.labels.join import JoinedLabels
    from mll_hf.labels.label import ProbeEmbeddings
    from mll_hf.models.known import KnownModel


class Figures(StrEnum):
    """Where the figures about a model come from."""

    LABEL = "label"
    PUBLISHED = "published"  # accuracy on ImageNet
    NOMINATED = "nominated"  # accuracy of a model made for the domain or language, beside others
    NONE = "none"  # such a model, without such figures


NOMINATED = (Figures.NOMINATED, Figures.NONE)


@dataclass(frozen=True, slots=True)
class SelectedModel:
    """A model of a selection, with everything needed to run and calibrate it without its label."""

    ref: ModelRef
    cost: Cost
    temperature: float  # calibrates its logits; 1 without a label
    figures: Figures = Figures.LABEL
    license: str | None = None  # according to its label or published figures, or the Hub; None if unknown

    @property
    def name(self) -> str:
        """Id on the Hub, or name of a local folder."""
        return self.ref.short_name if self.ref.is_local else self.ref.repo_id

    @property
    def tie_break(self) -> tuple[float, int, str, str]:
        """Order of equally good models: cost, unknown ones last, then id."""
        return self.cost.gflops or np.inf, self.cost.parameters, self.ref.repo_id, self.ref.revision


@dataclass(frozen=True)
class Candidates:
    """The models to choose from for the classes of a task.

    Strategies whose scores are accuracies compare published models with labeled ones through ImageNet accuracy; others
    leave them out.
    """

    labels: JoinedLabels  # of M models, joined over graphs; M may be 0
    match: ClassMatch  # the classes, matched to concepts of the union of the graphs
    domain: str | None = None  # of the task as given by the user
    embeddings: tuple[ProbeEmbeddings, ...] = ()  # of each model on the single graph; empty unless all have them
    published: tuple[KnownModel, ...] = ()  # models without a label

    @property
    def n_candidates(self) -> int:
        """The number of classes, but at least two, since recall among one candidate is always 1."""
        return max(len(self.match.classes), 2)

    @cached_property
    def models(self) -> tuple[SelectedModel, ...]:
        """The labeled models, then those without a label, whose license and cost may be unknown."""
        return (
            *(
                SelectedModel(label.model, label.cost, float(label.temperature[0]), Figures.LABEL, label.license)
                for label in self.labels.reference
            ),
            *(
                SelectedModel(ModelRef(m.hub_id, UNPINNED, m.backend), m.cost, 1.0, Figures.PUBLISHED, m.license)
                for m in self.published
            ),
        )

    def subset(self, rows: Sequence[int]) -> Candidates:
        """The given ones of all models, in ascending order."""
        labeled = [m for m in rows if m < len(self.labels)]
        return replace(
            self,
            labels=self.labels.subset(labeled),
            embeddings=tuple(self.embeddings[m] for m in labeled) if self.embeddings else (),
            published=tuple(self.published[m - len(self.labels)] for m in rows[len(labeled) :]),
        )


def unmatched(classes: tuple[str, ...]) -> ClassMatch:
    """A match of classes to no concept at all, where they cannot be matched."""
    none = np.empty((len(classes), 0))
    zeros = np.zeros(len(classes), np.float32)
    return ClassMatch(classes, none.astype(np.int64), none.astype(np.float32), none.astype(np.float32), zeros, "none")
