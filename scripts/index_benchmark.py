"""Benchmarks of the index of labels: reading labels with and without it, and selecting from very many.

``scripts/run_benchmark.py`` runs them as its parts ``reading`` and ``selection``.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.labels.index import IndexShard, InMemory, LabelIndex, update_shards
from mll_hf.labels.join import join_labels
from mll_hf.labels.store import LabelStore
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.selection import Candidates, SelectionConfig
from mll_hf.selection.indexed import select_indexed
from synthetic import RandomEncoder, SyntheticModels, make_descriptions, make_graph, make_labels

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from mll_hf.labels.label import LabelFacts, LabelSummary, ModelLabel
    from mll_hf.selection import Selection

N_CONCEPTS = 9000


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Arguments of the part ``reading``."""
    parser.add_argument("--labels", type=int, default=1000, metavar="N", help="labels (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.set_defaults(run=run_reading)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Arguments of the part ``selection``."""
    parser.add_argument("--labels", type=int, default=100_000, metavar="N", help="labels (default: %(default)s)")
    parser.add_argument("--index", type=Path, metavar="DIR", help="folder of the index; written if it is empty")
    parser.add_argument("--classes", type=int, default=100, metavar="N", help="classes (default: %(default)s)")
    parser.add_argument("--domain", metavar="TEXT", help="the task's domain, such as photo")
    parser.add_argument("--repeats", type=int, default=5)
    parser.set_defaults(run=run_selection)


def run_reading(args: argparse.Namespace) -> None:
    """Print the time to open a folder of labels of 9,000 concepts: through its index, and file by file."""
    graph = make_graph(N_CONCEPTS)
    with tempfile.TemporaryDirectory() as name:
        store = LabelStore(Path(name))
        store.add_graph(graph)
        for label in make_labels(graph, args.labels):
            store.write(label)
        building = timed(store.update_index)
        of_index = [timed(lambda: LabelStore(Path(name)).indexed) for _ in range(args.repeats)]
        of_files = [timed(lambda: LabelStore(Path(name)).list()) for _ in range(args.repeats)]
        megabytes = [
            sum(path.stat().st_size for path in Path(name).glob(pattern)) / 2**20
            for pattern in ("index/*/*", "labels/*/*/*")
        ]
    print(f"{args.labels} labels of {N_CONCEPTS:,} concepts; the index was built in {building:.1f} s")
    print(f"opened through the index ({megabytes[0]:.0f} MB): {spread(of_index)}")
    print(f"opened file by file ({megabytes[1]:.0f} MB): {spread(of_files)}")


def run_selection(args: argparse.Namespace) -> None:
    """Print time and memory of selecting from synthetic labels through an index, which is built first."""
    with tempfile.TemporaryDirectory() as name:
        folder = args.index or Path(name)
        if not list(folder.glob("*.safetensors")):
            print(f"{args.labels:,} labels made and indexed in {timed(lambda: _build(folder, args.labels)):.0f} s")
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        print(f"index of {size / 2**30:.2f} GB, {size / args.labels / 1000:.1f} kB per label", flush=True)
        values = [folder, Path(name) / "labels", args.classes, args.repeats, args.domain or ""]
        subprocess.run(
            [sys.executable, __file__, *map(str, values)], check=True
        )  # a separate process, to measure its memory


def _build(folder: Path, n_labels: int) -> None:
    graph = make_graph(N_CONCEPTS)
    models = SyntheticModels(graph)

    def read(keys: Sequence[tuple[str, str]]) -> Iterator[tuple[LabelSummary, str]]:
        return ((models.summary(m), "0" * 64) for m in range(len(keys)))

    folder.mkdir(parents=True, exist_ok=True)
    current = {(f"synthetic--model-{m:06d}", f"{m:040x}"): "0" * 64 for m in range(n_labels)}
    for number, content in update_shards({}, current, graph, read):
        path = folder / f"{number:05d}.safetensors"
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)


def measure(folder: Path, labels: Path, n_classes: int, repeats: int, domain: str | None) -> None:
    """Open an index and select 3 models; texts are not encoded again."""
    graph = make_graph(N_CONCEPTS)
    models, descriptions = SyntheticModels(graph), make_descriptions(n_classes)
    match = ConceptIndex.build(graph, RandomEncoder()).match(descriptions)
    store, before = LabelStore(labels), _megabytes("RssAnon")
    store.add_graph(graph)

    def fetch(wanted: Sequence[LabelFacts]) -> Sequence[ModelLabel]:
        for label in wanted:
            if not store.path_of(label).exists():
                store.write(models.whole(int(label.model.revision, 16)))
        return store.fetch(wanted)

    def opened() -> Candidates:
        paths = sorted(folder.glob("*.safetensors"))
        index = LabelIndex(tuple(IndexShard.open(InMemory.mapped(path)) for path in paths))
        return Candidates(join_labels(index.labels, [graph]), match, domain)

    def selected() -> Selection:
        return select_indexed(candidates, SelectionConfig(k=3), fetch)

    started = time.perf_counter()
    candidates = opened()
    opening = time.perf_counter() - started
    first = timed(selected)
    started = time.process_time()
    times = [timed(selected) for _ in range(repeats)]
    cpu = (time.process_time() - started) / repeats
    print(f"3 of {len(candidates.labels):,} labels, {n_classes} classes, {N_CONCEPTS:,} concepts, domain {domain}:")
    print(f"  opened in {opening:.2f} s; first selection {first:.2f} s (it writes the labels that are then read)")
    print(f"  selected in {spread(times)}; {cpu:.2f} s of CPU")
    peak, own = _megabytes("VmHWM"), _megabytes("RssAnon")
    print(f"  memory: {own:.0f} MB, {before:.0f} MB before opening; with the pages of the index at most {peak:.0f} MB")


def _megabytes(name: str) -> float:
    """Memory of this process according to the system; getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def spread(times: list[float], unit: str = "s") -> str:
    """Median, minimum and maximum of times, as text."""
    return f"{statistics.median(times):.3g} {unit} ({min(times):.3g} to {max(times):.3g})"


if __name__ == "__main__":
    measure(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] or None)
