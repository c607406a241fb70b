"""Selection as the paper has it (Tan et al., ICML 2025, arXiv 2501.18271, section 4.2), to the letter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mll_hf.labels import ModelLabel
    from mll_hf.selection.base import Candidates


def paper_scores(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """The reuse metric r of every model on every class.

    Eq. 5: ``p_{m,v} = (1/|X_v|) sum over x in X_v of 1[v = argmax over u in V_sel of S_m[x, u]]``
    Eq. 6: ``p_{m,y} = sum over v in V_sel of p_{m,v} z_{vy}``
    Eq. 7: ``r_{m,y} = alpha p_{m,y} + (1 - alpha) / C sum over y' of p_{m,y'}``

    Z is not normalised, so r can exceed 1.

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
    return np.stack([precision_from_rivals(label, selected) for label in candidates.labels])


def precision_from_rivals(label: ModelLabel, selected: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimate Eq. 5 from the rivals that a label keeps.

    An image of ``v`` is lost if any selected rival beats ``v`` on it. At least as many are lost as the strongest
    selected rival wins, and at most as many as in the contest of all concepts. If rivals won independently of one
    another, the share kept would be the product of ``1 - wins / n``; they do not, since a badly seen image is lost to
    many rivals at once. The estimate is the geometric mean of that product and of what the strongest rival leaves.
    """
    rivals, support = label.rivals[selected], label.support[selected].astype(np.float64)
    competes = np.zeros(65536, np.bool_)  # also answers for NO_RIVAL, which never competes
    competes[selected] = True
    kept = 1 - np.where(competes[rivals], label.rival_wins[selected], 0) / np.maximum(support, 1)[:, None]
    estimate = np.sqrt(kept.prod(axis=1) * kept.min(axis=1))
    precision: NDArray[np.float64] = np.maximum(estimate, label.node_precision[selected])
    return np.where(support > 0, precision, 0.0)
