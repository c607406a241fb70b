"""The figure of a selection, with plotly: estimated accuracy against cost."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from plotly.graph_objects import Figure

from mll_hf.utils.text import gigaflops, shortened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.selection import Selection

_BLUE, _VERMILION, _GRAY = "#0072b2", "#d55e00", "#8a8a8a"  # of Okabe and Ito: told apart with any color vision
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_AXIS = {"gridcolor": "rgba(128, 138, 134, 0.25)", "zeroline": False, "automargin": True, "fixedrange": True}
_LAYOUT = {
    "template": "none",
    "font": {"family": _FONT, "size": 13, "color": "#6b7672"},  # readable on white and on near-black
    "height": 380,
    "margin": {"l": 8, "r": 8, "t": 40, "b": 8},
    "paper_bgcolor": "rgba(0, 0, 0, 0)",
    "plot_bgcolor": "rgba(0, 0, 0, 0)",
    "hoverlabel": {"align": "left", "font": {"family": _FONT}},
    "dragmode": False,
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
}
_X_AXIS = {
    "type": "log",
    "title": "GFLOPs per image",
    "exponentformat": "none",
    "separatethousands": True,
    "nticks": 8,
}
_MIN_GFLOPS = 1e-6  # so that the logarithm exists


def accuracy_by_cost(selection: Selection) -> Figure | None:
    """Estimated accuracy against GFLOPs per image, with the Pareto front and the names of the chosen models.

    If those of the chosen models are not known, the axis has no numbers; else other models whose accuracy is not known
    are left out. None without estimates, since other scores are no accuracies.
    """
    estimate = selection.estimate
    if estimate is None:
        return None
    costs = np.maximum([model.cost.gflops for model in selection.models], _MIN_GFLOPS)
    chosen = list(selection.chosen_models)
    percent, is_known = 100 * estimate.accuracy, bool(estimate.known[chosen].all())
    others = [m for m in range(len(costs)) if m not in chosen and (estimate.known[m] or not is_known)]
    drawn = np.array(sorted([*chosen, *others]))
    low, high = float(np.log10(costs.min())), float(np.log10(costs.max()))
    room = max(0.15 * (high - low), 0.25)
    front = drawn[pareto_front(costs[drawn], percent[drawn])]

    def points(models: list[int], name: str, marker: dict[str, Any], **style: Any) -> dict[str, Any]:  # noqa: ANN401
        return {
            "type": "scatter",
            "mode": "markers+text",
            "name": name,
            "x": costs[models].tolist(),
            "y": percent[models].tolist(),
            "marker": {"line": {"color": "white", "width": 1}, **marker},
            "hovertext": [_details(selection, m) for m in models],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "cliponaxis": False,
            **style,
        }

    steps = {
        "type": "scatter",
        "mode": "lines",
        "name": "best at this cost or less",
        "x": [*costs[front].tolist(), 10 ** (high + room)],
        "y": [*percent[front].tolist(), float(percent[front[-1]])],
        "line": {"shape": "hv", "color": _VERMILION, "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    }
    names = [plain(selection.models[m].ref.short_name, 24) for m in chosen]
    sides = ["top right" if np.log10(costs[m]) <= (low + high) / 2 else "top left" for m in chosen]
    blue = {"color": _BLUE, "symbol": "diamond", "size": 14}
    traces = [
        steps,
        points(others, "other models", {"color": _GRAY, "size": 9}),
        points(chosen, "chosen", blue, text=names, textposition=sides),
    ]
    title = "estimated accuracy, %" if is_known else "estimated accuracy (not known)"
    axes = {
        "xaxis": {**_AXIS, **_X_AXIS, "range": [low - room, high + room]},
        "yaxis": {**_AXIS, "title": title, "showticklabels": is_known},
    }
    return Figure(traces, {**_LAYOUT, **axes})


def _details(selection: Selection, m: int) -> str:
    model, accuracy = selection.models[m], selection.estimate.text(m) if selection.estimate else ""
    return (
        f"<b>{plain(model.ref.short_name)}</b><br>accuracy {accuracy}<br>"
        f"{gigaflops(model.cost.gflops)} GFLOPs per image, {model.cost.parameters / 1e6:.1f} M parameters"
    )


def pareto_front(costs: NDArray[np.float64], values: NDArray[np.float64]) -> list[int]:
    """Positions of the points with a higher value than all others of the same or lower cost, cheapest first."""
    front: list[int] = []
    for row in np.lexsort((-values, costs)).tolist():
        if not front or values[row] > values[front[-1]]:
            front.append(row)
    return front


def plain(text: str, limit: int = 60) -> str:
    """Escape and shorten untrusted text, since plotly interprets tags."""
    return escape(shortened(" ".join(text.split()), limit), quote=False)
