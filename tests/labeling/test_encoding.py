"""The log of embeddings, and the runs of what it lacks."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mll_hf.errors import StorageError
from mll_hf.labeling.encoding import EmbeddingLog
from worlds import examples

KEY = {"model": "a"}


def embeddings_of(rows):
    """Unit vectors that say which row they are of."""
    angles = np.asarray(rows, np.float32)
    return np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)


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
        np.testing.assert_array_equal(log.has(np.arange(70), 3), np.isin(np.arange(70), written))
    blocks = list(log.blocks(rows, 3, 8))
    assert [start for start, _ in blocks] == list(range(0, len(rows), 8))
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), embeddings_of(rows))


def test_a_log_with_the_same_key_is_taken_up_and_another_thrown_away(tmp_path):
    log = EmbeddingLog.open(tmp_path / "log", KEY)
    with log.writing() as write:
        write(np.array([0, 1]), embeddings_of([0, 1]))
    assert EmbeddingLog.open(tmp_path / "log", KEY).has(np.array([0, 1, 2]), 3).tolist() == [True, True, False]
    assert not EmbeddingLog.open(tmp_path / "log", {"model": "b"}).has(np.array([0, 1]), 3).any()
    assert not log.file.exists()


def test_a_removed_log_leaves_nothing_but_its_neighbors(tmp_path):
    logs = [EmbeddingLog.open(tmp_path / ".partial" / name, KEY) for name in "ab"]
    logs[0].remove()
    assert logs[1].folder.exists()
    logs[1].remove()
    assert not (tmp_path / ".partial").exists()


def test_a_log_is_written_without_calls_of_unix(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "pwrite", raising=False)
    log = EmbeddingLog.open(tmp_path / "log", KEY)
    with log.writing() as write:
        write(np.array([5, 6]), embeddings_of([5, 6]))
        write(np.array([0]), embeddings_of([0]))
    assert log.has(np.arange(7), 3).tolist() == [True, *[False] * 4, True, True]


def test_a_log_of_another_environment_is_deleted_with_a_warning(tmp_path, caplog):
    here, there = {"device": "cpu", "torch": "2.13.0"}, {"device": "cuda", "torch": "2.13.0"}
    EmbeddingLog.open(tmp_path / "log", {**KEY, "environment": here})
    EmbeddingLog.open(tmp_path / "log", {**KEY, "environment": here})
    EmbeddingLog.open(tmp_path / "log", {**KEY, "environment": here, "overwrites": "0"})
    assert not caplog.messages
    EmbeddingLog.open(tmp_path / "log", {**KEY, "environment": there})
    assert caplog.messages == ["log: embedded so far in another environment (device cpu, now cuda); starting anew"]


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        EmbeddingLog.open(tmp_path / "file" / "log", KEY)


@pytest.mark.parametrize("lost", ["a page of zeros", "half a row", "the end", "all"])
def test_what_a_power_cut_took_is_not_there(tmp_path, lost):
    log, rows = EmbeddingLog.open(tmp_path / "log", KEY), np.arange(6)
    with log.writing() as write:
        write(rows, embeddings_of(rows))
    content = bytearray(log.file.read_bytes())
    if lost == "a page of zeros":
        content[24:48] = bytes(24)
    elif lost == "half a row":
        content[24:30] = bytes(6)
    elif lost == "the end":
        content = content[:40]
    log.file.write_bytes(content)
    if lost == "all":
        log.file.unlink()
    expected = {
        "a page of zeros": [True, True, False, False, True, True],
        "half a row": [True, True, False, True, True, True],
        "the end": [True, True, True, False, False, False],
        "all": [False] * 6,
    }
    assert log.has(rows, 3).tolist() == expected[lost]


def test_an_image_that_could_not_be_decoded_is_there(tmp_path):
    log = EmbeddingLog.open(tmp_path / "log", KEY)
    with log.writing() as write:
        write(np.array([0, 1]), np.array([[np.nan] * 3, [0, 1, 0]], np.float32))
    assert log.has(np.array([0, 1]), 3).all()


def test_a_log_with_a_new_key_answers_to_it(tmp_path):
    log = EmbeddingLog.open(tmp_path / "log", KEY)
    with log.writing() as write:
        write(np.array([0]), embeddings_of([0]))
    log.rename({"model": "b"})
    assert EmbeddingLog.open(tmp_path / "log", {"model": "b"}).has(np.array([0]), 3).all()
