"""Choose among very many labels through an index, as :func:`mll_hf.selection.select` would from the labels themselves.

1. All models: the mean estimate over the classes is a linear function of recall, so it is a matrix product with the rows
   of the index that belong to the task's concepts.
2. The most promising thousands: the full estimates, with caution, still from the index.
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
from mll_hf.labels.index import IndexedLabel, code_fields
from mll_hf.labels.join import JoinedLabels, Population
from mll_hf.matching.prompts import named_domain
from mll_hf.models.published import best_published
from mll_hf.selection.base import DIGITS, Strategy
from mll_hf.selection.mll import (
    PRIOR_IMAGES,
    Measured,
    Needs,
    cautious,
    estimates,
    extrapolated,
    generally_best,
    hardness,
    levels_of,
    odds_ratios,
    shrunk,
    task_needs,
    with_odds,
    without_label,
)
from mll_hf.selection.select import select, within_caps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.index import LabelIndex
    from mll_hf.labels.label import LabelFacts, LabelSummary, ModelLabel
    from mll_hf.selection.base import Candidates, SelectionConfig
    from mll_hf.selection.mll import GraphNeeds
    from mll_hf.selection.result import Selection

INDEXED_STRATEGIES = (Strategy.MLL, Strategy.GENERAL)
_CLOSE = 1000  # models whose estimates are computed in full
_KEPT = 100  # models whose labels are read whole
_MARGIN = 0.002  # models so little behind are among the close ones, too
_BLOCK_MODELS, _BLOCK_CONCEPTS = 4096, 32  # codes at a time, to stay in the cache


def select_indexed(
    candidates: Candidates,
    config: SelectionConfig,
    fetch: Callable[[Sequence[LabelFacts]], Sequence[ModelLabel]],
    task: str | None = None,
) -> Selection:
    """Choose models for every class out of an index.

    Args:
        candidates: :class:`~mll_hf.labels.index.IndexedLabel` of each model, joined over graphs, and matched classes.
        config: Strategy, k and caps.
        fetch: Reads whole labels.
        task: The user's name of the task.

    Returns:
        The selection with the best hundred models, or the best k if these are more.

    Raises:
        NoneFitsError: No labeled model is within the caps.
        LabelError: A label is damaged, or the index disagrees with it.
    """
    query, kept = _Query.of(candidates, config), max(_KEPT, config.k)
    candidates = query.candidates
    rows = set(query.best(kept))
    if candidates.published:  # they are placed by the labeled models whose accuracy is published
        ids = {model.repo_id for model in best_published()}
        rows |= {m for m, model in enumerate(candidates.labels.models) if model.repo_id in ids}
    labels = query.whole(sorted(rows), fetch)
    selection = select(replace(candidates, labels=labels), config, task)
    return replace(
        selection,
        models=selection.models[:kept],
        scores=selection.scores[:kept],
        chosen=selection.chosen[:kept],
        among=len(candidates.labels) + len(candidates.published),
    )


@dataclass(frozen=True, eq=False)
class _IndexRows:
    """The rows of an index that a task needs.

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
        """For each shard constants [A] and weights [A, fields] of the codes."""
        return [shard.code.decoder(self.needs.chances) for shard in self.index.shards]

    def codes(self, positions: NDArray[np.int64]) -> NDArray[np.uint32]:
        """[A, m] codes of some labels."""
        codes = np.empty((len(self.needs.needed), len(positions)), np.uint32)
        for first, shard, rows in zip(self.index.firsts, self.index.shards, self.rows, strict=True):
            columns = np.flatnonzero((positions >= first) & (positions < first + len(shard)))
            for a, row in enumerate(rows if len(columns) else ()):
                codes[a, columns] = row[positions[columns] - first]
        return codes

    def measured(self, models: NDArray[np.int64]) -> Measured:
        """What the index says of some models."""
        positions = self.positions[models]
        known, positions = positions >= 0, np.maximum(positions, 0)
        codes, recall = self.codes(positions), np.zeros((len(models), len(self.needs.needed)))
        owner = np.searchsorted(self.index.firsts, positions, side="right") - 1
        for n, (constants, weights) in enumerate(self.decoders):
            mine = np.flatnonzero(owner == n)
            fields = enumerate(code_fields(codes[:, mine]))
            recall[mine] = constants + sum(weights[:, k] * field.T for k, field in fields)
        sample, support = self.index.samples
        images = support[sample[positions]][:, self.needs.needed]
        return extrapolated(self.needs, known, np.clip(recall, 0, 1), images, self.index.rank_shares[positions])

    def weighted_sums(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """[P, all labels] sums over the concepts of recall, weighted by coefficients [P, A]."""
        sums = np.zeros((len(coefficients), sum(map(len, self.index.shards))))

        def add_block(n: int, low: int) -> None:
            (constants, weights), rows, first = self.decoders[n], self.rows[n], self.index.firsts[n]
            block = sums[:, first + low : first + min(low + _BLOCK_MODELS, len(self.index.shards[n]))]
            block += (coefficients @ constants)[:, None]
            for a in range(0, len(rows), _BLOCK_CONCEPTS):
                codes = np.stack([row[low : low + _BLOCK_MODELS] for row in rows[a : a + _BLOCK_CONCEPTS]])
                of_rows = (coefficients[:, a : a + len(codes), None] * weights[a : a + len(codes)]).astype(np.float32)
                for k, field in enumerate(code_fields(codes)):
                    block += of_rows[:, :, k] @ field.view(np.int32).astype(np.float32)

        blocks = [(n, low) for n, shard in enumerate(self.index.shards) for low in range(0, len(shard), _BLOCK_MODELS)]
        if self.decoders and self.rows:  # before threads ask for them
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(add_block, *zip(*blocks, strict=True)))
        return sums


