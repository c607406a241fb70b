"""Requests to the Hub: one-line errors, retries, commits with their files, downloads of limited size."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from huggingface_hub import HfApi, constants, hf_hub_url, try_to_load_from_cache, whoami
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
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, httpx, validate_repo_id  # type: ignore[attr-defined]  # httpx or httpx2, whichever the client uses
from huggingface_hub.utils.tqdm import tqdm

from mll_hf import __version__
from mll_hf.errors import HubError, LabelError, MLLError, StorageError
from mll_hf.labels.label import LOCAL_PREFIX
from mll_hf.utils.files import file_digest, write_atomically
from mll_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

A = TypeVar("A")
T = TypeVar("T")

TIMEOUT_SECONDS = 20.0
FULL_SHA = re.compile(r"[0-9a-f]{40}")
MODEL_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".vocab", ".merges")  # files that affect a model's output
_MODULE_FOLDER = re.compile(r"\d+_\w*/[^/]+")  # of sentence-transformers, such as 0_CLIPModel

_WAITS = (0.5, 1.0, 2.0, 4.0)
_MAX_WAIT = 60.0
_LIMIT_WINDOW = 300.0  # seconds in which the Hub counts requests: https://huggingface.co/docs/hub/rate-limits
_MAX_LISTED = 200_000
_MAX_REDIRECTS = 5
_SHA256_LENGTH = 64  # hex digits
_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_THREADS = 16
_FEW = 8  # no progress bar for so few downloads
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_pausing = threading.Lock()
_log = logging.getLogger(__name__)


def connect(token: str | bool | None = None) -> HfApi:
    """Create a Hub client that identifies as this library; ``token`` is None for the saved token, False for none."""
    return HfApi(token=token, library_name="mll_hf", library_version=__version__)


# --- errors -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hub_errors(repo_id: str, error_of: Callable[[str], MLLError] | None = None) -> Iterator[None]:
    """Convert errors of the client and the network to a HubError with a one-line message, or with ``error_of``.

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
        if isinstance(error, RuntimeError) and isinstance(error.__cause__, (OSError, httpx.HTTPError)):
            error = error.__cause__  # the client wraps errors of uploads
        reason = _reason(error, repo_id)
        raise (error_of(reason) if error_of else HubError(repo_id, reason, status_of(error))) from error


def _is_from_client(error: BaseException) -> bool:
    """Whether an error was raised inside huggingface_hub or its HTTP library."""
    step = error.__traceback__
    while step:
        if step.tb_frame.f_globals.get("__name__", "").startswith(("huggingface_hub.", "httpx")):
            return True
        step = step.tb_next
    return False


def unparsable(detail: Exception | str) -> str:
    """The reason of a HubError for a malformed response."""
    return f"the Hub's answer cannot be parsed ({one_line(detail)}); try later, or update huggingface_hub"


