"""Models of transformers with image and text embeddings: CLIP, SigLIP and similar ones."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import string
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForZeroShotImageClassification, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging

from mll_hf.errors import ModelError
from mll_hf.models.torch_model import NEEDS_CODE, VisionLanguageModel, one_line_errors
from mll_hf.utils.images import to_rgb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from mll_hf.labels.label import ModelRef

# a config may name a repo of attention kernels, which transformers runs regardless of trust_remote_code
_KERNEL = re.compile(r'attn_implementation"\s*:\s*"[^"]*/')
# settings with which a network is built without a text tower, but for one token and the positions
_NO_TEXTS = {"text_config": {"num_hidden_layers": 0, "vocab_size": 1, "pad_token_id": 0}}
_TEXT_PARTS = ("text_model", "text_projection")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TransformersModel(VisionLanguageModel):
    """A model of transformers.

    Returns the logits of transformers' pipeline for zero-shot image classification, with two exceptions. Texts that are
    too long are truncated; the pipeline fails on them. SigLIP gets texts as in training, in lower case and without
    punctuation; transformers' tokenizer of SigLIP 2 does not do this (12 points on ImageNet, NVlabs/RADIO#142).
    """

    def __init__(self, ref: ModelRef, folder: Path, device: str, dtype: str | None, texts: bool) -> None:
        with one_line_errors(ref), _quiet():
            network = _load_network(ref, folder, texts)
            # PIL, as in training, gives the same pixels as open_clip
            self._processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, backend="pil")
            if texts:
                self._prepare_texts(network, folder)
            super().__init__(ref, network, device, dtype, texts)

    def _prepare_texts(self, network: PreTrainedModel, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        # SigLIP was trained without a mask, on texts padded to the full context
        is_siglip, accepted = hasattr(network, "logit_bias"), inspect.signature(network.get_text_features).parameters
        names = ["input_ids"] if is_siglip else ["input_ids", "attention_mask", "token_type_ids"]
        self._text_inputs = [name for name in names if name in accepted]
        self._padded = "attention_mask" not in self._text_inputs
        # positions of XLM-RoBERTa, the text tower of AltCLIP, start at the padding token's id + 1
        config, is_altclip = network.config.text_config, network.config.model_type == "altclip"
        positions = config.max_position_embeddings - (config.pad_token_id + 1 if is_altclip else 0)
        self._context_length = min(int(positions), self._tokenizer.model_max_length)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """See `VisionLanguageModel`.

        SigLIP 2 NaFlex keeps an image's proportions and takes patches, [P, values], preceded by a row that starts with
        the numbers of rows and columns of patches.
        """
        inputs = self._processor(images=to_rgb(image), return_tensors="pt")
        pixels: torch.Tensor = inputs["pixel_values"][0]
        if "spatial_shapes" in inputs:
            shape = torch.zeros_like(pixels[:1])
            shape[0, :2] = inputs["spatial_shapes"][0]
            pixels = torch.cat([shape, pixels])
        return pixels

    def preprocessing(self) -> dict[str, Any] | None:
        """See `VisionLanguageModel`."""
        processor = self._processor  # of many classes
        size, crop = processor.size or {}, getattr(processor, "do_center_crop", False) and processor.crop_size
        shape = [size["shortest_edge"]] if size.get("shortest_edge") else [size.get("height"), size.get("width")]
        if not (all(shape) and processor.do_resize and processor.do_normalize):
            return None
        return {
            "size": shape,
            "crop": [crop["height"], crop["width"]] if crop else shape,
            "crop_offset": "floor",
            "interpolation": Image.Resampling(int(processor.resample)).name,
            "mean": list(processor.image_mean),
            "std": list(processor.image_std),
        }

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.ndim == 4:
            return _pooled(self._network.get_image_features(pixel_values=pixels))
        shapes, patches = pixels[:, 0, :2].long(), pixels[:, 1:]
        present = torch.arange(patches.shape[1], device=pixels.device) < shapes.prod(dim=1, keepdim=True)
        features = self._network.get_image_features(
            pixel_values=patches, pixel_attention_mask=present, spatial_shapes=shapes
        )
        return _pooled(features)

    def _tokenize(self, texts: list[str]) -> Mapping[str, torch.Tensor]:
        tokens = self._tokenizer(
            [_canonical(text) for text in texts] if self._padded else texts,
            padding="max_length" if self._padded else "longest",
            truncation=True,
            max_length=self._context_length,
            return_attention_mask=not self._padded,
            return_tensors="pt",
        )
        return {name: tokens[name] for name in self._text_inputs if name in tokens}

    def _text_features(self, tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return _pooled(self._network.get_text_features(**tokens))


def check_type(ref: ModelRef, folder: Path) -> str:
    """The type of a model by its ``config.json``; a ModelError if it does not embed images and texts, or needs code."""
    with one_line_errors(ref):
        content = (folder / "config.json").read_text(encoding="utf-8")
        if _KERNEL.search(content):
            raise ModelError(ref.repo_id, NEEDS_CODE)
        config = json.loads(content)
        kind = str(config.get("model_type"))
        if kind not in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES:
            reason = f"is of type '{kind}', which does not embed images and texts; use a CLIP or SigLIP model"
            raise ModelError(ref.repo_id, NEEDS_CODE if "auto_map" in config else reason)
    return kind


def _load_network(ref: ModelRef, folder: Path, texts: bool) -> PreTrainedModel:
    """Load a network that embeds images and texts, or only images; a ModelError if it lacks weights, or does not."""
    kind = check_type(ref, folder)
    network, report = AutoModelForZeroShotImageClassification.from_pretrained(
        folder,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # reported below
        output_loading_info=True,
        **({} if texts else _NO_TEXTS),
    )
    # transformers initializes missing weights at random and only prints a report
    unfit = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if not texts:
        unfit = [name for name in unfit if not name.startswith(_TEXT_PARTS)]
        for name, _ in list(network.named_children()):
            if name.startswith(_TEXT_PARTS):
                delattr(network, name)
    if unfit:
        reason = f"lacks weights for {len(unfit)} tensors, such as {unfit[0]}; use a complete model"
        raise ModelError(ref.repo_id, reason)
    if not (hasattr(network, "get_image_features") and hasattr(network, "get_text_features")):
        reason = f"is of type '{kind}', which has no single embedding of an image; use a CLIP or SigLIP model"
        raise ModelError(ref.repo_id, reason)
    return network


def _canonical(text: str) -> str:
    """Text as SigLIP's authors prepare it: big_vision, ``prompt_engineering.canonicalize_text``."""
    return " ".join(text.replace("_", " ").translate(_PUNCTUATION).lower().split())


def _pooled(output: torch.Tensor | ModelOutput) -> torch.Tensor:
    return getattr(output, "pooler_output", output)  # a tensor in transformers 4, an object in 5


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress bars and reports; problems are raised as errors."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
