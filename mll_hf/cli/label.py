"""The commands ``label``, which makes labels, and ``push``, which publishes labels and selections."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.cli.options import (
    DEVICE_HELP,
    GRAPH_HELP,
    IMAGES_HELP,
    SAMPLE_HELP,
    SELECTION_HELP,
    YES_HELP,
    find_labels,
    positive,
)
from mll_hf.cli.output import (
    agree_to_download,
    confirm,
    exit_status,
    note,
    print_error,
    print_row,
    recall_text,
    summary,
)
from mll_hf.errors import InputError, MLLError
from mll_hf.graph.probes import IMAGES_PER_CONCEPT
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.labels.store import LabelStore
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    import argparse

    from mll_hf.cli.parser import Parser
    from mll_hf.hub.repos import Published
    from mll_hf.labeling.run import ModelResult, Plan
    from mll_hf.labels.label import Label


_IN_A_COLLECTION = "publish in your own collection with --to hf://datasets/$ORG/NAME"


def add_label(command: Parser) -> None:
    """Add the command ``label``."""
    command.description = (
        "Measure each model on the probe images of each graph, and write one label per model and graph. "
        "Models that have the label are skipped, an interrupted run resumes, and a model that fails does not stop the "
        "others."
    )
    command.epilog = "Example: mll-hf label $ORG/MODEL local-dir:my-model --graph my-graph --labels my-labels"
    command.add_argument("models", nargs="+", metavar="MODEL", help="org/name[@revision] on the Hub, or local-dir:PATH")
    command.add_argument(
        "--graph",
        action="append",
        metavar="GRAPH",
        dest="graphs",
        help=f"graph to measure on (default: $MLL_GRAPH, or the emoji in this package); may be repeated: {GRAPH_HELP}",
    )
    command.add_argument("--images", metavar="IMAGES", help=IMAGES_HELP)
    command.add_argument("--labels", type=Path, required=True, metavar="DIR", help="folder to write the labels to")
    command.add_argument("--sample", type=positive, default=IMAGES_PER_CONCEPT, metavar="N", help=SAMPLE_HELP)
    command.add_argument("--device", metavar="NAME", help=DEVICE_HELP)
    command.add_argument(
        "--keep-embeddings", action="store_true", help="also store embeddings; they make strategy 'paper' exact"
    )
    command.add_argument("--overwrite", action="store_true", help="measure again even if the label exists")
    command.add_argument("--yes", action="store_true", help=YES_HELP)
    command.add_argument("--json", action="store_true", help="print one JSON line per label")
    command.set_defaults(run=_label)


def _label(args: argparse.Namespace) -> int:
    from mll_hf.hub.locations import PACKAGE_GRAPH, default_graph, graph_with_images
    from mll_hf.labeling.run import Plan, label_many

    for model in args.models:  # before work
        if model.startswith(LOCAL_PREFIX) and not Path(model.removeprefix(LOCAL_PREFIX)).is_dir():
            raise InputError(f"{model}: there is no such folder")
    wanted = args.graphs or [default_graph() or PACKAGE_GRAPH]
    if args.images and len(wanted) > 1:
        raise InputError("--images is for one graph; label on one graph at a time")
    found = [graph_with_images(graph, args.images) for graph in wanted]
    agree_to_download(sum(each.bytes_to_fetch for each in found), sum(map(_weights, args.models)), args.yes)
    if wanted == [PACKAGE_GRAPH]:
        note(
            "measures on the emoji in this package: how well a model recognizes drawings of everyday things, animals "
            "and food, which says little about photos; for another graph give --graph"
        )
    plans = [  # fails before a model is loaded
        Plan(
            each.graph,
            each.probes(args.sample),
            LabelStore(args.labels),
            device=args.device,
            keep_embeddings=args.keep_embeddings,
            overwrite=args.overwrite,
        )
        for each in found
    ]
    failed = sum(_print_labeled(args, result, plan) for plan in plans for result in label_many(args.models, plan))
    return exit_status(failed, len(args.models) * len(plans), "labels")


def _weights(model: str) -> int:
    """Bytes that a model would download; 0 for one that cannot be found, which labeling reports."""
    from mll_hf.models.source import bytes_to_fetch, resolve_model

    try:
        return bytes_to_fetch(resolve_model(model), 0)
    except MLLError:
        return 0


def _print_labeled(args: argparse.Namespace, result: ModelResult, plan: Plan) -> int:
    """Print the result for one model on one graph; returns 1 if it failed."""
    if result.label is None:
        return print_error(result.reason)
    if result.undecodable:
        note(
            f"{result.name}: {result.undecodable} of {len(plan.probes)} probe images of {plan.graph.name} cannot be "
            "decoded and do not count"
        )
    measured = result.outcome == "labeled"
    record = {**summary(result.label), "path": str(result.path), "measured": measured}
    print_row(args, record, f"{'labeled' if measured else 'already labeled'}: {labeled_text(result)}")
    return 0


def labeled_text(result: ModelResult) -> str:
    """The model, the graph and the mean recall of a result, and where it was published."""
    text = result.name
    if result.label:
        text += f" on {result.label.graph_name} (mean recall {recall_text(result.label)})"
    return f"{text} {result.published.url}" if result.published else text


def add_push(command: Parser) -> None:
    """Add the command ``push``."""
    command.description = (
        "Publish labels of a folder: in a collection (a dataset repo for labels of any models), or each in "
        "its model's own repo, with its model card in the same commit. The models must then be yours: in repos of "
        "others, only pull requests are opened, and only with --pr. Or publish a selection as a small model repo that "
        "anyone can load by its id. Labels that are already published are skipped."
    )
    command.epilog = (
        "Examples: mll-hf push $ORG/MODEL --labels my-labels --to hf://datasets/$ORG/NAME; "
        "mll-hf push --selection choice.json --to $ORG/NAME"
    )
    command.add_argument("models", nargs="*", metavar="MODEL", help="id of a labeled model, or the last part of its id")
    command.add_argument("--all", action="store_true", help="publish all labels of the folder")
    command.add_argument("--labels", type=Path, metavar="DIR", help="folder of labels")
    command.add_argument("--selection", metavar="SELECTION", help=f"a selection instead of labels: {SELECTION_HELP}")
    command.add_argument(
        "--to", metavar="REPO",
        help="a collection, hf://datasets/$ORG/NAME (default: each model's own repo); for a selection $ORG/NAME",
    )  # fmt: skip
    command.add_argument(
        "--pr", action="store_true", help="open pull requests, also in repos of others; asks before more than one"
    )
    command.add_argument("--yes", action="store_true", help="open pull requests in repos of others without asking")
    command.add_argument("--private", action="store_true", help="make a new repo private")
    command.add_argument("--json", action="store_true", help="print one JSON line per publication")
    command.set_defaults(run=_push)


def _push(args: argparse.Namespace) -> int:
    if args.selection:
        return _push_selection(args)
    if not args.labels:
        raise InputError("say what to publish: --labels with a folder of labels, or --selection")
    if bool(args.models) == args.all:
        raise InputError("name the models to publish, or give --all")
    if args.private and not args.to:
        raise InputError("--private applies to a new collection; name it with --to")
    store = LabelStore(args.labels)
    labels = store.labels() if args.all else tuple(each for model in args.models for each in find_labels(store, model))
    if args.to:
        return _push_to_collection(args, store, labels)
    return _push_to_models(args, store, labels)


def _push_selection(args: argparse.Namespace) -> int:
    from mll_hf.hub.locations import REPO_ID
    from mll_hf.selection import Selection

    if args.models or args.all or args.labels:
        raise InputError("--selection publishes a selection alone; leave out models, --all and --labels")
    if not args.to:
        raise InputError("say where to publish the selection: --to $ORG/NAME")
    if REPO_ID.fullmatch(args.to):  # else the push says what is wrong
        _check_owners(args, [args.to], "name a repo of yours")
    published = Selection.from_pretrained(args.selection).push_to_hub(args.to, private=args.private, create_pr=args.pr)
    return _print_published(args, published, {"selection": args.selection, "to": args.to})


def _push_to_collection(args: argparse.Namespace, store: LabelStore, labels: tuple[Label, ...]) -> int:
    from mll_hf.hub.publish import publish_to_collection, repo_of

    _check_owners(args, [repo_of(args.to)], _IN_A_COLLECTION, "dataset")
    published = publish_to_collection(
        labels, store.graphs, args.to, rivals_of=store.rivals_of, create_pr=args.pr, private=args.private
    )
    return _print_published(args, published, {"models": [label.model.repo_id for label in labels], "to": args.to})


def _push_to_models(args: argparse.Namespace, store: LabelStore, labels: tuple[Label, ...]) -> int:
    from mll_hf.hub.publish import publish_label

    _check_owners(args, [label.model.repo_id for label in labels], _IN_A_COLLECTION)
    failed, graphs = 0, {graph.digest: graph for graph in store.graphs}
    # the first label of a repo gets the main path: labels on graphs that extend other graphs come last
    by_graph = {digest: len(graph.external) for digest, graph in graphs.items()}
    for label in sorted(labels, key=lambda label: by_graph.get(label.graph_digest, 0)):
        model, graph = label.model.repo_id, graphs.get(label.graph_digest)
        try:
            if graph is None:
                raise InputError(
                    f"{model}: the graph of its label, {label.graph_name} ({label.graph_digest[:12]}), is not in "
                    f"{args.labels}; label it again"
                )
            published = publish_label(label, graph, rivals=store.rivals_of(label), create_pr=args.pr)
        except MLLError as error:
            failed += print_error(str(error))
        else:
            _print_published(args, published, {"models": [model], "graph": graph.name})
    return exit_status(failed, len(labels), "publications")


def _check_owners(args: argparse.Namespace, repos: list[str], instead: str, repo_type: str = "model") -> None:
    """Check before any work that the user may write to the repos, or asked for pull requests in those of others.

    More than one pull request needs ``--yes`` or a confirmation. ``instead`` is the alternative in the error message.
    """
    from mll_hf.hub.repos import not_writable

    others = not_writable(repos, repo_type)
    if others and not args.pr:
        raise InputError(f"not your repos: {abridged(others, 3)}; {instead}, or ask for pull requests with --pr")
    if len(others) > 1 and not args.yes:
        pull_requests = f"up to {len(others)} pull requests in repos of others ({abridged(others, 3)})"
        no_terminal = f"cannot ask about {pull_requests} without a terminal; add --yes, or use a collection with --to"
        if not confirm(f"Open {pull_requests}?", no_terminal):
            raise InputError(f"no pull request was opened; {_IN_A_COLLECTION}")


def _print_published(args: argparse.Namespace, published: Published, record: dict[str, Any]) -> int:
    print_row(args, {**record, **asdict(published)}, str(published))
    return 0
