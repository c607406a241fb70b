"""The command ``labels``: ls, show, check, verify, summary."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.cli.options import (
    DEVICE_HELP,
    IMAGES_HELP,
    SOURCE_VARIABLE,
    YES_HELP,
    add_action,
    add_source,
    find_labels,
    natural,
    positive,
)
from mll_hf.cli.output import agree_to_download, exit_status, print_error, print_row, summary
from mll_hf.cli.report import label_report, verification_report
from mll_hf.errors import InputError, LabelError
from mll_hf.labels.store import LabelStore, embeddings_path, read_label, rivals_path
from mll_hf.labels.summary import SUMMARY_PATH, summary_to_bytes
from mll_hf.models.published import PUBLISHED, open_labels, split_location
from mll_hf.utils.files import write_atomically
from mll_hf.utils.tables import table
from mll_hf.utils.text import abridged, gigaflops

if TYPE_CHECKING:
    import argparse

    from mll_hf.cli.parser import Parser
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label


def add_labels(command: Parser) -> None:
    """Add the command ``labels`` and its subcommands."""
    command.description = "List, show, validate and verify labels; write the summary of a collection."
    actions = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    ls = add_action(actions, "ls", _ls, "list labels by graph, best model first")
    show = add_action(actions, "show", _show, "show a label: what the model recognizes best and worst")
    check = add_action(actions, "check", _check, "validate label files; fails if one is invalid")
    verify = add_action(actions, "verify", _verify, "measure a sample of concepts again; fails if the label disagrees")
    table_of = add_action(actions, "summary", _summary, "write the table of a collection or folder of labels")
    table_of.add_argument(
        "--labels", default=os.environ.get(SOURCE_VARIABLE) or PUBLISHED, metavar="SOURCE",
        help=f"a collection, hf://datasets/$ORG/NAME, or a folder of labels (default: ${SOURCE_VARIABLE})",
    )  # fmt: skip
    for action in (ls, show, verify):
        add_source(action)
    for action in (show, verify):
        action.add_argument("model", metavar="MODEL", help="id of a labeled model, or the last part of its id")
    check.add_argument("path", type=Path, metavar="PATH", help="a label file, or a folder of labels")
    verify.add_argument(
        "--concepts", type=positive, default=50, metavar="N", help="concepts to measure (default: 50; at least 35)"
    )
    verify.add_argument("--images", metavar="IMAGES", help=IMAGES_HELP)
    verify.add_argument("--seed", type=natural, metavar="N", help="seed of the sample (default: random)")
    verify.add_argument("--yes", action="store_true", help=YES_HELP)
    verify.add_argument("--device", metavar="NAME", help=DEVICE_HELP)


def _ls(args: argparse.Namespace) -> int:
    from mll_hf.hub.trust import ranked_and_claimed

    source = open_labels(split_location(args.labels)[0], args.graph, trust=args.trust)
    labels = sorted(source.labels(), key=lambda label: (label.graph_name, label.key, -label.mean_recall))
    origins = [source.origin_of(label) for label in labels]
    if args.json:
        records = zip(labels, origins, strict=True)
        print(json.dumps([{**summary(label), "origin": origin.location} for label, origin in records]))
        return 0
    columns: dict[str, list[str]] = {
        "model": [label.model.repo_id for label in labels],
        "revision": [label.model.revision[:12] for label in labels],
        "backend": [label.model.backend for label in labels],
        "recall": [f"{label.mean_recall:.3f}" for label in labels],
        "parameters": [f"{label.cost.parameters / 1e6:.1f} M" for label in labels],
        "GFLOPs": [gigaflops(label.cost.gflops) for label in labels],
    }
    if len({label.key for label in labels}) > 1:
        columns["graph"] = [label.graph_name for label in labels]
        columns["probe images"] = [label.probes_name for label in labels]
    if any(origin.publisher for origin in origins):
        columns["published by"] = [origin.publisher or "" for origin in origins]
    if claimed := {id(label) for label in ranked_and_claimed(source)[1]}:
        columns["ranked"] = ["no" if id(label) in claimed else "yes" for label in labels]
    print(table(list(columns), list(zip(*columns.values(), strict=True))))
    return 0


def _show(args: argparse.Namespace) -> int:
    source, label = _named_label(args)
    graph, origin = _graph_of(source, label), source.origin_of(label)
    record = {**summary(label), "origin": origin.location, "publisher": origin.publisher}
    print_row(args, record, label_report(label, graph, origin))
    return 0


def _named_label(args: argparse.Namespace) -> tuple[LabelStore, Label]:
    """The source of labels, and the label of the model on the graph and probe images that the options prefer.

    An InputError if there is none, or the name matches several models.
    """
    owner, is_id, _ = args.model.partition("/")
    source = open_labels(split_location(args.labels)[0], args.graph, trust=[*args.trust, *([owner] if is_id else [])])
    found = find_labels(source, args.model)
    if len(found) == 1 and not args.graph:
        return source, found[0]
    from mll_hf.hub.sources import join_source

    joined = join_source(source, args.graph)
    for label in joined.reference:
        if label.model.key == found[0].model.key:
            return source, label
    others = abridged([f"{label.graph_name} (images of {label.probes_name})" for label in found], 5)
    raise InputError(
        f"no label of '{args.model}' on graph {joined.union.graphs[0].name} and these probe images; it has labels on "
        f"{others}: choose with --graph"
    )


def _graph_of(source: LabelStore, label: Label) -> SemanticGraph:
    for graph in source.graphs:
        if graph.digest == label.graph_digest:
            return graph
    raise InputError(
        f"the graph of the label, {label.graph_name} ({label.graph_digest[:12]}), is missing; give it with --graph"
    )


def _check(args: argparse.Namespace) -> int:
    failed, paths = 0, _label_files(args.path)
    for path in paths:
        try:
            label = read_label(path)
        except LabelError as error:
            failed += print_error(str(error))
            continue
        print_row(args, {"path": str(path), **summary(label)}, f"valid: {path}")
    return exit_status(failed, len(paths), "labels")


def _label_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = set(path.rglob("*.safetensors"))
    paths = sorted(found - set(map(embeddings_path, found)) - set(map(rivals_path, found)))
    if not paths:
        raise InputError(f"{path} has no labels; give a label file or a folder of labels")
    return paths


def _verify(args: argparse.Namespace) -> int:
    from mll_hf.hub.locations import graph_with_images, is_public
    from mll_hf.hub.trust import remember_verified
    from mll_hf.labeling.verification import verify_label
    from mll_hf.models.source import bytes_to_fetch

    _, label = _named_label(args)
    if not args.graph and not is_public(label.graph_location):
        raise InputError(f"the label's graph is a local folder ({label.graph_location}); give it with --graph")
    if not (args.graph or args.images or is_public(label.probes_location)):
        raise InputError(f"the label's probe images are a local folder ({label.probes_name}); give it with --images")
    images = args.images or (None if args.graph else label.probes_location)
    found = graph_with_images(args.graph or label.graph_location, images)
    agree_to_download(found.bytes_to_fetch, bytes_to_fetch(label.model, label.cost.parameters), args.yes)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    probes = found.probes(label.images_per_concept)
    verification = verify_label(label, found.graph, probes, args.concepts, seed, args.device)
    print_row(args, verification.to_json(), verification_report(verification, found.graph))
    if verification.verdict != "agrees":
        return 1
    remember_verified(label)
    return 0


def _summary(args: argparse.Namespace) -> int:
    from mll_hf.hub.locations import HUB, is_on_hub

    if args.labels in (HUB, PUBLISHED):
        raise InputError("only collections and folders have a summary; give one with --labels")
    if is_on_hub(args.labels):
        from mll_hf.hub.publish import publish_summary

        published = publish_summary(args.labels)
        print_row(args, {"url": published.url, "changed": published.changed}, str(published))
        return 0
    store = LabelStore(Path(args.labels))
    path = store.folder / SUMMARY_PATH
    write_atomically(path, summary_to_bytes(store.labels(), store.graphs))
    print_row(args, {"path": str(path), "labels": len(store.labels())}, f"wrote {path}: {len(store.labels())} labels")
    return 0
