"""Sources of labels: tagged model repos, a collection on the Hub, or a local folder.

A label is an untrusted claim: it is validated, must be of the model and graph that its path names, and must have the
hash that the Hub lists. Labels that fail are skipped with a warning. Reading labels never counts as a download of a
model.
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from mll_hf.errors import GraphError, HubError, InputError, LabelError, MLLError
from mll_hf.hub.card import LABEL_PATH as REPO_LABEL
from mll_hf.hub.card import LABEL_TAG
from mll_hf.hub.connection import (
    FULL_SHA,
    Head,
    ask_or_cached,
    cache_response,
    cached_response,
    connect,
    download,
    hub_errors,
    list_model_repos,
    map_parallel,
    read_head,
)
from mll_hf.hub.index import RemoteFile
from mll_hf.hub.locations import (
    HUB,
    MAX_GRAPH_BYTES,
    REPO_ID,
    DatasetLocation,
    fetch_default_graph,
    fetch_graph,
    is_on_hub,
    parse_dataset,
)
from mll_hf.labels.file_format import label_from_bytes
from mll_hf.labels.index import IndexShard, InMemory, LabelIndex
from mll_hf.labels.join import JoinedLabels, join_labels
from mll_hf.labels.store import (
    GRAPH_PATH,
    LABEL_PATH,
    MAX_LABEL_BYTES,
    LabelStore,
    Origin,
    StoredLabels,
    check_graph,
    label_path,
    read_label,
)
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from huggingface_hub import HfApi

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.embeddings import ProbeEmbeddings
    from mll_hf.labels.index import ByteSource, IndexedLabel, Key
    from mll_hf.labels.label import LabelFacts, LabelGroup, LabelSummary, ModelLabel, ModelRef
    from mll_hf.labels.store import GroupFiles, LabelSource

A = TypeVar("A")
B = TypeVar("B")

MAX_WHOLE_BYTES = 40 * 10**6  # if the shards of a group are not larger together, they are downloaded whole
_MAX_LOCATIONS = 10  # where a graph is searched
REPO_LABEL_PATH = re.compile(r"mll/([0-9a-f]{12}/)?label\.safetensors")
_log = logging.getLogger(__name__)


def open_source(location: str | Path, graph: str | Path | None = None, token: str | None = None) -> LabelSource:
    """The source of labels that a user names: ``hub``, ``hf://datasets/org/name[@revision]``, or a local folder.

    ``graph`` is the folder or dataset of a graph, for labels whose graph is not at the location that they name.

    Raises:
        InputError: The location is malformed.
    """
    if location != HUB and not is_on_hub(location):
        return LabelStore(Path(location))
    dataset = None if location == HUB else parse_dataset(str(location))
    given = (fetch_graph(graph, token),) if graph else ()
    if dataset:
        return Collection(dataset=dataset, given_graphs=given, token=token)
    return TaggedModels(given_graphs=given, token=token)


# --- a collection -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _HubSource:
    """Common base of the sources on the Hub.

    Attributes:
        given_graphs: Graphs in addition to those found.
        token: Hub token.
    """

    given_graphs: tuple[SemanticGraph, ...] = ()
    token: str | None = None

    @cached_property
    def api(self) -> HfApi:
        """A client of the Hub."""
        return connect(self.token)

    def embeddings_of(self, label: LabelSummary) -> ProbeEmbeddings | None:
        """None: embeddings are not published."""
        return None


@dataclass(frozen=True, kw_only=True)
class Collection(_HubSource, StoredLabels):
    """A dataset repo with the layout of a folder of labels, see :mod:`mll_hf.labels.store`.

    Attributes:
        dataset: The repo.
        commit: The commit to read; default: the newest.
        added: Labels and graphs listed in the commit that are not on the Hub yet; the graphs are among those given.
    """

    dataset: DatasetLocation
    commit: Head | None = None
    added: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The collection as users write it."""
        return str(self.dataset)

    @property
    def publisher(self) -> str:
        """The owner of the repo."""
        return self.dataset.repo_id.partition("/")[0]

    @cached_property
    def _head(self) -> Head:
        if self.commit:
            return self.commit
        head = read_head(self.api, self.dataset.repo_id, "dataset", self.dataset.revision)
        if not is_collection(head):
            raise InputError(
                f"hf://datasets/{head.repo_id} has no labels yet; publish some: mll-hf push MODEL --to "
                f"hf://datasets/{head.repo_id} --labels DIR"
            )
        return head

    @cached_property
    def _by_digest(self) -> Mapping[str, SemanticGraph]:
        """The graphs of the repo and those given; graphs that cannot be read are skipped with a warning.

        A failed download is an error if there are no other graphs, or if labels are to be published.
        """
        graphs, missing = [], None
        for path in self._graph_paths():
            try:
                graphs += [self._read_graph(path)] if path not in self.added else []
            except (GraphError, LabelError, HubError) as error:
                if isinstance(error, HubError):
                    missing = error
                self._skip(error)
        if missing and (self.commit or not graphs):
            raise missing
        return {graph.digest: graph for graph in (*graphs, *self.given_graphs)}

    def _paths(self, pattern: str) -> Sequence[str]:
        found = sorted(fnmatch.filter(self._head.files, pattern))
        return [path for path in found if not path.startswith("labels/") or LABEL_PATH.fullmatch(path)]

    def _name(self, path: str) -> Path:
        return Path(self.dataset.repo_id, path)

    def _file(self, path: str) -> Path:
        head, repo_id = self._head, self.dataset.repo_id
        if path not in head.files:
            raise HubError(repo_id, f"has no {path}; see: mll-hf labels ls --labels hf://datasets/{repo_id}")
        most = MAX_LABEL_BYTES if LABEL_PATH.fullmatch(path) else MAX_GRAPH_BYTES
        return download(self.api, repo_id, "dataset", path, head.sha, most, head.files[path])

    def read(self, path: str, graphs: Mapping[str, SemanticGraph]) -> ModelLabel:
        """As in a folder; added labels are in memory."""
        return label_from_bytes(self.added[path]) if path in self.added else super().read(path, graphs)

    def _shard_files(self, paths: Sequence[str]) -> Sequence[ByteSource]:
        """Shards of a large index are read by ranges of bytes."""
        files = [RemoteFile(self.api, self._head, path) for path in paths]
        if sum(file.size for file in files) > MAX_WHOLE_BYTES:
            return files
        return map_parallel(lambda file: InMemory.mapped(self._file(file.path), file.name), files)

    def _digests(self, group: GroupFiles) -> dict[Key, str]:
        """As the Hub lists them."""
        return {key: self._head.files[path].oid for key, path in group.labels.items()}

    def _map_parallel(self, function: Callable[[A], B], items: Sequence[A]) -> Sequence[B]:
        return map_parallel(function, items, self.name)

    def origin_of(self, label: LabelFacts) -> Origin:
        """The label's file in the collection, at the commit that was read."""
        path = label_path(label.model, label.group)
        return Origin(f"hf://datasets/{self.dataset.repo_id}@{self._head.sha}/{path}", self.publisher)

    @cached_property
    def indexed(self) -> tuple[IndexedLabel, ...]:
        """As in a folder; an index that cannot be read is ignored with a warning."""
        try:
            return super().indexed
        except LabelError as error:
            _log.warning("%s; update it: mll-hf labels index --labels hf://datasets/%s", error, self.dataset.repo_id)
            return ()

    def updated_indexes(self) -> Iterator[tuple[Mapping[str, bytes | None], Sequence[IndexedLabel]]]:
        """For each group, the files to write by path (None: delete) so that its index is complete, and its labels."""
        for group in self._groups(self._label_paths()):
            shards = self._usable_shards(group)
            changes = dict(self._index_changes(group, shards, lambda _: None))
            kept = [shard for number, shard in shards.items() if group.shards[number] not in changes]
            new = [IndexShard.open(InMemory(path, memoryview(of))) for path, of in changes.items() if of is not None]
            yield changes, LabelIndex((*kept, *new)).labels if kept or new else ()