@dataclass(frozen=True, eq=False)
class _Query:
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
    def of(cls, candidates: Candidates, config: SelectionConfig) -> _Query:
        """Put a task to the indexes of some labels."""
        columns = zip(*cast("tuple[tuple[IndexedLabel | None, ...], ...]", candidates.labels.labels), strict=True)
        indexes = tuple(next(label.index for label in column if label is not None) for column in columns)
        return cls(within_caps(candidates, config), config, indexes)

    @cached_property
    def labels(self) -> tuple[tuple[IndexedLabel | None, ...], ...]:
        """[M][G] labels."""
        return cast("tuple[tuple[IndexedLabel | None, ...], ...]", self.candidates.labels.labels)

    @property
    def reference(self) -> list[IndexedLabel]:
        """[M] labels on the reference graph."""
        return [row[0] for row in self.labels if row[0] is not None]

    @cached_property
    def needs(self) -> Needs:
        """What the task asks."""
        labels = replace(self.candidates.labels, population=self.population)
        return task_needs(replace(self.candidates, labels=labels), self.config.class_weight)

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
    def graphs(self) -> tuple[_IndexRows | None, ...]:
        """[G] what of each index is read; None for graphs that do not count."""
        parts = zip(self.indexes, self.needs.graphs, self.positions, strict=True)
        return tuple(needs and _IndexRows(index, needs, positions) for index, needs, positions in parts)

    @cached_property
    def levels(self) -> tuple[NDArray[np.float64] | None, ...]:
        """[G] of [M] levels on each graph."""
        parts = zip(self.needs.graphs, self.population.rank_shares, strict=True)
        return tuple(None if needs is None else levels_of(needs, shares) for needs, shares in parts)

    @cached_property
    def odds(self) -> NDArray[np.float64]:
        """[M] odds of the task's domain, see :func:`~mll_hf.selection.mll.domain_odds`."""
        names = sorted(self.population.domain_names)
        named, odds = named_domain(names, self.candidates.domain), np.ones(len(self.labels))
        if named is None:
            return odds
        reference = self.reference
        columns = {
            names_of: _position(names[named], names_of) for names_of in {label.domain_names for label in reference}
        }
        column = np.array([columns[label.domain_names] for label in reference])
        rows = np.flatnonzero(column >= 0)
        ranks = self.indexes[0].domain_ranks[self.positions[0, rows]]
        of_domain, overall = ranks[np.arange(len(rows)), column[rows]], ranks.sum(axis=1, dtype=np.int64)
        odds[rows] = odds_ratios(of_domain, overall, self.needs.reference.mean_chances)
        return odds

    def best(self, count: int) -> list[int]:
        """The models that decide: the best by the index, and the generally best one."""
        reference = self.reference
        levels = np.round(self.indexes[0].mean_precision[self.positions[0]], 12)
        highest = np.flatnonzero(levels == levels.max()).tolist()
        top = highest[generally_best(cast("list[LabelSummary]", [reference[m] for m in highest]))]
        if self.config.strategy is Strategy.GENERAL:
            rows = np.arange(len(reference))
            scores = self.indexes[0].mean_precision[self.positions[0]]
        else:
            rows = self._close(self._mean_estimates(), top)
            scores = self._scores(rows, top).mean(axis=1)
        scores = np.round(scores, DIGITS)
        if len(rows) > count:
            near = scores >= np.sort(scores)[-count]
            rows, scores = rows[near], scores[near]
        order = sorted(range(len(rows)), key=lambda n: (-scores[n], *reference[rows[n]].tie_break))
        return [top, *(int(rows[n]) for n in order[:count])]

    @staticmethod
    def _close(means: NDArray[np.float64], top: int) -> NDArray[np.int64]:
        if len(means) <= _CLOSE:
            return np.arange(len(means))
        close = means >= np.partition(means, -_CLOSE)[-_CLOSE] - _MARGIN
        close[top] = True
        return np.flatnonzero(close)

    def _scores(self, rows: NDArray[np.int64], top: int) -> NDArray[np.float64]:
        """[m, C] scores of some models from the index."""
        measured = [of and replace(of.measured(rows), hardness=self._hardness(g)) for g, of in enumerate(self.graphs)]
        recall, errors = estimates(self.needs, measured, self.odds[rows])
        return cautious(recall, errors, int(np.flatnonzero(rows == top)[0]))

    def _hardness(self, g: int) -> tuple[float, float]:
        general, levels = self.levels[0], self.levels[g]
        if general is None or levels is None:
            return 0.0, 0.0
        return hardness(general, levels, self.population.known[g])

    def _mean_estimates(self) -> NDArray[np.float64]:
        """[M] mean estimates over the classes, as a linear function of recall and levels.

        Models whose labels rest on the same samples on the same graphs have the same coefficients.
        """
        needs, counted = self.needs, [g for g, of in enumerate(self.graphs) if of is not None]
        samples = np.full(self.positions.shape, -1)
        for g in counted:
            there = self.positions[g] >= 0
            samples[g, there] = self.indexes[g].samples[0][self.positions[g, there]]
        kinds, kind_of = np.unique(samples, axis=1, return_inverse=True)
        kind_of = kind_of.reshape(-1)
        linear = [self._coefficients(kind) for kind in kinds.T]
        general = self.levels[0]
        assert general is not None  # noqa: S101 - the reference always counts
        mean = (1 - needs.weights.mean(axis=1).sum()) * general
        for n, g in enumerate(counted):
            of, of_graph, levels = self.graphs[g], needs.graphs[g], self.levels[g]
            assert of is not None and of_graph is not None and levels is not None  # noqa: S101
            sums = of.weighted_sums(np.stack([kind[n][0][:-1] for kind in linear]))
            fall = of_graph.falls[-1].of(self.population.rank_shares[g])
            mean += fall * sums[kind_of, self.positions[g]]
            mean += levels * np.array([kind[n][0][-1] for kind in linear])[kind_of]
            known = np.zeros(len(general), np.bool_)
            fallback, _ = without_label(general, Measured(known, *[np.empty(0)] * 2, levels, self._hardness(g)))  # type: ignore[arg-type]
            mean += fallback * np.array([kind[n][1] for kind in linear])[kind_of]
        return with_odds(np.clip(mean, 0, 1)[:, None], self.odds)[:, 0]

    def _coefficients(self, kind: NDArray[np.int64]) -> list[tuple[NDArray[np.float64], float]]:
        """For each graph that counts the coefficients of recall and level [A + 1], and of what is expected without label.

        Args:
            kind: [G] sample of each graph, -1 for no label.
        """
        needs, weights = self.needs, self.needs.weights.mean(axis=1)
        parts, images, lacking = [], np.zeros(len(weights)), np.zeros(len(weights))
        for of, sample in zip(self.graphs, kind.tolist(), strict=True):
            if of is None:
                continue
            support = of.index.samples[1][sample, of.needs.needed]
            n = len(support)
            each = Measured(np.ones(n + 1, np.bool_), np.eye(n + 1, n), support[None], np.eye(n + 1)[n])
            own = np.where(sample >= 0, support[of.needs.rows] + PRIOR_IMAGES, 0.0)
            parts.append((of.needs.columns, shrunk(of.needs, each), own))
            images[of.needs.columns] += own
            lacking[of.needs.columns] += sample < 0
        unknown = np.where(images == 0, weights / np.maximum(lacking, 1), 0)
        return [
            (
                linear @ (weights[at] * own / np.maximum(images[at], 1)),
                float(unknown[at].sum()) if not own.any() else 0.0,
            )
            for at, linear, own in parts
        ]

    def whole(self, rows: Sequence[int], fetch: Callable[[Sequence[LabelFacts]], Sequence[ModelLabel]]) -> JoinedLabels:
        """The labels of some models, read whole and compared with the index."""
        wanted = [label for m in rows for label in self.labels[m] if label is not None]
        labels = dict(zip(map(id, wanted), fetch(wanted), strict=True))
        for g, index in enumerate(self.indexes):
            column = [label for m in rows if (label := self.labels[m][g]) is not None]
            of = self.graphs[g] if self.config.strategy is Strategy.MLL else None
            concepts = of.needs.needed if of else np.empty(0, np.int64)
            positions = np.array([label.position for label in column], np.int64)
            codes = of.codes(positions) if of else np.empty((0, len(column)), np.uint32)
            for label, of_label in zip(column, codes.T, strict=True):
                index.check(label.position, labels[id(label)], concepts, of_label)
        whole = tuple(tuple(None if label is None else labels[id(label)] for label in self.labels[m]) for m in rows)
        return replace(self.candidates.labels, labels=whole, population=self.population)


def _position(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else -1
