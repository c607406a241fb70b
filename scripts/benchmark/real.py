"""Choosing among real models: labels from published recall per class, and the code of `select` on other datasets.

The published table has the recall of 21 models on every class of ImageNet, ImageNet-Sketch and ImageNet-R. ImageNet's
classes are WordNet synsets, so these three columns make a label on the graph of ImageNet's classes and their hypernyms,
in three domains (photo, sketch, rendition). All other datasets of the table are target tasks. No model is run.

What labels lack that are made from this table is said in `mll_hf/models/published.py`. The table has no answers to
single images either, so models cannot be combined. Where a method chooses models per class, the recall of a class is
that of its model. This is an upper bound, since no classifier can route an image by its true class.
"""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from benchmark.baselines import modelgpt
from benchmark.metrics import bootstrap_tasks, mean_difference
from benchmark.tables import Cell, Report, Table
from benchmark.world import MatchedClasses
from mll_hf.errors import InputError
from mll_hf.graph.union import GraphUnion
from mll_hf.labels.join import JoinedLabels
from mll_hf.matching import describe
from mll_hf.matching.prompts import clean_class_name
from mll_hf.models.known import accuracies, known_datasets
from mll_hf.models.published import SOURCES, labels_from_recalls
from mll_hf.selection import Candidates, SelectionConfig, Strategy, select
from mll_hf.selection.base import quantize
from mll_hf.selection.mll import (
    best_by_mean_recall,
    estimates,
    lead_errors,
    measure_all,
    task_odds_ratios,
    task_query,
)
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mll_hf.matching.concept_index import ConceptIndex
    from mll_hf.models.known import ClassRecalls
    from mll_hf.selection import Selection

    Floats = NDArray[np.float64]
    Rows = NDArray[np.int64]

CAPS = (200, 100, 20)  # GFLOPs per image
HUB_SIZES = (5, 10)
STRONG = 0.6  # ImageNet accuracy; models below are research checkpoints trained on small sets
BENCHMARK = "ImageNet-best"
METHODS = (BENCHMARK, "general", "paper, one model", "paper, k=1", "paper, k=3", "mll, k=1", "mll, k=3")
PER_CLASS = ("paper, k=1", "mll, per class")
QUALITIES = (0.0, 0.6, 0.8, 0.9, 0.98, np.inf)  # edges of bins of the cosine
EVALUATION_FILE, FEATURES_FILE = "lovm_eval_table.csv", "lovm_features.csv"  # tables of github.com/orrzohar/LOVM
FEATURES = ("IN-score", *modelgpt.TEXT_FEATURES)
_CARRIED = 0.3
_DIGITS = 9  # so that equal accuracies are equal in any order of summation
_RANDOM, _BEST = "random model", "best per data set"


@dataclass(frozen=True, eq=False)
class RealTask(MatchedClasses):
    """A dataset whose recall per class is published, C classes."""

    dataset: str  # its id
    quality: Floats  # [C] cosine of the class name with the nearest lemma of the graph
    measured: NDArray[np.bool_]  # [C] whether the class is a concept of the labels, see :func:`class_synsets`
    recall: Floats  # [M, C] recall of the models

    @property
    def accuracy(self) -> Floats:
        """[M] mean recall over the classes."""
        return self.recall.mean(axis=1)


@dataclass(frozen=True, eq=False)
class RealWorld:
    """Labels of M real models, and target tasks."""

    prompts: str  # the prompt set of the figures
    labels: JoinedLabels  # all on one graph
    tasks: tuple[RealTask, ...]
    benchmark: Floats  # [M] mean recall on ImageNet's photos
    names: tuple[str, ...]  # [M] names of the models, see `KnownModel.name`


# --- labels and tasks -------------------------------------------------------------------------------------------------


def real_world(recalls: ClassRecalls, index: ConceptIndex, prompts: str) -> RealWorld:
    """Labels and tasks from a table of recall per class.

    Args:
        recalls: The table.
        index: Graph of ImageNet's classes, with its texts.
        prompts: Prompt set.

    Raises:
        InputError: The graph is a different one.
    """
    targets = [name for name in dict.fromkeys(recalls.datasets) if name not in SOURCES]
    labels = labels_from_recalls(recalls, prompts)
    return RealWorld(
        prompts,
        JoinedLabels(GraphUnion.of([index.graph]), tuple((label,) for label in labels)),
        tuple(_task(recalls, name, index, prompts) for name in targets),
        recalls.of("imagenet-1k", prompts)[1].mean(axis=1),
        tuple(model.name for model in recalls.models),
    )


