"""Sources of labels: tagged model repos, a collection on the Hub, or a local folder.

A label is a claim of a stranger: it is validated, must be of the model and graph that its path names, and must have
the hash that the Hub lists. Labels that fail are skipped with a warning. Reading labels never counts as a download of
a model.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from mll_hf.errors import GraphError, HubError, InputError, LabelError, MLLError
from mll_hf.graph.concepts import load_graph
from mll_hf.hub.card import LABEL_PATH as REPO_LABEL
from mll_hf.hub.card import LABEL_TAG
from mll_hf.hub.connection import (
    FULL_SHA,
    Head,
    answer_or,
    connect,
    download,
    hub_errors,
    keep_answer,
    kept_answer,
    list_model_repos,
    read_head,
    together,
)
from mll_hf.hub.index import graph_of, labels_by_group, read_index, shards_by_group
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
from mll_hf.labels.join import JoinedLabels, join_labels
from mll_hf.labels.store import (
    GRAPH_PATH,
    LABEL_PATH,
    MANY_LABELS,
    MAX_LABEL_BYTES,
    LabelStore,
    Origin,
    check_graph,
    label_path,
    read_label,
)
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from huggingface_hub import HfApi

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.embeddings import ProbeEmbeddings
    from mll_hf.labels.index import IndexedLabel
    from mll_hf.labels.label import LabelFacts, LabelGroup, LabelSummary, ModelLabel, ModelRef
    from mll_hf.labels.store import LabelSource

A = TypeVar("A")
B = TypeVar("B")

_MOST_PLACES = 10  # where a graph is looked for
REPO_LABEL_PATH = re.compile(r"mll/([0-9a-f]{12}/)?label\.safetensors")
_log = logging.getLogger(__name__)


def open_source(location: str | Path, graph: str | Path | None = None, token: str | None = None) -> LabelSource:
    """The source of labels that a user names: ``hub``, ``hf://datasets/org/name[@revision]``, or a local folder.

    ``graph`` is the folder or dataset of a graph, for labels whose graph is not where they say.

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
class _OnHub:
    """What the sources on the Hub have in common.

    Attributes:
        given_graphs: Graphs besides those that are found.
        token: Hub token.
    """

    given_graphs: tuple[SemanticGraph, ...] = ()
    token: str | None = None

    @cached_property
    def _api(self) -> HfApi:
        return connect(self.token)

    def embeddings_of(self, label: LabelSummary) -> ProbeEmbeddings | None:
        """None: embeddings are not published."""
        return None


