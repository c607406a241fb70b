"""Facts asked before work and commits: whose repos these are, who may read them, their contents and licenses."""

from __future__ import annotations

import re
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from huggingface_hub import whoami
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in its __all__

from mll_hf.errors import HubError, InputError
from mll_hf.hub.connection import TIMEOUT_SECONDS, connect, hub_errors, map_parallel, retried, status_of, unparsable
from mll_hf.hub.locations import HUB, REPO_ID
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.utils.text import abridged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from huggingface_hub import HfApi

    from mll_hf.hub.connection import Head

T = TypeVar("T")

_INACCESSIBLE = (403, 410, 451)  # gated or disabled; deleted; taken down
_LICENSE = re.compile(r"license:([a-z0-9][a-z0-9.+_-]{0,63})")
_EMPTY_REPO = {".gitattributes", "README.md"}  # files of a repo that may be filled


class Access(StrEnum):
    """Who may read a dataset repo, from everyone to few."""

    PUBLIC = "public"
    GATED = "gated"  # everyone who asks for access and accepts the terms
    PRIVATE = "private"


def own_names(token: str | None = None) -> frozenset[str]:
    """Names of the user and the user's organizations; a HubError if the user is not logged in or may only read."""
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

    A HubError like `own_names`, or if a name is malformed.
    """
    repos = [name.partition("@")[0] for name in names if not name.startswith(LOCAL_PREFIX)]
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
        return tuple(repo_id for repo_id, may in _of_each(is_writable, repos).items() if not may)


def hidden_models(repo_ids: Iterable[str]) -> tuple[str, ...]:
    """The models that not everyone can see: private, or gone. One request per model, without the user's token."""
    api = connect(False)

    def is_hidden(repo_id: str) -> bool:
        try:
            retried(partial(api.model_info, repo_id, expand=["sha"], timeout=TIMEOUT_SECONDS))
        except RepositoryNotFoundError:
            return True
        return False

    with hub_errors(HUB):
        return tuple(repo_id for repo_id, hidden in _of_each(is_hidden, repo_ids).items() if hidden)


def _of_each(ask: Callable[[str], T], repo_ids: Iterable[str]) -> dict[str, T]:
    distinct = list(dict.fromkeys(repo_ids))
    return dict(zip(distinct, map_parallel(ask, distinct), strict=True))


def licenses_of(repo_ids: Sequence[str], token: str | bool | None = None) -> dict[str, str | None]:
    """Current licenses of models by id, such as ``apache-2.0``, in lower case: one request each, no download.

    None if unknown: the model is deleted, private or disabled, its card has no license or several, or the id is not
    ``org/name`` (such as a local folder, for which no request is sent).
    """
    return _of_each(partial(_license_of, connect(token)), repo_ids)


def _license_of(api: HfApi, repo_id: str) -> str | None:
    if not REPO_ID.fullmatch(repo_id):
        return None
    with hub_errors(repo_id, lambda reason: HubError(repo_id, f"cannot find its license: {reason}")):
        try:
            info = retried(partial(api.model_info, repo_id, expand=["tags"], timeout=TIMEOUT_SECONDS))
        except (RepositoryNotFoundError, HFValidationError):
            return None
        except HfHubHTTPError as error:
            if status_of(error) in _INACCESSIBLE:
                return None
            raise
    tags = [tag.lower() for tag in info.tags or () if isinstance(tag, str) and tag.startswith("license:")]
    found = _LICENSE.fullmatch(tags[0]) if len(set(tags)) == 1 else None
    return found[1] if found else None


def access_of(api: HfApi, repo_id: str, repo_type: str) -> Access | None:
    """Who may read a repo; None if it does not exist."""
    with hub_errors(repo_id):
        try:
            info = retried(partial(api.repo_info, repo_id, repo_type=repo_type))
        except RepositoryNotFoundError:
            return None
    return Access.PRIVATE if info.private else Access.GATED if info.gated else Access.PUBLIC


def ensure_repo(api: HfApi, repo_id: str, repo_type: str, access: Access) -> Access:
    """Create a repo with this access, unless it exists; an InputError if more people may read it."""
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
