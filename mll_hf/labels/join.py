"""Join labels over graphs: for each model its label on every graph, one group of comparable labels per graph.

Only labels that were measured on the same probe images compare directly. So each graph contributes the labels of one
group; what is left out is named with the reason. One graph is the reference: it gives the general level of every
model, so a model without a label on it is left out.

A label is a claim of whoever published it. What is done against false ones:

- Labels on other probe images, such as ten easy ones of one's own, never compare with those of the group taken. It is
  taken by what the user asked for, else by the default graph, else by the number of different publishers: many labels
  of one account count once. Who makes many accounts can outnumber honest publishers where there is no default graph.
- A label that names probe images whose numbers contradict its own is left out
  (:func:`~mll_hf.labels.store.check_graph`). Who copies these numbers and invents results is only found out by
  measuring again: ``mll-hf labels verify``.
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
from mll_hf.labels.store import check_graph
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import LabelGroup, LabelSummary, ModelLabel, ModelRef


class NoLabelsError(InputError):
    """There are no labels to select from."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Labels that take no part in a selection.

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
        left_out: Labels that were left out, and why.
        among: The labels of all models that are compared, if these are only the most promising ones.
    """

    union: GraphUnion
    labels: tuple[tuple[LabelSummary | None, ...], ...]
    left_out: tuple[LeftOut, ...] = ()
    among: JoinedLabels | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def reference(self) -> tuple[LabelSummary, ...]:
        """[M] labels on the reference graph."""
        return tuple(row[0] for row in self.labels if row[0] is not None)

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """[M] the models."""
        return tuple(label.model for label in self.reference)

    def on_graph(self, g: int) -> tuple[LabelSummary | None, ...]:
        """[M] labels on one graph."""
        return tuple(row[g] for row in self.labels)

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """[G, M] which models have a label on a graph."""
        columns = zip(*self.labels, strict=True)
        return np.array([[label is not None for label in column] for column in columns], np.bool_)

    @cached_property
    def rank_shares(self) -> NDArray[np.float64]:
        """[G, M, RANK_BINS] mean rank shares of the labels; 0 where there is none."""
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

    def take(self, rows: Sequence[int]) -> JoinedLabels:
        """Only some of the models."""
        return replace(self, labels=tuple(self.labels[m] for m in rows))

    def whole(self, fetch: Callable[[Sequence[LabelSummary]], Sequence[ModelLabel]]) -> JoinedLabels:
        """The same labels, read whole."""
        fetched = iter(fetch([label for row in self.labels for label in row if label is not None]))
        rows = (tuple(None if label is None else next(fetched) for label in row) for row in self.labels)
        return replace(self, labels=tuple(rows))

    def embeddings(
        self, embeddings_of: Callable[[LabelSummary], ProbeEmbeddings | None]
    ) -> tuple[ProbeEmbeddings, ...]:
        """[M] probe embeddings of the models, joined over the graphs; none if any label is missing or lacks them."""
        joined = []
        for row in self.labels:
            parts = []
            for label, positions in zip(row, self.union.positions, strict=True):
                part = None if label is None else embeddings_of(label)
                if part is None:
                    return ()
                parts.append((part, positions))
            whole = parts[0][0] if len(parts) == 1 else ProbeEmbeddings.joined(parts, len(self.union.graph))
            joined.append(whole)
        return tuple(joined)


def join_labels(
    labels: Iterable[LabelSummary],
    graphs: Sequence[SemanticGraph],
    *,
    reference: str | None = None,
    probes: Collection[str] = (),
    default: SemanticGraph | None = None,
    publisher_of: Callable[[LabelSummary], str | None] = lambda _: None,
) -> JoinedLabels:
    """Join labels over graphs.

    Per graph the group with the wanted probe images is taken, else that of the default graph, else the one of most
    publishers, of these the one with most labels, then with most probe images. Of several labels of a model in one
    group the one with the most probe images counts.

    Args:
        labels: Labels on any graphs.
        graphs: Their graphs.
        reference: Digest of the reference graph; by default the default graph, else that of the most publishers and
            labels, graphs without hypernyms in other graphs first.
        probes: Names or digests of probe images to prefer to other probe images of the same graph.
        default: The graph, with its probe images, that everybody is meant to measure on.
        publisher_of: Who published a label; None if unknown.

    Raises:
        NoLabelsError: There are no labels that can be used.
        InputError: There are none on the reference graph.
    """
    by_digest = {graph.digest: graph for graph in graphs}
    groups: dict[str, dict[LabelGroup, list[LabelSummary]]] = defaultdict(lambda: defaultdict(list))
    left_out: list[LeftOut] = []
    labels = tuple(labels)
    names = {label.probes_name for label in labels}
    if unknown := sorted(set(probes) - names - {label.probes_digest for label in labels}):
        there = abridged(sorted(names), 5) or "none"
        raise InputError(f"no label rests on probe images '{unknown[0]}'; there are labels on {there}")
    false: dict[str, list[LabelSummary]] = defaultdict(list)
    for label in labels:
        try:
            if label.graph_digest in by_digest:
                check_graph(label, by_digest[label.graph_digest])
        except LabelError as error:
            false[error.reason].append(label)
        else:
            groups[label.graph_digest][label.group].append(label)
    left_out += [_left_out(of_reason, reason) for reason, of_reason in sorted(false.items())]
    for digest in sorted(groups.keys() - by_digest.keys()):
        of_unknown = [label for group in groups.pop(digest).values() for label in group]
        reason = "the graph cannot be read; its publisher must make it public, or give it with --graph"
        left_out.append(_left_out(of_unknown, reason))
    chosen: dict[str, list[LabelSummary]] = {}
    for digest, of_graph in sorted(groups.items()):
        best = min(of_graph, key=lambda group: _preference(of_graph[group], group, probes, default, publisher_of))
        chosen[digest] = of_graph.pop(best)
        left_out += [_left_out(others, _difference(group, others, best)) for group, others in sorted(of_graph.items())]
    if not chosen and left_out:
        raise NoLabelsError(f"no label can be used: {left_out[0]}")
    if not chosen:
        raise NoLabelsError(
            "there are no labels to select from; label models first: mll-hf label MODEL --graph DIR --labels DIR"
        )
    reference = reference or min(
        chosen, key=lambda digest: _reference_preference(by_digest[digest], chosen[digest], default, publisher_of)
    )
    if reference not in chosen:
        raise InputError(f"no model has a label on the reference graph ({reference[:12]}); name another one")
    columns = [reference, *sorted(chosen.keys() - {reference}, key=lambda digest: (by_digest[digest].name, digest))]
    tables = [_by_model(chosen[digest]) for digest in columns]
    models = sorted(tables[0])
    for digest, table in zip(columns[1:], tables[1:], strict=True):
        if without := [label for model, label in table.items() if model not in tables[0]]:
            name = by_digest[reference].name
            left_out.append(_left_out(without, f"the model has no label on the reference graph {name}"))
        if not table.keys() & tables[0].keys():
            chosen.pop(digest)
    kept = [g for g, digest in enumerate(columns) if digest in chosen]
    union, cyclic = _union([by_digest[columns[g]] for g in kept])
    reason = "its hypernyms form a cycle with those of the other graphs; correct the graph"
    left_out += [_left_out(chosen[columns[kept[at]]], reason) for at in cyclic]
    kept = [g for at, g in enumerate(kept) if at not in cyclic]
    rows = tuple(tuple(tables[g].get(model) for g in kept) for model in models)
    return JoinedLabels(union, rows, tuple(left_out))


def _preference(
    labels: list[LabelSummary],
    group: LabelGroup,
    probes: Collection[str],
    default: SemanticGraph | None,
    publisher_of: Callable[[LabelSummary], str | None],
) -> tuple[object, ...]:
    wanted = any(label.probes_name in probes or label.probes_digest in probes for label in labels)
    is_default = default is not None and default.probes is not None and default.probes.digest == group.probes_digest
    tests = max(int(label.support.sum()) for label in labels)
    return not wanted, not is_default, -_publishers(labels, publisher_of), -len(labels), -tests, group


def _publishers(labels: list[LabelSummary], publisher_of: Callable[[LabelSummary], str | None]) -> int:
    """Number of different publishers, as far as they are known."""
    return len({publisher for label in labels if (publisher := publisher_of(label))})


def _union(graphs: Sequence[SemanticGraph]) -> tuple[GraphUnion, list[int]]:
    """The union, and positions of graphs that it leaves out, or a stranger's graph could stop every selection."""
    try:
        return GraphUnion.of(graphs), []
    except GraphError:
        union, cyclic = GraphUnion.of(graphs[:1]), []
    for at, graph in enumerate(graphs[1:], 1):
        try:
            union = GraphUnion.of([*union.graphs, graph])
        except GraphError:
            cyclic.append(at)
    return union, cyclic


