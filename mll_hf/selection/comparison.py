"""Compare models with and without a label, and estimate their accuracy.

The accuracy of the model with the highest mean recall is estimated from its ImageNet accuracy and the class names, see
:mod:`~mll_hf.selection.accuracy`. The other models differ from it by the difference of their scores, in logits. Recall
on probe images itself is a biased estimate: on published datasets it is 17 points too high.

ImageNet accuracy also links them: a shift of the logits converts the scores of labeled models to ImageNet accuracy, and
published accuracies to the scale of the scores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.matching.concept_index import COVERED
from mll_hf.matching.lint import finds_faults
from mll_hf.matching.prompts import mentions
from mll_hf.matching.text_encoder import DEFAULT_MODEL
from mll_hf.models.known import ids_of, imagenet_accuracies, known_models
from mll_hf.models.language import ENGLISH
from mll_hf.models.specialists import language_figures
from mll_hf.selection.accuracy import (
    MIN_ACCURACY,
    OTHER_STYLES,
    estimate_accuracy,
    have_meaning,
    near_classes,
    task_traits,
)
from mll_hf.selection.estimate import Estimate
from mll_hf.selection.mll import best_by_mean_recall, mean_recall_among
from mll_hf.selection.probabilities import logit, sigmoid

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from mll_hf.labels.join import JoinedLabels
    from mll_hf.models.specialists import Nominee
    from mll_hf.selection.candidates import Candidates

    Floats = NDArray[np.float64]

IMAGENET_CLASSES = 1000
# In logits, of a model without figures; on published sets specialists are -1.7 to 2.4 from the best general model
UNKNOWN_ERROR = 1.5
GAIN_ERROR = 0.6  # of a model with a published gain over general ones
_MIN = 1e-6  # scores are clipped to this distance from 0 and 1 before taking logits


def estimate_from_names(
    candidates: Candidates, overall: Floats, shift: float, claims: Collection[str] = (), language: str = ENGLISH
) -> Estimate:
    """The estimate for M models from class names, with the models' labels or published figures.

    Args:
        candidates: Gives the classes and the domain.
        overall: [M] mean scores over the classes, between 0 and 1, on a common scale.
        shift: Shift from this scale to ImageNet accuracy, see :func:`imagenet_shift`.
        claims: Domains of specialists that the classes touch, such as ``remote sensing``.
        language: Code of the language of the class names.
    """
    match, domain = candidates.match, ", ".join([candidates.domain or "", *claims])
    fitted = match.encoder.startswith(DEFAULT_MODEL)  # to the cosines of this encoder, which reads English
    meant = are_meant(match.classes, match.coverage) if fitted else match.coverage >= COVERED
    names = match.names if fitted and language == ENGLISH else None
    traits = task_traits(len(match.classes), names, domain, meant)
    traits = replace(traits, near=near_classes(match.classes, domain))
    is_fault_task = not claims and finds_faults(match.classes)  # of data sets published for no domain, none has such
    with_meaning = 0.0 if is_fault_task or _rests_on_drawings(candidates.labels) else float(meant.mean())
    return estimate_accuracy(sigmoid(logit(overall, _MIN) + shift), traits, with_meaning)


def are_meant(classes: Sequence[str], coverage: NDArray[np.floating]) -> NDArray[np.bool_]:
    """[C] whether it is known what a class is, by its name, or by a description that a concept matches."""
    return have_meaning(classes) | (coverage >= COVERED)


def _rests_on_drawings(labels: JoinedLabels) -> bool:
    """Whether recall stands in for ImageNet accuracy, but no probe image is a photo (the emoji in this package)."""
    domains = labels.domains_of(0) if len(labels) else ()
    is_drawn = bool(domains) and all(mentions(domain, OTHER_STYLES) for domain in domains)
    return is_drawn and not comparable_to_published(labels)


def imagenet_shift(labels: JoinedLabels, scores: Floats) -> float:
    """Shift of the logits from mean scores to ImageNet accuracy; exact for the model with the highest mean recall.

    Args:
        labels: Labels of M models.
        scores: [M, C] scores of the models.
    """
    best = best_by_mean_recall(labels.reference)
    return float(logit(np.array(imagenet_accuracy(labels, best)), MIN_ACCURACY) - logit(scores[best].mean(), _MIN))


def on_scores(accuracies: Floats, shift: float | None) -> Floats:
    """ImageNet accuracies on the scale of the labeled models' scores; ``shift`` is None if there are none."""
    return accuracies if shift is None else sigmoid(logit(accuracies, MIN_ACCURACY) - shift)


