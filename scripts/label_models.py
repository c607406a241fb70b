# /// script
# requires-python = ">=3.11"
# dependencies = ["mll-hf[models]"]
#
# [tool.hf-jobs]
# flavor = "t4-small"
# timeout = "6h"
# secrets = ["HF_TOKEN"]
# ///
"""Label models of the Hub on a graph of visual concepts, and publish the labels.

Name models, or let a filter of the Hub or a hub file name them. What is labeled already is skipped before anything is
downloaded; a model that fails does not stop the others; the same command goes on where an interrupted run stopped.

    python scripts/label_models.py laion/CLIP-ViT-B-32-laion2B-s34B-b79K --graph hf://datasets/ORG/GRAPH
    python scripts/label_models.py --filter open_clip --limit 20 --graph DIR --to hf://datasets/ORG/LABELS
    python scripts/label_models.py --paper-models --engine ray --graph hf://datasets/ORG/GRAPH --to hf://datasets/ORG/LABELS
    python scripts/label_models.py --paper-models --engine hf-jobs --graph hf://datasets/ORG/GRAPH@REVISION
    hf jobs uv run scripts/label_models.py --paper-models --graph hf://datasets/ORG/GRAPH --to hf://datasets/ORG/LABELS

Engines: `local` uses all GPUs of this machine; `ray` spreads pieces of the models over a cluster; `hf-jobs` starts one
job per model, each with the same pinned graph, and returns. The label is the same whatever measured it. The last
example runs all models in one job; there the table above asks for the machine and passes your token on.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.cli.options import BATCH_HELP, DEVICE_HELP, FULL_SAMPLE, SAMPLE_HELP, positive, script_parser
from mll_hf.cli.output import recall_text
from mll_hf.errors import InputError, MLLError
from mll_hf.graph.probes import SamplingConfig
from mll_hf.hub.locations import fetch_graph_with_images, pinned
from mll_hf.hub.sources import open_source
from mll_hf.labeling import fleet
from mll_hf.labeling.engines import LocalEngine, open_local
from mll_hf.labeling.engines.cluster import RayEngine
from mll_hf.labeling.fleet import CollectionRepo, Destination, Fleet, Jobs, ModelFilter, ModelResult, Outcome, OwnRepos
from mll_hf.labels.store import LabelStore
from mll_hf.utils.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mll_hf.labeling.engines import Engine

_OPTIONS_OF = {
    "device": "local",
    **dict.fromkeys(("ray-address", "gpus-per-worker", "cpus-per-worker"), "ray"),
    **dict.fromkeys(("job-flavor", "job-timeout", "job-namespace", "job-script"), "hf-jobs"),
}
_NOT_FOR_JOBS = {
    "labels": "names a folder that a job cannot see",
    "free-cache": "is for machines of yours",
}
_CHOICE = ("models", "filter", "author", "search", "limit", "models_from", "paper_models")
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status (0 all labeled, 1 some failed, 2 misused, 130 interrupted)."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    report = Report(args)
    try:
        check_engine_options(parser, args)
        report.write()  # now rather than after the first model, in case it cannot be written
        (start_jobs if args.engine == "hf-jobs" else label)(args, report)
        status = 1 if report.failed else 0
    except MLLError as error:
        say(f"error: {error}")
        status = 1
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept, and the same command goes on from there")
        status = _INTERRUPTED
    if report.results:
        say(report.text(again=command(parser, args, report.failed)))
    return status


def label(args: argparse.Namespace, report: Report) -> None:
    """Label all models that the arguments name, and enter each into the report."""
    models = chosen_models(args)
    report.total = len(models)
    location = fetch_graph_with_images(args.graph)
    graph = location.graph
    sampling = SamplingConfig(args.sample, args.seed)
    probes = location.probes(sampling)
    packs = tuple(fetch_graph_with_images(pack).attached_to(graph, sampling) for pack in args.pack)
    destination = chosen_destination(args)
    if destination and not args.dry_run:
        fleet.check_login()
    with LocalEngine() if args.dry_run else chosen_engine(args) as engine:
        crew = Fleet(
            base=graph,
            probes=probes,
            store=LabelStore(args.labels or fleet.working_folder(graph, probes, packs)),
            destination=destination,
            engine=engine,
            batch_size=args.batch_size,
            overwrite=args.overwrite,
            free_cache=args.free_cache,
            packs=packs,
            extended=open_source(args.extend) if args.extend else None,
        )
        for result in fleet.run(models, crew, announce(len(models)), dry_run=args.dry_run):
            report.add(result)


def start_jobs(args: argparse.Namespace, report: Report) -> None:
    """Start a job for each model that the arguments name and that is not labeled yet."""
    for option, why in _NOT_FOR_JOBS.items():
        if getattr(args, option.replace("-", "_")):
            raise InputError(f"--{option} {why}; leave it out, or use another engine")
    models, destination = chosen_models(args), chosen_destination(args)
    if destination is None:
        raise InputError("a job's labels are lost if they are not published; leave out --no-push")
    report.total = len(models)
    jobs = Jobs(
        graph=pinned(args.graph),
        sampling=SamplingConfig(args.sample, args.seed),
        destination=destination,
        packs=tuple(pinned(pack) for pack in args.pack),
        options=job_options(args),
        script=args.job_script or str(Path(__file__).resolve()),
        flavor=args.job_flavor,
        timeout=args.job_timeout,
        namespace=args.job_namespace,
        overwrite=args.overwrite,
    )
    if not args.dry_run:
        fleet.check_login()
    for result in fleet.start_jobs(models, jobs, announce(len(models)), dry_run=args.dry_run):
        report.add(result)


def job_options(args: argparse.Namespace) -> tuple[str, ...]:
    """The arguments that a job gets besides its model, graph and packs."""
    options = ["--sample", str(args.sample), "--seed", str(args.seed)]
    for name in ("to", "extend", "batch_size"):
        if value := getattr(args, name):
            options += [f"--{name.replace('_', '-')}", str(value)]
    return (*options, *(f"--{name}" for name in ("pr", "private", "overwrite") if getattr(args, name)))


def check_engine_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options that are another engine's."""
    for option, engine in _OPTIONS_OF.items():
        name = option.replace("-", "_")
        if args.engine != engine and getattr(args, name) != parser.get_default(name):
            raise InputError(f"--{option} is for --engine {engine}; leave it out, or choose that engine")


