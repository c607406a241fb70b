"""READMEs and the notebook: what they show is what happens, what they name exists, and the first page is short."""

from __future__ import annotations

import ast
import csv
import importlib
import json
import os
import re
import shlex
import tomllib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from mll_hf.cli import build_parser, main
from mll_hf.ensemble.rules import Rule
from mll_hf.models.known import usable_models
from mll_hf.selection import Strategy
from worlds import picture

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
FOLDERS = ("", "mll_hf/", "scripts/", "scripts/benchmark/results/", "scripts/demo_world/", "spaces/*/")
PAGES = [*sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}README.md")), ROOT / "CONTRIBUTING.md"]
NOTEBOOK = json.loads((ROOT / "scripts" / "first_steps.ipynb").read_text())
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")


def blocks(text, language):
    return [content for found, content in FENCE.findall(text) if found == language]


def commands_of(path):
    """The commands of a page: lines of its bash blocks, and spans of code in its text."""
    text = path.read_text()
    lines = [line.strip() for block in blocks(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    spans = [" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", text))]
    return [line for line in lines if line and not line.startswith("#")] + spans


def words_of(command):
    """A command's words, without its comment, variables set for it, and where its output goes."""
    words = shlex.split(command, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words[: words.index(">")] if ">" in words else words


def test_the_map_has_a_row_for_each_strategy_and_rule():
    text = (ROOT / "mll_hf" / "README.md").read_text()
    section = text[text.index("## Strategies and rules") : text.index("A label is one safetensors file")]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in row}
    assert named - {"strategy", "rule"} == {*map(str, Strategy), *map(str, Rule)}


def test_no_text_names_a_repo_that_a_stranger_could_register():
    """Placeholders have characters that names of repos cannot have: $ORG/NAME, <you>/pipes."""
    sources = (path for folder in ("mll_hf", "scripts", "spaces") for path in (ROOT / folder).rglob("*.py"))
    pages = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "scripts" / "first_steps.ipynb", *sources]
    placeholder = re.compile(r"(?<![\w.$<-])((?:ORG|my-org|your-\w+|org|my|me)/(?!name\b|graph\b)[A-Za-z][\w-]+)")
    assert not {(path.name, found) for path in pages for found in placeholder.findall(path.read_text("utf-8"))}


COMMANDS = [
    pytest.param(command, id=f"{path.relative_to(ROOT)}-{command[:50]}")
    for path in PAGES
    for command in commands_of(path)
    if re.match(r"([A-Z_]+=\S+ )*(mll-hf |python scripts/|python -m mll_hf|scripts/\w+( |$))", command)
]


def test_the_first_page_is_short():
    lines = README.splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("mll-hf "))
    assert len(lines) <= 130
    assert len(re.findall(r"!\[", README)) == 2
    assert first < 7


def test_answers_are_those_shown(capsys):
    shown = re.findall(r"```bash\n([^`]+)```\n\n```\n([^`]+)```", README)
    assert len(shown) == 1
    for block, answer in shown:
        assert main(words_of(block.splitlines()[-1])[1:]) == 0
        assert capsys.readouterr().out.startswith(answer)


def test_numbers_are_those_of_the_data_and_of_the_committed_results():
    assert f"about {len(usable_models())} models" in README
    assert f"ImageNet accuracies of {len(usable_models())} models" in (ROOT / "mll_hf" / "README.md").read_text()
    benchmarks = ROOT / "scripts" / "benchmark" / "results"
    fit = (benchmarks / "fit.md").read_text()
    rows = re.findall(r"^\| (.+) \| (\.\d+) \| (\.\d+) \|$", README, re.MULTILINE)
    assert len(rows) == 4
    for row, before, after in rows:
        title = "WHU-RS19: models fitted together" if "aerial" in row else "Food-10: models fitted alone"
        unlabeled, with_class = [*re.findall(r"\d+", row), "0"][:2]
        found = f"| balanced | {unlabeled} + {with_class} | 0{before} | 0{after} |"
        assert found in fit.partition(f"## {title}\n")[2].partition("\n## ")[0]
    by_prompts = (benchmarks / "real" / "published.md").read_text().split("## ")
    (real,) = (part for part in by_prompts if part.startswith("Accuracy by hub, prompts `ensemble`"))
    row = next(row for row in real.splitlines() if row.startswith("| all 21 "))
    for figure in (".776", ".531", ".782"):
        assert figure in README
        assert any(abs(float(found) - float(figure)) < 0.00051 for found in re.findall(r"\b0\.\d+", row)), figure


