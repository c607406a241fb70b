"""Where labels are read from: model repos found by their tag, a collection repo, a local folder or a catalog.

Every label is a stranger's claim: it is validated, it must be of the model and graph that it is filed under, and
where the Hub says what its content is, it must be that. What fails is left out and said. No file that the Hub counts
as a download of a model is touched.
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
_AT_ONCE = 16
_FEW = 8  # so many downloads need no progress bar
_log = logging.getLogger(__name__)


class LabelSource(Protocol):
    """Where labels come from."""

    @property
    def name(self) -> str:
        """The source as the user wrote it."""

    @property
    def graph(self) -> SemanticGraph:
        """The graph that all its labels belong to.

        Raises:
            MLLError: There is none, or it cannot be had.
        """

    def list(self) -> tuple[LabelSummary, ...]:
        """What selection needs of every label, validated.

        Raises:
            MLLError: The source cannot be read.
        """

    def fetch(self, models: Sequence[ModelRef]) -> tuple[ModelLabel, ...]:
        """The whole labels of some of the listed models.

        Raises:
            MLLError: One of them cannot be had.
        """

    def embeddings_of(self, model: ModelRef) -> ProbeEmbeddings | None:
        """The probe embeddings beside a label, if there are any."""

    def origin_of(self, model: ModelRef) -> Origin:
        """Which file at which commit a label was read from, and who published it."""


def open_source(location: str | Path, graph: str | Path | None = None, token: str | None = None) -> LabelSource:
    """The source of labels that a user names.

    Args:
        location: ``hub`` for all tagged models of the Hub, ``hf://datasets/org/name[@revision]`` for a collection, or
            a local folder of labels or with a catalog of them.
        graph: Folder or dataset of the graph that the labels are to be of. Only ``hub`` needs one, and only if labels
            of several graphs are about or the graph is not on the Hub.
        token: Hub token; None takes the one that the user has logged in with.

    Raises:
        InputError: The location is malformed, or a graph is given where there is nothing to choose.
    """
    if location == HUB:
        return TaggedModels(fetch_graph(graph, token) if graph else None, token)
    if graph:
        raise InputError(f"all labels of {location} are of one graph; leave out --graph, which is for --labels hub")
    if is_on_hub(location):
        return Collection(parse_dataset(str(location)), token)
    folder = Path(location)
    return Catalog(folder) if is_catalog(folder) else LabelStore(folder)


# --- a collection -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collection:
    """A dataset repo with the labels of many models on one graph, and an index of them.

    A cold query costs three requests, with a pinned revision a warm one none. Labels that the index lacks, or knows
    otherwise than they are, are fetched one by one.

    Attributes:
        dataset: Where it is.
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
        """None: collections hold no embeddings."""
        return None

    def origin_of(self, model: ModelRef) -> Origin:
        """The label's file in the collection, at the commit that was read."""
        repo_id = self.dataset.repo_id
        return Origin(f"hf://datasets/{repo_id}@{self._head.sha}/{label_path(model)}", repo_id.partition("/")[0])


@dataclass(frozen=True, slots=True)
class CollectionContent:
    """What a collection holds at some commit.

    Attributes:
        graph: Its graph.
        entries: Its valid labels, in the order of their paths.
    """

    graph: SemanticGraph
    entries: tuple[IndexEntry, ...]


def read_collection(api: HfApi, head: Head) -> CollectionContent:
    """Read a collection: its index as far as that agrees with the labels, and the other labels themselves.

    Raises:
        InputError: This is no collection.
        MLLError: Its graph cannot be had.
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
    """The collection's index; None if there is none, or none that can be believed."""
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
    """Whether a dataset repo holds labels, or the graph that they would be of."""
    return bool({GRAPH_FILE, INDEX_FILE} & head.files.keys()) or any(_LABEL_PATH.fullmatch(path) for path in head.files)


def _read_graph(api: HfApi, head: Head) -> SemanticGraph:
    if GRAPH_FILE not in head.files:
        raise InputError(
            f"hf://datasets/{head.repo_id} has labels, but no {GRAPH_FILE} and no index that holds it; "
            "put the file back from the repo's history"
        )
    return read_graph(api, head)


def _rebuild(head: Head) -> str:
    return f"build it again: mll-hf labels index --labels hf://datasets/{head.repo_id}"


def _entry(api: HfApi, head: Head, path: str, graph: SemanticGraph) -> IndexEntry:
    return IndexEntry(fetch_from_collection(api, head, path, graph).summary, head.files[path].oid)


def fetch_from_collection(api: HfApi, head: Head, path: str, graph: SemanticGraph) -> ModelLabel:
    """Fetch and validate one label of a collection.

    Raises:
        HubError: It cannot be had.
        LabelError: It is no valid label of this graph, or not of the model that it is filed under.
    """
    if path not in head.files:
        raise HubError(head.repo_id, f"has no {path}; see: mll-hf labels ls --labels hf://datasets/{head.repo_id}")
    label = _validated(_download(api, head, path, MAX_LABEL_BYTES), graph, Path(head.repo_id) / path)
    if label_path(label.model) != path or label.model.is_local:
        raise LabelError(
            f"is filed under another model than its own ({label.model.repo_id})", Path(head.repo_id) / path
        )
    return label


