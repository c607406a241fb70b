"""Whether the Hub can be asked, seen without its client."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants
from PIL import Image

from mll_hf.client import Client
from mll_hf.errors import ModelError
from mll_hf.utils import reach


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Addresses that were connected to, of which only that of 'there' answers; nothing of the Hub is kept."""
    addresses = []

    def connect(address, timeout):
        addresses.append(address)
        if address[0] != "there":
            raise ConnectionRefusedError(111, "Connection refused")  # as by a firewall
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    for name in reach._PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere/hub")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    reach._connection_error.cache_clear()
    yield addresses
    reach._connection_error.cache_clear()


def test_a_host_that_does_not_answer_is_asked_once(asked, monkeypatch):
    for _ in range(3):
        assert reach.why_unreachable("org/model") == (
            "the Hub cannot be reached ([Errno 111] Connection refused), and no copy is cached; go online once"
        )
    assert asked == [("nowhere", 443)]
    monkeypatch.setattr(constants, "ENDPOINT", "http://there:8080")
    assert reach.why_unreachable() == ""
    assert asked[1:] == [("there", 8080)]


def test_where_something_else_may_answer_the_client_finds_out(asked, monkeypatch, tmp_path):
    for folder, asked_for in (("hub/models--org--model", "org/model"), ("assets/mll_hf/answers", "")):
        assert reach.why_unreachable(asked_for)
        (tmp_path / folder).mkdir(parents=True)
        assert reach.why_unreachable(asked_for) == ""
        assert bool(reach.why_unreachable("org/other")) is (asked_for != "")
    (tmp_path / "assets" / "mll_hf" / "answers").rmdir()
    assert reach.why_unreachable()
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")  # which may know more names
    assert reach.why_unreachable() == ""
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # has a message of its own
    assert reach.why_unreachable() == ""
    assert reach.hub_error() == "HF_HUB_OFFLINE is set"


def test_published_figures_answer_without_the_client_of_the_hub(asked, monkeypatch, caplog):
    monkeypatch.setattr("mll_hf.models.source.resolve_model", lambda *_: pytest.fail("asked the Hub"))
    selection = Client().select(["golden retriever", "tabby cat"], k=2)
    assert len(selection.chosen_models) == 2
    assert asked == [("nowhere", 443)]
    assert "only published figures are used: hub: the Hub cannot be reached" in caplog.text
    assert "to load the choice, select again online: model " in caplog.text
    assert "(and 1 more)" in caplog.text


def test_a_trial_without_the_hub_fails_before_it_asks(asked, monkeypatch):
    images = [Image.new("RGB", (8, 8), (n, n, n)) for n in range(16)]
    with pytest.raises(ModelError, match="the Hub cannot be reached"):
        Client("published").fit(["cat", "dog"], images, approve=lambda plan: pytest.fail("asked"))
