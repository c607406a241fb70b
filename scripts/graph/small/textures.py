"""Textures: the 47 words of the Describable Textures Dataset (Cimpoi et al., 2014), drawn by formulas.

Only the words come from that study. A function for each draws what a dictionary says of it, with random colors, sizes
and directions.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from graph.small.packages import SIZE, Packages, from_array, webp_image
from mll_hf import __version__
from mll_hf.graph.authoring import new_concept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mll_hf.graph.authoring import NewConcept, NewImage

IMAGES = 40
PARENT = "n04362025"  # surface
_ROWS = (Path(__file__).parents[1] / "data" / "textures.csv").read_text(encoding="utf-8").splitlines()
WORDS = {row["word"]: row["description"] for row in csv.DictReader(_ROWS)}  # spelled as when models were measured


def textures(packages: Packages) -> Iterator[NewConcept]:
    """The 47 textures; needs no packages."""
    del packages
    names, description = ["surface texture", "visual pattern"], "the look of a surface, by its pattern and its feel"
    yield new_concept("texture", "texture", names, description, [PARENT])
    for word, description in WORDS.items():
        names, description = [word, f"{word} surface", f"{word} pattern"], f"a surface or pattern {description}"
        yield new_concept(f"texture-{word}", f"{word} texture", names, description, ["texture"], _images(word))


def _images(word: str) -> Iterator[NewImage]:
    draw: Callable[[Field], np.ndarray] = globals()[f"_{word.replace('-', '_')}"]
    source = f"drawn by a formula of mll-hf {__version__}, Apache-2.0"
    for number in range(IMAGES):
        field = Field(np.random.default_rng([number, *word.encode()]))
        image = from_array(draw(field) + field.rng.normal(0, field.rng.uniform(0, 0.03), (N, N, 1)))
        crop = (N - SIZE) // 2
        image = image.crop((crop, crop, crop + SIZE, crop + SIZE))
        if field.rng.random() < 0.3:
            image = image.filter(ImageFilter.GaussianBlur(field.rng.uniform(0.3, 1.2)))
        yield webp_image(image, f"{word}, number {number}", "texture", source)


# --- shared by all formulas -------------------------------------------------------------------------------------------

N = 160  # cropped to SIZE afterwards


class Field:
    """A plane with random coordinates and colors.

    Attributes:
        rng: Random numbers.
        x, y: [N, N] coordinates, turned by a random angle; the plane is about ``cells`` units wide.
        u, v: [N, N] coordinates, turned by a small angle.
        dark, light: Two colors [3] that differ in brightness.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.cells = rng.uniform(5, 14)
        row, column = np.mgrid[:N, :N] / N * self.cells
        self.x, self.y = _turned(column, row, rng.uniform(0, np.pi))
        self.u, self.v = _turned(column, row, rng.normal(0, 0.15))
        tone = rng.uniform(0, 1, 3)
        self.dark = np.clip(tone * rng.uniform(0.1, 0.5), 0, 1)
        self.light = np.clip(1 - (1 - rng.uniform(0, 1, 3)) * rng.uniform(0.05, 0.5), 0, 1)
        if rng.random() < 0.3:  # without color
            self.dark, self.light = np.full(3, self.dark.mean()), np.full(3, self.light.mean())

    def mix(self, share: np.ndarray) -> np.ndarray:
        """[N, N, 3] mix of the dark color (0) and the light one (1)."""
        share = np.clip(share, 0, 1)[:, :, None]
        return (1 - share) * self.dark + share * self.light

    def either(self, share: np.ndarray) -> np.ndarray:
        """Like ``mix``, with the colors swapped at random."""
        return self.mix(share if self.rng.random() < 0.5 else 1 - share)

    def noise(self, cells: float) -> np.ndarray:
        """[N, N] smooth noise in 0 to 1, about ``cells`` bumps wide."""
        small = self.rng.random((int(cells) + 3, int(cells) + 3))
        large = np.asarray(Image.fromarray(small.astype(np.float32)).resize((N, N), Image.Resampling.BICUBIC))
        return _unit(large)

    def fractal(self, cells: float = 3, octaves: int = 5) -> np.ndarray:
        """[N, N] sum of noise at several scales, in 0 to 1."""
        return _unit(sum(self.noise(cells * 2**octave) / 2**octave for octave in range(octaves)))

    def warp(self, strength: float, cells: float = 4) -> None:
        """Bend the coordinates."""
        self.x, self.y = (c + strength * (self.noise(cells) - 0.5) for c in (self.x, self.y))
        self.u, self.v = (c + strength * (self.noise(cells) - 0.5) for c in (self.u, self.v))

    def nearest(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[N, N] distances to the nearest and second nearest of random points, and the index of the nearest."""
        points = self.rng.random((count, 2))
        row, column = np.mgrid[:N, :N] / N
        distances = np.hypot(row[..., None] - points[:, 0], column[..., None] - points[:, 1])
        order = np.argpartition(distances, 1, axis=2)[:, :, :2]
        two = np.sort(np.take_along_axis(distances, order, 2), axis=2)
        return two[..., 0], two[..., 1], distances.argmin(axis=2)

    def discs(self, count: int, small: float, large: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[N, N] position within the topmost of random discs (-1 to 1, NaN outside), and its index."""
        across, down = np.full((N, N), np.nan), np.full((N, N), np.nan)
        which = np.full((N, N), -1)
        row, column = np.mgrid[:N, :N] / N
        for number in range(count):
            radius, cx, cy = self.rng.uniform(small, large), *self.rng.random(2)
            dx, dy = (column - cx) / radius, (row - cy) / radius
            inside = dx**2 + dy**2 < 1
            across[inside], down[inside], which[inside] = dx[inside], dy[inside], number
        return across, down, which

    def lit(self, height: np.ndarray, strength: float = 6) -> np.ndarray:
        """A height map lit from one side."""
        down, across = np.gradient(height)
        angle = self.rng.uniform(0, 2 * np.pi)
        return self.mix(0.55 + strength * (np.cos(angle) * across + np.sin(angle) * down))

    def strokes(self, count: int, length: float, width: float, spread: float, curl: float = 0) -> np.ndarray:
        """[N, N] 1 on random strokes, 0 elsewhere; lengths relative to N, directions within ``spread``."""
        ink = np.zeros((N, N))
        main = self.rng.uniform(0, np.pi)
        for _ in range(count):
            steps = max(int(length * N), 2)
            angle = main + self.rng.uniform(-spread, spread) + np.cumsum(self.rng.normal(0, curl, steps))
            path = self.rng.random(2)[:, None] * N + np.cumsum([np.cos(angle), np.sin(angle)], axis=1)
            for offset in np.arange(-width / 2, width / 2 + 0.1, 0.7):
                rows = (path[0] - offset * np.sin(angle)).astype(int) % N
                columns = (path[1] + offset * np.cos(angle)).astype(int) % N
                ink[rows, columns] = 1
        return ink


def _turned(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _unit(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / max(float(np.ptp(values)), 1e-9)


def _tri(x: np.ndarray) -> np.ndarray:
    """A triangle wave in 0 to 1 with period 1."""
    return 2 * np.abs(x % 1 - 0.5)


def _cell(x: np.ndarray) -> np.ndarray:
    """Position within a unit cell, -0.5 to 0.5."""
    return x % 1 - 0.5


# --- one formula per word ---------------------------------------------------------------------------------------------


def _banded(f: Field) -> np.ndarray:
    f.warp(f.rng.uniform(0, 1.5), 2)
    levels = f.rng.random((40, 3))
    return levels[(f.x * f.rng.uniform(0.5, 1)).astype(int) % 40] * 0.8 + 0.1


def _blotchy(f: Field) -> np.ndarray:
    return f.either(np.clip((f.fractal(f.cells / 2, 3) - 0.5) * 8 + 0.5, 0, 1)) * (0.8 + 0.2 * f.fractal()[..., None])


def _braided(f: Field) -> np.ndarray:
    height = np.full((N, N), -1.0)
    x, y = f.u * 0.5, f.v
    for strand in range(3):
        phase = 2 * np.pi * (y / 2 + strand / 3)
        away = _cell(x) - 0.28 * np.sin(phase)
        body = np.sqrt(np.clip(1 - (away / 0.2) ** 2, 0, 1)) + 0.6 * np.cos(2 * phase)
        height = np.where(np.abs(away) < 0.2, np.maximum(height, body), height)
    return f.mix(0.3 + 0.3 * height + 0.1 * np.sin(40 * x + 20 * y))


def _bubbly(f: Field) -> np.ndarray:
    across, down, _ = f.discs(int(f.cells * 25), 0.02, 0.11)
    radius = np.hypot(across, down)
    shine = np.exp(-((across + 0.4) ** 2 + (down + 0.4) ** 2) * 12)
    return f.mix(np.where(np.isnan(radius), 0.3, 0.25 + 0.5 * np.nan_to_num(radius) ** 4 + np.nan_to_num(shine)))


def _bumpy(f: Field) -> np.ndarray:
    first, _, _ = f.nearest(int(f.cells**2))
    return f.lit(np.exp(-((first * f.cells * 2) ** 2)), 5)


def _chequered(f: Field) -> np.ndarray:
    return f.either(((np.floor(f.u) + np.floor(f.v)) % 2) * (0.9 + 0.1 * f.fractal()))


def _cobwebbed(f: Field) -> np.ndarray:
    ink = np.zeros((N, N))
    for _ in range(int(f.rng.integers(1, 3))):
        row, column = np.mgrid[:N, :N] / N
        dx, dy = column - f.rng.uniform(0.1, 0.9), row - f.rng.uniform(0.1, 0.9)
        spokes = int(f.rng.integers(9, 18))
        angle = (np.arctan2(dy, dx) / (2 * np.pi) * spokes) + f.rng.random()
        radius = np.hypot(dx, dy)
        ring = radius * (1 - 0.25 * (1 - _tri(angle))) * f.rng.uniform(12, 22)
        ink = np.maximum(ink, np.abs(_cell(angle)) * radius * 2 * np.pi / spokes < 0.005)
        ink = np.maximum(ink, np.abs(_cell(ring)) < 0.07)
    return f.mix(0.3 * f.fractal() + 0.7 * ink * f.noise(6))


def _cracked(f: Field) -> np.ndarray:
    first, second, which = f.nearest(int(f.rng.integers(12, 50)))
    edge = second - first + 0.03 * (f.fractal(6) - 0.5)
    shade = f.rng.random(64)[which % 64] * 0.25 + 0.6 + 0.2 * f.fractal(8)
    return f.mix(np.where(edge < f.rng.uniform(0.008, 0.02), 0, shade))


def _crosshatched(f: Field) -> np.ndarray:
    f.warp(0.3)
    tone = f.noise(3)
    one = _tri(f.x * 2.5) < 0.2 + 0.4 * tone
    return f.either(1 - 0.8 * np.maximum(one, _tri(f.y * 2.5) < 0.2 + 0.4 * (1 - tone)) * (0.7 + 0.3 * f.noise(30)))


def _crystalline(f: Field) -> np.ndarray:
    first, second, which = f.nearest(int(f.rng.integers(30, 120)))
    slope = f.rng.normal(0, 1, (200, 2))[which]
    row, column = np.mgrid[:N, :N] / N
    facet = f.rng.random(200)[which] * 0.6 + 0.4 * _unit(slope[..., 0] * row + slope[..., 1] * column)
    return f.mix(facet + 0.5 * (second - first < 0.006))


def _dotted(f: Field) -> np.ndarray:
    jitter = f.rng.uniform(0, 0.3)
    dx, dy = _cell(f.u * 1.6 + jitter * f.noise(12)), _cell(f.v * 1.6 + jitter * f.noise(12))
    return f.either(np.hypot(dx, dy) < f.rng.uniform(0.12, 0.22))


def _fibrous(f: Field) -> np.ndarray:
    layers = [f.strokes(250, 0.6, 1, 0.2, 0.02) * f.rng.random() for _ in range(5)]
    return f.mix(np.max(layers, axis=0) * 0.8 + 0.2 * f.fractal())


def _flecked(f: Field) -> np.ndarray:
    marks = f.strokes(int(f.cells * 30), 0.015, 2, np.pi)
    return f.either(0.9 - 0.8 * marks + 0.1 * f.fractal())


def _freckled(f: Field) -> np.ndarray:
    skin = np.array([0.93, 0.76, 0.65]) * f.rng.uniform(0.75, 1.05)
    across, _, _ = f.discs(int(f.cells * 18), 0.006, 0.03)
    spots = (~np.isnan(across)) * f.noise(20)
    return skin * (0.92 + 0.1 * f.fractal()[..., None]) - spots[..., None] * np.array([0.25, 0.35, 0.35]) * 0.9


def _frilly(f: Field) -> np.ndarray:
    wave = f.v * 0.7 + 0.15 * np.sin(2 * np.pi * f.u * 1.5 + 3 * f.noise(3)) + 0.1 * f.noise(4)
    fold = 0.5 + 0.5 * np.sin(2 * np.pi * f.u * 1.5 + 6 * _cell(wave))
    return f.mix(0.35 + 0.45 * (wave % 1) * fold + 0.3 * ((wave % 1) > 0.93))


def _gauzy(f: Field) -> np.ndarray:
    weave = 0.5 + 0.25 * np.sin(2 * np.pi * f.u * 5) + 0.25 * np.sin(2 * np.pi * f.v * 5)
    return f.mix(0.45 + 0.4 * f.noise(3) + 0.2 * (weave - 0.5))


def _grid(f: Field) -> np.ndarray:
    width = f.rng.uniform(0.03, 0.12)
    return f.either(1.0 * (np.minimum(np.abs(_cell(f.u)), np.abs(_cell(f.v))) > width))


def _grooved(f: Field) -> np.ndarray:
    f.warp(0.2)
    return f.mix(0.15 + 0.75 * np.abs(np.sin(np.pi * f.x * 1.2)) ** 0.5 + 0.1 * f.noise(40))


def _honeycombed(f: Field) -> np.ndarray:
    x, y = f.u, f.v / np.sqrt(3)
    f1 = np.hypot(_cell(x), _cell(y) * np.sqrt(3)), np.hypot(_cell(x + 0.5), _cell(y + 0.5) * np.sqrt(3))
    a = np.stack([_hexagon(_cell(x), _cell(y) * np.sqrt(3)), _hexagon(_cell(x + 0.5), _cell(y + 0.5) * np.sqrt(3))])
    edge = np.take_along_axis(a, np.argmin(f1, axis=0)[None], 0)[0]
    return f.either(np.clip((0.5 - edge) * 12, 0, 1) * (0.7 + 0.3 * np.min(f1, axis=0)))


def _hexagon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(x) / 2 + np.abs(y) * np.sqrt(3) / 2)


def _interlaced(f: Field) -> np.ndarray:
    dx, dy = _cell(f.x), _cell(f.y)
    over = (np.floor(f.x) + np.floor(f.y)) % 2 > 0
    across, along = np.abs(dx) < 0.36, np.abs(dy) < 0.36
    one, other = 0.55 + 0.45 * np.cos(np.pi * dx), 0.35 + 0.4 * np.cos(np.pi * dy)
    return f.mix(np.where(across & (over | ~along), one, np.where(along, other, 0)))


def _knitted(f: Field) -> np.ndarray:
    x, y = f.u, f.v * 1.4
    leg = y + np.abs(_cell(x)) * 1.2
    depth = 0.6 + 0.8 * np.minimum(np.abs(_cell(x)), 0.5 - np.abs(_cell(x)))
    loop = np.sqrt(np.clip(1 - (2 * _cell(leg)) ** 2, 0, 1)) * depth
    return f.mix(0.1 + loop + 0.1 * f.noise(40))


def _lacelike(f: Field) -> np.ndarray:
    dx, dy = _cell(f.u * 0.6), _cell(f.v * 0.6)
    radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    petals = np.cos(int(f.rng.integers(5, 9)) * angle)
    ink = np.abs(np.sin(np.pi * (radius * 8 + 0.6 * petals))) > 0.72
    ink |= (_tri(f.u * 3.6) < 0.15) | (_tri(f.v * 3.6) < 0.15)
    return f.either(ink * (0.9 + 0.1 * f.noise(20)))


def _lined(f: Field) -> np.ndarray:
    return f.either(1.0 * (_tri(f.v * 1.3) > f.rng.uniform(0.06, 0.15)) - 0.05 * f.noise(20))


def _marbled(f: Field) -> np.ndarray:
    return f.mix(np.abs(np.sin(np.pi * (f.x * 0.4 + 4 * f.fractal(2, 6)))) ** f.rng.uniform(0.3, 0.8))


def _matted(f: Field) -> np.ndarray:
    layers = [f.strokes(120, 0.3, 1, np.pi, 0.15) * f.rng.random() for _ in range(6)]
    return f.mix(np.max(layers, axis=0))


def _meshed(f: Field) -> np.ndarray:
    f.warp(0.15)
    x, y = (f.u + f.v) * 0.8, (f.u - f.v) * 0.8
    wire = np.minimum(np.abs(_cell(x)), np.abs(_cell(y)))
    return f.either(np.where(wire < 0.12, 1 - wire * 4, 0.15 * f.noise(3)))


def _paisley(f: Field) -> np.ndarray:
    share = np.zeros((N, N))
    row = np.floor(f.v * 0.6)
    dx, dy = _cell(f.u * 0.6 + 0.5 * (row % 2)), _cell(f.v * 0.6)
    bent = dx - 0.35 * (dy + 0.3) ** 2 * np.where(row % 2 > 0, 1, -1)
    drop = np.hypot(bent * (1.6 + 2.5 * np.clip(-dy + 0.1, 0, 1)), dy)
    share = np.where(drop < 0.42, 0.5 + 0.5 * np.sign(np.sin(drop * 45)), 0.1)
    return f.either(share + 0.3 * (np.hypot(_cell(f.u * 2.4), _cell(f.v * 2.4)) < 0.12))


def _perforated(f: Field) -> np.ndarray:
    x, y = f.u * 1.3, f.v * 1.3
    shift = 0.5 * (np.floor(y) % 2) * (f.rng.random() < 0.5)
    hole = np.hypot(_cell(x + shift), _cell(y))
    return f.mix(np.where(hole < 0.27, 0, 0.75 + 0.2 * np.exp(-(((hole - 0.3) / 0.03) ** 2)) + 0.1 * f.noise(4)))


def _pitted(f: Field) -> np.ndarray:
    across, down, _ = f.discs(int(f.cells * 14), 0.01, 0.035)
    pit = np.nan_to_num(1 - across**2 - down**2)
    return f.lit(-0.6 * pit + 0.5 * f.fractal(8), 3)


def _pleated(f: Field) -> np.ndarray:
    f.warp(0.3, 2)
    return f.mix(0.15 + 0.8 * (f.x % 1) ** f.rng.uniform(0.5, 1.5) * (0.8 + 0.2 * f.noise(3)))


def _polka_dotted(f: Field) -> np.ndarray:
    x, y = f.u * 0.8, f.v * 0.8
    shift = 0.5 * (np.floor(y) % 2)
    return f.either(np.hypot(_cell(x + shift), _cell(y)) < f.rng.uniform(0.24, 0.36))


def _porous(f: Field) -> np.ndarray:
    across, down, _ = f.discs(int(f.cells * 40), 0.006, 0.05)
    depth = np.nan_to_num(1 - across**2 - down**2) ** 0.4
    return f.mix(0.7 + 0.2 * f.fractal(10) - 0.75 * depth)


def _potholed(f: Field) -> np.ndarray:
    gray = 0.45 + 0.2 * f.noise(60) + 0.1 * f.fractal(4)
    hole = np.clip((f.fractal(3, 4) - f.rng.uniform(0.58, 0.66)) * 14, 0, 1)
    down, across = np.gradient(hole)
    return np.repeat((gray * (1 - 0.6 * hole) + 1.5 * (down + across))[..., None], 3, 2) * f.rng.uniform(0.85, 1.1, 3)


def _scaly(f: Field) -> np.ndarray:
    shade = np.zeros((N, N))
    for back in (1, 0):
        row = np.floor(f.v * 1.4) - back
        dx, dy = _cell(f.u + 0.5 * (row % 2)), f.v * 1.4 - row
        radius = np.hypot(dx * 2, dy) / 1.15
        shade = np.where(radius < 1, 0.9 - 0.75 * radius**3 + 0.1 * np.cos(dx * 20), shade)
    return f.mix(shade)


def _smeared(f: Field) -> np.ndarray:
    paint = np.stack([f.fractal(2, 3), f.noise(8), f.noise(3)], 2)
    wide = Image.fromarray((paint * 255).astype(np.uint8)).resize((N * 5, N)).crop((0, 0, N, N))
    mixed = np.clip(np.asarray(wide, float) / 255 @ f.rng.random((3, 3)) / 1.6, 0, 1)
    turned = Image.fromarray((mixed * 255).astype(np.uint8)).rotate(f.rng.uniform(-40, 40), Image.Resampling.BICUBIC)
    return np.asarray(turned, float) / 255 + 0.05 * f.noise(30)[..., None]


def _spiralled(f: Field) -> np.ndarray:
    scale = f.rng.uniform(0.15, 0.5)
    dx, dy = _cell(f.u * scale), _cell(f.v * scale)
    turn = np.arctan2(dy, dx) / (2 * np.pi) * f.rng.choice([-1, 1])
    return f.either(np.clip((_tri(np.hypot(dx, dy) * f.rng.uniform(6, 12) + turn) - 0.5) * 5 + 0.5, 0, 1))


def _sprinkled(f: Field) -> np.ndarray:
    image = np.broadcast_to(f.light, (N, N, 3)) * (0.95 + 0.05 * f.noise(20)[..., None])
    for _ in range(6):
        ink = f.strokes(int(f.cells * 4), 0.04, 3, np.pi)[..., None]
        image = image * (1 - ink) + ink * f.rng.random(3)
    return image


def _stained(f: Field) -> np.ndarray:
    spread = f.fractal(2, 4) - f.rng.uniform(0.45, 0.6)
    inside = np.clip(spread * 25, 0, 1)
    edge = np.exp(-((spread / 0.02) ** 2))
    tint = np.array([0.3, 0.45, 0.6]) * f.rng.uniform(0.5, 1.2)
    paper = np.clip(f.light + 0.1, 0, 1) * (0.93 + 0.07 * f.noise(30)[..., None])
    return paper - (0.5 * inside * (0.6 + 0.4 * f.fractal()) + 0.35 * edge)[..., None] * tint


def _stratified(f: Field) -> np.ndarray:
    depth = f.v + 1.2 * f.noise(2) + 0.3 * f.fractal(6)
    layers = f.rng.random(60)
    fine = f.rng.random(400)
    bands = 0.65 * layers[(depth * 2).astype(int) % 60] + 0.25 * fine[(depth * 12).astype(int) % 400]
    return f.mix(bands + 0.1 * f.fractal(20))


def _striped(f: Field) -> np.ndarray:
    return f.either(1.0 * (f.x * f.rng.uniform(0.6, 1.4) % 1 < f.rng.uniform(0.35, 0.65)))


def _studded(f: Field) -> np.ndarray:
    dx, dy = _cell(f.u * 0.9), _cell(f.v * 0.9)
    radius = np.hypot(dx, dy)
    ball = np.sqrt(np.clip(1 - (radius / 0.25) ** 2, 0, 1))
    shine = np.exp(-((dx + 0.08) ** 2 + (dy + 0.08) ** 2) * 120)
    ground = f.dark * (0.8 + 0.4 * f.fractal(12)[..., None])
    metal = (0.35 + 0.4 * ball + 0.5 * shine)[..., None] * np.array([1, 0.97, 0.9])
    return np.where((radius < 0.25)[..., None], metal, ground)


def _swirly(f: Field) -> np.ndarray:
    for _ in range(3):
        f.warp(f.rng.uniform(1.5, 3), 3)
    return f.either(0.5 + 0.5 * np.sin(2 * np.pi * (f.x + 0.5 * f.y) * 0.5))


def _veined(f: Field) -> np.ndarray:
    middle = np.abs(f.u - f.u.mean() + 0.3 * f.noise(2))
    side = np.abs(_cell(f.v * 0.8 - middle * 0.7 + 0.2 * f.noise(4)))
    first, second, _ = f.nearest(250)
    ink = np.maximum(1.2 * (middle < 0.12), 0.9 * (side < 0.05))
    return f.either(0.35 + 0.15 * f.fractal() + 0.6 * ink + 0.2 * (second - first < 0.008))


def _waffled(f: Field) -> np.ndarray:
    edge = 0.5 - np.maximum(np.abs(_cell(f.u)), np.abs(_cell(f.v)))
    return f.lit(-0.12 * np.clip(edge * 5, 0, 1), 8) * (0.75 + 0.25 * (edge < 0.12)[..., None])


def _woven(f: Field) -> np.ndarray:
    x, y = f.u * 1.8, f.v * 1.8
    over = (np.floor(x) + np.floor(y)) % 2 > 0
    one = np.cos(np.pi * _cell(x)) * (0.6 + 0.4 * np.cos(np.pi * _cell(y)))
    other = np.cos(np.pi * _cell(y)) * (0.6 + 0.4 * np.cos(np.pi * _cell(x)))
    return f.mix(np.where(over, 0.9 * one, 0.65 * other) * (0.9 + 0.1 * f.noise(60)))


def _wrinkled(f: Field) -> np.ndarray:
    ridges = sum(np.abs(f.noise(f.rng.uniform(3, 5) * 2**octave) - 0.5) / 1.7**octave for octave in range(4))
    return f.lit(ridges, 9)


def _zigzagged(f: Field) -> np.ndarray:
    wave = f.v + f.rng.uniform(0.4, 1) * _tri(f.u * f.rng.uniform(0.4, 0.9))
    return f.either(1.0 * (wave % 1 < f.rng.uniform(0.35, 0.6)))
