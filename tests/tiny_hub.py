"""A Hugging Face Hub in this process, for tests: repositories, commits, pull requests and files over real HTTP.

It holds everything in memory and speaks just enough of the wire protocol for huggingface_hub, transformers, open_clip
and datasets. Known simplifications: listings show public repositories only and ignore sorting; merging a pull request
takes its files as they are.

    server = tiny_hub.serve()            # then point HF_ENDPOINT at tiny_hub.endpoint(server)
    tiny_hub.HUB.requests                # what was asked, e.g. "HEAD /alice/m/resolve/main/config.json"
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

PAGE_SIZE = 3  # small, so that clients must follow pages
LFS_THRESHOLD = 10 * 2**20
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".npz", ".arrow", ".png", ".jpg")
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
TOKENS = {"hf_test_token": "alice", "hf_reader_token": "bob"}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def git_sha(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repo:
    """One repository: commits hold whole file lists, {path: {"oid", "size", "data" or "lfs"}}."""

    def __init__(self, kind: str, repo_id: str, private: bool):
        self.kind, self.id, self.private = kind, repo_id, private
        self.gated = False
        self.created = now()
        self.commits: dict[str, dict] = {}
        self.refs: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.discussions: list[dict] = []
        self.commit("main", {}, "initial commit", None)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def prefix(self) -> str:
        return "" if self.kind == "model" else f"{self.kind}s/"

    def commit(self, ref: str, files: dict, title: str, parent: str | None) -> str:
        oid = hashlib.sha1(f"{time.time_ns()}{title}{sorted(files)}".encode()).hexdigest()
        self.commits[oid] = {"files": files, "title": title, "parent": parent, "date": now()}
        self.refs[ref] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        known = self.refs.get(revision) or self.tags.get(revision)
        return known or next((oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)), None)


class Hub:
    """All state. `reset` between tests; `down` makes every request fail with 503."""

    def __init__(self):
        self.lock = threading.RLock()
        self.reset()

    def reset(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.down = False

    def content(self, file: dict) -> bytes:
        return self.lfs[file["lfs"]] if "lfs" in file else file["data"]

    def card(self, files: dict) -> dict:
        if "README.md" not in files:
            return {}
        text = self.content(files["README.md"]).decode("utf8", "replace")
        match = re.match(r"^---\s*\n(.*?)\n---\s*\n?", text, re.S)
        return (yaml.safe_load(match[1]) or {}) if match else {}

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
            "downloads": 0,
            "likes": 0,
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


def computed_tags(card: dict, files: dict) -> list[str]:
    """The searchable tags that the Hub derives from a card and the files."""

    def listed(key: str) -> list[str]:
        value = card.get(key) or []
        return [value] if isinstance(value, str) else list(value)

    tags = listed("library_name") + listed("tags") + listed("pipeline_tag") + listed("language")
    tags += [f"dataset:{name}" for name in listed("datasets")] + [f"base_model:{name}" for name in listed("base_model")]
    tags += [f"license:{name}" for name in listed("license")]
    tags += ["safetensors"] if any(path.endswith(".safetensors") for path in files) else []
    return list(dict.fromkeys([*tags, "region:us"]))


HUB = Hub()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    # ---- plumbing

    def handle_request(self):
        self.body = self.read_body()
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        with HUB.lock:
            if url.path != "/api/agent-harnesses":  # the client asks this on its own, once a day
                HUB.requests.append(f"{self.command} {unquote(url.path)}")
            if HUB.down:
                return self.error(503, "", "Service Unavailable")
            for methods, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, url.path)
                if match and self.command in methods:
                    found = {name: value and unquote(value) for name, value in match.groupdict().items()}
                    return answer(self, **found)
            return self.error(404, "", f"no route {self.command} {url.path}")

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
        self.send_response(status)
        for name, value in {
            "Content-Type": content_type,
            "Content-Length": str(len(payload)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def error(self, status, code, message):
        self.send(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def send_page(self, items: list):
        """One page of a listing, with a Link to the next one."""
        start = int(self.query.get("cursor", ["0"])[0])
        size = min(PAGE_SIZE, int(self.query.get("limit", [PAGE_SIZE])[0]))
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
    def user(self) -> str | None:
        return TOKENS.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def repo(self, kind: str, repo_id: str) -> Repo | None:
        repo = HUB.repos.get((KINDS[kind], repo_id))
        if repo and (not repo.private or self.user == repo.owner):
            return repo
        # over plain http the client recognises a missing repository by this code alone
        self.error(404 if self.user else 401, "RepoNotFound", "Repository not found")
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
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        return self.send(200, {"type": "user", "name": self.user, "orgs": [], "auth": token})

    def create(self):
        kind = self.json.get("type", "model")
        repo_id = f"{self.json.get('organization') or self.user}/{self.json['name']}"
        repo = Repo(kind, repo_id, private=self.json.get("visibility") == "private")
        answer = {"url": f"{self.base}/{repo.prefix}{repo_id}", "name": repo_id}
        if (kind, repo_id) in HUB.repos:
            return self.send(409, {"error": "already exists", **answer}, {"X-Error-Code": "RepoAlreadyExists"})
        if repo.owner != self.user:
            return self.error(403, "", "You don't have the rights to create a repository under this namespace")
        HUB.repos[kind, repo_id] = repo
        return self.send(200, answer)

    def delete(self):
        repo_id = f"{self.json.get('organization') or self.user}/{self.json['name']}"
        if HUB.repos.pop((self.json.get("type", "model"), repo_id), None) is None:
            return self.error(404, "RepoNotFound", "Repository not found")
        return self.send(200)

    def settings(self, kind, repo_id):
        if repo := self.repo(kind, repo_id):
            repo.gated = self.json.get("gated", repo.gated)
            repo.private = self.json.get("visibility", "private" if repo.private else "public") == "private"
            self.send(200, {})

    def validate_yaml(self):
        match = re.match(r"^---\s*\n(.*?)\n---", self.json["content"], re.S)
        try:
            yaml.safe_load(match[1] if match else "")
        except yaml.YAMLError as error:
            return self.send(400, {"errors": [{"message": str(error)}], "warnings": []})
        return self.send(200, {"errors": [], "warnings": []})

    # ---- reading about repositories

    def list_repos(self, kind):
        public = [repo for repo in HUB.repos.values() if repo.kind == KINDS[kind] and not repo.private]
        infos = [HUB.info(repo, repo.refs["main"], {}) for repo in sorted(public, key=lambda repo: repo.id)]
        wanted, author = set(self.query.get("filter", [])), self.query.get("author", [None])[0]
        search = self.query.get("search", [""])[0].lower()
        found = [
            info["id"]
            for info in infos
            if wanted <= set(info["tags"]) and author in (None, info["author"]) and search in info["id"].lower()
        ]
        repos = [HUB.repos[KINDS[kind], repo_id] for repo_id in found]
        self.send_page([HUB.info(repo, repo.refs["main"], self.query) for repo in repos])

    def repo_info(self, kind, repo_id, revision=None):
        repo, oid = self.repo_at(kind, repo_id, revision or "main")
        if repo:
            self.send(200, HUB.info(repo, oid, self.query))

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
        return {"type": "file", "oid": file["oid"], "size": file["size"], "path": path, **lfs}

    def paths_info(self, kind, repo_id, revision):
        repo, oid = self.repo_at(kind, repo_id, revision)
        if repo:
            files = repo.commits[oid]["files"]
            paths = parse_qs(self.body.decode())["paths"]
            self.send(200, [self.file_entry(path, files[path]) for path in paths if path in files])

    def list_refs(self, kind, repo_id):
        if repo := self.repo(kind, repo_id):
            heads = [(name, oid) for name, oid in repo.refs.items() if not name.startswith("refs/")]
            branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in heads]
            tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in repo.tags.items()]
            self.send(200, {"branches": branches, "converts": [], "tags": tags, "pullRequests": []})

    def list_commits(self, kind, repo_id, revision):
        repo, oid = self.repo_at(kind, repo_id, revision)
        if repo is None:
            return
        log = []
        while oid:
            commit = repo.commits[oid]
            author = [{"user": repo.owner}]
            log.append({"id": oid, "title": commit["title"], "message": "", "date": commit["date"], "authors": author})
            oid = commit["parent"]
        self.send(200, log)

    def branch(self, kind, repo_id, name):
        if repo := self.repo(kind, repo_id):
            repo.refs[name] = repo.resolve(self.json.get("startingPoint", "main"))
            self.send(201)

    def tag(self, kind, repo_id, name):
        if repo := self.repo(kind, repo_id):
            repo.tags[self.json["tag"]] = repo.resolve(name)
            self.send(201)

    # ---- writing

    def preupload(self, kind, repo_id, revision):
        repo, oid = self.repo_at(kind, repo_id, revision)
        if repo is None:
            return
        current, answer = repo.commits[oid]["files"], []
        for file in self.json["files"]:
            lfs = file["size"] >= LFS_THRESHOLD or file["path"].endswith(LFS_SUFFIXES)
            entry = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
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
        assert hashlib.sha256(self.body).hexdigest() == oid
        HUB.lfs[oid] = self.body
        self.send(200, b"", {"ETag": f'"{oid}"'})

    def commit(self, kind, repo_id, revision):
        repo, parent = self.repo_at(kind, repo_id, revision)
        if repo is None:
            return None
        as_pull_request = self.query.get("create_pr") == ["1"]
        if not self.user:
            return self.error(401, "", "Invalid username or password.")
        if not as_pull_request and self.user != repo.owner:
            return self.error(403, "", "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if not as_pull_request and not parent.startswith(header.get("parentCommit") or ""):
            return self.error(412, "", "A commit has happened since. Please refresh and try again.")
        files = apply_operations(repo.commits[parent]["files"], lines)
        number = len(repo.discussions) + 1
        oid = repo.commit(f"refs/pr/{number}" if as_pull_request else revision, files, header["summary"], parent)
        url = f"{self.base}/{repo.prefix}{repo_id}"
        answer = {"success": True, "commitUrl": f"{url}/commit/{oid}", "commitOid": oid, "hookOutput": ""}
        if as_pull_request:
            repo.discussions.append(self.new_discussion(repo, number, header["summary"], header["description"], True))
            answer["pullRequestUrl"] = f"{url}/discussions/{number}"
        return self.send(200, answer)

    # ---- discussions and pull requests

    def new_discussion(self, repo, number, title, text, is_pull_request) -> dict:
        author = {"name": self.user, "type": "user"}
        comment = {"edited": False, "hidden": False, "latest": {"raw": text, "html": "", "updatedAt": now()}}
        return {
            "num": number,
            "title": title,
            "status": "open",
            "isPullRequest": is_pull_request,
            "author": author,
            "createdAt": now(),
            "repo": {"name": repo.id, "type": repo.kind},
            "changes": {"base": "refs/heads/main"} if is_pull_request else None,
            "filesWithConflicts": [],
            "events": [{"id": "0", "type": "comment", "createdAt": now(), "author": author, "data": comment}],
        }

    def discussions(self, kind, repo_id):
        if repo := self.repo(kind, repo_id):
            self.send(200, {"discussions": repo.discussions, "start": 0, "count": len(repo.discussions)})

    def discussion(self, kind, repo_id, number):
        if repo := self.repo(kind, repo_id):
            found = repo.discussions[int(number) - 1 :]
            self.send(200, found[0]) if found else self.error(404, "", "Discussion not found")

    def merge(self, kind, repo_id, number):
        if repo := self.repo(kind, repo_id):
            discussion = repo.discussions[int(number) - 1]
            files = repo.commits[repo.refs[f"refs/pr/{number}"]]["files"]
            repo.commit("main", files, f"merge #{number}", repo.refs["main"])
            discussion["status"] = "merged"
            self.send(200, {})

    # ---- files

    def resolve_file(self, repo_id, revision, path, kind=None):
        repo, oid = self.repo_at(kind or "models", repo_id, revision)
        if repo is None:
            return None
        if repo.gated and self.user != repo.owner:
            return self.error(403 if self.user else 401, "GatedRepo", f"Access to {repo_id} is restricted.")
        file = repo.commits[oid]["files"].get(path)
        headers = {"X-Repo-Commit": oid}
        if file is None:
            missing = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.send(404, {"error": "Entry not found"}, headers | missing)
        headers["ETag"] = f'"{file["oid"]}"'
        if "lfs" not in file:
            return self.send_bytes(file["data"], headers)
        # to another origin, as the real Hub does: on a redirect to its own, the client loses X-Repo-Commit
        location = f"http://localhost:{self.server.server_address[1]}/_cdn/{file['lfs']}"
        linked = {"X-Linked-Size": str(file["size"]), "X-Linked-Etag": f'"{file["lfs"]}"', "Location": location}
        return self.send(302, b"", headers | linked)

    def cdn(self, oid):
        self.send_bytes(HUB.lfs[oid], {"ETag": f'"{oid}"'})


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
            case "deletedFolder":
                files = {path: file for path, file in files.items() if not path.startswith(value["path"])}
    return files


KIND = r"(?P<kind>models|datasets|spaces)"
REPO = r"(?P<repo_id>[^/]+/[^/]+?)"
REVISION = r"(?P<revision>[^/]+)"
NUMBER = r"(?P<number>\d+)"
ROUTES = [
    (("GET",), r"/api/whoami-v2", Handler.whoami),
    (("POST",), r"/api/repos/create", Handler.create),
    (("DELETE",), r"/api/repos/delete", Handler.delete),
    (("POST",), r"/api/validate-yaml", Handler.validate_yaml),
    (("GET",), rf"/api/{KIND}", Handler.list_repos),
    (("PUT",), rf"/api/{KIND}/{REPO}/settings", Handler.settings),
    (("GET",), rf"/api/{KIND}/{REPO}/refs", Handler.list_refs),
    (("GET",), rf"/api/{KIND}/{REPO}/commits/{REVISION}", Handler.list_commits),
    (("GET",), rf"/api/{KIND}/{REPO}/tree/{REVISION}(?:/(?P<folder>.+))?", Handler.tree),
    (("POST",), rf"/api/{KIND}/{REPO}/paths-info/{REVISION}", Handler.paths_info),
    (("POST",), rf"/api/{KIND}/{REPO}/preupload/{REVISION}", Handler.preupload),
    (("POST",), rf"/api/{KIND}/{REPO}/commit/{REVISION}", Handler.commit),
    (("POST",), rf"/api/{KIND}/{REPO}/branch/(?P<name>[^/]+)", Handler.branch),
    (("POST",), rf"/api/{KIND}/{REPO}/tag/(?P<name>[^/]+)", Handler.tag),
    (("GET",), rf"/api/{KIND}/{REPO}/discussions", Handler.discussions),
    (("GET",), rf"/api/{KIND}/{REPO}/discussions/{NUMBER}", Handler.discussion),
    (("POST",), rf"/api/{KIND}/{REPO}/discussions/{NUMBER}/merge", Handler.merge),
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
