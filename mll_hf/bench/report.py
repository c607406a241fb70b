"""What the benchmark found, as tables: the same for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf import __version__
from mll_hf.bench.baselines.choices import oracle
from mll_hf.bench.methods import ALPHAS, DEPTHS, GENERAL, OURS, PAPER, SEES_SAMPLES, Method
from mll_hf.bench.methods import ORACLE as ORACLE_METHOD
from mll_hf.bench.metrics import BootstrapConfig, Interval, bootstrap_tasks, mean_difference, mean_gap_closed, wilcoxon
from mll_hf.bench.scenarios import HUBS_PER_DRAW, Kind, Scenario, scenarios
from mll_hf.utils.text import markdown_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mll_hf.bench.run import Ranking, Record, Results

Cell = str | int | float | Interval | None
_ALL = str(Kind.ALL)
_PACKAGES = ("numpy", "scipy", "pot", "torch", "open-clip-torch", "transformers", "huggingface-hub")


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: Its key in JSON.
        title: Its heading.
        note: How to read it.
        columns: Headings of the columns.
        rows: Their cells; None for what was not measured or does not apply.
    """

    name: str
    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def to_json(self) -> list[dict[str, Any]]:
        """A list of rows, by column."""
        return [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]

    def to_markdown(self) -> str:
        """Heading, note and table."""
        numeric = [all(not isinstance(row[at], str) for row in self.rows) for at in range(len(self.columns))]
        rule = ["---:" if right else "---" for right in numeric]
        rows = [[shown(cell) for cell in row] for row in self.rows]
        return "\n".join([f"## {self.title}", "", self.note, "", *markdown_table(self.columns, rule, rows), ""])


