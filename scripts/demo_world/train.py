"""Train the demo's tiny models: `python scripts/demo_world/train.py [NAME ...]`.

Six CLIPs of about 0.5 million parameters, each with a specialty, trained from scratch on the `train` split on a CPU
and saved in open_clip's local-folder layout. Afterwards, prints the zero-shot accuracy of every model on every task.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional

from demo_world import MODELS, images
from demo_world.targets import Task, tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demo_world.images import Picture


PROMPT = "a photo of a {}."
_CONTEXT, _VOCABULARY, _BATCH, _CAPTIONS = 24, 1100, 160, 80
_ANCHOR_SCALE = 16.0  # 1 / temperature of the anchors
_FIELDS = ("digits", "letters", "nature", "things", "surfaces")
_RESNET = {"width": 8, "layers": [1, 1, 1, 1], "head_width": 64, "image_size": images.SIZE}
_PLAIN = ("{}", "a {}", "a photo of a {}.", "a picture of a {}.", "an image of {}.", "this is a {}.")
_TEMPLATES = {
    "handwriting": ("a handwritten {}.", "a scan of a handwritten {}.", "{} in handwriting"),
    "font": ("a printed {}.", "{} set in a font", "a typeset {}."),
    "icon": ("an icon of a {}.", "a pictogram of a {}.", "a simple drawing of a {}."),
    "photo": ("a close-up photo of {}.", "a texture of {}.", "a patch of {}."),
}
_GENERAL_CAPTIONS = 0.12  # share of captions that name a hypernym
_OWN_FIELD = 0.85  # share of a specialist's pictures from its own field


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train one model.

    Attributes:
        name: Folder name.
        says: What it is good at, in words.
        fields: Fields of most of its training pictures; all of them for the generalist.
        steps: Training steps of 160 pictures.
        sigmoid: Whether it is trained like SigLIP, with a sigmoid loss and a logit bias.
    """

    name: str
    says: str
    fields: tuple[str, ...]
    steps: int
    sigmoid: bool = False


RECIPES = (
    Recipe("demo-digits", "Handwritten and printed digits.", ("digits",), 500),
    Recipe("demo-letters", "Capital letters in print.", ("letters",), 300, sigmoid=True),
    Recipe("demo-nature", "Icons of animals, plants, food and weather.", ("nature",), 400),
    Recipe("demo-things", "Icons of man-made things.", ("things",), 500),
    Recipe("demo-surfaces", "Close-up photographs of surfaces and materials.", ("surfaces",), 350),
    Recipe("demo-generalist", "A little of everything.", _FIELDS, 300),
)


@dataclass(frozen=True)
class Data:
    """The training pictures as tensors.

    Attributes:
        pixels: [N, 3, 32, 32] in 0 to 1.
        concepts: [N] index into `nodes`.
        styles: [N] index into the keys of `_TEMPLATES`.
        fields: [N] index into `_FIELDS`.
        nodes: The nodes of `concepts.json`.
        is_below: [V, V]; `is_below[v, u]` tells whether `v` is `u` or a descendant of `u`.
    """

    pixels: torch.Tensor
    concepts: torch.Tensor
    styles: torch.Tensor
    fields: torch.Tensor
    nodes: list[dict[str, Any]]
    is_below: torch.Tensor


def load_data() -> Data:
    """Read the training split."""
    nodes = images.read_concepts()
    place = {node["id"]: v for v, node in enumerate(nodes)}
    pictures = images.pictures("train")
    pixels = np.stack([np.asarray(picture.image) for picture in pictures])
    return Data(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255,
        torch.tensor([place[picture.concept] for picture in pictures]),
        torch.tensor([list(_TEMPLATES).index(picture.style) for picture in pictures]),
        torch.tensor([_FIELDS.index(field_of(picture, nodes[place[picture.concept]])) for picture in pictures]),
        nodes,
        _is_below(nodes, place),
    )


def field_of(picture: Picture, node: dict[str, Any]) -> str:
    """Which of `_FIELDS` a picture belongs to."""
    if picture.style == "photo":
        return "surfaces"
    if picture.style == "icon":
        return str(node["field"])
    return "digits" if node["symbol"].isdigit() else "letters"


