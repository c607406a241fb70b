"""Only models with an allowed license: what the Hub says of models, and the choice among those that may be used."""

from __future__ import annotations

import json
import threading
from collections import Counter

import pytest
from huggingface_hub import constants

from hub_worlds import GRAPH, clock  # noqa: F401
from mll_hf.client import Client
from mll_hf.errors import HubError, InputError
from mll_hf.hub import licenses
from mll_hf.hub.licenses import licenses_of
from mll_hf.labels.store import LabelStore
from mll_hf.selection import Figures, SelectionConfig
from selection_worlds import WordEncoder
from test_client import PHOTOS, SHOWN, models  # noqa: F401
from worlds import make_label

HARM = "<img src=x onerror=alert(1)>"
OPEN = ("apache-2.0", "mit")


@pytest.fixture(autouse=True)
def _nothing_is_remembered():
    licenses._license_of.cache_clear()


def put_card(hub, repo_id, license=None):
    """A model with nothing but a card on the Hub; `license` is written into it as JSON, which is YAML."""
    line = "" if license is None else f"license: {json.dumps(license)}\n"
    hub.put("model", repo_id, {"README.md": f"---\n{line}tags: [clip]\n---\n".encode(), "config.json": b"{}"})


def asked(hub):
    """Ids of the models that the Hub was asked about, in order."""
    assert not hub.counted
    assert all(request.query == {"expand": ["tags"]} for request in hub.requests)
    return [request.removeprefix("GET /api/models/") for request in hub.requests]


# --- what the Hub says ------------------------------------------------------------------------------------------------


def test_licenses_by_the_tags_of_models(hub):
    said = {"apache": "apache-2.0", "capitals": "MIT", "rail": "bigscience-openrail-m", "none": None}
    hostile = {"number": 3, "several": ["mit", "cc-by-nc-4.0"], "long": "x" * 10_000, "html": HARM, "map": {"a": "b"},
               "lines": "mit\nmit", "empty": "", "one": ["mit"], "same": ["mit", "MIT"]}  # fmt: skip
    for name, license in {**said, **hostile}.items():
        put_card(hub, f"org/{name}", license)
    hub.put("model", "org/two", {"README.md": b"---\nlicense: cc-by-nc-4.0\ntags: ['license:mit']\n---\n"})
    hub.put("model", "org/bare", {})
    found = licenses_of([f"org/{name}" for name in [*said, *hostile, "two", "bare"]])
    assert {id.removeprefix("org/"): license for id, license in found.items() if license} == {
        "apache": "apache-2.0", "capitals": "mit", "rail": "bigscience-openrail-m", "one": "mit", "same": "mit"
    }  # fmt: skip
    assert list(found) == [f"org/{name}" for name in [*said, *hostile, "two", "bare"]]
    assert not hub.counted


def test_models_that_nobody_can_see_are_unknown(hub):
    for name in ("private", "disabled", "gated", "gone"):
        put_card(hub, f"org/{name}", "mit")
    hub.repos["model", "org/private"].private = True
    hub.repos["model", "org/disabled"].disabled = True
    del hub.repos["model", "org/gone"]
    hub.fail("org/gated", 403, headers={"X-Error-Code": "GatedRepo"})
    assert licenses_of(["org/private", "org/disabled", "org/gated", "org/gone"]) == dict.fromkeys(
        ["org/private", "org/disabled", "org/gated", "org/gone"]
    )


def test_what_is_no_model_of_the_hub_is_not_asked_for(hub):
    names = ["local-dir:/a/b", "../x", "a/b/c", "", "org/x?y=1", f"org/{HARM}", "org/x\n"]
    assert licenses_of(names) == dict.fromkeys(names)
    assert licenses_of([]) == {}
    assert hub.requests == []


@pytest.mark.parametrize("tags", [b'{"id": "org/a", "tags": 3}', b'{"id": "org/a", "tags": [3, null, ["license:mit"]]}',
                                  b'{"id": "org/a"}', b'{"id": "org/a", "tags": ["license:"]}'])  # fmt: skip
def test_answers_without_licenses(hub, tags):
    put_card(hub, "org/a", "mit")
    hub.fail("org/a", alter=lambda _: tags)
    assert licenses_of(["org/a"]) == {"org/a": None}


def test_answers_are_remembered_for_an_hour(hub, monkeypatch):
    put_card(hub, "org/a", "mit")
    hour = [0.0]
    monkeypatch.setattr(licenses, "time", type("Time", (), {"monotonic": staticmethod(lambda: hour[0])}))
    for _ in range(3):
        assert licenses_of(["org/a", "org/a", "org/gone"]) == {"org/a": "mit", "org/gone": None}
    assert sorted(asked(hub)) == ["org/a", "org/gone"]
    put_card(hub, "org/a", "cc-by-nc-4.0")
    assert licenses_of(["org/a"], token=False) == {"org/a": "cc-by-nc-4.0"}  # another may see another answer
    assert licenses_of(["org/a"]) == {"org/a": "mit"}
    hour[0] = 3601.0
    assert licenses_of(["org/a"]) == {"org/a": "cc-by-nc-4.0"}
    assert licenses._license_of.cache_info().maxsize == 10_000


