"""How often known datasets are recognized from damaged class lists, false alarms, and how well their figures hold.

``scripts/run_benchmark.py datasets`` runs it. Lists lose a fifth of their classes, or have a fifth respelled: other
separators, plurals, or one letter wrong. False alarms are counted on random nouns of WordNet, on mixtures of classes
of all datasets, and on everyday lists. Estimates from the figures of the package are compared with those of other
sources.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from graph.wordnet import DEBIAN, read_nouns
from known_models.figures import accuracies
from mll_hf.matching.concept_index import embed_names
from mll_hf.matching.datasets import known_datasets, recognize
from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder
from mll_hf.models.known import known_models
from mll_hf.models.published import ACCURACIES, figures_of_dataset
from mll_hf.selection.accuracy import estimate_accuracy, task_traits, with_known_figures
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    import argparse

    from mll_hf.matching.datasets import KnownDataset
    from mll_hf.selection.estimate import Estimate

DRAWS, LISTS, DAMAGED = 20, 100, 0.2
MIN_MODELS = 5
OTHER_SOURCES = ("mteb", "clip_benchmark")
EVERYDAY = (
    "cat, dog", "yes, no", "apple, banana, orange", "red, green, blue, yellow, black, white", "man, woman, child",
    "car, bus, truck, bicycle, motorcycle", "indoor, outdoor", "happy, sad, neutral", "dog, cat, horse, cow, sheep",
    "corroded pipe, intact pipe, weld", "ripe, unripe, rotten", "shirt, trousers, dress, shoe, hat, jacket",
    "beach, mountain, forest, city", "kitchen, bathroom, bedroom, living room, garage, garden",
    "rose, tulip, daisy, lily", "pizza, burger, salad, sushi, pasta, soup", "helmet, no helmet", "invoice, receipt, id",
    "lion, tiger, elephant, giraffe, zebra, monkey, bear, wolf", "chair, table, sofa, bed, lamp, desk, shelf, mirror",
    "melanoma, nevus, basal cell carcinoma", "one, two, three, four, five", "a, b, c, d, e, f",
    "bird, fish, insect, mammal, reptile", "apple, pear, plum, cherry, grape, lemon, orange, banana, peach, melon",
    "hammer, screwdriver, wrench, pliers, saw, drill", "sunny, cloudy, rainy, snowy", "cup, bottle, can, glass, plate",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the part ``datasets``: none."""
    parser.set_defaults(run=run_datasets)


def run_datasets(args: argparse.Namespace) -> None:
    """Print shares of recognized lists, and false alarms."""
    rng, rows, missed = np.random.default_rng(0), [], dict[str, int]()
    for damage in (_unharmed, _missing, _respelled, _both):
        found = {d.id: np.mean([is_right(d, damage(d, rng)) for _ in range(DRAWS)]) for d in known_datasets()}
        missed |= {id: 0 for id, share in found.items() if share < 0.5}
        rows.append(
            [
                damage.__doc__,
                f"{np.mean(list(found.values())):.1%}",
                f"{np.mean([s >= 0.5 for s in found.values()]):.1%}",
            ]
        )
    print(f"{len(known_datasets())} datasets, {DRAWS} draws of each")
    print(table(["list", "recognized", "datasets recognized in most draws"], rows))
    print(f"not recognized in most draws: {', '.join(missed) or 'none'}")
    for name, lists in (("random nouns", _nouns(rng)), ("mixtures", _mixtures(rng)), ("everyday lists", _everyday())):
        alarms = [str(found) for names in lists if (found := recognize(names))]
        print(f"{name}: {len(alarms)} false alarms in {len(lists)}", *alarms[:3], sep="\n  ")
    print(figures_table())


