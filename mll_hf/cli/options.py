"""Options and values that several verbs share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.errors import InputError
from mll_hf.graph.probes import SamplingConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.hub.sources import LabelSource
    from mll_hf.labels.label import LabelSummary

SOURCE_VARIABLE = "MLL_LABELS"
_SOURCE_HELP = (
    "where labels are: 'hub' (all tagged models), hf://datasets/ORG/NAME[@REVISION], a folder, or a catalog "
    f"(default: ${SOURCE_VARIABLE}, or hub)"
)
FULL_SAMPLE = SamplingConfig().images_per_concept
SAMPLE_HELP = (
    f"most images per concept (default: {FULL_SAMPLE}); with a few it is a quick label, and a later run with more "
    "embeds only the images that are new"
)
BATCH_HELP = "images at a time (default: as many as suit the device)"
DEVICE_HELP = "cuda, cuda:1, mps or cpu (default: all GPUs, or the best available device)"
GRAPH_HELP = "the graph: a folder with graph.json and images*.parquet, or hf://datasets/ORG/NAME[@REVISION]"


def add_source(verb: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--labels SOURCE`` and the ``--graph`` that chooses among the labels of the hub."""
    verb.add_argument("--labels", default=os.environ.get(SOURCE_VARIABLE) or "hub", metavar="SOURCE", help=_SOURCE_HELP)
    verb.add_argument("--graph", metavar="GRAPH", help=f"{GRAPH_HELP}; for --labels hub if several are in use")


def add_plot(verb: argparse.ArgumentParser) -> None:
    """Add ``--plot FILE``."""
    verb.add_argument("--plot", type=Path, metavar="FILE.html", help="also write figures, as a web page of its own")


def check_plot(args: argparse.Namespace) -> None:
    """Refuse a file for figures that could not be written as asked, before anything else is done.

    Raises:
        InputError: Its name is not that of a web page.
    """
    if args.plot:
        from mll_hf.plots.style import check_page

        check_page(args.plot)


def open_source_of(args: argparse.Namespace) -> LabelSource:
    """The source of labels that the options name."""
    from mll_hf.hub.sources import open_source

    return open_source(args.labels, args.graph)


def find_label(source: LabelSource, model: str) -> LabelSummary:
    """The one label that a user means by an id, the last part of it, or ``id@revision``.

    Raises:
        InputError: There is none, or several.
    """
    found = [label for label in source.list() if model in _names_of(label)]
    if not found:
        raise InputError(f"no label of '{model}' in {source.name}; see: mll-hf labels ls --labels {source.name}")
    if len(found) > 1:
        ids = ", ".join(f"{label.model.repo_id}@{label.model.revision}" for label in found)
        raise InputError(f"'{model}' may be any of {ids}; give one of these")
    return found[0]


def _names_of(label: LabelSummary) -> Sequence[str]:
    model = label.model
    return (model.repo_id, model.short_name, f"{model.repo_id}@{model.revision}")


def script_parser(doc: str) -> argparse.ArgumentParser:
    """A parser for a script; of its docstring, the examples, indented and beginning with ``python``, come last."""
    description, _, examples = doc.partition("    python")
    return argparse.ArgumentParser(
        description=description,
        epilog=f"    python{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def positive(text: str) -> int:
    """A whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def listed(text: str) -> tuple[str, ...]:
    """Words with commas between, at least one."""
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise argparse.ArgumentTypeError(f"'{text}' lists nothing; put commas between, such as apache-2.0,mit")
    return words


def count(text: str) -> int:
    """A number of parameters: 151000000, 151M or 1.5B."""
    factor = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9}.get(text[-1:].upper())
    try:
        return int(float(text[:-1]) * factor) if factor else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no number such as 200M or 1.5B") from None
