"""A model's identity: a digest of what decides its outputs.

Publishing a label or editing a card moves the head of a model's repo, and a repo can be renamed; neither changes the
model. One repo may serve two architectures (ViT-B-32, ViT-B-32-quickgelu), which are two models.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from mll_hf.utils.files import canonical_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# By backend: weights that the loader reads, preferred first, and files of configuration, preprocessing and tokenization
_WEIGHTS = {
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors"),
    "transformers": ("model.safetensors", "model-*-of-*.safetensors"),
    "sentence-transformers": ("*model.safetensors", "*model-*-of-*.safetensors"),
}
_SETTINGS = ("*.json", "*.txt", "*.model", "*.vocab", "*.merges")
_NOT_DECIDING = ("*README*", "*LICENSE*", "*requirements.txt", "*.index.json", "mll_*.json")


def deciding_files(paths: Collection[str], backend: str) -> tuple[str, ...]:
    """The files among a model's that decide its outputs, sorted: weights in safetensors, settings, tokenizer.

    ``paths`` are at the root of the repo or in the modules of sentence-transformers. Only the weights that the backend
    loads count: open_clip reads one file, even where transformers' layout lies beside it.
    """
    found: list[str] = []
    for pattern in _WEIGHTS[backend]:
        matching = [path for path in paths if fnmatch(path, pattern)]
        if matching and backend == "open_clip":
            found = matching
            break
        found += matching
    for path in paths:
        if any(fnmatch(path, pattern) for pattern in _SETTINGS) and not any(
            fnmatch(path, pattern) for pattern in _NOT_DECIDING
        ):
            found.append(path)
    return tuple(sorted(set(found)))


def model_digest(files: Mapping[str, str], backend: str, architecture: str = "") -> str:
    """Sha256 that names a model, as 64 hex digits.

    Args:
        files: Content id by path of the files of :func:`deciding_files`: sha256 of weights, git's blob id of others.
            The Hub lists both without a download.
        backend: Library that runs the model.
        architecture: Name of the architecture, where the files do not decide it.
    """
    return hashlib.sha256(
        canonical_json({"files": dict(files), "backend": backend, "architecture": architecture}).encode()
    ).hexdigest()


def blob_id(content: bytes) -> str:
    """Git's blob id of a file's content, as the Hub lists it for small files: 40 hex digits."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
