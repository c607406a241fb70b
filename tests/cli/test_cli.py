"""The command line from end to end on tiny real models: what it prints, what it refuses and how it exits."""

import argparse
import csv
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import naive_evidence
from cli_worlds import COLORS, NODES, WordEncoder, encoded, fails, run, write_graph
from mll_hf import client
from mll_hf.cli import build_parser, main
from mll_hf.cli.options import script_parser
from mll_hf.cli.output import logged_notes
from mll_hf.ensemble import Rule, residents
from mll_hf.ensemble.run import Ensemble
from mll_hf.errors import StorageError
from mll_hf.graph.concepts import load_graph
from mll_hf.labels.store import LabelStore
from mll_hf.matching.prompts import templates_for
from mll_hf.matching.text_encoder import CachedEncoder
from mll_hf.selection import Selection


@pytest.fixture(autouse=True)
def _word_encoder(monkeypatch, tmp_path_factory):
    cache = tmp_path_factory.mktemp("encoder") / "embeddings.sqlite"
    monkeypatch.setattr(client, "default_encoder", WordEncoder)
    monkeypatch.setattr(client, "CachedEncoder", lambda encoder: CachedEncoder(encoder, cache))


@pytest.fixture(scope="session")
def world(tmp_path_factory, tiny_open_clip, tiny_siglip):
    """A graph, two tiny models labeled on it, and a folder of images."""
    root = tmp_path_factory.mktemp("world")
    graph = write_graph(root / "graph")
    models = [f"local-dir:{tiny_open_clip}", f"local-dir:{tiny_siglip}"]
    assert main(["label", *models, "--graph", str(graph), "--labels", str(root / "labels"), "--keep-embeddings"]) == 0
    (root / "images").mkdir()
    for name, color in (("a", (200, 0, 0)), ("b", (0, 130, 0)), ("c", (90, 60, 30))):
        (root / "images" / f"{name}.png").write_bytes(encoded(color, 99))
    return root


def label_files(folder):
    """Paths of the labels in a folder, sorted."""
    return LabelStore(folder).paths()


