"""Evaluate selection by labels on many covered tasks derived from a few, to reduce the influence of single tasks.

    python scripts/benchmark/derived_benchmark.py --graph DIR --labels DIR --tasks DIR ... [--cache DIR] [--out DIR]

A task of a source has the classes under one concept of the graph, or random classes; all are covered by the graph. Its
images are the source's images of these classes, without near duplicates of the graph's probe images. A model's accuracy
is that of its logits over these classes alone. Tasks of one source overlap, so intervals come from a bootstrap over the
sources. Writes ``derived.md`` and ``derived.json``.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark.cache import EmbeddingCache
from benchmark.metrics import bootstrap_tasks
from benchmark.suites import read_task
from benchmark.tables import Cell, Report, Table
from benchmark.world import MatchedClasses, flat, prompts_of, read_embeddings, read_hub
from mll_hf.cli.options import script_parser
from mll_hf.graph.probes import SamplingConfig, load_probes
from mll_hf.hub.sources import open_labels
from mll_hf.matching import describe
from mll_hf.matching.concept_index import COVERED, ConceptIndex
from mll_hf.matching.text_encoder import CachedEncoder, default_encoder
from mll_hf.selection import SelectionConfig, Strategy, select
from mll_hf.utils.images import decode_image, to_rgb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from benchmark.suites import TargetTask
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.join import JoinedLabels

    Floats = NDArray[np.float64]

MIN_CLASSES = 3
RANDOM_SIZES = (5, 10, 20)  # classes of tasks with random classes
HUB_SIZES = (5, 10)
WORST = 0.05  # share of choices that count as the worst
METHODS = {"mll, k=1": Strategy.MLL, "paper, one model": Strategy.PAPER}
_GENERAL, _BEST = "general", "best model"
_SIDE = 16  # pixels of a thumbnail
_SAME = 0.9  # correlation of thumbnails above which images are near duplicates


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = script_parser(str(__doc__))
    parser.add_argument("--graph", type=Path, required=True, metavar="DIR", help="the labels' graph with its images")
    parser.add_argument("--labels", required=True, metavar="SOURCE", help="labels of all models on that graph")
    parser.add_argument("--tasks", type=Path, nargs="+", required=True, metavar="DIR", help="sources of tasks")
    parser.add_argument(
        "--cache", type=Path, default=Path("bench-cache"), metavar="DIR", help="folder of cached embeddings"
    )
    parser.add_argument("--out", type=Path, default=Path("derived"), metavar="DIR")
    parser.add_argument("--draws", type=int, default=20, metavar="N", help="hubs per task (default: %(default)s)")
    parser.add_argument(
        "--random-tasks", type=int, default=4, metavar="N", help="random tasks of each size (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    labels, cache = read_hub(open_labels(args.labels)).joined, EmbeddingCache(args.cache)
    graph = labels.union.graphs[0]
    index = ConceptIndex.build(graph, CachedEncoder(default_encoder(), exact=True))
    probes = load_probes(graph, args.graph, SamplingConfig()).iter_image_bytes(1024)
    thumbnails_of_probes = np.concatenate([thumbnails(batch) for batch in probes])
    tasks: list[DerivedTask] = []
    sources: list[dict[str, Cell]] = []
    for folder in args.tasks:
        source = read_task(folder)
        prompts = prompts_of(source)
        cache.fill(labels.models, [source], [flat(prompts)])
        found = read_embeddings(cache, labels.models, source, prompts)
        kept = ~near_duplicates(thumbnails(source.images), thumbnails_of_probes)
        part = replace(source, labels=source.labels[found.readable & kept], images=())
        of_source = derive(part, found.logits[:, kept[found.readable]], index, args.random_tasks)
        duplicates = int((~kept).sum())
        sources.append(
            {"source": source.name, "images": len(source), "near duplicates": duplicates, "tasks": len(of_source)}
        )
        tasks += of_source
        print(f"{source.name}: {len(of_source)} tasks, {duplicates} near duplicates", file=sys.stderr)
    results = [choose_on(tasks, labels, size, args.draws, args.seed) for size in (*HUB_SIZES, len(labels))]
    limit = max(label.sampling.images_per_concept for label in labels.reference)
    facts = {
        "command": shlex.join(["python", "scripts/benchmark/derived_benchmark.py", *sys.argv[1:]]),
        "labels": f"{len(labels)} models, at most {limit} probe images per concept",
    }
    tables = derived_tables(results, sources)
    Report("Covered tasks derived from others", facts, tables).save(args.out, "derived")
    return 0


# --- near duplicates --------------------------------------------------------------------------------------------------


def thumbnails(images: Iterable[bytes | None]) -> NDArray[np.float32]:
    """[N, 3 * 16 * 16] thumbnails of mean 0 and norm 1; 0 for images that cannot be decoded or have one color."""
    rows = []
    for content in images:
        image = decode_image(content)
        row = np.zeros(3 * _SIDE * _SIDE)
        if image is not None:
            row = np.asarray(to_rgb(image).resize((_SIDE, _SIDE)), np.float64).reshape(-1)
            row = row - row.mean()
        rows.append(row / max(float(np.linalg.norm(row)), 1.0))
    return np.array(rows, np.float32).reshape(len(rows), -1)


def near_duplicates(images: NDArray[np.float32], probes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[N] whether a thumbnail correlates with that of a probe image by .9 or more."""
    if not len(probes):
        return np.zeros(len(images), np.bool_)
    return (images @ probes.T).max(axis=1) >= _SAME


