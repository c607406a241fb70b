"""Labels of real models, made from published recall per class."""

import numpy as np
import pytest

from mll_hf.models.known import class_recalls, usable_models
from mll_hf.models.published import (
    PublishedFigures,
    imagenet_synsets,
    labels_from_recalls,
    published_graph,
)


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


def test_synsets_are_those_of_the_classes():
    synsets, graph = imagenet_synsets(), published_graph()
    names = [graph.concepts[graph.index[id]].name for id in synsets["imagenet-1k"]]
    assert (names[0], names[207], names[-1]) == ("tench", "golden retriever", "toilet tissue")
    assert {dataset: len(set(ids)) for dataset, ids in synsets.items()} == {
        "imagenet-1k": 1000,
        "imagenet-sketch": 1000,
        "imagenet-r": 200,
    }


def test_only_models_that_can_be_loaded_are_in_the_source():
    source, usable = PublishedFigures(), {model.hub_id: model for model in usable_models()}
    listed = source.labels()
    assert len(listed) == len({label.model for label in listed}) >= 10
    for label in listed:
        assert (label.license, label.cost) == (usable[label.model.repo_id].license, usable[label.model.repo_id].cost)
    assert source.origin_of(listed[0]).location.startswith("published figures")
