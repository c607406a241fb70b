"""Files that a reader sees old or new, never half-written; digests of files; JSON that is always the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SETTLED_NS = 2_000_000_000  # coarser than the times of any file system


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


def asset_path(*names: str) -> Path:
    """A path in this package's part of the assets cache of Hugging Face."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE).expanduser().joinpath("mll_hf", *names)


def file_digest(path: Path) -> bytes:
    """Sha256 of a file, cached by the path, size and times of the file.

    Not cached if the file changed less than two seconds ago: another change could leave the times as they are.

    Raises:
        OSError: The file cannot be read.
    """
    status = path.stat()
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    key = f"{path.absolute()}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
    name = hashlib.sha256(os.fsencode(key)).hexdigest()
    cached = asset_path("digests", name)
    with contextlib.suppress(OSError, ValueError):
        if len(digest := bytes.fromhex(cached.read_text())) == hashlib.sha256().digest_size:
            return digest
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    if time.time_ns() - changed > _SETTLED_NS:
        with contextlib.suppress(StorageError):  # such as a read-only home
            write_atomically(cached, digest.hex().encode())
    return digest


def canonical_json(value: Mapping[str, Any]) -> str:
    """JSON of which the same value always gives the same characters."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
