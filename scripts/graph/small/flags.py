"""Flags of all countries and territories of ISO 3166 from several icon sets, upright and tilted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from graph.small.packages import Packages, centered, svg_image, webp_image
from mll_hf.graph.authoring import new_concept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mll_hf.graph.authoring import NewConcept

# package -> license and paths of its drawings
SETS = {
    "flag-icons@7.5.0": ("MIT", ("flags/4x3/{small}.svg", "flags/1x1/{small}.svg")),
    "circle-flags@2.8.3": ("MIT", ("flags/{small}.svg",)),
    "flagpack-core@2.1.0": ("MIT", ("svg/l/{capital}.svg",)),
    "country-flag-icons@1.6.20": ("MIT", ("3x2/{capital}.svg",)),
    "flagkit-web@0.0.3": ("MIT", ("svgs/{capital}.svg",)),
}
ICONIFY = ("@iconify-json/cif@1.2.7", "CC0-1.0")
PARENT = "n03354903"  # flag


def flags(packages: Packages) -> Iterator[NewConcept]:
    """A concept for every country and territory with a code of ISO 3166."""
    from babel import Locale

    english = Locale("en").territories  # names of Unicode's CLDR
    countries = json.loads((packages.npm("flag-icons@7.5.0") / "country.json").read_text(encoding="utf-8"))
    icons = json.loads((packages.npm(ICONIFY[0]) / "icons.json").read_text(encoding="utf-8"))
    for country in countries:
        code = country["code"]
        if not country["iso"] or len(code) != 2:
            continue
        name = english.get(code.upper(), country["name"])
        drawings = list(_drawings(packages, code))
        if icon := icons["icons"].get(code):
            width, height = icon.get("width", icons.get("width")), icon.get("height", icons.get("height"))
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
            drawings.append((svg, f"npm {ICONIFY[0]}, {ICONIFY[1]}"))
        images = []
        for number, (svg, source) in enumerate(drawings):
            drawing, rng = svg_image(svg, 120), np.random.default_rng([*code.encode(), number])
            tilted = drawing.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
            ground = tuple(int(value) for value in rng.integers(0, 256, 3))
            for picture in centered(drawing), centered(tilted, ground):
                images.append(webp_image(picture, f"{code} of {source}", "icon", source))
        yield new_concept(
            f"flag-{code}",
            f"flag of {name}",
            [f"{name} flag", f"flag of {country['name']}"],
            "",  # a definition that repeats the name would make the caption longer, not clearer
            [PARENT],
            images,
        )


def _drawings(packages: Packages, code: str) -> Iterator[tuple[str, str]]:
    for spec, (license, paths) in SETS.items():
        for path in paths:
            file = packages.npm(spec) / path.format(small=code, capital=code.upper())
            if file.is_file():
                yield file.read_text(encoding="utf-8"), f"npm {spec}, {license}"
