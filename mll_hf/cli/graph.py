"""The verb ``graph``: add concepts to a graph of one's own, show and check graphs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.cli.options import GRAPH_HELP
from mll_hf.cli.output import print_row
from mll_hf.errors import InputError
from mll_hf.utils.text import printable

if TYPE_CHECKING:
    import argparse

    from mll_hf.graph.authoring import NewConcept

_BASE_HELP = "another graph in which parents may be: a folder, or hf://datasets/ORG/NAME[@REVISION]"


def add_graph(verbs: Any) -> None:  # noqa: ANN401 - argparse keeps the type private
    """Add the verb ``graph``."""
    verb = verbs.add_parser(
        "graph",
        help="write a graph of your own concepts, and look at graphs",
        description="Write a graph of your own concepts and images. Its concepts may be kinds of concepts in another "
        "graph; 'mll-hf label --graph' then measures models on it alone.",
    )
    actions = verb.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_add(actions)
    show = actions.add_parser("show", help="list concepts and images", description="List the concepts of a graph.")
    check = actions.add_parser(
        "check",
        help="check that a graph is valid",
        description="Check that all images can be decoded, every concept has enough, and all parents exist.",
    )
    check.add_argument("--base", metavar="GRAPH", help=_BASE_HELP)
    for action, run in ((show, _show), (check, _check)):
        action.add_argument("graph", metavar="GRAPH", help=GRAPH_HELP)
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(run=run)


def _add_add(actions: Any) -> None:  # noqa: ANN401
    add = actions.add_parser(
        "add",
        help="add concepts with images to a graph, or make a new one",
        description="Add one concept, or a table of them with --from. Nothing is added twice. A concept that exists "
        "takes the new texts and parents and keeps its images.",
        epilog="Example: mll-hf graph add --graph my-parts --base GRAPH --id part-a7 --name 'gasket A7' "
        "--description 'a flat rubber ring' --parent n03427296 --images photos/a7",
    )
    add.add_argument("--graph", type=Path, required=True, metavar="DIR", help="folder of the graph; made if missing")
    add.add_argument("--base", metavar="GRAPH", help=_BASE_HELP)
    one = add.add_argument_group("one concept")
    one.add_argument("--id", help="a unique id; with the id of a concept in another graph, it is the same concept")
    one.add_argument("--name", help="the most common name")
    one.add_argument("--lemma", action="append", default=[], help="another name; may be repeated")
    one.add_argument("--description", metavar="TEXT", help="a definition (default: none, if the name says it all)")
    one.add_argument(
        "--parent", action="append", default=[], metavar="ID", help="what it is a kind of, in this graph or --base"
    )
    one.add_argument("--images", type=Path, metavar="DIR", help="folder of images of it")
    one.add_argument("--source", metavar="TEXT", help="where the images are from (default: the folder's name)")
    many = add.add_argument_group("many concepts")
    many.add_argument(
        "--from",
        type=Path,
        dest="table",
        metavar="FILE",
        help="JSON or CSV with the fields id, name, lemmas, description, parents, images, domain and source; in CSV, "
        "several values are separated by semicolons",
    )
    many.add_argument("--images-root", type=Path, metavar="DIR", help="folder with a subfolder of images for each id")
    add.add_argument("--domain", default="photo", metavar="NAME", help="how the images look (default: photo)")
    add.add_argument("--json", action="store_true", help="print JSON")
    add.set_defaults(run=_add)


def _add(args: argparse.Namespace) -> int:
    from mll_hf.graph.authoring import add_to_graph, read_concepts
    from mll_hf.hub.locations import fetch_graph

    if (args.table is None) == (args.id is None):
        raise InputError("give either one concept with --id, or a table of concepts with --from")
    new = read_concepts(args.table, args.images_root, args.domain) if args.table else (_one_concept(args),)
    addition = add_to_graph(args.graph, new, fetch_graph(args.base) if args.base else None)
    graph = addition.graph
    record = {
        "graph": graph.name,
        "digest": graph.digest,
        "concepts": len(graph),
        "new_concepts": addition.concepts,
        "new_images": addition.images,
    }
    text = f"added to {args.graph}: {addition.concepts} concepts, {addition.images} images"
    print_row(args, record, f"{text} (now {len(graph)} concepts, digest {graph.digest[:12]})")
    return 0


def _one_concept(args: argparse.Namespace) -> NewConcept:
    from mll_hf.graph.authoring import NewConcept, new_concept, read_images

    for option in ("name", "images"):
        if not getattr(args, option):
            raise InputError(f"a concept needs --{option}")
    concept = new_concept(args.id, args.name, args.lemma, args.description or "", args.parent)
    return NewConcept(concept, read_images(args.images, args.domain, args.source))


def _show(args: argparse.Namespace) -> int:
    from mll_hf.graph.authoring import pooled_counts
    from mll_hf.graph.probes import DOMAIN_COLUMN, UNKNOWN, read_columns
    from mll_hf.hub.locations import fetch_graph_with_images

    location = fetch_graph_with_images(args.graph)
    graph = location.graph
    _, columns = read_columns(location.folder)
    own, domains = (Counter(columns[name].fill_null(UNKNOWN).to_pylist()) for name in ("node", DOMAIN_COLUMN))
    images = pooled_counts(graph, own)
    record = {
        "graph": graph.name,
        "digest": graph.digest,
        "images": own.total(),
        "domains": domains,
        "concepts": {c.id: {"name": c.name, "images": images[c.id]} for c in graph.concepts},
    }
    rows = [
        f"{c.id}  {c.name}  ({images[c.id]} images{', under ' + ', '.join(c.hypernyms) if c.hypernyms else ''})"
        for c in graph.concepts
    ]
    text = f"{graph.name}: {len(graph)} concepts, {own.total()} images, digest {graph.digest[:12]}"
    print_row(args, record, "\n".join(map(printable, [text, *rows])))
    return 0


def _check(args: argparse.Namespace) -> int:
    from mll_hf.graph.authoring import check_graph
    from mll_hf.hub.locations import fetch_graph, fetch_graph_with_images

    location = fetch_graph_with_images(args.graph)
    graph = location.graph
    check_graph(graph, location.folder, fetch_graph(args.base) if args.base else None)
    record = {"graph": graph.name, "digest": graph.digest, "concepts": len(graph)}
    print_row(args, record, f"valid: {args.graph} ({len(graph)} concepts)")
    return 0
