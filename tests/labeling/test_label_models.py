"""The labeling script against the in-process Hub, with real (tiny) models, as a user runs it."""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, Volume, constants

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import label_models
import tiny_hub
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.publish import publish_graph
from mll_hf.hub.sources import open_source
from mll_hf.labeling import engines
from mll_hf.labels.file_format import label_from_bytes
from mll_hf.labels.store import LabelStore
from worlds import FakeModel, make_graph, probes_of_all, write_graph_folder

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "label_models.py"
GRAPH_REPO, LABELS = "hf://datasets/alice/graph", "hf://datasets/alice/labels"


@pytest.fixture
def graph(tmp_path):
    """Folder of a graph with nine images."""
    return write_graph_folder(tmp_path / "graph", probes_of_all(3))


PACKAGE = "https://example.com/mll_hf-0-py3-none-any.whl"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Empty caches and a package for jobs, for this process and for those that it starts."""
    monkeypatch.setenv("MLL_HF_PACKAGE", PACKAGE)
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture(scope="module")
def first_zoo(tmp_path_factory, tiny_open_clip, tiny_transformers_clip):
    """What the Hub holds in `zoo`."""
    hub, api = tiny_hub.HUB, HfApi()
    hub.reset()
    graph = write_graph_folder(tmp_path_factory.mktemp("zoo") / "graph", probes_of_all(3))
    publish_graph(graph, GRAPH_REPO, "hf://datasets/alice/images")
    for name, folder in {
        "open-clip": tiny_open_clip,
        "clip": tiny_transformers_clip,
        "labeled": tiny_open_clip,
    }.items():
        api.create_repo(f"alice/{name}")
        api.upload_folder(repo_id=f"alice/{name}", folder_path=folder)
    hub.put("model", "alice/broken", {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"no weights"})
    hub.put("model", "alice/pickled", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    hub.put("model", "bob/gated", hub.files("model", "alice/clip"))
    hub.repos["model", "bob/gated"].gated = "auto"
    return hub.repos, hub.lfs


@pytest.fixture
def zoo(first_zoo, hub):
    """A graph and six models on the Hub: two good ones, a broken one, a gated one, a pickled one, a labeled one."""
    hub.repos, hub.lfs = deepcopy(first_zoo[0]), dict(first_zoo[1])
    return ["alice/open-clip", "alice/clip", "alice/broken", "bob/gated", "alice/pickled", "alice/labeled"]


def start(*arguments, **options):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # whoever runs the tests in the background ignores Ctrl-C, and what they start would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def script(*arguments):
    """Run the script as a user does; returns exit status, output and what was said beside it."""
    process = start(*arguments)
    output, said = process.communicate(timeout=120)
    return process.returncode, output, said


def main(capsys, *arguments):
    """Run the script in this process, which is quicker."""
    status = label_models.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def weights_requested(hub):
    return [request for request in hub.requests if "/resolve/" in request and "model.safetensors" in request]


def test_a_zoo_is_labeled_and_the_second_run_does_nothing(zoo, hub, home, tmp_path, capsys):
    assert main(capsys, "alice/labeled", "--graph", GRAPH_REPO)[0] == 0
    hub.requests.clear()
    report = tmp_path / "report.json"
    mine = [name for name in zoo if name.startswith("alice/")]
    status, output, said = script(*mine, "--graph", GRAPH_REPO, "--json", "--report", report)
    records = [json.loads(line) for line in output.splitlines()]
    outcomes = {record["model"]: record["outcome"] for record in records}
    assert outcomes == {
        "alice/open-clip": "labeled",
        "alice/clip": "labeled",
        "alice/broken": "failed",
        "alice/pickled": "failed",
        "alice/labeled": "skipped",
    }
    assert status == 1
    assert {record["ref"]["backend"] for record in records[:2]} == {"open_clip", "transformers"}
    assert json.loads(report.read_text()) == records
    assert not any("/alice/labeled/" in request for request in weights_requested(hub))
    for name in ("alice/open-clip", "alice/clip"):
        label = label_from_bytes(hub.files("model", name)[LABEL_PATH])
        assert (label.model.repo_id, label.probes_name) == (name, "alice/images")
    # what is said: which of how many, why something failed, and how to run again for what failed
    assert "[3/5] alice/broken" in said
    assert "2 labeled, 1 skipped, 2 failed" in said
    again = shlex.split(said.partition("to retry failed models: ")[2])
    assert again[2:4] == ["alice/broken", "alice/pickled"]
    assert "Traceback" not in said

    # the good ones once more, from another machine: nothing is downloaded, nothing is committed
    hub.requests.clear()
    status, output, said = main(capsys, zoo[0], zoo[1], zoo[5], "--graph", GRAPH_REPO, "--labels", tmp_path / "other")
    assert status == 0
    assert output.count("skipped: ") == 3
    assert not weights_requested(hub)
    assert not hub.counted
    assert not any(request.startswith("POST") for request in hub.requests)


def test_the_command_for_what_failed_works_once_the_reason_is_gone(zoo, hub, home, capsys):
    options = ["--graph", GRAPH_REPO, "--sample", "2", "--to", LABELS, "--json"]
    status, _, said = main(capsys, "alice/clip", "bob/gated", *options)
    assert status == 1
    assert "is gated; accept its terms" in said
    hub.repos["model", "bob/gated"].gated = False
    again = shlex.split(said.partition("to retry failed models: ")[2])
    assert again[2:] == ["bob/gated", *options]
    status, output, _ = main(capsys, *again[2:])
    assert (status, json.loads(output)["outcome"]) == (0, "labeled")


def test_models_of_a_filter_go_to_a_collection(zoo, hub, home, tmp_path, capsys):
    hub.put("model", "alice/clip", {"README.md": b"---\ntags:\n- zoo\n---\n"})
    hub.put("model", "alice/open-clip", {"README.md": b"---\ntags:\n- zoo\n---\n"})
    options = ["--filter", "zoo", "--graph", GRAPH_REPO, "--to", LABELS]
    status, output, _ = main(capsys, *options)
    assert status == 0
    assert output.count("labeled: ") == 2
    listed = open_source(LABELS).list()
    assert {label.model.repo_id for label in listed} == {"alice/clip", "alice/open-clip"}
    assert LABEL_PATH not in hub.files("model", "alice/clip")
    hub.requests.clear()
    commits = len(hub.repos["dataset", "alice/labels"].commits)
    status, output, _ = main(
        capsys, "--filter", "zoo", "--graph", GRAPH_REPO, "--to", LABELS, "--labels", tmp_path / "x"
    )
    assert (status, output.count("skipped: ")) == (0, 2)
    assert not weights_requested(hub)
    assert len(hub.repos["dataset", "alice/labels"].commits) == commits


def test_a_hub_file_and_names_are_taken_together_each_model_once(zoo, hub, home, tmp_path, capsys):
    file = tmp_path / "models.csv"
    file.write_text("repo_id\nalice/clip\nalice/open-clip\n")
    status, output, said = main(
        capsys, "alice/clip", "--models-from", file, "--graph", GRAPH_REPO, "--dry-run", "--json"
    )
    assert status == 0
    assert [json.loads(line)["model"] for line in output.splitlines()] == ["alice/clip", "alice/open-clip"]
    assert "[2/2] alice/open-clip" in said


def test_a_dry_run_says_what_would_be_done_and_does_nothing(zoo, hub, home, capsys):
    hub.requests.clear()
    status, output, said = main(capsys, *zoo[:2], "alice/pickled", "--graph", GRAPH_REPO, "--dry-run")
    assert status == 1
    lines = output.splitlines()
    assert lines[0].startswith("planned: alice/open-clip (measure ")
    assert lines[0].endswith("with open_clip and publish to its own repo)")
    assert lines[2] == "failed: alice/pickled"
    assert "2 planned, 1 failed" in said
    assert not weights_requested(hub)
    assert not any(request.startswith("POST") for request in hub.requests)


def test_an_interrupted_run_goes_on(zoo, hub, home, capsys):
    arguments = [*zoo[:2], "--graph", GRAPH_REPO, "--to", LABELS, "--labels", home / "labels"]
    process = start(*arguments)
    # Ctrl-C while the second model is fetched
    hub.before("/alice/clip/resolve/", lambda: process.send_signal(signal.SIGINT))
    output, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert output.startswith("labeled: alice/open-clip")
    assert "the same command resumes" in said
    assert "1 labeled, 1 not run" in said
    assert "Traceback" not in said
    hub.requests.clear()
    status, output, _ = main(capsys, *arguments)
    assert status == 0
    assert [line.split()[0] for line in output.splitlines()] == ["skipped:", "labeled:"]
    assert not any("/alice/open-clip/" in request for request in weights_requested(hub))


def test_a_run_that_was_interrupted_in_the_middle_of_a_model_encodes_only_the_rest(zoo, home, monkeypatch, capsys):
    models = []

    def load(ref, device):
        models.append(FakeModel(make_graph(), ref, batches_left=None if models else 1))
        return models[-1]

    monkeypatch.setattr(engines, "load_model", load)
    arguments = ["alice/clip", "--graph", GRAPH_REPO, "--batch-size", "4"]
    assert main(capsys, *arguments)[0] == 130
    assert main(capsys, *arguments)[0] == 0
    assert [len(model.encoded) for model in models] == [4, 5]


def test_without_publication_a_folder_of_labels_is_made(zoo, graph, hub, home, tmp_path, capsys):
    folder = tmp_path / "labels"
    arguments = ["alice/clip", "--graph", graph, "--labels", folder, "--no-push", "--free-cache"]
    assert main(capsys, *arguments)[0] == 0
    assert [label.model.repo_id for label in LabelStore(folder).list()] == ["alice/clip"]
    assert not [path for path in Path(constants.HF_HUB_CACHE).rglob("*.safetensors") if path.exists()]
    hub.requests.clear()
    assert main(capsys, *arguments)[0] == 0
    assert not weights_requested(hub)
    assert not any(request.startswith("POST") for request in hub.requests)


def test_a_full_disk_ends_the_run_with_a_report(zoo, home, monkeypatch, capsys):
    def full(self, label):
        from mll_hf.errors import StorageError

        raise StorageError(self.folder, OSError(28, "No space left on device"))

    monkeypatch.setattr(LabelStore, "write", full)
    status, _, said = main(capsys, "alice/pickled", "alice/clip", "alice/open-clip", "--graph", GRAPH_REPO, "--no-push")
    assert status == 1
    assert "free some space" in said
    assert "1 failed, 2 not run" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no models; name some"),
        (["--limit", "3"], "--limit needs a filter"),
        (["alice/a", "--no-push", "--to", LABELS], "--no-push publishes nothing"),
        (["alice/a", "--private"], "add --to"),
        (["alice/a", "--to", "alice/labels"], "is not of the form hf://datasets/ORG/NAME"),
        (["alice/a", "--to", f"{LABELS}@v1"], "names a revision"),
        (["--filter", "nothing-has-this"], "no model on the Hub matches"),
        (["alice/a", "--device", "abacus"], "no device 'abacus'"),
        (["--models-from", "no-such-file"], "cannot read"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_before_any_work(graph, hub, home, capsys, arguments, message):
    status, output, said = main(capsys, *arguments, "--graph", graph)
    assert status == 1
    assert said.startswith("error: ")
    assert message in said
    assert (output, said.count("\n")) == ("", 1)


def test_a_missing_graph_is_refused(home, capsys):
    status, _, said = main(capsys, "alice/a", "--graph", "hf://datasets/alice/none")
    assert (status, said.count("\n")) == (1, 1)
    assert "is not on the Hub" in said


def test_who_is_not_logged_in_is_told_before_any_work(zoo, home, monkeypatch, capsys, hub):
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    hub.requests.clear()
    status, _, said = main(capsys, "alice/clip", "--graph", GRAPH_REPO)
    assert status == 1
    assert "hf auth login" in said
    assert not weights_requested(hub)


def test_the_header_asks_hf_jobs_for_what_the_script_needs():
    lines = SCRIPT.read_text().split("# ///\n")[0].splitlines()[1:]
    header = tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert header["requires-python"] == project["requires-python"]
    assert header["dependencies"] == []  # of the package there is no registry to trust
    assert header["tool"]["hf-jobs"]["secrets"] == ["HF_TOKEN"]


def test_a_reader_that_goes_away_ends_the_run_without_a_traceback(home):
    graph = write_graph_folder(home / "graph", probes_of_all(1))
    process = start("local-dir:nothing", "--graph", graph, "--no-push", "--json")
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(60) == 1
    assert "nobody reads the results any more" in said
    assert "Traceback" not in said


def test_help_needs_no_torch():
    code = "import sys, label_models; label_models.build_parser().print_help(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=True)
    assert "--paper-models" in run.stdout
    assert run.stdout.endswith("False\n")


def test_without_the_package_the_script_says_so_in_one_line():
    run = subprocess.run([sys.executable, "-I", "-S", str(SCRIPT)], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == (
        "error: mll_hf is neither installed nor on a package registry; start with --with 'mll-hf[models] @ URL'\n"
    )


# ---- repos of others


@pytest.fixture
def strangers(zoo, hub, monkeypatch):
    """Two models of the paper on the Hub, which are bob's, instead of its 49."""
    found = [SimpleNamespace(hub_id=f"bob/{name}") for name in ("clip-a", "clip-b")]
    for model in found:
        hub.put("model", model.hub_id, hub.files("model", "alice/clip"))
    monkeypatch.setattr(label_models, "best_paper_models", lambda: found)
    return ["--paper-models", "--graph", GRAPH_REPO]


