"""Check this package on a GPU: equal counts as on the CPU, speed and memory.

Models have random weights, and nothing is downloaded. Writes a Markdown and a JSON file, to be committed. The exit
status is 1 if counts differ by more than ties can explain.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmark.speed import SPEED_HEAD, ensemble_speed, labeling_speed, make_world, random_model, speed_row, unit
from command_line import script_parser
from mll_hf import __version__
from mll_hf.labeling.contest import Contest
from mll_hf.labeling.encoding import embedded
from mll_hf.models import environment_of, load_model, pick_device
from mll_hf.utils.tables import markdown_table

if TYPE_CHECKING:
    import argparse

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.counts import LabelCounts
    from mll_hf.models import VisionLanguageModel

# of a cosine: 2.5 times the largest error of four real models on a CPU; float32 is for TF32 in convolutions
TOLERANCES = {"float32": 1e-3, "float16": 4e-3, "bfloat16": 3e-2}
_SAME_EMBEDDINGS = 1e-5
_CORRECTNESS = ("model", "dtype", "batch", "contests", "ties", "recognized", "changed", "beyond ties")


def main() -> int:
    """Run all checks; returns the exit status."""
    parser = script_parser(str(__doc__))
    parser.add_argument("--models", default="ViT-B-32,ViT-L-14,ViT-H-14", metavar="NAMES", help="three architectures")
    parser.add_argument("--device", metavar="NAME", help="cuda, mps or cpu (default: best available device)")
    parser.add_argument("--images", type=int, default=4096, metavar="N", help="JPEGs for speed (default: %(default)s)")
    parser.add_argument("--compared", type=int, default=256, metavar="N", help="images that the CPU embeds too")
    parser.add_argument("--concepts", type=int, default=9000, metavar="N", help="concepts (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("scripts/benchmark/results/gpu"), metavar="FOLDER")
    args = parser.parse_args()
    device = pick_device(args.device)
    found: dict[str, Any] = {"machine": machine(device), "arguments": {**vars(args), "out": None}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found |= model_checks(args, device, folder, *make_world(folder, args.concepts, args.images))
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / re.sub(r"\W+", "-", found["machine"]["device"]).strip("-").lower()
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(report(found))
    print(report(found))
    return int(any(row["beyond ties"] for row in found["correctness"]))


def model_checks(
    args: argparse.Namespace,
    device: str,
    folder: Path,
    graph: SemanticGraph,
    probes: ProbeSet,
    images: list[bytes],
) -> dict[str, Any]:
    """All checks that need models; their weights are on disk, for the ensemble."""
    names = args.models.split(",")
    models = [random_model(name, folder / str(n), device, seed=n) for n, name in enumerate(names)]
    found: dict[str, Any] = {"correctness": [], "speed": []}
    for name, model in zip(names, models, strict=True):
        found["correctness"] += compare(name, model, graph, probes, args.compared)
        found["speed"].append((name, labeling_speed(model, graph, probes, args.repeats)))
    found["ensemble"] = ensemble_speed(models, images, args.repeats)
    on_gpu = device.startswith("cuda")
    found["peak bytes"] = torch.cuda.max_memory_allocated(device) if on_gpu else None
    for model in models:
        model.close()
    return found


def machine(device: str) -> dict[str, Any]:
    """Facts about the machine and versions."""
    on_gpu = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device} {platform.machine()}",
        "devices": torch.cuda.device_count() if on_gpu else 1,
        "bytes": torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "mll_hf": __version__,
    }


# --- counts -----------------------------------------------------------------------------------------------------------


def compare(
    name: str, model: VisionLanguageModel, graph: SemanticGraph, probes: ProbeSet, n_images: int
) -> list[dict[str, Any]]:
    """Compare the device's counts with the CPU's: from its own embeddings, and from those of the CPU."""
    on_cpu = load_model(model.ref, "cpu")
    expected_images, own_images = (embed(loaded, probes, n_images) for loaded in (on_cpu, model))
    on_cpu.close()
    concepts = concepts_near(expected_images, probes, len(graph))
    rows = []
    for what, images, tolerance in (
        (f"{name}, its embeddings", own_images, TOLERANCES[model.dtype]),
        (f"{name}, the CPU's embeddings", expected_images, _SAME_EMBEDDINGS),
    ):
        expected = Contest(graph, probes, concepts, model.logit_scale).count([(0, expected_images)])
        found = Contest(graph, probes, concepts, model.logit_scale, model.device).count([(0, images)])
        ties = near_ties(graph, probes, expected_images, concepts, tolerance)
        rows.append(
            {
                "model": what,
                **asdict(environment_of(model)),
                "batch": model.batch_size,
                "greatest difference of an embedding": float(np.abs(images - expected_images).max()),
                **differences(expected, found, ties),
            }
        )
    return rows


def embed(model: VisionLanguageModel, probes: ProbeSet, n_images: int) -> NDArray[np.float32]:
    """[N, D] embeddings of the first images."""
    numbers = np.arange(min(n_images, len(probes)))
    return np.concatenate(list(embedded(model, probes.iter_image_bytes(model.batch_size, numbers))))


def concepts_near(images: NDArray[np.float32], probes: ProbeSet, n_concepts: int) -> NDArray[np.float32]:
    """[V, D] embeddings of concepts, each near an image that tests it, if there is one, so that some are recognized.

    Models with random weights embed all images nearly alike, so the mean is subtracted.
    """
    concepts = np.random.default_rng(0).standard_normal((n_concepts, images.shape[1]))
    centered = unit(images - images.mean(axis=0))
    for v in range(n_concepts):
        tests = probes.images_of(v)
        if len(tests) and tests[0] < len(images):
            concepts[v] = centered[tests[0]]
    return unit(concepts)


def near_ties(
    graph: SemanticGraph, probes: ProbeSet, images: NDArray[np.float32], concepts: NDArray[np.float32], tolerance: float
) -> NDArray[np.int64]:
    """[V] number of contests of each concept in which it and its best rival are so close that either may win."""
    ties = np.zeros(len(graph), np.int64)
    scores = images @ concepts.T
    for v in range(len(graph)):
        for x in probes.images_of(v):
            if x >= len(images):
                break
            node = probes.nodes[x]
            rivals = scores[x].copy()
            for no_rivals in ([v, node], graph.ancestors[v], graph.descendants[v], graph.ancestors[node]):
                rivals[no_rivals] = -np.inf
            ties[v] += abs(scores[x, v] - rivals.max()) <= 2 * tolerance
    return ties


def differences(expected: LabelCounts, found: LabelCounts, ties: NDArray[np.int64]) -> dict[str, int]:
    """Number of contests with a different result, and of those that ties cannot explain, such as different tests."""
    changed = np.abs(expected.hits - found.hits)
    return {
        "contests": int(expected.support.sum()),
        "ties": int(ties.sum()),
        "recognized": int(expected.hits.sum()),
        "changed": int(changed.sum()),
        "beyond ties": int(np.maximum(changed - ties, 0).sum() + np.abs(expected.support - found.support).sum()),
    }


# --- report -----------------------------------------------------------------------------------------------------------


def report(found: dict[str, Any]) -> str:
    """The figures in Markdown."""
    models, here, (bare, ours) = found["arguments"]["models"], found["machine"], found["ensemble"]
    correctness = [[str(row[key]) for key in _CORRECTNESS] for row in found["correctness"]]
    peak = f" Most memory of tensors: {found['peak bytes'] / 1e9:.2f} GB." if found["peak bytes"] else ""
    lines = [
        f"# {here['device']}",
        "",
        f"`scripts/gpu_check --models {models}` with mll_hf {here['mll_hf']}, torch {here['torch']}, "
        f"{here['devices']} x {here['device']}, {here['cores']} cores. Models have random weights.",
        "",
        "Counts against the CPU's; a tie is closer than the precision's tolerance:",
        "",
        *markdown_table(_CORRECTNESS, correctness),
        "",
        "Images per second of the bare image tower and of labeling:",
        "",
        *markdown_table(SPEED_HEAD, [speed_row(name, speeds) for name, speeds in found["speed"]]),
        "",
        f"Ensemble of {models}: {ours:.4g} images per second, bare loops over its models {bare:.4g} (ratio "
        f"{ours / bare:.2f}).{peak}",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
