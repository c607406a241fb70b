"""Choose among very many labels through an index, as :func:`mll_hf.selection.select` would from the labels themselves.

1. All models: the mean estimate over the classes is a linear function of recall, so it is a matrix product with those
   rows of the index that belong to the task's concepts.
2. The most promising thousand: the full estimates, with caution, still from the index.
3. The best hundred: their labels are read whole and compared with the index; these decide.
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
from mll_hf.selection.base import Strategy, in_units
from mll_hf.selection.mll import (
    Measured,
    Needs,
    cautious,
    estimates,
    falls_of,
    generally_best,
    graph_levels,
    task_needs,
    task_odds,
    with_odds,
)
from mll_hf.selection.select import fitting, select, within_caps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.index import IndexedLabel, LabelIndex
    from mll_hf.labels.join import JoinedLabels
    from mll_hf.labels.label import LabelFacts, ModelLabel
    from mll_hf.selection.base import Candidates, SelectionConfig
    from mll_hf.selection.mll import GraphNeeds
    from mll_hf.selection.result import Selection

    Fetch = Callable[[Sequence[LabelFacts]], Sequence[ModelLabel]]

INDEXED_STRATEGIES = (Strategy.MLL, Strategy.GENERAL)
_CLOSE = 1000  # models whose estimates are computed in full
_MARGIN = 0.002  # models so little behind these are, too
_KEPT = 100  # models whose labels are read whole
_BLOCK_MODELS, _BLOCK_CONCEPTS = 4096, 32  # codes that are decoded at a time; they fit a core's cache


def select_indexed(candidates: Candidates, config: SelectionConfig, fetch: Fetch, task: str | None = None) -> Selection:
    """Choose models for every class out of indexes.

    Args:
        candidates: :class:`~mll_hf.labels.index.IndexedLabel` of each model, joined over graphs, and matched classes.
        config: Strategy ``mll`` or ``general``, k and caps.
        fetch: Reads whole labels.
        task: The user's name of the task.

    Returns:
        The selection with the best hundred models, or the best k if these are more.

    Raises:
        NoneFitsError: No labeled model is within the caps.
        LabelError: A label is damaged, or an index disagrees with it.
    """
    kept = max(_KEPT, config.per_class)
    if not fitting(candidates.labels, config):  # but others may fit
        return select(candidates, config, task)
    candidates = within_caps(candidates, config)
    query = IndexQuery(candidates, config)
    published = imagenet_accuracies()  # models with one are what others are compared by
    rows = {m for m, model in enumerate(candidates.labels.models) if model.repo_id in published}
    rows |= set(query.best(kept))
    selection = select(replace(candidates, labels=query.whole(sorted(rows), fetch)), config, task)
    n_models = len(selection.models)
    return replace(
        selection,
        models=selection.models[:kept],
        scores=selection.scores[:kept],
        chosen=selection.chosen[:kept],
        estimates=selection.estimates and selection.estimates.take(range(min(kept, n_models))),
        among=n_models - len(rows) + len(candidates.labels),
    )


@dataclass(frozen=True, eq=False)
class _GraphQuery:
    """What the index of one graph says to a task's needs of M models; None for models without a label.

    Level and spread are those of :class:`~mll_hf.selection.mll.Measured`.
    """

    needs: GraphNeeds
    index: LabelIndex
    labels: tuple[IndexedLabel | None, ...]
    level: NDArray[np.float64]
    spread: float
    shares: NDArray[np.float64]  # [M, RANK_BINS] mean rank shares

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """[M] position of each label in the index; 0 for none."""
        return np.array([0 if label is None else label.position for label in self.labels])

    @cached_property
    def samples(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """[M] which sample of probe images each label rests on, -1 for no label; and support [N, A] of the samples."""
        supports = {id(label.support): label.support for label in self.labels if label is not None}
        number = {key: n for n, key in enumerate(supports)}
        samples = [-1 if label is None else number[id(label.support)] for label in self.labels]
        return np.array(samples), np.stack([support[self.needs.needed] for support in supports.values()])

    @cached_property
    def codes(self) -> NDArray[np.uint32]:
        """[A, all labels of the index] codes."""
        return self.index.codes(self.needs.needed)

    def measured(self, rows: NDArray[np.int64]) -> Measured:
        """What the index says of some models."""
        constants, weights = self.index.code.decoder(self.needs.chances)
        fields = code_fields(self.codes[:, self.positions[rows]])
        recall = np.clip(constants + sum(weights[:, k] * field.T for k, field in enumerate(fields)), 0, 1)
        samples, support = self.samples
        falls = falls_of(self.needs, self.shares[rows])
        return Measured(samples[rows] >= 0, recall * falls, support[samples[rows]], self.level[rows], self.spread)

    def weighted_sums(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """[P, M] sums over the concepts of recall, weighted by coefficients [P, A]."""
        constants, weights = self.index.code.decoder(self.needs.chances)
        codes = self.codes  # read before there are threads
        sums = np.zeros((len(coefficients), codes.shape[1])) + (coefficients @ constants)[:, None]

        def add_block(first: int) -> None:
            models = slice(first, first + _BLOCK_MODELS)
            for a in range(0, len(codes), _BLOCK_CONCEPTS):
                concepts = slice(a, a + _BLOCK_CONCEPTS)
                of_fields = (coefficients[:, concepts, None] * weights[concepts]).astype(np.float32)
                for k, field in enumerate(code_fields(codes[concepts, models])):
                    sums[:, models] += of_fields[:, :, k] @ field.view(np.int32).astype(np.float32)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(add_block, range(0, codes.shape[1], _BLOCK_MODELS)))
        return sums[:, self.positions]


@dataclass(frozen=True, eq=False)
class IndexQuery:
    """A task of C classes, put to indexes of the labels of M models within the caps, on G graphs."""

    candidates: Candidates
    config: SelectionConfig

    @property
    def labels(self) -> JoinedLabels:
        """The labels."""
        return self.candidates.labels

    @cached_property
    def needs(self) -> Needs:
        """What the task asks."""
        return task_needs(self.candidates, self.config.class_weight)

    @cached_property
    def graphs(self) -> dict[int, _GraphQuery]:
        """The graphs that count and have labels."""
        graphs = {}
        for g, needs in enumerate(self.needs.graphs):
            labels = _indexed(self.labels, g)
            if needs is not None and (known := next((label for label in labels if label is not None), None)):
                level, spread = graph_levels(self.labels, self.needs.reference, needs, g)
                graphs[g] = _GraphQuery(needs, known.index, labels, level, spread, self.labels.rank_shares[g])
        return graphs

    @cached_property
    def odds(self) -> NDArray[np.float64]:
        """[M] odds of the task's domain."""
        return task_odds(self.labels, self.needs, self.candidates.domain)

    def best(self, count: int) -> list[int]:
        """The models that decide: the best by the index, and the generally best one."""
        labels = self.labels.reference
        top = generally_best(labels)
        if self.config.strategy is Strategy.GENERAL:
            rows, scores = np.arange(len(labels)), in_units(np.array([label.mean_recall for label in labels]))
        else:
            rows = np.union1d(_highest(self.mean_estimates(), _CLOSE, _MARGIN), [top])
            recall, errors = self.estimates(rows)
            scores = in_units(cautious(recall, errors, int(np.searchsorted(rows, top)))).sum(axis=1)
        near = _highest(scores, count)
        order = sorted(near.tolist(), key=lambda n: (-scores[n], *labels[rows[n]].tie_break))
        return [top, *(int(rows[n]) for n in order[:count])]

    def estimates(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What :func:`~mll_hf.selection.mll.estimates` gives for some models, from the index."""
        measured = [self.graphs[g].measured(rows) if g in self.graphs else None for g in range(len(self.needs.graphs))]
        return estimates(self.needs, measured, self.odds[rows])

    def mean_estimates(self) -> NDArray[np.float64]:
        """[M] mean over the classes of what :func:`~mll_hf.selection.mll.estimates` gives, without its clipping.

        It is linear in recall and levels. Models whose labels rest on the same samples have the same coefficients.
        """
        samples = np.stack([graph.samples[0] for graph in self.graphs.values()])
        kinds, kind_of = np.unique(samples, axis=1, return_inverse=True)
        kind_of = kind_of.reshape(-1)  # numpy 2.0 keeps the shape
        coefficients, at = np.stack([self.coefficients(kind) for kind in kinds.T]), 0
        means = np.zeros(len(self.labels))
        for graph in self.graphs.values():
            of_level = at + len(graph.needs.needed)
            sums = graph.weighted_sums(coefficients[:, at:of_level])[kind_of, np.arange(len(means))]
            means += graph.needs.falls[-1].of(graph.shares) * sums + coefficients[kind_of, of_level] * graph.level
            at = of_level + 1
        return with_odds(np.clip(means, 0, 1)[:, None], self.odds)[:, 0]

    def coefficients(self, kind: NDArray[np.int64]) -> NDArray[np.float64]:
        """Coefficients of recall [A] and of the level on each graph, one after another: estimates from unit vectors.

        The kind is the number of the sample of each graph, -1 for no label.
        """
        sizes = [len(graph.needs.needed) + 1 for graph in self.graphs.values()]
        units = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
        measured: list[Measured | None] = [None] * len(self.needs.graphs)
        for (g, graph), sample, unit in zip(self.graphs.items(), kind.tolist(), units, strict=True):
            known, support = np.full(len(unit), sample >= 0), graph.samples[1][None, sample]
            measured[g] = Measured(known, unit[:, :-1], support, unit[:, -1])
        mean_class = replace(self.needs, weights=self.needs.weights.mean(axis=1, keepdims=True))
        return estimates(mean_class, measured, np.ones(sum(sizes)))[0][:, 0]

    def whole(self, rows: Sequence[int], fetch: Fetch) -> JoinedLabels:
        """The labels of some models, read whole and compared with the index."""
        taken = self.labels.take(rows)
        labels = taken.whole(fetch)
        for g in range(len(self.labels.union.graphs)):
            graph = self.graphs.get(g) if self.config.strategy is Strategy.MLL else None
            for known, label in zip(_indexed(taken, g), labels.on_graph(g), strict=True):
                if known is not None and label is not None:
                    concepts = graph.needs.needed if graph else np.empty(0, np.int64)
                    codes = graph.codes[:, known.position] if graph else np.empty(0, np.uint32)
                    known.index.check(known.position, label, concepts, codes)
        return replace(labels, among=self.labels)


def _indexed(labels: JoinedLabels, g: int) -> tuple[IndexedLabel | None, ...]:
    return cast("tuple[IndexedLabel | None, ...]", labels.on_graph(g))


def _highest(values: NDArray[np.float64], count: int, margin: float = 0.0) -> NDArray[np.int64]:
    """Positions of the highest values, and of those as high or within a margin."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.flatnonzero(values >= np.partition(values, -count)[-count] - margin)
