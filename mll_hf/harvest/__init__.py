"""Probe images for a graph, gathered from image data sets of the Hub without downloading these as a whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

from mll_hf.errors import GraphError, InputError
from mll_hf.graph.concepts import load_graph, save_graph
from mll_hf.graph.probes import image_files
from mll_hf.harvest.dataset import Chosen, choose, write_files
from mll_hf.harvest.gathering import Gathered, HarvestConfig, OpenSource, gather, open_source, source_key
from mll_hf.harvest.record import BUILD_FILE, Build, SourceRecord, build_from_bytes, build_to_bytes, dataset_card
from mll_hf.harvest.sources import (
    BUILT_IN,
    PAPER_SOURCES,
    ImageSource,
    PinnedSource,
    parse_source,
    pin,
    read_label_file,
)
from mll_hf.utils.files import canonical_json, storage_errors, write_atomically
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mll_hf.graph.concepts import SemanticGraph

__all__ = [
    "BUILD_FILE",
    "BUILT_IN",
    "PAPER_SOURCES",
    "Build",
    "HarvestConfig",
    "ImageSource",
    "PinnedSource",
    "finished_build",
    "harvest",
    "open_all",
    "parse_source",
    "pin_all",
    "read_label_file",
]

CARD_FILE = "README.md"
_WORKING_FOLDER = ".harvest"


def pin_all(sources: Sequence[ImageSource], token: str | None = None) -> tuple[PinnedSource, ...]:
    """Find out which commits sources are at, and what their labels are said to mean.

    Raises:
        InputError: Two sources have the same name, or the labels of one cannot be read.
        HubError: There is no such data set, or the Hub cannot be reached.
        MissingExtraError: timm is not installed.
    """
    names = [source.name for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two image sources are called {abridged(twice, 3)}; say name=...")
    return tuple(pin(source, token) for source in sources)


def open_all(sources: Sequence[PinnedSource], graph: SemanticGraph, token: str | None = None) -> tuple[OpenSource, ...]:
    """Open all sources, so that what is wrong with one shows before any image is gathered.

    Raises:
        HubError: One cannot be read, or its labels contradict what is said of it.
        MissingExtraError: datasets is not installed.
    """
    return tuple(open_source(source, graph, token) for source in sources)


def harvest(graph: SemanticGraph, sources: Sequence[OpenSource], config: HarvestConfig, folder: Path) -> Build:
    """Gather images of a graph's concepts, and write graph, images and card to a folder.

    A run that was stopped goes on where it was if it is called with the same again, and the result is the same to the
    byte. For what is finished already see :func:`finished_build`.

    Args:
        graph: The graph.
        sources: Where the images are to come from, in any order that matters for nothing but the card.
        config: How many images of each concept, and how.
        folder: Where to.

    Raises:
        InputError: The folder holds images of something else, or no source has images of the graph's concepts.
        HubError: A stream broke off again and again, or has labels that it should not have.
        StorageError: The disk is full, or the folder cannot be written.
        MissingExtraError: pyarrow is not installed.
    """
    pinned = [source.pinned for source in sources]
    if (build := finished_build(graph, pinned, config, folder)) is not None:
        return build
    key, keys = _keys(graph, pinned, config)
    working = folder / _WORKING_FOLDER
    gathered = [
        gather(source, graph, config, working / of_source) for source, of_source in zip(sources, keys, strict=True)
    ]
    described = [source.pinned.source for source in sources]
    chosen = choose(gathered, [source.name for source in described], config.images_per_concept, config.seed)
    if not chosen:
        raise InputError("no source has an image of any of the graph's concepts; choose other sources or leaves")
    result = working / f"result-{key}"
    names = write_files(chosen, gathered, described, result)
    build = _record(key, graph, config, sources, gathered, chosen, [result / name for name in names])
    with storage_errors(folder):
        for name in names:
            os.replace(result / name, folder / name)
    save_graph(graph, folder)
    write_atomically(folder / CARD_FILE, dataset_card(build).encode())
    write_atomically(folder / BUILD_FILE, build_to_bytes(build))
    shutil.rmtree(working, ignore_errors=True)
    return build


def finished_build(
    graph: SemanticGraph, sources: Sequence[PinnedSource], config: HarvestConfig, folder: Path
) -> Build | None:
    """What :func:`harvest` would give, if it is in the folder already; no source is opened for that.

    Raises:
        InputError: The folder holds another build, or images of something else.
    """
    key, _ = _keys(graph, sources, config)
    present = {path.name for path in image_files(folder)}
    if not (folder / BUILD_FILE).exists():
        if present and not (folder / _WORKING_FOLDER / f"result-{key}").exists():
            raise InputError(f"{folder} holds images already ({abridged(sorted(present), 2)}); choose an empty folder")
        return None
    build = build_from_bytes((folder / BUILD_FILE).read_bytes())
    if build.key != key:
        raise InputError(f"{folder} holds another build, of {build.graph_name}; choose an empty folder")
    is_whole = present == set(build.files) and _holds(folder, graph)
    return build if is_whole else None


def check_no_images_of_another_graph(folder: Path, graph: SemanticGraph) -> None:
    """Refuse to put a graph beside images that are filed under another one.

    Raises:
        InputError: The folder holds images, and not this graph.
    """
    if image_files(folder) and not _holds(folder, graph):
        raise InputError(f"{folder} holds images of another graph; choose another folder")


def _holds(folder: Path, graph: SemanticGraph) -> bool:
    try:
        return load_graph(folder).digest == graph.digest
    except GraphError:
        return False


def _keys(graph: SemanticGraph, sources: Sequence[PinnedSource], config: HarvestConfig) -> tuple[str, list[str]]:
    """Digests (32 hex digits) of all that decides the result, and of what decides what each source gives."""
    keys = [source_key(source, graph, config) for source in sources]
    described = [[key, asdict(pinned.source)] for key, pinned in zip(keys, sources, strict=True)]
    whole = canonical_json({"graph": graph.digest, "sources": described})
    return hashlib.sha256(whole.encode()).hexdigest()[:32], keys


def _record(
    key: str,
    graph: SemanticGraph,
    config: HarvestConfig,
    sources: Sequence[OpenSource],
    gathered: Sequence[Gathered],
    chosen: Sequence[Chosen],
    files: Sequence[Path],
) -> Build:
    records = []
    for number, source in enumerate(sources):
        concepts = [each.image.concept for each in chosen if each.source == number]
        described = source.pinned.source
        records.append(
            SourceRecord(
                name=described.name,
                repo_id=described.repo_id,
                revision=source.pinned.sha,
                domain=described.domain,
                license=described.license,
                is_gated=source.pinned.is_gated,
                images=len(concepts),
                concepts=len(set(concepts)),
                tally=gathered[number].tally,
            )
        )
    own = {graph.index[each.image.concept] for each in chosen}
    tested = own.union(*(graph.ancestors[v].tolist() for v in own))
    return Build(key, graph.name, graph.digest, len(graph), len(own), len(tested), config, tuple(records),
                 tuple(file.name for file in files), sum(file.stat().st_size for file in files))  # fmt: skip
