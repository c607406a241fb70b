"""Answers and errors of the Space mll_select, without a server."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import pickle
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

import mll_hf.client
from mll_hf import Selection
from mll_hf.errors import InputError, ModelError
from mll_hf.labels.label import Cost
from mll_hf.models import resolve_model
from selection_worlds import WordEncoder
from space_worlds import (
    FOLDER,
    HARM,
    SAYS_HARM,
    harmful_graph,
    load_app,
    make_labels,
    make_library,
    make_store,
    signs_graph,
)
from worlds import CAT, make_graph, make_label

import answers  # isort: skip
import pages  # isort: skip
import trials  # isort: skip

PICTURE = str(FOLDER / "pictures" / "1-sun.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    graph = harmful_graph()
    return make_store(tmp_path_factory.mktemp("labels"), make_labels(graph), graph)


@pytest.fixture(scope="module")
def labels(folder):
    return make_library(folder).labels


def ask(*classes, **options):
    return answers.make_question(classes, **options)


# --- questions ---


@pytest.mark.parametrize(
    ("classes", "options", "reason"),
    [
        ([], {}, "no class names given"),
        (["cat"], {}, "one class leaves nothing to choose between"),
        ([f"c{n}" for n in range(5000)], {}, "5,000 class names are more than this page accepts"),
        (["cat", "dog"], {"k": 0}, "k is"),
        (["cat", "dog"], {"k": 11}, "choose 1 to 10"),
        (["cat", "dog"], {"max_gflops": -1}, "max_gflops is"),
        (["cat", "dog"], {"max_million_parameters": float("inf")}, "max_parameters is"),
        (["cat", "dog"], {"domain": "x" * 101}, "longer than 100"),
        (["cat", "dog"], {"licenses": ["mit", HARM]}, "is not a Hub id of a license"),
    ],
)
def test_questions_that_cannot_be_used(classes, options, reason):
    with pytest.raises(InputError, match=reason) as caught:
        answers.make_question(classes, **options)
    assert "\n" not in str(caught.value)


# --- the labels ---


def test_only_allowed_models_are_chosen(labels, hub):
    hub.put("model", "org/dogs", {"README.md": b"---\nlicense: mit\n---\n"})
    chosen = labels.select(ask("cat", "corgi", licenses=answers.OPEN_LICENSES))
    assert [chosen.models[m].ref.repo_id for m in chosen.chosen_models] == ["org/dogs"]
    assert "may have any license" in pages.ranking_html(chosen)
    html = pages.ranking_html(chosen, ("mit", HARM))
    assert "name one of these licenses: mit, &lt;img" in html
    assert HARM not in html


def test_labels_are_read_again_after_an_hour_and_failures_after_seconds(tmp_path):
    graph, folder = make_graph(), tmp_path / "labels"
    library = make_library(folder)
    for _ in range(2):
        with pytest.raises(InputError, match="has no labels"):
            _ = library.labels
        make_store(folder, make_labels(graph)[:2], graph)
    library._expires -= 21
    assert len(library.labels.models) == 2
    make_store(folder, make_labels(graph)[2:], graph)
    assert len(library.labels.models) == 2
    library._expires -= 3601
    assert len(library.labels.models) == 3
    library.settings = replace(library.settings, labels="hf://datasets/alice/nothing")
    library._expires -= 3601
    assert len(library.labels.models) == 3  # the old ones, rather than none


class SlowEncoder(WordEncoder):
    """Takes its time, and records whether two threads use it at once."""

    def __init__(self):
        super().__init__()
        self.running, self.most = 0, 0

    def encode(self, texts):
        self.running += 1
        self.most = max(self.most, self.running)
        time.sleep(0.02)
        try:
            return super().encode(texts)
        finally:
            self.running -= 1


def test_everything_is_loaded_before_the_server_starts(folder, monkeypatch):
    app, encoder, served = load_app(), SlowEncoder(), []
    monkeypatch.setenv("MLL_LABELS", folder)
    monkeypatch.setattr(app, "CachedEncoder", lambda _encoder: encoder)
    monkeypatch.setattr(app, "serve", lambda library: served.append((library, len(encoder.texts))))
    assert app.main() == 0
    ((library, loaded),) = served
    assert loaded > len(harmful_graph())
    graph = library.labels.boards[0].graph
    computed = set(vars(library.labels.client.index)), set(vars(graph))

    # without a lock, cached properties would be computed by each of several threads
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: library.labels.select(ask("cat", f"thing {n % 3}")), range(16)))
        list(pool.map(lambda _: library.labels.senses("big dog"), range(8)))
    assert all(selection.chosen_models for selection in found)
    assert encoder.most == 1
    assert encoder.texts.count(graph.concepts[CAT].caption) == 1
    assert computed == (set(vars(library.labels.client.index)), set(vars(graph)))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What the Space knows where its source has no labels: the figures that come with the package."""
    folder = make_store(tmp_path_factory.mktemp("none"), [], make_graph())
    return make_library(f"{folder},published").labels


