"""The command ``select``, and the options that it shares with ``fit``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.cli.options import CLASSES_HELP, add_source, class_names, count, listed, positive
from mll_hf.cli.output import note, shown
from mll_hf.cli.report import selection_report
from mll_hf.client import Client
from mll_hf.errors import InputError
from mll_hf.matching import describe
from mll_hf.models.language import ENGLISH, language_of
from mll_hf.models.published import DEFAULT_LABELS
from mll_hf.selection import SelectionConfig, Strategy
from mll_hf.selection.comparison import are_meant
from mll_hf.selection.strategies import configured
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    import argparse

    from mll_hf.cli.options import Options
    from mll_hf.cli.parser import Parser
    from mll_hf.matching.describe import Description
    from mll_hf.selection.result import Selection

_MOST_AGAIN = 20  # words


def add_select(command: Parser) -> None:
    """Add the command ``select``."""
    command.description = (
        "Choose models by the names of your classes, and estimate how accurate they are. No model is "
        "downloaded or run. If you have images, use 'mll-hf fit'."
    )
    command.epilog = "Example: mll-hf select cat dog 'golden retriever' --max-parameters 200M"
    command.add_argument("names", nargs="*", metavar="CLASS", help=CLASSES_HELP)
    command.more.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="the same, as an option")
    add_limits(command)
    add_task_options(command)
    command.add_argument("--json", action="store_true", help="print JSON, which predict and push read with --selection")
    command.more.add_argument(
        "--descriptions", type=Path, metavar="FILE", help="JSON object: class name -> description, or list of them"
    )
    command.more.add_argument(
        "--llm",
        metavar="MODEL",
        help="language model that describes the classes: MODEL, or MODEL@URL of a server like OpenAI's",
    )
    command.more.add_argument(
        "--strategy",
        choices=[str(s) for s in Strategy],
        default=str(Strategy.MLL),
        help="how models are scored and chosen: %(choices)s (default: %(default)s)",
    )
    command.set_defaults(run=_select, holds_notes=True)


def _select(args: argparse.Namespace) -> int:
    words = [*args.names, *args.classes]
    classes, config = task_config(args, words)
    selection = task_client(args).select(
        classes, config, domain=args.domain, task=args.task, descriptions=_describe(args, classes)
    )
    if args.json:
        print(json.dumps(selection.to_json()))
        return 0
    print(shown(selection_report(selection, args.verbose)))
    if selection.answer_lines:
        fit = f"mll-hf fit PHOTOS --classes {_again(args, words)} -o choice"
        print(f"This rests on {selection.basis}. Your images tell more: {fit}")
    _note_on_names(selection)
    return 0


def _note_on_names(selection: Selection) -> None:
    """Name classes whose names say nothing, where that leaves the accuracy not known."""
    meant = zip(selection.classes, are_meant(selection.classes, selection.coverage), strict=True)
    unclear = [name for name, is_meant in meant if not is_meant and name.isascii()]  # others have a note on language
    is_known = selection.estimate is not None and selection.estimate.known.any()
    is_foreign = language_of(selection.classes) != ENGLISH  # which the answer says
    if len(selection.classes) > 1 and unclear and selection.strategy is Strategy.MLL and not (is_known or is_foreign):
        says = "it says" if len(unclear) == 1 else "they say"
        note(f"{abridged(unclear, 5)}: not found among English words, so {says} nothing about accuracy")


def _again(args: argparse.Namespace, words: list[str]) -> str:
    """The classes and what limits the choice, as they were given; a long list of classes is better kept in a file."""
    given = {
        "max-parameters": args.max_parameters and f"{args.max_parameters / 1e6:.10g}M",
        "license": ",".join(args.license),
        "labels": args.labels if args.labels != DEFAULT_LABELS else "",
        **{name: vars(args)[name.replace("-", "_")] for name in ("max-gflops", "graph", "domain", "task")},
    }
    pairs = [*given.items(), *(("trust", owner) for owner in args.trust)]
    options = [word for name, value in pairs if value for word in (f"--{name}", str(value))]
    classes = shlex.join(words) if len(words) <= _MOST_AGAIN else "FILE"
    return shown(f"{classes} {shlex.join(options)}".rstrip())


def add_limits(options: Options) -> None:
    """Add limits of what a model costs."""
    options.add_argument("--max-parameters", type=count, metavar="N", help="maximum parameters of a model: 200M, 1.5B")
    options.add_argument("--max-gflops", type=float, metavar="X", help="maximum GFLOPs per image of a model")


def add_task_options(command: Parser) -> None:
    """Add what ``select`` and ``fit`` take besides the classes."""
    command.add_argument("-v", "--verbose", action="store_true", help="also show a table of the models")
    command.add_argument(
        "--license", type=listed, default=(), metavar="LIST",
        help="allowed licenses, such as apache-2.0,mit; the Hub confirms those of the chosen models",
    )  # fmt: skip
    command.more.add_argument(
        "--domain", metavar="TEXT", help="how the images look: photo, sketch, satellite image ..."
    )
    command.more.add_argument("--task", metavar="TEXT", help="what the classes are for: traffic sign recognition ...")
    add_source(command.more, DEFAULT_LABELS)
    command.more.add_argument(
        "-k", type=positive, metavar="N",
        help="models per class (default: 1; for fit as many as are likely to be better combined, at most 5)",
    )  # fmt: skip


def task_config(args: argparse.Namespace, words: list[str]) -> tuple[tuple[str, ...], SelectionConfig]:
    """The classes, from the words of the command line, and the configuration that the options describe."""
    classes = class_names(words)
    given = {name: vars(args).get(name) for name in SelectionConfig.__dataclass_fields__}
    given |= {"licenses": args.license}
    options = {name: value for name, value in given.items() if value is not None}
    return classes, configured(SelectionConfig(), options)


def task_client(args: argparse.Namespace) -> Client:
    """The client that the options describe."""
    return Client(args.labels, graph=args.graph, trust=args.trust, device=vars(args).get("device"))


def _describe(args: argparse.Namespace, classes: tuple[str, ...]) -> tuple[Description, ...] | None:
    if args.descriptions and args.llm:
        raise InputError("give either --descriptions or --llm, not both")
    if args.descriptions:
        return describe.from_file(args.descriptions, classes)
    if args.llm:
        model, _, url = args.llm.rpartition("@") if "://" in args.llm else (args.llm, "", "")
        return describe.from_llm(classes, args.domain, args.task, model or None, url or None)
    return None
