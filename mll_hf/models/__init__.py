"""Vision-language models: load, embed images and texts.

Importing this package is cheap: torch is imported with the first model or device.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mll_hf.errors import InputError, MissingExtraError
from mll_hf.labels.label import Environment

if TYPE_CHECKING:
    from mll_hf.labels.label import ModelRef
    from mll_hf.models.torch_model import VisionLanguageModel as VisionLanguageModel

_DTYPES = ("float32", "float16", "bfloat16")

__all__ = ["environment_of", "load_model", "pick_device"]


def environment_of(model: VisionLanguageModel) -> Environment:
    """What determines the last bits of embeddings, besides model and images."""
    return Environment(
        device=model.device.partition(":")[0],
        dtype=model.dtype,
        torch=_version("torch"),
        open_clip=_version("open_clip_torch"),
        transformers=_version("transformers"),
    )


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def pick_device(device: str | None = None) -> str:
    """Validate a device, or choose the best available: cuda, then mps, then cpu; an InputError if it is not there."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch", "models") from error
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device is None:
        return next(kind for kind, present in available.items() if present)
    kind, _, index = device.partition(":")
    if not available.get(kind) or (index and not index.isdecimal()):
        present = ", ".join(name for name, is_present in available.items() if is_present)
        raise InputError(f"there is no device '{device}' here; choose one of: {present}")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise InputError(f"there is no device '{device}' here, only {torch.cuda.device_count()} CUDA devices")
    return device


def load_model(
    ref: ModelRef,
    device: str | None = None,
    token: str | None = None,
    dtype: str | None = None,
    *,
    texts: bool = True,
) -> VisionLanguageModel:
    """Download and load a model at its pinned revision, in evaluation mode.

    Args:
        ref: From :func:`~mll_hf.models.source.resolve_model` or a label.
        device: As for `pick_device`.
        token: Hub token; default: the saved one.
        dtype: Precision of the image tower: ``float32``, ``float16`` or ``bfloat16``; default: half precision on CUDA,
            float32 elsewhere.
        texts: Load the text tower. Without it, of a few architectures (CoCa) the whole model is loaded all the same.

    Raises:
        ModelError: The files are missing, changed, damaged or not an image-text model, or memory is full.
        InputError: The device is unknown or not available, or the precision is unknown.
        MissingExtraError: A package that runs the model is not installed.
    """
    from mll_hf.models import source

    chosen = pick_device(device)
    if dtype not in (None, *_DTYPES):
        raise InputError(f"unknown precision '{dtype}'; choose one of: {', '.join(_DTYPES)}")
    try:
        match source.backend_of(ref):
            case source.Backend.OPEN_CLIP:
                from mll_hf.models.open_clip import OpenClipModel

                return OpenClipModel(ref, source.fetch(ref, token), chosen, dtype, token, texts)
            case source.Backend.TRANSFORMERS:
                from mll_hf.models.transformers import TransformersModel, check_type

                folder = source.fetch(ref, token, partial(check_type, ref))
                return TransformersModel(ref, folder, chosen, dtype, texts)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or ref.backend, "models") from error
