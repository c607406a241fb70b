"""Draw accuracy by number of examples, zero-shot and fitted, on WHU-RS19.

python scripts/benchmark/fit_picture.py --testbed DIR    # writes scripts/benchmark/results/fit.svg
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmark.fit_data import Data, read_whu
from mll_hf.selection.fit import fit

EXAMPLES = (0, 25, 50, 100, 200)
DRAWS = 2
OUTPUT = Path(__file__).parent / "results" / "fit.svg"


def accuracies(data: Data, n_examples: int, n_images: int, seed: int) -> tuple[float, float]:
    """Mean accuracy of the models on other images, zero-shot and fitted to ``n_images``, examples among them."""
    order = np.random.default_rng(seed).permutation(len(data.labels))
    seen, rest = order[:n_images], order[n_images:]
    found = fit([each[seen] for each in data.images], data.heads[0], data.labels[seen[:n_examples]])
    scores = [
        np.mean([
            (head.logits(images[rest]).argmax(axis=1) == data.labels[rest]).mean()
            for head, images in zip(heads, data.images, strict=True)
        ])
        for heads in (found.zero_shot, found.heads)
    ]  # fmt: skip
    return float(scores[0]), float(scores[1])


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--testbed", type=Path, required=True, help="folder with real_predictions/whu_rs19.npz")
    data = read_whu(parser.parse_args().testbed / "real_predictions" / "whu_rs19.npz", (0,))
    figure, axes = plt.subplots(figsize=(6, 3.6))
    lines = {
        "fitted to 256 images, examples among them": [256] * len(EXAMPLES),
        "fitted to the examples alone": EXAMPLES,
    }
    for label, sizes in lines.items():
        pairs = [(n, size) for n, size in zip(EXAMPLES, sizes, strict=True) if size]
        found = [np.mean([accuracies(data, n, size, seed) for seed in range(DRAWS)], axis=0) for n, size in pairs]
        axes.plot([n for n, _ in pairs], [fitted for _, fitted in found], marker="o", label=label)
        print(label, [(n, round(float(before), 3), round(float(after), 3)) for (n, _), (before, after) in zip(pairs, found, strict=True)])  # fmt: skip  # noqa: E501
        zero_shot = float(np.mean([before for before, _ in found]))
    axes.axhline(zero_shot, color="gray", linestyle="--", label="zero-shot")
    axes.set(xlabel="examples", ylabel="accuracy on other images", title="WHU-RS19, mean of 11 real models")
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(OUTPUT, metadata={"Date": None})


if __name__ == "__main__":
    main()
