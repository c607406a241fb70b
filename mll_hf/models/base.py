"""What a vision-language model must offer to be labeled and used. No heavy import here."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from mll_hf.labels.label import Cost, ModelRef

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["Backend", "Cost", "Link", "VisionLanguageModel"]


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
        ref: Which model this is, pinned to a revision.
        embedding_size: D, the size of an embedding.
        logit_scale: Factor between a cosine and a logit (already exponentiated).
        logit_bias: Constant added to every logit; 0.0 for softmax models.
        link: Whether the model was trained with a softmax or a sigmoid over classes.
        cost: Parameters and operations, measured from the model itself.
        device: Where it runs: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        batch_size: Images at a time that keep the device busy and fit its memory.
    """

    ref: ModelRef
    embedding_size: int
    logit_scale: float
    logit_bias: float
    link: Link
    cost: Cost
    device: str
    batch_size: int

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Turn one image of any PIL mode into the model's input, [3, H, W] float32 on the CPU.

        Safe in threads and in forked worker processes.
        """
        ...

    def encode_pixels(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Embed preprocessed images [N, 3, H, W]; returns unit-norm float32 [N, D].

        More images than the device's memory holds are embedded in several goes.

        Raises:
            ModelError: An embedding is zero or not finite, or not even one image fits the memory.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts as they stand; returns unit-norm float32 [T, D]. Texts over the context length are cut.

        Raises:
            ModelError: An embedding is zero or not finite.
        """
        ...

    def close(self) -> None:
        """Free the model's memory. The model cannot encode afterwards."""
        ...
