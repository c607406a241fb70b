"""Where models run must not matter: the same bytes from one process, from several, and from a Ray cluster.

The models are real, if tiny, for what runs in other processes cannot be replaced.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mll_hf import errors
from mll_hf.errors import GraphError, InputError, ModelError
from mll_hf.graph.concepts import load_graph
from mll_hf.graph.probes import SamplingConfig, load_probes
from mll_hf.labeling.engines import LocalEngine, cluster, open_local, spread
from mll_hf.labeling.engines.cluster import RayEngine, Share, share_of, workers_in
from mll_hf.labeling.engines.processes import ProcessEngine
from mll_hf.labeling.engines.spread import SpreadRun, Workers, _batched, _with_files
from mll_hf.labeling.run import label_model
from mll_hf.labels.label import ModelRef
from mll_hf.labels.store import LabelStore
from mll_hf.models import resolve_model
from worlds import SHA, probes_of_all, write_graph_folder

PIECES = "MLL_TEST_PIECE"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A graph with 63 images: 15 batches of 4 and one of 3, or 4 pieces of 4 batches."""
    return write_graph_folder(tmp_path_factory.mktemp("engines") / "graph", probes_of_all(21))


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of 16 images, and two blocks of 8 to count at a time, in this process, which cuts them."""
    monkeypatch.setattr(spread, "_BATCHES_PER_PIECE", 4)
    monkeypatch.setattr(spread, "_BLOCKS_PER_PIECE", 2)
    monkeypatch.setattr("mll_hf.labeling.run.CONTEST_BLOCK", 8)


def label(model, folder, labels, engine, **options):
    graph = load_graph(folder)
    probes = load_probes(graph, folder, options.pop("sampling", SamplingConfig()))
    return label_model(
        resolve_model(f"local-dir:{model}"), graph, probes, LabelStore(labels), engine=engine, batch_size=4, **options
    )


@pytest.fixture
def whole(tiny_open_clip, folder, tmp_path, small_pieces):
    """The label's bytes as this process makes them."""
    return label(tiny_open_clip, folder, tmp_path / "whole", LocalEngine("cpu")).path.read_bytes()


def test_two_processes_make_the_same_label(tiny_open_clip, folder, tmp_path, whole):
    with ProcessEngine(["cpu", "cpu"]) as engine:
        result = label(tiny_open_clip, folder, tmp_path / "spread", engine, keep_embeddings=True)
    assert result.measured
    assert result.path.read_bytes() == whole
    here = label(tiny_open_clip, folder, tmp_path / "kept", LocalEngine("cpu"), keep_embeddings=True)
    theirs, ours = ((path.parent / "embeddings.safetensors").read_bytes() for path in (result.path, here.path))
    assert theirs == ours


def test_a_process_that_is_killed_fails_its_model_and_the_next_run_goes_on(
    tiny_open_clip, folder, tmp_path, whole, monkeypatch
):
    with ProcessEngine(["cpu"]) as engine:
        with monkeypatch.context() as patched:
            patched.setattr(spread, "_count_piece", _kill_oneself)
            with pytest.raises(ModelError, match="a process that ran it was killed"):
                label(tiny_open_clip, folder, tmp_path / "spread", engine)
        result = label(tiny_open_clip, folder, tmp_path / "spread", engine)  # in a new process
    assert result.path.read_bytes() == whole


