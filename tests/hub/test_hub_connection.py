from __future__ import annotations

import contextlib
import itertools
import json
import socket
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx

from hub_worlds import MODEL_FILES, READ_ONLY, READER, clock, sha256_of
from mll_hf import __version__
from mll_hf.errors import HubError, LabelError, MLLError, StorageError
from mll_hf.hub import connection
from mll_hf.hub.connection import (
    Head,
    RepoFile,
    connect,
    download,
    fetch_head,
    hub_errors,
    memory_file,
    read_head,
    recall,
    remember,
    retried,
    wait_asked_for,
)  # fmt: skip

__all__ = ["clock"]  # a fixture

pytestmark = pytest.mark.usefixtures("clock")
MODEL = "alice/model"
INFO = "/api/models/alice/model"
BIG = "big.safetensors"


@pytest.fixture
def sha(hub):
    """The commit of a model on the Hub."""
    return hub.put("model", MODEL, {**MODEL_FILES, BIG: bytes(3_000_000)})


def complaint_of(call, error=HubError):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ask(revision=None, token=None):
    return read_head(connect(token), MODEL, "model", revision)


def fetch(sha, path="README.md", most_bytes=2**20, sha256=None):
    return download(connect(), MODEL, "model", path, sha, most_bytes, sha256)


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


def test_the_hub_is_told_who_asks(hub, sha):
    ask()
    fetch(sha)
    assert len(hub.requests) == 3
    for request in hub.requests:
        assert request.headers["User-Agent"].startswith(f"mll_hf/{__version__};")
        assert request.user == "alice"


def test_a_token_of_ones_own_is_used_for_everything(hub, sha):
    api = connect(READER)
    download(api, MODEL, "model", "README.md", read_head(api, MODEL, "model").sha, 1000)
    assert {request.user for request in hub.requests} == {"bob"}


# ---- errors in one line


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "does not know your token; log in with: hf auth login"),
        (403, "may not do this"),
        (404, "status 404"),
        (409, "status 409"),
        (412, "status 412"),
        (418, "status 418"),
        (429, "too many requests from you; try again in a few minutes"),
        (500, "status 500"),
        (503, "status 503"),
    ],
)
def test_a_status_is_said_in_one_line(hub, sha, status, said):
    hub.fail(INFO, status, times=99)
    with pytest.raises(HubError) as caught:
        ask()
    assert str(caught.value).startswith("alice/model: ")
    assert said in str(caught.value)
    assert caught.value.status == status
    assert caught.value.repo_id == MODEL


def test_a_missing_repository_is_said_to_be_missing_or_private(hub):
    said = complaint_of(ask)
    assert said == "alice/model: is not on the Hub, or private; check the name, or log in with: hf auth login"
    hub.put("model", MODEL, MODEL_FILES)
    hub.repos["model", MODEL].private = True
    assert complaint_of(lambda: ask(token=READER)) == said
    assert ask().sha


def test_a_folder_of_the_same_name_is_pointed_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(MODEL).mkdir(parents=True)
    assert complaint_of(ask).endswith("for the folder of this name write local-dir:alice/model")


def test_a_missing_revision_is_said_to_be_missing(sha):
    assert "no such revision" in complaint_of(lambda: ask("v9"))
    assert "no such revision" in complaint_of(lambda: ask("f" * 40))


def test_a_gated_repository_says_where_to_accept_its_terms(hub, sha):
    hub.repos["model", MODEL].gated = "manual"
    reader = connect(READER)
    said = complaint_of(lambda: download(reader, MODEL, "model", "README.md", sha, 1000))
    assert f"is gated; accept its terms at {constants.ENDPOINT}/alice/model and log in" in said
    assert read_head(reader, MODEL, "model").sha == sha  # what it holds is public


def test_a_disabled_repository_is_said_to_be_disabled(hub, sha):
    hub.repos["model", MODEL].disabled = True
    assert "disabled" in complaint_of(ask)


def test_a_missing_file_is_said_to_be_missing(sha):
    assert "lacks a file" in complaint_of(lambda: fetch(sha, "nothing.txt"))


