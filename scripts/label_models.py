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

Name models, or list them with a search of the Hub or a file. Labeled models are skipped before anything is downloaded;
a model that fails does not stop the others; the same command resumes an interrupted run.

    python scripts/label_models.py --paper-models --graph hf://datasets/ORG/GRAPH --to hf://datasets/ORG/LABELS
    python scripts/label_models.py --filter open_clip --limit 20 --graph DIR --to hf://datasets/ORG/LABELS --engine ray
    python scripts/label_models.py --author ORG --engine hf-jobs --graph hf://datasets/ORG/GRAPH --to hf://datasets/ORG/LABELS
    python scripts/label_models.py ORG/MODEL --graph hf://datasets/ORG/GRAPH        # into the model's own repo
    hf jobs uv run --with "mll-hf[models] @ $MLL_HF_PACKAGE" scripts/label_models.py --paper-models --graph ... --to ...

Engines: `local` uses this machine (with several GPUs through Ray), `ray` a Ray cluster; `hf-jobs` starts one job per
model, all with the same pinned graph, and returns. Labels do not depend on the engine. The last example runs all models
in one job; the header of this file requests its hardware and passes your token on. It does not name this package, which
is on no package registry: jobs install $MLL_HF_PACKAGE (a URL, a wheel or a name), or else the newest wheel in dist/.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shlex
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("mll_hf") is None:  # in a job without it
    sys.exit("error: mll_hf is neither installed nor on a package registry; start with --with 'mll-hf[models] @ URL'")

from mll_hf.cli.label import add_pull_requests, check_owners
from mll_hf.cli.options import BATCH_HELP, DEVICE_HELP, FULL_SAMPLE, GRAPH_HELP, SAMPLE_HELP, positive, script_parser
from mll_hf.cli.output import discard_stdout, recall_text
from mll_hf.errors import InputError, MLLError, ModelError
from mll_hf.graph.probes import SamplingConfig
from mll_hf.hub.locations import fetch_graph_with_images, parse_dataset, pinned
from mll_hf.labeling.destinations import CollectionRepo, Destination, OwnRepos
from mll_hf.labeling.engines import LocalEngine
from mll_hf.labeling.fleet import Fleet, ModelResult, Outcome, for_each, label_one, working_folder
from mll_hf.labeling.jobs import Jobs, start_job
from mll_hf.labeling.listing import list_models, read_models
from mll_hf.labeling.ray_engine import RayEngine
from mll_hf.labeling.run import open_engine
from mll_hf.labeling.webhook import read_event
from mll_hf.labels.store import LabelStore
from mll_hf.models import resolve_model
from mll_hf.models.known import best_paper_models
from mll_hf.utils.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mll_hf.labeling.run import Engine

_OPTIONS_OF = {
    "device": "local",
    **dict.fromkeys(("ray-address", "gpus-per-worker"), "ray"),
    **dict.fromkeys(("job-flavor", "job-timeout", "job-namespace", "job-script"), "hf-jobs"),
}
_NOT_FOR_JOBS = {
    "labels": "is a local folder, which a job cannot read",
    "free-cache": "applies to your own machines only",
}
_CHOICE = ("models", "filter", "author", "search", "limit", "models_from", "paper_models")
_SETTLE_SECONDS = 60.0  # uploads come in several commits
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status (0 all labeled, 1 some failed, 2 wrong usage, 130 interrupted)."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    report = Report(args)
    try:
        check_engine_options(parser, args)
        report.write()  # fails early if it cannot be written
        if args.webhook and (reason := take_event(args)):
            say(f"ignored: {reason}")
            return 0
        (start_jobs if args.engine == "hf-jobs" else label)(args, report)
        status = 1 if report.failed else 0
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
    if report.results:
        say(report.text(retry=command(parser, args, report.failed)))
    return status


def label(args: argparse.Namespace, report: Report) -> None:
    """Label the chosen models."""
    models = chosen_models(args)
    location, destination = fetch_graph_with_images(args.graph), chosen_destination(args)
    probes = location.probes(SamplingConfig(args.sample))
    check_destination(destination, models, args)
    with chosen_engine(args) as engine:
        fleet = Fleet(
            graph=location.graph,
            probes=probes,
            store=LabelStore(args.labels or working_folder(location.graph, probes)),
            destination=destination,
            engine=engine,
            batch_size=args.batch_size,
            overwrite=args.overwrite,
            free_cache=args.free_cache,
        )
        report.run(models, partial(label_one, fleet=fleet, dry_run=args.dry_run))


