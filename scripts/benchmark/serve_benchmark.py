"""Images per second of `mll-hf serve` with many clients, compared with the same pipeline called with all images.

Clients are threads of one process; each sends a JPEG, waits for the answer, and sends the next. They share the machine
with the server, so its images per second include their work.
"""

from __future__ import annotations

import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.labeling_speed import save_random_model
from benchmark.predict_benchmark import jpegs, selection_of
from benchmark.timing import timed
from mll_hf.models import resolve_model
from mll_hf.pipelines import pipeline

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from mll_hf.labels.label import ModelRef

_CLASSES = ("red", "old", "small", "wet", "round", "cat", "dog", "tree", "car", "boat")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the part ``serve``."""
    parser.add_argument("--model", metavar="MODEL", help="local-dir:PATH or org/name")
    parser.add_argument(
        "--architecture", metavar="NAME", help="open_clip architecture with random weights, instead of --model"
    )
    parser.add_argument("--clients", type=int, default=16, metavar="N", help="clients (default: %(default)s)")
    parser.add_argument("--images", type=int, default=320, metavar="N", help="JPEGs of 500 px (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if args.architecture:
            save_random_model(args.architecture, folder / "model")
        ref = resolve_model(f"local-dir:{folder / 'model'}" if args.architecture else args.model)
        images = jpegs(args.images, 500, 375)
        with _server(ref, folder) as port:
            offline, served = against_offline(ref, port, images, args.clients, args.repeats)
    print(
        f"{args.architecture or args.model}, {len(images)} JPEGs of 500 px: {served:.1f} images/s with {args.clients} "
        f"clients, {offline:.1f} offline, ratio {served / offline:.2f}"
    )


def against_offline(
    ref: ModelRef, port: int, images: Sequence[bytes], clients: int, repeats: int
) -> tuple[float, float]:
    """Images per second offline and served: medians of interleaved runs."""
    classifier = pipeline(selection_of([ref], _CLASSES), device="cpu")
    classifier(images[:8])
    expected = [one[0]["label"] for one in classifier(images)]
    if _served(images, port, clients) != expected:
        raise SystemExit("the server's answers differ from those of the pipeline")
    pairs = [
        (timed(partial(classifier, images)), timed(partial(_served, images, port, clients))) for _ in range(repeats)
    ]
    offline, served = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    return len(images) / offline, len(images) / served


@contextmanager
def _server(ref: ModelRef, folder: Path) -> Iterator[int]:
    """A server in a separate process; yields its port."""
    choice = folder / "choice.json"
    choice.write_text(json.dumps(selection_of([ref], _CLASSES).to_json()))
    command = [sys.executable, "-m", "mll_hf.cli", "serve", choice, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            (port,) = re.findall(r"http://[\d.]+:(\d+)/", process.stderr.readline())
            while not _is_ready(int(port)):
                if process.poll() is not None:
                    raise SystemExit(process.stderr.read())
            yield int(port)
        finally:
            process.terminate()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/ready")
    return connection.getresponse().status == 200


def _served(images: Sequence[bytes], port: int, clients: int) -> list[str]:
    """The best class of each image."""

    def client(n: int) -> list[str]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        labels = []
        for image in images[n::clients]:
            connection.request("POST", "/", image, {"Content-Type": "image/jpeg"})
            labels.append(json.loads(connection.getresponse().read())[0]["label"])
        return labels

    labels = [""] * len(images)
    with ThreadPoolExecutor(clients) as pool:
        for n, of_client in enumerate(pool.map(client, range(clients))):
            labels[n::clients] = of_client
    return labels
