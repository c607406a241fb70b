"""Embed images with several models, batch by batch. Each image is decoded once for all of them.

Embeddings of a task's images and zero-shot heads are kept in a folder, so that the next trial need not compute them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub.utils.tqdm import tqdm
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from mll_hf.models.batches import encode, in_threads
from mll_hf.selection.head import Head
from mll_hf.utils.files import digest_of, write_atomically
from mll_hf.utils.images import open_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from numpy.typing import NDArray

    from mll_hf.ensemble.residents import Residents
    from mll_hf.labels.label import ModelRef
    from mll_hf.selection.candidates import SelectedModel
    from mll_hf.utils.images import ImageLike

    Inputs = tuple[torch.Tensor, ...]  # of one image, for each model

_BAR_SECONDS = 1.0  # delay of the progress bar, so that it is not shown for a few images
_LARGE_BATCH = 128  # images per batch if models are loaded one at a time for each batch


def embed_images(
    residents: Residents,
    models: Sequence[SelectedModel],
    images: Iterable[ImageLike],
    batch_size: int | None = None,
) -> Iterator[list[NDArray[np.float32]]]:
    """Embeddings [n, D] by each model of the next n images, batch by batch; NaN if an image cannot be decoded.

    Args:
        residents: Loads the models.
        models: What to load.
        images: Paths, encoded bytes or PIL images.
        batch_size: By default chosen to keep the device busy.
    """
    known, remaining = [residents.loaded_once(model) for model in models], iter(images)
    largest = max(model.batch_size for model in known)
    batches = iter(
        lambda: list(islice(remaining, batch_size or (_LARGE_BATCH if residents.keeps_one else largest))), []
    )
    progress = tqdm(  # type: ignore[no-untyped-call]
        total=len(images) if isinstance(images, Sized) else None,
        desc=models[0].name if len(models) == 1 else None,
        unit="image",
        name="mll_hf.predict",
        disable=None,
        leave=False,
        delay=_BAR_SECONDS,
    )

    def prepare(item: ImageLike) -> Inputs | None:
        try:
            image = open_image(item)
            return None if image is None else tuple(model.preprocess(image) for model in known)
        except MemoryError:
            return None

    with progress, closing(in_threads(prepare, batches)) as prepared:
        for batch in prepared:
            progress.update(len(batch))
            found = {}
            for row in sorted(range(len(models)), key=lambda row: models[row] not in residents):
                inputs = [None if each is None else each[row] for each in batch]
                size = batch_size or known[row].batch_size
                found[row] = residents.use(models[row], partial(encode, inputs=inputs, batch_size=size))
            yield [found[row] for row in range(len(models))]


# --- kept embeddings --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """What is kept of a model: embeddings [D] by digest of the image, and zero-shot heads by digest of the prompts."""

    images: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    heads: dict[str, Head] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbeddingCache:
    """A folder with a file per model."""

    folder: Path

    def read(self, model: ModelRef, dtype: str | None) -> Kept:
        """What is kept of a model; nothing if its file is missing or damaged."""
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
        tensors = dict(kept.images)
        for name, head in kept.heads.items():
            tensors |= {f"{name}.weights": head.weights, f"{name}.bias": head.bias}
        write_atomically(self._path(model, dtype), save({name: np.ascontiguousarray(t) for name, t in tensors.items()}))

    def _path(self, model: ModelRef, dtype: str | None) -> Path:
        return self.folder / f"{digest_of([model.key, model.revision, model.backend, dtype])}.safetensors"


def image_digest(image: ImageLike) -> str:
    """Digest of an image's content: of the file, the bytes, or the pixels."""
    if isinstance(image, str | os.PathLike):
        try:
            image = Path(image).read_bytes()
        except OSError:
            image = os.fsencode(image)  # unreadable; the path names it
    content = image if isinstance(image, bytes) else f"{image.mode} {image.size}".encode() + image.tobytes()
    return hashlib.sha256(content).hexdigest()[:32]
