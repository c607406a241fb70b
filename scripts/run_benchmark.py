"""Compare methods that choose and combine models, and measure speed and matching.

    python scripts/run_benchmark.py published                       # choices among real models, from published figures
    python scripts/run_benchmark.py tasks --labels DIR --tasks DIR  # every method on tasks with known classes
    python scripts/run_benchmark.py fit --testbed DIR               # heads fitted to images, from cached embeddings
    python scripts/run_benchmark.py speed [--models ViT-B-32,ViT-L-14] [--device cuda]
    python scripts/run_benchmark.py matching [--wordnet DIR]
    python scripts/run_benchmark.py datasets

Ratios within one run are meaningful; seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchmark import commands, datasets_benchmark, fit_benchmark, matching_benchmark, speed
from command_line import script_parser
from mll_hf.cli.output import logged_notes, print_error
from mll_hf.errors import MLLError

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = {
    "tasks": (commands.add_tasks, "every method on tasks with known classes"),
    "published": (commands.add_published, "choose among real models by labels made from published recall per class"),
    "fit": (fit_benchmark.add_arguments, "heads fitted to images, on cached embeddings of real models and on the zoo"),
    "speed": (speed.add_arguments, "time to import and to select; labeling and ensembles compared with bare loops"),
    "datasets": (datasets_benchmark.add_arguments, "recognizing known datasets by their class lists, and false alarms"),
    "matching": (matching_benchmark.add_arguments, "matching class names of ImageNet to concepts of ImageNet-12k"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = script_parser(str(__doc__))
    parts = parser.add_subparsers(required=True, metavar="BENCHMARK")
    for name, (add_arguments, text) in PARTS.items():
        add_arguments(parts.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}."))
    command = shlex.join(["scripts/run_benchmark.py", *words])
    args = parser.parse_args(words, argparse.Namespace(command=command))
    try:
        with logged_notes():
            args.run(args)
    except MLLError as error:
        return print_error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