def test_several_are_asked_for_at_a_time(hub):
    names = [f"org/m{n:02}" for n in range(24)]
    meeting = threading.Barrier(8, timeout=10)  # breaks unless eight requests are there at once
    for name in names:
        put_card(hub, name, "mit")
    real = licenses._license_of
    counted = Counter()

    def meet(*question):
        meeting.wait()
        counted[threading.get_ident()] += 1
        return real(*question)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(licenses, "_license_of", meet)
        assert licenses_of(names) == dict.fromkeys(names, "mit")
    assert len(counted) >= 8
    assert sorted(asked(hub)) == names


def test_a_hub_that_cannot_be_asked(hub, clock, monkeypatch):  # noqa: F811
    put_card(hub, "org/a", "mit")
    hub.fail("org/a", 503, times=2)
    assert licenses_of(["org/a"]) == {"org/a": "mit"}  # it was busy
    licenses._license_of.cache_clear()
    hub.down = True
    with pytest.raises(HubError, match=r"^org/a: cannot find its license: .*503") as caught:
        licenses_of(["org/a"])
    assert "\n" not in str(caught.value)
    hub.down = False
    hub.fail("org/a", alter=lambda _: b"[]")
    with pytest.raises(HubError, match="cannot be parsed"):
        licenses_of(["org/a"])
    assert licenses_of(["org/a"]) == {"org/a": "mit"}  # failures are not remembered
    licenses._license_of.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        licenses_of(["org/a"])


# --- the choice among allowed models ----------------------------------------------------------------------------------


def chosen(selection):
    return {selection.models[m].ref.repo_id for m in selection.chosen_models}


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "labels")


def write_store(folder, license=None):
    """Labels of three models, which claim no license, or all the same."""
    store = LabelStore(folder)
    store.add_graph(GRAPH)
    #            animal car cat corgi dog pet vehicle
    for name, hits in (("cats", [6, 2, 10, 6, 6, 6, 5]), ("cars", [5, 10, 2, 6, 6, 6, 6]), ("all", [6] * 7)):
        label = make_label(GRAPH, [100 * n for n in hits], support=1000, repo_id=f"org/{name}", license=license)
        store.write(label)
    return store


def put_cards(hub, **said):
    for name, license in said.items():
        put_card(hub, f"org/{name}", license)


def test_the_hub_confirms_the_licenses_of_chosen_models_once(hub, tmp_path, caplog):
    put_cards(hub, cats="cc-by-nc-4.0", cars="mit", all="mit")
    client = Client(write_store(tmp_path, "mit").folder, encoder=WordEncoder())
    assert chosen(client.select(["cat"])) == {"org/cats"}
    assert hub.requests == []
    assert chosen(client.select(["car"], licenses=OPEN)) == {"org/cars"}
    assert asked(hub) == ["org/cars"]
    assert chosen(client.select(["cat"], licenses="MIT")) == {"org/all"}
    assert asked(hub) == ["org/cars", "org/cats", "org/all"]
    assert "left out because of another license on the Hub: org/cats" in caplog.text
    put_cards(hub, all="cc-by-nc-4.0")
    licenses._license_of.cache_clear()
    with pytest.raises(InputError, match="the Hub reports other licenses than the labels of org/all; leave them out"):
        client.select(["cat"], licenses=OPEN)
    assert chosen(client.select(["cat"], licenses=OPEN, without="org/all, org/cats")) == {"org/cars"}


def test_labels_that_claim_no_license_are_left_out(hub, store, caplog):
    put_cards(hub, cats="mit", cars="mit", all="mit")
    with pytest.raises(InputError, match=r"no model has an allowed license \(apache-2.0, mit\): .* unknown \(3\)"):
        Client(store.folder, encoder=WordEncoder()).select(["cat"], licenses=OPEN)
    assert hub.requests == []
    store.write(make_label(GRAPH, [0] * 7, support=1000, repo_id="local-dir:/a/mine", license="mit"))
    named = Client(store.folder, encoder=WordEncoder()).select(["cat"], licenses=OPEN)
    assert chosen(named) == {"local-dir:/a/mine"}
    assert hub.requests == []
    assert "left out because no license is known: org/all, org/cars, org/cats" in caplog.text


def test_a_trial_takes_allowed_models_only(hub, tmp_path, models):  # noqa: F811
    put_cards(hub, cats="mit", cars="cc-by-nc-4.0", all="mit")
    client = Client(write_store(tmp_path, "mit").folder, encoder=WordEncoder())
    selection = client.select(SHOWN, SelectionConfig(licenses=OPEN), images=PHOTOS)
    assert {model.ref.short_name for model in selection.models} == {"cats", "all"}
    assert set(models) == {"cats", "all"}
    assert selection.calibration.n_images == 40
    assert not any(request.startswith("HEAD") for request in hub.requests)


def test_claims_count_where_the_hub_cannot_be_reached(hub, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    client = Client(write_store(tmp_path, "mit").folder, encoder=WordEncoder())
    assert chosen(client.select(["cat"], licenses=OPEN)) == {"org/cats"}
    assert "not confirmed" in caplog.text


@pytest.mark.parametrize("license", ["apache-2.0", "cc-by-nc-4.0"])
def test_published_figures_alone_may_have_the_license(monkeypatch, license):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    selection = Client("published").select(["cat", "dog"], licenses=license)
    assert {model.license for model in selection.models} == {license}
    assert {model.figures for model in selection.models} == {Figures.OVERALL}