def is_collection(head: Head) -> bool:
    """Whether a dataset repo has labels, or graphs for them."""
    return any(GRAPH_PATH.fullmatch(path) or LABEL_PATH.fullmatch(path) for path in head.files)


def fetch_from_model(api: HfApi, repo_id: str, sha: str, path: str, graphs: Mapping[str, SemanticGraph]) -> ModelLabel:
    """Fetch and validate one label in its model's own repo; it must match its graph, if ``graphs`` (by digest) has it.

    A label that was measured before the repo was renamed gets the new name: the Hub says whose the old one is.

    Raises:
        HubError: It cannot be downloaded.
        LabelError: It is not a valid label, or of another model.
    """
    name = Path(repo_id, path)
    label = read_label(download(api, repo_id, "model", path, sha, MAX_LABEL_BYTES), name=name)
    if graph := graphs.get(label.graph_digest):
        check_graph(label, graph, name)
    if label.model.repo_id != repo_id and not _is_named(api, label.model.repo_id, repo_id):
        raise LabelError(f"is a label of another model ({label.model.repo_id})", name)
    return replace(label, model=replace(label.model, repo_id=repo_id))


def _is_named(api: HfApi, old_name: str, repo_id: str) -> bool:
    """Whether a name is an old one of a model's repo; asked once, since anybody can publish many false labels."""
    question = f"{old_name} is now {repo_id}"
    if isinstance(kept := cached_response(question), bool):
        return kept
    try:
        answer = read_head(api, old_name, "model").repo_id == repo_id
    except HubError as error:
        if error.status not in (401, 404):
            return False
        answer = False
    cache_response(question, answer)
    return answer


