"""Fit the estimate of accuracies to all published figures and write mll_hf/selection/data/accuracy.json.

    python scripts/known_models/fit_accuracy.py            # print errors and coefficients
    python scripts/known_models/fit_accuracy.py --write    # and write the file
    python scripts/known_models/fit_accuracy.py --things   # before that, rewrite things.json (needs WordNet; minutes)

Class names come from the table of recall per class, from accuracy/class_names.json, which names the source of each, and
from the class lists of known datasets. Datasets without names get the mean features of the others.

Protocol: every kin group of datasets is left out in turn, in all tables at once. The errors of a dataset are averaged
over its tables, then over datasets. The width of an interval is fitted inside each fold, on errors for groups that
were left out inside that fold. The features were chosen on the same datasets. Which words are things is learned from
WordNet alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from graph.wordnet import DEBIAN
from known_models.figures import accuracies, class_recalls, known_datasets
from mll_hf.labels.counts import wilson_interval
from mll_hf.matching.datasets import known_datasets as class_lists
from mll_hf.matching.prompts import clean_class_name
from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder
from mll_hf.matching.words import name_key
from mll_hf.models.known import imagenet_accuracies
from mll_hf.models.published import figures as figures_of_domains
from mll_hf.selection.accuracy import (
    MEANINGLESS_ERROR,
    MIN_ACCURACY,
    MIN_ESTIMATE,
    AccuracyModel,
    TaskTraits,
    have_meaning,
    near_classes,
    task_traits,
    with_near_classes,
)
from mll_hf.selection.estimate import CONFIDENCE, MAX_WIDTH, Z_SCORE
from mll_hf.selection.probabilities import logit, sigmoid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from known_models.figures import KnownDataset

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

ROOT = Path(__file__).resolve().parents[2]
NAMES = Path(__file__).resolve().parent / "accuracy" / "class_names.json"
OUT = ROOT / "mll_hf" / "selection" / "data" / "accuracy.json"
OUT_THINGS = OUT.with_name("things.json")
OUT_RECALLS = OUT.with_name("class_recalls.json")
REFERENCE = "imagenet-1k"
SOURCES = ("open_clip", "mteb", "mobileclip", "clip_benchmark")
# The general model in tables of specialists, and its repo; the size of that beside CONCH is not stated there
GENERAL_OF = {
    "dermfm": ("ViT-L-14/openai", "openai/clip-vit-large-patch14"),
    "conch": ("OpenAI CLIP", "openai/clip-vit-base-patch16"),
}
FEATURES = ("similarity", "nearest", "medical", "specialized", "things")
ALL_FEATURES = (*FEATURES, "log_classes")
N_CLASSES = {"dsprites-orientation": 40, "dsprites-x-position": 32, "smallnorb-azimuth": 18, "smallnorb-elevation": 9}
LEVELS = 6  # models per table and dataset, at even steps of ImageNet accuracy
RIDGE, USUAL_SLOPE, STEPS = 0.03, 0.9, 30
CENTER = 1.0  # of the logit of ImageNet accuracy
MIN_ERROR = 0.05  # smaller errors are squared instead of absolute
ERRORS = np.arange(0.3, 3.01, 0.05)  # candidate standard errors, in logits
THINGS = (5, 6, 8, 13, 17, 18, 20, 27)  # lexnames(5WN): animal, artifact, body, food, object, person, plant, substance
WORDS, WORDS_RIDGE = 6000, 3.0


@dataclass(frozen=True, eq=False)
class Figures:
    """N published accuracies on D datasets.

    Attributes:
        names: The D datasets.
        kin: [D] kin group of each.
        features: [D, F] features, NaN where names are unknown.
        chance: [D] one over the number of classes.
        dataset: [N] index of the dataset.
        table: [N] index of the table.
        imagenet: [N] accuracy of the model on ImageNet in the same table.
        accuracy: [N] accuracy of the model on the dataset.
        best: [N] whether the model is the best of the table on ImageNet.
        with_meaning: [D] share of the names that mean something; 1 where names are unknown.
        near: [D] traits of the dataset, with what is published about its classes in other kin groups.
    """

    names: tuple[str, ...]
    kin: NDArray[np.str_]
    features: Floats
    chance: Floats
    dataset: Ints
    table: Ints
    imagenet: Floats
    accuracy: Floats
    best: NDArray[np.bool_]
    with_meaning: Floats
    near: tuple[TaskTraits | None, ...] = ()

    def near_classes(self, estimates: Floats) -> Floats:
        """[N] estimates after the published recall of classes with the same names."""
        out = estimates.copy()
        for d, traits in enumerate(self.near):
            if traits is not None:
                rows = self.dataset == d
                out[rows] = sigmoid(with_near_classes(logit(out[rows], MIN_ESTIMATE), self.imagenet[rows], traits))
        return out

    def shares(self, rows: NDArray[np.bool_]) -> Floats:
        """[N] weights of rows: equal among datasets, tables of a dataset, and models of a table; they sum to 1."""
        weights = np.zeros(len(rows))
        cells = np.unique(np.stack([self.dataset[rows], self.table[rows]]), axis=1).T
        for dataset, table in cells.tolist():
            cell = rows & (self.dataset == dataset) & (self.table == table)
            weights[cell] = 1 / cell.sum() / (cells[:, 0] == dataset).sum()
        return weights / weights.sum()

    @property
    def kin_sizes(self) -> Ints:
        """[N] number of datasets in the kin group."""
        return np.array([(self.kin == kin).sum() for kin in self.kin])[self.dataset]

    def mean(self, values: Floats, rows: NDArray[np.bool_]) -> float:
        """Mean over datasets of the mean over tables."""
        return float(self.shares(rows) @ values)


def read_figures() -> Figures:
    """All figures, with the features of the datasets."""
    datasets = {dataset.id: dataset for dataset in known_datasets()}
    recalls = class_recalls()
    tables = []
    for source in SOURCES:
        published = accuracies(source)
        tables.append((published.datasets, published.values))
    measured = tuple(dict.fromkeys(recalls.datasets))
    tables.append((measured, np.stack([recalls.of(name)[1].mean(axis=1) for name in measured], axis=1)))
    for source, (model, repo) in GENERAL_OF.items():
        of_model = [f for f in figures_of_domains() if (f.source, f.model) == (source, model) and f.dataset in datasets]
        values_of = [imagenet_accuracies()[repo], *(figure.value for figure in of_model)]
        tables.append(((REFERENCE, *(figure.dataset for figure in of_model)), np.array([values_of])))
    names = tuple(sorted({name for in_table, _ in tables for name in in_table} - {REFERENCE}))
    rows: list[tuple[int, int, float, float, bool]] = []
    for t, (in_table, values) in enumerate(tables):
        reference = values[:, in_table.index(REFERENCE)]
        for name, column in zip(in_table, values.T, strict=True):
            models = np.flatnonzero(np.isfinite(column) & np.isfinite(reference))
            if name == REFERENCE or not len(models):
                continue
            ranked = models[np.argsort(reference[models], kind="stable")]
            some = np.unique(np.linspace(0, len(ranked) - 1, LEVELS).round().astype(int))
            last = models[np.argmax(reference[models])]
            for m in dict.fromkeys([*ranked[some].tolist(), int(last)]):
                rows.append((names.index(name), t, float(reference[m]), float(column[m]), m == last))
    dataset, table, imagenet, accuracy, best = (np.array(column) for column in zip(*rows, strict=True))
    features, chance, with_meaning = features_of([datasets[name] for name in names])
    kin = np.array([datasets[name].kin for name in names])
    near = tuple(traits_near(datasets[name]) for name in names)
    return Figures(names, kin, features, chance, dataset, table, imagenet, accuracy, best, with_meaning, near)


def traits_near(of: KnownDataset) -> TaskTraits | None:
    """Number of classes and what other kin groups publish about them; None if the names are unknown."""
    recalls, known = class_recalls(), {each.id: each for each in class_lists()}
    if of.id in recalls.datasets:
        classes = list(recalls.of(of.id)[0])
    elif of.id in known:
        classes = [spellings[0] for spellings in known[of.id].classes]
    else:
        return None
    return replace(task_traits(len(classes), None, of.domain), near=near_classes(classes, of.domain, but=of.kin))


def fit_recalls() -> dict[str, object]:
    """Recall of the model that is best on ImageNet, per class name: kin group, recall, logarithm of the classes."""
    recalls, datasets = class_recalls(), {dataset.id: dataset for dataset in known_datasets()}
    imagenet = recalls.of(REFERENCE)[1].mean(axis=1)
    best, found = int(np.argmax(imagenet)), defaultdict[str, list[list[object]]](list)
    for dataset in dict.fromkeys(recalls.datasets):
        if datasets[dataset].domain == "photo":
            names, values = recalls.of(dataset)
            for name, recall in zip(names, values[best].tolist(), strict=True):
                row = [datasets[dataset].kin, round(recall, 3), round(float(np.log(len(names))), 2)]
                found[name_key(name)].append(row)
    return {
        "source": recalls.source,
        "imagenet": round(float(imagenet[best]), 4),
        "recalls": dict(sorted(found.items())),
    }


def features_of(datasets: Sequence[KnownDataset]) -> tuple[Floats, Floats, Floats]:
    """[D, F] features, [D] chance levels, and [D] shares of the names that mean something."""
    encoder, recalls = CachedEncoder(DefaultEncoder(), exact=True), class_recalls()
    written = json.loads(NAMES.read_text(encoding="utf-8"))
    lists = {each.id: each for each in class_lists()}
    rows, n_classes = [], [of.n_classes or N_CLASSES.get(of.id, 0) for of in datasets]
    with_meaning = np.ones(len(datasets))
    for d, of in enumerate(datasets):
        name, classes = written.get(of.id, {}).get("of", of.id), list[str]()
        if name in recalls.datasets:
            classes = list(recalls.of(name)[0])
        elif name in written:
            classes = written[name]["names"]
        elif name in lists:
            classes = [spellings[0] for spellings in lists[name].classes]
        traits = task_traits(len(classes), None, of.domain)
        if classes:
            embeddings = encoder.encode([clean_class_name(c) or c for c in classes]).astype(np.float64)
            embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
            meant = have_meaning(classes, of.kin)
            traits, with_meaning[d] = task_traits(len(classes), embeddings, of.domain, meant), meant.mean()
        of_domain = (traits.medical, traits.specialized and not traits.medical)
        rows.append((traits.similarity, traits.nearest, *of_domain, traits.things, np.log(n_classes[d])))
    return np.array(rows, np.float64), 1 / np.array(n_classes, np.float64), with_meaning


def fit(figures: Figures, features: Sequence[str], left_out: Sequence[str]) -> tuple[Floats, Floats]:
    """Coefficients and [N] estimates for all rows, fitted without the kin groups ``left_out``.

    Minimizes absolute errors by reweighted Gauss-Newton steps. The weight of a kin group is the square root of its
    number of datasets. Coefficients apply to unscaled features: the intercept, the slope of ImageNet accuracy, then
    the features.
    """
    columns = [ALL_FEATURES.index(name) for name in features]
    used = ~np.isin(figures.kin, left_out)
    values = figures.features[:, columns]
    mean, scale = np.nanmean(values[used], axis=0), np.nanstd(values[used], axis=0) + 1e-9
    scaled = np.nan_to_num((values - mean) / scale)
    n_rows = len(figures.dataset)
    design = np.column_stack([np.ones(n_rows), logit(figures.imagenet, MIN_ACCURACY) - CENTER, scaled[figures.dataset]])
    rows = used[figures.dataset]
    weights = figures.shares(np.ones(n_rows, np.bool_)) * len(figures.names) / figures.kin_sizes**0.5
    chance = figures.chance[figures.dataset]
    A, y, c, w = design[rows], figures.accuracy[rows], chance[rows], weights[rows]
    usual = np.zeros(A.shape[1])
    usual[1] = USUAL_SLOPE
    penalty = np.diag([1e-6, *[RIDGE] * (A.shape[1] - 1)])
    b = usual.copy()
    for _ in range(STEPS):
        share = sigmoid(A @ b)
        error = y - c - (1 - c) * share
        slopes = ((1 - c) * share * (1 - share))[:, None] * A
        trust = w * 0.1 / np.maximum(np.abs(error), MIN_ERROR)
        gradient = slopes.T @ (trust * error) - penalty @ (b - usual)
        step = np.linalg.solve((slopes * trust[:, None]).T @ slopes + penalty + 1e-4 * np.eye(len(b)), gradient)
        b = b + step * min(1.0, 1 / max(float(np.abs(step).max()), 1e-12))
    estimates = chance + (1 - chance) * sigmoid(design @ b)
    slopes = b[2:] / scale
    return np.array([b[0] - b[1] * CENTER - slopes @ mean, b[1], *slopes]), figures.near_classes(estimates)


@cache
def class_error() -> float:
    """Standard deviation of the recall of single classes within published datasets, in logits."""
    recalls = class_recalls()
    values, of_class = logit(recalls.values, MIN_ACCURACY), np.array(recalls.datasets)
    return float(np.mean([values[..., of_class == name].std(axis=-1).mean() for name in dict.fromkeys(of_class)]))


def standard_errors(figures: Figures, task_error: float) -> Floats:
    """[N] standard errors of the estimates, in logits; ``task_error`` is for many classes."""
    of_names = MEANINGLESS_ERROR * (1 - figures.with_meaning)
    return np.sqrt(task_error**2 + class_error() ** 2 * figures.chance + of_names**2)[figures.dataset]


def ends(figures: Figures, estimates: Floats, task_error: float) -> tuple[Floats, Floats]:
    """Ends [N] of the intervals."""
    mean, half_width = logit(estimates, MIN_ESTIMATE), Z_SCORE * standard_errors(figures, task_error)
    return sigmoid(mean - half_width), sigmoid(mean + half_width)


def fit_error(figures: Figures, estimates: Floats, rows: NDArray[np.bool_]) -> float:
    """The smallest standard error with which 90 % of the intervals hold.

    All models and the best one of each table have half the weight each; the weight of a kin group is the square root
    of its number of datasets.
    """
    weights = (figures.shares(rows) + figures.shares(rows & figures.best)) / figures.kin_sizes**0.5
    used = weights > 0
    distances = np.abs(logit(figures.accuracy, MIN_ESTIMATE) - logit(estimates, MIN_ESTIMATE))[used]
    for error in ERRORS.tolist():
        holds = distances <= Z_SCORE * standard_errors(figures, error)[used]
        if holds @ weights[used] >= CONFIDENCE * weights.sum():
            return error
    return float(ERRORS[-1])


def interval_scores(low: Floats, high: Floats, accuracy: Floats) -> Floats:
    """[N] width plus ``2 / alpha`` times the distance to a value outside; Gneiting and Raftery, 2007."""
    scores: Floats = (
        high - low + 2 / (1 - CONFIDENCE) * (np.maximum(low - accuracy, 0) + np.maximum(accuracy - high, 0))
    )
    return scores


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Estimates [N] with intervals, each fitted without the kin group of its dataset."""

    estimate: Floats
    low: Floats
    high: Floats