def _task(recalls: ClassRecalls, dataset: str, index: ConceptIndex, prompts: str) -> RealTask:
    classes, recall = recalls.of(dataset, prompts)
    domain = next(known.domain for known in known_datasets() if known.id == dataset)
    matched = MatchedClasses.of(describe.from_templates(classes, index.graph, domain, None), domain, index)
    cosines = index.name_cosines([clean_class_name(name) for name in classes])
    measured = [class_synsets().get((dataset, name)) in index.graph.index for name in classes]
    return RealTask(
        domain, matched.match, matched.caption_match, dataset, cosines.max(axis=1), np.array(measured, np.bool_), recall
    )


@cache
def class_synsets() -> dict[tuple[str, str], str]:
    """The WordNet synset of each class that is one of ImageNet's concepts, by dataset and class.

    Matched by name if only one concept has the name, else the sense was chosen by hand; a few names differ.
    """
    file = resources.files("benchmark").joinpath("data", "class_synsets.csv")
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return {(row["dataset"], row["class"]): row["synset"] for row in rows}


# --- methods ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Outcome:
    """Results of the methods with one hub on one task of C classes."""

    accuracy: dict[str, float]  # mean recall of each method's choice
    by_class: dict[str, Floats]  # [C] recall of the choice per class, for methods that choose per class and `general`
    estimated: float  # accuracy that `mll` estimates of the model that it chooses, before the truth is known
    estimates: Floats  # [H] the same for all models of the hub
    truth: Floats  # [H] their accuracies


def outcome(world: RealWorld, task: RealTask, hub: Rows) -> Outcome:
    """Run all methods on one task, with the models of a hub."""
    labels = world.labels.subset(hub.tolist())
    truth, recall = task.accuracy[hub], task.recall[hub]
    row = {ref: m for m, ref in enumerate(labels.models)}

    def run(strategy: Strategy, k: int) -> tuple[Selection, Floats]:
        selection = select(task.candidates(labels, strategy), SelectionConfig(strategy=strategy, k=k))
        rows = [row[model.ref] for model in selection.models]
        chosen = selection.chosen.astype(np.float64)
        return selection, (chosen * recall[rows]).sum(axis=0) / chosen.sum(axis=0)

    _general, of_general = run(Strategy.GENERAL, 1)
    mll, of_mll = run(Strategy.MLL, 1)
    paper_1, of_paper_1 = run(Strategy.PAPER, 1)
    estimates = np.empty(len(hub))
    estimates[[row[model.ref] for model in mll.models]] = mll.overall
    accuracy = {
        BENCHMARK: truth[int(np.argmax(world.benchmark[hub]))],
        "general": of_general.mean(),
        "paper, one model": truth[row[paper_1.models[0].ref]],
        "paper, k=1": of_paper_1.mean(),
        "paper, k=3": run(Strategy.PAPER, 3)[1].mean(),
        "mll, k=1": of_mll.mean(),
        "mll, k=3": run(Strategy.MLL, 3)[1].mean(),
        _RANDOM: truth.mean(),
        _BEST: truth.max(),
    }
    best = best_per_class(task.candidates(labels, Strategy.MLL))
    per_class = of_paper_1, recall[best, np.arange(recall.shape[1])]
    by_class = {"general": of_general, **dict(zip(PER_CLASS, per_class, strict=True))}
    return Outcome(
        {name: float(value) for name, value in accuracy.items()}, by_class, float(mll.overall[0]), estimates, truth
    )


def best_per_class(candidates: Candidates) -> Rows:
    """[C] the model with the highest estimate for each class, minus the standard error of its lead.

    What `mll` would choose if every class could have its own model. A class's deviation from the mean over the classes
    is multiplied by ``_CARRIED``: the slope of the interaction of model and class on that of model and concept, for 21
    real models on classes that are concepts (.31 to .35; .12 to .2 among the stronger ones).
    """
    labels, query = candidates.labels, task_query(candidates, class_weight=1)
    recall, errors = estimates(query, measure_all(labels, query), task_odds_ratios(labels, query, candidates.domain))
    best = best_by_mean_recall(labels.reference)
    level, error = recall.mean(axis=1, keepdims=True), lead_errors(errors, best)
    recall = level + _CARRIED * (recall - level)
    error[best] = 0
    chosen: Rows = quantize(recall - error[:, None]).argmax(axis=0)
    return chosen


