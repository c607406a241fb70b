"""Models of sentence-transformers that embed images and texts: a CLIP or similar, and modules after it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer

from mll_hf.models.torch_model import VisionLanguageModel, one_line_errors
from mll_hf.models.transformers import NO_TEXTS, check_type, described, drop_texts, load_network, quiet
from mll_hf.utils.images import to_rgb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from PIL import Image

    from mll_hf.labels.label import ModelRef


class SentenceTransformersModel(VisionLanguageModel):
    """A model of sentence-transformers. Embeds as its ``encode`` does, with the default prompt for texts."""

    def __init__(self, ref: ModelRef, folder: Path, device: str, dtype: str | None, texts: bool) -> None:
        with one_line_errors(ref), quiet():
            super().__init__(ref, _load(ref, folder, texts), device, dtype, texts)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """See `VisionLanguageModel`."""
        pixels: torch.Tensor = self._network.preprocess([to_rgb(image)])["pixel_values"][0]
        return pixels

    def preprocessing(self) -> dict[str, Any] | None:
        """See `VisionLanguageModel`."""
        processor = self._network[0].processor
        return described(getattr(processor, "image_processor", processor))

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._embed({"pixel_values": pixels}, "image")

    def _tokenize(self, texts: list[str]) -> Mapping[str, torch.Tensor]:
        prompt = self._network.prompts.get(self._network.default_prompt_name)
        inputs = self._network.preprocess(texts, prompt=prompt)
        return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}

    def _text_features(self, tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self._embed(tokens, "text")

    def _embed(self, inputs: Mapping[str, torch.Tensor], modality: str) -> torch.Tensor:
        embeddings: torch.Tensor = self._network({**inputs, "modality": modality})["sentence_embedding"]
        return embeddings


def check_first_module(ref: ModelRef, folder: Path) -> None:
    """Raise a ModelError if the first module does not embed images and texts, or needs code."""
    with one_line_errors(ref):
        check_type(ref, _first_module(folder))


def _first_module(folder: Path) -> Path:
    path: str = json.loads((folder / "modules.json").read_bytes())[0]["path"]
    return folder / path


def _load(ref: ModelRef, folder: Path, texts: bool) -> SentenceTransformer:
    load_network(ref, _first_module(folder), texts)  # sentence-transformers does not report missing weights
    model = SentenceTransformer(
        str(folder),
        device="cpu",
        trust_remote_code=False,
        local_files_only=True,
        # the attention is the config's, which was checked, not one named in the module's settings
        model_kwargs={
            "use_safetensors": True,
            "dtype": torch.float32,
            "attn_implementation": None,
            "ignore_mismatched_sizes": not texts,
        },
        config_kwargs=None if texts else NO_TEXTS,
    )
    if not texts:
        drop_texts(model.transformers_model)
    return model
