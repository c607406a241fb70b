"""Commands about labels: labels ls, show, diff, check, verify, index."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.cli.options import add_plot, add_source, check_plot, find_label, open_source_of, positive
from mll_hf.cli.output import complain, note, print_row, summary, verdict
from mll_hf.cli.report import difference_report, label_difference, label_report, verification_report
from mll_hf.errors import InputError, LabelError
from mll_hf.labels.store import LABEL_FILE, LabelStore, read_label
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    import argparse

    from mll_hf.cli.report import LabelDifference
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.hub.sources import LabelSource
    from mll_hf.labels.label import LabelSummary, ModelLabel


def add_labels(verbs: Any) -> None:  # noqa: ANN401 - argparse keeps the type private
    """Add the command ``labels`` and its subcommands."""
    verb = verbs.add_parser(
        "labels", help="list, show, compare, check and verify labels", description="Inspect labels."
    )
    actions = verb.add_subparsers(title="commands", metavar="COMMAND", required=True)
    ls = _add_action(actions, "ls", _ls, "list labels, best model first")
    show = _add_action(actions, "show", _show, "show a label: what the model recognizes best and worst")
    diff = _add_action(actions, "diff", _diff, "compare two labels: where each model is better than the other")
    check = _add_action(actions, "check", _check, "validate label files; fails if one is invalid")
    verify = _add_action(actions, "verify", _verify, "measure a sample of concepts again; fails if the label disagrees")
    index = _add_action(
        actions, "index", _index, "update the index of a collection from its labels, or write a catalog"
    )
    index.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write a catalog of all labels of the source to this folder instead, to select among very many labels",
    )
    for action in (ls, show, diff, verify, index):
        add_source(action)
    for action in (show, diff):
        add_plot(action)
    for action in (show, verify):
        action.add_argument("model", metavar="MODEL", help="id of a labeled model, or its last part")
    diff.add_argument("first", metavar="MODEL", help="id of a labeled model, or its last part")
    diff.add_argument("second", metavar="OTHER", help="another one, or ID@REVISION")
    check.add_argument("path", type=Path, metavar="PATH", help="a label file, or a folder of labels")
    verify.add_argument(
        "--concepts",
        type=positive,
        default=50,
        metavar="N",
        help="concepts to measure (default: 50; at least 35)",
    )
    verify.add_argument(
        "--pack", action="append", metavar="PACK", help="pack that the label covers (default: named in the label)"
    )
    verify.add_argument("--seed", type=int, metavar="N", help="seed of the sample (default: random)")
    verify.add_argument("--device", metavar="NAME", help="cuda, mps or cpu (default: best available device)")


def _add_action(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:  # noqa: ANN401
    action: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    action.add_argument("--json", action="store_true", help="print JSON")
    action.set_defaults(run=run)
    return action


def _ls(args: argparse.Namespace) -> int:
    source = open_source_of(args)
    labels = sorted(source.list(), key=lambda label: -label.mean_precision)
    origins = [source.origin_of(label.model) for label in labels]
    if args.json:
        records = zip(labels, origins, strict=True)
        print(json.dumps([{**summary(label), "origin": origin.location} for label, origin in records]))
        return 0
    header = ["model", "revision", "backend", "recall", "parameters", "GFLOPs", "published by"]
    rows = [
        [
            label.model.repo_id,
            label.model.revision[:12],
            label.model.backend,
            f"{label.mean_precision:.3f}",
            f"{label.cost.parameters / 1e6:.1f} M",
            f"{label.cost.gflops:.3g}",
            origin.publisher or "",
        ]
        for label, origin in zip(labels, origins, strict=True)
    ]
    columns = len(header) if any(origin.publisher for origin in origins) else len(header) - 1
    print(table(header[:columns], [row[:columns] for row in rows]))
    return 0


def _show(args: argparse.Namespace) -> int:
    check_plot(args)
    source = open_source_of(args)
    label = find_label(source, args.model)
    if args.plot:
        _plot_strengths(args.plot, label, source.graph)
    origin = source.origin_of(label.model)
    if args.json:
        print(json.dumps({**summary(label), "origin": origin.location, "publisher": origin.publisher}))
    else:
        print(label_report(_whole(source, label), source.graph, origin))
    return 0


def _plot_strengths(path: Path, label: LabelSummary, graph: SemanticGraph) -> None:
    from mll_hf.plots.labels import strengths
    from mll_hf.plots.style import save_page

    name = label.model.short_name
    save_page(path, f"What {name} recognizes", {"Recall by concept": strengths(label, graph)})
    note(f"figure: {path}")


def _diff(args: argparse.Namespace) -> int:
    check_plot(args)
    source = open_source_of(args)
    first, second = (find_label(source, model) for model in (args.first, args.second))
    difference = label_difference(first, second, source.graph)
    if args.plot:
        _plot_difference(args.plot, difference)
    print(json.dumps(difference.to_json()) if args.json else difference_report(difference))
    return 0


def _plot_difference(path: Path, difference: LabelDifference) -> None:
    from mll_hf.plots.labels import branch_comparison, strengths
    from mll_hf.plots.style import save_page

    pair, graph = (difference.first, difference.second), difference.graph
    names = [label.model.short_name for label in pair]
    figures = {f"Where {names[0]} is ahead of {names[1]}, by branch": branch_comparison(*pair, graph)}
    figures |= {f"{name} by concept": strengths(label, graph) for name, label in zip(names, pair, strict=True)}
    save_page(path, f"{names[0]} and {names[1]}", figures)
    note(f"figures: {path}")


def _check(args: argparse.Namespace) -> int:
    failed, paths = 0, _label_files(args.path)
    for path in paths:
        try:
            label = read_label(path)
        except LabelError as error:
            failed += complain(str(error))
            continue
        print_row(args, {"path": str(path), **summary(label)}, f"valid: {path}")
    return verdict(failed, len(paths), "labels")


def _label_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    paths = sorted(path.rglob(LABEL_FILE))
    if not paths:
        raise InputError(f"{path} has no {LABEL_FILE}; give a label file or a folder of labels")
    return paths


def _verify(args: argparse.Namespace) -> int:
    from mll_hf.hub.locations import HUB, REPO_ID, fetch_graph_with_images
    from mll_hf.hub.sources import open_source
    from mll_hf.labeling.verification import Verdict, verify_label

    source = open_source(args.labels, args.graph if args.labels == HUB else None)  # else --graph names the images
    label = _whole(source, find_label(source, args.model))
    if not args.graph and not REPO_ID.fullmatch(label.probes_name):
        raise InputError(f"the label's probe images are a local folder ({label.probes_name}); give it with --graph")
    local = [pack.name for pack in label.packs if not REPO_ID.fullmatch(pack.probes_name)]
    if local and not args.pack:
        raise InputError(f"the images of pack {local[0]} are a folder; give it with --pack")
    location = fetch_graph_with_images(args.graph or f"hf://datasets/{label.probes_name}@{label.probes_revision}")
    graph = location.graph
    packs = args.pack or [f"hf://datasets/{pack.probes_name}@{pack.probes_revision}" for pack in label.packs]
    seed = secrets.randbits(32) if args.seed is None else args.seed
    verification = verify_label(
        label,
        graph,
        location.probes(label.sampling),
        packs=[fetch_graph_with_images(pack).attached_to(graph, label.sampling) for pack in packs],
        n_concepts=args.concepts,
        seed=seed,
        device=args.device,
    )
    print_row(args, verification.to_json(), verification_report(verification, source.graph))
    return 0 if verification.verdict is Verdict.AGREES else 1


def _index(args: argparse.Namespace) -> int:
    from mll_hf.hub.locations import is_on_hub
    from mll_hf.hub.publish import build_index

    if args.out:
        return _write_catalog(args)
    if not is_on_hub(args.labels):
        raise InputError(
            f"'{args.labels}' is no collection; only collections have an index: give hf://datasets/ORG/NAME"
        )
    published = build_index(args.labels)
    done = "updated" if published.changed else "already up to date"
    print_row(args, {"url": published.url, "changed": published.changed}, f"{done}: {args.labels} ({published.url})")
    return 0


def _write_catalog(args: argparse.Namespace) -> int:
    from huggingface_hub.utils.tqdm import tqdm

    from mll_hf.labels.catalog import write_catalog

    source = open_source_of(args)
    labels = source.summaries() if isinstance(source, LabelStore) else source.list()
    total = len(source.paths()) if isinstance(source, LabelStore) else None
    bar = tqdm(  # type: ignore[no-untyped-call]
        labels, total=total, unit="label", desc=str(args.out), name="mll_hf.labels.catalog", leave=False
    )
    n_labels = write_catalog(args.out, source.graph, bar, source.origin_of)
    record = {"catalog": str(args.out), "labels": n_labels}
    print_row(args, record, f"written: {n_labels:,} labels; select among them with --labels {args.out}")
    return 0


def _whole(source: LabelSource, label: LabelSummary) -> ModelLabel:
    return source.fetch([label.model])[0]
