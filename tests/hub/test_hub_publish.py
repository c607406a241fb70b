from __future__ import annotations

import itertools
import json
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi

from hub_worlds import (
    COLLECTION,
    GRAPH,
    MODEL_FILES,
    OTHER_GRAPH,
    OTHER_STEM,
    READ_ONLY,
    READER,
    REPO,
    STEM,
    THIRD,
    clock,
    complaint_of,
    graph_file,
    graph_files,
    index_file,
    label_files,
    no_download_is_counted,
    path_of,
    put_collection,
    put_model,
    sha256_of,
    some_labels,
)
from mll_hf.errors import CardError, InputError, MLLError
from mll_hf.hub import PICTURE_PATH, SUMMARY_PATH, rows_from_bytes
from mll_hf.hub.card import EVAL_RESULTS_PATH, LABEL_PATH, LABEL_TAG, graph_tag
from mll_hf.hub.publish import publish_label, publish_to_collection, update_index
from mll_hf.hub.sources import open_source
from mll_hf.labels import store as storing
from mll_hf.labels.file_format import label_from_bytes, label_to_bytes
from mll_hf.labels.label import ModelRef
from worlds import SHA, make_label

__all__ = ["clock", "no_download_is_counted"]  # a fixture

pytestmark = pytest.mark.usefixtures("clock", "no_download_is_counted")
MODEL = "alice/model"
COMMIT = "/commit/"
SHARD = f"index/{STEM}/00000.safetensors"
LABELS = some_labels(4)
README = b"---\nlicense: mit  # ours\ntags: [clip]\n---\r\n# A model\n\nSays \xe2\x80\x9chello\xe2\x80\x9d."


@pytest.fixture
def label():
    """The label of a model of alice's, not published yet."""
    return put_model(files={**MODEL_FILES, "README.md": README})


def commits(hub, kind="model", repo_id=MODEL):
    """Titles of the commits on main, newest first, without the first one."""
    repo = hub.repos[kind, repo_id]
    return [repo.commits[oid]["title"] for oid in repo.history(repo.refs["main"])][:-1]


def metadata_of(readme):
    return yaml.safe_load(readme.decode().split("---")[1])


def assert_published(hub, label, revision="main", path=LABEL_PATH):
    """Label, tags and metadata are there and agree; every other file and all of the author's card are as before."""
    files = hub.files("model", label.model.repo_id, revision)
    blob = label_to_bytes(label)
    assert files[path] == blob
    metadata = metadata_of(files["README.md"])
    assert {LABEL_TAG, graph_tag(label.graph_digest)} <= set(metadata["tags"])
    entry = metadata["mll"]["labels"][label.graph_digest[:12]]
    assert (entry["sha256"], entry["revision"], entry["file"]) == (sha256_of(blob), label.model.revision, path)
    measured = hub.files("model", label.model.repo_id, label.model.revision)
    untouched = {name for name in files if not name.startswith("mll/") and name != "README.md"}
    assert {name: files[name] for name in untouched} == {
        name: content for name, content in measured.items() if name != "README.md"
    }


def assert_collected(hub, labels, graphs=(GRAPH,), repo_id=REPO):
    """The collection holds exactly these labels, and its index and card agree with them."""
    files = hub.files("dataset", repo_id)
    assert {path: content for path, content in files.items() if path.startswith("labels/")} == label_files(labels)
    assert graph_files(*graphs).items() <= files.items()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storing, "MANY_LABELS", 1)
        before = len(hub.requests)
        indexed = open_source(f"hf://datasets/{repo_id}").indexed
        asked = [request for request in hub.requests[before:] if "/resolve/" in request]
    assert {(label.model, label.key): label.license for label in indexed} == {
        (label.model, label.key): label.license for label in labels
    }
    assert not [request for request in asked if any(request.endswith(path_of(label)) for label in labels)]
    card = files["README.md"].decode()
    for label in labels:
        assert label.model.repo_id in card
    others = [path for path in files if not path.startswith(("labels/", "graphs/", "index/"))]
    assert set(others) <= {"README.md", ".gitattributes", SUMMARY_PATH, PICTURE_PATH}
    of_labels = [(label.model.repo_id, label.model.revision, sha256_of(label_to_bytes(label))) for label in labels]
    lines = rows_from_bytes(files[SUMMARY_PATH]).values()
    assert sorted((line["model"], line["revision"], line["sha256"]) for line in lines) == sorted(of_labels)


# ---- in the model's own repo


def test_label_and_card_are_one_commit(hub, label):
    published = publish_label(label, GRAPH)
    assert_published(hub, label)
    assert commits(hub) == ["Add MLL label", "put"]
    repo = hub.repos["model", MODEL]
    assert published.changed
    assert published.pull_request is None
    assert published.revision == repo.refs["main"]
    assert published.url.endswith(f"/alice/model/commit/{published.revision}")


