"""The log of embeddings, and the runs of what it lacks."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.encoding import EmbeddingLog, runs_of
from mll_hf.errors import StorageError
from worlds import examples

KEY = {"model": "a"}


def embeddings_of(rows, size=3):
    return np.repeat(np.asarray(rows, np.float32)[:, None], size, axis=1)


@examples
@given(st.lists(st.booleans(), max_size=40))
def test_runs_are_the_maximal_ranges_of_what_is_set(missing):
    runs = runs_of(np.array(missing, np.bool_))
    assert [n for run in runs for n in run] == [n for n, is_missing in enumerate(missing) if is_missing]
    assert all(len(run) for run in runs)
    assert all(left.stop < right.start for left, right in pairwise(runs))


@examples
@given(st.data())
def test_what_was_written_is_there_in_any_order(tmp_path_factory, data):
    log = EmbeddingLog.open(tmp_path_factory.mktemp("log"), KEY)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, 60), min_size=1))))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(rows)), max_size=4)))
    parts = data.draw(st.permutations(np.split(rows, cuts)))
    written = []
    for part in parts:
        if not len(part):
            continue
        with log.writing() as write:
            write(part, embeddings_of(part))
        written += part.tolist()
        np.testing.assert_array_equal(log.has(np.arange(70)), np.isin(np.arange(70), written))
    blocks = list(log.blocks(rows, 3, 8))
    assert [start for start, _ in blocks] == list(range(0, len(rows), 8))
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), embeddings_of(rows))


def test_a_log_with_the_same_key_is_taken_up_and_another_thrown_away(tmp_path):
    log = EmbeddingLog.open(tmp_path / "log", KEY)
    with log.writing() as write:
        write(np.array([0, 1]), embeddings_of([0, 1]))
    assert EmbeddingLog.open(tmp_path / "log", KEY).has(np.array([0, 1, 2])).tolist() == [True, True, False]
    assert not EmbeddingLog.open(tmp_path / "log", {"model": "b"}).has(np.array([0, 1])).any()
    assert not log.file.exists()


def test_a_removed_log_leaves_nothing_but_its_neighbours(tmp_path):
    logs = [EmbeddingLog.open(tmp_path / ".partial" / name, KEY) for name in "ab"]
    logs[0].remove()
    assert logs[1].folder.exists()
    logs[1].remove()
    assert not (tmp_path / ".partial").exists()


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        EmbeddingLog.open(tmp_path / "file" / "log", KEY)