def test_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"`(\w+)`", README.partition("Extras: ")[2].partition("take them elsewhere")[0])
    assert len(named) == 5
    assert set(named) < set(extras)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command, capsys):
    words = words_of(command)
    if words[0] != "mll-hf":
        return check_script(words)
    if not set("-.:/").intersection("".join(words[1:])) and "..." not in command:  # only named, without arguments
        words.append("--help")
    try:
        build_parser().parse_args(words[1:])
    except SystemExit as stop:
        if stop.code:
            pytest.fail(capsys.readouterr().err)
    return None


def check_script(words):
    """The script exists, can be run, and takes these options."""
    name, *options = words[1:] if words[0] == "python" else words
    script = ROOT / name
    assert script.is_file()
    if words[0] != "python":
        assert os.access(script, os.X_OK)
    if "def build_parser()" in (text := script.read_text()):
        importlib.import_module(
            ".".join(script.relative_to(ROOT / "scripts").with_suffix("").parts)
        ).build_parser().parse_args(options)
        return
    if name == "scripts/run_benchmark.py":  # each verb has a file
        text += "".join(part.read_text() for part in (script.parent / "benchmark").glob("*.py"))
    program = {"scripts/demo": "demo_world/run.py", "scripts/live_check": "live_check.py"}.get(name)
    text += (ROOT / "scripts" / program).read_text() if program else ""
    for option in options:
        assert not option.startswith("--") or option in text, f"{name} has no {option}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), f"{link} does not exist"
        assert not anchor or anchor in anchors_of(there), f"{link}: no such heading"
    for script in set(re.findall(r"`(scripts/[\w/.]+)`", text)):
        assert (ROOT / script).exists(), f"{script} does not exist"


def anchors_of(path):
    """Anchors of a page's headings, as the Hub and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- with models: every known model is on the Hub, as a tiny one ------------------------------------------------------


@pytest.fixture
def world(hub, tiny_open_clip, tmp_path, monkeypatch):
    """A folder with the files that the page names, and the known models on the Hub."""
    files = {file.name: file.read_bytes() for file in tiny_open_clip.iterdir()}
    for model in usable_models():
        hub.put("model", model.hub_id, {**files, "README.md": f"---\nlicense: {model.license}\n---\n".encode()})
    for folder, count in (("photos", 20), ("more-photos", 3)):
        (tmp_path / folder).mkdir()
        for n in range(count):
            Image.fromarray(np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                tmp_path / folder / f"{n}.png"
            )
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(picture(3))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_models_are_fitted_and_classify(world, monkeypatch, capsys):
    (block,) = (block for block in blocks(README, "bash") if "mll-hf fit" in block)
    _, fit, predict = block.splitlines()
    monkeypatch.setattr("sys.stdin", mock.Mock(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(words_of(fit)[1:]) == 0
    assert "the trial downloads at most" in capsys.readouterr().err
    for _ in range(2):  # the same command goes on
        assert main(words_of(predict)[1:]) == 0
    with (world / "answers.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    assert [Path(answer["image"]).name for answer in answers] == ["0.png", "1.png", "2.png"]
    assert {answer["label"] for answer in answers} <= {"golden retriever", "tabby cat", "fire truck"}


def test_python_runs_as_shown(world, capsys):
    space = {}
    for block in blocks(README, "python"):
        exec(block.replace("<you>", "alice"), space)  # the tests' user is alice
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["Use", "As"]
    assert "MatchedConcept" in lines[2]
    assert len(ast.literal_eval(lines[3])) == 2
    assert {answer["label"] for answer in ast.literal_eval(lines[4])} == {"corroded pipe", "intact pipe", "weld"}
    assert sum(bool(line) for block in blocks(README, "python") for line in block.splitlines()) == 10


def cells(*tags):
    """Source and stored outputs of the notebook's code cells with exactly these tags."""
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    return [("".join(c["source"]), c["outputs"]) for c in code if c["metadata"].get("tags", []) == list(tags)]


def test_the_notebook_runs_from_top_to_bottom(world, capsys):
    space = {}
    for source, outputs in cells():
        exec(source, space)
        assert capsys.readouterr().out == "".join(line for output in outputs for line in output["text"])
    for source, outputs in cells("hub"):  # whose outputs depend on the images
        exec(source, space)
        assert not outputs
    assert "'score'" in capsys.readouterr().out
    assert [source.split()[0] for source, _ in cells("install")] == ["%pip"]
    assert len(cells()) == 5
    assert len(cells("hub")) == 3
