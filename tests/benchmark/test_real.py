"""The benchmark on real models: labels from published recall per class, and choices among them."""

from dataclasses import replace

import numpy as np
import pytest

from benchmark import real
from benchmark.recall_labels import labels_from_recalls
from known_models.figures import class_recalls, imagenet_synsets
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.matching.datasets import recognize
from mll_hf.models.published import published_graph
from selection_worlds import WordEncoder


@pytest.fixture(scope="module")
def world():
    index = ConceptIndex.build(published_graph(), WordEncoder())
    found = real.real_world(class_recalls(), index, "ensemble")
    return replace(
        found, tasks=tuple(task for task in found.tasks if task.dataset in ("cifar-10", "oxford-pets", "dtd"))
    )


def test_recall_per_class_agrees_with_published_accuracy():
    recalls = class_recalls()
    assert recalls.values.shape == (21, 3, len(recalls.classes))
    assert len(set(recalls.datasets)) == 16
    classes, values = recalls.of("imagenet-1k")
    assert (classes[0], len(classes), values.shape) == ("tench", 1000, (21, 1000))
    for model, accuracy in zip(recalls.models, values.mean(axis=1), strict=True):
        assert accuracy == pytest.approx(model.imagenet, abs=0.0004), model.name
    # 50 images a class: hits are whole numbers after rounding to 16 bits
    assert np.abs(50 * values - np.rint(50 * values)).max() < 1e-3
    with pytest.raises(KeyError, match="'unheard-of'"):
        recalls.of("unheard-of")


def test_labels_have_the_published_recall():
    recalls, graph = class_recalls(), published_graph()
    leaves = np.array([graph.index[id] for id in imagenet_synsets()["imagenet-1k"]])
    for m, label in enumerate(labels_from_recalls(recalls, "ensemble")):
        photo, sketch, rendition = label.domain_support[:, leaves]
        assert (set(photo.tolist()), set(sketch.tolist()), set(rendition.tolist())) == ({50}, {51}, {0, 150})
        for s, dataset in ((0, "imagenet-1k"), (1, "imagenet-sketch")):
            recall = label.domain_hits[s, leaves] / label.domain_support[s, leaves]
            assert recall == pytest.approx(recalls.of(dataset)[1][m], abs=0.011)
        assert label.ranks[:, 5:].sum() == 0  # images that are not recognized are spread over four bins
        assert label.domain_ranks.sum() >= label.ranks.sum()
        assert label.support[graph.index["n00001740"]] <= 60_000


def test_outcomes_are_within_what_the_hub_can_reach(world):
    hub = np.arange(len(world.labels))
    for task in world.tasks:
        assert recognize(task.match.classes) is None  # figures published on the dataset would decide, not labels
        found = real.outcome(world, task, hub)
        best = max(found.truth)
        assert found.accuracy["best per data set"] == best
        for method in ("ImageNet-best", "general", "mll, k=1", "paper, one model"):
            assert np.isclose(found.accuracy[method], found.truth).any()
        for method in ("paper, k=1", "paper, k=3", "mll, k=3"):
            assert found.accuracy[method] <= task.recall.max(axis=0).mean()
        assert len(found.estimates) == len(hub)
        assert found.estimated == pytest.approx(found.estimates.max())
