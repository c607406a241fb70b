"""Labeling many models: labeled ones are skipped, failures do not stop the others, nothing is done twice."""

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from mll_hf.errors import HubError, InputError, ModelError, StorageError
from mll_hf.graph.probes import SamplingConfig, load_probes
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.sources import open_source
from mll_hf.labeling import engines
from mll_hf.labeling.destinations import CollectionRepo, OwnRepos, own_names, repos_of_others
from mll_hf.labeling.fleet import Fleet, Outcome, for_each, label_one, working_folder
from mll_hf.labeling.listing import list_models, read_models
from mll_hf.labels.file_format import label_from_bytes, label_to_bytes
from mll_hf.labels.store import LabelStore, read_label
from mll_hf.models import source
from worlds import FakeModel, make_graph, probes_of_all, write_graph_folder

GRAPH = make_graph()
LABELS = "hf://datasets/alice/labels"
README = b"---\ntags:\n- clip\n---\n# A model\n"


def model_files(weights=b"weights"):
    return {"open_clip_config.json": b"{}", "open_clip_model.safetensors": weights, "README.md": README}


class World:
    """A Hub with models, a graph, a working folder, and fakes instead of networks."""

    def __init__(self, root, monkeypatch, hub):
        self.root, self.hub, self.loaded = root, hub, []
        self.batches_left = None
        self.errors = {}  # what loading a model raises
        self.folder = write_graph_folder(root / "graph", probes_of_all(3))
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(root / "assets"))
        monkeypatch.setattr(engines, "load_model", self.load)

    def load(self, ref, device):
        if not ref.is_local:
            source.fetch(ref, None)  # as the true one does
        self.loaded.append(ref.repo_id)
        if error := self.errors.get(ref.repo_id):
            raise error
        return FakeModel(GRAPH, ref, self.batches_left)

    def add(self, *names, weights=b"weights"):
        for name in names:
            self.hub.put("model", name, model_files(weights))
        return names

    def fleet(self, destination=None, store="labels", images_per_concept=75, seed=0, graph=GRAPH, **options):
        probes = load_probes(graph, self.folder, SamplingConfig(images_per_concept, seed))
        return Fleet(graph, probes, LabelStore(self.root / store), destination, batch_size=4, **options)

    def run(self, models, destination=None, *, dry_run=False, **options):
        fleet = self.fleet(destination, **options)
        return list(for_each(models, partial(label_one, fleet=fleet, dry_run=dry_run)))

    def outcomes(self, *args, **options):
        return [result.outcome for result in self.run(*args, **options)]

    def weights_requested(self):
        return [request for request in self.hub.requests if "/resolve/" in request and "open_clip" in request]


@pytest.fixture
def world(tmp_path, monkeypatch, hub):
    return World(tmp_path, monkeypatch, hub)


# --- which models


def test_text_names_one_model_per_line(tmp_path):
    file = tmp_path / "models.txt"
    file.write_text("\ufeff# the good ones\nalice/a   # first\n\n  alice/b@v1\nalice/a\n", encoding="utf-8")
    assert read_models(file) == ("alice/a", "alice/b@v1")


@pytest.mark.parametrize("column", ["repo_id", "model", "id"])
def test_csv_names_models_in_a_column(tmp_path, column):
    file = tmp_path / "models.csv"
    file.write_text(f"architecture,{column},revision\nViT,alice/a,\nRN,alice/b,v1\n")
    assert read_models(file) == ("alice/a", "alice/b@v1")