def pull_requests(hub):
    return [discussion for repo in hub.repos.values() for discussion in repo.discussions]


@pytest.mark.parametrize("engine", ["local", "hf-jobs"])
def test_the_papers_models_are_not_sent_pull_requests_by_default(strangers, hub, home, capsys, engine):
    status, output, said = main(capsys, *strangers, "--engine", engine)
    assert status == 1
    assert output == ""
    assert said == (
        "error: not your repos: bob/clip-a, bob/clip-b; publish in your own collection with --to "
        "hf://datasets/ORG/NAME, or ask for pull requests with --pr\n"
    )
    assert not pull_requests(hub)
    assert not hub.jobs
    assert not weights_requested(hub)


def test_a_collection_of_others_is_refused_before_any_work(strangers, hub, home, capsys):
    hub.put("dataset", "bob/labels", {"README.md": b"bob's"})
    status, output, said = main(capsys, *strangers, "--to", "hf://datasets/bob/labels")
    assert (status, output) == (1, "")
    assert said.startswith("error: not your repos: bob/labels; ")
    assert not weights_requested(hub)


def test_many_pull_requests_need_a_yes(strangers, hub, home, capsys, monkeypatch):
    status, output, said = main(capsys, *strangers, "--pr")
    assert (status, output, said.count("\n")) == (1, "", 1)
    assert "cannot ask about up to 2 pull requests in repos of others" in said
    assert not weights_requested(hub)
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    assert main(capsys, *strangers, "--pr")[0] == 1
    assert asked == ["Open up to 2 pull requests in repos of others (bob/clip-a, bob/clip-b)? [y/N] "]
    assert not pull_requests(hub)
    assert main(capsys, *strangers, "--pr", "--dry-run")[1].count("and publish to a pull request to its own repo") == 2
    status, output, _ = main(capsys, *strangers, "--pr", "--yes")
    assert (status, output.count("labeled: ")) == (0, 2)
    assert len(pull_requests(hub)) == 2
    assert len(asked) == 1


