"""Checks before work and commits: whose repos these are, who may read them, and whether they hold something else."""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

from huggingface_hub import whoami
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in its __all__

from mll_hf.errors import HubError, InputError
from mll_hf.hub.connection import TIMEOUT_SECONDS, connect, hub_errors, map_parallel, retried, status_of, unparsable
from mll_hf.hub.locations import HUB
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from huggingface_hub import HfApi

    from mll_hf.hub.connection import Head

_EMPTY_REPO = {".gitattributes", "README.md"}  # files of a repo that may be filled


class Access(StrEnum):
    """Who may read a dataset repo, from everyone to few."""

    PUBLIC = "public"
    GATED = "gated"  # everyone who asks for access and accepts the terms
    PRIVATE = "private"


def own_names(token: str | None = None) -> frozenset[str]:
    """Names of the logged-in user and of the organizations where the user may write, from the Hub.

    Raises:
        HubError: The user is not logged in or the token may only read, or the Hub cannot be reached.
    """
    log_in = "to publish labels you must be logged in with a token that can write; use: hf auth login"
    try:
        with hub_errors(HUB):
            me = whoami(token=connect(token).token, cache=True)  # the Hub limits these requests strictly
    except HubError as error:
        if error.status not in (401, 403):
            raise
        raise HubError(HUB, log_in, error.status) from error
    try:
        if ((me.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
            raise HubError(HUB, log_in, 403)
        organizations = [each for each in me.get("orgs") or () if each.get("roleInOrg") != "read"]
        return frozenset(str(each["name"]) for each in (me, *organizations))
    except (LookupError, TypeError, AttributeError) as error:
        raise unparsable(HUB, error) from error


def not_writable(names: Iterable[str], repo_type: str = "model") -> tuple[str, ...]:
    """The repos among ``org/name[@revision]`` where the user or the token may not write; ignores local folders.

    A repo that does not exist is writable in the user's own namespaces. One request per repo.

    Raises a HubError like `own_names`, or if a name is malformed.
    """
    repos = list(dict.fromkeys(name.partition("@")[0] for name in names if not name.startswith(LOCAL_PREFIX)))
    for repo_id in repos:
        with hub_errors(repo_id):
            validate_repo_id(repo_id)
    mine, api = own_names(), connect()

    def is_writable(repo_id: str) -> bool:
        try:
            retried(partial(api.auth_check, repo_id, repo_type=repo_type, write=True))
        except RepositoryNotFoundError as error:
            return not isinstance(error, GatedRepoError) and repo_id.rpartition("/")[0] in mine
        except HfHubHTTPError as error:
            if status_of(error) not in (401, 403):
                raise
            return False
        return True

    with hub_errors(HUB):
        return tuple(id for id, may in zip(repos, map_parallel(is_writable, repos), strict=True) if not may)


def hidden_models(repo_ids: Iterable[str]) -> tuple[str, ...]:
    """The models that not everyone can see: private, or gone. One request per model, without the user's token."""
    distinct, api = list(dict.fromkeys(repo_ids)), connect(False)

    def is_hidden(repo_id: str) -> bool:
        try:
            retried(partial(api.model_info, repo_id, expand=["sha"], timeout=TIMEOUT_SECONDS))
        except RepositoryNotFoundError:
            return True
        return False

    with hub_errors(HUB):
        return tuple(id for id, hidden in zip(distinct, map_parallel(is_hidden, distinct), strict=True) if hidden)


def access_of(api: HfApi, repo_id: str, repo_type: str) -> Access | None:
    """Who may read a repo; None if it does not exist."""
    with hub_errors(repo_id):
        try:
            info = retried(partial(api.repo_info, repo_id, repo_type=repo_type))
        except RepositoryNotFoundError:
            return None
    return Access.PRIVATE if info.private else Access.GATED if info.gated else Access.PUBLIC


def ensure_repo(api: HfApi, repo_id: str, repo_type: str, access: Access) -> Access:
    """Create a repo with this access, unless it exists; returns who may read it.

    Raises:
        InputError: It exists, and more people may read it.
    """
    if (found := access_of(api, repo_id, repo_type)) is None:
        with hub_errors(repo_id):
            is_private = access is not Access.PUBLIC
            api.create_repo(repo_id, repo_type=repo_type, private=is_private, exist_ok=True)
            if access is Access.GATED:  # made public only after it is gated, and still empty
                api.update_repo_settings(repo_id, gated="auto", private=False, repo_type=repo_type)
        return access
    order = list(Access)
    if order.index(found) < order.index(access):
        raise InputError(f"{repo_id} exists already and is {found}; change that in its settings, or name another repo")
    return found


def check_contents(head: Head, name: str, patterns: Sequence[str] = ()) -> None:
    """Refuse a repo with files that do not match the patterns."""
    files = head.files.keys() - _EMPTY_REPO
    if others := sorted(path for path in files if not any(fnmatchcase(path, pattern) for pattern in patterns)):
        raise InputError(
            f"{name} is a {head.repo_type} of another kind ({abridged(others, 3)}); name a new one, or an empty one"
        )
