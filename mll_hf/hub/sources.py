"""Sources of labels: tagged model repos, a collection repo, a local folder or a catalog.

A label is a claim of a stranger: it is validated, must be of the model and graph that its path names, and must have
the hash that the Hub lists. Labels that fail are skipped with a warning. Reading labels never counts as a download of
a model.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2, whichever the client uses
from huggingface_hub.utils.tqdm import tqdm

from mll_hf.errors import HubError, InputError, LabelError, MLLError
from mll_hf.graph.concepts import GRAPH_FILE, graph_to_bytes
from mll_hf.hub.card import GRAPH_TAG_PREFIX, LABEL_PATH, LABEL_TAG, graph_tag
from mll_hf.hub.connection import (
    FULL_SHA,
    Head,
    connect,
    download,
    hub_errors,
    is_unreachable,
    keep_answer,
    kept_answer,
    list_model_repos,
    read_head,
)
from mll_hf.hub.index import INDEX_FILE, IndexEntry, index_from_bytes
from mll_hf.hub.locations import (
    HUB,
    REPO_ID,
    DatasetLocation,
    fetch_graph,
    fetch_pack,
    is_on_hub,
    parse_dataset,
    read_graph,
)
from mll_hf.labels.catalog import Catalog, is_catalog
from mll_hf.labels.packs import graph_with_packs
from mll_hf.labels.store import LABEL_FILE, MAX_LABEL_BYTES, LabelStore, Origin, label_path, read_label

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from huggingface_hub import HfApi

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.embeddings import ProbeEmbeddings
    from mll_hf.labels.label import LabelSummary, ModelLabel, ModelRef

A = TypeVar("A")
B = TypeVar("B")

_LABEL_PATH = re.compile(rf"labels/[\w.-]+--[\w.-]+/[0-9a-f]{{40}}/{re.escape(LABEL_FILE)}", re.ASCII)
_MOST_INDEX_BYTES = 4 * 2**30
_THREADS = 16
_FEW = 8  # no progress bar for so few downloads
_log = logging.getLogger(__name__)


class LabelSource(Protocol):
    """A source of labels."""

    @property
    def name(self) -> str:
        """The source as users write it."""

    @property
    def graph(self) -> SemanticGraph:
        """The graph of all its labels.

        Raises:
            MLLError: There is none, or it cannot be read.
        """

    def list(self) -> tuple[LabelSummary, ...]:
        """Summaries of all labels, validated.

        Raises:
            MLLError: The source cannot be read.
        """

    def fetch(self, models: Sequence[ModelRef]) -> tuple[ModelLabel, ...]:
        """The whole labels of some of the listed models.

        Raises:
            MLLError: One of them cannot be read.
        """

    def embeddings_of(self, model: ModelRef) -> ProbeEmbeddings | None:
        """The probe embeddings stored with a label, if there are any."""

    def origin_of(self, model: ModelRef) -> Origin:
        """The file and commit that a label was read from, and its publisher."""


def open_source(location: str | Path, graph: str | Path | None = None, token: str | None = None) -> LabelSource:
    """The source of labels that a user names.

    Args:
        location: ``hub`` for all tagged models of the Hub, ``hf://datasets/org/name[@revision]`` for a collection, or
            a local folder of labels or with a catalog of them.
        graph: Folder or dataset of the labels' graph. For ``hub`` only, if its labels are of several graphs or the
            graph is not on the Hub.
        token: Hub token; None for the token of the logged-in user.

    Raises:
        InputError: The location is malformed, or a graph is given for another source than ``hub``.
    """
    if location == HUB:
        return TaggedModels(fetch_graph(graph, token) if graph else None, token)
    if graph:
        raise InputError(f"all labels of {location} are of one graph; leave out --graph (for --labels hub only)")
    if is_on_hub(location):
        return Collection(parse_dataset(str(location)), token)
    folder = Path(location)
    return Catalog(folder) if is_catalog(folder) else LabelStore(folder)


# --- a collection -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collection:
    """A dataset repo with labels of many models on one graph, and their index.

    The first query takes three requests, later ones one, or none with a pinned revision. Labels missing from the
    index, or different from it, are fetched one by one.

    Attributes:
        dataset: Its location.
        token: Hub token.
    """

    dataset: DatasetLocation
    token: str | None = None

    @property
    def name(self) -> str:
        """The collection as users write it."""
        return str(self.dataset)

    @cached_property
    def _api(self) -> HfApi:
        return connect(self.token)

    @cached_property
    def _head(self) -> Head:
        return read_head(self._api, self.dataset.repo_id, "dataset", self.dataset.revision)

    @cached_property
    def _content(self) -> CollectionContent:
        return read_collection(self._api, self._head)

    @property
    def graph(self) -> SemanticGraph:
        """The graph that all labels of the collection belong to."""
        return self._content.graph

    def list(self) -> tuple[LabelSummary, ...]:
        """Summaries of all labels, in the order of their paths."""
        return tuple(entry.summary for entry in self._content.entries)

    def fetch(self, models: Sequence[ModelRef]) -> tuple[ModelLabel, ...]:
        """Whole labels of some models, two requests each unless they are cached."""
        api, head, graph = self._api, self._head, self.graph  # cached properties have no lock since Python 3.12

        def fetch_one(model: ModelRef) -> ModelLabel:
            return fetch_from_collection(api, head, label_path(model), graph)

        return tuple(together(fetch_one, models, self.name))

    def embeddings_of(self, model: ModelRef) -> ProbeEmbeddings | None:
        """None: collections have no embeddings."""
        return None

    def origin_of(self, model: ModelRef) -> Origin:
        """The label's file in the collection, at the commit that was read."""
        repo_id = self.dataset.repo_id
        return Origin(f"hf://datasets/{repo_id}@{self._head.sha}/{label_path(model)}", repo_id.partition("/")[0])


