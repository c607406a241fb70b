"""Models made for the domain or the language of a task, as candidates beside general ones.

From names alone such a model can be chosen only by published figures beside general models, or in the language. Others
are tried first in a trial, since anything is possible.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.models.known import ids_of, known_models
from mll_hf.models.language import ENGLISH
from mll_hf.models.specialists import language_figures
from mll_hf.selection.accuracy import MODEL_ERROR
from mll_hf.selection.estimate import Estimate

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mll_hf.models.specialists import Nominee
    from mll_hf.selection.candidates import Candidates
    from mll_hf.selection.estimate import Floats

# In logits, of a model without figures; on published sets specialists are -1.7 to 2.4 from the best general model
UNKNOWN_ERROR = 1.5


def add_nominees(candidates: Candidates, nominees: Sequence[Nominee]) -> Candidates:
    """The candidates with the nominees that load as they are, if models without a label are compared at all."""
    present = {model.repo_id for model in candidates.labels.models} | {model.hub_id for model in candidates.published}
    ready = {nominee.model.hub_id: nominee.model for nominee in nominees if not nominee.obstacle}
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
    errors = [UNKNOWN_ERROR if id in unknown else MODEL_ERROR if gains.get(id) else 0.0 for id in models]
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
