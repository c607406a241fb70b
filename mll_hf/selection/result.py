"""The result of a selection."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.label import Cost
from mll_hf.matching.prompts import templates_for
from mll_hf.selection.answer import Answer, answer_to
from mll_hf.selection.candidates import Figures
from mll_hf.utils.arrays import ArrayFields, read_only
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.hub.repos import Published
    from mll_hf.selection.candidates import SelectedModel
    from mll_hf.selection.estimate import Estimate
    from mll_hf.selection.head import Head
    from mll_hf.selection.strategies import Strategy

QUANTILES = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True)
class MatchedConcept:
    """A concept that a class was matched to, and its weight for the class."""

    id: str
    name: str
    weight: float


@dataclass(frozen=True, eq=False)
class Trial(ArrayFields):
    """Results of M models on N images, of which E are examples.

    Without examples, images count as classified correctly if they are classified as by the pool of all models.
    """

    n_images: int
    n_examples: int
    zero_shot: NDArray[np.float64]  # [M] share of the examples that the zero-shot head classifies correctly
    fitted: NDArray[np.float64]  # [M] the same for the fitted head, on images that it was not fitted to
    strengths: NDArray[np.float64]  # [M] of the fit; 0 for models that are used without
    weights: NDArray[np.float64]  # [M] of the models in a pool
    shares: NDArray[np.float64]  # [C] estimated class shares
    resemblance: NDArray[np.float64]  # [101] quantiles of the images' :func:`resemblance`, by heads fitted without them

    def threshold(self, reject: float) -> float:
        """The resemblance that a share of the task's images is below; an InputError if it is not between 0 and 1."""
        if not (isinstance(reject, (int, float)) and 0 < reject < 1):
            raise InputError(f"the share to reject is {reject!r:.20}; give a number between 0 and 1, such as 0.05")
        return float(np.interp(reject, QUANTILES, self.resemblance))


