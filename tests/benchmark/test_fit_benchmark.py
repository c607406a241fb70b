"""The benchmark of fits, on made-up embeddings whose text directions are only roughly those of the classes."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.adapters import gda, linear_probe, tip_adapter, transclip
from benchmark.fit_benchmark import Job
from benchmark.fit_data import SCALE, Data, unit
from benchmark.fit_tables import BALANCED, Results, tables
from mll_hf.selection import Head

N_CLASSES, N_IMAGES, N_EXAMPLES = 6, 300, 60


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(N_IMAGES) % N_CLASSES)
    images, heads = [], []
    for _ in range(2):
        centers = rng.normal(size=(N_CLASSES, 32))
        images.append(unit(centers[labels] + 0.8 * rng.normal(size=(N_IMAGES, 32))))
        heads.append(Head.zero_shot(unit(centers + 1.5 * rng.normal(size=centers.shape)), SCALE))
    return Data("WHU-RS19", images, [heads], labels, np.arange(N_IMAGES))


def accuracy(data, scores):
    return (scores.argmax(axis=1) == data.labels[-len(scores) :]).mean()


def test_no_adapter_is_worse_than_the_zero_shot_head(data):
    images, head = data.images[0], data.heads[0][0]
    seen, scored, classes = images[:200], images[200:], data.labels[:N_EXAMPLES]
    zero_shot = accuracy(data, head.logits(scored))
    assert accuracy(data, gda(seen, classes, head, scored)) > zero_shot
    assert accuracy(data, linear_probe(images[:N_EXAMPLES], classes, N_CLASSES, scored)) > zero_shot
    assert accuracy(data, tip_adapter(images[:N_EXAMPLES], classes, head, scored)) >= zero_shot
    assert accuracy(data, transclip(images, head)) > accuracy(data, head.logits(images))


def test_images_that_are_scored_are_not_used_to_fit(data):
    for way, _, _, seen, scored in Job(data, "together", [(0, 1)], 1).draws(0):
        shared = np.intersect1d(seen, scored)
        assert len(shared) == 0 or way.endswith("same images")


def test_tables_have_means_the_worst_model_and_targets(data):
    results = Results()
    results.runs.update(Job(data, "together", [(0, 1)], 1, ((256, 0), (206, 50)), ways=()).measured())
    case = (data.name, "together", BALANCED, "256 + 0")
    assert results.mean(case, "fitted") > results.mean(case, "zero-shot")
    gain = results.mean(case, "fitted") - results.mean(case, "zero-shot")
    assert results.gains(case)[:, 0].mean() == pytest.approx(gain)
    assert "| balanced | 256 + 0 |" in tables(results)[0].to_markdown()
    assert results.mean((*case[:3], "206 + 50"), "error") < 0.1
