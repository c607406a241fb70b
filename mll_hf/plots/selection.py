"""The figure of a selection, with plotly: estimated accuracy against cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.plots.style import BLUE, GRAY, VERMILION, interactive, pareto_front, plain
from mll_hf.utils.text import gigaflops

if TYPE_CHECKING:
    from mll_hf.plots.style import PlotlyFigure
    from mll_hf.selection import Selection

_MARKER = {"line": {"color": "white", "width": 1}}
_MIN_GFLOPS = 1e-6  # so that the logarithm exists


def accuracy_by_cost(selection: Selection) -> PlotlyFigure | None:
    """Estimated accuracy against GFLOPs per image, with the Pareto front and the names of the chosen models.

    If those of the chosen models are not known, the axis has no numbers; else other models whose accuracy is not known
    are left out. None without estimates, since other scores are no accuracies.

    Raises:
        MissingExtraError: plotly is not installed.
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

    def points(models: list[int], **style: Any) -> dict[str, Any]:  # noqa: ANN401 - plotly's JSON
        shown = [selection.models[m] for m in models]
        return {
            "type": "scatter",
            "mode": "markers+text",
            "x": costs[models].tolist(),
            "y": percent[models].tolist(),
            "hovertext": [
                f"<b>{plain(model.ref.short_name)}</b><br>accuracy {estimate.text(m)}<br>"
                f"{gigaflops(model.cost.gflops)} GFLOPs per image, {model.cost.parameters / 1e6:.1f} M parameters"
                for m, model in zip(models, shown, strict=True)
            ],
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
        "line": {"shape": "hv", "color": VERMILION, "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    }
    names = [plain(selection.models[m].ref.short_name, 24) for m in chosen]
    sides = ["top right" if np.log10(costs[m]) <= (low + high) / 2 else "top left" for m in chosen]
    return interactive(
        [
            steps,
            points(others, name="other models", marker={**_MARKER, "color": GRAY, "size": 9}),
            points(
                chosen,
                name="chosen",
                text=names,
                textposition=sides,
                marker={**_MARKER, "color": BLUE, "symbol": "diamond", "size": 14},
            ),
        ],
        height=380,
        xaxis={
            "type": "log",
            "range": [low - room, high + room],
            "title": "GFLOPs per image",
            "exponentformat": "none",
            "separatethousands": True,
            "nticks": 8,
        },
        yaxis={
            "title": "estimated accuracy, %" if is_known else "estimated accuracy (not known)",
            "showticklabels": is_known,
        },
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
