"""The command line against a Hub: push, list, show, verify, select and predict from every source."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

import tiny_hub
from cli_worlds import encoded, fails, run, write_graph
from mll_hf.cli import main
from mll_hf.selection import SelectionConfig, select
from selection_worlds import random_candidates

MODELS = ("alice/clip", "alice/siglip")
CARD = "---\nlicense: {}\ntags:\n  - clip # mine\n---\n# My model\n"
LICENSES = ("mit", "apache-2.0")
CACHES = ("HF_HUB_CACHE", "HF_ASSETS_CACHE")


@pytest.fixture(autouse=True)
def _named(monkeypatch):
    """The user has named the publishers."""
    monkeypatch.setenv("MLL_TRUST", "alice, bob,carol")


@pytest.fixture(scope="module")
def first_world(tmp_path_factory, tiny_open_clip, tiny_siglip):
    """Two models and a graph on the Hub, labeled into a folder; with the caches, and what is on the Hub."""
    root = tmp_path_factory.mktemp("world")
    tiny_hub.HUB.reset()
    api = HfApi()
    graph = write_graph(root / "files" / "graph")
    api.create_repo("alice/graph", repo_type="dataset")
    api.upload_folder(repo_id="alice/graph", repo_type="dataset", folder_path=graph)
    for repo_id, folder, license in zip(MODELS, (tiny_open_clip, tiny_siglip), LICENSES, strict=True):
        api.create_repo(repo_id)
        api.upload_folder(repo_id=repo_id, folder_path=folder)
        api.upload_file(repo_id=repo_id, path_in_repo="README.md", path_or_fileobj=CARD.format(license).encode())
    command = ["label", *MODELS, "--graph", "hf://datasets/alice/graph", "--labels", str(root / "files" / "labels")]
    with pytest.MonkeyPatch.context() as patch:
        for cache in CACHES:
            patch.setattr(constants, cache, str(root / cache))
        assert main(command) == 0
    (root / "files" / "red.png").write_bytes(encoded((200, 0, 0), 99))
    return root, tiny_hub.HUB.repos, tiny_hub.HUB.lfs


@pytest.fixture
def world(first_world, hub, tmp_path):
    """A copy of the first world, as if it had just been made."""
    root, repos, lfs = first_world
    hub.repos, hub.lfs = deepcopy(repos), dict(lfs)
    shutil.copytree(root / "files", tmp_path, dirs_exist_ok=True)
    for cache in CACHES:
        if (root / cache).exists():
            shutil.copytree(root / cache, getattr(constants, cache), symlinks=True, dirs_exist_ok=True)
    return tmp_path


COLLECTION = "hf://datasets/alice/labels"


def push(capsys, world, *arguments):
    status, out, err = run(capsys, "push", *arguments, "--labels", world / "labels", "--json")
    assert status == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_push_to_a_collection_and_use_it(world, capsys, api):
    (row,) = push(capsys, world, *MODELS, "--to", COLLECTION)
    assert row["changed"]
    assert row["models"] == list(MODELS)
    assert not push(capsys, world, "clip", "--to", COLLECTION)[0]["changed"]
    select = ["select", "--classes", "cat, car", "--json", "--labels"]
    expected = json.loads(run(capsys, *select, world / "labels")[1])
    assert json.loads(run(capsys, *select, COLLECTION)[1]) == expected
    assert json.loads(run(capsys, *select, f"{COLLECTION}@{row['revision']}")[1]) == expected
    paper = [*select[:3], "--strategy", "paper", *select[3:]]
    assert json.loads(run(capsys, *paper, COLLECTION)[1]) == json.loads(run(capsys, *paper, world / "labels")[1])
    status, out, _ = run(capsys, "labels", "show", "clip", "--labels", COLLECTION)
    assert status == 0
    assert "published by alice" in " ".join(out.split())
    status, out, _ = run(capsys, "labels", "summary", "--labels", COLLECTION, "--json")
    assert (status, json.loads(out)["changed"]) == (0, True)
    assert "summary.csv" in api.list_repo_files("alice/labels", repo_type="dataset")


def test_bob_opens_a_pull_request_if_he_asks_for_one(world, capsys, api, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_reader_token")
    command = ["push", "clip", "--labels", str(world / "labels")]
    assert "not your repos: alice/clip; publish in your own collection with --to" in fails(capsys, *command)
    assert "not your repos: alice/labels" in fails(capsys, *command, "--to", COLLECTION)
    said = fails(capsys, "push", "--selection", world / "choice.json", "--to", "alice/classifier")
    assert "not your repos: alice/classifier; name a repo of yours, or ask for" in said
    assert not hub.repos["model", "alice/clip"].discussions
    status, out, err = run(capsys, *command, "--pr", "--json")
    assert status == 0, err
    assert json.loads(out)["pull_request"] == 1
    assert not api.file_exists("alice/clip", "mll/label.safetensors")
    assert api.file_exists("alice/clip", "mll/label.safetensors", revision="refs/pr/1")


def test_without_login_nothing_is_published(world, capsys, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    said = fails(capsys, "push", "--all", "--labels", str(world / "labels"), "--to", COLLECTION)
    assert said.startswith("mll-hf: error: hub: to publish you must be logged in")
    said = fails(capsys, "graph", "push", world / "graph", "--to", "hf://datasets/alice/shapes")
    assert "alice/shapes: you are not logged in, or your token is invalid; log in with: hf auth login" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the models"),
        (["clip", "--all"], "name the models"),
        (["nothing"], "no label of 'nothing'"),
        (["clip", "--to", "alice/labels"], "hf://datasets/$ORG/NAME"),
        (["clip", "--to", f"{COLLECTION}@dev"], "names a revision"),
        (["clip", "--private"], "--to"),
    ],
)
def test_push_of_labels_refuses(world, capsys, arguments, said):
    assert said in fails(capsys, "push", "--labels", world / "labels", *arguments)


def test_a_label_whose_graph_is_gone_is_not_pushed(world, capsys):
    for graph in (world / "labels" / "graphs").iterdir():
        graph.unlink()
    status, _, err = run(capsys, "push", "clip", "--labels", world / "labels")
    assert status == 1
    assert "alice/clip: the graph of its label, " in err


def test_a_selection_is_pushed_and_used_by_its_id(world, capsys, api, monkeypatch, tmp_path):
    task = ["--classes", "cat, car", "-k", "2", "--labels", world / "labels", "--json"]
    (world / "choice.json").write_text(run(capsys, "select", *task)[1])
    expected = run(capsys, "predict", world / "red.png", "--selection", world / "choice.json", "--json")[1]
    to = ["push", "--selection", world / "choice.json", "--to", "alice/classifier", "--json"]
    for changed in (True, False):
        status, out, err = run(capsys, *to)
        assert status == 0, err
        said = json.loads(out)
        assert (said["selection"], said["to"]) == (str(world / "choice.json"), "alice/classifier")
        assert said["changed"] is changed
    card = Path(api.hf_hub_download("alice/classifier", "README.md")).read_text()
    assert all(f"[{model}]" in card for model in MODELS)
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "another"))
    status, out, err = run(capsys, "predict", world / "red.png", "--selection", "alice/classifier", "--json")
    assert (status, out) == (0, expected), err
    said = fails(capsys, "predict", world / "red.png", "--selection", MODELS[0])
    assert f"{MODELS[0]} is not a selection: it has no mll_selection.json" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "alice/classifier"], "say what to publish: --labels with a folder of labels, or --selection"),
        (["--selection", "c.json"], "say where to publish the selection: --to $ORG/NAME"),
        (["--selection", "c.json", "--to", "alice/c", "--labels", "x"], "--selection publishes a selection alone"),
        (["--selection", "c.json", "--to", "alice/c", "alice/clip"], "--selection publishes a selection alone"),
        (["--selection", "none.json", "--to", "alice/c"], "cannot read none.json"),
        (["--selection", "c.json", "--to", "hf://datasets/alice/c"], "is not of the form org/name"),
        (["--selection", "c.json", "--to", "pets"], "'pets' is not of the form org/name"),
    ],
)
def test_push_of_a_selection_refuses(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    selection = select(random_candidates(n_models=2), SelectionConfig())
    (tmp_path / "c.json").write_text(json.dumps(selection.to_json()))
    assert said in fails(capsys, "push", *arguments)
