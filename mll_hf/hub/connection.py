"""What every request to the Hub needs: errors in one line, retries, commits with their files, capped downloads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, httpx  # type: ignore[attr-defined]  # httpx or httpx2, whichever the client uses
from huggingface_hub.utils.tqdm import tqdm

from mll_hf import __version__
from mll_hf.errors import HubError, LabelError, MLLError, StorageError
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.utils.files import write_atomically
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from huggingface_hub.hf_api import RepoSibling

A = TypeVar("A")
T = TypeVar("T")

TIMEOUT_SECONDS = 20.0
FULL_SHA = re.compile(r"[0-9a-f]{40}")
MODEL_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".vocab", ".merges")  # files that affect a model's output
_MODULE_FOLDER = re.compile(r"\d+_\w*/[^/]+")  # of sentence-transformers, such as 0_CLIPModel

_WAITS = (0.5, 1.0, 2.0, 4.0)
_LONGEST_WAIT = 60.0
_MOST_LISTED = 200_000
_THREADS = 16
_FEW = 8  # no progress bar for so few downloads
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


def connect(token: str | bool | None = None) -> HfApi:
    """A Hub client that identifies itself as this library.

    Args:
        token: Hub token; None for the token of the logged-in user, False for no token.
    """
    return HfApi(token=token, library_name="mll_hf", library_version=__version__)


# --- errors -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hub_errors(repo_id: str, error_of: Callable[[str], MLLError] | None = None) -> Iterator[None]:
    """Turn errors of the client and the network into a HubError with a one-line message, or what ``error_of`` makes."""
    try:
        yield
    except MLLError:
        raise
    except (OSError, httpx.HTTPError, HFValidationError) as error:
        reason = _reason(error, repo_id)
        raise (error_of(reason) if error_of else HubError(repo_id, reason, status_of(error))) from error


@contextlib.contextmanager
def sensible_answers(repo_id: str) -> Iterator[None]:
    """Turn what the client raises on malformed answers into a HubError, and errors that it wraps into themselves.

    Only around calls of the client: in our own code the same exceptions are bugs.

    Raises:
        HubError: The answer is malformed, or the Hub rejected the content of the request.
    """
    try:
        yield
    except (MLLError, OSError, httpx.HTTPError, HFValidationError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = f"the Hub's answer cannot be parsed ({one_line(error)}); try later, or update huggingface_hub"
        raise HubError(repo_id, reason) from error
    except RuntimeError as error:  # the client wraps what fails an upload
        if isinstance(error.__cause__, (OSError, httpx.HTTPError)):
            raise error.__cause__ from None
        raise


def _reason(error: Exception, repo_id: str) -> str:
    match error:
        case HFValidationError():
            return f"is not of the form org/name or org/name@revision, nor {LOCAL_PREFIX}PATH"
        case GatedRepoError():
            return f"is gated; accept its terms at {constants.ENDPOINT}/{repo_id} and log in with: hf auth login"
        case DisabledRepoError():
            return "is disabled by the Hub; use another repository"
        case RepositoryNotFoundError():
            login = "check the name, or log in with: hf auth login"
            advice = f"for the local folder write {LOCAL_PREFIX}{repo_id}" if Path(repo_id).is_dir() else login
            return f"is not on the Hub, or private; {advice}"
        case RevisionNotFoundError():
            return "has no such revision; check the branch, tag or commit after the @"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE forbids requests to the Hub, and a file is not in the local cache; unset it"
        case LocalEntryNotFoundError():
            return "is not in the local cache, and the Hub cannot be reached; go online once"
        case EntryNotFoundError():
            return "lacks a required file; check that it is the repository you mean"
        case HfHubHTTPError():
            return _reason_for_status(error.response.status_code)
        case httpx.HTTPError():
            return f"the Hub cannot be reached ({one_line(error)}), and no copy is cached; go online once"
    return f"cannot be downloaded ({one_line(error)}); check the disk and the network"


def _reason_for_status(status: int) -> str:
    match status:
        case 401:
            return "you are not logged in, or your token is invalid; log in with: hf auth login"
        case 403:
            return "your token may not do this; log in with one that can write: hf auth login"
        case 429:
            return "too many requests; try again in a few minutes"
    return f"the Hub answered with status {status}; try later"


def status_of(error: Exception) -> int | None:
    """HTTP status of the answer that an error stands for; None if there was no answer."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


# --- retries ----------------------------------------------------------------------------------------------------------


def retried(call: Callable[[], T]) -> T:
    """Repeat a call on a transient error, up to four times.

    The client's own retries do not cover answers of the CDN, and wait half a minute for a network that is down.
    """
    for wait in _WAITS:
        try:
            return call()
        except (HfHubHTTPError, httpx.TransportError, LocalEntryNotFoundError) as error:
            if not is_transient(error):
                raise
            time.sleep(max(wait, wait_asked_for(error)))
    return call()


