"""Publish a Space on the Hub: its folder, with requirements that name the source of this package.

    python -m build --wheel && python scripts/push_space.py mll_select OWNER/NAME
    MLL_HF_PACKAGE=URL python scripts/push_space.py mll_autolabel OWNER/NAME

The package is not on a package registry. A Space installs $MLL_HF_PACKAGE (a URL, a wheel or a name that you trust), or
else the newest wheel in dist/; a wheel is uploaded beside the app. A second run publishes only changed files.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, constants

from command_line import script_parser
from mll_hf.errors import InputError, MLLError
from mll_hf.hub.connection import connect, hub_errors
from package_source import DISTRIBUTION, PACKAGE_VARIABLE, package_source, requirement, wheel_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SPACES = Path(__file__).resolve().parents[1] / "spaces"
_PACKAGE_LINE = re.compile(rf"^{DISTRIBUTION}\[([\w,]+)\] @ \$\{{{PACKAGE_VARIABLE}\}}$", re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    parser = script_parser(str(__doc__))
    parser.add_argument("space", choices=sorted(path.name for path in SPACES.iterdir()), help="folder in spaces/")
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the Space; created if it does not exist")
    args = parser.parse_args(arguments)
    try:
        print(push(SPACES / args.space, args.repo_id))
    except MLLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def push(folder: Path, repo_id: str) -> str:
    """Publish a Space in one commit; returns its URL.

    Raises:
        InputError: The source of the package is unknown, or is a wheel and the Space is private.
        HubError: The Hub refuses.
    """
    source = package_source()
    if not source:
        raise InputError(
            f"{DISTRIBUTION} is not on a package registry; build a wheel with 'python -m build --wheel', or set "
            f"{PACKAGE_VARIABLE}"
        )
    files, api = files_of(folder, repo_id, source), connect()
    with hub_errors(repo_id):
        url = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", exist_ok=True)
        if wheel_of(source) and api.space_info(repo_id).private:
            raise InputError(f"{repo_id} is private, so its wheel has no public URL; set {PACKAGE_VARIABLE} to one")
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        api.create_commit(repo_id, operations, commit_message=f"Publish {folder.name}", repo_type="space")
    return str(url)


def files_of(folder: Path, repo_id: str, source: str) -> Mapping[str, bytes]:
    """The files of a Space; its requirements name the source of this package, and a wheel is added to the files.

    Raises:
        InputError: The wheel cannot be read.
    """
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}
    if wheel := wheel_of(source):
        try:
            files[wheel.name] = wheel.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read the wheel {wheel}: {error.strerror}; correct {PACKAGE_VARIABLE}") from None
        source = f"{constants.ENDPOINT}/spaces/{repo_id}/resolve/main/{wheel.name}"
    template = files["requirements.txt"].decode()
    files["requirements.txt"] = _PACKAGE_LINE.sub(lambda line: requirement(source, line[1]), template).encode()
    return files


if __name__ == "__main__":
    sys.exit(main())
