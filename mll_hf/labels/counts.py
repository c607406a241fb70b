"""Counts from measuring a model, and statistics of the counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.utils.arrays import read_only

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIVALS = 24
NO_RIVAL = 65535
RANK_BINS = 14
TEMPERATURES = np.geomspace(0.05, 20.0, 41)
Z_95 = 1.959964  # quantile of the normal distribution for a two-sided 95 % interval
_NLL_UNIT = 2.0**-20  # log-losses are summed as integers, so that the order of the images does not matter


@dataclass(frozen=True)
class LabelCounts:
    """Results of one model on some probe images.

    A contest is one image tested for one concept ``v`` that it shows; the candidates are ``v`` and all concepts that
    the image does not show.
    """

    domain_hits: NDArray[np.uint16]  # [S, V] contests for v that v won, by domain
    domain_support: NDArray[np.uint16]  # [S, V] contests for v by domain
    outscored: NDArray[np.uint16]  # [V, V] contests for the row's concept in which the column's scored at least as high
    ranks: NDArray[np.uint16]  # [V, RANK_BINS] contests for v by how many rivals beat it: none, 1, 2 to 3, 4 to 7 ...
    domain_ranks: NDArray[np.int32]  # [S, RANK_BINS] all contests by domain and number of rivals that beat the concept
    nll: NDArray[np.int64]  # [V, len(TEMPERATURES)] summed log-loss of the concept's images, in units of 2^-20 nats
    undecodable: int = 0  # images that could not be decoded and are not counted

    @classmethod
    def zeros(cls, n_concepts: int, n_domains: int) -> LabelCounts:
        """Counts without any images."""
        return cls(
            domain_hits=np.zeros((n_domains, n_concepts), np.uint16),
            domain_support=np.zeros((n_domains, n_concepts), np.uint16),
            outscored=np.zeros((n_concepts, n_concepts), np.uint16),
            ranks=np.zeros((n_concepts, RANK_BINS), np.uint16),
            domain_ranks=np.zeros((n_domains, RANK_BINS), np.int32),
            nll=np.zeros((n_concepts, len(TEMPERATURES)), np.int64),
        )

    @property
    def temperature(self) -> float:
        """The temperature with the lowest log-loss: the best on the grid, refined by a parabola in log T.

        The loss of each concept is weighted by recall: a specialist is chosen for concepts that it recognizes, so it
        must be calibrated on these.
        """
        weights = recall_of(self.ranks[:, 0], self.ranks.sum(axis=1)).astype(np.float64)
        if not (self.nll * (weights > 0)[:, None]).any():
            weights = np.ones_like(weights)
        losses = weights @ self.nll
        if not losses.any():
            return 1.0
        best = int(np.clip(np.argmin(losses), 1, len(TEMPERATURES) - 2))
        left, middle, right = losses[best - 1 : best + 2]
        curvature = left - 2 * middle + right
        shift = 0.5 * (left - right) / curvature if curvature > 0 else 0.0
        step = math.log(TEMPERATURES[1] / TEMPERATURES[0])
        return float(TEMPERATURES[best] * math.exp(step * min(1.0, max(-1.0, shift))))

    def rivals(self) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """[V, RIVALS] rivals that most often beat each concept on its own images, and the number of these images.

        Sorted by wins, descending, then by index; empty slots have NO_RIVAL.
        """
        indices = np.full((len(self.ranks), RIVALS), NO_RIVAL, np.uint16)
        wins = np.zeros_like(indices)
        for v, outscored in enumerate(self.outscored):
            top = np.argsort(NO_RIVAL - outscored, kind="stable")[:RIVALS]
            top = top[outscored[top] > 0]
            indices[v, : len(top)] = top
            wins[v, : len(top)] = outscored[top]
        return indices, wins


def log_loss_units(log_loss: NDArray[np.float64]) -> NDArray[np.int64]:
    """Convert log-losses [..., temperatures] in nats to the integers summed in :class:`LabelCounts`."""
    return np.rint(np.minimum(log_loss, 1e4) / _NLL_UNIT).astype(np.int64)


def rank_bin(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bin of each rank: 0 for 0, and ``b`` for ``2^(b-1)`` to ``2^b - 1``; the last bin is open."""
    octave = np.floor(np.log2(np.maximum(ranks, 1))).astype(np.int64) + 1
    return np.where(ranks == 0, 0, np.minimum(octave, RANK_BINS - 1))


@lru_cache(maxsize=8192)
def chance_to_win(n_rivals: int, n_candidates: int) -> NDArray[np.float64]:
    """[RANK_BINS] probability that an image is won against a random subset of the rivals.

    ``n_candidates - 1`` rivals are drawn without replacement, or all if there are fewer. An image that ``r`` of ``R``
    rivals beat is won with probability ``C(R - r, n - 1) / C(R, n - 1)``. The value of a bin is the mean over its ranks
    up to ``R``, or the probability at rank ``R`` if there are none.
    """
    drawn = min(n_candidates - 1, n_rivals)
    won = np.zeros(n_rivals + 1)  # by rank
    last = n_rivals - drawn  # with a higher rank, a rival that beats the image is always drawn
    logs = _log_factorials()
    ranks = np.arange(last + 1)
    won[: last + 1] = np.exp(logs[n_rivals - ranks] - logs[last - ranks] - logs[n_rivals] + logs[last])
    won[0] = 1.0
    starts = np.append(0, 2 ** np.arange(RANK_BINS - 1))
    possible = starts <= n_rivals
    chance = np.full(RANK_BINS, won[-1])
    chance[possible] = np.add.reduceat(won, starts[possible])
    chance[possible] /= np.diff(starts[possible], append=n_rivals + 1)
    return read_only(chance)


@lru_cache(maxsize=1)
def _log_factorials() -> NDArray[np.float64]:
    """[NO_RIVAL + 1] log n!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, NO_RIVAL + 1)))])


def chances_to_win(n_rivals: NDArray[np.integer[Any]], n_candidates: int) -> NDArray[np.float64]:
    """[K, RANK_BINS] probabilities for K concepts with these numbers of rivals, see :func:`chance_to_win`."""
    distinct, positions = np.unique(n_rivals, return_inverse=True)
    rows = [chance_to_win(int(n), n_candidates) for n in distinct]
    return np.stack(rows)[positions] if rows else np.zeros((0, RANK_BINS))


def mean_chance_to_win(n_rivals: NDArray[np.integer[Any]], n_candidates: int) -> NDArray[np.float64]:
    """[RANK_BINS] mean probability over the concepts with rivals, for counts summed over concepts."""
    distinct, counts = np.unique(n_rivals[n_rivals > 0], return_counts=True)
    if not len(distinct):
        return chance_to_win(0, n_candidates)
    return counts @ chances_to_win(distinct, n_candidates) / counts.sum()


def expected_wins(ranks: NDArray[np.integer[Any]], chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K] expected number of images won, from ranks and probabilities to win, both [K, RANK_BINS]."""
    wins: NDArray[np.float64] = np.einsum("kb,kb->k", ranks, chances)
    return wins


def recall_of(hits: NDArray[np.integer[Any]], support: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Node precision (paper, Eq. 5 over all candidates): hits / support, 0 without images."""
    return (hits / np.maximum(support, 1)).astype(np.float32)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson, 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, Z_95**2
    center = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    margin = Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(center - margin, 0.0), min(center + margin, 1.0)