def _difference(group: LabelGroup, labels: list[LabelSummary], best: LabelGroup) -> str:
    if group.probes_digest == best.probes_digest:
        return f"measured on another sample of the probe images (seed {group.seed}) than the rest"
    return f"measured on other probe images ({min(label.probes_name for label in labels)}) than the rest"


def _reference_preference(
    graph: SemanticGraph,
    labels: list[LabelSummary],
    default: SemanticGraph | None,
    publisher_of: Callable[[LabelSummary], str | None],
) -> tuple[object, ...]:
    is_default = default is not None and default.digest == graph.digest
    publishers = _publishers(labels, publisher_of)
    return not is_default, bool(graph.external), -publishers, -len(labels), -len(graph), graph.digest


def _by_model(labels: list[LabelSummary]) -> Mapping[tuple[str, str, str], LabelSummary]:
    """The label of each model with the most probe images per concept."""
    best: dict[tuple[str, str, str], LabelSummary] = {}
    for label in labels:
        model = (label.model.repo_id, label.model.revision, label.model.backend)
        best[model] = max(best.get(model, label), label, key=lambda of: of.sampling.images_per_concept)
    return best


def _left_out(labels: list[LabelSummary], reason: str) -> LeftOut:
    graph_name = min(label.graph_name for label in labels)
    return LeftOut(tuple(sorted({label.model.repo_id for label in labels})), graph_name, reason)
