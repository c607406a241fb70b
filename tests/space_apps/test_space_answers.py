"""What the Space answers and what it refuses, without a server."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import mll_hf.client
from hub_worlds import COLLECTION, put_collection
from mll_hf.cli import main
from mll_hf.errors import HubError, InputError, MLLError, ModelError
from mll_hf.hub.licenses import _license_of
from mll_hf.labels.label import Cost
from mll_hf.matching.prompts import check_class_names
from mll_hf.models import resolve_model
from selection_worlds import WordEncoder
from space_worlds import FOLDER, HARM, SAYS_HARM, harmful_graph, load_app, make_catalogue, make_labels, make_store
from worlds import CAT, DOG, SHA, Probe, examples, make_graph, make_label, write_graph_folder

import answers  # isort: skip
import pages  # isort: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    graph = harmful_graph()
    return make_store(tmp_path_factory.mktemp("labels"), make_labels(graph), graph)


@pytest.fixture(scope="module")
def catalogue(folder):
    return make_catalogue(folder)


def ask(*classes, **options):
    return answers.make_question(classes, **options)


# --- what visitors give -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "options", "reason"),
    [
        ([], {}, "no class names given"),
        (["cat"], {}, "one class leaves nothing to choose between"),
        (["cat", "Cat"], {}, "repeats"),
        (["cat", " "], {}, "is empty"),
        (["cat", "x" * 201], {}, "longer than 200"),
        ([f"c{n}" for n in range(5000)], {}, "5,000 class names are more than this page takes"),
        (["cat", 3], {}, "is no text"),
        (["cat", "dog"], {"k": 0}, "choose 1 to 10"),
        (["cat", "dog"], {"k": 1.5}, "choose 1 to 10"),
        (["cat", "dog"], {"max_gflops": -1}, "limit on GFLOPs"),
        (["cat", "dog"], {"max_million_parameters": float("inf")}, "limit on parameters"),
        (["cat", "dog"], {"max_gflops": float("nan")}, "limit on GFLOPs"),
        (["cat", "dog"], {"domain": "x" * 101}, "longer than 100"),
        (["cat", "dog"], {"licenses": ["mit", HARM]}, "is no license as the Hub writes them"),
        (["cat", "dog"], {"licenses": ["apache 2.0"]}, "'apache 2.0' is no license"),
        (["cat", "dog"], {"licenses": [""]}, "'' is no license"),
        (["cat", "dog"], {"licenses": [3, {}]}, "'{}' is no license"),
        (["cat", "dog"], {"licenses": ["x" * 10_000]}, "is no license"),
        (["cat", "dog"], {"licenses": ["mit"] * 51}, "51 licenses are more than this page takes"),
    ],
)
def test_questions_that_make_no_sense(classes, options, reason):
    with pytest.raises(InputError, match=reason) as caught:
        answers.make_question(classes, **options)
    assert "\n" not in str(caught.value)


def test_a_question_as_the_library_takes_it():
    question = ask(" cat", "dog", domain=" ", task="a  task", k=2, max_gflops=0, max_million_parameters=1.5)
    assert question == answers.Question(("cat", "dog"), None, "a task", 2, None, 1_500_000)
    assert question.config.max_parameters == 1_500_000
    assert question.config.licenses == ()
    assert ask("cat", "dog", licenses=[" MIT", "mit", "cc0-1.0"]).config.licenses == ("mit", "cc0-1.0")


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


def test_names_of_a_data_set(hub):
    card = "---\ndataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
    hub.put("dataset", "alice/pets", {"README.md": f"{card}          '0': cat\n          '1': dog\n---\n".encode()})
    for location in ("alice/pets", " hf://datasets/alice/pets ", "https://huggingface.co/datasets/alice/pets/"):
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


def test_the_specialist_is_chosen(catalogue):
    selection = catalogue.select(ask("cat", "corgi"))
    assert selection.models[selection.union[0]].ref.repo_id in ("org/even", "org/cats")
    cheap = catalogue.select(ask("cat", "corgi", max_gflops=2))
    assert [model.ref.repo_id for model in cheap.models] == ["org/cats"]


def put_cards(hub, **licenses):
    _license_of.cache_clear()
    for name, license in licenses.items():
        hub.put("model", f"org/{name}", {"README.md": f"---\nlicense: {license}\n---\n".encode()})


def test_only_allowed_models_are_chosen(catalogue, hub):
    put_cards(hub, even="cc-by-nc-4.0", cats="mit", dogs="gpl-3.0")
    chosen = catalogue.select(ask("cat", "corgi", licenses=answers.OPEN_LICENSES))
    assert [chosen.models[m].ref.repo_id for m in chosen.union] == ["org/cats"]
    assert "may have any license" in pages.selection_html(chosen)
    html = pages.selection_html(chosen, ("mit", HARM))
    assert "name one of these licenses: mit, &lt;img" in html
    assert HARM not in html
    put_cards(hub, even=f"'{HARM}'", cats=3, dogs=f"[{'x' * 10_000}]")
    with pytest.raises(InputError, match=r"the 3 best have unknown \(3\)") as caught:
        catalogue.select(ask("cat", "dog", licenses=["mit"]))
    assert HARM not in pages.alert(caught.value)


def test_a_source_that_fails_is_left_alone_for_a_while(tmp_path):
    catalogue = make_catalogue(tmp_path / "labels")
    with pytest.raises(InputError, match="holds no labels"):
        catalogue.labels()
    make_store(tmp_path / "labels", make_labels(make_graph()), make_graph())
    with pytest.raises(InputError, match="holds no labels"):
        catalogue.labels()
    catalogue._failure = (time.monotonic() - 60, catalogue._failure[1])
    assert len(catalogue.labels()) == 3


def test_labels_are_read_again_after_an_hour(tmp_path):
    graph = make_graph()
    folder = make_store(tmp_path, make_labels(graph)[:2], graph)
    catalogue = make_catalogue(folder)
    assert len(catalogue.labels()) == 2
    make_store(tmp_path, make_labels(graph)[2:], graph)
    assert len(catalogue.labels()) == 2
    catalogue._loaded -= 3601
    assert len(catalogue.labels()) == 3
    next(tmp_path.glob("labels/*/*/*.safetensors")).write_bytes(b"damaged")
    catalogue._loaded -= 3601
    assert len(catalogue.labels()) == 3  # the old ones, rather than none


def test_a_damaged_label_is_said_in_one_line(tmp_path):
    folder = make_store(tmp_path, make_labels(make_graph()), make_graph())
    next(tmp_path.glob("labels/*/*/*.safetensors")).write_bytes(b"damaged")
    with pytest.raises(MLLError, match="no readable label") as caught:
        make_catalogue(folder).select(ask("cat", "dog"))
    assert 'role="alert"' in pages.alert(caught.value)


def test_labels_of_the_hub_and_of_a_collection(hub):
    collection = make_catalogue(COLLECTION)
    commit = put_collection(make_labels(make_graph()))
    assert collection.select(ask("cat", "dog")).union
    pinned = answers.pinned_location(collection.source)
    assert pinned == f"{COLLECTION}@{commit}"
    assert f"Client({pinned!r})" in answers.python_code(ask("cat", "dog"), pinned)
    empty = make_catalogue("hub")
    selection = empty.select(ask("cat", "dog"))
    assert str(selection.strategy) == "imagenet"
    assert "No model has been measured yet" in pages.selection_html(selection)
    assert pages.models_html(empty, "") == pages.empty(
        "No model has been measured yet. Yours can be the first: see below."
    )


def test_models_are_found_by_any_name(catalogue):
    assert catalogue.find("cats") is catalogue.find("org/cats") is catalogue.find(f"org/cats@{SHA}")
    for name, reason in (("nothing", "not among"), ("", "no model yet"), (None, "no model yet")):
        with pytest.raises(InputError, match=reason):
            catalogue.find(name)


def test_models_of_one_name_are_told_apart():
    graph = make_graph()
    labels = [
        make_label(graph, repo_id="local-dir:/a/same"),
        make_label(graph, repo_id="local-dir:/b/same", revision="f" * 40),
    ]
    assert answers.shown_names(labels) == ["same@0123456", "same@fffffff"]


def test_concepts_by_name_and_the_nearest(catalogue):
    assert catalogue.senses(" Cat ") == ([CAT], True)
    nearest, named = catalogue.senses("big dog")
    assert not named
    assert DOG in nearest
    with pytest.raises(InputError, match="no concept yet"):
        catalogue.senses(" ")


def test_sample_images_only_where_the_settings_say_so(tmp_path, catalogue):
    assert catalogue.sample_images(CAT) == []
    write_graph_folder(tmp_path / "graph", [Probe("cat", CAT), Probe("dog", DOG), Probe("cat", CAT)])
    folder = make_store(tmp_path / "labels", make_labels(make_graph()), make_graph())
    shown = make_catalogue(folder, images=str(tmp_path / "graph"))
    assert len(shown.sample_images(CAT)) == 2
    assert pages.concept_html(shown, [CAT], True, "cat").count("<img ") == 2
    other = make_catalogue(make_store(tmp_path / "others", make_labels(harmful_graph()), harmful_graph()),
                           images=str(tmp_path / "graph"))  # fmt: skip
    with pytest.raises(InputError, match="another graph"):
        other.sample_images(CAT)


@pytest.mark.parametrize("value", ["many", "-1", "1e9"])
def test_settings_that_make_no_sense(value):
    with pytest.raises(InputError, match="MLL_MOST_PARAMETERS"):
        answers.Settings.from_environment({"MLL_MOST_PARAMETERS": value})


def test_settings():
    assert answers.Settings.from_environment({}) == answers.Settings("hub", None, 10**9)
    variables = {"MLL_LABELS": "x", "MLL_IMAGES": "y", "MLL_MOST_PARAMETERS": "5"}
    assert answers.Settings.from_environment(variables) == answers.Settings("x", "y", 5)


# --- code to take away ------------------------------------------------------------------------------------------------

QUESTIONS = [
    ask("cat", "corgi"),
    ask("cat", "dog", "car", domain="photo", task="it's a 'task'", k=2, max_gflops=10.5, max_million_parameters=500),
    ask("a, b", 'say "cat"', "it's", "$(rm -rf x)", "`id`", "🐈", "<b>", "back\\slash", domain="-x"),
    ask("-v", "cat"),
    ask("two\nlines", "cat"),
    ask(*(f"class {n}" for n in range(60))),
    ask("cat", "corgi", licenses=["mit"]),
    ask("cat", "corgi", k=2, licenses=["apache-2.0", "cc-by-nc-4.0"]),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
def test_the_code_gives_the_same_models(question, folder, catalogue, hub, monkeypatch, tmp_path, capsys):
    put_cards(hub, even="cc-by-nc-4.0", cats="mit", dogs="apache-2.0")
    monkeypatch.setattr(mll_hf.client, "default_encoder", WordEncoder)
    monkeypatch.chdir(tmp_path)
    selection = catalogue.select(question)
    chosen = [selection.models[m].ref.repo_id for m in selection.union]

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
    """A catalogue of one model that can be run."""
    graph = make_graph()
    model = resolve_model(f"local-dir:{tiny_open_clip}")
    label = make_label(graph, model=model)
    return make_catalogue(make_store(tmp_path_factory.mktemp("runnable"), [label], graph))


def test_models_vote_on_images(runnable, tmp_path):
    picture = answers.Path(pages.__file__).parent / "pictures" / "1-sun.png"
    other = tmp_path / "no-image.png"
    other.write_bytes(b"no image")
    told = []
    trial = answers.try_models(
        runnable, ask("cat", "dog"), [str(picture), str(other)], progress=lambda *what: told.append(what)
    )
    np.testing.assert_allclose(trial.probabilities[0].sum(), 1)
    np.testing.assert_allclose(trial.probabilities[0], trial.weights @ trial.votes[:, 0], rtol=1e-6)
    assert np.isnan(trial.probabilities[1]).all()
    assert told[0][0] == (0, 1)
    html = pages.trial_html(trial, ["sun.png", HARM])
    assert "no readable image" in html
    assert SAYS_HARM in html
    assert HARM not in html
    alone = answers.try_models(runnable, ask("cat", HARM), [str(picture)])
    assert HARM not in pages.trial_html(alone, ["sun.png"])
    assert "no image that can be read" in pages.trial_html(
        answers.try_models(runnable, ask("a", "b"), [str(other)]), ["x"]
    )


def test_trials_that_cannot_be(runnable, catalogue, folder):
    for images, reason in (([], "no image yet"), (["x"] * 33, "33 images are more")):
        with pytest.raises(InputError, match=reason):
            answers.try_models(runnable, ask("cat", "dog"), images)
    with pytest.raises(InputError, match="no models yet"):
        answers.try_models(runnable, None, ["x"])
    small = make_catalogue(folder, most_parameters=1000)
    with pytest.raises(InputError, match="more than this page runs"):
        answers.try_models(small, ask("cat", "dog"), ["x"])
    with pytest.raises(ModelError):
        answers.try_models(catalogue, ask("cat", "dog"), ["x"])  # org/even is not on the Hub


# --- the page's texts -------------------------------------------------------------------------------------------------


def test_nothing_of_strangers_is_markup(catalogue):
    app = load_app()
    question = ask("cat", "car", HARM, "**bold** ${1+1} {{x}}", domain=HARM[:90])
    parts = app.find(catalogue, question)
    graph = catalogue.graph
    htmls = [
        *(part for at, part in enumerate(parts) if isinstance(part, str) and at not in (6, 7)),  # not the code
        pages.concept_html(catalogue, range(len(graph)), False, HARM),
        pages.models_html(catalogue, ""),
        pages.models_html(catalogue, HARM),
        pages.alert(HARM),
        *pages.comparison_html(*catalogue.labels()[:2], graph),
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
    catalogue = make_catalogue(make_store(tmp_path, [label], graph))
    selection = catalogue.select(ask("cat", "dog"))
    html = pages.selection_html(selection) + pages.models_html(catalogue, "") + pages.strengths_html(label)
    assert "model" in html
    assert "somebody" not in html


def test_nothing_is_promised_where_nothing_was_tested(catalogue):
    html = pages.selection_html(catalogue.select(ask("yyy", "zzz")))
    assert "This is a guess" in html
    assert "should get about" not in html
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


def test_uncovered_classes_are_warned_of(catalogue):
    html = pages.selection_html(catalogue.select(ask("cat", "zzz")))
    assert "nothing close enough to zzz" in html
    assert 'role="note"' in html
    assert "nothing close enough" not in pages.selection_html(catalogue.select(ask("cat", "dog")))


@pytest.mark.parametrize(
    ("coverage", "words"), [(1, "same concept"), (0.6, "close"), (0.2, "weak"), (0, "not covered")]
)
def test_coverage_in_words(coverage, words):
    assert answers.how_sure(coverage) == words


def test_tables_have_headers_and_captions(catalogue):
    html = pages.selection_html(catalogue.select(ask("cat", "dog", k=2)))
    assert html.count("<table>") == html.count("<caption>") == 1
    assert html.count('scope="row"') == 3
    assert html.count(">chosen</span>") == 2
    assert 'href="' in html


def test_many_models_are_searched(tmp_path):
    graph = make_graph()
    labels = [make_label(graph, repo_id=f"org/m{n:03}", cost=Cost(1, 1)) for n in range(105)]
    catalogue = make_catalogue(make_store(tmp_path, labels, graph))
    html = pages.models_html(catalogue, "")
    assert html.count("<tr") == 101
    assert "5 more models: narrow the search" in html
    assert pages.models_html(catalogue, "M104").count("<tr") == 2
    assert "No measured model’s name holds" in pages.models_html(catalogue, "nothing")


# --- the Space as a folder --------------------------------------------------------------------------------------------


def test_models_run_on_the_gpu_where_the_space_has_one(monkeypatch):
    zero = types.ModuleType("spaces")
    zero.GPU = lambda duration: lambda function: ("on the GPU", duration, function)
    monkeypatch.setitem(sys.modules, "spaces", zero)
    assert load_app(fresh=True).run_one_model == ("on the GPU", 60, answers.run_one_model)
    assert load_app().run_one_model is answers.run_one_model


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
def test_the_verb_refuses_nonsense(words):
    run = subprocess.run([FOLDER.parents[2] / "scripts" / "space", *words], capture_output=True, text=True)
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
