"""Many covered tasks out of a few, to judge a choice by labels on more than the luck of some tasks.

A task of a source has classes under one concept of the graph, or classes drawn at random; all are covered by the graph.
Its images are the source's images of these classes, without those that are nearly the same as a probe image of the
graph. A model's accuracy is that of its logits over these classes alone. Tasks of one source overlap, so intervals come
from a bootstrap over the sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.bench.metrics import bootstrap_tasks
from mll_hf.bench.tables import Cell, Table
from mll_hf.matching import describe
from mll_hf.matching.concept_index import COVERED
from mll_hf.selection import Candidates, SelectionConfig, Strategy, select
from mll_hf.utils.images import decode_image, to_rgb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from mll_hf.bench.suites import TargetTask
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.join import JoinedLabels
    from mll_hf.matching.concept_index import ClassMatch, ConceptIndex

    Floats = NDArray[np.float64]

FEWEST_CLASSES = 3
RANDOM_SIZES = (5, 10, 20)  # classes of tasks with random classes
HUB_SIZES = (5, 10)
WORST = 0.05  # share of choices that counts as the worst
METHODS = {"mll, k=1": Strategy.MLL, "paper, one model": Strategy.PAPER}
_GENERAL, _BEST = "general", "best model"
_SIDE = 16  # pixels of a thumbnail
_SAME = 0.9  # correlation of two thumbnails from which images count as nearly the same


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
    same: NDArray[np.bool_] = (images @ probes.T).max(axis=1) >= _SAME
    return same


# --- tasks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DerivedTask:
    """A task with some classes of a source.

    Attributes:
        source: Name of the source.
        name: The concept that all classes are under, or ``random N``.
        domain: How the images look.
        match: Classes matched to concepts.
        caption_match: The same, matched as in the paper.
        accuracy: [M] accuracies of the models.
    """

    source: str
    name: str
    domain: str | None
    match: ClassMatch
    caption_match: ClassMatch
    accuracy: Floats


def derive(
    source: TargetTask, logits: NDArray[np.float32], index: ConceptIndex, draws: int, seed: int = 0
) -> tuple[DerivedTask, ...]:
    """All tasks of a source.

    Args:
        source: A task with N images and C classes.
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
        of_classes = [descriptions[y] for y in classes.tolist()]
        tasks.append(
            DerivedTask(
                source.name,
                name,
                source.domain,
                index.match(of_classes),
                index.match_captions(of_classes),
                accuracy_within(logits, source.labels, classes),
            )
        )
    return tuple(tasks)


def class_subsets(
    covered: NDArray[np.int64], concepts: NDArray[np.int64], graph: SemanticGraph, draws: int, seed: int = 0
) -> list[tuple[str, NDArray[np.int64]]]:
    """Sets of classes by name: those under each concept of the graph, each set once, and random ones.

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
        if len(classes) >= FEWEST_CLASSES:
            found.setdefault(classes, f"under {concept.name}")
    found.setdefault(tuple(covered.tolist()), "all covered classes")
    rng = np.random.default_rng(seed)
    for size in RANDOM_SIZES:
        if size < len(covered):
            for _ in range(draws):
                classes = tuple(np.sort(rng.permutation(covered)[:size]).tolist())
                found.setdefault(classes, f"random {size}")
    return [(name, np.array(classes, np.int64)) for classes, name in found.items() if len(classes) >= FEWEST_CLASSES]


def accuracy_within(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: NDArray[np.int64]) -> Floats:
    """[M] accuracy among some classes, on their images alone.

    Args:
        logits: [M, N, C].
        labels: [N] true classes.
        classes: Ascending.
    """
    rows = np.isin(labels, classes)
    answers = classes[logits[:, rows][:, :, classes].argmax(axis=2)]
    accuracy: Floats = (answers == labels[rows]).mean(axis=1)
    return accuracy


# --- choices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Choices:
    """What was chosen for N pairs of a task and a hub of one size.

    Attributes:
        hub: Number of models of the hubs.
        sources: [N] source of the task.
        tasks: [N] name of the task.
        accuracy: [N] accuracy of what each method chose.
    """

    hub: int
    sources: NDArray[np.str_]
    tasks: NDArray[np.str_]
    accuracy: dict[str, Floats]


def choose_on(tasks: Sequence[DerivedTask], labels: JoinedLabels, size: int, draws: int, seed: int = 0) -> Choices:
    """Choose for every task out of random hubs, drawn anew for each task; out of all models once.

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
    methods = rows[0][1]
    return Choices(
        size,
        np.array([task.source for task, _ in rows]),
        np.array([task.name for task, _ in rows]),
        {method: np.array([accuracy[method] for _, accuracy in rows]) for method in methods},
    )


