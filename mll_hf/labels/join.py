"""Join labels over graphs: a table with one row per model and one column per graph.

1. Labels that contradict their graph, or whose graph cannot be read, are left out.
2. Only labels on the same probe images compare. So one :class:`~mll_hf.labels.label.LabelKey` is chosen per graph: that
   with the probe images of the default graph, else of the most publishers, so that many labels of one account count
   once. Labels with another key are left out.
3. One graph is the reference, which gives the mean recall of each model. Models without a label on it are left out.
4. A model's labels are joined by its identity, :attr:`~mll_hf.labels.label.ModelRef.key`.

Whatever is left out is returned with the reason. A label is a claim: invented results with possible image counts are
only detected by measuring again (``mll-hf labels verify``). Without a default graph, many accounts can outnumber honest
publishers.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import GraphError, InputError, LabelError, MLLError
from mll_hf.graph.union import GraphUnion
from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.store import check_label_fits
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.embeddings import ProbeEmbeddings
    from mll_hf.labels.label import Label, LabelKey, ModelRef, Rivals


_THREADS = 16  # that fetch rivals
_NO_GRAPH = "the graph cannot be read; its publisher must make it public, or give it with --graph"
_log = logging.getLogger(__name__)


class NoLabelsError(InputError):
    """There are no labels to select from."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Labels of some models (ids, sorted) on a graph that are left out of a selection, and why."""

    models: tuple[str, ...]
    graph_name: str
    reason: str

    def __str__(self) -> str:
        return f"{abridged(self.models, 3)} on graph {self.graph_name}: {self.reason}"


