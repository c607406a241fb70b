"""Answers and errors of the Space mll_select, without a server."""

from __future__ import annotations

import contextlib
import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import yaml
from PIL import Image

import mll_hf.client
from mll_hf import Client
from mll_hf.errors import InputError
from mll_hf.models.source import resolve_model
from mll_hf.utils.text import abridged
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
import fitting  # isort: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    graph = harmful_graph()
    return make_store(tmp_path_factory.mktemp("labels"), make_labels(graph), graph)


@pytest.fixture(scope="module")
def labels(folder):
    return make_library(folder).labels


def ask(*classes, **options):
    return answers.Question.of(classes, **options)


# --- questions ---


@pytest.mark.parametrize(
    ("classes", "options", "reason"),
    [
        ([], {}, "no class names given"),
        (["cat"], {}, "one class leaves nothing to choose between"),
        ([f"c{n}" for n in range(5000)], {}, "5,000 class names are more than this page accepts"),
        (["cat", "dog"], {"k": 11}, "choose 1 to 10"),
        (["cat", "dog"], {"max_parameters": "many"}, "max_parameters is"),
        (["cat", "dog"], {"domain": "x" * 101}, "longer than 100"),
        (" ,\n", {}, "no class names given"),
    ],
)
def test_questions_that_cannot_be_used(classes, options, reason):
    with pytest.raises(InputError, match=reason) as caught:
        answers.Question.of(classes, **options)
    assert "\n" not in str(caught.value)


# --- the labels ---


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
    library.source = "hf://datasets/alice/nothing"
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
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: library.labels.select(ask("cat", f"thing {n % 3}")), range(16)))
        list(pool.map(lambda _: library.labels.concepts("big dog"), range(8)))
    assert all(selection.chosen_models for selection in found)
    assert encoder.most == 1
    assert encoder.texts.count(harmful_graph().concepts[CAT].caption) == 1


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What the Space knows where its source has no labels: the figures that come with the package."""
    folder = make_store(tmp_path_factory.mktemp("none"), [], make_graph())
    return make_library(f"{folder},published").labels


def test_without_labels_published_figures_answer(published):
    assert published.concepts("umbrella")[0].id == "n04507155"
    rows = pages.leaderboard(published.models)
    assert len(rows) == len(published.models) > 100
    assert {row[1] for row in rows} == {None}
    assert list(published.examples) == list(answers.EXAMPLES)
    for question, selection in published.examples.values():  # every recommended model has a page with its figures
        model = published.model(selection.models[selection.chosen_models[0]].name)
        assert "Published figures" in pages.model_page(model)
        said = f"For {abridged(selection.classes, 5)}; rests on class names and published figures"
        assert all(part in unescape(pages.card(selection)) for part in (model.name, said))
        assert load_app().shown(published, question, selection)[1] is not None


def test_the_best_value_is_what_the_library_recommends(published):
    """Of equally good models the cheapest, and not the best at any cost."""
    question = ask("airplane", "automobile", "bird", "cat", "deer", "dog", domain="photo")
    selection = published.select(question)
    ours = Client("published", encoder=published.client._encoder).select(question.classes, domain="photo")
    assert [model.name for model in selection.models] == [model.name for model in ours.models]
    assert selection.chosen_models == ours.chosen_models
    costs = [model.cost.gflops for model in selection.models]
    assert costs[selection.chosen_models[0]] < costs[selection.answer.best]


def test_no_accuracy_is_shown_where_none_is_known(published):
    question = ask("asdfqw", "zxcvbn")
    card, figure, details, _code = load_app().shown(published, question, published.select(question))
    assert "Accuracy not known yet" in card
    assert "interval" not in card
    assert "nothing close enough to any of your classes" in details
    assert "%" not in details.partition("Matches")[0]
    assert not figure.layout.yaxis.showticklabels


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
    html = pages.about_models(joined)
    assert "org/only-signs on graph signs: the model has no label on the reference graph tiny" in html
    assert f"mine on graph tiny: measured on other probe images (old {SAYS_HARM}" in html
    assert "somebody" not in html
    assert HARM not in html
    tested = {model.name: [graph.name for graph, _ in model.tests] for model in joined.models}
    assert tested == {"org/even": ["tiny", "signs"], "org/cats": ["tiny", "signs"], "org/dogs": ["tiny"]}


# --- code to take away ---


QUESTIONS = [
    ask("cat", "dog", "car", domain="it's a 'sketch'", k=2, max_gflops=10.5, max_parameters="500M"),
    ask("a, b", 'say "cat"', "it's", "$(rm -rf x)", "<b>", "back\\slash", domain="-x"),
    ask(*(f"class {n}" for n in range(60))),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
def test_the_code_gives_the_same_models(question, folder, labels, monkeypatch):
    monkeypatch.setattr(mll_hf.client, "DefaultEncoder", WordEncoder)
    selection = labels.select(question)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(question.code(folder), {})
    assert printed.getvalue().strip() == str([selection.models[m].name for m in selection.chosen_models])


# --- images ---


def test_images_that_a_visitor_chose_to_correct_decide_no_accuracy(tmp_path, tiny_open_clip, tiny_siglip):
    graph = make_graph()
    models = [resolve_model(f"local-dir:{path}") for path in (tiny_open_clip, tiny_siglip)]
    labels = make_library(make_store(tmp_path / "labels", [make_label(graph, model=m) for m in models], graph)).labels
    images = [str(tmp_path / f"{n}.png") for n in range(16)]
    for n, path in enumerate(images):
        Image.effect_noise((32, 32), 10 + 5 * n).save(path)
    fitted = fitting.fit(labels, ask("cat", "dog"), images, 10**9, lambda _: None)
    first, second = list(fitted.weights)[:2]
    wrong = "dog" if fitted.class_of(second) == 0 else "cat"
    chosen = fitting.correct(fitted, second, wrong)
    assert chosen.counted == {}
    np.testing.assert_array_equal(chosen.selection.estimate.known, fitted.selection.estimate.known)
    assert chosen.class_of(second) == ("cat", "dog").index(wrong)
    assert not np.array_equal(chosen.selection.heads[0].bias, fitted.selection.heads[0].bias)
    assert list(fitting.correct(chosen, first, "cat").counted) == [first, second]
    with pytest.raises(InputError, match="none of these files is an image"):
        fitting.fit(labels, ask("cat", "dog"), [__file__], 10**9, lambda _: None)


# --- texts of the page ---


def test_texts_of_others_are_escaped(labels):
    question = ask("cat", "car", HARM, "**bold** ${1+1} {{x}}", domain=HARM[:90])
    card, figure, *htmls, _code = load_app().shown(labels, question, labels.select(question))
    htmls += [
        card,
        *(pages.concept_page(labels, name) for name in ("car", "cat", HARM)),
        pages.about_models(labels),
        *(pages.model_page(model) for model in labels.models),
        pages.alert(InputError(HARM)),
    ]
    for html in htmls:
        assert "<img" not in html
        assert "<b>" not in html
    hostile = replace(labels.models[0], name=f"[x](javascript:1) {HARM} **b**")
    cell = pages.leaderboard([hostile])[0][0]
    assert not set('<>*"') & set(cell)
    assert cell.count("[") == cell.count("](") == 1
    assert "<img" not in figure.to_json().replace("\\u003c", "<")
    assert any(SAYS_HARM in html for html in htmls)


def test_what_the_hub_reads_of_the_space():
    front = yaml.safe_load((FOLDER / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio"
    assert (FOLDER / front["app_file"]).exists()
    assert len(front["short_description"]) <= 60
