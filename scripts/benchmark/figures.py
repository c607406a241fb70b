"""Figures of the benchmark, with matplotlib, without a display. Every series has its own color and marker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.methods import GENERAL, ORACLE, OURS, PAPER, Group
from benchmark.metrics import mean_gap_closed
from benchmark.scenarios import Kind
from mll_hf.errors import MissingExtraError
from mll_hf.plots.style import BLACK, BLUE, GRAY, GREEN, ORANGE, PURPLE, SKY, VERMILION
from mll_hf.utils.files import storage_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmark.run import Results

    Figure = Any  # matplotlib has no types that mypy reads here
    Axes = Any

_MARKERS = "osD^vP*"
_COLORS = (ORANGE, BLUE, GREEN, PURPLE, VERMILION, SKY, GRAY)
_LEGEND = {"loc": "outside right upper", "frameon": False, "fontsize": 8}
_POINT = {"edgecolor": "white", "linewidth": 0.6, "zorder": 3}


def save_figures(results: Results, folder: Path) -> tuple[Path, ...]:
    """Draw all figures as PNG; returns their paths.

    Raises:
        MissingExtraError: matplotlib is not installed.
        StorageError: The folder cannot be written.
    """
    figures = {
        "gap-by-hub-size": gap_by_hub_size,
        "accuracy-by-images": accuracy_by_images,
        "targets": dumbbells,
    }
    return tuple(_save(draw(results), folder / f"{name}.png") for name, draw in figures.items())


def _save(figure: Figure, path: Path) -> Path:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160)
    return path


def gap_by_hub_size(results: Results) -> Figure:
    """Share of the gap closed between the generally best and the best model, by the number of models."""
    sizes, tables = _by_scenario(results, Kind.HUB)
    fixed = (PAPER, "paper, k=3", OURS, "mll, k=3", "uniform, all")
    names = [name for name in fixed if name in tables[-1]]
    names += _best_of_group(results, Group.UNLABELED, 1)
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
    names = _best_of_group(results, Group.UNLABELED, len(_COLORS))
    means = {name: [table[name].mean() for table in tables] for name in names if all(name in table for table in tables)}
    figure, axes = _figure(7.0, 4.4)
    _lines(axes, range(len(tables)), means, [*map(str, counts), "all"])
    for name, style in ((ORACLE, "-"), (GENERAL, "--"), (PAPER, ":")):
        axes.axhline(tables[-1][name].mean(), color=BLACK, linewidth=1, linestyle=style, label=name)
    axes.set(xlabel="unlabeled images", ylabel="mean accuracy on all images")
    figure.legend(**_LEGEND)
    return figure


def dumbbells(results: Results) -> Figure:
    """For each target the generally best model, the best model, and the choices of the methods."""
    accuracies = results.per_task(Kind.ALL)
    ends = {GENERAL: GRAY, ORACLE: BLACK}
    between = {PAPER: ("X", ORANGE), OURS: ("D", BLUE)}
    between |= dict.fromkeys(_best_of_group(results, Group.UNLABELED, 1), ("o", GREEN))
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


def _by_scenario(results: Results, kind: Kind) -> tuple[list[int], list[dict[str, NDArray[np.float64]]]]:
    """Values of the scenarios of a kind, and accuracies in each of them and with all images and models."""
    planned = results.planned(kind)
    names = [*(scenario.name for scenario in planned), str(Kind.ALL)]
    return [int(scenario.value) for scenario in planned], [results.per_task(name) for name in names]


def _best_of_group(results: Results, group: Group, count: int) -> list[str]:
    """The methods of a group with the best mean accuracy, best first."""
    accuracies = results.per_task(Kind.ALL)
    names = [m.name for m in results.methods if m.group is group]
    return sorted(names, key=lambda name: -accuracies[name].mean())[:count]


def _lines(
    axes: Axes, x: Sequence[float], series: Mapping[str, Sequence[float]], ticks: Sequence[object] | None = None
) -> None:
    """Draw a line for each series, with ticks at its points."""
    for at, (name, values) in enumerate(series.items()):
        style = {"color": _COLORS[at % len(_COLORS)], "marker": _MARKERS[at % len(_MARKERS)]}
        axes.plot(x, values, label=name, markersize=5, linewidth=1.6, **style)
    axes.set_xticks(x, [str(tick) for tick in (x if ticks is None else ticks)])


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure and its axes."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    figure = Canvas(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes
