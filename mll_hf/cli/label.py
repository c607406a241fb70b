"""The verbs that make labels and publish them: label, push."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.cli.graph import PACK_HELP
from mll_hf.cli.options import BATCH_HELP, DEVICE_HELP, FULL_SAMPLE, GRAPH_HELP, SAMPLE_HELP, find_label, positive
from mll_hf.cli.output import complain, note, print_row, recall_text, summary, verdict
from mll_hf.errors import InputError, MLLError, StorageError
from mll_hf.labels.store import LabelStore

if TYPE_CHECKING:
    import argparse

    from mll_hf.hub.publish import Published
    from mll_hf.labels.label import ModelLabel


def add_label(verbs: Any) -> None:  # noqa: ANN401 - argparse keeps the type private
    """Add the verb ``label``."""
    verb = verbs.add_parser(
        "label",
        help="measure models on a graph and keep their labels",
        description="Measure each model once on a graph's probe images and write its label. Models that are labeled "
        "already are skipped; an interrupted run goes on where it stopped; a model that fails does not stop the rest.",
    )
    verb.add_argument("models", nargs="+", metavar="MODEL", help="org/name[@revision] on the Hub, or local-dir:PATH")
    verb.add_argument("--graph", required=True, metavar="GRAPH", help=GRAPH_HELP)
    verb.add_argument(
        "--pack", action="append", default=[], metavar="PACK", help=f"{PACK_HELP}; its concepts are measured, too"
    )
    verb.add_argument("--labels", type=Path, required=True, metavar="DIR", help="folder that the labels go to")
    verb.add_argument(
        "--extend", metavar="SOURCE", help="labels without packs, or with fewer; only what they lack is measured"
    )
    verb.add_argument("--sample", type=positive, default=FULL_SAMPLE, metavar="N", help=SAMPLE_HELP)
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sample of images (default: 0)")
    verb.add_argument("--batch-size", type=positive, metavar="N", help=BATCH_HELP)
    verb.add_argument("--device", metavar="NAME", help=DEVICE_HELP)
    verb.add_argument(
        "--keep-embeddings", action="store_true", help="also store embeddings, which make strategy 'paper' exact"
    )
    verb.add_argument("--overwrite", action="store_true", help="measure again even if a label exists")
    verb.add_argument("--json", action="store_true", help="print one JSON line per model")
    verb.set_defaults(run=_label)


def _label(args: argparse.Namespace) -> int:
    from mll_hf.graph.probes import SamplingConfig
    from mll_hf.hub.locations import fetch_graph_with_images
    from mll_hf.hub.sources import open_source
    from mll_hf.labeling.engines import open_local
    from mll_hf.labeling.run import label_model, label_to_extend
    from mll_hf.models import resolve_model

    location, store = fetch_graph_with_images(args.graph), LabelStore(args.labels)
    sampling = SamplingConfig(args.sample, args.seed)
    graph, probes = location.graph, location.probes(sampling)
    packs = [fetch_graph_with_images(pack).attached_to(graph, sampling) for pack in args.pack]
    if packs and store.is_of(graph):
        raise InputError(
            f"{args.labels} holds labels of {graph.name} without packs; use another folder, and add --extend "
            f"{args.labels} so that only the packs are measured"
        )
    extended = open_source(args.extend) if args.extend else None
    n_images = len(probes) + sum(len(pack.tests) for pack in packs)
    failed = 0
    with open_local(args.device) as engine:
        for spec in args.models:
            try:
                ref = resolve_model(spec)
                earlier = label_to_extend(extended, ref) if extended else None
                if extended and not earlier:
                    note(f"{spec}: {extended.name} has no label of it to extend, so all of it is measured")
                result = label_model(
                    ref,
                    graph,
                    probes,
                    store,
                    packs=packs,
                    earlier=earlier,
                    engine=engine,
                    batch_size=args.batch_size,
                    keep_embeddings=args.keep_embeddings,
                    overwrite=args.overwrite,
                )
            except StorageError:
                raise  # the next model would meet the same full disk
            except MLLError as error:
                failed += complain(str(error))
                continue
            if result.undecodable:
                note(f"{spec}: {result.undecodable} of {n_images} probe images could not be decoded and do not count")
            record = {**summary(result.label), "path": str(result.path), "measured": result.measured}
            done = "labeled" if result.measured else "already labeled"
            print_row(args, record, f"{done}: {spec} (mean recall {recall_text(result.label)})")
    return verdict(failed, len(args.models), "models")


def add_push(verbs: Any) -> None:  # noqa: ANN401
    """Add the verb ``push``."""
    verb = verbs.add_parser(
        "push",
        help="publish labels on the Hub",
        description="Publish labels from a folder: each in its model's own repo, file and model card in one commit, or "
        "all together in a collection (a dataset repo for labels of models that one does not own). Where you may not "
        "write, a pull request is opened. What is published already is left alone.",
        epilog="Example: mll-hf push org/model --labels my-labels --to hf://datasets/me/labels",
    )
    verb.add_argument("models", nargs="*", metavar="MODEL", help="id of a labeled model, or the last part of it")
    verb.add_argument("--all", action="store_true", help="all labels of the folder")
    verb.add_argument("--labels", type=Path, required=True, metavar="DIR", help="folder of labels")
    verb.add_argument("--to", metavar="COLLECTION", help="hf://datasets/ORG/NAME (default: each model's own repo)")
    verb.add_argument("--pr", action="store_true", help="open a pull request even where you may write")
    verb.add_argument("--private", action="store_true", help="make a new collection private")
    verb.add_argument(
        "--eval-results", action="store_true", help="also add the mean precision to the repo's .eval_results/"
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
    wanted = store.list() if args.all else [find_label(store, model) for model in args.models]
    labels = store.fetch([label.model for label in wanted])
    if args.to:
        return _push_to_collection(args, store, labels)
    return _push_to_models(args, store, labels)


def _push_to_collection(args: argparse.Namespace, store: LabelStore, labels: tuple[ModelLabel, ...]) -> int:
    from mll_hf.hub.publish import publish_to_collection

    published = publish_to_collection(labels, store.graph, args.to, create_pr=args.pr, private=args.private)
    models = [label.model.repo_id for label in labels]
    _print_published(args, {"models": models, "to": args.to}, f"{len(models)} labels in {args.to}", published)
    return 0


def _push_to_models(args: argparse.Namespace, store: LabelStore, labels: tuple[ModelLabel, ...]) -> int:
    from mll_hf.hub.publish import publish_label

    failed = 0
    for label in labels:
        try:
            published = publish_label(label, store.graph, create_pr=args.pr, with_eval_results=args.eval_results)
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
