"""Running models that stay loaded on any number of images."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mll_hf.ensemble import Rule, combine, embedding
from mll_hf.ensemble.run import Ensemble, for_names
from mll_hf.errors import InputError, ModelError
from mll_hf.labels.label import Cost
from mll_hf.selection import Head, Selection, SelectionConfig, Strategy, answer, select
from mll_hf.utils.images import open_image
from selection_worlds import random_candidates
from worlds import COLORS, ColorModel, encoded


class Diary(list):
    """What models and the decoder do, in order.

    Attributes:
        models: The models that were loaded, by name.
        options: Further arguments for models to come, by name.
    """

    def __init__(self):
        super().__init__()
        self.models, self.options = {}, {}


@pytest.fixture
def diary(monkeypatch):
    """Models are ColorModels, and they and the decoder write into a diary."""
    diary = Diary()

    def load(ref, device, token=None, dtype=None, texts=True):
        assert device == "somewhere"
        model = ColorModel(ref, diary, texts, **diary.options.get(ref.short_name, {}))
        diary.models[ref.short_name] = model
        return model

    def counting(source):
        diary.append(("decode",))
        return open_image(source)

    monkeypatch.setattr(embedding, "load_model", load)
    monkeypatch.setattr(embedding, "open_image", counting)
    return diary


def make_selection(k=3, strategy=Strategy.MLL, domain=None, task=None):
    candidates = random_candidates(n_models=3, n_classes=3, domain=domain)
    candidates = replace(candidates, match=replace(candidates.match, classes=tuple(COLORS)))
    return select(candidates, SelectionConfig(strategy, k=k), task)


def png(color, size=(4, 4), mode="RGB"):
    return encoded(Image.new(mode, size, color))


def names_of(selection):
    return [model.ref.short_name for model in selection.models]


def loads(diary):
    return [entry for entry in diary if entry[0] in ("load", "close")]


def test_models_stay_loaded_and_each_image_is_decoded_once(diary):
    selection = make_selection()
    images = [png(COLORS[color]) for color in ("green", "red", "blue", "green")]
    ensemble = Ensemble(selection, device="somewhere")
    prediction = ensemble.predict(images)
    assert prediction.classes == ("green", "red", "blue", "green")
    assert prediction.class_names == ("red", "green", "blue")
    np.testing.assert_allclose(prediction.probabilities.sum(axis=1), 1)
    assert ensemble.predict(images[::-1]).classes == ("green", "blue", "red", "green")
    names = names_of(selection)
    steps = [entry[:2] for entry in diary if entry[0] != "decode"]
    assert steps == [(step, name) for name in names for step in ("load", "texts")]
    assert diary.count(("decode",)) == 8
    ensemble.close()
    assert loads(diary)[3:] == [("close", name) for name in names]
    assert ensemble.predict(images[:1]).classes == ("green",)
    assert loads(diary)[6:] == [("load", name) for name in names]
    assert len([entry for entry in diary if entry[0] == "texts"]) == 3  # kept


@pytest.mark.parametrize(("keep", "n_loads"), [(1, 3 + 2 * 3), (2, 3 + 2 * 3), (3, 3), (None, 3)])
def test_models_are_loaded_one_at_a_time_if_not_all_fit_in_memory(diary, monkeypatch, keep, n_loads):
    monkeypatch.setattr(embedding, "_LARGE_BATCH", 2)
    selection = make_selection()
    images = [png(COLORS[color]) for color in ("green", "red", "blue", "green", "blue", "red")]
    size = selection.models[0].cost.parameters
    selection = replace(selection, models=tuple(replace(m, cost=Cost(size, 1.0)) for m in selection.models))
    monkeypatch.setattr(embedding, "most_parameters", lambda: (keep or 3) * size)
    ensemble = Ensemble(selection, device="somewhere")
    assert ensemble.predict(images).classes == ("green", "red", "blue", "green", "blue", "red")
    assert diary.count(("decode",)) == 6
    loaded, most = [], 0
    for step, name in loads(diary):
        if step == "load":
            loaded.append(name)
        else:
            loaded.remove(name)
        most = max(most, len(loaded))
    assert most == (keep or 3)
    # one pass before the first image; then each of three batches of two loads only those that are not there
    assert sum(step == "load" for step, _ in loads(diary)) == n_loads
    assert len([entry for entry in diary if entry[0] == "texts"]) == 3


def test_a_container_bounds_the_memory(tmp_path, monkeypatch):
    whole = answer.machine_memory()
    monkeypatch.setattr(answer, "CONTAINER_LIMIT", tmp_path / "memory.max")
    for content, expected in (("5000\n", 5000), ("max\n", whole)):
        (tmp_path / "memory.max").write_text(content)
        assert answer.machine_memory() == expected


def test_a_model_that_fails_gets_the_memory_of_all_before_it_fails_for_good(diary):
    selection = make_selection()
    first, second, third = names_of(selection)
    diary.options[second] = {"fails": True}
    with pytest.raises(ModelError, match="is broken"):
        Ensemble(selection, device="somewhere").predict([png("red")])
    assert loads(diary) == [
        *(("load", name) for name in (first, second, third)),
        *(("close", name) for name in (first, second, third)),
        ("load", second),
        ("close", second),
    ]


@pytest.mark.parametrize("where", ["encode_pixels", "encode_texts"])
def test_memory_that_runs_out_in_the_middle(diary, monkeypatch, where):
    """A model that fails beside others is run again alone, and not beside them again; no answer is lost."""
    selection = make_selection()
    alone, calls, failures = getattr(ColorModel, where), [], []

    def encode(self, inputs):
        calls.append(self.ref.short_name)
        open_models = sum(1 if step == "load" else -1 for step, _ in loads(diary))
        if open_models > 1 and len(calls) > (4 if where == "encode_pixels" else 1):
            failures.append(self.ref.short_name)
            raise ModelError(self.ref.repo_id, "out of memory")
        return alone(self, inputs)

    monkeypatch.setattr(ColorModel, where, encode)
    images = [png(COLORS[color]) for color in ("green", "red", "blue", "green", "blue", "red")]
    ensemble = Ensemble(selection, device="somewhere", batch_size=2)
    batches = [prediction.classes for prediction in ensemble.stream(images)]
    assert batches == [("green", "red"), ("blue", "green"), ("blue", "red")]
    assert 1 <= len(failures) <= 2


def test_unreadable_images_get_no_answer(diary, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "good.png").write_bytes(png("blue"))
    truncated = Image.open(io.BytesIO(png((1, 2, 3), size=(64, 64))[:90]))  # opens, but cannot be loaded
    images = [
        png("red"),
        b"no picture",
        tmp_path / "missing.png",
        str(tmp_path / "empty.png"),
        tmp_path,
        "a\0b",
        truncated,
        str(tmp_path / "good.png"),
        Image.new("RGBA", (3, 3), (0, 255, 0, 255)),
    ]
    prediction = Ensemble(make_selection(), device="somewhere").predict(images)
    assert prediction.unreadable == (1, 2, 3, 4, 5, 6)
    assert prediction.classes == ("red", None, None, None, None, None, None, "blue", "green")
    assert np.isnan(prediction.probabilities[1:7]).all()
    assert np.isfinite(prediction.probabilities[[0, 7, 8]]).all()


def test_a_trial_runs_one_model_at_a_time(diary):
    selection = make_selection()
    answer = Ensemble(selection, device="somewhere").model_runner([png(COLORS[color]) for color in COLORS])
    for m in (2, 0, 1):
        embeddings, head = answer(m)
        assert head.logits(embeddings).argmax(axis=1).tolist() == [0, 1, 2]
    names = [names_of(selection)[m] for m in (2, 0, 1)]
    assert loads(diary) == [(step, name) for name in names for step in ("load", "close")]


@pytest.mark.parametrize("where", ["open", "preprocess"])
def test_a_picture_for_which_memory_is_short_is_one_failed_item(diary, monkeypatch, where):
    def fail(image, *rest):
        if image.size == (9, 9):
            raise MemoryError
        return original(image, *rest)

    if where == "open":
        original = ImageOps.exif_transpose
        monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    else:
        whole, original = ColorModel.preprocess, lambda image, model: whole(model, image)
        monkeypatch.setattr(ColorModel, "preprocess", lambda self, image: fail(image, self))
    images = [png("red"), png("green", size=(9, 9)), png("blue")]
    assert Ensemble(make_selection(), device="somewhere").predict(images).classes == ("red", None, "blue")


def test_prompts_of_a_class_are_averaged(diary):
    # "a {}" embeds "red" as (1, 0, 0), "a dark one" as (1, 1, 1) / sqrt 3: the mean of the unit vectors is what counts
    ensemble = Ensemble(for_names(make_selection(k=1), templates=("a {}", "{}")), device="somewhere")
    monkey = ColorModel.encode_texts

    def encode_texts(self, texts):
        plain = monkey(self, texts)
        plain[1::2] = np.ones(3) / np.sqrt(3)
        return plain

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColorModel, "encode_texts", encode_texts)
        embeddings, head = ensemble.model_runner([png((254, 254, 254))])(0)
    # the image is gray, (1, 1, 1) / sqrt 3; a class is (1 + a, a, a) with a = 1 / sqrt 3, of length sqrt(2 + 2a)
    a = 1 / math.sqrt(3)
    np.testing.assert_allclose(head.logits(embeddings), [[10 * (1 + 3 * a) * a / math.sqrt(2 + 2 * a)] * 3], rtol=1e-5)


@pytest.mark.parametrize("images", [[], (), "image.png", b"bytes", Path("image.png"), Image.new("RGB", (4, 4))])
def test_a_list_of_images_is_wanted(diary, images):
    with pytest.raises(InputError, match="give a list with at least one"):
        Ensemble(make_selection(), device="somewhere").predict(images)
    assert diary == []


@pytest.mark.parametrize("rule", Rule)
def test_predictions_are_the_rule_of_the_heads_logits(diary, rule):
    """The pool takes heads with the temperature of the label; the paper's take zero-shot heads and Eq. 7's mask."""
    # the first and the third model are chosen; their logit scales are 10 and 5
    scores = np.array([[0.9] * 3, [0.5] * 3, [0.3] * 3])
    chosen = np.array([[True, False, True], [False, False, False], [True, True, False]])
    models = tuple(replace(m, temperature=t) for m, t in zip(make_selection().models, (2.0, 3, 4), strict=True))
    selection = replace(make_selection(), scores=scores, chosen=chosen, models=models)
    third = selection.models[2]
    diary.options[third.ref.short_name] = {"scale": 5.0}
    ensemble = Ensemble(selection, device="somewhere")
    images = [png((200, 90, 10)), png((10, 20, 30)), png((90, 90, 80))]
    prediction = ensemble.predict(images, rule)
    # cosines of the mean colors (plus one) with those of the color words
    colors = np.array([(201, 91, 11), (11, 21, 31), (91, 91, 81)], float)
    cosines = colors / np.linalg.norm(colors, axis=1, keepdims=True)
    logits = np.stack([10 * cosines, 5 * cosines])
    if rule is Rule.LINEAR_POOL:
        logits = np.stack([logits[0] / 2, logits[1] / 4])
    expected = combine(rule, logits, chosen[[0, 2]], selection.weights[[0, 2]])
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)


IMAGES = [png(color) for color in ((200, 90, 10), (10, 200, 30), (90, 90, 200))]


def texts_read(diary):
    """Names of the models that have read texts since the last call; the diary begins again."""
    read = [entry[1] for entry in diary if entry[0] == "texts"]
    diary.clear()
    return read


@pytest.mark.parametrize("strategy", [Strategy.MLL, Strategy.PAPER])
@pytest.mark.parametrize("is_saved", [False, True])
def test_heads_from_names_are_made_once_and_then_no_text_tower_is_loaded(diary, tmp_path, strategy, is_saved):
    selection, rules = make_selection(strategy=strategy), (Rule.LINEAR_POOL, Rule.ENTROPY)
    if is_saved:
        selection.save_pretrained(tmp_path)
    location = tmp_path if is_saved else None
    first = Ensemble(Selection.from_pretrained(location) if location else selection, device="somewhere")
    fresh = {rule: first.predict(IMAGES, rule) for rule in rules}
    assert sorted(texts_read(diary)) == sorted(names_of(selection))
    again = Ensemble(Selection.from_pretrained(location) if location else selection, device="somewhere")
    assert again.predict(IMAGES).classes == fresh[Rule.LINEAR_POOL].classes
    assert not any(model.has_texts for model in diary.models.values())
    for rule in rules:
        np.testing.assert_allclose(again.predict(IMAGES, rule).probabilities, fresh[rule].probabilities, atol=1e-6)
    assert texts_read(diary) == []


def test_other_classes_and_templates_need_the_text_tower_and_do_not_replace_heads(diary):
    selection = make_selection(k=1)
    name = names_of(selection)[0]
    expected = Ensemble(selection, device="somewhere").predict(IMAGES)
    assert texts_read(diary) == [name]
    ensemble = Ensemble(selection, device="somewhere")
    assert ensemble.predict(IMAGES) == expected
    other = replace(ensemble, selection=replace(selection, classes=("blue", "green", "red")), keeps_heads=False)
    assert other.predict(IMAGES).classes == expected.classes
    assert loads(diary) == [("load", name), ("close", name), ("load", name)]  # without, then with its text tower
    assert ensemble.predict(IMAGES) == expected
    assert texts_read(diary) == [name]
    fresh = Ensemble(replace(selection, classes=("blue", "green", "red")), device="somewhere")
    fresh.predict(IMAGES)  # heads for a request were not saved
    assert texts_read(diary) == [name]
    for _ in range(2):
        Ensemble(for_names(selection, templates=("so {}",)), device="somewhere").predict(IMAGES)
    assert texts_read(diary) == [name]
    assert Ensemble(selection, device="somewhere").predict(IMAGES) == expected
    assert texts_read(diary) == []


def test_fitted_heads_decide_and_are_checked(diary):
    selection = make_selection(k=1)
    turned = Head(np.eye(3, dtype=np.float32)[[1, 2, 0]], np.zeros(3, np.float32), is_fitted=True)
    fitted = replace(selection, heads=(turned,))
    assert Ensemble(selection, device="somewhere").predict(IMAGES).classes == ("red", "green", "blue")
    assert Ensemble(fitted, device="somewhere").predict(IMAGES).classes == ("blue", "red", "green")
    assert Ensemble(fitted).fingerprint() != Ensemble(selection).fingerprint()
    wrong = replace(turned, weights=np.ones((3, 4), np.float32))
    with pytest.raises(InputError, match=r"the head of m\d+ has 4 dimensions, the model 3; make the selection again"):
        Ensemble(replace(selection, heads=(wrong,)), device="somewhere").predict(IMAGES)


def test_fingerprints_tell_apart_what_predicts_differently():
    selection = make_selection()
    fingerprint = Ensemble(selection).fingerprint()
    assert Ensemble(replace(selection), batch_size=3).fingerprint() == fingerprint
    others = [
        Ensemble(selection).fingerprint(Rule.ENTROPY),
        Ensemble(for_names(selection, templates=("{}",))).fingerprint(),
        Ensemble(selection, dtype="float16").fingerprint(),
        Ensemble(replace(selection, scores=selection.scores * 1.1 - [[0.1], [0], [0]])).fingerprint(),
        Ensemble(replace(selection, classes=("red", "green", "pink"))).fingerprint(),
        Ensemble(make_selection(k=1)).fingerprint(),
    ]
    assert all(other != fingerprint for other in others)
