"""The paper's 49 models: the table against the paper's figures, against open_clip, and against what we count."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import FrozenInstanceError

import open_clip
import pytest
import torch
from open_clip.pretrained import get_pretrained_cfg

from mll_hf.models.published import published_models
from mll_hf.models.torch_model import count_flops

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


@pytest.mark.parametrize(("place", "architecture", "tag", "millions", "gflops", "imagenet"), PAPER)
def test_figures_are_the_papers(place, architecture, tag, millions, gflops, imagenet):
    model = published_models()[place - 1]
    assert (model.architecture, model.tag) == (architecture, tag)
    assert model.parameters / 1e6 == pytest.approx(millions, abs=0.5)
    assert model.gflops == pytest.approx(gflops, abs=0.5)
    assert model.imagenet == pytest.approx(imagenet, abs=0.00051)


def test_there_are_49_different_models():
    assert len(published_models()) == 49
    assert len({(model.architecture, model.tag) for model in published_models()}) == 49


def test_only_the_two_weights_of_rn101_are_listed_twice():
    entries = defaultdict(list)
    for model in published_models():
        entries[model.repo_id].append((model.architecture, model.tag))
    assert {repo_id: names for repo_id, names in entries.items() if len(names) > 1} == {
        "timm/resnet101_clip.openai": [("RN101", "openai"), ("RN101-quickgelu", "openai")],
        "timm/resnet101_clip.yfcc15m": [("RN101", "yfcc15m"), ("RN101-quickgelu", "yfcc15m")],
    }


@pytest.mark.parametrize("model", published_models(), ids=lambda model: f"{model.architecture}/{model.tag}")
def test_every_model_is_in_open_clips_table_under_its_repository(model):
    assert get_pretrained_cfg(model.architecture, model.tag)["hf_hub"] == f"{model.repo_id}/"


def test_figures_are_in_range():
    for model in published_models():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.repo_id)
        assert 10**8 < model.parameters < 5 * 10**9
        assert 5 < model.image_gflops < model.gflops < 2500
        assert 0.2 < model.imagenet < 0.85


def test_an_architecture_costs_the_same_under_every_tag():
    costs = defaultdict(set)
    for model in published_models():
        costs[model.architecture].add((model.parameters, model.gflops, model.image_gflops))
    assert all(len(found) == 1 for found in costs.values())


@pytest.mark.parametrize(("architecture", "size"), [("RN50", 224), ("ViT-B-16-plus-240", 240)])
def test_costs_are_what_labels_count(architecture, size):
    """Without weights, on a device that computes shapes only."""
    model = next(model for model in published_models() if model.architecture == architecture)
    with torch.device("meta"):
        network = open_clip.create_model(architecture, device="meta").eval()
        pixels = torch.empty(1, 3, size, size)
        tokens = torch.empty(1, network.context_length, dtype=torch.int64)
    image_gflops = count_flops(lambda: network.encode_image(pixels)) / 1e9
    text_gflops = count_flops(lambda: network.encode_text(tokens)) / 1e9
    assert model.image_gflops == pytest.approx(image_gflops, abs=0.006)
    assert model.gflops == pytest.approx(image_gflops + text_gflops, abs=0.006)
    assert model.parameters == pytest.approx(sum(p.numel() for p in network.parameters()), abs=5000)


def test_the_table_is_read_once_and_cannot_be_changed():
    assert published_models() is published_models()
    with pytest.raises(FrozenInstanceError):
        published_models()[0].imagenet = 1.0


def test_reading_the_table_imports_nothing_heavy():
    code = (
        "import sys; from mll_hf.models.published import published_models; published_models();"
        "print([m for m in ('torch', 'open_clip', 'PIL') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
