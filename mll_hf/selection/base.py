"""What every strategy takes: the configuration, and the evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.evidence import LEAST_IMAGES, Shares
from mll_hf.utils.text import parse_count

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.embeddings import ProbeEmbeddings
    from mll_hf.labels.join import JoinedLabels
    from mll_hf.matching.concept_index import ClassMatch
    from mll_hf.models.known import KnownModel

USUAL_CASCADE = 0.01  # share of images whose answer a cascade may change
_LEAST = {"k": 1, "max_models": 1, "shortlist": 1, "max_download": 0, "most_images": LEAST_IMAGES}
MARGIN = 0.01  # a model is as good as the best if its estimated accuracy is at most this much lower
DIGITS = 9  # of scores when they are compared: equal evidence is a tie, whatever the order of summation


def in_units(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores as whole numbers of 1e-9. Sums of these are exact, so they do not depend on the order of summation."""
    return np.rint(scores * 10**DIGITS)


class NoneFitsError(InputError):
    """No model is left to choose from."""


class Strategy(StrEnum):
    """How models are scored on classes and chosen."""

    MLL = "mll"
    PAPER = "paper"
    GENERAL = "general"
    UNIFORM = "uniform"
    IMAGENET = "imagenet"


class Evidence(StrEnum):
    """What speaks for a model."""

    LABEL = "label"
    PER_CLASS = "published, per class"
    OVERALL = "published, overall only"


@dataclass(frozen=True, slots=True)
class SelectionConfig:
    """What to select.

    Attributes:
        strategy: How models are scored and chosen.
        k: Models per class; None for one, or after a trial on images for as many as these suggest to combine.
        class_weight: Share of a class's own score against the mean over classes; the paper's alpha (Eq. 7).
        max_parameters: Leave out models with more parameters.
        max_gflops: Leave out models that need more GFLOPs per image.
        max_models: Most different models over all classes.
        licenses: Leave out models whose license is none of these, as the Hub writes them (``apache-2.0``). Only
            :meth:`mll_hf.Client.select` knows licenses: those that labels name, confirmed by the Hub.
        without: Leave out models with these ids.
        shortlist: Most models to consider for a trial on the task's images, where there are any.
        most_images: Most images that they are tried on, and most examples.
        max_download: Most bytes that a trial may download.
        shares: What is expected of the shares of the classes among the images, or these shares, one per class.
        cascade: Look for a cheap model to put in front of the chosen ones, and let at most this share of later images
            get another answer by it; None for no cascade.

    Raises:
        InputError: A value is out of its range.
    """

    strategy: Strategy = Strategy.MLL
    k: int | None = None
    class_weight: float = 0.7
    max_parameters: int | None = None
    max_gflops: float | None = None
    max_models: int | None = None
    licenses: tuple[str, ...] = ()
    without: frozenset[str] = frozenset()
    shortlist: int = 32
    most_images: int = 256
    max_download: int = 10 * 10**9
    shares: Shares | tuple[float, ...] = Shares.AUTO
    cascade: float | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; allow at least {least}")
        if self.cascade is not None and not 0 <= self.cascade < 1:
            raise InputError(f"cascade is {self.cascade}; give a share of the images, such as {USUAL_CASCADE}")
        if not 0 <= self.class_weight <= 1:
            raise InputError(f"class_weight is {self.class_weight}; choose a number from 0 to 1")
        if isinstance(self.licenses, str) or not all(isinstance(id, str) and id.strip() for id in self.licenses):
            raise InputError(f"licenses is {self.licenses!r:.80}; give a tuple of ids such as ('apache-2.0', 'mit')")
        if not isinstance(self.without, frozenset):
            raise InputError(f"without is {self.without!r:.80}; give a frozenset of ids of models")

    @property
    def per_class(self) -> int:
        """Models per class where no images decide."""
        return self.k or 1


class SelectionOptions(TypedDict, total=False):
    """Fields of :class:`SelectionConfig` as keywords, in the forms that users write."""

    strategy: Strategy | str
    k: int | None
    class_weight: float
    max_parameters: int | str | None
    max_gflops: float | None
    max_models: int | None
    licenses: Sequence[str]
    without: Collection[str]
    shortlist: int
    most_images: int
    max_download: int | str
    shares: Shares | str | Sequence[float]
    cascade: float | None


def configured(config: SelectionConfig, options: SelectionOptions) -> SelectionConfig:
    """The configuration with some fields replaced; numbers may be texts such as ``500M``.

    Raises:
        InputError: There is no such field, or a value is out of its range.
    """
    fields = SelectionConfig.__dataclass_fields__
    if unknown := sorted(options.keys() - fields.keys()):
        raise InputError(f"there is no option '{unknown[0]}'; there are {', '.join(fields)}")
    try:
        values: dict[str, Any] = {
            name: _FORMS[name](value) if name in _FORMS else value for name, value in options.items()
        }
    except (TypeError, ValueError) as error:
        raise InputError(f"an option has no usable value: {error}") from None
    return replace(config, **values)


def _number(value: float | str | None) -> Any:  # noqa: ANN401 - of several options
    return parse_count(value) if isinstance(value, str) else value


def _shares(value: Shares | str | Sequence[float]) -> Shares | tuple[float, ...]:
    return Shares(value) if isinstance(value, str) else tuple(map(float, value))


_FORMS: dict[str, Callable[[Any], Any]] = {
    "strategy": Strategy,
    "max_parameters": _number,
    "max_download": _number,
    "licenses": lambda value: value if isinstance(value, str) else tuple(value),
    "without": frozenset,
    "shares": _shares,
}


@dataclass(frozen=True)
class Candidates:
    """The evidence that strategies score.

    Attributes:
        labels: Labels of the M models that may be chosen, joined over graphs; strategy ``paper`` needs whole ones, or
            embeddings.
        match: The classes, matched to concepts of the union of the graphs.
        domain: The task's domain as the user gave it.
        embeddings: Probe embeddings of each model, joined over the graphs; empty unless they are at hand for all.
        published: Models of which only overall figures are published.
        evidence: What the labels rest on.
        further: Labels of other models that were measured on other probe images. Strategies ``mll`` and ``general``
            compare these, and ``published``, with the labels through accuracies on ImageNet; others leave them out.
    """

    labels: JoinedLabels
    match: ClassMatch
    domain: str | None = None
    embeddings: tuple[ProbeEmbeddings, ...] = ()
    published: tuple[KnownModel, ...] = ()
    evidence: Evidence = Evidence.LABEL
    further: tuple[Candidates, ...] = ()

    @property
    def graph(self) -> SemanticGraph:
        """The union of the graphs."""
        return self.labels.union.graph

    def take(self, rows: Sequence[int]) -> Candidates:
        """Only some of the labeled models."""
        embeddings = tuple(self.embeddings[m] for m in rows) if self.embeddings else ()
        return replace(self, labels=self.labels.take(rows), embeddings=embeddings)
