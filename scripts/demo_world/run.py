"""The whole workflow: choose among real models by name, then label, select and reuse six tiny models on real images.

All data comes from installed PyPI packages and from this folder; the network is not used. Labels are written
to the output folder, so a second run is faster.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__":  # both are read when huggingface_hub is imported
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if sys.stderr.isatty() else "1")

from demo_world import MODELS, Task, build_graph, tasks
from demo_world.targets import write_task
from mll_hf.client import Client
from mll_hf.errors import MLLError
from mll_hf.selection import Selection, Strategy
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from mll_hf.ensemble.predictions import Prediction

REAL_TASKS = (("golden retriever", "tabby cat", "fire truck"),)
SHOWN_TASK = "capital-letters"
_UNLABELED, _EXAMPLES, _SCORED = 64, 32, 150  # pictures of a task for the trial, and to score the result
_LISTED, _DRAWN = 8, 24  # pictures of the shown task
_BLUE, _RED, _GREEN, _GRAY = "#1d6996", "#d1495b", "#38a169", "#9a9a9a"


@dataclass(frozen=True, eq=False)
class Outcome:
    """Results on one task. Accuracies are on the pictures that were not used in the trial.

    Attributes:
        task: The task.
        rest: Positions of pictures that were not used in the trial, in random order.
        tried: Chosen after the trial, and fitted.
        singles: Zero-shot accuracy of each model, by name.
        general: Zero-shot accuracy of the generally best model.
        prediction: Predictions of the fitted model for the rest.
    """

    task: Task
    rest: NDArray[np.intp]
    tried: Selection
    singles: dict[str, float]
    general: float
    prediction: Prediction

    @property
    def chosen(self) -> str:
        """Name of the chosen model."""
        return self.tried.models[self.tried.chosen_models[0]].name

    @property
    def right(self) -> NDArray[np.bool_]:
        """[N] which pictures of the rest were classified correctly."""
        return self.prediction.probabilities.argmax(axis=1) == np.array(self.task.labels)[self.rest]


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for graph, labels and figure")
    args = parser.parse_args()
    try:
        run(args.out)
    except MLLError as error:
        print(f"scripts/demo: {error}", file=sys.stderr)
        return 1
    return 0


def run(out: Path) -> None:
    """Run the demo in a folder."""
    started = time.perf_counter()
    logging.getLogger("mll_hf").setLevel(logging.ERROR)  # nothing is pinned to a commit without the Hub

    _say("1. Real models: name your classes. Uses figures that others published; no model is run")
    choose_among_real_models()

    _say("2. Label: six tiny models are measured once, on 186 concepts")
    labels = label_models(out)

    _say(f"3. Select by label, then fit to {_UNLABELED} images and {_EXAMPLES} examples; new tasks, new images")
    held_out, client = tasks(), Client(labels)
    for task in held_out:
        write_task(task, out / "tasks" / task.name)
    outcomes = [evaluate(client, task, out / "embeddings") for task in held_out]
    print(fits_beside_truth(outcomes))

    shown = next(outcome for outcome in outcomes if outcome.task.name == SHOWN_TASK)
    _say(f"4. Reuse: {_LISTED} images of {SHOWN_TASK}, drawn at random from {len(shown.rest)} that are new")
    print(some_predictions(shown))
    figure = draw(outcomes, shown, out / "demo.png")
    print(f"\nFigure: {figure}\nDone in {time.perf_counter() - started:.0f} s. Try it yourself:")
    print("  mll-hf select --classes 'bicycle, umbrella, teapot' --max-parameters 200M")
    print(f"  mll-hf select --classes 'bicycle, umbrella, letter Q, 7' --labels {labels}")
    print(
        f"  python scripts/run_benchmark.py tasks --labels {labels} --tasks {out / 'tasks'} --out {out / 'benchmark'}"
    )


def choose_among_real_models() -> None:
    client = Client("published")
    for classes in REAL_TASKS:
        print(f"{', '.join(classes)}:")
        for line in client.select(classes, domain="photo").answer_lines:
            print(f"  {line}")


def label_models(out: Path) -> Path:
    """Measure the models that have no label yet; returns the folder of labels."""
    from mll_hf.cli import main as command_line

    graph, labels = out / "graph", out / "labels"
    if not (graph / "graph.json").exists():
        build_graph(graph)
    models = [f"local-dir:{model}" for model in sorted(MODELS.iterdir())]
    first = f"local-dir:{MODELS.relative_to(MODELS.parents[2])}/demo-digits"
    print(f"$ mll-hf label {first} ... --graph {graph} --labels {labels}", flush=True)
    if command_line(["label", *models, "--graph", str(graph), "--labels", str(labels)]):
        raise SystemExit(1)
    return labels


def evaluate(client: Client, task: Task, cache: Path) -> Outcome:
    """Fit models to a task, and measure them on pictures that were not used in the trial."""
    order = np.random.default_rng(0).permutation(len(task.images))
    unlabeled, examples, rest, _ = np.split(order, np.cumsum([_UNLABELED, _EXAMPLES, _SCORED]))
    truth = np.array(task.labels)[rest]

    everything = client.select(task.classes, strategy=Strategy.GENERAL, k=10**6, domain=task.domain, task=task.task)
    run = client.load(everything).model_runner([task.images[n] for n in rest])
    found = [run(m) for m in everything.chosen_models]
    correct = np.array([(head.logits(images).argmax(axis=1) == truth).mean() for images, head in found])
    singles = dict(zip([model.name for model in everything.models], map(float, correct), strict=True))
    tried = client.fit(
        task.classes,
        [task.images[n] for n in unlabeled],
        k=1,
        domain=task.domain,
        task=task.task,
        examples=[(task.images[n], task.classes[task.labels[n]]) for n in examples],
        cache=cache,
    )
    prediction = client.load(tried).predict([task.images[n] for n in rest])
    return Outcome(task, rest, tried, singles, singles[everything.models[0].name], prediction)


def fits_beside_truth(outcomes: Sequence[Outcome]) -> str:
    rows = [
        [outcome.task.name, str(len(outcome.task.classes)), f"{100 * outcome.general:.0f} %", outcome.chosen,
         f"{100 * outcome.singles[outcome.chosen]:.0f} %", f"{100 * outcome.right.mean():.0f} %",
         _estimate(outcome.tried)]
        for outcome in outcomes
    ]  # fmt: skip
    header = ["accuracy on new images", "classes", "best model in general", "chosen", "zero-shot", "fitted",
              "as estimated (90 % interval)"]  # fmt: skip
    return table(header, rows)


def _estimate(selection: Selection) -> str:
    return selection.estimate.text(0) if selection.estimate else "not known"


def some_predictions(outcome: Outcome) -> str:
    """The first pictures of the rest, which is in random order, and how many of all were right."""
    task, answers = outcome.task, outcome.prediction
    rows = [
        [f"image {n}", task.classes[task.labels[n]], answers.classes[i] or "", f"{answers.probabilities[i].max():.2f}",
         "" if outcome.right[i] else "wrong"]
        for i, n in enumerate(outcome.rest[:_LISTED])
    ]  # fmt: skip
    return f"{table(['', 'truth', 'prediction', 'probability', ''], rows)}\n{_share_right(outcome, _LISTED)}"


def _share_right(outcome: Outcome, shown: int) -> str:
    right = outcome.right
    return (
        f"{right[:shown].sum()} of these {shown} are correct, {100 * right.mean():.0f} % of all {len(right)}; "
        f"estimated: {_estimate(outcome.tried)}"
    )


# --- the figure -------------------------------------------------------------------------------------------------------


def draw(outcomes: Sequence[Outcome], shown: Outcome, path: Path) -> Path:
    """Plot estimates beside the truth for all tasks, and pictures of one task with their predictions."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.05, 1])
    _draw_estimates(left.subplots(), outcomes)
    left.suptitle("Six models, five tasks: chosen model, estimate and truth", fontsize=11)
    right.suptitle(f"{shown.task.name}, drawn at random\n{_share_right(shown, _DRAWN)}", fontsize=10)
    for i, axes in enumerate(right.subplots(4, _DRAWN // 4).flat):
        _draw_picture(axes, shown, i)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _draw_estimates(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    for row, outcome in enumerate(outcomes):
        estimate = outcome.tried.estimate
        if estimate is not None and estimate.known[0]:
            ends = [float(end[0]) for end in estimate.interval]
            axes.plot(ends, [row, row], color=_BLUE, alpha=0.3, linewidth=11, solid_capstyle="butt")
        axes.scatter(list(outcome.singles.values()), [row] * len(outcome.singles), color=_GRAY, s=26, zorder=2)
        axes.scatter(outcome.general, row, marker="|", s=260, color=_RED, zorder=3)
        axes.scatter(outcome.right.mean(), row, marker="D", s=44, color=_BLUE, zorder=4)
    axes.plot([], [], color=_BLUE, alpha=0.3, linewidth=11, label="its estimated accuracy (90 % interval)")
    axes.scatter([], [], marker="D", s=44, color=_BLUE, label="chosen model, fitted")
    axes.scatter([], [], marker="|", s=260, color=_RED, label="generally best model")
    axes.scatter([], [], color=_GRAY, s=26, label="each model alone, not fitted")
    axes.set(xlim=(0, 1), xlabel="accuracy", yticks=range(len(outcomes)), yticklabels=[o.task.name for o in outcomes])
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.13), ncols=2, frameon=False)


def _draw_picture(axes: Axes, outcome: Outcome, i: int) -> None:
    from io import BytesIO

    from PIL import Image

    task, n = outcome.task, outcome.rest[i]
    answer, truth = outcome.prediction.classes[i] or "", task.classes[task.labels[n]]
    color = _GREEN if answer == truth else _RED
    axes.imshow(Image.open(BytesIO(task.images[n])))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=color, linewidth=2)
    said = answer if answer == truth else f"{answer}, not {truth.split()[-1]}"
    axes.set_title(said, color=color, fontsize=8, pad=3)


def _say(title: str) -> None:
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
