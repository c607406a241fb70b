"""Locations on the Hub as users write them, and the graphs stored there."""

from __future__ import annotations

import logging
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache

from mll_hf.errors import GraphError, HubError, InputError, MLLError
from mll_hf.graph.concepts import GRAPH_FILE, SemanticGraph, load_graph
from mll_hf.graph.files import IMAGE_FILES, image_files
from mll_hf.graph.probes import IMAGES_PER_CONCEPT, ProbeSet, load_probes
from mll_hf.hub.connection import connect, download_listed, hub_errors, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mll_hf.hub.connection import Head

HUB = "hub"
# The graph that everyone measures on, hf://datasets/$ORG/NAME. None until this project publishes it: a stranger could
# register a name that we only planned, and influence selections with images of their choice.
GRAPH_VARIABLE = "MLL_GRAPH"
PACKAGE_GRAPH = "package:emoji"  # comes with this package, so others have it; with other content it needs another name
_PACKAGE_FOLDER = Path(__file__).parents[1] / "graph" / "data" / "emoji"
_NO_ACCESS = (401, 403, 404)  # the Hub does not distinguish missing repos from inaccessible ones
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
MAX_GRAPH_BYTES = 16 * 2**20
_log = logging.getLogger(__name__)
_DATASET = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@(refs/pr/\d+|[^/]+))?/?", re.ASCII)


@dataclass(frozen=True, slots=True)
class DatasetLocation:
    """A dataset repo on the Hub, at a branch, tag or commit; None for main."""

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo_id}" + (f"@{self.revision}" if self.revision else "")


def is_on_hub(text: str | Path) -> bool:
    """Whether a location is an ``hf://`` URL."""
    return isinstance(text, str) and text.startswith("hf://")


def is_public(location: str | Path) -> bool:
    """Whether others can read a graph at this location: one on the Hub, or the one of this package."""
    return is_on_hub(location) or location == PACKAGE_GRAPH


def parse_dataset(text: str) -> DatasetLocation:
    """Read ``hf://datasets/org/name`` or ``hf://datasets/org/name@revision``."""
    match = _DATASET.fullmatch(text)
    if not match:
        raise InputError(f"'{text}' is not of the form hf://datasets/$ORG/NAME or hf://datasets/$ORG/NAME@REVISION")
    return DatasetLocation(match[1], match[2])


# --- graphs -----------------------------------------------------------------------------------------------------------


def default_graph() -> str:
    """Location of the graph that everyone measures on; empty if there is none."""
    return os.environ.get(GRAPH_VARIABLE, "")


def fetch_default_graph(token: str | None = None) -> SemanticGraph | None:
    """The default graph without its images; None if there is none, with a warning if it cannot be read."""
    location = default_graph()
    try:
        return fetch_graph(location, token) if location else None
    except MLLError as error:
        _log.warning("the default graph %s is not used: %s", location, error)
        return None


def fetch_graph(location: str | Path, token: str | None = None) -> SemanticGraph:
    """The graph in a folder, in ``hf://datasets/org/name[@revision]``, or of this package, without its images."""
    return _read_graph(_open(location, token)[1], token)


def _open(location: str | Path, token: str | None = None) -> tuple[str, Path | Head]:
    """A location as it is named in labels, and its folder or its commit on the Hub."""
    if location == PACKAGE_GRAPH:
        return PACKAGE_GRAPH, _PACKAGE_FOLDER
    if not is_on_hub(location):
        return Path(location).absolute().name, Path(location)
    dataset = parse_dataset(str(location))
    head = read_head(connect(token), dataset.repo_id, "dataset", dataset.revision)
    return str(DatasetLocation(head.repo_id, head.sha)), head


def _read_graph(source: Path | Head, token: str | None = None) -> SemanticGraph:
    if isinstance(source, Path):
        return load_graph(source)
    if GRAPH_FILE not in source.files:
        raise GraphError(f"hf://datasets/{source.repo_id} has no {GRAPH_FILE}; give the dataset of a graph")
    return load_graph(download_listed(connect(token), source, GRAPH_FILE, MAX_GRAPH_BYTES), source.repo_id)


# --- graphs with images -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GraphWithImages:
    """A graph with its probe images.

    Locations are ``hf://datasets/org/name@commit``, `PACKAGE_GRAPH`, or the name of a folder.
    """

    graph: SemanticGraph
    location: str
    images: str  # where they are from
    source: Path | Head  # their folder, or their commit on the Hub

    @property
    def bytes_to_fetch(self) -> int:
        """Size of the images that would be downloaded."""
        if isinstance(head := self.source, Path):
            return 0
        cached = partial(try_to_load_from_cache, head.repo_id, repo_type="dataset", revision=head.sha)
        return sum(head.files[path].size for path in _images_in(head) if not isinstance(cached(path), str))

    @cached_property
    def folder(self) -> Path:
        """The folder of the images on this machine; a HubError if they cannot be downloaded."""
        if isinstance(head := self.source, Path):
            return head
        wanted = [GRAPH_FILE, IMAGE_FILES]
        with _errors_of_images(), hub_errors(head.repo_id):
            return Path(snapshot_download(head.repo_id, repo_type="dataset", revision=head.sha, allow_patterns=wanted))

    def probes(self, images_per_concept: int = IMAGES_PER_CONCEPT) -> ProbeSet:
        """A sample of the probe images; its location is the one that the graph names, if these are the same images.

        A GraphError if the images are not those that the graph says are at this location.
        """
        named, found = self.graph.probes, self.images
        probes = load_probes(self.graph, self.folder, images_per_concept, location=found, graph_location=self.location)
        if named and named.location and probes.digest == named.digest:
            return replace(probes, counts=replace(probes.counts, location=named.location))
        if named and named.location == found:
            raise GraphError(
                f"the images in {found} ({probes.digest[:12]}) are not those that {self.location} names "
                f"({named.digest[:12]}); publish the graph again: mll-hf graph push"
            )
        return probes


def graph_with_images(location: str | Path, images: str | Path | None = None) -> GraphWithImages:
    """A graph with its probe images, which are downloaded when they are first needed.

    Each location is a folder or ``hf://datasets/org/name[@revision]``. By default the images are those beside the
    graph, or else at the location that the graph names.
    """
    place, source = _open(location)
    graph, images_place = _read_graph(source), place
    if images or not _images_in(source):
        named = graph.probes.location if graph.probes and is_on_hub(graph.probes.location) else ""  # not a local folder
        if not (images or named):
            message = f"{location} has no {IMAGE_FILES} and does not say where they are; give them with --images"
            raise GraphError(message)
        with _errors_of_images():
            images_place, source = _open(images or named)
    return GraphWithImages(graph, place, images_place, source)


def _images_in(source: Path | Head) -> list[str]:
    if isinstance(source, Path):
        return [file.name for file in image_files(source)]
    return [path for path in source.files if fnmatchcase(path, IMAGE_FILES)]


@contextmanager
def _errors_of_images() -> Iterator[None]:
    """Errors in the block say what to do if the images in a dataset cannot be read."""
    try:
        yield
    except HubError as error:
        if error.status not in _NO_ACCESS:
            raise
        page = f"{constants.ENDPOINT}/datasets/{error.repo_id}"
        reason = f"its probe images are private, gated or gone; ask for access at {page}, or give a copy with --images"
        raise HubError(error.repo_id, reason, error.status) from None
