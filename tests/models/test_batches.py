"""Images are prepared in batches ahead of a model, by threads or processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.models.batches import Decoders, in_background
from worlds import examples


def prepared_batches(batches, prepare, processes=0):
    with closing(Decoders(prepare, processes)) as decoders:
        yield from decoders.batches(iter(batches))


def tensor_of(item):
    return None if item is None else torch.full((3, 2, 2), float(item))


@examples
@given(st.lists(st.lists(st.none() | st.integers(0, 99), min_size=1, max_size=70), max_size=7))
def test_batches_keep_their_items_in_order(batches):
    prepared = list(prepared_batches(iter(batches), tensor_of))
    assert len(prepared) == len(batches)
    for batch, (inputs, present) in zip(batches, prepared, strict=True):
        assert present.tolist() == [item is not None for item in batch]
        known = [item for item in batch if item is not None]
        assert (inputs is None) == (not known)
        if known:
            assert inputs.shape == (len(known), 3, 2, 2)
            assert inputs[:, 0, 0, 0].tolist() == known


@pytest.mark.parametrize("batches", [[[3], [None, 7, None], [None], list(range(70)), [1, 2]]])
def test_processes_prepare_the_same_as_threads(batches):
    threads = list(prepared_batches(iter(batches), tensor_of))
    processes = list(prepared_batches(batches, tensor_of, 2))
    for (expected, present), (inputs, present_too) in zip(threads, processes, strict=True):
        np.testing.assert_array_equal(present, present_too)
        assert (inputs is None) == (expected is None)
        if inputs is not None:
            assert torch.equal(inputs, expected)


def test_processes_end_when_their_parent_is_killed():
    code = """
import os, signal
import torch
from mll_hf.models.batches import Decoders
decoders = Decoders(lambda item: torch.zeros(1), 1)
print(len(list(decoders.batches([[0]]))), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    words, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # returns when all processes that could write to the pipe are gone
    run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert (run.returncode, run.stdout) == (-signal.SIGKILL, "1\n"), run.stderr


def test_a_background_thread_gives_the_same_items_and_errors_and_ends_with_its_user():
    closed = threading.Event()

    def failing(last):
        try:
            yield from range(last)
            raise ArithmeticError("three")
        finally:
            closed.set()

    items = in_background(failing(3))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ArithmeticError, match="three"):
        next(items)
    closed.clear()
    items = in_background(failing(1000))
    assert next(items) == 0
    items.close()
    assert closed.wait(5)
