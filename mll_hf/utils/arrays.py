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


class ArrayFields:
    """Base of dataclasses with read-only array fields, compared by dtype and values; NaN equals NaN.

    Views of writable arrays are copied. Subclasses must use ``@dataclass(frozen=True, eq=False)``.
    """

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if isinstance(value, np.ndarray):
                if isinstance(value.base, np.ndarray) and value.base.flags.writeable:
                    value = value.copy()
                    object.__setattr__(self, each.name, value)
                value.setflags(write=False)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.compare)  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]


def _equal(first: object, second: object) -> bool:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    return bool(first == second)
