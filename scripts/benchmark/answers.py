"""Answers from class names alone for the lists of nominations, beside those before specialists were known.

python scripts/benchmark/answers.py > scripts/benchmark/results/answers.md
python scripts/benchmark/answers.py --csv > scripts/benchmark/data/answers_before.csv    # at commit 9bb215a
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mll_hf import Client
from mll_hf.utils.tables import markdown_table

DATA = Path(__file__).resolve().parent / "data"
BEFORE = DATA / "answers_before.csv"
COLUMNS = ("list", "model", "GFLOPs", "accuracy", "choice", "notes")


def main(arguments: list[str]) -> int:
    """Run the script; returns the exit status."""
    client = Client(labels="published")
    rows = [answer(client, row["id"], row["classes"].split("|")) for row in read(DATA / "nomination_lists.csv")]
    if arguments == ["--csv"]:
        csv.writer(sys.stdout).writerows([COLUMNS, *rows])
        return 0
    before = [tuple(row.values()) for row in read(BEFORE)]
    print("# Answers for 30 lists of class names, with published figures alone\n")
    for title, found in (("Before (commit 9bb215a)", before), ("Now", rows)):
        (name, times), *_ = Counter(row[1] for row in found).most_common(1)
        print(f"## {title}\n\nModel named first most often: {name}, for {times} of {len(found)} lists.\n")
        print("\n".join(markdown_table(COLUMNS, found)), end="\n\n")
    return 0


def answer(client: Client, name: str, classes: list[str]) -> tuple[str, ...]:
    """The cells of one list."""
    selection = client.select(classes)
    m, estimate = selection.chosen_models[0], selection.estimate
    model, choice = selection.models[m], " ".join(selection.answer_lines[1:])
    accuracy = "" if estimate is None else estimate.text(m)
    notes = " ".join(getattr(selection, "notes", ()))
    return name, model.name, f"{model.cost.gflops:,.0f}", accuracy, choice, notes


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
