"""What fitting heads to a user's images gives, on cached embeddings of real models and on the zoo.

A case is a data set with a prompt, a group of models that are fitted together, a way of drawing images, N unlabeled
images and E examples. Balanced images are scored on images that no head was fitted to. Imbalanced sets are small, so
the same images are fitted and scored, and beside it one half is fitted and the other scored.
"""

from __future__ import annotations

import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.adapters import clap, gda, linear_probe, tip_adapter, transclip
from benchmark.fit_data import SCALE, read_food, read_whu, unit, zoo_tasks
from benchmark.fit_tables import BALANCED, TEXT, Results, tables
from benchmark.metrics import accuracy, mean_per_class_recall
from benchmark.scenarios import generator, long_tail, one_frequent, without_classes
from benchmark.tables import Report
from mll_hf.cli.options import positive
from mll_hf.cli.output import note
from mll_hf.selection.estimate import Estimate
from mll_hf.selection.fit import STRENGTHS, _Images, fit
from mll_hf.selection.head import Head
from mll_hf.selection.probabilities import softmax
from mll_hf.selection.with_images import after_fit
from mll_hf.utils.files import write_atomically

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from benchmark.fit_data import Data
    from benchmark.fit_tables import Case, Figures
    from mll_hf.selection.fit import Fit

    Rows = NDArray[np.int64]

SAME, HALVES = ", same images", ", other half"
WAYS: dict[str, Callable[[Rows, np.random.Generator], Rows]] = {
    "60 % in one class": lambda labels, rng: one_frequent(labels, 0.6, rng),
    "30 % in one class": lambda labels, rng: one_frequent(labels, 0.3, rng),
    "long tail": long_tail,
    "a third absent": without_classes,
}
COUNTS = ((256, 0), (64, 0), (16, 0), (206, 50), (231, 25), (0, 50), (0, 100), (0, 10), (0, 25))
UNEVEN_COUNTS = ((256, 0), (231, 25))
PRIOR_MEAN, PRIOR_COMMON, PRIOR_OWN = 0.0, 3.0, 1.0  # in logits, of the wide prior of the accuracy that is shown


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Arguments of the part ``fit``."""
    command.add_argument("--testbed", type=Path, required=True, metavar="DIR", help="real_predictions, targets and zoo")
    command.add_argument("--prompts", type=int, nargs="+", default=[0, 6], metavar="P", help="default: 0 6, of 0 to 9")
    command.add_argument("--draws", type=positive, default=2, metavar="N", help="draws per case (default: 2)")
    command.add_argument("--workers", type=positive, default=1, metavar="N", help="processes (default: 1)")
    command.add_argument("--cache", type=Path, default=Path("bench-cache"), metavar="DIR", help="embeddings of the zoo")
    command.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder for fit.md")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure everything, and write ``fit.md``."""
    results = Results()
    with ProcessPoolExecutor(args.workers) as workers:
        for found in workers.map(_measured, jobs(args)):
            for case, runs in found.items():
                results.runs[case] += runs
    facts = {"command": f"`{args.command}`", "time of a fit": ", ".join(timing())}
    report = Report("Heads fitted to a user's images", facts, tables(results), TEXT)
    write_atomically(args.out / "fit.md", report.to_markdown().encode())
    note(f"wrote {args.out / 'fit.md'}")


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    """All measurements."""
    real = args.testbed / "real_predictions"
    whu = read_whu(real / "whu_rs19.npz", args.prompts)
    n_models, n_classes = len(whu.images), int(whu.labels.max()) + 1
    everything, alone = [tuple(range(n_models))], [(m,) for m in range(n_models)]
    for p in range(len(args.prompts)):
        one = replace(whu, heads=[whu.heads[p]])
        yield Job(one, "together", everything, args.draws, baselines=p == 0, seed=p)
        for part, name in enumerate(("even", "odd")):
            half = one.of_classes(f"WHU-RS19, {name} classes", np.arange(part, n_classes, 2))
            yield Job(
                half, "together", everything, args.draws, ((256, 0), (64, 0), (206, 50), (0, 50)), ways=(), seed=p
            )
        yield Job(one.exchanged(), "together", everything, 2 * args.draws, ((231, 25), (206, 50)), ways=(), seed=p)
    one, equal = replace(whu, heads=whu.heads[:1]), np.full(n_classes, 1 / n_classes)
    yield Job(one, "alone", alone, args.draws)
    yield Job(one, "alone, equal shares", alone, 1, ((256, 0), (64, 0), (16, 0)), ways=(), shares=equal)
    yield Job(one, "in pairs", [(m, (m + 1) % n_models) for m in range(n_models)], 1, ((256, 0), (231, 25)), ways=())
    yield Job(read_food(real / "food10_clip_vitb32.npz"), "alone", [(0,)], 4 * args.draws, baselines=True)
    for task in zoo_tasks(args.testbed, args.cache):
        models = range(len(task.images))
        yield Job(task, "together", [tuple(models)], 1, ((256, 0), (231, 25)), ways=())
        alone = [(m,) for m in models]
        yield Job(
            task, "alone", alone, 1, ((256, 0), (16, 0), (231, 25), (0, 25)), ways=("60 % in one class", "long tail")
        )


