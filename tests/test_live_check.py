"""The live check against the in-process Hub with Xet, on tiny models in place of the published ones."""

from __future__ import annotations

import json
import re
from functools import cache

import pytest

import live_check
from hub_worlds import READER
from mll_hf import client
from mll_hf.models.known import known_models
from selection_worlds import WordEncoder
from tiny_models import make_open_clip

PICTURE = cache(live_check.picture)  # drawn once for all tests
STEPS = [step.name for step in live_check.STEPS]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of two tiny models by the ids of the published ones."""
    root = tmp_path_factory.mktemp("published")
    folders = {id: make_open_clip(root / str(seed), seed) for seed, id in enumerate(live_check.default_models())}
    return {id: {path.name: path.read_bytes() for path in folder.iterdir()} for id, folder in folders.items()}


@pytest.fixture
def published(hub, weights, xet, tmp_path, monkeypatch):
    """The published models on the Hub, all that is on it; temporary folders are made in ``tmp_path``."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(live_check, "picture", PICTURE)
    monkeypatch.setattr(client, "DefaultEncoder", WordEncoder)
    for repo_id, files in weights.items():
        hub.put("model", repo_id, files)
    return {("model", repo_id) for repo_id in weights}


@pytest.fixture
def transcripts():
    """What each run wrote into its transcript."""
    return []


@pytest.fixture
def run(hub, transcripts, published, tmp_path, capsys):
    """Runs the check; whatever happens, nothing of it may be left on the Hub or in temporary folders."""

    def run_check(*arguments):
        file = tmp_path / "transcript.jsonl"
        status = live_check.main([*arguments, "--transcript", str(file)])
        assert set(hub.repos) == published
        captured = capsys.readouterr()
        if file.exists():
            text = file.read_text("utf-8")
            assert not re.search(r"hf_\w+_token|/tmp/", text)
            transcripts.append([json.loads(line) for line in text.splitlines()])
            file.unlink()
        assert not list(tmp_path.iterdir())
        return status, rows_of(captured.out), captured.err

    return run_check


def rows_of(report):
    """{step: cells of its row}."""
    table = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in report.splitlines() if line[:1] == "|"]
    return {cells[0].partition(" (")[0]: cells[1:] for cells in table[2:]}


def outcomes(rows):
    """{outcome: names of the steps that ended so}."""
    return {outcome: [name for name in rows if rows[name][0] == outcome] for outcome, *_ in rows.values()}


def test_the_whole_chain(run, hub, weights, transcripts, monkeypatch):
    monkeypatch.setenv(live_check.SECOND_TOKEN, READER)
    status, rows, said = run("--yes")
    assert status == 0, said
    assert outcomes(rows) == {"ok": [*STEPS, "clean up"]}
    assert rows["draw a graph"][-1].startswith("50 concepts, 252 images, ")
    assert rows["label"][-1].count("@") == 3
    assert rows["verify a label"][-1].count("50 of 50 sampled concepts agree") == 1
    assert rows["read labels"][-1] == "3 labels; the private images are refused"
    # what a visitor asks for has no token, and what an author asks for has one
    assert {request.user for request in hub.requests if "-images/" in request} == {"alice", None}
    of_tags = [request for request in hub.requests if request == "GET /api/models"]
    assert of_tags
    assert {request.user for request in of_tags} == {None, "alice", "bob"}
    assert "deleted at the end" in said
    assert rows["write together"][-1] == "8 labels of 8 writers"
    assert rows["withstand the attack"][-1].startswith("still ")
    assert " in bob/mll-hf-live-check-" in rows["attack"][-1]
    ((head, *lines),) = transcripts
    assert head["format"] == live_check.TRANSCRIPT
    assert {line["by"] for line in lines if "by" in line} == {"author", "visitor", "second user", "attacker"}
    assert all({"status", "stdout", "stderr"} <= line.keys() for line in lines if "command" in line)
    assert [line["name"].partition(" (")[0] for line in lines if "outcome" in line] == [*STEPS, "clean up"]


def test_a_failure_in_the_middle(run, hub):
    hub.fail("-graph/commit/", 403, times=2)
    status, rows, said = run("--yes")
    assert status == 1
    ended = outcomes(rows)
    assert ended["ok"] == ["draw a graph", "upload a model", "clean up"]
    assert ended["failed"] == ["push the graph"]
    assert ended["not run"] == [name for name in STEPS if name not in (*ended["ok"], *ended["failed"])]
    assert "may not write to it" in rows["push the graph"][-1]
    assert rows["label"][-1] == "needs: push the graph"
    assert "Traceback" not in said
    # the images were published before the graph failed
    assert [request for request in hub.requests if "-images/commit/" in request]


def test_a_refused_question_creates_nothing(run, hub, monkeypatch):
    status, rows, said = run()
    assert (status, rows) == (1, {})
    assert said.splitlines()[-1] == "live_check: error: cannot ask without a terminal; add --yes"
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    status, rows, said = run("--model", "org/other")
    assert (status, rows) == (2, {})
    assert asked == ["Continue? [y/N] "]
    assert said.splitlines()[-1] == "nothing was created"
    assert "-images (private dataset)" in said
    assert "download org/other (size unknown), one of them twice" in said
    assert {str(request) for request in hub.requests} == {"GET /api/whoami-v2"}


def test_known_models_are_compared_with_the_hub(hub, monkeypatch, capsys):
    names = ("imageomics/bioclip-2", "vinid/plip", "suinleelab/monet")
    known = [model for model in known_models() if model.name in names]
    monkeypatch.setattr(live_check.check_hub, "known_models", lambda: known)
    card = b"---\nlicense: mit\n---\n"
    hub.put("model", "imageomics/bioclip-2", {"open_clip_model.safetensors": b"weights", "README.md": card})
    hub.put("model", "suinleelab/monet", {"pytorch_model.bin": b"weights", "README.md": card})
    assert live_check.main(["--known-models"]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert "| vinid/plip | exists | yes | no |" in rows  # neither the repo nor the pull request
    assert "| suinleelab/monet | weights | safetensors | pickle only |" in rows
    assert not any("bioclip-2 | weights" in row or "license" in row for row in rows)
