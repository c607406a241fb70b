"""The command ``fit``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.cli.options import CLASSES_HELP, DEVICE_HELP, positive, size
from mll_hf.cli.output import confirm, note, shown
from mll_hf.cli.report import selection_report
from mll_hf.cli.select import add_limits, add_task_options, task_client, task_config
from mll_hf.errors import InputError
from mll_hf.selection import SelectionConfig
from mll_hf.selection.task import EQUAL
from mll_hf.utils.examples import read_examples
from mll_hf.utils.files import storage_errors, write_atomically
from mll_hf.utils.images import image_files
from mll_hf.utils.tables import csv_bytes
from mll_hf.utils.text import abridged, gigabytes

if TYPE_CHECKING:
    import argparse

    from mll_hf.cli.parser import Parser
    from mll_hf.ensemble.run import Ensemble
    from mll_hf.selection.budget import TrialPlan

_DEFAULTS = SelectionConfig()
_TO_LABEL = "to_label.csv"
_ADVICE = " To know the accuracy, name the classes of 25 images: add --suggest 25, and fit again with --examples."
_CACHE = "embeddings"  # folder in the output folder; never pushed


def add_fit(command: Parser) -> None:
    """Add the command ``fit``."""
    command.description = (
        "Choose models by the names of your classes, try the most promising ones on your images, fit them, "
        "and say how good they are. The images need no classes; 25 examples with their class tell the accuracy."
    )
    command.epilog = (
        "Example: mll-hf fit photos --classes 'corroded pipe' 'intact pipe' weld -o choice, then: "
        "mll-hf predict more-photos --selection choice"
    )
    command.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE", help="images, or folders of them; 256 are good"
    )
    command.add_argument("--classes", nargs="+", required=True, metavar="CLASS", help=CLASSES_HELP)
    command.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER",
        help="save the fitted selection, which predict, serve, push and export read, and embeddings of the images, so "
        "that fitting again is fast",
    )  # fmt: skip
    command.add_argument(
        "--examples", type=Path, metavar="PATH",
        help="random images with their class, 25 or more: a folder per class, or a CSV file with path and class",
    )  # fmt: skip
    command.add_argument(
        "--suggest", type=positive, metavar="N",
        help=f"also write {_TO_LABEL} into the folder: N images whose class would tell most; correct their predicted "
        "class, and fit again with --examples",
    )  # fmt: skip
    add_task_options(command)
    add_limits(command.more)
    command.more.add_argument(
        "--max-download", type=size, metavar="SIZE",
        help=f"maximum download of models: 500M, 10G (default: {_DEFAULTS.max_download // 10**9}G)",
    )  # fmt: skip
    command.more.add_argument("--yes", action="store_true", help="download models without asking")
    command.more.add_argument(
        "--shares", metavar="SHARES",
        help=f"class shares among the images: '{EQUAL}', or a JSON file {{class: share}} (default: estimated)",
    )  # fmt: skip
    command.more.add_argument("--device", metavar="NAME", help=DEVICE_HELP)
    command.more.add_argument("--json", action="store_true", help="print the selection as JSON")
    command.set_defaults(run=_fit, holds_notes=True)


def _fit(args: argparse.Namespace) -> int:
    if args.output and args.output.exists() and not args.output.is_dir():
        raise InputError(f"-o {args.output} is a file; give a folder")
    classes, config = task_config(args, args.classes)
    if not (args.images or args.examples):
        raise InputError("give images, or folders of images, before --classes, or --examples")
    examples = read_examples(args.examples) if args.examples else []
    labeled = {path.resolve() for path, *_ in examples}
    images = [path for path in image_files(args.images) if path.resolve() not in labeled]
    _check_suggest(args, len(images))
    client = task_client(args)
    if args.output:
        with storage_errors(args.output):  # before work
            args.output.mkdir(parents=True, exist_ok=True)
    selection = client.fit(
        classes,
        images,
        config,
        examples=examples,
        domain=args.domain,
        task=args.task,
        shares=_shares(args.shares),
        approve=partial(_approve, is_agreed=args.yes),
        cache=args.output and args.output / _CACHE,
    )
    if args.output:
        selection.save_pretrained(args.output)
    if args.suggest:
        _suggest(client.load(selection), images, args.suggest, args.output)
    print(json.dumps(selection.to_json()) if args.json else shown(selection_report(selection, args.verbose)))
    if not args.json:
        print(f"This rests on {selection.basis}.{'' if args.suggest or args.examples else _ADVICE}")
    if args.output:
        note(f"saved in {args.output}; classify images with: mll-hf predict IMAGES --selection {args.output}")
    return 0


def _check_suggest(args: argparse.Namespace, n_images: int) -> None:
    """Check ``--suggest`` before any work."""
    if not args.suggest:
        return
    if not args.output:
        raise InputError(f"--suggest writes {_TO_LABEL} into the folder of -o; add -o FOLDER")
    if args.suggest > n_images:
        raise InputError(f"--suggest {args.suggest}: there are only {n_images} images without a class; give fewer")
    if (path := args.output / _TO_LABEL).exists():
        raise InputError(f"{path} exists, perhaps with your corrections; rename it, and give it with --examples")


def _suggest(ensemble: Ensemble, images: list[Path], count: int, folder: Path) -> None:
    """Write the images to label."""
    from mll_hf.ensemble.embedding import EmbeddingCache
    from mll_hf.ensemble.trial import suggest_images

    path = folder / _TO_LABEL
    rows = suggest_images(ensemble, [image.resolve() for image in images], count, EmbeddingCache(folder / _CACHE))
    write_atomically(path, csv_bytes([("path", "class", "weight"), *rows]))
    note(f"{len(rows)} images to label: correct the classes in {path}, rename it, and fit again with --examples")


def _approve(plan: TrialPlan, is_agreed: bool) -> bool:
    """Say what a trial may download, and ask for confirmation unless it is given."""
    if plan.most_bytes == 0:
        return True
    note(
        f"the trial downloads at most {gigabytes(plan.most_bytes)} of models, and about "
        f"{gigabytes(plan.expected_bytes)} if they perform as expected: {abridged(plan.names, 10)}"
    )
    return is_agreed or confirm("Download?", "cannot ask without a terminal; add --yes, or a smaller --max-download")


def _shares(given: str | None) -> str | dict[str, float] | None:
    """The class shares given by ``--shares``: equal ones, or a JSON file."""
    if given in (None, EQUAL):
        return given
    try:
        shares = json.loads(Path(given).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"--shares {given}: {error.strerror}; give {EQUAL}, or a JSON file") from None
    except ValueError:
        shares = None
    if not isinstance(shares, dict):
        raise InputError(f"--shares {given}: this is not {{class: number}}; give a JSON object with every class")
    return shares
