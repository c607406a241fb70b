"""Selection as the paper has it (Tan et al., ICML 2025, arXiv 2501.18271, section 4.2), to the letter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.counts import NO_RIVAL
from mll_hf.labels.label import ModelLabel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.selection.base import Candidates


def paper_scores(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """[M, C] the reuse metric r of every model on every class.

    Eq. 5: ``p_{m,v} = (1/|X_v|) sum over x in X_v of 1[v = argmax over u in V_sel of S_m[x, u]]``
    Eq. 6: ``p_{m,y} = sum over v in V_sel of p_{m,v} z_{vy}``
    Eq. 7: ``r_{m,y} = alpha p_{m,y} + (1 - alpha) / C sum over y' of p_{m,y'}``

    The match of the candidates gives V_sel and Z; the class weight is alpha, .7 in the paper. Z is not normalized, so
    r can exceed 1.
    """
    class_precision = restricted_precision(candidates) @ candidates.match.transition.astype(np.float64)
    return class_weight * class_precision + (1 - class_weight) * class_precision.mean(axis=1, keepdims=True)


def restricted_precision(candidates: Candidates) -> NDArray[np.float64]:
    """Eq. 5: [M, K] precision of every model on the K selected concepts when only they compete.

    Exact if the probe embeddings of all models on all graphs are at hand, otherwise estimated from the rivals of all
    labels. Never a mixture: ancestors and descendants compete in Eq. 5 and are no rivals in a label, so the two do not
    compare.
    """
    selected = candidates.match.selected
    if candidates.embeddings:
        return np.stack([embeddings.restricted_precision(selected) for embeddings in candidates.embeddings])
    union = candidates.labels.union
    return np.stack([_estimate(row, union.rows[:, selected], candidates) for row in candidates.labels.labels])


def _estimate(row: tuple[object, ...], rows: NDArray[np.int32], candidates: Candidates) -> NDArray[np.float64]:
    """[K] Eq. 5 estimated from the labels of one model; a concept in several graphs has the mean over their images.

    The paper knows one graph only. Concepts of graphs on which the model has no label get its mean estimate on the
    selected concepts that it was measured on.
    """
    won, images = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for g, label in enumerate(row):
        if label is None:
            continue
        if not isinstance(label, ModelLabel):
            raise InputError("strategy 'paper' needs whole labels, not summaries; fetch them from their source")
        there = np.flatnonzero(rows[g] >= 0)
        concepts = rows[g, there].astype(np.int64)
        n_rivals = candidates.labels.union.graphs[g].rival_counts
        support = label.support[concepts]
        won[there] += support * precision_from_label(label, concepts, n_rivals, rows.shape[1])
        images[there] += support
    precision = won / np.maximum(images, 1)
    measured = (rows[[g for g, label in enumerate(row) if label is not None]] >= 0).any(axis=0)
    if not measured.all() and measured.any():
        precision[~measured] = precision[measured].mean()
    return precision


def precision_from_label(
    label: ModelLabel, selected: NDArray[np.int64], n_rivals: NDArray[np.int32], n_candidates: int | None = None
) -> NDArray[np.float64]:
    """Estimate Eq. 5 from what a label keeps of the contest of all concepts of its graph.

    Two facts bound the precision among the selected concepts from above: the images that the strongest selected rival
    wins are lost, and so is what would be lost on average if the selected concepts were any others of their number
    (:meth:`~mll_hf.labels.label.LabelSummary.recall_among`). The estimate [K] is the smaller of the two.

    K concepts of the label's graph are selected; ``n_candidates`` counts those on all graphs and is K by default. The
    rivals [V] are those of each concept of the graph.
    """
    rivals, support = label.rivals[selected], np.maximum(label.support[selected], 1)
    competes = np.zeros(NO_RIVAL + 1, np.bool_)  # an empty slot never competes
    competes[selected] = True
    lost = (label.rival_wins[selected] * competes[rivals]).max(axis=1, initial=0) / support
    expected = label.recall_among(n_candidates or len(selected), selected, n_rivals)
    return np.minimum(expected, 1 - lost)
