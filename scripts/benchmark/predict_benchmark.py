"""Costs of classifying images with an ensemble of three models: time over bare loops.

A bare loop is the obvious code for one loaded model: decode, preprocess, encode, compare with the embeddings of the
classes; with torch's DataLoader and its best number of worker processes.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmark.labeling_speed import save_random_model
from benchmark.timing import timed
from mll_hf.ensemble.run import Ensemble
from mll_hf.models import load_model, resolve_model
from mll_hf.selection import Figures, Selection, Strategy
from mll_hf.selection.result import SelectedModel

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray

    from mll_hf.labels.label import ModelRef
    from mll_hf.models import VisionLanguageModel

_WORDS = ("red", "old", "small", "wet", "round", "cat", "dog", "tree", "car", "boat")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the part ``predict``."""
    parser.add_argument("--models", required=True, metavar="LIST", help="local-dir:PATH or org/name, comma-separated")
    parser.add_argument(
        "--architecture", metavar="NAME", help="also measure three models of open_clip with random weights"
    )
    parser.add_argument("--images", type=int, default=300, metavar="N", help="JPEGs of 500 px (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the figures."""
    refs = [resolve_model(model) for model in args.models.split(",")]
    small, large = jpegs(100, 64, 64), jpegs(args.images, 500, 375)
    print("second predict of 100 images of 64 px, models loaded:", against_bare_loops(refs, small, args.repeats))
    print(f"ensemble, {len(large)} JPEGs of 500 px:", against_bare_loops(refs, large, args.repeats), flush=True)
    if args.architecture:
        with tempfile.TemporaryDirectory() as folder:
            save_random_model(args.architecture, Path(folder) / "0")
            for n in range(1, len(refs)):
                shutil.copytree(Path(folder) / "0", Path(folder) / str(n))
            random = [resolve_model(f"local-dir:{Path(folder) / str(n)}") for n in range(len(refs))]
            figures = against_bare_loops(random, jpegs(64, 500, 375), args.repeats)
        print(f"{len(refs)} x {args.architecture} with random weights, 64 JPEGs of 500 px:", figures, flush=True)


def selection_of(refs: Sequence[ModelRef], classes: Sequence[str]) -> Selection:
    """A selection in which all models are chosen for all classes."""
    models = []
    for ref in refs:
        model = load_model(ref, "cpu")
        models.append(SelectedModel(ref, model.cost, 1.0, 0.5, Figures.OVERALL))
        model.close()
    shape = (len(models), len(classes))
    return Selection(
        classes=tuple(classes),
        strategy=Strategy.GENERAL,
        k=len(models),
        models=tuple(models),
        scores=np.full(shape, 0.5),
        chosen=np.ones(shape, np.bool_),
        matches=((),) * len(classes),
        coverage=np.zeros(len(classes)),
        images=np.zeros(len(classes)),
    )


def jpegs(n: int, width: int, height: int) -> list[bytes]:
    """Encoded pictures with as much detail as photos: about 60 kB at 500 x 375."""
    rng, pictures = np.random.default_rng(0), []
    for _ in range(n):
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        content = io.BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
        pictures.append(content.getvalue())
    return pictures


# --- the loops -------------------------------------------------------------------------------------------------------


def against_bare_loops(refs: Sequence[ModelRef], images: list[bytes], repeats: int) -> str:
    """Time of a loaded ensemble's predict over the sum of the bare loops of its models."""
    classes = _WORDS
    ensemble = Ensemble(selection_of(refs, classes), "cpu")
    loaded = [load_model(ref, "cpu") for ref in refs]
    texts = [model.encode_texts([f"a photo of a {name}." for name in classes]) for model in loaded]
    ensemble.predict(images[:8])

    def loops(workers: int) -> None:
        for model, of_model in zip(loaded, texts, strict=True):
            bare_loop(model, of_model, images, workers)

    times: dict[int | None, list[tuple[float, float]]] = {None: [], 0: [], 1: [], 2: []}
    for _ in range(repeats):  # interleaved, so that a slow phase of the machine affects all
        for workers, of_kind in times.items():
            of_kind.append(spent(partial(ensemble.predict, images) if workers is None else partial(loops, workers)))
    found = {workers: np.median(of_kind, axis=0) for workers, of_kind in times.items()}
    ours = found.pop(None)
    best = [min(found, key=lambda workers: found[workers][kind]) for kind in (0, 1)]
    ratios = [ours[kind] / found[workers][kind] for kind, workers in enumerate(best)]
    without = f"{ours[0] / found[0][0]:.2f} of those without; {len(images) / ours[0]:.0f} images/s"
    return (
        f"{ratios[0]:.2f} of the time of the bare loops with {best[0]} workers, the best ({without}); "
        f"{ratios[1]:.2f} of the CPU time of those with {best[1]}"
    )


def spent(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call, and CPU seconds of all its threads and of its finished processes."""
    before = sum(os.times()[:4])
    seconds = timed(run)
    return seconds, sum(os.times()[:4]) - before


class _Pictures:
    """A torch dataset of encoded pictures."""

    def __init__(self, images: list[bytes], model: VisionLanguageModel) -> None:
        self._images, self._preprocess = images, model.preprocess

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, n: int) -> torch.Tensor:
        return self._preprocess(Image.open(io.BytesIO(self._images[n])).convert("RGB"))


def bare_loop(model: VisionLanguageModel, texts: NDArray[np.float32], images: list[bytes], workers: int) -> None:
    """Probabilities of all images by one loaded model."""
    from torch.utils.data import DataLoader

    for batch in DataLoader(_Pictures(images, model), batch_size=model.batch_size, num_workers=workers):
        logits = model.logit_scale * model.encode_pixels(batch) @ texts.T + model.logit_bias
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
