"""The figure of an answer, with plotly: estimated accuracy against cost."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
from plotly.graph_objects import Figure

from mll_hf.utils.text import gigaflops, parameter_count, shortened

if TYPE_CHECKING:
    from mll_hf.selection import Selection

_BLUE, _VERMILION, _GRAY = "#0072b2", "#d55e00", "#8a8a8a"  # of Okabe and Ito: told apart with any color vision
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
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
_AXIS = {"gridcolor": "rgba(128, 138, 134, 0.25)", "zeroline": False, "automargin": True, "fixedrange": True}


def accuracy_by_cost(selection: Selection) -> Figure | None:
    """Estimated accuracy against GFLOPs per image, with the chosen models, the best and a cheaper one marked.

    If the accuracy of a chosen model is not known, the axis has no numbers; else other models whose accuracy is not
    known are left out, and so are models of unknown cost. None without estimates: other scores are no accuracies.
    """
    estimate, answer, chosen = selection.estimate, selection.answer, selection.chosen_models
    if estimate is None or answer is None:
        return None
    costs = np.array([model.cost.gflops for model in selection.models])
    percent, is_known = 100 * estimate.accuracy, bool(estimate.known[list(chosen)].all())
    drawn = [m for m, cost in enumerate(costs) if cost and (m in chosen or estimate.known[m] or not is_known)]
    if not drawn:
        return None
    low, high = np.log10([costs[drawn].min(), costs[drawn].max()])
    room = max(0.15 * (high - low), 0.25)
    by_cost = sorted(drawn, key=lambda m: costs[m])
    best = np.maximum.accumulate(percent[by_cost])
    figure = Figure(layout=_LAYOUT)
    figure.add_scatter(
        x=[*costs[by_cost], 10 ** (high + room)], y=[*best, best[-1]], name="best at this cost or less", mode="lines",
        line={"shape": "hv", "color": _VERMILION, "width": 1.5, "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip
    star = {"color": _VERMILION, "symbol": "star", "size": 15}
    left = [m for m in drawn if m not in chosen]
    for name, models, marker in (
        ("other models", [m for m in left if m not in (answer.best, answer.cheapest)], {"color": _GRAY, "size": 9}),
        ("best at any cost", [m for m in left if m == answer.best], star),
        ("as good and cheaper", [m for m in left if m == answer.cheapest != answer.best], star),
        ("chosen", [m for m in drawn if m in chosen], {"color": _BLUE, "symbol": "diamond", "size": 14}),
    ):
        texts = [plain(selection.models[m].ref.short_name, 24) if m in chosen else "" for m in models]
        sides = ["top right" if np.log10(costs[m]) <= (low + high) / 2 else "top left" for m in models]
        figure.add_scatter(
            x=costs[models], y=percent[models], name=name, mode="markers+text", text=texts, textposition=sides,
            marker={"line": {"color": "white", "width": 1}, **marker}, cliponaxis=False, showlegend=bool(models),
            hovertext=[_details(selection, m) for m in models], hoverinfo="text",
        )  # fmt: skip
    digits = (1, 2, 5) if high - low < 2 else (1,)
    values = [digit * 10.0**power for power in range(int(low) - 1, int(high) + 2) for digit in digits]
    ticks = {"tickvals": values, "ticktext": [f"{value:,g}" for value in values]}
    figure.update_xaxes(type="log", title="GFLOPs per image", range=[low - room, high + room], **ticks, **_AXIS)
    title = "estimated accuracy, %" if is_known else "estimated accuracy (not known)"
    figure.update_yaxes(title=title, showticklabels=is_known, **_AXIS)
    return figure


def _details(selection: Selection, m: int) -> str:
    model, accuracy = selection.models[m], selection.estimate.text(m) if selection.estimate else ""
    return (
        f"<b>{plain(model.ref.short_name)}</b><br>accuracy {accuracy}<br>"
        f"{gigaflops(model.cost.gflops)} GFLOPs per image, {parameter_count(model.cost.parameters)} parameters"
    )


def plain(text: str, limit: int = 60) -> str:
    """Escape and shorten untrusted text, since plotly interprets tags."""
    return escape(shortened(" ".join(text.split()), limit), quote=False)