def test_the_authors_card_is_kept(hub, label):
    publish_label(label, GRAPH)
    readme = hub.files("model", MODEL)["README.md"]
    assert b"license: mit  # ours\n" in readme
    assert b"# A model\n\nSays \xe2\x80\x9chello\xe2\x80\x9d." in readme
    assert metadata_of(readme)["tags"] == [LABEL_TAG, graph_tag(GRAPH.digest), "clip"]


def test_a_model_without_a_card_gets_one(hub):
    label = put_model(files={"config.json": b"{}"})
    publish_label(label, GRAPH)
    assert_published(hub, label)


def test_publishing_twice_changes_nothing(hub, label):
    first = publish_label(label, GRAPH)
    hub.requests.clear()
    second = publish_label(label, GRAPH)
    assert not second.changed
    assert second.revision == first.revision
    assert len(commits(hub)) == 2
    assert not [request for request in hub.requests if not request.startswith(("GET ", "HEAD "))]


def test_a_new_label_replaces_the_old_one(hub, label):
    publish_label(label, GRAPH)
    newer = replace(label, temperature=np.array([2], np.float32))
    assert publish_label(newer, GRAPH).changed
    assert_published(hub, newer)
    assert hub.files("model", MODEL)["README.md"].count(b":start -->") == 1


def test_changed_weights_are_refused(hub, label):
    hub.put("model", MODEL, {"open_clip_model.safetensors": b"other weights"})
    said = complaint_of(lambda: publish_label(label, GRAPH))
    assert said.startswith(f"alice/model: its weights have changed since {label.model.revision[:12]}")
    assert LABEL_PATH not in hub.files("model", MODEL)


@pytest.mark.parametrize("change", [{"README.md": b"new"}, {"images/cat.png": b"cat"}, {"README.md": None}])
def test_changes_that_do_not_affect_the_model(hub, label, change):
    hub.put("model", MODEL, change)
    assert publish_label(label, GRAPH).changed
    assert hub.files("model", MODEL)[LABEL_PATH] == label_to_bytes(label)


@pytest.mark.parametrize("change", [{"config.json": b"[]"}, {"vocab.txt": b"a"}, {"config.json": None}])
def test_changes_that_affect_the_model(hub, label, change):
    hub.put("model", MODEL, change)
    complaint_of(lambda: publish_label(label, GRAPH))


def test_an_unknown_measured_commit_is_refused(hub):
    put_model()
    label = make_label(GRAPH, repo_id=MODEL, revision=SHA)
    assert "no such revision" in complaint_of(lambda: publish_label(label, GRAPH))


def test_unpublishable_labels_are_refused_without_a_request(hub, label):
    local = replace(label, model=ModelRef("local-dir:/models/x", SHA, "open_clip"))
    assert "hf upload" in complaint_of(lambda: publish_label(local, GRAPH), InputError)
    assert "not of the graph other" in complaint_of(lambda: publish_label(label, OTHER_GRAPH), InputError)
    assert "no labels" in complaint_of(lambda: publish_to_collection([], [GRAPH], COLLECTION), InputError)
    assert "leave out the @" in complaint_of(
        lambda: publish_to_collection([label], [GRAPH], f"{COLLECTION}@{SHA}"), InputError
    )
    assert "is not of the form" in complaint_of(lambda: publish_to_collection([label], [GRAPH], "x"), InputError)
    assert hub.requests == []


@pytest.mark.parametrize(
    "readme", [b"\xff\xfe", b"---\n- a\n---\n", b"---\na: &x 1\nb: *x\n---\n", b"---\n: : :\n---\n"]
)
def test_a_card_that_cannot_be_edited(hub, readme):
    label = put_model(files={**MODEL_FILES, "README.md": readme})
    assert complaint_of(lambda: publish_label(label, GRAPH), CardError).startswith("alice/model: ")
    assert commits(hub) == ["put"]


def test_a_card_that_the_hub_refuses(hub, label):
    body = b'{"errors": [{"message": "\\"license\\" must be one of"}], "warnings": []}'
    hub.fail("/api/validate-yaml", 400, times=99, alter=lambda _: body)
    complaint_of(lambda: publish_label(label, GRAPH), MLLError)
    assert commits(hub) == ["put"]


def test_publish_with_eval_results(hub, label):
    label = replace(label, graph_location=f"hf://datasets/alice/graph@{SHA}")
    publish_label(label, GRAPH, with_eval_results=True)
    files = hub.files("model", MODEL)
    assert yaml.safe_load(files[EVAL_RESULTS_PATH])[0]["value"] == pytest.approx(100 * label.mean_recall, abs=0.01)
    assert not publish_label(label, GRAPH, with_eval_results=True).changed


