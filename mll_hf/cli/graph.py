"""The command ``graph``: make your own graph, show, check and publish graphs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.cli.options import GRAPH_HELP, IMAGES_HELP, add_action, add_images_destination
from mll_hf.cli.output import print_row
from mll_hf.utils.tables import table

if TYPE_CHECKING:
    import argparse

    from mll_hf.cli.parser import Parser

_BASE_HELP = f"another graph that has the parents: {GRAPH_HELP}"


def add_graph(command: Parser) -> None:
    """Add the command ``graph`` and its subcommands."""
    command.description = (
        "Make a graph of your own concepts and images, or inspect a graph. The parents of its concepts may "
        "be in another graph. 'mll-hf label --graph' measures models on it."
    )
    actions = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    make = add_action(
        actions, "make", _make, "make a graph from a folder of images per concept",
        "Make a graph with one concept per subfolder of a folder of images; the name of a subfolder is the id and the "
        "name of its concept.",
        "Example: mll-hf graph make photos --to my-parts --base GRAPH --parent n03427296",
    )  # fmt: skip
    make.add_argument("images", type=Path, metavar="DIR", help="folder with one subfolder of images per concept")
    make.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder of the graph; created if missing")
    make.add_argument("--base", metavar="GRAPH", help=_BASE_HELP)
    make.add_argument(
        "--parent",
        action="append",
        default=[],
        metavar="ID",
        help="a more general concept in --base; may be repeated",
    )
    make.add_argument(
        "--source", metavar="TEXT", help="where the images are from, which is published (default: unknown)"
    )
    make.add_argument("--domain", default="photo", metavar="NAME", help="what the images look like (default: photo)")
    push = add_action(
        actions, "push", _push, "publish a graph on the Hub, with its images in a separate repo",
        "Publish graph.json with the numbers of its probe images in a public dataset repo, and the images in a "
        "separate one. Others can then use labels on this graph; the images are needed only to measure models. Each "
        "repo gets one commit, or none if it is up to date.",
        "Example: mll-hf graph push my-parts --to hf://datasets/$ORG/PARTS --images-to hf://datasets/$ORG/IMAGES",
    )  # fmt: skip
    push.add_argument("graph", type=Path, metavar="DIR", help="folder with graph.json and images*.parquet")
    push.add_argument("--to", required=True, metavar="GRAPH", help="hf://datasets/$ORG/NAME of the graph")
    push.add_argument("--name", default="", help="public name of the graph (default: the NAME of --to)")
    add_images_destination(push)
    show = add_action(actions, "show", _show, "list the concepts of a graph")
    check = add_action(
        actions, "check", _check, "check that a graph is valid",
        "Check that all images can be decoded, that every concept has enough images, and that all parents exist.",
    )  # fmt: skip
    check.add_argument("--base", metavar="GRAPH", help=_BASE_HELP)
    check.add_argument("--images", metavar="IMAGES", help=IMAGES_HELP)
    for action in (show, check):
        action.add_argument("graph", metavar="GRAPH", help=f"the graph: {GRAPH_HELP}")


def _push(args: argparse.Namespace) -> int:
    from mll_hf.hub.publish import publish_graph
    from mll_hf.hub.repos import Access

    published = publish_graph(args.graph, args.to, args.images_to, Access(args.images_access), name=args.name)
    lines = [f"images {published.images}"] if published.images else []
    lines.append(f"graph {published.graph}")
    if published.graph.changed:
        lines.append("push labels on this graph (again), so that others can use them: mll-hf push MODEL --labels DIR")
    if not published.location:
        lines.append("the images are not on the Hub, so only you can measure models on them; add --images-to")
    print_row(args, asdict(published), "\n".join(lines))
    return 0


def _make(args: argparse.Namespace) -> int:
    from mll_hf.graph.authoring import make_graph, read_folders
    from mll_hf.hub.locations import fetch_graph

    concepts = read_folders(args.images, args.parent, args.domain, args.source)
    graph = make_graph(args.to, concepts, fetch_graph(args.base) if args.base else None)
    images = graph.probes.total if graph.probes else 0
    record = {"graph": graph.name, "digest": graph.digest, "concepts": len(graph), "images": images}
    print_row(args, record, f"made: {args.to} ({len(graph)} concepts, {images} images, digest {graph.digest[:12]})")
    return 0


def _show(args: argparse.Namespace) -> int:
    from mll_hf.graph.authoring import pooled_counts
    from mll_hf.graph.probes import count_probes
    from mll_hf.hub.locations import fetch_graph, graph_with_images

    graph = fetch_graph(args.graph)
    probes = graph.probes
    if probes is None:
        location = graph_with_images(args.graph)
        probes = count_probes(graph, location.folder, location.images)
    images = pooled_counts(graph, {concept: sum(n for _, n in counts) for concept, counts in probes.images.items()})
    record = {
        "graph": graph.name,
        "digest": graph.digest,
        "images": probes.total,
        "images_digest": probes.digest,
        "images_location": probes.location,
        "domains": probes.by_domain,
        "concepts": {c.id: {"name": c.name, "images": images[c.id]} for c in graph.concepts},
    }
    where = f" in {probes.location}" if probes.location else ""
    headline = (
        f"{graph.name}: {len(graph)} concepts, {probes.total} images, digest {graph.digest[:12]}, images "
        f"{probes.digest[:12]}{where}"
    )
    rows = [[c.id, c.name, str(images[c.id]), ", ".join(c.hypernyms)] for c in graph.concepts]
    print_row(args, record, f"{headline}\n\n{table(['id', 'name', 'images', 'parents'], rows)}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from mll_hf.graph.authoring import check_graph
    from mll_hf.hub.locations import fetch_graph, graph_with_images

    location = graph_with_images(args.graph, args.images)
    graph = location.graph
    check_graph(graph, location.folder, fetch_graph(args.base) if args.base else None)
    record = {"graph": graph.name, "digest": graph.digest, "concepts": len(graph)}
    print_row(args, record, f"valid: {args.graph} ({len(graph)} concepts)")
    return 0
