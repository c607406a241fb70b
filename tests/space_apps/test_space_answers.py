"""Answers and errors of the Space mll_select, without a server."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import mll_hf.client
from hub_worlds import COLLECTION, put_collection
from mll_hf import Selection, SelectionConfig
from mll_hf.cli import main
from mll_hf.errors import HubError, InputError, MLLError, ModelError
from mll_hf.labels import store as storing
from mll_hf.labels.label import Cost
from mll_hf.matching.prompts import check_class_names
from mll_hf.models import resolve_model
from mll_hf.plots.selection import with_recall
from mll_hf.selection import Strategy, select
from selection_worlds import WordEncoder, random_candidates
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
from worlds import CAT, DOG, SHA, Probe, examples, make_graph, make_label, write_graph_folder

import answers  # isort: skip
import pages  # isort: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    graph = harmful_graph()
    return make_store(tmp_path_factory.mktemp("labels"), make_labels(graph), graph)


@pytest.fixture(scope="module")
def labels(folder):
    return make_library(folder).labels


def ask(*classes, **options):
    return answers.make_question(classes, **options)


# --- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "options", "reason"),
    [
        ([], {}, "no class names given"),
        (["cat"], {}, "one class leaves nothing to choose between"),
        (["cat", "Cat"], {}, "repeats"),
        (["cat", " "], {}, "is empty"),
        (["cat", "x" * 201], {}, "longer than 200"),
        ([f"c{n}" for n in range(5000)], {}, "5,000 class names are more than this page accepts"),
        (["cat", 3], {}, "is not a string"),
        (["cat", "dog"], {"k": None}, "'None' is not a number"),
        (["cat", "dog"], {"max_gflops": "5"}, "'5' is not a number"),
        (["cat", "dog"], {"k": 0}, "choose 1 to 10"),
        (["cat", "dog"], {"k": 1.5}, "choose 1 to 10"),
        (["cat", "dog"], {"max_gflops": -1}, "limit on GFLOPs"),
        (["cat", "dog"], {"max_million_parameters": float("inf")}, "limit on parameters"),
        (["cat", "dog"], {"max_gflops": float("nan")}, "limit on GFLOPs"),
        (["cat", "dog"], {"domain": "x" * 101}, "longer than 100"),
        (["cat", "dog"], {"licenses": ["mit", HARM]}, "is not a Hub id of a license"),
        (["cat", "dog"], {"licenses": ["apache 2.0"]}, "'apache 2.0' is not a Hub id"),
        (["cat", "dog"], {"licenses": [""]}, "'' is not a Hub id"),
        (["cat", "dog"], {"licenses": [3, {}]}, "'{}' is not a Hub id"),
        (["cat", "dog"], {"licenses": ["x" * 10_000]}, "is not a Hub id"),
        (["cat", "dog"], {"licenses": ["mit"] * 51}, "51 licenses are more than this page accepts"),
    ],
)
def test_questions_that_cannot_be_used(classes, options, reason):
    with pytest.raises(InputError, match=reason) as caught:
        answers.make_question(classes, **options)
    assert "\n" not in str(caught.value)


def test_a_question_becomes_a_configuration():
    question = ask(" cat", "dog", domain=" ", task="a  task", k=2, max_gflops=0, max_million_parameters=1.5)
    config = SelectionConfig(k=2, max_gflops=None, max_parameters=1_500_000)
    assert question == answers.Question(("cat", "dog"), None, "a task", config)
    for licenses in ([" MIT", "mit", "cc0-1.0"], "MIT, cc0-1.0"):
        assert ask("cat", "dog", licenses=licenses).config.licenses == ("mit", "cc0-1.0")


def test_licenses_in_a_text():
    assert answers.licenses_in_text(" mit,Apache-2.0  openrail,,") == ("mit", "Apache-2.0", "openrail")
    assert answers.licenses_in_text("") == answers.licenses_in_text(None) == answers.licenses_in_text(" , ") == ()
    for _, text in load_app().LICENSES:
        assert ask("cat", "dog", licenses=answers.licenses_in_text(text))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat, dog", ("cat", "dog")),
        ("cat\ndog\n", ("cat", "dog")),
        (" cat,\n\n dog,\n", ("cat", "dog")),
        ('"cat, tabby", dog', ("cat, tabby", "dog")),
        ("🐈, <b>dog</b>", ("🐈", "<b>dog</b>")),
        ("/etc/passwd, ~/.ssh/id", ("/etc/passwd", "~/.ssh/id")),
    ],
)
def test_names_in_a_text(text, names):
    assert answers.names_in_text(text) == names


def test_a_path_in_the_text_box_reads_no_file(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("password\nother")
    assert answers.names_in_text(str(secret)) == (str(secret),)


@pytest.mark.parametrize("text", [None, "", " \n", ",", 'cat, "dog'])
def test_texts_without_names(text):
    with pytest.raises(InputError):
        answers.names_in_text(text)


@examples
@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8), min_size=1, max_size=4))
def test_names_survive_the_text_box(names):
    try:
        names = check_class_names(names)
    except InputError:
        return
    assert answers.names_in_text(answers.names_as_text(names)) == names


def test_names_in_a_file(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("cat\n# comment\ndog\n")
    assert answers.names_in_file(str(file)) == ("cat", "dog")
    file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match=r"^classes\.txt: ") as caught:
        answers.names_in_file(str(file))
    assert str(tmp_path) not in str(caught.value)
    file.write_bytes(b"x" * 2_000_000)
    with pytest.raises(InputError, match="larger than 1 MB"):
        answers.names_in_file(str(file))


def test_names_of_a_dataset(hub):
    card = "---\ndataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
    hub.put("dataset", "alice/pets", {"README.md": f"{card}          '0': cat\n          '1': dog\n---\n".encode()})
    page = "https://huggingface.co/datasets/alice/pets"
    for location in ("alice/pets", " hf://datasets/alice/pets ", f"{page}/", f"{page}/viewer/default?row=3", page[8:]):
        assert answers.names_of_dataset(location) == ("cat", "dog")
    hub.put("dataset", "alice/texts", {"README.md": b"---\nlicense: mit\n---\n"})
    with pytest.raises(InputError, match="columns of named classes: none"):
        answers.names_of_dataset("alice/texts")
    with pytest.raises(HubError, match="not on the Hub"):
        answers.names_of_dataset("alice/nothing")
    for location in ("", None, "../x", "a b"):
        with pytest.raises(MLLError):
            answers.names_of_dataset(location)


# --- the labels -------------------------------------------------------------------------------------------------------


def test_the_specialist_is_chosen(labels):
    selection = labels.select(ask("cat", "corgi"))
    assert selection.models[selection.chosen_models[0]].ref.repo_id in ("org/even", "org/cats")
    cheap = labels.select(ask("cat", "corgi", max_gflops=2))
    assert [model.ref.repo_id for model in cheap.models] == ["org/cats"]


def put_cards(hub, **licenses):
    for name, license in licenses.items():
        hub.put("model", f"org/{name}", {"README.md": f"---\nlicense: {license}\n---\n".encode()})


def test_only_allowed_models_are_chosen(labels, hub):
    put_cards(hub, even="cc-by-nc-4.0", cats="mit", dogs="gpl-3.0")
    chosen = labels.select(ask("cat", "corgi", licenses=answers.OPEN_LICENSES))
    assert [chosen.models[m].ref.repo_id for m in chosen.chosen_models] == ["org/cats"]
    assert "may have any license" in pages.ranking_html(chosen)
    html = pages.ranking_html(chosen, ("mit", HARM))
    assert "name one of these licenses: mit, &lt;img" in html
    assert HARM not in html
    put_cards(hub, even=f"'{HARM}'", cats=3, dogs=f"[{'x' * 10_000}]")
    with pytest.raises(InputError, match=r"unknown \(3\)") as caught:
        labels.select(ask("cat", "dog", licenses=["mit"]))
    assert HARM not in pages.alert(caught.value)


def test_a_source_that_failed_is_not_read_again_at_once(tmp_path):
    library = make_library(tmp_path / "labels")
    for _ in range(2):
        with pytest.raises(InputError, match="has no labels"):
            _ = library.labels
        make_store(tmp_path / "labels", make_labels(make_graph()), make_graph())
    library._expires -= 21
    assert len(library.labels.models) == 3


def test_labels_are_read_again_after_an_hour(tmp_path):
    graph = make_graph()
    library = make_library(make_store(tmp_path, make_labels(graph)[:2], graph))
    assert len(library.labels.models) == 2
    make_store(tmp_path, make_labels(graph)[2:], graph)
    assert len(library.labels.models) == 2
    library._expires -= 3601
    assert len(library.labels.models) == 3
    next(tmp_path.glob("labels/*/*/*.safetensors")).write_bytes(b"damaged")
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
    computed = set(vars(library.labels.client.groups[0].index)), set(vars(graph))

    # without a lock, cached properties would be computed by each of several threads
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: library.labels.select(ask("cat", f"thing {n % 3}")), range(16)))
        list(pool.map(lambda _: library.labels.senses("big dog"), range(8)))
    assert all(selection.chosen_models for selection in found)
    assert encoder.most == 1
    assert encoder.texts.count(graph.concepts[CAT].caption) == 1
    assert computed == (set(vars(library.labels.client.groups[0].index)), set(vars(graph)))


def test_the_page_is_served_even_if_the_labels_cannot_be_read(tmp_path, monkeypatch):
    app, served = load_app(), []
    monkeypatch.setenv("MLL_LABELS", str(tmp_path / "none"))
    monkeypatch.setattr(app, "serve", served.append)
    assert app.main() == 0
    assert len(served) == 1


def test_a_damaged_label_is_reported_in_one_line(tmp_path):
    folder = make_store(tmp_path, make_labels(make_graph()), make_graph())
    next(tmp_path.glob("labels/*/*/*.safetensors")).write_bytes(b"damaged")
    with pytest.raises(MLLError, match="not a readable label") as caught:
        _ = make_library(folder).labels
    assert 'role="alert"' in pages.alert(caught.value)


def test_labels_of_the_hub_and_of_a_collection(hub):
    commit = put_collection(make_labels(make_graph()))
    collection = make_library(COLLECTION).labels
    assert collection.select(ask("cat", "dog")).chosen_models
    assert collection.location == f"{COLLECTION}@{commit}"
    assert f"Client('{COLLECTION}@{commit}')" in answers.python_code(ask("cat", "dog"), collection.location)
    assert "(alice)" in pages.model_page(collection.find("cats"), collection)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What the Space knows where its source has no labels: the figures that come with the package."""
    folder = make_store(tmp_path_factory.mktemp("none"), [], make_graph())
    return make_library(f"{folder},published").labels


