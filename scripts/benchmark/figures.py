"""Figures of the benchmark, with matplotlib, without a display. Every series has its own color and marker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.methods import ALPHAS, DEPTHS, GENERAL, ORACLE, OURS, PAPER, SEES_SAMPLES, Group
from benchmark.metrics import mean_gap_closed
from benchmark.report import ablation_tables
from benchmark.scenarios import Kind
from mll_hf.errors import MissingExtraError
from mll_hf.plots.style import BLACK, BLUE, GRAY, GREEN, ORANGE, PURPLE, SKY, VERMILION, pareto_front
from mll_hf.utils.files import storage_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmark.run import Results
    from benchmark.tables import Table

    Figure = Any  # matplotlib has no types that mypy reads here
    Axes = Any

_MARKERS = "osD^vP*"
_COLORS = (ORANGE, BLUE, GREEN, PURPLE, VERMILION, SKY, GRAY)
_GROUP_COLORS = {
    Group.REFERENCE: GRAY,
    Group.LABELS: BLUE,
    Group.UNLABELED: GREEN,
    Group.FEW_LABELS: ORANGE,
    Group.BATCH: PURPLE,
    Group.HINDSIGHT: BLACK,
}
_NEEDS_NO_CLASSES = (Group.REFERENCE, Group.LABELS, *SEES_SAMPLES)
_MIN_DISTANCE = 0.035  # between names beside points, as a share of the axis
_LEGEND = {"loc": "outside right upper", "frameon": False, "fontsize": 8}
_POINT = {"edgecolor": "white", "linewidth": 0.6, "zorder": 3}


def save_figures(results: Results, folder: Path) -> tuple[Path, ...]:
    """Draw all figures as PNG; returns their paths.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: The folder cannot be written.
    """
    figures = {
        "accuracy-by-cost": accuracy_by_cost,
        "gap-by-hub-size": gap_by_hub_size,
        "accuracy-by-images": accuracy_by_images,
        "targets": dumbbells,
        "ablations": ablations,
    }
    return tuple(_save(draw(results), folder / f"{name}.png") for name, draw in figures.items())


def save_fidelity(samples: Table, folder: Path) -> Path:
    """Draw the quality of labels of fewer images, as :func:`save_figures` does."""
    return _save(images_per_concept(samples), folder / "images-per-concept.png")


def _save(figure: Figure, path: Path) -> Path:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160)
    return path


def accuracy_by_cost(results: Results) -> Figure:
    """Mean accuracy against GFLOPs per image, with the Pareto front of the methods that use no true class."""
    figure, axes = _figure(8.0, 5.2)
    hub = results.suite.hub
    axes.scatter(hub.gflops, results.accuracies.mean(axis=1), s=18, color="#c4c4c4", label="a model alone", zorder=1)
    accuracies = results.per_task(Kind.ALL)
    costs = results.per_task(Kind.ALL, "gflops")
    methods = results.methods
    x = np.array([costs[method.name].mean() for method in methods])
    y = np.array([accuracies[method.name].mean() for method in methods])
    for (group, color), marker in zip(_GROUP_COLORS.items(), _MARKERS, strict=False):
        if rows := [row for row, method in enumerate(methods) if method.group is group]:
            axes.scatter(x[rows], y[rows], s=52, label=str(group), marker=marker, color=color, **_POINT)
    feasible = [row for row, method in enumerate(methods) if method.group in _NEEDS_NO_CLASSES]
    front = [feasible[row] for row in pareto_front(x[feasible], y[feasible])]
    line = {"color": VERMILION, "linewidth": 1.2, "zorder": 2}
    axes.step(x[front], y[front], where="post", label="Pareto front without\nlabeled images", **line)
    known = (GENERAL, PAPER, OURS, "mll, k=3", "uniform, all", "INB", ORACLE)
    named = {*front, *(row for row, method in enumerate(methods) if method.name in known)}
    _name_points(axes, [(float(x[row]), float(y[row]), methods[row].name) for row in sorted(named)])
    axes.set(xscale="log", xlabel="GFLOPs per image of the models that run", ylabel="mean accuracy")
    figure.legend(**_LEGEND)
    return figure


def gap_by_hub_size(results: Results) -> Figure:
    """Share of the gap closed between the generally best and the best model, by the number of models."""
    sizes, tables = _by_scenario(results, Kind.HUB)
    fixed = (PAPER, "paper, k=3", OURS, "mll, k=3", "uniform, all")
    names = [name for name in fixed if name in tables[-1]]
    names += [name for group in (Group.UNLABELED, Group.BATCH) for name in _best_of_groups(results, [group], 1)]
    gaps = {name: [float(mean_gap_closed(t[name], t[GENERAL], t[ORACLE])) for t in tables] for name in names}
    figure, axes = _figure(7.0, 4.4)
    _lines(axes, [*sizes, len(results.suite.hub)], gaps)
    axes.axhline(1, color=BLACK, linewidth=1, label=ORACLE, zorder=1)
    axes.axhline(0, color=BLACK, linewidth=1, linestyle="--", label=GENERAL, zorder=1)
    axes.set(xlabel="models in the hub", ylabel="gap closed")
    figure.legend(**_LEGEND)
    return figure


def accuracy_by_images(results: Results) -> Figure:
    """Mean accuracy of methods that use unlabeled images, by the number of images."""
    counts, tables = _by_scenario(results, Kind.IMAGES)
    names = _best_of_groups(results, SEES_SAMPLES, len(_COLORS))
    means = {name: [table[name].mean() for table in tables] for name in names if all(name in table for table in tables)}
    figure, axes = _figure(7.0, 4.4)
    _lines(axes, range(len(tables)), means, [*map(str, counts), "all"])
    for name, style in ((ORACLE, "-"), (GENERAL, "--"), (PAPER, ":")):
        axes.axhline(tables[-1][name].mean(), color=BLACK, linewidth=1, linestyle=style, label=name)
    axes.set(xlabel="unlabeled images", ylabel="mean accuracy on all images")
    figure.legend(**_LEGEND)
    return figure


def images_per_concept(samples: Table) -> Figure:
    """Agreement of labels from fewer images with labels from all, and the accuracy of the models chosen by them."""
    series = {
        "rank correlation of mean recalls": "general_correlation",
        "rank correlation of scores": "score_correlation",
        "accuracy of the choice": "accuracy",
    }
    figure, axes = _figure(7.0, 3.6)
    values = {name: samples.column(column) for name, column in series.items()}
    _lines(axes, range(len(samples.rows)), values, samples.column("images_per_concept"))
    axes.set(xlabel="most images per concept", ylim=(0, 1.03))
    figure.legend(**_LEGEND)
    return figure


def dumbbells(results: Results) -> Figure:
    """For each target the generally best model, the best model, and the choices of the methods."""
    accuracies = results.per_task(Kind.ALL)
    ends = {GENERAL: GRAY, ORACLE: BLACK}
    between = {PAPER: ("X", ORANGE), OURS: ("D", BLUE)}
    for group, style in ((Group.UNLABELED, ("o", GREEN)), (Group.BATCH, ("P", PURPLE))):
        between |= dict.fromkeys(_best_of_groups(results, [group], 1), style)
    between = {name: style for name, style in between.items() if name in accuracies}
    order = np.argsort(accuracies[ORACLE] - accuracies[GENERAL], kind="stable")
    rows = np.arange(len(order))
    figure, axes = _figure(7.6, 0.46 * len(order) + 1.4)
    reach = np.sort(np.stack([accuracies[name][order] for name in ends]), axis=0)
    axes.hlines(rows, reach[0], reach[1], color="#d4d4d4", linewidth=3, zorder=1)
    for name, color in ends.items():
        axes.scatter(accuracies[name][order], rows, s=330, marker="|", color=color, linewidth=2.2, label=name, zorder=2)
    apart = np.linspace(0.24, -0.24, len(between))  # so that equal choices do not hide one another
    for (name, (marker, color)), shift in zip(between.items(), apart, strict=True):
        axes.scatter(accuracies[name][order], rows + shift, s=40, label=name, marker=marker, color=color, **_POINT)
    axes.set(xlim=(0, 1), ylim=(-0.6, len(rows) - 0.4), xlabel="accuracy", yticks=rows)
    axes.set_yticklabels([results.facts[t].name for t in order], parse_math=False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8, labelspacing=1.2)
    return figure


def ablations(results: Results) -> Figure:
    """The paper's alpha (its Table 3) and k (its Table 4)."""
    alphas, depths = ablation_tables(results)
    figure, (left, right) = _figure(8.0, 3.4, columns=2)
    _lines(left, ALPHAS, {"paper": alphas.column("paper")})
    left.set(xlabel="alpha (k = 1)", ylabel="mean accuracy")
    _lines(right, DEPTHS, {way: depths.column(way) for way in ("paper", "mll")})
    right.set(xlabel="models per class, k")
    right.legend(frameon=False, fontsize=8)
    return figure


