"""A folder of labels, on any number of graphs; a collection on the Hub has the same layout.

::

    graphs/<graph digest>.json
    labels/<owner>--<name>/<model digest>/<graph digest>-<probe images>.safetensors
    labels/<owner>--<name>/<model digest>/<graph digest>-<probe images>.rivals.safetensors        (optional)
    labels/<owner>--<name>/<model digest>/<graph digest>-<probe images>.embeddings.safetensors    (optional)
    summary.csv                                                                                   (optional)

Digests are cut to 12 digits, the model's to 40; a model without digest has its revision instead.
"""

from __future__ import annotations

import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mll_hf.errors import GraphError, HubError, InputError, LabelError, MLLError, NoLabelsError
from mll_hf.graph.concepts import SemanticGraph, graph_to_bytes, load_graph
from mll_hf.labels.file_format import (
    MAX_EMBEDDINGS_BYTES,
    MAX_LABEL_BYTES,
    MAX_RIVALS_BYTES,
    embeddings_from_bytes,
    label_from_bytes,
    label_to_bytes,
    rivals_from_bytes,
    tensors_to_bytes,
)
from mll_hf.utils.files import storage_errors, write_atomically
from mll_hf.utils.text import listed_reasons

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from mll_hf.labels.label import Label, LabelKey, ModelRef, ProbeEmbeddings, Rivals

A = TypeVar("A")
T = TypeVar("T")