def test_the_label_of_one_model_of_others_is_a_pull_request_on_demand(strangers, hub, home, capsys):
    assert main(capsys, "bob/clip-a", "--graph", GRAPH_REPO, "--pr")[0] == 0
    assert len(pull_requests(hub)) == 1


def test_jobs_for_models_of_others_open_pull_requests_only_after_a_yes(strangers, hub, home, capsys):
    assert main(capsys, *strangers, "--engine", "hf-jobs", "--job-script", JOB_SCRIPT, "--pr")[0] == 1
    assert not hub.jobs
    assert main(capsys, *strangers, "--engine", "hf-jobs", "--job-script", JOB_SCRIPT, "--pr", "--yes")[0] == 0
    assert [job["command"][-1] for job in hub.jobs] == ["--pr", "--pr"]


# ---- events of a webhook


def event(repo_id, commit, **repo):
    return {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {"type": "model", "name": repo_id, "private": False, **repo},
        "updatedRefs": [{"ref": "refs/heads/main", "oldSha": "a" * 40, "newSha": commit}],
    }


@pytest.fixture
def webhook(zoo, home, monkeypatch, capsys):
    """Runs the script as the Hub does for an event, without waiting."""
    monkeypatch.setattr(label_models, "_SETTLE_SECONDS", 0.0)

    def run(payload, *arguments):
        monkeypatch.setenv("WEBHOOK_PAYLOAD", payload if isinstance(payload, str) else json.dumps(payload))
        return main(capsys, "--webhook", "--graph", GRAPH_REPO, *arguments)

    return run


