"""The release: a workflow that nobody runs here, so what it names must exist; and a program of a user."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from mll_hf import __version__

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
JOBS = WORKFLOW["jobs"]


def test_every_script_exists_and_can_be_run():
    commands = " ".join(step.get("run", "") for job in JOBS.values() for step in job["steps"])
    scripts = set(re.findall(r"\bscripts/[\w.]+", commands))
    assert scripts == {"scripts/check", "scripts/check_wheel.py", "scripts/test", "scripts/test_oldest"}
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts if not script.endswith(".py"))


def test_it_tests_every_python_that_the_package_names():
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    named = re.findall(r"Python :: (3\.\d+)", " ".join(classifiers))
    assert JOBS["test"]["strategy"]["matrix"]["python"] == named
    assert JOBS["wheel"]["strategy"]["matrix"]["python"] == [named[0], named[-1]]


def test_only_a_tag_is_published_after_the_tests_and_no_job_may_do_more_than_it_must():
    assert WORKFLOW["permissions"] == {}
    assert {name: job["permissions"] for name, job in JOBS.items()} == {
        "test": {"contents": "read"},
        "build": {"contents": "read"},
        "wheel": {"contents": "read"},
        "publish": {"id-token": "write"},
    }
    assert [JOBS[name]["needs"] for name in ("build", "wheel", "publish")] == ["test", "build", ["build", "wheel"]]
    assert "startsWith(github.ref, 'refs/tags/v')" in JOBS["publish"]["if"]
    assert JOBS["publish"]["environment"] == "pypi"


def test_actions_are_pinned():
    used = [step["uses"] for job in JOBS.values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w/-]+@(v\d+|release/v\d+|[0-9a-f]{40})", name) for name in used)


def test_the_program_of_a_user_runs():
    """scripts/check_wheel.py runs it from the wheel, and checks its types."""
    program = [sys.executable, str(ROOT / "tests" / "user_program.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(program, capture_output=True, text=True, env=environment, check=True)
    answer, cheaper, matters, model = done.stdout.splitlines()
    assert re.match(r"Use \S+/\S+ \(\S+ [MB] parameters\): ", answer)
    assert cheaper.endswith(".")
    assert matters.endswith(".")
    assert re.fullmatch(r"\S+/\S+: \d+ M parameters, (mit|apache-2.0)", model)


def test_a_release_has_its_notes():
    """The changelog has a section for what is not released yet or for the version of the package."""
    sections = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert sections[0] in ("Unreleased", __version__)
