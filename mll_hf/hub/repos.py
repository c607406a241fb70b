"""Repos on the Hub: who may read and write them, the licenses of models, and commits.

A publication is one commit on the head that it was prepared for, so an interruption leaves the repo as it was. If
another commit came first, the change is prepared again on the new head. Publishing the same content twice changes
nothing. A pull request is opened only on request.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, whoami
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from mll_hf.errors import CardError, HubError, InputError
from mll_hf.hub.connection import (
    TIMEOUT_SECONDS,
    Head,
    connect,
    download_listed,
    hub_errors,
    map_parallel,
    read_head,
    retried,
    status_of,
)
from mll_hf.hub.locations import HUB, REPO_ID
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from huggingface_hub import HfApi, ModelInfo

README = "README.md"
Content: TypeAlias = bytes | Path | Callable[[str], str] | None  # also an edit of the text; None deletes the file
_MAX_EDITED_BYTES = 2**20
_INACCESSIBLE = (403, 410, 451)  # gated or disabled; deleted; taken down
_LICENSE = re.compile(r"license:([a-z0-9][a-z0-9.+_-]{0,63})")
_EMPTY_REPO = {".gitattributes", README}  # files of a repo that may be filled
_CONFLICTS = (409, 412)  # another commit is in progress, or came first
_MAX_CONFLICTS = 30
_FIRST_WAIT, _MAX_WAIT = 0.1, 8.0
_LOG_IN = "to publish you must be logged in with a token that can write; use: hf auth login"
_NO_WRITE_ACCESS = (
    "you or your token may not write to it; name a repo of your own with --to, ask for a pull request with --pr "
    "(labels, selections), or log in with one that can write: hf auth login"
)

# --- who may write ----------------------------------------------------------------------------------------------------


def own_names(token: str | None = None) -> frozenset[str]:
    """Names of the user and the user's organizations; a HubError if the user is not logged in or may only read."""
    try:
        with hub_errors(HUB):
            me = whoami(token=connect(token).token, cache=True)  # the Hub limits these requests strictly
    except HubError as error:
        if error.status not in (401, 403):
            raise
        raise HubError(HUB, _LOG_IN, error.status) from error
    if ((me.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise HubError(HUB, _LOG_IN, 403)
    organizations = [each for each in me.get("orgs") or () if each.get("roleInOrg") != "read"]
    return frozenset(str(each["name"]) for each in (me, *organizations))


def not_writable(names: Iterable[str], repo_type: str = "model") -> tuple[str, ...]:
    """The repos among ``org/name[@revision]`` where the user or the token may not write; ignores local folders.

    A repo that does not exist is writable in the user's own namespaces. One request per repo.

    A HubError like `own_names`, or if a name is malformed.
    """
    repos = [name.partition("@")[0] for name in names if not name.startswith(LOCAL_PREFIX)]
    mine, api = own_names(), connect()

    def is_writable(repo_id: str) -> bool:
        with hub_errors(repo_id):
            validate_repo_id(repo_id)  # which auth_check does not
            try:
                retried(partial(api.auth_check, repo_id, repo_type=repo_type, write=True))
            except RepositoryNotFoundError as error:
                return not isinstance(error, GatedRepoError) and repo_id.rpartition("/")[0] in mine
            except HfHubHTTPError as error:
                if status_of(error) not in (401, 403):
                    raise
                return False
        return True

    distinct = list(dict.fromkeys(repos))
    return tuple(id for id, may in zip(distinct, map_parallel(is_writable, distinct), strict=True) if not may)


# --- who may read, and use --------------------------------------------------------------------------------------------


class Access(StrEnum):
    """Who may read a dataset repo, from everyone to few."""

    PUBLIC = "public"
    GATED = "gated"  # everyone who asks for access and accepts the terms
    PRIVATE = "private"


def access_of(api: HfApi, repo_id: str, repo_type: str) -> Access | None:
    """Who may read a repo; None if it does not exist."""
    with hub_errors(repo_id):
        try:
            info = retried(partial(api.repo_info, repo_id, repo_type=repo_type))
        except RepositoryNotFoundError:
            return None
    return Access.PRIVATE if info.private else Access.GATED if info.gated else Access.PUBLIC


def hidden_models(repo_ids: Iterable[str]) -> tuple[str, ...]:
    """The models that not everyone can see: private, disabled or gone."""
    return tuple(repo_id for repo_id, info in _ask_models(repo_ids, token=False).items() if info is None)


def licenses_of(repo_ids: Iterable[str], token: str | bool | None = None) -> dict[str, str | None]:
    """Current licenses of models by id, such as ``apache-2.0``, in lower case: one request each, no download.

    None if unknown: the model is deleted, private or disabled, its card has no license or several, or the id is not
    ``org/name`` (such as a local folder, for which no request is sent).
    """
    licenses = {}
    for repo_id, info in _ask_models(repo_ids, token).items():
        tags = {str(tag).lower() for tag in (info and info.tags) or () if str(tag).startswith("license:")}
        found = _LICENSE.fullmatch(tags.pop()) if len(tags) == 1 else None
        licenses[repo_id] = found[1] if found else None
    return licenses


def _ask_models(repo_ids: Iterable[str], token: str | bool | None) -> dict[str, ModelInfo | None]:
    """What the Hub says about models, one request each; None for those that cannot be seen."""
    api = connect(token)

    def ask(repo_id: str) -> ModelInfo | None:
        if not REPO_ID.fullmatch(repo_id):
            return None
        with hub_errors(repo_id):
            try:
                return retried(partial(api.model_info, repo_id, expand=["tags"], timeout=TIMEOUT_SECONDS))
            except (RepositoryNotFoundError, HFValidationError):
                return None
            except HfHubHTTPError as error:
                if status_of(error) not in _INACCESSIBLE:
                    raise
                return None

    distinct = list(dict.fromkeys(repo_ids))
    return dict(zip(distinct, map_parallel(ask, distinct), strict=True))


# --- publish ----------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class Published:
    """The result of a publication: the commit with its page, or that of the pull request."""

    url: str
    revision: str
    pull_request: int | None  # its number
    changed: bool  # False if the repo had this content already

    def __str__(self) -> str:
        return f"{'published' if self.changed else 'published already'}: {self.url}"


def publish_files(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    title: str,
    files: Callable[[Head], Mapping[str, Content]],
    description: str = "",
    create_pr: bool = False,
) -> Published:
    """Commit files on the newest head or in a new pull request; try again after conflicts and transient errors.

    ``files`` returns, for a head, the desired content by path. A CardError if a card cannot be edited safely or the Hub
    refuses its metadata, else a HubError.
    """

    def attempt() -> Published:
        head = read_head(api, repo_id, repo_type)
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for path, content in files(head).items():
            if callable(content):
                content = _edited(api, head, path, content)
            if content is not None:
                operations.append(CommitOperationAdd(path, content))
            elif path in head.files:
                operations.append(CommitOperationDelete(path))
        try:
            commit = api.create_commit(
                head.repo_id,
                operations,
                commit_message=title,
                commit_description=description,
                repo_type=repo_type,
                create_pr=create_pr,
                parent_commit=head.sha,
            )
        except HfHubHTTPError as error:
            if status_of(error) == 403 and not create_pr:
                raise HubError(repo_id, _NO_WRITE_ACCESS, 403) from error
            raise
        except ValueError as error:
            if "metadata" not in str(error):
                raise
            reason = one_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            message = f"{repo_id}: the Hub refuses the metadata of its card ({reason}); correct its {README}"
            raise CardError(message) from None
        # the client leaves out unchanged files; without any changed one it makes no commit
        return Published(commit.pr_url or commit.commit_url, commit.oid, commit.pr_num, changed=commit.oid != head.sha)

    once = attempt if create_pr else partial(retried, attempt)  # a lost answer must not open a second pull request
    waits = (min(_FIRST_WAIT * 2**n, _MAX_WAIT) * random.uniform(0.5, 1.5) for n in range(_MAX_CONFLICTS))  # noqa: S311
    with hub_errors(repo_id):
        return retried(once, lambda error: status_of(error) in _CONFLICTS, waits)


def _edited(api: HfApi, head: Head, path: str, edit: Callable[[str], str]) -> bytes:
    """The text of a file, edited; ``edit`` is given an empty text if there is none."""
    content = b""
    if path in head.files:
        content = download_listed(api, head, path, _MAX_EDITED_BYTES).read_bytes()
    try:
        return edit(content.decode("utf-8")).encode("utf-8")
    except UnicodeDecodeError:
        raise CardError(f"{head.repo_id}: its {path} is not UTF-8; repair it, or publish elsewhere") from None
    except CardError as error:
        raise CardError(f"{head.repo_id}: {error}") from None