def test_json_names_models_as_text_or_in_objects(tmp_path):
    file = tmp_path / "models.JSON"
    file.write_text(json.dumps(["alice/a", {"repo_id": "alice/b", "revision": "v1"}, {"model": "alice/c@x"}]))
    assert read_models(file) == ("alice/a", "alice/b@v1", "alice/c@x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.json", b'{"a": 1}', "not a JSON list"),
        ("m.json", b"[1]", "none of the fields repo_id, model, id"),
        ("m.json", b"[", "is not a list of models"),
        ("m.json", b"[" * 100_000, "is not a list of models"),
        ("m.csv", b"name\nalice/a\n", "none of the fields"),
        ("m.txt", b"\xff\xfe\x00", "is not a list of models"),
        ("m.txt", b"# none\n", "lists no models"),
        ("m.csv", b"", "lists no models"),
    ],
)
def test_a_file_that_names_no_models_is_refused_in_one_line(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_models(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*check the path"):
        read_models(tmp_path / "none.txt")


def test_all_pages_of_a_listing_come_from_the_host_that_was_asked(world):
    names = world.add(*(f"alice/m{n}" for n in range(5)))
    link = '<https://huggingface.co/api/models?sort=downloads&cursor=3>; rel="next"'  # as a mirror may answer
    world.hub.fail("/api/models", headers={"Link": link})
    assert sorted(list_models()) == sorted(names)


def test_a_filter_lists_models_over_all_pages_and_touches_none(world):
    clip = world.add(*[f"alice/clip-{n}" for n in range(7)])
    world.hub.put("model", "alice/bert", {"README.md": b"no clip"})
    world.hub.put("model", "bob/clip", model_files())
    assert list_models(tags=("clip",)) == (*clip, "bob/clip")
    assert list_models(tags=("clip",), author="bob") == ("bob/clip",)
    assert list_models(search="BERT") == ("alice/bert",)
    assert list_models(tags=("clip",), author="alice", limit=4) == clip[:4]
    assert {request.split("?")[0] for request in world.hub.requests} == {"GET /api/models"}
    with pytest.raises(InputError, match="no model on the Hub matches"):
        list_models(tags=("clip", "sketch"))


def test_a_limit_asks_for_one_page_whatever_is_left_out(world):
    names = world.add(*[f"alice/clip-{n:03}" for n in range(130)])
    for rank, name in enumerate(reversed(names)):
        world.hub.repos["model", name].downloads = rank
    world.hub.requests.clear()
    world.hub.fail("/api/models", alter=lambda body: body.replace(b"alice/clip-000", b"alice clip-000"))
    assert list_models(tags=("clip",), limit=20) == names[1:21]
    assert [request.query["limit"] for request in world.hub.requests] == [["100"]]
    assert len(list_models(tags=("clip",), limit=120)) == 120
    assert len(world.hub.requests) == 2


def test_ids_of_a_listing_that_are_no_ids_are_left_out(world):
    world.add("alice/a")
    world.hub.fail("/api/models", alter=lambda body: body.replace(b'"alice/a"', b'"alice/a\\u001b[2J"'))
    with pytest.raises(InputError, match="no model"):
        list_models(author="alice")


# --- each model's own repository


def test_labels_are_published_and_the_second_run_does_nothing(world):
    models = world.add("alice/a", "alice/b")
    assert world.outcomes(models, OwnRepos()) == [Outcome.LABELED] * 2
    for name in models:
        published = label_from_bytes(world.hub.files("model", name)[LABEL_PATH])
        assert published.model.repo_id == name
        assert b"mll-label" in world.hub.files("model", name)["README.md"]
    world.hub.requests.clear()
    before = len(world.hub.repos["model", "alice/a"].commits)
    results = world.run(models, OwnRepos(), store="another")
    assert [result.outcome for result in results] == [Outcome.SKIPPED] * 2
    assert "labeled already" in results[0].reason
    assert world.loaded == list(models)
    assert not world.weights_requested()
    assert not world.hub.counted
    assert len(world.hub.repos["model", "alice/a"].commits) == before
    assert len(world.hub.requests) <= 5 * len(models) + 1  # once, who the user is


def test_finding_out_what_is_there_counts_as_no_download(world):
    models = world.add("alice/a", "alice/b")
    assert world.outcomes(models, OwnRepos(), dry_run=True) == [Outcome.PLANNED] * 2
    assert not world.loaded
    assert not any("/resolve/" in request for request in world.hub.requests)


def test_an_edited_readme_is_no_new_model_but_new_weights_are(world):
    models = world.add("alice/a")
    world.run(models, OwnRepos())
    readme = world.hub.files("model", "alice/a")["README.md"]
    world.hub.put("model", "alice/a", {"README.md": readme + b"more\n"})
    assert world.outcomes(models, OwnRepos(), store="another") == [Outcome.SKIPPED]
    head = world.hub.put("model", "alice/a", {"open_clip_model.safetensors": b"better"})
    assert world.outcomes(models, OwnRepos()) == [Outcome.LABELED]
    assert label_from_bytes(world.hub.files("model", "alice/a")[LABEL_PATH]).model.revision == head


def test_a_larger_sample_answers_for_a_smaller_one_and_not_the_other_way(world):
    models = world.add("alice/a")
    for images, expected in ((2, Outcome.LABELED), (2, Outcome.SKIPPED), (3, Outcome.LABELED), (2, Outcome.SKIPPED)):
        outcomes = world.outcomes(models, OwnRepos(), images_per_concept=images, store=f"{images}-{expected}")
        assert outcomes == [expected]
        label = label_from_bytes(world.hub.files("model", "alice/a")[LABEL_PATH])
        assert label.sampling.images_per_concept == max(images, int(label.support.max()))


def test_another_seed_is_another_label(world):
    models = world.add("alice/a")
    world.run(models, OwnRepos())
    assert world.outcomes(models, OwnRepos(), seed=1, store="another") == [Outcome.LABELED]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda label: label_to_bytes(label)[:-1],
        lambda label: b"no label",
        lambda label: label_to_bytes(replace(label, model=replace(label.model, repo_id="bob/copied-from"))),
        lambda label: label_to_bytes(replace(label, model=replace(label.model, backend="transformers"))),
        lambda label: label_to_bytes(replace(label, model=replace(label.model, revision="f" * 40))),
        lambda label: label_to_bytes(replace(label, probes_digest="f" * 40)),
    ],
)
def test_a_label_that_is_not_the_models_is_replaced(world, spoil):
    models = world.add("alice/a")
    world.run(models, OwnRepos())
    good = world.hub.files("model", "alice/a")[LABEL_PATH]
    world.hub.put("model", "alice/a", {LABEL_PATH: spoil(label_from_bytes(good))})
    assert world.outcomes(models, OwnRepos(), store="another") == [Outcome.LABELED]
    assert label_from_bytes(world.hub.files("model", "alice/a")[LABEL_PATH]).model.repo_id == "alice/a"


