"""Build the graph of WordNet's visual concepts, gather probe images for it, and publish both in dataset repos.

The concepts are the classes of ImageNet and all their hypernyms in WordNet 3.0. The images come from the five datasets
of the paper or from any labeled dataset on the Hub; they are streamed and never stored in full. An interrupted run
resumes with the same command.

    python scripts/graph/build_graph.py --text-only --out DIR
    python scripts/graph/build_graph.py --out DIR --push-to hf://datasets/$ORG/NAME --images-to hf://datasets/$ORG/IMAGES
    python scripts/graph/build_graph.py --out DIR --source imagenet-r --source imagenet-12k --images-per-concept 40
    python scripts/graph/build_graph.py --out DIR --source 'hf://datasets/$ORG/BIRDS?labels=birds.csv&domain=drawing'

With --redistributable, only redistributable images are taken: their license is open, and their author or page is
known. Both are columns of the dataset, or come from a file that Open Images offers for download:

    python scripts/graph/build_graph.py --out DIR --redistributable \\
        --source 'open-images?credits=test-images-with-rotation.csv'

WordNet 3.0 is Debian's package wordnet-base, or a folder: --wordnet DIR
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command_line import script_parser
from graph.gathering import HarvestConfig, open_all
from graph.harvest import check_same_graph, finished_build, harvest
from graph.sources import BUILT_IN, OPEN_SOURCES, PAPER_SOURCES, parse_source, pin_all
from graph.wordnet import DEBIAN, LEAVES, ClassList, leaf_names, make_graph, read_nouns
from mll_hf.cli.options import add_images_destination, natural, positive
from mll_hf.errors import InputError, MLLError
from mll_hf.graph.concepts import GRAPH_FILE, graph_to_bytes
from mll_hf.hub.locations import parse_dataset
from mll_hf.hub.publish import publish_graph
from mll_hf.hub.repos import Access, Published, own_names
from mll_hf.utils.files import write_atomically
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from graph.gathering import OpenSource
    from graph.sources import PinnedSource
    from graph.wordnet import VisualGraph
    from mll_hf.graph.concepts import SemanticGraph

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status (0 success, 1 failure, 2 wrong usage, 130 interrupted)."""
    args = build_parser().parse_args(arguments)
    try:
        report = build(args)
    except MLLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return _INTERRUPTED
    print(json.dumps(report, ensure_ascii=False) if args.json else "\n".join(lines(report)), flush=True)
    return 0


def build(args: argparse.Namespace) -> dict[str, Any]:
    """Run the command; returns a report."""
    if args.text_only and (args.source or args.push_to):
        raise InputError("--text-only makes a graph without images; remove it, or remove --source and --push-to")
    if args.images_to and not args.push_to:
        raise InputError("--images-to needs a published graph; add --push-to hf://datasets/$ORG/NAME")
    for location in filter(None, (args.push_to, args.images_to)):
        parse_dataset(location)
    wanted = [parse_source(text) for text in args.source] or (OPEN_SOURCES if args.redistributable else PAPER_SOURCES)
    if args.text_only and args.redistributable:
        raise InputError("--redistributable is about images; remove it, or remove --text-only")
    name = args.name or f"wordnet-{args.leaves}"
    visual = make_graph(name, leaf_names(ClassList(args.leaves)), read_nouns(args.wordnet))
    graph, report = visual.graph, {"graph": figures(visual), "dry_run": args.dry_run}
    if visual.missing:
        missing = abridged(visual.missing, 10)
        print(f"{len(visual.missing)} classes are not in WordNet and were skipped: {missing}", file=sys.stderr)
    if args.text_only:
        check_same_graph(args.out, graph)
        if not args.dry_run:
            write_atomically(args.out / GRAPH_FILE, graph_to_bytes(graph))
            report["out"] = str(args.out)
        return report
    if args.push_to and not args.dry_run:
        own_names()  # fails early if the user is not logged in
    pinned = pin_all(wanted)
    access = Access(args.images_access)
    if args.images_to and access is Access.PUBLIC and (gated := [p.source.name for p in pinned if p.is_gated]):
        raise InputError(f"images of {abridged(gated, 3)} must not be public; remove --images-access")
    if args.dry_run:
        report["sources"] = [planned(source) for source in opened(pinned, graph, args.redistributable)]
        return report
    config = HarvestConfig(args.images_per_concept, args.seed, args.max_side or None, args.redistributable)
    result = finished_build(graph, pinned, config, args.out)
    result = result or harvest(graph, opened(pinned, graph, args.redistributable), config, args.out)
    report |= {"out": str(args.out), "images": asdict(result)}
    if args.push_to:
        report["published"] = asdict(publish_graph(args.out, args.push_to, args.images_to, access))
    return report