def test_a_changed_model_is_labeled_by_the_job_of_a_webhook(hub, webhook):
    commit = hub.repos["model", "alice/clip"].refs["main"]
    status, output, _ = webhook(event("alice/clip", commit))
    assert status == 0
    assert output.startswith("labeled: alice/clip@")
    labeled = hub.repos["model", "alice/clip"].refs["main"]  # the commit of the label is an event, too
    status, output, _ = webhook(event("alice/clip", labeled))
    assert (status, output.startswith("skipped: alice/clip@")) == (0, True)


def test_events_that_need_no_label_end_well(hub, webhook):
    commit = hub.repos["model", "alice/clip"].refs["main"]
    hub.put("model", "alice/bert", {"README.md": b"no vision"})
    bert = hub.repos["model", "alice/bert"].refs["main"]
    for payload, reason in [
        ("", "no event"),
        (event("alice/clip", "b" * 40), "a newer commit has its own event"),
        (event("alice/bert", bert), "not a model that open_clip, transformers or sentence-transformers can load"),
        (event("alice/graph", commit, type="dataset"), "a dataset, not a model"),
        (event("alice/clip", commit, private=True), "private, and labels are published in a collection"),
    ]:
        status, output, said = webhook(payload, "--to", LABELS)
        assert (status, output, said.count("\n")) == (0, "", 1)
        assert said.startswith("ignored: ")
        assert reason in said
    assert ("dataset", "alice/labels") not in hub.repos


