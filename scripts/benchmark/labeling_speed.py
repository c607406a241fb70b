"""Speed of labeling compared with the bare image tower.

Models are open_clip architectures with random weights: the speed does not depend on the weights, and nothing is
downloaded. Images are JPEGs of ImageNet's size. Both loops use the same number of images.
"""

from __future__ import annotations

import io
import json
import shutil
import statistics
import tempfile
import time
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import open_clip
import safetensors.torch
import torch
from PIL import Image

from mll_hf.graph.concepts import Concept, SemanticGraph
from mll_hf.graph.probe_counts import ProbeCounts
from mll_hf.graph.probes import ProbeSet, SamplingConfig, load_probes
from mll_hf.labeling.contest import CONTEST_BLOCK, Contest
from mll_hf.labeling.encoding import decoders_for, encoded_images
from mll_hf.models import load_model, pick_device, resolve_model
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mll_hf.labels.counts import LabelCounts
    from mll_hf.models import VisionLanguageModel
    from mll_hf.models.batches import Decoders

_PAPER_IMAGES = 75
_TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "layers": 1, "width": 32, "heads": 2},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the part ``labeling``."""
    parser.add_argument(
        "--models", default="ViT-B-32", metavar="NAMES", help="open_clip architectures, comma-separated"
    )
    parser.add_argument("--images", type=int, default=256, metavar="N", help="images (default: %(default)s)")
    parser.add_argument("--concepts", type=int, default=9000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--device", metavar="NAME", help="cuda, mps or cpu (default: best available device)")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images per batch of labeling (default: chosen for the device)"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the figures."""
    device = pick_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        graph, probes = make_world(Path(folder), args.concepts, args.images)
        print(f"{len(probes)} JPEGs, {len(graph)} concepts, device {device}")
        print("images per second, medians of", args.repeats, flush=True)
        rows = []
        for name in args.models.split(","):
            model = random_model(name, Path(folder) / name, device)
            rows.append(speed_row(name, speeds(model, graph, probes, args.batch_size, args.repeats)))
            model.close()
            shutil.rmtree(Path(folder) / name)  # up to 4 GB
    print(table(SPEED_HEAD, rows))
    print(contest_line(measure_contest(args.concepts, device)))


SPEED_HEAD = ["model", "bare tower", "labeling", "labeling / bare"]


def speed_row(name: str, speed: dict[str, float]) -> list[str]:
    """A row under `SPEED_HEAD`."""
    return [name, f"{speed['bare']:.4g}", f"{speed['ours']:.4g}", f"{speed['ours'] / speed['bare']:.2f}"]


def speeds(
    model: VisionLanguageModel, graph: SemanticGraph, probes: ProbeSet, batch_size: int | None, repeats: int
) -> dict[str, float]:
    """Images per second of each loop, the median of some repeats."""
    concepts = unit(np.random.default_rng(0).standard_normal((len(graph), model.embedding_size)))
    batch_size = min(batch_size or model.batch_size, len(probes))
    times: dict[str, list[float]] = {}
    with closing(decoders_for(model)) as decoders:  # a real run starts them once, for many more images
        loops: dict[str, Callable[[], object]] = {
            "bare": bare_loop(model, batch_size, len(probes)),
            "ours": lambda: our_loop(model, graph, probes, concepts, batch_size, decoders),
        }
        loops["bare"]()  # a GPU's first batch is slow
        for _ in range(repeats):  # interleaved, so that a slow phase of the machine affects all loops
            for name, loop in loops.items():
                start = time.perf_counter()
                loop()
                times.setdefault(name, []).append(time.perf_counter() - start)
    return {name: len(probes) / statistics.median(seconds) for name, seconds in times.items()}


# --- the loops --------------------------------------------------------------------------------------------------------


def bare_loop(model: VisionLanguageModel, batch_size: int, n_images: int) -> Callable[[], None]:
    """The image tower alone, in the model's precision, on pixels that are already on the device."""
    network: Any = model
    pixels = model.preprocess(Image.new("RGB", (500, 375), "gray")).to(model.device).repeat(batch_size, 1, 1, 1)
    device = torch.device(model.device)

    def loop() -> None:
        with torch.inference_mode(), _precision(model):
            for first in range(0, n_images, batch_size):
                network._image_features(pixels[: n_images - first])
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    return loop


def our_loop(
    model: VisionLanguageModel,
    graph: SemanticGraph,
    probes: ProbeSet,
    concepts: NDArray[np.float32],
    batch_size: int,
    decoders: Decoders[bytes | None] | None = None,
) -> LabelCounts:
    """Labeling: read, decode, preprocess, embed and contest each image."""
    batches = encoded_images(model, probes, np.arange(len(probes)), batch_size, decoders)
    images = np.concatenate([embeddings for _, embeddings in batches])
    blocks = ((first, images[first : first + CONTEST_BLOCK]) for first in range(0, len(images), CONTEST_BLOCK))
    return Contest(graph, probes, concepts, model.logit_scale, model.device).count(blocks)