def _by_scenario(results: Results, kind: Kind) -> tuple[list[int], list[dict[str, NDArray[np.float64]]]]:
    """Values of the scenarios of a kind, and accuracies in each of them and with all images and models."""
    planned = results.planned(kind)
    names = [*(scenario.name for scenario in planned), str(Kind.ALL)]
    return [int(scenario.value) for scenario in planned], [results.per_task(name) for name in names]


def _best_of_groups(results: Results, groups: Sequence[Group], count: int) -> list[str]:
    """The methods of some groups with the best mean accuracy that are not transductive, best first."""
    accuracies = results.per_task(Kind.ALL)
    names = [m.name for m in results.methods if m.group in groups and not m.transductive]
    return sorted(names, key=lambda name: -accuracies[name].mean())[:count]


def _lines(
    axes: Axes, x: Sequence[float], series: Mapping[str, Sequence[float]], ticks: Sequence[object] | None = None
) -> None:
    """Draw a line for each series, with ticks at its points."""
    for at, (name, values) in enumerate(series.items()):
        style = {"color": _COLORS[at % len(_COLORS)], "marker": _MARKERS[at % len(_MARKERS)]}
        axes.plot(x, values, label=name, markersize=5, linewidth=1.6, **style)
    axes.set_xticks(x, [str(tick) for tick in (x if ticks is None else ticks)])


def _name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside points, spread vertically where points are close; names of equal points are joined."""
    names: dict[tuple[float, float], list[str]] = {}
    for x, y, name in points:
        same = (point for point in names if np.allclose(point, (x, y), rtol=1e-3))
        names.setdefault(next(same, (x, y)), []).append(name)
    low, high = axes.get_ylim()
    placed: list[tuple[float, float]] = []
    for (x, y), here in sorted(names.items(), key=lambda item: (-item[0][1], item[0][0])):
        near = [at for of, at in placed if 0.4 < of / x < 2.5]
        at_y = min([y, *(at - _MIN_DISTANCE * (high - low) for at in near if at - y < _MIN_DISTANCE * (high - low))])
        placed.append((x, at_y))
        line = {"arrowstyle": "-", "color": GRAY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        axes.annotate(
            " = ".join(here),
            (x, y),
            (12, (at_y - y) / (high - low) * axes.bbox.height * 72 / axes.figure.dpi),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            arrowprops=line,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
            zorder=4,
        )


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """A figure and its axes."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    figure = Canvas(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#ececec", linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes if columns > 1 else axes[0]
