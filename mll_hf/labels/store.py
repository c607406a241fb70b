"""A folder of labels, on any number of graphs; a collection on the Hub has the same layout.

::

    graphs/<graph digest>.json
    labels/<owner>--<name>/<revision>/<graph digest>-<probe images>.safetensors
    labels/<owner>--<name>/<revision>/<graph digest>-<probe images>.embeddings.safetensors    (optional)
    index/<graph digest>-<probe images>/<number>.safetensors                                  (optional)

Digests are cut to 12 digits.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mll_hf.errors import GraphError, InputError, LabelError
from mll_hf.graph.concepts import SemanticGraph, graph_to_bytes, load_graph
from mll_hf.labels.embeddings import ProbeEmbeddings, read_embeddings
from mll_hf.labels.file_format import label_from_bytes, label_to_bytes
from mll_hf.labels.index import IndexShard, InMemory, complete_index, update_shards
from mll_hf.utils.files import storage_errors, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mll_hf.labels.index import IndexedLabel, Key, Reader
    from mll_hf.labels.label import LabelFacts, LabelGroup, LabelSummary, ModelLabel, ModelRef

MAX_LABEL_BYTES = 16 * 2**20
_LEAST_DECODED = 0.95  # share of the probe images that can be decoded, and count
MANY_LABELS = 256  # from so many on an index is used
LABEL_PATH = re.compile(
    r"labels/[\w.-]+--[\w.-]+/[0-9a-f]{40}/[0-9a-f]{12}-[0-9a-f]{12}(-seed\d+)?\.safetensors", re.ASCII
)
SHARD_PATH = re.compile(r"index/[0-9a-f]{12}-[0-9a-f]{12}(-seed\d+)?/\d{5}\.safetensors", re.ASCII)
_LABEL_FILE = re.compile(r"[0-9a-f]{12}-[0-9a-f]{12}(-seed\d+)?\.safetensors", re.ASCII)
GRAPH_PATH = re.compile(r"graphs/[0-9a-f]{12}\.json", re.ASCII)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a label was read from.

    Attributes:
        location: Path of the file, or ``hf://...@commit/path``.
        publisher: The user or organization whose repo it is in; None on this machine.
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
    """Where labels come from: a folder, a collection, all tagged models, or published figures."""

    @property
    def name(self) -> str:
        """The source as users write it."""

    @property
    def graphs(self) -> tuple[SemanticGraph, ...]:
        """The graphs of the labels."""

    @property
    def indexed(self) -> tuple[IndexedLabel, ...]:
        """All labels as an index knows them; none if the source has no index."""

    def list(self) -> tuple[LabelSummary, ...]:
        """Summaries of all labels."""

    def fetch(self, labels: Sequence[LabelFacts]) -> tuple[ModelLabel, ...]:
        """Whole labels."""

    def embeddings_of(self, label: LabelSummary) -> ProbeEmbeddings | None:
        """Embeddings of the probe images, if the source has them."""

    def origin_of(self, label: LabelFacts) -> Origin:
        """Where a label was read, and who published it."""


@dataclass(frozen=True)
class LabelStore:
    """A folder of labels. Summaries are kept in memory, whole labels are read when asked for.

    What reads raises an InputError if the folder holds no labels, a GraphError or LabelError if a file is damaged or
    missing; what writes raises a StorageError if the folder cannot be written.

    Attributes:
        folder: The folder; it is created when something is added.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The folder, as text."""
        return str(self.folder)

    @cached_property
    def graphs(self) -> tuple[SemanticGraph, ...]:
        """The graphs of the labels, by file name."""
        found = self.folder.glob("graphs/*.json")
        paths = sorted(path for path in found if GRAPH_PATH.fullmatch(f"graphs/{path.name}"))
        if not paths:
            raise InputError(
                f"{self.folder} holds no labels; make some: mll-hf label MODEL --graph DIR --labels {self.folder}"
            )
        return tuple(_load_stored_graph(path) for path in paths)

    @cached_property
    def _by_digest(self) -> dict[str, SemanticGraph]:
        return {graph.digest: graph for graph in self.graphs}

    @cached_property
    def _summaries(self) -> tuple[LabelSummary, ...]:
        graphs = self._by_digest
        return tuple(self._checked(read_label(path), graphs, path).summary for path in self.paths())

    def list(self) -> tuple[LabelSummary, ...]:
        """Summaries of all labels, in the order of their paths."""
        return self._summaries

    def _checked(self, label: ModelLabel, graphs: dict[str, SemanticGraph], path: Path) -> ModelLabel:
        """The label, if its graph is here and it lies where its content says."""
        graph = graphs.get(label.graph_digest)
        if graph is None:
            raise LabelError(
                f"is a label on graph {label.graph_name} ({label.graph_digest[:12]}), which is missing; put its "
                f"{graph_path(label.graph_digest)} into the folder",
                path,
            )
        check_graph(label, graph, path)
        if path != self.path_of(label):
            raise LabelError(f"is a label of {label.model.repo_id}; move it to {self.path_of(label)}", path)
        return label

    def fetch(self, labels: Sequence[LabelFacts]) -> tuple[ModelLabel, ...]:
        """The whole labels of some summaries."""
        graphs = self._by_digest
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return tuple(pool.map(lambda of: read_label(self.path_of(of), graphs.get(of.graph_digest)), labels))

    def embeddings_of(self, label: LabelSummary) -> ProbeEmbeddings | None:
        """The probe embeddings beside a label, or None."""
        path = embeddings_path(self.path_of(label))
        embeddings = read_embeddings(path)
        if embeddings is not None and len(embeddings.concepts) != len(label.ranks):
            reason = f"has {len(embeddings.concepts)} concepts, the label {len(label.ranks)}; label the model anew"
            raise LabelError(reason, path)
        return embeddings

    def origin_of(self, label: LabelFacts) -> Origin:
        """The file of a label."""
        return Origin(str(self.path_of(label)))

    def paths(self) -> tuple[Path, ...]:
        """Paths of all label files, sorted."""
        files = self.folder.glob("labels/*/*/*.safetensors")  # names of local models may hold any characters
        return tuple(sorted(file for file in files if _LABEL_FILE.fullmatch(file.name)))

    def path_for(self, model: ModelRef, group: LabelGroup) -> Path:
        """Path of the label of a model, whether it exists or not."""
        return self.folder / label_path(model, group)

    def path_of(self, label: LabelFacts) -> Path:
        """Path of a label."""
        return self.path_for(label.model, label.group)

    @cached_property
    def indexed(self) -> tuple[IndexedLabel, ...]:
        """All labels as the folder's index knows them; none if it has no index, or too few labels for one to pay.

        Labels that the index lacks, or knows in another version, are read from their files.
        """
        groups = self._files_by_group()
        if not (self.folder / "index").is_dir() or sum(map(len, groups.values())) < MANY_LABELS:
            return ()
        indexes = [complete_index(*self._index_parts(stem, files)) for stem, files in groups.items()]
        return tuple(label for index in indexes if index is not None for label in index.labels)

    def _files_by_group(self) -> dict[str, dict[Key, Path]]:
        """The label files of each group, by slug and revision of the model."""
        groups: dict[str, dict[Key, Path]] = defaultdict(dict)
        for path in self.paths():
            groups[path.stem][path.parts[-3], path.parts[-2]] = path
        return groups

    def _index_parts(
        self, stem: str, files: Mapping[Key, Path], progress: Callable[[int], object] = lambda _: None
    ) -> tuple[dict[int, IndexShard], dict[Key, str], SemanticGraph, Reader]:
        """Shards of the index of a group, sha256 of every label file, the graph, and what reads labels."""
        shards, graph = self._shards(stem), self._graph_of(stem, next(iter(files.values())))
        digests = _digests(files, shards, self._shard_path(stem, 0).parent)

        def read(keys: Sequence[Key]) -> Iterator[tuple[LabelSummary, str]]:
            for key in keys:
                yield read_label(files[key], graph), digests[key]
                progress(1)

        return shards, digests, graph, read

    def _shards(self, stem: str) -> dict[int, IndexShard]:
        paths = sorted((self.folder / "index" / stem).glob("*.safetensors"))
        named = [path for path in paths if SHARD_PATH.fullmatch(path.relative_to(self.folder).as_posix())]
        return {int(path.stem): IndexShard.open(InMemory.mapped(path)) for path in named}

    def _shard_path(self, stem: str, number: int) -> Path:
        return self.folder / "index" / stem / f"{number:05d}.safetensors"

    def _graph_of(self, stem: str, path: Path) -> SemanticGraph:
        for graph in self.graphs:
            if stem.startswith(graph.digest[:12]):
                return graph
        self._checked(read_label(path), self._by_digest, path)  # says what is missing
        raise LabelError("is on another graph than its name says; label the model anew", path)

    def update_index(self, progress: Callable[[int], object] = lambda _: None) -> int:
        """Bring the index up to date with the labels; only what changed is read and written.

        Returns the number of labels that were read; ``progress`` is called with 1 for each.
        """
        n_read = 0

        def count(labels: int) -> None:
            nonlocal n_read
            n_read += labels
            progress(labels)

        nothing: Mapping[Key, Path] = {}
        stems = dict.fromkeys((path.name for path in (self.folder / "index").glob("*")), nothing)
        for stem, files in {**stems, **self._files_by_group()}.items():
            changes: Iterable[tuple[int, bytes | None]] = ((number, None) for number in self._shards(stem))
            if files:
                changes = update_shards(*self._index_parts(stem, files, count))
            for number, content in changes:
                path = self._shard_path(stem, number)
                if content is not None:
                    write_atomically(path, content)
                else:
                    with storage_errors(path):
                        path.unlink(missing_ok=True)
        return n_read

    def add_graph(self, graph: SemanticGraph) -> None:
        """Write a graph, unless it is stored already."""
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


def _digests(files: Mapping[Key, Path], shards: Mapping[int, IndexShard], folder: Path) -> dict[Key, str]:
    """Sha256 of each label file; as a shard has it, if the file is older than the shard."""
    known: dict[Key, tuple[str, int]] = {}
    for number, shard in shards.items():
        written = (folder / f"{number:05d}.safetensors").stat().st_mtime_ns
        known.update((label.key, (label.sha256, written)) for label in shard.labels)
    digests = {}
    for key, path in files.items():
        digest, written = known.get(key, ("", 0))
        is_older = path.stat().st_mtime_ns < written
        digests[key] = digest if is_older else hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def _load_stored_graph(path: Path) -> SemanticGraph:
    graph = load_graph(path)
    if graph.digest[:12] != path.stem:
        raise GraphError(f"holds another graph ({graph.digest[:12]}) than its name says; put the file back", path)
    return graph


def check_graph(label: LabelSummary | IndexedLabel, graph: SemanticGraph, path: Path | None = None) -> None:
    """Check that a label is of a graph, and that it can rest on the probe images that it names.

    Its numbers of images are compared with those that the graph gives for the probe images of this digest, if it does.
    This exposes who measured on other images and names these. It does not expose who takes the right numbers of images
    and invents how many were recognized: for that, measure again with ``labels verify``.

    Raises:
        LabelError: It is of another graph, or its numbers of images contradict those of the graph.
    """
    if label.graph_digest != graph.digest or len(label.support) != len(graph):
        raise LabelError(
            f"is a label on graph {label.graph_name} ({label.graph_digest[:12]}), not on {graph.name} "
            f"({graph.digest[:12]}); name the graph that it was measured on",
            path,
        )
    if graph.probes is None or graph.probes.digest != label.probes_digest:
        return
    expected, by_domain = graph.most_tests(label.sampling.images_per_concept)
    claimed = dict(zip(label.domain_names, label.domain_ranks.sum(axis=1, dtype=np.int64).tolist(), strict=True))
    if (label.support > expected).any() or label.support.sum() < _LEAST_DECODED * expected.sum():
        fault = f"has {int(label.support.sum()):,} tests, where these images give {int(expected.sum()):,}"
    elif wrong := [name for name, tests in claimed.items() if tests > by_domain.get(name, 0)]:
        fault = f"has more tests on '{wrong[0]}' than these images give"
    else:
        return
    raise LabelError(
        f"was not measured on the probe images that it names ({label.probes_digest[:12]}): it {fault}; label the model "
        "anew",
        path,
    )


def read_label(path: str | Path, graph: SemanticGraph | None = None) -> ModelLabel:
    """Read and validate one label file; if a graph is given, the label must be on it.

    Raises:
        LabelError: The file is missing, too large, no valid label, or on another graph.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise LabelError(f"is larger than {MAX_LABEL_BYTES // 2**20} MB; this is no label", path)
        blob = path.read_bytes()
    except OSError as error:
        raise LabelError(f"cannot be read ({error.strerror}); check the path", path) from None
    label = label_from_bytes(blob, path)
    if graph is not None:
        check_graph(label, graph, path)
    return label