@pytest.mark.parametrize(
    "words",
    [
        *([], ["label"], ["labels"], ["labels", "ls"], ["labels", "show"], ["labels", "check"]),
        *(["select"], ["predict"], ["graph"], ["graph", "add"], ["graph", "show"], ["graph", "check"]),
    ],
)
def test_every_command_has_help(words, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([*words, "--help"])
    assert exit_info.value.code == 0
    assert f"usage: mll-hf {' '.join(words)}".rstrip() in capsys.readouterr().out


def test_help_of_a_script_has_examples_only_where_its_docstring_has():
    assert script_parser("Do it.\n\n    python scripts/do.py\n").epilog == "    python scripts/do.py\n"
    assert not script_parser("Do it.\n").epilog


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith("mll-hf ")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["select"],
        ["select", "--classes", "a", "--labels", "x", "-k", "0"],
        ["select", "--classes", "a", "--labels", "x", "--strategy", "nonsense"],
        ["select", "--classes", "a", "--labels", "x", "--max-parameters", "many"],
        ["select", "--classes", "a", "--labels", "x", "--images"],
        ["select", "--classes", "a", "--labels", "x", "--images", "y", "--shortlist", "0"],
        ["select", "--classes", "a", "--labels", "x", "--images", "y", "--most-images", "some"],
        ["predict", "x.png", "--classes", "a, b", "--images", "y"],
        ["label", "a/b", "--graph", "x", "--labels", "y", "--batch-size", "-3"],
        ["predict", "x.png", "--rule", "nonsense"],
        ["predict", "x.png", "--json", "--csv"],
    ],
)
def test_misuse_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_unknown_option_is_refused_by_its_command_with_the_nearest(capsys):
    for words, said in (
        (["select", "--classes", "a", "--licenses", "mit"], "arguments: --licenses mit; did you mean --license?\n"),
        (["labels", "ls", "extra"], "mll-hf labels ls: error: unrecognized arguments: extra\n"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            main(words)
        assert exit_info.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith(f"usage: mll-hf {words[0]}")
        assert said in err


def test_empty_class_names(world, capsys):
    assert "no class names given" in fails(capsys, "select", "--classes", "", "--labels", world / "labels")
    assert "--selection" in fails(capsys, "predict", world / "images", "--labels", world / "labels")


# --- label ---


def test_second_run_does_nothing(world, tiny_open_clip, capsys, monkeypatch):
    files = sorted((world / "labels").rglob("*.safetensors"))
    before = [file.stat().st_mtime_ns for file in files]
    monkeypatch.setattr("mll_hf.labeling.engines.load_model", lambda *_: pytest.fail("a labeled model was loaded"))
    status, out, _ = run(
        capsys,
        "label",
        f"local-dir:{tiny_open_clip}",
        "--graph",
        world / "graph",
        "--labels",
        world / "labels",
        "--json",
    )
    assert status == 0
    assert json.loads(out)["measured"] is False
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_failing_model_does_not_stop_the_rest(world, tmp_path, tiny_open_clip, capsys):
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    corrupt = tmp_path / "corrupt"
    shutil.copytree(tiny_open_clip, corrupt)
    weights = corrupt / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    models = [
        "local-dir:/nowhere",
        f"local-dir:{pickled}",
        f"local-dir:{corrupt}",
        "no-owner",
        f"local-dir:{tiny_open_clip}",
    ]
    status, out, err = run(
        capsys, "label", *models, "--graph", world / "graph", "--labels", tmp_path / "labels", "--json"
    )
    errors = [line for line in err.splitlines() if line.startswith("mll-hf: error: ")]
    assert status == 1
    assert len(errors) == 4
    assert all(spec in line for spec, line in zip(models, errors, strict=False))
    assert "pickle" in errors[1]
    assert "Traceback" not in err
    assert "4 of 5 labels failed" in err
    assert [json.loads(line)["repo_id"] for line in out.splitlines()] == [models[-1]]


def test_a_warning_is_printed_once_and_as_a_note(capsys):
    root, handler = logging.getLogger(), logging.StreamHandler(sys.stderr)
    root.addHandler(handler)  # as open_clip does
    try:
        with logged_notes():
            logging.getLogger("mll_hf.hub.publish").warning("the graph is a local folder")
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err == "mll-hf: note: the graph is a local folder\n"


def test_undecodable_images_are_counted_and_reported(tmp_path, tiny_open_clip, capsys):
    graph = write_graph(tmp_path / "graph", broken_images=1)
    status, out, err = run(capsys, "label", f"local-dir:{tiny_open_clip}", "--graph", graph, "--labels", tmp_path / "l")
    assert status == 0
    assert "1 of 25 probe images of graph cannot be decoded" in err
    assert out.startswith(f"labeled: local-dir:{tiny_open_clip} on graph (mean recall ")


def test_bad_graphs(tmp_path, world, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    no_images = tmp_path / "no-images"
    no_images.mkdir()
    shutil.copy(world / "graph" / "graph.json", no_images)
    cyclic = write_graph(tmp_path / "cyclic", [{**NODES[0], "hypernyms": ["n2"]}, *NODES[1:]])
    other_images = write_graph(tmp_path / "other", NODES[:-1])
    for folder, words in ((empty, "graph.json"), (no_images, "parquet"), (cyclic, "cycle"), (other_images, "n6")):
        line = fails(capsys, "label", "a/b", "--graph", folder, "--labels", tmp_path / "labels")
        assert words in line
        assert str(folder) in line


def test_a_label_that_its_graph_does_not_fit_is_refused(tmp_path, world, capsys):
    labels = tmp_path / "labels"
    shutil.copytree(world / "labels", labels)
    graph = next(labels.glob("graphs/*.json"))
    shutil.move(graph, graph.with_stem("0" * 12))
    assert "its name does not match the graph" in fails(capsys, "select", "--classes", "cat, dog", "--labels", labels)
    shutil.rmtree(labels / "graphs")
    other = write_graph(tmp_path / "other", [{**NODES[0], "gloss": "changed"}, *NODES[1:]])
    LabelStore(labels).add_graph(load_graph(other))
    assert "is missing; put its graphs/" in fails(capsys, "select", "--classes", "cat, dog", "--labels", labels)


def test_a_smaller_sample_needs_overwrite(tmp_path, world, tiny_open_clip, capsys):
    labels = tmp_path / "labels"
    shutil.copytree(world / "labels", labels)
    command = ["label", f"local-dir:{tiny_open_clip}", "--graph", world / "graph", "--labels", labels, "--json"]
    assert not json.loads(run(capsys, *command, "--sample", 2)[1])["measured"]  # a label of more images will do
    status, out, _ = run(capsys, *command, "--sample", 2, "--overwrite")
    assert status == 0
    assert json.loads(out)["config"]["images_per_concept"] == 2


def test_a_store_that_cannot_be_written(tmp_path, world, tiny_open_clip, capsys):
    (tmp_path / "file").write_text("in the way")
    line = fails(
        capsys,
        "label",
        f"local-dir:{tiny_open_clip}",
        "--graph",
        world / "graph",
        "--labels",
        tmp_path / "file" / "labels",
    )
    assert "cannot write" in line


def test_a_full_disk_stops_the_run(tmp_path, world, tiny_open_clip, capsys, monkeypatch):
    def full(*_, **__):
        raise StorageError(tmp_path / "x", OSError(28, "No space left on device"))

    monkeypatch.setattr("mll_hf.labeling.fleet.label_model", full)
    model = f"local-dir:{tiny_open_clip}"
    line = fails(capsys, "label", model, model, "--graph", world / "graph", "--labels", tmp_path / "labels")
    assert "No space left on device" in line


def let_ctrl_c_through():
    """Whoever runs the tests in the background ignores Ctrl-C, and what they start would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupt_while_a_command_is_imported(monkeypatch, capsys):
    def interrupted(_command):
        raise KeyboardInterrupt

    monkeypatch.setattr("mll_hf.cli.build_parser", interrupted)
    assert main(["select"]) == 130
    assert capsys.readouterr().err.startswith("mll-hf: error: interrupted;")


def test_interrupt_keeps_what_is_done(tmp_path, world, tiny_open_clip):
    """Ctrl-C in the middle of labeling: one line, exit status 130, and the next run goes on from there."""
    code = (
        "import sys, time\n"
        "from mll_hf.models.open_clip import OpenClipModel as M\n"
        "from mll_hf.cli import main\n"
        "plain, calls = M.encode_pixels, [0]\n"
        "def slow(self, pixels):\n"
        "    if len(pixels) == 4:\n"
        "        calls[0] += 1\n"
        "        print('batch', calls[0], flush=True)\n"
        "        if calls[0] == 4: time.sleep(60)\n"
        "    return plain(self, pixels)\n"
        "M.encode_pixels = slow\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [
        "label",
        f"local-dir:{tiny_open_clip}",
        "--graph",
        world / "graph",
        "--labels",
        tmp_path / "l",
        "--batch-size",
        4,
    ]
    words = [sys.executable, "-c", code, *map(str, command)]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=let_ctrl_c_through
    )
    seen = [process.stdout.readline() for _ in range(4)]
    assert seen[-1] == "batch 4\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    (log,) = (tmp_path / "l").rglob("embeddings.log")
    assert log.stat().st_size == 3 * 4 * (8 + 24 * 4)  # three batches of four images: number, 24 dimensions
    assert main([str(word) for word in command]) == 0
    again = label_files(tmp_path / "l")[0].read_bytes()
    plain = tmp_path / "plain"
    assert main([str(word) for word in [*command[:-3], plain, *command[-2:]]]) == 0
    assert label_files(plain)[0].read_bytes() == again


# --- labels ---


def test_ls_and_show(world, tiny_open_clip, capsys):
    status, out, _ = run(capsys, "labels", "ls", "--labels", world / "labels")
    assert status == 0
    assert len(out.splitlines()) == 3
    assert str(tiny_open_clip) in out
    status, out, _ = run(capsys, "labels", "ls", "--labels", world / "labels", "--json")
    assert {record["backend"] for record in json.loads(out)} == {"open_clip", "transformers"}
    status, out, _ = run(capsys, "labels", "show", tiny_open_clip.name, "--labels", world / "labels")
    assert status == 0
    assert "Recognizes best" in out
    assert "icon" in out
    status, out, _ = run(
        capsys, "labels", "show", f"local-dir:{tiny_open_clip}", "--labels", world / "labels", "--json"
    )
    assert json.loads(out)["domains"] == ["icon", "photo"]
    assert "labels ls" in fails(capsys, "labels", "show", "nobody", "--labels", world / "labels")


def test_ls_of_nothing(tmp_path, capsys):
    assert "has no labels" in fails(capsys, "labels", "ls", "--labels", tmp_path)


def test_published_figures_are_listed_as_labels_are(capsys):
    model = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    for source in ("published", "published,published"):
        listed = json.loads(run(capsys, "labels", "ls", "--labels", source, "--json")[1])
        assert model in {label["repo_id"] for label in listed}
    assert "labels ls --labels published" in fails(capsys, "labels", "show", "nobody", "--labels", "published")
    assert "have an index" in fails(capsys, "labels", "index", "--labels", "published")


def test_check(world, tmp_path, capsys):
    label = label_files(world / "labels")[0]
    assert run(capsys, "labels", "check", label)[0] == 0
    status, out, _ = run(capsys, "labels", "check", world / "labels", "--json")
    assert status == 0
    assert len(out.splitlines()) == 2
    truncated = tmp_path / "label.safetensors"
    truncated.write_bytes(label.read_bytes()[:-7])
    assert str(truncated) in fails(capsys, "labels", "check", truncated)
    assert "has no labels" in fails(capsys, "labels", "check", world / "images")
    assert "cannot be read" in fails(capsys, "labels", "check", tmp_path / "none")


# --- select ---


def test_figures_are_written_as_pages(world, tmp_path, capsys):
    labels = ["--labels", world / "labels"]
    page = tmp_path / "figures" / "page.html"
    status, _, err = run(capsys, "select", "--classes", "cat, car", *labels, "--plot", page)
    assert status == 0
    assert f"figures: {page}" in err
    assert "Estimated accuracy against cost" in page.read_text()
    page.unlink()
    status, _, err = run(capsys, "select", "--classes", "cat, car", *labels, "--strategy", "paper", "--plot", page)
    assert "no figures: scores of strategy paper" in err
    assert (status, page.exists()) == (0, False)
    model = json.loads(run(capsys, "labels", "ls", *labels, "--json")[1])[0]["repo_id"]
    assert run(capsys, "labels", "show", model, *labels, "--plot", page)[0] == 0
    assert "treemap" in page.read_text()
    assert run(capsys, "labels", "diff", model, model, *labels, "--plot", page)[0] == 0
    assert page.read_text().count("<h2>") == 2  # of a model against itself


@pytest.mark.parametrize(
    "verb", [["select", "--classes", "cat, car"], ["labels", "show", "x"], ["labels", "diff", "x", "y"]]
)
def test_figures_are_pages_only(world, tmp_path, capsys, verb, monkeypatch):
    assert "ends in .html" in fails(capsys, *verb, "--labels", tmp_path / "nothing", "--plot", tmp_path / "page.png")
    monkeypatch.setitem(sys.modules, "plotly", None)  # is said before labels are read
    assert "[plots]" in fails(capsys, *verb, "--labels", tmp_path / "nothing", "--plot", tmp_path / "page.html")


def test_select_json_has_the_promised_shape(world, capsys):
    status, out, _ = run(
        capsys,
        "select",
        "--classes",
        "cat, dog, car",
        "--labels",
        world / "labels",
        "-k",
        2,
        "--domain",
        "photo",
        "--json",
    )
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
    assert answer["coverage"]["cat"] > 0.99


@pytest.mark.parametrize("strategy", ["mll", "paper", "general"])
def test_select_prints_a_table(world, strategy, capsys):
    status, out, _ = run(
        capsys, "select", "--classes", "cat, dog", "--labels", world / "labels", "--strategy", strategy
    )
    assert status == 0
    assert f"strategy {strategy}" in out
    assert ("concepts used" in out) == (strategy in ("mll", "paper"))  # the others do not look at classes
    assert "GFLOPs" in out


def test_select_warns_of_classes_that_the_graph_does_not_have(world, capsys):
    status, _, err = run(capsys, "select", "--classes", "cat, zzyzx", "--labels", world / "labels")
    assert status == 0
    assert "zzyzx" in err
    assert "cat" not in err.split("general level")[0]


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


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--classes", ""], "class"),
        (["--classes", "cat, Cat"], "repeats"),
        (["--classes", "nowhere/classes.txt"], "nowhere/classes.txt"),
        (["--classes", "cat, dog", "--max-gflops", "0.0000001"], "limits"),
        (["--classes", "cat, dog", "--max-parameters", "1K"], "limits"),
        (["--classes", "cat, dog", "--descriptions", "nowhere.json"], "nowhere.json"),
        (["--classes", "cat, dog", "--descriptions", "x.json", "--llm", "m"], "not both"),
    ],
)
def test_select_refuses(world, extra, words, capsys):
    assert words in fails(capsys, "select", "--labels", world / "labels", *extra)


def test_local_models_without_a_license_are_left_out(world, capsys):
    status, _, err = run(
        capsys, "select", "--classes", "cat, dog", "--labels", world / "labels", "--license", "apache-2.0"
    )
    assert status == 1
    assert "left out because their labels name no license: local-dir:" in err
    assert "no model has an allowed license (apache-2.0): the models have unknown (2)" in err


def test_select_refuses_damaged_labels(world, tmp_path, capsys):
    labels = tmp_path / "labels"
    shutil.copytree(world / "labels", labels)
    file = label_files(labels)[0]
    content = bytearray(file.read_bytes())
    content[-2:] = b"\xc0\x7f"  # the last tensor's last number becomes NaN
    file.write_bytes(content)
    assert str(file) in fails(capsys, "select", "--classes", "cat, dog", "--labels", labels)


# --- select with images ---


@pytest.fixture(scope="session")
def task_images(tmp_path_factory):
    """A folder of 24 pictures in two folders, one of them gray, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("task") / "images"
    for part in ("first", "second"):
        (folder / part).mkdir(parents=True)
        for n, color in enumerate(list(COLORS.values()) * 3):
            (folder / part / f"{n:02}.png").write_bytes(encoded(color, 100 * len(part) + n))
    Image.open(folder / "first" / "00.png").convert("L").save(folder / "first" / "00.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


TASK = ["select", "--classes", "cat, dog, car", "-k", 2]


def test_select_with_images(world, task_images, capsys):
    command = [*TASK, "--labels", world / "labels", "--images", task_images]
    status, out, err = run(capsys, *command, task_images / "first" / "01.png")  # an image that the folder has, too
    assert (status, err) == (0, "")
    answer, headline, models, legend = out.split("\n\n")
    assert len(answer.splitlines()) == 3
    assert headline == "3 classes, 2 labeled models tried on 24 images, strategy mll, k = 2: 2 models chosen (marked *)"
    assert models.splitlines()[0].split()[:4] == ["model", "estimated", "accuracy", "agreement"]
    assert len(models.splitlines()) == 3
    assert "Together: " in legend
    answer = json.loads(run(capsys, *command, "--json")[1])
    evidence = answer["evidence"]
    assert (evidence["images"], len(evidence["temperatures"]), len(evidence["offsets"][0])) == (24, 2, 3)
    assert {model["id"] for model in answer["models"]} == set(answer["chosen"]["cat"])
    assert json.loads(run(capsys, *TASK, "--labels", world / "labels", "--json")[1])["evidence"] is None


def test_predict_uses_what_the_trial_found(world, task_images, tmp_path, capsys):
    choice = tmp_path / "choice.json"
    command = [*TASK, "--labels", world / "labels", "--images", task_images / "first", task_images / "second"]
    choice.write_text(run(capsys, *command, "--domain", "pencil sketch", "--json")[1])
    document = json.loads(choice.read_text())
    evidence, scores = document["evidence"], [model["overall"] for model in document["models"]]
    assert tuple(evidence["templates"]) == templates_for("pencil sketch")

    def predicted(*options):
        out = run(capsys, "predict", task_images, "--selection", choice, "--json", *options)[1]
        records = [json.loads(line) for line in out.splitlines()]
        return [record["image"] for record in records], [record["probabilities"] for record in records]

    images, pooled = predicted()
    assert len(images) == 24
    plain = replace(Selection.from_json(document), evidence=None, domain=None)  # which knows nothing of the trial
    logits = Ensemble(plain, templates=tuple(evidence["templates"])).logits(images).tolist()
    scaled = [[[z / t for z in row] for row in model]
              for model, t in zip(logits, evidence["temperatures"], strict=True)]  # fmt: skip
    weights = naive_evidence.pooling_weights(scores, 3)
    np.testing.assert_allclose(pooled, naive_evidence.pool(scaled, weights, evidence["offsets"]), atol=1e-6)
    transported = predicted("--rule", "transport")[1]
    np.testing.assert_allclose(transported, naive_evidence.transport(logits, evidence["prior"]), atol=1e-6)
    # a template of the user's comes before those of the trial
    assert np.abs(np.array(predicted("--template", "this is {}")[1]) - pooled).max() > 1e-3


@pytest.fixture(scope="session")
def examples_by_class(tmp_path_factory):
    """18 pictures in a folder for each class."""
    folder = tmp_path_factory.mktemp("examples")
    for name, color in zip(("cat", "dog", "car"), COLORS.values(), strict=False):
        (folder / name).mkdir()
        for n in range(6):
            (folder / name / f"{n}.png").write_bytes(encoded(color, 10 * len(name) + n))
    return folder


def test_select_with_examples(world, task_images, examples_by_class, tmp_path, capsys):
    command = [*TASK, "--labels", world / "labels", "--json", "--examples"]
    alone = json.loads(run(capsys, *command, examples_by_class)[1])
    both = json.loads(run(capsys, *command, examples_by_class, "--images", task_images)[1])
    assert (alone["evidence"]["images"], both["evidence"]["images"]) == (18, 42)
    assert all(0 <= model["accuracy"]["low"] < model["accuracy"]["high"] <= 1 for model in both["models"])
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
    shares = {how: json.loads(run(capsys, *command, how)[1])["evidence"]["shares"] for how in ("equal", "answers")}
    np.testing.assert_allclose(shares["equal"], [1 / 3] * 3)
    assert shares["answers"] != shares["equal"]
    file = tmp_path / "shares.json"
    file.write_text('{"dog": 1, "cat": 2, "car": 1}', encoding="utf-8-sig")
    np.testing.assert_allclose(json.loads(run(capsys, *command, file)[1])["evidence"]["shares"], [0.5, 0.25, 0.25])
    file.write_text('{"cat": 1, "car": 1}')
    assert "class 'dog' is missing" in fails(capsys, *command, file)
    file.write_text("[1, 2, 3]")
    assert "it is not {class: number}" in fails(capsys, *command, file)
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
    assert run(capsys, *command, "--max-download", "4GB", "--yes")[0] == 0

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
    "option", ["--shortlist=3", "--most-images=20", "--max-download=1G", "--shares=equal", "--yes"]
)
def test_options_of_a_trial_need_images(world, option, capsys):
    said = fails(capsys, *TASK, "--labels", world / "labels", option)
    assert said.endswith(f"{option.partition('=')[0]}: only for a trial; give --images or --examples, or leave it out")


def test_what_limits_a_trial(world, task_images, capsys, monkeypatch):
    loaded, plain = [], residents.load_model

    def load(ref, device, token, dtype):
        loaded.append((ref.repo_id, device))
        return plain(ref, device, token, dtype)

    monkeypatch.setattr(residents, "load_model", load)
    command = [*TASK, "--labels", world / "labels", "--images", task_images, "--device", "cpu", "--json"]
    answer = json.loads(run(capsys, *command, "--shortlist", 1, "--most-images", 20)[1])
    best = json.loads(run(capsys, *TASK, "--labels", world / "labels", "--json")[1])["models"][0]["id"]
    assert loaded == [(best, "cpu")]
    assert [model["id"] for model in answer["models"]] == [best]
    assert answer["evidence"]["images"] == 20
    again = json.loads(run(capsys, *command, "--shortlist", 1, "--most-images", 20)[1])
    assert again == answer
    few = json.loads(run(capsys, *command, "--shortlist", 1)[1])
    assert few["evidence"]["images"] == 24
    assert few["evidence"]["temperatures"] != answer["evidence"]["temperatures"]


def test_a_damaged_model_and_damaged_images_are_left_out(world, tmp_path, task_images, tiny_open_clip, capsys):
    model, labels, images = tmp_path / "model", tmp_path / "labels", tmp_path / "images"
    shutil.copytree(tiny_open_clip, model)
    shutil.copytree(task_images, images)
    shutil.copytree(world / "labels", labels)
    label = ["label", f"local-dir:{model}", "--graph", world / "graph", "--labels", labels]
    assert main([str(word) for word in label]) == 0
    weights = model / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (images / "first" / "empty.png").write_bytes(b"")
    (images / "first" / "truncated.png").write_bytes(encoded((1, 2, 3), 0)[:200])
    status, out, err = run(capsys, *TASK, "--labels", labels, "--images", images, "--json")
    assert status == 0
    notes = err.splitlines()
    assert len(notes) == 1
    assert notes[0].startswith("mll-hf: note: skipped in the trial: ")
    assert str(model) in notes[0]
    answer = json.loads(out)
    assert f"local-dir:{model}" not in {model["id"] for model in answer["models"]}
    assert len(answer["models"]) == 2
    assert answer["evidence"]["images"] == 24


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--images", "nowhere"], "nowhere is neither an image nor a folder of images"),
        (["--images", "empty"], "empty is neither an image nor a folder of images"),
        (["--images", "few"], "15 readable images are too few to compare models; give at least 16"),
        (["--images", "few", "broken"], "15 readable images are too few to compare models; give at least 16"),
        (["--images", "all", "--strategy", "paper"], "images are used by strategy 'mll' only, not by 'paper'"),
        (["--images", "all", "--strategy", "imagenet"], "images are used by strategy 'mll' only, not by 'imagenet'"),
        (["--images", "all", "--most-images", "15"], "most_images is 15; allow at least 16"),
        (["--images", "all", "--device", "toaster"], "there is no device 'toaster'"),
        (["--images", "all", "--max-gflops", "0.0000001"], "limits"),
    ],
)
def test_trials_that_are_refused(world, tmp_path, task_images, monkeypatch, extra, words, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(task_images, "all")
    for name in ("empty", "few", "broken"):
        Path(name).mkdir()
    for n in range(15):
        Path("few", f"{n}.png").write_bytes(encoded((n, n, n), n))
        Path("broken", f"{n}.png").write_bytes(b"no picture")
    assert words in fails(capsys, *TASK, "--labels", world / "labels", *extra)


def test_classes_that_the_graph_lacks_ask_for_images(world, task_images, examples_by_class, capsys):
    command = ["select", "--classes", "cat, zzyzx", "--labels", world / "labels"]
    assert "or give unlabeled images with --images" in run(capsys, *command)[2]
    assert run(capsys, *command, "--images", task_images)[2] == ""
    one = run(capsys, "select", "--classes", "zzyzx", "--labels", world / "labels")[2]
    assert one == "mll-hf: note: with one class every prediction is correct; also name what else the images show\n"
    command[2] = "cat, dog, car, zzyzx"
    assert run(capsys, *command, "--examples", examples_by_class)[2] == ""


# --- predict ---


def test_predict_json_csv_and_table(world, capsys):
    base = ["predict", world / "images", "--classes", "cat, dog, tree", "--labels", world / "labels"]
    status, out, _ = run(capsys, *base, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [Path(record["image"]).name for record in records] == ["a.png", "b.png", "c.png"]
    for record in records:
        assert list(record) == ["image", "label", "probability", "probabilities"]
        assert sum(record["probabilities"]) == pytest.approx(1)
        assert record["label"] == ["cat", "dog", "tree"][int(np.argmax(record["probabilities"]))]
        assert record["probability"] == max(record["probabilities"])
    rows = list(csv.reader(io.StringIO(run(capsys, *base, "--csv")[1])))
    assert rows[0] == ["image", "label", "probability", "cat", "dog", "tree"]
    assert [row[1] for row in rows[1:]] == [record["label"] for record in records]
    status, out, _ = run(capsys, *base)
    assert status == 0
    assert len(out.splitlines()) == 4


@pytest.mark.parametrize("rule", [str(rule) for rule in Rule])
def test_predict_from_a_selection(world, tmp_path, rule, capsys):
    task = ["--classes", "cat, dog", "--labels", world / "labels", "--strategy", "paper", "-k", 2]
    choice = tmp_path / "choice.json"
    choice.write_text(run(capsys, "select", *task, "--json")[1])
    images = [world / "images" / "a.png", world / "images" / "b.png"]
    direct = run(capsys, "predict", *images, *task, "--rule", rule, "--json")[1]
    status, out, _ = run(capsys, "predict", *images, "--selection", choice, "--rule", rule, "--json")
    assert status == 0
    assert out == direct


def test_predict_goes_on_after_an_unreadable_image(world, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no more")
    images = [broken, world / "images" / "a.png"]
    status, out, err = run(capsys, "predict", *images, "--classes", "cat, dog", "--labels", world / "labels", "--json")
    assert status == 1
    assert [Path(json.loads(line)["image"]).name for line in out.splitlines()] == ["a.png"]
    assert [line for line in err.splitlines() if "broken.png" in line]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predict_goes_on_where_it_was_stopped(world, tmp_path, suffix, monkeypatch, capsys):
    """Three times stopped in the middle of a write: each image is answered once, as without a stop."""
    (tmp_path / "images").mkdir()
    for n in range(40):
        (tmp_path / "images" / f"{n:02}.png").write_bytes(b"broken" if n == 17 else encoded((5 * n, 200, 90), n))
    output, lines = tmp_path / f"answers{suffix}", tmp_path / f"answers{suffix}"
    if suffix == ".parquet":
        lines = tmp_path / "answers.parquet.unfinished.jsonl"
    task = ["predict", tmp_path / "images", "--classes", "cat, dog, tree", "--labels", world / "labels"]
    plain = [json.loads(line) for line in run(capsys, *task, "--json")[1].splitlines()]

    def stopping(ensemble, *images, **options):
        for n, prediction in enumerate(stream(ensemble, *images, **options)):
            if n == 2:
                lines.write_bytes(lines.read_bytes()[:-7])
                raise KeyboardInterrupt
            yield prediction

    stream = Ensemble.stream
    command = [*task, "--batch-size", 4, "-o", output]
    with monkeypatch.context() as patch:
        patch.setattr(Ensemble, "stream", stopping)
        for n in range(3):
            status, out, err = run(capsys, *command)
            assert (status, out) == (130, "")
            assert ("has predictions for" in err) == (n > 0)
    status, out, err = run(capsys, *command)
    assert (status, out) == (0, "")
    assert f"has predictions for {3 * 7} of 40 images" in err
    if suffix == ".csv":
        rows = list(csv.reader(io.StringIO(output.read_text())))
        assert rows[0] == ["image", "label", "probability", "cat", "dog", "tree"]
        found = {row[0]: (row[1], [float(cell) for cell in row[3:] if cell]) for row in rows[1:]}
    else:
        texts = output.read_text().splitlines() if suffix == ".jsonl" else ()
        rows = [json.loads(line) for line in texts] or pq.read_table(output).to_pylist()
        found = {row["image"]: (row["label"] or "", row["probabilities"] or []) for row in rows}
    assert len(rows) - (suffix == ".csv") == len(found) == 40
    assert found.pop(str(tmp_path / "images" / "17.png")) == ("", [])
    assert list(found) == [record["image"] for record in plain]
    for record in plain:
        label, probabilities = found[record["image"]]
        assert label == record["label"]
        np.testing.assert_allclose(probabilities, record["probabilities"], atol=1e-5)
    content = output.read_bytes()
    status, out, err = run(capsys, *command)
    assert (status, out) == (0, "")
    assert "40 of 40" in err
    assert output.read_bytes() == content


def test_predict_refuses_a_file_of_other_answers(world, tmp_path, capsys):
    task = ["predict", world / "images", "--labels", world / "labels", "-o", tmp_path / "a.csv", "--classes"]
    assert run(capsys, *task, "cat, dog")[0] == 0
    before = (tmp_path / "a.csv").read_bytes()
    assert "predictions for other classes" in fails(capsys, *task, "cat, tree")
    assert (tmp_path / "a.csv").read_bytes() == before
    task[5] = tmp_path / "a.txt"
    assert ".csv, .jsonl, .parquet" in fails(capsys, *task, "cat, dog")


def test_predict_in_another_precision(world, capsys):
    task = ["predict", world / "images", "--classes", "cat, dog", "--labels", world / "labels", "--json"]
    answers = {}
    for dtype in ("float32", "bfloat16"):
        out = run(capsys, *task, "--dtype", dtype, "--batch-size", 2)[1]
        answers[dtype] = np.array([json.loads(line)["probabilities"] for line in out.splitlines()])
    np.testing.assert_allclose(answers["bfloat16"], answers["float32"], atol=0.02)
    assert not np.array_equal(answers["bfloat16"], answers["float32"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.png", "--classes", "a, b", "--labels", "nowhere"], "nowhere.png"),
        (["a.png"], "--classes"),
        (["a.png", "--selection", "nowhere.json"], "nowhere.json"),
        (["a.png", "--selection", '{"classes": ["cat"]}' * 50], "File name too long"),
        (["a" * 300, "--classes", "a, b"], "is neither an image nor a folder"),
    ],
)
def test_predict_refuses(world, tmp_path, monkeypatch, arguments, words, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(encoded((1, 2, 3), 0))
    assert words in fails(capsys, "predict", *arguments)


def test_json_nested_too_deeply_is_one_line(world, tmp_path, capsys):
    file = tmp_path / "deep.json"
    file.write_text("[" * 100_000)
    task = ["--classes", "cat, dog", "--labels", world / "labels"]
    assert str(file) in fails(capsys, "predict", world / "images", "--selection", file)
    assert str(file) in fails(capsys, "select", "--classes", file, "--labels", world / "labels")
    assert str(file) in fails(capsys, "select", *task, "--descriptions", file)


def test_predict_refuses_a_bad_template(world, capsys):
    task = ["--classes", "cat, dog", "--labels", world / "labels"]
    assert "{}" in fails(capsys, "predict", world / "images", *task, "--template", "no place for the class")


def test_predict_refuses_a_model_that_changed(world, tmp_path, tiny_open_clip, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_open_clip, model)
    labels = tmp_path / "labels"
    assert main(["label", f"local-dir:{model}", "--graph", str(world / "graph"), "--labels", str(labels)]) == 0
    config = model / "open_clip_config.json"
    config.write_text(config.read_text() + "\n")
    task = ["--classes", "cat, dog", "--labels", labels]
    assert "label it again" in fails(capsys, "predict", world / "images", *task)


def test_a_closed_pipe_is_no_error(world):
    command = f"{sys.executable} -m mll_hf.cli labels ls --labels {world / 'labels'} | true"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert run.stderr == ""


# --- several graphs ---


def write_images(folder, color, first=0):
    folder.mkdir(parents=True)
    for n in range(5):
        (folder / f"{n}.png").write_bytes(encoded(color, first + n))
    return folder


@pytest.fixture(scope="session")
def own(world):
    """Two graphs whose parents are in the world's graph: one made concept by concept, one from a table."""
    root = world / "own"
    for id, parent, grey in (("ape", "n2", 60), ("chimp", "ape", 30), ("gibbon", "ape", 90)):
        images = write_images(root / "pictures" / id, (grey, grey, grey))
        words = ["--id", id, "--name", id, "--lemma", f"the {id}", "--description", f"a clever {id}"]
        words += ["--parent", parent, "--images", str(images), "--domain", "sketch"]
        assert main(["graph", "add", "--graph", str(root / "apes"), "--base", str(world / "graph"), *words]) == 0
    write_images(root / "pictures" / "bus", (220, 30, 30), 50)
    write_images(root / "pictures" / "tram", (30, 30, 220), 60)
    table = root / "table.csv"
    table.write_text("id,name,description,parents\nbus,bus,a long car,n5\ntram,tram,,n5\n")
    words = ["--from", str(table), "--images-root", str(root / "pictures")]
    assert main(["graph", "add", "--graph", str(root / "buses"), "--base", str(world / "graph"), *words]) == 0
    return root


@pytest.fixture(scope="session")
def on_three_graphs(world, own, tiny_open_clip, tiny_siglip, tmp_path_factory):
    """Labels of both models on the world's graph, one of them also on the two others."""
    labels = tmp_path_factory.mktemp("several") / "labels"
    shutil.copytree(world / "labels", labels)
    graphs = ["--graph", str(own / "apes"), "--graph", str(own / "buses")]
    assert main(["label", f"local-dir:{tiny_open_clip}", *graphs, "--labels", str(labels), "--keep-embeddings"]) == 0
    return labels


def test_graphs_are_shown_and_checked(world, own, capsys):
    graph = own / "apes"
    status, out, _ = run(capsys, "graph", "show", graph)
    assert status == 0
    assert out.splitlines()[0].startswith("apes: 3 concepts, 15 images, digest ")
    assert [line.split() for line in out.splitlines()[2:]] == [
        ["id", "name", "images", "parents"],
        ["ape", "ape", "15", "n2"],
        ["chimp", "chimp", "5", "ape"],
        ["gibbon", "gibbon", "5", "ape"],
    ]
    record = json.loads(run(capsys, "graph", "show", graph, "--json")[1])
    assert record["domains"] == {"sketch": 15}
    assert record["concepts"]["ape"] == {"name": "ape", "images": 15}
    status, out, _ = run(capsys, "graph", "check", graph, "--base", world / "graph", "--json")
    assert (status, json.loads(out)["digest"]) == (0, record["digest"])
    assert "no graph.json" in fails(capsys, "graph", "check", own)
    assert "unknown parents: n5" in fails(capsys, "graph", "check", own / "buses", "--base", graph)


def test_adding_again_adds_nothing(own, capsys):
    words = ["--from", own / "table.csv", "--images-root", own / "pictures", "--json"]
    status, out, _ = run(capsys, "graph", "add", "--graph", own / "buses", *words)
    assert status == 0
    assert {key: json.loads(out)[key] for key in ("new_concepts", "new_images", "concepts")} == {
        "new_concepts": 0,
        "new_images": 0,
        "concepts": 2,
    }


def test_what_graph_add_needs(world, own, tmp_path, capsys):
    def complaint(*words):
        return fails(capsys, "graph", "add", "--graph", tmp_path / "g", "--base", world / "graph", *words)

    assert "either one concept with --id" in complaint()
    assert "either one concept with --id" in complaint("--id", "x", "--from", own / "table.csv")
    words = ["--id", "x", "--name", "x", "--description", "x", "--parent", "n2", "--images", own / "pictures" / "ape"]
    for option in ("--name", "--images"):
        at = words.index(option)
        assert f"a concept needs {option}" in complaint(*words[:at], *words[at + 2 :])
    assert "unknown parents: n77" in complaint(*["n77" if word == "n2" else word for word in words])
    assert not (tmp_path / "g").exists()
    assert run(capsys, "graph", "add", "--graph", tmp_path / "g", "--base", world / "graph", *words)[0] == 0


def test_labels_on_several_graphs_are_written_and_listed(on_three_graphs, tiny_open_clip, capsys):
    status, out, _ = run(capsys, "labels", "check", on_three_graphs)
    assert (status, len(out.splitlines())) == (0, 4)
    records = json.loads(run(capsys, "labels", "ls", "--labels", on_three_graphs, "--json")[1])
    assert [record["graph"]["name"] for record in records] == ["apes", "buses", "graph", "graph"]
    header, *rows = run(capsys, "labels", "ls", "--labels", on_three_graphs)[1].splitlines()
    assert "graph" in header.split()
    assert all(str(tiny_open_clip) in row for row in rows[:2])


@pytest.mark.parametrize("strategy", ["mll", "paper", "general"])
def test_selection_joins_labels_over_graphs(on_three_graphs, world, strategy, tiny_open_clip, capsys):
    task = ["--classes", "chimp, bus, cat", "--labels", on_three_graphs]
    status, out, err = run(capsys, "select", *task, "--strategy", strategy, "--json")
    assert (status, err) == (0, "")
    selection = json.loads(out)
    assert {"chimp", "bus", "n3"} <= {c["id"] for matched in selection["matches"].values() for c in matched}
    assert len(selection["models"]) == 2
    status, out, _ = run(capsys, "predict", world / "images" / "a.png", *task, "--strategy", strategy)
    assert status == 0
    assert "a.png" in out


def test_the_reference_graph_can_be_chosen(on_three_graphs, own, tiny_open_clip, tiny_siglip, capsys):
    """Only models with a label on the reference graph are compared; the others are named, once."""
    task = ["select", "--classes", "chimp, gibbon", "--labels", on_three_graphs]
    status, out, err = run(capsys, *task, "--graph", own / "apes", "--json")
    assert status == 0
    assert [model["id"] for model in json.loads(out)["models"]] == [f"local-dir:{tiny_open_clip}"]
    assert [line for line in err.splitlines() if "left out" in line] == [
        f"mll-hf: note: left out: local-dir:{tiny_siglip} on graph graph: the model has no label on the reference "
        "graph apes"
    ]
    show = ["labels", "show", tiny_open_clip.name, "--labels", on_three_graphs, "--json"]
    assert json.loads(run(capsys, *show)[1])["graph"]["name"] == "graph"
    assert json.loads(run(capsys, *show, "--graph", own / "buses")[1])["graph"]["name"] == "buses"
    missing = fails(capsys, "labels", "show", tiny_siglip.name, "--labels", on_three_graphs, "--graph", own / "apes")
    assert f"no label of '{tiny_siglip.name}' on graph apes" in missing
    assert "it has labels on graph (images of " in missing


def test_labels_on_other_probe_images_are_left_out(world, tmp_path, tiny_open_clip, capsys):
    labels, other = tmp_path / "labels", tmp_path / "other"
    shutil.copytree(world / "labels", labels)
    write_graph(other, broken_images=1)
    (other / "graph.json").write_bytes((world / "graph" / "graph.json").read_bytes())
    assert main(["label", f"local-dir:{tiny_open_clip}", "--graph", str(other), "--labels", str(labels)]) == 0
    select = ["select", "--classes", "cat, dog", "--labels", labels, "--json"]
    status, out, err = run(capsys, *select)
    assert (status, len(json.loads(out)["models"])) == (0, 2)
    assert err.count("left out") == 1
    assert "on graph other: measured on other probe images (other) than the rest" in err
    status, out, err = run(capsys, *select, "--probes", "other")
    assert [model["id"] for model in json.loads(out)["models"]] == [f"local-dir:{tiny_open_clip}"]
    show = ["labels", "show", tiny_open_clip.name, "--labels", labels, "--json"]
    assert json.loads(run(capsys, *show)[1])["probes"]["location"] == "graph"
    assert json.loads(run(capsys, *show, "--probes", "other")[1])["probes"]["location"] == "other"


def test_a_label_on_another_graph_is_verified(on_three_graphs, own, tiny_open_clip, capsys):
    verify = ["labels", "verify", tiny_open_clip.name, "--labels", on_three_graphs, "--json", "--graph", own / "apes"]
    _, out, err = run(capsys, *verify)
    assert out, err
    assert json.loads(out)["claimed"] == json.loads(out)["measured"]
    assert len(json.loads(out)["concepts"]) == 2  # nothing contests an ape
    assert "graph is a local folder (graph); give it with --graph" in fails(capsys, *verify[:-2])


def test_the_index_of_a_folder(on_three_graphs, tmp_path, capsys):
    labels = tmp_path / "labels"
    shutil.copytree(on_three_graphs, labels)
    select = ["select", "--classes", "chimp, bus, cat", "--labels", labels, "--json"]
    before = run(capsys, *select)[1]
    assert json.loads(run(capsys, "labels", "index", "--labels", labels, "--json")[1])["read"] == 4
    assert "already up to date" in run(capsys, "labels", "index", "--labels", labels)[1]
    assert run(capsys, *select)[1] == before
    assert "only collections and folders have an index" in fails(capsys, "labels", "index", "--labels", "hub")


def test_the_parser_is_complete():
    """Every command has a function and every option a help text."""

    def leaves(parser):
        actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not actions:
            yield parser
        for action in actions:
            for child in action.choices.values():
                yield from leaves(child)

    parsers = list(leaves(build_parser()))
    assert len(parsers) == 15
    for parser in parsers:
        assert callable(parser.get_default("run"))
        assert all(action.help for action in parser._actions)
    assert build_parser("").format_help() == build_parser().format_help() == build_parser("select").format_help()
    assert build_parser("select").parse_args(["select", "--classes", "a"]).classes == "a"


@pytest.mark.parametrize(
    "more",
    [
        *(["--classes", "cat, car"], ["-k", "2"], ["--strategy", "paper"], ["--max-gflops", "3"], ["--graph", "x"]),
        *(["--probes", "x"], ["--domain", "photo"], ["--license", "mit"], ["--labels", "x"]),
    ],
)
def test_a_selection_is_not_chosen_again(world, task_images, tmp_path, capsys, more):
    choice = tmp_path / "choice.json"
    choice.write_text(run(capsys, *TASK, "--labels", world / "labels", "--json")[1])
    said = fails(capsys, "predict", task_images, "--selection", choice, *more)
    assert f"--selection sets the classes and models; leave out {more[0]}" in said


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", '{"classes": ["a"]}', "no json"])
def test_what_is_no_selection_is_said_without_python(tmp_path, task_images, capsys, content):
    (tmp_path / "choice.json").write_text(content)
    said = fails(capsys, "predict", task_images, "--selection", tmp_path / "choice.json")
    assert f"{tmp_path / 'choice.json'}" in said
    assert "this is not a selection" in said
    assert "make one with: mll-hf select --json" in said
    assert "Error" not in said
