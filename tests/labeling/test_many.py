"""Labeling many models: labeled ones are skipped, failures do not stop the others, the same bytes here and on Ray."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from mll_hf.errors import GraphError, HubError, InputError, ModelError
from mll_hf.graph.concepts import load_graph
from mll_hf.graph.probes import load_probes
from mll_hf.hub.card import LABEL_PATH
from mll_hf.labeling import on_ray, run
from mll_hf.labeling.on_ray import label_on_ray
from mll_hf.labeling.run import OWN_REPOS, Outcome, Plan, label_many
from mll_hf.labels.file_format import label_from_bytes
from mll_hf.labels.label import ModelRef
from mll_hf.labels.store import LabelStore
from mll_hf.models import source
from worlds import SHA, FakeModel, make_graph, probes_of_all, write_graph_folder

GRAPH = make_graph()
LABELS = "hf://datasets/alice/labels"
REF = ModelRef("org/model", SHA, "open_clip")


class World:
    """A Hub with models, a graph, a folder of labels, and fakes instead of networks."""

    def __init__(self, root, monkeypatch, hub):
        self.root, self.hub, self.loaded = root, hub, []
        self.errors = {}  # what loading a model raises
        self.folder = write_graph_folder(root / "graph", probes_of_all(3))
        monkeypatch.setattr(run, "load_model", self.load)

    def load(self, ref, device):
        if not ref.is_local:
            source.fetch(ref, None)  # as the true one does
        self.loaded.append(ref.repo_id)
        if error := self.errors.get(ref.repo_id):
            raise error
        return FakeModel(GRAPH, ref)

    def add(self, *names, weights=b"weights"):
        for name in names:
            content = {"open_clip_config.json": b"{}", "open_clip_model.safetensors": weights + name.encode()}
            self.hub.put("model", name, content)
        return names

    def plan(self, push_to=None, store="labels", images_per_concept=75, **options):
        probes = load_probes(GRAPH, self.folder, images_per_concept)
        return Plan(GRAPH, probes, LabelStore(self.root / store), push_to, **options)

    def run(self, models, *args, **options):
        return list(label_many(models, self.plan(*args, **options)))

    def outcomes(self, *args, **options):
        return [str(result.outcome) for result in self.run(*args, **options)]


@pytest.fixture
def world(tmp_path, monkeypatch, hub):
    return World(tmp_path, monkeypatch, hub)


def test_each_model_has_its_own_result_and_a_failure_stops_none(world):
    names = world.add("alice/a", "alice/b", "alice/c", "alice/d")
    world.errors = {"alice/b": ModelError("alice/b", "is broken"), "alice/c": ZeroDivisionError("a\nb")}
    first, second, third, fourth = world.run([*names[:3], "alice/d"])
    assert (first.outcome, fourth.outcome) == (Outcome.LABELED, Outcome.LABELED)
    assert first.path.exists()
    assert (second.outcome, second.reason) == (Outcome.FAILED, "model 'alice/b': is broken")
    assert "cannot be run (ZeroDivisionError: a b)" in third.reason
    assert world.outcomes(names) == ["skipped", "failed", "failed", "skipped"]


def test_a_label_that_could_not_be_published_is_not_measured_again(world, monkeypatch):
    (name,) = world.add("alice/a")

    def refuse(*_, **__):
        raise HubError("alice/labels", "refuses")

    with monkeypatch.context() as patch:
        patch.setattr(run, "publish_to_collection", refuse)
        assert world.outcomes([name], LABELS) == ["failed"]
    assert world.outcomes([name], LABELS) == ["labeled"]
    assert world.loaded == [name]


def test_a_label_in_the_models_own_repo_survives_the_commit_that_publishes_it(world):
    (name,) = world.add("alice/a")
    (result,) = world.run([name], OWN_REPOS)
    assert result.published.url.startswith(constants.ENDPOINT)
    assert label_from_bytes(world.hub.files("model", name)[LABEL_PATH]).model.repo_id == name
    world.hub.put("model", name, {"README.md": b"# Better words\n"})
    assert world.outcomes([name], OWN_REPOS, store="other") == ["skipped"]
    world.add(name, weights=b"other weights")
    assert world.outcomes([name], OWN_REPOS) == ["labeled"]


def test_repos_of_others_and_local_folders_get_no_labels(world, tiny_open_clip):
    world.add("bob/b")
    others, local = world.run(["bob/b", f"local-dir:{tiny_open_clip}"], OWN_REPOS)
    assert "you or your token may not write to it" in others.reason
    assert "is a local folder, so its label cannot be published" in local.reason
    assert not world.loaded


def test_downloads_are_freed_on_request(world):
    names = world.add("alice/a", "alice/b")
    world.run(names[:1])
    world.run(names[1:], free_cache=True)
    cached = [str(path) for path in Path(constants.HF_HUB_CACHE).rglob("*.safetensors") if path.exists()]
    assert {"models--alice--a" in path for path in cached} == {True}


# --- on Ray


@pytest.fixture(scope="module")
def ray_here():
    """Ray on this machine; its workers find the models of the tests."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        ray.init(
            num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", logging_level="ERROR",
            log_to_driver=False, object_store_memory=200 * 2**20,
        )  # fmt: skip
        yield ray
        ray.shutdown()


