"""Count which probe images a model recognizes, from embeddings, on the model's device.

An image ``x`` that tests concept ``v`` is recognized if ``v`` scores strictly higher than every rival (the paper's
Eq. 5 with all concepts as candidates). Ancestors and descendants of ``v`` are not rivals, nor are the concept that
``x`` was filed under and its ancestors: these answers are not wrong.

Images come in blocks, so memory does not grow with their number; the table of all concepts by all rivals takes 16 bits
per entry.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.graph.probes import scramble
from mll_hf.labels.counts import TEMPERATURES, LabelCounts, log_loss_units, rank_bin

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.graph.probes import ProbeSet

_BLOCK = 1024  # images; the last bit of a score depends on the block, so all labels use the same blocks
_CONTESTS_AT_ONCE = 512
_CALIBRATION_IMAGES = 4096
_MAX_CANDIDATES = 200
_CALIBRATION_SALT = 0x7E39


class Contest:
    """Counts what one model recognizes.

    Args:
        graph: The V concepts.
        probes: The probe images, and which concepts each of them tests.
        concepts: [V, D] unit-norm embeddings of the captions.
        logit_scale: Factor between cosines and logits; only the temperature depends on it.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    """

    def __init__(
        self,
        graph: SemanticGraph,
        probes: ProbeSet,
        concepts: NDArray[np.float32],
        logit_scale: float,
        device: str = "cpu",
    ) -> None:
        import torch

        self._probes = probes
        self._device = torch.device(device)
        self._concepts = self._to_device(concepts)
        self._logit_scale = logit_scale
        # concepts that an image of each concept shows, and concepts that are not rivals of the concept
        self._shown = [np.append(above, np.int64(v)) for v, above in enumerate(graph.ancestors)]
        self._related = [np.append(*both) for both in zip(self._shown, graph.descendants, strict=True)]

    def count(self, images: NDArray[np.float32]) -> LabelCounts:
        """Count the contests over the probe images: unit-norm embeddings [N, D], NaN for undecodable images."""
        import torch

        n_concepts = len(self._concepts)
        counts = LabelCounts.zeros(n_concepts, len(self._probes.domain_names))
        # torch cannot add uint16; int16 wraps around to the same bits
        outscored = torch.zeros((n_concepts, n_concepts), dtype=torch.int16, device=self._device)
        undecodable = 0
        with torch.inference_mode():
            for start in range(0, len(images), _BLOCK):
                block = images[start : start + _BLOCK]
                decodable: NDArray[np.bool_] = np.isfinite(block[:, 0])
                undecodable += int((~decodable).sum())
                scores = self._to_device(np.where(decodable[:, None], block, np.float32(0))) @ self._concepts.T
                pair_images, pair_concepts = self._pairs(start, decodable)
                for first in range(0, len(pair_images), _CONTESTS_AT_ONCE):
                    part = slice(first, first + _CONTESTS_AT_ONCE)
                    self._add_contests(counts, outscored, scores, start, pair_images[part], pair_concepts[part])
                self._add_log_loss(counts, start, scores, decodable)
        return replace(counts, outscored=outscored.cpu().numpy().view(np.uint16), undecodable=undecodable)

    def _to_device(self, array: NDArray[np.generic]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _pairs(self, start: int, decodable: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(image in the block, concept) for the contests of a block."""
        images, concepts = self._probes.pairs_by_image
        first, last = np.searchsorted(images, [start, start + len(decodable)])
        images, concepts = images[first:last] - start, concepts[first:last]
        kept = decodable[images]
        return images[kept], concepts[kept]

    def _marked(self, *rows: list[NDArray[np.int64]]) -> torch.Tensor:
        """[N, V] boolean: each row marks the concepts that any of the lists has in this row."""
        import torch

        marked = torch.zeros((len(rows[0]), len(self._concepts)), dtype=torch.bool, device=self._device)
        for members in rows:
            at = np.repeat(np.arange(len(members)), list(map(len, members)))
            marked[self._to_device(at), self._to_device(np.concatenate(members))] = True
        return marked

    def _add_contests(
        self,
        counts: LabelCounts,
        outscored: torch.Tensor,
        scores: torch.Tensor,
        start: int,
        images: NDArray[np.int64],
        concepts: NDArray[np.int32],
    ) -> None:
        """Add contests to the counts."""
        import torch

        numbers = images + start
        tested = self._to_device(concepts).long()
        contest_scores = scores[self._to_device(images)]
        own = contest_scores.gather(1, tested[:, None])
        nodes = self._probes.nodes[numbers].tolist()
        no_rivals = self._marked([self._related[v] for v in concepts.tolist()], [self._shown[v] for v in nodes])
        beaten_by = (contest_scores >= own) & ~no_rivals
        outscored.index_add_(0, tested, beaten_by.to(torch.int16))
        bins = rank_bin(beaten_by.sum(dim=1).cpu().numpy())
        hit = bins == 0
        domains = self._probes.domains[numbers]

        np.add.at(counts.ranks, (concepts, bins), 1)
        np.add.at(counts.domain_ranks, (domains, bins), 1)
        np.add.at(counts.domain_support, (domains, concepts), 1)
        np.add.at(counts.domain_hits, (domains[hit], concepts[hit]), 1)

    def _add_log_loss(
        self, counts: LabelCounts, start: int, scores: torch.Tensor, decodable: NDArray[np.bool_]
    ) -> None:
        """Add the log-loss of a seeded sample of the images at each temperature.

        Each image is classified among the concept it was filed under and random rivals. The number of candidates is
        log-uniform from 2 to 200, because the number of classes of a task is unknown.
        """
        probes, n_concepts = self._probes, len(self._concepts)
        numbers = np.arange(start, start + len(scores))
        share = min(1.0, _CALIBRATION_IMAGES / max(len(probes), 1))
        chosen = np.flatnonzero(decodable & (_uniform(probes.rows[numbers], 0) < share))
        if n_concepts < 2 or not len(chosen):
            return
        rows, nodes = probes.rows[numbers[chosen]], probes.nodes[numbers[chosen]]
        n_candidates = np.floor(2 * (_MAX_CANDIDATES / 2) ** _uniform(rows, 1))
        slots = np.arange(_MAX_CANDIDATES - 1)
        draws = _uniform(rows[:, None] * _MAX_CANDIDATES + slots, 2)
        candidates = np.sort(
            np.where(slots < n_candidates[:, None] - 1, (draws * n_concepts).astype(np.int64), -1), axis=1
        )
        repeated = np.diff(candidates, axis=1, prepend=-1) == 0
        rivals, own = self._to_device(candidates.clip(0)), self._to_device(nodes).long()[:, None]
        scores = scores[self._to_device(chosen)]
        related = self._marked([self._related[v] for v in nodes.tolist()]).gather(1, rivals)
        absent = (candidates < 0) | repeated | related.cpu().numpy()
        own_scores = scores.gather(1, own).cpu().numpy().astype(np.float64)
        margins = self._logit_scale * (scores.gather(1, rivals).cpu().numpy() - own_scores)
        margins[absent] = -np.inf
        losses = [np.logaddexp.reduce(margins / temperature, axis=1, initial=0.0) for temperature in TEMPERATURES]
        np.add.at(counts.nll, nodes, log_loss_units(np.stack(losses, axis=1)))


def _uniform(values: NDArray[np.int64], salt: int) -> NDArray[np.float64]:
    """Seeded uniform numbers in [0, 1), one per integer."""
    bits = scramble(values.astype(np.uint64), _CALIBRATION_SALT + salt)
    return (bits >> np.uint64(11)) / 2.0**53  # 64 bits would sometimes round up to 1.0
