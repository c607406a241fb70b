"""Figures of the benchmark, with matplotlib. Each is made from results and drawn without a display.

Every series has a color and a marker of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.bench.methods import ALPHAS, DEPTHS, GENERAL, ORACLE, OURS, PAPER, SEES_SAMPLES, Group
from mll_hf.bench.metrics import mean_gap_closed
from mll_hf.bench.report import accuracy_of
from mll_hf.bench.scenarios import Kind, scenarios
from mll_hf.errors import MissingExtraError
from mll_hf.plots.style import BLACK, BLUE, GRAY, GREEN, ORANGE, PURPLE, SKY, VERMILION, pareto_front
from mll_hf.utils.files import storage_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mll_hf.bench.fidelity import SampleQuality
    from mll_hf.bench.run import Results

    Figure = Any  # matplotlib has no types that mypy reads here
    Axes = Any

_MARKERS = "osD^vP*"
_LINE_COLORS = (ORANGE, BLUE, GREEN, PURPLE, VERMILION, SKY, GRAY)
_GROUP_COLORS = {
    Group.REFERENCE: GRAY,
    Group.LABELS: BLUE,
    Group.UNLABELED: GREEN,
    Group.FEW_LABELS: ORANGE,
    Group.BATCH: PURPLE,
    Group.HINDSIGHT: BLACK,
}
_NEEDS_NO_ANSWERS = (Group.REFERENCE, Group.LABELS, *SEES_SAMPLES)
_LEAST_APART = 0.035  # of names beside points, as a share of the axis
_ALL = str(Kind.ALL)


def save_figures(results: Results, folder: Path) -> tuple[Path, ...]:
    """Draw all figures as PNG and SVG; returns their paths.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: The folder cannot be written.
    """
    figures = {
        "accuracy-by-cost": accuracy_by_cost(results),
        "gap-by-hub-size": gap_by_hub_size(results),
        "accuracy-by-images": accuracy_by_images(results),
        "targets": dumbbells(results),
        "ablations": ablations(results),
    }
    return _save(figures, folder)


def save_fidelity(samples: Sequence[SampleQuality], folder: Path) -> tuple[Path, ...]:
    """Draw what labels of fewer images are worth, as PNG and SVG; returns the paths.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: The folder cannot be written.
    """
    return _save({"images-per-concept": images_per_concept(samples)}, folder)


def _save(figures: Mapping[str, Figure], folder: Path) -> tuple[Path, ...]:
    from matplotlib import rc_context

    paths = tuple(folder / f"{name}.{kind}" for name in figures for kind in ("png", "svg"))
    with rc_context({"svg.hashsalt": "mll"}):  # and no date, so that the same results give the same files
        for path in paths:
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                figures[path.stem].savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def accuracy_by_cost(results: Results) -> Figure:
    """Mean accuracy against GFLOPs per image, with the Pareto front of the methods that are told no image's class."""
    figure, axes = _figure(8.0, 5.2)
    hub = results.suite.hub
    axes.scatter(hub.gflops, results.accuracies.mean(axis=1), s=18, color="#c4c4c4", label="a model alone", zorder=1)
    accuracies = results.per_task(_ALL, accuracy_of)
    costs = results.per_task(_ALL, lambda record: record.gflops)
    methods = [method for method in results.config.methods if method.name in accuracies]
    x = np.array([costs[method.name].mean() for method in methods])
    y = np.array([accuracies[method.name].mean() for method in methods])
    for at, group in enumerate(_GROUP_COLORS):
        rows = [row for row, method in enumerate(methods) if method.group is group]
        if rows:
            style = {"marker": _MARKERS[at], "color": _GROUP_COLORS[group], "edgecolor": "white", "linewidth": 0.6}
            axes.scatter(x[rows], y[rows], s=52, label=str(group), zorder=3, **style)
    feasible = [row for row, method in enumerate(methods) if method.group in _NEEDS_NO_ANSWERS]
    front = [feasible[row] for row in pareto_front(x[feasible], y[feasible])]
    axes.step(
        x[front],
        y[front],
        where="post",
        color=VERMILION,
        linewidth=1.2,
        zorder=2,
        label="Pareto front without\nlabeled images",
    )
    known = (GENERAL, PAPER, OURS, "mll, k=3", "uniform, all", "INB", ORACLE)
    named = {*front, *(row for row, method in enumerate(methods) if method.name in known)}
    _name_points(axes, [(float(x[row]), float(y[row]), methods[row].name) for row in sorted(named)])
    axes.set(xscale="log", xlabel="GFLOPs per image of the models that answer", ylabel="mean accuracy")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def gap_by_hub_size(results: Results) -> Figure:
    """Share of the gap between generally best and best model that is closed, by the number of models."""
    planned = [s for s in scenarios(len(results.suite.hub), results.config.draws) if s.kind is Kind.HUB]
    sizes = [*(scenario.value for scenario in planned), len(results.suite.hub)]
    tables = [results.per_task(scenario.name, accuracy_of) for scenario in planned]
    tables.append(results.per_task(_ALL, accuracy_of))
    fixed = (PAPER, "paper, k=3", OURS, "mll, k=3", "uniform, all")
    wanted = [name for name in fixed if name in tables[-1]]
    wanted += _best_of_groups(results, (Group.UNLABELED,), 1) + _best_of_groups(results, (Group.BATCH,), 1)
    figure, axes = _figure(7.0, 4.4)
    for at, name in enumerate(wanted):
        gaps = [float(mean_gap_closed(table[name], table[GENERAL], table[ORACLE])) for table in tables]
        axes.plot(sizes, gaps, label=name, **_line(at))
    axes.axhline(1, color=BLACK, linewidth=1, label=ORACLE, zorder=1)
    axes.axhline(0, color=BLACK, linewidth=1, linestyle="--", label=GENERAL, zorder=1)
    axes.set(xlabel="models in the hub", ylabel="gap closed", xticks=sizes)
    axes.set_xticklabels([f"{size:g}" for size in sizes])
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def accuracy_by_images(results: Results) -> Figure:
    """Mean accuracy of methods that look at unlabeled images, by how many of them there are."""
    planned = [s for s in scenarios(len(results.suite.hub), results.config.draws) if s.kind is Kind.IMAGES]
    full = results.per_task(_ALL, accuracy_of)
    tables = [results.per_task(scenario.name, accuracy_of) for scenario in planned] + [full]
    figure, axes = _figure(7.0, 4.4)
    at_x = np.arange(len(tables))
    for at, name in enumerate(_best_of_groups(results, SEES_SAMPLES, len(_LINE_COLORS))):
        if all(name in table for table in tables):
            axes.plot(at_x, [table[name].mean() for table in tables], label=name, **_line(at))
    for name, style in ((ORACLE, "-"), (GENERAL, "--"), (PAPER, ":")):
        axes.axhline(full[name].mean(), color=BLACK, linewidth=1, linestyle=style, label=name)
    axes.set(xlabel="unlabeled images", ylabel="mean accuracy on all images", xticks=at_x)
    axes.set_xticklabels([*(f"{scenario.value:g}" for scenario in planned), "all"])
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def images_per_concept(samples: Sequence[SampleQuality]) -> Figure:
    """How far labels of fewer images agree with those of all, and what choosing by them is worth."""
    figure, axes = _figure(7.0, 3.6)
    at_x = np.arange(len(samples))
    series = {
        "rank correlation of mean precisions": [s.general_correlation for s in samples],
        "rank correlation of scores": [s.score_correlation for s in samples],
        "accuracy of the choice": [s.accuracy for s in samples],
    }
    for at, (name, values) in enumerate(series.items()):
        axes.plot(at_x, values, label=name, **_line(at))
    axes.set(xlabel="most images per concept", ylim=(0, 1.03), xticks=at_x)
    axes.set_xticklabels([str(s.images_per_concept) for s in samples])
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def dumbbells(results: Results) -> Figure:
    """For each target the generally best model, ours, the best choice by unlabeled images, and the best model."""
    accuracies = results.per_task(_ALL, accuracy_of)
    ends = {GENERAL: GRAY, ORACLE: BLACK}
    between = {PAPER: ("X", ORANGE), OURS: ("D", BLUE)}
    between |= dict.fromkeys(_best_of_groups(results, (Group.UNLABELED,), 1), ("o", GREEN))
    between |= dict.fromkeys(_best_of_groups(results, (Group.BATCH,), 1), ("P", PURPLE))
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
        style = {"marker": marker, "color": color, "edgecolor": "white", "linewidth": 0.6}
        axes.scatter(accuracies[name][order], rows + shift, s=40, label=name, zorder=3, **style)
    axes.set(xlim=(0, 1), ylim=(-0.6, len(rows) - 0.4), xlabel="accuracy", yticks=rows)
    axes.set_yticklabels([results.facts[t].name for t in order])
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8, labelspacing=1.2)
    return figure


