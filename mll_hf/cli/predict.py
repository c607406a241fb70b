"""The command ``predict``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.cli.options import DEVICE_HELP, SELECTION_HELP
from mll_hf.cli.output import note, print_error
from mll_hf.ensemble.predictions import PredictionFile, Score, image_name
from mll_hf.errors import InputError
from mll_hf.selection import Selection
from mll_hf.utils.examples import class_positions, read_examples
from mll_hf.utils.images import image_files, why_unreadable
from mll_hf.utils.tables import MISSING, table
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mll_hf.cli.parser import Parser


def add_predict(command: Parser) -> None:
    """Add the command ``predict``."""
    from mll_hf.ensemble import Rule

    command.description = (
        "Classify images with the models of a selection by 'mll-hf fit' or 'mll-hf select'. With --truth, "
        "the predictions are scored."
    )
    command.epilog = "Example: mll-hf predict photos --selection choice -o answers.csv"
    command.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE",
        help="an image, or a folder of images (default: those of --truth)",
    )  # fmt: skip
    command.add_argument(
        "--truth", type=Path, metavar="PATH",
        help="images with their true class, to score the predictions: a folder per class, or a CSV file with path and "
        "class. Prints accuracy, recall per class and confusion instead of the predictions",
    )  # fmt: skip
    command.add_argument("--selection", required=True, metavar="SELECTION", help=SELECTION_HELP)
    command.more.add_argument(
        "--rule",
        choices=[str(r) for r in Rule],
        default=str(Rule.LINEAR_POOL),
        help="how to combine the models' probabilities (default: %(default)s)",
    )
    command.more.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="prompt template with {} for the class name; may be repeated (default: chosen by domain and task)",
    )
    command.add_argument(
        "--reject", type=float, metavar="SHARE",
        help="give no class to images that resemble none; as strictly as loses this share of the task's own images, "
        "such as 0.05; needs a selection by 'mll-hf fit' (default: every image gets a class)",
    )  # fmt: skip
    command.more.add_argument("--device", metavar="NAME", help=DEVICE_HELP)
    output = command.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON line per image, or the score as JSON")
    output.add_argument(
        "-o", "--output", type=Path, metavar="FILE",
        help="write predictions to a .csv file, batch by batch; the same command resumes an "
        "interrupted run, and predictions of other models, classes, templates or rules are never added. Images that "
        "cannot be read get an empty prediction, rejected ones an empty label",
    )  # fmt: skip
    command.set_defaults(run=_predict)


def _predict(args: argparse.Namespace) -> int:
    from mll_hf.ensemble import Rule
    from mll_hf.ensemble.run import Ensemble, for_names

    if not (args.images or args.truth):
        raise InputError("give images, or folders of images, or --truth")
    pairs = read_examples(args.truth) if args.truth else []
    images = image_files(args.images) if args.images else list(dict.fromkeys(path for path, _, _ in pairs))
    selection = Selection.from_pretrained(args.selection)
    truth = _truth(pairs, selection.classes)
    if args.truth and truth.keys().isdisjoint(image.resolve() for image in images):
        raise InputError(f"none of the images is in {args.truth}; its paths are relative to the file")
    if args.template:
        selection = for_names(selection, templates=tuple(args.template))
    ensemble, rule = Ensemble(selection, args.device), Rule(args.rule)
    output = None
    if args.output:
        output = PredictionFile(args.output, selection.classes, ensemble.fingerprint(rule, args.reject))
    predicted = output.done if output else {}  # which grows as the file is written
    todo = [image for image in images if image_name(image) not in predicted] if predicted else images
    if len(todo) < len(images):
        done = len(images) - len(todo)
        note(f"{args.output} has predictions for {done} of {len(images)} images; delete it to start over")
    first = failed = 0
    rows: list[list[str]] = []
    for prediction in ensemble.stream(todo, rule, reject=args.reject) if todo else ():
        batch = todo[first : first + len(prediction.probabilities)]
        names = [image_name(image) for image in batch]
        if output:
            output.write(names, prediction)
        elif truth:
            predicted.update(zip(names, prediction.classes, strict=True))
        else:
            readable = [row for row in prediction.rows(names) if row["probability"] is not None]
            if args.json:
                sys.stdout.writelines(json.dumps(row) + "\n" for row in readable)
            else:
                rows += [[row["image"], row["label"] or "none", f"{row['probability']:.3f}"] for row in readable]
        for n in prediction.unreadable:
            print_error(f"{batch[n]}: {why_unreadable(batch[n])}")
        first, failed = first + len(batch), failed + len(prediction.unreadable)
    if rows:
        print(table(["image", "label", "probability"], rows))
    if output:
        note(f"{len(images):,} predictions are in {args.output}{f', {failed} of them empty' if failed else ''}")
    if truth:
        known = [(truth[path], predicted[image_name(image)]) for image in images if (path := image.resolve()) in truth]
        score = Score.of(selection.classes, known)
        print(json.dumps(score.to_json()) if args.json else _report(score))
    return 1 if failed else 0


def _truth(pairs: Sequence[tuple[Path, str, float]], classes: tuple[str, ...]) -> dict[Path, str]:
    """The true class of each image."""
    truth: dict[Path, str] = {}
    for (image, *_), y in zip(pairs, class_positions([name for _, name, _ in pairs], classes), strict=True):
        if truth.setdefault(image.resolve(), classes[y]) != classes[y]:
            raise InputError(f"{image} has two classes; keep one")
    return truth


def _report(score: Score) -> str:
    """Accuracy, and recall of each class with the classes that it is taken for."""
    total, (low, high) = int(score.images.sum()), score.interval
    if not total:
        return "no image can be read"
    rows = []
    for y in score.images.nonzero()[0]:
        taken_for = sorted((-n, name) for name, n in zip(score.class_names, score.confusion[y].tolist(), strict=True))
        wrong = [f"{name} ({-n})" for n, name in taken_for if n and name != score.class_names[y]]
        recall = f"{100 * score.recall[y]:.1f} %"
        rows.append([score.class_names[y], str(score.images[y]), recall, abridged(wrong, 3) or MISSING])
    accuracy = f"accuracy {100 * score.accuracy:.1f} % (95 % interval: {100 * low:.1f} to {100 * high:.1f} %)"
    without = f"; {score.without:,} rejected or unreadable" if score.without else ""
    lines = [f"{accuracy}, {score.correct:,} of {total:,} images{without}", ""]
    return "\n".join([*lines, table(["class", "images", "recall", "taken for"], rows)])
