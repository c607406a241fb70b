"""Measure this package: its costs (speed, reading), its matching, and what choosing by labels is worth (targets).

    python scripts/run_benchmark.py speed --graph DIR --model local-dir:PATH
    python scripts/run_benchmark.py reading
    python scripts/run_benchmark.py matching [--wordnet DIR] [--fit]
    python scripts/run_benchmark.py targets --labels DIR --tasks DIR [--published FILE]

Ratios within one run mean something; seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mll_hf.backends import load_model, resolve_model
from mll_hf.bench.matching import detection, fit_weights, imagenet_gold, leave_concepts_out, make_queries, top_accuracy
from mll_hf.client import Client
from mll_hf.describe import Description
from mll_hf.ensemble import Rule
from mll_hf.graph import load_graph
from mll_hf.hub.index import INDEX_FILE, IndexEntry, index_from_bytes, index_to_bytes
from mll_hf.hub.sources import together
from mll_hf.images import decode_image
from mll_hf.labeling import label_model
from mll_hf.matching import COVERED, ConceptIndex, LogitWeights
from mll_hf.probes import load_probes
from mll_hf.prompts import DEFAULT_TEMPLATE
from mll_hf.report import table
from mll_hf.selection import Candidates, Selection, SelectionConfig, Strategy, select
from mll_hf.store import LabelStore, read_label
from mll_hf.text_encoder import CachedEncoder, default_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray

    from mll_hf.backends import VisionLanguageModel
    from mll_hf.labels import ModelLabel
    from mll_hf.probes import ProbeSet
    from mll_hf.text_encoder import TextEncoder


def main() -> int:
    """Run one benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    speed = parts.add_parser("speed", help="labeling against a bare loop, selection, import, memory")
    speed.add_argument("--graph", type=Path, required=True)
    speed.add_argument("--model", required=True, help="local-dir:PATH or org/name")
    speed.add_argument("--repeats", type=int, default=3)
    speed.set_defaults(run=run_speed)
    reading = parts.add_parser("reading", help="reading and validating labels that are cached")
    reading.add_argument("--labels", type=int, default=1000, metavar="N", help="how many (default: %(default)s)")
    reading.add_argument("--repeats", type=int, default=3)
    reading.set_defaults(run=run_reading)
    matching = parts.add_parser("matching", help="class names of ImageNet against the concepts of ImageNet-12k")
    matching.add_argument("--wordnet", type=Path, metavar="DIR", help="WordNet 3.0's folder with data.noun, for edges")
    matching.add_argument("--fit", action="store_true", help="fit the weights of the match again, on other concepts")
    matching.add_argument("--cache", type=Path, help="SQLite file of embeddings (default: the shared one)")
    matching.set_defaults(run=run_matching)
    targets = parts.add_parser("targets", help="accuracy of the strategies on target tasks")
    targets.add_argument("--labels", type=Path, required=True)
    targets.add_argument("--tasks", type=Path, required=True, help="folder of folders with task.json and test.parquet")
    targets.add_argument("--published", type=Path, help="CSV of known accuracies: model, then one column per task")
    targets.add_argument("--cache", type=Path, default=Path("bench-cache"), help="where logits are kept")
    targets.set_defaults(run=run_targets)
    args = parser.parse_args()
    args.run(args)
    return 0


# --- speed ------------------------------------------------------------------------------------------------------------


def run_speed(args: argparse.Namespace) -> None:
    """Print the figures of the speed benchmark."""
    measure_import()
    measure_labeling(args)
    measure_memory(args)
    measure_selection(args.repeats)


