"""Embeddings of a task's images and zero-shot heads, kept in a folder so that the next trial need not compute them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from mll_hf.selection.head import Head
from mll_hf.utils.files import digest_of, write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.labels.label import ModelRef
    from mll_hf.utils.images import ImageLike


@dataclass(frozen=True)
class Kept:
    """What is kept of a model: embeddings [D] by digest of the image, and zero-shot heads by digest of the prompts."""

    images: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbeddingCache:
    """A folder with a file per model; None keeps nothing."""

    folder: Path | None

    def read(self, model: ModelRef, dtype: str | None) -> Kept:
        """What is kept of a model; nothing if its file is missing or damaged."""
        if self.folder is None:
            return Kept()
        try:
            tensors = load_file(self._path(model, dtype))
        except (OSError, SafetensorError):
            return Kept()
        names = {name.split(".")[0] for name in tensors if "." in name}
        heads = {name: Head(tensors[f"{name}.weights"], tensors[f"{name}.bias"]) for name in names}
        return Kept({name: each for name, each in tensors.items() if "." not in name}, heads)

    def write(self, model: ModelRef, dtype: str | None, kept: Kept) -> None:
        """Replace what is kept of a model.

        Raises:
            StorageError: The folder cannot be written.
        """
        if self.folder is None:
            return
        tensors = dict(kept.images)
        for name, head in kept.heads.items():
            tensors |= {f"{name}.weights": head.weights, f"{name}.bias": head.bias}
        write_atomically(self._path(model, dtype), save({name: np.ascontiguousarray(t) for name, t in tensors.items()}))

    def _path(self, model: ModelRef, dtype: str | None) -> Path:
        name = digest_of([model.key, model.revision, model.backend, dtype])
        return Path(self.folder or "", f"{name}.safetensors")


def image_digest(image: ImageLike) -> str:
    """Digest of an image's content: of the file, the bytes, or the pixels."""
    if isinstance(image, str | os.PathLike):
        try:
            image = Path(image).read_bytes()
        except OSError:
            image = os.fsencode(image)  # unreadable; the path names it
    content = image if isinstance(image, bytes) else f"{image.mode} {image.size}".encode() + image.tobytes()
    return hashlib.sha256(content).hexdigest()[:32]
