"""A folder of labels, on any number of graphs; a collection on the Hub has the same layout.

::

    graphs/<graph digest>.json
    labels/<owner>--<name>/<revision>/<graph digest>-<probe images>.safetensors
    labels/<owner>--<name>/<revision>/<graph digest>-<probe images>.embeddings.safetensors    (optional)
    index/<graph digest>-<probe images>/<number>.safetensors                                  (optional)

Digests are cut to 12 digits.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import numpy as np

from mll_hf.errors import GraphError, HubError, InputError, LabelError
from mll_hf.graph.concepts import SemanticGraph, graph_to_bytes, load_graph
from mll_hf.labels.embeddings import ProbeEmbeddings, read_embeddings
from mll_hf.labels.file_format import label_from_bytes, label_to_bytes
from mll_hf.labels.index import IndexShard, InMemory, complete_index, update_shards
from mll_hf.utils.files import file_digest, storage_errors, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mll_hf.errors import MLLError
    from mll_hf.labels.index import ByteSource, IndexedLabel, Key, Reader
    from mll_hf.labels.label import LabelFacts, LabelGroup, LabelSummary, ModelLabel, ModelRef

A = TypeVar("A")
B = TypeVar("B")

MAX_LABEL_BYTES = 16 * 2**20
_MIN_DECODED = 0.95  # minimum share of decodable probe images
MANY_LABELS = 256  # minimum number of labels for using an index
_READ_BATCH = 64  # labels in memory while updating an index
LABEL_PATH = re.compile(
    r"labels/[\w.-]+--[\w.-]+/[0-9a-f]{40}/[0-9a-f]{12}-[0-9a-f]{12}(-seed\d+)?\.safetensors", re.ASCII
)
_SHARD_PATH = re.compile(r"index/[0-9a-f]{12}-[0-9a-f]{12}(-seed\d+)?/\d{5}\.safetensors", re.ASCII)
_LABEL_FILE = re.compile(r"[0-9a-f]{12}-[0-9a-f]{12}(-seed\d+)?\.safetensors", re.ASCII)
GRAPH_PATH = re.compile(r"graphs/[0-9a-f]{12}\.json", re.ASCII)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a label was read from.

    Attributes:
        location: Path of the file, or ``hf://...@commit/path``.
        publisher: The user or organization that owns the repo; None for local files.
    """

    location: str
    publisher: str | None = None


def label_path(model: ModelRef, group: LabelGroup) -> str:
    """Path of a label in a folder of labels or a collection."""
    return f"labels/{model.slug}/{model.revision}/{group.stem}.safetensors"


def graph_path(digest: str) -> str:
    """Path of a graph in a folder of labels or a collection."""
    return f"graphs/{digest[:12]}.json"


class LabelSource(Protocol):
    """A source of labels: a folder, a collection, all tagged models, or published figures."""

    @property
    def name(self) -> str:
        """The source as written by users."""

    @property
    def graphs(self) -> tuple[SemanticGraph, ...]:
        """The graphs of the labels."""

    @property
    def indexed(self) -> tuple[IndexedLabel, ...]:
        """Index entries of all labels; empty if the source has no index."""

    def list(self) -> tuple[LabelSummary, ...]:
        """Summaries of all labels."""

    def fetch(self, labels: Sequence[LabelFacts]) -> tuple[ModelLabel, ...]:
        """Read full labels."""

    def embeddings_of(self, label: LabelSummary) -> ProbeEmbeddings | None:
        """The probe embeddings of a label, if available."""

    def origin_of(self, label: LabelFacts) -> Origin:
        """Location and publisher of a label."""


@dataclass(frozen=True, slots=True)
class GroupFiles:
    """The files of a group: paths of labels by slug and revision of the model, and of shards by number.

    ``graph`` is None if there are no labels.
    """

    stem: str
    graph: SemanticGraph | None
    labels: Mapping[Key, str]
    shards: Mapping[int, str]