# ---- in a pull request


def test_without_write_access_a_label_is_refused(hub, label):
    message = complaint_of(lambda: publish_label(label, GRAPH, token=READER))
    assert "may not write to it; name a repo of your own with --to, ask for a pull request with --pr" in message
    assert commits(hub) == ["put"]
    assert not hub.repos["model", MODEL].discussions


def test_without_write_access_to_a_collection_labels_are_refused(hub):
    publish_to_collection(LABELS[:1], [GRAPH], COLLECTION)
    complaint_of(lambda: publish_to_collection(LABELS[1:2], [GRAPH], COLLECTION, token=READER))
    assert_collected(hub, LABELS[:1])
    assert not hub.repos["dataset", REPO].discussions


def test_without_write_access_a_pull_request_is_opened_on_request(hub, label):
    published = publish_label(label, GRAPH, create_pr=True, token=READER)
    assert published.pull_request == 1
    assert published.changed
    assert published.url.endswith("/alice/model/discussions/1")
    assert commits(hub) == ["put"]
    assert_published(hub, label, "refs/pr/1")


def test_a_pull_request_on_request(hub, label):
    assert publish_label(label, GRAPH, create_pr=True).pull_request == 1
    assert commits(hub) == ["put"]


def test_a_merged_pull_request(hub, api, label):
    publish_label(label, GRAPH, create_pr=True, token=READER)
    api.merge_pull_request(MODEL, 1)
    assert_published(hub, label)
    repo = hub.repos["model", MODEL]
    assert repo.commits[repo.refs["refs/pr/1"]]["author"] == "bob"
    assert not publish_label(label, GRAPH).changed
    again = publish_label(label, GRAPH, create_pr=True, token=READER)
    assert not again.changed
    assert again.pull_request is None
    assert len(repo.discussions) == 1


def test_an_open_pull_request_is_continued(hub, label):
    publish_label(label, GRAPH, create_pr=True, token=READER)
    again = publish_label(label, GRAPH, create_pr=True, token=READER)
    assert not again.changed
    assert again.pull_request == 1
    newer = replace(label, temperature=np.array([2], np.float32))
    assert publish_label(newer, GRAPH, create_pr=True, token=READER).pull_request == 1
    assert len(hub.repos["model", MODEL].discussions) == 1
    assert_published(hub, newer, "refs/pr/1")


def test_closed_pull_requests_and_those_of_others_are_not_continued(hub, label):
    publish_label(label, GRAPH, create_pr=True, token=READER)
    assert publish_label(label, GRAPH, create_pr=True, token=THIRD).pull_request == 2
    hub.repos["model", MODEL].discussions[0]["status"] = "closed"
    assert publish_label(label, GRAPH, create_pr=True, token=READER).pull_request == 3
    discussions = hub.repos["model", MODEL].discussions
    discussions[:0] = [{**discussions[0], "num": number} for number in range(10, 17)]  # more than a page
    assert publish_label(label, GRAPH, create_pr=True, token=READER).pull_request == 3


def test_our_pull_requests_with_another_title_are_not_continued(hub, label):
    publish_label(label, GRAPH, create_pr=True, token=READER)
    hub.repos["model", MODEL].discussions[0]["title"] = "Correct a typo"
    assert publish_label(label, GRAPH, create_pr=True, token=READER).pull_request == 2


def test_the_author_of_a_pull_request_is_checked(hub, label):
    publish_label(label, GRAPH, create_pr=True, token=THIRD)
    everything = {"discussions": hub.repos["model", MODEL].discussions, "start": 0, "count": 1}
    hub.fail("/discussions", alter=lambda _: json.dumps(everything).encode())
    assert publish_label(label, GRAPH, create_pr=True, token=READER).pull_request == 2


def test_the_branch_of_a_pull_request_belongs_to_its_author(hub, label):
    publish_label(label, GRAPH, create_pr=True, token=READER)
    newer = replace(label, temperature=np.array([2], np.float32))
    publish_label(newer, GRAPH, create_pr=True, token=THIRD)
    assert_published(hub, label, "refs/pr/1")
    assert_published(hub, newer, "refs/pr/2")


def test_a_commit_on_main_under_a_pull_request(hub, api, label):
    publish_label(label, GRAPH, create_pr=True, token=READER)
    hub.put("model", MODEL, {"notes.md": b"new"})
    api.merge_pull_request(MODEL, 1)
    files = hub.files("model", MODEL)
    assert files["notes.md"] == b"new"
    assert files[LABEL_PATH] == label_to_bytes(label)


