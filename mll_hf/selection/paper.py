"""Selection exactly as in the paper (Tan et al., ICML 2025, arXiv 2501.18271, section 4.2)."""

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
    """[M, C] reuse metric r of each model on each class.

    Eq. 5: ``p_{m,v} = (1/|X_v|) sum over x in X_v of 1[v = argmax over u in V_sel of S_m[x, u]]``
    Eq. 6: ``p_{m,y} = sum over v in V_sel of p_{m,v} z_{vy}``
    Eq. 7: ``r_{m,y} = alpha p_{m,y} + (1 - alpha) / C sum over y' of p_{m,y'}``

    V_sel and Z come from the match of the candidates; ``class_weight`` is alpha, .7 in the paper. Z is not normalized,
    so r can exceed 1.
    """
    class_precision = restricted_precision(candidates) @ candidates.match.transition.astype(np.float64)
    return class_weight * class_precision + (1 - class_weight) * class_precision.mean(axis=1, keepdims=True)


def restricted_precision(candidates: Candidates) -> NDArray[np.float64]:
    """Eq. 5: [M, K] precision of each model on the K selected concepts if only these are candidates.

    Exact if the probe embeddings of all models on all graphs are available, otherwise estimated from the rivals in the
    labels for all models. Exact and estimated values are not comparable: ancestors and descendants are candidates in
    Eq. 5 but not rivals in a label.
    """
    selected = candidates.match.selected
    if candidates.embeddings:
        return np.stack([embeddings.restricted_precision(selected) for embeddings in candidates.embeddings])
    union = candidates.labels.union
    return np.stack([_estimate(row, union.rows[:, selected], candidates) for row in candidates.labels.labels])


def _estimate(row: tuple[object, ...], rows: NDArray[np.int32], candidates: Candidates) -> NDArray[np.float64]:
    """[K] Eq. 5 estimated from the labels of one model; for a concept in several graphs the mean over all images.

    The paper has only one graph. For concepts that the model was not measured on, its mean over the other selected
    concepts is used.
    """
    won, images = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for g, label in enumerate(row):
        if label is None:
            continue
        if not isinstance(label, ModelLabel):
            raise InputError("strategy 'paper' needs full labels, not summaries; fetch them from their source")
        columns = np.flatnonzero(rows[g] >= 0)
        concepts = rows[g, columns].astype(np.int64)
        n_rivals = candidates.labels.union.graphs[g].rival_counts
        support = label.support[concepts]
        won[columns] += support * precision_from_label(label, concepts, n_rivals, rows.shape[1])
        images[columns] += support
    precision = won / np.maximum(images, 1)
    measured = (rows[[g for g, label in enumerate(row) if label is not None]] >= 0).any(axis=0)
    if not measured.all() and measured.any():
        precision[~measured] = precision[measured].mean()
    return precision


def precision_from_label(
    label: ModelLabel, selected: NDArray[np.int64], n_rivals: NDArray[np.int32], n_candidates: int | None = None
) -> NDArray[np.float64]:
    """Estimate Eq. 5 from the counts in a label, which are over all concepts of its graph.

    The estimate [K] is the smaller of two values: the share of images not lost to the strongest selected rival, and the
    expected recall among as many random candidates (:meth:`~mll_hf.labels.label.LabelSummary.recall_among`).

    Args:
        label: The label.
        selected: [K] indices of the selected concepts in the label's graph.
        n_rivals: [V] number of rivals of each concept of the graph.
        n_candidates: Number of selected concepts on all graphs; K by default.
    """
    rivals, support = label.rivals[selected], np.maximum(label.support[selected], 1)
    competes = np.zeros(NO_RIVAL + 1, np.bool_)  # False for empty slots
    competes[selected] = True
    lost = (label.rival_wins[selected] * competes[rivals]).max(axis=1, initial=0) / support
    expected = label.recall_among(n_candidates or len(selected), selected, n_rivals)
    return np.minimum(expected, 1 - lost)
