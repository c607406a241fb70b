"""Selection exactly as in the paper (Tan et al., ICML 2025, arXiv 2501.18271, section 4.2).

Where the authors' code (LAMDASZ-ML/MLL, commit 5f6e575) differs, the paper counts. The code has definitions alone as
texts of the concepts; instead of Eq. 5 and 6 it sums true positives, false positives and images P over concepts with
weights Z, and takes 2 TP / (2 TP + FP + P) of the sums; and it leaves class y out of the mean in Eq. 7. Only the number
of concepts per class, which the paper does not state, is that of the code: 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.counts import NO_RIVAL, chances_to_win, expected_wins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.labels.join import JoinedLabels
    from mll_hf.labels.label import Label, Rivals
    from mll_hf.selection.candidates import Candidates


def paper_scores(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """[M, C] reuse metric r of each model on each class.

    Eq. 5: ``p_{m,v} = (1/|X_v|) sum over x in X_v of 1[v = argmax over u in V_sel of S_m[x, u]]``
    Eq. 6: ``p_{m,y} = sum over v in V_sel of p_{m,v} z_{vy}``
    Eq. 7: ``r_{m,y} = alpha p_{m,y} + (1 - alpha) / C sum over y' of p_{m,y'}``

    The paper calls p precision; it is recall. V_sel and Z come from the match of the candidates; ``class_weight`` is
    alpha, .7 in the paper. Z holds cosines and is not normalized, so r can exceed 1, and be negative.
    """
    class_precision = restricted_precision(candidates) @ candidates.match.transition.astype(np.float64)
    return class_weight * class_precision + (1 - class_weight) * class_precision.mean(axis=1, keepdims=True)


def restricted_precision(candidates: Candidates) -> NDArray[np.float64]:
    """Eq. 5: [M, K] precision of each model on the K selected concepts if only these are candidates.

    Exact, up to rounding of embeddings to 8 bits, if there is one graph with probe embeddings of all models; otherwise
    estimated from the rivals in the labels for all models. These values are not comparable: ancestors and descendants
    are candidates in Eq. 5 but not rivals in a label.
    """
    selected = candidates.match.selected
    if candidates.embeddings:
        return np.stack([embeddings.restricted_precision(selected) for embeddings in candidates.embeddings])
    labels = candidates.labels
    if not labels.rivals:
        raise InputError("strategy 'paper' needs the rivals of the labels; read them with JoinedLabels.read_rivals")
    return np.stack([_estimate(labels, m, labels.union.rows[:, selected]) for m in range(len(labels))])


def _estimate(labels: JoinedLabels, m: int, rows: NDArray[np.int32]) -> NDArray[np.float64]:
    """[K] Eq. 5 estimated from the labels of model m; for a concept in several graphs the mean over all images.

    The paper has only one graph. For concepts that the model was not measured on, its mean over the other selected
    concepts is used.
    """
    won, images = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for g, (label, rivals) in enumerate(zip(labels.labels[m], labels.rivals[m], strict=True)):
        if label is None or rivals is None:
            continue
        columns = np.flatnonzero(rows[g] >= 0)
        concepts = rows[g, columns].astype(np.int64)
        n_rivals = labels.union.graphs[g].rival_counts
        support = label.support[concepts]
        won[columns] += support * precision_from_label(label, rivals, concepts, n_rivals, rows.shape[1])
        images[columns] += support
    precision = won / np.maximum(images, 1)
    measured = (rows[[g for g, label in enumerate(labels.labels[m]) if label is not None]] >= 0).any(axis=0)
    if not measured.all() and measured.any():
        precision[~measured] = precision[measured].mean()
    return precision


def precision_from_label(
    label: Label,
    rivals: Rivals,
    selected: NDArray[np.int64],
    n_rivals: NDArray[np.int32],
    n_candidates: int | None = None,
) -> NDArray[np.float64]:
    """Estimate Eq. 5 from the counts in a label, which are over all concepts of its graph, and its rivals.

    The estimate [K] of the K concepts at ``selected`` is the smaller of two values: the share of images not lost to the
    strongest selected rival, and the expected recall among as many random candidates. V concepts have ``n_rivals``;
    ``n_candidates`` are selected on all graphs, K by default.
    """
    support = np.maximum(label.support[selected], 1)
    competes = np.zeros(NO_RIVAL + 1, np.bool_)  # False for empty slots
    competes[selected] = True
    lost = (rivals.wins[selected] * competes[rivals.rivals[selected]]).max(axis=1, initial=0) / support
    chances = chances_to_win(n_rivals[selected], n_candidates or len(selected))
    return np.minimum(expected_wins(label.ranks[selected], chances) / support, 1 - lost)
