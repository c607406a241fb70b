"""Selection as the paper has it (Tan et al., ICML 2025, arXiv 2501.18271, section 4.2), to the letter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.labels.counts import NO_RIVAL
from mll_hf.labels.label import ModelLabel, rival_counts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.selection.base import Candidates


def paper_scores(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """The reuse metric r of every model on every class.

    Eq. 5: ``p_{m,v} = (1/|X_v|) sum over x in X_v of 1[v = argmax over u in V_sel of S_m[x, u]]``
    Eq. 6: ``p_{m,y} = sum over v in V_sel of p_{m,v} z_{vy}``
    Eq. 7: ``r_{m,y} = alpha p_{m,y} + (1 - alpha) / C sum over y' of p_{m,y'}``

    Z is not normalized, so r can exceed 1.

    Args:
        candidates: M models; the match gives V_sel and Z.
        class_weight: The paper's alpha; it uses 0.7.

    Returns:
        [M, C] float64.
    """
    class_precision = restricted_precision(candidates) @ candidates.match.transition.astype(np.float64)
    return class_weight * class_precision + (1 - class_weight) * class_precision.mean(axis=1, keepdims=True)


def restricted_precision(candidates: Candidates) -> NDArray[np.float64]:
    """Eq. 5: [M, K] precision of every model on the K selected concepts when only they compete.

    Exact if the probe embeddings of all models are at hand, otherwise estimated from the rivals of all labels. Never
    a mixture: ancestors and descendants compete in Eq. 5 and are no rivals in a label, so the two do not compare.
    """
    selected = candidates.match.selected
    if candidates.embeddings:
        return np.stack([embeddings.restricted_precision(selected) for embeddings in candidates.embeddings])
    whole = [label for label in candidates.labels if isinstance(label, ModelLabel)]
    if len(whole) < len(candidates.labels):
        raise InputError("strategy 'paper' needs whole labels, not summaries; fetch them from their source")
    n_rivals = rival_counts(candidates.graph, whole[0].part_numbers)
    return np.stack([precision_from_label(label, selected, n_rivals) for label in whole])


def precision_from_label(
    label: ModelLabel, selected: NDArray[np.int64], n_rivals: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Estimate Eq. 5 from what a label keeps of the contest of all concepts.

    Two facts bound the precision among the selected concepts from above: the images that the strongest selected rival
    wins are lost, and so is what would be lost on average if the selected concepts were any others of their number
    (:meth:`~mll_hf.labels.label.LabelSummary.precision_among`). The estimate is the smaller of the two.
    """
    rivals, support = label.rivals[selected], np.maximum(label.support[selected], 1)
    competes = np.zeros(NO_RIVAL + 1, np.bool_)  # an empty slot never competes
    competes[selected] = True
    lost = (label.rival_wins[selected] * competes[rivals]).max(axis=1) / support
    expected = label.precision_among(len(selected), selected, n_rivals)
    precision: NDArray[np.float64] = np.minimum(expected, 1 - lost)
    return precision
