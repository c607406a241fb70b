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

from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.join import JoinedLabels, Population
from mll_hf.labels.rank_code import code_fields
from mll_hf.matching.prompts import named_domain
from mll_hf.models.known import best_paper_models
from mll_hf.selection.base import Strategy, in_units
from mll_hf.selection.mll import (
    PRIOR_IMAGES,
    Measured,
    Needs,
    cautious,
    estimates,
    extrapolated,
    generally_best,
    hardness_of,
    levels_of,
    lowered,
    odds_ratios,
    shrunk,
    task_needs,
    with_odds,
)
from mll_hf.selection.select import select, within_caps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.index import IndexedLabel, LabelIndex
    from mll_hf.labels.label import LabelFacts, LabelSummary, ModelLabel
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
    query, kept = IndexQuery.of(candidates, config), max(_KEPT, config.k)
    candidates = query.candidates
    rows = set(query.best(kept))
    if candidates.published:  # they are placed by the labeled models whose accuracy is published
        ids = {model.hub_id for model in best_paper_models()}
        rows |= {m for m, model in enumerate(candidates.labels.models) if model.repo_id in ids}
    selection = select(replace(candidates, labels=query.whole(sorted(rows), fetch)), config, task)
    return replace(
        selection,
        models=selection.models[:kept],
        scores=selection.scores[:kept],
        chosen=selection.chosen[:kept],
        among=len(candidates.labels) + len(candidates.published),
    )


