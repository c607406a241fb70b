"""Speed and memory of labeling and selecting; see ``scripts/run_benchmark.py speed``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import labeling_speed
from benchmark.synthetic import RandomEncoder, make_descriptions, make_graph, make_labels
from benchmark.timing import spread, timed
from mll_hf.graph.concepts import load_graph
from mll_hf.graph.probes import load_probes
from mll_hf.labeling.run import label_model
from mll_hf.labels.join import join_labels
from mll_hf.labels.store import LabelStore
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.models import load_model, resolve_model
from mll_hf.selection import Candidates, Selection, SelectionConfig, Strategy, select

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mll_hf.graph.probes import ProbeSet
    from mll_hf.labels.label import Label
    from mll_hf.matching.describe import Description
    from mll_hf.models import VisionLanguageModel


def add_speed(parser: argparse.ArgumentParser) -> None:
    """Arguments of the part ``speed``."""
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--model", required=True, help="local-dir:PATH or org/name")
    parser.add_argument("--repeats", type=int, default=3)
    parser.set_defaults(run=run_speed)


def run_speed(args: argparse.Namespace) -> None:
    """Print the figures of the speed benchmark."""
    measure_import()
    measure_labeling(args)
    measure_memory(args)
    measure_selection(args.repeats)


def measure_import() -> None:
    """Seconds to import the package in a new interpreter, and whether torch was imported."""
    code = (
        "import time, sys; t = time.perf_counter(); import mll_hf; "
        "print(time.perf_counter() - t, 'torch' in sys.modules)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    seconds, torch_loaded = zip(*(run.stdout.split() for run in runs), strict=True)
    print(f"import mll_hf: {statistics.median(map(float, seconds)):.3f} s, torch imported: {torch_loaded[0]}")


def measure_labeling(args: argparse.Namespace) -> None:
    """Time of labeling over time of the bare loop 'decode, preprocess, encode' with its best number of workers."""
    graph, ref = load_graph(args.graph), resolve_model(args.model)
    probes = load_probes(graph, args.graph)
    model = load_model(ref)
    times: dict[str, list[float]] = {}
    for _ in range(args.repeats):  # interleaved, so that a slow phase of the machine affects all
        for workers in range(3):
            seconds = timed(lambda w=workers: bare_loop(model, probes, w))
            times.setdefault(f"bare loop, {workers} worker processes", []).append(seconds)
        with tempfile.TemporaryDirectory() as folder:
            seconds = timed(lambda f=folder: label_model(ref, graph, probes, LabelStore(Path(f))))
            times.setdefault("labeling, all included", []).append(seconds)
    print(f"{len(probes)} images, {len(graph)} concepts")
    for name, taken in times.items():
        print(f"{name}: {spread(taken)}")
    *bare, ours = map(statistics.median, times.values())
    print(f"labeling / best bare loop: {ours / min(bare):.2f}")


def bare_loop(model: VisionLanguageModel, probes: ProbeSet, workers: int) -> None:
    """Decode, preprocess and encode all images with torch's DataLoader: the obvious code."""
    for batch in labeling_speed.pixels(model, probes, 128, workers):
        model.encode_pixels(batch)


def measure_memory(args: argparse.Namespace) -> None:
    """Peak memory of labeling all images and a sample of them, each in a separate process."""
    peaks = {}
    for images in (4, 75):
        with tempfile.TemporaryDirectory() as folder:
            code = (
                "import resource, sys; from mll_hf.cli import main; "
                f"main(['label', {args.model!r}, '--graph', {str(args.graph)!r}, '--labels', {folder!r}, "
                f"'--sample', '{images}', '--json']); "
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            )
            run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            peaks[images] = int(run.stdout.split()[-1]) / 1024
    print(
        "peak memory of labeling: " + ", ".join(f"{mb:.0f} MB with {n} images per concept" for n, mb in peaks.items())
    )


def measure_selection(repeats: int) -> None:
    """Time to select 3 models for 100 classes over 9,000 concepts, with matching but without text encoding."""
    graph = make_graph(9000)
    index = ConceptIndex.build(graph, RandomEncoder())
    descriptions = make_descriptions(100)
    for n_labels in (50, 1000):
        labels = make_labels(graph, n_labels)
        for strategy in (Strategy.MLL, Strategy.PAPER):
            times = [
                timed(partial(_select, index, labels, descriptions, strategy)) * 1000 for _ in range(2 * repeats + 1)
            ]
            print(f"select 3 of {n_labels} labels, 100 classes, 9,000 concepts, {strategy}: {spread(times[1:], 'ms')}")


def _select(
    index: ConceptIndex, labels: tuple[Label, ...], descriptions: Sequence[Description], strategy: Strategy
) -> Selection:
    match = index.match_captions(descriptions) if strategy is Strategy.PAPER else index.match(descriptions)
    joined = join_labels(labels, [index.graph])
    return select(Candidates(joined, match), SelectionConfig(strategy=strategy, k=3))
