"""Models as they are on the Hub: every architecture, in every layout, gives what its own library gives."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip.tokenizer import canonicalize_text
from PIL import Image
from safetensors.torch import load_file, save_file

import conformance
import tiny_architectures as tiny
import tiny_models
from mll_hf.ensemble.embedding import Residents, zero_shot_head
from mll_hf.errors import ModelError
from mll_hf.labels.label import Cost
from mll_hf.models import load_model, source
from mll_hf.models.source import Backend, bytes_to_fetch, resolve_model
from mll_hf.selection.candidates import SelectedModel

ROOT = Path(__file__).parents[2]
SIZES = ("tiny", "small", "medium", "base", "large", "xlarge", "xxlarge", "giant", "giantopt", "gigantic", "enormous")


def one_of_each_family(kinds):
    """{first name: shrunk config}, one for all kinds that differ only in numbers and in the size of a timm tower."""
    families = {}
    for config, names in kinds.items():
        families.setdefault(without_numbers(json.loads(config)), (names[0], config))
    return dict(families.values())


def without_numbers(config):
    tower = config["vision_cfg"].get("timm_model_name", "")
    family = [part for part in re.sub(r"\d", "", tower).split("_") if part not in SIZES]
    config["vision_cfg"]["timm_model_name"] = "_".join(family)
    for part in (config["vision_cfg"], config["text_cfg"]):
        part.pop("mlp_ratio", None)
    return re.sub(r"-?\b[\d.]+(e-\d+)?\b", "0", json.dumps(config))


KINDS = tiny.open_clip_kinds()
FAMILIES = one_of_each_family(KINDS)
REFUSED = ("blip-2", "videoprism")
VARIANTS = [variant for variant in conformance.transformers_variants() if variant[0] not in REFUSED]


@pytest.fixture(scope="session")
def transformers_model(tmp_path_factory):
    """(folder, model) of a type and a tokenizer; do not write to the folder."""
    root = tmp_path_factory.mktemp("transformers")

    @cache
    def build(kind, tokenizer=""):
        folder = tiny.write_transformers(root / f"{kind}-{tokenizer}", kind, tokenizer)
        return folder, conformance.load(folder)

    return build


def copy_of(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def refusal(folder):
    with pytest.raises(ModelError) as caught:
        conformance.load(folder)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value).partition("': ")[2]


def check_image_tower(model, has_texts=False):
    """Loaded without its text tower, a model embeds images the same, with fewer parameters."""
    tower = load_model(model.ref, "cpu", texts=False)
    for image in conformance.images():
        pixels = model.preprocess(image)
        assert torch.equal(tower.preprocess(image), pixels)
        embeddings = tower.encode_pixels(pixels[None])
        np.testing.assert_allclose(embeddings, model.encode_pixels(pixels[None]), rtol=0, atol=1e-6)  # kernels differ
    for name in ("logit_scale", "logit_bias", "embedding_size", "batch_size"):
        assert getattr(tower, name) == getattr(model, name)
    assert tower.has_texts == has_texts
    if not has_texts:
        assert not any("text" in name or name.startswith("transformer.") for name in tower._network.state_dict())
        assert tower.cost.parameters < 0.9 * model.cost.parameters
        with pytest.raises(ValueError, match="the text tower is not loaded"):
            tower.encode_texts(["a cat"])


# ---- what each library gives


@pytest.mark.parametrize("name", FAMILIES)
def test_open_clips_architectures(name, tmp_path):
    with tiny.small_timm_towers():
        folder = tiny.write_open_clip(tmp_path / "model", json.loads(FAMILIES[name]))
        model = conformance.load(folder)
        assert conformance.difference(model, conformance.open_clip_outputs(folder)) < conformance.TOLERANCE
        check_image_tower(model, has_texts=name.startswith("coca"))
    assert model.ref.backend == Backend.OPEN_CLIP


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_transformers_types(variant, transformers_model):
    folder, model = transformers_model(*variant)
    assert conformance.difference(model, conformance.pipeline_outputs(folder)) < conformance.TOLERANCE
    assert model.ref.backend == Backend.TRANSFORMERS
    assert bool(model.logit_bias) == ("siglip" in variant[0])
    check_image_tower(model)


@pytest.mark.parametrize("kind", REFUSED)
def test_types_without_one_embedding_of_an_image(kind, tmp_path):
    folder = tiny.write_transformers(tmp_path / kind, kind)
    assert (
        refusal(folder) == f"is of type '{kind}', which has no single embedding of an image; use a CLIP or SigLIP model"
    )


def test_the_committed_report_is_whole_and_without_a_difference():
    report = (ROOT / "scripts" / "benchmark" / "results" / "conformance.md").read_text()
    named = set(re.split(r"[\s,|]+", report))
    assert {*open_clip.list_models(), *(kind for kind, _ in conformance.transformers_variants())} <= named
    assert "**" not in report


def test_the_files_of_the_first_clip(transformers_model, tmp_path):
    """Names and fields of 2021, as openai/clip-vit-base-patch32 still has them."""
    source, new = transformers_model("clip")
    folder = copy_of(source, tmp_path)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": tiny.CONTEXT, "do_lower_case": True}))
    image = {"feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 32, "size": 32, "do_center_crop": True}
    image |= {"do_resize": True, "resample": 3, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    weights = load_file(folder / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(tiny.CONTEXT)[None]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    old = conformance.load(folder)
    assert conformance.difference(old, conformance.pipeline_outputs(folder)) < conformance.TOLERANCE
    expected = new.encode_texts(conformance.TEXTS)
    np.testing.assert_allclose(old.encode_texts(conformance.TEXTS), expected, rtol=0, atol=1e-6)


# ---- texts as in training


def test_siglip_gets_texts_in_lower_case_without_punctuation_padded_without_a_mask(transformers_model):
    texts = ["A Photo, of   a CAT!", "under_score's (sets)"]
    for variant in (("siglip", ""), ("siglip", "gemma"), ("siglip2", "")):
        model = transformers_model(*variant)[1]
        canonical = model.encode_texts([canonicalize_text(text) for text in texts])
        np.testing.assert_allclose(model.encode_texts(texts), canonical, atol=1e-6)
        tokens = model._tokenize(texts)
        assert list(tokens) == ["input_ids"]
        assert tokens["input_ids"].shape == (2, 64)


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_a_text_has_one_embedding_whatever_its_batch(variant, transformers_model):
    model = transformers_model(*variant)[1]
    texts = ["a cat", "a photo of something that is much longer", "dog " * 300]
    alone = np.concatenate([model.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(model.encode_texts(texts), alone, atol=1e-5)


@pytest.mark.parametrize("backend", Backend)
def test_a_model_that_was_evicted_predicts_the_same(backend, transformers_model, tmp_path):
    """An ensemble prepares images with a model that it evicted, then loads the model again."""
    folders = {
        Backend.OPEN_CLIP: tiny_models.make_open_clip(tmp_path / "open_clip"),
        Backend.TRANSFORMERS: transformers_model("siglip")[0],
    }
    refs = [resolve_model(f"local-dir:{folder}") for folder in (folders[backend], transformers_model("clip")[0])]
    assert refs[0].backend == backend
    models = [SelectedModel(ref, Cost(0, 0.0), 1.0) for ref in refs]
    residents = Residents(device="cpu", dtype=None, token=None, keeps_one=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8))

    def predicted(m, pixels):
        head = residents.use(models[m], lambda model: zero_shot_head(model, [["a cat"], ["a dog"]]), texts=True)
        return residents.use(models[m], lambda model: head.logits(model.encode_pixels(pixels[None])))

    first = residents.use(models[0], lambda model: model)
    before = predicted(0, first.preprocess(picture))
    residents.use(models[1], lambda model: None)
    assert models[0] not in residents
    assert {parameter.device.type for parameter in first._network.parameters()} == {"meta"}
    np.testing.assert_allclose(predicted(0, first.preprocess(picture)), before, rtol=0, atol=1e-4)  # scaled logits
    with pytest.raises(ModelError, match="cannot be run"):
        first.encode_pixels(first.preprocess(picture)[None])


# ---- what is refused


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


NEEDS_CODE = "needs code from a repository, which is never run; use another model"


CODE = {"model_type": "evil", "auto_map": dict.fromkeys(("AutoConfig", "AutoModel"), "evil.Evil")}
KERNEL = {"attn_implementation": "alice/kernel"}  # transformers would run it, if the package kernels is there


@pytest.mark.parametrize("change", [CODE, KERNEL], ids=["code", "kernel"])
@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_a_model_that_needs_code_of_a_repository(library, change, transformers_model, tmp_path):
    if library == "open_clip":
        folder = tiny.write_open_clip(tmp_path / "model", json.loads(FAMILIES["roberta-ViT-B-32"]))
        place = folder / "text"
    else:
        place = folder = copy_of(transformers_model("clip")[0], tmp_path)
    ran = tmp_path / "ran"
    (place / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    edit(place / "config.json", **change)
    assert refusal(folder) == NEEDS_CODE
    assert not ran.exists()


# ---- tokenizers


@pytest.mark.parametrize("name", ["ViT-bigG-14-CLIPA", "roberta-ViT-B-32"])
def test_parts_of_other_repositories_are_pinned_at_the_first_load(name, api, hub, monkeypatch, tmp_path):
    """A tokenizer or text tower that only the config names: settings of one commit, never code or weights."""
    folder = tiny.write_open_clip(tmp_path / "model", json.loads(FAMILIES[name]))
    expected = conformance.load(folder).encode_texts(conformance.TEXTS)
    config = json.loads((folder / "open_clip_config.json").read_text())
    text = config["model_cfg"]["text_cfg"]
    is_tower = "hf_model_name" in text
    part = Path(text["hf_model_name"]) if is_tower else tmp_path / "tokenizer"
    if not is_tower:
        part.mkdir()
        for path in folder.glob("tokenizer*"):
            path.rename(part / path.name)
    text["hf_model_name" if is_tower else "hf_tokenizer_name"] = "alice/part"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    for unneeded in ("evil.py", "model.safetensors", "onnx/config.json"):
        (part / unneeded).parent.mkdir(exist_ok=True)
        (part / unneeded).write_text("not needed")
    api.create_repo("alice/part")
    commit = api.upload_folder(repo_id="alice/part", folder_path=part).oid
    api.create_repo("alice/model")
    api.upload_folder(repo_id="alice/model", folder_path=folder, ignore_patterns="text/*")
    ref = resolve_model("alice/model")
    np.testing.assert_allclose(load_model(ref, "cpu").encode_texts(conformance.TEXTS), expected, atol=1e-6)
    got = [str(request) for request in hub.requests if "/alice/part/resolve/" in request]
    assert got
    assert all(f"/resolve/{commit}/" in request and request.endswith((".json", ".model", ".txt")) for request in got)

    hub.put("model", "alice/part", dict.fromkeys(("config.json", "tokenizer.json"), b"{}"))  # breaks it
    assert bytes_to_fetch(ref, parameters=1) == 0
    np.testing.assert_allclose(load_model(ref, "cpu").encode_texts(conformance.TEXTS), expected, atol=1e-6)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    np.testing.assert_allclose(load_model(ref, "cpu").encode_texts(conformance.TEXTS), expected, atol=1e-6)


def test_parts_of_other_repositories_are_limited(api, hub, monkeypatch, tmp_path):
    folder = tiny.write_open_clip(tmp_path / "model", json.loads(FAMILIES["ViT-bigG-14-CLIPA"]))
    config = (folder / "open_clip_config.json").read_text()
    (folder / "open_clip_config.json").write_text(
        re.sub('"hf_tokenizer_name": "\\w+"', '"hf_tokenizer_name": "alice/part"', config)
    )
    part = {path.name: path.read_bytes() for path in folder.glob("tokenizer*")}
    for name in part:
        (folder / name).unlink()
    api.create_repo("alice/model")
    api.upload_folder(repo_id="alice/model", folder_path=folder)
    ref = resolve_model("alice/model")
    with pytest.raises(ModelError, match=r"'alice/model': needs files of another repo \(alice/part: is not on the Hub"):
        load_model(ref, "cpu")
    hub.put("model", "alice/part", part)
    monkeypatch.setattr(source, "_MAX_PART_BYTES", 100)
    with pytest.raises(ModelError, match="alice/part: is a tokenizer of over 100 bytes"):
        load_model(ref, "cpu")
    monkeypatch.undo()
    evil = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    hub.put("model", "alice/part", {"tokenizer_config.json": json.dumps(evil).encode(), "evil.py": b"1 / 0"})
    with pytest.raises(ModelError, match=NEEDS_CODE):
        load_model(replace(ref, digest=None), "cpu")  # not pinned yet
