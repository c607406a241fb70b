"""Labels with texts that would do harm if they were not escaped, and the modules of the Space mll_select."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

from mll_hf.graph.concepts import SemanticGraph
from mll_hf.labels.label import Cost
from mll_hf.labels.store import LabelStore
from selection_worlds import WordEncoder
from worlds import CAR, CAT, DOG, make_graph, make_label

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "spaces" / "mll_select"))

import answers

FOLDER = Path(answers.__file__).parent
HARM = '<img src=x onerror="window.harmed=1">'
SAYS_HARM = "&lt;img src=x onerror="


def load_app():
    """The Space's ``app.py``, under another name, since the other Space has an ``app.py`` too."""
    if "mll_select_app" in sys.modules:
        return sys.modules["mll_select_app"]
    spec = importlib.util.spec_from_file_location("mll_select_app", FOLDER / "app.py")
    module = sys.modules["mll_select_app"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def harmful_graph():
    """The tiny graph, with markup in a definition and in a name."""
    concepts = list(make_graph().concepts)
    concepts[CAT] = replace(concepts[CAT], definition=f"a pet {HARM}")
    concepts[CAR] = replace(concepts[CAR], lemmas=(f"car {HARM}", "car"))
    return SemanticGraph("tiny <b>graph</b>", tuple(concepts))


def make_labels(graph, extra=()):
    """Labels of a generalist, a specialist of cats and one of dogs, at different costs and under different licenses."""
    hits = {"org/even": [6] * 7, "org/cats": [2] * 7, "org/dogs": [3] * 7}
    hits["org/cats"][CAT], hits["org/dogs"][DOG] = 10, 10
    costs = {"org/even": Cost(10**8, 8.0), "org/cats": Cost(3 * 10**7, 1.0), "org/dogs": Cost(2 * 10**9, 90.0)}
    licenses = {"org/even": "cc-by-nc-4.0", "org/cats": "openrail", "org/dogs": "mit"}
    labels = [make_label(graph, hits[id], repo_id=id, cost=costs[id], license=licenses[id]) for id in hits]
    return [*labels, *extra]


def make_store(folder, labels, *graphs):
    """A folder of labels; returns its path as text."""
    store = LabelStore(folder)
    for graph in graphs:
        store.add_graph(graph)
    for label in labels:
        store.write(label)
    return str(folder)


def make_library(folder, encoder=None):
    """The library of a folder of labels or any other source."""
    return answers.Library(str(folder), encoder or WordEncoder())


def signs_graph():
    """A graph of letters, whose root has a hypernym in the tiny graph."""
    hypernyms = {"sign": ("vehicle",), "letter a": ("sign",), "letter b": ("sign",), "cat": ("pet",)}
    return make_graph(hypernyms, "signs")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
