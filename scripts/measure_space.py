"""Measure the Space mll_select: time per answer, many users at once, memory over time.

    python scripts/measure_space.py [--seconds 60] [--users 20]

Labels are synthetic (50 models, 9,000 concepts), and so are the cached embeddings of concepts; class names are embedded
by the real text encoder. The Space runs in a process of its own; users make the requests of a browser, programs use
gradio_client.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from gradio_client import Client

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "spaces" / "mll_select"))

from answers import Library, Question, Settings

from mll_hf import SelectionConfig
from mll_hf.labels.store import LabelStore
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.matching.text_encoder import CachedEncoder, default_encoder
from synthetic import RandomEncoder, make_graph, make_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

APP = Path(__file__).resolve().parents[1] / "spaces" / "mll_select" / "app.py"
_STARTUP_SECONDS = 180
_PAUSE_SECONDS = 0.5  # of a user between two questions


def main() -> int:
    """Measure; returns the exit status: 1 if a user saw an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = {
        "labels": (50, "synthetic labels"),
        "concepts": (9000, "concepts of the graph"),
        "classes": (100, "classes of a question"),
        "users": (20, "users at once"),
        "seconds": (60, "duration of the test with users"),
    }
    for name, (value, text) in options.items():
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"{text} (default: {value})")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = LabelStore(Path(folder) / "labels")
        graph = make_graph(args.concepts)
        store.add_graph(graph)
        for label in make_labels(graph, args.labels):
            store.write(label)
        embeddings = Path(folder) / "assets" / "mll_hf" / "embeddings" / "embeddings.sqlite"
        ConceptIndex.build(graph, CachedEncoder(_StandIn(), embeddings))
        measure_functions(store.name, embeddings, args.classes)
        with _Server(store.name, Path(folder) / "assets") as server:
            measure_client(server.url, args.classes)
            return measure_users(server, args)


def make_names(count: int, number: int) -> tuple[str, ...]:
    """Class names that differ for each number, half of them close to a concept."""
    return tuple(f"{'thing' if y % 2 else 'object'} {7 * y + 1} of kind {number}" for y in range(count))


class _StandIn(RandomEncoder):
    """Random embeddings under the id of the real encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.id = default_encoder().id


def measure_functions(labels: str, embeddings: Path, n_classes: int) -> None:
    """Time of everything that the server computes for a question, including figures as JSON."""
    from app import find

    library = Library(Settings(labels), CachedEncoder(default_encoder(), embeddings))

    def ask(number: int) -> None:
        for part in find(library.labels, Question(make_names(n_classes, number), config=SelectionConfig(k=3))):
            if not isinstance(part, str):
                part.to_json()

    ask(0)  # reads the labels, loads the encoder
    new = [_milliseconds(lambda n=n: ask(n)) for n in range(1, 12)]
    known = [_milliseconds(lambda n=n: ask(n)) for n in range(1, 12)]
    print(f"server side, {n_classes} new class names (they are encoded): {_spread(new)}")
    print(f"server side, {n_classes} class names seen before: {_spread(known)}")


def measure_client(url: str, n_classes: int) -> None:
    """Time of select_models for a program."""
    client = Client(url, verbose=False)

    def ask(number: int) -> None:
        client.predict(list(make_names(n_classes, number)), k=3, api_name="/select_models")

    ask(100)
    times = [_milliseconds(lambda n=n: ask(n)) for n in range(101, 112)]
    print(f"gradio_client end to end, {n_classes} new class names: {_spread(times)}")
    times = [_milliseconds(lambda n=n: ask(n)) for n in range(101, 112)]
    print(f"gradio_client end to end, {n_classes} class names seen before: {_spread(times)}")


def measure_users(server: _Server, args: argparse.Namespace) -> int:
    """Many users who press the button repeatedly; returns 1 if one of them saw an error."""
    times: list[float] = []
    errors: list[str] = []
    until = time.monotonic() + args.seconds
    browser = Browser(server.url, "Find models")
    browser.press(_inputs(args.classes, 200))

    def use(user: int) -> None:
        mine, number = Browser(server.url, "Find models"), 0
        while time.monotonic() < until:
            started = time.perf_counter()
            try:
                found = mine.press(_inputs(args.classes, 300 + 10 * user + number % 5))
                if "Ranking" not in json.dumps(found):
                    errors.append("an answer without a ranking")
            except (httpx.HTTPError, RuntimeError, ValueError) as error:
                errors.append(f"{type(error).__name__}: {error}")
            times.append(1000 * (time.perf_counter() - started))
            number += 1
            time.sleep(_PAUSE_SECONDS)

    users = [threading.Thread(target=use, args=[user]) for user in range(args.users)]
    memory = [server.memory()]
    for user in users:
        user.start()
    while any(user.is_alive() for user in users):
        time.sleep(args.seconds / 12)
        memory.append(server.memory())
    print(f"{args.users} users for {args.seconds:g} s: {len(times)} answers, {len(errors)} errors, {_spread(times)}")
    for error in sorted(set(errors))[:5]:
        print(f"  {error}")
    print("memory of the server over this time, MB: " + " ".join(f"{value:.0f}" for value in memory))
    return 1 if errors else 0


def _inputs(n_classes: int, number: int) -> list[Any]:
    return [", ".join(make_names(n_classes, number)), "photo", "", 3, 0, 0, ""]


class Browser:
    """Presses one button of a Gradio page, with the requests of a browser.

    Args:
        url: Address of the page.
        button: Text of the button.
    """

    def __init__(self, url: str, button: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=120)
        config = self._http.get("/config").raise_for_status().json()
        ids = [part["id"] for part in config["components"] if part["props"].get("value") == button]
        self._function = next(
            event["id"] for event in config["dependencies"] if any(target[0] in ids for target in event["targets"])
        )
        self._session = uuid.uuid4().hex

    def press(self, inputs: Sequence[Any]) -> list[Any]:
        """Press it; returns the outputs.

        Raises:
            RuntimeError: The page reports an error.
        """
        event = {"data": inputs, "fn_index": self._function, "session_hash": self._session}
        self._http.post("/gradio_api/queue/join", json=event).raise_for_status()
        with self._http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self._session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(str(message["output"]))
                    return message["output"]["data"]
        raise RuntimeError("the server closed the connection")


class _Server:
    """The Space in a process of its own."""

    def __init__(self, labels: str, assets: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "MLL_LABELS": labels,
            "HF_ASSETS_CACHE": str(assets),
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(APP)], env={**os.environ, **settings}, stdout=subprocess.DEVNULL
        )

    def __enter__(self) -> _Server:
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


def _milliseconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def _spread(times: list[float]) -> str:
    return f"median {statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f})"


if __name__ == "__main__":
    sys.exit(main())
