"""Join labels over graphs: for each model its label on each graph, from one group of comparable labels per graph.

Only labels that were measured on the same probe images are directly comparable. So the labels of one group are chosen
per graph; all others are left out, with the reason. One graph is the reference, which gives the mean recall of each
model; models without a label on it are left out.

A label is a claim of its publisher. Protection against false labels:

- Labels on other probe images, such as a few easy ones, are never compared with those of the chosen group. The group is
  chosen by user request, then by the default graph, then by the number of publishers, so that many labels of one
  account count once. Without a default graph, an attacker with many accounts can outnumber honest publishers.
- A label whose image counts contradict those of the probe images that it names is left out
  (:func:`~mll_hf.labels.store.check_graph`). Invented results with correct image counts are only detected by measuring
  again: ``mll-hf labels verify``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import GraphError, InputError, LabelError
from mll_hf.graph.union import GraphUnion
from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.embeddings import ProbeEmbeddings
from mll_hf.labels.store import check_label_fits
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label, LabelKey, ModelRef, Rivals


class NoLabelsError(InputError):
    """There are no labels to select from."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Labels that are left out of a selection.

    Attributes:
        models: Ids of their models, sorted.
        graph_name: Name of their graph.
        reason: Why they are left out.
    """

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
        among: The labels of all models, if this is only a subset.
        rivals: [M][G] rivals of the labels, None where missing; empty unless they were read.
    """

    union: GraphUnion
    labels: tuple[tuple[Label | None, ...], ...]
    left_out: tuple[LeftOut, ...] = ()
    among: JoinedLabels | None = None
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
        none = np.zeros(RANK_BINS)
        shares = [none if label is None else label.mean_rank_shares for g in range(len(self.union.graphs))
                  for label in self.on_graph(g)]  # fmt: skip
        return np.concatenate(shares).reshape(len(self.union.graphs), len(self), RANK_BINS)

    @cached_property
    def domain_names(self) -> frozenset[str]:
        """Names of all domains."""
        if self.among is not None:
            return self.among.domain_names
        return frozenset().union(*{label.domain_names for row in self.labels for label in row if label is not None})

    def domains_of(self, g: int) -> frozenset[str]:
        """Domains of the probe images of one graph."""
        if self.among is not None:
            return self.among.domains_of(g)
        return frozenset().union(*{label.domains_tested for label in self.on_graph(g) if label is not None})

    def subset(self, rows: Sequence[int]) -> JoinedLabels:
        """The labels of the models in the given rows."""
        rivals = tuple(self.rivals[m] for m in rows) if self.rivals else ()
        return replace(self, labels=tuple(self.labels[m] for m in rows), rivals=rivals)

    def with_rivals(self, rivals_of: Callable[[Label], Rivals | None]) -> JoinedLabels:
        """The same labels with their rivals, where available."""
        rivals = tuple(tuple(None if label is None else rivals_of(label) for label in row) for row in self.labels)
        return replace(self, rivals=rivals)

    def embeddings(self, embeddings_of: Callable[[Label], ProbeEmbeddings | None]) -> tuple[ProbeEmbeddings, ...]:
        """[M] probe embeddings of the models, joined over the graphs; empty if any label is missing or has none."""
        joined = []
        for row in self.labels:
            parts = []
            for label, positions in zip(row, self.union.positions, strict=True):
                part = None if label is None else embeddings_of(label)
                if part is None:
                    return ()
                parts.append((part, positions))
            single = len(parts) == 1
            joined.append(parts[0][0] if single else ProbeEmbeddings.joined(parts, len(self.union.graph)))
        return tuple(joined)


