"""A selection as ONNX graphs: what their README does without torch is what the ensemble does."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from cli_worlds import run
from mll_hf import export
from mll_hf.ensemble import embedding
from mll_hf.ensemble.run import Ensemble
from mll_hf.errors import InputError, MissingExtraError
from mll_hf.export import export_onnx, preprocess
from mll_hf.labels.label import Cost
from mll_hf.models import load_model
from mll_hf.models.source import resolve_model
from mll_hf.selection import MatchedConcept, SelectedModel, Selection, Strategy
from mll_hf.selection.head import Head
from tiny_architectures import write_transformers
from tiny_models import make_open_clip, make_transformers_clip

CLASSES = ("cat", "dog", "red tree")
NO_TORCH = "import sys; sys.modules |= dict.fromkeys(['torch', 'open_clip', 'transformers', 'mll_hf', 'onnx']);"


def selection_of(*folders):
    """Models of different weights and temperatures."""
    models = tuple(
        SelectedModel(resolve_model(f"local-dir:{folder}"), Cost(1, 1.0), temperature=2.0 + m)
        for m, folder in enumerate(folders)
    )
    scores = np.repeat(np.arange(1.0, len(models) + 1)[:, None], len(CLASSES), axis=1)
    chosen = np.ones(scores.shape, np.bool_)
    matches = ((MatchedConcept("n1", "thing", 1.0),),) * len(CLASSES)
    return Selection(CLASSES, Strategy.MLL, len(models), models, scores, chosen, matches, np.zeros(len(CLASSES)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each backend; they resize the shorter side and crop, and round differently."""
    root = tmp_path_factory.mktemp("models")
    open_clip = make_open_clip(root / "open_clip")
    config = json.loads((open_clip / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "shortest"
    (open_clip / "open_clip_config.json").write_text(json.dumps(config))
    clip = make_transformers_clip(root / "clip", seed=1)
    processor = json.loads((clip / "preprocessor_config.json").read_text())
    processor |= {"size": {"shortest_edge": 32}, "do_center_crop": True}
    (clip / "preprocessor_config.json").write_text(json.dumps(processor))
    return open_clip, clip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of three sizes in folders with the names of classes, one transparent, one rotated by EXIF."""
    root = tmp_path_factory.mktemp("images")
    for n, size in enumerate(((61, 97), (151, 90), (32, 35))):
        folder = root / CLASSES[n]
        folder.mkdir()
        pixels = np.random.default_rng(n).integers(0, 256, (*size, 4 if n == 0 else 3), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(folder / "image.png", **({"exif": exif} if n == 1 else {}))
    return root


@pytest.fixture(scope="module")
def exported(folders, images, tmp_path_factory):
    """(folder, models) of an export of both models."""
    folder = tmp_path_factory.mktemp("onnx")
    models, failed = export_onnx(selection_of(*folders), folder, check_images=images)
    assert failed == []
    return folder, models


def test_the_readme_predicts_without_torch_as_the_ensemble_does(folders, images, exported):
    folder, models = exported
    assert [model["max_difference"] < 1e-3 for model in models] == [True, True]
    program = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    paths = sorted(images.rglob("*.png"))
    expected = Ensemble(selection_of(*folders)).predict(paths).probabilities
    for path, row in zip(paths, expected, strict=True):
        code = NO_TORCH + program.replace("photo.jpg", str(path)) + "\nprint(json.dumps(probabilities.tolist()))"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        first, last = done.stdout.splitlines()
        np.testing.assert_allclose(json.loads(last), row, atol=1e-3)
        assert first.startswith(CLASSES[int(row.argmax())])


def test_a_graph_names_its_classes_and_takes_any_number_of_images(exported):
    folder, (model, *_) = exported
    session = onnxruntime.InferenceSession(folder / model["file"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["preprocess"]) == model["preprocess"]
    for n in (1, 5):
        (probabilities,) = session.run(None, {"pixel_values": np.ones((n, 3, 32, 32), np.float32)})
        np.testing.assert_allclose(probabilities.sum(axis=1), np.ones(n), rtol=1e-5)


def test_preprocessing_crops_as_each_library_does(folders):
    """The two round half a pixel differently."""
    for folder in folders:
        model = load_model(resolve_model(f"local-dir:{folder}"), "cpu")
        for size in ((97, 61), (35, 32), (32, 35), (33, 200)):
            image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
            np.testing.assert_allclose(
                preprocess(image, model.preprocessing()), model.preprocess(image).numpy(), atol=1e-5
            )


@pytest.mark.parametrize("most_lost", [-2, 2])
def test_int8_is_deleted_if_it_loses_too_much(images, exported, tmp_path, monkeypatch, most_lost):
    monkeypatch.setattr(export, "_MOST_LOST", most_lost)
    folder, (model, *_) = exported
    graph = shutil.copy(folder / model["file"], tmp_path / "graph.onnx")
    found = export._quantize(graph, model["preprocess"], sorted(images.rglob("*.png")), CLASSES)
    assert (found["images"], len(found["accuracy"])) == (3, 2)
    assert found["file"] == ("graph.int8.onnx" if most_lost > 0 else None)
    assert (tmp_path / "graph.int8.onnx").exists() == (most_lost > 0)


def test_fitted_heads_need_no_text_tower_and_a_graph_that_predicts_otherwise_is_refused(
    folders, exported, tmp_path, monkeypatch
):
    def without_texts(*args, texts=True, **options):
        assert not texts
        return load_model(*args, texts=texts, **options)

    def write(model, head, path, metadata):
        if model.ref.short_name == "clip":
            shutil.copy(exported[0] / path.name, path)  # of other classes
        else:
            write_graph(model, head, path, metadata)

    write_graph = export._write_graph
    monkeypatch.setattr(export, "_write_graph", write)
    monkeypatch.setattr(embedding, "load_model", without_texts)
    head = Head(np.zeros((3, 24), np.float32), np.log([0.5, 0.3, 0.2]).astype(np.float32), is_fitted=True)
    ((model,), (error,)) = export_onnx(replace(selection_of(*folders), heads=(head, head)), tmp_path / "onnx")
    assert "model 'clip': cannot be exported: its graph changes probabilities by up to 0." in str(error)
    assert [path.name for path in (tmp_path / "onnx").glob("*.onnx")] == [model["file"]] == ["0-open_clip.onnx"]
    assert model["weight"] == 1
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / model["file"])
    (probabilities,) = session.run(None, {"pixel_values": np.ones((1, 3, 32, 32), np.float32)})
    np.testing.assert_allclose(probabilities[0], [0.5, 0.3, 0.2], atol=1e-5)
    assert "The heads were fitted to images" in (tmp_path / "onnx" / "README.md").read_text()


def test_a_model_whose_images_pillow_cannot_prepare_is_named(tmp_path, capsys, monkeypatch):
    """NaFlex has patches, ALIGN scales pixels by another constant."""
    monkeypatch.setattr(export, "_write_graph", lambda *_: None)  # whatever the graph
    monkeypatch.setattr(export, "_session", lambda _: lambda pixels: np.zeros((len(pixels), 3), np.float32))
    kinds = {"naflex": "siglip2", "align": "align"}
    folders = [write_transformers(tmp_path / name, kind) for name, kind in kinds.items()]
    choice = tmp_path / "choice.json"
    choice.write_text(json.dumps(selection_of(*folders).to_json()))
    status, out, err = run(capsys, "export", choice, tmp_path / "onnx")
    assert (status, out) == (1, "")
    assert "model 'naflex': cannot be exported: its preprocessing is not resize, crop and normalize" in err
    assert "model 'align': cannot be exported: Pillow prepares images otherwise, by up to " in err
    assert not (tmp_path / "onnx").exists()


def test_bad_input(tmp_path, monkeypatch):
    selection = selection_of()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="full is not an empty folder"):
        export_onnx(selection, tmp_path / "full")
    with pytest.raises(InputError, match="give --check-images FOLDER"):
        export_onnx(selection, tmp_path / "new", int8=True)
    with pytest.raises(InputError, match="nor a folder of images"):
        export_onnx(selection, tmp_path / "new", check_images=tmp_path / "full")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"'onnxscript'; install it with: pip install .*export"):
        export_onnx(selection, tmp_path / "new")
