"""The command line: one parser, one function per command, and one place where errors become messages."""

from __future__ import annotations

import argparse
import shlex
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mll_hf import __version__
from mll_hf.cli.output import discard_stdout, logged_notes, print_error
from mll_hf.errors import MLLError

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 130
_COMMANDS = {  # module and help text of each command
    "label": ("label", "measure models on a graph"),
    "push": ("label", "publish labels or a selection on the Hub"),
    "labels": ("labels", "list, show, validate and verify labels"),
    "graph": ("graph", "make a graph of your own concepts; show, check and publish graphs"),
    "fit": ("fit", "choose models, fit them to your images, and say how good they are"),
    "select": ("classify", "choose models for a list of classes"),
    "predict": ("predict", "classify images with the chosen models"),
    "export": ("export", "write the models of a selection as ONNX graphs, which run without torch"),
    "serve": ("serve", "classify images over HTTP with a selection"),
}


class _Parser(argparse.ArgumentParser):
    """Refuses an unknown option in the name of the command that it was given to, with the nearest one."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # noqa: ANN401
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, 1)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{f'; did you mean {near[0]}?' if near else ''}")
        return found, unknown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        parser = build_parser(words[0] if words else "")
        args = parser.parse_args(words, argparse.Namespace(command=shlex.join(["mll-hf", *words])))
        with logged_notes():
            status: int = args.run(args)
        sys.stdout.flush()
    except MLLError as error:
        return print_error(str(error))
    except KeyboardInterrupt:
        print_error("interrupted; finished work is kept, and the same command resumes")
        return _INTERRUPTED
    except BrokenPipeError:
        discard_stdout()
        return 0
    return status


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        command: The only command that will be used; modules of others are not imported. None for all.
    """
    parser = _Parser(
        prog="mll-hf",
        description="Choose and reuse open vision-language models without trying them all: measure each model once "
        "on a graph of visual concepts (label), publish the result (push), choose models for a list of classes "
        "(select), fit them to images (fit), and classify images with them (predict).",
        epilog="Example: mll-hf select --labels published --classes 'golden retriever, tabby cat, fire truck'",
    )
    parser.add_argument("--version", action="version", version=f"mll-hf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, text) in _COMMANDS.items():
        if command in (None, name):
            getattr(import_module(f"mll_hf.cli.{module}"), f"add_{name}")(commands)
        else:
            commands.add_parser(name, help=text)
    return parser