def ablations(results: Results) -> Figure:
    """The paper's alpha (its Table 3) and k (its Table 4)."""
    means = {name: float(values.mean()) for name, values in results.per_task(str(Kind.ABLATION), accuracy_of).items()}
    figure, (left, right) = _figure(8.0, 3.4, columns=2)
    _variants(left, means, ALPHAS, "paper", "paper, alpha={}", 0)
    left.set(xlabel="alpha (k = 1)", ylabel="mean accuracy", xticks=ALPHAS)
    for at, way in enumerate(("paper", "mll")):
        _variants(right, means, DEPTHS, way, way + ", k={}, ablation", at)
    right.set(xlabel="models per class, k", xticks=DEPTHS)
    right.legend(frameon=False, fontsize=8)
    return figure


def _variants(axes: Axes, means: dict[str, float], values: Sequence[float], label: str, pattern: str, at: int) -> None:
    there = [value for value in values if pattern.format(value) in means]
    axes.plot(there, [means[pattern.format(value)] for value in there], label=label, **_line(at))


def _best_of_groups(results: Results, groups: Sequence[Group], count: int) -> list[str]:
    """The methods of some groups with the best mean accuracy that do not need all images at once, best first."""
    accuracies = results.per_task(_ALL, accuracy_of)
    names = [
        m.name for m in results.config.methods if m.group in groups and m.name in accuracies and not m.transductive
    ]
    return sorted(names, key=lambda name: -accuracies[name].mean())[:count]


def _line(at: int) -> dict[str, Any]:
    """Color and marker of the at-th line of a figure."""
    colors = (ORANGE, BLUE, GREEN, PURPLE, VERMILION, SKY, GRAY, BLACK)
    return {
        "color": colors[at % len(colors)],
        "marker": _MARKERS[at % len(_MARKERS)],
        "markersize": 5,
        "linewidth": 1.6,
    }


def _name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside points, one below the other where points are close; those of equal points are joined."""
    names: dict[tuple[float, float], list[str]] = {}
    for x, y, name in points:
        same = (at for at in names if np.allclose(at, (x, y), rtol=1e-3))
        names.setdefault(next(same, (x, y)), []).append(name)
    low, high = axes.get_ylim()
    placed: list[tuple[float, float]] = []
    for (x, y), here in sorted(names.items(), key=lambda item: (-item[0][1], item[0][0])):
        near = [at for of, at in placed if 0.4 < of / x < 2.5]
        at_y = min([y, *(at - _LEAST_APART * (high - low) for at in near if at - y < _LEAST_APART * (high - low))])
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
    """A figure and its axes, without a display."""
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