# --- one case ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Job:
    """Measurements of a data set, for groups of models that are fitted together."""

    data: Data
    group: str
    groups: Sequence[tuple[int, ...]]
    n_draws: int
    counts: Sequence[tuple[int, int]] = COUNTS
    ways: Sequence[str] = tuple(WAYS)
    shares: NDArray[np.float64] | None = None
    baselines: bool = False
    seed: int = 0

    def measured(self) -> dict[Case, list[Figures]]:
        """Figures of each case, by run."""
        found: dict[Case, list[Figures]] = defaultdict(list)
        for draw in range(self.n_draws):
            for way, n, e, seen, scored in self.draws(draw):
                with_others = self.baselines and draw == 0 and not way.endswith(HALVES)
                for models in self.groups:
                    figures = outcome(self.data, models, seen, e, scored, self.shares, baselines=with_others)
                    found[self.data.name, self.group, way, f"{n} + {e}"].append(figures)
        note(f"{self.data.name}, {self.group}: done")
        return dict(found)

    def draws(self, draw: int) -> Iterator[tuple[str, int, int, Rows, Rows]]:
        """Way, N, E, positions of the images used to fit (examples first), and of the images to score."""
        data, everything = self.data, np.arange(len(self.data.labels))
        for n, e in self.counts:
            most = len(data.usable) if data.fixed is not None else len(data.usable) // 2
            seen = generator(0, data.name, self.seed, draw).permutation(data.usable)[: min(n + e, most)]
            yield BALANCED, n, e, seen, np.setdiff1d(everything, seen) if data.fixed is None else data.fixed
        for way in self.ways:
            rng = generator(0, data.name, way, self.seed, draw)
            images = rng.permutation(data.usable[WAYS[way](data.labels[data.usable], rng)])
            for n, e in UNEVEN_COUNTS:
                seen, half = images[: n + e], len(images[: n + e]) // 2
                if half > e:
                    yield way + SAME, n, e, seen, seen[e:]
                    yield way + HALVES, n, e, seen[:half], seen[half:]


def _measured(job: Job) -> dict[Case, list[Figures]]:
    return job.measured()


