"""Locations on the Hub as users write them, and the graphs stored there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import snapshot_download

from mll_hf.errors import GraphError, InputError
from mll_hf.graph.concepts import GRAPH_FILE, SemanticGraph, load_graph
from mll_hf.graph.probes import IMAGE_FILES, ProbeSet, SamplingConfig, load_probes
from mll_hf.hub.connection import FULL_SHA, connect, download, hub_errors, read_head

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB = "hub"
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
MAX_GRAPH_BYTES = 64 * 2**20
_DATASET = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@([^/]+))?/?", re.ASCII)


@dataclass(frozen=True, slots=True)
class DatasetLocation:
    """A dataset repo on the Hub.

    Attributes:
        repo_id: ``org/name``.
        revision: Branch, tag or commit; None for main.
    """

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo_id}" + (f"@{self.revision}" if self.revision else "")


def is_on_hub(text: str | Path) -> bool:
    """Whether a location has the form of one on the Hub."""
    return isinstance(text, str) and text.startswith("hf://")


def parse_dataset(text: str) -> DatasetLocation:
    """Read ``hf://datasets/org/name`` or ``hf://datasets/org/name@revision``.

    Raises:
        InputError: It is not of this form.
    """
    match = _DATASET.fullmatch(text)
    if not match:
        raise InputError(f"'{text}' is not of the form hf://datasets/ORG/NAME or hf://datasets/ORG/NAME@REVISION")
    return DatasetLocation(match[1], match[2])


def pinned(location: str) -> DatasetLocation:
    """The dataset repo ``hf://datasets/org/name[@revision]`` at the current commit of its revision.

    Raises:
        InputError: The location is malformed.
        HubError: There is no such dataset or revision.
    """
    dataset = parse_dataset(location)
    return DatasetLocation(dataset.repo_id, read_head(connect(), dataset.repo_id, "dataset", dataset.revision).sha)


@dataclass(frozen=True, slots=True)
class GraphLocation:
    """A graph with its probe images on this machine.

    Attributes:
        folder: With ``graph.json`` and ``images*.parquet``.
        dataset: The dataset and commit that they came from, if from the Hub.
    """

    folder: Path
    dataset: DatasetLocation | None = None

    @property
    def graph(self) -> SemanticGraph:
        """The graph.

        Raises:
            GraphError: It cannot be read.
        """
        return load_graph(self.folder, self.dataset.repo_id if self.dataset else None)

    def probes(self, sampling: SamplingConfig) -> ProbeSet:
        """A sample of the probe images, named by repo and commit if they are from the Hub.

        Raises:
            GraphError: The images cannot be read.
            MissingExtraError: pyarrow is not installed.
        """
        origin = (self.dataset.repo_id, self.dataset.revision or "") if self.dataset else None
        return load_probes(self.graph, self.folder, sampling, origin)


def fetch_graph_with_images(location: str | Path) -> GraphLocation:
    """Download a graph with its probe images, unless it is local or cached.

    Args:
        location: A folder, or ``hf://datasets/org/name[@revision]``.

    Raises:
        InputError: The location is malformed.
        HubError: The files cannot be downloaded.
    """
    if not is_on_hub(location):
        return GraphLocation(Path(location))
    dataset = pinned(str(location))
    with hub_errors(dataset.repo_id):
        folder = snapshot_download(
            dataset.repo_id,
            repo_type="dataset",
            revision=dataset.revision,
            allow_patterns=[GRAPH_FILE, IMAGE_FILES],
        )
    return GraphLocation(Path(folder), dataset)


def fetch_graph(location: str | Path, token: str | None = None) -> SemanticGraph:
    """A graph without its images.

    Args:
        location: A folder, or ``hf://datasets/org/name[@revision]``.
        token: Hub token; None for the token of the logged-in user.

    Raises:
        InputError: The location is malformed.
        HubError: The file cannot be downloaded.
        GraphError: It is no graph.
    """
    if not is_on_hub(location):
        return load_graph(location)
    dataset, api = parse_dataset(str(location)), connect(token)
    if dataset.revision and FULL_SHA.fullmatch(dataset.revision):
        return read_graph(api, dataset.repo_id, GRAPH_FILE, dataset.revision)
    head = read_head(api, dataset.repo_id, "dataset", dataset.revision)
    if GRAPH_FILE not in head.files:
        raise GraphError(f"hf://datasets/{head.repo_id} has no {GRAPH_FILE}; give the dataset of a graph")
    return read_graph(api, head.repo_id, GRAPH_FILE, head.sha)


def read_graph(api: HfApi, repo_id: str, path: str, sha: str) -> SemanticGraph:
    """A graph in a file of a dataset repo at a commit.

    Raises:
        HubError: The file cannot be downloaded.
        GraphError: It is no graph.
    """
    return load_graph(download(api, repo_id, "dataset", path, sha, MAX_GRAPH_BYTES), repo_id)