@pytest.mark.parametrize(
    ("payload", "arguments", "message"),
    [
        ("{", [], "WEBHOOK_PAYLOAD is not JSON"),
        ("[" * 100_000, [], "WEBHOOK_PAYLOAD is not JSON"),
        ("{}", [], "'repo' is missing"),
        ("{}", ["alice/clip"], "leave out other models"),
    ],
)
def test_a_malformed_event_is_refused(webhook, payload, arguments, message):
    status, _, said = webhook(payload, *arguments)
    assert (status, said.count("\n"), message in said) == (1, 1, True)


def test_an_event_of_a_model_of_others_opens_no_pull_request(hub, webhook):
    hub.put("model", "bob/clip", hub.files("model", "alice/clip"))
    status, _, said = webhook(event("bob/clip", hub.repos["model", "bob/clip"].refs["main"]))
    assert (status, "not your repos: bob/clip" in said) == (1, True)
    assert not pull_requests(hub)


def test_on_a_cpu_without_torch_an_event_starts_the_job_that_labels(zoo, hub, home):
    heavy = ("torch", "torchvision", "open_clip", "transformers", "timm", "PIL", "pyarrow", "ray")
    code = (
        f"import sys\nfor name in {heavy}: sys.modules[name] = None\n"
        "import label_models\nlabel_models._SETTLE_SECONDS = 0\nsys.exit(label_models.main())"
    )
    commit = hub.repos["model", "alice/clip"].refs["main"]
    environment = {**os.environ, "WEBHOOK_PAYLOAD": json.dumps(event("alice/clip", commit))}
    command = [sys.executable, "-c", code, "--webhook", *JOBS, "--to", LABELS]
    run = subprocess.run(command, cwd=SCRIPT.parent, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"started: alice/clip@{commit} ")
    (job,) = hub.jobs
    assert job["command"][job["command"].index(JOB_SCRIPT) + 1] == f"alice/clip@{commit}"
    assert "--webhook" not in job["command"]


# ---- engines

