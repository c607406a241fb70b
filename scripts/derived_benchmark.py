"""Judge the choice by labels on many covered tasks that are derived from a few.

    python scripts/derived_benchmark.py --graph DIR --labels DIR --tasks DIR ... [--cache DIR] [--out DIR]

Writes ``derived.md`` and ``derived.json``. Images that are nearly the same as a probe image of the graph are taken out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.bench import derived
from mll_hf.bench.cache import EmbeddingCache
from mll_hf.bench.suites import read_task
from mll_hf.bench.world import read_embeddings, read_hub
from mll_hf.graph.probes import SamplingConfig, load_probes
from mll_hf.hub.sources import open_source
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.matching.prompts import DEFAULT_TEMPLATE, fill
from mll_hf.matching.text_encoder import CachedEncoder, default_encoder
from mll_hf.utils.files import write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.bench.suites import TargetTask
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.join import JoinedLabels


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", type=Path, required=True, metavar="DIR", help="the labels' graph with its images")
    parser.add_argument("--labels", required=True, metavar="SOURCE", help="labels of all models on that graph")
    parser.add_argument("--tasks", type=Path, nargs="+", required=True, metavar="DIR", help="sources of tasks")
    parser.add_argument("--cache", type=Path, default=Path("bench-cache"), metavar="DIR", help="of embeddings")
    parser.add_argument("--out", type=Path, default=Path("derived"), metavar="DIR")
    parser.add_argument("--draws", type=int, default=20, metavar="N", help="hubs per task (default: %(default)s)")
    parser.add_argument("--random-tasks", type=int, default=4, metavar="N", help="of each size (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    labels = read_hub(open_source(args.labels)).joined
    index = ConceptIndex.build(labels.union.graphs[0], CachedEncoder(default_encoder(), exact=True))
    tasks: list[derived.DerivedTask] = []
    sources: list[tuple[str, int, int, int]] = []
    cache = EmbeddingCache(args.cache)
    probes = _probe_thumbnails(args.graph, labels.union.graphs[0])
    for folder in args.tasks:
        source = read_task(folder)
        prompts = [fill([DEFAULT_TEMPLATE], name) for name in source.classes]
        cache.fill(labels.models, [source], [[text for of_class in prompts for text in of_class]])
        found = read_embeddings(cache, labels.models, source, prompts)
        kept = ~derived.near_duplicates(derived.thumbnails(source.images), probes)
        of_source = derived.derive(
            _part(source, found.readable & kept), found.logits[:, kept[found.readable]], index, args.random_tasks
        )
        sources.append((source.name, len(source), int((~kept).sum()), len(of_source)))
        tasks += of_source
        print(f"{source.name}: {len(of_source)} tasks, {int((~kept).sum())} near duplicates", file=sys.stderr)
    sizes = (*derived.HUB_SIZES, len(labels))
    results = [derived.choose_on(tasks, labels, size, args.draws, args.seed) for size in sizes]
    tables = derived.derived_tables(results, sources)
    command = shlex.join(["python", "scripts/derived_benchmark.py", *sys.argv[1:]])
    text = "\n".join(
        ["# Covered tasks derived from others", "", f"- command: {command}", f"- labels: {_about(labels)}", "", ""]
    )
    write_atomically(args.out / "derived.md", (text + "\n".join(t.to_markdown() for t in tables)).encode())
    document = {"command": command, "tables": {table.name: table.to_json() for table in tables}}
    write_atomically(args.out / "derived.json", (json.dumps(document, indent=1) + "\n").encode())
    return 0


def _about(labels: JoinedLabels) -> str:
    sampling = {label.sampling.images_per_concept for label in labels.reference}
    return f"{len(labels)} models, at most {max(sampling)} probe images per concept"


def _part(source: TargetTask, rows: NDArray[np.bool_]) -> TargetTask:
    images = tuple(image for image, kept in zip(source.images, rows.tolist(), strict=True) if kept)
    return replace(source, labels=source.labels[rows], images=images)


def _probe_thumbnails(folder: Path, graph: SemanticGraph) -> NDArray[np.float32]:
    batches = load_probes(graph, folder, SamplingConfig()).iter_image_bytes(1024)
    return np.concatenate([derived.thumbnails(batch) for batch in batches])


if __name__ == "__main__":
    sys.exit(main())
