"""Embed images: batches are prepared ahead of the model, and embeddings are logged so that a run can resume."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout

from mll_hf.errors import InputError, ModelError
from mll_hf.models.batches import Decoders, in_background
from mll_hf.utils.files import storage_errors
from mll_hf.utils.images import decode_image, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from mll_hf.graph.probes import ProbeSet
    from mll_hf.models import VisionLanguageModel


_BLOCK = 4096
ANOTHER_RUN = (
    "{folder}: another run labels the same model in this folder of labels; wait for it, or use another folder with "
    "--labels"
)
_NORM_TOLERANCE = 1e-3
_log = logging.getLogger(__name__)


def encoded_images(
    model: VisionLanguageModel,
    probes: ProbeSet,
    images: NDArray[np.int64],
    batch_size: int,
    decoders: Decoders[bytes | None] | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Embed the probe images with the given numbers, ascending; yields each batch's numbers and its embeddings."""
    numbers = (images[first : first + batch_size] for first in range(0, len(images), batch_size))
    return zip(numbers, encoded(model, probes.iter_image_bytes(batch_size, images), decoders), strict=True)


def encoded(
    model: VisionLanguageModel,
    batches: Iterable[Sequence[bytes | None]],
    decoders: Decoders[bytes | None] | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Embed batches of encoded images; yields [B, D] unit-norm float32, NaN where undecodable.

    ``decoders`` come from :func:`decoders_for`; by default they are created for this call.

    Raises:
        ModelError: The model cannot be run, or a process that decodes images died.
    """
    with ExitStack() as stack:
        decoders = decoders or stack.enter_context(closing(decoders_for(model)))
        on_gpu = model.device.startswith("cuda")
        prepared = stack.enter_context(closing(in_background(decoders.batches(batches, pinned=on_gpu))))
        try:
            for pixels, decodable in prepared:
                embeddings = np.full((len(decodable), model.embedding_size), np.nan, np.float32)
                if pixels is not None:
                    embeddings[decodable] = model.encode_pixels(pixels)
                yield embeddings
        except BrokenExecutor as error:
            reason = "a process that decodes images was killed, most often for lack of memory; free some, and run again"
            raise ModelError(model.ref.repo_id, reason) from error


def decoders_for(model: VisionLanguageModel, processes: int | None = None) -> Decoders[bytes | None]:
    """Decoders of images for a model: threads on a CPU, processes for a GPU (default: one fewer than cores)."""
    on_gpu = model.device.startswith("cuda")
    preprocess = model.compact if on_gpu else model.preprocess

    def prepare(content: bytes | None) -> torch.Tensor | None:
        image = decode_image(content)
        return None if image is None else preprocess(image)

    return Decoders(prepare, (processes or max(usable_cores() - 1, 1)) if on_gpu else 0)


@dataclass(frozen=True, slots=True)
class EmbeddingLog:
    """Embeddings [D] of the images that a model has embedded so far: a file of records, to which batches are appended.

    A record has the image's row in the dataset and its embedding, so pieces may come in any order, and a larger
    sample reuses the embeddings of a smaller one.
    """

    folder: Path
    embedding_size: int

    @classmethod
    def open(cls, folder: Path, key: Mapping[str, object], embedding_size: int) -> EmbeddingLog:
        """Resume the log for what the embeddings depend on, the key, or start one; others in the folder stay.

        A StorageError if the folder cannot be written.
        """
        log = folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        with storage_errors(log):
            log.mkdir(parents=True, exist_ok=True)
        return cls(log, embedding_size)

    @property
    def file(self) -> Path:
        """The records."""
        return self.folder / "embeddings.log"

    @property
    def _record(self) -> np.dtype[np.void]:
        return np.dtype([("row", "<i8"), ("embedding", "<f4", (self.embedding_size,))])

    def _records(self) -> NDArray[np.void]:
        """All complete records; the last one may be cut off."""
        n_records = self.file.stat().st_size // self._record.itemsize if self.file.exists() else 0
        if not n_records:
            return np.empty(0, self._record)
        return np.memmap(self.file, self._record, "r", shape=(n_records,))

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """[N] positions of the records of some rows, -1 where there is none.

        Skips records without unit norm (or NaN, for undecodable images): a power cut may leave zeros.
        """
        records = self._records()
        sound = np.zeros(len(records), np.bool_)
        for start in range(0, len(records), _BLOCK):
            norms = np.linalg.norm(records["embedding"][start : start + _BLOCK], axis=1)
            sound[start : start + _BLOCK] = np.isnan(norms) | (np.abs(norms - 1) < _NORM_TOLERANCE)
        position_of = dict(zip(records["row"][sound].tolist(), np.flatnonzero(sound).tolist(), strict=True))
        return np.array([position_of.get(row, -1) for row in rows.tolist()], np.int64)

    @contextmanager
    def writing(self) -> Iterator[Callable[[NDArray[np.int64], NDArray[np.float32]], None]]:
        """Yield a function that appends rows [B] and their embeddings [B, D], flushed after every call."""
        with storage_errors(self.file):
            self.file.touch()
            os.truncate(self.file, len(self._records()) * self._record.itemsize)
            file = self.file.open("ab", buffering=0)

        def write(rows: NDArray[np.int64], embeddings: NDArray[np.float32]) -> None:
            records = np.empty(len(rows), self._record)
            records["row"], records["embedding"] = rows, embeddings
            content = memoryview(records.tobytes())
            with storage_errors(self.file):
                while content:  # a raw file may take only some of the bytes per call
                    content = content[file.write(content) or 0 :]

        with file:
            yield write

    def blocks(self, rows: NDArray[np.int64], block_size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Read embeddings of some rows in blocks [B, D]; yields each with the position of its first row.

        Raises:
            InputError: Another run has deleted the log.
        """
        records, positions = self._records(), self.positions(rows)
        if (positions < 0).any():
            raise InputError(ANOTHER_RUN.format(folder=self.folder))
        for start in range(0, len(rows), block_size):
            yield start, records["embedding"][positions[start : start + block_size]]

    def remove(self) -> None:
        """Delete the log."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs from a folder, which is deleted at the end if it is empty.

    Raises:
        InputError: Another run uses it.
        StorageError: It cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    file = folder / "lock"
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(ANOTHER_RUN.format(folder=folder)) from None
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
