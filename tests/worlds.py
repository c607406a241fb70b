"""A world small enough to check by hand: seven concepts, images whose color encodes what they show, and a model.

    animal        vehicle
    /    \\           |
  dog    pet        car
    \\   /  \\
    corgi   cat

Concepts are indexed in the order of their ids: animal 0, car 1, cat 2, corgi 3, dog 4, pet 5, vehicle 6.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from mll_hf.errors import ModelError
from mll_hf.graph.concepts import Concept, SemanticGraph, graph_to_bytes
from mll_hf.graph.probe_counts import ProbeCounts
from mll_hf.graph.probes import IMAGES_PER_CONCEPT, ProbeSet
from mll_hf.labels.counts import NO_RIVAL, RANK_BINS, RIVALS
from mll_hf.labels.label import Cost, Environment, Label, ModelRef, Rivals
from mll_hf.models.known import known_models

ANIMAL, CAR, CAT, CORGI, DOG, PET, VEHICLE = range(7)
HYPERNYMS = {
    "animal": (),
    "car": ("vehicle",),
    "cat": ("pet",),
    "corgi": ("dog", "pet"),
    "dog": ("animal",),
    "pet": ("animal",),
    "vehicle": (),
}
SHA = "0123456789abcdef0123456789abcdef01234567"
ENVIRONMENT = Environment("cpu", "float32", "2.13.0", "3.3.0", "5.24.0")

# For scripts in separate processes. On Linux, a new process inherits its parent's peak, except in VmHWM.
PEAK_MEMORY = """
def peak_memory():
    import pathlib, resource, sys
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
"""

examples = settings(max_examples=20, deadline=None, database=None, derandomize=True)


def make_known(name, accuracy, parameters=10**8, gflops=9.0):
    """OpenAI's ResNet-50 in the repository ``name``."""
    first = next(model for model in known_models() if model.name == "RN50/openai")
    return replace(first, hub_id=name, parameters=parameters, image_gflops=gflops, imagenet=accuracy)


def make_graph(hypernyms=HYPERNYMS, name="tiny"):
    """A graph from {id: ids of its hypernyms}; a concept's name is its id."""
    return SemanticGraph(name, tuple(Concept(c, (c,), f"the kind {c}", tuple(h)) for c, h in hypernyms.items()))


@st.composite
def dags(draw, max_size=9):
    """{id: hypernyms}, in an order of ids that is independent of the edges."""
    count = draw(st.integers(1, max_size))
    ids = draw(st.permutations([f"c{i}" for i in range(count)]))
    return {ids[i]: draw(st.lists(st.sampled_from(ids[:i]), max_size=3) if i else st.just([])) for i in range(count)}


def naive_ancestors(hypernyms, concept):
    """Ids of all ancestors of a concept, by following every path."""
    above = set(hypernyms[concept])
    for parent in hypernyms[concept]:
        above |= naive_ancestors(hypernyms, parent)
    return above


@dataclass(frozen=True)
class Probe:
    """One row of images.parquet: filed under `node`, looking like concept number `looks` to `FakeModel`."""

    node: str
    looks: int
    style: str | None = "photo"
    source: str | None = None
    content: bytes | None = None  # instead of a picture


