"""Nominations of specialists and of models for other languages: are the right domain and language named, and what for?

    python scripts/benchmark/nominations.py --tables DIR --games DIR > scripts/benchmark/results/nominations.md

The tables are babel_imagenet_12models.csv and ostb.csv, which are for evaluation only; the games are
/usr/share/apps/kvtml of Debian's kdeedu-kvtml-data. Without both, only the lists are judged.

- data/nomination_lists.csv: 30 lists, written before anything named a domain; data/nomination_lists_later.csv: 52 more,
  written when the 30 were known, to judge the words and thresholds; data/nomination_lists_third.csv: 70 more, of which
  60 were right before anything was changed for them; data/nomination_lists_fourth.csv: 84 more, of which 70 were;
  data/nomination_lists_fifth.csv: 120 more, of which 100 were, 38 of 40 everyday ones;
  data/nomination_lists_sixth.csv: 81 more of species and everyday things, of which 66 were,
  39 of 42 everyday ones; its last 28 are written when the words were changed for the others;
  data/nomination_lists_seventh.csv: 93 more, of which 57 were, 22 of 25 everyday ones: those on lines of even number
  were looked at when words were changed, the others were not; data/nomination_lists_eighth.csv: 42 more, written when
  the words had been changed for these, of which 27 were before, and 30 when they were first measured;
  data/nomination_lists_ninth.csv: 45 more, most with a brand before a thing ("Nokia phone"), of which 32 were.
- Word games: random lists of 3 to 10 names on one topic (fruits, animals, tools ...) in 29 languages, as they are and
  without accents. Names of people and towns are the same in many languages, so not all can be told.
- Languages: Babel-ImageNet, 76 languages besides English in which at least 200 classes have a name.
- Remote sensing: 9 models on 10 data sets of OSTB, each left out in turn.
- What five users see, without the Hub: the answers and notes of `mll-hf select`.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mll_hf.matching.datasets import recognize
from mll_hf.models.domains import domains_of
from mll_hf.models.language import language_of, unaccented
from mll_hf.models.language import languages as all_languages
from mll_hf.models.specialists import RARE, nominate
from mll_hf.utils.tables import markdown_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Scores = Mapping[str, Mapping[str, float]]  # by what is judged, and by model

DATA = Path(__file__).resolve().parent / "data"
LISTS = (
    "nomination_lists",
    "nomination_lists_later",
    "nomination_lists_third",
    "nomination_lists_fourth",
    "nomination_lists_fifth",
    "nomination_lists_sixth",
    "nomination_lists_seventh",
    "nomination_lists_eighth",
    "nomination_lists_ninth",
)
ENGLISH, EVERYWHERE = "en", "ViT-B-16-SigLIP-i18n-256@webli"
GAME_CODES = {"pt_BR": "pt", "sr@latin": "sh", "sr@ijekavianlatin": "sh", "nb": "no"}
GAME_SIZES, FEWEST = (3, 4, 5, 6, 8, 10), 8
NO_CLASSES = re.compile(
    "capital|curren|easy|medium|hard|number|countr|money|element|state|verb"
)  # lists of other words
PROMPTS = ("label", "nllb_dist13b_prompts")
MIN_CLASSES = 200
OFFLINE = {"HF_HUB_OFFLINE": "1"}
USERS = {
    "A dermatologist": "melanoma, nevus, basal cell carcinoma, seborrheic keratosis, dermatofibroma",
    "A Japanese shop": "Tシャツ, スニーカー, 腕時計, ハンドバッグ, ワンピース",
    "A drone operator": "building, road, car parking, football field, river, forest",
    "A birder": "house sparrow, tree sparrow, chaffinch, robin, great tit, blue tit",
    "A factory": "corroded pipe, intact pipe, weld",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=Path, metavar="DIR", help="folder of the published tables")
    parser.add_argument("--games", type=Path, metavar="DIR", help="folder of a folder of lists for each language")
    args = parser.parse_args(arguments)
    tables = args.tables
    print("# Nominations\n")
    for name in LISTS:
        print(f"## {name}.csv\n")
        print("\n".join(judged_lists(name)))
    if args.games:
        print("## Language of lists from word games\n")
        print("\n".join(markdown_table(("names", "lists", "right", "mean over languages"), word_games(args.games))))
        print()
    if not tables:
        return 0
    print("## Loss against the best model, in points\n")
    rows = [*languages(read(tables / "babel_imagenet_12models.csv")), *aerial(read(tables / "ostb.csv"))]
    print("\n".join(markdown_table(("choice", "judged on", "loss"), rows)))
    print("\n## What five users see, without the Hub\n")
    for user, classes in USERS.items():
        print(f"{user}:\n\n```\n$ mll-hf select --classes '{classes}'\n{seen(classes)}```\n")
    return 0


def seen(classes: str) -> str:
    """Answer and notes of ``select`` from published figures."""
    command = [sys.executable, "-m", "mll_hf", "select", "--labels", "published", "--classes", classes]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | OFFLINE)
    return result.stdout + result.stderr


def judged_lists(name: str) -> list[str]:
    """A line per kind of list, and a table of them all."""
    rows, right = [], defaultdict(list)
    for row in read(DATA / f"{name}.csv"):
        classes = row["classes"].split("|")
        dataset = recognize(classes)
        domains, language = domains_of(classes, dataset=dataset), language_of(classes)
        expected = (row["expected_domain"],) if row["expected_domain"] else ()
        is_right = domains[:1] == expected and language == row["expected_language"]
        right[row["kind"]].append(is_right)
        first = next(iter(nominate(classes, dataset=dataset)), None)
        nominee = f"{first.model.name}{'' if first.recommended else ' (named)'}" if first else ""
        rows.append([row["id"], ", ".join(domains), language, nominee, "" if is_right else "wrong"])
    lines = [f"- {kind}: {sum(found)} of {len(found)} right" for kind, found in right.items()]
    return [*lines, "", *markdown_table(("list", "domains", "language", "first nominee", ""), rows), ""]


def word_games(folder: Path) -> list[list[str]]:
    """Rows of the shares of lists whose language is found."""
    known = {language.code for language in all_languages()}
    right: dict[str, dict[str, list[bool]]] = {"as they are": defaultdict(list), "without accents": defaultdict(list)}
    rng = random.Random(7)  # noqa: S311 - no secret
    for path in sorted(folder.glob("*/*.kvtml")):
        code = GAME_CODES.get(path.parent.name, path.parent.name)
        found = (entry.findtext("translation/text") for entry in ElementTree.parse(path).iter("entry"))  # noqa: S314
        names = sorted({name.strip() for name in found if name and name.strip()})
        if code not in known or len(names) < FEWEST or NO_CLASSES.search(path.stem):
            continue
        for size in GAME_SIZES:
            sample = rng.sample(names, min(size, len(names)))
            right["as they are"][code].append(language_of(sample) == code)
            right["without accents"][code].append(language_of([unaccented(name) for name in sample]) == code)
    return [
        [kind, f"{sum(map(len, of.values()))}", f"{fmean(x for each in of.values() for x in each):.2f}",
         f"{fmean(map(fmean, of.values())):.2f}"]
        for kind, of in right.items()
    ]  # fmt: skip


def languages(table: Iterable[Mapping[str, str]]) -> list[list[str]]:
    """Rows of the losses over languages."""
    accuracies: dict[str, dict[str, dict[str, float]]] = {prompt: defaultdict(dict) for prompt in PROMPTS}
    classes = {}
    for row in table:
        code = "yue" if row["lang"] == "ZH_YUE" else row["lang"].lower()
        if int(row["num_classes"]) >= MIN_CLASSES:
            accuracies[row["prompt"]][code][row["model"]] = float(row["accuracy"])
            classes[code] = int(row["num_classes"])
    label, translated = (accuracies[prompt] for prompt in PROMPTS)
    family = {
        code: row["family"] for row in read(DATA / "language_families.csv") for code in row["languages"].split("|")
    }
    codes = [code for code in classes if code != ENGLISH]
    both = [code for code in codes if code in translated]
    best_in_english = best(label[ENGLISH])

    def of_other_families(code: str) -> str:
        others = [other for other in codes if family[other] != family[code]]
        return best(mean_scores(label, others))

    def of_similar_size(code: str) -> str:
        others = [other for other in codes if family[other] != family[code]]
        return best(mean_scores(label, sorted(others, key=lambda c: abs(classes[c] - classes[code]))[:RARE]))

    choices: list[tuple[str, Scores, list[str], Callable[[str], str]]] = [
        ("best in English", label, codes, lambda _: best_in_english),
        ("SigLIP-i18n B/16 everywhere", label, codes, lambda _: EVERYWHERE),
        ("table of the other prompts (names)", translated, both, lambda code: best(label[code])),
        ("table of the other prompts (translated)", label, both, lambda code: best(translated[code])),
        ("best over languages of other families", label, codes, of_other_families),
        (
            f"best over {RARE} languages of other families with about as many named classes",
            label,
            codes,
            of_similar_size,
        ),
    ]
    return [
        [name, f"{len(judged)} languages", f"{100 * loss(scores, judged, choose):.2f}"]
        for name, scores, judged, choose in choices
    ]


def aerial(table: Iterable[Mapping[str, str]]) -> list[list[str]]:
    """Rows of the losses over remote sensing data sets, each left out in turn."""
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for row in table:
        if row["domain"] == "Remote Sensing" and "Ensemble" not in row["model"]:
            scores[row["dataset"]][row["model"]] = float(row["accuracy_percent"])
    sets = list(scores)
    small = {name: {model: v for model, v in scores[name].items() if "B/32" in model} for name in sets}

    def left_out(scores: Scores) -> Callable[[str], str]:
        return lambda name: best(mean_scores(scores, [other for other in sets if other != name]))

    choices = [
        ("CLIP-B/32 among B/32", small, lambda _: "CLIP-B/32"),
        ("best over the other sets among B/32", small, left_out(small)),
        ("CLIP-B/16 among all 9", scores, lambda _: "CLIP-B/16"),
        ("best over the other sets among all 9", scores, left_out(scores)),
    ]
    return [[name, f"{len(sets)} sets", f"{loss(table, sets, choose):.2f}"] for name, table, choose in choices]


def loss(scores: Scores, judged: Iterable[str], choose: Callable[[str], str]) -> float:
    """Mean difference between the best and the chosen model."""
    return fmean(max(scores[name].values()) - scores[name][choose(name)] for name in judged)


def mean_scores(scores: Scores, names: Iterable[str]) -> dict[str, float]:
    """Mean of each model over several languages or data sets."""
    tables = [scores[name] for name in names]
    return {model: fmean(table[model] for table in tables) for model in tables[0]}


def best(scores: Mapping[str, float]) -> str:
    """The model with the highest score; ties go by name."""
    return max(sorted(scores), key=scores.__getitem__)


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main())
