"""Figures of labels, with plotly: recall over the graph, and differences between two models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.labels.branches import branch_pairs, branch_tree
from mll_hf.plots.style import BLUE, GRAY, RAMP, VERMILION, ink_on, interactive, plain

if TYPE_CHECKING:
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.branches import BranchTree
    from mll_hf.labels.label import LabelSummary
    from mll_hf.plots.style import PlotlyFigure

_TILES_SHOWN = 90
_PATH_PIXELS = 28  # height of the navigation bar, which is in the margin
_MARGIN = {"l": 8, "r": 8, "t": 8 + _PATH_PIXELS, "b": 8}
_BRANCHES_SHOWN = 8
_ROW_PIXELS = 28


def strengths(label: LabelSummary, graph: SemanticGraph) -> PlotlyFigure:
    """Recall over the hierarchy of concepts, as a treemap that zooms on click.

    The area of a tile is the number of tested concepts in its branch, its color their mean recall.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    tree = branch_tree(label, graph)
    concepts = [graph.concepts[v] for v in tree.concepts]
    names = [plain(concept.name, 40) for concept in concepts]
    shares = [f"{recall:.0%}" for recall in tree.recall]
    hover = [
        f"<b>{name}</b><br>{plain(concept.definition, 70)}<br>{share} recognized, {count} "
        f"{'concept' if count == 1 else 'concepts'}"
        for name, concept, share, count in zip(names, concepts, shares, tree.counts.tolist(), strict=True)
    ]
    trace = {
        "type": "treemap",
        "ids": [concept.id for concept in concepts],
        "labels": names,
        "parents": ["" if parent < 0 else concepts[parent].id for parent in tree.parents],
        "values": tree.own.astype(int).tolist(),
        "branchvalues": "remainder",
        "text": shares,
        "texttemplate": "%{label}<br>%{text}",
        "hovertext": hover,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "level": concepts[tree.first_fork].id if tree.first_fork >= 0 else None,
        "maxdepth": _levels_shown(tree),
        "textfont": {"color": ink_on(tree.recall)},
        "marker": {
            "colors": tree.recall.tolist(),
            "colorscale": [list(stop) for stop in RAMP],
            "cmin": 0,
            "cmax": 1,
            "line": {"width": 1, "color": "rgba(255, 255, 255, 0.6)"},
            "pad": {"t": 22, "l": 3, "r": 3, "b": 3},
        },
        "tiling": {"pad": 2},
        "pathbar": {"thickness": _PATH_PIXELS, "textfont": {"color": ink_on(tree.recall), "size": 13}},
    }
    return interactive([trace], height=520, uniformtext={"minsize": 9, "mode": "hide"}, margin=_MARGIN)


def _levels_shown(tree: BranchTree) -> int:
    """Number of levels that fit initially; at least two."""
    depths = np.full(len(tree.parents) + 1, -1)  # the last entry is for the parent of the roots
    depths[tree.first_fork] = 0
    for position, parent in enumerate(tree.parents.tolist()):
        if depths[parent] >= 0:
            depths[position] = depths[parent] + 1
    tiles = np.cumsum(np.bincount(depths[depths >= 0]))
    return max(int((tiles <= _TILES_SHOWN).sum()), 2)


def branch_comparison(first: LabelSummary, second: LabelSummary, graph: SemanticGraph) -> PlotlyFigure:
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
