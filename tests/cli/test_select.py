"""The command ``select`` on tiny real models, without and with images."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from cli_worlds import encoded, fails, run
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


def test_the_figure_is_a_web_page(world, tmp_path, capsys, monkeypatch):
    page, select = tmp_path / "figures" / "page.html", [*TASK, "--labels", world / "labels"]
    status, _, err = run(capsys, *select, "--plot", page)
    assert status == 0
    assert f"figure: {page}" in err
    assert "Models for cat, dog, car" in page.read_text()
    page.unlink()
    status, _, err = run(capsys, *select, "--strategy", "paper", "--plot", page)
    assert "no figure: scores of strategy paper are no accuracies" in err
    assert (status, page.exists()) == (0, False)
    select[-1] = tmp_path / "nothing"  # what is wrong with the figure is said before labels are read
    assert "ends in .html" in fails(capsys, *select, "--plot", tmp_path / "page.png")
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert "[plots]" in fails(capsys, *select, "--plot", page)


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
    ("extra", "words"),
    [
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


# --- with images ---


def test_select_with_images(world, task_images, capsys):
    command = [*TASK, "--labels", world / "labels", "--images", task_images]
    status, out, err = run(capsys, *command, task_images / "first" / "01.png")  # an image that the folder has, too
    assert (status, err) == (0, "")
    answer, headline, models = out.split("\n\n")
    assert len(answer.splitlines()) == 3
    assert headline == "3 classes, 2 models tried on 24 images, strategy mll, k = 2: 2 models chosen (marked *)"
    assert models.count("not known") == 2  # unlabeled images make no accuracy known
    answer = json.loads(run(capsys, *command, "--json")[1])
    calibration = answer["calibration"]
    assert (calibration["n_images"], len(calibration["temperatures"]), len(calibration["offsets"][0])) == (24, 2, 3)
    assert {model["id"] for model in answer["models"]} == set(answer["chosen"]["cat"])
    assert json.loads(run(capsys, *TASK, "--labels", world / "labels", "--json")[1])["calibration"] is None


def test_select_with_examples(world, task_images, examples_by_class, tmp_path, capsys):
    command = [*TASK, "--labels", world / "labels", "--json", "--examples"]
    alone = json.loads(run(capsys, *command, examples_by_class)[1])
    both = json.loads(run(capsys, *command, examples_by_class, "--images", task_images)[1])
    assert (alone["calibration"]["n_images"], both["calibration"]["n_images"]) == (18, 42)
    assert both["estimate"]["basis"] == "examples"
    table = tmp_path / "examples.csv"
    rows = [f"{file},{file.parent.name}" for file in sorted(examples_by_class.rglob("*.png"))]
    table.write_text("\n".join(["path,class", *rows]))
    # the order of classes is another, so images add up in another order
    again = json.loads(run(capsys, *command, table)[1])
    assert [model["id"] for model in again["models"]] == [model["id"] for model in alone["models"]]
    (tmp_path / "odd" / "cta").mkdir(parents=True)
    (tmp_path / "odd" / "cta" / "0.png").write_bytes(encoded((1, 2, 3), 0))
    assert "'cta' (nearest: 'cat')" in fails(
        capsys, *TASK, "--labels", world / "labels", "--examples", tmp_path / "odd"
    )


def test_the_shares_of_the_classes(world, task_images, tmp_path, capsys):
    command = [*TASK, "--labels", world / "labels", "--images", task_images, "--json", "--shares"]
    shares = {how: json.loads(run(capsys, *command, how)[1])["calibration"]["shares"] for how in ("equal", "answers")}
    np.testing.assert_allclose(shares["equal"], [1 / 3] * 3)
    assert shares["answers"] != shares["equal"]
    file = tmp_path / "shares.json"
    file.write_text('{"dog": 1, "cat": 2, "car": 1}', encoding="utf-8-sig")
    np.testing.assert_allclose(json.loads(run(capsys, *command, file)[1])["calibration"]["shares"], [0.5, 0.25, 0.25])
    file.write_text('{"cat": 1, "car": 1}')
    assert "'dog' has no share" in fails(capsys, *command, file)
    file.write_text("[1, 2, 3]")
    assert "this is not {class: number}" in fails(capsys, *command, file)
    assert "give equal, answers, or a JSON file" in fails(capsys, *command, tmp_path / "nowhere")


def test_a_download_is_asked_for(world, task_images, capsys, monkeypatch):
    monkeypatch.setattr("mll_hf.client.bytes_to_fetch", lambda ref, parameters, token: 2 * 10**9)
    command = [*TASK, "--labels", world / "labels", "--images", task_images]
    monkeypatch.setattr("sys.stdin", io.StringIO())
    status, _, err = run(capsys, *command)
    note, error = err.splitlines()
    assert status == 1
    assert note.startswith(
        "mll-hf: note: the trial downloads at most 4 GB of models, and about 4 GB if they perform as"
    )
    assert error.endswith("add --yes, or a smaller --max-download")
    assert "the smallest model" in fails(capsys, *command, "--max-download", "1.9G", "--yes")
    status, _, err = run(capsys, *command, "--max-download", "4GB", "--yes")  # is not asked, but told
    assert status == 0
    assert err.startswith("mll-hf: note: the trial downloads at most 4 GB of models, and about 4 GB if they perform as")
    assert all(name in err for name in ("tiny-open-clip", "tiny-siglip"))

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for answer, status in (("n\n", 1), ("yes\n", 0)):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        found, out, err = run(capsys, *command, "--json")
        assert found == status
        assert "Download? [y/N] " in err
        assert "[y/N]" not in out  # which may be a file


@pytest.mark.parametrize("option", ["--max-download=1G", "--shares=equal", "--yes"])
def test_options_of_a_trial_need_images(world, option, capsys):
    said = fails(capsys, *TASK, "--labels", world / "labels", option)
    assert said.endswith(f"{option.partition('=')[0]}: only for a trial; give --images or --examples, or leave it out")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--images", "nowhere"], "nowhere is neither an image nor a folder of images"),
        (["--images", "empty"], "empty is neither an image nor a folder of images"),
        (["--images", "few"], "15 readable images are too few to compare models; give at least 16"),
        (["--images", "all", "--strategy", "paper"], "images are used by strategy 'mll' only, not by 'paper'"),
        (["--images", "all", "--device", "toaster"], "there is no device 'toaster'"),
    ],
)
def test_trials_that_are_refused(world, tmp_path, task_images, monkeypatch, extra, words, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(task_images, "all")
    for name in ("empty", "few"):
        Path(name).mkdir()
    for n in range(15):
        Path("few", f"{n}.png").write_bytes(encoded((n, n, n), n))
    assert words in fails(capsys, *TASK, "--labels", world / "labels", *extra)


def test_classes_that_the_graph_lacks_ask_for_images(world, task_images, examples_by_class, capsys):
    command = ["select", "--classes", "cat, zzyzx", "--labels", world / "labels"]
    assert "or give unlabeled images with --images" in run(capsys, *command)[2]
    assert run(capsys, *command, "--images", task_images)[2] == ""
    one = run(capsys, "select", "--classes", "zzyzx", "--labels", world / "labels")[2]
    assert one == "mll-hf: note: With one class every prediction is correct; also name what else the images show.\n"
    command[2] = "cat, dog, car, zzyzx"
    assert run(capsys, *command, "--examples", examples_by_class)[2] == ""