@dataclass(frozen=True, kw_only=True)
class Collection(_OnHub):
    """A dataset repo with the layout of a folder of labels, see :mod:`mll_hf.labels.store`."""

    dataset: DatasetLocation

    @property
    def name(self) -> str:
        """The collection as users write it."""
        return str(self.dataset)

    @cached_property
    def _head(self) -> Head:
        head = read_head(self._api, self.dataset.repo_id, "dataset", self.dataset.revision)
        if not is_collection(head):
            raise InputError(
                f"hf://datasets/{head.repo_id} holds no labels yet; publish some: mll-hf push MODEL --to "
                f"hf://datasets/{head.repo_id} --labels DIR"
            )
        return head

    @property
    def graphs(self) -> tuple[SemanticGraph, ...]:
        """The graphs of the repo by path, and those given; graphs that cannot be read are skipped with a warning."""
        return tuple(self._graphs.values())

    @cached_property
    def _graphs(self) -> dict[str, SemanticGraph]:
        own = read_graphs(self._api, self._head, skip_missing=True)
        return {graph.digest: graph for graph in (*own, *self.given_graphs)}

    @cached_property
    def indexed(self) -> tuple[IndexedLabel, ...]:
        """All labels as the index knows them; an index that cannot be read is ignored with a warning."""
        api, head, groups, shards = self._api, self._head, labels_by_group(self._head), shards_by_group(self._head)
        if not shards or sum(map(len, groups.values())) < MANY_LABELS:
            return ()
        found: list[IndexedLabel] = []
        for stem, files in groups.items():
            graph = graph_of(stem, self.graphs)
            if graph is None:
                _log.warning("left out: labels %s of %s, since their graph is missing", stem, self.name)
                continue
            try:
                index = read_index(api, head, shards[stem], files, graph, self._summaries_at)
            except LabelError as error:
                _log.warning("%s; update it: mll-hf labels index --labels hf://datasets/%s", error, head.repo_id)
                return ()
            found += index.labels if index else ()
        return tuple(found)

    def _summaries_at(self, paths: Sequence[str]) -> list[LabelSummary]:
        api, head, graphs = self._api, self._head, self._graphs  # cached properties have no lock since Python 3.12
        return readable(lambda path: fetch_from_collection(api, head, path, graphs).summary, paths, self.name)

    @cached_property
    def _summaries(self) -> tuple[LabelSummary, ...]:
        groups = labels_by_group(self._head).values()
        return tuple(self._summaries_at(sorted(path for files in groups for path in files.values())))

    def list(self) -> tuple[LabelSummary, ...]:
        """Summaries of all labels, in the order of their paths; each is fetched, unless it is cached."""
        return self._summaries

    def fetch(self, labels: Sequence[LabelFacts]) -> tuple[ModelLabel, ...]:
        """Whole labels, one request each unless they are cached."""
        fetch_one = partial(fetch_from_collection, self._api, self._head, graphs=self._graphs)
        return tuple(together(fetch_one, [label_path(label.model, label.group) for label in labels], self.name))

    def origin_of(self, label: LabelFacts) -> Origin:
        """The label's file in the collection, at the commit that was read."""
        repo_id, path = self.dataset.repo_id, label_path(label.model, label.group)
        return Origin(f"hf://datasets/{repo_id}@{self._head.sha}/{path}", repo_id.partition("/")[0])


def is_collection(head: Head) -> bool:
    """Whether a dataset repo has labels, or graphs for them."""
    return any(GRAPH_PATH.fullmatch(path) or LABEL_PATH.fullmatch(path) for path in head.files)


def read_graphs(api: HfApi, head: Head, *, skip_missing: bool = False) -> list[SemanticGraph]:
    """The graphs of a collection, by path; invalid ones are skipped with a warning.

    With ``skip_missing``, graphs that cannot be downloaded are skipped too, unless none can.

    Raises:
        HubError: One cannot be downloaded.
    """
    graphs, missing = [], None
    for path in sorted(path for path in head.files if GRAPH_PATH.fullmatch(path)):
        try:
            file = download(api, head.repo_id, "dataset", path, head.sha, MAX_GRAPH_BYTES, head.files[path])
            graph = load_graph(file, head.repo_id)
            if graph.digest[:12] != Path(path).stem:
                raise GraphError(f"{head.repo_id}: {path} holds another graph than its name says")
            graphs.append(graph)
        except (GraphError, LabelError, HubError) as error:
            if isinstance(error, HubError):
                missing = error
                if not skip_missing:
                    raise
            _log.warning("left out: %s", error)
    if missing and not graphs:
        raise missing
    return graphs


def fetch_from_collection(api: HfApi, head: Head, path: str, graphs: Mapping[str, SemanticGraph]) -> ModelLabel:
    """Fetch and validate one label of a collection; on one of the graphs, by digest, it must have its concepts.

    Raises:
        HubError: It cannot be downloaded.
        LabelError: It is no valid label, or not the one that its path names.
    """
    if path not in head.files:
        raise HubError(head.repo_id, f"has no {path}; see: mll-hf labels ls --labels hf://datasets/{head.repo_id}")
    file = download(api, head.repo_id, "dataset", path, head.sha, MAX_LABEL_BYTES, head.files[path])
    label = _validated(file, Path(head.repo_id) / path, graphs)
    if label_path(label.model, label.group) != path or label.model.is_local:
        raise LabelError(f"is a label of another model or graph ({label.model.repo_id}) than its path says",
                         Path(head.repo_id) / path)  # fmt: skip
    return label


