"""Choose only models whose license is allowed: labels carry none, so the Hub is asked, about as few as it takes."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from mll_hf.errors import InputError
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.selection.base import NoneFitsError, Strategy
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from mll_hf.selection.base import SelectionConfig
    from mll_hf.selection.result import Selection

_log = logging.getLogger(__name__)

MOST_ASKED = 200  # models whose license is asked for; the Hub takes 500 requests in five minutes from strangers
_AHEAD = 4  # next best models that are asked for in the first round; twice as many in each later one


def choose_allowed(
    choose: Callable[[SelectionConfig], Selection],
    licenses_of: Callable[[Sequence[str]], Mapping[str, str | None]],
    everyone: Collection[str],
    config: SelectionConfig,
) -> Selection:
    """The choice as if there were no models but those with an allowed license.

    Models are chosen; the licenses of these and of the next best are asked for, several at once; those that are not
    allowed are left out, and models are chosen again, until all that decide are allowed. After 200 models the rest is
    left out, with a warning.

    Args:
        choose: Makes a selection by a configuration without licenses.
        licenses_of: Licenses by ids, in lower case; None where unknown, which is not allowed.
        everyone: Ids of all models that there are.
        config: What to select, and the licenses that it allows.

    Returns:
        The selection. Of its models those that are not chosen may have any license.

    Raises:
        InputError: No model has a license that is allowed.
    """
    allowed = {license.strip().lower() for license in config.licenses}
    known: dict[str, str | None] = {}
    refused = {id for id in everyone if id.startswith(LOCAL_PREFIX)}
    if refused and refused != set(everyone):  # else that is the error
        _log.warning("left out, for the Hub knows no license of local folders: %s", abridged(sorted(refused), 5))
    ahead = _AHEAD
    while True:
        attempt = replace(config, licenses=(), without=config.without | refused)
        try:
            selection = choose(attempt)
            deciding = [*(selection.models[m].ref.repo_id for m in selection.union), *_reference(choose, attempt)]
        except NoneFitsError:
            if not known:
                choose(replace(config, licenses=()))  # raises if the licenses are not at fault
            raise _none_allowed(known, config.licenses) from None
        unknown = [id for id in dict.fromkeys(deciding) if id not in known]
        if not unknown:
            return selection
        if len(known) >= MOST_ASKED:
            _log.warning("only the %d best models were asked for their license; the rest is left out", len(known))
            refused |= set(everyone) - known.keys()
            continue
        following = [model.ref.repo_id for model in selection.models if model.ref.repo_id not in {*known, *unknown}]
        asked = [*unknown, *dict.fromkeys(following[:ahead])][: MOST_ASKED - len(known)]
        known |= licenses_of(asked)
        refused |= {id for id in asked if known[id] not in allowed}
        ahead *= 2


def _reference(choose: Callable[[SelectionConfig], Selection], config: SelectionConfig) -> list[str]:
    """The generally best model, which strategy ``mll`` compares all others with."""
    if config.strategy is not Strategy.MLL:
        return []
    best = choose(replace(config, strategy=Strategy.GENERAL, k=1, max_models=None, unlabeled=False))
    return [best.models[0].ref.repo_id]


def _none_allowed(known: Mapping[str, str | None], licenses: Sequence[str]) -> InputError:
    wanted = abridged(list(licenses), 5)
    if not known:
        return InputError(
            f"no model has an allowed license ({wanted}): what is left is local folders; leave out the licenses"
        )
    found = Counter(license or "unknown" for license in known.values()).most_common()
    had = abridged([f"{license} ({count})" for license, count in found], 5)
    return InputError(
        f"no model has an allowed license ({wanted}): the {len(known)} best have {had}; allow one of these, or leave "
        "out the licenses"
    )