def test_without_labels_published_figures_answer(published):
    parts = load_app().find(published, ask("umbrella", "cougar"))
    assert "ImageNet accuracy" in parts[1]
    assert "Client()" in answers.python_code(ask("cat", "dog"), "hub,published")
    assert published.senses("umbrella") == (["n04507155"], True)
    rows = pages.leaderboard(published.models, 0)
    assert len(rows) == len(published.models) > 100
    assert {row[1] for row in rows} == {None}
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
    overall = published.models[-1]
    assert "Only its overall accuracy is known" in pages.model_page(overall, published)
    with pytest.raises(InputError, match="was not measured on"):
        published.read_label(overall, None)


def test_no_accuracy_is_shown_where_none_is_known(published):
    question = ask("asdfqw", "zxcvbn")
    selection = published.select(question)
    app = load_app()
    parts = app.find(published, question)
    assert "accuracy not known" in parts[0]
    assert "nothing close enough to any of your classes" in parts[0]
    assert parts[1].count("not known") == len(pages.shown_models(selection))
    assert not parts[2].layout.yaxis.showticklabels
    record = app._selection_record(selection, "")
    assert {model["accuracy"] for model in record["models"]} == {None}
    assert json.dumps(record)


# --- several graphs ---


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """Labels on two graphs that both have cats; some are left out."""
    graph, signs = make_graph(), signs_graph()
    at = signs.index
    cats_on_signs = [10] * 4
    cats_on_signs[at["letter b"]] = 1
    everything = [
        *make_labels(graph),
        make_label(signs, cats_on_signs, repo_id="org/cats", license=None),
        make_label(signs, [5] * 4, repo_id="org/even"),
        make_label(signs, repo_id="org/only-signs"),
        make_label(
            graph, repo_id="local-dir:/home/somebody/mine", probes_digest="e" * 40, probes_location=f"old {HARM}"
        ),
    ]
    return make_library(make_store(tmp_path_factory.mktemp("joined"), everything, graph, signs)).labels


def test_labels_that_are_left_out_are_shown_with_the_reason(joined):
    html = pages.boards_html(joined)
    assert "org/only-signs on signs: the model has no label on the reference graph tiny" in html
    assert f"mine on tiny: measured on other probe images (old {SAYS_HARM}" in html
    assert "somebody" not in html
    assert HARM not in html
    assert "tiny: 3 models on 7 concepts; signs: 2 models on 4 concepts" in html


# --- code to take away ---


