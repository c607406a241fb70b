"""The verb for packs of new concepts: graph add, graph show, graph check."""

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
    from mll_hf.labels.packs import AttachedPack

PACK_HELP = "a pack: a folder made by 'mll-hf graph add', or hf://datasets/ORG/NAME[@REVISION]"


def add_graph(verbs: Any) -> None:  # noqa: ANN401 - argparse keeps the type private
    """Add the verb ``graph``."""
    verb = verbs.add_parser(
        "graph",
        help="add concepts to a graph as a pack, and look at packs",
        description="Packs add concepts to a graph without a new measurement of everything: 'mll-hf label --pack' "
        "measures a pack's images alone.",
    )
    actions = verb.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_add(actions)
    for name, run, text in (
        ("show", _show, "list a pack's concepts and how many images each has"),
        ("check", _check, "find out whether a pack is valid and fits the graph"),
    ):
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.add_argument("pack", metavar="PACK", help=PACK_HELP)
        action.add_argument("--graph", required=True, metavar="GRAPH", help=GRAPH_HELP)
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(run=run)


def _add_add(actions: Any) -> None:  # noqa: ANN401
    add = actions.add_parser(
        "add",
        help="add concepts with images to a pack, or make one",
        description="Add one concept, or with --from a table of them. What the pack has already is not added twice; a "
        "concept that it has takes the new texts and parents and keeps its images.",
        epilog="Example: mll-hf graph add --graph GRAPH --pack my-parts --id part-a7 --name 'gasket A7' "
        "--description 'a flat rubber ring' --parent n03427296 --images photos/a7",
    )
    add.add_argument("--graph", required=True, metavar="GRAPH", help=GRAPH_HELP)
    add.add_argument("--pack", type=Path, required=True, metavar="DIR", help="folder of the pack")
    one = add.add_argument_group("one concept")
    one.add_argument("--id", help="any id that neither the graph nor the pack uses for something else")
    one.add_argument("--name", help="what people call it first")
    one.add_argument("--lemma", action="append", default=[], help="another name; may be repeated")
    one.add_argument("--description", metavar="TEXT", help="what it is, as in a dictionary (default: the name says it)")
    one.add_argument(
        "--parent", action="append", default=[], metavar="ID", help="what it is a kind of, in the graph or this pack"
    )
    one.add_argument("--images", type=Path, metavar="DIR", help="folder of images of it")
    one.add_argument("--source", metavar="TEXT", help="where the images are from (default: the folder's name)")
    many = add.add_argument_group("many concepts")
    many.add_argument(
        "--from",
        type=Path,
        dest="table",
        metavar="FILE",
        help="JSON or CSV with the fields id, name, lemmas, description, parents, images, domain and source; in CSV "
        "several values are apart by semicolons",
    )
    many.add_argument("--images-root", type=Path, metavar="DIR", help="folder with a folder of images for each id")
    add.add_argument("--domain", default="photo", metavar="NAME", help="how the images look (default: photo)")
    add.add_argument("--json", action="store_true", help="print JSON")
    add.set_defaults(run=_add)


def _add(args: argparse.Namespace) -> int:
    from mll_hf.graph.authoring import add_to_pack, read_concepts
    from mll_hf.hub.locations import fetch_graph

    if (args.table is None) == (args.id is None):
        raise InputError("give either one concept with --id, or a table of them with --from")
    new = read_concepts(args.table, args.images_root, args.domain) if args.table else (_one_concept(args),)
    addition = add_to_pack(args.pack, fetch_graph(args.graph), new)
    pack = addition.pack
    record = {
        "pack": pack.name,
        "digest": pack.digest,
        "concepts": len(pack.concepts),
        "new_concepts": addition.concepts,
        "new_images": addition.images,
    }
    text = f"added to {args.pack}: concepts {addition.concepts}, images {addition.images}"
    print_row(args, record, f"{text} (in all {len(pack.concepts)}, digest {pack.digest[:12]})")
    return 0


def _one_concept(args: argparse.Namespace) -> NewConcept:
    from mll_hf.graph.authoring import NewConcept, new_concept, read_images

    for option in ("name", "parent", "images"):
        if not getattr(args, option):
            raise InputError(f"a concept needs --{option}")
    concept = new_concept(args.id, args.name, args.lemma, args.description or "", args.parent)
    return NewConcept(concept, read_images(args.images, args.domain, args.source))


def _whole_pack(args: argparse.Namespace) -> tuple[AttachedPack, Path]:
    from mll_hf.graph.authoring import ALL_IMAGES
    from mll_hf.hub.locations import fetch_graph, fetch_graph_with_images

    location = fetch_graph_with_images(args.pack)
    return location.attached_to(fetch_graph(args.graph), ALL_IMAGES), location.folder


def _show(args: argparse.Namespace) -> int:
    attached, _ = _whole_pack(args)
    pack, graph, probes = attached.pack, attached.graph, attached.probes
    domains = Counter(probes.domain_names[domain] for domain in probes.domains)
    images = {concept.id: len(probes.images_of(graph.index[concept.id])) for concept in pack.concepts}
    record = {
        "pack": pack.name,
        "digest": pack.digest,
        "images": len(probes),
        "domains": domains,
        "concepts": {id: {"name": graph.concepts[graph.index[id]].name, "images": n} for id, n in images.items()},
    }
    rows = [
        f"{concept.id}  {concept.name}  ({images[concept.id]} images, under {', '.join(concept.hypernyms)})"
        for concept in pack.concepts
    ]
    text = f"{pack.name}: {len(images)} concepts, {len(probes)} images, digest {pack.digest[:12]}"
    print_row(args, record, "\n".join(map(printable, [text, *rows])))
    return 0


def _check(args: argparse.Namespace) -> int:
    from mll_hf.graph.authoring import check_pack

    attached, folder = _whole_pack(args)
    check_pack(attached, folder)
    record = {"pack": attached.name, "digest": attached.digest, "concepts": len(attached.pack.concepts)}
    print_row(args, record, f"valid: {args.pack} ({len(attached.pack.concepts)} concepts)")
    return 0
