"""Constants of models that do not need torch."""

from __future__ import annotations

from enum import StrEnum

TEXT_BATCH = 256  # texts embedded together
DTYPES = ("float32", "float16", "bfloat16")  # precisions of image towers


class Backend(StrEnum):
    """The library that runs a model."""

    OPEN_CLIP = "open_clip"
    TRANSFORMERS = "transformers"
    SENTENCE_TRANSFORMERS = "sentence-transformers"


class Link(StrEnum):
    """How a model was trained to turn logits into probabilities."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
