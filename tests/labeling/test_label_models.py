"""The labeling script against the in-process Hub, with real (tiny) models, as a user runs it."""

import json
import subprocess
import sys
import tomllib
from copy import deepcopy
from pathlib import Path

import pytest
from huggingface_hub import HfApi

import label_models
import tiny_hub
from mll_hf.errors import InputError
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.publish import publish_graph
from mll_hf.hub.sources import open_labels
from mll_hf.labeling import run
from mll_hf.models import load_model
from worlds import probes_of_all, write_graph_folder

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "label_models.py"
GRAPH_REPO, LABELS = "hf://datasets/alice/graph", "hf://datasets/alice/labels"


@pytest.fixture(scope="module")
def first_zoo(tmp_path_factory, tiny_open_clip, tiny_transformers_clip):
    """What the Hub holds in `zoo`."""
    hub, api = tiny_hub.HUB, HfApi()
    hub.reset()
    graph = write_graph_folder(tmp_path_factory.mktemp("zoo") / "graph", probes_of_all(3))
    publish_graph(graph, GRAPH_REPO, "hf://datasets/alice/images")
    for name, folder in {"open-clip": tiny_open_clip, "clip": tiny_transformers_clip}.items():
        api.create_repo(f"alice/{name}")
        api.upload_folder(repo_id=f"alice/{name}", folder_path=folder)
        hub.put("model", f"alice/{name}", {"README.md": b"---\ntags:\n- zoo\n---\n"})
    hub.put("model", "alice/broken", {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"no weights"})
    hub.put("model", "bob/gated", hub.files("model", "alice/clip"))
    hub.repos["model", "bob/gated"].gated = "auto"
    return hub.repos, hub.lfs


@pytest.fixture
def zoo(first_zoo, hub):
    """A graph and four models on the Hub: two good ones, a broken one, a gated one."""
    hub.repos, hub.lfs = deepcopy(first_zoo[0]), dict(first_zoo[1])
    return ["alice/open-clip", "alice/clip", "alice/broken", "bob/gated"]


def main(capsys, *arguments):
    """Run the script in this process, which is quicker."""
    status = label_models.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def weights_requested(hub):
    return [request for request in hub.requests if "/resolve/" in request and "model.safetensors" in request]


def test_a_zoo_is_labeled_and_the_second_run_does_nothing(zoo, hub, tmp_path, capsys):
    arguments = [*zoo, "--graph", GRAPH_REPO, "--push-to", LABELS]
    status, output, said = main(capsys, *arguments, "--json")
    records = [json.loads(line) for line in output.splitlines()]
    assert [(record["model"], record["outcome"]) for record in records] == [
        ("alice/open-clip", "labeled"), ("alice/clip", "labeled"), ("alice/broken", "failed"), ("bob/gated", "failed"),
    ]  # fmt: skip
    assert status == 1
    assert "is gated; accept its terms" in records[3]["reason"]
    assert "[3/4] alice/broken" in said
    assert "2 labeled, 2 failed" in said
    assert {label.model.repo_id for label in open_labels(LABELS).labels()} == set(zoo[:2])
    assert LABEL_PATH not in hub.files("model", "alice/clip")
    # the good ones once more, from another machine: nothing is downloaded
    hub.requests.clear()
    commits = len(hub.repos["dataset", "alice/labels"].commits)
    again = ["--tag", "zoo", *arguments[len(zoo) :], "--labels", tmp_path / "other"]
    status, output, said = main(capsys, *again)
    assert (status, output.count("skipped: ")) == (0, 3)  # bob's has the weights of alice/clip
    assert not weights_requested(hub)
    assert not hub.counted
    assert len(hub.repos["dataset", "alice/labels"].commits) == commits


def test_an_interrupted_run_goes_on(zoo, hub, tmp_path, capsys, monkeypatch):
    def interrupted(ref, device):
        if ref.repo_id == "alice/clip":
            raise KeyboardInterrupt
        return load_model(ref, device)

    arguments = [*zoo[:2], "--graph", GRAPH_REPO, "--push-to", LABELS, "--labels", tmp_path / "labels"]
    with monkeypatch.context() as patch:
        patch.setattr(run, "load_model", interrupted)
        status, output, said = main(capsys, *arguments)
    assert status == 130
    assert output.startswith("labeled: alice/open-clip")
    assert "the same command resumes" in said
    assert "1 labeled, 1 not run" in said
    hub.requests.clear()
    status, output, _ = main(capsys, *arguments)
    assert status == 0
    assert [line.split()[0] for line in output.splitlines()] == ["skipped:", "labeled:"]
    assert not any("/alice/open-clip/" in request for request in weights_requested(hub))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no models; name some"),
        (["alice/a", "--limit", "3"], "--limit needs a tag"),
        (["alice/a", "--push-to", "alice/labels"], "is not of the form hf://datasets/$ORG/NAME"),
        (["alice/a", "--push-to", f"{LABELS}@v1"], "names a revision"),
        (["alice/a", "--push-to", "hf://datasets/bob/labels"], "may not write to bob/labels"),
        (["--tag", "nothing-has-this"], "no model on the Hub matches"),
        (["alice/a", "--device", "abacus"], "no device 'abacus'"),
        (["--list", "no-such-file"], "cannot read"),
        (["alice/a", "--graph", "hf://datasets/alice/none"], "is not on the Hub"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_before_any_work(hub, tmp_path, capsys, arguments, message):
    graph = write_graph_folder(tmp_path / "graph", probes_of_all(3))
    status, output, said = main(capsys, "--graph", graph, *arguments)
    assert status == 1
    assert said.startswith("error: ")
    assert message in said
    assert (output, said.count("\n")) == ("", 1)


# --- which models


def test_a_list_is_text(tmp_path):
    file = tmp_path / "models.txt"
    file.write_text("\ufeff# the good ones\nalice/a   # first\n\n  alice/b@v1\n", encoding="utf-8")
    assert label_models.read_models(file) == ["alice/a", "alice/b@v1"]
    for content, said in ((b"\xff\xfe\x00", "cannot read"), (b"# none\n", "lists no models")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=said):
            label_models.read_models(file)


# --- in a job


def test_the_header_asks_hf_jobs_for_what_the_script_needs():
    lines = SCRIPT.read_text().split("# ///\n")[0].splitlines()[1:]
    header = tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert header["requires-python"] == project["requires-python"]
    assert header["dependencies"] == []  # of the package there is no registry to trust
    assert header["tool"]["hf-jobs"]["secrets"] == ["HF_TOKEN"]


def test_without_the_package_the_script_says_so_in_one_line():
    ran = subprocess.run([sys.executable, "-I", "-S", str(SCRIPT)], capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr == (
        "error: mll_hf is neither installed nor on a package registry; start with --with 'mll-hf[models] @ URL'\n"
    )
