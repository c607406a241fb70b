"""Four bytes that say with how many rivals a concept is recognized: expected recall among any number of candidates."""

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
    """Encodes how many images of a concept were beaten by how many rivals in 32 bits.

    Expected recall among n candidates is a linear function of the shares of images by rank, and smooth in log n. So a
    few principal components determine it for every n; they are quantized to 8, 6, 6, 5, 4 and 3 bits.

    Attributes:
        basis: [K, RANK_BINS] the components.
        n_bins: Number of bins that the graph's ranks can reach.
    """

    basis: NDArray[np.float64]
    n_bins: int

    @classmethod
    def of_graph(cls, graph: SemanticGraph) -> RankCode:
        """The code for labels on a graph: components of recall among n = 2 to all candidates.

        Numbers are spread evenly over log n, and weighted by 1 + 6 / n, as errors are largest among few candidates.
        """
        most = int(graph.rival_counts.max(initial=0))
        n_bins = int(rank_bin(np.array([most]))[0]) + 1
        candidates = np.unique(np.rint(np.geomspace(2, max(most + 1, 2), 40)).astype(np.int64))
        chances = np.stack([(1 + 6 / n) * chance_to_win(most, n) for n in candidates.tolist()])
        _, covariance = _prior(n_bins)
        variances, axes = np.linalg.eigh(chances @ covariance @ chances.T)
        kept = np.argsort(-variances, kind="stable")[: len(BITS)]
        components = (axes[:, kept] * np.sign(axes[0, kept] + (axes[0, kept] == 0))).T @ chances
        basis = np.zeros((len(BITS), RANK_BINS))
        basis[: len(components), :n_bins] = np.round(components, 3)[:, :n_bins]  # so that all machines agree
        return cls(basis, n_bins)

    @property
    def _lowest(self) -> NDArray[np.float64]:
        return self.basis[:, : self.n_bins].min(axis=1)

    @property
    def _steps(self) -> NDArray[np.float64]:
        return (self.basis[:, : self.n_bins].max(axis=1) - self._lowest) / (2.0 ** np.array(BITS) - 1)

    def encode(self, ranks: NDArray[np.uint16]) -> NDArray[np.uint32]:
        """[V] codes of ranks [V, RANK_BINS]; 0 where there are no images."""
        images = ranks.sum(axis=1, dtype=np.int64)
        shares = ranks / np.maximum(images, 1)[:, None]
        steps = np.where(self._steps > 0, self._steps, 1)
        levels = np.einsum("vb,kb->vk", shares, self.basis) - self._lowest  # in an order that no BLAS chooses
        fields = np.clip(np.rint(levels / steps), 0, 2.0 ** np.array(BITS) - 1).astype(np.uint32)
        codes: NDArray[np.uint32] = (fields << np.array(_SHIFTS, np.uint32)).sum(axis=1, dtype=np.uint32)
        return np.where(images > 0, codes, 0).astype(np.uint32)

    def decoder(self, chances: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Constants [A] and weights [A, K] of the fields of codes, for chances to win [A, RANK_BINS].

        Their sum is the expected recall given the code, by linear regression under a broad prior of shares.
        """
        mean, covariance = _prior(self.n_bins)
        noise = np.maximum(self._steps**2 / 12, 1e-12)
        of_codes = self.basis @ covariance @ self.basis.T + np.diag(noise)
        slopes = np.linalg.solve(of_codes, self.basis @ covariance @ chances.T).T
        return chances @ mean + slopes @ (self._lowest - self.basis @ mean), slopes * self._steps


def code_fields(codes: NDArray[np.uint32]) -> Iterator[NDArray[np.uint32]]:
    """The K fields of codes, one after another, each of the shape of the codes."""
    for shift, bits in zip(_SHIFTS, BITS, strict=True):
        yield (codes >> np.uint32(shift)) & np.uint32(2**bits - 1)


@lru_cache(maxsize=16)
def _prior(n_bins: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [RANK_BINS] and covariance of shares: logarithms of ranks are normal, models and concepts of any level."""
    rows = []
    for deviation in (1.0, 2.0, 3.0, 4.0):
        for level in np.arange(-4, 14.1, 0.5).tolist():
            below = [(1 + math.erf((end - level) / deviation / math.sqrt(2))) / 2 for end in range(n_bins - 1)]
            rows.append(np.diff(below, prepend=0, append=1))
    shares = np.zeros((len(rows), RANK_BINS))
    shares[:, :n_bins] = rows
    mean, second = shares.mean(axis=0), shares.T @ shares / len(rows)
    return mean, second - np.outer(mean, mean) + (np.diag(mean) - second) / 40  # of 40 images