# --- tasks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DerivedTask(MatchedClasses):
    """A task with some classes of a source."""

    source: str
    name: str  # the concept that all classes are under, or ``random N``
    accuracy: Floats  # [M] accuracies of the models


def derive(
    source: TargetTask, logits: NDArray[np.float32], index: ConceptIndex, draws: int, seed: int = 0
) -> tuple[DerivedTask, ...]:
    """All tasks of a source.

    Args:
        source: A task with N images and C classes; only its labels are used, not its images.
        logits: [M, N, C] of the models.
        index: The graph with its texts.
        draws: Random tasks of each size.
        seed: Seed of the draws.
    """
    descriptions = describe.from_templates(source.classes, index.graph, source.domain, source.task)
    match = index.match(descriptions)
    with_images = np.bincount(source.labels, minlength=len(source.classes)) > 0
    covered = np.flatnonzero((match.coverage >= COVERED) & with_images)
    tasks = []
    for name, classes in class_subsets(covered, match.concepts[:, 0], index.graph, draws, seed):
        matched = MatchedClasses.of([descriptions[y] for y in classes.tolist()], source.domain, index)
        accuracy = accuracy_within(logits, source.labels, classes)
        tasks.append(
            DerivedTask(source.domain, matched.match, matched.caption_match, source.name, name, accuracy),
        )
    return tuple(tasks)


def class_subsets(
    covered: NDArray[np.int64], concepts: NDArray[np.int64], graph: SemanticGraph, draws: int, seed: int = 0
) -> list[tuple[str, NDArray[np.int64]]]:
    """Sets of classes by name: the classes under each concept of the graph, each set once, and random sets.

    Args:
        covered: Classes to choose from, ascending.
        concepts: [C] best matching concept of each class.
        graph: The graph.
        draws: Random sets of each size.
        seed: Seed of the draws.
    """
    found: dict[tuple[int, ...], str] = {}
    for v, concept in enumerate(graph.concepts):
        below = {v, *graph.descendants[v].tolist()}
        classes = tuple(y for y in covered.tolist() if int(concepts[y]) in below)
        if len(classes) >= MIN_CLASSES:
            found.setdefault(classes, f"under {concept.name}")
    found.setdefault(tuple(covered.tolist()), "all covered classes")
    rng = np.random.default_rng(seed)
    for size in RANDOM_SIZES:
        if size < len(covered):
            for _ in range(draws):
                classes = tuple(np.sort(rng.permutation(covered)[:size]).tolist())
                found.setdefault(classes, f"random {size}")
    return [(name, np.array(classes, np.int64)) for classes, name in found.items() if len(classes) >= MIN_CLASSES]


def accuracy_within(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: NDArray[np.int64]) -> Floats:
    """[M] accuracy among some classes (ascending), on images of these classes; logits are [M, N, C], labels [N]."""
    rows = np.isin(labels, classes)
    answers = classes[logits[:, rows][:, :, classes].argmax(axis=2)]
    return (answers == labels[rows]).mean(axis=1)


# --- choices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Choices:
    """Choices for N pairs of a task and a hub, all hubs of one size."""

    hub: int  # number of models of the hubs
    sources: NDArray[np.str_]  # [N] source of the task
    tasks: NDArray[np.str_]  # [N] name of the task
    accuracy: dict[str, Floats]  # [N] accuracy of each method's choice

    def lead(self, method: str) -> Floats:
        """[N] accuracy of a method's choice minus that of the generally best model."""
        return self.accuracy[method] - self.accuracy[_GENERAL]

    def by_source(self, values: Floats) -> Floats:
        """[number of sources] mean of the values [N] of each source."""
        return np.array([values[self.sources == name].mean() for name in np.unique(self.sources)])


