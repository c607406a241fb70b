"""From images to embeddings: batches are prepared ahead of the model, and embeddings are logged to resume from."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.models.batches import in_background, prepared_batches
from mll_hf.utils.files import storage_errors, write_atomically
from mll_hf.utils.images import decode_image, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from io import RawIOBase
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from mll_hf.graph.probes import ProbeSet
    from mll_hf.models import VisionLanguageModel


_BLOCK = 4096
_KEY_FILE = "key.json"
_NORM_TOLERANCE = 1e-3
_log = logging.getLogger(__name__)


def encoded_images(
    model: VisionLanguageModel,
    probes: ProbeSet,
    images: NDArray[np.int64],
    batch_size: int,
    decoders: int | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Embed some probe images.

    Args:
        model: The model.
        probes: The probe images.
        images: Numbers of the images to embed, ascending.
        batch_size: Images per batch.
        decoders: Processes that decode images for a GPU; default: one per core but one.

    Yields:
        Numbers of a batch's images [B] and their embeddings [B, D]: unit-norm float32, NaN where undecodable.
    """
    done = 0
    for embeddings in encoded(model, probes.iter_image_bytes(batch_size, images), decoders):
        yield images[done : done + len(embeddings)], embeddings
        done += len(embeddings)


def encoded(
    model: VisionLanguageModel, batches: Iterable[Sequence[bytes | None]], decoders: int | None = None
) -> Iterator[NDArray[np.float32]]:
    """Embed batches of encoded images; yields [B, D] unit-norm float32, NaN where undecodable."""

    def prepare(content: bytes | None) -> torch.Tensor | None:
        image = decode_image(content)
        return None if image is None else model.preprocess(image)

    on_gpu = model.device.startswith("cuda")
    processes = (decoders or max(usable_cores() - 1, 1)) if on_gpu else 0
    with closing(in_background(prepared_batches(batches, prepare, processes=processes, pinned=on_gpu))) as prepared:
        for pixels, decodable in prepared:
            embeddings = np.full((len(decodable), model.embedding_size), np.nan, np.float32)
            if pixels is not None:
                embeddings[decodable] = model.encode_pixels(pixels)
            yield embeddings


@dataclass(frozen=True, slots=True)
class EmbeddingLog:
    """Embeddings of the images that a model has embedded so far, on disk.

    The position of an embedding is the image's row in the data set, and a byte marks it as done. So pieces may come in
    any order, and a larger sample reuses the embeddings of a smaller one.

    Attributes:
        folder: Folder of the files.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path, key: Mapping[str, object]) -> EmbeddingLog:
        """Resume a log, or start one.

        Args:
            folder: Folder of the log.
            key: What the embeddings depend on. A log with another key is deleted, with a warning if the environments
                differ.

        Raises:
            StorageError: The folder cannot be written.
        """
        text, key_file = _key_text(key), folder / _KEY_FILE
        with storage_errors(folder):
            found = key_file.read_bytes() if key_file.exists() else None
            if found != text:
                if found:
                    _warn_of_environment(folder, found, key)
                if folder.exists():
                    shutil.rmtree(folder)
                write_atomically(key_file, text)
        return cls(folder)

    @property
    def file(self) -> Path:
        """The embeddings, [rows of the data set, D] float32; a sparse file."""
        return self.folder / "embeddings.f32"

    @property
    def done_file(self) -> Path:
        """One byte per row of the data set: 1 if its embedding was written."""
        return self.folder / "done.u8"

    def has(self, rows: NDArray[np.int64], embedding_size: int) -> NDArray[np.bool_]:
        """[N] whether the embeddings of some rows are stored.

        Checks the embeddings too: after a power cut, the byte may be on the disk and the embedding not.
        """
        there = np.zeros(len(rows), np.bool_)
        if not (self.done_file.exists() and self.file.exists()):
            return there
        done = np.fromfile(self.done_file, np.uint8)
        n_rows = min(len(done), self.file.stat().st_size // (4 * embedding_size))
        within = np.flatnonzero(rows < n_rows)
        there[within] = done[rows[within]] == 1
        kept = np.flatnonzero(there)
        for start, block in self.blocks(rows[kept], embedding_size, _BLOCK):
            norms = np.linalg.norm(block, axis=1)
            there[kept[start : start + len(block)]] = np.isnan(norms) | (np.abs(norms - 1) < _NORM_TOLERANCE)
        return there

    @contextmanager
    def writing(self) -> Iterator[Callable[[NDArray[np.int64], NDArray[np.float32]], None]]:
        """Yield a function that writes embeddings [B, D] of ascending rows [B], unbuffered."""
        with storage_errors(self.file):
            for path in (self.file, self.done_file):
                path.touch()
            file, done_file = self.file.open("r+b", buffering=0), self.done_file.open("r+b", buffering=0)

        def write(rows: NDArray[np.int64], embeddings: NDArray[np.float32]) -> None:
            row_bytes = 4 * embeddings.shape[1]
            cuts = np.flatnonzero(np.diff(rows) != 1) + 1
            for run, part in zip(np.split(rows, cuts), np.split(embeddings, cuts), strict=True):
                with storage_errors(self.file):
                    _write_all(file, int(run[0]) * row_bytes, part.tobytes())
                with storage_errors(self.done_file):
                    _write_all(done_file, int(run[0]), b"\1" * len(run))

        with file, done_file:
            yield write

    def blocks(
        self, rows: NDArray[np.int64], embedding_size: int, block_size: int
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Read embeddings of some rows in blocks [B, D]; yields each with the position of its first row."""
        if not len(rows):
            return
        n_stored = self.file.stat().st_size // (4 * embedding_size)
        stored = np.memmap(self.file, np.float32, "r", shape=(n_stored, embedding_size))
        for start in range(0, len(rows), block_size):
            yield start, stored[rows[start : start + block_size]]

    def rename(self, key: Mapping[str, object]) -> None:
        """Replace the key.

        Raises:
            StorageError: The folder cannot be written.
        """
        write_atomically(self.folder / _KEY_FILE, _key_text(key))

    def remove(self) -> None:
        """Delete the log."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()


def _key_text(key: Mapping[str, object]) -> bytes:
    return json.dumps(key, sort_keys=True).encode()


def _warn_of_environment(folder: Path, found: bytes, key: Mapping[str, object]) -> None:
    """Warn if a log is deleted because it was written in another environment."""
    try:
        before = json.loads(found).get("environment")
    except (ValueError, AttributeError):
        return
    now = key.get("environment")
    if isinstance(before, dict) and isinstance(now, dict) and before != now:
        changes = [f"{name} {before.get(name)}, now {now[name]}" for name in now if before.get(name) != now[name]]
        _log.warning("%s: embedded so far in another environment (%s); starting anew", folder.name, "; ".join(changes))


def _write_all(file: RawIOBase, offset: int, content: bytes) -> None:
    """Write all bytes at an offset; a raw file may take only some of them per call."""
    file.seek(offset)
    view = memoryview(content)
    while view:
        view = view[file.write(view) or 0 :]
