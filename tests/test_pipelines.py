"""A selection called like a pipeline of transformers: what goes in, what comes out, the same from any cache."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub import ZeroShotImageClassificationOutputElement, constants
from PIL import Image

import mll_hf
from mll_hf import SelectionConfig
from mll_hf.client import Client
from mll_hf.ensemble import embedding, run
from mll_hf.errors import InputError, MLLError
from mll_hf.labels.label import ModelRef
from mll_hf.matching.prompts import fill
from mll_hf.models.source import resolve_model
from mll_hf.pipelines import Pipeline, pipeline
from mll_hf.selection import choose_with_images, select
from mll_hf.selection.head import Head, heads_to_bytes
from mll_hf.selection.probabilities import softmax
from selection_worlds import random_candidates
from tiny_models import make_open_clip
from worlds import COLORS, ColorModel, encoded, unit

REPO = "alice/classifier"
RNG = np.random.default_rng(0)
PICTURES = [Image.fromarray(RNG.integers(0, 256, (40, 32, 3), dtype=np.uint8)) for _ in range(5)]
CLASSES = ("cat", "red car", "tree")


def scores_of(answers, classes=CLASSES):
    """[N, C] scores in the order of the classes."""
    return np.array([[{a["label"]: a["score"] for a in one}[name] for name in classes] for one in answers])


# --- with real models -------------------------------------------------------------------------------------------------


@pytest.fixture
def selection(api, tmp_path, tiny_open_clip):
    """Two models on the Hub, chosen for CLASSES and fitted to embeddings like those of PICTURES."""
    models = []
    chosen = select(random_candidates(n_models=2, n_classes=3), SelectionConfig(k=2))
    for name, model in zip(("one", "two"), chosen.models, strict=True):
        folder = tiny_open_clip if name == "one" else make_open_clip(tmp_path / name, seed=1)
        api.create_repo(f"alice/{name}")
        revision = api.upload_folder(repo_id=f"alice/{name}", folder_path=folder).oid
        models.append(replace(model, ref=ModelRef(f"alice/{name}", revision, "open_clip")))
    chosen = replace(chosen, classes=CLASSES, models=tuple(models))
    prompts = ("a {}", "this {}")
    chosen = run.for_names(chosen, templates=prompts)
    runner = run.Ensemble(chosen, "cpu").model_runner(PICTURES)
    classes, embedded = np.arange(60) % 3, []
    for images, head in map(runner, (0, 1)):
        own = images - images.mean(axis=0)
        clusters = (own / own.std())[classes]
        embedded.append((unit(images.mean(axis=0) + clusters + RNG.normal(size=clusters.shape)), head))
    chosen = choose_with_images(chosen, (0, 1), embedded, SelectionConfig(k=2), classes)
    assert len(chosen.chosen_models) == 2
    assert all(head.is_fitted for head in chosen.heads)
    return chosen


def test_answers_are_equal_from_another_cache(selection, monkeypatch, tmp_path):
    expected = Client("labels", device="cpu").load(selection).predict(PICTURES).probabilities
    selection.push_to_hub(REPO)
    for name in ("HF_HUB_CACHE", "HF_ASSETS_CACHE"):  # as with another HF_HOME
        monkeypatch.setattr(constants, name, str(tmp_path / name))
    classifier = mll_hf.pipeline(REPO, device="cpu")
    answers = classifier(PICTURES)
    np.testing.assert_array_equal(scores_of(answers), expected)
    for one in answers:
        assert [list(answer) for answer in one] == [["score", "label"]] * 3
        assert [answer["score"] for answer in one] == sorted((answer["score"] for answer in one), reverse=True)
        assert sum(answer["score"] for answer in one) == pytest.approx(1)
    rejected = [one == [{"score": 0.0, "label": None}] for one in classifier(PICTURES, reject=0.4)]
    found = Client("labels", device="cpu").load(selection).predict(PICTURES, reject=0.4)
    assert rejected == found.rejected.tolist() == [label is None for label in found.classes]
    assert any(rejected)
    # other classes: the weights and temperatures, without the fit
    others = ("dog", "blue car")
    plain = replace(selection, classes=others, trial=None, heads=(), templates=selection.prompt_templates)
    runner = run.Ensemble(plain, "cpu").model_runner(PICTURES[:2])
    logits = np.stack([head.logits(images) for images, head in map(runner, selection.chosen_models)])
    union = list(selection.chosen_models)
    weights = selection.weights[union] / selection.weights[union].sum()
    expected = np.einsum("m,mnc->nc", weights, softmax(logits / selection.temperatures[union][:, None, None]))
    found = scores_of(classifier(PICTURES[:2], candidate_labels=list(others)), others)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # the same classes, in whatever order, keep them
    assert classifier._ensemble_for(CLASSES[::-1], None).selection is classifier.ensemble.selection


def test_answers_are_those_of_transformers(tiny_transformers_clip, tmp_path):
    from transformers import pipeline as of_transformers

    chosen = select(random_candidates(n_models=1), SelectionConfig())
    model = replace(chosen.models[0], ref=resolve_model(f"local-dir:{tiny_transformers_clip}"), temperature=1.0)
    ours = pipeline(replace(chosen, models=(model,)), device="cpu")
    theirs = of_transformers("zero-shot-image-classification", model=str(tiny_transformers_clip), device="cpu")
    options = {"candidate_labels": list(CLASSES), "hypothesis_template": "This is a photo of {}."}
    (tmp_path / "one.png").write_bytes(encoded(PICTURES[0]))
    found, expected = ([p(str(tmp_path / "one.png"), **options)] for p in (ours, theirs))
    found += ours(PICTURES[1:3], **options)
    expected += theirs(PICTURES[1:3], **options)
    found += ours((picture for picture in PICTURES[3:5]), **options)
    expected += theirs((picture for picture in PICTURES[3:5]), **options)
    assert len(found) == len(expected) == 5
    for one, other in zip(found, expected, strict=True):
        assert [list(answer) for answer in one] == [list(answer) for answer in other]
        assert [answer["label"] for answer in one] == [answer["label"] for answer in other]
        assert [answer["score"] for answer in one] == pytest.approx([answer["score"] for answer in other], abs=1e-3)


# --- with models that answer at once ----------------------------------------------------------------------------------


DIARY = []  # of all models


@pytest.fixture
def classifier(monkeypatch):
    monkeypatch.setattr(embedding, "load_model", lambda ref, device, texts, **options: ColorModel(ref, DIARY, texts))
    chosen = select(random_candidates(n_models=2, n_classes=3), SelectionConfig())
    return Pipeline(run.Ensemble(replace(chosen, classes=tuple(COLORS)), batch_size=2))


RED, GREEN, BLUE = (Image.new("RGB", (4, 4), color) for color in ("red", "#00ff00", "blue"))


def texts_read():
    """The texts that a model read last."""
    return next(entry[2] for entry in reversed(DIARY) if entry[0] == "texts")


def best(answers):
    return [one[0]["label"] for one in answers]


def test_every_form_of_an_image(classifier, tmp_path):
    (tmp_path / "blue.png").write_bytes(encoded(BLUE))
    expected = classifier(BLUE)
    assert expected[0]["label"] == "blue"
    for image in (
        encoded(BLUE),
        tmp_path / "blue.png",
        str(tmp_path / "blue.png"),
        base64.b64encode(encoded(BLUE)).decode(),
        base64.encodebytes(encoded(BLUE)).decode(),
        f"data:image/png;base64,{base64.b64encode(encoded(BLUE)).decode()}",
        {"image": BLUE},
        {"image": {"bytes": encoded(BLUE), "path": None}, "label": 1},
        {"image": {"bytes": None, "path": str(tmp_path / "blue.png")}},
    ):
        assert classifier(image) == expected
        assert classifier([image]) == [expected]
        assert list(classifier(iter([image]))) == [expected]
    assert classifier([]) == []
    assert classifier((RED, BLUE)) == classifier([RED, BLUE])
    assert list(classifier(iter(()))) == []
    assert best(classifier(image=[RED, GREEN, BLUE])) == ["red", "green", "blue"]


def test_links(classifier, hub, monkeypatch):
    hub.put("dataset", "alice/photos", {"red.png": encoded(RED)})
    link = f"{constants.ENDPOINT}/datasets/alice/photos/resolve/main/red.png"
    assert classifier(link)[0]["label"] == classifier(link, timeout=5.0)[0]["label"] == "red"
    for wrong in (
        f"{constants.ENDPOINT}/datasets/alice/photos/resolve/main/none.png",
        "http://[",
        "http://127.0.0.1:1/",
    ):
        with pytest.raises(InputError, match="cannot be read as an image"):
            classifier(wrong)
    monkeypatch.setattr("mll_hf.pipelines._MAX_BYTES", 10)  # it is not read to its end
    with pytest.raises(InputError, match="cannot be read as an image"):
        classifier(link)


def test_a_stream_is_drawn_as_it_is_asked_for(classifier):
    drawn = []

    def camera():
        while True:
            drawn.append(1)
            yield (RED, BLUE)[len(drawn) % 2]

    stream = classifier(camera())
    assert drawn == []
    for n in range(20):
        assert next(stream)[0]["label"] == ("blue", "red")[n % 2]
        assert n < len(drawn) <= n + 6  # no more than the next batches, of two


def test_images_that_cannot_be_read(classifier, tmp_path, caplog):
    (tmp_path / "half.png").write_bytes(encoded(RED)[:40])
    answers = classifier([RED, b"no picture", tmp_path / "half.png", 3.5, BLUE])
    assert [len(one) for one in answers] == [3, 0, 0, 0, 3]
    assert best([answers[0], answers[4]]) == ["red", "blue"]
    said = [record.message for record in caplog.records]
    assert said == [f"image {n} cannot be read; it has no prediction" for n in (1, 2, 3)]
    for one in (tmp_path / "half.png", str(tmp_path / "none.png"), b"x" * 1000, 3.5):
        with pytest.raises(InputError, match="cannot be read as an image; check the path, URL or file") as failure:
            classifier(one)
        assert len(str(failure.value)) < 150


def test_options_of_a_call(classifier):
    assert [answer["label"] for answer in classifier(GREEN, top_k=1)] == ["green"]
    assert len(classifier(GREEN, top_k=99)) == 3
    assert texts_read() == tuple(t for c in COLORS for t in fill(classifier.ensemble.selection.prompt_templates, c))
    assert best(classifier([BLUE], ["a red thing", "a blue thing"])) == ["a blue thing"]
    classifier(RED, ["red", "dark"], hypothesis_template="so {}!")
    assert texts_read() == ("so red!", "so dark!")
    # as clients send them, and as in transformers' own tests
    assert classifier(GREEN, "a red thing, a green thing") == classifier(GREEN, ["a red thing", "a green thing"])
    one = classifier(GREEN, candidate_labels=["red", "green", "dark"])
    assert classifier([GREEN] * 5, candidate_labels=["red", "green", "dark"], batch_size=2) == [one] * 5
    for answer in one:
        assert not ZeroShotImageClassificationOutputElement(**answer).keys() ^ {"label", "score"}
    # equal scores keep the order of the classes
    assert [answer["label"] for answer in classifier(RED, ["x", "y", "z"])] == ["x", "y", "z"]


def test_other_classes_do_not_load_the_models_again(classifier, monkeypatch):
    loaded, load = [], embedding.load_model
    monkeypatch.setattr(embedding, "load_model", lambda *a, **b: loaded.append(1) or load(*a, **b))
    for classes in (None, ["blue", "red"], None, ["red", "green", "dark"], ["blue", "red"]):
        classifier([RED], classes)
    assert len(loaded) == len(classifier.ensemble.selection.chosen_models)


def test_images_are_run_in_batches_of_the_size_of_the_call(classifier, monkeypatch):
    sizes, encode = [], ColorModel.encode_pixels
    monkeypatch.setattr(
        ColorModel, "encode_pixels", lambda self, pixels: sizes.append(len(pixels)) or encode(self, pixels)
    )
    classifier([RED] * 5, batch_size=3)
    assert max(sizes) == 3
    with pytest.raises(InputError, match="batch_size is 0"):
        classifier(RED, batch_size=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 0}, "top_k is 0; give a whole number, at least 1"),
        ({"candidate_labels": []}, "no class names given"),
        ({"candidate_labels": ["red", "Red"]}, "class names cannot be used"),
        ({"hypothesis_template": "no place"}, "must have exactly one {}"),
        ({"reject": 0.1}, "a selection by 'mll-hf fit' is needed"),
    ],
)
def test_wrong_options_are_said_before_anything_is_drawn(classifier, options, said):
    with pytest.raises(InputError, match=said):
        classifier(iter([RED]), **options)


@pytest.mark.parametrize(
    ("given", "device"),
    [
        (None, None), ("cpu", "cpu"), (0, "cuda:0"), (2, "cuda:2"), (-1, "cpu"),
        (torch.device("cpu"), "cpu"), (torch.device("cuda", 1), "cuda:1"),
    ],
)  # fmt: skip
def test_devices_as_in_transformers(classifier, given, device, monkeypatch):
    assert pipeline(classifier.ensemble.selection, device=given).ensemble.device == device
    with pytest.raises(InputError, match="batch_size is 0; give at least 1"):
        pipeline(classifier.ensemble.selection, batch_size=0)(RED)


# --- refused before anything is downloaded ----------------------------------------------------------------------------


def test_a_token_reaches_the_selection_and_its_models(api, hub, monkeypatch):
    selection = select(random_candidates(n_models=2, n_classes=2), SelectionConfig())
    for model in selection.models:
        api.create_repo(f"alice/{model.ref.short_name}", private=True)
    refs = [
        replace(m.ref, repo_id=f"alice/{m.ref.short_name}", revision=api.model_info(f"alice/{m.ref.short_name}").sha)
        for m in selection.models
    ]
    models = tuple(replace(m, ref=ref) for m, ref in zip(selection.models, refs, strict=True))
    replace(selection, models=models).push_to_hub(REPO, private=True)
    monkeypatch.delenv("HF_TOKEN")
    classifier = pipeline(REPO, token="hf_test_token")
    assert classifier.ensemble.token == "hf_test_token"
    assert "hf_test_token" not in repr(classifier)


def test_a_selection_of_a_stranger_fails_in_one_line(classifier, hub, monkeypatch):
    """Whatever a repo holds: an error of ours before any model is loaded, or one that names the fault."""
    loaded = []
    monkeypatch.setattr(embedding, "load_model", lambda ref, *_, **__: loaded.append(ref) or ColorModel(ref, DIARY))
    chosen = classifier.ensemble.selection
    document = chosen.to_json()
    refs = [chosen.models[m].ref for m in chosen.chosen_models]
    wide = Head(np.ones((3, 4000), np.float32), np.zeros(3, np.float32))

    def hostile(heads=b"", **changes):
        hub.put("model", "mallory/choice", {
            "mll_selection.json": json.dumps(document | changes).encode(), "heads.safetensors": heads,
        })  # fmt: skip
        return pipeline("mallory/choice")

    for changes in ({"classes": ["a"] * 10**5}, {"classes": 7}, {"models": []}, {"models": [{}]}, {"weights": [1e400]}):
        with pytest.raises(MLLError):
            hostile(**changes)
    for heads in (b"x" * 100, heads_to_bytes([wide], refs[:1], ["other"] * 3)):
        with pytest.raises(InputError):
            hostile(heads)
    assert not loaded
    with pytest.raises(MLLError, match="4000"):
        hostile(heads_to_bytes([wide] * len(refs), refs, chosen.classes))(RED)
