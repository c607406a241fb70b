"""Draw the picture of the README: photos with classes, and accuracy zero-shot and fitted on real models.

The photos are in the wheel of scikit-image, dedicated to the public domain (CC0) or by NASA; the accuracies are read
from benchmark/results/fit.md.

    python scripts/readme_picture.py    # writes scripts/benchmark/results/first.png
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import skimage
from PIL import Image

RESULTS = Path(__file__).parent / "benchmark" / "results"
PHOTOS = {"cat": "chelsea.png", "coffee": "coffee.png", "rocket": "rocket.jpg", "motorcycle": "motorcycle_left.png"}
ROWS = {  # section of fit.md, with what is fitted to
    "aerial photos (WHU-RS19)\n11 models, 256 images": ("WHU-RS19: models fitted together", "256 + 0"),
    "aerial photos (WHU-RS19)\n11 models, 64 images": ("WHU-RS19: models fitted together", "64 + 0"),
    "food (Food-10)\n1 model, 256 images": ("Food-10: models fitted alone", "256 + 0"),
}


def accuracies(section: str, images: str) -> tuple[float, float]:
    """Mean accuracy of the models, zero-shot and fitted."""
    text = (RESULTS / "fit.md").read_text().split(f"## {section}\n")[1]
    found = re.search(rf"^\| balanced \| {re.escape(images)} \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"fit.md has no row '{images}' in '{section}'")
    return float(found[1]), float(found[2])


def main() -> None:
    """Draw and write the picture."""
    figure = plt.figure(figsize=(10, 2.9), layout="constrained", dpi=110)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25])
    for axes, (name, file) in zip(left.subplots(2, 2).flat, PHOTOS.items(), strict=True):
        image = Image.open(Path(skimage.__file__).parent / "data" / file).convert("RGB")
        side = min(image.size)
        axes.imshow(image.crop((0, 0, side, side)).resize((200, 200)))
        axes.set(xticks=[], yticks=[])
        axes.set_title(name, fontsize=10, pad=3)
    left.suptitle("your images and class names", fontsize=11)
    axes = right.subplots()
    for row, (section, images) in enumerate(ROWS.values()):
        before, after = (100 * value for value in accuracies(section, images))
        axes.annotate("", (after, row), (before, row), arrowprops={"arrowstyle": "->", "color": "#1d6996", "lw": 2})
        axes.scatter(before, row, color="#9a9a9a", s=45, zorder=3)
        axes.text(before - 0.5, row, f"{before:.1f}", ha="right", va="center", color="#666666")
        axes.text(after + 0.5, row, f"{after:.1f} %", ha="left", va="center", color="#1d6996", weight="bold")
    axes.set(xlim=(80, 102), yticks=range(len(ROWS)), yticklabels=ROWS, xticks=[80, 85, 90, 95, 100])
    axes.set_ylim(len(ROWS) - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    right.suptitle("accuracy: zero-shot → fitted, no image labeled", fontsize=11)
    figure.savefig(RESULTS / "first.png")


if __name__ == "__main__":
    main()
