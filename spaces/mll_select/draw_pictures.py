"""Draw the example images in ``pictures/``: plain shapes, so that they belong to nobody.

python spaces/mll_select/draw_pictures.py
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parent / "pictures"
_SIZE, _SMALL = 896, 224  # drawn large and made small, so that edges are smooth


def sun(draw: ImageDraw.ImageDraw) -> None:
    """A disc with eight rays."""
    draw.ellipse((288, 288, 608, 608), fill="#f0a202")
    for n in range(8):
        x, y = math.cos(n * math.pi / 4), math.sin(n * math.pi / 4)
        draw.line((448 + 220 * x, 448 + 220 * y, 448 + 330 * x, 448 + 330 * y), fill="#f0a202", width=56)


def star(draw: ImageDraw.ImageDraw) -> None:
    """Five points."""
    corners = [
        (448 + radius * math.sin(n * math.pi / 5), 470 - radius * math.cos(n * math.pi / 5))
        for n, radius in enumerate([360, 150] * 5)
    ]
    draw.polygon(corners, fill="#e0b000")


def umbrella(draw: ImageDraw.ImageDraw) -> None:
    """A half disc on a stick with a hook."""
    draw.pieslice((128, 150, 768, 790), 180, 360, fill="#1f6a66")
    for left in (128, 341, 555):
        draw.ellipse((left, 420, left + 213, 530), fill="white")
    draw.line((448, 110, 448, 760), fill="#1c2523", width=40)
    draw.arc((428, 660, 640, 840), 0, 180, fill="#1c2523", width=40)


def cloud(draw: ImageDraw.ImageDraw) -> None:
    """Three discs on a bar."""
    for box in ((120, 400, 420, 700), (280, 240, 640, 600), (500, 380, 780, 700)):
        draw.ellipse(box, fill="#6f8fae")
    draw.rectangle((270, 500, 640, 700), fill="#6f8fae")


def seven(draw: ImageDraw.ImageDraw) -> None:
    """A seven in two strokes."""
    draw.line([(240, 210), (660, 210), (400, 730)], fill="#1c2523", width=72, joint="curve")


def main() -> None:
    """Draw all of them."""
    FOLDER.mkdir(exist_ok=True)
    drawings: tuple[Callable[[ImageDraw.ImageDraw], None], ...] = (sun, star, umbrella, cloud, seven)
    for number, drawing in enumerate(drawings, 1):
        picture = Image.new("RGB", (_SIZE, _SIZE), "white")
        drawing(ImageDraw.Draw(picture))
        small = picture.resize((_SMALL, _SMALL), Image.Resampling.LANCZOS)
        small.quantize(32).save(FOLDER / f"{number}-{drawing.__name__}.png", optimize=True)


if __name__ == "__main__":
    main()
