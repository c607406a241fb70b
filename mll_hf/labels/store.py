"""A folder of labels of one graph: ``graph.json`` and ``labels/<owner>--<name>/<revision>/label.safetensors``.

The layout is that of a collection repo on the Hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.errors import GraphError, InputError, LabelError
from mll_hf.graph.concepts import GRAPH_FILE, SemanticGraph, load_graph, save_graph
from mll_hf.labels.embeddings import EMBEDDINGS_FILE, ProbeEmbeddings, read_embeddings
from mll_hf.labels.label import label_from_bytes, label_to_bytes
from mll_hf.utils.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mll_hf.labels.label import LabelSummary, ModelLabel, ModelRef

LABEL_FILE = "label.safetensors"
CATALOG_SHARDS = "shard-*.safetensors"  # what tells a catalog, see mll_hf.labels.catalog, from a store
MAX_LABEL_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a label was read from.

    Attributes:
        location: Path of the file, or ``hf://...@commit/path``.
        publisher: The user or organization whose repo it is in; None on this machine.
    """

    location: str
    publisher: str | None = None


@dataclass(frozen=True)
class LabelStore:
    """A folder of labels.

    Attributes:
        folder: Where it is; it need not exist before something is added.
    """

    folder: Path

    @cached_property
    def graph(self) -> SemanticGraph:
        """The graph that all labels of the store belong to.

        Raises:
            InputError: This is no store.
            GraphError: Its graph cannot be read.
        """
        if not (self.folder / GRAPH_FILE).exists():
            raise InputError(
                f"{self.folder} holds no labels; make some: mll-hf label MODEL --graph DIR --labels {self.folder}"
            )
        return load_graph(self.folder)

    @cached_property
    def labels(self) -> tuple[ModelLabel, ...]:
        """All labels, read and validated, in the order of their paths.

        Raises:
            InputError: This is no store.
            LabelError: A label is damaged or of another graph.
        """
        graph = self.graph
        return tuple(read_label(path, graph) for path in self.paths())

    @property
    def name(self) -> str:
        """The folder, as text."""
        return str(self.folder)

    def list(self) -> tuple[LabelSummary, ...]:
        """All labels; see :attr:`labels`."""
        return self.labels

    def summaries(self) -> Iterator[LabelSummary]:
        """Summaries of all labels, one after another, so that the memory need not hold them all.

        Raises:
            InputError: This is no store.
            LabelError: A label is damaged or of another graph.
        """
        graph = self.graph
        return (read_label(path, graph).summary for path in self.paths())

    def fetch(self, models: Sequence[ModelRef]) -> tuple[ModelLabel, ...]:
        """The labels of some models.

        Raises:
            InputError: One of them has none here.
        """
        by_model = {label.model: label for label in self.labels}
        if missing := [model for model in models if model not in by_model]:
            raise InputError(
                f"there is no label of {missing[0].repo_id} at {missing[0].revision[:12]} in {self.folder}"
            )
        return tuple(by_model[model] for model in models)

    def origin_of(self, model: ModelRef) -> Origin:
        """The file of a model's label."""
        return Origin(str(self.path_of(model)))

    def paths(self) -> tuple[Path, ...]:
        """Paths of all label files, sorted."""
        return tuple(sorted(self.folder.glob(f"labels/*/*/{LABEL_FILE}")))

    def path_of(self, model: ModelRef) -> Path:
        """Where the label of a model is, or would be."""
        return self.folder / label_path(model)

    def embeddings_of(self, model: ModelRef) -> ProbeEmbeddings | None:
        """The probe embeddings beside a label, or None.

        Raises:
            LabelError: The file is damaged or of another graph.
        """
        folder = self.path_of(model).parent
        embeddings = read_embeddings(folder)
        if embeddings is not None and len(embeddings.concepts) != len(self.graph):
            reason = f"has {len(embeddings.concepts)} concepts, the graph {len(self.graph)}; label the model anew"
            raise LabelError(reason, folder / EMBEDDINGS_FILE)
        return embeddings

    def is_of(self, graph: SemanticGraph) -> bool:
        """Whether this is a store of labels of a graph already.

        Raises:
            GraphError: Its own graph cannot be read.
        """
        return (self.folder / GRAPH_FILE).exists() and self.graph.digest == graph.digest

    def adopt(self, graph: SemanticGraph) -> None:
        """Make this a store of labels of a graph.

        Raises:
            InputError: It is a store of another graph, or a catalog, whose labels are not files of their own.
            StorageError: The folder cannot be written.
        """
        if any(self.folder.glob(CATALOG_SHARDS)):
            raise InputError(f"{self.folder} is a catalog, which is written as a whole; use another folder for labels")
        try:
            present = self.graph
        except InputError:
            save_graph(graph, self.folder)
            return
        except GraphError as error:
            raise InputError(f"{error}; use another folder for the labels") from None
        if present.digest != graph.digest:
            raise InputError(
                f"{self.folder} holds labels of another graph ({present.name}, {present.digest[:12]}); "
                f"use another folder for labels of {graph.name} ({graph.digest[:12]})"
            )

    def write(self, label: ModelLabel) -> Path:
        """Add or replace a label, atomically; returns its path.

        Raises:
            StorageError: The folder cannot be written.
        """
        path = self.path_of(label.model)
        write_atomically(path, label_to_bytes(label))
        return path


def label_path(model: ModelRef) -> str:
    """Where the label of a model lies in a store or a collection, from its top."""
    return f"labels/{model.slug}/{model.revision}/{LABEL_FILE}"


def read_label(path: str | Path, graph: SemanticGraph | None = None) -> ModelLabel:
    """Read and validate one label file.

    Args:
        path: The file.
        graph: If given, the label must be of this graph.

    Raises:
        LabelError: The file is missing, too large, no valid label, or of another graph.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise LabelError(f"is larger than {MAX_LABEL_BYTES // 2**20} MB; this is no label", path)
        blob = path.read_bytes()
    except OSError as error:
        raise LabelError(f"cannot be read ({error.strerror}); check the path", path) from None
    label = label_from_bytes(blob, path)
    if graph is not None and (label.graph_digest != graph.digest or len(label.hits) != len(graph)):
        raise LabelError(
            f"is a label of graph {label.graph_name} ({label.graph_digest[:12]}), not of {graph.name} "
            f"({graph.digest[:12]}); keep the labels of different graphs in different folders",
            path,
        )
    return label
