"""The first user follows messages only; what is private stays private; nothing is lost; costs are said before."""

from __future__ import annotations

import json
import os
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
from huggingface_hub import constants

from cli_worlds import encoded, fails, run, write_graph
from hub_worlds import READER
from mll_hf.cli import output
from mll_hf.errors import InputError
from mll_hf.graph.authoring import make_graph, read_folders
from mll_hf.hub.publish import publish_graph, publish_to_collection
from worlds import make_graph as graph_of
from worlds import make_label

SECRET = "ACME-confidential-line7"
MODEL = "alice/clip"
COLLECTION = "hf://datasets/alice/labels"


@pytest.fixture
def model(hub, api, tiny_open_clip):
    """A model of alice's on the Hub."""
    api.create_repo(MODEL)
    api.upload_folder(repo_id=MODEL, folder_path=tiny_open_clip)
    return MODEL


@pytest.fixture
def graph(tmp_path):
    return write_graph(tmp_path / SECRET)


def done(capsys, *arguments):
    status, out, err = run(capsys, *arguments)
    assert status == 0, err
    return out + err


def as_another_user(monkeypatch, tmp_path, token=READER):
    monkeypatch.setenv("HF_TOKEN", token)
    for name in ("HF_HUB_CACHE", "HF_ASSETS_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / "another" / name))


def select(capsys, *arguments):
    said = run(capsys, "select", "--classes", "cat, car", "--labels", "hub", "--json", *arguments)
    assert said[0] == 0, said[2]
    return [each["id"] for each in json.loads(said[1])["models"]]


# ---- the first user


def test_four_commands_to_a_label_that_another_user_selects_by(model, graph, hub, capsys, monkeypatch, tmp_path):
    labels = tmp_path / "labels"
    done(capsys, "label", model, "--graph", graph, "--labels", labels)
    measured = next(labels.rglob("labels/*/*/*.safetensors")).stat().st_mtime_ns
    said = done(capsys, "push", model, "--labels", labels)
    advice = re.search(r"mll-hf (graph push GRAPH --to hf://datasets/alice/NAME)$", said, re.MULTILINE)[1]
    said = done(capsys, *advice.replace("GRAPH", str(graph), 1).replace("NAME", "parts").split(" "))
    assert "mll-hf push MODEL --labels DIR" in said
    assert done(capsys, "push", model, "--labels", labels).startswith("published: ")
    assert done(capsys, "push", model, "--labels", labels).startswith("published already: ")
    assert next(labels.rglob("labels/*/*/*.safetensors")).stat().st_mtime_ns == measured
    as_another_user(monkeypatch, tmp_path)
    assert model in re.search(r"not ranked.*", fails(capsys, "select", "--classes", "cat", "--labels", "hub"))[0]
    assert select(capsys, "--trust", "alice") == [model]
    everything = b"".join(content for repo in hub.repos for content in hub.files(*repo).values())
    assert SECRET.encode() not in everything


def test_the_order_of_label_and_graph_push_does_not_matter(model, graph, capsys, monkeypatch, tmp_path):
    done(capsys, "graph", "push", graph, "--to", "hf://datasets/alice/parts", "--name", "parts of pumps")
    done(capsys, "label", model, "--graph", graph, "--labels", tmp_path / "labels")
    assert "cannot use this label" not in done(capsys, "push", model, "--labels", tmp_path / "labels")
    assert "parts of pumps" in done(capsys, "labels", "show", model, "--labels", "hub")
    as_another_user(monkeypatch, tmp_path)
    assert select(capsys, "--trust", "alice") == [model]


def test_a_label_on_a_second_graph_joins_the_first(model, graph, hub, capsys, monkeypatch, tmp_path):
    second = write_graph(tmp_path / "second", [
        {"id": "n1", "names": ["thing"], "gloss": "", "hypernyms": []},
        *({"id": f"n{n}", "names": [name], "gloss": "", "hypernyms": ["n1"]}
          for n, name in ((3, "cat"), (4, "dog"), (5, "car"), (6, "tree"))),
    ])  # fmt: skip
    labels = tmp_path / "labels"
    for name, folder in (("first", graph), ("second", second)):
        done(capsys, "graph", "push", folder, "--to", f"hf://datasets/alice/{name}")
        done(capsys, "label", model, "--graph", folder, "--labels", labels)
        done(capsys, "push", model, "--labels", labels)  # moves the head of the model's repo
    assert len([path for path in hub.files("model", model) if path.endswith("label.safetensors")]) == 2
    as_another_user(monkeypatch, tmp_path)
    out = done(capsys, "labels", "ls", "--labels", "hub", "--trust", "alice", "--json")
    assert len({row["digest"] for row in json.loads(out)}) == 1  # one model
    assert select(capsys, "--trust", "alice") == [model]


def test_a_first_label_on_the_graph_in_the_package(model, hub, capsys, monkeypatch, tmp_path):
    said = done(capsys, "label", model, "--labels", tmp_path / "labels", "--sample", "2")
    assert f"labeled: {model} on emoji (mean recall" in said
    assert "recognizes drawings of everyday things, animals and food, which says little about photos" in said
    assert "others cannot use" not in done(capsys, "push", model, "--labels", tmp_path / "labels")
    assert "package:emoji" in unescape(hub.files("model", model)["README.md"].decode())
    as_another_user(monkeypatch, tmp_path)
    assert select(capsys, "--trust", "alice") == [model]
    assert "agree" in run(capsys, "labels", "verify", model, "--labels", "hub")[1]
    assert not [repo for repo in hub.repos if repo[0] == "dataset"]


# ---- private stays private


def test_private_models_do_not_enter_a_public_collection(hub):
    graph = graph_of()
    labels = [make_label(graph, repo_id=f"alice/{name}") for name in ("public", "secret")]
    for label in labels:
        hub.put("model", label.model.repo_id, {})
    hub.repos["model", "alice/secret"].private = True
    with pytest.raises(InputError, match="private, or no longer on the Hub: alice/secret"):
        publish_to_collection(labels, [graph], COLLECTION)
    assert ("dataset", "alice/labels") not in hub.repos
    publish_to_collection(labels, [graph], COLLECTION, private=True)
    publish_to_collection(labels, [graph], COLLECTION)  # which is private


def test_names_of_image_folders_are_not_published(hub, tmp_path):
    for name in ("ape", "bee"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for n in range(5):
            (folder / f"{SECRET}-{n}.png").write_bytes(encoded((40 * n, 90, len(name)), n))
    make_graph(tmp_path / SECRET, read_folders(tmp_path / "pictures", ()))
    publish_graph(tmp_path / SECRET, "hf://datasets/alice/parts", "hf://datasets/alice/images")
    for repo in hub.repos:
        assert SECRET.encode() not in b"".join(hub.files(*repo).values())


def test_files_are_written_with_the_users_umask(model, graph, capsys, tmp_path):
    before = os.umask(0o077)
    try:
        done(capsys, "label", model, "--graph", graph, "--labels", tmp_path / "labels")
        done(capsys, "push", model, "--labels", tmp_path / "labels")
        run(capsys, "labels", "ls", "--labels", "hub")
    finally:
        os.umask(before)
    ours = [*(tmp_path / "labels").rglob("*"), *Path(constants.HF_ASSETS_CACHE).rglob("*")]
    assert len([path for path in ours if path.is_file()]) > 3
    assert not [path for path in ours if path.stat().st_mode & 0o077]


# ---- nothing is lost, and costs are said


def test_a_readme_that_was_edited_on_the_hub_keeps_the_edits(hub, graph):
    own = "---\nlicense: cc-by-4.0\nextra_gated_prompt: Agree.\n---\n\n# Images\n\nOld credits.\n"
    (graph / "README.md").write_text(own)
    places = "hf://datasets/alice/parts", "hf://datasets/alice/images"
    publish_graph(graph, *places)
    card = hub.files("dataset", "alice/images")["README.md"].decode()
    edited = card.replace("Agree.", "Agree to our terms.") + "\nAsk us anything.\n"
    hub.put("dataset", "alice/images", {"README.md": edited.encode()})
    (graph / "README.md").write_text(own.replace("Old", "New"))
    publish_graph(graph, *places)
    card = hub.files("dataset", "alice/images")["README.md"].decode()
    assert "license: cc-by-4.0" in card
    assert "Agree to our terms." in card
    assert "Ask us anything." in card
    assert "New credits." in card
    assert "Old credits." not in card


def test_a_download_is_said_and_asked_for(model, graph, hub, capsys, monkeypatch, tmp_path):
    publish_graph(graph, "hf://datasets/alice/parts", "hf://datasets/alice/images")
    label = ["label", model, "--graph", "hf://datasets/alice/parts", "--labels", tmp_path / "labels"]
    monkeypatch.setattr(output, "_ASKED_ABOVE", 100)
    hub.requests.clear()
    said = run(capsys, *label)[2]
    assert re.search(r"downloads .* GB of probe images and .* GB of models\n.*cannot ask .*; add --yes", said)
    assert not [request for request in hub.requests if "/resolve/" in request and "graph.json" not in request]
    assert "downloads" in done(capsys, *label, "--yes")
    assert "downloads" not in done(capsys, *label, "--overwrite")
    done(capsys, "push", model, "--labels", tmp_path / "labels")
    shutil.rmtree(constants.HF_HUB_CACHE)
    verify = ["labels", "verify", model, "--labels", "hub"]
    assert "cannot ask without a terminal; add --yes" in run(capsys, *verify)[2]
    assert "too small to tell" in run(capsys, *verify, "--yes")[1]


# ---- rights before work


def test_rights_are_checked_before_work(model, graph, hub, capsys, monkeypatch, tmp_path):
    labels = tmp_path / "labels"
    done(capsys, "label", model, "--graph", graph, "--labels", labels)
    hub.orgs["acme"] = {"alice": "contributor"}
    hub.put("dataset", "acme/labels", {})
    for to in ([], ["--to", "hf://datasets/acme/labels"], ["--to", COLLECTION]):
        hub.scopes["hf_test_token"] = {"alice/other"}
        hub.put("dataset", "alice/labels", {})
        hub.requests.clear()
        assert "not your repos: " in fails(capsys, "push", model, "--labels", labels, *to)
        assert not [request for request in hub.requests if request.startswith("POST")]
