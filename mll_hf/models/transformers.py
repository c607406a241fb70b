"""Models of transformers with image and text embeddings: CLIP, SigLIP and similar ones."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING

import torch
from transformers import AutoImageProcessor, AutoModelForZeroShotImageClassification, AutoTokenizer
from transformers.utils import logging

from mll_hf.errors import ModelError
from mll_hf.models.torch_model import VisionLanguageModel, one_line_errors
from mll_hf.utils.images import to_rgb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from PIL import Image
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from mll_hf.labels.label import ModelRef


class TransformersModel(VisionLanguageModel):
    """A model of transformers."""

    def __init__(self, ref: ModelRef, folder: Path, device: str, dtype: str | None) -> None:
        with one_line_errors(ref), _quiet():
            network = _load_network(ref, folder)
            # PIL, as in training, gives the same pixels as open_clip
            self._processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, backend="pil")
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            if self._tokenizer.pad_token is None:
                self._tokenizer.pad_token = self._tokenizer.eos_token
            self._text_inputs = _text_inputs(network)
            # pad to the full context: SigLIP needs it, CLIP gives the same result
            self._context_length = min(
                network.config.text_config.max_position_embeddings, self._tokenizer.model_max_length
            )
            super().__init__(ref, network, device, dtype)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """See `VisionLanguageModel`."""
        pixels: torch.Tensor = self._processor(images=to_rgb(image), return_tensors="pt")["pixel_values"][0]
        return pixels

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return _pooled(self._network.get_image_features(pixel_values=pixels))

    def _tokenize(self, texts: list[str]) -> Mapping[str, torch.Tensor]:
        tokens = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=self._context_length, return_tensors="pt"
        )
        return {name: tokens[name] for name in self._text_inputs if name in tokens}

    def _text_features(self, tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return _pooled(self._network.get_text_features(**tokens))


def _load_network(ref: ModelRef, folder: Path) -> PreTrainedModel:
    network, report = AutoModelForZeroShotImageClassification.from_pretrained(
        folder,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # reported below
        output_loading_info=True,
    )
    # transformers initializes missing weights at random and only prints a report
    unfit = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if unfit:
        reason = f"lacks weights for {len(unfit)} tensors, such as {unfit[0]}; use a complete model"
        raise ModelError(ref.repo_id, reason)
    for needed in ("get_image_features", "get_text_features", "logit_scale"):
        if not hasattr(network, needed):
            kind = network.config.model_type
            raise ModelError(ref.repo_id, f"is of type '{kind}', which has no {needed}; use a CLIP or SigLIP model")
    return network


def _text_inputs(network: PreTrainedModel) -> list[str]:
    """Outputs of the tokenizer that the text tower takes."""
    accepted = inspect.signature(network.get_text_features).parameters
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in accepted]
    # SigLIP was trained without an attention mask
    return ["input_ids"] if hasattr(network, "logit_bias") else names


def _pooled(output: torch.Tensor | ModelOutput) -> torch.Tensor:
    # a tensor in transformers 4, an object in 5
    features: torch.Tensor = getattr(output, "pooler_output", output)
    return features


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and reports; faults are raised as errors."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