def fetch_from_model(api: HfApi, repo_id: str, sha: str, path: str, graphs: Mapping[str, SemanticGraph]) -> ModelLabel:
    """Fetch and validate one label in its model's own repo; on one of the graphs, by digest, it must have its concepts.

    Raises:
        HubError: It cannot be downloaded.
        LabelError: It is no valid label, or of another model.
    """
    file, name = download(api, repo_id, "model", path, sha, MAX_LABEL_BYTES), Path(repo_id) / path
    label = _validated(file, name, graphs)
    if label.model.repo_id != repo_id:
        raise LabelError(f"is a label of another model ({label.model.repo_id})", name)
    return label


def _validated(file: Path, name: Path, graphs: Mapping[str, SemanticGraph]) -> ModelLabel:
    """Read a downloaded label; errors give its name on the Hub, not in the cache."""
    try:
        label = read_label(file)
    except LabelError as error:
        raise LabelError(error.reason, name) from None
    if label.graph_digest in graphs:
        check_graph(label, graphs[label.graph_digest], name)
    return label


# --- all tagged models ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tagged:
    """A label file in a tagged model repo."""

    repo_id: str
    sha: str
    path: str


@dataclass(frozen=True, kw_only=True)
class TaggedModels(_OnHub):
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
        found = readable(lambda tagged: (self._fetch_one(tagged).summary, tagged), _list_tagged(self._api), HUB)
        return {(label.model, label.group): (label, tagged) for label, tagged in reversed(found)}

    def _fetch_one(self, tagged: _Tagged) -> ModelLabel:
        graphs = {graph.digest: graph for graph in self.given_graphs}
        return fetch_from_model(self._api, tagged.repo_id, tagged.sha, tagged.path, graphs)

    @cached_property
    def graphs(self) -> tuple[SemanticGraph, ...]:
        """The given graphs, and those in the datasets that labels name.

        A graph that is not there is skipped with a warning.
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
        """The graph of some labels: the default graph, or at a place that they name, that of most publishers first.

        Whatever a place holds must have the digest that the labels name, so a stranger cannot put in another graph.
        """
        default = fetch_default_graph(self.token)
        if default and default.digest == labels[0].graph_digest:
            return default
        publishers: dict[str, set[str]] = defaultdict(set)
        for label in labels:
            if is_on_hub(label.graph_location):
                publishers[label.graph_location].add(label.model.repo_id.partition("/")[0])
        places = sorted(publishers, key=lambda place: (-len(publishers[place]), place))
        for place in places[:_MOST_PLACES]:
            try:
                graph = fetch_graph(place, self.token)
            except MLLError as error:
                _log.warning("%s", error)
                continue
            if graph.digest == labels[0].graph_digest:
                return graph
        where = f"cannot be read at {abridged(places, 3)}" if places else "is only on the machine of its publisher"
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
        """Whole labels, from the cache: all were downloaded to list them."""
        return tuple(together(self._fetch_one, [self._file_of(label) for label in labels], HUB))

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

    ``graph`` is the reference graph; by default the default graph, where there is one and labels are on it. Labels on
    the probe images that it names are preferred, and before these on those in ``probes`` (names or digests).

    Raises:
        InputError: There are no labels that can be used.
    """
    wanted = fetch_graph(graph, token) if graph else fetch_default_graph(token)
    # an index knows the facts of labels, which is all that the join needs
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
    """Label files of all tagged models; from the last listing if the Hub cannot be reached."""
    question = f"models tagged {LABEL_TAG}"
    kept = kept_answer(question)
    kept = kept if isinstance(kept, list) and all(map(_tagged, kept)) else None
    query = {"filter": LABEL_TAG, "expand": ["sha", "siblings"]}
    with hub_errors(HUB):
        listed = answer_or(kept, lambda patient: list(list_model_repos(api, query, patient=patient)))
    files = {entry["id"]: (entry, found) for entry in listed if (found := _tagged(entry))}
    keep_answer(question, [entry for entry, _ in files.values()])
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


def readable(function: Callable[[A], B], items: Iterable[A], name: str = "") -> list[B]:
    """Apply a function to items in parallel; labels that cannot be read are skipped with a warning."""

    def attempt(item: A) -> list[B]:
        try:
            return [function(item)]
        except (LabelError, HubError) as error:
            _log.warning("left out: %s", error)
            return []

    return [result for results in together(attempt, list(items), name) for result in results]
