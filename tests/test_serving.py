"""The server: what it answers to whom, together, and that nothing a stranger sends stops it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from PIL import Image
from starlette.testclient import TestClient

from mll_hf import SelectionConfig, serving
from mll_hf.cli import main
from mll_hf.ensemble import embedding
from mll_hf.ensemble.run import Ensemble
from mll_hf.errors import ModelError
from mll_hf.models.source import resolve_model
from mll_hf.pipelines import Pipeline
from mll_hf.selection import select
from mll_hf.serving import make_app, serve
from mll_hf.utils import images
from selection_worlds import random_candidates
from test_pipelines import BLUE, GREEN, RED
from worlds import COLORS, ColorModel, encoded

LIMITS = {"BYTES": 10**6, "IMAGES": 4, "PIXELS": 10**6, "CLASSES": 3, "REQUESTS": 8}
PICTURES = {"red": encoded(RED), "green": encoded(GREEN), "blue": encoded(BLUE)}


def encoded64(content):
    return base64.b64encode(content).decode()


def base64_of(name):
    return encoded64(PICTURES[name])


def best(answers):
    return answers[0]["label"]


class Counting:
    """A pipeline that keeps its calls, and can be told to wait or to fail."""

    def __init__(self, classifier):
        self.classifier, self.ensemble, self.calls, self.failures = classifier, classifier.ensemble, [], []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, images, *options, **more):
        self.calls.append(list(images))
        self.free.wait(30)
        if self.failures:
            raise self.failures.pop(0)
        return self.classifier(images, *options, **more)


@pytest.fixture
def classifier(monkeypatch):
    """Says which color a picture has."""
    monkeypatch.setattr(embedding, "load_model", lambda ref, device, texts, **options: ColorModel(ref, [], texts))
    chosen = select(random_candidates(n_models=2, n_classes=3), SelectionConfig())
    return Counting(Pipeline(Ensemble(replace(chosen, classes=tuple(COLORS)))))


@pytest.fixture
def client(classifier, monkeypatch):
    for name, limit in LIMITS.items():
        monkeypatch.setattr(serving, f"_MAX_{name}", limit)
    with TestClient(make_app(classifier)) as client:
        yield client


# --- what is asked and answered ---------------------------------------------------------------------------------------


def test_every_form_of_a_request(client, classifier):
    expected = classifier.classifier(BLUE)
    as_image = {"content": PICTURES["blue"], "headers": {"Content-Type": "image/png"}}
    as_form_of_curl = as_image | {"headers": {"Content-Type": "application/x-www-form-urlencoded"}}
    as_json = {"json": {"inputs": base64_of("blue")}}
    as_data_uri = {"json": {"inputs": f"data:image/png;base64,{base64_of('blue')}"}}
    for one in (as_image, as_form_of_curl, as_json, as_data_uri):
        assert client.post("/", **one).json() == expected
    answers = client.post("/", json={"inputs": [base64_of("blue"), base64_of("red")]}).json()
    assert answers[0] == expected
    assert best(answers[1]) == "red"
    assert client.post("/", json={"inputs": [base64_of("blue")]}).json() == [expected]
    parameters = {"candidate_labels": ["a red thing", "a blue thing"], "top_k": 1}
    expected = classifier.classifier(BLUE, **parameters)
    assert best(expected) == "a blue thing"
    for form in (
        {"inputs": base64_of("blue"), "parameters": parameters},
        {"inputs": base64_of("blue"), "parameters": parameters | {"candidate_labels": "a red thing, a blue thing"}},
        {"inputs": {"image": base64_of("blue")}, "parameters": parameters},
        {"inputs": {"image": base64_of("blue"), **parameters}},
    ):
        assert client.post("/", json=form).json() == expected


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ({"content": b""}, 400, "cannot be read as an image"),
        ({"content": PICTURES["red"][:50]}, 400, "cannot be read as an image"),
        ({"content": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"}, 400, "cannot be read as"),
        ({"content": bytes(10**6 + 1)}, 413, "larger than 0.9537 MB; send fewer or smaller"),
        ({"json": {"inputs": "http://127.0.0.1/cat.png"}}, 400, "URLs are not fetched"),
        ({"json": {"inputs": "/etc/passwd"}}, 400, "not base64"),
        ({"json": {"inputs": 7}}, 400, "not base64"),
        ({"json": {"inputs": []}}, 400, "0 images in one request; send 1 to 4"),
        ({"json": {"inputs": ["AAAA"] * 5}}, 400, "5 images in one request"),
        ({"json": {"image": "AAAA"}}, 400, 'not JSON with "inputs"'),
        ({"json": [1]}, 400, 'not JSON with "inputs"'),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, 'not JSON with "inputs"'),
        ({"content": b"[" * 10**5, "headers": {"Content-Type": "application/json"}}, 400, 'not JSON with "inputs"'),
        ({"json": {"inputs": "AAAA", "parameters": [1]}}, 400, 'not JSON with "inputs"'),
        ({"json": {"inputs": "AAAA", "parameters": {"topk": 1}}}, 400, "unknown parameters: topk"),
        ({"json": {"inputs": "AAAA", "parameters": {"top_k": "x"}}}, 400, "top_k is 'x'"),
        ({"json": {"inputs": "AAAA", "parameters": {"candidate_labels": ["a"] * 4}}}, 400, "at most 3 class names"),
        ({"json": {"inputs": "AAAA", "parameters": {"candidate_labels": "a,b,c,d"}}}, 400, "at most 3 class names"),
        ({"json": {"inputs": "AAAA", "parameters": {"candidate_labels": 7}}}, 400, 'not JSON with "inputs"'),
        ({"json": {"inputs": {"image": [7]}}}, 400, "not base64"),
        ({"json": {"inputs": {"image": "AAAA", "url": "x"}}}, 400, "unknown parameters: url"),
        ({"json": {"inputs": "AAAA", "parameters": {"hypothesis_template": 7}}}, 400, "must be a string"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(client, request_, status, said):
    response = client.post("/", **request_)
    assert response.status_code == status
    assert said in response.json()["error"]
    assert "\n" not in response.json()["error"]
    assert best(client.post("/", content=PICTURES["red"]).json()) == "red"


def test_strange_images(client, monkeypatch):
    monkeypatch.setattr(images, "_register_heif", lambda: False)
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)  # as without pillow-heif, which the extra does not install
    wide = bytearray(PICTURES["red"])
    wide[16:24] = struct.pack(">II", 30_000, 30_000)  # of the header
    wide[29:33] = struct.pack(">I", zlib.crc32(wide[12:29]))
    sixteen = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    good = [
        encoded(RED.convert("CMYK"), "JPEG"),
        encoded(sixteen, "PNG"),
        encoded(GREEN, "GIF", save_all=True, append_images=[RED, BLUE]),
        encoded(BLUE, "WEBP", save_all=True, append_images=[RED]),
    ]
    answers = client.post("/", json={"inputs": [encoded64(content) for content in good]}).json()
    assert [len(one) for one in answers] == [3] * 4
    assert [best(answers[n]) for n in (0, 2, 3)] == ["red", "green", "blue"]
    bad = [bytes(wide), encoded(RED, "JPEG")[:-30], encoded(Image.new("1", (1100, 1000)), "PNG"), PICTURES["red"]]
    answers = client.post("/", json={"inputs": [encoded64(content) for content in bad]}).json()
    assert "too many pixels" in answers[0]["error"]
    assert "cannot be read as an image" in answers[1]["error"]
    assert answers[2]["error"] == "the image has 1100 x 1000 pixels, over 1 million; send a smaller one"
    assert best(answers[3]) == "red"


# --- together ---------------------------------------------------------------------------------------------------------


@contextmanager
def held_up(client, classifier, pool):
    """Hold up a first request, so that the next ones wait."""
    classifier.free.clear()
    first = pool.submit(client.post, "/", content=PICTURES["red"])
    while not classifier.calls:
        time.sleep(0.001)
    yield first
    classifier.free.set()


def test_requests_are_answered_one_after_another(client, classifier):
    with ThreadPoolExecutor(6) as pool:
        with held_up(client, classifier, pool) as first:
            names = ("green", "blue", "red", "green")
            others = [pool.submit(client.post, "/", content=PICTURES[name]) for name in names]
            time.sleep(0.1)  # until they wait
            assert len(classifier.calls) == 1
        assert [best(answer.result(30).json()) for answer in (first, *others)] == ["red", *names]


@pytest.mark.parametrize(
    "failure", [MemoryError("no memory"), ModelError("org/model", "cannot be run on cuda (out of memory)")]
)
def test_a_failure_is_an_answer_and_the_next_request_works(client, classifier, caplog, failure):
    classifier.failures = [failure]
    response = client.post("/", json={"inputs": [base64_of("red"), base64_of("blue")]})
    assert response.status_code == 503
    assert response.json() == {"error": "classification failed; try again later"}
    assert str(failure) in caplog.text
    assert best(client.post("/", content=PICTURES["red"]).json()) == "red"
    assert client.get("/health").status_code == 200


def test_too_many_requests_at_once(classifier, monkeypatch):
    monkeypatch.setattr(serving, "_MAX_REQUESTS", 1)
    with TestClient(make_app(classifier)) as client, ThreadPoolExecutor(1) as pool:
        with held_up(client, classifier, pool) as first:
            refused = client.post("/", content=PICTURES["red"])
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert "too many concurrent requests" in refused.json()["error"]
            assert client.get("/ready").status_code == 200
        assert best(first.result(30).json()) == "red"
        assert best(client.post("/", content=PICTURES["red"]).json()) == "red"


# --- over the network -------------------------------------------------------------------------------------------------


@pytest.fixture
def choice(tmp_path, tiny_open_clip):
    """A file with a selection of a tiny model."""
    chosen = select(random_candidates(n_models=1, n_classes=3), SelectionConfig())
    model = replace(chosen.models[0], ref=resolve_model(f"local-dir:{tiny_open_clip}"))
    path = tmp_path / "choice.json"
    path.write_text(json.dumps(replace(chosen, classes=tuple(COLORS), models=(model,)).to_json()))
    return path


@contextmanager
def running(choice):
    """The command, and its port; killed in the end if it still runs."""
    command = [sys.executable, "-m", "mll_hf", "serve", choice, "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            port = int(process.stderr.readline().rpartition(":")[2].strip("/\n"))
            transport = httpx.HTTPTransport(retries=10)  # it listens a moment later
            assert httpx.Client(transport=transport).get(f"http://127.0.0.1:{port}/ready").status_code == 200
            yield process, port
        finally:
            process.kill()


def test_the_command_with_clients_of_others_and_a_graceful_stop(choice):
    with running(choice) as (process, port):
        # a client of the Hub, which sends bytes without parameters, and JSON with
        hub = InferenceClient(model=f"http://127.0.0.1:{port}/")
        assert {one.label for one in hub.image_classification(PICTURES["red"])} == set(COLORS)
        assert len(hub.image_classification(PICTURES["red"], top_k=2)) == 2
        found = hub.zero_shot_image_classification(PICTURES["red"], candidate_labels=["cat", "dog"])
        assert {one.label for one in found} == {"cat", "dog"}
        # clients that hang up: in the middle of a request, and before the answer
        for sent in (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nabc", whole(PICTURES["red"])):
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(sent)
        assert len(httpx.post(f"http://127.0.0.1:{port}/", content=PICTURES["red"]).json()) == 3
        # a request that is being answered when the server is told to stop
        slow = encoded(Image.new("RGB", (4000, 4000), "red"), "PNG", compress_level=1)
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/", slow)
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert len(json.loads(connection.getresponse().read())) == 3
        process.wait(30)
        assert process.returncode == -signal.SIGTERM
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port))
        assert process.stderr.read() == ""


def whole(content):
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)


def test_a_server_that_cannot_start(choice, classifier, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(choice), "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in capsys.readouterr().err

    def missing(*_, **__):
        raise ModelError("org/model", "has no weights")

    monkeypatch.setattr(embedding, "load_model", missing)
    with pytest.raises(ModelError, match="has no weights"):  # and it does not go on without them
        serve(classifier.classifier, port=0)
