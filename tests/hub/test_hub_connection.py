from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import socket
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx

from hub_worlds import MODEL_FILES, READ_ONLY, READER, clock, complaint_of, sha256_of
from mll_hf import __version__
from mll_hf.errors import HubError, LabelError, MLLError, StorageError
from mll_hf.hub import connection
from mll_hf.hub.connection import (
    Head,
    RepoFile,
    cache_response,
    cached_response,
    connect,
    download,
    fetch_head,
    hub_errors,
    map_parallel,
    read_head,
    requested_wait,
    retried,
)  # fmt: skip
from mll_hf.hub.locations import pinned
from mll_hf.utils import files

__all__ = ["clock"]  # a fixture

pytestmark = pytest.mark.usefixtures("clock")
MODEL = "alice/model"
INFO = "/api/models/alice/model"
BIG = "big.safetensors"


@pytest.fixture
def sha(hub):
    """The commit of a model on the Hub."""
    return hub.put("model", MODEL, {**MODEL_FILES, BIG: bytes(3_000_000)})


def ask(revision=None, token=None):
    return read_head(connect(token), MODEL, "model", revision)


def fetch(sha, path="README.md", max_bytes=2**20, sha256=None):
    return download(connect(), MODEL, "model", path, sha, max_bytes, RepoFile(0, sha256) if sha256 else None)


def forever(_):
    return itertools.repeat(bytes(2**16))


def refuse_connections(monkeypatch):
    """No machine listens where the Hub was."""
    connect_socket = socket.socket.connect

    def refused(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            raise ConnectionRefusedError(111, "Connection refused")
        return connect_socket(self, address)

    monkeypatch.setattr(socket.socket, "connect", refused)
    _reset_connections()


def _reset_connections():
    from huggingface_hub.utils import close_session

    close_session()


# ---- who we are


def test_requests_identify_the_library(hub, sha):
    ask()
    fetch(sha)
    assert len(hub.requests) == 2
    for request in hub.requests:
        assert request.headers["User-Agent"].startswith(f"mll_hf/{__version__};")
        assert request.user == "alice"


def test_a_given_token_is_used_for_every_request(hub, sha):
    api = connect(READER)
    download(api, MODEL, "model", "README.md", read_head(api, MODEL, "model").sha, 1000)
    assert {request.user for request in hub.requests} == {"bob"}


# ---- errors in one line


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "your token is invalid; log in with: hf auth login"),
        (403, "may not do this"),
        (404, "status 404"),
        (409, "status 409"),
        (412, "status 412"),
        (418, "status 418"),
        (429, "too many requests; try again in a few minutes"),
        (500, "status 500"),
        (503, "status 503"),
    ],
)
def test_statuses_become_one_line_errors(hub, sha, status, said):
    hub.fail(INFO, status, times=99)
    with pytest.raises(HubError) as caught:
        ask()
    assert str(caught.value).startswith("alice/model: ")
    assert said in str(caught.value)
    assert caught.value.status == status
    assert caught.value.repo_id == MODEL


def test_missing_or_private_repository(hub):
    said = complaint_of(ask)
    assert said == "alice/model: is not on the Hub, or private; check the name, or log in with: hf auth login"
    hub.put("model", MODEL, MODEL_FILES)
    hub.repos["model", MODEL].private = True
    assert complaint_of(lambda: ask(token=READER)) == said
    assert ask().sha


def test_local_folder_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(MODEL).mkdir(parents=True)
    assert complaint_of(ask).endswith("for the local folder write local-dir:alice/model")


def test_missing_revision(sha):
    assert "no such revision" in complaint_of(lambda: ask("v9"))
    assert "no such revision" in complaint_of(lambda: ask("f" * 40))


def test_gated_repository(hub, sha):
    hub.repos["model", MODEL].gated = "manual"
    reader = connect(READER)
    said = complaint_of(lambda: download(reader, MODEL, "model", "README.md", sha, 1000))
    assert f"is gated; accept its terms at {constants.ENDPOINT}/alice/model and log in" in said
    assert read_head(reader, MODEL, "model").sha == sha  # what it holds is public


def test_disabled_repository(hub, sha):
    hub.repos["model", MODEL].disabled = True
    assert "disabled" in complaint_of(ask)


def test_missing_file(sha):
    assert "lacks a required file" in complaint_of(lambda: fetch(sha, "nothing.txt"))


