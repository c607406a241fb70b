"""The release workflow: a file that nobody runs here, so what it names must exist."""

import os
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
JOBS = WORKFLOW["jobs"]


def test_every_script_exists_and_can_be_run():
    commands = " ".join(step.get("run", "") for job in JOBS.values() for step in job["steps"])
    scripts = re.findall(r"\bscripts/\w+", commands)
    assert set(scripts) == {"scripts/check", "scripts/test"}
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)


def test_it_tests_every_python_that_the_package_names():
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    named = re.findall(r"Python :: (3\.\d+)", " ".join(classifiers))
    assert JOBS["test"]["strategy"]["matrix"]["python"] == named


def test_only_a_tag_is_published_after_the_tests_and_no_job_may_do_more_than_it_must():
    assert WORKFLOW["permissions"] == {}
    assert {name: job["permissions"] for name, job in JOBS.items()} == {
        "test": {"contents": "read"},
        "build": {"contents": "read"},
        "publish": {"id-token": "write"},
    }
    assert (JOBS["build"]["needs"], JOBS["publish"]["needs"]) == ("test", "build")
    assert "startsWith(github.ref, 'refs/tags/v')" in JOBS["publish"]["if"]
    assert JOBS["publish"]["environment"] == "pypi"


def test_actions_are_pinned():
    used = [step["uses"] for job in JOBS.values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w/-]+@(v\d+|release/v\d+|[0-9a-f]{40})", name) for name in used)