def is_transient(error: BaseException | None) -> bool:
    """Whether the same request may succeed later: status 408, 429 or 5xx, a timeout, a lost connection.

    A connection that cannot be opened is not transient: a machine without network must not wait.
    """
    if isinstance(error, LocalEntryNotFoundError):  # a download whose first request failed
        return is_transient(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return status_of(error) in _TRANSIENT
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ConnectError)


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub cannot be asked now, so that cached answers have to do."""
    return status_of(error) in _TRANSIENT or isinstance(error, (OfflineModeIsEnabled, httpx.TransportError))


def wait_asked_for(error: Exception) -> float:
    """Seconds that the Hub asks to wait, at most 60; 0 if it does not say."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    headers = error.response.headers
    asked = re.search(r"\bt=(\d+)", headers.get("RateLimit", "")) or re.match(r"(\d+)$", headers.get("Retry-After", ""))
    return min(float(asked[1]), _LONGEST_WAIT) if asked else 0.0


# --- in parallel ------------------------------------------------------------------------------------------------------


def together(function: Callable[[A], T], items: Sequence[A], name: str = "") -> list[T]:
    """Apply a function to items in parallel threads; a name is the title of a progress bar over many items.

    Raises:
        Exception: The first error of the function.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        results = pool.map(function, items)
        bar = tqdm(  # type: ignore[no-untyped-call]
            results, total=len(items), unit="label", desc=name, name="mll_hf.fetch", leave=False,
            disable=not name or len(items) <= _FEW or None,
        )  # fmt: skip
        return list(bar)


# --- commits ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository at some commit.

    Attributes:
        size: In bytes, as the Hub says.
        oid: Sha256 of the content of a large file (64 hex digits), else git's blob id (40 hex digits).
    """

    size: int
    oid: str


@dataclass(frozen=True, slots=True)
class Head:
    """A commit of a repository.

    Attributes:
        repo_id: ``org/name``.
        repo_type: ``model`` or ``dataset``.
        sha: The commit.
        files: Its files by path.
    """

    repo_id: str
    repo_type: str
    sha: str
    files: Mapping[str, RepoFile]

    @property
    def model_files(self) -> dict[str, str]:
        """Oids of the files that affect a model's output."""
        names = [path for path in self.files if is_of_a_model(path) and path.endswith(MODEL_SUFFIXES)]
        return {name: self.files[name].oid for name in names}

    def holds(self, path: str, content: bytes) -> bool:
        """Whether the commit has a file with this content."""
        if path not in self.files:
            return False
        blob_id = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        return self.files[path].oid in (hashlib.sha256(content).hexdigest(), blob_id)


def is_of_a_model(path: str) -> bool:
    """Whether models load files there: at the root, and in the modules of sentence-transformers."""
    return "/" not in path or bool(_MODULE_FOLDER.fullmatch(path))