@pytest.mark.parametrize("name", ["a/b/c", "", "a b", "../b", "a/..", "-/x--y"])
def test_a_name_that_can_be_no_repository_is_refused_without_a_request(hub, name):
    complaint_of(lambda: read_head(connect(), name, "model"))
    assert hub.requests == []


def test_an_error_can_be_of_another_kind_and_ours_pass_through():
    with pytest.raises(StorageError, match="cannot write x"), hub_errors(MODEL, lambda reason: HubError("b", reason)):
        raise StorageError(Path("x"), OSError(28, "No space left on device"))
    with pytest.raises(HubError, match="b: cannot be downloaded"), hub_errors(MODEL, lambda r: HubError("b", r)):
        raise OSError("the disk\nis gone")


# ---- again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_asked_again(hub, sha, status, clock):
    hub.fail(INFO, status, times=3)
    assert ask().sha == sha
    assert len(hub.requests) == 4
    assert clock.waits == [0.5, 1, 2]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 501])
def test_what_does_not_pass_is_not_asked_again(hub, sha, status):
    hub.fail(INFO, status, times=2)
    complaint_of(ask)
    assert len(hub.requests) == 1


def test_the_hub_is_not_asked_for_ever(hub, sha):
    hub.fail(INFO, 500, times=99)
    complaint_of(ask)
    assert len(hub.requests) == 5


@pytest.mark.parametrize("how", [{"drop": "before"}, {"drop": "after"}, {"cut": 10}])
def test_a_lost_connection_is_tried_again(hub, sha, how):
    hub.fail(INFO, times=2, **how)
    assert ask().sha == sha
    assert len(hub.requests) == 3


def test_a_hub_that_does_not_answer_in_time_is_asked_again(hub, sha, monkeypatch):
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 0.05)
    hub.fail(INFO, delay=0.3)
    assert ask().sha == sha
    assert len(hub.requests) == 2


def test_a_connection_that_cannot_be_opened_is_not_tried_again(monkeypatch, clock):
    refuse_connections(monkeypatch)
    assert "cannot be reached" in complaint_of(ask)
    assert clock.waits == []


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "86400"}, 60),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.5),
        ({"Retry-After": "-3"}, 0.5),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": "nonsense", "Retry-After": "3"}, 3),
        ({"RateLimit": '"api";r=0;t=' + "9" * 400}, 60),
        ({}, 0.5),
    ],
)
def test_the_hub_may_say_how_long_to_wait_within_reason(hub, sha, clock, headers, waited):
    hub.fail(INFO, 429, headers=headers)
    ask()
    assert clock.waits == [waited]


def test_only_what_passes_is_repeated():
    calls = []

    def call():
        calls.append(1)
        raise httpx.ReadTimeout("slow")

    with pytest.raises(httpx.ReadTimeout):
        retried(call)
    assert len(calls) == 5
    assert wait_asked_for(ValueError()) == 0

    def refuse():
        calls.append(1)
        raise OfflineModeIsEnabled("off")

    with pytest.raises(OfflineModeIsEnabled):
        retried(refuse)
    assert len(calls) == 6


# ---- heads


def test_a_head_names_files_by_what_they_hold(sha):
    head = ask()
    assert head == Head(MODEL, "model", sha, head.files)
    assert head.files[BIG] == RepoFile(3_000_000, sha256_of(bytes(3_000_000)))
    assert head.files["README.md"].size == len(MODEL_FILES["README.md"])
    assert len(head.files["README.md"].oid) == 40
    assert set(head.model_files) == {"config.json", "open_clip_model.safetensors", BIG}


def test_only_files_at_the_root_decide_what_a_model_computes(hub):
    hub.put("model", MODEL, {"mll/label.safetensors": b"x", "tokenizer.json": b"{}", "onnx/config.json": b"{}"})
    assert set(ask().model_files) == {"tokenizer.json"}


def test_a_pinned_head_is_asked_for_once(hub, sha):
    assert ask(sha) == ask(sha)
    assert len(hub.requests) == 1
    hub.requests.clear()
    ask()
    ask()
    assert len(hub.requests) == 2


def test_the_head_of_a_branch_pins_its_commit_too(hub, sha):
    head = ask()
    hub.requests.clear()
    assert ask(sha) == head
    assert hub.requests == []


