"""A linear classifier on a model's image embeddings, zero-shot or fitted, and the file of a selection's heads.

The file is safetensors, with the models and classes that the heads belong to in its metadata. It is untrusted input;
any fault raises an InputError.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load, save

from mll_hf.errors import InputError
from mll_hf.labels.file_format import METADATA_KEY, UNREADABLE, read_metadata
from mll_hf.utils.arrays import ArrayFields
from mll_hf.utils.files import canonical_json
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.label import ModelRef

HEADS_FILE = "heads.safetensors"
_MAX_DIMENSIONS = 4096
_MAX_METADATA_BYTES = 2**20  # beside the class names
_MAX_HEADER = 2**22
_MAX_NUMBER = 1e6  # so that logits do not overflow
_AGAIN = "make the selection again, or delete the file"


@dataclass(frozen=True, eq=False)
class Head(ArrayFields):
    """A linear classifier on unit-norm embeddings of D dimensions."""

    weights: NDArray[np.float32]  # [C, D]
    bias: NDArray[np.float32]  # [C]
    is_fitted: bool = False  # to images, which it reveals something about

    @classmethod
    def zero_shot(cls, texts: NDArray[np.floating], scale: float, bias: float = 0.0) -> Head:
        """The head whose logits are scale times cosine plus bias, from unit-norm text embeddings [C, D]."""
        return cls((scale * texts).astype(np.float32), np.full(len(texts), bias, np.float32))

    def calibrated(self, temperature: float) -> Head:
        """The head whose logits are divided by a temperature."""
        return replace(self, weights=self.weights / np.float32(temperature), bias=self.bias / np.float32(temperature))

    def logits(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """[N, C] logits of unit-norm embeddings [N, D]."""
        return np.asarray(embeddings @ self.weights.T + self.bias, np.float32)


def max_heads_bytes(n_models: int, n_classes: int) -> int:
    """The size of the largest file of heads for as many models and classes."""
    return _MAX_METADATA_BYTES + 4 * n_models * n_classes * (_MAX_DIMENSIONS + 1)


def heads_to_bytes(heads: Sequence[Head], models: Sequence[ModelRef], classes: Sequence[str]) -> bytes:
    """Serialize the heads of models for classes."""
    tensors = {}
    for n, head in enumerate(heads):
        tensors[f"{n}.weights"], tensors[f"{n}.bias"] = map(np.ascontiguousarray, (head.weights, head.bias))
    entries = [asdict(ref) | {"is_fitted": head.is_fitted} for ref, head in zip(models, heads, strict=True)]
    return save(tensors, metadata={METADATA_KEY: canonical_json({"classes": list(classes), "models": entries})})


def heads_from_bytes(blob: bytes, models: Sequence[ModelRef], classes: Sequence[str]) -> tuple[Head, ...]:
    """Parse the content of a file of heads; an InputError if it is damaged, or of other models or classes."""
    try:
        metadata, tensors = read_metadata(blob, _MAX_HEADER), load(blob)
        if metadata["classes"] != list(classes):
            raise InputError(f"its heads are for other classes than those of the selection; {_AGAIN}")
        entries = metadata["models"]
        if len(entries) != len(models):
            raise InputError(f"it has {len(entries)} heads for {len(models)} models; {_AGAIN}")
        return tuple(
            _head(entry, tensors[f"{n}.weights"], tensors[f"{n}.bias"], ref, len(classes))
            for n, (entry, ref) in enumerate(zip(entries, models, strict=True))
        )
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"not a readable file of heads ({one_line(error)}); {_AGAIN}") from None


def _head(entry: Mapping[str, Any], weights: NDArray[Any], bias: NDArray[Any], model: ModelRef, n_classes: int) -> Head:
    identity = ("digest",) if entry["digest"] and model.digest else ("repo_id", "revision", "backend")
    if any(entry[name] != getattr(model, name) for name in identity):
        raise InputError(f"a head is of another model than {model.short_name} at {model.revision[:12]}; {_AGAIN}")
    if not weights.dtype == bias.dtype == np.float32:
        raise ValueError("numbers are not float32")
    if weights.ndim != 2 or not 1 <= weights.shape[1] <= _MAX_DIMENSIONS:
        raise ValueError(f"the weights have shape {weights.shape}")
    if (len(weights), bias.shape) != (n_classes, (n_classes,)):
        raise ValueError(f"a head has {len(weights)} classes, the selection {n_classes}")
    if not all((np.abs(part) <= _MAX_NUMBER).all() for part in (weights, bias)):  # also refuses NaN
        raise ValueError("a number is out of range")
    return Head(weights, bias, bool(entry["is_fitted"]))
