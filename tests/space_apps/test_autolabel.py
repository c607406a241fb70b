"""The Space mll_autolabel over HTTP: who may send events, which are ignored, and the work."""

import json
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest
import uvicorn
from huggingface_hub import constants

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "spaces" / "mll_autolabel"))

import autolabel
from autolabel import Event, Queue, Settings, read_event, rows

from mll_hf.errors import InputError
from mll_hf.hub.card import LABEL_PATH
from mll_hf.hub.publish import publish_graph
from mll_hf.labels.file_format import label_from_bytes
from worlds import probes_of_all, write_graph_folder

SPACE = Path(autolabel.__file__).parent
SECRET = "a long random text"
A, B, C, ZEROS = "a" * 40, "b" * 40, "c" * 40, "0" * 40
MODEL = {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"weights"}


def change(repo_id, commit, private=False, **rest):
    return Event(repo_id, commit, private, **rest)


def payload(repo_id="alice/m", old=A, new=B, *, kind="model", action="update", ref="refs/heads/main", **repo):
    """An event as the Hub sends it."""
    return {
        "event": {"action": action, "scope": "repo.content"},
        "repo": {
            "type": kind,
            "name": repo_id,
            "id": "621ffdc036468d709f17434d",
            "private": False,
            "url": {"web": "https://example.com/alice/m", "api": "https://example.com/api/models/alice/m"},
            "owner": {"id": "628b753283ef59b5be89e937"},
            "headSha": new,
            **repo,
        },
        "updatedRefs": [{"ref": ref, "oldSha": old, "newSha": new}],
        "webhook": {"id": "6390e855e30d9209411de93b", "version": 3},
    }


def settings(**changed):
    return Settings(**{"secret": SECRET, "graph": "hf://datasets/alice/graph", "settle_seconds": 0.0, **changed})


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")


