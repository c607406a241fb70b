"""The command ``fit`` on tiny real models."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from cli_worlds import encoded, fails, run
from mll_hf.ensemble import embedding
from mll_hf.selection import Selection
from mll_hf.selection.head import HEADS_FILE


@pytest.fixture
def command(world):
    return ["fit", "--classes", "cat, dog, car", "-k", 2, "--labels", world / "labels"]


def loads_nothing(monkeypatch):
    def load(ref, *_args, **_options):
        raise AssertionError(f"{ref.repo_id} is loaded")

    monkeypatch.setattr(embedding, "load_model", load)


def test_unlabeled_images(command, task_images, capsys, monkeypatch):
    given = task_images, task_images / "first" / "01.png"  # an image that the folder has, too
    status, out, err = run(capsys, *command, *given)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].startswith("This rests on class names, labels and 24 images without class. To know")
    _, headline, models = run(capsys, *command, *given, "-v")[1].split("\n\n")
    assert headline == "3 classes, 2 models tried on 24 images, strategy mll, k = 2: 2 models chosen (marked *)"
    assert models.count("not known") == 2  # unlabeled images make no accuracy known
    answer = json.loads(run(capsys, *command, *given, "--json")[1])
    assert (answer["trial"]["n_images"], answer["trial"]["n_examples"]) == (24, 0)
    assert {model["id"] for model in answer["models"]} == set(answer["chosen"]["cat"])
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "install it with: pip install '.[models]'" in fails(capsys, *command, *given)


def test_examples(command, task_images, examples_by_class, tmp_path, capsys):
    command = [*command, "--json", "--examples"]
    alone = json.loads(run(capsys, *command, examples_by_class)[1])
    both = json.loads(run(capsys, *command, examples_by_class, task_images)[1])
    assert (alone["trial"]["n_images"], both["trial"]["n_images"]) == (18, 42)
    assert both["trial"]["n_examples"] == 18
    assert both["estimate"]["basis"] == "examples"
    table = tmp_path / "examples.csv"
    rows = [f"{file},{file.parent.name}" for file in sorted(examples_by_class.rglob("*.png"))]
    table.write_text("\n".join(["path,class", *rows]))
    # the order of classes is another, so images add up in another order
    again = json.loads(run(capsys, *command, table)[1])
    assert [model["id"] for model in again["models"]] == [model["id"] for model in alone["models"]]
    (tmp_path / "odd" / "cta").mkdir(parents=True)
    (tmp_path / "odd" / "cta" / "0.png").write_bytes(encoded((1, 2, 3), 0))
    assert "'cta' (nearest: 'cat')" in fails(capsys, *command, tmp_path / "odd")


def test_a_second_fit_with_examples_and_predict_run_no_more_than_they_need(
    command, task_images, tmp_path, capsys, monkeypatch
):
    choice, table = tmp_path / "choice", tmp_path / "examples.csv"
    status, _, err = run(capsys, *command, task_images, "-o", choice)
    assert status == 0
    assert f"saved in {choice}; classify images with: mll-hf predict IMAGES --selection {choice}" in err
    assert len(Selection.from_pretrained(choice).heads) == 2
    assert (choice / HEADS_FILE).is_file()
    files = sorted(task_images.rglob("*.png"))
    table.write_text(
        "\n".join(["path,class", *(f"{file},{'cat' if n % 3 else 'dog'}" for n, file in enumerate(files))])
    )
    with monkeypatch.context() as context:
        loads_nothing(context)
        status, out, _ = run(capsys, *command, task_images, "--examples", table, "-o", choice, "--json")
    assert (status, json.loads(out)["trial"]["n_examples"]) == (0, 24)

    with_texts, load = [], embedding.load_model

    def loading(*args, **options):
        model = load(*args, **options)
        with_texts.append(model.has_texts)
        return model

    monkeypatch.setattr(embedding, "load_model", loading)
    assert run(capsys, "predict", task_images, "--selection", choice)[0] == 0
    card = (choice / "README.md").read_text()
    trial = Selection.from_pretrained(choice).trial
    assert f"by class names, labels and {trial.n_images} images, {trial.n_examples} of them with their class." in card
    for verb in ("predict photos --selection", "serve", "export"):
        assert f"mll-hf {verb} {choice}" in card
    assert "sample_images" not in card  # of cats and dogs
    assert with_texts == [False, False]


def test_class_shares(command, task_images, tmp_path, capsys):
    command = [*command, task_images, "--json", "--shares"]
    file = tmp_path / "shares.json"
    file.write_text('{"dog": 1, "cat": 2, "car": 1}', encoding="utf-8-sig")
    for given, expected in (("equal", [1 / 3] * 3), (file, [0.5, 0.25, 0.25])):
        np.testing.assert_allclose(json.loads(run(capsys, *command, given)[1])["trial"]["shares"], expected)
    file.write_text('{"cat": 1, "car": 1}')
    assert "'dog' has no share" in fails(capsys, *command, file)
    file.write_text("[1, 2, 3]")
    assert "this is not {class: number}" in fails(capsys, *command, file)
    assert "give equal, or a JSON file" in fails(capsys, *command, tmp_path / "nowhere")


def test_a_download_is_asked_for(command, task_images, capsys, monkeypatch):
    monkeypatch.setattr("mll_hf.models.source.bytes_to_fetch", lambda ref, parameters, token: 2 * 10**9)
    command = [*command, task_images]
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


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ([], "give images, or folders of images, before --classes, or --examples"),
        (["nowhere"], "nowhere is neither an image nor a folder of images"),
        (["empty"], "empty is neither an image nor a folder of images"),
        (["few"], "9 readable images are too few to compare models; give at least 10"),
        (["same", "few"], "9 different images are too few to compare models; give at least 10"),
        (["all", "--max-parameters", "1"], "none of the 2 models is within the limits"),
        (["all", "--device", "toaster"], "there is no device 'toaster'"),
        (["all", "-o", "classes.txt"], "-o classes.txt is a file; give a folder"),
    ],
)
def test_refused(command, tmp_path, task_images, monkeypatch, extra, words, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(task_images, "all")
    Path("classes.txt").write_text("cat")
    for name in ("empty", "few"):
        Path(name).mkdir()
    for n in range(9):
        Path("few", f"{n}.png").write_bytes(encoded((n, n, n), n))
    shutil.copytree("few", "same")
    assert words in fails(capsys, *command, *extra)
