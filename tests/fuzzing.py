"""Hostile files: labels and graphs, mutated, with checksums computed again, up to `select`."""

from __future__ import annotations

import json
import random
from copy import deepcopy

import numpy as np
from safetensors.numpy import load, save

from hub_worlds import COLLECTION, GRAPH, REPO, graph_file, graph_files, label_files, path_of, put_labeled_model
from mll_hf import Client
from mll_hf.cli.report import label_report, selection_report
from mll_hf.errors import MLLError
from mll_hf.graph.concepts import graph_to_bytes
from mll_hf.hub.card import LABEL_PATH
from mll_hf.labels.fields import TENSORS
from mll_hf.labels.file_format import METADATA_KEY, _checksum, label_to_bytes
from mll_hf.labels.store import graph_path
from mll_hf.labels.summary import summary_to_bytes
from mll_hf.utils.files import canonical_json
from selection_worlds import WordEncoder
from worlds import make_label

NUMBERS = (0, -1, 1, 2, 255, 65535, 65536, 2**31, 2**63, 10**30, 0.5, -0.5, 1e300, 1e-300, float("nan"), float("inf"))
TEXTS = ("", "x" * 600, "\x1b[31mred", "../../etc/passwd", "a/b", "🚀", "\ud800", "local-dir:/etc", "hf://datasets/a/b")
VALUES = (*NUMBERS, *TEXTS, None, True, [], {}, [[]], ["photo", "photo"], [None], {"a": 1})


def metadata_of(blob):
    """The metadata of a label, without its checksum."""
    length = int.from_bytes(blob[:8], "little")
    document = json.loads(json.loads(blob[8 : 8 + length])["__metadata__"][METADATA_KEY])
    return {key: value for key, value in document.items() if key != "sha256"}


def signed(metadata, tensors):
    """A label file with the right checksum, whatever it holds."""
    try:
        checksum = _checksum(metadata, tensors)
    except (LookupError, UnicodeEncodeError):
        checksum = "0" * 64
    text = json.dumps({**metadata, "sha256": checksum})
    return save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata={METADATA_KEY: text})


def with_metadata(blob, changes):
    """A label file with other metadata, by path."""
    document = metadata_of(blob)
    for path, value in changes.items():
        *sections, last = path.split(".")
        section = document
        for name in sections:
            section = section[name]
        section[last] = value
    return signed(document, load(blob))


def changed_json(rng, document, times=1):
    """A copy of a document, changed at random places: another value, none, or twice the same."""
    document = deepcopy(document)
    for _ in range(times):
        place = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.8:
                place = place[key]
                continue
            match rng.randrange(5):
                case 0 if isinstance(place, dict):
                    del place[key]
                case 1 if isinstance(place, list):
                    place.append(deepcopy(place[key]))
                case 2 if isinstance(place[key], (int, float)):
                    place[key] = rng.choice(NUMBERS)
                case 3 if isinstance(place[key], str):
                    place[key] = rng.choice(TEXTS)
                case _:
                    place[key] = deepcopy(rng.choice(VALUES))
            break
    return document


def changed_bytes(rng, blob):
    """Some bytes changed, cut off, or repeated."""
    blob = bytearray(blob)
    match rng.randrange(3):
        case 0:
            for _ in range(rng.choice((1, 1, 2, 10))):
                blob[rng.randrange(len(blob))] = rng.randrange(256)
        case 1:
            del blob[rng.randrange(len(blob)) :]
        case 2:
            blob += blob[: rng.randrange(len(blob))]
    return bytes(blob)


def changed_tensors(rng, tensors):
    """Tensors with other values, shapes, types or names; counts that belong together often change together."""
    tensors = {name: value.copy() for name, value in tensors.items()}
    name = rng.choice(list(TENSORS))
    value = tensors[name]
    match rng.randrange(6):
        case 0:
            flat = value.reshape(-1)
            with np.errstate(all="ignore"):
                flat[rng.randrange(len(flat))] = np.asarray(rng.choice((0, 1, 7, 65535, 1e-7, 1e7))).astype(flat.dtype)
        case 1:
            tensors[name] = value[..., : rng.randrange(value.shape[-1] + 1)]
        case 2:
            tensors[name] = value.astype(rng.choice((np.float64, np.int8, np.uint16, np.float16)))
        case 3:
            tensors["more"] = tensors.pop(name)
        case 4:  # all images won or lost, in every table
            won = rng.random() < 0.5
            total, by_domain = tensors["ranks"].sum(axis=1), tensors["domain_ranks"].sum(axis=1)
            tensors["ranks"][:], tensors["domain_ranks"][:] = 0, 0
            tensors["ranks"][:, 0 if won else -1], tensors["domain_ranks"][:, 0 if won else -1] = total, by_domain
            tensors["domain_hits"][:] = tensors["domain_support"] if won else 0
            tensors["node_precision"][:] = float(won)
        case 5:  # another number of images
            factor = rng.choice((0, 2, 7))
            for each in ("ranks", "domain_ranks", "domain_hits", "domain_support"):
                tensors[each] = (tensors[each] * factor).astype(tensors[each].dtype)
            if factor == 0:
                tensors["node_precision"][:] = 0
    return tensors