def _is_below(nodes: list[dict[str, Any]], place: dict[str, int]) -> torch.Tensor:
    below = torch.eye(len(nodes), dtype=torch.bool)
    for _ in range(len(nodes)):
        wider = below.clone()
        for v, node in enumerate(nodes):
            for hypernym in node["hypernyms"]:
                wider[v] |= below[place[hypernym]]
        if torch.equal(wider, below):
            break
        below = wider
    return below


def names_of(node: dict[str, Any]) -> list[str]:
    """Names that captions use: the lemmas, and for symbols the ways people write them."""
    symbol = node.get("symbol")
    if symbol is None:
        return list(node["names"][:4])
    if symbol.isdigit():
        return [symbol, symbol, node["names"][0], f"digit {symbol}", f"number {node['names'][0]}"]
    return [f"letter {symbol}", f"letter {symbol}", symbol, f"capital letter {symbol}"]


def caption(node: dict[str, Any], style: str, rng: np.random.Generator) -> str:
    """A random caption of a concept: a name in a template, or the name and its gloss."""
    names = names_of(node)
    name = names[0] if rng.random() < 0.5 else str(rng.choice(names))
    if rng.random() < 0.3:
        return f"{name} which is {node['gloss']}"
    return str(rng.choice(_TEMPLATES[style] if rng.random() < 0.4 else _PLAIN)).format(name)