def chosen_engine(args: argparse.Namespace) -> Engine:
    """Where the arguments want models run."""
    if args.engine == "ray":
        return RayEngine(args.ray_address, args.gpus_per_worker, args.cpus_per_worker)
    return open_local(args.device)


def announce(total: int) -> Callable[[int, str], None]:
    """Says which model is begun."""

    def on_start(number: int, name: str) -> None:
        say(f"[{number}/{total}] {name}")

    return on_start


def chosen_models(args: argparse.Namespace) -> tuple[str, ...]:
    """All models that the arguments name, each once."""
    models = list(args.models)
    if args.paper_models:
        models += fleet.paper_models()
    if args.models_from:
        models += fleet.read_models(args.models_from)
    if args.filter or args.author or args.search:
        models += fleet.list_models(ModelFilter(tuple(args.filter or ()), args.author, args.search, args.limit))
    elif args.limit:
        raise InputError("--limit belongs to a filter; add --filter, --author or --search")
    if not models:
        raise InputError("no models; name some, or give --filter, --author, --search, --models-from or --paper-models")
    return tuple(dict.fromkeys(models))


def chosen_destination(args: argparse.Namespace) -> Destination | None:
    """Where the arguments want labels published."""
    if args.no_push and (args.to or args.pr):
        raise InputError("--no-push publishes nothing; leave it out, or leave out --to and --pr")
    if args.private and not args.to:
        raise InputError("--private is for a new collection; add --to hf://datasets/ORG/NAME")
    if args.no_push:
        return None
    return CollectionRepo(args.to, args.pr, args.private) if args.to else OwnRepos(args.pr)


# --- what is said -----------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What became of the models so far.

    Attributes:
        args: The arguments of the run.
        total: How many models there are.
        results: One for each model tried.
    """

    args: argparse.Namespace
    total: int = 0
    results: list[ModelResult] = field(default_factory=list)

    def add(self, result: ModelResult) -> None:
        """Enter a result and print it; the report's file, if one is wanted, is brought up to date."""
        self.results.append(result)
        print(json.dumps(record(result)) if self.args.json else line(result), flush=True)
        self.write()

    def write(self) -> None:
        """Bring the report's file up to date, if one is wanted.

        Raises:
            StorageError: It cannot be written.
        """
        if self.args.report:
            records = [record(result) for result in self.results]
            write_atomically(self.args.report, (json.dumps(records, indent=1) + "\n").encode())

    @property
    def failed(self) -> list[str]:
        """Names of the models that failed."""
        return [result.name for result in self.results if result.outcome is Outcome.FAILED]

    def text(self, again: str) -> str:
        """Counts, reasons, and how to run again for what failed."""
        counts = Counter(result.outcome for result in self.results)
        parts = [f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]]
        left = self.total - len(self.results)
        lines = [", ".join([*parts, *([f"{left} not tried"] if left else [])])]
        lines += [f"  {result.reason}" for result in self.results if result.outcome is Outcome.FAILED]
        return "\n".join([*lines, *([f"again for what failed: {again}"] if self.failed else [])])


def record(result: ModelResult) -> dict[str, Any]:
    """A result as JSON; a list of them is a hub file for --models-from."""
    label, published = result.label, result.published
    return {
        "model": result.name,
        "outcome": result.outcome,
        "reason": result.reason,
        "ref": asdict(result.model) if result.model else None,
        "precision": label.mean_precision if label else None,
        "precision_margin": label.mean_precision_margin if label else None,
        "path": str(result.path) if result.path else None,
        "published": asdict(published) if published else None,
        "undecodable": result.undecodable,
        "job": result.job,
    }


