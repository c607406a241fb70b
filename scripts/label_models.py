# /// script
# requires-python = ">=3.11"
# dependencies = []
#
# [tool.hf-jobs]
# flavor = "t4-small"
# timeout = "6h"
# secrets = ["HF_TOKEN"]
# ///
"""Label models of the Hub on a graph of visual concepts, and publish the labels.

Name models, list them by their tags, or in a file. Models with a published label are skipped before anything is
downloaded; a model that fails does not stop the others; the same command resumes an interrupted run.

    python scripts/label_models.py $ORG/MODEL --graph DIR --labels my-labels
    python scripts/label_models.py --tag open_clip --limit 20 --graph DIR --push-to hf://datasets/$ORG/LABELS
    python scripts/label_models.py --list models.txt --ray auto --graph hf://datasets/$ORG/GRAPH --push-to own
    hf jobs uv run --with "mll-hf[models] @ URL" scripts/label_models.py --list ... --graph ... --push-to ...

Models run one after the other on one device, or with --ray on every GPU of a cluster; labels do not depend on it. In
the last example they run in one job; the header of this file requests its hardware and passes your token on. URL is
that of a wheel of this package, which is on no package registry.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("mll_hf") is None:  # in a job without it
    sys.exit("error: mll_hf is neither installed nor on a package registry; start with --with 'mll-hf[models] @ URL'")

from command_line import script_parser
from mll_hf.cli.label import labeled_text
from mll_hf.cli.options import BATCH_HELP, DEVICE_HELP, GRAPH_HELP, SAMPLE_HELP, positive
from mll_hf.cli.output import discard_stdout, summary
from mll_hf.errors import InputError, MLLError
from mll_hf.graph.probes import IMAGES_PER_CONCEPT
from mll_hf.hub.connection import connect, hub_errors
from mll_hf.hub.locations import HUB, graph_with_images
from mll_hf.labeling.on_ray import label_on_ray
from mll_hf.labeling.run import Outcome, Plan, label_many
from mll_hf.labels.label import LabelKey
from mll_hf.labels.store import LabelStore
from mll_hf.utils.files import asset_path
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from mll_hf.labeling.run import ModelResult

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status (0 all labeled, 1 some failed, 2 wrong usage, 130 interrupted)."""
    args = build_parser().parse_args(arguments)
    results: list[ModelResult] = []
    status = 0
    models: tuple[str, ...] = ()
    try:
        models = chosen_models(args)
        for result in label(args, models):
            results.append(result)
            print(json.dumps(record(result)) if args.json else line(result), flush=True)
    except MLLError as error:
        say(f"error: {error}")
        status = 1
    except KeyboardInterrupt:
        say("interrupted; finished work is kept, and the same command resumes")
        status = _INTERRUPTED
    except BrokenPipeError:
        discard_stdout()
        say("nobody reads the results any more; finished work is kept, and the same command resumes")
        status = 1
    if results:
        counts = Counter(result.outcome for result in results)
        parts = [f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]]
        left = len(models) - len(results)
        say(", ".join([*parts, *([f"{left} not run"] if left else [])]))
    return status or int(any(result.outcome is Outcome.FAILED for result in results))


def label(args: argparse.Namespace, models: Sequence[str]) -> Iterator[ModelResult]:
    """Label the models as the arguments say."""
    location = graph_with_images(args.graph)
    probes = location.probes(args.sample)
    plan = Plan(
        graph=location.graph,
        probes=probes,
        store=LabelStore(args.labels or asset_path("labels", LabelKey(location.graph.digest, probes.digest).stem)),
        push_to=args.push_to,
        device=args.device,
        batch_size=args.batch_size,
        overwrite=args.overwrite,
        free_cache=args.free_cache,
    )
    if args.ray:
        return label_on_ray(models, plan, None if args.ray == "auto" else args.ray)
    return label_many(announced(models), plan)


