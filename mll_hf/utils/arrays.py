"""Array fields of frozen dataclasses: read-only, and compared by value."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array = TypeVar("Array", bound="NDArray[Any]")


def read_only(array: Array) -> Array:
    """Make an array read-only and return it."""
    array.setflags(write=False)
    return array


def freeze_arrays(instance: Any) -> None:  # noqa: ANN401 - any dataclass
    """Make the array fields of a dataclass read-only; to be called in ``__post_init__``.

    Views of writable arrays are copied.
    """
    for each in fields(instance):
        value = getattr(instance, each.name)
        if isinstance(value, np.ndarray):
            if isinstance(value.base, np.ndarray) and value.base.flags.writeable:
                value = value.copy()
                object.__setattr__(instance, each.name, value)
            value.setflags(write=False)


def same_fields(first: object, second: object) -> bool:
    """Whether two instances of a dataclass have equal fields, arrays by dtype and values; NaN equals NaN."""
    if type(first) is not type(second):
        return False
    return all(_equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))  # type: ignore[arg-type]


def _equal(first: object, second: object) -> bool:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    return bool(first == second)


class ArrayFields:
    """Base of dataclasses with read-only array fields and comparison by value.

    Subclasses must use ``@dataclass(frozen=True, eq=False)``.
    """

    def __post_init__(self) -> None:
        freeze_arrays(self)

    def __eq__(self, other: object) -> bool:
        return same_fields(self, other)

    __hash__ = None  # type: ignore[assignment]
