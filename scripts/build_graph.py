# /// script
# requires-python = ">=3.11"
# dependencies = ["mll-hf[build]"]
# ///
"""Build the graph of WordNet's visual concepts, gather images that test them, and publish both as a dataset repo.

The concepts are the classes of ImageNet and everything above them in WordNet 3.0; the images come from the five data
sets of the paper, or from any labeled data set on the Hub, which are streamed and never stored as a whole. The same
command goes on where an interrupted run stopped.

    python scripts/build_graph.py --text-only --out DIR
    python scripts/build_graph.py --out DIR --push-to hf://datasets/ORG/NAME --private
    python scripts/build_graph.py --out DIR --source imagenet-r --source imagenet-12k --images-per-concept 40
    python scripts/build_graph.py --out DIR --source 'hf://datasets/ORG/BIRDS?labels=birds.csv&domain=drawing'

WordNet's files come with Debian's package wordnet-base, or with: python -m wn download omw-en:1.4
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mll_hf.cli.options import positive, script_parser
from mll_hf.errors import InputError, MLLError
from mll_hf.graph.concepts import GRAPH_FILE, save_graph
from mll_hf.graph.wordnet import LEAVES, LIBRARY, ClassList, find_wordnet, leaf_names, make_graph
from mll_hf.harvest import (
    BUILT_IN,
    PAPER_SOURCES,
    HarvestConfig,
    check_no_images_of_another_graph,
    finished_build,
    harvest,
    open_all,
    parse_source,
    pin_all,
)
from mll_hf.hub.locations import parse_dataset
from mll_hf.hub.publish import publish_graph
from mll_hf.labeling.destinations import check_login
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.wordnet import VisualGraph
    from mll_hf.harvest import Build
    from mll_hf.harvest.gathering import OpenSource

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status (0 all done, 1 failed, 2 misused, 130 interrupted)."""
    args = build_parser().parse_args(arguments)
    try:
        report = build(args)
    except MLLError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; what was gathered is kept, and the same command goes on from there")
        return _INTERRUPTED
    print(json.dumps(report, ensure_ascii=False) if args.json else "\n".join(lines(report)), flush=True)
    return 0


def build(args: argparse.Namespace) -> dict[str, Any]:
    """Do what the arguments say; returns what was done."""
    check(args)
    name = args.name or f"wordnet-{args.leaves}"
    visual = make_graph(name, leaf_names(ClassList(args.leaves)), find_wordnet(args.wordnet))
    report: dict[str, Any] = {"graph": describe(visual), "dry_run": args.dry_run}
    if visual.missing:
        say(f"{len(visual.missing)} classes are not in WordNet and were left out: {abridged(visual.missing, 10)}")
    if args.text_only:
        check_no_images_of_another_graph(args.out, visual.graph)
        if not args.dry_run:
            save_graph(visual.graph, args.out)
            report["out"] = str(args.out)
        return report
    wanted = [parse_source(text) for text in args.source] or PAPER_SOURCES
    if args.push_to and not args.dry_run:
        check_login()
    graph, pinned = visual.graph, pin_all(wanted)
    if args.push_to and not args.private and (gated := [each.source.name for each in pinned if each.is_gated]):
        raise InputError(f"images of {abridged(gated, 3)} may not be published to everybody; add --private")
    if args.dry_run:
        report["sources"] = [planned(source) for source in open_all(pinned, graph)]
        return report
    config = HarvestConfig(args.images_per_concept, args.seed, args.max_side or None)
    result = finished_build(graph, pinned, config, args.out)
    if result is None:
        result = harvest(graph, open_all(pinned, graph), config, args.out)
    report |= {"out": str(args.out), "images": gathered(result)}
    if args.push_to:
        report["published"] = asdict(publish_graph(args.out, args.push_to, private=args.private))
    return report


def check(args: argparse.Namespace) -> None:
    """Refuse arguments that do not go together, before anything is done."""
    if args.text_only and (args.source or args.push_to):
        raise InputError("--text-only makes a graph without images; leave it out, or leave out --source and --push-to")
    if args.private and not args.push_to:
        raise InputError("--private is for a new dataset repo; add --push-to hf://datasets/ORG/NAME")
    if args.push_to:
        parse_dataset(args.push_to)