def hubs_of(gflops: Floats, pools: Mapping[str, Rows], draws: int, seed: int = 0) -> dict[str, list[Rows]]:
    """Hubs by name, each with its draws.

    Args:
        gflops: [M] GFLOPs of the models.
        pools: Subsets of the models by name, which are hubs themselves.
        draws: Number of random hubs of each size, from all models and from each subset.
        seed: Seed of the draws.
    """
    everything = np.arange(len(gflops))
    hubs = {f"all {len(gflops)}": [everything]}
    hubs |= {f"at most {cap} GFLOPs": [np.flatnonzero(gflops <= cap)] for cap in CAPS}
    hubs |= {name: [pool] for name, pool in pools.items()}
    rng = np.random.default_rng(seed)
    for name, pool in {"all": everything, **pools}.items():
        for size in HUB_SIZES:
            hubs[f"{size} at random of {name}"] = [np.sort(rng.permutation(pool)[:size]) for _ in range(draws)]
    return {name: of_name for name, of_name in hubs.items() if len(of_name[0])}


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

    def gained(self, hub: str, method: str, classes: Sequence[NDArray[np.bool_]]) -> Floats:
        """[T] sum of the gains in recall over `general`, over some classes of each task [C]."""
        sums = []
        for draw in self.outcomes[hub]:
            gains = [found.by_class[method] - found.by_class["general"] for found in draw]
            sums.append([gain[part].sum() for gain, part in zip(gains, classes, strict=True)])
        mean: Floats = np.mean(sums, axis=0)
        return mean