def announced(models: Sequence[str]) -> Iterator[str]:
    """The models, each with a message when its turn comes."""
    for number, name in enumerate(models, 1):
        say(f"[{number}/{len(models)}] {name}")
        yield name


# --- which models -----------------------------------------------------------------------------------------------------


def chosen_models(args: argparse.Namespace) -> tuple[str, ...]:
    """The models that the arguments name, without repetitions."""
    models = list(args.models)
    if args.list:
        models += read_models(args.list)
    if args.tag:
        models += list_models(args.tag, args.limit)
    elif args.limit:
        raise InputError("--limit needs a tag; add --tag")
    if not models:
        raise InputError("no models; name some, or give --tag or --list")
    return tuple(dict.fromkeys(models))


def list_models(tags: Sequence[str], limit: int | None = None) -> list[str]:
    """Models on the Hub that have all tags, such as ``open_clip``; most downloaded first.

    Raises:
        InputError: No model matches.
        HubError: The Hub cannot be reached.
    """
    with hub_errors(HUB):
        listed = connect().list_models(filter=list(tags), sort="downloads", limit=limit, expand=["sha"])
        ids = [model.id for model in listed]
    if not ids:
        raise InputError("no model on the Hub matches; check the tags")
    return ids


def read_models(file: Path) -> list[str]:
    """Read a list of models: one per line, and ``#`` for comments.

    Raises:
        InputError: The file cannot be read, or lists no models.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file} ({one_line(error)}); check the path") from None
    models = [name for line in text.splitlines() if (name := line.partition("#")[0].strip())]
    if not models:
        raise InputError(f"{file} lists no models; write one org/name per line")
    return models


# --- output -----------------------------------------------------------------------------------------------------------


def record(result: ModelResult) -> dict[str, Any]:
    """A result as JSON."""
    return {
        "model": result.name,
        "outcome": result.outcome,
        "reason": result.reason,
        "label": summary(result.label) if result.label else None,
        "path": str(result.path) if result.path else None,
        "published": result.published.url if result.published else None,
        "undecodable": result.undecodable,
    }


def line(result: ModelResult) -> str:
    """A result as text."""
    text = f"{result.outcome}: {labeled_text(result)}"
    return f"{text}: {result.reason}" if result.reason else text


def say(message: str) -> None:
    """Print to stderr."""
    print(message, file=sys.stderr, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the arguments."""
    parser = script_parser(str(__doc__))
    parser.add_argument("models", nargs="*", metavar="MODEL", help="org/name[@revision] on the Hub, or local-dir:PATH")
    parser.add_argument("--tag", action="append", metavar="TAG", help="all models with this tag; may be repeated")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the N most downloaded of these")
    parser.add_argument("--list", type=Path, metavar="FILE", help="text with one model per line")
    parser.add_argument("--graph", required=True, metavar="GRAPH", help=f"graph to measure on: {GRAPH_HELP}")
    parser.add_argument("--sample", type=positive, default=IMAGES_PER_CONCEPT, metavar="N", help=SAMPLE_HELP)
    parser.add_argument("--labels", type=Path, metavar="DIR", help="folder for labels (default: in the cache)")
    parser.add_argument(
        "--push-to", metavar="REPO",
        help="a collection, hf://datasets/$ORG/NAME, or 'own' for each model's own repo (default: publish nothing)",
    )  # fmt: skip
    parser.add_argument("--device", metavar="NAME", help=DEVICE_HELP)
    parser.add_argument("--batch-size", type=positive, metavar="N", help=BATCH_HELP)
    parser.add_argument(
        "--ray", nargs="?", const="auto", metavar="ADDRESS",
        help="run on Ray: the address of a cluster (default: $RAY_ADDRESS, or Ray on this machine)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="measure labeled models again")
    parser.add_argument(
        "--free-cache", action="store_true", help="delete each model from the cache of downloads after its turn"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line per model")
    return parser


if __name__ == "__main__":
    sys.exit(main())
