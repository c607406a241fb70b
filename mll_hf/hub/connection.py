"""Requests to the Hub: one-line errors, retries, the commit and files of a repo, downloads of limited size."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import time
import traceback
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, parse_ratelimit_headers  # type: ignore[attr-defined]  # httpx or httpx2, whichever the client uses
from huggingface_hub.utils.tqdm import tqdm
from tqdm.contrib.concurrent import thread_map  # type: ignore[import-untyped]

from mll_hf import __version__
from mll_hf.errors import HubError, MLLError, StorageError
from mll_hf.labels.identity import digest_of_files
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.utils.files import asset_path, write_atomically
from mll_hf.utils.reach import hub_error
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

A = TypeVar("A")
T = TypeVar("T")

TIMEOUT_SECONDS = 20.0
FULL_SHA = re.compile(r"[0-9a-f]{40}")

_WAITS = (0.5, 1.0, 2.0, 4.0)
_MAX_WAIT = 300.0  # the Hub counts requests in windows of five minutes: https://huggingface.co/docs/hub/rate-limits
_THREADS = 16
_FEW = 8  # no progress bar for so few downloads
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_log = logging.getLogger(__name__)


def connect(token: str | bool | None = None) -> HfApi:
    """Create a Hub client that identifies as this library; ``token`` is None for the saved token, False for none."""
    return HfApi(token=token, library_name="mll_hf", library_version=__version__)


# --- errors -----------------------------------------------------------------------------------------------------------

_UNPARSABLE = "the Hub's answer cannot be parsed ({detail}); try later, or update huggingface_hub"
_LOG_IN = "check the name, or log in with: hf auth login"
_TRANSFER_FAILED = "the transfer failed ({detail}); try again, or without Xet: HF_HUB_DISABLE_XET=1"
_REASONS: tuple[tuple[type[Exception] | int, str], ...] = (  # the first kind or status that an error has decides
    (HFValidationError, f"is not of the form org/name or org/name@revision, nor {LOCAL_PREFIX}PATH"),
    (GatedRepoError, "is gated; accept its terms at {page} and log in with: hf auth login"),
    (DisabledRepoError, "is disabled by the Hub; use another repo"),
    (RepositoryNotFoundError, "is not on the Hub, or private; {advice}"),
    (RevisionNotFoundError, "has no such revision; check the branch, tag or commit after the @"),
    (OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, and a file is not in the local cache; unset it"),
    (LocalEntryNotFoundError, "is not in the local cache, and the Hub cannot be reached; go online once"),
    (EntryNotFoundError, "lacks a required file; check that it is the repo you mean"),
    (401, "you are not logged in, or your token is invalid; log in with: hf auth login"),
    (403, "your token may not do this; log in with one that can write: hf auth login"),
    (429, "too many requests; try again in a few minutes"),
    (HfHubHTTPError, "the Hub answered with status {status}; try later"),
    (httpx.HTTPError, "the Hub cannot be reached ({detail}), and no copy is cached; go online once"),
    (RecursionError, _UNPARSABLE),
    *((kind, _TRANSFER_FAILED) for kind in (RuntimeError, ConnectionError, TimeoutError)),  # from hf_xet
    (OSError, "cannot be downloaded ({detail}); check the disk and the network"),
    (Exception, _UNPARSABLE),
)


@contextlib.contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Convert errors of the client and the network to a HubError with a one-line message.

    On malformed responses the client raises anything from a KeyError to a RecursionError. The same exceptions from our
    own code are bugs and are not converted.
    """
    try:
        yield
    except MLLError:
        raise
    except Exception as error:
        if not (isinstance(error, (OSError, httpx.HTTPError)) or _is_from_client(error)):
            raise
        wrapped = {RuntimeError: (OSError, httpx.HTTPError), LocalEntryNotFoundError: (HfHubHTTPError,)}
        if isinstance(error.__cause__, wrapped.get(type(error), ())):
            error = error.__cause__  # wrapped by the client
        status, asked = status_of(error), str(error.response.url) if isinstance(error, HfHubHTTPError) else ""
        reason = next(text for kind, text in _REASONS if kind == status or _is_a(error, kind)).format(
            page=f"{constants.ENDPOINT}/{'datasets/' if '/datasets/' in asked else ''}{repo_id}",
            advice=f"for the local folder write {LOCAL_PREFIX}{repo_id}" if Path(repo_id).is_dir() else _LOG_IN,
            status=status,
            detail=one_line(error),
        )
        raise HubError(repo_id, reason, status) from error