@dataclass(frozen=True)
class JoinedLabels:
    """Labels of M models on G graphs.

    Attributes:
        union: The G graphs; the first is the reference.
        labels: [M][G], None where a model has no label on a graph; the first of each model is never None.
        left_out: Labels that were left out, with the reasons.
        rivals: [M][G] rivals of the labels, None where missing; empty unless they were read.
    """

    union: GraphUnion
    labels: tuple[tuple[Label | None, ...], ...]
    left_out: tuple[LeftOut, ...] = ()
    rivals: tuple[tuple[Rivals | None, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def reference(self) -> tuple[Label, ...]:
        """[M] labels on the reference graph."""
        return tuple(row[0] for row in self.labels if row[0] is not None)

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """[M] the models."""
        return tuple(label.model for label in self.reference)

    def on_graph(self, g: int) -> tuple[Label | None, ...]:
        """[M] labels on one graph."""
        return tuple(row[g] for row in self.labels)

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """[G, M] which models have a label on which graph."""
        columns = zip(*self.labels, strict=True)
        return np.array([[label is not None for label in column] for column in columns], np.bool_)

    @cached_property
    def rank_shares(self) -> NDArray[np.float64]:
        """[G, M, RANK_BINS] mean rank shares of the labels; 0 without a label."""
        shares = np.zeros((len(self.union.graphs), len(self), RANK_BINS))
        for m, row in enumerate(self.labels):
            for g, label in enumerate(row):
                if label is not None:
                    shares[g, m] = label.mean_rank_shares
        return shares

    @cached_property
    def domain_names(self) -> frozenset[str]:
        """Names of all domains."""
        return frozenset().union(*(label.domain_names for row in self.labels for label in row if label is not None))

    def domains_of(self, g: int) -> frozenset[str]:
        """Domains of the probe images of one graph."""
        return frozenset().union(*(label.domains_tested for label in self.on_graph(g) if label is not None))

    def subset(self, rows: Sequence[int]) -> JoinedLabels:
        """The labels of the models in the given rows."""
        rivals = tuple(self.rivals[m] for m in rows) if self.rivals else ()
        return replace(self, labels=tuple(self.labels[m] for m in rows), rivals=rivals)

    def read_rivals(self, rivals_of: Callable[[Label], Rivals | None]) -> JoinedLabels:
        """The models whose rivals can be read, with them; others are left out with a warning.

        An InputError if no model is left.
        """

        def read(row: tuple[Label | None, ...]) -> tuple[Rivals | None, ...] | str:
            try:
                rivals = tuple(None if label is None else rivals_of(label) for label in row)
            except MLLError as error:
                return str(error)
            missing = [label for label, each in zip(row, rivals, strict=True) if label and not each]
            return f"{missing[0].model.short_name}: its rivals are not published" if missing else rivals

        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(read, self.labels))
        kept = [m for m, rivals in enumerate(found) if not isinstance(rivals, str)]
        if left_out := [reason for reason in found if isinstance(reason, str)]:
            _log.warning("left out: %d models without rivals (%s)", len(left_out), abridged(left_out, 3))
        if not kept:
            raise InputError(
                f"strategy 'paper' needs the rivals of the labels ({left_out[0]}); use another strategy, or label again"
            )
        return replace(self.subset(kept), rivals=tuple(each for each in found if not isinstance(each, str)))

    def embeddings(self, embeddings_of: Callable[[Label], ProbeEmbeddings | None]) -> tuple[ProbeEmbeddings, ...]:
        """[M] probe embeddings of the models; empty if a model has none, or if there are several graphs."""
        if len(self.union.graphs) > 1:
            return ()
        found = tuple(each for label in self.reference if (each := embeddings_of(label)) is not None)
        return found if len(found) == len(self) else ()


def join_labels(
    labels: Iterable[Label],
    graphs: Sequence[SemanticGraph],
    *,
    reference: str | None = None,
    default: SemanticGraph | None = None,
    publisher_of: Callable[[Label], str | None] = lambda _: None,
) -> JoinedLabels:
    """Join labels over graphs, see the module's text. The result does not depend on the order of labels and graphs.

    The reference graph, named by digest, is by default the default graph, else that with the most publishers, labels
    and concepts; graphs without hypernyms in other graphs are preferred. ``publisher_of`` returns None if unknown. A
    NoLabelsError if no label is usable, an InputError if none is on the reference graph.
    """
    order, left_out = _Order(default, publisher_of), list[LeftOut]()
    by_digest = {graph.digest: graph for graph in graphs}
    columns = {
        digest: _on_same_images(of_graph, order, left_out)
        for digest, of_graph in sorted(_usable(labels, by_digest, left_out).items())
    }
    if not columns:
        raise NoLabelsError(
            f"no label can be used: {left_out[0]}"
            if left_out
            else "there are no labels to select from; label models first: mll-hf label MODEL --labels DIR"
        )
    reference = reference or min(columns, key=lambda digest: order.of_reference(by_digest[digest], columns[digest]))
    if reference not in columns:
        raise InputError(f"no model has a label on the reference graph ({reference[:12]}); name another one")

    tables = {digest: {label.model.key: label for label in column} for digest, column in columns.items()}
    rows = tables[reference]
    compared = [reference]
    for digest in sorted(columns.keys() - {reference}, key=lambda digest: (by_digest[digest].name, digest)):
        without = [label for key, label in tables[digest].items() if key not in rows]
        _leave_out(left_out, without, f"the model has no label on the reference graph {by_digest[reference].name}")
        compared += [digest] if len(without) < len(columns[digest]) else []
    union, cyclic = _union([by_digest[digest] for digest in compared])
    for graph in cyclic:
        reason = "its hypernyms form a cycle with those of the other graphs; correct the graph"
        _leave_out(left_out, [label for key, label in tables[graph.digest].items() if key in rows], reason)
    keys = sorted(rows, key=lambda key: (rows[key].model.repo_id, key))
    joined = tuple(tuple(tables[graph.digest].get(key) for graph in union.graphs) for key in keys)
    return JoinedLabels(union, joined, tuple(left_out))


@dataclass(frozen=True)
class _Order:
    """Which labels are preferred where not all can be compared; the lowest comes first."""

    default: SemanticGraph | None
    publisher_of: Callable[[Label], str | None]

    def of_key(self, key: LabelKey, labels: list[Label]) -> tuple[object, ...]:
        """Default images, most publishers, labels and images."""
        default = self.default.probes if self.default else None
        is_default = default is not None and default.digest == key.probes_digest
        tests = max(int(label.support.sum()) for label in labels)
        return not is_default, -self._publishers(labels), -len(labels), -tests, key

    def of_reference(self, graph: SemanticGraph, labels: Sequence[Label]) -> tuple[object, ...]:
        """Default graph, no hypernyms elsewhere, most publishers, labels and concepts."""
        is_default = self.default is not None and self.default.digest == graph.digest
        publishers = self._publishers(labels)
        return not is_default, bool(graph.external), -publishers, -len(labels), -len(graph), graph.digest

    def of_label(self, label: Label) -> tuple[object, ...]:
        """Of one model on the same images: the most tests; the commit and the id break ties."""
        return -int(label.support.sum()), label.model.repo_id, label.model.revision

    def _publishers(self, labels: Iterable[Label]) -> int:
        """Number of distinct known publishers."""
        return len({publisher for label in labels if (publisher := self.publisher_of(label))})


def _leave_out(left_out: list[LeftOut], labels: Sequence[Label], reason: str) -> None:
    if labels:
        ids = tuple(sorted({label.model.repo_id for label in labels}))
        left_out.append(LeftOut(ids, min(label.graph_name for label in labels), reason))


def _usable(
    labels: Iterable[Label], graphs: dict[str, SemanticGraph], left_out: list[LeftOut]
) -> dict[str, dict[LabelKey, list[Label]]]:
    """By graph and key, the labels whose graph is there and that fit it."""
    usable: dict[str, dict[LabelKey, list[Label]]] = defaultdict(lambda: defaultdict(list))
    unusable: dict[tuple[str, str], list[Label]] = defaultdict(list)
    for label in labels:
        if not (graph := graphs.get(label.graph_digest)):
            unusable[_NO_GRAPH, label.graph_digest].append(label)
            continue
        try:
            check_label_fits(label, graph)
        except LabelError as error:
            unusable[error.reason, ""].append(label)
        else:
            usable[label.graph_digest][label.key].append(label)
    for (reason, _), group in sorted(unusable.items()):
        _leave_out(left_out, group, reason)
    return usable


def _on_same_images(by_key: dict[LabelKey, list[Label]], order: _Order, left_out: list[LeftOut]) -> tuple[Label, ...]:
    """The labels of the preferred key, one per model."""
    best = min(by_key, key=lambda key: order.of_key(key, by_key[key]))
    for key, others in sorted(by_key.items()):
        if key != best:
            images = min(label.probes_name for label in others)
            _leave_out(left_out, others, f"measured on other probe images ({images}) than the rest")
    of_model: dict[str, Label] = {}
    for label in sorted(by_key[best], key=order.of_label):
        of_model.setdefault(label.model.key, label)
    return tuple(of_model.values())


def _union(graphs: Sequence[SemanticGraph]) -> tuple[GraphUnion, list[SemanticGraph]]:
    """The union of the graphs, and those left out because their hypernyms form a cycle with graphs before them."""
    try:
        return GraphUnion.of(graphs), []
    except GraphError:  # find out which
        union, cyclic = GraphUnion.of(graphs[:1]), []
    for graph in graphs[1:]:
        try:
            union = GraphUnion.of([*union.graphs, graph])
        except GraphError:
            cyclic.append(graph)
    return union, cyclic
