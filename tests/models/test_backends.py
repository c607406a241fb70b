from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

import tiny_hub
import tiny_models
from mll_hf.errors import InputError, ModelError
from mll_hf.labels.label import ModelRef
from mll_hf.models import environment_of, load_model, pick_device
from mll_hf.models.source import Backend, bytes_to_fetch, check_access, resolve_model
from mll_hf.utils.files import asset_path
from tiny_hub import Hub

KINDS = ("open_clip", "open_clip_sigmoid", "clip", "siglip")
TEXTS = ["a photo of a cat", "dog", "a small red car which is round, the icon of a tree", "an unheardof thing"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory, tiny_open_clip, tiny_transformers_clip, tiny_siglip):
    sigmoid = tiny_models.make_open_clip(tmp_path_factory.mktemp("models") / "tiny-open-siglip", sigmoid=True)
    return dict(zip(KINDS, (tiny_open_clip, sigmoid, tiny_transformers_clip, tiny_siglip), strict=True))


@pytest.fixture(scope="session")
def models(folders):
    return {kind: load_local(folder) for kind, folder in folders.items()}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind, models):
    return models[kind]


def load_local(folder):
    return load_model(resolve_model(f"local-dir:{folder}"), "cpu")


def random_image(width=40, height=50, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def random_pixels(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 3, 32, 32)).astype(np.float32))


