"""A model's identity: a digest of what decides its outputs.

Publishing a label or editing a card moves the head of a model's repo, and a repo can be renamed; neither changes the
model.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase as fnmatch
from typing import TYPE_CHECKING

from mll_hf.utils.files import canonical_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# By backend: weights that the loader reads, preferred first; files of configuration, preprocessing and tokenization
_WEIGHTS = {
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors"),
    "transformers": ("model.safetensors", "model-*-of-*.safetensors"),
}
SETTINGS = ("*.json", "*.txt", "*.model", "*.vocab", "*.merges")
_NOT_DECIDING = ("README*", "LICENSE*", "requirements.txt", "*.index.json", "mll_*.json")


def deciding_files(paths: Collection[str], backend: str) -> tuple[str, ...]:
    """The files among a repo's that decide a model's outputs, sorted: weights in safetensors, settings, tokenizer.

    Only files at the root count, and only the weights that the backend loads: open_clip reads one file, even where
    those of transformers lie beside it. Empty without weights.
    """
    names = [path for path in paths if "/" not in path]
    weights: list[str] = []
    for pattern in _WEIGHTS.get(backend, ()):
        weights += [name for name in names if fnmatch(name, pattern)]
        if weights and backend == "open_clip":
            break
    settings = [name for name in names if _matches(name, SETTINGS) and not _matches(name, _NOT_DECIDING)]
    return tuple(sorted([*weights, *settings])) if weights else ()


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def digest_of_files(files: Mapping[str, str], backend: str) -> str | None:
    """The digest (64 hex digits) of the model that a backend loads from a repo's files.

    ``files`` are content ids by path, as the Hub lists them: sha256 of weights, git's blob id of others. None if the
    backend loads none, or a content id is unknown.
    """
    deciding = {path: files[path] for path in deciding_files(files, backend)}
    if not (deciding and all(deciding.values())):
        return None
    document = {"files": deciding, "backend": backend, "architecture": ""}  # which the files decide
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def blob_id(content: bytes) -> str:
    """Git's blob id of a file's content, as the Hub lists it for small files: 40 hex digits."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