@pytest.mark.parametrize("name", ["a/b/c", "", "a b", "../b", "a/..", "-/x--y"])
def test_invalid_names_are_refused_without_a_request(hub, name):
    complaint_of(lambda: read_head(connect(), name, "model"))
    assert hub.requests == []


def test_errors_of_another_class():
    with pytest.raises(StorageError, match="cannot write x"), hub_errors(MODEL, lambda reason: HubError("b", reason)):
        raise StorageError(Path("x"), OSError(28, "No space left on device"))
    with pytest.raises(HubError, match="b: cannot be downloaded"), hub_errors(MODEL, lambda r: HubError("b", r)):
        raise OSError("the disk\nis gone")


# ---- again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_statuses_are_retried(hub, sha, status, clock):
    hub.fail(INFO, status, times=3)
    assert ask().sha == sha
    assert len(hub.requests) == 4
    assert clock.waits == [0.5, 1, 2]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 501])
def test_other_statuses_are_not_retried(hub, sha, status):
    hub.fail(INFO, status, times=2)
    complaint_of(ask)
    assert len(hub.requests) == 1


def test_retries_end(hub, sha):
    hub.fail(INFO, 500, times=99)
    complaint_of(ask)
    assert len(hub.requests) == 5


@pytest.mark.parametrize("how", [{"drop": "before"}, {"drop": "after"}, {"cut": 10}])
def test_a_lost_connection_is_retried(hub, sha, how):
    hub.fail(INFO, times=2, **how)
    assert ask().sha == sha
    assert len(hub.requests) == 3


def test_a_timeout_is_retried(hub, sha, monkeypatch):
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 0.05)
    hub.fail(INFO, delay=0.3)
    assert ask().sha == sha
    assert len(hub.requests) == 2


def test_a_refused_connection_is_not_retried(monkeypatch, clock):
    refuse_connections(monkeypatch)
    assert "cannot be reached" in complaint_of(ask)
    assert clock.waits == []


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "86400"}, 300),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.5),
        ({"Retry-After": "-3"}, 0.5),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": "nonsense", "Retry-After": "3"}, 3),
        ({"RateLimit": '"api";r=0;t=' + "9" * 400}, 300),
        ({}, 0.5),
    ],
)
def test_a_rate_limit_is_waited_for_up_to_five_minutes(hub, sha, clock, headers, waited):
    hub.fail(INFO, 429, headers=headers)
    ask()
    assert clock.waits == [waited]


def test_a_hub_that_is_down_is_waited_for_up_to_a_minute(hub, sha, clock):
    hub.fail(INFO, 503, headers={"Retry-After": "86400"})
    ask()
    assert clock.waits == [60]


def test_requests_beyond_the_rate_limit_go_on_in_the_next_window_with_a_note(hub, sha, clock, caplog):
    hub.limit(api=2)
    heads = map_parallel(lambda _: fetch_head(connect(), MODEL, "model"), range(6))
    assert {head.sha for head in heads} == {sha}
    assert clock.waits
    assert all(295 < wait <= 300 for wait in clock.waits)
    assert "the Hub's rate limit is reached; continuing in 300 seconds" in caplog.text


def test_a_kept_answer_is_better_than_to_wait_for_the_rate_limit(hub, sha, clock):
    ask()
    hub.limit(api=0)
    assert ask().sha == sha
    assert clock.waits == []


def test_only_transient_errors_are_retried():
    calls = []

    def call():
        calls.append(1)
        raise httpx.ReadTimeout("slow")

    with pytest.raises(httpx.ReadTimeout):
        retried(call)
    assert len(calls) == 5
    assert requested_wait(ValueError()) == 0

    def refuse():
        calls.append(1)
        raise OfflineModeIsEnabled("off")

    with pytest.raises(OfflineModeIsEnabled):
        retried(refuse)
    assert len(calls) == 6


# ---- heads


def test_head_has_sizes_and_hashes(sha):
    head = ask()
    assert head == Head(MODEL, "model", sha, head.files)
    assert head.files[BIG] == RepoFile(3_000_000, sha256_of(bytes(3_000_000)))
    assert head.files["README.md"].size == len(MODEL_FILES["README.md"])
    assert len(head.files["README.md"].oid) == 40
    assert set(head.model_files) == {"config.json", "open_clip_model.safetensors", BIG}


def test_model_files_are_at_the_root(hub):
    hub.put("model", MODEL, {"mll/label.safetensors": b"x", "tokenizer.json": b"{}", "onnx/config.json": b"{}"})
    assert set(ask().model_files) == {"tokenizer.json"}


