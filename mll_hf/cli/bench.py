"""The verb that compares methods: bench, bench embed, bench fidelity, bench published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.cli.options import add_source, open_source_of, positive
from mll_hf.cli.output import note
from mll_hf.cli.report import table
from mll_hf.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import argparse

    from mll_hf.bench.report import BenchReport
    from mll_hf.bench.run import Results
    from mll_hf.bench.suites import TargetTask
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.matching.concept_index import ConceptIndex

_MOST_IMAGES = 1000
_SAMPLE_SIZES = (1, 2, 4, 8, 16, 32)
_TASKS_HELP = "a folder of tasks, a task, an image folder, or hf://datasets/ORG/NAME[@REVISION]"


def add_bench(verbs: Any) -> None:  # noqa: ANN401 - argparse keeps the type private
    """Add the verb ``bench`` with its own verbs."""
    verb = verbs.add_parser(
        "bench",
        help="compare ways to choose and combine models on tasks with known answers",
        description="Run every method on every task, with few images, on parts of the hub and under stress, and write "
        "tables and figures. Embeddings and results are kept: an interrupted run goes on where it stopped, and a "
        "second one computes what is new.",
    )
    _add_inputs(verb)
    verb.add_argument("--out", type=Path, default=Path("benchmark"), metavar="DIR", help="(default: %(default)s)")
    verb.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these methods or groups of them",
    )
    verb.add_argument("--draws", type=positive, default=5, metavar="N", help="of all that is random (default: 5)")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws (default: 0)")
    verb.add_argument("--json", action="store_true", help="print the whole report as one JSON object")
    verb.set_defaults(run=_bench)
    actions = verb.add_subparsers(title="commands", metavar="COMMAND")
    text = "only compute the embeddings, of the graph's images too if --graph is given"
    embed = actions.add_parser("embed", help=text, description=f"{text[0].upper()}{text[1:]}. Resumable.")
    _add_models(embed)
    embed.set_defaults(run=_embed)
    text = "what small labels lose against all similarities, and with fewer images per concept"
    fidelity = actions.add_parser(
        "fidelity",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Labels are counted again from cached embeddings.",
    )
    _add_models(fidelity)
    fidelity.add_argument("--out", type=Path, default=Path("benchmark"), metavar="DIR", help="(default: %(default)s)")
    fidelity.set_defaults(run=_fidelity)
    text = "compute figures of LOVM and open_clip from their published tables, as a check"
    published = actions.add_parser("published", help=text, description=f"{text[0].upper()}{text[1:]}.")
    published.add_argument(
        "--tables",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with lovm_eval_table.csv, lovm_features.csv and openclip_results.csv",
    )
    published.add_argument("--seed", type=int, default=0, metavar="N", help="of random hubs (default: 0)")
    published.set_defaults(run=_published)


def _add_models(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="org/name[@revision] or local-dir:PATH (default: all labeled ones)",
    )
    _add_inputs(verb)
    verb.add_argument(
        "--images-per-concept", type=positive, default=75, metavar="N", help="most images per concept (default: 75)"
    )


def _add_inputs(verb: argparse.ArgumentParser) -> None:
    add_source(verb)
    verb.add_argument("--tasks", nargs="+", metavar="LOCATION", help=_TASKS_HELP)
    verb.add_argument("--general", metavar="LOCATION", help="a task to choose a model by, as many do by ImageNet")
    verb.add_argument(
        "--most-images",
        type=positive,
        default=_MOST_IMAGES,
        metavar="N",
        help="most images of a task; a seeded sample of them (default: %(default)s)",
    )
    verb.add_argument(
        "--prompts",
        choices=["plain", "auto"],
        default="plain",
        help="'a photo of a {}.' for all tasks, or templates by domain and task (default: %(default)s)",
    )
    verb.add_argument(
        "--cache",
        type=Path,
        default=Path("bench-cache"),
        metavar="DIR",
        help="for embeddings (default: %(default)s)",
    )
    verb.add_argument("--device", metavar="NAME", help="cuda, mps or cpu (default: the best that is there)")


def _bench(args: argparse.Namespace) -> int:
    from mll_hf.bench.cache import EmbeddingCache
    from mll_hf.bench.methods import methods_named
    from mll_hf.bench.report import make_report, report_to_json
    from mll_hf.bench.run import BenchConfig, Suite, embed, run
    from mll_hf.bench.world import read_hub

    config = BenchConfig(args.draws, args.seed, _templates(args), methods_named(args.methods))
    targets, general = _tasks(args)
    suite = Suite(read_hub(open_source_of(args)), targets, general)
    index, cache = _index(suite.hub.graph), EmbeddingCache(args.cache)
    embed(suite.hub.refs, _all(targets, general), index, cache, config.templates, device=args.device)
    results = run(suite, index, cache, args.out / "results", config)
    report = make_report(results, args.command)
    _write(results, report, args.out)
    print(report_to_json(report) if args.json else _summary(report), end="" if args.json else "\n")
    return 0


def _embed(args: argparse.Namespace) -> int:
    from mll_hf.bench.cache import EmbeddingCache
    from mll_hf.bench.run import embed
    from mll_hf.graph.probes import SamplingConfig
    from mll_hf.hub.locations import HUB, fetch_graph_with_images
    from mll_hf.hub.sources import open_source
    from mll_hf.models import resolve_model

    targets, general = _tasks(args)
    location = fetch_graph_with_images(args.graph) if args.graph else None
    probes = location.probes(SamplingConfig(args.images_per_concept)) if location else None
    refs = [resolve_model(spec) for spec in args.models]
    if not (refs and location):
        # Here --graph also names the images to embed, whatever the source
        source = open_source(args.labels, args.graph if args.labels == HUB else None)
        refs = refs or [label.model for label in source.list()]
    index = _index(location.graph if location else source.graph)
    embed(
        refs,
        _all(targets, general),
        index,
        EmbeddingCache(args.cache),
        _templates(args),
        probes=probes,
        device=args.device,
    )
    print(f"embedded: {len(refs)} models in {args.cache}")
    return 0


def _fidelity(args: argparse.Namespace) -> int:
    from mll_hf.bench.cache import EmbeddingCache
    from mll_hf.bench.fidelity import (
        LabeledHub,
        estimates_against_exact,
        fidelity_to_json,
        fidelity_to_markdown,
        quality_of_samples,
        read_known_task,
    )
    from mll_hf.bench.run import embed
    from mll_hf.graph.probes import SamplingConfig
    from mll_hf.hub.locations import fetch_graph_with_images
    from mll_hf.hub.sources import open_source
    from mll_hf.models import resolve_model
    from mll_hf.plots.benchmark import save_fidelity
    from mll_hf.utils.files import canonical_json, write_atomically

    if not args.graph:
        raise InputError("name the graph whose images the labels are counted on: --graph DIR")
    targets, _ = _tasks(args)
    location = fetch_graph_with_images(args.graph)
    graph, probes = location.graph, location.probes(SamplingConfig(args.images_per_concept))
    refs = tuple(resolve_model(spec) for spec in args.models) or tuple(
        label.model for label in open_source(args.labels).list()
    )
    index, cache, templates = _index(graph), EmbeddingCache(args.cache), _templates(args)
    embed(refs, targets, index, cache, templates, probes=probes, device=args.device)
    hub = LabeledHub(refs, graph, probes, cache)
    tasks = [read_known_task(hub, task, index, templates) for task in targets]
    fewer = [most for most in _SAMPLE_SIZES if most < int(np.diff(probes.offsets).max())]
    samples = {most: location.probes(SamplingConfig(most)) for most in fewer}
    estimates = estimates_against_exact(hub, hub.labels(probes), tasks)
    qualities = quality_of_samples(hub, {**samples, args.images_per_concept: probes}, tasks)
    text = fidelity_to_markdown(estimates, qualities, args.command)
    write_atomically(args.out / "fidelity.json", canonical_json(fidelity_to_json(estimates, qualities)).encode())
    write_atomically(args.out / "fidelity.md", text.encode())
    try:
        save_fidelity(qualities, args.out)
    except MissingExtraError as error:
        note(f"no figure: {error}")
    print(text, end="")
    return 0


def _published(args: argparse.Namespace) -> int:
    from mll_hf.bench.published import published_report, report_to_markdown

    print(report_to_markdown(published_report(args.tables, args.seed)), end="")
    return 0


def _templates(args: argparse.Namespace) -> tuple[str, ...] | None:
    from mll_hf.matching.prompts import DEFAULT_TEMPLATE

    return (DEFAULT_TEMPLATE,) if args.prompts == "plain" else None


def _tasks(args: argparse.Namespace) -> tuple[tuple[TargetTask, ...], TargetTask | None]:
    """The target tasks and the general benchmark."""
    from mll_hf.bench.hub_tasks import load_tasks
    from mll_hf.bench.suites import ImageCap

    if not args.tasks:
        raise InputError(f"name the target tasks with --tasks: {_TASKS_HELP}")
    cap = ImageCap(args.most_images)
    targets = tuple(task for location in args.tasks for task in load_tasks(location, cap))
    if args.general is None:
        return targets, None
    general = load_tasks(args.general, cap)
    if len(general) != 1:
        raise InputError(f"{args.general} holds {len(general)} tasks; give one of them as --general")
    return targets, general[0]


def _all(targets: tuple[TargetTask, ...], general: TargetTask | None) -> tuple[TargetTask, ...]:
    return targets if general is None else (*targets, general)


def _index(graph: SemanticGraph) -> ConceptIndex:
    from mll_hf.matching.concept_index import ConceptIndex
    from mll_hf.matching.text_encoder import CachedEncoder, default_encoder

    return ConceptIndex.build(graph, CachedEncoder(default_encoder()))


def _write(results: Results, report: BenchReport, folder: Path) -> None:
    from mll_hf.bench.report import report_to_json
    from mll_hf.plots.benchmark import save_figures
    from mll_hf.utils.files import write_atomically

    write_atomically(folder / "benchmark.json", report_to_json(report).encode())
    write_atomically(folder / "benchmark.md", report.to_markdown().encode())
    try:
        figures = save_figures(results, folder)
    except MissingExtraError as error:
        note(f"no figures: {error}")
        figures = ()
    note(f"wrote {folder / 'benchmark.md'}, {folder / 'benchmark.json'} and {len(figures)} figures")


def _summary(report: BenchReport) -> str:
    """Accuracies and gaps, for the terminal."""
    from mll_hf.bench.report import shown

    comparison = next(part for part in report.tables if part.name == "comparison")
    wanted = [comparison.columns.index(name) for name in ("method", "accuracy", "gap closed")]
    rows = [[shown(row[at]) for at in wanted] for row in comparison.rows]
    return table([comparison.columns[at] for at in wanted], rows)
