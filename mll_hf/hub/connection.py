"""What every conversation with the Hub needs: errors in one line, retries, pinned heads, downloads with a cap."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass
from functools import partial
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

T = TypeVar("T")

TIMEOUT_SECONDS = 20.0
FULL_SHA = re.compile(r"[0-9a-f]{40}")
MODEL_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".vocab", ".merges")  # what decides a model's answers

_WAITS = (0.5, 1.0, 2.0, 4.0)
_LONGEST_WAIT = 60.0
_MOST_LISTED = 200_000
_PASSING = frozenset({408, 429, 500, 502, 503, 504})


def connect(token: str | bool | None = None) -> HfApi:
    """A client of the Hub that says who we are.

    Args:
        token: Hub token; None takes the one that the user has logged in with, False none at all.
    """
    return HfApi(token=token, library_name="mll_hf", library_version=__version__)


# --- errors -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hub_errors(repo_id: str, error_of: Callable[[str], MLLError] | None = None) -> Iterator[None]:
    """Say in one line what the Hub or the way to it refused.

    Args:
        repo_id: The repository that is talked about.
        error_of: Makes the error to raise out of the reason; by default a HubError.
    """
    try:
        yield
    except MLLError:
        raise
    except (OSError, httpx.HTTPError, HFValidationError) as error:
        status = _status(error)
        reason = _reason(error, repo_id)
        raise (error_of(reason) if error_of else HubError(repo_id, reason, status)) from error


@contextlib.contextmanager
def sensible_answers(repo_id: str) -> Iterator[None]:
    """Blame the Hub for what the client raises on answers that make no sense to it.

    Around calls of the client alone, for in our own code the same exceptions would be faults.

    Raises:
        HubError: The answer made no sense, or the Hub found that what was sent makes none.
    """
    try:
        yield
    except (MLLError, OSError, httpx.HTTPError, HFValidationError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = f"the Hub's answer makes no sense here ({one_line(error)}); try later, or update huggingface_hub"
        raise HubError(repo_id, reason) from error


def _reason(error: Exception, repo_id: str) -> str:
    match error:
        case HFValidationError():
            return f"is not of the form org/name or org/name@revision, nor {LOCAL_PREFIX}PATH"
        case GatedRepoError():
            return f"is gated; accept its terms at {constants.ENDPOINT}/{repo_id} and log in with: hf auth login"
        case DisabledRepoError():
            return "is disabled by the Hub; use another repository"
        case RepositoryNotFoundError():
            return f"is not on the Hub, or private; {_advice_for_missing(repo_id)}"
        case RevisionNotFoundError():
            return "has no such revision; check the branch, tag or commit after the @"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE forbids to ask the Hub, and what is needed is not in the local cache; unset it"
        case LocalEntryNotFoundError():
            return "is not in the local cache and the Hub cannot be reached; go online once"
        case EntryNotFoundError():
            return "lacks a file that should be there; check that it is the repository you mean"
        case HfHubHTTPError():
            return _reason_for_status(error.response.status_code)
        case httpx.HTTPError():
            return f"the Hub cannot be reached ({one_line(error)}) and no copy is cached; go online once"
    return f"cannot be downloaded ({one_line(error)}); check the disk and the network"


def _reason_for_status(status: int) -> str:
    match status:
        case 401:
            return "you are not logged in, or the Hub does not know your token; log in with: hf auth login"
        case 403:
            return "your token may not do this; log in with one that may write: hf auth login"
        case 429:
            return "the Hub has had too many requests from you; try again in a few minutes"
    return f"the Hub answered with status {status}; try later"


def _advice_for_missing(repo_id: str) -> str:
    if Path(repo_id).is_dir():
        return f"for the folder of this name write {LOCAL_PREFIX}{repo_id}"
    return "check the name, or log in with: hf auth login"


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub cannot be asked now, by wish or by accident, so that what is cached has to do."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING
    return isinstance(error, (OfflineModeIsEnabled, httpx.TransportError))


# --- retries ----------------------------------------------------------------------------------------------------------


def retried(call: Callable[[], T]) -> T:
    """Repeat a call that fails for a reason that passes: 408, 429, 5xx, a timeout, a lost connection.

    A connection that cannot even be opened is not tried again: a machine without network must not wait.
    """
    for wait in _WAITS:
        try:
            return call()
        except (HfHubHTTPError, httpx.TransportError, LocalEntryNotFoundError) as error:
            if not passes(error):
                raise
            time.sleep(max(wait, wait_asked_for(error)))
    return call()


def passes(error: BaseException | None) -> bool:
    """Whether a request that failed like this may succeed if it is sent again."""
    if isinstance(error, LocalEntryNotFoundError):  # a download whose first request failed
        return passes(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ConnectError)


def wait_asked_for(error: Exception) -> float:
    """Seconds that the Hub wants us to wait, as far as it says so."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    headers = error.response.headers
    asked = re.search(r"\bt=(\d+)", headers.get("RateLimit", "")) or re.match(r"(\d+)$", headers.get("Retry-After", ""))
    return min(float(asked[1]), _LONGEST_WAIT) if asked else 0.0