def measure_import() -> None:
    """Seconds to import the package in a fresh interpreter, and whether torch came along."""
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
    loops = {workers: [] for workers in (0, 1, 2)}
    ours = []
    for _ in range(args.repeats):  # interleaved, so that a slow spell of the machine hits all
        for workers, times in loops.items():
            times.append(_timed(lambda w=workers: bare_loop(model, probes, w)))
        with tempfile.TemporaryDirectory() as folder:
            ours.append(_timed(lambda f=folder: label_model(ref, graph, probes, LabelStore(Path(f)))))
    best = min(loops, key=lambda workers: statistics.median(loops[workers]))
    for workers, times in loops.items():
        print(f"bare loop, {workers} worker processes: {_spread(times)}{'  <- best' if workers == best else ''}")
    ratio = statistics.median(ours) / statistics.median(loops[best])
    print(f"labeling {len(probes)} images on {len(graph)} concepts, all included: {_spread(ours)}")
    print(f"labeling / best bare loop: {ratio:.2f}")


def bare_loop(model: VisionLanguageModel, probes: ProbeSet, workers: int) -> None:
    """Decode, preprocess and encode all images with torch's DataLoader: what anyone would write."""
    from torch.utils.data import DataLoader

    contents = [content for _, batch in probes.iter_image_bytes(1024) for content in batch]
    loader: DataLoader[torch.Tensor] = DataLoader(_Pixels(model, contents), batch_size=128, num_workers=workers)
    for pixels in loader:
        model.encode_pixels(pixels)


@dataclass(frozen=True)
class _Pixels:
    model: VisionLanguageModel
    contents: list[bytes | None]

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, n: int) -> torch.Tensor:
        return self.model.preprocess(decode_image(self.contents[n]))


def measure_memory(args: argparse.Namespace) -> None:
    """Peak memory of labeling all images against labeling a sixth of them, each in a process of its own."""
    peaks = {}
    for images in (4, 75):
        with tempfile.TemporaryDirectory() as folder:
            code = (
                "import resource, sys; from mll_hf.cli import main; "
                f"main(['label', {args.model!r}, '--graph', {str(args.graph)!r}, '--labels', {folder!r}, "
                f"'--images-per-concept', '{images}', '--json']); "
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            )
            run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            peaks[images] = int(run.stdout.split()[-1]) / 1024
    print(
        "peak memory of labeling: " + ", ".join(f"{mb:.0f} MB with {n} images per concept" for n, mb in peaks.items())
    )


def measure_selection(repeats: int) -> None:
    """Time to select 3 models for 100 classes over 9,000 concepts, matching included, text encoding left out."""
    from synthetic import RandomEncoder, make_descriptions, make_graph, make_labels

    graph, encoder = make_graph(9000), _Remembering(RandomEncoder())
    index = ConceptIndex.build(graph, encoder)
    descriptions = make_descriptions(100)
    for n_labels in (50, 1000):
        labels = make_labels(graph, n_labels)
        for strategy in (Strategy.MLL, Strategy.PAPER):
            times = [
                _timed(partial(_select, index, labels, descriptions, strategy)) * 1000 for _ in range(2 * repeats + 1)
            ]
            print(f"select 3 of {n_labels} labels, 100 classes, 9,000 concepts, {strategy}: {_spread(times[1:], 'ms')}")


def run_reading(args: argparse.Namespace) -> None:
    """Print the time to read and validate labels of 9,000 concepts from disk: out of an index, and one by one."""
    from synthetic import make_graph, make_labels

    graph = make_graph(9000)
    with tempfile.TemporaryDirectory() as name:
        store = LabelStore(Path(name))
        store.adopt(graph)
        index = Path(name) / INDEX_FILE
        labels = make_labels(graph, args.labels)
        index.write_bytes(index_to_bytes(graph, [IndexEntry(label.summary, "0" * 64) for label in labels]))
        paths = [store.write(label) for label in labels]
        del labels
        of_index = [_timed(lambda: index_from_bytes(index.read_bytes())) for _ in range(args.repeats)]
        of_files = [_timed(lambda: together(lambda path: read_label(path, graph).summary, paths, "labels"))
                    for _ in range(args.repeats)]  # fmt: skip
        sizes = index.stat().st_size / 2**20, sum(path.stat().st_size for path in paths) / 2**20
    print(f"{args.labels} labels of 9,000 concepts in an index ({sizes[0]:.0f} MB): {_spread(of_index)}")
    print(f"{args.labels} labels of 9,000 concepts in files ({sizes[1]:.0f} MB): {_spread(of_files)}")