JOB_SCRIPT = "https://example.com/label_models.py"
JOBS = ["--graph", GRAPH_REPO, "--engine", "hf-jobs", "--job-script", JOB_SCRIPT]


def test_ray_labels_and_publishes_what_one_process_would(zoo, home, tmp_path, capsys):
    import ray
    import torch

    torch.set_num_threads(1)  # as many as an actor with one core has: sums are cut up by thread
    models = ["alice/open-clip", "alice/clip", "alice/broken"]
    options = ["--graph", GRAPH_REPO, "--batch-size", "4", "--labels"]
    assert main(capsys, *models[:2], *options, tmp_path / "plain", "--no-push")[0] == 0
    ray.init(num_cpus=1, include_dashboard=False, _node_ip_address="127.0.0.1", logging_level="ERROR",
             log_to_driver=False, object_store_memory=200 * 2**20)  # fmt: skip
    try:
        status, output, said = main(
            capsys, *models, *options, tmp_path / "ray", "--engine", "ray", "--json", "--to", LABELS
        )
    finally:
        ray.shutdown()
    assert status == 1, said
    outcomes = {record["model"]: record["outcome"] for record in map(json.loads, output.splitlines())}
    assert outcomes == {"alice/open-clip": "labeled", "alice/clip": "labeled", "alice/broken": "failed"}
    plain, spread = (sorted((tmp_path / name).rglob("labels/*/*/*.safetensors")) for name in ("plain", "ray"))
    assert [path.read_bytes() for path in plain] == [path.read_bytes() for path in spread]
    assert len(plain) == len(open_source(LABELS).list()) == 2


def test_a_job_is_started_for_each_model_that_needs_one(zoo, hub, home, capsys):
    status, output, _ = main(capsys, "alice/clip", "alice/labeled", "alice/pickled", *JOBS, "--sample", "4")
    assert status == 1
    assert [line.split()[:2] for line in output.splitlines()] == [
        ["started:", "alice/clip"], ["started:", "alice/labeled"], ["failed:", "alice/pickled"],
    ]  # fmt: skip
    assert output.splitlines()[0].endswith("/jobs/alice/1")
    command = hub.jobs[0]["command"]
    commit = hub.repos["model", "alice/clip"].refs["main"]
    pinned = f"{GRAPH_REPO}@{hub.repos['dataset', 'alice/graph'].refs['main']}"
    assert command[command.index(JOB_SCRIPT) :] == [
        JOB_SCRIPT, f"alice/clip@{commit}", "--graph", pinned, "--sample", "4", "--seed", "0",
    ]  # fmt: skip
    assert hub.jobs[0]["flavor"] == "t4-small"
    assert hub.jobs[0]["timeoutSeconds"] == 6 * 3600
    assert hub.jobs[0]["secrets"] == {"HF_TOKEN": "hf_test_token"}
    assert not any(path.endswith((".parquet", ".safetensors")) for path in hub.requests)  # the jobs read them


def test_the_hub_is_asked_once_who_pays(zoo, hub, home, capsys):
    assert main(capsys, "alice/clip", "alice/open-clip", *JOBS, "--to", LABELS)[0] == 0
    assert len(hub.jobs) == 2
    assert [str(request) for request in hub.requests].count("GET /api/whoami-v2") == 1


def test_what_a_job_was_told_labels_the_model(zoo, hub, home, capsys):
    main(capsys, "alice/clip", *JOBS)
    command = hub.jobs[0]["command"]
    assert main(capsys, *command[command.index(JOB_SCRIPT) + 1 :])[0] == 0
    hub.jobs.clear()
    assert main(capsys, "alice/clip", *JOBS)[1].startswith("skipped: alice/clip (labeled already: ")
    assert not hub.jobs


def test_a_model_whose_job_is_at_work_gets_no_second_one(zoo, hub, home, capsys):
    main(capsys, "alice/clip", *JOBS)
    assert "a job is running: " in main(capsys, "alice/clip", *JOBS)[1]
    assert len(hub.jobs) == 1
    main(capsys, "alice/clip", *JOBS, "--seed", "1")  # another question
    assert len(hub.jobs) == 2
    hub.jobs[0]["stage"] = "ERROR"
    assert main(capsys, "alice/clip", *JOBS)[1].startswith("started: alice/clip")