@pytest.fixture
def plan(tmp_path):
    """63 images."""
    folder = write_graph_folder(tmp_path / "graph", probes_of_all(21))
    graph = load_graph(folder)
    return Plan(graph, load_probes(graph, folder), LabelStore(tmp_path / "labels"), device="cpu")


def on_one_thread(model, plan):
    """As a task of Ray, which has one core."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (result,) = label_many([model], plan)
        return result
    finally:
        torch.set_num_threads(threads)


def test_ray_writes_the_same_bytes(ray_here, plan, tmp_path, tiny_open_clip):
    model, missing = f"local-dir:{tiny_open_clip}", "local-dir:/no/such"
    here = on_one_thread(model, replace(plan, store=LabelStore(tmp_path / "here")))
    there = {result.name: result for result in label_on_ray([model, missing], plan)}
    assert there[model].path.read_bytes() == here.path.read_bytes()
    assert there[model].outcome is Outcome.LABELED
    assert "there is no folder /no/such" in there[missing].reason
    assert [result.outcome for result in label_on_ray([model], plan)] == [Outcome.SKIPPED]


def test_a_killed_worker_loses_only_what_is_in_flight(ray_here, plan, tmp_path, tiny_open_clip, monkeypatch):
    model, embedded, died = f"local-dir:{tiny_open_clip}", tmp_path / "embedded", tmp_path / "died"
    plan = replace(plan, batch_size=4)

    class Dies(FakeModel):
        def encode_pixels(self, pixels):
            import os
            import signal

            if embedded.exists() and embedded.stat().st_size > 20 and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            with embedded.open("a") as file:
                file.write("x" * len(pixels))
            return super().encode_pixels(pixels)

    def dies_once(ref, plan, _token=None):
        """Sent to the worker as it is."""
        from unittest.mock import patch

        from mll_hf.labeling.on_ray import measure_there

        with patch("mll_hf.labeling.run.load_model", lambda ref, _device: Dies(plan.graph, ref)):
            return measure_there(ref, plan)

    monkeypatch.setattr(run, "load_model", lambda ref, _device: FakeModel(plan.graph, ref))
    here = on_one_thread(model, replace(plan, store=LabelStore(tmp_path / "here")))
    monkeypatch.setattr(on_ray, "measure_there", dies_once)
    (result,) = label_on_ray([model], plan)
    assert died.exists()
    assert embedded.stat().st_size < 63 + 8
    assert result.path.read_bytes() == here.path.read_bytes()


def test_a_worker_has_the_token_of_the_user(ray_here, plan, monkeypatch):
    def tells(_model, _plan, token):
        import os

        from mll_hf.errors import ModelError
        from mll_hf.labeling.on_ray import measure_there

        os.environ.pop("HF_TOKEN", None)
        try:
            measure_there(None, None, token)
        except AttributeError:  # without a plan
            raise ModelError("m", f"token {os.environ['HF_TOKEN']}") from None

    monkeypatch.setattr(on_ray, "measure_there", tells)
    monkeypatch.setattr(on_ray, "check", lambda *_: None)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_user")
    (result,) = label_on_ray(["org/m"], plan)
    assert "token hf_of_the_user" in result.reason


def test_workers_that_always_die_are_given_up(ray_here, plan, tiny_open_clip, monkeypatch):
    def dies(*_):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(on_ray, "_RETRIES", 1)
    monkeypatch.setattr(on_ray, "measure_there", dies)
    (result,) = label_on_ray([f"local-dir:{tiny_open_clip}"], plan)
    assert result.outcome is Outcome.FAILED
    assert "its workers were lost 2 times" in result.reason


def test_an_unreachable_cluster_is_refused_in_one_line(monkeypatch, plan):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def nobody(**_):
        raise ConnectionError("nobody\nat home")

    monkeypatch.setattr(ray, "init", nobody)
    with pytest.raises(InputError, match=r"^cannot use Ray at host:1 \(nobody at home\)$"):
        list(label_on_ray(["a/b"], plan, "host:1"))


def test_folders_that_a_worker_does_not_share_are_an_error(plan, tmp_path):
    elsewhere = replace(plan.probes, files=(tmp_path / "elsewhere" / "images.parquet",))
    with pytest.raises(GraphError, match="keep images and labels in folders that all machines share"):
        on_ray.measure_there(REF, replace(plan, probes=elsewhere))