def _download(api: HfApi, head: Head, path: str, most_bytes: int) -> Path:
    file = head.files[path]
    if file.size > most_bytes:
        raise HubError(head.repo_id, f"{path} is larger than {most_bytes / 2**20:.0f} MB and was not fetched")
    sha256 = file.oid if len(file.oid) == 64 else None
    return download(api, head.repo_id, head.repo_type, path, head.sha, most_bytes, sha256)


def _validated(file: Path, graph: SemanticGraph | None, name: Path) -> ModelLabel:
    """Read a downloaded label; complaints name it by its place on the Hub, not by that in the cache."""
    try:
        return read_label(file, graph)
    except LabelError as error:
        raise LabelError(error.reason, name) from None


# --- all tagged models ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tagged:
    """A model repo that says it carries a label."""

    repo_id: str
    sha: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class TaggedModels:
    """All models of the Hub that carry a label of one graph in their own repo.

    Costs a listing (one request per 1,000 models) and at most two requests per model; none for a model whose commit
    has not changed since the last time.

    Attributes:
        wanted_graph: The graph, or None for the one that most models are labeled on.
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
        """The models that say that they carry a label of the graph."""
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
                "labels of %d graphs are on the Hub; taking %s (%d models); choose with --graph",
                len(tags),
                tag,
                tags[tag],
            )
        return tuple(model for model in models if tag in model.tags)

    @cached_property
    def _labels(self) -> dict[str, tuple[LabelSummary, _Tagged]]:
        """What is kept of the labels, by the models' ids; whole ones would fill the memory."""
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
        """The graph: the one asked for, or the one in the dataset that the labels name as the origin of the images."""
        if self.wanted_graph:
            return self.wanted_graph
        labels = self.list()
        if not labels:
            raise InputError(
                "no model on the Hub carries a label that can be read; publish one: mll-hf push MODEL --labels DIR, or "
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
            f"the graph '{labels[0].graph_name}' ({labels[0].graph_digest[:12]}) of the labels is not where they say; "
            "give it with --graph"
        )

    def list(self) -> tuple[LabelSummary, ...]:
        """The labels, in the order of the models' ids."""
        return tuple(label for label, _ in (self._labels[repo_id] for repo_id in sorted(self._labels)))

    def fetch(self, models: Sequence[ModelRef]) -> tuple[ModelLabel, ...]:
        """Whole labels of some models, from the cache, for they were all read to list them."""
        for model in models:
            if model.repo_id not in self._labels or self._labels[model.repo_id][0].model != model:
                raise InputError(f"there is no label of {model.repo_id} at {model.revision[:12]} on the Hub")
        return tuple(together(self._fetch_one, [self._labels[model.repo_id][1] for model in models], HUB))

    def embeddings_of(self, model: ModelRef) -> ProbeEmbeddings | None:
        """None: model repos hold no embeddings."""
        return None

    def origin_of(self, model: ModelRef) -> Origin:
        """The label's file in the model's own repo, at the commit that was read."""
        sha = self._labels[model.repo_id][1].sha
        return Origin(f"hf://{model.repo_id}@{sha}/{LABEL_PATH}", model.repo_id.partition("/")[0])


def _list_tagged(api: HfApi) -> tuple[_Tagged, ...]:
    """All models tagged as labeled that have the file; when the Hub cannot be reached, those of the last time.

    The card is not asked for: it is the one part of a listing in which a stranger can put anything.
    """
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
    """A model of a listing; None if it lacks the label's file, or is not what a model should be."""
    match entry:
        case {"id": str(repo_id), "sha": str(sha), "tags": list(tags), "siblings": list(siblings)}:
            names = [sibling.get("rfilename") for sibling in siblings if isinstance(sibling, dict)]
            if LABEL_PATH in names and REPO_ID.fullmatch(repo_id) and FULL_SHA.fullmatch(sha):
                of_graphs = (tag for tag in tags if isinstance(tag, str) and tag.startswith(GRAPH_TAG_PREFIX))
                return _Tagged(repo_id, sha, tuple(of_graphs))
    return None


# --- many at once -----------------------------------------------------------------------------------------------------


def together(function: Callable[[A], B], items: Sequence[A], name: str) -> list[B]:
    """Apply a function to many items at once, in threads, with a progress bar if there are many.

    Raises:
        Exception: The first one that the function raised.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = pool.map(function, items)
        bar = tqdm(  # type: ignore[no-untyped-call]
            results, total=len(items), unit="label", desc=name, name="mll_hf.fetch", leave=False,
            disable=len(items) <= _FEW or None,
        )  # fmt: skip
        return list(bar)


def _readable(function: Callable[[A], B], items: Sequence[A], name: str) -> list[B]:
    """Apply a function to many items at once; what cannot be read or believed is left out and said."""

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
