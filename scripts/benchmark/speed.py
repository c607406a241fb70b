"""Speed of importing and selecting; see ``scripts/run_benchmark.py speed``."""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

from benchmark.synthetic import RandomEncoder, make_descriptions, make_graph, make_labels
from benchmark.timing import spread, timed
from mll_hf.labels.join import join_labels
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.selection import Candidates, Selection, SelectionConfig, select

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mll_hf.labels.label import Label
    from mll_hf.matching.describe import Description


def add_speed(parser: argparse.ArgumentParser) -> None:
    """Arguments of the part ``speed``."""
    parser.add_argument("--repeats", type=int, default=3)
    parser.set_defaults(run=run_speed)


def run_speed(args: argparse.Namespace) -> None:
    """Print the figures of the speed benchmark."""
    measure_import()
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


def measure_selection(repeats: int) -> None:
    """Time to select 3 models for 100 classes over 9,000 concepts, with matching but without text encoding."""
    graph = make_graph(9000)
    index = ConceptIndex.build(graph, RandomEncoder())
    descriptions = make_descriptions(100)
    for n_labels in (50, 1000):
        labels = make_labels(graph, n_labels)
        times = [timed(partial(_select, index, labels, descriptions)) * 1000 for _ in range(2 * repeats + 1)]
        print(f"select 3 of {n_labels} labels, 100 classes, 9,000 concepts: {spread(times[1:], 'ms')}")


def _select(index: ConceptIndex, labels: tuple[Label, ...], descriptions: Sequence[Description]) -> Selection:
    joined = join_labels(labels, [index.graph])
    return select(Candidates(joined, index.match(descriptions)), SelectionConfig(k=3))