@dataclass(frozen=True, slots=True)
class CollectionContent:
    """Content of a collection at some commit.

    Attributes:
        graph: Its graph.
        entries: Its valid labels, in the order of their paths.
    """

    graph: SemanticGraph
    entries: tuple[IndexEntry, ...]


def read_collection(api: HfApi, head: Head) -> CollectionContent:
    """Read a collection: entries of the index that match their label files, and the other label files.

    Raises:
        InputError: This is no collection.
        MLLError: Its graph cannot be read.
    """
    if not is_collection(head):
        raise InputError(
            f"hf://datasets/{head.repo_id} holds no labels yet; publish some: mll-hf push MODEL --to "
            f"hf://datasets/{head.repo_id} --labels DIR"
        )
    index = _read_index(api, head)
    graph = index.graph if index else _read_graph(api, head)
    indexed = {label_path(entry.summary.model): entry for entry in index.entries} if index else {}
    present = {path: head.files[path].oid for path in sorted(head.files) if _LABEL_PATH.fullmatch(path)}
    agreeing = {path: entry for path, entry in indexed.items() if present.get(path) == entry.oid}
    missing = [path for path in present if path not in agreeing]
    fetched = _readable(lambda path: _entry(api, head, path, graph), missing, f"hf://datasets/{head.repo_id}")
    entries = {**agreeing, **{label_path(entry.summary.model): entry for entry in fetched}}
    return CollectionContent(graph, tuple(entries[path] for path in sorted(entries)))


