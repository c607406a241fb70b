"""Models as they are on the Hub: every architecture, in every layout, gives what its own library gives."""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip.tokenizer import canonicalize_text
from PIL import Image
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import conformance  # noqa: E402
import tiny_architectures as tiny  # noqa: E402
from mll_hf.errors import MissingExtraError, ModelError  # noqa: E402
from mll_hf.hub.connection import fetch_head  # noqa: E402
from mll_hf.models import Backend, Link, bytes_to_fetch, load_model, resolve_model  # noqa: E402
from mll_hf.models.known import known_models  # noqa: E402

KINDS = tiny.open_clip_kinds()
FAMILIES = tiny.one_of_each_family(KINDS)
REFUSED = ("blip-2", "videoprism")
VARIANTS = [variant for variant in conformance.transformers_variants() if variant[0] not in REFUSED]
BERT_LIKE = ("align", "altclip", "blip", "chinese_clip")


@pytest.fixture(scope="session")
def transformers_model(tmp_path_factory):
    """(folder, model) of a type and a tokenizer; do not write to the folder."""
    root = tmp_path_factory.mktemp("transformers")

    @cache
    def build(kind, tokenizer=""):
        folder = tiny.write_transformers(root / f"{kind}-{tokenizer}", kind, tokenizer)
        return folder, conformance.load(folder)

    return build


@pytest.fixture(scope="session")
def sentence_models(tmp_path_factory):
    """{layout: folder}; do not write to them."""
    root = tmp_path_factory.mktemp("sentences")
    return {layout: tiny.write_sentence_transformers(root / layout, layout) for layout in tiny.SENTENCE_LAYOUTS}


def copy_of(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def refusal(folder):
    with pytest.raises(ModelError) as caught:
        conformance.load(folder)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value).partition("': ")[2]


# ---- what each library gives


@pytest.mark.parametrize("name", FAMILIES)
def test_open_clips_architectures(name, tmp_path):
    with tiny.small_timm_towers():
        folder = tiny.write_open_clip(tmp_path / "model", json.loads(FAMILIES[name]))
        model = conformance.load(folder)
        assert conformance.difference(model, conformance.open_clip_outputs(folder)) < conformance.TOLERANCE
    assert model.ref.backend == Backend.OPEN_CLIP


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_transformers_types(variant, transformers_model):
    folder, model = transformers_model(*variant)
    assert conformance.difference(model, conformance.pipeline_outputs(folder)) < conformance.TOLERANCE
    assert model.ref.backend == Backend.TRANSFORMERS
    assert model.link is (Link.SIGMOID if "siglip" in variant[0] else Link.SOFTMAX)


@pytest.mark.parametrize("layout", tiny.SENTENCE_LAYOUTS)
def test_layouts_of_sentence_transformers(layout, sentence_models):
    model = conformance.load(sentence_models[layout])
    expected = conformance.sentence_outputs(sentence_models[layout])
    assert conformance.difference(model, expected) < conformance.TOLERANCE
    assert model.ref.backend == Backend.SENTENCE_TRANSFORMERS
    assert model.link is (Link.SIGMOID if "SigLIP" in layout else Link.SOFTMAX)
    assert model.embedding_size == (24 if "Dense" in layout else tiny.WIDTH)


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
    assert {model.name for model in known_models()} <= named
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
    np.testing.assert_array_equal(old.encode_texts(conformance.TEXTS), new.encode_texts(conformance.TEXTS))


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


@pytest.mark.parametrize("kind", BERT_LIKE)
def test_short_texts_are_not_padded_to_the_512_tokens_of_bert(kind, transformers_model):
    assert transformers_model(kind)[1]._tokenize(["a cat"])["input_ids"].shape[1] < 12


def test_a_closed_model_still_preprocesses(sentence_models):
    """predict, close, predict: an ensemble prepares images before it loads the model again."""
    model = conformance.load(sentence_models["Transformer, Dense, Normalize"])
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8))
    before = model.preprocess(picture)
    model.close()
    assert np.array_equal(model.preprocess(picture), before)


# ---- sentence-transformers on the Hub


def test_only_what_the_modules_need_is_downloaded(sentence_models, api, hub, tmp_path):
    folder = copy_of(sentence_models["Transformer, Dense, Normalize"], tmp_path)
    unneeded = ["onnx/model.safetensors", "1_Dense/onnx/config.json", "training_args.bin", "1_Dense/pytorch_model.bin"]
    for name in unneeded:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not needed")
    api.create_repo("alice/tiny")
    api.upload_folder(repo_id="alice/tiny", folder_path=folder)
    ref = resolve_model("alice/tiny")
    expected = bytes_to_fetch(ref, parameters=10**9)
    model = load_model(ref, "cpu")
    assert ref.backend == Backend.SENTENCE_TRANSFORMERS
    snapshot = Path(constants.HF_HUB_CACHE) / "models--alice--tiny" / "snapshots" / ref.revision
    cached = {path.relative_to(snapshot).as_posix(): path.stat().st_size for path in snapshot.rglob("*.*")}
    assert "1_Dense/model.safetensors" in cached
    assert not set(cached) & set(unneeded)
    assert sum(size for name, size in cached.items() if name != "README.md") == expected
    local = conformance.load(sentence_models["Transformer, Dense, Normalize"])
    np.testing.assert_array_equal(model.encode_texts(["a cat"]), local.encode_texts(["a cat"]))


def test_a_changed_module_is_another_revision(sentence_models, tmp_path):
    folder = copy_of(sentence_models["Transformer, Dense, Normalize"], tmp_path)
    before = resolve_model(f"local-dir:{folder}")
    weights = folder / "1_Dense" / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert resolve_model(f"local-dir:{folder}").revision != before.revision


