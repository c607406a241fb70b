"""Atomic writes, digests of files, and canonical JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIN_AGE_NS = 2_000_000_000  # more than the time resolution of any file system


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Convert OSErrors to StorageErrors that name the file or folder."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(path, error) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file in the same folder and rename it; missing folders are created.

    A StorageError if the disk is full or the folder cannot be written; an existing file is not changed.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:  # with the permissions of the user's umask
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:  # also after Ctrl+C
        with contextlib.suppress(OSError):
            temporary.unlink()


def asset_path(*names: str) -> Path:
    """A path in this package's folder of the Hugging Face assets cache."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE).expanduser().joinpath("mll_hf", *names)


def file_digest(path: Path) -> bytes:
    """Sha256 of a file, cached by its path, size and times; an OSError if it cannot be read.

    Not cached if the file changed in the last two seconds, as another change might have the same times.
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
    if time.time_ns() - changed > _MIN_AGE_NS:
        with contextlib.suppress(StorageError):  # for example, a read-only home
            write_atomically(cached, digest.hex().encode())
    return digest


def parse_json(content: bytes, max_values: int = 10**6) -> Any:  # noqa: ANN401
    """Parse untrusted JSON; a value of 3 bytes can take 60 in memory, so the number of values is limited.

    A ValueError if it is not JSON or has too many values, a RecursionError if it is nested too deeply.
    """
    if sum(map(content.count, (b",", b"[", b"{"))) > max_values:
        raise ValueError(f"more than {max_values:,} values")
    return json.loads(content)


def canonical_json(value: object) -> str:
    """JSON in a canonical form: equal values give equal strings."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest_of(value: object) -> str:
    """Digest of a value that JSON can hold."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]
