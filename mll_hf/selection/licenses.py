"""Choose only models with an allowed license.

Most labels name the license of their model. The Hub is asked for missing ones, best models first, and to confirm the
license of each chosen model, since a label is a claim.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from mll_hf.errors import HubError, InputError
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.selection.base import Evidence, NoModelFitsError, Strategy
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mll_hf.selection.base import SelectionConfig
    from mll_hf.selection.result import Selection

_log = logging.getLogger(__name__)

MAX_ASKED = 200  # requests to the Hub, which allows 500 in five minutes without a token
_AHEAD = 4  # further models to ask about in the first round; doubled in each later round


def choose_allowed(
    choose: Callable[[SelectionConfig], Selection],
    licenses_of: Callable[[Sequence[str]], Mapping[str, str | None]],
    claims: Mapping[str, str | None],
    config: SelectionConfig,
) -> Selection:
    """Choose among models with an allowed license; among all models if the configuration names no licenses.

    If the Hub reports another license than the label, and it is not allowed, the model is left out with a warning and
    the choice is repeated. If the Hub cannot be reached, the labels are trusted and models with an unknown license are
    left out.

    Args:
        choose: Makes a selection for a configuration without licenses.
        licenses_of: Returns the licenses of models on the Hub by id, in lower case; None where unknown.
        claims: Licenses of all models according to their labels; None where missing.
        config: The configuration with the allowed licenses. Models that are not chosen may have any license.

    Raises:
        InputError: No model has an allowed license, or none of those that do is within the limits.
        HubError: The Hub cannot be reached, and no label names an allowed license.
    """
    if not config.licenses:
        return choose(config)
    allowed = {license.strip().lower() for license in config.licenses}
    known = {id: claim for id, claim in claims.items() if id.startswith(LOCAL_PREFIX)}  # not on the Hub
    if unlicensed := sorted(id for id, claim in known.items() if claim is None):
        _log.warning("left out because their labels name no license: %s", abridged(unlicensed, 5))
    refused = {id for id, claim in claims.items() if claim not in allowed and (claim or id in known)}
    unreachable: HubError | None = None
    asked, ahead = 0, _AHEAD
    while True:
        attempt = replace(config, licenses=(), without=config.without | refused)
        try:
            selection = choose(attempt)
            deciding = [selection.models[m].ref.repo_id for m in selection.union]
            deciding += [id for id in _reference(choose, attempt) if claims[id] is None]
        except NoModelFitsError:
            choose(replace(config, licenses=()))  # raises if no model fits even without licenses
            if unreachable:
                raise unreachable from None
            licenses = {**claims, **known}
            too_large = sum(license in allowed and id not in attempt.without for id, license in licenses.items())
            raise (_none_fits(too_large, config) if too_large else _none_allowed(licenses, config.licenses)) from None
        unknown = [id for id in dict.fromkeys(deciding) if id not in known]
        if not unknown:
            return selection
        if asked >= MAX_ASKED:
            _log.warning("licenses were requested for the best %d models only; the others are left out", asked)
            refused |= claims.keys() - known.keys()
            continue
        ids = [model.ref.repo_id for model in selection.models]
        following = [id for id in ids if claims[id] is None and id not in {*known, *unknown}]
        wanted = list(dict.fromkeys([*unknown, *following[:ahead]]))[: MAX_ASKED - asked]
        try:
            answers = licenses_of(wanted)
        except HubError as error:
            _log.warning("the licenses of the chosen models are from their labels and not confirmed: %s", error)
            unreachable, answers = error, {**claims, **known}
        known |= answers
        if wrong := [id for id in wanted if claims[id] in allowed and known[id] not in allowed]:
            named = [f"{id} ({known[id] or 'unknown'}, not {claims[id]})" for id in wrong]
            _log.warning("left out because the Hub reports another license than the label: %s", abridged(named, 5))
        refused |= {id for id in answers if known[id] not in allowed}
        asked, ahead = asked + len(wanted), 2 * ahead


def _reference(choose: Callable[[SelectionConfig], Selection], config: SelectionConfig) -> list[str]:
    """The labeled model with the highest mean recall, to which strategy ``mll`` compares all others."""
    if config.strategy is not Strategy.MLL:
        return []
    best = choose(replace(config, strategy=Strategy.GENERAL, k=1, max_models=None))
    return [next(model.ref.repo_id for model in best.models if model.evidence is not Evidence.OVERALL)]


def _none_fits(count: int, config: SelectionConfig) -> NoModelFitsError:
    allowed = abridged(list(config.licenses), 5)
    return NoModelFitsError(
        f"none of the {count} models with an allowed license ({allowed}) is within the limits; raise the limits, or "
        "allow more licenses"
    )


def _none_allowed(licenses: Mapping[str, str | None], allowed: Sequence[str]) -> InputError:
    found = Counter(license or "unknown" for license in licenses.values()).most_common()
    actual = abridged([f"{license} ({count})" for license, count in found], 5)
    return InputError(
        f"no model has an allowed license ({abridged(list(allowed), 5)}): the models have {actual}; allow one of "
        "these, or leave out the licenses"
    )
