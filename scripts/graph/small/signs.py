"""Traffic signs: all regulatory and warning signs of Mapillary's collection of drawings, from many countries.

Each drawing is put on a plain background, turned, tilted, darkened and blurred, as in a photo.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from graph.small.packages import SIZE, Packages, from_array, svg_image, webp_image
from mll_hf.graph.authoring import new_concept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mll_hf.graph.authoring import NewConcept, NewImage

SPRITES, LICENSE = "mapillary_sprite_source@1.8.0", "MIT"
FEWEST, MOST = 8, 24
PARENT = "n04217882"  # signboard
_FILE = re.compile(r"(regulatory|warning)--(.+)--g\d+\.svg")
_AMERICAN = {"overtaking": "passing", "heavy goods vehicles": "trucks", "roadworks": "road work"}


def signs(packages: Packages) -> Iterator[NewConcept]:
    """All regulatory and warning signs."""
    drawings = defaultdict(list)
    for path in sorted((packages.npm(SPRITES) / "package_signs").glob("*.svg")):
        if match := _FILE.fullmatch(path.name):
            text = match[2].replace("maximum-", "").replace("-led-", "-").replace("-", " ")
            drawings[match[1], text].append(path)
    for id, name, description in (
        ("traffic-sign", "traffic sign", "a board beside a road that tells drivers what to do or what to expect"),
        ("regulatory-sign", "regulatory traffic sign", "a traffic sign that orders drivers to do something or not to"),
        ("warning-sign", "warning traffic sign", "a traffic sign that warns drivers of a danger ahead"),
    ):
        lemmas = ["road sign", "street sign"] if id == "traffic-sign" else []
        yield new_concept(id, name, lemmas, description, [PARENT if lemmas else "traffic-sign"])
    for (kind, text), paths in drawings.items():
        images: list[NewImage] = []
        for turn in range(-(-FEWEST // len(paths))):
            for path in paths:
                drawing = svg_image(path.read_text(encoding="utf-8"), 112)
                image = seen(drawing, np.random.default_rng([turn, *path.name.encode()]))
                images.append(webp_image(image, path.name, "render", f"npm {SPRITES}, {LICENSE}"))
        sign = "traffic sign" if kind == "regulatory" else "warning sign"
        orders = {"regulatory": "a road sign that orders drivers", "warning": "a road sign that warns drivers"}
        lemmas = [f"{text} sign", *([f"{text} traffic sign"] if kind == "warning" else [])]
        american = text
        for british, word in _AMERICAN.items():
            american = american.replace(british, word)
        lemmas += [f"{american} traffic sign"] if american != text else []
        id, description = f"{kind}-{text.replace(' ', '-')}", f"{orders[kind]}: {text}"
        yield new_concept(id, f"{text} {sign}", lemmas, description, [f"{kind}-sign"], images[:MOST])


def seen(sign: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Make a drawing look like a photo."""
    ground = rng.uniform(0.1, 0.9, 3) + rng.uniform(-0.2, 0.2, (2, 2, 3))
    canvas = from_array(ground).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    shift = rng.uniform(-0.08, 0.08, 8) * SIZE
    corners = np.array([0, 0, 0, SIZE, SIZE, SIZE, SIZE, 0]) + shift
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(sign, ((SIZE - sign.width) // 2, (SIZE - sign.height) // 2))
    square = square.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC)
    square = square.transform((SIZE, SIZE), Image.Transform.QUAD, tuple(corners), Image.Resampling.BICUBIC)
    canvas.paste(square, (0, 0), square)
    canvas = ImageEnhance.Brightness(canvas).enhance(rng.uniform(0.4, 1.1))
    canvas = ImageEnhance.Contrast(canvas).enhance(rng.uniform(0.6, 1.0))
    return canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))
