"""Models of open_clip."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import open_clip as oc
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from safetensors import safe_open
from torchvision.transforms import CenterCrop, Resize

from mll_hf.errors import ModelError
from mll_hf.labels.identity import deciding_files
from mll_hf.models.source import Backend, fetch_parts
from mll_hf.models.torch_model import NEEDS_CODE, VisionLanguageModel, one_line_errors
from mll_hf.utils.images import to_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from PIL import Image

    from mll_hf.labels.label import ModelRef


# settings of the smallest text tower, which is removed
_NO_TEXTS = {"context_length": 1, "vocab_size": 1, "width": 64, "heads": 1, "layers": 1}


class OpenClipModel(VisionLanguageModel):
    """A model of open_clip."""

    def __init__(
        self, ref: ModelRef, folder: Path, device: str, dtype: str | None, token: str | None, texts: bool
    ) -> None:
        with one_line_errors(ref):
            found = None if texts else _load_image_tower(folder)
            if found is None:
                network, self._transform, self._tokenizer = _load(ref, folder, token)
            else:
                network, self._transform = found
            super().__init__(ref, network, device, dtype, has_texts=found is None)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """See `VisionLanguageModel`."""
        return self._transform(to_rgb(image))

    def preprocessing(self) -> dict[str, Any] | None:
        """See `VisionLanguageModel`."""
        resize, *crop, _, _, normalize = self._transform.transforms
        if [type(step) for step in (resize, *crop)] not in ([Resize], [Resize, CenterCrop]):
            return None
        size = [resize.size] if isinstance(resize.size, int) else list(resize.size)
        return {
            "size": size,
            "crop": list(crop[0].size) if crop else size,
            "crop_offset": "round",
            "interpolation": resize.interpolation.name,
            "mean": list(normalize.mean),
            "std": list(normalize.std),
        }

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._network.encode_image(pixels)

    def _tokenize(self, texts: list[str]) -> Mapping[str, torch.Tensor]:
        return {"text": self._tokenizer(texts)}

    def _text_features(self, tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self._network.encode_text(**tokens)


def _load(ref: ModelRef, folder: Path, token: str | None) -> tuple[torch.nn.Module, Any, Any]:
    """Load network, transform and tokenizer from a folder without running its code."""
    text_config = json.loads((folder / "open_clip_config.json").read_bytes())["model_cfg"]["text_cfg"]
    parts = fetch_parts(ref, folder, text_config, token)
    if tower := text_config.get("hf_model_name"):
        _refuse_foreign_code(ref, parts[tower])
        text_config |= {"hf_model_name": str(parts[tower]), "hf_model_pretrained": False}
    network, transform = oc.create_model_from_pretrained(f"local-dir:{folder}", text_cfg=text_config)
    return network, transform, _load_tokenizer(folder, text_config, parts)


def _load_image_tower(folder: Path) -> tuple[torch.nn.Module, Any] | None:
    """Load a network without its text tower, and the transform; None if its weights cannot be separated."""
    config = json.loads((folder / "open_clip_config.json").read_bytes())
    model, names = config["model_cfg"], [path.name for path in folder.iterdir()]
    if "multimodal_cfg" in model:  # CoCa
        return None
    weights = next(folder / name for name in deciding_files(names, Backend.OPEN_CLIP) if name.endswith(".safetensors"))
    # on the device "meta" building takes no time or memory, but some values are not among the weights
    for device in ("meta", "cpu"):
        network = _without_texts(deepcopy(model), device)
        expected = network.state_dict()
        with safe_open(weights, "pt") as file:
            if not expected.keys() <= set(file.keys()):
                return None
            tensors = {name: file.get_tensor(name).to(old.dtype) for name, old in expected.items()}
        if any(tensors[name].shape != old.shape for name, old in expected.items()):
            return None
        network.load_state_dict(tensors, assign=True)
        if not any(part.is_meta for part in (*network.parameters(), *network.buffers())):
            break
    preprocess = merge_preprocess_dict(asdict(PreprocessCfg()), config.get("preprocess_cfg", {}))
    preprocess |= {"size": getattr(network.visual, "image_size", preprocess["size"])}
    return network, image_transform_v2(PreprocessCfg(**preprocess), is_train=False)


def _without_texts(model: dict[str, Any], device: str) -> CLIP | CustomTextCLIP:
    """A network of the image tower and the logit scale, without its weights."""
    kind = CustomTextCLIP if model.pop("custom_text", False) or "hf_model_name" in model["text_cfg"] else CLIP
    model["vision_cfg"]["timm_model_pretrained"] = False
    with torch.device(device):
        network = kind(**model | {"text_cfg": _NO_TEXTS})
    for name in [name for name, _ in network.named_children() if name != "visual"]:
        delattr(network, name)
    for name in ("positional_embedding", "text_projection", "attn_mask"):  # of CLIP's text tower
        if hasattr(network, name):
            delattr(network, name)
    return network


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
