"""Running vision-language models: find one, load it, embed images and texts.

The only package that imports torch for models. Importing it is cheap: torch comes with the first model or device,
and huggingface_hub, which takes a quarter of a second, with the first name to resolve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mll_hf.errors import MissingExtraError
from mll_hf.models.base import Backend, Cost, Link, VisionLanguageModel

if TYPE_CHECKING:
    from types import ModuleType

    from mll_hf.labels.label import ModelRef

__all__ = [
    "Backend",
    "Cost",
    "Link",
    "VisionLanguageModel",
    "all_devices",
    "load_model",
    "pick_device",
    "resolve_model",
]


def resolve_model(spec: str, token: str | None = None) -> ModelRef:
    """Pin a model to a revision and choose the backend that runs it.

    One request to the Hub, and no file is touched. Offline, the newest fitting copy in the local cache is taken.

    Args:
        spec: ``org/name``, ``org/name@revision`` or ``local-dir:PATH``.
        token: Hub token; None takes the one that the user has logged in with.

    Raises:
        ModelError: There is no such model, it cannot be reached, or it has no weights in safetensors.
    """
    from mll_hf.models import source

    return source.resolve(spec, token)


def pick_device(device: str | None = None) -> str:
    """Choose where models run: the device asked for, else cuda, then mps, then cpu.

    Raises:
        InputError: The device is unknown or not on this machine.
        MissingExtraError: torch is not installed.
    """
    return _torch_model().pick_device(device)


def all_devices() -> list[str]:
    """All GPUs of this machine, or the one device that is best.

    Raises:
        MissingExtraError: torch is not installed.
    """
    return _torch_model().all_devices()


def _torch_model() -> ModuleType:
    try:
        from mll_hf.models import torch_model
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "models") from error
    return torch_model


def load_model(ref: ModelRef, device: str | None = None, token: str | None = None) -> VisionLanguageModel:
    """Load a model at the revision that `ref` names, in evaluation mode.

    Args:
        ref: From `resolve_model` or a label.
        device: As for `pick_device`.
        token: Hub token; None takes the one that the user has logged in with.

    Raises:
        ModelError: The files cannot be had, have changed, are damaged, or hold no image-text model.
        InputError: The device is unknown or not on this machine.
        MissingExtraError: A package that runs the model is not installed.
    """
    from mll_hf.models import source

    chosen = pick_device(device)
    folder = source.fetch(ref, token)
    try:
        match Backend(ref.backend):
            case Backend.OPEN_CLIP:
                from mll_hf.models.open_clip import OpenClipModel

                return OpenClipModel(ref, folder, chosen)
            case Backend.TRANSFORMERS:
                from mll_hf.models.transformers import TransformersModel

                return TransformersModel(ref, folder, chosen)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or ref.backend, "models") from error
