"""The benchmark on real models: labels from published recall per class, and choices among them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mll_hf.bench import real
from mll_hf.errors import InputError
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.models.known import class_recalls
from mll_hf.models.published import published_graph
from mll_hf.selection import Candidates
from mll_hf.selection.mll import generally_best
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
    hub = list(range(len(world.labels)))
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
    labels = world.labels.take(range(5))
    for task in world.tasks:
        candidates = Candidates(labels, task.match, task.domain)
        chosen = real.best_per_class(candidates)
        best = generally_best(labels.reference)
        nothing = replace(
            candidates, match=replace(task.match, coverage=np.zeros(len(chosen), np.float32)), domain=None
        )
        assert (real.best_per_class(nothing) == best).all()
        assert ((chosen >= 0) & (chosen < 5)).all()


def test_a_hub_of_one_model_leaves_no_choice(world):
    found = real.outcome(world, world.tasks[0], [7])
    assert {round(value, 9) for value in found.accuracy.values()} == {round(float(world.tasks[0].accuracy[7]), 9)}


def test_hubs_are_within_their_caps_and_drawn_again_alike(world):
    hubs = real.hubs_of(world, draws=3)
    gflops = [label.cost.gflops for label in world.labels.reference]
    for cap in real.CAPS:
        assert all(gflops[m] <= cap for m in hubs[f"at most {cap} GFLOPs"][0])
    assert len(hubs["5 at random of all"]) == 3
    assert all(
        (world.benchmark[hub] > real.STRONG).all() for hub in hubs[f"10 at random of ImageNet over {real.STRONG}"]
    )
    assert real.hubs_of(world, draws=3) == hubs
    assert real.hubs_of(world, draws=3, seed=1) != hubs


def test_tables(world):
    results = real.run_real(world, draws=2)
    tables = {table.name: table for table in real.real_tables([results])}
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
    text = real.report_to_markdown(tuple(tables.values()), {"command": "x"})
    assert text.count("\n## ") == len(tables)
    assert json.loads(real.report_to_json(tuple(tables.values()), {}))["tables"].keys() == tables.keys()


@pytest.mark.parametrize("value", [1.2, -0.1, np.nan])
def test_recall_outside_0_to_1_is_refused(recalls, value):
    values = recalls.values.copy()
    values[0, 0, 0] = value
    with pytest.raises(InputError, match="outside 0 to 1"):
        real.check_recalls(replace(recalls, values=values))


def test_a_table_with_a_class_twice_or_without_imagenet_is_refused(recalls):
    twice = replace(recalls, classes=(recalls.classes[1], *recalls.classes[1:]))
    with pytest.raises(InputError, match="twice"):
        real.check_recalls(twice)
    others = [at for at, name in enumerate(recalls.datasets) if name != "imagenet-r"]
    less = replace(
        recalls,
        datasets=tuple(recalls.datasets[at] for at in others),
        classes=tuple(recalls.classes[at] for at in others),
        values=recalls.values[:, :, others],
    )
    with pytest.raises(InputError, match="imagenet-r"):
        real.check_recalls(less)


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