def run_real(
    world: RealWorld, draws: int, seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> RealResults:
    """Run all methods on all tasks, with all models, capped hubs, random hubs, and the strong models only."""
    gflops = np.array([label.cost.gflops for label in world.labels.reference])
    strong = {f"ImageNet over {STRONG}": np.flatnonzero(world.benchmark > STRONG)}
    outcomes = {}
    for name, hubs in hubs_of(gflops, strong, draws, seed).items():
        progress(f"{world.prompts}: {name}")
        outcomes[name] = [[outcome(world, task, hub) for task in world.tasks] for hub in hubs]
    return RealResults(world, outcomes)


def real_report(
    results: Sequence[RealResults], facts: Mapping[str, str], seed: int = 0, lovm: Path | None = None
) -> Report:
    """All tables, those of each prompt set first.

    Args:
        results: Outcomes under each prompt set.
        facts: How they were made.
        seed: Seed of the random hubs.
        lovm: Folder with LOVM's tables, to compare with ModelGPT.

    Raises:
        InputError: A table of LOVM cannot be read, or has none of the models.
    """
    tables = (
        *(choice_table(found) for found in results),
        *(difference_table(found) for found in results),
        *(quality_table(found) for found in results),
        *(measured_table(found) for found in results),
        *(estimate_table(found) for found in results),
        *(modelgpt_table(found, lovm) for found in results if lovm is not None),
        *(hubs_table(source, seed) for source in ("open_clip", "mteb", "mobileclip")),
    )
    return Report("Choosing among real models", facts, tables, str(__doc__).partition("\n\n")[2].strip())


def choice_table(results: RealResults) -> Table:
    """Accuracy of each method by hub."""
    methods = (_RANDOM, *METHODS, _BEST)
    rows: list[dict[str, Cell]] = [
        {"hub": hub, "draws": len(draws), **{m: float(results.accuracy(hub, m).mean()) for m in methods}}
        for hub, draws in results.outcomes.items()
    ]
    return Table(
        f"choice_{results.world.prompts}",
        f"Accuracy by hub, prompts `{results.world.prompts}`",
        f"Mean recall over the classes, averaged over {len(results.world.tasks)} datasets. Methods with k = 3 have "
        "the mean of their three models. `paper, k=1` and `paper, k=3` have that of the models that they choose for "
        "each class: an upper bound.",
        rows,
        digits=4,
    )


def difference_table(results: RealResults) -> Table:
    """Each method compared with the generally best model: mean with interval over datasets, and the worst dataset."""
    rows: list[dict[str, Cell]] = []
    for hub in results.outcomes:
        general = results.accuracy(hub, "general")
        for method in (*METHODS, _BEST):
            if method == "general":
                continue
            difference = np.round(results.accuracy(hub, method) - general, _DIGITS)
            interval = bootstrap_tasks(mean_difference, [results.accuracy(hub, method), general])
            rows.append({"hub": hub, "method": method, "difference": interval, **_worst(difference, results)})
    return Table(
        f"difference_{results.world.prompts}",
        f"Against the generally best model, prompts `{results.world.prompts}`",
        "Difference in accuracy to strategy `general`, mean over datasets with a 95 % bootstrap interval over them, "
        "and the dataset with the greatest loss.",
        rows,
        digits=4,
    )


def _worst(differences: Floats, results: RealResults) -> dict[str, Cell]:
    """The smallest of the differences [T], and its dataset."""
    worst = int(differences.argmin())
    return {"worst": float(differences[worst]), "on": results.world.tasks[worst].dataset}


def quality_table(results: RealResults) -> Table:
    """Recall under a choice per class, by how well the class matches a concept: an upper bound."""
    rows: list[dict[str, Cell]] = []
    for hub in results.outcomes:
        for low, high in itertools.pairwise(QUALITIES):
            inside = [(task.quality >= low) & (task.quality < high) for task in results.world.tasks]
            n_classes = np.array([part.sum() for part in inside])
            if not n_classes.any():
                continue
            rows.append(
                {
                    "hub": hub,
                    "cosine": f"{low:g} to {high:g}" if high < np.inf else f"{low:g} and above",
                    "data sets": int((n_classes > 0).sum()),
                    "classes": int(n_classes.sum()),
                    **{method: _pooled(results.gained(hub, method, inside), n_classes) for method in PER_CLASS},
                }
            )
    return Table(
        f"quality_{results.world.prompts}",
        f"Upper bound of a choice per class by quality of the match, prompts `{results.world.prompts}`",
        "Recall of classes under the model that is chosen for each class, less that under the generally best model; "
        "pooled over classes, with a 95 % bootstrap interval over datasets. An upper bound: no classifier can route "
        "an image by its true class. Quality is the cosine of the class name with the nearest lemma of the graph.",
        rows,
        digits=4,
    )


def measured_table(results: RealResults) -> Table:
    """Recall under a choice per class, on classes that are concepts of the labels: an upper bound."""
    inside = [task.measured for task in results.world.tasks]
    n_classes = np.array([part.sum() for part in inside])
    rows: list[dict[str, Cell]] = []
    for hub in results.outcomes:
        for method in PER_CLASS:
            gained = results.gained(hub, method, inside)
            means = np.array([gain / n if n else np.inf for gain, n in zip(gained, n_classes, strict=True)])
            counted = {"classes": int(n_classes.sum()), "difference": _pooled(gained, n_classes)}
            rows.append({"hub": hub, "method": method, **counted, **_worst(np.round(means, _DIGITS), results)})
    return Table(
        f"measured_{results.world.prompts}",
        f"Upper bound of a choice per class, on classes that were measured, prompts `{results.world.prompts}`",
        "As the table before, but on the classes whose synset is a concept of the labels; with the dataset with the "
        "least mean.",
        rows,
        digits=4,
    )


def _pooled(gained: Floats, n_classes: Rows) -> Cell:
    """The gain [T] divided by the number of classes [T]; datasets without a class are ignored."""

    def pooled_mean(sums: Floats, counts: Floats) -> Floats:
        mean: Floats = sums.sum(axis=-1) / counts.sum(axis=-1)
        return mean

    some = n_classes > 0
    return bootstrap_tasks(pooled_mean, [gained[some], n_classes[some].astype(np.float64)])


def estimate_table(results: RealResults) -> Table:
    """Estimated accuracies of the model that `mll` chooses among all, compared with two that use no label."""
    world = results.world
    kin = {dataset.id: dataset.kin for dataset in known_datasets()}
    outcomes = next(iter(results.outcomes.values()))[0]
    chosen = np.array([found.accuracy["mll, k=1"] for found in outcomes])
    groups = np.array([kin[task.dataset] for task in world.tasks])
    rows: list[dict[str, Cell]] = [
        {
            "data set": task.dataset,
            "coverage": float(task.match.coverage.mean()),
            "accuracy": found.accuracy["mll, k=1"],
            "recall on concepts": found.estimated,
            "ImageNet": float(world.benchmark.max()),
            "constant": float(chosen[groups != kin[task.dataset]].mean()),
            "error over all models": float(np.abs(found.estimates - found.truth).mean()),
        }
        for task, found in zip(world.tasks, outcomes, strict=True)
    ]
    errors = {column: np.array([row[column] for row in rows]) - chosen for column in list(rows[0])[3:6]}
    mean: Cell = float(np.mean([row["error over all models"] for row in rows]))

    def summary(name: str, of: Callable[[Floats], Floats], last: Cell) -> dict[str, Cell]:
        figures = {column: float(of(values)) for column, values in errors.items()}
        return {"data set": name, "coverage": None, "accuracy": None, **figures, "error over all models": last}

    rows += [summary("mean error", lambda values: np.abs(values).mean(), mean), summary("bias", np.mean, None)]
    return Table(
        f"estimates_{world.prompts}",
        f"Recall on concepts of the chosen model, all {len(world.labels)} models, prompts `{world.prompts}`",
        "Recall on concepts is no estimate of accuracy: that of the model that `mll` chooses, against the model's "
        "accuracy on ImageNet and the mean accuracy of the chosen models on datasets that are no kin. The last column "
        "is its mean error over all models. Estimated accuracies are fitted to these datasets, so they are judged "
        "with whole kin groups left out, by `scripts/known_models/fit_accuracy.py`.",
        rows,
    )


def hubs_table(source: str, seed: int = 0, draws: int = 200) -> Table:
    """The cost of choosing by ImageNet accuracy, in a table of published accuracies without labels.

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
    others = [[kin[table.datasets[e]] != kin[table.datasets[d]] for e in used] for d in used]
    rows: list[dict[str, Cell]] = []
    for name, hubs in hubs_of(gflops, {}, draws, seed).items():
        found = []
        for hub in hubs:
            own = values[hub]
            elsewhere = np.mean([own[own[:, rest].mean(axis=1).argmax(), d] for d, rest in enumerate(others)])
            by_imagenet = own[imagenet[hub].argmax()].mean()
            found.append((own.mean(), by_imagenet, elsewhere, own.max(axis=0).mean()))
        means = dict(zip((_RANDOM, BENCHMARK, "best elsewhere", _BEST), np.mean(found, axis=0).tolist(), strict=True))
        regret = means[_BEST] - means[BENCHMARK]
        rows.append({"hub": name, "models": len(hubs[0]), **means, "regret": regret})
    return Table(
        f"hubs_{source}",
        f"Choosing by ImageNet accuracy: table `{source}`, {len(used)} datasets",
        "Accuracies averaged over datasets outside the ImageNet group. `best elsewhere` is the model that is best on "
        "the datasets that are no kin of the target. GFLOPs are those of one image and one text.",
        rows,
        digits=4,
    )


# --- ModelGPT ---------------------------------------------------------------------------------------------------------


def modelgpt_table(results: RealResults, folder: Path) -> Table:
    """All methods and ModelGPT, on the models and datasets of ModelGPT's published features.

    Args:
        results: The world to run on.
        folder: The folder of ``lovm_eval_table.csv`` and ``lovm_features.csv``.

    Raises:
        InputError: A table cannot be read, or has none of the models.
    """
    world = results.world
    truth, given = read_lovm(folder / EVALUATION_FILE, ("acc1",)), read_lovm(folder / FEATURES_FILE, FEATURES)
    models, datasets = (tuple(dict.fromkeys(key[side] for key in truth)) for side in (0, 1))
    known = {name: d for d in known_datasets() for name in d.names.get("lovm", ())}
    place = {model: m for m, model in enumerate(models)}
    names = [name.replace("/", " ") for name in world.names]
    hub = np.array([m for m, name in enumerate(names) if name in place], np.int64)
    tasks = {task.dataset: task for task in world.tasks}
    shared = [name for name in datasets if name in known and known[name].id in tasks]
    if not len(hub) or not shared:
        raise InputError(f"{folder / FEATURES_FILE} has none of the models or datasets; take the published table")
    rows: list[dict[str, Cell]] = []
    for name in shared:
        others = [other for other in datasets if known[other].kin != known[name].kin]
        features = np.array([[given[model, other] for other in others] for model in models])
        accuracy = np.array([[truth[model, other][0] for other in others] for model in models])
        ranked = modelgpt.rank(features, accuracy, np.array([given[model, name] for model in models]))
        best = hub[ranked[[place[names[m]] for m in hub]].argmax()]
        task = tasks[known[name].id]
        found = outcome(world, task, hub).accuracy
        methods = {method: found[method] for method in (*METHODS, _BEST)}
        rows.append({"data set": task.dataset, "ModelGPT": float(task.accuracy[best]), **methods})
    means = {column: float(np.mean([row[column] for row in rows])) for column in list(rows[0])[1:]}
    return Table(
        f"modelgpt_{world.prompts}",
        f"With ModelGPT: {len(hub)} models, prompts `{world.prompts}`",
        "ModelGPT with all of its features and ImageNet accuracy, fitted on LOVM's models and on datasets that are no "
        "kin; on the models and datasets that LOVM and the table of recall per class share.",
        [*rows, {"data set": "mean", **means}],
        digits=4,
    )


def read_lovm(path: Path, columns: Sequence[str]) -> dict[tuple[str, str], list[float]]:
    """Values of some columns of a table of LOVM, by model (as in ``ViT-B-32 openai``) and dataset.

    Raises:
        InputError: The table is missing, or not the published one.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError("no rows")
        return {(row["model_fullname"], row["dataset"]): [float(row[column]) for column in columns] for row in rows}
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({one_line(error)}); take the published table") from None