@pytest.mark.parametrize("name", ["alice/old-name", "Alice/Model"])
def test_a_repository_has_its_own_name_however_it_is_asked_for(hub, sha, name, monkeypatch):
    hub.moved["model", "alice/old-name"] = MODEL
    head = read_head(connect(), name, "model")
    assert head == read_head(connect(), MODEL, "model")
    assert download(connect(), name, "model", "README.md", sha, 100).read_bytes() == MODEL_FILES["README.md"]
    hub.down = True
    assert read_head(connect(), name, "model") == head


def test_a_pinned_location_has_the_name_of_its_repository(hub):
    sha = hub.put("dataset", "alice/data", {"a.txt": b"1"})
    assert str(pinned("hf://datasets/Alice/data")) == f"hf://datasets/alice/data@{sha}"


@pytest.mark.parametrize("name", ["../../model", "a/b/c", 7])
def test_a_malformed_name_is_no_answer(hub, sha, name):
    hub.fail(INFO, alter=lambda body: json.dumps({**json.loads(body), "id": name}).encode())
    assert "cannot be parsed" in complaint_of(lambda: read_head(connect(), MODEL, "model"))


def test_a_pinned_commit_is_asked_for_once(hub, sha):
    assert ask(sha) == ask(sha)
    assert len(hub.requests) == 1
    hub.requests.clear()
    ask()
    ask()
    assert len(hub.requests) == 2


def test_the_commit_of_a_branch_is_kept(hub, sha):
    head = ask()
    hub.requests.clear()
    assert ask(sha) == head
    assert hub.requests == []


def test_a_new_commit_is_seen(hub, sha):
    ask()
    newer = hub.put("model", MODEL, {"README.md": b"other"})
    assert ask().sha == newer
    assert ask(sha).sha == sha


def test_model_and_dataset_of_the_same_name(hub, sha):
    dataset = hub.put("dataset", MODEL, {"a": b""})
    assert ask().sha == sha
    assert read_head(connect(), MODEL, "dataset").sha == dataset


def go_offline(monkeypatch, _):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def shut_down(_, hub):
    hub.down = True


def unplug(monkeypatch, _):
    refuse_connections(monkeypatch)


@pytest.fixture(params=[go_offline, shut_down, unplug])
def lose_the_hub(request, monkeypatch, hub):
    """The ways in which the Hub can be out of reach."""
    yield lambda: request.param(monkeypatch, hub)
    _reset_connections()


def test_without_the_hub_the_last_answer_is_used(sha, lose_the_hub):
    head = ask()
    lose_the_hub()
    assert ask() == head


def test_without_the_hub_and_an_answer(sha, lose_the_hub):
    lose_the_hub()
    complaint_of(ask)


def test_a_deleted_repository_is_an_error(hub, sha):
    ask()
    hub.repos.clear()
    assert "is not on the Hub" in complaint_of(ask)


def test_another_endpoint_has_other_answers(monkeypatch):
    cache_response("a", 1)
    assert cached_response("a") == 1
    monkeypatch.setattr(constants, "ENDPOINT", "https://elsewhere")
    assert cached_response("a") is None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", b"\xff", b'{"sha": 3, "files": {"a": 3}}', b"[" * 10**5]
)
def test_damaged_answers_are_ignored(hub, sha, content):
    ask()
    for file in Path(constants.HF_ASSETS_CACHE).rglob("*.json"):
        file.write_bytes(content)
    hub.requests.clear()
    assert ask(sha).sha == sha
    assert len(hub.requests) == 1


def test_answers_that_cannot_be_written_are_not_kept(hub, sha, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "file" / "folder"))
    assert ask().sha == sha


def test_kept_answers_can_be_read():
    assert cached_response("a") is None
    cache_response("a", [1, "ä"])
    assert cached_response("a") == [1, "ä"]


# ---- hostile answers


def answer_with(change):
    """Alters the Hub's answer, given as parsed JSON."""

    def alter(body):
        document = json.loads(body)
        return json.dumps(change(document) or document).encode()

    return alter


def sibling_with(**fields):
    return answer_with(lambda info: info.update(siblings=[{"rfilename": "a", "size": 1, "blobId": "b" * 40, **fields}]))


