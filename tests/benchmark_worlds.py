"""A benchmark without pictures: models whose embeddings are made up, each good at some tasks."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
from PIL import Image

from benchmark import cache as cache_module
from benchmark import run as bench
from benchmark.cache import EmbeddingCache
from benchmark.methods import METHODS, Group
from benchmark.suites import make_task
from benchmark.world import Hub, flat, prompts_of
from mll_hf.labels.label import Cost
from mll_hf.matching.concept_index import ConceptIndex
from selection_worlds import WordEncoder, forest, join_by_hand, random_labels
from worlds import encoded, make_rivals, unit

N_MODELS, N_IMAGES, SIZE = 6, 48, 24
TASKS = {
    "first": ("name1x0", "name2x0", "name3x0"),
    "second": ("crane", "drill", "heron", "winch"),
    "third": ("a", "b"),
}
LABEL_FREE = tuple(m for m in METHODS if m.sample is None and m.group is not Group.HINDSIGHT and m.name != "random")


def picture(task, label, serial):
    """A pixel that says task, class and which image it is; the class of -1 cannot be decoded."""
    if label < 0:
        return b"no picture"
    return encoded(Image.new("RGB", (1, 1), (task, label, serial)))


def tasks(broken=0):
    """Three tasks; the first `broken` images of each cannot be decoded."""
    made = []
    for t, (name, classes) in enumerate(TASKS.items()):
        labels = np.random.default_rng(t).integers(0, len(classes), N_IMAGES)
        images = [picture(t, -1 if n < broken else int(y), n) for n, y in enumerate(labels)]
        made.append(make_task(name, classes, labels, tuple(images), domain="photo", task="object recognition"))
    return tuple(made)


class FakeModel:
    """Knows task t with a skill of its own: so often an image lies near its class's prompt, otherwise near another."""

    logit_bias, cost, embedding_size = 0.0, Cost(7, 0.5), SIZE

    def __init__(self, ref):
        self.ref, self.seed = ref, zlib.crc32(ref.repo_id.encode())
        self.device = "cpu"
        rng = np.random.default_rng(self.seed)
        self.logit_scale, self.skills = float(rng.uniform(2, 12)), rng.uniform(0.1, 0.9, len(TASKS))

    def encode_texts(self, texts):
        return unit([np.random.default_rng([self.seed, zlib.crc32(t.encode())]).standard_normal(SIZE) for t in texts])

    def preprocess(self, image):
        import torch

        return torch.from_numpy(np.asarray(image).astype(np.int64))

    def encode_pixels(self, pixels):
        return unit([self._embedding(*pixel) for pixel in pixels.numpy().reshape(-1, 3)])

    def _embedding(self, t, label, serial):
        rng = np.random.default_rng([self.seed, t, serial])
        classes = list(TASKS.values())[t]
        shown = label if rng.random() < self.skills[t] else rng.integers(len(classes))
        return self.encode_texts([f"a photo of a {classes[shown]}."])[0] + 0.1 * rng.standard_normal(SIZE)

    def close(self):
        pass


def make_hub(n_models=N_MODELS):
    """Labeled models of different costs."""
    graph = forest(12)
    labels = random_labels(graph, n_models)
    costs = [Cost(m + 1, 1.0 + m) for m in range(n_models)]
    labels = [replace(label, cost=cost) for label, cost in zip(labels, costs, strict=True)]
    return Hub(join_by_hand((graph, labels)).read_rivals(make_rivals))


def make_suite(n_models=N_MODELS, broken=0):
    """Two target tasks and a general one."""
    first, second, general = tasks(broken)
    return bench.Suite(make_hub(n_models), (first, second), general)


def make_index():
    """The concepts of the hub's graph."""
    return ConceptIndex.build(forest(12), WordEncoder())


def filled_cache(folder, monkeypatch, broken=0):
    """All embeddings."""
    monkeypatch.setattr(cache_module, "load_model", lambda ref, device: FakeModel(ref))
    cache = EmbeddingCache(folder)
    cache.fill(make_hub().refs, tasks(broken), [flat(prompts_of(task)) for task in tasks(broken)])
    return cache