def encoded(image, kind="PNG", **options):
    """The bytes of a picture."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def picture(looks, serial=0):
    """A PNG of one color that encodes what it looks like (red) and its serial number (green and blue)."""
    return encoded(Image.new("RGB", (4, 4), (looks, serial // 256, serial % 256)))


def write_pictures(folder, count=5, first=0):
    """A folder of different pictures."""
    folder.mkdir(parents=True)
    for n in range(count):
        (folder / f"{n}.png").write_bytes(picture(3, first + n))
    return folder


def probes_of_all(per_concept=3, style="photo"):
    """`per_concept` images filed under each concept without hyponyms, all looking like their concept."""
    return [Probe(node, looks, style) for looks, node in ((CAR, "car"), (CAT, "cat"), (CORGI, "corgi"))] * per_concept


def write_graph_folder(folder, probes=None, graph=None):
    """Write graph.json and images.parquet; image i has serial number i. Returns the folder."""
    probes = probes_of_all() if probes is None else probes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph.json").write_bytes(graph_to_bytes(graph or make_graph()))
    columns = {
        "image": pa.array([p.content or picture(p.looks, serial) for serial, p in enumerate(probes)], pa.binary()),
        "node": pa.array([p.node for p in probes], pa.string()),
        "style": pa.array([p.style for p in probes], pa.string()),
        "source": pa.array([p.source for p in probes], pa.string()),
    }
    pq.write_table(pa.table(columns), folder / "images.parquet")
    return folder


def probe_set(members, nodes, domains=None, domain_names=("photo",)):
    """A ProbeSet without files. members: for each concept the images that test it; nodes: concept of each image."""
    return ProbeSet(
        graph_location="none",
        counts=ProbeCounts("none", (), (), {}),
        images_per_concept=IMAGES_PER_CONCEPT,
        files=(),
        rows=np.arange(len(nodes)),
        nodes=np.array(nodes, np.int32),
        domains=np.array(domains if domains is not None else [0] * len(nodes), np.int16),
        domain_names=domain_names,
        offsets=np.cumsum([0, *map(len, members)]),
        members=np.array([image for images in members for image in sorted(images)], np.int64),
    )


def pools_of(graph, nodes):
    """For each concept the images that show it."""
    return [[x for x, node in enumerate(nodes) if v in (node, *graph.ancestors[node])] for v in range(len(graph))]


def unit(rows):
    """Rows scaled to unit norm, float32."""
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class FakeModel:
    """Embeds a concept's caption as itself plus its ancestors, one axis each, and a picture as what it looks like.

    Attributes:
        encoded: Serial numbers of all images encoded so far.
        batches_left: Number of batches before a KeyboardInterrupt; None for never.
        closed: Whether it was closed.
    """

    logit_scale, logit_bias, cost = 100.0, 0.0, Cost(parameters=7, gflops=0.5)
    device, dtype, batch_size = "cpu", "float32", 128

    def __init__(self, graph, ref, batches_left=None):
        self.ref, self.embedding_size = ref, len(graph)
        self.encoded, self.batches_left, self.closed = [], batches_left, False
        self._captions = {concept.caption: v for v, concept in enumerate(graph.concepts)}
        axes = np.eye(len(graph))
        self._embeddings = unit([axes[v] + axes[graph.ancestors[v]].sum(0) for v in range(len(graph))])

    def preprocess(self, image):
        import torch

        return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1).copy())

    def encode_pixels(self, pixels):
        if self.batches_left == 0:
            raise KeyboardInterrupt
        self.batches_left = None if self.batches_left is None else self.batches_left - 1
        looks, high, low = pixels[:, :, 0, 0].numpy().astype(int).T
        self.encoded.extend((high * 256 + low).tolist())
        return self._embeddings[looks]

    def encode_texts(self, texts):
        return self._embeddings[[self._captions[text] for text in texts]]

    def close(self):
        self.closed = True


def make_label(graph, hits=None, support=10, *, repo_id="org/model", domain_hits=None, domain_support=None,
               domain_names=("photo",), temperature=1.0, cost=FakeModel.cost, revision=SHA, **fields):  # fmt: skip
    """A valid label from counts made by hand.

    Args:
        graph: Its V concepts.
        hits: [V] contests won, default: all; or give `domain_hits` [S, V].
        support: [V] or one number for all; or give `domain_support` [S, V].
        repo_id: Id of the model.
        domain_hits: [S, V]; by default all `hits` are in the first domain.
        domain_support: [S, V], likewise.
        domain_names: The S domains.
        temperature: The model's.
        cost: The model's.
        revision: The model's.
        fields: Any other field of Label.
    """
    n_concepts, n_domains = len(graph), len(domain_names)
    support = np.broadcast_to(np.asarray(support, np.int32), n_concepts)
    hits = support if hits is None else np.asarray(hits, np.int32)
    first = np.eye(n_domains, 1, dtype=np.uint16)
    domain_hits = first * hits.astype(np.uint16) if domain_hits is None else np.asarray(domain_hits, np.uint16)
    domain_support = (
        first * support.astype(np.uint16) if domain_support is None else np.asarray(domain_support, np.uint16)
    )
    hits, support = domain_hits.sum(0).astype(np.int32), domain_support.sum(0).astype(np.int32)
    ranks = np.zeros((n_concepts, RANK_BINS), np.uint16)
    ranks[:, 0], ranks[:, 1] = hits, support - hits  # in every lost contest, one concept beats the right one
    domain_ranks = np.zeros((n_domains, RANK_BINS), np.int32)
    domain_ranks[:, 0] = domain_hits.sum(1)
    domain_ranks[:, 1] = domain_support.sum(1) - domain_hits.sum(1)
    label = Label(
        model=ModelRef(repo_id, revision, "open_clip"),
        cost=cost,
        graph_name=graph.name,
        graph_digest=graph.digest,
        graph_location="",
        probes_digest=SHA,
        probes_location="",
        images_per_concept=max(IMAGES_PER_CONCEPT, int(support.max())),
        domain_names=tuple(domain_names),
        package_version="0.0",
        environment=ENVIRONMENT,
        license="mit",
        domain_hits=domain_hits,
        domain_support=domain_support,
        ranks=ranks,
        domain_ranks=domain_ranks,
        temperature=np.array([temperature], np.float32),
    )
    return replace(label, **fields)


def make_rivals(label, rivals=None):
    """Rivals of a label: {v: {u: wins}}, most wins first; by default, every loss is to the next concept."""
    n_concepts, losses = len(label.ranks), label.ranks[:, 1:].sum(axis=1)
    if rivals is None:
        rivals = {v: {(v + 1) % n_concepts: lost} for v, lost in enumerate(losses.tolist()) if lost}
    indices, wins = np.full((n_concepts, RIVALS), NO_RIVAL, np.uint16), np.zeros((n_concepts, RIVALS), np.uint16)
    for v, of_v in rivals.items():
        indices[v, : len(of_v)], wins[v, : len(of_v)] = list(of_v), list(of_v.values())
    return Rivals(indices, wins)


def know_only(monkeypatch, models):
    """Replace all known models by these."""
    monkeypatch.setattr("mll_hf.models.known.known_models", lambda: tuple(models))


COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColorModel:
    """Sees the mean color of an image and reads color words; keeps a diary of what is done with it."""

    logit_bias, batch_size, embedding_size = 0.0, 64, 3

    def __init__(self, ref, diary, has_texts=True, scale=10.0, fails=False):
        self.has_texts = has_texts
        self.ref, self.diary, self.logit_scale, self.fails = ref, diary, scale, fails
        diary.append(("load", ref.short_name))

    def preprocess(self, image):
        import torch

        assert image.mode == "RGB"
        return torch.from_numpy(np.asarray(image, np.float32).mean(axis=(0, 1)) + 1)

    def encode_pixels(self, pixels):
        if self.fails:
            raise ModelError(self.ref.repo_id, "is broken")
        return (pixels / pixels.norm(dim=1, keepdim=True)).numpy()

    def encode_texts(self, texts):
        assert self.has_texts
        self.diary.append(("texts", self.ref.short_name, tuple(texts)))
        rows = [next((c for word, c in COLORS.items() if word in text), (1, 1, 1)) for text in texts]
        rows = np.array(rows, np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def close(self):
        self.diary.append(("close", self.ref.short_name))
