"""Options and values shared by several commands."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Any, TypeAlias

from mll_hf.errors import InputError
from mll_hf.graph.probes import IMAGES_PER_CONCEPT
from mll_hf.matching.prompts import check_class_names, parse_class_names
from mll_hf.utils.text import parse_count

if TYPE_CHECKING:
    from mll_hf.cli.parser import Parser
    from mll_hf.labels.label import Label
    from mll_hf.labels.store import LabelStore

Options: TypeAlias = argparse.ArgumentParser | argparse._ArgumentGroup

SOURCE_VARIABLE = "MLL_LABELS"
_SOURCE_HELP = (
    "where to read labels: 'hub' (models' repos, see --trust), hf://datasets/$ORG/NAME[@REVISION], a folder, or "
    "'published' (published figures of known models); or several, separated by commas: SOURCE,SOURCE,published"
)
ACCESS = ("public", "gated", "private")
SAMPLE_HELP = f"maximum probe images per concept (default: {IMAGES_PER_CONCEPT})"
BATCH_HELP = "images per batch (default: chosen for the device)"
DEVICE_HELP = "cuda, cuda:1, mps or cpu (default: best available device)"
SELECTION_HELP = "output of 'mll-hf select --json', a folder with a selection, or $ORG/NAME[@REVISION] on the Hub"
CLASSES_HELP = "your classes: cat dog, 'cat, dog', or a file (text, JSON, CSV)"
YES_HELP = "download more than a gigabyte without asking"
GRAPH_HELP = "a folder with graph.json, hf://datasets/$ORG/NAME[@REVISION], or package:emoji"
IMAGES_HELP = (
    "folder or hf://datasets/$ORG/NAME[@REVISION] of the probe images (default: beside graph.json, else where it names)"
)


def add_action(actions: Any, name: str, run: Any, text: str, description: str = "", epilog: str = "") -> Parser:  # noqa: ANN401 - argparse keeps the type private
    """Add a subcommand, with ``--json``; its description is by default its help text."""
    action: Parser = actions.add_parser(
        name, help=text, description=description or f"{text[0].upper()}{text[1:]}.", epilog=epilog
    )
    action.add_argument("--json", action="store_true", help="print JSON")
    action.set_defaults(run=run)
    return action


def add_source(command: Options, default: str = "hub") -> None:
    """Add ``--labels``, ``--trust`` and ``--graph``."""
    text = f"{_SOURCE_HELP} (default: ${SOURCE_VARIABLE}, or {default})"
    command.add_argument("--labels", default=os.environ.get(SOURCE_VARIABLE) or default, metavar="SOURCE", help=text)
    command.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="OWNER",
        help="user or organization whose labels in the repos of its models are ranked (default: those in $MLL_TRUST); "
        "labels of others are listed, and ranked once 'labels verify' has confirmed them; may be repeated",
    )
    command.add_argument(
        "--graph",
        metavar="GRAPH",
        help="reference graph, if there are labels on several (default: $MLL_GRAPH, else the graph with labels of the "
        f"most publishers): {GRAPH_HELP}",
    )


def add_images_destination(command: Options) -> None:
    """Add ``--images-to`` and ``--images-access`` for the images of a graph that is published."""
    command.add_argument(
        "--images-to",
        metavar="IMAGES",
        help="publish the images too, in a separate repo: hf://datasets/$ORG/NAME (default: only the concepts and the "
        "numbers of images)",
    )
    command.add_argument(
        "--images-access",
        choices=ACCESS,
        default=ACCESS[-1],
        help="who may read a new repo of images: anyone, users who accept its terms, or you (default: %(default)s)",
    )


def class_names(words: list[str]) -> tuple[str, ...]:
    """The classes of a command line: one word is a list or a file, several are a class each, or a list in parts.

    An InputError if there are none, or they cannot be used.
    """
    if not words:
        raise InputError("name your classes: cat dog 'golden retriever', or a file with one per line")
    if len(words) == 1 or any(word.endswith(",") for word in words):  # cat, golden retriever, dog
        return check_class_names(parse_class_names(" ".join(words)))
    if path := next((word for word in words if re.search(r"[./\\]", word) and os.path.exists(word)), None):
        raise InputError(f"{path} is a path, not a class; give one file of classes alone, and images before --classes")
    return check_class_names(words)


def find_labels(source: LabelStore, model: str) -> tuple[Label, ...]:
    """All labels of one model, named by its id, the last part of its id, or ``id@revision``, on any graphs.

    An InputError if there are none, or the name matches several models.
    """
    found = tuple(
        label
        for label in source.labels()
        if model in (label.model.repo_id, label.model.short_name, f"{label.model.repo_id}@{label.model.revision}")
    )
    if not found:
        raise InputError(f"no label of '{model}' in {source.name}; see: mll-hf labels ls --labels {source.name}")
    if len({label.model.key for label in found}) > 1:
        models = sorted({f"{label.model.repo_id}@{label.model.revision}" for label in found})
        raise InputError(f"'{model}' matches {len(models)} models; give one of {', '.join(models)}")
    return found


def natural(text: str, minimum: int = 0) -> int:
    """A whole number, at least 0."""
    value = int(text)
    if value < minimum:
        raise argparse.ArgumentTypeError(f"{text} is less than {minimum}")
    return value


def positive(text: str) -> int:
    """A whole number, at least 1."""
    return natural(text, 1)


def listed(text: str) -> tuple[str, ...]:
    """A comma-separated list with at least one item."""
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise argparse.ArgumentTypeError(f"'{text}' is an empty list; separate items with commas: apache-2.0,mit")
    return words


def size(text: str) -> int:
    """A number of bytes: 500000000, 500M or 10G, with or without a B at the end."""
    return count(text.upper().removesuffix("B"))


def count(text: str) -> int:
    """A number of parameters: 151000000, 151M or 1.5B."""
    try:
        return parse_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