def choose_on(tasks: Sequence[DerivedTask], labels: JoinedLabels, size: int, draws: int, seed: int = 0) -> Choices:
    """Choose for every task from random hubs, drawn anew for each task, or once from all models.

    Args:
        tasks: The tasks.
        labels: Labels of M models.
        size: Number of models of a hub.
        draws: Hubs per task.
        seed: Seed of the hubs.
    """
    rng, rows = np.random.default_rng(seed), []
    for task in tasks:
        for _ in range(draws if size < len(labels) else 1):
            hub = np.sort(rng.permutation(len(labels))[:size])
            rows.append((task, _accuracies(task, labels, hub)))
    return Choices(
        size,
        np.array([task.source for task, _ in rows]),
        np.array([task.name for task, _ in rows]),
        {method: np.array([accuracy[method] for _, accuracy in rows]) for method in (_GENERAL, *METHODS, _BEST)},
    )


def _accuracies(task: DerivedTask, labels: JoinedLabels, hub: NDArray[np.int64]) -> dict[str, float]:
    taken, accuracy = labels.subset(hub.tolist()), task.accuracy[hub]
    found = {_BEST: float(accuracy.max())}
    for method, strategy in {_GENERAL: Strategy.GENERAL, **METHODS}.items():
        selection = select(task.candidates(taken, strategy), SelectionConfig(strategy))
        found[method] = float(accuracy[taken.models.index(selection.models[0].ref)])
    return found


# --- tables -----------------------------------------------------------------------------------------------------------


def derived_tables(results: Sequence[Choices], sources: Sequence[dict[str, Cell]]) -> tuple[Table, ...]:
    """All tables, from the choices for hubs of each size and the facts about each source."""
    about = Table(
        "sources",
        "Sources",
        "An image counts as a near duplicate if its thumbnail of 16 x 16 pixels correlates with that of a probe image "
        f"by {_SAME} or more; such images are left out.",
        sources,
    )
    return about, choice_table(results), source_table(results)


def choice_table(results: Sequence[Choices]) -> Table:
    """Gap closed, mean difference to the generally best model and the worst 5 % of choices, by size of the hub."""
    rows: list[dict[str, Cell]] = []
    for choices in results:
        gap = choices.by_source(choices.lead(_BEST))
        for method in METHODS:
            lead = choices.lead(method)
            gained = choices.by_source(lead)
            low, error = worst_choices(lead, choices.sources)
            at = int(np.argmin(lead))
            rows.append(
                {
                    "models": choices.hub,
                    "method": method,
                    "choices": len(lead),
                    "gap closed": bootstrap_tasks(_ratio, [gained, gap]),
                    "difference": bootstrap_tasks(_mean, [gained]),
                    "share that loses": float(choices.by_source(lead < 0).mean()),
                    "worst 5 %": low,
                    "s.e.": error,
                    "worst": float(lead[at]),
                    "on": f"{choices.sources[at]}, {choices.tasks[at]}",
                }
            )
    return Table(
        "choices",
        "Choices by labels alone, k = 1",
        "Against the generally best model of the hub; every source counts the same. Gap closed: 0 is the generally "
        "best model, 1 the best model of each task. 95 % intervals by a bootstrap over sources. `worst 5 %`: that "
        "quantile of the differences, with its standard error.",
        rows,
    )


def source_table(results: Sequence[Choices]) -> Table:
    """The same for each source."""
    rows: list[dict[str, Cell]] = []
    for choices in results:
        for name in np.unique(choices.sources):
            leads = {method: choices.lead(method)[choices.sources == name] for method in (*METHODS, _BEST)}
            means = {method: float(lead.mean()) for method, lead in leads.items()}
            lows = {f"{method}, worst 5 %": float(np.quantile(leads[method], WORST)) for method in METHODS}
            rows.append({"models": choices.hub, "source": str(name), **means, **lows})
    note = "Mean difference to the generally best model, and its quantile of the worst 5 %."
    return Table("by_source", "By source", note, rows)


def worst_choices(lead: Floats, sources: NDArray[np.str_], resamples: int = 500, seed: int = 0) -> tuple[float, float]:
    """The 5 % quantile of differences [N], with equal weight for every source, and its bootstrap standard error.

    The bootstrap is over the sources.
    """
    rng, names = np.random.default_rng(seed), np.unique(sources)
    groups = [np.sort(lead[sources == name]) for name in names]
    drawn = [_quantile([groups[s] for s in rng.integers(len(groups), size=len(groups))]) for _ in range(resamples)]
    return _quantile(groups), float(np.std(drawn))


def _quantile(groups: Sequence[Floats]) -> float:
    values = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), 1 / (len(group) * len(groups))) for group in groups])
    order = np.argsort(values, kind="stable")
    at = int(np.searchsorted(np.cumsum(weights[order]), WORST))
    return float(values[order][min(at, len(values) - 1)])


def _ratio(gained: Floats, gap: Floats) -> Floats:
    gap = gap.sum(axis=-1)
    return np.divide(gained.sum(axis=-1), gap, out=np.full(np.shape(gap), np.nan), where=gap > 0)


def _mean(values: Floats) -> Floats:
    return values.mean(axis=-1)


if __name__ == "__main__":
    sys.exit(main())