def leave_kin_out(figures: Figures, features: Sequence[str]) -> tuple[HeldOut, dict[str, Floats]]:
    """Estimates for left-out groups, and for each group the estimates without it and without each other group."""
    groups = sorted(set(figures.kin.tolist()))
    group = figures.kin[figures.dataset]
    twice = {kin: np.full(len(group), np.nan) for kin in groups}
    for first, second in itertools.combinations_with_replacement(groups, 2):
        _, estimates = fit(figures, features, (first, second))
        for left, other in ((first, second), (second, first)):
            twice[left][group == other] = estimates[group == other]
    estimate, low, high = (np.zeros(len(group)) for _ in range(3))
    for kin in groups:
        own = group == kin
        estimate[own] = twice[kin][own]
        low_of, high_of = ends(figures, estimate, fit_error(figures, twice[kin], ~own))
        low[own], high[own] = low_of[own], high_of[own]
    return HeldOut(estimate, low, high), twice


def baselines(figures: Figures) -> dict[str, HeldOut]:
    """A constant, and ImageNet accuracy itself, both with intervals fitted without the kin group."""
    group = figures.kin[figures.dataset]
    constant = [np.zeros(len(group)) for _ in range(3)]
    imagenet = [figures.imagenet.copy(), np.zeros(len(group)), np.zeros(len(group))]
    for kin in sorted(set(figures.kin.tolist())):
        own = group == kin
        order = np.argsort(figures.accuracy, kind="stable")
        for rows in (~figures.best, figures.best):  # the best models have their own constant
            shares = np.cumsum(figures.shares(rows & ~own)[order])
            at = np.searchsorted(shares, [0.5, (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            for values, position in zip(constant, at.tolist(), strict=True):
                values[own & rows] = figures.accuracy[order][position]
        lows_highs = ends(figures, figures.imagenet, fit_error(figures, figures.imagenet, ~own))
        imagenet[1][own], imagenet[2][own] = (of[own] for of in lows_highs)
    return {"constant": HeldOut(*constant), "ImageNet accuracy": HeldOut(*imagenet)}


def summary(name: str, judged: HeldOut, figures: Figures) -> str:
    """Lines for all datasets, and for parts of them.

    The 13 targets are the datasets of the table of recall per class; the last two parts are without the tables of
    specialists, and these, with a general model each. Coverage has its binomial interval over datasets.
    """
    targets = set(class_recalls().datasets) - {"imagenet-sketch", "imagenet-r"}
    on_target = np.isin(figures.dataset, [figures.names.index(n) for n in figures.names if n in targets])
    on_target &= (figures.table == len(SOURCES)) & figures.best
    of_specialists = figures.table > len(SOURCES)
    things = figures.features[:, ALL_FEATURES.index("things")][figures.dataset]
    error = np.abs(judged.estimate - figures.accuracy)
    inside = ((judged.low <= figures.accuracy) & (figures.accuracy <= judged.high)).astype(np.float64)
    score, width = interval_scores(judged.low, judged.high, figures.accuracy), judged.high - judged.low
    unknown = (width > MAX_WIDTH).astype(np.float64)
    lines = [name]
    for text, rows in (
        ("all models", np.ones(len(error), np.bool_)),
        ("best on ImageNet", figures.best),
        ("  named things", figures.best & (things > np.nanmedian(things))),
        ("  other names", figures.best & (things <= np.nanmedian(things))),
        ("13 targets", on_target),
        ("no specialists'", figures.best & ~of_specialists),
        ("specialists'", of_specialists),
    ):
        coverage, n = figures.mean(inside, rows), len(np.unique(figures.dataset[rows]))
        within = wilson_interval(round(coverage * n), n)
        means = [figures.mean(v, rows) for v in (width, score, unknown, np.where(unknown, 1, score))]
        lines.append(
            f"  {text:17s} error {figures.mean(error, rows):.3f}"
            f"  bias {figures.mean(judged.estimate - figures.accuracy, rows):+.3f}"
            f"  coverage {coverage:.2f} [{within[0]:.2f}, {within[1]:.2f}]"
            + "  width {:.2f}  score {:.2f}  not known {:.2f}  score with these as 1: {:.2f}".format(*means)
            + f"  greatest error {error[rows].max():.2f}"
        )
    return "\n".join(lines)


def fitted(figures: Figures, judged: HeldOut) -> AccuracyModel:
    """The regression over all datasets, with the standard error of estimates for left-out groups."""
    b, _ = fit(figures, FEATURES, ())
    usual = np.nanmean(figures.features, axis=0)
    task_error = fit_error(figures, judged.estimate, np.ones(len(figures.dataset), np.bool_))
    least = np.nanmin(figures.features[:, 1])
    numbers = [*b.tolist(), usual[0], usual[1], usual[FEATURES.index("things")], least, task_error, class_error()]
    return AccuracyModel(*(round(float(number), 4) for number in numbers))


def fit_things() -> list[float]:
    """The direction of words for things, from a sample of the words that WordNet counted in texts.

    Ridge regression on whether the word's most frequent sense is a noun of :data:`THINGS`. Adjectives and verbs are
    the words that are not nouns.
    """

    def lines(name: str) -> list[list[str]]:
        text = (DEBIAN / name).read_text(encoding="utf-8")
        return [line.split() for line in text.splitlines() if not line.startswith("  ")]

    files = {synset: int(lexname) for synset, lexname, *_ in lines("data.noun")}
    is_thing: dict[str, bool] = {}
    for part in ("noun", "adj", "verb"):
        for word, _, n_senses, *rest in lines(f"index.{part}"):  # the number of senses in texts, then the senses
            if int(rest[-int(n_senses) - 1]):
                is_thing.setdefault(word.replace("_", " "), part == "noun" and files[rest[-int(n_senses)]] in THINGS)
    words = np.random.default_rng(0).permutation(list(is_thing))[:WORDS].tolist()
    embeddings = CachedEncoder(DefaultEncoder(), exact=True).encode(words).astype(np.float64)
    embeddings -= embeddings.mean(axis=0)
    things = np.array([is_thing[word] for word in words], np.float64)
    squares = embeddings.T @ embeddings + WORDS_RIDGE * np.eye(embeddings.shape[1])
    direction: list[float] = np.linalg.solve(squares, embeddings.T @ (things - things.mean())).round(3).tolist()
    return direction


def draw(figures: Figures, judged: HeldOut, path: Path) -> None:
    """A figure of estimate, interval and accuracy of the model that is best on ImageNet, for every dataset."""
    from matplotlib.figure import Figure

    rows = [np.flatnonzero(figures.best & (figures.dataset == at)) for at in range(len(figures.names))]
    shown = (judged.low, judged.high, judged.estimate, figures.accuracy)
    low, high, estimate, truth = (np.array([100 * values[of].mean() for of in rows]) for values in shown)
    order = np.argsort(estimate)
    places, inside = np.arange(len(order)), ((low <= truth) & (truth <= high))[order]
    page = Figure(figsize=(9, 3.6), layout="constrained")
    axes = page.subplots()
    axes.vlines(places, low[order], high[order], color="0.82", linewidth=5, label="90 % interval")
    axes.plot(places, estimate[order], "_", color="0.25", markersize=7, label="estimate, from class names alone")
    for kind, color, text in ((inside, "#0072B2", "published accuracy"), (~inside, "#D55E00", "outside the interval")):
        axes.plot(places[kind], truth[order][kind], "o", color=color, markersize=4.5, label=text)
    axes.set_xticks(places, [figures.names[at] for at in order], rotation=90, fontsize=7)
    axes.set(ylabel="accuracy, %", ylim=(0, 100), xlim=(-1, len(order)))
    axes.spines[["top", "right"]].set_visible(False)
    page.legend(loc="outside upper center", fontsize=8, frameon=False, ncols=4)
    page.savefig(path, dpi=150)


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the coefficients")
    parser.add_argument("--things", action="store_true", help="only write the direction of words for things")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw estimates, intervals and accuracies")
    args = parser.parse_args()
    if args.things:
        facts = {"command": "python scripts/known_models/fit_accuracy.py --things", "source": "words of WordNet 3.0"}
        OUT_THINGS.write_text(json.dumps({**facts, "direction": fit_things()}) + "\n", encoding="utf-8")
        return 0
    if args.write:
        OUT_RECALLS.write_text(json.dumps(fit_recalls(), separators=(",", ":")) + "\n", encoding="utf-8")
    figures = read_figures()
    judged, _ = leave_kin_out(figures, FEATURES)
    n_kin = len(set(figures.kin.tolist()))
    print(f"{len(figures.names)} datasets in {n_kin} kin groups, {len(figures.dataset)} figures")
    for name, of_name in baselines(figures).items():
        print(summary(name, of_name, figures))
    print(summary(" + ".join(FEATURES), judged, figures))
    if args.figure:
        draw(figures, judged, args.figure)
    model = fitted(figures, judged)
    print(json.dumps(asdict(model), indent=1))
    if args.write:
        facts = {
            "command": "python scripts/known_models/fit_accuracy.py --write",
            "data_sets": len(figures.names),
            "kin": n_kin,
        }
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps({**facts, "model": asdict(model)}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
