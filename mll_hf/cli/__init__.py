"""The command line: one parser, one function per command, and one place where errors become messages."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from mll_hf import __version__
from mll_hf.cli.output import discard_stdout, logged_notes, print_error
from mll_hf.cli.parser import Parser
from mll_hf.errors import MissingExtraError, MLLError

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 130
_COMMANDS = {  # module and help text of each command
    "fit": ("fit", "choose models, fit them to your images, and say how good they are"),
    "select": ("select", "choose models for a list of classes"),
    "predict": ("predict", "classify images with a selection"),
    "serve": ("serve", "classify images over HTTP with a selection"),
    "export": ("export", "write the models of a selection as ONNX graphs, which run without torch"),
    "push": ("label", "publish a selection or labels on the Hub"),
    "label": ("label", "measure models on a graph"),
    "labels": ("labels", "list, show, validate and verify labels"),
    "graph": ("graph", "make a graph of your own concepts; show, check and publish graphs"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        parser = build_parser(words[0] if words else "")
        args = parser.parse_args(words or ["--help"], argparse.Namespace(quiet=False, holds_notes=False))
        with logged_notes(args.quiet, args.holds_notes):
            status: int = args.run(args)
        sys.stdout.flush()
    except MLLError as error:
        return print_error(str(error))
    except ModuleNotFoundError as error:  # such as Pillow, imported where an image is read
        return print_error(str(MissingExtraError(str(error.name), "models")))
    except KeyboardInterrupt:
        print_error("interrupted; finished work is kept, and the same command resumes")
        return _INTERRUPTED
    except BrokenPipeError:
        discard_stdout()
        return 0
    return status


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line; modules of other commands than ``command`` are not imported, if it is given."""
    parser = Parser(
        prog="mll-hf",
        description="Choose and reuse open vision-language models without trying them all: choose models and fit them "
        "to your images (fit), or choose them by class names alone (select); then classify images (predict).",
        epilog="Example: mll-hf select cat dog 'golden retriever'",
    )
    parser.add_argument("--version", action="version", version=f"mll-hf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, text) in _COMMANDS.items():
        parser_of_command = commands.add_parser(name, help=text)
        if command in (None, name):
            getattr(import_module(f"mll_hf.cli.{module}"), f"add_{name}")(parser_of_command)
    return parser
