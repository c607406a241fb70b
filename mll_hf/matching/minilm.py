"""The forward pass of all-MiniLM-L6-v2 in NumPy: a BERT with 6 layers, mean pooling and normalization.

The first embedding takes a tenth of a second, whereas importing torch and sentence-transformers takes seconds. The
results equal those of sentence-transformers up to rounding.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

FILES = {
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
"""The files of the model and their sha256."""

_LAYERS, _HEADS, _WIDTH = 6, 12, 384
_MAX_PIECES = 256  # per text; truncated like in sentence-transformers
_BATCH_PIECES = 2048  # so that intermediate results fit in the CPU cache


class MiniLM:
    """all-MiniLM-L6-v2 with memory-mapped weights, from a folder with :data:`FILES`; an OSError if it lacks one."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        tokenizer, weights = (folder / name for name in FILES)
        self._tokenizer = Tokenizer.from_str(tokenizer.read_text(encoding="utf-8"))
        self._tokenizer.enable_truncation(_MAX_PIECES)
        self._tokenizer.no_padding()
        self._tensors = _memory_map(weights)

    def encode(self, texts: Sequence[str]) -> Array:
        """Embed N texts; returns [N, 384] float32, rows of unit length."""
        ids = [self._tokenizer.encode(text).ids for text in texts]  # single-threaded, so that processes can be forked
        embeddings = np.empty((len(texts), _WIDTH), np.float32)
        # Texts of the same length need no padding.
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for n, pieces in enumerate(ids):
            by_length[len(pieces)].append(n)
        for length, rows in by_length.items():
            step = max(1, _BATCH_PIECES // length)
            for batch in (rows[start : start + step] for start in range(0, len(rows), step)):
                embeddings[batch] = self._forward(np.array([ids[n] for n in batch]))
        return embeddings

    def _forward(self, ids: NDArray[np.int64]) -> Array:
        """Embed N texts of T word pieces each, [N, T]; returns [N, 384]."""
        words, positions, types = (
            self._tensors[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        x = (words[ids] + positions[: ids.shape[1]] + types[0]).reshape(-1, _WIDTH)  # [N T, 384] in all layers
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in (f"encoder.layer.{n}" for n in range(_LAYERS)):
            mixed = self._attention(x.reshape(*ids.shape, _WIDTH), f"{layer}.attention.self")
            x = self._added(x, mixed, f"{layer}.attention.output")
            inner = _gelu(self._dense(x, f"{layer}.intermediate.dense"))
            x = self._added(x, inner, f"{layer}.output")
        means = x.reshape(*ids.shape, _WIDTH).mean(axis=1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def _attention(self, x: Array, name: str) -> Array:
        """Multi-head self-attention within each text; [N, T, 384] to [N T, 384]."""
        n, t, _ = x.shape
        q, k, v = (
            self._dense(x.reshape(-1, _WIDTH), f"{name}.{part}").reshape(n, t, _HEADS, -1).swapaxes(1, 2)
            for part in ("query", "key", "value")
        )  # [N, heads, T, 384 / heads]
        scores = q @ k.swapaxes(2, 3) / np.sqrt(np.float32(_WIDTH // _HEADS))
        weights = np.exp(scores - scores.max(axis=3, keepdims=True))
        weights /= weights.sum(axis=3, keepdims=True)
        return (weights @ v).swapaxes(1, 2).reshape(-1, _WIDTH)

    def _added(self, x: Array, update: Array, name: str) -> Array:
        return self._norm(x + self._dense(update, f"{name}.dense"), f"{name}.LayerNorm")

    def _dense(self, x: Array, name: str) -> Array:
        y = x @ self._tensors[f"{name}.weight"].T
        y += self._tensors[f"{name}.bias"]
        return y

    def _norm(self, x: Array, name: str) -> Array:
        x = x - x.mean(axis=1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(axis=1, keepdims=True) + 1e-12)
        x *= self._tensors[f"{name}.weight"]
        x += self._tensors[f"{name}.bias"]
        return x


def _gelu(x: Array) -> Array:
    """``x Phi(x)``, Phi the standard normal distribution function, to 4e-7 (Abramowitz and Stegun, 7.1.26)."""
    size = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911 / np.sqrt(2)) * size)
    tail = np.zeros_like(x)  # Phi(-|x|), by Horner's rule
    for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail += np.float32(coefficient / 2)
        tail *= t
    tail *= np.exp(-0.5 * size * size)
    return np.maximum(x, 0) - size * tail


def _memory_map(path: Path) -> dict[str, Array]:
    """The float32 tensors of a safetensors file, memory-mapped."""
    content = np.memmap(path, np.uint8, "r")
    start = 8 + int(content[:8].view("<u8")[0])
    header = json.loads(content[8:start].tobytes())
    return {
        name: content[start:][slice(*entry["data_offsets"])].view("<f4").reshape(entry["shape"])
        for name, entry in header.items()
        if entry.get("dtype") == "F32"
    }