def _read_index(api: HfApi, head: Head) -> CollectionContent | None:
    """The collection's index; None if there is none, or it is invalid."""
    if INDEX_FILE not in head.files:
        return None
    name = Path(head.repo_id) / INDEX_FILE
    if head.files[INDEX_FILE].size > _MOST_INDEX_BYTES:
        _log.warning("%s is larger than %d GB and is not read", name, _MOST_INDEX_BYTES // 2**30)
        return None
    try:
        graph, entries = index_from_bytes(_download(api, head, INDEX_FILE, _MOST_INDEX_BYTES).read_bytes(), name)
    except LabelError as error:
        _log.warning("%s; %s", error, _rebuild(head))
        return None
    same_bytes = GRAPH_FILE not in head.files or head.holds(GRAPH_FILE, graph_to_bytes(graph))
    if not same_bytes and _read_graph(api, head).digest != graph.digest:
        _log.warning("%s is of another graph than the collection; %s", name, _rebuild(head))
        return None
    return CollectionContent(graph, entries)


def is_collection(head: Head) -> bool:
    """Whether a dataset repo has labels, or a graph for them."""
    return bool({GRAPH_FILE, INDEX_FILE} & head.files.keys()) or any(_LABEL_PATH.fullmatch(path) for path in head.files)


def _read_graph(api: HfApi, head: Head) -> SemanticGraph:
    if GRAPH_FILE not in head.files:
        raise InputError(
            f"hf://datasets/{head.repo_id} has labels, but no {GRAPH_FILE} and no index with the graph; "
            "restore the file from the repo's history"
        )
    return read_graph(api, head)


def _rebuild(head: Head) -> str:
    return f"rebuild it: mll-hf labels index --labels hf://datasets/{head.repo_id}"


def _entry(api: HfApi, head: Head, path: str, graph: SemanticGraph) -> IndexEntry:
    return IndexEntry(fetch_from_collection(api, head, path, graph).summary, head.files[path].oid)


def fetch_from_collection(api: HfApi, head: Head, path: str, graph: SemanticGraph) -> ModelLabel:
    """Fetch and validate one label of a collection.

    Raises:
        HubError: It cannot be downloaded.
        LabelError: It is no valid label of this graph, or not of the model that its path names.
    """
    if path not in head.files:
        raise HubError(head.repo_id, f"has no {path}; see: mll-hf labels ls --labels hf://datasets/{head.repo_id}")
    label = _validated(_download(api, head, path, MAX_LABEL_BYTES), graph, Path(head.repo_id) / path)
    if label_path(label.model) != path or label.model.is_local:
        raise LabelError(
            f"is a label of another model than its path says ({label.model.repo_id})", Path(head.repo_id) / path
        )
    return label


def _download(api: HfApi, head: Head, path: str, most_bytes: int) -> Path:
    file = head.files[path]
    if file.size > most_bytes:
        raise HubError(head.repo_id, f"{path} is larger than {most_bytes / 2**20:.0f} MB and was not fetched")
    sha256 = file.oid if len(file.oid) == 64 else None
    return download(api, head.repo_id, head.repo_type, path, head.sha, most_bytes, sha256)


def _validated(file: Path, graph: SemanticGraph | None, name: Path) -> ModelLabel:
    """Read a downloaded label; errors name its path on the Hub, not in the cache."""
    try:
        return read_label(file, graph)
    except LabelError as error:
        raise LabelError(error.reason, name) from None


# --- all tagged models ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tagged:
    """A model repo that is tagged as labeled."""

    repo_id: str
    sha: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class TaggedModels:
    """All models of the Hub with a label on one graph in their own repo.

    Takes one request per 1,000 models, and two per model whose commit has changed since the last query.

    Attributes:
        wanted_graph: The graph; None for the one with the most labels.
        token: Hub token.
    """

    wanted_graph: SemanticGraph | None = None
    token: str | None = None

    @property
    def name(self) -> str:
        """The source as users write it."""
        return HUB

    @cached_property
    def _api(self) -> HfApi:
        return connect(self.token)

    @cached_property
    def _models(self) -> tuple[_Tagged, ...]:
        """The models tagged with the graph."""
        models = _list_tagged(self._api)
        tags = Counter(tag for model in models for tag in model.tags)
        if self.wanted_graph:
            tag = graph_tag(self.wanted_graph.digest)
        elif tags:
            tag = min(tags, key=lambda tag: (-tags[tag], tag))
        else:
            return ()
        if len(tags) > 1:
            _log.warning(
                "the Hub has labels of %d graphs; using %s (%d models); choose with --graph",
                len(tags),
                tag,
                tags[tag],
            )
        return tuple(model for model in models if tag in model.tags)

    @cached_property
    def _labels(self) -> dict[str, tuple[LabelSummary, _Tagged]]:
        """Summaries of the labels by model id; whole labels would fill the memory."""
        found = _readable(lambda model: (self._fetch_one(model).summary, model), self._models, HUB)
        digests = Counter(label.graph_digest for label, _ in found)
        most_common = max(digests, key=digests.__getitem__, default=None)
        digest = self.wanted_graph.digest if self.wanted_graph else most_common
        return {label.model.repo_id: (label, model) for label, model in found if label.graph_digest == digest}

    def _fetch_one(self, model: _Tagged) -> ModelLabel:
        file = download(self._api, model.repo_id, "model", LABEL_PATH, model.sha, MAX_LABEL_BYTES)
        name = Path(model.repo_id) / LABEL_PATH
        label = _validated(file, self.wanted_graph, name)
        if label.model.repo_id != model.repo_id:
            raise LabelError(f"is a label of another model ({label.model.repo_id})", name)
        return label

    @cached_property
    def graph(self) -> SemanticGraph:
        """The wanted graph, or the one in the dataset that the labels name as that of their probe images."""
        if self.wanted_graph:
            return self.wanted_graph
        labels = self.list()
        if not labels:
            raise InputError(
                "no model on the Hub has a valid label; publish one: mll-hf push MODEL --labels DIR, or "
                "name a collection: --labels hf://datasets/ORG/NAME"
            )
        names = Counter(
            (label.probes_name, label.probes_revision) for label in labels if REPO_ID.fullmatch(label.probes_name)
        )
        for (repo_id, revision), _ in names.most_common(3):
            try:
                base = fetch_graph(str(DatasetLocation(repo_id, revision)), self.token)
                packs = [fetch_pack(pack.probes_name, pack.probes_revision, self.token) for pack in labels[0].packs]
                graph = graph_with_packs(base, packs)
            except MLLError as error:
                _log.warning("%s", error)
                continue
            if graph.digest == labels[0].graph_digest:
                return graph
        raise InputError(
            f"the labels' graph '{labels[0].graph_name}' ({labels[0].graph_digest[:12]}) is not in the dataset that "
            "they name; give it with --graph"
        )

    def list(self) -> tuple[LabelSummary, ...]:
        """The labels, in the order of the models' ids."""
        return tuple(label for label, _ in (self._labels[repo_id] for repo_id in sorted(self._labels)))

    def fetch(self, models: Sequence[ModelRef]) -> tuple[ModelLabel, ...]:
        """Whole labels of some models, from the cache: all were downloaded to list them."""
        for model in models:
            if model.repo_id not in self._labels or self._labels[model.repo_id][0].model != model:
                raise InputError(f"there is no label of {model.repo_id} at {model.revision[:12]} on the Hub")
        return tuple(together(self._fetch_one, [self._labels[model.repo_id][1] for model in models], HUB))

    def embeddings_of(self, model: ModelRef) -> ProbeEmbeddings | None:
        """None: model repos have no embeddings."""
        return None

    def origin_of(self, model: ModelRef) -> Origin:
        """The label's file in the model's own repo, at the commit that was read."""
        sha = self._labels[model.repo_id][1].sha
        return Origin(f"hf://{model.repo_id}@{sha}/{LABEL_PATH}", model.repo_id.partition("/")[0])


def _list_tagged(api: HfApi) -> tuple[_Tagged, ...]:
    """All models tagged as labeled that have the file; the last listing if the Hub cannot be reached."""
    question = f"models tagged {LABEL_TAG}"
    with hub_errors(HUB):
        try:
            listed = list_model_repos(api, {"filter": LABEL_TAG, "expand": ["sha", "tags", "siblings"]})
        except (OfflineModeIsEnabled, HfHubHTTPError, httpx.TransportError) as error:
            remembered = kept_answer(question)
            known = [_tagged(entry) for entry in remembered] if isinstance(remembered, list) else [None]
            if None in known or not is_unreachable(error):
                raise
            return tuple(model for model in known if model)
    models = {entry["id"]: entry for entry in listed if _tagged(entry)}
    keep_answer(question, list(models.values()))
    return tuple(model for model in map(_tagged, models.values()) if model)


def _tagged(entry: object) -> _Tagged | None:
    """A model of a listing; None if it has no label file, or is malformed."""
    match entry:
        case {"id": str(repo_id), "sha": str(sha), "tags": list(tags), "siblings": list(siblings)}:
            names = [sibling.get("rfilename") for sibling in siblings if isinstance(sibling, dict)]
            if LABEL_PATH in names and REPO_ID.fullmatch(repo_id) and FULL_SHA.fullmatch(sha):
                of_graphs = (tag for tag in tags if isinstance(tag, str) and tag.startswith(GRAPH_TAG_PREFIX))
                return _Tagged(repo_id, sha, tuple(of_graphs))
    return None


# --- in parallel ------------------------------------------------------------------------------------------------------


def together(function: Callable[[A], B], items: Sequence[A], name: str) -> list[B]:
    """Apply a function to items in parallel threads, with a progress bar if there are many.

    Raises:
        Exception: The first error of the function.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        results = pool.map(function, items)
        bar = tqdm(  # type: ignore[no-untyped-call]
            results, total=len(items), unit="label", desc=name, name="mll_hf.fetch", leave=False,
            disable=len(items) <= _FEW or None,
        )  # fmt: skip
        return list(bar)


def _readable(function: Callable[[A], B], items: Sequence[A], name: str) -> list[B]:
    """Apply a function to items in parallel; labels that cannot be read are skipped with a warning."""

    def attempt(item: A) -> B | MLLError:
        try:
            return function(item)
        except (LabelError, HubError) as error:
            return error

    results = together(attempt, items, name)
    for result in results:
        if isinstance(result, MLLError):
            _log.warning("left out: %s", result)
    return [result for result in results if not isinstance(result, MLLError)]