def test_a_read_only_token_publishes_nothing(hub, label):
    assert "log in with one that can write" in complaint_of(lambda: publish_label(label, GRAPH, token=READ_ONLY))
    assert commits(hub) == ["put"]
    assert hub.repos["model", MODEL].discussions == []


def test_an_unknown_token_is_an_error(hub, label):
    assert "hf auth login" in complaint_of(lambda: publish_label(label, GRAPH, token="hf_unknown"))
    assert commits(hub) == ["put"]


def test_a_private_model(hub, label):
    hub.repos["model", MODEL].private = True
    publish_label(label, GRAPH)
    assert_published(hub, label)
    assert "or private" in complaint_of(lambda: publish_label(label, GRAPH, create_pr=True, token=READER))


def test_a_gated_model(hub, label):
    hub.repos["model", MODEL].gated = "auto"
    assert "is gated" in complaint_of(lambda: publish_label(label, GRAPH, create_pr=True, token=READER))
    publish_label(label, GRAPH)
    assert_published(hub, label)


# ---- when something goes wrong


def test_a_concurrent_commit_is_kept(hub, label):
    hub.before(COMMIT, lambda: hub.put("model", MODEL, {"README.md": b"# Renamed\n", "notes.md": b"new"}))
    assert publish_label(label, GRAPH).changed
    files = hub.files("model", MODEL)
    assert b"# Renamed\n" in files["README.md"]
    assert files["notes.md"] == b"new"
    assert files[LABEL_PATH] == label_to_bytes(label)
    assert commits(hub) == ["Add MLL label", "put", "put"]


def test_a_concurrent_commit_of_the_same_label(hub, label):
    hub.before(COMMIT, lambda: publish_label(label, GRAPH))
    assert not publish_label(label, GRAPH).changed
    assert commits(hub) == ["Add MLL label", "put"]


def test_a_concurrent_commit_of_other_weights(hub, label):
    hub.before(COMMIT, lambda: hub.put("model", MODEL, {"open_clip_model.safetensors": b"new"}))
    assert "its weights have changed" in complaint_of(lambda: publish_label(label, GRAPH))
    assert LABEL_PATH not in hub.files("model", MODEL)


def test_conflicts_are_retried_a_limited_number_of_times(hub, label, clock):
    hub.before(COMMIT, lambda: hub.put("model", MODEL, {"notes.md": str(len(hub.requests)).encode()}), times=999)
    assert "status 412" in complaint_of(lambda: publish_label(label, GRAPH))
    assert len([request for request in hub.requests if COMMIT in request]) == 31
    assert max(clock.waits) <= 12
    assert LABEL_PATH not in hub.files("model", MODEL)


def test_a_commit_waits_for_another_one_in_progress(hub, label, clock):
    hub.fail(COMMIT, 409, times=3)
    assert publish_label(label, GRAPH).changed


def test_commits_at_the_same_time_all_succeed(hub):
    hub.fail("/commit/", delay=0.2, times=2)
    with ThreadPoolExecutor() as pool:
        publish = partial(publish_to_collection, graphs=[GRAPH], collection=COLLECTION)
        parts = [LABELS[:1], LABELS[1:2], LABELS[2:]]
        assert all(published.changed for published in pool.map(publish, parts))
    assert len([request for request in hub.requests if COMMIT in request]) > 3
    assert_collected(hub, LABELS)


def test_a_used_up_quota_of_commits_is_waited_for(hub, label, clock, caplog):
    said = "You have exceeded the rate limit for repository commits (128 per hour). You can retry in about 1 hour."
    hub.fail(COMMIT, 429, times=40, headers={"X-Error-Message": said})
    assert publish_label(label, GRAPH).changed
    assert 1800 < sum(clock.waits) < 3600
    assert "allows no more commits this hour" in caplog.text
    hub.fail(COMMIT, 429, times=999, headers={"X-Error-Message": said})
    hub.put("model", MODEL, {LABEL_PATH: None})
    assert "too many requests" in complaint_of(lambda: publish_label(label, GRAPH))


STEPS = [
    "GET /api/models/alice/model",
    "GET .*/README.md",
    "POST /api/validate-yaml",
    "POST .*/preupload/",
    "POST .*/objects/batch",
    "PUT /_lfs/",
    "POST .*/commit/",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("status", [429, 500, 503])
def test_transient_statuses_are_retried_at_any_step(hub, label, step, status):
    method, path = step.split(" ")
    hub.fail(path, status, method=method, times=2)
    assert publish_label(label, GRAPH).changed
    assert_published(hub, label)
    assert commits(hub) == ["Add MLL label", "put"]
    assert not [planned for planned in hub.disturbances if planned.times], "the step was not taken"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", ["before", "after"])
def test_lost_connections_are_retried_at_any_step(hub, label, step, how):
    method, path = step.split(" ")
    hub.fail(path, method=method, drop=how)
    publish_label(label, GRAPH)
    assert_published(hub, label)
    assert commits(hub) == ["Add MLL label", "put"], "the label was committed twice"
    assert not [planned for planned in hub.disturbances if planned.times], "the step was not taken"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 500])