def _reason(error: Exception, repo_id: str) -> str:
    match error:
        case HFValidationError():
            return f"is not of the form org/name or org/name@revision, nor {LOCAL_PREFIX}PATH"
        case GatedRepoError():
            return f"is gated; accept its terms at {constants.ENDPOINT}/{repo_id} and log in with: hf auth login"
        case DisabledRepoError():
            return "is disabled by the Hub; use another repo"
        case RepositoryNotFoundError():
            login = "check the name, or log in with: hf auth login"
            advice = f"for the local folder write {LOCAL_PREFIX}{repo_id}" if Path(repo_id).is_dir() else login
            return f"is not on the Hub, or private; {advice}"
        case RevisionNotFoundError():
            return "has no such revision; check the branch, tag or commit after the @"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set, and a file is not in the local cache; unset it"
        case LocalEntryNotFoundError():
            return "is not in the local cache, and the Hub cannot be reached; go online once"
        case EntryNotFoundError():
            return "lacks a required file; check that it is the repo you mean"
        case LocalTokenNotFoundError():
            return _reason_for_status(401)
        case HfHubHTTPError():
            return _reason_for_status(error.response.status_code)
        case httpx.HTTPError():
            return f"the Hub cannot be reached ({one_line(error)}), and no copy is cached; go online once"
        case PermissionError(errno=None):  # from hf_xet
            return _reason_for_status(403)
        case RecursionError():
            return unparsable(error)
        case RuntimeError() | ConnectionError() | TimeoutError():  # from hf_xet
            return f"the transfer failed ({one_line(error)}); try again, or without Xet: HF_HUB_DISABLE_XET=1"
        case OSError():
            return f"cannot be downloaded ({one_line(error)}); check the disk and the network"
    return unparsable(error)


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
    """HTTP status of the response behind an error; None if there was none."""
    if isinstance(error, LocalTokenNotFoundError):
        return 401  # raised before a request is sent
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def names_of_user(api: HfApi) -> list[str]:
    """Name of the logged-in user, then the names of the organizations where the user may write; cached by token.

    Raises:
        HubError: The token may only read.
    """
    me = whoami(token=api.token, cache=True)  # the Hub limits these requests strictly
    try:
        if ((me.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
            raise HubError("hub", _reason_for_status(403))
        organizations = [each for each in me.get("orgs") or () if each.get("roleInOrg") != "read"]
        return [str(me["name"]), *(str(organization["name"]) for organization in organizations)]
    except (LookupError, TypeError, AttributeError) as error:
        raise HubError("hub", unparsable(error)) from error


# --- retries ----------------------------------------------------------------------------------------------------------


def retried(call: Callable[[], T], *, patient: bool = True) -> T:
    """Repeat a call on a transient error, up to four times.

    The client's own retries do not cover responses of the CDN, and take half a minute when the network is down. If
    ``patient``, also waits for a rate limit to end, up to five minutes, with a warning.
    """
    for wait in _WAITS:
        try:
            return call()
        except (HfHubHTTPError, httpx.TransportError) as error:
            if not is_transient(error) or (status_of(error) == 429 and not patient):
                raise
            _pause(max(wait, requested_wait(error)), status_of(error))
    return call()


def _pause(seconds: float, status: int | None) -> None:
    """Wait; if several threads wait for a rate limit, only one of them logs it."""
    is_first = _pausing.acquire(blocking=False)
    try:
        if is_first and status == 429:
            _log.warning("the Hub's rate limit is reached; continuing in %.0f seconds", seconds)
        time.sleep(seconds)
    finally:
        if is_first:
            _pausing.release()


def is_transient(error: BaseException | None) -> bool:
    """Whether the same request may succeed later: status 408, 429 or 5xx, a timeout, a lost connection.

    A connection that cannot be opened is not transient, so that a machine without a network does not wait.
    """
    if isinstance(error, HfHubHTTPError):
        return status_of(error) in _TRANSIENT
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ConnectError)


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub cannot be reached now, so that cached responses must be used."""
    return status_of(error) in _TRANSIENT or isinstance(error, (OfflineModeIsEnabled, httpx.TransportError))


def requested_wait(error: Exception) -> float:
    """Seconds to wait according to the response: at most 60, or 300 for a rate limit; 0 if it does not say."""
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    headers = error.response.headers
    requested = re.search(r"\bt=(\d+)", headers.get("RateLimit", "")) or re.match(
        r"(\d+)$", headers.get("Retry-After", "")
    )
    return min(float(requested[1]), _LIMIT_WINDOW if status_of(error) == 429 else _MAX_WAIT) if requested else 0.0


# --- in parallel ------------------------------------------------------------------------------------------------------


def map_parallel(function: Callable[[A], T], items: Sequence[A], name: str = "") -> list[T]:
    """Apply a function to items in parallel threads, up to its first error; ``name`` is the title of a progress bar."""
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
    """A file of a repo at some commit: size in bytes and hash, as the Hub lists them.

    The hash is the sha256 of the content of a large file (64 hex digits), else git's blob id (40 hex digits).
    """

    size: int
    oid: str


@dataclass(frozen=True, slots=True)
class Head:
    """A commit of a repo, ``model`` or ``dataset``, with its files by path.

    The repo has its own name even if it was asked for by an old one, or in another case.
    """

    repo_id: str
    repo_type: str
    sha: str
    files: Mapping[str, RepoFile]

    @property
    def model_files(self) -> dict[str, str]:
        """Oids of the files that affect a model's output."""
        names = [path for path in self.files if is_model_file(path) and path.endswith(MODEL_SUFFIXES)]
        return {name: self.files[name].oid for name in names}

    def holds(self, path: str, content: bytes | Path) -> bool:
        """Whether the commit has a file with this content, given in memory or as a file."""
        return path in self.files and (oid := self.files[path].oid) == _oid_of(content, len(oid))


def is_model_file(path: str) -> bool:
    """Whether models load files at this path: at the root, and in the modules of sentence-transformers."""
    return "/" not in path or bool(_MODULE_FOLDER.fullmatch(path))


def fetch_head(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None, *, patient: bool = True) -> Head:
    """Request the commit and the files of a revision; ``patient`` as for :func:`retried`."""
    request = partial(api.repo_info, repo_id, repo_type=repo_type, revision=revision, files_metadata=True)
    info = retried(partial(request, timeout=TIMEOUT_SECONDS), patient=patient)
    if not FULL_SHA.fullmatch(str(info.sha)):
        raise HubError(repo_id, "has no commit on the Hub; check that the repo is not empty")
    files = {}
    for sibling in getattr(info, "siblings", None) or ():
        size, oid = sibling.size or 0, (sibling.lfs.sha256 if sibling.lfs else sibling.blob_id) or ""
        if not (isinstance(sibling.rfilename, str) and isinstance(oid, str) and isinstance(size, int) and size >= 0):
            raise HubError(repo_id, unparsable(f"a file is listed as {sibling!r:.100}"))
        files[sibling.rfilename] = RepoFile(size, oid)
    try:
        validate_repo_id(info.id)
    except HFValidationError as error:
        raise HubError(repo_id, unparsable(error)) from None
    return Head(info.id, repo_type, str(info.sha), files)


def read_head(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> Head:
    """The commit and the files of a revision: one request, none for a full sha whose response is cached.

    If the Hub cannot be reached, the cached response is used.

    Raises:
        HubError: There is no such repo or revision, or the Hub cannot be reached and nothing is cached.
    """
    revision = revision or "main"
    cached = _cached_head(repo_id, repo_type, revision)
    if cached and FULL_SHA.fullmatch(revision):
        return cached
    with hub_errors(repo_id):
        head = ask_or_cached(cached, lambda patient: fetch_head(api, repo_id, repo_type, revision, patient=patient))
    for name in {revision, head.sha}:
        cache_response(f"{repo_type}/{repo_id}@{name}", asdict(head))
    return head


def repo_files(repo_id: str, revision: str | None = None, token: str | bool | None = None) -> dict[str, str]:
    """Content ids by path of a model repo's files, without a download; see :class:`RepoFile` and :func:`read_head`."""
    return {path: file.oid for path, file in read_head(connect(token), repo_id, "model", revision).files.items()}


def _cached_head(repo_id: str, repo_type: str, revision: str) -> Head | None:
    document = cached_response(f"{repo_type}/{repo_id}@{revision}")
    try:
        files = {path: RepoFile(file["size"], file["oid"]) for path, file in document["files"].items()}
        return Head(document["repo_id"], repo_type, document["sha"], files)
    except (LookupError, TypeError, AttributeError):
        return None  # not cached, or written by another version


def list_model_repos(
    api: HfApi, query: Mapping[str, str | Sequence[str]], *, patient: bool = True
) -> Iterator[dict[str, Any]]:
    """List models on the Hub: one request per page, sent when the page's first model is needed.

    Replaces ``HfApi.list_models``, which takes half a minute to fail if the Hub cannot be reached, fails on one entry
    that it cannot parse, and sends the token to any host that a page links to. ``query`` has the parameters of the
    listing: ``filter`` (tags), ``expand`` (fields besides ``id``), ``limit`` (the size of a page, 1,000 at most and by
    default), ...; ``patient`` is as for :func:`retried`. Entries are not validated.
    """
    url, params = f"{api.endpoint}/api/models", query
    headers = build_hf_headers(token=api.token, library_name=api.library_name, library_version=api.library_version)

    def get() -> httpx.Response:
        response = get_session().get(url, params=params, headers=headers, timeout=TIMEOUT_SECONDS)
        hf_raise_for_status(response)
        return response

    listed = 0
    while listed < _MAX_LISTED:
        page = retried(get, patient=patient)
        entries = page.json()
        if not isinstance(entries, list):
            raise HubError("hub", unparsable("a listing is not a list"))
        yield from (entry for entry in entries if isinstance(entry, dict))
        listed += len(entries)
        if not entries or "next" not in page.links:
            break
        params = parse_qs(urlsplit(page.links["next"]["url"]).query)  # a mirror's pages may link to the Hub itself


# --- cached responses, for when the Hub cannot be reached -------------------------------------------------------------


def ask_or_cached(cached: T | None, ask: Callable[[bool], T]) -> T:
    """The result of ``ask``, or the cached one if the Hub cannot be reached; waits for rate limits only without one."""
    try:
        return ask(cached is None)
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx.TransportError) as error:
        if cached is None or not is_unreachable(error):
            raise
        return cached


def cache_response(question: str, response: object) -> None:
    """Store a response of the Hub on disk, unless the disk is full or read-only."""
    with contextlib.suppress(StorageError):
        write_atomically(_response_file(question), json.dumps(response).encode())


def cached_response(question: str) -> Any:  # noqa: ANN401 - parsed JSON
    """The cached response to a question; None if there is none, or it cannot be read."""
    try:
        return json.loads(_response_file(question).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _response_file(question: str) -> Path:
    key = hashlib.sha256(f"{constants.ENDPOINT} {question}".encode()).hexdigest()[:32]
    return Path(constants.HF_ASSETS_CACHE) / "mll_hf" / "answers" / f"{key}.json"


# --- files ------------------------------------------------------------------------------------------------------------


def download(
    api: HfApi, repo_id: str, repo_type: str, path: str, revision: str, max_bytes: int, listed: RepoFile | None = None
) -> Path:
    """A file at a pinned commit, from the cache or the Hub: one request, and one to the storage of large files.

    ``hf_hub_download`` sends two, and with Xet a third for each repo to the Hub's API, which allows 500 in five
    minutes. Files are cached by the hash of their content, so a file that a new commit does not change is not
    downloaded again. Files larger than ``max_bytes`` are refused before they are downloaded. If ``listed``, the Hub's
    listing of the file, is given, the content is checked against it.

    Raises:
        HubError: The file cannot be downloaded, or is too large.
        LabelError: The content does not have the listed hash.
    """
    question = f"{repo_type}/{repo_id}@{revision}/{path}"
    url = hf_hub_url(repo_id, path, repo_type=repo_type, revision=revision, endpoint=api.endpoint)
    oid = listed.oid if listed else None

    def check_size(size: int) -> None:
        if size > max_bytes:
            reason = f"{path} is larger than {max_bytes / 2**20:.0f} MB and was not downloaded; tell its owner"
            raise HubError(repo_id, reason)

    check_size(listed.size if listed else 0)
    with hub_errors(repo_id):
        cached = _cached_file(oid or cached_response(question))
        if file := cached or _cached_by_client(repo_id, repo_type, path, revision, oid):
            check_size(file.stat().st_size)
            return file
        _files().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_files()) as folder:
            part = Path(folder) / "part"
            part.touch()
            stated = retried(lambda: _get(api, repo_id, url, part, check_size))
            expected = oid or stated or _oid_of(part)
            if (file := _cached_file(expected)) is None:
                if _oid_of(part, len(expected)) != expected:
                    reason = "does not have the hash that the Hub lists; try again, or tell its owner"
                    raise LabelError(reason, Path(repo_id) / path) if oid else HubError(repo_id, f"{path} {reason}")
                file = part.replace(_files() / expected)
        check_size(file.stat().st_size)
    cache_response(question, expected)
    return file


def _get(api: HfApi, repo_id: str, url: str, part: Path, check_size: Callable[[int], None]) -> str | None:
    """Download the missing part of a file, unless its content is cached; returns the hash that the Hub lists."""
    headers = build_hf_headers(token=api.token, library_name=api.library_name, library_version=api.library_version)
    headers["Accept-Encoding"] = "identity"
    listed, on_hub = None, True
    for _ in range(_MAX_REDIRECTS):
        done = part.stat().st_size
        sent = headers | ({"Range": f"bytes={done}-"} if done else {})
        with get_session().stream(
            "GET", url, headers=sent, timeout=TIMEOUT_SECONDS, follow_redirects=False
        ) as response:
            hf_raise_for_status(response)
            if on_hub:  # an ETag of another host may look like a hash of the content, but is not one
                listed = listed or _listed_oid(response)
            if _cached_file(listed):
                return listed
            if not response.has_redirect_location:
                _save(response, part, check_size)
                return listed
            check_size(_length(response, "X-Linked-Size"))
            target = response.url.join(response.headers["Location"])
            if (target.scheme, target.host, target.port) != (response.url.scheme, response.url.host, response.url.port):
                headers.pop("authorization", None)
                on_hub = False
            url = str(target)
    raise HubError(repo_id, unparsable("too many redirects"))


def _save(response: httpx.Response, part: Path, check_size: Callable[[int], None]) -> None:
    """Write or append the body of a response to a file."""
    with part.open("ab" if response.status_code == 206 else "wb") as file:
        check_size(file.tell() + _length(response, "Content-Length"))
        for chunk in response.iter_raw():
            file.write(chunk)
            check_size(file.tell())


def _length(response: httpx.Response, header: str) -> int:
    """The number of bytes in a header; 0 if it is missing, since the bytes received are counted anyway."""
    stated = response.headers.get(header, "")
    return int(stated) if stated.isdecimal() else 0


def _listed_oid(response: httpx.Response) -> str | None:
    """The hash of a file's content in a response of the Hub: sha256 of a large file, else git's blob id."""
    own = "" if response.has_redirect_location else response.headers.get("ETag", "")
    etag: str = response.headers.get("X-Linked-Etag", own)
    oid = etag.removeprefix("W/").strip('"')
    return oid if _OID.fullmatch(oid) else None


def _oid_of(content: bytes | Path, digits: int = _SHA256_LENGTH) -> str:
    """Hash of bytes or of a file as the Hub would list it, see :class:`RepoFile`, with this number of hex digits."""
    if digits == _SHA256_LENGTH:  # that of a file is cached: large files are read once
        return file_digest(content).hex() if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
    content = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _files() -> Path:
    """Folder of downloaded files, by hash."""
    return Path(constants.HF_ASSETS_CACHE) / "mll_hf" / "files"


def _cached_file(oid: object) -> Path | None:
    """The cached file with this hash; a damaged one is deleted."""
    file = _files() / oid if isinstance(oid, str) and _OID.fullmatch(oid) else None
    if file is None or not file.exists():
        return None
    if _oid_of(file, len(file.name)) == file.name:
        return file
    file.unlink(missing_ok=True)
    return None


def _cached_by_client(repo_id: str, repo_type: str, path: str, revision: str, oid: str | None) -> Path | None:
    """A file in the cache of the Hub's client, such as a graph that was downloaded with its images."""
    if ".." in path or Path(path).is_absolute():
        return None
    cached = try_to_load_from_cache(repo_id, path, revision=revision, repo_type=repo_type)
    file = Path(cached) if isinstance(cached, str) else None
    return file if file and (oid is None or _oid_of(file, len(oid)) == oid) else None
