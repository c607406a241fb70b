"""Commits to repos on the Hub: the newest head, changes prepared for it, again after a conflict.

A publication is one commit on the head that it was prepared for, so an interruption leaves the repo as it was. If
another commit came first, the change is prepared again on the new head. Publishing the same content twice changes
nothing. A pull request is opened only on request.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError

from mll_hf.errors import CardError, HubError
from mll_hf.hub.access import Access, check_contents, ensure_repo
from mll_hf.hub.connection import Head, connect, download_listed, hub_errors, read_head, retried, status_of
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from huggingface_hub import HfApi

README = "README.md"
_MAX_README_BYTES = 2**20
_CONFLICTS = (409, 412)  # another commit is in progress, or came first
_MAX_CONFLICTS = 30
_FIRST_WAIT, _MAX_WAIT = 0.1, 8.0
_NO_WRITE_ACCESS = (
    "you or your token may not write to it; name a repo of your own with --to, ask for a pull request with --pr "
    "(labels, selections), or log in with one that can write: hf auth login"
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
    files: Callable[[Head], Mapping[str, bytes | Path | None]],
    description: str = "",
    create_pr: bool = False,
) -> Published:
    """Commit files on the newest head or in a new pull request; try again after conflicts and transient errors.

    ``files`` returns, for a head, the desired content by path: bytes, a local file, or None to delete the file. A
    CardError if the Hub refuses the metadata of the card, else a HubError.
    """

    def attempt() -> Published:
        head = read_head(api, repo_id, repo_type)
        operations = [
            CommitOperationDelete(path) if content is None else CommitOperationAdd(path, content)
            for path, content in files(head).items()
            if content is not None or path in head.files
        ]
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
        except RuntimeError as error:
            raise error.__cause__ or error from None  # the client wraps what fails an upload
        except ValueError as error:
            if "metadata" not in str(error):
                raise
            reason = one_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
            message = f"{repo_id}: the Hub refuses the metadata of its card ({reason}); correct its {README}"
            raise CardError(message) from None
        # the client leaves out unchanged files; without any changed one it makes no commit
        return Published(commit.pr_url or commit.commit_url, commit.oid, commit.pr_num, changed=commit.oid != head.sha)

    conflicts = 0
    with hub_errors(repo_id):
        while True:
            try:
                return attempt() if create_pr else retried(attempt)  # a lost answer must not open a second one
            except HfHubHTTPError as error:
                if status_of(error) == 403 and not create_pr:
                    raise HubError(repo_id, _NO_WRITE_ACCESS, 403) from error
                if status_of(error) not in _CONFLICTS or conflicts == _MAX_CONFLICTS:
                    raise
            conflicts += 1
            time.sleep(min(_FIRST_WAIT * 2**conflicts, _MAX_WAIT) * random.uniform(0.5, 1.5))  # noqa: S311


def edited_card(api: HfApi, head: Head, edit: Callable[[str], str]) -> bytes:
    """A repo's README, edited; ``edit`` is given an empty text if there is none."""
    content = b""
    if README in head.files:
        content = download_listed(api, head, README, _MAX_README_BYTES).read_bytes()
    try:
        return edit(content.decode("utf-8")).encode("utf-8")
    except UnicodeDecodeError:
        raise CardError(f"{head.repo_id}: its {README} is not UTF-8; repair it, or publish elsewhere") from None
    except CardError as error:
        raise CardError(f"{head.repo_id}: {error}") from None


def publish_repo(
    repo_id: str,
    content: Mapping[str, bytes | None],
    marker: str,
    edit: Callable[[str], str],
    title: str,
    *,
    create_pr: bool = False,
    private: bool = False,
    token: str | None = None,
) -> Published:
    """Publish files (None to delete one) and their card in a dedicated model repo, in one commit.

    Creates the repo if it does not exist, ``private`` or not. ``edit`` maps the current README, which may be empty, to
    the new one. The file ``marker`` identifies the kind of repo: a repo without it must be empty. An InputError if it
    has other content, or is public although ``private``.
    """
    api = connect(token)
    ensure_repo(api, repo_id, "model", Access.PRIVATE if private else Access.PUBLIC)

    def files(head: Head) -> Mapping[str, bytes | None]:
        if marker not in head.files:
            check_contents(head, repo_id)
        return {**content, README: edited_card(api, head, edit)}

    return publish_files(api, repo_id, "model", title, files, create_pr=create_pr)
