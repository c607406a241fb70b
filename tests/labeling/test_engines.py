"""The engine must not matter: this process and Ray write the same bytes.

Models are real but tiny: what runs in other processes cannot be replaced by fakes.
"""

import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import gpu_check
from mll_hf import errors
from mll_hf.errors import GraphError, InputError, ModelError
from mll_hf.graph.concepts import load_graph
from mll_hf.graph.probes import SamplingConfig, load_probes
from mll_hf.labeling import ray_engine
from mll_hf.labeling import run as labeling
from mll_hf.labeling.engines import LocalEngine
from mll_hf.labeling.ray_engine import RayEngine, Share, _with_files, share_of, workers_in
from mll_hf.labeling.run import label_model, open_engine
from mll_hf.labels.counts import LabelCounts
from mll_hf.labels.label import ModelRef
from mll_hf.labels.store import LabelStore, embeddings_path
from mll_hf.models import environment_of, resolve_model
from worlds import SHA, probes_of_all, write_graph_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A graph with 63 images: 15 batches of 4 and one of 3, or 4 pieces of 4 batches."""
    return write_graph_folder(tmp_path_factory.mktemp("engines") / "graph", probes_of_all(21))


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of 16 images, and blocks of 8."""
    monkeypatch.setattr(ray_engine, "_BATCHES_PER_PIECE", 4)
    monkeypatch.setattr("mll_hf.labeling.run.CONTEST_BLOCK", 8)


def label(model, folder, labels, engine, **options):
    graph = load_graph(folder)
    probes = load_probes(graph, folder, SamplingConfig())
    return label_model(
        resolve_model(f"local-dir:{model}"), graph, probes, LabelStore(labels), engine=engine, batch_size=4, **options
    )


@pytest.fixture(scope="module")
def whole(tiny_open_clip, folder, tmp_path_factory):
    """The label's bytes from this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mll_hf.labeling.run.CONTEST_BLOCK", 8)
        return label(tiny_open_clip, folder, tmp_path_factory.mktemp("whole"), LocalEngine("cpu")).path.read_bytes()


@pytest.mark.parametrize(
    "error",
    [
        errors.MLLError("plain"),
        errors.ModelError("org/model", "is broken"),
        errors.HubError("org/model", "is gone", 404),
        errors.GraphError("is bad", Path("file")),
        errors.LabelError("is bad", Path("file")),
        errors.StorageError(Path("file"), OSError(28, "No space left on device")),
        errors.MissingExtraError("torch", "models"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


# --- this process


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("cpu", 8), (None, 0), (None, 1)])
def test_one_device_runs_in_this_process(device, gpus, monkeypatch):
    monkeypatch.setattr(labeling, "gpu_count", lambda: gpus)
    assert isinstance(open_engine(device), LocalEngine)


def test_several_gpus_need_ray_or_a_choice(monkeypatch):
    monkeypatch.setattr(labeling, "gpu_count", lambda: 4)
    assert isinstance(open_engine(), RayEngine)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find_spec(name))
    with pytest.raises(InputError, match=r"using all 4 GPUs needs Ray: pip install .*\[ray\].*; or choose one"):
        open_engine()


@pytest.mark.parametrize("device", ["abacus", "cpu,cuda:7"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(InputError, match="there is no device"):
        open_engine(device)


def test_missing_images_fill_whole_batches(tiny_open_clip, folder):
    probes = load_probes(load_graph(folder), folder)
    wanted = np.array([3, 4, 9, 11, 40, 41, 42, 60, 62])
    with LocalEngine("cpu").run(resolve_model(f"local-dir:{tiny_open_clip}")) as run:
        found = [numbers.tolist() for numbers, _ in run.embed_images(probes, wanted, 4)]
    assert found == [[3, 4, 9, 11], [40, 41, 42, 60], [62]]


# --- Ray


def worker_with_faults(plan):
    """An actor class with the fault that a file names; made in a function, so that Ray sends the class itself."""

    class Worker(ray_engine._Worker):
        def embed_captions(self, model, dtype, captions):
            fault = plan.read_text()
            if fault == "dies at once":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "half precision":
                self._run_of(model, dtype).model.dtype = dtype or "float16"
            return super().embed_captions(model, dtype, captions)

        def embed_images(self, model, dtype, probes, images, batch_size):
            fault = plan.read_text()
            if fault == "dies once" and images[0] == 32:
                plan.write_text("has died")
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "half precision":  # of which one actor overflows, or has older hardware
                run = self._run_of(model, dtype)
                run.model.dtype = "float32" if dtype == "float32" or images[0] == 32 else "float16"
            embeddings, environment = super().embed_images(model, dtype, probes, images, batch_size)
            return embeddings, replace(environment, torch="1.0") if fault == "other versions" else environment

    return Worker


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The file that names the fault of the actors."""
    plan = tmp_path_factory.mktemp("faults") / "plan"
    plan.write_text("")
    return plan


