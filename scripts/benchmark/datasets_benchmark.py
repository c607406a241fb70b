"""How often known datasets are recognized from damaged class lists, and false alarms on other lists.

``scripts/run_benchmark.py datasets`` runs it. Lists lose a fifth of their classes, or have a fifth respelled: other
separators, plurals, or one letter wrong. False alarms are counted on random nouns of WordNet, on mixtures of classes
of all datasets, and on everyday lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graph.wordnet import DEBIAN, read_nouns
from mll_hf.matching.datasets import known_datasets, recognize
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    import argparse

    from mll_hf.matching.datasets import KnownDataset

DRAWS, LISTS, DAMAGED = 20, 100, 0.2
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