# --- heads ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RepoFile:
    """A file of a repository at some commit.

    Attributes:
        size: In bytes, as the Hub says.
        oid: Sha256 of the content of a large file (64 hex digits), git's blob id of any other (40).
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
        """Oids of the files at the root that decide what a model computes."""
        names = [path for path in self.files if "/" not in path and path.endswith(MODEL_SUFFIXES)]
        return {name: self.files[name].oid for name in names}

    def holds(self, path: str, content: bytes) -> bool:
        """Whether the commit has a file with this content."""
        if path not in self.files:
            return False
        blob_id = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        return self.files[path].oid in (hashlib.sha256(content).hexdigest(), blob_id)


def read_head(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> Head:
    """Which commit a revision is, and its files: one request, none for a full sha that was asked for before.

    When the Hub cannot be reached, the answer of the last time is given.

    Raises:
        HubError: There is no such repository or revision, or the Hub cannot be reached and was never asked.
    """
    revision = revision or "main"
    remembered = _remembered_head(repo_id, repo_type, revision)
    if remembered and FULL_SHA.fullmatch(revision):
        return remembered
    with hub_errors(repo_id):
        try:
            head = fetch_head(api, repo_id, repo_type, revision)
        except (OfflineModeIsEnabled, HfHubHTTPError, httpx.TransportError) as error:
            if remembered and is_unreachable(error):
                return remembered
            raise
    for asked in {revision, head.sha}:
        remember(_memory_of(repo_id, repo_type, asked), asdict(head))
    return head


def fetch_head(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> Head:
    """Ask the Hub which commit a revision is now, and for its files."""
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


def list_model_repos(api: HfApi, question: Mapping[str, str | Sequence[str]]) -> list[dict[str, Any]]:
    """All models that the Hub lists: a request per 1,000.

    Not by the client's own listing: that waits half a minute for a Hub that cannot be reached, fails altogether if it
    cannot parse one entry, and follows links to anywhere with the token.

    Args:
        api: The client.
        question: What to list: ``filter`` (tags), ``expand`` (fields besides ``id``), ``author``, ``search`` ...

    Returns:
        Whatever the Hub says of each model, unchecked.
    """
    found: list[dict[str, Any]] = []
    address: str | None = f"{api.endpoint}/api/models"
    params: Mapping[str, str | Sequence[str]] | None = question
    headers = build_hf_headers(token=api.token, library_name=api.library_name, library_version=api.library_version)
    while address and len(found) < _MOST_LISTED:
        page = retried(partial(_get, address, params, headers))
        with sensible_answers("hub"):
            entries = page.json()
            if not isinstance(entries, list):
                raise TypeError("a listing is no list")
        found += [entry for entry in entries if isinstance(entry, dict)]
        address, params = page.links.get("next", {}).get("url"), None  # it carries them itself
        if address and not address.startswith(f"{api.endpoint}/"):
            raise HubError("hub", f"sends us on to another place ({address[:80]!r}), where we do not follow; try later")
    return found


def _get(address: str, params: Mapping[str, str | Sequence[str]] | None, headers: Mapping[str, str]) -> httpx.Response:
    response = get_session().get(address, params=params, headers=headers, timeout=TIMEOUT_SECONDS)
    hf_raise_for_status(response)
    return response


def _remembered_head(repo_id: str, repo_type: str, revision: str) -> Head | None:
    document = recall(_memory_of(repo_id, repo_type, revision))
    try:
        files = {path: RepoFile(file["size"], file["oid"]) for path, file in document["files"].items()}
        return Head(repo_id, repo_type, document["sha"], files)
    except (LookupError, TypeError, AttributeError):
        return None  # never asked, or written by another version


def _memory_of(repo_id: str, repo_type: str, revision: str) -> Path:
    return memory_file(f"{repo_type}/{repo_id}@{revision}")


def memory_file(question: str) -> Path:
    """Where the answer to a question to the Hub is kept for when it cannot be reached; one per endpoint."""
    key = hashlib.sha256(f"{constants.ENDPOINT} {question}".encode()).hexdigest()[:32]
    return Path(constants.HF_ASSETS_CACHE) / "mll_hf" / "answers" / f"{key}.json"


def recall(file: Path) -> Any:  # noqa: ANN401 - parsed JSON
    """An answer of the Hub that was kept; None if there is none that can be read."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def remember(file: Path, answer: object) -> None:
    """Keep an answer of the Hub, if the disk lets us."""
    with contextlib.suppress(StorageError):
        write_atomically(file, json.dumps(answer).encode())


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
        sha256: If given, what the content must be.

    Raises:
        HubError: The file cannot be had, or is too large.
        LabelError: The content is not what the Hub said it would be.
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
            file.resolve().unlink(missing_ok=True)  # so that the next try fetches it anew
            reason = f"is not what the Hub lists (sha256 {found[:12]}, not {sha256[:12]}); try again, or tell its owner"
            raise LabelError(reason, Path(repo_id) / path)
    return file


def _guard(repo_id: str, path: str, most_bytes: int) -> type[tqdm]:
    """A progress bar that shows nothing and stops a download that is, or grows, too large."""

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
