"""The structure that mll_hf/README.md promises: one direction of imports, and nothing heavy before it is needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mll_hf

PACKAGE = Path(mll_hf.__file__).parent
FILES = sorted({*PACKAGE.rglob("*.py")} - {PACKAGE / "__init__.py", PACKAGE / "__main__.py"})


# Methods that users expect on a public class, and that work further down: they import it when they are called.
DOWNWARDS = {"selection.result": {"selection.repo", "selection.json_format"}}


def read_map() -> list[str]:
    """Modules in the order of the table in README.md, such as ``utils.text``; a room's ``__init__`` is the room."""
    order = []
    table = (PACKAGE / "README.md").read_text().partition("\n| room |")[2].partition("\n\n")[0]
    for room, files in re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE):
        names = [name for name in re.findall(r"`([\w./]+)`", files) if not name.endswith(".py")]
        special = {"errors": "errors", "__init__": room}
        order += [special.get(name, f"{room}.{name}") for name in names]
        order += [room] if room not in order else []
    return order


ORDER = read_map()


def module_of(name: str) -> str:
    """The entry of the map for a dotted name below ``mll_hf``; a package stands for its ``__init__`` or a folder."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        if (module := ".".join(parts[:n])) in ORDER:
            return module
    raise LookupError(f"{name} is not in mll_hf/README.md")


def name_of(path: Path) -> str:
    """Dotted name of a file: ``selection.paper``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part not in ("__init__", "__main__"))


def imported_modules(path: Path) -> set[str]:
    """Modules of this package that a file imports anywhere, type-only imports included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix("mll_hf.") for name in names if name.startswith("mll_hf.")}
    return {module_of(name) for name in inside if name != "__version__"}


def test_every_file_is_on_the_map_and_the_map_has_no_other():
    assert len(set(ORDER)) == len(ORDER)
    there = {name_of(path) for path in FILES}
    assert {module_of(name) for name in there} == set(ORDER)
    for name in there:
        assert name in ORDER or module_of(name).count(".") == 1, f"{name} is not in mll_hf/README.md"


def test_imports_go_one_way():
    for path in FILES:
        module = module_of(name_of(path))
        downwards = {name for name in imported_modules(path) if ORDER.index(name) > ORDER.index(module)}
        assert downwards == DOWNWARDS.get(module, set()), path


def test_downward_imports_wait_for_a_call():
    code = "import sys, mll_hf.selection.result; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mll_hf.selection.repo" not in run.stdout.split()


def test_no_file_is_longer_than_a_person_reads_at_once():
    assert [path for path in FILES if len(path.read_text().splitlines()) > 400] == []


HEAVY = [
    "torch",
    "transformers",
    "sentence_transformers",
    "open_clip",
    "datasets",
    "matplotlib",
    "pyarrow",
    "PIL",
]


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("from mll_hf import Client, MLLError, Label, Rule, Selection, SelectionConfig, Strategy, pipeline", HEAVY),
        ("import mll_hf.cli as c; c.build_parser()", [*HEAVY, "huggingface_hub.hf_api", "tokenizers"]),
        ("import mll_hf.cli as c; c.build_parser('')", ["numpy", "mll_hf.client"]),
    ],
    ids=["package", "command line", "help"],
)
def test_nothing_heavy_at_import(statement, heavy):
    code = f"import sys; {statement}; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_public_names_exist():
    for name in mll_hf.__all__:
        assert getattr(mll_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mll_hf.nonsense