@dataclass(frozen=True, eq=False)
class _GraphQuery:
    """What a task asks of the index of one graph, with M models.

    Attributes:
        index: The index.
        needs: What the task asks of the graph.
        positions: [M] of the models in the index; -1 for those without a label on the graph.
    """

    index: LabelIndex
    needs: GraphNeeds
    positions: NDArray[np.int64]

    @cached_property
    def rows(self) -> list[list[NDArray[np.uint32]]]:
        """For each shard the [A] rows of codes."""
        return [shard.rows(self.needs.needed) for shard in self.index.shards]

    @cached_property
    def decoders(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """For each shard constants [A] and weights [A, fields] that make recall of codes."""
        return [shard.code.decoder(self.needs.chances) for shard in self.index.shards]

    @cached_property
    def samples(self) -> NDArray[np.int64]:
        """[M] sample of probe images of each model's label; -1 for none."""
        return np.where(self.positions >= 0, self.index.samples[0][self.positions], -1)

    def codes(self, positions: NDArray[np.int64]) -> NDArray[np.uint32]:
        """[A, m] codes of some labels."""
        codes = np.empty((len(self.needs.needed), len(positions)), np.uint32)
        shard_of = self.index.shard_of(positions)
        for n, rows in enumerate(self.rows):
            columns = np.flatnonzero(shard_of == n)
            for a, row in enumerate(rows if len(columns) else ()):
                codes[a, columns] = row[positions[columns] - self.index.firsts[n]]
        return codes

    def measured(self, models: NDArray[np.int64]) -> Measured:
        """What the index says of some models."""
        known, positions = self.positions[models] >= 0, np.maximum(self.positions[models], 0)
        codes, shard_of = self.codes(positions), self.index.shard_of(positions)
        recall = np.zeros((len(models), len(self.needs.needed)))
        for n, (constants, weights) in enumerate(self.decoders):
            columns = np.flatnonzero(shard_of == n)
            fields = enumerate(code_fields(codes[:, columns]))
            recall[columns] = constants + sum(weights[:, k] * field.T for k, field in fields)
        sample, support = self.index.samples
        images = support[sample[positions]][:, self.needs.needed]
        return extrapolated(self.needs, known, np.clip(recall, 0, 1), images, self.index.rank_shares[positions])

    def weighted_sums(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """[P, all labels] sums over the concepts of recall, weighted by coefficients [P, A]."""
        sums = np.zeros((len(coefficients), sum(map(len, self.index.shards))))
        decoders, all_rows = self.decoders, self.rows  # read before there are threads

        def add_block(n: int, low: int) -> None:
            (constants, weights), rows, first = decoders[n], all_rows[n], self.index.firsts[n]
            block = sums[:, first + low : first + min(low + _BLOCK_MODELS, len(self.index.shards[n]))]
            block += (coefficients @ constants)[:, None]
            for a in range(0, len(rows), _BLOCK_CONCEPTS):
                codes = np.stack([row[low : low + _BLOCK_MODELS] for row in rows[a : a + _BLOCK_CONCEPTS]])
                of_rows = (coefficients[:, a : a + len(codes), None] * weights[a : a + len(codes)]).astype(np.float32)
                for k, field in enumerate(code_fields(codes)):
                    block += of_rows[:, :, k] @ field.view(np.int32).astype(np.float32)

        blocks = [(n, low) for n, shard in enumerate(self.index.shards) for low in range(0, len(shard), _BLOCK_MODELS)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(add_block, *zip(*blocks, strict=True)))
        return sums


@dataclass(frozen=True, eq=False)
class IndexQuery:
    """A task of C classes, put to indexes of the labels of M models on G graphs.

    Attributes:
        candidates: The models within the caps, and the classes.
        config: Strategy and class weight.
        indexes: [G] the index of each graph.
    """

    candidates: Candidates
    config: SelectionConfig
    indexes: tuple[LabelIndex, ...]

    @classmethod
    def of(cls, candidates: Candidates, config: SelectionConfig) -> IndexQuery:
        """Put a task to the indexes of some labels."""
        columns = zip(*_indexed(candidates.labels), strict=True)
        indexes = tuple(next(label.index for label in column if label is not None) for column in columns)
        return cls(within_caps(candidates, config), config, indexes)

    @cached_property
    def labels(self) -> tuple[tuple[IndexedLabel | None, ...], ...]:
        """[M][G] labels."""
        return _indexed(self.candidates.labels)

    @cached_property
    def reference(self) -> list[IndexedLabel]:
        """[M] labels on the reference graph."""
        return [row[0] for row in self.labels if row[0] is not None]

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """[G, M] position of each label in its index, -1 for none."""
        columns = zip(*self.labels, strict=True)
        return np.array([[-1 if label is None else label.position for label in column] for column in columns])

    @cached_property
    def population(self) -> Population:
        """What estimates take from all models."""
        labels, known = self.candidates.labels, self.positions >= 0
        shares = np.zeros((*known.shape, RANK_BINS))
        for of_graph, rows, positions, index in zip(shares, known, self.positions, self.indexes, strict=True):
            of_graph[rows] = index.rank_shares[positions[rows]]
        domains = tuple(labels.domains_of(g) for g in range(len(known)))
        return Population(labels.domain_names, domains, known, shares)

    @cached_property
    def needs(self) -> Needs:
        """What the task asks."""
        labels = replace(self.candidates.labels, population=self.population)
        return task_needs(replace(self.candidates, labels=labels), self.config.class_weight)

    @cached_property
    def graphs(self) -> dict[int, _GraphQuery]:
        """The graphs that count."""
        parts = enumerate(zip(self.indexes, self.needs.graphs, self.positions, strict=True))
        return {g: _GraphQuery(index, needs, positions) for g, (index, needs, positions) in parts if needs is not None}

    @cached_property
    def odds(self) -> NDArray[np.float64]:
        """[M] odds of the task's domain, see :func:`~mll_hf.selection.mll.domain_odds`."""
        names = sorted(self.population.domain_names)
        named, odds = named_domain(names, self.candidates.domain), np.ones(len(self.labels))
        if named is None:
            return odds
        orders = [label.domain_names for label in self.reference]
        places = {order: order.index(names[named]) if names[named] in order else -1 for order in set(orders)}
        place = np.array([places[order] for order in orders])
        rows = np.flatnonzero(place >= 0)
        ranks = self.indexes[0].domain_ranks[self.positions[0, rows]]
        of_domain, overall = ranks[np.arange(len(rows)), place[rows]], ranks.sum(axis=1, dtype=np.int64)
        odds[rows] = odds_ratios(of_domain, overall, self.needs.reference.mean_chances)
        return odds

    def best(self, count: int) -> list[int]:
        """The models that decide: the best by the index, and the generally best one."""
        levels = in_units(self.indexes[0].mean_precision[self.positions[0]])
        highest = np.flatnonzero(levels == levels.max()).tolist()
        top = highest[generally_best(cast("list[LabelSummary]", [self.reference[m] for m in highest]))]
        if self.config.strategy is Strategy.GENERAL:
            rows, scores = np.arange(len(levels)), levels
        else:
            rows = _close(self.mean_estimates(), top)
            scores = in_units(self.scores(rows, top)).sum(axis=1)
        if len(rows) > count:
            near = scores >= np.sort(scores)[-count]
            rows, scores = rows[near], scores[near]
        order = sorted(range(len(rows)), key=lambda n: (-scores[n], *self.reference[rows[n]].tie_break))
        return [top, *(int(rows[n]) for n in order[:count])]

    def scores(self, rows: NDArray[np.int64], top: int) -> NDArray[np.float64]:
        """[m, C] scores of some models from the index; the generally best one is among them."""
        measured: list[Measured | None] = [None] * len(self.indexes)
        for g, graph in self.graphs.items():
            measured[g] = replace(graph.measured(rows), hardness=hardness_of(self.population, self.needs, g))
        recall, errors = estimates(self.needs, measured, self.odds[rows])
        return cautious(recall, errors, int(np.flatnonzero(rows == top)[0]))

    def mean_estimates(self) -> NDArray[np.float64]:
        """[M] mean over the classes of what :func:`~mll_hf.selection.mll.estimates` gives, without its clipping.

        Models whose labels rest on the same samples on the same graphs have the same coefficients.
        """
        needs, shares = self.needs, self.population.rank_shares
        samples = np.stack([graph.samples for graph in self.graphs.values()])
        kinds, kind_of = np.unique(samples, axis=1, return_inverse=True)
        kind_of = kind_of.reshape(-1)  # numpy 2.0 keeps the shape
        of_kinds = [self.coefficients(kind) for kind in kinds.T]
        general = levels_of(needs.reference, shares[0])
        mean = (1 - needs.weights.mean(axis=1).sum()) * general
        for n, (g, graph) in enumerate(self.graphs.items()):
            of_recall, of_level, of_guess = zip(*(of_kind[n] for of_kind in of_kinds), strict=True)
            sums = graph.weighted_sums(np.stack(of_recall))
            shift, _ = hardness_of(self.population, needs, g) or (0.0, 0.0)
            mean += graph.needs.falls[-1].of(shares[g]) * sums[kind_of, graph.positions]
            mean += np.array(of_level)[kind_of] * levels_of(graph.needs, shares[g])
            mean += np.array(of_guess)[kind_of] * lowered(general, shift)
        return with_odds(np.clip(mean, 0, 1)[:, None], self.odds)[:, 0]

    def coefficients(self, kind: NDArray[np.int64]) -> list[tuple[NDArray[np.float64], float, float]]:
        """For each graph that counts the coefficients of recall [A], of the level, and of the guess without label.

        Args:
            kind: Sample of each graph that counts, -1 for no label.
        """
        weights = self.needs.weights.mean(axis=1)
        parts, images, lacking = [], np.zeros(len(weights)), np.zeros(len(weights))
        for graph, sample in zip(self.graphs.values(), kind.tolist(), strict=True):
            support, needs = graph.index.samples[1][sample, graph.needs.needed], graph.needs
            n = len(support)  # shrinking is linear: what it makes of unit vectors are its coefficients
            units = Measured(np.ones(n + 1, np.bool_), np.eye(n + 1, n), support[None], np.eye(n + 1)[n])
            own = support[needs.rows] + PRIOR_IMAGES if sample >= 0 else np.zeros(len(needs.rows))
            parts.append((needs.columns, shrunk(needs, units), own, sample < 0))
            images[needs.columns] += own
            lacking[needs.columns] += sample < 0
        measured, guessed = weights / np.maximum(images, 1), np.where(images > 0, 0, weights / np.maximum(lacking, 1))
        found = []
        for columns, linear, own, lacks in parts:
            of_units = linear @ (measured[columns] * own)
            found.append((of_units[:-1], float(of_units[-1]), float(guessed[columns].sum()) if lacks else 0.0))
        return found

    def whole(self, rows: Sequence[int], fetch: Fetch) -> JoinedLabels:
        """The labels of some models, read whole and compared with the index."""
        labels = self.candidates.labels.take(rows).whole(fetch)
        read = self.graphs if self.config.strategy is Strategy.MLL else {}
        for g, index in enumerate(self.indexes):
            here = [n for n, m in enumerate(rows) if self.positions[g, m] >= 0]
            positions = self.positions[g, [rows[n] for n in here]]
            concepts, codes = np.empty(0, np.int64), np.empty((0, len(here)), np.uint32)
            if g in read:
                concepts, codes = read[g].needs.needed, read[g].codes(positions)
            for n, position, of_label in zip(here, positions.tolist(), codes.T, strict=True):
                if (label := labels.labels[n][g]) is not None:
                    index.check(position, label, concepts, of_label)
        return replace(labels, population=self.population)


def _indexed(labels: JoinedLabels) -> tuple[tuple[IndexedLabel | None, ...], ...]:
    return cast("tuple[tuple[IndexedLabel | None, ...], ...]", labels.labels)


def _close(means: NDArray[np.float64], top: int) -> NDArray[np.int64]:
    """The models with the highest means, those that are nearly as good, and the generally best one."""
    if len(means) <= _CLOSE:
        return np.arange(len(means))
    close = means >= np.partition(means, -_CLOSE)[-_CLOSE] - _MARGIN
    close[top] = True
    return np.flatnonzero(close)
