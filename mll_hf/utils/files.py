"""Writing files so that a reader sees the old content or the new, never half of it; JSON that is always the same."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

from mll_hf.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Say which file or folder could not be written.

    Raises:
        StorageError: What was done inside raised an OSError.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(path, error) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file through a temporary neighbor and a rename; folders are made as needed.

    Raises:
        StorageError: The disk is full or the folder cannot be written; an old file stays as it was.
    """
    temporary: str | None = None
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
            os.replace(temporary, path)
            temporary = None
    finally:
        if temporary:  # also after Ctrl-C
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def canonical_json(value: Mapping[str, Any]) -> str:
    """JSON of which the same value always gives the same characters."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
