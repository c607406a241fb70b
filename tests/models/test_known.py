"""Known models and published figures: against the paper, against open_clip, and against the tables they come from."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.pretrained import get_pretrained_cfg

from mll_hf.labels.label import Cost
from mll_hf.models import known
from mll_hf.models.known import (
    accuracies,
    best_paper_models,
    class_recalls,
    known_datasets,
    known_model,
    known_models,
    paper_models,
    usable_models,
)
from mll_hf.models.torch_model import count_flops

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(known.__file__).parent / "data"
TABLES = Path(os.environ.get("MLL_TESTBED", ROOT.parent / "shared" / "testbed")) / "published"
OPEN_CLIP = "3.3.0"  # whose table of pretrained models the data files were built with; also in sources.csv
needs_tables = pytest.mark.skipif(
    not (TABLES / "openclip_results.csv").is_file(),
    reason=f"no published tables at {TABLES}; set MLL_TESTBED to rebuild the known models from them",
)
needs_open_clip = pytest.mark.skipif(
    open_clip.__version__ != OPEN_CLIP, reason=f"open_clip {open_clip.__version__} lists other models than {OPEN_CLIP}"
)

# place in the paper's Table 6, architecture, tag, parameters in millions, GFLOPs, accuracy on ImageNet
PAPER = [
    (1, "RN50", "openai", 102, 18, 0.598),
    (4, "RN101", "yfcc15m", 120, 26, 0.341),
    (6, "RN101-quickgelu", "yfcc15m", 120, 26, 0.349),
    (8, "RN50x64", "openai", 623, 553, 0.739),
    (12, "ViT-B-32", "commonpool_m_clip_s128m_b4k", 151, 15, 0.272),
    (20, "ViT-B-16", "dfn2b", 150, 41, 0.762),
    (32, "ViT-H-14-378-quickgelu", "dfn5b", 987, 1054, 0.844),
    (36, "xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k", 366, 106, 0.624),
    (43, "coca_ViT-L-14", "laion2b_s13b_b90k", 638, 215, 0.756),
    (47, "EVA02-E-14", "laion2b_s4b_b115k", 4705, 2311, 0.820),
    (49, "nllb-clip-base-siglip", "v1", 507, 473, 0.391),
]


def rows_of(name):
    """The rows of a data file of the package."""
    return list(csv.DictReader((DATA / f"{name}.csv").read_text().splitlines()))


# --- the paper's models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "architecture", "tag", "millions", "gflops", "imagenet"), PAPER)
def test_figures_are_the_papers(place, architecture, tag, millions, gflops, imagenet):
    model = paper_models()[place - 1]
    assert (model.architecture, model.tag, model.paper_place) == (architecture, tag, place)
    assert model.parameters / 1e6 == pytest.approx(millions, abs=0.5)
    assert model.gflops == pytest.approx(gflops, abs=0.5)
    assert model.imagenet == pytest.approx(imagenet, abs=0.00051)


def test_the_paper_has_49_models_in_47_repositories():
    entries = defaultdict(list)
    for model in paper_models():
        entries[model.hub_id].append((model.architecture, model.tag))
    assert len(paper_models()) == len({(model.architecture, model.tag) for model in paper_models()}) == 49
    assert {hub_id: names for hub_id, names in entries.items() if len(names) > 1} == {
        "timm/resnet101_clip.openai": [("RN101", "openai"), ("RN101-quickgelu", "openai")],
        "timm/resnet101_clip.yfcc15m": [("RN101", "yfcc15m"), ("RN101-quickgelu", "yfcc15m")],
    }


def test_figures_of_all_models_of_the_paper_are_known():
    for model in paper_models():
        assert 5 < model.image_gflops < model.gflops < 2500
        assert model.cost == Cost(model.parameters, model.image_gflops)
        assert model.accuracy == model.imagenet
    best = {model.hub_id: model.imagenet for model in best_paper_models()}
    assert len(best) == len(best_paper_models()) == 47
    assert next(iter(best)) == "timm/resnet50_clip.openai"
    assert best["timm/resnet101_clip.yfcc15m"] == 0.3487


# --- the table of models --------------------------------------------------------------------------------------------


def test_there_are_more_than_150_models_and_each_has_its_own_name():
    assert len(known_models()) == len({model.name for model in known_models()}) > 200
    assert sum(bool(model.hub_id) for model in known_models()) > 200
    assert sum(model.loadable for model in known_models()) > 150
    assert sum(model.imagenet is not None for model in known_models()) > 150
    assert known_models() is known_models()
    with pytest.raises(FrozenInstanceError):
        known_models()[0].imagenet = 1.0


def test_figures_are_in_range():
    for model in known_models():
        assert re.fullmatch(r"([\w.-]+/[\w.-]+)?", model.hub_id)
        assert re.fullmatch(r"([\w.-]+/[\w.-]+)?", model.twin)
        assert re.fullmatch(r"([0-9a-f]{40})?", model.revision + model.twin_revision), model.name
        assert model.license is None or model.license == model.license.lower()
        assert model.imagenet is None or 0 < model.imagenet < 0.9
        assert bool(model.imagenet_source) == (model.imagenet is not None)
        assert model.parameters is None or 10**7 < model.parameters < 10**10
        assert model.loadable <= bool(model.hub_id)
        if model.download_bytes is not None:
            assert 1.9 < model.download_bytes / model.parameters < 9, model.name
        if model.image_gflops is not None:
            assert model.gflops > 0.999 * (model.image_gflops + model.text_gflops)


@needs_open_clip
def test_every_model_of_open_clip_is_under_its_repository():
    for model in known_models():
        if model.architecture and model.hub_id:
            repository = get_pretrained_cfg(model.architecture, model.tag)["hf_hub"]
            assert "/".join(repository.split("/")[:2]) == model.hub_id


def test_weights_that_open_clip_lists_under_another_tags_repository_have_none():
    model = known_model("ViT-B-16-plus-240/laion400m_e32")
    assert (model.hub_id, model.loadable, model.download_bytes) == ("", False, None)
    assert known_model("ViT-B-16-plus-240/laion400m_e31").hub_id.endswith("laion400m_e31")


def test_an_architecture_costs_the_same_under_every_tag():
    costs = defaultdict(set)
    for model in known_models():
        if model.architecture and model.parameters:
            costs[model.architecture].add((model.parameters, model.gflops, model.image_gflops, model.text_gflops))
    assert {name: found for name, found in costs.items() if len(found) != 1} == {}


@pytest.mark.parametrize(
    ("name", "size"), [("RN50/openai", 224), ("ViT-B-16-plus-240/laion400m_e31", 240), ("PE-Core-S-16-384/meta", 384)]
)
def test_costs_are_what_labels_count(name, size):
    """Without weights, on a device that computes shapes only."""
    model = known_model(name)
    with torch.device("meta"):
        network = open_clip.create_model(model.architecture, device="meta").eval().requires_grad_(False)
        pixels = torch.empty(1, 3, size, size)
        tokens = torch.empty(1, network.context_length, dtype=torch.int64)
    image_gflops = count_flops(lambda: network.encode_image(pixels)) / 1e9
    text_gflops = count_flops(lambda: network.encode_text(tokens)) / 1e9
    assert model.image_gflops == pytest.approx(image_gflops, abs=0.006)
    assert model.text_gflops == pytest.approx(text_gflops, abs=0.006)
    assert model.gflops == pytest.approx(image_gflops + text_gflops, abs=0.011)
    assert model.parameters == pytest.approx(sum(p.numel() for p in network.parameters()), abs=5000)


def test_a_model_has_the_revision_that_mteb_measured_and_its_twin():
    siglip = known_model("ViT-SO400M-14-SigLIP-384/webli")
    assert (siglip.hub_id, siglip.twin) == ("timm/ViT-SO400M-14-SigLIP-384", "google/siglip-so400m-patch14-384")
    assert (siglip.revision, siglip.twin_revision) == ("", "9fdffc58afc957d1a03a25b10dba0329ab15c2a3")
    laion = known_model("ViT-H-14/laion2b_s32b_b79k")
    assert (laion.revision, laion.twin_revision) == ("de081ac0a0ca8dc9d1533eed1ae884bb8ae1404b", "")


def test_sizes_that_the_hub_shows_are_near_parameters_times_bytes():
    known_sizes = [model for model in known_models() if model.download_bytes and not model.download_is_estimate]
    assert len(known_sizes) > 25
    for model in known_sizes:
        size = 2 if model.hub_id.startswith("timm/eva") else 4
        assert model.download_bytes == pytest.approx(size * model.parameters, rel=0.01), model.name


def test_figures_that_sources_state_differently_are_all_kept():
    stated = {(row["model"], row["figure"], row["source"]): float(row["value"]) for row in rows_of("stated_figures")}
    name = "MobileCLIP2-S0/dfndr2b"  # the 300 MB on the Hub fit the count
    assert stated[name, "parameters", "readmes"] == 54_000_000
    assert stated[name, "parameters", "counted"] == known_model(name).parameters == 74_835_073
    assert stated[name, "imagenet", "readmes"] == 0.715
    assert known_model(name).imagenet == 0.71534
    assert known_model("ViT-B-32/openai").imagenet_source == "open_clip"


def test_models_that_nobody_released_have_no_repository():
    research = [model for model in known_models() if model.name.startswith("research/")]
    assert len(research) == 8
    assert not any(model.hub_id or model.loadable or model.download_bytes for model in research)


# --- figures per dataset and per class -----------------------------------------------------------------------------


def test_data_sets_are_known_by_one_id_and_have_kin():
    ids = [dataset.id for dataset in known_datasets()]
    assert len(ids) == len(set(ids))
    names = Counter(
        (table, name) for dataset in known_datasets() for t in [dataset.names] for table in t for name in t[table]
    )
    assert max(names.values()) == 1
    kin = {dataset.id: dataset.kin for dataset in known_datasets()}
    for group in (
        ("imagenet-1k", "imagenet-sketch", "imagenet-r", "imagenet-v2", "imagenet-a", "imagenet-o", "objectnet"),
        ("cifar-10", "cifar-100", "stl-10"),
        ("caltech-101", "caltech-256"),
        ("mnist", "svhn"),
        ("eurosat", "resisc45", "fmow", "whu-rs19", "aid"),
        ("patch-camelyon", "camelyon17"),
        ("birdsnap", "cub-200"),
    ):
        assert len({kin[dataset] for dataset in group}) == 1
    assert {row["dataset"] for row in rows_of("accuracies")} <= set(ids)


@pytest.mark.parametrize(
    ("source", "n_models", "n_datasets"),
    [("open_clip", 121, 31), ("mteb", 49, 22), ("mobileclip", 14, 35), ("clip_benchmark", 13, 35)],
)
def test_accuracies_of_each_source_stand_apart(source, n_models, n_datasets):
    table = accuracies(source)
    assert set(table.sources) == {source}
    assert table.values.shape == (len(table.models), len(table.datasets)) == (n_models, n_datasets)
    assert np.nanmin(table.values) >= 0
    assert np.nanmax(table.values) <= 1
    if source != "mteb":
        assert not np.isnan(table.values).any()
    with pytest.raises(ValueError, match="read-only"):
        table.values[0, 0] = 1


def test_a_model_has_a_row_for_each_source():
    table = accuracies()
    rows = [row for row, model in enumerate(table.models) if model.name == "ViT-B-32/openai"]
    assert [table.sources[row] for row in rows] == ["open_clip", "clip_benchmark", "mteb"]
    column = table.datasets.index("imagenet-1k")
    assert table.values[rows[0], column] == known_model("ViT-B-32/openai").imagenet == 0.6332
    assert table.values[rows[1], column] == pytest.approx(0.6332, abs=0.001)
    # Mean recall per class, as in open_clip's column, where the source has both
    assert table.values[rows[1], table.datasets.index("caltech-101")] == pytest.approx(0.8758, abs=0.02)


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


def test_no_figures_of_tables_without_a_license():
    sources = {row["id"] for row in rows_of("sources")}
    named = {row["source"] for name in ("accuracies", "stated_figures") for row in rows_of(name)}
    named |= {class_recalls().source}
    named |= {source for model in known_models() for source in model.source.split()}
    assert named <= sources
    assert not named & {"ostb", "lovm", "mll_hub49"}
    rows = rows_of("known_models")
    assert all(row["readme"] for row in rows if "readmes" in row["source"].split())
    assert not any("OSTB" in row["readme"] and row["imagenet"] for row in rows)


def test_files_are_small():
    sizes = [path.stat().st_size for path in DATA.iterdir()]
    assert max(sizes) < 1_500_000
    assert sum(sizes) < 2_500_000


def test_reading_the_tables_imports_nothing_heavy():
    code = (
        "import sys; from mll_hf.models.known import *; from mll_hf.models import known as k;"
        "k.known_models(), k.accuracies(), k.class_recalls(), k.paper_models();"
        "print([m for m in ('torch', 'open_clip', 'PIL', 'pyarrow', 'huggingface_hub') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- rebuilding -----------------------------------------------------------------------------------------------------


def test_usable_models_can_be_loaded_and_compared():
    usable = usable_models()
    assert len(usable) == len({model.hub_id for model in usable}) >= 130
    for model in usable:
        assert model.loadable
        assert model.cost.parameters > 0
        assert model.cost.gflops > 0
        same = [m.imagenet for m in known_models() if m.hub_id == model.hub_id and m.loadable and m.imagenet]
        assert model.imagenet == max(same)
    assert not any(model.name.startswith("research/") for model in usable)
