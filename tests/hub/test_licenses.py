"""Only models with an allowed license: what the Hub says of models, and the choice among those that may be used."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from huggingface_hub import constants
from mll_hf.labels.index import IndexShard, InMemory, LabelIndex, entry_of, shard_to_bytes
from mll_hf.labels.rank_code import RankCode

from hub_worlds import GRAPH, clock  # noqa: F401
from mll_hf.client import Client
from mll_hf.errors import HubError, InputError
from mll_hf.hub import licenses
from mll_hf.hub.licenses import licenses_of
from mll_hf.labels.join import join_labels
from mll_hf.labels.label import Cost
from mll_hf.labels.store import LabelStore
from mll_hf.selection import Selection, SelectionConfig, Strategy, indexed, select, select_by_imagenet
from mll_hf.selection.licenses import choose_allowed
from selection_worlds import WordEncoder, candidates_on, random_candidates
from test_client import PHOTOS, SHOWN, models  # noqa: F401
from worlds import CAT, know_only, make_known, make_label

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


class World:
    """What the Hub says of licenses, and the rounds in which it was asked."""

    def __init__(self, licenses, is_down=False):
        self.licenses, self.rounds, self.is_down = licenses, [], is_down

    def __call__(self, ids):
        if self.is_down:
            raise HubError(ids[0], "the Hub cannot be reached")
        self.rounds.append(list(ids))
        assert len(set(ids)) == len(ids)
        assert not {id for ids in self.rounds[:-1] for id in ids} & set(ids)
        return {id: self.licenses.get(id) for id in ids}

    @property
    def asked(self):
        return sum(map(len, self.rounds))


def chosen(selection):
    return {selection.models[m].ref.repo_id for m in selection.union}


def ids_of(candidates):
    return [model.repo_id for model in candidates.labels.models]


def choosing(candidates):
    return lambda config: select(candidates, config)


def compare(candidates, config, said, claims=None):
    """The choice is that among the labels of allowed models alone; returns it, and what was asked."""
    world = World(said)
    ours = choose_allowed(choosing(candidates), world, claims or dict.fromkeys(ids_of(candidates)), config)
    kept = [m for m, id in enumerate(ids_of(candidates)) if said.get(id) in config.licenses]
    theirs = select(replace(candidates, labels=candidates.labels.subset(kept)), replace(config, licenses=()))
    rows = {model.ref.repo_id: m for m, model in enumerate(ours.models)}
    at = [rows[model.ref.repo_id] for model in theirs.models]
    np.testing.assert_array_equal(ours.scores[at], theirs.scores)
    np.testing.assert_array_equal(ours.chosen[at], theirs.chosen)
    assert chosen(ours) == chosen(theirs)
    assert ours.matches == theirs.matches
    return ours, world


def random_licenses(candidates, seed, share=0.5):
    rng = np.random.default_rng(seed)
    others = ["cc-by-nc-4.0", None, "other"]
    return {id: "mit" if rng.random() < share else others[int(rng.integers(3))] for id in ids_of(candidates)}


@pytest.mark.parametrize("claimed", ["nothing", "half", "all"])
@pytest.mark.parametrize("strategy", [s for s in Strategy if s is not Strategy.IMAGENET])
@pytest.mark.parametrize("options", [{}, {"k": 3}, {"k": 2, "max_models": 3}, {"max_gflops": 50.0}, {"k": 99}])
def test_the_choice_is_that_among_allowed_models_alone(strategy, options, claimed):
    for seed in range(3):
        candidates = random_candidates(n_models=25, seed=seed)
        said = random_licenses(candidates, seed)
        claims = {id: said[id] if claimed == "all" or (claimed == "half" and n % 2) else None
                  for n, id in enumerate(said)}  # fmt: skip
        config = SelectionConfig(strategy, **options, licenses=("mit",))
        ours, world = compare(candidates, config, said, claims)
        if claimed == "all":
            assert {id for ids in world.rounds for id in ids if claims[id]} == chosen(ours)


def test_licenses_of_labels_cost_one_request_for_each_chosen_model():
    candidates = random_candidates(n_models=300, n_concepts=8, seed=1)
    said = {id: license or "other" for id, license in random_licenses(candidates, 3, 0.1).items()}
    for k in (1, 3):
        ours, world = compare(candidates, SelectionConfig(k=k, licenses=OPEN), said, said)
        assert world.rounds == [[model.ref.repo_id for model in ours.models if model.ref.repo_id in chosen(ours)]]
        assert world.asked == k


@pytest.mark.parametrize("true", ["cc-by-nc-4.0", None])
def test_a_label_that_the_hub_contradicts_is_left_out_with_a_warning(caplog, true):
    candidates = random_candidates(n_models=12)
    claims = dict.fromkeys(ids_of(candidates), "mit")
    (best,) = chosen(select(candidates, SelectionConfig()))
    ours, world = compare(candidates, SelectionConfig(licenses=OPEN), {**claims, best: true}, claims)
    assert best not in chosen(ours)
    assert world.asked == 2
    assert f"another license than the label: {best} ({true or 'unknown'}, not mit)" in caplog.text


def test_without_the_hub_the_labels_count(caplog):
    candidates = random_candidates(n_models=12)
    said = random_licenses(candidates, 0)
    config = SelectionConfig(k=2, licenses=("mit",))
    ours = choose_allowed(choosing(candidates), World({}, is_down=True), said, config)
    theirs, _ = compare(candidates, config, said, said)
    assert chosen(ours) == chosen(theirs)
    assert "from their labels and not confirmed" in caplog.text
    with pytest.raises(HubError, match="cannot be reached"):
        choose_allowed(choosing(candidates), World({}, is_down=True), dict.fromkeys(said), config)


def test_the_generally_best_model_must_be_allowed_too():
    """What models are compared with is one that may be used, though it is far down the ranking and not chosen."""
    for seed in range(10):
        candidates = random_candidates(n_models=40, seed=seed)
        best = max(candidates.labels.reference, key=lambda label: label.mean_recall).model.repo_id
        said = dict.fromkeys(ids_of(candidates), "mit") | {best: "cc-by-nc-4.0"}
        ours, world = compare(candidates, SelectionConfig(licenses=("mit",)), said)
        assert best in world.rounds[0]
        assert best not in {model.ref.repo_id for model in ours.models}


def test_rounds_converge():
    candidates = random_candidates(n_models=300, n_concepts=8, seed=1)
    for share, most_rounds, most_asked in ((1.0, 1, 6), (0.5, 3, 30), (0.05, 6, 130)):
        _, world = compare(candidates, SelectionConfig(licenses=OPEN), random_licenses(candidates, 3, share))
        assert len(world.rounds) <= most_rounds
        assert world.asked <= most_asked
        assert max(map(len, world.rounds)) <= 4 * 2**5 + 2


def test_licenses_are_compared_in_lower_case():
    candidates = random_candidates(n_models=5)
    said = dict.fromkeys(ids_of(candidates), "apache-2.0")
    config = SelectionConfig(licenses=(" Apache-2.0 ", "MIT"))
    for claims in (dict.fromkeys(said), said):
        world = World(said)
        selection = choose_allowed(choosing(candidates), world, claims, config)
        assert len(selection.union) == 1
        assert len(world.rounds) == 1


def test_models_with_an_allowed_license_that_exceed_the_caps_are_not_denied():
    candidates = random_candidates(n_models=6)
    costs = [label.cost.gflops for label in candidates.labels.reference]
    smallest = int(np.argmin(costs))
    said = dict.fromkeys(ids_of(candidates), "mit") | {ids_of(candidates)[smallest]: "other"}
    config = SelectionConfig(licenses=("mit",), max_gflops=costs[smallest])
    n_fit = sum(cost <= costs[smallest] for cost in costs)
    if n_fit > 1:
        pytest.skip("several models are the smallest")
    with pytest.raises(InputError, match=r"none of the 5 models with an allowed license \(mit\) is within the limits"):
        choose_allowed(choosing(candidates), World(said), said, config)


def test_no_model_is_allowed():
    candidates = random_candidates(n_models=12)
    said = {id: ["cc-by-nc-4.0", "other", None][n % 3] for n, id in enumerate(ids_of(candidates))}
    for claims in (dict.fromkeys(said), said):
        with pytest.raises(InputError) as caught:
            compare(candidates, SelectionConfig(licenses=OPEN), said, claims)
        before, had, after = re.split(" have |; ", str(caught.value))
        assert before == "no model has an allowed license (apache-2.0, mit): the models"
        assert set(had.split(", ")) == {"cc-by-nc-4.0 (4)", "other (4)", "unknown (4)"}
        assert after.startswith("allow one of these, or leave out the licenses")
    with pytest.raises(InputError, match="within the limits"):
        compare(candidates, SelectionConfig(licenses=OPEN, max_gflops=1e-9), said)


def test_no_more_than_two_hundred_are_asked_for(caplog):
    candidates = random_candidates(n_models=260, n_concepts=6)
    ids = ids_of(candidates)
    claims = dict.fromkeys(ids)
    world = World({})
    with pytest.raises(InputError, match=r"the models have unknown \(260\)"):
        choose_allowed(choosing(candidates), world, claims, SelectionConfig(licenses=OPEN))
    assert world.asked == 200
    world = World(dict.fromkeys(ids, "mit"))
    selection = choose_allowed(
        choosing(candidates), world, claims, SelectionConfig(Strategy.GENERAL, k=999, licenses=("mit",))
    )
    assert len(selection.union) == world.asked == 200
    assert "licenses were requested for the best 200 models only" in caplog.text
    few = World(dict.fromkeys(ids[::26], "mit"))
    selection = choose_allowed(choosing(candidates), few, claims, SelectionConfig(k=50, licenses=("mit",)))
    assert 0 < len(selection.union) <= 10
    assert chosen(selection) <= set(ids[::26])


@pytest.mark.parametrize("given", ["mit", ("",), (3,), (None,), ("mit", " ")])
def test_licenses_that_make_no_sense(given):
    with pytest.raises(InputError, match="licenses is"):
        SelectionConfig(licenses=given)


def test_pure_functions_do_not_check_licenses():
    config = SelectionConfig(licenses=("mit",))
    for call in (lambda: select(random_candidates(), config), lambda: select_by_imagenet(("cat",), config)):
        with pytest.raises(InputError, match="licenses are supported only by"):
            call()


def test_models_to_leave_out():
    candidates = random_candidates(n_models=6)
    ids = ids_of(candidates)
    found = select(candidates, SelectionConfig(without=frozenset(ids[:4])))
    assert {model.ref.repo_id for model in found.models} == set(ids[4:])
    with pytest.raises(InputError, match="leave out fewer"):
        select(candidates, SelectionConfig(without=frozenset(ids)))
    with pytest.raises(InputError, match="frozenset"):
        SelectionConfig(without="org/m1")
    published = select_by_imagenet(("cat",), SelectionConfig())
    best = published.models[0].ref.repo_id
    rest = select_by_imagenet(("cat",), SelectionConfig(without=frozenset([best])))
    assert rest.models == published.models[1:]


# --- an index ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Strategy.MLL, Strategy.GENERAL])
def test_an_index_gives_the_same_choice(monkeypatch, strategy):
    monkeypatch.setattr(indexed, "_N_READ", 5)
    for seed in range(3):
        candidates = random_candidates(n_models=60, seed=seed)
        (graph,) = candidates.labels.union.graphs
        labels = {(label.model, label.key): label for label in candidates.labels.reference}
        code = RankCode.of_graph(graph)
        blob = shard_to_bytes([entry_of(label, "", code) for label in labels.values()], code)
        index = LabelIndex((IndexShard.open(InMemory("index", memoryview(blob))),))
        light = replace(candidates, labels=join_labels(index.labels, [graph]))
        said = random_licenses(candidates, seed, share=0.3)

        def choose(config, light=light, labels=labels):
            return indexed.select_indexed(light, config, lambda wanted: [labels[x.model, x.key] for x in wanted])

        for k in (1, 4):
            config = SelectionConfig(strategy, k=k, licenses=("mit",))
            for claims in (said, dict.fromkeys(said)):
                ours = choose_allowed(choose, World(said), claims, config)
                theirs, _ = compare(candidates, config, said)
                assert chosen(ours) == chosen(theirs)


# --- the front door ---------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "labels")


def write_store(folder, license=None):
    """Labels of three models; they name no license, or all the same."""
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


def test_select_with_licenses(hub, store):
    put_cards(hub, cats="cc-by-nc-4.0", cars="apache-2.0", all="mit")
    client = Client(store.folder, encoder=WordEncoder())
    assert chosen(client.select(["cat"])) == {"org/cats"}
    assert hub.requests == []
    assert chosen(client.select(["cat"], SelectionConfig(licenses=OPEN))) == {"org/all"}
    assert chosen(client.select(["cat"], SelectionConfig(licenses=("Apache-2.0",)))) == {"org/cars"}
    assert chosen(client.select(["cat"], SelectionConfig(licenses=("cc-by-nc-4.0",)))) == {"org/cats"}
    assert sorted(asked(hub)) == ["org/all", "org/cars", "org/cats"]  # once each
    for strategy in ("general", "paper"):
        selection = client.select(["cat", "dog"], SelectionConfig(Strategy(strategy), k=2, licenses=OPEN))
        assert chosen(selection) <= {"org/all", "org/cars"}
        assert Selection.from_json(json.loads(json.dumps(selection.to_json()))).models == selection.models


def test_labels_that_name_their_license(hub, tmp_path, caplog):
    put_cards(hub, cats="cc-by-nc-4.0", cars="mit", all="mit")
    client = Client(write_store(tmp_path, "mit").folder, encoder=WordEncoder())
    assert chosen(client.select(["car"], SelectionConfig(licenses=OPEN))) == {"org/cars"}
    assert asked(hub) == ["org/cars"]
    assert chosen(client.select(["cat"], SelectionConfig(licenses=OPEN))) == {"org/all"}
    assert asked(hub) == ["org/cars", "org/cats", "org/all"]
    assert "org/cats (cc-by-nc-4.0, not mit)" in caplog.text
    hub.requests.clear()
    with pytest.raises(InputError, match=r"the models have mit \(3\)"):
        client.select(["cat"], SelectionConfig(licenses=("gpl-3.0",)))
    assert hub.requests == []


def test_a_model_that_is_gone_is_not_chosen(hub, store):
    put_cards(hub, cars="mit")
    client = Client(store.folder, encoder=WordEncoder())
    assert chosen(client.select(["cat"], SelectionConfig(licenses=OPEN))) == {"org/cars"}
    with pytest.raises(InputError, match=r"\(gpl-3.0\): the models have (unknown \(2\), mit|mit \(1\), unknown)"):
        client.select(["cat"], SelectionConfig(licenses=("gpl-3.0",)))


def test_local_folders(hub, store, caplog):
    put_cards(hub, cats="gpl-3.0", cars="mit", all="gpl-3.0")
    hits = [0] * 7
    hits[CAT] = 1000
    store.write(make_label(GRAPH, hits, support=1000, repo_id="local-dir:/a/mine", license=None))
    client = Client(store.folder, encoder=WordEncoder())
    assert chosen(client.select(["cat"], SelectionConfig(licenses=OPEN))) == {"org/cars"}
    assert "left out because their labels name no license: local-dir:/a/mine" in caplog.text
    store.write(make_label(GRAPH, hits, support=1000, repo_id="local-dir:/a/mine", license="mit"))
    named = Client(store.folder, encoder=WordEncoder()).select(["cat"], SelectionConfig(licenses=OPEN, k=4))
    assert chosen(named) == {"org/cars", "local-dir:/a/mine"}
    alone = LabelStore(store.folder.parent / "alone")
    alone.add_graph(GRAPH)
    alone.write(make_label(GRAPH, repo_id="local-dir:/a/mine", license=None))
    with pytest.raises(InputError, match=r"the models have unknown \(1\)"):
        Client(alone.folder, encoder=WordEncoder()).select(["cat"], SelectionConfig(licenses=OPEN))
    with pytest.raises(InputError, match="raise the limits"):
        Client(alone.folder, encoder=WordEncoder()).select(["cat"], SelectionConfig(licenses=OPEN, max_parameters=1))
    assert hub.counted == []


def test_a_trial_takes_allowed_models_only(hub, store, models):  # noqa: F811
    put_cards(hub, cats="mit", cars="cc-by-nc-4.0", all="mit")
    client = Client(store.folder, encoder=WordEncoder())
    selection = client.select(SHOWN, SelectionConfig(licenses=OPEN), images=PHOTOS)
    assert {model.ref.short_name for model in selection.models} == {"cats", "all"}
    assert set(models) == {"cats", "all"}
    assert selection.evidence.n_images == 40
    assert not any(request.startswith("HEAD") for request in hub.requests)


TABLE = [make_known(f"org/{name}", accuracy)
         for name, accuracy in (("cats", 0.5), ("cars", 0.6), ("all", 0.7), ("new", 0.9), ("newer", 0.8))]  # fmt: skip


def test_models_without_a_label(hub, store, monkeypatch):
    know_only(monkeypatch, TABLE)
    put_cards(hub, cats="mit", cars="mit", all="mit", new="cc-by-nc-4.0", newer="apache-2.0")
    hub.put("model", "org/newer", {"open_clip_config.json": b"{}"})
    client = Client(f"{store.folder},published", encoder=WordEncoder())
    config = SelectionConfig(k=4, licenses=OPEN)
    assert chosen(client.select(["cat", "car"], config)) == {"org/cats", "org/cars", "org/all", "org/newer"}
    by_imagenet = client.select(["cat"], SelectionConfig(Strategy.IMAGENET, licenses=OPEN))
    assert chosen(by_imagenet) == {"org/newer"}
    with pytest.raises(InputError, match="no model has an allowed license"):
        client.select(["cat"], SelectionConfig(Strategy.IMAGENET, licenses=("gpl-3.0",)))


def test_select_offline(hub, store, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    client = Client(store.folder, encoder=WordEncoder())
    with pytest.raises(HubError, match="HF_HUB_OFFLINE") as caught:
        client.select(["cat"], SelectionConfig(licenses=OPEN))
    assert "\n" not in str(caught.value)
    assert client.select(["cat"]).union
    named = Client(write_store(tmp_path / "named", "mit").folder, encoder=WordEncoder())
    assert chosen(named.select(["cat"], SelectionConfig(licenses=OPEN))) == {"org/cats"}
    assert "not confirmed" in caplog.text


def test_requests_are_few_for_a_thousand_labels(hub):
    candidates = random_candidates(n_concepts=8, n_models=1, seed=1)
    (graph,) = candidates.labels.union.graphs
    rng = np.random.default_rng(0)
    said = rng.choice(["mit", "apache-2.0", "cc-by-nc-4.0", "other"], 1000, p=[0.4, 0.2, 0.2, 0.2])
    labels = [
        make_label(graph, rng.binomial(50, rng.uniform(0.2, 0.9), 8), support=50, repo_id=f"org/m{n:03}",
                   cost=Cost(10**8, 9.0)) for n in range(1000)
    ]  # fmt: skip
    for label, license in zip(labels, said, strict=True):
        put_card(hub, label.model.repo_id, str(license))
    everything = candidates_on(graph, labels, candidates.match)
    for k, most in ((1, 6), (3, 30)):
        licenses._license_of.cache_clear()
        hub.requests.clear()
        config = SelectionConfig(k=k, licenses=OPEN)
        choose_allowed(choosing(everything), licenses_of, dict.fromkeys(ids_of(everything)), config)
        assert len(asked(hub)) <= most
