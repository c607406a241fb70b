"""Arrays in frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mll_hf.utils.arrays import ArrayFields, read_only


@dataclass(frozen=True, eq=False)
class Sample(ArrayFields):
    name: str
    values: np.ndarray


def test_arrays_are_read_only():
    sample = Sample("a", np.arange(3))
    for array in (sample.values, read_only(np.arange(3))):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7


def test_a_view_of_a_writable_array_is_copied():
    base = np.arange(6)
    view, whole = Sample("a", base[::2]), Sample("a", np.arange(6))
    base[:] = 9
    assert view.values.tolist() == [0, 2, 4]
    assert Sample("a", whole.values[1:]).values.base is whole.values  # that one cannot change
