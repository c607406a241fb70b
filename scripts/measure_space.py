"""Measure the Space mll_select: many users at once, and memory over time.

    python scripts/measure_space.py [--seconds 120] [--users 20]

Labels are synthetic (50 models, 9,000 concepts), and so are the cached embeddings of concepts; class names are embedded
by the real text encoder. The Space runs in a separate process; users make the requests of a browser. Each
user asks for different classes, limits and licenses each time. A fake Hub answers requests for licenses after 0.2 s.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchmark.synthetic import RandomEncoder, make_graph, make_labels
from benchmark.timing import spread
from mll_hf.cli.options import script_parser
from mll_hf.labels.store import LabelStore
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.matching.text_encoder import CachedEncoder, default_encoder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

APP = Path(__file__).resolve().parents[1] / "spaces" / "mll_select" / "app.py"
_STARTUP_SECONDS = 180
_PAUSE_SECONDS = 0.5  # between two questions of a user
_HUB_SECONDS = 0.2
_LICENSES = ("mit", "apache-2.0", None)


def main() -> int:
    """Measure; returns the exit status: 1 if a user saw an error."""
    parser = script_parser(str(__doc__))
    options = {
        "labels": (50, "synthetic labels"),
        "concepts": (9000, "concepts of the graph"),
        "few": (10, "classes per question"),
        "users": (20, "users at once"),
        "seconds": (120, "duration of the test with users"),
    }
    for name, (value, text) in options.items():
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{text} (default: {value})")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore(Path(folder) / "labels")
        graph = make_graph(args.concepts)
        store.add_graph(graph)
        for m, label in enumerate(make_labels(graph, args.labels)):
            store.write(replace(label, license=_LICENSES[m % len(_LICENSES)]))
        embeddings = Path(folder) / "assets" / "mll_hf" / "embeddings" / "embeddings.sqlite"
        ConceptIndex.build(graph, CachedEncoder(_FakeEncoder(), embeddings))
        with _hub() as hub:
            settings = {"MLL_LABELS": store.name, "HF_ENDPOINT": hub, "HF_ASSETS_CACHE": str(Path(folder) / "assets")}
            with Server(settings) as server:
                return measure_users(server, args)


def make_names(count: int, number: int) -> tuple[str, ...]:
    """Class names that differ for each number, half of them close to a concept."""
    return tuple(f"{'thing' if y % 2 else 'object'} {7 * y + 1} of kind {number}" for y in range(count))


class _FakeEncoder(RandomEncoder):
    """Random embeddings under the id of the real encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.id = default_encoder().id


def measure_users(server: Server, args: argparse.Namespace) -> int:
    """Run many users who ask repeatedly; returns 1 if one of them saw an error."""
    times: list[float] = []
    errors: list[str] = []
    until = time.monotonic() + args.seconds
    Browser(server.url).press("Find models", _question(args.few, 0))

    def use(user: int) -> None:
        mine, number = Browser(server.url), 0
        while time.monotonic() < until:
            number += 1
            started = time.perf_counter()
            try:
                found = mine.press("Find models", _question(args.few, 1000 * user + number))
                if "Ranking" not in json.dumps(found):
                    errors.append("an answer without a ranking")
            except (httpx.HTTPError, RuntimeError, ValueError) as error:
                errors.append(f"{type(error).__name__}: {error}")
            times.append(time.perf_counter() - started)
            time.sleep(_PAUSE_SECONDS)

    users = [threading.Thread(target=use, args=[user]) for user in range(args.users)]
    memory = [server.memory()]
    for user in users:
        user.start()
    while any(user.is_alive() for user in users):
        time.sleep(args.seconds / 60)
        memory.append(server.memory())
    print(f"{args.users} users for {args.seconds:g} s: {len(errors)} errors")
    print(f"  {len(times)} answers: {spread(times)}")
    for error in sorted(set(errors))[:5]:
        print(f"  {error}")
    third = len(memory) // 3
    middle, last = (statistics.mean(part) for part in (memory[third : 2 * third], memory[2 * third :]))
    print("memory of the server over this time, MB: " + " ".join(f"{value:.0f}" for value in memory[::5]))
    print(f"  last third against middle third: {100 * (last / middle - 1):+.1f} %")
    return 1 if errors else 0


def _question(n_classes: int, number: int) -> list[Any]:
    """Classes, domain, task, k and limits, and the license."""
    classes = ", ".join(make_names(n_classes, number))
    pick = random.Random(number).choice  # noqa: S311 - no secret
    limits = pick([0, 20, 60]), pick([0, 400]), pick(["", "apache-2.0, mit", "mit"])
    return [classes, pick(["photo", "sketch", None]), "", pick([1, 3, 5]), *limits]


@contextlib.contextmanager
def _hub() -> Iterator[str]:
    """A fake Hub; yields its URL."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(_HUB_SECONDS)
            repo_id = self.path.removeprefix("/api/models/").partition("?")[0]
            license = _LICENSES[sum(repo_id.encode()) % 2]
            content = json.dumps({"id": repo_id, "_id": repo_id, "tags": [f"license:{license}"]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Browser:
    """Uses the controls of a Gradio page, with the requests of a browser.

    Args:
        url: URL of the page.
    """

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=120)
        self._config = self._http.get("/config").raise_for_status().json()
        self._session = uuid.uuid4().hex
        for event in self._config["dependencies"]:  # a browser requests these when the page is opened
            if event["backend_fn"] and any(target[1] == "load" for target in event["targets"]):
                self._call(event["id"], [])

    def press(self, control: str, inputs: Sequence[Any]) -> list[Any]:
        """Use a control, given by its text or label; returns the outputs of its function.

        Raises:
            RuntimeError: The page reports an error.
        """
        parts = self._config["components"]
        ids = [part["id"] for part in parts if control in (part["props"].get("value"), part["props"].get("label"))]
        events = self._config["dependencies"]
        number = next(event["id"] for event in events if any(target[0] in ids for target in event["targets"]))
        return self._call(number, inputs)

    def _call(self, number: int, inputs: Sequence[Any]) -> list[Any]:
        event = {"data": inputs, "fn_index": number, "session_hash": self._session}
        self._http.post("/gradio_api/queue/join", json=event).raise_for_status()
        with self._http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self._session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(str(message["output"]))
                    return message["output"]["data"]
        raise RuntimeError("the server closed the connection")


class Server:
    """The Space in a separate process, with additional environment variables."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        variables = {"GRADIO_ANALYTICS_ENABLED": "False", **os.environ, **settings, "GRADIO_SERVER_PORT": str(port)}
        self._process = subprocess.Popen([sys.executable, str(APP)], env=variables, stdout=subprocess.DEVNULL)

    def __enter__(self) -> Server:
        for _ in range(_STARTUP_SECONDS):
            try:
                httpx.get(self.url, timeout=10).raise_for_status()
            except httpx.HTTPError:
                time.sleep(1)
            else:
                return self
        raise RuntimeError("the Space does not start")

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def memory(self) -> float:
        """Resident memory now, in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
