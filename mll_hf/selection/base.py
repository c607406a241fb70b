"""Inputs of all strategies: the configuration and the evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.evidence import MIN_TRIAL_IMAGES, Shares
from mll_hf.utils.text import parse_count

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.embeddings import ProbeEmbeddings
    from mll_hf.labels.join import JoinedLabels
    from mll_hf.matching.concept_index import ClassMatch
    from mll_hf.models.known import KnownModel

_MINIMA = {"k": 1, "max_models": 1, "shortlist": 1, "max_download": 0, "most_images": MIN_TRIAL_IMAGES}
MARGIN = 0.01  # a model is as good as the best if its estimated accuracy is at most this much lower
DIGITS = 9  # scores are rounded before they are compared, so that ties do not depend on the order of summation


def quantize(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores as integer multiples of 1e-9. Their sums are exact and do not depend on the order of summation."""
    return np.rint(scores * 10**DIGITS)


class NoModelFitsError(InputError):
    """No model meets the constraints of the configuration."""


class Strategy(StrEnum):
    """How models are scored and chosen."""

    MLL = "mll"
    PAPER = "paper"
    GENERAL = "general"
    IMAGENET = "imagenet"


class Evidence(StrEnum):
    """Kind of evidence about a model."""

    LABEL = "label"
    PER_CLASS = "published, per class"
    OVERALL = "published, overall only"


@dataclass(frozen=True, slots=True)
class SelectionConfig:
    """Configuration of a selection.

    Attributes:
        strategy: How models are scored and chosen.
        k: Models per class; None for one, or after a trial on images for as many as are worth combining.
        class_weight: Weight of a class's own score relative to the mean over classes; the paper's alpha (Eq. 7).
        max_parameters: Leave out models with more parameters.
        max_gflops: Leave out models that need more GFLOPs per image.
        max_models: Maximum number of distinct models over all classes.
        licenses: Allowed licenses, as ids of the Hub (``apache-2.0``); empty for any. Only
            :meth:`mll_hf.Client.select` supports this: it reads licenses from labels and confirms them with the Hub.
        without: Ids of models to leave out.
        shortlist: Maximum number of models to consider for a trial on images.
        most_images: Maximum number of images, and of examples, in a trial.
        max_download: Maximum number of bytes that a trial may download.
        shares: How to estimate the class frequencies among the images, or the frequencies themselves, one per class.

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

    def __post_init__(self) -> None:
        for name, minimum in _MINIMA.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise InputError(f"{name} is {value}; allow at least {minimum}")
        if not 0 <= self.class_weight <= 1:
            raise InputError(f"class_weight is {self.class_weight}; choose a number from 0 to 1")
        if isinstance(self.licenses, str) or not all(isinstance(id, str) and id.strip() for id in self.licenses):
            raise InputError(f"licenses is {self.licenses!r:.80}; give a tuple of ids such as ('apache-2.0', 'mit')")
        if not isinstance(self.without, frozenset):
            raise InputError(f"without is {self.without!r:.80}; give a frozenset of model ids")

    @property
    def per_class(self) -> int:
        """Models per class without a trial on images."""
        return self.k or 1


class SelectionOptions(TypedDict, total=False):
    """Fields of :class:`SelectionConfig` as keyword arguments; strings are parsed."""

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
    """The configuration with some fields replaced; numbers may be strings such as ``500M``.

    Raises:
        InputError: An option is unknown, or a value is out of its range.
    """
    fields = SelectionConfig.__dataclass_fields__
    if unknown := sorted(options.keys() - fields.keys()):
        raise InputError(f"unknown option '{unknown[0]}'; choose from {', '.join(fields)}")
    try:
        values: dict[str, Any] = {
            name: _PARSERS[name](value) if name in _PARSERS else value for name, value in options.items()
        }
    except (TypeError, ValueError) as error:
        raise InputError(f"invalid option value: {error}") from None
    return replace(config, **values)


def _parse_number(value: float | str | None) -> Any:  # noqa: ANN401 - types of several options
    return parse_count(value) if isinstance(value, str) else value


def _parse_shares(value: Shares | str | Sequence[float]) -> Shares | tuple[float, ...]:
    return Shares(value) if isinstance(value, str) else tuple(map(float, value))


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "strategy": Strategy,
    "max_parameters": _parse_number,
    "max_download": _parse_number,
    "licenses": lambda value: value if isinstance(value, str) else tuple(value),
    "without": frozenset,
    "shares": _parse_shares,
}


@dataclass(frozen=True)
class Candidates:
    """The evidence about the models to choose from.

    Attributes:
        labels: Labels of M models, joined over graphs; strategy ``paper`` needs full labels, or embeddings.
        match: The classes, matched to concepts of the union of the graphs.
        domain: Domain of the task as given by the user.
        embeddings: Probe embeddings of each model, joined over the graphs; empty unless available for all models.
        published: Models of which only overall figures are published.
        evidence: Kind of evidence that the labels are based on.
        other_groups: Labels of other models, measured on other probe images. Strategies ``mll`` and ``general``
            compare these, and ``published``, with the labels through ImageNet accuracy; others leave them out.
    """

    labels: JoinedLabels
    match: ClassMatch
    domain: str | None = None
    embeddings: tuple[ProbeEmbeddings, ...] = ()
    published: tuple[KnownModel, ...] = ()
    evidence: Evidence = Evidence.LABEL
    other_groups: tuple[Candidates, ...] = ()

    @property
    def graph(self) -> SemanticGraph:
        """The union of the graphs."""
        return self.labels.union.graph

    def subset(self, rows: Sequence[int]) -> Candidates:
        """The labeled models in the given rows."""
        embeddings = tuple(self.embeddings[m] for m in rows) if self.embeddings else ()
        return replace(self, labels=self.labels.subset(rows), embeddings=embeddings)