HOSTILE_INFO = {
    "nothing": lambda _: b"",
    "no JSON": lambda _: b"<html>",
    "no Unicode": lambda _: b"\xff\xfe{}",
    "a list": lambda _: b"[]",
    "a number": lambda _: b"3",
    "null": lambda _: b"null",
    "deep nesting": lambda _: b"[" * 10**5,
    "no id": answer_with(lambda info: info.pop("id") and None),
    "no commit": answer_with(lambda info: info.update(sha=None)),
    "a commit that is a number": answer_with(lambda info: info.update(sha=3)),
    "a commit that is a path": answer_with(lambda info: info.update(sha="../../../etc")),
    "a commit that is short": answer_with(lambda info: info.update(sha="abc1234")),
    "a commit with a line break": answer_with(lambda info: info.update(sha="a" * 40 + "\n")),
    "a date that is none": answer_with(lambda info: info.update(lastModified="yesterday")),
    "a date that is a list": answer_with(lambda info: info.update(createdAt=[1])),
    "siblings that are a number": answer_with(lambda info: info.update(siblings=3)),
    "siblings that are text": answer_with(lambda info: info.update(siblings="abc")),
    "siblings that are numbers": answer_with(lambda info: info.update(siblings=[1, 2])),
    "siblings without a name": answer_with(lambda info: info.update(siblings=[{"size": 3}])),
    "a name that is a number": sibling_with(rfilename=3),
    "a name that is a list": sibling_with(rfilename=[1]),
    "a size that is text": sibling_with(size="large"),
    "a size that is endless": sibling_with(size=float("inf")),
    "a size that is not a number": sibling_with(size=float("nan")),
    "a size below zero": sibling_with(size=-5),
    "a size that is a list": sibling_with(size=[]),
    "large-file data that are a list": sibling_with(lfs=[1]),
    "large-file data without a hash": sibling_with(lfs={"size": 3, "pointerSize": 3}),
    "a hash that is a number": sibling_with(lfs={"sha256": 3, "size": 3, "pointerSize": 3}),
    "a hash that is a list": sibling_with(lfs={"sha256": [1], "size": 3, "pointerSize": 3}),
    "tags that are a number": answer_with(lambda info: info.update(tags=3)),
    "a card that is a list": answer_with(lambda info: info.update(cardData=[1])),
    "a card with the names of arguments": answer_with(
        lambda info: info.update(cardData={"ignore_metadata_errors": 1, "self": 2, "eval_results": 3, "model_name": []})
    ),
    "a card with a bad index": answer_with(lambda info: info.update(cardData={"model-index": [{"name": 3}]})),
    "weights that are a list": answer_with(lambda info: info.update(safetensors=[1])),
    "weights with odd fields": answer_with(lambda info: info.update(safetensors={"x": 1})),
    "settings of transformers that are text": answer_with(lambda info: info.update(transformersInfo="x")),
    "providers that are a number": answer_with(lambda info: info.update(inferenceProviderMapping=3)),
    "results that are a number": answer_with(lambda info: info.update(evalResults=3)),
}


@pytest.mark.parametrize("what", HOSTILE_INFO)
def test_malformed_answers(hub, sha, what):
    hub.fail(INFO, times=9, alter=HOSTILE_INFO[what])
    try:
        head = ask()
    except MLLError as error:
        head = error
    if isinstance(head, MLLError):
        assert "\n" not in str(head)
        return
    assert connection.FULL_SHA.fullmatch(head.sha)
    for path, file in head.files.items():
        assert isinstance(path, str)
        assert isinstance(file.size, int)
        assert file.size >= 0
        assert isinstance(file.oid, str)


def test_malformed_answers_are_not_kept(hub, sha):
    hub.fail(INFO, alter=HOSTILE_INFO["a commit that is a path"])
    with contextlib.suppress(MLLError):
        ask()
    assert ask().sha == sha
    hub.down = True
    assert ask().sha == sha


# ---- files


def test_a_download_takes_one_request_once(hub, sha):
    assert fetch(sha).read_bytes() == MODEL_FILES["README.md"]
    assert hub.requests == [f"GET /alice/model/resolve/{sha}/README.md"]
    hub.requests.clear()
    hub.down = True
    assert fetch(sha).read_bytes() == MODEL_FILES["README.md"]
    assert hub.requests == []


def test_a_large_file_is_at_another_place_that_gets_no_token(hub, sha):
    fetch(sha, BIG, 2**22)
    asked, stored = hub.requests
    assert asked == f"GET /alice/model/resolve/{sha}/{BIG}"
    assert stored.startswith("GET /_cdn/")
    assert (asked.user, stored.user) == ("alice", None)


