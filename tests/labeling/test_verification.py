"""Verification: honest labels agree with a new measurement, others do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mll_hf.errors import InputError, LabelError
from mll_hf.graph.probes import load_probes
from mll_hf.labeling.run import Plan, label_model
from mll_hf.labeling.verification import Verification, verify_label
from mll_hf.labels.label import ModelRef
from mll_hf.labels.store import LabelStore
from worlds import SHA, FakeModel, Probe, make_graph, make_label, write_graph_folder

REF = ModelRef("org/model", SHA, "open_clip")
N_LEAVES = 40


@pytest.fixture
def world(tmp_path, monkeypatch):
    """40 concepts below two others, 10 images each; the model takes every fourth for the next one."""
    graph = make_graph({"a": (), "b": (), **{f"c{n:02}": ("ab"[n % 2],) for n in range(N_LEAVES)}})
    looks = {v: v + 1 if v % 4 == 0 and v + 1 < len(graph) else v for v in range(2, len(graph))}
    probes = [Probe(graph.concepts[v].id, seen) for v, seen in looks.items()] * 10
    folder = write_graph_folder(tmp_path / "graph", probes, graph)
    models = []

    def load(ref, device=None):
        models.append(FakeModel(graph, ref))
        return models[-1]

    for module in ("run", "verification"):
        monkeypatch.setattr(f"mll_hf.labeling.{module}.load_model", load)
    probes = load_probes(graph, folder)
    label = label_model(REF, Plan(graph, probes, LabelStore(tmp_path / "labels"), batch_size=16)).label
    return graph, probes, label, models


def test_an_honest_label_agrees(world):
    graph, probes, label, models = world
    result = verify_label(label, graph, probes, 36, seed=5)
    assert 0 < label.mean_recall < 1
    claimed, measured, moved, support = result.counts.T
    np.testing.assert_array_equal(claimed, label.hits[result.concepts])
    np.testing.assert_array_equal(claimed, measured)
    np.testing.assert_array_equal(support, label.support[result.concepts])
    assert not moved.any()
    assert len(result.concepts) == 36
    assert models[-1].closed
    assert len(models[-1].encoded) == len({int(image) for v in result.concepts for image in probes.images_of(v)})
    said = result.to_json()
    assert (said["verdict"], said["concepts"], said["agreeing"], said["seed"]) == ("agrees", 36, 36, 5)
    assert said["claimed_recall"] == said["measured_recall"] == pytest.approx((claimed / support).mean())


def test_a_label_that_boasts_disagrees(world):
    graph, probes, label, _ = world
    perfect = make_label(graph, support=label.support, probes_digest=probes.digest)
    result = verify_label(perfect, graph, probes, 42, seed=0)
    claimed, measured = result.recalls
    assert claimed == 1
    assert measured < 0.9
    assert result.agreeing < 42
    assert result.verdict != "agrees"


def test_other_images_or_graphs_are_no_check(world):
    graph, probes, label, _ = world
    with pytest.raises(InputError, match="give its images with --images"):
        verify_label(replace(label, probes_digest="f" * 40), graph, probes, 36, seed=0)
    with pytest.raises(InputError, match="give its images with --images"):
        verify_label(replace(label, images_per_concept=11), graph, probes, 36, seed=0)
    with pytest.raises(LabelError, match="give the graph that it was measured on"):
        verify_label(replace(label, graph_digest="f" * 64), graph, probes, 36, seed=0)
    empty = make_label(graph, support=0, probes_digest=probes.digest)
    with pytest.raises(LabelError, match="was not measured on the probe images that it names"):
        verify_label(empty, graph, probes, 36, seed=0)


def verification_of(gaps, support=100, moved=None):
    moved = np.abs(gaps) if moved is None else moved
    counts = np.array([[50, 50 + gap, each, support] for gap, each in zip(gaps, moved, strict=True)])
    return Verification(REF, np.arange(len(gaps)), counts, 0)


def test_rounding_is_forgiven_and_more_is_not():
    assert verification_of([5, -5, 0]).agreeing == 3
    assert verification_of([6, -6, 0]).agreeing == 1
    assert verification_of([1, 2], support=10).agreeing == 1
    assert verification_of([0, 0, 0], moved=[0, 10, 11]).agreeing == 2
    assert verification_of([0, 0], support=5, moved=[1, 2]).agreeing == 1


def test_a_label_that_boasts_of_ranks_alone_disagrees(world):
    graph, probes, label, _ = world
    lost = label.ranks[:, 1:].sum(axis=1)
    ranks = np.zeros_like(label.ranks)
    ranks[:, 0], ranks[:, 4] = label.ranks[:, 0], lost  # as many hits, other misses
    result = verify_label(replace(label, ranks=ranks), graph, probes, 42, seed=0)
    claimed, measured, moved, _ = result.counts.T
    np.testing.assert_array_equal(claimed, measured)
    np.testing.assert_array_equal(moved, lost[result.concepts])
    assert result.agreeing < 42


@pytest.mark.parametrize(
    ("wrong", "total", "verdict"),
    [(0, 35, "agrees"), (0, 34, "undecided"), (1, 60, "agrees"), (9, 50, "undecided"), (10, 50, "disagrees")],
)
def test_verdicts(wrong, total, verdict):
    assert verification_of([20] * wrong + [0] * (total - wrong)).verdict == verdict