def test_an_old_revision_has_no_place_beside_newer_weights(world):
    (old,) = (world.hub.put("model", "alice/a", model_files(b"old")),)
    world.hub.put("model", "alice/a", {"open_clip_model.safetensors": b"new"})
    (result,) = world.run([f"alice/a@{old}"], OwnRepos())
    assert result.outcome is Outcome.FAILED
    assert "its weights have changed" in result.reason
    assert not world.loaded
    assert world.outcomes([f"alice/a@{old}"], CollectionRepo(LABELS)) == [Outcome.LABELED]


def test_the_fleet_leaves_repos_of_others_alone(world):
    world.hub.put("model", "bob/a", model_files())
    for dry_run in (True, False):
        (result,) = world.run(["bob/a"], OwnRepos(), dry_run=dry_run)
        assert result.outcome is Outcome.FAILED
        assert "belongs to others" in result.reason
    assert not world.loaded
    assert not world.hub.repos["model", "bob/a"].discussions
    (result,) = world.run(["bob/a"], OwnRepos(create_pr=True))
    assert result.published.pull_request == 1
    assert LABEL_PATH not in world.hub.files("model", "bob/a")
    assert LABEL_PATH in world.hub.files("model", "bob/a", "refs/pr/1")


@pytest.mark.parametrize(
    ("answer", "owners"),
    [
        (
            {"name": "alice", "orgs": [{"name": "lab", "roleInOrg": "contributor"}, {"name": "bobs"}]},
            {"alice", "lab", "bobs"},
        ),
        (
            {"name": "lab", "auth": {"type": "oauth"}, "orgs": [{"name": "readers", "roleInOrg": "read"}]},
            {"lab"},
        ),
        ({"name": "lab"}, {"lab"}),  # the token of an organization
    ],
)
def test_the_hub_says_who_owns_what(hub, answer, owners):
    hub.fail("/api/whoami-v2", alter=lambda _: json.dumps(answer).encode(), times=9)
    assert own_names() == owners
    models = ["lab/a@main", "lab/b", "bob/c", "bob/c@v1", "Lab/d", "gpt2", "local-dir:x/y"]
    assert repos_of_others(models) == ("bob/c", "Lab/d", "gpt2")


