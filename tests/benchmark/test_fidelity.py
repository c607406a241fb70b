"""What small labels lose, on embeddings that are made up."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from benchmark.cache import ModelFacts, ProbeImages
from benchmark.fidelity import (
    KnownTask,
    LabeledHub,
    estimates_against_exact,
    fidelity_report,
    quality_of_samples,
)
from mll_hf.labeling.contest import Contest
from mll_hf.labels.embeddings import ProbeEmbeddings
from mll_hf.labels.label import Cost, ModelRef
from mll_hf.matching.concept_index import ClassMatch
from selection_worlds import forest
from worlds import probe_set, unit

GRAPH = forest(16)
PER_CONCEPT, SIZE = 6, 16
LEAVES = [v for v in range(len(GRAPH)) if not len(GRAPH.descendants[v])]
REFS = tuple(ModelRef(f"org/m{m}", str(m) * 40, "open_clip") for m in range(4))


def probes_of(per_concept):
    """The first images of each leaf; numbers of the whole set are kept as rows."""
    rows = [leaf * PER_CONCEPT + n for leaf in range(len(LEAVES)) for n in range(per_concept)]
    nodes = [LEAVES[row // PER_CONCEPT] for row in rows]
    members = [
        [i for i, node in enumerate(nodes) if v == node or v in GRAPH.ancestors[node]] for v in range(len(GRAPH))
    ]
    return replace(probe_set(members, nodes), rows=np.array(rows))


class FakeCache:
    """Embeddings of models that are noisier and noisier."""

    def texts(self, ref, texts):
        return unit(np.random.default_rng(99).standard_normal((len(texts), SIZE))).astype(np.float32)

    def images(self, ref, data):
        assert isinstance(data, ProbeImages)
        captions = self.texts(ref, GRAPH.concepts)
        noise = np.random.default_rng(int(ref.revision[0])).standard_normal((len(data), SIZE))
        return unit(captions[data.probes.nodes] + 0.25 * (1 + int(ref.revision[0])) * noise).astype(np.float32)

    def facts(self, ref):
        return ModelFacts(10.0, 0.0, Cost(7, 0.5))


def make_match(concepts):
    concepts = np.array(concepts)
    weights = np.full(concepts.shape, 0.5, np.float32)
    names = tuple(f"class {y}" for y in range(len(concepts)))
    return ClassMatch(names, concepts, weights, weights, np.ones(len(concepts), np.float32), "fake")


@pytest.fixture
def hub():
    return LabeledHub(REFS, GRAPH, probes_of(PER_CONCEPT), FakeCache())


@pytest.fixture
def task():
    match = make_match([[LEAVES[0], LEAVES[1]], [LEAVES[2], LEAVES[3]]])
    return KnownTask(None, match, match, "task", np.array([0.9, 0.6, 0.5, 0.1]))


def test_labels_of_a_sample_are_counted_on_its_images_alone(hub):
    sample = probes_of(2)
    captions = hub.cache.texts(REFS[1], GRAPH.concepts)
    images = hub.cache.images(REFS[1], ProbeImages(hub.probes))
    own = np.stack([images[row] for row in sample.rows])
    expected = Contest(GRAPH, sample, captions, 10.0).count([(0, own)])
    label, _ = hub.labels(sample)[1]
    np.testing.assert_array_equal(label.ranks, expected.ranks)
    assert label.support[LEAVES[0]] == 2
    assert label.model == REFS[1]


def test_estimates_are_compared_with_equation_five(hub, task):
    labels = hub.labels(hub.probes)
    (quality,) = estimates_against_exact(hub, labels, [task]).rows
    selected = task.caption_match.selected
    exact, estimated = [], []
    for ref, (label, rivals) in zip(REFS, labels, strict=True):
        captions = hub.cache.texts(ref, GRAPH.concepts)
        sidecar = ProbeEmbeddings.quantize(hub.cache.images(ref, ProbeImages(hub.probes)), captions, hub.probes)
        exact.append(sidecar.restricted_precision(selected))
        wins = [
            max((w for u, w in zip(rivals.rivals[v], rivals.wins[v], strict=True) if u in selected), default=0)
            for v in selected
        ]
        among = label.recall_among(len(selected), selected, GRAPH.rival_counts)
        estimated.append(np.minimum(among, 1 - np.array(wins) / label.support[selected]))
    exact, estimated = np.array(exact), np.array(estimated)
    assert quality["concepts"] == 4
    assert quality["error"] == pytest.approx(np.abs(exact - estimated).mean())
    assert quality["bias"] == pytest.approx((estimated - exact).mean())
    pairs = [(a, b) for a, b in zip(estimated, exact, strict=True)]
    r = [np.corrcoef(a, b)[0, 1] if np.ptp(a) and np.ptp(b) else 0 for a, b in pairs]
    assert quality["correlation"] == pytest.approx(np.mean(r))
    assert quality["accuracy_exact"] == task.accuracies[(exact @ task.match.transition).mean(axis=1).argmax()]


def test_all_images_lose_nothing_and_few_lose_something(hub, task):
    samples = {1: probes_of(1), 3: probes_of(3), PER_CONCEPT: hub.probes}
    one, three, whole = quality_of_samples(hub, samples, [task]).rows
    assert [row["images"] for row in (one, three, whole)] == [n * len(LEAVES) for n in (1, 3, PER_CONCEPT)]
    assert [whole["general_correlation"], whole["score_correlation"]] == pytest.approx([1, 1])
    assert whole["accuracy"] == 0.9
    assert one["general_correlation"] <= 1


def test_report(hub, task):
    report = fidelity_report(hub, {2: probes_of(2)}, [task], "python scripts/run_benchmark.py fidelity")
    text = report.to_markdown()
    assert "| task | concepts | correlation | error | bias | model correlation | accuracy exact |" in text
    assert re.search(r"\| task \| 4( \| -?\d\.\d{3}){6} \|\n", text)
    assert "- command: python scripts/run_benchmark.py fidelity\n" in text
    tables = json.loads(report.to_json())["tables"]
    assert tables["estimates"][0]["task"] == "task"
    assert tables["samples"][0]["images_per_concept"] == 2
