"""Current licenses of models, as the Hub says, and the choice among those that may be used."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import constants

from hub_worlds import GRAPH, clock, complaint_of
from mll_hf.client import Client
from mll_hf.errors import InputError
from mll_hf.hub.repos import licenses_of
from mll_hf.labels.store import LabelStore
from mll_hf.selection import SelectionConfig
from selection_worlds import WordEncoder
from test_client import PHOTOS, SHOWN, models
from worlds import make_label

__all__ = ["clock", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("clock")
OPEN = ("apache-2.0", "mit")


def put_card(hub, repo_id, license=None):
    """A model with nothing but a card on the Hub; `license` is written into it as JSON, which is YAML."""
    line = "" if license is None else f"license: {json.dumps(license)}\n"
    hub.put("model", repo_id, {"README.md": f"---\n{line}tags: [clip]\n---\n".encode(), "config.json": b"{}"})


def asked(hub):
    """Ids of the models that the Hub was asked about, in order."""
    assert not hub.counted
    return [request.removeprefix("GET /api/models/") for request in hub.requests]


def test_licenses_by_the_tags_of_models(hub):
    said = {"apache": "apache-2.0", "capitals": "MIT", "one": ["mit"], "same": ["mit", "MIT"], "none": None}
    hostile = {
        "number": 3,
        "several": ["mit", "cc-by-nc-4.0"],
        "long": "x" * 10_000,
        "html": "<img>",
        "map": {"a": "b"},
    }
    for name, license in {**said, **hostile}.items():
        put_card(hub, f"org/{name}", license)
    found = licenses_of([f"org/{name}" for name in (*said, *hostile)])
    assert {name.removeprefix("org/"): license for name, license in found.items() if license} == {
        "apache": "apache-2.0", "capitals": "mit", "one": "mit", "same": "mit"}  # fmt: skip
    assert len(hub.requests) == len(said) + len(hostile)
    assert hub.counted == []


def test_a_hub_that_cannot_be_asked(hub):
    put_card(hub, "org/model", "mit")
    hub.fail("/api/models", 503)
    assert licenses_of(["org/model"]) == {"org/model": "mit"}
    hub.down = True
    assert "org/model: the Hub answered" in complaint_of(lambda: licenses_of(["org/model"]))


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
    assert chosen(client.select(["cat"], licenses=OPEN)) == {"org/cars"}  # the next one
    put_cards(hub, cars="cc-by-nc-4.0")
    with pytest.raises(InputError, match=r"the Hub does not confirm the licenses that the labels of org/.* claim"):
        client.select(["cat"], licenses=OPEN)


def test_labels_that_claim_no_license_are_left_out(hub, store, caplog):
    put_cards(hub, cats="mit", cars="mit", all="mit")
    with pytest.raises(InputError, match=r"the allowed licenses \(apache-2.0, mit\) .* unknown \(3\)"):
        Client(store.folder, encoder=WordEncoder()).select(["cat"], licenses=OPEN)
    assert hub.requests == []
    store.write(make_label(GRAPH, [0] * 7, support=1000, repo_id="local-dir:/a/mine", license="mit"))
    named = Client(store.folder, encoder=WordEncoder()).select(["cat"], licenses=OPEN)
    assert chosen(named) == {"local-dir:/a/mine"}
    assert hub.requests == []
    assert "left out because no license is known: org/all, org/cars, org/cats" in caplog.text


def test_a_trial_takes_allowed_models_only(hub, tmp_path, models):
    put_cards(hub, cats="mit", cars="cc-by-nc-4.0", all="mit")
    client = Client(write_store(tmp_path, "mit").folder, encoder=WordEncoder())
    selection = client.fit(SHOWN, PHOTOS, SelectionConfig(licenses=OPEN))
    assert {model.ref.short_name for model in selection.models} == {"cats", "all"}
    assert set(models) == {"cats", "all"}
    assert selection.trial.n_images == 40
    assert not any(request.startswith("HEAD") for request in hub.requests)


def test_claims_count_where_the_hub_cannot_be_reached(hub, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    client = Client(write_store(tmp_path, "mit").folder, encoder=WordEncoder())
    assert chosen(client.select(["cat"], licenses=OPEN)) == {"org/cats"}
    assert "not confirmed" in caplog.text
