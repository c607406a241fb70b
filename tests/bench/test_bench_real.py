"""The benchmark on real models: labels from published recall per class, and choices among them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmark import real
from mll_hf.errors import InputError
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.models.known import class_recalls
from mll_hf.models.published import published_graph
from mll_hf.selection import Candidates
from mll_hf.selection.mll import best_by_mean_recall
from selection_worlds import WordEncoder


@pytest.fixture(scope="module")
def recalls():
    return class_recalls()


@pytest.fixture(scope="module")
def graph():
    return published_graph()


@pytest.fixture(scope="module")
def world(recalls, graph):
    index = ConceptIndex.build(graph, WordEncoder())
    found = real.real_world(recalls, index, "ensemble")
    return replace(
        found, tasks=tuple(task for task in found.tasks if task.dataset in ("cifar-10", "oxford-pets", "dtd"))
    )


def test_outcomes_are_within_what_the_hub_can_reach(world):
    hub = np.arange(len(world.labels))
    for task in world.tasks:
        found = real.outcome(world, task, hub)
        best = max(found.truth)
        assert found.accuracy["best per data set"] == best
        for method in ("ImageNet-best", "general", "mll, k=1", "paper, one model"):
            assert np.isclose(found.accuracy[method], found.truth).any()
        for method in ("paper, k=1", "paper, k=3", "mll, k=3"):
            assert found.accuracy[method] <= task.recall.max(axis=0).mean()
        assert found.by_class["general"].mean() == pytest.approx(found.accuracy["general"])
        assert len(found.estimates) == len(hub)
        assert found.estimated == pytest.approx(found.estimates.max())


def test_synsets_of_classes_are_concepts_of_imagenet(recalls):
    synsets = real.class_synsets()
    classes = set(zip(recalls.datasets, recalls.classes, strict=True))
    assert synsets.keys() <= classes
    assert synsets["cifar-100", "keyboard"] == synsets["caltech-256", "computer-keyboard"]  # not of a piano
    assert synsets["cifar-10", "cat"] == "n02121620"
    assert ("cifar-100", "mouse") not in synsets  # ImageNet's is that of a computer


def test_the_choice_per_class_stays_with_the_generally_best_model_unless_another_surely_leads(world):
    labels = world.labels.subset(range(5))
    for task in world.tasks:
        candidates = Candidates(labels, task.match, task.domain)
        chosen = real.best_per_class(candidates)
        best = best_by_mean_recall(labels.reference)
        nothing = replace(
            candidates, match=replace(task.match, coverage=np.zeros(len(chosen), np.float32)), domain=None
        )
        assert (real.best_per_class(nothing) == best).all()
        assert ((chosen >= 0) & (chosen < 5)).all()


def test_a_hub_of_one_model_leaves_no_choice(world):
    found = real.outcome(world, world.tasks[0], np.array([7]))
    assert {round(value, 9) for value in found.accuracy.values()} == {round(float(world.tasks[0].accuracy[7]), 9)}


def test_hubs_are_within_their_caps_and_drawn_again_alike():
    gflops, strong = np.arange(0.0, 300, 10), np.arange(12, 30)
    hubs = real.hubs_of(gflops, {"strong": strong}, draws=3)
    assert [len(hubs[f"at most {cap} GFLOPs"][0]) for cap in real.CAPS] == [21, 11, 3]
    assert len(hubs["5 at random of all"]) == 3
    assert all(len(hub) == 10 and set(hub) <= set(strong) for hub in hubs["10 at random of strong"])
    again, others = (real.hubs_of(gflops, {"strong": strong}, 3, seed) for seed in (0, 1))
    np.testing.assert_array_equal(hubs["5 at random of all"], again["5 at random of all"])
    assert not np.array_equal(hubs["5 at random of all"], others["5 at random of all"])
    assert not any(name.startswith("at most") for name in real.hubs_of(gflops + 1000, {}, 1))


def test_tables(world):
    results = real.run_real(world, draws=2)
    report = real.real_report([results], {"command": "x"})
    tables = {table.name: table for table in report.tables}
    choice = tables["choice_ensemble"]
    assert (np.array(choice.column("general")) <= np.array(choice.column("best per data set")) + 1e-12).all()
    estimates = tables["estimates_ensemble"]
    assert estimates.column("data set") == [*(task.dataset for task in world.tasks), "mean error", "bias"]
    truth, guess = (np.array(estimates.column(name)[:3]) for name in ("accuracy", "ImageNet"))
    assert estimates.column("ImageNet")[3:] == pytest.approx([np.abs(guess - truth).mean(), (guess - truth).mean()])
    assert sum(tables["quality_ensemble"].column("classes")[:5]) >= sum(len(t.match.classes) for t in world.tasks)
    measured = tables["measured_ensemble"]
    assert set(measured.column("classes")) == {sum(int(task.measured.sum()) for task in world.tasks)}
    assert set(measured.column("on")) <= {task.dataset for task in world.tasks if task.measured.any()}
    pooled = np.array([interval.estimate for interval in measured.column("difference")])
    assert (np.array(measured.column("worst")) <= pooled + 1e-8).all()
    assert tables["hubs_open_clip"].column("models")[0] == 121
    assert all(regret >= 0 for regret in tables["hubs_mteb"].column("regret"))
    assert report.to_markdown().count("\n## ") == len(tables)
    assert json.loads(report.to_json())["tables"].keys() == tables.keys()


def test_modelgpt_is_compared_on_what_both_tables_have(world, tmp_path):
    rng = np.random.default_rng(0)
    models = ["ViT-B-32 laion2b_s34b_b79k", "ViT-L-14 laion400m_e32", "ViT-H-14 laion2b_s32b_b79k", "other weights"]
    lines = [
        [model, dataset, f"{rng.random():.3f}", *(f"{value:.3f}" for value in rng.random(7))]
        for model in models
        for dataset in ("dtd", "pets", "mnist", "cars", "sun397", "eurosat", "stl10")
    ]
    header = ["model_fullname", "dataset", "acc1", *real.FEATURES]
    text = "\n".join(",".join(row) for row in [header, *lines])
    for name in (real.EVALUATION_FILE, real.FEATURES_FILE):
        (tmp_path / name).write_text(text)
    table = real.modelgpt_table(real.RealResults(world, {}), tmp_path)
    assert "3 models" in table.title
    assert table.column("data set") == ["dtd", "oxford-pets", "mean"]
    assert all(a <= b + 1e-12 for a, b in zip(table.column("ModelGPT"), table.column("best per data set"), strict=True))
    with pytest.raises(InputError, match="cannot be read"):
        real.modelgpt_table(real.RealResults(world, {}), tmp_path / "missing")