def run_matching(args: argparse.Namespace) -> None:
    """Print how often the right concept comes first, and how well coverage tells what the graph lacks."""
    gold = imagenet_gold(args.wordnet)
    encoder = CachedEncoder(default_encoder(), args.cache)
    index = ConceptIndex.build(gold.graph, encoder)
    bare = tuple(Description(name, (name,), "file") for name in gold.names)
    ways = {
        "paper: captions against the bare names": index.match_captions(bare),
        "paper: captions against templates with glosses": index.match_captions(gold.describe()),
        "ours": index.match(gold.describe()),
    }
    for field in fields(LogitWeights):
        ablated = replace(index, weights=replace(index.weights, **{field.name: 0.0}))
        ways[f"ours without {field.name}"] = ablated.match(gold.describe())
    rows = [[name, *(f"{top_accuracy(match, gold.concepts, k):.1%}" for k in (1, 5))] for name, match in ways.items()]
    print(f"{len(gold.names)} class names, {len(gold.graph):,} concepts, text encoder {encoder.id}")
    print(table(["match", "right concept first", "in the first five"], rows))
    covered, uncovered = leave_concepts_out(gold, encoder)
    facts = detection(covered, uncovered, COVERED)
    print(
        f"coverage of {COVERED} and more, concepts in the graph against concepts and relatives left out, 100 classes "
        f"at a time: precision {facts.precision:.3f}, recall {facts.recall:.3f}, AUC {facts.auc:.3f}"
    )
    if args.fit:
        weights, slope, middle = fit_weights(make_queries(gold), encoder)
        print(f"fitted: {weights}, coverage slope {slope:.2f}, middle {middle:.1f}")


class _Remembering:
    """A text encoder that gives an answer that it gave before at once."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.id, self._encoder, self._known = encoder.id, encoder, {}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the encoder itself."""
        key = tuple(texts)
        if key not in self._known:
            self._known[key] = self._encoder.encode(texts)
        return self._known[key]


def _select(
    index: ConceptIndex, labels: tuple[ModelLabel, ...], descriptions: Sequence[Description], strategy: Strategy
) -> Selection:
    match = index.match_captions(descriptions) if strategy is Strategy.PAPER else index.match(descriptions)
    return select(Candidates(labels, index.graph, match), SelectionConfig(strategy=strategy, k=3))


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _spread(times: list[float], unit: str = "s") -> str:
    return f"{statistics.median(times):.3g} {unit} ({min(times):.3g} to {max(times):.3g})"


# --- targets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TargetTask:
    """A task with known answers."""

    name: str
    classes: tuple[str, ...]
    domain: str | None
    task: str | None
    images: list[bytes]
    labels: NDArray[np.int64]
    digest: str


# name of a way -> strategy, k, rule of combination
WAYS = {
    "general k=1": (Strategy.GENERAL, 1, Rule.UNIFORM),
    "general k=3": (Strategy.GENERAL, 3, Rule.UNIFORM),
    "paper k=1": (Strategy.PAPER, 1, Rule.ENTROPY),
    "paper k=3": (Strategy.PAPER, 3, Rule.ENTROPY),
    "mll k=1": (Strategy.MLL, 1, Rule.LINEAR_POOL),
    "mll k=3": (Strategy.MLL, 3, Rule.LINEAR_POOL),
    "all, averaged": (Strategy.UNIFORM, 1, Rule.UNIFORM),
}