def test_a_dry_run_starts_no_job(zoo, hub, home, capsys):
    status, output, _ = main(capsys, "alice/clip", *JOBS, "--dry-run")
    assert status == 0
    assert output.startswith("planned: alice/clip (start a job on t4-small: alice/clip@")
    assert not hub.jobs


def test_a_job_installs_the_package_that_the_user_names(zoo, hub, home, capsys):
    assert main(capsys, "alice/clip", *JOBS)[0] == 0
    (job,) = hub.jobs
    assert job["command"][:4] == ["uv", "run", "--with", f"mll-hf[models] @ {PACKAGE}"]
    assert not job.get("volumes")


def test_a_job_installs_the_wheel_of_the_checkout(zoo, hub, home, capsys, monkeypatch, tmp_path):
    wheel = tmp_path / "dist" / "mll_hf-0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"a wheel")
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.delenv("MLL_HF_PACKAGE")
    monkeypatch.setattr("mll_hf.utils.package._CHECKOUT", tmp_path)
    synced = []

    def sync(api, folder, mount_path, *, remote_name, namespace):  # buckets need Xet, which this Hub lacks
        synced.append(({path.name: path.read_bytes() for path in Path(folder).iterdir()}, remote_name, namespace))
        return Volume(type="bucket", source="alice/jobs-artifacts", mount_path=mount_path, path=remote_name)

    monkeypatch.setattr(HfApi, "sync_job_volume", sync)
    assert main(capsys, "alice/clip", "alice/labeled", *JOBS)[0] == 0
    digest = hashlib.sha256(b"a wheel").hexdigest()[:12]
    assert synced == [({wheel.name: b"a wheel"}, f"mll-hf-{digest}", "alice")]  # once for both jobs
    for job in hub.jobs:
        assert job["command"][2:4] == ["--with", f"mll-hf[models] @ file:///mll-hf/{wheel.name}"]
        (volume,) = job["volumes"]
        assert (volume["mountPath"], volume["path"]) == ("/mll-hf", f"mll-hf-{digest}")


def test_no_job_starts_whose_package_is_not_known(zoo, hub, home, capsys, monkeypatch):
    monkeypatch.delenv("MLL_HF_PACKAGE")
    monkeypatch.setattr("mll_hf.utils.package._CHECKOUT", home)
    status, _, said = main(capsys, "alice/clip", *JOBS)
    assert (status, said.count("\n")) == (1, 1)
    assert "is not on a package registry, so a job cannot install it by name; set MLL_HF_PACKAGE" in said
    monkeypatch.setenv("MLL_HF_PACKAGE", "nowhere/mll_hf-0-py3-none-any.whl")
    assert "there is no wheel nowhere/mll_hf-0-py3-none-any.whl" in main(capsys, "alice/clip", *JOBS)[2]
    assert not hub.jobs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alice/clip", "--graph", GRAPH_REPO, "--ray-address", "x:1"], "--ray-address applies to --engine ray"),
        (["alice/clip", *JOBS, "--gpus-per-worker", "1"], "--gpus-per-worker applies to --engine ray"),
        (["alice/clip", "--graph", GRAPH_REPO, "--job-flavor", "h200"], "--job-flavor applies to --engine hf-jobs"),
        (["alice/clip", "--graph", GRAPH_REPO, "--report", "/proc/nowhere/report.json"], "cannot write /proc/nowhere"),
        (["alice/clip", *JOBS, "--labels", "x"], "--labels is a local folder, which a job cannot read"),
        (["alice/clip", *JOBS, "--no-push"], "a job must publish its label"),
        (["alice/clip", "--graph", "folder", "--engine", "hf-jobs"], "is not of the form hf://datasets"),
        (
            ["alice/clip", "--graph", GRAPH_REPO, "--engine", "ray", "--device", "cpu"],
            "--device applies to --engine local",
        ),
    ],
)
def test_what_an_engine_cannot_do_is_refused(zoo, home, capsys, arguments, message):
    status, _, said = main(capsys, *arguments)
    assert status == 1
    assert said.startswith("error: ")
    assert message in said