def _precision(model: VisionLanguageModel) -> torch.autocast:
    half = model.dtype != "float32"
    return torch.autocast(model.device.partition(":")[0], getattr(torch, model.dtype) if half else None, enabled=half)


# --- the contest ----------------------------------------------------------------------------------------


def measure_contest(n_concepts: int, device: str, n_images: int = 4 * CONTEST_BLOCK) -> dict[str, float]:
    """Tests per second of the contest, and on a GPU its peak bytes."""
    graph, probes = _in_memory(n_concepts, n_images)
    rng = np.random.default_rng(0)
    concepts = unit(rng.standard_normal((n_concepts, 512)))
    images = unit(concepts[probes.nodes] + rng.standard_normal((n_images, 512)) / 20)
    blocks = [(first, images[first : first + CONTEST_BLOCK]) for first in range(0, n_images, CONTEST_BLOCK)]
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    Contest(graph, probes, concepts, 100.0, device).count(blocks)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) - before if on_gpu else 0
    tests = len(probes.members)
    return {
        "concepts": n_concepts, "images": n_images, "tests": tests, "tests/s": tests / seconds, "peak bytes": peak
    }  # fmt: skip


def contest_line(contest: dict[str, float]) -> str:
    """The result of `measure_contest` in one line."""
    peak = f", peak of tensors {contest['peak bytes'] / 1e9:.2f} GB" if contest["peak bytes"] else ""
    return (
        f"contest of {contest['concepts']} concepts: {contest['tests']} tests of {contest['images']} images, "
        f"{contest['tests/s']:.0f} tests/s{peak}"
    )


# --- the world --------------------------------------------------------------------------------------------------------


def random_model(name: str, folder: Path, device: str, seed: int = 0) -> VisionLanguageModel:
    """An open_clip model with random weights, saved and loaded like any other."""
    save_random_model(name, folder, seed)
    return load_model(resolve_model(f"local-dir:{folder}"), device)


def save_random_model(name: str, folder: Path, seed: int = 0) -> None:
    """Save an open_clip model with random weights; ``tiny`` is not one of open_clip's own."""
    config: Any = _TINY if name == "tiny" else open_clip.get_model_config(name)
    torch.manual_seed(seed)
    network = open_clip.CLIP(**deepcopy(config)).eval()
    folder.mkdir()
    preprocess = {
        "size": network.visual.image_size,
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")


def make_world(folder: Path, n_concepts: int, n_images: int) -> tuple[SemanticGraph, ProbeSet]:
    """A graph, and JPEGs of its leaves on disk; smooth noise compresses about as well as photos."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    graph, probes = _in_memory(n_concepts, n_images)
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(n_images):
        small = Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
        stream = io.BytesIO()
        small.resize((500, 375), Image.Resampling.BICUBIC).save(stream, format="JPEG", quality=90)
        contents.append(stream.getvalue())
    rows = {"image": contents, "node": [graph.concepts[v].id for v in probes.nodes], "style": ["photo"] * n_images}
    pq.write_table(pa.table(rows), folder / "images.parquet", row_group_size=100)
    return graph, load_probes(graph, folder, SamplingConfig(_PAPER_IMAGES))


def _in_memory(n_concepts: int, n_images: int) -> tuple[SemanticGraph, ProbeSet]:
    """A tree of concepts with four children each, and images of its leaves."""
    concepts = [
        Concept(f"c{n:05}", f"thing {n}", (f"thing {n}",), "", (f"c{(n - 1) // 4:05}",) if n else ())
        for n in range(n_concepts)
    ]
    graph = SemanticGraph("benchmark", tuple(concepts))
    nodes = np.random.default_rng(0).integers(n_concepts // 4, n_concepts, n_images).astype(np.int32)
    members: list[list[int]] = [[] for _ in concepts]
    for image, node in enumerate(nodes.tolist()):
        for v in (node, *graph.ancestors[node].tolist()):
            if len(members[v]) < _PAPER_IMAGES:
                members[v].append(image)
    probes = ProbeSet(
        graph_location="benchmark",
        counts=ProbeCounts("benchmark", (), (), {}),
        sampling=SamplingConfig(_PAPER_IMAGES),
        files=(),
        rows=np.arange(n_images),
        nodes=nodes,
        domains=np.zeros(n_images, np.int16),
        domain_names=("photo",),
        offsets=np.cumsum([0, *map(len, members)]),
        members=np.array([image for images in members for image in images], np.int64),
    )
    return graph, probes


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows scaled to unit norm, float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
