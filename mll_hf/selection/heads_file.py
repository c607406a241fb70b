"""The file of a selection's heads: safetensors, with the models and classes that they belong to in its metadata.

Heads are untrusted input; any fault in a file raises an InputError.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load, save

from mll_hf.errors import InputError
from mll_hf.labels.file_format import METADATA_KEY, UNREADABLE, read_metadata
from mll_hf.selection.head import Head
from mll_hf.utils.files import canonical_json, digest_of
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.label import ModelRef
    from mll_hf.selection.result import Selection

HEADS_FILE = "heads.safetensors"
_MAX_DIMENSIONS = 4096
_MAX_METADATA_BYTES = 2**20  # beside the class names
_MAX_HEADER = 2**22
_MAX_NUMBER = 1e6  # so that logits do not overflow
_AGAIN = "make the selection again, or delete the file"


def max_heads_bytes(n_models: int, n_classes: int) -> int:
    """The size of the largest file of heads for as many models and classes."""
    return _MAX_METADATA_BYTES + 4 * n_models * n_classes * (_MAX_DIMENSIONS + 1)


def heads_key(selection: Selection) -> str:
    """Digest of what decides the zero-shot heads of a selection: models, classes and prompts."""
    refs = [asdict(selection.models[m].ref) for m in selection.chosen_models]
    return digest_of([selection.classes, selection.prompt_templates, refs])


def heads_to_bytes(heads: Sequence[Head], models: Sequence[ModelRef], classes: Sequence[str]) -> bytes:
    """Serialize the heads of models for classes."""
    tensors = {}
    for n, head in enumerate(heads):
        tensors[f"{n}.weights"], tensors[f"{n}.bias"] = map(np.ascontiguousarray, (head.weights, head.bias))
    entries = [asdict(ref) | {"is_fitted": head.is_fitted} for ref, head in zip(models, heads, strict=True)]
    return save(tensors, metadata={METADATA_KEY: canonical_json({"classes": list(classes), "models": entries})})


def heads_from_bytes(blob: bytes, models: Sequence[ModelRef], classes: Sequence[str]) -> tuple[Head, ...]:
    """Parse and validate the content of a file of heads.

    Raises:
        InputError: It is damaged, or of other models or classes.
    """
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
