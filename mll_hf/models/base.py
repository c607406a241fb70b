"""What can be said about models without importing torch."""

from __future__ import annotations

from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from mll_hf.labels.label import Environment

if TYPE_CHECKING:
    from mll_hf.models.torch_model import VisionLanguageModel

TEXT_BATCH = 256  # texts embedded together


class Backend(StrEnum):
    """The library that runs a model."""

    OPEN_CLIP = "open_clip"
    TRANSFORMERS = "transformers"


class Link(StrEnum):
    """How a model was trained to turn logits into probabilities."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


def environment_of(model: VisionLanguageModel) -> Environment:
    """What decides the last bits of embeddings, besides model and images."""
    return Environment(
        device=model.device.partition(":")[0],
        dtype=model.dtype,
        torch=_version("torch"),
        open_clip=_version("open_clip_torch"),
        transformers=_version("transformers"),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
