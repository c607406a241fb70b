"""Choosing among real models: labels from published recall per class, and the code of `select` on other data sets.

The published table has the recall of 21 models on every class of ImageNet, ImageNet-Sketch and ImageNet-R. ImageNet's
classes are WordNet synsets, so these three columns make a label on the graph of ImageNet's classes and their hypernyms,
in three domains (photo, sketch, rendition). All other data sets of the table are target tasks. No model is run.

What labels lack that are made from this table is said in :mod:`mll_hf.models.published`. The table has no answers to
single images either, so models cannot be combined. Where a method chooses models per class, the recall of a class is
that of its model. This is an upper bound, since no classifier can route an image by its true class.
"""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.bench.baselines import modelgpt
from mll_hf.bench.lovm import EVALUATION_FILE, FEATURES, FEATURES_FILE, read_lovm
from mll_hf.bench.metrics import bootstrap_tasks, mean_difference
from mll_hf.bench.tables import Cell, Table
from mll_hf.errors import InputError
from mll_hf.graph.union import GraphUnion
from mll_hf.labels.join import JoinedLabels
from mll_hf.matching import describe
from mll_hf.matching.prompts import clean_class_name
from mll_hf.models.known import accuracies, known_datasets
from mll_hf.models.published import SOURCES, labels_from_recalls
from mll_hf.selection import Candidates, SelectionConfig, Strategy, select
from mll_hf.selection.base import in_units
from mll_hf.selection.mll import (
    estimates,
    generally_best,
    lead_errors,
    measure_all,
    task_needs,
    task_odds,
)
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.matching.concept_index import ClassMatch, ConceptIndex
    from mll_hf.models.known import ClassRecalls
    from mll_hf.selection import Selection

    Floats = NDArray[np.float64]

CAPS = (200, 100, 20)  # GFLOPs per image
HUB_SIZES = (5, 10)
STRONG = 0.6  # ImageNet accuracy; below are research checkpoints of small training sets
BENCHMARK = "ImageNet-best"
METHODS = (BENCHMARK, "general", "paper, one model", "paper, k=1", "paper, k=3", "mll, k=1", "mll, k=3")
QUALITIES = (0.0, 0.6, 0.8, 0.9, 0.98)  # lower edges of bins of the cosine
_CARRIED = 0.3
_DIGITS = 9  # equal accuracies are equal, in whatever order they were added up
_RANDOM, _BEST = "random model", "best per data set"


@dataclass(frozen=True, eq=False)
class RealTask:
    """A data set whose recall per class is published, C classes.

    Attributes:
        dataset: Id of the data set.
        domain: How its images look.
        match: Classes matched to concepts.
        caption_match: The same, matched as in the paper.
        quality: [C] cosine of the class name with the nearest lemma of the graph.
        measured: [C] whether the class is a concept of the labels, see :func:`class_synsets`.
        recall: [M, C] recall of the models.
    """

    dataset: str
    domain: str
    match: ClassMatch
    caption_match: ClassMatch
    quality: Floats
    measured: NDArray[np.bool_]
    recall: Floats

    @property
    def accuracy(self) -> Floats:
        """[M] mean recall over the classes."""
        return self.recall.mean(axis=1)


@dataclass(frozen=True, eq=False)
class RealWorld:
    """Labels of M real models, and target tasks.

    Attributes:
        prompts: The prompt set that the models answered to.
        labels: The M labels, all on one graph.
        tasks: The target tasks.
        benchmark: [M] mean recall on ImageNet's photos.
        names: [M] names of the models, see `KnownModel.name`.
    """

    prompts: str
    labels: JoinedLabels
    tasks: tuple[RealTask, ...]
    benchmark: Floats
    names: tuple[str, ...]


# --- labels and tasks -------------------------------------------------------------------------------------------------


