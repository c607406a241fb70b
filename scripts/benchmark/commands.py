"""The parts of ``scripts/run_benchmark.py`` that compare methods: ``tasks`` and ``published``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.cli.options import add_source, natural, positive
from mll_hf.cli.output import note
from mll_hf.errors import InputError
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    import argparse

    from benchmark.suites import TargetTask
    from benchmark.tables import Report
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.matching.concept_index import ConceptIndex

_MAX_IMAGES = 1000
_PROMPT_SETS = ["simple", "class", "ensemble"]
_TASKS_HELP = "a folder of tasks, or a task"


def add_tasks(command: argparse.ArgumentParser) -> None:
    """Arguments of the part ``tasks``. Embeddings of images and texts are cached, so a later run loads no model."""
    add_source(command)
    command.add_argument("--tasks", nargs="+", metavar="LOCATION", help=_TASKS_HELP)
    command.add_argument(
        "--most-images",
        type=positive,
        default=_MAX_IMAGES,
        metavar="N",
        help="maximum images per task, drawn at random (default: %(default)s)",
    )
    command.add_argument(
        "--cache",
        type=Path,
        default=Path("bench-cache"),
        metavar="DIR",
        help="folder of cached embeddings (default: %(default)s)",
    )
    command.add_argument("--device", metavar="NAME", help="cuda, mps or cpu (default: best available device)")
    _add_out(command)
    command.add_argument(
        "--general", metavar="LOCATION", help="task by which the baseline chooses a model, such as ImageNet"
    )
    command.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="methods or groups (default: all)")
    _add_draws(command, 5)
    command.add_argument("--json", action="store_true", help="print the whole report as one JSON object")
    command.set_defaults(run=_bench)


def add_published(command: argparse.ArgumentParser) -> None:
    """Arguments of the part ``published``."""
    command.add_argument(
        "--prompts",
        nargs="+",
        choices=_PROMPT_SETS,
        default=_PROMPT_SETS,
        help="prompt sets of the published figures (default: all three)",
    )
    _add_draws(command, 20)
    _add_out(command)
    command.set_defaults(run=_published)


def _add_out(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out", type=Path, default=Path("benchmark"), metavar="DIR", help="output folder (default: %(default)s)"
    )


def _add_draws(command: argparse.ArgumentParser, draws: int) -> None:
    text = "draws of random scenarios (default: %(default)s)"
    command.add_argument("--draws", type=positive, default=draws, metavar="N", help=text)
    command.add_argument("--seed", type=natural, default=0, metavar="N", help="seed of all draws (default: 0)")


def _bench(args: argparse.Namespace) -> int:
    from benchmark.cache import EmbeddingCache
    from benchmark.methods import methods_named
    from benchmark.report import make_report
    from benchmark.run import BenchConfig, Suite, run
    from benchmark.suites import load_tasks
    from benchmark.world import flat, prompts_of, read_hub
    from mll_hf.models.published import open_labels, split_location

    config = BenchConfig(args.draws, args.seed, methods_named(args.methods))
    general = load_tasks(args.general, args.most_images) if args.general else ()
    if len(general) > 1:
        raise InputError(f"{args.general} has {len(general)} tasks; give one of them as --general")
    suite = Suite(read_hub(open_labels(split_location(args.labels)[0], args.graph)), _tasks(args), *general)
    index, cache = _index(suite.hub.graph), EmbeddingCache(args.cache)
    tasks = (*suite.tasks, *general)
    cache.fill(suite.hub.refs, tasks, [flat(prompts_of(task)) for task in tasks], args.device)
    results = run(suite, index, cache, config)
    report = make_report(results, args.command)
    report.save(args.out, "benchmark")
    note(f"wrote {args.out / 'benchmark.md'} and {args.out / 'benchmark.json'}")
    print(report.to_json() if args.json else _summary(report), end="" if args.json else "\n")
    return 0


def _published(args: argparse.Namespace) -> int:
    from benchmark import real
    from known_models.figures import class_recalls
    from mll_hf.models.published import published_graph

    index = _index(published_graph())
    worlds = [real.real_world(class_recalls(), index, prompts) for prompts in args.prompts]
    results = [real.run_real(world, args.draws, args.seed, note) for world in worlds]
    facts = {"command": args.command, "graph": index.graph.digest}
    report = real.real_report(results, facts)
    report.save(args.out, "published")
    note(f"wrote {args.out / 'published.md'} and {args.out / 'published.json'}")
    print("\n".join(table.to_markdown() for table in report.tables[: len(worlds)]), end="")
    return 0


def _tasks(args: argparse.Namespace) -> tuple[TargetTask, ...]:
    from benchmark.suites import load_tasks

    if not args.tasks:
        raise InputError(f"there are no target tasks; name them with --tasks: {_TASKS_HELP}")
    return tuple(task for location in args.tasks for task in load_tasks(location, args.most_images))


def _index(graph: SemanticGraph) -> ConceptIndex:
    from mll_hf.matching.concept_index import ConceptIndex
    from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder

    return ConceptIndex.build(graph, CachedEncoder(DefaultEncoder(), exact=True))


def _summary(report: Report) -> str:
    """Accuracy and gap closed of each method, for the terminal."""
    from benchmark.tables import shown

    columns = ("method", "accuracy", "gap closed")
    comparison = next(part for part in report.tables if part.name == "comparison")
    return table(columns, [[shown(row[column]) for column in columns] for row in comparison.rows])
