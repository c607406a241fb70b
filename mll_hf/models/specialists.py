"""Models made for the domain or the language of a task: which ones claim it, and what is published about them.

Names and cards nominate, they do not decide: a model is recommended only where published figures stand beside those of
general models, else it is named.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from mll_hf.models.domains import domains_of
from mll_hf.models.known import MANY_LANGUAGES, NOT_CHECKED, PICKLE_ONLY, known_models
from mll_hf.models.language import ENGLISH, language_of, languages
from mll_hf.models.published import ACCURACIES, PROBE, figures, figures_by_language
from mll_hf.utils.text import parameter_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mll_hf.matching.datasets import Recognized
    from mll_hf.models.known import KnownModel
    from mll_hf.models.published import Figure

RARE = 10
TRIAL_IMAGES = 64
_MIN_GAIN = 0.02
_LEAST = 0.01  # distance of a share from 0 and 1 in logits


@dataclass(frozen=True, slots=True)
class Nominee:
    """A model that claims a domain or the language of a task.

    Attributes:
        claim: The domain, or the code of the language.
        gain: How much better than the best general model it was on average over the published sets of the domain, in
            accuracy or whatever else they measured; None without figures.
        logit_gain: The same in logits.
        accuracy: Published accuracy on ImageNet's classes with names in the language; None without a figure. For a
            language without figures, the mean over the `RARE` languages with the fewest named classes.
        sets: Number of data sets behind the gain.
        accuracies: The accuracies among these figures, of one data set each.
        better: Whether the figures speak for it.
        excluded: Why it is not among the models to choose from; empty if it is.
    """

    model: KnownModel
    claim: str
    gain: float | None = None
    logit_gain: float | None = None
    accuracy: float | None = None
    sets: int = 0
    accuracies: tuple[float, ...] = ()
    better: bool = False
    excluded: str = ""

    @property
    def recommended(self) -> bool:
        """Whether the figures speak for it, and nothing must be done before it can be loaded."""
        return self.better and not self.obstacle

    @property
    def obstacle(self) -> str:
        """What must be done before it can be loaded; empty if nothing."""
        conditions = f"you must accept its conditions on https://huggingface.co/{self.model.hub_id}"
        return ", and ".join(filter(None, (conditions if self.model.gated else "", self.obstacle_with_access)))

    @property
    def obstacle_with_access(self) -> str:
        """The same for those who have accepted its conditions."""
        model, found = self.model, list[str]()
        if not model.hub_id:
            found.append("it is not on the Hub")
        elif model.backend == "other":
            found.append("it needs a library or code of its own")
        elif model.weights == PICKLE_ONLY:
            also = "" if model.loadable else ", and it needs a config"
            found.append(f"its pickle must be converted to safetensors{also}")
        elif not model.loadable:
            found.append("whether it loads without code of its own was not checked")
        if self.excluded:
            found.append(self.excluded)
        return ", and ".join(found)


def nominate(
    classes: Sequence[str],
    domain: str | None = None,
    task: str | None = None,
    language: str | None = None,
    dataset: Recognized | None = None,
) -> tuple[Nominee, ...]:
    """The models that claim a domain or the language of a task, recommended ones first, then by their gain.

    ``language`` is the code of that of the names, by default detected; ``dataset`` the known one with these classes.
    """
    language = language_of(classes) if language is None else language
    claims = domains_of(classes, domain, task, dataset)
    found = [nominee for claim in claims for nominee in _of_domain(claim)]
    found += _of_language(language) if language != ENGLISH else []
    return tuple(sorted(found, key=_order))


def with_limits(nominees: Sequence[Nominee], excluded: Mapping[str, str]) -> tuple[Nominee, ...]:
    """The nominees in their new order, if models with these ids are excluded, for the reason that each has."""
    marked = [replace(nominee, excluded=excluded.get(nominee.model.hub_id, "")) for nominee in nominees]
    return tuple(sorted(marked, key=_order))


def made_for(claim: str) -> str:
    """What a model that claims it is made for: a domain, or names in a language."""
    if any(claim in model.domains for model in known_models()):
        return claim
    language = {each.code: each.name for each in languages()}.get(claim)
    return f"{language} names" if language else "names in rare languages"


def nomination_notes(nominees: Sequence[Nominee]) -> tuple[str, ...]:
    """A line for each domain or language that is claimed: the first nominee, and a better one that needs more."""
    claims = dict.fromkeys(nominee.claim for nominee in nominees)
    return tuple(_note([nominee for nominee in nominees if nominee.claim == claim]) for claim in claims)


def _note(nominees: Sequence[Nominee]) -> str:
    first, n_others = nominees[0], len(nominees) - 1
    name = first.model.spec or first.model.name
    if first.model.parameters:
        name += f" ({parameter_count(first.model.parameters)} parameters)"
    if not first.model.domains:
        names = made_for(first.claim)
        language, is_known, _ = names.rpartition(" names")
        start = f"Class names are not English, but {language}" if is_known else "Class names are not English"
        return f"{start}: {name} has the best published accuracy with {names} of the models that load as they are."
    line = f"{first.claim.capitalize()}: {name} is made for this"
    if n_others:
        line += f", as {n_others} other{' is' if n_others == 1 else 's are'}"
    line += f"; {_better_by(first)}. " if first.gain is not None else "; it has no figures beside general models. "
    line += f"But {first.obstacle}." if first.obstacle else f"{TRIAL_IMAGES} of your images would tell which is better."
    best = max(nominees, key=lambda nominee: -1.0 if nominee.gain is None else nominee.gain)
    if best is not first and best.obstacle and (best.gain or 0.0) > (first.gain or 0.0):
        line += f" {best.model.name}: {_better_by(best)}, but {best.obstacle}."
    return line


def _better_by(nominee: Nominee) -> str:
    sets = f"{nominee.sets} published data sets" if nominee.sets > 1 else "one published data set"
    points = 100 * (nominee.gain or 0.0)
    text = f"on {sets} it was {abs(points):.0f} points {'better' if points >= 0 else 'worse'} than general models"
    if len(nominee.accuracies) > 1:
        text += f", with an accuracy of {100 * min(nominee.accuracies):.0f} to {100 * max(nominee.accuracies):.0f} %"
    return text


@cache
def _of_domain(domain: str) -> tuple[Nominee, ...]:
    """The models made for a domain; their gains are over the best general model of the same source."""
    special = {model.name for model in known_models() if model.domains}
    groups: dict[tuple[str, str, str], list[Figure]] = defaultdict(list)
    for figure in figures():
        if figure.domain == domain and figure.metric != PROBE:
            groups[figure.dataset, figure.metric, figure.source].append(figure)
    pairs: dict[str, list[tuple[Figure, float]]] = defaultdict(list)
    for group in groups.values():
        general = [figure.value for figure in group if figure.model not in special]
        for figure in group if general else ():
            pairs[figure.model].append((figure, max(general)))
    return tuple(_with_gain(model, domain, pairs[model.name]) for model in known_models() if domain in model.domains)


def _with_gain(model: KnownModel, domain: str, pairs: Sequence[tuple[Figure, float]]) -> Nominee:
    if not pairs:
        return Nominee(model, domain)
    sets = sum(figure.sets for figure, _ in pairs)
    gain = sum((figure.value - best) * figure.sets for figure, best in pairs) / sets
    in_logits = sum((_logit(figure.value) - _logit(best)) * figure.sets for figure, best in pairs) / sets
    better = sum(figure.sets for figure, best in pairs if figure.value > best)
    accuracies = tuple(f.value for f, _ in pairs if f.metric in ACCURACIES and f.sets == 1)
    is_better = gain >= _MIN_GAIN and 2 * better >= sets
    return Nominee(model, domain, gain, in_logits, sets=sets, accuracies=accuracies, better=is_better)


def _logit(share: float) -> float:
    inside = min(max(share, _LEAST), 1 - _LEAST)
    return math.log(inside / (1 - inside))


def _of_language(language: str) -> list[Nominee]:
    table = language_figures(language)
    claiming = [m for m in known_models() if language in m.languages or MANY_LANGUAGES in m.languages]
    found = [Nominee(model, language, accuracy=table.get(model.name)) for model in claiming]
    best = max((nominee.accuracy or 0.0 for nominee in found if not nominee.obstacle), default=0.0)
    return [replace(n, better=n.accuracy is not None and n.accuracy >= best - _MIN_GAIN) for n in found]


@cache
def language_figures(language: str) -> Mapping[str, float]:
    """Published accuracy by model with class names in a language; the mean of the `RARE` ones if there is none."""
    tables = figures_by_language()
    if language in tables:
        return tables[language]
    rare = [tables[each.code] for each in languages()[-RARE:]]
    return {name: sum(table[name] for table in rare) / len(rare) for name in rare[0]}


def _order(nominee: Nominee) -> tuple[bool, bool, float, int, str]:
    figure = next((value for value in (nominee.gain, nominee.accuracy) if value is not None), float("-inf"))
    checked = 2 if nominee.model.weights == NOT_CHECKED else int(nominee.model.spec != nominee.model.hub_id)
    return not nominee.recommended, bool(nominee.obstacle), -figure, checked, nominee.model.name
