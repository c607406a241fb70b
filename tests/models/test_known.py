"""Known models and published figures: against the paper, and against open_clip."""

from __future__ import annotations

import csv
import re

import pytest

from mll_hf.labels.label import Cost
from mll_hf.models.known import (
    data_file,
    ids_of,
    imagenet_accuracies,
    known_models,
    loadable_models,
    usable_models,
)
from mll_hf.models.published import figures, figures_by_language, figures_of_dataset

# place in the paper's Table 6, architecture, tag, parameters in millions, GFLOPs, accuracy on ImageNet
PAPER = [
    (1, "RN50", "openai", 102, 18, 0.598),
    (4, "RN101", "yfcc15m", 120, 26, 0.341),
    (12, "ViT-B-32", "commonpool_m_clip_s128m_b4k", 151, 15, 0.272),
    (32, "ViT-H-14-378-quickgelu", "dfn5b", 987, 1054, 0.844),
    (36, "xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k", 366, 106, 0.624),
    (47, "EVA02-E-14", "laion2b_s4b_b115k", 4705, 2311, 0.820),
    (49, "nllb-clip-base-siglip", "v1", 507, 473, 0.391),
]


def test_figures_are_the_papers():
    by_name = {model.name: model for model in known_models()}
    rows = csv.DictReader(data_file("known_models.csv").splitlines())
    papers = {int(row["paper_place"]): row for row in rows if row["paper_place"]}
    assert sorted(papers) == list(range(1, 50))
    assert len({(row["architecture"], row["tag"]) for row in papers.values()}) == 49
    for place, architecture, tag, millions, gflops, imagenet in PAPER:
        row = papers[place]
        model = by_name[row["name"]]
        assert (row["architecture"], row["tag"]) == (architecture, tag)
        assert float(row["gflops"]) == pytest.approx(gflops, abs=0.5)
        assert model.parameters / 1e6 == pytest.approx(millions, abs=0.5)
        assert model.imagenet == model.accuracy == pytest.approx(imagenet, abs=0.00051)
        assert model.cost == Cost(model.parameters, model.image_gflops)


def test_figures_are_in_range():
    assert len(known_models()) == len({model.name for model in known_models()}) > 200
    for model in known_models():
        assert re.fullmatch(r"([\w.-]+/[\w.-]+)?", model.hub_id)
        assert re.fullmatch(r"([\w.-]+/[\w.-]+)?", model.twin)
        assert model.license is None or model.license == model.license.lower()
        assert model.imagenet is None or 0 < model.imagenet < 0.9
        assert model.parameters is None or 10**7 < model.parameters < 10**10
        assert model.loadable <= bool(model.hub_id)
        if model.download_bytes is not None and model.parameters is not None:
            assert 1.9 < model.download_bytes / model.parameters < 9, model.name
        if model.name.startswith("research/"):  # never released
            assert not any((model.hub_id, model.loadable, model.download_bytes))


def test_a_model_and_its_twin_in_another_layout_are_one():
    by_name = {model.name: model for model in known_models()}
    repos = {"timm/ViT-SO400M-14-SigLIP-384", "google/siglip-so400m-patch14-384"}
    for repo in repos:
        assert ids_of(repo) == repos
        assert imagenet_accuracies()[repo] == by_name["ViT-SO400M-14-SigLIP-384/webli"].imagenet
    assert ids_of("org/unknown") == {"org/unknown"}


def test_specialists_and_models_of_other_languages_load_by_configuration():
    loadable = loadable_models()
    specialists = [model for model in loadable if model.domains]
    other_languages = [m for m in loadable if m.languages != ("en",) and "SigLIP2" not in m.name]
    assert len({model.hub_id for model in loadable}) >= 176
    assert sum(model.weights.startswith("safetensors") for model in specialists) >= 20
    assert len(other_languages) >= 18
    assert not any(model.weights == "pickle only" for model in loadable)
    for model in known_models():
        assert re.fullmatch(r"safetensors( at refs/pr/\d+)?|pickle only|not checked", model.weights)
        assert model.languages
    by_name = {model.name: model for model in known_models()}
    assert by_name["imageomics/bioclip"].spec == "imageomics/bioclip@refs/pr/12"
    assert by_name["imageomics/bioclip-2"].spec == "imageomics/bioclip-2"


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


def test_figures_by_domain_and_language():
    names = {model.name for model in known_models()}
    general = {"OpenAI CLIP", "general CLIP", "SigLIP2 SO400M"}  # without a repo in their sources
    for figure in figures():
        assert figure.model in names | general
        assert 0 <= figure.value <= 1
        assert figure.sets >= 1
    (cifar,) = [f for f in figures_of_dataset("cifar-10") if f.model == "EVA02-E-14-plus/laion2b_s9b_b144k"]
    assert (cifar.metric, cifar.value) == ("accuracy", 0.9934)
    japanese = figures_by_language()["ja"]
    assert japanese["xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"] == 0.3986
    assert len(figures_by_language()) == 77