def test_a_lasting_error_at_any_step_changes_nothing(hub, label, step, status):
    method, path = step.split(" ")
    hub.fail(path, status, method=method, times=999)
    before = hub.files("model", MODEL)
    complaint_of(lambda: publish_label(label, GRAPH), MLLError)
    assert hub.files("model", MODEL) == before
    assert len(commits(hub)) == 1
    hub.disturbances.clear()
    publish_label(label, GRAPH)
    assert_published(hub, label)


def test_a_lost_answer_does_not_open_a_second_pull_request(hub, label):
    hub.fail(COMMIT, drop="after")
    assert publish_label(label, GRAPH, create_pr=True).pull_request == 1
    assert len(hub.repos["model", MODEL].discussions) == 1


def test_wait_as_long_as_the_hub_asks(hub, label, clock):
    hub.fail(COMMIT, 429, headers={"Retry-After": "7"})
    publish_label(label, GRAPH)
    assert 7 in clock.waits


@pytest.mark.parametrize("path", [COMMIT, "/preupload/", "/api/models/alice/model"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"<html>", b'{"commitUrl": 3, "commitOid": []}'])
def test_malformed_answers(hub, label, path, body):
    hub.fail(path, times=99, alter=lambda _: body)
    complaint_of(lambda: publish_label(label, GRAPH), MLLError)
    hub.disturbances.clear()
    publish_label(label, GRAPH)
    assert_published(hub, label)


# ---- killed


def _publish_in_child(kind, label):
    """Runs in a process of its own."""
    if kind == "model":
        publish_label(label, GRAPH)
    else:
        publish_to_collection([label], [GRAPH], COLLECTION)


