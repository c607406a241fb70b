"""Our selection. It departs from the paper where the paper's estimate is noisy or does not compare.

1. Concepts with few probe images are shrunk towards their hypernyms, and those towards the model's general level.
2. Where the label knows the task's domain (photo, sketch, icon ...), images of that domain count more.
3. Weights over concepts are normalised per class, so that classes compare.
4. Where the graph has nothing like a class, the model's general level stands in for it.
5. One set of models answers for all classes, since probabilities of different models do not compare class by class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.prompts import mentions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.graph import SemanticGraph
    from mll_hf.labels import ModelLabel
    from mll_hf.selection.base import Candidates

_PRIOR_IMAGES = 10.0  # a concept's hypernyms weigh as much as this many images of its own


def mll_scores(candidates: Candidates, class_weight: float) -> NDArray[np.float64]:
    """Estimated precision of every model on every class.

    Args:
        candidates: M models and C classes.
        class_weight: Weight of a class's own estimate against the mean over classes.

    Returns:
        [M, C] float64 from 0 to 1.
    """
    match = candidates.match
    node_precision = shrunk_precision(candidates.labels, candidates.graph, match.selected, candidates.domain)
    transition = match.transition.astype(np.float64)
    class_precision = node_precision @ (transition / transition.sum(axis=0))
    mixed = class_weight * class_precision + (1 - class_weight) * class_precision.mean(axis=1, keepdims=True)
    general = np.array([label.mean_precision for label in candidates.labels])[:, None]
    return match.coverage * mixed + (1 - match.coverage) * general


def shrunk_precision(
    labels: Sequence[ModelLabel], graph: SemanticGraph, selected: NDArray[np.int64], domain: str | None
) -> NDArray[np.float64]:
    """Node precision with a prior from the hypernyms.

    ``p_v = (hits_v + n0 * prior_v) / (support_v + n0)`` with ``n0`` = 10 images, where ``prior_v`` is the mean of
    ``p`` over the direct hypernyms of ``v``; above the roots stands the model's mean over the graph. If the labels
    split their counts by the task's domain, the same step is taken once more with the domain's counts, starting from
    ``p_v``.

    Args:
        labels: M labels.
        graph: Their graph.
        selected: [K] concepts wanted.
        domain: The task's domain, or None.

    Returns:
        [M, K] float64.
    """
    needed = _with_ancestors(graph, selected)
    row = {v: position for position, v in enumerate(needed)}
    hits = np.stack([label.hits[needed] for label in labels], axis=1)
    support = np.stack([label.support[needed] for label in labels], axis=1)
    general = np.array([label.mean_precision for label in labels])
    precision = np.zeros(hits.shape)  # a row per concept: contiguous, since concepts are visited one by one
    for position, v in enumerate(needed.tolist()):  # hypernyms first
        parents = [precision[row[parent]] for parent in graph.parents[v]]
        prior = sum(parents[1:], parents[0]) / len(parents) if parents else general
        precision[position] = _shrink(hits[position], support[position], prior)
    wanted = precision[[row[v] for v in selected.tolist()]].T
    for m, label in enumerate(labels):
        if (s := _domain_index(label, domain)) is not None:
            wanted[m] = _shrink(label.domain_hits[s, selected], label.domain_support[s, selected], wanted[m])
    return wanted


def _shrink(hits: NDArray[Any], support: NDArray[Any], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    return (hits + _PRIOR_IMAGES * prior) / (support + _PRIOR_IMAGES)


def _with_ancestors(graph: SemanticGraph, selected: NDArray[np.int64]) -> NDArray[np.int64]:
    """The concepts and all above them, every hypernym before its hyponyms."""
    wanted = set(selected.tolist()).union(*(graph.ancestors[v].tolist() for v in selected))
    return np.array([v for v in graph.topological_order if v in wanted])


def _domain_index(label: ModelLabel, domain: str | None) -> int | None:
    """Which of the label's domains the task's domain names, if it names exactly one."""
    named = [s for s, name in enumerate(label.domain_names) if mentions(domain or "", [name.lower()])]
    return named[0] if len(named) == 1 else None
