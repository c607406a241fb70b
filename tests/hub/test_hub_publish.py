"""Labels are published in one commit with their card, whatever else happens to the repo."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hub_worlds import (
    COLLECTION,
    GRAPH,
    MODEL_FILES,
    OTHER_GRAPH,
    READ_ONLY,
    READER,
    REPO,
    clock,
    complaint_of,
    graph_files,
    label_files,
    no_download_is_counted,
    path_of,
    put_model,
    some_labels,
)
from mll_hf.errors import CardError, InputError
from mll_hf.hub.card import LABEL_PATH, LABEL_TAG, graph_tag
from mll_hf.hub.connection import connect, read_head
from mll_hf.hub.publish import publish_label, publish_summary, publish_to_collection
from mll_hf.hub.sources import open_labels
from mll_hf.labels.file_format import label_to_bytes, tensors_to_bytes
from mll_hf.labels.store import rivals_path
from worlds import make_label, make_rivals

__all__ = ["clock", "no_download_is_counted"]  # fixtures

pytestmark = pytest.mark.usefixtures("clock", "no_download_is_counted")
MODEL = "alice/model"
COMMIT = "/commit/"
LABELS, OTHER = some_labels(4), make_label(OTHER_GRAPH)
README = (
    b"---\nlicense: mit  # ours\nlanguage: [no]\ntags: [clip]\n---\r\n# A model\n\nSays \xe2\x80\x9chello\xe2\x80\x9d."
)


@pytest.fixture(autouse=True)
def _models(hub):
    """The models of the labels are public."""
    for label in (*some_labels(8), OTHER):
        hub.put("model", label.model.repo_id, {})


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
    """Label, tags and metadata are there and agree; every other file is as before."""
    files = hub.files("model", label.model.repo_id, revision)
    assert files[path] == label_to_bytes(label)
    assert {LABEL_TAG, graph_tag(label.graph_digest)} <= set(metadata_of(files["README.md"])["tags"])
    assert f"`{path}`" in files["README.md"].decode()
    for name, content in MODEL_FILES.items():
        assert files[name] == content or name == "README.md"


def assert_collected(hub, labels, graphs=(GRAPH,), repo_id=REPO):
    """The collection holds exactly these labels and their graphs, a card, and nothing else."""
    files = hub.files("dataset", repo_id)
    expected = {**label_files(labels), **graph_files(*graphs)}
    assert {path: content for path, content in files.items() if path != "README.md"} == expected
    assert metadata_of(files["README.md"])["tags"] == ["mll-labels"]


# ---- in the model's own repo


def test_label_rivals_and_card_are_one_commit(hub, label):
    rivals = make_rivals(label)
    published = publish_label(label, GRAPH, rivals=rivals)
    assert_published(hub, label)
    assert hub.files("model", MODEL)["mll/label.rivals.safetensors"] == tensors_to_bytes(rivals)
    assert commits(hub) == ["Add MLL label", "put"]
    assert published.changed
    assert published.pull_request is None
    assert published.revision == hub.repos["model", MODEL].refs["main"]
    assert published.url.endswith(f"/alice/model/commit/{published.revision}")
    assert not publish_label(label, GRAPH, rivals=rivals).changed
    assert commits(hub) == ["Add MLL label", "put"]


def test_a_second_graph_joins_the_first_after_the_head_has_moved(hub, label):
    """Publishing moves the head of a repo; what was measured there is still the same model."""
    publish_label(label, GRAPH)
    second = make_label(OTHER_GRAPH, repo_id=MODEL, revision=hub.repos["model", MODEL].refs["main"])
    publish_label(second, OTHER_GRAPH)
    own = f"mll/{OTHER_GRAPH.digest[:12]}/label.safetensors"
    assert_published(hub, label)
    assert_published(hub, second, path=own)
    changed = replace(second, temperature=second.temperature * 2)
    publish_label(changed, OTHER_GRAPH)  # replaces that of its graph
    assert_published(hub, changed, path=own)
    assert_published(hub, label)


def test_changed_weights_are_refused(hub, label):
    digest = read_head(connect(), MODEL, "model").digest("open_clip")
    hub.put("model", MODEL, {"README.md": b"# New\n", "figure.png": b"png", "mll/note.txt": b"x"})
    publish_label(label, GRAPH)  # no file of the model
    hub.put("model", MODEL, {"open_clip_model.safetensors": b"other weights"})
    for measured in (label, replace(label, model=replace(label.model, digest=digest))):
        assert "its files have changed since" in complaint_of(lambda of=measured: publish_label(of, GRAPH))
    unknown = replace(label, model=replace(label.model, revision="f" * 40))
    assert "no such revision" in complaint_of(lambda: publish_label(unknown, GRAPH))
    gone = replace(
        unknown, model=replace(unknown.model, digest=read_head(connect(), MODEL, "model").digest("open_clip"))
    )
    assert publish_label(gone, GRAPH).changed  # the digest is enough


def test_unpublishable_labels_are_refused_without_a_request(hub, label):
    hub.requests.clear()
    local = make_label(GRAPH, repo_id="local-dir:/home/x/model")
    assert "upload the model" in complaint_of(lambda: publish_label(local, GRAPH), InputError)
    assert "is not of the graph other" in complaint_of(lambda: publish_label(label, OTHER_GRAPH), InputError)
    assert "no labels to publish" in complaint_of(lambda: publish_to_collection([], [GRAPH], COLLECTION), InputError)
    assert hub.requests == []


@pytest.mark.parametrize("readme", [b"---\na: [\n---\n", b"---\ntags: clip\n---\n", b"\xff\xfe", b"---\nnot closed"])
def test_a_card_that_cannot_be_edited_is_refused(hub, readme):
    label = put_model(files={**MODEL_FILES, "README.md": readme})
    assert complaint_of(lambda: publish_label(label, GRAPH), CardError).startswith("alice/model: ")
    assert LABEL_PATH not in hub.files("model", MODEL)


def test_metadata_that_the_hub_refuses(hub):
    label = put_model(files={**MODEL_FILES, "README.md": b"---\nlicense_link: here\n---\n"})
    said = complaint_of(lambda: publish_label(label, GRAPH), CardError)
    assert '"license_link" must be a valid uri' in said


def test_a_damaged_label_is_replaced(hub, label, caplog):
    hub.put("model", MODEL, {LABEL_PATH: b"damaged"})
    publish_label(label, GRAPH)
    assert_published(hub, label)
    assert "is replaced" in caplog.text


# ---- who may


def test_without_write_access_a_pull_request_is_opened_on_request(hub, label):
    assert "may not write to it" in complaint_of(lambda: publish_label(label, GRAPH, token=READER))
    assert hub.repos["model", MODEL].discussions == []
    published = publish_label(label, GRAPH, create_pr=True, token=READER)
    assert (published.pull_request, published.changed) == (1, True)
    assert published.url.endswith("/alice/model/discussions/1")
    assert LABEL_PATH not in hub.files("model", MODEL)
    assert_published(hub, label, "refs/pr/1")


def test_a_lost_answer_does_not_open_a_second_pull_request(hub, label):
    hub.fail(COMMIT, drop="after")
    complaint_of(lambda: publish_label(label, GRAPH, create_pr=True))
    assert len(hub.repos["model", MODEL].discussions) == 1


def test_tokens_without_rights_publish_nothing(hub, label):
    for token in (READ_ONLY, "hf_nobody"):
        said = complaint_of(lambda token=token: publish_label(label, GRAPH, token=token))
        assert "logged in with a token that can write" in said
    assert "may not" in complaint_of(lambda: publish_to_collection(LABELS, [GRAPH], "hf://datasets/bob/labels"))
    assert LABEL_PATH not in hub.files("model", MODEL)


# ---- conflicts and faults


def test_a_concurrent_commit_is_kept(hub, label):
    hub.before(COMMIT, lambda: hub.put("model", MODEL, {"README.md": b"# Mine\n", "notes.md": b"x"}))
    publish_label(label, GRAPH)
    files = hub.files("model", MODEL)
    assert files["notes.md"] == b"x"
    assert b"# Mine\n" in files["README.md"]
    assert_published(hub, label)
    other = replace(label, temperature=label.temperature * 2)
    hub.before(COMMIT, lambda: hub.put("model", MODEL, {"open_clip_model.safetensors": b"other weights"}))
    assert "its files have changed" in complaint_of(lambda: publish_label(other, GRAPH))


def test_conflicts_are_retried_a_limited_number_of_times(hub, label, clock):
    hub.fail(COMMIT, 412, times=5)
    publish_label(label, GRAPH)
    assert len(clock.waits) == 5
    hub.fail(COMMIT, 409, times=99)
    assert "status 409" in complaint_of(lambda: publish_label(replace(label, license="x"), GRAPH))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that share the imports")
def test_writers_that_are_killed_at_random_lose_nothing(hub, clock, monkeypatch):
    lost = killed_writers(hub, pushes=12, at_once=6)
    assert lost == ([], True)


def killed_writers(hub, pushes, at_once, seed=0):
    """Push labels by processes, of which a third are killed and push again; returns missing labels, and whether the
    card has its section once and keeps what others wrote."""
    rng, labels, running = random.Random(seed), some_labels(pushes), {}
    hub.put("dataset", REPO, {"README.md": b"# Mine\n"})
    for label in labels:
        hub.put("model", label.model.repo_id, {})
    todo, kills = [*labels], pushes // 3
    while todo or running:
        while todo and len(running) < at_once:
            label = todo.pop()
            if not (pid := os.fork()):
                status = 1
                try:
                    publish_to_collection([label], [GRAPH], COLLECTION)
                    status = 0
                finally:
                    os._exit(status)
            running[pid] = label
        if kills and rng.random() < 0.3:
            time.sleep(rng.random() / 20)
            os.kill(rng.choice([*running]), signal.SIGKILL)
            kills -= 1
        pid, status = os.wait()
        label = running.pop(pid)
        if status:
            todo.append(label)
    hub.wait_until_idle()
    files = hub.files("dataset", REPO)
    missing = [path_of(label) for label in labels if files.get(path_of(label)) != label_to_bytes(label)]
    card = files["README.md"].decode()
    return missing, card.startswith("# Mine\n") and card.count("mll-labels:start") == 1


@pytest.mark.parametrize("fault", [{"status": 503}, {"drop": "after"}])
@pytest.mark.parametrize("step", ["revision/main$", "/preupload/", "/batch", "/_lfs/", COMMIT])
def test_faults_at_any_step_are_retried(hub, label, step, fault):
    hub.fail(step, **fault)
    publish_label(label, GRAPH)
    assert_published(hub, label)
    assert commits(hub).count("Add MLL label") == 1


# ---- in a collection


def test_a_push_uploads_only_what_is_new(hub):
    publish_to_collection(LABELS[:3], [GRAPH], COLLECTION)
    hub.requests.clear()
    publish_to_collection([*LABELS[2:], OTHER], [GRAPH, OTHER_GRAPH], COLLECTION)
    assert_collected(hub, [*LABELS, OTHER], (GRAPH, OTHER_GRAPH))
    assert len([request for request in hub.requests if "/_lfs/" in request]) == 2
    assert not [request for request in hub.requests if "/resolve/" in request and "README" not in request]


def test_rivals_are_published_beside_the_label(hub):
    rivals = make_rivals(LABELS[0])
    rivals_of = {LABELS[0].model: rivals}
    publish_to_collection(LABELS, [GRAPH], COLLECTION, rivals_of=lambda label: rivals_of.get(label.model))
    source = open_labels(COLLECTION)
    assert [source.rivals_of(label) for label in source.labels()] == [rivals, None, None, None]
    beside = rivals_path(Path(path_of(LABELS[0]))).as_posix()
    assert beside in hub.files("dataset", REPO)
    publish_to_collection(LABELS, [GRAPH], COLLECTION)  # labels without rivals do not keep those of earlier ones
    assert beside not in hub.files("dataset", REPO)


def test_private_collections(hub):
    publish_to_collection(LABELS, [GRAPH], COLLECTION, private=True)
    assert hub.repos["dataset", REPO].private is True
    publish_to_collection(LABELS, [GRAPH], "hf://datasets/alice/public")
    said = complaint_of(
        lambda: publish_to_collection(LABELS, [GRAPH], "hf://datasets/alice/public", private=True), InputError
    )
    assert "exists already and is public" in said


def test_only_an_empty_dataset_becomes_a_collection(hub):
    hub.put("dataset", REPO, {".gitattributes": b"", "README.md": b"# Mine\n"})
    publish_to_collection(LABELS, [GRAPH], COLLECTION)
    assert hub.files("dataset", REPO)["README.md"].startswith(b"# Mine\n")
    hub.put("dataset", "alice/data", {"train.csv": b"a"})
    said = complaint_of(lambda: publish_to_collection(LABELS, [GRAPH], "hf://datasets/alice/data"), InputError)
    assert "is a dataset of another kind (train.csv)" in said
    said = complaint_of(lambda: publish_to_collection(LABELS, [GRAPH], f"{COLLECTION}@v1"), InputError)
    assert "only main can be published to" in said


def test_a_pull_request_to_a_collection(hub):
    publish_to_collection(LABELS[:1], [GRAPH], COLLECTION)
    published = publish_to_collection(LABELS[1:], [GRAPH], COLLECTION, create_pr=True, token=READER)
    assert published.pull_request == 1
    assert_collected(hub, LABELS[:1])
    assert set(label_files(LABELS)) <= set(hub.files("dataset", REPO, "refs/pr/1"))


def test_the_summary_is_written_on_request_only(hub):
    publish_to_collection(LABELS, [GRAPH], COLLECTION)
    hub.put("dataset", REPO, {path_of(make_label(GRAPH, repo_id="org/bad")): b"bad"})
    publish_summary(COLLECTION)
    lines = hub.files("dataset", REPO)["summary.csv"].decode().splitlines()
    assert lines[0].startswith("model,revision,license,graph,")
    assert len(lines) == 1 + len(LABELS)
    assert not publish_summary(COLLECTION).changed


def test_datasets_and_so_the_viewer_opens_a_collection(hub, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    publish_to_collection(LABELS, [GRAPH], COLLECTION)
    publish_summary(COLLECTION)
    rows = datasets.load_dataset(REPO, split="train", cache_dir=str(tmp_path))
    assert sorted(rows["model"]) == sorted(label.model.repo_id for label in LABELS)
