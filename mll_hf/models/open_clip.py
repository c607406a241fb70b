"""Models of open_clip."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import open_clip as oc
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer
from torchvision.transforms import Compose
from torchvision.transforms.functional import pil_to_tensor

from mll_hf.errors import ModelError
from mll_hf.models.source import fetch_parts
from mll_hf.models.torch_model import NEEDS_CODE, VisionLanguageModel, one_line_errors
from mll_hf.utils.images import to_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from PIL import Image

    from mll_hf.labels.label import ModelRef


class OpenClipModel(VisionLanguageModel):
    """A model of open_clip."""

    def __init__(self, ref: ModelRef, folder: Path, device: str, dtype: str | None, token: str | None) -> None:
        with one_line_errors(ref):
            network, self._transform, self._tokenizer = _load(ref, folder, token)
            super().__init__(ref, network, device, dtype)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """See `VisionLanguageModel`."""
        pixels: torch.Tensor = self._transform(to_rgb(image))
        return pixels

    def _resizing(self) -> tuple[Callable[[Image.Image], torch.Tensor], Any, Any] | None:
        *steps, _, normalize = self._transform.transforms
        return partial(_resized, Compose(steps)), normalize.mean, normalize.std

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._network.encode_image(pixels)
        return features

    def _tokenize(self, texts: list[str]) -> Mapping[str, torch.Tensor]:
        return {"text": self._tokenizer(texts)}

    def _text_features(self, tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        features: torch.Tensor = self._network.encode_text(**tokens)
        return features


def _resized(resize: Compose, image: Image.Image) -> torch.Tensor:
    """At module level, since models are pickled for other processes."""
    pixels: torch.Tensor = pil_to_tensor(resize(to_rgb(image)))
    return pixels


def _load(ref: ModelRef, folder: Path, token: str | None) -> tuple[torch.nn.Module, Any, Any]:
    """Load network, transform and tokenizer from a folder without running its code."""
    parts = fetch_parts(ref, folder, token)
    text_config = json.loads((folder / "open_clip_config.json").read_bytes())["model_cfg"]["text_cfg"]
    if tower := text_config.get("hf_model_name"):
        _refuse_foreign_code(ref, parts[tower])
        text_config |= {"hf_model_name": str(parts[tower]), "hf_model_pretrained": False}
    network, transform = oc.create_model_from_pretrained(f"local-dir:{folder}", text_cfg=text_config)
    return network, transform, _load_tokenizer(folder, text_config, parts)


def _load_tokenizer(
    folder: Path, text_config: dict[str, Any], parts: Mapping[str, Path]
) -> Callable[[list[str]], torch.Tensor]:
    name = text_config.get("hf_tokenizer_name")
    # open_clip passes the config's tokenizer_kwargs to transformers; ours take precedence
    safe = {"trust_remote_code": False}
    if not name or name not in parts or (folder / "tokenizer_config.json").is_file():
        return oc.get_tokenizer(f"local-dir:{folder}", **(safe if name else {}))
    return HFTokenizer(
        str(parts[name]),
        context_length=text_config.get("context_length", DEFAULT_CONTEXT_LENGTH),
        tokenizer_mode=text_config.get("tokenizer_mode"),
        **text_config.get("tokenizer_kwargs", {}) | safe,
    )


def _refuse_foreign_code(ref: ModelRef, folder: Path) -> None:
    # open_clip builds the text tower from this config, and would ask on the terminal whether to run its code
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if "/" in (config._attn_implementation or ""):  # a repo of attention kernels
        raise ModelError(ref.repo_id, NEEDS_CODE)
