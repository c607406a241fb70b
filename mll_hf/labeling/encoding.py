"""Embed images: batches are prepared ahead of the model, and embeddings are logged so that a run can resume."""

from __future__ import annotations

import logging
import os
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout
from huggingface_hub.utils.tqdm import tqdm

from mll_hf.errors import InputError
from mll_hf.models.batches import encode, in_threads
from mll_hf.utils.files import storage_errors
from mll_hf.utils.images import open_image

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from mll_hf.graph.probes import ProbeSet
    from mll_hf.models import VisionLanguageModel

_BLOCK = 4096
_NORM_TOLERANCE = 1e-3
_log = logging.getLogger(__name__)


def embedded_probes(
    model: VisionLanguageModel, probes: ProbeSet, first: int, batch_size: int
) -> Generator[NDArray[np.float32]]:
    """Embed the probe images from a number on, with a progress bar that counts the others as done; see `embedded`."""
    images = probes.iter_image_bytes(batch_size, np.arange(first, len(probes)))
    with (
        tqdm(  # type: ignore[no-untyped-call]
            total=len(probes),
            initial=first,
            unit="image",
            desc=model.ref.short_name,
            name="mll_hf.label",
            leave=False,
            disable=None,
        ) as progress,
        closing(embedded(model, images)) as parts,
    ):
        for embeddings in parts:
            yield embeddings
            progress.update(len(embeddings))


def embedded(model: VisionLanguageModel, batches: Iterable[Sequence[bytes | None]]) -> Generator[NDArray[np.float32]]:
    """Embed batches of encoded images; yields [B, D] unit-norm float32, NaN where undecodable."""

    def prepare(content: bytes | None) -> torch.Tensor | None:
        image = open_image(content)
        return None if image is None else model.preprocess(image)

    with closing(in_threads(prepare, batches)) as prepared:
        for batch in prepared:
            yield encode(model, batch, len(batch))


@dataclass(frozen=True, slots=True)
class EmbeddingLog:
    """Embeddings [D] of a run's images in their order: a file to which batches are appended."""

    file: Path
    embedding_size: int

    def embeddings(self) -> NDArray[np.float32]:
        """[N, D] embeddings so far, up to the first that is damaged: a power cut may leave zeros."""
        n = self.file.stat().st_size // (4 * self.embedding_size) if self.file.exists() else 0
        if not n:
            return np.empty((0, self.embedding_size), np.float32)
        stored = np.memmap(self.file, np.float32, "r", shape=(n, self.embedding_size))
        for start in range(0, n, _BLOCK):
            damaged = np.abs(np.linalg.norm(stored[start : start + _BLOCK], axis=1) - 1) >= _NORM_TOLERANCE
            if damaged.any():
                return stored[: start + int(damaged.argmax())]
        return stored

    def repair(self) -> int:
        """Cut off damaged embeddings; returns the number of the others."""
        n = len(self.embeddings())
        with storage_errors(self.file):
            self.file.touch()
            os.truncate(self.file, 4 * self.embedding_size * n)
        return n

    def append(self, embeddings: NDArray[np.float32]) -> None:
        """Append embeddings [B, D], flushed."""
        with storage_errors(self.file), self.file.open("ab") as file:
            file.write(embeddings.astype(np.float32).tobytes())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs from a folder, which is deleted at the end if it is empty; an InputError if another uses it."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    file = folder / "lock"
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{folder}: another run labels the same model in this folder of labels; wait for it, or use another folder "
            "with --labels"
        ) from None
    except (OSError, NotImplementedError) as error:  # a file system without locks
        _log.warning("%s cannot be locked (%s); start no other run in this folder of labels", folder, error)
    try:
        yield
    finally:
        if not any(path != file for path in folder.iterdir()):
            file.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            folder.rmdir()
            folder.parent.rmdir()
