"""The interface of a loaded vision-language model. Imports nothing heavy."""

from __future__ import annotations

from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Protocol

from mll_hf.labels.label import Cost, Environment, ModelRef

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["TEXT_BATCH", "Backend", "Cost", "Link", "VisionLanguageModel", "environment_of"]

TEXT_BATCH = 256  # texts embedded together


class Backend(StrEnum):
    """The library that runs a model."""

    OPEN_CLIP = "open_clip"
    TRANSFORMERS = "transformers"


class Link(StrEnum):
    """How a model was trained to turn logits into probabilities."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


class VisionLanguageModel(Protocol):
    """A loaded model in evaluation mode.

    Attributes:
        ref: The model and its revision.
        embedding_size: D, the size of an embedding.
        logit_scale: Factor between cosines and logits (already exponentiated).
        logit_bias: Constant added to every logit; 0.0 for softmax models.
        link: Softmax or sigmoid over classes, as in training.
        cost: Parameters and FLOPs, measured on the loaded model.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        dtype: Precision of the image tower: ``float32`` or ``float16``.
        batch_size: Default number of images per batch: keeps the device busy and fits into its memory.
    """

    ref: ModelRef
    embedding_size: int
    logit_scale: float
    logit_bias: float
    link: Link
    cost: Cost
    device: str
    dtype: str
    batch_size: int

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Turn an image of any PIL mode into the model's input, [3, H, W] float32 on the CPU.

        Safe to call from threads and forked processes.
        """
        ...

    def encode_pixels(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Embed preprocessed images [N, 3, H, W]; returns unit-norm float32 [N, D].

        A batch that does not fit into memory is embedded in smaller batches.

        Raises:
            ModelError: An embedding is zero or not finite, or not even one image fits into memory.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts; returns unit-norm float32 [T, D]. Texts longer than the context are truncated.

        Raises:
            ModelError: An embedding is zero or not finite.
        """
        ...

    def close(self) -> None:
        """Free the model's memory. The model cannot be used afterwards."""
        ...


def environment_of(model: VisionLanguageModel) -> Environment:
    """What besides model and images decides the last bits of embeddings: device type, precision, library versions."""
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
