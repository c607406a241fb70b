from __future__ import annotations

import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from hub_worlds import MODEL_FILES, READER, clock, complaint_of
from mll_hf.errors import HubError
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.connection import connect, download, map_parallel, read_head

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


def fetch(sha, path="README.md", max_bytes=2**20):
    return download(connect(), MODEL, "model", path, sha, max_bytes)


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


# ---- errors in one line


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "your token is invalid; log in with: hf auth login"),
        (403, "may not do this"),
        (418, "status 418"),
        (429, "too many requests; try again in a few minutes"),
        (500, "status 500"),
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


@pytest.mark.parametrize("name", ["a/b/c", "", "a b", "../b", "a/..", "-/x--y"])
def test_invalid_names_are_refused_without_a_request(hub, name):
    complaint_of(lambda: read_head(connect(), name, "model"))
    assert hub.requests == []


# ---- again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_statuses_are_retried(hub, sha, status, clock):
    hub.fail(INFO, status, times=3)
    assert ask().sha == sha
    assert len(hub.requests) == 4
    assert clock.waits == [0.5, 1, 2]


def test_requests_beyond_the_rate_limit_go_on_in_the_next_window_with_a_note(hub, sha, clock, caplog):
    hub.limit(api=2)
    heads = map_parallel(lambda _: read_head(connect(), MODEL, "model"), range(6))
    assert {head.sha for head in heads} == {sha}
    assert clock.waits
    assert all(295 < wait <= 300 for wait in clock.waits)
    assert "the Hub's rate limit is reached; continuing in 300 seconds" in caplog.text


# ---- heads


def test_the_digest_of_a_model_outlives_commits_of_other_files(hub, sha):
    before = ask().digest("open_clip")
    hub.put("model", MODEL, {"README.md": b"new", LABEL_PATH: b"label", "figure.png": b"png"})
    assert ask().digest("open_clip") == before
    hub.put("model", MODEL, {"open_clip_model.safetensors": b"other"})
    assert ask().digest("open_clip") != before
    assert ask().digest("unknown") is None


@pytest.mark.parametrize("name", ["alice/old-name", "Alice/Model"])
def test_a_repository_has_its_own_name_however_it_is_asked_for(hub, sha, name, monkeypatch):
    hub.moved["model", "alice/old-name"] = MODEL
    head = read_head(connect(), name, "model")
    assert head == read_head(connect(), MODEL, "model")
    assert download(connect(), name, "model", "README.md", sha, 100).read_bytes() == MODEL_FILES["README.md"]
    hub.down = True
    assert read_head(connect(), name, "model") == head


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


# ---- malformed answers


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"3", b"null", b"[" * 10**5, b"{}", b'{"id": "a/b", "sha": "x"}']
)
def test_malformed_answers_are_one_line_errors(hub, sha, body):
    hub.fail(INFO, times=99, alter=lambda _: body)
    complaint_of(ask)


# ---- files


def test_a_large_file_is_refused_before_the_download(hub, sha):
    assert "big.safetensors is larger than 1 MB and was not downloaded" in complaint_of(lambda: fetch(sha, BIG))
    assert not [request for request in hub.requests if "/_cdn/" in request]
