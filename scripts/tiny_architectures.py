"""Tiny models of every image-text architecture of open_clip and transformers, with random weights, in the Hub's layout.

open_clip's own configs are shrunk: one layer, width 32, images of two patches. What defines an architecture (its
towers, attention, pooling, activations, tokenizer) is kept; architectures with equal shrunk configs are one kind.
Tokenizers are of the classes that the configs on the Hub name, with characters as tokens.
"""

from __future__ import annotations

import contextlib
import json
import re
import string
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import open_clip
import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.models.vitamin import VitCfg, VitConvCfg
from tokenizers import processors
from transformers import AutoConfig, AutoModelForZeroShotImageClassification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED = 0
WIDTH, HEADS, VOCABULARY, CONTEXT = 32, 2, 160, 77
IMAGE_SIZE, PATCH = 32, 16
_SYMBOLS = string.punctuation.replace("<", "").replace(">", "")
_PIECES = ["▁", *string.ascii_letters, *string.digits, *_SYMBOLS]


# ---- open_clip


def open_clip_kinds() -> dict[str, list[str]]:
    """{shrunk config as JSON: names of its architectures}, in the order of the names."""
    kinds: dict[str, list[str]] = {}
    for name in open_clip.list_models():
        config = shrunk(open_clip.get_model_config(name))
        kinds.setdefault(json.dumps(config, sort_keys=True), []).append(name)
    return kinds


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """A config of open_clip with all sizes reduced."""
    config = deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = WIDTH
    if tower := vision.get("timm_model_name"):
        small = _timm_arguments(tower).get("img_size", 64)
        expected = timm.get_pretrained_cfg(tower, allow_unregistered=True)
        # if a config and timm disagree about the size, they still do
        fits = vision["image_size"] == expected.input_size[-1] or not expected.fixed_input_size
        vision["image_size"] = small if fits else 2 * small
    elif isinstance(vision["layers"], list):
        vision |= {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}
    else:
        vision |= {"image_size": 2 * vision["patch_size"], "layers": 1, "width": WIDTH, "head_width": WIDTH // HEADS}
    if "attn_pooler_heads" in vision:
        vision["attn_pooler_heads"] = HEADS
    if name := text.get("hf_model_name"):
        text["hf_model_name"] = next(kind for kind in ("xlm-roberta", "roberta", "mt5", "nllb") if kind in name)
    else:
        text |= {"layers": 1, "width": WIDTH, "heads": HEADS}
    if name := text.get("hf_tokenizer_name"):
        kinds = {"SigLIP2": "gemma", "i18n": "mt5", "SigLIP": "c4", "bert-base": "bert", "xlm": "xlm-roberta"}
        kinds |= {"mt5": "mt5", "nllb": "nllb", "roberta": "roberta"}
        text["hf_tokenizer_name"] = next(kind for part, kind in kinds.items() if part in name)
        text["vocab_size"] = VOCABULARY
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"layers": 1, "width": WIDTH, "heads": HEADS}
    return config