# --- all tagged models ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tagged:
    """A label file in a tagged model repo."""

    repo_id: str
    sha: str
    path: str


@dataclass(frozen=True, kw_only=True)
class TaggedModels(_HubSource):
    """All labels on the Hub that are in their model's own repo.

    Takes one request per 1,000 models, and one per label whose repo has changed since the last query.
    """

    @property
    def name(self) -> str:
        """The source as users write it."""
        return HUB

    @property
    def indexed(self) -> tuple[IndexedLabel, ...]:
        """None: labels in many repos have no common index."""
        return ()

    @cached_property
    def _labels(self) -> dict[tuple[ModelRef, LabelGroup], tuple[LabelSummary, _Tagged]]:
        """Summaries of the labels, and their files."""
        found = map_readable(lambda tagged: (self._fetch_one(tagged).summary, tagged), _list_tagged(self.api), HUB)
        return {(label.model, label.group): (label, tagged) for label, tagged in reversed(found)}

    def _fetch_one(self, tagged: _Tagged) -> ModelLabel:
        graphs = {graph.digest: graph for graph in self.given_graphs}
        return fetch_from_model(self.api, tagged.repo_id, tagged.sha, tagged.path, graphs)

    @cached_property
    def graphs(self) -> tuple[SemanticGraph, ...]:
        """The given graphs, and those in the datasets that labels name.

        A graph that cannot be found is skipped with a warning.
        """
        graphs = {graph.digest: graph for graph in self.given_graphs}
        labels: dict[str, list[LabelSummary]] = defaultdict(list)
        for label in self.list():
            labels[label.graph_digest].append(label)
        for digest in sorted(labels.keys() - graphs.keys()):
            if graph := self._find_graph(labels[digest]):
                graphs[digest] = graph
        return tuple(graphs.values())

    def _find_graph(self, labels: Sequence[LabelSummary]) -> SemanticGraph | None:
        """The graph of some labels: the default graph, or one at a location that they name, most publishers first.

        The graph must have the digest that the labels name, so nobody can replace it by another one.
        """
        default = fetch_default_graph(self.token)
        if default and default.digest == labels[0].graph_digest:
            return default
        publishers: dict[str, set[str]] = defaultdict(set)
        for label in labels:
            if is_on_hub(label.graph_location):
                publishers[label.graph_location].add(label.model.repo_id.partition("/")[0])
        locations = sorted(publishers, key=lambda location: (-len(publishers[location]), location))
        for location in locations[:_MAX_LOCATIONS]:
            try:
                graph = fetch_graph(location, self.token)
            except MLLError as error:
                _log.warning("%s", error)
                continue
            if graph.digest == labels[0].graph_digest:
                return graph
        where = (
            f"cannot be read at {abridged(locations, 3)}" if locations else "is only on the machine of its publisher"
        )
        _log.warning(
            "graph '%s' (%s) %s; its publisher can make it public with mll-hf graph push, or give it with --graph",
            labels[0].graph_name,
            labels[0].graph_digest[:12],
            where,
        )
        return None

    def list(self) -> tuple[LabelSummary, ...]:
        """The labels, in the order of the models' ids."""
        found = (label for label, _ in self._labels.values())
        return tuple(sorted(found, key=lambda label: (label.model.repo_id, label.group, label.model.revision)))

    def fetch(self, labels: Sequence[LabelFacts]) -> tuple[ModelLabel, ...]:
        """Full labels, from the cache: all were downloaded to list them."""
        return tuple(map_parallel(self._fetch_one, [self._file_of(label) for label in labels], HUB))

    def _file_of(self, label: LabelFacts) -> _Tagged:
        if (label.model, label.group) not in self._labels:
            raise InputError(f"there is no label of {label.model.repo_id} at {label.model.revision[:12]} on the Hub")
        return self._labels[label.model, label.group][1]

    def origin_of(self, label: LabelFacts) -> Origin:
        """The label's file in the model's own repo, at the commit that was read."""
        file = self._file_of(label)
        return Origin(f"hf://{file.repo_id}@{file.sha}/{file.path}", file.repo_id.partition("/")[0])


