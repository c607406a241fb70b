"""Writing files: the old content or the new, never half of it."""

from __future__ import annotations

import errno
import os
import re

import pytest

from mll_hf.errors import StorageError
from mll_hf.utils.files import write_atomically


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_write_and_replace(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    for content in (b"old", b"new", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert files_in(tmp_path) == ["a/b/c.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_are_those_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, step):
    path = tmp_path / "c.txt"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, step, no_space)
    with pytest.raises(StorageError) as caught:
        write_atomically(path, b"new")
    assert str(caught.value) == (
        f"cannot write {path}: No space left on device; free some space or choose another folder"
    )
    assert caught.value.path == path
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["c.txt"]


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "c.txt", tmp_path / "file" / "a" / "c.txt", tmp_path / "folder"):
        with pytest.raises(StorageError, match=f"cannot write {re.escape(str(path))}: .+; choose another folder"):
            write_atomically(path, b"new")
    assert files_in(tmp_path) == ["file"]