def test_what_the_client_has_cached_is_not_downloaded_again(hub, sha):
    snapshot_download(MODEL, revision=sha, allow_patterns=["README.md"])
    hub.requests.clear()
    assert fetch(sha).read_bytes() == MODEL_FILES["README.md"]
    fetch(sha, sha256=hub.repos["model", MODEL].files["README.md"]["oid"])
    assert hub.requests == []
    fetch(sha).resolve().write_bytes(b"damaged")
    fetch(sha, sha256=hub.repos["model", MODEL].files["README.md"]["oid"])
    assert len(hub.requests) == 1


def test_a_redirect_within_the_hub_is_followed_with_the_token(hub, sha):
    """So the Hub answers for repos that were renamed, and for small files that it keeps near its users."""
    hub.fail("/alice/old/", 307, headers={"Location": f"/{MODEL}/resolve/{sha}/README.md"})
    file = download(connect(), "alice/old", "model", "README.md", sha, 1000)
    assert file.read_bytes() == MODEL_FILES["README.md"]
    assert [request.user for request in hub.requests] == ["alice", "alice"]


def test_redirects_end(hub, sha):
    hub.fail("README.md", 307, headers={"Location": f"/{MODEL}/resolve/{sha}/README.md"}, times=99)
    complaint_of(lambda: fetch(sha))
    assert len(hub.requests) == 5


def test_the_etag_of_another_host_is_no_hash_of_the_content(hub, sha):
    hub.fail(f"resolve/.*/{BIG}", headers={"X-Linked-Etag": ""}, method="GET")
    hub.fail("/_cdn/", headers={"ETag": '"' + "0" * 64 + '"'}, method="GET")
    assert fetch(sha, BIG, 2**22).stat().st_size == 3_000_000


def test_what_a_new_commit_leaves_alone_is_not_downloaded_again(hub, sha):
    fetch(sha, BIG, 2**22)
    newer = hub.put("model", MODEL, {"notes.md": b"new"})
    hub.requests.clear()
    fetch(newer, BIG, 2**22)
    assert hub.requests == [f"GET /alice/model/resolve/{newer}/{BIG}"]
    fetch(newer, BIG, 2**22, sha256_of(bytes(3_000_000)))
    assert len(hub.requests) == 1


def test_a_large_file_is_refused_before_the_download(hub, sha):
    assert "big.safetensors is larger than 1 MB and was not downloaded" in complaint_of(lambda: fetch(sha, BIG))
    assert not [request for request in hub.requests if "/_cdn/" in request]


def test_a_large_file_is_refused_by_its_content_length(hub, sha):
    sent = []

    def chunks(_):
        for _ in range(10_000):
            sent.append(1)
            yield bytes(2**16)

    hub.fail("resolve/.*/README.md", method="GET", alter=chunks, headers={"Content-Length": str(10_000 * 2**16)})
    complaint_of(lambda: fetch(sha))
    hub.wait_until_idle()
    assert len(sent) * 2**16 < 8 * 2**20  # what fits into the sockets' buffers, less than a chunk of the client's


def test_a_large_cached_file_is_refused(sha):
    fetch(sha, BIG, 2**22)
    assert "larger than 1 MB" in complaint_of(lambda: fetch(sha, BIG))


def test_a_file_of_the_largest_size(hub):
    sha = hub.put("model", MODEL, {"a.txt": bytes(1000)})
    assert fetch(sha, "a.txt", 1000).stat().st_size == 1000
    sha = hub.put("model", MODEL, {"a.txt": bytes(1001)})
    complaint_of(lambda: fetch(sha, "a.txt", 1000))


def test_an_endless_body_is_cut_off(hub, sha):
    hub.fail("resolve/.*/README.md", times=99, method="GET", alter=forever)
    assert "README.md is larger than 1 MB" in complaint_of(lambda: fetch(sha))


def test_an_endless_body_of_a_small_file_is_cut_off(hub, sha):
    hub.fail("resolve/.*/README.md", times=99, method="GET", alter=forever)
    hub.fail("resolve/.*/README.md", times=99, method="HEAD", headers={"Content-Length": "12"})
    complaint_of(lambda: fetch(sha))