def outcome(
    data: Data, models: tuple[int, ...], seen: Rows, e: int, scored: Rows, shares: NDArray[np.float64] | None,
    *, baselines: bool,
) -> dict[str, NDArray[np.float64]]:  # fmt: skip
    """Fit once, and score; arrays [M] or of one number."""
    heads, truth, classes = [data.heads[0][m] for m in models], data.labels[scored], data.labels[seen[:e]]
    images = [data.images[m][seen] for m in models]
    found = fit(images, heads, classes if e else None, shares)
    others = [data.images[m][scored] for m in models]
    logits = np.stack([head.logits(x) for head, x in zip(found.heads, others, strict=True)])
    zero_shot = np.stack([head.logits(x) for head, x in zip(heads, others, strict=True)])
    score = {
        "zero-shot": by_model(accuracy, zero_shot, truth), "fitted": by_model(accuracy, logits, truth),
        "zero-shot recall": by_model(mean_per_class_recall, zero_shot, truth),
        "fitted recall": by_model(mean_per_class_recall, logits, truth),
        "models": np.array(models, np.float64),
    }  # fmt: skip
    difference = (logits.argmax(axis=2) == truth).astype(np.float64) - (zero_shot.argmax(axis=2) == truth)
    score |= {"gain": difference.mean(axis=1), "variance": difference.var(axis=1) / len(truth)}
    pool = np.tensordot(found.weights, softmax(logits), axes=1)
    score["pool of all"] = np.array([accuracy(pool.argmax(axis=1), truth)])
    first = int((found.scores if found.right is None else found.right[:-1, 1] / e + 1e-3 * found.scores).argmax())
    score["ranked first"], score["best zero-shot"] = score["fitted"][[first]], score["zero-shot"].max(keepdims=True)
    if e > 10:
        true = score["fitted"]
        if data.fixed is not None:  # examples tell about images like them, which those for tests are not
            alike = np.setdiff1d(data.usable, seen)
            own = [head.logits(data.images[m][alike]) for m, head in zip(models, found.heads, strict=True)]
            true = by_model(accuracy, np.stack(own), data.labels[alike])
        score |= shown(found, true)
    if baselines:
        fitted = [partial(gda, x, classes, head) for x, head in zip(images, heads, strict=True)]
        score["GDA"] = others_by_model(fitted, others, truth)
        if len(np.unique(classes)) > 1:
            probes = [partial(linear_probe, x[:e], classes, len(heads[0].bias)) for x in images]
            score["linear probe"] = others_by_model(probes, others, truth)
            tips = [partial(tip_adapter, x[:e], classes, head) for x, head in zip(images, heads, strict=True)]
            score["Tip-Adapter"] = others_by_model(tips, others, truth)
            claps = [partial(clap, x[:e], classes, head) for x, head in zip(images, heads, strict=True)]
            score["CLAP"] = others_by_model(claps, others, truth)
            score["best strength, in hindsight"] = in_hindsight(images, heads, classes, others, truth)
        else:
            every = np.union1d(seen, scored)
            assigned = [transclip(data.images[m][every], head) for m, head in zip(models, heads, strict=True)]
            kept = np.searchsorted(every, scored)
            score["TransCLIP"] = by_model(accuracy, np.stack(assigned)[:, kept], truth)
    return score


def by_model(figure: Callable[[Rows, Rows], float], scores: NDArray[np.floating], truth: Rows) -> NDArray[np.float64]:
    """[M] a figure of the best classes by scores [M, N, C]."""
    return np.array([figure(of_model.argmax(axis=1), truth) for of_model in scores])


def others_by_model(
    ways: Sequence[Callable[[NDArray[np.float32]], NDArray[np.floating]]],
    images: Sequence[NDArray[np.float32]],
    truth: Rows,
) -> NDArray[np.float64]:
    """[M] accuracy of another method."""
    return by_model(accuracy, np.stack([way(x) for way, x in zip(ways, images, strict=True)]), truth)


def in_hindsight(
    images: Sequence[NDArray[np.float32]],
    heads: Sequence[Head],
    classes: Rows,
    others: Sequence[NDArray[np.float32]],
    truth: Rows,
) -> NDArray[np.float64]:
    """[M] accuracy with the strength for each model that is best on the scored images."""
    data = replace(_Images.of(images, heads, None), counts=np.ones(len(classes)))
    found = []
    for strength in STRENGTHS:
        state = data.em(strength, np.arange(len(classes)), classes)
        fitted = data.fitted([state] * len(heads), np.full(len(heads), strength), None).heads
        logits = [head.logits(x) for head, x in zip(fitted, others, strict=True)]
        found.append(by_model(accuracy, np.stack(logits), truth))
    return np.max(found, axis=0)


def shown(found: Fit, truth: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Error of the accuracies that are shown after a fit with examples, and which intervals hold."""
    covariance = PRIOR_OWN**2 * np.eye(len(truth)) + PRIOR_COMMON**2
    estimate = after_fit(Estimate(np.full(len(truth), PRIOR_MEAN), covariance), found)
    low, high = estimate.interval
    return {
        "error": np.abs(estimate.accuracy - truth),
        "above": (truth > high).astype(np.float64),
        "below": (truth < low).astype(np.float64),
    }


def timing() -> Iterator[str]:
    """Seconds of a fit of one model to 1,000 images of 100 classes, D = 1,024."""
    rng = np.random.default_rng(0)
    labels, centers = rng.integers(100, size=1000), rng.normal(size=(100, 1024))
    images = [unit(centers[labels] + 2 * rng.normal(size=(1000, 1024)))]
    heads = [Head.zero_shot(unit(centers + rng.normal(size=centers.shape)), SCALE)]
    for name, classes in (("without examples", None), ("with 100 examples and cross-validation", labels[:100])):
        started = time.process_time()
        fit(images, heads, classes)
        yield f"{time.process_time() - started:.1f} s of CPU {name}"
