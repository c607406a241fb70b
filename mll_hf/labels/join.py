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

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import GraphError, InputError, LabelError, NoLabelsError
from mll_hf.graph.concepts import GraphUnion
from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.store import check_label_fits, read_all
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label, LabelKey, ModelRef, ProbeEmbeddings, Rivals


_THREADS = 16  # that fetch rivals


@dataclass(frozen=True)
class JoinedLabels:
    """Labels of M models on G graphs."""

    union: GraphUnion  # of the G graphs; the first is the reference
    labels: tuple[tuple[Label | None, ...], ...]  # [M][G] the first of each model is never None
    left_out: tuple[str, ...] = ()  # which labels were left out, and why
    rivals: tuple[tuple[Rivals | None, ...], ...] = ()  # [M][G] empty unless they were read

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
        return frozenset(
            name
            for label in self.on_graph(g)
            if label is not None
            for name, images in zip(label.domain_names, label.domain_ranks.sum(axis=1).tolist(), strict=True)
            if images
        )

    def subset(self, rows: Sequence[int]) -> JoinedLabels:
        """The labels of the models in the given rows."""
        rivals = tuple(self.rivals[m] for m in rows) if self.rivals else ()
        return replace(self, labels=tuple(self.labels[m] for m in rows), rivals=rivals)

    def read_rivals(self, rivals_of: Callable[[Label], Rivals | None]) -> JoinedLabels:
        """The models whose rivals can be read, with them; others are left out with a warning.

        An InputError if no model is left.
        """

        def read(m: int) -> tuple[Rivals | None, ...]:
            rivals = tuple(None if label is None else rivals_of(label) for label in self.labels[m])
            for label, found in zip(self.labels[m], rivals, strict=True):
                if label and not found:
                    raise LabelError("its rivals are not published", label.model.short_name)
            return rivals

        with ThreadPoolExecutor(_THREADS) as pool:
            found, errors = read_all(read, range(len(self)), pool.map)
        if not found:
            raise InputError(
                f"strategy 'paper' needs the rivals of the labels ({errors[0]}); use another strategy, or label again"
            )
        return replace(self.subset([*found]), rivals=tuple(found.values()))

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

    def publishers(some: Iterable[Label]) -> int:
        return len({publisher_of(label) for label in some} - {None})

    def order_of_images(key: LabelKey) -> tuple[object, ...]:
        """Of each graph: the default images, most publishers, labels and images."""
        is_default = default is not None and default.probes is not None and default.probes.digest == key.probes_digest
        tests = max(int(label.support.sum()) for label in usable[key])
        return key.graph_digest, not is_default, -publishers(usable[key]), -len(usable[key]), -tests, key

    def order_of_labels(label: Label) -> tuple[object, ...]:
        """Of each model: the most tests; the id and the commit break ties."""
        return -int(label.support.sum()), label.model.repo_id, label.model.revision

    def order_of_references(digest: str) -> tuple[object, ...]:
        """The default graph, no hypernyms elsewhere, most publishers, labels and concepts."""
        graph, column = by_digest[digest], columns[digest]
        is_default = default is not None and default.digest == digest
        n_publishers = publishers(column.values())
        return not is_default, bool(graph.external), -n_publishers, -len(column), -len(graph), digest

    def leave_out(some: Sequence[Label], reason: str) -> None:
        if some:
            names = {label.model.short_name if label.model.is_local else label.model.repo_id for label in some}
            graph = min(label.graph_name for label in some)
            left_out.append(f"{abridged(sorted(names), 3)} on graph {graph}: {reason}")

    left_out, by_digest = list[str](), {graph.digest: graph for graph in graphs}
    usable: dict[LabelKey, list[Label]] = defaultdict(list)
    unusable: dict[tuple[str, str], list[Label]] = defaultdict(list)
    for label in labels:
        try:
            if not (graph := by_digest.get(label.graph_digest)):
                raise LabelError("the graph cannot be read; its publisher must make it public, or give it with --graph")
            check_label_fits(label, graph)
        except LabelError as error:
            unusable[error.reason, label.graph_digest].append(label)
        else:
            usable[label.key].append(label)
    for (reason, _), group in sorted(unusable.items()):
        leave_out(group, reason)
    columns: dict[str, dict[str, Label]] = {}  # by graph and model
    for key in sorted(usable, key=order_of_images):
        if key.graph_digest not in columns:
            preferred = sorted(usable[key], key=order_of_labels)
            columns[key.graph_digest] = {label.model.key: label for label in reversed(preferred)}
        else:
            images = min(label.probes_name for label in usable[key])
            leave_out(usable[key], f"measured on other probe images ({images}) than the rest")
    if not columns:
        raise NoLabelsError(
            f"no label can be used: {left_out[0]}"
            if left_out
            else "there are no labels to select from; label models first: mll-hf label MODEL --labels DIR"
        )
    reference = reference or min(columns, key=order_of_references)
    if reference not in columns:
        raise InputError(f"no model has a label on the reference graph ({reference[:12]}); name another one")

    rows, union = columns[reference], GraphUnion.of([by_digest[reference]])
    for digest in sorted(columns.keys() - {reference}, key=lambda digest: (by_digest[digest].name, digest)):
        compared = [label for key, label in columns[digest].items() if key in rows]
        without = [label for key, label in columns[digest].items() if key not in rows]
        leave_out(without, f"the model has no label on the reference graph {by_digest[reference].name}")
        try:
            union = GraphUnion.of([*union.graphs, by_digest[digest]]) if compared else union
        except GraphError:
            leave_out(compared, "its hypernyms form a cycle with those of the other graphs; correct the graph")
    keys = sorted(rows, key=lambda key: (rows[key].model.repo_id, key))
    joined = tuple(tuple(columns[graph.digest].get(key) for graph in union.graphs) for key in keys)
    return JoinedLabels(union, joined, tuple(left_out))
