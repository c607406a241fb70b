"""The strategies, one record each, and the options of a selection, each with its parser.

To add a strategy: a pure function from candidates and class weight to finite [M, C] scores, also for models without any
measured concept; a member of :class:`Strategy`; and its record. Tests of all strategies then cover it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mll_hf.errors import InputError
from mll_hf.selection.mll import mll_scores
from mll_hf.selection.paper import paper_scores
from mll_hf.selection.task import MIN_IMAGES
from mll_hf.utils.text import parse_count, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from mll_hf.selection.candidates import Candidates

    Floats: TypeAlias = NDArray[np.float64]


class Strategy(StrEnum):
    """How models are scored and chosen."""

    MLL = "mll"
    PAPER = "paper"
    GENERAL = "general"
    IMAGENET = "imagenet"


@dataclass(frozen=True, slots=True)
class StrategyRecord:
    """What a strategy is.

    Those in the paper match classes to concepts by captions, score by the sidecars of the labels (rivals or embeddings)
    and choose models per class. Scores of the others are accuracies, by which models measured on other images, or on
    none, can be compared, and the best overall are chosen for all classes.
    """

    score: Callable[[Candidates, float], Floats]  # [M, C] of labeled models, by the weight of a class's own score
    column: str  # title of the scores
    as_in_paper: bool = False
    needs_labels: bool = True  # if not, all models are scored by their ImageNet accuracy


def general_scores(candidates: Candidates, _class_weight: float = 1.0) -> Floats:
    """[M, C] mean recall over the reference graph, the same for every class."""
    recall = np.array([label.mean_recall for label in candidates.labels.reference])
    return np.repeat(recall[:, None], len(candidates.match.classes), axis=1)


STRATEGIES = {
    Strategy.MLL: StrategyRecord(mll_scores, "recall on concepts"),
    Strategy.PAPER: StrategyRecord(paper_scores, "score r", as_in_paper=True),
    Strategy.GENERAL: StrategyRecord(general_scores, "recall"),
    Strategy.IMAGENET: StrategyRecord(general_scores, "accuracy", needs_labels=False),
}


# --- options ---


def _whole(minimum: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:  # noqa: ANN401 - what users give
        number = parse_count(value) if isinstance(value, str) else value
        if isinstance(number, bool) or int(number) != number or number < minimum:
            raise ValueError(f"give a whole number, at least {minimum}")
        return int(number)

    return parse


def _real(minimum: float, maximum: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:  # noqa: ANN401 - what users give
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if isinstance(value, bool) or not minimum <= number <= maximum:
            raise ValueError(f"give a number from {minimum:g}" + (f" to {maximum:g}" if maximum < 1e9 else ""))
        return number

    return parse


def _strategy(value: Any) -> Strategy:  # noqa: ANN401 - what users give
    if value not in list(Strategy):
        raise ValueError(f"choose from {', '.join(Strategy)}")
    return Strategy(value)


def _words(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - what users give
    """One id, several with commas, or a collection."""
    words = value.split(",") if isinstance(value, str) else list(value)
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError("give ids as text, such as 'mit' or ['apache-2.0', 'mit']")
    return tuple(word.strip() for word in words)


@dataclass(frozen=True, slots=True)
class SelectionConfig:
    """How to select. Values are parsed: ``max_parameters="500M"``, ``k="2"``.

    Attributes:
        strategy: How models are scored and chosen.
        k: Models per class; None for one, or after a trial on images for as many as are worth combining.
        class_weight: Weight of a class's own score relative to the mean over classes; the paper's alpha (Eq. 7).
        max_parameters: Leave out models with more parameters.
        max_gflops: Leave out models that need more GFLOPs per image.
        licenses: Allowed licenses, as ids of the Hub (``apache-2.0``), as labels and published figures claim them;
            empty for any. :meth:`mll_hf.Client.select` confirms those of the chosen models.
        without: Ids of models to leave out.
        shortlist: Maximum number of models to consider for a trial on images.
        most_images: Maximum number of images, and of examples, in a trial.
        max_download: Maximum number of bytes that a trial may download.

    Raises:
        InputError: A value is of a wrong type, or out of its range.
    """

    strategy: Strategy = field(default=Strategy.MLL, metadata={"parse": _strategy})
    k: int | None = field(default=None, metadata={"parse": _whole(1)})
    class_weight: float = field(default=0.7, metadata={"parse": _real(0, 1)})
    max_parameters: int | None = field(default=None, metadata={"parse": _whole(1)})
    max_gflops: float | None = field(default=None, metadata={"parse": _real(0, float("inf"))})
    licenses: tuple[str, ...] = field(
        default=(), metadata={"parse": lambda value: tuple(map(str.lower, _words(value)))}
    )
    without: frozenset[str] = field(default=frozenset(), metadata={"parse": lambda value: frozenset(_words(value))})
    shortlist: int = field(default=32, metadata={"parse": _whole(1)})
    most_images: int = field(default=256, metadata={"parse": _whole(MIN_IMAGES)})
    max_download: int = field(default=10 * 10**9, metadata={"parse": _whole(0)})

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is None and option.default is None:
                continue
            try:
                object.__setattr__(self, option.name, option.metadata["parse"](value))
            except (TypeError, ValueError, OverflowError) as error:
                given = shortened(str(value), 40)
                raise InputError(f"{option.name} is {given!r}; {error}") from None


def configured(config: SelectionConfig, options: Mapping[str, Any]) -> SelectionConfig:
    """The configuration with some fields replaced; an InputError if one is unknown, or its value is wrong."""
    names = [option.name for option in fields(config)]
    if unknown := sorted(options.keys() - set(names)):
        raise InputError(f"unknown option '{unknown[0]}'; choose from {', '.join(names)}")
    return replace(config, **options)
