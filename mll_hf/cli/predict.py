"""The command ``predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.cli.classify import TASK_OPTIONS, add_task_options, flag, image_files, make_selection
from mll_hf.cli.options import BATCH_HELP, DEVICE_HELP, SELECTION_HELP, positive
from mll_hf.cli.output import note, print_error
from mll_hf.ensemble.prediction_file import PredictionFile, image_name, json_line, rows_of
from mll_hf.errors import InputError
from mll_hf.selection import Selection
from mll_hf.utils.tables import table
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mll_hf.ensemble.run import Prediction


def add_predict(commands: Any) -> None:  # noqa: ANN401 - argparse keeps the type private
    """Add the command ``predict``."""
    from mll_hf.ensemble import Rule

    command = commands.add_parser(
        "predict",
        help="classify images with the chosen models",
        description="Classify images with the models of a selection: one made earlier (--selection), or one made now "
        "for --classes. 'mll-hf select' has more options for the choice.",
    )
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder of images")
    add_task_options(command, required=False)
    command.add_argument("--selection", metavar="SELECTION", help=SELECTION_HELP)
    command.add_argument(
        "--rule",
        choices=[str(r) for r in Rule],
        default=str(Rule.LINEAR_POOL),
        help="how to combine the models' probabilities (default: %(default)s)",
    )
    command.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="prompt template with {} for the class name; may be repeated (default: chosen by domain and task)",
    )
    command.add_argument("--device", metavar="NAME", help=DEVICE_HELP)
    command.add_argument("--batch-size", type=positive, metavar="N", help=BATCH_HELP)
    output = command.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON line per image")
    output.add_argument(
        "-o", "--output", type=Path, metavar="FILE",
        help="write predictions to a .csv, .jsonl or .parquet file, batch by batch; the same command resumes an "
        "interrupted run, and predictions of other models, classes, templates or rules are never added. Images that "
        "cannot be read get an empty prediction",
    )  # fmt: skip
    command.set_defaults(run=_predict, defaults={name: command.get_default(name) for name in TASK_OPTIONS})


def _predict(args: argparse.Namespace) -> int:
    from mll_hf.ensemble import Rule
    from mll_hf.ensemble.run import Ensemble

    given = [flag(name) for name, default in args.defaults.items() if vars(args)[name] != default]
    if args.selection and given:
        raise InputError(f"--selection sets the classes and models; leave out {abridged(given, 3)}")
    images = image_files(args.images)
    selection = Selection.from_pretrained(args.selection) if args.selection else make_selection(args)
    templates = tuple(args.template) if args.template else None
    ensemble, rule = Ensemble(selection, args.device, templates, batch_size=args.batch_size), Rule(args.rule)
    output = PredictionFile(args.output, ensemble.fingerprint(rule)) if args.output else _Stdout(args.json)
    todo = [image for image in images if image_name(image) not in output.done] if output.done else images
    if len(todo) < len(images):
        done = len(images) - len(todo)
        note(f"{args.output} has predictions for {done} of {len(images)} images; delete it to start over")
    first = failed = 0
    for prediction in ensemble.stream(todo, rule) if todo else ():
        batch = todo[first : first + len(prediction.probabilities)]
        output.write([image_name(image) for image in batch], prediction)
        for n in prediction.unreadable:
            print_error(f"{batch[n]} cannot be read as an image; convert or remove it")
        first, failed = first + len(batch), failed + len(prediction.unreadable)
    output.finish()
    return 1 if failed else 0


class _Stdout:
    """Predictions on stdout: lines batch by batch, or a table at the end. Unreadable images are skipped."""

    done: frozenset[str] = frozenset()

    def __init__(self, is_json: bool) -> None:
        self._is_json = is_json
        self._rows: list[list[str]] = []

    def write(self, images: Sequence[str], prediction: Prediction) -> None:
        for row in rows_of(images, prediction):
            image, label, probability, _ = row
            if label is None:
                continue
            if self._is_json:
                sys.stdout.write(json_line(row))
            else:
                self._rows.append([image, label, f"{probability:.3f}"])

    def finish(self) -> None:
        if self._rows:
            print(table(["image", "label", "probability"], self._rows))
