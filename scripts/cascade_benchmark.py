"""Score cascades with the library's code, on images that were not used to choose their thresholds.

    python scripts/cascade_benchmark.py FILE.npz ... [--share .01 ...] [--images 256] [--draws 3] [--without RemoteCLIP]

Files are those of ``predictions_benchmark.py``; costs are their ``gflops`` [M], or else those of known models whose
architecture is the last part of a name. All models answer the trial's images; all other images are scored. Columns: the
accuracy of the chosen models and of the cascade, and their difference; the share of draws with a cascade; its GFLOPs
per image, in percent of those of the chosen models; answers that changed; and the cascade's accuracy minus

- that of the best single model of at most the same mean GFLOPs: best by the trial's score, and in hindsight;
- that of a random mixture of the cheap model and the chosen ones with the same mean GFLOPs;
- that of the best mixture, in hindsight, of any two single models with at most the same mean GFLOPs.

If there is no cascade, the chosen models are used instead. All differences are in points of accuracy.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.bench.metrics import accuracy
from mll_hf.bench.scenarios import generator
from mll_hf.ensemble.cascade import confidence, first_model_probabilities, learn_cascade
from mll_hf.ensemble.run import Ensemble
from mll_hf.labels.label import Cost, ModelRef
from mll_hf.models.known import known_models
from mll_hf.selection import Evidence, SelectedModel, Selection, SelectionConfig, Strategy, choose_with_images
from mll_hf.selection.base import DEFAULT_CASCADE
from mll_hf.utils.tables import table
from predictions_benchmark import PRIOR, read_situations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

COUNTS = (1, None, 3)  # models to choose; None for as many as the trial suggests
TEMPLATE = ("{}",)


def main() -> int:
    """Print a table: means over draws and prompts, then over files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--share", nargs="+", type=float, default=[DEFAULT_CASCADE], help="of answers that may change")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--without", default="\0", metavar="TEXT", help="exclude models whose name contains TEXT")
    options = parser.parse_args()
    found: dict[tuple[int | None, float], dict[str, list[list[float]]]] = {}
    for path in options.files:
        for situation, models, logits, labels in read_situations(path):
            kept = [m for m, name in enumerate(models) if options.without not in name]
            shortlist = _shortlist([models[m] for m in kept], _gflops(path, models)[kept], logits.shape[2])
            for draw in range(options.draws):
                order = generator(0, situation, "cascade", draw).permutation(len(labels))
                seen, new = np.split(order, [min(options.images, len(order) // 2)])
                for k in COUNTS:
                    config = SelectionConfig(k=k)
                    chosen = choose_with_images(shortlist, range(len(kept)), logits[kept][:, seen], config, TEMPLATE)
                    at = [kept[int(model.ref.repo_id)] for model in chosen.models]
                    for share in options.share:
                        row = outcome(chosen, logits[at][:, seen], logits[at][:, new], labels[new], share)
                        found.setdefault((k, share), {}).setdefault(path.stem, []).append(row)
    header = ["k", "share", "chosen", "cascade", "+", "used", "cost %", "changed", "single", "in hindsight"]
    rows = []
    for (k, share), by_file in found.items():
        means = np.mean([np.mean(rows, axis=0) for rows in by_file.values()], axis=0)
        rows.append([str(k or "auto"), str(share), *(f"{value:.3f}" for value in means[:2])])
        rows[-1] += [f"{value:+.2f}" if n != 1 else f"{value:.2f}" for n, value in enumerate(means[2:])]
    print(table([*header, "mixture", "any mixture"], rows))
    return 0


def _shortlist(names: Sequence[str], gflops: NDArray[np.float64], n_classes: int) -> Selection:
    """A selection with equal scores for all models; their ids are their positions."""
    shape = (len(names), n_classes)
    models = [
        SelectedModel(ModelRef(str(m), "0", "open_clip"), Cost(1, float(cost)), 1.0, PRIOR, Evidence.OVERALL)
        for m, cost in enumerate(gflops)
    ]
    return Selection(
        classes=tuple(map(str, range(n_classes))),
        strategy=Strategy.MLL,
        k=len(names),
        models=tuple(models),
        scores=np.full(shape, PRIOR),
        chosen=np.ones(shape, np.bool_),
        matches=((),) * n_classes,
        coverage=np.zeros(n_classes),
        images=np.zeros(n_classes),
    )


def _gflops(path: Path, names: Sequence[str]) -> NDArray[np.float64]:
    with np.load(path) as file:
        if "gflops" in file:
            return np.asarray(file["gflops"], np.float64)
    known = {model.architecture: model.image_gflops for model in known_models()}
    return np.array([known[name.split("/")[-1]] for name in names], np.float64)


def outcome(
    chosen: Selection, seen: NDArray[np.float32], new: NDArray[np.float32], labels: NDArray[np.int64], share: float
) -> list[float]:
    """The columns of one draw, from logits [M, N, C] of all models of a selection, in its order."""
    if chosen.evidence is None:
        raise ValueError("chosen without images")
    union, ensemble = list(chosen.union), Ensemble(chosen)
    cascade = learn_cascade(chosen, seen, ensemble.combine(seen[union]).probabilities.argmax(axis=1), share)
    together = ensemble.combine(new[union]).probabilities.argmax(axis=1)
    full, cost = accuracy(together, labels), chosen.cost.gflops
    own = [accuracy(first_model_probabilities(chosen, m, new[m]).argmax(axis=1), labels) for m in range(len(new))]
    answers, mixture = together, full
    if cascade:
        first = first_model_probabilities(chosen, cascade.first, new[cascade.first])
        unsure = confidence(first) < cascade.threshold
        answers = np.where(unsure, together, first.argmax(axis=1))
        cost, cheap = chosen.gflops_with(cascade, float(unsure.mean())), chosen.gflops_with(cascade, 0)
        part = (cost - cheap) / (chosen.gflops_with(cascade, 1) - cheap)
        mixture = part * full + (1 - part) * own[cascade.first]
    costs = [model.cost.gflops for model in chosen.models]
    fitting = [m for m, of_model in enumerate(costs) if of_model <= cost + 1e-9]
    by_score = own[max(fitting, key=lambda m: chosen.evidence.scores[m])]
    mixtures = [own[a] + (own[b] - own[a]) * (cost - costs[a]) / (costs[b] - costs[a])
                for a, b in product(fitting, range(len(new))) if costs[b] > cost]  # fmt: skip
    reached = accuracy(answers, labels)
    others = [full, by_score, max(own[m] for m in fitting), mixture, max([own[m] for m in fitting] + mixtures)]
    gains = [100 * (reached - other) for other in others]
    changed = float((answers != together).mean())
    return [full, reached, gains[0], cascade is not None, 100 * cost / chosen.cost.gflops, 100 * changed, *gains[1:]]


if __name__ == "__main__":
    raise SystemExit(main())