def _kill_oneself(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_error_of_a_worker_is_the_error_of_the_run(tiny_open_clip, folder, tmp_path):
    broken = tmp_path / "broken"
    write_graph_folder(broken, probes_of_all(21))
    probes = load_probes(load_graph(broken), broken)
    (broken / "images.parquet").write_bytes(b"\xff" * 5000)
    with ProcessEngine(["cpu"]) as engine, pytest.raises(GraphError, match=r"images\.parquet: is not a readable"):
        label_model(
            resolve_model(f"local-dir:{tiny_open_clip}"), load_graph(broken), probes, LabelStore(tmp_path / "labels"),
            engine=engine,
        )  # fmt: skip


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
def test_errors_come_back_from_other_processes_as_they_were(error):
    import pickle

    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


# --- Ray


@pytest.fixture(scope="module")
def ray_here():
    """Ray with two cores on this machine, for all tests of the module."""
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", logging_level="ERROR", log_to_driver=False,
        object_store_memory=200 * 2**20,
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture
def ray_engine(ray_here):
    with RayEngine() as engine:
        yield engine


def test_ray_makes_the_same_label(tiny_open_clip, folder, tmp_path, whole, ray_engine):
    result = label(tiny_open_clip, folder, tmp_path / "ray", ray_engine)
    assert result.measured
    assert result.path.read_bytes() == whole


def test_a_worker_of_ray_that_is_killed_midway_changes_nothing(
    tiny_open_clip, folder, tmp_path, whole, ray_engine, monkeypatch
):
    victims = tmp_path / "victims"
    victims.mkdir()
    monkeypatch.setattr(spread, "_embed_piece", _dying_once(victims))
    result = label(tiny_open_clip, folder, tmp_path / "ray", ray_engine)
    assert len(list(victims.iterdir())) == 2  # two pieces lost their worker the first time
    assert result.path.read_bytes() == whole


def _dying_once(victims):
    """Embeds as always, but two pieces kill their process when they are first tried."""
    embed, folder = spread._embed_piece, str(victims)

    def dying(ref, probes, images, *how):
        mark = Path(folder) / str(images[0])
        if images[0] in (0, 32) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return embed(ref, probes, images, *how)

    return dying


def test_an_error_in_ray_is_ours_and_one_line(tiny_open_clip, folder, tmp_path, ray_engine, monkeypatch):
    def broken(*_):
        raise ModelError("org/model", "is broken")

    monkeypatch.setattr(spread, "_embed_piece", broken)
    with pytest.raises(ModelError, match=r"^model 'org/model': is broken$"):
        label(tiny_open_clip, folder, tmp_path / "ray", ray_engine)


def test_a_worker_that_always_dies_is_given_up(tiny_open_clip, folder, tmp_path, ray_engine, monkeypatch):
    monkeypatch.setattr(cluster, "_RETRIES", 0)
    monkeypatch.setattr(spread, "_embed_piece", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with RayEngine() as engine, pytest.raises(ModelError, match="its workers were lost 1 times"):
        label(tiny_open_clip, folder, tmp_path / "ray", engine)


DRIVER = """
import os, signal, sys
from pathlib import Path
from mll_hf.models import resolve_model
from mll_hf.labeling.engines import spread
from mll_hf.labeling.engines.processes import ProcessEngine
from mll_hf.graph.concepts import load_graph
from mll_hf.labeling import run as labeling
from mll_hf.graph.probes import load_probes
from mll_hf.labels.store import LabelStore

def main():
    model, folder, labels, kill_after = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    spread._BATCHES_PER_PIECE, spread._BLOCKS_PER_PIECE, labeling.CONTEST_BLOCK = 4, 2, 8
    pieces = spread.SpreadRun.embed_images

    def embed_images(self, probes, images, batch_size):
        print(len(images), "to do", flush=True)
        for number, piece in enumerate(pieces(self, probes, images, batch_size)):
            if number == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield piece

    spread.SpreadRun.embed_images = embed_images
    graph = load_graph(folder)
    with ProcessEngine(["cpu", "cpu"]) as engine:
        labeling.label_model(
            resolve_model(model), graph, load_probes(graph, folder), LabelStore(labels), engine=engine, batch_size=4
        )

if __name__ == "__main__":
    main()
"""


def test_a_driver_that_is_killed_loses_the_pieces_in_flight(tiny_open_clip, folder, tmp_path, whole):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)

    def run(kill_after):
        words = [sys.executable, script, f"local-dir:{tiny_open_clip}", folder, tmp_path / "killed", kill_after]
        return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)

    first = run(2)
    assert (first.returncode, first.stdout) == (-signal.SIGKILL, "63 to do\n")
    second = run(-1)
    assert second.returncode == 0, second.stderr
    assert second.stdout in ("31 to do\n", "32 to do\n")  # two pieces of 16 were done; the last has 15 images
    assert next((tmp_path / "killed").rglob("label.safetensors")).read_bytes() == whole


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
def test_what_a_worker_gets_of_a_cluster(resources, gpus, cpus, share, n_workers):
    assert share_of(resources, gpus, cpus) == share
    assert workers_in(resources, share) == n_workers


