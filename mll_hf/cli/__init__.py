"""The command line: one parser, one function per command, and one place where errors become messages."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING

from mll_hf import __version__
from mll_hf.cli import bench, classify, graph, label, labels, predict, serve
from mll_hf.cli.output import complain, logged_notes
from mll_hf.errors import MLLError

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    args = build_parser().parse_args(words, argparse.Namespace(command=shlex.join(["mll-hf", *words])))
    try:
        with logged_notes():
            status: int = args.run(args)
        sys.stdout.flush()
    except MLLError as error:
        return complain(str(error))
    except KeyboardInterrupt:
        complain("interrupted; finished work is kept, and the same command resumes")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # no second error when Python flushes at exit
        return 0
    return status


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="mll-hf",
        description="Choose and reuse open vision-language models without trying them all: measure each model once "
        "on a graph of visual concepts (label), publish the result (push), choose models for a list of classes "
        "(select), and classify images with them (predict).",
        epilog="Example: mll-hf select --classes 'dog, cat, teapot' --labels hf://datasets/ORG/NAME",
    )
    parser.add_argument("--version", action="version", version=f"mll-hf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    label.add_label(commands)
    label.add_push(commands)
    labels.add_labels(commands)
    graph.add_graph(commands)
    classify.add_select(commands)
    predict.add_predict(commands)
    serve.add_serve(commands)
    bench.add_bench(commands)
    return parser
