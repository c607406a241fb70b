"""An in-process Hugging Face Hub for tests: repositories, commits, pull requests and files over real HTTP.

Keeps everything in memory and implements the part of the protocol that huggingface_hub, transformers, open_clip and
datasets use.

    server = tiny_hub.serve()            # then point HF_ENDPOINT at tiny_hub.endpoint(server)
    tiny_hub.HUB.requests                # requests so far, e.g. "HEAD /alice/m/resolve/main/config.json"
    tiny_hub.HUB.fail("/commit/", 500)   # the next commit fails
    tiny_hub.HUB.before("/commit/", act) # `act()` is called before the next commit is handled
    tiny_hub.HUB.limit(api=500)          # at most 500 requests to the API per user in five minutes
    tiny_hub.HUB.xet = True              # large files are in Xet storage, which tiny_xet imitates
    tiny_hub.HUB.orgs["acme"] = {"bob": "contributor"}  # an organization: roles of its members
    tiny_hub.HUB.scopes["hf_test_token"] = {"alice/m"}  # a fine-grained token, which may write to these alone

What a user sees: public repos; private ones of his own and of his organizations; of a gated repo everything but the
files, unless he owns it or is among `repo.granted`. A repo that he may not see is missing: 404 with a token, 401
without one. A contributor of an organization may write to what he created there. A token that nobody has is refused
everywhere. Who reads a repo by an old name, or in another case, is redirected; who writes is not.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PAGE_SIZE = 3  # default; small, so that clients must follow pages
MAX_PER_PAGE = 1000
WINDOW_SECONDS = 300
LFS_THRESHOLD = 10 * 2**20
LFS_SUFFIXES = (".safetensors", ".model", ".parquet", ".bin", ".npz", ".arrow", ".png", ".jpg")
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
SORTED_BY = {"downloads": "downloads", "likes": "likes", "lastModified": "modified", "createdAt": "created"}
TOKENS = {"hf_test_token": "alice", "hf_reader_token": "bob", "hf_third_token": "carol", "hf_read_only_token": "alice"}
READ_ONLY_TOKENS = ("hf_read_only_token",)
COUNTED = re.compile(  # the Hub counts every HEAD and GET of these as a download of the model
    r"(HEAD|GET) /[^/]+/[^/]+/resolve/[^/]+/"
    r"(config\.json|config\.yaml|hyperparams\.yaml|params\.json|meta\.yaml|(open_clip_)?(model\.safetensors|.*\.bin))"
)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def is_large(path: str, size: int) -> bool:
    """Whether the Hub stores a file outside of git."""
    return size >= LFS_THRESHOLD or path.endswith(LFS_SUFFIXES)


def git_sha(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Request(str):
    """A request as text (method and path), with its headers and query.

    Attributes:
        user: The user of the token; None without one.
        headers: As sent.
        query: {name: values}.
    """

    user: str | None
    headers: Mapping[str, str]
    query: dict[str, list[str]]


@dataclass
class Disturbance:
    """A planned fault of the next requests that match a pattern; see `Hub.fail` and `Hub.before`."""

    pattern: str
    times: int
    status: int | None = None
    headers: dict = field(default_factory=dict)
    delay: float = 0.0
    drop: str | None = None
    cut: int | None = None
    alter: Callable[[bytes], bytes | Iterable[bytes]] | None = None
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class XetFault:
    """A planned fault of a transfer through Xet; see `Hub.fail_xet`."""

    during: str
    error: Exception | None
    half: bool


class Repo:
    """One repository; a commit has the whole file list, {path: {"oid", "size", "data" or "lfs"}}."""

    def __init__(self, kind: str, repo_id: str, private: bool, creator: str | None = None):
        self.kind, self.id, self.private = kind, repo_id, private
        self.creator = creator or self.owner
        self.gated = False
        self.granted: set[str] = set()  # users with access to the files of a gated repo, besides the owner
        self.downloads = self.likes = 0
        self.created = now()
        self.commits: dict[str, dict] = {}
        self.refs: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.discussions: list[dict] = []
        self.commit("main", {}, "initial commit", None, self.owner)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def prefix(self) -> str:
        return "" if self.kind == "model" else f"{self.kind}s/"

    @property
    def files(self) -> dict:
        """The files on main."""
        return self.commits[self.refs["main"]]["files"]

    @property
    def modified(self) -> str:
        """Date of the last commit on main."""
        return self.commits[self.refs["main"]]["date"]

    def is_visible_to(self, user: str | None) -> bool:
        return not self.private or bool(HUB.role_of(user, self.owner))

    def is_readable_by(self, user: str | None) -> bool:
        """Whether a user who sees the repo may read its files."""
        return not self.gated or bool(HUB.role_of(user, self.owner)) or user in self.granted

    def is_writable_by(self, user: str | None) -> bool:
        role = HUB.role_of(user, self.owner)
        return role in ("admin", "write") or (role == "contributor" and user == self.creator)

    def commit(self, ref: str, files: dict, title: str, parent: str | None, author: str) -> str:
        oid = hashlib.sha1(f"{time.time_ns()}{len(self.commits)}{title}{sorted(files)}".encode()).hexdigest()
        self.commits[oid] = {"files": files, "title": title, "parent": parent, "date": now(), "author": author}
        self.refs[ref] = oid
        return oid

    def history(self, oid: str | None) -> list[str]:
        """A commit and its ancestors, newest first."""
        found = []
        while oid:
            found.append(oid)
            oid = self.commits[oid]["parent"]
        return found

    def resolve(self, revision: str) -> str | None:
        known = self.refs.get(revision) or self.tags.get(revision)
        return known or next((oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)), None)


class Hub:
    """All state. Call `reset` between tests; `down` makes every request fail with 503.

    Attributes:
        elapsed: Seconds that the Hub's clock is ahead; tests add to it instead of waiting.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.in_progress = 0
        self.reset()

    def reset(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.moved: dict[tuple[str, str], str] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.disturbances: list[Disturbance] = []
        self.limits: dict[str, int] = {}
        self.orgs: dict[str, dict[str, str]] = {}  # roles (admin, write, contributor, read) by organization and member
        self.scopes: dict[str, set[str]] = {}  # repos that a fine-grained token may write to; others write to all
        self.used: Counter[tuple[str, str | None]] = Counter()  # requests in this window by bucket and user
        self.elapsed, self.window_start = 0.0, time.monotonic()
        self.xet = self.down = False
        self.committing: set[str] = set()  # paths of the API, up to the repository
        self.xet_faults: list[XetFault] = []

    def role_of(self, user: str | None, namespace: str) -> str | None:
        """What a user may do in a namespace, his own or an organization's."""
        return "admin" if user == namespace else self.orgs.get(namespace, {}).get(user or "")

    def fail(self, pattern: str, status: int | None = None, *, times: int = 1, method: str = "", **how):
        """Make the next `times` requests with a matching method and path fail.

        Args:
            pattern: Regular expression of a part of the path.
            status: Status of the response; the request is not handled.
            times: Number of requests.
            method: Regular expression; default: any.
            how: Other faults: `headers` override those of the response; `delay`, seconds before the request is handled;
                `drop`, the connection is lost "before" or "after" the request is handled; `cut`, it is lost after
                this many bytes of the body; `alter`, a function from the true body to a different one, or to an
                iterator of chunks.
        """
        self.disturbances.append(Disturbance(f"({method or '.*'}) .*{pattern}", times, status, **how))

    def before(self, pattern: str, act: Callable[[], object], *, times: int = 1, method: str = ""):
        """Call `act`, which may send requests itself, before each of the next `times` matching requests."""
        self.disturbances.append(Disturbance(f"({method or '.*'}) .*{pattern}", times, before=act))

    def limit(self, **quotas: int):
        """Limit the requests of each user in five minutes: to the `api`, to the `resolvers`."""
        self.limits = quotas
        self.used.clear()
        self.window_start = time.monotonic() + self.elapsed

    def quota(self, bucket: str, user: str | None) -> tuple[int, int]:
        """Count a request; returns the requests left (negative if refused) and the seconds until the window ends."""
        seconds = time.monotonic() + self.elapsed
        if seconds >= self.window_start + WINDOW_SECONDS:
            self.used.clear()
            self.window_start = seconds
        left = self.limits[bucket] - self.used[bucket, user] - 1
        self.used[bucket, user] += left >= 0
        return left, math.ceil(self.window_start + WINDOW_SECONDS - seconds)

    def fail_xet(self, during: str, error: Exception | None = None, *, half: bool = False, times: int = 1):
        """Make the next transfers "up" or "down" through Xet fail when the client calls hf_xet.

        Args:
            during: Direction.
            error: The error, such as `RuntimeError("Data processing error: ...")`; None for silent damage.
            half: Whether half of the file is written first.
            times: Number of transfers.
        """
        self.xet_faults += [XetFault(during, error, half)] * times

    def disturbance(self, request: Request) -> Disturbance | None:
        """The planned fault of a request, if there is one."""
        for planned in self.disturbances:
            if planned.times > 0 and re.match(planned.pattern, request):
                planned.times -= 1
                return planned
        return None

    def wait_until_idle(self):
        """Wait until all requests are handled, including those of disconnected clients."""
        while self.in_progress:
            time.sleep(0.001)

    @property
    def counted(self) -> list[Request]:
        """Requests that the Hub counts as downloads."""
        return [request for request in self.requests if COUNTED.fullmatch(request)]

    def put(self, kind: str, repo_id: str, files: Mapping[str, bytes | None], author: str | None = None) -> str:
        """Commit files to main without a request (None deletes one); creates the repository if needed."""
        with self.lock:
            repo = self.repos.get((kind, repo_id)) or Repo(kind, repo_id, private=False)
            self.repos[kind, repo_id] = repo
            changed = {path: None if content is None else self.stored(path, content) for path, content in files.items()}
            after = {path: file for path, file in {**repo.files, **changed}.items() if file}
            return repo.commit("main", after, "put", repo.refs["main"], author or repo.owner)

    def rename(self, kind: str, repo_id: str, new_id: str):
        """Move a repository; the Hub redirects readers from its old name."""
        with self.lock:
            repo = self.repos.pop((kind, repo_id))
            repo.id = new_id
            self.repos[kind, new_id], self.moved[kind, repo_id] = repo, new_id

    def true_name(self, kind: str, repo_id: str) -> str | None:
        """Name of a repository that is asked for by an old name, or in another case; None if it has this name."""
        name = self.moved.get((kind, repo_id), repo_id).lower()
        names = [] if (kind, repo_id) in self.repos else [each for of, each in self.repos if of == kind]
        return next((each for each in names if each.lower() == name), None)

    def stored(self, path: str, content: bytes) -> dict:
        """A file as stored in a commit."""
        if not is_large(path, len(content)):
            return {"oid": git_sha(content), "size": len(content), "data": content}
        sha256 = hashlib.sha256(content).hexdigest()
        self.lfs[sha256] = content
        return {"oid": git_sha(sha256.encode()), "size": len(content), "lfs": sha256}

    def files(self, kind: str, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Content of all files of a repository."""
        repo = self.repos[kind, repo_id]
        return {path: self.content(file) for path, file in repo.commits[repo.resolve(revision)]["files"].items()}

    def content(self, file: dict) -> bytes:
        return self.lfs[file["lfs"]] if "lfs" in file else file["data"]

    def card(self, files: dict) -> dict:
        if "README.md" not in files:
            return {}
        return card_data(self.content(files["README.md"]))

    def info(self, repo: Repo, oid: str, query: dict) -> dict:
        files, card = repo.commits[oid]["files"], self.card(repo.commits[oid]["files"])
        info = {
            "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24],
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.owner,
            "sha": oid,
            "lastModified": repo.commits[oid]["date"],
            "createdAt": repo.created,
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
            "downloads": repo.downloads,
            "likes": repo.likes,
            "tags": computed_tags(card, files),
            "library_name": card.get("library_name"),
            "pipeline_tag": card.get("pipeline_tag"),
            "cardData": card,
            "model-index": card.get("model-index"),
            "siblings": [self.sibling(path, file, "blobs" in query) for path, file in sorted(files.items())],
        }
        wanted = {*query["expand"], "_id", "id", "modelId"} if "expand" in query else set(info)
        return {key: value for key, value in info.items() if key in wanted}

    def sibling(self, path: str, file: dict, blobs: bool) -> dict:
        entry = {"rfilename": path}
        if blobs:
            entry |= {"size": file["size"], "blobId": file["oid"]}
            if "lfs" in file:
                entry["lfs"] = {"sha256": file["lfs"], "size": file["size"], "pointerSize": 134}
        return entry


@lru_cache(maxsize=1000)
def card_data(readme: bytes) -> dict:
    """The metadata of a card; empty if it is not a YAML mapping."""
    match = re.match(r"^---\s*\n(.*?)\n---\s*\n?", readme.decode("utf8", "replace"), re.S)
    try:
        card = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:
        return {}
    return card if isinstance(card, dict) else {}


def computed_tags(card: dict, files: dict) -> list[str]:
    """The searchable tags that the Hub derives from a card and the files."""

    def listed(key: str) -> list[str]:
        value = card.get(key) or []
        return [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []

    tags = listed("library_name") + listed("tags") + listed("pipeline_tag") + listed("language")
    tags += [f"dataset:{name}" for name in listed("datasets")] + [f"base_model:{name}" for name in listed("base_model")]
    tags += [f"license:{name}" for name in listed("license")]
    tags += ["safetensors"] if any(path.endswith(".safetensors") for path in files) else []
    return list(dict.fromkeys([*tags, "region:us"]))


HUB = Hub()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    commits_to = ""  # the repository that this request commits to
    disable_nagle_algorithm = True  # head and body are two packets; send the second at once

    def log_message(self, *args):
        pass

    # ---- plumbing

    def handle(self):
        with contextlib.suppress(ConnectionError):  # the client disconnected
            super().handle()

    def handle_request(self):
        with HUB.lock:
            HUB.in_progress += 1
        try:
            self.handle_disturbed()
        finally:
            with HUB.lock:
                HUB.in_progress -= 1
                HUB.committing.discard(self.commits_to)

    def handle_disturbed(self):
        self.body, self.quota_headers, self.commits_to = self.read_body(), {}, ""
        url = urlsplit(self.path)
        repo, to_commit, _ = url.path.partition("/commit/")
        self.query = parse_qs(url.query)
        request = Request(f"{self.command} {unquote(url.path)}")
        request.user, request.headers, request.query = self.user, self.headers, self.query
        with HUB.lock:
            if url.path != "/api/agent-harnesses":  # the client requests this once a day
                HUB.requests.append(request)
            disturbance = HUB.disturbance(request) or Disturbance("", 0)
        if disturbance.before:
            disturbance.before()
        with HUB.lock:
            if to_commit and repo not in HUB.committing:
                HUB.committing.add(repo)
                self.commits_to = repo
        time.sleep(disturbance.delay)
        if disturbance.drop == "before":
            return self.hang_up()
        with HUB.lock:
            if HUB.down or disturbance.status:
                self.error(503 if HUB.down else disturbance.status, "", "planned by the test")
            elif to_commit and not self.commits_to:  # the real Hub takes one commit to a repository at a time
                self.error(409, "", "Another commit operation is in progress for this repository.")
            elif self.may_ask(url.path):
                self.route(url.path)
        if disturbance.drop == "after":
            return self.hang_up()
        return self.answer(disturbance)

    def may_ask(self, path: str) -> bool:
        """Whether token and rate limit allow a request; otherwise prepares the error."""
        if self.token and self.user is None and not path.startswith(("/_cdn/", "/_lfs/")):
            self.error(401, "", "Invalid credentials in Authorization header")
            return False
        bucket = "resolvers" if "/resolve/" in path else "api" if path.startswith("/api/") else None
        if bucket not in HUB.limits:
            return True
        left, seconds = HUB.quota(bucket, self.user)
        self.quota_headers = {
            "RateLimit": f'"{bucket}";r={max(0, left)};t={seconds}',
            "RateLimit-Policy": f'"fixed window";"{bucket}";q={HUB.limits[bucket]};w={WINDOW_SECONDS}',
        }
        if left < 0:
            self.error(429, "", f"Too Many Requests: you have reached the limit of {bucket}")
        return left >= 0

    def route(self, path: str):
        for methods, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods:
                names = {name: value and unquote(value) for name, value in match.groupdict().items()}
                kind, repo_id = KINDS[names.get("kind") or "models"], names.get("repo_id", "")
                if self.command in ("GET", "HEAD") and (name := HUB.true_name(kind, repo_id)):
                    return self.send(307, b"", {"Location": self.path.replace(repo_id, name, 1)})
                return answer(self, **names)
        return self.error(404, "", f"no route {self.command} {path}")

    def answer(self, disturbance: Disturbance):
        """Write the response that `send` prepared, with the planned fault."""
        status, headers, payload = self.prepared
        body = disturbance.alter(payload) if disturbance.alter else payload
        length = {"Content-Length": str(len(body))} if isinstance(body, bytes) else {"Connection": "close"}
        self.send_response(status)
        for name, value in {**headers, **self.quota_headers, **length, **disturbance.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for chunk in [body[: disturbance.cut]] if isinstance(body, bytes) else body:
            self.wfile.write(chunk)
        if not isinstance(body, bytes) or disturbance.cut is not None or "Content-Length" in disturbance.headers:
            self.hang_up()

    def hang_up(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_request  # noqa: N815

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def send(self, status, body=b"", headers=None, content_type="application/json"):
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.prepared = status, {"Content-Type": content_type, **(headers or {})}, payload

    def error(self, status, code, message):
        self.send(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def send_page(self, items: list):
        """One page of a listing, with a Link to the next one."""
        start = int(self.query.get("cursor", ["0"])[0])
        size = min(MAX_PER_PAGE, int(self.query.get("limit", [PAGE_SIZE])[0]))
        headers = {}
        if start + size < len(items):
            rest = re.sub(r"[?&]cursor=\d+", "", self.path)
            joint = "&" if "?" in rest else "?"
            headers["Link"] = f'<{self.base}{rest}{joint}cursor={start + size}>; rel="next"'
        self.send(200, items[start : start + size], headers)

    def send_bytes(self, content: bytes, headers: dict):
        headers = {**headers, "Accept-Ranges": "bytes"}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not match:
            return self.send(200, content, headers, "application/octet-stream")
        first = int(match[1])
        last = min(int(match[2] or len(content)), len(content) - 1)
        if first >= len(content):
            return self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.send(206, content[first : last + 1], headers, "application/octet-stream")

    @property
    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    @property
    def base(self) -> str:
        return f"http://{self.headers['Host']}"

    @property
    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    @property
    def user(self) -> str | None:
        return TOKENS.get(self.token)

    @property
    def may_write(self) -> bool:
        return self.token not in READ_ONLY_TOKENS

    def may_write_to(self, repo: Repo) -> bool:
        is_in_scope = repo.id in HUB.scopes.get(self.token, {repo.id})
        return self.may_write and is_in_scope and repo.is_writable_by(self.user)

    def repo(self, kind: str, repo_id: str) -> Repo | None:
        repo = HUB.repos.get((KINDS[kind], repo_id))
        if repo and repo.is_visible_to(self.user):
            return repo
        # over plain http the client recognizes a missing repository by this code alone
        self.error(404 if self.user else 401, "RepoNotFound", "Repository not found")
        return None

    def own_repo(self, kind: str, repo_id: str) -> Repo | None:
        """A repo that the user may change; otherwise prepares the error."""
        repo = self.repo(kind, repo_id)
        if repo is None or self.may_write_to(repo):
            return repo
        if self.user:
            self.error(403, "", "You don't have the rights to change this repository")
        else:
            self.error(401, "", "Invalid username or password.")
        return None

    def repo_at(self, kind: str, repo_id: str, revision: str) -> tuple[Repo, str] | tuple[None, None]:
        if (repo := self.repo(kind, repo_id)) is None:
            return None, None
        if (oid := repo.resolve(revision)) is None:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None, None
        return repo, oid

    # ---- account and repositories

    def whoami(self):
        if not self.user:
            return self.error(401, "", "Invalid username or password.")
        role = "fineGrained" if self.token in HUB.scopes else "write" if self.may_write else "read"
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        orgs = [{"name": org, "roleInOrg": of[self.user]} for org, of in HUB.orgs.items() if self.user in of]
        shown = {"name": self.user, "fullname": self.user, "avatarUrl": ""}
        return self.send(200, {"type": "user", **shown, "orgs": orgs, "auth": token})

    def create(self):
        kind = self.json.get("type", "model")
        repo_id = f"{self.json.get('organization') or self.user}/{self.json['name']}"
        repo = Repo(kind, repo_id, private=self.json.get("visibility") == "private", creator=self.user)
        answer = {"url": f"{self.base}/{repo.prefix}{repo_id}", "name": repo_id}
        if (kind, repo_id) in HUB.repos:
            return self.send(409, {"error": "already exists", **answer}, {"X-Error-Code": "RepoAlreadyExists"})
        if not self.may_write_to(repo):
            message = "You don't have the rights to create a repository under this namespace"
            return self.error(403 if self.user else 401, "", message)
        HUB.repos[kind, repo_id] = repo
        return self.send(200, answer)

    def delete(self):
        repo_id = f"{self.json.get('organization') or self.user}/{self.json['name']}"
        kind = self.json.get("type", "model")
        if self.own_repo(f"{kind}s", repo_id):
            del HUB.repos[kind, repo_id]
            self.send(200)

    def settings(self, kind, repo_id):
        if repo := self.own_repo(kind, repo_id):
            repo.gated = self.json.get("gated", repo.gated)
            repo.private = self.json.get("visibility", "private" if repo.private else "public") == "private"
            self.send(200, {})

    def validate_yaml(self):
        match = re.match(r"^---\s*\n(.*?)\n---", self.json["content"], re.S)
        try:
            card = yaml.safe_load(match[1] if match else "") or {}
        except yaml.YAMLError as error:
            return self.send(400, {"errors": [{"message": str(error)}], "warnings": []})
        link = card.get("license_link", "LICENSE") if isinstance(card, dict) else "LICENSE"
        if not re.match("LICENSE$|LICENSE.md$|https?://", str(link)):  # what the Hub's documentation of cards allows
            return self.send(400, {"errors": [{"message": '"license_link" must be a valid uri'}], "warnings": []})
        return self.send(200, {"errors": [], "warnings": []})

    # ---- reading about repositories

    def list_repos(self, kind):
        wanted, author = set(self.query.get("filter", [])), self.query.get("author", [None])[0]
        search = self.query.get("search", [""])[0].lower()
        found = []
        repos = sorted(HUB.repos.items())
        if sort := self.query.get("sort", [""])[0]:
            ascending = self.query.get("direction", ["-1"])[0] == "1"
            repos.sort(key=lambda item: getattr(item[1], SORTED_BY[sort]), reverse=not ascending)
        for (of_kind, repo_id), repo in repos:
            is_visible = of_kind == KINDS[kind] and repo.is_visible_to(self.user)
            if is_visible and author in (None, repo.owner) and search in repo_id.lower():
                info = HUB.info(repo, repo.refs["main"], {})
                if wanted <= set(info["tags"]):
                    found.append(HUB.info(repo, repo.refs["main"], self.query))
        self.send_page(found)

    def repo_info(self, kind, repo_id, revision=None):
        repo, oid = self.repo_at(kind, repo_id, revision or "main")
        if repo:
            self.send(200, HUB.info(repo, oid, self.query))

    def auth_check(self, kind, repo_id, write=None):
        if (repo := self.own_repo(kind, repo_id) if write else self.repo(kind, repo_id)) is None:
            return None
        if not repo.is_readable_by(self.user):
            return self.error(403 if self.user else 401, "GatedRepo", f"Access to {repo_id} is restricted.")
        return self.send(200, {})

    def tree(self, kind, repo_id, revision, folder=None):
        repo, oid = self.repo_at(kind, repo_id, revision)
        if repo is None:
            return None
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        start = f"{folder.strip('/')}/" if folder else ""
        entries = {}
        for path, file in sorted(repo.commits[oid]["files"].items()):
            if not path.startswith(start):
                continue
            parts = path.removeprefix(start).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                name = start + "/".join(parts[:depth])
                entries[name] = {"type": "directory", "oid": git_sha(name.encode()), "size": 0, "path": name}
            if recursive or len(parts) == 1:
                entries[path] = self.file_entry(path, file)
        if folder and not entries:
            return self.error(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        return self.send_page(list(entries.values()))

    def file_entry(self, path, file) -> dict:
        lfs = {"lfs": {"oid": file["lfs"], "size": file["size"], "pointerSize": 134}} if "lfs" in file else {}
        xet = {"xetHash": xet_hash(file["lfs"])} if "lfs" in file and HUB.xet else {}
        return {"type": "file", "oid": file["oid"], "size": file["size"], "path": path, **lfs, **xet}

    def paths_info(self, kind, repo_id, revision):
        repo, oid = self.repo_at(kind, repo_id, revision)
        if repo:
            files = repo.commits[oid]["files"]
            paths = parse_qs(self.body.decode())["paths"]
            self.send(200, [self.file_entry(path, files[path]) for path in paths if path in files])

    def branch(self, kind, repo_id, name):
        if repo := self.own_repo(kind, repo_id):
            repo.refs[name] = repo.resolve(self.json.get("startingPoint", "main"))
            self.send(201)

    def tag(self, kind, repo_id, name):
        if repo := self.own_repo(kind, repo_id):
            repo.tags[self.json["tag"]] = repo.resolve(name)
            self.send(201)

    # ---- writing

    def may_commit(self, repo: Repo) -> bool:
        """Whether the user may commit or open a pull request; otherwise prepares the error."""
        if not self.user:
            self.error(401, "", "Invalid username or password.")
            return False
        proposes = self.query.get("create_pr") == ["1"]
        if self.may_write_to(repo) or (self.may_write and proposes):
            return True
        self.error(403, "", "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return False

    def preupload(self, kind, repo_id, revision):
        repo, oid = self.repo_at(kind, repo_id, revision)
        if repo is None or not self.may_commit(repo):
            return
        current, answer = repo.commits[oid]["files"], []
        for file in self.json["files"]:
            mode = "lfs" if is_large(file["path"], file["size"]) else "regular"
            entry = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if old := current.get(file["path"]):
                entry["oid"] = old.get("lfs") or old["oid"]
            answer.append(entry)
        self.send(200, {"files": answer})

    def lfs_batch(self, repo_id):
        objects = []
        for wanted in self.json["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in HUB.lfs:
                entry["actions"] = {"upload": {"href": f"{self.base}/_lfs/{wanted['oid']}"}}
            objects.append(entry)
        self.send(200, {"transfer": "basic", "objects": objects}, content_type="application/vnd.git-lfs+json")

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.error(400, "", "the content is not what was announced")
        HUB.lfs[oid] = self.body
        return self.send(200, b"", {"ETag": f'"{oid}"'})

    def commit(self, kind, repo_id, revision):
        repo, parent = self.repo_at(kind, repo_id, revision)
        if repo is None:
            return None
        if not self.may_commit(repo):
            return None
        as_pull_request = self.query.get("create_pr") == ["1"]
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        expected = header.get("parentCommit") or ""
        if as_pull_request:  # based on the commit that it was prepared for
            parent = repo.resolve(expected) or parent
        elif not parent.startswith(expected):
            return self.error(412, "", "A commit has happened since. Please refresh and try again.")
        files = apply_operations(repo.commits[parent]["files"], lines)
        number = len(repo.discussions) + 1
        branch = f"refs/pr/{number}" if as_pull_request else revision
        oid = repo.commit(branch, files, header["summary"], parent, self.user)
        url = f"{self.base}/{repo.prefix}{repo_id}"
        answer = {"success": True, "commitUrl": f"{url}/commit/{oid}", "commitOid": oid, "hookOutput": ""}
        if as_pull_request:
            repo.discussions.append({"title": header["summary"], "status": "open"})
            answer["pullRequestUrl"] = f"{url}/discussions/{number}"
        return self.send(200, answer)

    # ---- Xet

    def xet_token(self, kind, repo_id, revision, access):
        repo = self.repo(kind, repo_id)
        if repo is None or (access == "write" and not self.may_commit(repo)):
            return None
        if not repo.is_readable_by(self.user):
            return self.error(403 if self.user else 401, "GatedRepo", f"Access to {repo_id} is restricted.")
        token = {"X-Xet-Access-Token": f"xet_{access}", "X-Xet-Token-Expiration": str(int(time.time()) + 3600)}
        return self.send(200, {}, {"X-Xet-Cas-Url": f"{self.base}/_cas", **token})

    # ---- files

    def resolve_file(self, repo_id, revision, path, kind=None):
        repo, oid = self.repo_at(kind or "models", repo_id, revision)
        if repo is None:
            return None
        if not repo.is_readable_by(self.user):
            return self.error(403 if self.user else 401, "GatedRepo", f"Access to {repo_id} is restricted.")
        file = repo.commits[oid]["files"].get(path)
        headers = {"X-Repo-Commit": oid}
        if file is None:
            missing = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.send(404, {"error": "Entry not found"}, headers | missing)
        headers["ETag"] = f'"{file["oid"]}"'
        if "lfs" not in file:
            return self.send_bytes(file["data"], headers)
        # to another origin, like the real Hub: on a redirect to the same origin, the client loses X-Repo-Commit
        location = f"http://localhost:{self.server.server_address[1]}/_cdn/{file['lfs']}"
        linked = {"X-Linked-Size": str(file["size"]), "X-Linked-Etag": f'"{file["lfs"]}"', "Location": location}
        if HUB.xet:
            route = f"{self.base}/api/{repo.kind}s/{repo_id}/xet-read-token/{oid}"
            linked |= {"X-Xet-Hash": xet_hash(file["lfs"]), "X-Xet-Refresh-Route": route}
        return self.send(302, b"", headers | linked)

    def cdn(self, oid):
        self.send_bytes(HUB.lfs[oid], {"ETag": f'"{oid}"'})


def xet_hash(sha256: str) -> str:
    """The name of a file in Xet storage, which is not the hash of its content."""
    return hashlib.sha256(f"xet {sha256}".encode()).hexdigest()


def apply_operations(files: dict, lines: list[dict]) -> dict:
    """The file list after a commit's operations."""
    files = dict(files)
    for line in lines:
        value = line["value"]
        match line["key"]:
            case "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = {"oid": git_sha(content), "size": len(content), "data": content}
            case "lfsFile":
                size = len(HUB.lfs[value["oid"]])
                files[value["path"]] = {"oid": git_sha(value["oid"].encode()), "size": size, "lfs": value["oid"]}
            case "deletedFile":
                files.pop(value["path"])
    return files


KIND = r"(?P<kind>models|datasets|spaces)"
REPO = r"(?P<repo_id>[^/]+/[^/]+?)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    (("GET",), r"/api/whoami-v2", Handler.whoami),
    (("POST",), r"/api/repos/create", Handler.create),
    (("DELETE",), r"/api/repos/delete", Handler.delete),
    (("POST",), r"/api/validate-yaml", Handler.validate_yaml),
    (("GET",), rf"/api/{KIND}", Handler.list_repos),
    (("PUT",), rf"/api/{KIND}/{REPO}/settings", Handler.settings),
    (("GET",), rf"/api/{KIND}/{REPO}/auth-check(?P<write>/write)?", Handler.auth_check),
    (("GET",), rf"/api/{KIND}/{REPO}/tree/{REVISION}(?:/(?P<folder>.+))?", Handler.tree),
    (("POST",), rf"/api/{KIND}/{REPO}/paths-info/{REVISION}", Handler.paths_info),
    (("POST",), rf"/api/{KIND}/{REPO}/preupload/{REVISION}", Handler.preupload),
    (("POST",), rf"/api/{KIND}/{REPO}/commit/{REVISION}", Handler.commit),
    (("GET",), rf"/api/{KIND}/{REPO}/xet-(?P<access>read|write)-token/{REVISION}", Handler.xet_token),
    (("POST",), rf"/api/{KIND}/{REPO}/branch/(?P<name>[^/]+)", Handler.branch),
    (("POST",), rf"/api/{KIND}/{REPO}/tag/(?P<name>[^/]+)", Handler.tag),
    (("GET",), rf"/api/{KIND}/{REPO}/revision/{REVISION}", Handler.repo_info),
    (("GET",), rf"/api/{KIND}/{REPO}", Handler.repo_info),
    (("POST",), rf"/(?:datasets/|spaces/)?{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("PUT",), r"/_lfs/(?P<oid>\w+)", Handler.lfs_put),
    (("HEAD", "GET"), r"/_cdn/(?P<oid>\w+)", Handler.cdn),
    (
        ("HEAD", "GET"),
        rf"/(?:(?P<kind>datasets|spaces)/)?{REPO}/resolve/{REVISION}/(?P<path>.+)",
        Handler.resolve_file,
    ),
]


def serve() -> ThreadingHTTPServer:
    """Start a Hub on a free port of the loopback interface."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def endpoint(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"