_MIN_DECODED = 0.95  # minimum share of decodable probe images
_STEM = r"[0-9a-f]{12}-[0-9a-f]{12}"
LABEL_PATH = re.compile(rf"labels/[\w.-]+--[\w.-]+/[0-9a-f]{{40}}/{_STEM}\.safetensors", re.ASCII)
_LABEL_FILE = re.compile(rf"{_STEM}\.safetensors", re.ASCII)
GRAPH_PATH = re.compile(r"graphs/[0-9a-f]{12}\.json", re.ASCII)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a label was read from: path of the file, or ``hf://...@commit/path``.

    ``publisher`` owns the repo (None for local files). If the user named neither the publisher nor the collection or
    folder (``is_named``), the label is only listed.
    """

    location: str
    publisher: str | None = None
    is_named: bool = True


def label_path(model: ModelRef, key: LabelKey) -> str:
    """Path of a label in a folder of labels or a collection."""
    return f"labels/{model.slug}/{(model.digest or model.revision)[:40]}/{key.stem}.safetensors"


def graph_path(digest: str) -> str:
    """Path of a graph in a folder of labels or a collection."""
    return f"graphs/{digest[:12]}.json"


def rivals_path(label: Path) -> Path:
    """Path of the rivals of a label."""
    return label.with_suffix(".rivals.safetensors")


def embeddings_path(label: Path) -> Path:
    """Path of the embeddings of a label."""
    return label.with_suffix(".embeddings.safetensors")


@dataclass(frozen=True)
class LabelStore:
    """Labels in files: of a folder, of a snapshot of a collection, or of the models' own repos.

    An invalid graph or label is skipped with a warning; others are not affected.

    The folder is created on the first write.
    """

    folder: Path
    publisher: str | None = None  # who owns the collection; None for a local folder
    location: str = ""  # of a snapshot, hf://datasets/org/name@commit; by default the folder
    files: Mapping[Path, Origin] | None = None  # labels of several places, instead of those in the folder
    given_graphs: tuple[SemanticGraph, ...] = ()  # besides those in the folder
    fetch: Callable[[str], None] | None = None  # downloads the rivals of a label at a location on the Hub, if any

    @property
    def name(self) -> str:
        """The source as users write it: its location without the commit, or the folder."""
        return self.location.partition("@")[0] or str(self.folder)

    @property
    def is_local(self) -> bool:
        """Whether the labels are in a folder of this machine, neither a collection nor models' own repos."""
        return self.publisher is None and self.files is None

    # --- reading

    @cached_property
    def graphs(self) -> tuple[SemanticGraph, ...]:
        """The graphs of the labels, by path; an InputError if a local folder has neither graphs nor labels."""
        paths = sorted(self.folder.glob("graphs/*.json")) if self.files is None else []
        found, _ = read_all(self._read_graph, [p for p in paths if GRAPH_PATH.fullmatch(f"graphs/{p.name}")])
        if self.is_local and not found and not self.paths():
            raise NoLabelsError(f"{self.folder} has no labels; make some: mll-hf label MODEL --labels {self.folder}")
        return tuple({graph.digest: graph for graph in (*found.values(), *self.given_graphs)}.values())

    def _read_graph(self, path: Path) -> SemanticGraph:
        where = self._origin(path).location
        graph = load_graph(path, None if self.is_local else where)
        if graph_path(graph.digest) != f"graphs/{path.name}":
            raise GraphError(f"its name does not match the graph ({graph.digest[:12]}); restore the file", where)
        return graph

    def labels(self) -> tuple[Label, ...]:
        """All labels, in the order of their paths; an InputError if a local folder has none."""
        return tuple(self._found.values())

    @cached_property
    def _found(self) -> dict[Path, Label]:
        read = partial(self._read, {graph.digest: graph for graph in self.graphs})
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return read_all(read, self.paths(), pool.map)[0]

    @cached_property
    def _path_by_label(self) -> dict[int, Path]:
        """Path by identity of each label; asked for every label when they are joined."""
        return {id(label): path for path, label in self._found.items()}

    def _read(self, graphs: Mapping[str, SemanticGraph], path: Path) -> Label:
        name = self._origin(path).location
        label = read_label(path, name)
        if label.model.is_local and (self.files[path] if self.files else self).publisher:
            raise LabelError(f"is a label of a local model ({label.model.short_name})", name)
        if self.files is None and path != (expected := self.path_of(label)):
            raise LabelError(f"is a label of {label.model.repo_id}; move it to {self._origin(expected).location}", name)
        if graph := graphs.get(label.graph_digest):
            check_label_fits(label, graph, name)
        return label

    def paths(self) -> tuple[Path, ...]:
        """Paths of all label files, sorted."""
        if self.files is not None:
            return tuple(sorted(self.files))
        found = self.folder.glob("labels/*/*/*.safetensors")
        return tuple(sorted(path for path in found if _LABEL_FILE.fullmatch(path.name)))

    def path_of(self, label: Label) -> Path:
        """Path of a label."""
        if self.files is None:
            return self.folder / label_path(label.model, label.key)
        return self._path_by_label[id(label)]

    def origin_of(self, label: Label) -> Origin:
        """Location and publisher of a label."""
        return self._origin(self.path_of(label))

    def _origin(self, path: Path) -> Origin:
        if self.files and path in self.files:
            return self.files[path]
        inside = path.relative_to(self.folder)
        return Origin(f"{self.location}/{inside}" if self.location else str(path), self.publisher)

    def rivals_of(self, label: Label) -> Rivals | None:
        """The rivals of a label; None if there is no such file, a LabelError if it is damaged."""
        path = rivals_path(self.path_of(label))
        if self.fetch and not path.exists():
            self.fetch(self.origin_of(label).location)
        return rivals_from_bytes(_read_limited(path, MAX_RIVALS_BYTES, path), label, path) if path.exists() else None

    def embeddings_of(self, label: Label) -> ProbeEmbeddings | None:
        """The probe embeddings of a label; None if there are none, a LabelError if they are damaged."""
        path = embeddings_path(self.path_of(label))
        if not path.exists():
            return None
        return embeddings_from_bytes(_read_limited(path, MAX_EMBEDDINGS_BYTES, path), label, path)

    # --- writing

    def add_graph(self, graph: SemanticGraph) -> None:
        """Write a graph, unless it is already stored; a StorageError if the folder cannot be written."""
        path = self.folder / graph_path(graph.digest)
        if not path.exists() or path.read_bytes() != graph_to_bytes(graph):
            write_atomically(path, graph_to_bytes(graph))
        self._forget()

    def write(self, label: Label, rivals: Rivals | None = None, embeddings: ProbeEmbeddings | None = None) -> Path:
        """Add or replace a label with its optional files, each atomically; returns its path.

        The label is written last: an existing label means that everything is there. A StorageError if the folder cannot
        be written.
        """
        path = self.path_of(label)
        for file, beside in ((embeddings_path(path), embeddings), (rivals_path(path), rivals)):
            with storage_errors(path):
                file.unlink(missing_ok=True)  # of an earlier label
            if beside is not None:
                write_atomically(file, tensors_to_bytes(beside))
        write_atomically(path, label_to_bytes(label))
        self._forget()
        return path

    def _forget(self) -> None:
        """Read the folder again when it is next asked."""
        for name in ("graphs", "_found", "_path_by_label"):
            self.__dict__.pop(name, None)


