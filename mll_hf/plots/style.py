"""Common parts of figures: colors of Okabe and Ito (told apart with any color vision), layout, pages."""

from __future__ import annotations

from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.errors import InputError, MissingExtraError
from mll_hf.utils.files import write_atomically
from mll_hf.utils.text import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    PlotlyFigure = Any  # plotly has no types that mypy reads here

BLACK, ORANGE, SKY, GREEN = "#000000", "#e69f00", "#56b4e9", "#009e73"
BLUE, VERMILION, PURPLE = "#0072b2", "#d55e00", "#cc79a7"
GRAY = "#8a8a8a"

_INK = "#6b7672"  # readable on white and on near-black, since pages may be either
_GRID = "rgba(128, 138, 134, 0.25)"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_AXIS = {"gridcolor": _GRID, "zeroline": False, "automargin": True, "fixedrange": True}
_LAYOUT = {
    "template": "none",
    "font": {"family": _FONT, "size": 13, "color": _INK},
    "margin": {"l": 8, "r": 8, "t": 40, "b": 8},
    "paper_bgcolor": "rgba(0, 0, 0, 0)",
    "plot_bgcolor": "rgba(0, 0, 0, 0)",
    "hoverlabel": {"align": "left", "font": {"family": _FONT}},
    "dragmode": False,
}


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


def interactive(traces: Sequence[Mapping[str, Any]], height: int, **layout: Any) -> PlotlyFigure:  # noqa: ANN401
    """A plotly figure in the common style, with a transparent background.

    Args:
        traces: Traces as plotly's JSON.
        height: In pixels; the width is that of the page.
        layout: Changes to the common layout.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    try:
        from plotly.graph_objects import Figure
    except ImportError as error:
        raise MissingExtraError("plotly", "plots") from error
    axes = {name: {**_AXIS, **layout.pop(name, {})} for name in ("xaxis", "yaxis")}
    return Figure([dict(trace) for trace in traces], {**_LAYOUT, "height": height, **axes, **layout})


def check_page(path: Path) -> None:
    """Check the suffix of a file name, and that figures can be made, so that it fails before anything is computed.

    Raises:
        InputError: The name does not end in .html.
        MissingExtraError: plotly is not installed.
    """
    if path.suffix.lower() != ".html":
        raise InputError(f"figures are written as web pages; use a name other than {path.name} that ends in .html")
    if find_spec("plotly") is None:
        raise MissingExtraError("plotly", "plots")


def save_page(path: Path, title: str, figure: PlotlyFigure) -> None:
    """Write an interactive figure as a web page that needs no other file and no network.

    Raises:
        StorageError: The file cannot be written.
    """
    figure.update_layout(title={"text": plain(title, 100), "x": 0, "xref": "paper"}, margin={"t": 90})
    write_atomically(path, figure.to_html(config={"displaylogo": False, "displayModeBar": False}).encode())
