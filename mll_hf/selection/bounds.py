"""Which of very many labels have to be looked at closely, so that the best are surely among them.

Our estimate (:mod:`mll_hf.selection.mll`) of a model's precision on a class is linear in the images that the model is
expected to win among as many candidates as there are classes. A catalog has the shares of images won among 2, 5, 17 ...
candidates. A combination of them is near the share that is wanted, and how near at most is known whatever the label
says. That gives an upper bound of every estimate from three bytes per label and concept. Labels are then scored by
falling bounds, until no bound reaches the worst of the scores that are wanted.

So the choice is the same as if all labels had been scored; nothing of it is estimated here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import LabelError
from mll_hf.labels.catalog import CANDIDATES, SHARE_UNIT, in_threads
from mll_hf.labels.counts import RANK_BINS, chance_to_win, expected_wins
from mll_hf.labels.label import rival_counts
from mll_hf.selection.base import DIGITS, Candidates, SelectionConfig, Strategy
from mll_hf.selection.mll import (
    Measured,
    Needs,
    cautious,
    estimates,
    mean_factors,
    named_domain,
    odds_ratios,
    part_levels,
    task_needs,
    with_odds,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mll_hf.labels.catalog import Catalog, Shard
    from mll_hf.matching.concept_index import ClassMatch

_READ = 3  # neighboring shares that are combined
_FITTINGS = 30
_AT_ONCE = 64  # concepts whose shares stay in the processor's cache
_BATCH = 256  # labels that are scored together
_MOST_SAMPLES = 64  # labels of rarer samples are scored whatever they promise
_ROUNDING = 2e-4  # most that single precision does to sums of shares
_EQUAL = 1e-9


@dataclass(frozen=True)
class Combination:
    """Shares among certain numbers of candidates, combined to be like the share among another number.

    Attributes:
        first: The first of the neighboring shares.
        constant: Added to them.
        weights: What each of them is multiplied by.
        error: How far the combination can be from the share, for whatever ranks, rounding included.
    """

    first: int
    constant: float
    weights: tuple[float, ...]
    error: float


@lru_cache(maxsize=8192)
def combination(n_rivals: int, n_candidates: int) -> Combination:
    """The best combination found for a number of candidates.

    Images of one bin of ranks all have the same chance to be won. So the error is at most that of the worst bin.
    """
    wanted = chance_to_win(n_rivals, n_candidates)
    chances = np.stack([chance_to_win(n_rivals, n) for n in CANDIDATES])
    return min(
        (_fitted(wanted, chances, first) for first in range(len(CANDIDATES) - _READ + 1)), key=lambda found: found.error
    )


def _fitted(wanted: NDArray[np.float64], chances: NDArray[np.float64], first: int) -> Combination:
    """Least squares, with ever more weight on the worst bins (Lawson's algorithm)."""
    known = np.concatenate([np.ones((1, RANK_BINS)), chances[first : first + _READ]]).T
    importance, found = np.ones(RANK_BINS), Combination(first, 0.0, (0.0,) * _READ, np.inf)
    for _ in range(_FITTINGS):
        root = np.sqrt(importance)
        solution = np.linalg.lstsq(known * root[:, None], wanted * root, rcond=1e-6)[0]
        errors = np.abs(known @ solution - wanted)
        error = float(errors.max() + np.abs(solution[1:]).sum() * 0.501 / SHARE_UNIT)
        if error < found.error:
            found = Combination(first, float(solution[0]), tuple(solution[1:].tolist()), error)
        importance = importance * (errors + 1e-12)
        importance /= importance.max()
    return found


def shortlist(
    catalog: Catalog,
    fitting: NDArray[np.int64],
    match: ClassMatch,
    domain: str | None,
    config: SelectionConfig,
    most: int,
) -> NDArray[np.int64]:
    """The labels with the best scores, and those that scores depend on: the first and the generally best one.

    Args:
        catalog: M labels.
        fitting: Ascending positions of those that may be chosen; at least one.
        match: The classes, matched to concepts.
        domain: The task's domain.
        config: Strategy, ``mll`` or ``general``, and what a class weighs.
        most: How many of the best are wanted.

    Returns:
        Ascending positions.

    Raises:
        LabelError: The catalog contradicts itself.
    """
    levels, models = catalog.columns.mean_precision[fitting], catalog.columns.models
    reference = min(fitting[levels == levels.max()].tolist(), key=lambda position: models[position])
    first = int(fitting[0])
    if config.strategy is Strategy.GENERAL:
        best = _best(catalog, fitting, np.round(levels, DIGITS), most)
    else:
        one = Candidates((catalog.label(first),), catalog.graph, match, domain)
        best = _best_by_bounds(_query(catalog, task_needs(one, config.class_weight), domain), fitting, reference, most)
    return np.unique([first, reference, *best])


def _best(catalog: Catalog, positions: NDArray[np.int64], scores: NDArray[np.float64], most: int) -> list[int]:
    """Positions of the highest scores; ids decide between equals."""
    most = min(most, len(scores))
    good = np.flatnonzero(scores >= np.partition(scores, -most)[-most])
    models = catalog.columns.models
    order = sorted(good.tolist(), key=lambda row: (-scores[row], models[positions[row]]))
    return positions[order[:most]].tolist()


@dataclass(frozen=True)
class _Query:
    """What bounds and scores are made of.

    Attributes:
        catalog: M labels.
        needs: What the task asks of them; A concepts.
        n_rivals: [A] rivals of each concept.
        levels: [M, 1 + packs] mean precision over each part.
        odds: [M] of the task's domain.
        support: [N, A] images of the concepts in each sample of images.
    """

    catalog: Catalog
    needs: Needs
    n_rivals: NDArray[np.int32]
    levels: NDArray[np.float64]
    odds: NDArray[np.float64]
    support: NDArray[np.int32]


def _query(catalog: Catalog, needs: Needs, domain: str | None) -> _Query:
    columns, odds = catalog.columns, np.ones(len(catalog))
    named = [named_domain(names, domain) for names in columns.domain_names]
    if any(s is not None for s in named):
        has_domain = np.array([s is not None for s in named])[columns.sample]
        ratios = odds_ratios(*catalog.domain_ranks(named), needs.mean_chances[0])
        odds = np.where(has_domain, ratios, 1.0)
    levels = part_levels(columns.mean_rank_shares, needs.mean_chances)
    n_rivals = rival_counts(catalog.graph, columns.part_numbers)[needs.needed]
    return _Query(catalog, needs, n_rivals, levels, odds, columns.support[:, needs.needed].astype(np.int32))


def _best_by_bounds(query: _Query, fitting: NDArray[np.int64], reference: int, most: int) -> list[int]:
    """Positions of the highest scores, found by scoring labels until no bound reaches the last of them."""
    bounds = _bounds(query, reference)[fitting]
    order = np.argsort(-bounds, kind="stable")
    scores: list[float] = []
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        if len(scores) >= most and bounds[batch[0]] + _EQUAL < np.partition(scores, -most)[-most]:
            break
        of_batch = _scores(query, fitting[batch], reference)
        over = of_batch - bounds[batch]
        if over.max() > _EQUAL:
            model, _ = query.catalog.columns.models[fitting[batch[over.argmax()]]]
            reason = f"says two things of {model}; write it again: mll-hf labels index --out"
            raise LabelError(reason, query.catalog.folder)
        scores.extend(of_batch.tolist())
    return _best(query.catalog, fitting[order[: len(scores)]], np.array(scores), most)


def _scores(query: _Query, positions: NDArray[np.int64], reference: int) -> NDArray[np.float64]:
    """[len(positions)] mean scores over the classes, as :func:`~mll_hf.selection.select` would have them."""
    scores = cautious(*estimates(query.needs, _measured(query, [reference, *positions.tolist()])), 0)
    means: NDArray[np.float64] = np.round(scores[1:], DIGITS).mean(axis=1)
    return means


def _measured(query: _Query, positions: list[int]) -> Measured:
    """What some labels say, read exactly."""
    catalog, concepts, chances = query.catalog, query.needs.needed, query.needs.chances
    ranks = [catalog.ranks(position) for position in positions]
    wins = in_threads(lambda of_label: expected_wins(of_label.take(concepts, axis=0), chances), ranks)
    for shard in catalog.shards:
        shard.forget()
    support = query.support[catalog.columns.sample[positions]]
    return Measured(np.stack(wins), support, query.levels[positions], query.odds[positions])


# --- bounds -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bound:
    """A linear function of shares and levels that no label of one sample of images exceeds with its mean estimate.

    That is the mean over the classes, before odds and errors.

    Attributes:
        constant: What is left without images won and with levels of 0.
        of_shares: [A, _READ] float32.
        of_levels: [1 + packs].
    """

    constant: float
    of_shares: NDArray[np.float32]
    of_levels: NDArray[np.float64]


def _bounds(query: _Query, reference: int) -> NDArray[np.float64]:
    """[M] what no label's mean score exceeds.

    A score above the reference's is lowered by the error of the difference from it, which is at least the reference's
    own error.
    """
    counts = np.bincount(query.catalog.columns.sample)
    common = np.argsort(-counts, kind="stable")[:_MOST_SAMPLES]
    functions = {int(sample): _bound(query, int(sample)) for sample in common if counts[sample]}
    means = np.concatenate(in_threads(lambda shard: _mean_bounds(query, functions, shard), query.catalog.shards))
    means = np.where(query.odds > 1, with_odds(means[:, None], query.odds)[:, 0], means)  # see _mean_bounds
    precision, errors = estimates(query.needs, _measured(query, [reference]))
    level = precision.mean()
    return np.where(means > level, np.maximum(means - errors[0], level), means)


def _bound(query: _Query, sample: int) -> _Bound:
    needs, support = query.needs, query.support[sample]
    of_wins, of_levels = mean_factors(needs, support, query.levels.shape[1])
    combined = [combination(n, needs.n_candidates) for n in query.n_rivals.tolist()]
    most = np.array([found.constant + found.error for found in combined])
    weights = np.array([found.weights for found in combined]) / SHARE_UNIT
    of_shares = of_wins * support
    return _Bound(
        constant=float(most @ of_shares) + _ROUNDING,
        of_shares=(weights * of_shares[:, None]).astype(np.float32),
        of_levels=of_levels,
    )


def _mean_bounds(query: _Query, functions: Mapping[int, _Bound], shard: Shard) -> NDArray[np.float64]:
    """[len(shard)] what no label's mean estimate exceeds, before odds; 1 for labels of a rare sample.

    Odds above 1 raise a mean of estimates by at most as much as an estimate that is that mean, for the estimate with
    the odds is concave. Odds below 1 lower every estimate.
    """
    samples = query.catalog.columns.sample[shard.first : shard.first + len(shard)]
    columns = {
        sample: np.flatnonzero(samples == sample) for sample in np.intersect1d(samples, list(functions)).tolist()
    }
    sums = _sums_of_shares(query, {sample: functions[sample].of_shares for sample in columns}, columns, shard)
    most = np.ones(len(shard))
    for sample, of_sample in columns.items():
        rest = functions[sample].constant + query.levels[shard.first + of_sample] @ functions[sample].of_levels
        most[of_sample] = np.clip(rest + sums[of_sample], 0, 1)
    shard.forget()
    return most


def _sums_of_shares(
    query: _Query, factors: Mapping[int, NDArray[np.float32]], columns: Mapping[int, NDArray[np.intp]], shard: Shard
) -> NDArray[np.float64]:
    """[len(shard)] sums of a label's shares times the factors of its sample; the shares are read once."""
    needs, shares, sums = query.needs, shard.tensors["shares"], np.zeros(len(shard))
    firsts = np.array([combination(n, needs.n_candidates).first for n in query.n_rivals.tolist()])
    stride, width = shares.strides[:2]
    shard.expect("shares", needs.needed * stride + firsts * width, _READ * width)
    for first in np.unique(firsts).tolist():
        alike = np.flatnonzero(firsts == first)
        for start in range(0, len(alike), _AT_ONCE):
            rows = alike[start : start + _AT_ONCE]
            values = shares[needs.needed[rows], first : first + _READ]
            for sample, of_sample in columns.items():
                if 2 * len(of_sample) > len(shard):  # then picking them out takes longer than it saves
                    sums[of_sample] += np.einsum("vk,vkm->m", factors[sample][rows], values)[of_sample]
                else:
                    sums[of_sample] += np.einsum("vk,vkm->m", factors[sample][rows], values[..., of_sample])
    return sums
