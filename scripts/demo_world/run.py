"""The whole workflow: label tiny models, show the labels, select by class names, classify, compare accuracies.

All data comes from installed PyPI packages and from this folder; the network is not used.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_world import MODELS, Task, build_graph, tasks
from demo_world.targets import write_task
from mll_hf.cli.report import selection_report
from mll_hf.client import Client
from mll_hf.ensemble import Rule
from mll_hf.selection import Selection, SelectionConfig, Strategy
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    from collections.abc import Iterable

_TRIED_ON = 64  # pictures of a task


@dataclass(frozen=True)
class Outcome:
    """Accuracies on one task: of each model alone, and of each way of selecting."""

    task: Task
    singles: dict[str, float]
    ways: dict[str, float]


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for graph, labels and figure")
    args = parser.parse_args()
    started = time.perf_counter()
    graph, labels = args.out / "graph", args.out / "labels"

    _say("1. A graph of concepts with pictures to test them (from PyPI packages)")
    if not (graph / "graph.json").exists():
        build_graph(graph)
    print(f"{graph}")

    _say("2. Label: measure every model once")
    _cli("label", *[f"local-dir:{model}" for model in sorted(MODELS.iterdir())], "--graph", graph, "--labels", labels)

    _say("3. What the labels say")
    _cli("labels", "ls", "--labels", labels)

    _say("4. Select and classify: tasks whose pictures are new to all models and labels")
    client, held_out = Client(labels), tasks()
    for task in held_out:
        write_task(task, args.out / "tasks" / task.name)
    outcomes = [_evaluate(client, task) for task in held_out]
    _show(outcomes)

    _say("6. The same on the command line, for a few pictures (named by their true class)")
    _classify(labels, args.out / "pictures", held_out[2])
    figure = _draw(outcomes, args.out / "accuracy.png")
    print(f"\nFigure: {figure}\nDone in {time.perf_counter() - started:.0f} s. Try it yourself:")
    print(f"  mll-hf select --classes 'bicycle, umbrella, letter Q, 7' --labels {labels}")
    print(f"  mll-hf bench --labels {labels} --tasks {args.out / 'tasks'} --out {args.out / 'benchmark'}")
    return 0


def _evaluate(client: Client, task: Task) -> Outcome:
    """Accuracy of every model alone and of each strategy, with the same prompts; each model runs once."""
    truth = np.array(task.labels)

    def select(strategy: Strategy, k: int) -> Selection:
        config = SelectionConfig(strategy=strategy, k=k)
        return client.select(task.classes, config, domain=task.domain, task=task.task)

    everything = select(Strategy.UNIFORM, 1)
    ids = [model.ref.repo_id for model in everything.models]
    logits = dict(zip(ids, client.load(everything).logits(list(task.images)), strict=True))

    def accuracy(selection: Selection, rule: Rule = Rule.LINEAR_POOL) -> float:
        of_union = np.stack([logits[selection.models[m].ref.repo_id] for m in selection.union])
        answers = client.load(selection).combine(of_union, rule).probabilities.argmax(axis=1)
        return float((answers == truth).mean())

    def try_on_pictures(k: int) -> Selection:
        """Select after a trial on a few unlabeled pictures."""
        config = SelectionConfig(k=k, most_images=_TRIED_ON)
        return client.select(task.classes, config, domain=task.domain, task=task.task, images=list(task.images))

    chosen = select(Strategy.MLL, 1)
    print(f"\n{task.name}: {len(task.classes)} classes, {len(task.images)} pictures")
    print(selection_report(chosen).split("\n\n")[1])
    singles = {Path(model).name: float((scores.argmax(axis=1) == truth).mean()) for model, scores in logits.items()}
    ways = {
        "general, k = 1": accuracy(select(Strategy.GENERAL, 1)),
        "paper, k = 1": accuracy(select(Strategy.PAPER, 1), Rule.ENTROPY),
        "paper, k = 3": accuracy(select(Strategy.PAPER, 3), Rule.ENTROPY),
        "mll, k = 1": accuracy(chosen),
        "mll, k = 3": accuracy(select(Strategy.MLL, 3)),
        f"mll, k = 1, tried on {_TRIED_ON} pictures": accuracy(try_on_pictures(1)),
        "all, averaged": accuracy(everything, Rule.UNIFORM),
    }
    return Outcome(task, singles, ways)


def _classify(labels: Path, folder: Path, task: Task) -> None:
    """Select and classify a few pictures on the command line."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(0, len(task.images), len(task.images) // 6):
        (folder / f"{task.classes[task.labels[n]].replace(' ', '-')}-{n}.png").write_bytes(task.images[n])
    choice = ["--classes", ",".join(task.classes), "--domain", task.domain, "--task", task.task]
    _cli("predict", folder, *choice, "--labels", labels)


def _show(outcomes: list[Outcome]) -> None:
    _say("5. Accuracy of each model alone, and of each way of selecting")
    print(_accuracy_table(outcomes, "model alone", sorted(outcomes[0].singles), "singles"))
    print()
    print(_accuracy_table(outcomes, "selection", outcomes[0].ways, "ways"))
    best = np.mean([max(outcome.singles.values()) for outcome in outcomes])
    print(f"\nBest single model of each task, known only in hindsight: {best:.3f} on average.")


def _accuracy_table(outcomes: list[Outcome], title: str, names: Iterable[str], field: str) -> str:
    rows = []
    for name in names:
        values = [getattr(outcome, field)[name] for outcome in outcomes]
        rows.append([name, *[f"{value:.3f}" for value in values], f"{np.mean(values):.3f}"])
    return table([title, *[outcome.task.name for outcome in outcomes], "mean"], rows)


def _draw(outcomes: list[Outcome], path: Path) -> Path:
    """Plot one row per task: a dot per model, and marks for the generally best and the selected model."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.6 * len(outcomes) + 1.4), layout="constrained")
    for row, outcome in enumerate(outcomes):
        singles = list(outcome.singles.values())
        axes.plot([min(singles), max(singles)], [row, row], color="#d0d0d0", zorder=1)
        axes.scatter(singles, [row] * len(singles), color="#9a9a9a", s=28, zorder=2)
        axes.scatter(outcome.ways["general, k = 1"], row, marker="|", s=260, color="#d1495b", zorder=3)
        axes.scatter(outcome.ways["mll, k = 1"], row, marker="D", s=44, color="#1d6996", zorder=4)
    handles = [
        axes.scatter([], [], color="#9a9a9a", s=28, label="each model alone"),
        axes.scatter([], [], marker="|", s=260, color="#d1495b", label="generally best model"),
        axes.scatter([], [], marker="D", s=44, color="#1d6996", label="chosen by label (mll, k = 1)"),
    ]
    axes.set(xlim=(0, 1), xlabel="accuracy", yticks=range(len(outcomes)), yticklabels=[o.task.name for o in outcomes])
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)
    return path


def _cli(*arguments: object) -> None:
    """Run a command as a user would."""
    from mll_hf.cli import main as command_line

    words = [str(argument) for argument in arguments]
    print("$ " + textwrap.shorten(shlex.join(["mll-hf", *words]), 160, placeholder=" ..."), flush=True)
    if command_line(words):
        raise SystemExit(1)


def _say(title: str) -> None:
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
