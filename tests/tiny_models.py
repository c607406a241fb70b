"""Tiny untrained models in the layouts of open_clip and transformers: real files, a few kilobytes, made in an instant.

All share one vocabulary of words and one shape: 32 px, patch 8, 1 layer of width 32, 24 dimensions, 16 tokens.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

IMAGE_SIZE, PATCH, WIDTH, LAYERS, HEADS, DIMENSIONS, CONTEXT = 32, 8, 32, 1, 2, 24, 16
SIGMOID_DIMENSIONS = 64  # the width of timm's smallest ViT
WORDS = ["a", "an", "the", "photo", "of", "drawing", "icon", "this", "is", ".", ",", "cat", "dog", "car", "tree", "red"]
WORDS += ["blue", "round", "which", "small", "large"]
_PAD, _BOS, _EOS, _UNKNOWN = 0, 61, 62, 1  # the end of text has the highest id: open_clip finds it by argmax
_VOCABULARY = 64


def make_open_clip(folder: Path, seed: int = 0, sigmoid: bool = False, own_tokenizer: bool = False) -> Path:
    """A ViT of open_clip; `own_tokenizer` gives it open_clip's 49,408 tokens (6 MB).

    `sigmoid` makes it a SigLIP: its bias, and an image tower of timm with attention pooling.
    """
    import open_clip
    from safetensors.torch import save_file

    tower = {"layers": LAYERS, "width": WIDTH, "patch_size": PATCH, "head_width": WIDTH // HEADS}
    if sigmoid:
        tower = {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"}
    config = {
        "embed_dim": SIGMOID_DIMENSIONS if sigmoid else DIMENSIONS,
        "vision_cfg": {"image_size": IMAGE_SIZE, **tower},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": 49408 if own_tokenizer else _VOCABULARY,
            "width": WIDTH,
            "heads": HEADS,
            "layers": LAYERS,
            **({} if own_tokenizer else {"hf_tokenizer_name": "tokenizer"}),
        },
        **({"init_logit_bias": -10.0} if sigmoid else {}),
    }
    kind = open_clip.CustomTextCLIP if sigmoid else open_clip.CLIP
    network = _seeded(seed, lambda: kind(**json.loads(json.dumps(config))))  # it changes what it is given
    folder.mkdir(parents=True, exist_ok=True)
    if not own_tokenizer:
        _tokenizer().save_pretrained(folder)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {**config, "custom_text": sigmoid}, "preprocess_cfg": preprocess})
    )
    return folder


def make_transformers_clip(folder: Path, seed: int = 0) -> Path:
    """A `CLIPModel` of the same architecture."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config=_transformers_size() | _transformers_text(),
        vision_config=_transformers_size() | {"image_size": IMAGE_SIZE, "patch_size": PATCH},
        projection_dim=DIMENSIONS,
    )
    return _save_transformers(folder, _seeded(seed, lambda: CLIPModel(config)))


def make_siglip(folder: Path, seed: int = 0) -> Path:
    """A `SiglipModel`: sigmoids, a logit bias, no mask over the padding."""
    from transformers import SiglipConfig, SiglipModel

    config = SiglipConfig(
        text_config=_transformers_size() | _transformers_text() | {"projection_size": WIDTH},
        vision_config=_transformers_size() | {"image_size": IMAGE_SIZE, "patch_size": PATCH},
    )
    network = _seeded(seed, lambda: SiglipModel(config))
    with torch.no_grad():
        network.logit_scale.fill_(2.0)
        network.logit_bias.fill_(-10.0)
    return _save_transformers(folder, network)


def _transformers_size() -> dict:
    heads = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    return {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "projection_dim": DIMENSIONS, **heads}


def _transformers_text() -> dict:
    ids = {"bos_token_id": _BOS, "eos_token_id": _EOS, "pad_token_id": _PAD}
    return {"vocab_size": _VOCABULARY, "max_position_embeddings": CONTEXT, **ids}


def _save_transformers(folder: Path, network) -> Path:
    network.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": size,
        "resample": 3,
        "do_center_crop": False,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def _tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": _PAD, "<unk>": _UNKNOWN, "<s>": _BOS, "</s>": _EOS}
    vocabulary |= {word: index for index, word in enumerate(WORDS, start=2)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", _BOS), ("</s>", _EOS)]
    )
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT, **special)


def _seeded(seed: int, build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