QUESTIONS = [
    ask("cat", "dog", "car", domain="photo", task="it's a 'task'", k=2, max_gflops=10.5, max_million_parameters=500),
    ask("a, b", 'say "cat"', "it's", "$(rm -rf x)", "<b>", "back\\slash", domain="-x"),
    ask(*(f"class {n}" for n in range(60))),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
def test_the_code_gives_the_same_models(question, folder, labels, monkeypatch):
    monkeypatch.setattr(mll_hf.client, "DefaultEncoder", WordEncoder)
    selection = labels.select(question)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(answers.python_code(question, folder), {})
    assert printed.getvalue().split() == [selection.models[m].ref.repo_id for m in selection.chosen_models]


# --- running models ---


@pytest.fixture(scope="module")
def runnable(tmp_path_factory, tiny_open_clip):
    """Labels of one model that can be run."""
    graph = make_graph()
    model = resolve_model(f"local-dir:{tiny_open_clip}")
    label = make_label(graph, model=model)
    return make_library(make_store(tmp_path_factory.mktemp("runnable"), [label], graph)).labels


def nothing(*_):
    """A progress that nobody sees."""


def test_images_are_classified(runnable, tmp_path):
    other = tmp_path / "no-image.png"
    other.write_bytes(b"no image")
    told = []
    trial = trials.classify(runnable, ask("cat", HARM), [PICTURE, str(other)], None, lambda *what: told.append(what))
    np.testing.assert_allclose(trial.probabilities[0].sum(), 1)
    assert np.isnan(trial.probabilities[1]).all()
    assert told[0][0] == (0, 1)
    html = pages.predictions_html(trial, ["sun.png", HARM])
    assert "not readable" in html
    assert SAYS_HARM in html
    assert HARM not in html
    assert pages.classified(trial).startswith("1 image classified by ")


def test_a_device_of_its_own_gives_the_same_answers(runnable, tmp_path):
    """The way to ZeroGPU: model and images are prepared here, and only embedded there."""
    other = tmp_path / "no-image.png"
    other.write_bytes(b"no image")
    images = [PICTURE, str(other), *sorted(map(str, (FOLDER / "pictures").glob("*.png")))]
    here = trials.classify(runnable, ask("cat", "dog"), images, None, nothing)
    there = trials.classify(runnable, ask("cat", "dog"), images, trials.embed, nothing)
    np.testing.assert_allclose(there.probabilities, here.probabilities, atol=1e-5)

    def embed_elsewhere(*sent):
        return pickle.loads(pickle.dumps(trials.embed(*pickle.loads(pickle.dumps(sent)))))

    sent = trials.classify(runnable, ask("cat", "dog"), images, embed_elsewhere, nothing)
    np.testing.assert_array_equal(sent.probabilities, there.probabilities)
    with pytest.raises(ModelError, match="no time left"):
        trials.classify(runnable, ask("cat", "dog"), images, lambda *_: "no time left", nothing)


def test_seconds_of_a_gpu_grow_with_model_and_images():
    small, large = (types.SimpleNamespace(cost=cost) for cost in (Cost(10**8, 10), Cost(10**9, 300)))
    pixels = np.empty((200, 0))
    seconds = [trials.gpu_seconds(model, pixels, ["a"] * 80) for model in (small, large)]
    assert 10 < seconds[0] < seconds[1] < trials.gpu_seconds(large, pixels, ["a"] * 8000) == 120


@pytest.fixture(scope="module")
def two_runnable(tmp_path_factory, tiny_open_clip, tiny_siglip):
    """Labels of two models that can be run, and of one that cannot."""
    graph, folder = make_graph(), tmp_path_factory.mktemp("two")
    models = [resolve_model(f"local-dir:{path}") for path in (tiny_open_clip, tiny_siglip)]
    labels = [make_label(graph, model=model, cost=Cost(10**6, 1.0)) for model in models]
    gone = make_label(graph, [9] * 7, repo_id="org/gone", cost=Cost(10**6, 1.0))
    return make_library(make_store(folder / "labels", [*labels, gone], graph)).labels


def test_a_trial_chooses_by_the_images(two_runnable, tmp_path):
    told = []
    images = []
    for n in range(16):
        images.append(str(tmp_path / f"{n}.png"))
        Image.effect_noise((32, 32), 10 + n).save(images[-1])
    (tmp_path / "17.png").write_bytes(b"no image")
    images.append(str(tmp_path / "17.png"))
    before, after = trials.choose_by_images(
        two_runnable, ask("cat", "dog"), images, None, lambda done, text: told.append((done, text))
    )
    assert len(before.models) == 3
    assert {model.ref.is_local for model in after.models} == {True}  # org/gone failed, and the trial went on
    assert after.trial.n_images == 16
    assert [done for (done, _), _ in told] == list(range(len(told)))
    assert told[0][1].endswith("on 17 images")
    html = pages.trial_ranking_html(before, after, len(images))
    assert "2 models tried on 16 images" in html
    assert "1 image could not be read" in html
    link = pages.download_html(after)
    content = base64.b64decode(link.partition("base64,")[2].partition('"')[0])
    assert Selection.from_json(json.loads(content)).classes == ("cat", "dog")


def test_trials_that_cannot_run(labels, folder, tmp_path):
    for files in ([], [str(tmp_path / "notes.txt")]):
        with pytest.raises(InputError, match="no image yet"):
            trials.sampled_images(files)
    assert len(trials.sampled_images([f"{n}.png" for n in range(500)])) == 200
    small = make_library(folder, max_parameters=1000).labels
    for trial in (trials.classify, trials.choose_by_images):
        with pytest.raises(InputError, match="within the limits"):
            trial(small, ask("cat", "dog"), ["x.png"] * 16, None, nothing)
    with pytest.raises(ModelError):
        trials.classify(labels, ask("cat", "dog"), ["x"], None, nothing)  # org/even is not on the Hub


def test_models_that_are_too_large_give_way(tmp_path, tiny_open_clip):
    graph = make_graph()
    large = make_label(graph, repo_id="org/large", cost=Cost(10**10, 99.0))
    small = make_label(graph, [1] * 7, model=resolve_model(f"local-dir:{tiny_open_clip}"), cost=Cost(10**6, 1.0))
    labels = make_library(make_store(tmp_path, [large, small], graph)).labels
    trial = trials.classify(labels, ask("cat", "dog"), [PICTURE], None, nothing)
    assert "too large for this page" in pages.classified(trial)


def test_a_selection_is_published_with_the_login_of_the_visitor_only(labels, monkeypatch):
    sent = []

    def push_to_hub(selection, repo_id, *, private, token):
        sent.append((repo_id, private, token))
        return types.SimpleNamespace(url=f"https://hub/{repo_id}")

    monkeypatch.setattr(Selection, "push_to_hub", push_to_hub, raising=False)
    selection = labels.select(ask("cat", "dog"))
    for what, token, reason in ((None, "t", "no selection yet"), (selection, None, "not signed in")):
        with pytest.raises(InputError, match=reason):
            trials.push(what, "me/mine", False, token)
    assert trials.push(selection, " me/mine ", True, "t") == "https://hub/me/mine"
    assert sent == [("me/mine", True, "t")]


# --- texts of the page ---


def test_texts_of_others_are_escaped(labels):
    question = ask("cat", "car", HARM, "**bold** ${1+1} {{x}}", domain=HARM[:90])
    *htmls, figure, matches, _code = load_app().find(labels, question)
    htmls += [
        matches,
        pages.concept_html(labels, labels.boards[0].graph.index, False, HARM),
        pages.boards_html(labels),
        *(pages.model_page(model, labels) for model in labels.models),
        pages.alert(HARM),
    ]
    for html in htmls:
        assert "<img" not in html
        assert "<b>" not in html
    hostile = replace(labels.models[0], name=f"[x](javascript:1) {HARM} **b**")
    cell = pages.leaderboard([hostile], 0)[0][0]
    assert not set('<>*"') & set(cell)
    assert cell.count("[") == cell.count("(") == 1
    assert "<img" not in figure.to_json().replace("\\u003c", "<")
    assert any(SAYS_HARM in html for html in htmls)


# --- the Space as a folder ---


def test_what_the_hub_reads_of_the_space():
    import gradio

    front = yaml.safe_load((FOLDER / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio"
    assert front["sdk_version"].split(".")[0] == gradio.__version__.split(".")[0]
    assert (FOLDER / front["app_file"]).exists()
    assert len(front["short_description"]) <= 60
    assert "mcp-server" in front["tags"]
    assert "mll-hf[" in (FOLDER / "requirements.txt").read_text()
