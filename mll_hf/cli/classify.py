"""The command ``select``, and its options, selection and image files, which ``predict`` uses too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.cli.options import (
    add_graph_choice,
    add_location,
    add_plot,
    add_trust,
    check_plot,
    count,
    listed,
    positive,
)
from mll_hf.cli.output import note, shown
from mll_hf.cli.report import selection_report
from mll_hf.client import Client
from mll_hf.errors import InputError
from mll_hf.matching import describe
from mll_hf.matching.concept_index import COVERED
from mll_hf.matching.prompts import check_class_names, parse_class_names
from mll_hf.models.published import DEFAULT_LABELS
from mll_hf.selection import Selection, SelectionConfig, Strategy
from mll_hf.selection.config import configured
from mll_hf.utils.images import IMAGE_SUFFIXES
from mll_hf.utils.text import abridged, shortened

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from mll_hf.matching.describe import Description

TASK_OPTIONS = ("classes", "domain", "task", "labels", "license")


def add_select(commands: Any) -> None:  # noqa: ANN401 - argparse keeps the type private
    """Add the command ``select``."""
    command = commands.add_parser(
        "select",
        help="choose models for a list of classes",
        description="Estimate from labels and published figures how accurate each model is on your classes, and choose "
        "the best. No model is downloaded or run. If you have images, use 'mll-hf fit'.",
        epilog="Example: mll-hf select --classes classes.txt --json > choice.json, then: mll-hf predict photos "
        "--selection choice.json",
    )
    add_task_options(command, required=True)
    add_trust(command)
    add_graph_choice(command)
    command.add_argument(
        "--descriptions", type=Path, metavar="FILE", help="JSON object: class name -> description, or list of them"
    )
    command.add_argument(
        "--llm",
        metavar="MODEL",
        help="language model that describes the classes: MODEL, or MODEL@URL of a server like OpenAI's",
    )
    command.add_argument(
        "--strategy",
        choices=[str(s) for s in Strategy],
        default=str(Strategy.MLL),
        help="how models are scored and chosen (default: %(default)s)",
    )
    command.add_argument("--max-gflops", type=float, metavar="X", help="maximum GFLOPs per image of a model")
    command.add_argument("--max-parameters", type=count, metavar="N", help="maximum parameters of a model: 200M, 1.5B")
    command.add_argument("--json", action="store_true", help="print JSON, which predict and push read with --selection")
    add_plot(command)
    command.set_defaults(run=_select)


def _select(args: argparse.Namespace) -> int:
    check_plot(args)
    selection = make_selection(args)
    if args.plot:
        _plot(args.plot, selection)
    if args.json:
        print(json.dumps(selection.to_json()))
        return 0
    print(shown(selection_report(selection)))
    uncovered = [name for name, cover in zip(selection.classes, selection.coverage, strict=True) if cover < COVERED]
    if len(selection.classes) > 1 and uncovered and selection.strategy is Strategy.MLL and selection.trial is None:
        note(
            f"no concept matches {abridged(uncovered, 5)}; for such classes the choice rests on the models' general "
            "level. Check their spelling (names are compared in English), or fit models to images with: mll-hf fit"
        )
    return 0


def _plot(path: Path, selection: Selection) -> None:
    from mll_hf.plots.selection import accuracy_by_cost, save_page

    if (figure := accuracy_by_cost(selection)) is None:
        note(f"no figure: scores of strategy {selection.strategy} are no accuracies")
        return
    save_page(path, f"Models for {abridged(selection.classes, 3)}", figure)
    note(f"figure: {path}")


def flag(name: str) -> str:
    """The command-line option of an argument."""
    return f"--{name.replace('_', '-')}"


def add_task_options(command: argparse.ArgumentParser, required: bool) -> None:
    """Add the options in TASK_OPTIONS, and ``-k`` where classes are required."""
    command.add_argument(
        "--classes", required=required, metavar="LIST", help="'a, b, c', or a file: one per line, JSON or CSV"
    )
    command.add_argument("--domain", metavar="TEXT", help="how the images look: photo, sketch, satellite image ...")
    command.add_argument("--task", metavar="TEXT", help="what the classes are for: traffic sign recognition ...")
    add_location(command, DEFAULT_LABELS)
    if required:
        command.add_argument(
            "-k", type=positive, metavar="N",
            help="models per class (default: 1; for fit as many as are likely to be better combined, at most 5)",
        )  # fmt: skip
    command.add_argument(
        "--license", type=listed, default=(), metavar="LIST",
        help="allowed licenses, such as apache-2.0,mit; the Hub confirms those of the chosen models",
    )  # fmt: skip


def make_selection(args: argparse.Namespace) -> Selection:
    """Make the selection that the options describe, from names alone."""
    classes, config = task_config(args)
    return task_client(args).select(
        classes, config, domain=args.domain, task=args.task, descriptions=_describe(args, classes)
    )


def task_config(args: argparse.Namespace) -> tuple[tuple[str, ...], SelectionConfig]:
    """The classes and the configuration that the options describe."""
    if args.classes is None:
        raise InputError("give --classes, or --selection with a folder of 'mll-hf fit', or output of 'select --json'")
    classes = check_class_names(parse_class_names(args.classes))
    given = {name: vars(args).get(name) for name in SelectionConfig.__dataclass_fields__}
    given |= {"licenses": args.license}
    options = {name: value for name, value in given.items() if value is not None}
    return classes, configured(SelectionConfig(), options)


def task_client(args: argparse.Namespace) -> Client:
    """The client that the options describe."""
    given = vars(args)
    return Client(args.labels, graph=given.get("graph"), trust=given.get("trust", ()), device=given.get("device"))


def _describe(args: argparse.Namespace, classes: tuple[str, ...]) -> tuple[Description, ...] | None:
    path, llm = vars(args).get("descriptions"), vars(args).get("llm")
    if path and llm:
        raise InputError("give either --descriptions or --llm, not both")
    if path:
        return describe.from_file(path, classes)
    if llm:
        model, _, url = llm.rpartition("@") if "://" in llm else (llm, "", "")
        return describe.from_llm(classes, args.domain, args.task, model or None, url or None)
    return None


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The given images and the images in the given folders, without duplicates.

    Raises:
        InputError: A path does not exist, or a folder has no image.
    """
    files: list[Path] = []
    for path in paths:
        found = [path]
        if os.path.isdir(path):  # unlike Path.is_dir, raises nothing
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found or not os.path.exists(found[0]):
            raise InputError(f"{shortened(str(path), 200)} is neither an image nor a folder of images; check the path")
        files.extend(found)
    return list(dict.fromkeys(files))