def _is_a(error: Exception, kind: type[Exception] | int) -> bool:
    return isinstance(kind, type) and isinstance(error, kind)


def _is_from_client(error: BaseException) -> bool:
    """Whether an error was raised inside huggingface_hub or its HTTP library."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module.startswith(("huggingface_hub.", "httpx")) for module in modules)


def status_of(error: BaseException | None) -> int | None:
    """HTTP status of the response behind an error; None if there was none."""
    if isinstance(error, LocalTokenNotFoundError):
        return 401  # raised before a request is sent
    if isinstance(error, PermissionError) and error.errno is None:
        return 403  # from hf_xet
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


# --- retries ----------------------------------------------------------------------------------------------------------


def is_transient(error: BaseException | None) -> bool:
    """Whether the same request may succeed later: status 408, 429 or 5xx, a timeout, a lost connection.

    A connection that cannot be opened is not transient, so that a machine without a network does not wait.
    """
    if isinstance(error, HfHubHTTPError):
        return status_of(error) in _TRANSIENT
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ConnectError)


def retried(
    call: Callable[[], T], again: Callable[[Exception], bool] = is_transient, waits: Iterable[float] = _WAITS
) -> T:
    """Repeat a call on transient errors, up to four times; waits for a rate limit to end, with a warning.

    For information about a repo and for commits. The client itself repeats listings, uploads and downloads.
    """
    for wait in waits:
        try:
            return call()
        except (HfHubHTTPError, httpx.TransportError) as error:
            if not again(error):
                raise
            limit = parse_ratelimit_headers(error.response.headers) if isinstance(error, HfHubHTTPError) else None
            seconds = max(wait, min(limit.reset_in_seconds, _MAX_WAIT)) if limit else wait
            if status_of(error) == 429:
                _log.warning("the Hub's rate limit is reached; continuing in %.0f seconds", seconds)
            time.sleep(seconds)
    return call()


def is_unreachable(error: HubError) -> bool:
    """Whether the Hub cannot be reached now, so that stored answers must be used."""
    return error.status in _TRANSIENT or isinstance(error.__cause__, (OfflineModeIsEnabled, httpx.TransportError))


def is_final(error: BaseException | None) -> bool:
    """Whether the Hub says that something is missing, gated or disabled, or there was no error of it at all."""
    refusals = (RepositoryNotFoundError, RevisionNotFoundError, DisabledRepoError)
    return error is None or isinstance(error.__cause__, refusals)


def map_parallel(function: Callable[[A], T], items: Sequence[A], name: str = "") -> list[T]:
    """Apply a function to items in parallel threads, up to its first error; ``name`` is the title of a progress bar."""
    found: list[T] = thread_map(
        function, items, max_workers=_THREADS, tqdm_class=tqdm, unit="label", desc=name, name="mll_hf.fetch",
        leave=False, disable=not name or len(items) <= _FEW or None,
    )  # fmt: skip
    return found


# --- repos ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repo at some commit: its size in bytes and its content id."""

    size: int
    oid: str  # sha256 of a large file (64 hex digits), else git's blob id (40)


@dataclass(frozen=True, slots=True)
class Head:
    """A commit of a repo, ``model`` or ``dataset``, with its files by path.

    The repo has its own name even if it was asked for by an old one, or in another case.
    """

    repo_id: str
    repo_type: str
    sha: str
    files: Mapping[str, RepoFile]
    gated: bool = False  # whether its files are for users with access only

    @property
    def model_files(self) -> dict[str, str]:
        """Content ids of the files at the root, which models load; empty where the Hub lists none."""
        return {path: file.oid for path, file in self.files.items() if "/" not in path}

    def digest(self, backend: str) -> str | None:
        """The digest of the model that a backend loads from this commit, see :func:`digest_of_files`."""
        return digest_of_files(self.model_files, backend)


