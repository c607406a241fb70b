"""The command line itself, and the commands ``label``, ``labels`` and ``graph`` on tiny real models."""

import argparse
import json
import logging
import re
import shutil
import subprocess
import sys

import pytest

from cli_worlds import fails, run
from mll_hf.cli import build_parser, main
from mll_hf.cli.output import logged_notes, note
from mll_hf.labels.store import LabelStore


def test_misuse_exits_with_2_and_names_what_is_meant(capsys):
    for words, said in (
        (["select", "a", "--licenses", "mit"], "unrecognized arguments: --licenses mit; did you mean --license?; see: "
         "mll-hf select --help"),
        (["fit", "photos"], "the following arguments are required: --classes; see: mll-hf fit --help"),
        (["select", "a", "-k", "0"], "argument -k: 0 is less than 1; see: mll-hf select --help"),
        (["select", "a", "--max-parameters", "many"], "argument --max-parameters: 'many' is not a number such as 200M "
         "or 1.5B; see: mll-hf select --help"),
        (["predict", "x.png", "--json", "-o", "x.csv"], "argument -o/--output: not allowed with argument --json; see: "
         "mll-hf predict --help"),
        (["labels", "ls", "extra"], "unrecognized arguments: extra; see: mll-hf labels ls --help"),
        (["slect", "a"], "argument COMMAND: there is no 'slect'; did you mean select?; see: mll-hf --help"),
        (["select", "a", "--strategy", "papr"], "argument --strategy: there is no 'papr'; did you mean paper?; see: "
         "mll-hf select --help"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as exit_info:
            main(words)
        assert exit_info.value.code == 2
        assert capsys.readouterr().err == f"mll-hf: error: {said}\n"


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
    assert len(parsers) == 16
    for parser in parsers:
        assert callable(parser.get_default("run"))
        assert all(action.help for action in parser._actions)
    assert build_parser("").format_help() == build_parser().format_help() == build_parser("select").format_help()
    assert build_parser("select").parse_args(["select", "--classes", "a"]).classes == ["a"]
    options = {
        parser.prog.split()[-1]: {action.option_strings[0] for action in parser._actions if action.option_strings}
        - {"-h", "--help-all", "-q"}
        for parser in parsers
    }
    assert len(options["select"]) <= 22
    assert len(options["predict"]) <= 14
    assert len(options["label"]) <= 9
    for command in ("select", "fit"):
        usual = set(re.findall(r"^  (?:-\w, )?-[-\w]+", usual_help(command), re.MULTILINE))
        assert 4 <= len(usual) <= 8


def usual_help(command):
    return build_parser(command)._subparsers._group_actions[0].choices[command].format_help()


def test_help_shows_the_usual_options_and_all_if_asked(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["select", "--help-all"])
    assert exit_info.value.code == 0
    everything = capsys.readouterr().out
    assert "--strategy" in everything
    assert "--strategy" not in usual_help("select")
    assert "--max-gflops" in usual_help("select")


def test_notes_come_after_the_answer_and_offline_notes_are_one(capsys):
    log = logging.getLogger("mll_hf.client")
    for is_quiet in (False, True):
        with logged_notes(is_quiet, is_held=True):
            log.warning("only published figures are used: hub: the Hub cannot be reached (no route)")
            log.warning("not pinned to a commit: model 'a/b': the Hub cannot be reached (no route)")
            log.warning("licenses are missing: HF_HUB_OFFLINE is set; unset it")
            log.warning("a note")
            note("downloads 4 GB")  # at once
            print("the answer", file=sys.stderr)
        assert capsys.readouterr().err.splitlines() == (["the answer"] if is_quiet else [
            "mll-hf: note: downloads 4 GB",
            "the answer",
            "mll-hf: note: a note",
            "mll-hf: note: the Hub cannot be reached: only published figures are used; not pinned to a commit",
            "mll-hf: note: HF_HUB_OFFLINE is set: licenses are missing",
        ])  # fmt: skip


def test_a_warning_is_printed_once_and_as_a_note(capsys):
    root, handler = logging.getLogger(), logging.StreamHandler(sys.stderr)
    root.addHandler(handler)  # as open_clip does
    try:
        with logged_notes():
            logging.getLogger("mll_hf.hub.publish").warning("the graph is a local folder")
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err == "mll-hf: note: the graph is a local folder\n"


def test_a_closed_pipe_is_no_error(world):
    command = f"{sys.executable} -m mll_hf labels ls --labels {world / 'labels'} | true"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert run.stderr == ""


# --- label ---


def test_a_failing_model_does_not_stop_the_rest(world, tmp_path, tiny_open_clip, capsys):
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    corrupt = shutil.copytree(tiny_open_clip, tmp_path / "corrupt")
    weights = corrupt / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    wrong = [f"local-dir:{tmp_path / 'pickled'}", f"local-dir:{corrupt}", str(tmp_path)]
    command = ["label", *wrong, f"local-dir:{tiny_open_clip}", "--graph", world / "graph", "--labels", tmp_path / "l"]
    assert "/nowhere: there is no such folder" in fails(
        capsys, "label", "local-dir:/nowhere", *command[1:]
    )  # before any work
    status, out, err = run(capsys, *command, "--json")
    errors = [line for line in err.splitlines() if line.startswith("mll-hf: error: ")]
    assert status == 1
    assert len(errors) == 3
    assert all(spec in line for spec, line in zip(wrong, errors, strict=True))
    assert "pickle" in errors[0]
    assert errors[2].endswith(f"for a folder write local-dir:{tmp_path}")
    assert "Traceback" not in err
    assert "3 of 4 labels failed" in err
    assert [json.loads(line)["repo_id"] for line in out.splitlines()] == [f"local-dir:{tiny_open_clip}"]


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
    assert "recall, icon" in out
    status, out, _ = run(
        capsys, "labels", "show", f"local-dir:{tiny_open_clip}", "--labels", world / "labels", "--json"
    )
    assert json.loads(out)["domains"] == ["icon", "photo"]
    assert "labels ls" in fails(capsys, "labels", "show", "nobody", "--labels", world / "labels")
    assert "has no labels" in fails(capsys, "labels", "ls", "--labels", world / "images")


def test_check(world, tmp_path, capsys):
    label = LabelStore(world / "labels").paths()[0]
    assert run(capsys, "labels", "check", label)[0] == 0
    status, out, _ = run(capsys, "labels", "check", world / "labels", "--json")
    assert status == 0
    assert len(out.splitlines()) == 2
    truncated = tmp_path / "label.safetensors"
    truncated.write_bytes(label.read_bytes()[:-7])
    assert str(truncated) in fails(capsys, "labels", "check", truncated)
    assert "has no labels" in fails(capsys, "labels", "check", world / "images")
    assert "cannot be read" in fails(capsys, "labels", "check", tmp_path / "none")


# --- several graphs ---


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


def test_a_graph_of_a_folder_per_concept(world, own, tmp_path, capsys):
    make = ["graph", "make", own / "roads", "--to", tmp_path / "g", "--base", world / "graph", "--parent"]
    assert "unknown parents: n77" in fails(capsys, *make, "n77")
    assert not (tmp_path / "g").exists()
    status, out, _ = run(capsys, *make, "n5", "--json")
    assert (status, json.loads(out)["concepts"], json.loads(out)["images"]) == (0, 2, 10)
    assert "holds another graph" in fails(capsys, *make, "n2")


def test_the_reference_graph_can_be_chosen(on_three_graphs, own, tiny_open_clip, tiny_siglip, capsys):
    """Only models with a label on the reference graph are compared; the others are named, once."""
    task = ["select", "--classes", "chimp, gibbon", "--labels", on_three_graphs]
    status, out, err = run(capsys, *task, "--graph", own / "apes", "--json")
    assert status == 0
    assert [model["id"] for model in json.loads(out)["models"]] == [f"local-dir:{tiny_open_clip}"]
    assert [line for line in err.splitlines() if "left out" in line] == [
        f"mll-hf: note: left out: {tiny_siglip.name} on graph graph: the model has no label on the reference graph apes"
    ]
    show = ["labels", "show", tiny_open_clip.name, "--labels", on_three_graphs, "--json"]
    assert json.loads(run(capsys, *show)[1])["graph"]["name"] == "graph"
    assert json.loads(run(capsys, *show, "--graph", own / "buses")[1])["graph"]["name"] == "buses"
    missing = run(capsys, "labels", "show", tiny_siglip.name, "--labels", on_three_graphs, "--graph", own / "apes")[2]
    assert f"no label of '{tiny_siglip.name}' on graph apes" in missing
    assert "it has labels on graph (images of " in missing