@pytest.mark.parametrize("length", ["0", "5", "99", "-1", "x", str(2**70)])
def test_a_wrong_content_length(hub, sha, length):
    hub.fail("resolve/.*/README.md", times=99, method="(HEAD|GET)", headers={"Content-Length": length})
    complaint_of(lambda: fetch(sha, sha256=sha256_of(MODEL_FILES["README.md"])), MLLError)


def test_an_interrupted_download_continues(hub, sha):
    hub.fail("_cdn/", times=2, cut=1_000_000)
    assert fetch(sha, BIG, 2**22, sha256_of(bytes(3_000_000))).stat().st_size == 3_000_000
    ranges = [request.headers.get("Range") for request in hub.requests if "_cdn/" in request]
    assert ranges == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_wrong_hash_is_refused_and_downloaded_again(hub, sha):
    wanted = sha256_of(bytes(3_000_000))
    hub.fail("_cdn/", alter=lambda body: b"x" + body[1:])
    said = complaint_of(lambda: fetch(sha, BIG, 2**22, wanted), LabelError)
    assert said.startswith(f"alice/model/{BIG}: does not have the hash that the Hub lists; try again")
    assert sha256_of(fetch(sha, BIG, 2**22, wanted).read_bytes()) == wanted


@pytest.mark.parametrize("path", ["README.md", BIG])
def test_content_that_is_not_what_the_answer_says_is_refused_and_not_kept(hub, sha, path):
    hub.fail("(_cdn/|README.md)", method="GET", alter=lambda body: b"x" + body[1:])
    assert f"{path} does not have the hash that the Hub lists; try again" in complaint_of(
        lambda: fetch(sha, path, 2**22)
    )
    assert fetch(sha, path, 2**22).read_bytes() == hub.files("model", MODEL)[path]


def test_a_damaged_cached_file_is_downloaded_again(sha):
    wanted = sha256_of(bytes(3_000_000))
    for listed in (wanted, None):  # nobody needs to say what is wanted: files have the hash of their content as a name
        fetch(sha, BIG, 2**22, wanted).write_bytes(b"bad")
        assert fetch(sha, BIG, 2**22, listed).stat().st_size == 3_000_000


def test_a_large_cached_file_is_read_once(sha, monkeypatch):
    monkeypatch.setattr(files, "_MIN_AGE_NS", -1)  # as if the file were some seconds old
    read, hashed = hashlib.file_digest, []
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: (hashed.append(file.name), read(file, name))[1])
    for reads in (1, 1, 0, 0):  # the download, and the cached file once
        hashed.clear()
        fetch(sha, BIG, 2**22)
        assert len(hashed) == reads


@pytest.fixture
def outside(monkeypatch, tmp_path):
    """Files beside the cache."""
    cache = tmp_path / "a" / "b" / "c" / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(cache))
    return lambda: [file for file in tmp_path.rglob("*") if file.is_file() and cache not in file.parents]


@pytest.mark.parametrize("path", ["../../x", "/etc/passwd", "a/../../../x", "..\\x", "a\0b"])
def test_nothing_is_written_outside_the_cache(hub, sha, path, outside):
    hub.repos["model", MODEL].commits[sha]["files"][path] = hub.stored("x", b"evil")
    with contextlib.suppress(MLLError):
        fetch(sha, path)
    assert outside() == []


@pytest.mark.parametrize("etag", ["a/b", "", "x" * 5000])
def test_etags_outside_the_cache_are_refused(hub, sha, etag, tmp_path, outside):
    hub.fail("resolve/.*/README.md", times=9, headers={"ETag": f'"{etag.format(tmp_path)}"'})
    with contextlib.suppress(MLLError):
        fetch(sha)
    assert outside() == []


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_refused_downloads_are_one_line_errors(hub, sha, status):
    hub.fail("resolve/.*/README.md", status, times=99)
    complaint_of(lambda: fetch(sha))


def test_a_full_disk(sha, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "file" / "cache"))
    complaint_of(lambda: fetch(sha), MLLError)


def test_a_read_only_token_is_enough_to_read(sha):
    head = read_head(connect(READ_ONLY), MODEL, "model")
    assert download(connect(READ_ONLY), MODEL, "model", "README.md", head.sha, 1000).exists()


def test_other_statuses_are_neither_transient_nor_unreachable(hub, sha):
    hub.fail(INFO, 418)
    with pytest.raises(HfHubHTTPError) as caught:
        fetch_head(HfApi(), MODEL, "model")
    assert not connection.is_transient(caught.value)
    assert not connection.is_unreachable(caught.value)