def run_targets(args: argparse.Namespace) -> None:
    """Print accuracies of every way on every task, all with the prompt 'a photo of a {}.'."""
    client = Client(args.labels)
    rows, singles_by_task = [], {}
    for folder in sorted(path.parent for path in args.tasks.glob("*/task.json")):
        task = read_task(folder)
        everything = client.select(task.classes, SelectionConfig(strategy=Strategy.UNIFORM), domain=task.domain)
        logits = cached_logits(client, everything, task, args.cache)
        singles = {model: float((scores.argmax(axis=1) == task.labels).mean()) for model, scores in logits.items()}
        singles_by_task[task.name] = {Path(model).name: accuracy for model, accuracy in singles.items()}
        accuracies = [accuracy_of_way(client, task, logits, *way) for way in WAYS.values()]
        best = max(singles, key=lambda model: singles[model])
        rows.append((task.name, [*accuracies, singles[best]], Path(best).name))
    means = np.mean([values for _, values, _ in rows], axis=0)
    shown = [[name, *[f"{value:.3f}" for value in values], best] for name, values, best in rows]
    shown.append(["mean", *[f"{value:.3f}" for value in means], ""])
    print(table(["task", *WAYS, "best single", "which"], shown))
    if args.published:
        compare(singles_by_task, args.published)


def accuracy_of_way(
    client: Client, task: TargetTask, logits: dict[str, NDArray[np.float32]], strategy: Strategy, k: int, rule: Rule
) -> float:
    """Accuracy of a selection on a task, from the logits of all models."""
    selection = client.select(task.classes, SelectionConfig(strategy=strategy, k=k), domain=task.domain, task=task.task)
    of_union = np.stack([logits[selection.models[m].ref.repo_id] for m in selection.union])
    answers = client.load(selection).combine(of_union, rule).probabilities.argmax(axis=1)
    return float((answers == task.labels).mean())


def cached_logits(
    client: Client, selection: Selection, task: TargetTask, cache: Path
) -> dict[str, NDArray[np.float32]]:
    """Logits [N, C] of every model on a task, computed once per model revision, task content and prompt."""
    logits = {}
    for m, model in enumerate(selection.models):
        path = cache / f"{model.ref.revision[:16]}-{task.digest[:16]}.npy"
        if not path.exists():
            only = np.zeros_like(selection.chosen)
            only[m] = True
            ensemble = client.load(replace(selection, chosen=only), templates=[DEFAULT_TEMPLATE])
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, ensemble.logits(task.images)[0])
        logits[model.ref.repo_id] = np.load(path)
    return logits


def read_task(folder: Path) -> TargetTask:
    """Read ``task.json`` (name, classes, domain, task) and ``test.parquet`` (image, label)."""
    import pyarrow.parquet as pq

    facts = json.loads((folder / "task.json").read_text())
    content = (folder / "test.parquet").read_bytes()
    rows = pq.read_table(folder / "test.parquet", columns=["image", "label"])
    return TargetTask(
        name=facts["name"],
        classes=tuple(facts["classes"]),
        domain=facts.get("domain"),
        task=facts.get("task"),
        images=rows["image"].to_pylist(),
        labels=rows["label"].to_numpy().astype(np.int64),
        digest=hashlib.sha256(content + json.dumps(facts, sort_keys=True).encode()).hexdigest(),
    )


def compare(singles: dict[str, dict[str, float]], published: Path) -> None:
    """Print how far single-model accuracies are from a published table."""
    known = {row["model"]: row for row in csv.DictReader(published.open())}
    gaps = [
        (abs(accuracy - float(known[model][task])), model, task)
        for task, models in singles.items()
        for model, accuracy in models.items()
        if model in known and task in known[model]
    ]
    largest = max(gaps)
    mean = np.mean([gap for gap, _, _ in gaps])
    print(f"\n{len(gaps)} accuracies of single models against {published.name}: mean gap {mean:.4f}, largest {largest}")


if __name__ == "__main__":
    sys.exit(main())