def check_label_fits(label: Label, graph: SemanticGraph, name: Path | str = "") -> None:
    """Check that a label is of a graph, and that its image counts are possible for the probe images that it names.

    The counts are compared with those in the graph, if it has counts for these probe images. This detects labels that
    were measured on other images, but not invented results with correct image counts; for that, use ``labels verify``.
    A LabelError, with ``name`` as the label's place, says what does not fit.
    """
    if label.graph_digest != graph.digest or len(label.support) != len(graph):
        raise LabelError(
            f"is a label on graph {label.graph_name} ({label.graph_digest[:12]}), not on {graph.name} "
            f"({graph.digest[:12]}); give the graph that it was measured on",
            name,
        )
    if graph.probes is None or graph.probes.digest != label.probes_digest:
        return
    pools, per_concept = graph.probe_pools, label.images_per_concept
    expected = np.minimum(pools.sum(axis=0), per_concept)
    possible = dict(zip(graph.probes.by_domain, np.minimum(pools, per_concept).sum(axis=1).tolist(), strict=True))
    claimed = dict(zip(label.domain_names, label.domain_ranks.sum(axis=1, dtype=np.int64).tolist(), strict=True))
    if (label.support > expected).any() or label.support.sum() < _MIN_DECODED * expected.sum():
        fault = f"has {int(label.support.sum()):,} tests instead of {int(expected.sum()):,}"
    elif wrong := [name for name, tests in claimed.items() if tests > possible.get(name, 0)]:
        fault = f"has more tests on '{wrong[0]}' than possible"
    else:
        return
    raise LabelError(
        f"was not measured on the probe images that it names ({label.probes_digest[:12]}): it {fault}; label the model "
        "again",
        name,
    )


def read_label(path: Path, name: str = "") -> Label:
    """Read and validate a label file; a LabelError, with ``name`` instead of the path, if it is not a valid label."""
    return label_from_bytes(_read_limited(path, MAX_LABEL_BYTES, name or path), name or path)


def read_all(
    read: Callable[[A], T], items: Sequence[A], mapped: Callable[..., Iterable[Any]] = map
) -> tuple[dict[A, T], list[MLLError]]:
    """Read untrusted things; what fails is skipped, with one warning for all, and its errors are returned, too."""

    def attempt(item: A) -> T | MLLError:
        try:
            return read(item)
        except (GraphError, LabelError, HubError, InputError) as error:
            return error

    found = dict(zip(items, mapped(attempt, items), strict=True))
    if errors := [each for each in found.values() if isinstance(each, MLLError)]:
        _log.warning("left out: %s", listed_reasons(errors))
    return {item: each for item, each in found.items() if not isinstance(each, MLLError)}, errors


def _read_limited(path: Path, max_bytes: int, name: Path | str) -> bytes:
    try:
        if path.stat().st_size > max_bytes:
            raise LabelError(f"is larger than {max_bytes // 2**20} MB; this is not a label", name)
        return path.read_bytes()
    except OSError as error:
        raise LabelError(f"cannot be read ({error.strerror}); check the path", name) from None