def test_a_new_commit_is_seen(hub, sha):
    ask()
    newer = hub.put("model", MODEL, {"README.md": b"other"})
    assert ask().sha == newer
    assert ask(sha).sha == sha


def test_models_and_datasets_of_the_same_name_are_not_confused(hub, sha):
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


def test_without_the_hub_the_last_answer_is_given(sha, lose_the_hub):
    head = ask()
    lose_the_hub()
    assert ask() == head


def test_without_the_hub_what_was_never_asked_is_an_error(sha, lose_the_hub):
    lose_the_hub()
    complaint_of(ask)


def test_a_repository_that_is_gone_is_not_remembered(hub, sha):
    ask()
    hub.repos.clear()
    assert "is not on the Hub" in complaint_of(ask)


def test_another_endpoint_has_other_answers(sha, monkeypatch):
    ask()
    here = memory_file("a")
    monkeypatch.setattr(constants, "ENDPOINT", "https://elsewhere")
    assert memory_file("a") != here


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", b"\xff", b'{"sha": 3, "files": {"a": 3}}', b"[" * 10**5]
)
def test_a_damaged_memory_is_forgotten(hub, sha, content):
    ask()
    for file in Path(constants.HF_ASSETS_CACHE).rglob("*.json"):
        file.write_bytes(content)
    hub.requests.clear()
    assert ask(sha).sha == sha
    assert len(hub.requests) == 1


def test_a_disk_that_is_full_does_not_matter(hub, sha, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "file" / "folder"))
    assert ask().sha == sha


def test_what_is_remembered_can_be_recalled(tmp_path):
    assert recall(tmp_path / "a.json") is None
    remember(tmp_path / "a.json", [1, "ä"])
    assert recall(tmp_path / "a.json") == [1, "ä"]


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
def test_an_odd_answer_gives_a_sound_head_or_an_error_of_ours(hub, sha, what):
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


def test_an_odd_answer_does_not_spoil_the_memory(hub, sha):
    hub.fail(INFO, alter=HOSTILE_INFO["a commit that is a path"])
    with contextlib.suppress(MLLError):
        ask()
    assert ask().sha == sha
    hub.down = True
    assert ask().sha == sha


# ---- files


def test_a_file_is_fetched_with_two_requests_and_then_never_again(hub, sha):
    assert fetch(sha).read_bytes() == MODEL_FILES["README.md"]
    assert hub.requests == [f"{method} /alice/model/resolve/{sha}/README.md" for method in ("HEAD", "GET")]
    hub.requests.clear()
    hub.down = True
    assert fetch(sha).read_bytes() == MODEL_FILES["README.md"]
    assert hub.requests == []


def test_a_large_file_is_refused_before_it_is_fetched(hub, sha):
    assert "big.safetensors is larger than 1 MB and was not fetched" in complaint_of(lambda: fetch(sha, BIG))
    assert not list(Path(constants.HF_HUB_CACHE).rglob(BIG))


def test_a_large_file_is_refused_by_its_length_before_its_content_is_read(hub, sha):
    sent = []

    def chunks(_):
        for _ in range(10_000):
            sent.append(1)
            yield bytes(2**16)

    hub.fail("resolve/.*/README.md", method="GET", alter=chunks, headers={"Content-Length": str(10_000 * 2**16)})
    complaint_of(lambda: fetch(sha))
    hub.wait_until_idle()
    assert len(sent) * 2**16 < 8 * 2**20  # what fits into the sockets' buffers, less than a chunk of the client's


def test_a_large_file_in_the_cache_is_refused_as_well(sha):
    fetch(sha, BIG, 2**22)
    assert "larger than 1 MB" in complaint_of(lambda: fetch(sha, BIG))


def test_a_file_as_large_as_may_be_is_fetched(hub):
    sha = hub.put("model", MODEL, {"a.txt": bytes(1000)})
    assert fetch(sha, "a.txt", 1000).stat().st_size == 1000
    sha = hub.put("model", MODEL, {"a.txt": bytes(1001)})
    complaint_of(lambda: fetch(sha, "a.txt", 1000))