def test_a_cluster_too_small_for_a_worker_is_refused(ray_here):
    with pytest.raises(InputError, match="no worker with 64 CPUs and 0 GPUs fits a machine"), RayEngine(cpus=64):
        pass


def test_a_cluster_that_is_not_there_is_refused_in_one_line(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def nobody(**_):
        raise ConnectionError("nobody\nat home")

    monkeypatch.setattr(ray, "init", nobody)
    with (
        pytest.raises(InputError, match=r"^Ray cannot be used at auto \(nobody at home\)$"),
        RayEngine("auto"),
    ):
        pass


# --- the parts


class Threads(Workers):
    """Runs each task in a thread of its own, and remembers what was taken back."""

    def __init__(self, n_workers):
        super().__init__(n_workers, 1)
        self.at_work, self.most, self.lock = 0, 0, threading.Lock()

    def start(self, function, arguments):
        future = Future()

        def work():
            with self.lock:
                self.at_work += 1
                self.most = max(self.most, self.at_work)
            try:
                result = function(*arguments)
            except Exception as error:
                result = error
            with self.lock:
                self.at_work -= 1
            future.set_exception(result) if isinstance(result, Exception) else future.set_result(result)

        threading.Thread(target=work).start()
        return future


def test_only_so_many_tasks_are_handed_out_and_all_come_back():
    workers = Threads(2)
    drawn = []

    def tasks():
        for number in range(40):
            drawn.append(number)
            yield number, lambda n: (time.sleep(0.002 * (n % 3)), n * n)[1], (number,)

    seen = {}
    for key, result in workers.completed(tasks()):
        seen[key] = result
        assert len(drawn) <= len(seen) + 6
    assert seen == {n: n * n for n in range(40)}
    assert workers.most <= 6


def test_who_waits_is_told_when_a_run_is_stopped():
    workers, release = Threads(1), threading.Event()
    outcome = []

    def wait():
        try:
            list(workers.completed([(0, release.wait, (30,))]))
        except KeyboardInterrupt:
            outcome.append("interrupted")

    thread = threading.Thread(target=wait)
    thread.start()
    while not workers._waiting:
        time.sleep(0.01)
    workers.stop()
    thread.join(10)
    release.set()
    assert outcome == ["interrupted"]


def test_batches_of_anything():
    assert list(_batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(_batched([], 2)) == []


def test_images_that_are_not_on_a_machine_are_asked_for(folder, tmp_path):
    probes = load_probes(load_graph(folder), folder)
    assert _with_files(probes) is probes
    elsewhere = replace(probes, files=(tmp_path / "images.parquet",))
    with pytest.raises(GraphError, match="put the graph into a folder that all machines share, or on the Hub"):
        _with_files(elsewhere)


def test_images_of_the_hub_are_fetched_where_they_are_missing(hub, folder, tmp_path):
    from mll_hf.hub.locations import fetch_graph_with_images

    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.put("dataset", "alice/graph", files)
    probes = fetch_graph_with_images("hf://datasets/alice/graph").probes(SamplingConfig())
    found = _with_files(replace(probes, files=(tmp_path / "elsewhere" / "images.parquet",)))
    assert found.files[0].read_bytes() == files["images.parquet"]
    assert [len(batch) for batch in found.iter_image_bytes(16, np.arange(4, 40))] == [16, 16, 4]


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", LocalEngine), ("cpu,cpu", ProcessEngine), (None, LocalEngine)]
)
def test_the_engine_of_this_machine(device, expected):
    assert isinstance(open_local(device), expected)


def test_a_device_that_is_not_there_is_refused():
    for device in ("abacus", "cpu,cuda:7"):
        with pytest.raises(InputError, match="there is no device"):
            open_local(device)


def test_images_that_are_missing_here_and_there_fill_whole_batches(tiny_open_clip, folder):
    probes = load_probes(load_graph(folder), folder)
    wanted = np.array([3, 4, 9, 11, 40, 41, 42, 60, 62])
    with LocalEngine("cpu").run(resolve_model(f"local-dir:{tiny_open_clip}")) as run:
        found = [numbers.tolist() for numbers, _ in run.embed_images(probes, wanted, 4)]
    assert found == [[3, 4, 9, 11], [40, 41, 42, 60], [62]]


# --- models take turns


class Diary(Workers):
    """Runs tasks at once in this thread, and writes down whose they were."""

    def __init__(self):
        super().__init__(1, 1)
        self.models, self.lock = [], threading.Lock()

    def start(self, function, arguments):
        time.sleep(0.002)
        with self.lock:
            self.models.append(arguments[0])
        future = Future()
        future.set_result(np.zeros(len(arguments[2])) if len(arguments) > 2 else None)
        return future


def test_each_worker_changes_the_model_once(folder):
    probes, workers = load_probes(load_graph(folder), folder), Diary()

    def measure(name):
        run = SpreadRun(name, workers)
        run.embed_captions(["a"])
        list(run.embed_images(probes, np.arange(63), 1))
        run.close()

    threads = [threading.Thread(target=measure, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    changes = [left for left, right in pairwise(workers.models) if left != right]
    assert sorted(set(workers.models)) == ["a", "b", "c"]
    assert len(changes) == 2


def test_a_run_that_ends_early_gives_up_its_turn():
    workers = Diary()
    first, second = SpreadRun("a", workers), SpreadRun("b", workers)
    first.embed_captions(["a"])
    assert not workers.turn.acquire(blocking=False)
    first.close()
    first.close()
    second.embed_captions(["b"])
    assert workers.models == ["a", "b"]


def test_who_asks_after_a_run_was_stopped_is_told_so_too():
    workers = Threads(1)
    workers.stop()
    with pytest.raises(KeyboardInterrupt):
        list(workers.completed([(0, print, ())]))


def test_processes_end_at_once_when_their_engine_is_left():
    before = time.monotonic()
    with ProcessEngine(["cpu"]) as engine, engine.run(ModelRef("org/model", SHA, "open_clip")) as run:
        waiting = run._workers.start(time.sleep, (60,))
        run._workers.start(os.getpid, ())
        time.sleep(1)
        assert not waiting.done()
    assert time.monotonic() - before < 30


# --- what Ray is asked for


def test_a_worker_with_a_gpu_keeps_its_process(monkeypatch):
    """Ray would start a new one for each task, which would load the model again."""
    import ray

    asked = []
    monkeypatch.setattr(ray, "remote", lambda **options: asked.append(options) or (lambda function: function))
    cluster._RayWorkers(4, Share(8, 1))
    assert asked == [{"num_cpus": 8, "num_gpus": 1, "max_retries": 5, "max_calls": 0}]


def test_a_worker_of_nothing_is_refused():
    with pytest.raises(InputError, match="a worker needs a part of a CPU or of a GPU"):
        RayEngine(cpus=0, gpus=0)


def test_an_address_where_nothing_answers_is_refused_at_once(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    before = time.monotonic()
    with pytest.raises(InputError, match=r"nothing answers at 127\.0\.0\.1:1 "), RayEngine("127.0.0.1:1"):
        pass
    assert time.monotonic() - before < 15


def test_ray_that_was_there_before_stays(ray_here):
    with RayEngine():
        pass
    assert ray_here.is_initialized()
