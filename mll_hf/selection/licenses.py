"""Choose only models with an allowed license.

Labels name the license of their model, which costs no request. The Hub is asked for those that a label does not name,
the most promising models first, and once for each chosen model, since a label is a claim.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from mll_hf.errors import HubError, InputError
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.selection.base import Evidence, NoneFitsError, Strategy
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mll_hf.selection.base import SelectionConfig
    from mll_hf.selection.result import Selection

_log = logging.getLogger(__name__)

MOST_ASKED = 200  # models that the Hub is asked about; it takes 500 requests in five minutes from strangers
_AHEAD = 4  # next best models that are asked about in the first round; twice as many in each later one


def choose_allowed(
    choose: Callable[[SelectionConfig], Selection],
    licenses_of: Callable[[Sequence[str]], Mapping[str, str | None]],
    claims: Mapping[str, str | None],
    config: SelectionConfig,
) -> Selection:
    """The choice as if there were only models with an allowed license; any choice if the configuration names none.

    A model that the Hub says has another license than its label is left out with a warning, and models are chosen
    again. If the Hub cannot be reached, the labels count and models without a known license are left out.

    Args:
        choose: Makes a selection by a configuration without licenses.
        licenses_of: Asks the Hub for the licenses of models by id, in lower case; None where unknown.
        claims: Licenses of all models as their labels name them; None for a model whose label names none.
        config: What to select, and the licenses that it allows. Models that are not chosen may have any.

    Raises:
        InputError: No model has an allowed license, or none of these is within the caps.
        HubError: The Hub cannot be reached, and no label names an allowed license.
    """
    if not config.licenses:
        return choose(config)
    allowed = {license.strip().lower() for license in config.licenses}
    known = {id: claim for id, claim in claims.items() if id.startswith(LOCAL_PREFIX)}  # the Hub has none of these
    if nameless := sorted(id for id, claim in known.items() if claim is None):
        _log.warning("left out, since their labels name no license: %s", abridged(nameless, 5))
    refused = {id for id, claim in claims.items() if claim not in allowed and (claim or id in known)}
    unreachable: HubError | None = None
    asked, ahead = 0, _AHEAD
    while True:
        attempt = replace(config, licenses=(), without=config.without | refused)
        try:
            selection = choose(attempt)
            deciding = [selection.models[m].ref.repo_id for m in selection.union]
            deciding += [id for id in _reference(choose, attempt) if claims[id] is None]
        except NoneFitsError:
            choose(replace(config, licenses=()))  # raises if the licenses are not at fault
            if unreachable:
                raise unreachable from None
            said = {**claims, **known}
            too_large = sum(license in allowed and id not in attempt.without for id, license in said.items())
            raise (_none_fits(too_large, config) if too_large else _none_allowed(said, config.licenses)) from None
        unknown = [id for id in dict.fromkeys(deciding) if id not in known]
        if not unknown:
            return selection
        if asked >= MOST_ASKED:
            _log.warning("only the %d best models were asked for their license; the rest is left out", asked)
            refused |= claims.keys() - known.keys()
            continue
        ids = [model.ref.repo_id for model in selection.models]
        following = [id for id in ids if claims[id] is None and id not in {*known, *unknown}]
        wanted = list(dict.fromkeys([*unknown, *following[:ahead]]))[: MOST_ASKED - asked]
        try:
            answers = licenses_of(wanted)
        except HubError as error:
            _log.warning("the licenses of the chosen models are as their labels say, not confirmed: %s", error)
            unreachable, answers = error, {**claims, **known}
        known |= answers
        if wrong := [id for id in wanted if claims[id] in allowed and known[id] not in allowed]:
            shown = [f"{id} ({known[id] or 'unknown'}, not {claims[id]})" for id in wrong]
            _log.warning("left out, since the Hub names another license than the label: %s", abridged(shown, 5))
        refused |= {id for id in answers if known[id] not in allowed}
        asked, ahead = asked + len(wanted), 2 * ahead


def _reference(choose: Callable[[SelectionConfig], Selection], config: SelectionConfig) -> list[str]:
    """The generally best labeled model, which strategy ``mll`` compares all others with."""
    if config.strategy is not Strategy.MLL:
        return []
    best = choose(replace(config, strategy=Strategy.GENERAL, k=1, max_models=None))
    return [next(model.ref.repo_id for model in best.models if model.evidence is not Evidence.OVERALL)]


def _none_fits(count: int, config: SelectionConfig) -> NoneFitsError:
    allowed = abridged(list(config.licenses), 5)
    return NoneFitsError(
        f"none of the {count} models with an allowed license ({allowed}) is within the caps; raise the caps, or allow "
        "more licenses"
    )


def _none_allowed(licenses: Mapping[str, str | None], allowed: Sequence[str]) -> InputError:
    found = Counter(license or "unknown" for license in licenses.values()).most_common()
    had = abridged([f"{license} ({count})" for license, count in found], 5)
    return InputError(
        f"no model has an allowed license ({abridged(list(allowed), 5)}): the models have {had}; allow one of these, "
        "or leave out the licenses"
    )
