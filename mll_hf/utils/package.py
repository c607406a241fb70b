"""Where this package can be installed from.

The distribution is not on PyPI, and nobody of this project holds its name there. So no text and no job may install it
by its bare name: whoever registers the name would run code with the user's token.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

DISTRIBUTION = "mll-hf"  # [project] name in pyproject.toml
PROJECT_URL = ""  # [project.urls] Repository in pyproject.toml; empty until the code has a public home
SPACE_VARIABLE = "MLL_HF_SPACE"  # address of a running Space mll_select
PACKAGE_VARIABLE = "MLL_HF_PACKAGE"
_CHECKOUT = Path(__file__).resolve().parents[2]


def library_in_markdown() -> str:
    """The library's name for cards, with a link if the project has a home."""
    return f"[`{DISTRIBUTION}`]({PROJECT_URL})" if PROJECT_URL else f"`{DISTRIBUTION}`"


def page_of_model(repo_id: str) -> str | None:
    """Address of a model's page in the Space that ``$MLL_HF_SPACE`` names; None if it names no web address."""
    space = os.environ.get(SPACE_VARIABLE, "").strip().rstrip("/")
    is_address = re.fullmatch(r"https?://[\w.:/-]+", space, re.ASCII)
    return f"{space}?model={quote(repo_id, safe='')}" if is_address else None


def package_source() -> str | None:
    """Where to install this package from: a wheel's path, a URL, or a name on a registry that the user trusts.

    Returns:
        ``$MLL_HF_PACKAGE``, or the newest wheel in ``dist/`` of the checkout that runs; None if there is neither.
    """
    if named := os.environ.get(PACKAGE_VARIABLE, "").strip():
        return named
    is_checkout = (_CHECKOUT / "pyproject.toml").is_file()
    wheels = list(_CHECKOUT.glob("dist/mll_hf-*.whl")) if is_checkout else []
    return str(max(wheels, key=lambda wheel: wheel.stat().st_mtime)) if wheels else None


def wheel_of(source: str) -> Path | None:
    """The file of a source that is a wheel on this machine."""
    return Path(source) if source.endswith(".whl") and "://" not in source else None


def requirement(source: str, extra: str = "") -> str:
    """A source as a requirement of pip and uv: ``mll-hf[models] @ https://...``.

    Args:
        source: From `package_source`.
        extra: One extra or several, separated by commas.
    """
    extras = f"[{extra}]" if extra else ""
    wheel = wheel_of(source)
    if wheel or "://" in source:
        return f"{DISTRIBUTION}{extras} @ {wheel.absolute().as_uri() if wheel else source}"
    name, version = re.fullmatch(r"([\w.-]*)(.*)", source, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{name}{extras}{version}"


def install_command(extra: str) -> str:
    """How a user installs an extra of this package."""
    if source := package_source():
        return f"pip install '{requirement(source, extra)}'"
    return f"pip install '.[{extra}]' in a clone of {PROJECT_URL or 'the project'}"