def _timm_arguments(name: str) -> dict[str, Any]:
    """Arguments that make a timm tower small; its constructor derives the rest from the name."""
    if name.startswith("fastvit"):
        stages = 5 if name.endswith(("mci3", "mci4")) else 4
        return {"layers": (1,) * stages, "embed_dims": (WIDTH,) * stages}
    if name.startswith("convnext"):
        return {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, WIDTH)}
    if name.startswith("swin"):
        return {"img_size": 64, "embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
    small: dict[str, Any] = {"img_size": 32, "depth": 1}
    if name.startswith("vit_base_mci"):
        return small | {"embed_dim": 768}  # its stem has this width
    small |= {"embed_dim": WIDTH, "num_heads": HEADS}
    if name.startswith("vitamin"):
        stem = VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
        stages = VitCfg(embed_dim=(8, 16, WIDTH), depths=(1, 1, 1), stem_width=8, conv_cfg=stem, head_type="1d")
        return small | {"embed_cfg": stages}
    return small | {"img_size": 2 * int(re.findall(r"patch(\d+)", name)[0])}


@contextlib.contextmanager
def small_timm_towers() -> Iterator[None]:
    """Make timm create small towers: open_clip's configs have no field for their size."""
    create = timm.create_model
    with mock.patch.object(
        timm, "create_model", lambda name, **kwargs: create(name, **kwargs, **_timm_arguments(name))
    ):
        yield


def write_open_clip(folder: Path, config: dict[str, Any]) -> Path:
    """Write a shrunk config with weights and tokenizer; within `small_timm_towers`."""
    config = deepcopy(config)
    folder.mkdir(parents=True)
    text = config["text_cfg"]
    if kind := text.get("hf_model_name"):
        _text_config(kind).save_pretrained(folder / "text")
        text["hf_model_name"] = str(folder / "text")
    if kind := text.get("hf_tokenizer_name"):
        make_tokenizer(kind).save_pretrained(folder)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    content = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    network = _random(lambda: open_clip.create_model(f"local-dir:{folder}", pretrained_text=False))
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    return folder


def _text_config(kind: str) -> transformers.PreTrainedConfig:
    ids = {"vocab_size": VOCABULARY, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    match kind:
        case "roberta":
            return transformers.RobertaConfig(**ids, **_size())
        case "xlm-roberta":
            return transformers.XLMRobertaConfig(**ids, **_size())
        case "mt5":
            ids |= {"pad_token_id": 0, "eos_token_id": 1}
            return transformers.MT5Config(**ids, d_model=WIDTH, d_kv=16, d_ff=WIDTH, num_layers=1, num_heads=HEADS)
        case "nllb":
            small = {"layers": 1, "attention_heads": HEADS, "ffn_dim": WIDTH}
            towers = {f"{tower}_{key}": size for tower in ("encoder", "decoder") for key, size in small.items()}
            return transformers.M2M100Config(**ids, d_model=WIDTH, **towers)
    raise ValueError(kind)


# ---- transformers

# image processor and tokenizer of each type in transformers' mapping for zero-shot image classification
_TYPES = {
    "align": ("EfficientNetImageProcessor", "bert"),
    "altclip": ("CLIPImageProcessor", "xlm-roberta"),
    "blip": ("BlipImageProcessor", "bert"),
    "blip-2": ("BlipImageProcessor", "bert"),
    "chinese_clip": ("ChineseCLIPImageProcessor", "bert"),
    "clip": ("CLIPImageProcessor", "clip"),
    "clipseg": ("ViTImageProcessor", "clip"),
    "metaclip_2": ("CLIPImageProcessor", "xlm-roberta"),
    "siglip": ("SiglipImageProcessor", "c4"),
    "siglip2": ("Siglip2ImageProcessor", "gemma"),
    "tipsv2": ("Tipsv2ImageProcessor", "mt5"),
    "videoprism": ("CLIPImageProcessor", "mt5"),
}


def write_transformers(folder: Path, kind: str, tokenizer: str = "") -> Path:
    """Write a tiny model of a type, with a tokenizer of that kind; default: its tokenizer on the Hub."""
    image_processor, usual_tokenizer = _TYPES[kind]
    config = AutoConfig.for_model(kind, **_transformers_config(kind))
    network = _random(lambda: AutoModelForZeroShotImageClassification.from_config(config))
    network.save_pretrained(folder)
    make_tokenizer(tokenizer or usual_tokenizer).save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    content = {"image_processor_type": image_processor, "do_resize": True, "resample": 3, "do_center_crop": False}
    content |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    content |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    content |= {"patch_size": PATCH, "max_num_patches": 6} if kind == "siglip2" else {"size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def _transformers_config(kind: str) -> dict[str, Any]:
    text = {"vocab_size": VOCABULARY, **_size()}
    vision = {"image_size": IMAGE_SIZE, "patch_size": PATCH, "projection_dim": WIDTH, **_size()}
    bert_ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    xlm_ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    match kind:
        case "align":
            text |= bert_ids
            blocks: dict[str, Any] = {"in_channels": [32, 16], "out_channels": [16, WIDTH], "kernel_sizes": [3, 3]}
            blocks |= {"strides": [1, 2], "num_block_repeats": [1, 1], "expand_ratios": [1, 6]}
            vision = {"image_size": IMAGE_SIZE, "hidden_dim": WIDTH, **blocks}
            vision |= {"width_coefficient": 1.0, "depth_coefficient": 1.0}
        case "altclip":
            text |= {"project_dim": WIDTH, **xlm_ids}
        case "blip":
            text |= {"encoder_hidden_size": WIDTH, "projection_dim": WIDTH, **bert_ids}
        case "blip-2":
            reader = {"encoder_hidden_size": WIDTH, "use_qformer_text_input": True, "pad_token_id": 0, **text}
            return {"vision_config": vision, "qformer_config": reader, "num_query_tokens": 3}
        case "chinese_clip":
            text |= bert_ids
        case "clip" | "clipseg":
            text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": CONTEXT}
        case "metaclip_2":
            text |= {"max_position_embeddings": CONTEXT, **xlm_ids}
        case "siglip" | "siglip2":
            text |= {"projection_size": WIDTH, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 1}
            if kind == "siglip2":
                vision = {"patch_size": PATCH, "num_patches": 4, **_size()}
        case "tipsv2":
            del vision["projection_dim"], vision["intermediate_size"]
        case "videoprism":
            layers = {f"num_{name}_layers": 1 for name in ("spatial", "temporal", "auxiliary")}
            vision = {"image_size": IMAGE_SIZE, "num_frames": 2, "tubelet_size": (1, PATCH, PATCH), **layers}
            vision |= {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": HEADS}
    return {"text_config": text, "vision_config": vision, "projection_dim": WIDTH}


def _size() -> dict[str, int]:
    heads = {"num_hidden_layers": 1, "num_attention_heads": HEADS}
    return {"hidden_size": WIDTH, "intermediate_size": WIDTH, **heads}


# ---- tokenizers


def make_tokenizer(kind: str) -> transformers.PreTrainedTokenizerBase:
    """A tokenizer of the class of a well-known one."""
    match kind:
        case "bert":
            continued = [f"##{letter}" for letter in string.ascii_lowercase]
            pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, *continued]
            return transformers.BertTokenizer(_numbered(pieces))
        case "c4":  # SigLIP's: pads with the end-of-text token, without a mask
            pieces = _with_scores("<pad>", "</s>", "<unk>")
            settings = {"pad_token": "</s>", "model_input_names": ["input_ids"], "model_max_length": 64}
            return transformers.T5Tokenizer(pieces, extra_ids=0, **settings)
        case "clip":
            letters = [*string.ascii_lowercase, *string.digits, *_SYMBOLS]
            pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
            return transformers.CLIPTokenizer(_numbered(pieces), [], model_max_length=CONTEXT)
        case "gemma":  # SigLIP 2's
            settings = {"padding_side": "right", "model_input_names": ["input_ids"], "model_max_length": 64}
            pieces = _numbered(["<pad>", "<eos>", "<bos>", "<unk>", *_PIECES])
            tokenizer = transformers.GemmaTokenizer(pieces, [], **settings)
            end = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
            tokenizer.backend_tokenizer.post_processor = end
            return tokenizer
        case "mt5":
            return transformers.T5Tokenizer(_with_scores("<pad>", "</s>", "<unk>"), extra_ids=0)
        case "nllb":
            pieces = _numbered(["<s>", "<pad>", "</s>", "<unk>", *_PIECES])
            return transformers.NllbTokenizer(pieces, [], extra_special_tokens=["eng_Latn"], src_lang="eng_Latn")
        case "roberta":
            pieces = _numbered(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *_PIECES])
            return transformers.RobertaTokenizer(pieces, [])
        case "siglip":  # needs the package sentencepiece, as on the Hub
            return transformers.SiglipTokenizer(_sentencepiece_model(), model_input_names=["input_ids"])
        case "xlm-roberta":
            return transformers.XLMRobertaTokenizer(_with_scores("<s>", "<pad>", "</s>", "<unk>"))
    raise ValueError(kind)


def _sentencepiece_model() -> str:
    import sentencepiece

    path = Path(tempfile.mkdtemp()) / "spiece.model"
    letters = " ".join([string.ascii_lowercase, *string.ascii_lowercase])
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([letters]), model_writer=file, vocab_size=VOCABULARY, hard_vocab_limit=False,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
        )  # fmt: skip
    return str(path)


def _numbered(pieces: list[str]) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(pieces)}


def _with_scores(*special: str) -> list[tuple[str, float]]:
    return [*((piece, 0.0) for piece in special), *((piece, -1.0) for piece in _PIECES)]


def _random(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """Build a network whose weights all affect the output: many default initial values are zero or tiny."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        network = build()
        for parameter in network.parameters():
            scale = (
                parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1 * parameter.ndim
            )  # spares the logit scale
            parameter.add_(scale * torch.randn_like(parameter))
    return network