def opened(pinned: Sequence[PinnedSource], graph: SemanticGraph, redistributable: bool) -> tuple[OpenSource, ...]:
    """Open the sources; for redistributable images, each image must have a license."""
    sources = open_all(pinned, graph)
    if redistributable and (without := [each.pinned.source.name for each in sources if not each.has_licenses]):
        raise InputError(
            f"{abridged(without, 3)} has no license for each image; add credits=FILE to the source, or remove it"
        )
    return sources


def figures(visual: VisualGraph) -> dict[str, Any]:
    """Figures of a graph."""
    graph = visual.graph
    depth = [0] * len(graph)  # edges on the longest path to the root
    for v in graph.topological_order:
        depth[v] = max((depth[parent] + 1 for parent in graph.parents[v]), default=0)
    return {
        "name": graph.name,
        "digest": graph.digest,
        "concepts": len(graph),
        "leaves": len(visual.leaves),
        "ancestors": len(graph) - len(visual.leaves),
        "edges": sum(map(len, graph.parents)),
        "roots": [concept.name for concept in graph.concepts if not concept.hypernyms],
        "depth": max(depth),
        "missing": list(visual.missing),
    }


def planned(source: OpenSource) -> dict[str, Any]:
    """Facts of a source that will be streamed."""
    pinned = source.pinned
    return {
        "name": pinned.source.name,
        "repo": pinned.source.repo_id,
        "revision": pinned.sha,
        "shards": source.shards,
        "image": source.image,
        "label": pinned.source.label,
        "domain": pinned.source.domain,
        "license": pinned.source.license,
        "gated": pinned.is_gated,
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Lines of the report."""
    yield (
        "{name}: {concepts:,} concepts ({leaves:,} classes and {ancestors:,} above them), {edges:,} edges, "
        "depth {depth}, root {root}, digest {digest:.12}"
    ).format(root=", ".join(report["graph"]["roots"]), **report["graph"])
    for source in report.get("sources", ()):
        gated = ", gated" if source["gated"] else ""
        yield "would stream {name}: {repo}@{revision:.12}, {shards} shards, {domain}".format(**source) + gated
    if "images" in report:
        images = report["images"]
        for source in images["sources"]:
            reasons = ("unlicensed", "ambiguous")
            others = "".join(f", {source[reason]:,} {reason}" for reason in reasons if source[reason])
            yield (
                "{name}: {images:,} images of {concepts:,} concepts, of {seen:,} seen "
                "({outside:,} without a concept here, {undecodable:,} undecodable{others})"
            ).format(**source, others=others)
        yield (
            f"{images['images']:,} images in {len(images['files'])} files, {images['bytes'] / 1e6:,.1f} MB; "
            f"{images['concepts_with_images']:,} concepts have their own, {images['concepts_tested']:,} are tested"
        )
    if "out" in report:
        yield f"written to {report['out']}"
    if "published" in report:
        for what in ("images", "graph"):
            if report["published"][what]:
                yield f"{what} {Published(**report['published'][what])}"


def build_parser() -> argparse.ArgumentParser:
    """Parser of the arguments."""
    parser = script_parser(str(__doc__))
    concepts = parser.add_argument_group("concepts")
    concepts.add_argument(
        "--leaves", choices=[leaves.value for leaves in LEAVES], default=ClassList.IMAGENET_12K.value,
        help="classes that are the leaves; ImageNet's 1,000 are always included (default: %(default)s)",
    )  # fmt: skip
    concepts.add_argument(
        "--wordnet", type=Path, default=DEBIAN, metavar="DIR", help="folder of WordNet 3.0 (default: %(default)s)"
    )
    concepts.add_argument("--name", help="name of the graph (default: wordnet-LEAVES)")
    images = parser.add_argument_group("images")
    images.add_argument("--text-only", action="store_true", help=f"only write {GRAPH_FILE}")
    images.add_argument(
        "--source", action="append", default=[], metavar="SOURCE",
        help=f"{', '.join(BUILT_IN)}, or hf://datasets/$ORG/NAME[@REVISION]?labels=wnid|FILE&domain=photo with "
        "options split, files, config, image, label, name, license, objects, key and credits, which can also follow a "
        "name; may be repeated (default: the five of the paper)",
    )  # fmt: skip
    images.add_argument(
        "--redistributable", action="store_true",
        help="only take redistributable images, with license and author (default source: open-images)",
    )  # fmt: skip
    images.add_argument(
        "--images-per-concept",
        type=positive,
        default=75,
        metavar="N",
        help="maximum per concept (default: %(default)s)",
    )
    images.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sample (default: 0)")
    images.add_argument(
        "--max-side", type=natural, default=512, metavar="PIXELS",
        help="resize larger images; 0 keeps all unchanged (default: %(default)s)",
    )  # fmt: skip
    result = parser.add_argument_group("output")
    result.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    result.add_argument("--push-to", metavar="GRAPH", help="publish the concepts: hf://datasets/$ORG/NAME")
    add_images_destination(result)
    result.add_argument("--dry-run", action="store_true", help="only check everything and print what would be done")
    result.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
