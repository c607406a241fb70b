"""Letters and digits: text fonts from PyPI and npm, and the handwritten digits of scikit-learn.

The fonts are families of Google Fonts that Debian does not package.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from graph.small.packages import SIZE, Packages, webp_image
from mll_hf.graph.authoring import new_concept

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mll_hf.graph.authoring import NewConcept, NewImage

PYPI_FONTS = {
    "font-amatic-sc==0.0.4": "OFL-1.1",
    "font-fredoka-one==0.0.4": "OFL-1.1",
    "font-hanken-grotesk==0.0.2": "OFL-1.1",
    "font-intuitive==0.0.4": "OFL-1.1",
    "font-manrope==0.0.2": "OFL-1.1",
}
NPM_FONTS = (
    "abril-fatface", "alfa-slab-one", "anton", "architects-daughter", "archivo-black", "arvo", "bangers", "barlow",
    "bitter", "bungee", "caveat", "cinzel", "courgette", "crimson-pro", "dm-sans", "domine", "gloria-hallelujah",
    "gochi-hand", "handlee", "indie-flower", "josefin-sans", "luckiest-guy", "merriweather", "neucha", "nunito",
    "pacifico", "patrick-hand", "patua-one", "permanent-marker", "poppins", "righteous", "rokkitt", "rubik",
    "shadows-into-light", "space-mono", "special-elite", "spectral", "zilla-slab",
)  # fmt: skip
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PARENT = "n04076846"  # representation


def letters(packages: Packages) -> Iterator[NewConcept]:
    """The 26 letters, each as capital and small letter."""
    fonts = list(_fonts(packages))
    description = "one of the characters of the alphabet used to represent speech"
    yield new_concept("letter", "letter", ["alphabetic character", "letter of the alphabet"], description, [PARENT])
    for letter in string.ascii_uppercase:
        yield new_concept(
            f"letter-{letter.lower()}",
            f"letter {letter}",
            [f"the letter {letter}", f"capital letter {letter}", f"small letter {letter.lower()}"],
            "",  # a definition that repeats the name would make the caption longer, not clearer
            ["letter"],
            _drawn(fonts, letter) + _drawn(fonts, letter.lower()),
        )


def digits(packages: Packages) -> Iterator[NewConcept]:
    """The ten digits, printed and handwritten."""
    fonts = list(_fonts(packages))
    description = "one of the symbols from 0 to 9 that numbers are written with"
    yield new_concept("numeral", "numeral", ["digit", "number", "figure"], description, [PARENT])
    for digit, name in enumerate(DIGIT_NAMES):
        yield new_concept(
            f"digit-{digit}",
            f"digit {name}",
            [f"digit {digit}", f"number {name}", f"number {digit}", f"the numeral {digit}"],
            "",  # as with letters
            ["numeral"],
            _drawn(fonts, str(digit)) + _handwritten(digit),
        )


def _fonts(packages: Packages) -> Iterator[tuple[Path, str]]:
    """One regular font file of each family, and its source."""
    for spec, license in PYPI_FONTS.items():
        files = sorted(path for path in packages.pypi(spec).rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
        regular = [path for path in files if "regular" in path.name.lower()] or files
        yield regular[0], f"PyPI {spec}, {license}"
    for family in NPM_FONTS:
        folder = packages.npm(f"@fontsource/{family}@5")
        yield folder / "files" / f"{family}-latin-400-normal.woff", f"npm @fontsource/{family} 5, OFL-1.1"


def _drawn(fonts: list[tuple[Path, str]], character: str) -> list[NewImage]:
    """A character in each font: dark on light or light on dark, slightly turned, of random size."""
    images = []
    for number, (path, source) in enumerate(fonts):
        rng = np.random.default_rng([ord(character), number])
        font = ImageFont.truetype(str(path), int(rng.uniform(0.6, 0.9) * SIZE))
        left, top, right, bottom = font.getbbox(character)
        ink = Image.new("L", (SIZE, SIZE))
        place = ((SIZE - left - right) / 2, (SIZE - top - bottom) / 2)
        ImageDraw.Draw(ink).text(place, character, 255, font)
        mask = np.asarray(ink.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC), float)[:, :, None] / 255
        light, dark = rng.uniform(0.7, 1, 3), rng.uniform(0, 0.3, 3)
        if rng.random() < 0.5:  # without color
            light, dark = np.ones(3), np.zeros(3)
        if rng.random() < 0.5:
            light, dark = dark, light
        image = Image.fromarray(((mask * dark + (1 - mask) * light) * 255).astype(np.uint8))
        images.append(webp_image(image, f"{character} in {path.name}", "font", source))
    return images


def _handwritten(digit: int, count: int = 40) -> list[NewImage]:
    """Handwritten digits of 43 people (Alpaydin and Kaynak, 1998) from scikit-learn: 8 x 8 pixels."""
    import sklearn
    from sklearn.datasets import load_digits

    data = load_digits()
    source = f"PyPI scikit-learn {sklearn.__version__}: load_digits (UCI, CC-BY-4.0)"
    images = []
    for number, pixels in enumerate(data.images[data.target == digit][:count]):
        small = Image.fromarray((np.pad(pixels, 1) / 16 * 255).astype(np.uint8))
        large = small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        ink = large if number % 2 else Image.eval(large, lambda value: 255 - value)
        images.append(webp_image(ink, f"{digit}, number {number}", "handwriting", source))
    return images
