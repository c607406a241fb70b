"""The matching benchmark: its parts by hand, and minimum figures on a sample of ImageNet's names."""

import numpy as np
import pytest

from benchmark.matching_benchmark import (
    Gold,
    detection,
    imagenet_gold,
    leave_concepts_out,
    top_accuracy,
    without,
)
from mll_hf.matching.concept_index import COVERED, ConceptIndex
from mll_hf.matching.describe import Description
from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder


@pytest.fixture(scope="module")
def gold():
    return imagenet_gold()


@pytest.fixture(scope="module")
def sample(gold):
    """80 of the names, with their concepts, others of the same name, and 100 at random."""
    rng = np.random.default_rng(1)
    classes = rng.choice(len(gold.names), 80, replace=False)
    rivals = {v for y in classes for v in gold.graph.concepts_named(gold.names[y])}
    kept = rivals | set(gold.concepts[classes].tolist()) | set(rng.choice(len(gold.graph), 100, replace=False).tolist())
    graph = without(gold.graph, set(range(len(gold.graph))) - kept)
    ids = [gold.graph.concepts[v].id for v in gold.concepts[classes]]
    return Gold(graph, tuple(gold.names[y] for y in classes), np.array([graph.index[id] for id in ids]))


def test_minimum_figures(sample, tmp_path):
    encoder = CachedEncoder(DefaultEncoder(), tmp_path / "embeddings.sqlite")
    index = ConceptIndex.build(sample.graph, encoder)
    bare = tuple(Description(name, (name,), "file") for name in sample.names)
    ours, paper = index.match(sample.describe()), index.match_captions(bare)
    assert top_accuracy(ours, sample.concepts, 1) >= 0.88  # measured .90
    assert top_accuracy(ours, sample.concepts, 5) >= 0.97  # measured 1
    assert top_accuracy(ours, sample.concepts, 1) > top_accuracy(paper, sample.concepts, 1)
    facts = detection(*leave_concepts_out(sample, encoder)[:2], COVERED)
    assert facts.recall >= 0.85  # measured .875
    assert facts.auc >= 0.88  # measured .92