def join_source(
    source: LabelSource, graph: str | Path | None = None, probes: Sequence[str] = (), token: str | None = None
) -> JoinedLabels:
    """The labels of a source, joined over graphs; see :func:`~mll_hf.labels.join.join_labels`.

    ``graph`` is the reference graph; by default the default graph, if there is one and it has labels. Labels on the
    images in ``probes`` (names or digests) are preferred, then those on the images that the graph names.

    Raises:
        InputError: There are no labels that can be used.
    """
    wanted = fetch_graph(graph, token) if graph else fetch_default_graph(token)
    # the join needs only the facts of labels, which an index has
    listed = cast("tuple[LabelSummary, ...]", source.indexed or source.list())
    graphs = [wanted if wanted and wanted.probes and wanted.digest == g.digest else g for g in source.graphs]
    return join_labels(
        listed,
        graphs,
        reference=wanted.digest if wanted and graph else None,
        probes=probes,
        default=wanted,
        publisher_of=lambda label: source.origin_of(label).publisher,
    )


def _list_tagged(api: HfApi) -> list[_Tagged]:
    """Label files of all tagged models; from the cached listing if the Hub cannot be reached."""
    question = f"models tagged {LABEL_TAG}"
    cached = cached_response(question)
    cached = cached if isinstance(cached, list) and all(map(_tagged, cached)) else None
    query = {"filter": LABEL_TAG, "expand": ["sha", "siblings"]}
    with hub_errors(HUB):
        listed = ask_or_cached(cached, lambda patient: list(list_model_repos(api, query, patient=patient)))
    files = {entry["id"]: (entry, found) for entry in listed if (found := _tagged(entry))}
    cache_response(question, [entry for entry, _ in files.values()])
    return [file for _, found in files.values() for file in found]


def _tagged(entry: object) -> list[_Tagged]:
    """Label files of a model in a listing; none if the entry is malformed."""
    match entry:
        case {"id": str(repo_id), "sha": str(sha), "siblings": list(siblings)}:
            names = [sibling.get("rfilename") for sibling in siblings if isinstance(sibling, dict)]
            paths = sorted(name for name in names if isinstance(name, str) and REPO_LABEL_PATH.fullmatch(name))
            if REPO_ID.fullmatch(repo_id) and FULL_SHA.fullmatch(sha):
                return [_Tagged(repo_id, sha, path) for path in sorted(paths, key=lambda path: path != REPO_LABEL)]
    return []


def map_readable(function: Callable[[A], B], items: Iterable[A], name: str = "") -> list[B]:
    """Apply a function to items in parallel; labels that cannot be read are skipped with a warning."""

    def attempt(item: A) -> list[B]:
        try:
            return [function(item)]
        except (LabelError, HubError) as error:
            _log.warning("left out: %s", error)
            return []

    return [result for results in map_parallel(attempt, list(items), name) for result in results]