@pytest.fixture
def fault(plan):
    """Sets the fault of the actors, for one test."""
    yield plan.write_text
    plan.write_text("")


@pytest.fixture(scope="module")
def ray_here(plan):
    """Ray on this machine. Of its three cores `ray_engine_here` takes two and a half, another engine the rest."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_engine, "_Worker", worker_with_faults(plan))
        ray.init(
            num_cpus=3, include_dashboard=False, _node_ip_address="127.0.0.1", logging_level="ERROR",
            log_to_driver=False, object_store_memory=200 * 2**20,
        )  # fmt: skip
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def ray_engine_here(ray_here):
    """Two actors for all tests, since each loads torch and the model for seconds."""
    with RayEngine(cpus=1.25) as engine:
        yield engine


def test_ray_writes_the_same_bytes(tiny_open_clip, folder, tmp_path, whole, small_pieces, ray_engine_here):
    result = label(tiny_open_clip, folder, tmp_path / "ray", ray_engine_here, keep_embeddings=True)
    here = label(tiny_open_clip, folder, tmp_path / "kept", LocalEngine("cpu"), keep_embeddings=True)
    assert result.measured
    assert result.path.read_bytes() == here.path.read_bytes() == whole
    assert embeddings_path(result.path).read_bytes() == embeddings_path(here.path).read_bytes()


def test_captions_are_embedded_in_pieces(tiny_open_clip, whole, ray_engine_here):
    captions = [f"a photo of number {n}" for n in range(1100)]
    ref = resolve_model(f"local-dir:{tiny_open_clip}")
    with ray_engine_here.run(ref) as there, LocalEngine("cpu").run(ref) as here:
        spread, whole = there.embed_captions(captions), here.embed_captions(captions)
    np.testing.assert_array_equal(spread.embeddings, whole.embeddings)
    assert replace(spread, embeddings=None) == replace(whole, embeddings=None)


def test_an_error_of_a_worker_is_raised_and_the_worker_goes_on(
    tiny_open_clip, folder, tmp_path, whole, small_pieces, ray_engine_here
):
    broken = write_graph_folder(tmp_path / "broken", probes_of_all(21))
    probes = load_probes(load_graph(broken), broken)
    (broken / "images.parquet").write_bytes(b"\xff" * 5000)
    with pytest.raises(GraphError, match=r"images\.parquet: is not a readable parquet"):
        label_model(
            resolve_model(f"local-dir:{tiny_open_clip}"), load_graph(broken), probes, LabelStore(tmp_path / "labels"),
            engine=ray_engine_here,
        )  # fmt: skip
    assert label(tiny_open_clip, folder, tmp_path / "ray", ray_engine_here).path.read_bytes() == whole


def test_machines_with_other_versions_are_refused(
    tiny_open_clip, folder, tmp_path, small_pieces, ray_engine_here, fault
):
    fault("other versions")
    with pytest.raises(InputError, match="machines of the cluster differ"):
        label(tiny_open_clip, folder, tmp_path / "ray", ray_engine_here)


def test_workers_of_different_precision_all_go_on_in_full(
    tiny_open_clip, folder, tmp_path, whole, small_pieces, ray_engine_here, fault
):
    fault("half precision")
    result = label(tiny_open_clip, folder, tmp_path / "ray", ray_engine_here)
    assert result.label.environment.dtype == "float32"
    assert result.path.read_bytes() == whole


def test_pieces_of_killed_workers_run_again(
    tiny_open_clip, folder, tmp_path, whole, small_pieces, ray_engine_here, fault, plan
):
    fault("dies once")
    result = label(tiny_open_clip, folder, tmp_path / "ray", ray_engine_here)
    assert plan.read_text() == "has died"
    assert result.path.read_bytes() == whole


def test_workers_that_always_die_are_given_up(tiny_open_clip, folder, tmp_path, ray_here, fault, monkeypatch):
    monkeypatch.setattr(ray_engine, "_RETRIES", 1)
    fault("dies at once")
    with RayEngine(cpus=0.5) as engine, pytest.raises(ModelError, match="its workers were lost 2 times"):
        label(tiny_open_clip, folder, tmp_path / "ray", engine)


DRIVER = """
import os, pickle, signal, sys
from pathlib import Path
from mll_hf.models import resolve_model
from mll_hf.labeling import ray_engine, run as labeling
from mll_hf.graph.concepts import load_graph
from mll_hf.graph.probes import load_probes
from mll_hf.labels.label import ModelRef
from mll_hf.labels.store import LabelStore