def fetch_head(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> Head:
    """Ask the Hub for the commit and the files of a revision."""
    info_of = api.dataset_info if repo_type == "dataset" else api.model_info
    with sensible_answers(repo_id):
        info = retried(lambda: info_of(repo_id, revision=revision, timeout=TIMEOUT_SECONDS, files_metadata=True))
        files = dict(_file(sibling) for sibling in info.siblings or ())
        if not FULL_SHA.fullmatch(info.sha or ""):
            raise HubError(repo_id, "has no commit on the Hub; check that the repository is not empty")
    return Head(repo_id, repo_type, str(info.sha), files)


def _file(sibling: RepoSibling) -> tuple[str, RepoFile]:
    size, oid = sibling.size or 0, (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or ""
    if not (isinstance(sibling.rfilename, str) and isinstance(oid, str) and isinstance(size, int) and size >= 0):
        raise ValueError(f"a file is listed as {sibling!r:.100}")
    return sibling.rfilename, RepoFile(size, oid)


def read_head(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> Head:
    """The commit and the files of a revision: one request, none for a full sha that was asked for before.

    The last answer is used if the Hub cannot be reached.

    Raises:
        HubError: There is no such repository or revision, or the Hub cannot be reached and was never asked.
    """
    revision = revision or "main"
    kept = _kept_head(repo_id, repo_type, revision)
    if kept and FULL_SHA.fullmatch(revision):
        return kept
    with hub_errors(repo_id):
        try:
            head = fetch_head(api, repo_id, repo_type, revision)
        except (OfflineModeIsEnabled, HfHubHTTPError, httpx.TransportError) as error:
            if kept and is_unreachable(error):
                return kept
            raise
    for name in {revision, head.sha}:
        keep_answer(f"{repo_type}/{repo_id}@{name}", asdict(head))
    return head


def _kept_head(repo_id: str, repo_type: str, revision: str) -> Head | None:
    document = kept_answer(f"{repo_type}/{repo_id}@{revision}")
    try:
        files = {path: RepoFile(file["size"], file["oid"]) for path, file in document["files"].items()}
        return Head(repo_id, repo_type, document["sha"], files)
    except (LookupError, TypeError, AttributeError):
        return None  # never asked, or written by another version


def list_model_repos(api: HfApi, query: Mapping[str, str | Sequence[str]]) -> list[dict[str, Any]]:
    """Models that the Hub lists: one request per 1,000.

    ``HfApi.list_models`` waits half a minute for a Hub that cannot be reached, fails if it cannot parse one entry, and
    sends the token to wherever a page links.

    Args:
        api: The client.
        query: Parameters of the listing: ``filter`` (tags), ``expand`` (fields besides ``id``), ``author``, ...

    Returns:
        The Hub's entries, not validated.
    """
    found: list[dict[str, Any]] = []
    params: Mapping[str, str | Sequence[str]] | None
    url, params = f"{api.endpoint}/api/models", query
    headers = build_hf_headers(token=api.token, library_name=api.library_name, library_version=api.library_version)

    def get() -> httpx.Response:
        response = get_session().get(url, params=params, headers=headers, timeout=TIMEOUT_SECONDS)
        hf_raise_for_status(response)
        return response

    while len(found) < _MOST_LISTED:
        page = retried(get)
        with sensible_answers("hub"):
            entries = page.json()
            if not isinstance(entries, list):
                raise TypeError("a listing is no list")
        found += [entry for entry in entries if isinstance(entry, dict)]
        if "next" not in page.links:
            break
        url, params = page.links["next"]["url"], None  # the link has the parameters
        if not url.startswith(f"{api.endpoint}/"):
            raise HubError("hub", f"the listing continues at another host ({url[:80]!r}), not followed; try later")
    return found


# --- answers kept for when the Hub cannot be reached ------------------------------------------------------------------


def keep_answer(question: str, answer: object) -> None:
    """Keep an answer of the Hub on disk, unless the disk is full or read-only."""
    with contextlib.suppress(StorageError):
        write_atomically(_answer_file(question), json.dumps(answer).encode())


def kept_answer(question: str) -> Any:  # noqa: ANN401 - parsed JSON
    """The answer kept for a question; None if there is none that can be read."""
    try:
        return json.loads(_answer_file(question).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _answer_file(question: str) -> Path:
    key = hashlib.sha256(f"{constants.ENDPOINT} {question}".encode()).hexdigest()[:32]
    return Path(constants.HF_ASSETS_CACHE) / "mll_hf" / "answers" / f"{key}.json"


# --- files ------------------------------------------------------------------------------------------------------------


def download(
    api: HfApi, repo_id: str, repo_type: str, path: str, revision: str, most_bytes: int, sha256: str | None = None
) -> Path:
    """A file at a pinned commit, from the cache or the Hub: at most two requests, none if it is cached.

    Args:
        api: The client.
        repo_id: ``org/name``.
        repo_type: ``model`` or ``dataset``.
        path: The file.
        revision: Full commit sha.
        most_bytes: Larger files are refused before they are downloaded.
        sha256: Expected hash of the content, if known.

    Raises:
        HubError: The file cannot be downloaded, or is too large.
        LabelError: The content does not have the expected hash.
    """

    def fetch() -> Path:
        with sensible_answers(repo_id):
            return Path(
                hf_hub_download(
                    repo_id,
                    path,
                    repo_type=repo_type,
                    revision=revision,
                    token=api.token,
                    library_name=api.library_name,
                    library_version=api.library_version,
                    etag_timeout=TIMEOUT_SECONDS,
                    tqdm_class=_guard(repo_id, path, most_bytes),
                )
            )

    with hub_errors(repo_id):
        file = retried(fetch)
        if file.stat().st_size > most_bytes:  # it was in the cache already
            raise _too_large(repo_id, path, most_bytes)
        if sha256 and (found := hashlib.sha256(file.read_bytes()).hexdigest()) != sha256:
            file.resolve().unlink(missing_ok=True)  # the next attempt downloads it again
            reason = f"is not what the Hub lists (sha256 {found[:12]}, not {sha256[:12]}); try again, or tell its owner"
            raise LabelError(reason, Path(repo_id) / path)
    return file


def _guard(repo_id: str, path: str, most_bytes: int) -> type[tqdm]:
    """A hidden progress bar that stops a download that is, or becomes, too large."""

    class Guard(tqdm):
        def __init__(self, *args: Any, total: float | None = None, **kwargs: Any) -> None:  # noqa: ANN401
            if total is not None and total > most_bytes:
                raise _too_large(repo_id, path, most_bytes)
            self._left: float = most_bytes
            super().__init__(*args, **{**kwargs, "total": total, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            self._left -= n or 0
            if self._left < 0:
                raise _too_large(repo_id, path, most_bytes)
            return super().update(n)

    return Guard


def _too_large(repo_id: str, path: str, most_bytes: int) -> HubError:
    return HubError(repo_id, f"{path} is larger than {most_bytes / 2**20:.0f} MB and was not fetched; tell its owner")
