"""Common parts of figures: colors, the Pareto front, and web pages of interactive figures.

Series have the colors of Okabe and Ito, and the ramp changes in lightness, so they can be distinguished with any color
vision.
"""

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
RAMP = ((0.0, "#f4efe2"), (0.35, "#a9cdbd"), (0.7, "#2f7f79"), (1.0, "#08363c"))  # pale sand to dark pine

_DARK_INK, _LIGHT_INK = "#06201f", "#ffffff"
_INK_THRESHOLD = 0.65  # position on the ramp where dark and light ink are equally readable
_INK = "#6b7672"  # readable on white and on near-black, since pages may be either
_GRID = "rgba(128, 138, 134, 0.25)"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_PAGE_SUFFIXES = (".html", ".htm")
_AXIS = {
    "gridcolor": _GRID, "zeroline": False, "automargin": True, "fixedrange": True, "ticks": "", "showline": False,
}  # fmt: skip
_LAYOUT = {
    "template": "none",
    "font": {"family": _FONT, "size": 13, "color": _INK},
    "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
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


def ink_on(values: NDArray[np.float64]) -> list[str]:
    """Text colors for positions from 0 to 1 on the ramp."""
    return [_LIGHT_INK if value > _INK_THRESHOLD else _DARK_INK for value in values.ravel().tolist()]


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
    for name in ("xaxis", "yaxis"):
        axis = {**_AXIS, **layout.get(name, {})}
        layout[name] = {**axis, "title": {"font": {"size": 13}, "standoff": 8, "text": axis.get("title", "")}}
    return Figure([dict(trace) for trace in traces], {**_LAYOUT, "height": height, **layout})


def check_page(path: Path) -> None:
    """Check the suffix of a file name, and that figures can be made, so that it fails before anything is computed.

    Raises:
        InputError: The name does not end in .html.
        MissingExtraError: plotly is not installed.
    """
    if path.suffix.lower() not in _PAGE_SUFFIXES:
        raise InputError(f"figures are written as web pages; use a name other than {path.name} that ends in .html")
    if find_spec("plotly") is None:
        raise MissingExtraError("plotly", "plots")


def save_page(path: Path, title: str, figures: Mapping[str, PlotlyFigure]) -> None:
    """Write interactive figures by heading as one web page that needs no other file and no network.

    Raises:
        InputError: The name does not end in .html.
        StorageError: The file cannot be written.
    """
    check_page(path)
    options = {"full_html": False, "config": {"displaylogo": False, "responsive": True, "displayModeBar": False}}
    parts = [
        f"<section><h2>{escape(heading)}</h2>{figure.to_html(include_plotlyjs=number == 0, **options)}</section>"
        for number, (heading, figure) in enumerate(figures.items())
    ]
    page = _PAGE.format(title=escape(title), font=_FONT, body="\n".join(parts))
    write_atomically(path, page.encode())


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ font-family: {font}; margin: 0 auto; max-width: 60rem; padding: 1rem; line-height: 1.5; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