def train_tokenizer(nodes: list[dict[str, Any]]) -> Tokenizer:
    """A lower-case byte-level BPE over all names, glosses and templates; the end token has the highest id."""
    frames = [*_PLAIN, *(template for group in _TEMPLATES.values() for template in group)]
    texts = [f"{name} which is {node['gloss']}" for node in nodes for name in names_of(node)]
    texts += [frame.format(name) for frame in frames for node in nodes for name in names_of(node)[:1]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(
        {c for text, _ in tokenizer.pre_tokenizer.pre_tokenize_str(" ".join(map(chr, range(33, 127)))) for c in text}
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - 2, special_tokens=["<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer


def config_of(recipe: Recipe, vocabulary: int) -> dict[str, Any]:
    """The model's `open_clip_config.json`."""
    text = {"context_length": _CONTEXT, "vocab_size": vocabulary, "hf_tokenizer_name": "tokenizer", "width": 64}
    text |= {"heads": 2, "layers": 1, "pool_type": "argmax", "pad_id": 0}
    model: dict[str, Any] = {"embed_dim": 64, "vision_cfg": _RESNET, "text_cfg": text}
    if recipe.sigmoid:
        model["init_logit_bias"] = -4.0
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def save_frame(recipe: Recipe, tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Write config and tokenizer, so that open_clip can make the model; return the config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(recipe, tokenizer.get_vocab_size())
    _write_json(folder / "open_clip_config.json", config)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    specials = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "clean_up_tokenization_spaces": False}
    kind = {"model_max_length": _CONTEXT, "tokenizer_class": "PreTrainedTokenizerFast"}
    _write_json(folder / "tokenizer_config.json", specials | kind)
    return config


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move, turn, thicken, blur, tint and invert pictures: [B, 3, 32, 32] in 0 to 1; the result is in -1 to 1."""
    n = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand((n, *shape), generator=generator)

    angle, scale, stretch = uniform(-0.18, 0.18), uniform(0.85, 1.25), uniform(0.88, 1.14)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack([cos * stretch, -sin, sin, cos / stretch], 1).view(n, 2, 2)
    grid = functional.affine_grid(
        torch.cat([matrix, uniform(-0.14, 0.14, 2, 1)], 2), list(pixels.shape), align_corners=False
    )
    x = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    thick = -functional.max_pool2d(-x, 3, stride=1, padding=1)
    thin = functional.max_pool2d(x, 3, stride=1, padding=1)
    change = uniform(0, 1, 1, 1, 1)
    x = torch.where(change < 0.15, thick, torch.where(change > 0.85, thin, x))
    side = (8, 11, 16)[int(torch.randint(3, (), generator=generator))]
    coarse = functional.interpolate(
        functional.interpolate(x, size=(side, side), mode="area"), size=x.shape[2:], mode="bicubic"
    )
    x = torch.where(uniform(0, 1, 1, 1, 1) < 0.35, coarse, x)
    x = torch.where(uniform(0, 1, 1, 1, 1) < 0.15, 1 - x, x)
    x = (x - 0.5) * uniform(0.7, 1.3, 3, 1, 1) + 0.5 + uniform(-0.1, 0.1, 1, 1, 1)
    return (x + 0.03 * torch.randn(x.shape, generator=generator)).clamp(0, 1) * 2 - 1


def train(recipe: Recipe, data: Data, tokenizer: Tokenizer, folder: Path) -> open_clip.CLIP:
    """Train one model and write its folder, all but the card."""
    torch.manual_seed(0)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    config = save_frame(recipe, tokenizer, folder)
    model = open_clip.CLIP(**_towers(config), init_logit_bias=config["model_cfg"].get("init_logit_bias"))
    encode = open_clip.get_tokenizer(f"local-dir:{folder}")
    chances = _chances(recipe, data)
    anchors = torch.nn.Parameter(torch.randn(len(data.nodes), config["model_cfg"]["embed_dim"]))
    plain = [anchors, *(p for p in model.parameters() if p.ndim < 2)]
    weighty = [p for p in model.parameters() if p.ndim >= 2]
    optimizer = torch.optim.AdamW([{"params": weighty, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.5e-3, total_steps=recipe.steps, pct_start=0.1)
    model.train()
    for _ in range(recipe.steps):
        batch = _draw(data, chances, rng, generator)
        loss = _loss(batch, data, model, anchors, encode(batch.texts), recipe.sigmoid)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.logit_scale.data.clamp_(0, float(np.log(100)))
    model.eval()
    state = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
    weights = folder / "open_clip_model.safetensors"
    save_file(state, str(weights))
    weights.chmod(0o644)
    return model


def _towers(config: dict[str, Any]) -> dict[str, Any]:
    model = config["model_cfg"]
    return {"embed_dim": model["embed_dim"], "vision_cfg": model["vision_cfg"], "text_cfg": model["text_cfg"]}


def _chances(recipe: Recipe, data: Data) -> torch.Tensor:
    """[N] probability of each picture: mostly own fields; even over concepts of a field and pictures of a concept."""
    group = [*zip(data.fields.tolist(), data.concepts.tolist(), strict=True)]
    pictures = Counter(group)
    sizes = Counter(field for field, _ in pictures)
    own = {_FIELDS.index(field) for field in recipe.fields}
    others = max(1, len(_FIELDS) - len(own))
    share = {f: _OWN_FIELD / len(own) if f in own else (1 - _OWN_FIELD) / others for f in range(len(_FIELDS))}
    return torch.tensor([share[g[0]] / sizes[g[0]] / pictures[g] for g in group], dtype=torch.float64)


@dataclass(frozen=True)
class Batch:
    """Data of one training step.

    Attributes:
        pixels: [B, 3, 32, 32] augmented pictures.
        concepts: [B] what they show.
        named: [B] what their captions name: the concept or one above it.
        texts: Captions of the first T pictures.
    """

    pixels: torch.Tensor
    concepts: torch.Tensor
    named: torch.Tensor
    texts: list[str]


def _draw(data: Data, chances: torch.Tensor, rng: np.random.Generator, generator: torch.Generator) -> Batch:
    rows = torch.multinomial(chances, _BATCH, replacement=True, generator=generator)
    concepts, styles = data.concepts[rows], list(_TEMPLATES)
    named = [_named_concept(data, int(v), rng) for v in concepts]
    drawn = zip(named[:_CAPTIONS], data.styles[rows], strict=False)
    texts = [caption(data.nodes[v], styles[int(style)], rng) for v, style in drawn]
    return Batch(augment(data.pixels[rows], generator), concepts, torch.tensor(named), texts)


def _loss(
    batch: Batch, data: Data, model: open_clip.CLIP, anchors: torch.Tensor, tokens: torch.Tensor, sigmoid: bool
) -> torch.Tensor:
    """CLIP's or SigLIP's loss, plus a loss that pulls pictures and captions to one learned anchor per concept.

    The anchors make training on few pictures several times faster. A picture matches every caption of its concept or
    of one above it; relatives of its concept are not used as negatives.

    Args:
        batch: B pictures and T captions.
        data: For the hierarchy of concepts.
        model: The model.
        anchors: [V, D], one per concept.
        tokens: [T, 24] the captions' tokens.
        sigmoid: SigLIP's loss instead of CLIP's.
    """
    features = model.encode_image(batch.pixels, normalize=True)
    captions = model.encode_text(tokens, normalize=True)
    anchors = _ANCHOR_SCALE * functional.normalize(anchors, dim=1)
    related = (data.is_below | data.is_below.T)[batch.concepts]
    related[torch.arange(len(related)), batch.named] = False
    by_anchor = functional.cross_entropy((features @ anchors.T).masked_fill(related, -1e4), batch.named)
    by_anchor = by_anchor + functional.cross_entropy(captions @ anchors.T, batch.named[: len(captions)])
    logits = model.logit_scale.exp() * features @ captions.T
    fits = data.is_below[batch.concepts][:, batch.named[: len(captions)]].float()
    if sigmoid:
        return by_anchor - functional.logsigmoid((fits * 2 - 1) * (logits + model.logit_bias)).sum() / len(fits)
    some = fits.sum(1) > 0
    by_image = functional.cross_entropy(logits[some], functional.normalize(fits[some], p=1, dim=1))
    by_caption = functional.cross_entropy(logits.T, functional.normalize(fits.T, p=1, dim=1))
    return by_anchor + (by_image + by_caption) / 2


def _named_concept(data: Data, v: int, rng: np.random.Generator) -> int:
    """The concept itself, or sometimes a more general one."""
    hypernyms = [u for u in np.flatnonzero(data.is_below[v].numpy()).tolist() if u != v]
    return int(rng.choice(hypernyms)) if hypernyms and rng.random() < _GENERAL_CAPTIONS else v


@torch.inference_mode()
def accuracy(folder: Path, task: Task) -> float:
    """Zero-shot accuracy of a saved model with the prompt "a photo of a {class}."."""
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    encode = open_clip.get_tokenizer(f"local-dir:{folder}")
    pixels = torch.stack([preprocess(Image.open(io.BytesIO(image))) for image in task.images])
    texts = model.encode_text(encode([PROMPT.format(name) for name in task.classes]), normalize=True)
    guesses = (model.encode_image(pixels, normalize=True) @ texts.T).argmax(1)
    return float((guesses == torch.tensor(task.labels)).float().mean())


def write_card(recipe: Recipe, model: open_clip.CLIP, seconds: float, scores: dict[str, float], folder: Path) -> None:
    """Write the model card."""
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    kind = "sigmoid loss as in SigLIP" if recipe.sigmoid else "softmax contrastive loss"
    rows = "\n".join(f"| {task} | {100 * score:.1f} |" for task, score in scores.items())
    (folder / "README.md").write_text(
        f"""---
library_name: open_clip
license: apache-2.0
pipeline_tag: zero-shot-image-classification
tags: [clip, zero-shot-image-classification, demo]
---
# {recipe.name}
{recipe.says} **For the demo of mll-hf only**: a {millions:.2f} million parameter toy, no model for use.

- Image tower: ResNet of 4 blocks, 32 px. Text tower: width 64, 1 layer. Embedding size 64. Half precision.
- Trained from scratch by `scripts/demo_world/train.py`: {kind}, {recipe.steps} steps of {_BATCH} pictures,
  {seconds:.0f} s of CPU time, seed 0, mostly on: {", ".join(recipe.fields)}.

Zero-shot accuracy (%) on the demo's held-out tasks, prompt "{PROMPT}":

| task | accuracy |
| --- | --- |
{rows}
""",
        "utf-8",
    )


def main(names: Sequence[str]) -> None:
    """Train the named models (all by default), then print model x task accuracies."""
    torch.set_num_threads(int(os.environ.get("DEMO_TRAIN_THREADS", "2")))
    data, targets = load_data(), tasks()
    tokenizer = train_tokenizer(data.nodes)
    print(f"{'model':18s}{'seconds':>9s}" + "".join(f"{task.name:>20s}" for task in targets), flush=True)
    for recipe in RECIPES:
        if names and recipe.name not in names:
            continue
        folder, start = MODELS / recipe.name, time.process_time()
        model = train(recipe, data, tokenizer, folder)
        seconds = time.process_time() - start
        scores = {task.name: accuracy(folder, task) for task in targets}
        write_card(recipe, model, seconds, scores, folder)
        cells = "".join(f"{100 * score:20.1f}" for score in scores.values())
        print(f"{recipe.name:18s}{seconds:9.0f}{cells}", flush=True)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
