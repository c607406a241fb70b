"""Whose repos are these: checked before hours of work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in its __all__

from mll_hf.errors import HubError
from mll_hf.hub.connection import connect, hub_errors, names_of_user
from mll_hf.hub.locations import HUB
from mll_hf.labels.label import LOCAL_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable


def own_names() -> frozenset[str]:
    """Names of the logged-in user and of the user's organizations, from the Hub.

    Raises:
        HubError: The user is not logged in, or the Hub cannot be reached.
    """
    try:
        with hub_errors(HUB):
            return frozenset(names_of_user(connect()))
    except HubError as error:
        if error.status not in (401, 403):
            raise
        raise HubError(HUB, "to publish labels you must be logged in; use: hf auth login", error.status) from error


def repos_of_others(names: Iterable[str]) -> tuple[str, ...]:
    """The repos among ``org/name[@revision]`` that do not belong to the logged-in user; ignores local folders.

    Raises a HubError like `own_names`, or if a name is malformed.
    """
    repos = dict.fromkeys(name.partition("@")[0] for name in names if not name.startswith(LOCAL_PREFIX))
    for repo_id in repos:
        with hub_errors(repo_id):
            validate_repo_id(repo_id)
    mine = own_names()
    return tuple(repo_id for repo_id in repos if repo_id.rpartition("/")[0] not in mine)
