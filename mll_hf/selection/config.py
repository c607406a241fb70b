"""The options of a selection: one table with the parser of each."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

from mll_hf.errors import InputError
from mll_hf.selection.strategies import Strategy
from mll_hf.selection.task import MIN_IMAGES
from mll_hf.utils.text import parse_count, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


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

    strategy: Strategy = Strategy.MLL
    k: int | None = None
    class_weight: float = 0.7
    max_parameters: int | None = None
    max_gflops: float | None = None
    licenses: tuple[str, ...] = ()
    without: frozenset[str] = frozenset()
    shortlist: int = 32
    most_images: int = 256
    max_download: int = 10 * 10**9

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            try:
                object.__setattr__(self, field.name, _PARSERS[field.name](value))
            except (TypeError, ValueError, OverflowError) as error:
                given = shortened(str(value), 40)
                raise InputError(f"{field.name} is {given!r}; {error}") from None

    @property
    def per_class(self) -> int:
        """Models per class without a trial on images."""
        return self.k or 1


class SelectionOptions(TypedDict, total=False):
    """Fields of :class:`SelectionConfig` as keyword arguments, not parsed yet."""

    strategy: Strategy | str
    k: int | str | None
    class_weight: float | str
    max_parameters: int | str | None
    max_gflops: float | str | None
    licenses: Collection[str] | str
    without: Collection[str] | str
    shortlist: int | str
    most_images: int | str
    max_download: int | str


def configured(config: SelectionConfig, options: SelectionOptions) -> SelectionConfig:
    """The configuration with some fields replaced.

    Raises:
        InputError: An option is unknown, or a value is of a wrong type or out of its range.
    """
    if unknown := sorted(options.keys() - _PARSERS.keys()):
        raise InputError(f"unknown option '{unknown[0]}'; choose from {', '.join(_PARSERS)}")
    values: dict[str, Any] = {**options}  # parsed by the class
    return replace(config, **values)


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


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "strategy": _strategy,
    "k": _whole(1),
    "class_weight": _real(0, 1),
    "max_parameters": _whole(1),
    "max_gflops": _real(0, float("inf")),
    "licenses": lambda value: tuple(license.lower() for license in _words(value)),
    "without": lambda value: frozenset(_words(value)),
    "shortlist": _whole(1),
    "most_images": _whole(MIN_IMAGES),
    "max_download": _whole(0),
}
