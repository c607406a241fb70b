"""Score the use of unlabeled images from cached predictions of models, without labels.

    python scripts/benchmark/predictions_benchmark.py FILE.npz ... [--draws 3] [--images 256] [--general NAME]

A file contains ``models``, ``classes``, ``labels`` [N], and either ``logits`` [M, N, C], or unit-norm embeddings
``images_M`` [N, D] and ``texts_M`` [P, C, D] for P prompts. Logits of the latter are 100 times the cosine, as for CLIP,
and every prompt is a separate case: results are means over the prompts of a file, then over files.

Images are drawn in five ways: as they are, with one class that has 60 or 30 % of them, with a long tail, and with a
third of the classes absent. In the first case the answers to all images are scored, in the others those to the drawn
images.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark.metrics import accuracy, spearman
from benchmark.scenarios import FREQUENT_SHARES, generator, long_tail, one_frequent, without_classes
from mll_hf.selection.probabilities import DIGITS, softmax
from mll_hf.selection.task import MIN_IMAGES
from mll_hf.selection.unlabeled import calibrate, model_scores, n_to_combine, pooling_weights
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

PRIOR = 0.5  # of every model
LOGIT_SCALE = 100.0
POOLS = (1, 3)


def main() -> int:
    """Print a table of means per way of drawing images, and one of the worst files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--general", help="model that a user would choose without any evidence")
    options = parser.parse_args()
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for path in options.files:
        for situation, models, logits, labels in read_situations(path):
            general = models.index(options.general) if options.general else None
            for way, seen, scored in draws_of(situation, labels, options.draws, options.images):
                outcome = outcome_of(logits, labels, seen, scored, general)
                found.setdefault(way, {}).setdefault(path.stem, []).append(outcome)
    print(table(*summary(found)))
    return 0


def read_situations(path: Path) -> Iterator[tuple[str, list[str], NDArray[np.float32], Ints]]:
    """Name, models, logits [M, N, C] and true classes [N] of each situation in a file."""
    with np.load(path) as file:
        models, labels = file["models"].tolist(), file["labels"].astype(np.int64)
        if "logits" in file:
            yield path.stem, models, file["logits"], labels
            return
        images = [file[f"images_{m}"].astype(np.float32) for m in range(len(models))]
        texts = [file[f"texts_{m}"].astype(np.float32) for m in range(len(models))]
    for p in range(len(texts[0])):
        cosines = [x @ of_model[p].T for x, of_model in zip(images, texts, strict=True)]
        yield f"{path.stem} {p}", models, LOGIT_SCALE * np.stack(cosines), labels


def draws_of(situation: str, labels: Ints, n_draws: int, limit: int) -> Iterator[tuple[str, Ints, Ints]]:
    """Way of drawing, positions of the seen images, and positions of the scored images."""
    everything = np.arange(len(labels))
    ways = {"as they are": lambda _rng: everything}
    ways |= {f"one class {share:.0%}": partial(one_frequent, labels, share) for share in FREQUENT_SHARES}
    ways |= {"long tail": partial(long_tail, labels), "third absent": partial(without_classes, labels)}
    for way, draw_images in ways.items():
        for draw in range(n_draws):
            rng = generator(0, situation, way, draw)
            seen = np.sort(rng.permutation(draw_images(rng))[:limit])
            if len(seen) >= MIN_IMAGES:
                yield way, seen, everything if way == "as they are" else seen


def outcome_of(
    logits: NDArray[np.float32], labels: Ints, seen: Ints, scored: Ints, general: int | None
) -> dict[str, float]:
    """Gather evidence from the seen images, and score the answers to the scored images.

    All figures but the last two are accuracies: of the best model alone; of the one named by --general; of the model
    ranked first, without bias correction; of the mean of all models' own probabilities; of the best models combined;
    and of as many of them as the evidence suggests.

    Args:
        logits: [M, N, C].
        labels: [N] true classes.
        seen: Positions of the images that evidence comes from.
        scored: Positions of the images to classify.
        general: Position of the generally best model.
    """
    n_models, _, n_classes = logits.shape
    recall = np.full(n_models, PRIOR)
    calibration, _ = calibrate(logits[:, seen], recall)
    scores = model_scores(calibration.agreement, recall)
    answers, truth = logits[:, scored], labels[scored]
    alone = np.array([accuracy(of_model.argmax(axis=1), truth) for of_model in answers])
    order = np.argsort(-np.round(scores, DIGITS), kind="stable")
    first, n_combined = order[0], n_to_combine(scores, n_classes)
    weights, probabilities = pooling_weights(scores, n_classes), softmax(calibration.applied(answers))

    def together(models: Ints) -> float:
        pooled = np.tensordot(weights[models], probabilities[models], axes=1)
        return accuracy(pooled.argmax(axis=1), truth)

    return {
        "best": alone.max(),
        "general": np.nan if general is None else alone[general],
        "first": alone[first],
        "mean of all": accuracy(softmax(answers).mean(axis=0).argmax(axis=1), truth),
        **{f"k = {k}": together(order[:k]) for k in POOLS},
        "combined": together(order[:n_combined]),
        "models": n_combined,
        "spearman": spearman(scores, alone),
    }


def summary(found: dict[str, dict[str, list[dict[str, float]]]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: for each way of drawing images, means over draws and prompts, then over files."""
    rows = []
    for way, by_file in found.items():
        means = [{key: np.mean([of[key] for of in draws]) for key in draws[0]} for draws in by_file.values()]
        figures = {key: np.mean([of[key] for of in means]) for key in means[0]}
        figures["worst file"] = min(of["combined"] - of["general"] for of in means)
        rows.append([way, str(len(by_file)), *(f"{value:.3f}" for value in figures.values())])
    return ["images", "files", *figures], rows


if __name__ == "__main__":
    raise SystemExit(main())