def line(result: ModelResult) -> str:
    """A result for people."""
    text = f"{result.outcome}: {result.name}"
    if result.label:
        text += f" (mean recall {recall_text(result.label)})"
    if result.published or result.job:
        text += f" {result.published.url if result.published else result.job}"
    if result.undecodable:
        text += f"; {result.undecodable} probe images could not be decoded and do not count"
    return text if result.outcome is Outcome.FAILED or not result.reason else f"{text} ({result.reason})"


def command(parser: argparse.ArgumentParser, args: argparse.Namespace, models: Sequence[str]) -> str:
    """This command for other models."""
    parts = ["python", sys.argv[0], *models]
    for name, value in vars(args).items():
        if name not in _CHOICE and value != parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            for each in value if isinstance(value, list) else [value]:
                parts += [option] if each is True else [option, str(each)]
    return shlex.join(parts)


def say(message: str) -> None:
    """Tell the user something that is no result."""
    print(message, file=sys.stderr, flush=True)


# --- the arguments ----------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """The parser of the script's arguments."""
    parser = script_parser(str(__doc__))
    choice = parser.add_argument_group("which models")
    choice.add_argument("models", nargs="*", metavar="MODEL", help="org/name[@revision] on the Hub")
    choice.add_argument("--filter", action="append", metavar="TAG", help="all models with this tag; may be repeated")
    choice.add_argument("--author", metavar="NAME", help="all models of a user or organization")
    choice.add_argument("--search", metavar="TEXT", help="all models with this text in their id")
    choice.add_argument("--limit", type=positive, metavar="N", help="only the N most downloaded that fit the filter")
    choice.add_argument("--models-from", type=Path, metavar="FILE", help="text with one model per line, CSV or JSON")
    choice.add_argument("--paper-models", action="store_true", help="the models of the paper")
    measure = parser.add_argument_group("how they are measured")
    measure.add_argument("--graph", required=True, metavar="WHERE", help="folder, or hf://datasets/ORG/GRAPH[@rev]")
    measure.add_argument(
        "--pack",
        action="append",
        default=[],
        metavar="WHERE",
        help="a pack to measure, too; may be repeated",
    )
    measure.add_argument(
        "--extend", metavar="SOURCE", help="labels without packs, or with fewer; only what they lack is measured"
    )
    measure.add_argument("--sample", type=positive, default=FULL_SAMPLE, metavar="N", help=SAMPLE_HELP)
    measure.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample of images (default: 0)")
    measure.add_argument("--batch-size", type=positive, metavar="N", help=BATCH_HELP)
    measure.add_argument("--overwrite", action="store_true", help="measure again what is labeled already")
    measure.add_argument(
        "--labels", type=Path, metavar="DIR", help="working folder (default: in the cache of Hugging Face)"
    )
    measure.add_argument(
        "--free-cache",
        action="store_true",
        help="when a model is done, delete what this run fetched to this machine",
    )
    where = parser.add_argument_group("where they run")
    where.add_argument("--engine", choices=["local", "ray", "hf-jobs"], default="local", help="(default: local)")
    where.add_argument("--device", metavar="NAME", help=f"local: {DEVICE_HELP}")
    where.add_argument(
        "--ray-address", metavar="ADDRESS", help="of the cluster (default: $RAY_ADDRESS, or Ray on this machine)"
    )
    where.add_argument(
        "--gpus-per-worker", type=_share, metavar="N", help="ray: may be a fraction (default: 1 if there are any)"
    )
    where.add_argument("--cpus-per-worker", type=_share, metavar="N", help="ray: (default: 1, or those per GPU)")
    where.add_argument("--job-flavor", default="t4-small", metavar="NAME", help="hf-jobs: hardware (default: t4-small)")
    where.add_argument("--job-timeout", default="6h", metavar="TIME", help="hf-jobs: longest time (default: 6h)")
    where.add_argument("--job-namespace", metavar="NAME", help="hf-jobs: who pays (default: you)")
    where.add_argument("--job-script", metavar="URL", help="hf-jobs: this script's URL (default: this file is sent)")
    publish = parser.add_argument_group("where labels are published (default: each model's own repo)")
    publish.add_argument("--to", metavar="WHERE", help="a collection of labels: hf://datasets/ORG/LABELS")
    publish.add_argument("--pr", action="store_true", help="open pull requests even where you may write")
    publish.add_argument("--private", action="store_true", help="make a new collection private")
    publish.add_argument("--no-push", action="store_true", help="publish nothing; labels stay in the working folder")
    output = parser.add_argument_group("what is said")
    output.add_argument("--dry-run", action="store_true", help="only say what would be done")
    output.add_argument("--json", action="store_true", help="print one JSON line per model")
    output.add_argument("--report", type=Path, metavar="FILE", help="write the report as JSON; --models-from reads it")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