def changed_label(rng, blob):
    """A hostile label."""
    if rng.random() < 0.2:
        return changed_bytes(rng, blob)
    metadata, tensors = metadata_of(blob), load(blob)
    kind = rng.randrange(3)
    if kind != 0:
        metadata = changed_json(rng, metadata, rng.choice((1, 1, 3)))
    if kind != 1:
        tensors = changed_tensors(rng, tensors)
    return signed(metadata, tensors)


def changed_graph(rng, document):
    """A hostile graph.json."""
    if rng.random() < 0.2:
        return changed_bytes(rng, canonical_json(document).encode())
    return json.dumps(changed_json(rng, document, rng.choice((1, 1, 2, 5)))).encode()


CLASSES = ("cat", "car", "a thing that nobody knows")
_IN_COLLECTION = 12


class Attack:
    """Rounds of questions to a Hub with hostile files among honest ones.

    Attributes:
        files: Hostile files so far.
        valid: Those of the collection that were accepted as labels.
        most_requests: The most requests of a question beyond those of the same question without hostile files.
    """

    def __init__(self, hub, seed):
        self.hub, self.rng = hub, random.Random(seed)
        self.files = self.valid = self.most_requests = 0
        place = f"hf://datasets/alice/graph@{hub.put('dataset', 'alice/graph', graph_file())}"
        self.place = place
        self.honest = [
            put_labeled_model(f"alice/model-{n}", hits=[n, 5, 0, 3, 2, 10, 10], graph_location=place) for n in range(3)
        ]
        self.quiet = {}
        self.put_collection({})
        for source in ("hub", COLLECTION):
            self.quiet[source] = self.ask(source)

    def put_collection(self, hostile):
        self.hub.repos.pop(("dataset", REPO), None)
        self.hub.put("dataset", REPO, {**graph_files(), **label_files(self.honest), **hostile})

    def round(self):
        """One question to each source, with new hostile files."""
        rng, graph = self.rng, json.loads(graph_to_bytes(GRAPH))
        for owner in ("alice", "mallory"):  # one is named by the user
            bad_graph = self.hub.put("dataset", f"{owner}/bad-graph", {"graph.json": changed_graph(rng, graph)})
            label = put_labeled_model(f"{owner}/bad", graph_location=f"hf://datasets/{owner}/bad-graph@{bad_graph}")
            metadata = metadata_of(label_to_bytes(label))
            metadata["graph"]["digest"] = rng.choice((GRAPH.digest, rng.randbytes(32).hex()))
            blob = changed_label(rng, signed(metadata, load(label_to_bytes(label))))
            self.hub.put("model", f"{owner}/bad", {LABEL_PATH: blob})
        labels = [make_label(GRAPH, repo_id="org/bad", revision=f"{n:040x}") for n in range(_IN_COLLECTION)]
        hostile = {path_of(label): changed_label(rng, label_to_bytes(label)) for label in labels}
        hostile[graph_path(rng.choice((GRAPH.digest, "0" * 64)))] = changed_graph(rng, graph)
        self.put_collection(hostile)
        self.files += len(hostile) + 4
        for source, quiet in self.quiet.items():
            self.most_requests = max(self.most_requests, self.ask(source) - quiet)

    def forget(self):
        """Drop what the Hub keeps of earlier rounds."""
        self.hub.requests.clear()
        for owner in ("alice", "mallory"):
            del self.hub.repos["model", f"{owner}/bad"], self.hub.repos["dataset", f"{owner}/bad-graph"]
        used = {file["lfs"] for repo in self.hub.repos.values() for file in repo.files.values() if "lfs" in file}
        self.hub.lfs = {oid: content for oid, content in self.hub.lfs.items() if oid in used}

    def ask(self, source):
        """Ask a question; returns the number of requests."""
        before, client = len(self.hub.requests), Client(source, trust=["alice"], encoder=WordEncoder())
        try:
            selection = client.select(CLASSES)
        except MLLError:
            if source != COLLECTION:  # where the graph of all labels may be damaged
                raise
            return len(self.hub.requests) - before
        ids = {model.ref.repo_id for model in selection.models}
        if source == "hub":
            assert ids >= {label.model.repo_id for label in self.honest}
            assert "mallory/bad" not in ids
        check(selection)
        for label in client.source.labels():
            self.valid += label.model.repo_id == "org/bad"
            for graph in client.source.graphs:
                if graph.digest == label.graph_digest:
                    label_report(label, graph, client.source.origin_of(label))
        summary_to_bytes(client.source.labels(), client.source.graphs)
        return len(self.hub.requests) - before


def check(selection):
    """Every number of a selection is in its range, and its report can be written."""
    assert np.isfinite(selection.scores).all()
    for model in selection.models:
        assert 0 <= model.cost.parameters < 1e101
        assert 0 <= model.cost.gflops < 1e101
        assert model.temperature > 0
    assert selection_report(selection)
    json.dumps(selection.to_json(), allow_nan=False)
