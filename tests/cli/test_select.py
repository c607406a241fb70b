"""The command ``select`` on tiny real models."""

import json
from pathlib import Path

import numpy as np
import pytest

from cli_worlds import fails, run
from mll_hf.graph.concepts import load_graph
from mll_hf.matching import describe

TASK = ["select", "--classes", "cat, dog, car", "-k", 2]


def test_select_json_has_the_promised_shape(world, capsys):
    status, out, _ = run(capsys, *TASK, "--labels", world / "labels", "--domain", "photo", "--json")
    answer = json.loads(out)
    assert status == 0
    assert answer["classes"] == ["cat", "dog", "car"]
    assert (answer["strategy"], answer["k"]) == ("mll", 2)
    assert len(answer["models"]) == 2
    for model in answer["models"]:
        assert {"id", "revision", "parameters", "gflops", "scores", "overall"} <= set(model)
        assert len(model["scores"]) == 3
        assert model["overall"] == pytest.approx(np.mean(model["scores"]))
    ids = {model["id"] for model in answer["models"]}
    assert list(answer["chosen"]) == answer["classes"]
    assert all(set(chosen) == ids for chosen in answer["chosen"].values())
    assert answer["matches"]["dog"][0]["name"] == "dog"
    assert {"id", "name", "weight"} <= set(answer["matches"]["dog"][0])
    assert answer["coverage"]["cat"] > 0.85


def test_classes_from_files_and_descriptions(world, tmp_path, capsys):
    classes = tmp_path / "classes.txt"
    classes.write_text("cat\ndog\n")
    described = tmp_path / "d.json"
    described.write_text(json.dumps({"cat": "a small animal", "dog": ["barks", "an animal"]}))
    base = ["select", "--classes", classes, "--labels", world / "labels"]
    status, out, _ = run(capsys, *base, "--descriptions", described, "--json")
    assert status == 0
    assert json.loads(out)["classes"] == ["cat", "dog"]
    described.write_text(json.dumps({"cat": "a small animal"}))
    assert "dog" in fails(capsys, *base, "--descriptions", described)


def test_a_language_model_describes_the_classes(world, capsys, monkeypatch):
    asked = []

    def describing(classes, domain, task, model, base_url):
        asked.append((model, base_url))
        return describe.from_templates(classes, load_graph(world / "graph"))

    monkeypatch.setattr(describe, "from_llm", describing)
    for given in ("org/model", "org/model@http://host/v1", "http://host/v1"):
        assert run(capsys, *TASK, "--labels", world / "labels", "--llm", given)[0] == 0
    assert asked == [("org/model", None), ("org/model", "http://host/v1"), (None, "http://host/v1")]


@pytest.mark.parametrize(
    "words",
    [
        ["cat", "golden retriever"], ["cat, golden retriever"], ["cat,", "golden", "retriever"],
        ["cat; golden retriever"],
        ["cat | golden retriever"], ["cat、golden retriever"], ['["cat", "golden retriever"]'],
        ["--classes", "cat", "golden retriever"],
    ],
)  # fmt: skip
def test_classes_are_written_in_any_usual_way(world, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cat").mkdir()  # a folder per class is usual, too
    out = run(capsys, "select", *words, "--labels", world / "labels", "--json")[1]
    assert json.loads(out)["classes"] == ["cat", "golden retriever"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([], "name your classes: cat dog"),
        (["--classes", '["cat"'], "no valid JSON"),
        (["--classes", "cat", "."], ". is a path, not a class; give one file of classes alone, and images before"),
        (["--classes", "cat", __file__], "test_select.py is a path, not a class"),
        (["--classes", '["cat", 1]'], "error: class names cannot be used: name 2 is not a string (1)"),
        (["--classes", ""], "class"),
        (["--classes", "cat, Cat"], "repeats"),
        (["--classes", "nowhere/classes.txt"], "nowhere/classes.txt"),
        (["--classes", "cat, dog", "--max-parameters", "1K"], "limits"),
        (["--classes", "cat, dog", "--descriptions", "nowhere.json"], "nowhere.json"),
        (["--classes", "cat, dog", "--descriptions", "x.json", "--llm", "m"], "not both"),
    ],
)
def test_select_refuses(world, extra, words, capsys):
    assert words in fails(capsys, "select", "--labels", world / "labels", *extra)


def test_classes_that_the_graph_lacks_ask_for_images(world, capsys):
    command = ["select", "--labels", world / "labels", "--max-parameters", "1.5B", "--trust", "a", "--classes"]
    _, out, err = run(capsys, *command, "cat, zzyzx")
    assert "zzyzx: not found among English words" in err
    assert "rests on class names and labels" in out
    limits = f"--max-parameters 1500M --labels {world / 'labels'} --trust a"
    assert f"mll-hf fit PHOTOS --classes 'cat, zzyzx' {limits} -o choice" in out
    one = run(capsys, *command, "zzyzx")[2]
    assert one == "mll-hf: note: With one class every prediction is correct; also name what else the images show.\n"
