"""Gather probe images for a graph from datasets on the Hub, which are streamed and never stored in full."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from graph.dataset import (
    BUILD_FILE,
    Build,
    build_from_bytes,
    build_to_bytes,
    choose,
    dataset_card,
    write_files,
)
from graph.gathering import gather, source_key
from mll_hf.errors import GraphError, InputError
from mll_hf.graph.concepts import GRAPH_FILE, graph_to_bytes, load_graph
from mll_hf.graph.files import image_files
from mll_hf.utils.files import canonical_json, storage_errors, write_atomically
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from graph.gathering import HarvestConfig, OpenSource
    from graph.sources import PinnedSource
    from mll_hf.graph.concepts import SemanticGraph

_WORKING_FOLDER = ".harvest"


def harvest(graph: SemanticGraph, sources: Sequence[OpenSource], config: HarvestConfig, folder: Path) -> Build:
    """Gather images of a graph's concepts, and write graph, images, card and ``build.json`` to a folder.

    An interrupted run resumes if it is called again with the same arguments; the result is the same, byte for byte.
    The order of the sources only matters for the card.

    Raises:
        InputError: The folder holds other images, or no source has images of the graph's concepts.
        HubError: A stream was interrupted repeatedly, or a label is not in the source's list of classes.
        StorageError: The disk is full, or the folder cannot be written.
    """
    pinned = [source.pinned for source in sources]
    if (build := finished_build(graph, pinned, config, folder)) is not None:
        return build
    working, described = folder / _WORKING_FOLDER, [source.source for source in pinned]
    gathered = [gather(source, config, working / source_key(source.pinned, graph, config)) for source in sources]
    chosen = choose(gathered, [source.name for source in described], config)
    if not chosen:
        raise InputError("no source has an image of any concept of the graph; choose other sources or leaves")
    key = _build_key(graph, pinned, config)
    finished = working / f"result-{key}"
    names = write_files(chosen, gathered, described, finished)
    licenses = [kind for of, image in chosen if (kind := gathered[of].credit(image).kind)]
    own = {graph.index[image.concept] for _, image in chosen}
    build = Build(
        key=key,
        graph_name=graph.name,
        graph_digest=graph.digest,
        concepts=len(graph),
        concepts_with_images=len(own),
        concepts_tested=len(own.union(*(graph.ancestors[v].tolist() for v in own))),
        images=len(chosen),
        files=list(names),
        bytes=sum((finished / name).stat().st_size for name in names),
        config=asdict(config),
        sources=[
            {
                "name": source.source.name,
                "repo_id": source.source.repo_id,
                "revision": source.sha,
                "domain": source.source.domain,
                "license": source.source.license,
                "is_gated": source.is_gated,
                "images": sum(each.source == number for each in chosen),
                "concepts": len({image.concept for of, image in chosen if of == number}),
                **gathered[number].tally,
            }
            for number, source in enumerate(pinned)
        ],
        licenses=dict(sorted(Counter(licenses).items())),
    )
    with storage_errors(folder):
        for name in names:
            os.replace(finished / name, folder / name)
    write_atomically(folder / GRAPH_FILE, graph_to_bytes(graph))
    write_atomically(folder / "README.md", dataset_card(build).encode())
    write_atomically(folder / BUILD_FILE, build_to_bytes(build))
    shutil.rmtree(working, ignore_errors=True)
    return build


def finished_build(
    graph: SemanticGraph, sources: Sequence[PinnedSource], config: HarvestConfig, folder: Path
) -> Build | None:
    """The result of :func:`harvest` if it is already in the folder, else None; no source is opened.

    Raises:
        InputError: The folder holds another build, or other images.
    """
    key = _build_key(graph, sources, config)
    present = {path.name for path in image_files(folder)}
    if not (folder / BUILD_FILE).exists():
        if present and not (folder / _WORKING_FOLDER / f"result-{key}").exists():
            raise InputError(f"{folder} already holds images ({abridged(sorted(present), 2)}); choose an empty folder")
        return None
    build = build_from_bytes((folder / BUILD_FILE).read_bytes())
    if build.key != key:
        raise InputError(f"{folder} holds another build, of {build.graph_name}; choose an empty folder")
    return build if present == set(build.files) and _holds(folder, graph) else None


def check_same_graph(folder: Path, graph: SemanticGraph) -> None:
    """Raise an InputError if a folder holds images of another graph."""
    if image_files(folder) and not _holds(folder, graph):
        raise InputError(f"{folder} holds images of another graph; choose another folder")


def _holds(folder: Path, graph: SemanticGraph) -> bool:
    try:
        return load_graph(folder).digest == graph.digest
    except GraphError:
        return False


def _build_key(graph: SemanticGraph, sources: Sequence[PinnedSource], config: HarvestConfig) -> str:
    """Digest (32 hex digits) of everything that determines the result."""
    described = [[source_key(pinned, graph, config), asdict(pinned.source)] for pinned in sources]
    whole = canonical_json({"graph": graph.digest, "sources": described})
    return hashlib.sha256(whole.encode()).hexdigest()[:32]
