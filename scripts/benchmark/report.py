"""The report of a benchmark: its tables, and how they were made."""

from __future__ import annotations

import platform
from importlib.metadata import distributions
from typing import TYPE_CHECKING

from benchmark.methods import GENERAL, ORACLE, OURS, PAPER, Group
from benchmark.metrics import LEVEL, RESAMPLES, bootstrap_tasks, mean_difference, mean_gap_closed, wilcoxon
from benchmark.scenarios import HUBS_PER_DRAW, Kind
from benchmark.tables import Cell, Report, Table
from mll_hf import __version__
from mll_hf.matching.prompts import DEFAULT_TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from benchmark.run import Results

_PACKAGES = ("numpy", "scipy", "torch", "open-clip-torch", "transformers", "huggingface-hub")


def make_report(results: Results, command: str) -> Report:
    """Make all tables; ``command``, the command that made them, is recorded.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    tables = (
        task_table(results),
        accuracy_table(results),
        comparison_table(results),
        *images_tables(results),
        *hub_tables(results),
        cost_table(results),
        model_table(results),
    )
    return Report("Benchmark", _facts(results, command), tables)


# --- tables -----------------------------------------------------------------------------------------------------------


def accuracy_table(results: Results) -> Table:
    """Accuracy of each method on each task."""
    note = (
        "Accuracy on each task, with all models and all images. Methods with labeled images: mean over draws; the "
        "labeled images are scored too."
    )
    rows: list[dict[str, Cell]] = [
        {"method": name, **_by_task(results, values), "mean": float(values.mean())}
        for name, values in results.per_task(Kind.ALL).items()
    ]
    return Table("accuracy", "Accuracy", note, rows)


def comparison_table(results: Results) -> Table:
    """Each method against the generally best model and against the paper."""
    accuracies, recalls = results.per_task(Kind.ALL), results.per_task(Kind.ALL, "recall")
    general, paper, best = accuracies[GENERAL], accuracies[PAPER], accuracies[ORACLE]
    seed = results.config.seed
    rows: list[dict[str, Cell]] = []
    for method in results.methods:
        values = accuracies[method.name]
        test = wilcoxon(values, general)
        rows.append(
            {
                "method": method.name,
                "looks at": str(method.group),
                "accuracy": float(values.mean()),
                "per-class recall": float(recalls[method.name].mean()),
                "minus general": bootstrap_tasks(mean_difference, [values, general], seed=seed),
                "worst task": float((values - general).min()),
                "W/L/T": f"{test.wins}/{test.losses}/{test.ties}",
                "p": test.p_value,
                "minus paper": bootstrap_tasks(mean_difference, [values, paper], seed=seed),
                "gap closed": bootstrap_tasks(mean_gap_closed, [values, general, best], seed=seed),
            }
        )
    note = (
        f"Against '{GENERAL}' and '{PAPER}', paired over {len(results.facts)} tasks: mean difference with a "
        f"{LEVEL:.0%} bootstrap interval over tasks ({RESAMPLES:,} resamples, seed {seed}), the worst task, "
        "wins/losses/ties and p of Wilcoxon's signed-rank test, and the share of the gap between the generally best "
        "model and the best model per task that is closed (ratio of means)."
    )
    return Table("comparison", "Comparison", note, rows)


def images_tables(results: Results) -> tuple[Table, Table]:
    """Methods by the images that they use: accuracy and gap closed."""
    titles = {
        Kind.IMAGES: "{:g} images",
        Kind.LONG_TAIL: f"{Kind.LONG_TAIL}, {{:g}}",
        Kind.ABSENT: f"{Kind.ABSENT}, {{:g}}",
        Kind.FREQUENT: "one class {:.0%}",
    }
    kinds = (Kind.IMAGES, Kind.ALL, Kind.LONG_TAIL, Kind.ABSENT, Kind.FREQUENT)
    columns = {
        titles.get(s.kind, str(s.kind)).format(s.value) + (" (scored on them)" if s.own else ""): s.name
        for s in results.planned(*kinds)
    }
    rows = [m.name for m in results.methods if m.group is Group.UNLABELED or m.name in (GENERAL, PAPER, OURS, ORACLE)]
    note = (
        "Chosen by this many unlabeled images (in some columns their classes are long-tailed 1 to 100, a third of "
        "the classes is missing, or one class has 60 or 30 % of the images), scored on all images of the task or, "
        "where a column says so, on those that were seen. Methods that see no "
        "images are there for comparison."
    )
    return _scenario_tables(results, "images", "unlabeled images", note, columns, rows)


def hub_tables(results: Results) -> tuple[Table, Table]:
    """Methods by the models that are available: accuracy and gap closed."""
    titles = {Kind.HUB: "{:g} models", Kind.CAPPED: "cheapest {:.0%}"}
    columns = {titles[s.kind].format(s.value): s.name for s in results.planned(*titles)} | {"all": str(Kind.ALL)}
    rows = [method.name for method in results.methods]
    note = (
        f"Random hubs ({HUBS_PER_DRAW * results.config.draws} of each size, the same for all methods and tasks), and "
        "hubs of the models up to a quantile of GFLOPs per image. General choice and oracle are those of the same hub."
    )
    return _scenario_tables(results, "hubs", "hub", note, columns, rows)


def _scenario_tables(
    results: Results, name: str, title: str, note: str, columns: dict[str, str], rows: Sequence[str]
) -> tuple[Table, Table]:
    """Mean accuracy and gap closed of methods (rows) in scenarios (columns)."""
    full = results.per_task(Kind.ALL)
    accuracies: list[dict[str, Cell]] = [{"method": method} for method in rows]
    gaps: list[dict[str, Cell]] = [{"method": method} for method in rows]
    for column, scenario in columns.items():
        here = results.per_task(scenario)
        if ORACLE not in here:  # methods that a scenario cannot affect were not run
            here = {**full, **here}
        for method, mean, gap in zip(rows, accuracies, gaps, strict=True):
            of = here.get(method)
            mean[column] = None if of is None else float(of.mean())
            gap[column] = None if of is None else float(mean_gap_closed(of, here[GENERAL], here[ORACLE]))
    return (
        Table(f"{name}_accuracy", f"Accuracy by {title}", f"Means over tasks and draws. {note}", accuracies),
        Table(f"{name}_gap", f"Gap closed by {title}", f"Ratios of such means. {note}", gaps),
    )


def cost_table(results: Results) -> Table:
    """The cost of the methods."""
    columns = {"GFLOPs per image": "gflops", "models": "n_models", "seconds to choose": "seconds"}
    values = {column: results.per_task(Kind.ALL, field) for column, field in columns.items()}
    note = (
        "Means over tasks: of the models that classify an image, and the time to choose from logits and embeddings. "
        "Not included: running all models once on the images that a method looks at, which labels save."
    )
    rows: list[dict[str, Cell]] = [
        {"method": m.name, **{column: float(of[m.name].mean()) for column, of in values.items()}}
        for m in results.methods
    ]
    return Table("cost", "Cost", note, rows)


def model_table(results: Results) -> Table:
    """Each model alone."""
    labels, general, accuracies = results.suite.hub.labels, results.general, results.accuracies
    rows: list[dict[str, Cell]] = [
        {
            "model": label.model.short_name,
            "revision": label.model.revision[:12],
            "GFLOPs": label.cost.gflops,
            "label": label.mean_recall,
            "general benchmark": float(general.accuracies[m]) if general else None,
            **_by_task(results, accuracies[m]),
            "mean": float(accuracies[m].mean()),
        }
        for m, label in enumerate(labels)
    ]
    best = [
        f"{labels[m].model.short_name} on {facts.name}"
        for m, facts in zip(accuracies.argmax(axis=0), results.facts, strict=True)
    ]
    return Table("models", "Models", f"Accuracy of each model alone. The best: {', '.join(best)}.", rows)


def _by_task(results: Results, values: NDArray[np.float64]) -> dict[str, Cell]:
    return dict(zip((facts.name for facts in results.facts), values.tolist(), strict=True))


# --- inputs -----------------------------------------------------------------------------------------------------------


def task_table(results: Results) -> Table:
    """The tasks and the general benchmark."""
    tasks = zip((*results.suite.tasks, results.suite.general), (*results.facts, results.general), strict=True)
    rows: list[dict[str, Cell]] = [
        {
            "task": task.name,
            "role": "general benchmark" if task is results.suite.general else "target",
            "images": facts.n_images,
            "classes": len(task.classes),
            "revision": task.revision,
        }
        for task, facts in tasks
        if task is not None and facts is not None
    ]
    return Table("tasks", "Tasks", "The revision is a digest of images, labels and classes.", rows)


def _facts(results: Results, command: str) -> dict[str, str]:
    hub, config = results.suite.hub, results.config
    installed = {d.name.lower().replace("_", "-"): d.version for d in distributions()}
    versions = {"mll_hf": __version__, "python": platform.python_version()}
    versions |= {package: installed[package] for package in _PACKAGES if package in installed}
    return {
        "command": command,
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "graph of the labels": f"{hub.graph.name} ({hub.graph.digest[:12]}, {len(hub.graph):,} concepts)",
        "the paper's Eq. 5": "exact, from probe embeddings" if hub.embeddings else "estimated from the labels",
        "text encoder": results.encoder,
        "prompt": DEFAULT_TEMPLATE,
        "seed": str(config.seed),
        "draws": str(config.draws),
    }