def _accuracies(task: DerivedTask, labels: JoinedLabels, hub: NDArray[np.int64]) -> dict[str, float]:
    taken, accuracy = labels.take(hub.tolist()), task.accuracy[hub]
    row = {ref: m for m, ref in enumerate(taken.models)}

    def of(strategy: Strategy) -> float:
        match = task.caption_match if strategy is Strategy.PAPER else task.match
        selection = select(Candidates(taken, match, task.domain), SelectionConfig(strategy))
        return float(accuracy[row[selection.models[0].ref]])

    chosen = {method: of(strategy) for method, strategy in METHODS.items()}
    return {_GENERAL: of(Strategy.GENERAL), **chosen, _BEST: float(accuracy.max())}


# --- tables -----------------------------------------------------------------------------------------------------------


def derived_tables(results: Sequence[Choices], sources: Sequence[tuple[str, int, int, int]]) -> tuple[Table, ...]:
    """All tables.

    Args:
        results: Choices out of hubs of each size.
        sources: Name of each source, its images, near duplicates of probe images among them, and tasks.
    """
    about = Table(
        "sources",
        "Sources",
        "An image counts as a near duplicate if its thumbnail of 16 x 16 pixels correlates with that of a probe image "
        f"by {_SAME} or more; such images are left out.",
        ("source", "images", "near duplicates", "tasks"),
        tuple(sources),
    )
    return about, choice_table(results), source_table(results)


def choice_table(results: Sequence[Choices]) -> Table:
    """Gap closed, mean difference to the generally best model and the worst 5 % of choices, by size of the hub."""
    rows = []
    for choices in results:
        general, best = choices.accuracy[_GENERAL], choices.accuracy[_BEST]
        for method in METHODS:
            lead = choices.accuracy[method] - general
            gained, gap = (by_source(values, choices.sources) for values in (lead, best - general))
            low, error = worst_choices(lead, choices.sources)
            at = int(np.argmin(lead))
            rows.append(
                (
                    choices.hub,
                    method,
                    len(lead),
                    bootstrap_tasks(_ratio, [gained, gap]),
                    bootstrap_tasks(_mean, [gained]),
                    float(by_source((lead < 0).astype(np.float64), choices.sources).mean()),
                    low,
                    error,
                    float(lead[at]),
                    f"{choices.sources[at]}, {choices.tasks[at]}",
                )
            )
    return Table(
        "choices",
        "Choices by labels alone, k = 1",
        "Against the generally best model of the hub; every source counts the same. Gap closed: 0 is the generally "
        "best model, 1 the best model of each task. 95 % intervals by a bootstrap over sources. `worst 5 %`: that "
        "quantile of the differences, with its standard error.",
        (
            "models",
            "method",
            "choices",
            "gap closed",
            "difference",
            "share that loses",
            "worst 5 %",
            "s.e.",
            "worst",
            "on",
        ),
        tuple(rows),
    )


def source_table(results: Sequence[Choices]) -> Table:
    """The same for each source."""
    rows: list[tuple[Cell, ...]] = []
    for choices in results:
        names = np.unique(choices.sources)
        leads = {m: choices.accuracy[m] - choices.accuracy[_GENERAL] for m in (*METHODS, _BEST)}
        for name in names:
            of_source = choices.sources == name
            means = [float(lead[of_source].mean()) for lead in leads.values()]
            low = [float(np.quantile(leads[method][of_source], WORST)) for method in METHODS]
            rows.append((choices.hub, str(name), *means, *low))
    return Table(
        "by_source",
        "By source",
        "Mean difference to the generally best model, and its quantile of the worst 5 %.",
        ("models", "source", *METHODS, _BEST, *(f"{method}, worst 5 %" for method in METHODS)),
        tuple(rows),
    )


def worst_choices(lead: Floats, sources: NDArray[np.str_], resamples: int = 500, seed: int = 0) -> tuple[float, float]:
    """The quantile of the worst 5 % of differences [N], every source weighing the same, and its standard error.

    The error is that of a bootstrap over the sources.
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


def by_source(values: Floats, sources: NDArray[np.str_]) -> Floats:
    """[number of sources] mean of the values [N] of each source."""
    return np.array([values[sources == name].mean() for name in np.unique(sources)])


def _ratio(gained: Floats, gap: Floats) -> Floats:
    gap = gap.sum(axis=-1)
    closed: Floats = np.divide(gained.sum(axis=-1), gap, out=np.full(np.shape(gap), np.nan), where=gap > 0)
    return closed


def _mean(values: Floats) -> Floats:
    mean: Floats = values.mean(axis=-1)
    return mean
