"""Choosing among real models: labels from published recall per class, and the code of `select` on other datasets.

The published table has the recall of 21 models on every class of ImageNet, ImageNet-Sketch and ImageNet-R. ImageNet's
classes are WordNet synsets, so these three columns make a label on the graph of ImageNet's classes and their hypernyms,
in three domains (photo, sketch, rendition). All other datasets of the table are target tasks. No model is run.

What labels lack that are made from this table is said in `recall_labels.py`. The table has no answers to
single images either, so models cannot be combined. Where a method chooses models per class, the recall of a class is
that of its model. This is an upper bound, since no classifier can route an image by its true class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmark.metrics import bootstrap_tasks, mean_difference
from benchmark.recall_labels import SOURCES, labels_from_recalls
from benchmark.tables import Cell, Report, Table
from benchmark.world import MatchedClasses, no_rivals
from known_models.figures import known_datasets
from mll_hf.graph.concepts import GraphUnion
from mll_hf.labels.join import JoinedLabels
from mll_hf.matching import describe
from mll_hf.selection import SelectionConfig, Strategy, select

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from known_models.figures import ClassRecalls
    from mll_hf.matching.concept_index import ConceptIndex
    from mll_hf.selection import Selection

    Floats = NDArray[np.float64]
    Rows = NDArray[np.int64]

CAPS = (200, 100, 20)  # GFLOPs per image
HUB_SIZES = (5, 10)
STRONG = 0.6  # ImageNet accuracy; models below are research checkpoints trained on small sets
BENCHMARK = "ImageNet-best"
METHODS = (BENCHMARK, "general", "paper, one model", "paper, k=1", "paper, k=3", "mll, k=1", "mll, k=3")
_DIGITS = 9  # so that equal accuracies are equal in any order of summation
_RANDOM, _BEST = "random model", "best per data set"


@dataclass(frozen=True, eq=False)
class RealTask(MatchedClasses):
    """A dataset whose recall per class is published, C classes."""

    dataset: str  # its id
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
        JoinedLabels(GraphUnion.of([index.graph]), tuple((label,) for label in labels)).read_rivals(no_rivals),
        tuple(_task(recalls, name, index, prompts) for name in targets),
        recalls.of("imagenet-1k", prompts)[1].mean(axis=1),
        tuple(model.name for model in recalls.models),
    )


def _task(recalls: ClassRecalls, dataset: str, index: ConceptIndex, prompts: str) -> RealTask:
    classes, recall = recalls.of(dataset, prompts)
    domain = next(known.domain for known in known_datasets() if known.id == dataset)
    matched = MatchedClasses.of(describe.from_templates(classes, index.graph, domain, None), domain, index)
    hidden = tuple(f"thing {y}" for y in range(len(classes)))  # else figures published on this dataset would decide
    match, caption_match = replace(matched.match, classes=hidden), replace(matched.caption_match, classes=hidden)
    return RealTask(domain, match, caption_match, dataset, recall)


# --- methods ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Outcome:
    """Results of the methods with one hub on one task of C classes."""

    accuracy: dict[str, float]  # mean recall of each method's choice
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
    return Outcome({name: float(value) for name, value in accuracy.items()}, float(mll.overall[0]), estimates, truth)


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


def real_report(results: Sequence[RealResults], facts: Mapping[str, str]) -> Report:
    """All tables of the outcomes under each prompt set; ``facts`` say how they were made."""
    tables = (
        *(choice_table(found) for found in results),
        *(difference_table(found) for found in results),
        *(estimate_table(found) for found in results),
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
