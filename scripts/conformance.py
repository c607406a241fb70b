#!/usr/bin/env python3
"""Compare our backends with the libraries that they use, on every image-text architecture of those libraries.

    scripts/conformance.py > scripts/benchmark/results/conformance.md

Builds a tiny model of each architecture, with random weights, in the Hub's file layout; embeds images and texts with
mll_hf and with open_clip itself, or transformers' pipeline for zero-shot image classification.
Prints a Markdown table with the largest difference of each architecture, or the reason why it is refused. Needs
no network and no GPU; takes a minute.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import open_clip
import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES

import tiny_architectures as tiny
from mll_hf.errors import ModelError
from mll_hf.models import load_model
from mll_hf.models.source import resolve_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mll_hf.models import VisionLanguageModel

    Outputs = dict[str, NDArray[np.float32]]

TEXTS = ["a photo of a Cat.", "DOG", "a small, red car: which is round; the icon of a tree", "an unheard-of_thing!"]
# for SigLIP; transformers' tokenizer of SigLIP 2 does not canonicalize texts
CANONICAL_TEXTS = ["a photo of a cat", "dog", "a small red car which is round the icon of a tree", "an unheardof thing"]
TOLERANCE = 1e-5


def images() -> list[Image.Image]:
    """Three images of nine colored spots; their proportions differ."""
    random = np.random.default_rng(0)
    spots = [Image.fromarray(random.integers(0, 256, (3, 3, 3), np.uint8)) for _ in range(3)]
    return [
        image.resize((width, 50), Image.Resampling.BICUBIC) for image, width in zip(spots, (40, 50, 90), strict=True)
    ]


def load(folder: Path) -> VisionLanguageModel:
    """The model of a folder, loaded by mll_hf."""
    return load_model(resolve_model(f"local-dir:{folder}"), "cpu")


def outputs(model: VisionLanguageModel) -> Outputs:
    """Outputs of a model for the images and `TEXTS`: embeddings, logits, probabilities."""
    image_embeddings = np.concatenate([model.encode_pixels(model.preprocess(image)[None]) for image in images()])
    text_embeddings = model.encode_texts(TEXTS)
    return _with_logits(image_embeddings, text_embeddings, model.logit_scale, model.logit_bias)


def _with_logits(images: NDArray[np.float32], texts: NDArray[np.float32], scale: float, bias: float) -> Outputs:
    logits = torch.from_numpy(scale * images @ texts.T + bias)
    probabilities = logits.sigmoid() if bias else logits.softmax(dim=1)
    return {"images": images, "texts": texts, "logits": logits.numpy(), "probabilities": probabilities.numpy()}


def open_clip_outputs(folder: Path) -> Outputs:
    """The same outputs of open_clip itself."""
    network, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    text_config = open_clip.get_model_config(f"local-dir:{folder}")["text_cfg"]
    if "hf_tokenizer_name" in text_config:
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    else:
        tokens = open_clip.tokenize(TEXTS, text_config["context_length"])
    with torch.no_grad():
        network.eval()
        pixels = torch.stack([transform(image) for image in images()])
        image_embeddings = network.encode_image(pixels, normalize=True).numpy()
        text_embeddings = network.encode_text(tokens, normalize=True).numpy()
        bias = 0.0 if network.logit_bias is None else float(network.logit_bias)
        return _with_logits(image_embeddings, text_embeddings, float(network.logit_scale.exp()), bias)


def pipeline_outputs(folder: Path) -> Outputs:
    """Logits and probabilities of transformers' pipeline, with the image processor that works as in training."""
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    pipeline = transformers.pipeline(
        "zero-shot-image-classification", str(folder), image_processor=processor, device="cpu"
    )
    texts = CANONICAL_TEXTS if "siglip" in pipeline.model.config.model_type else TEXTS
    logits, probabilities = [], []
    for image in images():
        answer = pipeline.forward(pipeline.preprocess(image, texts, hypothesis_template="{}"))
        logits.append(answer["logits"][0].numpy())
        scores = {entry["label"]: entry["score"] for entry in pipeline.postprocess(answer)}
        probabilities.append([scores[text] for text in texts])
    return {"logits": np.stack(logits), "probabilities": np.array(probabilities, np.float32)}


def difference(model: VisionLanguageModel, expected: Outputs) -> float:
    """Largest difference between our outputs and those of a library; logits are compared in units of the largest."""
    ours = outputs(model)
    for what in ("images", "texts"):
        if np.ptp(ours[what], axis=0).max() < 100 * TOLERANCE:
            raise ValueError(f"all {what} have the same embedding, which proves nothing")
    gaps = {what: np.abs(ours[what] - expected[what]).max() for what in expected}
    gaps |= {what: gaps[what] / max(1.0, np.abs(expected[what]).max()) for what in gaps if what == "logits"}
    return float(max(gaps.values()))


def transformers_variants() -> list[tuple[str, str]]:
    """Types in transformers' mapping, each with a tokenizer if it is not the type's usual one, else ""."""
    variants = [(kind, "") for kind in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES]
    # SigLIP 2 with a fixed image size is of type siglip, with Gemma's tokenizer
    return [*variants, ("siglip", "gemma"), *([("siglip", "siglip")] if find_spec("sentencepiece") else [])]


def main() -> None:
    """Print the report."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    libraries = ("open_clip_torch", "timm", "transformers", "torch")
    print("# Conformance\n\nOutput of `scripts/conformance.py` with", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in libraries) + ".")
    with tempfile.TemporaryDirectory() as folder:
        _report_open_clip(Path(folder))
        _report_transformers(Path(folder))


def _report_open_clip(folder: Path) -> None:
    kinds = tiny.open_clip_kinds()
    rows = []
    with tiny.small_timm_towers():
        for config, names in kinds.items():
            path = tiny.write_open_clip(folder / names[0], json.loads(config))
            rows.append([", ".join(names), _result(path, open_clip_outputs)])
            shutil.rmtree(path)  # most contain a vocabulary of 6 MB
    print(f"\n## open_clip\n\n{sum(map(len, kinds.values()))} configs, of {len(kinds)} kinds.\n")
    _print_table(["configs", "largest difference"], rows)


def _report_transformers(folder: Path) -> None:
    classes = MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
    rows = []
    for kind, tokenizer in transformers_variants():
        path = tiny.write_transformers(folder / f"{kind}-{tokenizer}", kind, tokenizer)
        name = f"{kind}, tokenizer of {tokenizer}" if tokenizer else kind
        rows.append([name, classes[kind], _result(path, pipeline_outputs)])
    print("\n## transformers\n")
    _print_table(["type", "class", "largest difference"], rows)


def _result(folder: Path, run: Callable[[Path], Outputs]) -> str:
    try:
        model = load(folder)
    except ModelError as error:
        return "refused: " + str(error).partition("': ")[2]
    found = difference(model, run(folder))
    return f"{found:.0e}" if found < TOLERANCE else f"**{found:.0e}**"


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
