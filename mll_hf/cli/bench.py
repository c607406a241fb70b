"""The verb ``bench``, with ``bench embed``, ``bench fidelity``, ``bench published`` and ``bench lovm``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.cli.options import add_source, open_source_of, positive
from mll_hf.cli.output import note
from mll_hf.errors import InputError, MissingExtraError
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from mll_hf.bench.report import BenchReport
    from mll_hf.bench.suites import TargetTask
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.matching.concept_index import ConceptIndex

_MOST_IMAGES = 1000
_SAMPLE_SIZES = (1, 2, 4, 8, 16, 32)
_PROMPT_SETS = ["simple", "class", "ensemble"]
_TASKS_HELP = "a folder of tasks, a task, an image folder, or hf://datasets/ORG/NAME[@REVISION]"


def add_bench(verbs: Any) -> None:  # noqa: ANN401 - argparse keeps the type private
    """Add the verb ``bench`` with its own verbs."""
    verb = verbs.add_parser(
        "bench",
        help="compare methods that choose and combine models, on tasks with known classes",
        description="Run every method on every task, also with few images, on parts of the hub and under stress, and "
        "write tables and figures. Embeddings and results are kept, so that an interrupted run can be resumed and a "
        "later run computes only what is new.",
    )
    _add_inputs(verb)
    _add_out(verb)
    verb.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="methods or groups (default: all)")
    verb.add_argument("--draws", type=positive, default=5, metavar="N", help="of random scenarios (default: 5)")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws (default: 0)")
    verb.add_argument("--json", action="store_true", help="print the whole report as one JSON object")
    verb.set_defaults(run=_bench)
    actions = verb.add_subparsers(title="commands", metavar="COMMAND")
    text = "only compute embeddings, also of the graph's probe images with --graph; resumable"
    embed = _add_action(actions, "embed", text, _embed)
    _add_models(embed)
    text = "measure what labels lose against all similarities, and with fewer images per concept"
    fidelity = _add_action(actions, "fidelity", text, _fidelity)
    _add_models(fidelity)
    _add_out(fidelity)
    text = "choose among real models by labels made from published recall per class"
    published = _add_action(actions, "published", text, _published)
    published.add_argument(
        "--prompts",
        nargs="+",
        choices=_PROMPT_SETS,
        default=_PROMPT_SETS,
        help="sets of prompts that the models answered to (default: all three)",
    )
    published.add_argument("--draws", type=positive, default=20, metavar="N", help="random hubs (default: 20)")
    published.add_argument("--seed", type=int, default=0, metavar="N", help="of random hubs (default: 0)")
    published.add_argument(
        "--lovm", type=Path, metavar="DIR", help="folder with lovm_eval_table.csv and lovm_features.csv, for ModelGPT"
    )
    _add_out(published)
    text = "recompute published figures of LOVM and open_clip, as a check"
    lovm = _add_action(actions, "lovm", text, _lovm)
    lovm.add_argument(
        "--tables",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with lovm_eval_table.csv and lovm_features.csv",
    )
    lovm.add_argument("--seed", type=int, default=0, metavar="N", help="of random hubs (default: 0)")


def _add_action(
    actions: Any,  # noqa: ANN401 - argparse keeps the type private
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    action.set_defaults(run=run)
    return action


def _add_out(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--out", type=Path, default=Path("benchmark"), metavar="DIR", help="(default: %(default)s)")


def _add_models(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="org/name[@revision] or local-dir:PATH (default: all labeled models)",
    )
    _add_inputs(verb)
    verb.add_argument(
        "--images-per-concept", type=positive, default=75, metavar="N", help="most images per concept (default: 75)"
    )


def _add_inputs(verb: argparse.ArgumentParser) -> None:
    add_source(verb)
    verb.add_argument("--tasks", nargs="+", metavar="LOCATION", help=_TASKS_HELP)
    verb.add_argument("--general", metavar="LOCATION", help="general benchmark, such as ImageNet, to choose a model by")
    verb.add_argument(
        "--most-images",
        type=positive,
        default=_MOST_IMAGES,
        metavar="N",
        help="most images per task, drawn at random (default: %(default)s)",
    )
    verb.add_argument(
        "--prompts",
        choices=["plain", "auto"],
        default="plain",
        help="'a photo of a {}.' for all tasks, or templates by domain and task (default: %(default)s)",
    )
    verb.add_argument(
        "--cache", type=Path, default=Path("bench-cache"), metavar="DIR", help="of embeddings (default: %(default)s)"
    )
    verb.add_argument("--device", metavar="NAME", help="cuda, mps or cpu (default: best available)")


def _bench(args: argparse.Namespace) -> int:
    from mll_hf.bench.cache import EmbeddingCache
    from mll_hf.bench.methods import methods_named
    from mll_hf.bench.report import make_report
    from mll_hf.bench.run import BenchConfig, Suite, embed, run
    from mll_hf.bench.world import read_hub
    from mll_hf.plots.benchmark import save_figures
    from mll_hf.utils.files import write_atomically

    config = BenchConfig(args.draws, args.seed, _templates(args), methods_named(args.methods))
    targets, general = _tasks(args)
    suite = Suite(read_hub(open_source_of(args)), targets, general)
    index, cache = _index(suite.hub.graph), EmbeddingCache(args.cache)
    embed(suite.hub.refs, _all(targets, general), index, cache, config.templates, device=args.device)
    results = run(suite, index, cache, args.out / "results", config)
    report = make_report(results, args.command)
    write_atomically(args.out / "benchmark.json", report.to_json().encode())
    write_atomically(args.out / "benchmark.md", report.to_markdown().encode())
    figures = _draw(lambda: save_figures(results, args.out))
    note(f"wrote {args.out / 'benchmark.md'}, {args.out / 'benchmark.json'} and {len(figures)} figures")
    print(report.to_json() if args.json else _summary(report), end="" if args.json else "\n")
    return 0


def _embed(args: argparse.Namespace) -> int:
    from mll_hf.bench.cache import EmbeddingCache
    from mll_hf.bench.run import embed
    from mll_hf.graph.probes import SamplingConfig
    from mll_hf.hub.locations import HUB, fetch_graph_with_images
    from mll_hf.hub.sources import open_source
    from mll_hf.labels.join import join_labels
    from mll_hf.models import resolve_model

    tasks, cache = _all(*_tasks(args)), EmbeddingCache(args.cache)
    location = fetch_graph_with_images(args.graph) if args.graph else None
    probes = location.probes(SamplingConfig(args.images_per_concept)) if location else None
    refs = [resolve_model(spec) for spec in args.models]
    if refs and location:
        graph = location.graph
    else:  # --graph names the images to embed, and for the Hub also the graph of its labels
        source = open_source(args.labels, args.graph if args.labels == HUB else None)
        joined = join_labels(source.list(), source.graphs)
        refs = refs or list(joined.models)
        graph = location.graph if location else joined.union.graph
    index = _index(graph)
    embed(refs, tasks, index, cache, _templates(args), probes=probes, device=args.device)
    print(f"embedded: {len(refs)} models in {args.cache}")
    return 0


def _fidelity(args: argparse.Namespace) -> int:
    from mll_hf.bench import fidelity
    from mll_hf.bench.cache import EmbeddingCache
    from mll_hf.bench.run import embed
    from mll_hf.graph.probes import SamplingConfig
    from mll_hf.hub.locations import fetch_graph_with_images
    from mll_hf.hub.sources import open_source
    from mll_hf.models import resolve_model
    from mll_hf.plots.benchmark import save_fidelity
    from mll_hf.utils.files import write_atomically

    if not args.graph:
        raise InputError("labels are counted on the probe images of a graph; name it with --graph DIR")
    targets, _ = _tasks(args)
    location = fetch_graph_with_images(args.graph)
    graph, probes = location.graph, location.probes(SamplingConfig(args.images_per_concept))
    models = [resolve_model(spec) for spec in args.models]
    refs = tuple(models or (label.model for label in open_source(args.labels).list()))
    index, cache, templates = _index(graph), EmbeddingCache(args.cache), _templates(args)
    embed(refs, targets, index, cache, templates, probes=probes, device=args.device)
    hub = fidelity.LabeledHub(refs, graph, probes, cache)
    tasks = [fidelity.read_known_task(hub, task, index, templates) for task in targets]
    fewer = [most for most in _SAMPLE_SIZES if most < int(np.diff(probes.offsets).max())]
    samples = {most: location.probes(SamplingConfig(most)) for most in fewer}
    estimates = fidelity.estimates_against_exact(hub, hub.labels(probes), tasks)
    qualities = fidelity.quality_of_samples(hub, {**samples, args.images_per_concept: probes}, tasks)
    text = fidelity.fidelity_to_markdown((estimates, qualities), args.command)
    write_atomically(args.out / "fidelity.json", fidelity.fidelity_to_json((estimates, qualities)).encode())
    write_atomically(args.out / "fidelity.md", text.encode())
    _draw(lambda: save_fidelity(qualities, args.out))
    print(text, end="")
    return 0


def _published(args: argparse.Namespace) -> int:
    from mll_hf.bench import real
    from mll_hf.models.known import class_recalls
    from mll_hf.models.published import published_graph
    from mll_hf.utils.files import write_atomically

    index = _index(published_graph())
    worlds = [real.real_world(class_recalls(), index, prompts) for prompts in args.prompts]
    results = [real.run_real(world, args.draws, args.seed, note) for world in worlds]
    tables, facts = (
        real.real_tables(results, args.seed, args.lovm),
        {"command": args.command, "graph": index.graph.digest},
    )
    write_atomically(args.out / "published.json", real.report_to_json(tables, facts).encode())
    write_atomically(args.out / "published.md", real.report_to_markdown(tables, facts).encode())
    note(f"wrote {args.out / 'published.md'} and {args.out / 'published.json'}")
    print("\n".join(table.to_markdown() for table in tables[: len(worlds)]), end="")
    return 0


def _lovm(args: argparse.Namespace) -> int:
    from mll_hf.bench.lovm import published_tables

    print("\n".join(table.to_markdown() for table in published_tables(args.tables, args.seed)), end="")
    return 0


def _draw(save: Callable[[], tuple[Path, ...]]) -> tuple[Path, ...]:
    """Save figures, if matplotlib is installed."""
    try:
        return save()
    except MissingExtraError as error:
        note(f"no figures: {error}")
        return ()


def _templates(args: argparse.Namespace) -> tuple[str, ...] | None:
    from mll_hf.matching.prompts import DEFAULT_TEMPLATE

    return (DEFAULT_TEMPLATE,) if args.prompts == "plain" else None


def _tasks(args: argparse.Namespace) -> tuple[tuple[TargetTask, ...], TargetTask | None]:
    """The target tasks and the general benchmark."""
    from mll_hf.bench.hub_tasks import load_tasks

    if not args.tasks:
        raise InputError(f"there are no target tasks; name them with --tasks: {_TASKS_HELP}")
    targets = tuple(task for location in args.tasks for task in load_tasks(location, args.most_images))
    if args.general is None:
        return targets, None
    general = load_tasks(args.general, args.most_images)
    if len(general) != 1:
        raise InputError(f"{args.general} holds {len(general)} tasks; give one of them as --general")
    return targets, general[0]


def _all(targets: tuple[TargetTask, ...], general: TargetTask | None) -> tuple[TargetTask, ...]:
    return targets if general is None else (*targets, general)


def _index(graph: SemanticGraph) -> ConceptIndex:
    from mll_hf.matching.concept_index import ConceptIndex
    from mll_hf.matching.text_encoder import CachedEncoder, default_encoder

    return ConceptIndex.build(graph, CachedEncoder(default_encoder(), exact=True))


def _summary(report: BenchReport) -> str:
    """Accuracy and gap closed of each method, for the terminal."""
    from mll_hf.bench.tables import shown

    columns = ("method", "accuracy", "gap closed")
    comparison = next(part for part in report.tables if part.name == "comparison")
    at = [comparison.columns.index(name) for name in columns]
    return table(columns, [[shown(row[column]) for column in at] for row in comparison.rows])