def real_world(recalls: ClassRecalls, index: ConceptIndex, prompts: str) -> RealWorld:
    """Labels and tasks from a table of recall per class.

    Args:
        recalls: The table.
        index: Graph of ImageNet's classes, with its texts.
        prompts: Prompt set.

    Raises:
        InputError: The table lacks ImageNet, or has a value outside 0 to 1 or a class twice; the graph is another one.
    """
    check_recalls(recalls)
    datasets = {dataset.id: dataset for dataset in known_datasets()}
    targets = [name for name in dict.fromkeys(recalls.datasets) if name not in SOURCES]
    labels = labels_from_recalls(recalls, prompts)
    return RealWorld(
        prompts=prompts,
        labels=JoinedLabels(GraphUnion.of([index.graph]), tuple((label,) for label in labels)),
        tasks=tuple(_task(recalls, name, datasets[name].domain, index, prompts) for name in targets),
        benchmark=recalls.of("imagenet-1k", prompts)[1].mean(axis=1),
        names=tuple(model.name for model in recalls.models),
    )


def check_recalls(recalls: ClassRecalls) -> None:
    """Refuse a damaged table.

    Raises:
        InputError: It lacks a data set that labels come from, or has a value outside 0 to 1 or a class twice.
    """
    if missing := sorted(SOURCES.keys() - set(recalls.datasets)):
        raise InputError(f"the table of recall per class lacks {abridged(missing, 3)}; labels are made from it")
    if not bool(((recalls.values >= 0) & (recalls.values <= 1)).all()):
        raise InputError("the table of recall per class has values that are missing or outside 0 to 1; correct them")
    names = list(zip(recalls.datasets, recalls.classes, strict=True))
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise InputError(f"the table of recall per class has '{twice[1]}' of {twice[0]} twice; keep one")


def _task(recalls: ClassRecalls, dataset: str, domain: str, index: ConceptIndex, prompts: str) -> RealTask:
    classes, recall = recalls.of(dataset, prompts)
    descriptions = describe.from_templates(classes, index.graph, domain, None)
    cosines = index.name_cosines([clean_class_name(name) for name in classes])
    measured = [class_synsets().get((dataset, name)) in index.graph.index for name in classes]
    return RealTask(
        dataset,
        domain,
        index.match(descriptions),
        index.match_captions(descriptions),
        cosines.max(axis=1),
        np.array(measured, np.bool_),
        recall,
    )


@cache
def class_synsets() -> dict[tuple[str, str], str]:
    """The WordNet synset of each class that is one of ImageNet's concepts, by data set and class.

    By equal names, where only one concept has the name or the sense was chosen by hand; a few names differ.
    """
    file = resources.files("mll_hf.bench").joinpath("data", "class_synsets.csv")
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return {(row["dataset"], row["class"]): row["synset"] for row in rows}


