"""Speed of importing and selecting, and of labeling and ensembles compared with bare loops.

Models are open_clip architectures with random weights: the speed does not depend on the weights, and nothing is
downloaded. Images are JPEGs of ImageNet's size. ``scripts/run_benchmark.py speed`` runs it.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmark.synthetic import IMAGES_PER_CONCEPT, RandomEncoder, make_descriptions, make_graph, make_labels
from mll_hf.graph.probes import ProbeSet, load_probes
from mll_hf.labels.join import join_labels
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.selection import Candidates, Selection, SelectionConfig, Strategy, select
from mll_hf.selection.candidates import SelectedModel
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.models import VisionLanguageModel

SPEED_HEAD = ("model", "bare tower", "labeling", "labeling / bare")
CLASSES = ("red", "old", "small", "wet", "round", "cat", "dog", "tree", "car", "boat")
_TINY = {  # the architecture "tiny", which is not one of open_clip's own
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "layers": 1, "width": 32, "heads": 2},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the part ``speed``."""
    parser.add_argument(
        "--models", default="ViT-B-32", metavar="NAMES", help="open_clip architectures, comma-separated"
    )
    parser.add_argument("--images", type=int, default=256, metavar="N", help="images (default: %(default)s)")
    parser.add_argument("--concepts", type=int, default=9000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--device", metavar="NAME", help="cuda, mps or cpu (default: best available device)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the figures."""
    from mll_hf.models import pick_device

    device, names = pick_device(args.device), args.models.split(",")
    measure_import()
    measure_selection(args.concepts, args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        graph, probes, images = make_world(Path(folder), args.concepts, args.images)
        models = [random_model(name, Path(folder) / str(n), device, n) for n, name in enumerate(names)]
        print(f"images per second, {args.images} JPEGs, {args.concepts} concepts, device {device}", flush=True)
        rows = [
            speed_row(name, labeling_speed(model, graph, probes, args.repeats))
            for name, model in zip(names, models, strict=True)
        ]
        print(table(SPEED_HEAD, rows), flush=True)
        bare, ours = ensemble_speed(models, images, args.repeats)
    print(f"ensemble of {args.models}: {ours:.4g}, bare loops over its models {bare:.4g}, ratio {ours / bare:.2f}")


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def medians(loops: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each loop; loops are interleaved, so that a slow phase of the machine affects all."""
    loops[0]()  # a GPU's first batch is slow
    return [
        statistics.median(of_loop) for of_loop in zip(*([timed(x) for x in loops] for _ in range(repeats)), strict=True)
    ]


def measure_import() -> None:
    """Print the seconds to import the package in a new interpreter, and whether torch was imported."""
    code = "import time, sys; t = time.time(); import mll_hf; print(time.time() - t, 'torch' in sys.modules)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    seconds, torch_loaded = zip(*(run.stdout.split() for run in runs), strict=True)
    print(f"import mll_hf: {statistics.median(map(float, seconds)):.3f} s, torch imported: {torch_loaded[0]}")


def measure_selection(n_concepts: int, repeats: int) -> None:
    """Print the time to select 3 models for 100 classes, with matching but without text encoding."""
    graph, descriptions = make_graph(n_concepts), make_descriptions(100)
    index = ConceptIndex.build(graph, RandomEncoder())
    for n_labels in (50, 1000):
        labels = make_labels(graph, n_labels)

        def choose() -> Selection:
            return select(Candidates(join_labels(labels, [graph]), index.match(descriptions)), SelectionConfig(k=3))  # noqa: B023

        (seconds,) = medians([choose], repeats)
        print(f"select 3 of {n_labels} labels, 100 classes, {n_concepts} concepts: {1000 * seconds:.0f} ms", flush=True)


# --- labeling ---------------------------------------------------------------------------------------------------------


def speed_row(name: str, speeds: tuple[float, float]) -> list[str]:
    """A row under `SPEED_HEAD`."""
    bare, ours = speeds
    return [name, f"{bare:.4g}", f"{ours:.4g}", f"{ours / bare:.2f}"]


def labeling_speed(
    model: VisionLanguageModel, graph: SemanticGraph, probes: ProbeSet, repeats: int
) -> tuple[float, float]:
    """Images per second of the image tower alone, and of labeling from files to counts."""
    from mll_hf.labeling.contest import Contest
    from mll_hf.labeling.encoding import embedded

    concepts = unit(np.random.default_rng(0).standard_normal((len(graph), model.embedding_size)))
    batch_size = min(model.batch_size, len(probes))

    def ours() -> None:
        images = np.concatenate(list(embedded(model, probes.iter_image_bytes(batch_size))))
        Contest(graph, probes, concepts, model.logit_scale, model.device).count(images)

    bare_seconds, seconds = medians([bare_tower(model, batch_size, len(probes)), ours], repeats)
    return len(probes) / bare_seconds, len(probes) / seconds


def bare_tower(model: VisionLanguageModel, batch_size: int, n_images: int) -> Callable[[], None]:
    """The image tower alone, in the model's precision, on pixels that are already on the device."""
    import torch

    pixels = model.preprocess(Image.new("RGB", (500, 375), "gray")).to(model.device).repeat(batch_size, 1, 1, 1)
    kind, half = model.device.partition(":")[0], model.dtype != "float32"

    def loop() -> None:
        with torch.inference_mode(), torch.autocast(kind, getattr(torch, model.dtype) if half else None, enabled=half):
            for first in range(0, n_images, batch_size):
                model._image_features(pixels[: n_images - first])
            if kind == "cuda":
                torch.cuda.synchronize(model.device)

    return loop


# --- ensembles --------------------------------------------------------------------------------------------------------


def ensemble_speed(models: Sequence[VisionLanguageModel], images: list[bytes], repeats: int) -> tuple[float, float]:
    """Images per second of bare loops over loaded models, one after the other, and of their ensemble."""
    from mll_hf.ensemble.run import Ensemble

    texts = [model.encode_texts([f"a photo of a {name}." for name in CLASSES]) for model in models]

    def bare() -> None:
        for model, of_model in zip(models, texts, strict=True):
            bare_classifier(model, of_model, images)

    with closing(Ensemble(selection_of(models), models[0].device)) as ensemble:
        ensemble.predict(images[:8])  # loads its models
        bare_seconds, seconds = medians([bare, partial(ensemble.predict, images)], repeats)
    return len(images) / bare_seconds, len(images) / seconds


def bare_classifier(model: VisionLanguageModel, texts: NDArray[np.float32], images: list[bytes]) -> NDArray[Any]:
    """The obvious code for one loaded model: decode, preprocess, encode, compare with the classes."""
    import torch

    answers = []
    for first in range(0, len(images), model.batch_size):
        some = images[first : first + model.batch_size]
        pixels = torch.stack([model.preprocess(Image.open(io.BytesIO(x)).convert("RGB")) for x in some])
        answers.append((model.logit_scale * model.encode_pixels(pixels) @ texts.T + model.logit_bias).argmax(axis=1))
    return np.concatenate(answers)


def selection_of(models: Sequence[VisionLanguageModel]) -> Selection:
    """A selection in which all models are chosen for all of `CLASSES`."""
    shape = len(models), len(CLASSES)
    return Selection(
        classes=CLASSES,
        strategy=Strategy.GENERAL,
        k=len(models),
        models=tuple(SelectedModel(model.ref, model.cost, 1.0) for model in models),
        scores=np.full(shape, 0.5),
        chosen=np.ones(shape, np.bool_),
        matches=((),) * len(CLASSES),
        coverage=np.zeros(len(CLASSES)),
    )


# --- the world --------------------------------------------------------------------------------------------------------


def random_model(name: str, folder: Path, device: str, seed: int = 0) -> VisionLanguageModel:
    """An open_clip model with random weights, saved and loaded like any other."""
    import open_clip
    import safetensors.torch
    import torch

    from mll_hf.models import load_model
    from mll_hf.models.source import resolve_model

    config: Any = _TINY if name == "tiny" else open_clip.get_model_config(name)
    torch.manual_seed(seed)
    network = open_clip.CLIP(**deepcopy(config)).eval()
    preprocess = {"size": network.visual.image_size, "mean": open_clip.OPENAI_DATASET_MEAN}
    preprocess["std"] = open_clip.OPENAI_DATASET_STD
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    return load_model(resolve_model(f"local-dir:{folder}"), device)


def make_world(folder: Path, n_concepts: int, n_images: int) -> tuple[SemanticGraph, ProbeSet, list[bytes]]:
    """A graph, JPEGs of its leaves on disk, and the same JPEGs; smooth noise compresses about as well as photos."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    graph, rng, images = make_graph(n_concepts), np.random.default_rng(0), list[bytes]()
    for _ in range(n_images):
        small = Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
        content = io.BytesIO()
        small.resize((500, 375), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
        images.append(content.getvalue())
    nodes = [graph.concepts[v].id for v in rng.integers(n_concepts // 2, n_concepts, n_images)]
    rows = {"image": images, "node": nodes, "style": ["photo"] * n_images}
    pq.write_table(pa.table(rows), folder / "images.parquet", row_group_size=100)
    return graph, load_probes(graph, folder, IMAGES_PER_CONCEPT), images


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows scaled to unit norm, float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
