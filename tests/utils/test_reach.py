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
def lookups(monkeypatch, tmp_path):
    """Names that were looked up, of which only 'there' has an address; nothing of the Hub is kept."""
    asked = []

    def look_up(host, port):
        asked.append(host)
        if host != "there":
            raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    for name in reach._PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere/hub")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    reach._dns_error.cache_clear()
    yield asked
    reach._dns_error.cache_clear()


def test_a_name_without_an_address_is_looked_up_once(lookups, monkeypatch):
    for _ in range(3):
        assert reach.why_unreachable("org/model") == (
            "the Hub cannot be reached ([Errno -2] Name or service not known), and no copy is cached; go online once"
        )
    assert lookups == ["nowhere"]
    monkeypatch.setattr(constants, "ENDPOINT", "http://there:8080")
    assert reach.why_unreachable() == ""


def test_where_something_else_may_answer_the_client_finds_out(lookups, monkeypatch, tmp_path):
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


def test_published_figures_answer_without_the_client_of_the_hub(lookups, monkeypatch, caplog):
    monkeypatch.setattr("mll_hf.models.source.resolve_model", lambda *_: pytest.fail("asked the Hub"))
    selection = Client().select(["golden retriever", "tabby cat"], k=2)
    assert len(selection.chosen_models) == 2
    assert lookups == ["nowhere"]
    assert "only published figures are used: hub: the Hub cannot be reached" in caplog.text
    assert "to load the choice, select again online: model " in caplog.text
    assert "(and 1 more)" in caplog.text


def test_a_trial_without_the_hub_fails_before_it_asks(lookups, monkeypatch):
    images = [Image.new("RGB", (8, 8), (n, n, n)) for n in range(16)]
    with pytest.raises(ModelError, match="the Hub cannot be reached"):
        Client("published").fit(["cat", "dog"], images, approve=lambda plan: pytest.fail("asked"))
