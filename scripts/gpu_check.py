"""Check this package on a GPU: equal counts as on the CPU, speed and memory.

Models have random weights, and nothing is downloaded. Prints a page of Markdown, to be committed as
scripts/benchmark/results/gpu.md. The exit status is 1 if counts differ by more than ties can explain.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmark.speed import SPEED_HEAD, ensemble_speed, labeling_speed, make_world, random_model, speed_row, unit
from command_line import script_parser
from mll_hf import __version__
from mll_hf.labeling.contest import Contest
from mll_hf.labeling.encoding import embedded
from mll_hf.models import load_model, pick_device
from mll_hf.utils.tables import markdown_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet
    from mll_hf.models import VisionLanguageModel

    Floats = NDArray[np.float32]

# of a cosine: 2.5 times the largest error of four real models on a CPU; float32 is for TF32 in convolutions
TOLERANCES = {"float32": 1e-3, "float16": 4e-3, "bfloat16": 3e-2}
SAME_EMBEDDINGS = 1e-5
HEAD = ("model", "precision", "batch", "tests", "recognized", "ties", "changed", "beyond ties")


def main() -> int:
    """Run all checks; returns the exit status."""
    parser = script_parser(str(__doc__))
    parser.add_argument("--models", default="ViT-B-32,ViT-L-14,ViT-H-14", metavar="NAMES", help="architectures")
    parser.add_argument("--device", metavar="NAME", help="cuda, mps or cpu (default: best available device)")
    parser.add_argument("--images", type=int, default=4096, metavar="N", help="JPEGs for speed (default: %(default)s)")
    parser.add_argument("--compared", type=int, default=256, metavar="N", help="images that the CPU embeds too")
    parser.add_argument("--concepts", type=int, default=9000, metavar="N", help="concepts (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    device, names = pick_device(args.device), args.models.split(",")
    on_gpu = device.startswith("cuda")
    counts, speeds = list[list[object]](), []
    with tempfile.TemporaryDirectory() as folder:
        graph, probes, images = make_world(Path(folder), args.concepts, args.images)
        models = [random_model(name, Path(folder) / str(n), device, n) for n, name in enumerate(names)]
        for name, model in zip(names, models, strict=True):
            counts += [[name, *row] for row in compare(model, graph, probes, args.compared)]
            speeds.append(speed_row(name, labeling_speed(model, graph, probes, args.repeats)))
        bare, ours = ensemble_speed(models, images, args.repeats)
    print(f"# {torch.cuda.get_device_name(device) if on_gpu else device}\n")
    print(f"`scripts/gpu_check {' '.join(sys.argv[1:])}`, mll_hf {__version__}, torch {torch.__version__}, ", end="")
    print(f"{os.cpu_count()} cores. Counts against the CPU's, from the device's embeddings and from the CPU's:\n")
    print("\n".join(markdown_table(HEAD, [[str(cell) for cell in row] for row in counts])))
    print("\nImages per second of the bare image tower and of labeling:\n")
    print("\n".join(markdown_table(SPEED_HEAD, speeds)))
    print(f"\nEnsemble of {args.models}: {ours:.4g}, bare loops over its models {bare:.4g}, ratio {ours / bare:.2f}.")
    if on_gpu:
        print(f"Most memory of tensors: {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB.")
    return int(any(row[-1] for row in counts))


def compare(
    model: VisionLanguageModel, graph: SemanticGraph, probes: ProbeSet, n_images: int
) -> list[tuple[object, ...]]:
    """The device's counts beside the CPU's, from its own embeddings and from those of the CPU; rows under `HEAD`."""
    on_cpu = load_model(model.ref, "cpu")
    numbers = np.arange(min(n_images, len(probes)))
    expected, own = (
        np.concatenate(list(embedded(each, probes.iter_image_bytes(each.batch_size, numbers))))
        for each in (on_cpu, model)
    )
    on_cpu.close()
    concepts = concepts_near(expected, probes, len(graph))
    right = Contest(graph, probes, concepts, model.logit_scale).count(expected)
    rows = []
    for images, tolerance in ((own, TOLERANCES[model.dtype]), (expected, SAME_EMBEDDINGS)):
        found = Contest(graph, probes, concepts, model.logit_scale, model.device).count(images)
        ties = near_ties(graph, probes, expected, concepts, tolerance)
        hits, found_hits = (counts.ranks[:, 0].astype(int) for counts in (right, found))
        support, found_support = (counts.ranks.sum(axis=1).astype(int) for counts in (right, found))
        changed = np.abs(hits - found_hits)
        beyond = np.maximum(changed - ties, 0).sum() + np.abs(support - found_support).sum()
        sums = (int(values.sum()) for values in (support, hits, ties, changed, beyond))
        rows.append((model.dtype, model.batch_size, *sums))
    return rows


def concepts_near(images: Floats, probes: ProbeSet, n_concepts: int) -> Floats:
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
    graph: SemanticGraph, probes: ProbeSet, images: Floats, concepts: Floats, tolerance: float
) -> NDArray[np.int64]:
    """[V] number of tests of each concept in which it and its best rival are so close that either may win."""
    ties = np.zeros(len(graph), np.int64)
    scores = images @ concepts.T
    for v in range(len(graph)):
        for x in probes.images_of(v):
            if x >= len(images):
                break
            node, rivals = probes.nodes[x], scores[x].copy()
            for no_rivals in ([v, node], graph.ancestors[v], graph.descendants[v], graph.ancestors[node]):
                rivals[no_rivals] = -np.inf
            ties[v] += abs(scores[x, v] - rivals.max()) <= 2 * tolerance
    return ties


if __name__ == "__main__":
    sys.exit(main())