def resemblance(logits: NDArray[np.floating], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] how much images resemble any class: the weighted mean of the largest logit of each head, of [U, N, C].

    Logits of fitted heads tell how much closer an image is to a class than to the mean of all images (relative
    Mahalanobis distance, Ren et al., 2021); probabilities do not.
    """
    return np.asarray(np.average(logits.max(axis=2), axis=0, weights=weights))


@dataclass(frozen=True, eq=False, repr=False)
class Selection(ArrayFields):
    """The chosen models for a list of C classes, and the reasons."""

    classes: tuple[str, ...]
    strategy: Strategy  # how models were scored and chosen
    k: int  # models per class, as asked for
    models: tuple[SelectedModel, ...]  # the M models that were scored, best overall first
    # [M, C] as the strategy defines them; after a trial on images the agreement with the pool of all models, with
    # examples averaged with the accuracy on them
    scores: NDArray[np.float64]
    chosen: NDArray[np.bool_]  # [M, C] which models are chosen for which class
    matches: tuple[tuple[MatchedConcept, ...], ...]  # of each class, best first; empty if it was not matched
    coverage: NDArray[np.float64]  # [C] how well the graphs cover each class, 0 to 1; of ``mll`` the graphs in use
    domain: str | None = None  # as given by the user; selects the prompts
    task: str | None = None  # as given by the user
    trial: Trial | None = None  # results of the M models on images of the task; None without images
    estimate: Estimate | None = None  # of the M models on the task; None if the strategy's scores are no accuracies
    templates: tuple[str, ...] = ()  # prompts with one ``{}`` each; by default those for domain and task
    notes: tuple[str, ...] = ()  # what else is known about the classes, one line each
    # What models are made for (domains, names in a language) that the classes need, where none of these models has
    # published figures beside others and is within the limits
    unmeasured: tuple[str, ...] = ()
    # Of the chosen models, in their order; empty until made. Zero-shot heads, or after a fit those that it made: the
    # softmax of their logits gives probabilities
    heads: tuple[Head, ...] = ()

    def __repr__(self) -> str:
        """The chosen models and the number of classes, in one line without arrays."""
        chosen = abridged([self.models[m].name for m in self.chosen_models], 3)
        return f"<Selection of {chosen} for {len(self.classes)} classes, among {len(self.models)} models>"

    @cached_property
    def answer(self) -> Answer | None:
        """The recommendation; None without an estimate."""
        if self.estimate is None:
            return None
        by_images = self.overall if self.trial else None
        return answer_to(self.models, self.estimate, self.chosen_models, self.unmeasured, by_images)

    @property
    def answer_lines(self) -> tuple[str, ...]:
        """The recommendation as three lines; empty without an estimate."""
        return self.answer.lines if self.answer else ()

    @property
    def basis(self) -> str:
        """What the choice rests on."""
        is_label = self.models[self.chosen_models[0]].figures is Figures.LABEL
        figures, trial = "labels" if is_label else "published figures", self.trial
        if trial is None:
            return f"class names and {figures}"
        of_class = f", {trial.n_examples:,} of them with their class" if trial.n_examples else " without class"
        return f"class names, {figures} and {trial.n_images:,} images{of_class}"

    @cached_property
    def overall(self) -> NDArray[np.float64]:
        """[M] mean score over the classes."""
        return read_only(self.scores.mean(axis=1))

    @cached_property
    def chosen_models(self) -> tuple[int, ...]:
        """Positions of the models chosen for at least one class, best overall first."""
        return tuple(np.flatnonzero(self.chosen.any(axis=1)).tolist())

    @property
    def weights(self) -> NDArray[np.float64]:
        """[M] non-negative weights of the models when predictions are pooled."""
        return self.trial.weights if self.trial else np.maximum(self.overall, 0)  # the paper's r can be negative

    @property
    def temperatures(self) -> NDArray[np.float64]:
        """[M] calibration temperatures of the logits, from the labels."""
        return np.array([model.temperature for model in self.models])

    @property
    def fitted_heads(self) -> tuple[Head, ...]:
        """The heads, if they come from a fit."""
        return self.heads if self.trial or any(head.is_fitted for head in self.heads) else ()

    @property
    def prompt_templates(self) -> tuple[str, ...]:
        """The prompt templates in use."""
        return self.templates or templates_for(self.domain, self.task)

    @property
    def cost(self) -> Cost:
        """Total cost of all chosen models, per image."""
        costs = [self.models[m].cost for m in self.chosen_models]
        return Cost(sum(c.parameters for c in costs), sum(c.gflops for c in costs))

    def explain(self, class_name: str) -> tuple[MatchedConcept, ...]:
        """The concepts that a class was matched to, best first; an InputError if the selection has no such class."""
        if class_name not in self.classes:
            raise InputError(f"the selection has no class '{class_name}'; it has {', '.join(self.classes[:5])} ...")
        return self.matches[self.classes.index(class_name)]

    def to_json(self) -> dict[str, Any]:
        """The selection as JSON; :meth:`from_json` is the inverse."""
        from mll_hf.selection.json_format import selection_to_json

        return selection_to_json(self)

    @classmethod
    def from_json(cls, document: Any) -> Selection:  # noqa: ANN401 - parsed JSON
        """Parse a selection; an InputError if the document was not made by :meth:`to_json`."""
        from mll_hf.selection.json_format import selection_from_json

        try:
            return selection_from_json(document)
        except (KeyError, TypeError, AttributeError):
            reason = "a field is missing or has a wrong type"
        except (InputError, ValueError, OverflowError) as error:
            reason = one_line(error)
        raise InputError(f"this is not a selection ({reason}); make one with: mll-hf select --json")

    # --- repos; implemented in selection.repo ---

    @classmethod
    def from_pretrained(
        cls, location: str | Path, *, revision: str | None = None, token: str | None = None
    ) -> Selection:
        """Read a selection. No model is downloaded and no code is executed.

        Args:
            location: ``org/name[@revision]`` on the Hub, a folder of :meth:`save_pretrained`, or a file of
                ``mll-hf select --json``.
            revision: Branch, tag or commit on the Hub; by default main.
            token: Hub token; None for the token of the logged-in user.

        Raises:
            InputError: This is not a selection, or its models are local or not pinned to a commit.
            HubError: There is no such repo, or the Hub cannot be reached.
        """
        from mll_hf.selection.repo import read_selection

        return read_selection(location, revision, token)

    def save_pretrained(self, folder: str | Path, *, token: str | None = None) -> None:
        """Write the selection, its heads if made, and its card, with licenses from the Hub, into a folder.

        Raises:
            StorageError: The folder cannot be written.
            CardError: The folder's README cannot be read or edited.
        """
        from mll_hf.selection.repo import save_selection

        save_selection(self, folder, token)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        create_pr: bool = False,
        commit_message: str = "Add selection",
        token: str | None = None,
    ) -> Published:
        """Publish the selection as a small model repo that anyone can load by its id; no weights are uploaded.

        Selection, heads if made, and card are written in one commit; the rest of an existing card is kept. A new repo
        is created if there is none, ``private`` or not; without write access only ``create_pr`` is possible.

        Returns:
            Where it was published, and whether that changed anything.

        Raises:
            InputError: A model is local, or a chosen model is not pinned to a commit; or the repo has other content, or
                is public despite ``private``.
            HubError: The Hub rejects the commit.
            CardError: The repo's README cannot be edited.
        """
        from mll_hf.selection.repo import push_selection

        return push_selection(self, repo_id, private, create_pr, commit_message, token)