def figures_table() -> str:
    """How well estimates with known figures hold: against other sources, and for models whose figure is left out."""
    stated = {
        source: {(m, d): found.values[r, c] for r, m in enumerate(found.models) for c, d in enumerate(found.datasets)}
        for source, found in ((source, accuracies(source)) for source in OTHER_SOURCES)
    }
    encoder, rng = CachedEncoder(DefaultEncoder()), np.random.default_rng(0)
    imagenet = {model.name: model for model in known_models() if model.imagenet}
    held = defaultdict[str, list[tuple[float, bool, float]]](list)
    for dataset in known_datasets():
        figures = [f for f in figures_of_dataset(dataset.id) if f.metric in ACCURACIES and f.model in imagenet]
        names = [spellings[0] for spellings in dataset.classes]
        known, models = recognize(names), sorted({figure.model for figure in figures})
        if dataset.id == "imagenet-1k" or len(models) < MIN_MODELS or known is None:
            continue
        level = np.array([imagenet[name].accuracy for name in models])
        before = estimate_accuracy(level, task_traits(len(names), embed_names(encoder, names), None))
        ids = [imagenet[name].hub_id or name for name in models]
        whole = with_known_figures(before, ids, known, None)
        lost = rng.permutation(len(models))[: len(models) // 4].tolist()
        rest = with_known_figures(before, ["" if m in lost else id for m, id in enumerate(ids)], known, None)
        for m, name in enumerate(models):
            for source, values in stated.items():
                used = any(figure.source == source for figure in figures)
                if not used and np.isfinite(value := values.get((name, dataset.id), np.nan)):
                    held[source].append(_held(whole, m, value))
            if m in lost:
                own = float(np.mean([figure.value for figure in figures if figure.model == name]))
                held["figure left out"].append(_held(rest, m, own))
                held["figure left out, by ImageNet and names alone"].append(_held(before, m, own))
    rows = [[name, str(len(x)), *(f"{value:.3f}" for value in np.mean(x, axis=0))] for name, x in held.items()]
    return table(["published figures against", "figures", "error", "in the 90 % interval", "its width"], rows)


def _held(estimate: Estimate, m: int, value: float) -> tuple[float, bool, float]:
    low, high = (float(ends[m]) for ends in estimate.interval)
    return abs(float(estimate.accuracy[m]) - value), low <= value <= high, high - low


def is_right(dataset: KnownDataset, names: list[str]) -> bool:
    """Whether a list is recognized as this dataset, alone or among those with the same names."""
    found = recognize(names)
    return found is not None and dataset in found.datasets


def _unharmed(dataset: KnownDataset, rng: np.random.Generator) -> list[str]:
    """as published"""
    return [spellings[0] for spellings in dataset.classes]


def _missing(dataset: KnownDataset, rng: np.random.Generator) -> list[str]:
    """a fifth missing"""
    names = _unharmed(dataset, rng)
    return [names[y] for y in rng.permutation(len(names))[round(DAMAGED * len(names)) :]]


def _respelled(dataset: KnownDataset, rng: np.random.Generator) -> list[str]:
    """a fifth respelled"""
    names = _unharmed(dataset, rng)
    for y in rng.permutation(len(names))[: round(DAMAGED * len(names))].tolist():
        names[y] = respelled(names[y], rng)
    return names


def _both(dataset: KnownDataset, rng: np.random.Generator) -> list[str]:
    """a tenth missing, a tenth respelled"""
    names = _unharmed(dataset, rng)
    order, count = rng.permutation(len(names)).tolist(), round(DAMAGED / 2 * len(names))
    return [respelled(names[y], rng) if y in order[:count] else names[y] for y in order[: len(names) - count]]


def respelled(name: str, rng: np.random.Generator) -> str:
    """A name in another spelling."""
    at = int(rng.integers(len(name)))
    ways = (name.upper(), name.replace(" ", "_"), name.replace(" ", "-"), f"{name}s", f"{name[:at]}x{name[at + 1 :]}")
    return ways[int(rng.integers(len(ways)))]


def _nouns(rng: np.random.Generator) -> list[list[str]]:
    nouns = [synset.lemmas[0] for synset in read_nouns(DEBIAN).values()]
    return [[nouns[n] for n in rng.choice(len(nouns), rng.integers(2, 100))] for _ in range(LISTS)]


def _mixtures(rng: np.random.Generator) -> list[list[str]]:
    names = sorted({spellings[0] for dataset in known_datasets() for spellings in dataset.classes})
    return [[names[n] for n in rng.choice(len(names), rng.integers(2, 100), replace=False)] for _ in range(LISTS)]


def _everyday() -> list[list[str]]:
    return [names.split(", ") for names in EVERYDAY]
