"""The command line: one parser, one small function per verb, one place where errors become messages."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING

from mll_hf import __version__
from mll_hf.cli import bench, classify, graph, label, labels
from mll_hf.cli.output import complain, logged_notes
from mll_hf.errors import MLLError

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 done, 1 failed, 2 misused, 130 interrupted)."""
    words = sys.argv[1:] if arguments is None else arguments
    args = build_parser().parse_args(words, argparse.Namespace(command=shlex.join(["mll-hf", *words])))
    try:
        with logged_notes():
            status: int = args.run(args)
        sys.stdout.flush()
    except MLLError as error:
        return complain(str(error))
    except KeyboardInterrupt:
        complain("interrupted; what was finished is kept, and the same command goes on from there")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has what it wanted
        return 0
    return status


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="mll-hf",
        description="Choose and reuse open vision-language models without trying them all: measure each model once "
        "on a graph of visual concepts (label), publish the result (push), ask which models suit a list of classes "
        "(select), and classify images with the chosen ones (predict).",
        epilog="Example: mll-hf select --classes 'dog, cat, teapot' --labels hf://datasets/org/labels",
    )
    parser.add_argument("--version", action="version", version=f"mll-hf {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    label.add_label(verbs)
    label.add_push(verbs)
    labels.add_labels(verbs)
    graph.add_graph(verbs)
    classify.add_select(verbs)
    classify.add_predict(verbs)
    bench.add_bench(verbs)
    return parser