model, folder, labels, answers = sys.argv[1], *map(Path, sys.argv[2:5])
ray_engine._BATCHES_PER_PIECE, labeling.CONTEST_BLOCK = 4, 8
pieces = ray_engine.RayRun.embed_images
captions, images, environment = pickle.loads(answers.read_bytes())

class Worker(ray_engine._Worker):  # sent to the actors as it is
    def embed_captions(self, *_):
        return captions

    def embed_images(self, model, dtype, probes, numbers, batch_size):
        return images[numbers], environment

def embed_images(self, probes, images, batch_size):
    for number, piece in enumerate(pieces(self, probes, images, batch_size)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield piece

ray_engine._Worker, ray_engine.RayRun.embed_images = Worker, embed_images
graph = load_graph(folder)
with ray_engine.RayEngine(sys.argv[5], cpus=0.5) as engine:
    labeling.label_model(
        resolve_model(model), graph, load_probes(graph, folder), LabelStore(labels), engine=engine, batch_size=4
    )
"""


def test_a_killed_driver_loses_the_pieces_in_flight(
    tiny_open_clip, folder, tmp_path, whole, small_pieces, ray_here, ray_engine_here, monkeypatch
):
    (tmp_path / "driver.py").write_text(DRIVER)
    model, graph = f"local-dir:{tiny_open_clip}", load_graph(folder)
    with LocalEngine("cpu").run(resolve_model(model)) as run:  # what its actor says, which need not load torch
        captions = run.embed_captions([concept.caption for concept in graph.concepts])
        images = np.concatenate([part for _, part in run.embed_images(load_probes(graph, folder), np.arange(63), 4)])
        answers = captions, images, environment_of(run.model)
    (tmp_path / "answers").write_bytes(pickle.dumps(answers))
    address = ray_here.get_runtime_context().gcs_address
    arguments = [tmp_path / "driver.py", model, folder, tmp_path / "killed", tmp_path / "answers", address]
    words = [sys.executable, *map(str, arguments)]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    embed_images, to_do = ray_engine.RayRun.embed_images, []

    def embedding(self, probes, images, batch_size):
        to_do.append(len(images))
        return embed_images(self, probes, images, batch_size)

    monkeypatch.setattr(ray_engine.RayRun, "embed_images", embedding)
    result = label(tiny_open_clip, folder, tmp_path / "killed", ray_engine_here)
    assert to_do in ([31], [32])  # two pieces of 16 are done; the last has 15 images
    assert result.path.read_bytes() == whole


@pytest.mark.parametrize(
    ("resources", "gpus", "cpus", "share", "n_workers"),
    [
        ({"CPU": 2.0}, None, None, Share(1, 0), 2),
        ({"CPU": 64.0, "GPU": 8.0}, None, None, Share(8, 1), 8),
        ({"CPU": 16.0, "GPU": 8.0}, None, None, Share(2, 1), 8),
        ({"CPU": 512.0, "GPU": 8.0}, None, None, Share(8, 1), 8),
        ({"CPU": 16.0, "GPU": 1.0}, 0.25, None, Share(4, 0.25), 4),
        ({"CPU": 16.0, "GPU": 4.0}, 0.0, None, Share(1, 0), 16),
        ({"CPU": 16.0, "GPU": 4.0}, 1.0, 6.0, Share(6, 1), 2),
        ({"CPU": 4.0}, 1.0, None, Share(1, 1), 0),
    ],
)
def test_resources_of_a_worker(resources, gpus, cpus, share, n_workers):
    assert share_of(resources, gpus, cpus) == share
    assert workers_in(resources, share) == n_workers


def test_a_worker_without_resources_is_refused():
    with pytest.raises(InputError, match="a worker with 0 CPUs and 0 GPUs cannot run"):
        RayEngine(cpus=0, gpus=0)


def test_a_cluster_too_small_for_a_worker_is_refused(ray_here):
    with pytest.raises(InputError, match="has room for a worker with 64 CPUs and 0 GPUs"), RayEngine(cpus=64):
        pass


def test_an_unreachable_cluster_is_refused_in_one_line(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def nobody(**_):
        raise ConnectionError("nobody\nat home")

    monkeypatch.setattr(ray, "init", nobody)
    with pytest.raises(InputError, match=r"^cannot use Ray at auto \(nobody at home\)$"), RayEngine("auto"):
        pass


def test_an_address_where_nothing_answers_is_refused_at_once(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    before = time.monotonic()
    with pytest.raises(InputError, match=r"nothing answers at 127\.0\.0\.1:1 "), RayEngine("127.0.0.1:1"):
        pass
    assert time.monotonic() - before < 15


def test_ray_that_ran_before_goes_on(ray_here):
    with RayEngine(cpus=0.5):
        pass
    assert ray_here.is_initialized()


# --- the pool, with actors that are only simulated


class FakeRay:
    """Ray without processes: calls end in the order in which they were made, and lists of "die" kill workers."""

    def __init__(self):
        self.calls, self.most, self.started = 0, 0, 0

    def remote(self, **resources):
        self.resources = resources
        return lambda _: SimpleNamespace(remote=self.start)

    def start(self, *_):
        self.started += 1
        worker = SimpleNamespace(alive=True)
        for method in ("ready", "embed_images"):
            setattr(worker, method, SimpleNamespace(remote=partial(self.call, worker, method)))
        return worker

    def call(self, worker, method, fates=None, result=None):
        self.calls += 1
        return FakeReference(self.calls, worker, method, fates, result)

    def wait(self, references, timeout):
        self.most = max(self.most, sum(reference.method != "ready" for reference in references))
        return [min(references, key=lambda reference: reference.number)], []

    def get(self, reference):
        from ray.exceptions import ActorDiedError  # Ray is loaded by the worker that runs this file only

        if reference.fates:
            reference.fates.pop()
            raise ActorDiedError
        assert reference.worker.alive
        return reference.result

    def kill(self, worker):
        worker.alive = False


@dataclass(eq=False)
class FakeReference:
    number: int
    worker: object
    method: str
    fates: list
    result: object


@pytest.fixture
def pool(monkeypatch):
    """A pool of two simulated actors."""
    import ray

    fake = FakeRay()
    for name in ("remote", "wait", "get", "kill"):
        monkeypatch.setattr(ray, name, getattr(fake, name))
    workers = ray_engine._Workers(2, Share(8, 1))
    workers.fake = fake
    return workers


REF = ModelRef("org/model", SHA, "open_clip")


def test_each_worker_has_one_call_at_a_time_and_calls_are_drawn_when_needed(pool):
    drawn = []

    def calls():
        for number in range(20):
            drawn.append(number)
            yield number, "embed_images", (None, number)

    seen = {}
    for key, result in pool.completed(REF, calls()):
        seen[key] = result
        assert len(drawn) <= len(seen) + 3
    assert seen == {n: n for n in range(20)}
    assert pool.fake.most == 2
    assert pool.fake.started == 2
    assert pool.fake.resources == {"num_cpus": 8, "num_gpus": 1}


def test_a_call_of_a_lost_worker_runs_again_on_a_new_one(pool):
    calls = [(n, "embed_images", (["die", "die"] if n in (2, 3) else None, n)) for n in range(6)]
    assert dict(pool.completed(REF, iter(calls))) == {n: n for n in range(6)}
    assert pool.fake.started == 6


def test_workers_stay_in_the_pool_when_nobody_waits_for_their_results(pool):
    results = pool.completed(REF, ((n, "embed_images", (None, n)) for n in range(6)))
    next(results)
    results.close()
    assert dict(pool.completed(REF, ((n, "embed_images", (None, n)) for n in range(6)))) == {n: n for n in range(6)}
    assert pool.fake.started == 2


# --- files on other machines


def test_missing_images_are_an_error_on_a_machine_without_the_folder(folder, tmp_path):
    probes = load_probes(load_graph(folder), folder)
    assert _with_files(probes) is probes
    elsewhere = replace(probes, files=(tmp_path / "images.parquet",))
    with pytest.raises(GraphError, match="use a graph on the Hub or in a shared folder"):
        _with_files(elsewhere)


def test_missing_images_of_the_hub_are_downloaded(hub, folder, tmp_path):
    from mll_hf.hub.locations import fetch_graph_with_images

    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.put("dataset", "alice/graph", files)
    probes = fetch_graph_with_images("hf://datasets/alice/graph").probes(SamplingConfig())
    found = _with_files(replace(probes, files=(tmp_path / "elsewhere" / "images.parquet",)))
    assert found.files[0].read_bytes() == files["images.parquet"]
    assert [len(batch) for batch in found.iter_image_bytes(16, np.arange(4, 40))] == [16, 16, 4]


# --- the check for GPUs, on a CPU


def test_gpu_check_runs_whole(tmp_path, ray_engine_here, monkeypatch, capsys):
    words = "--device cpu --models tiny --images 16 --compared 8 --concepts 40 --repeats 1 --out"
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *words.split(), str(tmp_path)])
    monkeypatch.setattr(gpu_check, "RayEngine", lambda: nullcontext(ray_engine_here))
    assert gpu_check.main() == 0
    (figures,), (page,) = tmp_path.glob("cpu-*.json"), tmp_path.glob("cpu-*.md")
    found = json.loads(figures.read_text())
    assert {row["contests"] > row["recognized"] > 0 for row in found["correctness"]} == {True}
    assert found["ray"][0]["same bytes"]
    assert page.read_text() in capsys.readouterr().out


def test_gpu_check_tells_ties_from_faults():
    counts = LabelCounts.zeros(3, 1)
    changed = replace(counts, hits=np.array([2, 1, 0], np.int32))
    assert gpu_check.differences(counts, changed, ties=np.array([2, 1, 9]))["beyond ties"] == 0
    assert gpu_check.differences(counts, changed, ties=np.array([1, 1, 9]))["beyond ties"] == 1
