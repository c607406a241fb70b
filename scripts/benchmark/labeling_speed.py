"""Speed of labeling compared with the bare image tower, CLIP_benchmark, and the loop in the paper's code.

Models are open_clip architectures with random weights: the speed does not depend on the weights, and nothing is
downloaded. Images are JPEGs of ImageNet's size. All loops use the same images and the same caption embeddings.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import statistics
import tempfile
import time
from contextlib import closing, nullcontext
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
from mll_hf.labeling.run import label_from_counts
from mll_hf.labels.file_format import label_to_bytes
from mll_hf.labels.label import Cost, Environment, ModelRef
from mll_hf.models import load_model, pick_device, resolve_model
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.counts import LabelCounts
    from mll_hf.models import VisionLanguageModel
    from mll_hf.models.batches import Decoders

PAPER_CONCEPTS = 9055  # and 75 images each: 12.3 GB of similarities in half precision
_PAPER_IMAGES = 75
_REFERENCE_BATCH = 32
_TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "layers": 1, "width": 32, "heads": 2},
}
_CLIP_BENCHMARK_BATCH, _CLIP_BENCHMARK_WORKERS = 64, 4  # its defaults


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
        print(f"{len(probes)} JPEGs of {_mean_kilobytes(probes):.0f} kB, {len(graph)} concepts, device {device}")
        print("images per second, medians of", args.repeats, flush=True)
        rows = []
        for name in args.models.split(","):
            model = random_model(name, Path(folder) / name, device)
            rows.append(speed_row(name, speeds(model, graph, probes, args.batch_size, args.repeats)))
            model.close()
            shutil.rmtree(Path(folder) / name)  # up to 4 GB
    print(table(SPEED_HEAD, rows))
    print(contest_line(measure_contest(args.concepts, device)))
    measure_label(args.concepts)


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
            "paper": lambda: reference_loop(model, probes, concepts),
        }
        if importlib.util.find_spec("clip_benchmark"):
            loops["clip_benchmark"] = lambda: clip_benchmark_loop(model, probes, concepts)
        loops["bare"]()  # a GPU's first batch is slow
        for _ in range(repeats):  # interleaved, so that a slow phase of the machine affects all loops
            for name, loop in loops.items():
                start = time.perf_counter()
                loop()
                times.setdefault(name, []).append(time.perf_counter() - start)
    return {name: len(probes) / statistics.median(seconds) for name, seconds in times.items()}


SPEED_HEAD = ["model", "bare tower", "labeling", "/ bare", "CLIP_benchmark", "ours /", "paper's code", "ours /"]


def speed_row(name: str, speed: dict[str, float]) -> list[str]:
    """A row under `SPEED_HEAD`."""
    theirs = speed.get("clip_benchmark")
    return [
        name,
        f"{speed['bare']:.4g}",
        f"{speed['ours']:.4g}",
        f"{speed['ours'] / speed['bare']:.2f}",
        *([f"{theirs:.4g}", f"{speed['ours'] / theirs:.2f}"] if theirs else ["not installed", "-"]),
        f"{speed['paper']:.4g}",
        f"{speed['ours'] / speed['paper']:.2f}",
    ]


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


def reference_loop(model: VisionLanguageModel, probes: ProbeSet, concepts: NDArray[np.float32]) -> list[list[float]]:
    """The paper's code: batches of 32 images, and the similarities of each image as a Python list."""
    network: Any = model
    device = torch.device(model.device)
    texts = torch.from_numpy(concepts).to(device)
    similarities: list[list[float]] = []
    with torch.no_grad(), _precision(model):
        for batch in pixels(model, probes, _REFERENCE_BATCH, 0):
            features = network._image_features(batch.to(device))
            features = features / features.norm(dim=-1, keepdim=True)
            for row in 100.0 * features.float() @ texts.T:
                similarities.append(row.cpu().tolist())
    return similarities


def _precision(model: VisionLanguageModel) -> torch.autocast:
    half = model.dtype != "float32"
    return torch.autocast(model.device.partition(":")[0], getattr(torch, model.dtype) if half else None, enabled=half)


