"""Images are prepared in batches ahead of a model, by threads."""

from __future__ import annotations

from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.models.batches import in_threads
from worlds import examples


@examples
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=70), max_size=7))
def test_batches_keep_their_items_in_order(batches):
    assert list(in_threads(lambda item: item + 1, iter(batches))) == [[item + 1 for item in batch] for batch in batches]


def test_errors_reach_the_caller_and_batches_are_read_as_they_are_needed():
    read = []

    def numbers():
        for number in range(1000):
            read.append(number)
            yield [number]

    prepared = in_threads(lambda item: 1 // (item - 3), numbers())
    assert [next(prepared) for _ in range(3)] == [[-1], [-1], [-1]]
    with pytest.raises(ZeroDivisionError):
        next(prepared)
    assert len(read) < 10


def test_an_abandoned_stream_waits_for_no_thread():
    """The garbage collector may drop it in any thread, also one that holds locks of threading: waiting never ended."""
    go, is_done = Event(), Event()
    prepared = in_threads(lambda item: item and (go.wait(5), is_done.set()), iter([[0], [1], [2], [3]]))
    next(prepared)
    prepared.close()
    assert not is_done.is_set()
    go.set()