class StoredLabels(LabelSource, Protocol):
    """Base of folders and collections: files of labels, graphs and an index, by path.

    Summaries are kept in memory, full labels are read on request. Invalid files are errors in a local folder, and
    skipped with a warning in a collection.
    """

    @property
    def publisher(self) -> str | None:
        """The user or organization that owns the repo; None for a local folder."""

    @property
    def _by_digest(self) -> Mapping[str, SemanticGraph]:
        """The graphs by digest."""

    def _paths(self, pattern: str) -> Sequence[str]:
        """Sorted paths that match a pattern such as ``graphs/*.json``."""

    def _name(self, path: str) -> Path:
        """The name of a file in messages."""

    def _file(self, path: str) -> Path:
        """The local file of a graph or label, downloaded if needed."""

    def _shard_files(self, paths: Sequence[str]) -> Sequence[ByteSource]:
        """The shards of one index."""

    def _digests(self, group: GroupFiles) -> dict[Key, str]:
        """Sha256 of each label file of a group."""

    def _map_parallel(self, function: Callable[[A], B], items: Sequence[A]) -> Sequence[B]:
        """Apply a function to items in parallel; stops at the first error."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(function, items))

    @property
    def graphs(self) -> tuple[SemanticGraph, ...]:
        """The graphs of the labels, by path."""
        return tuple(self._by_digest.values())

    def _graph_paths(self) -> Sequence[str]:
        return tuple(filter(GRAPH_PATH.fullmatch, self._paths("graphs/*.json")))

    def _read_graph(self, path: str) -> SemanticGraph:
        graph = load_graph(self._file(path), self.publisher and str(self._name("")))
        if graph_path(graph.digest) != path:
            reason = f"its name does not match the graph ({graph.digest[:12]}); restore the file"
            raise GraphError(reason, self._name(path))
        return graph

    def read(self, path: str, graphs: Mapping[str, SemanticGraph]) -> ModelLabel:
        """Read and validate a label; ``graphs`` by digest are used to check its concepts.

        Raises:
            HubError: It cannot be downloaded.
            LabelError: It is not a valid label, or does not match its path; or it is local and its graph is missing.
        """
        name = self._name(path)
        label = read_label(self._file(path), name=name)
        if self.publisher and label.model.is_local:
            raise LabelError(f"is a label of a local model ({label.model.short_name})", name)
        if (expected := label_path(label.model, label.group)) != path:
            raise LabelError(f"is a label of {label.model.repo_id}; move it to {self._name(expected)}", name)
        if graph := graphs.get(label.graph_digest):
            check_graph(label, graph, name)
        elif not self.publisher:
            raise LabelError(
                f"is a label on graph {label.graph_name} ({label.graph_digest[:12]}), which is missing; put its "
                f"{graph_path(label.graph_digest)} into the folder",
                name,
            )
        return label

    def _skip(self, error: MLLError) -> None:
        if not self.publisher:
            raise error
        _log.warning("left out: %s", error)

    def _summaries_at(self, paths: Sequence[str]) -> Sequence[LabelSummary]:
        graphs = self._by_digest  # evaluated before the threads start: cached properties have no lock since Python 3.12

        def read(path: str) -> Sequence[LabelSummary]:
            try:
                return (self.read(path, graphs).summary,)
            except (LabelError, HubError) as error:
                self._skip(error)
                return ()

        return [label for found in self._map_parallel(read, paths) for label in found]

    def _label_paths(self) -> Sequence[str]:
        found = self._paths("labels/*/*/*.safetensors")
        return [path for path in found if _LABEL_FILE.fullmatch(path.rpartition("/")[2])]

    @cached_property
    def _summaries(self) -> tuple[LabelSummary, ...]:
        return tuple(self._summaries_at(self._label_paths()))

    def list(self) -> tuple[LabelSummary, ...]:
        """Summaries of all labels, in the order of their paths."""
        return self._summaries

    def fetch(self, labels: Sequence[LabelFacts]) -> tuple[ModelLabel, ...]:
        """Full labels; in a collection, one request each unless cached."""
        read = partial(self.read, graphs=self._by_digest)
        return tuple(self._map_parallel(read, [label_path(label.model, label.group) for label in labels]))

    def _groups(self, label_paths: Sequence[str]) -> Sequence[GroupFiles]:
        """The groups of some labels with a known graph, and groups that only have an index."""
        labels: dict[str, dict[Key, str]] = defaultdict(dict)
        shards: dict[str, dict[int, str]] = defaultdict(dict)
        for path in label_paths:
            _, slug, revision, name = path.split("/")
            labels[name.removesuffix(".safetensors")][slug, revision] = path
        for path in filter(_SHARD_PATH.fullmatch, self._paths("index/*/*.safetensors")):
            _, stem, name = path.split("/")
            shards[stem][int(name.removesuffix(".safetensors"))] = path
        groups = []
        for stem in sorted({*labels, *shards}):
            matching = (graph for graph in self.graphs if labels[stem] and stem.startswith(graph.digest[:12]))
            graph = next(matching, None)
            if graph or not labels[stem]:
                groups.append(GroupFiles(stem, graph, labels[stem], shards[stem]))
            else:
                reason = f"labels {stem} are not indexed because their graph is missing"
                self._skip(LabelError(f"{self.name}: {reason}; put it at {graph_path(stem)}"))
        return groups

    @cached_property
    def indexed(self) -> tuple[IndexedLabel, ...]:
        """Index entries of all labels; empty if there is no index, or too few labels for it to be useful.

        Labels that are missing or outdated in the index are read from their files.
        """
        if not self._paths("index/*/*.safetensors") or len(paths := self._label_paths()) < MANY_LABELS:
            return ()
        found: list[IndexedLabel] = []
        for group in self._groups(paths):
            if group.graph:
                shards, digests = self._open_index(group), self._digests(group)
                index = complete_index(shards, digests, group.graph, self._reader(group, digests, lambda _: None))
                found += index.labels if index else ()
        return tuple(found)

    def _open_index(self, group: GroupFiles) -> dict[int, IndexShard]:
        """The shards of the index; a LabelError if one is damaged."""
        opened = self._map_parallel(IndexShard.open, self._shard_files(list(group.shards.values())))
        return dict(zip(group.shards, opened, strict=True))

    def _usable_shards(self, group: GroupFiles) -> dict[int, IndexShard]:
        """The shards to update; none if there are no labels, or if a shard is damaged and the index must be rebuilt."""
        try:
            return self._open_index(group) if group.graph else {}
        except LabelError as error:
            _log.warning("%s", error)
            return {}

    def _reader(self, group: GroupFiles, digests: Mapping[Key, str], progress: Callable[[int], object]) -> Reader:
        """Return a function that reads labels by key, in batches, with the sha256 of their files."""

        def read(keys: Sequence[Key]) -> Iterator[tuple[LabelSummary, str]]:
            for first in range(0, len(keys), _READ_BATCH):
                labels = self._summaries_at([group.labels[key] for key in keys[first : first + _READ_BATCH]])
                progress(len(labels))
                for label in labels:
                    yield label, digests[label.model.slug, label.model.revision]

        return read

    def _index_changes(
        self, group: GroupFiles, shards: Mapping[int, IndexShard], progress: Callable[[int], object]
    ) -> Iterator[tuple[str, bytes | None]]:
        """Updates of the index of a group, in this order: paths of shards and their new content, None to delete.

        Shards of the group that are not in ``shards`` are deleted.
        """
        yield from ((path, None) for number, path in group.shards.items() if number not in shards)
        if group.graph:
            digests = self._digests(group)
            for number, content in update_shards(shards, digests, group.graph, self._reader(group, digests, progress)):
                yield f"index/{group.stem}/{number:05d}.safetensors", content


@dataclass(frozen=True)
class LabelStore(StoredLabels):
    """A folder of labels.

    Reading raises an InputError if the folder has no labels, and a GraphError or LabelError if a file is damaged or
    missing. Writing raises a StorageError if the folder cannot be written.

    Attributes:
        folder: The folder; created on the first write.
    """

    folder: Path
    publisher: ClassVar[None] = None

    @property
    def name(self) -> str:
        """The path of the folder."""
        return str(self.folder)

    @cached_property
    def _by_digest(self) -> Mapping[str, SemanticGraph]:
        graphs = {graph.digest: graph for graph in map(self._read_graph, self._graph_paths())}
        if not graphs:
            raise InputError(
                f"{self.folder} has no labels; make some: mll-hf label MODEL --graph DIR --labels {self.folder}"
            )
        return graphs

    def _paths(self, pattern: str) -> Sequence[str]:
        return sorted(path.replace(os.sep, "/") for path in glob.glob(pattern, root_dir=self.folder))

    def _file(self, path: str) -> Path:
        return self.folder / path

    _name = _file

    def _shard_files(self, paths: Sequence[str]) -> Sequence[InMemory]:
        return [InMemory.mapped(self.folder / path) for path in paths]

    def _digests(self, group: GroupFiles) -> dict[Key, str]:
        """Cached while a file is unchanged."""
        return {key: file_digest(self._file(path)).hex() for key, path in group.labels.items()}

    def embeddings_of(self, label: LabelSummary) -> ProbeEmbeddings | None:
        """The probe embeddings of a label, or None."""
        path = embeddings_path(self.path_of(label))
        embeddings = read_embeddings(path)
        if embeddings is not None and len(embeddings.concepts) != len(label.ranks):
            reason = (
                f"has {len(embeddings.concepts)} concepts, but the label has {len(label.ranks)}; label the model again"
            )
            raise LabelError(reason, path)
        return embeddings

    def origin_of(self, label: LabelFacts) -> Origin:
        """The path of a label."""
        return Origin(str(self.path_of(label)))

    def paths(self) -> tuple[Path, ...]:
        """Paths of all label files, sorted."""
        return tuple(map(self._file, self._label_paths()))

    def path_for(self, model: ModelRef, group: LabelGroup) -> Path:
        """Path of the label of a model; the file may not exist."""
        return self.folder / label_path(model, group)

    def path_of(self, label: LabelFacts) -> Path:
        """Path of a label."""
        return self.path_for(label.model, label.group)

    def update_index(self, progress: Callable[[int], object] = lambda _: None) -> int:
        """Update the index; only changed labels and shards are read and written.

        Returns the number of labels read; ``progress`` is called with the number of labels in each batch.
        """
        n_read = 0

        def count(labels: int) -> None:
            nonlocal n_read
            n_read += labels
            progress(labels)

        for group in self._groups(self._label_paths()):
            for path, content in self._index_changes(group, self._usable_shards(group), count):
                if content is not None:
                    write_atomically(self._file(path), content)
                else:
                    with storage_errors(self._file(path)):
                        self._file(path).unlink(missing_ok=True)
        return n_read

    def add_graph(self, graph: SemanticGraph) -> None:
        """Write a graph, unless it is already stored."""
        path = self.folder / graph_path(graph.digest)
        content = graph_to_bytes(graph)
        if not (path.exists() and path.read_bytes() == content):
            write_atomically(path, content)

    def write(self, label: ModelLabel) -> Path:
        """Add or replace a label, atomically; returns its path."""
        path = self.path_of(label)
        write_atomically(path, label_to_bytes(label))
        return path


def embeddings_path(label: Path) -> Path:
    """Path of the sidecar of a label."""
    return label.with_suffix(".embeddings.safetensors")


def check_graph(label: LabelSummary | IndexedLabel, graph: SemanticGraph, path: Path | None = None) -> None:
    """Check that a label is of a graph, and that its image counts are possible for the probe images that it names.

    The counts are compared with those in the graph, if it has counts for these probe images. This detects labels that
    were measured on other images, but not invented results with correct image counts; for that, use ``labels verify``.

    Raises:
        LabelError: It is of another graph, or its image counts contradict those of the graph.
    """
    if label.graph_digest != graph.digest or len(label.support) != len(graph):
        raise LabelError(
            f"is a label on graph {label.graph_name} ({label.graph_digest[:12]}), not on {graph.name} "
            f"({graph.digest[:12]}); give the graph that it was measured on",
            path,
        )
    if graph.probes is None or graph.probes.digest != label.probes_digest:
        return
    expected, by_domain = graph.max_tests(label.sampling.images_per_concept)
    claimed = dict(zip(label.domain_names, label.domain_ranks.sum(axis=1, dtype=np.int64).tolist(), strict=True))
    if (label.support > expected).any() or label.support.sum() < _MIN_DECODED * expected.sum():
        fault = f"has {int(label.support.sum()):,} tests instead of {int(expected.sum()):,}"
    elif wrong := [name for name, tests in claimed.items() if tests > by_domain.get(name, 0)]:
        fault = f"has more tests on '{wrong[0]}' than possible"
    else:
        return
    raise LabelError(
        f"was not measured on the probe images that it names ({label.probes_digest[:12]}): it {fault}; label the model "
        "again",
        path,
    )


def read_label(path: str | Path, graph: SemanticGraph | None = None, name: Path | None = None) -> ModelLabel:
    """Read and validate a label file; if a graph is given, the label must be on it.

    ``name`` is used in errors instead of the path.

    Raises:
        LabelError: The file is missing, too large or not a valid label, or the label is on another graph.
    """
    path, name = Path(path), name or Path(path)
    try:
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise LabelError(f"is larger than {MAX_LABEL_BYTES // 2**20} MB; this is not a label", name)
        blob = path.read_bytes()
    except OSError as error:
        raise LabelError(f"cannot be read ({error.strerror}); check the path", name) from None
    label = label_from_bytes(blob, name)
    if graph is not None:
        check_graph(label, graph, name)
    return label
