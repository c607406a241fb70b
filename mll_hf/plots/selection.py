"""Figures of a selection, with plotly: recall by class, and estimated accuracy against cost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.plots.style import BLUE, GRAY, RAMP, VERMILION, interactive, pareto_front, plain
from mll_hf.selection.answer import accuracy_text
from mll_hf.selection.base import Evidence, Strategy
from mll_hf.utils.text import gigaflops

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.plots.style import PlotlyFigure
    from mll_hf.selection import Selection

CLOSE = 0.1  # of a class with less coverage no concept is close
_MODELS_SHOWN = 8
_CLASSES_SHOWN = 40
_ROW_PIXELS, _HEADING_PIXELS = 26, 120
_MAX_NAMED = 6
_MAX_TICKS = 7
_MARKER = {"line": {"color": "white", "width": 1}}
_LINE_HEIGHT = 0.08  # of a name, as a share of the points' spread
_MIN_GFLOPS = 1e-6  # so that the logarithm exists


def shown_models(selection: Selection, limit: int = _MODELS_SHOWN) -> list[int]:
    """Positions of the chosen models and the best others, up to ``limit`` in total, best first."""
    others = [m for m in range(len(selection.models)) if m not in selection.union]
    return sorted([*selection.union, *others[: max(limit - len(selection.union), 0)]])


def shown_classes(selection: Selection, limit: int = _CLASSES_SHOWN) -> list[int]:
    """Positions of at most ``limit`` classes, in order: those on which the shown models differ most."""
    scores = selection.scores[shown_models(selection)]
    spread = scores.max(axis=0) - scores.min(axis=0)
    return sorted(np.argsort(-spread, kind="stable")[:limit].tolist())


def with_recall(selection: Selection) -> Selection | None:
    """The models and classes of which recall per class is known, for figures and tables of it; None if there are none.

    Models that only have an overall figure have none, nor do classes that no concept matches: their scores are the
    general level of the models. After a trial, and with other strategies than ``mll``, scores are no recall.
    """
    rows = [m for m, model in enumerate(selection.models) if model.evidence is not Evidence.OVERALL]
    kept = [y for y, coverage in enumerate(selection.coverage) if coverage >= CLOSE]
    if selection.strategy is not Strategy.MLL or selection.evidence is not None or not rows or not kept:
        return None
    return replace(
        selection,
        classes=tuple(selection.classes[y] for y in kept),
        models=tuple(selection.models[m] for m in rows),
        scores=selection.scores[np.ix_(rows, kept)],
        chosen=selection.chosen[np.ix_(rows, kept)],
        matches=tuple(selection.matches[y] for y in kept),
        coverage=selection.coverage[kept],
        images=selection.images[kept],
        estimates=None,
    )


def accuracy_heatmap(selection: Selection) -> PlotlyFigure:
    """Recall of the best models (columns) on the concepts of the classes (rows), in percent.

    Chosen models are bold. If there are many classes, those on which the models differ most are shown.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    models, classes = shown_models(selection), shown_classes(selection)
    percent = np.round(100 * selection.scores[np.ix_(models, classes)].T).astype(int)
    names = [plain(selection.models[m].ref.short_name, 22) for m in models]
    hover = [
        [f"<b>{plain(selection.classes[y])}</b><br>{name}<br>{value} %" for name, value in zip(names, row, strict=True)]
        for y, row in zip(classes, percent.tolist(), strict=True)
    ]
    cells = {
        "type": "heatmap",
        "z": percent.tolist(),
        "colorscale": [list(stop) for stop in RAMP],
        "zmin": int(min(percent.min() // 10 * 10, 90)),
        "zmax": 100,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        "texttemplate": "%{z}",  # in a color that contrasts with the cell
        "textfont": {"size": 12},
        "hovertext": hover,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    headings = [f"<b>{name}</b>" if m in selection.union else name for m, name in zip(models, names, strict=True)]
    class_names = [plain(selection.classes[y], 24) for y in classes]
    sides = {"showgrid": False, "zeroline": False}
    return interactive(
        [cells],
        height=_HEADING_PIXELS + _ROW_PIXELS * len(classes),
        xaxis={**_ticks(headings), **sides, "side": "top", "tickangle": -40, "ticklabeloverflow": "allow"},
        yaxis={**_ticks(class_names), **sides, "autorange": "reversed"},
        margin={"l": 8, "r": 64, "t": 8, "b": 8},  # room for the last heading, which leans to the right
    )


def accuracy_by_cost(selection: Selection) -> PlotlyFigure | None:
    """Estimated accuracy against GFLOPs per image, with the Pareto front and the chosen models.

    If no accuracy is known, the axis has no numbers. None without estimates, since other scores are no accuracies.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    estimates = selection.estimates
    if estimates is None:
        return None
    costs = np.maximum([model.cost.gflops for model in selection.models], _MIN_GFLOPS)
    percent, is_known = 100 * estimates.accuracy, bool(estimates.known.any())
    front = pareto_front(costs, percent)
    others = [m for m in range(len(selection.models)) if m not in selection.union]
    chosen = list(selection.union)
    low, high = float(np.log10(costs.min())), float(np.log10(costs.max()))
    room = max(0.12 * (high - low), 0.25)
    worst, best = float(percent.min()), float(percent.max())
    padding = max(0.15 * (best - worst), 2.0)
    steps_x = [*costs[front].tolist(), 10 ** (high + room)]
    steps_y = [*percent[front].tolist(), float(percent[front[-1]])]
    named = [*chosen, *(m for m in reversed(front) if m not in chosen)][:_MAX_NAMED]
    sides = _sides(named, np.log10(costs), percent)

    def points(models: list[int], **style: Any) -> dict[str, Any]:  # noqa: ANN401 - plotly's JSON
        """Models as points with details on hover, and with names beside those in ``sides``."""
        shown = [selection.models[m] for m in models]
        return {
            "type": "scatter",
            "mode": "markers+text",
            "x": costs[models].tolist(),
            "y": percent[models].tolist(),
            "text": [plain(selection.models[m].ref.short_name, 24) if m in sides else "" for m in models],
            "textposition": [sides.get(m, "top right") for m in models],
            "hovertext": [
                f"<b>{plain(model.ref.short_name)}</b><br>accuracy {accuracy_text(estimates, m)}<br>"
                f"{gigaflops(model.cost.gflops)} GFLOPs per image, {model.cost.parameters / 1e6:.1f} M parameters"
                for m, model in zip(models, shown, strict=True)
            ],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "cliponaxis": False,
            **style,
        }

    return interactive(
        [
            {
                "type": "scatter", "x": steps_x, "y": steps_y, "mode": "lines", "name": "best at this cost or less",
                "line": {"shape": "hv", "color": VERMILION, "width": 1.5, "dash": "dot"}, "hoverinfo": "skip",
            },
            points(others, name="other models", marker={**_MARKER, "color": GRAY, "symbol": "circle", "size": 9}),
            points(chosen, name="chosen", marker={**_MARKER, "color": BLUE, "symbol": "diamond", "size": 14}),
        ],
        height=380,
        xaxis={
            **_log_ticks(costs), "type": "log", "range": [low - room, high + room],
            "title": "GFLOPs per image",
        },
        yaxis={
            "title": "estimated accuracy, %" if is_known else "estimated accuracy (not known)",
            "showticklabels": is_known, "range": [max(worst - padding, 0.0), best + padding],
        },
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        showlegend=True,
    )  # fmt: skip


def _ticks(names: list[str]) -> dict[str, Any]:
    """Ticks of an axis with names by position, since two names may be shortened to the same text."""
    return {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": names}


def _sides(models: list[int], x: NDArray[np.float64], y: NDArray[np.float64]) -> dict[int, str]:
    """The side of each point that has room for its name, away from the line; points without room are omitted."""
    width, height = max(np.ptp(x), 0.5), max(np.ptp(y), 2.0)
    sides: dict[int, str] = {}
    for m in models:
        near = {sides[n] for n in sides if abs(x[m] - x[n]) < 0.35 * width and abs(y[m] - y[n]) < _LINE_HEIGHT * height}
        is_left = x[m] <= x.min() + 0.6 * width
        wanted = ("top right", "bottom left") if is_left else ("top left", "bottom right")
        if free := [side for side in wanted if side not in near]:
            sides[m] = free[0]
    return sides


def _log_ticks(costs: NDArray[np.float64]) -> dict[str, Any]:
    """Ticks at 1, 2 and 5, at powers of ten, or at the costs themselves, whichever fits."""
    powers = 10.0 ** np.arange(np.floor(np.log10(costs.min())), np.ceil(np.log10(costs.max())) + 1)
    fine = np.sort(np.outer(powers, [1, 2, 5]).ravel())
    within = [marks[(marks >= costs.min() * 0.8) & (marks <= costs.max() * 1.25)] for marks in (fine, powers)]
    marks = within[0] if len(within[0]) <= _MAX_TICKS else within[1]
    if len(marks) < 2:
        marks = np.unique([costs.min(), costs.max()])
    return {"tickmode": "array", "tickvals": marks.tolist(), "ticktext": list(map(gigaflops, marks))}
