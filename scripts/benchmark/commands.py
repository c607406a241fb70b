"""The parts of ``scripts/run_benchmark.py`` that compare methods: ``tasks``, ``fidelity`` and ``published``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.cli.options import add_source, natural, open_source_of, positive
from mll_hf.cli.output import note
from mll_hf.errors import InputError, MissingExtraError
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    import argparse

    from benchmark.suites import TargetTask
    from benchmark.tables import Report
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.matching.concept_index import ConceptIndex

_MAX_IMAGES = 1000
_SAMPLE_SIZES = (1, 2, 4, 8, 16, 32)
_PROMPT_SETS = ["simple", "class", "ensemble"]
_TASKS_HELP = "a folder of tasks, a task, an image folder, or hf://datasets/ORG/NAME[@REVISION]"


def add_tasks(command: argparse.ArgumentParser) -> None:
    """Arguments of the part ``tasks``. Embeddings of images and texts are cached, so a later run loads no model."""
    _add_inputs(command)
    command.add_argument(
        "--general", metavar="LOCATION", help="task by which the baseline chooses a model, such as ImageNet"
    )
    command.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="methods or groups (default: all)")
    _add_draws(command, 5)
    command.add_argument("--json", action="store_true", help="print the whole report as one JSON object")
    command.set_defaults(run=_bench)


def add_fidelity(command: argparse.ArgumentParser) -> None:
    """Arguments of the part ``fidelity``."""
    command.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="org/name[@revision] or local-dir:PATH (default: all labeled models)",
    )
    _add_inputs(command)
    command.add_argument(
        "--images-per-concept", type=positive, default=75, metavar="N", help="maximum images per concept (default: 75)"
    )
    command.set_defaults(run=_fidelity)


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


def _add_inputs(command: argparse.ArgumentParser) -> None:
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


def _bench(args: argparse.Namespace) -> int:
    from benchmark.cache import EmbeddingCache
    from benchmark.figures import save_figures
    from benchmark.methods import methods_named
    from benchmark.report import make_report
    from benchmark.run import BenchConfig, Suite, embed, run
    from benchmark.suites import load_tasks
    from benchmark.world import read_hub

    config = BenchConfig(args.draws, args.seed, methods_named(args.methods))
    general = load_tasks(args.general, args.most_images) if args.general else ()
    if len(general) > 1:
        raise InputError(f"{args.general} has {len(general)} tasks; give one of them as --general")
    suite = Suite(read_hub(open_source_of(args)), _tasks(args), *general)
    index, cache = _index(suite.hub.graph), EmbeddingCache(args.cache)
    embed(suite.hub.refs, (*suite.tasks, *general), index, cache, device=args.device)
    results = run(suite, index, cache, config)
    report = make_report(results, args.command)
    report.save(args.out, "benchmark")
    try:
        save_figures(results, args.out)
    except MissingExtraError as error:
        note(f"no figures: {error}")
    note(f"wrote {args.out / 'benchmark.md'} and {args.out / 'benchmark.json'}")
    print(report.to_json() if args.json else _summary(report), end="" if args.json else "\n")
    return 0


def _fidelity(args: argparse.Namespace) -> int:
    from benchmark import fidelity
    from benchmark.cache import EmbeddingCache
    from benchmark.run import embed
    from mll_hf.graph.probes import SamplingConfig
    from mll_hf.hub.locations import fetch_graph_with_images
    from mll_hf.hub.sources import open_labels
    from mll_hf.models import resolve_model

    if not args.graph:
        raise InputError("labels are counted on the probe images of a graph; name it with --graph DIR")
    targets = _tasks(args)
    location = fetch_graph_with_images(args.graph)
    graph, probes = location.graph, location.probes(SamplingConfig(args.images_per_concept))
    models = [resolve_model(spec) for spec in args.models]
    labeled = models or [label.model for label in open_labels(args.labels).labels()]
    refs = tuple(dict.fromkeys(labeled))  # a model may have labels on several graphs
    index, cache = _index(graph), EmbeddingCache(args.cache)
    embed(refs, targets, index, cache, probes=probes, device=args.device)
    hub = fidelity.LabeledHub(refs, graph, probes, cache)
    tasks = [fidelity.read_known_task(hub, task, index) for task in targets]
    fewer = [limit for limit in _SAMPLE_SIZES if limit < int(np.diff(probes.offsets).max())]
    samples = {limit: location.probes(SamplingConfig(limit)) for limit in fewer}
    report = fidelity.fidelity_report(hub, {**samples, args.images_per_concept: probes}, tasks, args.command)
    report.save(args.out, "fidelity")
    print(report.to_markdown(), end="")
    return 0


def _published(args: argparse.Namespace) -> int:
    from benchmark import real
    from mll_hf.models.known import class_recalls
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
    from mll_hf.matching.text_encoder import CachedEncoder, default_encoder

    return ConceptIndex.build(graph, CachedEncoder(default_encoder(), exact=True))


def _summary(report: Report) -> str:
    """Accuracy and gap closed of each method, for the terminal."""
    from benchmark.tables import shown

    columns = ("method", "accuracy", "gap closed")
    comparison = next(part for part in report.tables if part.name == "comparison")
    return table(columns, [[shown(row[column]) for column in columns] for row in comparison.rows])