def test_a_body_without_end_is_cut_off(hub, sha):
    hub.fail("resolve/.*/README.md", times=99, method="GET", alter=forever)
    assert "README.md is larger than 1 MB" in complaint_of(lambda: fetch(sha))


def test_a_body_without_end_of_a_small_file_is_cut_off(hub, sha):
    hub.fail("resolve/.*/README.md", times=99, method="GET", alter=forever)
    hub.fail("resolve/.*/README.md", times=99, method="HEAD", headers={"Content-Length": "12"})
    complaint_of(lambda: fetch(sha))


@pytest.mark.parametrize("length", ["0", "5", "99", "-1", "x", str(2**70)])
def test_a_length_that_lies_gives_no_wrong_file(hub, sha, length):
    hub.fail("resolve/.*/README.md", times=99, method="(HEAD|GET)", headers={"Content-Length": length})
    complaint_of(lambda: fetch(sha, sha256=sha256_of(MODEL_FILES["README.md"])), MLLError)


def test_a_download_that_breaks_off_goes_on(hub, sha):
    hub.fail("_cdn/", times=2, cut=1_000_000)
    assert fetch(sha, BIG, 2**22, sha256_of(bytes(3_000_000))).stat().st_size == 3_000_000


def test_content_that_is_not_what_was_promised_is_refused_and_fetched_anew(hub, sha):
    wanted = sha256_of(bytes(3_000_000))
    hub.fail("_cdn/", alter=lambda body: b"x" + body[1:])
    said = complaint_of(lambda: fetch(sha, BIG, 2**22, wanted), LabelError)
    assert said.startswith(f"alice/model/{BIG}: is not what the Hub lists (sha256 ")
    assert sha256_of(fetch(sha, BIG, 2**22, wanted).read_bytes()) == wanted


def test_content_in_the_cache_that_went_bad_is_refused_and_fetched_anew(sha):
    wanted = sha256_of(bytes(3_000_000))
    fetch(sha, BIG, 2**22, wanted).resolve().write_bytes(b"bad")
    complaint_of(lambda: fetch(sha, BIG, 2**22, wanted), LabelError)
    assert fetch(sha, BIG, 2**22, wanted).stat().st_size == 3_000_000


@pytest.fixture
def outside(monkeypatch, tmp_path):
    """Files beside the cache."""
    cache = tmp_path / "a" / "b" / "c" / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(cache))
    return lambda: [file for file in tmp_path.rglob("*") if file.is_file() and cache not in file.parents]


@pytest.mark.parametrize("path", ["../../x", "/etc/passwd", "a/../../../x", "..\\x", "a\0b"])
def test_a_path_that_leads_out_of_the_cache_is_refused(hub, sha, path, outside):
    hub.repos["model", MODEL].commits[sha]["files"][path] = hub.stored("x", b"evil")
    complaint_of(lambda: fetch(sha, path), MLLError)
    assert outside() == []


@pytest.mark.parametrize("etag", ["a/b", "", "x" * 5000])
def test_an_etag_that_leads_out_of_the_cache_is_refused(hub, sha, etag, tmp_path, outside):
    hub.fail("resolve/.*/README.md", times=9, headers={"ETag": f'"{etag.format(tmp_path)}"'})
    with contextlib.suppress(MLLError):
        fetch(sha)
    assert outside() == []


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_file_that_the_hub_refuses_is_an_error_in_one_line(hub, sha, status):
    hub.fail("resolve/.*/README.md", status, times=99)
    complaint_of(lambda: fetch(sha))


def test_a_full_disk_is_an_error_in_one_line(sha, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    complaint_of(lambda: fetch(sha), MLLError)


def test_reading_needs_no_token_that_may_write(sha):
    head = read_head(connect(READ_ONLY), MODEL, "model")
    assert download(connect(READ_ONLY), MODEL, "model", "README.md", head.sha, 1000).exists()


def test_statuses_are_read_from_the_client_s_errors(hub, sha):
    hub.fail(INFO, 418)
    with pytest.raises(HfHubHTTPError) as caught:
        fetch_head(HfApi(), MODEL, "model")
    assert not connection.passes(caught.value)
    assert not connection.is_unreachable(caught.value)