def describe(visual: VisualGraph) -> dict[str, Any]:
    """A graph in figures."""
    graph = visual.graph
    return {
        "name": graph.name,
        "digest": graph.digest,
        "concepts": len(graph),
        "leaves": len(visual.leaves),
        "ancestors": len(graph) - len(visual.leaves),
        "edges": sum(map(len, graph.parents)),
        "roots": [concept.name for concept in graph.concepts if not concept.hypernyms],
        "depth": depth(graph),
        "missing": list(visual.missing),
    }


def depth(graph: SemanticGraph) -> int:
    """Edges on the longest way up."""
    above = [0] * len(graph)
    for v in graph.topological_order:
        above[v] = max((above[parent] + 1 for parent in graph.parents[v]), default=0)
    return max(above)


def planned(source: OpenSource) -> dict[str, Any]:
    """A source as it will be read."""
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


def gathered(build: Build) -> dict[str, Any]:
    """What was gathered, in figures."""
    return {
        "images": build.images,
        "files": len(build.files),
        "bytes": build.bytes,
        "concepts_with_images": build.concepts_with_images,
        "concepts_tested": build.concepts_tested,
        "sources": [asdict(source) for source in build.sources],
    }


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    graph = report["graph"]
    found = [
        f"{graph['name']}: {graph['concepts']:,} concepts ({graph['leaves']:,} classes and {graph['ancestors']:,} "
        f"above them), {graph['edges']:,} edges, depth {graph['depth']}, root {', '.join(graph['roots'])}, digest "
        f"{graph['digest'][:12]}"
    ]
    if "images" in report:
        images = report["images"]
        found += [
            f"{source['name']}: {source['images']:,} images of {source['concepts']:,} concepts, of "
            f"{source['tally']['seen']:,} seen ({source['tally']['outside']:,} of no concept here, "
            f"{source['tally']['undecodable']:,} undecodable)"
            for source in images["sources"]
        ]
        found.append(
            f"{images['images']:,} images in {images['files']} files, {images['bytes'] / 1e6:,.1f} MB; "
            f"{images['concepts_with_images']:,} concepts have their own, {images['concepts_tested']:,} are tested"
        )
    elif "sources" in report:
        found += [
            f"would stream {source['name']}: {source['repo']}@{source['revision'][:12]}, {source['shards']} shards, "
            f"{source['domain']}{', gated' if source['gated'] else ''}"
            for source in report["sources"]
        ]
    if "out" in report:
        found.append(f"in {report['out']}")
    if "published" in report:
        found.append(
            f"{'published' if report['published']['changed'] else 'is there already'}: {report['published']['url']}"
        )
    return found


def say(message: str) -> None:
    """Tell the user something that is no result."""
    print(message, file=sys.stderr, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the script's arguments."""
    parser = script_parser(str(__doc__))
    concepts = parser.add_argument_group("which concepts")
    concepts.add_argument(
        "--leaves", choices=[leaves.value for leaves in LEAVES], default=ClassList.IMAGENET_12K.value,
        help="the classes at the bottom; the 1,000 of ImageNet are always among them (default: %(default)s)",
    )  # fmt: skip
    concepts.add_argument(
        "--wordnet", metavar="WHERE",
        help=f"folder of WordNet 3.0, or '{LIBRARY}' for the library (default: Debian's, else the library)",
    )  # fmt: skip
    concepts.add_argument("--name", help="what to call the graph (default: wordnet- and the list of classes)")
    images = parser.add_argument_group("which images")
    images.add_argument("--text-only", action="store_true", help=f"no images; write {GRAPH_FILE} alone")
    images.add_argument(
        "--source", action="append", default=[], metavar="SOURCE",
        help=f"{', '.join(BUILT_IN)}, or hf://datasets/ORG/NAME[@REVISION]?labels=wnid|FILE&domain=photo with any of "
        "split, files, config, image, label, name and license; may be repeated (default: the five of the paper)",
    )  # fmt: skip
    images.add_argument(
        "--images-per-concept", type=positive, default=75, metavar="N", help="most per concept (default: %(default)s)"
    )
    images.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample (default: 0)")
    images.add_argument(
        "--max-side", type=_natural, default=512, metavar="PIXELS",
        help="make larger images smaller; 0 keeps all as they are (default: %(default)s)",
    )  # fmt: skip
    result = parser.add_argument_group("where it goes")
    result.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the graph")
    result.add_argument("--push-to", metavar="WHERE", help="publish it: hf://datasets/ORG/NAME")
    result.add_argument("--private", action="store_true", help="make a new dataset repo private")
    result.add_argument("--dry-run", action="store_true", help="only check everything, and say what would be done")
    result.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