@dataclass(frozen=True)
class BenchReport:
    """All tables, and what made them.

    Attributes:
        facts: Command, versions, seeds and revisions, as plain JSON.
        tables: The tables in order.
    """

    facts: dict[str, Any]
    tables: tuple[Table, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        return {**self.facts, "tables": {table.name: table.to_json() for table in self.tables}}

    def to_markdown(self) -> str:
        """Everything as a page of Markdown."""
        return "\n".join(["# Benchmark", "", *_facts_in_words(self.facts), *(t.to_markdown() for t in self.tables)])


def make_report(results: Results, command: str) -> BenchReport:
    """Aggregate results.

    Args:
        results: From :func:`mll_hf.bench.run.run`.
        command: What made them, for the record.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    tables = (
        accuracy_table(results),
        comparison_table(results),
        ranking_table(results),
        *images_tables(results),
        *hub_tables(results),
        *ablation_tables(results),
        cost_table(results),
        model_table(results),
    )
    return BenchReport(_facts(results, command), tables)


# --- tables -----------------------------------------------------------------------------------------------------------


def accuracy_of(record: Record) -> float:
    """Its accuracy."""
    return record.accuracy


def accuracy_table(results: Results) -> Table:
    """Accuracy of every method on every task, all images at hand."""
    accuracies = results.per_task(_ALL, accuracy_of)
    rows: list[tuple[Cell, ...]] = [
        (name, *values.tolist(), float(values.mean())) for name, values in accuracies.items()
    ]
    return Table(
        "accuracy",
        "Accuracy",
        "Share of a task's images that are answered rightly; all models, all images. "
        "Methods with labeled images: mean over draws; these images are among those that count.",
        ("method", *(facts.name for facts in results.facts), "mean"),
        tuple(rows),
    )


def comparison_table(results: Results) -> Table:
    """Every method against the generally best model and against the paper."""
    accuracies = results.per_task(_ALL, accuracy_of)
    recalls = results.per_task(_ALL, lambda record: record.recall)
    general, paper, best = accuracies[GENERAL], accuracies[PAPER], accuracies[ORACLE_METHOD]
    bootstrap = BootstrapConfig(seed=results.config.seed)
    rows = []
    for method in _methods(results):
        values = accuracies[method.name]
        test = wilcoxon(values, general)
        rows.append(
            (
                method.name,
                str(method.group),
                float(values.mean()),
                float(recalls[method.name].mean()),
                bootstrap_tasks(mean_difference, [values, general], bootstrap),
                float((values - general).min()),
                f"{test.wins}/{test.losses}/{test.ties}",
                test.p_value,
                bootstrap_tasks(mean_difference, [values, paper], bootstrap),
                bootstrap_tasks(mean_gap_closed, [values, general, best], bootstrap),
            )
        )
    return Table(
        "comparison",
        "Comparison",
        f"Against '{GENERAL}' and '{PAPER}', paired over {len(results.facts)} tasks: mean difference with a "
        f"{bootstrap.level:.0%} bootstrap interval over tasks ({bootstrap.resamples:,} resamples, seed "
        f"{bootstrap.seed}), the worst task, wins/losses/ties and p of Wilcoxon's signed-rank test, and the share of "
        "the gap between the generally best model and the best model per task that is closed (ratio of means).",
        (
            "method",
            "looks at",
            "accuracy",
            "per-class recall",
            "minus general",
            "worst task",
            "W/L/T",
            "p",
            "minus paper",
            "gap closed",
        ),
        tuple(rows),
    )


def ranking_table(results: Results) -> Table:
    """How well methods that score models rank them."""
    columns: dict[str, Callable[[Ranking], float | None]] = {
        "R5": lambda ranking: ranking.overlap,
        "tau5": lambda ranking: ranking.top_kendall,
        "Kendall": lambda ranking: ranking.kendall,
        "Spearman": lambda ranking: ranking.spearman,
        "regret": lambda ranking: ranking.regret,
        "Hit@1": lambda ranking: ranking.hit,
        "L1": lambda ranking: ranking.l1,
    }
    of_method: dict[str, list[Ranking]] = {}
    for record in results.records:
        if record.scenario == _ALL and record.ranking is not None:
            of_method.setdefault(record.method, []).append(record.ranking)
    rows = [
        (name, *(_mean([value(ranking) for ranking in rankings]) for value in columns.values()))
        for name, rankings in of_method.items()
    ]
    return Table(
        "ranking",
        "Ranking of the models",
        "Means over tasks. R5 and tau5 as LOVM defines them, Kendall's tau-b and Spearman over all models, the regret "
        "of the first model, how often it is the best, and LOVM's L1 where accuracies are predicted.",
        ("method", *columns),
        tuple(rows),
    )


def images_tables(results: Results) -> tuple[Table, Table]:
    """Methods by which images they see and how models are scaled: accuracy and gap closed."""
    kinds = (Kind.IMAGES, Kind.ALL, Kind.LONG_TAIL, Kind.ABSENT, Kind.SCALED, Kind.MISCALIBRATED)
    columns = {_images_title(scenario): scenario.name for scenario in _planned(results, kinds)}
    seen = {m.name for m in _methods(results) if m.group in SEES_SAMPLES and not m.transductive}
    rows = [m.name for m in _methods(results) if m.name in {*seen, GENERAL, PAPER, OURS, ORACLE_METHOD}]
    note = (
        "Chosen by so many unlabeled images (of which, in two columns, the classes are long-tailed 1 to 100, or a "
        "third of the classes is missing), always measured on all images of the task. Scaled: each model's logits "
        "times a factor from 1/4 to 4, before its label was measured or after. Methods that see no images are there "
        "for comparison."
    )
    return _scenario_tables(results, "images", "unlabeled images", note, columns, rows)


def _images_title(scenario: Scenario) -> str:
    match scenario.kind:
        case Kind.IMAGES:
            return f"{scenario.value:g} images"
        case Kind.LONG_TAIL | Kind.ABSENT:
            return f"{scenario.kind}, {scenario.value:g}"
        case _:
            return str(scenario.kind)


def hub_tables(results: Results) -> tuple[Table, Table]:
    """Methods by which models there are: accuracy and gap closed."""
    columns = {
        (f"{s.value:g} models" if s.kind is Kind.HUB else f"cheapest {s.value:.0%}"): s.name
        for s in _planned(results, (Kind.HUB, Kind.CAPPED))
    } | {"all": _ALL}
    rows = [method.name for method in _methods(results) if not method.transductive]
    note = (
        f"Random hubs ({HUBS_PER_DRAW * results.config.draws} of each size, the same for all methods and tasks), and "
        "hubs of the models up to a quantile of GFLOPs per image. General choice and oracle are those of the same hub."
    )
    return _scenario_tables(results, "hubs", "hub", note, columns, rows)


def _scenario_tables(
    results: Results, name: str, title: str, note: str, columns: dict[str, str], rows: Sequence[str]
) -> tuple[Table, Table]:
    """Mean accuracy and gap closed of methods (rows) in scenarios (columns)."""
    full = results.per_task(_ALL, accuracy_of)
    by_scenario = [_with_untouched(results.per_task(scenario, accuracy_of), full) for scenario in columns.values()]
    shown: list[tuple[Cell, ...]] = []
    gaps: list[tuple[Cell, ...]] = []
    for method in rows:
        there = [of if method in of else None for of in by_scenario]
        shown.append((method, *(None if of is None else float(of[method].mean()) for of in there)))
        gaps.append((method, *(None if of is None else _gap(of, method) for of in there)))
    header = ("method", *columns)
    return (
        Table(f"{name}_accuracy", f"Accuracy by {title}", f"Means over tasks and draws. {note}", header, tuple(shown)),
        Table(f"{name}_gap", f"Gap closed by {title}", f"Ratios of such means. {note}", header, tuple(gaps)),
    )


def _gap(accuracies: dict[str, NDArray[np.float64]], method: str) -> float:
    return float(mean_gap_closed(accuracies[method], accuracies[GENERAL], accuracies[ORACLE_METHOD]))


def _with_untouched(
    accuracies: dict[str, NDArray[np.float64]], full: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """Where a scenario left out the methods that it cannot touch, these are as with all images."""
    return accuracies if ORACLE_METHOD in accuracies else {**full, **accuracies}


def ablation_tables(results: Results) -> tuple[Table, Table]:
    """The paper's alpha and k."""
    means = {name: float(values.mean()) for name, values in results.per_task(str(Kind.ABLATION), accuracy_of).items()}
    alphas: list[tuple[Cell, ...]] = [(f"{a}", means.get(f"paper, alpha={a}")) for a in ALPHAS]
    depths: list[tuple[Cell, ...]] = [
        (f"{k}", *(means.get(f"{way}, k={k}, ablation") for way in ("paper", "mll"))) for k in DEPTHS
    ]
    return (
        Table("alpha", "Ablation: alpha", "Mean accuracy of strategy paper, k=1.", ("alpha", "paper"), tuple(alphas)),
        Table("k", "Ablation: k", "Mean accuracy.", ("k", "paper", "mll"), tuple(depths)),
    )


def cost_table(results: Results) -> Table:
    """What methods cost."""
    values: dict[str, Callable[[Record], float]] = {
        "GFLOPs per image": lambda record: record.gflops,
        "models": lambda record: float(len(record.models)),
        "seconds to choose": lambda record: record.seconds,
    }
    columns = [results.per_task(_ALL, value) for value in values.values()]
    rows: list[tuple[Cell, ...]] = [
        (m.name, *(float(column[m.name].mean()) for column in columns)) for m in _methods(results)
    ]
    return Table(
        "cost",
        "Cost",
        "Means over tasks: of the models that answer an image, and the time to choose from logits and embeddings. Not "
        "in it: running all models once on the images that a method looks at, which labels spare.",
        ("method", *values),
        tuple(rows),
    )


def model_table(results: Results) -> Table:
    """Every model alone."""
    hub, general = results.suite.hub, results.general
    rows: list[tuple[Cell, ...]] = [
        (
            label.model.short_name,
            label.cost.gflops,
            label.mean_precision,
            general.accuracies[m] if general else None,
            *results.accuracies[m].tolist(),
            float(results.accuracies[m].mean()),
        )
        for m, label in enumerate(hub.labels)
    ]
    best = [hub.labels[m].model.short_name for m in oracle(results.accuracies)]
    note = "Accuracy of each model alone. The best: " + ", ".join(
        f"{model} on {facts.name}" for model, facts in zip(best, results.facts, strict=True)
    )
    columns = ("model", "GFLOPs", "label", "general benchmark", *(facts.name for facts in results.facts), "mean")
    return Table("models", "Models", f"{note}.", columns, tuple(rows))


def _methods(results: Results) -> tuple[Method, ...]:
    """The methods that were run on all images."""
    there = results.per_task(_ALL, accuracy_of)
    return tuple(method for method in results.config.methods if method.name in there)


def _planned(results: Results, kinds: Sequence[Kind]) -> list[Scenario]:
    """The scenarios of some kinds, in the order of these."""
    planned = scenarios(len(results.suite.hub), results.config.draws)
    return [scenario for kind in kinds for scenario in planned if scenario.kind is kind]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _plain(cell: Cell) -> Any:  # noqa: ANN401 - JSON
    if isinstance(cell, Interval):
        return {name: _plain(getattr(cell, name)) for name in ("estimate", "low", "high")}
    if isinstance(cell, float) and not np.isfinite(cell):
        return None  # strict JSON has no NaN
    return cell


def shown(cell: Cell) -> str:
    """A cell as text."""
    match cell:
        case Interval():
            return f"{shown(cell.estimate)} [{shown(cell.low)}, {shown(cell.high)}]"
        case float():
            return f"{cell:.3f}" if np.isfinite(cell) else "–"
        case None:
            return "–"
        case _:
            return str(cell)


# --- what made them ---------------------------------------------------------------------------------------------------


def _facts(results: Results, command: str) -> dict[str, Any]:
    suite, config = results.suite, results.config
    tasks = zip((*suite.tasks, suite.general), (*results.facts, results.general), strict=True)
    return {
        "command": command,
        "versions": {"mll_hf": __version__, "python": platform.python_version(), **_package_versions()},
        "digest": results.digest,
        "seed": config.seed,
        "draws": config.draws,
        "templates": list(config.templates) if config.templates else "by domain and task",
        "encoder": results.encoder,
        "graph": {"name": suite.hub.graph.name, "digest": suite.hub.graph.digest, "concepts": len(suite.hub.graph)},
        "probe_embeddings": bool(suite.hub.embeddings),
        "models": [{"id": ref.short_name, "revision": ref.revision} for ref in suite.hub.refs],
        "tasks": [
            {
                "name": task.name,
                "role": "general benchmark" if task is suite.general else "target",
                "images": facts.n_images,
                "classes": len(task.classes),
                "revision": task.revision,
                "source": task.source,
            }
            for task, facts in tasks
            if task is not None and facts is not None
        ],
    }


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _facts_in_words(facts: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    prompts = facts["templates"] if isinstance(facts["templates"], str) else "; ".join(facts["templates"])
    graph = facts["graph"]
    tasks = [
        f"| {t['name']} | {t['role']} | {t['images']} | {t['classes']} | `{t['revision'][:12]}` | "
        f"{t['source'] or '–'} |"
        for t in facts["tasks"]
    ]
    exact = "exact, from probe embeddings" if facts["probe_embeddings"] else "estimated from the labels"
    return [
        f"Made by `{facts['command']}` with {versions}.",
        "",
        f"{len(facts['models'])} models; labels on the graph {graph['name']} (`{graph['digest'][:12]}`, "
        f"{graph['concepts']:,} concepts); the paper's Eq. 5 is {exact}. Classes matched by {facts['encoder']}. "
        f"Prompts: {prompts}. Seed {facts['seed']}, {facts['draws']} draws. Digest of all inputs: "
        f"`{facts['digest'][:16]}`.",
        "",
        "ModelGPT's captions are the descriptions by which classes are matched and prompts of the task's domain; no "
        "language model was asked.",
        "",
        "| task | role | images | classes | revision | source |",
        "| --- | --- | ---: | ---: | --- | --- |",
        *tasks,
        "",
    ]


def report_to_json(report: BenchReport) -> str:
    """The report as the text of a JSON file."""
    return json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
