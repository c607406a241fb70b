"""Land from above: terrain textures of a flight simulator, made from aerial photographs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from graph.small.packages import SIZE, Packages, webp_image
from mll_hf.graph.authoring import new_concept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mll_hf.graph.authoring import NewConcept

PACKAGE, FILES = "flightgear-data-base", "./usr/share/games/flightgear/Textures/Terrain/*.png"
IMAGES = 48
PARENT = "n00027167"  # location
_NOT_COLORS = re.compile(r"mask|relief|overlay|colors|hires|transition|unknown|void")
# kind of land -> other names, pattern of file names
SCENES = {
    "airport": ("runway and apron", r"^(?!.*grass).*airport"),
    "cemetery": ("graveyard", r"cemetery"),
    "city": ("dense urban area, city centre", r"city"),
    "commercial area": ("shopping area", r"commercial"),
    "desert": ("sand, dunes", r"sand\d|dunes|california-sand|outback"),
    "farmland": ("farm field, cropland, agricultural land", r"crop(?!grass|wood)|countryside|rice"),
    "forest": ("woodland, trees", r"forest|deciduous|evergreen"),
    "glacier": ("ice", r"glacier|packice"),
    "golf course": ("golf links", r"golf"),
    "grassland": ("grass, meadow, pasture", r"grass|pasture|greenspace"),
    "industrial area": ("factories and warehouses", r"industr|port\.png"),
    "lake": ("river, water, sea", r"water"),
    "lava field": ("volcanic rock", r"lava\d|rocks-lava"),
    "marsh": ("wetland, swamp", r"marsh|pantanal"),
    "orchard": ("fruit trees in rows", r"orchard"),
    "parking lot": ("car park", r"carpark"),
    "residential area": ("houses and streets, suburb, town", r"town|Town|suburbs|slum"),
    "rocky land": ("bare rock, cliffs", r"rock|cliffs"),
    "savanna": ("grassland with few trees", r"savanna|cerrado"),
    "shrubland": ("bushes, heath, scrub", r"shrub|scrub|heath|bush"),
    "snowfield": ("snow", r"snow"),
    "tidal flat": ("mud, beach at low tide", r"tidal|mud"),
    "transport area": ("railway yard, road junction", r"transport"),
    "tundra": ("treeless cold plain", r"tundra"),
}


def scenes(packages: Packages) -> Iterator[NewConcept]:
    """Kinds of land as seen from a satellite or an airplane."""
    folder, version = packages.debian(PACKAGE, FILES)
    files = sorted(path for path in folder.rglob("*.png") if not _NOT_COLORS.search(path.name))
    description = "a part of the earth's surface as it looks from an aeroplane or a satellite"
    names = "land seen from above", ["aerial view", "satellite image"]
    yield new_concept("scene-from-above", *names, description, [PARENT])
    for name, (others, pattern) in SCENES.items():
        fitting = [path for path in files if re.search(pattern, path.name)]
        id = f"aerial-{name.replace(' ', '-')}"
        rng = np.random.default_rng(list(name.encode()))
        images = []
        for number in range(IMAGES):
            path = fitting[number % len(fitting)]
            crop = _crop(Image.open(path).convert("RGB"), rng)
            source = f"Debian {PACKAGE} {version} ({path.name}), GPL-2"
            images.append(webp_image(crop, f"{path.name}, number {number}", "satellite", source))
        lemmas = [f"aerial view of {name}", f"satellite image of {name}", f"{others.split(',')[0]} seen from above"]
        description = f"{name} ({others}) as it looks from an aeroplane or a satellite"
        yield new_concept(id, f"{name} seen from above", lemmas, description, ["scene-from-above"], images)


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random square crop, turned by a multiple of 90 degrees."""
    side = int(min(image.size) * rng.uniform(0.3, 1))
    left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
    part = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return part.rotate(90 * int(rng.integers(4)))