def test_no_recall_is_shown_of_what_has_none(published):
    app = load_app()
    nothing = published.select(ask("pneumonia", "normal"))
    assert with_recall(nothing) is None
    parts = app.find(published, ask("pneumonia", "normal"))
    assert parts[2:5] == ("", None, "")  # heading, figure and table of the heat map
    assert "not known" in parts[0]
    assert parts[7].count("not known") == len(nothing.models)  # the table of the costs
    assert not parts[6].layout.yaxis.showticklabels
    record = app._selection_record(nothing, "")
    by_kind = {model["evidence"]: model["recall"] for model in record["models"]}
    assert by_kind == {"published, overall only": None}
    assert [of["recall"] for of in record["classes"]] == [None, None]
    assert json.dumps(record)


def test_an_accuracy_on_imagenet_is_no_recall():
    """Without a text encoder models are ranked by it."""
    selection = select(random_candidates(), SelectionConfig(Strategy.IMAGENET))
    record = load_app()._selection_record(selection, "")
    assert {model["recall"] for model in record["models"]} == {None}
    assert {of["recall"] for of in record["classes"]} == {None}


def test_without_labels_published_figures_answer(published):
    selection = published.select(ask("umbrella", "cougar"))
    assert 0 < len(with_recall(selection).models) < len(selection.models)
    parts = load_app().find(published, ask("umbrella", "cougar"))
    assert "recall on ImageNet’s classes (11 models), ImageNet accuracy (" in parts[1]
    assert parts[-1].count("<a ") == 1
    assert "Client()" not in answers.python_code(ask("cat", "dog"), published.location)
    assert "Client()" in answers.python_code(ask("cat", "dog"), "hub,published")
    (umbrella,), named = published.senses("umbrella")
    assert (umbrella, named) == ("n04507155", True)
    assert published.senses("n04507155") == (["n04507155"], True)
    html = pages.concept_html(published, [umbrella], True, "")
    assert "Best at umbrella" in html
    assert ">canopy</a>" in html
    (dogs,) = published.senses("n02084071")[0]
    whole, on_dogs = published.recalls(0), published.recalls(0, dogs)
    assert whole.keys() == on_dogs.keys()
    assert whole != on_dogs
    rows = pages.leaderboard(published.models, on_dogs)
    assert len(rows) == len(published.models) > 100
    assert [row[1] for row in rows[:11]] == sorted((row[1] for row in rows[:11]), reverse=True)
    assert rows[11][1] is None
    overall = published.models[-1]
    assert "Only its overall accuracy is known" in pages.model_page(overall, published)
    with pytest.raises(InputError, match="was not measured on"):
        published.read_labels([overall], None)