def load_space():
    """The Space's ``app.py``, which loads Gradio: not done by the workers that run other files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SPACE)  # the other Space has an ``app.py`` too
        import app

    return app


class Served:
    """The app on loopback, and what its worker was given to do."""

    def __init__(self, configuration, work):
        space = load_space()
        self.queue = Queue(work, configuration.settle_seconds)
        server = uvicorn.Server(
            uvicorn.Config(space.build_app(configuration, self.queue), port=0, log_level="error", lifespan="on")
        )
        self.server, self.thread = server, threading.Thread(target=server.run, daemon=True)
        self.thread.start()
        wait_until(lambda: server.started)
        self.port = server.servers[0].sockets[0].getsockname()[1]

    def request(self, method, path, body=None, headers=()):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def post(self, event, secret=SECRET):
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        headers = {"Content-Type": "application/json", **({} if secret is None else {"X-Webhook-Secret": secret})}
        status, content = self.request("POST", "/webhook", body, headers)
        return status, json.loads(content)

    def close(self):
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture
def serve():
    """Serves an app; its worker is not started."""
    opened = []

    def start(work=lambda change: ("labeled", ""), **changed):
        opened.append(Served(settings(**changed), work))
        return opened[-1]

    yield start
    for served in opened:
        served.close()


@pytest.fixture(scope="module")
def served():
    """One app for all events that leave nothing to do."""
    served = Served(settings(), lambda change: ("labeled", ""))
    yield served
    served.close()


def wait_until(is_true, seconds=30.0):
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def states(queue):
    return [(event.repo_id, event.commit, event.state) for event in queue.events()]


# --- the webhook


def test_events_need_the_secret(serve):
    served = serve()
    assert served.post(payload(), secret=None)[0] == 401
    for wrong in ("", "wrong", SECRET[:-1], SECRET + " x", SECRET.upper(), "\xff"):
        assert served.post(payload(), secret=wrong)[0] == 403
    assert not served.queue.events()
    assert served.post(payload()) == (202, {"queued": "alice/m"})
    assert states(served.queue) == [("alice/m", B, "waiting")]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (payload(kind="dataset"), "a dataset, not a model"),
        (payload(action="delete"), "deleted"),
        (payload(ref="refs/pr/1"), "main has not changed"),
        (payload(new=ZEROS), "main has not changed"),
        ({**payload(), "updatedRefs": None}, "main has not changed"),
    ],
)
def test_events_that_do_not_change_a_model_are_ignored(served, event, reason):
    before = served.queue.events()
    status, answer = served.post(event)
    assert status == 200
    assert reason in answer["ignored"]
    shown, *others = served.queue.events()
    assert others == before
    assert (shown.state, reason in shown.detail) == ("ignored", True)


@pytest.mark.parametrize(
    "event", [b"", b"\xff\xfe", b"[" * 100_000, {}, {**payload(), "repo": None}, payload(new=7), payload("<b>a</b>/m")]
)
def test_invalid_payloads_are_refused_in_one_line(served, event):
    before = served.queue.events()
    status, answer = served.post(event)
    assert status == 400
    assert "\n" not in answer["error"]
    assert served.queue.events() == before
    assert served.post(b'{"a": "' + b"x" * 2**21 + b'"}')[0] == 413


def test_a_full_queue_asks_to_try_again_but_takes_newer_commits(serve, monkeypatch):
    monkeypatch.setattr(autolabel, "_MAX_WAITING", 2)
    served = serve()
    assert [served.post(payload(f"alice/m{n}"))[0] for n in range(3)] == [202, 202, 503]
    assert served.post(payload("alice/m0", old=B, new=C))[0] == 202
    assert [event.repo_id for event in served.queue.events()] == ["alice/m1", "alice/m0"]


# --- the queue


def worked_off(queue):
    """Start a queue and wait until it is empty."""
    queue.start()
    wait_until(lambda: not any(event.state in ("waiting", "running") for event in queue.events()))


def test_a_model_waits_until_its_uploads_are_over_and_only_its_newest_commit_counts():
    worked = []
    queue = Queue(lambda change: (worked.append((change, time.monotonic())), ("labeled", ""))[1], 0.3)
    queue.offer(change("alice/m", B))
    last = time.monotonic()
    queue.offer(change("alice/m", C))
    worked_off(queue)
    ((done, started),) = worked
    assert done == change("alice/m", C)
    assert started - last >= 0.3


def test_an_unexpected_error_does_not_stop_the_queue():
    def work(change):
        if change.repo_id == "alice/bad":
            raise ZeroDivisionError
        return "labeled", ""

    queue = Queue(work, 0.0)
    queue.offer(change("alice/bad", B))
    queue.offer(change("alice/good", B))
    worked_off(queue)
    assert [(event.repo_id, event.state) for event in queue.events()] == [
        ("alice/good", "labeled"),
        ("alice/bad", "failed"),
    ]


# --- which changes matter


@pytest.fixture
def graph(hub, tmp_path):
    """A graph on the Hub; returns its location with the commit."""
    folder = write_graph_folder(tmp_path / "graph", probes_of_all(2))
    published = publish_graph(folder, "hf://datasets/alice/graph", "hf://datasets/alice/images")
    return f"hf://datasets/alice/graph@{published.graph.revision}"


def test_a_private_model_is_not_named_in_a_collection(hub, graph):
    new = hub.put("model", "alice/m", MODEL)
    work = autolabel.worker(settings(graph=graph, to="hf://datasets/alice/labels"))
    assert work(change("alice/m", new, private=True))[0] == "ignored"


def test_a_model_of_others_is_never_sent_a_pull_request(hub, graph):
    new = hub.put("model", "bob/m", MODEL)
    queue = Queue(autolabel.worker(settings(graph=graph)), 0.0)
    queue.offer(change("bob/m", new))
    worked_off(queue)
    (event,) = queue.events()
    assert (event.state, "may not write to it" in event.detail) == ("failed", True)
    assert not hub.repos["model", "bob/m"].discussions


# --- end to end


def test_a_model_is_labeled_in_the_space(api, hub, graph, serve, tmp_path, monkeypatch, tiny_open_clip):
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    served = serve(autolabel.worker(settings(graph=graph)))
    served.queue.start()

    def send(old, new):
        assert served.post(payload("alice/m", old, new))[0] == 202
        wait_until(lambda: served.queue.events()[0].state not in ("waiting", "running"))
        return served.queue.events()[0]

    api.create_repo("alice/m")
    empty = api.model_info("alice/m").sha
    weights = api.upload_folder(repo_id="alice/m", folder_path=tiny_open_clip).oid
    event = send(empty, weights)
    assert event.state == "labeled"
    assert event.detail.startswith(constants.ENDPOINT)
    assert label_from_bytes(hub.files("model", "alice/m")[LABEL_PATH]).model.revision == weights
    # the commit of the label is an event, too
    hub.requests.clear()
    labeled = api.model_info("alice/m").sha
    assert send(weights, labeled).state == "skipped"
    assert not hub.counted


# --- the page


def test_the_page_does_not_name_private_models():
    event = change("alice/secret-model", B, True, state="failed", detail="alice/secret-model: is gated", time="now")
    assert rows([event]) == [["now", "(private)", "", "failed", ""]]
    assert read_event(json.dumps(payload(private=True)).encode()).private


def test_the_page_is_served_and_shows_the_newest_events(serve):
    served = serve()
    status, content = served.request("GET", "/")
    assert status == 200
    assert b"MLL autolabel" in content
    assert SECRET.encode() not in content

    def table():
        headers = {"Content-Type": "application/json"}
        call = json.loads(served.request("POST", "/gradio_api/call/events", b'{"data": []}', headers)[1])
        return served.request("GET", f"/gradio_api/call/events/{call['event_id']}")[1].decode()

    assert "alice/m" not in table()
    served.post(payload())
    assert "waiting" in table()
    assert "alice/m" in table()


# --- the settings

ENVIRONMENT = {"WEBHOOK_SECRET": SECRET, "MLL_AUTOLABEL_GRAPH": "hf://datasets/alice/graph"}


def test_settings_come_from_the_environment():
    found = Settings.from_environment({**ENVIRONMENT, "MLL_AUTOLABEL_TO": " hf://datasets/alice/labels "})
    assert found.to == "hf://datasets/alice/labels"
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"WEBHOOK_SECRET": "  "}, "WEBHOOK_SECRET is not set"),
        ({"MLL_AUTOLABEL_TO": "alice/labels"}, "is not of the form"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        Settings.from_environment({**ENVIRONMENT, **changed})
