"""The verbs that make labels and publish them: label, push."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.cli.options import BATCH_HELP, DEVICE_HELP, FULL_SAMPLE, GRAPH_HELP, SAMPLE_HELP, find_label, positive
from mll_hf.cli.output import complain, note, print_row, recall_text, summary, verdict
from mll_hf.errors import InputError, MLLError
from mll_hf.labels.store import LabelStore

if TYPE_CHECKING:
    import argparse

    from mll_hf.hub.publish import Published
    from mll_hf.labels.label import ModelLabel


def add_label(verbs: Any) -> None:  # noqa: ANN401 - argparse keeps the type private
    """Add the verb ``label``."""
    verb = verbs.add_parser(
        "label",
        help="measure models on a graph",
        description="Measure each model on a graph's probe images and write its label. Skips models that are labeled "
        "already, resumes an interrupted run, and continues after a model that fails.",
    )
    verb.add_argument("models", nargs="+", metavar="MODEL", help="org/name[@revision] on the Hub, or local-dir:PATH")
    verb.add_argument("--graph", required=True, metavar="GRAPH", help=GRAPH_HELP)
    verb.add_argument("--labels", type=Path, required=True, metavar="DIR", help="folder for the labels")
    verb.add_argument("--sample", type=positive, default=FULL_SAMPLE, metavar="N", help=SAMPLE_HELP)
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sample of images (default: 0)")
    verb.add_argument("--batch-size", type=positive, metavar="N", help=BATCH_HELP)
    verb.add_argument("--device", metavar="NAME", help=DEVICE_HELP)
    verb.add_argument(
        "--keep-embeddings", action="store_true", help="also store the embeddings, which make strategy 'paper' exact"
    )
    verb.add_argument("--overwrite", action="store_true", help="measure again even if a label exists")
    verb.add_argument("--json", action="store_true", help="print one JSON line per model")
    verb.set_defaults(run=_label)


def _label(args: argparse.Namespace) -> int:
    from mll_hf.graph.probes import SamplingConfig
    from mll_hf.hub.locations import fetch_graph_with_images
    from mll_hf.labeling.fleet import Fleet, Outcome, for_each, label_one
    from mll_hf.labeling.run import open_engine

    location = fetch_graph_with_images(args.graph)
    probes, failed = location.probes(SamplingConfig(args.sample, args.seed)), 0
    with open_engine(args.device) as engine:
        fleet = Fleet(
            location.graph,
            probes,
            LabelStore(args.labels),
            engine=engine,
            batch_size=args.batch_size,
            keep_embeddings=args.keep_embeddings,
            overwrite=args.overwrite,
        )
        for result in for_each(args.models, partial(label_one, fleet=fleet)):
            if result.label is None:
                failed += complain(result.reason)
                continue
            if result.undecodable:
                note(
                    f"{result.name}: {result.undecodable} of {len(probes)} probe images could not be decoded and do "
                    "not count"
                )
            measured = result.outcome is Outcome.LABELED
            record = {**summary(result.label), "path": str(result.path), "measured": measured}
            done = "labeled" if measured else "already labeled"
            print_row(args, record, f"{done}: {result.name} (mean recall {recall_text(result.label)})")
    return verdict(failed, len(args.models), "models")


def add_push(verbs: Any) -> None:  # noqa: ANN401
    """Add the verb ``push``."""
    verb = verbs.add_parser(
        "push",
        help="publish labels on the Hub",
        description="Publish labels of a folder: each in its model's own repo, with its model card in the same commit, "
        "or all in a collection (a dataset repo for labels of models that you do not own). Opens pull requests where "
        "you have no write access. Skips what is published already.",
        epilog="Example: mll-hf push org/model --labels my-labels --to hf://datasets/me/labels",
    )
    verb.add_argument("models", nargs="*", metavar="MODEL", help="id of a labeled model, or its last part")
    verb.add_argument("--all", action="store_true", help="all labels of the folder")
    verb.add_argument("--labels", type=Path, required=True, metavar="DIR", help="folder of labels")
    verb.add_argument("--to", metavar="COLLECTION", help="hf://datasets/ORG/NAME (default: each model's own repo)")
    verb.add_argument("--pr", action="store_true", help="open a pull request even with write access")
    verb.add_argument("--private", action="store_true", help="make a new collection private")
    verb.add_argument(
        "--eval-results", action="store_true", help="also add the mean recall to the repo's .eval_results/"
    )
    verb.add_argument("--json", action="store_true", help="print one JSON line per publication")
    verb.set_defaults(run=_push)


def _push(args: argparse.Namespace) -> int:
    if bool(args.models) == args.all:
        raise InputError("name the models to publish, or give --all")
    if args.to and args.eval_results:
        raise InputError("--eval-results is for models' own repos; leave it or --to out")
    if args.private and not args.to:
        raise InputError("--private is for a new collection; name it with --to")
    store = LabelStore(args.labels)
    labels = store.fetch(store.list() if args.all else [find_label(store, model) for model in args.models])
    if args.to:
        return _push_to_collection(args, store, labels)
    return _push_to_models(args, store, labels)


def _push_to_collection(args: argparse.Namespace, store: LabelStore, labels: tuple[ModelLabel, ...]) -> int:
    from mll_hf.hub.publish import publish_to_collection

    for graph in store.graphs:
        of_graph = [label for label in labels if label.graph_digest == graph.digest]
        if of_graph:
            published = publish_to_collection(of_graph, graph, args.to, create_pr=args.pr, private=args.private)
            record = {"models": [label.model.repo_id for label in of_graph], "to": args.to}
            _print_published(args, record, f"{len(of_graph)} labels on {graph.name} in {args.to}", published)
    return 0


def _push_to_models(args: argparse.Namespace, store: LabelStore, labels: tuple[ModelLabel, ...]) -> int:
    from mll_hf.hub.publish import publish_label

    failed, graphs = 0, {graph.digest: graph for graph in store.graphs}
    for label in labels:
        graph = graphs[label.graph_digest]
        try:
            published = publish_label(label, graph, create_pr=args.pr, with_eval_results=args.eval_results)
        except MLLError as error:
            failed += complain(str(error))
            continue
        _print_published(args, {"models": [label.model.repo_id]}, label.model.repo_id, published)
    return verdict(failed, len(labels), "publications")


def _print_published(args: argparse.Namespace, record: dict[str, Any], what: str, published: Published) -> None:
    done = "published" if published.changed else "published already"
    record |= {
        "url": published.url,
        "revision": published.revision,
        "pull_request": published.pull_request,
        "changed": published.changed,
    }
    where = "as a pull request, " if published.pull_request else ""
    print_row(args, record, f"{done}: {what} ({where}{published.url})")
