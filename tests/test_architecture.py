"""The structure that the README promises: one direction of imports, and nothing heavy before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mll_hf

PACKAGE = Path(mll_hf.__file__).parent
# Each room may import only from those above it, see mll_hf/README.md.
ORDER = [
    "utils",
    "graph",
    "labels",
    "matching",
    "hub",
    "models",
    "selection",
    "ensemble",
    "labeling",
    "harvest",
    "client",
    "bench",
    "plots",
    "cli",
]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path: Path) -> str:
    """Room of a file: ``selection`` for ``selection/paper.py``."""
    return room_of(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))


def room_of(name: str) -> str:
    """The room of a top-level name; errors share that of what they are told with."""
    return "utils" if name == "errors" else name


def imported_modules(path: Path) -> set[str]:
    """Top-level modules of this package that a file imports anywhere, type-only imports included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "mll_hf":
            names |= {f"mll_hf.{alias.name}" for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {room_of(name.split(".")[1]) for name in names if name and name.startswith("mll_hf.")}


def test_every_module_has_its_place():
    assert {module_of(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    module = module_of(path)
    allowed = set(ORDER[: ORDER.index(module) + 1])
    assert imported_modules(path) <= allowed


def test_the_import_check_can_fail(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("from mll_hf.cli import main\nimport mll_hf.client\nfrom mll_hf import describe\n")
    assert imported_modules(file) == {"cli", "client", "describe"}


HEAVY = [
    "torch",
    "transformers",
    "sentence_transformers",
    "open_clip",
    "datasets",
    "matplotlib",
    "plotly",
    "pyarrow",
    "PIL",
]


@pytest.mark.parametrize(
    "statement", ["import mll_hf", "from mll_hf import Client, Selection, SelectionConfig, Strategy, Rule, MLLError"]
)
def test_nothing_heavy_at_import(statement):
    code = f"import sys; {statement}; print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_command_line_starts_without_torch():
    code = f"import sys, mll_hf.cli as c; c.build_parser(); print([m for m in {HEAVY} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_public_names_exist():
    for name in mll_hf.__all__:
        assert getattr(mll_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mll_hf.nonsense