@pytest.fixture(scope="module")
def processes():
    """Starts processes quickly: a server imports everything once and forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_hub_publish"])
    with pytest.MonkeyPatch.context() as patch:
        here = Path(__file__).parent
        folders = (here, here.parent, *filter(None, [os.environ.get("PYTHONPATH")]))  # perhaps that of another client
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        forkserver.ensure_running()
    return context


def kill_at(hub, processes, number, kind, label):
    """Publish in another process and kill it while the Hub has a request before it; whether it got so far.

    The request is the first of all, or number 1, 2 ... of those that write: the others leave the Hub as it is.
    """
    process = processes.Process(target=_publish_in_child, args=(kind, label))
    count = itertools.count(min(number, 1))
    killed = []

    def kill():
        if next(count) == number:
            killed.append(number)
            process.kill()

    hub.before("", kill, times=999, method="POST|PUT|DELETE" if number else "")
    process.start()
    process.join()
    hub.wait_until_idle()
    hub.disturbances.clear()
    assert killed or process.exitcode == 0
    return bool(killed)


def test_a_killed_publication_leaves_the_model_unchanged_or_complete(hub, processes):
    outcomes = []
    for number in itertools.count():
        hub.reset()
        label = put_model(files={**MODEL_FILES, "README.md": README})
        before = hub.files("model", MODEL)
        was_killed = kill_at(hub, processes, number, "model", label)
        if is_untouched := hub.files("model", MODEL) == before:
            publish_label(label, GRAPH)
        outcomes.append(is_untouched)
        assert_published(hub, label)
        assert len(commits(hub)) == 2
        if not was_killed:
            break
    assert outcomes[:-2] == [True] * (len(outcomes) - 2)  # the last request that could be killed at was the commit
    assert outcomes[-1] is False
    assert len(outcomes) > 4


def test_a_killed_publication_leaves_the_collection_unchanged_or_complete(hub, processes):
    outcomes = []
    for number in itertools.count():
        hub.reset()
        put_collection(LABELS[:2])
        update_index(COLLECTION)
        before = hub.files("dataset", REPO)
        was_killed = kill_at(hub, processes, number, "dataset", LABELS[2])
        if is_untouched := hub.files("dataset", REPO) == before:
            assert len(open_source(COLLECTION).list()) == 2
            publish_to_collection([LABELS[2]], [GRAPH], COLLECTION)
        outcomes.append(is_untouched)
        assert_collected(hub, LABELS[:3])
        if not was_killed:
            break
    assert outcomes[-1] is False
    assert len(outcomes) > 4


def test_a_killed_first_publication_can_be_completed(hub, processes):
    for number in itertools.count():
        hub.reset()
        was_killed = kill_at(hub, processes, number, "dataset", LABELS[0])
        publish_to_collection([LABELS[0]], [GRAPH], COLLECTION)
        assert_collected(hub, LABELS[:1])
        if not was_killed:
            break
    assert number > 4


def test_metadata_that_the_hub_refuses(hub, label):
    hub.fail("/api/validate-yaml", 400, times=9)
    said = complaint_of(lambda: publish_label(label, GRAPH), CardError)
    assert said.startswith("alice/model: the Hub refuses the metadata of its card (")
    assert LABEL_PATH not in hub.files("model", MODEL)


def test_each_graph_has_a_label_of_its_own(hub, label, caplog):
    publish_label(label, GRAPH)
    other = make_label(OTHER_GRAPH, repo_id=MODEL, revision=label.model.revision)
    path = f"mll/{OTHER_GRAPH.digest[:12]}/label.safetensors"
    for _ in range(2):
        publish_label(other, OTHER_GRAPH)
        assert_published(hub, label)
        assert_published(hub, other, path=path)
    newer = replace(label, temperature=np.array([2], np.float32))
    publish_label(newer, GRAPH)
    assert_published(hub, newer)
    assert_published(hub, other, path=path)
    metadata = metadata_of(hub.files("model", MODEL)["README.md"])
    assert metadata["tags"] == [graph_tag(OTHER_GRAPH.digest), LABEL_TAG, graph_tag(GRAPH.digest), "clip"]
    hub.put("model", MODEL, {LABEL_PATH: None})
    assert publish_label(other, OTHER_GRAPH).changed is False  # it stays where it is
    assert {label.model for label in open_source("hub").list()} == {other.model}


def test_a_damaged_label_is_replaced(hub, label, caplog):
    hub.put("model", MODEL, {LABEL_PATH: b"bad"})
    publish_label(label, GRAPH)
    assert "mll/label.safetensors is replaced" in caplog.text
    assert_published(hub, label)


@pytest.mark.parametrize(("name", "warned"), [("my-folder", True), (f"hf://datasets/alice/graph@{SHA}", False)])
def test_a_label_on_a_local_graph_warns(hub, caplog, name, warned):
    publish_label(put_model(graph_location=name), GRAPH)
    assert ("is a local folder (my-folder)" in caplog.text) == warned


# ---- in a collection


def test_a_new_collection_is_filled_in_one_commit(hub):
    published = publish_to_collection(LABELS, [GRAPH], COLLECTION)
    assert_collected(hub, LABELS)
    assert commits(hub, "dataset", REPO) == ["Add MLL labels"]
    assert published.changed
    assert published.url.endswith(f"/datasets/alice/labels/commit/{published.revision}")
    assert not hub.repos["dataset", REPO].private


def test_a_new_collection_may_be_private(hub):
    publish_to_collection(LABELS, [GRAPH], COLLECTION, private=True)
    assert hub.repos["dataset", REPO].private
    publish_to_collection(LABELS[:1], [GRAPH], COLLECTION)
    assert hub.repos["dataset", REPO].private


def test_an_empty_dataset_becomes_a_collection(hub):
    hub.put("dataset", REPO, {".gitattributes": b"*.png filter=lfs\n"})
    publish_to_collection(LABELS, [GRAPH], COLLECTION)
    assert_collected(hub, LABELS)


def test_the_dataset_of_a_graph_is_no_collection(hub):
    hub.put("dataset", REPO, {**graph_file(), "images-0.parquet": b"images"})
    said = complaint_of(lambda: publish_to_collection(LABELS, [GRAPH], COLLECTION), InputError)
    assert "a dataset of another kind (graph.json, images-0.parquet)" in said


def test_the_owners_text_in_a_collections_card_is_kept(hub):
    hub.put("dataset", REPO, {"README.md": README})
    publish_to_collection(LABELS[:2], [GRAPH], COLLECTION)
    publish_to_collection(LABELS[2:], [GRAPH], COLLECTION)
    assert_collected(hub, LABELS)
    assert hub.files("dataset", REPO)["README.md"].startswith(README)


def test_a_dataset_of_another_kind_is_refused(hub):
    hub.put("dataset", REPO, {"train.parquet": b"rows"})
    said = complaint_of(lambda: publish_to_collection(LABELS, [GRAPH], COLLECTION), InputError)
    assert "a dataset of another kind (train.parquet)" in said
    assert set(hub.files("dataset", REPO)) == {"train.parquet"}


def test_a_public_collection_is_refused_if_private_is_requested(hub):
    put_collection(LABELS[:2])
    said = complaint_of(lambda: publish_to_collection(LABELS, [GRAPH], COLLECTION, private=True), InputError)
    assert "exists already and is public" in said
    hub.repos["dataset", REPO].private = True
    assert publish_to_collection(LABELS, [GRAPH], COLLECTION, private=True).changed


def test_publishing_to_a_collection_twice_changes_nothing(hub):
    publish_to_collection(LABELS, [GRAPH], COLLECTION)
    hub.requests.clear()
    assert not publish_to_collection(LABELS, [GRAPH], COLLECTION).changed
    assert not publish_to_collection(LABELS[1:2], [GRAPH], COLLECTION).changed
    assert not update_index(COLLECTION).changed
    assert len(commits(hub, "dataset", REPO)) == 1
    assert not [request for request in hub.requests if not request.startswith(("GET ", "HEAD "))]


def test_labels_are_added_to_those_that_are_there(hub):
    for label in LABELS:
        publish_to_collection([label], [GRAPH], COLLECTION)
    assert_collected(hub, LABELS)


def test_labels_on_several_graphs_in_one_collection(hub):
    others = [make_label(OTHER_GRAPH, repo_id=label.model.repo_id) for label in LABELS[:2]]
    publish_to_collection(LABELS, [GRAPH], COLLECTION)
    published = publish_to_collection(others[:1], [OTHER_GRAPH, GRAPH], COLLECTION)
    assert published.changed
    assert_collected(hub, [*LABELS, others[0]], (GRAPH, OTHER_GRAPH))
    publish_to_collection([*others, LABELS[0]], [GRAPH, OTHER_GRAPH], COLLECTION)
    assert_collected(hub, [*LABELS, *others], (GRAPH, OTHER_GRAPH))
    assert len(commits(hub, "dataset", REPO)) == 3
    card = hub.files("dataset", REPO)["README.md"].decode()
    assert card.index("## Models on other") < card.index("## Models on tiny")
    assert card.count("[org/model-00]") == 2


def test_a_collection_under_another_users_name_is_refused(hub):
    assert "may not do this" in complaint_of(lambda: publish_to_collection(LABELS, [GRAPH], COLLECTION, token=READER))
    assert hub.repos == {}


def test_pull_requests_of_two_users_do_not_conflict(hub, api):
    publish_to_collection(LABELS[:1], [GRAPH], COLLECTION)
    for number, (label, token) in enumerate(zip(LABELS[1:3], (READER, THIRD), strict=True), 1):
        assert publish_to_collection([label], [GRAPH], COLLECTION, create_pr=True, token=token).pull_request == number
    assert len(open_source(COLLECTION).list()) == 1
    for number in (1, 2):
        api.merge_pull_request(REPO, number, repo_type="dataset")
    assert len(open_source(COLLECTION).list()) == 3
    assert update_index(COLLECTION).changed
    assert_collected(hub, LABELS[:3])


def test_the_next_publication_indexes_merged_labels(hub, api):
    publish_to_collection(LABELS[:1], [GRAPH], COLLECTION)
    publish_to_collection(LABELS[1:2], [GRAPH], COLLECTION, create_pr=True, token=READER)
    api.merge_pull_request(REPO, 1, repo_type="dataset")
    publish_to_collection(LABELS[2:], [GRAPH], COLLECTION)
    assert_collected(hub, LABELS)


def test_a_second_publication_goes_into_the_open_pull_request(hub):
    publish_to_collection(LABELS[:1], [GRAPH], COLLECTION)
    publish_to_collection(LABELS[1:2], [GRAPH], COLLECTION, create_pr=True, token=READER)
    publish_to_collection(LABELS[2:], [GRAPH], COLLECTION, create_pr=True, token=READER)
    assert len(hub.repos["dataset", REPO].discussions) == 1
    assert label_files(LABELS[1:]).items() <= hub.files("dataset", REPO, "refs/pr/1").items()
    assert len(open_source(f"{COLLECTION}@refs/pr/1").list()) == len(LABELS)  # as its reviewer reads it


def test_a_concurrent_commit_in_a_collection_is_kept(hub):
    publish_to_collection(LABELS[:1], [GRAPH], COLLECTION)
    hub.before(COMMIT, lambda: publish_to_collection(LABELS[1:2], [GRAPH], COLLECTION))
    publish_to_collection(LABELS[2:], [GRAPH], COLLECTION)
    assert_collected(hub, LABELS)


def test_eight_publishers_at_once_lose_nothing(hub):
    labels = some_labels(16)

    def publish(first):
        for label in labels[first::8]:
            publish_to_collection([label], [GRAPH], COLLECTION)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(publish, range(8)))
    assert_collected(hub, labels)


def test_invalid_labels_are_not_indexed(hub, caplog):
    put_collection(LABELS[:1])
    hub.put("dataset", REPO, {path_of(LABELS[1]): b"bad"})
    publish_to_collection(LABELS[2:], [GRAPH], COLLECTION)
    assert "left out: " in caplog.text
    assert hub.files("dataset", REPO)[path_of(LABELS[1])] == b"bad"  # it is not ours to delete
    hub.put("dataset", REPO, {path_of(LABELS[1]): None})
    assert_collected(hub, [LABELS[0], *LABELS[2:]])


def test_an_invalid_label_is_replaced_by_publishing_a_valid_one(hub):
    put_collection(LABELS[:1])
    hub.put("dataset", REPO, {path_of(LABELS[1]): b"bad"})
    publish_to_collection(LABELS[1:], [GRAPH], COLLECTION)
    assert_collected(hub, LABELS)


def test_an_empty_index_is_not_built(hub):
    assert "is not on the Hub" in complaint_of(lambda: update_index(COLLECTION))
    hub.put("dataset", REPO, graph_files())
    assert "holds no valid label yet" in complaint_of(lambda: update_index(COLLECTION), InputError)
    hub.put("dataset", REPO, {path_of(LABELS[1]): b"bad"})
    assert "holds no valid label" in complaint_of(lambda: update_index(COLLECTION), InputError)


def test_labels_whose_graph_is_missing_are_not_indexed(hub, caplog):
    put_collection(LABELS)
    hub.put("dataset", REPO, label_files([make_label(OTHER_GRAPH)]))
    update_index(COLLECTION)
    assert f"labels {OTHER_STEM} are not indexed because their graph is missing" in caplog.text
    assert not [path for path in hub.files("dataset", REPO) if path.startswith(f"index/{OTHER_STEM}")]


def damaged_shards():
    whole = index_file(LABELS)[SHARD]
    return {"empty": b"", "bad": b"bad", "cut": whole[:-1], "stale": index_file(LABELS[:1])[SHARD]}


@pytest.mark.parametrize("damage", ["empty", "bad", "cut", "stale"])
def test_a_damaged_index_is_rebuilt(hub, damage):
    put_collection(LABELS)
    hub.put("dataset", REPO, {SHARD: damaged_shards()[damage], SHARD.replace("00000", "00007"): b"bad"})
    assert update_index(COLLECTION).changed
    assert_collected(hub, LABELS)
    assert not update_index(COLLECTION).changed


def test_a_label_that_is_gone_leaves_the_index(hub):
    put_collection(LABELS)
    hub.put("dataset", REPO, {path_of(LABELS[3]): None})
    assert update_index(COLLECTION).changed
    assert_collected(hub, LABELS[:3])


def test_a_group_that_is_gone_leaves_the_index(hub):
    put_collection(LABELS)
    others = [make_label(OTHER_GRAPH)]
    publish_to_collection(others, [OTHER_GRAPH], COLLECTION)
    hub.put("dataset", REPO, {path_of(others[0]): None})
    assert update_index(COLLECTION).changed
    assert_collected(hub, LABELS)
    assert not [path for path in hub.files("dataset", REPO) if path.startswith(f"index/{OTHER_STEM}")]


def test_a_label_that_was_measured_anew_is_updated(hub):
    put_collection(LABELS)
    newer = replace(LABELS[2], license="apache-2.0")
    hub.put("dataset", REPO, label_files([newer]))
    assert update_index(COLLECTION).changed
    assert_collected(hub, [*LABELS[:2], newer, LABELS[3]])


def test_only_labels_that_the_index_lacks_are_fetched(hub):
    publish_to_collection(LABELS[:3], [GRAPH], COLLECTION)
    hub.put("dataset", REPO, label_files(LABELS[3:]))
    hub.requests.clear()
    update_index(COLLECTION)
    fetched = [
        request for request in hub.requests if request.startswith("GET") and request.endswith(f"{STEM}.safetensors")
    ]
    assert [request.split("/")[-3] for request in fetched] == ["org--model-03"]


def test_an_index_is_not_updated_without_write_access(hub):
    put_collection(LABELS, index=LABELS[:1])
    assert "may not write to it" in complaint_of(lambda: update_index(COLLECTION, token=READER))
    assert not hub.repos["dataset", REPO].discussions


def test_the_committer_of_a_label_is_listed(hub, label):
    publish_label(label, GRAPH, create_pr=True, token=READER)
    commit = HfApi().list_repo_commits(MODEL, revision="refs/pr/1")[0]
    assert commit.authors == ["bob"]
    assert label_from_bytes(hub.files("model", MODEL, "refs/pr/1")[LABEL_PATH]).model == label.model