def clip_benchmark_loop(model: VisionLanguageModel, probes: ProbeSet, concepts: NDArray[np.float32]) -> torch.Tensor:
    """CLIP_benchmark's evaluation of the same images and classes, as its command line runs it."""
    from clip_benchmark.metrics.zeroshot_classification import run_classification

    network: Any = model
    device = torch.device(model.device).type
    classifier = torch.from_numpy(concepts).to(model.device).T
    amp = device == "cuda"  # on a CPU it would use bfloat16, which is slower on most
    batches = (
        (batch, torch.zeros(len(batch), dtype=torch.long))
        for batch in pixels(model, probes, _CLIP_BENCHMARK_BATCH, _CLIP_BENCHMARK_WORKERS)
    )
    return run_classification(network._network, classifier, batches, device, amp)[0]


def pixels(model: VisionLanguageModel, probes: ProbeSet, batch_size: int, workers: int) -> Iterator[torch.Tensor]:
    """Images decoded and preprocessed by torch's DataLoader, in batches on the CPU."""
    contents = [content or b"" for batch in probes.iter_image_bytes(256) for content in batch]
    loader: Any = torch.utils.data.DataLoader(_Pixels(model, contents), batch_size=batch_size, num_workers=workers)
    yield from loader


class _Pixels(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, model: VisionLanguageModel, contents: Sequence[bytes]) -> None:
        self._model, self._contents = model, contents

    def __len__(self) -> int:
        return len(self._contents)

    def __getitem__(self, n: int) -> torch.Tensor:
        return self._model.preprocess(Image.open(io.BytesIO(self._contents[n])))


# --- the contest and the label ----------------------------------------------------------------------------------------


def measure_contest(n_concepts: int, device: str, n_images: int = 4 * CONTEST_BLOCK) -> dict[str, float]:
    """Tests per second and peak bytes of the contest; on a CPU torch's profiler measures the tensors' memory."""
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
    with nullcontext(_TensorMemory()) if on_gpu else _TensorMemory() as memory:
        Contest(graph, probes, concepts, 100.0, device).count(blocks)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) - before if on_gpu else memory.peak
    tests = len(probes.members)
    return {
        "concepts": n_concepts, "images": n_images, "tests": tests, "tests/s": tests / seconds, "peak bytes": peak
    }  # fmt: skip


def contest_line(contest: dict[str, float]) -> str:
    """The result of `measure_contest` in one line."""
    return (
        f"contest of {contest['concepts']} concepts: {contest['tests']} tests of {contest['images']} images, "
        f"{contest['tests/s']:.0f} tests/s, peak of tensors {contest['peak bytes'] / 1e9:.2f} GB"
    )


class _TensorMemory:
    """Peak memory of torch's tensors on the CPU, from the profiler's log of allocations."""

    def __init__(self) -> None:
        self.peak = 0
        self._profiler = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, record_shapes=False
        )

    def __enter__(self) -> _TensorMemory:
        self._profiler.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401
        self._profiler.__exit__(*error)
        now = 0
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            self._profiler.export_chrome_trace(str(path))
            events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
        for event in sorted(events, key=lambda e: e["ts"]):
            now += int(event["args"]["Bytes"])
            self.peak = max(self.peak, now)


def measure_label(n_concepts: int) -> None:
    """Print the size of a label, and of the data that the paper stores per model."""
    graph, probes = _in_memory(n_concepts, 2 * CONTEST_BLOCK)
    rng = np.random.default_rng(0)
    concepts, images = (unit(rng.standard_normal((n, 64))) for n in (n_concepts, len(probes)))
    counts = Contest(graph, probes, concepts, 100.0).count([(0, images)])
    ref, environment = ModelRef("org/model", "0" * 40, "open_clip"), Environment("cpu", "float32", "2.13", "3.3", "5.0")
    label = label_from_counts(ref, Cost(1, 1.0), graph, probes, counts, environment=environment)
    theirs = PAPER_CONCEPTS * _PAPER_IMAGES * PAPER_CONCEPTS * 2
    print(
        f"label of {n_concepts} concepts: {len(label_to_bytes(label)) / 1e6:.2f} MB; the paper's: {theirs / 1e9:.1f} GB"
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


def _mean_kilobytes(probes: ProbeSet) -> float:
    sizes = [len(content or b"") for batch in probes.iter_image_bytes(256) for content in batch]
    return float(np.mean(sizes)) / 1e3