def test_a_changed_module_on_the_hub_is_another_model(sentence_models, api, tmp_path):
    folder = copy_of(sentence_models["0_CLIPModel"], tmp_path)
    api.create_repo("alice/tiny")
    api.upload_folder(repo_id="alice/tiny", folder_path=folder)
    before = fetch_head(api, "alice/tiny", "model").model_files
    edit(folder / "0_CLIPModel" / "preprocessor_config.json", resample=0)
    api.upload_folder(repo_id="alice/tiny", folder_path=folder)
    after = fetch_head(api, "alice/tiny", "model").model_files
    assert [name for name in before if before[name] != after[name]] == ["0_CLIPModel/preprocessor_config.json"]


def test_sentence_transformers_is_an_extra(sentence_models, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.delitem(sys.modules, "mll_hf.models.sentence_transformers", raising=False)
    with pytest.raises(MissingExtraError, match=r"\[match\]"):
        conformance.load(sentence_models["0_CLIPModel"])


# ---- what is refused


def to_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


@pytest.mark.parametrize(
    ("layout", "module"), [("0_CLIPModel", "0_CLIPModel"), ("Transformer, Dense, Normalize", "1_Dense")]
)
def test_a_module_with_pickles_only(layout, module, sentence_models, tmp_path):
    folder = copy_of(sentence_models[layout], tmp_path)
    to_pickle(folder / module)
    reason = refusal(folder)
    assert reason == "has only pickle weights, which can run code when loaded; ask its author for safetensors"


def test_a_module_without_all_its_weights(sentence_models, tmp_path):
    folder = copy_of(sentence_models["Transformer"], tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert refusal(folder) == "lacks weights for 1 tensors, such as visual_projection.weight; use a complete model"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_of_sentences_only(sentence_models, tmp_path):
    folder = copy_of(sentence_models["Transformer"], tmp_path)
    edit(folder / "config.json", model_type="bert")
    assert "is of type 'bert', which does not embed images and texts; use a CLIP" in refusal(folder)


NEEDS_CODE = "needs code from a repository, which is never run; use another model"


CODE = {"model_type": "evil", "auto_map": dict.fromkeys(("AutoConfig", "AutoModel"), "evil.Evil")}
KERNEL = {"attn_implementation": "alice/kernel"}  # transformers would run it, if the package kernels is there


@pytest.mark.parametrize("change", [CODE, KERNEL], ids=["code", "kernel"])
@pytest.mark.parametrize("library", ["transformers", "sentence-transformers", "open_clip"])
def test_a_model_that_needs_code_of_a_repository(library, change, transformers_model, sentence_models, tmp_path):
    if library == "open_clip":
        folder = tiny.write_open_clip(tmp_path / "model", json.loads(FAMILIES["roberta-ViT-B-32"]))
        place = folder / "text"
    elif library == "transformers":
        place = folder = copy_of(transformers_model("clip")[0], tmp_path)
    else:
        folder = copy_of(sentence_models["0_CLIPModel"], tmp_path)
        place = folder / "0_CLIPModel"
    ran = tmp_path / "ran"
    (place / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    edit(place / "config.json", **change)
    assert refusal(folder) == NEEDS_CODE
    assert not ran.exists()


def test_modules_and_settings_of_a_repository_run_no_code(sentence_models, tmp_path):
    folder = copy_of(sentence_models["Transformer"], tmp_path)
    edit(folder / "sentence_bert_config.json", model_kwargs=KERNEL | {"trust_remote_code": True})
    conformance.load(folder)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(
        json.dumps([*modules, {"idx": 1, "name": "1", "path": "", "type": "evil.Evil"}])
    )
    assert refusal(folder) == NEEDS_CODE


def test_texts_get_the_default_prompt(sentence_models, tmp_path):
    folder = copy_of(sentence_models["Transformer"], tmp_path)
    edit(folder / "config_sentence_transformers.json", prompts={"photo": "a photo of "}, default_prompt_name="photo")
    model = conformance.load(folder)
    assert conformance.difference(model, conformance.sentence_outputs(folder)) < conformance.TOLERANCE
    plain = conformance.load(sentence_models["Transformer"])
    np.testing.assert_allclose(model.encode_texts(["a cat"]), plain.encode_texts(["a photo of a cat"]), atol=1e-6)


# ---- tokenizers


def test_a_repository_without_a_tokenizer_uses_the_one_that_its_config_names(api, tmp_path):
    folder = tiny.write_open_clip(tmp_path / "model", json.loads(FAMILIES["ViT-bigG-14-CLIPA"]))
    expected = conformance.load(folder).encode_texts(conformance.TEXTS)
    api.create_repo("alice/tokenizer")
    for path in folder.glob("tokenizer*"):
        api.upload_file(path_or_fileobj=path, path_in_repo=path.name, repo_id="alice/tokenizer")
        path.unlink()
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "alice/tokenizer"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(conformance.load(folder).encode_texts(conformance.TEXTS), expected)
    api.create_repo("alice/model")
    api.upload_folder(repo_id="alice/model", folder_path=folder)
    network = open_clip.create_model_from_pretrained("hf-hub:alice/model", return_transform=False).eval()
    with torch.no_grad():
        tokens = open_clip.get_tokenizer("hf-hub:alice/model")(conformance.TEXTS)
        theirs = network.encode_text(tokens, normalize=True)
    ours = load_model(resolve_model("alice/model"), "cpu").encode_texts(conformance.TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_tokenizer_of_siglip_without_its_package(transformers_model, tmp_path):
    if find_spec("sentencepiece"):
        assert ("siglip", "siglip") in VARIANTS
        return
    folder = copy_of(transformers_model("siglip")[0], tmp_path)
    edit(folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    assert "SentencePiece library" in (reason := refusal(folder))
    assert reason.endswith("; install what is missing")