def start_jobs(args: argparse.Namespace, report: Report) -> None:
    """Start jobs for the chosen models."""
    for option, why in _NOT_FOR_JOBS.items():
        if getattr(args, option.replace("-", "_")):
            raise InputError(f"--{option} {why}; leave it out, or use another engine")
    models, destination = chosen_models(args), chosen_destination(args)
    if destination is None:
        raise InputError("a job must publish its label, or it is lost; remove --no-push")
    jobs = Jobs(
        graph=pinned(args.graph),
        sampling=SamplingConfig(args.sample),
        destination=destination,
        options=job_options(args),
        script=args.job_script or str(Path(__file__).resolve()),
        flavor=args.job_flavor,
        timeout=args.job_timeout,
        namespace=args.job_namespace,
        overwrite=args.overwrite,
    )
    check_destination(destination, models, args)
    report.run(models, partial(start_job, jobs=jobs, dry_run=args.dry_run))


def job_options(args: argparse.Namespace) -> tuple[str, ...]:
    """Arguments of a job other than its model and graph."""
    options = ["--sample", str(args.sample)]
    for name in ("to", "batch_size"):
        if value := getattr(args, name):
            options += [f"--{name.replace('_', '-')}", str(value)]
    return (*options, *(f"--{name}" for name in ("pr", "private", "overwrite") if getattr(args, name)))


def check_engine_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options of other engines."""
    for option, engine in _OPTIONS_OF.items():
        name = option.replace("-", "_")
        if args.engine != engine and getattr(args, name) != parser.get_default(name):
            raise InputError(f"--{option} applies to --engine {engine}; leave it out, or choose that engine")


def chosen_engine(args: argparse.Namespace) -> Engine:
    """The engine that the arguments choose."""
    if args.dry_run:
        return LocalEngine()
    return RayEngine(args.ray_address, args.gpus_per_worker) if args.engine == "ray" else open_engine(args.device)


def chosen_models(args: argparse.Namespace) -> tuple[str, ...]:
    """The models that the arguments name, without repetitions."""
    models = list(args.models)
    if args.paper_models:
        models += [model.hub_id for model in best_paper_models()]
    if args.models_from:
        models += read_models(args.models_from)
    if args.filter or args.author or args.search:
        models += list_models(args.filter or (), args.author, args.search, args.limit)
    elif args.limit:
        raise InputError("--limit needs a filter; add --filter, --author or --search")
    if not models:
        raise InputError("no models; name some, or give --filter, --author, --search, --models-from or --paper-models")
    return tuple(dict.fromkeys(models))


def take_event(args: argparse.Namespace) -> str:
    """Choose the model of the webhook event that started this job.

    Returns:
        Why the event needs no label; empty if a model was chosen.
    """
    if any(getattr(args, name) for name in _CHOICE):
        raise InputError("--webhook chooses the model; leave out other models and filters")
    event = os.environ.get("WEBHOOK_PAYLOAD")
    if not event:
        return "no event; only jobs started by a webhook of the Hub have one"
    try:
        change = read_event(json.loads(event))
    except (json.JSONDecodeError, RecursionError):
        raise InputError("WEBHOOK_PAYLOAD is not JSON; start this job with a webhook of the Hub") from None
    if change.ignored:
        return f"{change.repo_id}: {change.ignored}"
    if change.private and args.to:
        return f"{change.repo_id}: private, and labels are published in a collection"
    time.sleep(_SETTLE_SECONDS)
    try:
        model = resolve_model(change.repo_id)
    except ModelError as error:
        return str(error)
    if model.revision != change.commit:
        return f"{change.repo_id}: a newer commit has its own event"
    args.models = [f"{model.repo_id}@{model.revision}"]
    return ""


def chosen_destination(args: argparse.Namespace) -> Destination | None:
    """The destination that the arguments choose."""
    if args.no_push and (args.to or args.pr):
        raise InputError("--no-push publishes nothing; remove it, or remove --to and --pr")
    if args.private and not args.to:
        raise InputError("--private applies to a new collection; add --to hf://datasets/ORG/NAME")
    if args.no_push:
        return None
    return CollectionRepo(args.to, args.pr, args.private) if args.to else OwnRepos(args.pr)


def check_destination(destination: Destination | None, models: Sequence[str], args: argparse.Namespace) -> None:
    """Check before any work that the user is logged in and may publish there."""
    if isinstance(destination, OwnRepos):
        check_owners(models, args.pr, args.yes or args.dry_run)
    elif destination and not args.dry_run:
        check_owners([parse_dataset(args.to).repo_id], args.pr, args.yes)


# --- output -----------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """The results of a run.

    Attributes:
        args: The arguments.
        total: Number of models.
        results: One result per model so far.
    """

    args: argparse.Namespace
    total: int = 0
    results: list[ModelResult] = field(default_factory=list)

    def run(self, models: Sequence[str], act: Callable[[str], ModelResult]) -> None:
        """Run an action for each model; print and record the results."""
        self.total = len(models)
        for result in for_each(models, act, lambda number, name: say(f"[{number}/{self.total}] {name}")):
            self.results.append(result)
            print(json.dumps(record(result)) if self.args.json else line(result), flush=True)
            self.write()

    def write(self) -> None:
        """Write the report file, if there is one.

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

    def text(self, retry: str) -> str:
        """Counts of outcomes, reasons of failures, and a command that retries failed models."""
        counts = Counter(result.outcome for result in self.results)
        parts = [f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]]
        left = self.total - len(self.results)
        lines = [", ".join([*parts, *([f"{left} not run"] if left else [])])]
        lines += [f"  {result.reason}" for result in self.results if result.outcome is Outcome.FAILED]
        return "\n".join([*lines, *([f"to retry failed models: {retry}"] if self.failed else [])])


