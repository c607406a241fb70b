"""Choose among many labels through an index, with the result of :func:`mll_hf.selection.select` on the labels.

1. All models: the mean estimate over the classes is linear in recall, so it is a matrix product with the rows of the
   index for the task's concepts.
2. The best 1,000 models: full estimates, still from the index.
3. The best 100 models: full labels, which are compared with the index. The choice is made from these.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from mll_hf.labels.rank_code import code_fields
from mll_hf.models.known import imagenet_accuracies
from mll_hf.selection.base import Strategy, quantize
from mll_hf.selection.mll import (
    Measured,
    TaskQuery,
    apply_odds_ratios,
    best_by_mean_recall,
    estimates,
    extrapolation_factors,
    graph_mean_recall,
    penalize_uncertain_leads,
    task_odds_ratios,
    task_query,
)
from mll_hf.selection.select import eligible_rows, select, within_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.index import IndexedLabel, LabelIndex
    from mll_hf.labels.join import JoinedLabels
    from mll_hf.labels.label import LabelFacts, ModelLabel
    from mll_hf.selection.base import Candidates, SelectionConfig
    from mll_hf.selection.mll import GraphQuery
    from mll_hf.selection.result import Selection

    Fetch = Callable[[Sequence[LabelFacts]], Sequence[ModelLabel]]

INDEXED_STRATEGIES = (Strategy.MLL, Strategy.GENERAL)
_N_RESCORED = 1000  # models with full estimates
_MARGIN = 0.002  # models with mean estimates at most this much lower are included
_N_READ = 100  # models with full labels
_BLOCK_MODELS, _BLOCK_CONCEPTS = 4096, 32  # decoded at a time; they fit a core's cache


def select_indexed(candidates: Candidates, config: SelectionConfig, fetch: Fetch, task: str | None = None) -> Selection:
    """Choose models for each class through indexes.

    Args:
        candidates: :class:`~mll_hf.labels.index.IndexedLabel` of each model, joined over graphs, and matched classes.
        config: Strategy ``mll`` or ``general``, k and limits.
        fetch: Reads full labels.
        task: Name of the task as given by the user.

    Returns:
        The selection with the best 100 models, or the best k if k is larger.

    Raises:
        NoModelFitsError: No labeled model is within the limits.
        LabelError: A label is damaged, or does not match the index.
    """
    kept = max(_N_READ, config.per_class)
    if not eligible_rows(candidates.labels, config):  # models of other groups may fit
        return select(candidates, config, task)
    candidates = within_limits(candidates, config)
    query = IndexQuery(candidates, config)
    published = imagenet_accuracies()  # these models are needed to compare groups
    rows = {m for m, model in enumerate(candidates.labels.models) if model.repo_id in published}
    rows |= set(query.best(kept))
    selection = select(replace(candidates, labels=query.fetch_full(sorted(rows), fetch)), config, task)
    n_models = len(selection.models)
    return replace(
        selection,
        models=selection.models[:kept],
        scores=selection.scores[:kept],
        chosen=selection.chosen[:kept],
        estimates=selection.estimates and selection.estimates.subset(range(min(kept, n_models))),
        among=n_models - len(rows) + len(candidates.labels),
    )


@dataclass(frozen=True, eq=False)
class _IndexedGraph:
    """The index of one graph with the query of a task; M labels, None for models without a label.

    ``mean_recall`` and ``spread`` are those of :class:`~mll_hf.selection.mll.Measured`.
    """

    query: GraphQuery
    index: LabelIndex
    labels: tuple[IndexedLabel | None, ...]
    mean_recall: NDArray[np.float64]
    spread: float
    shares: NDArray[np.float64]  # [M, RANK_BINS] mean rank shares

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """[M] position of each label in the index; 0 for none."""
        return np.array([0 if label is None else label.position for label in self.labels])

    @cached_property
    def samples(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """[M] sample of probe images of each label, -1 for no label; and support [N, A] of the samples."""
        supports = {id(label.support): label.support for label in self.labels if label is not None}
        number = {key: n for n, key in enumerate(supports)}
        samples = [-1 if label is None else number[id(label.support)] for label in self.labels]
        return np.array(samples), np.stack([support[self.query.concepts] for support in supports.values()])

    @cached_property
    def codes(self) -> NDArray[np.uint32]:
        """[A, number of labels in the index] codes."""
        return self.index.codes(self.query.concepts)

    def measured(self, rows: NDArray[np.int64]) -> Measured:
        """Query some models."""
        constants, weights = self.index.code.decoder(self.query.chances)
        fields = code_fields(self.codes[:, self.positions[rows]])
        recall = np.clip(constants + sum(weights[:, k] * field.T for k, field in enumerate(fields)), 0, 1)
        samples, support = self.samples
        factors = extrapolation_factors(self.query, self.shares[rows])
        return Measured(
            samples[rows] >= 0, recall * factors, support[samples[rows]], self.mean_recall[rows], self.spread
        )

    def weighted_sums(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """[P, M] sums over the concepts of recall, weighted by coefficients [P, A]."""
        constants, weights = self.index.code.decoder(self.query.chances)
        codes = self.codes  # read before threads are started
        sums = np.zeros((len(coefficients), codes.shape[1])) + (coefficients @ constants)[:, None]

        def add_block(first: int) -> None:
            models = slice(first, first + _BLOCK_MODELS)
            for a in range(0, len(codes), _BLOCK_CONCEPTS):
                concepts = slice(a, a + _BLOCK_CONCEPTS)
                field_weights = (coefficients[:, concepts, None] * weights[concepts]).astype(np.float32)
                for k, field in enumerate(code_fields(codes[concepts, models])):
                    sums[:, models] += field_weights[:, :, k] @ field.view(np.int32).astype(np.float32)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(add_block, range(0, codes.shape[1], _BLOCK_MODELS)))
        return sums[:, self.positions]


@dataclass(frozen=True, eq=False)
class IndexQuery:
    """The query of a task of C classes on indexes of the labels of M models on G graphs."""

    candidates: Candidates
    config: SelectionConfig

    @property
    def labels(self) -> JoinedLabels:
        """The labels of the models."""
        return self.candidates.labels

    @cached_property
    def query(self) -> TaskQuery:
        """The query of the task."""
        return task_query(self.candidates, self.config.class_weight)

    @cached_property
    def graphs(self) -> dict[int, _IndexedGraph]:
        """The graphs in use that have labels."""
        graphs = {}
        for g, query in enumerate(self.query.graphs):
            labels = _indexed(self.labels, g)
            if query is not None and (known := next((label for label in labels if label is not None), None)):
                mean_recall, spread = graph_mean_recall(self.labels, self.query.reference, query, g)
                graphs[g] = _IndexedGraph(query, known.index, labels, mean_recall, spread, self.labels.rank_shares[g])
        return graphs

    @cached_property
    def odds(self) -> NDArray[np.float64]:
        """[M] odds ratios of the task's domain."""
        return task_odds_ratios(self.labels, self.query, self.candidates.domain)

    def best(self, count: int) -> list[int]:
        """Positions of the best models by the index, and of the one with the highest mean recall."""
        labels = self.labels.reference
        top = best_by_mean_recall(labels)
        if self.config.strategy is Strategy.GENERAL:
            rows, scores = np.arange(len(labels)), quantize(np.array([label.mean_recall for label in labels]))
        else:
            rows = np.union1d(_highest(self.mean_estimates(), _N_RESCORED, _MARGIN), [top])
            recall, errors = self.estimates(rows)
            scores = quantize(penalize_uncertain_leads(recall, errors, int(np.searchsorted(rows, top)))).sum(axis=1)
        highest = _highest(scores, count)
        order = sorted(highest.tolist(), key=lambda n: (-scores[n], *labels[rows[n]].tie_break))
        return [top, *(int(rows[n]) for n in order[:count])]

    def estimates(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The result of :func:`~mll_hf.selection.mll.estimates` for some models, from the index."""
        measured = [self.graphs[g].measured(rows) if g in self.graphs else None for g in range(len(self.query.graphs))]
        return estimates(self.query, measured, self.odds[rows])

    def mean_estimates(self) -> NDArray[np.float64]:
        """[M] mean over the classes of the result of :func:`~mll_hf.selection.mll.estimates`, without clipping.

        It is linear in recall. Models whose labels have the same samples of probe images have the same coefficients.
        """
        samples = np.stack([graph.samples[0] for graph in self.graphs.values()])
        kinds, kind_of = np.unique(samples, axis=1, return_inverse=True)
        kind_of = kind_of.reshape(-1)  # numpy 2.0 keeps the shape
        coefficients, start = np.stack([self.coefficients(kind) for kind in kinds.T]), 0
        means = np.zeros(len(self.labels))
        for graph in self.graphs.values():
            recall_end = start + len(graph.query.concepts)
            sums = graph.weighted_sums(coefficients[:, start:recall_end])[kind_of, np.arange(len(means))]
            factors = graph.query.extrapolations[-1].factors(graph.shares)
            means += factors * sums + coefficients[kind_of, recall_end] * graph.mean_recall
            start = recall_end + 1
        return apply_odds_ratios(np.clip(means, 0, 1)[:, None], self.odds)[:, 0]

    def coefficients(self, kind: NDArray[np.int64]) -> NDArray[np.float64]:
        """Coefficients of the recall [A] and of the mean recall, graph by graph: estimates from unit vectors.

        ``kind`` is the number of the sample on each graph, -1 for no label.
        """
        sizes = [len(graph.query.concepts) + 1 for graph in self.graphs.values()]
        units = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
        measured: list[Measured | None] = [None] * len(self.query.graphs)
        for (g, graph), sample, unit in zip(self.graphs.items(), kind.tolist(), units, strict=True):
            known, support = np.full(len(unit), sample >= 0), graph.samples[1][None, sample]
            measured[g] = Measured(known, unit[:, :-1], support, unit[:, -1])
        mean_class = replace(self.query, weights=self.query.weights.mean(axis=1, keepdims=True))
        return estimates(mean_class, measured, np.ones(sum(sizes)))[0][:, 0]

    def fetch_full(self, rows: Sequence[int], fetch: Fetch) -> JoinedLabels:
        """The full labels of some models; a LabelError if one does not match the index."""
        indexed = self.labels.subset(rows)
        labels = indexed.fetch_full(fetch)
        for g in range(len(self.labels.union.graphs)):
            graph = self.graphs.get(g) if self.config.strategy is Strategy.MLL else None
            for known, label in zip(_indexed(indexed, g), labels.on_graph(g), strict=True):
                if known is not None and label is not None:
                    concepts = graph.query.concepts if graph else np.empty(0, np.int64)
                    codes = graph.codes[:, known.position] if graph else np.empty(0, np.uint32)
                    known.index.check(known.position, label, concepts, codes)
        return replace(labels, among=self.labels)


def _indexed(labels: JoinedLabels, g: int) -> tuple[IndexedLabel | None, ...]:
    return cast("tuple[IndexedLabel | None, ...]", labels.on_graph(g))


def _highest(values: NDArray[np.float64], count: int, margin: float = 0.0) -> NDArray[np.int64]:
    """Positions of the ``count`` highest values, and of all others within a margin of the lowest of these."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.flatnonzero(values >= np.partition(values, -count)[-count] - margin)