def copy_of(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


# ---- what a loaded model does


def test_embeddings_are_unit_norm_float32_in_order(model):
    texts = [f"a {first} {second}" for first in tiny_models.WORDS for second in tiny_models.WORDS]
    for embeddings in (model.encode_pixels(random_pixels(3)), model.encode_texts(texts), model.encode_texts([])):
        assert embeddings.dtype == np.float32
        assert embeddings.shape[1] == model.embedding_size
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    some = [0, 255, 256, len(texts) - 1]  # texts are embedded in parts
    np.testing.assert_allclose(model.encode_texts(texts)[some], model.encode_texts([texts[i] for i in some]), atol=1e-6)


def test_a_text_over_the_context_is_cut_before_its_end_token(model):
    words = ["a", "small", "cat", "is", "red", "which", "is", "large", "dog", "of", "the", "tree"]
    fitting, over = (words * 2)[:14], (words * 2)[:20]  # 16 tokens with start and end
    np.testing.assert_allclose(model.encode_texts([" ".join(over)]), model.encode_texts([" ".join(fitting)]), atol=1e-6)
    assert np.abs(model.encode_texts([" ".join(fitting[:13])]) - model.encode_texts([" ".join(fitting)])).max() > 1e-4


def test_embeddings_that_are_not_finite_or_zero_are_refused(kind, folders, monkeypatch):
    model = load_local(folders[kind])
    with pytest.raises(ModelError, match="embeddings for 1 of 2 images"):
        model.encode_pixels(torch.stack([torch.full((3, 32, 32), np.nan), torch.zeros(3, 32, 32)]))
    monkeypatch.setattr(model, "_text_features", lambda tokens: torch.zeros(3, model.embedding_size))
    with pytest.raises(ModelError, match="zero embeddings for 3 of 3 texts"):
        model.encode_texts(TEXTS[:3])


def test_a_model_that_overflows_in_half_precision_runs_in_full_from_then_on(folders, monkeypatch):
    model = load_local(folders["open_clip"])
    expected, features = model.encode_pixels(random_pixels(2)), model._image_features
    seen = []

    def overflowing(pixels):
        seen.append(torch.is_autocast_enabled("cpu"))
        return features(pixels) * (torch.inf if seen[-1] else 1)

    monkeypatch.setattr(model, "dtype", "bfloat16")
    monkeypatch.setattr(model, "_image_features", overflowing)
    for _ in range(2):
        np.testing.assert_allclose(model.encode_pixels(random_pixels(2)), expected, atol=1e-6)
    assert seen == [True, False, False]
    assert environment_of(model).dtype == "float32"


def fill_memory(*_, **__):
    torch.empty(2**62, dtype=torch.uint8)


def fill_gpu(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB")


@pytest.mark.parametrize("fill", [fill_memory, fill_gpu])
def test_images_that_do_not_fit_into_memory_are_embedded_in_smaller_batches(folders, monkeypatch, fill):
    model = load_local(folders["open_clip"])
    pixels, features, tried, freed = random_pixels(11), model._image_features, [], []
    expected = model.encode_pixels(pixels)

    def small(batch):
        tried.append(len(batch))
        if len(batch) > 3:
            fill()
        return features(batch)

    monkeypatch.setattr(model, "_image_features", small)
    # an exception that is being handled keeps its frames, and so their tensors, alive
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(sys.exc_info()[0]))
    np.testing.assert_allclose(model.encode_pixels(pixels), expected, atol=1e-6)
    assert tried == [11, 6, 3, 3, 3, 2]
    assert freed == [None, None]
    tried.clear()
    model.encode_pixels(pixels)
    assert tried == [3, 3, 3, 2]  # remembered


def test_memory_that_is_too_small_for_one_image_is_an_error_of_ours(folders, monkeypatch):
    model = load_local(folders["open_clip"])
    monkeypatch.setattr(model, "_image_features", fill_gpu)
    with pytest.raises(ModelError, match=r"CUDA out of memory\. Tried.*use smaller batches"):
        model.encode_pixels(random_pixels(2))


@pytest.mark.parametrize("kind", ["open_clip", "clip"])
@pytest.mark.parametrize("fill", [fill_memory, fill_gpu])
def test_out_of_memory_at_loading_is_not_taken_for_damaged_files(kind, folders, monkeypatch, fill):
    monkeypatch.setattr(torch.nn.Module, "to", fill)
    with pytest.raises(ModelError, match=r"cannot be loaded .*memory is full: use a larger device or a smaller model"):
        load_local(folders[kind])


# ---- local folders


def test_the_revision_of_a_folder_is_its_content(folders, tmp_path, monkeypatch):
    folder = copy_of(folders["open_clip"], tmp_path)
    first = resolve_model(f"local-dir:{folder}")
    assert first.revision == resolve_model(f"local-dir:{folders['open_clip']}").revision
    assert len(first.revision) == 40
    assert first.repo_id == f"local-dir:{folder}"
    monkeypatch.chdir(tmp_path)
    assert resolve_model("local-dir:copy/") == first
    (folder / "README.md").write_text("# A model")
    (folder / "mll").mkdir()
    (folder / "mll" / "label.safetensors").write_bytes(b"a label")
    assert resolve_model(f"local-dir:{folder}") == first
    tiny_models.make_open_clip(folder, seed=1)
    assert resolve_model(f"local-dir:{folder}").revision != first.revision
    with pytest.raises(ModelError, match="has changed since it was labeled; label it again"):
        load_model(first, "cpu")


def test_pickles_that_open_clip_would_prefer_are_not_loaded(folders, tmp_path):
    folder = Path(shutil.copytree(folders["clip"], tmp_path / "both"))
    shutil.copytree(folders["open_clip"], folder, dirs_exist_ok=True)
    assert resolve_model(f"local-dir:{folder}").backend == Backend.OPEN_CLIP
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    ref = resolve_model(f"local-dir:{folder}")
    assert ref.backend == Backend.TRANSFORMERS
    with pytest.raises(ModelError, match="has only pickle weights"):
        load_model(replace(ref, backend="open_clip"), "cpu")


def test_a_missing_folder(tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        resolve_model(f"local-dir:{tmp_path}/nothing")
    with pytest.raises(ModelError, match=r"is not a model .*\(files: none\)"):
        resolve_model(f"local-dir:{tmp_path}")
    (tmp_path / "modules.json").write_bytes(b"[]")
    with pytest.raises(ModelError, match=r"is a model of sentence-transformers"):
        resolve_model(f"local-dir:{tmp_path}")
    (tmp_path / "modules.json").rename(tmp_path / "lost.safetensors")
    with pytest.raises(ModelError, match=r"has weights but no open_clip_config\.json, config\.json;"):
        resolve_model(f"local-dir:{tmp_path}")


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_a_tensor(path):
    tensors = load_file(path)
    tensors.pop(max(name for name in tensors if "weight" in name))
    save_file(tensors, path, metadata={"format": "pt"})


def poison(path):
    tensors = {name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["open_clip", "clip"])
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("WEIGHTS", cut_in_half),
        ("WEIGHTS", drop_a_tensor),
        ("WEIGHTS", poison),
        ("CONFIG", cut_in_half),
        ("tokenizer.json", cut_in_half),
        ("tokenizer.json", Path.unlink),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_damaged_files_give_one_clear_line(kind, name, damage, folders, tmp_path, capfd):
    folder = copy_of(folders[kind], tmp_path)
    own = "open_clip_" if kind == "open_clip" else ""
    damage(folder / {"WEIGHTS": f"{own}model.safetensors", "CONFIG": f"{own}config.json"}.get(name, name))
    with pytest.raises(ModelError) as caught:
        load_local(folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    assert "; " in message
    assert str(folder) in message
    assert capfd.readouterr() == ("", "")


# ---- the Hub


def upload(api, folder, repo_id="alice/tiny", **settings):
    api.create_repo(repo_id, exist_ok=True, **settings)
    return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="weights").oid


@pytest.mark.parametrize("kind", ["open_clip", "clip"])
def test_resolving_asks_once_and_touches_no_file(kind, folders, api, hub):
    commit = upload(api, folders[kind])
    hub.requests.clear()
    backend = Backend.OPEN_CLIP if kind == "open_clip" else Backend.TRANSFORMERS
    ref = resolve_model("alice/tiny")
    assert (ref.repo_id, ref.revision, ref.backend) == ("alice/tiny", commit, backend)
    assert ref.digest == resolve_model(f"local-dir:{folders[kind]}").digest  # wherever it is
    assert hub.requests == ["GET /api/models/alice/tiny/revision/main"]


def test_identity_survives_other_commits_and_is_checked_before_loading(folders, api, hub, tmp_path):
    upload(api, folders["clip"])
    ref = resolve_model("alice/tiny")
    api.upload_file(path_or_fileobj=b"label", path_in_repo="mll/label.safetensors", repo_id="alice/tiny")
    moved = resolve_model("alice/tiny")
    assert moved.revision != ref.revision
    assert moved.key == ref.key
    upload(api, tiny_models.make_transformers_clip(tmp_path / "other", seed=1))
    other = resolve_model("alice/tiny")
    assert other.key != ref.key
    with pytest.raises(ModelError, match="is not the model that was measured"):
        load_model(replace(other, digest=ref.digest), "cpu")


def test_large_and_small_files_name_a_model_the_same_everywhere(folders, api, monkeypatch, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "model")
    (folder / "spiece.model").write_bytes(b"stored by its sha256, however small")
    upload(api, folder)
    assert resolve_model("alice/tiny").digest == resolve_model(f"local-dir:{folder}").digest
    monkeypatch.setattr(tiny_hub, "LFS_SUFFIXES", (*tiny_hub.LFS_SUFFIXES, "tokenizer.json"))  # as some authors choose
    upload(api, folder, "alice/other")
    ref = resolve_model("alice/other")
    load_model(ref, "cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model("alice/other") == ref


def test_where_the_hub_lists_no_content_ids_the_downloaded_content_is_hashed(folders, api, monkeypatch):
    upload(api, folders["clip"])
    monkeypatch.setattr(Hub, "sibling", lambda hub, path, file, blobs: {"rfilename": path, "size": file["size"]})
    ref = resolve_model("alice/tiny")
    assert (ref.digest, ref.key) == (None, "id:alice/tiny")
    assert load_model(ref, "cpu").embedding_size == 24
    local = resolve_model(f"local-dir:{folders['clip']}")
    assert load_model(replace(ref, digest=local.digest), "cpu").embedding_size == 24
    with pytest.raises(ModelError, match="is not the model that was measured"):
        load_model(replace(ref, digest="0" * 64), "cpu")


def test_any_revision_is_loaded_at_its_commit(folders, api, hub, tmp_path):
    first = upload(api, folders["clip"])
    api.create_tag("alice/tiny", tag="v1", revision=first)
    api.create_branch("alice/tiny", branch="dev")
    second = upload(api, tiny_models.make_transformers_clip(tmp_path / "other", seed=1))
    assert resolve_model("alice/tiny").revision == second
    assert {resolve_model(f"alice/tiny@{name}").revision for name in ("v1", "dev", first)} == {first}
    hub.requests.clear()
    old, new = (load_model(resolve_model(f"alice/tiny@{commit}"), "cpu") for commit in (first, second))
    expected = load_local(folders["clip"]).encode_texts(TEXTS)
    np.testing.assert_allclose(old.encode_texts(TEXTS), expected, rtol=0, atol=1e-6)
    assert np.abs(new.encode_texts(TEXTS) - expected).max() > 1e-3
    assert not [request for request in hub.requests if "main" in request]


def test_private_and_gated_models(folders, api):
    commit = upload(api, folders["open_clip"], private=True)
    assert resolve_model("alice/tiny").revision == commit
    with pytest.raises(ModelError, match="is not on the Hub, or private"):
        resolve_model("alice/tiny", token="hf_reader_token")
    api.update_repo_settings("alice/tiny", private=False, gated="manual")
    ref = resolve_model("alice/tiny", token="hf_reader_token")
    for use in (lambda token: check_access(ref, token), lambda token: load_model(ref, "cpu", token=token)):
        with pytest.raises(ModelError, match=r"is gated; accept its terms at http://127\.0\.0\.1:\d+/alice/tiny"):
            use("hf_reader_token")
        use("hf_test_token")
    assert load_model(ref, "cpu").embedding_size == 24


def test_names_that_are_not_there(folders, api, tmp_path, monkeypatch):
    upload(api, folders["open_clip"])
    with pytest.raises(ModelError, match="'alice/nothing': is not on the Hub, or private; check the name"):
        resolve_model("alice/nothing")
    with pytest.raises(ModelError, match="'alice/tiny@v9': has no such revision"):
        resolve_model("alice/tiny@v9")
    with pytest.raises(ModelError, match="not of the form org/name; for a folder write local-dir:tiny"):
        resolve_model("tiny")
    for spec in ("a/b/c", "alice/ti ny", "/abs", "alice/", ""):
        with pytest.raises(ModelError, match="not of the form org/name"):
            resolve_model(spec)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alice" / "here").mkdir(parents=True)
    with pytest.raises(ModelError, match="write local-dir:alice/here"):
        resolve_model("alice/here")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused_before_any_download(name, folders, api, hub, tmp_path):
    folder = copy_of(folders["clip"], tmp_path)
    (folder / "model.safetensors").rename(folder / name)
    upload(api, folder)
    hub.requests.clear()
    for spec in ("alice/tiny", f"local-dir:{folder}"):
        with pytest.raises(ModelError, match=r"has only pickle weights.* ask its author for safetensors"):
            resolve_model(spec)
    assert hub.requests == ["GET /api/models/alice/tiny/revision/main"]


def test_a_model_of_another_type_is_refused_before_its_weights_are_downloaded(folders, api, hub, tmp_path):
    folder = copy_of(folders["clip"], tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "llava"}))
    upload(api, folder)
    ref = resolve_model("alice/tiny")
    with pytest.raises(ModelError, match="is of type 'llava', which does not embed images and texts"):
        load_model(ref, "cpu")
    assert not [request for request in hub.requests if "model.safetensors" in request and "/resolve/" in request]


NOT_CACHED = "go online once|HF_HUB_OFFLINE is set.* unset it"


@pytest.fixture(params=["offline", "unreachable"])
def disconnect(request, monkeypatch):
    def cut():
        if request.param == "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        else:
            monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    return cut


def test_a_downloaded_model_works_without_the_hub(folders, api, hub, disconnect):
    commit = upload(api, folders["clip"])
    ref = resolve_model("alice/tiny")
    load_model(ref, "cpu")
    newer = api.upload_file(path_or_fileobj=b"# Card", path_in_repo="README.md", repo_id="alice/tiny").oid
    hf_hub_download("alice/tiny", "README.md", revision=newer)  # a copy without a model
    disconnect()
    hub.requests.clear()
    assert resolve_model("alice/tiny") == resolve_model(f"alice/tiny@{commit}") == ref
    np.testing.assert_array_equal(
        load_model(ref, "cpu").encode_texts(TEXTS), load_local(folders["clip"]).encode_texts(TEXTS)
    )
    for spec in ("alice/tiny@another-branch", "alice/other"):
        with pytest.raises(ModelError, match=NOT_CACHED):
            resolve_model(spec)
    shutil.rmtree(asset_path("answers"))  # as if another program had downloaded it
    assert resolve_model("alice/tiny") == ref
    assert bytes_to_fetch(ref, parameters=1000) == 0
    assert load_model(ref, "cpu").ref == ref
    assert hub.requests == []


def test_refs_that_no_resolver_made(hub):
    with pytest.raises(ModelError, match="model 'alice/tiny': is not on the Hub"):
        load_model(ModelRef("alice/tiny", "0" * 40, "transformers"), "cpu")
    with pytest.raises(ModelError, match="not to a full commit sha"):
        load_model(ModelRef("alice/tiny", "main", "open_clip"), "cpu")
    with pytest.raises(ModelError, match="unknown backend 'onnx'"):
        load_model(ModelRef("alice/tiny", "0" * 40, "onnx"), "cpu")


# ---- bytes to fetch


@pytest.fixture(params=["open_clip, common name", "clip, sharded", "both layouts"])
def layout(request, folders, tmp_path):
    """A folder with a model and files that it does not need."""
    kind, _, variant = request.param.partition(", ")
    folder = copy_of(folders["clip" if kind == "both layouts" else kind], tmp_path)
    if kind == "both layouts":
        shutil.copytree(folders["open_clip"], folder, dirs_exist_ok=True)
    if variant == "common name":
        (folder / "open_clip_model.safetensors").rename(folder / "model.safetensors")
    if variant == "sharded":
        network = CLIPModel.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        network.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    for name in ("pytorch_model.bin", "README.md", "onnx/model.safetensors", "mll/label.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not needed")
    return folder


def downloaded(commit):
    """Bytes of the files of a commit in the cache."""
    folder = Path(constants.HF_HUB_CACHE) / "models--alice--tiny" / "snapshots" / commit
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_bytes_to_fetch_are_those_that_loading_downloads(layout, api, hub):
    ref = ModelRef("alice/tiny", upload(api, layout), resolve_model(f"local-dir:{layout}").backend)
    hub.requests.clear()
    expected = bytes_to_fetch(ref, parameters=10**9)
    assert bytes_to_fetch(ref, parameters=10**9) == expected
    assert [str(request) for request in hub.requests] == [f"GET /api/models/alice/tiny/revision/{ref.revision}"]
    load_model(ref, "cpu")
    assert expected == downloaded(ref.revision) > 10_000
    assert bytes_to_fetch(ref, parameters=10**9) == 0
    hub.requests.clear()
    load_model(ref, "cpu")
    assert bytes_to_fetch(resolve_model(f"local-dir:{layout}"), parameters=10**9) == 0
    assert hub.requests == []


def test_bytes_to_fetch_of_models_whose_files_are_not_known(folders, api, disconnect):
    cached = ModelRef("alice/tiny", upload(api, folders["clip"]), "transformers")
    load_model(cached, "cpu")
    private = ModelRef("alice/elsewhere", upload(api, folders["clip"], "alice/elsewhere", private=True), "transformers")
    assert bytes_to_fetch(private, parameters=1000, token="hf_reader_token") == 4000
    disconnect()
    assert bytes_to_fetch(cached, parameters=1000) == 0
    assert bytes_to_fetch(replace(cached, revision="0" * 40), parameters=1000) == 4000
    with pytest.raises(ModelError, match="unknown backend 'onnx'"):
        bytes_to_fetch(replace(cached, backend="onnx"), parameters=1000)


# ---- devices


def test_devices():
    assert pick_device("cpu") == "cpu"
    assert pick_device() in ("cuda", "mps", "cpu")
    for unknown in ("gpu", "cuda:99", "cpu:x", ""):
        with pytest.raises(InputError, match="there is no device"):
            pick_device(unknown)