def test_a_token_that_may_only_read_is_refused_before_any_work(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_read_only_token")
    with pytest.raises(HubError, match="log in with one that can write"):
        own_names()


def test_the_hub_is_asked_once_who_the_user_is(world):
    for name in world.add("alice/a", "alice/b"):
        world.run([name], OwnRepos(create_pr=True))
    assert [str(request) for request in world.hub.requests].count("GET /api/whoami-v2") == 1


def test_an_answer_that_names_nobody_is_no_owner(hub):
    hub.fail("/api/whoami-v2", alter=lambda _: b'{"orgs": [7]}')
    with pytest.raises(HubError, match="cannot be parsed"):
        own_names()


def test_pull_requests_are_opened_on_demand(world):
    models = world.add("alice/a")
    (result,) = world.run(models, OwnRepos(create_pr=True))
    assert result.published.pull_request == 1
    assert LABEL_PATH not in world.hub.files("model", "alice/a")


@pytest.mark.parametrize("name", ["alice/before", "Alice/a"])
def test_a_model_named_by_an_old_name_or_in_another_case_is_labeled_under_its_own(world, name):
    world.add("alice/before")
    world.hub.rename("model", "alice/before", "alice/a")
    (result,) = world.run([name], OwnRepos())
    assert result.published.changed
    assert [label.model.repo_id for label in open_source("hub").list()] == ["alice/a"]
    assert world.outcomes(["alice/a", name], OwnRepos()) == [Outcome.SKIPPED, Outcome.SKIPPED]
    world.hub.rename("model", "alice/a", "alice/b")
    assert world.outcomes(["alice/b"], OwnRepos()) == [Outcome.SKIPPED]


@pytest.mark.parametrize("destination", [OwnRepos(create_pr=True), CollectionRepo(LABELS, create_pr=True)])
def test_what_waits_in_an_open_pull_request_is_not_measured_again(world, destination):
    models = world.add("alice/a", "alice/b")
    world.run(models[1:], CollectionRepo(LABELS), store="theirs")
    assert world.outcomes(models[:1], destination) == [Outcome.LABELED]
    again = replace(destination)
    assert world.outcomes(models[:1], again, store="elsewhere") == [Outcome.SKIPPED]
    world.add("alice/a", weights=b"other weights")
    assert world.outcomes(models[:1], again, store="elsewhere") == [Outcome.LABELED]


# --- a collection


def test_what_others_label_in_the_meantime_is_not_measured_again(world):
    models, ours = world.add("alice/a", "alice/b", "alice/c"), CollectionRepo(LABELS)
    assert world.outcomes(models[:1], ours) == [Outcome.LABELED]
    assert world.outcomes(models[1:2], CollectionRepo(LABELS), store="theirs") == [Outcome.LABELED]
    assert world.outcomes(models[1:], ours) == [Outcome.SKIPPED, Outcome.LABELED]
    assert len(open_source(LABELS).list()) == 3


def test_a_collection_is_made_and_the_second_run_does_nothing(world):
    models = world.add("alice/a", "alice/b")
    world.hub.put("model", "bob/c", model_files())
    assert world.outcomes([*models, "bob/c"], CollectionRepo(LABELS, private=True)) == [Outcome.LABELED] * 3
    collection = world.hub.repos["dataset", "alice/labels"]
    assert collection.private
    assert sum(path.startswith("labels/") for path in collection.files) == 3
    assert all(LABEL_PATH not in world.hub.files("model", name) for name in (*models, "bob/c"))
    world.hub.requests.clear()
    results = world.run([*models, "bob/c"], CollectionRepo(LABELS), store="another")
    assert [result.outcome for result in results] == [Outcome.SKIPPED] * 3
    assert results[2].reason.startswith(f"labeled already: {LABELS}/labels/bob--c/")
    assert not world.weights_requested()
    assert len(world.loaded) == 3
    # one request for each model's commit and one for the collection's; the graph; three labels, from the Hub and then
    # from where it keeps large files
    assert Counter(request.split("/")[1] for request in world.hub.requests)["api"] == 4
    assert len(world.hub.requests) <= 4 + 1 + 2 * 3


def test_only_what_the_collection_lacks_is_labeled(world):
    world.add("alice/a", "alice/b")
    world.run(["alice/a"], CollectionRepo(LABELS))
    results = world.run(["alice/a", "alice/b"], CollectionRepo(LABELS), store="another")
    assert [result.outcome for result in results] == [Outcome.SKIPPED, Outcome.LABELED]
    assert world.outcomes(["alice/a"], CollectionRepo(LABELS), seed=1, store="two") == [Outcome.LABELED]
    head = world.hub.put("model", "alice/a", {"open_clip_model.safetensors": b"better"})
    (result,) = world.run(["alice/a"], CollectionRepo(LABELS), store="third")
    assert (result.outcome, result.model.revision) == (Outcome.LABELED, head)


def test_the_index_of_a_large_collection_spares_fetching_its_labels(world, monkeypatch):
    monkeypatch.setattr("mll_hf.labels.store.MANY_LABELS", 1)
    models = world.add("alice/a", "alice/b")
    world.run(models, CollectionRepo(LABELS))
    world.hub.requests.clear()
    assert world.outcomes(models, CollectionRepo(LABELS), store="another") == [Outcome.SKIPPED] * 2
    assert any("/index/" in request for request in world.hub.requests)
    assert not any("/labels/alice--" in request for request in world.hub.requests)


def test_labels_of_the_same_weights_are_not_measured_again(world):
    world.add("alice/a")
    (first,) = world.run(["alice/a"], CollectionRepo(LABELS))
    world.hub.put("model", "alice/a", {"README.md": b"a new commit"})
    (again,) = world.run(["alice/a"], CollectionRepo(LABELS), store="another")
    assert again.outcome is Outcome.SKIPPED
    assert first.model.revision in again.reason
    # the working folder's label is published elsewhere, as it is
    (elsewhere,) = world.run(["alice/a"], CollectionRepo("hf://datasets/alice/others"))
    assert (elsewhere.outcome, elsewhere.model.revision) == (Outcome.LABELED, first.model.revision)
    assert world.loaded == ["alice/a"]
    world.hub.put("model", "alice/a", {"open_clip_model.safetensors": b"better"})
    assert world.outcomes(["alice/a"], CollectionRepo(LABELS)) == [Outcome.LABELED]
    assert world.loaded == ["alice/a"] * 2


def test_a_collection_holds_labels_on_several_graphs(world):
    world.add("alice/a")
    other = make_graph({"animal": (), "car": (), "cat": (), "corgi": ()}, name="other")
    for graph in (GRAPH, other):
        for store, outcome in ((graph.name, Outcome.LABELED), (f"{graph.name} again", Outcome.SKIPPED)):
            assert world.outcomes(["alice/a"], CollectionRepo(LABELS), store=store, graph=graph) == [outcome]
    files = world.hub.files("dataset", "alice/labels")
    assert sum(path.startswith("labels/") for path in files) == 2
    assert {f"graphs/{graph.digest[:12]}.json" for graph in (GRAPH, other)} <= set(files)


def test_a_collection_is_named_without_a_revision():
    for location, message in {f"{LABELS}@v1": "names a revision", "alice/labels": "is not of the form"}.items():
        with pytest.raises(InputError, match=message):
            CollectionRepo(location)


def test_an_empty_dataset_becomes_a_collection(world):
    world.add("alice/a")
    world.hub.put("dataset", "alice/labels", {"README.md": b"nothing yet"})
    assert world.outcomes(["alice/a"], CollectionRepo(LABELS)) == [Outcome.LABELED]
    assert f"graphs/{GRAPH.digest[:12]}.json" in world.hub.files("dataset", "alice/labels")


def test_when_the_collection_cannot_be_asked_nothing_is_measured(world, monkeypatch):
    world.add("alice/a")
    world.hub.fail("/api/datasets/alice/labels", 418)
    (result,) = world.run(["alice/a"], CollectionRepo(LABELS))
    assert result.outcome is Outcome.FAILED
    assert "418" in result.reason
    assert not world.loaded


# --- nowhere


def test_without_a_destination_labels_stay_in_the_working_folder(world):
    models = world.add("alice/a")
    (result,) = world.run(models)
    assert read_label(result.path).model.repo_id == "alice/a"
    assert not any(request.startswith("POST") for request in world.hub.requests)
    (second,) = world.run(models)
    assert second.outcome is Outcome.SKIPPED
    assert str(result.path) in second.reason


def test_what_was_measured_is_published_later_without_running_the_model(world):
    models = world.add("alice/a")
    world.run(models)
    (planned,) = world.run(models, OwnRepos(), dry_run=True)
    assert planned.reason == "publish to its own repo"
    assert world.outcomes(models, OwnRepos()) == [Outcome.LABELED]
    assert LABEL_PATH in world.hub.files("model", "alice/a")
    assert world.loaded == ["alice/a"]


def test_a_folder_is_labeled_but_not_published(world, tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    for name, content in model_files().items():
        (folder / name).write_bytes(content)
    (result,) = world.run([f"local-dir:{folder}"], OwnRepos())
    assert result.outcome is Outcome.FAILED
    assert "add --no-push" in result.reason
    assert world.outcomes([f"local-dir:{folder}"]) == [Outcome.LABELED]


def test_working_folders_differ_by_graph_images_and_seed(world):
    probes = world.fleet().probes
    folder = working_folder(GRAPH, probes)
    assert folder.is_relative_to(world.root / "assets")
    others = [
        working_folder(make_graph({"a": ()}), probes),
        working_folder(GRAPH, replace(probes, counts=replace(probes.counts, files=("f" * 64,)))),
        working_folder(GRAPH, replace(probes, sampling=SamplingConfig(75, 1))),
    ]
    assert len({folder, *others}) == 4
    # a larger sample finds what a smaller one embedded
    assert working_folder(GRAPH, replace(probes, sampling=SamplingConfig(74))) == folder


# --- what goes wrong


def test_a_failing_model_does_not_stop_the_others(world):
    world.add("alice/a", "alice/b", "alice/c", "alice/d")
    world.hub.put("model", "bob/gated", model_files())
    world.hub.repos["model", "bob/gated"].gated = "auto"
    world.hub.put("model", "alice/pickled", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    world.errors = {
        "alice/a": ModelError("alice/a", "is broken; use another"),
        "alice/b": RuntimeError("CUDA out of\nmemory"),
    }
    models = ["alice/a", "alice/b", "bob/gated", "alice/pickled", "alice/none", "no-owner", "alice/c", "alice/d"]
    results = world.run(models, CollectionRepo(LABELS))
    assert [result.outcome for result in results] == [Outcome.FAILED] * 6 + [Outcome.LABELED] * 2
    assert [result.name for result in results] == models
    reasons = ["is broken", "RuntimeError: CUDA out of memory", "is gated", "only pickle", "not on the Hub", "org/name"]
    for result, reason in zip(results, reasons, strict=False):
        assert reason in result.reason
        assert "\n" not in result.reason


def test_a_refused_publication_is_made_up_for_without_measuring_again(world):
    models = world.add("alice/a", "alice/b")
    world.hub.fail("/commit/", 400)
    assert world.outcomes(models, OwnRepos()) == [Outcome.FAILED, Outcome.LABELED]
    assert world.outcomes(models, OwnRepos()) == [Outcome.LABELED, Outcome.SKIPPED]
    assert world.loaded == ["alice/a", "alice/b"]


def test_a_full_disk_stops_the_run(world):
    world.add("alice/a", "alice/b")
    world.errors = {"alice/a": StorageError(world.root, OSError(28, "No space left on device"))}
    with pytest.raises(StorageError):
        world.run(["alice/a", "alice/b"])
    assert world.loaded == ["alice/a"]


def test_ctrl_c_stops_the_run_and_the_next_one_goes_on(world, monkeypatch):
    models = world.add("alice/a", "alice/b")
    done = []
    encoded = []
    act = partial(label_one, fleet=world.fleet(OwnRepos()))

    def load(ref, device):
        model = FakeModel(GRAPH, ref, batches_left=1 if ref.repo_id == "alice/b" and not encoded else None)
        if ref.repo_id == "alice/b":
            encoded.append(model.encoded)
        return model

    monkeypatch.setattr(engines, "load_model", load)
    with pytest.raises(KeyboardInterrupt):
        done.extend(result.outcome for result in for_each(models, act))
    assert LABEL_PATH in world.hub.files("model", "alice/a")
    assert world.outcomes(models, OwnRepos()) == [Outcome.SKIPPED, Outcome.LABELED]
    assert [len(images) for images in encoded] == [4, 5]  # nine images: four before the interruption, the rest after


def test_names_of_strangers_cannot_write_to_the_terminal(world):
    world.hub.put("model", "alice/a", {"\x1b[2J\x1b[1mevil.txt": b"."})
    (result,) = world.run(["alice/a"])
    assert result.outcome is Outcome.FAILED
    assert "evil.txt" in result.reason
    assert result.reason.isprintable()


def test_a_log_gets_no_progress_bars(world, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "are_progress_bars_disabled", lambda name: False)
    assert world.outcomes(world.add("alice/a")) == [Outcome.LABELED]
    assert "image" not in capsys.readouterr().err


def test_progress_says_which_model_of_how_many(world):
    models = world.add("alice/a", "alice/b")
    started = []
    act = partial(label_one, fleet=world.fleet())
    list(for_each(models, act, lambda number, name: started.append((number, name))))
    assert started == [(1, "alice/a"), (2, "alice/b")]


def test_nobody_works_for_hours_without_being_logged_in(monkeypatch):
    own_names()
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    with pytest.raises(HubError, match="hf auth login"):
        own_names()


def test_a_hub_in_trouble_is_not_taken_for_a_missing_login(hub):
    hub.fail("/api/whoami-v2", 500, times=9)
    with pytest.raises(HubError, match="status 500"):
        own_names()


def test_overwrite_measures_again(world):
    models = world.add("alice/a")
    world.run(models, OwnRepos())
    assert world.outcomes(models, OwnRepos(), overwrite=True) == [Outcome.LABELED]
    assert world.loaded == ["alice/a", "alice/a"]


# --- the cache


def cached_weights():
    return [path for path in Path(constants.HF_HUB_CACHE).rglob("*.safetensors") if path.exists()]


def blobs():
    return [path for path in Path(constants.HF_HUB_CACHE).rglob("blobs/*") if path.is_file()]


def test_weights_are_freed_model_by_model(world):
    models = world.add("alice/a", "alice/b")
    world.run(models[:1])
    assert len(cached_weights()) == 1
    world.run(models[1:], free_cache=True)
    assert [path.parts[-4] for path in cached_weights()] == ["models--alice--a"]


def test_weights_of_a_failed_model_are_freed_too(world):
    world.add("alice/a")
    world.errors = {"alice/a": ModelError("alice/a", "is broken; use another")}
    assert world.outcomes(["alice/a"], free_cache=True) == [Outcome.FAILED]
    assert not cached_weights()
    assert not blobs()


def test_weights_in_modules_of_sentence_transformers_are_freed_too(world):
    files = {"modules.json": b"[]", "0_CLIPModel/config.json": b"{}", "0_CLIPModel/model.safetensors": b"weights"}
    world.hub.put("model", "alice/a", files)
    assert world.outcomes(["alice/a"], free_cache=True) == [Outcome.LABELED]
    assert not blobs()
    world.hub.put("model", "alice/a", {"0_CLIPModel/model.safetensors": b"other weights"})
    snapshot_download("alice/a")
    assert world.outcomes(["alice/a"], free_cache=True) == [Outcome.LABELED]
    assert len(blobs()) == 3


@pytest.mark.parametrize("free", [False, True])
def test_embeddings_of_a_small_sample_are_freed_too(world, free):
    assert world.outcomes(world.add("alice/a"), images_per_concept=2, free_cache=free) == [Outcome.LABELED]
    assert len([*world.root.rglob("embeddings.log")]) == (0 if free else 1)


def test_weights_that_were_there_before_stay(world):
    world.add("alice/a")
    snapshot_download("alice/a", allow_patterns=["open_clip*"])
    assert world.outcomes(["alice/a"], free_cache=True) == [Outcome.LABELED]
    assert len(cached_weights()) == 1


def test_weights_shared_with_another_revision_stay(world):
    world.add("alice/a")
    snapshot_download("alice/a", allow_patterns=["open_clip*"])
    world.hub.put("model", "alice/a", {"README.md": b"new"})
    assert world.outcomes(["alice/a"], free_cache=True) == [Outcome.LABELED]
    (kept,) = cached_weights()
    assert kept.read_bytes() == b"weights"


def test_a_run_that_downloaded_no_weights_deletes_nothing(world):
    world.add("alice/a")
    world.run(["alice/a"], free_cache=True)
    readme = Path(snapshot_download("alice/a", allow_patterns=["README.md"])) / "README.md"
    assert world.outcomes(["alice/a"], OwnRepos(), free_cache=True) == [Outcome.LABELED]
    assert readme.read_bytes() == README


def test_weights_stay_after_ctrl_c(world):
    world.add("alice/a")
    world.batches_left = 1
    with pytest.raises(KeyboardInterrupt):
        world.run(["alice/a"], free_cache=True)
    assert len(cached_weights()) == 1


def test_only_files_in_the_working_folder_are_left(world):
    models = world.add("alice/a")
    world.run(models, OwnRepos())
    files = {os.path.relpath(path, world.root / "labels") for path in (world.root / "labels").rglob("*.*")}
    assert {name.split("/")[0] for name in files} == {"graphs", "labels"}


def test_a_model_named_twice_is_labeled_once(world):
    models = world.add("alice/a")
    commit = world.hub.repos["model", "alice/a"].refs["main"]
    assert world.outcomes([*models, f"alice/a@{commit}"]) == [Outcome.LABELED, Outcome.SKIPPED]
    assert world.loaded == list(models)


def test_a_label_without_embeddings_is_measured_again_if_they_are_wanted(world):
    models = world.add("alice/a")
    outcomes = [world.outcomes(models, keep_embeddings=keep)[0] for keep in (False, True, True)]
    assert outcomes == [Outcome.LABELED, Outcome.LABELED, Outcome.SKIPPED]
