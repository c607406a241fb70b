"""Class names of image datasets on the Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mll_hf.errors import InputError
from mll_hf.hub.connection import TIMEOUT_SECONDS, connect, hub_errors
from mll_hf.hub.locations import parse_dataset
from mll_hf.matching.prompts import check_class_names, names_by_number
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Mapping


def fetch_class_names(location: str, token: str | bool | None = None) -> tuple[str, ...]:
    """Class names of an image dataset on the Hub, from its card: one request, without images.

    Args:
        location: ``hf://datasets/ORG/NAME[@REVISION]``.
        token: Hub token; None for the saved one, False for none.

    Raises:
        InputError: The location is malformed, or the card has class names of no column or of several.
        HubError: The Hub has no such dataset or cannot be reached.
    """
    named = parse_dataset(location)
    with hub_errors(named.repo_id):
        info = connect(token).dataset_info(named.repo_id, revision=named.revision, timeout=TIMEOUT_SECONDS)
    described = info.card_data.get("dataset_info") if info.card_data else None
    return only_classes(_names_on_card(described), named.repo_id)[1]


def only_classes(names: Mapping[str, list[str]], repo_id: str) -> tuple[str, tuple[str, ...]]:
    """The only column of classes, and the class names."""
    if len(names) != 1:
        raise InputError(
            f"{repo_id} has these columns of named classes: {abridged(list(names), 8) or 'none'}; choose a dataset "
            "that has exactly one"
        )
    return next((name, check_class_names(classes)) for name, classes in names.items())


def _names_on_card(info: Any) -> dict[str, list[str]]:  # noqa: ANN401 - anything that YAML can be
    """Class names by column, from the ``dataset_info`` of a card, of its first or only configuration."""
    info = info[0] if isinstance(info, list) and info else info
    features = info.get("features") if isinstance(info, dict) else None
    found = {}
    for feature in features if isinstance(features, list) else ():
        match feature:
            case {"name": str(column), "dtype": {"class_label": {"names": list(names) | dict(names)}}}:
                if listed := names_by_number(names) if isinstance(names, dict) else names:
                    found[column] = [str(name) for name in listed]
    return found
