"""A small graph with images, a text encoder, and how tests run commands."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import worlds
from mll_hf.cli import main

NODES = [
    {"id": "n1", "names": ["thing"], "gloss": "something", "hypernyms": []},
    {"id": "n2", "names": ["animal"], "gloss": "a living thing", "hypernyms": ["n1"]},
    {"id": "n3", "names": ["cat"], "gloss": "a small animal", "hypernyms": ["n2"]},
    {"id": "n4", "names": ["dog", "hound"], "gloss": "an animal that barks", "hypernyms": ["n2"]},
    {"id": "n5", "names": ["car"], "gloss": "a thing that drives", "hypernyms": ["n1"]},
    {"id": "n6", "names": ["tree"], "gloss": "a large plant", "hypernyms": ["n1"]},
]
COLORS = {"n3": (200, 150, 100), "n4": (90, 60, 30), "n5": (200, 0, 0), "n6": (0, 130, 0)}


def encoded(color, noise, size=40):
    pixels = np.random.default_rng(noise).normal(color, 25, (size, size, 3)).clip(0, 255).astype(np.uint8)
    return worlds.encoded(Image.fromarray(pixels))


def write_graph(folder, nodes=NODES, broken_images=0):
    rows = [
        {"image": encoded(color, n), "node": node, "style": ("photo", "icon")[n % 2]}
        for node, color in COLORS.items()
        for n in range(6)
    ]
    rows += [{"image": b"no image", "node": "n3", "style": "photo"}] * broken_images
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph.json").write_text(json.dumps({"nodes": nodes}))
    pq.write_table(pa.Table.from_pylist(rows), folder / "images.parquet")
    return folder


def run(capsys, *arguments):
    """Run a command; returns status, standard output and standard error."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def fails(capsys, *arguments):
    """Run a command that must fail with exactly one line of complaint; returns the line."""
    status, out, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if line]
    assert status == 1
    assert out == ""
    assert len(lines) == 1, err
    assert lines[0].startswith("mll-hf: error: ")
    assert "Traceback" not in err
    return lines[0]


def chosen(capsys, world, classes="cat, dog, car"):
    """A file with a selection for these classes."""
    path = world / f"choice of {classes}.json"
    path.write_text(run(capsys, "select", "--classes", classes, "--labels", world / "labels", "--json")[1])
    return path