def read_head(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> Head:
    """The commit and the files of a revision: one request, none for a full sha that was listed before.

    If the Hub cannot be reached, the stored listing is used; a HubError if there is none.
    """
    name, is_final = revision or "main", bool(FULL_SHA.fullmatch(revision or ""))
    question = f"{repo_type}/{repo_id}@{name}"
    return answered(api, question, lambda: asdict(newest_head(api, repo_id, repo_type, name)), _head_of, is_final)


def newest_head(api: HfApi, repo_id: str, repo_type: str, revision: str = "main") -> Head:
    """The same in any case from the Hub; the listing of the commit is stored."""
    with hub_errors(repo_id):
        info = retried(
            lambda: api.repo_info(
                repo_id, repo_type=repo_type, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
            )
        )
        if not FULL_SHA.fullmatch(str(info.sha)):
            raise HubError(repo_id, "has no commit on the Hub; check that the repo is not empty")
        files = {
            file.rfilename: RepoFile(file.size or 0, (file.lfs.sha256 if file.lfs else file.blob_id) or "")
            for file in getattr(info, "siblings", None) or ()
        }
    head = Head(info.id, repo_type, str(info.sha), files, bool(info.gated))
    _store(api, f"{repo_type}/{repo_id}@{head.sha}", asdict(head))
    return head


def _head_of(document: Any) -> Head:  # noqa: ANN401 - parsed JSON
    return Head(**{**document, "files": {path: RepoFile(**file) for path, file in document["files"].items()}})


# --- stored answers, for when the Hub cannot be reached ---------------------------------------------------------------


def answered(api: HfApi, question: str, ask: Callable[[], Any], parse: Callable[[Any], T], is_final: bool = False) -> T:
    """The Hub's answer to a question, or the stored one if the Hub cannot be reached, or if it ``is_final``.

    ``ask`` returns the answer as JSON data, which are stored for this user. Stored data that ``parse`` cannot read,
    damaged or of another version, are ignored.
    """
    stored = None
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        stored = parse(json.loads(_answer_file(api, question).read_bytes()))
    if stored is not None and (is_final or hub_error()):
        return stored
    try:
        answer = ask()
    except HubError as error:
        if stored is None or not is_unreachable(error):
            raise
        return stored
    _store(api, question, answer)
    return parse(answer)


def _store(api: HfApi, question: str, answer: object) -> None:
    with contextlib.suppress(StorageError):  # the disk is full or read-only
        write_atomically(_answer_file(api, question), json.dumps(answer).encode())


def _answer_file(api: HfApi, question: str) -> Path:
    """One file per user, so that nobody is shown a listing of another user's private repos."""
    token = "" if api.token is False else api.token if isinstance(api.token, str) else get_token() or ""
    key = hashlib.sha256(json.dumps([constants.ENDPOINT, token, question]).encode()).hexdigest()[:32]
    return asset_path("answers", f"{key}.json")


# --- files ------------------------------------------------------------------------------------------------------------


def download(
    api: HfApi, repo_id: str, repo_type: str, path: str, revision: str, max_bytes: int, size: int | None = None
) -> Path:
    """A file at a pinned commit, from the client's cache or the Hub; refused before the download if it is too large.

    ``size`` is the size that the Hub lists; asked for if unknown.
    """
    fetch = partial(api.hf_hub_download, repo_id, path, repo_type=repo_type, revision=revision)
    with hub_errors(repo_id):
        if size is None:
            size = fetch(dry_run=True).file_size  # type: ignore[attr-defined]  # an overload
        if size > max_bytes:
            reason = f"{path} is larger than {max_bytes / 2**20:.0f} MB and was not downloaded; tell its owner"
            raise HubError(repo_id, reason)
        return Path(fetch())


def download_listed(api: HfApi, head: Head, path: str, max_bytes: int) -> Path:
    """A file that a commit lists; refused without a request if it is too large. Errors as in :func:`download`."""
    return download(api, head.repo_id, head.repo_type, path, head.sha, max_bytes, head.files[path].size)
