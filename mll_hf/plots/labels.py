"""The figure of two labels, with plotly: where one model is better than the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mll_hf.labels.branches import branch_pairs
from mll_hf.plots.style import BLUE, GRAY, VERMILION, interactive, plain

if TYPE_CHECKING:
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label
    from mll_hf.plots.style import PlotlyFigure

_BRANCHES_SHOWN = 8
_ROW_PIXELS = 28


def branch_comparison(first: Label, second: Label, graph: SemanticGraph) -> PlotlyFigure:
    """Recall of the first model minus that of the second, in percentage points by branch of the graph.

    If there are many branches, those with the largest differences are shown. The figure is empty if no branch is large
    enough.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    pairs = branch_pairs(first, second, graph)
    if len(pairs) > 2 * _BRANCHES_SHOWN:
        pairs = [*pairs[:_BRANCHES_SHOWN], *pairs[-_BRANCHES_SHOWN:]]
    gains = [100 * (ours.recall - theirs.recall) for ours, theirs in pairs]
    hover = [
        f"<b>{plain(ours.name)}</b><br>{plain(ours.definition, 70)}<br>"
        f"{ours.recall:.0%} against {theirs.recall:.0%}, {ours.concepts} concepts"
        for ours, theirs in pairs
    ]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": gains,
        "y": list(range(len(pairs))),
        "text": [f"{gain:+.0f}" for gain in gains],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [BLUE if gain >= 0 else VERMILION for gain in gains]},
        "hovertext": hover,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    reach = 1.35 * max([*map(abs, gains), 1.0])
    return interactive(
        [trace],
        height=90 + _ROW_PIXELS * len(pairs),
        xaxis={
            "title": "difference, percentage points",
            "range": [-reach, reach],
            "zeroline": True,
            "zerolinecolor": GRAY,
        },
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(pairs))),
            "ticktext": [plain(ours.name, 22) for ours, _ in pairs],
            "autorange": "reversed",
            "showgrid": False,
        },
        showlegend=False,
    )