def record(result: ModelResult) -> dict[str, Any]:
    """A result as JSON; --models-from reads a list of them."""
    label, published = result.label, result.published
    return {
        "model": result.name,
        "outcome": result.outcome,
        "reason": result.reason,
        "ref": asdict(result.model) if result.model else None,
        "recall": label.mean_recall if label else None,
        "precision_margin": label.mean_recall_margin if label else None,
        "path": str(result.path) if result.path else None,
        "published": asdict(published) if published else None,
        "undecodable": result.undecodable,
        "job": result.job,
    }


def line(result: ModelResult) -> str:
    """A result as text."""
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
        if name not in (*_CHOICE, "webhook") and value != parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            for each in value if isinstance(value, list) else [value]:
                parts += [option] if each is True else [option, str(each)]
    return shlex.join(parts)


def say(message: str) -> None:
    """Print to stderr."""
    print(message, file=sys.stderr, flush=True)


# --- the arguments ----------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the arguments."""
    parser = script_parser(str(__doc__))
    choice = parser.add_argument_group("models")
    choice.add_argument("models", nargs="*", metavar="MODEL", help="org/name[@revision] on the Hub")
    choice.add_argument("--filter", action="append", metavar="TAG", help="all models with this tag; may be repeated")
    choice.add_argument("--author", metavar="NAME", help="all models of a user or organization")
    choice.add_argument("--search", metavar="TEXT", help="all models with this text in their id")
    choice.add_argument("--limit", type=positive, metavar="N", help="only the N most downloaded of these")
    choice.add_argument("--models-from", type=Path, metavar="FILE", help="text with one model per line, CSV or JSON")
    choice.add_argument("--paper-models", action="store_true", help="the models of the paper")
    choice.add_argument(
        "--webhook", action="store_true", help="the model of the webhook event, in a job started by a webhook"
    )
    measure = parser.add_argument_group("measurement")
    measure.add_argument("--graph", required=True, metavar="GRAPH", help=f"graph to measure on: {GRAPH_HELP}")
    measure.add_argument("--sample", type=positive, default=FULL_SAMPLE, metavar="N", help=SAMPLE_HELP)
    measure.add_argument("--batch-size", type=positive, metavar="N", help=BATCH_HELP)
    measure.add_argument("--overwrite", action="store_true", help="measure labeled models again")
    measure.add_argument(
        "--labels", type=Path, metavar="DIR", help="working folder (default: in the cache of Hugging Face)"
    )
    measure.add_argument(
        "--free-cache", action="store_true",
        help="after each model, delete the weights that this run downloaded, and the embeddings of a small --sample",
    )  # fmt: skip
    where = parser.add_argument_group("where they run")
    where.add_argument("--engine", choices=["local", "ray", "hf-jobs"], default="local", help="(default: local)")
    where.add_argument("--device", metavar="NAME", help=f"local: {DEVICE_HELP}")
    where.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="ray: address of the cluster (default: $RAY_ADDRESS, or Ray on this machine)",
    )
    where.add_argument(
        "--gpus-per-worker",
        type=_share,
        metavar="N",
        help="ray: GPUs per worker, may be a fraction (default: 1 if there are any)",
    )
    where.add_argument("--job-flavor", default="t4-small", metavar="NAME", help="hf-jobs: hardware (default: t4-small)")
    where.add_argument("--job-timeout", default="6h", metavar="TIME", help="hf-jobs: maximum run time (default: 6h)")
    where.add_argument("--job-namespace", metavar="NAME", help="hf-jobs: who is billed (default: you)")
    where.add_argument("--job-script", metavar="URL", help="hf-jobs: URL of this script (default: uploads this file)")
    publish = parser.add_argument_group("publication")
    publish.add_argument(
        "--to", metavar="REPO", help="a collection, hf://datasets/ORG/NAME (default: each model's own repo)"
    )
    add_pull_requests(publish)
    publish.add_argument("--private", action="store_true", help="make a new collection private")
    publish.add_argument("--no-push", action="store_true", help="do not publish; labels stay in the working folder")
    output = parser.add_argument_group("output")
    output.add_argument("--dry-run", action="store_true", help="only print what would be done")
    output.add_argument("--json", action="store_true", help="print one JSON line per model")
    output.add_argument("--report", type=Path, metavar="FILE", help="also write the results as a JSON list")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