def imagenet_accuracy(labels: JoinedLabels, m: int) -> float:
    """ImageNet accuracy of a model, 0 to 1: as published, or else estimated from its recall among 1,000 candidates.

    This recall is corrected by its mean difference, in logits, to the published accuracies of other models.
    """
    published = imagenet_accuracies()
    found = {row: published[model.repo_id] for row, model in enumerate(labels.models) if model.repo_id in published}
    if m in found:
        return found[m]
    recall = _recall_among_classes_of_imagenet(labels)
    if not found:
        return float(recall[m])
    accuracies = np.array(list(found.values()))
    correction = np.mean(logit(accuracies, MIN_ACCURACY) - logit(recall[list(found)], MIN_ACCURACY))
    return float(sigmoid(logit(recall[m], MIN_ACCURACY) + correction))


def _recall_among_classes_of_imagenet(labels: JoinedLabels) -> Floats:
    """[M] mean recall among 1,000 candidates.

    On a graph with fewer rivals R, its slope in the logarithm of the number of candidates is continued beyond R + 1.
    """
    n_rivals = labels.union.graphs[0].rival_counts
    most = 1 + (round(float(n_rivals[n_rivals > 0].mean())) if n_rivals.any() else 0)
    recall = mean_recall_among(labels, 0, IMAGENET_CLASSES)
    if most >= IMAGENET_CLASSES:
        return recall
    mirrored = mean_recall_among(labels, 0, max(round(most**2 / IMAGENET_CLASSES), 1))
    return recall * mean_recall_among(labels, 0, most) / np.maximum(mirrored, _MIN)


def comparable_to_published(labels: JoinedLabels) -> bool:
    """Whether the models can be compared with those without a label: one of them has a published ImageNet accuracy."""
    published = imagenet_accuracies()
    return any(model.repo_id in published for model in labels.models)


# --- models made for the domain or the language of a task, beside general ones ---
#
# From names alone such a model can be chosen only by published figures beside general models, or in the language.
# Others are tried first in a trial, since anything is possible.


def add_nominees(candidates: Candidates, nominees: Sequence[Nominee], for_trial: bool) -> Candidates:
    """The candidates with the nominees that load as they are, if models without a label are compared at all.

    For a trial also gated ones, to which the user may have access.
    """
    present = {model.repo_id for model in candidates.labels.models} | {model.hub_id for model in candidates.published}
    ready = {n.model.hub_id: n.model for n in nominees if not (n.obstacle_with_access if for_trial else n.obstacle)}
    added = tuple(model for id, model in ready.items() if present.isdisjoint(ids_of(id)))
    return replace(candidates, published=(*candidates.published, *added)) if candidates.published else candidates


def accuracies_in(language: str, models: Sequence[str]) -> Floats:
    """[M] published accuracies on ImageNet with names in a language; of others the lowest one of all models."""
    table = language_figures(language)
    found = dict.fromkeys(models, min(table.values()))
    for model in known_models():
        for id in {model.hub_id, model.twin} & found.keys():
            found[id] = max(found[id], table.get(model.name, 0.0))
    return np.array([found[id] for id in models])


def published_gains(nominees: Sequence[Nominee], language: str) -> dict[str, float | None]:
    """Gains in logits, by id, of the nominees that figures compare with others; None for those of a language.

    Figures of domains are for English names.
    """
    gains: dict[str, float | None] = {}
    for nominee in nominees:
        if nominee.accuracy is not None:
            gains[nominee.model.hub_id] = None
        elif nominee.logit_gain is not None and language == ENGLISH:
            gains.setdefault(nominee.model.hub_id, nominee.logit_gain)
    return gains


def with_nominees(
    estimate: Estimate, models: Sequence[str], gains: Mapping[str, float | None], unknown: Collection[str]
) -> Estimate:
    """The estimate of M models, given by their ids, after what is published about those made for the task.

    Args:
        estimate: As if all were general models.
        models: [M] ids on the Hub.
        gains: See :func:`published_gains`.
        unknown: Ids of models made for the task that have no such figures; they can be anything.
    """
    errors = [UNKNOWN_ERROR if id in unknown else GAIN_ERROR if gains.get(id) else 0.0 for id in models]
    mean = estimate.mean + np.array([gains.get(id) or 0.0 for id in models])
    return Estimate(mean, estimate.covariance + np.diag(np.square(errors)), estimate.basis)


def shortlist_first(models: Sequence[str], nominees: Sequence[Nominee], n: int, language: str) -> list[int]:
    """Positions of at most ``n`` models to try: up to half of them nominees, then in the order of the M models.

    For names that are not English only nominees, if there are two.
    """
    place = {id: m for m, id in enumerate(models)}
    first = [place[nominee.model.hub_id] for nominee in nominees if nominee.model.hub_id in place]
    if language != ENGLISH and len(set(first)) > 1:
        return list(dict.fromkeys(first))[:n]
    return list(dict.fromkeys([*first[: max(n // 2, 1)], *range(len(models))]))[:n]