def test_labels_and_published_figures_stand_side_by_side(tmp_path):
    graph = make_graph()
    label = make_label(graph, repo_id="laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    labels = make_library(f"{make_store(tmp_path, [label], graph)},published").labels
    assert [board.name for board in labels.boards] == ["tiny", "wordnet-imagenet-1k"]
    mine = labels.find("laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    assert [on is not None for on in mine.labels] == [True, False]
    assert len({model.name for model in labels.models}) == len(labels.models) > 100
    assert labels.location.endswith(",published")
    assert labels.read_labels([labels.models[1]], None)[1] is labels.boards[1].graph


def test_kinds_of_models(published):
    kinds = {model.name: model.family for model in published.models}
    assert kinds["timm/ViT-SO400M-14-SigLIP-384"] == "SigLIP"
    assert kinds["timm/ViT-gopt-16-SigLIP2-256"] == "SigLIP2"
    assert kinds["apple/DFN5B-CLIP-ViT-H-14"] == "DFN"
    assert kinds["laion/CLIP-ViT-H-14-laion2B-s32B-b79K"] == "CLIP"


def test_a_large_collection_is_read_from_its_index(hub, monkeypatch):
    monkeypatch.setattr(storing, "MANY_LABELS", 1)
    graph = make_graph()
    put_collection(make_labels(graph))
    labels = make_library(COLLECTION).labels
    assert labels.client.source.indexed
    assert [model.name for model in labels.models] == ["org/even", "org/dogs", "org/cats"]
    assert labels.select(ask("cat", "dog")).chosen_models
    html = pages.concept_html(labels, ["cat"], True, "cat")
    assert html.index("org/cats") < html.index("org/even") < html.index("org/dogs")
    assert labels.recalls(0)["org/dogs"] == pytest.approx(0.4)
    assert labels.recalls(0, "cat")["org/cats"] == 1
    (label,), _ = labels.read_labels([labels.find("dogs")], "")
    assert "40" in pages.strengths_html(label)


def test_models_are_found_by_any_name(labels):
    assert labels.find("cats") is labels.find("org/cats") is labels.find(f"org/cats@{SHA}")
    for name, reason in (("nothing", "not among the known"), ("", "no model yet"), (None, "no model yet")):
        with pytest.raises(InputError, match=reason):
            labels.find(name)


def test_models_with_the_same_name_are_told_apart(tmp_path):
    graph = make_graph()
    both = [
        make_label(graph, repo_id="local-dir:/a/same"),
        make_label(graph, repo_id="local-dir:/b/same", revision="f" * 40),
    ]
    labels = make_library(make_store(tmp_path, both, graph)).labels
    assert [model.name for model in labels.models] == ["same@0123456", "same@fffffff"]
    assert labels.find("same@fffffff").ref.revision == "f" * 40
    with pytest.raises(InputError, match="several"):
        labels.find("same")


def test_concepts_by_name_and_the_nearest(labels):
    assert labels.senses(" Cat ") == labels.senses("cat") == (["cat"], True)
    nearest, named = labels.senses("big dog")
    assert not named
    assert "dog" in nearest
    with pytest.raises(InputError, match="no concept yet"):
        labels.senses(" ")


def test_sample_images_need_a_setting(tmp_path, labels, caplog):
    assert labels.sample_images(CAT, 0) == []
    write_graph_folder(tmp_path / "graph", [Probe("cat", CAT), Probe("dog", DOG), Probe("cat", CAT)])
    folder = make_store(tmp_path / "labels", make_labels(make_graph()), make_graph())
    shown = make_library(folder, images=str(tmp_path / "graph")).labels
    assert len(shown.sample_images(CAT, 0)) == 2
    assert pages.concept_html(shown, ["cat"], True, "cat").count("<img ") == 2
    other = make_store(tmp_path / "others", make_labels(harmful_graph()), harmful_graph())
    for images in ("graph", "nothing"):
        caplog.clear()
        assert make_library(other, images=str(tmp_path / images)).labels.sample_images(CAT, 0) == []
        assert "MLL_IMAGES" in caplog.text


@pytest.mark.parametrize("value", ["many", "-1", "1e9"])
def test_settings_that_cannot_be_used(value):
    with pytest.raises(InputError, match="MLL_MOST_PARAMETERS"):
        answers.Settings.from_environment({"MLL_MOST_PARAMETERS": value})


def test_settings():
    assert answers.Settings.from_environment({}) == answers.Settings("hub,published", None, None, 10**9)
    variables = {"MLL_LABELS": "x", "MLL_GRAPH": "g", "MLL_IMAGES": "y", "MLL_MOST_PARAMETERS": "5"}
    assert answers.Settings.from_environment(variables) == answers.Settings("x", "g", "y", 5)


# --- several graphs ---------------------------------------------------------------------------------------------------


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


def test_classes_of_several_graphs(joined):
    assert [board.name for board in joined.boards] == ["tiny", "signs"]
    selection = joined.select(ask("letter a", "letter b", "car"))
    three = joined.select(ask("letter a", "cat", k=3))  # ten images are too few for a model to lead surely
    recall = dict(
        zip([three.models[m].ref.repo_id for m in three.chosen_models], three.matches[0][0].recall, strict=True)
    )
    assert recall["org/cats"] > recall["org/even"] > 0
    html = pages.matches_html(selection, joined)
    assert "letter b" in html
    assert "recall" in html


def test_recall_that_was_not_measured(joined):
    selection = joined.select(ask("letter a", "letter b", k=3))
    at = [selection.models[m].ref.repo_id for m in selection.chosen_models].index("org/dogs")
    assert all(match.recall[at] is None for match in selection.matches[0] if match.name.startswith("letter"))
    only_dogs = np.zeros_like(selection.chosen)
    only_dogs[selection.chosen_models[at]] = True
    matches = tuple(tuple(replace(m, recall=m.recall[at : at + 1]) for m in of) for of in selection.matches)
    html = pages.matches_html(replace(selection, chosen=only_dogs, matches=matches), joined)
    assert "(not measured)" in html
    record = load_app()._class_record(selection, joined, "letter a")
    assert None in record["concepts"][0]["recall"]
    assert json.dumps(record)


def test_a_model_on_each_graph(joined):
    cats, dogs = joined.find("cats"), joined.find("dogs")
    (label,), graph = joined.read_labels([cats], "signs")
    assert (label.graph_digest, len(graph)) == (graph.digest, 4)
    assert joined.read_labels([cats, dogs], None)[1].name == "tiny"
    with pytest.raises(InputError, match="org/dogs was not measured on signs"):
        joined.read_labels([cats, dogs], "signs")
    with pytest.raises(InputError, match="no graph is named 'x'; choose one of: tiny, signs"):
        joined.read_labels([cats], "x")


def test_a_concept_of_two_graphs_has_two_tables(joined):
    (concept,), named = joined.senses("cat")
    assert named
    html = pages.concept_html(joined, [concept], named, "cat")
    assert "Best at cat on tiny" in html
    assert "Best at cat on signs" in html
    assert html.count(">org/dogs<") == 1  # in the first table only
    assert "No images test this concept itself" not in html


def test_labels_that_are_left_out_are_shown_with_the_reason(joined):
    html = pages.boards_html(joined)
    assert "org/only-signs on signs: the model has no label on the reference graph tiny" in html
    assert f"mine on tiny: measured on other probe images (old {SAYS_HARM}" in html
    assert "somebody" not in html
    assert HARM not in html
    assert "tiny: 3 models on 7 concepts; signs: 2 models on 4 concepts" in html
    assert "2 measured models are not ranked" in load_app().find(joined, ask("cat", "dog"))[1]


# --- code to take away ------------------------------------------------------------------------------------------------

QUESTIONS = [
    ask("cat", "corgi"),
    ask("cat", "dog", "car", domain="photo", task="it's a 'task'", k=2, max_gflops=10.5, max_million_parameters=500),
    ask("a, b", 'say "cat"', "it's", "$(rm -rf x)", "`id`", "🐈", "<b>", "back\\slash", domain="-x"),
    ask("-v", "cat"),
    ask("two\nlines", "cat"),
    ask("ice-cream", "7"),
    ask(*(f"class {n}" for n in range(60))),
    ask("cat", "corgi", licenses=["mit"]),
    ask("cat", "corgi", k=2, licenses=["apache-2.0", "cc-by-nc-4.0"]),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
def test_the_code_gives_the_same_models(question, folder, labels, hub, monkeypatch, tmp_path, capsys):
    put_cards(hub, even="cc-by-nc-4.0", cats="mit", dogs="apache-2.0")
    monkeypatch.setattr(mll_hf.client, "default_encoder", WordEncoder)
    monkeypatch.chdir(tmp_path)
    selection = labels.select(question)
    chosen = [selection.models[m].ref.repo_id for m in selection.chosen_models]

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(answers.python_code(question, folder), {})
    assert printed.getvalue().split() == chosen

    spy = 'mll-hf() { for word in "$@"; do printf \'%s\\0\' "$word"; done; }\n'
    shell = subprocess.run(["bash", "-c", spy + answers.shell_code(question, folder)], capture_output=True, check=True)
    words = shell.stdout.decode().split("\0")[:-1]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert tuple(answer["classes"]) == question.classes
    assert [model["id"] for model in answer["models"][: len(chosen)]] == [m.ref.repo_id for m in selection.models][
        : len(chosen)
    ]
    assert sorted({name for names in answer["chosen"].values() for name in names}) == sorted(chosen)


# --- running models ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runnable(tmp_path_factory, tiny_open_clip):
    """Labels of one model that can be run."""
    graph = make_graph()
    model = resolve_model(f"local-dir:{tiny_open_clip}")
    label = make_label(graph, model=model)
    return make_library(make_store(tmp_path_factory.mktemp("runnable"), [label], graph)).labels


def nothing(*_):
    """A progress that nobody sees."""


PICTURE = str(FOLDER / "pictures" / "1-sun.png")


def test_models_vote_on_images(runnable, tmp_path):
    other = tmp_path / "no-image.png"
    other.write_bytes(b"no image")
    told = []
    trial = answers.classify(runnable, ask("cat", "dog"), [PICTURE, str(other)], None, lambda *what: told.append(what))
    np.testing.assert_allclose(trial.probabilities[0].sum(), 1)
    np.testing.assert_allclose(trial.probabilities[0], trial.votes[0, 0], rtol=1e-6)
    assert np.isnan(trial.probabilities[1]).all()
    assert told[0][0] == (0, 1)
    html = pages.trial_html(trial, ["sun.png", HARM])
    assert "not readable" in html
    assert SAYS_HARM in html
    assert HARM not in html
    assert pages.classified(trial).startswith("1 image classified by ")
    alone = answers.classify(runnable, ask("cat", HARM), [PICTURE], None, nothing)
    assert HARM not in pages.trial_html(alone, ["sun.png"])
    unread = answers.classify(runnable, ask("a", "b"), [str(other)], None, nothing)
    assert "not readable" in pages.trial_html(unread, ["x"])
    assert pages.classified(unread).startswith("0 images classified")


def test_a_device_of_its_own_gives_the_same_answers(runnable, tmp_path):
    """The way to ZeroGPU: model and images are prepared here, and only embedded there."""
    other = tmp_path / "no-image.png"
    other.write_bytes(b"no image")
    images = [PICTURE, str(other), *sorted(map(str, (FOLDER / "pictures").glob("*.png")))]
    here = answers.classify(runnable, ask("cat", "dog"), images, None, nothing)
    there = answers.classify(runnable, ask("cat", "dog"), images, answers.embed, nothing)
    np.testing.assert_allclose(there.probabilities, here.probabilities, atol=1e-5)
    with pytest.raises(ModelError, match="no time left"):
        answers.classify(runnable, ask("cat", "dog"), images, lambda *_: "no time left", nothing)


def test_seconds_of_a_gpu_grow_with_model_and_images():
    small, large = (types.SimpleNamespace(cost=cost) for cost in (Cost(10**8, 10), Cost(10**9, 300)))
    pixels = np.empty((200, 0))
    seconds = [answers.gpu_seconds(model, pixels, ["a"] * 80) for model in (small, large)]
    assert 10 < seconds[0] < seconds[1] < answers.gpu_seconds(large, pixels, ["a"] * 8000) == 120


@pytest.fixture(scope="module")
def two_runnable(tmp_path_factory, tiny_open_clip):
    """Labels of two models that can be run, and of one that cannot."""
    graph, folder = make_graph(), tmp_path_factory.mktemp("two")
    copy = shutil.copytree(tiny_open_clip, folder / "copy")
    models = [resolve_model(f"local-dir:{path}") for path in (tiny_open_clip, copy)]
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
    before, after = answers.choose_by_images(
        two_runnable, ask("cat", "dog"), images, None, lambda done, text: told.append((done, text))
    )
    assert len(before.models) == 3
    assert {model.ref.is_local for model in after.models} == {True}  # org/gone failed, and the trial went on
    assert after.calibration.n_images == 16
    assert [done for (done, _), _ in told] == list(range(len(told)))
    assert told[0][1].endswith("on 17 images")
    html = pages.trial_ranking_html(before, after, len(images))
    assert "Ranking before and after the trial" in html
    assert "1 image could not be read" in html
    assert html.count("not tried") == 1
    link = pages.download_html(after)
    content = base64.b64decode(link.partition("base64,")[2].partition('"')[0])
    assert Selection.from_json(json.loads(content)).classes == ("cat", "dog")


def test_trials_that_cannot_run(labels, folder, tmp_path):
    for files in ([], [str(tmp_path / "notes.txt")]):
        with pytest.raises(InputError, match="no image yet"):
            answers.sampled_images(files)
    assert len(answers.sampled_images([f"{n}.png" for n in range(500)])) == 200
    small = make_library(folder, max_parameters=1000).labels
    for trial in (answers.classify, answers.choose_by_images):
        with pytest.raises(InputError, match="within the limits"):
            trial(small, ask("cat", "dog"), ["x.png"] * 16, None, nothing)
    with pytest.raises(ModelError):
        answers.classify(labels, ask("cat", "dog"), ["x"], None, nothing)  # org/even is not on the Hub


def test_models_that_are_too_large_give_way(two_runnable, tmp_path, tiny_open_clip):
    graph = make_graph()
    large = make_label(graph, repo_id="org/large", cost=Cost(10**10, 99.0))
    small = make_label(graph, [1] * 7, model=resolve_model(f"local-dir:{tiny_open_clip}"), cost=Cost(10**6, 1.0))
    labels = make_library(make_store(tmp_path, [large, small], graph)).labels
    trial = answers.classify(labels, ask("cat", "dog"), [PICTURE], None, nothing)
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
            answers.push(what, "me/mine", False, token)
    assert answers.push(selection, " me/mine ", True, "t") == "https://hub/me/mine"
    assert sent == [("me/mine", True, "t")]


# --- the page's texts -------------------------------------------------------------------------------------------------


def test_texts_of_others_are_escaped(labels):
    app = load_app()
    question = ask("cat", "car", HARM, "**bold** ${1+1} {{x}}", domain=HARM[:90])
    parts = app.find(labels, question)
    pair = labels.models[:2]
    htmls = [
        *(part for at, part in enumerate(parts) if isinstance(part, str) and at not in (8, 9)),  # not the code
        pages.concept_html(labels, labels.boards[0].graph.index, False, HARM),
        pages.boards_html(labels),
        pages.listed_html(1, labels, HARM),
        *(pages.model_page(model, labels) for model in labels.models),
        pages.alert(HARM),
        *pages.comparison_html(pair, *labels.read_labels(pair, "")),
    ]
    for html in htmls:
        assert "<img" not in html
        assert "<b>" not in html
    figures = "".join(part.to_json() for part in parts if not isinstance(part, str))
    assert "<img" not in figures.replace("\\u003c", "<")
    assert any(SAYS_HARM in html for html in htmls)


def test_a_local_path_is_not_shown(tmp_path):
    graph = make_graph()
    label = make_label(graph, repo_id="local-dir:/home/somebody/secret/model")
    labels = make_library(make_store(tmp_path, [label], graph)).labels
    selection = labels.select(ask("cat", "dog"))
    html = pages.ranking_html(selection) + pages.boards_html(labels) + pages.model_page(labels.models[0], labels)
    assert "model" in html
    assert "somebody" not in html


def test_no_accuracy_is_shown_for_classes_that_were_not_tested(labels):
    html = pages.answer_html(labels.select(ask("yyy", "zzz")))
    assert "Accuracy not known (90 % interval: " in html
    assert "nothing close enough to any of your classes" in html


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("no image", "No image."),
        ("org/x: is gone.", "org/x: is gone."),
        (HARM, f"{SAYS_HARM}&quot;window.harmed=1&quot;&gt;."),
    ],
)
def test_alerts(said, shown):
    assert f'role="alert">{shown}</p>' in pages.alert(said)


def test_uncovered_classes_are_warned_of(labels):
    html = pages.answer_html(labels.select(ask("cat", "zzz")))
    assert "nothing close enough to zzz" in html
    assert 'role="note"' in html
    assert "nothing close enough" not in pages.answer_html(labels.select(ask("cat", "dog")))


@pytest.mark.parametrize(
    ("coverage", "words"), [(1, "same concept"), (0.6, "close"), (0.2, "weak"), (0, "not covered")]
)
def test_coverage_in_words(coverage, words):
    assert answers.describe_coverage(coverage) == words


def test_tables_have_headers_and_captions(labels):
    html = pages.ranking_html(labels.select(ask("cat", "dog", k=2)))
    assert html.count("<table>") == html.count("<caption>") == 1
    assert html.count('scope="row"') == 3
    assert html.count(">chosen</span>") == 2
    assert 'href="' in html


def test_names_in_the_leaderboard_are_no_markup(labels):
    hostile = replace(labels.models[0], name=f"[x](javascript:1) {HARM} **b**")
    cell = pages.leaderboard([hostile], {})[0][0]
    assert not set('<>*"') & set(cell)
    assert cell.count("[") == cell.count("(") == 1


# --- the Space as a folder --------------------------------------------------------------------------------------------


def test_zero_gpu_runs_models_and_its_errors_reach_the_page(tiny_open_clip, tmp_path):
    """The real wrapper of ZeroGPU, whose workers run on the CPU here."""
    pytest.importorskip("spaces.zero", reason="the Hub installs it; to test: pip install spaces")
    settings = {"SPACES_ZERO_GPU": "true", "SPACES_ZERO_DEVICE_API_URL": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("zero_gpu.py"), tiny_open_clip, tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
        timeout=200,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["same"]
    assert found["seconds"] == [10] * 4
    assert "cannot be run on cpu (no kernel)" in found["failed"]
    assert "GPU task aborted" in found["aborted"]
    assert "exceeded your GPU quota" in found["refused"]


def test_what_the_hub_reads_of_the_space():
    import gradio

    front = yaml.safe_load((FOLDER / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio"
    assert front["sdk_version"].split(".")[0] == gradio.__version__.split(".")[0]
    assert (FOLDER / front["app_file"]).exists()
    assert len(front["short_description"]) <= 60
    assert "mcp-server" in front["tags"]
    assert "mll-hf[" in (FOLDER / "requirements.txt").read_text()


@pytest.mark.parametrize("words", [["--port", "x"], ["--port", ""], ["--nonsense"]])
def test_the_script_refuses_wrong_arguments(words):
    run = subprocess.run([FOLDER.parents[1] / "scripts" / "space", *words], capture_output=True, text=True)
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