# --- methods ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the methods reach with one hub on one task of C classes.

    Attributes:
        accuracy: Mean recall of each method's choice.
        by_class: [C] recall of the choice per class, for methods that choose per class and for `general`.
        estimated: Accuracy that `mll` estimates of the model that it chooses, before the truth is known.
        estimates: [H] the same for all models of the hub.
        truth: [H] their accuracies.
    """

    accuracy: dict[str, float]
    by_class: dict[str, Floats]
    estimated: float
    estimates: Floats
    truth: Floats


def outcome(world: RealWorld, task: RealTask, hub: Sequence[int]) -> Outcome:
    """Run all methods on one task, with the models of a hub."""
    labels = world.labels.take(hub)
    ours = Candidates(labels, task.match, task.domain)
    paper = Candidates(labels, task.caption_match, task.domain)
    truth, recall = task.accuracy[hub], task.recall[hub]
    row = {ref: m for m, ref in enumerate(labels.models)}

    def run(candidates: Candidates, strategy: Strategy, k: int) -> tuple[Selection, Floats]:
        selection = select(candidates, SelectionConfig(strategy=strategy, k=k))
        rows = [row[model.ref] for model in selection.models]
        chosen = selection.chosen.astype(np.float64)
        return selection, (chosen * recall[rows]).sum(axis=0) / chosen.sum(axis=0)

    _general, of_general = run(ours, Strategy.GENERAL, 1)
    mll, of_mll = run(ours, Strategy.MLL, 1)
    paper_1, of_paper_1 = run(paper, Strategy.PAPER, 1)
    estimates = np.empty(len(hub))
    estimates[[row[model.ref] for model in mll.models]] = mll.overall
    accuracy = {
        BENCHMARK: truth[int(np.argmax(world.benchmark[hub]))],
        "general": of_general.mean(),
        "paper, one model": truth[row[paper_1.models[0].ref]],
        "paper, k=1": of_paper_1.mean(),
        "paper, k=3": run(paper, Strategy.PAPER, 3)[1].mean(),
        "mll, k=1": of_mll.mean(),
        "mll, k=3": run(ours, Strategy.MLL, 3)[1].mean(),
        _RANDOM: truth.mean(),
        _BEST: truth.max(),
    }
    by_class = {
        "general": of_general,
        "paper, k=1": of_paper_1,
        "mll, per class": recall[best_per_class(ours), np.arange(recall.shape[1])],
    }
    return Outcome(
        {name: float(value) for name, value in accuracy.items()}, by_class, float(mll.overall[0]), estimates, truth
    )


def best_per_class(candidates: Candidates) -> NDArray[np.int64]:
    """[C] the model with the highest estimate of each class, less the standard error of its lead.

    What `mll` would choose if every class could have a model of its own. Of what a class differs from the mean over the
    classes, ``_CARRIED`` is believed: the slope of the interaction of model and class on that of model and concept, for
    21 real models on classes that are concepts (.31 to .35; .12 to .2 among the stronger ones).
    """
    labels, needs = candidates.labels, task_needs(candidates, class_weight=1)
    recall, errors = estimates(needs, measure_all(labels, needs), task_odds(labels, needs, candidates.domain))
    best = generally_best(labels.reference)
    level, error = recall.mean(axis=1, keepdims=True), lead_errors(errors, best)
    recall = level + _CARRIED * (recall - level)
    error[best] = 0
    chosen: NDArray[np.int64] = in_units(recall - error[:, None]).argmax(axis=0)
    return chosen


def hubs_of(world: RealWorld, draws: int, seed: int = 0) -> dict[str, list[list[int]]]:
    """Hubs by name, each with its draws: all models, capped ones, random ones, and those of the strong models alone."""
    n_models = len(world.labels)
    gflops = np.array([label.cost.gflops for label in world.labels.reference])
    strong = np.flatnonzero(world.benchmark > STRONG)
    hubs = {f"all {n_models}": [list(range(n_models))]}
    hubs |= {f"at most {cap} GFLOPs": [np.flatnonzero(gflops <= cap).tolist()] for cap in CAPS}
    hubs[f"ImageNet over {STRONG}"] = [strong.tolist()]
    rng = np.random.default_rng(seed)
    for name, pool in (("all", np.arange(n_models)), (f"ImageNet over {STRONG}", strong)):
        for size in HUB_SIZES:
            draw = [np.sort(rng.permutation(pool)[:size]).tolist() for _ in range(draws)]
            hubs[f"{size} at random of {name}"] = draw
    return {name: [hub for hub in of_name if hub] for name, of_name in hubs.items() if of_name[0]}


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RealResults:
    """Outcomes under one prompt set, by name of the hub: for each draw the outcome on every task."""

    world: RealWorld
    outcomes: dict[str, list[list[Outcome]]]

    def accuracy(self, hub: str, method: str) -> Floats:
        """[T] accuracy of a method on each task, mean over the draws of a hub."""
        rows = [[found.accuracy[method] for found in draw] for draw in self.outcomes[hub]]
        return np.round(np.mean(rows, axis=0, dtype=np.float64), _DIGITS)


def run_real(
    world: RealWorld, draws: int, seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> RealResults:
    """Run all methods on all tasks and hubs."""
    outcomes = {}
    for name, hubs in hubs_of(world, draws, seed).items():
        progress(f"{world.prompts}: {name}")
        outcomes[name] = [[outcome(world, task, hub) for task in world.tasks] for hub in hubs]
    return RealResults(world, outcomes)


def real_tables(results: Sequence[RealResults], seed: int = 0, lovm: Path | None = None) -> tuple[Table, ...]:
    """All tables, those of each prompt set first.

    Args:
        results: Outcomes under each prompt set.
        seed: Seed of the random hubs.
        lovm: Folder with LOVM's tables, to compare with ModelGPT.
    """
    return (
        *(choice_table(found) for found in results),
        *(difference_table(found) for found in results),
        *(quality_table(found) for found in results),
        *(measured_table(found) for found in results),
        *(estimate_table(found) for found in results),
        *(modelgpt_table(found, lovm) for found in results if lovm is not None),
        *(hubs_table(source, seed) for source in ("open_clip", "mteb", "mobileclip")),
    )


def choice_table(results: RealResults) -> Table:
    """Accuracy of each method by hub."""
    methods = (_RANDOM, *METHODS, _BEST)
    return Table(
        f"choice_{results.world.prompts}",
        f"Accuracy by hub, prompts `{results.world.prompts}`",
        f"Mean recall over the classes, averaged over {len(results.world.tasks)} data sets. Methods with k = 3 have "
        "the mean of their three models. `paper, k=1` and `paper, k=3` have that of the models that they choose for "
        "each class: an upper bound.",
        ("hub", "draws", *methods),
        tuple(
            (hub, len(draws), *(float(results.accuracy(hub, method).mean()) for method in methods))
            for hub, draws in results.outcomes.items()
        ),
        digits=4,
    )


def difference_table(results: RealResults) -> Table:
    """Each method against the generally best model: mean with interval over data sets, and the worst data set."""
    rows = []
    for hub in results.outcomes:
        general = results.accuracy(hub, "general")
        for method in (*METHODS, _BEST):
            if method == "general":
                continue
            difference = np.round(results.accuracy(hub, method) - general, _DIGITS)
            worst = int(difference.argmin())
            interval = bootstrap_tasks(mean_difference, [results.accuracy(hub, method), general])
            rows.append((hub, method, interval, float(difference[worst]), results.world.tasks[worst].dataset))
    return Table(
        f"difference_{results.world.prompts}",
        f"Against the generally best model, prompts `{results.world.prompts}`",
        "Difference in accuracy to strategy `general`, mean over data sets with a 95 % bootstrap interval over them, "
        "and the data set with the greatest loss.",
        ("hub", "method", "difference", "worst", "on"),
        tuple(rows),
        digits=4,
    )


def quality_table(results: RealResults) -> Table:
    """Recall under a choice per class, by how well the class matches a concept: an upper bound."""
    tasks = results.world.tasks
    edges = (*QUALITIES, np.inf)
    rows: list[tuple[Cell, ...]] = []
    for hub, draws in results.outcomes.items():
        for low, high in itertools.pairwise(edges):
            inside = [(task.quality >= low) & (task.quality < high) for task in tasks]
            used = [t for t, classes in enumerate(inside) if classes.any()]
            if not used:
                continue
            n_classes = np.array([inside[t].sum() for t in used])
            gains = []
            for method in ("paper, k=1", "mll, per class"):
                sums = [
                    np.mean([(d[t].by_class[method] - d[t].by_class["general"])[inside[t]].sum() for d in draws])
                    for t in used
                ]
                gains.append(bootstrap_tasks(_pooled_mean, [np.array(sums), n_classes]))
            label = f"{low:g} to {high:g}" if high < np.inf else f"{low:g} and above"
            rows.append((hub, label, len(used), int(n_classes.sum()), *gains))
    return Table(
        f"quality_{results.world.prompts}",
        f"Upper bound of a choice per class by quality of the match, prompts `{results.world.prompts}`",
        "Recall of classes under the model that is chosen for each class, less that under the generally best model; "
        "pooled over classes, with a 95 % bootstrap interval over data sets. An upper bound: no classifier can route "
        "an image by its true class. Quality is the cosine of the class name with the nearest lemma of the graph.",
        ("hub", "cosine", "data sets", "classes", "paper, k=1", "mll, best of each class"),
        tuple(rows),
        digits=4,
    )


def measured_table(results: RealResults) -> Table:
    """Recall under a choice per class, on classes that are concepts of the labels: an upper bound."""
    tasks = [(t, task) for t, task in enumerate(results.world.tasks) if task.measured.any()]
    n_classes = np.array([task.measured.sum() for _, task in tasks])
    rows: list[tuple[Cell, ...]] = []
    for hub, draws in results.outcomes.items():
        for method in ("paper, k=1", "mll, per class"):
            gains = [
                np.mean([(d[t].by_class[method] - d[t].by_class["general"])[task.measured].sum() for d in draws])
                for t, task in tasks
            ]
            pooled = bootstrap_tasks(_pooled_mean, [np.array(gains), n_classes])
            means = np.round(np.array(gains) / n_classes, _DIGITS)
            worst = int(means.argmin())
            rows.append((hub, method, int(n_classes.sum()), pooled, float(means[worst]), tasks[worst][1].dataset))
    return Table(
        f"measured_{results.world.prompts}",
        f"Upper bound of a choice per class, on classes that were measured, prompts `{results.world.prompts}`",
        "As the table before, but on the classes whose synset is a concept of the labels; with the data set with the "
        "least mean.",
        ("hub", "method", "classes", "difference", "worst", "on"),
        tuple(rows),
        digits=4,
    )


def _pooled_mean(sums: Floats, counts: Floats) -> Floats:
    pooled: Floats = sums.sum(axis=-1) / counts.sum(axis=-1)
    return pooled


def estimate_table(results: RealResults) -> Table:
    """Estimated accuracies of the model that `mll` chooses among all, against two that look at no label."""
    world = results.world
    kin = {dataset.id: dataset.kin for dataset in known_datasets()}
    draws = next(iter(results.outcomes.values()))[0]
    best = int(world.benchmark.argmax())
    rows = []
    for task, found in zip(world.tasks, draws, strict=True):
        others = [
            o.accuracy["mll, k=1"]
            for t, o in zip(world.tasks, draws, strict=True)
            if kin[t.dataset] != kin[task.dataset]
        ]
        errors = np.abs(found.estimates - found.truth).mean()
        rows.append(
            (
                task.dataset,
                float(task.match.coverage.mean()),
                found.accuracy["mll, k=1"],
                found.estimated,
                float(world.benchmark[best]),
                float(np.mean(others)),
                float(errors),
            )
        )
    truth, *estimated = (np.array([row[c] for row in rows]) for c in (2, 3, 4, 5))
    bias = [float((values - truth).mean()) for values in estimated]
    error = [float(np.abs(values - truth).mean()) for values in estimated]
    summary = (
        ("mean error", None, None, *error, float(np.mean([row[6] for row in rows]))),
        ("bias", None, None, *bias, None),
    )
    return Table(
        f"estimates_{world.prompts}",
        f"Recall on concepts of the chosen model, all {len(world.labels)} models, prompts `{world.prompts}`",
        "Recall on concepts is no estimate of accuracy: that of the model that `mll` chooses, against the model's "
        "accuracy on ImageNet and the mean accuracy of the chosen models on data sets that are no kin. The last column "
        "is its mean error over all models. Estimated accuracies are fitted to these data sets, so they are judged "
        "with whole kin groups left out, by `scripts/fit_accuracy.py`.",
        ("data set", "coverage", "accuracy", "recall on concepts", "ImageNet", "constant", "error over all models"),
        (*rows, *summary),
    )


def hubs_table(source: str, seed: int = 0, draws: int = 200) -> Table:
    """What choosing by ImageNet accuracy costs, by a table of published accuracies; there are no labels for these.

    Args:
        source: Id of the table.
        seed: Seed of the random hubs.
        draws: Number of random hubs.
    """
    table = accuracies(source)
    kin = {dataset.id: dataset.kin for dataset in known_datasets()}
    at = table.datasets.index("imagenet-1k")
    complete = np.isfinite(table.values).sum(axis=1) == np.isfinite(table.values).sum(axis=1).max()
    used = [d for d, name in enumerate(table.datasets) if kin[name] != "imagenet"]
    used = [d for d in used if np.isfinite(table.values[complete, d]).all()]
    values, imagenet = table.values[complete][:, used], table.values[complete, at]
    gflops = np.array([m.gflops or np.inf for m, c in zip(table.models, complete, strict=True) if c])
    hubs = {f"all {len(values)}": [np.arange(len(values))]}
    hubs |= {f"at most {cap} GFLOPs": [np.flatnonzero(gflops <= cap)] for cap in CAPS}
    rng = np.random.default_rng(seed)
    for size in HUB_SIZES:
        hubs[f"{size} at random"] = [np.sort(rng.permutation(len(values))[:size]) for _ in range(draws)]
    rows = []
    for name, of_name in hubs.items():
        found = []
        for hub in of_name:
            if not len(hub):
                continue
            own = values[hub]
            others = [[kin[table.datasets[e]] != kin[table.datasets[d]] for e in used] for d in used]
            fixed = np.mean([own[own[:, rest].mean(axis=1).argmax(), d] for d, rest in enumerate(others)])
            found.append((len(hub), own.mean(), own[imagenet[hub].argmax()].mean(), fixed, own.max(axis=0).mean()))
        if found:
            size, *means = np.mean(found, axis=0).tolist()
            rows.append((name, round(size), *means, means[3] - means[1]))
    return Table(
        f"hubs_{source}",
        f"Choosing by ImageNet accuracy: table `{source}`, {len(used)} data sets",
        "Accuracies averaged over data sets outside the ImageNet group. `best elsewhere` is the model that is best on "
        "the data sets that are no kin of the target. GFLOPs are those of one image and one text.",
        ("hub", "models", _RANDOM, BENCHMARK, "best elsewhere", _BEST, "regret"),
        tuple(rows),
        digits=4,
    )


def modelgpt_table(results: RealResults, folder: Path) -> Table:
    """All methods and ModelGPT, on the models and data sets that ModelGPT's published features have.

    Args:
        results: The world to run on.
        folder: Holds ``lovm_eval_table.csv`` and ``lovm_features.csv``.

    Raises:
        InputError: A table cannot be read, or has none of the models.
    """
    world = results.world
    truth, given = (read_lovm(folder / f, c) for f, c in ((EVALUATION_FILE, ("acc1",)), (FEATURES_FILE, FEATURES)))
    datasets = {name: d for d in known_datasets() for name in d.names.get("lovm", ())}
    models = tuple(dict.fromkeys(model for model, _ in truth))
    hub = [m for m, name in enumerate(_lovm_names(world)) if name in models]
    tasks = {t.dataset: t for t in world.tasks}
    shared = [name for name in dict.fromkeys(d for _, d in truth) if name in datasets and datasets[name].id in tasks]
    if not hub or not shared:
        raise InputError(f"{folder / FEATURES_FILE} has none of the models or data sets; take the published table")
    rows: list[tuple[Any, ...]] = []
    for name in shared:
        others = [d for d in dict.fromkeys(d for _, d in truth) if datasets[d].kin != datasets[name].kin]
        features = np.array([[given[m, d] for d in others] for m in models])
        known = np.array([[truth[m, d][0] for d in others] for m in models])
        ranked = modelgpt.rank(features, known, np.array([given[m, name] for m in models]))
        own = ranked[[models.index(_lovm_names(world)[m]) for m in hub]]
        task = tasks[datasets[name].id]
        found = outcome(world, task, hub).accuracy
        methods = [found[method] for method in METHODS]
        rows.append((task.dataset, float(task.accuracy[hub][own.argmax()]), *methods, found[_BEST]))
    means = [float(np.mean(column)) for column in list(zip(*rows, strict=True))[1:]]
    return Table(
        f"modelgpt_{world.prompts}",
        f"With ModelGPT: {len(hub)} models, prompts `{world.prompts}`",
        "ModelGPT with all of its features and ImageNet accuracy, fitted on LOVM's models and on data sets that are no "
        "kin; on the models and data sets that LOVM and the table of recall per class share.",
        ("data set", "ModelGPT", *METHODS, _BEST),
        (*rows, ("mean", *means)),
        digits=4,
    )


def _lovm_names(world: RealWorld) -> list[str]:
    return [name.replace("/", " ") for name in world.names]


def report_to_markdown(tables: Sequence[Table], facts: Mapping[str, str]) -> str:
    """The report as Markdown."""
    head = ["# Choosing among real models", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    return "\n".join([*head, str(__doc__).partition("\n\n")[2].strip(), "", *(table.to_markdown() for table in tables)])


def report_to_json(tables: Sequence[Table], facts: Mapping[str, str]) -> str:
    """The report as JSON."""
    return json.dumps({**facts, "tables": {table.name: table.to_json() for table in tables}}, indent=1) + "\n"
