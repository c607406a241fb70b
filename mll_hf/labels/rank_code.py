"""Encode the ranks of a concept in four bytes, for its expected recall among any number of candidates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.labels.counts import RANK_BINS, chance_to_win, rank_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph

BITS = (8, 6, 6, 5, 4, 3)
_SHIFTS = tuple(32 - sum(BITS[: n + 1]) for n in range(len(BITS)))


@dataclass(frozen=True, eq=False)
class RankCode:
    """Encodes the distribution of the ranks of a concept's images in 32 bits.

    The expected recall among n candidates is linear in the shares of images by rank, and smooth in log n. So a few
    principal components determine it for all n; they are quantized to 8, 6, 6, 5, 4 and 3 bits.

    Attributes:
        basis: [K, RANK_BINS] principal components.
        n_bins: Number of bins that ranks on the graph can fall into.
    """

    basis: NDArray[np.float64]
    n_bins: int

    @classmethod
    def of_graph(cls, graph: SemanticGraph) -> RankCode:
        """The code for labels on a graph: principal components of the recall among 2 to all candidates.

        Values of n are evenly spaced in log n and weighted by 1 + 6 / n, as errors are largest for few candidates.
        """
        max_rivals = int(graph.rival_counts.max(initial=0))
        n_bins = int(rank_bin(np.array([max_rivals]))[0]) + 1
        candidates = np.unique(np.rint(np.geomspace(2, max(max_rivals + 1, 2), 40)).astype(np.int64))
        chances = np.stack([(1 + 6 / n) * chance_to_win(max_rivals, n) for n in candidates.tolist()])
        _, covariance = _prior(n_bins)
        variances, axes = np.linalg.eigh(chances @ covariance @ chances.T)
        kept = np.argsort(-variances, kind="stable")[: len(BITS)]
        components = (axes[:, kept] * np.sign(axes[0, kept] + (axes[0, kept] == 0))).T @ chances
        basis = np.zeros((len(BITS), RANK_BINS))
        basis[: len(components), :n_bins] = np.round(components, 3)[:, :n_bins]  # for the same result on all machines
        return cls(basis, n_bins)

    @property
    def _lowest(self) -> NDArray[np.float64]:
        return self.basis[:, : self.n_bins].min(axis=1)

    @property
    def _steps(self) -> NDArray[np.float64]:
        return (self.basis[:, : self.n_bins].max(axis=1) - self._lowest) / (2.0 ** np.array(BITS) - 1)

    def encode(self, ranks: NDArray[np.uint16]) -> NDArray[np.uint32]:
        """[V] codes of ranks [V, RANK_BINS]; 0 without images."""
        images = ranks.sum(axis=1, dtype=np.int64)
        shares = ranks / np.maximum(images, 1)[:, None]
        steps = np.where(self._steps > 0, self._steps, 1)
        levels = np.einsum("vb,kb->vk", shares, self.basis) - self._lowest  # summation order does not depend on BLAS
        fields = np.clip(np.rint(levels / steps), 0, 2.0 ** np.array(BITS) - 1).astype(np.uint32)
        codes: NDArray[np.uint32] = (fields << np.array(_SHIFTS, np.uint32)).sum(axis=1, dtype=np.uint32)
        return np.where(images > 0, codes, 0).astype(np.uint32)

    def decoder(self, chances: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Constants [A] and weights [A, K] of the fields of codes, for probabilities to win [A, RANK_BINS].

        The weighted sum is the expected recall given the code: a linear regression under a broad prior of shares.
        """
        mean, covariance = _prior(self.n_bins)
        noise = np.maximum(self._steps**2 / 12, 1e-12)
        code_covariance = self.basis @ covariance @ self.basis.T + np.diag(noise)
        slopes = np.linalg.solve(code_covariance, self.basis @ covariance @ chances.T).T
        return chances @ mean + slopes @ (self._lowest - self.basis @ mean), slopes * self._steps


def code_fields(codes: NDArray[np.uint32]) -> Iterator[NDArray[np.uint32]]:
    """Yield the K fields of codes, each with the shape of the codes."""
    for shift, bits in zip(_SHIFTS, BITS, strict=True):
        yield (codes >> np.uint32(shift)) & np.uint32(2**bits - 1)


@lru_cache(maxsize=16)
def _prior(n_bins: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [RANK_BINS] and covariance of the shares under a prior: log ranks are normal, with a wide range of means."""
    rows = []
    for deviation in (1.0, 2.0, 3.0, 4.0):
        for level in np.arange(-4, 14.1, 0.5).tolist():
            below = [(1 + math.erf((end - level) / deviation / math.sqrt(2))) / 2 for end in range(n_bins - 1)]
            rows.append(np.diff(below, prepend=0, append=1))
    shares = np.zeros((len(rows), RANK_BINS))
    shares[:, :n_bins] = rows
    mean, second = shares.mean(axis=0), shares.T @ shares / len(rows)
    return mean, second - np.outer(mean, mean) + (np.diag(mean) - second) / 40  # sampling variance of 40 images
