"""Where the package comes from: never from a name on a registry that nobody of us holds."""

import os
import re
import tomllib
from pathlib import Path

import pytest

import package_source as package
from mll_hf.errors import MissingExtraError
from package_source import DISTRIBUTION, PACKAGE_VARIABLE, package_source, requirement

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty checkout instead of this one."""
    monkeypatch.delenv(PACKAGE_VARIABLE, raising=False)
    monkeypatch.setattr(package, "_CHECKOUT", tmp_path)
    (tmp_path / "dist").mkdir()
    return tmp_path


def test_name_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION


NAME = rf"{DISTRIBUTION}(\[[\w,]*\])?"
BY_NAME = re.compile(
    rf"""(pip install|--with)\s+['"]?{NAME}(?!\[| @)"""  # a command
    rf"""|^['"\s]*{NAME}['",\s]*$"""  # a line of requirements
    rf"""|dependencies = .*{DISTRIBUTION}""",  # the header of a script
    re.MULTILINE,
)


@pytest.mark.parametrize("folder", ["mll_hf", "scripts", "spaces", ".github"])
def test_nothing_installs_the_name_from_a_registry(folder):
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".txt", ".yml", ".md", "")]
    texts = {path: path.read_text() for path in files if path.is_file()}
    assert texts
    assert [(path.name, match[0]) for path, text in texts.items() if (match := BY_NAME.search(text))] == []


def test_the_newest_wheel_of_the_checkout_is_the_source(checkout, monkeypatch):
    assert package_source() is None
    for number, name in enumerate(("mll_hf-2.0-py3-none-any.whl", "mll_hf-1.0-py3-none-any.whl", "other-1.whl")):
        (checkout / "dist" / name).touch()
        os.utime(checkout / "dist" / name, (number, number))
    assert package_source() == str(checkout / "dist" / "mll_hf-1.0-py3-none-any.whl")
    monkeypatch.setenv(PACKAGE_VARIABLE, " https://example.com/x.whl ")
    assert package_source() == "https://example.com/x.whl"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "https://example.com/mll_hf-1-py3-none-any.whl",
            "mll-hf[a,b] @ https://example.com/mll_hf-1-py3-none-any.whl",
        ),
        ("https://me:hf_secret@example.com/x.whl?token=1", "mll-hf[a,b] @ https://example.com/x.whl"),
        ("git+https://example.com/x@0123abc", "mll-hf[a,b] @ git+https://example.com/x@0123abc"),
        ("/my dist/mll_hf-1-py3-none-any.whl", "mll-hf[a,b] @ file:///my%20dist/mll_hf-1-py3-none-any.whl"),
        ("our-mll", "our-mll[a,b]"),
        ("our-mll==1.0", "our-mll[a,b]==1.0"),
    ],
)
def test_wheels_urls_and_names_are_requirements(source, expected):
    assert requirement(source, "a,b") == expected
    assert requirement(source) == expected.replace("[a,b]", "")


def test_what_is_missing_is_installed_from_a_clone():
    text = "this needs the package 'wn'; install it with: pip install '.[build]' in a clone of the project"
    assert str(MissingExtraError("wn", "build")) == text