def join_labels(
    labels: Iterable[Label],
    graphs: Sequence[SemanticGraph],
    *,
    reference: str | None = None,
    probes: Collection[str] = (),
    default: SemanticGraph | None = None,
    publisher_of: Callable[[Label], str | None] = lambda _: None,
) -> JoinedLabels:
    """Join labels over graphs.

    One group of labels is chosen per graph: the one with the preferred probe images, else that of the default graph,
    else the one with the most publishers. Ties are broken by the number of labels, then by the number of probe images.
    If a model has several labels in a group, the one with the most probe images is used.

    Args:
        labels: Labels on any graphs.
        graphs: Their graphs.
        reference: Digest of the reference graph; by default that of the default graph, else of the graph with the most
            publishers and labels. Graphs without hypernyms in other graphs are preferred.
        probes: Names or digests of preferred probe images.
        default: The default graph with its probe images.
        publisher_of: Returns the publisher of a label; None if unknown.

    Raises:
        NoLabelsError: There are no usable labels.
        InputError: There are no labels on the reference graph or the preferred probe images.
    """
    by_digest = {graph.digest: graph for graph in graphs}
    groups: dict[str, dict[LabelKey, list[Label]]] = defaultdict(lambda: defaultdict(list))
    left_out: list[LeftOut] = []
    labels = tuple(labels)
    names = {label.probes_name for label in labels}
    if unknown := sorted(set(probes) - names - {label.probes_digest for label in labels}):
        available = abridged(sorted(names), 5) or "none"
        raise InputError(f"no label was measured on probe images '{unknown[0]}'; there are labels on {available}")
    invalid: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        try:
            if label.graph_digest in by_digest:
                check_label_fits(label, by_digest[label.graph_digest])
        except LabelError as error:
            invalid[error.reason].append(label)
        else:
            groups[label.graph_digest][label.key].append(label)
    left_out += [_left_out(group, reason) for reason, group in sorted(invalid.items())]
    for digest in sorted(groups.keys() - by_digest.keys()):
        unreadable = [label for group in groups.pop(digest).values() for label in group]
        reason = "the graph cannot be read; its publisher must make it public, or give it with --graph"
        left_out.append(_left_out(unreadable, reason))
    chosen: dict[str, list[Label]] = {}
    for digest, on_graph in sorted(groups.items()):
        best = min(on_graph, key=lambda group: _group_order(on_graph[group], group, probes, default, publisher_of))
        chosen[digest] = on_graph.pop(best)
        left_out += [
            _left_out(others, _exclusion_reason(group, others, best)) for group, others in sorted(on_graph.items())
        ]
    if not chosen and left_out:
        raise NoLabelsError(f"no label can be used: {left_out[0]}")
    if not chosen:
        raise NoLabelsError(
            "there are no labels to select from; label models first: mll-hf label MODEL --graph DIR --labels DIR"
        )
    reference = reference or min(
        chosen, key=lambda digest: _reference_order(by_digest[digest], chosen[digest], default, publisher_of)
    )
    if reference not in chosen:
        raise InputError(f"no model has a label on the reference graph ({reference[:12]}); name another one")
    columns = [reference, *sorted(chosen.keys() - {reference}, key=lambda digest: (by_digest[digest].name, digest))]
    tables = [_by_model(chosen[digest]) for digest in columns]
    models = sorted(tables[0], key=lambda model: (tables[0][model].model.repo_id, model))
    for digest, table in zip(columns[1:], tables[1:], strict=True):
        if without := [label for model, label in table.items() if model not in tables[0]]:
            name = by_digest[reference].name
            left_out.append(_left_out(without, f"the model has no label on the reference graph {name}"))
        if not table.keys() & tables[0].keys():
            chosen.pop(digest)
    kept = [g for g, digest in enumerate(columns) if digest in chosen]
    union, cyclic = _union([by_digest[columns[g]] for g in kept])
    reason = "its hypernyms form a cycle with those of the other graphs; correct the graph"
    left_out += [_left_out(chosen[columns[kept[position]]], reason) for position in cyclic]
    kept = [g for position, g in enumerate(kept) if position not in cyclic]
    rows = tuple(tuple(tables[g].get(model) for g in kept) for model in models)
    return JoinedLabels(union, rows, tuple(left_out))


def _group_order(
    labels: list[Label],
    group: LabelKey,
    probes: Collection[str],
    default: SemanticGraph | None,
    publisher_of: Callable[[Label], str | None],
) -> tuple[object, ...]:
    is_preferred = any(label.probes_name in probes or label.probes_digest in probes for label in labels)
    is_default = default is not None and default.probes is not None and default.probes.digest == group.probes_digest
    tests = max(int(label.support.sum()) for label in labels)
    return not is_preferred, not is_default, -_publisher_count(labels, publisher_of), -len(labels), -tests, group


def _publisher_count(labels: list[Label], publisher_of: Callable[[Label], str | None]) -> int:
    """Number of distinct known publishers."""
    return len({publisher for label in labels if (publisher := publisher_of(label))})


def _union(graphs: Sequence[SemanticGraph]) -> tuple[GraphUnion, list[int]]:
    """The union of the graphs, and positions of graphs left out because their hypernyms form a cycle with others."""
    try:
        return GraphUnion.of(graphs), []
    except GraphError:
        union, cyclic = GraphUnion.of(graphs[:1]), []
    for position, graph in enumerate(graphs[1:], 1):
        try:
            union = GraphUnion.of([*union.graphs, graph])
        except GraphError:
            cyclic.append(position)
    return union, cyclic


def _exclusion_reason(group: LabelKey, labels: list[Label], best: LabelKey) -> str:
    if group.probes_digest == best.probes_digest:
        return f"measured on another sample of the probe images (seed {group.seed}) than the rest"
    return f"measured on other probe images ({min(label.probes_name for label in labels)}) than the rest"


def _reference_order(
    graph: SemanticGraph,
    labels: list[Label],
    default: SemanticGraph | None,
    publisher_of: Callable[[Label], str | None],
) -> tuple[object, ...]:
    is_default = default is not None and default.digest == graph.digest
    publishers = _publisher_count(labels, publisher_of)
    return not is_default, bool(graph.external), -publishers, -len(labels), -len(graph), graph.digest


def _by_model(labels: list[Label]) -> Mapping[tuple[str, str], Label]:
    """By identity of the model, its label with the most probe images per concept; a published id breaks ties."""
    best: dict[tuple[str, str], Label] = {}
    for label in labels:
        model = (label.model.key, label.model.backend)
        best[model] = max(best.get(model, label), label, key=lambda each: each.sampling.images_per_concept)
    return best


def _left_out(labels: list[Label], reason: str) -> LeftOut:
    graph_name = min(label.graph_name for label in labels)
    return LeftOut(tuple(sorted({label.model.repo_id for label in labels})), graph_name, reason)
